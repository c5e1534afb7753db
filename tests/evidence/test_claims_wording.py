"""The evidence template reads back what it writes."""

from __future__ import annotations

import numpy as np
import pytest

from sclm.evidence import Said, describe_cell, describe_group, read_statements
from sclm.evidence.claims_wording import article, join, plural
from sclm.knowledge import KnowledgeGraph, Ontology, Pathways


@pytest.mark.parametrize("level", ["cell", "group"])
def test_random_descriptions_are_read_back(level: str) -> None:
    rng = np.random.default_rng(0)
    cl, sets = Ontology.load("cl"), Pathways.load("default")
    symbols = ["LYZ", "HLA-DRA", "CD3E", "S100A9", "MT2A", "IGHV3-23", "C1orf54"]
    for _ in range(500):
        identity = cl.names[rng.integers(len(cl))] if rng.random() < 0.9 else ""
        genes = list(rng.permutation(symbols)[: rng.integers(0, 7)])
        cut = int(rng.integers(0, len(genes) + 1))
        phrases = [sets.phrases[i] for i in rng.choice(len(sets), rng.integers(0, 4), replace=False)]
        metadata = {}
        if rng.random() < 0.5:
            metadata["tissue"] = {"blood": 1.0} if rng.random() < 0.5 else {"lung": 0.6, "lymph node": 0.4}
        if rng.random() < 0.5:
            metadata["disease"] = {"normal": 1.0} if rng.random() < 0.5 else {"COVID-19": 0.7, "normal": 0.3}
        said = Said(
            identity, str(rng.choice(["kept", "softened"])) if identity else "removed", markers=genes[:cut], n_raised=cut, n_markers=cut + int(rng.integers(0, 3)),
            genes=genes[cut:], pathways=[(p, float(10 ** -rng.uniform(1.5, 8))) for p in phrases], metadata=metadata,
        )  # fmt: skip
        text = describe_cell(said) if level == "cell" else describe_group(said, "a. b, c", 1200, 0.31)
        found = read_statements(text, row=4)
        assert {s.row for s in found} <= {4}
        of = {k: [s.value for s in found if s.kind == k] for k in ("identity", "gene", "pathway", "tissue", "disease")}
        named = [identity] if identity else []
        assert "donors with normal" not in text
        assert of["identity"] == ([plural(n) for n in named] if level == "group" else named), text
        assert of["gene"] == (genes if identity else genes[cut:]), text
        assert of["pathway"] == phrases, text
        assert of["tissue"] == list(metadata.get("tissue", ())), text
        assert of["disease"] == list(metadata.get("disease", ())), text


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("CD4-positive, alpha-beta T cell", "CD4-positive, alpha-beta T cells"),
        (
            "CD16-negative, CD56-bright natural killer cell, human",
            "CD16-negative, CD56-bright natural killer cells, human",
        ),
        ("group 2 innate lymphoid cell, mouse", "group 2 innate lymphoid cells, mouse"),
        (
            "effector memory CD8-positive, alpha-beta T cell, terminally differentiated",
            "effector memory CD8-positive, alpha-beta T cells, terminally differentiated",
        ),
        ("lymphocyte of B lineage, CD19-positive", "lymphocytes of B lineage, CD19-positive"),
        ("B cell, CD19-positive", "B cells, CD19-positive"),
        ("fibroblast of lung", "fibroblasts of lung"),
        ("immature NK T cell stage III, mouse", "immature NK T cells stage III, mouse"),
        ("sst GABAergic interneuron (Homo sapiens)", "sst GABAergic interneurons (Homo sapiens)"),
    ],
)
def test_the_noun_is_what_gets_the_plural(one: str, many: str) -> None:
    assert plural(one) == many


def test_plurals_of_all_types_with_markers_resolve_to_the_same_term() -> None:
    cl, graph = Ontology.load("cl"), KnowledgeGraph.default()
    types = np.unique(graph.edges["gene-marks-cell_type"][1])
    twins = ("Bm2 B cell", "Bm2' B cell", "fraction C precursor B cell", "fraction C' precursor B cell")
    names = [cl.name_of(term) for term in graph.nodes["id"].iloc[types]]
    assert len(names) > 700
    wrong = {n: found for n in names if (found := cl.resolve(plural(n), min_score=0.9).name) != n}
    assert set(wrong) <= set(twins)  # differ by an apostrophe alone
    assert set(wrong.values()) <= {None}


def test_a_label_that_is_not_supported_is_no_statement() -> None:
    text = describe_group(Said("B cell", "removed", instead="monocyte"), "3", 10, 0.1)
    assert text == (
        'Group "3" (10 cells, 10 % of all) is labelled B cell, which its markers do not support; its markers are consistent with monocytes.'
    )
    assert [s.value for s in read_statements(text)] == ["monocytes"]
    assert "not verifiable" in describe_cell(Said("odd cell", "not verifiable"))


@pytest.mark.parametrize(
    ("disease", "words"),
    [
        ({"normal": 0.57, "lupus": 0.43}, "donors without known disease (57 %) and from donors with lupus (43 %)"),
        ({"lupus": 0.6, "ctrl": 0.4}, "donors with lupus (60 %) and from donors without known disease (40 %)"),
        ({"lupus": 0.25}, "donors with lupus (25 %)"),
        ({"normal": 0.25}, "donors without known disease (25 %)"),
        ({"control": 1.0}, "donors without known disease (control)"),
        ({"Healthy donor": 0.5, "non-diseased": 0.5}, "donors without known disease"),
    ],
)
def test_donors_without_disease_are_said_apart(disease: dict[str, float], words: str) -> None:
    text = describe_cell(Said("B cell", "kept", metadata={"tissue": {"blood": 1.0}, "disease": disease}))
    assert text.endswith(f"it comes from blood and from {words}.")
    found = [s.value for s in read_statements(text) if s.kind == "disease"]
    assert found == (["normal"] if "lupus" not in disease else ["lupus" if d == "lupus" else "normal" for d in disease])


def test_a_group_of_one_cell() -> None:
    text = describe_group(Said(metadata={"tissue": {"blood": 1.0}}), "7", 1, 0.01)
    assert text.endswith("According to the metadata, the cell comes from blood.")
    assert [s.value for s in read_statements(text)] == ["blood"]


def test_small_words() -> None:
    assert [article(n) for n in ("B cell", "alpha cell", "eukaryotic cell", "unipolar neuron", "oocyte", "urothelial cell", "umbrella cell")] == [
        "a B cell", "an alpha cell", "a eukaryotic cell", "a unipolar neuron", "an oocyte", "a urothelial cell", "an umbrella cell",
    ]  # fmt: skip
    assert join(["a"]) == "a"
    assert join(["a", "b", "c"]) == "a, b and c"
    assert plural("cell body") == "cell bodies"
