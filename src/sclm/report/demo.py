"""The main jobs on real cells: named, written, found on tissue, turned into vectors; methods compared, all written down."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from sclm import datasets, get, models, pl, tl
from sclm.evidence import softmax
from sclm.knowledge import Ontology
from sclm.metrics import annotation, coverage_accuracy, expected_calibration_error
from sclm.report import describe, embed, generate, html, interface, map_spatial, open_vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import anndata
    import pandas as pd

METHODS = ("majority", "mean", "knn", "logistic")
SHOWN = "logistic"
_HELD_OUT = 0.3
_TRUTH, _TRUTH_ID, _FREE = "cell_type", "cell_type_ontology_term_id", "author_cell_type"
_N_SPLITS = 5


def demo(out: Path, *, seed: int = 0, say: Callable[[str], None] = lambda line: None) -> pd.DataFrame:
    """Name real blood cells with every annotator, write cells like them, map a section, and report all of it in HTML.

    Parameters
    ----------
    out
        Folder to write to, made where it does not exist.
    seed
        Of the splits and of the methods.
    say
        Called with each line of progress.

    Returns
    -------
    One row a method: accuracy and the rest on held-out cells, mean over five random splits.
    """
    import matplotlib as mpl

    with mpl.rc_context({"backend": "agg"}):
        return _demo(out, seed, say)


def _demo(out: Path, seed: int, say: Callable[[str], None]) -> pd.DataFrame:
    start = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    adata = datasets.pbmc68k()
    ontology = Ontology.load("cl")
    say(
        f"{adata.n_obs} blood cells x {adata.n_vars} genes, {adata.obs[_TRUTH].nunique()} cell types (Zheng et al. 2017, reduced set)"
    )
    table, shown = compare(adata, seed=seed, say=say)
    say("\n" + table.round(3).to_string() + "\n")

    backed = shown.copy()
    train = adata[~adata.obs_names.isin(shown.obs_names)].copy()
    tl.annotate(
        backed, SHOWN, reference=train, label_key=_FREE, min_confidence=0.8, key_added="sclm_backed_off", seed=seed
    )
    chapters = [
        _chapter_data(adata, shown),
        _chapter_methods(table),
        _chapter_cells(shown, out / "figures"),
        _chapter_back_off(backed, ontology, out / "figures"),
    ]
    chapter, opened = open_vocabulary.name_openly(train, shown, out, seed=seed, say=say)
    chapters.append(chapter)
    written = generate.write_cells(adata, out, seed=seed, say=say)
    chapters.append(written.chapter)
    chapter, mapped = map_spatial.map_section(written.train, written.held_out, written.model, out, seed=seed, say=say)
    chapters.append(chapter)
    chapter, described = describe.describe_groups(adata, out, seed=seed, say=say)
    chapters.append(chapter)
    chapter, signals = interface.find_signals(adata, out, seed=seed, say=say)
    chapters.append(chapter)
    chapter, embedded = embed.embed_cells(written.train, written.held_out, out, seed=seed, say=say)
    chapters.append(chapter)
    files = {
        "annotated": out / "pbmc68k_annotated.h5ad",
        "methods": out / "methods.csv",
        **opened,
        **written.files,
        **mapped,
        **described,
        **signals,
        **embedded,
    }
    files["report"] = out / "report.html"
    backed.write_h5ad(files["annotated"])
    table.to_csv(files["methods"])
    html.write(
        files["report"],
        "sclm: blood cells, named, written, mapped and embedded",
        f"{shown.n_obs} held-out cells named by models trained on {train.n_obs} others, and cells written by a model from "
        f"metadata alone, cell types found on a section, cells as vectors of an encoder. Made in {time.perf_counter() - start:.0f} seconds on this machine.",
        chapters,
    )
    files["figures"] = out / "figures"
    for what, path in files.items():
        say(f"{what}: {path}")
    say(f"done in {time.perf_counter() - start:.0f} s")
    return table


def compare(adata: anndata.AnnData, *, seed: int, say: Callable[[str], None]) -> tuple[pd.DataFrame, anndata.AnnData]:
    """Every annotator on five random splits; also the annotated held-out cells of the first split."""
    import pandas as pd

    ontology = Ontology.load("cl")
    # Once outside the clock: the first call of a process loads the ontology and compiles.
    models.train(SHOWN, adata[:100].copy(), label_key=_FREE, seed=seed)
    rows = []
    shown = None
    for split in range(_N_SPLITS):
        held = _held_out(adata.obs[_TRUTH_ID].astype(str).to_numpy(), np.random.default_rng([seed, split]))
        train, test = adata[~held].copy(), adata[held].copy()
        for method in METHODS:
            start = time.perf_counter()
            model = models.train(method, train, label_key=_FREE, seed=seed)
            tl.annotate(test, model)
            seconds = time.perf_counter() - start
            rows.append({"method": method, **_scores(test, model, ontology), "seconds": seconds})
            if split == 0 and method == SHOWN:
                shown = test.copy()
        say(f"split {split + 1} of {_N_SPLITS}: {len(train)} cells to train on, {len(test)} to test")
    scores = pd.DataFrame(rows).groupby("method", sort=False)
    table = scores.mean()
    table.insert(1, "± sd", scores["accuracy"].std())
    return table, shown


def _held_out(types: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n,) bool: 30 % of the cells of each type."""
    held = np.zeros(len(types), dtype=bool)
    for name in np.unique(types):
        cells = np.flatnonzero(types == name)
        held[rng.choice(cells, round(_HELD_OUT * len(cells)), replace=False)] = True
    return held


def _scores(test: anndata.AnnData, model: Any, ontology: Ontology) -> dict[str, float]:
    """Metrics of one annotated test set, with the calibration error as it would be without temperature."""
    truth = test.obs[_TRUTH_ID].astype(str).to_numpy(dtype=object)
    predicted = get.annotate(test)
    scores = annotation(
        truth,
        predicted["ontology_term_id"].astype(str).to_numpy(dtype=object),
        confidence=predicted["confidence"].to_numpy(),
        ontology=ontology,
    )
    p = get.probabilities(test).to_numpy(dtype=float)
    raw = softmax(np.log(np.maximum(p, 1e-12)), 1 / model.config.temperature)
    correct = truth == np.array(model.config.term_ids, dtype=object)[raw.argmax(axis=1)]
    return {
        "accuracy": scores["accuracy"],
        "macro F1": scores["macro_f1"],
        "ontology similarity": scores["ontology_similarity"],
        "calibration error": scores["expected_calibration_error"],
        "uncalibrated": expected_calibration_error(correct, raw.max(axis=1)),
    }


def _chapter_data(adata: anndata.AnnData, shown: anndata.AnnData) -> html.Chapter:
    import pandas as pd

    read = shown.uns["sclm_cell_type"]["reference_labels"]  # how annotate read each label
    cells = adata.obs[_FREE].astype(str).value_counts()
    table = pd.DataFrame(
        {
            "term": read["name"].to_list(),
            "id": read["term_id"].to_list(),
            "matched by": read["kind"].to_list(),
            "cells": [int(cells[label]) for label in read["label"]],
        },
        index=pd.Index(read["label"], name="author label"),
    )
    return html.Chapter(
        "The cells",
        [
            html.text(
                "700 blood cells of one healthy donor (Zheng et al., Nature Communications 2017; 10x 3' v1), from the file that the "
                "scanpy package carries. It is a reduced set: 765 variable genes, not whole transcriptomes, and 240 of the 700 cells "
                "are dendritic cells, far more than blood holds. The rarest type has 8 cells. Labels are the authors', given by "
                "correlation with sorted populations, and are noisy among T cells."
            ),
            html.text("The authors' free labels are resolved to Cell Ontology terms:"),
            html.table(table),
        ],
    )


def _chapter_methods(table: pd.DataFrame) -> html.Chapter:
    best = {"accuracy": "max", "macro F1": "max", "ontology similarity": "max"}
    winner = str(table["accuracy"].idxmax())
    return html.Chapter(
        "The methods",
        [
            html.text(
                f"Each method learns from 70 % of the cells of each type and names the other 30 %; figures are means over {_N_SPLITS} "
                "random splits. All cells come from one donor and one run, so these figures say how well a method names more of the "
                "same, not how it does on another study."
            ),
            html.table(table, decimals={"seconds": 2}, best=best),
            html.text(
                "`ontology similarity` is the mean Lin similarity of answer and truth in the Cell Ontology (1 is the same term, "
                "confusing two T cells costs less than confusing a T cell with a monocyte). `calibration error` is the expected gap "
                "between confidence and accuracy, `uncalibrated` the same before temperature scaling: one temperature a model, fitted "
                "to the likelihood of about a hundred cells, which does not mend every model. `majority` gives every cell the most "
                "frequent type and its share as confidence: well calibrated, and useless; it is the floor. Most accurate here: "
                f"`{winner}`."
            ),
        ],
    )


def _chapter_cells(shown: anndata.AnnData, folder: Path) -> html.Chapter:
    drawn = (
        (
            pl.annotate(shown)[0],
            "embedding",
            "UMAP of the held-out cells, by predicted cell type and by calibrated confidence.",
        ),
        (
            pl.annotate_agreement(shown, _TRUTH),
            "agreement",
            "Label (as Cell Ontology term) against prediction. Area: share of the row; colour: mean confidence.",
        ),
        (
            pl.annotate_reliability(shown, _TRUTH_ID),
            "reliability",
            "Reliability: share of right answers at each confidence.",
        ),
    )
    return html.Chapter(
        "The named cells",
        [
            html.text(f"The held-out cells of the first split, named by `{SHOWN}`."),
            *(html.figure(ax.figure, caption, folder / f"{name}.png") for ax, name, caption in drawn),
            html.code('sclm.tl.annotate(adata, reference=reference, label_key="cell_type")\nsclm.pl.annotate(adata)'),
        ],
    )


def _chapter_back_off(backed: anndata.AnnData, ontology: Ontology, folder: Path) -> html.Chapter:
    import matplotlib.pyplot as plt
    import pandas as pd

    key = "sclm_backed_off"
    truth = backed.obs[_TRUTH_ID].astype(str).to_numpy(dtype=object)
    answer = backed.obs[f"{key}_ontology_term_id"].astype(str).to_numpy(dtype=object)
    fine = backed.obs["sclm_cell_type_ontology_term_id"].astype(str).to_numpy(dtype=object)
    true = np.array(
        [a == t or (a in ontology and a in ontology.ancestors(t)) for a, t in zip(answer, truth, strict=True)]
    )
    counts = pd.Series(backed.obs[key].astype(str)).value_counts()
    kinds = pd.DataFrame({"cells": counts.to_numpy()}, index=pd.Index(counts.index, name="answer"))
    kinds["true"] = [float(true[(backed.obs[key].astype(str) == name).to_numpy()].mean()) for name in counts.index]

    curve = coverage_accuracy(truth == fine, backed.obs["sclm_cell_type_confidence"].to_numpy(dtype=float))
    figure, ax = plt.subplots(figsize=(4.8, 3.4), layout="constrained")
    ax.plot(curve["coverage"], curve["accuracy"], color="#2a6f97")
    ax.set(
        xlabel="share of cells named (most confident first)",
        ylabel="accuracy",
        xlim=(0, 1.02),
        ylim=(min(0.5, curve["accuracy"].min()), 1.01),
    )
    ax.spines[["top", "right"]].set_visible(False)
    picture = html.figure(figure, "Accuracy of the most confident cells, without back-off.", folder / "coverage.png")
    return html.Chapter(
        "Where the model is not sure",
        [
            html.text(
                f"With `min_confidence=0.8` a doubtful cell gets the most specific term whose summed probability reaches 0.8. "
                f"{true.mean():.0%} of the answers are then true (the term itself or a kind it belongs to), against {(truth == fine).mean():.0%} "
                f"when the most probable type is always given; {(answer == fine).mean():.0%} of the cells keep their specific type."
            ),
            html.table(kinds, decimals={"true": 2}),
            picture,
        ],
    )
