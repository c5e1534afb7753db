"""The numbers by which published scTranslator weights know genes (``my_Id``), and the dictionaries from names to them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sclm.cells import GeneVocabulary
from sclm.knowledge import GeneIdentifiers
from sclm.knowledge.proteins import antibody
from sclm.models.restricted_pickle import load_restricted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from sclm.cells import GeneMatch

DICTIONARIES = ("EntrezID_to_myID", "hgs_to_EntrezID")
_FOLDERS = (".", "ID_dic", "../ID_dic", "code/model/ID_dic", "../code/model/ID_dic")  # beside the weights
_ENDINGS = ("", ".json", ".pickle", ".pkl")
_LEAST_SHARE = 0.2  # of the data's genes that the model must know
WHERE = (
    f"Download the folder code/model/ID_dic of the authors' repository TencentAILabHealthcare/scTranslator (the files "
    f"{' and '.join(DICTIONARIES)}, pickled or as JSON), put it as ID_dic beside the checkpoint and load it again"
)


class GeneIds(NamedTuple):
    """Names of genes and their numbers.

    Attributes
    ----------
    vocabulary
        One token an id, in order; id 0 is ``<pad>``. An id without a symbol is written as its number.
    names
        Every symbol and alias of the dictionaries → id; empty without dictionaries.
    """

    vocabulary: GeneVocabulary
    names: dict[str, int]

    @classmethod
    def read(cls, files: Mapping[str, Path], n_ids: int) -> GeneIds:
        """From the dictionaries' files, by name; without them, ids are known by number only.

        Raises
        ------
        ValueError
            If a file holds something else than a dictionary from names to numbers.
        """
        if not files:
            return cls(GeneVocabulary(("<pad>", *map(str, range(1, n_ids)))), {})
        number = {_entrez(k): int(v) for k, v in _dictionary(files["EntrezID_to_myID"]).items()}
        symbols = _dictionary(files["hgs_to_EntrezID"])
        outside = [v for v in number.values() if not 0 < v < n_ids]
        if outside:
            raise ValueError(
                f"{files['EntrezID_to_myID']} must map to ids from 1 to {n_ids - 1:,}, found {outside[0]}: it belongs to another model."
            )
        names = {str(symbol): number[_entrez(gene)] for symbol, gene in symbols.items() if _entrez(gene) in number}
        tokens = ["<pad>", *map(str, range(1, n_ids))]
        approved = {
            s for s, a in zip(names, GeneIdentifiers.load("human").to_symbol(list(names)), strict=True) if s == a
        }
        for symbol, i in names.items():  # an approved symbol, else the first that is there
            if tokens[i] == str(i) or (symbol in approved and tokens[i] not in approved):
                tokens[i] = symbol
        return cls(GeneVocabulary(tuple(tokens)), names)


def find_dictionaries(file: Path) -> dict[str, Path]:
    """Files of the gene-id dictionaries for a file of weights, both or none.

    Looked for beside it and in ``ID_dic``, ``../ID_dic``, ``code/model/ID_dic`` and ``../code/model/ID_dic``.
    """
    for place in _FOLDERS:
        folder = file.parent / place
        if not folder.is_dir():
            continue
        files = {path.name.partition(".")[0]: path for path in sorted(folder.iterdir()) if path.suffix in _ENDINGS}
        found = {name: files[name] for name in DICTIONARIES if name in files}
        if len(found) == len(DICTIONARIES):
            return found
    return {}


def match_names(names: Sequence[str], vocabulary: GeneVocabulary, known: Mapping[str, int]) -> GeneMatch:
    """Ids of genes: numbers are taken as ``my_Id``, names are looked up in the dictionaries, then as in any vocabulary.

    Parameters
    ----------
    names
        Of the data.
    vocabulary, known
        As in :class:`GeneIds`.

    Returns
    -------
    A :class:`~sclm.cells.GeneMatch`; two data genes of one id both keep it.
    """
    match = vocabulary.match(names)
    ids = my_ids(names, len(vocabulary))
    if ids is None:  # without dictionaries a name says nothing, and no token is one
        ids = np.array([known.get(str(name), i) for name, i in zip(names, match.ids, strict=True)], dtype=np.int64)
    there = np.unique(ids[ids >= 0])
    return match._replace(ids=ids, matched=len(there), routes={"exact": int((ids >= 0).sum())})


def my_ids(names: Iterable[str], n_ids: int) -> np.ndarray | None:
    """Ids of names that are numbers (``"748"``, ``"748.0"``), -1 for those out of range; None where most are no numbers."""
    found = []
    for name in names:
        text = str(name).removesuffix(".0")
        found.append(int(text) if text.isdecimal() else -1)
    ids = np.array(found, dtype=np.int64)
    if (ids >= 0).sum() <= 0.5 * len(ids):
        return None
    return np.where((ids > 0) & (ids < n_ids), ids, -1)


def require_known(names: Sequence[str], match: GeneMatch, known: Mapping[str, int]) -> None:
    """Refuse data of which the model knows hardly a gene, with the reason.

    Raises
    ------
    ValueError
        Says where to get the dictionaries where they are absent.
    """
    n_known = int((match.ids >= 0).sum())
    if n_known >= max(1.0, _LEAST_SHARE * len(names)):
        return
    shown = ", ".join(map(str, names[:3]))
    problem = (
        f"at least {_LEAST_SHARE:.0%} of the data's {len(names):,} genes must have an id, found {n_known:,} ({shown} …)"
    )
    if not known:
        raise ValueError(
            f"{problem}: this checkpoint was read without its gene-id dictionaries, so that it knows genes by number only. "
            f'{WHERE}. Or pass gene_key="my_Id", where adata.var has that column.'
        )
    raise ValueError(
        f"{problem}. Pass gene_key= naming the column of adata.var with human gene symbols or Ensembl ids."
    )


def protein_numbers(names: Sequence[str], vocabulary: GeneVocabulary, known: Mapping[str, int]) -> np.ndarray:
    """Ids of proteins, (n_proteins,) int64.

    A number is taken as ``my_Id``; a name is looked up in the dictionaries as it is (isoforms such as ``CD45RA`` have ids of
    their own there), then by what the antibody binds: its isoform, else the first of its genes that has an id.

    Raises
    ------
    KeyError
        If a protein has no id.
    ValueError
        If the checkpoint was read without its dictionaries.
    """
    numbers = my_ids(names, len(vocabulary))
    if numbers is not None and (numbers > 0).all():
        return numbers
    if not known:
        raise ValueError(
            f"proteins= must be numbers (my_Id) for this checkpoint, found {names[0]!r}: it was read without its gene-id "
            f"dictionaries. {WHERE}."
        )
    found = np.zeros(len(names), dtype=np.int64)
    for i, name in enumerate(names):
        meant = antibody(name)
        genes = vocabulary.match(meant.genes).ids if meant.genes else np.zeros(0, dtype=np.int64)
        found[i] = known.get(name) or known.get(meant.target) or next((g for g in genes if g > 0), 0)
        if not found[i]:
            what = "is an isotype control" if meant.isotype else "has no id in the checkpoint's dictionaries"
            raise KeyError(f"the protein {name!r} {what}. Leave it out, or pass its my_Id.")
    return found


def _dictionary(path: Path) -> dict[str, int]:
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.suffix == ".json" else load_restricted(path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no JSON text. {WHERE}.") from error
    if not isinstance(found, dict) or not found:
        raise ValueError(f"{path} must hold a dictionary, found {type(found).__name__}. {WHERE}.")
    return found


def _entrez(value: object) -> str:
    """An Entrez id as text, whichever way it was stored."""
    return str(value).removesuffix(".0")
