"""Scores and tests of the pairs of a section."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from tqdm import tqdm

from sclm.evidence import adjusted_scores, benjamini_hochberg, receiver_permutation_test

if TYPE_CHECKING:
    from sclm.cells.shares import Shares
    from sclm.tl._ligrec_graph import Sides, Spots
    from sclm.tl._ligrec_pairs import Expression

_LEAST_EDGES = 10.0  # expected edges from source to target below which a combination says nothing
_FDR = 0.05
_RANDOM_PAIRS = 1000
_FEW = 4  # combinations of groups; for more, half as many pairs each
_LEAST_GENES = 30  # below which the spread among random genes is that of a few
_NORMAL_95 = 1.6449  # 95th percentile of the normal distribution
_INFLATED = 1.25  # spread that is told
_PAIRS = 256  # whose expression is unpacked at a time
_MEANS = ("ligand_mean", "receptor_mean", "score", "ratio")


class Tested(NamedTuple):
    """Results of all pairs and combinations of groups."""

    table: pd.DataFrame
    inflation: np.ndarray  # (n_combinations,) spread of z among random genes, 1 or more
    adjusted: list[str]  # what was regressed out
    warnings: list[str]


class Signals(NamedTuple):
    """Values of all spots of the AnnData."""

    score: sp.csr_matrix  # (n, n_pairs) float32
    ligand: sp.csr_matrix
    receptor: sp.csr_matrix
    edges: sp.csr_matrix  # (n, n) float32


def table_of_tests(
    expression: Expression,
    spots: Spots,
    sides: Sides,
    covariate: Shares | None,
    *,
    min_share: float,
    n_permutations: int,
    seed: int,
) -> Tested:
    """One row a pair and combination of groups."""
    share = sides.share[spots.rows]  # (m, k)
    parts, adjusted = [np.log(expression.depth)[:, None]], ["log depth"]
    if sides.covariate:
        parts.append(share)
        adjusted.append("groups")
    if covariate is not None:
        parts.append(covariate.share[spots.rows])
        adjusted.append("adjust")
    else:
        parts.append(expression.programmes)
        adjusted.append(f"{expression.programmes.shape[1]} principal components")
    design = np.column_stack(parts)
    scores = adjusted_scores(expression.complexes, design, spots.library)  # (m, n_complexes)

    combinations, warnings = _with_edges(spots.edges, share, sides)
    n_pairs = len(expression.pairs)
    pairs = np.tile(expression.columns, (len(combinations), 1))
    groups = np.repeat(np.array(combinations), n_pairs, axis=0)
    means, expressed = _means(expression, spots, share, combinations)
    tried = np.flatnonzero(expressed >= max(min_share, 1e-9))
    dominant = share.argmax(axis=1) if sides.covariate else np.zeros(len(share), dtype=np.int64)
    strata = np.unique(np.column_stack([spots.library, dominant, spots.zone]), axis=0, return_inverse=True)[1].ravel()
    random = adjusted_scores(expression.random, design, spots.library)
    inflation = _inflation(random, spots, share, combinations, strata, seed)
    z, p = np.full(len(pairs), np.nan), np.full(len(pairs), np.nan)
    with tqdm(
        total=len(tried) * n_permutations, desc="ligrec", unit=" statistics", unit_scale=True, delay=2, leave=False
    ) as bar:
        found = receiver_permutation_test(
            spots.edges, scores, scores, pairs[tried], source=share, target=share, groups=groups[tried], strata=strata,
            inflation=np.repeat(inflation, n_pairs)[tried],
            n_permutations=n_permutations, seed=seed, progress=bar.update,
        )  # fmt: skip
    z[tried], p[tried] = found.z, np.where(np.isfinite(found.z), found.p, np.nan)
    n_tests = int(np.isfinite(p).sum())
    smallest = n_tests / (1 + n_permutations)
    if smallest > _FDR:
        warnings.append(
            f"With {n_tests:,} tests and n_permutations={n_permutations:,} a single signal cannot pass a false discovery rate of "
            f"{_FDR:g}: its rate is at least {smallest:.2g}. Pass n_permutations={int(np.ceil(n_tests / _FDR)):,} or more."
        )
    names = np.array(sides.names, dtype=object)
    repeated = pd.concat([expression.pairs] * len(combinations), ignore_index=True)
    table = pd.DataFrame(
        {
            "ligand": repeated["ligand"].to_numpy(dtype=object),
            "receptor": repeated["receptor"].to_numpy(dtype=object),
            "source": names[groups[:, 0]],
            "target": names[groups[:, 1]],
            **means,
            "z": z,
            "pval": p,
            "padj": benjamini_hochberg(p),
        }
    )
    if inflation.max() > _INFLATED:
        worst = combinations[int(inflation.argmax())]
        warnings.append(
            f"Tissue makes random genes lie side by side more than chance does, though {', '.join(adjusted)} were regressed out: their z has "
            f"a spread of up to {inflation.max():.2f} instead of 1 ({sides.names[worst[0]]} to {sides.names[worst[1]]}). z and p were "
            "corrected for it, at the cost of power; adjust= with finer labels, such as cell types or domains, may gain some."
        )
    return Tested(table, inflation, adjusted, warnings)


def _inflation(
    random: np.ndarray,
    spots: Spots,
    share: np.ndarray,
    combinations: list[tuple[int, int]],
    strata: np.ndarray,
    seed: int,
) -> np.ndarray:
    """Spread of z among pairs of random genes, (n_combinations,), 1 or more.

    From the 5th to the 95th percentile: it is the tail that decides, and single pairs that belong together do not.
    """
    n_genes = random.shape[1]
    if n_genes < _LEAST_GENES:
        return np.ones(len(combinations))
    n_pairs = _RANDOM_PAIRS if len(combinations) <= _FEW else _RANDOM_PAIRS // 2
    rng = np.random.default_rng([seed, 2])
    first = rng.integers(0, n_genes, n_pairs)
    second = (first + rng.integers(1, n_genes, n_pairs)) % n_genes  # another gene
    pairs = np.column_stack([first, second])
    found = np.ones(len(combinations))
    for i, combination in enumerate(combinations):
        z = receiver_permutation_test(
            spots.edges, random, random, pairs, source=share, target=share, strata=strata, n_permutations=0,
            groups=np.tile(combination, (n_pairs, 1)),
        ).z  # fmt: skip
        z = z[np.isfinite(z)]
        if len(z) >= n_pairs // 2:
            low, high = np.quantile(z, [0.05, 0.95])
            found[i] = max(1.0, float(high - low) / (2 * _NORMAL_95))
    return found


def _with_edges(edges: sp.csr_matrix, share: np.ndarray, sides: Sides) -> tuple[list[tuple[int, int]], list[str]]:
    """Combinations of groups with enough edges from the one to the other."""
    expected = share.T @ (edges @ share)  # (k, k)
    kept = [(a, b) for a, b in sides.combinations if expected[a, b] >= _LEAST_EDGES]
    if not kept:
        raise ValueError(
            f"no source and target have {_LEAST_EDGES:g} edges from one to the other; the most is "
            f"{max(expected[a, b] for a, b in sides.combinations):.1f}. Pass other groups, or a wider graph."
        )
    few = len(sides.combinations) - len(kept)
    text = f"{few} of {len(sides.combinations)} combinations of source and target have fewer than {_LEAST_EDGES:g} edges and are left out."
    return kept, [text] if few else []


def _means(
    expression: Expression, spots: Spots, share: np.ndarray, combinations: list[tuple[int, int]]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Mean expression in senders and receivers, mean product over edges, and its ratio to that over all edges.

    Also the share of senders that express the ligand, or of receivers that express the receptor: the smaller of the two.
    """
    n_pairs = len(expression.pairs)
    values = np.zeros((len(_MEANS) + 1, len(combinations), n_pairs))
    n_edges = max(spots.whole.sum(), 1)
    ends = []
    for a, b in combinations:  # weight of each sender, (m,), and of each receiver
        ends.append((share[:, a] * (spots.edges @ share[:, b]), share[:, b] * (spots.edges.T @ share[:, a])))
    for first in range(0, n_pairs, _PAIRS):
        some = slice(first, first + _PAIRS)
        left, right = (
            expression.complexes[:, expression.columns[some, side]].toarray().astype(np.float64) for side in (0, 1)
        )  # (m, p)
        overall = ((spots.whole @ right) * left).sum(axis=0) / n_edges
        for i, (a, b) in enumerate(combinations):
            out, into = ends[i]
            score = ((spots.edges @ (right * share[:, [b]])) * left * share[:, [a]]).sum(axis=0) / out.sum()
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = np.where(overall > 0, score / overall, np.nan)
            seen = np.minimum(out @ (left > 0) / out.sum(), into @ (right > 0) / into.sum())
            values[:, i, some] = [out @ left / out.sum(), into @ right / into.sum(), score, ratio, seen]
    flat = values.reshape(len(_MEANS) + 1, -1)  # combination after combination
    return dict(zip(_MEANS, flat[:-1], strict=True)), flat[-1]


def spot_signals(expression: Expression, spots: Spots, n_obs: int) -> Signals:
    """Scores of spots, expression and edges in the order of the AnnData; spots that were left out are empty."""
    left, right = (sp.csr_matrix(expression.complexes[:, expression.columns[:, side]]) for side in (0, 1))
    degree = np.asarray(spots.edges.sum(axis=1)).ravel()
    mean = sp.diags(1 / np.maximum(degree, 1)) @ spots.edges
    score = (left.multiply(mean @ right) + right.multiply(mean @ left)) * 0.5
    place = sp.csr_matrix(
        (np.ones(len(spots.rows)), (spots.rows, np.arange(len(spots.rows)))), shape=(n_obs, len(spots.rows))
    )
    moved = [_float32(place @ values) for values in (score, left, right)]
    return Signals(moved[0], moved[1], moved[2], _float32(place @ spots.edges @ place.T))


def _float32(values: sp.spmatrix) -> sp.csr_matrix:
    out = sp.csr_matrix(values, dtype=np.float32)
    out.eliminate_zeros()
    out.sort_indices()
    return out
