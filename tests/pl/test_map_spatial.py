"""Maps on tissue show what was written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import sclm
from sclm.pl._map_spatial import KINDS, _slices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


KEY = "sclm_cell_type_fraction"
DOMINANT = "sclm_dominant_cell_type"


@pytest.fixture(scope="module")
def whole(simulate: Callable[..., anndata.AnnData], reference: anndata.AnnData) -> anndata.AnnData:
    """80 spots, one of them without counts."""
    section = sclm.datasets.simulate_section(simulate(200, seed=5), "cell_type", n_spots=80, cells_per_spot=5)
    x = section.X.tolil()
    x[3] = 0
    section.X = x.tocsr()
    sclm.tl.map_spatial(section, reference, label_key="cell_type", method="nnls")
    return section


@pytest.fixture
def mapped(whole: anndata.AnnData) -> Iterator[anndata.AnnData]:
    yield whole.copy()
    plt.close("all")


def circles(ax: Any) -> tuple[Any, Any]:
    """Spots without counts, and the others."""
    return ax.collections[0], ax.collections[1]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_drawn(mapped: anndata.AnnData, kind: str) -> None:
    before = (sorted(mapped.obs), sorted(mapped.obsm), sorted(mapped.uns))
    axes = sclm.pl.map_spatial(mapped, kind=kind)
    assert isinstance(axes, np.ndarray)
    assert len(axes) == (4 if kind in ("fractions", "uncertainty") else 1)
    for ax in axes:
        assert ax.yaxis_inverted()
        assert ax.get_aspect() == 1
        assert len(circles(ax)[0].get_offsets()) == 1  # the spot without counts, grey
    axes[0].figure.canvas.draw()
    assert (sorted(mapped.obs), sorted(mapped.obsm), sorted(mapped.uns)) == before


@pytest.mark.parametrize(("kind", "slot"), [("fractions", KEY), ("uncertainty", f"{KEY}_se")])
def test_panels_show_the_columns(mapped: anndata.AnnData, kind: str, slot: str) -> None:
    axes = sclm.pl.map_spatial(mapped, kind=kind)
    assert [ax.get_title() for ax in axes] == list(mapped.uns[KEY]["categories"])
    top = float(np.nanquantile(mapped.obsm[slot].astype(float), 0.995))
    for k, ax in enumerate(axes):
        drawn = circles(ax)[1]
        order = np.argsort(mapped.obsm[slot][:, k], kind="stable")[:79]  # high values on top; NaN comes last
        np.testing.assert_allclose(drawn.get_array(), mapped.obsm[slot][order, k])
        np.testing.assert_allclose(drawn.get_offsets(), mapped.obsm["spatial"][order])
        assert drawn.get_clim() == pytest.approx((0, top))


def test_a_scale_for_each_type(mapped: anndata.AnnData) -> None:
    names = list(mapped.uns[KEY]["categories"])
    axes = sclm.pl.map_spatial(mapped, scale="type", cell_types=[names[2], names[0]])
    assert [ax.get_title() for ax in axes] == [names[2], names[0]]
    for k, ax in zip((2, 0), axes, strict=True):
        top = np.nanquantile(mapped.obsm[KEY][:, k].astype(float), 0.995)
        np.testing.assert_allclose(circles(ax)[1].get_clim(), (0, top))


def test_unexplained(mapped: anndata.AnnData) -> None:
    axes = sclm.pl.map_spatial(mapped, kind="unexplained")
    expected = np.sort(mapped.obs["sclm_unexplained"].to_numpy())[:79]
    np.testing.assert_allclose(circles(axes[0])[1].get_array(), expected)


def test_dominant_types_have_the_stored_colours(mapped: anndata.AnnData) -> None:
    labels = mapped.obs[DOMINANT]
    mapped.uns[f"{DOMINANT}_colors"] = ["#112233", "#445566", "#778899", "#aabbcc"][: len(labels.cat.categories)]
    axes = sclm.pl.map_spatial(mapped, kind="dominant")
    colour = dict(zip(labels.cat.categories, mapped.uns[f"{DOMINANT}_colors"], strict=True))
    there = labels.notna().to_numpy()
    expected = [mpl.colors.to_rgba(colour[name]) for name in labels[there]]
    np.testing.assert_allclose(circles(axes[0])[1].get_facecolors(), expected)
    legend = [t.get_text() for t in axes[0].figure.legends[0].get_texts()]
    assert legend == [f"{name} ({n})" for name, n in labels.value_counts(sort=False).items()]
    # Types that were not chosen are grey.
    one = str(labels.cat.categories[0])
    grey, chosen = circles(sclm.pl.map_spatial(mapped, kind="dominant", cell_types=[one])[0])
    assert len(chosen.get_offsets()) == (labels == one).sum()
    assert len(grey.get_offsets()) == 80 - (labels == one).sum()


def test_slices_fill_the_circle_in_proportion() -> None:
    shares = np.array([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0], [0.496, 0.5, 0.004]])
    polygons, which = _slices(np.array([[0.0, 0.0], [10, 0], [20, 5]]), shares, 2.0)
    assert which.tolist() == [0, 1, 2, 0, 0, 1]
    area = [abs(_area(p)) for p in polygons]
    expected = np.pi * 4 * np.array([0.5, 0.25, 0.25, 1.0, 0.496 / 0.996, 0.5 / 0.996])
    np.testing.assert_allclose(area, expected, rtol=0.04)  # polygons lie inside the circle
    assert polygons[0][:, 0].min() >= -1e-9  # the first slice starts at the top and goes clockwise
    assert all(np.hypot(*(p - c).T).max() <= 2 + 1e-9 for p, c in zip(polygons[3:4], [[10, 0]], strict=True))


def _area(polygon: np.ndarray) -> float:
    """Shoelace formula."""
    x, y = polygon.T
    return float(0.5 * (x @ np.roll(y, -1) - y @ np.roll(x, -1)))


def test_pies(mapped: anndata.AnnData) -> None:
    ax = sclm.pl.map_spatial(mapped, kind="pies")[0]
    slices = ax.collections[1]
    shares = np.nan_to_num(mapped.obsm[KEY])
    assert len(slices.get_paths()) == (shares >= 0.01).sum()
    colours = {mpl.colors.to_hex(c) for c in slices.get_facecolors()}
    assert colours == set(mapped.uns[KEY]["colors"])
    first = [t.get_text() for t in ax.figure.legends[0].get_texts()]
    assert first[0] == f"{mapped.uns[KEY]['categories'][0]} ({shares[:, 0].mean():.1%})"
    some = sclm.pl.map_spatial(mapped, kind="pies", cell_types=list(mapped.uns[KEY]["categories"][:2]))[0]
    assert [t.get_text().rsplit(" ", 1)[0] for t in some.figure.legends[0].get_texts()][-1] == "other types"
    many = anndata.AnnData(np.zeros((5001, 1), dtype=np.float32))
    many.obsm["spatial"], many.obsm[KEY] = np.random.default_rng(0).random((5001, 2)), np.ones((5001, 1))
    many.uns[KEY] = {**mapped.uns[KEY], "categories": ["A"], "colors": ["#000000"]}
    with pytest.raises(ValueError, match=r"at most 5,000 spots, found 5,001"):
        sclm.pl.map_spatial(many, kind="pies")


def test_the_tissue_image_lies_underneath_in_the_units_of_the_spots(mapped: anndata.AnnData) -> None:
    picture = np.random.default_rng(0).random((40, 50, 3))
    mapped.uns["spatial"] = {
        "slide": {
            "images": {"hires": picture},
            "scalefactors": {"tissue_hires_scalef": 0.05, "spot_diameter_fullres": 55.0},
        }
    }
    ax = sclm.pl.map_spatial(mapped, kind="unexplained")[0]
    (image,) = ax.images
    assert image.get_extent() == pytest.approx([0, 1000, 800, 0])
    np.testing.assert_allclose(circles(ax)[1].get_widths(), 55)
    low, high = mapped.obsm["spatial"].min(0) - 55, mapped.obsm["spatial"].max(0) + 55
    np.testing.assert_allclose(ax.get_xlim(), (low[0], high[0]))  # the part with spots
    np.testing.assert_allclose(ax.get_ylim(), (high[1], low[1]))
    bare = sclm.pl.map_spatial(mapped, kind="unexplained", image=False, size=0.5)[0]
    assert not bare.images
    np.testing.assert_allclose(circles(bare)[1].get_widths(), 27.5)


def test_sections_have_panels_of_their_own(mapped: anndata.AnnData, reference: anndata.AnnData) -> None:
    mapped.obs["library_id"] = pd.Categorical(np.repeat(["left", "right"], 40))
    sclm.tl.map_spatial(mapped, reference, label_key="cell_type", method="nnls", library_key="library_id")
    axes = sclm.pl.map_spatial(mapped)
    names = list(mapped.uns[KEY]["categories"])
    titles = [ax.get_title().replace("\n", " ") for ax in axes]
    assert titles == [f"{lib}: {name}" for lib in ("left", "right") for name in names]
    np.testing.assert_allclose(circles(axes[4])[1].get_array(), np.sort(mapped.obsm[KEY][40:, 0]))
    assert circles(axes[0])[1].get_clim() == circles(axes[4])[1].get_clim()
    one = sclm.pl.map_spatial(mapped, kind="dominant", library="right")
    assert [ax.get_title() for ax in one] == ["right"]
    assert sum(len(c.get_offsets()) for c in circles(one[0])) == 40
    with pytest.raises(KeyError, match=r"'middle' is no section.*'left', 'right'"):
        sclm.pl.map_spatial(mapped, library="middle")


@pytest.mark.parametrize("n_types", [1, 2, 7, 30])
@pytest.mark.parametrize("kind", ["fractions", "dominant", "pies"])
def test_texts_do_not_overlap(mapped: anndata.AnnData, n_types: int, kind: str) -> None:
    from sclm.spatial.colours import type_colours

    names = [f"naive thymus-derived CD{i}-positive, alpha-beta T cell" for i in range(n_types)]
    rng = np.random.default_rng(0)
    fraction = rng.dirichlet(np.full(n_types, 0.3), size=80)
    mapped.obsm["spatial"] = mapped.obsm["spatial"] * [1, 0.4]  # a flat section
    mapped.obsm[KEY] = fraction
    mapped.obs[DOMINANT] = pd.Categorical.from_codes(
        fraction.argmax(1), categories=pd.Index(names)
    ).remove_unused_categories()
    mapped.uns[KEY] = {**mapped.uns[KEY], "categories": names, "colors": type_colours(n_types)}
    del mapped.uns[f"{DOMINANT}_colors"]
    figure = sclm.pl.map_spatial(mapped, kind=kind)[0].figure
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    texts = [ax.title for ax in figure.axes] + [t for legend in figure.legends for t in legend.get_texts()]
    boxes = [t.get_window_extent(renderer) for t in texts if t.get_text()]
    assert len(boxes) >= (0 if n_types == 1 and kind == "fractions" else 1)
    page = figure.bbox
    panels = [ax.get_window_extent(renderer) for ax in figure.axes]
    for i, box in enumerate(boxes):
        assert box.x0 >= page.x0 - 1, "text beyond the page"
        assert box.y0 >= page.y0 - 1
        assert box.x1 <= page.x1 + 1
        assert box.y1 <= page.y1 + 1
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])
        assert not any(box.shrunk(0.9, 0.9).overlaps(panel) for panel in panels)


def test_errors_name_what_is_missing(mapped: anndata.AnnData, query: anndata.AnnData) -> None:
    with pytest.raises(KeyError, match=r"Run sclm\.tl\.map_spatial first"):
        sclm.pl.map_spatial(query)
    with pytest.raises(ValueError, match=r"kind must be one of 'fractions'.*found 'pie'"):
        sclm.pl.map_spatial(mapped, kind="pie")
    with pytest.raises(ValueError, match="scale must be one of 'shared', 'type'"):
        sclm.pl.map_spatial(mapped, scale="log")
    with pytest.raises(KeyError, match=r"no cell type of the map: \['podocyte'\].*'B cell'"):
        sclm.pl.map_spatial(mapped, cell_types=["podocyte"])
    with pytest.raises(KeyError, match="made without library_key="):
        sclm.pl.map_spatial(mapped, library="left")
    del mapped.obsm["spatial"]
    with pytest.raises(KeyError, match="no 'spatial' any more"):
        sclm.pl.map_spatial(mapped)
