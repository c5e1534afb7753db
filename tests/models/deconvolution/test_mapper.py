"""What every mapper of the folder keeps: order, blocks, dtypes, libraries, files, refusals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import sclm
from sclm.cells import read_cells
from sclm.models.contract import SectionMapper, SpatialMapper

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Drawn

    from sclm.models.contract import Mapping

FAMILIES = ("deconvolution", "nnls", "tangram")
OPTIONS: dict[str, dict[str, Any]] = {"tangram": {"n_epochs": 60}}


def train(family: str, reference: ad.AnnData, **options: Any) -> Any:
    return sclm.train(family, reference, label_key="cell_type", **(OPTIONS.get(family, {}) | options))


def mapped(model: Any, section: ad.AnnData, *, rows: Any = None, resolution: str = "spot", **look: Any) -> Mapping:
    source = read_cells(section, obs_keys=["library"])
    return model.adapt(source, resolution=resolution, **look).map(
        source.read(rows) if rows is not None else source.read()
    )


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, drawn: Drawn) -> Any:
    return train(request.param, drawn.reference)


@pytest.fixture(scope="module", params=["deconvolution", "deconvolution of cells", "nnls"])
def steady(request: pytest.FixtureRequest, drawn: Drawn) -> tuple[Any, str]:
    """Mappers whose spots do not see one another."""
    return train(request.param.split()[0], drawn.reference), "cell" if "cells" in request.param else "spot"


def same(a: Mapping, b: Mapping, *, rows: Any = slice(None), atol: float = 2e-3) -> None:
    for name in ("fraction", "cell_fraction", "standard_error", "unexplained", "explained"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name)[rows], atol=atol, err_msg=name)
    np.testing.assert_allclose(a.abundance, b.abundance[rows], rtol=1e-2, atol=atol * 5000)


# Form ---------------------------------------------------------------------------------------------------------------


def test_the_form_of_the_answer(model: Any, drawn: Drawn) -> None:
    section = drawn.section.copy()
    section.X = sparse.csr_matrix(sparse.diags((np.arange(120) != 7).astype(np.float32)) @ section.X)  # one empty spot
    source = read_cells(section, obs_keys=["library"])
    look = model.adapt(source, library_key="library", resolution="spot")
    assert isinstance(model, SpatialMapper)
    assert isinstance(look, SectionMapper)
    found, (n, k, g) = look.map(source.read()), (120, 5, len(look.genes))
    assert look.platform.shape == (2, g)
    for name, shape in {
        "fraction": (n, k), "cell_fraction": (n, k), "standard_error": (n, k), "unexplained": (n,), "explained": (n,),
        "abundance": (n, k),
    }.items():  # fmt: skip
        assert getattr(found, name).dtype == np.float32, name
        assert getattr(found, name).shape == shape, name
        assert np.isnan(getattr(found, name)[7]).all(), name
    there = np.arange(n) != 7
    for name in ("fraction", "cell_fraction"):
        values = getattr(found, name)[there]
        np.testing.assert_allclose(values.sum(axis=1), 1, atol=1e-5)
        assert (values >= 0).all()
    assert found.observed.shape == found.expected.shape == (g,)
    assert found.observed.dtype == found.expected.dtype == np.float64
    np.testing.assert_allclose(found.observed.sum(), section[:, look.genes].X.sum())
    np.testing.assert_allclose(found.expected.sum(), found.observed.sum(), rtol=0.15)
    assert (found.explained[there] >= 0).all()
    assert (found.explained[there] <= 1).all()
    assert np.corrcoef(found.fraction[there].ravel(), drawn.fraction[there].ravel())[0, 1] > 0.7


def test_cell_fractions_divide_by_the_counts_of_a_cell(drawn: Drawn) -> None:
    reference = drawn.reference.copy()
    deep = (reference.obs["cell_type"] == "type 0/x").to_numpy()
    reference.X = sparse.csr_matrix(sparse.diags(np.where(deep, 4, 1).astype(np.float32)) @ reference.X)
    model = train("nnls", reference)
    found = mapped(model, drawn.section)
    per_cell = found.fraction / model.reference_types["counts_per_cell"].to_numpy()
    np.testing.assert_allclose(found.cell_fraction, per_cell / per_cell.sum(axis=1, keepdims=True), atol=0.01)
    assert found.cell_fraction[:, 0].mean() < 0.6 * found.fraction[:, 0].mean()


# Invariance ---------------------------------------------------------------------------------------------------------


def test_gene_order_does_not_matter(steady: tuple[Any, str], drawn: Drawn) -> None:
    model, resolution = steady
    order = np.random.default_rng(0).permutation(drawn.section.n_vars)
    a = mapped(model, drawn.section, resolution=resolution)
    same(mapped(model, drawn.section[:, order].copy(), resolution=resolution), a)


def test_gene_order_of_the_reference_does_not_matter(drawn: Drawn) -> None:
    order = np.random.default_rng(0).permutation(drawn.reference.n_vars)
    for family in ("deconvolution", "nnls"):
        a = mapped(train(family, drawn.reference), drawn.section)
        same(mapped(train(family, drawn.reference[:, order].copy()), drawn.section), a)


def test_spot_order_does_not_matter(steady: tuple[Any, str], drawn: Drawn) -> None:
    model, resolution = steady
    order = np.random.default_rng(0).permutation(120)
    a = mapped(model, drawn.section, resolution=resolution)
    b = mapped(model, drawn.section[order].copy(), resolution=resolution)
    # The further profile and the factors are learnt in another order: sums of floats differ.
    same(b, a, rows=order, atol=5e-3)


def test_a_spot_does_not_depend_on_its_block(steady: tuple[Any, str], drawn: Drawn) -> None:
    model, resolution = steady
    whole = mapped(model, drawn.section, resolution=resolution)
    for rows in ([17], [3, 88, 4], list(range(60, 120))):
        same(mapped(model, drawn.section, rows=rows, resolution=resolution), whole, rows=rows)


def test_names_of_types_only_order_the_columns(steady: tuple[Any, str], drawn: Drawn) -> None:
    model, resolution = steady
    names = {f"type {i}/x": name for i, name in enumerate(["m", "a", "z", "k", "b"])}
    renamed = drawn.reference.copy()
    renamed.obs["cell_type"] = renamed.obs["cell_type"].map(names).astype("category")
    other = train(model.family, renamed)
    a = mapped(model, drawn.section, resolution=resolution)
    b = mapped(other, drawn.section, resolution=resolution)
    columns = [other.categories.index(names[name]) for name in model.categories]
    np.testing.assert_allclose(b.fraction[:, columns], a.fraction, atol=5e-3)


@pytest.mark.parametrize("kind", ["float64", "int32", "int64", "uint16", "dense", "csc"])
def test_the_form_of_the_counts_does_not_matter(steady: tuple[Any, str], drawn: Drawn, kind: str) -> None:
    model, resolution = steady
    other = drawn.section.copy()
    forms: dict[str, Callable[[Any], Any]] = {"dense": lambda x: x.toarray(), "csc": lambda x: x.tocsc()}
    other.X = forms.get(kind, lambda x: x.astype(kind))(drawn.section.X)
    same(mapped(model, other, resolution=resolution), mapped(model, drawn.section, resolution=resolution), atol=1e-6)


def test_genes_that_the_reference_lacks_change_nothing(steady: tuple[Any, str], drawn: Drawn) -> None:
    model, resolution = steady
    more = ad.AnnData(
        sparse.csr_matrix(np.full((120, 3), 50, dtype=np.float32)),
        obs=drawn.section.obs[[]],
        var=pd.DataFrame(index=["x1", "x2", "x3"]),
    )
    wide = ad.concat([drawn.section, more], axis=1, merge="first")
    wide.obs = drawn.section.obs.copy()
    same(mapped(model, wide, resolution=resolution), mapped(model, drawn.section, resolution=resolution), atol=1e-6)


def test_same_seed_same_map(model: Any, drawn: Drawn) -> None:
    a, b = (mapped(model, drawn.section, seed=3) for _ in range(2))
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


# Prior --------------------------------------------------------------------------------------------------------------


def test_neighbours_draw_and_weight_zero_changes_nothing(drawn: Drawn) -> None:
    model = train("deconvolution", drawn.reference)
    source = read_cells(drawn.section)
    look, cells = model.adapt(source, resolution="spot"), source.read()
    plain = look.map(cells)
    np.testing.assert_array_equal(look.map(cells, prior=np.zeros((120, 5), dtype=np.float32)).fraction, plain.fraction)
    belief = np.tile(plain.abundance.mean(axis=0), (120, 1))
    target = belief[0] / belief[0].sum()
    distance = [
        np.abs(look.map(cells, prior=(w * belief).astype(np.float32)).fraction - target).mean()
        for w in (0, 0.3, 3, 100)
    ]
    assert (np.diff(distance) < 0).all()
    assert distance[-1] < 0.1 * distance[0]


# Genes --------------------------------------------------------------------------------------------------------------


def test_genes_that_either_side_has_not_counted_are_left_out(drawn: Drawn) -> None:
    section, reference = drawn.section.copy(), drawn.reference.copy()
    section.X = sparse.csr_matrix(section.X @ sparse.diags((np.arange(400) >= 5).astype(np.float32)))
    reference.X = sparse.csr_matrix(reference.X @ sparse.diags((np.arange(400) < 390).astype(np.float32)))
    for family in FAMILIES:
        look = train(family, reference).adapt(read_cells(section))
        assert not set(look.genes) & {f"gene{i}" for i in [*range(5), *range(390, 400)]}


def test_the_genes_that_differ_most_are_kept(drawn: Drawn) -> None:
    look = train("nnls", drawn.reference, max_genes=60).adapt(read_cells(drawn.section))
    assert len(look.genes) == 60
    spread = np.log(drawn.profile + 1e-6).var(axis=0)
    kept = spread[[int(name.removeprefix("gene")) for name in look.genes]]
    assert np.median(kept) > np.quantile(spread, 0.85)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_small_panel(draw: Callable[..., Drawn], family: str) -> None:
    drawn = draw(genes=60, contrast=1.5, depth=2000)
    found = mapped(train(family, drawn.reference), drawn.section)
    assert np.corrcoef(found.fraction.ravel(), drawn.fraction.ravel())[0, 1] > (0.6 if family == "tangram" else 0.9)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reference_of_few_cells(draw: Callable[..., Drawn], family: str, caplog: pytest.LogCaptureFixture) -> None:
    drawn = draw(cells=4)
    with caplog.at_level("WARNING", "sclm"):
        model = train(family, drawn.reference)
    assert "fewer than 10 reference cells make the profiles of these types noisy" in caplog.text
    found = mapped(model, drawn.section)
    assert np.isfinite(found.fraction).all()
    assert np.corrcoef(found.fraction.ravel(), drawn.fraction.ravel())[0, 1] > (0.6 if family == "tangram" else 0.9)
    one = drawn.reference[[0, 1, 2, 3, 4, 6, 7, 8, 9]].copy()  # "type 0/x" with one cell
    assert np.isfinite(mapped(train(family, one), drawn.section).fraction).all()


def test_one_spot(model: Any, drawn: Drawn) -> None:
    found = mapped(model, drawn.section[:1].copy())
    np.testing.assert_allclose(found.fraction.sum(), 1, atol=1e-5)


# Libraries ----------------------------------------------------------------------------------------------------------


def test_libraries_are_told_by_name_in_every_block(model: Any, drawn: Drawn) -> None:
    source = read_cells(drawn.section, obs_keys=["library"])
    look = model.adapt(source, library_key="library", resolution="spot")
    assert look.libraries == ["a", "b"]
    only = look.map(source.read(np.arange(1, 120, 2)))  # library "b" alone
    if model.family == "tangram":
        assert np.isfinite(only.fraction).all()
    else:
        np.testing.assert_allclose(only.fraction, look.map(source.read()).fraction[1::2], atol=2e-3)


# Files --------------------------------------------------------------------------------------------------------------


def test_save_and_load_give_bitwise_equal_maps(model: Any, drawn: Drawn, tmp_path: Path) -> None:
    again = sclm.load(model.save(tmp_path / "model"))
    assert type(again) is type(model)
    assert again.config == model.config
    assert again.categories == model.categories
    assert again.provenance()["sha256"] == model.provenance()["sha256"]
    for a, b in zip(mapped(model, drawn.section), mapped(again, drawn.section), strict=True):
        np.testing.assert_array_equal(a, b)
    pd.testing.assert_frame_equal(again.reference_types, model.reference_types)


def test_a_broken_checkpoint_is_refused(drawn: Drawn) -> None:
    model = train("nnls", drawn.reference)
    arrays = model.arrays()
    arrays["profile"] = arrays["profile"][:, :-1]
    with pytest.raises(ValueError, match="the checkpoint is broken"):
        type(model).from_arrays(model.config, model.vocabulary, arrays, {})


# Refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_bad_arguments(family: str, drawn: Drawn) -> None:
    with pytest.raises(TypeError, match="needs label_key="):
        sclm.train(family, drawn.reference)
    with pytest.raises(TypeError, match=rf"'{family}' has no option 'nonsense'; it has: .*max_genes"):
        train(family, drawn.reference, nonsense=1)
    with pytest.raises(TypeError, match="has no option 'categories'"):
        train(family, drawn.reference, categories=("a",))
    with pytest.raises(ValueError, match="at least two cell types, found 1"):
        train(family, drawn.reference[drawn.reference.obs["cell_type"] == "type 0/x"].copy())
    model = train(family, drawn.reference)
    with pytest.raises(ValueError, match=r"resolution must be one of .* found 'bin'"):
        model.adapt(read_cells(drawn.section), resolution="bin")


def test_sections_of_other_genes_are_refused(drawn: Drawn) -> None:
    model = train("nnls", drawn.reference)
    other = drawn.section.copy()
    other.var_names = [f"other{i}" for i in range(400)]
    with pytest.raises(ValueError, match="reference"):
        model.adapt(read_cells(other))
    few = other.copy()
    few.var_names = [f"gene{i}" if i < 100 else f"other{i}" for i in range(400)]
    assert model.match(few.var_names).matched == 100
    empty = drawn.section.copy()
    empty.X = sparse.csr_matrix(empty.shape, dtype=np.float32)
    with pytest.raises(ValueError, match="must have counted the same genes, found 0"):
        model.adapt(read_cells(empty))
