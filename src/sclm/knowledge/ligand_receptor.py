"""Tables of ligands and receptors: bundled, from public files with their licence, from installed packages, or a user's own."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from sclm.knowledge.downloads import RESOURCES, fetch
from sclm.knowledge.graph_sources import read_table

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT = "sclm"
_BUNDLED = Path(__file__).with_name("data") / "ligand_receptor_human.csv"
_OF_LIANA = "consensus"  # its table that is taken where none is named
# Names of the two columns in tables of other packages, in the order in which they are looked for.
_COLUMNS = (
    ("ligand", "receptor"),
    ("source_genesymbol", "target_genesymbol"),
    ("genesymbol_intercell_source", "genesymbol_intercell_target"),
    ("ligand_gene_symbol", "receptor_gene_symbol"),
    ("ligand_symbol", "receptor_symbol"),
    ("source", "target"),
)
_FILES = ("liana_consensus", "celltalkdb")  # of the registry of downloads
_LICENCES = {
    DEFAULT: ("BSD-3-Clause", "287 pairs of tumours, stroma and immune cells, written for sclm", True),
    "liana": (
        "that of the tables that it joins; the package is BSD-3-Clause",
        "the consensus of the installed package liana; 'liana:cellphonedb' and so on for its other tables",
        False,
    ),
    "squidpy": (
        "that of the databases that OmniPath joins",
        "what squidpy.gr.ligrec takes by default, over the network, with the package omnipath",
        False,
    ),
}


class SignalPairs(NamedTuple):
    """Ligands and receptors, and where they are from.

    Attributes
    ----------
    table
        One row a pair: ``ligand`` and ``receptor``, the parts of a complex joined by ``_``, and for the bundled table
        ``category`` and ``range`` (``"contact"`` or ``"secreted"``). No pair stands twice.
    name, licence, source
        Of the table.
    """

    table: pd.DataFrame
    name: str
    licence: str
    source: str


def ligand_receptor_pairs(source: str | Path | pd.DataFrame = DEFAULT) -> SignalPairs:
    """Ligands and their receptors.

    Parameters
    ----------
    source
        ``"sclm"``: the bundled table, for which nothing is downloaded. Another name of
        :func:`ligand_receptor_sources_available`, whose licence is to be looked at before use. A DataFrame, or the path of a
        ``.csv``, ``.tsv`` or ``.txt`` file (also ``.gz`` or ``.xz``), with the columns ``ligand`` and ``receptor``,
        ``source`` and ``target`` (as squidpy has them), ``source_genesymbol`` and ``target_genesymbol`` (as liana and OmniPath
        have them), or with two columns only. Parts of a complex are joined by ``_`` or ``&``.

    Returns
    -------
    A :class:`SignalPairs`.

    Raises
    ------
    ValueError
        If there is no such source, or a table has no two columns of genes or no pair.
    ModuleNotFoundError
        If the package that holds the table is not installed.
    ConnectionError
        If a file is neither here nor can be downloaded.

    Examples
    --------
    >>> pairs = ligand_receptor_pairs()
    >>> pairs.licence
    'BSD-3-Clause'
    >>> pairs.table.iloc[0].tolist()
    ['CD274', 'PDCD1', 'checkpoint', 'contact']
    """
    if isinstance(source, pd.DataFrame):
        return SignalPairs(_tidy(source, "the table"), "table", "not stated", "a DataFrame")
    if not isinstance(source, str | Path):
        raise TypeError(f"pairs must be a name, a path or a DataFrame, found {type(source).__name__}.")
    name = str(source)
    if name == DEFAULT:
        licence, text, _ = _LICENCES[DEFAULT]
        return SignalPairs(pd.read_csv(_BUNDLED, comment="#", dtype=str, keep_default_na=False), name, licence, text)
    if name in _FILES:
        resource = RESOURCES[name]
        return SignalPairs(_tidy(read_table(fetch(name)), name), name, resource.licence, resource.url)
    if name == "liana" or name.startswith("liana:"):
        return _of_liana(name.partition(":")[2] or _OF_LIANA)
    if name == "squidpy":
        return _of_omnipath()
    path = Path(source)
    if not path.suffix:
        known = ", ".join(map(repr, (*_LICENCES, *_FILES)))
        raise ValueError(f"expected one of {known}, or the path of a table, found {name!r}.")
    return SignalPairs(_tidy(read_table(path), str(path)), path.name, "not stated", str(path))


def ligand_receptor_sources_available() -> pd.DataFrame:
    """The tables that :func:`ligand_receptor_pairs` knows by name.

    Returns
    -------
    One row a table: `name`, `licence`, `source`, and `bundled`, whether it comes with the package.
    """
    rows = [(name, *facts) for name, facts in _LICENCES.items()]
    rows += [(name, RESOURCES[name].licence, RESOURCES[name].source, False) for name in _FILES]
    return pd.DataFrame(rows, columns=["name", "licence", "source", "bundled"])


def _of_liana(resource: str) -> SignalPairs:
    """A table of the installed liana, read from its folder: importing it takes seconds and more packages."""
    found = importlib.util.find_spec("liana")
    path = Path(found.origin).parent / "resource" / "omni_resource.csv" if found and found.origin else None
    if path is None or not path.is_file():
        raise ModuleNotFoundError(
            "pairs='liana' needs liana's table of ligands and receptors, which is not installed. Run pip install liana, or "
            "pass a DataFrame."
        )
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    names = sorted(table["resource"].unique())
    if resource not in names:
        raise ValueError(f"liana has no table {resource!r}; it has {', '.join(map(repr, names))}.")
    licence, _, _ = _LICENCES["liana"]
    tidy = _tidy(table[table["resource"] == resource], "liana's table")
    return SignalPairs(tidy, f"liana:{resource}", licence, f"liana, {resource}")


def _of_omnipath() -> SignalPairs:
    """What squidpy takes by default; the package omnipath downloads it."""
    if importlib.util.find_spec("omnipath") is None:
        raise ModuleNotFoundError(
            "pairs='squidpy' needs the package omnipath, which squidpy asks for its pairs. Run pip install squidpy, or pass a "
            "DataFrame."
        )
    omnipath = importlib.import_module("omnipath.interactions")
    try:
        table = omnipath.import_intercell_network(
            transmitter_params={"categories": "ligand"}, receiver_params={"categories": "receptor"}
        )
    except Exception as error:  # requests, urllib3, parsing: for the user they are one thing
        raise ConnectionError(
            f"OmniPath could not be asked for its pairs ({type(error).__name__}: {error}). Pass pairs='sclm', or a table of "
            "yours."
        ) from error
    licence, text, _ = _LICENCES["squidpy"]
    return SignalPairs(_tidy(table, "OmniPath's table"), "squidpy", licence, text)


def _tidy(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """The columns ``ligand`` and ``receptor``, each pair once, in the order of the table."""
    left, right = _columns(table, name)
    genes = [np.asarray(table[column], dtype=object) for column in (left, right)]
    kept: dict[tuple[str, str], None] = {}
    for pair in zip(*genes, strict=True):
        ligand, receptor = (_complex(value) for value in pair)
        if ligand and receptor:
            kept[ligand, receptor] = None
    if not kept:
        raise ValueError(f"{name} must hold pairs of genes, found none in {len(table):,} rows.")
    return pd.DataFrame(list(kept), columns=["ligand", "receptor"])


def _columns(table: pd.DataFrame, name: str) -> Sequence[Any]:
    for pair in _COLUMNS:
        if set(pair) <= set(table.columns):
            return pair
    if table.shape[1] == 2:
        return list(table.columns)
    raise ValueError(
        f"{name} must have the columns 'ligand' and 'receptor' (or 'source' and 'target'), found "
        f"{', '.join(map(repr, table.columns))}."
    )


def _complex(value: object) -> str:
    """The genes of a complex joined by ``_``; empty where nothing is there."""
    if value is None or value != value:
        return ""
    text = str(value).removeprefix("COMPLEX:").replace("&", "_")
    return "_".join(part.strip() for part in text.split("_") if part.strip())
