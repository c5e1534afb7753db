"""RNA into surface proteins on public CITE-seq: our small scTranslator network beside three baselines.

Splits: by cells within one donor (each seed draws another fifth to test on); from one donor to another with the disease
(healthy → cutaneous T-cell lymphoma, and back); from one laboratory, chemistry and antibody panel to another (ECCITE-seq of
CiteFuse → 10x v3, and back) over the proteins that both panels have. All methods see the same cells, genes and targets: counts
of antibodies as centred log ratios within the cell. Scores, on cells that no method has seen:

* Pearson correlation across cells of each protein, mean over proteins; a prediction that says the same of every cell counts as 0;
* RMSE, mean over proteins, as a share of the training mean's: below 1, a method knows more than the mean;
* cosine of all values at once, as in the scTranslator paper, of predictions and truth brought to [0, 1] within the cell there;
* coverage of the intervals that should hold nine in ten cells: they come from held-out cells of the training data, so on
  another donor they show how far that promise reaches.

Settings of the network were chosen on the first 300 cells of CiteFuse's blood sample alone (by the held-out cells that training
itself draws from them); in the split by cells these are always training cells. Needs real data: see --data.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

HERE = Path(__file__).resolve()
REAL_DATA = Path(os.environ.get("SCLM_REAL_DATA", HERE.parents[2] / "shared" / "data"))
METHODS = ("mean-protein", "own-gene", "ridge-protein", "sctranslator")
DEVELOPMENT = 300  # cells of the blood sample on which settings were chosen
SPLITS = (
    "blood: held-out cells",
    "healthy → lymphoma",
    "lymphoma → healthy",
    "CiteFuse → 10x v3",
    "10x v3 → CiteFuse",
)


def read(folder: Path, name: str):
    """One data set with symbols as gene names and proteins in .obsm["protein"]."""
    import anndata

    adata = anndata.read_h5ad(folder / "cite" / f"{name}.h5ad")
    if "symbol" in adata.var:
        adata.var_names = adata.var["symbol"].astype(str).to_numpy(dtype=object)
        adata.var_names_make_unique()
    return adata


def subset(adata, rows):
    """Cells of a data set, with their proteins."""
    return adata[rows].copy()


def shared_panel(one, other):
    """Both with the proteins that both panels have, under the names of the first."""
    from sclm.knowledge import match_proteins

    names = list(one.obsm["protein"].columns)
    places = match_proteins(list(other.obsm["protein"].columns), names)
    kept = {i: p for i, p in enumerate(places) if p >= 0}
    one, other = one.copy(), other.copy()
    one.obsm["protein"] = one.obsm["protein"].iloc[:, list(kept.values())]
    table = other.obsm["protein"].iloc[:, list(kept)]
    other.obsm["protein"] = table.set_axis([names[p] for p in kept.values()], axis=1)
    return one, other


def pairs(split: str, data: dict, seed: int):
    """Training and test cells of one split and seed; a seed draws four fifths of the training cells where a split has none."""
    rng = np.random.default_rng(seed)
    if split == SPLITS[0]:
        blood = data["citefuse_pbmc500"]
        later = rng.permutation(np.arange(DEVELOPMENT, blood.n_obs))
        test = later[: blood.n_obs // 5]
        return subset(blood, np.setdiff1d(np.arange(blood.n_obs), test)), subset(blood, np.sort(test))
    if "lymphoma" in split:
        both = data["citefuse_ctcl_control301"]
        healthy = (both.obs["disease"] == "normal").to_numpy()
        train, test = subset(both, healthy), subset(both, ~healthy)
        if split.startswith("lymphoma"):
            train, test = test, train
    else:
        train, test = shared_panel(data["citefuse_pbmc500"], data["pbmc_10k_protein_v3_200"])
        if split.startswith("10x"):
            train, test = test, train
    rows = np.sort(rng.permutation(train.n_obs)[: round(0.8 * train.n_obs)])
    return subset(train, rows), test


def score(model, test, seconds: float) -> dict[str, float]:
    """Scores of one trained model on the test cells."""
    import sclm
    from sclm.cells import scale_proteins

    sclm.tl.translate(test, model, proteins=list(model.proteins))
    predicted = test.obsm["sclm_protein"]
    # On the scale of the panel that was learnt.
    values = test.obsm["protein"][list(model.proteins)].to_numpy(dtype=float)
    truth = scale_proteins(values, model.scale)
    pearson = sclm.metrics.translation.pearson(truth, predicted)
    expected = model.expectation
    covered = sclm.metrics.translation.coverage(truth, predicted, expected["half_width_90"].to_numpy(dtype=float))
    cosine = sclm.metrics.translation.flat_scores(scale_proteins(truth, "minmax"), scale_proteins(predicted, "minmax"))[
        1
    ]
    return {
        "pearson": np.nan_to_num(pearson).mean(),
        "expected": expected["correlation"].fillna(0).mean(),
        "rmse": np.nanmean(sclm.metrics.translation.rmse(truth, predicted)),
        "cosine": cosine,
        "coverage": np.nanmean(covered),
        "proteins": len(model.proteins),
        "seconds": seconds,
        **{f"r:{name}": r for name, r in zip(model.proteins, pearson, strict=True)},
    }


def run(split: str, data: dict, seeds: range, epochs: int | None) -> pd.DataFrame:
    """One row a method and seed."""
    import sclm

    rows = []
    for seed in seeds:
        train, test = pairs(split, data, seed)
        for method in METHODS:
            options = {"accelerator": "cpu", "progress_bar": False} if method == "sctranslator" else {}
            if method == "sctranslator" and epochs is not None:
                options["max_epochs"] = epochs
            start = time.perf_counter()
            genes = pd.Index(test.var_names)
            model = sclm.train(method, train, protein_key="protein", genes=genes, seed=seed, **options)
            rows.append({"method": method, "seed": seed, **score(model, test, time.perf_counter() - start)})
        floor = next(r["rmse"] for r in rows if r["seed"] == seed and r["method"] == "mean-protein")
        for row in rows:
            if row["seed"] == seed:
                row["rmse / mean's"] = row["rmse"] / floor
    return pd.DataFrame(rows)


def with_spread(table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Mean ± standard deviation over seeds."""
    groups = table.groupby("method", sort=False)[columns]
    mean, sd = groups.mean(), groups.std()
    text = pd.DataFrame(index=mean.index)
    for column in columns:
        text[column] = [
            "–" if not np.isfinite(m) else f"{m:.3f} ± {0 if not np.isfinite(s) else s:.3f}"
            for m, s in zip(mean[column], sd[column], strict=True)
        ]
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=REAL_DATA, help="folder with cite/*.h5ad (or SCLM_REAL_DATA)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--splits", type=int, nargs="*", default=list(range(len(SPLITS))), help="numbers from 0")
    parser.add_argument("--epochs", type=int, default=None, help="of the network at most; its preset's by default")
    arguments = parser.parse_args()
    if not (arguments.data / "cite").is_dir():
        parser.exit(0, f"no CITE-seq data in {arguments.data}: pass --data or set SCLM_REAL_DATA\n")
    logging.getLogger("sclm").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    names = ("citefuse_pbmc500", "citefuse_ctcl_control301", "pbmc_10k_protein_v3_200")
    data = {name: read(arguments.data, name) for name in names}
    for number in arguments.splits:
        split = SPLITS[number]
        table = run(split, data, range(arguments.seeds), arguments.epochs)
        print(f"\n{split}: {int(table['proteins'].iloc[0])} proteins, {arguments.seeds} seeds")
        columns = ["pearson", "expected", "rmse / mean's", "cosine", "coverage", "seconds"]
        print(with_spread(table, columns).to_string())
        # The proteins that are predicted best, and those that no method predicts.
        by_protein = table.groupby("method", sort=False)[[c for c in table if c.startswith("r:")]].mean().T
        by_protein.index = by_protein.index.str.removeprefix("r:")
        best = by_protein.drop(columns="mean-protein").max(axis=1).sort_values(ascending=False)
        print(by_protein.loc[best.index[:8]].drop(columns="mean-protein").round(2).T.to_string())
        print(f"no method above r = 0.3: {int((~(best > 0.3)).sum())} of {len(best)}", flush=True)


if __name__ == "__main__":
    main()
