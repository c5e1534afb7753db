"""Settings of the cell2sentence family: which language model, and how it is asked."""

from __future__ import annotations

import dataclasses

from sclm.models.cell2sentence import prompts
from sclm.models.cell2sentence.inverse import InverseRank
from sclm.models.neural import NeuralConfig

HUMAN = "Homo sapiens"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell2SentenceConfig(NeuralConfig):
    """Which language model, and how it is asked."""

    base_lm: str  # "hf:organisation/name", or a folder
    revision: str = ""  # commit on the hub
    fingerprint: str = ""  # of the weights: another model is refused
    dtype: str = ""  # of the weights in memory; empty: as they are stored
    n_genes: int = 200  # of a sentence: what the published 410M models were trained on
    organism: str = HUMAN  # as the prompts name it
    annotate_prompt: str = prompts.ANNOTATE
    generate_prompt: str = prompts.GENERATE
    answer: str = prompts.ANSWER
    candidates: tuple[str, ...] = ()  # names or ids that annotate may give; empty: all of the Cell Ontology
    synonyms: bool = False  # exact synonyms may be written for a term as well
    temperature: float = 1.0  # divisor of the log-probabilities of names: see Cell2Sentence.calibrated
    # Line from rank to expression: intercept, slope, depth, R2, Pearson, Spearman. This one: 2,638 blood cells (10x PBMC 3k).
    inverse: tuple[float, ...] = (2.7632, -0.7499, 2238.5, 0.886, -0.941, -0.811)
    max_tokens: int = 1024  # of a sentence that is written

    def __post_init__(self) -> None:
        for name in prompts.SLOTS:
            prompts.check_template(name, getattr(self, name))
        for name in ("n_genes", "max_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}.")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, found {self.temperature}.")
        if len(self.inverse) != len(dataclasses.fields(InverseRank)):
            raise ValueError(f"inverse must hold the numbers of an InverseRank, found {len(self.inverse)}.")
