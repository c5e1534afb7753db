"""Sections `uncertainty` and `missing` of mapping.py: do the standard errors and the unexplained share mean what they say?

`uncertainty`: share of the true fractions inside fraction ± 1.645 standard errors, which should be 0.90, on sections mixed from
the half of the cells that the reference lacks: the cells of scanpy's package (no download), and real studies where their folder
is given. `missing`: one type after the other is left out of the reference; how well the unexplained share ranks the spots that
hold it, and how much is unexplained where nothing is missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from generation_data import halves, labels, show, table
from mapping_rows import KEY_ADDED, fraction_of, mapped
from mapping_sets import FILES, KEY, MappingSet, cells_of, load, mix

if TYPE_CHECKING:
    import argparse

NORMAL_90 = 1.6449  # of the standard normal: 5 % lie above
HOLDS = 0.05  # share of the mRNA from which a spot holds a type
MISSING_SETS = ("facs10", "pbmc3k9", "facs_to_pbmc3k", "kang_to_pbmc3k")


def studies(args: argparse.Namespace) -> dict[str, Any]:
    """Labelled cells to mix, by name."""
    import sclm

    out = {"pbmc68k": sclm.datasets.pbmc68k()}
    for name in ("pbmc3k", "facs"):
        if (args.folder / FILES[name]).is_file():
            out[name] = cells_of(args.folder, name)
    for name, cells in out.items():
        n = cells.obs[KEY].value_counts()
        out[name] = cells[cells.obs[KEY].isin(n.index[n >= 40])].copy()
    return out


def section_of(cells, name: str, seed: int, **options: Any) -> MappingSet:
    """Spots of half of the cells, the other half the reference."""
    rng = np.random.default_rng([seed, len(name)])
    reference, spots = halves(cells, KEY, seed)
    section, truth = mix(spots, rng, **options)
    types = sorted(set(labels(reference, KEY)))
    resolution = "cell" if options.get("cells_per_spot") == 1 else "spot"
    return MappingSet(name, section, reference, KEY, truth.reindex(columns=types, fill_value=0.0), resolution, False)


def coverage(given: MappingSet) -> dict[str, float]:
    """How often the interval holds the truth, where the type is and where it is not, and what the error is."""
    section = mapped(given)
    truth, found = given.truth.to_numpy(), fraction_of(section, given.truth.columns)
    order, types = list(section.uns[KEY_ADDED]["categories"]), list(given.truth.columns)
    error = pd.DataFrame(section.obsm[f"{KEY_ADDED}_se"], columns=order)[types].to_numpy(dtype=float)
    inside = np.abs(truth - found) <= NORMAL_90 * error + 1e-6
    ranks = pd.DataFrame({"error": np.abs(truth - found).ravel(), "se": error.ravel()}).rank()
    return {
        "inside": inside.mean(),
        "inside, present": inside[truth > 0].mean(),
        "inside, absent": inside[truth == 0].mean(),
        "mean se": np.nanmean(error),
        "RMSE": float(np.sqrt(np.mean((truth - found) ** 2))),
        "rank correlation": float(ranks.corr().iloc[0, 1]),
    }


def uncertainty(args: argparse.Namespace) -> None:
    settings: dict[str, dict[str, Any]] = {
        "1,000 counts": {"median": 1000.0},
        "5,000 counts": {"median": 5000.0},
        "5,000 counts, gene effects": {"median": 5000.0, "platform": 0.5},
        "one cell, 200 counts": {"median": 200.0, "cells_per_spot": 1.0},
    }
    rows = [
        {"cells": name, "spots": says, "seed": seed, **coverage(section_of(cells, name, seed, **options))}
        for name, cells in studies(args).items()
        for says, options in settings.items()
        for seed in range(args.seeds)
    ]
    show("Share of true fractions inside the 90 % interval", table(rows, by=["cells", "spots"]))


def without(given: MappingSet, kind: str) -> MappingSet:
    """The reference has never seen a type."""
    kept = labels(given.reference, given.label_key) != kind
    reference = given.reference[kept].copy()
    reference.obs[given.label_key] = labels(reference, given.label_key)
    return given._replace(reference=reference, truth=given.truth.drop(columns=kind))


def missing(args: argparse.Namespace) -> None:
    from sklearn.metrics import roc_auc_score

    asked = [name for name in args.sets if name in MISSING_SETS] or list(MISSING_SETS)
    rows = []
    for name in asked:
        for seed in range(args.seeds):
            given = load(name, seed, args.folder)
            usual = mapped(given).obs[f"{KEY_ADDED}_unexplained"].to_numpy(dtype=float)
            for kind in given.truth.columns:
                share = given.truth[kind].to_numpy()
                holds = share > HOLDS
                if not 5 <= holds.sum() <= len(holds) - 5:
                    continue
                found = mapped(without(given, kind)).obs[f"{KEY_ADDED}_unexplained"].to_numpy(dtype=float)
                rows.append(
                    {
                        "set": name, "left out": kind, "seed": seed, "AUROC": roc_auc_score(holds, found),
                        "AUROC, nothing left out": roc_auc_score(holds, usual),
                        "correlation": float(np.corrcoef(share, found)[0, 1]),
                        "unexplained, holds it": found[holds].mean(), "unexplained, does not": found[~holds].mean(),
                        "share": share[holds].mean(),
                    }
                )  # fmt: skip
    show(f"A type is left out: spots that hold more than {HOLDS:.0%} of it", table(rows, by=["set", "left out"]))
    show("Mean over types", table([{k: v for k, v in r.items() if k != "left out"} for r in rows], by=["set"]))
