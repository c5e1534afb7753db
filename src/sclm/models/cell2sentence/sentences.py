"""Cells as sentences of gene symbols, and sentences that a model wrote as ranked genes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sclm.cells import GeneVocabulary, rank_values
from sclm.cells.columns import move_columns
from sclm.knowledge import GeneIdentifiers
from sclm.models.cell2sentence.config import HUMAN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sclm.cells import Cells, GeneMatch

_MARKS = ".,;:"


def write_sentences(
    cells: Cells, vocabulary: GeneVocabulary, match: GeneMatch, n_genes: int, seed: int
) -> list[list[str]]:
    """The most expressed genes of each cell, upper case, by decreasing count.

    Genes of equal count stand in one random order of all genes, which follows from `seed` alone: it does not depend on the order of the
    columns, nor on other cells.

    Parameters
    ----------
    cells
        Raw counts.
    vocabulary, match
        The symbols that are written, and where the genes of the data are among them.
    n_genes
        Longest sentence.
    seed
        Of the order of ties.

    Returns
    -------
    Words of each cell; none for a cell without counts in these genes.
    """
    counts = move_columns(cells.counts, match.ids, len(vocabulary))
    order = np.random.default_rng(seed).permutation(len(vocabulary))  # token → its place among ties
    ranked = rank_values(counts, max_length=n_genes, token_ids=order)
    words = np.array([token.upper() for token in vocabulary.tokens], dtype=object)[np.argsort(order)]
    return [words[row].tolist() for row in ranked]


class ReadSentence(NamedTuple):
    """A sentence that a model wrote.

    Attributes
    ----------
    genes
        (n,) int64 genes of the vocabulary, each once.
    positions
        (n,) int64 rank of each, 0 the highest. Words that are no gene keep their place.
    n_words, n_unknown, n_repeated
        Words, those that are no gene, and those that repeat a gene.
    """

    genes: np.ndarray
    positions: np.ndarray
    n_words: int
    n_unknown: int
    n_repeated: int


def read_sentence(text: str, gene_of: Mapping[str, int]) -> ReadSentence:
    """Genes and ranks of a written sentence.

    A gene that stands several times is put once, at the whole-number mean of its places; the words behind close up.

    Parameters
    ----------
    text
        What the model wrote.
    gene_of
        Upper-case symbol → gene.

    Returns
    -------
    Genes, ranks and counts of what was wrong.
    """
    words = [gene_of.get(w.upper(), -1) if w else -1 for w in (word.strip(_MARKS) for word in text.split())]
    places: dict[int, list[int]] = {}
    for i, gene in enumerate(words):
        if gene >= 0:
            places.setdefault(gene, []).append(i)
    kept = list(words)
    for gene in [g for g, at in places.items() if len(at) > 1]:
        at = [i for i, g in enumerate(kept) if g == gene]
        kept = [g for g in kept if g != gene]
        kept.insert(int(np.mean(at)), gene)
    order = np.array(kept, dtype=np.int64)
    positions = np.flatnonzero(order >= 0)
    return ReadSentence(
        order[positions],
        positions,
        len(words),
        sum(g < 0 for g in words),
        sum(len(at) - 1 for at in places.values()),
    )


def words_of(vocabulary: GeneVocabulary) -> dict[str, int]:
    """Upper-case symbol → gene; the first where two differ in case only."""
    found: dict[str, int] = {}
    for i, token in enumerate(vocabulary.tokens):
        found.setdefault(token.upper(), i)
    return found


def of_data(genes: Sequence[str]) -> GeneVocabulary:
    """The data's own gene names as a vocabulary, for organisms whose symbols are not on record."""
    return GeneVocabulary(tuple(sorted({str(g) for g in genes})))


def symbols_of(organism: str) -> GeneVocabulary:
    """Symbols that sentences are written in: approved human ones; empty, for the data's own, for another organism."""
    return GeneVocabulary(GeneIdentifiers.load("human").symbols if organism == HUMAN else ())
