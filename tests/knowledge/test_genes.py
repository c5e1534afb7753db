from __future__ import annotations

import gzip

import pytest

from sclm.knowledge import GeneIdentifiers


@pytest.fixture(scope="module")
def genes() -> GeneIdentifiers:
    return GeneIdentifiers.load("human")


def test_known_genes(genes):
    names = ["CD4", "ENSG00000010610", "ENSG00000010610.10", "MLL", "SEPT2", "MARCH1", "IL8", "Cd4", "nothing", None]
    symbols = ["CD4", "CD4", "CD4", "KMT2A", "SEPTIN2", "MARCHF1", "CXCL8", None, None, None]
    assert genes.to_symbol(names) == symbols
    assert genes.to_ensembl(["CD4", "ENSG00000010610.10", "MLL", "TP53", "Y_RNA", "ENSMUSG00000023274", None]) == [
        "ENSG00000010610",
        "ENSG00000010610",
        "ENSG00000118058",
        "ENSG00000141510",
        None,  # hundreds of genes
        None,  # a mouse gene
        None,
    ]
    assert genes.is_previous("MLL")
    assert not genes.is_previous("CD4")
    assert GeneIdentifiers.load() is genes


def test_round_trip(genes):
    table = [line.split("\t") for line in gzip.decompress(_file().read_bytes()).decode().splitlines()]
    assert len(table) == len(genes)
    ids = [f"ENSG{int(row[0]):011d}" for row in table]
    symbols = [row[1] for row in table]
    assert genes.to_symbol(ids) == symbols
    assert genes.to_symbol(symbols) == symbols  # an approved symbol always wins
    back = genes.to_ensembl(symbols)
    assert sum(b is None for b in back) < 0.05 * len(back)
    assert all(b is None or genes.to_symbol([b]) == [s] for b, s in list(zip(back, symbols, strict=True))[::50])


def _file():
    from pathlib import Path

    import sclm.knowledge.genes as module

    return Path(module.__file__).with_name("data") / "genes_human.tsv.gz"


def test_bundle_is_small():
    assert _file().stat().st_size < 1 << 20


def test_unknown_species():
    with pytest.raises(ValueError, match="mouse"):
        GeneIdentifiers.load("mouse")


@pytest.mark.real
def test_against_the_geneformer_dictionary(genes, real_data):
    """An independent symbol → Ensembl map: the two agree on nearly all that both know."""
    import json

    theirs = json.loads((real_data / "vocab" / "geneformer_gene_name_id_dict.json").read_text())
    both = [(name, gene) for name, gene in theirs.items() if genes.to_ensembl([name])[0] and genes.to_symbol([gene])[0]]
    agree = sum(genes.to_ensembl([name])[0] == gene for name, gene in both) / len(both)
    assert len(both) > 20_000
    assert agree > 0.98
