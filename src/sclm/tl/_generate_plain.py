"""Cells of a model that has no training cells at hand to judge them by: written, counted, recorded."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sclm import results
from sclm.tl._generate_columns import categorical
from sclm.tl._model import check_device, on_device

if TYPE_CHECKING:
    import anndata

    from sclm.models.contract import CellWriter

logger = logging.getLogger(__name__)


def write_plain(
    request: pd.DataFrame,
    model: CellWriter,
    *,
    unused: dict[str, tuple[Any, Any]],
    key_added: str,
    device: str | None,
    seed: int,
) -> anndata.AnnData:
    """Write the cells of a request.

    Parameters
    ----------
    request
        One row a cell.
    model
        Writes them.
    unused
        Arguments of :func:`sclm.tl.generate` that mean nothing here: name → what was passed, and what may be.
    key_added
        Where the record goes.
    device, seed
        As in :func:`sclm.tl.generate`.

    Returns
    -------
    Counts of the genes that were written; the request and what the model noted of each cell in ``.obs``.

    Raises
    ------
    ValueError
        If an argument was passed that means nothing here.
    """
    import anndata

    family = str(model.provenance()["family"])
    for name, (found, default) in unused.items():
        if found != default:
            raise ValueError(f"{name} means nothing to {family!r}, found {found!r}. Leave it out.")
    check_device(model, device)
    with on_device(model, device):
        cells = model.generate(request, seed=seed)
    written = np.flatnonzero(np.bincount(cells.counts.indices, minlength=cells.counts.shape[1]))
    counts = cells.counts[:, written]
    empty = int((np.diff(counts.indptr) == 0).sum())
    warnings = []
    if empty:
        warnings.append(f"{empty} of {len(request)} cells have no gene: the model wrote none that is known.")
        logger.warning("%s", warnings[0])
    columns: dict[str, Any] = {}
    for key, column in cells.obs.items():
        name, plain = str(key), pd.api.types.is_numeric_dtype(column)
        columns[name] = column.to_numpy() if plain else categorical(column)
    names = pd.Index(np.asarray(request.index.astype(str), dtype=object))
    adata = anndata.AnnData(
        counts,
        obs=pd.DataFrame(index=names),
        var=pd.DataFrame(index=pd.Index(np.asarray(cells.genes[written], dtype=object))),
    )
    noted = [name for name in columns if name.startswith("sclm_")]
    entry = results.record(
        "generate",
        model=model.provenance(),
        params={"device": device},
        seed=seed,
        n_cells=len(request),
        requested=[str(name) for name in request.columns],
        columns=list(columns),
        warnings=np.array(warnings, dtype=object),
        totals={name: float(columns[name].sum()) for name in noted},
        writing=model.writing(),
        card=getattr(model, "card", None) or None,
    )
    results.write(adata, key_added, entry, obs=columns)
    logger.info("generated %s cells x %s genes", f"{adata.n_obs:,}", f"{adata.n_vars:,}")
    return adata
