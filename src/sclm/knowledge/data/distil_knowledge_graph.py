"""Distil what the default knowledge graph holds besides the Cell Ontology (`knowledge_graph_human.txt.xz`).

Run by hand when it is renewed; the package never imports this file (it needs `zstandard`)::

    python src/sclm/knowledge/data/distil_knowledge_graph.py FOLDER      # files of the registry in FOLDER, or one folder down

Every source has a licence that allows it: interactions of IMEx with two records or more (CC BY 4.0), pathways of Reactome and
WikiPathways (CC0), cellular components and molecular functions of the Gene Ontology (CC BY 4.0), places of cell types (Cell
Ontology, CC BY 4.0) in UBERON (CC BY 3.0), diseases whose names in MONDO (CC BY 4.0) state their gene, and names of genes
(HGNC, CC0). Output: text, xz-compressed. A line `[section]` begins a section, whose second line is JSON about its source;
numbers are places in the section `genes` or, for terms, in their own section, each as the difference to the one before it.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import sys
from pathlib import Path

import numpy as np

from sclm.knowledge import GeneIdentifiers, Ontology
from sclm.knowledge.disease_genes import disease_genes
from sclm.knowledge.downloads import RESOURCES, find_local
from sclm.knowledge.graph_catalogue import imex_pairs
from sclm.knowledge.graph_sources import GeneSets, TermLinks, read_table
from sclm.knowledge.terms import release_in_name

MIN_RECORDS = 2


def steps(numbers: list[int]) -> str:
    """Sorted numbers as differences."""
    return " ".join(map(str, np.diff([0, *sorted(numbers)])))


def about(name: str, resource: str, **more: str) -> str:
    """The JSON line of a section."""
    entry = RESOURCES[resource]
    return json.dumps({"name": name, "licence": entry.licence, "sha256": entry.sha256, "made_from": entry.url, **more})


def distil(folder: Path) -> str:
    """The text of the bundle from the files of the registry."""
    path: dict[str, Path] = {}
    for name in ("hgnc", "imex", "reactome", "wikipathways", "go_cc", "go_mf", "cl_relations", "uberon", "mondo"):
        found = find_local(RESOURCES[name], folder)
        if found is None:
            raise FileNotFoundError(
                f"{folder} lacks {RESOURCES[name].file}. Fetch it with sclm.knowledge.fetch({name!r})."
            )
        path[name] = found
    identifiers = GeneIdentifiers.load("human")
    cl, uberon, mondo = Ontology.load("cl"), Ontology.load(path["uberon"]), Ontology.load(path["mondo"])

    pairs = imex_pairs(path["imex"], path["hgnc"])
    pairs = pairs[pairs["n_records"] >= MIN_RECORDS]
    interactions = set()
    for a, b in zip(*(identifiers.to_symbol(pairs[c]) for c in ("gene_a", "gene_b")), strict=True):
        if a and b and a != b:
            interactions.add((min(a, b), max(a, b)))
    sets = {
        "reactome": GeneSets(path["reactome"]),
        "wikipathways": GeneSets(path["wikipathways"], prefix="WP_"),
        "go_cc": GeneSets(path["go_cc"], type="compartment", prefix="GOCC_"),
        "go_mf": GeneSets(path["go_mf"], type="function", prefix="GOMF_"),
    }
    parts = {name: source.read() for name, source in sets.items()}
    of_disease = disease_genes(mondo, identifiers)

    genes = {g for pair in interactions for g in pair} | {symbol for symbol, _ in of_disease}
    for part in parts.values():
        genes |= set(filter(None, identifiers.to_symbol(np.unique(part.links[0].sources))))
    described = read_table(path["hgnc"])
    names = dict(zip(described["symbol"], described["name"], strict=True))
    ordered = sorted(genes)
    place = {gene: i for i, gene in enumerate(ordered)}
    lines = ["[genes]", about("hgnc", "hgnc"), *(f"{gene}\t{names.get(gene, '')}" for gene in ordered)]

    lines += [
        "[pairs gene-interacts-gene]",
        about("imex_part", "imex", version=f"pairs with {MIN_RECORDS} records or more"),
    ]
    partners: list[list[int]] = [[] for _ in ordered]
    for a, b in interactions:
        partners[place[a]].append(place[b])
    lines += map(steps, partners)

    for name, part in parts.items():
        lines += [f"[sets {sets[name].type}]", about(name, name)]
        members: dict[str, set[int]] = {}
        for label, key in zip(part.links[0].sources, part.links[0].targets, strict=True):
            symbol = identifiers.to_symbol([label])[0]
            if symbol is not None:
                members.setdefault(key, set()).add(place[symbol])
        titles = dict(zip(part.nodes["id"], part.nodes["name"], strict=True))
        lines += [f"{key}\t{titles[key]}\t{steps(list(found))}" for key, found in sorted(members.items())]

    located = TermLinks(path["cl_relations"]).read().links[0]
    places: dict[str, set[str]] = {}
    for term, tissue in zip(located.sources, located.targets, strict=True):
        cell_type = cl.current_id(term)
        if cell_type is not None and tissue in uberon:
            places.setdefault(tissue, set()).add(cell_type)
    lines += terms("tissue", "uberon", uberon, set(places))
    lines += ["[links cell_type-part_of-tissue]", about("cl_relations", "cl_relations")]
    lines += [f"{tissue}\t{' '.join(sorted(found))}" for tissue, found in sorted(places.items())]

    lines += terms("disease", "mondo", mondo, {term for _, term in of_disease})
    by_disease: dict[str, list[int]] = {}
    for symbol, term in of_disease:
        by_disease.setdefault(term, []).append(place[symbol])
    lines += ["[genes_of gene-associated-disease]", about("mondo_genes", "mondo", version="genes in names of diseases")]
    lines += [f"{term}\t{steps(found)}" for term, found in sorted(by_disease.items())]
    return "\n".join(lines) + "\n"


def terms(kind: str, resource: str, ontology: Ontology, wanted: set[str]) -> list[str]:
    """A section of the terms that are wanted and all above them."""
    kept = sorted(wanted.union(*(ontology.ancestors(term) for term in wanted)))
    row = {term: i for i, term in enumerate(kept)}
    rows = [
        f"{term}\t{ontology.name_of(term)}\t{steps([row[parent] for parent in ontology.parents(term)])}"
        for term in kept
    ]
    release = release_in_name(RESOURCES[resource].file)
    return [f"[terms {kind}]", about(f"{resource}_part", resource, version=f"{release}, a part"), *rows]


def main(arguments: list[str]) -> None:
    """Read the sources, whose hashes are checked, from a folder, and write the bundle beside this file."""
    text = distil(Path(arguments[0]))
    target = Path(__file__).with_name("knowledge_graph_human.txt.xz")
    target.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
    sys.stdout.write(
        f"{target} {target.stat().st_size} bytes sha256 {hashlib.sha256(target.read_bytes()).hexdigest()}\n"
        f"text sha256 {hashlib.sha256(text.encode()).hexdigest()}\n"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
