"""The family that describes by statistics: what it says of blood is right, and stays the same whatever the block."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import sclm
from sclm.cells import Cells, read_cells
from sclm.evidence import CellChecker, GroupChecker, read_statements
from sclm.models.contract import Describer
from sclm.models.evidence.choosing import choose_pathways, telling_genes
from sclm.models.evidence.model import Evidence

if TYPE_CHECKING:
    from pathlib import Path

    from sclm.cells import CellSource


@pytest.fixture(scope="module")
def source() -> CellSource:
    adata = sclm.datasets.pbmc68k()
    adata.obs["tissue"] = "blood"
    return read_cells(adata, obs_keys=["cell_type", "tissue"])


@pytest.fixture(scope="module")
def checker(source: CellSource) -> CellChecker:
    return CellChecker.fit(source)


@pytest.fixture(scope="module")
def groups(source: CellSource, checker: CellChecker) -> GroupChecker:
    column = pd.Categorical(source.obs["cell_type"])
    return GroupChecker.of(checker, source, column.codes.astype(np.int64), [str(c) for c in column.categories])


def pseudobulk(source: CellSource, names: list[str], labels: list[str] | None = None) -> Cells:
    obs = pd.DataFrame(index=pd.Index(names, dtype=object))
    if labels is not None:
        obs["cell_type"] = labels
    return Cells(sparse.csr_matrix((len(names), source.n_genes)), source.genes, obs)


def test_a_group_is_described_by_what_is_known_of_it(groups: GroupChecker, source: CellSource) -> None:
    found = Evidence.ready().describe(pseudobulk(source, ["B cell"], ["B cell"]), checker=groups)
    text = found.table["text"].iloc[0]
    assert text.startswith('Group "B cell" (95 cells, 14 % of all) consists of B cells.')
    assert "CD79A" in text
    assert text.endswith("According to the metadata, the cells come from blood.")
    # what the text says is what the table of claims kept
    kept = found.claims[found.claims["verdict"] == "kept"]
    said = {(s.kind, s.value) for s in read_statements(text)} - {("identity", "B cells")}
    assert said <= set(zip(kept["kind"], kept["claim"], strict=True))


def test_rare_values_of_the_metadata_are_neither_said_nor_checked(checker: CellChecker, source: CellSource) -> None:
    adata = sclm.datasets.pbmc68k()
    column = pd.Categorical(adata.obs["cell_type"])
    inside = np.flatnonzero(column == "B cell")
    tissue = np.full(adata.n_obs, "blood", dtype=object)
    tissue[inside[:2]] = "lung"  # 2 of 95
    adata.obs["tissue"] = tissue
    with_rare = read_cells(adata, obs_keys=["cell_type", "tissue"])
    of = GroupChecker.of(checker, with_rare, column.codes.astype(np.int64), [str(c) for c in column.categories])
    found = Evidence.ready().describe(pseudobulk(source, ["B cell"], ["B cell"]), checker=of)
    assert "lung" not in found.table["text"].iloc[0]
    assert "lung" not in set(found.claims["claim"])


def test_a_wrong_label_is_not_repeated_as_a_fact(groups: GroupChecker, source: CellSource) -> None:
    found = Evidence.ready().describe(pseudobulk(source, ["B cell"], ["CD14-positive monocyte"]), checker=groups)
    text = found.table["text"].iloc[0]
    assert "is labelled CD14-positive monocyte, which its markers do not support" in text
    assert found.claims["verdict"].iloc[0] == "removed"
    assert found.table["faithfulness"].iloc[0] < 1
    assert "S100A9" not in text


def test_without_labels_the_markers_decide(groups: GroupChecker, source: CellSource) -> None:
    names = ["B cell", "CD14-positive monocyte", "natural killer cell"]
    claims = Evidence.ready().describe(pseudobulk(source, names), checker=groups).claims
    cl = sclm.knowledge.Ontology.load("cl")
    named = claims[claims["kind"] == "identity"].set_index("row")["id"]
    for row, name in enumerate(names):
        assert cl.similarity(named[row], cl.resolve(name).term_id) > 0.7


def test_a_cell_does_not_depend_on_its_batch_mates(checker: CellChecker, source: CellSource) -> None:
    model = Evidence.ready()
    assert isinstance(model, Describer)
    cells = source.read(np.arange(40))
    whole = model.describe(cells, checker=checker)
    for i in (0, 17, 39):
        one = model.describe(source.read([i]), checker=checker)
        assert one.table["text"].iloc[0] == whole.table["text"].iloc[i]
        assert one.table["faithfulness"].iloc[0] == pytest.approx(whole.table["faithfulness"].iloc[i], nan_ok=True)
    turned = Cells(cells.counts[:, ::-1].tocsr(), cells.genes[::-1], cells.obs)
    pd.testing.assert_frame_equal(model.describe(turned, checker=checker).table, whole.table)
    pd.testing.assert_index_equal(whole.table.index, cells.obs.index)


def test_a_cell_without_counts_is_said_nothing_of(checker: CellChecker, source: CellSource) -> None:
    cells = source.read([0])
    empty = cells._replace(
        counts=sparse.csr_matrix(cells.counts.shape, dtype=np.float32), obs=cells.obs.drop(columns="cell_type")
    )
    found = Evidence.ready().describe(empty, checker=checker)
    assert "no single cell type" in found.table["text"].iloc[0]
    assert not found.claims["kind"].isin(["gene", "pathway"]).any()


def test_pathways_that_say_the_same_are_named_once(groups: GroupChecker, source: CellSource) -> None:
    view = groups.view(pseudobulk(source, ["dendritic cell"]))
    members = groups.background.members.tocsc()
    chosen = choose_pathways(view, 0, members, 0.05, 3)
    active = np.flatnonzero(view.activity.q[0] <= 0.05)
    assert 0 < len(chosen) < len(active)
    assert chosen[0] == active[view.activity.p[0, active].argmin()]


def test_genes_of_every_cell_set_none_apart() -> None:
    assert list(telling_genes(["RPL13", "MT-CO1", "MALAT1", "LYZ", "RPE65", "HSPA1A", "MS4A1"])) == [
        False, False, False, True, True, False, True,
    ]  # fmt: skip


def test_it_is_saved_and_loaded_like_every_family(checker: CellChecker, source: CellSource, tmp_path: Path) -> None:
    model = Evidence.ready(cell_genes=1)
    again = sclm.load(model.save(tmp_path / "m"))
    cells = source.read(np.arange(5))
    pd.testing.assert_frame_equal(
        again.describe(cells, checker=checker).table, model.describe(cells, checker=checker).table
    )
    assert again.provenance()["sha256"] == model.provenance()["sha256"]
    assert sclm.load("evidence").config == Evidence.ready().config
    assert model.match(source.genes).matched > 700
