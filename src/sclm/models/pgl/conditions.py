"""What a model knows about metadata, and what a request for cells means to it."""

from __future__ import annotations

import json
import logging
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import pandas as pd

from sclm.models.pgl.combinations import Combinations, distinct_rows
from sclm.models.pgl.fields import MAX_VALUES, SCHEMA, Field, fit_field, local_ontology, ones
from sclm.models.pgl.lookup import find, near_names
from sclm.models.pgl.texts import read_texts, requested_texts, sorted_values

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import scipy.sparse as sp

    from sclm.knowledge import Ontology
    from sclm.models.pgl.lookup import Meaning

logger = logging.getLogger(__name__)

# Columns of a request that are no metadata of the model: requested depth, and the donor of a virtual cohort.
PASSED_THROUGH = ("n_counts", "virtual_donor")
# Novelty of seen values that no training cell has together. The model composes them; how well, only data can say.
UNSEEN_COMBINATION = 0.1
_WORDED = 5  # unseen combinations with a warning of their own; the others are counted


class Resolved(NamedTuple):
    """A request in a model's terms; n cells, m distinct combinations of requested values."""

    combination: np.ndarray  # (n,) int64: the combination of each cell
    nodes: tuple[sp.csr_matrix, ...]  # per field (m, n_nodes) float32 of ones; an empty row: not given
    codes: np.ndarray  # (m, n_fields) int32: the one training value that is meant, -1: not given, or several
    kinds: tuple[sp.csr_matrix, ...]  # per field (m, n_values) float32 of ones: all training values that are meant
    novelty: np.ndarray  # (m,) float32 in [0, 1], the largest of the fields'
    table: pd.DataFrame  # field, value, name, term_id, how, nearest, n_values, novelty
    warnings: tuple[str, ...]


class Conditions:
    """The metadata of a model's training cells: fields, their values, the ontology terms above them, combinations.

    Made by :meth:`fit`; saved as JSON in the checkpoint. Requests are read without any ontology file, but for terms
    that no training cell has and none is a kind of.

    Attributes
    ----------
    fields
        One :class:`~sclm.models.pgl.fields.Field` a column, in the order of ``keys``.
    combinations
        (n_combinations, n_fields) int32: the distinct rows of codes among training cells, -1 where not given.
    n_cells
        (n_combinations,) int64: training cells of each.

    Examples
    --------
    >>> import pandas as pd
    >>> obs = pd.DataFrame(
    ...     {
    ...         "cell_type": ["B cell", "CD4-positive, alpha-beta T cell", "CD8-positive, alpha-beta T cell"],
    ...         "condition": ["rest", "rest", "stimulated"],
    ...     }
    ... )
    >>> conditions = Conditions.fit(obs, ["cell_type", "condition"])
    >>> request = pd.DataFrame({"cell_type": ["T cell", "naive B cell"], "condition": ["rest", "rest"]})
    >>> resolved = conditions.resolve(request)
    >>> resolved.table[["value", "how", "nearest", "n_values"]]
              value       how                           nearest  n_values
    0        T cell   general  CD4-positive, alpha-beta T cell         2
    1  naive B cell  fallback                            B cell         1
    2          rest      seen                              rest         1
    >>> resolved.warnings
    ("cell_type 'naive B cell' was not in training: written as its nearest known kind, 'B cell' (novelty 0.13)",)
    >>> Conditions.from_json(conditions.to_json()) == conditions
    True
    """

    def __init__(self, fields: Sequence[Field], combinations: np.ndarray, n_cells: np.ndarray) -> None:
        self.fields = tuple(fields)
        self.combinations = np.asarray(combinations, dtype=np.int32).reshape(-1, len(self.fields))
        self.n_cells = np.asarray(n_cells, dtype=np.int64)
        self._index = Combinations(self.combinations, tuple(field.n_values for field in self.fields))

    @classmethod
    def fit(
        cls, obs: pd.DataFrame, keys: Sequence[str], *, ontologies: Mapping[str, Ontology | None] | None = None
    ) -> Self:
        """Read the metadata of training cells.

        NaN, empty texts, ``"nan"``, ``"na"``, ``"n/a"``, ``"null"`` and ``"unknown"``, in any case, are "not given".
        Fields of the CELLxGENE schema are placed under the terms of their ontology (tissue: UBERON, disease: MONDO,
        cell_type: Cell Ontology, assay: EFO, development_stage: HsapDv), by name or as ``…_ontology_term_id``. Where an
        ontology is not on this machine, its field is used with plain values and this is logged: nothing is downloaded.

        Parameters
        ----------
        obs
            One row a training cell.
        keys
            Columns to learn from.
        ontologies
            Field to :class:`~sclm.knowledge.Ontology`, or to None for plain values; replaces what the schema says.

        Returns
        -------
        Conditions

        Raises
        ------
        KeyError
            If a column does not exist, or ``ontologies`` names a field that is not among ``keys``.
        TypeError
            If a column holds decimal numbers.
        ValueError
            If there are no cells or no keys, a key is repeated or reserved (``n_counts``, ``virtual_donor``), a column
            has no value at all or more than 10,000 distinct ones.
        """
        keys = [keys] if isinstance(keys, str) else list(keys)
        _check_keys(obs, keys, ontologies or {})
        fields = []
        codes = np.full((len(obs), len(keys)), -1, dtype=np.int32)
        for f, key in enumerate(keys):
            codes[:, f], values = sorted_values(*read_texts(obs[key], key))
            if not values or len(values) > MAX_VALUES:
                found = f"{len(values):,}" if values else f"no value in {len(obs):,} cells"
                raise ValueError(
                    f".obs[{key!r}] must hold between 1 and {MAX_VALUES:,} distinct values, found {found}. Leave it out "
                    "of the keys, or group its values: names of single cells say nothing about cells to come."
                )
            counts = np.bincount(codes[codes[:, f] >= 0, f], minlength=len(values))
            fields.append(fit_field(key, values, counts.tolist(), _ontology_of(key, ontologies or {})))
        combinations, _, n_cells = distinct_rows(codes)
        return cls(fields, combinations, n_cells)

    # Description ----------------------------------------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the fields."""
        return tuple(field.name for field in self.fields)

    def __getitem__(self, name: str) -> Field:
        """The field of a name."""
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(self._no_field([name]))

    def __repr__(self) -> str:
        inside = ", ".join(f"{field.name}: {field.n_values:,}" for field in self.fields)
        return f"Conditions({inside}; {len(self.combinations):,} combinations)"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Conditions)
            and self.fields == other.fields
            and np.array_equal(self.combinations, other.combinations)
            and np.array_equal(self.n_cells, other.n_cells)
        )

    __hash__ = None  # type: ignore[assignment]

    def to_json(self) -> str:
        """JSON text that :meth:`from_json` reads."""
        content = {
            "format": 1,
            "fields": [field.to_dict() for field in self.fields],
            "combinations": self.combinations.tolist(),
            "n_cells": self.n_cells.tolist(),
        }
        return json.dumps(content, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Conditions from the text of :meth:`to_json`; ValueError for a format that this version does not know."""
        content = json.loads(text)
        if not isinstance(content, dict) or content.get("format") != 1:
            found = content.get("format") if isinstance(content, dict) else type(content).__name__
            raise ValueError(f"expected conditions of format 1, found {found!r}. Update sclm to read newer files.")
        fields = [Field.from_dict(field) for field in content["fields"]]
        return cls(fields, np.array(content["combinations"], dtype=np.int32), np.array(content["n_cells"]))

    # Training cells -------------------------------------------------------------------------------------------------

    def codes(self, obs: pd.DataFrame) -> np.ndarray:
        """Code of each cell in each field, for cells labelled as in training.

        Parameters
        ----------
        obs
            One row a cell. Fields that it has no column for are not given.

        Returns
        -------
        (n, n_fields) int32; -1 where a value is not given or is no training value, letter for letter.
        """
        codes = np.full((len(obs), len(self.fields)), -1, dtype=np.int32)
        for f, field in enumerate(self.fields):
            if field.name in obs.columns:
                read, texts = read_texts(obs[field.name], field.name)
                known = np.array([field.code_of.get(text, -1) for text in texts] + [-1], dtype=np.int32)
                codes[:, f] = known[read]
        return codes

    # Requests -------------------------------------------------------------------------------------------------------

    def resolve(
        self,
        request: pd.DataFrame,
        *,
        ontologies: Mapping[str, Ontology | None] | None = None,
        max_novelty: float = 0.5,
    ) -> Resolved:
        """Read a request in terms of what was in training.

        A requested value is one of these (column ``how`` of the table):

        - ``"seen"``: a training value, by its text (case aside), or by id, name or synonym of its term; novelty 0.
        - ``"general"``: a term above training values, "T cell" after training on its subtypes; novelty 0.
        - ``"fallback"``: a term that no training cell has, below a known one; written as training values of its nearest known kind.
          Its novelty is 1 minus Lin's similarity to the most similar training value of its nearest known kind.
        - ``"new donor"``: a ``donor_id`` not in training, the one field where new values are what a cohort is for: the
          field is left open, novelty 0.1. Other fields without ontology must hold training values.
        - ``"not given"``: the text ``"unknown"``: the field is left open for these cells.
        - ``"unseen combination"``: a row for each combination whose values no training cell has together; novelty at
          least 0.1.

        Parameters
        ----------
        request
            One row a cell to write, any subset of the fields as columns; ``n_counts`` (requested depth, positive) and
            ``virtual_donor`` pass. No fields at all asks for cells as the training data had them.
        ontologies
            Field to ontology, for fields whose ontology is a file of the user's; named ones are found by themselves.
        max_novelty
            Most novelty of a fallback, in [0, 1].

        Returns
        -------
        Resolved

        Raises
        ------
        KeyError
            If a column is no field of the model.
        TypeError
            If a column holds decimal numbers.
        ValueError
            If the request has no rows, a value is missing, ``n_counts`` is not positive, or a value has no relation to
            anything seen; all such values are named in one message.
        """
        if not 0.0 <= max_novelty <= 1.0:
            raise ValueError(f"expected max_novelty in [0, 1], found {max_novelty}.")
        self._check_request(request)
        ontology = cache(partial(self._ontology, ontologies=ontologies or {}))
        given = [f for f, field in enumerate(self.fields) if field.name in request.columns]
        read = [requested_texts(request, self.fields[f].name) for f in given]
        meanings: list[list[Meaning]] = []
        wrong: list[str] = []
        for f, (_, texts) in zip(given, read, strict=True):
            found = []
            for text in texts:
                try:
                    found.append(find(self.fields[f], text, partial(ontology, self.fields[f].name), max_novelty))
                except ValueError as error:
                    wrong.append(str(error))
            meanings.append(found)
        if wrong:
            more = [f"… and {len(wrong) - 5} more."] if len(wrong) > 5 else []
            raise ValueError("\n".join(wrong[:5] + more))

        asked = np.column_stack([codes for codes, _ in read]) if read else np.zeros((len(request), 0), np.int32)
        rows, combination, _ = distinct_rows(asked)  # (m, n_given): which text of each field
        nodes = [ones([()] * len(rows), field.n_nodes) for field in self.fields]
        kinds = [ones([()] * len(rows), field.n_values) for field in self.fields]
        codes = np.full((len(rows), len(self.fields)), -1, dtype=np.int32)
        novelty = np.zeros(len(rows), dtype=np.float32)
        for column, (f, found) in enumerate(zip(given, meanings, strict=True)):
            picked = rows[:, column]
            nodes[f] = ones([meaning.nodes for meaning in found], self.fields[f].n_nodes)[picked]
            kinds[f] = ones([tuple(map(int, m.codes)) for m in found], self.fields[f].n_values)[picked]
            codes[:, f] = np.array([meaning.code for meaning in found], dtype=np.int32)[picked]
            np.maximum(novelty, np.array([meaning.novelty for meaning in found], np.float32)[picked], out=novelty)
        table = [
            (self.fields[f].name, text, m.name, m.term_id, m.how, m.nearest, len(m.codes), m.novelty)
            for f, (_, texts), found in zip(given, read, meanings, strict=True)
            for text, m in zip(texts, found, strict=True)
        ]
        warnings = [m.warning for found in meanings for m in found if m.warning]
        unseen = 0
        for i, row in enumerate(rows):
            asked_together = {
                f: found[k].codes for f, found, k in zip(given, meanings, row, strict=True) if len(found[k].codes)
            }
            if len(asked_together) < 2 or self._index.together(asked_together):
                continue
            novelty[i] = max(novelty[i], UNSEEN_COMBINATION)
            named = {f: texts[k] for f, (_, texts), k in zip(given, read, row, strict=True) if f in asked_together}
            table.append(
                (
                    " + ".join(self.fields[f].name for f in named), " + ".join(named.values()), "", "",
                    "unseen combination", "", 0, UNSEEN_COMBINATION,
                )
            )  # fmt: skip
            unseen += 1
            if unseen <= _WORDED:
                together = " and ".join(
                    f"{self.fields[f].name} {named[f]!r}" for f in self._index.apart(asked_together)
                )
                warnings.append(
                    f"no training cell has {together} together: the model composes them (novelty {UNSEEN_COMBINATION})"
                )
        if unseen > _WORDED:
            warnings.append(f"{unseen - _WORDED:,} more requested combinations have no training cell")
        names = ["field", "value", "name", "term_id", "how", "nearest", "n_values", "novelty"]
        frame = pd.DataFrame(table, columns=names).astype({"n_values": np.int64, "novelty": np.float64})
        return Resolved(combination, tuple(nodes), codes, tuple(kinds), novelty, frame, tuple(warnings))

    def _ontology(self, name: str, ontologies: Mapping[str, Ontology | None]) -> Ontology | None:
        if name in ontologies:
            return ontologies[name]
        named = self[name].ontology
        return None if named is None else local_ontology(named)

    def _no_field(self, names: Sequence[str]) -> str:
        near = [n for name in names for n in near_names(str(name), self.names)] or list(self.names)
        return (
            f"{', '.join(map(repr, names))}: no field of this model. Nearest: {', '.join(map(repr, dict.fromkeys(near)))}; "
            f"its fields are {', '.join(map(repr, self.names))}."
        )

    def _check_request(self, request: pd.DataFrame) -> None:
        if not isinstance(request, pd.DataFrame):
            raise TypeError(
                f"expected a DataFrame, one row a cell to write, found {type(request).__name__}. Make one with sclm.request."
            )
        wrong = [c for c in request.columns if c not in self.names and c not in PASSED_THROUGH]
        if wrong:
            raise KeyError(self._no_field(wrong))
        if not request.columns.is_unique:
            raise ValueError("a column of the request stands twice. Keep one of each.")
        if len(request) == 0:
            raise ValueError("the request has no rows: there is no cell to write. Give one row a cell.")
        if "n_counts" in request:
            depth = pd.to_numeric(request["n_counts"], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
            bad = np.flatnonzero(~((depth > 0) & np.isfinite(depth)))
            if len(bad):
                raise ValueError(
                    f"n_counts must be positive numbers, found {request['n_counts'].iloc[bad[0]]} in row {bad[0]} "
                    f"({len(bad):,} rows). Leave the column out to let the model choose depths."
                )


def _check_keys(obs: pd.DataFrame, keys: Sequence[str], ontologies: Mapping[str, Any]) -> None:
    if not keys:
        raise ValueError('keys must name at least one column of .obs, found none. Pass e.g. ["tissue", "cell_type"].')
    columns = [str(column) for column in obs.columns]
    for key in keys:
        if key not in obs.columns:
            near = near_names(str(key), columns) or columns[:10]
            raise KeyError(f"{key!r} is no column of .obs; near: {', '.join(map(repr, near)) or 'none'}.")
        if "/" in str(key):
            raise ValueError(f"the column {key!r} holds a '/', which h5ad and zarr read as a path. Rename the column.")
        if key in PASSED_THROUGH:
            raise ValueError(f"{key!r} has a meaning of its own in requests and cannot be a field. Rename the column.")
    if len(set(keys)) < len(keys):
        raise ValueError(f"each key can be used once, found {list(keys)}.")
    for name in ontologies:
        if name not in keys:
            raise KeyError(f"ontologies= names {name!r}, which is not among the keys {', '.join(map(repr, keys))}.")
    if len(obs) == 0:
        raise ValueError("there must be at least one cell to learn from, found 0.")


def _ontology_of(key: str, ontologies: Mapping[str, Ontology | None]) -> Ontology | None:
    if key in ontologies:
        return ontologies[key]
    named = SCHEMA.get(key.removesuffix("_ontology_term_id"))
    if named is None:
        return None
    found = local_ontology(named)
    if found is None:
        logger.info(
            "The ontology %r is not on this machine: %s is learnt as plain values, and unseen ones will not be related to "
            "them. sclm.knowledge.fetch(%r) gets it.", named, key, named,
        )  # fmt: skip
    return found
