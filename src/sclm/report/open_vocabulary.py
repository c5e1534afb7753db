"""The chapter on an open vocabulary: a cell type is held out, and its cells are named by models that may answer every term."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pandas as pd

from sclm import get, metrics, models, tl
from sclm.knowledge import KnowledgeGraph, Ontology
from sclm.report import html

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import anndata
    import numpy as np

    from sclm.models.family import Family

KEY = "sclm_cell_type"
_PRESET = "tiny"
_STAGES: tuple[str, ...] = ("anchor", "align", "reinforce")
_HELD_OUT = "CL:0000451"  # dendritic cell: a third of these cells
_TRUTH_ID, _FREE = "cell_type_ontology_term_id", "author_cell_type"
_EXPLAINED = 2  # cells of each answered type


def name_openly(
    train: anndata.AnnData, held_out: anndata.AnnData, out: Path, *, seed: int, say: Callable[[str], None]
) -> tuple[html.Chapter, dict[str, Path]]:
    """Train without dendritic cells, name all held-out cells with every term of the Cell Ontology as a candidate, and ask why.

    Parameters
    ----------
    train, held_out
        Real cells with raw counts and cell types.
    out
        Folder to write to.
    seed
        Of training and of the explained cells.
    say
        Called with each line of progress.

    Returns
    -------
    The chapter and its files.
    """
    ontology = Ontology.load("cl")
    name = ontology.name_of(_HELD_OUT)
    known = train[(train.obs[_TRUTH_ID].astype(str) != _HELD_OUT).to_numpy()].copy()
    graph = KnowledgeGraph.default().without_markers_of([_HELD_OUT])
    say(
        f"an open vocabulary: {known.n_obs} cells without {name}s to learn from, {len(ontology.ids):,} terms to answer with …"
    )
    start = time.perf_counter()
    annotator = models.train(
        "celltosg", known, label_key=_FREE, graph=graph, preset=_PRESET, stages=_STAGES, progress_bar=False, seed=seed
    )
    seconds = time.perf_counter() - start
    methods: dict[str, Family] = {
        "logistic": models.train("logistic", known, label_key=_FREE, seed=seed),
        "onclass": models.train("onclass", known, label_key=_FREE, seed=seed),
        f"celltosg, {_PRESET}": annotator,
    }
    new = (held_out.obs[_TRUTH_ID].astype(str) == _HELD_OUT).to_numpy()
    rows, answers = {}, {}
    for method, model in methods.items():
        shown = held_out.copy()
        explain = _EXPLAINED if model is annotator else 0
        tl.annotate(shown, model, explain=explain, seed=seed)
        rows[method] = _scores(shown, new, ontology)
        answers[method] = get.annotate(shown)["cell_type"].astype(str)[new].value_counts().head(4)
    table = pd.DataFrame(rows).T
    table.index.name = "method"
    say("\n" + table.round(3).to_string() + "\n")
    why, record = get.annotate_explanation(shown), shown.uns[KEY]
    files = {"open vocabulary": out / "open_vocabulary.csv", "explanations": out / "explanations.csv"}
    table.to_csv(files["open vocabulary"])
    why.to_csv(files["explanations"], index=False)
    return html.Chapter(
        "Types that were not shown", _blocks(name, known.n_obs, seconds, table, answers, why, record)
    ), files


def _scores(adata: anndata.AnnData, new: np.ndarray, ontology: Ontology) -> dict[str, float]:
    """Accuracy and Lin similarity of known and of new types apart."""
    truth = adata.obs[_TRUTH_ID].astype(str).to_numpy(dtype=object)
    answer = get.annotate(adata)["ontology_term_id"].astype(str).to_numpy(dtype=object)
    found = {}
    for word, some in (("known types", ~new), ("the new type", new)):
        scores = metrics.annotation(truth[some], answer[some], ontology=ontology)
        found[f"accuracy, {word}"] = scores["accuracy"]
        found[f"similarity, {word}"] = scores["ontology_similarity"]
    return found


def _blocks(
    name: str,
    n_known: int,
    seconds: float,
    table: pd.DataFrame,
    answers: dict[str, Any],
    why: pd.DataFrame,
    record: Any,
) -> list[str]:
    counts = pd.DataFrame(
        [(method, answer, n) for method, found in answers.items() for answer, n in found.items()],
        columns=["method", f"answer to a {name}", "cells"],
    ).set_index("method")
    cell = why["cell"].iloc[0]
    part = why[why["cell"] == cell].drop(columns=["cell"]).set_index("kind")
    genes = record["faithfulness"]["genes"]
    return [
        html.text(
            f"No {name} is among the {n_known} training cells, and their markers, and those of every kind of {name}, were taken out of the "
            "knowledge graph. Every term of the Cell Ontology may be answered. `celltosg` is a small language model behind tokens of the "
            f"graph, trained here in {seconds:.0f} seconds; `onclass` spreads a classifier's probabilities over the ontology; `logistic` can "
            "answer training types only."
        ),
        html.table(table, decimals=dict.fromkeys(table.columns, 3)),
        html.table(counts),
        html.text(
            "Similarity is Lin's, 1 for the same term: an answer that is wrong but near counts more than one that is far. One held-out type of one "
            "small data set shows what the question is, not who is best: the benchmarks pool many types, and there too the exact term of a type "
            "without training cells is seldom found."
        ),
        html.text(
            f"What moved the answer of one cell ({cell}): the genes and nodes of the graph whose deletion costs the answer most log probability, in "
            "nats, beside the attention that the virtual tokens paid them."
        ),
        html.table(part.round(3)),
        html.text(
            f"Deleted one by one is not deleted together, so it is checked: over {genes['cells']} explained cells, deleting the shown genes costs {genes['shown']:.2f} "
            f"nats on average, deleting as many random genes of the cell {genes['random']:.2f}; the shown ones cost more in {genes['share']:.0%} of them."
        ),
        html.code(
            'model = sclm.train("celltosg", reference, label_key="cell_type")\n'
            'sclm.tl.annotate(adata, model, under="leukocyte", explain=3)\n'
            "sclm.get.annotate_explanation(adata)"
        ),
    ]
