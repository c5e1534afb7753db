"""Checkers: what statements about cells, and about groups, are looked up in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sclm.cells import GeneVocabulary
from sclm.evidence.aucell import match_sets
from sclm.evidence.claims_identity import TermEvidence
from sclm.evidence.claims_judge import Judge
from sclm.evidence.claims_metadata import FIELDS, MetadataTerms, value_shares
from sclm.evidence.claims_thresholds import DEFAULT, ClaimThresholds
from sclm.evidence.claims_views import CellGenes, GroupGenes, GroupMoments, View, Weights
from sclm.evidence.gene_states import GeneStates
from sclm.evidence.set_activity import SetActivity, SetBackground
from sclm.knowledge import KnowledgeGraph, Ontology, Pathways

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from sclm.cells import Cells, CellSource
    from sclm.evidence.claims import Statement

SAMPLE = 3_000  # cells from which the two levels of each gene are learnt, evenly spread over the data


class CellChecker:
    """Checks statements about single cells against their own counts, in the light of all cells of the data.

    Parameters
    ----------
    genes
        (G,) of the data.
    states
        Two levels of every gene.
    evidence
        Of cell types, learnt from the data.
    background
        Of gene sets, learnt from the data.
    sets, kept
        The collection, and the places of the sets that have enough genes in the data.
    terms
        Words of tissues and diseases.
    thresholds
        Where statements are kept, softened or removed.
    n_cells
        Of the data.

    Examples
    --------
    >>> import sclm
    >>> from sclm.cells import read_cells
    >>> from sclm.evidence import CellChecker, Statement
    >>> source = read_cells(sclm.datasets.pbmc68k(), obs_keys=["cell_type"])
    >>> checker = CellChecker.fit(source)
    >>> cell = source.read([5])
    >>> str(cell.obs["cell_type"].iloc[0])
    'B cell'
    >>> claims = checker.check(cell, [Statement(0, "identity", "B cell"), Statement(0, "identity", "monocyte")])
    >>> list(claims["verdict"])
    ['kept', 'removed']
    """

    level = "cell"

    def __init__(
        self, genes: pd.Index, states: GeneStates, evidence: TermEvidence, background: SetBackground, sets: Pathways, kept: np.ndarray,
        terms: MetadataTerms, thresholds: ClaimThresholds = DEFAULT, n_cells: int = 0,
    ) -> None:  # fmt: skip
        self.genes, self.states, self.evidence, self.background = genes, states, evidence, background
        self.sets, self.kept, self.thresholds, self.n_cells = sets, kept, thresholds, n_cells
        self.judge = Judge(evidence, GeneVocabulary(tuple(map(str, genes))), sets, kept, terms, thresholds)

    @classmethod
    def fit(
        cls,
        source: CellSource,
        *,
        gene_sets: Any = "default",
        graph: KnowledgeGraph | None = None,
        min_genes: int = 5,
        thresholds: ClaimThresholds = DEFAULT,
        seed: int = 0,
        batch_size: int | None = None,
    ) -> CellChecker:
        """Learn from all cells of a source: levels of genes from 3,000 of them, the background of gene sets from all.

        Parameters
        ----------
        source
            Raw counts; its ``obs`` may hold ``tissue`` and ``disease``.
        gene_sets
            What :meth:`sclm.knowledge.Pathways.load` takes.
        graph
            With markers of cell types; the one that comes with the package where None.
        min_genes
            Gene sets with fewer genes in the data are left out: nothing can be said of them.
        thresholds
            Where statements are kept, softened or removed.
        seed
            Of the order of genes with equal counts, for gene sets.
        batch_size
            Cells read at a time.

        Raises
        ------
        ValueError
            If the data hold too few marker genes, or no gene set has enough genes.
        """
        graph = KnowledgeGraph.default() if graph is None else graph
        sets = Pathways.load(gene_sets)
        evidence = TermEvidence.of(graph, Ontology.load("cl"), source.genes)
        members, kept = match_sets(sets, source.genes, min_genes=min_genes)
        rows = np.unique(np.linspace(0, source.n_cells - 1, min(SAMPLE, source.n_cells)).astype(np.int64))
        sample = source.read(rows).counts
        states = GeneStates.fit(sample)
        evidence.learn(sample, states)
        background = SetBackground.fit(source, members, seed=seed, batch_size=batch_size)
        terms = MetadataTerms(graph)
        return cls(source.genes, states, evidence, background, sets, kept, terms, thresholds, source.n_cells)

    def view(self, cells: Cells) -> View:
        """What is known of a block of cells."""
        counts = self._aligned(cells)
        columns = [f for f in FIELDS if f in cells.obs]
        values = {f: cells.obs[f].astype(object).to_numpy() for f in columns}
        memory: dict[tuple[str, Any], dict[str, float]] = {}

        def shares(i: int) -> dict[str, Any]:
            out = {}
            for f in columns:
                key = (f, values[f][i])
                if key not in memory:
                    memory[key] = value_shares([values[f][i]])
                out[f] = memory[key]
            return out

        ranks = self.background.ranks(counts)
        return View(
            "cell",
            cells.obs.index.to_numpy(dtype=object),
            np.ones(cells.n_cells, dtype=np.int64),
            self.evidence.scores(counts),
            self.background.cells(ranks),
            Weights(ranks, self.background.mean),
            CellGenes(counts, self.states),
            [shares(i) for i in range(cells.n_cells)],
        )

    def check(self, cells: Cells, statements: Sequence[Statement]) -> pd.DataFrame:
        """One row a statement, in their order: see :class:`sclm.evidence.Checker`."""
        return self.judge(self.view(cells), statements)

    def _aligned(self, cells: Cells) -> Any:
        if cells.genes.equals(self.genes):
            return cells.counts
        place = self.genes.get_indexer(cells.genes)
        if (place < 0).any():
            raise ValueError(
                f"cells must have the genes that the checker was fitted on, found {int((place < 0).sum())} others, such as "
                f"{str(cells.genes[place < 0][0])!r}."
            )
        from sclm.cells.columns import move_columns

        return move_columns(cells.counts, place, len(self.genes))


class GroupChecker:
    """Checks statements about groups of cells against all of their cells, and the cells outside.

    Made by :meth:`of`. Blocks that it is asked about hold one pseudobulk cell a group, with the group's name as index.

    Parameters
    ----------
    cells
        The checker of single cells of the same data.
    view
        What is known of all groups.
    """

    level = "group"

    def __init__(self, cells: CellChecker, view: View) -> None:
        self.cells, self.groups = cells, view
        self.judge, self.n_cells, self.kept, self.background = cells.judge, cells.n_cells, cells.kept, cells.background
        self._row = {str(name): i for i, name in enumerate(view.names)}

    @classmethod
    def of(
        cls,
        cells: CellChecker,
        source: CellSource,
        codes: np.ndarray,
        names: Sequence[str],
        *,
        batch_size: int | None = None,
    ) -> GroupChecker:
        """Gather the groups in one pass over the cells.

        Parameters
        ----------
        cells
            The checker of single cells, fitted on the same source.
        source
            The cells.
        codes
            (n_cells,) place of each cell's group in `names`, -1 for none.
        names
            Of the groups.
        batch_size
            Cells read at a time.
        """
        n_groups, n_genes = len(names), len(cells.genes)
        moments = GroupMoments(n_groups, n_genes)
        scores = np.zeros((n_groups, len(cells.evidence.terms)))
        ranks, ranks_all, first = np.zeros((n_groups, n_genes)), np.zeros(n_genes), 0
        for block in source.blocks(batch_size):
            of = codes[first : first + block.n_cells]
            moments.add(block.counts, of)
            w = cells.background.ranks(block.counts)
            found = cells.evidence.scores(block.counts)
            for g in np.unique(of[of >= 0]):
                rows = np.flatnonzero(of == g)
                scores[g] += found[rows].sum(axis=0)
                ranks[g] += np.asarray(w[rows].sum(axis=0, dtype=np.float64)).ravel()
            ranks_all += np.asarray(w.sum(axis=0, dtype=np.float64)).ravel()
            first += block.n_cells
        n = np.maximum(moments.n[:, None], 1)
        inside, outside = ranks / n, (ranks_all - ranks) / np.maximum(len(codes) - n, 1)
        activity = cells.background.groups(inside, outside)
        t = cells.thresholds
        genes = GroupGenes(moments, t.fold, t.fold_some, t.effect)
        obs = source.obs
        shares: list[dict[str, Mapping[str, float]]] = [
            {f: value_shares(obs[f].to_numpy()[codes == g]) for f in FIELDS if f in obs} for g in range(n_groups)
        ]
        view = View(
            "group",
            np.asarray(names, dtype=object),
            moments.n.copy(),
            scores / n,
            activity,
            Weights(inside, outside),
            genes,
            shares,
        )
        return cls(cells, view)

    def view(self, cells: Cells) -> View:
        """What is known of the groups that the block names, in its order."""
        rows = np.array([self._row.get(str(name), -1) for name in cells.obs.index], dtype=np.int64)
        if (rows < 0).any():
            raise ValueError(
                f"expected groups of {list(self._row)[:5]} …, found {str(cells.obs.index[rows < 0][0])!r}."
            )
        v = self.groups
        activity = SetActivity(*(x[rows] for x in v.activity))
        return View(
            "group",
            v.names[rows],
            v.n_cells[rows],
            v.scores[rows],
            activity,
            Weights(v.weights.matrix[rows], v.weights.other[rows]),
            _Rows(v.genes, rows),
            [v.shares[r] for r in rows],
        )

    def check(self, cells: Cells, statements: Sequence[Statement]) -> pd.DataFrame:
        """One row a statement, in their order: see :class:`sclm.evidence.Checker`."""
        return self.judge(self.view(cells), statements)


class _Rows:
    """Some rows of the figures of genes."""

    def __init__(self, genes: Any, rows: np.ndarray) -> None:
        self.genes, self.rows, self.statistic = genes, rows, genes.statistic

    def at(self, rows: np.ndarray, columns: np.ndarray) -> Any:
        return self.genes.at(self.rows[rows], columns)

    def top(self, row: int, allowed: np.ndarray) -> np.ndarray:
        return self.genes.top(int(self.rows[row]), allowed)
