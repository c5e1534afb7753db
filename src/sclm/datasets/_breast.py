"""A breast cancer measured twice: spots of the whole transcriptome, and single cells of a panel of genes, in one frame."""

from __future__ import annotations

import csv
import gzip
import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

if TYPE_CHECKING:
    import anndata

logger = logging.getLogger(__name__)

_COURSE = (
    "https://raw.githubusercontent.com/JEFworks-Lab/genomic-data-visualization-2024/"
    "2692209269793519e72932456e1217b49e61c1d7/data/"
)
_X, _Y = "aligned_x", "aligned_y"


class _Pinned(NamedTuple):
    """A file and what it must be."""

    name: str
    size: int  # bytes
    sha256: str  # the first 16 of its 64 digits
    columns: tuple[str, ...]  # before the genes; the first is the name of the spot or cell
    shape: tuple[int, int]  # spots or cells, genes

    @property
    def url(self) -> str:
        return _COURSE + self.name


_VISIUM = _Pinned("eevee.csv.gz", 4_103_749, "4690248ce04737f0", ("barcode", _X, _Y), (709, 18_085))
_XENIUM = _Pinned(
    "pikachu.csv.gz", 2_129_626, "75607abffbf71e30", ("cell_id", "cell_area", "nucleus_area", _X, _Y), (17_136, 313)
)


def breast_visium() -> anndata.AnnData:
    """709 spots × 18,085 genes of a human breast cancer (Visium), in one frame with :func:`breast_xenium`.

    A piece of the tissue of Janesick et al. (High resolution mapping of the tumor microenvironment using integrated
    single-cell, spatial and in situ analysis, Nature Communications 2023; 10x Genomics, CC BY 4.0), as the course "Genomic
    data visualization 2024" of the JEFworks Lab publishes it, aligned to a piece of the Xenium section beside it. A spot
    has a diameter of 55 µm, which is about 9.3 units of the coordinates. There are no labels of cell types and no image.

    The first call downloads 4 MB to the folder that ``SCLM_DATA_DIR`` names (``~/.cache/sclm`` by default); a file
    ``eevee.csv.gz`` that lies there already, or one folder down, is used without network. The address names a commit; of
    the file's sha256 only the first 16 digits are known to us, so these and the size in bytes are what is checked.

    Returns
    -------
    AnnData with

    ``.X`` : float32 CSR (709, 18085)
        Raw counts.
    ``.obsm["spatial"]`` : float64 (709, 2)
        Coordinates.
    ``.obs`` : DataFrame
        ``organism``, ``tissue``, ``disease``, ``assay``.
    ``.var["name_in_file"]``
        Names as the file has them. R has put dots for hyphens in some: ``MT.ND1`` is ``MT-ND1`` in ``.var_names``. Only
        where the name with hyphens is an approved symbol and that with dots is none.

    Raises
    ------
    ConnectionError
        If the file is neither there nor can be downloaded; the message says what to put where.
    ValueError
        If the file is not the one that is expected.
    """
    return _read(_fetch(_VISIUM), _VISIUM, "Visium")


def breast_xenium() -> anndata.AnnData:
    """17,136 cells × 313 genes of a human breast cancer (Xenium), in one frame with :func:`breast_visium`.

    A piece of the Xenium section of Janesick et al. (Nature Communications 2023; 10x Genomics, CC BY 4.0), as the course
    "Genomic data visualization 2024" of the JEFworks Lab publishes it. The section lies beside that of the Visium spots: the
    same structures, not the same cells. There are no labels of cell types.

    The first call downloads 2 MB (``pikachu.csv.gz``); where to, and what of the file is checked, is as for
    :func:`breast_visium`.

    Returns
    -------
    AnnData with

    ``.X`` : float32 CSR (17136, 313)
        Raw counts.
    ``.obsm["spatial"]`` : float64 (17136, 2)
        Coordinates of the cells' centres.
    ``.obs`` : DataFrame
        ``cell_area`` and ``nucleus_area`` (µm²), ``organism``, ``tissue``, ``disease``, ``assay``.

    Raises
    ------
    ConnectionError
        If the file is neither there nor can be downloaded; the message says what to put where.
    ValueError
        If the file is not the one that is expected.
    """
    return _read(_fetch(_XENIUM), _XENIUM, "Xenium")


def _fetch(pinned: _Pinned) -> Path:
    """The local path of a file, downloaded the first time."""
    from sclm.knowledge.downloads import DATA_DIR, data_dir

    folder = data_dir()
    for path in [folder / pinned.name, *sorted(folder.glob(f"*/{pinned.name}"))]:
        if path.is_file():
            if not (fault := _fault(path, pinned)):
                return path
            logger.warning("%s is not used: %s.", path, fault)
    import pooch

    logger.info("Downloading %s.", pinned.url)
    # pooch leaves a file of that name alone: what is there has just been found to be another one.
    name = f"download-{pinned.name}"
    try:
        path = Path(pooch.retrieve(pinned.url, known_hash=None, fname=name, path=folder, progressbar=False))
    except Exception as error:
        raise ConnectionError(
            f"could not download {pinned.name} ({type(error).__name__}: {error}). Download {pinned.url} on a machine with "
            f"network and put it into {folder}, or into any folder that the environment variable {DATA_DIR} names."
        ) from error
    if fault := _fault(path, pinned):
        path.unlink()
        raise ValueError(f"{pinned.url} is not the file that is expected: {fault}. It has been removed again.")
    return path.replace(folder / pinned.name)


def _fault(path: Path, pinned: _Pinned) -> str:
    """What is wrong with a file, or nothing."""
    content = path.read_bytes()
    if len(content) != pinned.size:
        return f"expected {pinned.size:,} bytes, found {len(content):,}"
    if not (found := hashlib.sha256(content).hexdigest()).startswith(pinned.sha256):
        return f"expected a sha256 that begins with {pinned.sha256}, found {found}"
    return ""


def _read(path: Path, pinned: _Pinned, assay: str) -> anndata.AnnData:
    """Parse a file: a column of row names without a title, the pinned columns, then a column of counts a gene."""
    import anndata

    columns = pinned.columns
    with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
        head = next(csv.reader(lines), [])
    start = 1 + len(columns)
    if head[:1] != [""] or tuple(head[1:start]) != columns:
        raise ValueError(
            f"{path.name} must begin with a column without a title and {', '.join(columns)}, then genes; found "
            f"{', '.join(map(repr, head[:start]))}."
        )
    genes = head[start:]
    if repeated := pd.Index(genes)[pd.Index(genes).duplicated()].unique().tolist():
        raise ValueError(f"{path.name} must have a column a gene, found {', '.join(repeated[:5])} more than once.")
    # In one piece: a table of 18,085 columns is slow to read in several.
    table = pd.read_csv(path, dtype={columns[0]: "str"}, low_memory=False)
    found = (len(table), len(genes))
    if found != pinned.shape:
        raise ValueError(f"{path.name} must hold {pinned.shape} rows and genes, found {found}.")
    counts = table.iloc[:, start:].to_numpy(dtype=np.float64)
    if not (np.isfinite(counts).all() and (counts >= 0).all() and (counts == np.rint(counts)).all()):
        raise ValueError(f"{path.name} must hold whole counts, found other numbers: the file has changed.")
    n = len(table)
    obs = table[[c for c in columns[1:] if c not in (_X, _Y)]].set_axis(table[columns[0]].to_numpy(dtype=object))
    same = {"organism": "Homo sapiens", "tissue": "breast", "disease": "breast cancer", "assay": assay}
    obs = obs.assign(**{name: pd.Categorical([value] * n) for name, value in same.items()})
    var = pd.DataFrame({"name_in_file": np.array(genes, dtype=object)}, index=np.array(_symbols(genes), dtype=object))
    spatial = table[[_X, _Y]].to_numpy(dtype=np.float64)
    return anndata.AnnData(sparse.csr_matrix(counts, dtype=np.float32), obs=obs, var=var, obsm={"spatial": spatial})


def _symbols(genes: list[str]) -> list[str]:
    """Hyphens where R has put dots: where the name with hyphens is an approved symbol and the name with dots is none."""
    from sclm.knowledge import GeneIdentifiers

    known = GeneIdentifiers.load("human")
    hyphened = [gene.replace(".", "-") for gene in genes]
    pairs = zip(genes, hyphened, known.to_symbol(genes), known.to_symbol(hyphened), strict=True)
    there = set(genes)
    return [new if own != old and symbol == new and new not in there else old for old, new, own, symbol in pairs]
