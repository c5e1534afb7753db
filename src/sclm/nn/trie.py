"""A tree of token sequences: names that share a beginning share its nodes."""

from __future__ import annotations

from functools import cached_property, partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


class Chunk(NamedTuple):
    """Nodes of a trie that are read together, parents before children.

    Attributes
    ----------
    nodes
        (m,) int64: the ancestors of the first new node, then the new nodes.
    new
        (m,) bool: False for ancestors that an earlier chunk has read as well.
    sees
        (m, m) bool: row i sees column j where node j is node i or one of its ancestors.
    """

    nodes: np.ndarray
    new: np.ndarray
    sees: np.ndarray


class Trie:
    """Token sequences as a tree in flat arrays; node 0 is the root, before the first token.

    Nodes are numbered in preorder with children by increasing token: a node comes before everything below it. Made by
    :meth:`build`.

    Attributes
    ----------
    token, parent, depth
        (n_nodes,) int64: the token that leads to a node (-1 at the root), its parent (-1), and how many tokens lead to it.
    child_ptr, child_token, child_node
        Children in CSR form: those of node i are ``child_node[child_ptr[i]:child_ptr[i + 1]]``, by increasing token.
    name_node
        (n_names,) int64: node at which each name ends. Names of the same tokens end at the same node.
    name_ids
        (n_names,) of what was passed, for example the row of an ontology term.
    """

    def __init__(
        self, token: np.ndarray, parent: np.ndarray, depth: np.ndarray, name_node: np.ndarray, name_ids: np.ndarray
    ) -> None:
        self.token, self.parent, self.depth = token, parent, depth
        self.name_node, self.name_ids = name_node, name_ids
        n = len(token)
        order = np.argsort(parent[1:], kind="stable") + 1  # preorder within a parent is the order of the tokens
        self.child_node = order
        self.child_token = token[order]
        self.child_ptr = np.concatenate([[0], np.cumsum(np.bincount(parent[1:], minlength=n))]).astype(np.int64)

    @classmethod
    def build(
        cls, sequences: Sequence[Sequence[int]], name_ids: Sequence[int] | None = None, *, eos: int | None = None
    ) -> Trie:
        """Make the tree.

        Parameters
        ----------
        sequences
            Tokens of each name, as they are written after the prompt.
        name_ids
            A number of each name, by default its place. Several names may have one number.
        eos
            Appended to each name, so that a name that begins another one ends somewhere else. None: names end with their last
            token, which is right where all end with a mark that stands nowhere else, such as a full stop.

        Returns
        -------
        The trie.

        Raises
        ------
        ValueError
            If there is no name, a name is empty, or a name holds the token of the end.

        Examples
        --------
        >>> trie = Trie.build([[5, 6], [5, 7]], eos=1)
        >>> trie.allowed(0), trie.allowed(1)
        (array([5]), array([6, 7]))
        """
        ids = np.arange(len(sequences)) if name_ids is None else np.asarray(name_ids, dtype=np.int64)
        if len(ids) != len(sequences):
            raise ValueError(f"expected a number for each of {len(sequences)} names, found {len(ids)}.")
        if not len(sequences):
            raise ValueError("expected at least one name, found none.")
        names = [tuple(map(int, s)) for s in sequences]
        if empty := [i for i, name in enumerate(names) if not name]:
            raise ValueError(f"names must have at least one token, found none in name {empty[0]}.")
        if eos is not None:
            if holds := [i for i, name in enumerate(names) if eos in name]:
                raise ValueError(f"names must not hold the token of the end ({eos}), found it in name {holds[0]}.")
            names = [(*name, eos) for name in names]
        token, parent, depth = [-1], [-1], [0]
        name_node = np.zeros(len(names), dtype=np.int64)
        path: list[int] = [0]  # nodes from the root to the current one
        before: tuple[int, ...] = ()
        for i in sorted(range(len(names)), key=names.__getitem__):
            name = names[i]
            shared = 0
            while shared < min(len(name), len(before)) and name[shared] == before[shared]:
                shared += 1
            del path[shared + 1 :]
            for step in range(shared, len(name)):
                token.append(name[step])
                parent.append(path[-1])
                depth.append(step + 1)
                path.append(len(token) - 1)
            name_node[i] = path[-1]
            before = name
        as_array = partial(np.array, dtype=np.int64)
        return cls(as_array(token), as_array(parent), as_array(depth), name_node, ids)

    def __len__(self) -> int:
        """Number of nodes, the root included."""
        return len(self.token)

    @property
    def n_names(self) -> int:
        """Number of names."""
        return len(self.name_node)

    def allowed(self, node: int) -> np.ndarray:
        """Tokens that may follow a node, increasing; none at the end of a name."""
        return self.child_token[self.child_ptr[node] : self.child_ptr[node + 1]]

    def masks(self, nodes: np.ndarray, vocab_size: int) -> np.ndarray:
        """Which tokens may follow each node.

        Parameters
        ----------
        nodes
            Any shape; -1 where there is no node.
        vocab_size
            V.

        Returns
        -------
        Shape of `nodes` and (V,), bool; all False without a node and at the end of a name.
        """
        flat = np.asarray(nodes, dtype=np.int64).reshape(-1)
        found = np.zeros((len(flat), vocab_size), dtype=bool)
        rows, edges = self.edges(flat)
        found[rows, self.child_token[edges]] = True
        return found.reshape(*np.shape(nodes), vocab_size)  # (n, V) → (…, V)

    def step(self, nodes: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Node that a token leads to from each node (n,), -1 where it leads nowhere."""
        found = np.full(len(nodes), -1, dtype=np.int64)
        rows, edges = self.edges(np.asarray(nodes, dtype=np.int64))
        right = self.child_token[edges] == np.asarray(tokens)[rows]
        found[rows[right]] = self.child_node[edges[right]]
        return found

    def paths(self, sequences: Sequence[Sequence[int]]) -> list[list[int]]:
        """Nodes from which each token of each sequence is drawn: the root first; -1 once it has left the trie."""
        found = []
        for sequence in sequences:
            nodes, node = [], 0
            for token in sequence:
                nodes.append(node)
                node = int(self.step(np.array([node]), np.array([token]))[0]) if node >= 0 else -1
            found.append(nodes)
        return found

    def edges(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row in `nodes` and place in the children's arrays of every edge below these nodes (n,), in this order."""
        there = np.maximum(nodes, 0)
        counts = np.where(nodes >= 0, self.child_ptr[there + 1] - self.child_ptr[there], 0)
        rows = np.repeat(np.arange(len(nodes)), counts)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return rows, self.child_ptr[there][rows] + within

    @cached_property
    def inner(self) -> np.ndarray:
        """(n_inner,) int64: nodes below the root that something follows, in preorder. Only these have to be read."""
        has = np.diff(self.child_ptr) > 0
        has[0] = False
        return np.flatnonzero(has)

    def chunks(self, size: int) -> list[Chunk]:
        """The inner nodes in parts of at most `size` new ones, each with the ancestors that it needs."""
        if size < 1:
            raise ValueError(f"size must be at least 1, found {size}.")
        parts = []
        for start in range(0, len(self.inner), size):
            new = self.inner[start : start + size]
            above = []
            node = int(self.parent[new[0]])
            while node > 0:  # the root is the prompt
                above.append(node)
                node = int(self.parent[node])
            nodes = np.concatenate([np.array(above[::-1], dtype=np.int64), new])
            # Ancestors of later nodes that lie outside of [first, last] are ancestors of the first node too: preorder.
            place = {int(n): i for i, n in enumerate(nodes)}
            sees = np.eye(len(nodes), dtype=bool)
            for i, n in enumerate(nodes):
                if (p := int(self.parent[n])) > 0:
                    sees[i] |= sees[place[p]]
            parts.append(Chunk(nodes, np.arange(len(nodes)) >= len(above), sees))
        return parts
