"""Descriptions from a trained network: slots filled under tries with probabilities, or free text.

B cells · C phrases of a slot
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from sclm.models.cell2text.slots import FIXED, Piece
from sclm.nn import Packed, Trie, read_on, score_names, write_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sclm.models.cell2text.network import Cell2TextNetwork
    from sclm.models.cell2text.slots import Slots
    from sclm.models.cell2text.tokens import Batch, Writer


class Filled(NamedTuple):
    """What stands in the slots.

    Attributes
    ----------
    chosen
        Slot → (B,) int64 place of the phrase.
    log_probs
        Slot → (B, C) float32, rows of which sum to 1 as probabilities; of ``pathway_2`` with the first one left out.
    """

    chosen: dict[str, np.ndarray]
    log_probs: dict[str, np.ndarray]


class Decoder:
    """Asks a network that learns no more.

    Parameters
    ----------
    network, writer, slots
        The parts of a model.
    """

    def __init__(self, network: Cell2TextNetwork, writer: Writer, slots: Slots) -> None:
        self.network, self.writer, self.slots = network, writer, slots
        self._tries: dict[str, Trie] = {}

    def trie(self, slot: str, words: str) -> Trie:
        """The phrases of a slot as they are written behind the words in front of it."""
        if slot not in self._tries:
            sequences = [self.writer.encode(phrase, words) for phrase in self.slots.phrases[slot]]
            self._tries[slot] = Trie.build(sequences)
        return self._tries[slot]

    def prefix(self, batch: Batch) -> torch.Tensor:
        """Everything in front of the text of a batch, (B, T + P, D)."""
        before = torch.tensor(self.writer.before, dtype=torch.int64, device=batch.ids.device)
        return self.network.read(batch, before)[0]

    def first_slot(self, batch: Batch) -> np.ndarray:
        """(B, C) log probabilities of the cell types alone."""
        return self.fill(batch, slots=("cell_type",)).log_probs["cell_type"]

    def states(self, batch: Batch) -> np.ndarray:
        """(B, D) float32 hidden states from which the first slot is written."""
        words = self.slots.plan()[0][1]
        prompts = Packed(batch.ids, batch.prompt_lengths)
        whole = prompts.then(self.network.lm.pack([self.writer.encode(words)] * len(batch.ids)))
        return self.network.lm.prompt_cache(self.prefix(batch), whole).hidden.float().cpu().numpy()

    def fill(
        self,
        batch: Batch,
        *,
        slots: Sequence[str] | None = None,
        given: Mapping[str, np.ndarray] | None = None,
        reuse: bool = True,
    ) -> Filled:
        """Write the template, choosing the most probable phrase of each slot.

        Parameters
        ----------
        batch
            Prompts.
        slots
            Only these, from the first on; None: all.
        given
            Slot → (B,) place of the phrase that stands there whatever the network says, -1 where it chooses.
        reuse
            Read only what is new for each slot. False reads everything again: the same answers, for comparisons of speed.

        Returns
        -------
        Phrases and probabilities. Each phrase is judged behind the words that were written before it.
        """
        lm, writer, n = self.network.lm, self.writer, len(batch.ids)
        prefix = self.prefix(batch)
        written: list[list[int]] = [[] for _ in range(n)]  # since the cache was read
        whole = Packed(batch.ids, batch.prompt_lengths)
        cache = lm.prompt_cache(prefix, whole)
        last = [""] * n  # piece that was written last
        found = Filled({}, {})

        def write(row: int, text: str) -> None:
            written[row] += writer.encode(text, last[row])
            last[row] = text

        for slot, words in self.slots.plan():
            if slots is not None and slot not in slots:
                break
            if words:
                for row in range(n):
                    write(row, words if not last[row] else f" {words.strip()}")
            phrases = self.slots.phrases[slot]
            if len(phrases) == 1:
                scores = np.zeros((n, 1), dtype=np.float32)
            else:
                new = lm.pack(written)
                written = [[] for _ in range(n)]
                if reuse:
                    cache = read_on(lm, cache, new)
                else:
                    whole = whole.then(new)
                    cache = lm.prompt_cache(prefix, whole)
                scores = score_names(lm, cache, self.trie(slot, last[0]), among="names")
            if slot == "cell_type":
                scores = self._pooled(scores, batch)
            if slot == "pathway_2" and "pathway_1" in found.chosen:
                scores = scores.copy()
                scores[np.arange(n), found.chosen["pathway_1"]] = -np.inf
                scores -= np.logaddexp.reduce(scores, axis=1, keepdims=True)
            best = scores.argmax(axis=1)
            if given is not None and slot in given:
                best = np.where(given[slot] >= 0, given[slot], best)
            found.chosen[slot], found.log_probs[slot] = best, scores
            for row, place in enumerate(best):
                write(row, phrases[place])
                if slot == "cell_type":
                    definition = self.slots.definitions[self.slots.config.labels[place]]
                    if definition:
                        write(row, Piece(FIXED, f" {definition}.").text)
        return found

    def _pooled(self, scores: np.ndarray, batch: Batch) -> np.ndarray:
        """Log probabilities (B, C) of the types by language model and regression, multiplied with their weights."""
        weight = self.slots.config.regression_weight
        if not weight or scores.shape[1] < 2:
            return scores
        pooled = scores + np.float32(weight) * batch.cell[:, -scores.shape[1] :].float().cpu().numpy()
        return pooled - np.logaddexp.reduce(pooled, axis=1, keepdims=True)

    def free(self, batch: Batch, max_tokens: int) -> list[str]:
        """Texts of the language model, most probable word by word."""
        lm = self.network.lm
        cache = lm.prompt_cache(self.prefix(batch), Packed(batch.ids, batch.prompt_lengths))
        return [lm.decode(ids).strip() for ids in write_text(lm, cache, max_tokens=max_tokens)]
