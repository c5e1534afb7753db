"""What training did not show: a held-out combination, subtypes in other donors, terms that are left out."""

from __future__ import annotations

import numpy as np
import pandas as pd
from generation_data import cells_of, fit, labels, log_counts, log_mean, pearson, read, show, table, write

HELD_OUT = ("B", "NK", "CD4T")  # monocytes have no stimulated cells in this file
N_GENES = 1_500
BRANCHES = {
    # field: ontology, root of the branch, leaves with cells, leaves left out
    "cell_type": (
        "cl",
        "leukocyte",
        (
            "naive B cell", "memory B cell", "plasma cell", "CD4-positive, alpha-beta memory T cell",
            "naive thymus-derived CD4-positive, alpha-beta T cell", "regulatory T cell",
            "CD8-positive, alpha-beta memory T cell", "naive thymus-derived CD8-positive, alpha-beta T cell",
            "gamma-delta T cell", "mucosal-associated invariant T cell",
            "CD16-positive, CD56-dim natural killer cell, human", "CD16-negative, CD56-bright natural killer cell, human",
            "classical monocyte", "non-classical monocyte", "conventional dendritic cell", "plasmacytoid dendritic cell",
        ),
        ("memory B cell", "gamma-delta T cell", "regulatory T cell", "non-classical monocyte"),
    ),
    "tissue": (
        "uberon",
        "anatomical structure",
        (
            "upper lobe of left lung", "lower lobe of left lung", "upper lobe of right lung", "bronchus", "trachea",
            "cortex of kidney", "renal medulla", "duodenum", "jejunum", "ileum", "ascending colon", "descending colon",
            "sigmoid colon", "caudate nucleus", "putamen", "frontal cortex", "cerebellum",
        ),
        ("lower lobe of left lung", "jejunum", "sigmoid colon", "putamen"),
    ),
}  # fmt: skip


# A combination of cell type and condition -----------------------------------------------------------------------------


def generalisation(args) -> None:
    """Stimulated cells of one type are left out, requested, and compared with the real ones."""
    adata = read(args.folder, "kang")
    rows = []
    for held in args.types or HELD_OUT:
        for seed in range(args.seeds):
            rows += held_out_rows(adata, held, args, seed)
    show("A combination that training lacks: stimulated cells of one type (kang)", table(rows, ["left out", "method"]))


def held_out_rows(adata, held: str, args, seed: int) -> list[dict]:
    """Each method against one half of the real held-out cells; the other half is the ceiling."""
    kind, condition = labels(adata), labels(adata, "condition")
    out = (kind == held) & (condition == "stimulated")
    if not out.any():
        raise ValueError(f"kang has no stimulated {held!r}; its types are {', '.join(np.unique(kind))}.")
    model, trained = fit(adata[~out].copy(), ("cell_type", "condition"), args, seed)
    request = pd.DataFrame({"cell_type": [held] * 400, "condition": "stimulated"})
    made, _ = write(model, request, seed)
    generated = log_counts(made[:, adata.var_names])

    log = log_counts(adata)
    rng = np.random.default_rng(seed)
    order = rng.permutation(np.flatnonzero(out))
    ceiling, test = log[order[::2]], log[order[1::2]]
    control = log[(kind == held) & (condition == "control")].toarray()
    shifts = []
    for other in np.unique(kind[kind != held]):
        pair = [log[(kind == other) & (condition == c)] for c in ("stimulated", "control")]
        if min(part.shape[0] for part in pair) >= 5:
            shifts.append(mean(pair[0]) - mean(pair[1]))
    shift = np.mean(shifts, axis=0)
    methods = {
        "other real half": (mean(ceiling), ceiling.toarray()),
        "no change": (control.mean(axis=0), control),
        "additive: mean shift of the other types": (
            np.maximum(control.mean(axis=0) + shift, 0.0), np.maximum(control + shift, 0.0),
        ),
        "ours": (mean(generated), generated.toarray()),
    }  # fmt: skip
    top = changed(log[out].toarray(), control)
    place = space(log, seed)
    rows = []
    for name, (profile, cells) in methods.items():
        found = effect(mean(test), profile, control.mean(axis=0), top) | distances(test.toarray(), cells, place)
        seconds = trained.wall if name == "ours" else np.nan
        rows.append({"left out": held, "method": name, "seed": seed, **found, "train_s": seconds})
    return rows


def mean(log) -> np.ndarray:
    return np.asarray(log.mean(axis=0)).ravel()


def changed(treated: np.ndarray, control: np.ndarray, n: int = 100) -> np.ndarray:
    """The genes that differ most between real treated and control cells, by Welch's statistic."""
    from scipy.stats import ttest_ind

    keep = (treated > 0).sum(axis=0) + (control > 0).sum(axis=0) >= 10
    score = np.zeros(treated.shape[1])
    score[keep] = np.abs(ttest_ind(treated[:, keep], control[:, keep], equal_var=False).statistic)
    return np.argsort(-np.nan_to_num(score))[:n]


def effect(real: np.ndarray, made: np.ndarray, control: np.ndarray, top: np.ndarray) -> dict[str, float]:
    """Squared correlation of mean profiles, correlation and least-squares slope of the effects on the top genes."""
    x, y = real - control, made - control
    same = {"r2": pearson(real, made) ** 2, "r2_top100": pearson(real[top], made[top]) ** 2}
    if not np.any(y):
        return same | {"effect_r": np.nan, "effect_r_top100": np.nan, "effect_slope_top100": 0.0}
    centred = x[top] - x[top].mean()
    slope = float(centred @ (y[top] - y[top].mean()) / (centred @ centred))
    return same | {
        "effect_r": pearson(x, y),
        "effect_r_top100": pearson(x[top], y[top]),
        "effect_slope_top100": slope,
    }


def space(log, seed: int) -> np.ndarray:
    """Axes (G, 50) of all real cells."""
    from sklearn.decomposition import TruncatedSVD

    return TruncatedSVD(50, random_state=seed).fit(log).components_.T


def distances(real: np.ndarray, made: np.ndarray, axes: np.ndarray) -> dict[str, float]:
    from sclm.metrics.generation import energy_distance, mmd

    x, y = real @ axes, made @ axes
    return {"energy": energy_distance(x, y), "mmd": mmd(x, y)}


# Subtypes -------------------------------------------------------------------------------------------------------------


def subtypes(args) -> None:
    """Tumour subtypes with known programmes, and cell lines, in donors or plates that training has not seen."""
    rows = []
    for seed in range(args.seeds):
        train, test, signatures = tumours(seed)
        rows += subtype_rows("simulated subtypes", train, test, signatures, args, seed)
        if (args.folder / "scrna").is_dir():
            train, test, signatures = cell_lines(read(args.folder, "scmixology"))
            rows += subtype_rows("cell lines", train, test, signatures, args, seed)
    show("Subtypes in donors (simulated) or a plate (cell lines) that training lacks", table(rows, ["data", "row"]))


def tumours(seed: int):
    """Four subtypes in 16 patients, half of each subtype's for training.

    A programme of 40 genes belongs to each subtype and is active in the others by degrees (0.6, 0.3, 0), so that the order
    of subtypes by a signature is known; a cycle of 40 more is active in some cells of all.
    """
    rng = np.random.default_rng(seed)
    base = rng.gamma(0.4, 1.0, N_GENES) + 0.01
    genes = [f"GENE{i}" for i in range(N_GENES)]
    blocks = rng.permutation(N_GENES)[:200].reshape(5, 40)  # (200,) -> (programmes, genes): four of subtypes, one cycle
    fold = rng.uniform(0.5, 1.3, (5, 40))
    counts, obs = [], []
    for patient in range(16):
        subtype, own = patient % 4, base * rng.lognormal(0.0, 0.15, N_GENES)
        activity = np.column_stack([rng.normal(1.0, 0.3, 70), np.maximum(rng.normal(0.0, 1.0, 70), 0.0)])
        log = np.zeros((70, N_GENES))
        for programme in range(4):
            degree = (1.0, 0.6, 0.3, 0.0)[(subtype - programme) % 4]
            log[:, blocks[programme]] += degree * activity[:, :1] * fold[programme]
        log[:, blocks[4]] += activity[:, 1:] * fold[4]
        rate = own * np.exp(log) * rng.gamma(5.0, 0.2, log.shape)
        depth = rng.lognormal(np.log(3_000), 0.3, (70, 1))
        counts.append(rng.poisson(depth * rate / rate.sum(axis=1, keepdims=True)))
        obs += [{"subtype": f"subtype {'ABCD'[subtype]}", "donor": f"patient {patient}"}] * 70
    adata = cells_of(np.concatenate(counts), genes, pd.DataFrame(obs))
    first = np.array([int(d.split()[1]) < 8 for d in adata.obs["donor"]])
    signatures = {f"programme {'ABCD'[s]}": [genes[g] for g in blocks[s]] for s in range(4)}
    return adata[first].copy(), adata[~first].copy(), signatures


def cell_lines(adata):
    """Five cancer cell lines on three plates: two for training, whose markers are the signatures, the third to test."""
    from sclm.metrics.generation import log_fold_changes

    plate = labels(adata, "batch")
    single = (labels(adata, "demuxlet_cls") == "SNG") & np.char.startswith(plate.astype(str), "sc_celseq2_5cl")
    adata = adata[single].copy()
    adata.obs = pd.DataFrame({"subtype": labels(adata, "cell_line_demuxlet"), "donor": plate[single]}, adata.obs_names)
    seen = np.asarray((adata.X > 0).sum(axis=0)).ravel() >= 5
    adata = adata[:, seen].copy()
    first = labels(adata, "donor") != "sc_celseq2_5cl_p3"
    train, test = adata[first].copy(), adata[~first].copy()
    change, names = log_fold_changes(train.X, labels(train, "subtype"))
    signatures = {
        f"markers of {n}": list(adata.var_names[np.argsort(-c)[:30]]) for n, c in zip(names, change, strict=True)
    }
    return train, test, signatures


def subtype_rows(data: str, train, test, signatures, args, seed: int) -> list[dict]:
    from sclm.metrics.generation import independent_poisson, subtypes

    model, trained = fit(train, ("subtype",), args, seed)
    names = labels(train, "subtype")
    poisson = independent_poisson(train.X, names, names, seed=seed)
    shuffled = train.copy()
    shuffled.obs["subtype"] = np.random.default_rng(seed).permutation(names)
    made, _ = write(model, train.obs[["subtype"]], seed)
    rows = []
    for name, cells in {
        "training half": train,
        "labels permuted": shuffled,
        "independent Poisson": cells_of(poisson, train.var_names, train.obs),
        "ours": made,
    }.items():
        found = subtypes(test, cells, subtype_key="subtype", signatures=signatures, seed=seed).summary.iloc[0].to_dict()
        seconds = trained.wall if name == "ours" else np.nan
        rows.append({"data": data, "row": name, "seed": seed, **found, "train_s": seconds})
    return rows


# Terms that training lacks --------------------------------------------------------------------------------------------


def fallback(args) -> None:
    """Leaves of an ontology are left out of training and requested."""
    rows = []
    for field in BRANCHES:
        for seed in range(args.seeds):
            rows += fallback_rows(field, args, seed)
    show("Terms that training lacks: profile against the true one", table(rows, ["field", "left out"]))


def branch(field: str, seed: int):
    """Simulated cells of the leaves, and the true profile (G,) of each: effects of all its ancestors in the branch."""
    from sclm.knowledge import Ontology

    name, top, leaves, _ = BRANCHES[field]
    ontology = Ontology.load(name)
    root = ontology.resolve(top).term_id
    inside = ontology.descendants(root)
    above = {leaf: ontology.ancestors(ontology.resolve(leaf).term_id, include_self=True) & inside for leaf in leaves}
    # Terms of a chain that stand above the same leaves have one effect between them: they cannot be told apart.
    groups = {frozenset(leaf for leaf in leaves if term in above[leaf]) for term in frozenset().union(*above.values())}
    rng = np.random.default_rng(seed)
    log = np.tile(rng.normal(0.0, 1.5, N_GENES), (len(leaves), 1))
    for group in sorted(groups, key=lambda g: (-len(g), sorted(g))):
        if len(group) < len(leaves):
            genes = rng.random(N_GENES) < 0.08
            log[np.ix_([leaf in group for leaf in leaves], genes)] += rng.normal(0.0, 1.0, genes.sum())
    share = np.exp(log) / np.exp(log).sum(axis=1, keepdims=True)
    code = np.repeat(np.arange(len(leaves)), 100)
    noise = rng.gamma(5.0, 0.2, (len(code), N_GENES)) * rng.lognormal(np.log(3_000), 0.3, (len(code), 1))
    counts = rng.poisson(noise * share[code])
    obs = pd.DataFrame({field: np.array(leaves, dtype=object)[code]})
    adata = cells_of(counts, [f"GENE{i}" for i in range(N_GENES)], obs)
    return adata, ontology, above, dict(zip(leaves, np.log1p(1e4 * share), strict=True))


def fallback_rows(field: str, args, seed: int) -> list[dict]:
    """Correlations with the true profile, both less the mean over the training leaves: what they share counts nothing."""
    adata, ontology, above, truth = branch(field, seed)
    left_out = BRANCHES[field][3]
    kind = labels(adata, field)
    train = adata[~np.isin(kind, left_out)].copy()
    model, trained = fit(train, (field,), args, seed)
    profiles = {leaf: log_mean(adata[kind == leaf]) for leaf in truth if leaf not in left_out}
    centre = np.mean(list(profiles.values()), axis=0)
    rows = []
    for leaf in left_out:
        request = pd.DataFrame({field: [leaf] * 200})
        made, _ = write(model, request, seed)
        resolved = model.conditions.resolve(request, max_novelty=1.0)
        parent, below = nearest_ancestor(leaf, above, profiles)
        against = truth[leaf] - centre
        others = [pearson(p - centre, against) for p in profiles.values()]
        rows.append(
            {
                "field": field,
                "left out": f"{leaf} ({ontology.name_of(parent)}: {len(below)} seen)",
                "seed": seed,
                "ours": pearson(log_mean(made) - centre, against),
                "mean of the parent": pearson(np.mean([profiles[b] for b in below], axis=0) - centre, against),
                "nearest leaf": max(others),
                "random leaf": float(np.mean(others)),
                "another real sample": pearson(log_mean(adata[kind == leaf]) - centre, against),
                "novelty": float(resolved.novelty.max()),
                "train_s": trained.wall,
            }
        )
    return rows


def nearest_ancestor(leaf: str, above: dict[str, frozenset[str]], profiles: dict) -> tuple[str, list[str]]:
    """The ancestor of the left-out leaf with fewest training leaves below it, and these."""
    below = {term: [name for name in profiles if term in above[name]] for term in above[leaf]}
    known = {term: names for term, names in below.items() if names}
    # among terms above the same leaves the lowest: the one with most ancestors, by the size of its chain
    parent = min(known, key=lambda term: (len(known[term]), term))
    return parent, known[parent]
