"""The graph against what goes in, written out by hand; files, subgraphs, and the guard against leaks."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from sclm.knowledge import GeneSets, KnowledgeGraph, Pairs, Terms


@pytest.fixture
def graph(toy, tmp_path) -> KnowledgeGraph:
    """The toy ontology, two sets, a table of each kind; genes under many names."""
    gmt = tmp_path / "sets.gmt"
    gmt.write_text("WP_B_CELL\tR-HSA-1\tMS4A1\tENSG00000010610.10\tno such gene\nT cells\tabout\tCD4\tCD3E\n")
    interactions = pd.DataFrame({"a": ["CD4", "MLL", "MS4A1", "CD4"], "b": ["KMT2A", "CD4", "MS4A1", "absent"]})
    markers = pd.DataFrame(
        {"gene": ["CD20", "CD4", "CD3E"], "cell type": ["b CELL", "TOY:0000003", "WBC"], "sure": ["yes", "yes", "no"]}
    )
    return KnowledgeGraph.build(
        Terms(toy, "cell_type"),
        GeneSets(gmt, prefix="WP_", name="sets", licence="CC0"),
        Pairs(interactions, "gene-interacts-gene", name="pairs", version="3"),
        Pairs(markers, "gene-marks-cell_type", name="markers", where={"sure": ["yes"]}, derived_from=["d1", "d2"]),
        Pairs(pd.DataFrame({"l": ["CD4"], "r": ["TGFBR1&TGFBR2"]}), "ligand-binds-receptor", name="lr", separator="&"),
    )


def named(graph: KnowledgeGraph, relation: str) -> set[tuple[str, str]]:
    """The edges of a relation by the names of their ends."""
    names = graph.nodes["name"].to_numpy()
    return {(names[a], names[b]) for a, b in graph.edges[relation].T} if relation in graph.edges else set()


def test_every_link_is_there_once_and_genes_are_reconciled(graph):
    assert named(graph, "gene-interacts-gene") == {("CD4", "KMT2A")}  # both directions, both symbols; no self-loop
    assert named(graph, "gene-in-pathway") == {
        ("MS4A1", "b cell"),
        ("CD4", "b cell"),
        ("CD4", "T cells"),
        ("CD3E", "T cells"),
    }
    assert named(graph, "gene-marks-cell_type") == {("MS4A1", "B cell"), ("CD4", "T cell")}
    assert named(graph, "ligand-binds-receptor") == {("CD4", "TGFBR1"), ("CD4", "TGFBR2")}
    assert ("odd cell", "B cell") in named(graph, "cell_type-is_a-cell_type")
    for pair in graph.edges.values():
        assert len(np.unique(pair, axis=1).T) == pair.shape[1]


def test_nodes(graph, toy):
    nodes = graph.nodes
    assert list(nodes.columns) == ["id", "type", "name", "text", "source"]
    assert graph.types == ("gene", "cell_type", "pathway")
    assert set(nodes.loc[graph.rows("cell_type"), "id"]) == set(toy.ids)
    assert nodes.loc[graph.rows("pathway"), "id"].tolist() == ["R-HSA-1", "T cells"]
    leukocyte = nodes.loc[graph.lookup("cell_type", ["leukocyte"])[0]]
    assert leukocyte["text"] == 'A "white" cell, or WBC. Synonyms: white blood cell'
    gene = nodes.loc[graph.lookup("gene", ["CD4"])[0]]
    assert gene["id"] == "ENSG00000010610"
    assert gene["source"] == "sets"
    assert not nodes.duplicated(["type", "id"]).any()
    for kind in graph.types:
        ids = nodes.loc[graph.rows(kind), "id"].tolist()
        assert ids == sorted(ids)


def test_sources(graph):
    table = graph.sources.set_index("source")
    assert table.loc["pairs", ["n_edges", "n_unmatched"]].tolist() == [1, 1]
    assert table.loc["sets", ["n_edges", "n_unmatched", "licence", "made_from"]].tolist() == [4, 1, "CC0", "sets.gmt"]
    assert len(table.loc["sets", "sha256"]) == 64
    assert table["n_nodes"].sum() == len(graph)
    assert table["n_edges"].sum() == graph.n_edges
    assert table.loc["pairs", "version"] == "3"
    for relation, origin in graph.origins.items():
        assert len(origin) == graph.edges[relation].shape[1]
    assert graph.sources["source"][graph.origins["gene-marks-cell_type"][0]] == "markers"


def test_summary(graph):
    table = graph.summary().set_index("name")
    assert table.loc["gene", "count"] == len(graph.rows("gene"))
    assert table.loc["gene-in-pathway", ["what", "count", "sources", "licences"]].tolist() == ["edge", 4, "sets", "CC0"]
    assert table.loc["gene-interacts-gene", "licences"] == "not stated"
    assert table.loc[table["what"] == "edge", "count"].sum() == graph.n_edges


def test_lookup(graph):
    found = graph.lookup("gene", ["CD20", "MS4A1", "ENSG00000156738.3", "nothing"])
    assert len(set(found[:3])) == 1
    assert found[3] == -1
    found = graph.lookup("cell_type", ["TOY_0000002", "LEUKOCYTE", "White Blood Cell", "nothing"])
    assert len(set(found[:3])) == 1
    assert found[3] == -1
    with pytest.raises(ValueError, match="'pathway', found 'drug'"):
        graph.lookup("drug", ["aspirin"])


def test_order_of_the_sources_and_of_their_rows_does_not_matter(toy):
    rows = pd.DataFrame({"a": ["CD4", "CD3E", "MS4A1"], "b": ["CD3E", "MS4A1", "LCK"]})
    sets = {"x": ["CD4", "LCK"], "y": ["CD3E"]}
    sources = [Terms(toy, "cell_type"), GeneSets(sets), Pairs(rows, "gene-interacts-gene")]
    other = [Pairs(rows[::-1], "gene-interacts-gene"), GeneSets(dict(reversed(sets.items()))), Terms(toy, "cell_type")]
    assert KnowledgeGraph.build(*sources).sha256 == KnowledgeGraph.build(*other).sha256


def test_restricted_to_genes(toy):
    sets = GeneSets({"x": ["CD4", "LCK"], "y": ["CD3E"]})
    graph = KnowledgeGraph.build(Terms(toy, "cell_type"), sets, genes=["ENSG00000010610.2", "CD19", "nothing"])
    assert sorted(graph.nodes.loc[graph.rows("gene"), "name"]) == ["CD19", "CD4"]  # asked for and known, linked or not
    assert graph.nodes.loc[graph.rows("pathway"), "name"].tolist() == ["x"]  # of the other set no gene is here
    assert graph.nodes.loc[graph.lookup("gene", ["CD19"])[0], "source"] == ""
    assert graph.sources["n_unmatched"].tolist() == [0, 2]


def test_names_as_they_are(toy):
    graph = KnowledgeGraph.build(Pairs(pd.DataFrame({"a": ["g1"], "b": ["g2"]}), "gene-interacts-gene"), species=None)
    assert graph.nodes["id"].tolist() == ["g1", "g2"]
    assert graph.lookup("gene", ["g2", "MLL"]).tolist() == [1, -1]


def test_save_and_load(graph, tmp_path):
    folder = graph.save(tmp_path / "graph")
    loaded = KnowledgeGraph.load(folder)
    pd.testing.assert_frame_equal(loaded.nodes, graph.nodes)
    pd.testing.assert_frame_equal(loaded.sources.astype(object), graph.sources.astype(object), check_dtype=False)
    assert list(loaded.edges) == list(graph.edges)
    for relation, pair in graph.edges.items():
        assert np.array_equal(loaded.edges[relation], pair)
        assert loaded.edges[relation].dtype == np.int32
        assert np.array_equal(loaded.origins[relation], graph.origins[relation])
    assert loaded.derived_from == {"markers": frozenset({"d1", "d2"})}
    assert loaded.sha256 == graph.sha256
    assert sorted(p.name for p in folder.iterdir()) == ["edges.npz", "graph.json", "nodes.csv", "sources.csv"]
    with pytest.raises(FileExistsError, match="overwrite=True"):
        graph.save(folder)
    graph.save(folder, overwrite=True)
    again = KnowledgeGraph.from_arrays(graph.to_arrays())
    assert again.sha256 == graph.sha256
    assert all(array.dtype != object for array in graph.to_arrays().values())


def test_a_changed_file_and_another_format_are_refused(graph, tmp_path):
    folder = graph.save(tmp_path / "graph")
    text = (folder / "nodes.csv").read_text()
    (folder / "nodes.csv").write_text(text.replace("leukocyte", "leucocyte"))
    with pytest.raises(ValueError, match="it was changed"):
        KnowledgeGraph.load(folder)
    (folder / "nodes.csv").write_text(text)
    about = json.loads((folder / "graph.json").read_text())
    (folder / "graph.json").write_text(json.dumps(about | {"format": 99}))
    with pytest.raises(ValueError, match="has format 99"):
        KnowledgeGraph.load(folder)
    with pytest.raises(FileNotFoundError, match=r"graph\.json"):
        KnowledgeGraph.load(tmp_path)


def test_inverses(graph):
    both = graph.with_inverses()
    assert both.n_edges == 2 * graph.n_edges
    assert np.array_equal(both.edges["inverse:gene-in-pathway"], graph.edges["gene-in-pathway"][::-1])
    assert set(both.with_inverses().edges) == set(both.edges)


def test_adjacency(graph):
    matrix = graph.adjacency("gene-in-pathway", "gene-marks-cell_type")
    assert matrix.sum() == 6
    b = graph.lookup("cell_type", ["B cell"])[0]
    assert matrix[:, b].nonzero()[0].tolist() == graph.lookup("gene", ["MS4A1"]).tolist()
    assert graph.adjacency().sum() == graph.n_edges
    with pytest.raises(ValueError, match="found 'gene-in-drug'"):
        graph.adjacency("gene-in-drug")


def test_subgraph(graph):
    part = graph.subgraph(["CD20", "nothing"])
    assert part.nodes.loc[part.rows("gene"), "name"].tolist() == ["MS4A1"]
    assert part.nodes.loc[part.rows("pathway"), "name"].tolist() == ["b cell"]
    assert len(part.rows("cell_type")) == len(graph.rows("cell_type"))
    alone = graph.subgraph(["CD20"], keep=())
    # the type that it marks, and all above that
    assert set(alone.nodes["name"]) == {"MS4A1", "b cell", "B cell", "leukocyte", "cell"}
    assert named(alone, "cell_type-is_a-cell_type") == {("B cell", "leukocyte"), ("leukocyte", "cell")}
    assert named(graph.with_inverses().subgraph(["CD20"], keep=()), "gene-in-pathway") == {("MS4A1", "b cell")}


def test_held_out_terms_keep_their_ontology_edges_only(graph):
    cut = graph.with_inverses().without_markers_of(["B cell"])
    assert named(cut, "gene-marks-cell_type") == {("CD4", "T cell")}
    assert named(cut, "inverse:gene-marks-cell_type") == {("T cell", "CD4")}
    assert named(cut, "cell_type-is_a-cell_type") == named(graph, "cell_type-is_a-cell_type")
    assert len(cut) == len(graph)
    assert named(graph, "gene-marks-cell_type") == {("MS4A1", "B cell"), ("CD4", "T cell")}
    # of what is below a held-out term as well
    assert named(graph.without_markers_of(["leukocyte"]), "gene-marks-cell_type") == set()
    kept = graph.without_markers_of(["leukocyte"], descendants=False)
    assert named(kept, "gene-marks-cell_type") == {("MS4A1", "B cell"), ("CD4", "T cell")}
    with pytest.raises(ValueError, match="no cell type 'nothing'"):
        graph.without_markers_of(["B cell", "nothing"])


def test_edges_from_test_cells_are_refused(graph, tmp_path):
    with pytest.raises(ValueError, match=r"'markers'.*1 of these cells or donors \(d2\)"):
        graph.refuse_if_derived_from(["d2", "d7"])
    graph.refuse_if_derived_from(["d7"])
    loaded = KnowledgeGraph.load(graph.save(tmp_path / "graph"))
    with pytest.raises(ValueError, match="would tell"):
        loaded.refuse_if_derived_from(["d1"])


def test_what_is_wrong_is_named(graph, toy):
    with pytest.raises(ValueError, match="at least one source"):
        KnowledgeGraph.build()
    with pytest.raises(ValueError, match=r"'default'.*found 'nothing'"):
        KnowledgeGraph.build("nothing")
    pairs = Pairs(pd.DataFrame({"a": ["CD4"], "b": ["LCK"]}), "gene-interacts-gene")
    with pytest.raises(ValueError, match="two sources have the name Pairs"):
        KnowledgeGraph.build(pairs, pairs)
    with pytest.raises(ValueError, match="type-verb-type"):
        Pairs(pd.DataFrame(), "binds").read()
    with pytest.raises(ValueError, match="no column 'c', found 'a', 'b'"):
        Pairs(pd.DataFrame({"a": [], "b": []}), "gene-interacts-gene", columns=("a", "c")).read()
    with pytest.raises(TypeError, match="list of labels"):
        graph.lookup("gene", "CD4")
    with pytest.raises(TypeError, match=r"\['d1'\]"):
        graph.refuse_if_derived_from("d1")
    with pytest.raises(TypeError, match="derived_from is a list"):
        Pairs(pd.DataFrame({"a": [], "b": []}), "gene-interacts-gene", derived_from="d1").read()
    with pytest.raises(ValueError, match="int32"):
        dataclasses.replace(graph, edges={"gene-in-pathway": np.zeros((2, 1))})
    with pytest.raises(ValueError, match="must lie in 0"):
        dataclasses.replace(graph, edges={"gene-in-pathway": np.full((2, 1), 999, dtype=np.int32)})
    with pytest.raises(ValueError, match="columns"):
        dataclasses.replace(graph, nodes=graph.nodes[["id"]])
