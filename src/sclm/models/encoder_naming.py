"""How encoders name cells: the verb `annotate`, and the call that learns the names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pandas as pd

from sclm.cells.columns import move_columns
from sclm.evidence import softmax
from sclm.evidence.backoff import UNKNOWN
from sclm.models.contract import Annotation
from sclm.models.encoder_head import LabelHead
from sclm.models.neural import NeuralFamily

if TYPE_CHECKING:
    from sclm.cells import Cells, CellSource, GeneVocabulary

_PREFIX = "labels."  # of the head's arrays in a checkpoint
# Settings that say how names are learnt, and where: with base=None all others are of the training from scratch.
_OF_LABELS = ("hidden_layer", "pooling", "balanced", "max_cells", "n_neighbors", "penalty", "lora_rank", "head_layers", "head_learning_rate")  # fmt: skip
_OF_BOTH = ("progress_bar", "accelerator", "devices", "num_nodes", "strategy", "precision")


class NamesCells(NeuralFamily):
    """The part of an encoder that names cells, once it has learnt to."""

    #: Scores of types and novelty; None until :meth:`fit_labels`.
    head: LabelHead | None = None
    #: One row a label of the reference, after training: label, n_cells, name, term_id, kind. None for a loaded model.
    reference_labels: pd.DataFrame | None = None
    Config: ClassVar[type]
    _known: tuple[pd.Index, np.ndarray] | None = None  # genes of the data that were matched last

    @classmethod
    def fit_labels(
        cls,
        source: CellSource,
        *,
        label_key: str,
        batch_key: str | None = None,
        base: Any = None,
        tune: str = "frozen",
        genes: Any = None,
        seed: int = 0,
        **settings: Any,
    ) -> Self:
        r"""Learn to name cells on top of an encoder: the way :func:`sclm.train` goes where a family of encoders is given `label_key`.

        A fifth of the labelled cells is held out (whole batches with `batch_key`). They stop the training, and give the temperature of
        the confidences (Guo et al., ICML 2017) and the unit of novelty.

        Parameters
        ----------
        source
            Labelled cells; those without a label are left out.
        label_key
            Column of ``.obs`` with the types; resolved to terms of the Cell Ontology.
        batch_key
            Column of ``.obs`` with the donor or batch.
        base
            The encoder to start from, a model of this family. It is not changed. None: one is trained from scratch on all cells of
            `source` first, with all `settings` that are not about the names.
        tune
            What is learnt:

            ``"frozen"``
                Multinomial logistic regression on standardised vectors of the encoder, from scikit-learn.
            ``"neighbours"``
                Nothing: the nearest reference cells vote, by the cosine of standardised vectors (reference mapping).
                Those of the reference are kept in half precision.
            ``"lora"``
                A head (linear, ReLU and layer norm, `head_layers` - 1 times, and a linear layer: that of scGPT), together with low-rank
                adapters of the linear maps in attention and feed-forward layers, :math:`W x + 2 B A x` (Hu et al., 2022), which
                are added to the weights in the end.
            ``"full"``
                The head and all weights.
        genes
            Genes of the data that will be named: others are left out of the labelled cells too, so that both look alike.
        seed
            Of everything random.
        **settings
            ``hidden_layer``, ``pooling``: which vectors, as in :meth:`~sclm.models.encoder.EncoderFamily.embed`; by default the
            original's, and the last layer where the network is trained. ``balanced`` (False): types count alike however many cells
            they have. ``max_cells`` (100,000): of the reference, for ``"frozen"`` and ``"neighbours"``; some of every type are kept.
            ``n_neighbors`` (10). ``penalty`` (1.0): of the logistic regression, the inverse of scikit-learn's C. ``lora_rank`` (8).
            ``head_layers`` (3). ``learning_rate`` (1e-3 for adapters, 1e-4 for all weights) and ``head_learning_rate`` (1e-3):
            highest rates of AdamW, after a warm-up and before a cosine. ``weight_decay`` (0.01), ``batch_size`` (32), ``max_epochs``
            (10, more for few cells: at least 200 steps), ``patience`` (a fifth of it, at least 3), ``max_minutes``, and
            ``progress_bar``, ``accelerator``, ``devices``, ``num_nodes``, ``strategy``, ``precision`` as in
            :func:`sclm.training.fit`.

        Returns
        -------
        A model of the same family that can ``annotate``.

        Raises
        ------
        TypeError
            If `base` is no model of this family, or there is no such setting.
        ValueError
            If a setting is out of range, or there are fewer than two types.
        """
        from sclm.models.encoder_labels import learn_labels

        if base is None:
            own = {name: settings.pop(name) for name in _OF_LABELS if name in settings}
            base = cls.fit(source, genes=genes, seed=seed, **settings)
            settings = own | {name: settings[name] for name in _OF_BOTH if name in settings}
        if not isinstance(base, cls):
            found = getattr(base, "family", type(base).__name__)
            raise TypeError(
                f"base must be a {cls.family!r} model, found {found!r}. Pass a model, its folder or its published name to sclm.train."
            )
        labelled = {"label_key": label_key, "batch_key": batch_key, "tune": tune, "genes": genes, "seed": seed}
        encoder: Any = base
        return learn_labels(encoder, source, **labelled, **settings)  # type: ignore[return-value]

    def annotate(self, cells: Cells) -> Annotation:
        """Names for a block of cells.

        Cells that express no gene of the model are ``"unknown"`` with confidence 0 and novelty 1.

        Parameters
        ----------
        cells
            Raw counts.

        Returns
        -------
        Labels, ids, confidences and probabilities.

        Raises
        ------
        ValueError
            If the model has not learnt to name cells.
        """
        encoder: Any = self
        head, config = self.head, encoder.config
        if head is None:
            where = f", base={str(self.path)!r}" if self.path else ", base=model"
            raise ValueError(
                f"This {self.family!r} model gives vectors and no names: it has learnt no cell types. Teach it on labelled cells: "
                f"model = sclm.train({self.family!r}, reference, label_key=...{where})."
            )
        tokens = encoder.tokenise(cells)
        vectors = encoder.embed_tokens(tokens, hidden_layer=config.label_layer, pooling=config.label_pooling)
        filled = ~np.isnan(vectors[:, 0])
        n_types = len(config.labels)
        probabilities = np.full((len(filled), n_types), 1.0 / n_types, dtype=np.float32)
        novelty = np.ones(len(filled))
        if filled.any():
            ids = self._ids_of(cells.genes)
            present = np.zeros(len(self.vocabulary), dtype=bool)
            present[ids[ids >= 0]] = True
            counts = move_columns(cells.counts[filled], ids, len(present))
            probabilities[filled] = softmax(head.scores(vectors[filled]), config.temperature)
            novelty[filled] = head.space.novelty(counts, present)
        best = probabilities.argmax(axis=1)
        labels, term_ids = (np.array(names, dtype=object) for names in (config.labels, config.term_ids))
        table = pd.DataFrame(
            {
                "label": np.where(filled, labels[best], UNKNOWN),
                "ontology_term_id": np.where(filled, term_ids[best], UNKNOWN),
                "confidence": np.where(filled, probabilities[np.arange(len(best)), best].astype(np.float64), 0.0),
                "novelty": novelty,
            },
            index=cells.obs.index,
        )
        categories = pd.DataFrame({"label": list(config.labels), "ontology_term_id": list(config.term_ids)})
        return Annotation(table, probabilities, categories)

    def _ids_of(self, genes: pd.Index) -> np.ndarray:
        """Token of each gene of the data, -1 where there is none; a stream of blocks is matched once."""
        if self._known is None or self._known[0] is not genes:
            encoder: Any = self
            self._known = (genes, encoder.match(genes).ids)
        return self._known[1]

    def adapted_layers(self) -> list[str]:
        """Names of the linear maps of the network that get low-rank adapters: those inside its repeated layers."""
        from sclm.models.encoder_classifier import linear_layers

        encoder: Any = self
        return linear_layers(self.network, encoder.n_layers)

    # A checkpoint ----------------------------------------------------------------------------------------------------

    def arrays(self) -> dict[str, np.ndarray]:
        """Weights of the network, and of what names cells."""
        named = {} if self.head is None else self.head.arrays
        return super().arrays() | {f"{_PREFIX}{name}": array for name, array in named.items()}

    @classmethod
    def from_arrays(
        cls, config: Any, vocabulary: GeneVocabulary, arrays: dict[str, np.ndarray], card: dict[str, Any]
    ) -> Self:
        """The inverse of :meth:`arrays`, on the CPU."""
        arrays = dict(arrays)
        head = cls.take_head(config, arrays)
        model = super().from_arrays(config, vocabulary, arrays, card)
        model.head = head
        return model

    @staticmethod
    def take_head(config: Any, arrays: dict[str, np.ndarray]) -> LabelHead | None:
        """What names cells, taken out of the arrays of a checkpoint; for families with a :meth:`from_arrays` of their own."""
        named = {name.removeprefix(_PREFIX): arrays.pop(name) for name in list(arrays) if name.startswith(_PREFIX)}
        return LabelHead(named, len(config.labels), config.n_neighbors, config.space_scale) if named else None
