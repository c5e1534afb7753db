"""Section `accuracy` of mapping.py: ours and peers on sections of known composition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from generation_data import show, table
from mapping_peers import PEERS
from mapping_rows import OURS, Rows
from mapping_sets import SETS, load

if TYPE_CHECKING:
    import argparse

ROWS = (OURS, *PEERS)
SCORES = ["JSD", "RMSE", "Pearson", "top type", "CPU s"]


def scores(truth: np.ndarray, estimate: np.ndarray) -> dict[str, float]:
    """Of estimated shares (n, K): Jensen-Shannon divergence in bits and RMSE over spots, correlation over types."""
    from sclm.metrics import mapping

    return {
        "JSD": float(np.mean(mapping.jsd(truth, estimate))),
        "RMSE": float(mapping.rmse(truth, estimate)),
        "Pearson": float(np.nanmean(mapping.pearson_by_type(truth, estimate))),
        "top type": float(np.mean(truth.argmax(axis=1) == estimate.argmax(axis=1))),
    }


def records(args: argparse.Namespace) -> tuple[pd.DataFrame, set[str]]:
    """Scores of each set, row and seed; rows whose package is missing."""
    rows, out, absent = Rows(args.cache), [], set()
    for name in args.sets:
        for seed in range(args.seeds):
            given = load(name, seed, args.folder)
            for row in args.rows:
                if not rows.applies(row, given):
                    continue
                answer = rows.answer(row, given, seed)
                if answer is None:
                    absent.add(row)
                    continue
                found: dict[str, Any] = {"set": name, "row": row, "seed": seed}
                out.append({**found, **scores(given.truth.to_numpy(), answer.fraction), "CPU s": answer.cpu})
    return pd.DataFrame(out), absent


def overall(frame: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Mean over sets of a row's mean over seeds, ± the mean of the sets' standard deviations, and mean rank by JSD."""
    frame = frame.drop(columns="seed")
    by_set = frame.groupby(["set", "row"], sort=False).mean()
    spread = frame.groupby(["set", "row"], sort=False).std()
    n_sets = by_set.index.get_level_values("set").nunique()
    complete = [row for row in frame["row"].unique() if (by_set.index.get_level_values("row") == row).sum() == n_sets]
    rank = frame.pivot_table(index="row", columns="set", values="JSD").loc[complete].rank().mean(axis=1)
    lines = []
    for row in complete:
        mean, sd = by_set.xs(row, level="row").mean(), spread.xs(row, level="row").mean()
        cells = {c: f"{mean[c]:.3f}" + (f" ± {sd[c]:.3f}" if np.isfinite(sd[c]) else "") for c in SCORES[:-1]}
        lines.append({kind: row, **cells, "rank": f"{rank[row]:.1f}", "CPU s": f"{mean['CPU s']:.2f}"})
    return pd.DataFrame(lines)


def with_advised(frame: pd.DataFrame) -> pd.DataFrame:
    """With a row for RCTD as its documentation advises: all types in spots, one or two in cells."""
    doublet, full = (frame[frame["row"] == f"RCTD {mode}"] for mode in ("doublet", "full"))
    if doublet.empty or full.empty:
        return frame
    advised = pd.concat([doublet, full[~full["set"].isin(set(doublet["set"]))]])
    return pd.concat([frame, advised.assign(row="RCTD as advised")])


def run(args: argparse.Namespace) -> None:
    frame, absent = records(args)
    if args.csv is not None:
        frame.to_csv(args.csv, index=False)
    for name in args.sets:
        part = frame[frame["set"] == name]
        if not part.empty:
            spec = SETS[name]
            show(
                f"{name}: {spec.says} ({'held out' if spec.held_out else 'development'}, {spec.resolution} resolution)",
                table(part.drop(columns="set").to_dict("records"), by=["row"]),
            )
    for held_out, says in ((False, "development sets"), (True, "held-out sets")):
        chosen = [name for name in args.sets if SETS[name].held_out == held_out]
        if len(chosen) > 1:
            show(f"Mean over {len(chosen)} {says}", overall(with_advised(frame[frame["set"].isin(chosen)]), "row"))
    for row in absent:
        print(f"\n{row}: not installed")
