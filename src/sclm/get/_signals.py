"""Tables of interfaces between tissues and of the signals on the spatial graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sclm import results

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import anndata
    import pandas as pd

_FEWEST = 5  # spots of a bin


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
    names = pair_names(pairs)
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


def pair_names(pairs: pd.DataFrame) -> list[str]:
    """``"CXCL12 → CXCR4"`` of each row of a table with ``ligand`` and ``receptor``: what figures and other tables call a pair."""
    return [f"{a} → {b}" for a, b in zip(pairs["ligand"], pairs["receptor"], strict=True)]


def _pair(adata: anndata.AnnData, ligand: str, receptor: str, key: str) -> int:
    """Column of a pair; KeyError with what is there."""
    pairs = results.read(adata, key, "ligrec")["pairs"]
    found = np.flatnonzero(((pairs["ligand"] == ligand) & (pairs["receptor"] == receptor)).to_numpy())
    if not len(found):
        near = pairs[(pairs["ligand"] == ligand) | (pairs["receptor"] == receptor)]
        listed = near if len(near) else pairs
        there = ", ".join(pair_names(listed[:10]))
        raise KeyError(f"{ligand} → {receptor} is no pair of {key!r}; it has {len(pairs)}, such as {there}.")
    return int(found[0])


def interface_profile(
    adata: anndata.AnnData,
    names: str | Sequence[str] | None = None,
    *,
    key: str = "sclm_interface",
    signals: str = "sclm_ligrec",
    bin_width: float | None = None,
    max_distance: float | None = None,
    layer: str | None = None,
) -> pd.DataFrame:
    """What changes with the distance from a border: cell types, genes, signals.

    Parameters
    ----------
    adata
        With an interface of :func:`sclm.tl.interface`.
    names
        What to follow: groups of the interface, numeric columns of ``.obs``, genes (log-normalised from raw counts), or pairs of
        :func:`sclm.tl.ligrec` as ``"CXCL12 → CXCR4"``. All groups when None.
    key
        ``key_added`` of the interface.
    signals
        ``key_added`` of the signals.
    bin_width
        Width of the bins in the units of the coordinates; one ring of neighbours when None. No bin reaches across the border.
    max_distance
        Farther spots are left out; none when None.
    layer
        Layer with the raw counts, for genes; ``.X`` where None.

    Returns
    -------
    One row a name and bin with at least 5 spots: ``name``, ``kind`` (``"group"``, ``"column"``, ``"gene"`` or ``"signal"``), ``distance``
    (middle of the bin, negative inside), ``mean``, ``se`` (standard error as if spots were independent, which neighbours are not),
    ``n_spots``. Sections are pooled; of signals at an interface only spots with an edge there count.

    Raises
    ------
    KeyError
        If there is no such result, or a name is none of these.
    ValueError
        If a bin has no width, or no bin is left.
    """
    import pandas as pd

    entry = results.read(adata, key, "interface")
    distance = adata.obs[f"{key}_distance"].to_numpy(dtype=np.float64)
    width = float(np.median(entry["sections"]["ring"])) if bin_width is None else float(bin_width)
    if not 0 < width < np.inf:
        raise ValueError(f"bin_width must be a distance above 0, found {width}.")
    near = np.isfinite(distance) if max_distance is None else np.abs(distance) <= max_distance
    # (0, width] is bin 1, and bin -1 on the inner side: a spot on a ring belongs to that ring
    code = np.where(near, np.sign(distance) * np.maximum(np.ceil(np.abs(distance) / width - 1e-6), 1), 0)
    rows = []
    for name, kind, values in _followed(adata, entry, names, signals, layer):
        for b in np.unique(code[near]).astype(int):
            own = values[near & (code == b)]
            own = own[np.isfinite(own)]
            if len(own) >= _FEWEST:
                se = own.std(ddof=1) / np.sqrt(len(own))
                rows.append((name, kind, float((b - 0.5 * np.sign(b)) * width), own.mean(), se, len(own)))
    if not rows:
        raise ValueError(f"no bin of width {width:g} has {_FEWEST} spots. Pass a larger bin_width= or max_distance=.")
    return pd.DataFrame(rows, columns=["name", "kind", "distance", "mean", "se", "n_spots"])


def _followed(
    adata: anndata.AnnData, entry: Mapping[str, Any], names: str | Sequence[str] | None, signals: str, layer: str | None
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Name, kind and value in each spot of what a profile follows."""
    from sclm.cells import log_normalise, read_cells
    from sclm.cells.shares import read_shares

    shares = read_shares(adata, entry["params"]["groups"])
    asked = list(shares.names) if names is None else [names] if isinstance(names, str) else [str(n) for n in names]
    record = adata.uns.get(signals)
    pairs = record["pairs"] if isinstance(record, Mapping) and record.get("tool") == "ligrec" else None
    labels = [] if pairs is None else pair_names(pairs)
    found: dict[str, tuple[str, np.ndarray]] = {}
    for name in asked:
        if name in shares.names:
            found[name] = "group", shares.share[:, shares.names.index(name)]
        elif name in labels:
            values = adata.obsm[signals][:, [labels.index(name)]].toarray().ravel().astype(np.float64)
            there = np.asarray(adata.obsp[f"{signals}_connectivities"].sum(axis=1)).ravel() > 0
            found[name] = "signal", np.where(there, values, np.nan)
        elif name in adata.obs and np.issubdtype(adata.obs[name].dtype, np.number):
            found[name] = "column", adata.obs[name].to_numpy(dtype=np.float64)
    genes = [name for name in asked if name not in found]
    unknown = [name for name in genes if name not in adata.var_names]
    if unknown:
        raise KeyError(
            f"{unknown[0]!r} is no group ({', '.join(map(repr, shares.names[:10]))}), numeric column of .obs, gene, or pair of signals"
            + (f" such as {labels[0]!r}." if labels else ".")
        )
    if genes:
        source = read_cells(adata, layer=layer)
        columns = source.genes.get_indexer(genes)
        logs = [log_normalise(block.counts)[:, columns].toarray() for block in source.blocks()]
        found |= {name: ("gene", np.concatenate(logs)[:, i].astype(np.float64)) for i, name in enumerate(genes)}
    for name in asked:
        yield name, *found[name]
