"""What stands beside the training types, and genes whose names speak of a type."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pandas as pd
import pytest

from sclm.knowledge import KnowledgeGraph, Ontology, Terms
from sclm.models.celltosg.company import COMPANY_WEIGHTS, Company
from sclm.models.celltosg.named_genes import named_genes
from sclm.models.celltosg.parts import terms_of


@pytest.fixture(scope="module")
def graph() -> KnowledgeGraph:
    return KnowledgeGraph.default()


@pytest.fixture(scope="module")
def cl() -> Ontology:
    return Ontology.load("cl")


def test_company_against_a_slow_walk(graph: KnowledgeGraph, cl: Ontology) -> None:
    terms = terms_of(cl)
    row = {t: i for i, t in enumerate(terms)}
    known = ["pancreatic D cell", "type B pancreatic cell", "pancreatic acinar cell"]
    places = np.array([row[cl.resolve(name).term_id] for name in known] + [-1])
    company = Company(graph, cl, terms)
    found = company.features(places)

    tissue = nx.DiGraph(list(graph.edges["tissue-is_a-tissue"].T.tolist()))
    part = pd.DataFrame(graph.edges["cell_type-part_of-tissue"].T, columns=["type", "tissue"]).groupby("type")["tissue"]
    part = part.agg(list).to_dict()
    node_of = dict(zip(cl.ids, graph.lookup("cell_type", list(cl.ids)).tolist(), strict=True))

    def tissues(term: str) -> set[int]:
        own = {t for above in cl.ancestors(term, include_self=True) for t in part.get(node_of[above], [])}
        return own | {up for t in own if t in tissue for up in nx.descendants(tissue, t)}

    every = [tissues(t) for t in terms]
    placed = sum(bool(e) for e in every)
    count = pd.Series([t for e in every for t in e]).value_counts().to_dict()
    rarity = {t: np.log((1 + placed) / (1 + n)) for t, n in count.items()}
    mean: dict[int, float] = {}
    for p in places[:3]:
        for t in every[p]:
            mean[t] = mean.get(t, 0.0) + rarity[t] / 3
    alpha, neuron, islet = (
        row[cl.resolve(n).term_id] for n in ("pancreatic A cell", "Purkinje cell", "enteroendocrine cell")
    )
    for i in (alpha, neuron, islet, row["CL:0000084"]):
        dot = sum(rarity[t] * mean.get(t, 0.0) for t in every[i])
        norm = np.sqrt(sum(rarity[t] ** 2 for t in every[i]) * sum(v**2 for v in mean.values()))
        assert found[i, 0] == pytest.approx(dot / norm if norm else 0.0, abs=1e-5)
        special = {t for t in every[i] if rarity[t] > 3}
        assert found[i, 1] == (bool(special) and not special & {t for p in places[:3] for t in every[p]})
        below = {terms[p] for p in places[:3]}
        assert found[i, 2] == any(terms[i] in cl.ancestors(t, include_self=True) for t in below)
        assert found[i, 3] == any(t in cl.ancestors(terms[i], include_self=True) for t in below)
        assert found[i, 4] == pytest.approx(abs(cl.depth(terms[i]) - np.mean([cl.depth(t) for t in below])))
    odds = company(places)
    np.testing.assert_allclose(odds, found @ COMPANY_WEIGHTS)
    assert odds[alpha] > odds[islet] > odds[neuron]
    assert not company(np.array([-1])).any()


def test_a_graph_without_tissues_says_nothing_of_them(ontology: Ontology) -> None:
    bare = KnowledgeGraph.build(Terms(ontology, "cell_type"))
    features = Company(bare, ontology, terms_of(ontology)).features(np.array([0, 1]))
    assert not features[:, :2].any()
    assert features[:2, 2].all()  # a training type stands above itself


def test_genes_are_named_after_types(graph: KnowledgeGraph, cl: Ontology) -> None:
    symbols = ["NKG7", "BLNK", "TRAC", "PF4", "MARCO", "FGF1", "PDGFRB", "INS", "BTG1"]
    nodes = graph.lookup("gene", symbols)
    column = np.full(len(graph), -1, dtype=np.int64)
    column[nodes] = np.arange(len(symbols))
    ids = list(cl.ids)
    found = named_genes(graph, cl, ids, column, len(symbols)).toarray()
    for name, gene in (
        ("natural killer cell", "NKG7"), ("B cell", "BLNK"), ("T cell", "TRAC"), ("platelet", "PF4"), ("macrophage", "MARCO"),
    ):  # fmt: skip
        row = found[ids.index(cl.resolve(name).term_id)]
        assert row[symbols.index(gene)] == 1
        assert (row > 0).sum() == 1, name
    fibroblast = found[ids.index(cl.resolve("fibroblast").term_id)]
    assert not fibroblast.any()  # "fibroblast growth factor" is no gene of fibroblasts
