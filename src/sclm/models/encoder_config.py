"""Settings that every encoder of cells has beside its network's: the types that it names, found in training."""

from __future__ import annotations

import dataclasses

from sclm.models.neural import NeuralConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig(NeuralConfig):
    """Base of the configurations of encoders; all empty until :meth:`~sclm.models.encoder.EncoderFamily.fit_labels` fills it in."""

    tune: str = (
        ""  # how the types were learnt: "frozen", "lora", "full" or "neighbours"; "" for an encoder that names none
    )
    labels: tuple[str, ...] = ()  # name of each type, the order of the probabilities' columns
    term_ids: tuple[str, ...] = ()  # ontology id of each type, "unknown" where it has none
    label_layer: int = 0  # layer, 0 to n_layers, whose states the types were learnt on
    label_pooling: str = ""  # how the cell's vector was taken from them
    n_neighbors: int = 10  # reference cells that vote, with tune="neighbours"
    temperature: float = 1.0  # divisor of the scores, fitted on held-out reference cells
    space_scale: float = 1.0  # 95th percentile of held-out distances, the unit of novelty
    ontology: str = "cl"
    ontology_version: str = ""
