"""What is read off the states of the encoder: expression, values from the cell's vector, classes.

B cells · L tokens · D width · C classes
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from sclm.models.scgpt.config import ScGPTConfig

_QUERY_WIDTH = 64  # of the hidden layer of the two query styles

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "none": nn.Identity, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "relu": nn.ReLU,
}  # fmt: skip


def _three_layers(inputs: int, width: int) -> nn.Sequential:
    """Linear, leaky ReLU, Linear, leaky ReLU, Linear to one number."""
    return nn.Sequential(
        nn.Linear(inputs, width), nn.LeakyReLU(), nn.Linear(width, width), nn.LeakyReLU(), nn.Linear(width, 1)
    )


class ExpressionDecoder(nn.Module):
    """Value of a gene from its state, and, where asked for, the probability that it is expressed at all.

    Parameters
    ----------
    inputs
        Width of what is read: D, or 2 D with batch or modality.
    width
        D.
    zero_probability
        Whether there is a second decoder. Note that its answer is the probability of *not* being zero.
    unit
        Factor of the values: from scratch, numbers near 1 are learnt sooner than bins up to 50.
    """

    def __init__(self, inputs: int, width: int, *, zero_probability: bool, unit: float = 1.0) -> None:
        super().__init__()
        self.unit = unit
        self.fc = _three_layers(inputs, width)
        self.expressed = _three_layers(inputs, width) if zero_probability else None

    def forward(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Values (B, L), and probabilities (B, L) of being expressed, from states (B, L, inputs)."""
        values = self.unit * self.fc(states).squeeze(-1)
        return values, None if self.expressed is None else torch.sigmoid(self.expressed(states).squeeze(-1))


class AffineDecoder(nn.Module):
    r"""Expression after a perturbation: :math:`A(x)\,v + B(x)` of the state x and the input value v of a gene.

    Parameters
    ----------
    width
        D.
    activation
        Of A and B.
    adaptive_bias
        Whether B is multiplied by the cell's mean non-zero input value.
    """

    def __init__(self, width: int, *, activation: str, adaptive_bias: bool) -> None:
        super().__init__()
        self.coefficient = _three_layers(width, width)
        self.bias = _three_layers(width, width)
        self.activation = _ACTIVATIONS[activation]()
        self.adaptive_bias = adaptive_bias

    def forward(self, states: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Values (B, L) after the perturbation."""
        coefficient = self.activation(self.coefficient(states).squeeze(-1))
        bias = self.activation(self.bias(states).squeeze(-1))
        if self.adaptive_bias:
            bias = bias * (values.sum(dim=1, keepdim=True) / (values != 0).sum(dim=1, keepdim=True))
        return coefficient * values + bias


class MVCDecoder(nn.Module):
    r"""Values of genes from the cell's vector c alone: masked value prediction for cell modelling.

    With the query :math:`q_g = \sigma(W_q\,e_g + b_q)` of a gene's input embedding :math:`e_g`, the value is
    :math:`(W q_g) \cdot c` ("inner product"), or a small network on q and c side by side ("concat query") or added up
    ("sum query").

    Parameters
    ----------
    style
        One of the three.
    genes, cell
        Widths of gene and cell vectors.
    detach
        Whether no gradient reaches the gene embeddings.
    zero_probability
        Whether the probability of being expressed is given too.
    unit
        Factor of the values.
    """

    def __init__(
        self, style: str, genes: int, cell: int, *, detach: bool, zero_probability: bool, unit: float = 1.0
    ) -> None:
        super().__init__()
        self.style, self.detach, self.unit = style, detach, unit
        hidden = _QUERY_WIDTH
        self.query = nn.Linear(genes, hidden if style == "concat query" else genes)
        if style == "inner product":
            self.project: nn.Linear | None = nn.Linear(genes, cell, bias=False)
            self.project_expressed = nn.Linear(genes, cell) if zero_probability else None
        else:
            self.project = self.project_expressed = None
            self.fc1 = nn.Linear(cell + hidden if style == "concat query" else cell, hidden)
            self.activation = nn.PReLU()
            self.fc2 = nn.Linear(hidden, 1)

    def forward(self, cell: torch.Tensor, genes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Values (B, L), and probabilities (B, L) of being expressed, from cells (B, cell) and genes (B, L, genes)."""
        query = torch.sigmoid(self.query(genes.detach() if self.detach else genes))  # (B, L, genes or hidden)
        if self.project is None:
            cells = cell[:, None, :]  # (B, 1, cell)
            if self.style == "concat query":
                joined = torch.cat([cells.expand(-1, query.shape[1], -1), query], dim=-1)
            else:
                joined = cells + query
            return self.unit * self.fc2(self.activation(self.fc1(joined))).squeeze(-1), None
        values = self.unit * torch.einsum("bld,bd->bl", self.project(query), cell)
        if self.project_expressed is None:
            return values, None
        return values, torch.sigmoid(torch.einsum("bld,bd->bl", self.project_expressed(query), cell))


class Classifier(nn.Module):
    """Classes from the cell's vector: layers of Linear, activation, LayerNorm, and a last Linear.

    Parameters
    ----------
    width
        D.
    n_classes
        C.
    n_layers
        With the last one.
    activation
        Class of the activation.
    """

    def __init__(self, width: int, n_classes: int, n_layers: int, activation: type[nn.Module]) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for _ in range(n_layers - 1):
            parts += [nn.Linear(width, width), activation(), nn.LayerNorm(width)]
        self.body = nn.Sequential(*parts)
        self.out = nn.Linear(width, n_classes)

    def forward(self, cell: torch.Tensor) -> torch.Tensor:
        """Logits (B, C)."""
        return self.out(self.body(cell))


class _Reversed(torch.autograd.Function):
    """The identity, whose gradient has the other sign."""

    @staticmethod
    def forward(context: Any, x: torch.Tensor, scale: float) -> torch.Tensor:
        context.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return -context.scale * gradients[0], None


def reversed_gradient(x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """`x` itself; backwards its gradient times ``-scale`` (Ganin and Lempitsky, 2015)."""
    return _Reversed.apply(x, scale)


class LabelEncoder(nn.Module):
    """Embedding of a batch or a modality, normalised."""

    def __init__(self, n_labels: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_labels, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        """(…, D) of labels (…) int64."""
        return self.norm(self.embedding(labels))


def decoders(config: ScGPTConfig) -> nn.ModuleDict:
    """The heads of a configuration: ``expression``, ``mvc``, ``classes``, ``adversary`` where it has them."""
    width = config.width
    labelled = config.batch_labels or config.n_modalities > 0
    heads = nn.ModuleDict()
    if config.expression == "mlp":
        inputs = 2 * width if labelled else width
        heads["expression"] = ExpressionDecoder(
            inputs, width, zero_probability=config.zero_probability, unit=config.value_unit
        )
    elif config.expression == "affine":
        heads["expression"] = AffineDecoder(
            width, activation=config.affine_activation, adaptive_bias=config.adaptive_bias
        )
    if config.mvc != "none":
        heads["mvc"] = MVCDecoder(
            config.mvc, 2 * width if config.n_modalities else width, 2 * width if labelled else width,
            detach=config.mvc_detach, zero_probability=config.zero_probability,
        )  # fmt: skip
    if config.classes:
        heads["classes"] = Classifier(width, len(config.classes), config.class_layers, nn.ReLU)
    if config.adversary:
        heads["adversary"] = Classifier(width, len(config.batches), 3, nn.LeakyReLU)
    return heads
