"""Settings of the family, with a reason for each value."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from sclm.models.neural import NeuralConfig

STAGES = ("anchor", "align", "reinforce")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CellToSGConfig(NeuralConfig):
    """Settings of :class:`~sclm.models.celltosg.model.CellToSG`."""

    # -- the language model: made from scratch, or a pretrained one with low-rank adapters
    base_lm: str = ""  # "hf:organisation/name" or a folder; empty: from scratch
    base_revision: str = ""
    base_fingerprint: str = ""  # of the base that the adapters were trained on; another one is refused
    lora_rank: int = 8
    width: int = 64
    layers: int = 2
    heads: int = 4
    # -- what a cell is written as
    max_genes: int = 3000  # genes of the vocabulary: those that vary most, and all that mark a cell type in the graph
    sentence_length: int = 48  # genes a sentence; the paper's is not public, C2S has 200
    # -- the graph channel
    use_graph: bool = True  # False: the plain cell-sentence model
    graph_width: int = 32
    graph_layers: int = 2
    graph_bases: int = 4  # of the relations' matrices
    virtual_tokens: int = 8  # K
    graph_genes: int = 64  # expressed genes of a cell that the resampler looks at
    # -- anchor
    anchor_epochs: int = 8  # the preprint's pre-training is one long pass; small data need several
    anchor_learning_rate: float = 3e-3
    # -- align
    align_epochs: int = 12
    align_learning_rate: float = 2e-3
    contrast_weight: float = 0.5  # of the graph-anchored InfoNCE; 0 leaves it out
    contrast_width: int = 32
    contrast_temperature: float = 0.07  # where the learnt temperature begins
    contrast_relatives: int = 16  # siblings and cousins of each type among the candidates
    label_smoothing: float = 0.1  # a policy that is sure of itself has nothing to explore in stage III
    # -- reinforce
    reinforce_steps: int = 20
    reinforce_learning_rate: float = 1e-4
    group_size: int = 8
    group_prompts: int = 8
    group_temperature: float = 1.3  # at 1 nearly all groups of a trained policy are equal answers
    group_free: bool = False  # sample free text instead of names of the trie
    kl_weight: float = 0.02
    reward: str = "pagerank"
    # -- all stages
    batch_size: int = 32
    weight_decay: float = 0.01
    patience: int = 4
    # -- the answer
    novel_share: float = (
        0.3  # of the cells that are expected to be of types without training cells, where it is not estimated
    )
    answer_kinship: float = 2.0  # how much an answer near the truth is worth beside the truth
    # -- what was found in training
    labels: tuple[str, ...] = ()  # names of the training types, sorted
    term_ids: tuple[str, ...] = ()  # their terms, "unknown" for labels that are no term
    candidates: tuple[str, ...] = ()  # terms that are answered by default; empty: all below "cell"
    tissues: tuple[str, ...] = ()  # values of the fields that prompts ask for
    diseases: tuple[str, ...] = ()
    organism: str = "human"
    ontology: str = "cl"
    ontology_version: str = ""
    temperature: float = 1.0  # of the answer's probabilities
    space_scale: float = 1.0  # unit of novelty

    @property
    def fields(self) -> tuple[str, ...]:
        """Columns of ``.obs`` that prompts name and ask for: those that training found values in."""
        return tuple(name for name, values in (("tissue", self.tissues), ("disease", self.diseases)) if values)

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": {
            "width": 32, "heads": 2, "layers": 1, "max_genes": 500, "sentence_length": 16, "graph_width": 8, "virtual_tokens": 2,
            "graph_genes": 16, "anchor_epochs": 1, "align_epochs": 3, "reinforce_steps": 2, "group_size": 4, "group_prompts": 4,
            "contrast_width": 16,
        },
        "small": {},
        "base": {"width": 256, "layers": 6, "heads": 8, "sentence_length": 200, "graph_width": 128, "max_genes": 8000},
    }  # fmt: skip
