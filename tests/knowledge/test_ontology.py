from __future__ import annotations

import itertools
import math
import subprocess
import sys

import networkx as nx
import numpy as np
import pytest

from sclm.knowledge import Ontology


def upward(ontology) -> nx.DiGraph:
    graph = nx.DiGraph()
    graph.add_nodes_from(ontology.ids)
    graph.add_edges_from((term, parent) for term in ontology.ids for parent in ontology.parents(term))
    return graph


def test_bundled_cell_ontology(cl):
    assert (cl.name, cl.version, cl.licence) == ("cl", "2026-03-26", "CC BY 4.0")
    assert len(cl) == len(cl.ids) == len(cl.names) == 3316
    assert cl.ids == tuple(sorted(cl.ids))
    assert cl.roots == ("CL:0000000",)
    assert sum(len(cl.parents(term)) for term in cl.ids) == 4632
    assert cl.name_of("CL:0000084") == "T cell"
    assert "T-cell" in cl.synonyms("CL:0000084")
    assert cl.definition("CL:0000084").startswith("A type of lymphocyte")
    assert "CL:0000542" in cl.ancestors("CL:0000084")
    assert "CL:0000624" in cl.descendants("CL:0000084")
    assert "CL:0000125" not in cl.parents("CL:0002453")  # part_of in the Cell Ontology
    assert all(cl.parents(term) for term in cl.ids if term != "CL:0000000")
    assert Ontology.load("Cell Ontology") is cl is Ontology.load("cl")


def test_graph_against_networkx(tangled):
    graph = upward(tangled)
    matrix = tangled.ancestor_matrix().toarray()
    for term in tangled.ids:
        above = nx.descendants(graph, term)
        assert tangled.ancestors(term) == above
        assert tangled.ancestors(term, include_self=True) == above | {term}
        assert tangled.descendants(term) == nx.ancestors(graph, term)
        assert {tangled.ids[i] for i in np.flatnonzero(matrix[tangled.index(term)])} == above | {term}
        longest = max((len(p) for r in tangled.roots for p in nx.all_simple_paths(graph, term, r)), default=1)
        assert tangled.depth(term) == longest or term in tangled.roots
    some = list(tangled.ids[::-7])
    np.testing.assert_array_equal(tangled.ancestor_matrix(some).toarray(), matrix[[tangled.index(t) for t in some]])
    assert tangled.ancestor_matrix(some).dtype == bool
    assert set(tangled.leaves) == {t for t in graph if graph.in_degree(t) == 0}
    assert set(tangled.roots) == {t for t in graph if graph.out_degree(t) == 0}


def test_distance_and_common_ancestor_against_sets(tangled):
    graph = upward(tangled)
    steps = dict(nx.all_pairs_shortest_path_length(graph))
    content = dict(zip(tangled.ids, tangled.information_content(), strict=True))
    rng = np.random.default_rng(1)
    for a, b in rng.choice(tangled.ids, size=(200, 2)):
        shared = tangled.ancestors(a, include_self=True) & tangled.ancestors(b, include_self=True)
        if not shared:
            with pytest.raises(ValueError, match="no common ancestor"):
                tangled.distance(a, b)
            with pytest.raises(ValueError, match="no common ancestor"):
                tangled.lowest_common_ancestor(a, b)
            continue
        assert tangled.distance(a, b) == min(steps[a][c] + steps[b][c] for c in shared)
        best = min(shared, key=lambda t: (-content[t], -tangled.depth(t), t))
        assert tangled.lowest_common_ancestor(a, b) == best


def test_information_content_against_its_formula(tangled):
    graph = upward(tangled)
    n_leaves = len(tangled.leaves)
    sanchez, zhou = tangled.information_content(), tangled.information_content("descendants")
    for i, term in enumerate(tangled.ids):
        below = nx.ancestors(graph, term)
        leaves = len(below & set(tangled.leaves))
        subsumers = len(nx.descendants(graph, term)) + 1
        assert sanchez[i] == pytest.approx(-math.log((leaves / subsumers + 1) / (n_leaves + 1)))
        assert zhou[i] == pytest.approx(math.log(len(tangled)) - math.log(len(below) + 1))
    with pytest.raises(ValueError, match="resnik"):
        tangled.information_content("resnik")


def test_similarities_against_loops(tangled):
    content = dict(zip(tangled.ids, tangled.information_content(), strict=True))
    rows, columns = tangled.ids[::5], tangled.ids[::3]
    lin, resnik, wu = (tangled.similarity_matrix(rows, columns, kind) for kind in ("lin", "resnik", "wu-palmer"))
    for (i, a), (j, b) in itertools.product(enumerate(rows), enumerate(columns)):
        shared = tangled.ancestors(a, include_self=True) & tangled.ancestors(b, include_self=True)
        best = max((content[t] for t in shared), default=0.0)
        deepest = max((tangled.depth(t) for t in shared), default=0)
        total = content[a] + content[b]
        assert resnik[i, j] == pytest.approx(best)
        assert lin[i, j] == pytest.approx(1.0 if a == b else (2 * best / total if total else 0.0))
        assert wu[i, j] == pytest.approx(2 * deepest / (tangled.depth(a) + tangled.depth(b)))


@pytest.mark.parametrize("kind", ["lin", "wu-palmer"])
def test_symmetric_similarities_on_cl(cl, kind):
    some = cl.ids[::40]
    matrix = cl.similarity_matrix(some, kind=kind)[:, [cl.index(t) for t in some]]
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_array_equal(np.diag(matrix), 1.0)
    assert matrix.min() >= 0
    assert matrix.max() <= 1


@pytest.mark.parametrize("kind", ["lin", "wu-palmer", "pagerank"])
def test_nearer_terms_are_more_alike(cl, kind):
    truth = "CL:0000904"  # central memory CD4 T cell
    nearer = ["CL:0000904", "CL:0000897", "CL:0000909", "CL:0000540"]  # itself, its parent, a cousin, neuron
    values = [cl.similarity(term, truth, kind) for term in nearer]
    assert values == sorted(values, reverse=True)
    assert values[0] == 1.0


def test_errors_say_what_to_do(cl, ontology_of, tmp_path):
    with pytest.raises(KeyError, match=r"It is now CL:0000043 \(mature basophil\)"):
        cl.name_of("CL:0000739")
    with pytest.raises(KeyError, match="resolve"):
        cl.parents("T cell")
    with pytest.raises(ValueError, match="'lin', 'resnik', 'wu-palmer', 'pagerank', found 'cosine'"):
        cl.similarity("CL:0000084", "CL:0000236", "cosine")
    with pytest.raises(TypeError, match="list of ids"):
        cl.ancestor_matrix("CL:0000084")
    with pytest.raises(AttributeError, match="does not change"):
        cl.name = "other"
    with pytest.raises(ValueError, match="'clo'"):
        Ontology.load("clo")
    with pytest.raises(ValueError, match="cycle"):
        ontology_of([[], [2], [1]])


def test_prefixes(toy_text, tmp_path):
    path = tmp_path / "toy.obo"
    path.write_text(
        toy_text + "\n[Term]\nid: GO:0000001\nname: foreign\n\n[Term]\nid: TOY:0000009\nname: x\nis_a: GO:0000001\n"
    )
    assert "GO:0000001" not in Ontology.load(path)
    assert Ontology.load(path).parents("TOY:0000009") == ()
    both = Ontology.load(path, prefixes=["TOY", "GO"])
    assert both.parents("TOY:0000009") == ("GO:0000001",)
    with pytest.raises(ValueError, match="CL"):
        Ontology.load(path, prefixes=["CL"])


def test_import_is_light():
    code = (
        "import sys, sclm.knowledge, sclm.knowledge.ontology, sclm.metrics; "
        "print([m for m in ('pronto', 'numba', 'torch', 'scanpy', 'anndata', 'pandas', 'pooch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "label", "term"), [("uberon", "Lung", "UBERON:0002048"), ("hsapdv", "human adult stage", None)]
)
def test_other_ontologies_from_the_data_folder(real_data, monkeypatch, name, label, term):
    pytest.importorskip("zstandard")
    monkeypatch.setenv("SCLM_DATA_DIR", str(real_data))
    ontology = Ontology.load(name)
    assert len(ontology) > 200
    assert ontology.version.startswith("202")
    if term:
        assert ontology.resolve(label).term_id == term
