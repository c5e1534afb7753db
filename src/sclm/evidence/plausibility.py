"""A guard against invented biology: is a predicted cell one that the training data could have held?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from sclm.evidence.bands import DepthBand, Tails
from sclm.evidence.figures import CHECKS, FLOOR, SUMMED, cell_figures, mitochondrial_genes
from sclm.evidence.markers import exclusive_pairs, marker_genes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sclm.cells import Cells

_FOLDS = 4  # markers learnt on three quarters of the cells are judged on the fourth
_KEPT = 20_000  # training cells kept over all groups: the 0.5 % tails then rest on 100 cells each
_KEPT_GROUP = (40, 2_000)  # bounds of what a group keeps
_WARN = 3.0  # times the share of training cells


class PlausibilityGuard:
    r"""Compares predicted cells with the training cells of their condition; made by :meth:`fit` or :meth:`from_arrays`.

    Five figures a cell, each with the values that are usual in its group at its depth (median and spread, shrunk to the
    whole where a group has few cells; a spline of log10 library size, with robust weights):

    - ``library_size``: log10 of all counts.
    - ``zero_fraction``: log10 of the number of expressed genes, given library size.
    - ``markers``: mean log-normalised expression of the group's ten clearest markers, given library size. A cell without a
      group, or of a group without markers, is compared with every group and judged by the one that it fits best.
    - ``exclusive_markers``: number of pairs of genes expressed together that training cells hardly ever express together
      (twenty markers a group, at most six partners a gene), given library size; too many only.
    - ``mitochondrial``: arcsine of the square root of the share of mitochondrial counts, given library size.

    A figure's distance from the usual value, in spreads, becomes a tail probability among training cells, two-sided except
    for ``exclusive_markers``. Markers and pairs were learnt on three quarters of the training cells and these probabilities
    on the fourth, in turn, so that a share ``rate`` of new real cells is flagged by each check. A check that cannot be made
    (no markers, no exclusive pairs, no mitochondrial genes) flags nothing.

    What it cannot see: genes outside the markers, and whether a group's cells differ from each other as real ones do.
    """

    def __init__(self, genes: pd.Index, arrays: Mapping[str, np.ndarray]) -> None:
        self.genes = pd.Index(genes)
        self._arrays = {name: np.asarray(value) for name, value in arrays.items()}
        self._bands: dict[tuple[str, str], DepthBand] = {}
        self._tails: dict[tuple[str, str], Tails] = {}
        for scope in ("group", "whole"):
            for check in CHECKS:
                band, tails = (self._part(f"{check}.{scope}.{kind}") for kind in ("band", "tails"))
                if band:
                    self._bands[check, scope] = DepthBand(*band)
                if tails:
                    self._tails[check, scope] = Tails(*tails)

    @property
    def rate(self) -> float:
        """Share of real cells that each check flags, as asked for in :meth:`fit`."""
        return float(self._arrays["rate"][0])

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return len(self._arrays["markers"])

    @property
    def checks(self) -> tuple[str, ...]:
        """The checks that can be made with these training cells."""
        return tuple(check for check in CHECKS if (check, "whole") in self._tails)

    @property
    def training_rate(self) -> float:
        """Share of training cells that at least one check flags, judged by what was learnt without them."""
        return float(self._arrays["training_rates"][-1, -1])

    def markers(self, group: int) -> list[str]:
        """Names of a group's ten clearest marker genes, best first; empty where it has none."""
        row = self._arrays["markers"][group, :SUMMED]
        return [str(gene) for gene in self.genes[row[row >= 0]]]

    def exclusive_pairs(self) -> list[tuple[str, str]]:
        """Names of the genes that training cells hardly ever express together."""
        first, second = self._arrays["pairs"].T
        return [(str(a), str(b)) for a, b in zip(self.genes[first], self.genes[second], strict=True)]

    @classmethod
    def fit(
        cls,
        blocks: Iterable[Cells] | Callable[[], Iterable[Cells]],
        groups: np.ndarray,
        *,
        n_groups: int,
        genes: Sequence[str] | pd.Index,
        rate: float = 0.01,
    ) -> PlausibilityGuard:
        """Learn what is usual from training cells, in one pass.

        Parameters
        ----------
        blocks
            Blocks of training cells in order, or a function that yields them. Of large groups a bounded number of cells,
            evenly spread, is kept in memory (20,000 over all groups).
        groups
            (n_cells,) integer codes in [0, n_groups): the condition of each cell, such as its type.
        n_groups
            Number of groups; some may be empty.
        genes
            Names of the blocks' columns: symbols, or Ensembl ids (whose mitochondrial genes are known for human).
        rate
            Share of real cells that each check may flag, in (0, 0.2].

        Returns
        -------
        The guard.

        Raises
        ------
        ValueError
            If codes, genes or the number of cells do not fit each other, or there are fewer than 20 cells with counts.
        """
        groups = _codes(groups, n_groups, lowest=0)
        if not 0 < rate <= 0.2:
            raise ValueError(f"rate must lie in (0, 0.2], found {rate}. Use e.g. 0.01 for 1 % of real cells a check.")
        genes = pd.Index(genes)
        kept = _spread_out(groups, n_groups)
        parts, start = [], 0
        for cells in blocks() if callable(blocks) else blocks:
            _require_genes(cells, genes)
            stop = start + cells.n_cells
            parts.append(cells.counts[np.flatnonzero(kept[start:stop])])
            start = stop
        if start != len(groups):
            raise ValueError(
                f"blocks must hold one cell a code: found {start} cells and {len(groups)} codes in groups."
            )
        counts, codes = sp.vstack(parts, format="csr"), groups[kept]
        filled = np.diff(counts.indptr) > 0
        counts, codes = counts[filled], codes[filled]
        if len(codes) < 20:
            raise ValueError(
                f"At least 20 training cells with counts are needed to know what is usual, found {len(codes)}."
            )

        mitochondrial = mitochondrial_genes(genes)
        arrays = {"rate": np.array([rate]), **_learn(counts, codes, n_groups, mitochondrial)}
        own_markers = np.isin(codes, np.flatnonzero(arrays["markers"][:, 0] >= 0))
        z: dict[str, dict[str, np.ndarray]] = {"group": {}, "whole": {}}  # of cells by what was learnt without them
        fold = _ordinal(codes, n_groups)[0] % _FOLDS
        for i in range(_FOLDS):
            train, test = fold != i, np.flatnonzero(fold == i)
            part = cls(genes, _learn(counts[train], codes[train], n_groups, mitochondrial))
            for scope, of in (("group", codes[test]), ("whole", np.full(len(test), -1))):
                for check, figure in part._standardised(counts[test], of).items():
                    z[scope].setdefault(check, np.full(len(codes), np.nan))[test] = figure
        for scope, figures in z.items():
            for check, figure in figures.items():
                asked = own_markers if (check, scope) == ("markers", "group") else np.ones(len(codes), bool)
                judged = asked & np.isfinite(figure)
                # A check that only some folds could make rests on too little to be made at all.
                if f"{check}.group.band.knots" in arrays and judged.sum() > asked.sum() / 2:
                    tails = Tails.fit(figure[judged])._asdict()
                    arrays |= {f"{check}.{scope}.tails.{name}": value for name, value in tails.items()}
        if "markers" in z["group"]:
            z["group"]["markers"] = np.where(own_markers, z["group"]["markers"], z["whole"]["markers"])

        guard = cls(genes, arrays)
        whole = np.full(len(codes), -1)
        ps = {scope: guard._probabilities(z[scope], of) for scope, of in (("group", codes), ("whole", whole))}
        for scope, p in ps.items():
            arrays |= {f"least.{scope}.{name}": v for name, v in Tails.fit(np.log(p.min(axis=1)))._asdict().items()}
        flags = ps["group"] < rate  # (n, n_checks)
        flags = np.column_stack([flags, flags.any(axis=1)]).astype(np.float64)
        rates = [flags[codes == g].mean(axis=0) if (codes == g).any() else np.full(6, np.nan) for g in range(n_groups)]
        arrays["training_rates"] = np.array([*rates, flags.mean(axis=0)])  # (n_groups + 1, n_checks + 1)
        return cls(genes, arrays)

    def check(self, cells: Cells, groups: np.ndarray) -> pd.DataFrame:
        """Judge cells.

        Parameters
        ----------
        cells
            Raw counts of the genes that the guard was fitted on, in their order.
        groups
            (n_cells,) integer codes: the condition that each cell is meant to have, -1 for judged against the whole.

        Returns
        -------
        One row a cell: bool columns ``library_size``, ``zero_fraction``, ``markers``, ``exclusive_markers``,
        ``mitochondrial`` (True: implausible) and ``implausible`` (any of them), and ``plausibility``, float64 in [0, 1]: the
        share of training cells whose most unusual figure is at least as unusual, so that real cells spread evenly from 0
        to 1.

        Raises
        ------
        ValueError
            If the genes are others, or a code is unknown.
        """
        _require_genes(cells, self.genes)
        groups = _codes(groups, self.n_groups, lowest=-1)
        if len(groups) != cells.n_cells:
            raise ValueError(f"groups must hold one code a cell: found {len(groups)} codes for {cells.n_cells} cells.")
        p = self._probabilities(self._standardised(cells.counts, groups), groups)
        flags = p < self.rate
        flags = np.column_stack([flags, flags.any(axis=1)])
        table = pd.DataFrame(flags, columns=[*CHECKS, "implausible"], index=cells.obs.index)
        least, plausibility = np.log(np.maximum(p.min(axis=1), 1e-300)), np.ones(cells.n_cells)
        for scope, mine in (("group", groups >= 0), ("whole", groups < 0)):
            plausibility[mine] = Tails(*self._part(f"least.{scope}")).lower(least[mine])
        table["plausibility"] = plausibility
        return table

    def summary(self, table: pd.DataFrame, groups: np.ndarray, names: Sequence[str]) -> pd.DataFrame:
        """Share of implausible cells in each group, beside that of training cells.

        Parameters
        ----------
        table
            As :meth:`check` gives it.
        groups
            The codes that were passed to it.
        names
            Names of the groups, n_groups of them.

        Returns
        -------
        One row a group that has cells, in the order of the codes, then ``"(whole)"`` for cells with code -1 and ``"all"``:
        ``group``, ``n_cells``, a share for each check and for ``implausible``, and the same of training cells as
        ``<check>_training`` (NaN where a group had none; for ``"(whole)"`` and ``"all"`` that of all training cells).
        """
        groups = _codes(groups, self.n_groups, lowest=-1)
        if len(names) != self.n_groups or len(groups) != len(table):
            raise ValueError(
                f"Expected {self.n_groups} names and {len(table)} codes, found {len(names)} and {len(groups)}."
            )
        columns = [*CHECKS, "implausible"]
        rows: list[dict[str, Any]] = []
        codes = [int(g) for g in np.unique(groups[groups >= 0])]
        sets = [(str(names[g]), groups == g, g) for g in codes]
        sets += [("(whole)", groups < 0, -1)] if (groups < 0).any() else []
        for name, mine, row in [*sets, ("all", np.ones(len(table), bool), -1)]:
            shares = table[columns].to_numpy(dtype=np.float64)[mine]
            share = shares.mean(axis=0) if len(shares) else np.full(len(columns), np.nan)
            beside = dict(zip((f"{c}_training" for c in columns), self._arrays["training_rates"][row], strict=True))
            rows.append({"group": name, "n_cells": int(mine.sum()), **dict(zip(columns, share, strict=True)), **beside})
        return pd.DataFrame(rows)

    def warn(self, rate: float, n_cells: int | None = None) -> str | None:
        """A sentence when more cells are implausible than real cells would be, else None.

        Parameters
        ----------
        rate
            Share of cells with ``implausible``, in [0, 1].
        n_cells
            Number of cells that it is a share of. The share must then also lie above what chance gives in one of a hundred
            samples of real cells of this size.

        Returns
        -------
        The sentence, when ``rate`` is above three times :attr:`training_rate`.
        """
        from scipy.stats import binom

        usual = max(self.training_rate, self.rate)
        limit = min(_WARN * usual, 0.5)
        if n_cells is not None:
            limit = max(limit, float(binom.ppf(0.99, n_cells, usual)) / max(n_cells, 1))
        if not rate > limit:
            return None
        return (
            f"{rate:.1%} of the cells are implausible, against {self.training_rate:.1%} of real training cells. "
            "The columns of the single checks say why; leave flagged cells out, or read what rests on them with care."
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything learnt as numeric arrays, for a checkpoint; the genes are stored by their owner."""
        return {name: value.copy() for name, value in self._arrays.items()}

    @classmethod
    def from_arrays(cls, genes: Sequence[str] | pd.Index, arrays: Mapping[str, np.ndarray]) -> PlausibilityGuard:
        """The guard that :meth:`arrays` came from; ``genes`` as in :meth:`fit`."""
        missing = [name for name in ("rate", "markers", "pairs", "training_rates") if name not in arrays]
        if missing:
            raise ValueError(f"No arrays of a plausibility guard: {', '.join(missing)} missing of {len(arrays)} found.")
        return cls(pd.Index(genes), arrays)

    def _part(self, name: str) -> list[np.ndarray]:
        """The arrays of a band or of tails, in the order of its fields; empty where it was not learnt."""
        fields = Tails._fields if name.endswith("tails") or name.startswith("least") else DepthBand._fields
        return [self._arrays[f"{name}.{field}"] for field in fields if f"{name}.{field}" in self._arrays]

    def _standardised(self, counts: sp.csr_matrix, groups: np.ndarray) -> dict[str, np.ndarray]:
        """Distance of each figure from its usual value in spreads, (n,) a check; NaN where it cannot be judged."""
        values, depth = cell_figures(counts, self._arrays)
        out = {}
        known = groups >= 0
        for check, y in values.items():
            z = np.full(len(depth), np.nan)
            band = self._bands[check, "group"]
            x = np.zeros_like(depth) if check == "library_size" else depth
            if check == "markers":
                able = np.flatnonzero(self._arrays["markers"][:, 0] >= 0)
                own = known & np.isin(groups, able)
                z[own] = band.standardise(y[own, groups[own]], x[own], groups[own])
                best = np.full((~own).sum(), np.inf)
                for g in able:
                    other = band.standardise(y[~own, g], x[~own], np.full(len(best), g))
                    best = np.where(np.abs(other) < np.abs(best), other, best)
                z[~own] = best
            else:
                z[known] = band.standardise(y[known], x[known], groups[known])
                rest = np.zeros((~known).sum(), dtype=np.int64)
                z[~known] = self._bands[check, "whole"].standardise(y[~known], x[~known], rest)
            out[check] = z
        return out

    def _probabilities(self, z: Mapping[str, np.ndarray], groups: np.ndarray) -> np.ndarray:
        """(n, n_checks) tail probabilities among training cells, 1 where a check cannot be made."""
        p = np.ones((len(groups), len(CHECKS)))
        able = np.flatnonzero(self._arrays["markers"][:, 0] >= 0)
        for i, check in enumerate(CHECKS):
            whole = ~np.isin(groups, able) if check == "markers" else groups < 0
            for scope, mine in (("group", ~whole), ("whole", whole)):
                if check in z and (check, scope) in self._tails:
                    tails = self._tails[check, scope]
                    figure = z[check][mine]
                    tail = tails.upper(figure) if check == "exclusive_markers" else tails.both(figure)
                    p[mine, i] = np.where(np.isfinite(figure), tail, 1.0)
        return p


def _learn(
    counts: sp.csr_matrix, groups: np.ndarray, n_groups: int, mitochondrial: np.ndarray
) -> dict[str, np.ndarray]:
    """Markers, pairs and usual values, from these cells."""
    markers = marker_genes(counts, groups, n_groups)
    arrays = {
        "markers": markers,
        "pairs": exclusive_pairs(counts, groups, markers),
        "mitochondrial": mitochondrial,
    }
    figures, depth = cell_figures(counts, arrays)
    whole = np.zeros_like(groups)
    for check, y in figures.items():
        x = np.zeros_like(depth) if check == "library_size" else depth
        fits = {}
        if check == "markers":
            own = np.flatnonzero(markers[groups, 0] >= 0)
            fits["group"] = DepthBand.fit(y[own, groups[own]], x[own], groups[own], n_groups, floor=FLOOR[check])
        else:
            fits["group"] = DepthBand.fit(y, x, groups, n_groups, floor=FLOOR[check])
            fits["whole"] = DepthBand.fit(y, x, whole, 1, floor=FLOOR[check])
        for scope, band in fits.items():
            arrays |= {f"{check}.{scope}.band.{name}": value for name, value in band._asdict().items()}
    return arrays


def _ordinal(groups: np.ndarray, n_groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Position of each cell among those of its group, and the sizes of the groups."""
    order = np.argsort(groups, kind="stable")
    size = np.bincount(groups, minlength=n_groups)
    ordinal = np.empty(len(groups), dtype=np.int64)
    ordinal[order] = np.arange(len(groups)) - np.repeat(np.cumsum(size) - size, size)
    return ordinal, size


def _spread_out(groups: np.ndarray, n_groups: int) -> np.ndarray:
    """(n_cells,) bool: the cells that are kept, evenly spread over each group."""
    ordinal, size = _ordinal(groups, n_groups)
    size = size[groups]
    room = np.minimum(size, np.clip(_KEPT // n_groups, *_KEPT_GROUP))
    return (ordinal + 1) * room // size > ordinal * room // size


def _codes(groups: np.ndarray, n_groups: int, *, lowest: int) -> np.ndarray:
    groups = np.asarray(groups)
    if n_groups < 1 or groups.ndim != 1 or (groups.size and groups.dtype.kind not in "iu"):
        raise ValueError(
            f"groups must be whole numbers, one a cell, of n_groups >= 1 conditions; found shape {groups.shape}, "
            f"{groups.dtype}, n_groups {n_groups}. Pass the codes of a categorical."
        )
    if groups.size and not lowest <= groups.min() <= groups.max() < n_groups:
        raise ValueError(f"groups must lie in [{lowest}, {n_groups}), found {groups.min()} to {groups.max()}.")
    return groups.astype(np.int64)


def _require_genes(cells: Cells, genes: pd.Index) -> None:
    if cells.n_genes == len(genes) and list(map(str, cells.genes)) == list(map(str, genes)):
        return
    shared = len(pd.Index(cells.genes).intersection(genes))
    raise ValueError(
        f"The cells must have the guard's {len(genes)} genes in their order, found {cells.n_genes} genes, {shared} of them "
        "shared. Use sclm.cells.align first."
    )
