"""An encoder and a head that learn types together: the head, low-rank adapters, the training system.

B cells · L tokens · D width of the vectors · K types
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch

from sclm.nn import seeded
from sclm.training import parameter_groups, planned_steps
from sclm.training.schedule import warmup_cosine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sclm.models.encoder import EncoderFamily


class LabelledBatch(NamedTuple):
    """Cells with their types."""

    ids: torch.Tensor  # (B, L) int64
    values: torch.Tensor | None  # (B, L) float32
    real: torch.Tensor  # (B, L) bool
    codes: torch.Tensor  # (B,) int64


class TypeLayers(torch.nn.Module):
    """scGPT's classification head on standardised vectors: (linear, ReLU, layer norm) n - 1 times, and a linear layer.

    Parameters
    ----------
    mean, scale
        (D,) of the vectors before training, by which they are standardised: vectors of one encoder have length 1, of another 30.
    n_types
        K.
    n_layers
        n.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, mean: np.ndarray, scale: np.ndarray, n_types: int, n_layers: int) -> None:
        super().__init__()
        width = len(mean)
        self.register_buffer("mean", torch.from_numpy(mean.astype(np.float32)))
        self.register_buffer("scale", torch.from_numpy(scale.astype(np.float32)))
        outputs = [width] * (n_layers - 1) + [n_types]
        self.linear = torch.nn.ModuleList(torch.nn.Linear(width, out) for out in outputs)
        self.norm = torch.nn.ModuleList(torch.nn.LayerNorm(width) for _ in outputs[:-1])

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Logits (B, K) of vectors (B, D)."""
        x = (vectors - self.mean) / self.scale
        for linear, norm in zip(self.linear[:-1], self.norm, strict=True):
            x = norm(torch.relu(linear(x)))
        return self.linear[-1](x)

    def arrays(self) -> dict[str, np.ndarray]:
        """Weights as :class:`~sclm.models.encoder_head.LabelHead` reads them, the standardisation inside the first layer."""
        out: dict[str, np.ndarray] = {}
        for name, parts in (("linear", self.linear), ("norm", self.norm)):
            for i, part in enumerate(parts):
                out |= {
                    f"{name}{i}.{kind}": tensor.detach().cpu().numpy() for kind, tensor in part.state_dict().items()
                }
        mean, scale = self.mean.cpu().numpy(), self.scale.cpu().numpy()
        out["linear0.weight"] = out["linear0.weight"] / scale
        out["linear0.bias"] = out["linear0.bias"] - out["linear0.weight"] @ mean
        return out


class TypeModule(pl.LightningModule):
    """Cross-entropy of types; the head and what is trained of the encoder's network have learning rates of their own.

    Parameters
    ----------
    model
        The encoder, whose network learns in place.
    head
        Names its vectors.
    layer, pooling
        The vectors that are named.
    learning_rate, head_learning_rate
        Highest rates of the network and of the head.
    weight_decay
        Of weight matrices.
    weights
        (K,) of the types in the loss; None for equal ones.
    """

    weights: torch.Tensor | None

    def __init__(
        self,
        model: EncoderFamily,
        head: TypeLayers,
        *,
        layer: int,
        pooling: str,
        learning_rate: float,
        head_learning_rate: float,
        weight_decay: float,
        weights: np.ndarray | None,
    ) -> None:
        super().__init__()
        self.model = model
        self.network = model.network
        self.head = head
        self.layer, self.pooling = layer, pooling
        self.rates = {"network": learning_rate, "head": head_learning_rate}
        self.weight_decay = weight_decay
        self.register_buffer("weights", None if weights is None else torch.from_numpy(weights.astype(np.float32)))

    def loss(self, batch: LabelledBatch) -> torch.Tensor:
        """Mean nats a cell."""
        vectors = self.model.encode(batch.ids, batch.values, batch.real, self.layer, self.pooling)
        return torch.nn.functional.cross_entropy(self.head(vectors.float()), batch.codes, weight=self.weights)

    def training_step(self, batch: LabelledBatch, index: int) -> torch.Tensor:
        """Nats a cell."""
        return self.loss(batch)

    def validation_step(self, batch: LabelledBatch, index: int) -> None:
        """The same on held-out cells, logged as ``validation_loss``."""
        self.log("validation_loss", self.loss(batch), batch_size=len(batch.codes))

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up over a tenth of the steps, and cosine decay."""
        groups = [
            {**group, "lr": self.rates[part]}
            for part in ("network", "head")
            for group in parameter_groups(getattr(self, part), self.weight_decay)
        ]
        optimizer = torch.optim.AdamW(groups)
        steps = planned_steps(self.trainer)
        schedule = warmup_cosine(
            optimizer, total_steps=steps, warmup_steps=min(round(0.1 * steps), steps - 1), floor=0.0
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def linear_layers(network: torch.nn.Module, n_layers: int) -> list[str]:
    """Names of the linear maps inside the repeated layers of a network: attention and feed-forward, no heads or embeddings."""
    stacks = [
        path
        for path, part in network.named_modules()
        if isinstance(part, torch.nn.ModuleList) and len(part) == n_layers
    ]
    return [
        path
        for path, part in network.named_modules()
        if isinstance(part, torch.nn.Linear) and any(path.startswith(f"{stack}.") for stack in stacks)
    ]


def add_adapters(network: torch.nn.Module, targets: Sequence[str], rank: int, seed: int) -> None:
    r"""Freeze a network, and give linear maps trainable low-rank adapters (LoRA, Hu et al., 2022): :math:`W x + 2 B A x`.

    Parameters
    ----------
    network
        Changed in place.
    targets
        Names of its linear layers.
    rank
        Of A and B; B starts at zero.
    seed
        Of A's first values.
    """
    from peft import LoraConfig, inject_adapter_in_model

    network.requires_grad_(False)
    settings = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(targets))
    with seeded(seed):
        inject_adapter_in_model(settings, network)
    for path, parameter in network.named_parameters():
        parameter.requires_grad_("lora_" in path)


def merge_adapters(network: torch.nn.Module) -> None:
    """Add the adapters to the weights that they adapt, and take them out: the network has its own layers again."""
    from peft.tuners.lora import LoraLayer

    adapted = [(path, part) for path, part in network.named_modules() if isinstance(part, LoraLayer)]
    for path, part in adapted:
        part.merge()
        owner, _, name = path.rpartition(".")
        setattr(network.get_submodule(owner), name, part.get_base_layer())
    network.requires_grad_(True)
