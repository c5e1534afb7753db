"""How a simulated section is mixed: places of spots and domains, drawn cells, and their counts."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

logger = logging.getLogger(__name__)

PITCH = 100.0  # distance of neighbouring spots, as Visium's 100 µm
_DEPTH_SD = 0.3  # sd of the logarithm of a spot's capture efficiency
_WARP = 0.04  # amplitude of the waves that bend domain boundaries, in sides of the section
_CANDIDATES = 16  # places tried for each domain's centre; the one farthest from the others is kept
_BLOCK_VALUES = 1 << 24  # non-zeros mixed at a time


class Known(NamedTuple):
    """Cells to draw from, none of them empty."""

    counts: sparse.csr_matrix  # (n_cells, n_genes)
    totals: np.ndarray  # (n_cells,) counts of each cell
    codes: np.ndarray  # (n_cells,) type of each cell
    categories: list[str]  # (n_types,)
    var: pd.DataFrame


class Drawn(NamedTuple):
    """Which cell lies in which spot, in the order of the spots."""

    spot: np.ndarray
    cell: np.ndarray


# -- the section -----------------------------------------------------------------------------------------------------


def coordinates_of(n_spots: int, layout: str, rng: np.random.Generator) -> np.ndarray:
    """(n_spots, 2) float64 on a section about as high as it is wide; the last row of a grid may be shorter."""
    if layout == "random":
        return rng.random((n_spots, 2)) * PITCH * np.sqrt(n_spots)
    row_height = np.sqrt(3) / 2 if layout == "hexagonal" else 1.0  # in pitches
    in_row = max(1, round(np.sqrt(n_spots * row_height)))
    row, column = np.divmod(np.arange(n_spots), in_row)
    shift = (row % 2) / 2 if layout == "hexagonal" else 0.0
    return np.column_stack([(column + shift) * PITCH, row * row_height * PITCH])


def domains_of(coordinates: np.ndarray, n_domains: int, rng: np.random.Generator) -> np.ndarray:
    """(n_spots,) number of the domain of each spot; every domain has one at least."""
    span = PITCH * np.sqrt(len(coordinates))
    place = coordinates / span  # about the unit square
    # Waves of about one to two periods over the section, in a random direction each, move x and y: each slope stays below
    # 1/2, so that the bent section has no folds and a domain no holes.
    for _ in range(2):
        frequency, angle, phase = rng.uniform(0.8, 1.8, 2), rng.uniform(0, 2 * np.pi, 2), rng.uniform(0, 2 * np.pi, 2)
        along = place @ np.stack([np.cos(angle), np.sin(angle)])  # (n_spots, 2): the coordinate each wave runs along
        place = place + _WARP * np.sin(2 * np.pi * frequency * along + phase)
    # Centres are spots, so that none is left without one; each is the best of some candidates, so that they spread.
    centres = [int(rng.integers(len(place)))]
    distance = np.linalg.norm(place - place[centres[0]], axis=1)  # to the nearest centre
    for _ in range(n_domains - 1):
        free = np.flatnonzero(distance > 0)
        candidates = rng.choice(free, min(_CANDIDATES, len(free)), replace=False)
        centres.append(int(candidates[distance[candidates].argmax()]))
        distance = np.minimum(distance, np.linalg.norm(place - place[centres[-1]], axis=1))
    return cKDTree(place[centres]).query(place)[1]


def draw_cells(
    known: Known, composition: np.ndarray, domain: np.ndarray, cells_per_spot: float, rng: np.random.Generator
) -> Drawn:
    """Cells of each spot: at least one, of types drawn from the composition (n_domains, n_types) of its domain."""
    n_cells = 1 + rng.poisson(cells_per_spot - 1, len(domain))
    spot = np.repeat(np.arange(len(domain)), n_cells)
    domain_of, at = domain[spot], rng.random(len(spot))
    kind = np.zeros(len(spot), dtype=np.int64)
    for d, share in enumerate(composition):
        here = domain_of == d
        kind[here] = np.searchsorted(np.cumsum(share)[:-1], at[here], side="right")
    by_type = np.argsort(known.codes, kind="stable")  # cells of the first type, of the second, …
    size = np.bincount(known.codes, minlength=len(known.categories))
    first = np.cumsum(size) - size
    return Drawn(spot, by_type[first[kind] + rng.integers(0, size[kind])])


def true_shares(known: Known, drawn: Drawn, n_spots: int) -> tuple[np.ndarray, np.ndarray]:
    """Shares of mRNA and of cells, both (n_spots, n_types) float32."""
    n_types = len(known.categories)
    cell_of = drawn.spot * n_types + known.codes[drawn.cell]
    shares = []
    for weight in (known.totals[drawn.cell], None):
        # (n_spots · n_types,) -> (n_spots, n_types)
        amount = np.bincount(cell_of, weight, n_spots * n_types).reshape(n_spots, n_types)
        shares.append((amount / amount.sum(axis=1, keepdims=True)).astype(np.float32))
    return shares[0], shares[1]


# -- counts ----------------------------------------------------------------------------------------------------------


def summed(known: Known, drawn: Drawn, n_spots: int) -> Iterator[tuple[slice, sparse.csr_matrix]]:
    """Slices of spots with their summed counts, CSR (n, n_genes): blocks of bounded memory."""
    n_known, _ = known.counts.shape
    values = len(drawn.spot) / n_spots * max(1.0, known.counts.nnz / n_known)
    size = max(1, int(_BLOCK_VALUES / values))
    ones = np.ones(len(drawn.spot), dtype=known.counts.dtype)
    chosen = sparse.csr_matrix((ones, (drawn.spot, drawn.cell)), shape=(n_spots, n_known))  # repeats are added up
    for start in range(0, n_spots, size):
        part = slice(start, start + size)
        sums = chosen[part] @ known.counts
        sums.sort_indices()
        yield part, sums


def depths_of(total: np.ndarray, umi_per_spot: float | None, rng: np.random.Generator) -> np.ndarray:
    """(n_spots,) int64 counts that each spot gets."""
    if umi_per_spot is None:
        return total.astype(np.int64)
    if umi_per_spot > np.median(total):
        logger.warning(
            "umi_per_spot=%g is more than the cells of a spot hold (median %g): the extra counts carry no information",
            umi_per_spot,
            np.median(total),
        )
    wanted = total * np.exp(_DEPTH_SD * rng.standard_normal(len(total)))
    return np.maximum(1, np.rint(wanted * umi_per_spot / np.median(wanted))).astype(np.int64)


def resampled(
    sums: sparse.csr_matrix, factor: np.ndarray, depth: np.ndarray, rng: np.random.Generator
) -> sparse.csr_matrix:
    """Multinomial draws of `depth` (n,) counts from each row of `sums` (n, n_genes) times `factor` (n_genes,)."""
    rate = sums.data * factor[sums.indices]
    counts = np.zeros(sums.nnz, dtype=np.int32)
    for i, (start, stop) in enumerate(zip(sums.indptr[:-1], sums.indptr[1:], strict=True)):
        share = rate[start:stop]
        counts[start:stop] = rng.multinomial(depth[i], share / share.sum())
    drawn = sparse.csr_matrix((counts, sums.indices, sums.indptr), shape=sums.shape)
    drawn.eliminate_zeros()
    return drawn


def ambient_counts(profile: np.ndarray, depth: np.ndarray, rng: np.random.Generator) -> sparse.csr_matrix:
    """Draws of `depth` (n,) counts from one profile, given as its cumulative sum (n_genes,)."""
    gene = np.searchsorted(profile, rng.random(int(depth.sum())) * profile[-1], side="right")
    ones = np.ones(len(gene), dtype=np.int32)
    # rounding may place the last draw behind the last gene
    gene = np.minimum(gene, len(profile) - 1)
    return sparse.csr_matrix((ones, (np.repeat(np.arange(len(depth)), depth), gene)), shape=(len(depth), len(profile)))
