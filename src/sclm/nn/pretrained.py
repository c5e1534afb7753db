"""Pretrained causal language models, read from a hub or a folder: the only place that loads foreign weights of this kind."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch


def _source(name: str) -> str:
    """What transformers calls the model; a folder is checked for its files first."""
    if name.startswith("hf:"):
        repository = name.removeprefix("hf:")
        if repository.count("/") != 1 or not all(repository.split("/")):
            raise ValueError(f"Expected 'hf:organisation/name' or a folder, found {name!r}.")
        return repository
    folder = Path(name)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"No language model at {name!r}: expected a folder with config.json and *.safetensors, or 'hf:organisation/name'."
        )
    if not any(folder.glob("*.safetensors")):
        there = sorted(p.name for p in folder.iterdir() if p.suffix in {".bin", ".pt", ".pth", ".ckpt"})
        raise ValueError(
            f"{folder} must hold weights as *.safetensors, found {', '.join(there) or 'none'}. Other formats can run code "
            "when they are read: load the model where you trust it and call save_pretrained there."
        )
    return str(folder)


def load_pretrained(name: str, revision: str | None, dtype: str | torch.dtype | None) -> Any:
    """Causal language model of a hub or a folder, from safetensors only; FileNotFoundError or ValueError say what is wrong.

    Parameters
    ----------
    name
        ``"hf:organisation/name"`` or a folder.
    revision
        Commit, tag or branch on the hub.
    dtype
        Of the weights; None: as they are stored.

    Returns
    -------
    The model of transformers, on the CPU.
    """
    from transformers import AutoModelForCausalLM

    source = _source(name)
    try:
        with _quiet():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source,
                revision=revision or "main",
                dtype=dtype or "auto",
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except OSError as error:
        raise FileNotFoundError(
            f"Could not read the language model {source!r} ({type(error).__name__}): it is not in the local cache, or holds "
            f"no safetensors, and the hub cannot be reached. On a machine with network run `hf download {source} --local-dir FOLDER`, "
            "copy FOLDER here and pass its path."
        ) from error
    model, report = loaded  # as output_loading_info=True asks
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(
            f"{source} lacks {len(missing)} weights of its architecture {type(model).__name__}: {', '.join(missing[:3])}. "
            "The download may be incomplete."
        )
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar over the weights, which transformers can only switch for all of the process: switched back after."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
