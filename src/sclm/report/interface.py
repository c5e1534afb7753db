"""The chapter on borders: where two mixtures of cells meet, and whether a planted signal across is found."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from sclm import datasets, get, pl, tl
from sclm.evidence import adjusted_scores, benjamini_hochberg, receiver_permutation_test
from sclm.report import html
from sclm.spatial import neighbour_graph

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import anndata

_N_SPOTS = 600
_CELLS_A_SPOT = 6.0
_LIGAND, _RECEPTOR = "TIMP1", "CD63"
_STRENGTH = 0.7  # of the planted signal, on the logarithm of the receptor's counts
_PERMUTATIONS = 1999
_RANDOM_PAIRS = 400
_LEAST = 0.1  # share of the spots that must see a gene of a random pair


def find_signals(
    cells: anndata.AnnData, out: Path, *, seed: int, say: Callable[[str], None]
) -> tuple[html.Chapter, dict[str, Path]]:
    """Make a section of two mixtures, find their border, and look for signals that cross it, before and after one is planted.

    Parameters
    ----------
    cells
        Real cells with raw counts and ``cell_type``.
    out
        Folder to write to.
    seed
        Of the section, of the planted signal, and of the permutations.
    say
        Called with each line of progress.

    Returns
    -------
    The chapter and its files.
    """
    start = time.perf_counter()
    section = datasets.simulate_section(
        cells, "cell_type", n_spots=_N_SPOTS, cells_per_spot=_CELLS_A_SPOT, n_domains=2, seed=seed
    )
    names = [str(name) for name in section.uns["simulation"]["categories"]]
    composition = np.asarray(section.uns["simulation"]["composition"])  # (2, n_types)
    inner = names[int((composition[0] - composition[1]).argmax())]
    section.obsm["fractions"] = pd.DataFrame(
        np.asarray(section.obsm["fraction"], dtype=float), index=section.obs_names, columns=names
    )
    say(f"a section of {section.n_obs} spots with two mixtures: its border, and signals across it …")
    tl.interface(section, inner, groups="fractions")
    distance = section.obs["sclm_interface_distance"].to_numpy(dtype=float)
    true = (section.obs["domain"] == "domain 1").to_numpy()
    threshold = float(section.uns["sclm_interface"]["sections"]["threshold"].iloc[0])
    alone = section.obsm["fractions"][inner].to_numpy() > threshold
    sides = pd.DataFrame(
        {"spots on the right side": [((distance < 0) == true).mean(), (alone == true).mean()]},
        index=pd.Index(["sclm.tl.interface", "threshold, spot by spot"], name="method"),
    )

    planted = _planted(section, distance < 0, seed)
    found = {}
    for name, adata in (("as it was made", section), ("with a planted signal", planted)):
        tl.ligrec(adata, interface="sclm_interface", n_permutations=_PERMUTATIONS, seed=seed)
        table = get.ligrec(adata)
        of = table[(table["ligand"] == _LIGAND) & (table["receptor"] == _RECEPTOR)].iloc[0]
        tested = table["pval"].notna()
        found[name] = {
            "tests": int(tested.sum()),
            "pass FDR 0.05": int((table["padj"] < 0.05).sum()),
            f"{_LIGAND} → {_RECEPTOR}: z": float(of["z"]),
            "q": float(of["padj"]),
            "mean of ligand × receptor": float(of["score"]),
        }
    signals = pd.DataFrame(found).T
    signals.index.name = "section"
    null = _random_pairs(section, seed)
    say("\n" + signals.round(3).to_string() + "\n\n" + null.round(3).to_string() + "\n")

    files = {"interface": out / "interface.h5ad", "signals": out / "signals.csv"}
    planted.write_h5ad(files["interface"])
    get.ligrec(planted).to_csv(files["signals"], index=False)
    profile = pl.interface(planted, _shown(section, inner))
    pair = pl.ligrec(planted, (_LIGAND, _RECEPTOR))
    zone = pl.interface(planted, kind="zone")
    folder = out / "figures"
    blocks = [
        html.text(
            f"{_N_SPOTS} spots of about {_CELLS_A_SPOT:.0f} real cells each, in two mixtures side by side; {inner}s are most on one side. "
            "The share of that type, smoothed over neighbours and without islands, gives the sides and a signed distance from their "
            "border."
        ),
        html.table(sides, best={"spots on the right side": "max"}),
        html.figure(zone[0].figure, "Zones: the interface is one ring to both sides of the border.", folder / "interface.png"),
        html.figure(profile[0].figure, "Shares of cell types against the distance from the border.", folder / "interface_profile.png"),
        html.text(
            "Which signals cross it? The cells of a spot were drawn at random, so nothing does, though at a false discovery rate of 0.05 "
            f"chance lets a pair pass in one such section of twenty. Then {_RECEPTOR} was drawn anew, more where neighbours on the other "
            f"side have more {_LIGAND}. The test looks at edges across the border, after depth, sides and the main "
            "programmes of expression were regressed out."
        ),
        html.table(signals, decimals={"tests": 0, "pass FDR 0.05": 0}),
        html.figure(pair[0].figure, f"{_LIGAND} and {_RECEPTOR} in the section with the planted signal, and where they meet.", folder / "pair.png"),
        html.text(
            f"Why regress anything out? Among {_RANDOM_PAIRS} random pairs of genes nothing should be found, and 5 % should have p below "
            "0.05. Tissue alone makes more: genes follow regions and depth together."
        ),
        html.table(null),
        html.code(
            f'sclm.tl.interface(section, "{inner}")\nsclm.tl.ligrec(section, interface="sclm_interface")\n'
            "sclm.get.ligrec(section)\nsclm.pl.interface(section)"
        ),
    ]  # fmt: skip
    say(f"border and signals: {time.perf_counter() - start:.1f} s")
    return html.Chapter("Signals across a border", blocks), files


def _planted(section: anndata.AnnData, inside: np.ndarray, seed: int) -> anndata.AnnData:
    """A copy in which the receptor's counts follow the ligand of neighbours on the other side."""
    rng = np.random.default_rng([seed, 1])
    counts = section.X.toarray().astype(np.float64)
    ligand, receptor = section.var_names.get_indexer([_LIGAND, _RECEPTOR])
    logs = np.log1p(1e4 * counts[:, ligand] / np.maximum(counts.sum(axis=1), 1))
    graph = sparse.coo_matrix(neighbour_graph(section.obsm["spatial"]))
    across = inside[graph.row] != inside[graph.col]
    edges = sparse.csr_matrix((graph.data[across], (graph.row[across], graph.col[across])), shape=graph.shape)
    received = edges @ (logs - logs.mean())
    received /= max(float(received[received != 0].std()), 1e-9)
    counts[:, receptor] = rng.poisson(counts[:, receptor] * np.exp(_STRENGTH * received))
    out = section.copy()
    out.X = sparse.csr_matrix(counts.astype(np.float32))
    return out


def _random_pairs(section: anndata.AnnData, seed: int) -> pd.DataFrame:
    """Share of random pairs below 0.05, with and without what the test regresses out."""
    rng = np.random.default_rng([seed, 2])
    seen = np.asarray((section.X > 0).mean(axis=0)).ravel()
    common = np.flatnonzero(seen > _LEAST)
    pairs = np.array([rng.choice(common, 2, replace=False) for _ in range(_RANDOM_PAIRS)])
    names = np.asarray(section.var_names, dtype=object)
    table = pd.DataFrame({"ligand": names[pairs[:, 0]], "receptor": names[pairs[:, 1]]})
    adata = section.copy()
    tl.ligrec(adata, table, n_permutations=_PERMUTATIONS, seed=seed)
    ours = adata.uns["sclm_ligrec"]["table"]["pval"].to_numpy()
    counts = section.X.toarray().astype(np.float64)
    logs = np.log1p(1e4 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    plain = adjusted_scores(logs, np.zeros((section.n_obs, 0)))
    graph = neighbour_graph(section.obsm["spatial"])
    without = receiver_permutation_test(graph, plain, plain, pairs, n_permutations=_PERMUTATIONS, seed=seed).p
    rows = {
        name: {"share with p < 0.05": float((p < 0.05).mean()), "share passing FDR 0.05": float((benjamini_hochberg(p) < 0.05).mean())}
        for name, p in (("sclm.tl.ligrec", ours[np.isfinite(ours)]), ("nothing regressed out", without))
    }  # fmt: skip
    out = pd.DataFrame(rows).T
    out.index.name = "test"
    return out


def _shown(section: anndata.AnnData, inner: str) -> list[str]:
    """The inner type and the three other types that differ most between the two mixtures."""
    composition = np.asarray(section.uns["simulation"]["composition"])
    names = [str(name) for name in section.uns["simulation"]["categories"]]
    order = np.argsort(-np.abs(composition[0] - composition[1]), kind="stable")
    return [inner, *[names[i] for i in order if names[i] != inner][:3]]
