"""Published checkpoints: names with pinned revisions and hashes, fetched from a hub on request."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple


class Published(NamedTuple):
    """A checkpoint on a hub, pinned.

    ``sha256`` maps each file that is fetched to its hash, as the hub lists it for that commit; the empty text stands for small text
    files that are bound by the commit alone. A hash is never guessed.
    """

    name: str
    repository: str  # organisation/name
    revision: str  # commit
    sha256: dict[str, str]
    verbs: str
    licence: str
    description: str
    folder: str = ""  # inside the repository, where it holds several models


_GENEFORMER = "05fcbeb8a27d49e0a7a4349152202ee2c1cbfd28"
_V2_DICTIONARIES = {
    "geneformer/token_dictionary_gc104M.pkl": "67c445f4385127adfc48dcc072320cd65d6822829bf27dd38070e6e787bc597f",
    "geneformer/gene_median_dictionary_gc104M.pkl": "a51c53f6a771d64508dfaf61529df70e394c53bd20856926117ae5d641a24bf5",
    "geneformer/gene_name_id_dict_gc104M.pkl": "fabfa0c2f49c598c59ae432a32c3499a5908c033756c663b5e0cddf58deea8e1",
    "geneformer/ensembl_mapping_dict_gc104M.pkl": "0819bcbd869cfa14279449b037eb9ed1d09a91310e77bd1a19d927465030e95c",
}
_V1_DICTIONARIES = {
    f"geneformer/gene_dictionaries_30m/{name}_gc30M.pkl": sha256
    for name, sha256 in {
        "token_dictionary": "ab9dc40973fa5224d77b793e2fd114cacf3d08423ed9c4c49caf0ba9c7f218f1",
        "gene_median_dictionary": "b3b589bb5ec75040d05fc44dd6bf0184cf87f3c362cf158d196a6ed3b7fe5f39",
        "gene_name_id_dict": "55e67962e79c0039a6c32d43c5c99f38e51964bbcfa32f736150ee1e285c438c",
        "ensembl_mapping_dict": "eac0fb0b3007267871b6305ac0003ceba19d4f28d85686cb9067ecf142787869",
    }.items()
}


def _geneformer(folder: str, weights: str, dictionaries: dict[str, str], description: str) -> Published:
    files = {f"{folder}/config.json": "", f"{folder}/model.safetensors": weights, **dictionaries}
    name = folder.lower().replace("_", "-")
    verbs = "annotate, embed, perturb"
    return Published(
        name, "ctheodoris/Geneformer", _GENEFORMER, files, verbs, "Apache-2.0", description, folder
    )  # fmt: skip


_ENTRIES = (
    Published(
        "scgpt-whole-human",
        "u-cellm/scGPT-whole-human",
        "main",  # the three hashes bind it
        {
            "args.json": "c18e075e018140cb8b2d9029387b9de26607a5ce6a8ccabd6ead70cd76b95d60",
            "best_model.pt": "6cb5d451ab5c4b33eb673adbe4fddc61d2389df1b89b7651a9fe2e557572b922",
            "vocab.json": "acca93d114ca62c3f0f50debbd23e8c87f0714f4737764454f6b2b13f2e8580f",
        },
        "annotate, embed, perturb",
        "MIT",
        "scGPT pretrained on 33 million normal human cells (Cui et al. 2024), a copy of the authors' folder",
    ),
    _geneformer(
        "Geneformer-V1-10M",
        "a5e33a757431643b3697de7ef6127950cdc49e06e58d4266b3a3ab191b683f14",
        _V1_DICTIONARIES,
        "Geneformer V1, 6 layers, pretrained on 27 million human cells (Theodoris et al. 2023)",
    ),
    _geneformer(
        "Geneformer-V2-104M",
        "fff5cba29ddd8792991fa77b4872246fbe548a178cebda3775cdc72b67780e7f",
        _V2_DICTIONARIES,
        "Geneformer V2, 12 layers, pretrained on 104 million human cells",
    ),
    _geneformer(
        "Geneformer-V2-104M_CLcancer",
        "827738139bfed4bafa9d1f3df7c6146da2e3b85f7225076adc32c6eda0ba4357",
        _V2_DICTIONARIES,
        "Geneformer V2, 12 layers, trained further on 14 million cancer cells",
    ),
    _geneformer(
        "Geneformer-V2-316M",
        "965ceccea81953d362081ef3843560a0e4fef88d396c28017881f1e94b1246f3",
        _V2_DICTIONARIES,
        "Geneformer V2, 18 layers, pretrained on 104 million human cells",
    ),
)
PUBLISHED: dict[str, Published] = {entry.name: entry for entry in _ENTRIES}


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
            if not expected:
                continue
            with (folder / file).open("rb") as handle:
                found = hashlib.file_digest(handle, "sha256").hexdigest()
            if found != expected:
                raise ValueError(
                    f"{folder / file} has sha256 {found}, expected {expected}. Delete the file and download it again."
                )
        return folder / entry.folder
    return folder
