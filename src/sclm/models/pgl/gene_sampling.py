"""Write the genes of cells one token after the other: the reference that the set decoder is compared with.

A step reads one token of every cell against a static cache, and draws the next one from the corrected base. Cells are sorted
by their expected length; those that have ended leave the batch, and the cache grows, every few steps only, so that inside
these steps the host waits for nothing. Random numbers are functions of the seed, the cell's number and the step.

Legend of shapes: ``n`` cells · ``G`` genes · ``Q`` count levels · ``V`` tokens · ``D`` width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sclm.cells import Ragged
from sclm.models.pgl.combinations import distinct_rows
from sclm.models.pgl.gene_base import level_hazards, log_hazard, next_markers, wide_dtype
from sclm.models.pgl.gene_tokens import TokenBatch, forward, gene_nats
from sclm.models.pgl.sampling import TILE, training_memberships, uniforms

if TYPE_CHECKING:
    import scipy.sparse as sp

    from sclm.models.pgl.conditions import Conditions
    from sclm.models.pgl.gene_tokens import GeneDecoder
    from sclm.models.pgl.network import PGLNetwork

DECODERS = ("set", "tokens")
_TOKEN_STREAM = 1 << 43  # random numbers of the steps, apart from all others
_STEPS = 16  # between two looks at which cells have ended
_ROOM = 256  # positions by which a cache grows
_POSITIONS = {"cpu": 1 << 17}  # cells times expected tokens written together; the cache is as large
_POSITIONS_GPU = 1 << 20


def require_decoder(network: PGLNetwork, decoder: str) -> None:
    """Raise ValueError if there is no such decoder, or the model has not got it."""
    if decoder not in DECODERS:
        raise ValueError(f"decoder must be one of {', '.join(map(repr, DECODERS))}, found {decoder!r}.")
    if decoder == "tokens" and network.genes is None:
        raise ValueError(
            "decoder='tokens' needs a model with a token decoder, found one without. "
            "Train it with gene_tokens=True, or write with decoder='set'."
        )


def write_token_counts(
    network: PGLNetwork,
    conditions: Conditions,
    codes: np.ndarray,
    values: np.ndarray,
    means: np.ndarray,
    dispersion: np.ndarray,
    *,
    seed: int,
    cells: np.ndarray,
) -> sp.csr_matrix:
    """Counts of cells written one token at a time, in tiles of a fixed number of cells.

    Parameters
    ----------
    network, conditions
        Of the model.
    codes
        (n, F) training values, -1 open.
    values
        (n, S) slot values, as the network wrote them.
    means
        (n, G) mean counts of the set decoder, from which the base is made.
    dispersion
        (G,).
    seed, cells
        As in :func:`~sclm.models.pgl.counts.write_counts`.

    Returns
    -------
    CSR (n, G) float32 of whole numbers.
    """
    import scipy.sparse as sp

    parts = []
    for s in range(0, cells.size, TILE):
        tile = slice(s, s + TILE)
        written = write_tokens(
            network, conditions, codes[tile], values[tile], means[tile], dispersion, seed=seed, cells=cells[tile]
        )
        parts.append(network.genes.vocabulary.decode(written, seed=seed, cells=cells[tile]))
    return sp.vstack(parts, format="csr")


@torch.inference_mode()
def write_tokens(
    network: PGLNetwork,
    conditions: Conditions,
    codes: np.ndarray,
    values: np.ndarray,
    means: np.ndarray,
    dispersion: np.ndarray,
    *,
    seed: int,
    cells: np.ndarray,
    max_positions: int | None = None,
) -> Ragged:
    """Token sequences of cells in the canonical order; parameters as in :func:`write_token_counts`.

    Parameters
    ----------
    network, conditions, codes, values, means, dispersion, seed, cells
        See there.
    max_positions
        Bound on cells times expected tokens of what is written together; decides memory and speed.
    """
    if max_positions is None:
        max_positions = _POSITIONS.get(network.start.device.type, _POSITIONS_GPU)
    expected = (-np.expm1(-np.log1p(means * dispersion) / dispersion)).sum(axis=1)  # genes with at least one count
    order = np.argsort(-expected, kind="stable")
    found: list[np.ndarray] = [np.zeros(0, np.int32)] * cells.size
    start = 0
    while start < cells.size:
        size = max(1, int(max_positions / (1.1 * expected[order[start]] + 64)))
        part = order[start : start + size]
        hazards = level_hazards(means[part], dispersion, network.genes.vocabulary.edges)
        sequences = _write(network, conditions, codes[part], values[part], hazards, seed, cells[part])
        for i, sequence in zip(part, sequences, strict=True):
            found[i] = sequence
        start += size
    offsets = np.concatenate([[0], np.cumsum([f.size for f in found])])
    return Ragged(np.concatenate([*found, np.zeros(0, np.int32)]), offsets)


def _write(
    network: PGLNetwork,
    conditions: Conditions,
    codes: np.ndarray,
    values: np.ndarray,
    hazards: np.ndarray,
    seed: int,
    cells: np.ndarray,
) -> list[np.ndarray]:
    device = network.start.device
    order, hidden, cache, length = _read_prefix(network, conditions, codes, values)
    end = network.genes.vocabulary.end
    state = _Sequences(network.genes, torch.from_numpy(hazards[order]).to(device))
    cells, rows = cells[order], order  # of the cells that are still written
    written: list[list[np.ndarray]] = [[] for _ in cells]
    done = 0
    room = cache.layers[0].max_cache_len
    while True:
        numbers = uniforms(seed, cells, _TOKEN_STREAM + done, _STEPS).astype(np.float32)
        u = torch.from_numpy(numbers).to(device)
        steps = []
        for step in range(_STEPS):
            token = state.draw(hidden, u[:, step])
            steps.append(token)
            hidden, _ = network.body(network.genes.embed(token[:, None]), past_key_values=cache, use_cache=True)
            hidden = hidden[:, 0].float()
        block = torch.stack(steps, dim=1).cpu().numpy().astype(np.int32)  # the only wait for the device
        for row, tokens in zip(rows, block, strict=True):
            written[row].append(tokens)
        done, length = done + _STEPS, length + _STEPS
        alive = block[:, -1] != end
        if not alive.any():
            break
        full = length + _STEPS > room
        if full or alive.mean() <= 0.75:
            keep = torch.from_numpy(alive).to(device)
            room += _ROOM if full else 0
            cache = network.body.expand_cache(cache, keep.long(), max_length=room)
            state.keep(keep)
            hidden, cells, rows = hidden[keep], cells[alive], rows[alive]
    sequences = [np.concatenate(parts) for parts in written]
    return [s[: np.flatnonzero(s == end)[0] + 1] for s in sequences]


def _read_prefix(
    network: PGLNetwork, conditions: Conditions, codes: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, torch.Tensor, Any, int]:
    """Cells in the order of their metadata, hidden state (n, D) after the last slot, cache, and positions read.

    Each distinct metadata is read once; then the slots of each cell, all in one pass.
    """
    device = network.start.device
    distinct, which, counts = distinct_rows(codes)
    order = np.argsort(which, kind="stable")
    fields = torch.from_numpy(distinct.astype(np.int64)).to(device)
    prefix, _, _ = network.condition(fields, training_memberships(conditions, device))
    dtype = next(network.body.parameters()).dtype
    small = network.body.static_cache(len(distinct), prefix.shape[1], device, dtype)
    network.body(prefix, past_key_values=small, use_cache=True)
    length = prefix.shape[1] + network.n_slots
    repeats = torch.from_numpy(counts.astype(np.int64)).to(device)
    cache = network.body.expand_cache(small, repeats, max_length=length + _ROOM)
    slots = network.embed_levels(torch.from_numpy(np.ascontiguousarray(values[order], np.float32)).to(device))
    hidden, _ = network.body(slots, past_key_values=cache, use_cache=True)
    return order, hidden[:, -1].float(), cache, length


class _Sequences:
    """Where the cells of a batch are in their sequences, and the logits of the base from there.

    ``base`` (n, V) holds, for genes, log h + log of (1 - h) of all eligible genes before them at the current level; those
    up to the last one written are -inf. ``none`` (n,) is the log probability of no further gene in the same units.
    """

    def __init__(self, decoder: GeneDecoder, hazards: torch.Tensor) -> None:
        n, n_levels, n_genes = hazards.shape
        device = hazards.device
        self.decoder, self.hazards = decoder, hazards
        self.left = hazards.sum(
            2, dtype=wide_dtype(device)
        )  # (n, Q) log probability that no gene not yet written has the level
        self.level = torch.full((n,), n_levels + 1, device=device)
        self.n_left = torch.full((n,), n_genes, device=device)
        self.written = torch.zeros(n, n_genes + 1, dtype=torch.bool, device=device)  # one more, for what is no gene
        self.total = torch.zeros(n, device=device)  # of the level, as if it had not begun
        self.index = torch.arange(n_genes, device=device)
        self.base = torch.full((n, n_genes + n_levels + 1), -torch.inf, device=device)
        self.base[:, n_genes:] = next_markers(self.level, self.total, self.left).float()

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with some of the cells."""
        for name in ("hazards", "left", "n_left", "level", "written", "total", "base"):
            setattr(self, name, getattr(self, name)[rows])

    def draw(self, hidden: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """The next token (n,) of every cell from hidden states (n, D) and random numbers (n,), and move on by it."""
        logits = self.decoder.logits(hidden, self.base)
        share = (logits - logits.amax(1, keepdim=True)).exp_()
        reached = share.cumsum(1)
        # A little below the total: what is found has probability, whatever is rounded.
        threshold = torch.minimum(u * reached[:, -1], reached[:, -1] * (1.0 - 1e-6))[:, None]
        token = torch.searchsorted(reached, threshold, right=True)[:, 0].clamp_max(share.shape[1] - 1)
        if token.device.type != "cpu":  # a parallel sum may fall by a rounding where nothing is added
            token = torch.where(share.gather(1, token[:, None])[:, 0] > 0, token, share.argmax(1))
        self._advance(token)
        return token

    def _advance(self, token: torch.Tensor) -> None:
        n_levels, n_genes = self.hazards.shape[1:]
        is_gene = token < n_genes
        gene = torch.where(is_gene, token, n_genes)
        self.written.scatter_(1, gene[:, None], is_gene[:, None])
        at = torch.where(is_gene, token, 0)[:, None, None].expand(-1, n_levels, 1)
        taken = torch.where(is_gene[:, None], self.hazards.gather(2, at)[:, :, 0], 0.0)
        self.n_left = self.n_left - is_gene.long()
        self.left = torch.where(self.n_left[:, None] > 0, (self.left - taken).clamp_max(0.0), 0.0)
        # Genes up to the last one are over at this level.
        self.base[:, :n_genes].masked_fill_(self.index <= torch.where(is_gene, token, -1)[:, None], -torch.inf)
        # A marker opens a level, with the genes not written before; after the end (level 0) only the end follows.
        marked = torch.where(is_gene, 0, token - n_genes + 1)
        at_end = marked == n_levels + 1
        self.level = torch.where(is_gene, self.level, torch.where(at_end, 0, marked))
        opened = (marked > 0) & ~at_end
        self._open(opened)
        none = torch.where(opened, -torch.inf, torch.where(at_end | (self.level == 0), 0.0, self.total))
        self.base[:, n_genes:] = next_markers(self.level, none, self.left).float()
        ended = (self.level == 0)[:, None]
        self.base[:, :n_genes].masked_fill_(ended, -torch.inf)

    def _open(self, opened: torch.Tensor) -> None:
        """Logits of the genes of a level that begins, in the rows `opened` (n,) bool."""
        n_genes = self.hazards.shape[2]
        # Few cells open a level in a step. On the CPU these are picked; elsewhere that would wait for the device.
        rows = (
            opened.nonzero()[:, 0] if opened.device.type == "cpu" else torch.arange(len(opened), device=opened.device)
        )
        if not len(rows):
            return
        level = (self.level[rows] - 1).clamp(0, self.hazards.shape[1] - 1)
        missed = self.hazards[rows, level]
        may = ~self.written[rows, :n_genes]
        log_h = log_hazard(missed)
        missed = torch.where(may, missed, 0.0)
        upto = missed.cumsum(1)
        genes = torch.where(may, log_h + (upto - missed), -torch.inf)
        now = opened[rows]
        self.base[rows, :n_genes] = torch.where(now[:, None], genes, self.base[rows, :n_genes])
        self.total[rows] = torch.where(now, upto[:, -1], self.total[rows])


@torch.inference_mode()
def token_log_likelihood(
    network: PGLNetwork,
    conditions: Conditions,
    codes: np.ndarray,
    values: np.ndarray,
    counts: sp.csr_matrix,
    means: np.ndarray,
    dispersion: np.ndarray,
    *,
    base_only: bool = False,
) -> np.ndarray:
    """Log probability of the tokens of given cells behind given metadata, depth and programmes, nats.

    Parameters
    ----------
    network, conditions
        Of the model.
    codes
        (n, F) training values, -1 open.
    values
        (n, S) slot values.
    counts
        CSR (n, G) raw counts; only their levels matter.
    means, dispersion
        (n, G) and (G,) of the set decoder.
    base_only
        Of independent genes, without the network.

    Returns
    -------
    (n,) float64.
    """
    device, vocabulary = network.start.device, network.genes.vocabulary
    total = np.empty(counts.shape[0])
    for start in range(0, total.size, 8):
        part = slice(start, start + 8)
        sequences = vocabulary.encode(counts[part])
        n = len(sequences)
        arrays = (
            codes[part].astype(np.int64), np.full(codes[part].shape, -1), values[part].astype(np.float32),
            np.zeros(values[part].shape, np.int64), sequences.pad(value=vocabulary.end).astype(np.int64),
            sequences.lengths, level_hazards(means[part], dispersion, vocabulary.edges),
            vocabulary.decode_levels(sequences).toarray().astype(np.uint8), np.zeros((n, 0), np.int64),
        )  # fmt: skip
        batch = TokenBatch(*(torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in arrays))
        hidden = None if base_only else forward(network, batch, training_memberships(conditions, device))[2].float()
        total[part] = -gene_nats(network.genes, hidden, batch).double().cpu().numpy()
    return total
