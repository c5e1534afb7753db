"""How good vectors of cells are: one section a question, each prints its tables in Markdown.

    python benchmarks/embed_quality.py knn --encoders ~/.cache/sclm-encoders

knn: broad types of one study named by the ten nearest cells of another (pbmc3k → pbmc_facs, → kang, and back from pbmc_facs), by small
encoders that were trained here without labels on further studies (encoder_sets.py), the same networks with random weights, principal
components of log-normalised variable genes of the reference, and beside them sclm's logistic regression. No setting was chosen on
these pairs.

integration: three studies in one space (embed_integration.py): purity of types and mixing of studies.
"""

from __future__ import annotations

import argparse
import logging
import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from embed_integration import integration
from encoder_sets import FAMILIES, REAL_DATA, encoder, labelled, random_encoder

PAIRS = [("pbmc3k", "pbmc_facs"), ("pbmc3k", "kang"), ("pbmc_facs", "pbmc3k")]
TEST_CELLS = 2000
NEIGHBOURS = 10


def vote(reference: np.ndarray, types: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Type of the majority of the nearest reference cells, by the cosine of vectors without the reference's mean."""
    from sklearn.neighbors import KNeighborsClassifier

    centre = np.nanmean(reference, axis=0)
    here = ~np.isnan(reference[:, 0])
    near = KNeighborsClassifier(NEIGHBOURS, metric="cosine", algorithm="brute").fit(
        reference[here] - centre, types[here]
    )
    return near.predict(np.nan_to_num(query - centre))


def principal_components(reference, query, n_genes: int = 2000, n: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Scanpy's usual road: variable genes of the reference, scaled, its components; the query projected onto them."""
    import scanpy as sc

    first, second = reference.copy(), query.copy()
    for adata in (first, second):
        sc.pp.normalize_total(adata, target_sum=1e4)
        sc.pp.log1p(adata)
    if first.n_vars > n_genes:
        sc.pp.highly_variable_genes(first, n_top_genes=n_genes)
        keep = first.var["highly_variable"].to_numpy()
        first, second = first[:, keep].copy(), second[:, keep].copy()
    x, y = first.X.toarray(), second.X.toarray()
    mean, scale = x.mean(0), np.maximum(x.std(0), 1e-3)
    x, y = np.clip((x - mean) / scale, -10, 10), np.clip((y - mean) / scale, -10, 10)
    _, _, axes = np.linalg.svd(x, full_matrices=False)
    return x @ axes[:n].T, y @ axes[:n].T


def knn(args: argparse.Namespace) -> None:
    """Accuracy of neighbours across studies."""
    from sklearn.metrics import f1_score

    import sclm
    from sclm.cells import read_cells
    from sclm.knowledge import Ontology

    ontology = Ontology.load("cl")
    encoders = {name: [encoder(name, s, args.data, args.encoders) for s in range(args.seeds)] for name in args.families}
    for a, b in PAIRS:
        reference, query = labelled(args.data, a, ontology), labelled(args.data, b, ontology)
        known = sorted(set(reference.obs["broad"]) & set(query.obs["broad"]))
        reference = reference[reference.obs["broad"].isin(known)]
        query = query[query.obs["broad"].isin(known)]
        genes = reference.var_names.intersection(query.var_names)
        rows = np.sort(np.random.default_rng(0).permutation(query.n_obs)[:TEST_CELLS])
        reference, query = reference[:, genes].copy(), query[rows][:, genes].copy()
        types, truth = (adata.obs["broad"].to_numpy(dtype=str) for adata in (reference, query))
        cells = [read_cells(adata).read() for adata in (reference, query)]
        answers: dict[str, list[np.ndarray]] = {}
        for name, models in encoders.items():
            for model in models:
                first, second = (model.embed(c) for c in cells)
                answers.setdefault(name, []).append(vote(first, types, second))
            for model in models:
                first, second = (random_encoder(model).embed(c) for c in cells)
                answers.setdefault(f"{name}, random weights", []).append(vote(first, types, second))
        first, second = principal_components(reference, query)
        answers["50 principal components"] = [vote(first, types, second)]
        model = sclm.train("logistic", reference, label_key="broad", genes=query.var_names)
        labels = model.annotate(cells[1]).table["label"].to_numpy(dtype=str)
        merged = {"hematopoietic precursor cell": "hematopoietic precursor"}
        answers["logistic regression"] = [np.array([merged.get(label, label) for label in labels])]
        answers["majority"] = [np.full(len(truth), pd.Series(types).mode()[0])]
        print(
            f"\n{a} → {b}: {len(types):,} reference cells, {len(truth):,} cells, {len(genes):,} shared genes, {len(known)} types\n"
        )
        print("| vectors | accuracy | macro F1 |\n|---|---|---|")
        for name, found in answers.items():
            scores = np.array([((p == truth).mean(), f1_score(truth, p, average="macro", labels=known)) for p in found])
            mean, sd = scores.mean(0), scores.std(0, ddof=1) if len(scores) > 1 else None
            cells_of = [f"{m:.3f}" + ("" if sd is None else f" ± {sd[i]:.3f}") for i, m in enumerate(mean)]
            print(f"| {name} | {' | '.join(cells_of)} |", flush=True)


SECTIONS = {"knn": knn, "integration": integration}


def main() -> None:
    os.environ["TQDM_DISABLE"] = "1"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}; all by default")
    parser.add_argument("--data", type=Path, default=REAL_DATA, help="folder with scrna/*.h5ad (SCLM_REAL_DATA)")
    parser.add_argument("--encoders", type=Path, default=Path("encoders"), help="folder that keeps the encoders")
    parser.add_argument("--seeds", type=int, default=3, help="of the encoders")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=FAMILIES)
    args = parser.parse_args()
    if wrong := [s for s in args.sections if s not in SECTIONS]:
        parser.error(f"unknown: {', '.join(wrong)}; sections: {', '.join(SECTIONS)}")
    if not (args.data / "scrna").is_dir():
        print(f"No real data under {args.data}: nothing to measure. Pass --data, or set SCLM_REAL_DATA.")
        return
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for name in args.sections or SECTIONS:
        print(f"\n## {name}", flush=True)
        SECTIONS[name](args)


if __name__ == "__main__":
    main()
