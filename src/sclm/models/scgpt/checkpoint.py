"""Checkpoints of scGPT in the layout of its authors: names of tensors both ways, read strictly.

The original reads a file by dropping whatever does not match, so that a network may be random where its names were spelt otherwise.
Here every tensor of the file is used or stands on the list of those left out on purpose, and every tensor of the network is found.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sclm.cells import GeneVocabulary
from sclm.models.foreign import read_safetensors, refuse_unmatched, sha256
from sclm.models.scgpt.config import ScGPTConfig
from sclm.models.scgpt.names import their_name, to_ours

if TYPE_CHECKING:
    from sclm.models.scgpt.model import ScGPT

LAYOUT = (
    "args.json, vocab.json and best_model.pt; or config.json with model_type 'scgpt', vocab.json and model.safetensors "
    "(or pytorch_model.bin)"
)
SPECIAL = ("<pad>", "<cls>", "<eoc>")
ARGS, VOCAB, WEIGHTS, HF_CONFIG = "args.json", "vocab.json", "best_model.pt", "config.json"
_HF_KEY = "model_type"
_HF_WEIGHTS = ("model.safetensors", "pytorch_model.bin")

# sha256 of published files → what they are.
PUBLISHED = {
    "6cb5d451ab5c4b33eb673adbe4fddc61d2389df1b89b7651a9fe2e557572b922": "scGPT whole-human, weights",
    "acca93d114ca62c3f0f50debbd23e8c87f0714f4737764454f6b2b13f2e8580f": "scGPT whole-human, vocabulary",
    "c18e075e018140cb8b2d9029387b9de26607a5ce6a8ccabd6ead70cd76b95d60": "scGPT whole-human, settings",
}


def recognise(path: Path) -> bool:
    """Whether a folder, or the file of weights in one, has this layout; looks at names and small JSON only."""
    folder, weights = _places(path)
    if weights is None:
        return False
    if (folder / ARGS).is_file() and (folder / VOCAB).is_file():
        return True
    config = folder / HF_CONFIG
    if not config.is_file():
        return False
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        return False
    return isinstance(content, dict) and content.get(_HF_KEY) == "scgpt"


def sources(path: Path) -> list[Path]:
    """Files that decide the model."""
    folder, weights = _places(path)
    if weights is None:
        raise FileNotFoundError(f"{path} holds no weights of scGPT: {LAYOUT}.")
    settings = folder / ARGS if (folder / ARGS).is_file() else folder / HF_CONFIG
    if not (folder / VOCAB).is_file():
        raise FileNotFoundError(
            f"{folder} lacks {VOCAB}, without which no gene has a number. Get it from where the weights were published "
            f"(all scGPT models of 33 million cells share one) and put it beside {weights.name}."
        )
    return [settings, folder / VOCAB, weights]


def convert(path: Path) -> ScGPT:
    """A model of ours from the original files.

    Parameters
    ----------
    path
        The folder, or the file of weights in it.

    Returns
    -------
    The model; ``card["report"]`` says how many tensors were used, and which were left out.

    Raises
    ------
    FileNotFoundError
        If a file is absent.
    ValueError
        If a tensor is missing, unknown or of another shape, settings and tensors disagree, or the vocabulary lacks special tokens.
    """
    from sclm.models.scgpt.model import ScGPT

    settings_file, vocabulary_file, weights_file = sources(Path(path))
    settings = json.loads(settings_file.read_text(encoding="utf-8"))
    vocabulary = read_vocabulary(vocabulary_file)
    tensors, ignored = to_ours(read_tensors(weights_file))
    config = read_settings(settings, tensors, len(vocabulary), str(weights_file))
    network = ScGPT.build(config, vocabulary)
    # compared under their names: whoever reads the message looks into the file
    expected = {their_name(name): tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    expected |= _announced(settings, config)
    refuse_unmatched(expected, {their_name(name): tensor for name, tensor in tensors.items()}, str(weights_file))
    network.load_state_dict({name: tensor.to(torch.float32) for name, tensor in tensors.items()})
    files = {file.name: sha256(file) for file in (settings_file, vocabulary_file, weights_file)}
    known = [PUBLISHED[digest] for digest in files.values() if digest in PUBLISHED]
    card = {
        "data": f"as published: {', '.join(known)}" if known else "unknown: a checkpoint in the layout of scGPT",
        "split": "of its authors",
        "origin": f"{weights_file.name} of {settings.get('save_dir') or weights_file.parent.name}",
        "sha256": files,
        "report": {"used": len(tensors), "ignored": ignored, "missing": []},
        "limits": "cells are read as bins of their own counts; answers of a pretrained network are no evidence by themselves",
    }
    return ScGPT(config, vocabulary, network, card)


# Vocabulary ----------------------------------------------------------------------------------------------------------


def read_vocabulary(path: Path) -> GeneVocabulary:
    """Genes in the order of their ids: these stand in the file's values, its order means nothing.

    Raises
    ------
    ValueError
        If ids are not 0 … V - 1, each once, or a special token is absent.
    """
    table = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(table, dict) or not all(isinstance(i, int) for i in table.values()):
        raise ValueError(f"{path} must be a JSON object of gene symbol to number, found {type(table).__name__}.")
    tokens = sorted(table, key=table.__getitem__)
    ids = sorted(table.values())
    if ids != list(range(len(ids))):
        wrong = next(i for i, found in enumerate(ids) if found != i)
        raise ValueError(
            f"{path} must number {len(ids):,} tokens 0 to {len(ids) - 1:,}, found {ids[wrong]} at place {wrong}."
        )
    missing = [token for token in SPECIAL if token not in table]
    if missing:
        raise ValueError(
            f"{path} lacks the special tokens {', '.join(missing)}: the weights belong to another vocabulary (the original would "
            "append them, and read random embeddings). Get the vocab.json that was published with the weights."
        )
    return GeneVocabulary(tuple(tokens))


# Tensors -------------------------------------------------------------------------------------------------------------


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Name → tensor of a file of weights; nothing but tensors is read from it.

    Raises
    ------
    ValueError
        If it is none.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except Exception as error:  # whatever a broken or hostile file raises, the remedy is the same
        # torch goes on with how to read such a file after all, which would run what is in it
        first = str(error).partition("\n")[0].partition(". ")[0]
        raise ValueError(
            f"{path} could not be read as a dictionary of tensors ({first}). Nothing in it was run. Get the file again from where it "
            "was published."
        ) from error
    wrong = (
        [k for k, v in content.items() if not isinstance(v, torch.Tensor)]
        if isinstance(content, dict)
        else [type(content)]
    )
    if wrong:
        raise ValueError(
            f"{path} must hold a dictionary of tensors, found {wrong[0]!r} in it. Save model.state_dict() itself."
        )
    return content


def _is_zip(path: Path) -> bool:
    import zipfile

    return zipfile.is_zipfile(path)


# Settings ------------------------------------------------------------------------------------------------------------


def read_settings(settings: dict[str, Any], tensors: dict[str, torch.Tensor], n_tokens: int, where: str) -> ScGPTConfig:
    """Configuration: sizes from ``args.json`` or an HF ``config.json``, heads from the names and shapes of the tensors.

    Raises
    ------
    ValueError
        If there is no encoder, the vocabulary belongs to another, or the settings ask for what no released model has.
    """
    for key, allowed in (("input_emb_style", ("continuous",)), ("norm_scheme", ("post",)), ("pre_norm", (False,))):
        if settings.get(key, allowed[0]) not in allowed:
            raise ValueError(f"{key} must be {allowed[0]!r}, as in all released models, found {settings[key]!r}.")
    embedding = tensors.get("genes.embedding.weight")
    if embedding is None or embedding.ndim != 2:
        raise ValueError(
            f"{where} holds no scGPT encoder: expected a matrix encoder.embedding.weight, found {', '.join(sorted(tensors)[:4])}, …"
        )
    width = int(settings.get("embsize", embedding.shape[1]))
    if tuple(embedding.shape) != (n_tokens, width):
        turned = " (transposed)" if tuple(embedding.shape) == (width, n_tokens) else ""
        raise ValueError(
            f"encoder.embedding.weight of {where} must be ({n_tokens}, {width}) for the {n_tokens:,} tokens of {VOCAB}, found "
            f"{tuple(embedding.shape)}{turned}. The vocabulary belongs to another model."
        )
    numbers = [int(m[1]) for m in (re.match(r"layers\.(\d+)\.", name) for name in tensors) if m]
    n_layers = int(settings.get("nlayers", max(numbers, default=0) + 1))
    first = tensors.get("layers.0.linear1.weight")
    feed_forward = int(settings.get("d_hid", width if first is None else first.shape[0]))
    heads = next((settings[k] for k in ("nheads", "nhead", "n_heads") if k in settings), None)
    if heads is None:
        raise ValueError(f"the settings beside {where} lack 'nheads', which the weights do not show.")
    options = _heads(tensors, width)
    n_bins, length = settings.get("n_bins", 51), settings.get("max_seq_len", 1200)
    cls_value = float(settings.get("pad_value", -2))
    if options["perturbation_flags"]:
        options |= {"values": "log", "objective": "perturbation"}
        options["affine_activation"] = str(settings.get("decoder_activation") or "none").lower()
        options["adaptive_bias"] = bool(settings.get("decoder_adaptive_bias", False))
    if (
        len(options["classes"]) > 1
    ):  # an annotation model: it reads 0 at <cls>; every other file has a head of one class
        cls_value = 0.0
    if options["batch_labels"] or options.get("input_norm") == "domain":  # as they are fine-tuned and used
        options["include_zeros"], cls_value = True, 0.0
    return ScGPTConfig(
        width=width, n_heads=int(heads), n_layers=n_layers, feed_forward=feed_forward,
        dropout=float(settings.get("dropout", 0.2)), attention_dropout=float(settings.get("dropout", 0.2)), max_length=int(length), n_bins=int(n_bins or 51),
        pad_value=int(settings.get("pad_value", -2)), mask_value=int(settings.get("mask_value", -1)),
        cls_value=cls_value, **options,
    )  # fmt: skip


def _announced(settings: dict[str, Any], config: ScGPTConfig) -> dict[str, tuple[int, ...]]:
    """Heads that a foundation model must have by its settings. Fine-tuned files keep some, beside settings of the foundation."""
    if _HF_KEY in settings or config.classes or config.batches or config.perturbation_flags or config.n_modalities:
        return {}
    width = config.width
    expected: dict[str, tuple[int, ...]] = {"decoder.fc.0.weight": (width, width)}
    if settings.get("USE_GENERATIVE_TRAINING"):
        expected["flag_encoder.weight"] = (2, width)
    if settings.get("MVC"):
        expected |= {"mvc_decoder.gene2query.weight": (width, width), "mvc_decoder.W.weight": (width, width)}
    return expected


def _heads(tensors: dict[str, torch.Tensor], width: int) -> dict[str, Any]:
    """Fields of the configuration that the names and shapes of the heads show."""

    def rows(name: str) -> int:
        return int(tensors[name].shape[0]) if name in tensors and tensors[name].ndim else 0

    options: dict[str, Any] = {
        "flags": rows("flags.weight"),
        "perturbation_flags": rows("perturbed.weight"),
        "n_modalities": rows("modalities.embedding.weight"),
        "batch_labels": "batches.embedding.weight" in tensors,
        "adversary": "decoders.adversary.out.weight" in tensors,
        "classes": tuple(map(str, range(rows("decoders.classes.out.weight")))),
    }
    layers = [int(m[1]) for m in (re.match(r"decoders\.classes\.body\.(\d+)\.", name) for name in tensors) if m]
    if options["classes"]:
        options["class_layers"] = (max(layers, default=-1) + 1) // 3 + 1
    n_batches = max(rows("batches.embedding.weight"), rows("decoders.adversary.out.weight"))
    if "norm.scale" in tensors:
        options["input_norm"] = "batch"
    elif "norm.mean" in tensors:
        options["input_norm"] = "domain"
        n_batches = max(n_batches, rows("norm.mean"))
    options["batches"] = tuple(map(str, range(n_batches)))
    has = {
        part: any(name.startswith(f"decoders.{part}") for name in tensors)
        for part in ("expression.fc", "expression.coefficient", "mvc")
    }
    options["expression"] = "mlp" if has["expression.fc"] else "affine" if has["expression.coefficient"] else "none"
    options["zero_probability"] = any(name.startswith("decoders.expression.expressed") for name in tensors)
    options["mvc"] = "none"
    if has["mvc"]:
        options["mvc"] = "inner product"
        if "decoders.mvc.fc1.weight" in tensors:
            wide = tensors["decoders.mvc.fc1.weight"].shape[-1] == width + 64
            options["mvc"] = "concat query" if wide else "sum query"
    return options


def _places(path: Path) -> tuple[Path, Path | None]:
    """Folder, and the file of weights in it."""
    path = Path(path)
    if path.is_file():
        known = path.suffix in (".pt", ".bin", ".safetensors", ".pth")
        return path.parent, path if known else None
    for name in (WEIGHTS, *_HF_WEIGHTS):
        if (path / name).is_file():
            return path, path / name
    return path, None
