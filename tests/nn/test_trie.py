"""The tree of names against a dictionary of prefixes."""

from __future__ import annotations

import numpy as np
import pytest

from sclm.nn import Trie


def random_names(n: int, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(2, 6, size=rng.integers(1, 6)).tolist() for _ in range(n)]


@pytest.mark.parametrize("eos", [None, 1])
def test_children_are_the_continuations_of_prefixes(eos: int | None) -> None:
    names = random_names(200)
    trie = Trie.build(names, eos=eos)
    written = [tuple(name) + (() if eos is None else (eos,)) for name in names]
    after: dict[tuple[int, ...], set[int]] = {}
    for name in written:
        for i in range(len(name)):
            after.setdefault(name[:i], set()).add(name[i])
    paths = {0: ()}
    for node in range(1, len(trie)):
        assert trie.parent[node] < node  # preorder
        paths[node] = (*paths[int(trie.parent[node])], int(trie.token[node]))
        assert trie.depth[node] == len(paths[node])
    assert len(set(paths.values())) == len(trie)
    for node, path in paths.items():
        assert trie.allowed(node).tolist() == sorted(after.get(path, ()))
    for name, node in zip(written, trie.name_node, strict=True):
        assert paths[int(node)] == name


def test_masks_steps_and_paths() -> None:
    names = random_names(60, seed=1)
    trie = Trie.build(names, eos=1)
    nodes = np.array([[0, 3], [-1, int(trie.name_node[0])]])
    masks = trie.masks(nodes, 8)
    assert masks.shape == (2, 2, 8)
    assert np.flatnonzero(masks[0, 0]).tolist() == trie.allowed(0).tolist()
    assert np.flatnonzero(masks[0, 1]).tolist() == trie.allowed(3).tolist()
    assert not masks[1].any()  # no node, and the end of a name
    for name, end in zip(names, trie.name_node, strict=True):
        (path,) = trie.paths([[*name, 1]])
        assert path[0] == 0
        assert all(trie.masks(np.array(path), 8)[i, t] for i, t in enumerate([*name, 1]))
        assert trie.step(np.array(path[-1:]), np.array([1]))[0] == end
    assert trie.paths([[7, 2, 2]]) == [[0, -1, -1]]


@pytest.mark.parametrize("size", [1, 3, 16, 1000])
def test_chunks_hold_every_inner_node_once_with_its_ancestors(size: int) -> None:
    trie = Trie.build(random_names(100, seed=2), eos=1)
    seen = []
    for chunk in trie.chunks(size):
        new = chunk.nodes[chunk.new]
        assert len(new) <= size
        seen += new.tolist()
        for i, node in enumerate(chunk.nodes):
            above = {int(node)}
            while (node := trie.parent[node]) > 0:
                above.add(int(node))
            assert set(chunk.nodes[chunk.sees[i]].tolist()) == above
            assert chunk.sees[i].sum() == trie.depth[chunk.nodes[i]]
    inner = [i for i in range(1, len(trie)) if len(trie.allowed(i))]
    assert seen == inner


def test_names_may_share_a_node_and_a_number() -> None:
    trie = Trie.build([[5, 6], [5, 6], [5]], [10, 11, 10], eos=1)
    assert trie.name_node[0] == trie.name_node[1] != trie.name_node[2]
    assert trie.name_ids.tolist() == [10, 11, 10]
    assert trie.n_names == 3


@pytest.mark.parametrize(
    ("names", "message"),
    [([], "at least one name"), ([[2], []], "none in name 1"), ([[2], [3, 1]], "end \\(1\\), found it in name 1")],
)
def test_what_is_no_name_is_refused(names: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trie.build(names, eos=1)
    with pytest.raises(ValueError, match="a number for each of 2 names, found 1"):
        Trie.build([[2], [3]], [0])
