"""Cells that a language model writes: sentences of genes, ranks, whole counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from sclm.cells import Cells, GeneVocabulary
from sclm.models.cell2sentence.naming import batches
from sclm.models.cell2sentence.sentences import read_sentence, words_of
from sclm.nn import write_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sclm.models.cell2sentence.inverse import InverseRank
    from sclm.nn import MemoryLimit, PrefixLM

NOTES = ("sclm_words", "sclm_unknown_words", "sclm_repeated_genes")


def write_after(
    lm: PrefixLM,
    prompts: Sequence[str],
    *,
    max_tokens: int,
    temperature: float,
    seed: int,
    memory: MemoryLimit | None = None,
) -> list[str]:
    """Text after each prompt, without the prompt; each is drawn by its own seed, which follows from `seed` and its place."""
    ids = lm.encode(prompts)
    texts = [""] * len(ids)
    for part in batches(lm, ids, memory, max_tokens):
        with part as rows:
            seeds = [int(np.random.SeedSequence([seed, int(r)]).generate_state(1)[0]) for r in rows]
            cache = lm.prompt_cache(None, lm.pack([ids[r] for r in rows]))
            found = write_text(lm, cache, max_tokens=max_tokens, temperature=temperature, seeds=seeds)
            for row, tokens in zip(rows, found, strict=True):
                texts[row] = lm.decode(tokens).strip()
    return texts


def check_request(request: pd.DataFrame) -> None:
    """Refuse a request that cannot be written."""
    if "cell_type" not in request:
        raise KeyError(f"the request must have a column 'cell_type', found {list(map(str, request.columns))}.")
    missing = int(request.isna().to_numpy().sum())
    if not len(request) or missing:
        raise ValueError(
            f"the request must have rows and no missing values, found {len(request)} rows and {missing} missing."
        )
    if "n_counts" in request and not (request["n_counts"].to_numpy(dtype=np.float64) > 0).all():
        raise ValueError(f"n_counts must be positive, found {request['n_counts'].min()}.")


def cells_of(texts: Sequence[str], request: pd.DataFrame, vocabulary: GeneVocabulary, inverse: InverseRank) -> Cells:
    """Cells of written sentences.

    Parameters
    ----------
    texts
        One sentence a row of the request.
    request
        With the depth ``n_counts``, or without: that of the cells that `inverse` was fitted on.
    vocabulary
        Genes that can be written.
    inverse
        From ranks to expression.

    Returns
    -------
    Whole counts, float32; in ``.obs`` the request, and how many words, words that are no gene, and repeated genes there were.
    """
    gene_of = words_of(vocabulary)
    depths = request["n_counts"].to_numpy(dtype=np.float64) if "n_counts" in request else [None] * len(request)
    notes = np.zeros((len(request), len(NOTES)), dtype=np.int64)
    rows, columns, values = [], [], []
    for row, (text, depth) in enumerate(zip(texts, depths, strict=True)):
        found = read_sentence(text, gene_of)
        notes[row] = found.n_words, found.n_unknown, found.n_repeated
        rows.append(np.full(len(found.genes), row))
        columns.append(found.genes)
        values.append(inverse.counts(found.positions, depth))
    shape = (len(request), len(vocabulary))
    data = np.concatenate(values).astype(np.float32)
    counts = sparse.csr_matrix((data, (np.concatenate(rows), np.concatenate(columns))), shape=shape)
    counts.sort_indices()
    obs = request.copy()
    for i, name in enumerate(NOTES):
        obs[name] = notes[:, i]
    return Cells(counts, pd.Index(np.array(vocabulary.tokens, dtype=object)), obs)
