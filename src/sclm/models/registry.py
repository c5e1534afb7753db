"""Published checkpoints: names with pinned revisions and hashes, fetched from a hub on request, and where others are to be had."""

from __future__ import annotations

import difflib
import hashlib
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

logger = logging.getLogger(__name__)


class Published(NamedTuple):
    """A checkpoint on a hub, pinned.

    ``sha256`` maps each file that is fetched to its hash, as the hub lists it for that commit; the empty text stands for small text
    files that are bound by the commit alone. A hash is never guessed.
    """

    name: str
    repository: str  # organisation/name
    revision: str  # commit; "main" where a hash binds every file
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


class Elsewhere(NamedTuple):
    """A published checkpoint that no hub serves: what a user downloads and passes as a folder."""

    title: str
    address: str
    files: str
    licence: str


def _drive(title: str, folder: str) -> Elsewhere:
    address = f"https://drive.google.com/drive/folders/{folder}"
    return Elsewhere(f"scGPT, {title}", address, "args.json, vocab.json and best_model.pt into one folder", "MIT")


def _translator(title: str, file: str) -> Elsewhere:
    files = "the file into a folder, with the folder code/model/ID_dic of the authors' repository beside it"
    address = f"https://drive.google.com/open?id={file}"
    return Elsewhere(f"scTranslator, {title}", address, files, "no open licence")


# The authors' folders; they state no hash.
ELSEWHERE: dict[str, Elsewhere] = {
    "scgpt-continual": _drive("whole-human trained further with cell types (CP)", "1_GROJTzXiAV8HB4imruOTk6PEGuNOcgB"),
    "scgpt-brain": _drive("13.2 million brain cells", "1vf1ijfQSk7rGdDGpBntR5bi5g6gNt-Gx"),
    "scgpt-blood": _drive("10.3 million blood and bone marrow cells", "1kkug5C7NjvXIwQGGaGoqXTk_Lb_pDrBU"),
    "scgpt-heart": _drive("1.8 million heart cells", "1GcgXrd7apn6y4Ze_iSCncskX3UsWPY2r"),
    "scgpt-lung": _drive("2.1 million lung cells", "16A1DJ30PT6bodt4bWLa4hpS7gbWZQFBG"),
    "scgpt-kidney": _drive("814 thousand kidney cells", "1S-1AR65DF120kNFpEbWCvRHPhpkGK3kK"),
    "scgpt-pan-cancer": _drive("5.7 million tumour cells", "13QzLHilYUd0v3HTwa_9n4G4yEF-hdkqa"),
    "sctranslator-2m": _translator("2 million single cells and 18,000 bulk", "11FR3nebhJKAt_QIng35H-O1s_-ZrKyCG"),
    "sctranslator-160k": _translator("160 thousand PBMCs and bulk", "1nmYIsctfMD60DxOKKQc9-AQj2Wla24m8"),
    "sctranslator-10k": _translator("18,000 bulk samples", "14D6hFCcMrrkpo7zW90WmH3FFOR-iyIZ-"),
}
_OTHER_NAMES = {
    "scgpt-bc": "scgpt-blood", "scgpt-cp": "scgpt-continual", "scgpt-continual-pretrained": "scgpt-continual",
    "scgpt-pancancer": "scgpt-pan-cancer", "scgpt-human": "scgpt-whole-human",
}  # fmt: skip


def missing(name: str, known: Iterable[str]) -> str:
    """What to say of a name under which nothing is found: where it is published, or what is near.

    Parameters
    ----------
    name
        As the user wrote it.
    known
        Names that can be loaded.
    """
    plain = re.sub(r"[\s_]+", "-", name.strip().lower())
    plain = _OTHER_NAMES.get(plain, plain)
    if plain in ELSEWHERE:
        entry = ELSEWHERE[plain]
        return (
            f"{name!r} ({entry.title}; {entry.licence}) is published where sclm does not fetch from. Download it from {entry.address}: "
            f"{entry.files}. Then pass that folder: sclm.load('FOLDER')."
        )
    near = [plain] if plain in PUBLISHED else difflib.get_close_matches(name, [*known, *ELSEWHERE], n=3, cutoff=0.5)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        near = [f"hf:{name}", *near]
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return (
        f"No model {name!r}: it is no folder, no published checkpoint and no 'hf:organisation/name'.{hint} "
        "sclm.models.available() lists the names."
    )


def download(name: str) -> Path:
    """Local folder of a published checkpoint or of ``hf:organisation/name[@revision]``.

    Files come from the Hugging Face cache where they are there; nothing is fetched when ``HF_HUB_OFFLINE=1``. Without a revision a
    repository that is listed here means its entry, hashes included; another one means what its main branch holds today, which is
    warned of.

    Raises
    ------
    FileNotFoundError
        If the hub cannot be reached or has no such repository; says what to download and where to put it.
    ValueError
        If a file's sha256 is not the one on record, an ``hf:`` name is malformed, or the repository holds several models that have
        names of their own.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    entry = PUBLISHED.get(name)
    if entry is None:
        repository, _, revision = name.removeprefix("hf:").partition("@")
        if repository.count("/") != 1 or not all(repository.split("/")):
            raise ValueError(f"Expected 'hf:organisation/name' or 'hf:organisation/name@revision', found {name!r}.")
        listed = [e for e in _ENTRIES if e.repository.lower() == repository.lower()] if not revision else []
        if len(listed) > 1:
            raise ValueError(
                f"{name!r} holds several models, and its root has been another one over time. Name one of "
                f"{', '.join(repr(e.name) for e in listed)}, or the commit whose root you want: {name + '@' + listed[0].revision!r}."
            )
        entry = listed[0] if listed else None
    if entry is not None:
        repository, revision = entry.repository, entry.revision
    try:
        folder = Path(
            snapshot_download(
                repository, revision=revision or None, allow_patterns=list(entry.sha256) if entry else None
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        files = "".join(f" {file}" for file in entry.sha256) if entry else ""
        pinned = f" --revision {revision}" if revision and revision != "main" else ""
        inside = f"{entry.folder!r} inside of it" if entry and entry.folder else "its path"
        raise FileNotFoundError(
            f"Could not get {repository!r} from the Hugging Face hub ({type(error).__name__}) and it is not in the local cache. "
            f"On a machine with network, run `hf download {repository}{files}{pinned} --local-dir FOLDER`, copy FOLDER here and pass "
            f"{inside}."
        ) from error
    if not revision:
        logger.warning(
            "%s has no revision and may be another model tomorrow: it is at %s now. Write '%s@%s' to have the same again.",
            name, folder.name[:12], name, folder.name,
        )  # fmt: skip
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
