"""How well a cell's genes fit every term: prototypes of the training types, moved along the graph to the types that have none.

n cells · C terms · S training types · G genes of the vocabulary
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import sparse

from sclm.cells import log_normalise

if TYPE_CHECKING:
    from sclm.models.celltosg.signatures import Signatures

_LEAST_SPREAD = 0.2  # of log-normalised values: below, noise of rare genes would speak loudest
_CLIP = (-4.0, 8.0)  # standardised values beyond say no more
_KIN = 6.0  # power of Lin similarity by which training types lend a term their prototype
_RIDGE = 5.0


class Prototypes(NamedTuple):
    """What is usual of the training types.

    Attributes
    ----------
    centre, spread
        (G,) float32 mean over types of log-normalised values, and standard deviation within types.
    means
        (S, G) float32 standardised means of the types.
    """

    centre: np.ndarray
    spread: np.ndarray
    means: np.ndarray

    @classmethod
    def fit(cls, lognormal: sparse.csr_matrix, codes: np.ndarray, n_types: int) -> Prototypes:
        """From labelled cells, (n, G) and their types (n,). A type without cells lies at the centre."""
        count = np.bincount(codes, minlength=n_types).astype(np.float64)
        member = sparse.csr_array((np.ones(len(codes)), (codes, np.arange(len(codes)))), shape=(n_types, len(codes)))
        size = np.maximum(count, 1.0)[:, None]
        means = (member @ lognormal).toarray() / size
        squares = (member @ lognormal.multiply(lognormal)).toarray() / size
        here = count > 0
        centre = means[here].mean(axis=0)
        within = np.sqrt(np.maximum((squares - means**2)[here].mean(axis=0), 0.0))
        spread = np.maximum(within, _LEAST_SPREAD)
        standard = np.where(here[:, None], (means - centre) / spread, 0.0)
        return cls(*(x.astype(np.float32) for x in (centre, spread, standard)))

    def standardise(self, lognormal: sparse.csr_matrix, absent: np.ndarray | None = None) -> np.ndarray:
        """(n, G) float32 standardised values; 0 for genes (G,) bool that the data lacks."""
        z = (lognormal.toarray() - self.centre) / self.spread
        if absent is not None:
            z[:, absent] = 0.0
        return np.clip(z, *_CLIP).astype(np.float32)


class Keys(NamedTuple):
    """Expected standardised profiles of terms.

    Attributes
    ----------
    profiles
        (C, G) float32.
    kinship
        (C, S) float64 weights of the training types in a term's base, rows sum to 1 (or 0 without kin).
    slopes
        Of the text's and of the markers' signature, learnt on the training types.
    """

    profiles: np.ndarray
    kinship: np.ndarray
    slopes: np.ndarray


def predict_keys(prototypes: Prototypes, similarity: np.ndarray, places: np.ndarray, signatures: Signatures) -> Keys:
    r"""Profiles of all terms: their own where cells showed it, else that of their kin, moved by what the graph says of the difference.

    .. math:: q_c = \sum_s K_{cs} z_s + b_1 (t_c - \sum_s K_{cs} t_s) + b_2 (m_c - \sum_s K_{cs} m_s)

    with prototypes z, text and marker signatures t and m, :math:`K \propto \mathrm{lin}^6`. The slopes b are fitted by ridge regression
    on the training types, each from the others.

    Parameters
    ----------
    prototypes
        S types, all of them terms.
    similarity
        (C, S) Lin similarity.
    places
        (S,) rows of the training types among the terms, -1 for a type that is no term.
    signatures
        Of the terms.

    Returns
    -------
    The :class:`Keys`.
    """
    own = np.flatnonzero(places >= 0)
    z, at = prototypes.means[own], places[own]
    kin = similarity[:, own] ** _KIN
    kinship = kin / np.maximum(kin.sum(axis=1, keepdims=True), 1e-6)
    between = kin[at].copy()
    np.fill_diagonal(between, 0.0)
    between = between / np.maximum(between.sum(axis=1, keepdims=True), 1e-6)
    parts = [signatures.text, signatures.markers]
    design = np.stack([(x[at] - between @ x[at]).ravel() for x in parts], axis=1)  # (S G, 2)
    target = (z - between @ z).ravel()
    slopes = np.linalg.solve(design.T @ design + _RIDGE * np.eye(2), design.T @ target)
    profiles = kinship @ z
    for slope, x in zip(np.maximum(slopes, 0.0), parts, strict=True):
        profiles = profiles + slope * (x - kinship @ x[at])
    profiles[at] = z
    full = np.zeros((len(similarity), len(places)))
    full[:, own] = kinship
    return Keys(profiles.astype(np.float32), full, slopes)


class Fit(NamedTuple):
    """How cells fit terms, (n, C) float32 each."""

    profile: np.ndarray  # z · q - |q|² / 2: log likelihood ratio against the centre, up to a scale
    text: np.ndarray  # z · t
    markers: np.ndarray  # z · m
    named: np.ndarray  # z · n


def fit_terms(standard: np.ndarray, keys: Keys, signatures: Signatures) -> Fit:
    """Fit of cells (n, G), standardised, to every term."""
    q = keys.profiles
    profile = standard @ q.T - 0.5 * np.einsum("cg,cg->c", q, q)[None, :]
    named = np.ascontiguousarray((signatures.named @ standard.T).T)  # the sparse one first
    return Fit(profile, standard @ signatures.text.T, standard @ signatures.markers.T, named)


def lognormal_of(counts: sparse.csr_matrix, share: np.ndarray, absent: np.ndarray | None) -> sparse.csr_matrix:
    """Log-normalised counts; depth is corrected for the share (G,) of counts that absent genes (G,) bool would have held."""
    expected = 1.0 if absent is None else float(share[~absent].sum() / max(share.sum(), 1e-12))
    return log_normalise(counts, 1e4 * max(expected, 1e-6))
