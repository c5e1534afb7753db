"""Predicted responses behind :func:`sclm.tl.perturb`: profiles, baselines, scores, plausibility."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse
from tqdm import tqdm

from sclm import models
from sclm.cells import Cells, log_normalise, read_cells
from sclm.cells.columns import move_columns
from sclm.evidence import PlausibilityGuard, judge_profiles
from sclm.metrics import perturbation as metrics
from sclm.models.perturbations import Perturbed, name_of, parts_of, read_perturbations, standing

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata

    from sclm.cells import CellSource, GeneMatch

logger = logging.getLogger(__name__)

BASELINES = ("no-change", "mean-response", "matching-response", "additive-response", "ridge-response")
RIDGE_ON_MODEL = "ridge-response on the model's gene embeddings"
_TOGETHER = 16  # perturbations a call of the model, for the progress bar
_JUDGED = 200  # control cells that each prediction moves for the guard
_GUARDED = 40  # cells that the guard needs to learn what is usual
_SCORED = 10  # measured cells from which on a perturbation is scored


def predict(
    adata: anndata.AnnData,
    source: CellSource,
    model: Any,
    match: GeneMatch,
    asked: Sequence[str | Sequence[str]] | None,
    *,
    perturbation_key: str | None,
    control: str | None,
    layer: str | None,
    gene_key: str | None,
    n_cells: int | None,
    seed: int,
) -> dict[str, Any]:
    """Facts for the record of :func:`sclm.tl.perturb`."""
    if perturbation_key is None and control is not None:
        raise ValueError(f"control={control!r} needs perturbation_key=, the column of .obs with the perturbations.")
    groups = _asked(asked, model, control)
    names = [name_of(group) for group in groups]
    perturbed = Perturbed((), np.full(source.n_cells, -1))
    if perturbation_key is not None:
        perturbed = read_perturbations(source.obs[perturbation_key], control, perturbation_key)
    rng = np.random.default_rng(seed)
    controls = np.flatnonzero(perturbed.codes == -1)
    chosen = controls
    if n_cells is not None and len(controls) > n_cells:
        chosen = np.sort(rng.choice(controls, n_cells, replace=False))
    cells = source.read(chosen)
    if not cells.counts.nnz:
        raise ValueError(f"the {len(chosen)} control cells have no counts.")

    parts = []
    with tqdm(total=len(groups), desc="perturb", unit=" perturbations", delay=2, leave=False) as bar:
        for i in range(0, len(groups), _TOGETHER):
            parts.append(model.respond(cells, groups[i : i + _TOGETHER], seed=seed))
            bar.update(len(parts[-1]))
    predicted = pd.concat(parts)
    target, predicted = _genes(source, match, model, predicted)

    known = bool(model.trained_perturbations)  # published checkpoints do not say what they were trained on
    trained = np.isin(perturbed.names, model.trained_perturbations) if known else ~np.isin(perturbed.names, names)
    within, trained = _paired_within(adata, perturbed, trained, model)
    learn = None
    if trained.any():
        used = np.concatenate([trained, [False, True]])[perturbed.codes]  # codes -2: without a label, -1: control
        columns = [str(perturbation_key), *([within] if within else [])]
        learn = read_cells(adata[used], layer=layer, gene_key=gene_key, obs_keys=columns)
    fitting = {"perturbation_key": perturbation_key, "control": control, **({"batch_key": within} if within else {})}
    baselines = _baselines(learn, fitting, model, cells, groups, target)
    start = baselines["no-change"].iloc[0].to_numpy(dtype=np.float64)
    facts: dict[str, Any] = {
        "how": "response",
        "perturbations": names,
        "genes": list(predicted.columns),
        "predicted": predicted.to_numpy(dtype=np.float32),
        "control": start.astype(np.float32),
        "baselines": {name: table.to_numpy(dtype=np.float32) for name, table in baselines.items()},
        "baselines_from": {
            "rule": ("trained on" if known else "measured and not asked for")
            if trained.any()
            else "no perturbed cells",
            "perturbations": [name for name, used in zip(perturbed.names, trained, strict=True) if used],
            "paired_within": within or "",
        },
        "n_control_cells": len(chosen),
    }
    measured = {name: int((perturbed.codes == i).sum()) for i, name in enumerate(perturbed.names)}
    facts["facts"] = pd.DataFrame(
        {
            "perturbation": names,
            "standing": standing(groups, model.trained_perturbations) if known else ["unknown"] * len(groups),
            "n_cells_measured": [measured.get(name, 0) for name in names],
        }
    )
    new = facts["facts"]["standing"].isin(["unseen", "partly seen"])
    if new.any():
        logger.warning(
            "%d of %d perturbations hold genes that the model has not seen perturbed: their profiles are extrapolations.",
            int(new.sum()), len(names),
        )  # fmt: skip
    scores = _scores(source, perturbed, target, predicted, baselines, start)
    if scores is not None:
        facts["scores"] = _with_standing(scores, facts["facts"])
    judged = _plausibility(source, perturbed, trained, chosen, target, predicted, start, rng, seed)
    if judged is not None:
        facts["plausibility"] = judged
        suspect = judged.loc[judged["suspect"], "perturbation"].tolist()
        if suspect:
            logger.warning(
                "cells moved as predicted are implausible more often than real control cells for %d of %d perturbations: %s%s.",
                len(suspect), len(names), ", ".join(suspect[:5]), ", …" if len(suspect) > 5 else "",
            )  # fmt: skip
    return facts


def _asked(asked: Sequence[str | Sequence[str]] | None, model: Any, control: str | None) -> list[tuple[str, ...]]:
    """Genes of each perturbation, each once, in the order of the list."""
    if asked is None and not model.trained_perturbations:
        raise ValueError("perturbations= must name what to predict: this model does not say what it was trained on.")
    groups = [parts_of(p, control) for p in (model.trained_perturbations if asked is None else asked)]
    if not all(groups):
        raise ValueError(f"each perturbation must name its genes, found {list(asked or [])[groups.index(())]!r}.")
    return list(dict.fromkeys(groups))


def _genes(
    source: CellSource, match: GeneMatch, model: Any, predicted: pd.DataFrame
) -> tuple[np.ndarray, pd.DataFrame]:
    """For each data gene its column of the table, -1 where it has none; the table of the genes that the data hold."""
    tokens = np.asarray(model.vocabulary.tokens, dtype=object)
    names = np.where(match.ids >= 0, tokens[match.ids], None)
    place = {str(name): i for i, name in enumerate(predicted.columns)}
    column = np.array([-1 if name is None else place.get(str(name), -1) for name in names], dtype=np.int64)
    used = np.unique(column[column >= 0])
    if not len(used):
        raise ValueError("none of the genes that the model predicts is in the data.")
    new = np.full(len(place), -1, dtype=np.int64)
    new[used] = np.arange(len(used))
    return np.where(column >= 0, new[column], -1), predicted.iloc[:, used]


def _in(cells: Cells, target: np.ndarray, names: list[str]) -> Cells:
    """The cells in the genes of the table."""
    return Cells(move_columns(cells.counts, target, len(names)), pd.Index(names), cells.obs)


def _baselines(
    learn: CellSource | None,
    fitting: dict[str, Any],
    model: Any,
    cells: Cells,
    groups: list[tuple[str, ...]],
    target: np.ndarray,
) -> dict[str, pd.DataFrame]:
    """Predictions of the baselines, learnt on cells that are no part of what is asked, as the model was."""
    n_genes = int(target.max()) + 1
    if learn is None:
        logger.warning(
            "no cell of a perturbation that %s is here: of the baselines only 'no-change' can be given. "
            "Pass perturbation_key= and control= with %s to have the others.",
            *(("the model was trained on", "the training cells") if model.trained_perturbations else ("was not asked for", "other perturbed cells")),
        )  # fmt: skip
        profile = log_normalise(cells.counts).astype(np.float64)
        start = np.zeros(n_genes)
        np.add.at(start, target[target >= 0], np.asarray(profile.mean(axis=0)).ravel()[target >= 0])
        rows = pd.DataFrame(np.tile(start, (len(groups), 1)), index=[name_of(g) for g in groups])
        return {"no-change": rows}
    wanted: list[tuple[str, str, dict[str, Any]]] = [(name, name, {}) for name in BASELINES]
    if hasattr(model, "gene_embeddings"):
        wanted.append((RIDGE_ON_MODEL, "ridge-response", {"gene_embeddings": model.gene_embeddings()}))
    found = {}
    for name, family, options in wanted:
        cls: Any = models.family_class(family)
        baseline = cls.fit(learn, **fitting, **options)
        table = baseline.respond(cells, groups)
        out = np.zeros((n_genes, len(groups)))
        np.add.at(out, target[target >= 0], table.to_numpy(dtype=np.float64).T[target >= 0])
        found[name] = pd.DataFrame(out.T, index=table.index)
    return found


def _paired_within(
    adata: anndata.AnnData, perturbed: Perturbed, trained: np.ndarray, model: Any
) -> tuple[str | None, np.ndarray]:
    """The column within whose batches the baselines compare, as the model did; of the perturbations, those that this leaves."""
    column = model.paired_within
    if column is None or not trained.any():
        return None, trained
    if column not in adata.obs:
        logger.warning(
            "the model compared cells within batches of %r, which is no column of adata.obs: the baselines compare over all cells.",
            column,
        )
        return None, trained
    batches = adata.obs[column].astype(str).to_numpy()
    able = np.isin(batches, batches[perturbed.codes == -1]) & (perturbed.codes >= 0)
    reached = np.bincount(perturbed.codes[able], minlength=len(perturbed.names)) > 0
    if (trained & ~reached).any():
        logger.warning(
            "%d perturbations have no cells in a batch of %r with control cells: the baselines learn without them.",
            int((trained & ~reached).sum()), column,
        )  # fmt: skip
    return column, trained & reached


def _with_standing(scores: pd.DataFrame, facts: pd.DataFrame) -> pd.DataFrame:
    """Scores with what training has seen of each perturbation; says where that makes them no test."""
    places = facts.set_index("perturbation")["standing"]
    scores.insert(2, "standing", places.loc[scores["perturbation"]].to_numpy())
    once = scores.drop_duplicates("perturbation")["standing"]
    if (once == "seen").any():
        logger.warning(
            "%d of %d perturbations that are scored were seen in training: their scores say how well they were learnt, and nothing of "
            "predictions. Average those of one standing.", int((once == "seen").sum()), len(once),
        )  # fmt: skip
    if (once == "unknown").any():
        logger.warning(
            "the model does not say what it was trained on: perturbations that are scored may have been seen in its training."
        )
    return scores


def _scores(
    source: CellSource,
    perturbed: Perturbed,
    target: np.ndarray,
    predicted: pd.DataFrame,
    baselines: dict[str, pd.DataFrame],
    start: np.ndarray,
) -> pd.DataFrame | None:
    """Every prediction against the measured profiles, where there are any."""
    rows = {name: np.flatnonzero(perturbed.codes == i) for i, name in enumerate(perturbed.names)}
    scored = [name for name in predicted.index if len(rows.get(name, ())) >= _SCORED]
    if not scored:
        return None
    names = list(map(str, predicted.columns))
    controls = np.flatnonzero(perturbed.codes == -1)
    blocks, codes = [], []
    for code, here in ((-1, controls), *((i, rows[name]) for i, name in enumerate(scored))):
        blocks.append(log_normalise(source.read(here).counts))
        codes.append(np.full(len(here), code))
    lognormal = sparse.vstack(blocks, format="csr")
    place = sparse.csr_matrix(
        (np.ones((target >= 0).sum()), (np.flatnonzero(target >= 0), target[target >= 0])), (len(target), len(names))
    )
    values, of = sparse.csr_matrix(lognormal @ place), np.concatenate(codes)
    observed = np.array([np.asarray(values[of == i].mean(axis=0)).ravel() for i in range(len(scored))])
    every = {"model": predicted, **baselines}
    tables = {method: table.loc[scored].to_numpy(dtype=np.float64) for method, table in every.items()}
    return metrics.compare(
        tables,
        pd.DataFrame(observed, index=scored, columns=names),
        start,
        scores=metrics.differential_scores(values, of),
    )


def _plausibility(
    source: CellSource,
    perturbed: Perturbed,
    trained: np.ndarray,
    controls: np.ndarray,
    target: np.ndarray,
    predicted: pd.DataFrame,
    start: np.ndarray,
    rng: np.random.Generator,
    seed: int,
) -> pd.DataFrame | None:
    """Control cells moved as predicted, judged by a guard that has seen the other control cells and the trained perturbations."""
    judged = np.sort(rng.permutation(controls)[: min(_JUDGED, len(controls) // 2)])
    seen = np.concatenate([trained, [False, True]])[perturbed.codes]
    seen[judged] = False
    rest = np.flatnonzero(seen)
    if len(rest) < _GUARDED or not len(judged):
        logger.warning(
            "%d cells are too few to learn what is usual (%d are needed): the predictions are not judged by the plausibility guard.",
            len(rest), _GUARDED,
        )  # fmt: skip
        return None
    names = list(map(str, predicted.columns))
    # Control and perturbed, not a group each perturbation: marks of two perturbations do meet where both are predicted together.
    groups = (perturbed.codes[rest] >= 0).astype(np.int64)
    cells = _in(source.read(rest), target, names)
    guard = PlausibilityGuard.fit([cells], groups, n_groups=2, genes=cells.genes)
    checked = _in(source.read(judged), target, names)
    return judge_profiles(guard, checked, start, predicted.to_numpy(), list(predicted.index), seed=seed)
