"""The scTranslator family: fit or fine-tune, translate, knock out, save and load."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch

from sclm.cells import Cells, align, log_normalise, require_overlap
from sclm.models.neural import NeuralFamily
from sclm.models.sctranslator.fitting import fit_sctranslator
from sclm.models.sctranslator.module import encoder
from sclm.models.sctranslator.network import ScTranslatorConfig, ScTranslatorNetwork, cells_at_once
from sclm.models.sctranslator.panel import Panel
from sclm.models.sctranslator.tokens import TARGET_SUM, Batch, batch_of, frame
from sclm.models.sctranslator.vocabulary import match_names, protein_numbers, require_known
from sclm.models.translator import choose_proteins
from sclm.nn import load_own_state
from sclm.training import running_options

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import scipy.sparse as sp

    from sclm.cells import CellSource, GeneMatch, GeneVocabulary
    from sclm.cells.proteins import Proteins


class ScTranslator(NeuralFamily):
    """Proteins from RNA by the scTranslator network: published checkpoints, fine-tuned, or trained on own CITE-seq.

    Liu et al., Nat Biomed Eng 2025, re-implemented from a description of the public code. Published weights know genes and
    proteins by number (``my_Id``) and are asked for proteins by name; a model trained here predicts its panel, puts its genes
    into an order of its own, and tells how well it did on cells that it was not trained on.

    Parameters
    ----------
    config, vocabulary, network, card
        As in :class:`~sclm.models.neural.NeuralFamily`.
    names
        Published weights: every symbol and alias of the gene-id dictionaries → id.
    panel
        Trained here: the proteins.
    """

    family: ClassVar[str] = "sctranslator"
    Config: ClassVar[type] = ScTranslatorConfig
    network: ScTranslatorNetwork

    def __init__(
        self,
        config: ScTranslatorConfig,
        vocabulary: GeneVocabulary,
        network: ScTranslatorNetwork,
        card: dict[str, Any] | None = None,
        *,
        names: dict[str, int] | None = None,
        panel: Panel | None = None,
    ) -> None:
        super().__init__(config, vocabulary, network, card)
        self.names = dict(names or {})
        self.panel = panel
        self._last_match: tuple[pd.Index, GeneMatch] | None = None

    # ------------------------------------------------------------------ training

    @classmethod
    def fit(
        cls,
        source: CellSource,
        *,
        proteins: Proteins | None = None,
        preset: str = "small",
        base: str | Path | ScTranslator | None = None,
        batch_key: str | None = None,
        genes: Any = None,
        seed: int = 0,
        **options: Any,
    ) -> Self:
        """Learn from cells with RNA and proteins: see :func:`sclm.train`, which reads them by ``protein_key=``.

        A fifth of the cells is held out for the expectation and never trained on; of the others a share stops the training
        early. All cells are read and no batch is dropped, unlike in the original scripts. Proteins that are NaN in a cell do
        not count in its loss.

        Parameters
        ----------
        source
            Raw counts.
        proteins
            Of its cells.
        preset
            ``"tiny"`` or ``"small"``; not with `base`.
        base
            Published checkpoint (path or model) to fine-tune: architecture, padding and the min-max scale stay as they are.
        batch_key
            Donor or batch: whole ones are held out where there are at least three.
        genes
            Train on the genes shared with these.
        seed
            Of the split, the weights and the order.
        **options
            Fields of :class:`~sclm.models.sctranslator.network.ScTranslatorConfig`, and what :func:`sclm.training.fit` is told of the run:
            ``folder``, ``max_minutes``, ``accelerator``, ``devices``, ``num_nodes``, ``strategy``, ``precision``, ``progress_bar``.

        Raises
        ------
        TypeError
            If there are no proteins, or there is no such option.
        ValueError
            If there are too few cells, or more proteins than the frame of `base` holds.
        """
        if base is not None and not isinstance(base, cls):
            from sclm.models import load

            loaded = load(base)
            if not isinstance(loaded, cls):
                raise ValueError(f"base= must be a checkpoint of scTranslator, found one of {loaded.family!r}.")
            base = loaded
        training = running_options(options)
        fitted = fit_sctranslator(
            source,
            proteins,
            base,
            preset=preset,
            batch_key=batch_key,
            genes=genes,
            seed=seed,
            options=options,
            training=training,
        )
        panel = Panel(fitted.gene_ids, fitted.protein_ids, fitted.centre, fitted.spread, fitted.expectation)
        return cls(fitted.config, fitted.vocabulary, fitted.network, fitted.card, panel=panel)

    # ------------------------------------------------------------------ what a tool asks

    @property
    def proteins(self) -> tuple[str, ...]:
        """The panel; empty for published weights, which are asked by name."""
        return self.config.proteins

    @property
    def scale(self) -> str:
        """Of the predictions, see :func:`sclm.cells.proteins.scale_proteins`."""
        return self.config.scale

    @property
    def expectation(self) -> pd.DataFrame | None:
        """How well each protein was predicted in held-out cells, beside the baselines; None for published weights."""
        return None if self.panel is None else self.panel.expectation.table(self.config.proteins)

    def match(self, genes: pd.Index) -> GeneMatch:
        """Overlap of the data's genes with the model's; raises ValueError where it is too small to answer."""
        if self._last_match is None or self._last_match[0] is not genes:
            if self.panel is None:
                match = match_names(list(genes), self.vocabulary, self.names)
                require_known(list(genes), match, self.names)
            else:
                match = self.vocabulary.match(genes)
                require_overlap(
                    genes,
                    self.vocabulary,
                    match,
                    advice="With reference=, the tool trains on the genes that both share.",
                )
            self._last_match = (genes, match)
        return self._last_match[1]

    def resolve(self, proteins: Sequence[str] | None) -> tuple[list[str], np.ndarray]:
        """Names as they will be written, and their places in the panel or their ids.

        Raises
        ------
        ValueError
            If no proteins are named and there is no panel.
        KeyError
            If one is not known.
        """
        if self.panel is not None:
            return choose_proteins(proteins, self.config.proteins)
        if proteins is None:
            raise ValueError(
                "published weights know no panel: pass proteins= naming those to predict, for example proteins=['CD3', 'CD19']."
            )
        names = [proteins] if isinstance(proteins, str) else [str(p) for p in proteins]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"proteins must name at least one protein, each once, found {names}.")
        return names, protein_numbers(names, self.vocabulary, self.names)

    def translate(self, cells: Cells, *, proteins: Sequence[str] | None = None) -> pd.DataFrame:
        """Proteins of a block of cells.

        Published weights see the genes that they know in the order of the data, the first ones that fit their frame, and the
        proteins in the order of the list, in chunks of their frame; their predictions depend on both orders, as those of the
        original do.

        Parameters
        ----------
        cells
            Raw counts; they are log-normalised to 10,000 counts first.
        proteins
            Names; the whole panel where None.

        Returns
        -------
        (n_cells, n_proteins) float32, indexed as the cells; NaN for cells without counts in the model's genes.
        """
        names, which = self.resolve(proteins)
        return pd.DataFrame(self._translate(cells, which), index=cells.obs.index, columns=pd.Index(names, dtype=object))

    def _translate(self, cells: Cells, which: np.ndarray, without: int = -1) -> np.ndarray:
        """(n, P) float32; one gene of the data, by its column, may be deleted after the normalisation."""
        match = self.match(cells.genes)
        ids = match.ids.copy()
        if without >= 0:
            ids[without] = -1
        if self.panel is None:
            known = np.flatnonzero(ids > 0)
            values = log_normalise(cells.counts, TARGET_SUM)[:, known]
            found, filled = self.predict(values, ids[known], which), np.diff(values.indptr) > 0
        else:
            counts, _ = align(cells, self.vocabulary, match=match)
            filled = np.diff(counts.indptr) > 0
            aligned = Cells(counts, pd.Index(self.vocabulary.tokens), cells.obs)
            found = self._panel(aligned, self.panel, np.unique(ids[ids >= 0]))[:, which]
        found[~filled] = np.nan
        return found

    def predict(self, values: np.ndarray | sp.csr_matrix, gene_ids: np.ndarray, protein_ids: np.ndarray) -> np.ndarray:
        """What published weights make of values and ids, without any preprocessing but the min-max and the frame.

        Parameters
        ----------
        values
            (n_cells, n_genes) of any kind; the original's tutorials have log-normalised RNA.
        gene_ids
            (n_genes,) my_Id of each column.
        protein_ids
            (n_proteins,) my_Id, in chunks of the decoder's frame.

        Returns
        -------
        (n_cells, n_proteins) float32.
        """
        genes = frame(values, gene_ids, self.config.gene_frame, pad=self.config.padding == "original")
        length = self.config.protein_frame
        chunks = []
        for start in range(0, len(protein_ids), length):
            part = protein_ids[start : start + length]
            ids, real = self._protein_frame(part)
            batch = batch_of(genes, ids, real)
            chunks.append(self._run(batch)[:, : len(part)])
        return np.concatenate(chunks, axis=1) if chunks else np.zeros((len(genes.values), 0), dtype=np.float32)

    def knock_out(self, cells: Cells, genes: Sequence[str], *, proteins: Sequence[str] | None = None) -> pd.DataFrame:
        """Pseudo-knockout: delete a gene's column, predict again, compare with the unperturbed prediction.

        The answer is the model's, not the cell's: it has no null here, and says nothing where the gene is not expressed.

        Parameters
        ----------
        cells
            Raw counts.
        genes
            To delete, one at a time, by their names in the data.
        proteins
            Names; the whole panel where None.

        Returns
        -------
        (n_genes, n_proteins) float32: mean over the cells of the difference, knock-out minus unperturbed.

        Raises
        ------
        KeyError
            If the data lack a gene.
        """
        places = cells.genes.get_indexer(pd.Index(list(genes), dtype=object))
        if (places < 0).any():
            raise KeyError(f"the data have no gene {list(genes)[int(np.flatnonzero(places < 0)[0])]!r}.")
        names, which = self.resolve(proteins)
        before = self._translate(cells, which)
        filled = np.isfinite(before).all(axis=1)
        shifts = [(self._translate(cells, which, int(place)) - before)[filled].mean(axis=0) for place in places]
        return pd.DataFrame(
            np.array(shifts, dtype=np.float32), index=list(genes), columns=pd.Index(names, dtype=object)
        )

    def _panel(self, cells: Cells, panel: Panel, present: np.ndarray) -> np.ndarray:
        """(n, P) of the whole panel, from counts in the vocabulary's genes, of which the data hold those `present`."""
        here = np.zeros(len(self.vocabulary), dtype=bool)
        here[present] = True
        ids, real = self._protein_frame(panel.protein_ids)
        encode = encoder(self.config, panel.gene_ids, here, ids, real)
        out = []
        size = cells_at_once(self.config, len(panel.gene_ids))
        for start in range(0, cells.n_cells, size):
            rows = slice(start, start + size)
            part = Cells(cells.counts[rows], cells.genes, cells.obs.iloc[rows])
            out.append(self._run(encode(part))[:, : len(panel.protein_ids)])
        found = np.concatenate(out) if out else np.zeros((0, len(panel.protein_ids)), dtype=np.float32)
        return found * panel.spread + panel.centre

    def _protein_frame(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask of the decoder's positions, padded to its frame where the original's padding is kept."""
        length = self.config.protein_frame if self.config.padding == "original" else len(ids)
        padded = np.zeros(length, dtype=np.int64)
        padded[: len(ids)] = ids
        return padded, np.arange(length) < len(ids)

    def _run(self, batch: Batch) -> np.ndarray:
        """(B, P) float32, as many cells at once as memory allows."""
        size, n = cells_at_once(self.config, batch.values.shape[1]), len(batch.values)
        found = np.zeros(tuple(batch.protein_ids.shape), dtype=np.float32)
        with self.inference() as network:
            for part in self.memory.fitting(np.arange(start, min(n, start + size)) for start in range(0, n, size)):
                with part as rows:
                    found[rows] = network(Batch(*(t[rows].to(self.device) for t in batch))).float().cpu().numpy()
        return found

    # ------------------------------------------------------------------ checkpoint

    @classmethod
    def build(cls, config: ScTranslatorConfig, vocabulary: GeneVocabulary) -> ScTranslatorNetwork:
        """A network of this configuration."""
        return ScTranslatorNetwork(config)

    def arrays(self) -> dict[str, np.ndarray]:
        """Weights, the panel, and the names of published genes as JSON in bytes."""
        parts = {f"network.{name}": array for name, array in super().arrays().items()}
        if self.names:
            parts["names"] = np.frombuffer(json.dumps(self.names, ensure_ascii=False).encode(), np.uint8)
        return parts | ({} if self.panel is None else self.panel.arrays())

    @classmethod
    def from_arrays(
        cls, config: ScTranslatorConfig, vocabulary: GeneVocabulary, arrays: dict[str, np.ndarray], card: dict[str, Any]
    ) -> Self:
        """The inverse of :meth:`arrays`."""
        network = cls.build(config, vocabulary)
        own = {k.removeprefix("network."): torch.tensor(v) for k, v in arrays.items() if k.startswith("network.")}
        load_own_state(network, own)
        names = json.loads(arrays["names"].tobytes().decode()) if "names" in arrays else None
        panel = Panel.from_arrays(arrays) if "panel.gene_ids" in arrays else None
        return cls(config, vocabulary, network, card, names=names, panel=panel)
