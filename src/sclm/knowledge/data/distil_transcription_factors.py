"""Distil the human transcription factors that sclm bundles (`transcription_factors_human.txt`) from the Gene Ontology.

Run by hand when they are renewed; the package never imports this file::

    python src/sclm/knowledge/data/distil_transcription_factors.py            # fetches the pinned public address
    python src/sclm/knowledge/data/distil_transcription_factors.py msigdb_human_go_mf_v2025.gmt

Taken are the genes under *DNA-binding transcription factor activity* (GO:0003700 and its descendants), and a few that
the ontology files elsewhere and that every screen of T cells asks for: the TOX family (HMG boxes that bind DNA by shape) and the
ID proteins (partners of E proteins that keep them from DNA). Output: one approved symbol a line, sorted, after a heading
whose lines begin with `#`.
"""

from __future__ import annotations

import hashlib
import sys
import urllib.request
from pathlib import Path

SOURCE = (
    "https://raw.githubusercontent.com/yelu61/scLucid/25df2a1a6982816cf500306d289ec2c8a580de78/src/scLucid/resources/"
    "human_go_mf_v2025.gmt",
    "1514172ce1aefd9cd85869aa0c2343d6722428e968bb080c42b2ade2ffc99f30",
)
SET = "GOMF_DNA_BINDING_TRANSCRIPTION_FACTOR_ACTIVITY"
ADDED = ("ID1", "ID2", "ID3", "ID4", "TOX", "TOX2", "TOX3", "TOX4")
HEADING = (
    "# Human genes with DNA-binding transcription factor activity (GO:0003700), from the Gene Ontology, CC BY 4.0,",
    "# in the rendering of MSigDB v2025; eight genes are added. See README.md and distil_transcription_factors.py.",
)


def distil(text: str) -> str:
    """The lines of the bundle from a table of gene sets (name, address, symbols; tab-separated)."""
    sets = {line.split("\t")[0]: line.split("\t")[2:] for line in text.splitlines()}
    return "\n".join([*HEADING, *sorted({*sets[SET], *ADDED})]) + "\n"


def main(arguments: list[str]) -> None:
    """Read the source (a path, or the pinned address), check its hash, write the bundle beside this file."""
    url, expected = SOURCE
    if arguments:
        raw = Path(arguments[0]).read_bytes()
    else:
        with urllib.request.urlopen(url, timeout=60) as response:
            raw = response.read()
    found = hashlib.sha256(raw).hexdigest()
    if found != expected:
        raise ValueError(f"expected {url} with sha256 {expected}, found {found}: wrong file or wrong release.")
    target = Path(__file__).with_name("transcription_factors_human.txt")
    target.write_text(distil(raw.decode()), encoding="utf-8")
    sys.stdout.write(
        f"{target} {target.stat().st_size} bytes sha256 {hashlib.sha256(target.read_bytes()).hexdigest()}\n"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
