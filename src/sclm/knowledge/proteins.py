"""Names of antibodies: what they bind, which genes encode it, and which names of two panels mean the same protein."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sclm.knowledge.antibodies import ISOFORMS, SAME_ISOFORM, TARGETS
from sclm.knowledge.genes import GeneIdentifiers

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# What vendors, pipelines and R put around a name. The order matters: the outermost comes first.
_PREFIX = re.compile(
    r"^(?:(?:adt|ab|prot|protein|rna-?adt|cite)[_:\s]+|anti[\s_.-]+|(?:hu|huMs|huMsRt|human|mouse|ms)(?:/(?:human|mouse|rat))*[\s_.]+)",
    re.IGNORECASE,
)
_BARCODE = re.compile(r"[\s_.-]+[ACGT]{10,}$")
_SUFFIX = re.compile(
    r"[\s_.-]+(?:total[\s_-]?seq[\s_-]?[abcd]?|ts[abcd]|prot(?:ein)?|adt|ab|antibody|surface|cite|hu(?:man)?|cspa?)\.?$",
    re.IGNORECASE,
)
_COPY = re.compile(r"(?<=\w)[._-]\d{1,2}$")  # what makes names unique
_ISOTYPE = re.compile(
    r"isotype|^iso[\s_-]|(?:ctrl|control)\b.*ig[gma]|ig[gma]\d?[abc]?.*(?:ctrl|control)"
    r"|^(?:(?:mouse|rat|hamster|armenian[\s_.-]+hamster|syrian[\s_.-]+hamster|ms|rabbit)[\s_.-]*)+ig[gma]"
    r"|^ig[g]\d[abc]?(?:[\s_.,-]*(?:kappa|lambda|fc|κ|λ|k))?(?:[\s_.,-]*(?:ctrl|control))?$",
    re.IGNORECASE,
)
_GREEK = str.maketrans({"α": "a", "β": "b", "γ": "g", "δ": "d", "ε": "e", "κ": "kappa", "λ": "lambda"})


class Antibody(NamedTuple):
    """What the name of an antibody means.

    Attributes
    ----------
    name
        As it was given.
    target
        What it binds, the same for all names of it: the genes joined by ``+``, the name of an isoform (``"CD45RA"``), or the
        cleaned name in capitals where nothing is known.
    genes
        Approved symbols of the genes that encode it, () where unknown or where it is an isotype control.
    isotype
        Whether it is an isotype control, which binds nothing on purpose.
    """

    name: str
    target: str
    genes: tuple[str, ...]
    isotype: bool


def antibody(name: str) -> Antibody:
    """What an antibody binds, by its name.

    The name is looked up as it is, then without what pipelines add (``_TotalSeqB``, ``_prot``, ``-1``, ``.1``,
    ``anti-human``, a barcode), then by its parts inside and outside of parentheses, then as a gene symbol, at last as the chains
    of a complex (``CD11a/CD18``: both genes).

    Parameters
    ----------
    name
        Of an antibody or antibody-derived tag.

    Returns
    -------
    An :class:`Antibody`.

    Examples
    --------
    >>> antibody("CD3_TotalSeqB").genes
    ('CD3D', 'CD3E', 'CD3G')
    >>> antibody("anti-human CD45RA").target, antibody("CD4-1").genes, antibody("PD-1 (CD279)").genes
    ('CD45RA', ('CD4',), ('PDCD1',))
    >>> antibody("IgG2a").isotype
    True
    """
    return _antibody(str(name))


def antibody_genes(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Symbols of the genes of each antibody, () where unknown.

    Parameters
    ----------
    names
        Of antibodies.

    Returns
    -------
    One tuple a name.
    """
    return [antibody(name).genes for name in names]


def match_proteins(names: Sequence[str], known: Sequence[str]) -> np.ndarray:
    """Find proteins of one panel in another.

    Parameters
    ----------
    names
        To find.
    known
        The panel to find them in.

    Returns
    -------
    (n_names,) int64: place in `known`, -1 where absent. A name is found as it is; else where it has the same target; else
    where one name's genes are among the other's (``CD8`` and ``CD8a``), never between isoforms. Where several fit, none but
    an exact one is taken.

    Examples
    --------
    >>> match_proteins(["CD3_TotalSeqB", "CD8a", "CD45RO", "CD200"], ["CD45RA", "CD8", "CD3"])
    array([ 2,  1, -1, -1])
    """
    known = [str(k) for k in known]
    exact = {k: i for i, k in reversed(list(enumerate(known)))}
    panel = [antibody(k) for k in known]
    found = np.full(len(names), -1, dtype=np.int64)
    for i, name in enumerate(map(str, names)):
        if name in exact:
            found[i] = exact[name]
            continue
        asked = antibody(name)
        same = [j for j, other in enumerate(panel) if other.target == asked.target and other.isotype == asked.isotype]
        if not same and asked.genes and asked.target not in ISOFORMS:
            mine = set(asked.genes)
            same = [
                j
                for j, other in enumerate(panel)
                if other.genes
                and other.target not in ISOFORMS
                and (mine <= set(other.genes) or set(other.genes) <= mine)
            ]
        if len(same) == 1:
            found[i] = same[0]
    return found


@cache
def _antibody(name: str) -> Antibody:
    clean = re.sub(r"\bCDw(?=\d)", "CD", name.strip().translate(_GREEK), flags=re.IGNORECASE)  # w: once provisional
    human = re.match(r"^anti[\s_.-]+human\b", clean, re.IGNORECASE)  # an antibody against human IgG is no control
    tags = _without_tags(clean)
    if not human and (_ISOTYPE.search(clean) or any(_ISOTYPE.search(form) for form in tags)):
        return Antibody(name, "isotype " + _key(_isotype_name(tags[-1])), (), True)
    for form in tags:
        found = _look_up(name, form)
        if found is not None:
            return found
    for form in tags:  # names of chains, each of them known, are a complex: "CD11a/CD18"
        chains = [_look_up(name, part, aliases=False) for part in form.split("/")] if "/" in form else [None]
        if all(chains):
            genes = tuple(dict.fromkeys(gene for chain in chains if chain for gene in chain.genes))
            return Antibody(name, "+".join(genes), genes, False)
    for form in tags:  # a part may be a name where the whole is none: "CD279_PD-1", "CD8a UCHT4"
        for part in re.split(r"[\s_/|]+", re.sub(r"[()\[\]]", " ", form)):
            found = _look_up(name, part, aliases=False) if len(part) > 1 else None
            if found is not None:
                return found
    return Antibody(name, _key(tags[-1]), (), False)


def _without_tags(name: str) -> list[str]:
    """The name, and the forms it has when one addition after the other is taken off."""
    forms = [name]
    while True:
        shorter = forms[-1]
        for pattern in (_BARCODE, _SUFFIX, _PREFIX):
            shorter = pattern.sub("", shorter)
        if shorter == forms[-1]:
            # A number at the end is part of many names (PD-1): it goes last, when the name with it is none.
            shorter = _COPY.sub("", shorter)
        if shorter in ("", forms[-1]):
            return forms
        forms.append(shorter)


def _look_up(name: str, form: str, *, aliases: bool = True) -> Antibody | None:
    """The target of one form of the name: whole, outside of parentheses, inside of them; aliases of genes are short, and many."""
    outside = re.sub(r"\s*[(\[][^()\[\]]*[)\]]", "", form).strip()
    inside = re.findall(r"[(\[]([^()\[\]]+)[)\]]", form)
    for text in dict.fromkeys([form, outside, *inside]):
        key = _key(text)
        if key in _isoforms():
            isoform = _isoforms()[key]
            return Antibody(name, SAME_ISOFORM.get(isoform, isoform), ISOFORMS[isoform], False)
        genes = _targets().get(key)
        if genes is None:
            asked = [text, text.upper(), key]  # the key, such as VCAM1 of "VCAM-1", only where it is a symbol
            symbols = GeneIdentifiers.load("human").to_symbol(asked)
            taken = (aliases, aliases, False)
            genes = next(
                ((s,) for s, a, any_ in zip(symbols, asked, taken, strict=True) if s and (any_ or s == a)), None
            )
        if genes is not None:
            return Antibody(name, "+".join(genes), genes, False)
    return None


def _key(text: str) -> str:
    """Capitals without separators; between two digits one stays, so that CD4-1 is not CD41."""
    return re.sub(r"(?<!\d)[\s_.,/-]+|[\s_.,/-]+(?!\d)", "", text).upper()


def _isotype_name(text: str) -> str:
    found = re.search(r"ig[gma]\d?[abc]?", text, re.IGNORECASE)
    species = re.search(r"mouse|rat|hamster|rabbit", text, re.IGNORECASE)
    return f"{species[0] if species else ''}{found[0] if found else text}"


@cache
def _targets() -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for line in TARGETS.strip().splitlines():
        names, _, genes = line.partition(":")
        for one in names.split():
            found[_key(one)] = tuple(genes.split())
    return found


@cache
def _isoforms() -> dict[str, str]:
    return {_key(one): one for one in ISOFORMS}
