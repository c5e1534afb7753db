"""Where statements are kept, softened or removed. Chosen on one data set of sorted blood cells, and frozen."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ClaimThresholds:
    r"""Thresholds of the checks.

    The support of an identity is :math:`1 / (1 + e^{-(a + b z + c f)})`, with z and f of :class:`~sclm.evidence.claims_identity.Fit`: how far its markers
    exceed those of other cells, and those of the best type that is no relative. The coefficients were fitted by logistic regression to
    true identities and identities of other types in 3,774 sorted blood cells (Zheng et al. 2017), the limits of genes and pathways
    chosen on halves of the same cells. ``benchmarks/describe_falsehoods.py`` does so and tests them on other data.

    Attributes
    ----------
    cell, group
        a, b, c for single cells and for groups.
    keep, remove
        Support from which on a statement is kept, and below which it is removed; between them it is softened.
    rival
        A relative that fits better by so many nats makes an identity "consistent with", at best.
    fold, fold_some
        log2 fold change of a gene in a group over all other cells: kept, softened.
    effect
        Standard deviations between the mean of a group and that of the others that a kept gene needs.
    q, p
        A pathway is kept up to this false discovery rate, softened up to this p value.
    """

    cell: tuple[float, float, float] = (0.46, 3.56, 0.29)
    group: tuple[float, float, float] = (1.81, 1.35, 1.15)
    keep: float = 0.8
    remove: float = 0.2
    rival: float = -2.0
    fold: float = 1.0
    fold_some: float = 0.4
    effect: float = 0.3
    q: float = 0.05
    p: float = 0.05


DEFAULT = ClaimThresholds()
