"""Find cell types on tissue."""

from __future__ import annotations

import logging
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sclm import results
from sclm.cells import table_of
from sclm.spatial.colours import type_colours
from sclm.tl._map_spatial_blocks import judge, map_section, names_in_section, section_markers
from sclm.tl._map_spatial_reference import check_roads, prepare
from sclm.tl._map_spatial_section import read_section

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import anndata

    from sclm.evidence import Coverage
    from sclm.models.contract import Generator, SpatialMapper
    from sclm.models.family import Family
    from sclm.tl._map_spatial_blocks import Mapped
    from sclm.tl._map_spatial_reference import Prepared
    from sclm.tl._map_spatial_section import Section

logger = logging.getLogger(__name__)

_KEY = "sclm_cell_type_fraction"
_RESOLUTIONS = ("auto", "spot", "cell")


def map_spatial(
    adata: anndata.AnnData,
    reference: anndata.AnnData | Sequence[anndata.AnnData] | None = None,
    *,
    label_key: str | None = None,
    request: pd.DataFrame | None = None,
    model: str | Path | Family | Generator | SpatialMapper | None = None,
    method: str = "deconvolution",
    resolution: str = "auto",
    smooth: float = 0.0,
    n_cells_per_type: int = 200,
    library_key: str | None = None,
    table_key: str | None = None,
    mod: str | None = None,
    spatial_key: str = "spatial",
    layer: str | None = None,
    gene_key: str | None = None,
    reference_layer: str | None = None,
    reference_gene_key: str | None = None,
    key_added: str = "sclm_cell_type_fraction",
    batch_size: int | None = None,
    seed: int = 0,
    copy: bool = False,
) -> anndata.AnnData | None:
    r"""Find which cell types each spot of a tissue section holds, and how sure that is.

    The reference comes in one of three ways. ``reference=`` and ``label_key=``: labelled cells. ``request=`` and ``model=``: no
    cells at all; a generator writes ``n_cells_per_type`` cells of each requested type, or of all types that its training cells
    of that tissue and disease have, and they are mapped with a wider prior for the platform (standard deviation 1 of the
    logarithm), since a generator has gene biases of its own. ``model=`` alone: a mapper that was trained before.

    In words: the counts of a spot are expected to be the sum over types of an abundance, zero or more, times the type's mean
    profile in the reference, gene by gene times a factor for the platform. The abundances that fit the spot best, divided by
    their sum, are the fractions. What each family does differently is in its documentation.

    A map is a statement of a model. It finds no type that the reference lacks: four gates (below) look for signs that it
    fails, and warn.

    Parameters
    ----------
    adata
        Spots or cells with raw counts and coordinates in ``.obsm``; CSR, CSC or dense, in memory, a view, backed or Dask. Or a
        SpatialData, with ``table_key``, or a MuData.
    reference
        Labelled cells with raw counts; a list of them is joined in the genes that all have.
    label_key
        Column of ``reference.obs`` with the cell types; cells without a label are left out. With ``request``, the generator's
        field of cell types, ``"cell_type"`` where None.
    request
        What to write where there is no reference, as :func:`sclm.request` makes it, e.g.
        ``sclm.request(1, tissue="lung", disease="normal")``. The number of rows does not matter.
    model
        With ``request``, a generator: object, folder or name. Alone, a trained mapper: object, folder or name.
    method
        Family to train on the reference: ``"deconvolution"``, or ``"nnls"`` and ``"tangram"`` to compare with.
    resolution
        ``"spot"`` (several cells each, as Visium), ``"cell"`` (one cell each, as Xenium) or ``"auto"``: the family decides by the
        data and says why.
    smooth
        Weight of the spatial prior, 0 or more: spots are mapped a second time, expecting beforehand this number times the mean
        abundances of their neighbours, which then weigh like this share of the spot's own counts. 0 (default) maps each spot by
        itself; 0.1 helped on smooth sections, from about 0.3 on boundaries blur.
    n_cells_per_type
        Cells to write of each type, with ``request``; below 50 profiles are noisy.
    library_key
        Column of ``.obs`` with the section of each spot, where there are several: each has platform factors of its own.
    table_key
        Table of a SpatialData; it is changed in place, nothing else of the SpatialData is.
    mod
        Modality of a MuData with the RNA, which is changed in place. May be left out where it is called ``"rna"`` or is the only one.
    spatial_key
        Key of ``.obsm`` with the coordinates, (n_obs, 2).
    layer
        Layer of ``adata`` with the raw counts; ``.X`` where None.
    gene_key
        Column of ``adata.var`` with symbols or Ensembl ids; ``.var_names`` where None.
    reference_layer
        Layer of the reference with the raw counts; ``.X`` where None.
    reference_gene_key
        Column of ``reference.var`` with symbols or Ensembl ids; ``.var_names`` where None.
    key_added
        Name of everything written. The two columns of ``.obs`` are then ``<key_added>_dominant`` and
        ``<key_added>_unexplained``.
    batch_size
        Spots a block; chosen by memory where None. ``"tangram"`` maps all spots together, whatever is asked.
    seed
        Of the generated cells and of the spots that platform factors are fitted on.
    copy
        Return a changed copy (of a SpatialData, of its table) instead of changing ``adata``.

    Returns
    -------
    None, or the copy. Sets, with ``key_added`` in place of ``sclm_cell_type_fraction``:

    ``.obsm["sclm_cell_type_fraction"]`` : float32 (n_obs, n_types)
        Share of the spot's mRNA that comes from each type; rows sum to 1, and are NaN for spots without counts in the genes in
        use. Columns are named in ``.uns["sclm_cell_type_fraction"]["categories"]``.
    ``.obsm["sclm_cell_type_fraction_cells"]`` : float32 (n_obs, n_types)
        Share of the spot's cells: mRNA divided by the counts a cell of the type in the reference.
    ``.obsm["sclm_cell_type_fraction_se"]`` : float32 (n_obs, n_types)
        Standard error of the share of mRNA.
    ``.obs["sclm_dominant_cell_type"]`` : categorical
        Type with the largest share of mRNA. Its categories are those that occur, in the order of the columns: squidpy's
        statistics divide by zero for categories without spots. Missing for spots without counts, which squidpy refuses: leave
        them out before :func:`squidpy.gr.nhood_enrichment`.
    ``.obs["sclm_unexplained"]`` : float32, 0–1
        Share of the spot's counts that no type of the reference explains.
    ``.uns["sclm_dominant_cell_type_colors"]`` : array of text
        A colour a category.
    ``.uns["sclm_cell_type_fraction"]`` : dict
        The record: tool, model, parameters, seed, ``categories``, ``colors`` of all of them, ``resolution`` and its ``reason``,
        ``genes`` (numbers), ``platform`` (``libraries``, ``genes`` in the section's names, ``factor``, float32 (n_libraries, n_genes)),
        ``reference`` (provenance: kind, cells a type; of a generated one the generator, request, seed and share of implausible
        cells), ``gates`` and ``warnings``.

    The gates, tables in ``.uns["sclm_cell_type_fraction"]["gates"]`` (see :class:`sclm.evidence.Coverage`): ``summary``; whether
    each type follows its own marker genes (``markers``); genes counted more than the types explain (``residual_genes``). They
    need no truth, and a gate that is passed proves nothing.

    Raises
    ------
    ValueError
        If not exactly one reference is named, the counts are not raw, the genes do not overlap, coordinates are missing or all
        the same, several sections come without ``library_key``, or an argument is out of range. The AnnData is unchanged.
    KeyError
        If the coordinates, a column or a layer do not exist.
    TypeError
        If an argument is of the wrong kind, or a SpatialData comes without ``table_key``.

    Notes
    -----
    Count models with platform factors gene by gene: Cable et al., Nat Biotechnol 2022 (RCTD). ``"tangram"`` maps types as
    Biancalani et al., Nat Methods 2021, do; ``"nnls"`` is non-negative least squares, Lawson & Hanson 1974.

    Examples
    --------
    >>> import sclm
    >>> cells = sclm.datasets.pbmc68k()
    >>> section = sclm.datasets.simulate_section(cells[::2].copy(), "cell_type", n_spots=60)
    >>> sclm.tl.map_spatial(section, cells[1::2].copy(), label_key="cell_type")
    >>> section.obsm["sclm_cell_type_fraction"].shape
    (60, 10)
    >>> sclm.get.map_spatial(section).columns.tolist()
    ['spot', 'cell_type', 'fraction', 'cell_fraction', 'standard_error']
    """
    results.check_name(key_added)
    check_roads(
        reference, label_key, request, model, method, n_cells_per_type,
        {"reference_layer": reference_layer, "reference_gene_key": reference_gene_key},
    )  # fmt: skip
    _check_arguments(resolution, smooth, batch_size, seed)
    table = table_of(adata, table_key, mod)
    if not copy and getattr(table, "is_view", False) and table.isbacked:
        raise ValueError(
            "Results cannot be written into a view of a backed AnnData. Pass copy=True, or call .to_memory() on it."
        )
    section = read_section(table, spatial_key=spatial_key, library_key=library_key, layer=layer, gene_key=gene_key)
    source = section.source
    if smooth and source.n_cells < 2:
        raise ValueError(f"smooth={smooth} needs neighbours, found one spot. Leave smooth= out.")
    graph = section.neighbours() if smooth else None

    prepared = prepare(
        reference, label_key, request, model, method, source.genes, n_cells_per_type=n_cells_per_type,
        layer=reference_layer, gene_key=reference_gene_key, seed=seed,
    )  # fmt: skip
    abilities = getattr(prepared.mapper, "abilities", frozenset({"neighbours", "cells", "platform", "blocks"}))
    if smooth and "neighbours" not in abilities:
        family = getattr(prepared.mapper, "family", type(prepared.mapper).__name__)
        raise ValueError(f"{family!r} does not take neighbours into account, found smooth={smooth}. Leave smooth= out.")
    if "blocks" not in abilities:
        batch_size = max(source.n_cells, 1)  # its spots are mapped together
    match = prepared.mapper.match(source.genes)
    logger.info("genes: %s", match.summary())
    shift = {} if prepared.shift is None else {"shift": prepared.shift}
    mapper = prepared.mapper.adapt(source, library_key=library_key, resolution=resolution, seed=seed, **shift)
    logger.info("resolution: %s, since %s", mapper.resolution, mapper.reason)
    markers = section_markers(mapper)
    mapped, prior = map_section(mapper, source, markers, graph, float(smooth), batch_size)
    genes = names_in_section(mapper, source)
    coverage = judge(mapper, source, mapped, markers, genes, prior, batch_size)
    warnings = [*section.warnings, *prepared.warnings, *coverage.warnings]
    for warning in coverage.warnings:
        logger.warning("%s", warning)
    dominant, unexplained = (
        ("sclm_dominant_cell_type", "sclm_unexplained") if key_added == _KEY else (f"{key_added}_dominant", f"{key_added}_unexplained")
    )  # fmt: skip
    empty = int(np.isnan(mapped.fraction[:, 0]).sum())
    if empty:
        warnings.append(
            f"{empty:,} of {source.n_cells:,} spots have no counts in the {len(mapper.genes):,} genes in use: their fractions are "
            f"NaN. Leave them out before squidpy's statistics: adata[adata.obs[{dominant!r}].notna()].copy()."
        )
        logger.warning("%s", warnings[-1])

    params = {
        "method": method,
        "resolution": resolution,
        "smooth": float(smooth),
        "shift": prepared.shift if "platform" in abilities and mapper.resolution == "spot" else None,
        "n_cells_per_type": int(n_cells_per_type) if request is not None else None,
        "label_key": label_key,
        "library_key": library_key,
        "table_key": table_key,
        "mod": mod,
        "spatial_key": spatial_key,
        "layer": layer,
        "gene_key": gene_key,
        "reference_layer": reference_layer,
        "reference_gene_key": reference_gene_key,
    }
    entry = _record(prepared, mapper, section, match, genes, coverage, warnings, params, seed)
    entry |= {"dominant_key": dominant, "unexplained_key": unexplained}
    target = table.copy() if copy and not table.isbacked else table.to_memory() if copy else table
    labels, colours = _dominant(mapped, mapper.categories, entry["colors"])
    results.write(
        target,
        key_added,
        entry,
        obs={dominant: labels, unexplained: mapped.unexplained},
        obsm={
            key_added: mapped.fraction,
            f"{key_added}_cells": mapped.cell_fraction,
            f"{key_added}_se": mapped.standard_error,
        },
        uns={f"{dominant}_colors": colours},
    )
    return target if copy else None


def _check_arguments(resolution: Any, smooth: Any, batch_size: Any, seed: Any) -> None:
    if resolution not in _RESOLUTIONS:
        raise ValueError(f"resolution must be one of {', '.join(map(repr, _RESOLUTIONS))}, found {resolution!r}.")
    if isinstance(smooth, bool) or not isinstance(smooth, Real):
        raise TypeError(f"smooth must be a number, 0 or more, found {type(smooth).__name__} {smooth!r}.")
    if not 0 <= float(smooth) < np.inf:
        raise ValueError(f"smooth must be a number, 0 or more, found {smooth}. Use e.g. 0.05, or 0 for none.")
    for name, value in (("seed", seed), ("batch_size", batch_size)):
        if (name == "seed" or value is not None) and (isinstance(value, bool) or not isinstance(value, Integral)):
            raise TypeError(f"{name} must be a whole number, found {type(value).__name__} {value!r}.")
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, found {seed}.")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, found {batch_size}. Leave it out to choose by memory.")


def _dominant(mapped: Mapped, categories: Sequence[str], colours: Sequence[str]) -> tuple[pd.Categorical, list[str]]:
    """Type with the largest fraction of each spot, and the colours of the types that occur."""
    filled = np.isfinite(mapped.fraction).all(axis=1)
    codes = np.where(filled, np.where(filled[:, None], mapped.fraction, 0).argmax(axis=1), -1)
    there = np.unique(codes[filled])  # in the order of the columns
    place = np.full(len(categories) + 1, -1)  # the last entry is that of code -1
    place[there] = np.arange(len(there))
    names = pd.Index(np.array([str(categories[k]) for k in there], dtype=object))
    return pd.Categorical.from_codes(place[codes], categories=names), [colours[k] for k in there]


def _record(
    prepared: Prepared,
    mapper: Any,
    section: Section,
    match: Any,
    genes: list[str],
    coverage: Coverage,
    warnings: list[str],
    params: dict[str, Any],
    seed: int,
) -> dict[str, Any]:
    """What ``.uns`` keeps."""
    model = prepared.mapper
    return results.record(
        "map_spatial",
        model=model.provenance() if hasattr(model, "provenance") else {"family": type(model).__name__},
        params=params,
        seed=int(seed),
        categories=np.array([str(c) for c in mapper.categories], dtype=object),
        colors=type_colours(len(mapper.categories)),
        resolution=str(mapper.resolution),
        reason=str(mapper.reason),
        genes={
            "matched": match.matched,
            "in_reference": match.in_model,
            "in_data": match.in_data,
            "used": len(mapper.genes),
        },
        platform={
            "libraries": np.array([str(name) for name in mapper.libraries], dtype=object),
            "genes": np.array(genes, dtype=object),
            "factor": np.asarray(mapper.platform, dtype=np.float32),
        },
        neighbours="none" if not params["smooth"] else "squidpy" if section.graph is not None else "coordinates",
        reference=prepared.provenance,
        gates={
            "summary": coverage.summary,
            "markers": coverage.markers,
            "residual_genes": coverage.residual_genes,
        },
        warnings=np.array(warnings, dtype=object),
    )
