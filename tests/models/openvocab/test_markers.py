"""Names from markers: no reference needed, for cells and for lists of genes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import sclm
from sclm.cells import read_cells
from sclm.evidence.marker_table import MARKS, MarkerTable
from sclm.knowledge import KnowledgeGraph
from sclm.models.openvocab.markers import MarkerLists

if TYPE_CHECKING:
    from pathlib import Path

    from sclm.knowledge import Ontology

SHOWN = {
    "B cell": ["CD79A", "CD79B", "MS4A1", "CD19"],
    "T cell": ["CD3D", "CD3E", "CD3G", "CD2"],
    "hepatocyte": ["ALB", "APOA1", "TTR", "SERPINA1"],
    "type B pancreatic cell": ["INS", "IAPP", "PDX1"],
}


@pytest.fixture(scope="module")
def model() -> MarkerLists:
    found = sclm.load("marker-lists")
    assert isinstance(found, MarkerLists)
    return found


@pytest.fixture(scope="module")
def cells() -> ad.AnnData:
    """Cells that show their type's markers before a background of other genes."""
    genes = [g for of in SHOWN.values() for g in of] + [
        "ACTB",
        "GAPDH",
        "RPL3",
        "EEF1A1",
        "NKG7",
        "LYZ",
        "COL1A1",
        "PECAM1",
    ]
    rng = np.random.default_rng(0)
    rate = np.full((80, len(genes)), 0.05)
    rate[:, genes.index("ACTB") : genes.index("NKG7")] = 5.0
    types = np.array(list(SHOWN), dtype=object)[np.arange(80) % 4]
    for i, kind in enumerate(types):
        rate[i, [genes.index(g) for g in SHOWN[kind]]] = 4.0
    counts = sparse.csr_matrix(rng.poisson(rate).astype(np.float32))
    index = [f"c{i}" for i in range(80)]
    return ad.AnnData(counts, obs=pd.DataFrame({"cell_type": types}, index=index), var=pd.DataFrame(index=genes))


def test_works_at_once(model: MarkerLists, cells: ad.AnnData) -> None:
    found = model.annotate(read_cells(cells).read(), candidates=list(SHOWN))
    assert (found.table["label"].to_numpy() == cells.obs["cell_type"].to_numpy()).mean() > 0.95
    assert found.table["novelty"].isna().all()
    whole = model.annotate(read_cells(cells).read())
    b = cells.obs["cell_type"].to_numpy() == "B cell"
    lineage = sclm.knowledge.Ontology.load("cl").descendants("CL:0000945", include_self=True)  # lymphocyte of B lineage
    assert whole.table["ontology_term_id"][b].isin(lineage).mean() > 0.8


def test_ensembl_ids_are_understood(model: MarkerLists, cells: ad.AnnData) -> None:
    from sclm.knowledge import GeneIdentifiers

    ids = GeneIdentifiers.load("human").to_ensembl(list(cells.var_names))
    assert all(ids)
    other = ad.AnnData(cells.X, obs=cells.obs, var=pd.DataFrame(index=list(ids)))
    a, b = (model.annotate(read_cells(x).read()).probabilities for x in (cells, other))
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_saved_and_loaded(model: MarkerLists, cells: ad.AnnData, tmp_path: Path) -> None:
    again = sclm.load(model.save(tmp_path / "m"))
    a, b = (m.annotate(read_cells(cells).read()).probabilities for m in (model, again))
    np.testing.assert_array_equal(a, b)
    assert again.provenance()["sha256"] == model.provenance()["sha256"]


def test_lists_of_genes(model: MarkerLists) -> None:
    found = model.annotate_lists({**SHOWN, "nothing": ["ACTB", "no such gene"]}, candidates=list(SHOWN))
    assert list(found.table["label"]) == [*SHOWN, "unknown"]
    assert list(found.table.index) == [*SHOWN, "nothing"]
    assert found.table["confidence"].iloc[-1] == 0
    with pytest.raises(TypeError, match="list of genes"):
        model.annotate_lists({"a": "CD3D, CD3E"})


def test_markers_of_held_out_terms_are_withheld(cells: ad.AnnData) -> None:
    graph = KnowledgeGraph.default()
    held = MarkerLists.ready(graph.without_markers_of(["hepatocyte"]))
    found = held.annotate_lists(SHOWN).table["label"]
    assert found["hepatocyte"] != "hepatocyte"
    assert MarkerLists.ready(graph).annotate_lists(SHOWN).table["label"]["hepatocyte"] == "hepatocyte"
    trained = sclm.train("marker-lists", cells, label_key="cell_type", graph=graph.without_markers_of(["hepatocyte"]))
    assert "CL:0000182" not in trained._table.terms
    assert "CL:0000236" in trained._table.terms
    with pytest.raises(ValueError, match="gene-marks-cell_type"):
        MarkerLists.ready(graph.without_markers_of(["cell"]))


def test_a_term_inherits_half_of_what_marks_its_parent(ontology: Ontology) -> None:
    graph = KnowledgeGraph.default()
    names = tuple(graph.nodes["name"].iloc[graph.rows("gene")])
    table = MarkerTable.of(graph, names)
    assert table.marks.shape[1] == graph.edges[MARKS].shape[1]
    parent, child = "CL:0000236", "CL:0000788"  # B cell, naive B cell
    profiles, own = table.expected(ontology, [parent, child])
    slow = np.zeros(len(table.genes))
    for above, steps in ontology.graph.steps_up(ontology.index(child)).items():
        if (term := ontology.ids[above]) in table.terms:
            marked = table.marks[1][table.marks[0] == table.terms.index(term)]
            slow[marked] += 0.5**steps * table.weights[marked]
    np.testing.assert_allclose(profiles[1], slow)
    assert own[0] == (table.marks[0] == table.terms.index(parent)).sum()


def test_a_reference_calibrates(cells: ad.AnnData) -> None:
    trained = sclm.train("marker-lists", cells, label_key="cell_type", candidates=tuple(SHOWN))
    found = trained.annotate(read_cells(cells).read())
    assert (found.table["label"].to_numpy() == cells.obs["cell_type"].to_numpy()).mean() > 0.95
    assert trained.config.temperature != 1.0
    assert found.table["novelty"].between(0, 1).all()


def test_data_without_markers_are_refused(model: MarkerLists) -> None:
    few = ad.AnnData(np.ones((3, 4), dtype=np.float32), var=pd.DataFrame(index=["CD3D", "CD3E", "ACTB", "GAPDH"]))
    with pytest.raises(ValueError, match="at least 10 marker genes of the graph, found 2"):
        model.annotate(read_cells(few).read())
