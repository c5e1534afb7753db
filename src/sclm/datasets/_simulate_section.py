"""A tissue section whose cell types are known: spots mixed from real labelled cells."""

from __future__ import annotations

import logging
import operator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from sclm.cells import read_cells
from sclm.datasets._section_mixing import (
    Known,
    ambient_counts,
    coordinates_of,
    depths_of,
    domains_of,
    draw_cells,
    resampled,
    summed,
    true_shares,
)

if TYPE_CHECKING:
    import anndata

logger = logging.getLogger(__name__)

LAYOUTS = ("hexagonal", "square", "random")
_SPARSITY = 0.4  # Dirichlet parameter of a domain's composition: a few types make up most of it
_SPREAD = 0.05  # share of a domain that all types divide equally: none is absent from the section by design


def simulate_section(
    cells: anndata.AnnData,
    label_key: str,
    *,
    n_spots: int = 1000,
    cells_per_spot: float = 8.0,
    n_domains: int = 4,
    platform: float = 0.0,
    ambient: float = 0.0,
    umi_per_spot: float | None = None,
    layout: str = "hexagonal",
    layer: str | None = None,
    seed: int = 0,
) -> anndata.AnnData:
    r"""Mix real labelled cells into a tissue section with known cell types.

    The section is divided into domains: spots belong to the nearest of `n_domains` seeded centres, measured in
    coordinates bent by smooth waves. Each domain has a composition over the K cell types,
    :math:`\pi_d = 0.95\,\mathrm{Dirichlet}(0.4) + 0.05 / K`: a few types dominate, none is absent everywhere by design.
    Spot s of domain d holds :math:`1 + \mathrm{Poisson}(c - 1)` cells, `c` being `cells_per_spot`; the type of each is
    drawn from :math:`\pi_d` and the cell, with replacement, from those of that type. Their counts are summed to
    :math:`y_s`, with total :math:`n_s`.

    Where `platform`, `ambient` or `umi_per_spot` is given, the spot's counts are drawn anew,

    .. math::

        y'_s \sim \mathrm{Multinomial}\Big(d_s,\; (1 - a)\,\frac{\gamma \odot y_s}{\sum_g \gamma_g y_{sg}}
        + a\,\frac{\gamma \odot m}{\sum_g \gamma_g m_g}\Big), \qquad \gamma_g \propto e^{\sigma z_g},\; z_g \sim N(0, 1)

    with :math:`\sigma` = `platform`, `a` = `ambient`, :math:`m = \sum_s y_s`, and the depth :math:`d_s = n_s`, or, with
    `umi_per_spot`, :math:`d_s \propto n_s e^{0.3 z_s}` scaled to that median: spots with more mRNA stay deeper. Without
    the three, the counts are the sums.

    Everything random comes from separate streams of `seed`: sections of the same cells and seed that differ in
    `platform`, `ambient` or `umi_per_spot` have the same spots, domains, drawn cells and truth.

    Use cells for the section that are not in the reference it is mapped with: otherwise the mapper has seen its own
    answers.

    Parameters
    ----------
    cells
        Cells × genes with raw counts. Cells without counts are never drawn.
    label_key
        Column of ``cells.obs`` with the cell type of every cell.
    n_spots
        Number of spots, at least 1.
    cells_per_spot
        Mean number of cells in a spot, at least 1; with 1, every spot holds exactly one cell (single-cell resolution).
    n_domains
        Number of domains, between 1 and `n_spots`; none is empty.
    platform
        Standard deviation of the logarithm of the factors :math:`\gamma_g` by which the section's technology captures
        each gene otherwise than that of the cells, between 0 and 10 (0.5 is a common difference).
    ambient
        Expected share of each spot's counts that come from the mean profile of the section, at least 0 and below 1.
    umi_per_spot
        Median number of counts of a spot, by default that of the sums. More than the sums hold is possible, with a
        warning: the extra counts carry no information.
    layout
        ``"hexagonal"`` (rows shifted by half a pitch, as Visium) or ``"square"``, with a pitch of 100; ``"random"``:
        uniform over a square of the same area.
    layer
        Layer of `cells` with the raw counts, by default ``.X``.
    seed
        The same arguments and seed give the same section.

    Returns
    -------
    A new AnnData of n spots × the genes of `cells` (repeated gene names summed), with

    ``.X`` : int32 CSR (n, n_genes)
        Raw counts.
    ``.obsm["spatial"]`` : float64 (n, 2)
        Coordinates, in µm where the pitch is taken as Visium's.
    ``.obsm["fraction"]`` : float32 (n, K)
        Share of the spot's mRNA that each type contributes (of :math:`n_s`, before platform and ambient); rows sum to 1.
    ``.obsm["cell_fraction"]`` : float32 (n, K)
        Share of the spot's cells.
    ``.obs`` : DataFrame
        ``domain`` categorical; ``n_cells`` int64; ``cell_type`` categorical, the type of the largest fraction, its
        categories in the order of the columns, without those that are nowhere the largest.
    ``.var["platform_factor"]`` : float32
        :math:`\gamma_g`, scaled so that the section's counts keep their total; 1 without platform effect. Other columns
        are those of `cells`.
    ``.uns["simulation"]`` : dict
        ``categories`` (names of the K columns), ``composition`` float64 (n_domains, K) of :math:`\pi_d`, ``params``,
        ``seed``.

    Raises
    ------
    TypeError
        `cells` is no AnnData, or a number is none.
    KeyError
        The layer or the column of labels is missing.
    ValueError
        The counts are not raw, a label is missing, or a parameter is out of its range.

    Examples
    --------
    >>> import sclm
    >>> cells = sclm.datasets.pbmc68k()
    >>> section = sclm.datasets.simulate_section(cells, "cell_type", n_spots=200, platform=0.5, umi_per_spot=2000)
    >>> section.shape, section.obsm["fraction"].shape
    ((200, 765), (200, 10))
    """
    n_spots, n_domains, seed = (
        _whole(v, n) for v, n in ((n_spots, "n_spots"), (n_domains, "n_domains"), (seed, "seed"))
    )
    if seed < 0:
        raise ValueError(f"seed must be at least 0, found {seed}.")
    _check(n_spots, cells_per_spot, n_domains, platform, ambient, umi_per_spot, layout)
    known = _known_cells(cells, label_key, layer)
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(6)]
    on_grid, drawing, factors, depths, counting, soup = streams

    coordinates = coordinates_of(n_spots, layout, on_grid)
    domain = domains_of(coordinates, n_domains, on_grid)
    n_types = len(known.categories)
    composition = (1 - _SPREAD) * drawing.dirichlet(np.full(n_types, _SPARSITY), n_domains) + _SPREAD / n_types
    drawn = draw_cells(known, composition, domain, cells_per_spot, drawing)
    fraction, cell_fraction = true_shares(known, drawn, n_spots)

    total = np.bincount(drawn.spot, weights=known.totals[drawn.cell], minlength=n_spots)  # (n_spots,)
    mean_profile = known.counts.T @ np.bincount(drawn.cell, minlength=known.counts.shape[0]).astype(np.float64)
    factor = np.exp(platform * factors.standard_normal(known.counts.shape[1]))  # (n_genes,)
    factor *= mean_profile.sum() / (mean_profile @ factor)
    depth = depths_of(total, umi_per_spot, depths)
    if platform or ambient or umi_per_spot is not None:
        from_soup = soup.binomial(depth, ambient)  # (n_spots,)
        profile = np.cumsum(mean_profile * factor)
        rows = [
            resampled(sums, factor, (depth - from_soup)[part], counting)
            + ambient_counts(profile, from_soup[part], soup)
            for part, sums in summed(known, drawn, n_spots)
        ]
    else:
        rows = [sums for _, sums in summed(known, drawn, n_spots)]
    matrix = sparse.csr_matrix(sparse.vstack([r.astype(np.int32) for r in rows], format="csr"))
    matrix.sort_indices()

    dominant = pd.Categorical.from_codes(fraction.argmax(axis=1), categories=pd.Index(known.categories))
    obs = pd.DataFrame(
        {
            "domain": pd.Categorical.from_codes(
                domain, categories=pd.Index([f"domain {i + 1}" for i in range(n_domains)])
            ),
            "n_cells": np.bincount(drawn.spot, minlength=n_spots).astype(np.int64),
            "cell_type": dominant.remove_unused_categories(),
        },
        index=np.array([f"spot{i + 1}" for i in range(n_spots)], dtype=object),
    )
    known.var["platform_factor"] = factor.astype(np.float32)
    params = {
        "label_key": label_key,
        "n_spots": n_spots,
        "cells_per_spot": float(cells_per_spot),
        "n_domains": n_domains,
        "platform": float(platform),
        "ambient": float(ambient),
        "umi_per_spot": None if umi_per_spot is None else float(umi_per_spot),
        "layout": layout,
        "layer": layer,
    }
    record = {
        "categories": known.categories,
        "composition": composition,
        "params": {k: v for k, v in params.items() if v is not None},  # None does not survive every format
        "seed": seed,
    }
    import anndata

    return anndata.AnnData(
        matrix,
        obs=obs,
        var=known.var,
        obsm={"spatial": coordinates, "fraction": fraction, "cell_fraction": cell_fraction},
        uns={"simulation": record},
    )


# -- input -----------------------------------------------------------------------------------------------------------


def _whole(value: Any, name: str) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, found {value!r}.") from None


def _check(
    n_spots: int,
    cells_per_spot: float,
    n_domains: int,
    platform: float,
    ambient: float,
    umi_per_spot: float | None,
    layout: str,
) -> None:
    if n_spots < 1:
        raise ValueError(f"n_spots must be at least 1, found {n_spots}.")
    if not 1 <= n_domains <= n_spots:
        raise ValueError(f"n_domains must be between 1 and n_spots ({n_spots:,}), found {n_domains}.")
    if not 1 <= cells_per_spot < np.inf:
        raise ValueError(
            f"cells_per_spot must be at least 1, found {cells_per_spot}. A spot without cells has no truth."
        )
    if not 0 <= platform <= 10:  # beyond, e^(10 z) leaves one gene
        raise ValueError(f"platform must be a standard deviation between 0 and 10, found {platform}. 0.5 is common.")
    if not 0 <= ambient < 1:
        raise ValueError(f"ambient must be a share of at least 0 and below 1, found {ambient}.")
    if umi_per_spot is not None and not 1 <= umi_per_spot < np.inf:
        raise ValueError(f"umi_per_spot must be at least 1 count, found {umi_per_spot}.")
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(map(repr, LAYOUTS))}, found {layout!r}.")


def _known_cells(cells: anndata.AnnData, label_key: str, layer: str | None) -> Known:
    source = read_cells(cells, layer=layer, obs_keys=[label_key])
    labels = source.obs[label_key]
    missing = labels.isna().to_numpy()
    if missing.any():
        raise ValueError(
            f"cells.obs[{label_key!r}] must hold a cell type for every cell, found {missing.sum():,} of {source.n_cells:,} "
            f"without one. Leave them out: cells[cells.obs[{label_key!r}].notna()]."
        )
    block = source.read()
    totals = np.asarray(block.counts.sum(axis=1, dtype=np.float64)).ravel()
    full = np.flatnonzero(totals > 0)
    if not len(full):
        raise ValueError(f"{source.slot} must hold cells with counts, found none above 0 in {source.n_cells:,} cells.")
    if len(full) < source.n_cells:
        logger.info("%d of %d cells have no counts and are never drawn", source.n_cells - len(full), source.n_cells)
    kept = labels.iloc[full]
    if isinstance(kept.dtype, pd.CategoricalDtype):  # the order of the categories is the user's
        kept = kept.cat.remove_unused_categories()
        codes, categories = kept.cat.codes.to_numpy(), [str(c) for c in kept.cat.categories]
    else:
        codes, unique = pd.factorize(kept.astype(str), sort=True)
        categories = list(unique)
    # Columns of .var belong to a gene only where no column was summed or left out.
    as_stored = not source.duplicates and not source.unnamed and isinstance(cells.var, pd.DataFrame)
    var = cells.var.copy() if as_stored else pd.DataFrame()
    var = var.set_axis(source.genes) if as_stored else pd.DataFrame(index=source.genes)
    return Known(block.counts[full], totals[full], codes.astype(np.int64), categories, var)
