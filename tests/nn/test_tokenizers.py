"""Whole words and their pieces: nothing is lost, and unseen names share the pieces of seen ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from sclm.nn import HubTokenizer, WordVocabulary
from sclm.nn.tokenizers import encode_after

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sclm.knowledge import Ontology


def test_every_name_of_the_ontology_comes_back(ontology: Ontology) -> None:
    vocabulary = WordVocabulary.from_texts(ontology.names, words=["HLA-DRA", "CD4"])
    unknown = vocabulary.tokens.index("<unk>")
    for name in ontology.names:
        ids = vocabulary.encode(name)
        if name.isascii():
            assert unknown not in ids
            assert vocabulary.decode(ids) == " ".join(name.split())


def test_words_are_whole_and_others_are_cut_and_spelled() -> None:
    vocabulary = WordVocabulary.from_texts(["alpha-beta T cell, human"], words=["HLA-DRA"])

    def tokens(text: str) -> list[str]:
        return [vocabulary.tokens[i] for i in vocabulary.encode(text)]

    assert tokens("HLA-DRA  cell") == ["HLA-DRA", "cell"]
    assert tokens("alpha-beta") == ["alpha", "##-", "##beta"]
    assert tokens("cell,") == ["cell", "##,"]
    assert tokens("xy") == ["x", "##y"]  # spelled
    assert tokens("alpha-xy") == ["alpha", "##-", "##x", "##y"]
    assert tokens("β") == ["<unk>"]
    for text in ("HLA-DRAx", "##cell", "a ## b", "###", "<eos> x", "naïve".replace("ï", "i"), "(T)", "_a_"):
        assert vocabulary.decode(vocabulary.encode(text)) == text
    assert vocabulary.eos not in vocabulary.encode("<eos>")


def test_the_same_texts_in_any_order_give_the_same_tokens() -> None:
    a = WordVocabulary.from_texts(["b c", "a"])
    b = WordVocabulary.from_texts(["a", "b c"])
    assert a.tokens == b.tokens
    assert WordVocabulary(a.tokens).encode("c b a") == a.encode("c b a")


@pytest.mark.parametrize("wrong", ["two words", "", "##x", "<pad>"])
def test_words_that_cannot_be_whole_are_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="single words"):
        WordVocabulary.from_texts([], words=[wrong])


def test_a_list_that_is_no_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="must begin with"):
        WordVocabulary(["a", "b"])
    with pytest.raises(ValueError, match="unique"):
        WordVocabulary(["<pad>", "<unk>", "<bos>", "<eos>", "a", "a"])


@pytest.mark.parametrize("start", [False, True])
def test_the_start_of_a_pretrained_tokenizer(start: bool, tmp_path: Path, write_lm: Callable[..., Any]) -> None:
    from sclm.nn.pretrained import load_tokenizer

    write_lm(tmp_path, "Llama", ["a T cell", "a B cell"], start=start)
    tokenizer = HubTokenizer(load_tokenizer(str(tmp_path), None))
    assert tokenizer.start == ((1,) if start else ())
    assert tokenizer.eos == 0
    assert tokenizer.decode([*tokenizer.start, *tokenizer.encode("a T cell"), 0]) == "a T cell"


def test_answers_are_encoded_as_they_stand_after_the_prompt(tmp_path: Path, write_lm: Callable[..., Any]) -> None:
    from sclm.nn.pretrained import load_tokenizer

    write_lm(tmp_path, "Llama", ["Type: T cell. Type: B cell."] * 9)
    tokenizer = HubTokenizer(load_tokenizer(str(tmp_path), None))
    (answer,) = encode_after(tokenizer, "Type:", [" T cell."])
    assert tokenizer.encode("Type:") + answer == tokenizer.encode("Type: T cell.")
    assert answer != tokenizer.encode("T cell.")
    (answer,) = encode_after(tokenizer, "Type: T ce", ["ll."])  # "cell" is one token: the context runs into the answer
    assert answer == tokenizer.encode("ll.")
