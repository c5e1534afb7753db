"""Fidelity: cells of the training half's metadata against the other half, with floors, cheats and peers."""

from __future__ import annotations

import importlib.util
import os
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from generation_data import FIELDS, REAL_DATA, Clock, cells_of, depths, fit, halves, labels, read, show, table, write

JUDGE = Path(os.environ.get("SCLM_GENERATION_JUDGE", REAL_DATA.parent / "bench" / "generation_metrics.py"))
COLUMNS = (
    "c2st_gb", "c2st_lr", "mixing", "tstr", "genegene_r", "nn_ratio", "depth_ratio", "nnz_ratio", "zero_r",
)  # fmt: skip
OURS = ("ours", "ours, depths given", "ours, tissue and disease only")
PEERS = ("scVI", "rank language model")
NAIVE = {
    "independent Poisson of the type": ("independent_poisson", {}),
    "multinomial, mean of 5 of the type": ("mean_of_five", {}),
    "copies of training cells": ("resampled", {}),
    "multinomial around 1 training cell": ("multinomial_around_one", {}),
    "around it and its 4 nearest": ("multinomial_around_neighbours", {"k": 4}),
    "around it and its 5 nearest": ("multinomial_around_neighbours", {"k": 5}),
}
ROWS = ("other real half", *NAIVE, *PEERS, *OURS)


@cache
def judge_script():
    """The judge where its script is found, else None: our own metrics then."""
    if not JUDGE.is_file():
        return None
    spec = importlib.util.spec_from_file_location("generation_judge", JUDGE)
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        spec.loader.exec_module(module)
    return module.judge


def judged(test, made, train) -> dict[str, float]:
    """The columns of one row."""
    from sclm.metrics.generation import compare, fold_change_agreement

    judge = judge_script()
    if judge is not None:
        found = judge(test, made, "cell_type", train)
    else:
        found = compare(test, made, label_key="cell_type", train=train, floors=False).set_index("metric")["value"]
    slopes = fold_change_agreement(test.X, made.X, labels(test), labels(made))
    return {c: float(found[c]) for c in COLUMNS} | {"lfc_slope": float(slopes["corrected"].mean())}


def naive(name: str, train, seed: int):
    import sclm.metrics.generation as metrics

    function, options = NAIVE[name]
    clock = Clock.start()
    counts = getattr(metrics, function)(train.X, labels(train), labels(train), seed=seed, **options)
    return cells_of(counts, train.var_names, train.obs), clock.stop()


def request_of(name: str, train) -> pd.DataFrame:
    fields = list(FIELDS[:2]) if name == OURS[2] else list(FIELDS)
    request = train.obs[fields].astype(str)
    return request.assign(n_counts=depths(train)) if name == OURS[1] else request


def run(args) -> None:
    for data in args.data:
        adata = read(args.folder, data)
        rows, notes = [], []
        for seed in range(args.seeds):
            train, test = halves(adata, "cell_type", seed)
            rows += one_split(train, test, seed, args, notes)
        frame = table(rows, ["row"])
        how = JUDGE.name if judge_script() is not None else "sclm.metrics.generation"
        show(
            f"Fidelity, {data}: {train.n_obs:,} training and {test.n_obs:,} test cells x {adata.n_vars:,} genes, {how}",
            frame,
        )
        print("\n" + "\n".join(f"- {note}" for note in dict.fromkeys(notes)), flush=True)


def one_split(train, test, seed: int, args, notes: list[str]) -> list[dict]:
    """All rows of one split."""
    rows = []

    def add(name: str, made, trained: Clock | None = None, wrote: Clock | None = None) -> None:
        row = {"row": name, "seed": seed, **judged(test, made, train)}
        row["train_s"] = trained.wall if trained else np.nan
        row["train_cpu_s"] = trained.cpu if trained else np.nan
        row["cells_per_s"] = made.n_obs / wrote.wall if wrote else np.nan
        rows.append(row)

    asked = [name for name in ROWS if name in args.rows]
    if "other real half" in asked:
        add("other real half", train)
    for name in (n for n in asked if n in NAIVE):
        add(name, naive(name, train, seed)[0])
    # Ours is trained before the peers: its processor time bounds that of the rank language model.
    model, trained = fit(train, FIELDS, args, seed) if set(asked) & {*OURS, PEERS[1]} else (None, None)
    if "scVI" in asked:
        from generation_peers import scvi_cells

        answer = scvi_cells(train, seed, args.peer_minutes)
        if answer is None:
            notes.append("scVI: not installed (pip install scvi-tools)")
            rows.append({"row": "scVI (not installed)", "seed": seed})
        else:
            add("scVI", *answer[:3])
            notes.append(f"scVI, seed {seed}: {answer[3]}")
    if PEERS[1] in asked:
        from generation_peers import rank_cells

        *answer, said = rank_cells(train, seed, min(trained.cpu, 60 * args.peer_minutes), length=args.length)
        add(PEERS[1], *answer)
        notes.append(f"{PEERS[1]}, seed {seed}: {said}")
    for name in (n for n in asked if n in OURS):
        made, wrote = write(model, request_of(name, train), seed)
        add(name, made, trained, wrote)
        if name == OURS[2]:
            share = [pd.Series(labels(c)).value_counts(normalize=True) for c in (test, made)]
            gap = share[0].sub(share[1], fill_value=0.0).abs().sum() / 2
            notes.append(f"{name}, seed {seed}: composition is off by {gap:.3f} (total variation)")
    return rows


def decoders(args) -> None:
    """Both decoders of one model on the same few cells: fidelity against speed."""
    for data in args.data:
        adata = read(args.folder, data)
        rows, notes = [], []
        for seed in range(args.seeds):
            train, test = halves(adata, "cell_type", seed)
            model, trained = fit(train, FIELDS, args, seed, gene_tokens=True, token_epochs=args.token_epochs)
            some = np.sort(np.random.default_rng(seed).choice(train.n_obs, args.token_cells, replace=False))
            request = request_of(OURS[1], train).iloc[some]
            nats = {k: v for k, v in model.card.items() if str(k).startswith(("nats", "token"))}
            notes.append(f"seed {seed}: {nats or model.card}")
            for name in ("set", "tokens"):
                made, wrote = write(model, request, seed, decoder=name)
                row = {"row": f"{name} decoder", "seed": seed, **judged(test, made, train)}
                rows.append({**row, "train_s": trained.wall, "cells_per_s": made.n_obs / wrote.wall})
        show(f"Decoders, {data}: {args.token_cells} cells each", table(rows, ["row"]))
        print("\n" + "\n".join(f"- {note}" for note in notes), flush=True)
