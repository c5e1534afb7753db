"""The second stage of training: the same transformer learns to write genes one after the other."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from sclm.cells import Cells
from sclm.models.pgl.counts import expected_counts
from sclm.models.pgl.gene_base import level_hazards
from sclm.models.pgl.gene_tokens import TokenBatch, forward, gene_nats
from sclm.models.pgl.module import PGLModule
from sclm.models.pgl.objectives import negative_log_likelihood
from sclm.models.pgl.sampling import training_memberships
from sclm.training import CellDataModule, fit

if TYPE_CHECKING:
    from sclm.cells import CellSource, GeneVocabulary
    from sclm.models.pgl.conditions import Conditions
    from sclm.models.pgl.module import LevelData
    from sclm.models.pgl.network import PGLConfig, PGLNetwork
    from sclm.models.pgl.tokens import GeneTokens

logger = logging.getLogger(__name__)


class Base(NamedTuple):
    """What the independent genes of every training cell follow.

    Attributes
    ----------
    profiles
        (C, G) float32 log shares.
    condition
        (n,) row of ``profiles`` of each cell.
    depth
        (n,) float32 total counts.
    loadings
        (G, K) float32.
    dispersion
        (G,) float32.
    """

    profiles: np.ndarray
    condition: np.ndarray
    depth: np.ndarray
    loadings: np.ndarray
    dispersion: np.ndarray

    def hazards(self, rows: np.ndarray, programmes: np.ndarray, edges: tuple[int, ...]) -> np.ndarray:
        """Those of :func:`~sclm.models.pgl.gene_base.level_hazards` for some cells and levels (n, K) of their programmes."""
        depth = np.maximum(self.depth[rows], 1.0)
        means = expected_counts(
            self.profiles, self.condition[rows], depth, np.ascontiguousarray(programmes, np.float32), self.loadings
        )
        return level_hazards(means, self.dispersion, edges)


class TokenData(CellDataModule):
    """Batches of whole cells for the token decoder, cells of similar length together.

    Parameters
    ----------
    source, vocabulary
        Counts, and the genes of the model.
    level_data
        Draws fields and slot values, and says which cells are held out.
    base
        Of the training cells.
    tokens
        The vocabulary of genes and levels.
    config
        ``max_tokens`` and ``token_positions``.
    seed
        Of order and draws.
    """

    def __init__(
        self,
        source: CellSource,
        vocabulary: GeneVocabulary,
        level_data: LevelData,
        base: Base,
        tokens: GeneTokens,
        config: PGLConfig,
        seed: int,
    ) -> None:
        self.level_data, self.base, self.tokens, self.n_positions = level_data, base, tokens, config.token_positions
        self._held_out_rows = set(level_data.validation_rows.tolist())
        lengths = _token_lengths(source, vocabulary, tokens)
        super().__init__(
            source, self.make, vocabulary=vocabulary, max_tokens=max(config.max_tokens, int(lengths.max())),
            lengths=lengths, validation=level_data.validation_rows, seed=seed,
        )  # fmt: skip

    def read(self, rows: np.ndarray) -> Cells:
        """Counts of cells, with their row numbers in ``obs``, by which their programmes are found."""
        cells = super().read(rows)
        return Cells(cells.counts, cells.genes, pd.DataFrame({"row": rows}, index=cells.obs.index))

    def make(self, cells: Cells, generator: np.random.Generator) -> TokenBatch:
        """A batch of these cells: training cells with some fields dropped and a few positions, held-out ones whole."""
        rows = cells.obs["row"].to_numpy()
        training = int(rows[0]) not in self._held_out_rows
        levels = self.level_data.encode(rows, generator, dropped=training)
        programmes = levels.values[:, 1:].numpy()
        counts = _whole(cells.counts)
        sequences = self.tokens.encode(counts)
        lengths = sequences.lengths
        n_positions = self.n_positions if training else 0
        # One position in each of equally long stretches: every token is as likely, and they are spread over the cell.
        shares = (np.arange(n_positions) + generator.random((rows.size, n_positions))) / max(n_positions, 1)
        positions = np.minimum((shares * lengths[:, None]).astype(np.int64), lengths[:, None] - 1)
        arrays = (
            sequences.pad(value=self.tokens.end).astype(np.int64),
            lengths,
            self.base.hazards(rows, programmes, self.tokens.edges),
            self.tokens.decode_levels(sequences).toarray().astype(np.uint8),
            positions,
        )
        return TokenBatch(*levels, *(torch.from_numpy(np.ascontiguousarray(a)) for a in arrays))


class TokenModule(PGLModule):
    """Loss of whole cells: open fields, depth, programmes and genes, in nats a cell; the network has a gene decoder.

    In training the genes' part is estimated from some of a cell's tokens, on held-out cells it is that of all.
    """

    def loss(self, batch: Any) -> torch.Tensor:
        """The sum of :meth:`parts`."""
        levels, fields, genes = self.parts(batch)
        return levels + fields + genes

    def parts(self, batch: TokenBatch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean nats a cell of the levels, the fields and the genes."""
        memberships = [type(m)(*(t.to(batch.fields.device) for t in m)) for m in self.memberships]
        log_p, fields, hidden = forward(self.network, batch, memberships)
        levels, open_fields = negative_log_likelihood(log_p, batch.bins, fields, batch.asked)
        return levels, open_fields, gene_nats(self.network.genes, hidden, batch).mean()


def train_tokens(
    network: PGLNetwork,
    conditions: Conditions,
    config: PGLConfig,
    source: CellSource,
    vocabulary: GeneVocabulary,
    level_data: LevelData,
    base: Base,
    *,
    seed: int,
    **training: Any,
) -> dict[str, Any]:
    """Train all weights on whole cells; the weights from before are kept where held-out cells are not better explained.

    Parameters
    ----------
    network, conditions, config
        Of the model; the set decoder is trained and calibrated.
    source, vocabulary
        Training cells.
    level_data
        Of the first stage.
    base
        Of the training cells.
    seed
        Of order, draws and dropout.
    **training
        To :func:`sclm.training.fit`; the run is kept in the folder ``tokens`` inside ``folder``.

    Returns
    -------
    ``nats_tokens_base`` and ``nats_tokens`` a held-out cell before and after, ``token_epochs``, ``token_padding`` (share).
    """
    # The rest stays as it was calibrated: only the decoder learns.
    trainable = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    network.requires_grad_(False)
    network.genes.requires_grad_(True)
    data = TokenData(source, vocabulary, level_data, base, network.genes.vocabulary, config, seed)
    module = TokenModule(network, training_memberships(conditions), config)
    if training.get("folder") is not None:
        training["folder"] = Path(training["folder"]) / "tokens"
    first = {name: value.clone() for name, value in network.state_dict().items()}
    before = score_tokens(module, data)
    patience = config.patience if data.validation_rows.size else None
    report = fit(module, data, max_epochs=config.token_epochs, patience=patience, seed=seed, **training)
    better = not (report.best_score > before)
    if not better:
        network.load_state_dict(first)
        logger.info("the token decoder explains held-out cells no better than independent genes, which are kept")
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in trainable)
    network.eval()
    return {
        "nats_tokens_base": before,
        "nats_tokens": float(min(report.best_score, before)),
        "token_epochs": report.best_epoch if better else 0,
        "token_padding": data.padding_share(),
    }


@torch.inference_mode()
def score_tokens(module: TokenModule, data: TokenData) -> float:
    """Nats a held-out cell, NaN without any."""
    module.network.eval()
    parts = [(float(module.loss(batch)), len(batch.bins)) for batch in data.val_dataloader()]
    module.network.train()
    return float(np.average([p[0] for p in parts], weights=[p[1] for p in parts])) if parts else float("nan")


def _whole(counts: Any) -> Any:
    """Counts as tokens can hold them: sorted, whole; a few sources hold corrected counts."""
    counts = counts.copy()
    counts.data = np.rint(counts.data)
    counts.eliminate_zeros()
    counts.sort_indices()
    return counts


def _token_lengths(source: CellSource, vocabulary: GeneVocabulary, tokens: GeneTokens) -> np.ndarray:
    """Tokens (n,) of every cell, in one pass."""
    from sclm.models.pgl.statistics import blocks

    return np.concatenate([tokens.lengths(_whole(counts)) for _, counts in blocks(source, vocabulary)])
