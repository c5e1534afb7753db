"""Texts about cells: written from metadata by a template, read back into terms, gathered into a corpus. Names are loaded on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sclm._lazy import lazy_names

if TYPE_CHECKING:
    from sclm.texts.corpus import Corpus, read_corpus, write_corpus
    from sclm.texts.parsing import parse_many, parse_template
    from sclm.texts.quotas import choose_cells, split_donors
    from sclm.texts.template import CellFacts, cell_facts, describe_template, pathway_text
    from sclm.texts.wording import AGES, age_phrase, disease_phrase, sex_phrase, tissue_phrase

_HOME = {
    "AGES": "wording",
    "CellFacts": "template",
    "Corpus": "corpus",
    "age_phrase": "wording",
    "cell_facts": "template",
    "choose_cells": "quotas",
    "describe_template": "template",
    "disease_phrase": "wording",
    "parse_many": "parsing",
    "parse_template": "parsing",
    "pathway_text": "template",
    "read_corpus": "corpus",
    "sex_phrase": "wording",
    "split_donors": "quotas",
    "tissue_phrase": "wording",
    "write_corpus": "corpus",
}

__all__ = [
    "AGES",
    "CellFacts",
    "Corpus",
    "age_phrase",
    "cell_facts",
    "choose_cells",
    "describe_template",
    "disease_phrase",
    "parse_many",
    "parse_template",
    "pathway_text",
    "read_corpus",
    "sex_phrase",
    "split_donors",
    "tissue_phrase",
    "write_corpus",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
