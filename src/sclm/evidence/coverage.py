"""Does a reference cover a section? Gene totals, explained deviance, markers that follow their type, unexplained genes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp

from sclm.cells import log_normalise

if TYPE_CHECKING:
    from collections.abc import Sequence

N_MARKERS = 20  # a type; sums over more genes follow the type less closely
_MIN_MARKERS = 4  # fewer say more about single genes than about a type
_FOLD = 1.5  # times the share of the next type, for a gene to mark a type
# Bounds of the gates. On six to ten sections of real cells, with references of the same and of other studies, the right
# reference gave 0.84 to 0.96 (gene totals), 0.04 to 0.36 (explained deviance) and 0.35 to 0.99 (markers, each type); references
# of other organs 0.44 to 0.55 (gene totals); references with shuffled genes -0.10 to 0.03, 0.01 to 0.33 and -0.15 to 0.83.
MIN_TOTALS = 0.65  # rank correlation of counted gene totals with those that the types predict without platform factors
MIN_EXPLAINED = 0.02  # median share of the deviance that is explained
MIN_AGREEMENT = 0.25  # of a type's fraction with its markers
PRESENT = 0.01  # mean fraction from which on a type is said to be in the section, and its markers are asked
UNEXPLAINED = 0.2  # share of a spot's counts; above, a type is likely to be missing there
MAX_SPOTS = 0.1  # share of the spots that may lie above; with complete references of other studies up to 0.4 do
_STANDING_OUT = (2, 3.0)  # genes, and their z: a missing type brings genes of its own, a poor fit does not
_TIED = 0.02  # fractions nearer to each other are one rank: differences between zeros are no order
_TOP = 20  # genes in the table
_NAMED = 5  # of them in the warning
_RATIO_SPREAD = 0.5  # of observed to expected counts of a gene between two platforms, beside the counting noise


class Coverage(NamedTuple):
    """Verdict of :func:`judge_coverage`; every table survives h5ad and zarr.

    Attributes
    ----------
    summary
        One row a gate: ``gate`` (``"gene totals"``, ``"explained deviance"``, ``"markers"``, ``"missing types"``), ``value``,
        ``threshold`` (both float64) and ``passed`` (bool).
    markers
        One row a type: ``cell_type``, ``mean_fraction``, ``n_markers``, ``agreement`` (rank correlation, NaN where it cannot be
        had), ``passed``, ``markers`` (the genes, joined by commas).
    residual_genes
        Genes that are counted more than the types explain, most conspicuous first: ``gene``, ``observed``, ``expected``
        (counts), ``log2_ratio``, ``z``.
    warnings
        A sentence for each gate that is not passed.
    """

    summary: pd.DataFrame
    markers: pd.DataFrame
    residual_genes: pd.DataFrame
    warnings: tuple[str, ...]


def signature_markers(profile: np.ndarray, n_markers: int = N_MARKERS) -> np.ndarray:
    r"""Genes that tell each type from the one that is nearest to it in that gene.

    A gene :math:`g` is scored for type :math:`k` by :math:`s_{kg} \log(s_{kg} / \max_{j \ne k} s_{jg})`, with :math:`s` the
    shares of counts: both much expressed and specific. Only genes with at least 1.5 times the share of the next type.

    Parameters
    ----------
    profile
        (K, G) shares of a type's counts, rows sum to about 1.
    n_markers
        Most genes a type.

    Returns
    -------
    (K, n_markers) int32 columns of ``profile``, best first, padded with -1; all -1 where fewer than 4 genes qualify.

    Raises
    ------
    ValueError
        If ``profile`` is no matrix of at least two types.
    """
    profile = np.asarray(profile, dtype=np.float64)
    if profile.ndim != 2 or len(profile) < 2:
        raise ValueError(f"profile must have shape (n_types >= 2, n_genes), found {profile.shape}.")
    n_types, n_genes = profile.shape
    top = np.argsort(-profile, axis=0, kind="stable")[:2]  # (2, G) the two types with most of each gene
    columns = np.arange(n_genes)
    most, next_most = profile[top[0], columns], profile[top[1], columns]
    floor = 0.01 / n_genes  # of a share, so that a gene that the next type lacks is not infinitely specific
    ratio = (most + floor) / (next_most + floor)
    score = np.where(ratio >= _FOLD, most * np.log(ratio), 0.0)
    markers = np.full((n_types, n_markers), -1, dtype=np.int32)
    for k in range(n_types):
        own = np.flatnonzero((top[0] == k) & (score > 0))
        own = own[np.argsort(-score[own], kind="stable")[:n_markers]]
        if len(own) >= _MIN_MARKERS:
            markers[k, : len(own)] = own
    return markers


def marker_scores(counts: sp.csr_matrix, markers: np.ndarray) -> np.ndarray:
    """Sum of each type's log-normalised marker counts (10,000 counts a spot).

    Parameters
    ----------
    counts
        (n_spots, G) raw counts.
    markers
        As :func:`signature_markers` gives them.

    Returns
    -------
    (n_spots, K) float32; 0 for types without markers.
    """
    types, _ = np.nonzero(markers >= 0)
    genes = markers[markers >= 0]
    member = sp.csr_matrix((np.ones(len(genes), np.float32), (genes, types)), (counts.shape[1], len(markers)))
    return np.asarray((log_normalise(counts) @ member).toarray(), dtype=np.float32)


def residual_genes(
    observed: np.ndarray, expected: np.ndarray, genes: Sequence[str], n_genes: int = _TOP
) -> pd.DataFrame:
    r"""Genes that are counted more often than the types explain.

    :math:`z = (o - e) / \sqrt{e + 0.25\,e^2 + 1}`: counting noise, and half of the expected counts for what two platforms
    differ in a gene.

    Parameters
    ----------
    observed, expected
        (G,) totals over spots.
    genes
        G names.
    n_genes
        Most rows.

    Returns
    -------
    ``gene``, ``observed``, ``expected``, ``log2_ratio`` (of both, each with a count of 1 added) and ``z``, largest z first;
    only genes with a positive z.
    """
    observed, expected = np.asarray(observed, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    if not observed.shape == expected.shape == (len(genes),):
        raise ValueError(
            f"observed and expected must hold one total a gene ({len(genes)}), found {observed.shape} and {expected.shape}."
        )
    z = (observed - expected) / np.sqrt(expected + (_RATIO_SPREAD * expected) ** 2 + 1)
    best = np.argsort(-z, kind="stable")[:n_genes]
    best = best[z[best] > 0]
    return pd.DataFrame(
        {
            "gene": np.array([str(genes[i]) for i in best], dtype=object),
            "observed": observed[best],
            "expected": expected[best],
            "log2_ratio": np.log2((observed[best] + 1) / (expected[best] + 1)),
            "z": z[best],
        }
    )


def judge_coverage(
    fraction: np.ndarray,
    scores: np.ndarray,
    explained: np.ndarray,
    unexplained: np.ndarray,
    totals: tuple[np.ndarray, np.ndarray],
    residuals: pd.DataFrame,
    *,
    categories: Sequence[str],
    markers: np.ndarray,
    genes: Sequence[str],
) -> Coverage:
    r"""Judge a map of cell types without knowing the truth.

    Four gates. *Gene totals*: the rank correlation, over genes, of the counts of the section with those that the types predict
    before any platform factor; a reference of another organ predicts other totals. *Explained deviance*: its median over spots.
    *Markers*: the rank correlation :math:`\rho`, over spots, of each type's fraction with the sum of its markers, for types with
    a mean fraction of at least 0.01. Fractions are rounded to 0.02, since zeros have no order, and :math:`\rho` is divided by
    the largest value that the ties allow. *Missing types*: the share of spots with more than 0.2 of their counts unexplained,
    where at least two genes stand out in ``residuals`` with a z of 3.
    A gate that is passed proves nothing: it only shows no sign of failure.

    Parameters
    ----------
    fraction
        (n_spots, K) share of the mRNA; rows with NaN are left out.
    scores
        (n_spots, K) as :func:`marker_scores` gives them.
    explained, unexplained
        (n_spots,) share of the deviance that the types explain, share of the counts that they do not.
    totals
        (G,) counts of each gene in the section, and those that the types predict without platform factors.
    residuals
        As :func:`residual_genes` gives them, of the spots with most unexplained counts.
    categories
        K names.
    markers
        (K, n) as :func:`signature_markers` gives them.
    genes
        Names of the columns that ``markers`` means.

    Returns
    -------
    Coverage
    """
    filled = np.isfinite(fraction).all(axis=1)
    fraction, scores = fraction[filled], scores[filled]
    explained, unexplained = explained[filled], unexplained[filled]
    mean = fraction.mean(axis=0) if len(fraction) else np.zeros(len(categories))
    agreement = _agreement(fraction, scores)
    n_markers = (markers >= 0).sum(axis=1)
    agreement[n_markers == 0] = np.nan
    asked = np.isfinite(agreement) & (mean >= PRESENT)
    sane = ~asked | (agreement >= MIN_AGREEMENT)
    table = pd.DataFrame(
        {
            "cell_type": np.array([str(c) for c in categories], dtype=object),
            "mean_fraction": mean.astype(np.float64),
            "n_markers": n_markers.astype(np.int64),
            "agreement": agreement,
            "passed": sane,
            "markers": np.array([", ".join(str(genes[g]) for g in row[row >= 0]) for row in markers], dtype=object),
        }
    )
    counted, predicted = (np.asarray(t, dtype=np.float64)[:, None] for t in totals)
    used = counted.ravel() > 0
    alike = float(_correlations(_ranks(counted[used]), _ranks(predicted[used]))[0])
    typical = float(np.median(explained)) if len(explained) else np.nan
    worst = float(agreement[asked].min()) if asked.any() else np.nan
    said = unexplained[np.isfinite(unexplained)]
    high = float((said > UNEXPLAINED).mean()) if len(said) else np.nan
    standing_out = int((residuals["z"] >= _STANDING_OUT[1]).sum()) >= _STANDING_OUT[0]
    missing = high > MAX_SPOTS and standing_out
    # NaN, where a gate cannot be judged, passes
    passed = [not alike < MIN_TOTALS, not typical < MIN_EXPLAINED, bool(sane.all()), not missing]
    summary = pd.DataFrame(
        {
            "gate": np.array(["gene totals", "explained deviance", "markers", "missing types"], dtype=object),
            "value": [alike, typical, worst, high],
            "threshold": [MIN_TOTALS, MIN_EXPLAINED, MIN_AGREEMENT, MAX_SPOTS],
            "passed": passed,
        }
    )
    return Coverage(summary, table, residuals, tuple(_words(summary, table, residuals)))


def _words(summary: pd.DataFrame, table: pd.DataFrame, residuals: pd.DataFrame) -> list[str]:
    """A sentence for each gate that is not passed."""
    alike, typical, _, high = summary["value"]
    totals, explained, markers, missing = summary["passed"]
    found = []
    if not totals:
        found.append(
            f"The types predict other gene totals than the section has (rank correlation {alike:.2f}, expected at least "
            f"{MIN_TOTALS}): the reference may be of another tissue, or another technology. Read the map with care."
        )
    if not explained:
        found.append(
            f"The types explain {typical:.0%} of the deviance of a typical spot, expected at least {MIN_EXPLAINED:.0%}: the "
            "reference does not fit this section. Check tissue, species, layer and gene names before reading the map."
        )
    if not markers:
        wrong = table[~table["passed"]]
        names = ", ".join(
            f"{name!r} ({value:.2f})"
            for name, value in zip(wrong["cell_type"][:10], wrong["agreement"][:10], strict=True)
        )
        found.append(
            f"The fractions of {len(wrong)} type{'s' if len(wrong) > 1 else ''} do not follow their own marker genes (rank correlation below "
            f"{MIN_AGREEMENT}): {names}. They may not be in the section; do not read their maps."
        )
    if not missing:
        genes = ", ".join(residuals["gene"][:_NAMED])
        found.append(
            f"{high:.0%} of the spots have more than {UNEXPLAINED:.0%} of their counts unexplained, expected at most "
            f"{MAX_SPOTS:.0%}: a cell type may be missing from the reference, or its cells are in another state than those of the "
            f"section. Genes in excess there: {genes}."
        )
    return found


def _agreement(fraction: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(K,) rank correlations, 1 for the same order; NaN where a column does not vary, or there are fewer than 3 rows."""
    if len(fraction) < 3:
        return np.full(fraction.shape[1], np.nan)
    a, b = _ranks(np.round(fraction / _TIED)), _ranks(scores)
    largest = _correlations(np.sort(a, axis=0), np.sort(b, axis=0))
    found = _correlations(a, b)
    return np.divide(found, largest, out=np.full(len(found), np.nan), where=largest > 0)


def _ranks(values: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    return rankdata(values, axis=0)


def _correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(K,) Pearson correlations of the columns; NaN where one does not vary."""
    if not len(a):
        return np.full(a.shape[1], np.nan)
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    spread = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    return np.divide((a * b).sum(axis=0), spread, out=np.full(a.shape[1], np.nan), where=spread > 0)
