"""What the network reads of cells besides text: states of genes, components, log probabilities of types.

B cells · E width of the encoder · C components · K types
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sclm.models.cell2text.tokens import TypeRegression
from sclm.models.handed_encoder import GeneStates, gene_states

if TYPE_CHECKING:
    import pandas as pd
    from scipy import sparse

    from sclm.cells import Cells, CellSource, GeneVocabulary
    from sclm.models.cell2text.config import Cell2TextConfig
    from sclm.models.cell2text.tokens import CellValues
    from sclm.models.encoder import EncoderFamily

_STATE_BYTES = (
    1 << 30
)  # states of all cells are kept up to this size, in half precision; beyond, made anew in each epoch
BLOCK = 512  # cells that the encoder is shown at a time


class Inputs:
    """What the network reads of cells besides text.

    Parameters
    ----------
    config, encoder, values
        Of the model.
    genes
        Of the data.
    vocabulary
        Genes of the cell token.
    seed
        Of what the encoder draws.
    """

    def __init__(
        self,
        config: Cell2TextConfig,
        encoder: EncoderFamily,
        values: CellValues,
        genes: pd.Index,
        vocabulary: GeneVocabulary,
        seed: int,
    ) -> None:
        self.config, self.encoder, self._values, self.seed = config, encoder, values, seed
        found = vocabulary.match(genes).ids
        self.present = np.zeros(len(vocabulary), dtype=bool)
        self.present[found[found >= 0]] = True
        self.types = TypeRegression(np.zeros((0, 0), np.float32), np.zeros(0, np.float32))
        self.vector_mean = np.zeros(encoder.width, dtype=np.float32)
        self.vector_scale = np.ones(encoder.width, dtype=np.float32)

    def standardise(self, vectors: np.ndarray | None) -> None:
        """Learn mean and spread of the encoder's vectors (n, E); vectors point the same way but for a little."""
        if vectors is not None and len(vectors):
            self.vector_mean = vectors.mean(axis=0)
            self.vector_scale = np.maximum(vectors.std(axis=0), 1e-3)

    def states(self, block: Cells) -> GeneStates:
        """States of a block."""
        return gene_states(
            self.encoder, block, self.config.top_k, hidden_layer=self.config.hidden_layer, seed=self.seed
        )

    def values(self, counts: sparse.csr_matrix, found: GeneStates, types: np.ndarray | None = None) -> np.ndarray:
        """(B, C + K) values of the whole cell and log probabilities of its type; C or K are 0 where none are read.

        The latter are `types` (B, K) where given, else those of the regression.
        """
        if self.config.cell_input == "expression":
            values = self._values.of(counts, self.present)
            if not self.config.type_token:
                return values
            if types is None:
                types = self.types.log_probs(self._values.direction(counts, self.present))
            return np.concatenate([values, types], axis=1)
        if self.config.cell_input == "vector":
            return (found.vectors - self.vector_mean) / self.vector_scale
        return np.zeros((counts.shape[0], 0), dtype=np.float32)

    def learn_types(self, counts: sparse.csr_matrix, codes: np.ndarray, use: np.ndarray) -> np.ndarray:
        """Fit the regression on the cells of `use` (n,) bool; (n, K) what it says of all, of these by others of them."""
        n_types = len(self.config.labels)
        if not self.config.type_token:
            return np.zeros((len(codes), 0), dtype=np.float32)
        cells = self._values.direction(counts, self.present)
        self.types = TypeRegression.fit(cells[use], codes[use], n_types, self.seed)
        found = self.types.log_probs(cells)
        found[use] = TypeRegression.of_others(cells[use], codes[use], n_types, self.seed)
        return found

    def states_of(self, source: CellSource, rows: np.ndarray) -> GeneStates | None:
        """States of all cells in half precision; None where they would not fit."""
        k, width = self.config.top_k, self.encoder.width
        if len(rows) * k * width * 2 > _STATE_BYTES:
            return None
        kept = GeneStates(
            np.zeros((len(rows), k, width), dtype=np.float16), np.zeros((len(rows), k), dtype=bool),
            np.zeros((len(rows), width), dtype=np.float32),
        )  # fmt: skip
        start = 0
        for block in source.blocks(BLOCK, rows=rows):
            for into, part in zip(kept, self.states(block), strict=True):
                into[start : start + block.n_cells] = part
            start += block.n_cells
        return kept


def states_at(states: GeneStates, at: np.ndarray) -> GeneStates:
    """States of some cells, in single precision."""
    return GeneStates(states.states[at].astype(np.float32), states.real[at], states.vectors[at])


def cell_width(config: Cell2TextConfig, encoder: EncoderFamily, n_components: int) -> int:
    """C, values of the whole cell."""
    return {"expression": n_components, "vector": encoder.width, "": 0}[config.cell_input]


def n_types_read(config: Cell2TextConfig) -> int:
    """K, log probabilities of types that are read."""
    return len(config.labels) if config.type_token else 0
