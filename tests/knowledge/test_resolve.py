from __future__ import annotations

import pytest

from sclm.knowledge import abbreviations
from sclm.knowledge.resolve import words


def test_rules_name_the_terms_they_mean(cl):
    rules = abbreviations.rules()
    assert len({(required, allowed) for _, required, allowed, _ in rules}) == len(rules)
    for term, _, _, name in rules:
        assert cl.name_of(term) == name


@pytest.mark.parametrize(
    ("label", "term", "kind"),
    [
        ("CL:0000084", "CL:0000084", "id"),
        ("CL_0000084", "CL:0000084", "id"),
        ("http://purl.obolibrary.org/obo/CL_0000084", "CL:0000084", "id"),
        ("CL:0000739", "CL:0000043", "id"),  # retired
        ("T cell", "CL:0000084", "name"),
        ("T-lymphocyte", "CL:0000084", "synonym"),
        ("Treg", "CL:0000815", "synonym"),
        ("pDC", "CL:0000784", "synonym"),
        ("t CELLS", "CL:0000084", "normalised"),
        ("Tcells", "CL:0000084", "normalised"),
        ("Macrophages", "CL:0000235", "normalised"),
        ("γδ T cells", "CL:0000798", "normalised"),
        ("CD4-positive, αβ T cell", "CL:0000624", "normalised"),
        ("M\u00fcller cells", "CL:0000636", "normalised"),
        ("Kupffer", "CL:0000091", "normalised"),
        ("CD14+ Monocyte", "CL:0001054", "normalised"),
        ("CD14⁺ monocytes", "CL:0001054", "normalised"),
    ],
)
def test_kinds(cl, label, term, kind):
    match = cl.resolve(label)
    assert (match.text, match.term_id, match.kind, match.score) == (label, term, kind, 1.0)
    assert match.name == cl.name_of(term)


@pytest.mark.parametrize(
    ("label", "name"),
    [
        # the ten labels of the Zheng 2017 PBMCs inside scanpy
        ("CD4+/CD25 T Reg", "regulatory T cell"),
        ("CD4+/CD45RA+/CD25- Naive T", "naive thymus-derived CD4-positive, alpha-beta T cell"),
        ("CD4+/CD45RO+ Memory", "CD4-positive, alpha-beta memory T cell"),
        ("CD8+ Cytotoxic T", "CD8-positive, alpha-beta cytotoxic T cell"),
        ("CD8+/CD45RA+ Naive Cytotoxic", "naive thymus-derived CD8-positive, alpha-beta T cell"),
        ("CD14+ Monocyte", "CD14-positive monocyte"),
        ("CD19+ B", "B cell"),
        ("CD34+", "hematopoietic multipotent progenitor cell"),
        ("CD56+ NK", "natural killer cell"),
        ("Dendritic", "dendritic cell"),
        # those of the Seurat tutorial
        ("Naive CD4 T", "naive thymus-derived CD4-positive, alpha-beta T cell"),
        ("Memory CD4 T", "CD4-positive, alpha-beta memory T cell"),
        ("CD14+ Mono", "CD14-positive monocyte"),
        ("B", "B cell"),
        ("CD8 T", "CD8-positive, alpha-beta T cell"),
        ("FCGR3A+ Mono", "CD14-low, CD16-positive monocyte"),
        ("NK", "natural killer cell"),
        ("DC", "dendritic cell"),
        ("Platelet", "platelet"),
        # others
        ("CD4+ T", "CD4-positive, alpha-beta T cell"),
        ("CD4T", "CD4-positive, alpha-beta T cell"),
        ("T cell CD8", "CD8-positive, alpha-beta T cell"),
        ("CD4 TCM", "central memory CD4-positive, alpha-beta T cell"),
        ("CD8 TEM", "effector memory CD8-positive, alpha-beta T cell"),
        ("reg. T cell", "regulatory T cell"),
        ("Type 17 helper T cells", "T-helper 17 cell"),
        ("CD4+ T Helper2", "T-helper 2 cell"),
        ("Mega", "megakaryocyte"),
        ("mono", "monocyte"),
        ("Monocyte non-conventional", "non-classical monocyte"),
        ("CD16+ monocytes", "CD14-low, CD16-positive monocyte"),
        ("cDC2", "CD1c-positive myeloid dendritic cell"),
        ("HSC", "hematopoietic stem cell"),
        ("B_Plasma", "plasma cell"),
        ("NK_cycling", "natural killer cell"),
        ("T cell 2", "T cell"),
        ("Endothelial", "endothelial cell"),
        ("Fibroblast", "fibroblast"),
        ("Mast", "mast cell"),
        ("Fibroblast_1", "fibroblast"),
        ("NK_1", "natural killer cell"),
        ("Monocyte:3", "monocyte"),
        ("cl:0000084", "T cell"),
        ("alpha", "pancreatic A cell"),
        ("beta", "type B pancreatic cell"),
        ("ductal", "pancreatic ductal cell"),
        ("VSMC", "vascular associated smooth muscle cell"),
        ("tumor 5", "malignant cell"),
    ],
)
def test_labels_as_studies_write_them(cl, label, name):
    match = cl.resolve(label)
    assert match.name == name
    assert match.kind not in ("fuzzy", "none")


@pytest.mark.parametrize(
    "label",
    [
        "T/NK cell",
        "B/plasma",
        "Mono/DC",
        "CD4/CD8 T",
        "NK T cell",
        "DC1",
        "IPC",
        "blood",
        "unknown",
        "Unknown cells",
        "Doublets",
        "n/a",
        "12",
        "+",
        "K562",
        "CL:9999999",
        "CL:0000274",  # retired, its successor in another ontology
        "Patient1-specific",
        "Monocyte precursor",
        "Intestinal macrophages",
        "",
        None,
        float("nan"),
        7,
    ],
)
def test_rather_no_term_than_a_wrong_one(cl, label):
    match = cl.resolve(label)
    assert (match.term_id, match.name, match.kind, match.score) == (None, None, "none", 0.0)


def test_fuzzy_says_so(cl):
    match = cl.resolve("epithelal cell")
    assert (match.name, match.kind) == ("epithelial cell", "fuzzy")
    assert 0.8 <= match.score < 1
    assert cl.resolve("epithelal cell", min_score=0.99).kind == "none"
    assert cl.resolve("epithelal cell", min_score=1.0).kind == "none"
    with pytest.raises(ValueError, match="min_score"):
        cl.resolve("epithelal cell", min_score=0)


@pytest.mark.parametrize("label", ["CD9-positive, alpha-beta T cell", "group 4 innate lymphoid cell", "L7 VIP neuron"])
def test_fuzzy_never_changes_a_marker_or_a_number(cl, label):
    assert cl.resolve(label, min_score=0.5).kind == "none"


def test_every_name_and_synonym_comes_home(cl):
    names = set(cl.names)
    for term in cl.ids:
        assert cl.resolve(cl.name_of(term)).term_id == term
        for synonym in cl.synonyms(term):
            if synonym not in abbreviations.MISLEADING and synonym not in names:  # names go first
                assert cl.resolve(synonym).term_id == term
        # another case and an s may make two terms alike, but never turn one into another
        assert cl.resolve(cl.name_of(term).upper(), min_score=1.0).term_id in (term, None)


def test_table(cl):
    table = cl.resolve_many(["NK", None, "nonsense", "NK"])
    assert list(table.columns) == ["text", "term_id", "name", "kind", "score"]
    assert table["term_id"].tolist()[0] == "CL:0000623"
    assert table["kind"].tolist() == ["abbreviation", "none", "none", "abbreviation"]


def test_words():
    assert words("CD4+/CD45RA+/CD25- Naive T") == [
        "cd4",
        "positive",
        "cd45ra",
        "positive",
        "cd25",
        "negative",
        "naive",
        "t",
    ]
    assert words("CD4-positive, T-cells") == ["cd4", "positive", "t", "cell"]
    assert words("CD3+CD19\u2212") == ["cd3", "positive", "cd19", "negative"]
    assert words("β_cells") == ["beta", "cell"]


def test_ontologies_without_cells_use_no_cell_rules(toy):
    assert toy.resolve("T-lymphocytes").term_id == "TOY:0000003"
    assert toy.resolve("TOY:0000033").term_id == "TOY:0000003"
    assert toy.resolve("TOY:0000007").term_id == "TOY:0000003"
    assert toy.resolve("TOY:0000008").kind == "none"
    assert toy.resolve("NK").kind == "none"


@pytest.mark.real
def test_agrees_with_labels_mapped_by_hand(cl, real_data):
    import pandas as pd

    truth = pd.read_csv(real_data / "markers" / "label_to_CL.csv").drop_duplicates(["label", "CL_id"])
    found = cl.resolve_many(truth["label"])
    sure = ~found["kind"].isin(["fuzzy", "none"]).to_numpy()
    agree = (found["term_id"].to_numpy() == truth["CL_id"].to_numpy())[sure].mean()
    coverage = sure.sum() / truth["CL_id"].notna().sum()
    assert agree >= 0.95, f"agreement {agree:.3f}"
    assert coverage >= 0.78, f"coverage {coverage:.3f}"
