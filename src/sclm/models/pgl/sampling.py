"""Write cells: fields left open, then depth, then programmes one after the other, then the counts of all genes at once.

Everything random is a function of the seed and the number of the cell in the request. The network runs on tiles of a fixed
number of cells, cut by these numbers, so that not even rounding depends on the batch size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sclm.models.pgl.combinations import distinct_rows
from sclm.models.pgl.network import Memberships

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sclm.models.pgl.conditions import Conditions
    from sclm.models.pgl.network import PGLNetwork

TILE = 256  # cells that the network writes at a time
_LEVEL_STREAM, _FIELD_STREAM = 1 << 40, 1 << 41  # apart from the genes' random numbers


def uniforms(seed: int, cells: np.ndarray, first: int, n: int) -> np.ndarray:
    """Random numbers in [0, 1) of cells: float64 (n_cells, n), the ones numbered ``first`` … of each cell's stream."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        start = _mix(_mix(np.uint64(seed) + golden) ^ (cells.astype(np.uint64) + golden))
        steps = np.arange(first + 1, first + n + 1, dtype=np.uint64)
        words = _mix(start[:, None] + golden * steps[None, :])
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(x: Any) -> Any:
    """The finaliser of SplitMix64, as in the kernel that draws counts."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def training_memberships(conditions: Conditions, device: torch.device | str = "cpu") -> list[Memberships]:
    """Nodes of every training value of each field."""
    tables = [field.membership for field in conditions.fields]
    return [
        Memberships(
            torch.from_numpy(t.indices.astype(np.int64)).to(device),
            torch.from_numpy(t.indptr[:-1].astype(np.int64)).to(device),
        )
        for t in tables
    ]


@torch.inference_mode()
def fill_fields(
    network: PGLNetwork,
    conditions: Conditions,
    codes: np.ndarray,
    allowed: Sequence[np.ndarray | None],
    *,
    seed: int,
    cells: np.ndarray,
) -> np.ndarray:
    """Choose values for fields that a request leaves open.

    Parameters
    ----------
    network, conditions
        Of the model.
    codes
        (n, F) training values, -1 where open.
    allowed
        For each field None (keep it open) or a boolean array (n, n_values): values that may be chosen. Given fields are
        not touched.
    seed, cells
        As in the counts.

    Returns
    -------
    Codes (n, F): drawn with the frequencies of the training cells that agree with the fields before, or, where no training
    cell does, from the network's distribution given them.
    """
    codes = codes.copy()
    device = network.start.device
    nodes = training_memberships(conditions, device)
    numbers = uniforms(seed, cells, _FIELD_STREAM, codes.shape[1])
    for f, may in enumerate(allowed):
        if may is None or not (codes[:, f] < 0).any():
            continue
        distinct, which, _ = distinct_rows(codes)
        share = _agreeing(conditions, distinct, f)[which] * may  # (n, n_values)
        strange = (codes[:, f] < 0) & (share.sum(axis=1) == 0)  # no training cell says what is usual
        if strange.any():
            log_p = []
            for start in range(0, len(distinct), TILE):
                rows = torch.from_numpy(distinct[start : start + TILE].astype(np.int64)).to(device)
                prefix, _, _ = network.condition(rows, nodes)
                log_p.append(network.field_predictions(network.body(prefix)[:, -1].float())[f].cpu().numpy())
            predicted = np.exp(np.concatenate(log_p).astype(np.float64))[which] * may
            share[strange] = predicted[strange]
        reached = np.cumsum(share, axis=1)
        chosen = (numbers[:, f, None] * reached[:, -1:] >= reached).sum(axis=1)
        open_ = (codes[:, f] < 0) & (reached[:, -1] > 0)
        codes[open_, f] = np.minimum(chosen[open_], share.shape[1] - 1)
    return codes


def _agreeing(conditions: Conditions, codes: np.ndarray, f: int) -> np.ndarray:
    """Training cells by value of a field, of those that have all given values of each row of codes: (m, n_values)."""
    seen, n_cells = conditions.combinations, conditions.n_cells
    counted = np.zeros((len(codes), conditions.fields[f].n_values))
    known = seen[:, f] >= 0
    for i, row in enumerate(codes):
        given = row >= 0
        agree = known & (seen[:, given] == row[given]).all(axis=1)
        np.add.at(counted[i], seen[agree, f], n_cells[agree])
    return counted


@torch.inference_mode()
def write_levels(
    network: PGLNetwork,
    conditions: Conditions,
    codes: np.ndarray,
    first: np.ndarray,
    *,
    seed: int,
    cells: np.ndarray,
    guidance: float = 0.0,
) -> np.ndarray:
    """Draw depth and programmes of cells, tile by tile.

    One pass over the distinct metadata fills a static cache, which is copied to the cells; then one position a slot.

    Parameters
    ----------
    network, conditions
        Of the model.
    codes
        (n, F) training values, -1 open.
    first
        (n,) value of the depth slot, NaN where it is to be drawn.
    seed, cells
        As in the counts.
    guidance
        w in ``(1 + w) log p(level | metadata) - w log p(level)`` of the programmes; 0 for none. Depth follows no guidance.

    Returns
    -------
    Slot values (n, S) float32.
    """
    nodes = training_memberships(conditions, network.start.device)
    tiles = [slice(s, s + TILE) for s in range(0, cells.size, TILE)]
    return np.concatenate([
        _write_tile(network, nodes, codes[tile], first[tile], seed, cells[tile], guidance) for tile in tiles
    ])  # fmt: skip


def _write_tile(
    network: PGLNetwork,
    nodes: list[Memberships],
    codes: np.ndarray,
    first: np.ndarray,
    seed: int,
    cells: np.ndarray,
    guidance: float,
) -> np.ndarray:
    """The same of up to ``TILE`` cells."""
    device = network.start.device
    order, states = _start(network, nodes, codes, device)
    if guidance:
        states.append(_start(network, nodes, np.full_like(codes[order], -1), device)[1][0])
    n, n_slots = len(codes), network.n_slots
    numbers = uniforms(seed, cells[order], _LEVEL_STREAM, 2 * n_slots)
    # inside a level the value is even; float32 holds these numbers exactly enough, and runs on every device
    u = torch.from_numpy(numbers.astype(np.float32)).to(device)
    given = torch.from_numpy(first[order].astype(np.float32)).to(device)
    values = torch.zeros(n, n_slots, device=device)
    for slot in range(n_slots):
        log_p = [state.predict(network, values, slot) for state in states]
        logits = log_p[0] if not guidance or slot == 0 else (1.0 + guidance) * log_p[0] - guidance * log_p[1]
        reached = torch.softmax(logits, dim=-1).cumsum(-1)
        level = (u[:, 2 * slot, None] * reached[:, -1:] >= reached).sum(-1).clamp_max(network.n_levels - 1)
        # Inside a level values follow the finer quantiles of the training cells.
        fine, n_fine = network.fine[slot], (network.fine.shape[1] - 1) // network.n_levels
        place = (level + u[:, 2 * slot + 1]) * n_fine
        low = place.floor().long().clamp_max(len(fine) - 2)
        value = fine[low] + (fine[low + 1] - fine[low]) * (place - low)
        if slot == 0:
            value = torch.where(torch.isnan(given), value, given)
        values[:, slot] = value
        for state in states:
            state.extend(network, value, slot)
    back = np.empty(n, np.int64)
    back[order] = np.arange(n)
    return values.cpu().numpy()[back]


class _State:
    """Hidden state of a tile of cells while it is written."""

    def __init__(self, hidden: torch.Tensor, cache: object, mean: torch.Tensor, spread: torch.Tensor) -> None:
        self.hidden, self.cache, self.mean, self.spread = hidden, cache, mean, spread

    def predict(self, network: PGLNetwork, values: torch.Tensor, slot: int) -> torch.Tensor:
        """Log probabilities (n, Q) of the slot's levels."""
        return network.predict(self.mean, self.spread, values, self.hidden[:, None], slice(slot, slot + 1))[:, 0]

    def extend(self, network: PGLNetwork, value: torch.Tensor, slot: int) -> None:
        """Read the value just written; that of the last slot is not needed."""
        if slot + 1 == network.n_slots:
            return
        step = network.embed_levels(value[:, None], slice(slot, slot + 1))  # (n, 1, D)
        hidden, _ = network.body(step, past_key_values=self.cache, use_cache=True)
        self.hidden = hidden[:, 0].float()


def _start(
    network: PGLNetwork, nodes: list[Memberships], codes: np.ndarray, device: torch.device
) -> tuple[np.ndarray, list[_State]]:
    """Cells in the order of their metadata, and the state after the prefix."""
    distinct, which, counts = distinct_rows(codes)
    order = np.argsort(which, kind="stable")
    repeats = torch.from_numpy(counts.astype(np.int64)).to(device)
    prefix, mean, spread = network.condition(torch.from_numpy(distinct.astype(np.int64)).to(device), nodes)
    dtype = next(network.body.parameters()).dtype
    small = network.body.static_cache(len(distinct), prefix.shape[1], device, dtype)
    hidden, _ = network.body(prefix, past_key_values=small, use_cache=True)
    cache = network.body.expand_cache(small, repeats, max_length=prefix.shape[1] + network.n_slots)
    take = [t.repeat_interleave(repeats, dim=0) for t in (hidden[:, -1].float(), mean, spread)]
    return order, [_State(take[0], cache, take[1], take[2])]
