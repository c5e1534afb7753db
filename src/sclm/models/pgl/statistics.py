"""What is learnt before the network: one pass over the cells for profiles, a sample of them for programmes and levels."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy.sparse as sp

from sclm.cells import align
from sclm.models.pgl.combinations import distinct_rows
from sclm.models.pgl.module import LevelTable
from sclm.models.pgl.profile import fit_profile, log_shares, refit_profile
from sclm.models.pgl.programmes import Posterior, Programmes, fit_programmes, other_loadings, posterior

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sclm.cells import CellSource, GeneVocabulary
    from sclm.models.pgl.conditions import Conditions
    from sclm.models.pgl.network import PGLConfig

_BLOCK = 1024  # cells
_OWN_FACTORS = 400  # combinations of values that get factors of their own, at most
_OWN_CELLS = 20  # and the cells that each must have
_UNSEEN = -30.0  # log share of a gene without a count in training: it is not written


class Profile(NamedTuple):
    """Mean profiles of conditions: ``log_base`` (G,), ``log_factors`` (P, G), ``own`` (C_own, F) combinations with factors."""

    log_base: np.ndarray
    log_factors: np.ndarray
    own: np.ndarray

    def design(self, conditions: Conditions, codes: np.ndarray) -> sp.csr_matrix:
        """Nodes of all fields, then one column a combination with factors of its own: CSR (n, P) for codes (n, F)."""
        parts = [memberships(conditions, codes)]
        if len(self.own):
            equal = (codes[:, None, :] == self.own[None]).all(axis=2)  # (n, C_own)
            parts.append(sp.csr_matrix(equal.astype(np.float32)))
        return sp.hstack(parts, format="csr")

    def log_shares(self, conditions: Conditions, codes: np.ndarray) -> np.ndarray:
        """Log share of each gene under each row of codes (n, F): (n, G) float32."""
        return log_shares(self.design(conditions, codes), self.log_base, self.log_factors)


def field_memberships(conditions: Conditions, codes: np.ndarray) -> list[sp.csr_matrix]:
    """For each field the nodes of the values in codes (n, F), CSR (n, n_nodes) with an empty row where not given."""
    parts = []
    for f, field in enumerate(conditions.fields):
        table = sp.vstack([field.membership, sp.csr_matrix((1, field.n_nodes), dtype=np.float32)], format="csr")
        parts.append(table[np.where(codes[:, f] < 0, field.n_values, codes[:, f])])
    return parts


def memberships(conditions: Conditions, codes: np.ndarray) -> sp.csr_matrix:
    """Nodes of all fields, CSR (n, sum of n_nodes)."""
    return sp.hstack(field_memberships(conditions, codes), format="csr", dtype=np.float32)


class Statistics(NamedTuple):
    """Result of :func:`learn`."""

    profile: Profile
    programmes: Programmes
    loadings: np.ndarray  # (G, K) of all genes
    rows: np.ndarray  # (m,) cells of the sample, ascending
    sample: sp.csr_matrix  # (m, G) their counts
    totals: np.ndarray  # (C, G) counts of all cells by combination
    combinations: np.ndarray  # (C, F)
    condition: np.ndarray  # (n,) combination of each cell


def blocks(source: CellSource, vocabulary: GeneVocabulary) -> Iterator[tuple[slice, sp.csr_matrix]]:
    """Consecutive blocks of counts in the model's genes, with their rows."""
    match = vocabulary.match(source.genes)
    start = 0
    for cells in source.blocks(_BLOCK):
        counts, _ = align(cells, vocabulary, match=match)
        yield slice(start, start + counts.shape[0]), counts
        start += counts.shape[0]


def learn(
    source: CellSource,
    vocabulary: GeneVocabulary,
    conditions: Conditions,
    codes: np.ndarray,
    config: PGLConfig,
    seed: int,
) -> Statistics:
    """Profiles from all cells, programmes from at most ``config.max_cells`` of them."""
    combinations, condition, n_cells = distinct_rows(codes)
    n_genes = len(vocabulary)
    totals = np.zeros((len(combinations), n_genes))
    generator = np.random.default_rng(seed)
    rows = np.sort(generator.permutation(source.n_cells)[: config.max_cells])
    kept = []
    for where, counts in blocks(source, vocabulary):
        which = condition[where]
        summing = sp.csr_matrix((np.ones(which.size), (which, np.arange(which.size))), (len(combinations), which.size))
        totals += (summing @ counts).toarray()
        first, last = np.searchsorted(rows, [where.start, where.stop])
        kept.append(counts[rows[first:last] - where.start])
    sample = sp.vstack(kept, format="csr")
    if totals.sum() == 0:
        raise ValueError(
            f"The training cells must have counts in the model's genes, found none in {source.n_cells:,} cells."
        )
    own = combinations[n_cells >= _OWN_CELLS]
    several = sum(len(np.unique(combinations[:, f])) > 1 for f in range(codes.shape[1])) > 1
    if not several or len(own) > _OWN_FACTORS:
        own = own[:0]
    profile = Profile(np.zeros(n_genes, np.float32), np.zeros((0, n_genes), np.float32), own)
    design = profile.design(conditions, combinations)
    log_base, log_factors = fit_profile(totals, design, n_own=len(own), pseudocount=config.pseudocount)
    log_base[totals.sum(axis=0) == 0] = _UNSEEN
    profile = Profile(log_base, log_factors, own)
    depth = np.maximum(np.asarray(sample.sum(axis=1)).ravel(), 1.0).astype(np.float32)
    programmes, levels = _programmes(profile, design, sample, depth, condition[rows], config, seed)
    loadings = _all_loadings(profile, design, sample, depth, condition[rows], programmes, levels)
    return Statistics(profile, programmes, loadings, rows, sample, totals, combinations, condition)


def _programmes(
    profile: Profile,
    design: sp.csr_matrix,
    sample: sp.csr_matrix,
    depth: np.ndarray,
    condition: np.ndarray,
    config: PGLConfig,
    seed: int,
) -> tuple[Programmes, Posterior]:
    n_counts = np.asarray(sample.sum(axis=0)).ravel()
    genes = np.sort(np.argsort(-n_counts, kind="stable")[: config.n_programme_genes])
    genes = genes[n_counts[genes] > 0]
    full = log_shares(design, profile.log_base, profile.log_factors)
    scores = profile.log_base[genes] + design @ profile.log_factors[:, genes]
    normaliser = scores - full[:, genes]  # of the whole profile, which the programme genes do not change here
    totals = np.zeros((design.shape[0], genes.size))
    counts = sample[:, genes].toarray()
    np.add.at(totals, condition, counts)
    log_base, log_factors = profile.log_base[genes], profile.log_factors[:, genes].copy()

    def refit(expected: np.ndarray) -> np.ndarray:
        refit_profile(
            totals, design, log_base, log_factors, expected, n_own=len(profile.own), pseudocount=config.pseudocount
        )
        return log_base + design @ log_factors - normaliser

    fitted = fit_programmes(
        counts, depth, full[:, genes], condition, genes,
        n_programmes=config.n_programmes, iterations=config.programme_iterations, refit=refit, seed=seed,
    )  # fmt: skip
    profile.log_base[genes], profile.log_factors[:, genes] = log_base, log_factors
    return fitted


def _all_loadings(
    profile: Profile,
    design: sp.csr_matrix,
    sample: sp.csr_matrix,
    depth: np.ndarray,
    condition: np.ndarray,
    programmes: Programmes,
    levels: Posterior,
) -> np.ndarray:
    """Loadings of every gene with at least three counts; the rarer ones follow their condition alone."""
    n_genes, k = sample.shape[1], programmes.loadings.shape[1]
    loadings = np.zeros((n_genes, k), np.float32)
    loadings[programmes.genes] = programmes.loadings
    profiles = log_shares(design, profile.log_base, profile.log_factors)
    inside = np.exp(profiles[condition][:, programmes.genes] + levels.mean @ programmes.loadings.T).sum(axis=1)
    outside = 1.0 - np.exp(profiles[:, programmes.genes]).sum(axis=1)
    normaliser = np.log(inside + np.maximum(outside, 0.0)[condition])
    rest = np.asarray(sample.sum(axis=0)).ravel() >= 3
    rest[programmes.genes] = False
    by_gene = sample.tocsc()
    for part in np.array_split(np.flatnonzero(rest), max(1, int(rest.sum()) // 2000)):
        if part.size:
            loadings[part] = other_loadings(
                by_gene[:, part].toarray(), depth, profiles[:, part], condition, levels, normaliser,
                programmes.prior_variance,
            )  # fmt: skip
    return loadings


def level_table(
    source: CellSource,
    vocabulary: GeneVocabulary,
    conditions: Conditions,
    codes: np.ndarray,
    statistics: Statistics,
) -> tuple[np.ndarray, LevelTable]:
    """Depth (n,) and posterior of the programmes of every training cell."""
    profiles = statistics.profile.log_shares(conditions, statistics.combinations)[:, statistics.programmes.genes]
    k = statistics.loadings.shape[1]
    n = source.n_cells
    depth = np.zeros(n, np.float32)
    mean, root = np.zeros((n, k), np.float32), np.zeros((n, k, k), np.float32)
    for where, counts in blocks(source, vocabulary):
        depth[where] = np.asarray(counts.sum(axis=1)).ravel()
        found = posterior(
            statistics.programmes, counts[:, statistics.programmes.genes].toarray(), np.maximum(depth[where], 1.0),
            profiles, statistics.condition[where],
        )  # fmt: skip
        mean[where] = found.mean
        root[where] = np.linalg.cholesky(found.covariance + 1e-6 * np.eye(k, dtype=np.float32))
    return depth, LevelTable(codes, np.log(np.maximum(depth, 1.0)), mean, root)
