from __future__ import annotations

import hashlib
import logging

import pytest

from sclm.knowledge import downloads, fetch
from sclm.knowledge.downloads import RESOURCES, Resource


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    resource = Resource("http://127.0.0.1:9/folder/tiny.txt", hashlib.sha256(b"tiny").hexdigest(), "CC0", "a test")
    monkeypatch.setitem(RESOURCES, "tiny", resource)
    monkeypatch.setenv("SCLM_DATA_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("folder", [".", "ontology"])
def test_a_file_at_hand_needs_no_network(tiny, folder):
    path = tiny / folder / "tiny.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"tiny")
    assert fetch("tiny").read_bytes() == b"tiny"


def test_another_file_of_that_name_is_not_used(tiny, caplog):
    (tiny / "ontology").mkdir()
    (tiny / "ontology" / "tiny.txt").write_bytes(b"other")
    with (
        caplog.at_level(logging.WARNING, "sclm"),
        pytest.raises(ConnectionError, match=r"Download http.*SCLM_DATA_DIR"),
    ):
        fetch("tiny")
    assert "not the pinned file" in caplog.text


def test_unknown_name():
    with pytest.raises(ValueError, match="'uberon'"):
        fetch("nothing")


def test_every_resource_says_what_it_is():
    for resource in RESOURCES.values():
        assert resource.url.startswith("https://")
        assert len(resource.sha256) == 64
        assert resource.licence
        assert resource.source


def test_default_folder(monkeypatch):
    monkeypatch.delenv("SCLM_DATA_DIR", raising=False)
    assert downloads.data_dir().name == "sclm"
