"""What is known of cells and groups before anything is said of them: genes, types, pathways, metadata.

n cells or groups · G genes · T types · S sets
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from scipy import sparse, special, stats

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sclm.evidence.gene_states import GeneStates
    from sclm.evidence.set_activity import SetActivity

_TOP = 40  # genes of a row that may be named
_RARE = 50  # genes that fewer than one cell in so many shows are not preferred any further
_FOLD, _SEEN, _SOME = (
    10.0,
    3.0,
    0.01,
)  # ratio of the levels of such a gene, transcripts expected at the upper one, share of cells there
_MIN_COUNT = 2  # transcripts of a gene that is named as one of a cell's most telling
_MIN_CELLS = 3  # of a group, or a tenth of it, that show such a gene; with fewer cells in all, nothing is tested


class GeneFigure(NamedTuple):
    """How genes stand in rows of a view: aligned arrays, one entry a pair of row and gene.

    Attributes
    ----------
    support
        0-1.
    value
        What was measured; see ``statistic`` of the figures.
    q
        False discovery rate.
    note
        Words for the reason.
    """

    support: np.ndarray
    value: np.ndarray
    q: np.ndarray
    note: list[str]


class GeneFigures(Protocol):
    """Figures of genes in cells or groups."""

    statistic: str

    def at(self, rows: np.ndarray, columns: np.ndarray) -> GeneFigure:
        """Figures of genes in rows."""
        ...

    def top(self, row: int, allowed: np.ndarray) -> np.ndarray:
        """Columns of the genes that tell most of a row, best first, among those ``allowed`` (G,) bool."""
        ...


class Weights(NamedTuple):
    """What genes add to areas: ``matrix[row] - other[row]``, (G,) each; ``matrix`` may be sparse, ``other`` the same for all rows."""

    matrix: np.ndarray | sparse.csr_matrix
    other: np.ndarray

    def row(self, i: int) -> np.ndarray:
        """(G,) float64 of a row."""
        mine = self.matrix[i].toarray().ravel() if sparse.issparse(self.matrix) else self.matrix[i]
        return np.asarray(mine, dtype=np.float64) - (self.other if self.other.ndim == 1 else self.other[i])


class View(NamedTuple):
    """What a checker knows of a block of cells, or of groups.

    Attributes
    ----------
    level
        ``"cell"`` or ``"group"``.
    names
        (n,) of the cells or groups.
    n_cells
        (n,) int64 cells in each row.
    scores
        (n, T) scores of types, see :class:`~sclm.evidence.claims_identity.TermEvidence`.
    activity
        Of the gene sets.
    weights
        What each gene adds to the areas of gene sets here, above other cells.
    genes
        Figures of the genes.
    shares
        One mapping a row: field → values of the metadata with their shares.
    """

    level: str
    names: np.ndarray
    n_cells: np.ndarray
    scores: np.ndarray
    activity: SetActivity
    weights: Weights
    genes: GeneFigures
    shares: list[dict[str, Mapping[str, float]]]


class CellGenes:
    """Genes of single cells: the probability that each is on, see :class:`~sclm.evidence.gene_states.GeneStates`."""

    statistic = "probability that the gene is on"

    def __init__(self, counts: sparse.csr_matrix, states: GeneStates) -> None:
        self.counts, self.states = counts, states
        self.depth = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()

    def at(self, rows: np.ndarray, columns: np.ndarray) -> GeneFigure:
        """Figures of genes in rows."""
        if not len(rows):
            return GeneFigure(np.zeros(0), np.zeros(0), np.zeros(0), [])
        count = np.asarray(self.counts[rows, columns], dtype=np.float64).ravel()
        # one gene and one cell at a time: the diagonal of what `posterior` gives
        on, off, share = (a[columns] for a in (self.states.on, self.states.off, self.states.share))
        ratio = np.clip(count * np.log(on / off) - self.depth[rows] / 1e4 * (on - off), -30, 30)
        posterior = special.expit(ratio + np.log(share / (1 - share)))
        posterior = np.where(count > 0, np.where(self.states.told[columns], posterior, 0.5), 0.0)
        level = 1e4 * count / np.maximum(self.depth[rows], 1)
        note = [
            f"{int(c)} of {int(d):,} transcripts, {v:.3g} in 10,000 against {o:.3g} where it is off"
            if c
            else "not detected"
            for c, d, v, o in zip(count, self.depth[rows], level, off, strict=True)
        ]
        return GeneFigure(posterior, posterior, 1 - posterior, note)

    def top(self, row: int, allowed: np.ndarray) -> np.ndarray:
        """Genes that tell most of a row, best first."""
        first, last = self.counts.indptr[row], self.counts.indptr[row + 1]
        columns, count = self.counts.indices[first:last], self.counts.data[first:last].astype(np.float64)
        use = (count >= _MIN_COUNT) & allowed[columns] & self.states.told[columns]
        columns, count = columns[use], count[use]
        on, off, share = (a[columns] for a in (self.states.on, self.states.off, self.states.share))
        ratio = np.clip(count * np.log(on / off) - self.depth[row] / 1e4 * (on - off), -30, 30)
        posterior = special.expit(ratio + np.log(share / (1 - share)))
        # A gene tells something of a cell where its two levels are far apart and the upper one is well seen at this depth.
        clear = (posterior >= 0.9) & (on >= _FOLD * off) & (on * self.depth[row] / 1e4 >= _SEEN)
        clear &= (share <= 0.6) & ((share >= _SOME) | (on >= 5 * _FOLD * off))
        telling = np.where(clear, np.minimum(-np.log(share), np.log(_RARE)) + np.minimum(ratio, 6.0), -np.inf)
        order = np.argsort(-telling, kind="stable")[:_TOP]
        return columns[order[np.isfinite(telling[order])]]


class GroupGenes:
    """Genes of groups: fold change and effect size over all cells outside the group; of one or two cells nothing is tested (q is NaN)."""

    statistic = "log2 fold change over other cells"

    def __init__(self, moments: GroupMoments, fold: float, fold_some: float, effect: float) -> None:
        m = moments
        n, rest = m.n[:, None].astype(np.float64), np.maximum(m.n_all - m.n[:, None], 1).astype(np.float64)
        everyone = {
            name: getattr(m, name).sum(axis=0) + getattr(m, f"{name}_rest")
            for name in ("level", "log", "square", "shown")
        }
        inside = {name: getattr(m, name) / n for name in everyone}
        outside = {name: (everyone[name] - getattr(m, name)) / rest for name in everyone}
        floor = 0.05  # counts in 10,000: below, folds are noise
        self.fold = np.log2((inside["level"] + floor) / (outside["level"] + floor))
        variance = [np.maximum(s["square"] - s["log"] ** 2, 1e-6) for s in (inside, outside)]
        overall = everyone["square"] / m.n_all - (everyone["log"] / m.n_all) ** 2
        variance[0] = np.maximum(variance[0], overall / n)  # a few cells that agree by chance do not vary by nothing
        gap = inside["log"] - outside["log"]
        self.effect = gap / np.sqrt((variance[0] + variance[1]) / 2)
        z = gap / np.sqrt(variance[0] / n + variance[1] / rest)
        self.q = stats.false_discovery_control(special.ndtr(-z), axis=1, method="bh")
        self.q[m.n < _MIN_CELLS] = np.nan
        self.inside, self.outside = inside["shown"], outside["shown"]
        self._n = m.n
        self._limits = (fold, fold_some, effect)

    def at(self, rows: np.ndarray, columns: np.ndarray) -> GeneFigure:
        """Figures of genes in rows."""
        fold, effect, q = self.fold[rows, columns], self.effect[rows, columns], self.q[rows, columns]
        full, some, least = self._limits
        strong = (fold >= full) & (effect >= least) & (q <= 0.05)
        few = self._n[rows] < _MIN_CELLS
        weak = (fold >= some) & ((q <= 0.05) | few)
        support = np.where(strong, 1.0, np.where(weak, 0.5, 0.0))
        note = [
            f"detected in {i:.0%} of the group and {o:.0%} of the other cells, log2 fold change {f:.1f}"
            f"{'; too few cells for a test' if little else ''}"
            for i, o, f, little in zip(self.inside[rows, columns], self.outside[rows, columns], fold, few, strict=True)
        ]
        return GeneFigure(support, fold, q, note)

    def top(self, row: int, allowed: np.ndarray) -> np.ndarray:
        """Genes that tell most of a row, best first."""
        full, _, least = self._limits
        many = self.inside[row] * self._n[row] >= max(_MIN_CELLS, 0.1 * self._n[row])
        use = np.flatnonzero(
            allowed & (self.fold[row] >= full) & (self.effect[row] >= least) & (self.q[row] <= 0.05) & many
        )
        return use[np.argsort(-self.effect[row, use], kind="stable")[:_TOP]]


class GroupMoments:
    """Sums over the cells of each group, and over those that are in none, filled block by block.

    Attributes
    ----------
    n
        (n_groups,) cells.
    n_all
        All cells.
    level, log, square, shown
        (n_groups, G) sums of counts in 10,000, of their log1p, of its square, and of cells that show the gene; with ``_rest`` (G,) those
        of cells in no group.
    """

    def __init__(self, n_groups: int, n_genes: int) -> None:
        self.n, self.n_all = np.zeros(n_groups, dtype=np.int64), 0
        self.level, self.log, self.square, self.shown = (np.zeros((n_groups, n_genes)) for _ in range(4))
        self.level_rest, self.log_rest, self.square_rest, self.shown_rest = (np.zeros(n_genes) for _ in range(4))

    def add(self, counts: sparse.csr_matrix, codes: np.ndarray) -> None:
        """Count a block of cells; code -1 is in no group."""
        n_groups = len(self.n)
        member = sparse.csr_matrix(
            (np.ones(len(codes)), (np.where(codes < 0, n_groups, codes), np.arange(len(codes)))),
            (n_groups + 1, len(codes)),
        )
        total = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
        level = sparse.diags(1e4 / np.maximum(total, 1)) @ counts.astype(np.float64)
        log = level.log1p()
        shown = sparse.csr_matrix((np.ones(counts.nnz), counts.indices, counts.indptr), counts.shape)
        for name, values in (("level", level), ("log", log), ("square", log.multiply(log)), ("shown", shown)):
            of = (member @ values).toarray()
            getattr(self, name)[...] += of[:-1]
            getattr(self, f"{name}_rest")[...] += of[-1]
        self.n += np.bincount(codes[codes >= 0], minlength=n_groups)
        self.n_all += len(codes)
