"""Published cell-sentence models: folders of a causal language model with its tokenizer, read where they lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sclm.models.cell2sentence.model import Cell2Sentence

LAYOUT = (
    "a folder with config.json of a causal language model ('architectures': […ForCausalLM]), *.safetensors and its tokenizer "
    "(tokenizer.json, or tokenizer.model, or vocab.json and merges.txt)"
)
#: Nothing is converted or copied: the language model is used where it lies.
KEPT = False

_TOKENIZERS = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"))


def recognise(path: Path) -> bool:
    """Whether a folder holds a causal language model and a tokenizer. An encoder of genes has neither."""
    file = path / "config.json"
    if not path.is_dir() or not file.is_file():
        return False
    if not any(all((path / name).is_file() for name in names) for names in _TOKENIZERS):
        return False
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return False
    named = (config.get("architectures") if isinstance(config, dict) else None) or [""]
    return str(named[0]).endswith("ForCausalLM")


def sources(path: Path) -> list[Path]:
    """Files that say which model it is; its weights are told by their fingerprint."""
    names = ("config.json", "tokenizer.json", "tokenizer.model", "vocab.json", "model.safetensors.index.json")
    return [path / name for name in names if (path / name).is_file()]


def convert(path: Path) -> Cell2Sentence:
    """The model of a folder. One in the hub's cache is named as on the hub, so that a saved checkpoint finds it elsewhere."""
    from sclm.models.cell2sentence.model import Cell2Sentence

    on_hub = hub_name(path)
    if on_hub is None:
        return Cell2Sentence.open(path.resolve())
    return Cell2Sentence.open(on_hub[0], revision=on_hub[1])


def hub_name(path: Path) -> tuple[str, str] | None:
    """``"hf:organisation/name"`` and commit of a folder in the cache of the hub, None of any other folder."""
    parts = Path(path).absolute().parts
    if len(parts) < 3 or parts[-2] != "snapshots" or not parts[-3].startswith("models--"):
        return None
    organisation, _, name = parts[-3].removeprefix("models--").partition("--")
    return (f"hf:{organisation}/{name}", parts[-1]) if organisation and name else None
