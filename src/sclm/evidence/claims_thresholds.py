"""Where statements are kept, softened or removed. Chosen on one data set of sorted blood cells, and frozen."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ClaimThresholds:
    r"""Thresholds of the checks.

    The support of an identity is :math:`1 / (1 + e^{-(a + b z + c f + d m)})`: z says how far the type's markers exceed those of other
    cells (standard deviations, from -2 to 3), f how far they exceed those of the best type that is no relative (nats, from -8 to 8), m is 1
    where one of its markers or more is raised. The coefficients were fitted by logistic regression to true identities and identities of other
    types in 3,774 sorted blood cells (Zheng et al. 2017), and the limits chosen there so that 95 of 100 statements that are removed are
    false. ``benchmarks/describe_falsehoods.py`` does so, and tests them on other data.

    Attributes
    ----------
    cell, group
        a, b, c, d for single cells and for groups.
    keep, remove
        Support from which on an identity is kept, and below which it is removed; between them it is softened.
    rival
        A relative that fits better by so many nats makes an identity "consistent with", at best.
    gene_keep, gene_remove
        The same limits for the probability that a gene is on in a cell; one that the cell does not show is always removed.
    fold, fold_some
        log2 fold change of a gene in a group over all other cells: kept, softened.
    effect
        Standard deviations between the mean of a group and that of the others that a kept gene needs.
    q, p
        A pathway is kept up to this false discovery rate, softened up to this p value.
    """

    cell: tuple[float, float, float, float] = (-0.43, 0.70, 0.64, 1.77)
    group: tuple[float, float, float, float] = (-1.52, 4.00, 1.56, 0.0)
    keep: float = 0.8
    remove: float = 0.1
    rival: float = -2.0
    gene_keep: float = 0.8
    gene_remove: float = 0.001
    fold: float = 1.0
    fold_some: float = 0.4
    effect: float = 0.3
    q: float = 0.05
    p: float = 0.05


DEFAULT = ClaimThresholds()
