"""Cell types on tissue beside published methods: one section a question, each prints its tables in Markdown.

    python benchmarks/mapping.py accuracy --sets dev --seeds 3 --cache ~/.cache/sclm-bench
    python benchmarks/mapping.py accuracy --sets facs10 rnamix --rows sclm sclm:smooth=0.05 "RCTD full"
    python benchmarks/mapping.py speed uncertainty missing reference_free real

Without a section all of them run. `accuracy` compares with sections of known composition (mapping_sets.py): real mixtures, and
spots of real cells that the reference lacks; ours is the row "sclm", with options of map_spatial behind a colon. Answers of
peers are kept in --cache, so that they are computed once. A peer whose package is missing is said to be. FlashDeconv asks for
older numpy and numba than sclm is tested with: keep the peers (flashdeconv, rctd-py, tacco, tangram-sc) in an environment of
their own with sclm in it, fill the cache there, and run the rows of ours anywhere. One thread each; times are processor seconds
after imports and compilation. Constants of ours were chosen on the development sets only; --sets held-out are for the last
word. Real data are needed for all sections but `speed` and `uncertainty`: see --folder.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path

import mapping_accuracy
import mapping_checks
import mapping_reference
import mapping_speed
from generation_data import REAL_DATA
from mapping_rows import one_thread
from mapping_sets import FILES, names

SECTIONS = {
    "accuracy": mapping_accuracy.run,
    "speed": mapping_speed.run,
    "uncertainty": mapping_checks.uncertainty,
    "missing": mapping_checks.missing,
    "reference_free": mapping_reference.reference_free,
    "real": mapping_reference.real,
}
REAL = ("accuracy", "missing", "reference_free", "real")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}; all by default")
    parser.add_argument("--folder", type=Path, default=REAL_DATA, help="real data (SCLM_REAL_DATA)")
    parser.add_argument("--sets", nargs="+", default=["dev"], help="dev, held-out, all, or names of sets")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rows", nargs="+", default=list(mapping_accuracy.ROWS), help="rows of accuracy and speed")
    parser.add_argument("--cache", type=Path, help="folder that keeps the answers of peers")
    parser.add_argument("--csv", type=Path, help="file of all records of accuracy")
    parser.add_argument("--preset", default="small", help="of the generator, for reference_free and real")
    parser.add_argument(
        "--spots", nargs="+", type=int, default=[1000, 10_000, 50_000, 200_000], help="sizes, for speed"
    )
    parser.add_argument("--n-cells", type=int, default=200_000, help="cells at single-cell resolution, for speed")
    args = parser.parse_args()
    if wrong := [s for s in args.sections if s not in SECTIONS]:
        parser.error(f"unknown: {', '.join(wrong)}; sections: {', '.join(SECTIONS)}")
    if wrong := [row for row in args.rows if row.partition(":")[0] not in mapping_accuracy.ROWS]:
        parser.error(f"unknown: {', '.join(wrong)}; rows: {', '.join(mapping_accuracy.ROWS)}")
    try:
        args.sets = list(dict.fromkeys(name for which in args.sets for name in names(which)))
    except ValueError as error:
        parser.error(str(error))
    warnings.simplefilter("ignore")
    logging.getLogger("sclm").setLevel(logging.ERROR)
    one_thread()
    for section in args.sections or SECTIONS:
        if section in REAL and not all((args.folder / file).is_file() for file in FILES.values()):
            print(f"\n{section}: no real data in {args.folder}; name their folder with --folder or SCLM_REAL_DATA.")
            continue
        SECTIONS[section](args)


if __name__ == "__main__":
    main()
