"""Which terms annotators use at all: most of an ontology's terms are too special to be anybody's answer."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sclm.knowledge import KnowledgeGraph, Ontology

_COMMON = "known_markers"  # the source whose terms are the common ones; any markers where a graph lacks it
_LEAST = 1e-4
# Parts of names that tie a term to an organ, a stage or a species.
_PLACE = re.compile(
    r" of |resident|intestin|lung|cardiac|choroid|thym|appendix|peyer|splen|lymph node|bone marrow|fetal|liver|kidney|germinal|colon"
)
_STATE = re.compile(r"cycling|immature|activated|precursor|transitional|-negative|-low|-dim|mus\b|sapiens|human|sensu")


def term_features(ontology: Ontology, terms: Sequence[str]) -> np.ndarray:
    """What the ontology tells of a term's use, (C, 8) float64: descendants, depth, words, synonyms, mentions, place, state."""
    below = np.asarray(ontology.ancestor_matrix().sum(axis=0)).ravel() - 1.0
    words: Counter[str] = Counter()
    names = [ontology.name_of(t).lower() for t in ontology.ids]
    longest = max((len(name.split()) for name in names), default=1)
    wanted = set(names)
    for term in ontology.ids:
        text = re.findall(r"[^\s.;:()]+", f"{ontology.name_of(term)} . {ontology.definition(term)}".lower())
        for n in range(1, min(longest, 8) + 1):
            for i in range(len(text) - n + 1):
                phrase = " ".join(text[i : i + n])
                if phrase in wanted:
                    words[phrase] += 1
    at = [ontology.index(t) for t in terms]
    rows = []
    for term, i in zip(terms, at, strict=True):
        name = ontology.name_of(term).lower()
        kinds = np.log1p(below[i])
        rows.append(
            (
                kinds, kinds**2 / 5, ontology.depth(term) / 10, np.log(len(re.split(r"[\s,/-]+", name))),
                np.log1p(len(ontology.synonyms(term))), np.log1p(words[name]), float(bool(_PLACE.search(name))),
                float(bool(_STATE.search(name))),
            )
        )  # fmt: skip
    return np.array(rows, dtype=np.float64).reshape(-1, 8)


def usage_prior(graph: KnowledgeGraph, ontology: Ontology, terms: Sequence[str]) -> np.ndarray:
    """Log probability that a term is one that annotators use, learnt from the terms that the graph has common markers of.

    A logistic regression on :func:`term_features`: what counts is not whether the term itself has markers (a held-out one has
    none) but whether it looks like those that do.

    Parameters
    ----------
    graph
        Its ``gene-marks-cell_type`` edges.
    ontology
        Of the terms.
    terms
        C ids.

    Returns
    -------
    (C,) float64, at least log 1e-4; zeros where the graph has no markers.
    """
    from sklearn.linear_model import LogisticRegression

    pair = graph.edges.get("gene-marks-cell_type", np.empty((2, 0), dtype=np.int32))
    sources = graph.sources["source"].tolist()
    ends = pair[1]
    if _COMMON in sources and (own := graph.origins["gene-marks-cell_type"] == sources.index(_COMMON)).any():
        ends = ends[own]
    common = set(graph.nodes["id"].iloc[np.unique(ends)]) & set(terms)
    used = np.array([t in common for t in terms], dtype=bool)
    if not used.any() or used.all():
        return np.zeros(len(terms))
    features = term_features(ontology, terms)
    spread = features.std(axis=0)
    features = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    chance = LogisticRegression(max_iter=500).fit(features, used).predict_proba(features)[:, 1]
    return np.log(np.maximum(chance, _LEAST))
