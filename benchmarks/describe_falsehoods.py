"""Planted falsehoods: does the checker of claims take them out, and leave what is true?

    python benchmarks/describe_falsehoods.py tune      # fits the coefficients of ClaimThresholds on sorted blood cells, prints them
    python benchmarks/describe_falsehoods.py           # tests the frozen ones on the other data sets
    python benchmarks/describe_falsehoods.py --sets pbmc3k --seeds 1

Statements about single cells (up to 40 of a type) and about groups (a random half of the cells of each type, at least 10):

- identity: the author's label (true), a broader type that it belongs to (true), the label of another type of the same data, a type of other
  tissues (20 of them). A relative (Lin similarity of 0.6 or more in the Cell Ontology, the similarity that the checker uses too), of the same
  data or of the ontology at large, is a sibling swap and is counted apart.
- gene: the five most differential genes of the type (Wilcoxon, scanpy), found on one half of the cells and stated of cells and groups
  of the other half; of single cells only those that the cell shows at all. False: those of other types that are not among the first 200 of
  this one; siblings apart.
- pathway: sets that are active in the group on one half of the cells (q <= 0.01), stated of the other half. False: for each of them a set
  of like size that is not active there (p > 0.5). Groups only.
- tissue and disease: the metadata say blood (or pancreas) and normal; false are other tissues and diseases, at random. Without metadata
  the same statements must all be "not verifiable".

A falsehood counts as found when it is not kept: removed, or softened to "consistent with". Recall: found among the false. Precision: false
among the removed, with as many true as false statements (each weighted to half). "true kept", "true removed": of the true ones.
"""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from sclm.cells import Cells, read_cells
from sclm.evidence import CellChecker, GroupChecker, Statement
from sclm.evidence.claims_judge import features
from sclm.knowledge import Ontology

REAL_DATA = Path(os.environ.get("SCLM_REAL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
RESULTS = Path(__file__).resolve().parent / "results"
# File, column of .var with symbols, tissue of the metadata.
SETS = {
    "facs": ("scrna/pbmc_facs_zheng2017.h5ad", "symbol", "blood"),
    "pbmc3k": ("scrna/pbmc3k.h5ad", None, "blood"),
    "kang": ("scrna/kang_ifnb_2000.h5ad", None, "blood"),
    "kang_1287_genes": ("scrna/kang_ctrl_12k_1287genes.h5ad", "symbol", "blood"),
    "baron": ("scrna/pancreas_baron_human175.h5ad", None, "pancreas"),
    "lung_cosmx": ("spatial/cosmx_profast2814.h5ad", None, "lung"),
}
# Labels that the ontology does not know as they are written.
LABELS = {
    "activated_stellate": "CL:0002410", "T CD4 naive": "CL:0000895", "T CD8 naive": "CL:0000900", "T CD4 memory": "CL:0000897",
    "T CD8 memory": "CL:0000909", "mDC": "CL:0000990", "Treg": "CL:0000815", "B-cell": "CL:0000236", "epithelial": "CL:0000066",
}  # fmt: skip
FOREIGN = (
    "hepatocyte", "neuron", "astrocyte", "oligodendrocyte", "fibroblast", "endothelial cell", "keratinocyte", "cardiac muscle cell",
    "smooth muscle cell", "enterocyte", "goblet cell", "podocyte", "pancreatic acinar cell", "type B pancreatic cell", "melanocyte",
    "adipocyte", "erythrocyte", "mast cell", "plasma cell", "skeletal muscle fiber",
)  # fmt: skip
BROAD = (
    "T cell",
    "lymphocyte",
    "leukocyte",
    "myeloid leukocyte",
    "monocyte",
    "professional antigen presenting cell",
    "endocrine cell",
)
TISSUES = ("lung", "liver", "brain", "kidney", "skin of body", "heart", "colon", "pancreas", "blood")
DISEASES = (
    "normal",
    "systemic lupus erythematosus",
    "lung adenocarcinoma",
    "type 2 diabetes mellitus",
    "COVID-19",
    "Alzheimer disease",
)
NEAR = 0.6
CELLS_A_TYPE = 40
cl = Ontology.load("cl")


def read(name: str, folder: Path):
    """Cells with labels that are terms, with cell_type as its id."""
    import anndata

    file, symbols, tissue = SETS[name]
    adata = anndata.read_h5ad(folder / file)
    if symbols is not None:
        adata.var_names = adata.var[symbols].astype(str)
    labels = adata.obs["cell_type"].astype(str)
    ids = [LABELS.get(v) or (cl.resolve(v, min_score=1.0).term_id if v != "nan" else None) for v in labels]
    adata.obs = pd.DataFrame({"type": ids, "tissue": tissue, "disease": "normal"}, index=adata.obs_names)
    adata.var_names_make_unique()
    adata = adata[adata.obs["type"].notna().to_numpy()].copy()
    adata.X = sparse.csr_matrix(adata.X).astype(np.float32)
    for field in (adata.obsm, adata.layers, adata.uns):
        field.clear()
    return adata


def relation(stated: str, truth: str) -> str:
    """What a stated identity is to the true one."""
    if stated == truth or stated in cl.ancestors(truth):
        return "true"
    if truth in cl.ancestors(stated):
        return "too special"  # neither true nor false by the label
    return "sibling" if cl.similarity(stated, truth) >= NEAR else "other"


def identities(types: list[str]) -> list[tuple[str, str]]:
    """Id and source of every identity that is stated."""
    found = dict.fromkeys(types, "own data")
    for name in FOREIGN:
        found.setdefault(cl.resolve(name).term_id, "other tissue")
    for name in BROAD:
        found.setdefault(cl.resolve(name).term_id, "broad")
    for t in types:  # siblings of the ontology at large, two a type
        for parent in cl.parents(t)[:1]:
            for sibling in [s for s in cl.children(parent) if s not in types and not set(cl.ancestors(s)) & set(types)][
                :2
            ]:
                found.setdefault(sibling, "sibling")
    return list(found.items())


def differential(adata, types: list[str]) -> dict[str, list[str]]:
    """Genes of each type by Wilcoxon, best first."""
    import scanpy as sc

    work = adata.copy()
    work.obs["type"] = pd.Categorical(work.obs["type"])
    sc.pp.normalize_total(work, target_sum=1e4)
    sc.pp.log1p(work)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.tl.rank_genes_groups(work, "type", groups=types, method="wilcoxon", n_genes=200)
    return {t: [str(g) for g in work.uns["rank_genes_groups"]["names"][t]] for t in types}


def halves(adata, types: list[str], seed: int) -> np.ndarray:
    """(n,) bool: a random half of the cells of each type."""
    rng = np.random.default_rng(seed)
    first = np.zeros(adata.n_obs, dtype=bool)
    for t in types:
        rows = rng.permutation(np.flatnonzero(adata.obs["type"] == t))
        first[rows[: len(rows) // 2]] = True
    return first


def statements_of(name: str, folder: Path, seed: int) -> pd.DataFrame:
    """Every statement with what it is and what became of it."""
    adata = read(name, folder)
    counts = adata.obs["type"].value_counts()
    types = [t for t in counts.index if counts[t] >= 10]
    rng = np.random.default_rng(seed)
    first = halves(adata, types, seed)
    genes = differential(adata[first], types)
    source = read_cells(adata, obs_keys=["type", "tissue", "disease"])
    checker = CellChecker.fit(source)
    truth = adata.obs["type"].to_numpy(dtype=object)
    place = {t: i for i, t in enumerate(types)}

    def group_checker(rows: np.ndarray) -> GroupChecker:
        codes = np.array([place.get(t, -1) if use else -1 for t, use in zip(truth, rows, strict=True)])
        return GroupChecker.of(checker, source, codes, types)

    theirs, ours = group_checker(first), group_checker(~first)
    groups = Cells(None, source.genes, pd.DataFrame(index=types))
    picked = np.concatenate([rng.permutation(np.flatnonzero((truth == t) & ~first))[:CELLS_A_TYPE] for t in types])
    cells = source.read(np.sort(picked))
    shown = cells.counts.tocsc()
    out, without = [], float("nan")
    for level, check, block, labels in (
        ("group", ours, groups, types),
        ("cell", checker, cells, list(cells.obs["type"])),
    ):
        planted: list[tuple[Statement, str, str]] = []
        for row, label in enumerate(labels):
            planted += [
                (Statement(row, "identity", cl.name_of(t), t), relation(t, label), kind)
                for t, kind in identities(types)
            ]
            for t in types:
                rel = "true" if t == label else relation(t, label)
                if (rel == "true" and t != label) or rel == "too special":
                    continue
                for gene in genes[t][:5]:
                    if t != label and gene in genes[label]:
                        continue
                    if level == "cell" and t == label and not shown[row, source.genes.get_loc(gene)]:
                        continue
                    planted.append((Statement(row, "gene", gene, gene), rel, "own data"))
            for field, values in (("tissue", TISSUES), ("disease", DISEASES)):
                right = str(adata.obs[field].iloc[0])
                planted.append((Statement(row, field, right), "true", "metadata"))
                planted.append(
                    (Statement(row, field, str(rng.choice([v for v in values if v != right]))), "other", "metadata")
                )
            if level == "group":
                a = theirs.groups.activity
                size = checker.background.n_genes
                absent = np.flatnonzero(a.p[row] > 0.5)
                for column in np.flatnonzero(a.q[row] <= 0.01):
                    if not len(absent):
                        continue
                    like = absent[np.abs(np.log(size[absent] / size[column])).argmin()]
                    for c, rel in ((column, "true"), (like, "other")):
                        planted.append(
                            (
                                Statement(
                                    row,
                                    "pathway",
                                    checker.sets.phrases[checker.kept[c]],
                                    checker.sets.ids[checker.kept[c]],
                                ),
                                rel,
                                "",
                            )
                        )
        found = check.check(block, [s for s, _, _ in planted])
        found["truth"], found["source"] = [r for _, r, _ in planted], [k for _, _, k in planted]
        found["about"] = [labels[r] for r in found["row"]]
        view = check.view(block)
        figures = np.full((len(planted), 3), np.nan)
        for i, (s, _, _) in enumerate(planted):
            fit = checker.evidence.fit(view.scores[[s.row]], s.id) if s.kind == "identity" and s.id else None
            if fit is not None:
                figures[i] = features(fit, checker.judge.raised_markers(view, np.array([s.row]), s.id))[0]
        found[["z", "far", "some"]] = figures
        bare = block._replace(obs=block.obs.drop(columns=["tissue", "disease"], errors="ignore"))
        if level == "cell":
            asked = [Statement(0, f, v) for f, values in (("tissue", TISSUES), ("disease", DISEASES)) for v in values]
            unknown = checker.check(bare, asked)["verdict"]
            without = float((unknown == "not verifiable").mean())
        out.append(found.assign(level=level, set=name, seed=seed))
    return pd.concat(out, ignore_index=True).assign(not_verifiable_without_metadata=without)


def summary(found: pd.DataFrame) -> pd.DataFrame:
    """One row a set, level and kind."""
    rows = []
    for (name, level, kind), table in found.groupby(["set", "level", "kind"], sort=False):
        true, other, sibling = (table[table["truth"] == r] for r in ("true", "other", "sibling"))
        checkable = [t[t["verdict"] != "not verifiable"] for t in (true, other, sibling)]
        share = [
            {v: float((t["verdict"] == v).mean()) if len(t) else np.nan for v in ("kept", "softened", "removed")}
            for t in checkable
        ]
        removed = share[1]["removed"] + share[0]["removed"]
        rows.append(
            {
                "set": name, "level": level, "kind": kind, "n true": len(checkable[0]), "n false": len(checkable[1]),
                "recall": 1 - share[1]["kept"], "false removed": share[1]["removed"],
                "precision": share[1]["removed"] / removed if removed else np.nan,
                "true kept": share[0]["kept"], "true removed": share[0]["removed"],
                "n sibling": len(checkable[2]), "sibling recall": 1 - share[2]["kept"], "sibling removed": share[2]["removed"],
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def tune(folder: Path, seeds: int) -> None:
    """Coefficients of identities on sorted blood cells, and the table with today's limits."""
    from sklearn.linear_model import LogisticRegression

    found = pd.concat([statements_of("facs", folder, seed) for seed in range(seeds)])
    for level in ("cell", "group"):
        t = found[
            (found["level"] == level)
            & (found["kind"] == "identity")
            & found["truth"].isin(["true", "other"])
            & found["z"].notna()
        ]
        columns = (
            ["z", "far", "some"] if level == "cell" else ["z", "far"]
        )  # every group has a raised marker of its type
        model = LogisticRegression(class_weight="balanced").fit(t[columns].to_numpy(), t["truth"] == "true")
        print(level, "a, b, c, d =", np.round([model.intercept_[0], *model.coef_[0]], 2))
    print(summary(found).round(3).to_string(index=False))


def main() -> None:
    """Print tables, and write them to benchmarks/results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", nargs="?", choices=["test", "tune"], default="test")
    parser.add_argument("--sets", nargs="+", default=[s for s in SETS if s != "facs"], choices=list(SETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=REAL_DATA, help="folder with scrna/*.h5ad (SCLM_REAL_DATA)")
    args = parser.parse_args()
    if not (args.data / "scrna").is_dir():
        print(f"No real data under {args.data}: nothing to measure. Pass --data, or set SCLM_REAL_DATA.")
        return
    if args.action == "tune":
        tune(args.data, args.seeds)
        return
    parts = []
    for name in args.sets:
        parts += [statements_of(name, args.data, seed) for seed in range(args.seeds)]
    found = pd.concat(parts, ignore_index=True)
    table = summary(found)
    print(table.round(3).to_string(index=False))
    RESULTS.mkdir(exist_ok=True)
    table.to_csv(RESULTS / "describe_falsehoods.csv", index=False)
    spread = pd.concat([summary(found[found["seed"] == s]) for s in range(args.seeds)]).groupby(
        ["set", "level", "kind"], sort=False
    )
    print("\nstandard deviation over seeds (other cells in each half)")
    print(spread[["recall", "precision", "true kept"]].std().round(3).to_string())
    print(
        f"\nwithout metadata, statements on tissue and disease not verifiable: {found['not_verifiable_without_metadata'].min():.0%}"
    )


if __name__ == "__main__":
    main()
