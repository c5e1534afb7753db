"""Write the constraints file of the Python that runs this: `make constraints PYTHON=python3.12`.

Pip resolves the package, its extras and all dependency groups without installing anything; the versions it chose go to
`.github/constraints-<python>.txt`, without local version suffixes (`2.13.0+cpu` becomes `2.13.0`), so that the same
line takes a CPU wheel where pip's configuration offers one and the usual build elsewhere. Accelerator libraries that
such a usual build brings along are left out: torch pins them itself. `--keep FILE` starts from the versions of FILE.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ACCELERATOR = re.compile(r"nvidia-|cuda-|triton$|pytorch-triton")
# torch is what the networks were tested with; its newer releases come when the tests have seen them.
PINNED = ("torch==2.13.0",)


def resolve(keep: Path | None) -> dict[str, str]:
    """Name → version of everything that the package, its extras and its groups need here."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--report", str(report), "pip", *PINNED, "-e", f"{ROOT}[atlas,dask,leiden,mcp,mudata,ontology]"]
        command += ["--group", f"{ROOT / 'pyproject.toml'}:dev", "--group", f"{ROOT / 'pyproject.toml'}:bench"]
        if keep is not None:
            command += ["-c", str(keep)]
        subprocess.run(command, check=True)
        installed = json.loads(report.read_text())["install"]
    found = {item["metadata"]["name"]: item["metadata"]["version"] for item in installed}
    return {re.sub(r"[-_.]+", "-", name).lower(): version.partition("+")[0] for name, version in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, default=None)
    versions = resolve(parser.parse_args().keep)
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    lines = [f"# Versions tested together on Python {python}; written by `make constraints`."]
    lines += [
        f"{name}=={versions[name]}" for name in sorted(versions) if name != "sclm" and not ACCELERATOR.match(name)
    ]
    path = ROOT / ".github" / f"constraints-{python}.txt"
    path.write_text("\n".join(lines) + "\n")
    print(f"{path.relative_to(ROOT)}: {len(lines) - 1} packages")


if __name__ == "__main__":
    main()
