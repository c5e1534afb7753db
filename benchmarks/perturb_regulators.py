"""Simulated exhausted and effector T cells with planted regulators: does a screen in silico find them?

A programme is a set of genes that rise and fall together because its regulators do: the level of each regulator varies around the
activity of the programme, and the targets follow the mean level of the regulators (never the activity itself). Three programmes are
high in exhausted cells, three in effector cells, the others vary from cell to cell whatever the state. The encoder is trained from
random weights on these cells without labels; its screen deletes each candidate (all regulators, and 40 idle genes that regulate nothing)
in exhausted cells and asks for the shift towards the effector state. Regulators are found where those of the exhausted state come first
(AUROC, mean rank) and those of the effector state last (AUROC, reversed). They are differentially expressed too: that ranking, which needs
no model, stands beside. Random genes of the null are of all kinds, a few in a hundred belong to the states.
"""

from __future__ import annotations

import time

import numpy as np
import pandas as pd

STATES, OTHERS, REGULATORS, TARGETS, IDLE, REST = 2, 4, 3, 8, 40, 480
OF_EXHAUSTED, OF_EFFECTOR, OF_NEITHER, NOTHING = "exhausted", "effector", "neither", "none"


def simulate(seed: int, n_cells: int = 800):
    """Counts of two states; ``.var["role"]`` and ``.var["programme_of"]`` tell the truth."""
    import anndata
    from scipy import sparse

    rng = np.random.default_rng(seed)
    exhausted = np.arange(n_cells) < n_cells // 2
    programmes = 2 * STATES + OTHERS
    activity = rng.normal(size=(n_cells, programmes)) * 0.5
    activity[:, :STATES] += np.where(exhausted, 1.0, -1.0)[:, None]
    activity[:, STATES : 2 * STATES] += np.where(exhausted, -1.0, 1.0)[:, None]
    activity[:, 2 * STATES :] *= 2.2  # other sources of variation, as strong
    level = activity[:, :, None] + 0.5 * rng.normal(size=(n_cells, programmes, REGULATORS))  # of each regulator
    columns, role, of = [], [], []
    kinds = [OF_EXHAUSTED] * STATES + [OF_EFFECTOR] * STATES + [OF_NEITHER] * OTHERS
    for p, kind in enumerate(kinds):
        for k in range(REGULATORS):
            columns.append(level[:, p, k] * rng.uniform(0.9, 1.3))
            role.append("regulator")
            of.append(kind)
        mean = level[:, p].mean(axis=1)
        for _ in range(TARGETS):
            columns.append(mean * rng.uniform(0.3, 0.8))
            role.append("target")
            of.append(kind)
    for name, number in (("idle", IDLE), ("rest", REST)):
        for _ in range(number):
            columns.append(0.3 * rng.normal(size=n_cells))
            role.append(name)
            of.append(NOTHING)
    base = rng.normal(-1.2, 0.9, size=len(columns))  # log counts: genes of all abundances
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

    rows = []
    for seed in range(args.seeds):
        adata = simulate(seed, 300 if args.quick else 800)
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
                for pooling in model.poolings:
                    out = sclm.tl.perturb(
                        adata, model, candidates, state_key="state", start="exhausted", goal="effector", n_cells=args.cells,
                        n_null=250, pooling=pooling, seed=seed, copy=True,
                    )  # fmt: skip
                    table = sclm.get.perturb(out)
                    role = adata.var["role"].reindex(table["perturbation"]).to_numpy()
                    of = adata.var["programme_of"].reindex(table["perturbation"]).to_numpy()
                    planted = (role == "regulator") & np.isin(of, [OF_EXHAUSTED, OF_EFFECTOR])
                    hit = (table["goal_q"] < 0.05).to_numpy()
                    idle = table.loc[role == "idle", "goal_p"].dropna()
                    by_name = table.set_index("perturbation")
                    raw = judge(table, adata, by_name["goal_shift"])
                    rows.append(
                        {
                            "ranking": f"{family}, {weights} weights, {pooling}",
                            "seed": seed,
                            **judge(table, adata, by_name["goal_z"]),
                            "AUROC without the null": raw["AUROC"],
                            "planted at q < 0.05": f"{int((hit & planted).sum())}/{int(planted.sum())}",
                            "others at q < 0.05": f"{int((hit & ~planted).sum())}/{int((~planted).sum())}",
                            "idle genes: KS p": float(stats.kstest(idle, "uniform").pvalue),
                            "idle genes: p < 0.05": float((idle < 0.05).mean()),
                            "seconds": seconds,
                        }
                    )
                    if args.verbose:
                        print(rows[-1], flush=True)
    print("\n## regulators: planted regulators of exhausted and effector states\n")
    print(markdown(pd.DataFrame(rows), "ranking"))


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
