"""Domains of tissue sections: adjusted Rand index beside known regions, over seeds; memory of many spots.

Every setting was chosen on the sections of HER2-positive breast cancer (Andersson et al., 2021), whose rows are development rows; cortex
(151510; Maynard et al., 2021) and pancreas (Moncada et al., 2020) were scored once afterwards. The number of domains is that of the known
regions; spots without one are divided with the others and not scored.

* **pca**: 20 principal components of each spot, the mixture of ``tl.domains``; **smooth**: the same of means over a spot and its neighbours;
  **banksy-like**: own values and neighbours' means, each standardised, at weights 0.2 and 0.8 (the method's blocks without its Gabor filter).
* **hop-mean**, **graphst**, **graphst, attention**: `tl.domains` with the family at its defaults; **as CellCharter**: genes
  not scaled, a spot's own components at full weight (though principal components and not a variational autoencoder's); **refined** asks for
  refinement where the label entropy is 0.3 or more.

A memory run embeds simulated spots in a process of its own, whose highest resident memory is printed (Linux).

Needs real data: see --data. Without --data, the memory run alone can be asked for.

    python benchmarks/domains.py [--parts accuracy joint memory number] [--seeds 10] [--spots 100000] [--models hop-mean graphst]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata

HERE = Path(__file__).resolve()
REAL_DATA = Path(os.environ.get("SCLM_REAL_DATA", HERE.parents[2] / "shared" / "data"))
PARTS = ("accuracy", "joint", "number", "memory")
METHODS = (
    "pca", "smooth", "banksy-like", "hop-mean", "hop-mean, refined", "hop-mean, genes not scaled", "hop-mean, as CellCharter", "graphst", "graphst, refined", "graphst, attention",
)  # fmt: skip


# Data ---------------------------------------------------------------------------------------------------------------


def sections(folder: Path, names: list[str]) -> dict[str, Any]:
    """Sections with ``.obs["region"]`` (missing where unknown) and coordinates in true proportions."""
    import anndata

    found = {}
    her2st = anndata.read_h5ad(folder / "spatial" / "her2st_8sections.h5ad")
    her2st.obs["region"] = her2st.obs["label"].astype(object).where(her2st.obs["label"] != "undetermined")
    for name in sorted(her2st.obs["section"].unique()):
        found[f"breast {name}"] = her2st[her2st.obs["section"] == name].copy()
    pancreas = anndata.read_h5ad(folder / "spatial" / "pdac_st_moncada.h5ad")
    found["pancreas"] = pancreas
    cortex = anndata.read_h5ad(folder / "spatial" / "dlpfc151510_500genes.h5ad")
    cortex.obs["region"] = cortex.obs["annotation"]
    cortex.obsm["spatial"] = cortex.obs[["col", "row"]].to_numpy(float) * [
        1,
        3**0.5,
    ]  # a hexagonal grid's columns and rows
    found["cortex 151510"] = cortex
    for adata in found.values():
        text = adata.obs["region"].astype(object)
        adata.obs["region"] = text.where(text.notna() & (text.astype(str) != "nan"))
    return {name: adata for name, adata in found.items() if any(name.startswith(n) for n in names)}


# Methods ------------------------------------------------------------------------------------------------------------


def plain(adata: anndata.AnnData, kind: str) -> np.ndarray:
    """Vectors of the methods that are no family."""
    import sclm
    from sclm.spatial import neighbour_graph, neighbour_means

    model: Any = sclm.models.family_class("hop-mean").ready(n_hops=0)
    own = sclm.tl.embed(adata, model, copy=True).obsm["X_sclm_hop-mean"]
    if kind == "pca":
        return own
    filled = np.isfinite(own).all(axis=1)
    graph = neighbour_graph(adata.obsm["spatial"])[filled][:, filled]
    vectors = np.full((adata.n_obs, own.shape[1] * (2 if kind == "banksy-like" else 1)), np.nan)
    if kind == "smooth":
        vectors[filled] = neighbour_means(graph) @ own[filled]
        return vectors
    around = neighbour_means(graph, itself=False) @ own[filled]
    standard = lambda x: (x - x.mean(axis=0)) / x.std()
    vectors[filled] = np.hstack([0.2**0.5 * standard(own[filled]), 0.8**0.5 * standard(around)])
    return vectors


def embedded(adata: anndata.AnnData, family: str, variant: str, seed: int) -> anndata.AnnData:
    """A copy with vectors in ``.obsm["X"]``."""
    import sclm

    if family in ("pca", "smooth", "banksy-like"):
        adata = adata.copy()
        adata.obsm["X"] = plain(adata, family)
        return adata
    settings: dict[str, Any] = {
        "attention": {"attention": True},
        "genes not scaled": {"scale_genes": False},
        "as CellCharter": {"scale_genes": False, "own_weight": 1.0, "n_genes": 2000},
    }.get(variant, {})
    model: Any = sclm.models.family_class(family).ready(**settings)
    return sclm.tl.embed(adata, model, seed=seed, key_added="X", copy=True)


def accuracy(data: dict[str, Any], methods: list[str], seeds: int) -> None:
    """A row a section and method: median, lowest and highest ARI, median NMI, CPU seconds a run."""
    import sclm

    print("| section | method | ARI median (lowest-highest) | NMI | CPU s |\n|---|---|---|---|---|")
    for name, adata in data.items():
        known = adata.obs["region"].notna().to_numpy()
        truth = adata.obs["region"].astype(str).to_numpy()[known]
        kept: dict[tuple[str, str, int], tuple[Any, float]] = {}  # refined or not: the vectors are the same
        for method in methods:
            rand, information, seconds = [], [], []
            family, _, variant = method.partition(", ")
            for seed in range(seeds):
                key = (family, variant.replace("refined", ""), seed)
                if key not in kept:
                    start = time.process_time()
                    kept[key] = embedded(adata, *key), 0.0
                    kept[key] = kept[key][0], time.process_time() - start
                start = time.process_time()
                options = {"refine": 0.3} if variant == "refined" else {}
                sclm.tl.domains(kept[key][0], use_rep="X", n_domains=len(set(truth)), seed=seed, **options)
                found = kept[key][0].obs["sclm_domain"].astype(str).to_numpy()[known]
                seconds.append(time.process_time() - start + kept[key][1])
                rand.append(adjusted_rand_score(truth, found))
                information.append(normalized_mutual_info_score(truth, found))
            spread = f"{np.median(rand):.3f} ({min(rand):.3f}-{max(rand):.3f})"
            print(
                f"| {name} | {method} | {spread} | {np.median(information):.3f} | {np.median(seconds):.1f} |",
                flush=True,
            )


def joint(data: dict[str, Any], families: list[str], seeds: int) -> None:
    """All breast sections divided together: with and without the means of sections taken out."""
    import anndata

    import sclm
    from sclm.cells import read_cells
    from sclm.models.contract_spots import Spots
    from sclm.spatial import gaussian_domains, hop_means, leading_components, neighbour_graph

    parts = {name.split()[-1]: adata for name, adata in data.items() if name.startswith("breast")}
    both = anndata.concat(parts, label="part", index_unique="-")
    library = both.obs["part"].cat.codes.to_numpy().astype(np.int64)
    known = both.obs["region"].notna().to_numpy()
    truth = both.obs["region"].astype(str).to_numpy()
    graph = neighbour_graph(both.obsm["spatial"], library=library)
    print("\n| family | sections | ARI median (lowest-highest) | NMI with the section |\n|---|---|---|---|")
    for family in families:
        for centred in (True, False):
            rand, mixing = [], []
            for seed in range(seeds):
                # Told to be one library, spots still have neighbours in their own section only: the graph is given.
                places = both.obsm["spatial"] + (0 if centred else 1000 * library[:, None])
                spots = Spots(read_cells(both), graph, places, library if centred else None)
                model: Any = sclm.models.family_class(family).ready()
                vectors = model.embed_spots(spots, seed=seed, progress_bar=False)
                there = np.isfinite(vectors).all(axis=1)
                codes = np.full(len(vectors), -1)
                points = leading_components(hop_means(vectors[there], graph[there][:, there], model.domain_hops))
                codes[there] = gaussian_domains(points, len(set(truth[known])), seed=seed).codes
                rows = known & there
                rand.append(adjusted_rand_score(truth[rows], codes[rows]))
                mixing.append(normalized_mutual_info_score(library[rows], codes[rows]))
            spread = f"{np.median(rand):.3f} ({min(rand):.3f}-{max(rand):.3f})"
            how = "means taken out" if centred else "as they are"
            print(f"| {family} | {how} | {spread} | {np.median(mixing):.3f} |", flush=True)


def number(data: dict[str, Any]) -> None:
    """The number of domains that stability chooses, beside that of the known regions."""
    import sclm

    print("\n| section | known regions | chosen (3 seeds) |\n|---|---|---|")
    for name, adata in data.items():
        chosen = []
        for seed in range(3):
            found = sclm.tl.domains(adata, seed=seed, copy=True)
            chosen.append(str(found.uns["sclm_domain"]["n_domains"]))
        print(f"| {name} | {adata.obs['region'].nunique()} | {', '.join(chosen)} |", flush=True)


# Memory -------------------------------------------------------------------------------------------------------------


def simulated(n: int, n_genes: int = 2000, seed: int = 0) -> anndata.AnnData:
    """Spots of a square in eight bands; a gene in ten belongs to one of them. About 150 genes a spot are counted."""
    import anndata
    from scipy import sparse

    rng = np.random.default_rng(seed)
    side = int(np.ceil(n**0.5))
    places = np.array([(i // side, i % side) for i in range(n)], dtype=float)
    band = (places[:, 0] / side * 8).astype(int)
    base = rng.gamma(0.5, 0.16, n_genes)
    blocks = []
    for start in range(0, n, 10_000):
        rate = np.tile(base, (min(10_000, n - start), 1))
        for k in range(8):
            rows = np.flatnonzero(band[start : start + 10_000] == k)
            genes = np.arange(k * n_genes // 80, (k + 1) * n_genes // 80)
            rate[np.ix_(rows, genes)] *= 3
        blocks.append(sparse.csr_matrix(rng.poisson(rate).astype(np.float32)))
    adata = anndata.AnnData(sparse.vstack(blocks, format="csr"), obsm={"spatial": places})
    adata.obs["region"] = band.astype(str)
    return adata


def peak(*, reset: bool = False) -> float:
    """MiB of resident memory at its highest, or of now, from where the highest is counted anew (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS" if reset else "VmHWM"):
            return int(line.split()[1]) / 1024
    return float("nan")


def one_run(family: str, n: int, epochs: int) -> None:
    """Embed and divide n spots here, and print what it took."""
    import sclm

    adata = simulated(n)
    cls: Any = sclm.models.family_class(family)
    model = cls.ready(max_epochs=epochs) if family == "graphst" else cls.ready()
    sclm.tl.embed(adata[:200].copy(), model, key_added="X")  # imports and compilation
    before = peak(reset=True)
    start = time.process_time()
    sclm.tl.embed(adata, model)
    seconds = time.process_time() - start
    after = peak()
    sclm.tl.domains(adata, use_rep=f"X_sclm_{family}", n_domains=8)
    divided = time.process_time() - start - seconds
    end = peak()
    size = (adata.X.data.nbytes + adata.X.indices.nbytes) / 2**20
    rand = adjusted_rand_score(adata.obs["region"], adata.obs["sclm_domain"].astype(str))
    print(
        f"| {family}{f', {epochs} epochs' if family == 'graphst' else ''} | {n:,} | {size:.0f} | {before:.0f} | {after:.0f} | {end:.0f} | {seconds:.0f} | {divided:.0f} | {rand:.3f} |",
        flush=True,
    )


def memory(families: list[str], spots: list[int], epochs: int) -> None:
    """A process for each family and number of spots."""
    print(
        "\n| family | spots | counts, MiB | RSS before, MiB | peak RSS, embedded | peak RSS, divided | CPU s, embed | CPU s, divide | ARI |\n"
        "|---|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    for family in families:
        for n in spots:
            subprocess.run([sys.executable, str(HERE), "--one", family, str(n), "--epochs", str(epochs)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--data", type=Path, default=REAL_DATA)
    parser.add_argument("--sections", nargs="+", default=["breast", "pancreas", "cortex"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--models", nargs="+", default=["hop-mean", "graphst"])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--spots", type=int, nargs="+", default=[25_000, 100_000])
    parser.add_argument(
        "--epochs", type=int, default=30, help="of graphst in memory runs: time is linear in it, memory is not"
    )
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.one:
        one_run(arguments.one[0], int(arguments.one[1]), arguments.epochs)
        return
    data: dict[str, Any] = {}
    if set(arguments.parts) - {"memory"}:
        data = sections(arguments.data, arguments.sections)
    runs: dict[str, Callable[[], None]] = {
        "accuracy": lambda: accuracy(data, arguments.methods, arguments.seeds),
        "joint": lambda: joint(data, arguments.models, arguments.seeds),
        "number": lambda: number(data),
        "memory": lambda: memory(arguments.models, arguments.spots, arguments.epochs),
    }
    for part in arguments.parts:
        runs[part]()


if __name__ == "__main__":
    main()
