"""Does a text find the expert's description of its cell type among those of all others?"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def retrieval(
    truth: Sequence[str],
    predicted: Sequence[str],
    descriptions: Mapping[str, str],
    *,
    without: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, float]:
    """Rank of the right description among others, by the likeness of words.

    Texts and descriptions become TF-IDF vectors (weights learnt on the descriptions, logarithm of counts, English stop words left out)
    and are compared by their cosine. No language model is needed, and none judges its own words.

    Parameters
    ----------
    truth
        n keys of `descriptions`: the terms that the texts are about.
    predicted
        n texts.
    descriptions
        Term → its description.
    without
        Term → words that are taken out of every text of that term before it is compared, for example the names of its cell type: does the
        rest of the text say which type it is?

    Returns
    -------
    ``top1`` and ``top5`` (share of texts whose description is the nearest, among the five nearest), ``mean_reciprocal_rank``,
    ``median_rank`` (from 1; ties count against the text), ``n_descriptions``, and ``chance``, the top1 of a guess.

    Raises
    ------
    ValueError
        If numbers differ, or there are no texts.
    KeyError
        If a true term has no description.

    Examples
    --------
    >>> texts = {"T": "lymphocyte that matures in the thymus", "B": "lymphocyte that makes antibodies"}
    >>> retrieval(["T"], ["a cell of the thymus"], texts)["top1"]
    1.0
    """
    if len(truth) != len(predicted) or not len(truth):
        raise ValueError(
            f"expected one text for each term and at least one, found {len(predicted):,} and {len(truth):,}."
        )
    keys = list(descriptions)
    place = {key: i for i, key in enumerate(keys)}
    if absent := sorted({str(t) for t in truth if t not in place}):
        raise KeyError(
            f"no description of {', '.join(map(repr, absent[:3]))} among {len(keys)}. Leave these texts out."
        )
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectors = TfidfVectorizer(sublinear_tf=True, stop_words="english")
    library = vectors.fit_transform([descriptions[key] for key in keys])
    texts = [_cut(text, (without or {}).get(term, ())) for term, text in zip(truth, predicted, strict=True)]
    nearness = np.asarray((vectors.transform(texts) @ library.T).todense())  # (n, T)
    own = nearness[np.arange(len(truth)), [place[t] for t in truth]]
    ranks = (nearness >= own[:, None]).sum(axis=1)
    return {
        "top1": float((ranks <= 1).mean()),
        "top5": float((ranks <= 5).mean()),
        "mean_reciprocal_rank": float((1 / ranks).mean()),
        "median_rank": float(np.median(ranks)),
        "n_descriptions": float(len(keys)),
        "chance": 1 / len(keys),
    }


def _cut(text: str, words: Sequence[str]) -> str:
    """A text without some words, whatever their case."""
    for word in sorted(words, key=len, reverse=True):
        text = re.sub(re.escape(word), " ", text, flags=re.IGNORECASE)
    return text
