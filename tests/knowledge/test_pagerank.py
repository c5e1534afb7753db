from __future__ import annotations

import networkx as nx
import numpy as np
import pytest

from sclm.knowledge import pagerank


def undirected(ontology) -> nx.Graph:
    graph = nx.Graph()
    graph.add_nodes_from(range(len(ontology)))
    graph.add_edges_from((i, p) for i, above in enumerate(ontology.graph.parents) for p in above)
    return graph


def by_networkx(graph: nx.Graph, seed: int, alpha: float) -> np.ndarray:
    found = nx.pagerank(graph, alpha, personalization={seed: 1.0}, tol=1e-13, max_iter=5000)
    return np.array([found[j] for j in range(len(graph))])


@pytest.mark.parametrize("alpha", [0.5, 0.9])
def test_exact_rows_equal_networkx(tangled, alpha):
    graph = undirected(tangled)
    ours = tangled.pagerank(alpha=alpha)
    np.testing.assert_allclose(ours, [by_networkx(graph, i, alpha) for i in range(len(tangled))], atol=1e-10)
    rows = [tangled.ids[i] for i in (7, 0, 122, 7)]  # 122 has no edges at all
    np.testing.assert_allclose(tangled.pagerank(rows, alpha=alpha), ours[[7, 0, 122, 7]], atol=1e-14)


def test_cell_ontology_equals_networkx_on_sampled_seeds(cl):
    graph = undirected(cl)
    ours = cl.pagerank()
    np.testing.assert_allclose(ours.sum(axis=1), 1.0, atol=1e-12)
    for seed in (0, 100, 2000, len(cl) - 1):
        np.testing.assert_allclose(ours[seed], by_networkx(graph, seed, 0.9), atol=1e-8)
    degree = np.array([graph.degree[i] for i in range(len(cl))])
    balanced = degree[:, None] * ours  # detailed balance
    np.testing.assert_allclose(balanced, balanced.T, atol=1e-12)


def test_star_in_closed_form(ontology_of):
    n, a = 7, 0.9
    star = ontology_of([[], *([[0]] * n)]).pagerank(alpha=a)
    assert star[0, 0] == pytest.approx((1 - a) / (1 - a**2))
    assert star[0, 1] == pytest.approx(a * star[0, 0] / n)
    assert star[1, 0] == pytest.approx(a / (1 + a))
    assert star[1, 1] == pytest.approx((1 - a) + a**2 / ((1 + a) * n))
    assert star[1, 2] == pytest.approx(a**2 / ((1 + a) * n))


def test_push_stays_within_its_promise(tangled):
    exact = tangled.pagerank()
    rows = np.arange(len(tangled))
    degree = np.maximum(np.diff(tangled.graph.undirected.indptr), 1)
    for tolerance in (1e-4, 1e-7):
        missing = exact - pagerank.pushed_rows(tangled.graph, rows, 0.9, tolerance)
        assert (missing >= -1e-12).all()
        assert (missing <= tolerance * degree + 1e-12).all()


def test_top_rows_are_the_largest(tangled):
    exact = tangled.pagerank()
    top = tangled.pagerank(top=5)
    assert top.shape == exact.shape
    assert top.has_sorted_indices
    for i, row in enumerate(exact):
        kept = top[[i]].toarray().ravel()
        np.testing.assert_allclose(np.sort(kept[kept > 0])[::-1], np.sort(row)[::-1][: (kept > 0).sum()], rtol=1e-6)
        assert (kept > 0).sum() == min(5, (row > 0).sum())


def test_large_ontologies_keep_top_rows_only(tangled, monkeypatch):
    from sclm.knowledge import ontology as module

    reference = tangled.similarity_matrix(kind="pagerank")
    monkeypatch.setattr(module, "DENSE_LIMIT", 50)
    rows = tangled.pagerank(tangled.ids[:3])
    assert rows.shape == (3, len(tangled))
    assert not isinstance(rows, np.ndarray)
    # without the exact solver, by push: the similarity is the same to its tolerance
    pushed = pagerank.similarity(
        tangled.graph,
        None,
        pagerank.scale(tangled.graph, None),
        np.arange(len(tangled)),
        np.arange(len(tangled)),
        "row",
    )
    np.testing.assert_allclose(pushed, reference, atol=1e-2)
    monkeypatch.setattr(pagerank, "CORE_LIMIT", 0)
    assert pagerank.solver(tangled.graph, 0.9) is None


def test_similarity_follows_cell2text(tangled):
    graph = undirected(tangled)
    raw = np.array([by_networkx(graph, i, 0.9) for i in range(len(tangled))])
    t = np.log(1 + raw / 1e-4 + 1e-12)
    t = (t - t.min()) / (t.max() - t.min())
    np.fill_diagonal(t, 1.0)
    ours = tangled.similarity_matrix(kind="pagerank")
    np.testing.assert_allclose(ours, t, atol=1e-6)
    a, b = tangled.ids[3], tangled.ids[40]
    assert tangled.similarity(a, b, "pagerank") == pytest.approx(t[3, 40], abs=1e-6)
    assert tangled.similarity(a, b, "pagerank", direction="column") == pytest.approx(t[40, 3], abs=1e-6)
    assert tangled.similarity(a, b, "pagerank", direction="mean") == pytest.approx((t[3, 40] + t[40, 3]) / 2, abs=1e-6)


def test_bad_arguments(tangled):
    with pytest.raises(ValueError, match=r"alpha between 0 and 1, found 1\.0"):
        tangled.pagerank(alpha=1.0)
    with pytest.raises(ValueError, match="top of at least 1"):
        tangled.pagerank(top=0)
    with pytest.raises(ValueError, match="direction"):
        tangled.similarity_matrix(kind="pagerank", direction="up")
