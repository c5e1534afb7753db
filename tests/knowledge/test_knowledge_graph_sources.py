"""Every kind of source against its file, the default graph, and the catalogue on real files."""

from __future__ import annotations

import gzip
import lzma
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from sclm.knowledge import (
    GeneIdentifiers,
    GeneSets,
    KnowledgeGraph,
    Ontology,
    Pairs,
    TermLinks,
    Terms,
    fetch,
    graph_sources_available,
)
from sclm.knowledge.disease_genes import disease_genes
from sclm.knowledge.graph_catalogue import imex_pairs

OBO = """ontology: cl

[Term]
id: CL:0000084
name: T cell
relationship: part_of UBERON:0000178 {is_inferred="true"} ! part of blood
relationship: RO:0002202 CL:0000827 ! develops from pro-T cell

[Term]
id: CL:0000236
name: B cell
intersection_of: CL:0000945 ! lymphocyte of B lineage
intersection_of: BFO:0000050 UBERON:0002106 ! spleen
"""


def links(source) -> list[tuple[str, str]]:
    found = source.read().links[0]
    return list(zip(found.sources, found.targets, strict=True))


def test_term_links(tmp_path):
    path = tmp_path / "cl.obo"
    path.write_text(OBO)
    source = TermLinks(path)
    assert links(source) == [("CL:0000084", "UBERON:0000178"), ("CL:0000236", "UBERON:0002106")]
    assert source.read().nodes[["id", "type", "name"]].to_numpy().tolist() == [
        ["UBERON:0000178", "tissue", "blood"],
        ["UBERON:0002106", "tissue", "spleen"],
    ]
    packed = tmp_path / "cl.obo.gz"
    packed.write_bytes(gzip.compress(OBO.encode()))
    develops = TermLinks(packed, "cell_type-develops_from-cell_type", properties=["RO:0002202"], prefix="CL:")
    assert links(develops) == [("CL:0000084", "CL:0000827")]


def test_terms_under_one(toy):
    part = Terms(toy, "cell_type", under="TOY:0000003").read()
    assert part.nodes["name"].tolist() == ["T cell", "odd cell"]
    assert list(zip(part.links[0].sources, part.links[0].targets, strict=True)) == [("TOY:0000005", "TOY:0000003")]
    assert part.origin.name == toy.name


@pytest.mark.parametrize("ending", ["csv", "tsv", "csv.gz", "csv.xz"])
def test_tables_in_files(tmp_path, ending):
    separator = "\t" if ending == "tsv" else ","
    text = separator.join(["tf", "target", "level"]) + "\n" + separator.join(["TP53", "NA", "A"]) + "\n"
    text += separator.join(["TP53", "CDKN1A", "A"]) + "\n" + separator.join(["TP53", "MDM2", "E"]) + "\n"
    pack = {"gz": gzip.compress, "xz": lzma.compress}.get(ending.rsplit(".")[-1], bytes)
    path = tmp_path / f"table.{ending}"
    path.write_bytes(pack(text.encode()))
    assert links(Pairs(path, "gene-regulates-gene")) == [("TP53", "CDKN1A"), ("TP53", "MDM2")]
    assert links(Pairs(path, "gene-regulates-gene", where={"level": ["A"]})) == [("TP53", "CDKN1A")]
    with pytest.raises(FileNotFoundError, match="no file"):
        Pairs(tmp_path / "absent.csv", "gene-regulates-gene").read()


def test_several_columns_and_lists_in_cells():
    table = pd.DataFrame(
        {"genes": ["ITGAM, [FCGR2A, FCGR2B], CD68", "CD4"], "id": ["NA", "CL_0000084"], "name": ["Kupffer cell", "T"]}
    )
    found = links(Pairs(table, "gene-marks-cell_type", columns=("genes", ("id", "name")), separator=","))
    assert found == [*((g, "Kupffer cell") for g in ("ITGAM", "FCGR2A", "FCGR2B", "CD68")), ("CD4", "CL_0000084")]


def test_names_of_sets():
    sets = {"GOCC_CELL_CORTEX": ["CD4"], "Signalling by X": ["CD4"]}
    part = GeneSets(sets, type="compartment", prefix="GOCC_").read()
    assert part.nodes["name"].tolist() == ["cell cortex", "Signalling by X"]
    assert part.links[0].relation == "gene-localises-compartment"


def test_genes_of_diseases(tmp_path):
    path = tmp_path / "mondo.obo"
    path.write_text(
        "ontology: mondo\n\n[Term]\nid: MONDO:0000001\nname: disease\n\n[Term]\nid: MONDO:0000002\nname: dysferlinopathy\n"
        'synonym: "muscular dystrophy caused by mutation in DYSF" EXACT []\nis_a: MONDO:0000001\n\n[Term]\n'
        "id: MONDO:0000003\nname: KCNQ2-related epilepsy\nis_a: MONDO:0000001\n\n[Term]\n"
        "id: MONDO:0000004\nname: sun-related disorder\nis_a: MONDO:0000001\n"
    )
    found = disease_genes(Ontology.load(path), GeneIdentifiers.load("human"))
    assert found == [("DYSF", "MONDO:0000002"), ("KCNQ2", "MONDO:0000003")]


def test_interactions_of_proteins(tmp_path):
    hgnc, table = tmp_path / "hgnc.txt", tmp_path / "imex.csv"
    hgnc.write_text("symbol\tuniprot_ids\nTP53\tP04637\nMDM2\tQ00987|P99999\nH3C1\tP68431\nH3C2\tP68431\n")
    rows = [
        "uniprotkb:P04637-2,uniprotkb:Q00987",
        "uniprotkb:Q00987,uniprotkb:P04637",
        "uniprotkb:P04637,uniprotkb:P68431",
    ]
    rows += [
        "intact:EBI-1,uniprotkb:P04637",
        "uniprotkb:P04637,uniprotkb:P04637-3",
        "uniprotkb:P04637,uniprotkb:P99999",
    ]
    table.write_text("A,B\n" + "\n".join(rows) + "\n")
    assert imex_pairs(table, hgnc).to_numpy().tolist() == [["MDM2", "TP53", 3]]


@pytest.fixture(scope="module")
def default() -> KnowledgeGraph:
    return KnowledgeGraph.default()


def test_the_default_graph(default, cl):
    assert default is KnowledgeGraph.default()
    assert default.nodes.loc[default.rows("cell_type"), "id"].tolist() == list(cl.ids)
    counts = default.summary().set_index("name")["count"]
    assert counts["gene"] > 20_000
    assert counts["gene-interacts-gene"] > 70_000
    assert counts["cell_type-is_a-cell_type"] == sum(len(cl.parents(term)) for term in cl.ids)
    assert default.sources["licence"].isin(["CC BY 4.0", "CC BY 3.0", "CC0", "BSD-3-Clause"]).all()
    assert not default.derived_from
    symbols = default.nodes.loc[default.rows("gene"), "name"].tolist()
    assert GeneIdentifiers.load("human").to_symbol(symbols) == symbols

    def joined(relation: str, kind: str, gene: str, term: str) -> bool:
        matrix = default.adjacency(relation)
        return bool(matrix[default.lookup("gene", [gene])[0], default.lookup(kind, [term])[0]])

    assert joined("gene-marks-cell_type", "cell_type", "CD19", "B cell")
    assert joined("gene-marks-cell_type", "cell_type", "CD4", "CD4-positive, alpha-beta T cell")
    assert not joined("gene-marks-cell_type", "cell_type", "CD4", "CD8-positive, alpha-beta T cell")
    assert joined("gene-in-pathway", "pathway", "CASP8", "Apoptosis")
    assert joined("gene-localises-compartment", "compartment", "LMNB1", "nuclear lamina")
    assert joined(
        "gene-associated-disease", "disease", "DYSF", "autosomal recessive limb-girdle muscular dystrophy type 2B"
    )
    lung = default.lookup("tissue", ["lung"])[0]
    club = default.lookup("cell_type", ["pulmonary alveolar type 2 cell"])[0]
    within = default.adjacency("cell_type-part_of-tissue", "tissue-is_a-tissue", "cell_type-is_a-cell_type").astype(
        np.int64
    )
    reached = np.zeros(len(default), dtype=bool)
    reached[club] = True
    for _ in range(15):
        reached |= (reached @ within) > 0
    assert reached[lung]


def test_the_default_graph_needs_no_network_and_few_imports(tmp_path):
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise OSError('no network')\n"
        "socket.socket.connect = refuse\n"
        "from sclm.knowledge import KnowledgeGraph\n"
        "print(len(KnowledgeGraph.default()))\n"
        "print([m for m in ('torch', 'anndata', 'scanpy', 'sklearn', 'pronto', 'zstandard') if m in sys.modules])\n"
    )
    environment = dict(os.environ, SCLM_DATA_DIR=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split("\n")[1] == "[]"
    assert not list(tmp_path.iterdir())


def test_what_can_be_named():
    table = graph_sources_available()
    assert {"default", "cl", "uberon", "mondo", "imex", "reactome", "panglaodb"} <= set(table["name"])
    assert (table["licence"] != "").all()
    assert table.loc[table["bundled"], "name"].tolist() == ["default", "cl_markers", "cl"]


@pytest.mark.real
@pytest.mark.slow
def test_a_graph_from_all_real_files(real_data, monkeypatch):
    pytest.importorskip("zstandard")
    monkeypatch.setenv("SCLM_DATA_DIR", str(real_data))
    names = [name for name in graph_sources_available()["name"] if name != "default"]
    graph = KnowledgeGraph.build(
        *names, Pairs(real_data / "kg" / "dorothea_hs.csv.gz", "gene-regulates-gene", columns=("tf", "target"))
    )
    assert len(graph) > 62_507
    assert graph.n_edges > 1_000_000
    assert len(graph.sources) == len(names) + 3  # the markers of the package are three sources
    # what is not matched are names that no human gene has today, and labels that are no cell type
    share = graph.sources["n_unmatched"] / (graph.sources["n_edges"] + graph.sources["n_unmatched"]).clip(lower=1)
    assert dict(zip(graph.sources["source"], share, strict=True))["panglaodb"] < 0.2
    assert share[~graph.sources["source"].isin(["panglaodb", "cellmarker"])].max() < 0.05
    assert fetch("go_cc").name == "msigdb_human_go_cc_v2025.gmt"
