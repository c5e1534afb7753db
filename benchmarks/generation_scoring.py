"""Scoring real cells with the generator, and its training: seconds, padding, exact resumption."""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from generation_data import FIELDS, cells_of, depths, fit, halves, labels, read, show, table

LEFT_OUT = ("NK", "B")


# Likelihood -----------------------------------------------------------------------------------------------------------


def likelihood(args) -> None:
    """Which type explains a cell best, beside classifiers; which cells no type explains, beside their novelty."""
    named, unseen = [], []
    for data in args.data:
        adata = read(args.folder, data)
        for seed in range(args.seeds):
            train, test = halves(adata, "cell_type", seed)
            model, trained = fit(train, FIELDS, args, seed)
            named += named_rows(data, model, train, test, seed, trained.wall)
    blood, pancreas = read(args.folder, "pbmc3k"), read(args.folder, "pancreas")
    shared = blood.var_names.intersection(pancreas.var_names)
    pancreas.obs = pancreas.obs.assign(tissue="blood", disease="normal")  # judged by their counts, not by their label
    for seed in range(args.seeds):
        train, test = halves(blood, "cell_type", seed)
        genes = (train[:, shared], test[:, shared])
        jobs = [("pancreas, thinned to the depths of blood", *genes, thinned(pancreas[:, shared], genes[1], seed))]
        for kind in args.types or LEFT_OUT:
            known = labels(train) != kind
            jobs.append((kind, train[known], test[labels(test) != kind], blood[labels(blood) == kind]))
        for what, learned, usual, strange in jobs:
            unseen.append(unseen_row(what, *(c.copy() for c in (learned, usual, strange)), args, seed))
    show("Which cell type: the most likely one under the generator", table(named, ["data", "method"]))
    show("Cells that training lacks (pbmc3k): AUROC", table(unseen, ["what is new"]))


def scores(model, adata) -> np.ndarray:
    """Log likelihood of each cell under each type (n, n_types), nats."""
    from sclm.cells import read_cells

    return model.log_likelihood(read_cells(adata, obs_keys=list(FIELDS)).read(), "cell_type")


def named_rows(data: str, model, train, test, seed: int, seconds: float) -> list[dict]:
    import sclm
    from sclm.cells import read_cells

    truth = labels(test)
    start = time.perf_counter()
    found = scores(model, test)
    took = time.perf_counter() - start
    common = pd.Series(labels(train)).value_counts(normalize=True)
    prior = np.log(common.reindex(found.columns).to_numpy())
    answers = {
        "ours, types equally common": found.columns[found.to_numpy().argmax(axis=1)],
        "ours, types as in training": found.columns[(found.to_numpy() + prior).argmax(axis=1)],
    }
    rows = [scored(data, name, truth, answer, seed, seconds, took) for name, answer in answers.items()]
    # The truth by the names that the annotators give the labels: two labels of one term are one.
    for method in ("logistic", "majority"):
        start = time.perf_counter()
        classifier = sclm.train(method, train, label_key="cell_type", seed=seed)
        fitted = time.perf_counter()
        answer = classifier.annotate(read_cells(test).read()).table["label"]
        took = time.perf_counter() - fitted
        term_of = classifier.reference_labels.set_index("label")["name"].to_dict()
        named = np.array([term_of[t] for t in truth], dtype=object).astype(str)
        rows.append(scored(data, method, named, answer, seed, fitted - start, took))
    return rows


def scored(data: str, method: str, truth, answer, seed: int, train_s: float, score_s: float) -> dict:
    from sklearn.metrics import f1_score

    answer = np.asarray(answer).astype(str)
    return {
        "data": data, "method": method, "seed": seed, "accuracy": float((truth == answer).mean()),
        "macro_f1": float(f1_score(truth, answer, average="macro")), "train_s": train_s, "score_s": score_s,
    }  # fmt: skip


def thinned(adata, like, seed: int):
    """Each cell with a random part of its counts, so that its depth is that of a random cell of `like`, at most its own."""
    rng = np.random.default_rng(seed)
    counts = adata.X.tocsr()
    wanted = rng.choice(depths(like), adata.n_obs)
    kept = np.minimum(1.0, wanted / np.maximum(depths(adata), 1.0))
    part = counts.copy()
    part.data = rng.binomial(counts.data.astype(np.int64), np.repeat(kept, np.diff(counts.indptr))).astype(np.float32)
    part.eliminate_zeros()
    return cells_of(part, adata.var_names, adata.obs)


def unseen_row(what: str, train, usual, strange, args, seed: int) -> dict:
    """AUROC of log likelihood (whole, a count, a count beyond what the depth foretells) and of the annotator's novelty."""
    import anndata
    from scipy.special import logsumexp
    from sklearn.metrics import roc_auc_score

    import sclm

    model, _ = fit(train, FIELDS, args, seed)
    test = anndata.concat([usual, strange])
    test.obs_names_make_unique()
    new = np.arange(test.n_obs) >= usual.n_obs
    score = -logsumexp(scores(model, test).to_numpy(), axis=1)
    total = depths(test)
    sclm.tl.annotate(test, "logistic", reference=train, label_key="cell_type", seed=seed)
    return {
        "what is new": what,
        "seed": seed,
        "cells": float(new.sum()),
        "log likelihood": roc_auc_score(new, score),
        "log likelihood a count": roc_auc_score(new, score / np.maximum(total, 1.0)),
        "beyond its depth": roc_auc_score(new, beyond(score, total, ~new)),
        "depth alone": roc_auc_score(new, total),
        "novelty of logistic": roc_auc_score(new, test.obs["sclm_cell_type_novelty"]),
    }


def beyond(score: np.ndarray, total: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """Score a count less what the depth foretells: a parabola in log depth, through the usual cells."""
    depth = np.log(np.maximum(total, 1.0))
    value = score / np.maximum(total, 1.0)
    return value - np.polyval(np.polyfit(depth[usual], value[usual], 2), depth)


# Training -------------------------------------------------------------------------------------------------------------


def training(args) -> None:
    """Seconds on 700 cells, padding, and a run that is killed and goes on."""
    import sclm

    adata = sclm.datasets.pbmc68k()
    rows = []
    for seed in range(args.seeds):
        model, took = fit(adata, FIELDS, args, seed)
        rows.append(
            {
                "run": "uninterrupted",
                "seed": seed,
                "wall_s": took.wall,
                "cpu_s": took.cpu,
                "epochs": model.card["epochs"],
            }
        )
    show(f"Training, preset {args.preset}, {adata.n_obs} cells x {adata.n_vars} genes", table(rows, ["run"]))
    print("\n" + padding(model))
    print("\n" + resumed(args), flush=True)


def padding(model) -> str:
    """All cells are as long as each other: a share of padding has to be asked of the tokens, and is none."""
    tokens = model.network.n_fields + model.network.n_slots
    return (
        f"Padding: every cell is {tokens} tokens (fields, depth, programmes) behind the first one; share of padding 0."
    )


def child(folder: str, preset: str, out: str) -> None:
    """One training run in a folder; writes what it learned."""
    import sclm

    model = sclm.train(
        "pgl", sclm.datasets.pbmc68k(), obs_keys=list(FIELDS), preset=preset, seed=0, progress_bar=False, folder=folder,
        accelerator="cpu",
    )  # fmt: skip
    np.savez(Path(out).with_suffix(".npz"), **model.arrays())
    Path(out).with_suffix(".json").write_text(json.dumps(model.card))


def resumed(args) -> str:
    """A run killed inside its training, then called again, against one that was left alone."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        for run in ("whole", "killed"):
            job = context.Process(target=child, args=(str(place / run), args.preset, str(place / f"{run}-out")))
            job.start()
            if run == "killed":
                epochs = kill_within(job, place / run / "last.ckpt")
                job = context.Process(target=child, args=(str(place / run), args.preset, str(place / f"{run}-out")))
                job.start()
            job.join()
        cards = [json.loads((place / f"{run}-out.json").read_text()) for run in ("whole", "killed")]
        whole, again = (np.load(place / f"{run}-out.npz") for run in ("whole", "killed"))
        apart = max(
            float(np.abs(whole[k].astype(float) - again[k].astype(float)).max()) for k in whole.files if whole[k].size
        )
    same = cards[0] == cards[1]
    return (
        f"Resume: killed after checkpoint {epochs} and called again: largest difference of any weight or statistic {apart:.3g}, "
        f"losses and epochs {'equal' if same else f'differ: {cards[0]} against {cards[1]}'}."
    )


def kill_within(job, checkpoint: Path, after: int = 3) -> int:
    """Kill our own child process once it has written so many checkpoints; returns how many it had."""
    seen, last = 0, 0.0
    while job.is_alive() and seen < after:
        time.sleep(0.02)
        written = checkpoint.stat().st_mtime if checkpoint.exists() else 0.0
        seen, last = seen + (written > last), max(last, written)
    job.kill()
    job.join()
    return seen
