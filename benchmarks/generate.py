"""Generated cells beside real ones: one section a question, each prints its tables in Markdown.

    python benchmarks/generate.py fidelity --data pbmc3k pbmc_facs --seeds 3
    python benchmarks/generate.py generalisation subtypes fallback training likelihood

Without a section all of them run. docs/benchmarks.md ("Generation") says what each measures and how to read it. A seed sets
the split, the training and the sampling together; tables give mean ± standard deviation over seeds. Real data are needed for
all sections but `fallback`, `training` and a part of `subtypes`: see --folder. Fidelity is judged by a script outside this
repository where SCLM_GENERATION_JUDGE names it or it lies beside the data, by sclm.metrics.generation otherwise.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path

import generation_fidelity
import generation_scoring
import generation_transfer
from generation_data import FILES, REAL_DATA

SECTIONS = {
    "fidelity": generation_fidelity.run,
    "decoders": generation_fidelity.decoders,
    "generalisation": generation_transfer.generalisation,
    "subtypes": generation_transfer.subtypes,
    "fallback": generation_transfer.fallback,
    "training": generation_scoring.training,
    "likelihood": generation_scoring.likelihood,
}
REAL = ("fidelity", "decoders", "generalisation", "likelihood")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}; all by default")
    parser.add_argument("--folder", type=Path, default=REAL_DATA, help="real data (SCLM_REAL_DATA)")
    parser.add_argument("--data", nargs="+", default=["pbmc3k", "pbmc_facs"], choices=["pbmc3k", "pbmc_facs"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--preset", default="small")
    parser.add_argument(
        "--rows", nargs="+", default=list(generation_fidelity.ROWS), help="rows of the table of fidelity"
    )
    parser.add_argument("--types", nargs="+", help="cell types left out, for generalisation or likelihood")
    parser.add_argument("--length", type=int, default=256, help="genes a cell of the rank language model")
    parser.add_argument("--token-cells", type=int, default=256, help="cells of each decoder")
    parser.add_argument("--token-epochs", type=int, default=1, help="training of the decoder of single genes")
    parser.add_argument("--peer-minutes", type=float, default=20.0, help="bound on the training of a peer")
    args = parser.parse_args()
    wrong = [s for s in args.sections if s not in SECTIONS]
    wrong += [r for r in args.rows if r not in generation_fidelity.ROWS]
    if wrong:
        parser.error(f"unknown: {', '.join(wrong)}; sections: {', '.join(SECTIONS)}; rows: {generation_fidelity.ROWS}")
    warnings.simplefilter("ignore")
    logging.getLogger("sclm").setLevel(logging.ERROR)
    for section in args.sections or SECTIONS:
        if section in REAL and not all((args.folder / file).is_file() for file in FILES.values()):
            print(f"\n{section}: no real data in {args.folder}; name their folder with --folder or SCLM_REAL_DATA.")
            continue
        SECTIONS[section](args)


if __name__ == "__main__":
    main()
