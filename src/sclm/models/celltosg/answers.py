"""What the trained network says of cells: scores of the training types, of all names, of other questions.

n cells · S training types · C terms
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from sclm.cells import Cells
from sclm.models.celltosg.parts import places_of
from sclm.models.celltosg.tokens import TASKS, Batch
from sclm.nn import MemoryLimit, Packed, Trie, score_names, write_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sclm.models.celltosg.config import CellToSGConfig
    from sclm.models.celltosg.encoding import Encoder
    from sclm.models.celltosg.module import Names
    from sclm.models.celltosg.network import CellToSGNetwork
    from sclm.nn.memory import Part

_TOGETHER = 64  # cells that the network reads at a time
_MANY_NAMES = 8  # cells whose probabilities of all names are worked out at a time


class Answers:
    """Asks a network that learns no more.

    Parameters
    ----------
    network, names, encoder, config
        The parts of a model.
    """

    def __init__(self, network: CellToSGNetwork, names: Names, encoder: Encoder, config: CellToSGConfig) -> None:
        self.network, self.names, self.encoder, self.config = network, names, encoder, config
        self._memory = MemoryLimit()
        places = places_of(config, names)
        self._nodes = np.where(places >= 0, names.nodes[np.maximum(places, 0)], -1)
        sequences = network.lm.encode_after(TASKS["cell_type"], [f" {label}" for label in config.labels])
        self._trie = Trie.build(sequences, eos=network.lm.eos) if config.labels else None

    def types(self, cells: Cells, hidden: Sequence[np.ndarray] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """What the language model and the contrast say of the training types, (n, S) float64 each.

        The first is the log probability of the type's name among all tokens; the second the cosine of the cell and the type's node
        by the temperature, 0 for types without a node and for a model without graph.

        Parameters
        ----------
        cells
            Counts of the model's genes.
        hidden
            Nodes around each cell's genes that the virtual tokens must not look at, n arrays; None: they look at all.
        """
        language = np.zeros((cells.n_cells, len(self.config.labels)))
        contrast = np.zeros_like(language)
        for part in self._parts(cells):
            with part as rows:
                batch = self._batch(cells, rows)
                seen = batch if hidden is None else _hide(batch, [hidden[row] for row in rows])
                language[rows], contrast[rows] = self._types(seen)
        return language, contrast

    def null(self) -> np.ndarray:
        """(S,) what the language model says of the training types of a cell without genes."""
        empty = Cells(
            sp.csr_matrix((1, len(self.encoder.sentences.symbols)), dtype=np.float32),
            pd.Index(self.encoder.sentences.symbols), pd.DataFrame(index=["none"]),
        )  # fmt: skip
        return self._types(self._on_device(self.encoder.ask(empty)))[0][0]

    def names_log_probs(self, cells: Cells) -> np.ndarray:
        """(n, C) float32 log probability of every name among all names, by exhaustive scoring of the trie."""
        found = np.zeros((cells.n_cells, len(self.names.ids)), dtype=np.float32)
        for part in self._parts(cells, _MANY_NAMES):
            with part as rows, self._asking():
                batch = self._batch(cells, rows)
                cache = self.network.lm.prompt_cache(self._prefix(batch), Packed(batch.ids, batch.prompt_lengths))
                found[rows] = score_names(self.network.lm, cache, self.names.trie, among="names")
        return found

    def texts(self, cells: Cells, task: str = "cell_type", *, max_tokens: int = 32) -> list[str]:
        """Free answers to a question, most probable token by token, one a cell."""
        if task not in TASKS:
            raise ValueError(f"task must be one of {', '.join(map(repr, TASKS))}, found {task!r}.")
        found = [""] * cells.n_cells
        for part in self._parts(cells):
            with part as rows, self._asking():
                batch = self._batch(cells, rows, task)
                cache = self.network.lm.prompt_cache(self._prefix(batch), Packed(batch.ids, batch.prompt_lengths))
                written = write_text(self.network.lm, cache, max_tokens=max_tokens)
                for row, tokens in zip(rows, written, strict=True):
                    found[row] = self.network.lm.decode(tokens).strip()
        return found

    def attention(self, cells: Cells) -> list[tuple[Batch, np.ndarray]]:
        """Batches with how much their virtual tokens looked at each gene and each node around, rows sum to 1 with the types."""
        found = []
        for part in self._parts(cells):
            with part as rows, self._asking():
                batch = self._batch(cells, rows)
                found.append((batch, self.network.attention(batch).float().cpu().numpy()))
        return found

    # ------------------------------------------------------------------ parts

    def _parts(self, cells: Cells, size: int = _TOGETHER) -> Iterator[Part]:
        """Consecutive rows, as many as fit into memory; the unit is one of the cells that are read at a time."""
        parts = (np.arange(start, min(start + size, cells.n_cells)) for start in range(0, cells.n_cells, size))
        yield from self._memory.fitting(parts, lambda rows: len(rows) * _TOGETHER // size)

    def _batch(self, cells: Cells, rows: np.ndarray, task: str = "cell_type") -> Batch:
        block = Cells(cells.counts[rows], cells.genes, cells.obs.iloc[rows])
        return self._on_device(self.encoder.ask(block, task=task))

    def _on_device(self, batch: Batch) -> Batch:
        device = self.network.lm.device
        return Batch(*(t.to(device) for t in batch))

    def _asking(self) -> Any:
        self.network.eval()
        return torch.inference_mode()

    def _prefix(self, batch: Batch) -> torch.Tensor | None:
        return self.network.prefix(self.network.nodes(), batch)

    def _types(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        network = self.network
        if self._trie is None:
            raise ValueError("this model has no training types: it was not trained on labels.")
        with self._asking():
            nodes = network.nodes()
            prefix = network.prefix(nodes, batch)
            cache = network.lm.prompt_cache(prefix, Packed(batch.ids, batch.prompt_lengths))
            language = score_names(network.lm, cache, self._trie).astype(np.float64)
            contrast = np.zeros_like(language)
            there = self._nodes >= 0
            if nodes is not None and prefix is not None and there.any() and self.config.contrast_weight:
                hidden = torch.cat([cache.hidden, prefix.mean(dim=1).to(cache.hidden.dtype)], dim=-1)
                cells = torch.nn.functional.normalize(network.cell_head(hidden.float()), dim=-1)
                rows = torch.from_numpy(self._nodes[there]).to(nodes.device)
                terms = torch.nn.functional.normalize(network.terms(nodes, rows), dim=-1)
                contrast[:, there] = (cells @ terms.T / network.temperature.clamp_min(0.01)).double().cpu().numpy()
        return language, contrast

    def columns(
        self, candidates: Sequence[str] | None, under: str | None, places: np.ndarray
    ) -> tuple[np.ndarray, list[int]]:
        """Rows of the terms that may be answered, and the training types that are no term and may be.

        Parameters
        ----------
        candidates
            Names or ids; None for those of the configuration, else all.
        under
            A term above all answers, or None.
        places
            (S,) rows of the training types, -1 for those that are no term.
        """
        ontology, names = self.names.ontology, self.names
        untermed = {self.config.labels[s]: s for s, p in enumerate(places) if p < 0}
        loose = list(untermed.values())
        wanted = candidates if candidates is not None else (self.config.candidates or None)
        if wanted is None:
            rows = np.arange(len(names.ids))
        else:
            if isinstance(wanted, str):
                raise TypeError(
                    f"candidates must be a list of names or ids, found the text {wanted!r}. Write [{wanted!r}]."
                )
            found: set[int] = set()
            loose = []
            for text in wanted:
                term = ontology.resolve(str(text), min_score=1.0).term_id
                if term in names.row_of:
                    found.add(names.row_of[term])
                elif str(text) in untermed:
                    loose.append(untermed[str(text)])
                else:
                    raise ValueError(
                        f"candidates must be terms of {ontology.name} below 'cell' or labels of the training cells, found {text!r}. "
                        "Ontology.resolve shows what a name means."
                    )
            rows, loose = np.array(sorted(found), dtype=np.int64), sorted(set(loose))
        if under is not None:
            top = ontology.resolve(under, min_score=1.0).term_id
            if top is None:
                raise ValueError(f"under must be a term of {ontology.name}, found {under!r}.")
            below = ontology.descendants(top, include_self=True)
            rows, loose = np.array([r for r in rows if names.ids[r] in below], dtype=np.int64), []
        if len(rows) + len(loose) < 1:
            raise ValueError(f"candidates must leave at least one term, found none (under={under!r}).")
        return rows, loose


def _hide(batch: Batch, hidden: Sequence[np.ndarray]) -> Batch:
    """The batch with some nodes around each cell's genes taken out."""
    context = batch.context.clone()
    for row, nodes in enumerate(hidden):
        context[row, torch.isin(context[row], torch.as_tensor(nodes, device=context.device))] = -1
    return batch._replace(context=context)
