"""Descriptions of a batch in words: facts, how probable each is, texts, and which types may be given.

B cells
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sclm.evidence import softmax
from sclm.knowledge import Ontology
from sclm.texts import CellFacts, describe_template, parse_template

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sclm.models.cell2text.config import Cell2TextConfig
    from sclm.models.cell2text.decoding import Decoder
    from sclm.models.cell2text.slots import Slots
    from sclm.models.cell2text.tokens import Batch


class Written(NamedTuple):
    """What is said of the cells of a batch.

    Attributes
    ----------
    facts
        One a cell.
    chances
        Field → (B,) probability of what is said; only fields in which there was a choice.
    texts
        One a cell.
    """

    facts: list[CellFacts]
    chances: dict[str, np.ndarray]
    texts: list[str]


def written(decoder: Decoder, batch: Batch, types: np.ndarray | None = None, *, reuse: bool = True) -> Written:
    """Describe the cells of a batch.

    Parameters
    ----------
    decoder
        Asks the network.
    batch
        Prompts.
    types
        (B,) places of the cell types that are given, -1 where the model names it; see :func:`type_places`. None: it names all.
    reuse
        See :meth:`~sclm.models.cell2text.decoding.Decoder.fill`.

    Returns
    -------
    Facts, their probabilities, texts.
    """
    slots = decoder.slots
    if slots.config.decoding == "free":
        texts = decoder.free(batch, slots.config.max_tokens)
        return Written([_parsed(text, slots) for text in texts], {}, texts)
    filled = decoder.fill(batch, given=None if types is None else {"cell_type": types}, reuse=reuse)
    facts = [slots.facts({slot: int(place[i]) for slot, place in filled.chosen.items()}) for i in range(len(batch.ids))]
    texts = [describe_template(of, pathway_texts=slots.pathway_texts) for of in facts]
    return Written(facts, _chances(filled.chosen, filled.log_probs, slots), texts)


def type_places(labels: Sequence[str], config: Cell2TextConfig) -> np.ndarray:
    """(n,) int64 place of each label among the types of a model, by its name or its term; -1 where it is empty.

    Raises
    ------
    ValueError
        If a label is none of the types, or the model writes free text, in which nothing can be given.
    """
    ontology = Ontology.load(config.ontology)
    of_name = {name: i for i, name in enumerate(config.labels)}
    of_term = {term: i for i, term in enumerate(config.term_ids) if term in ontology}
    place, strange = {"": -1}, []
    for label in dict.fromkeys(labels):
        if label and label not in of_name:
            found = of_term.get(ontology.resolve(label, min_score=1.0).term_id or "", -1)
            if found < 0:
                strange.append(label)
            place[label] = found
        elif label:
            place[label] = of_name[label]
    if strange:
        names = ", ".join(map(repr, strange[:5])) + (" …" if len(strange) > 5 else "")
        known = ", ".join(map(repr, config.labels[:10])) + (" …" if len(config.labels) > 10 else "")
        raise ValueError(
            f"{len(strange)} labels are none of the {len(config.labels)} types that this model writes about: {names}; it knows {known}. "
            "Leave label_key out, and the model names the types, or pass model='evidence', which checks any label."
        )
    if config.decoding == "free" and any(labels):
        raise ValueError(
            "Labels can be given with decoding='template' only, found 'free'. Leave label_key out, or use model.set(decoding='template')."
        )
    return np.array([place[label] for label in labels], dtype=np.int64)


def _parsed(text: str, slots: Slots) -> CellFacts:
    config = slots.config
    diseases = [disease for _, disease in slots.donors if disease]
    return parse_template(
        text, cell_types=config.labels, tissues=config.tissues, diseases=diseases, pathways=config.pathways,
        pathway_texts=slots.pathway_texts,
    )  # fmt: skip


def _chances(
    chosen: Mapping[str, np.ndarray], log_probs: Mapping[str, np.ndarray], slots: Slots
) -> dict[str, np.ndarray]:
    """Probability of what was said in each field, where there was a choice."""
    found = {}
    for slot, scores in log_probs.items():
        if scores.shape[1] < 2:
            continue
        temperature = slots.config.temperature if slot == "cell_type" else 1.0
        p, at = softmax(scores, temperature), np.arange(len(scores))
        if slot == "donor":  # a phrase holds both
            for field, part in (("sex", 0), ("disease", 1)):
                names = np.array([pair[part] for pair in slots.donors], dtype=object)
                if len(set(names)) > 1:
                    found[field] = (p * (names[None, :] == names[chosen[slot]][:, None])).sum(axis=1)
        elif slot != "pathway_2":
            found["pathways" if slot == "pathway_1" else slot] = p[at, chosen[slot]]
    return found
