"""Blocks of cells as the batches of each stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sclm.models.celltosg.tokens import TASKS, Batch, fields_of, pack, write_prompt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sclm.cells import Cells
    from sclm.models.celltosg.tokens import Sentences
    from sclm.nn import PrefixLM

_OTHER_TASKS = 0.2  # share of prompts that ask for something else than the cell type
_FIELD_DROPOUT = 0.3  # share of prompts in which a known field is left out, so that none is needed


class Encoder:
    """Writes prompts and answers for cells.

    Parameters
    ----------
    lm
        Whose tokens.
    sentences
        Writes the genes.
    labels
        (S,) names of the training types.
    code_of
        Label as it stands in ``.obs`` → training type.
    label_key
        Column of ``.obs`` with the labels; "" where there are none.
    descriptions
        Training type → its description; types without are left out.
    organism
        Of the prompts.
    fields
        Columns of ``.obs`` that prompts name and ask for; others are not looked at.
    """

    def __init__(
        self,
        lm: PrefixLM,
        sentences: Sentences,
        labels: Sequence[str] = (),
        code_of: Mapping[str, int] | None = None,
        label_key: str = "",
        descriptions: Mapping[int, str] | None = None,
        organism: str = "",
        fields: Sequence[str] = ("tissue", "disease"),
    ) -> None:
        self.lm, self.sentences, self.labels, self.label_key = lm, sentences, tuple(labels), label_key
        self.code_of, self.descriptions = dict(code_of or {}), dict(descriptions or {})
        self.organism, self.fields = organism, tuple(fields)

    def _fields(self, obs: pd.DataFrame) -> list[dict[str, str]]:
        return fields_of(obs[[f for f in self.fields if f in obs]])

    def codes(self, obs: pd.DataFrame) -> np.ndarray:
        """(B,) int64 training types of cells, -1 none."""
        if self.label_key not in obs:
            return np.full(len(obs), -1, dtype=np.int64)
        found = obs[self.label_key].astype(object)
        return np.array([self.code_of.get(str(v), -1) if not pd.isna(v) else -1 for v in found], dtype=np.int64)

    def anchor(self, cells: Cells, generator: np.random.Generator) -> Batch:
        """Sentences alone, every token asked."""
        texts = self.sentences.write(cells.counts)
        graph = self.sentences.graph(cells.counts)
        return pack(self.lm, texts, None, graph, self.codes(cells.obs), sentences_asked=True)

    def align(self, cells: Cells, generator: np.random.Generator) -> Batch:
        """Questions with their answers; most ask for the cell type, some for what else is known of the cell."""
        texts, codes = self.sentences.write(cells.counts), self.codes(cells.obs)
        prompts, answers, truth = [], [], codes.copy()
        for i, (text, fields) in enumerate(zip(texts, self._fields(cells.obs), strict=True)):
            code = int(codes[i])
            others = [*fields, *(["description"] if code in self.descriptions else [])]
            task = "cell_type"
            if others and generator.random() < _OTHER_TASKS:
                task = others[generator.integers(len(others))]
            answer = {"cell_type": self.labels[code], "description": self.descriptions.get(code, ""), **fields}[task]
            kept = {k: v for k, v in fields.items() if k != task and generator.random() >= _FIELD_DROPOUT}
            organism = self.organism if generator.random() >= _FIELD_DROPOUT else ""
            prompts.append(write_prompt(text, task, organism=organism, **kept))
            answers.append(f" {answer}")
            if task != "cell_type":
                truth[i] = -1
        return pack(self.lm, prompts, answers, self.sentences.graph(cells.counts), truth)

    def named(self, cells: Cells, generator: np.random.Generator | None = None) -> Batch:
        """Questions for the cell type with their answers, all that is known in the prompt: for scores on held-out cells."""
        return self._asked(cells, "cell_type", [f" {self.labels[c]}" for c in self.codes(cells.obs)])

    def ask(self, cells: Cells, generator: np.random.Generator | None = None, task: str = "cell_type") -> Batch:
        """Questions without answers."""
        return self._asked(cells, task, None)

    def _asked(self, cells: Cells, task: str, answers: Sequence[str] | None) -> Batch:
        texts = self.sentences.write(cells.counts)
        prompts = [
            write_prompt(text, task, organism=self.organism, **{k: v for k, v in fields.items() if k != task})
            for text, fields in zip(texts, self._fields(cells.obs), strict=True)
        ]
        return pack(self.lm, prompts, answers, self.sentences.graph(cells.counts), self.codes(cells.obs))

    def words(self) -> list[str]:
        """All text that prompts and answers hold besides genes and names."""
        return [*(write_prompt("", task, organism=self.organism or "human", tissue="t", disease="d") for task in TASKS)]
