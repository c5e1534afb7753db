"""Wording, template, parser and corpus of descriptions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from sclm import texts
from sclm.texts import CellFacts
from sclm.texts.template import with_article

if TYPE_CHECKING:
    from pathlib import Path

TYPES = [
    "CD4-positive, alpha-beta T cell",
    "T cell",
    "neuron",
    "cell",
    "alpha cell",
    "CD14-positive, CD16-negative monocyte",
]
TISSUES = ["blood", "cortex of kidney", "upper lobe of lung", "lung", "bone marrow"]
DISEASES = ["COVID-19", "type 2 diabetes mellitus", "Crohn disease", "disease with long name of the lung"]
SETS = [
    "HALLMARK_INTERFERON_ALPHA_RESPONSE",
    "IL-2 Family Signaling",
    "Complement cascade",
    "Signaling by ROBO receptors",
]
DEFINITIONS = ["mature T cell, of the alpha-beta kind. It expresses CD4", "cell of a nervous system", ""]


def random_facts(rng: np.random.Generator) -> CellFacts:
    def one_of(values: list[str], blank: float = 0.25) -> str:
        return "" if rng.random() < blank else str(rng.choice(values))

    cell_type = one_of(TYPES, 0.1)
    tissue, sex, age = one_of(TISSUES), one_of(["male", "female"]), one_of(list(texts.AGES))
    disease = one_of([*DISEASES, "normal", "normal"])
    definition = one_of(DEFINITIONS, 0.3) if cell_type else ""
    pathways = tuple(rng.choice(SETS, rng.integers(0, 3), replace=False).tolist())
    return CellFacts(cell_type, definition, tissue, sex, disease, age, pathways)


def test_a_thousand_descriptions_are_read_back() -> None:
    rng = np.random.default_rng(0)
    own = {SETS[1]: "Genes that IL-2, IL-7 and other cytokines of one family switch on."}
    candidates = {"cell_types": TYPES, "tissues": TISSUES, "diseases": DISEASES, "pathways": SETS}
    for _ in range(1000):
        facts = random_facts(rng)
        text = texts.describe_template(facts, pathway_texts=own)
        assert texts.parse_template(text, pathway_texts=own, **candidates) == facts, text


def test_without_candidates_fields_but_commas_survive() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        facts = random_facts(rng)._replace(cell_type="neuron", pathways=())
        assert texts.parse_template(texts.describe_template(facts)) == facts
    cut = texts.parse_template("This sample consists of a CD4-positive, alpha-beta T cell.")
    assert (cut.cell_type, cut.definition) == ("CD4-positive", "alpha-beta T cell")


def test_the_template_of_the_paper_word_by_word() -> None:
    facts = CellFacts(
        "B cell", "lymphocyte of B lineage", "lymph node", "female", "COVID-19", "middle age", ("A_B", "Complement cascade")
    )  # fmt: skip
    found = texts.describe_template(facts, pathway_texts={"A_B": "Genes of the inflammation."})
    assert found == (
        "This sample consists of a B cell, lymphocyte of B lineage. It originates from the lymph node of a female with COVID-19 during "
        "middle age. This cell is associated with Genes of the inflammation. Additionally, it involves Complement cascade."
    )
    assert texts.describe_template(CellFacts("alpha cell", disease="normal")) == (
        "This sample consists of an alpha cell. It originates from a normal individual."
    )
    # nothing known of the donor: nothing is said of it
    assert texts.describe_template(CellFacts("uterine cell")) == "This sample consists of a uterine cell."


def test_longest_candidate_and_unknown_names() -> None:
    text = "This sample consists of a T cell of the thymus. It originates from the moon of a female with a cold."
    found = texts.parse_template(text, cell_types=["T cell", "B cell"], tissues=TISSUES, diseases=DISEASES)
    assert (found.cell_type, found.tissue, found.disease, found.sex) == ("unknown", "unknown", "unknown", "female")
    assert texts.parse_template("Nothing of the kind.", cell_types=TYPES).cell_type == "unknown"
    assert texts.parse_template("", cell_types=TYPES).tissue == ""


def test_descriptions_of_pathways_may_differ_a_little() -> None:
    words = "Genes up-regulated in response to alpha interferon proteins, which the innate immune system makes."
    text = f"This sample consists of a T cell. This cell is associated with {words.replace('which', 'whom')}"
    found = texts.parse_template(
        text, pathways=["IFN", "other"], pathway_texts={"IFN": words, "other": "Genes of the other."}
    )
    assert found.pathways == ("IFN",)
    assert (
        texts.parse_template(
            text.replace("alpha", "gamma and beta"), pathways=["IFN"], pathway_texts={"IFN": words}
        ).pathways
        == ()
    )


def test_names_become_terms(ontology) -> None:
    table = texts.parse_many(
        ["This sample consists of a CD4 T cell.", "This sample consists of a xyzzy."],
        ontologies={"cell_type": ontology},
    )
    assert table["cell_type_ontology_term_id"].tolist() == ["CL:0000624", "unknown"]
    assert table["cell_type_match"].tolist()[1] == "none"
    with pytest.raises(ValueError, match="'sex'"):
        texts.parse_many([], ontologies={"sex": ontology})


@pytest.mark.parametrize(
    ("value", "phrase"),
    [
        (0.5, "infancy"), (2, "early childhood"), (4.9, "early childhood"), (5, "childhood"), (15, "adolescence"), (20, "young adulthood"),
        (30, "adulthood"), (50, "middle age"), (65, "elderly stage"), (80, "advanced elderly stage"), ("34-year-old stage", "adulthood"),
        ("34-year-old human stage", "adulthood"), ("60", "middle age"), ("15-19 year-old", "adolescence"),
        ("fifth decade stage", "adulthood"), ("eighth decade human stage", "elderly stage"), ("newborn stage (0-28 days)", "infancy"),
        ("7-month-old stage", "infancy"), ("80 year-old and over stage", "advanced elderly stage"), ("Carnegie stage 20", "early embryonic stage"),
        ("14th week post-fertilization stage", "late embryonic stage"), ("7th week post-fertilization stage", "early embryonic stage"),
        ("fetal stage", "late embryonic stage"), ("adult stage", "adulthood"), ("young adult stage", "young adulthood"),
        ("middle aged stage", "middle age"), ("adolescent stage", "adolescence"), ("unknown", ""), (None, ""), (float("nan"), ""), ("blue", ""),
    ],
)  # fmt: skip
def test_ages(value: object, phrase: str) -> None:
    assert texts.age_phrase(value) == phrase


def test_ages_out_of_range_and_other_words() -> None:
    with pytest.raises(ValueError, match="found 150"):
        texts.age_phrase(150)
    assert [texts.sex_phrase(v) for v in ("F", "male", "unknown", None)] == ["female", "male", "", ""]
    assert texts.tissue_phrase("lung: upper lobe, left") == "upper lobe"
    assert texts.disease_phrase(pd.NA if False else float("nan")) == ""
    assert texts.disease_phrase("PATO:0000461") == "normal"


def test_facts_of_metadata(ontology) -> None:
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical(["CD4 T", "my cells", None]),
            "tissue_general": ["blood", "unknown", "lung"],
            "disease": ["normal", None, "COVID-19"],
            "age": [40, np.nan, 1],
        }
    )
    activity = pd.DataFrame({"A": [0.1, 0.5, 0.0], "B": [0.3, 0.5, 0.0], "C": [0.2, 0.1, 0.0]})
    found = texts.cell_facts(obs, ontology=ontology, pathways=activity)
    assert found[0].cell_type == "CD4-positive, alpha-beta T cell"
    assert not found[0].definition.startswith(("A ", "An "))
    assert not found[0].definition.endswith(".")
    assert found[0][2:] == ("blood", "", "normal", "adulthood", ("B", "C"))
    assert found[1] == CellFacts("my cells", pathways=("A", "B"))
    assert found[2] == CellFacts("", "", "lung", "", "COVID-19", "infancy", ())
    with pytest.raises(KeyError, match="'label'"):
        texts.cell_facts(obs, label_key="label")
    with pytest.raises(ValueError, match="found 2"):
        texts.cell_facts(obs, pathways=activity[:2])


@pytest.fixture
def atlas() -> pd.DataFrame:
    """20,000 cells of 60 donors; types, diseases and tissues of very different sizes."""
    rng = np.random.default_rng(0)
    n = 20_000
    donors = np.array([f"d{i}" for i in rng.choice(60, n, p=rng.dirichlet(np.ones(60)))])
    disease_of = {f"d{i}": ["normal"] * 8 + ["COVID-19", "asthma"] for i in range(60)}
    number = np.array([int(d[1:]) for d in donors])
    return pd.DataFrame(
        {
            "cell_type": [
                f"type {i}" for i in rng.choice(40, n, p=0.8 ** np.arange(40) / (0.8 ** np.arange(40)).sum())
            ],
            "donor_id": donors,
            "disease": [disease_of[d][i % 10] for d, i in zip(donors, number, strict=True)],
            "tissue": rng.choice(["blood", "brain", "lung", "gut", "eye"], n, p=[0.6, 0.3, 0.08, 0.019, 0.001]),
            "sex": np.where(number % 2, "male", "female"),
        }
    )


def test_chosen_cells_are_balanced(atlas: pd.DataFrame) -> None:
    rows = texts.choose_cells(atlas, 2000, seed=1)
    assert len(rows) == len(set(rows)) == 2000
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(rows, texts.choose_cells(atlas, 2000, seed=1))
    chosen = atlas.iloc[rows]
    rare = atlas["cell_type"].value_counts().index[-20:]
    assert chosen["cell_type"].isin(rare).mean() > 4 * atlas["cell_type"].isin(rare).mean()
    assert (chosen["tissue"] == "eye").sum() == (atlas["tissue"] == "eye").sum()  # the rare tissue, all of it
    assert len(texts.choose_cells(atlas[:50], 80)) == 50
    with pytest.raises(ValueError, match="found 0"):
        texts.choose_cells(atlas, 0)


def test_splits_share_no_donor_and_train_has_every_value(atlas: pd.DataFrame) -> None:
    split = texts.split_donors(atlas, seed=3)
    donors = atlas.groupby(split)["donor_id"].agg(set)
    assert not donors["train"] & donors["test"]
    assert not donors["train"] & donors["validation"]
    assert not donors["test"] & donors["validation"]
    for field in ("cell_type", "disease", "tissue"):
        values = atlas.groupby(split)[field].agg(set)
        assert values["train"] >= values["test"] | values["validation"]
    shares = pd.Series(split).value_counts(normalize=True)
    assert shares["test"] <= 0.11
    assert shares["validation"] <= 0.11
    assert shares["train"] < 0.95
    with pytest.raises(ValueError, match="at least two"):
        texts.split_donors(atlas[atlas["donor_id"] == "d1"])


def test_a_corpus_is_written_and_read(simulate, ontology, tmp_path: Path) -> None:
    adata = simulate(300)
    adata.obs["donor_id"] = [f"donor {i % 10}" for i in range(300)]
    adata.obs["tissue"], adata.obs["development_stage"] = "blood", "34-year-old stage"
    adata.obs.loc[adata.obs_names[:4], "cell_type"] = np.nan
    before = adata.copy()
    activity = pd.DataFrame(np.random.default_rng(0).random((300, 3)), columns=["A", "B", "C"], index=adata.obs_names)
    corpus = texts.write_corpus(adata, tmp_path / "c", ontology=ontology, pathways=activity, seed=2)
    assert corpus.table["n_cells"].sum() == 296
    assert corpus.table["n_donors"].tolist() == [8, 1, 1]
    assert corpus.table.loc["train", "diversity_cell_type"] == pytest.approx(1, abs=1e-3)
    train = texts.read_corpus(tmp_path / "c")
    assert train["text"].str.startswith("This sample consists of a").all()
    assert train["text"].str.contains("It originates from the blood of an individual during adulthood").all()
    again = texts.parse_many(train["text"], cell_types=list(train["cell_type"].unique()), pathways=["A", "B", "C"])
    assert again["cell_type"].tolist() == train["cell_type"].tolist()
    assert [list(p) for p in again["pathways"]] == train["pathways"].tolist()
    np.testing.assert_array_equal(adata.obs_names[train["row"]], train["cell"])
    assert json.loads((tmp_path / "c" / "corpus.json").read_text())["seed"] == 2
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    with pytest.raises(FileExistsError):
        texts.write_corpus(adata, tmp_path / "c")
    with pytest.raises(FileNotFoundError, match=r"train\.jsonl"):
        texts.read_corpus(tmp_path)
    with pytest.raises(ValueError, match="found 'all'"):
        texts.read_corpus(tmp_path / "c", "all")


def test_articles_follow_the_sound() -> None:
    names = ("urothelial cell", "eukaryotic cell", "unipolar neuron", "umbrella cell", "oocyte", "B cell")
    assert [with_article(n).split()[0] for n in names] == ["a", "a", "a", "an", "an", "a"]
