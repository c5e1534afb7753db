"""Pretrained causal language models, read from a hub or a folder: the only place that loads foreign weights of this kind."""

from __future__ import annotations

import hashlib
import json
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


def load_pretrained(
    name: str,
    revision: str | None,
    dtype: str | torch.dtype | None,
    device_map: str | dict[str, Any] | None = None,
) -> Any:
    """Causal language model of a hub or a folder, from safetensors only; FileNotFoundError or ValueError say what is wrong.

    Parameters
    ----------
    name
        ``"hf:organisation/name"`` or a folder.
    revision
        Commit, tag or branch on the hub.
    dtype
        Of the weights; None: as they are stored.
    device_map
        Where which part goes, as accelerate takes it (``"auto"`` spreads a model over the GPUs that are there); None: the CPU.

    Returns
    -------
    The model of transformers.
    """
    from safetensors import SafetensorError
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
                **({} if device_map is None else {"device_map": device_map}),
            )
    except OSError as error:
        raise FileNotFoundError(
            f"Could not read the language model {source!r} ({type(error).__name__}): it is not in the local cache, or holds "
            f"no safetensors, and the hub cannot be reached. On a machine with network run `hf download {source} --local-dir FOLDER`, "
            "copy FOLDER here and pass its path."
        ) from error
    except SafetensorError as error:
        raise ValueError(f"{source} holds no whole safetensors file: {error}. Download it again.") from error
    model, report = loaded  # as output_loading_info=True asks
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(
            f"{source} lacks {len(missing)} weights of its architecture {type(model).__name__}: {', '.join(missing[:3])}. "
            "The download may be incomplete."
        )
    return model


def load_tokenizer(name: str, revision: str | None) -> Any:
    """Tokenizer of a language model of a hub or a folder; FileNotFoundError or ValueError say what is wrong.

    Parameters
    ----------
    name, revision
        As in :func:`load_pretrained`.

    Returns
    -------
    The tokenizer of transformers. No code of the repository is run.
    """
    from transformers import AutoTokenizer

    source = _source(name)
    try:
        with _quiet():
            return AutoTokenizer.from_pretrained(source, revision=revision or "main", trust_remote_code=False)
    except OSError as error:
        raise FileNotFoundError(
            f"Could not read the tokenizer of {source!r} ({type(error).__name__}). It is tokenizer.json and "
            "tokenizer_config.json beside the weights: put them there, or download the model again with both."
        ) from error


def load_text_encoder(name: str, revision: str | None) -> Any:
    """Text encoder of a hub or a folder, from safetensors only; FileNotFoundError or ValueError say what is wrong.

    Parameters
    ----------
    name, revision
        As in :func:`load_pretrained`.

    Returns
    -------
    The model of transformers, float32 on the CPU, which gives ``last_hidden_state``. No code of the repository is run.
    """
    from transformers import AutoModel

    source = _source(name)
    try:
        with _quiet():
            return AutoModel.from_pretrained(
                source, revision=revision or "main", dtype="float32", use_safetensors=True, trust_remote_code=False
            )
    except OSError as error:
        raise FileNotFoundError(
            f"Could not read the text encoder {source!r} ({type(error).__name__}): it is not in the local cache, or holds no "
            f"safetensors, and the hub cannot be reached. On a machine with network run `hf download {source} --local-dir FOLDER`, "
            "copy FOLDER here and pass its path."
        ) from error


def fingerprint(model: Any) -> str:
    """What tells a pretrained model from another: ``"<shapes>-<values>"``, 16 hexadecimal digits each.

    The first digest is of the architecture and the shape of every weight. The second is of a sample of each weight, rounded to
    bfloat16, so that the precision in which a model is loaded does not matter; it is ``"unread"`` where weights are not in
    memory. See :func:`same_base`.

    Parameters
    ----------
    model
        Of transformers, before adapters are added.

    Returns
    -------
    The fingerprint.
    """
    import torch

    weights = sorted(model.named_parameters())
    shapes = [type(model).__name__, *((name, tuple(weight.shape)) for name, weight in weights)]
    first = hashlib.sha256(json.dumps(shapes).encode()).hexdigest()[:16]
    if any(weight.is_meta for _, weight in weights):
        return f"{first}-unread"
    digest = hashlib.sha256()
    for _, weight in weights:
        flat = weight.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 64)][:64].cpu()  # at most 64 values, spread evenly
        digest.update(sample.to(torch.bfloat16).view(torch.int16).numpy().tobytes())
    return f"{first}-{digest.hexdigest()[:16]}"


def same_base(expected: str, found: str, name: str) -> None:
    """Refuse a pretrained model that is not the one that adapters were trained on.

    Parameters
    ----------
    expected, found
        From :func:`fingerprint`: on record, and of the model at hand. Empty: nothing is on record.
    name
        Of the model at hand.

    Raises
    ------
    ValueError
        If shapes differ, or values do where both are known.
    """
    if not expected:
        return
    wants, has = expected.partition("-"), found.partition("-")
    if wants[0] != has[0]:
        what = "of another architecture or size"
    elif "unread" not in (wants[2], has[2]) and wants[2] != has[2]:
        what = "of the same shape with other weights"
    else:
        return
    raise ValueError(
        f"{name} is not the language model that this checkpoint was trained on, but one {what}: expected fingerprint "
        f"{expected}, found {found}. Adapters fit their own base only: get the one that config.json names, in its revision."
    )


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
