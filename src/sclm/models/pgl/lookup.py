"""What a requested value means to a field: a training value, a kind of several, or something near a known kind."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sclm.knowledge.resolve import canonical_id
from sclm.models.pgl.texts import NOT_GIVEN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sclm.knowledge import Ontology
    from sclm.models.pgl.fields import Field, Term

NEW_DONOR = 0.1  # novelty: a model asked for a donor it never saw writes donors as they usually are
_SHOWN = 3  # values named in a message


class Meaning(NamedTuple):
    """How one requested value is written."""

    name: str  # the training value, or the ontology's name of the term
    term_id: str  # "" where there is none
    how: str  # "seen", "general", "fallback", "new donor" or "not given"
    nodes: tuple[int, ...]  # nodes to write with, empty where the field stays open
    codes: np.ndarray  # int64: the training values that it stands for
    nearest: str  # the most similar, else most common, of these values
    novelty: float  # in [0, 1]
    warning: str  # "" where nothing has to be said

    @property
    def code(self) -> int:
        """The one training value that it stands for, -1 where there are none or several."""
        return int(self.codes[0]) if len(self.codes) == 1 else -1


_NONE = np.zeros(0, dtype=np.int64)


def find(field: Field, text: str, ontology: Callable[[], Ontology | None], max_novelty: float) -> Meaning:
    """Give a requested value its meaning.

    Tried in this order: the exact training value; the same without regard to case; an id, name or certain synonym of a
    term that the field knows; what the ontology resolves the text to, which may be a term that no training cell has.
    The ontology is asked last, so that a checkpoint answers alike with and without its file wherever it can.

    Parameters
    ----------
    field
        What training knows.
    text
        The requested value.
    ontology
        Gives the field's ontology, None where it cannot be had; called only when needed.
    max_novelty
        Most novelty of a fallback, in [0, 1].

    Raises
    ------
    ValueError
        If the value has no relation to anything seen; names the nearest known values.
    """
    if text == NOT_GIVEN:
        return Meaning(text, "", "not given", (), _NONE, "", 0.0, "")
    if text in field.code_of:
        return _seen(field, field.code_of[text])
    alike = field.codes_of_folded.get(text.casefold(), [])
    if len(alike) == 1:
        return _seen(field, alike[0])
    term = field.term_of.get(canonical_id(text)) or field.term_of_folded.get(" ".join(text.casefold().split()))
    if term is not None:
        return _known(field, term)
    loaded = ontology() if field.ontology is not None else None
    suggestion = ""
    if loaded is not None:
        match = loaded.resolve(text)
        if match.kind == "fuzzy":
            suggestion = f" Perhaps {match.name!r} is meant."
        elif match.term_id in field.term_of:
            return _known(field, field.term_of[match.term_id])
        elif match.term_id is not None:
            return _unseen(field, text, match.term_id, loaded, max_novelty)
    if field.name == "donor_id" and not alike:
        return _new_donor(field, text)
    what = (
        "is not a training value"
        if field.ontology is None
        else f"is neither a training value nor a {field.ontology} term"
    )
    if field.ontology is not None and loaded is None:
        what = "is not a training value"
        suggestion = (
            f" The ontology {field.ontology!r}, which could relate it to one, is not on this machine: get it with "
            f"sclm.knowledge.fetch({field.ontology!r}), or pass ontologies={{{field.name!r}: …}}."
        )
    raise ValueError(
        f"{field.name} {text!r} {what}.{suggestion} {spelt_alike(field, text)} Write one of the model's "
        f"{field.n_values:,} values, or leave {field.name} out."
    )


def _seen(field: Field, code: int) -> Meaning:
    value = field.values[code]
    return Meaning(
        value, field.term_ids[code], "seen", field.value_nodes[code], np.array([code], np.int64), value, 0.0, ""
    )


def _known(field: Field, term: Term) -> Meaning:
    """A term that is a training value's, or a more general one."""
    own = field.codes_of_term.get(term.id, [])
    if len(own) == 1:
        return _seen(field, own[0])
    below = field.values_of_node[term.node]
    return Meaning(
        term.name, term.id, "general", field.node_lineage[term.node], below, _common(field, below)[0], 0.0, ""
    )


def _unseen(field: Field, text: str, asked: str, ontology: Ontology, max_novelty: float) -> Meaning:
    """A term of the ontology that is neither a training value nor above one."""
    name = ontology.name_of(asked)
    known = [field.term_of[term] for term in ontology.ancestors(asked) if term in field.term_of]
    if known:
        content = ontology.information_content()
        kind = min(known, key=lambda term: (-content[ontology.index(term.id)], term.id))
        below = field.values_of_node[kind.node]
        nearest, similarity = _most_similar(field, below, asked, ontology)[0]
        novelty = 1.0 - similarity
        if novelty <= max_novelty:
            shown = ", ".join(map(repr, _common(field, below)[:_SHOWN])) + (", …" if len(below) > _SHOWN else "")
            # its name says it already where the kind is the one training value
            trained = "" if [kind.name] == [field.values[code] for code in below] else f"; trained on {shown}"
            nodes = sorted({node for term in known for node in field.node_lineage[term.node]})
            label = repr(text) if text == name else f"{text!r} ({name})"
            warning = (
                f"{field.name} {label} was not in training: written as its nearest known kind, {kind.name!r} "
                f"(novelty {novelty:.2f}{trained})"
            )
            return Meaning(name, asked, "fallback", tuple(nodes), below, nearest, novelty, warning)
    near = _most_similar(field, np.arange(field.n_values), asked, ontology)[:_SHOWN]
    listed = ", ".join(f"{value!r} ({similarity:.2f})" for value, similarity in near if similarity > 0) or "none"
    raise ValueError(
        f"{field.name} {text!r} has too little in common with anything in training. Nearest by kind, with their "
        f"similarity: {listed}; at least {1 - max_novelty:.2f} is asked for. {spelt_alike(field, text)} Write one of the "
        f"model's {field.n_values:,} values, leave {field.name} out, or train on cells of this kind."
    )


def _most_similar(field: Field, codes: np.ndarray, asked: str, ontology: Ontology) -> list[tuple[str, float]]:
    """Values by Lin similarity to a term, most similar first, then by cells; values without a term have 0."""
    terms = [field.term_ids[code] for code in codes]
    there = [term for term in dict.fromkeys(terms) if term in ontology]  # a later release may lack one
    similar = (
        dict(zip(there, ontology.similarity_matrix([asked], there, "lin")[0].tolist(), strict=True)) if there else {}
    )
    found = [(field.values[c], similar.get(t, 0.0), field.n_cells[c]) for c, t in zip(codes, terms, strict=True)]
    found.sort(key=lambda row: (-row[1], -row[2], row[0]))
    return [row[:2] for row in found]


def _new_donor(field: Field, text: str) -> Meaning:
    warning = (
        f"donor_id {text!r} was not in training: written as no particular donor (novelty {NEW_DONOR}). "
        f"{spelt_alike(field, text)}"
    )
    return Meaning(text, "", "new donor", (), _NONE, "", NEW_DONOR, warning)


def _common(field: Field, codes: Iterable[int]) -> list[str]:
    """Values of these codes, the most common in training first."""
    return [field.values[code] for code in sorted(codes, key=lambda code: (-field.n_cells[code], code))]


def near_names(text: str, names: Iterable[str], cutoff: float = 0.5) -> list[str]:
    """At most three of the names that are spelt like a text, without regard to case, nearest first."""
    folded: dict[str, str] = {}
    for name in names:
        folded.setdefault(name.casefold(), name)
    return [folded[name] for name in difflib.get_close_matches(text.casefold(), folded, n=_SHOWN, cutoff=cutoff)]


def spelt_alike(field: Field, text: str) -> str:
    """A sentence with the training values nearest in spelling, or the most common ones where none is near."""
    near = near_names(text, field.values)
    if near:
        return f"Nearest in spelling: {', '.join(map(repr, near))}."
    return f"Most common in training: {', '.join(map(repr, _common(field, range(field.n_values))[:_SHOWN]))}."
