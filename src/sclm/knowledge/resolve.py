"""From the labels that people write to ontology terms: exactly, by spelling, by the field's abbreviations, by likeness."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from difflib import SequenceMatcher
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from sclm.knowledge import abbreviations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence


class Match(NamedTuple):
    """What a label means.

    Attributes
    ----------
    text
        The label as given.
    term_id, name
        The term, or None for both.
    kind
        `"id"`, `"name"`, `"synonym"`, `"normalised"` (a name or synonym but for case, plural, hyphens and the like),
        `"abbreviation"`, `"fuzzy"` or `"none"`.
    score
        1 for all kinds but fuzzy (below 1) and none (0).
    """

    text: str
    term_id: str | None
    name: str | None
    kind: str
    score: float


_ID = re.compile(r"(?:https?://\S*[/#])?([A-Za-z]+)[:_](\d+)")


def canonical_id(text: str) -> str:
    """`CL:0000084` of `CL_0000084` and of `http://purl.obolibrary.org/obo/CL_0000084`; other text as it is."""
    match = _ID.fullmatch(text.strip())
    return f"{match[1]}:{match[2]}" if match else text


_SIGN_PLUS = re.compile(r"(?<=\w)\s?\++|(?<=\w)(?<=\d)pos\b")
# a minus that ends a marker (CD25-, CD4-CD8-), not a hyphen within a name (CD4-positive, T-cell)
_SIGN_MINUS = re.compile(r"\b(cd\d+[a-z]{0,2})-+(?=cd\d|[\s,/;)&+_]|$)|\b(cd\d+[a-z]{0,2})neg\b")
_BETWEEN = re.compile(r"[/|&,;]| and | or ")
_MARKER = re.compile(r"cd\d+\w*|positive|negative|fcgr3a|ms4a1")
_GLUED = re.compile(r"\b(\w+?)(cells?)\b")
_WORD = re.compile(r"[^\W_]+")
_GREEK = re.compile(r"[\u0370-\u03ff]")
_GREEK_NAMES = {"\u03bc": "mu", "\u03c6": "phi"}


def _spell_greek(match: re.Match[str]) -> str:
    letter = match[0]
    name = (
        unicodedata.name(letter, "").lower().removeprefix("greek small letter ").removeprefix("greek capital letter ")
    )
    return f" {name} " if name.isalpha() else letter


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 2 and word.endswith("s") and not word.endswith(("ss", "us", "is", "as", "os")):
        return word[:-1]
    return word


def words(text: str) -> list[str]:
    """The words of a label in one spelling: lower case, singular, Greek spelt out, `+` as "positive", `-` as "negative".

    >>> words("γδ T-cells, CD8α+ CD25-")
    ['gamma', 'delta', 't', 'cell', 'cd8', 'alpha', 'positive', 'cd25', 'negative']
    """
    text = unicodedata.normalize("NFKC", text)
    text = re.sub(r"[\u2010-\u2015\u2212]", "-", text).replace("'", "").replace("\u2019", "")
    text = _GREEK.sub(_spell_greek, text)
    # accents off: Müller → Muller
    text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)).lower()
    text = re.sub(r"\s+([+])", r"\1", text)
    text = _SIGN_MINUS.sub(lambda m: f"{m[1] or m[2]} negative ", text)
    text = _SIGN_PLUS.sub(" positive ", text)
    found: list[str] = []
    for word in _WORD.findall(text):
        glued = _GLUED.fullmatch(word)
        found += [glued[1], "cell"] if glued else [_singular(word)]
    return found


class Resolver:
    """Looks labels up among the names and synonyms of an ontology; see `Ontology.resolve`.

    Parameters
    ----------
    names, synonyms
        By id, of all terms that can be found.
    current_id
        Gives the active id for an id, or None.
    """

    def __init__(
        self,
        names: Mapping[str, str],
        synonyms: Mapping[str, Iterable[str]],
        current_id: Callable[[str], str | None],
    ) -> None:
        self._names = names
        self._current_id = current_id
        self._by_name = _unique((name, term) for term, name in names.items())
        trusted = [(s, term) for term, many in synonyms.items() for s in many if s not in abbreviations.MISLEADING]
        self._by_synonym = _unique(trusted)
        # Names first at each level: what a name says is not shaken by a synonym of another term that is spelt alike.
        # Very short synonyms (FS, MCP, VIC) are acronyms with other meanings elsewhere: only as they are written.
        long_enough = [(s, term) for s, term in trusted if len(s) > 3]
        self._by_words: dict[str, str] = {}
        for pairs in (names_of(names), long_enough):
            keyed = _unique((" ".join(words(text)), term) for text, term in pairs)
            self._by_words = {**keyed, **self._by_words}
        self._without_cell: dict[str, str] = {}
        for pairs in (names_of(names), long_enough):
            keyed = _unique((key, term) for text, term in pairs if (key := _strip_cell(words(text))) is not None)
            self._without_cell = {**keyed, **self._without_cell}
        self._prefixes = {term.partition(":")[0].upper() for term in names}
        self._rules = [rule for rule in abbreviations.rules() if rule[0] in names]

    def resolve(self, text: Any, min_score: float) -> Match:
        """Resolve one label; what is no text gives no match."""
        if not isinstance(text, str) or not text.strip():
            return Match(text, None, None, "none", 0.0)
        if not 0.0 < min_score <= 1.0:
            raise ValueError(f"expected min_score in (0, 1], found {min_score}.")
        label = " ".join(text.split())
        # Only with a prefix of this ontology it is an id: "Fibroblast_1" is a label of a cluster.
        if (number := _ID.fullmatch(label)) and number[1].upper() in self._prefixes:
            term = self._current_id(f"{number[1].upper()}:{number[2]}")
            return self._match(text, term, "id") if term else Match(text, None, None, "none", 0.0)
        if label in self._by_name:
            return self._match(text, self._by_name[label], "name")
        if label in self._by_synonym:
            return self._match(text, self._by_synonym[label], "synonym")
        found = words(label)
        if not found or " ".join(found) in abbreviations.NOTHING or _strip_cell(found) in abbreviations.NOTHING:
            return Match(text, None, None, "none", 0.0)
        if (term := self._by_words.get(" ".join(found))) is not None:
            return self._match(text, term, "normalised")
        if (term := self._compose(found)) is not None and not self._names_two(label):
            return self._match(text, term, "abbreviation")
        bare = _strip_cell(found) or " ".join(found)
        if bare not in abbreviations.NOT_ALONE and (term := self._without_cell.get(bare)) is not None:
            return self._match(text, term, "normalised")
        return self._fuzzy(text, found, min_score)

    def _match(self, text: str, term: str, kind: str, score: float = 1.0) -> Match:
        return Match(text, term, self._names[term], kind, score)

    def _names_two(self, label: str) -> bool:
        """Whether parts of a label, on both sides of a slash or the like, name different types ("B/plasma")."""
        parts = [words(part) for part in _BETWEEN.split(label)]
        # parts of markers alone ("CD4+" of "CD4+/CD25 T Reg") describe the type that another part names
        types = [self._type_of(part) for part in parts if not all(_MARKER.fullmatch(word) for word in part)]
        return len({term for term in types if term is not None}) > 1

    def _type_of(self, found: list[str]) -> str | None:
        """The term of a label's words by spelling or composition, None where they are not one type."""
        if (term := self._by_words.get(" ".join(found))) is not None:
            return term
        return self._compose(found) or self._without_cell.get(_strip_cell(found) or " ".join(found))

    def _compose(self, found: list[str]) -> str | None:
        """Read a label as a set of words and find the rule that explains all of them."""
        if not self._rules:
            return None
        line = " ".join(abbreviations.WORDS.get(word, word) for word in found)
        for phrase, one in abbreviations.PHRASES:
            line = re.sub(rf"\b{phrase}\b", one, line)
        seen: list[str] = []
        for word in line.split():
            if word == "negative" and seen:
                seen[-1] = "-" + seen[-1]
            elif word not in abbreviations.IDLE:
                seen.append(word)
        # A number counts groups of one type ("T cell 2") when something else says the type
        said = {word for word in seen if not word.isdigit()}
        for term, required, allowed, _ in self._rules:
            if required <= said and said <= required | allowed:
                return term
        return None

    @cached_property
    def _spellings(self) -> tuple[list[str], list[str], dict[str, list[int]]]:
        """All spellings, the terms they mean, and where each run of three letters occurs."""
        spellings, terms = list(self._by_words), list(self._by_words.values())
        places: dict[str, list[int]] = {}
        for place, spelling in enumerate(spellings):
            for gram in _grams(spelling):
                places.setdefault(gram, []).append(place)
        return spellings, terms, places

    def _fuzzy(self, text: str, found: list[str], min_score: float) -> Match:
        """The most similar spelling, by the share of letters in common blocks (`difflib`), never quite 1.

        Words that carry the meaning in few letters have to agree: CD4 is like CD8 and type 1 like type 2 to the eye. And
        each word has to have a like one on the other side.
        """
        spellings, terms, places = self._spellings
        line = " ".join(found)
        if min_score >= 1.0 or len(line) < 5:
            return Match(text, None, None, "none", 0.0)
        overlap: Counter[int] = Counter()
        for gram in _grams(line):
            overlap.update(places.get(gram, ()))
        best, best_score = None, 0.0
        sharp = _sharp(found)
        # candidates that share most grams for their length, then exactly; ties by spelling, so that order is fixed
        shortlist = sorted(overlap, key=lambda place: (-overlap[place] / (len(spellings[place]) + len(line)), place))
        for place in shortlist[:40]:
            spelling = spellings[place]
            other = spelling.split()
            if _sharp(other) != sharp or not (_covered(found, other) and _covered(other, found)):
                continue
            score = SequenceMatcher(None, line, spelling, autojunk=False).ratio()
            if score > best_score:
                best, best_score = place, score
        if best is None or best_score < min_score:
            return Match(text, None, None, "none", 0.0)
        return self._match(text, terms[best], "fuzzy", min(best_score, 0.99))


_POLAR = frozenset(
    ["positive", "negative", "non", "not", "high", "low", "bright", "dim", "anti", "pre", "pro", "immature", "mature"]
)


def _sharp(found: Iterable[str]) -> Counter[str]:
    """The words of a label that must not differ: with digits, of one or two letters, or of polarity."""
    return Counter(w for w in found if len(w) <= 2 or w in _POLAR or any(c.isdigit() for c in w))


def _covered(found: Iterable[str], other: Sequence[str]) -> bool:
    """Whether every word has a like one among the others: a word left over changes what is meant."""
    return all(
        word == "cell" or any(SequenceMatcher(None, word, o, autojunk=False).ratio() >= 0.75 for o in other)
        for word in found
    )


def _grams(line: str) -> set[str]:
    padded = f" {line} "
    return {padded[i : i + 3] for i in range(len(padded) - 2)}


def names_of(names: Mapping[str, str]) -> list[tuple[str, str]]:
    """(name, id) of every term."""
    return [(name, term) for term, name in names.items()]


def _strip_cell(found: list[str]) -> str | None:
    """The words without "cell", joined; None where too little is left to mean anything."""
    left = [word for word in found if word != "cell"]
    key = " ".join(left)
    return key if len(left) < len(found) and len(key) > 2 else None


def _unique(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Text to id, without the texts that mean more than one term."""
    meaning: dict[str, str] = {}
    twice = set()
    for text, term in pairs:
        if meaning.setdefault(text, term) != term:
            twice.add(text)
    return {text: term for text, term in meaning.items() if text not in twice}
