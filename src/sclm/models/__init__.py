"""Model families behind the tools: load, train, list. Families are imported when they are used."""

from __future__ import annotations

import difflib
import importlib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sclm.models.registry import PUBLISHED, Published, download, missing

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata
    import pandas as pd

    from sclm.models.family import Family

__all__ = ["FAMILIES", "PUBLISHED", "Published", "available", "family_class", "load", "train"]

# Name → "module:Class". Strings, so that listing the families imports none of them.
FAMILIES: dict[str, str] = {
    "logistic": "sclm.models.baselines.logistic:Logistic",
    "knn": "sclm.models.baselines.knn:NearestNeighbours",
    "mean": "sclm.models.baselines.mean:MeanProfile",
    "majority": "sclm.models.baselines.majority:Majority",
    "onclass": "sclm.models.openvocab.onclass:OnClass",
    "pagerank-voting": "sclm.models.openvocab.voting:PageRankVoting",
    "marker-lists": "sclm.models.openvocab.markers:MarkerLists",
    "hierarchical": "sclm.models.openvocab.hierarchical:Hierarchical",
    "evidence": "sclm.models.evidence.model:Evidence",
    "pgl": "sclm.models.pgl.model:PGL",
    "cell2sentence": "sclm.models.cell2sentence.model:Cell2Sentence",
    "celltosg": "sclm.models.celltosg.model:CellToSG",
    "cell2text": "sclm.models.cell2text.model:Cell2Text",
    "geneformer": "sclm.models.geneformer.model:Geneformer",
    "scgpt": "sclm.models.scgpt.model:ScGPT",
    "hop-mean": "sclm.models.graphst.hops:HopMean",
    "graphst": "sclm.models.graphst.model:GraphST",
    "deconvolution": "sclm.models.deconvolution.model:Deconvolution",
    "nnls": "sclm.models.deconvolution.nnls:NNLS",
    "tangram": "sclm.models.deconvolution.tangram:Tangram",
    "no-change": "sclm.models.baselines.response:NoChange",
    "mean-response": "sclm.models.baselines.response:MeanResponse",
    "matching-response": "sclm.models.baselines.response:MatchingResponse",
    "additive-response": "sclm.models.baselines.response:AdditiveResponse",
    "ridge-response": "sclm.models.baselines.response:RidgeResponse",
    "sctranslator": "sclm.models.sctranslator.model:ScTranslator",
    "mean-protein": "sclm.models.baselines.translation:MeanProtein",
    "own-gene": "sclm.models.baselines.translation:OwnGene",
    "ridge-protein": "sclm.models.baselines.translation:RidgeProtein",
}
# Methods that bring a verb, where they are not named like it: a mapper looks at the section first.
_METHODS = {"map": "adapt"}


def family_class(name: str) -> type[Family]:
    """Class of a model family.

    Parameters
    ----------
    name
        A key of :data:`FAMILIES`.

    Returns
    -------
    The class, imported now.

    Raises
    ------
    ValueError
        If there is no such family; names near ones.
    """
    if name not in FAMILIES:
        near = difflib.get_close_matches(name, FAMILIES, n=3, cutoff=0.4)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(f"Unknown model family {name!r}; known are {', '.join(map(repr, FAMILIES))}.{hint}")
    module, _, attribute = FAMILIES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def available() -> pd.DataFrame:
    """Model families and published checkpoints that can be named in a tool.

    Returns
    -------
    One row a name: ``kind`` (``"family"`` or ``"checkpoint"``), ``verbs``, ``licence``, ``description``.

    Examples
    --------
    >>> import sclm
    >>> sclm.models.available().loc["logistic", "verbs"]
    'annotate'
    """
    import pandas as pd

    from sclm.models.contract import VERBS

    rows = []
    for name in FAMILIES:
        cls = family_class(name)
        verbs = ", ".join(v for v in VERBS if hasattr(cls, _METHODS.get(v, v)))
        description = (inspect.getdoc(cls) or "").partition("\n")[0]
        rows.append((name, "family", verbs, "BSD-3-Clause", description))
    rows += [(p.name, "checkpoint", p.verbs, p.licence, p.description) for p in PUBLISHED.values()]
    return pd.DataFrame(rows, columns=["name", "kind", "verbs", "licence", "description"]).set_index("name")


def load(model: str | Path | Family) -> Family:
    """Model by name, folder or object.

    Parameters
    ----------
    model
        A model object (returned as it is), a folder written by ``model.save()``, the name of a published checkpoint,
        ``"hf:organisation/name"`` with an optional ``@revision`` (its main branch of today without one), a family that needs no
        training (``"marker-lists"``), or a folder or file as the original authors publish it (scGPT, Geneformer, scTranslator), which
        is converted once and kept: see :func:`sclm.models.foreign.load_foreign`.

    Returns
    -------
    The model, ready for its verbs.

    Raises
    ------
    FileNotFoundError
        If nothing is there under that name or path.
    ValueError
        If the folder holds something that no family reads, or the name is that of a family that needs training.

    Examples
    --------
    >>> import sclm
    >>> sclm.load("no-such-model")
    Traceback (most recent call last):
    ...
    FileNotFoundError: No model 'no-such-model': it is no folder, ...
    """
    from sclm.models.family import Family as Base
    from sclm.models.family import is_checkpoint, read_config
    from sclm.models.foreign import explain, load_foreign, recognise

    if isinstance(model, Base):
        return model
    if not isinstance(model, str | Path):
        raise TypeError(f"model must be a name, a folder or a model, found {type(model).__name__}.")
    name = str(model)
    if name in PUBLISHED or name.startswith("hf:"):
        folder = download(name)
    elif Path(name).exists():
        folder = Path(name)
    elif name in FAMILIES:
        cls = family_class(name)
        if hasattr(cls, "ready"):  # needs no training
            return cls.ready()
        if "fit" not in {attribute for base in cls.__mro__ if base is not Base for attribute in vars(base)}:
            raise ValueError(
                f"{name!r} reads published models: pass the folder of one, or its name on the hub, 'hf:organisation/name'."
            )
        keys, other = "label_key=...", ", or pass reference= and label_key= to the tool"
        if hasattr(cls, "generate"):
            keys, other = "obs_keys=[...]", ""
        elif hasattr(cls, "respond") and not hasattr(cls, "annotate"):
            keys, other = 'perturbation_key=..., control="..."', ""
        elif hasattr(cls, "translate"):
            keys, other = "protein_key=...", ", or pass reference= and protein_key= to the tool"
        raise ValueError(
            f"{name!r} is a family that learns from a reference: train it first with "
            f"model = sclm.train({name!r}, reference, {keys}){other}."
        )
    else:
        raise FileNotFoundError(missing(name, [*PUBLISHED, *FAMILIES]))
    if not is_checkpoint(folder):
        foreign = recognise(folder)
        if foreign is None:
            error = FileNotFoundError if folder.is_dir() and not (folder / "config.json").is_file() else ValueError
            raise error(f"{folder} is no checkpoint that sclm reads. {explain(folder)}")
        return load_foreign(folder, foreign)
    config = read_config(folder)
    if config["family"] not in FAMILIES:
        raise ValueError(
            f"{folder} holds a model of family {config['family']!r}, which this version of sclm does not know."
        )
    return family_class(config["family"]).load(folder)


def train(
    family_name: str,
    adata: anndata.AnnData | str | Path | Sequence[anndata.AnnData | str | Path],
    *,
    label_key: str | None = None,
    batch_key: str | None = None,
    obs_keys: Sequence[str] = (),
    perturbation_key: str | None = None,
    protein_key: str | None = None,
    table_key: str | None = None,
    mod: str | None = None,
    layer: str | None = None,
    gene_key: str | None = None,
    seed: int = 0,
    **options: Any,
) -> Family:
    """Train a model family on the user's own cells.

    Parameters
    ----------
    family_name
        A family: see :func:`available`.
    adata
        Cells with raw counts; in memory, backed or Dask. Or a SpatialData or MuData. Or the path of an ``.h5ad``, of a ``.zarr``
        store or of an annbatch collection (or the collection itself), whose counts then stay on disk. Families that read their
        cells as a stream (the neural ones) take a list of any of these, and learn on the genes that all share.
    label_key
        Column of ``.obs`` with the labels to learn, for annotators.
    batch_key
        Column of ``.obs`` with the donor or batch. Cells are then held out for calibration by whole batches, so that the
        confidence is honest about cells of a donor that the model has not seen.
    obs_keys
        Further columns of ``.obs`` that the family reads.
    perturbation_key
        Column of ``.obs`` with the perturbed genes (``"JAK2"``, ``"JAK2+STAT1"``, the control's name), for models of responses.
    protein_key
        Proteins measured in the same cells, for models that translate: key of ``.obsm`` with a DataFrame, or with an array whose
        names are in ``.uns``; of a MuData, the name of the modality.
    table_key
        Table of a SpatialData.
    mod
        Modality of a MuData with the RNA. May be left out where it is called ``"rna"`` or is the only one, and with `protein_key`.
    layer
        Layer with the raw counts; ``.X`` where None.
    gene_key
        Column of ``.var`` with symbols or Ensembl ids; ``.var_names`` where None.
    seed
        Of everything random.
    **options
        Settings of the family (the fields of its ``Config``); of families that are trained by :func:`sclm.training.fit` also its
        ``folder``, ``max_minutes``, ``devices``, ``num_nodes``, ``strategy``, ``precision``. ``"scgpt"`` and ``"geneformer"`` take
        ``balance_key=``, a column of ``.obs`` whose values are drawn equally often. ``"cell2text"`` takes ``encoder=``, a model, its folder or name, or the
        name of a family that is trained on the same cells first, with ``encoder_options=``. Encoders take ``base=``, a model, its folder or its published name, to
        go on from, and with `label_key` ``tune=`` and more: see :meth:`sclm.models.encoder.EncoderFamily.fit_labels`.

    Returns
    -------
    The trained model: pass it to a tool as ``model=``, or ``.save(folder)`` it.

    Raises
    ------
    ValueError
        If the family is unknown, or the cells are not raw counts.
    KeyError
        If a column or layer does not exist.
    TypeError
        If the family has no such option.

    Examples
    --------
    >>> import sclm
    >>> reference = sclm.datasets.pbmc68k()
    >>> model = sclm.train("logistic", reference, label_key="cell_type")
    >>> sclm.tl.annotate(reference, model)
    """
    from sclm.cells import JoinedSource, is_stored, open_cells, read_cells, table_of

    cls = family_class(family_name)
    obs_keys = [obs_keys] if isinstance(obs_keys, str) else obs_keys
    named = {"label_key": label_key, "batch_key": batch_key, "perturbation_key": perturbation_key}
    read = [*named.values(), options.get("balance_key"), *obs_keys]
    columns = list(dict.fromkeys(k for k in read if k is not None))
    # Only what was given is passed on: a family that does not know an argument refuses it by name.
    given = {**named, "obs_keys": tuple(obs_keys) or None}
    options |= {k: v for k, v in given.items() if v is not None}
    if isinstance(options.get("base"), str | Path):
        options["base"] = load(options["base"])  # families are handed models: they do not load
    if isinstance(adata, list | tuple) or is_stored(adata):
        asked: list[Any] = list(adata) if isinstance(adata, list | tuple) else [adata]
        tables = [part for one in asked for part in (open_cells(one) if is_stored(one) else [one])]
        adata = tables[0] if len(tables) == len(asked) == 1 else tables
    if protein_key is not None:
        from sclm.cells.proteins import read_proteins

        adata, options["proteins"] = read_proteins(
            adata if mod is None and table_key is None else table_of(adata, table_key, mod), protein_key
        )
        table_key = mod = None
    if isinstance(adata, list):
        if not getattr(cls, "reads_streams", False):
            raise TypeError(
                f"{family_name!r} learns from one AnnData, found a list of {len(adata)}. Concatenate them first."
            )
        parts = [
            read_cells(table_of(part, table_key, mod), layer=layer, gene_key=gene_key, obs_keys=columns)
            for part in adata
        ]
        source: Any = JoinedSource(parts)  # reads as a CellSource does
    else:
        adata = table_of(adata, table_key, mod)
        source = read_cells(adata, layer=layer, gene_key=gene_key, obs_keys=columns)
    if hasattr(cls, "default_encoder"):  # reads cells through another family's encoder, which it is handed
        options["encoder"] = _handed(options, cls.default_encoder, source, seed)
    return cls.fit(source, seed=seed, **options)


def _handed(options: dict[str, Any], default: str, source: Any, seed: int) -> Any:
    """The encoder of a family that needs one: as it is, loaded, or a small one trained on the same cells without their labels."""
    encoder, settings = options.pop("encoder", None) or default, options.pop("encoder_options", None) or {}
    if isinstance(encoder, str) and encoder in FAMILIES:
        return family_class(encoder).fit(source, seed=seed, **({"preset": "tiny"} | settings))
    return load(encoder)
