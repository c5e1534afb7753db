"""Do networks of genes find known regulation? Edges of encoders and of co-expression against curated targets of factors.

    python benchmarks/gene_networks.py --encoders ~/.cache/sclm-encoders

Truth: targets of transcription factors in DoRothEA, confidence A to C, and in the table of LIANA. Candidates: every pair of a factor
with at least five known targets and a gene, among the 1,000 most variable expressed genes of a data set and the expressed factors. Ranked by: the
cosine of gene embeddings, the attention of the factor to the gene, co-expression (Pearson and Spearman, by absolute value) and chance.
AUROC and average precision over all pairs, and the mean over factors of each one's AUROC: the first two reward knowing which factors
have many targets, the last does not. The encoders are small ones that were trained here on blood (encoder_sets.py), embeddings and attention for
each seed; attention reads 100 cells. Chance is 0.5, and the share of true pairs. Such truth is incomplete and from other tissues: numbers
compare methods, and are low for all.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from encoder_sets import FAMILIES, REAL_DATA, encoder

SETS = {
    "pbmc3k": ("scrna/pbmc3k.h5ad", None),
    "pbmc_facs": ("scrna/pbmc_facs_zheng2017.h5ad", "symbol"),
    "citefuse": ("cite/citefuse_pbmc500.h5ad", None),
}
VARIABLE, LEAST_TARGETS, ATTENDED_CELLS = 1000, 5, 100


def truths(folder: Path) -> dict[str, set[tuple[str, str]]]:
    """Pairs of factor and target."""
    dorothea = pd.read_csv(folder / "kg" / "dorothea_hs.csv.gz")
    dorothea = dorothea[dorothea["confidence"].isin(["A", "B", "C"])]
    liana = pd.read_csv(folder / "kg" / "tf_tg_liana.csv")
    return {
        "DoRothEA A–C": set(zip(dorothea["tf"], dorothea["target"], strict=True)),
        "LIANA": set(zip(liana.iloc[:, 0], liana.iloc[:, 1], strict=True)),
    }


def cells_of(folder: Path, name: str):
    """A data set with genes as symbols, genes in at least 2 % of the cells."""
    import anndata

    file, symbol = SETS[name]
    adata = anndata.read_h5ad(folder / file)
    adata = anndata.AnnData(adata.X, obs=adata.obs[[]], var=adata.var[[symbol]] if symbol else adata.var[[]])
    if symbol is not None:
        adata.var_names = adata.var[symbol].astype(str)
    expressed = np.asarray((adata.X > 0).mean(axis=0)).ravel() >= 0.02
    return adata[:, ~adata.var_names.duplicated() & expressed].copy()


def candidates(adata, pairs: set[tuple[str, str]], known: pd.Index) -> tuple[list[str], list[str]]:
    """Genes of the network, and the factors among them."""
    import scanpy as sc

    shown = adata[:, adata.var_names.isin(known)].copy()
    sc.pp.normalize_total(shown, target_sum=1e4)
    sc.pp.log1p(shown)
    sc.pp.highly_variable_genes(shown, n_top_genes=min(VARIABLE, shown.n_vars))
    factors = {factor for factor, _ in pairs}
    genes = shown.var_names[shown.var["highly_variable"].to_numpy() | shown.var_names.isin(factors)].tolist()
    here = set(genes)
    targets = pd.Series([factor for factor, target in pairs if {factor, target} <= here and factor != target])
    counted = targets.value_counts()
    return genes, sorted(counted.index[counted >= LEAST_TARGETS])


def judge(
    edges: pd.DataFrame, factors: list[str], genes: list[str], pairs: set, sign: bool
) -> tuple[float, float, float]:
    """AUROC and average precision of all pairs, mean AUROC of a factor; pairs without an edge come last."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    weight = edges["weight"].to_numpy() if sign else edges["weight"].abs().to_numpy()
    where = pd.Series(weight, index=pd.MultiIndex.from_frame(edges[["source", "target"]]))
    index = pd.MultiIndex.from_product([factors, genes])
    index = index[index.get_level_values(0) != index.get_level_values(1)]
    scores = where.reindex(index).fillna(where.min() - 1).to_numpy()
    true = np.array([pair in pairs for pair in index])
    source = index.get_level_values(0).to_numpy()
    each = [roc_auc_score(true[source == f], scores[source == f]) for f in factors]
    return roc_auc_score(true, scores), average_precision_score(true, scores), float(np.mean(each))


def main() -> None:
    os.environ["TQDM_DISABLE"] = "1"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=REAL_DATA, help="folder with scrna and kg (SCLM_REAL_DATA)")
    parser.add_argument("--encoders", type=Path, default=Path("encoders"), help="folder that keeps the encoders")
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--seeds", type=int, default=3, help="of the encoders")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=FAMILIES)
    args = parser.parse_args()
    if not (args.data / "kg").is_dir():
        print(f"No real data under {args.data}: nothing to measure. Pass --data, or set SCLM_REAL_DATA.")
        return
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)

    from sclm.cells import read_cells
    from sclm.evidence import coexpression

    encoders = {name: [encoder(name, s, args.data, args.encoders) for s in range(args.seeds)] for name in args.families}
    for models in encoders.values():
        for (
            model
        ) in models:  # reads whole sets of genes at once; a set has no positions, and ranks have as many as were learnt
            if model.family == "scgpt":
                model.config = dataclasses.replace(model.config, max_length=5000)
    for name in args.sets:
        adata = cells_of(args.data, name)
        known = adata.var_names
        for models in encoders.values():
            known = known[models[0].vocabulary.match(known).ids >= 0]
        for truth, pairs in truths(args.data).items():
            genes, factors = candidates(adata, pairs, known)
            cells = read_cells(adata).read()
            some = np.sort(np.random.default_rng(0).permutation(cells.n_cells)[:ATTENDED_CELLS])
            read = read_cells(adata).read(some)
            rng = np.random.default_rng(0)
            found: dict[str, list[tuple[float, float, float]]] = {}
            every = pd.DataFrame([(f, g) for f in factors for g in genes if f != g], columns=["source", "target"])
            for _ in range(args.seeds):
                chance = every.assign(weight=rng.random(len(every)))
                found.setdefault("chance", []).append(judge(chance, factors, genes, pairs, True))
            for method in ("pearson", "spearman"):
                edges = coexpression(cells, method=method, genes=genes, sources=factors, k=None)
                found[f"co-expression, {method}"] = [judge(edges, factors, genes, pairs, False)]
            for family, models in encoders.items():
                for model in models:
                    for method, given in (("embedding", None), ("attention", read)):
                        edges = model.gene_network(method, genes=genes, cells=given, sources=factors, k=None)
                        score = judge(edges, factors, genes, pairs, True)
                        found.setdefault(f"{family}, {method}", []).append(score)
            here = set(genes)
            share = sum(f in factors and t in here and f != t for f, t in pairs) / len(every)
            print(
                f"\n{name}, {truth}: {len(factors)} factors × {len(genes):,} genes, {share:.2%} of the pairs are true\n"
            )
            print("| edges by | AUROC | average precision | AUROC within a factor |\n|---|---|---|---|")
            for method, scores in found.items():
                table = np.array(scores)
                sd = table.std(axis=0, ddof=1) if len(table) > 1 else np.full(3, np.nan)
                row = [
                    f"{m:.3f}" + ("" if np.isnan(s) else f" ± {s:.3f}") for m, s in zip(table.mean(0), sd, strict=True)
                ]
                print(f"| {method} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
