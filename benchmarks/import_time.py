"""Seconds that an import takes in a fresh interpreter, beside peers.

    python benchmarks/import_time.py [--repeats 5]

Each row is the median over new processes; files are in the page cache (one run before is not counted). The interpreter's
own start is not part of the time. Peers that are not installed are left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import subprocess
import sys

STATEMENTS = {
    "sclm": "import sclm",
    "sclm + sclm.tl": "import sclm, sclm.tl",
    "numpy + pandas": "import numpy, pandas",
    "anndata": "import anndata",
    "scanpy": "import scanpy",
    "celltypist": "import celltypist",
}
LIMIT = 0.3  # seconds, for sclm with its tools

PROGRAM = """
import sys, time
start = time.perf_counter()
{statement}
print(time.perf_counter() - start, len(sys.modules))
"""


def measure(statement: str) -> tuple[float, int]:
    """Seconds and loaded modules of one import in a new process."""
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM.format(statement=statement)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(out[-2]), int(out[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    print(f"{'import':<16}{'median s':>10}{'fastest s':>11}{'modules':>9}")
    ours = 0.0
    for name, statement in STATEMENTS.items():
        packages = statement.removeprefix("import ").split(", ")
        if any(importlib.util.find_spec(package.partition(".")[0]) is None for package in packages):
            print(f"{name:<16}{'not installed':>10}")
            continue
        measure(statement)
        runs = [measure(statement) for _ in range(repeats)]
        seconds = statistics.median(run[0] for run in runs)
        print(f"{name:<16}{seconds:>10.3f}{min(run[0] for run in runs):>11.3f}{runs[0][1]:>9}")
        if name == "sclm + sclm.tl":
            ours = seconds
    print(f"sclm with its tools: {ours:.3f} s, limit {LIMIT} s: {'met' if ours < LIMIT else 'NOT met'}")
    return int(ours >= LIMIT)


if __name__ == "__main__":
    sys.exit(main())
