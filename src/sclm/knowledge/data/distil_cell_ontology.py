"""Distil the Cell Ontology snapshot that sclm bundles (`cl.obo.gz`) from its public source.

Run by hand when the snapshot is renewed; the package never imports this file (it needs `zstandard`)::

    python src/sclm/knowledge/data/distil_cell_ontology.py                       # fetches the pinned public address
    python src/sclm/knowledge/data/distil_cell_ontology.py CL-ontology-v2026-03-26.json.zst

The source is a rendering of the Cell Ontology release in which a reasoner has made all superclasses explicit. It lists
for each term its ancestors with their distance; distance 1 is a parent. It has no relation types: a few parents are
`part_of`, not `is_a` (see `PART_OF`). The output is OBO 1.2 that any OBO reader understands, gzip-compressed without a
time stamp, so that the same input always gives the same bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

VERSION = "2026-03-26"
URL = (
    "https://raw.githubusercontent.com/chanzuckerberg/cellxgene-ontology-guide/"
    "a2a31b73c9213c2afb01ce60e041d39b28ed2261/ontology-assets/CL-ontology-v2026-03-26.json.zst"
)
SHA256 = "ee9b84956ca31195a65f63b6e67e993d58fd3f5fb577a61536dfd122fba06dde"

# Parents that the Cell Ontology itself states as part_of (BFO:0000050), not is_a.
PART_OF = {("CL:0002453", "CL:0000125"), ("CL:4052024", "CL:0008046"), ("CL:4052025", "CL:0008046")}

ROOT = "CL:0000000"


def escape(text: str, quoted: bool = False) -> str:
    """Escape a value for OBO: backslash and newline always, quotes inside quotes, `!` and `{` outside."""
    text = " ".join(text.split()).replace("\\", "\\\\")
    if quoted:
        return text.replace('"', '\\"')
    return text.replace("!", "\\!").replace("{", "\\{")


def distil(terms: dict[str, dict[str, Any]]) -> str:
    """Render the terms of the source JSON as OBO text."""
    active = {term for term, entry in terms.items() if not entry["deprecated"]}
    parents = {
        term: {parent for parent, steps in terms[term]["ancestors"].items() if steps == 1 and parent in active}
        for term in active
    }
    for child, parent in sorted(PART_OF):
        # Two of the three are nuclei of a muscle fibre whose only parent is the fibre: a nucleus that single-nucleus
        # sequencing reads stands for its cell, so they keep it rather than hang in the air.
        if len(parents[child]) > 1:
            parents[child].discard(parent)
    # Eight terms name a cytoplasm or a nucleus shape, not a cell; they have neither parents nor children.
    used = {parent for above in parents.values() for parent in above}
    loose = {term for term in active if not parents[term] and term not in used and term != ROOT}
    active -= loose

    lines = [
        "format-version: 1.2",
        f"data-version: cl/releases/{VERSION}/cl.obo",
        "ontology: cl",
        f"remark: Distilled by sclm from {URL} (sha256 {SHA256}).",
        "remark: Cell Ontology, https://obofoundry.org/ontology/cl.html, CC BY 4.0.",
        "remark: Kept are ids, names, definitions, exact synonyms, superclasses and replacements of obsolete terms.",
    ]
    for term in sorted(set(terms) - loose):
        entry = terms[term]
        name = " ".join(entry["label"].split())
        lines += ["", "[Term]", f"id: {term}"]
        if name:  # one obsolete term has lost its name
            lines.append(f"name: {escape(name)}")
        if term in active:
            if entry.get("description"):
                lines.append(f'def: "{escape(entry["description"], quoted=True)}" []')
            # dict.fromkeys: the source repeats a synonym now and then
            lines += [
                f'synonym: "{escape(synonym, quoted=True)}" EXACT []'
                for synonym in sorted(dict.fromkeys(entry.get("synonyms", ())))
                if synonym.strip() and " ".join(synonym.split()) != name
            ]
            lines += [f"is_a: {parent}" for parent in sorted(parents[term])]
        else:
            lines.append("is_obsolete: true")
            if entry.get("replaced_by") in terms:  # some lead into other ontologies, which are not here
                lines.append(f"replaced_by: {entry['replaced_by']}")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
    """Read the source (a path, or the pinned address), check its hash, write `cl.obo.gz` beside this file."""
    import zstandard

    if arguments:
        packed = Path(arguments[0]).read_bytes()
    else:
        with urllib.request.urlopen(URL, timeout=60) as response:
            packed = response.read()
    found = hashlib.sha256(packed).hexdigest()
    if found != SHA256:
        raise ValueError(f"expected the source with sha256 {SHA256}, found {found}: wrong file or wrong release.")
    text = distil(json.loads(zstandard.ZstdDecompressor().decompressobj().decompress(packed)))
    target = Path(__file__).with_name("cl.obo.gz")
    # mtime=0 and no file name in the header: the same text gives the same bytes
    target.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))
    sys.stdout.write(
        f"{target} {target.stat().st_size} bytes sha256 {hashlib.sha256(target.read_bytes()).hexdigest()}\n"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
