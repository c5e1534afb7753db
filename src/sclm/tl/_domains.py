"""Divide sections into domains."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sclm import results
from sclm.cells import table_of
from sclm.models.contract_spots import SpotEncoder
from sclm.spatial.colours import type_colours
from sclm.tl._model import loaded
from sclm.tl._spots import spot_vectors, surroundings

if TYPE_CHECKING:
    from pathlib import Path

    import anndata

    from sclm.models.family import Family

logger = logging.getLogger(__name__)

_DEFAULT = "hop-mean"
_MOST = 15  # domains that are tried where no number is given
_NEVER = 2.0  # above any label entropy


def domains(
    adata: anndata.AnnData,
    model: str | Path | Family | SpotEncoder | None = None,
    *,
    n_domains: int | None = None,
    use_rep: str | None = None,
    refine: float | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
    mod: str | None = None,
    spatial_key: str = "spatial",
    layer: str | None = None,
    gene_key: str | None = None,
    key_added: str = "sclm_domain",
    batch_size: int | None = None,
    device: str | None = None,
    seed: int = 0,
    copy: bool = False,
) -> anndata.AnnData | None:
    r"""Divide tissue sections into domains: regions whose spots and surroundings are alike.

    Each spot gets a vector that knows its surroundings, from a family that is fitted on the sections at hand; 20 principal components of
    the vectors (of ``"graphst"``, beside their means over two hops) are divided by a mixture of Gaussians with one covariance. Several
    sections are divided together, so that a domain has the same name on all of them.

    Domains have no names: they are numbered by size. What they are is told by their markers, by the types of cells in them
    (:func:`sclm.tl.map_spatial`), or by a pathologist.

    Parameters
    ----------
    adata
        Spots or cells with raw counts, and coordinates in ``.obsm``; CSR, CSC or dense, in memory, a view, backed or Dask. Or a
        SpatialData, with ``table_key``, or a MuData. The graph of squidpy in ``.obsp["spatial_connectivities"]`` is used where it is there.
    model
        Family that gives spots vectors: ``"hop-mean"`` (None; means over neighbours, the default for its speed) or ``"graphst"`` (a graph
        network, which is fitted first, takes 40 to 60 times as long, and was ahead on some sections and behind on others), or such a model.
    n_domains
        Number of domains, from 2. None: from 2 to 15, the largest whose divisions of subsamples agree nearly as well as those of
        the best number (:func:`sclm.spatial.stable_number`); the table is kept in the record.
    use_rep
        Key of ``.obsm`` with vectors that are there already, such as ``"X_sclm_graphst"`` of :func:`sclm.tl.embed` or fractions of cell types;
        then no model is asked and no counts are read.
    refine
        Label entropy around a spot, 0-1, from which on it takes the label of the majority around it: 0 for all spots, 1 or more for none.
        It mends noisy labels and blurs smooth ones. None: for none, since it helped neither family.
    library_key
        Column of ``.obs`` with the section of each spot, where there are several. Neighbours are of one section. What differs
        between whole sections, mean and strength, is taken out by the families; vectors of ``use_rep`` are taken as they are.
    table_key
        Table of a SpatialData; it is changed in place, nothing else of the SpatialData is.
    mod
        Modality of a MuData with the RNA, which is changed in place. May be left out where it is called ``"rna"`` or is the only one.
    spatial_key
        Key of ``.obsm`` with the coordinates, (n_obs, 2).
    layer
        Layer with the raw counts; ``.X`` where None.
    gene_key
        Column of ``.var`` with gene names; ``.var_names`` where None.
    key_added
        Name of everything written.
    batch_size
        Spots a block, for ``"graphst"``; chosen by memory where None. It does not change the result.
    device
        Where a network is fitted: ``"cpu"``, ``"cuda"``, ``"auto"`` …; the CPU where None.
    seed
        Of the network, of the mixture's starts and of subsamples.
    copy
        Return a changed copy (of a SpatialData, of its table) instead of changing ``adata``.

    Returns
    -------
    None, or the copy. Sets, with ``key_added`` in place of ``sclm_domain``:

    ``.obs["sclm_domain"]`` : categorical
        ``"0"`` (the largest), ``"1"`` …; missing for spots without a vector, which squidpy refuses: leave them out before its statistics.
    ``.obs["sclm_domain_entropy"]`` : float32, 0–1
        Entropy of the labels within three hops, over its largest value: high at borders and where labels are noisy.
    ``.uns["sclm_domain_colors"]`` : array of text
        A colour a domain.
    ``.uns["sclm_domain"]`` : dict
        The record: model, parameters, seed, ``categories``, ``sizes``, ``n_domains``, ``chosen`` (``"given"`` or ``"stability"``),
        ``stability`` (table, where the number was chosen), ``refine``, ``n_refined``, ``domain_hops``, ``neighbours`` (``"squidpy"`` or
        ``"coordinates"``).
    ``.obsp["spatial_connectivities"]``, ``.obsp["spatial_distances"]``, ``.uns["spatial_neighbors"]``
        The graph under squidpy's keys, where it had to be built: none was there, or one that sclm wrote for another ``spatial_key`` or ``library_key``.

    Raises
    ------
    ValueError
        If the counts are not raw, coordinates are missing or all the same, several sections come without ``library_key``, fewer than ten
        spots have counts, or an argument is out of range. The AnnData is unchanged.
    KeyError
        If the coordinates, vectors, a column or a layer do not exist.
    TypeError
        If the model gives spots no vectors, or a SpatialData comes without ``table_key``.

    Notes
    -----
    GraphST: Long et al., Nature Communications 14, 2023. Hops: CellCharter, Varrone et al., Nature Genetics 56, 2024.

    Examples
    --------
    >>> import sclm
    >>> cells = sclm.datasets.pbmc68k()
    >>> section = sclm.datasets.simulate_section(cells, "cell_type", n_spots=100)
    >>> sclm.tl.domains(section, n_domains=3)
    >>> section.obs["sclm_domain"].cat.categories.tolist()
    ['0', '1', '2']
    """
    results.check_name(key_added)
    _check_arguments(n_domains, refine, seed)
    table = table_of(adata, table_key, mod)
    if not copy and getattr(table, "is_view", False) and table.isbacked:
        raise ValueError(
            "Results cannot be written into a view of a backed AnnData. Pass copy=True, or call .to_memory() on it."
        )
    encoder: Any = None
    hops = 0
    if use_rep is None:
        encoder = loaded(_DEFAULT if model is None else model, SpotEncoder, "embed_spots", "give spots vectors")
        hops = encoder.domain_hops
    elif model is not None:
        raise ValueError(f"use_rep={use_rep!r} names vectors that are there, found model= besides. Pass one of them.")
    elif use_rep not in table.obsm:
        there = ", ".join(map(repr, table.obsm)) or "nothing"
        raise KeyError(f"use_rep={use_rep!r} is not in .obsm, which holds {there}. Make it with sclm.tl.embed.")
    around = surroundings(
        table, spatial_key=spatial_key, library_key=library_key, layer=layer, gene_key=gene_key, counts=encoder is not None
    )  # fmt: skip
    if encoder is None:
        stored: Any = table.obsm[use_rep]
        dense = stored.toarray() if hasattr(stored, "toarray") else stored
        vectors = np.asarray(dense, dtype=np.float64).reshape(table.n_obs, -1)
        made = table.uns.get(use_rep)
        hops = int(made.get("domain_hops", 0)) if isinstance(made, Mapping) else 0
    else:
        vectors = spot_vectors(encoder, around, batch_size=batch_size, device=device, seed=seed)
    threshold = _NEVER if refine is None else float(refine)
    found = _divide(vectors, around, n_domains, hops, threshold, seed)

    entry = results.record(
        "domains",
        model={"family": "none"} if encoder is None
        else encoder.provenance() if hasattr(encoder, "provenance")
        else {"family": type(encoder).__name__},
        params={
            "use_rep": use_rep, "library_key": library_key, "table_key": table_key, "mod": mod, "spatial_key": spatial_key, "layer": layer,
            "gene_key": gene_key,
        },
        seed=int(seed),
        refine=threshold,
        domain_hops=hops,
        neighbours=around.origin,
        warnings=np.array(around.section.warnings, dtype=object),
        **found["facts"],
    )  # fmt: skip
    obsp, graph = around.written()
    target = table.copy() if copy and not table.isbacked else table.to_memory() if copy else table
    results.write(
        target,
        key_added,
        entry,
        obs={key_added: found["labels"], f"{key_added}_entropy": found["entropy"]},
        obsp=obsp,
        uns={f"{key_added}_colors": type_colours(len(found["labels"].categories)), **graph},
    )
    return target if copy else None


def _divide(
    vectors: np.ndarray, around: Any, n_domains: int | None, hops: int, threshold: float, seed: int
) -> dict[str, Any]:
    """Labels of all spots, and what the record says of them."""
    from sclm.spatial import (
        domain_stability,
        gaussian_domains,
        hop_means,
        label_entropy,
        label_votes,
        leading_components,
        reading_order,
        refine_labels,
        stable_number,
    )

    order = reading_order(around.section.coordinates, around.section.library)
    rows = order[np.isfinite(vectors[order]).all(axis=1)]
    if len(rows) < 10:
        raise ValueError(f"Domains need at least 10 spots with vectors, found {len(rows)}.")
    points = leading_components(hop_means(vectors[rows], around.graph[rows][:, rows], hops) if hops else vectors[rows])
    facts: dict[str, Any] = {"chosen": "given"}
    if n_domains is None:
        numbers = range(2, min(_MOST, len(rows) // 5) + 1)
        stability = domain_stability(points, numbers, seed=seed)
        n_domains, facts = stable_number(stability), {"chosen": "stability", "stability": stability}
    if n_domains > len(rows):
        raise ValueError(
            f"n_domains must be at most the number of spots with vectors, {len(rows):,}, found {n_domains}."
        )
    codes = np.full(len(vectors), -1, dtype=np.int64)
    codes[rows] = gaussian_domains(points, n_domains, seed=seed).codes
    refined = refine_labels(codes, around.graph, threshold)
    facts["n_refined"] = int((refined != codes).sum())
    codes = _numbered(refined, rows)
    names = [str(i) for i in range(int(codes.max()) + 1)]
    entropy = label_entropy(label_votes(codes, around.graph))
    facts |= {
        "n_domains": len(names),
        "categories": np.array(names, dtype=object),
        "sizes": np.bincount(codes[rows], minlength=len(names)),
    }
    if len(names) < n_domains:
        logger.warning("%d domains were asked for, and spots fall into %d.", n_domains, len(names))
    return {
        "labels": pd.Categorical.from_codes(codes, categories=pd.Index(np.array(names, dtype=object))),
        "entropy": np.where(codes >= 0, entropy, np.nan).astype(np.float32),
        "facts": facts,
    }


def _numbered(codes: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The same labels without those that refinement has emptied, the largest first; `rows` are the spots in reading order."""
    from sclm.spatial.domains import by_size

    out = np.full(len(codes), -1, dtype=np.int64)
    out[rows] = by_size(codes[rows])
    return out


def _check_arguments(n_domains: Any, refine: Any, seed: Any) -> None:
    for name, value, least in (("n_domains", n_domains, 2), ("seed", seed, 0)):
        if value is None and name == "n_domains":
            continue
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f"{name} must be a whole number, found {type(value).__name__} {value!r}.")
        if value < least:
            raise ValueError(f"{name} must be {least} or more, found {value}.")
    if refine is not None and (isinstance(refine, bool) or not isinstance(refine, Real)):
        raise TypeError(f"refine must be a number from 0 to 1, found {type(refine).__name__} {refine!r}.")
    if refine is not None and not 0 <= float(refine) < np.inf:
        raise ValueError(f"refine must be a number from 0 to 1, found {refine}. Leave it out for the family's own.")
