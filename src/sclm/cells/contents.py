"""What an AnnData holds, said before any tool is asked: counts, genes, columns, places; and what is wrong with it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp

from sclm.cells.counts import CountReport, inspect_counts
from sclm.cells.counts import invert_log1p as inverted
from sclm.cells.storage import Storage, slot_name

if TYPE_CHECKING:
    from anndata import AnnData

_BLOCKS, _ROWS = 4, 64  # looked at where the counts are on disk
_PLACES = re.compile(r"spatial|coord|^x_y$|centroid", re.IGNORECASE)
_PROTEINS = re.compile(r"protein|antibod|(^|_)(adt|cite|ab)($|_)", re.IGNORECASE)
_ENSEMBL = re.compile(r"ENS[A-Z]*G\d{11}(\.\d+)?(_PAR_Y)?")
# What a column of .obs is for, by its name: the first that fits.
_ROLES = {
    "section": r"library_?id|^library$|section|slice|^fov$|region",
    "cell types": r"cell_?type(?!.*ontology)|celltype|cell_?label|annotation|predicted_labels|^label(s)?$|^cell_?(sub)?class$",
    "clusters": r"leiden|louvain|cluster",
    "batch": r"donor|patient|subject|individual|sample|batch|orig\.ident|dataset|replicate|mouse_id",
    "perturbation": r"perturb|guide|grna|target_gene|knock|treatment|condition|stim",
    "metadata": r"tissue|disease|assay|^sex$|development_stage|ethnicity|organism|(^|_)age($|_)",
}
_NUMBERED = {"section", "clusters", "batch"}  # roles whose groups may be whole numbers
_MAX_VALUES = 2000  # more values than that are no groups


class Slot(NamedTuple):
    """One matrix of an AnnData.

    Attributes
    ----------
    where
        ``"adata.X"``, ``'adata.layers["counts"]'`` or ``"adata.raw"``.
    layer
        Its name as a layer; None for ``.X`` and ``.raw``.
    layout
        ``"csr"``, ``"csc"``, ``"dense"`` or ``"dask"``.
    report
        What the values are: see :class:`sclm.cells.CountReport`.
    invertible
        Whether log1p-normalised values lead back to counts exactly, in the rows that were looked at.
    """

    where: str
    layer: str | None
    layout: str
    report: CountReport
    invertible: bool


class Genes(NamedTuple):
    """Names of the genes in one place.

    Attributes
    ----------
    key
        Column of ``.var``; None for ``.var_names``.
    kind
        ``"Ensembl ids"`` or ``"symbols"``.
    known
        Share that is a human gene, 0-1.
    like_mouse
        Share that is written as mouse genes are (``Cd4``), 0-1.
    repeated
        Number of names that stand more than once.
    """

    key: str | None
    kind: str
    known: float
    like_mouse: float
    repeated: int


class Column(NamedTuple):
    """A column of ``.obs`` that groups cells.

    Attributes
    ----------
    name, role
        The role is told by the name: ``"cell types"``, ``"clusters"``, ``"batch"``, ``"section"``, ``"perturbation"``, ``"metadata"``.
    n_values, missing
        Distinct values; cells without one.
    first
        The most frequent values.
    """

    name: str
    role: str
    n_values: int
    missing: int
    first: tuple[str, ...]


class Contents(NamedTuple):
    """What an AnnData holds.

    Attributes
    ----------
    n_cells, n_genes
        Its shape.
    slots
        Every matrix, ``.X`` first.
    genes
        The place with the most human genes, ``.var_names`` where none is better.
    columns
        Columns of ``.obs`` whose names say what they are.
    places
        Keys of ``.obsm`` with coordinates: key → number of cells without finite ones.
    proteins
        Keys of ``.obsm`` that look like proteins.
    embeddings
        Other matrices in ``.obsm`` with their widths.
    results
        Keys of ``.uns`` that sclm wrote, with the tool.
    depth
        Median and extremes of the counts a cell, of the first slot with counts; empty without one.
    """

    n_cells: int
    n_genes: int
    slots: tuple[Slot, ...]
    genes: Genes
    columns: tuple[Column, ...]
    places: dict[str, int]
    proteins: tuple[str, ...]
    embeddings: dict[str, int]
    results: dict[str, str]
    depth: dict[str, float]

    @property
    def counts(self) -> Slot | None:
        """The first slot with raw counts, or the first whose values lead back to them."""
        for slot in self.slots:
            if slot.report.kind == "counts":
                return slot
        return next((slot for slot in self.slots if slot.invertible), None)

    def with_role(self, role: str) -> tuple[Column, ...]:
        """Columns of one role, those with the most usual names first."""
        return tuple(column for column in self.columns if column.role == role and column.n_values > 1)


def contents(adata: AnnData) -> Contents:
    """Look at an AnnData: all values in memory, some rows of what is on disk.

    Parameters
    ----------
    adata
        Anything that :func:`sclm.cells.read_cells` would read, and what it would refuse.

    Returns
    -------
    :class:`Contents`.
    """
    slots = _slots(adata)
    obsm = {name: adata.obsm[name] for name in adata.obsm}
    places = {name: _unplaced(value) for name, value in obsm.items() if _PLACES.search(name) and _is_place(value)}
    proteins = tuple(name for name in obsm if _PROTEINS.search(name))
    others = {
        name: int(value.shape[1]) for name, value in obsm.items()
        if name not in places and name not in proteins and getattr(value, "ndim", 2) == 2
    }  # fmt: skip
    written = {
        str(name): str(value["tool"]) for name, value in adata.uns.items() if hasattr(value, "get") and value.get("schema") and "tool" in value
    }  # fmt: skip
    found = Contents(
        int(adata.n_obs), int(adata.n_vars), slots, _genes(adata), _columns(adata.obs), places, proteins, others, written, {}
    )  # fmt: skip
    counts = found.counts
    if counts is None or counts.report.kind != "counts" or counts.where == "adata.raw" or not adata.n_obs:
        return found
    blocks = [block for _, _, block in _sampled(Storage(adata, counts.layer)) if block.shape[1] == adata.n_vars]
    sums = np.concatenate([np.asarray(block.sum(axis=1)).ravel() for block in blocks]) if blocks else np.zeros(0)
    if not sums.size:
        return found
    depth = {
        "median": float(np.median(sums)),
        "min": float(sums.min()),
        "max": float(sums.max()),
        "empty": float((sums == 0).mean()),
    }
    return found._replace(depth=depth)


# ---------------------------------------------------------------------- counts


def _slots(adata: AnnData) -> tuple[Slot, ...]:
    found = []
    layers = [name for name in adata.layers if isinstance(name, str)]
    for layer in [*([None] if adata.isbacked or adata.X is not None else []), *layers]:
        if not adata.n_obs or not adata.n_vars:
            break
        storage = Storage(adata, layer)
        report, blocks = CountReport("counts"), list(_sampled(storage))
        for row, column, block in blocks:
            report = inspect_counts(block)
            if report.kind != "counts":
                report = report._replace(row=(report.row or 0) + row, column=(report.column or 0) + column)
                break
        if report.kind == "counts" and all(not _any(block) for _, _, block in blocks):
            report = CountReport("empty", 0.0, 0, 0, "zero everywhere")
        found.append(
            Slot(slot_name(layer), layer, storage.layout, report, _leads_back(report, [b for _, _, b in blocks]))
        )
    if adata.raw is not None:
        block = adata.raw[: min(_BLOCKS * _ROWS, adata.n_obs)].X
        block = sp.csr_matrix(block) if sp.issparse(block) else np.asarray(block)
        found.append(Slot("adata.raw", None, "csr" if sp.issparse(block) else "dense", inspect_counts(block), False))
    return tuple(found)


def _sampled(storage: Storage) -> Any:
    """(first row, first column, values): all of it in memory, some rows of what is on disk."""
    if storage.whole is not None:
        yield 0, 0, storage.whole
        return
    if storage.shape[0] <= _BLOCKS * _ROWS:
        yield 0, 0, storage.rows(0, storage.shape[0])
        return
    yield from storage.sample(_BLOCKS, _ROWS)


def _leads_back(report: CountReport, blocks: list[Any]) -> bool:
    if report.kind not in ("log1p", "non-integer") or not blocks:
        return False
    try:
        inverted(sp.csr_matrix(blocks[0][:_ROWS]).astype(np.float32))
    except (TypeError, ValueError):
        return False
    return True


def _any(block: Any) -> bool:
    return bool(block.nnz and block.data.any()) if sp.issparse(block) else bool(np.asarray(block).any())


# ---------------------------------------------------------------------- names


def _genes(adata: AnnData) -> Genes:
    """Where the gene names are: in ``.var_names``, unless a column knows more genes."""
    var = adata.var
    texts = [
        str(name) for name in var.columns
        if not pd.api.types.is_numeric_dtype(var[name]) and not pd.api.types.is_bool_dtype(var[name])
    ]  # fmt: skip
    best = _named(None, adata.var_names)
    for name in texts:
        found = _named(name, var[name])
        if found.known > best.known + 0.1 and found.repeated < 0.5 * adata.n_vars:
            best = found
    return best


def _named(key: str | None, values: Any) -> Genes:
    from sclm.knowledge import GeneIdentifiers

    names = [str(value) for value in values]
    if not names:
        return Genes(key, "symbols", 0.0, 0.0, 0)
    ensembl = sum(bool(_ENSEMBL.fullmatch(name)) for name in names) > 0.5 * len(names)
    human = GeneIdentifiers.load("human")
    known = [symbol is not None for symbol in human.to_symbol(names)]
    if ensembl:  # ids without a symbol are genes as well
        known = [k or name.startswith("ENSG") for k, name in zip(known, names, strict=True)]
    mouse = [bool(re.fullmatch(r"[A-Z][a-z0-9-]*[a-z][a-zA-Z0-9-]*|ENSMUSG\d{11}(\.\d+)?", name)) for name in names]
    counted = pd.Series(names).value_counts()
    return Genes(
        key, "Ensembl ids" if ensembl else "symbols", float(np.mean(known)), float(np.mean(mouse)), int((counted > 1).sum())
    )  # fmt: skip


def _columns(obs: Any) -> tuple[Column, ...]:
    found: list[Column] = []
    for role, pattern in _ROLES.items():
        for name in map(str, obs.columns):
            if any(name == column.name for column in found) or not re.search(pattern, name, re.IGNORECASE):
                continue
            values = obs[name]
            if pd.api.types.is_float_dtype(values) or pd.api.types.is_bool_dtype(values):
                continue
            if pd.api.types.is_integer_dtype(values) and role not in _NUMBERED:
                continue
            counts = values.astype(str)[values.notna()].value_counts()
            if len(counts) > min(_MAX_VALUES, max(2, 0.5 * len(values))):
                continue
            found.append(
                Column(
                    name, role, len(counts), int(values.isna().sum()), tuple(str(value) for value in counts.index[:3])
                )
            )
    return tuple(sorted(found, key=lambda column: (list(_ROLES).index(column.role), len(column.name))))


# ---------------------------------------------------------------------- places


def _is_place(value: Any) -> bool:
    return getattr(value, "ndim", 0) == 2 and value.shape[1] in (2, 3)


def _unplaced(value: Any) -> int:
    array = value.toarray() if hasattr(value, "toarray") else np.asarray(value)
    try:
        return int((~np.isfinite(array.astype(float)).all(axis=1)).sum())
    except (TypeError, ValueError):
        return len(array)
