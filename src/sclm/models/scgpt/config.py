"""Settings of an scGPT network."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from sclm.models.encoder_config import EncoderConfig

MVC_STYLES = ("inner product", "concat query", "sum query")
ACTIVATIONS = ("none", "tanh", "sigmoid", "relu")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScGPTConfig(EncoderConfig):
    """Size, tokens and heads of a network, and how it learns.

    The defaults are those of the published whole-human model; a fine-tuned checkpoint has the heads that its tensors show.
    """

    width: int = 512  # D, of all states
    n_heads: int = 8  # of 64 dimensions each
    n_layers: int = 12
    feed_forward: int = 512  # as wide as the states: no expansion, unlike other transformers
    dropout: float = 0.2
    attention_dropout: float = 0.2  # of attention weights; 0 is several times faster, and is what our presets have

    # tokens
    max_length: int = 1200  # with <cls>; of a cell with more genes a random subset is read
    n_bins: int = 51  # of values, bin 0 holds the zeros
    ties: str = "upper"  # "upper" or "spread": see sclm.cells.bin_values
    values: str = "bins"  # "bins", or "log": log1p of counts scaled to 10,000, as in perturbation models
    include_zeros: bool = False  # whether genes that a cell does not express are tokens
    panel_size: int = 0  # genes that are read, chosen when it was trained; 0: all of the vocabulary
    cls_value: float = -2.0  # value at <cls>: that of padding when embedding, 0 in fine-tuned models
    pad_value: int = -2
    mask_value: int = -1

    # input
    input_norm: str = "none"  # "none", "batch" (old models), "domain" (one set of statistics a batch)
    batch_key: str | None = None  # column of .obs
    batches: tuple[str, ...] = ()  # names of the batches, in the order of their numbers
    batch_labels: bool = False  # whether the decoders read the batch
    n_modalities: int = 0  # of multi-omic models
    flags: int = 0  # 2 where the network also writes genes that it was not shown
    perturbation_flags: int = 0  # 3 in perturbation models; row 0 is the frozen zero of genes left alone

    # heads
    expression: str = "mlp"  # "none", "mlp", or "affine": coefficient times input value plus bias
    value_unit: float = 1.0  # what the decoders' numbers are multiplied by; our presets have the spread of uniform bins
    affine_activation: str = "none"
    adaptive_bias: bool = False  # bias times the cell's mean non-zero value
    zero_probability: bool = False  # whether a second decoder says how probably a gene is expressed
    mvc: str = "inner product"  # "none" or one of MVC_STYLES: values from the cell's vector
    mvc_detach: bool = False
    classes: tuple[str, ...] = ()  # of a classification head
    class_layers: int = 3
    adversary: bool = False  # whether the batch is guessed from the cell's vector, with reversed gradient

    # training
    objective: str = "none"  # what it was trained for by us: "masking", "integration", "perturbation"
    perturbations: tuple[str, ...] = ()  # names that it was trained on
    control: str = ""  # label of unperturbed cells
    paired_within: str = ""  # column of .obs within whose batches they were paired with perturbed ones
    relative: bool = False  # whether predictions are the control mean plus a difference; True in models trained here
    response_cells: int = 300  # control cells whose predictions are averaged, as in the original
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    batch_size: int = 32
    max_epochs: int = 30
    train_length: int = 0  # tokens of a cell in training, a new random subset each time; 0: max_length
    mask_ratio: float = 0.4  # of the genes of a training cell
    absent: float = 1.0  # genes that a cell lacks and whose 0 its vector has to tell, per hidden gene
    # Weights of an integrating model's loss beside squared errors in units of the variance of uniform bins. In these units the authors'
    # script has 0.005, 0.05 and 0.005. More similarity drives all cells apart, those of a type too; less of the adversary mixes less.
    zero_weight: float = 1.0
    similarity_weight: float = 0.02
    adversary_weight: float = 0.1
    generative: float = 0.0  # weight of the generative loss; needs flags
    validation_share: float = 0.1
    patience: int = 5

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        # a few seconds an epoch on one core
        "tiny": {
            "width": 64, "n_heads": 4, "n_layers": 2, "feed_forward": 96, "dropout": 0.0, "attention_dropout": 0.0,
            "value_unit": 15.0, "max_length": 600, "train_length": 64, "absent": 2.0, "learning_rate": 1e-2, "max_epochs": 40,
        },
        "small": {
            "width": 128, "n_heads": 4, "n_layers": 4, "feed_forward": 256, "dropout": 0.1, "attention_dropout": 0.0, "value_unit": 15.0, "train_length": 256,
            "learning_rate": 1e-3, "batch_size": 32, "max_epochs": 30,
        },
        "whole-human": {},
    }  # fmt: skip

    @property
    def training_length(self) -> int:
        """Tokens of a cell in training, at most."""
        return min(self.train_length or self.max_length, self.max_length)

    def __post_init__(self) -> None:
        for name, allowed in (
            ("ties", ("upper", "spread")),
            ("values", ("bins", "log")),
            ("input_norm", ("none", "batch", "domain")),
            ("expression", ("none", "mlp", "affine")),
            ("mvc", ("none", *MVC_STYLES)),
            ("affine_activation", ACTIVATIONS),
            ("objective", ("none", "masking", "integration", "perturbation")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} must be one of {', '.join(map(repr, allowed))}, found {getattr(self, name)!r}."
                )
        for name in ("width", "n_heads", "n_layers", "feed_forward", "batch_size", "max_epochs", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}.")
        if self.width % self.n_heads:
            raise ValueError(f"width must be a multiple of n_heads={self.n_heads}, found {self.width}.")
        if self.train_length < 0 or self.train_length == 1:
            raise ValueError(f"train_length must be at least 2, or 0 for max_length, found {self.train_length}.")
        if self.max_length < 2 or self.n_bins < 3:
            raise ValueError(
                f"max_length must be at least 2 and n_bins at least 3, found {self.max_length} and {self.n_bins}."
            )
        for name in ("dropout", "attention_dropout", "validation_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), found {getattr(self, name)}.")
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"mask_ratio must lie between 0 and 1, found {self.mask_ratio}.")
        if self.mvc in MVC_STYLES[1:] and (self.batch_labels or self.n_modalities or self.zero_probability):
            raise ValueError(
                f"mvc={self.mvc!r} reads neither batches nor modalities and gives no probabilities of zero."
            )
        if self.generative and not self.flags:
            raise ValueError("generative= needs flags=2: the embedding that asks for a gene.")
        if (self.input_norm == "domain" or self.batch_labels or self.adversary) and not self.batches:
            raise ValueError("A network that reads batches needs their names: batches must not be empty.")
