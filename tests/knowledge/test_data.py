"""The bundled files are what their README says, and what their scripts make."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import lzma
from pathlib import Path

import pytest

import sclm.knowledge.sources as sources

DATA = Path(sources.__file__).with_name("data")


@pytest.mark.parametrize(
    "file",
    [
        "cell_type_markers.tsv",
        "cl.obo.gz",
        "genes_human.tsv.gz",
        "knowledge_graph_human.txt.xz",
        "ligand_receptor_human.csv",
        "transcription_factors_human.txt",
    ],
)
def test_readme_states_the_hash(file):
    assert hashlib.sha256((DATA / file).read_bytes()).hexdigest() in (DATA / "README.md").read_text()


def _script(name: str):
    spec = importlib.util.spec_from_file_location(name, DATA / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.real
def test_cell_ontology_is_distilled_from_its_source(real_data):
    zstandard = pytest.importorskip("zstandard")
    import json

    script = _script("distil_cell_ontology")
    packed = (real_data / "ontology" / "CL-ontology-v2026-03-26.json.zst").read_bytes()
    assert hashlib.sha256(packed).hexdigest() == script.SHA256
    terms = json.loads(zstandard.ZstdDecompressor().decompressobj().decompress(packed))
    # the text, not the gzip bytes: those differ between versions of zlib
    assert script.distil(terms).encode() == gzip.decompress((DATA / "cl.obo.gz").read_bytes())


@pytest.mark.real
def test_genes_are_distilled_from_their_sources(real_data):
    script = _script("distil_gene_identifiers")
    texts = []
    for file, (_, sha256) in zip(
        ("gencode_genes_homo_sapiens.csv.gz", "hgnc_complete_set.txt.gz"), script.SOURCES, strict=True
    ):
        packed = (real_data / "vocab" / file).read_bytes()
        assert hashlib.sha256(packed).hexdigest() == sha256
        texts.append(gzip.decompress(packed).decode())
    assert script.distil(*texts).encode() == gzip.decompress((DATA / "genes_human.tsv.gz").read_bytes())


@pytest.mark.real
def test_transcription_factors_are_distilled_from_their_source(real_data):
    script = _script("distil_transcription_factors")
    raw = (real_data / "kg" / "msigdb_human_go_mf_v2025.gmt").read_bytes()
    assert hashlib.sha256(raw).hexdigest() == script.SOURCE[1]
    assert script.distil(raw.decode()) == (DATA / "transcription_factors_human.txt").read_text(encoding="utf-8")


@pytest.mark.real
def test_markers_are_distilled_from_their_source(real_data):
    script = _script("distil_cell_type_markers")
    raw = (real_data / "ontology" / "cl-2025-07-24.obo").read_bytes()
    assert hashlib.sha256(raw).hexdigest() == script.SOURCE[1]
    assert script.distil(raw.decode()) == (DATA / "cell_type_markers.tsv").read_text(encoding="utf-8")


@pytest.mark.real
@pytest.mark.slow
def test_knowledge_graph_is_distilled_from_its_sources(real_data):
    pytest.importorskip("zstandard")
    script = _script("distil_knowledge_graph")
    # the text, not the xz bytes: those may differ between versions of liblzma
    assert script.distil(real_data).encode() == lzma.decompress((DATA / "knowledge_graph_human.txt.xz").read_bytes())


def test_markers_are_read_with_their_polarity():
    script = _script("distil_cell_type_markers")
    symbols = {
        "CD4": "CD4",
        "CD19": "CD19",
        "CD14": "CD14",
        "CD2": "CD2",
        "CD38": "CD38",
        "CCR2": "CCR2",
        "CD20": "MS4A1",
    }

    def genes(text: str) -> list[str]:
        return sorted(set(script.stated(text, symbols)))

    assert genes("A CD4-positive, CD19-negative cell that expresses CD14 and CD2.") == ["CD14", "CD2", "CD4"]
    assert genes("It lacks CD4 and CD19, but expresses CD38.") == ["CD38"]
    assert genes("high expression of CCR2, negative for the lineage markers CD19, CD20") == []
    assert genes("It does not express CD4; it is CD14+ CD2-.") == ["CD14"]
    assert genes("A cell that facilitates development of CD4-positive T cells.") == []
    assert genes("CD16-positive, IgD-positive") == ["FCGR3A", "FCGR3B", "IGHD"]
    assert genes("A cell of CD4 and CD19.") == []


def test_transcription_factors_are_approved_symbols():
    from sclm.knowledge import GeneIdentifiers, transcription_factors

    names = sorted(transcription_factors())
    assert len(names) == 1414
    assert GeneIdentifiers.load("human").to_symbol(names) == names
    assert {"TBX21", "EOMES", "TOX", "TCF7", "BATF", "SPI1"} <= set(names)
    assert not {"CD3E", "ACTB", "JAK2"} & set(names)
    with pytest.raises(ValueError, match="mouse"):
        transcription_factors("mouse")
