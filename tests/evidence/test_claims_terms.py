"""What stands after checking, by cell: a table written by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sclm.evidence import claim_table
from sclm.evidence.claims_terms import TERM_COLUMNS, standing_terms, verdict_column
from sclm.knowledge import Ontology


@pytest.fixture(scope="module")
def cl() -> Ontology:
    return Ontology.load("cl")


def claims(*rows: tuple[int, str, str, str, str]):
    return claim_table(
        [(row, kind, claim, term, verdict, 0.5, "", 0.0, np.nan, "") for row, kind, claim, term, verdict in rows]
    )


def test_terms_stand_where_they_were_kept_or_softened(cl: Ontology) -> None:
    found = standing_terms(
        claims(
            (0, "identity", "B lymphocyte", "CL:0000236", "kept"),
            (0, "tissue", "blood", "", "softened"),
            (0, "disease", "lupus", "", "not verifiable"),
            (0, "gene", "CD79A", "CD79A", "kept"),
            (0, "pathway", "a pathway", "P1", "softened"),
            (0, "pathway", "another", "P2", "kept"),
            (0, "pathway", "a third", "P3", "removed"),
            (1, "identity", "T cell", "CL:0000084", "removed"),
            (2, "identity", "my cluster", "unknown", "softened"),
            (2, "tissue", "lung", "", "kept"),
            (2, "tissue", "blood", "", "softened"),
            (2, "disease", "normal", "", "removed"),
            (2, "disease", "lupus", "", "not verifiable"),
        ),
        4,
        cl,
    )
    assert tuple(found.columns) == TERM_COLUMNS
    assert found["cell_type"].tolist() == ["B cell", "unknown", "my cluster", "unknown"]
    assert found["cell_type_ontology_term_id"].tolist() == ["CL:0000236", "unknown", "unknown", "unknown"]
    assert found["cell_type_verdict"].tolist() == ["kept", "removed", "softened", "not stated"]
    assert found["tissue"].tolist() == ["blood", "unknown", "lung; blood", "unknown"]
    assert found["tissue_verdict"].tolist() == ["softened", "not stated", "softened", "not stated"]
    assert found["disease"].tolist() == ["unknown"] * 4
    assert found["disease_verdict"].tolist() == ["not verifiable", "not stated", "not verifiable", "not stated"]
    assert found["pathways"].tolist() == ["another; a pathway (softened)", "", "", ""]


def test_verdicts_keep_their_order_and_only_those_that_occur() -> None:
    column = verdict_column(["removed", "kept", "not stated", "kept"])
    assert list(column.categories) == ["kept", "removed", "not stated"]
    assert list(column) == ["removed", "kept", "not stated", "kept"]


def test_no_statements_leave_nothing(cl: Ontology) -> None:
    found = standing_terms(claim_table(), 2, cl)
    assert found["cell_type"].tolist() == ["unknown", "unknown"]
    assert found["pathways"].tolist() == ["", ""]
