"""700 blood cells from the file that the scanpy package carries."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

if TYPE_CHECKING:
    import anndata

_FILE = "datasets/10x_pbmc68k_reduced.h5ad"
_TOLERANCE = 1e-3  # relative distance of a restored count from a whole number
# Bulk labels of Zheng et al. (names of the sorted populations each cell correlates with best) as Cell Ontology terms.
_TERMS = {
    "CD14+ Monocyte": "CL:0001054",
    "CD19+ B": "CL:0000236",
    "CD34+": "CL:0000837",
    "CD4+/CD25 T Reg": "CL:0000815",
    "CD4+/CD45RA+/CD25- Naive T": "CL:0000895",
    "CD4+/CD45RO+ Memory": "CL:0000897",
    "CD56+ NK": "CL:0000623",
    "CD8+ Cytotoxic T": "CL:0000794",
    "CD8+/CD45RA+ Naive Cytotoxic": "CL:0000900",
    "Dendritic": "CL:0000451",
}


def pbmc68k() -> anndata.AnnData:
    r"""700 human blood cells × 765 genes with raw counts and Cell Ontology labels.

    The reduced example of the 68k PBMC data set of Zheng et al. (Massively parallel digital transcriptional profiling of
    single cells, Nature Communications 2017; one healthy donor, 10x 3' v1) that ships inside the scanpy package: no
    download. It is **not** a whole transcriptome: 765 variable genes were kept, 240 of the 700 cells are dendritic cells
    (far more than blood holds), and one type has 8 cells. Labels are those of the authors, from correlation with sorted
    populations; they are noisy among T cells.

    Raw counts are restored from the log-normalised values in the file,
    :math:`\mathrm{round}((e^{x} - 1)\, n / 10^4)` with :math:`n` the cell's total count over all genes, and checked to lie
    within 0.1 % of a whole number.

    Returns
    -------
    AnnData with

    ``.X`` : float32 CSR (700, 765)
        Raw counts.
    ``.obs`` : DataFrame
        ``cell_type``, ``cell_type_ontology_term_id``, ``author_cell_type``, ``tissue``, ``tissue_ontology_term_id``,
        ``disease``, ``disease_ontology_term_id``, ``assay``, ``assay_ontology_term_id``, ``organism``, ``donor_id``,
        ``n_counts`` (over all genes), ``louvain``.
    ``.obsm["X_umap"]``
        The coordinates of the file.

    Raises
    ------
    FileNotFoundError
        If the installed scanpy does not carry the file.
    ValueError
        If the counts cannot be restored within the tolerance.

    Examples
    --------
    >>> import sclm
    >>> sclm.datasets.pbmc68k().shape
    (700, 765)
    """
    import anndata

    from sclm.knowledge import Ontology

    spec = importlib.util.find_spec("scanpy")
    path = (
        Path(next(iter(spec.submodule_search_locations))) / _FILE if spec and spec.submodule_search_locations else None
    )
    if path is None or not path.is_file():
        raise FileNotFoundError(f"The installed scanpy does not carry {_FILE}. Install scanpy 1.11 or later.")
    table, values, genes, umap = _read(path)
    total = table["n_counts"].to_numpy(dtype=np.float64)
    author = table["bulk_labels"].astype(str).reset_index(drop=True)
    exact = np.expm1(values.data.astype(np.float64)) * np.repeat(total, np.diff(values.indptr)) / 1e4
    counts = np.rint(exact)
    worst = float((np.abs(exact - counts) / np.maximum(counts, 1)).max())
    if worst > _TOLERANCE:
        raise ValueError(
            f"Restored counts must be whole within {_TOLERANCE}, found a distance of {worst:.2g}: the file has changed."
        )
    values.data = counts.astype(np.float32)
    values.eliminate_zeros()

    ontology = Ontology.load("cl")
    term = author.map(_TERMS)
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical([ontology.name_of(t) for t in term]),
            "cell_type_ontology_term_id": pd.Categorical(term),
            "author_cell_type": pd.Categorical(author),
            "tissue": pd.Categorical(["blood"] * len(author)),
            "tissue_ontology_term_id": pd.Categorical(["UBERON:0000178"] * len(author)),
            "disease": pd.Categorical(["normal"] * len(author)),
            "disease_ontology_term_id": pd.Categorical(["PATO:0000461"] * len(author)),
            "assay": pd.Categorical(["10x 3' v1"] * len(author)),
            "assay_ontology_term_id": pd.Categorical(["EFO:0009901"] * len(author)),
            "organism": pd.Categorical(["Homo sapiens"] * len(author)),
            "donor_id": pd.Categorical(["donor A"] * len(author)),
            "n_counts": total,
            "louvain": pd.Categorical(table["louvain"].astype(str)),
        },
        index=np.asarray(table.index, dtype=object),
    )
    var = pd.DataFrame(index=genes.astype(object))
    return anndata.AnnData(values, obs=obs, var=var, obsm={"X_umap": umap.astype(np.float32)})


def _read(path: Path) -> tuple[pd.DataFrame, sparse.csr_matrix, np.ndarray, np.ndarray]:
    """``obs``, log-normalised values, gene names and UMAP of the file.

    scanpy 1.11 carries it in anndata's first format, which anndata only reads with warnings, scanpy 1.12 in today's.
    """
    import anndata
    import h5py

    with h5py.File(path) as file:
        if "raw.X" not in file:
            obs, var, values, umap = (anndata.io.read_elem(file[k]) for k in ("obs", "raw/var", "raw/X", "obsm/X_umap"))
            return obs, sparse.csr_matrix(values), np.asarray(var.index, dtype=object), umap
        records, stored = file["obs"][:], file["raw.X"]
        obs = pd.DataFrame({"n_counts": records["n_counts"]}, index=records["index"].astype(str))
        for name in ("bulk_labels", "louvain"):
            obs[name] = file[f"uns/{name}_categories"][:].astype(str)[records[name]]
        parts = (stored["data"][:], stored["indices"][:], stored["indptr"][:])
        values = sparse.csr_matrix(parts, shape=tuple(stored.attrs["h5sparse_shape"]))
        return obs, values, file["raw.var"]["index"].astype(str).astype(object), file["obsm"]["X_umap"]
