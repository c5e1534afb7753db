"""What texts say of genes, what is expected of terms without markers, prototypes, and how it becomes probabilities."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from sclm.knowledge import KnowledgeGraph, Ontology, Pairs, Terms
from sclm.models.celltosg.discriminant import Discriminant, to_length
from sclm.models.celltosg.evidence import Fit, Prototypes, fit_terms, predict_keys
from sclm.models.celltosg.mentions import mentions
from sclm.models.celltosg.mixture import (
    NOVELTY_WEIGHTS,
    SeenWeights,
    choose,
    fit_novelty,
    novelty,
    novelty_features,
    open_scores,
)
from sclm.models.celltosg.prior import usage_prior
from sclm.models.celltosg.signatures import Signatures, SignatureTable

T_CELL, CD4, CD8, B_CELL, NK, MONOCYTE = (
    "CL:0000084", "CL:0000624", "CL:0000625", "CL:0000236", "CL:0000623", "CL:0000576",
)  # fmt: skip
GENES = ["CD3E", "CD4", "CD8A", "MS4A1", "CD79A", "NKG7", "GNLY", "LYZ", "CD14", "INS"]


def test_texts_speak_of_genes() -> None:
    assert mentions("A patrolling monocyte that is CD14-low and CD16-positive.")["CD14"] == -0.5
    assert mentions("These cells are CD3-negative, CD19-negative and CD34-positive.") == {
        "CD3D": -1.0, "CD3E": -1.0, "CD3G": -1.0, "CD19": -1.0, "CD34": 1.0,
    }  # fmt: skip
    said = mentions("A monocyte that expresses CD14 and is negative for the lineage markers CD3, CD19, and CD20.")
    assert said["CD14"] > 0
    assert said["MS4A1"] == said["CD19"] == -1
    assert mentions("A cell that secretes insulin.", {"insulin": "INS"}) == {"INS": 0.7}
    assert mentions("A cell with CD45RA and DNA, of type II.") == {}
    assert mentions("CD25-negative T cell", among={"CD4"}) == {}


@pytest.fixture(scope="module")
def graph(ontology: Ontology) -> KnowledgeGraph:
    marks = pd.DataFrame(
        {"gene": ["CD3E", "CD3E", "CD4", "MS4A1", "CD79A", "NKG7", "LYZ"], "type": [T_CELL, CD4, CD4, B_CELL, B_CELL, NK, MONOCYTE]}
    )  # fmt: skip
    return KnowledgeGraph.build(
        Terms(ontology, "cell_type"), Pairs(marks, "gene-marks-cell_type", name="markers"), genes=GENES
    )


@pytest.fixture(scope="module")
def table(graph: KnowledgeGraph, ontology: Ontology) -> SignatureTable:
    return SignatureTable(graph, ontology, list(ontology.ids), graph.lookup("gene", GENES))


def test_terms_without_markers_have_those_of_their_relatives(table: SignatureTable, ontology: Ontology) -> None:
    markers, text = table.all.markers, table.all.text
    assert text.shape == markers.shape == (len(ontology), len(GENES))
    for rows in (text, markers):
        length = np.linalg.norm(rows, axis=1)
        assert (np.isclose(length, 1, atol=1e-5) | (length == 0)).all()
    cd8 = markers[ontology.index(CD8)]
    assert cd8[GENES.index("CD3E")] > 0.5
    assert cd8[GENES.index("MS4A1")] < 0.1
    assert text[ontology.index(CD8), GENES.index("CD8A")] > 0.5  # its name says so
    lymphocyte = ontology.resolve("lymphocyte").term_id
    assert markers[ontology.index(lymphocyte)].sum() > 0  # from below


def test_withheld_markers_are_those_of_a_graph_without_them(
    table: SignatureTable, graph: KnowledgeGraph, ontology: Ontology
) -> None:
    again = SignatureTable(
        graph.without_markers_of([B_CELL]), ontology, list(ontology.ids), graph.lookup("gene", GENES)
    )
    held = table.without(B_CELL)
    np.testing.assert_array_equal(held.text, again.all.text)
    assert (held.named != again.all.named).nnz == 0
    row = ontology.index(B_CELL)
    assert held.markers[row, GENES.index("MS4A1")] == 0
    assert table.all.markers[row, GENES.index("MS4A1")] > 0
    # rarity of a marker is counted with the withheld terms: rows differ by that alone
    cosine = (held.markers * again.all.markers).sum(axis=1)
    assert cosine[np.linalg.norm(again.all.markers, axis=1) > 0].min() > 0.9


def test_the_usage_prior_prefers_what_is_common(ontology: Ontology) -> None:
    graph = KnowledgeGraph.default()
    ids = list(ontology.ids)
    held = graph.without_markers_of([B_CELL])
    prior = usage_prior(held, ontology, ids)
    obscure = ontology.resolve("CD38-negative naive B cell").term_id
    assert prior[ids.index(B_CELL)] > prior[ids.index(obscure)] + 2
    assert prior.max() <= 0
    bare = KnowledgeGraph.build(Terms(ontology, "cell_type"))
    assert not usage_prior(bare, ontology, ids).any()


def cells(seed: int = 0, n: int = 90) -> tuple[sparse.csr_matrix, np.ndarray]:
    rng = np.random.default_rng(seed)
    codes = np.arange(n) % 3
    means = np.full((3, len(GENES)), 0.4)
    means[0, :3], means[1, 3:5], means[2, 7:9] = 2.0, 2.5, 3.0
    return sparse.csr_matrix(
        np.maximum(means[codes] + rng.normal(0, 0.3, (n, len(GENES))), 0).astype(np.float32)
    ), codes


def test_prototypes_against_plain_statistics() -> None:
    x, codes = cells()
    dense = x.toarray().astype(np.float64)
    found = Prototypes.fit(x, codes, 4)  # the fourth type has no cell
    means = np.stack([dense[codes == c].mean(axis=0) for c in range(3)])
    within = np.sqrt(np.mean([dense[codes == c].var(axis=0) for c in range(3)], axis=0))
    np.testing.assert_allclose(found.centre, means.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(found.spread, np.maximum(within, 0.2), atol=1e-4)
    np.testing.assert_allclose(found.means[:3], (means - means.mean(axis=0)) / found.spread, atol=1e-4)
    assert not found.means[3].any()
    absent = np.zeros(len(GENES), dtype=bool)
    absent[0] = True
    assert not found.standardise(x, absent)[:, 0].any()


def test_profiles_move_along_the_graph(ontology: Ontology) -> None:
    """Types whose markers are up by 3: that of a type without cells is up as well, beside its kin's profile."""
    ids = [T_CELL, B_CELL, NK, MONOCYTE]
    markers = np.eye(4, len(GENES), dtype=np.float32)
    signatures = Signatures(np.zeros_like(markers), markers, sparse.csr_array(2 * markers))
    prototypes = Prototypes(
        np.zeros(len(GENES), np.float32), np.ones(len(GENES), np.float32), 3 * (markers[:3] - markers[:3].mean(axis=0))
    )
    lin = ontology.similarity_matrix(ids, ids[:3], "lin")
    keys = predict_keys(prototypes, lin, np.array([0, 1, 2]), signatures)
    np.testing.assert_array_equal(keys.profiles[:3], prototypes.means)
    assert 1 < keys.slopes[1] < 3  # 3, shrunken: four genes are little evidence
    assert keys.profiles[3, 3] > 1
    np.testing.assert_allclose(keys.kinship.sum(axis=1), 1, atol=1e-6)
    fit = fit_terms(np.eye(4, len(GENES), dtype=np.float32) * 3, keys, signatures)
    assert fit.profile.argmax(axis=1).tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(fit.named, 6 * np.eye(4), atol=1e-6)
    np.testing.assert_allclose(
        fit.profile[3, 1], 3 * keys.profiles[1, 3] - (keys.profiles[1] ** 2).sum() / 2, rtol=1e-4
    )


def test_the_discriminant_is_a_softmax_regression() -> None:
    x, codes = cells(1, 150)
    found = Discriminant.fit(x, codes, 3)
    peer = LogisticRegression(C=1 / (0.01 * 150), max_iter=2000, tol=1e-8).fit(to_length(x).toarray(), codes)
    a = found.scores(x)
    b = peer.decision_function(to_length(x).toarray())
    np.testing.assert_allclose(a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True), atol=0.05)
    assert (a.argmax(axis=1) == codes).mean() > 0.95


def test_weights_follow_what_is_right() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 300)
    good = 3 * np.eye(4)[truth] + rng.normal(0, 1, (300, 4))
    noise = [rng.normal(0, 1, (300, 4)) for _ in range(3)]
    weights = SeenWeights.fit(good, *noise, truth=truth)
    assert weights.language > 5 * max(weights.contrast, weights.profile, weights.discriminant)
    assert (weights.scores(good, *noise).argmax(axis=1) == truth).mean() > 0.9


def test_novelty_is_learnt_from_rehearsal_and_begins_at_its_default() -> None:
    assert fit_novelty(np.zeros((0, 4)), np.zeros(0, dtype=bool)).tolist() == NOVELTY_WEIGHTS.tolist()
    rng = np.random.default_rng(0)
    new = np.arange(400) < 200
    features = np.column_stack(
        [np.ones(400), np.where(new, 2.0, -2.0) + rng.normal(0, 1, 400), np.zeros(400), np.zeros(400)]
    )
    weights = fit_novelty(features, new)
    chance = novelty(features, weights, 0.5)
    assert ((chance > 0.5) == new).mean() > 0.95
    assert novelty(features, weights, 0.01).mean() < chance.mean()


def test_open_scores_and_features_as_written() -> None:
    rng = np.random.default_rng(0)
    fit = Fit(*(rng.normal(0, 20, (5, 6)).astype(np.float32) for _ in range(4)))
    prior, company, seen = rng.normal(-2, 1, 6), rng.normal(0, 1, 6), rng.dirichlet(np.ones(2), 5)
    kin = rng.random((6, 2))
    scores = open_scores(fit, prior, company, seen, kin, np.array([0.1, 0.2, 0.3, 0.4, 2.0, 1.0]))
    expected = 0.1 * fit.profile[2, 4] + 0.2 * fit.text[2, 4] + 0.3 * fit.markers[2, 4] + 0.4 * fit.named[2, 4]
    expected += 2 * prior[4] + company[4]
    assert scores[2, 4] == pytest.approx(expected + np.log(seen[2] @ kin[4] + 1e-3), rel=1e-5)
    fresh = np.array([False, False, True, True, True, True])
    features = novelty_features(fit, np.zeros(6), fresh, np.array([0, 1]), seen)
    assert features.shape == (5, 4)
    assert (features[:, 0] == 1).all()
    np.testing.assert_allclose(features[:, 3], 1 - seen.max(axis=1))


def test_an_undecided_answer_is_what_stands_nearest() -> None:
    kin = np.array([[1, 0.1, 0.8], [0.1, 1, 0.8], [0.8, 0.8, 1]])
    p = np.array([[0.45, 0.45, 0.1], [0.9, 0.05, 0.05]])
    assert choose(p, kin, 0.0).tolist() == [0, 0]
    assert choose(p, kin, 10.0).tolist() == [2, 0]
