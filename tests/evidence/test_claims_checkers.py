"""Checkers of cells and groups on real blood: what is true stands, what is planted does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import sclm
from sclm.cells import Cells, read_cells
from sclm.evidence import CLAIM_COLUMNS, CellChecker, Checker, GroupChecker, Statement
from sclm.evidence.claims_metadata import value_shares
from sclm.evidence.gene_states import GeneStates

if TYPE_CHECKING:
    from sclm.cells import CellSource


@pytest.fixture(scope="module")
def source() -> CellSource:
    adata = sclm.datasets.pbmc68k()
    adata.obs["tissue"], adata.obs["disease"] = "blood", "normal"
    return read_cells(adata, obs_keys=["cell_type", "tissue", "disease"])


@pytest.fixture(scope="module")
def checker(source: CellSource) -> CellChecker:
    return CellChecker.fit(source)


@pytest.fixture(scope="module")
def groups(source: CellSource, checker: CellChecker) -> GroupChecker:
    column = pd.Categorical(source.obs["cell_type"])
    return GroupChecker.of(checker, source, column.codes.astype(np.int64), [str(c) for c in column.categories])


def block(names: list[str], source: CellSource) -> Cells:
    return Cells(sparse.csr_matrix((len(names), source.n_genes)), source.genes, pd.DataFrame(index=names))


def test_checkers_follow_the_protocol(checker: CellChecker, groups: GroupChecker) -> None:
    assert isinstance(checker, Checker)
    assert isinstance(groups, Checker)


def test_statements_about_a_group(groups: GroupChecker, source: CellSource) -> None:
    asked = [
        ("identity", "B cell"), ("identity", "lymphocyte"), ("identity", "monocyte"), ("identity", "hepatocyte"),
        ("gene", "CD79A"), ("gene", "LYZ"), ("gene", "NOSUCHGENE"),
        ("pathway", "MHC class II antigen presentation"), ("pathway", "neutrophil degranulation"), ("pathway", "no such pathway"),
        ("tissue", "blood"), ("tissue", "lung"), ("disease", "normal"), ("disease", "lupus"),
    ]  # fmt: skip
    claims = groups.check(block(["B cell"], source), [Statement(0, kind, value) for kind, value in asked])
    assert tuple(claims.columns) == CLAIM_COLUMNS
    verdict = dict(zip(asked, claims["verdict"], strict=True))
    assert verdict["identity", "B cell"] == "kept"
    assert verdict["identity", "lymphocyte"] in ("kept", "softened")
    assert verdict["identity", "monocyte"] == "removed"
    assert verdict["identity", "hepatocyte"] in (
        "removed",
        "not verifiable",
    )  # few of its markers are among these genes
    assert verdict["gene", "CD79A"] == "kept"
    assert verdict["gene", "LYZ"] == "removed"
    assert verdict["gene", "NOSUCHGENE"] == verdict["pathway", "no such pathway"] == "not verifiable"
    assert verdict["pathway", "neutrophil degranulation"] == "removed"
    assert verdict["tissue", "blood"] == verdict["disease", "normal"] == "kept"
    assert verdict["tissue", "lung"] == verdict["disease", "lupus"] == "removed"
    ids = dict(zip(asked, claims["id"], strict=True))
    assert ids["identity", "B cell"] == "CL:0000236"
    assert ids["tissue", "blood"] == "UBERON:0000178"
    assert claims["support"].dropna().between(0, 1).all()
    assert claims["reason"].map(bool).all()


def test_statements_about_cells_of_all_types(checker: CellChecker, source: CellSource) -> None:
    """Recall and precision in the large: a planted identity of another type rarely stands."""
    labels = source.obs["cell_type"].astype(str).to_numpy()
    use = np.flatnonzero(np.isin(labels, ["B cell", "CD14-positive monocyte", "natural killer cell"]))
    cells = source.read(use)
    other = {"B cell": "CD14-positive monocyte", "CD14-positive monocyte": "T cell", "natural killer cell": "B cell"}
    right = checker.check(cells, [Statement(i, "identity", labels[row]) for i, row in enumerate(use)])
    wrong = checker.check(cells, [Statement(i, "identity", other[labels[row]]) for i, row in enumerate(use)])
    assert (right["verdict"] == "removed").mean() < 0.06
    assert (right["verdict"] == "kept").mean() > 0.8
    assert (wrong["verdict"] == "kept").mean() < 0.06


def test_without_metadata_nothing_about_tissue_and_disease_is_confirmed(
    checker: CellChecker, source: CellSource
) -> None:
    cells = source.read([0])
    bare = cells._replace(obs=cells.obs.drop(columns=["tissue", "disease"]))
    asked = [Statement(0, "tissue", "blood"), Statement(0, "disease", "normal"), Statement(0, "disease", "lung cancer")]
    claims = checker.check(bare, asked)
    assert set(claims["verdict"]) == {"not verifiable"}
    assert claims["support"].isna().all()
    assert claims["reason"].str.contains("not verifiable from these cells").all()


def test_verdicts_do_not_depend_on_the_block_or_the_order_of_genes(checker: CellChecker, source: CellSource) -> None:
    cells = source.read(np.arange(6))
    asked = [
        Statement(i, k, v)
        for i in range(6)
        for k, v in (("identity", "T cell"), ("gene", "CD3D"), ("pathway", "TNF signaling"))
    ]
    whole = checker.check(cells, asked)
    one = checker.check(source.read([3]), [s._replace(row=0) for s in asked if s.row == 3])
    pd.testing.assert_frame_equal(
        whole[whole["row"] == 3].drop(columns="row").reset_index(drop=True), one.drop(columns="row"), rtol=1e-6
    )
    turned = Cells(cells.counts[:, ::-1].tocsr(), cells.genes[::-1], cells.obs)
    pd.testing.assert_frame_equal(checker.check(turned, asked), whole)


def test_a_group_in_two_parts_is_judged_by_all_of_its_cells(groups: GroupChecker, source: CellSource) -> None:
    both = groups.check(
        block(["B cell", "natural killer cell"], source), [Statement(1, "identity", "natural killer cell")]
    )
    one = groups.check(block(["natural killer cell"], source), [Statement(0, "identity", "natural killer cell")])
    assert both["support"].iloc[0] == one["support"].iloc[0]
    with pytest.raises(ValueError, match="expected groups of"):
        groups.check(block(["no such group"], source), [])


def test_missing_metadata_are_no_agreement(checker: CellChecker) -> None:
    assert value_shares(["blood", None, "unknown", None]) == {"blood": 0.25}
    found = checker.judge.terms.judge("tissue", "blood", {"blood": 0.25})
    assert (found.verdict, found.share) == ("softened", 1.0)
    assert found.reason == "annotated in the metadata for 100% of the annotated cells; 75% of all are not annotated"
    assert checker.judge.terms.judge("tissue", "blood", {"blood": 0.6}).verdict == "kept"
    assert (
        checker.judge.terms.judge("tissue", "blood", {"blood": 1.0}).reason
        == "annotated in the metadata for 100% of the cells"
    )
    assert checker.judge.terms.judge("tissue", "lung", {"blood": 0.25}).verdict == "removed"


def test_groups_of_one_or_two_cells_are_not_tested(checker: CellChecker, source: CellSource) -> None:
    codes = np.full(source.n_cells, -1)
    inside = np.flatnonzero(source.obs["cell_type"].astype(str) == "B cell")
    codes[inside[0]], codes[inside[1:3]], codes[inside[3:6]] = 0, 1, 2
    few = GroupChecker.of(checker, source, codes.astype(np.int64), ["one", "two", "three"])
    asked = [Statement(row, "gene", gene) for row in range(3) for gene in ("CD79A", "CD74", "HLA-DRA")]
    claims = few.check(block(["one", "two", "three"], source), asked)
    small = claims["row"] < 2
    assert "softened" in set(claims["verdict"][small])
    assert "kept" not in set(claims["verdict"][small])
    assert claims["q"][small].isna().all()
    assert claims["reason"][small].str.endswith("too few cells for a test").all()
    assert claims["q"][~small].between(1e-60, 1).all()


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (Statement(0, "colour", "red"), "must be of 'identity'"),
        (Statement(9, "gene", "LYZ"), "must lie in 0 to 0, found 9"),
    ],
)
def test_what_is_no_statement_is_refused(
    checker: CellChecker, source: CellSource, statement: Statement, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        checker.check(source.read([0]), [statement])


def test_other_genes_and_too_few_markers_are_refused(checker: CellChecker, source: CellSource) -> None:
    cells = source.read([0])
    with pytest.raises(ValueError, match="found 765 others"):
        checker.check(cells._replace(genes=pd.Index([f"x{i}" for i in range(765)])), [])
    adata = sclm.datasets.pbmc68k()[:, :40]
    with pytest.raises(ValueError, match="at least 10 marker genes"):
        CellChecker.fit(read_cells(adata))


def slow_states(counts: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same mixture by dense arrays and without depth bins."""
    mean = counts.sum(axis=0) / depth.sum()
    low, high, part = mean * 0.3 + 1e-9, mean * 4 + 1e-9, np.full(counts.shape[1], 0.2)
    first = low.copy(), high.copy()
    for _ in range(25):
        x = counts * np.log(high / low) - depth[:, None] * (high - low) + np.log(part / (1 - part))
        r = 1 / (1 + np.exp(-np.clip(x, -30, 30)))
        part = np.clip((r.sum(axis=0) + 1) / (len(counts) + 5), 1e-3, 0.9)
        high = ((r * counts).sum(axis=0) + first[1]) / ((r * depth[:, None]).sum(axis=0) + 1)
        low = (((1 - r) * counts).sum(axis=0) + first[0]) / (((1 - r) * depth[:, None]).sum(axis=0) + 1)
        high = np.maximum(high, 2 * low)
    return low, high, part


def test_levels_of_genes_are_those_of_a_dense_fit_and_of_the_simulation() -> None:
    rng = np.random.default_rng(0)
    on = rng.random((600, 5)) < [0.1, 0.3, 0.5, 0.2, 0.7]
    depth = rng.gamma(8, 0.25 / 8, size=600) * 1e4
    level = np.where(on, [40.0, 100, 30, 8, 60], [2.0, 5, 1, 0.5, 3])
    counts = rng.poisson(level * depth[:, None] / 1e4)
    filler = (depth - counts.sum(axis=1)).astype(int).clip(0)  # the totals are the depth
    matrix = sparse.csr_matrix(np.column_stack([counts, filler]).astype(np.float32))
    states = GeneStates.fit(matrix)
    total = np.asarray(matrix.sum(axis=1)).ravel()
    _low, high, part = slow_states(counts, total / 1e4)
    np.testing.assert_allclose(states.on[:5], high, rtol=0.03)
    np.testing.assert_allclose(states.share[:5], part, atol=0.02)
    np.testing.assert_allclose(states.on[:5], [40, 100, 30, 8, 60], rtol=0.25)
    np.testing.assert_allclose(states.share[:5], on.mean(axis=0), atol=0.05)
    found = states.posterior(counts.astype(float), total, np.arange(5)) > 0.5
    assert (found == on).mean() > 0.9
