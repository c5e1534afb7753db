"""Scores for cell type annotations: exact, and by how near in the ontology a wrong answer is.

Legend of shapes: n cells · p distinct pairs of true and predicted label · k categories.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sclm.metrics.calibration import expected_calibration_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

    from sclm.knowledge import Ontology

UNKNOWN = "unknown"


def annotation(
    truth: ArrayLike,
    predicted: ArrayLike,
    *,
    confidence: ArrayLike | None = None,
    probabilities: ArrayLike | None = None,
    categories: Sequence[str] | None = None,
    ontology: Ontology | None = None,
) -> dict[str, float]:
    """Score predicted cell types against true ones.

    With an ontology, ids, names and other labels are brought to ids first (see `Ontology.resolve`; fuzzy matches are not
    used), so that `"CD4 T cells"` and `"CL:0000624"` agree. A label that resolves to nothing counts for itself: it is
    1 like itself and 0 like anything else.

    Parameters
    ----------
    truth
        (n,) true labels or ids; none may be missing.
    predicted
        (n,) predicted labels or ids. `"unknown"`, None, NaN and `""` abstain: they are wrong, are like nothing, and say as
        much as the ontology's root does.
    confidence
        (n,) float in [0, 1], for the calibration error.
    probabilities
        (n, k) probabilities, used where no `confidence` is given: that of the predicted label, summed over the categories
        below it in the ontology, or the largest of the row where no category is meant.
    categories
        The k labels of the columns of `probabilities`; without them the largest probability of a row is its confidence.
    ontology
        For the scores that need one; without it they are NaN.

    Returns
    -------
    dict of str to float
        `accuracy`. `macro_f1`: unweighted mean of F1 over the true types. `weighted_f1`: weighted by their cells.
        `ontology_similarity`: mean Lin similarity. `pagerank_similarity`: mean PageRank similarity as Cell2Text, walks
        from the prediction. `hierarchical_precision`, `hierarchical_recall`, `hierarchical_f1` (Kiritchenko et al. 2006):
        overlap of the ancestor sets, labels included and roots excluded, summed over cells. `lca_distance`: mean number
        of edges from truth to prediction through a common ancestor; labels outside the ontology hang from a root above
        all. `expected_calibration_error`: 15 bins, without the abstaining cells; with an ontology, an answer is right when
        it is the true type or a kind that the true type belongs to. `unknown_share`: of abstaining cells.
        All in [0, 1] but the distance; NaN where the input for a score is missing.

    Raises
    ------
    ValueError
        If lengths differ, there are no cells, or a true label is missing.

    Examples
    --------
    >>> from sclm.knowledge import Ontology
    >>> scores = annotation(["CD8 T", "B"], ["T cell", "B"], ontology=Ontology.load())
    >>> scores["accuracy"], round(scores["hierarchical_precision"], 2), round(scores["hierarchical_recall"], 2)
    (0.5, 1.0, 0.83)
    """
    pairs = _Pairs(truth, predicted, ontology)
    result = {"accuracy": pairs.mean(pairs.exact.astype(np.float64)), **_f1(pairs)}
    result.update(_ontology_scores(pairs, ontology))

    sure = _confidence(confidence, probabilities, categories, predicted, pairs, ontology)
    claimed = ~pairs.unknown[pairs.of_cell]
    # The confidence of a general term is that of all below it: "T cell" for a CD4 T cell is a true statement.
    right = pairs.exact if ontology is None else np.isin(_kinds(pairs, ontology), ["exact", "ancestor"])
    result["expected_calibration_error"] = (
        float("nan")
        if sure is None
        else expected_calibration_error(right[pairs.of_cell][claimed], sure[claimed], n_bins=15)
    )
    result["unknown_share"] = pairs.mean(pairs.unknown.astype(np.float64))
    return result


def match_kind(truth: ArrayLike, predicted: ArrayLike, ontology: Ontology) -> np.ndarray:
    """How each prediction stands to the truth in the ontology.

    Parameters
    ----------
    truth, predicted
        (n,) labels or ids, as in `annotation`.
    ontology
        The ontology that both belong to.

    Returns
    -------
    numpy.ndarray
        (n,) of str: `"exact"`; `"ancestor"`, a true but vaguer answer; `"descendant"`, a finer one than the truth says;
        `"sibling"`, with a common parent; `"other"`; `"unknown"` where the prediction abstains.
    """
    pairs = _Pairs(truth, predicted, ontology)
    return _kinds(pairs, ontology)[pairs.of_cell]


def _kinds(pairs: _Pairs, ontology: Ontology) -> np.ndarray:
    """(p,) kind of each distinct pair."""
    kinds = np.full(len(pairs.count), "other", dtype="<U10")
    for i, (true, guess) in enumerate(zip(pairs.true_id, pairs.guess_id, strict=True)):
        if pairs.unknown[i]:
            kinds[i] = UNKNOWN
        elif pairs.exact[i]:
            kinds[i] = "exact"
        elif true is None or guess is None:
            continue
        elif guess in ontology.ancestors(true):
            kinds[i] = "ancestor"
        elif true in ontology.ancestors(guess):
            kinds[i] = "descendant"
        elif set(ontology.parents(true)) & set(ontology.parents(guess)):
            kinds[i] = "sibling"
    return kinds


def _is_unknown(label: Any) -> bool:
    return label is None or label != label or str(label).strip().lower() in ("", UNKNOWN)  # NaN differs from itself


def _labels(values: ArrayLike) -> np.ndarray:
    """Labels as a flat object array, whatever array, list, Series or Categorical they come in."""
    result = np.asarray(values, dtype=object)
    if result.ndim != 1:
        raise ValueError(f"expected one label a cell, found an array of shape {result.shape}.")
    # pandas' missing value compares with nothing, not even with itself
    return np.array([None if type(v).__name__ == "NAType" else v for v in result], dtype=object)


class _Pairs:
    """The distinct pairs of true and predicted label: everything is worked out once a pair, then weighted by its cells.

    Attributes
    ----------
    of_cell, count
        (n,) the pair of each cell; (p,) the cells of each pair.
    true, guess
        (p,) list of keys that are equal when the labels mean the same: ids where they resolve, else labels.
    true_id, guess_id
        (p,) ids, None where there are none.
    exact, unknown
        (p,) bool.
    """

    def __init__(self, truth: ArrayLike, predicted: ArrayLike, ontology: Ontology | None) -> None:
        true, guess = _labels(truth), _labels(predicted)
        if len(true) != len(guess):
            raise ValueError(f"expected as many predictions as true labels, found {len(guess)} and {len(true)}.")
        if not len(true):
            raise ValueError("expected at least one cell, found none.")
        missing = [i for i, label in enumerate(true) if _is_unknown(label)]
        if missing:
            raise ValueError(
                f"{len(missing)} cells have no true label (first at position {missing[0]}: {true[missing[0]]!r}). "
                "Leave them out of both arrays."
            )
        ids = {label: _to_id(str(label), ontology) for label in {*true, *(g for g in guess if not _is_unknown(g))}}
        place: dict[tuple[str, str], int] = {}
        keys = [
            (ids[t] or str(t), UNKNOWN if _is_unknown(g) else ids[g] or str(g))
            for t, g in zip(true, guess, strict=True)
        ]
        self.of_cell = np.array([place.setdefault(key, len(place)) for key in keys], dtype=np.int64)
        self.count = np.bincount(self.of_cell, minlength=len(place))
        self.true = [key[0] for key in place]
        self.guess = [key[1] for key in place]
        known = {i for i in ids.values() if i is not None}
        self.true_id = [t if t in known else None for t in self.true]
        self.guess_id = [g if g in known else None for g in self.guess]
        self.unknown = np.array([g == UNKNOWN for g in self.guess], dtype=bool)
        self.exact = np.array([t == g for t, g in place], dtype=bool) & ~self.unknown

    def mean(self, per_pair: np.ndarray) -> float:
        """Mean over cells of a value a pair, (p,) → float."""
        return float(np.average(per_pair, weights=self.count))


def _to_id(label: str, ontology: Ontology | None) -> str | None:
    if ontology is None:
        return None
    if label in ontology:
        return label
    match = ontology.resolve(label, min_score=1.0)  # 1: nothing fuzzy
    return match.term_id


def _f1(pairs: _Pairs) -> dict[str, float]:
    """F1 = 2 TP / (cells of the type + predictions of it), of each true type; its mean plain and weighted by cells."""
    types = sorted(set(pairs.true))
    row = {label: i for i, label in enumerate(types)}
    cells, calls, hits = np.zeros(len(types)), np.zeros(len(types)), np.zeros(len(types))
    for true, guess, right, n in zip(pairs.true, pairs.guess, pairs.exact, pairs.count, strict=True):
        cells[row[true]] += n
        if guess in row:
            calls[row[guess]] += n
        if right:
            hits[row[true]] += n
    f1 = 2.0 * hits / (cells + calls)
    return {"macro_f1": float(f1.mean()), "weighted_f1": float(np.average(f1, weights=cells))}


_ONTOLOGY_KEYS = (
    "ontology_similarity",
    "pagerank_similarity",
    "hierarchical_precision",
    "hierarchical_recall",
    "hierarchical_f1",
    "lca_distance",
)


def _ontology_scores(pairs: _Pairs, ontology: Ontology | None) -> dict[str, float]:
    if ontology is None:
        return dict.fromkeys(_ONTOLOGY_KEYS, float("nan"))
    roots = set(ontology.roots)

    def above(key: str, term: str | None, abstains: bool = False) -> frozenset[str]:
        if abstains:
            return frozenset()
        return frozenset([key]) if term is None else ontology.ancestors(term, include_self=True) - roots

    lin, walk = pairs.exact.astype(np.float64), pairs.exact.astype(np.float64)
    placed = [(i, t, g) for i, (t, g) in enumerate(zip(pairs.true_id, pairs.guess_id, strict=True)) if t and g]
    if placed:
        rows, columns = sorted({g for _, _, g in placed}), sorted({t for _, t, _ in placed})
        at = [rows.index(g) for _, _, g in placed], [columns.index(t) for _, t, _ in placed]
        where = [i for i, _, _ in placed]
        lin[where] = ontology.similarity_matrix(rows, columns, "lin")[at]
        walk[where] = ontology.similarity_matrix(rows, columns, "pagerank")[at]

    shared, said, meant, steps = (np.zeros(len(pairs.count)) for _ in range(4))
    for i, (true, guess) in enumerate(zip(pairs.true, pairs.guess, strict=True)):
        t = above(true, pairs.true_id[i])
        g = above(guess, pairs.guess_id[i], bool(pairs.unknown[i]))
        shared[i], said[i], meant[i] = len(t & g), len(g), len(t)
        steps[i] = 0 if pairs.exact[i] else _steps(pairs, i, ontology)
    overlap = float(pairs.count @ shared)
    said_all, meant_all = float(pairs.count @ said), float(pairs.count @ meant)
    return {
        "ontology_similarity": pairs.mean(lin),
        "pagerank_similarity": pairs.mean(walk),
        "hierarchical_precision": overlap / said_all if said_all else 0.0,
        "hierarchical_recall": overlap / meant_all if meant_all else 0.0,
        "hierarchical_f1": 2.0 * overlap / (said_all + meant_all) if said_all + meant_all else 0.0,
        "lca_distance": pairs.mean(steps),
    }


def _steps(pairs: _Pairs, i: int, ontology: Ontology) -> int:
    """Edges between the two labels of a pair; an abstention stands at the root, a label without id one below it."""
    true, guess = pairs.true_id[i], pairs.guess_id[i]
    if true is not None and guess is not None:
        try:
            return ontology.distance(true, guess)
        except ValueError:  # two roots, nothing in common
            pass
    return _to_root(true, ontology) + (0 if pairs.unknown[i] else _to_root(guess, ontology))


def _to_root(term: str | None, ontology: Ontology) -> int:
    """Fewest edges from a term up to a root; 1 for a label without id."""
    if term is None:
        return 1
    steps = ontology.graph.steps_up(ontology.index(term))
    return min(n for place, n in steps.items() if not ontology.graph.parents[place])


def _confidence(
    confidence: ArrayLike | None,
    probabilities: ArrayLike | None,
    categories: Sequence[str] | None,
    predicted: ArrayLike,
    pairs: _Pairs,
    ontology: Ontology | None,
) -> np.ndarray | None:
    """The confidence of each prediction, (n,) float64, or None where nothing says it."""
    n = len(pairs.of_cell)
    if confidence is not None:
        sure = np.asarray(confidence, dtype=np.float64)
        if sure.shape != (n,):
            raise ValueError(f"expected one confidence for each of {n} cells, found shape {sure.shape}.")
        return sure
    if probabilities is None:
        return None
    table = np.asarray(probabilities, dtype=np.float64)
    if table.ndim != 2 or len(table) != n or (categories is not None and table.shape[1] != len(categories)):
        wanted = f"({n}, {'k' if categories is None else len(categories)})"
        raise ValueError(f"expected probabilities of shape {wanted}, found {table.shape}.")
    sure = table.max(axis=1)
    if categories is None:
        return sure
    column_ids = [_to_id(str(c), ontology) or str(c) for c in categories]
    for pair, guess in enumerate(pairs.guess):
        below = {guess}
        if ontology is not None and guess in ontology:
            below |= ontology.descendants(guess)
        columns = [j for j, column in enumerate(column_ids) if column in below]
        if columns:
            cells = pairs.of_cell == pair
            # float rounding of a float32 table may pass 1
            sure[cells] = np.minimum(table[np.ix_(cells, columns)].sum(axis=1), 1.0)
    return sure
