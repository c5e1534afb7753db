"""Scores of texts against sacrebleu, scikit-learn, networkx and definitions written out."""

from __future__ import annotations

import functools
import math

import numpy as np
import pandas as pd
import pytest

from sclm.metrics import text

WORDS = [
    "a",
    "the",
    "T",
    "cell",
    "CD4-positive,",
    "alpha-beta",
    "blood.",
    "(2.5%)",
    "naive",
    "IL-2",
    "3,000",
    "of",
    "&amp;",
]


def sentences(n: int, seed: int, least: int = 1) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(least, 14))) for _ in range(n)]


@pytest.mark.parametrize("seed", range(5))
def test_bleu_and_chrf_are_those_of_sacrebleu(seed: int) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    truth, predicted = sentences(20, seed), sentences(20, seed + 100)
    predicted[0] = truth[0]
    assert text.bleu(truth, predicted) == pytest.approx(sacrebleu.corpus_bleu(predicted, [truth]).score / 100, abs=1e-9)
    for order in (1, 2):
        oracle = sacrebleu.BLEU(max_ngram_order=order).corpus_score(predicted, [truth]).score / 100
        assert text.bleu(truth, predicted, max_order=order) == pytest.approx(oracle, abs=1e-9)
    assert text.chrf(truth, predicted) == pytest.approx(sacrebleu.corpus_chrf(predicted, [truth]).score / 100, abs=1e-9)


@pytest.mark.parametrize(
    ("truth", "predicted"), [("a b c d e", "a b x y z"), ("T cell", "T cell"), ("abc", "x"), ("", "T cell"), ("T", "")]
)
def test_bleu_and_chrf_of_short_texts(truth: str, predicted: str) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    assert text.bleu([truth], [predicted]) == pytest.approx(sacrebleu.corpus_bleu([predicted], [[truth]]).score / 100)
    oracle = sacrebleu.corpus_chrf([predicted], [[truth]]).score / 100
    assert text.chrf([truth], [predicted]) == pytest.approx(oracle, abs=1e-9)


def slow_lcs(a: list[str], b: list[str]) -> int:
    @functools.cache
    def of(i: int, j: int) -> int:
        if not i or not j:
            return 0
        return of(i - 1, j - 1) + 1 if a[i - 1] == b[j - 1] else max(of(i - 1, j), of(i, j - 1))

    return of(len(a), len(b))


def test_rouge_is_the_longest_common_subsequence() -> None:
    truth, predicted = sentences(40, 1), sentences(40, 2)
    clean = [
        ["".join(c if c.isalnum() else " " for c in t.lower()).split() for t in part] for part in (truth, predicted)
    ]
    expected = [2 * slow_lcs(a, b) / (len(a) + len(b)) for a, b in zip(*clean, strict=True)]
    assert text.rouge_l(truth, predicted) == pytest.approx(np.mean(expected))
    long = [" ".join(map(str, range(200)))]
    assert text.rouge_l(long, long) == 1.0


def test_the_table_of_writers() -> None:
    truth = ["a T cell of the blood", "a B cell of the blood"]
    table = text.compare(truth, {"same": truth, "one text": truth[:1] * 2})
    assert table.loc["same", ["bleu", "rouge_l", "chrf"]].tolist() == [1.0, 1.0, 1.0]
    assert table["n_distinct"].tolist() == [2, 1]
    assert (table.loc["one text", ["bleu", "bleu_2", "rouge_l", "chrf"]] < 1).all()


def test_texts_are_refused_where_they_do_not_pair() -> None:
    with pytest.raises(ValueError, match="found 1 and 2"):
        text.bleu(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="at least one"):
        text.rouge_l([], [])
    with pytest.raises(TypeError, match="one text"):
        text.chrf("a", ["a"])


def test_entities() -> None:
    found = text.entity_f1([{"a", "b"}, set(), {"c"}], [{"a"}, set(), {"d", "c"}])
    assert found == {
        "precision": 2 / 3,
        "recall": 2 / 3,
        "f1": 2 / 3,
        "mean_f1": pytest.approx((2 / 3 + 1 + 2 / 3) / 3),
    }


def test_pagerank_similarity_in_all_variants(ontology) -> None:
    import networkx as nx

    graph = nx.Graph()
    graph.add_nodes_from(ontology.ids)
    graph.add_edges_from((t, p) for t in ontology.ids for p in ontology.parents(t))
    truth, guess = "CL:0000624", "CL:0000084"  # CD4 T cell, T cell

    def walk(start: str) -> dict[str, float]:
        return nx.pagerank(graph, alpha=0.9, personalization={start: 1}, tol=1e-12, max_iter=1000)

    share = walk(guess)[truth]
    assert text.pagerank_similarity([truth], [guess], ontology, variant="raw")[0] == pytest.approx(share, abs=1e-8)
    level = text.pagerank_similarity([truth], [guess], ontology, variant="scCello")[0]
    assert level == math.floor(math.log2(share / 1e-4 + 1))
    low, high = ontology._pagerank_scale  # over all pairs: the ends are tested with the ontology
    scaled = (math.log(1 + share / 1e-4 + 1e-12) - low) / (high - low)
    paper = text.pagerank_similarity([truth, truth], [guess, truth], ontology, variant="cell2text")
    assert paper.tolist() == [pytest.approx(scaled, abs=1e-6), 1.0]
    back = (math.log(1 + walk(truth)[guess] / 1e-4 + 1e-12) - low) / (high - low)
    ours = text.pagerank_similarity([truth], [guess], ontology)
    assert ours[0] == pytest.approx(back, abs=1e-6)


def test_ours_prefers_a_vague_true_answer_to_a_wrong_sibling(ontology) -> None:
    truth = ["CL:0000624"] * 2
    vague, sibling = text.pagerank_similarity(truth, ["CL:0000791", "CL:0000625"], ontology)
    assert vague > sibling
    assert text.pagerank_similarity(truth, [None, "no such cell"], ontology).tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="found 'lin'"):
        text.pagerank_similarity(truth, truth, ontology, variant="lin")


def test_pathways_are_scored_as_scikit_learn_does() -> None:
    from sklearn import metrics

    rng = np.random.default_rng(0)
    names = list("ABCDEF")
    truth = [set(rng.choice(names[:5], 2, replace=False)) for _ in range(60)]
    scores = rng.random((60, 6))
    predicted = [{names[i] for i in np.argsort(row)[-2:]} for row in scores]
    y, z = (np.array([[n in s for n in names] for s in sets]) for sets in (truth, predicted))
    found = text.pathways(truth, predicted, scores=scores, categories=names)
    assert found["subset_accuracy"] == pytest.approx(metrics.accuracy_score(y, z))
    assert found["jaccard"] == pytest.approx(metrics.jaccard_score(y, z, average="samples"))
    assert found["micro_f1"] == pytest.approx(metrics.f1_score(y, z, average="micro"))
    assert found["weighted_f1"] == pytest.approx(metrics.f1_score(y, z, average="weighted"))
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(y[:, :5], z[:, :5], average="macro"))
    assert found["auroc_macro"] == pytest.approx(metrics.roc_auc_score(y[:, :5], scores[:, :5], average="macro"))
    assert found["auroc_flat"] == pytest.approx(metrics.roc_auc_score(y.ravel(), scores.ravel()))
    assert found["n_pathways"] == 5
    assert math.isnan(text.pathways(truth, predicted)["auroc_flat"])
    with pytest.raises(ValueError, match="'F'"):
        text.pathways([{"F"}], [{"A"}], categories=["A"], scores=[[1.0]])


def test_statements_that_cannot_be_checked_count_neither_way() -> None:
    verdicts = ["kept"] * 6 + ["softened"] * 2 + ["removed"] * 2 + ["not verifiable"] * 10
    found = text.faithfulness(pd.DataFrame({"verdict": verdicts}))
    assert found == {"faithfulness": 0.6, "softened": 0.2, "removed": 0.2, "not_verifiable": 0.5, "n_statements": 20.0}
    assert math.isnan(text.faithfulness(pd.DataFrame({"verdict": ["not verifiable"]}))["faithfulness"])
    with pytest.raises(ValueError, match="'maybe'"):
        text.faithfulness(pd.DataFrame({"verdict": ["maybe"]}))


def test_retrieval_of_the_right_description() -> None:
    library = {
        "T": "lymphocyte that matures in the thymus and bears a T cell receptor",
        "B": "lymphocyte that secretes antibodies and bears surface immunoglobulin",
        "M": "phagocyte of the blood with a kidney-shaped nucleus",
    }
    found = text.retrieval(["T", "M"], ["a thymus-derived lymphocyte", "it makes antibodies"], library)
    assert found["top1"] == 0.5
    assert found["mean_reciprocal_rank"] == pytest.approx((1 + 1 / 3) / 2)
    assert found["chance"] == pytest.approx(1 / 3)
    # an empty text is as near to all: ties count against it
    assert text.retrieval(["T"], ["xyz"], library)["median_rank"] == 3
    cut = text.retrieval(["T"], ["thymus"], library, without={"T": ["Thymus"]})
    assert cut["top1"] == 0.0
    with pytest.raises(KeyError, match="'X'"):
        text.retrieval(["X"], ["x"], library)
