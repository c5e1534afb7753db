"""Sentences there and back, against slow ways of writing and reading them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from sclm.cells import Cells, GeneVocabulary
from sclm.models.cell2sentence import prompts
from sclm.models.cell2sentence.inverse import InverseRank
from sclm.models.cell2sentence.sentences import read_sentence, symbols_of, words_of, write_sentences

if TYPE_CHECKING:
    import anndata

GENES = ["CD3E", "MS4A1", "LYZ", "NKG7", "C10orf55", "GNLY", "ACTB", "B2M"]


def made(counts: Any, genes: list[str] = GENES) -> Cells:
    counts = sparse.csr_matrix(np.asarray(counts, dtype=np.float32))
    return Cells(counts, pd.Index(genes), pd.DataFrame(index=[f"c{i}" for i in range(counts.shape[0])]))


def test_genes_stand_by_decreasing_count_in_upper_case() -> None:
    rng = np.random.default_rng(0)
    counts = rng.poisson(2.0, size=(50, 8))
    cells, vocabulary = made(counts), GeneVocabulary(tuple(GENES))
    match = vocabulary.match(cells.genes)
    written = write_sentences(cells, vocabulary, match, 5, seed=0)
    for row, words in zip(counts, written, strict=True):
        value = {g.upper(): v for g, v in zip(GENES, row, strict=True)}
        values = [value[w] for w in words]
        assert values == sorted(row[row > 0], reverse=True)[:5]
        assert len(set(words)) == len(words)
    assert any("C10ORF55" in words for words in written)


def test_ties_follow_the_seed_and_neither_columns_nor_other_cells() -> None:
    cells, vocabulary = made(np.ones((3, 8))), GeneVocabulary(tuple(GENES))
    first = write_sentences(cells, vocabulary, vocabulary.match(cells.genes), 8, seed=0)
    assert first[0] == first[1] == first[2]
    assert first[0] != sorted(first[0])
    turned = made(np.ones((1, 8)), GENES[::-1])
    assert write_sentences(turned, vocabulary, vocabulary.match(turned.genes), 8, seed=0)[0] == first[0]
    orders = {tuple(write_sentences(cells, vocabulary, vocabulary.match(cells.genes), 8, seed=s)[0]) for s in range(9)}
    assert len(orders) > 5


def test_a_written_sentence_is_read_with_its_mistakes_counted() -> None:
    gene_of = words_of(GeneVocabulary(tuple(GENES)))
    found = read_sentence("cd3e NOTHING LYZ, lyz MS4A1 C10ORF55 LYZ.", gene_of)
    # places 0 CD3E, 1 nothing, 2 LYZ, 3 LYZ, 4 MS4A1, 5 C10orf55, 6 LYZ: LYZ at int((2 + 3 + 6) / 3) = 3 among the others
    genes = [GENES[g] for g in found.genes]
    assert dict(zip(genes, found.positions.tolist(), strict=True)) == {"CD3E": 0, "MS4A1": 2, "LYZ": 3, "C10orf55": 4}
    assert found[2:] == (7, 1, 2)
    empty = read_sentence("", gene_of)
    assert len(empty.genes) == 0
    assert empty[2:] == (0, 0, 0)


def test_a_perfect_line_is_found_exactly() -> None:
    """Counts that make log10(1 + 1e4 c / total) a line in log10(1 + rank)."""
    rank = np.arange(400)
    relative = 10 ** (2.5 - 0.8 * np.log10(1 + rank)) - 1
    counts = relative / relative.sum()
    # The line holds for the counts that a cell of this total has: solve for the scale by which relative counts are per 10,000.
    intercept = np.log10(1 + 1e4 * counts[0])
    found = InverseRank.fit(sparse.csr_matrix(np.tile(counts, (5, 1))))
    x, y = np.log10(1 + rank), np.log10(1 + 1e4 * counts)
    slope, start = np.polyfit(x, y, 1)
    assert found.slope == pytest.approx(slope)
    assert found.intercept == pytest.approx(start)
    assert start == pytest.approx(intercept, abs=0.2)
    exact = 10 ** (2.0 - 0.5 * np.log10(1 + rank[:80])) - 1
    exact = exact * (1e4 / exact.sum())
    rows = InverseRank.fit(sparse.csr_matrix(exact[None]))
    y = np.log10(1 + exact)
    assert rows.r2 == pytest.approx(np.corrcoef(np.log10(1 + rank[:80]), y)[0, 1] ** 2)
    assert rows.pearson == pytest.approx(-np.sqrt(rows.r2))
    assert rows.spearman == pytest.approx(-1.0)


def test_the_line_explains_simulated_and_real_counts(pbmc: anndata.AnnData) -> None:
    rng = np.random.default_rng(0)
    mean = rng.lognormal(0, 1.5, size=2000)
    shape = 2.0
    counts = rng.poisson(rng.gamma(shape, mean / shape, size=(200, 2000)))
    found = InverseRank.fit(sparse.csr_matrix(counts.astype(np.float32)))
    assert found.r2 > 0.6
    assert found.slope < 0
    assert found.depth == np.median(counts.sum(axis=1))
    assert InverseRank.fit(sparse.csr_matrix(pbmc.X)).r2 > 0.6
    there = found.counts(np.array([0, 10, 100]))
    assert (np.diff(there) < 0).all()
    assert (there == np.round(there)).all()
    np.testing.assert_allclose(found.counts(np.array([0, 10]), 2 * found.depth) / there[:2], 2, rtol=0.2)
    assert (found.expression(np.array([10**9])) == 0).all()  # never below 0
    assert (found.counts(np.array([10**9])) == 1).all()  # a gene that is named is there
    with pytest.raises(ValueError, match="expected cells with expressed genes"):
        InverseRank.fit(sparse.csr_matrix((3, 4)))


def test_prompts_have_the_published_slots() -> None:
    text = prompts.ANNOTATE.format(num_genes=2, organism="Homo sapiens", cell_sentence="A B")
    assert "Cell sentence: A B." in text
    assert "Homo sapiens" in text
    assert prompts.ending(prompts.ANNOTATE).endswith(":")
    for name in prompts.SLOTS:
        with pytest.raises(ValueError, match=f"{name} must have the slot"):
            prompts.check_template(name, "no slot")
    with pytest.raises(ValueError, match="found cell_sentence, tissue"):
        prompts.check_template("annotate_prompt", "{cell_sentence} {tissue}")
    with pytest.raises(ValueError, match="no template"):
        prompts.check_template("answer", "{cell_type")


def test_symbols_of_organisms() -> None:
    human = symbols_of("Homo sapiens")
    assert {"CD3E", "MS4A1"} <= set(human.tokens)
    assert len(symbols_of("Mus musculus")) == 0
