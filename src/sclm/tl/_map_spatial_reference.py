"""The reference of a map: real cells, cells that a generator writes for the request, or a mapper that was trained before."""

from __future__ import annotations

import logging
import re
from numbers import Integral
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from sclm import models
from sclm.cells import GeneVocabulary, JoinedSource, read_cells, require_overlap
from sclm.models.contract import Generator, SpatialMapper

if TYPE_CHECKING:
    from sclm.cells import CellSource

logger = logging.getLogger(__name__)

_SHIFT = 1.0  # sd of log platform factors for generated cells: the gene biases of a model beside the platform's
_OPEN = "unknown"  # in a request: left to the model
_FLAGGED = 0.5  # of a type's cells


class Prepared(NamedTuple):
    """A mapper and where it comes from."""

    mapper: Any
    shift: float | None  # prior of the platform factors, None: the family's own
    provenance: dict[str, Any]
    warnings: list[str]


def check_roads(
    reference: Any, label_key: str | None, request: Any, model: Any, method: Any, n_cells_per_type: Any, others: dict[str, Any]
) -> None:  # fmt: skip
    """Exactly one of the three ways to name a reference.

    Raises
    ------
    ValueError
        If none or several are used, or something describes a reference that is not there.
    TypeError
        If an argument is of the wrong kind.
    """
    if isinstance(n_cells_per_type, bool) or not isinstance(n_cells_per_type, Integral):
        raise TypeError(f"n_cells_per_type must be a whole number, found {n_cells_per_type!r}.")
    if n_cells_per_type < 2:
        raise ValueError(f"n_cells_per_type must be at least 2, found {n_cells_per_type}. Use 50 or more.")
    if not isinstance(method, str):
        raise TypeError(f"method must be the name of a family, found {type(method).__name__}. Pass a model as model=.")
    if reference is None and request is None and model is None:
        raise ValueError(
            "Cell types need a reference, found none. Pass reference= and label_key= (labelled cells), request= and model= (a "
            'generator that writes the cells), or model= (a mapper made by sclm.train("deconvolution", ...)).'
        )
    if reference is not None and (request is not None or model is not None):
        other = " and ".join(name for name, v in (("request=", request), ("model=", model)) if v is not None)
        raise ValueError(
            f"Pass one reference, found reference= and {other}. With reference=, method= names the family to train."
        )
    if request is not None and model is None:
        raise ValueError(
            "request= asks a generator for cells, found no model=. Pass model= a generator, as sclm.tl.generate takes it."
        )
    described = {"label_key": label_key, **others}
    given = [name for name, value in described.items() if value is not None]
    if reference is None and request is not None:
        given = [name for name in given if name != "label_key"]
    if reference is None and given:
        raise ValueError(
            f"{' and '.join(given)} describe{'s' * (len(given) == 1)} a reference, found no reference. Pass reference= as well."
        )
    if reference is not None and label_key is None:
        columns = ", ".join(map(str, list(getattr(reference, "obs", pd.DataFrame()).columns)[:20]))
        raise ValueError(
            f"label_key= must name the column of reference.obs with the cell types, found None. Columns: {columns or 'none'}."
        )


def prepare(
    reference: Any,
    label_key: str | None,
    request: pd.DataFrame | None,
    model: Any,
    method: str,
    genes: pd.Index,
    *,
    n_cells_per_type: int,
    layer: str | None,
    gene_key: str | None,
    seed: int,
) -> Prepared:
    """The mapper of a reference, whichever way it was named; genes are those of the section."""
    if request is not None:
        return _generated(request, model, label_key or "cell_type", method, genes, n_cells_per_type, seed)
    if reference is None:
        mapper = _trained(model, method)
        return Prepared(mapper, None, {"kind": "trained mapper", **_types(mapper)}, [])
    family = _family(method)
    source = _read_reference(reference, family, label_key, layer, gene_key)
    mapper = family.fit(source, label_key=label_key, genes=genes, seed=seed)
    facts = {
        "kind": "real cells",
        "n_cells": source.n_cells,
        "n_genes": source.n_genes,
        "label_key": label_key,
        **_types(mapper),
    }
    return Prepared(mapper, None, facts, [])


# Ways ---------------------------------------------------------------------------------------------------------------


def _family(method: str) -> Any:
    """A family that maps, by name."""
    family = models.family_class(method)
    if not hasattr(family, "adapt"):
        able = [name for name in models.FAMILIES if hasattr(models.family_class(name), "adapt")]
        raise ValueError(f"{method!r} does not map cell types. Families that do: {', '.join(map(repr, able))}.")
    return family


def _trained(model: Any, method: str) -> Any:
    """A mapper that was trained before."""
    mapper = model if isinstance(model, SpatialMapper) else models.load(model)
    if isinstance(mapper, Generator):
        raise ValueError(
            "model= is a generator, found no request=. Pass request=sclm.request(1, tissue=...), or name cell types in it."
        )
    if not isinstance(mapper, SpatialMapper):
        raise ValueError(
            f"{getattr(mapper, 'family', type(mapper).__name__)!r} does not map cell types. Train a mapper: "
            'sclm.train("deconvolution", reference, label_key=...).'
        )
    family = getattr(mapper, "family", method)
    if method not in ("deconvolution", family):
        raise ValueError(f"model= is a trained {family!r}, found method={method!r}. Leave method= out.")
    return mapper


def _read_reference(reference: Any, family: Any, label_key: str | None, layer: str | None, gene_key: str | None) -> Any:
    """Labelled cells; a list is joined in the genes that all share."""
    parts = list(reference) if isinstance(reference, list | tuple) else [reference]
    if not parts:
        raise ValueError("reference= must hold labelled cells, found an empty list.")
    sources: list[CellSource] = []
    for i, part in enumerate(parts):
        name = "reference" if part is reference else f"reference[{i}]"
        try:
            sources.append(read_cells(part, layer=layer, gene_key=gene_key, obs_keys=[str(label_key)]))
        except (KeyError, TypeError, ValueError) as error:
            # The same messages, in the words of this call: adata.X → reference.X, layer= → reference_layer=.
            text = re.sub(r"\badata\b", name, str(error.args[0]))
            raise type(error)(re.sub(r"\b(layer|gene_key)=", r"reference_\1=", text)) from error
    if len(sources) == 1:
        return sources[0]
    joined = JoinedSource(sources)
    logger.info(
        "%d references joined: %s cells in the %s genes that all of them have (%s)",
        len(sources), f"{joined.n_cells:,}", f"{joined.n_genes:,}", ", ".join(f"{s.n_genes:,}" for s in sources),
    )  # fmt: skip
    return joined


def _generated(
    request: pd.DataFrame, model: Any, field: str, method: str, genes: pd.Index, n_cells_per_type: int, seed: int
) -> Prepared:
    """Cells written for the request, judged, and learnt from."""
    from sclm.tl._generate import generate

    generator = model if isinstance(model, Generator) else models.load(model)
    if not isinstance(generator, Generator):
        raise TypeError(
            f"request= needs a generator, found {getattr(generator, 'family', type(generator).__name__)!r}, which does not "
            "write cells. Leave request= out to use a trained mapper."
        )
    family = _family(method)
    _require_shared(genes, pd.Index(generator.guard.genes))
    asked, warnings = cells_to_write(request, generator, field, int(n_cells_per_type))
    logger.info("reference: writing %s cells of %d types", f"{len(asked):,}", asked[field].nunique())
    cells = generate(asked, generator, seed=seed)
    record = cells.uns["sclm_generate"]
    # tl.generate has logged its own warnings; they are kept with the map as well.
    warnings += [f"Generated reference: {text}" for text in record["warnings"]]
    flagged = cells.obs["sclm_implausible"].groupby(cells.obs[field].astype(str)).mean()
    if bad := [f"{name!r} ({share:.0%})" for name, share in flagged.items() if share > _FLAGGED]:
        warnings.append(
            f"More than half of the generated cells are implausible of: {', '.join(bad[:10])}. Do not read their maps."
        )
        logger.warning("%s", warnings[-1])
    source = read_cells(cells, obs_keys=[field])
    mapper = family.fit(source, label_key=field, genes=genes, seed=seed)
    facts = {
        "kind": "generated cells",
        "n_cells": cells.n_obs,
        "n_genes": cells.n_vars,
        "label_key": field,
        "generator": record["model"],
        "request": _plain(asked),
        "values": record["values"],
        "seed": int(seed),
        "n_cells_per_type": int(n_cells_per_type),
        "implausible": float(record["implausible"]),
        "implausible_training": float(record["implausible_training"]),
        "implausible_by_type": pd.DataFrame(
            {"cell_type": flagged.index.to_numpy(dtype=object), "implausible": flagged.to_numpy(dtype=np.float64)}
        ),
        **_types(mapper),
    }
    return Prepared(mapper, _SHIFT, facts, warnings)


def _require_shared(genes: pd.Index, written: pd.Index) -> None:
    """Refuse a generator of other genes before it writes thousands of cells."""
    vocabulary = GeneVocabulary(tuple(map(str, written)))
    match = vocabulary.match(genes)
    if match.matched < 0.2 * min(len(vocabulary), len(genes)):
        require_overlap(genes, vocabulary, match, owner="generator")


def cells_to_write(request: Any, generator: Any, field: str, n_cells_per_type: int) -> tuple[pd.DataFrame, list[str]]:
    """One row a cell of the generated reference.

    Each cell type of the request gets ``n_cells_per_type`` cells, spread evenly over the rows that ask for it. Rows without
    a cell type ask for all that the training cells of their tissue, disease and so on have.

    Returns
    -------
    The request, and warnings.
    """
    if not isinstance(request, pd.DataFrame):
        raise TypeError(
            f"request must be a DataFrame as sclm.request makes it, found {type(request).__name__}. Write e.g. "
            'request=sclm.request(1, tissue="blood").'
        )
    conditions = generator.conditions
    if field not in conditions.names:
        raise KeyError(
            f"the generator has no field {field!r} for cell types; its fields are {', '.join(map(repr, conditions.names))}. "
            "Pass label_key= naming the one with cell types."
        )
    resolved = conditions.resolve(request)  # refuses unknown fields and values
    if field in request:
        types = request[field].astype(str).str.strip().to_numpy(dtype=object)
        is_open = np.array([t.lower() == _OPEN for t in types], dtype=bool)
    else:
        types, is_open = np.full(len(request), _OPEN, dtype=object), np.ones(len(request), dtype=bool)
    rows = {name: np.flatnonzero((types == name) & ~is_open) for name in dict.fromkeys(types[~is_open])}
    warnings: list[str] = []
    for i in np.unique(resolved.combination[is_open]):
        known, warning = known_types(conditions, resolved, int(i), field)
        warnings += [warning] if warning else []
        mine = np.flatnonzero(is_open & (resolved.combination == i))
        for name in known:
            rows[name] = np.concatenate([rows.get(name, np.zeros(0, np.int64)), mine])
    for warning in warnings:
        logger.warning("%s", warning)
    if len(rows) < 2:
        found = ", ".join(map(repr, rows)) or "none"
        raise ValueError(
            f"A map needs at least two cell types, found {len(rows)} ({found}). Name more in the request: "
            f'sclm.request({field}=["...", "..."], tissue=...).'
        )
    picked = [mine[np.arange(n_cells_per_type) * len(mine) // n_cells_per_type] for mine in rows.values()]
    asked = request.iloc[np.concatenate(picked)].copy()
    asked[field] = pd.Categorical(np.repeat(np.array(list(rows), dtype=object), n_cells_per_type))
    asked.index = pd.Index([f"cell_{i}" for i in range(len(asked))])
    return asked, warnings


def known_types(conditions: Any, resolved: Any, row: int, field: str) -> tuple[list[str], str]:
    """Cell types that training cells with the metadata of a requested combination have, and a warning or ``""``."""
    if not hasattr(conditions, "combinations"):
        raise ValueError("This generator does not say which cell types it knows. Name them in the request.")
    names = list(conditions.names)
    place = names.index(field)
    table = np.asarray(conditions.combinations)
    meant = {f: resolved.kinds[f][[row]].indices for f in range(len(names)) if f != place}
    meant = {f: codes for f, codes in meant.items() if len(codes)}

    def codes_of(fields: dict[int, np.ndarray]) -> np.ndarray:
        keep = np.ones(len(table), dtype=bool)
        for f, codes in fields.items():
            keep &= np.isin(table[:, f], codes)
        found = np.unique(table[keep, place])
        return found[found >= 0]

    found, warning = codes_of(meant), ""
    if not len(found) and len(meant) > 1:
        for f in sorted(meant, key=lambda f: names[f] != "tissue"):  # the tissue says most about which types there are
            found = codes_of({f: meant[f]})
            if len(found):
                together = " and ".join(names[g] for g in meant)
                warning = (
                    f"No training cell of the generator has the requested {together} together: the cell types are those that "
                    f"it knows of the {names[f]} alone. Name cell types in the request to choose others."
                )
                break
    known = conditions.fields[place]
    return [str(known.values[code]) for code in found], warning  # noqa: PD011


def _types(mapper: Any) -> dict[str, Any]:
    """Cells a type, where the mapper knows."""
    table = getattr(mapper, "reference_types", None)
    return {} if table is None else {"types": table}


def _plain(asked: pd.DataFrame) -> pd.DataFrame:
    """Distinct rows of a request with the number of cells, as text."""
    columns = [c for c in asked.columns if c != "n_counts"]
    text = asked[columns].astype(str)
    counted = text.groupby(columns, sort=False, observed=True).size().reset_index(name="n_cells")
    return counted.astype(dict.fromkeys(columns, object))
