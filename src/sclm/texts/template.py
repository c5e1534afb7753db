"""The template of Cell2Text: what is known of a cell as two or three sentences."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from sclm.knowledge.gene_sets import phrase
from sclm.texts.wording import age_phrase, disease_phrase, sex_phrase, tissue_phrase

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from sclm.knowledge import Ontology

#: Beginnings of the parts of a description, in their order.
HEAD, ORIGIN, FIRST, SECOND = (
    "This sample consists of ",
    " It originates from ",
    " This cell is associated with ",
    " Additionally, it involves ",
)
UNNAMED = "a cell of unknown type"


class CellFacts(NamedTuple):
    """What a description says of a cell; empty where nothing is known.

    Attributes
    ----------
    cell_type
        Name as it is written.
    definition
        What the type is, without "A" in front and without a full stop.
    tissue, sex, disease, age
        As :mod:`sclm.texts` words them; ``disease`` is ``"normal"`` for healthy donors.
    pathways
        Names of gene sets, at most two, the most active first.
    """

    cell_type: str = ""
    definition: str = ""
    tissue: str = ""
    sex: str = ""
    disease: str = ""
    age: str = ""
    pathways: tuple[str, ...] = ()


def cell_facts(
    obs: pd.DataFrame,
    *,
    ontology: Ontology | None = None,
    pathways: pd.DataFrame | None = None,
    label_key: str = "cell_type",
) -> list[CellFacts]:
    """What metadata say of cells, in the words of the template.

    Parameters
    ----------
    obs
        One row a cell, with those columns of the CELLxGENE schema that there are: ``tissue`` (else ``tissue_general``), ``disease``,
        ``sex``, ``development_stage`` (else ``age``, in years).
    ontology
        Names and definitions of cell types. Labels that it does not know keep their own name and have no definition. None: all do.
    pathways
        Activities, cells x gene sets, rows as in `obs`: the two highest of a cell are named, the first column where values are equal.
    label_key
        Column with the cell types.

    Returns
    -------
    One :class:`CellFacts` a cell.

    Raises
    ------
    KeyError
        If there is no column `label_key`.
    ValueError
        If `pathways` has other rows than `obs`.

    Examples
    --------
    >>> import pandas as pd
    >>> cell_facts(pd.DataFrame({"cell_type": ["B cell"], "sex": ["F"], "disease": ["normal"]}))[0].sex
    'female'
    """
    import pandas as pd

    if label_key not in obs:
        raise KeyError(f"obs has no column {label_key!r}. It has {', '.join(map(repr, obs.columns[:10])) or 'none'}.")
    if pathways is not None and len(pathways) != len(obs):
        raise ValueError(f"pathways must have one row for each of {len(obs):,} cells, found {len(pathways):,}.")

    def column(names: Sequence[str], word: Any) -> list[str]:
        name = next((n for n in names if n in obs), None)
        if name is None:
            return [""] * len(obs)
        values = obs[name]
        known = {value: word(value) for value in values.dropna().unique()}
        return [known.get(value, "") if not pd.isna(value) else "" for value in values]

    named = _names(obs[label_key], ontology)
    tops = [()] * len(obs) if pathways is None else _two_highest(pathways)
    fields = zip(
        named, column(("tissue", "tissue_general"), tissue_phrase), column(("sex",), sex_phrase),
        column(("disease",), disease_phrase), column(("development_stage", "age"), age_phrase), tops, strict=True,
    )  # fmt: skip
    return [CellFacts(name, text, *rest) for (name, text), *rest in fields]


def _names(labels: pd.Series, ontology: Ontology | None) -> list[tuple[str, str]]:
    """Name and definition of each label."""
    import pandas as pd

    found: dict[Any, tuple[str, str]] = {}
    for label in labels.dropna().unique():
        text = " ".join(str(label).split())
        if text.lower() in ("", "nan", "unknown", "none"):
            found[label] = ("", "")
            continue
        term = None if ontology is None else ontology.resolve(text, min_score=1.0).term_id
        if ontology is None or term is None:
            found[label] = (text, "")
        else:
            found[label] = (ontology.name_of(term), bare_definition(ontology.definition(term)))
    return [("", "") if pd.isna(label) else found[label] for label in labels]


def bare_definition(text: str) -> str:
    """A definition as it stands inside a sentence: without "A" or "An" in front and a full stop behind.

    Parameters
    ----------
    text
        Of an ontology.

    Returns
    -------
    The text on one line.
    """
    text = " ".join(text.split())
    return re.sub(r"^An? ", "", text).removesuffix(".")


def _two_highest(pathways: pd.DataFrame) -> list[tuple[str, ...]]:
    import numpy as np

    names = [str(name) for name in pathways.columns]
    values = np.nan_to_num(pathways.to_numpy(dtype=np.float64), nan=-np.inf)
    order = np.argsort(-values, axis=1, kind="stable")[:, :2]
    return [
        tuple(names[i] for i in row if np.isfinite(values[cell, i]) and values[cell, i] > 0)
        for cell, row in enumerate(order)
    ]


def pathway_text(name: str) -> str:
    """The name of a gene set as a sentence's end, where there is no better description.

    Parameters
    ----------
    name
        ``"HALLMARK_INTERFERON_ALPHA_RESPONSE"``, ``"Interferon Signaling"``.

    Returns
    -------
    The name as :class:`sclm.knowledge.Pathways` words it, with a full stop.

    Examples
    --------
    >>> pathway_text("HALLMARK_INTERFERON_ALPHA_RESPONSE"), pathway_text("IL-2 Family Signaling")
    ('interferon alpha response.', 'IL-2 Family Signaling.')
    """
    return phrase(name).rstrip(".") + "."


def describe_template(facts: CellFacts, *, pathway_texts: Mapping[str, str] | None = None) -> str:
    """A description as Cell2Text writes it (Kharouiche et al., 2025).

    ``This sample consists of a {cell type}[, {definition}]. It originates from [the {tissue} of ]a {sex} with {disease} | a normal {sex}
    [during {age}]. This cell is associated with {pathway} Additionally, it involves {pathway}``. The article is "an" before a
    vowel; "individual" stands for a sex that is not known. Where neither tissue nor sex, disease or age is known, the second sentence
    is left out: the original has no such cells, and nobody is called normal here who may not be.

    Parameters
    ----------
    facts
        From :func:`cell_facts`, or made by hand.
    pathway_texts
        Name of a gene set → its description, ending with a full stop; by default :func:`pathway_text`.

    Returns
    -------
    The text.

    Examples
    --------
    >>> describe_template(CellFacts("B cell", tissue="blood", sex="female", disease="normal", age="adulthood"))
    'This sample consists of a B cell. It originates from the blood of a normal female during adulthood.'
    """
    texts = pathway_texts or {}
    parts = [HEAD + (UNNAMED if not facts.cell_type else with_article(facts.cell_type))]
    if facts.cell_type and facts.definition:
        parts.append(f", {facts.definition}")
    parts.append(".")
    if origin := origin_text(facts):
        parts.append(f"{ORIGIN}{origin}.")
    for lead, name in zip((FIRST, SECOND), facts.pathways, strict=False):
        parts.append(lead + texts.get(name, pathway_text(name)))
    return "".join(parts)


def origin_text(facts: CellFacts) -> str:
    """What the second sentence says behind "It originates from", without its full stop; empty where nothing is known.

    Parameters
    ----------
    facts
        Of the cell.

    Returns
    -------
    The words.
    """
    if not (facts.tissue or facts.sex or facts.disease or facts.age):
        return ""
    who = facts.sex or "individual"
    if facts.disease == "normal":
        donor = f"a normal {who}"
    else:
        donor = with_article(who) + (f" with {facts.disease}" if facts.disease else "")
    tissue = f"the {facts.tissue} of " if facts.tissue else ""
    age = f" during {facts.age}" if facts.age else ""
    return f"{tissue}{donor}{age}"


def with_article(name: str) -> str:
    """A name with "a" or "an"."""
    start = name.lower()
    consonant = start.startswith(("eu", "uni", "ur", "ut", "use"))  # as they are spoken
    vowel = start.startswith(tuple("aeiou")) and not consonant
    return f"{'an' if vowel else 'a'} {name}"
