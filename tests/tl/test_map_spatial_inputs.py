"""Bad and unusual sections and references: a clear error before any work, or the right result with a warning."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import sclm

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = "sclm_cell_type_fraction"
DOMINANT = "sclm_dominant_cell_type"


def fingerprint(adata: ad.AnnData) -> str:
    """Hash of every buffer and name of an AnnData."""
    digest = hashlib.sha256()
    for m in [adata.X, *adata.layers.values(), *adata.obsm.values()]:
        parts = (m.data, m.indices, m.indptr) if sparse.issparse(m) else (np.asarray(m),)
        for part in parts:
            digest.update(np.ascontiguousarray(part).tobytes())
    for frame in (adata.obs, adata.var):
        digest.update(repr((list(frame.columns), list(frame.index), frame.to_numpy().tolist())).encode())
    digest.update(repr((sorted(adata.obsm), sorted(adata.uns), sorted(map(str, adata.layers)))).encode())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def whole(simulate: Callable[..., ad.AnnData]) -> ad.AnnData:
    return sclm.datasets.simulate_section(simulate(400, seed=5), "cell_type", n_spots=60, cells_per_spot=5, seed=1)


@pytest.fixture
def section(whole: ad.AnnData) -> ad.AnnData:
    return whole.copy()


def run(section: ad.AnnData, reference: Any, **options: Any) -> Any:
    return sclm.tl.map_spatial(section, reference, **{"label_key": "cell_type", "method": "nnls", **options})


def no_coordinates(adata: ad.AnnData) -> None:
    del adata.obsm["spatial"]


def put(value: Any) -> Callable[[ad.AnnData], None]:
    def change(adata: ad.AnnData) -> None:
        adata.obsm["spatial"][[7, 9], 1] = value

    return change


def set_spatial(make: Callable[[np.ndarray], Any]) -> Callable[[ad.AnnData], None]:
    def change(adata: ad.AnnData) -> None:
        adata.obsm["spatial"] = make(adata.obsm["spatial"])

    return change


def lognormal(adata: ad.AnnData) -> None:
    x = adata.X.toarray().astype(float)
    adata.X = np.log1p(x / x.sum(1, keepdims=True) * 1e4)


def rename(names: Callable[[list[str]], list[str]]) -> Callable[[ad.AnnData], None]:
    def change(adata: ad.AnnData) -> None:
        adata.var_names = pd.Index(np.array(names(list(adata.var_names)), dtype=object))

    return change


def images(adata: ad.AnnData) -> None:
    adata.uns["spatial"] = {"left": {}, "right": {}}
    adata.obs["half"] = pd.Categorical(np.repeat(["left", "right"], 30))


def images_only(adata: ad.AnnData) -> None:
    adata.uns["spatial"] = {"left": {}, "right": {}}


def library_ids(adata: ad.AnnData) -> None:
    adata.obs["library_id"] = pd.Categorical(np.repeat(["left", "right"], 30))


def regions(adata: ad.AnnData) -> None:
    adata.obs["where"] = pd.Categorical(np.repeat(["left", "right"], 30))
    adata.uns["spatialdata_attrs"] = {"region": ["left", "right"], "region_key": "where", "instance_key": "i"}


SECTIONS: dict[str, tuple[Callable[[ad.AnnData], None], type[Exception], str]] = {
    "no coordinates": (no_coordinates, KeyError, r"obsm\['spatial'\].*no such key.*'fraction'.*spatial_key="),
    "NaN coordinates": (put(np.nan), ValueError, r"found 2 of 60.*'spot8' in row 7"),
    "infinite coordinates": (put(np.inf), ValueError, "found 2 of 60"),
    "one column": (set_spatial(lambda p: p[:, :1]), ValueError, r"shape \(60, 2\).*found \(60, 1\)"),
    "four columns": (set_spatial(lambda p: np.hstack([p, p])), ValueError, r"found \(60, 4\)"),
    "text": (set_spatial(lambda p: p.astype(str).astype(object) + "px"), ValueError, "must hold numbers"),
    "all in one place": (set_spatial(np.zeros_like), ValueError, r"all 60 spots are the same \(0, 0\)"),
    "log-normalised": (lognormal, ValueError, r"adata\.X.*raw.*counts.*log1p"),
    "disjoint genes": (
        rename(lambda n: [f"thing{i}" for i in range(len(n))]),
        ValueError,
        r"reference's genes.*found 0",
    ),
    "mouse symbols": (rename(lambda n: [g.capitalize() for g in n]), ValueError, r"data look like mouse.*ortholog"),
    "mouse Ensembl": (rename(lambda n: [f"ENSMUSG{i:011d}" for i in range(len(n))]), ValueError, r"mouse.*ENSMUSG"),
    "images of two sections": (images, ValueError, r"2 sections.*'left', 'right'.*library_key='half'"),
    "images without a column": (images_only, ValueError, r"2 sections.*library_key= naming the column"),
    "two library ids": (library_ids, ValueError, r"2 sections \(\.obs\['library_id'\].*library_key='library_id'"),
    "two regions": (regions, ValueError, r"2 sections.*library_key='where'"),
}


@pytest.mark.parametrize("case", SECTIONS)
def test_a_bad_section_is_refused_before_any_work(section: ad.AnnData, reference: ad.AnnData, case: str) -> None:
    change, error, message = SECTIONS[case]
    change(section)
    before = fingerprint(section)
    with pytest.raises(error, match=f"(?s){message}"):
        run(section, reference)
    assert fingerprint(section) == before


def mouse_reference(reference: ad.AnnData) -> None:
    reference.var_names = pd.Index(np.array([g.capitalize() for g in reference.var_names], dtype=object))


def scaled_reference(reference: ad.AnnData) -> None:
    x = np.log1p(reference.X.toarray())
    reference.X = (x - x.mean(0)) / np.maximum(x.std(0), 1e-3)


def label(value: Any) -> Callable[[ad.AnnData], None]:
    def change(reference: ad.AnnData) -> None:
        reference.obs["cell_type"] = value

    return change


REFERENCES: dict[str, tuple[Callable[[ad.AnnData], None], type[Exception], str]] = {
    "log-normalised": (lognormal, ValueError, r"reference\.X must hold raw integer counts.*log1p"),
    "scaled": (scaled_reference, ValueError, r"reference\.X must hold raw integer counts"),
    "mouse": (mouse_reference, ValueError, r"reference looks like mouse and the data do not"),
    "one cell type": (label("T cell"), ValueError, r"at least two cell types, found 1 \('T cell'\)"),
    "no labels": (label(np.nan), ValueError, "at least two cell types, found 0"),
}


@pytest.mark.parametrize("case", REFERENCES)
def test_a_bad_reference_is_refused(section: ad.AnnData, reference: ad.AnnData, case: str) -> None:
    change, error, message = REFERENCES[case]
    bad = reference.copy()
    change(bad)
    before, of_reference = fingerprint(section), fingerprint(bad)
    with pytest.raises(error, match=f"(?s){message}") as raised:
        run(section, bad)
    assert "adata.X" not in str(raised.value)
    assert (fingerprint(section), fingerprint(bad)) == (before, of_reference)


ARGUMENTS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "nothing": ({"reference": None, "label_key": None}, ValueError, r"found none.*reference=.*request=.*model="),
    "label_key alone": ({"reference": None, "model": "nnls"}, ValueError, "label_key describes a reference"),
    "no label_key": ({"label_key": None}, ValueError, r"label_key=.*found None.*cell_type, donor"),
    "misspelt label": ({"label_key": "cell_typ"}, KeyError, "cell_type"),
    "two references": ({"model": "nnls"}, ValueError, r"found reference= and model=.*method="),
    "a request and a reference": ({"request": pd.DataFrame({"a": [1]})}, ValueError, "found reference= and request="),
    "a request alone": (
        {"reference": None, "label_key": None, "request": pd.DataFrame({"a": [1]})},
        ValueError,
        "found no model=",
    ),
    "an untrained family": ({"reference": None, "label_key": None, "model": "nnls"}, ValueError, "train"),
    "no such model": ({"reference": None, "label_key": None, "model": "nowhere"}, FileNotFoundError, "nowhere"),
    "misspelt method": ({"method": "deconvolutoin"}, ValueError, "'deconvolution'"),
    "a method that does not map": ({"method": "logistic"}, ValueError, r"does not map.*'nnls'"),
    "a model as method": ({"method": object()}, TypeError, "model="),
    "resolution": ({"resolution": "single"}, ValueError, r"'auto', 'spot', 'cell'.*'single'|'spot', 'cell'.*'single'"),
    "negative smooth": ({"smooth": -1.0}, ValueError, "0 or more, found -1"),
    "smooth as text": ({"smooth": "much"}, TypeError, "number"),
    "seed": ({"seed": 1.5}, TypeError, "seed must be a whole number"),
    "batch_size": ({"batch_size": 0}, ValueError, "at least 1, found 0"),
    "slash in the key": ({"key_added": "T/NK"}, ValueError, "'/'"),
    "no such layer": ({"layer": "count"}, KeyError, "count"),
    "no such library": ({"library_key": "library"}, KeyError, "library"),
    "cells a type": ({"n_cells_per_type": 0}, ValueError, "at least 2, found 0"),
    "empty list": ({"reference": []}, ValueError, "empty list"),
    "no AnnData": ({"reference": "file.h5ad"}, TypeError, r"reference must be an AnnData.*read_h5ad"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_wrong_arguments(section: ad.AnnData, reference: ad.AnnData, case: str) -> None:
    options, error, message = ARGUMENTS[case]
    before = fingerprint(section)
    given = {"reference": reference, **options}
    with pytest.raises(error, match=f"(?s){message}"):
        run(section, given.pop("reference"), **given)
    assert fingerprint(section) == before


def test_settings_of_a_reference_without_one(section: ad.AnnData) -> None:
    with pytest.raises(ValueError, match="reference_layer describes a reference"):
        sclm.tl.map_spatial(section, model="nnls", reference_layer="counts")


def test_models_that_cannot_do_what_is_asked(section: ad.AnnData, reference: ad.AnnData, pgl: Any) -> None:
    with pytest.raises(ValueError, match="is a generator, found no request="):
        sclm.tl.map_spatial(section, model=pgl)
    annotator = sclm.train("mean", reference, label_key="cell_type")
    with pytest.raises(ValueError, match="'mean' does not map cell types"):
        sclm.tl.map_spatial(section, model=annotator)
    mapper = sclm.train("nnls", reference, label_key="cell_type")
    with pytest.raises(TypeError, match="'nnls', which does not write cells"):
        sclm.tl.map_spatial(section, request=sclm.request(1, tissue="blood"), model=mapper)
    with pytest.raises(ValueError, match="trained 'nnls', found method='tangram'"):
        sclm.tl.map_spatial(section, model=mapper, method="tangram")


def test_requests_that_make_no_reference(section: ad.AnnData, pgl: Any) -> None:
    before = fingerprint(section)
    for request, error, message in (
        ({"cell_type": ["B cell"]}, ValueError, r"at least two cell types, found 1 \('B cell'\)"),
        ({"tissue": ["blood"]}, KeyError, "no field of this model"),
        ({"cell_type": ["B cell", "no such cell at all"]}, ValueError, "no such cell at all"),
    ):
        with pytest.raises(error, match=message):
            sclm.tl.map_spatial(section, request=pd.DataFrame(request), model=pgl)
    with pytest.raises(TypeError, match="request must be a DataFrame"):
        sclm.tl.map_spatial(section, request={"cell_type": "B cell"}, model=pgl)
    with pytest.raises(KeyError, match=r"no field 'celltype'.*'cell_type', 'condition'"):
        sclm.tl.map_spatial(section, request=pd.DataFrame({"condition": ["rest"]}), model=pgl, label_key="celltype")
    mouse = section.copy()
    mouse.var_names = pd.Index(np.array([g.capitalize() for g in mouse.var_names], dtype=object))
    with pytest.raises(ValueError, match=r"data look like mouse.*generator"):
        sclm.tl.map_spatial(mouse, request=sclm.request(cell_type=["B cell", "monocyte"]), model=pgl)
    assert fingerprint(section) == before


# Unusual, and mapped ------------------------------------------------------------------------------------------------


def test_spots_without_counts(section: ad.AnnData, reference: ad.AnnData, caplog: pytest.LogCaptureFixture) -> None:
    plain = run(section, reference, copy=True)
    x = section.X.toarray()
    x[[3, 11]] = 0
    section.X = sparse.csr_matrix(x)
    run(section, reference)
    empty = np.isin(np.arange(60), [3, 11])
    for name in (KEY, f"{KEY}_cells", f"{KEY}_se"):
        np.testing.assert_array_equal(np.isnan(section.obsm[name]).all(axis=1), empty)
        np.testing.assert_array_equal(np.isnan(section.obsm[name]).any(axis=1), empty)
    np.testing.assert_array_equal(section.obs[DOMINANT].isna(), empty)
    np.testing.assert_array_equal(section.obs["sclm_unexplained"].isna(), empty)
    np.testing.assert_allclose(section.obsm[KEY][~empty], plain.obsm[KEY][~empty], atol=1e-4)
    assert "2 of 60 spots have no counts" in caplog.text
    assert any("2 of 60 spots have no counts" in text for text in section.uns[KEY]["warnings"])


def test_duplicate_spots_are_mapped_with_a_warning(
    section: ad.AnnData, reference: ad.AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    plain = run(section, reference, copy=True)
    section.obsm["spatial"][[1, 2]] = section.obsm["spatial"][0]
    run(section, reference)
    assert "3 of 60 spots share their coordinates" in caplog.text
    np.testing.assert_array_equal(section.obsm[KEY], plain.obsm[KEY])
    # Two libraries may use the same coordinates.
    caplog.clear()
    both = ad.concat([plain, plain], keys=["a", "b"], label="library_id", index_unique="-")
    run(both, reference, library_key="library_id")
    assert "share their coordinates" not in caplog.text


def test_one_spot(section: ad.AnnData, reference: ad.AnnData, caplog: pytest.LogCaptureFixture) -> None:
    plain = run(section, reference, copy=True)
    one = section[5:6].copy()
    run(one, reference)
    assert "There is one spot" in caplog.text
    assert one.obsm[KEY].shape == (1, 4)
    assert np.abs(one.obsm[KEY] - plain.obsm[KEY][5]).max() < 0.2  # genes that the spot lacks are not used
    with pytest.raises(ValueError, match="needs neighbours, found one spot"):
        run(section[5:6].copy(), reference, smooth=0.1)


@pytest.mark.parametrize("method", ["nnls", "deconvolution"])
def test_a_type_with_one_cell(
    section: ad.AnnData, reference: ad.AnnData, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    types = reference.obs["cell_type"].astype(str).to_numpy()
    keep = np.flatnonzero((types != "B cell") | (np.arange(len(types)) == np.flatnonzero(types == "B cell")[0]))
    run(section, reference[keep].copy(), method=method)
    assert "'B cell'" in caplog.text
    assert "(1)" in caplog.text
    table = section.uns[KEY]["reference"]["types"]
    assert table.set_index("label").loc["B cell", "n_cells"] == 1
    assert np.isfinite(section.obsm[KEY]).all()


def test_missing_labels_are_left_out(
    section: ad.AnnData, reference: ad.AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    odd = reference.copy()
    values = odd.obs["cell_type"].astype(object)
    values.iloc[:40] = np.nan
    odd.obs["cell_type"] = values
    run(section, odd)
    assert "40 of 400 reference cells have no label" in caplog.text
    by_hand = section.copy()
    run(by_hand, reference[40:].copy())
    np.testing.assert_allclose(section.obsm[KEY], by_hand.obsm[KEY], atol=1e-6)


def test_labels_with_a_slash_are_values(section: ad.AnnData, reference: ad.AnnData) -> None:
    odd = reference.copy()
    odd.obs["cell_type"] = odd.obs["cell_type"].astype(str).replace({"T cell": "T/NK cell"})
    plain = run(section, reference, copy=True)
    run(section, odd)
    names, before = list(section.uns[KEY]["categories"]), list(plain.uns[KEY]["categories"])
    assert "T/NK cell" in names
    order = [before.index({"T/NK cell": "T cell"}.get(name, name)) for name in names]
    np.testing.assert_allclose(section.obsm[KEY], plain.obsm[KEY][:, order], atol=1e-5)
    assert not any("/" in name for slot in (section.obs, section.obsm, section.uns) for name in slot)


def test_missing_libraries(section: ad.AnnData, reference: ad.AnnData) -> None:
    names = np.repeat(np.array(["a", "b"], dtype=object), 30)
    names[3] = None
    section.obs["slide"] = pd.Categorical(names)
    before = fingerprint(section)
    with pytest.raises(ValueError, match=r"section of every spot, found 1 of 60 missing, first in row 3"):
        run(section, reference, library_key="slide")
    assert fingerprint(section) == before


def test_references_that_share_no_genes(section: ad.AnnData, reference: ad.AnnData) -> None:
    first, second = reference[:, :60].copy(), reference[:, 60:].copy()
    with pytest.raises(ValueError, match="must share genes, found 0 names in all of them"):
        run(section, [first, second])
    bad = reference[:200].copy()
    lognormal(bad)
    with pytest.raises(ValueError, match=r"reference\[1\]\.X must hold raw integer counts"):
        run(section, [reference, bad])


@pytest.mark.parametrize("kind", ["CSC", "dense", "DataFrame coordinates", "layer", "three dimensions", "csr_array"])
def test_same_answer_however_it_is_stored(section: ad.AnnData, reference: ad.AnnData, kind: str) -> None:
    plain = run(section, reference, copy=True)
    options = {}
    if kind == "CSC":
        section.X = sparse.csc_matrix(section.X)
    elif kind == "dense":
        section.X = section.X.toarray()
    elif kind == "csr_array":
        section.X = sparse.csr_array(section.X)
    elif kind == "layer":
        section.layers["counts"], options = section.X.copy(), {"layer": "counts"}
        lognormal(section)
    elif kind == "three dimensions":
        section.obsm["spatial"] = np.column_stack([section.obsm["spatial"], np.zeros(60)])
    else:
        section.obsm["spatial"] = pd.DataFrame(section.obsm["spatial"], index=section.obs_names, columns=["x", "y"])
    run(section, reference, **options)
    np.testing.assert_allclose(section.obsm[KEY], plain.obsm[KEY], atol=1e-6)
