"""Perturbations: predicted responses, observed and in-silico screens, planted regulators. Each section prints its tables in Markdown.

    python benchmarks/perturb.py regulators --seeds 3
    python benchmarks/perturb.py response screen

Without a section all of them run. docs/benchmarks.md ("Perturbations") says how to read them; the head of each file states its question, its
truth and its splits. Sections on real cells need the real data: see --folder. Networks are trained here, from random weights, with the
preset "tiny": this says what small encoders reach on small data, nothing of published ones.
"""

from __future__ import annotations

import argparse
import logging
import os
import warnings
from pathlib import Path

import perturb_regulators
import perturb_response
import perturb_screen

HERE = Path(__file__).resolve()
REAL_DATA = Path(os.environ.get("SCLM_REAL_DATA", HERE.parents[2] / "shared" / "data"))
SECTIONS = {"response": perturb_response.run, "screen": perturb_screen.run, "regulators": perturb_regulators.run}
FILES = {"response": perturb_response.FILE, "screen": perturb_screen.FILE}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}; all by default")
    parser.add_argument("--folder", type=Path, default=REAL_DATA, help="real data (SCLM_REAL_DATA)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--encoders", nargs="*", default=["scgpt", "geneformer"], help="families of encoders to train")
    parser.add_argument("--responders", nargs="*", default=["scgpt"], help="families to train on perturbed cells")
    parser.add_argument("--preset", default="tiny", help="of the responders")
    parser.add_argument("--epochs", type=int, default=10, help="of every network")
    parser.add_argument("--datasets", nargs="+", default=["norman19", "mcfaline23"], help="of the responses")
    parser.add_argument(
        "--train-cells", type=int, default=2000, help="cells of replicate 1 that the screen's encoders learn on"
    )
    parser.add_argument("--cells", type=int, default=200, help="cells that an in-silico screen perturbs")
    parser.add_argument("--permutations", type=int, default=999)
    parser.add_argument("--quick", action="store_true", help="a run that tests the script, not the methods")
    parser.add_argument("--verbose", action="store_true", help="print results as they come")
    args = parser.parse_args()
    wrong = [s for s in args.sections if s not in SECTIONS]
    if wrong:
        parser.error(f"unknown: {', '.join(wrong)}; sections: {', '.join(SECTIONS)}")
    warnings.simplefilter("ignore")
    logging.getLogger("sclm").setLevel(logging.ERROR)
    for section in args.sections or SECTIONS:
        if section in FILES and not (args.folder / FILES[section]).is_file():
            print(
                f"\n{section}: no {FILES[section]} in {args.folder}; name the folder with --folder or SCLM_REAL_DATA."
            )
            continue
        SECTIONS[section](args)


if __name__ == "__main__":
    main()
