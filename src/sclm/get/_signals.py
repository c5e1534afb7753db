"""Tables of interfaces between tissues and of the signals on the spatial graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sclm import results

if TYPE_CHECKING:
    import anndata
    import pandas as pd


def interface(adata: anndata.AnnData, *, key: str = "sclm_interface") -> pd.DataFrame:
    """Where each spot lies relative to an interface.

    Parameters
    ----------
    adata
        With an interface of :func:`sclm.tl.interface`.
    key
        ``key_added`` of that call.

    Returns
    -------
    One row a spot: ``zone``, ``distance`` (negative inside), ``score``, ``share``, and with several sections ``library``.

    Raises
    ------
    KeyError
        If there is no such result.
    """
    import pandas as pd

    entry = results.read(adata, key, "interface")
    table = pd.DataFrame({"zone": adata.obs[key].array}, index=adata.obs_names)
    for name in ("distance", "score", "share"):
        table[name] = adata.obs[f"{key}_{name}"].to_numpy()
    if "library_key" in entry["params"]:
        table["library"] = adata.obs[entry["params"]["library_key"]].array
    return table


def ligrec(adata: anndata.AnnData, *, key: str = "sclm_ligrec") -> pd.DataFrame:
    """Ligand-receptor pairs with their scores and tests, the smallest p first.

    Parameters
    ----------
    adata
        Tested by :func:`sclm.tl.ligrec`.
    key
        ``key_added`` of that call.

    Returns
    -------
    One row a pair, source and target: ``ligand``, ``receptor``, ``source``, ``target``, ``ligand_mean``, ``receptor_mean``, ``score``,
    ``ratio``, ``z``, ``pval``, ``padj``, as :func:`sclm.tl.ligrec` describes them; with the bundled pairs also ``category`` and
    ``range``. Where p is the same, the larger z comes first.

    Raises
    ------
    KeyError
        If there is no such result.
    """
    entry = results.read(adata, key, "ligrec")
    table = entry["table"].reset_index(drop=True)
    pairs = entry["pairs"].reset_index(drop=True)
    for name in pairs.columns.difference(["ligand", "receptor"], sort=False):
        table[name] = np.tile(pairs[name].to_numpy(), len(table) // len(pairs))
    order = np.lexsort((-table["z"].to_numpy(), table["pval"].to_numpy()))
    return table.iloc[order].reset_index(drop=True)


def ligrec_edges(adata: anndata.AnnData, ligand: str, receptor: str, *, key: str = "sclm_ligrec") -> pd.DataFrame:
    """Scores of a pair on the edges of the spatial graph.

    Parameters
    ----------
    adata
        Tested by :func:`sclm.tl.ligrec`.
    ligand, receptor
        A pair that was tested, the parts of a complex joined by ``_``.
    key
        ``key_added`` of that call.

    Returns
    -------
    One row an edge and direction on which the pair is expressed: ``sender``, ``receiver`` (names of spots), ``ligand`` at the sender and
    ``receptor`` at the receiver (log-normalised), ``score``, their product; the highest score first.

    Raises
    ------
    KeyError
        If there is no such result, or no such pair in it.
    """
    import pandas as pd
    from scipy import sparse

    column = _pair(adata, ligand, receptor, key)
    sent, received = (
        np.asarray(sparse.csc_matrix(adata.obsm[f"{key}_{side}"])[:, [column]].toarray()).ravel()
        for side in ("ligand", "receptor")
    )
    edges = sparse.coo_matrix(adata.obsp[f"{key}_connectivities"])
    score = sent[edges.row] * received[edges.col]
    kept = np.flatnonzero(score > 0)
    kept = kept[np.argsort(-score[kept], kind="stable")]
    names = np.asarray(adata.obs_names, dtype=object)
    return pd.DataFrame(
        {
            "sender": names[edges.row[kept]],
            "receiver": names[edges.col[kept]],
            "ligand": sent[edges.row[kept]],
            "receptor": received[edges.col[kept]],
            "score": score[kept],
        }
    )


def ligrec_spots(adata: anndata.AnnData, *, key: str = "sclm_ligrec") -> pd.DataFrame:
    """Scores of all tested pairs in each spot.

    Parameters
    ----------
    adata
        Tested by :func:`sclm.tl.ligrec`.
    key
        ``key_added`` of that call.

    Returns
    -------
    Spots x pairs, float32: the mean over the spot's edges of ligand times receptor, both ways. Columns are named
    ``"CXCL12 → CXCR4"``.

    Raises
    ------
    KeyError
        If there is no such result.
    """
    import pandas as pd
    from scipy import sparse

    pairs = results.read(adata, key, "ligrec")["pairs"]
    names = [f"{a} → {b}" for a, b in zip(pairs["ligand"], pairs["receptor"], strict=True)]
    values = sparse.csr_matrix(adata.obsm[key]).toarray()
    return pd.DataFrame(values, index=adata.obs_names, columns=names)


def ligrec_squidpy(adata: anndata.AnnData, *, key: str = "sclm_ligrec") -> dict[str, pd.DataFrame]:
    """The result in the form that squidpy's figure takes: ``squidpy.pl.ligrec(sclm.get.ligrec_squidpy(adata))``.

    Parameters
    ----------
    adata
        Tested by :func:`sclm.tl.ligrec`.
    key
        ``key_added`` of that call.

    Returns
    -------
    ``means`` (mean of the ligand's and the receptor's mean), ``pvalues`` and ``metadata``, as :func:`squidpy.gr.ligrec` returns them:
    rows are pairs (``source``, ``target``), columns are groups (``cluster_1``, ``cluster_2``), both with two levels. P values are those
    of :func:`sclm.tl.ligrec`, before correction. This form cannot be written to a file, which is why it is made on demand.

    Raises
    ------
    KeyError
        If there is no such result.
    """
    import pandas as pd

    entry = results.read(adata, key, "ligrec")
    table, pairs = entry["table"].reset_index(drop=True), entry["pairs"].reset_index(drop=True)
    n = len(pairs)
    rows = pd.MultiIndex.from_arrays([pairs["ligand"], pairs["receptor"]], names=["source", "target"])
    heads = table.iloc[::n]
    columns = pd.MultiIndex.from_arrays([heads["source"], heads["target"]], names=["cluster_1", "cluster_2"])
    # tests are stored combination after combination: (n_combinations * n_pairs,) → (n_pairs, n_combinations)
    means = (table["ligand_mean"].to_numpy() + table["receptor_mean"].to_numpy()) / 2
    wide = {"means": means, "pvalues": table["pval"].to_numpy()}
    found = {name: pd.DataFrame(v.reshape(-1, n).T, index=rows, columns=columns) for name, v in wide.items()}
    metadata = pairs.drop(columns=["ligand", "receptor"])
    metadata.index = rows
    return {**found, "metadata": metadata}


def _pair(adata: anndata.AnnData, ligand: str, receptor: str, key: str) -> int:
    """Column of a pair; KeyError with what is there."""
    pairs = results.read(adata, key, "ligrec")["pairs"]
    found = np.flatnonzero(((pairs["ligand"] == ligand) & (pairs["receptor"] == receptor)).to_numpy())
    if not len(found):
        near = pairs[(pairs["ligand"] == ligand) | (pairs["receptor"] == receptor)]
        listed = near if len(near) else pairs
        there = ", ".join(f"{a} → {b}" for a, b in zip(listed["ligand"][:10], listed["receptor"][:10], strict=True))
        raise KeyError(f"{ligand} → {receptor} is no pair of {key!r}; it has {len(pairs)}, such as {there}.")
    return int(found[0])
