"""Tissue and disease as predictions of a language model that describes cells, beside logistic regression and the most common value.

    python benchmarks/describe_origins.py --encoders ~/.cache/sclm-describe

A mixed corpus: labelled blood cells of lupus donors (kang, control and after interferon beta, which stands in the field of the disease), blood
of a donor without disease (pbmc3k), and pancreas (Baron et al., four donors). cell2text is trained on it with tissue and disease in its
texts; both are parsed from the texts that it writes of other cells, without a look at metadata, and judged beside logistic regression
of the same field on the same training cells.

held out:   all cells, labelled or not, of two donors of kang and one of Baron, and the cells of pbmc3k that were not drawn (its one donor is
            in both parts). Tissue, and lupus against no disease, cannot be told from the study here.
stimulated: the two donors of kang alone: control or interferon beta. The same donors and study on both sides, so this one is no matter of
            the study (the two conditions were sequenced apart).
new study:  sorted blood cells of donors without disease (pbmc_facs) by the same models. How often they are said to be of blood and without
            disease shows what was learnt of the study.

Threads: one. Set OMP_NUM_THREADS=1 and NUMBA_NUM_THREADS=1.
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
from annotate import REAL_DATA
from describe import QUIET, TEST_DONORS, show, small_encoder

FILES = {
    "kang": "kang_ifnb_2000", "baron": "pancreas_baron_human175", "pbmc3k": "pbmc3k", "facs": "pbmc_facs_zheng2017",
}  # fmt: skip
LUPUS, STIMULATED = "systemic lupus erythematosus", "systemic lupus erythematosus and interferon beta"
FIELDS = ("tissue", "disease")
BARON_DONOR = "human2"
METRICS = ("tissue accuracy", "tissue macro F1", "disease accuracy", "disease macro F1")


def studies(folder: Path) -> dict:
    """The four studies over the genes that all hold, with donor, tissue, disease and cell type ("nan": none)."""
    import anndata

    found = {}
    for name, file in FILES.items():
        adata = anndata.read_h5ad(folder / "scrna" / f"{file}.h5ad")
        if name == "facs":
            adata.var_names = adata.var["symbol"].astype(str)
        adata = adata[:, ~adata.var_names.duplicated()].copy()
        obs = pd.DataFrame(index=[f"{name}-{n}" for n in adata.obs_names])
        obs["cell_type"] = adata.obs["cell_type"].astype(str).to_numpy()
        obs["donor"] = adata.obs["donor"].astype(str).to_numpy() if "donor" in adata.obs else name
        obs["tissue"] = "pancreas" if name == "baron" else "blood"
        obs["disease"] = "normal"
        if name == "kang":
            obs["disease"] = np.where(adata.obs["condition"] == "stimulated", STIMULATED, LUPUS)
        found[name] = anndata.AnnData(adata.X, obs=obs, var=pd.DataFrame(index=adata.var_names))
    genes = sorted(set.intersection(*(set(a.var_names) for a in found.values())))
    return {name: adata[:, genes].copy() for name, adata in found.items()}


def scores(truth: pd.DataFrame, said: pd.DataFrame) -> dict[str, float]:
    """Accuracy and macro F1 over the true values of each field; what is not named is wrong."""
    from sklearn.metrics import f1_score

    found = {}
    for field in FIELDS:
        t, p = truth[field].astype(str).to_numpy(), said[field].astype(str).to_numpy()
        found[f"{field} accuracy"] = float((t == p).mean())
        found[f"{field} macro F1"] = float(f1_score(t, p, labels=np.unique(t), average="macro", zero_division=0))
    return found


def text_names(model, cells) -> pd.DataFrame:
    """Tissue and disease in the words of the texts."""
    from sclm.texts import parse_many

    config = model.config
    diseases = [pair.split("|", 1)[1] for pair in config.donors]
    texts = model.write(cells)["text"]
    return parse_many(texts, cell_types=config.labels, tissues=config.tissues, diseases=diseases)


def by_regression(train, cells, seed: int) -> pd.DataFrame:
    """Tissue and disease by a regression of each."""
    import sclm

    found = {}
    for field in FIELDS:
        model = sclm.train("logistic", train, label_key=field, seed=seed)
        # names of diseases may be resolved as cell types: back to the words of the corpus
        own = dict(zip(model.reference_labels["name"], model.reference_labels["label"], strict=True))
        found[field] = [own.get(name, name) for name in model.annotate(cells).table["label"]]
    return pd.DataFrame(found)


def run(args: argparse.Namespace) -> None:
    """One table a question."""
    import anndata

    import sclm
    from sclm.cells import read_cells

    data = studies(args.data)
    tables: dict[str, dict[str, list[dict[str, float]]]] = {"held out": {}, "stimulated": {}, "new study": {}}
    wrong: list[pd.Series] = []
    for seed in range(args.seeds):
        rng = np.random.default_rng(seed + 1)
        order = rng.permutation(data["pbmc3k"].n_obs)
        inside = {
            "kang": ~data["kang"].obs["donor"].isin(TEST_DONORS).to_numpy(),
            "baron": (data["baron"].obs["donor"] != BARON_DONOR).to_numpy(),
            "pbmc3k": np.isin(np.arange(len(order)), order[: args.blood]),
        }
        drawn = {"pbmc3k": np.isin(np.arange(len(order)), order[args.blood : 2 * args.blood])}
        parts = {n: data[n][use & (data[n].obs["cell_type"] != "nan").to_numpy()] for n, use in inside.items()}
        train = anndata.concat(list(parts.values()))
        rest = {n: data[n][drawn.get(n, ~use)] for n, use in inside.items()}
        tests = {
            "held out": anndata.concat(list(rest.values())),
            "stimulated": rest["kang"].copy(),
            "new study": data["facs"][np.sort(rng.permutation(data["facs"].n_obs)[: args.blood])].copy(),
        }
        start = time.process_time()
        model = sclm.train(
            "cell2text", train, label_key="cell_type", batch_key="donor", obs_keys=list(FIELDS), preset="small", seed=seed,
            encoder=small_encoder("origins", train, seed, args.encoders), **QUIET,
        )  # fmt: skip
        print(f"draw {seed}: {train.n_obs:,} training cells, {time.process_time() - start:.0f} s", flush=True)
        common = {field: train.obs[field].mode()[0] for field in FIELDS}
        for name, test in tests.items():
            cells = read_cells(test).read()
            answers = {
                "cell2text": text_names(model, cells),
                "logistic regression": by_regression(train, cells, seed),
                "most common": pd.DataFrame(common, index=range(test.n_obs)),
            }
            for method, said in answers.items():
                tables[name].setdefault(method, []).append(scores(test.obs, said))
            if name == "new study":
                wrong.append(answers["cell2text"]["disease"].value_counts(normalize=True))
        if not seed:
            for name, test in tests.items():
                print(name, {f: test.obs[f].value_counts().to_dict() for f in FIELDS}, flush=True)
    for name, rows in tables.items():
        print(f"\n### {name}\n")
        show(rows, METRICS[2:] if name == "stimulated" else METRICS[::2] if name == "new study" else METRICS)
    print("\ndiseases that cell2text names in the new study, mean share:")
    print(pd.concat(wrong, axis=1).fillna(0).mean(axis=1).round(3).to_string())


def main() -> None:
    os.environ["TQDM_DISABLE"] = "1"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=REAL_DATA, help="folder with scrna/*.h5ad (SCLM_REAL_DATA)")
    parser.add_argument("--encoders", type=Path, default=Path("encoders"), help="folder that keeps the encoders")
    parser.add_argument(
        "--blood", type=int, default=500, help="cells of pbmc3k to learn from, to test, and of pbmc_facs"
    )
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    if not (args.data / "scrna").is_dir():
        print(f"No real data under {args.data}: nothing to measure. Pass --data, or set SCLM_REAL_DATA.")
        return
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    run(args)


if __name__ == "__main__":
    main()
