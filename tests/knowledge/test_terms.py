from __future__ import annotations

import gzip
import json
import logging

import pytest

from sclm.knowledge import Ontology
from sclm.knowledge.sources import BUNDLED
from sclm.knowledge.terms import from_guide, parse_obo, read_obo, read_terms, read_with_pronto, release_in_name


def as_sets(table):
    return (
        table.names,
        table.definitions,
        {k: set(v) for k, v in table.synonyms.items()},
        {k: set(v) for k, v in table.parents.items()},
        table.replaced,
        table.version,
        table.ontology,
    )


def test_tolerant_parser_reads_what_stands_there(toy_text):
    table = parse_obo(toy_text.splitlines())
    assert table.version == "2020-01-02"
    assert table.ontology == "toy"
    assert table.names["TOY:0000002"] == "leukocyte"
    assert table.definitions["TOY:0000002"] == 'A "white" cell, or WBC.'
    assert table.synonyms["TOY:0000002"] == ("white blood cell",)  # not the RELATED one
    assert table.parents["TOY:0000003"] == ("TOY:0000002",)
    assert table.parents["TOY:0000004"] == ("TOY:0000002",)  # part_of is no parent
    assert table.replaced == {"TOY:0000033": "TOY:0000003", "TOY:0000007": "TOY:0000003", "TOY:0000008": ""}


def test_tolerant_parser_agrees_with_pronto(toy_text, tmp_path):
    path = tmp_path / "toy.obo"
    path.write_text(toy_text)
    assert as_sets(parse_obo(toy_text.splitlines())) == as_sets(read_with_pronto(path))


def test_pronto_reads_the_bundled_snapshot_to_the_same_terms():
    assert as_sets(read_obo(BUNDLED)) == as_sets(read_with_pronto(BUNDLED))


@pytest.mark.parametrize(
    "line",
    [
        "xref: http://neurolex.org/wiki/Category\\:Embryonic_organism",  # stops fastobo in CL's slim of 2026-06-08
        'synonym: "odd" EXACT OMO:0003000 []',  # undeclared synonym type: UBERON
        "is_a: BFO:0000031",  # undeclared target: MONDO
        "name without colon",
        "def: not quoted",
    ],
)
def test_one_bad_line_does_not_cost_the_file(toy_text, tmp_path, line, caplog):
    path = tmp_path / "bad.obo"
    path.write_text(toy_text.replace("is_a: TOY:0000001 ! cell\n", f"is_a: TOY:0000001 ! cell\n{line}\n", 1))
    with caplog.at_level(logging.INFO, "sclm"):
        ontology = Ontology.load(path)
    assert len(ontology) == 6
    assert ontology.resolve("white blood cell").term_id == "TOY:0000002"
    assert ontology.parents("TOY:0000002") == ("TOY:0000001",)


def test_gzip_and_guide_layout_give_the_same_terms(toy_text, tmp_path):
    packed = tmp_path / "toy.obo.gz"
    packed.write_bytes(gzip.compress(toy_text.encode()))
    plain = read_terms(packed)
    guide = {
        term: {
            "label": plain.names[term],
            "description": plain.definitions[term],
            "synonyms": list(plain.synonyms[term]),
            "ancestors": dict.fromkeys(plain.parents[term], 1) | ({"TOY:0000001": 2} if term > "TOY:0000006" else {}),
            "deprecated": False,
        }
        for term in plain.names
    }
    guide["TOY:0000007"] = {"label": "old", "ancestors": {}, "deprecated": True, "replaced_by": "TOY:0000003"}
    path = tmp_path / "toy.json"
    path.write_text(json.dumps(guide))
    table = read_terms(path)
    assert table.names == plain.names == from_guide(guide).names
    assert table.parents == plain.parents
    assert table.replaced == {"TOY:0000007": "TOY:0000003"}


def test_compressed_guide_needs_zstandard(tmp_path, monkeypatch):
    import sys

    path = tmp_path / "toy.json.zst"
    path.write_bytes(b"")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ImportError, match="pip install zstandard"):
        read_terms(path)


def test_wrong_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.obo"):
        read_terms(tmp_path / "nowhere.obo")
    (tmp_path / "table.csv").write_text("a,b")
    with pytest.raises(ValueError, match=r"table\.csv"):
        read_terms(tmp_path / "table.csv")
    (tmp_path / "other.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="layout of the cellxgene ontology guide"):
        read_terms(tmp_path / "other.json")
    (tmp_path / "empty.obo").write_text("format-version: 1.2\n")
    with pytest.raises(ValueError, match="no active terms"):
        read_terms(tmp_path / "empty.obo")


def test_release_in_name():
    assert release_in_name("UBERON-ontology-v2026-04-01.json.zst") == "2026-04-01"
    assert release_in_name("EFO-ontology-v3.90.0.json.zst") == "3.90.0"
    assert release_in_name("mine.json") == ""


OWL = """<?xml version="1.0"?>
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:rdfs="http://www.w3.org/2000/01/rdf-schema#"
         xmlns:owl="http://www.w3.org/2002/07/owl#" xmlns:oboInOwl="http://www.geneontology.org/formats/oboInOwl#">
  <owl:Ontology rdf:about="http://purl.obolibrary.org/obo/toy.owl"/>
  <owl:Class rdf:about="http://purl.obolibrary.org/obo/TOY_0000001"><rdfs:label>cell</rdfs:label></owl:Class>
  <owl:Class rdf:about="http://purl.obolibrary.org/obo/TOY_0000002">
    <rdfs:label>T cell</rdfs:label>
    <oboInOwl:hasExactSynonym>T-lymphocyte</oboInOwl:hasExactSynonym>
    <rdfs:subClassOf rdf:resource="http://purl.obolibrary.org/obo/TOY_0000001"/>
  </owl:Class>
</rdf:RDF>
"""


def test_owl(tmp_path):
    path = tmp_path / "toy.owl"
    path.write_text(OWL)
    ontology = Ontology.load(path)
    assert ontology.names == ("cell", "T cell")
    assert ontology.parents("TOY:0000002") == ("TOY:0000001",)
    assert ontology.resolve("T-lymphocytes").term_id == "TOY:0000002"


def test_compressed_guide(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    terms = {"X:1": {"label": "a", "ancestors": {}, "deprecated": False}}
    path = tmp_path / "X-ontology-v2020-01-01.json.zst"
    path.write_bytes(zstandard.ZstdCompressor().compress(json.dumps(terms).encode()))
    assert read_terms(path).names == {"X:1": "a"}


def test_conditional_superclasses_are_left_out(tmp_path) -> None:
    """An axiom with gci_filler holds in that place only: taken for all, it may even close a cycle."""
    path = tmp_path / "small.obo"
    path.write_text(
        "format-version: 1.2\nontology: my\n\n[Term]\nid: MY:1\nname: cell\n\n"
        "[Term]\nid: MY:2\nname: gut cell\nis_a: MY:1 ! cell\n"
        'is_a: MY:3 {gci_filler="UBERON:0000160", gci_relation="BFO:0000050"} ! gland cell\n\n'
        "[Term]\nid: MY:3\nname: gland cell\nis_a: MY:2 ! gut cell\n"
    )
    from sclm.knowledge import Ontology
    from sclm.knowledge.terms import read_obo

    assert read_obo(path).parents["MY:2"] == ("MY:1",)
    ontology = Ontology.load(path)
    assert ontology.parents("MY:2") == ("MY:1",)
    assert ontology.ancestors("MY:3") == {"MY:1", "MY:2"}


def test_a_cycle_is_named_without_what_lies_below_it(tmp_path) -> None:
    path = tmp_path / "cycle.obo"
    stanzas = [("MY:1", "MY:2"), ("MY:2", "MY:1"), ("MY:3", "MY:2"), ("MY:4", "MY:3")]
    path.write_text(
        "format-version: 1.2\n" + "".join(f"\n[Term]\nid: {a}\nname: {a}\nis_a: {b} ! up\n" for a, b in stanzas)
    )
    from sclm.knowledge import Ontology

    with pytest.raises(ValueError, match=r"parents of 2 terms form a cycle \(MY:1, MY:2\)"):
        Ontology.load(path)
