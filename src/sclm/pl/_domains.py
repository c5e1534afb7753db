"""Domains on tissue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sclm import results
from sclm.pl._panels import MISSING, draw_legend, draw_spots, legend_room, panels
from sclm.pl._sections import Library, libraries_of
from sclm.spatial.colours import type_colours

if TYPE_CHECKING:
    import anndata

KINDS = ("domains", "entropy")


def domains(
    adata: anndata.AnnData,
    *,
    label_key: str | None = None,
    kind: str = "domains",
    key: str = "sclm_domain",
    library: str | None = None,
    image: bool = True,
    size: float = 1.0,
    n_columns: int | None = None,
) -> np.ndarray:
    """Domains over the section, beside labels that are known, or how mixed the domains are around each spot.

    Parameters
    ----------
    adata
        Divided by :func:`sclm.tl.domains`.
    label_key
        Column of ``.obs`` with labels to compare with, such as a pathologist's: drawn in a second panel beside each section, in the colours
        of the domains that they share most spots with where they have none in ``.uns``. The title has the adjusted Rand index of the two
        divisions over the spots that have both.
    kind
        ``"domains"``, or ``"entropy"``: of the labels around each spot, high at borders and where domains are noisy.
    key
        ``key_added`` of that call.
    library
        Section to show, where there are several; all when None.
    image
        Draw the tissue image of ``.uns["spatial"]`` underneath, where there is one.
    size
        Diameter of the spots in units of their true diameter, or of the distance to the next spot where that is not known.
    n_columns
        Panels in a row; chosen by the shape of the section when None.

    Returns
    -------
    :class:`matplotlib.axes.Axes` of the panels, (n_panels,): section after section, domains before labels. Their figure is
    ``axes[0].figure``.

    Raises
    ------
    KeyError
        If there is no such result, column or section, or no coordinates.
    ValueError
        If ``kind`` is unknown, labels are asked for beside the entropy, or there is too much to draw.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(map(repr, KINDS))}, found {kind!r}.")
    entry = results.read(adata, key, "domains")
    libraries = libraries_of(adata, entry, library, image)
    if kind == "entropy":
        if label_key is not None:
            raise ValueError(f'label_key={label_key!r} is drawn beside kind="domains", found kind="entropy".')
        return _entropy(libraries, adata.obs[f"{key}_entropy"].to_numpy(dtype=np.float64), size, n_columns)
    found = _categorical(adata.obs[key])
    shown = np.concatenate([lib.rows for lib in libraries])
    own_colours = _stored(adata, key, found) or dict(
        zip(found.categories, type_colours(len(found.categories)), strict=True)  # domains that were merged or renamed
    )
    columns = [(found, own_colours, "domain ")]
    titles = [""]
    if label_key is not None:
        if label_key not in adata.obs:
            there = ", ".join(map(repr, adata.obs.columns))
            raise KeyError(f"label_key={label_key!r} is not in .obs, which has the columns {there}.")
        labels = _categorical(adata.obs[label_key])
        colours = _stored(adata, label_key, labels) or _matched(labels, found, columns[0][1])
        columns.append((labels, colours, ""))
        titles = ["domains", f"{label_key} (ARI {_agreement(found[shown], labels[shown]):.2f})"]
    names: list[str] = []
    faces: list[str] = []
    for values, colours, prefix in columns:
        counts = values[shown].value_counts()
        listed = [name for name in values.categories if counts.get(name, 0) > 0]
        if names:
            names.append(" ")
            faces.append("none")
        names += [f"{prefix}{name} ({int(counts[name]):,})" for name in listed]
        faces += [colours[name] for name in listed]
    axes = panels(libraries, titles, n_columns, **legend_room(names))
    for i, lib in enumerate(libraries):
        for k, (values, colours, _) in enumerate(columns):
            own = values[lib.rows]
            known = own.codes >= 0
            ax = axes[i * len(columns) + k]
            draw_spots(ax, lib, np.flatnonzero(~known), size, facecolors=MISSING)
            draw_spots(ax, lib, np.flatnonzero(known), size, facecolors=[colours[name] for name in own[known]])
    draw_legend(axes, names, faces)
    return np.array(axes, dtype=object)


# Parts --------------------------------------------------------------------------------------------------------------


def _categorical(column: pd.Series) -> pd.Categorical:
    """Values as text, in the order of the categories; missing ones stay missing, also where they were written as "nan"."""
    values = pd.Categorical(column)
    order = [str(name) for name in values.categories]
    return pd.Categorical(
        [None if code < 0 else order[code] for code in values.codes],
        categories=[name for name in dict.fromkeys(order) if name != "nan"],
    )


def _stored(adata: anndata.AnnData, key: str, values: pd.Categorical) -> dict[str, str]:
    """Colours of ``.uns``, where there are as many as categories."""
    stored = adata.uns.get(f"{key}_colors")
    if stored is None or len(stored) != len(values.categories):
        return {}
    return dict(zip(values.categories, map(str, stored), strict=True))


def _matched(labels: pd.Categorical, found: pd.Categorical, colours: dict[str, str]) -> dict[str, str]:
    """Each label in the colour of the domain that it shares most spots with, one to one; other colours for the rest."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex
    from scipy.optimize import linear_sum_assignment

    both = (labels.codes >= 0) & (found.codes >= 0)
    shared = np.zeros((len(labels.categories), len(found.categories)))
    np.add.at(shared, (labels.codes[both], found.codes[both]), 1)
    rows, columns = linear_sum_assignment(-shared)
    out = {
        labels.categories[i]: colours[found.categories[k]] for i, k in zip(rows, columns, strict=True) if shared[i, k]
    }
    spare = [to_hex(colormaps["tab20b"](i)) for i in range(20)]
    left = [name for name in labels.categories if name not in out]
    out |= {name: spare[7 * i % len(spare)] for i, name in enumerate(left)}  # neighbours in that list look alike
    return out


def _agreement(found: pd.Categorical, labels: pd.Categorical) -> float:
    from sklearn.metrics import adjusted_rand_score

    both = (labels.codes >= 0) & (found.codes >= 0)
    return float(adjusted_rand_score(labels.codes[both], found.codes[both]))


def _entropy(libraries: list[Library], values: np.ndarray, size: float, n_columns: int | None) -> np.ndarray:
    axes = panels(libraries, [""], n_columns, side=0.9)
    for ax, lib in zip(axes, libraries, strict=True):
        own = values[lib.rows]
        draw_spots(ax, lib, np.flatnonzero(~np.isfinite(own)), size, facecolors=MISSING)
        known = np.flatnonzero(np.isfinite(own))
        circles = draw_spots(ax, lib, known, size, array=own[known], cmap="magma_r")
        circles.set_clim(0, 1)
    figure: Any = axes[0].figure
    height = float(np.clip(2.2 / figure.get_figheight(), 0.1, 0.8))
    figure.colorbar(circles, ax=axes, label="label entropy", shrink=height, aspect=18, pad=0.02)
    return np.array(axes, dtype=object)
