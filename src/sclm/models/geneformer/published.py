"""What the authors published: which weights go with which dictionaries, bound by their hashes."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

REPOSITORY = "ctheodoris/Geneformer"
REVISION = "05fcbeb8a27d49e0a7a4349152202ee2c1cbfd28"


class Published(NamedTuple):
    """Dictionaries of a version: their folder in the repository, number of tokens, and file and sha256 of each role."""

    folder: str
    n_tokens: int
    files: dict[str, tuple[str, str]]


# fmt: off
PUBLISHED = {
    "V1": Published("geneformer/gene_dictionaries_30m", 25_426, {
        "tokens": ("token_dictionary_gc30M.pkl", "ab9dc40973fa5224d77b793e2fd114cacf3d08423ed9c4c49caf0ba9c7f218f1"),
        "medians": ("gene_median_dictionary_gc30M.pkl", "b3b589bb5ec75040d05fc44dd6bf0184cf87f3c362cf158d196a6ed3b7fe5f39"),
        "symbols": ("gene_name_id_dict_gc30M.pkl", "55e67962e79c0039a6c32d43c5c99f38e51964bbcfa32f736150ee1e285c438c"),
        "retired": ("ensembl_mapping_dict_gc30M.pkl", "eac0fb0b3007267871b6305ac0003ceba19d4f28d85686cb9067ecf142787869"),
    }),
    "V2": Published("geneformer", 20_275, {
        "tokens": ("token_dictionary_gc104M.pkl", "67c445f4385127adfc48dcc072320cd65d6822829bf27dd38070e6e787bc597f"),
        "medians": ("gene_median_dictionary_gc104M.pkl", "a51c53f6a771d64508dfaf61529df70e394c53bd20856926117ae5d641a24bf5"),
        "symbols": ("gene_name_id_dict_gc104M.pkl", "fabfa0c2f49c598c59ae432a32c3499a5908c033756c663b5e0cddf58deea8e1"),
        "retired": ("ensembl_mapping_dict_gc104M.pkl", "0819bcbd869cfa14279449b037eb9ed1d09a91310e77bd1a19d927465030e95c"),
    }),
}
# sha256 of model.safetensors → name and version.
WEIGHTS = {
    "a5e33a757431643b3697de7ef6127950cdc49e06e58d4266b3a3ab191b683f14": ("Geneformer-V1-10M", "V1"),
    "fff5cba29ddd8792991fa77b4872246fbe548a178cebda3775cdc72b67780e7f": ("Geneformer-V2-104M", "V2"),
    "827738139bfed4bafa9d1f3df7c6146da2e3b85f7225076adc32c6eda0ba4357": ("Geneformer-V2-104M_CLcancer", "V2"),
    "965ceccea81953d362081ef3843560a0e4fef88d396c28017881f1e94b1246f3": ("Geneformer-V2-316M", "V2"),
}
# sha256 of a dictionary's content as sorted JSON → role of V1 with that content: JSON copies of the pickles are known as well.
_CONTENTS = {
    "d5a5f23f1c0c04003ff38f6977ff82cc5ea2a5ecd21c4f3af4a542ec0fd917a9": "tokens",
    "e1a19c89e5f3e43bb7de9282e967ffd8b0df5fc29905dedb57d0bc355705cbfa": "medians",
    "8436f80d5ddd392f94382dffc9623015de83eef83b1f7f74aa2f70b4b292be7f": "symbols",
}
# fmt: on


def identity(path: Path, content: Mapping[str, Any]) -> str:
    """sha256 of a dictionary's file; of a copy in JSON, that of the published pickle with the same content where it is known."""
    if path.suffix == ".json":
        text = json.dumps(sorted(content.items()), separators=(",", ":"))
        role = _CONTENTS.get(hashlib.sha256(text.encode()).hexdigest())
        if role is not None:
            return PUBLISHED["V1"].files[role][1]
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def is_published(version: str, hashes: Mapping[str, str]) -> bool:
    """Whether tokens and medians are those that were published with a version."""
    return all(hashes.get(role) == PUBLISHED[version].files[role][1] for role in ("tokens", "medians"))


def check_weights(weights: str, hashes: Mapping[str, str], folder: Path) -> None:
    """Refuse published weights beside other dictionaries than those that they were trained with.

    Parameters
    ----------
    weights
        sha256 of the weights' file. Weights that are not published pass.
    hashes
        Role → sha256 of each dictionary that was found.
    folder
        For the message.

    Raises
    ------
    ValueError
        If a dictionary has another hash than the published one; names the files and what to download.
    """
    if weights not in WEIGHTS:
        return
    name, version = WEIGHTS[weights]
    published = PUBLISHED[version].files
    wrong = [role for role, found in hashes.items() if found != published[role][1]]
    if wrong:
        shown = ", ".join(
            f"{role} {hashes[role][:12]}… where {published[role][0]} has {published[role][1][:12]}…" for role in wrong
        )
        raise ValueError(
            f"{folder} holds the published weights of {name} beside other dictionaries than they were trained with: found sha256 of "
            f"{shown}. {advice(folder, version)}"
        )


def advice(folder: Path, version: str | None) -> str:
    """What to download and where to put it; for both versions where it is not known which."""
    commands = []
    for name in [version] if version else list(PUBLISHED):
        files = " ".join(f"{PUBLISHED[name].folder}/{file}" for file, _ in PUBLISHED[name].files.values())
        commands.append(f"{name}: `hf download {REPOSITORY} {files} --revision {REVISION} --local-dir {folder}`")
    return f"Download the published ones ({'; '.join(commands)}), or copy these files into {folder / 'geneformer'}."


def refuse_pointer(path: Path) -> None:
    """ValueError where a file is git-lfs's stand-in for one that was not fetched."""
    with path.open("rb") as handle:
        if handle.read(23) == b"version https://git-lfs":
            raise ValueError(
                f"{path} is a pointer of git-lfs, not the file itself: run `git lfs pull` in the clone, or fetch it with `hf download`."
            )
