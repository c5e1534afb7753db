"""Collections of gene sets: bundled, from files and from tables."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from sclm.knowledge import Pathways
from sclm.knowledge.gene_sets import phrase

if TYPE_CHECKING:
    from pathlib import Path

GMT = "HALLMARK_HYPOXIA\thttp://x\tVEGFA\tSLC2A1\tVEGFA\nReactome thing\tR-HSA-1\tCD3E\t\tCD3D\n"


def test_a_gmt_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "my.gmt"
    path.write_text(GMT)
    sets = Pathways.load(path)
    assert (sets.name, len(sets)) == ("my", 2)
    assert sets.ids == ("HALLMARK_HYPOXIA", "R-HSA-1")
    assert sets.genes == (("VEGFA", "SLC2A1"), ("CD3E", "CD3D"))
    assert sets.phrases == ("hypoxia", "Reactome thing")
    (tmp_path / "my.gmt.gz").write_bytes(gzip.compress(GMT.encode()))
    assert Pathways.load(str(tmp_path / "my.gmt.gz")).genes == sets.genes
    assert Pathways.load(sets) is sets


def test_mappings_and_tables_are_read() -> None:
    table = pd.DataFrame({"source": ["a", "a", "b"], "target": ["X", "Y", "Z"]})
    assert Pathways.load(table).genes == Pathways.load({"a": ["X", "Y"], "b": ["Z"]}).genes


def test_the_bundled_sets_are_reactome_and_wikipathways() -> None:
    default, reactome = Pathways.load("default"), Pathways.load("reactome")
    assert set(default.ids) <= set(reactome.ids)
    assert len(set(default.phrases)) == len(default)
    assert "IFIT1" in default.genes[default.find("the type I interferon response")]
    assert all(i.startswith("R-HSA-") for i in reactome.ids)
    assert Pathways.load("wikipathways").licence == "CC0"


def test_sets_are_found_by_id_name_and_phrase() -> None:
    sets = Pathways.load("default")
    places = {sets.find(t) for t in ("R-HSA-168898", "Toll-like Receptor Cascades", "toll-like receptor signalling")}
    assert places == {sets.ids.index("R-HSA-168898")}
    assert sets.find("no such pathway") == -1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("HALLMARK_TNFA_SIGNALING_VIA_NFKB", "TNFA signaling via NFKB"),
        ("HALLMARK_INTERFERON_GAMMA_RESPONSE", "interferon gamma response"),
        ("HALLMARK_IL6_JAK_STAT3_SIGNALING", "IL6 JAK STAT3 signaling"),
        ("Signaling by WNT", "Signaling by WNT"),
    ],
)
def test_names_in_capitals_become_words(name: str, words: str) -> None:
    assert phrase(name) == words


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("no-such-collection", FileNotFoundError, "must be one of 'default'"),
        ("hallmark", FileNotFoundError, "gsea-msigdb"),
        ({}, ValueError, "at least one set"),
        (pd.DataFrame({"set": ["a"]}), ValueError, "'source' and 'target'"),
    ],
)
def test_what_is_no_collection_is_refused(source: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Pathways.load(source)


def test_broken_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.gmt").write_text("name only\n")
    with pytest.raises(ValueError, match=r"found 1 column\(s\) in line 1"):
        Pathways.load(tmp_path / "a.gmt")
    (tmp_path / "b.gmt").write_text("a\tx\tG\na\tx\tH\n")
    with pytest.raises(ValueError, match="'a' twice"):
        Pathways.load(tmp_path / "b.gmt")
