"""Settings of the family, with a reason for each value."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from sclm.models.neural import NeuralConfig

ADAPTERS = ("mlp", "perceiver")
CELL_INPUTS = ("expression", "vector", "")
TUNES = ("lora", "full")
DECODINGS = ("template", "free")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell2TextConfig(NeuralConfig):
    """Settings of :class:`~sclm.models.cell2text.model.Cell2Text`. Defaults that name the paper are those of its repository."""

    # -- the language model: made from scratch, or a pretrained one
    base_lm: str = ""  # "hf:organisation/name" or a folder; empty: from scratch
    base_revision: str = ""
    base_fingerprint: str = ""  # of the base that was trained on; another one is refused
    tune: str = "lora"  # of a pretrained one; "full" trains and keeps all its weights
    lora_rank: int = 16  # with alpha = 2 r on all linear layers, as the paper
    lora_dropout: float = 0.1  # the paper's
    width: int = 64  # from scratch
    layers: int = 2
    heads: int = 4
    # -- what it reads of a cell
    top_k: int = 256  # gene positions; the paper's 3B run
    hidden_layer: int | None = None  # of the encoder; None: the one that its family takes
    adapter: str = "mlp"
    adapter_width: int = 2048  # of its hidden layer
    adapter_dropout: float = 0.05
    latents: int = 128  # of the perceiver
    latent_layers: int = 4
    latent_heads: int = 4
    # "expression": one more token, from principal components of the log-normalised counts of variable genes; "vector": from the encoder's
    # vector of the cell; "": gene positions only, as the paper. A small encoder's states lose what tells close types apart.
    cell_input: str = "expression"
    components: int = 50
    cell_tokens: int = 1
    cell_width: int = 128
    cell_dropout: float = 0.2  # of the components, in training
    # One more token, from the log probabilities of a softmax regression of the types on these genes. A small language model from
    # random weights needs many cells to find what a regression finds at once. In the slot of the type the probabilities of both are
    # multiplied, with weights that are fitted to held-out cells.
    type_token: bool = False
    max_genes: int = 2000
    class_weight: float = 0.0  # of heads that name type, tissue and disease beside the text; the paper has none
    # -- what it writes
    definitions: bool = True  # what the cell type is, by the ontology
    slot_weight: float = (
        1.0  # of the words that differ between cells, beside those of the template; 1 is the paper's loss
    )
    type_balance: float = 0.0  # words of a type weigh n_cells ** -type_balance of it (mean 1); the paper has none
    decoding: str = "template"  # "free": the model writes word by word, and the text is parsed
    max_tokens: int = 300  # of a free text
    # -- training
    epochs: int = 1  # the paper's 3B run
    batch_size: int = 32  # the paper's, accumulated
    adapter_learning_rate: float = 1e-3
    lm_learning_rate: float = 1e-4
    weight_decay: float = 0.0
    warmup: float = 0.03
    patience: int = 5
    final_epochs: int = 0  # more, at half the rates, in which the held-out cells join; small data need all donors
    # -- what was found in training
    labels: tuple[str, ...] = ()
    term_ids: tuple[str, ...] = ()  # "unknown" for labels that are no term
    definition_texts: tuple[str, ...] = ()  # of the labels
    tissues: tuple[str, ...] = ()
    donors: tuple[str, ...] = ()  # "sex|disease" of the donors that were seen
    ages: tuple[str, ...] = ()
    pathways: tuple[str, ...] = ()
    pathway_texts: tuple[str, ...] = ()
    ontology: str = "cl"
    ontology_version: str = ""
    encoder: str = ""  # its family
    temperature: float = 1.0  # of the probabilities of cell types
    regression_weight: float = (
        0.0  # of the regression's log probabilities in the slot of the type, beside 1 of the language model's
    )
    space_scale: float = 1.0  # unit of novelty

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": {
            "width": 32, "layers": 1, "heads": 2, "top_k": 8, "adapter_width": 32, "latents": 4, "latent_layers": 1, "latent_heads": 2,
            "cell_width": 32, "components": 10, "type_token": True, "max_genes": 500, "epochs": 12, "final_epochs": 2, "adapter_learning_rate": 5e-3, "lm_learning_rate": 1e-2, "batch_size": 16,
            "slot_weight": 5.0, "type_balance": 0.5,
        },
        "small": {
            "top_k": 32, "adapter_width": 128, "latents": 16, "latent_layers": 2, "epochs": 10, "final_epochs": 3, "components": 200, "type_token": True, "adapter_learning_rate": 2e-3,
            "lm_learning_rate": 2e-3, "slot_weight": 5.0, "type_balance": 0.5, "weight_decay": 0.01,
        },
        "llama-3.2-3b": {"base_lm": "hf:meta-llama/Llama-3.2-3B-Instruct", "cell_input": ""},
        "llama-3.2-1b": {
            "base_lm": "hf:meta-llama/Llama-3.2-1B-Instruct", "tune": "full", "top_k": 1024, "epochs": 3, "lm_learning_rate": 2e-5,
            "adapter_learning_rate": 2e-5, "cell_input": "",
        },
    }  # fmt: skip

    def __post_init__(self) -> None:
        for name, allowed in (
            ("adapter", ADAPTERS),
            ("cell_input", CELL_INPUTS),
            ("tune", TUNES),
            ("decoding", DECODINGS),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} must be one of {', '.join(map(repr, allowed))}, found {getattr(self, name)!r}."
                )
        for name in (
            "top_k",
            "latents",
            "components",
            "cell_tokens",
            "max_genes",
            "epochs",
            "batch_size",
            "max_tokens",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}.")
        if self.type_token and self.cell_input != "expression":
            raise ValueError(f"type_token=True needs cell_input='expression', found {self.cell_input!r}.")
        if self.tune == "lora" and self.base_lm and self.lora_rank < 1:
            raise ValueError(f"lora_rank must be at least 1 where tune='lora', found {self.lora_rank}.")
