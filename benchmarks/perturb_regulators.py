"""Simulated exhausted and effector T cells with planted regulators: does a screen in silico find them?

A programme is a set of genes that rise and fall together because its regulators do: the level of each regulator varies around the
activity of the programme, and the targets follow the mean level of the regulators (never the activity itself). Three programmes are
high in exhausted cells, three in effector cells, the others vary from cell to cell whatever the state. The encoder is trained from
random weights on these cells without labels; its screen deletes each candidate (all regulators, and as many genes again that regulate
nothing) in exhausted cells and asks for the shift towards the effector state.
"""

from __future__ import annotations

import time

import numpy as np
import pandas as pd

STATES, OTHERS, REGULATORS, TARGETS, IDLE, REST = 3, 6, 3, 22, 40, 220
OF_EXHAUSTED, OF_EFFECTOR, OF_NEITHER, NOTHING = "exhausted", "effector", "neither", "none"


def simulate(seed: int, n_cells: int = 1200):
    """Counts of two states; ``.var["role"]`` and ``.var["programme_of"]`` tell the truth."""
    import anndata
    from scipy import sparse

    rng = np.random.default_rng(seed)
    exhausted = np.arange(n_cells) < n_cells // 2
    programmes = 2 * STATES + OTHERS
    activity = rng.normal(size=(n_cells, programmes)) * 0.5
    activity[:, :STATES] += np.where(exhausted, 0.9, -0.9)[:, None]
    activity[:, STATES : 2 * STATES] += np.where(exhausted, -0.9, 0.9)[:, None]
    activity[:, 2 * STATES :] *= 2.2  # other sources of variation, as strong
    level = activity[:, :, None] + 0.5 * rng.normal(size=(n_cells, programmes, REGULATORS))  # of each regulator
    columns, role, of = [], [], []
    kinds = [OF_EXHAUSTED] * STATES + [OF_EFFECTOR] * STATES + [OF_NEITHER] * OTHERS
    for p, kind in enumerate(kinds):
        for k in range(REGULATORS):
            columns.append(level[:, p, k] * rng.uniform(0.6, 1.0))
            role.append("regulator")
            of.append(kind)
        mean = level[:, p].mean(axis=1)
        for _ in range(TARGETS):
            columns.append(mean * rng.uniform(0.3, 1.0))
            role.append("target")
            of.append(kind)
    for name, number in (("idle", IDLE), ("rest", REST)):
        for _ in range(number):
            columns.append(0.3 * rng.normal(size=n_cells))
            role.append(name)
            of.append(NOTHING)
    base = rng.normal(-0.6, 1.0, size=len(columns))  # log counts: genes of all abundances
    log_rate = np.column_stack(columns) + base + rng.normal(0, 0.25, size=(n_cells, 1))
    counts = rng.poisson(np.exp(np.clip(log_rate, None, 6))).astype(np.float32)
    names = [f"{r.upper()}{i}" for i, r in enumerate(role)]
    obs = pd.DataFrame(
        {"state": np.where(exhausted, "exhausted", "effector")}, index=[f"cell{i}" for i in range(n_cells)]
    )
    var = pd.DataFrame({"role": role, "programme_of": of}, index=names)
    return anndata.AnnData(sparse.csr_matrix(counts), obs=obs, var=var)


def auroc(score: np.ndarray, positive: np.ndarray) -> float:
    from scipy.stats import rankdata

    rank = rankdata(score)
    n = int(positive.sum())
    return float((rank[positive].sum() - n * (n + 1) / 2) / (n * (len(score) - n)))


def differential(adata) -> pd.Series:
    """Welch's t of exhausted against effector cells: what needs no model."""
    from sclm.cells import log_normalise
    from sclm.metrics.perturbation import differential_scores

    codes = np.where(adata.obs["state"] == "exhausted", 0, -1)
    return pd.Series(differential_scores(log_normalise(adata.X), codes)[0], index=adata.var_names)


def judge(table: pd.DataFrame, adata, score: pd.Series) -> dict[str, float]:
    of = adata.var["programme_of"].to_numpy()[adata.var_names.get_indexer(table["perturbation"])]
    regulator = adata.var["role"].to_numpy()[adata.var_names.get_indexer(table["perturbation"])] == "regulator"
    planted, against = regulator & (of == OF_EXHAUSTED), regulator & (of == OF_EFFECTOR)
    values = score.loc[table["perturbation"]].to_numpy(dtype=float)
    values = np.where(np.isfinite(values), values, np.nanmin(values))
    rank = len(values) - values.argsort().argsort()  # 1 is best
    return {
        "AUROC": auroc(values, planted),
        "AUROC, effector, reversed": auroc(-values, against),
        "mean rank": float(rank[planted].mean()),
    }


def run(args) -> None:
    from scipy import stats

    import sclm

    rows, calibration = [], []
    for seed in range(args.seeds):
        adata = simulate(seed, 400 if args.quick else 1200)
        candidates = list(adata.var_names[adata.var["role"].isin(["regulator", "idle"])])
        listed = pd.DataFrame({"perturbation": candidates})
        t = differential(adata)
        rows.append({"ranking": "differential expression", "seed": seed, **judge(listed, adata, t)})
        for family in args.encoders:
            options = {"preset": "tiny", "progress_bar": False, "accelerator": "cpu"}
            epochs = 2 if args.quick else args.epochs
            for weights in ("trained", "random"):
                start = time.perf_counter()
                trained = {"max_epochs": epochs} if weights == "trained" else {"max_epochs": 1, "learning_rate": 1e-12}
                model = sclm.train(family, adata, seed=seed, **options, **trained)
                seconds = time.perf_counter() - start
                out = sclm.tl.perturb(
                    adata, model, candidates, state_key="state", start="exhausted", goal="effector", n_cells=args.cells,
                    n_null=200, seed=seed, copy=True,
                )  # fmt: skip
                table, null = sclm.get.perturb(out), sclm.get.perturb_null(out)
                role = adata.var["role"].reindex(table["perturbation"]).to_numpy()
                of = adata.var["programme_of"].reindex(table["perturbation"]).to_numpy()
                planted = (role == "regulator") & (of == OF_EXHAUSTED)
                score = table.set_index("perturbation")["goal_z"]
                found = judge(table, adata, score)
                hit = (table["goal_q"] < 0.05).to_numpy() & (table["goal_shift"] > 0).to_numpy()
                idle = table[role == "idle"]
                rows.append(
                    {
                        "ranking": f"{family}, {weights} weights", "seed": seed, **found,
                        "planted at q < 0.05": f"{int((hit & planted).sum())} of {int(planted.sum())}",
                        "others at q < 0.05": int((hit & ~planted).sum()),
                        "KS p of idle genes": float(stats.kstest(idle["goal_p"].dropna(), "uniform").pvalue),
                        "seconds": seconds,
                    }
                )  # fmt: skip
                calibration.append((family, weights, len(null), float((idle["goal_p"] < 0.05).mean())))
                if args.verbose:
                    print(rows[-1])
    print("\n## regulators: planted regulators of exhausted and effector states\n")
    print(markdown(pd.DataFrame(rows), "ranking"))
    shares = pd.DataFrame(calibration, columns=["family", "weights", "n_null", "share"])
    print("\nIdle genes with p < 0.05 (0.05 is right):")
    for (family, weights), group in shares.groupby(["family", "weights"]):
        print(
            f"- {family}, {weights} weights: {group['share'].mean():.3f} ({int(group['n_null'].mean())} random genes)"
        )


def markdown(rows: pd.DataFrame, by: str) -> str:
    """Mean ± standard deviation over seeds of each column, a row a value of ``by``."""
    columns = [c for c in rows.columns if c not in (by, "seed", "seconds")] + ["seconds"] * ("seconds" in rows)
    lines = [f"| {by} | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, group in rows.groupby(by, sort=False):
        cells = []
        for column in columns:
            values = group[column].dropna()
            if not len(values):
                cells.append("")
            elif values.dtype == object:
                cells.append(", ".join(map(str, values)))
            else:
                cells.append(f"{values.mean():.3f}" + (f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else ""))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
