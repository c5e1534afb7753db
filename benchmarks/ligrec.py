"""Ligand-receptor tests on real sections: false positives among random pairs, planted signals, and time, beside other tests.

    python benchmarks/ligrec.py --data FOLDER [--parts calibration interface power speed] [--pairs 2000]

FOLDER holds ``spatial/her2st_8sections.h5ad`` and, where they are there, the other sections. Nothing is shuffled in them. A random pair is
two different genes, each seen in 5 % of the spots or more: whatever a test calls beyond its level is the tissue's doing. Three draws of
pairs; the spread is that of the draws.

The other tests are written out here after their documentation, except squidpy's, which is called. "Joint permutation" moves whole
spots (both genes of a pair together), as LIANA's and SpatialDM's permutations do, on standardised log expression with the same graph.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

import sclm
from sclm.cells import log_normalise
from sclm.evidence import adjusted_scores, benjamini_hochberg, receiver_permutation_test
from sclm.spatial import neighbour_graph

PARTS = ("calibration", "interface", "power", "speed")
REAL_DATA = Path(os.environ.get("SCLM_REAL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
LEAST = 0.05  # share of spots that must see a gene
TUMOUR = ("invasive cancer", "cancer in situ")
KEY = "test"


class Section(NamedTuple):
    """A real section, with the column of ``.obs`` that tells its regions, or None."""

    name: str
    adata: ad.AnnData
    labels: str | None


def sections(folder: Path) -> list[Section]:
    """What is there of the public sections."""
    found = []
    path = folder / "her2st_8sections.h5ad"
    if path.is_file():
        whole = ad.read_h5ad(path)
        of = whole.obs["section"].astype(str)
        found += [Section(f"her2st {name}", whole[of == name].copy(), "label") for name in of.unique()]
    for name, file, labels in (
        ("PDAC", "pdac_st_moncada.h5ad", "region"),
        ("breast Visium", "visium_breast_eevee709.h5ad", None),
        ("cortex 151510", "dlpfc151510_500genes.h5ad", "annotation"),
        ("liver cancer", "hcc1_2000genes.h5ad", None),
        ("CosMx, cells", "cosmx_profast2814.h5ad", "cell_type"),
        ("Xenium, cells", "xenium_breast_pikachu17136.h5ad", None),
    ):
        path = folder / file
        if path.is_file():
            adata = ad.read_h5ad(path)
            if labels is not None:
                adata.obs[labels] = adata.obs[labels].astype(str)
            found.append(Section(name, adata, labels))
    if not found:
        raise FileNotFoundError(
            f"no section in {folder}: pass --data with a folder that holds spatial/her2st_8sections.h5ad."
        )
    for section in found:
        adata = section.adata
        adata.X = sp.csr_matrix(adata.X, dtype=np.float32)
        adata.var_names = [name.replace("_", "-") for name in adata.var_names]  # "_" joins the parts of a complex
        adata.var_names_make_unique("-")
        keep = np.asarray(adata.X.sum(axis=1)).ravel() > 0
        if not keep.all():
            adata._inplace_subset_obs(keep)
        if section.labels is not None:
            adata.obs[section.labels] = pd.Categorical(adata.obs[section.labels])
    return found


def random_pairs(adata: ad.AnnData, n: int, seed: int) -> pd.DataFrame:
    """Pairs of different genes that are seen in enough spots."""
    share = np.asarray((adata.X > 0).mean(axis=0)).ravel()
    genes = np.asarray(adata.var_names, dtype=object)[share >= LEAST]
    rng = np.random.default_rng([seed, 17])
    pairs: dict[tuple[str, str], None] = {}
    while len(pairs) < n:
        a, b = rng.choice(len(genes), 2, replace=False)
        pairs[genes[a], genes[b]] = None
    return pd.DataFrame(list(pairs), columns=["ligand", "receptor"])


# The tests: p values of pairs -------------------------------------------------------------------------------------------


def ours(section: Section, pairs: pd.DataFrame, n: int, seed: int, **options: object) -> np.ndarray:
    sclm.tl.ligrec(section.adata, pairs, n_permutations=n, key_added=KEY, seed=seed, **options)
    table = section.adata.uns[KEY]["table"]
    return table["pval"].to_numpy()[np.isfinite(table["pval"])]


def standardised(section: Section, pairs: pd.DataFrame) -> tuple[sp.csr_matrix, np.ndarray, np.ndarray]:
    adata = section.adata
    logs = log_normalise(adata.X)
    columns = adata.var_names.get_indexer(pd.unique(pairs.to_numpy().ravel()))
    names = pd.Index(adata.var_names[columns])
    values = adjusted_scores(logs[:, columns].toarray(), np.zeros((adata.n_obs, 0)))
    where = np.column_stack([names.get_indexer(pairs["ligand"]), names.get_indexer(pairs["receptor"])])
    return neighbour_graph(adata.obsm["spatial"]), values, where


def receivers_only(section: Section, pairs: pd.DataFrame, n: int, seed: int) -> np.ndarray:
    graph, values, where = standardised(section, pairs)
    return receiver_permutation_test(graph, values, values, where, n_permutations=n, seed=seed).p


def joint(section: Section, pairs: pd.DataFrame, n: int, seed: int) -> np.ndarray:
    """Whole spots are moved: expression of both genes stays together, places do not."""
    graph, values, where = standardised(section, pairs)
    x, y = values[:, where[:, 0]], values[:, where[:, 1]]
    observed = np.einsum("nc,nc->c", x, graph @ y)
    rng = np.random.default_rng(seed)
    larger = np.zeros(len(where), dtype=int)
    for _ in range(n):
        order = rng.permutation(len(values))
        moved = graph[order][:, order]  # the same as moving both genes
        larger += np.einsum("nc,nc->c", x, moved @ y) >= observed
    return (1 + larger) / (1 + n)


def squidpy_test(section: Section, pairs: pd.DataFrame, n: int, seed: int) -> np.ndarray:
    """All pairs of clusters; p can be 0, as squidpy returns it."""
    import squidpy as sq

    adata = ad.AnnData(log_normalise(section.adata.X), obs=section.adata.obs, var=section.adata.var[[]])
    table = pairs.rename(columns={"ligand": "source", "receptor": "target"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = sq.gr.ligrec(
            adata, section.labels, interactions=table, n_perms=n, seed=seed, use_raw=False, copy=True, threshold=0.0,
            n_jobs=1, show_progress_bar=False, numba_parallel=False,
        )  # fmt: skip
    p = np.asarray(found["pvalues"], dtype=float).ravel()
    return p[np.isfinite(p)]


def without_labels(section: Section, pairs: pd.DataFrame, seed: int) -> np.ndarray:
    return refined(section, pairs, seed)


def with_labels(section: Section, pairs: pd.DataFrame, seed: int) -> np.ndarray:
    return refined(section, pairs, seed, adjust=section.labels)


def refined(section: Section, pairs: pd.DataFrame, seed: int, **options: object) -> np.ndarray:
    """999 permutations, and 49,999 others for pairs with p < 0.01: enough for one of 2,000 to pass a false discovery rate of 0.05."""
    ours(section, pairs, 999, seed, **options)
    table = section.adata.uns[KEY]["table"]
    p = table["pval"].to_numpy(copy=True)
    small = np.flatnonzero(p < 0.01)
    if len(small):
        ours(section, table.loc[table.index[small], ["ligand", "receptor"]], 49_999, seed + 1000, **options)
        p[small] = section.adata.uns[KEY]["table"]["pval"].to_numpy()
    return p[np.isfinite(p)]


# Name: test, draws of pairs, most pairs, needs labels. squidpy tests all pairs of regions, 16 to 49 times as many tests.
TESTS = {
    "sclm": (without_labels, 3, 10**6, False),
    "sclm, regions given": (with_labels, 3, 10**6, True),
    "receivers, unadjusted": (lambda section, pairs, seed: receivers_only(section, pairs, 999, seed), 1, 10**6, False),
    "joint permutation": (lambda section, pairs, seed: joint(section, pairs, 199, seed), 1, 500, False),
    "squidpy": (lambda section, pairs, seed: squidpy_test(section, pairs, 1000, seed), 1, 200, True),
}


# Tables -----------------------------------------------------------------------------------------------------------------


def calibration(found: list[Section], n_pairs: int, draws: int, names: list[str]) -> None:
    print(
        f"\nfalse positives: {n_pairs:,} random pairs a section, {draws} draws for sclm and 1 for the others, of 500 pairs for the joint permutation "
        "and 200 for squidpy; "
        "% with p < 0.05 (sd over draws) / % passing FDR 0.05"
    )
    print(f"{'section':<16}{'spots':>7}" + "".join(f"{head:>24}" for head in names), flush=True)
    for section in found:
        cells = []
        for test, most_draws, most_pairs, needs_labels in (TESTS[name] for name in names):
            if section.labels is None and needs_labels:
                cells.append("-")
                continue
            levels, called = [], []
            for seed in range(min(draws, most_draws)):
                p = test(section, random_pairs(section.adata, min(n_pairs, most_pairs), seed), seed)
                levels.append(100 * (p < 0.05).mean())
                called.append(100 * (benjamini_hochberg(p) < 0.05).mean())
            cells.append(level_and_calls(levels, called))
        print(f"{section.name:<16}{section.adata.n_obs:>7}" + "".join(f"{cell:>24}" for cell in cells), flush=True)


def level_and_calls(levels: list[float], called: list[float]) -> str:
    spread = f" ({np.std(levels, ddof=1):.1f})" if len(levels) > 1 else ""
    return f"{np.mean(levels):.1f}{spread} / {np.mean(called):.2f}"


def interface(found: list[Section], n_pairs: int, draws: int) -> None:
    print(
        f"\nat an interface and between groups: {n_pairs:,} random pairs, {draws} draws, % with p < 0.05 (sd) / % after FDR 0.05"
    )
    heads = ("across the border", "regions as groups", "fractions as groups")
    print(f"{'section':<16}" + "".join(f"{head:>24}" for head in heads), flush=True)
    for section in found:
        if not section.name.startswith("her2st"):
            continue
        labels = section.adata.obs["label"]
        sclm.tl.interface(section.adata, [name for name in TUMOUR if (labels == name).any()], groups="label")
        options = (
            {"interface": "sclm_interface"},
            {"groups": "label"},
            {
                "groups": "stereoscope_major",
                "source": ["Epithelial", "CAFs"],
                "target": ["Epithelial", "Myeloid", "T-cells"],
            },
        )
        cells = []
        for how in options:
            levels, called = [], []
            for seed in range(draws):
                p = ours(section, random_pairs(section.adata, n_pairs, seed), 999, seed, **how)
                levels.append(100 * (p < 0.05).mean())
                called.append(100 * (benjamini_hochberg(p) < 0.05).mean())
            cells.append(level_and_calls(levels, called))
        print(f"{section.name:<16}" + "".join(f"{cell:>24}" for cell in cells), flush=True)


def planted(section: Section, pairs: pd.DataFrame, strength: float, seed: int) -> ad.AnnData:
    """Receptors whose counts follow the ligands of neighbours; all other genes as they were measured.

    The expected count of the receptor is multiplied by exp(strength * s), where s is the standardised mean of the neighbours'
    log-normalised ligand, and drawn anew.
    """
    adata = section.adata.copy()
    rng = np.random.default_rng([seed, 3])
    graph = neighbour_graph(adata.obsm["spatial"])
    mean = sp.diags(1 / np.maximum(np.asarray(graph.sum(axis=1)).ravel(), 1)) @ graph
    logs = log_normalise(adata.X).tocsc()
    counts = adata.X.tocsc().copy()
    changed = {}
    for ligand, receptor in zip(pairs["ligand"], pairs["receptor"], strict=True):
        i, j = adata.var_names.get_indexer([ligand, receptor])
        s = adjusted_scores(mean @ logs[:, [i]].toarray(), np.zeros((adata.n_obs, 0)))[:, 0].astype(float)
        old = counts[:, [j]].toarray()[:, 0]
        factor = np.exp(strength * s)
        changed[j] = rng.poisson(old * factor * old.sum() / max((old * factor).sum(), 1e-9))
    dense = counts.tolil()
    for j, values in changed.items():
        dense[:, j] = values[:, None].astype(np.float32)
    adata.X = dense.tocsr().astype(np.float32)
    return adata


def power(found: list[Section], draws: int) -> None:
    n_planted, n_other = 50, 450
    print(
        f"\nplanted signals: {n_planted} receptors follow their neighbours' ligands, {n_other} random pairs beside them, {draws} draws; "
        "% of the planted with p < 0.05 / passing FDR 0.05 / % false among what passes"
    )
    strengths = (0.0, 0.3, 0.6, 1.0)
    print(f"{'section':<14}{'test':<24}" + "".join(f"{s:>20}" for s in strengths), flush=True)
    for section in [s for s in found if s.name in ("her2st E1", "her2st F1")]:
        tests = {
            "sclm": lambda sec, q, s: ours(sec, q, 9999, s),
            "sclm, regions given": lambda sec, q, s: ours(sec, q, 9999, s, adjust=sec.labels),
            "joint permutation": lambda sec, q, s: joint(sec, q, 199, s),
        }
        for name, test in tests.items():
            if section.labels is None and "regions" in name:
                continue
            cells = []
            for strength in strengths:
                rows = []
                for seed in range(draws):
                    genes = random_pairs(section.adata, n_planted + n_other, seed)
                    genes = genes.drop_duplicates("receptor")  # a receptor follows one ligand
                    own = genes.iloc[:n_planted]
                    rest = genes.iloc[n_planted:]
                    rest = rest[~rest["ligand"].isin(own["receptor"])]
                    own = own[~own["ligand"].isin(own["receptor"])]
                    altered = Section(section.name, planted(section, own, strength, seed), section.labels)
                    both = pd.concat([own, rest], ignore_index=True)
                    if name == "joint permutation":
                        p = test(altered, both, seed)
                    else:
                        test(altered, both, seed)
                        table = altered.adata.uns[KEY]["table"].set_index(["ligand", "receptor"])["pval"]
                        p = table.reindex(pd.MultiIndex.from_frame(both)).fillna(1.0).to_numpy()
                    passed = benjamini_hochberg(p) < 0.05
                    k = len(own)
                    false = passed[k:].sum() / max(passed.sum(), 1)
                    rows.append([100 * (p[:k] < 0.05).mean(), 100 * passed[:k].mean(), 100 * false])
                cells.append(" / ".join(f"{v:.0f}" for v in np.mean(rows, axis=0)))
            print(f"{section.name:<14}{name:<24}" + "".join(f"{cell:>20}" for cell in cells), flush=True)


def speed(sizes: list[int], n_pairs: int, n_permutations: int) -> None:
    """CPU seconds of all pairs and combinations of four groups, both compiled before."""
    print(f"\ntime: {n_pairs} pairs, 4 groups (16 combinations), {n_permutations:,} permutations, CPU seconds")
    print(f"{'spots':>8}{'sclm':>10}{'of it reading':>16}{'squidpy':>10}{'squidpy / sclm':>16}", flush=True)
    rng = np.random.default_rng(0)
    for n in sizes:
        side = int(np.sqrt(n))
        place = np.argwhere(np.ones((side, side))).astype(float)
        counts = rng.poisson(rng.gamma(0.8, 1.0, 2 * n_pairs), size=(len(place), 2 * n_pairs)).astype(np.float32)
        adata = ad.AnnData(sp.csr_matrix(counts), var=pd.DataFrame(index=[f"G{i}" for i in range(2 * n_pairs)]))
        adata.obs_names = [f"s{i}" for i in range(len(place))]
        adata.obsm["spatial"] = place
        adata.obs["group"] = pd.Categorical(
            ((place[:, 0] > side / 2) * 2 + (place[:, 1] > side / 2)).astype(int).astype(str)
        )
        names = np.asarray(adata.var_names, dtype=object)
        pairs = pd.DataFrame({"ligand": names[:n_pairs], "receptor": names[n_pairs:]})
        section = Section("simulated", adata, "group")
        seconds = []
        for test in (
            lambda k, s=section, q=pairs: ours(s, q, k, 0, groups="group", adjust="group"),
            lambda k, s=section, q=pairs: squidpy_test(s, q, k, 0),
        ):
            test(5)  # compiles
            start = time.process_time()
            test(1)
            middle = time.process_time()
            test(n_permutations)
            seconds += [time.process_time() - middle, middle - start]
        mine, reading, theirs, _ = seconds
        print(f"{len(place):>8,}{mine:>10.2f}{reading:>16.2f}{theirs:>10.2f}{theirs / mine:>16.1f}", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=REAL_DATA)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--tests", nargs="+", choices=TESTS, default=list(TESTS), help="of the calibration")
    parser.add_argument("--sections", nargs="+", help="names of sections, all by default")
    args = parser.parse_args()
    logging.getLogger("sclm").setLevel(logging.ERROR)
    found = []
    if set(args.parts) - {"speed"}:
        found = [s for s in sections(args.data / "spatial") if not args.sections or s.name in args.sections]
    if "calibration" in args.parts:
        calibration(found, args.pairs, args.draws, args.tests)
    if "interface" in args.parts:
        interface(found, args.pairs, args.draws)
    if "power" in args.parts:
        power(found, args.draws)
    if "speed" in args.parts:
        speed([1024, 4900], 500, 1000)


if __name__ == "__main__":
    main()
