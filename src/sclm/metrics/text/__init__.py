"""How good texts about cells are: by their words, by the terms they name, by what expert texts they resemble.

:func:`compare` makes a table of the words. Names are loaded on first use. Legend of shapes: n texts · S gene sets · T terms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sclm._lazy import lazy_names

if TYPE_CHECKING:
    from sclm.metrics.text.named import entity_f1, faithfulness, pagerank_similarity
    from sclm.metrics.text.overlap import bleu, chrf, compare, rouge_l
    from sclm.metrics.text.pathways import pathways
    from sclm.metrics.text.retrieval import retrieval

_HOME = {
    "bleu": "overlap",
    "chrf": "overlap",
    "compare": "overlap",
    "entity_f1": "named",
    "faithfulness": "named",
    "pagerank_similarity": "named",
    "pathways": "pathways",
    "retrieval": "retrieval",
    "rouge_l": "overlap",
}

__all__ = [
    "bleu",
    "chrf",
    "compare",
    "entity_f1",
    "faithfulness",
    "pagerank_similarity",
    "pathways",
    "retrieval",
    "rouge_l",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
