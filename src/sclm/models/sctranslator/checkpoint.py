"""Published scTranslator checkpoints: the pickled module or its state_dict, and the dictionaries of gene ids."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sclm.models.foreign import refuse_unmatched
from sclm.models.restricted_pickle import load_module_tensors
from sclm.models.sctranslator.network import ScTranslatorConfig, ScTranslatorNetwork
from sclm.models.sctranslator.vocabulary import GeneIds, find_dictionaries

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sclm.models.sctranslator.model import ScTranslator

LAYOUT = (
    "scTranslator_2M.pt or another file of the whole module or of its state_dict, alone or in a folder, with the dictionaries "
    "of ID_dic beside it"
)

# Our names of a layer → those of the published files.
_LAYER = {
    "norm1": "0.norm",
    "attention.query": "0.fn.to_q",
    "attention.key": "0.fn.to_k",
    "attention.value": "0.fn.to_v",
    "attention.out": "0.fn.to_out",
    "attention.projection": "0.fn.fast_attention.projection_matrix",
    "norm2": "1.norm",
    "up": "1.fn.fn.w1",
    "down": "1.fn.fn.w2",
}
_REST = {
    "value": "enc.to_vector",
    "gene": "enc.pos_emb",
    "translator.first": "translator.fc0",
    "translator.second": "translator.fc1",
    "protein": "dec.pos_emb",
    "out": "dec.to_out",
}
_SIDES = {"encoder": "enc", "decoder": "dec"}
# There and never used by the original's forward pass; the counter says when random features were drawn last in training.
IGNORED = (
    "enc.to_out.weight", "enc.to_out.bias", "dec.to_vector.weight", "dec.to_vector.bias",
    "enc.performer.proj_updater.calls_since_last_redraw", "dec.performer.proj_updater.calls_since_last_redraw",
)  # fmt: skip
_TWICE = ".performer.proj_updater.instance."  # the same tensors once more, under a second name
_LAYERS = re.compile(r"(enc|dec)\.performer\.net\.layers\.(\d+)\.")
_MARKS = (b"translator", b"performer", b"projection_matrix", b"proj_updater")  # in the index of a file of either kind
_ENDINGS = (".pt", ".pth", ".bin", ".ckpt")


def original_name(name: str) -> str:
    """Name of one of our tensors in a published file: ``encoder.0.norm1.weight`` → ``enc.performer.net.layers.0.0.norm.weight``."""
    parts = name.split(".")
    if parts[0] in _SIDES:
        side, number, rest = _SIDES[parts[0]], parts[1], ".".join(parts[2:])
        if rest == "attention.projection":
            return f"{side}.performer.net.layers.{number}.{_LAYER[rest]}"
        part, _, kind = rest.rpartition(".")
        return f"{side}.performer.net.layers.{number}.{_LAYER[part]}.{kind}"
    part, _, kind = name.rpartition(".")
    return f"{_REST[part]}.{kind}"


def recognise(path: Path) -> bool:
    """Whether this is such a file, or a folder with at least one. Nothing is unpickled: the index is searched for words."""
    return bool(_candidates(path))


def sources(path: Path) -> list[Path]:
    """The file of weights, and the dictionaries that were found for it."""
    file = _one(path)
    return [file, *find_dictionaries(file).values()]


def convert(path: Path) -> ScTranslator:
    """The model of a published checkpoint.

    Parameters
    ----------
    path
        The file, or the folder that holds it.

    Returns
    -------
    The model. Where no dictionaries are found it knows genes and proteins by their ``my_Id`` only.

    Raises
    ------
    ValueError
        If a tensor is missing, unknown or of another shape, by name; if the copies under ``proj_updater.instance`` differ from
        what they are copies of; or if a folder holds several checkpoints.
    """
    from sclm.models.sctranslator.model import ScTranslator

    file = _one(path)
    network, config = network_from(read_tensors(file), str(file))
    ids = GeneIds.read(find_dictionaries(file), config.gene_ids)
    card = {
        "data": "published by the authors of scTranslator (Liu et al., Nat Biomed Eng 2025); see there",
        "split": "as published",
        "metrics": "none were recorded in the file: compare with the baselines on your own held-out cells",
        "licence": "all rights reserved by Tencent AI Lab; not redistributed here",
        "gene ids": f"{len(ids.names):,} names"
        if ids.names
        else "no dictionaries were found: genes are known by my_Id only",
        "limits": "Output is min-maxed within the cell over the proteins that are asked for, with no way back to counts.",
    }
    return ScTranslator(config, ids.vocabulary, network, card, names=ids.names)


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """Name → tensor of a state_dict or of a whole pickled module; no code of the file is run."""
    if b"performer_enc_dec" in _index(file):  # class names are only in a pickled module
        return load_module_tensors(file)
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what its unpickler raises
        raise ValueError(
            f"{file} is no state_dict that torch reads safely ({type(error).__name__}). Get it again."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(f"{file} must hold a state_dict of tensors, found {type(state).__name__}.")
    if state and all(name.startswith("module.") for name in state):  # of a data-parallel wrapper
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return dict(state)


def network_from(tensors: Mapping[str, torch.Tensor], where: str) -> tuple[ScTranslatorNetwork, ScTranslatorConfig]:
    """Network and sizes from the tensors of a published file, every one accounted for.

    Parameters
    ----------
    tensors
        As :func:`read_tensors` gives them.
    where
        The file, for messages.

    Raises
    ------
    ValueError
        If a tensor is missing, unknown, of another shape, or two copies of one differ.
    """
    config = _config(tensors)
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in ScTranslatorNetwork(config).state_dict().items()}
    expected = {original_name(name): shape for name, shape in shapes.items()}
    copies = {
        name.replace(".performer.net.", _TWICE): name for name in expected if _LAYERS.match(name)
    }  # second name → first
    width = config.width
    unused = dict(zip(IGNORED, [(1, width), (1,), (width, 1), (width,), (), ()], strict=True))
    refuse_unmatched(
        expected | {twice: expected[name] for twice, name in copies.items()} | unused, dict(tensors), where
    )
    different = [twice for twice, name in copies.items() if not torch.equal(tensors[twice], tensors[name])]
    if different:
        raise ValueError(
            f"{where} holds {len(different)} tensors twice with different values: {', '.join(different[:3])}. Both names are of one "
            "tensor in the original: the file was changed or damaged. Get it again from its authors."
        )
    network = ScTranslatorNetwork(config)
    network.load_state_dict({name: tensors[original_name(name)].float() for name in shapes})
    return network.eval(), config


def _config(tensors: Mapping[str, torch.Tensor]) -> ScTranslatorConfig:
    """Sizes, from vectors first: a transposed matrix is then one wrong shape and not a wrong size of everything."""

    def length(name: str, default: int) -> int:
        return int(tensors[name].shape[0]) if name in tensors and tensors[name].ndim else default

    def other(name: str, known: int, default: int) -> int:
        """The side of a matrix that is not `known`; the second one of two equal ones."""
        if name not in tensors or tensors[name].ndim != 2:
            return default
        rows, columns = tensors[name].shape
        return int(rows if columns == known and rows != known else columns)

    normal = ScTranslatorConfig()
    found = [m.groups() for m in map(_LAYERS.match, tensors) if m]
    layers = {side: 1 + max((int(n) for s, n in found if s == side), default=1) for side in ("enc", "dec")}
    first = "enc.performer.net.layers.0."
    width = length(f"{first}0.norm.weight", normal.width)
    hidden, proteins = (
        length("translator.fc0.bias", normal.translator_width),
        length("translator.fc1.bias", normal.protein_frame),
    )
    inner = length(f"{first}0.fn.to_q.bias", normal.heads * normal.head_width)
    features, head_width = tensors.get(
        f"{first}0.fn.fast_attention.projection_matrix", torch.empty(normal.features, normal.head_width)
    ).shape[-2:]
    if inner % head_width:  # transposed: there are more features than a head is wide
        features, head_width = head_width, features
    return ScTranslatorConfig(
        gene_ids=_rows("enc.pos_emb.weight", width, tensors, normal.gene_ids),
        protein_ids=_rows("dec.pos_emb.weight", width, tensors, normal.protein_ids),
        gene_frame=other("translator.fc0.weight", hidden, normal.gene_frame),
        protein_frame=proteins,
        translator_width=hidden,
        width=width,
        encoder_layers=layers["enc"],
        decoder_layers=layers["dec"],
        heads=max(1, inner // head_width),
        head_width=head_width,
        features=features,
        feed_forward=length(f"{first}1.fn.fn.w1.bias", 4 * width),
    )


def _rows(name: str, width: int, tensors: Mapping[str, torch.Tensor], default: int) -> int:
    """Rows of an embedding table of this width, however it lies."""
    if name not in tensors or tensors[name].ndim != 2:
        return default
    rows, columns = tensors[name].shape
    return int(rows if columns == width else columns)


# -- files -------------------------------------------------------------------------------------------------------------


def _candidates(path: Path) -> list[Path]:
    path = Path(path)
    if path.is_file():
        return [path] if _is_checkpoint(path) else []
    if not path.is_dir():
        return []
    folders = [path, path / "checkpoint"]
    files = (file for folder in folders if folder.is_dir() for file in sorted(folder.iterdir()) if file.is_file())
    return [file for file in files if file.suffix in _ENDINGS and _is_checkpoint(file)]


def _one(path: Path) -> Path:
    found = _candidates(path)
    if not found:
        raise ValueError(f"{path} holds no scTranslator checkpoint: expected {LAYOUT}.")
    if len(found) > 1:
        names = ", ".join(file.name for file in found[:6])
        raise ValueError(f"{path} holds {len(found)} scTranslator checkpoints: {names}. Pass the path of one of them.")
    return found[0]


def _is_checkpoint(file: Path) -> bool:
    index = _index(file)
    return all(mark in index for mark in _MARKS)


def _index(file: Path) -> bytes:
    """The bytes of the archive's ``data.pkl``, which name the tensors; empty for other files."""
    if not zipfile.is_zipfile(file):
        return b""
    try:
        with zipfile.ZipFile(file) as archive:
            name = next((n for n in archive.namelist() if n.endswith("/data.pkl")), None)
            return b"" if name is None else archive.read(name)
    except (zipfile.BadZipFile, OSError):  # damaged: whoever reads it says so
        return b""
