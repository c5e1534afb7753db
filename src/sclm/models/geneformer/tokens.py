"""Cells as Geneformer reads them: their genes from the most to the least remarkable, between ``<cls>`` and ``<eos>`` in V2.

n cells · L tokens · V vocabulary
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from sclm.cells import Ragged, rank_values
from sclm.cells.vocabulary import gene_kind, strip_version
from sclm.models.geneformer.dictionaries import SPECIAL

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sclm.cells import GeneMatch
    from sclm.models.geneformer.dictionaries import Dictionaries


def match_genes(names: Iterable[str], dictionaries: Dictionaries) -> GeneMatch:
    """Find the genes of a data set among the model's.

    Ensembl ids are taken in any case and without version. One that the mapping dictionary sends elsewhere is followed, and left out
    where that leads to no gene of the model, as in the original. Symbols are looked up in the model's own dictionary of symbols. What
    is not found so goes the way of all vocabularies, :meth:`sclm.cells.GeneVocabulary.match`: composites, approved and previous
    symbols of :mod:`sclm.knowledge`. The original knows no symbols and no versions.

    Parameters
    ----------
    names
        Gene names of the data, (n_data,).
    dictionaries
        The model's.

    Returns
    -------
    :class:`~sclm.cells.GeneMatch`; its ``routes`` count ids that were followed as ``"retired"`` and symbols of the model's own
    dictionary as ``"model's symbols"``.
    """
    names = [str(name) for name in names]
    asked, followed, by_symbol = [], 0, 0
    for name in names:
        upper = name.upper()
        found = strip_version(upper) if upper.startswith("ENS") else name
        if found not in dictionaries.retired and dictionaries.symbols.get(name) in dictionaries.vocabulary:
            found = dictionaries.symbols[name]
            by_symbol += 1
        if found in dictionaries.retired:
            found = dictionaries.retired[found]
            followed += bool(found)
        asked.append(found)
    match = dictionaries.vocabulary.match(asked)
    routes = {"retired": followed, "model's symbols": by_symbol} | match.routes
    routes["exact"] = routes.get("exact", 0) - followed - by_symbol
    meeting: dict[str, list[str]] = {}
    tokens = dictionaries.vocabulary.tokens
    for name, token in zip(names, match.ids.tolist(), strict=True):
        if token >= 0 and tokens[token] in match.duplicates:
            meeting.setdefault(tokens[token], []).append(name)
    return match._replace(
        kind=gene_kind(names),
        duplicates={token: tuple(found) for token, found in meeting.items()},
        routes={route: n for route, n in routes.items() if n > 0},
    )


def collapse(values: sp.csr_matrix, ids: np.ndarray, n_tokens: int) -> sp.csr_matrix:
    """Values (n, V) with one column a token; columns that meet in a token are summed, those of -1 left out.

    Unlike :func:`sclm.cells.align` it takes values that are not whole.

    Parameters
    ----------
    values
        (n, n_data).
    ids
        (n_data,) token of each column, or -1.
    n_tokens
        V.

    Returns
    -------
    CSR of the dtype of `values`, canonical.
    """
    kept = np.flatnonzero(ids >= 0)
    ones = np.ones(kept.size, dtype=values.dtype)
    selector = sp.csr_matrix((ones, (kept, ids[kept])), shape=(ids.size, n_tokens))
    moved = sp.csr_matrix(values @ selector)
    moved.sum_duplicates()
    return moved


def rank_tokens(values: sp.csr_matrix, dictionaries: Dictionaries, max_length: int) -> Ragged:
    r"""Rank-value encoding: each cell's genes by decreasing :math:`x_{ig} / m_g`.

    The original divides the counts by their total per 10,000 first, which changes no order within a cell. Its sort is unstable, so
    genes of equal value stand in no certain order; here they stand by token id.

    Parameters
    ----------
    values
        (n, V) counts of the tokens, not negative; need not be whole.
    dictionaries
        With the medians :math:`m_g`. Genes without a median are left out.
    max_length
        Tokens that the network reads, special tokens included. V2 keeps the first ``max_length - 2`` genes between ``<cls>`` and
        ``<eos>``, V1 the first ``max_length``.

    Returns
    -------
    Token ids; nothing for a cell without genes.
    """
    medians = dictionaries.medians
    known = np.isfinite(medians)
    # no count stands at special tokens, so that nothing has to be left out where every gene has a median
    all_known = known[len(SPECIAL[dictionaries.version]) :].all()
    framed = dictionaries.version == "V2"
    ranks = rank_values(
        values,
        np.where(known, medians, 1.0),
        max_length=max_length - 2 if framed else max_length,
        token_ids=None if all_known else np.where(known, np.arange(medians.size), -1),
    )
    return framed_by(ranks) if framed else ranks


_CLS, _EOS = SPECIAL["V2"].index("<cls>"), SPECIAL["V2"].index("<eos>")


def framed_by(genes: Ragged) -> Ragged:
    """Each sequence between ``<cls>`` and ``<eos>``; an empty one stays empty."""
    lengths = genes.lengths + 2 * (genes.lengths > 0)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values = np.empty(offsets[-1], dtype=genes.values.dtype)
    some = np.flatnonzero(lengths)
    first, last = offsets[:-1][some], offsets[1:][some] - 1
    inside = np.ones(values.size, dtype=bool)
    inside[first] = inside[last] = False
    values[first], values[last], values[inside] = _CLS, _EOS, genes.values
    return Ragged(values, offsets)


def token_counts(tokens: Ragged, values: sp.csr_matrix, totals: np.ndarray) -> Ragged:
    """Counts per 10,000 of each token's gene, as the original stores them with ``keep_counts``.

    Parameters
    ----------
    tokens
        Of :func:`rank_tokens`.
    values
        (n, V) counts of the tokens, canonical.
    totals
        (n,) counts of each cell over all genes of the data, those that the model does not know included.

    Returns
    -------
    float64 with the offsets of `tokens`; 0 at special tokens.
    """
    rows = np.repeat(np.arange(len(tokens)), tokens.lengths)
    # (row, token) as one number, increasing along a canonical matrix
    stored = np.repeat(np.arange(values.shape[0]), np.diff(values.indptr)) * values.shape[1] + values.indices
    asked = rows * values.shape[1] + tokens.values
    place = np.minimum(np.searchsorted(stored, asked), max(stored.size - 1, 0))
    found = np.zeros(asked.size)
    if stored.size:
        here = stored[place] == asked
        found[here] = values.data[place[here]].astype(np.float64) / np.asarray(totals, np.float64)[rows[here]] * 1e4
    return Ragged(found, tokens.offsets)
