"""Names from a handful of labelled cells: encoders frozen, adapted, tuned in full and asked for neighbours, beside simple methods.

    python benchmarks/few_shot.py --encoders ~/.cache/sclm-encoders
    python benchmarks/few_shot.py --develop

A seed draws 5 or 20 cells of each fine type of pbmc3k, the same for every method; the answer is judged on 1,500 cells of another study,
in the genes that both have and the broad types that both tell apart, as in benchmarks/annotate.py: accuracy, macro F1, calibration
error of the confidence. The encoders are small ones trained here without labels on blood of further studies (encoder_sets.py): they say
how the ways of tuning compare, and nothing about published weights. --develop judges on the other cells of pbmc3k instead, and is where
settings were chosen: no test cell was looked at for that.
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
from annotate import judge
from encoder_sets import FAMILIES, QUIET, REAL_DATA, encoder, few, labelled

TUNES = ("frozen", "neighbours", "lora", "full")
BASELINES = ("majority", "knn", "logistic")
TEST_CELLS = 1500


def answer(model, cells):
    """Probabilities, term ids of their columns."""
    found = model.annotate(cells)
    return found.probabilities.astype(float), found.categories["ontology_term_id"].tolist()


def sample(adata, n: int):
    """At most `n` cells, always the same."""
    rows = np.random.default_rng(0).permutation(adata.n_obs)[:n]
    return adata[np.sort(rows)].copy()


def run(train, test, seed: int, bases: dict, tunes, ontology, settings: dict) -> list[dict]:
    """Scores of all methods on one draw of training cells."""
    import sclm
    from sclm.cells import read_cells

    source, query = read_cells(train, obs_keys=["cell_type"]), read_cells(test)
    cells = query.read()
    truth = ontology.resolve_many(test.obs["cell_type"].astype(str).tolist())["term_id"].to_numpy(dtype=object)
    broad = test.obs["broad"].to_numpy(dtype=object)
    jobs = [(name, None, sclm.models.family_class(name), {}) for name in BASELINES]
    for name, base in bases.items():
        for tune in tunes:
            options = {"base": base, "tune": tune, **QUIET, **(settings if tune in ("lora", "full") else {})}
            jobs.append((name, tune, type(base), options))
    rows = []
    for name, tune, family, options in jobs:
        start = time.process_time()
        model = family.fit(source, label_key="cell_type", genes=query.genes, seed=seed, **options)
        scores = judge(*answer(model, cells), truth, broad, ontology)
        method = name if tune is None else f"{name} {tune}"
        rows.append({"method": method, "seed": seed, **scores, "seconds": time.process_time() - start})
    return rows


def show(title: str, rows: list[dict]) -> None:
    """Mean and standard deviation over seeds, as Markdown."""
    table = pd.DataFrame(rows)
    print(f"\n{title}\n\n| method | accuracy | macro F1 | calibration error | seconds |\n|---|---|---|---|---|")
    for method, part in table.groupby("method", sort=False):
        cells = [f"{part[c].mean():.3f} ± {part[c].std():.3f}" for c in ("accuracy", "macro_f1", "ece")]
        print(f"| {method} | {' | '.join(cells)} | {part['seconds'].mean():.1f} |", flush=True)


def main() -> None:
    """Print the tables."""
    os.environ["TQDM_DISABLE"] = "1"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=REAL_DATA, help="folder with scrna/*.h5ad (SCLM_REAL_DATA)")
    parser.add_argument("--encoders", type=Path, default=Path("encoders"), help="folder that keeps the encoders")
    parser.add_argument("--tests", nargs="+", default=["pbmc_facs", "kang"])
    parser.add_argument("--shots", nargs="+", type=int, default=[5, 20])
    parser.add_argument("--tunes", nargs="+", default=list(TUNES))
    parser.add_argument("--families", nargs="+", default=list(FAMILIES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--develop", action="store_true", help="judge on other cells of pbmc3k")
    parser.add_argument("--set", nargs="*", default=[], help="settings of lora and full, as name=number")
    args = parser.parse_args()
    if not (args.data / "scrna").is_dir():
        print(f"No real data under {args.data}: nothing to measure. Pass --data, or set SCLM_REAL_DATA.")
        return
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)

    from sclm.knowledge import Ontology

    ontology = Ontology.load("cl")
    study = labelled(args.data, "pbmc3k", ontology)
    bases = {name: encoder(name, 0, args.data, args.encoders) for name in args.families}
    settings = {
        name: float(v) if "." in v or "e" in v else int(v) for name, _, v in (s.partition("=") for s in args.set)
    }
    for name in ["pbmc3k"] if args.develop else args.tests:
        other = None if args.develop else sample(labelled(args.data, name, ontology), TEST_CELLS)
        for shots in args.shots:
            rows = []
            for seed in range(args.seeds):
                train = few(study, shots, seed)
                rest = study[~study.obs_names.isin(train.obs_names)] if args.develop else other
                rows += run(train, sample(rest, TEST_CELLS), seed, bases, args.tunes, ontology, settings)
            show(f"pbmc3k, {shots} cells a type → {name}, {args.seeds} seeds {args.set or ''}", rows)


if __name__ == "__main__":
    main()
