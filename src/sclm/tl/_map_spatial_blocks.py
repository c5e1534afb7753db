"""A section mapped block by block, and judged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm import tqdm

from sclm.cells import GeneVocabulary
from sclm.evidence import Coverage, judge_coverage, marker_scores, residual_genes, signature_markers
from sclm.evidence.coverage import UNEXPLAINED

if TYPE_CHECKING:
    import scipy.sparse as sp

    from sclm.cells import CellSource
    from sclm.models.contract import Mapping

_FEW, _MANY = 5, 1000  # spots with unexplained counts whose genes are looked at


class Mapped(NamedTuple):
    """All spots of a section; n spots, K types, G genes in use."""

    fraction: np.ndarray  # (n, K) float32
    cell_fraction: np.ndarray  # (n, K) float32
    standard_error: np.ndarray  # (n, K) float32
    unexplained: np.ndarray  # (n,) float32
    explained: np.ndarray  # (n,) float32
    abundance: np.ndarray  # (n, K) float32
    observed: np.ndarray  # (G,) float64
    expected: np.ndarray  # (G,) float64
    scores: np.ndarray  # (n, K) float32 log-normalised sums of markers


def map_section(
    mapper: Any, source: CellSource, markers: np.ndarray, graph: sp.csr_matrix | None, smooth: float, batch_size: int | None
) -> tuple[Mapped, np.ndarray | None]:  # fmt: skip
    """Map every spot; with ``smooth``, once more with the mean of its neighbours as prior, which is returned as well."""
    if graph is None:
        return _stream(mapper, source, markers, None, batch_size, "map_spatial"), None
    first = _stream(mapper, source, markers, None, batch_size, "map_spatial")
    prior = (smooth * neighbours_mean(graph, first.abundance)).astype(np.float32)
    return _stream(mapper, source, markers, prior, batch_size, "map_spatial, with neighbours"), prior


def neighbours_mean(graph: sp.csr_matrix, abundance: np.ndarray) -> np.ndarray:
    """(n, K) mean abundance of each spot's neighbours that have counts; 0 where there is none."""
    filled = np.isfinite(abundance).all(axis=1)
    total = graph @ np.where(filled[:, None], abundance, 0).astype(np.float64)
    return total / np.maximum(graph @ filled.astype(np.float64), 1)[:, None]


def names_in_section(mapper: Any, source: CellSource) -> list[str]:
    """The genes in use by the section's names: a reference with Ensembl ids is read by people who know symbols."""
    genes = [str(gene) for gene in mapper.genes]
    there = {str(name) for name in source.genes}
    if all(gene in there for gene in genes):
        return genes
    ids = GeneVocabulary(tuple(genes)).match(source.genes).ids
    found = {
        int(i): str(source.genes[at]) for at, i in reversed(list(enumerate(ids))) if i >= 0
    }  # the first of several
    return [found.get(i, gene) for i, gene in enumerate(genes)]


def judge(
    mapper: Any,
    source: CellSource,
    mapped: Mapped,
    markers: np.ndarray,
    genes: list[str],
    prior: np.ndarray | None,
    batch_size: int | None,
) -> Coverage:
    """The gates: see :func:`sclm.evidence.judge_coverage`; ``genes`` are the names of those in use."""
    observed, expected = mapped.observed, mapped.expected
    predicted = np.nan_to_num(mapped.abundance).sum(axis=0, dtype=np.float64) @ _shares(mapper)
    high = np.flatnonzero(mapped.unexplained > UNEXPLAINED)  # NaN is not
    if len(high) >= _FEW:
        # Totals over the section hide a type that few spots hold: those with most unexplained counts are looked at again.
        high = np.sort(high[np.argsort(-mapped.unexplained[high], kind="stable")[:_MANY]])
        observed, expected, start = np.zeros_like(observed), np.zeros_like(expected), 0
        for cells in source.blocks(batch_size, rows=high):
            stop = start + cells.n_cells
            found: Mapping = mapper.map(cells, prior=None if prior is None else prior[high[start:stop]])
            observed, expected, start = observed + found.observed, expected + found.expected, stop
    return judge_coverage(
        mapped.fraction, mapped.scores, mapped.explained, mapped.unexplained, (mapped.observed, predicted),
        residual_genes(observed, expected, genes), categories=mapper.categories, markers=markers, genes=genes,
    )  # fmt: skip


def section_markers(mapper: Any) -> np.ndarray:
    """(K, n) marker genes of the mapper's types among the genes in use, -1 where a type has none."""
    return signature_markers(_shares(mapper))


def _shares(mapper: Any) -> np.ndarray:
    """(K, G) float64 shares of a type's counts in the genes in use, rows sum to 1."""
    profile = np.asarray(mapper.profile, dtype=np.float64)
    return profile / np.maximum(profile.sum(axis=1, keepdims=True), 1e-12)


def _stream(
    mapper: Any, source: CellSource, markers: np.ndarray, prior: np.ndarray | None, batch_size: int | None, title: str
) -> Mapped:  # fmt: skip
    parts: list[Mapping] = []
    scores: list[np.ndarray] = []
    observed, expected, start = np.zeros(len(mapper.genes)), np.zeros(len(mapper.genes)), 0
    with tqdm(total=source.n_cells, desc=title, unit=" spots", delay=2, leave=False) as bar:
        for cells in source.blocks(batch_size):
            stop = start + cells.n_cells
            found = mapper.map(cells, prior=None if prior is None else prior[start:stop])
            observed, expected, start = observed + found.observed, expected + found.expected, stop
            parts.append(found)
            scores.append(marker_scores(mapper.counts(cells), markers))
            bar.update(cells.n_cells)
    names = ("fraction", "cell_fraction", "standard_error", "unexplained", "explained", "abundance")
    arrays = {name: np.concatenate([np.asarray(getattr(p, name), dtype=np.float32) for p in parts]) for name in names}
    return Mapped(**arrays, observed=observed, expected=expected, scores=np.concatenate(scores))
