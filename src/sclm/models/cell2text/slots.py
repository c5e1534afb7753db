"""The template in pieces: words that always stand there, and slots of which one of several phrases is written.

C phrases of a slot
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sclm.texts import CellFacts, pathway_text
from sclm.texts.template import FIRST, HEAD, ORIGIN, SECOND, UNNAMED, with_article

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sclm.models.cell2text.config import Cell2TextConfig

FIXED = ""
SLOTS = ("cell_type", "tissue", "donor", "age", "pathway_1", "pathway_2")


class Piece(NamedTuple):
    """A stretch of a description.

    Attributes
    ----------
    slot
        Of :data:`SLOTS`, or empty for words that always stand there.
    text
        With the space in front.
    """

    slot: str
    text: str


def pieces_of(facts: CellFacts, pathway_texts: Mapping[str, str] | None = None) -> list[Piece]:
    """A description in pieces; joined, they are what :func:`sclm.texts.describe_template` writes.

    Parameters
    ----------
    facts
        Of the cell.
    pathway_texts
        Name of a gene set → its description.

    Returns
    -------
    The pieces in their order; the first begins without a space.
    """
    texts = pathway_texts or {}
    definition = facts.definition if facts.cell_type else ""
    pieces = [Piece(FIXED, HEAD.rstrip()), Piece("cell_type", type_phrase(facts.cell_type, bool(definition)))]
    if definition:
        pieces.append(Piece(FIXED, f" {definition}."))
    if facts.tissue or facts.sex or facts.disease or facts.age:
        pieces.append(Piece(FIXED, ORIGIN.rstrip()))
        if facts.tissue:
            pieces.append(Piece("tissue", tissue_phrase_of(facts.tissue)))
        pieces.append(Piece("donor", donor_phrase(facts.sex, facts.disease, bool(facts.age))))
        if facts.age:
            pieces.append(Piece("age", age_phrase_of(facts.age)))
    for lead, slot, name in zip((FIRST, SECOND), SLOTS[-2:], facts.pathways, strict=False):
        pieces += [Piece(FIXED, lead.rstrip()), Piece(slot, f" {texts.get(name, pathway_text(name))}")]
    return pieces


def type_phrase(name: str, defined: bool) -> str:
    """A cell type as it stands in its slot, with the mark that follows."""
    return f" {with_article(name) if name else UNNAMED}{',' if defined else '.'}"


def tissue_phrase_of(tissue: str) -> str:
    """A tissue as it stands in its slot."""
    return f" the {tissue} of"


def donor_phrase(sex: str, disease: str, aged: bool) -> str:
    """Sex and disease as they stand in their slot; an age follows or a full stop."""
    who = sex or "individual"
    end = " during" if aged else "."
    if disease == "normal":
        return f" a normal {who}{end}"
    return f" {with_article(who)}{f' with {disease}' if disease else ''}{end}"


def age_phrase_of(age: str) -> str:
    """An age as it stands in its slot."""
    return f" {age}."


class Slots:
    """What can stand in each slot, by what training has seen.

    Parameters
    ----------
    config
        Of a trained model.
    """

    def __init__(self, config: Cell2TextConfig) -> None:
        self.config = config
        self.definitions = dict(zip(config.labels, config.definition_texts, strict=True))
        self.pathway_texts = dict(zip(config.pathways, config.pathway_texts, strict=True))
        self.donors = [tuple(pair.split("|", 1)) for pair in config.donors]
        self.values: dict[str, Sequence[object]] = {
            "cell_type": config.labels, "tissue": config.tissues, "donor": self.donors, "age": config.ages,
            "pathway_1": config.pathways, "pathway_2": config.pathways,
        }  # fmt: skip
        aged = bool(config.ages)
        self.phrases: dict[str, list[str]] = {
            "cell_type": [type_phrase(n, bool(self.definitions[n])) for n in config.labels],
            "tissue": [tissue_phrase_of(t) for t in config.tissues],
            "donor": [donor_phrase(sex, disease, aged) for sex, disease in self.donors],
            "age": [age_phrase_of(a) for a in config.ages],
            "pathway_1": [f" {self.pathway_texts[p]}" for p in config.pathways],
            "pathway_2": [f" {self.pathway_texts[p]}" for p in config.pathways],
        }

    def plan(self) -> list[tuple[str, str]]:
        """Slots that are filled, in their order, with the words in front of each."""
        config = self.config
        plan = [("cell_type", HEAD.rstrip())]
        origin = ORIGIN.rstrip()
        for slot, there in (("tissue", config.tissues), ("donor", config.donors), ("age", config.ages)):
            if there:
                plan.append((slot, origin))
                origin = ""
        if config.pathways:
            plan += [("pathway_1", FIRST.rstrip())]
            if len(config.pathways) > 1:
                plan += [("pathway_2", SECOND.rstrip())]
        return plan

    def facts(self, chosen: Mapping[str, int]) -> CellFacts:
        """What was said, from the place of the phrase that stands in each slot."""

        def value(slot: str) -> str:
            return str(self.values[slot][chosen[slot]]) if slot in chosen else ""

        name = value("cell_type")
        sex, disease = self.donors[chosen["donor"]] if "donor" in chosen else ("", "")
        pathways = tuple(value(slot) for slot in SLOTS[-2:] if slot in chosen)
        return CellFacts(name, self.definitions.get(name, ""), value("tissue"), sex, disease, value("age"), pathways)
