"""Names of published checkpoints: what is fetched, what is pinned, and what a user reads where nothing can be fetched."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

import sclm
from sclm.models import registry
from sclm.models.registry import ELSEWHERE, PUBLISHED, download

if TYPE_CHECKING:
    from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that cannot be reached and an empty cache."""

    def refuse(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """A hub with one snapshot; what it was asked for."""
    asked: list[dict[str, Any]] = []
    folder = tmp_path / COMMIT
    folder.mkdir()

    def fetch(repository: str, **options: Any) -> str:
        asked.append({"repository": repository, **options})
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    return asked


@pytest.mark.parametrize("name", list(PUBLISHED))
@pytest.mark.usefixtures("offline")
def test_the_advice_fetches_the_pinned_files_and_names_the_model_among_them(name: str) -> None:
    entry = PUBLISHED[name]
    with pytest.raises(FileNotFoundError) as caught:
        sclm.load(name)
    text = str(caught.value)
    command = text.partition("`")[2].partition("`")[0].split()
    assert command[:3] == ["hf", "download", entry.repository]
    assert set(entry.sha256) <= set(command)
    pinned = entry.revision != "main"
    assert ("--revision" in command) == pinned
    assert not pinned or command[command.index("--revision") + 1] == entry.revision
    assert command[-2:] == ["--local-dir", "FOLDER"]
    # The root of a repository of several models is another model.
    assert f"pass {entry.folder!r} inside of it" in text if entry.folder else "pass its path" in text


@pytest.mark.usefixtures("offline")
def test_the_advice_for_other_repositories() -> None:
    with pytest.raises(
        FileNotFoundError, match=r"`hf download toy/model --revision v2 --local-dir FOLDER`.* pass its path"
    ):
        download("hf:toy/model@v2")
    with pytest.raises(FileNotFoundError, match=r"`hf download toy/model --local-dir FOLDER`"):
        download("hf:toy/model")


def test_revisions_that_are_known_are_pinned(
    hub: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    download("hf:toy/model@v2")
    assert hub[-1] == {"repository": "toy/model", "revision": "v2", "allow_patterns": None}
    assert caplog.text == ""
    with caplog.at_level("WARNING", logger="sclm"):
        download("hf:toy/model")
    assert f"Write 'hf:toy/model@{COMMIT}' to have the same again" in caplog.text

    # A repository that is listed is its entry: files, revision and hashes.
    (tmp_path / COMMIT / "model.bin").write_bytes(b"weights")
    sha256 = hashlib.sha256(b"weights").hexdigest()
    entry = registry.Published("toy", "Org/Toy", COMMIT, {"model.bin": sha256}, "embed", "MIT", "a toy")
    monkeypatch.setattr(registry, "_ENTRIES", (entry,))
    caplog.clear()
    assert download("hf:org/toy") == tmp_path / COMMIT
    assert hub[-1] == {"repository": "Org/Toy", "revision": COMMIT, "allow_patterns": ["model.bin"]}
    assert caplog.text == ""
    (tmp_path / COMMIT / "model.bin").write_bytes(b"other weights")
    with pytest.raises(ValueError, match=f"expected {sha256}"):
        download("hf:org/toy")
    assert download("hf:org/toy@v1") == tmp_path / COMMIT  # another commit is not bound

    for malformed in ("hf:toy", "hf:/toy", "hf:a/b/c"):
        with pytest.raises(ValueError, match="Expected 'hf:organisation/name'"):
            download(malformed)


def test_a_repository_of_several_models_is_no_name_of_one(hub: list[dict[str, Any]]) -> None:
    with pytest.raises(
        ValueError, match=r"holds several models.*'geneformer-v2-104m'.*hf:ctheodoris/Geneformer@05fcbeb"
    ):
        sclm.load("hf:ctheodoris/Geneformer")
    assert hub == []


@pytest.mark.parametrize(
    ("name", "entry"),
    [*((n, n) for n in ELSEWHERE), ("scGPT_bc", "scgpt-blood"), ("scGPT CP", "scgpt-continual"), ("scTranslator_2M", "sctranslator-2m")],
)  # fmt: skip
def test_checkpoints_that_no_hub_serves_say_what_to_download(name: str, entry: str) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        sclm.load(name)
    text = str(caught.value)
    assert ELSEWHERE[entry].address in text
    assert "sclm.load('FOLDER')" in text
    assert ("vocab.json" if entry.startswith("scgpt") else "ID_dic") in text


def test_near_names() -> None:
    for name, near in (
        ("scGPT_human", "'scgpt-whole-human'"),
        ("Geneformer_V2_104M", "'geneformer-v2-104m'"),
        ("tdc/scGPT", "'hf:tdc/scGPT'"),
        ("scgpt-kidny", "'scgpt-kidney'"),
    ):
        with pytest.raises(FileNotFoundError, match=f"Did you mean .*{near}"):
            sclm.load(name)
