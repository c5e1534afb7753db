"""What a model knows about metadata, against slow versions and a small ontology whose truth is plain."""

from __future__ import annotations

import itertools
import json
import logging

import numpy as np
import pandas as pd
import pytest

from sclm.knowledge import Ontology, downloads
from sclm.knowledge.sources import Source
from sclm.knowledge.terms import TermTable
from sclm.models.pgl import conditions as module
from sclm.models.pgl import fields as fields_module
from sclm.models.pgl.combinations import distinct_rows
from sclm.models.pgl.conditions import UNSEEN_COMBINATION, Conditions
from sclm.models.pgl.lookup import NEW_DONOR

CD4, CD8 = "CD4-positive, alpha-beta T cell", "CD8-positive, alpha-beta T cell"


@pytest.fixture(scope="module")
def obs() -> pd.DataFrame:
    """Blood: B cells rest, T cells of two kinds in both conditions, cells without a donor."""
    return pd.DataFrame(
        {
            "cell_type": ["B cell", "B cell", CD4, CD4, CD8, "natural killer cell", "unknown"],
            "condition": ["rest", "rest", "rest", "stimulated", "stimulated", "rest", "rest"],
            "donor_id": ["D1", "D2", "D1", "D2", "D2", np.nan, ""],
        }
    )


@pytest.fixture(scope="module")
def blood(obs) -> Conditions:
    return Conditions.fit(obs, ["cell_type", "condition", "donor_id"])


def asked(**columns) -> pd.DataFrame:
    return pd.DataFrame(columns)


def toy(parents: dict[str, list[str]], synonyms: dict[str, tuple[str, ...]] | None = None) -> Ontology:
    table = TermTable()
    ids = {name: f"T:{i:04d}" for i, name in enumerate(parents)}
    for name, above in parents.items():
        table.add(ids[name], name, "", (synonyms or {}).get(name, ()), [ids[a] for a in above])
    return Ontology(Source(table, "toy", "test", ""))


# -- training values -----------------------------------------------------------------------------------------------


def test_values_counts_and_codes(blood: Conditions, obs: pd.DataFrame) -> None:
    field = blood["cell_type"]
    assert field.values == tuple(sorted(["B cell", CD4, CD8, "natural killer cell"]))
    assert dict(zip(field.values, field.n_cells, strict=True)) == {
        "B cell": 2,
        CD4: 2,
        CD8: 1,
        "natural killer cell": 1,
    }
    assert field.term_ids[0] == "CL:0000236"
    assert blood["donor_id"].values == ("D1", "D2")
    codes = blood.codes(obs)
    assert codes.dtype == np.int32
    for f, field in enumerate(blood.fields):
        expected = [field.values.index(v) if v in field.values else -1 for v in obs[field.name]]
        assert codes[:, f].tolist() == expected
    assert codes[-1].tolist() == [-1, 0, -1]
    assert (blood.codes(obs[["condition"]])[:, [0, 2]] == -1).all()


@pytest.mark.parametrize(
    "convert",
    [
        pytest.param(lambda s: s.astype("category"), id="category"),
        pytest.param(lambda s: s.astype("string"), id="string"),
        pytest.param(lambda s: pd.Series([f" {v} " for v in s]), id="blanks"),
        pytest.param(lambda s: s.replace("unknown", None), id="none"),
        pytest.param(lambda s: s.replace("unknown", "NaN"), id="text-nan"),
        pytest.param(lambda s: s.replace("unknown", "NA"), id="text-na"),
    ],
)
def test_how_a_column_is_stored_does_not_matter(obs, blood, convert) -> None:
    column = convert(obs["cell_type"])
    other = Conditions.fit(obs.assign(cell_type=column), list(obs))
    assert other == blood


@pytest.mark.parametrize("column", [[1, 2, 1], [True, False, True], pd.array([1, None, 2], dtype="Int64")])
def test_whole_numbers_and_booleans_are_texts(column) -> None:
    field = Conditions.fit(pd.DataFrame({"batch": column}), ["batch"])["batch"]
    assert set(field.values) in ({"1", "2"}, {"True", "False"})
    assert field.ontology is None
    assert field.n_nodes == field.n_values


@pytest.mark.parametrize(
    ("columns", "keys", "error", "match"),
    [
        ({"a": ["x"]}, [], ValueError, "at least one column"),
        ({"tissue": ["x"]}, ["tisue"], KeyError, "near: 'tissue'"),
        ({"a": ["x"]}, ["a", "a"], ValueError, "once"),
        ({"a": []}, ["a"], ValueError, "at least one cell"),
        ({"a": ["x", "y"], "age": [3.5, 4.0]}, ["age"], TypeError, "decimal number 3.5"),
        ({"age": pd.Categorical([3.5, 4.0])}, ["age"], TypeError, "decimal number"),
        ({"a": ["", "nan"]}, ["a"], ValueError, "no value in 2 cells"),
        ({"a": [np.nan, np.nan]}, ["a"], ValueError, "no value"),
        ({"n_counts": ["x"]}, ["n_counts"], ValueError, "meaning of its own"),
    ],
)
def test_bad_training_metadata(columns, keys, error, match) -> None:
    with pytest.raises(error, match=match):
        Conditions.fit(pd.DataFrame(columns), keys)


def test_names_of_cells_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(module, "MAX_VALUES", 3)
    with pytest.raises(ValueError, match=r"between 1 and 3 distinct values, found 4"):
        Conditions.fit(pd.DataFrame({"barcode": list("abcd")}), ["barcode"])


def test_ontologies_must_name_a_key() -> None:
    with pytest.raises(KeyError, match="'tissue', which is not among the keys 'a'"):
        Conditions.fit(pd.DataFrame({"a": ["x"]}), ["a"], ontologies={"tissue": None})


# -- nodes ---------------------------------------------------------------------------------------------------------


def test_nodes_are_the_distinct_sets_of_values_below_terms(ontology: Ontology) -> None:
    """Against sets made one by one; random cell types, two texts of one term, one text without a term."""
    rng = np.random.default_rng(0)
    values = [*np.array(ontology.names)[rng.choice(len(ontology), 60, replace=False)], "cluster 7", "B cell", "B cells"]
    field = Conditions.fit(pd.DataFrame({"cell_type": values}), ["cell_type"])["cell_type"]
    term_of = {v: ontology.resolve(v, min_score=1.0).term_id for v in field.values}
    assert field.term_ids == tuple(term_of[v] or "" for v in field.values)
    below: dict[str, set[int]] = {}
    for code, value in enumerate(field.values):
        for term in ontology.ancestors(term_of[value], include_self=True) if term_of[value] else ():
            below.setdefault(term, set()).add(code)
    plain = [frozenset([field.values.index(v)]) for v in ("cluster 7", "B cell", "B cells")]
    expected = {frozenset(s) for s in below.values()} | set(plain)
    dense = field.membership.toarray()
    assert field.membership.dtype == np.float32
    assert {frozenset(np.flatnonzero(column)) for column in dense.T} == expected
    assert len(expected) == field.n_nodes  # no two nodes alike
    for term in field.terms:  # merged terms lead to the node with their values
        assert set(field.values_of_node[term.node]) == below[term.id]
    assert {term.id for term in field.terms} == set(below)
    for node, (term, name) in enumerate(zip(field.node_ids, field.node_names, strict=True)):
        if term:  # named after the lowest term: nothing in the node is below it
            merged = {t.id for t in field.terms if t.node == node}
            assert not merged & ontology.descendants(term)
            assert name == ontology.name_of(term)
    for node, lineage in enumerate(field.node_lineage):  # parents first
        assert lineage[-1] == node
        for above in lineage:
            assert set(field.values_of_node[node]) <= set(field.values_of_node[above])
    for code in range(field.n_values):  # a value's row is its own node with all above
        own = field.value_nodes[code][-1]
        assert field.node_lineage[own] == field.value_nodes[code]


def test_two_texts_of_one_term_stay_apart_and_share_it() -> None:
    field = Conditions.fit(pd.DataFrame({"cell_type": ["B cell", "B cells", "T cell"]}), ["cell_type"])["cell_type"]
    assert field.term_ids[0] == field.term_ids[1] == "CL:0000236"
    first, second = (set(field.value_nodes[code]) for code in (0, 1))
    assert len(first - second) == len(second - first) == 1
    assert "B cell" in {field.node_names[node] for node in first & second}


def test_incomparable_terms_over_the_same_values_are_one_node() -> None:
    ontology = toy({"root": [], "p": ["root"], "q": ["root"], "a": ["p", "q"], "b": ["p", "q"], "c": ["root"]})
    obs = pd.DataFrame({"kind": ["a", "b", "c"]})
    fitted = Conditions.fit(obs, ["kind"], ontologies={"kind": ontology})
    assert fitted["kind"].n_nodes == 5  # root, {p, q}, a, b, c
    resolved = fitted.resolve(asked(kind=["p", "q"]))
    assert resolved.table["how"].tolist() == ["general", "general"]
    assert (resolved.nodes[0][0] != resolved.nodes[0][1]).nnz == 0


# -- JSON ----------------------------------------------------------------------------------------------------------


def test_json_keeps_everything(blood: Conditions, obs: pd.DataFrame) -> None:
    text = blood.to_json()
    again = Conditions.from_json(text)
    assert again == blood
    assert again.to_json() == text
    assert Conditions.fit(obs, list(obs)).to_json() == text
    assert again != Conditions.fit(obs, ["cell_type"])
    assert np.array_equal(again.codes(obs), blood.codes(obs))
    request = asked(cell_type=["T cell", "naive B cell"])
    for one, other in zip(blood.resolve(request)[1], again.resolve(request)[1], strict=True):
        assert (one != other).nnz == 0


@pytest.mark.parametrize("text", ['{"format": 2}', "[]"])
def test_json_of_another_format_is_refused(text) -> None:
    with pytest.raises(ValueError, match="format 1"):
        Conditions.from_json(text)


# -- requests ------------------------------------------------------------------------------------------------------


def test_seen_values_give_their_training_rows(blood: Conditions) -> None:
    request = asked(cell_type=[CD4, "B cell", CD4], condition=["rest", "rest", "rest"], n_counts=[900, 1000, 800.0])
    resolved = blood.resolve(request)
    assert resolved.combination.dtype == np.int64
    assert resolved.combination.tolist()[0] == resolved.combination.tolist()[2] != resolved.combination.tolist()[1]
    codes = resolved.codes[resolved.combination]
    assert np.array_equal(codes, blood.codes(request))
    assert codes.dtype == np.int32
    for f, field in enumerate(blood.fields[:2]):
        rows = resolved.nodes[f][resolved.combination]
        assert rows.dtype == np.float32
        assert np.array_equal(rows.toarray(), field.membership[codes[:, f]].toarray())
    assert resolved.nodes[2].shape == (2, blood["donor_id"].n_nodes)
    assert resolved.nodes[2].nnz == 0  # donor not asked for
    assert resolved.novelty.tolist() == [0, 0]
    assert resolved.warnings == ()


@pytest.mark.parametrize(
    "text", ["b CELL", "CL:0000236", "CL_0000236", "B-lymphocyte", "B lymphocyte", " B cell ", "B cells"]
)
def test_spellings_of_a_seen_value(blood: Conditions, text) -> None:
    resolved = blood.resolve(asked(cell_type=[text]))
    assert resolved.table.loc[0, ["name", "term_id", "how"]].tolist() == ["B cell", "CL:0000236", "seen"]
    assert resolved.codes[0, 0] == 0


@pytest.mark.parametrize("text", ["T cell", "CL:0000084", "T-lymphocyte", "t cell"])
def test_a_more_general_term(blood: Conditions, ontology: Ontology, text) -> None:
    resolved = blood.resolve(asked(cell_type=[text]))
    row = resolved.table.iloc[0]
    assert (row["how"], row["n_values"], row["novelty"], row["nearest"]) == ("general", 2, 0.0, CD4)
    field = blood["cell_type"]
    common = field.membership[field.values.index(CD4)].multiply(field.membership[field.values.index(CD8)])
    assert np.array_equal(resolved.nodes[0].toarray(), common.toarray())
    assert resolved.codes[0, 0] == -1
    assert resolved.warnings == ()


def test_a_general_term_over_one_value_is_that_value() -> None:
    fitted = Conditions.fit(pd.DataFrame({"cell_type": [CD4, "B cell"]}), ["cell_type"])
    resolved = fitted.resolve(asked(cell_type=["T cell"]))
    assert resolved.table.loc[0, "how"] == "general"
    assert resolved.codes[0, 0] == fitted["cell_type"].values.index(CD4)
    assert np.array_equal(resolved.nodes[0].toarray(), fitted["cell_type"].membership[resolved.codes[:, 0]].toarray())


def test_an_unseen_term_falls_back_on_its_kind(blood: Conditions, ontology: Ontology) -> None:
    resolved = blood.resolve(asked(cell_type=["naive B cell", "monocyte"]))
    row, mono = resolved.table.iloc[0], resolved.table.iloc[1]
    assert (row["how"], row["nearest"]) == ("fallback", "B cell")
    b, naive = ontology.resolve("B cell").term_id, ontology.resolve("naive B cell").term_id
    assert row["novelty"] == pytest.approx(1 - ontology.similarity(naive, b))
    assert resolved.novelty == pytest.approx(resolved.table["novelty"])
    assert resolved.warnings[0] == (
        "cell_type 'naive B cell' was not in training: written as its nearest known kind, 'B cell' (novelty 0.13)"
    )
    b_row = blood["cell_type"].membership[0].toarray()
    assert np.array_equal(resolved.nodes[0][0].toarray(), b_row)
    # A monocyte is no lymphocyte: written as what all of them have in common, with the most similar named.
    assert mono["how"] == "fallback"
    assert mono["n_values"] == 4
    terms = [t for t in blood["cell_type"].term_ids if t]
    assert mono["novelty"] == pytest.approx(
        1 - max(ontology.similarity(ontology.resolve("monocyte").term_id, t) for t in terms)
    )
    assert "mononuclear leukocyte" in resolved.warnings[1]
    assert "trained on 'B cell'" in resolved.warnings[1]


def test_fallback_below_two_kinds_is_written_as_both() -> None:
    ontology = toy(
        {"root": [], "p": ["root"], "q": ["root"], "r": ["root"], "both": ["p", "q"], "a": ["p"], "b": ["q"]}
    )
    obs = pd.DataFrame({"kind": ["p", "q", "r", "a", "b"]})
    fitted = Conditions.fit(obs, ["kind"], ontologies={"kind": ontology})
    field = fitted["kind"]
    resolved = fitted.resolve(asked(kind=["both"]), ontologies={"kind": ontology}, max_novelty=0.9)
    named = {field.node_names[node] for node in resolved.nodes[0].indices}
    assert named == {"root", "p", "q"}


@pytest.mark.parametrize("text", ["neuron", "hepatocyte", "fibroblast"])
def test_no_relation_is_refused(blood: Conditions, text) -> None:
    with pytest.raises(
        ValueError, match=rf"cell_type '{text}' has too little in common.*Nearest by kind.*leave cell_type out"
    ):
        blood.resolve(asked(cell_type=[text]))


def test_how_far_a_fallback_may_go_is_an_argument(blood: Conditions) -> None:
    request = asked(cell_type=["naive B cell"])
    with pytest.raises(ValueError, match=r"'B cell' \(0.87\).*at least 0.95"):
        blood.resolve(request, max_novelty=0.05)
    assert blood.resolve(asked(cell_type=["neuron"]), max_novelty=1.0).novelty[0] > 0.8
    with pytest.raises(ValueError, match=r"max_novelty in \[0, 1\]"):
        blood.resolve(request, max_novelty=1.5)


@pytest.mark.parametrize(
    ("columns", "error", "match"),
    [
        ({"tisue": ["blood"], "condition": ["rest"]}, KeyError, "'tisue': no field of this model"),
        ({"celltype": ["B cell"]}, KeyError, "Nearest: 'cell_type'"),
        ({"condition": ["stimulate"]}, ValueError, "Nearest in spelling: 'stimulated'"),
        ({"condition": ["qqqq"]}, ValueError, "Most common in training: 'rest', 'stimulated'"),
        ({"cell_type": ["no such thing"]}, ValueError, "neither a training value nor a cl term"),
        ({"cell_type": ["natural kilelr cell"]}, ValueError, "Perhaps 'natural killer cell' is meant"),
        ({"cell_type": []}, ValueError, "no rows"),
        ({"cell_type": ["B cell", np.nan]}, ValueError, "found nan in row 1"),
        ({"cell_type": ["B cell", ""]}, ValueError, "found '' in row 1"),
        ({"cell_type": ["B cell", None]}, ValueError, "in row 1"),
        ({"condition": [1.5]}, TypeError, "decimal number 1.5"),
        ({"cell_type": ["B cell"], "n_counts": [0]}, ValueError, "n_counts must be positive"),
        ({"cell_type": ["B cell"], "n_counts": [np.nan]}, ValueError, "n_counts must be positive"),
        ({"cell_type": ["B cell"], "n_counts": [-3.0]}, ValueError, "found -3.0 in row 0"),
        ({"cell_type": ["B cell"], "n_counts": ["many"]}, ValueError, "found many in row 0"),
    ],
)
def test_bad_requests(blood: Conditions, columns, error, match) -> None:
    with pytest.raises(error, match=match):
        blood.resolve(asked(**columns))


def test_all_bad_values_are_named_at_once(blood: Conditions) -> None:
    with pytest.raises(ValueError, match=r"(?s)'neuron'.*'qqqq'"):
        blood.resolve(asked(cell_type=["B cell", "neuron"], condition=["qqqq", "rest"]))
    with pytest.raises(ValueError, match=r"and 2 more"):
        blood.resolve(asked(condition=[f"q{i}" for i in range(7)]))


def test_a_request_is_a_table(blood: Conditions) -> None:
    with pytest.raises(TypeError, match="found dict"):
        blood.resolve({"cell_type": ["B cell"]})
    with pytest.raises(ValueError, match="stands twice"):
        blood.resolve(pd.DataFrame([["B cell", "B cell"]], columns=["cell_type", "cell_type"]))


def test_no_fields_is_a_request_for_cells_as_they_come(blood: Conditions) -> None:
    resolved = blood.resolve(pd.DataFrame(index=range(3)))
    assert resolved.combination.tolist() == [0, 0, 0]
    assert resolved.codes.tolist() == [[-1, -1, -1]]
    assert all(nodes.shape[0] == 1 and nodes.nnz == 0 for nodes in resolved.nodes)
    assert len(resolved.table) == 0


def test_unknown_leaves_a_field_open_for_a_cell(blood: Conditions) -> None:
    resolved = blood.resolve(asked(cell_type=["B cell", "Unknown"], condition=["rest", "rest"]))
    assert resolved.table["how"].tolist() == ["seen", "not given", "seen"]
    assert np.diff(resolved.nodes[0].indptr)[resolved.combination].tolist() == [
        len(blood["cell_type"].value_nodes[0]),
        0,
    ]
    assert resolved.codes[resolved.combination][:, 0].tolist() == [0, -1]
    assert resolved.warnings == ()


def test_a_new_donor_is_written_as_no_particular_one(blood: Conditions) -> None:
    resolved = blood.resolve(asked(donor_id=["D7", "d1"], virtual_donor=["virtual_1", "virtual_2"]))
    assert resolved.table["how"].tolist() == ["new donor", "seen"]
    assert resolved.novelty[resolved.combination] == pytest.approx([NEW_DONOR, 0])
    assert resolved.codes[resolved.combination][:, 2].tolist() == [-1, 0]
    assert resolved.warnings[0].startswith("donor_id 'D7' was not in training")
    assert "'D1'" in resolved.warnings[0]


def test_values_that_differ_in_case_only_are_not_guessed() -> None:
    fitted = Conditions.fit(asked(batch=["a", "A", "b"], donor_id=["x", "X", "y"]), ["batch", "donor_id"])
    assert fitted.resolve(asked(batch=["A", "a", "B"])).codes[:, 0].tolist() == [0, 1, 2]
    fitted = Conditions.fit(asked(batch=["ab", "AB", "b"]), ["batch"])
    with pytest.raises(ValueError, match="not a training value"):
        fitted.resolve(asked(batch=["Ab"]))


# -- combinations --------------------------------------------------------------------------------------------------


def test_unseen_combinations_are_flagged_and_legal(blood: Conditions) -> None:
    resolved = blood.resolve(asked(cell_type=["B cell", CD4, "T cell"], condition=["stimulated", "rest", "rest"]))
    assert resolved.novelty[resolved.combination] == pytest.approx([UNSEEN_COMBINATION, 0, 0])
    row = resolved.table[resolved.table["how"] == "unseen combination"].iloc[0]
    assert row[["field", "value"]].tolist() == ["cell_type + condition", "B cell + stimulated"]
    assert "cell_type 'B cell' and condition 'stimulated' together" in resolved.warnings[0]
    assert (resolved.codes[resolved.combination[0], :2] >= 0).all()
    assert np.diff(resolved.nodes[0].indptr).all()


def test_unseen_combinations_against_all_training_cells() -> None:
    rng = np.random.default_rng(1)
    obs = pd.DataFrame({k: rng.choice(list("abcd"), 40).astype(object) for k in ("x", "y", "z")})
    obs.iloc[rng.choice(40, 10), 1] = "unknown"
    fitted = Conditions.fit(obs, ["x", "y", "z"])
    assert fitted.n_cells.sum() == 40
    request = pd.DataFrame(list(itertools.product("abcd", repeat=3)), columns=["x", "y", "z"])
    resolved = fitted.resolve(request)
    seen = {tuple(row) for row in obs.to_numpy()}
    expected = [0.0 if tuple(row) in seen else UNSEEN_COMBINATION for row in request.to_numpy()]
    assert resolved.novelty[resolved.combination] == pytest.approx(expected)
    assert len(resolved.warnings) == 6
    assert resolved.warnings[-1].endswith("more requested combinations have no training cell")
    assert (resolved.table["how"] == "unseen combination").sum() == np.count_nonzero(expected)


def test_three_values_that_go_together_in_pairs_only() -> None:
    obs = asked(x=["a", "a", "b"], y=["c", "d", "c"], z=["f", "e", "e"])
    resolved = Conditions.fit(obs, ["x", "y", "z"]).resolve(asked(x=["a"], y=["c"], z=["e"]))
    assert "x 'a' and y 'c' and z 'e' together" in resolved.warnings[0]


@pytest.mark.parametrize("shape", [(200, 3), (1, 2), (5, 0)])
def test_distinct_rows_are_numpys(shape) -> None:
    codes = np.random.default_rng(0).integers(-1, 3, size=shape).astype(np.int32)
    rows, inverse, counts = distinct_rows(codes)
    assert np.array_equal(rows[inverse], codes)
    if shape[1]:
        expected, place, number = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
        assert np.array_equal(rows, expected)
        assert np.array_equal(inverse, place.reshape(-1))
        assert np.array_equal(counts, number)
    else:
        assert (len(rows), counts.tolist()) == (1, [shape[0]])


# -- without ontology files ----------------------------------------------------------------------------------------


def test_nothing_is_downloaded(monkeypatch, caplog, tmp_path) -> None:
    """A tissue without UBERON on the machine: plain values, one line in the log, and advice in the error."""
    monkeypatch.setattr(downloads, "find_local", lambda *_: None)
    monkeypatch.setattr(downloads, "fetch", lambda name: pytest.fail(f"tried to download {name}"))
    monkeypatch.setenv(downloads.DATA_DIR, str(tmp_path))
    with caplog.at_level(logging.INFO, logger="sclm"):
        fitted = Conditions.fit(asked(tissue=["lung", "blood"]), ["tissue"])
    assert [r.getMessage() for r in caplog.records if "not on this machine" in r.getMessage()] == [
        "The ontology 'uberon' is not on this machine: tissue is learnt as plain values, and unseen ones will not be "
        "related to them. sclm.knowledge.fetch('uberon') gets it."
    ]
    assert fitted["tissue"].ontology is None
    assert fitted.resolve(asked(tissue=["Lung"])).table.loc[0, "how"] == "seen"
    with pytest.raises(ValueError, match=r"'left lung' is not a training value.*Nearest in spelling: 'lung'"):
        fitted.resolve(asked(tissue=["left lung"]))


def test_known_terms_need_no_ontology_file(monkeypatch) -> None:
    """Trained with an ontology, asked without: everything but unseen terms works alike."""
    parents = {
        "body": [],
        "organ": ["body"],
        "lung": ["organ"],
        "left lung": ["lung"],
        "liver": ["organ"],
        "blood": ["body"],
    }
    uberon = toy(parents, {"lung": ("pulmo",), "organ": ("organum",)})
    obs = asked(tissue=["lung", "liver", "blood"])
    fitted = Conditions.from_json(Conditions.fit(obs, ["tissue"], ontologies={"tissue": uberon}).to_json())
    monkeypatch.setattr(fields_module, "local_ontology", lambda _: pytest.fail("asked for a file"))
    resolved = fitted.resolve(asked(tissue=["pulmo", "Organum", "T:0004", "body"]), ontologies={"tissue": None})
    assert resolved.table["how"].tolist() == ["seen", "general", "seen", "general"]
    assert resolved.table["n_values"].tolist() == [1, 2, 1, 3]
    with pytest.raises(ValueError, match=r"ontology 'toy'.*not on this machine"):
        fitted.resolve(asked(tissue=["left lung"]), ontologies={"tissue": None})
    fallen = fitted.resolve(asked(tissue=["left lung"]), ontologies={"tissue": uberon})
    assert "nearest known kind, 'lung'" in fallen.warnings[0]


def test_another_field_of_the_schema() -> None:
    if fields_module.local_ontology("uberon") is None:
        pytest.skip("UBERON is not on this machine")
    obs = asked(tissue=["lung", "blood"], tissue_ontology_term_id=["UBERON:0002048", "UBERON:0000178"])
    fitted = Conditions.fit(obs, list(obs))
    assert [field.ontology for field in fitted.fields] == ["uberon", "uberon"]
    assert fitted["tissue"].term_ids[::-1] == ("UBERON:0002048", "UBERON:0000178")
    resolved = fitted.resolve(asked(tissue=["left lung", "lung"]))
    assert resolved.table["nearest"].tolist() == ["lung", "lung"]
    assert (resolved.novelty > 0).sum() == 1
    with pytest.raises(ValueError, match="'brain' has too little in common"):
        fitted.resolve(asked(tissue=["brain"]))


# -- size ----------------------------------------------------------------------------------------------------------


def test_an_atlas_fits(ontology: Ontology) -> None:
    """1,000 cell types and 5,000 donors; the bound is loose, an accidental square of either would break it."""
    rng = np.random.default_rng(0)
    types = np.array(ontology.names, dtype=object)[rng.choice(len(ontology), 1000, replace=False)]
    donors = np.array([f"D{i}" for i in range(5000)], dtype=object)
    obs = pd.DataFrame(
        {"cell_type": types[rng.integers(0, 1000, 50_000)], "donor_id": donors[rng.integers(0, 5000, 50_000)]}
    )
    fitted = Conditions.fit(obs, ["cell_type", "donor_id"])
    assert fitted["cell_type"].n_values == 1000
    assert fitted["cell_type"].n_nodes < 2000
    assert fitted["donor_id"].n_nodes == 5000
    assert Conditions.from_json(fitted.to_json()) == fitted
    assert len(json.loads(fitted.to_json())["combinations"]) == len(fitted.n_cells)
    resolved = fitted.resolve(obs.iloc[:2000])
    assert not resolved.novelty.any()
    assert np.array_equal(resolved.codes[resolved.combination], fitted.codes(obs.iloc[:2000]))
