"""Pinned public files: each with its address, sha256, licence and source, fetched once and kept."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import NamedTuple

logger = logging.getLogger(__name__)

DATA_DIR = "SCLM_DATA_DIR"


class Resource(NamedTuple):
    """One public file that `fetch` knows.

    Attributes
    ----------
    url, sha256
        Where it is, and the hash that its bytes must have.
    licence, source
        Under which licence, and what it is.
    """

    url: str
    sha256: str
    licence: str
    source: str

    @property
    def file(self) -> str:
        """The name of the file in the cache."""
        return self.url.rsplit("/", 1)[1]


_GUIDE = (
    "https://raw.githubusercontent.com/chanzuckerberg/cellxgene-ontology-guide/"
    "a2a31b73c9213c2afb01ce60e041d39b28ed2261/ontology-assets/"
)

RESOURCES: dict[str, Resource] = {
    "cl": Resource(
        _GUIDE + "CL-ontology-v2026-03-26.json.zst",
        "ee9b84956ca31195a65f63b6e67e993d58fd3f5fb577a61536dfd122fba06dde",
        "CC BY 4.0",
        "Cell Ontology, release 2026-03-26, as rendered by the cellxgene ontology guide",
    ),
    "uberon": Resource(
        _GUIDE + "UBERON-ontology-v2026-04-01.json.zst",
        "fef8c625f19c734ef7eda66d16c48b295d47ed7bea384dd4d0b4babd81bc8961",
        "CC BY 3.0",
        "UBERON anatomy ontology, release 2026-04-01, as rendered by the cellxgene ontology guide",
    ),
    "mondo": Resource(
        _GUIDE + "MONDO-ontology-v2026-05-05.json.zst",
        "5df6f6131a69ce93581b9dc57bee51919fb9b025d8bca71b3ed08e8b2f3a2dd5",
        "CC BY 4.0",
        "MONDO disease ontology, release 2026-05-05, as rendered by the cellxgene ontology guide",
    ),
    "efo": Resource(
        _GUIDE + "EFO-ontology-v3.90.0.json.zst",
        "b8c62abf28956b5fb703abc0a26784620518d078a1b1a6620541b5f67057fe02",
        "Apache-2.0",
        "Experimental Factor Ontology, release 3.90.0, as rendered by the cellxgene ontology guide",
    ),
    "hsapdv": Resource(
        _GUIDE + "HsapDv-ontology-v2025-01-23.json.zst",
        "b087ce09f422c54dd56096f332a181b72b71a4c6ec035a5c2322fcebdff15ca1",
        "CC BY",
        "Human developmental stages, release 2025-01-23, as rendered by the cellxgene ontology guide",
    ),
}


def data_dir() -> Path:
    """The folder that downloads go to: `$SCLM_DATA_DIR`, else pooch's cache folder for sclm (`~/.cache/sclm`)."""
    if folder := os.environ.get(DATA_DIR):
        return Path(folder).expanduser()
    import pooch

    return Path(pooch.os_cache("sclm"))


def fetch(name: str) -> Path:
    """Give the local path of a pinned public file, downloading it the first time.

    A file of the right name and sha256 that already lies in the data folder, at its top or one folder down, is used
    as it is, without any network.

    Parameters
    ----------
    name
        A name of the registry: `"cl"`, `"uberon"`, `"mondo"`, `"efo"`, `"hsapdv"`.

    Returns
    -------
    pathlib.Path
        An existing file whose sha256 is the pinned one.

    Raises
    ------
    ValueError
        If the registry has no such name.
    ConnectionError
        If the file is neither here nor can be downloaded; the message says what to put where.
    """
    if name not in RESOURCES:
        raise ValueError(f"expected one of {', '.join(map(repr, RESOURCES))}, found {name!r}.")
    resource = RESOURCES[name]
    folder = data_dir()
    if (found := find_local(resource, folder)) is not None:
        return found
    import pooch

    logger.info("Downloading %s (%s) from %s.", resource.source, resource.licence, resource.url)
    try:
        path = pooch.retrieve(
            resource.url, known_hash=f"sha256:{resource.sha256}", fname=resource.file, path=folder, progressbar=False
        )
    except Exception as error:
        # requests, urllib3, OS and hash errors alike: for the user they are one thing, with one remedy
        raise ConnectionError(
            f"could not download {resource.file} ({type(error).__name__}: {error}). Download {resource.url} on a machine "
            f"with network (sha256 {resource.sha256}) and put it into {folder}, or into any folder that the environment "
            f"variable {DATA_DIR} names."
        ) from error
    return Path(path)


def find_local(resource: Resource, folder: Path) -> Path | None:
    """The file of a resource in a folder, or one folder down, if its bytes are the pinned ones."""
    if not folder.is_dir():
        return None
    for path in [folder / resource.file, *sorted(folder.glob(f"*/{resource.file}"))]:
        if path.is_file():
            if hashlib.sha256(path.read_bytes()).hexdigest() == resource.sha256:
                return path
            logger.warning("%s is not the pinned file (its sha256 differs) and is not used.", path)
    return None
