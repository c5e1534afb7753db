"""What a Geneformer checkpoint knows of genes: their tokens, their usual expression, retired identifiers, symbols.

The originals are four files beside the weights, and weights with another version's files give nonsense without an error. Here they
are one checked object, and weights whose hash is published go with the dictionaries whose hashes are published, and no others.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from sclm.cells import GeneVocabulary
from sclm.models.geneformer.published import PUBLISHED, advice, identity, is_published, refuse_pointer
from sclm.models.restricted_pickle import load_restricted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

SPECIAL = {"V1": ("<pad>", "<mask>"), "V2": ("<pad>", "<mask>", "<cls>", "<eos>")}

# Role → what the names of its files hold, whatever stands before and after it.
_ROLES = {
    "tokens": "token_dictionary",
    "medians": "gene_median_dictionary",
    "symbols": "gene_name_id_dict",
    "retired": "ensembl_mapping_dict",
}
_ENDINGS = (".pkl", ".pickle", ".json")


@dataclass(frozen=True, eq=False)
class Dictionaries:
    """Genes of a Geneformer model.

    Parameters
    ----------
    vocabulary
        Tokens by id: special tokens, then Ensembl gene ids.
    medians
        (n_tokens,) float64: usual expression of each gene, the median over cells of its non-zero counts per 10,000; NaN for special
        tokens, and for genes that the model does not read.
    retired
        Ensembl id → the id under which the model knows the gene today, ``""`` where the model does not know that one. Ids that stand
        for themselves are left out.
    symbols
        Gene symbol → Ensembl id, as the model's authors name their genes.
    sha256
        Role (``"tokens"``, ``"medians"``, ``"symbols"``, ``"retired"``) → hash of the file that was read.
    files
        The files, in that order.
    """

    vocabulary: GeneVocabulary
    medians: np.ndarray
    retired: Mapping[str, str] = field(default_factory=dict)
    symbols: Mapping[str, str] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()

    @cached_property
    def version(self) -> str:
        """``"V2"`` with ``<cls>`` and ``<eos>``, ``"V1"`` without."""
        return version_of(self.vocabulary)

    def arrays(self) -> dict[str, np.ndarray]:
        """All but the vocabulary as arrays, text as the bytes of its JSON: what a checkpoint of ours keeps."""
        texts = {"retired": dict(self.retired), "symbols": dict(self.symbols)}
        encoded = {
            f"dictionaries.{name}": np.frombuffer(json.dumps(text, ensure_ascii=False).encode(), np.uint8)
            for name, text in texts.items()
        }
        return {"dictionaries.medians": self.medians, **encoded}

    @classmethod
    def from_arrays(cls, vocabulary: GeneVocabulary, arrays: dict[str, np.ndarray]) -> Dictionaries:
        """The inverse of :meth:`arrays`; takes its own arrays out of `arrays`."""
        medians = arrays.pop("dictionaries.medians")
        retired, symbols = (
            json.loads(arrays.pop(f"dictionaries.{name}").tobytes().decode()) for name in ("retired", "symbols")
        )
        return cls(vocabulary, medians, retired, symbols)


def version_of(vocabulary: GeneVocabulary) -> str:
    """Version of a model by its special tokens.

    Raises
    ------
    ValueError
        If these are not the first tokens, in the order of one of the versions.
    """
    special = tuple(token for token, gene in zip(vocabulary.tokens, vocabulary.is_gene, strict=True) if not gene)
    for version, expected in SPECIAL.items():
        if special == expected and vocabulary.tokens[: len(expected)] == expected:
            return version
    versions = ", or ".join(f"{' '.join(tokens)} ({version})" for version, tokens in SPECIAL.items())
    raise ValueError(f"the first tokens must be {versions}, with no other special tokens, found {special or 'none'}.")


# ---------------------------------------------------------------------- checks


def vocabulary_of(tokens: Mapping[str, int], where: str) -> GeneVocabulary:
    """Vocabulary of a token dictionary, name → id.

    Raises
    ------
    ValueError
        If the ids are not whole, unique and without gaps from 0, the special tokens are those of no version, or the genes are not
        Ensembl ids.
    """
    ids = list(tokens.values())
    odd = [f"{name!r}: {i!r}" for name, i in tokens.items() if isinstance(i, bool) or not isinstance(i, int)]
    if odd or not tokens:
        raise ValueError(f"{where} must map names to whole numbers, found {odd[0] if odd else 'no entry'}.")
    if sorted(ids) != list(range(len(ids))):
        repeated = len(ids) - len(set(ids))
        raise ValueError(
            f"{where} must number its {len(ids):,} tokens from 0 to {len(ids) - 1:,}, each once, found {min(ids):,} to {max(ids):,} "
            f"with {repeated:,} repeated. Get the file again."
        )
    vocabulary = GeneVocabulary(tuple(sorted(tokens, key=tokens.__getitem__)))
    try:
        version_of(vocabulary)
    except ValueError as error:
        raise ValueError(f"{where} is of no known version of Geneformer: {error}") from None
    if vocabulary.kind != "ensembl":
        shown = ", ".join(vocabulary.tokens[-3:])
        raise ValueError(f"{where} must name genes by Ensembl ids, found {shown}.")
    return vocabulary


def medians_of(medians: Mapping[str, float], vocabulary: GeneVocabulary, where: str) -> np.ndarray:
    """(n_tokens,) float64 medians in the order of the vocabulary, NaN where there is none.

    Raises
    ------
    ValueError
        If a value is no positive finite number.
    """
    for name, value in medians.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise ValueError(f"{where} must hold positive medians, found {value!r} for {name}. Get the file again.")
    found = np.array([medians.get(token, np.nan) for token in vocabulary.tokens], dtype=np.float64)
    found[~vocabulary.is_gene] = np.nan
    return found


def retired_of(mapping: Mapping[str, str], vocabulary: GeneVocabulary, where: str) -> dict[str, str]:
    """What a mapping dictionary (any known id → current id) says beyond the vocabulary: see :class:`Dictionaries`."""
    _check_text(mapping, where)
    known = {token for token, gene in zip(vocabulary.tokens, vocabulary.is_gene, strict=True) if gene}
    return {
        old: new if new in known else ""
        for old, new in mapping.items()
        if (new in known and new != old) or (new not in known and old in known)
    }


def _check_text(content: Mapping[str, str], where: str) -> None:
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise ValueError(f"{where} must map text to text, found {name!r}: {value!r}.")


# ---------------------------------------------------------------------- files


def find_dictionaries(folder: Path, vocabulary_size: int) -> Dictionaries:
    """Dictionaries that belong to the weights in a folder.

    They are looked for in the folder, its ``geneformer`` and ``dictionaries``, and in the same places one and two folders up, as in a
    clone of the hub repository; the nearest token dictionary with as many entries as the model has tokens is taken, with the other
    files of the same ending (``_gc104M``), else of the same folder.

    Parameters
    ----------
    folder
        Where ``config.json`` and the weights are.
    vocabulary_size
        ``vocab_size`` of the configuration.

    Returns
    -------
    The :class:`Dictionaries`. Files of symbols and of retired ids may be absent.

    Raises
    ------
    FileNotFoundError
        If the dictionary of tokens or of medians is not there.
    ValueError
        If only token dictionaries of another size are there, or a file is not what its role asks for.
    """
    places = _places(folder)
    sizes = []
    for path in _files(places, "tokens"):
        content = _read(path)
        if len(content) == vocabulary_size:
            return _assemble(path, content, places, folder)
        sizes.append(f"{path.name} with {len(content):,}")
    version = next((name for name, known in PUBLISHED.items() if known.n_tokens == vocabulary_size), None)
    if sizes:
        raise ValueError(
            f"{folder / 'config.json'} says vocab_size {vocabulary_size:,}, found token dictionaries of other sizes: {', '.join(sizes)}. "
            f"The dictionaries are of another version than the weights. {advice(folder, version)}"
        )
    raise FileNotFoundError(
        f"{folder} needs the dictionaries of its genes (*{_ROLES['tokens']}*.pkl, *{_ROLES['medians']}*.pkl or .json), found none there, "
        f"in its subfolders 'geneformer' and 'dictionaries', or beside it. {advice(folder, version)}"
    )


def _places(folder: Path) -> list[Path]:
    roots = [folder.absolute(), *list(folder.absolute().parents)[:2], *list(folder.resolve().parents)[:2]]
    inside = ("geneformer", "dictionaries", "geneformer/gene_dictionaries_30m", "gene_dictionaries_30m")
    places = dict.fromkeys([roots[0], *(root / name for root in roots for name in inside)])
    return [place for place in places if place.is_dir()]


def _files(places: Iterable[Path], role: str) -> list[Path]:
    """Files of a role, nearest first, pickles before their JSON copies."""
    found = []
    for place in places:
        here = [p for p in sorted(place.iterdir()) if _ROLES[role] in p.name and p.suffix in _ENDINGS and p.is_file()]
        found += sorted(here, key=lambda p: _ENDINGS.index(p.suffix))
    return found


def _ending(path: Path, role: str) -> str:
    """What tells the versions' files apart: ``_gc104M`` of ``token_dictionary_gc104M.pkl``."""
    return path.stem.partition(_ROLES[role])[2]


def _assemble(path: Path, tokens: Mapping[str, int], places: list[Path], folder: Path) -> Dictionaries:
    vocabulary = vocabulary_of(tokens, str(path))
    version, ending = version_of(vocabulary), _ending(path, "tokens")
    hashes = {"tokens": identity(path, tokens)}
    files = [path]
    # Retired ids and symbols are facts about genes, whatever the model; medians are the model's own.
    chosen: dict[str, dict[str, Any]] = {"symbols": {}, "retired": {}}
    for role in ("medians", "symbols", "retired"):
        candidates = _files(places, role)
        same = [p for p in candidates if _ending(p, role) == ending]
        near = [p for p in candidates if p.parent == path.parent]
        file = next(iter(same or (near if len({_ending(p, role) for p in near}) == 1 else [])), None)
        if file is None:
            continue
        chosen[role] = _read(file)
        hashes[role] = identity(file, chosen[role])
        files.append(file)
    if "medians" not in chosen:
        raise FileNotFoundError(
            f"{path} needs the medians of its genes, found no {_ROLES['medians']}{ending}.pkl or .json beside it. "
            f"{advice(folder, version)}"
        )
    medians = medians_of(chosen["medians"], vocabulary, str(files[1]))
    without = np.flatnonzero(np.isnan(medians) & vocabulary.is_gene)
    if without.size and not is_published(version, hashes):
        raise ValueError(
            f"{files[1]} lacks the medians of {without.size:,} of the {int(vocabulary.is_gene.sum()):,} genes of {path.name}, such as "
            f"{vocabulary.tokens[without[0]]}: the two are of different versions. {advice(folder, version)}"
        )
    _check_text(chosen["symbols"], "the dictionary of symbols")
    return Dictionaries(
        vocabulary,
        medians,
        retired_of(chosen["retired"], vocabulary, "the dictionary of retired ids"),
        chosen["symbols"],
        hashes,
        tuple(files),
    )


def _read(path: Path) -> dict[str, Any]:
    refuse_pointer(path)
    if path.suffix == ".json":
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is no JSON: {error}. Get the file again.") from error
    else:
        content = load_restricted(path)
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError(f"{path} must hold a dictionary of names, found {type(content).__name__}.")
    return content
