"""Give every cell a vector."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from sclm import results
from sclm.cells import read_cells, table_of
from sclm.models.contract import Encoder
from sclm.models.contract_spots import SpotEncoder
from sclm.tl._model import check_device, loaded, on_device
from sclm.tl._spots import spot_vectors, surroundings

if TYPE_CHECKING:
    from pathlib import Path

    import anndata

    from sclm.models.family import Family

logger = logging.getLogger(__name__)


def embed(
    adata: anndata.AnnData,
    model: str | Path | Family | Encoder | SpotEncoder,
    *,
    layer: str | None = None,
    gene_key: str | None = None,
    invert_log1p: bool = False,
    hidden_layer: int | None = None,
    pooling: str | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
    mod: str | None = None,
    spatial_key: str | None = None,
    key_added: str | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    seed: int = 0,
    copy: bool = False,
) -> anndata.AnnData | None:
    r"""Give every cell a vector, for neighbours, clusters and maps of cells: from a pretrained encoder, or of spots in their surroundings.

    Cells keep their order and none is left out. An encoder's vector depends on the cell alone: not on the cells beside it, the order of the
    genes, or `batch_size`.

    ``"graphst"`` and ``"hop-mean"`` need no training: they are fitted on the sections at hand, and a spot's vector depends on the spots around
    it. The order of spots and genes and `batch_size` change nothing. Vectors of one call cannot be compared with those of another: pass
    sections together, with `library_key`, to compare them.

    Parameters
    ----------
    adata
        Cells with raw counts; CSR, CSC or dense, in memory, a view, backed or Dask. Any number of them: memory is bounded by a block.
    model
        An encoder: a trained model, its folder, an original scGPT or Geneformer checkpoint folder, a published name, or
        ``"hf:organisation/name"``. For spots: ``"graphst"``, ``"hop-mean"``, or such a model.
    layer
        Layer with the raw counts; ``.X`` where None.
    gene_key
        Column of ``.var`` with symbols or Ensembl ids; ``.var_names`` where None.
    invert_log1p
        Turn log1p-normalised counts back, where that is exact.
    hidden_layer
        Layer of the network whose states are taken: 0 the embeddings of the genes, -1 the last layer, and so on. None: as the
        original does (scGPT the last, Geneformer the last but one).
    pooling
        How a cell's vector is taken from the states of its genes: ``"cls"`` (the state of the token in front; of unit length in scGPT) or
        ``"mean"`` (over its genes). None: as the original does.
    library_key
        For spots: column of ``.obs`` with the section of each, where there are several. Neighbours are of one section, and means of whole
        sections are taken out.
    table_key
        Table of a SpatialData; it is changed in place.
    mod
        Modality of a MuData with the RNA, which is changed in place. May be left out where it is called ``"rna"`` or is the only one.
    spatial_key
        For spots: key of ``.obsm`` with the coordinates; ``"spatial"`` where None. Squidpy's graph in ``.obsp["spatial_connectivities"]`` is
        used where it is there.
    key_added
        Key of everything written; ``"X_sclm_<family>"`` where None.
    batch_size
        Cells a block; chosen by memory where None.
    device
        Where the network runs for this call: ``"cpu"``, ``"cuda"``, ``"auto"`` …; where it is when None.
    seed
        Of what is drawn while a cell is written as tokens: for scGPT, which genes are read of a cell that expresses more than fit. For
        ``"graphst"``, of the weights at the start and of corruptions.
    copy
        Return a changed copy instead of changing ``adata``.

    Returns
    -------
    None, or the copy. Sets, with ``key_added`` in place of ``X_sclm_scgpt``:

    ``.obsm["X_sclm_scgpt"]`` : float32 (n_obs, width)
        Vectors; NaN for cells that express no gene of the model, and for spots without counts.
    ``.uns["X_sclm_scgpt"]`` : dict
        The record: model, layer and pooling, gene overlap, share of the counts in known genes, seed.
    ``.obsp["spatial_connectivities"]``, ``.obsp["spatial_distances"]``, ``.uns["spatial_neighbors"]``
        For spots: the graph under squidpy's keys, where it had to be built: none was there, or one that sclm wrote for another ``spatial_key`` or ``library_key``.

    Raises
    ------
    ValueError
        If the counts are not raw, the model knows less than a tenth of the genes, or an argument is out of range; for spots, as
        :func:`sclm.tl.domains`. The AnnData is unchanged.
    KeyError
        If a column or layer does not exist.
    TypeError
        If the model gives no vectors, or has no use for an argument.

    Notes
    -----
    GraphST: Long et al., Nature Communications 14 (2023). scGPT: Cui et al., Nature Methods 21 (2024). Geneformer: Theodoris et al., Nature 618 (2023). Whether such vectors serve better than
    principal components depends on the data (Kedzierska et al., Genome Biology 26, 2025): compare with
    :func:`sclm.pl.embed`, which shows both.

    Examples
    --------
    >>> import sclm
    >>> adata = sclm.datasets.pbmc68k()
    >>> model = sclm.train("scgpt", adata, preset="tiny", max_epochs=1, progress_bar=False)
    >>> sclm.tl.embed(adata, model)
    >>> adata.obsm["X_sclm_scgpt"].shape[0]
    700
    """
    if key_added is not None:
        results.check_name(key_added)
    adata = table_of(adata, table_key, mod)
    if not copy and getattr(adata, "is_view", False) and adata.isbacked:
        raise ValueError(
            "Results cannot be written into a view of a backed AnnData. Pass copy=True, or call .to_memory() on it."
        )
    encoder = loaded(model, (Encoder, SpotEncoder), "embed", "give cells vectors")
    of_cells, of_spots = (
        {"hidden_layer": hidden_layer, "pooling": pooling},
        {"library_key": library_key, "spatial_key": spatial_key},
    )
    of_others = of_cells if isinstance(encoder, SpotEncoder) else of_spots
    useless = [name for name, value in of_others.items() if value is not None]
    if useless:
        family = getattr(encoder, "family", type(encoder).__name__)
        raise TypeError(f"{family!r} has no use for {useless[0]}={of_others[useless[0]]!r}. Leave it out.")
    if isinstance(encoder, SpotEncoder):
        read = {"layer": layer, "gene_key": gene_key, "invert_log1p": invert_log1p}
        return _embed_spots(
            adata,
            encoder,
            read,
            of_spots | {"table_key": table_key, "mod": mod},
            key_added,
            batch_size,
            device,
            seed,
            copy,
        )
    check_device(encoder, device)
    key = key_added or f"X_sclm_{getattr(encoder, 'family', 'encoder')}"
    results.check_name(key)
    asked = [
        name for name in getattr(encoder, "obs_keys", ()) if name in adata.obs
    ]  # a batch, for encoders that read one
    source = read_cells(adata, layer=layer, gene_key=gene_key, obs_keys=asked, invert_log1p=invert_log1p)
    match = encoder.match(source.genes)
    logger.info("genes: %s", match.summary())
    strangers = encoder.n_of_unknown_batch(source.obs) if hasattr(encoder, "n_of_unknown_batch") else 0
    if strangers:
        logger.warning(
            "%d of %d cells are of no batch that the model knows (%s): they are read as a mixture of all its batches.",
            strangers, source.n_cells, ", ".join(asked) or "the data lack its column of batches",
        )  # fmt: skip
    options: dict[str, Any] = {"hidden_layer": hidden_layer, "pooling": pooling}
    if hasattr(encoder, "chosen"):
        options["hidden_layer"], options["pooling"] = encoder.chosen(**options)

    vectors: np.ndarray | None = None
    known = total = 0.0
    first = 0
    with (
        on_device(encoder, device),
        tqdm(total=source.n_cells, desc="embed", unit=" cells", delay=2, leave=False) as bar,
    ):
        for cells in source.blocks(batch_size):
            found = encoder.embed(cells, **options, seed=seed)
            if vectors is None:
                vectors = np.empty((source.n_cells, found.shape[1]), dtype=np.float32)
            vectors[first : first + len(found)] = found
            first += len(found)
            of_genes = np.asarray(cells.counts.sum(axis=0, dtype=np.float64)).ravel()  # (n_genes,)
            known, total = known + float(of_genes[match.ids >= 0].sum()), total + float(of_genes.sum())
            bar.update(len(found))
    if vectors is None:
        raise ValueError("There are no cells to embed.")
    empty = int(np.isnan(vectors[:, 0]).sum())
    if empty:
        logger.warning("%d cells express no gene of the model: their vectors are NaN.", empty)

    entry = results.record(
        "embed",
        model=encoder.provenance() if hasattr(encoder, "provenance") else {"family": type(encoder).__name__},
        params={"layer": layer, "gene_key": gene_key, "invert_log1p": invert_log1p, **options},
        seed=seed,
        genes={"matched": match.matched, "in_model": match.in_model, "in_data": match.in_data},
        counts_in_known_genes=known / total if total else 0.0,
        n_cells_without_genes=empty,
        n_cells_of_unknown_batch=strangers,
    )
    target = adata.copy() if copy and not adata.isbacked else adata.to_memory() if copy else adata
    results.write(target, key, entry, obsm={key: vectors})
    return target if copy else None


def _embed_spots(
    table: anndata.AnnData,
    encoder: SpotEncoder,
    read: dict[str, Any],
    where: dict[str, Any],
    key_added: str | None,
    batch_size: int | None,
    device: str | None,
    seed: int,
    copy: bool,
) -> anndata.AnnData | None:
    """Vectors of spots in their surroundings."""
    where["spatial_key"] = where["spatial_key"] or "spatial"
    around = surroundings(table, spatial_key=where["spatial_key"], library_key=where["library_key"], **read)
    vectors = spot_vectors(encoder, around, batch_size=batch_size, device=device, seed=seed)
    key = key_added or f"X_sclm_{getattr(encoder, 'family', 'spots')}"
    entry = results.record(
        "embed",
        model=encoder.provenance() if hasattr(encoder, "provenance") else {"family": type(encoder).__name__},
        params={**read, **where},
        seed=seed,
        neighbours=around.origin,
        domain_hops=encoder.domain_hops,
        n_spots_without_counts=int(np.isnan(vectors[:, 0]).sum()),
        warnings=np.array(around.section.warnings, dtype=object),
    )
    obsp, graph = around.written()
    target = table.copy() if copy and not table.isbacked else table.to_memory() if copy else table
    results.write(target, key, entry, obsm={key: vectors}, obsp=obsp, uns=graph)
    return target if copy else None
