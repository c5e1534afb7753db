"""Tables of what the tools wrote about sections of tissue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sclm import results

if TYPE_CHECKING:
    import anndata
    import pandas as pd


def map_spatial(adata: anndata.AnnData, *, key: str = "sclm_cell_type_fraction") -> pd.DataFrame:
    """Fraction of every cell type in every spot.

    Parameters
    ----------
    adata
        Mapped by :func:`sclm.tl.map_spatial`.
    key
        ``key_added`` of that call.

    Returns
    -------
    One row a spot and cell type, spot after spot: ``spot`` (name), ``cell_type`` (categorical, in the order of the columns),
    ``fraction`` (of the mRNA), ``cell_fraction`` (of the cells) and ``standard_error`` (of ``fraction``), all float32; NaN for
    spots without counts.

    Raises
    ------
    KeyError
        If there is no such result.
    """
    import pandas as pd

    entry = results.read(adata, key, "map_spatial")
    names = pd.Index(np.asarray(entry["categories"], dtype=object))
    n_spots, n_types = adata.obsm[key].shape
    values = {"fraction": key, "cell_fraction": f"{key}_cells", "standard_error": f"{key}_se"}
    return pd.DataFrame(
        {
            "spot": np.repeat(np.asarray(adata.obs_names, dtype=object), n_types),
            "cell_type": pd.Categorical.from_codes(np.tile(np.arange(n_types), n_spots), categories=names),
            # (n_spots, n_types) → (n_spots * n_types,), spot after spot
            **{name: np.asarray(adata.obsm[slot]).reshape(-1) for name, slot in values.items()},
        }
    )
