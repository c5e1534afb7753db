"""Text as token ids: a vocabulary of whole words made here, or the tokenizer of a pretrained model."""

from __future__ import annotations

import re
import string
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PAD, UNKNOWN, START, END = "<pad>", "<unk>", "<bos>", "<eos>"
_SPECIAL = (PAD, UNKNOWN, START, END)
_INSIDE = "##"  # a piece that continues the word before it
_PIECE = re.compile(r"[^\W_]+|[^\w\s]|_")
_CHARACTERS = string.ascii_letters + string.digits + string.punctuation


class TextTokenizer(Protocol):
    """What a language model needs to know of its text.

    Attributes
    ----------
    start
        Tokens in front of every sequence: none, or that of the beginning of a text.
    eos
        Token that ends an answer, None where the model has none.
    """

    start: tuple[int, ...]
    eos: int | None

    def __len__(self) -> int:
        """Number of tokens."""
        ...

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without special ones."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of tokens; special ones are left out."""
        ...


class WordVocabulary:
    """Whole words, gene symbols among them, as tokens; made from the texts at hand, no download.

    A text is cut at white space. A word on the list is one token; another is cut into runs of letters and digits and single
    marks (``"alpha-beta"`` → ``alpha ##- ##beta``, ``##`` for a piece that continues a word), so that names that were never
    seen share the pieces of names that were; a piece that is not on the list is spelled. Runs of white space become one space,
    and otherwise ``decode(encode(text)) == text`` for text of ASCII characters.

    Parameters
    ----------
    tokens
        All tokens in the order of their ids, as :meth:`from_texts` gives them. They are JSON: keep them in a configuration.

    Raises
    ------
    ValueError
        If a token stands twice, or the special tokens are not in front.

    Examples
    --------
    >>> words = WordVocabulary.from_texts(["CD4-positive, alpha-beta T cell"], words=["HLA-DRA"])
    >>> words.decode(words.encode("HLA-DRA alpha-T cell"))
    'HLA-DRA alpha-T cell'
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self.tokens = tuple(tokens)
        self._ids = {token: i for i, token in enumerate(self.tokens)}
        if len(self._ids) != len(self.tokens):
            raise ValueError(f"tokens must be unique, found {len(self.tokens) - len(self._ids)} repeated.")
        if self.tokens[: len(_SPECIAL)] != _SPECIAL:
            raise ValueError(f"tokens must begin with {', '.join(_SPECIAL)}, found {self.tokens[:4]}. Use from_texts.")
        self.start: tuple[int, ...] = (self._ids[START],)
        self.eos: int | None = self._ids[END]
        self._known: dict[str, tuple[int, ...]] = {}

    @classmethod
    def from_texts(cls, texts: Iterable[str], *, words: Iterable[str] = ()) -> Self:
        """The vocabulary of some texts.

        Parameters
        ----------
        texts
            Prompts, names, descriptions: everything that will be read or written.
        words
            Words that are never cut, such as gene symbols.

        Returns
        -------
        Special tokens, `words` in their order, the pieces of the texts sorted, and the ASCII characters for spelling.
        """
        whole = list(dict.fromkeys(words))
        if wrong := [w for w in whole if w.split() != [w] or w.startswith(_INSIDE) or w in _SPECIAL]:
            raise ValueError(
                f"words must be single words that are no special token and do not begin with {_INSIDE}, found {wrong[0]!r}."
            )
        known = set(whole)
        pieces: set[str] = set()
        for text in texts:
            for word in text.split():
                if word not in known:
                    pieces.update(_pieces(word))
        spelled = [f"{mark}{c}" for c in _CHARACTERS for mark in ("", _INSIDE)]
        return cls(dict.fromkeys([*_SPECIAL, *whole, *sorted(pieces), *spelled]))

    def __len__(self) -> int:
        """Number of tokens, special ones included."""
        return len(self.tokens)

    def encode(self, text: str) -> list[int]:
        """Tokens of a text; what cannot even be spelled becomes ``<unk>``."""
        ids: list[int] = []
        for word in text.split():
            found = self._known.get(word)
            if found is None:
                found = self._known[word] = self._word(word)
            ids.extend(found)
        return ids

    def _word(self, word: str) -> tuple[int, ...]:
        if word in self._ids and word not in _SPECIAL and not word.startswith(_INSIDE):
            return (self._ids[word],)
        ids: list[int] = []
        for piece in _pieces(word):
            if piece in self._ids:
                ids.append(self._ids[piece])
                continue
            inside = piece.startswith(_INSIDE) and len(piece) > len(_INSIDE)
            for i, character in enumerate(piece.removeprefix(_INSIDE) if inside else piece):
                spelled = character if i == 0 and not inside else f"{_INSIDE}{character}"
                ids.append(self._ids.get(spelled, self._ids[UNKNOWN]))
        return tuple(ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of tokens; special tokens are left out, except ``<unk>``."""
        parts: list[str] = []
        for i in ids:
            token = self.tokens[int(i)]
            if token in _SPECIAL and token != UNKNOWN:
                continue
            inside = token.startswith(_INSIDE) and len(token) > len(_INSIDE)
            if inside:
                parts.append(token.removeprefix(_INSIDE))
            else:
                parts.extend([" ", token] if parts else [token])
        return "".join(parts)


def _pieces(word: str) -> list[str]:
    """Pieces of a word, all but the first marked; characters that no piece takes are single ones."""
    found = _PIECE.findall(word)
    return [piece if i == 0 else f"{_INSIDE}{piece}" for i, piece in enumerate(found)] or list(word)


class HubTokenizer:
    """The tokenizer of a pretrained model, with special tokens where they belong.

    Parameters
    ----------
    tokenizer
        Of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        bare, full = self.encode("a"), list(tokenizer("a").input_ids)
        at = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0)
        self.start: tuple[int, ...] = tuple(full[:at])  # of Gemma and Llama: the beginning of a text
        self.eos: int | None = tokenizer.eos_token_id

    def __len__(self) -> int:
        """Number of tokens, special ones included."""
        return len(self._tokenizer)

    def chat(self, system: str, user: str) -> str | None:
        """A question as the model's chat template writes it, up to where the answer begins; None where there is no template.

        Templates that name the day, as those of Llama 3 do, name 26 July 2024: the same prompt on every day.
        """
        if not getattr(self._tokenizer, "chat_template", None):
            return None
        turns = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        return self._tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, date_string="26 Jul 2024"
        )

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without special ones."""
        return list(self._tokenizer(text, add_special_tokens=False).input_ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of tokens; special ones are left out."""
        plain = [int(i) for i in ids]
        return self._tokenizer.decode(plain, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def encode_after(tokenizer: TextTokenizer, context: str, texts: Iterable[str]) -> list[list[int]]:
    """Tokens of texts as they are written after a context.

    Tokenizers of pretrained models write ``"cell"`` and ``" cell"`` differently, and some join the end of the context with what
    follows. Context and text are therefore encoded together, and the tokens of the context taken off.

    Parameters
    ----------
    tokenizer
        Of the model.
    context
        The end of the prompt, for example ``"Cell type:"``.
    texts
        What follows, with the space in front where there is one.

    Returns
    -------
    Token ids of each text alone.
    """
    before = tokenizer.encode(context)
    answers = []
    for text in texts:
        both = tokenizer.encode(context + text)
        joined = both[: len(before)] != before  # the last token of the context runs into the text
        answers.append(tokenizer.encode(text) if joined else both[len(before) :])
    return answers
