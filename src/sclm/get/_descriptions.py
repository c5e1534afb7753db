"""Pathways and descriptions, as tidy DataFrames."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sclm import results

if TYPE_CHECKING:
    import anndata
    import pandas as pd


def pathways(
    adata: anndata.AnnData, *, key: str = "sclm_pathways", value: str = "score", groups: bool = False
) -> pd.DataFrame:
    """Activity of pathways, cell by cell or group by group.

    Parameters
    ----------
    adata
        Scored by :func:`sclm.tl.pathways`.
    key
        ``key_added`` of that call.
    value
        Of the cells: ``"score"`` (0-1), ``"p"`` or ``"q"``.
    groups
        The table of the groups instead, where ``groupby=`` was given.

    Returns
    -------
    Cells x sets, float32, columns are the names of the sets. With ``groups`` one row a group and set: ``group``, ``id``, ``name``,
    ``score`` (mean over the group's cells), ``other`` (over all other cells), ``z``, ``p``, ``q``, ``n_genes`` (in the data).

    Raises
    ------
    KeyError
        If there is no such result, or no groups were tested.
    ValueError
        If ``value`` is none of the three.
    """
    import pandas as pd

    entry = results.read(adata, key, "pathways")
    if groups:
        if "groups" not in entry:
            raise KeyError(f"adata.uns[{key!r}] has no groups. Run sclm.tl.pathways with groupby= first.")
        return entry["groups"].copy()
    if value not in ("score", "p", "q"):
        raise ValueError(f"value must be 'score', 'p' or 'q', found {value!r}.")
    array = adata.obsm[key if value == "score" else f"{key}_{value}"]
    return pd.DataFrame(np.asarray(array), index=adata.obs_names, columns=list(entry["names"]))


def describe(adata: anndata.AnnData, *, key: str = "sclm_description", groups: bool = False) -> pd.DataFrame:
    """Descriptions as a table, one row a cell or a group.

    Parameters
    ----------
    adata
        Described by :func:`sclm.tl.describe`.
    key
        ``key_added`` of that call.
    groups
        One row a group, where ``groupby=`` was given.

    Returns
    -------
    One row a cell: ``text``, ``faithfulness``, and the terms that the text leaves standing, each with its verdict: ``cell_type``,
    ``cell_type_ontology_term_id``, ``cell_type_verdict``, ``tissue``, ``tissue_verdict``, ``disease``, ``disease_verdict``, ``pathways``. With
    ``groups`` one row a group, by its name: ``n_cells``, ``share`` of all cells, ``identity``, ``ontology_term_id``, ``verdict`` and ``support`` of
    the identity, ``genes``, ``pathways``, ``faithfulness``, ``text``.

    Raises
    ------
    KeyError
        If there is no such result, or no groups were described.
    """
    import pandas as pd

    entry = results.read(adata, key, "describe")
    if groups:
        if "groups" not in entry:
            raise KeyError(f"adata.uns[{key!r}] has no groups. Run sclm.tl.describe with groupby= first.")
        table = entry["groups"].copy()
        table.index = pd.Index(table.pop("group").to_numpy(dtype=object), name="group")
        return table
    from sclm.evidence.claims_terms import TERM_COLUMNS

    columns = {
        "text": adata.obs[key].to_numpy(dtype=object),
        "faithfulness": adata.obs[f"{key}_faithfulness"].to_numpy(),
    }
    columns |= {name: adata.obs[f"{key}_{name}"] for name in TERM_COLUMNS}
    return pd.DataFrame(columns, index=adata.obs_names)


def describe_evidence(
    adata: anndata.AnnData, *, key: str = "sclm_description", kind: str | None = None
) -> pd.DataFrame:
    """Every statement with what it was checked against.

    Parameters
    ----------
    adata
        Described by :func:`sclm.tl.describe`.
    key
        ``key_added`` of that call.
    kind
        Only ``"identity"``, ``"gene"``, ``"pathway"``, ``"tissue"`` or ``"disease"``.

    Returns
    -------
    One row a statement as it was first made: ``cell`` (or group), ``kind``, ``claim``, ``id``, ``verdict`` (``"kept"``, ``"softened"``,
    ``"removed"``, ``"not verifiable"``), ``support`` (0-1), ``statistic`` and ``value`` (what was measured), ``q``, ``reason``.

    Raises
    ------
    KeyError
        If there is no such result.
    ValueError
        If there is no such kind.
    """
    from sclm.evidence.claims import KINDS

    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(map(repr, KINDS))}, found {kind!r}.")
    table = results.read(adata, key, "describe")["evidence"].copy()
    table = table if kind is None else table[(table["kind"] == kind).to_numpy()]
    return table.reset_index(drop=True)
