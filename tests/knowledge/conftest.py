from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from sclm.knowledge import Ontology
from sclm.knowledge.sources import Source
from sclm.knowledge.terms import TermTable

TOY = """format-version: 1.2
data-version: releases/2020-01-02
ontology: toy

[Term]
id: TOY:0000001
name: cell

[Term]
id: TOY:0000002
name: leukocyte ! a comment
def: "A \\"white\\" cell, or WBC." [ref:1]
synonym: "white blood cell" EXACT []
synonym: "WBC-like" RELATED []
is_a: TOY:0000001 ! cell

[Term]
id: TOY:0000003
name: T cell
synonym: "T-lymphocyte" EXACT [ref:2, ref:3]
is_a: TOY:0000002 {is_inferred="true"} ! leukocyte
alt_id: TOY:0000033

[Term]
id: TOY:0000004
name: B cell
is_a: TOY:0000002
relationship: part_of TOY:0000006

[Term]
id: TOY:0000005
name: odd cell
is_a: TOY:0000003
is_a: TOY:0000004

[Term]
id: TOY:0000006
name: neuron
is_a: TOY:0000001

[Term]
id: TOY:0000007
name: old T cell
is_obsolete: true
replaced_by: TOY:0000003

[Term]
id: TOY:0000008
name: gone
is_obsolete: true

[Typedef]
id: part_of
name: part of
"""


@pytest.fixture(scope="session")
def ontology_of():
    """Makes an ontology of terms X:00000, X:00001, … with these parents."""

    def make(parents: list[list[int]]) -> Ontology:
        table = TermTable()
        for term, above in enumerate(parents):
            table.add(f"X:{term:05d}", f"term {term}", "", (), [f"X:{p:05d}" for p in above])
        return Ontology(Source(table, "x", "test", ""))

    return make


@pytest.fixture(scope="session")
def tangled(ontology_of) -> Ontology:
    """120 terms, each under one to three earlier ones, and a second root with one child."""
    rng = np.random.default_rng(0)
    parents = [[], *(sorted({int(rng.integers(0, t)) for _ in range(rng.integers(1, 4))}) for t in range(1, 120))]
    return ontology_of([*parents, [], [120], []])


@pytest.fixture
def toy_text() -> str:
    return TOY


@pytest.fixture
def toy(tmp_path) -> Ontology:
    path = tmp_path / "toy.obo"
    path.write_text(TOY)
    return Ontology.load(path)


@pytest.fixture(scope="session")
def cl() -> Ontology:
    return Ontology.load("cl")


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = Path(os.environ.get("SCLM_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real data at hand")
    return folder
