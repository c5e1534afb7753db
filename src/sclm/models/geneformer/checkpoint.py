"""Geneformer's published layout, read strictly: every tensor accounted for, dictionaries bound to the weights."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from sclm.models.foreign import read_safetensors, refuse_unmatched, sha256
from sclm.models.geneformer.dictionaries import find_dictionaries
from sclm.models.geneformer.published import REPOSITORY, WEIGHTS, check_weights, refuse_pointer

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from sclm.models.geneformer.model import Geneformer
    from sclm.models.geneformer.network import GeneformerConfig, GeneformerNetwork

logger = logging.getLogger(__name__)

LAYOUT = (
    "a folder with config.json of a BERT, model.safetensors or pytorch_model.bin, and Geneformer's dictionaries "
    "(token_dictionary*.pkl, gene_median_dictionary*.pkl) in it, in its subfolder geneformer/, or beside it as in the hub's repository"
)

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_TEXT = ("vocab.txt", "tokenizer.json", "tokenizer_config.json")  # a BERT of words
# Buffers that older versions of transformers stored: their values follow from the configuration.
_IGNORED = frozenset({"bert.embeddings.position_ids", "bert.embeddings.token_type_ids"})
_TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
# Our setting → the original's.
_SETTINGS = {
    "layers": "num_hidden_layers",
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "feed_forward": "intermediate_size",
    "max_length": "max_position_embeddings",
    "activation": "hidden_act",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "token_types": "type_vocab_size",
    "norm_epsilon": "layer_norm_eps",
    "initializer_range": "initializer_range",
}
# What a setting must be where it is given.
_REQUIRED = {
    "model_type": "bert",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "pad_token_id": 0,
    "tie_word_embeddings": True,
}


def recognise(path: Path) -> bool:
    """Whether a folder, or a weights file in it, looks like Geneformer's: a BERT that has no tokenizer of words."""
    folder = _folder(path)
    file = folder / "config.json"
    if not file.is_file() or any((folder / name).exists() for name in _TEXT):
        return False
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return False
    if not isinstance(config, dict):
        return False
    named = str((config.get("architectures") or [""])[0])
    return config.get("model_type") == "bert" or named.startswith("Bert")


def sources(path: Path) -> list[Path]:
    """Configuration, weights and dictionaries."""
    folder = _folder(path)
    dictionaries = find_dictionaries(folder, _read_config(folder)["vocab_size"])
    return [folder / "config.json", _weights_file(path), *dictionaries.files]


def convert(path: Path) -> Geneformer:
    """The model of a folder in the original layout.

    Raises
    ------
    FileNotFoundError
        If weights or dictionaries are absent.
    ValueError
        If a tensor is missing, unknown or of another shape; if published weights lie beside other dictionaries; if the network is no
        Geneformer: another activation pattern, a multi-task model.
    """
    # here, so that looking at a folder imports neither torch nor transformers
    from sclm.models.geneformer.model import Geneformer
    from sclm.models.geneformer.network import GeneformerNetwork

    folder, file = _folder(path), _weights_file(path)
    original = _read_config(folder)
    dictionaries = find_dictionaries(folder, original["vocab_size"])
    weights = sha256(file)
    check_weights(weights, dictionaries.sha256, folder)
    tensors = _read_weights(file)
    config = _our_config(original, tensors, folder)
    network = GeneformerNetwork(config, original["vocab_size"])
    _fill(network, tensors, file)
    name = WEIGHTS[weights][0] if weights in WEIGHTS else folder.absolute().name
    known = "published weights" if weights in WEIGHTS else "weights of unknown origin"
    card = {
        "data": f"{name}: {known} in the original layout, Geneformer {dictionaries.version}",
        "weights_sha256": weights,
        "dictionaries_sha256": ", ".join(f"{role} {value}" for role, value in dictionaries.sha256.items()),
        "split": "not known here: see the model's authors",
        "limits": "human cells; raw counts of all genes; cells of other tissues or platforms than it was trained on may be read wrongly",
    }
    logger.info(
        "read %s: %d of %d tensors used, none missing; dictionaries %s", file, len(tensors.keys() - _IGNORED), len(tensors),
        ", ".join(f.name for f in dictionaries.files),
    )  # fmt: skip
    return Geneformer(config, dictionaries.vocabulary, network, card, dictionaries=dictionaries)


def _folder(path: Path) -> Path:
    return path.parent if path.name in _WEIGHTS else path


def _weights_file(path: Path) -> Path:
    folder = _folder(path)
    for name in [path.name] if path.name in _WEIGHTS else _WEIGHTS:
        if (folder / name).is_file():
            refuse_pointer(folder / name)
            return folder / name
    raise FileNotFoundError(
        f"{folder} holds a config.json and no weights: expected {' or '.join(_WEIGHTS)}. Download the model's folder whole, for example "
        f"with `hf download {REPOSITORY} --include 'Geneformer-V2-104M/*' 'geneformer/*.pkl' --local-dir FOLDER`."
    )


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    missing = [name for name in ("vocab_size", *_SETTINGS.values()) if name not in config]
    # BERT's own defaults stand for what is never written into the file; the sizes must be there
    required = [name for name in missing if name not in ("type_vocab_size", "initializer_range")]
    if required:
        raise ValueError(f"{file} must name {', '.join(required)}, which it does not. Get the file again.")
    for name, expected in _REQUIRED.items():
        if config.get(name, expected) != expected:
            raise ValueError(
                f"{file} says {name} {config[name]!r}; Geneformer has {expected!r}. This is another network."
            )
    return config


def _read_weights(file: Path) -> dict[str, torch.Tensor]:
    """Name → tensor; ``module.`` of data-parallel training is removed."""
    import torch

    if file.suffix == ".safetensors":
        tensors = read_safetensors(file)
    else:
        try:
            tensors = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(
                f"{file} is no file of tensors alone ({type(error).__name__}); nothing in it was run. Where you trust it, load it with "
                "transformers and call save_pretrained, which writes model.safetensors."
            ) from error
    if not isinstance(tensors, dict) or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
        raise ValueError(f"{file} must hold a dictionary of tensors, found {type(tensors).__name__}.")
    if tensors and all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    several = sorted({".".join(n.split(".")[:2]) for n in tensors if n.startswith("classification_heads.")})
    if several or any(name.startswith("attention_pool.") for name in tensors):
        raise ValueError(
            f"{file} is a multi-task model with {len(several)} heads ({', '.join(several)}). These are not read: the original's multi-task "
            "training starts its encoder from random weights whatever checkpoint it is given, and stores no names of the classes. "
            "Fine-tune a pretrained model on each task."
        )
    return tensors


def _our_config(original: dict[str, Any], tensors: dict[str, torch.Tensor], folder: Path) -> GeneformerConfig:
    """Settings of a config.json, and the head: as it names it, else as the tensors show it."""
    from sclm.models.geneformer.network import HEADS, GeneformerConfig

    named = (original.get("architectures") or [None])[0]
    heads = {cls.__name__: head for head, cls in HEADS.items()}
    if named is None:
        pooled = "bert.pooler.dense.weight" in tensors
        head = ("cell" if pooled else "gene") if "classifier.weight" in tensors else "masked"
    elif named in heads:
        head = heads[named]
    else:
        raise ValueError(f"{folder / 'config.json'} names the network {named!r}; known are {', '.join(heads)}.")
    classes: tuple[str, ...] = ()
    if head != "masked":
        weight = tensors.get("classifier.weight")
        if weight is None:
            raise ValueError(
                f"{folder} is missing classifier.weight, which {named or 'a classifier'} has. Nothing was loaded."
            )
        by_id = {int(i): str(name) for i, name in (original.get("id2label") or {}).items()}
        classes = tuple(by_id[i] for i in sorted(by_id)) or tuple(f"LABEL_{i}" for i in range(weight.shape[0]))
    values = {ours: original[theirs] for ours, theirs in _SETTINGS.items() if theirs in original}
    return GeneformerConfig(**values, head=head, classes=classes)


def _fill(network: GeneformerNetwork, tensors: dict[str, torch.Tensor], file: Path) -> None:
    """Put the tensors of a file into a network, all of them."""
    state = network.bert_model.state_dict()
    tied = {name: source for name, source in _TIED.items() if name in state}
    expected = {name: tuple(tensor.shape) for name, tensor in state.items() if name not in tied}
    refuse_unmatched(expected, tensors, str(file), ignored=_IGNORED | tied.keys())
    for name, source in tied.items():
        if name in tensors and not tensors[name].equal(tensors[source]):
            raise ValueError(
                f"{file} holds {name} with other values than {source}; in Geneformer the two are one tensor. Nothing was loaded."
            )
    for name in expected:
        state[name].copy_(tensors[name])  # the state's tensors are detached and share the network's memory
