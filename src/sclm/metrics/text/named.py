"""What texts name: entities, terms of an ontology, and statements that were checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import pandas as pd

    from sclm.knowledge import Ontology

#: Variants of :func:`pagerank_similarity`.
VARIANTS = ("cell2text", "scCello", "raw", "truth")
_FLOOR = 1e-4  # share of a walk that counts as nothing


def entity_f1(truth: Sequence[Collection[str]], predicted: Sequence[Collection[str]]) -> dict[str, float]:
    r"""Precision, recall and F1 of what texts name: cell types, genes, pathways, as sets of ids or names.

    Parameters
    ----------
    truth
        n sets: what each text should name.
    predicted
        n sets: what it names.

    Returns
    -------
    ``precision``, ``recall`` and ``f1`` over all names of all texts (0 where nothing is named), and ``mean_f1``, the mean over texts of
    :math:`2 |A \cap B| / (|A| + |B|)`, 1 where both sets are empty.

    Raises
    ------
    ValueError
        If the numbers of sets differ, or there are none.

    Examples
    --------
    >>> entity_f1([{"CD3E", "IL7R"}], [{"CD3E", "LYZ", "IL7R"}])["recall"]
    1.0
    """
    if len(truth) != len(predicted) or not len(truth):
        raise ValueError(
            f"expected one set for each truth and at least one, found {len(predicted):,} and {len(truth):,}."
        )
    if any(isinstance(names, str) for names in (*truth, *predicted)):
        raise TypeError("expected sets of names, found a text. Write {name}.")
    shared = said = meant = 0
    each = []
    for a, b in zip(map(set, truth), map(set, predicted), strict=True):
        both = len(a & b)
        shared, meant, said = shared + both, meant + len(a), said + len(b)
        each.append(2 * both / (len(a) + len(b)) if a or b else 1.0)
    return {
        "precision": shared / said if said else 0.0,
        "recall": shared / meant if meant else 0.0,
        "f1": 2 * shared / (said + meant) if said + meant else 0.0,
        "mean_f1": float(np.mean(each)),
    }


def pagerank_similarity(
    truth: Sequence[str | None], predicted: Sequence[str | None], ontology: Ontology, *, variant: str = "truth"
) -> np.ndarray:
    r"""How near the named term is to the true one, by a random walk over the ontology.

    The walk starts at a term, follows a parent or child edge with probability 0.9 and else returns; :math:`s_{ij}` is the share of its
    time that the walk of i spends at j, with exact shares (:meth:`~sclm.knowledge.Ontology.pagerank`).

    Parameters
    ----------
    truth, predicted
        n ids of terms, or names that :meth:`~sclm.knowledge.Ontology.resolve` knows exactly. None, ``"unknown"`` and names that are no
        term are like nothing: 0.
    ontology
        That of the terms.
    variant
        ``"cell2text"``: :math:`t = \ln(1 + s / 10^{-4} + 10^{-12})`, scaled over all pairs of the ontology to 0 … 1, 1 for the
        same term, and the walk starts at the prediction. ``"truth"``, ours: the same, but the walk starts at the true term,
        so that a vague true answer ("mature alpha-beta T cell" for its CD4-positive kind) is worth more than a wrong sibling.
        ``"scCello"``: whole levels :math:`\lfloor\log_2(s / 10^{-4} + 1)\rfloor`, 1 below the floor of :math:`10^{-4}`, from the
        prediction. ``"raw"``: :math:`s` from the prediction.

    Returns
    -------
    (n,) float64; the score of a set of texts is the mean. The scale of the first two depends on the release of the ontology: name it.

    Raises
    ------
    ValueError
        If the lengths differ, or there is no such variant.

    Examples
    --------
    >>> from sclm.knowledge import Ontology
    >>> pagerank_similarity(["CL:0000084", "CL:0000084"], ["T cell", "unknown"], Ontology.load("cl"))
    array([1., 0.])
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(map(repr, VARIANTS))}, found {variant!r}.")
    if len(truth) != len(predicted):
        raise ValueError(f"expected one prediction for each truth, found {len(predicted):,} and {len(truth):,}.")
    ids: dict[str | None, str | None] = {None: None}
    for label in {*truth, *predicted} - {None}:
        known = label in ontology
        ids[label] = label if known else ontology.resolve(str(label), min_score=1.0).term_id
    pairs = [(i, ids[p], ids[t]) for i, (t, p) in enumerate(zip(truth, predicted, strict=True))]
    placed = [(i, p, t) for i, p, t in pairs if p is not None and t is not None]
    found = np.zeros(len(truth))
    if not placed:
        return found
    rows, columns = sorted({p for _, p, _ in placed}), sorted({t for _, _, t in placed})
    at = [rows.index(p) for _, p, _ in placed], [columns.index(t) for _, _, t in placed]
    if variant in ("cell2text", "truth"):
        direction = "row" if variant == "cell2text" else "column"
        table = ontology.similarity_matrix(rows, columns, "pagerank", direction=direction)
    else:
        shares = ontology.pagerank(rows)
        picked = shares[:, [ontology.index(t) for t in columns]]
        table = np.asarray(picked if isinstance(picked, np.ndarray) else picked.toarray(), dtype=np.float64)
        if variant == "scCello":
            table = np.where(table < _FLOOR, 1.0, np.floor(np.log2(table / _FLOOR + 1)))
    found[[i for i, _, _ in placed]] = table[at]
    return found


def faithfulness(claims: pd.DataFrame) -> dict[str, float]:
    """What became of the statements of texts when they were checked against the data.

    Parameters
    ----------
    claims
        One row a statement, with a column ``verdict``: ``"kept"``, ``"softened"``, ``"removed"`` or ``"not verifiable"``, as
        :func:`sclm.get.describe` gives them.

    Returns
    -------
    ``faithfulness``: share kept of those that could be checked, NaN where none could; ``softened`` and ``removed``: the other shares;
    ``not_verifiable``: share of all statements; ``n_statements``.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If a verdict is none of these.

    Examples
    --------
    >>> import pandas as pd
    >>> faithfulness(pd.DataFrame({"verdict": ["kept", "removed", "not verifiable"]}))["faithfulness"]
    0.5
    """
    if "verdict" not in claims:
        raise KeyError(f"claims must have a column 'verdict', found {', '.join(map(repr, claims.columns)) or 'none'}.")
    verdicts = claims["verdict"].astype(str).to_numpy()
    named = ("kept", "softened", "removed", "not verifiable")
    if wrong := sorted(set(verdicts) - set(named)):
        raise ValueError(f"verdict must be one of {', '.join(map(repr, named))}, found {wrong[0]!r}.")
    count = {name: int((verdicts == name).sum()) for name in named}
    checked = len(verdicts) - count["not verifiable"]
    shares = {name: count[name] / checked if checked else float("nan") for name in named[:3]}
    return {
        "faithfulness": shares["kept"],
        "softened": shares["softened"],
        "removed": shares["removed"],
        "not_verifiable": count["not verifiable"] / len(verdicts) if len(verdicts) else float("nan"),
        "n_statements": float(len(verdicts)),
    }
