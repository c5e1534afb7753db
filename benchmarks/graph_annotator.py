"""The graph annotator by itself: is its graph channel used, what does reinforcement do, how fast and how well calibrated is it.

    python benchmarks/graph_annotator.py            # all sections
    python benchmarks/graph_annotator.py gate --seeds 3

* gate: nats a token of held-out cell sentences behind their own virtual tokens and behind those of another cell, after the anchor.
* reinforce: the language model's accuracy on held-out cells and the mean reward with and without GRPO, from a policy that was trained and from
  one that was hardly trained, on pbmc68k.
* speed: 10,000 cells of lupus patients (Kang et al. 2018) named with all terms of the Cell Ontology: valid answers, cells a second, memory,
  calibration error. The network is trained briefly, on 40 cells a type: how fast it answers does not depend on that.

What it names is measured by benchmarks/open_vocabulary.py. Needs real data (see --data) but for "reinforce".
"""

from __future__ import annotations

import argparse
import logging
import resource
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from open_vocabulary_methods import QUIET, REAL_DATA, SETS, read, split

SECTIONS = ("gate", "reinforce", "speed")
CARD = ("anchor held out nats a token", "anchor held out nats a token behind another cell's graph tokens",
        "anchor effect size of the graph tokens, mean over standard deviation of cells",
        "anchor share of held-out cells whose own graph tokens help more")  # fmt: skip


def gate(args) -> None:
    """A row a data set and seed."""
    import sclm

    rows = []
    for name in args.sets:
        for seed in range(args.seeds):
            train, _ = split(read(args.data, name), args.train, 1, seed)
            model = sclm.train(
                "celltosg", train, label_key="cell_type", preset="small", stages=("anchor",), seed=seed, **QUIET
            )
            rows.append((name, seed, train.n_obs, *(model.card[k] for k in CARD)))
            print(*rows[-1], flush=True)
    columns = ["set", "seed", "cells", "own tokens", "another cell's", "effect size", "share helped"]
    print(pd.DataFrame(rows, columns=columns).to_string(index=False))


def reinforce(args) -> None:
    """A row a start and whether GRPO followed."""
    import sclm

    adata = sclm.datasets.pbmc68k()
    starts = {
        "trained": {"align_epochs": 12},
        "hardly trained": {"align_epochs": 1, "align_learning_rate": 1e-3},
    }
    steps = {"reinforce_steps": 60, "reinforce_learning_rate": 5e-4}
    rows = []
    for start, options in starts.items():
        with tempfile.TemporaryDirectory() as folder:  # where the second call goes on after the stages of the first
            for stages in (("anchor", "align"), ("anchor", "align", "reinforce")):
                model = sclm.train(
                    "celltosg", adata, label_key="cell_type", preset="small", stages=stages, anchor_epochs=2, seed=0, folder=folder,
                    **options, **steps, **QUIET,
                )  # fmt: skip
                card = model.card
                rows.append(
                    (start, "yes" if "reinforce" in stages else "no", card["held_out_accuracy_of_the_language_model"],
                     card["held_out_accuracy"], card.get("reinforce mean reward, first and last half", ""),
                     card.get("reinforce groups without a difference", ""))
                )  # fmt: skip
                print(*rows[-1], flush=True)
    columns = [
        "start",
        "GRPO",
        "accuracy of the language model",
        "accuracy of the model",
        "mean reward, halves",
        "dead groups",
    ]
    print(pd.DataFrame(rows, columns=columns).to_string(index=False))


def speed(args) -> None:
    """Validity, cells a second, memory, calibration."""
    import sclm
    from sclm.cells import read_cells
    from sclm.knowledge import Ontology
    from sclm.metrics import expected_calibration_error

    SETS["kang12k"] = ("kang_ctrl_12k_1287genes.h5ad", "cell_type", None, False)
    adata = read(args.data, "kang12k")
    train, _ = split(adata, 40, 1, 0)
    rest = adata[~adata.obs_names.isin(train.obs_names)]
    rng = np.random.default_rng(0)
    chosen = rest[np.sort(rng.choice(rest.n_obs, min(args.cells, rest.n_obs), replace=False))].copy()
    model = sclm.train(
        "celltosg",
        train,
        label_key="cell_type",
        preset="small",
        anchor_epochs=2,
        align_epochs=4,
        reinforce_steps=2,
        seed=0,
        **QUIET,
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    model.annotate(read_cells(chosen[:64].copy()).read())  # once outside the clock: tables of all terms are made
    clock, processor = time.perf_counter(), time.process_time()
    source = read_cells(chosen)
    some = np.sort(rng.choice(chosen.n_obs, min(2_000, chosen.n_obs), replace=False))
    share = model.estimate_novel_share(source.read(some))  # as sclm.tl.annotate does
    tables = [model.annotate(block, novel_share=share).table for block in source.blocks(512)]
    seconds, cpu = time.perf_counter() - clock, time.process_time() - processor
    table = pd.concat(tables)
    ontology = Ontology.load("cl")
    answer, truth = (x.to_numpy(dtype=object) for x in (table["ontology_term_id"], chosen.obs["cell_type"]))
    valid = [a in ontology for a in answer]
    print(f"{len(table):,} cells, {np.mean(valid):.4f} valid terms, {len(set(answer))} different ones")
    print(f"{len(table) / seconds:.0f} cells/s, {len(table) / cpu:.0f} a second of the processor")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:.0f} MB, {peak - before:.0f} MB above training")
    for name, found in (
        (f"estimated share of new types {share:.3f}", table),
        ("share 0.3", pd.concat([model.annotate(block).table for block in source.blocks(512)])),
    ):
        right = truth == found["ontology_term_id"].to_numpy(dtype=object)
        error = expected_calibration_error(right, found["confidence"].to_numpy())
        print(f"{name}: accuracy {right.mean():.3f}, expected calibration error {error:.3f}")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sections", nargs="*", default=[], help=f"of {', '.join(SECTIONS)}; all by default")
    parser.add_argument("--data", type=Path, default=REAL_DATA, help="folder with scrna/ and markers/")
    parser.add_argument("--sets", nargs="+", default=["facs", "kang"], choices=list(SETS), help="of the gate")
    parser.add_argument("--seeds", type=int, default=1, help="of the gate")
    parser.add_argument("--train", type=int, default=100, help="cells a type, of the gate")
    parser.add_argument("--cells", type=int, default=10_000, help="that are named, of speed")
    args = parser.parse_args()
    if strange := set(args.sections) - set(SECTIONS):
        parser.error(f"unknown sections {sorted(strange)}; known are {', '.join(SECTIONS)}")
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for section in args.sections or SECTIONS:
        if section != "reinforce" and not (args.data / "scrna").is_dir():
            print(f"No real data under {args.data}: {section} is left out. Pass --data, or set SCLM_REAL_DATA.")
            continue
        print(f"\n## {section}\n", flush=True)
        globals()[section](args)


if __name__ == "__main__":
    main()
