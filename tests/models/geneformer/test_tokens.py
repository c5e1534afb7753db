"""Rank-value tokens of Geneformer against a slow version and against stored outputs of the original."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import scipy.sparse as sp

from sclm.models.geneformer.dictionaries import find_dictionaries
from sclm.models.geneformer.tokens import collapse, match_genes, rank_tokens, token_counts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sclm.models.geneformer.dictionaries import Dictionaries


@pytest.fixture
def dictionaries(tmp_path: Path, write_dictionaries: Callable) -> Dictionaries:
    write_dictionaries(tmp_path)
    return find_dictionaries(tmp_path, 34)


def test_ids_symbols_versions_and_case(dictionaries: Dictionaries, genes: list[str]) -> None:
    names = [
        genes[0],
        f"{genes[1]}.7",
        genes[2].lower(),
        "GENE4",
        "ENSG09000000001",
        "ENSG09000000001.2",
        genes[29],
        "<cls>",
        "x",
    ]
    match = match_genes(names, dictionaries)
    # the last gene's own id is sent out of the vocabulary, and a gene is no special token
    assert match.ids.tolist() == [4, 5, 6, 8, 7, 7, -1, -1, -1]
    assert match.duplicates == {genes[3]: ("ENSG09000000001", "ENSG09000000001.2")}
    assert match.matched == 5
    assert match.routes["retired"] == 2
    assert match.routes["model's symbols"] == 1
    assert sum(match.routes.values()) == 6


def test_approved_symbols_go_through_the_knowledge_of_genes(tmp_path: Path, write_dictionaries: Callable) -> None:
    write_dictionaries(
        tmp_path,
        gene_name_id_dict=None,
        token_dictionary={"<pad>": 0, "<mask>": 1, "ENSG00000010610": 2, "ENSG00000156738": 3},
        gene_median_dictionary={"ENSG00000010610": 1.0, "ENSG00000156738": 2.0},
    )
    found = find_dictionaries(tmp_path, 4)
    assert match_genes(["MS4A1", "CD4", "cd8a"], found).ids.tolist() == [3, 2, -1]


@pytest.mark.parametrize("max_length", [100, 12, 3])
def test_tokens_are_those_of_a_sort(dictionaries: Dictionaries, values: np.ndarray, max_length: int) -> None:
    wide = np.zeros((6, 34), np.float32)
    wide[:, 4:] = values
    tokens = rank_tokens(sp.csr_matrix(wide), dictionaries, max_length)
    for cell, counts in enumerate(wide):
        with np.errstate(invalid="ignore"):
            score = counts.astype(np.float64) / dictionaries.medians
        order = [i for i in np.lexsort((np.arange(34), -np.nan_to_num(score))) if counts[i] > 0]
        expected = [2, *order[: max_length - 2], 3] if order else []
        assert tokens[cell].tolist() == expected


def test_v1_has_no_frame(tmp_path: Path, write_dictionaries: Callable, values: np.ndarray) -> None:
    write_dictionaries(tmp_path, "V1")
    one = find_dictionaries(tmp_path, 32)
    tokens = rank_tokens(sp.csr_matrix(np.hstack([np.zeros((6, 2), np.float32), values])), one, 5)
    assert tokens.lengths.tolist() == [5, 5, 0, 5, 5, 5]
    assert tokens.values.min() >= 2


def test_columns_that_meet_are_summed(dictionaries: Dictionaries) -> None:
    counts = sp.csr_matrix(np.array([[1.5, 2.0, 4.0, 1.0]], np.float32))
    moved = collapse(counts, np.array([5, 4, 5, -1]), 34)
    assert moved.dtype == np.float32
    assert moved.toarray()[0, 4:6].tolist() == [2.0, 5.5]
    assert moved.sum() == 7.5


def test_kept_counts_follow_their_tokens(dictionaries: Dictionaries, values: np.ndarray) -> None:
    wide = sp.csr_matrix(np.hstack([np.zeros((6, 4), np.float32), values]))
    tokens = rank_tokens(wide, dictionaries, 10)
    totals = np.full(6, 50.0)
    kept = token_counts(tokens, wide, totals)
    dense = wide.toarray()
    for cell in range(6):
        np.testing.assert_allclose(kept[cell], dense[cell, tokens[cell]] / 50.0 * 1e4)
    assert (kept.values[tokens.values < 4] == 0).all()
    empty = sp.csr_matrix((2, 34), dtype=np.float32)
    assert token_counts(rank_tokens(empty, dictionaries, 10), empty, np.ones(2)).values.size == 0


# Stored outputs of the original ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inputs(golden: Path) -> dict[str, np.ndarray]:
    return dict(np.load(golden / "geneformer" / "inputs.npz"))


@pytest.fixture(scope="module")
def stored(golden: Path) -> dict[str, np.ndarray]:
    return dict(np.load(golden / "geneformer" / "tokenisation.npz"))


def tokens_of(golden: Path, inputs: dict[str, np.ndarray], version: str, values: np.ndarray, max_length: int):
    found = find_dictionaries(golden / "geneformer" / f"tiny{version}", {"V1": 902, "V2": 904}[version])
    match = match_genes(inputs["ensembl_id"], found)
    moved = collapse(sp.csr_matrix(values), match.ids, len(found.vocabulary))
    return rank_tokens(moved, found, max_length), moved, found


@pytest.mark.parity
@pytest.mark.parametrize(
    ("tag", "version", "max_length"),
    [("v2_tiefree", "V2", 4096), ("v2_trunc64", "V2", 64), ("v1_tiefree", "V1", 2048), ("v1_trunc64", "V1", 64)],
)
def test_the_originals_tokens_without_ties(
    golden: Path, inputs: dict, stored: dict, tag: str, version: str, max_length: int
) -> None:
    tokens, _, _ = tokens_of(golden, inputs, version, inputs["counts_tiefree"], max_length)
    rows = stored[f"{tag}_orig_row"]
    assert np.flatnonzero(tokens.lengths == 0).tolist() == [3]  # the cell that the original drops
    for i, row in enumerate(rows):
        start, stop = stored[f"{tag}_offsets"][i : i + 2]
        np.testing.assert_array_equal(tokens[int(row)], stored[f"{tag}_flat"][start:stop])
        assert tokens.lengths[row] == stored[f"{tag}_length"][i]


@pytest.mark.parity
def test_the_originals_values_without_ties(golden: Path, inputs: dict, stored: dict) -> None:
    """Counts per 10,000 over the median, after genes that meet were summed: what tokens are ranked by."""
    tokens, moved, found = tokens_of(golden, inputs, "V2", inputs["counts_tiefree"], 4096)
    per_gene = token_counts(tokens, moved, inputs["n_counts"])
    columns = found.vocabulary.lookup(stored["vocab_genes"])
    for row, expected in enumerate(stored["normed_tiefree"]):
        ids = tokens[row][1:-1]
        assert sorted(ids.tolist()) == sorted(columns[expected > 0].tolist())
        values = per_gene[row][1:-1] / found.medians[ids]
        place = dict(zip(columns.tolist(), expected.tolist(), strict=True))
        np.testing.assert_allclose(values, [place[token] for token in ids.tolist()], rtol=1e-6)
        assert (np.diff(values) < 0).all()


@pytest.mark.parity
@pytest.mark.parametrize("tag", ["v2_counts", "v2_counts_keep", "v2_filterpass"])
def test_the_originals_tokens_up_to_ties(golden: Path, inputs: dict, stored: dict, tag: str) -> None:
    """Equal values may stand in any order in the original; ``filter_pass`` is a choice of rows, made by the user."""
    tokens, moved, found = tokens_of(golden, inputs, "V2", inputs["counts"], 4096)
    rows = stored[f"{tag}_orig_row"]
    if tag == "v2_filterpass":
        kept = np.flatnonzero((inputs["filter_pass"] == 1) & (tokens.lengths > 0))
        assert rows.tolist() == kept.tolist()
    columns = found.vocabulary.lookup(stored["vocab_genes"])
    counts = token_counts(tokens, moved, inputs["n_counts"])
    for i, row in enumerate(rows.tolist()):
        start, stop = stored[f"{tag}_offsets"][i : i + 2]
        theirs = stored[f"{tag}_flat"][start:stop]
        assert sorted(tokens[row]) == sorted(theirs)
        value = dict(zip(columns.tolist(), stored["normed_counts"][row], strict=True))
        ours = np.array([value[t] for t in tokens[row][1:-1].tolist()])
        assert (np.diff(ours) <= 1e-12 * ours[:-1]).all()
        np.testing.assert_allclose(ours, [value[t] for t in theirs[1:-1].tolist()], rtol=1e-12)
        if tag == "v2_counts_keep":
            of = dict(zip(theirs.tolist(), stored[f"{tag}_counts_flat"][start:stop], strict=True))
            np.testing.assert_allclose(counts[row], [of[t] for t in tokens[row].tolist()], rtol=1e-12)


@pytest.mark.parity
@pytest.mark.real
def test_the_originals_tokens_with_the_published_dictionaries(golden: Path, vocab: Path) -> None:
    found = find_dictionaries(vocab, 25_426)
    stored = np.load(golden / "geneformer" / "tokenisation_real_v1_dictionaries.npz")
    match = match_genes(stored["ensembl_id"], found)
    tokens = rank_tokens(collapse(sp.csr_matrix(stored["values"]), match.ids, 25_426), found, 2048)
    np.testing.assert_array_equal(tokens.offsets, stored["offsets"])
    np.testing.assert_array_equal(tokens.values, stored["flat"])
