"""Sources of a knowledge graph by name: what comes with the package, and public files that are downloaded once."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sclm.knowledge.disease_genes import disease_genes
from sclm.knowledge.downloads import RESOURCES, fetch
from sclm.knowledge.genes import GeneIdentifiers
from sclm.knowledge.graph_parts import Origin, Part, node_table
from sclm.knowledge.graph_sources import GeneSets, Pairs, TermLinks, Terms, read_table
from sclm.knowledge.ontology import Ontology

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sclm.knowledge.graph_parts import GraphSource

DEFAULT = "default"

# The address of a file is in the registry of downloads under the same name.
_FILES: dict[str, Callable[[Path], GraphSource]] = {
    "reactome": GeneSets,
    "wikipathways": lambda path: GeneSets(path, prefix="WP_"),
    "go_cc": lambda path: GeneSets(path, type="compartment", prefix="GOCC_"),
    "go_mf": lambda path: GeneSets(path, type="function", prefix="GOMF_"),
    "tf_targets": lambda path: Pairs(path, "gene-regulates-gene"),
    "celltalkdb": lambda path: Pairs(
        path, "ligand-binds-receptor", columns=("ligand_gene_symbol", "receptor_gene_symbol")
    ),
    "liana_consensus": lambda path: Pairs(
        path, "ligand-binds-receptor", columns=("source_genesymbol", "target_genesymbol"), separator="_"
    ),
    "panglaodb": lambda path: Pairs(
        path, "gene-marks-cell_type", columns=("official gene symbol", "cell type"), where={"species": ["Hs", "Mm Hs"]}
    ),
    "cellmarker": lambda path: Pairs(
        path, "gene-marks-cell_type", columns=("geneSymbol", ("CellOntologyID", "cellName")), separator=",",
        where={"speciesType": ["Human"], "cancerType": ["Normal"]},
    ),
    "cl_relations": TermLinks,
}  # fmt: skip
_WITHOUT_TABLE = ("hgnc", "imex", "mondo_genes", "cl_markers")
_SAME_FILE = {"mondo_genes": "mondo"}  # sources that are read from the file of another
_ONTOLOGIES = {"cl": "cell_type", "uberon": "tissue", "mondo": "disease"}


def graph_sources_available() -> pd.DataFrame:
    """The sources that :meth:`~sclm.knowledge.KnowledgeGraph.build` knows by name.

    Returns
    -------
    One row a source: `name`, `licence`, `source`, and `bundled`, whether it comes with the package.
    """
    rows = [
        (
            DEFAULT,
            "CC BY 4.0, CC BY 3.0, CC0, BSD-3-Clause",
            "all that comes with the package, see the default graph",
            True,
        ),
        ("cl_markers", "CC BY 4.0, BSD-3-Clause", "markers that the Cell Ontology states, and our own list", True),
        ("mondo_genes", RESOURCES["mondo"].licence, "genes that the names of diseases in MONDO state", False),
        *((n, RESOURCES[n].licence, RESOURCES[n].source, n == "cl") for n in (*_ONTOLOGIES, "hgnc", "imex", *_FILES)),
    ]
    return pd.DataFrame(rows, columns=["name", "licence", "source", "bundled"])


def named(name: str) -> list[Part]:
    """Read a source by name.

    Raises
    ------
    ValueError
        If there is no such source.
    ConnectionError
        If its file is neither here nor can be downloaded.
    """
    if name == DEFAULT:
        from sclm.knowledge.graph_bundle import default_parts

        return list(default_parts())
    if name in _ONTOLOGIES:
        return [Terms(name, _ONTOLOGIES[name]).read()]
    if name not in _FILES and name not in _WITHOUT_TABLE:
        raise ValueError(
            f"expected a source of {', '.join(map(repr, graph_sources_available()['name']))}, found {name!r}. For a file of yours give "
            "a Terms, TermLinks, GeneSets or Pairs."
        )
    if name == "cl_markers":
        from sclm.knowledge.graph_bundle import marker_parts

        return marker_parts()
    path, resource = fetch(_SAME_FILE.get(name, name)), RESOURCES[_SAME_FILE.get(name, name)]
    origin = Origin(name, resource.licence, "", resource.sha256, resource.url)
    if name == "hgnc":
        genes = read_table(path)
        return [Part(origin, node_table(genes["symbol"], "gene", genes["symbol"], genes["name"]), [])]
    if name == "imex":
        part = Pairs(imex_pairs(path, fetch("hgnc")), "gene-interacts-gene").read()
    elif name == "mondo_genes":
        pairs = disease_genes(Ontology.load("mondo"), GeneIdentifiers.load("human"))
        part = Pairs(pd.DataFrame(pairs, columns=["gene", "disease"]), "gene-associated-disease").read()
    else:
        part = _FILES[name](path).read()
    return [part._replace(origin=origin)]


def imex_pairs(path: Path, hgnc: Path) -> pd.DataFrame:
    """Pairs of human genes whose proteins interact, from the table of IMEx (UniProt ids) and HGNC's UniProt ids.

    Parameters
    ----------
    path
        The table, with ids ``uniprotkb:P04637`` in the columns A and B; of isoforms (``P04637-2``) the protein is taken.
    hgnc
        HGNC's complete set, with the columns `symbol` and `uniprot_ids`.

    Returns
    -------
    One row a pair: `gene_a`, `gene_b` (in order), `n_records`.
    """
    genes = read_table(hgnc)
    owners: dict[str, set[str]] = {}
    for symbol, proteins in zip(genes["symbol"], genes["uniprot_ids"], strict=True):
        for protein in re.split(r"[|,]", proteins):
            if protein:
                owners.setdefault(protein.strip(), set()).add(symbol)
    # a protein of several genes (histones) tells of none of them
    symbol_of = {protein: min(found) for protein, found in owners.items() if len(found) == 1}
    table = read_table(path)
    sides = [table[column].str.extract(r"^uniprotkb:([A-Z0-9]+)", expand=False).map(symbol_of) for column in ("A", "B")]
    known = (sides[0].notna() & sides[1].notna()).to_numpy()
    a, b = (side.to_numpy(dtype=object)[known] for side in sides)
    a, b = a[a != b], b[a != b]
    low, high = np.where(a < b, a, b), np.where(a < b, b, a)
    counted = pd.DataFrame({"gene_a": low, "gene_b": high}).value_counts(sort=False).rename("n_records").reset_index()
    return counted.sort_values(["gene_a", "gene_b"], ignore_index=True)
