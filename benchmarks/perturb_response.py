"""Predicted responses to perturbations that were held out: baselines, scGPT trained here, and the noise of the measurement.

Norman (K562, CRISPR activation) and McFaline (three glioblastoma lines, CRISPR interference) as their 500 variable genes and about 100
cells a condition. A seed holds out a quarter of the single perturbations (unseen singles), or, where the file has pairs, half of those
whose genes were both perturbed alone (unseen pairs). Every method learns on the same cells; each line's controls are moved and compared
with that line's perturbed cells. A last row is the mean profile of one half of a perturbation's cells, judged by the other half: the noise of 50 cells.
"""

from __future__ import annotations

import time

import numpy as np
import pandas as pd

FILE = "perturb/perturbench_devel_norman_mcfaline.h5ad"
BASELINES = ("no-change", "mean-response", "matching-response", "additive-response", "ridge-response")
COLUMNS = {
    "delta_pearson": "Pearson delta",
    "l2": "L2",
    "top_delta_pearson": "Pearson delta, top 20",
    "top_overlap": "overlap of top 20",
    "discrimination": "discrimination",
}
CAVEAT = "500 genes and about 100 cells a condition cannot settle whether deep models beat these baselines."


def splits(conditions: list[str], seed: int) -> dict[str, list[str]]:
    """What is held out: name of the split → conditions."""
    rng = np.random.default_rng(seed)
    singles = sorted(c for c in conditions if "+" not in c and c != "control")
    pairs = sorted(c for c in conditions if "+" in c and all(part in singles for part in c.split("+")))
    found = {"unseen singles": sorted(rng.permutation(singles)[: max(2, round(len(singles) / 4))])}
    if len(pairs) >= 2:
        found["unseen pairs of seen singles"] = sorted(rng.permutation(pairs)[: (len(pairs) + 1) // 2])
    return found


def train(method: str, adata, seed: int, args):
    import sclm

    options = {"perturbation_key": "condition", "control": "control", "layer": "counts", "seed": seed}
    if len(set(adata.obs["cell_type"].astype(str))) > 1:
        options["batch_key"] = "cell_type"
    if method == "scgpt":
        epochs = 1 if args.quick else args.epochs
        options |= {"preset": args.preset, "max_epochs": epochs, "progress_bar": False, "accelerator": "cpu"}
    return sclm.train(method, adata, **options)


def judge(adata, held: list[str], models: dict, seed: int) -> pd.DataFrame:
    """Scores of every method on every held-out perturbation and line."""
    from sclm.cells import log_normalise, read_cells
    from sclm.metrics import perturbation as metrics

    rng = np.random.default_rng(seed)
    tables = []
    for line in sorted(adata.obs["cell_type"].astype(str).unique()):
        here = adata[(adata.obs["cell_type"].astype(str) == line).to_numpy()].copy()
        condition = here.obs["condition"].astype(str).to_numpy()
        there = [c for c in held if (condition == c).sum() >= 20]
        if len(there) < 2:
            continue
        source = read_cells(here, layer="counts")
        values = log_normalise(source.read().counts)
        codes = np.array([there.index(c) if c in there else -1 if c == "control" else -2 for c in condition])
        scores = metrics.differential_scores(values, codes)
        start = np.asarray(values[codes == -1].mean(axis=0)).ravel()
        observed, half = [], []
        for i in range(len(there)):
            rows = rng.permutation(np.flatnonzero(codes == i))
            observed.append(np.asarray(values[rows].mean(axis=0)).ravel())
            half.append([np.asarray(values[part].mean(axis=0)).ravel() for part in np.array_split(rows, 2)])
        truth = pd.DataFrame(observed, index=there, columns=list(source.genes))
        controls = source.read(np.flatnonzero(codes == -1))
        perturbations = [tuple(c.split("+")) for c in there]
        predictions = {}
        for name, model in models.items():
            table = model.respond(controls, perturbations, seed=seed)
            table.index = there  # the same order, under the names of the data
            predictions[name] = table
        genes = [g for g in truth.columns if all(g in p.columns for p in predictions.values())]
        column = truth.columns.get_indexer(genes)
        tables.append(
            metrics.compare(
                {name: p[genes] for name, p in predictions.items()},
                truth[genes],
                start[column],
                scores=scores[:, column],
            )
        )
        first, second = (pd.DataFrame([h[i] for h in half], index=there, columns=truth.columns) for i in (0, 1))
        tables.append(
            metrics.compare(
                {"other half of the cells": first[genes]},
                second[genes],
                start[column],
                scores=scores[:, column],
            )
        )
    return pd.concat(tables, ignore_index=True).assign(n_genes=len(genes))


def run(args) -> None:
    import anndata
    from perturb_regulators import markdown

    whole = anndata.read_h5ad(args.folder / FILE)
    print("\n## response: perturbations that were held out\n")
    print(CAVEAT)
    for dataset in args.datasets:  # one after the other: opposite directions of regulation
        data = whole[(whole.obs["dataset"].astype(str) == dataset).to_numpy()].copy()
        conditions = sorted(data.obs["condition"].astype(str).unique())
        rows = []
        for seed in range(args.seeds):
            for split, held in splits(conditions, seed).items():
                known = ~data.obs["condition"].astype(str).isin(held).to_numpy()
                if split == "unseen singles":  # nor in a combination
                    parts = data.obs["condition"].astype(str).str.split("+")
                    known &= ~parts.apply(lambda p, held=held: bool(set(p) & set(held))).to_numpy()
                models, seconds = {}, {}
                for method in (*BASELINES, *args.responders):
                    start = time.perf_counter()
                    models[method] = train(method, data[known].copy(), seed, args)
                    seconds[method] = time.perf_counter() - start
                    if method in args.responders:
                        table = models[method].gene_embeddings()
                        name = f"ridge-response on {method}'s genes"
                        import sclm

                        models[name] = sclm.train(
                            "ridge-response", data[known].copy(), perturbation_key="condition", control="control",
                            layer="counts", gene_embeddings=table,
                        )  # fmt: skip
                scores = judge(data, held, models, seed)
                mean = scores.groupby("method", sort=False)[list(COLUMNS)].mean().rename(columns=COLUMNS)
                mean["seconds"] = pd.Series(seconds)
                rows.append(
                    mean.reset_index().assign(
                        seed=seed, split=split, n=len(held), n_genes=int(scores["n_genes"].iloc[0])
                    )
                )
                if args.verbose:
                    print(mean.round(3).to_string(), flush=True)
        table = pd.concat(rows, ignore_index=True)
        if "unseen pairs of seen singles" not in set(table["split"]):
            print(
                f"\n{dataset}: this copy holds no two pairs whose genes were perturbed alone; no row for unseen pairs."
            )
        for split, group in table.groupby("split", sort=False):
            n = group.groupby("seed")["n"].first()
            n_genes = int(group["n_genes"].min())
            print(
                f"\n### {dataset}, {split} ({int(n.iloc[0])} held out, {len(n)} seeds, {n_genes} genes that all methods predict)\n"
            )
            print(markdown(group.drop(columns=["split", "n", "n_genes"]), "method"))
