"""THP-1 knock-outs (ECCITE-seq, Papalexi 2021): which perturbations have an effect, by cells in an embedding.

Truth, fixed before any ranking was looked at:

* literature: IFNGR1, IFNGR2, JAK2, STAT1, STAT2, IRF1 (interferon-gamma response of these stimulated cells), CUL3, BRD4, SPI1, MYC, CMTM6,
  SMAD4, NFKBIA (effects described with the data or textbook roles in monocytes); all other targets negative;
* replicate 1: targets with at least 5 of the measured genes differential (Welch, false discovery rate 0.05) against non-targeting cells.

Rankings see replicates 2 and 3 only. An embedding ranks targets by the shift of their mean against non-targeting cells of the same
replicate: by its length beyond chance, :math:`\\sqrt{\\max(s^2 - E_0 s^2, 0)}`, and by its z under shuffled labels, which grows with the
number of cells. Beside it: number of differential genes, and the change of the target's own gene, where it is measured. Encoders learn on
replicate 1 without labels.
"""

from __future__ import annotations

import time

import numpy as np
import pandas as pd

FILE = "perturb/thp1_eccite_papalexi299.h5ad"
LITERATURE = {
    "IFNGR1", "IFNGR2", "JAK2", "STAT1", "STAT2", "IRF1", "CUL3", "BRD4", "SPI1", "MYC", "CMTM6", "SMAD4", "NFKBIA",
}  # fmt: skip
CONTROL = "non-targeting"
N_DIFFERENTIAL = 5


def differential(values, codes: np.ndarray, n: np.ndarray):
    """Welch's t (P, G), and the number of genes at a false discovery rate of 0.05 (P,)."""
    from scipy import stats

    from sclm.evidence import benjamini_hochberg
    from sclm.metrics.perturbation import differential_scores

    t = differential_scores(values, codes)
    p = 2 * stats.norm.sf(np.abs(t))  # hundreds of cells
    return t, np.array([(benjamini_hochberg(row) < 0.05).sum() for row in p])


def components(train, values, n: int = 50) -> np.ndarray:
    """Principal components learnt on replicate 1."""
    from scipy.sparse.linalg import svds

    mean = np.asarray(train.mean(axis=0)).ravel()
    dense = train.toarray() - mean
    directions = svds(dense, k=min(n, min(dense.shape) - 1), random_state=0)[2]
    return np.asarray((values.toarray() - mean) @ directions.T)


def shifts(
    points: np.ndarray, target: np.ndarray, replicate: np.ndarray, names: list[str], n_permutations: int, seed: int
):
    """Shift of each target beyond chance, z and p against non-targeting cells of the same replicate."""
    from sclm.evidence import mean_shift_test

    rows = []
    points = (points - points.mean(axis=0)) / max(float(points.std(axis=0).mean()), 1e-12)
    for name in names:
        used = (target == name) | (target == CONTROL)
        test = mean_shift_test(
            points[used], target[used] == name, strata=replicate[used], n_permutations=n_permutations, seed=seed
        )
        beyond = np.sqrt(max(test.statistic**2 - float((test.null**2).mean()), 0.0))
        rows.append((name, beyond, (test.statistic - test.null.mean()) / test.null.std(), test.p))
    return pd.DataFrame(rows, columns=["target", "beyond", "z", "p"]).set_index("target")


def run(args) -> None:
    import anndata
    from perturb_regulators import auroc
    from scipy import stats

    import sclm
    from sclm.cells import log_normalise, read_cells

    adata = anndata.read_h5ad(args.folder / FILE)
    target, guide = (adata.obs[c].astype(str).to_numpy() for c in ("target", "guide"))
    replicate = adata.obs["bio_rep"].astype(str).to_numpy()
    rng = np.random.default_rng(0)
    if args.quick:
        kept = np.sort(rng.choice(adata.n_obs, 3000, replace=False))
        adata, target, guide, replicate = adata[kept].copy(), target[kept], guide[kept], replicate[kept]
    values = log_normalise(read_cells(adata).read().counts)
    first, rest = replicate == "rep_1", replicate != "rep_1"
    counted = pd.Series(target[rest]).value_counts()
    names = sorted(t for t in counted.index if t != CONTROL and counted[t] >= 20 and (target[first] == t).sum() >= 20)
    code = {CONTROL: -1, **{name: i for i, name in enumerate(names)}}
    codes = np.array([code.get(t, -2) for t in target])
    _, n_first = differential(values[first], codes[first], counted)
    t_rest, n_rest = differential(values[rest], codes[rest], counted)
    truths = {
        "literature": np.array([name in LITERATURE for name in names]),
        "replicate 1": n_first >= N_DIFFERENTIAL,
    }
    print("\n## screen: THP-1 knock-outs, replicates 2 and 3\n")
    for label, truth in truths.items():
        print(f"- {label}: {int(truth.sum())} of {len(names)} targets: {', '.join(np.array(names)[truth])}")
    genes = list(map(str, adata.var_names))
    own = np.array([abs(t_rest[i, genes.index(n)]) if n in genes else 0.0 for i, n in enumerate(names)])
    measured = [name for name in names if name in genes]

    spaces = {
        "all genes": lambda: values.toarray(),
        "50 principal components": lambda: components(values[first], values),
    }
    models = {}
    learnt_on = np.sort(rng.permutation(np.flatnonzero(first))[: args.train_cells])
    for family in args.encoders:
        for weights in ("trained", "random"):
            options = {"preset": "tiny", "progress_bar": False, "accelerator": "cpu", "seed": 0}
            epochs = {"max_epochs": 1 if args.quick else args.epochs}
            chosen = epochs if weights == "trained" else {"max_epochs": 1, "learning_rate": 1e-12}
            start = time.perf_counter()
            model = models[family, weights] = sclm.train(family, adata[learnt_on].copy(), **options, **chosen)
            if args.verbose:
                print(f"{family}, {weights}: {time.perf_counter() - start:.0f} s", flush=True)
            cells = read_cells(adata).read()
            spaces[f"{family}, {weights} weights"] = lambda model=model, cells=cells: model.embed(cells)

    rows, guides, observed = [], [], {}
    control = target == CONTROL
    for space, make in spaces.items():
        points = np.asarray(make(), dtype=np.float64)
        points = np.where(np.isfinite(points), points, np.nanmean(points, axis=0))
        table = shifts(points[rest], target[rest], replicate[rest], names, args.permutations, 0)
        observed[space] = table
        row = {"ranking": space}
        for label, truth in truths.items():
            row[f"AUROC, {label}"] = auroc(table["beyond"].to_numpy(), truth)
            row[f"AUROC by z, {label}"] = auroc(table["z"].to_numpy(), truth)
        q = sclm.evidence.benjamini_hochberg(table["p"])
        row["q < 0.05"] = int((q < 0.05).sum())
        p = []
        for name in sorted(set(guide[control])):
            for part in sorted(set(replicate)):
                used = control & (replicate == part)
                if (guide[used] == name).sum() >= 10:
                    test = sclm.evidence.mean_shift_test(
                        points[used], guide[used] == name, n_permutations=args.permutations, seed=1
                    )
                    p.append(test.p)
        row["NT guides: KS p"] = float(stats.kstest(p, "uniform").pvalue)
        row["NT guides: p < 0.05"] = f"{int((np.array(p) < 0.05).sum())} of {len(p)}"
        rows.append(row)
        guides.append(p)
    for label, score in (("number of differential genes", n_rest), ("change of the target's own gene", own)):
        rows.append({"ranking": label, **{f"AUROC, {k}": auroc(score, truth) for k, truth in truths.items()}})
    print()
    print(table_text(rows))
    print(f"\nOwn genes are measured of {len(measured)} targets; the others rank last in that row.")

    print(
        "\n### Deleted in silico: target genes in non-targeting cells, against the observed shift of their knock-outs\n"
    )
    lines = []
    for (family, weights), model in models.items():
        out = sclm.tl.perturb(
            adata[control].copy(), model, measured, n_cells=args.cells, n_null=min(200, adata.n_vars - len(measured) - 40),
            copy=True,
        )  # fmt: skip
        found = sclm.get.perturb(out).set_index("perturbation").loc[measured]
        seen = observed[f"{family}, {weights} weights"].loc[measured, "beyond"]
        able = found["z"].notna().to_numpy()
        lines.append(
            {
                "encoder": f"{family}, {weights} weights",
                "targets": int(able.sum()),
                "Spearman, shift": float(stats.spearmanr(found["effect"][able], seen[able]).statistic),
                "Spearman, z": float(stats.spearmanr(found["z"][able], seen[able]).statistic),
                "p of z": float(stats.spearmanr(found["z"][able], seen[able]).pvalue),
                "q < 0.05": int((found["q"] < 0.05).sum()),
            }
        )
    print(table_text(lines) if lines else "no encoder was asked for")


def table_text(rows: list[dict]) -> str:
    """Rows as Markdown."""
    columns = list(dict.fromkeys(c for row in rows for c in row))
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        cells = [f"{v:.3f}" if isinstance(v, float) else str(v) for v in (row.get(c, "") for c in columns)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
