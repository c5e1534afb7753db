"""Find where two tissues meet."""

from __future__ import annotations

import logging
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sclm import results
from sclm.cells import table_of
from sclm.cells.shares import Shares, names_of, read_shares
from sclm.spatial import find_interface, ring_width
from sclm.tl._map_spatial_section import read_section

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata

    from sclm.spatial import Interface

logger = logging.getLogger(__name__)

ZONES = ("core", "interface", "outer")
_COLOURS = ("#8c2d04", "#f0b43c", "#9ecae1")
_ALIKE = 0.1  # difference of the mean share of two sides below which they are hardly two tissues


def interface(
    adata: anndata.AnnData,
    inside: str | Sequence[str] | None = None,
    outside: str | Sequence[str] | None = None,
    *,
    groups: str = "sclm_cell_type_fraction",
    threshold: float | None = None,
    width: float | None = None,
    n_neighbours: int | None = None,
    min_spots: int | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
    mod: str | None = None,
    spatial_key: str = "spatial",
    key_added: str = "sclm_interface",
    copy: bool = False,
) -> anndata.AnnData | None:
    r"""Find where two tissues meet, such as a tumour and what is around it: a signed distance and a zone for each spot.

    The share :math:`t` of the inner tissue is smoothed over the nearest neighbours with a Gaussian kernel. Spots whose smoothed
    share :math:`p` lies above the threshold are inside; regions of either side that are too small go over to the other one.
    The distance of a spot is that to the nearest spot of the other side, negative inside. The score says how much a spot looks
    like a border:

    .. math:: p_i = \sum_j w_{ij} t_j, \qquad g_i = \Big\| \sum_j w_{ij} u_{ij} (t_j - p_i) \Big\|, \qquad
              s_i = g_i \, \big(0.2 + e^{-b_i^2 / 2 \rho^2}\big),

    with the unit vector :math:`u_{ij}` to a neighbour, the distance :math:`b` to the other side and the width :math:`\rho` of a
    ring of neighbours. Single cells of one tissue within the other raise a mixing index such as :math:`4p(1-p)` everywhere; they
    pull the gradient :math:`g` in all directions, which cancels.

    Parameters
    ----------
    adata
        Spots or cells with coordinates in ``.obsm``. Or a SpatialData, with ``table_key``, or a MuData. Counts are not looked at.
    inside
        Group or groups of the inner tissue, such as ``"malignant cell"``. None where ``groups`` is a column of numbers.
    outside
        Group or groups of the outer tissue. The border is then that between the two: :math:`t` is the inner share of what a spot
        holds of both, and spots with more of both count more. None (default): everything else.
    groups
        What the groups are: fractions in ``.obsm``, as :func:`sclm.tl.map_spatial` writes them or as a DataFrame; a column of
        ``.obs`` with labels; or a column of ``.obs`` with the share of the inner tissue, 0–1.
    threshold
        Smoothed share above which a spot is inside, 0–1. None: 0.5 for labels, and otherwise, section by section, where it
        divides the shares into two groups of least variance within (Otsu). On a section that has one tissue only, that is a
        division of noise: a warning is given where the two sides hardly differ.
    width
        Largest distance of the interface zone from the border to either side, in the units of the coordinates. None: one ring
        of neighbours.
    n_neighbours
        Neighbours of the kernel, at least 3. None: 12 on a grid, whose spots are means over several cells already, 30
        elsewhere.
    min_spots
        Regions of fewer spots go over to the side around them. None: 5 on a grid, 10 elsewhere; 1 keeps all.
    library_key
        Column of ``.obs`` with the section of each spot, where there are several. Each is treated on its own.
    table_key
        Table of a SpatialData; it is changed in place, nothing else of the SpatialData is.
    mod
        Modality of a MuData with the RNA, which is changed in place. May be left out where it is called ``"rna"`` or is the only one.
    spatial_key
        Key of ``.obsm`` with the coordinates, (n_obs, 2).
    key_added
        Name of everything written.
    copy
        Return a changed copy (of a SpatialData, of its table) instead of changing ``adata``.

    Returns
    -------
    None, or the copy. Sets, with ``key_added`` in place of ``sclm_interface``:

    ``.obs["sclm_interface"]`` : categorical
        ``"core"`` (inside, beyond the zone), ``"interface"`` or ``"outer"``, in this order.
    ``.obs["sclm_interface_distance"]`` : float32
        Distance to the nearest spot of the other side in the units of the coordinates, negative inside; NaN on a section with
        one side only.
    ``.obs["sclm_interface_score"]`` : float32
        0 or more; high where the share changes in one direction and the border is near.
    ``.obs["sclm_interface_share"]`` : float32, 0–1
        The smoothed share; NaN where no neighbour tells anything.
    ``.uns["sclm_interface_colors"]`` : array of text
        A colour a zone.
    ``.uns["sclm_interface"]`` : dict
        The record: parameters, ``inside`` and ``outside`` (names), ``sections`` (a table: ``library``, ``threshold``, ``ring``,
        ``width``, spots of each zone, spots ``removed`` with their islands, mean share on both sides), ``graph``, ``warnings``.

    Neighbours are those of ``.obsp["spatial_connectivities"]``, squidpy's graph, where it is there; they are built from the
    coordinates otherwise.

    Raises
    ------
    ValueError
        If a group does not exist, no section has two sides, an argument is out of range, or coordinates are as
        :func:`sclm.tl.map_spatial` refuses them. The AnnData is unchanged.
    KeyError
        If the groups, the coordinates or a column do not exist.
    TypeError
        If an argument is of the wrong kind, or a SpatialData comes without ``table_key``.

    Notes
    -----
    For labels, :math:`2g` equals the product of mixing and of the one-sidedness of neighbours, the two parts of the boundary
    score of Synora (bioRxiv 2026.02.26).

    Examples
    --------
    >>> import sclm
    >>> cells = sclm.datasets.pbmc68k()
    >>> section = sclm.datasets.simulate_section(cells, "cell_type", n_spots=200, n_domains=2, seed=1)
    >>> sclm.tl.interface(section, "domain 1", groups="domain")
    >>> section.obs["sclm_interface"].cat.categories.tolist()
    ['core', 'interface', 'outer']
    """
    results.check_name(key_added)
    _check_arguments(threshold, width, n_neighbours, min_spots)
    table = table_of(adata, table_key, mod)
    if not hasattr(table, "obsm"):
        raise TypeError(f"adata must be an AnnData or a SpatialData, found {type(table).__name__}.")
    section = read_section(
        table, spatial_key=spatial_key, library_key=library_key, layer=None, gene_key=None, counts=False
    )
    if len(section.coordinates) < 2:
        raise ValueError("a border lies between spots, found one spot.")
    shares = read_shares(table, groups)
    share, weight = _share(shares, inside, outside)
    graph = section.neighbours()
    automatic = 0.5 if shares.kind == "labels" else None

    libraries = _libraries(table, library_key)
    n = len(share)
    columns = {name: np.full(n, np.nan, dtype=np.float32) for name in ("distance", "score", "share")}
    zone = np.zeros(n, dtype=np.int64)
    rows_of_table = []
    for name, rows in libraries:
        place = section.coordinates[rows]
        own = graph[rows][:, rows]
        found = find_interface(
            place, share[rows], own, weight=weight[rows], n_neighbours=n_neighbours, min_spots=min_spots,
            threshold=automatic if threshold is None else float(threshold),
        )  # fmt: skip
        ring = ring_width(place, own)
        limit = ring if width is None else float(width)
        zone[rows] = _zones(found, limit)
        columns["distance"][rows], columns["score"][rows], columns["share"][rows] = (
            found.distance, found.score, found.field,
        )  # fmt: skip
        rows_of_table.append(_row(name, found, zone[rows], ring, limit))
    sections = pd.DataFrame(rows_of_table)
    if np.isnan(columns["distance"]).all():
        low, high = np.nanmin(columns["share"], initial=1.0), np.nanmax(columns["share"], initial=0.0)
        raise ValueError(
            f"there is no border: the smoothed share of {_named(inside, groups)} runs from {low:.2f} to {high:.2f} and lies on one side "
            f"of the threshold ({', '.join(f'{v:.2f}' for v in sections['threshold'][:4])}) everywhere, islands of fewer than min_spots "
            "left out. Pass threshold= or min_spots=, or other groups."
        )
    warnings = [*section.warnings, *_doubts(sections)]
    for warning in warnings[len(section.warnings) :]:
        logger.warning("%s", warning)
    target = table.copy() if copy and not table.isbacked else table.to_memory() if copy else table
    params = {
        "groups": groups, "threshold": threshold, "width": width, "n_neighbours": n_neighbours, "min_spots": min_spots,
        "library_key": library_key, "table_key": table_key, "mod": mod, "spatial_key": spatial_key,
    }  # fmt: skip
    entry = results.record(
        "interface",
        params=params,
        inside=np.array(_names(inside) or [groups], dtype=object),
        outside=np.array(_names(outside) or ["everything else"], dtype=object),
        kind=shares.kind,
        sections=sections,
        graph="squidpy" if section.graph is not None else "coordinates",
        warnings=np.array(warnings, dtype=object),
    )
    results.write(
        target,
        key_added,
        entry,
        obs={
            key_added: pd.Categorical.from_codes(
                zone, categories=pd.Index(np.array(ZONES, dtype=object)), ordered=True
            ),
            **{f"{key_added}_{name}": values for name, values in columns.items()},
        },
        uns={f"{key_added}_colors": list(_COLOURS)},
    )
    return target if copy else None


def _check_arguments(threshold: Any, width: Any, n_neighbours: Any, min_spots: Any) -> None:
    for name, value in (("threshold", threshold), ("width", width)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, Real)):
            raise TypeError(f"{name} must be a number, found {type(value).__name__} {value!r}.")
    if threshold is not None and not 0 < threshold < 1:
        raise ValueError(f"threshold must lie between 0 and 1, found {threshold}.")
    if width is not None and not 0 < width < np.inf:
        raise ValueError(f"width must be a distance above 0 in the units of the coordinates, found {width}.")
    for name, value, least in (("n_neighbours", n_neighbours, 3), ("min_spots", min_spots, 1)):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f"{name} must be a whole number, found {type(value).__name__} {value!r}.")
        if value < least:
            raise ValueError(f"{name} must be at least {least}, found {value}.")


def _share(
    shares: Shares, inside: str | Sequence[str] | None, outside: str | Sequence[str] | None
) -> tuple[np.ndarray, np.ndarray]:
    """(n,) share of the inner tissue, NaN where it is not known, and (n,) weight."""
    if shares.kind == "number":
        if inside is not None or outside is not None:
            raise ValueError(
                "inside and outside name groups, and groups is a column with the share of one. Leave them out, or pass labels or fractions."
            )
        return shares.share[:, 0], np.ones(len(shares.share))
    if inside is None:
        listed = ", ".join(map(repr, shares.names[:20]))
        raise ValueError(f"inside must name the groups of the inner tissue, found None. Groups are {listed}.")
    inner = shares.of(inside, "inside")
    if outside is None:
        if len(shares.columns(inside, "inside")) == len(shares.names):
            raise ValueError(f"inside names all {len(shares.names)} groups: there is nothing outside.")
        return inner, np.ones(len(inner))
    both = sorted(set(shares.columns(inside, "inside")) & set(shares.columns(outside, "outside")))
    if both:
        raise ValueError(f"inside and outside must be different groups, found {shares.names[both[0]]!r} in both.")
    total = inner + shares.of(outside, "outside")
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > 0, inner / total, np.nan), np.nan_to_num(total)


def _libraries(table: Any, library_key: str | None) -> list[tuple[str, np.ndarray]]:
    """Name and rows of each section."""
    if library_key is None:
        return [("", np.arange(table.n_obs))]
    names, codes = np.unique(table.obs[library_key].astype(str).to_numpy(dtype=str), return_inverse=True)
    return [(str(name), np.flatnonzero(codes == i)) for i, name in enumerate(names)]


def _zones(found: Interface, width: float) -> np.ndarray:
    """(n,) codes of the zones; a section with one side only has no interface."""
    near = np.abs(np.nan_to_num(found.distance, nan=np.inf)) <= width * (1 + 1e-6)
    return np.where(near, 1, np.where(found.inside, 0, 2))


def _row(name: str, found: Interface, zone: np.ndarray, ring: float, width: float) -> dict[str, Any]:
    inner, outer = (float(np.nanmean(found.field[side])) if np.isfinite(found.field[side]).any() else np.nan
                    for side in (found.inside, ~found.inside))  # fmt: skip
    counts = dict(zip(ZONES, np.bincount(zone, minlength=3).tolist(), strict=True))
    return {
        "library": name, "threshold": found.threshold, "ring": ring, "width": width, **counts, "removed": found.removed,
        "share_inside": inner, "share_outside": outer,
    }  # fmt: skip


def _doubts(sections: pd.DataFrame) -> list[str]:
    """Sections with one side only, and sections whose sides hardly differ."""
    found = []
    for row in sections.to_dict("records"):
        where = f"Section {row['library']!r}" if row["library"] else "The section"
        if row["interface"] == 0 and (row["core"] == 0 or row["outer"] == 0):
            found.append(f"{where} has one side only: its distances are NaN.")
        elif row["share_inside"] - row["share_outside"] < _ALIKE:
            found.append(
                f"{where} has sides that hardly differ: a smoothed share of {row['share_inside']:.2f} inside and "
                f"{row['share_outside']:.2f} outside. There may be one tissue only; pass threshold= to say where the border lies."
            )
    return found


def _names(names: str | Sequence[str] | None) -> list[str]:
    return [] if names is None else names_of(names)


def _named(names: str | Sequence[str] | None, groups: str) -> str:
    return " + ".join(map(repr, _names(names) or [groups]))
