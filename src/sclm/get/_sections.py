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


def domains(adata: anndata.AnnData, *, key: str = "sclm_domain") -> pd.DataFrame:
    """Domain of every spot.

    Parameters
    ----------
    adata
        Divided by :func:`sclm.tl.domains`.
    key
        ``key_added`` of that call.

    Returns
    -------
    One row a spot, indexed as the spots: ``domain`` (categorical, the largest first; missing for spots without a vector), ``entropy``
    (float32, 0-1: of the labels around it), and ``library`` where there were several sections.

    Raises
    ------
    KeyError
        If there is no such result.
    """
    import pandas as pd

    entry = results.read(adata, key, "domains")
    columns = {"domain": adata.obs[key].array, "entropy": adata.obs[f"{key}_entropy"].array}
    library_key = entry["params"].get("library_key")
    if library_key is not None:
        columns["library"] = adata.obs[library_key].array
    return pd.DataFrame(columns, index=adata.obs_names)


def domains_stability(adata: anndata.AnnData, *, key: str = "sclm_domain") -> pd.DataFrame:
    """How stable each number of domains was, where the number was chosen.

    Parameters
    ----------
    adata
        Divided by :func:`sclm.tl.domains` without ``n_domains``.
    key
        ``key_added`` of that call.

    Returns
    -------
    As :func:`sclm.spatial.domain_stability` gives it: ``n_domains``, ``agreement``, ``spread``.

    Raises
    ------
    KeyError
        If there is no such result, or the number was given.
    """
    entry = results.read(adata, key, "domains")
    if "stability" not in entry:
        raise KeyError(
            f"adata.uns[{key!r}] has no 'stability': n_domains={entry['n_domains']} was given. Leave n_domains= out."
        )
    return entry["stability"].reset_index(drop=True)
