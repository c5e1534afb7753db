"""From a request to cells: what each cell is written as, its levels, its counts, its score."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sclm.cells import Cells
from sclm.models.contract import Written
from sclm.models.pgl.combinations import distinct_rows
from sclm.models.pgl.counts import expected_counts, write_counts
from sclm.models.pgl.gene_sampling import write_token_counts
from sclm.models.pgl.levels import depth_values
from sclm.models.pgl.sampling import TILE, fill_fields, write_levels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sclm.models.pgl.conditions import Resolved
    from sclm.models.pgl.model import PGL


def write_cells(
    model: PGL,
    request: pd.DataFrame,
    resolved: Resolved,
    *,
    seed: int,
    batch_size: int,
    guidance: float,
    start: int,
    decoder: str,
) -> Iterator[Written]:
    """Blocks of cells; the arguments are those of :meth:`PGL.write`, checked."""
    size = TILE * -(-batch_size // TILE)
    first = _requested_depth(model, request)
    allowed = _allowed(model, resolved)
    renamed = _renamed(model, request, resolved)
    # Tiles lie at multiples of their size in the request, wherever writing starts.
    for begin in range(start - start % TILE, len(request), size):
        cells = np.arange(begin, min(begin + size, len(request)))
        which = resolved.combination[cells]
        codes = fill_fields(
            model.network,
            model.conditions,
            resolved.codes[which],
            [may[which] for may in allowed],
            seed=seed,
            cells=cells,
        )
        values = write_levels(
            model.network, model.conditions, codes, first[cells], seed=seed, cells=cells, guidance=guidance
        )
        late = cells >= start
        if late.any():
            yield _written(model, request, cells[late], codes[late], values[late], renamed, seed, decoder)


def _requested_depth(model: PGL, request: pd.DataFrame) -> np.ndarray:
    """Value of the depth slot of each cell, NaN where the request leaves it to the model."""
    if "n_counts" not in request:
        return np.full(len(request), np.nan, np.float32)
    return depth_values(model.levels, request["n_counts"].to_numpy(dtype=np.float64))


def _allowed(model: PGL, resolved: Resolved) -> list[np.ndarray]:
    """For each field which training values may be chosen for each combination, bool (m, n_values), where it has no code.

    A field that the request does not have: any value. A general term: the values below it. A new donor, or "unknown":
    none, the field stays open. These are texts of fields that the request does have, so that an empty row of such a field
    can mean nothing else.
    """
    out = []
    table = resolved.table
    for f, field in enumerate(model.conditions.fields):
        meant = resolved.kinds[f].toarray() > 0
        asked = meant.any(axis=1)
        may = np.where(asked[:, None], meant, True)
        if ((table["field"] == field.name) & table["how"].isin(["new donor", "not given"])).any():
            may[~asked] = False
        out.append(may)
    return out


def _renamed(model: PGL, request: pd.DataFrame, resolved: Resolved) -> list[bool]:
    """For each field whether some requested text is written as another one: then all blocks have the column for it."""
    flags = []
    for field in model.conditions.fields:
        of_field = resolved.table[(resolved.table["field"] == field.name) & (resolved.table["how"] != "not given")]
        flags.append(field.name in request and not set(of_field["value"].astype(str)) <= set(field.values))
    return flags


def _written(
    model: PGL,
    request: pd.DataFrame,
    cells: np.ndarray,
    codes: np.ndarray,
    values: np.ndarray,
    renamed: list[bool],
    seed: int,
    decoder: str,
) -> Written:
    distinct, which, _ = distinct_rows(codes)
    profiles = model.profile.log_shares(model.conditions, distinct)
    depth = np.exp(values[:, 0] * model.levels.scale + model.levels.centre).astype(np.float32)
    if "n_counts" in request:
        depth = request["n_counts"].to_numpy(dtype=np.float32)[cells]
    levels = np.ascontiguousarray(values[:, 1:])
    if decoder == "set":
        counts = write_counts(profiles, which, depth, levels, model.loadings, model.dispersion, seed=seed, cells=cells)
    else:
        means = expected_counts(profiles, which, depth, levels, model.loadings)
        counts = write_token_counts(
            model.network, model.conditions, codes, values, means, model.dispersion, seed=seed, cells=cells
        )
    score = model.score(counts, distinct, which, profiles)
    obs = request.iloc[cells].copy()
    for f, field in enumerate(model.conditions.fields):
        names = np.array([*field.values, "unknown"], dtype=object)[codes[:, f]]
        if field.name not in obs:
            obs[field.name] = names
        elif renamed[f]:
            obs[f"{field.name}_written"] = names
    return Written(Cells(counts, pd.Index(model.vocabulary.tokens), obs), levels, depth, score, codes)
