"""Metadata in words: ages, sex, tissue, disease, as the descriptions of Cell2Text write them."""

from __future__ import annotations

import re
from typing import Any

# Ages in years below which a phrase holds, in their order.
_BOUNDS = (2, 5, 15, 20, 30, 50, 65, 80)
#: Phrases of ages, from the youngest.
AGES = (
    "early embryonic stage",
    "late embryonic stage",
    "infancy",
    "early childhood",
    "childhood",
    "adolescence",
    "young adulthood",
    "adulthood",
    "middle age",
    "elderly stage",
    "advanced elderly stage",
)
_BLANK = frozenset({"", "nan", "na", "n/a", "none", "null", "unknown", "not applicable", "<na>"})
_NORMAL = frozenset({"normal", "healthy", "healthy control", "pato:0000461"})
_SEXES = {"f": "female", "female": "female", "woman": "female", "m": "male", "male": "male", "man": "male"}
_DECADES = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh")
# Names of stages without a number, the longer ones first: "middle aged" before "aged".
_STAGES = (
    ("middle aged", "middle age"),
    ("young adult", "young adulthood"),
    ("prime adult", "adulthood"),
    ("late adult", "elderly stage"),
    ("adolescent", "adolescence"),
    ("newborn", "infancy"),
    ("neonat", "infancy"),
    ("infant", "infancy"),
    ("child", "childhood"),
    ("aged", "elderly stage"),
    ("adult", "adulthood"),
)
_YEARS = re.compile(r"(\d+(?:\.\d+)?)\s*(?:-\s*(\d+)\s*)?-?\s*(?:year|yr|yo\b|y\b)")
_MONTHS = re.compile(r"(\d+)\s*-?\s*(month|week|day)s?-?\s*old|^(\d+)\s*(month|week|day)s?$")
_WEEK = re.compile(r"(\d+)(?:st|nd|rd|th)?\s*-?\s*(?:lmp\s*)?week")


def _text(value: Any) -> str:
    """A value as text; empty where it is missing or says that nothing is known."""
    if value is None or value != value:
        return ""
    text = " ".join(str(value).split())
    return "" if text.lower() in _BLANK else text


def age_phrase(value: Any) -> str:
    """An age or stage of development in words.

    Parameters
    ----------
    value
        Years as a number, or a text: ``"34-year-old stage"``, ``"fifth decade stage"``, ``"65-79 year-old stage"`` (its middle),
        ``"7-month-old stage"``, ``"Carnegie stage 20"``, ``"14th week post-fertilization stage"``, ``"adult stage"``, as the CELLxGENE
        schema (HsapDv) has them.

    Returns
    -------
    One of :data:`AGES`: infancy (to 2 years), early childhood (2 to 4), childhood (5 to 14), adolescence (15 to 19), young adulthood (20
    to 29), adulthood (30 to 49), middle age (50 to 64), elderly stage (65 to 79), advanced elderly stage (from 80), early embryonic
    stage (Carnegie stages, up to 8 weeks) and late embryonic stage (fetus). Empty where nothing is known.

    Raises
    ------
    ValueError
        If a number is below 0 or above 130.

    Examples
    --------
    >>> age_phrase(34), age_phrase("65-79 year-old stage"), age_phrase("Carnegie stage 20")
    ('adulthood', 'elderly stage', 'early embryonic stage')
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _of_years(float(value)) if value == value else ""
    text = _text(value).lower()
    if not text:
        return ""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return _of_years(float(text))
    if "over stage" in text or "and over" in text:
        found = re.search(r"\d+", text)
        return _of_years(float(found.group())) if found else ""
    if years := _YEARS.search(text):
        low = float(years.group(1))
        return _of_years((low + float(years.group(2))) / 2 if years.group(2) else low)
    if "decade" in text:
        place = next((i for i, word in enumerate(_DECADES) if word in text), None)
        return "" if place is None else _of_years(10 * place + 5)
    if "carnegie" in text or "embryo" in text:
        return AGES[1] if "late embryo" in text else AGES[0]
    if "fertilization" in text or "gestation" in text or "lmp" in text or "fetal" in text or "trimester" in text:
        week = _WEEK.search(text)
        early = int(week.group(1)) <= 8 if week else "first trimester" in text
        return AGES[0] if early else AGES[1]
    if found := _MONTHS.search(text):
        number = float(found.group(1) or found.group(3))
        return _of_years(number / {"month": 12, "week": 52, "day": 365}[found.group(2) or found.group(4)])
    return next((phrase for word, phrase in _STAGES if word in text), "")


def _of_years(years: float) -> str:
    if not 0 <= years <= 130:
        raise ValueError(f"an age in years must lie between 0 and 130, found {years:g}.")
    return AGES[2 + sum(years >= bound for bound in _BOUNDS)]


def sex_phrase(value: Any) -> str:
    """``"female"`` or ``"male"``; empty where it is not known.

    Parameters
    ----------
    value
        ``"F"``, ``"female"``, ``"male"`` …

    Returns
    -------
    The word.
    """
    return _SEXES.get(_text(value).lower(), "")


def tissue_phrase(value: Any) -> str:
    """A tissue as it stands in a sentence: what follows the last colon, up to the first comma.

    Parameters
    ----------
    value
        ``"blood"``, ``"lung: upper lobe, left"``.

    Returns
    -------
    The words, empty where it is not known.

    Examples
    --------
    >>> tissue_phrase("organ: upper lobe of lung, left")
    'upper lobe of lung'
    """
    return _text(_text(value).rpartition(":")[2].partition(",")[0])


def disease_phrase(value: Any) -> str:
    """A disease as it stands in a sentence, as :func:`tissue_phrase`; ``"normal"`` for healthy ones.

    Parameters
    ----------
    value
        ``"normal"``, ``"COVID-19"``.

    Returns
    -------
    The words; empty where nothing is known: what is not known is not called normal.

    Examples
    --------
    >>> disease_phrase("healthy"), disease_phrase("carcinoma: lung adenocarcinoma"), disease_phrase(None)
    ('normal', 'lung adenocarcinoma', '')
    """
    text = _text(value)
    if text.lower() in _NORMAL:
        return "normal"
    text = _text(text.rpartition(":")[2].partition(",")[0])
    return "normal" if text.lower() in _NORMAL else text
