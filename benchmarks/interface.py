"""Borders between tissues: simulated tumours under infiltration, and the borders that a pathologist drew, beside simple rules.

    python benchmarks/interface.py --data FOLDER [--parts simulation labels fractions]

``simulation``: 6,000 cells, three lobed tumours in a square of 1,000 units; the truth is the band within 25 units of their edge, the
score average precision. Shares of cells inside that are no tumour cells, and outside that are, in the names of the rows. The settings of
sclm (the weight of the distance, the numbers of neighbours) were chosen on seeds 0 to 4; the table is of seeds 100 to 109.

``labels`` and ``fractions``: sections of her2st with a pathologist's labels. The truth is every spot of cancer (invasive or in situ) beside
another tissue, and the other way round, among spots that have a label; the score is the area under the ROC curve. ``labels`` gives the
methods the labels themselves after spots were flipped at random, ``fractions`` the share of epithelium that was estimated from the counts
(stereoscope, published with the data). Settings were chosen on simulations; these sections had been looked at by then.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from sclm.spatial import find_interface, neighbour_graph, otsu_threshold

if TYPE_CHECKING:
    from collections.abc import Callable

    import scipy.sparse as sp

PARTS = ("simulation", "labels", "fractions")
REAL_DATA = Path(os.environ.get("SCLM_REAL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
CANCER = ("invasive cancer", "cancer in situ")
BAND = 25.0


# Methods: how much each spot looks like a border --------------------------------------------------------------------


def beside_other(inside: np.ndarray, graph: sp.csr_matrix) -> np.ndarray:
    """A neighbour on the other side."""
    return np.where(inside, graph @ (~inside).astype(float) > 0, graph @ inside.astype(float) > 0)


def methods(place: np.ndarray, share: np.ndarray, labels: bool) -> dict[str, np.ndarray]:
    """Every method's value of each spot."""
    graph = neighbour_graph(place)
    found = find_interface(place, share, graph, threshold=0.5 if labels else None)
    cut = 0.5 if labels else otsu_threshold(share)
    inside = share > cut
    near = np.asarray(graph.sum(axis=1)).ravel()
    mixed = (graph @ share + share) / (near + 1)
    rings = np.nan_to_num(np.abs(found.distance), nan=1e9)
    return {
        "sclm": found.score,
        "sclm, distance": -rings,
        "gradient": np.nan_to_num(found.gradient),
        "mixing 4p(1-p)": 4 * found.field * (1 - found.field),
        "threshold, neighbours": beside_other(inside, graph).astype(float),
        "near the threshold": -np.abs(mixed - cut),
        "stroma by tumour": (~inside & (graph @ inside.astype(float) > 0)).astype(float),
    }


NAMES = (
    "sclm",
    "sclm, distance",
    "gradient",
    "mixing 4p(1-p)",
    "threshold, neighbours",
    "near the threshold",
    "stroma by tumour",
)


def show(name: str, rows: list[dict[str, float]]) -> None:
    cells = [[row[method] for row in rows] for method in NAMES]
    text = [f"{np.mean(c):.3f}" + (f" ({np.std(c, ddof=1):.3f})" if len(c) > 1 else "") for c in cells]
    print(f"{name:<34}" + "".join(f"{cell:>23}" for cell in text), flush=True)


# Simulated tumours --------------------------------------------------------------------------------------------------


def tumours(seed: int, n: int = 6000) -> tuple[np.ndarray, np.ndarray]:
    """Cells and about their signed distance to the edge of three lobed tumours."""
    rng = np.random.default_rng(seed)
    place = rng.uniform(0, 1000, (n, 2))
    distance = np.full(n, np.inf)
    for _ in range(3):
        centre, radius = rng.uniform(200, 800, 2), rng.uniform(110, 170)
        phase, amplitude = rng.uniform(0, 2 * np.pi, 3), rng.uniform(0.05, 0.18, 3)
        v = place - centre
        angle = np.arctan2(v[:, 1], v[:, 0])
        waves = sum(a * np.cos((k + 2) * angle + p) for k, (a, p) in enumerate(zip(amplitude, phase, strict=True)))
        distance = np.minimum(distance, np.linalg.norm(v, axis=1) - radius * (1 + waves))
    return place, distance


def simulation(seeds: range) -> None:
    print(
        f"\nsimulated tumours: average precision, mean (sd) of {len(seeds)} seeds; and of the signed distance the mean error in units"
    )
    print(
        f"{'scenario':<34}" + "".join(f"{name:>23}" for name in NAMES) + f"{'right side':>12}{'error':>8}", flush=True
    )
    scenarios = {
        "clean": (0.0, 0.0, 0.0),
        "25 % inside, 5 % outside": (0.25, 0.05, 0.0),
        "25 % inside, 25 % outside": (0.25, 0.25, 0.0),
        "the same, half of the cells": (0.25, 0.25, 0.5),
    }
    for name, (inner, outer, missing) in scenarios.items():
        rows, side, error = [], [], []
        for seed in seeds:
            place, true = tumours(seed)
            rng = np.random.default_rng([seed, 5])
            u = rng.random(len(true))
            share = np.where(true < 0, u >= inner, u < outer).astype(float)
            kept = rng.random(len(true)) >= missing
            place, true, share = place[kept], true[kept], share[kept]
            near = np.abs(true) < BAND
            rows.append({m: average_precision_score(near, v) for m, v in methods(place, share, True).items()})
            found = find_interface(place, share, neighbour_graph(place))
            side.append((found.inside == (true < 0)).mean())
            error.append(np.abs(found.distance - true)[np.abs(true) < 150].mean())
        cells = [[row[method] for row in rows] for method in NAMES]
        text = "".join(f"{f'{np.mean(c):.3f} ({np.std(c, ddof=1):.3f})':>23}" for c in cells)
        print(f"{name:<34}{text}{np.mean(side):>12.3f}{np.mean(error):>8.1f}", flush=True)


# Real sections ------------------------------------------------------------------------------------------------------


def real(folder: Path, corrupt: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None, seeds: range) -> None:
    """One row a section."""
    whole = ad.read_h5ad(folder / "spatial" / "her2st_8sections.h5ad")
    of = whole.obs["section"].astype(str).to_numpy()
    every = []
    for name in sorted(set(of)):
        section = whole[of == name]
        label = section.obs["label"].astype(str).to_numpy()
        place = np.asarray(section.obsm["spatial"], dtype=float)
        cancer, known = np.isin(label, CANCER), label != "undetermined"
        graph = neighbour_graph(place)
        truth = np.where(
            cancer, graph @ (~cancer & known).astype(float) > 0, graph @ (cancer & known).astype(float) > 0
        )
        rows = []
        for seed in seeds:
            if corrupt is None:
                values = methods(place, section.obsm["stereoscope_major"]["Epithelial"].to_numpy(dtype=float), False)
            else:
                values = methods(place, corrupt(cancer, np.random.default_rng(seed)).astype(float), True)
            rows.append({m: roc_auc_score(truth[known], v[known]) for m, v in values.items()})
        show(f"{name} ({known.sum()} spots, {truth[known].mean():.0%} border)", rows)
        every.append({m: float(np.mean([row[m] for row in rows])) for m in NAMES})
    show("mean of sections (sd)", every)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=REAL_DATA)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    args = parser.parse_args()
    if "simulation" in args.parts:
        simulation(range(100, 110))
    there = (args.data / "spatial" / "her2st_8sections.h5ad").is_file()
    if not there and set(args.parts) - {"simulation"}:
        print(f"No real data under {args.data}: nothing more to measure. Pass --data, or set SCLM_REAL_DATA.")
    if "labels" in args.parts and there:
        for inner, outer in ((0.0, 0.0), (0.25, 0.05), (0.25, 0.25)):
            print(
                f"\nher2st, pathologist's labels with {inner:.0%} flipped inside and {outer:.0%} outside: AUC, mean (sd) of seeds"
            )
            print(f"{'section':<34}" + "".join(f"{name:>23}" for name in NAMES))

            def flipped(
                cancer: np.ndarray, rng: np.random.Generator, rates: tuple[float, float] = (inner, outer)
            ) -> np.ndarray:
                return cancer ^ (rng.random(len(cancer)) < np.where(cancer, *rates))

            real(args.data, flipped, range(10 if inner else 1))
    if "fractions" in args.parts and there:
        print("\nher2st, fraction of epithelium from the counts: AUC against the pathologist's borders")
        print(f"{'section':<34}" + "".join(f"{name:>23}" for name in NAMES))
        real(args.data, None, range(1))


if __name__ == "__main__":
    main()
