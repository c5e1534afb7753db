"""Random walks with restart over the ontology, whose steps prefer terms with like texts.

C terms · S starts
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sclm.knowledge import Ontology


def walk_with_restart(ontology: Ontology, starts: Sequence[str], restarts: Sequence[float]) -> np.ndarray:
    r"""Share of time that walks from each start spend at every term.

    .. math:: q = r\, e_s + (1 - r)\, P^\top q

    with P the row-normalised parent edges, both ways, each as heavy as :math:`(\cos(\mathrm{text}_i, \mathrm{text}_j) + 1) / 2`; texts are
    names, definitions and synonyms as TF-IDF of character trigrams. Solved exactly.

    Parameters
    ----------
    ontology
        Its terms.
    starts
        S ids.
    restarts
        Probabilities r of returning to the start, each in (0, 1); the shares are averaged over them.

    Returns
    -------
    (S, C) float64 in the order of ``ontology.ids``; rows sum to 1.
    """
    steps = _steps(ontology)
    n = len(ontology)
    start = np.zeros((n, len(starts)))
    start[[ontology.index(term) for term in starts], np.arange(len(starts))] = 1.0
    total = np.zeros((n, len(starts)))
    for restart in restarts:
        system = sparse.identity(n, format="csc") - (1.0 - restart) * steps.T
        total += restart * sparse.linalg.splu(system.tocsc()).solve(start)
    total /= total.sum(axis=0, keepdims=True)  # a term without edges keeps what others would lose at it
    return total.T


@cache
def _steps(ontology: Ontology) -> sparse.csr_array:
    """(C, C) float64 transition probabilities."""
    import scipy.sparse.linalg  # noqa: F401  (not imported with scipy.sparse)
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = [
        f"{ontology.name_of(term)}. {ontology.definition(term)} {'; '.join(ontology.synonyms(term))}"
        for term in ontology.ids
    ]
    features = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 3), sublinear_tf=True).fit_transform(texts)
    edges = sparse.triu(ontology.graph.undirected, format="coo")
    cosine = np.asarray(features[edges.row].multiply(features[edges.col]).sum(axis=1)).ravel()
    half = sparse.coo_array(((cosine + 1.0) / 2.0, (edges.row, edges.col)), shape=edges.shape)
    weights = (half + half.T).tocsr()
    degree = np.asarray(weights.sum(axis=1)).ravel()
    return (sparse.diags_array(1.0 / np.where(degree > 0, degree, 1.0)) @ weights).tocsr()
