"""Give every cell a vector."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from sclm import models, results
from sclm.cells import read_cells, table_of
from sclm.models.contract import Encoder
from sclm.models.contract_spots import SpotEncoder
from sclm.models.family import is_checkpoint, read_config
from sclm.tl._model import check_device, loaded, on_device
from sclm.tl._spots import spot_vectors, surroundings
from sclm.tl._stages import Part, Whole, in_one_go

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
    given = {
        "layer": layer, "gene_key": gene_key, "invert_log1p": invert_log1p, **of_cells, "key_added": key_added, "batch_size": batch_size, "device": device, "seed": seed,
    }  # fmt: skip
    return in_one_go(adata, Embedding(adata, encoder, **given), copy)


class Embedding:
    """A call of :func:`sclm.tl.embed` with an encoder of cells, prepared: see :class:`sclm.tl._stages.Stages`."""

    def __init__(self, adata: anndata.AnnData, model: Any, *, trained: Any = None, **given: Any) -> None:
        encoder = trained if trained is not None else loaded(model, Encoder, "embed", "give cells vectors")
        check_device(encoder, given["device"])
        self.key = given["key_added"] or f"X_sclm_{getattr(encoder, 'family', 'encoder')}"
        results.check_name(self.key)
        self.model, self.given = encoder, given
        asked = [name for name in getattr(encoder, "obs_keys", ()) if name in adata.obs]  # a batch, for some encoders
        read = {name: given[name] for name in ("layer", "gene_key", "invert_log1p")}
        self.source = source = read_cells(adata, obs_keys=asked, **read)
        self.match = encoder.match(source.genes)
        logger.info("genes: %s", self.match.summary())
        self.strangers = encoder.n_of_unknown_batch(source.obs) if hasattr(encoder, "n_of_unknown_batch") else 0
        if self.strangers:
            logger.warning(
                "%d of %d cells are of no batch that the model knows (%s): they are read as a mixture of all its batches.",
                self.strangers, source.n_cells, ", ".join(asked) or "the data lack its column of batches",
            )  # fmt: skip
        options: dict[str, Any] = {name: given[name] for name in ("hidden_layer", "pooling")}
        if hasattr(encoder, "chosen"):
            options["hidden_layer"], options["pooling"] = encoder.chosen(**options)
        self.options = options

    @staticmethod
    def needs_all(arguments: Mapping[str, Any]) -> str | None:
        """A model of spots reads the spots around each."""
        family = _family(arguments["model"])
        if family is not None and hasattr(models.family_class(family), "embed_spots"):
            return "model"
        return next((name for name in ("library_key", "spatial_key") if arguments.get(name) is not None), None)

    def part(self, rows: np.ndarray | None = None) -> Part:
        """The cells of these rows, or all."""
        n_cells = self.source.n_cells if rows is None else len(rows)
        vectors: np.ndarray | None = None
        known = total = 0.0  # whole numbers: their sums are the same in any order
        first = 0
        with (
            on_device(self.model, self.given["device"]),
            tqdm(total=n_cells, desc="embed", unit=" cells", delay=2, leave=False) as bar,
        ):
            for cells in self.source.blocks(self.given["batch_size"], rows):
                found = self.model.embed(cells, **self.options, seed=self.given["seed"])
                if vectors is None:
                    vectors = np.empty((n_cells, found.shape[1]), dtype=np.float32)
                vectors[first : first + len(found)] = found
                first += len(found)
                of_genes = np.asarray(cells.counts.sum(axis=0, dtype=np.float64)).ravel()  # (n_genes,)
                known, total = known + float(of_genes[self.match.ids >= 0].sum()), total + float(of_genes.sum())
                bar.update(len(found))
        if vectors is None:
            raise ValueError("There are no cells to embed.")
        facts = {"known": known, "total": total, "empty": int(np.isnan(vectors[:, 0]).sum())}
        return Part({}, {"vectors": vectors}, facts)

    def whole(self, parts: Sequence[Part]) -> Whole:
        """All parts, in the order of the cells."""
        known, total, empty = (sum(part.facts[name] for part in parts) for name in ("known", "total", "empty"))
        if empty:
            logger.warning("%d cells express no gene of the model: their vectors are NaN.", empty)
        given, match, encoder = self.given, self.match, self.model
        entry = results.record(
            "embed",
            model=encoder.provenance() if hasattr(encoder, "provenance") else {"family": type(encoder).__name__},
            params={**{name: given[name] for name in ("layer", "gene_key", "invert_log1p")}, **self.options},
            seed=given["seed"],
            genes={"matched": match.matched, "in_model": match.in_model, "in_data": match.in_data},
            counts_in_known_genes=known / total if total else 0.0,
            n_cells_without_genes=int(empty),
            n_cells_of_unknown_batch=self.strangers,
        )
        return Whole(self.key, entry, {}, {self.key: lambda part: part.matrices["vectors"]})


def _family(model: Any) -> str | None:
    """The family behind a name or a checkpoint of ours, without loading it."""
    if str(model) in models.FAMILIES:
        return str(model)
    folder = Path(str(model))
    family = read_config(folder)["family"] if is_checkpoint(folder) else None
    return family if family in models.FAMILIES else None


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
