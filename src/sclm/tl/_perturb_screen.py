"""The screen behind :func:`sclm.tl.perturb`: genes, their null, their effects."""

from __future__ import annotations

import difflib
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from tqdm import tqdm

from sclm.cells import log_normalise
from sclm.cells.columns import move_columns
from sclm.evidence import GeneNull, benjamini_hochberg, matched_genes
from sclm.evidence.nulls import MIN_NULL
from sclm.knowledge import GeneIdentifiers, transcription_factors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sclm.cells import Cells, CellSource, GeneMatch

logger = logging.getLogger(__name__)

_LEAST_CELLS = 10  # that express a gene: the mean shift of fewer is mostly noise
_TOGETHER = 3  # cells that express all genes of a random combination
_NEAR = 10  # candidates that a random combination draws each of its genes from
START, GOAL = "start", "goal"


class Genes(NamedTuple):
    """What the chosen cells hold of the genes that the model knows; G tokens of its vocabulary."""

    name: np.ndarray  # (G,) object: name in the data, None where the data lack the gene
    expressed: sp.csc_matrix  # (n, G): which cells express it
    n_expressing: np.ndarray  # (G,) number of them
    detection: np.ndarray  # (G,) share of them
    expression: np.ndarray  # (G,) mean log-normalised value in these
    least: int  # cells that must express a gene of the default list or of the null

    def together(self, group: Sequence[int]) -> int:
        """Number of cells that express all of some genes."""
        found = self.expressed[:, [group[0]]]
        for gene in group[1:]:
            found = found.multiply(self.expressed[:, [gene]])
        return int(found.nnz)

    def common(self) -> np.ndarray:
        """Genes of the data that enough cells express, ascending."""
        known = np.array([n is not None for n in self.name])
        return np.flatnonzero(known & (self.n_expressing >= self.least))


def screen(
    source: CellSource,
    model: Any,
    match: GeneMatch,
    asked: Sequence[str | Sequence[str]] | None,
    *,
    kind: str,
    n_null: int,
    state_key: str | None,
    start: str | None,
    goal: str | None,
    hidden_layer: int | None,
    pooling: str | None,
    n_cells: int | None,
    seed: int,
) -> dict[str, Any]:
    """Facts for the record of :func:`sclm.tl.perturb`: ``effects``, ``null``, ``states`` and what was looked at."""
    if isinstance(n_null, bool) or not isinstance(n_null, int) or n_null < MIN_NULL:
        raise ValueError(
            f"n_null must be a whole number of at least {MIN_NULL}, found {n_null!r}: an effect means nothing without "
            "what random genes do."
        )
    rng = np.random.default_rng(seed)
    rows = _states(source, state_key, start, goal, n_cells, rng)
    cells = source.read(rows[START])
    genes = _look(cells, match, model)
    listed = _listed(asked, genes, model)
    null = _null(listed, genes, n_null, seed)

    space = {"hidden_layer": hidden_layer, "pooling": pooling}
    states = {}
    if goal is not None:
        for state in (START, GOAL):
            vectors = model.embed(cells if state == START else source.read(rows[state]), **space, seed=seed)
            if not np.isfinite(vectors).all(axis=1).any():
                raise ValueError(f"no cell of the {state} state expresses a gene of the model.")
            states[state] = np.nanmean(vectors, axis=0)

    groups = [*listed, *null]
    names = [tuple(model.vocabulary.tokens[i] for i in group) for group in groups]
    with tqdm(total=len(groups), desc="perturb", unit=" perturbations", delay=2, leave=False) as bar:
        moved = model.perturb(cells, names, kind=kind, states=states or None, **space, seed=seed, progress=bar.update)
    table = _table(groups, genes, moved, bool(states))
    effects, null_table = _test(table.iloc[: len(listed)], table.iloc[len(listed) :], bool(states))
    nowhere = effects["n_cells"] == 0
    if nowhere.all():
        raise ValueError(
            f"none of the {len(effects)} perturbations applies to any of the {cells.n_cells} cells that are perturbed: no cell expresses "
            "all genes of one. Choose other genes or cells, or kind='overexpress'."
        )
    if nowhere.any():
        shown = ", ".join(effects.loc[nowhere, "perturbation"].head(5))
        logger.warning("%d perturbations apply to no cell and have no effect: %s.", int(nowhere.sum()), shown)
    order = effects.sort_values("goal_z" if states else "z", ascending=False, kind="stable", na_position="last")
    facts: dict[str, Any] = {
        "effects": order.reset_index(drop=True),
        "null": null_table.reset_index(drop=True),
        "n_cells": int(cells.n_cells),
        "how": "encoder",
    }
    if state_key is not None and start is not None:
        facts["states"] = {START: str(start), "n_start": len(rows[START])}
        if goal is not None:
            facts["states"] |= {GOAL: str(goal), "n_goal": len(rows[GOAL])}
    return facts


def _states(
    source: CellSource,
    state_key: str | None,
    start: str | None,
    goal: str | None,
    n_cells: int | None,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Rows of the cells to perturb, and of the goal where there is one, ascending."""
    if goal is not None and start is None:
        raise ValueError(f"goal={goal!r} needs start=, the state that the cells come from.")
    if start is not None and state_key is None:
        raise ValueError(f"start={start!r} needs state_key=, the column of .obs with the states.")
    if state_key is not None and start is None:
        raise ValueError(f"state_key={state_key!r} needs start=, the state whose cells are perturbed.")
    if start is not None and str(start) == str(goal):
        raise ValueError(f"start and goal must be two states, found {start!r} twice.")

    def draw(state: str | None) -> np.ndarray:
        here = np.arange(source.n_cells)
        if state is not None:
            labels = source.obs[state_key].astype(object)
            there = sorted({str(v) for v in labels.dropna()})
            if str(state) not in there:
                near = difflib.get_close_matches(str(state), there, n=3) or there[:10]
                raise ValueError(
                    f"{state!r} is no state in adata.obs[{state_key!r}]; there are {', '.join(map(repr, near))}."
                )
            here = np.flatnonzero((labels.astype(str) == str(state)).to_numpy() & labels.notna().to_numpy())
        if n_cells is not None and len(here) > n_cells:
            here = np.sort(rng.choice(here, n_cells, replace=False))
        return here

    rows = {START: draw(start)}
    if goal is not None:
        rows[GOAL] = draw(goal)
    return rows


def _look(cells: Cells, match: GeneMatch, model: Any) -> Genes:
    """Detection and expression of every gene of the model in the cells."""
    n_tokens = len(model.vocabulary)
    counts = move_columns(cells.counts, match.ids, n_tokens)
    values = log_normalise(counts)
    n_expressing = np.bincount(counts.indices, minlength=n_tokens)
    total = np.asarray(values.sum(axis=0), dtype=np.float64).ravel()
    name = np.full(n_tokens, None, dtype=object)
    for column in np.flatnonzero(match.ids >= 0)[::-1]:  # the first of several columns names the gene
        name[match.ids[column]] = str(cells.genes[column])
    least = max(3, min(_LEAST_CELLS, int(np.ceil(cells.n_cells / 20))))
    if cells.n_cells < 3:
        raise ValueError(f"at least 3 cells are needed for a screen, found {cells.n_cells}.")
    mean = total / np.maximum(n_expressing, 1)
    return Genes(name, sp.csc_matrix(counts > 0), n_expressing, n_expressing / cells.n_cells, mean, least)


def _listed(asked: Sequence[str | Sequence[str]] | None, genes: Genes, model: Any) -> list[tuple[int, ...]]:
    """Token ids of each perturbation, each once, in the order of the list."""
    if asked is None:
        common = genes.common()
        symbols = GeneIdentifiers.load("human").to_symbol([genes.name[i] for i in common])
        factors = transcription_factors()
        found: list[tuple[int, ...]] = [
            (int(i),) for i, symbol in zip(common, symbols, strict=True) if symbol in factors
        ]
        if not found:
            raise ValueError(
                f"no transcription factor is expressed by at least {genes.least} of the {genes.expressed.shape[0]} cells. Pass "
                "perturbations=, the genes to perturb."
            )
        return found
    split = [p.split("+") if isinstance(p, str) else list(p) for p in asked]
    parts = [[str(gene).strip() for gene in group] for group in split]
    if empty := [asked[i] for i, group in enumerate(parts) if not all(group) or not group]:
        raise ValueError(f"each perturbation must name its genes, found {empty[0]!r}.")
    names = list(dict.fromkeys(gene for group in parts for gene in group))
    ids = dict(zip(names, model.find(names).ids.tolist(), strict=True))
    if unknown := [name for name in names if ids[name] < 0]:
        near = difflib.get_close_matches(unknown[0], [n for n in genes.name if n is not None], n=3)
        hint = f" Near {unknown[0]!r}: {', '.join(map(repr, near))}." if near else ""
        raise KeyError(
            f"The model does not know {', '.join(map(repr, unknown[:5]))}"
            f"{f' and {len(unknown) - 5} more' if len(unknown) > 5 else ''}.{hint} Leave them out or check their names."
        )
    for name in names:  # by the user's word for it, also where the data lack it
        genes.name[ids[name]] = name
    return list(dict.fromkeys(tuple(sorted({ids[gene] for gene in group})) for group in parts))


def _null(listed: list[tuple[int, ...]], genes: Genes, n_null: int, seed: int) -> list[tuple[int, ...]]:
    """Random genes outside the list, as abundant as those on it; for combinations of each size random combinations."""
    features = np.column_stack([genes.detection, genes.expression])
    members = np.unique([i for group in listed for i in group])
    candidates = np.setdiff1d(genes.common(), members)
    if len(candidates) < MIN_NULL:
        raise ValueError(
            f"a null needs at least {MIN_NULL} genes outside the list that {genes.least} cells express, found {len(candidates)}. "
            "Screen fewer genes, or pass more cells or genes."
        )
    null: list[tuple[int, ...]] = []
    rng = np.random.default_rng(seed)
    for size in sorted({len(group) for group in listed}):
        own = [group for group in listed if len(group) == size]
        if size == 1:
            taken = matched_genes(features, [g[0] for g in own], candidates, n_null, seed=seed)
            if len(taken) < n_null:
                logger.warning(
                    "only %d genes outside the list can serve as the null, %d were asked for.", len(taken), n_null
                )
            null += [(int(i),) for i in taken]
            continue
        scale = np.maximum(features[candidates].std(axis=0), 1e-12)
        found: dict[tuple[int, ...], None] = {}
        for attempt in range(20 * n_null):
            group = own[attempt % len(own)]
            drawn: list[int] = []
            for gene in group:
                distance = (((features[candidates] - features[gene]) / scale) ** 2).sum(axis=1)
                near = candidates[np.argsort(distance, kind="stable")[: _NEAR + size]]
                drawn.append(int(rng.choice([i for i in near if i not in drawn])))
            if genes.together(drawn) >= _TOGETHER:
                found[tuple(sorted(drawn))] = None
            if len(found) == n_null:
                break
        if len(found) < MIN_NULL:
            raise ValueError(
                f"only {len(found)} random combinations of {size} genes could be drawn, {MIN_NULL} are needed."
            )
        null += list(found)
    return null


def _table(groups: list[tuple[int, ...]], genes: Genes, moved: pd.DataFrame, goal: bool) -> pd.DataFrame:
    """One row a perturbation: abundance, number of cells, mean shifts."""
    together = [genes.together(group) / genes.expressed.shape[0] for group in groups]
    table = pd.DataFrame(
        {
            "perturbation": ["+".join(sorted(str(genes.name[i]) for i in group)) for group in groups],
            "n_genes": [len(group) for group in groups],
            "n_cells": 0,
            "detection": together,
            "expression": [float(np.mean(genes.expression[list(group)])) for group in groups],
        }
    )
    mean = moved.groupby("perturbation").mean().reindex(range(len(groups)))
    counted = moved["shift"].notna().groupby(moved["perturbation"]).sum().reindex(range(len(groups)), fill_value=0)
    table["n_cells"] = counted.to_numpy(dtype=np.int64)
    table["effect"] = mean["shift"].to_numpy(dtype=np.float64)
    if goal:
        for state in (START, GOAL):
            table[f"towards_{state}"] = mean[f"towards:{state}"].to_numpy(dtype=np.float64)
        table["goal_shift"] = table[f"towards_{GOAL}"] - table[f"towards_{START}"]
    return table


def _test(effects: pd.DataFrame, null: pd.DataFrame, goal: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables with their null, z and p; q over the list."""
    effects, null = effects.copy(), null.copy()
    tests = [("", "effect", "greater")] + ([("goal_", "goal_shift", "two-sided")] if goal else [])
    for prefix, column, alternative in tests:
        for name in ("null_mean", "null_sd", "z", "p"):
            effects[prefix + name] = np.nan
        null[f"{prefix}z"] = np.nan
        for size in effects["n_genes"].unique():
            own, other = effects["n_genes"] == size, null["n_genes"] == size
            features = ["detection", "expression"]
            fitted = GeneNull(null.loc[other, column], null.loc[other, features])
            answer = fitted.test(effects.loc[own, column], effects.loc[own, features], alternative=alternative)
            for name, values in zip(("null_mean", "null_sd", "z", "p"), answer, strict=True):
                effects.loc[own, prefix + name] = values
            null.loc[other, f"{prefix}z"] = fitted.null_z
        effects[f"{prefix}q"] = benjamini_hochberg(effects[f"{prefix}p"])
        effects.loc[effects[column].isna(), [f"{prefix}null_mean", f"{prefix}null_sd"]] = np.nan
    return effects, null
