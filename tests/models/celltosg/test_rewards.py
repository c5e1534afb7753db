"""The ontology-hierarchy reward on a toy tree exactly, and on the Cell Ontology as shares."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from sclm.knowledge import Ontology
from sclm.models.celltosg.rewards import HierarchyReward, resolve_answer

if TYPE_CHECKING:
    from pathlib import Path

SIMILARITIES = ("pagerank", "lin", "wu-palmer")
T_CELL, CD4, CD8, B_CELL = "CL:0000084", "CL:0000624", "CL:0000625", "CL:0000236"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Ontology:
    """A tree of depth 6 in which every inner term has two children: root 1, then "1" and "2" appended at each step."""
    names, lines = ["1"], ["format-version: 1.2", "ontology: cl", ""]
    for _ in range(5):
        names += [name + end for name in names if len(name) == len(names[-1]) for end in "12"]
    for name in names:
        lines += ["[Term]", f"id: CL:{int(name):07d}", f"name: type {name}"]
        lines += [] if name == "1" else [f"is_a: CL:{int(name[:-1]):07d}"]
        lines += [""]
    path: Path = tmp_path_factory.mktemp("toy") / "toy.obo"
    path.write_text("\n".join(lines))
    return Ontology.load(path)


def term(name: str) -> str:
    return f"CL:{int(name):07d}"


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_order_on_a_tree(toy: Ontology, similarity: str) -> None:
    reward = HierarchyReward(toy, similarity=similarity)
    truth = term("111111")
    exact, parent, grandparent, sibling, cousin, far, root = (
        reward([term(a)], [truth])[0] for a in ("111111", "11111", "1111", "111112", "111121", "122222", "1")
    )
    garbage = reward([None], [truth])[0]
    assert exact == 1.5
    assert exact > parent > grandparent > garbage
    assert parent > sibling > cousin > far > garbage
    assert garbage == -1
    assert root == 0
    assert reward([term("11")], [truth])[0] == 0  # directly below the root
    assert reward([term("11")], [term("11")])[0] == 1.5  # unless it is the truth


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_order_on_the_cell_ontology_as_a_share(ontology: Ontology, similarity: str) -> None:
    rng = np.random.default_rng(0)
    leaves = [t for t in ontology.leaves if ontology.depth(t) >= 5]
    truths, answers = [], []
    for leaf in rng.permutation(leaves)[:300]:
        parent = rng.choice(ontology.parents(leaf))
        grandparent = rng.choice(ontology.parents(parent))
        near = set(ontology.children(parent)) - {leaf}
        far = [t for t in rng.choice(leaves, 40) if len(ontology.ancestors(t) & ontology.ancestors(leaf)) <= 4]
        if not near or not far or ontology.depth(grandparent) < 3:
            continue
        truths.append(leaf)
        answers.append([leaf, parent, grandparent, rng.choice(sorted(near)), far[0]])
    reward = HierarchyReward(ontology, similarity=similarity)
    table = np.array([reward(list(column), truths) for column in zip(*answers, strict=True)])
    assert len(truths) > 150
    exact, parent, grandparent, sibling, far = table
    assert (exact > parent).all()
    assert (parent > grandparent).mean() >= 0.95
    assert (parent > sibling).mean() >= 0.95
    assert (sibling > far).mean() >= 0.95
    assert (far > -1).all()


def test_the_walk_starts_at_the_truth(ontology: Ontology) -> None:
    reward = HierarchyReward(ontology)
    expected = ontology.similarity(CD4, T_CELL, "pagerank", direction="row")
    assert reward([T_CELL], [CD4])[0] == pytest.approx(expected)
    assert reward([CD4], [T_CELL])[0] == pytest.approx(ontology.similarity(T_CELL, CD4, "pagerank", direction="row"))
    matrix = reward.matrix([CD4, B_CELL], [CD4, CD8, T_CELL])
    assert matrix.shape == (2, 3)
    assert matrix[0, 0] == 1.5
    np.testing.assert_allclose(reward([CD8, T_CELL], [B_CELL, CD4]), [matrix[1, 1], matrix[0, 2]])


def test_coarse_labels_and_vague_answers(ontology: Ontology) -> None:
    assert HierarchyReward(ontology, coarse=[T_CELL])([CD4], [T_CELL])[0] == 1
    assert HierarchyReward(ontology, coarse=[CD4])([T_CELL], [CD4])[0] < 1  # a vague answer is no finer one
    assert HierarchyReward(ontology)([CD4], [T_CELL])[0] < 1
    leukocyte = ontology.resolve("leukocyte").term_id
    plain, strict = (HierarchyReward(ontology, vague_penalty=p)([leukocyte], [CD4])[0] for p in (0.0, 0.1))
    assert plain - strict == pytest.approx(0.1)
    near = ontology.parents(CD4)[0]
    assert HierarchyReward(ontology, vague_penalty=0.1)([near], [CD4])[0] == HierarchyReward(ontology)([near], [CD4])[0]


def test_free_text(ontology: Ontology) -> None:
    reward = HierarchyReward(ontology)
    texts = ["T cell", "t cells.", " CD4-positive,  alpha-beta T cells", "a cell of some kind", "", "T cel"]
    values, terms = reward.of_texts(texts, [T_CELL] * 6)
    assert terms == [T_CELL, T_CELL, CD4, None, None, None]
    assert values[:2].tolist() == [1.5, 1.5]
    assert 0 < values[2] < 1
    assert values[3:].tolist() == [-1, -1, -1]
    assert resolve_answer(ontology, "B lymphocyte") == B_CELL


def test_refusals(ontology: Ontology) -> None:
    with pytest.raises(ValueError, match="'resnik'"):
        HierarchyReward(ontology, similarity="resnik")
    with pytest.raises(ValueError, match="0 or more"):
        HierarchyReward(ontology, vague_penalty=-1)
    with pytest.raises(ValueError, match="1 and 2"):
        HierarchyReward(ontology)([CD4], [CD4, CD8])
