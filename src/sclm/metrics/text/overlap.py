"""How many words, stretches and characters two texts share: BLEU, ROUGE-L, chrF."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
# The rules of mteval-v13a, in their order: marks stand alone; full stops and commas do unless digits are on that side; a
# hyphen does behind a digit.
_MARKS = (
    (re.compile(r"([{-~\[-` -&(-+:-@/])"), r" \1 "),
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)
_WORD = re.compile(r"[a-z0-9]+")


def bleu(truth: Sequence[str], predicted: Sequence[str], *, max_order: int = 4) -> float:
    r"""BLEU of a set of texts: n-gram precision with a penalty for brevity (Papineni et al., 2002).

    :math:`\mathrm{BP} \exp\left(\frac{1}{N} \sum_{n \le N} \ln p_n\right)` with :math:`p_n` the share of predicted n-grams that the text's
    own reference has, counted over all texts, and :math:`\mathrm{BP} = \min(1, e^{1 - r / c})` for r words of the references and c
    predicted ones. As sacrebleu computes it by default (Post, 2018): tokens of mteval-v13a, and the k-th order without a match
    counts as :math:`2^{-k}` matches.

    Parameters
    ----------
    truth
        n reference texts.
    predicted
        n texts, in the same order.
    max_order
        N, longest n-grams; 4 is the usual one.

    Returns
    -------
    0 to 1 (sacrebleu's divided by 100); 0 where no text is as long as N words.

    Raises
    ------
    ValueError
        If the numbers of texts differ, or there are none.

    Examples
    --------
    >>> bleu(["This sample consists of a T cell."], ["This sample consists of a B cell."], max_order=2)
    0.7905694150420949
    """
    _pairs(truth, predicted)
    if max_order < 1:
        raise ValueError(f"max_order must be at least 1, found {max_order}.")
    matches, totals = [0] * max_order, [0] * max_order
    n_predicted = n_truth = 0
    for reference, text in zip(truth, predicted, strict=True):
        wanted, words = _tokens_13a(reference), _tokens_13a(text)
        n_predicted += len(words)
        n_truth += len(wanted)
        for order in range(1, max_order + 1):
            ours = _ngrams(words, order)
            totals[order - 1] += ours.total()
            matches[order - 1] += (ours & _ngrams(wanted, order)).total()
    if not any(matches) or 0 in totals:
        return 0.0
    logs, smooth = [], 1.0
    for found, total in zip(matches, totals, strict=True):
        if found == 0:
            smooth *= 2
        logs.append(math.log(found / total if found else 1 / (smooth * total)))
    penalty = 1.0 if n_predicted >= n_truth else math.exp(1 - n_truth / n_predicted)
    return penalty * math.exp(sum(logs) / max_order)


def rouge_l(truth: Sequence[str], predicted: Sequence[str]) -> float:
    r"""ROUGE-L: F1 of the longest common subsequence of words (Lin, 2004), mean over texts.

    With :math:`l` the length of the subsequence, :math:`F_1 = 2 l / (m + n)` for texts of m and n words. Words are runs of lower-case
    letters and digits, without stemming.

    Parameters
    ----------
    truth
        n reference texts.
    predicted
        n texts, in the same order.

    Returns
    -------
    0 to 1; a text without words scores 0.

    Raises
    ------
    ValueError
        If the numbers of texts differ, or there are none.

    Examples
    --------
    >>> rouge_l(["a naive T cell of blood"], ["a T cell of the blood"])
    0.8333333333333334
    """
    _pairs(truth, predicted)
    total = 0.0
    for reference, text in zip(truth, predicted, strict=True):
        a, b = _WORD.findall(reference.lower()), _WORD.findall(text.lower())
        if a and b:
            total += 2 * _common_subsequence(a, b) / (len(a) + len(b))
    return total / len(truth)


def chrf(truth: Sequence[str], predicted: Sequence[str]) -> float:
    r"""The chrF of a set of texts: F-score of n-grams of characters (Popović, 2015).

    :math:`F_\beta = (1 + \beta^2) \frac{P R}{\beta^2 P + R}` with :math:`\beta = 2` and precision and recall averaged over n-grams of 1 to 6
    characters, white space left out, counted over all texts: sacrebleu's default.

    Parameters
    ----------
    truth
        n reference texts.
    predicted
        n texts, in the same order.

    Returns
    -------
    0 to 1 (sacrebleu's divided by 100).

    Raises
    ------
    ValueError
        If the numbers of texts differ, or there are none.

    Examples
    --------
    >>> round(chrf(["a naive T cell"], ["a memory T cell"]), 3)
    0.288
    """
    _pairs(truth, predicted)
    orders = 6
    ours, wanted, shared = [0] * orders, [0] * orders, [0] * orders
    for reference, text in zip(truth, predicted, strict=True):
        a, b = "".join(reference.split()), "".join(text.split())
        for order in range(1, orders + 1):
            first, second = _ngrams(a, order), _ngrams(b, order)
            ours[order - 1] += second.total() if first else 0
            wanted[order - 1] += first.total()
            shared[order - 1] += (first & second).total()
    precision = recall = 0.0
    used = 0
    for found, n, m in zip(shared, ours, wanted, strict=True):
        if n and m:
            precision, recall, used = precision + found / n, recall + found / m, used + 1
    if not used or not precision + recall:
        return 0.0
    precision, recall = precision / used, recall / used
    return 5 * precision * recall / (4 * precision + recall)


def compare(truth: Sequence[str], predicted: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Several writers' texts of the same cells beside the references.

    Parameters
    ----------
    truth
        n reference texts.
    predicted
        Name of a writer → its n texts, in the same order.

    Returns
    -------
    One row a writer: ``bleu``, ``bleu_2`` (n-grams up to 2), ``rouge_l``, ``chrf`` (0 to 1), ``n_words`` (mean words of a text) and
    ``n_distinct`` (how many different texts: one text for all cells may score well).

    Examples
    --------
    >>> compare(["a T cell of blood"], {"same": ["a T cell of blood"]})["rouge_l"].item()
    1.0
    """
    import pandas as pd

    rows = {
        name: {
            "bleu": bleu(truth, texts),
            "bleu_2": bleu(truth, texts, max_order=2),
            "rouge_l": rouge_l(truth, texts),
            "chrf": chrf(truth, texts),
            "n_words": sum(len(text.split()) for text in texts) / len(texts),
            "n_distinct": len(set(texts)),
        }
        for name, texts in predicted.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("writer")


def _pairs(truth: Sequence[str], predicted: Sequence[str]) -> None:
    for name, texts in (("truth", truth), ("predicted", predicted)):
        if isinstance(texts, str):
            raise TypeError(f"{name} must be a list of texts, found one text. Write [text].")
    if len(truth) != len(predicted) or not len(truth):
        raise ValueError(
            f"expected one text for each reference and at least one, found {len(predicted):,} and {len(truth):,}."
        )


def _tokens_13a(text: str) -> list[str]:
    """Words and marks as mteval-v13a cuts them; upper and lower case stay apart."""
    text = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for name, character in _ENTITIES:
        text = text.replace(name, character)
    text = f" {text} "
    for pattern, replacement in _MARKS:
        text = pattern.sub(replacement, text)
    return text.split()


def _ngrams(items: Sequence[str], order: int) -> Counter[Sequence[str]]:
    """How often each stretch of `order` items stands in a text: a string's are strings, a list's are tuples."""
    stretches = (items[i : i + order] for i in range(len(items) - order + 1))
    return Counter(s if isinstance(s, str) else tuple(s) for s in stretches)


def _common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, a bit a word of `a` (Hyyrö, 2004)."""
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << i
    whole = (1 << len(a)) - 1
    left = whole
    for word in b:
        met = left & places.get(word, 0)
        left = (left + met) | (left - met)
    return len(a) - (left & whole).bit_count()
