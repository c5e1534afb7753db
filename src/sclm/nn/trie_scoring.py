"""Probability of every name of a trie after a prompt, each shared beginning read once; and the most probable names only.

B prompts · N nodes read together · E edges below them · V vocabulary
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from sclm.nn.next_token import rows_at_a_time

if TYPE_CHECKING:
    from sclm.nn.prefix_lm import PrefixLM
    from sclm.nn.prompt_cache import PromptCache
    from sclm.nn.trie import Trie

AMONG = ("vocabulary", "names")


@torch.no_grad()
def score_names(
    lm: PrefixLM,
    prompts: PromptCache,
    trie: Trie,
    *,
    among: str = "vocabulary",
    temperature: float = 1.0,
    max_rows: int = 4096,
) -> np.ndarray:
    r"""Log-probability of every name after every prompt, exactly.

    :math:`\log p(\mathrm{name} \mid \mathrm{prompt}) = \sum_t \log p(\mathrm{token}_t \mid \mathrm{prompt}, \mathrm{tokens}_{<t})`. Each
    node of the trie is read once a prompt: behind the prompt's cached keys and values stand the nodes of a part of the trie, each of
    which sees the prompt and its own ancestors only (tree attention). Nothing of a prompt is copied for a name.

    Parameters
    ----------
    lm
        The language model.
    prompts
        From :meth:`~sclm.nn.PrefixLM.prompt_cache`; unchanged.
    trie
        The names.
    among
        What a token's probability is shared with. ``"vocabulary"``: every token, the model's own probability of the name; names then
        sum to what the model gives to names at all. ``"names"``: the tokens that the trie allows there; all names sum to 1 (where the trie
        was built with ``eos``), as in :func:`sclm.nn.sample_names`, and the scores of other tokens are never computed.
    temperature
        Of each token's distribution.
    max_rows
        Nodes times prompts that are read at a time: bounds memory.

    Returns
    -------
    (B, n_names) float32, in the order of ``trie.name_ids``. Names of one term are put together by logsumexp.
    """
    _check(among, max_rows)
    batch = len(prompts)
    if batch == 0:
        return np.zeros((0, trie.n_names), dtype=np.float32)
    device = prompts.lengths.device
    size = min(256, max_rows, max(1, len(trie.inner)))
    together = max(1, max_rows // size)
    chunks = trie.chunks(size)
    into = torch.zeros(batch, len(trie), device=device)  # (B, n_nodes) log-probability of the step into each node
    for first in range(0, batch, together):
        rows = torch.arange(first, min(first + together, batch), device=device)
        part = prompts if together >= batch else prompts.rows(rows)
        into[rows] = _first_step(lm, part, trie, among, temperature, into[rows])
        for chunk in chunks:
            tokens = torch.as_tensor(trie.token[chunk.nodes], device=device).expand(len(rows), -1)  # (B, N)
            depth = torch.as_tensor(trie.depth[chunk.nodes] - 1, device=device)[None]
            sees = torch.as_tensor(chunk.sees, device=device)[None]
            states = lm.extend(part.share(), tokens, depth, sees)
            hidden = states[:, torch.as_tensor(chunk.new, device=states.device)]
            edges, steps = _steps(lm, hidden, trie, chunk.nodes[chunk.new], among, temperature)
            into[rows[:, None], torch.as_tensor(trie.child_node[edges], device=device)] = steps.to(device)
    total = into  # a path's probability is summed from the root downwards, depth by depth
    for level in range(2, int(trie.depth.max()) + 1):
        nodes = np.flatnonzero(trie.depth == level)
        total[:, nodes] += total[:, trie.parent[nodes]]
    return total[:, trie.name_node].cpu().numpy()


def _check(among: str, max_rows: int) -> None:
    if among not in AMONG:
        raise ValueError(f"among must be 'vocabulary' or 'names', found {among!r}.")
    if max_rows < 1:
        raise ValueError(f"max_rows must be at least 1, found {max_rows}.")


def _first_step(
    lm: PrefixLM, prompts: PromptCache, trie: Trie, among: str, temperature: float, into: torch.Tensor
) -> torch.Tensor:
    """Fill in the steps from the root, which the prompt's last state decides."""
    edges, steps = _steps(lm, prompts.hidden[:, None], trie, np.array([0]), among, temperature)
    into[:, torch.as_tensor(trie.child_node[edges], device=into.device)] = steps.to(into.device)
    return into


def _steps(
    lm: PrefixLM, hidden: torch.Tensor, trie: Trie, nodes: np.ndarray, among: str, temperature: float
) -> tuple[np.ndarray, torch.Tensor]:
    """Log-probability of each edge below some nodes.

    Parameters
    ----------
    hidden
        (B, N, D) states at the nodes.
    nodes
        (N,) int64.

    Returns
    -------
    Places of the E edges in the children's arrays, and (B, E) float32.
    """
    at, edges = trie.edges(nodes)
    device = hidden.device
    rows = torch.as_tensor(at, device=device)
    tokens = torch.as_tensor(trie.child_token[edges], device=device)
    if among == "names":
        scores = lm.lm.logits_of(hidden, rows, tokens) / temperature  # (B, E)
        index = rows.expand(len(hidden), -1)
        peak = scores.new_full(hidden.shape[:2], -torch.inf).scatter_reduce(1, index, scores, "amax")  # (B, N)
        summed = torch.zeros_like(peak).scatter_add(1, index, (scores - peak[:, rows]).exp())
        return edges, scores - (peak + summed.log())[:, rows]
    found = torch.empty(len(hidden), len(edges), device=device)
    step = max(1, rows_at_a_time(lm.vocab_size, device) // len(hidden))
    starts = np.searchsorted(at, np.arange(0, len(nodes) + step, step))  # edges are ordered by node
    for i, first in enumerate(range(0, len(nodes), step)):
        mine = slice(int(starts[i]), int(starts[i + 1]))
        spread = lm.next_log_probs(hidden[:, first : first + step], None, temperature)  # (B, n, V)
        found[:, mine] = spread[:, rows[mine] - first, tokens[mine]]
    return edges, found


class BestNames(NamedTuple):
    """The most probable names after each prompt.

    Attributes
    ----------
    names
        (B, k) int64 places of the names in the trie, most probable first; -1 where fewer were found.
    log_probs
        (B, k) float32, minus infinity there.
    exact
        (B,) bool: no other name can be more probable than the last one.
    read
        (B,) int64: nodes that were read.
    """

    names: np.ndarray
    log_probs: np.ndarray
    exact: np.ndarray
    read: np.ndarray


@torch.no_grad()
def beam_names(
    lm: PrefixLM,
    prompts: PromptCache,
    trie: Trie,
    *,
    k: int = 1,
    width: int = 8,
    among: str = "vocabulary",
    temperature: float = 1.0,
    max_nodes: int = 256,
) -> BestNames:
    """The k most probable names after each prompt, without reading most of the trie.

    A beam that never throws away: in each round the `width` most probable beginnings are continued, wherever in the trie they stand.
    A name is less probable than its beginning, so once k names are more probable than every beginning that is left, they are the
    k best of all names. Beyond `max_nodes` nodes the best names so far are returned and ``exact`` says no.

    Parameters
    ----------
    lm, prompts, trie, among, temperature
        As in :func:`score_names`.
    k
        Names wanted.
    width
        Nodes read at a time a prompt.
    max_nodes
        Most nodes read a prompt.

    Returns
    -------
    Names, their log-probabilities, and whether they are the best for sure.
    """
    _check(among, 1)
    if k < 1 or width < 1 or max_nodes < 1:
        raise ValueError(f"k, width and max_nodes must be at least 1, found {k}, {width} and {max_nodes}.")
    batch, device = len(prompts), prompts.lengths.device
    ends: dict[int, list[int]] = {}
    for name, node in enumerate(trie.name_node):
        ends.setdefault(int(node), []).append(name)
    searches = [_Search(trie, ends, k) for _ in range(batch)]
    edges, steps = _steps(lm, prompts.hidden[:, None], trie, np.array([0]), among, temperature)
    for search, values in zip(searches, steps.cpu().numpy(), strict=True):
        search.add(trie.child_node[edges], values, 0.0, -1)
    tree = prompts.share()
    sees = torch.zeros(batch, 0, 0, dtype=torch.bool, device=device)
    while True:
        chosen = [s.next(min(width, max_nodes - s.read)) for s in searches]
        n = max(map(len, chosen), default=0)
        if n == 0:
            break
        nodes = np.full((batch, n), -1, dtype=np.int64)
        above = np.full((batch, n), -1, dtype=np.int64)  # place of the parent among the added positions
        for b, of in enumerate(chosen):
            for j, (node, _, place) in enumerate(of):
                nodes[b, j], above[b, j] = node, place
        there = np.maximum(nodes, 0)
        added = sees.shape[2]
        parents = torch.as_tensor(above, device=device)
        # (B, N, E): what the parent sees, and the parent, which sees itself
        inherited = sees.new_zeros(batch, n, added)
        if added:
            inherited = sees.gather(1, parents.clamp(min=0)[..., None].expand(-1, -1, added))
            inherited = inherited & (parents >= 0)[..., None]
        own = torch.eye(n, dtype=torch.bool, device=device).expand(batch, n, n)
        new = torch.cat([inherited, own], dim=2)  # (B, N, E + N)
        sees = torch.cat([torch.cat([sees, sees.new_zeros(batch, added, n)], dim=2), new], dim=1)
        tokens = torch.as_tensor(np.maximum(trie.token[there], 0), device=device)
        depth = torch.as_tensor(np.maximum(trie.depth[there] - 1, 0), device=device)
        hidden = lm.extend(tree, tokens, depth, new)
        who, where = np.nonzero(nodes >= 0)  # (M,) each
        edges, steps = _steps(lm, hidden[who, where][None], trie, nodes[who, where], among, temperature)  # (1, M, D)
        values = steps[0].cpu().numpy()
        stop = 0
        for b, j in zip(who.tolist(), where.tolist(), strict=True):
            node, log_prob, _ = chosen[b][j]
            below = slice(stop, stop + len(trie.allowed(node)))
            stop = below.stop
            searches[b].add(trie.child_node[edges[below]], values[below], log_prob, added + j)
    names = np.full((batch, k), -1, dtype=np.int64)
    log_probs = np.full((batch, k), -np.inf, dtype=np.float32)
    for b, search in enumerate(searches):
        for j, (log_prob, name) in enumerate(search.found):
            names[b, j], log_probs[b, j] = name, log_prob
    return BestNames(
        names, log_probs, np.array([s.exact for s in searches], dtype=bool), np.array([s.read for s in searches])
    )


class _Search:
    """Beginnings that are left and names that were found, of one prompt."""

    def __init__(self, trie: Trie, ends: dict[int, list[int]], k: int) -> None:
        self._ends, self._k = ends, k
        self._goes_on = np.diff(trie.child_ptr) > 0
        self._left: list[tuple[float, int, int]] = []  # (-log-probability, node, place of its parent): a heap
        self.found: list[tuple[float, int]] = []  # (log-probability, name), best first
        self.read = 0

    @property
    def _bound(self) -> float:
        """What a beginning must exceed to matter."""
        return self.found[-1][0] if len(self.found) == self._k else -np.inf

    @property
    def exact(self) -> bool:
        """Whether nothing that is left could change the answer."""
        return not self._left or -self._left[0][0] <= self._bound

    def add(self, nodes: np.ndarray, steps: np.ndarray, before: float, place: int) -> None:
        """Nodes that were reached, with the log-probability of the step to each from a node at `place`."""
        for node, log_prob in zip(nodes.tolist(), (before + steps).tolist(), strict=True):
            for name in self._ends.get(node, ()):
                self.found.append((log_prob, name))
            if self._goes_on[node]:
                heapq.heappush(self._left, (-log_prob, node, place))
        self.found = sorted(self.found, key=lambda of: (-of[0], of[1]))[: self._k]

    def next(self, n: int) -> list[tuple[int, float, int]]:
        """The most probable beginnings that still matter, at most `n`: node, log-probability, place of the parent."""
        taken: list[tuple[int, float, int]] = []
        while len(taken) < n and not self.exact:
            negative, node, place = heapq.heappop(self._left)
            taken.append((node, -negative, place))
        self.read += len(taken)
        return taken
