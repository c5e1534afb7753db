"""Published checkpoints: names with pinned revisions and hashes, fetched from a hub on request."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple


class Published(NamedTuple):
    """A checkpoint on a hub, pinned.

    ``sha256`` maps each file that is fetched to its hash. An entry is made only for bytes that were held and hashed.
    """

    name: str
    repository: str  # organisation/name
    revision: str  # commit
    sha256: dict[str, str]
    verbs: str
    licence: str
    description: str


# Empty until a checkpoint's bytes were held and hashed by whoever enters it: no hash and no address is ever guessed.
PUBLISHED: dict[str, Published] = {}


def download(name: str) -> Path:
    """Local folder of a published checkpoint or of ``hf:organisation/name[@revision]``.

    Files come from the Hugging Face cache where they are there; nothing is fetched when ``HF_HUB_OFFLINE=1``.

    Raises
    ------
    FileNotFoundError
        If the hub cannot be reached or has no such repository; says what to download and where to put it.
    ValueError
        If a file's sha256 is not the one on record, or an ``hf:`` name is malformed.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    entry = PUBLISHED.get(name)
    if entry is not None:
        repository, revision = entry.repository, entry.revision
    else:
        repository, _, revision = name.removeprefix("hf:").partition("@")
        if repository.count("/") != 1 or not all(repository.split("/")):
            raise ValueError(f"Expected 'hf:organisation/name' or 'hf:organisation/name@revision', found {name!r}.")
    try:
        folder = Path(
            snapshot_download(
                repository, revision=revision or None, allow_patterns=list(entry.sha256) if entry else None
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"Could not get {repository!r} from the Hugging Face hub ({type(error).__name__}) and it is not in the local cache. "
            f"On a machine with network, run `hf download {repository} --local-dir FOLDER`, copy FOLDER here and pass its path."
        ) from error
    if entry is not None:
        for file, expected in entry.sha256.items():
            with (folder / file).open("rb") as handle:
                found = hashlib.file_digest(handle, "sha256").hexdigest()
            if found != expected:
                raise ValueError(
                    f"{folder / file} has sha256 {found}, expected {expected}. Delete the file and download it again."
                )
    return folder
