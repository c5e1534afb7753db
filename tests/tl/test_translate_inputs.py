"""Bad and unusual input of tl.translate: a clear error before any work, or the right result; the AnnData is unchanged on error."""

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
    from pathlib import Path

KEY = "sclm_protein"


def fingerprint(adata: ad.AnnData) -> str:
    """Hash of every buffer and name of an AnnData."""
    digest = hashlib.sha256()
    matrices = [] if adata.isbacked else [adata.X, *adata.layers.values()]
    for m in matrices:
        for part in (m.data, m.indices, m.indptr) if sparse.issparse(m) else (np.asarray(m),):
            digest.update(np.ascontiguousarray(part).tobytes())
    for frame in (adata.obs, adata.var):
        digest.update(repr((list(frame.columns), list(frame.index), frame.to_numpy().tolist())).encode())
    digest.update(repr((sorted(adata.obsm), sorted(adata.uns), sorted(map(str, adata.layers)))).encode())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def cite(simulate: Callable[..., ad.AnnData]) -> ad.AnnData:
    """Tests must not change it."""
    adata = simulate(200, seed=4)
    x = np.asarray(adata.X.todense())
    rate = np.column_stack([x[:, :10].sum(axis=1), x[:, 10:20].sum(axis=1)]) + 2
    values = np.random.default_rng(0).poisson(rate).astype(float)
    adata.obsm["protein"] = pd.DataFrame(values, index=adata.obs_names, columns=["CD3", "CD19"])
    return adata


@pytest.fixture(scope="module")
def model(cite: ad.AnnData) -> Any:
    return sclm.train("ridge-protein", cite, protein_key="protein")


def lognormal(adata: ad.AnnData) -> None:
    x = adata.X.toarray()
    adata.X = np.log1p(x / x.sum(1, keepdims=True) * 1e4)


def put(value: float) -> Callable[[ad.AnnData], None]:
    def change(adata: ad.AnnData) -> None:
        x = adata.X.toarray()
        x[7, 3] = value
        adata.X = x

    return change


def rename(names: Callable[[list[str]], list[str]]) -> Callable[[ad.AnnData], None]:
    def change(adata: ad.AnnData) -> None:
        adata.var_names = pd.Index(np.array(names(list(adata.var_names)), dtype=object))

    return change


ERRORS = {
    "log-normalised": (lognormal, r"adata\.X.*raw.*counts.*log1p"),
    "negative": (put(-2.0), r"adata\.X.*-2.*row 7"),
    "NaN": (put(np.nan), r"adata\.X.*(nan|NaN).*row 7"),
    "non-integer": (put(1.5), r"adata\.X.*1\.5.*row 7"),
    "no overlap": (
        rename(lambda names: [f"thing{i}" for i in range(len(names))]),
        r"model's genes.*found 0.*reference=",
    ),
    "mouse symbols": (rename(lambda names: [n.capitalize() for n in names]), r"mouse.*ortholog"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_error_before_any_work(query: ad.AnnData, model: Any, case: str) -> None:
    change, message = ERRORS[case]
    change(query)
    before = fingerprint(query)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        sclm.tl.translate(query, model)
    assert fingerprint(query) == before


@pytest.mark.parametrize("case", ["log-normalised", "negative", "NaN", "non-integer"])
def test_a_bad_reference_is_refused_too(query: ad.AnnData, cite: ad.AnnData, case: str) -> None:
    bad = cite.copy()
    ERRORS[case][0](bad)
    with pytest.raises(ValueError, match=r"reference\.X must hold raw integer counts") as error:
        sclm.tl.translate(query, reference=bad, protein_key="protein")
    assert "adata" not in str(error.value)
    assert " layer=" not in str(error.value)  # of the reference it is reference_layer=
    assert KEY not in query.obsm


ARGUMENTS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "untrained family": ({"model": "ridge-protein"}, ValueError, "train it first .*protein_key="),
    "family that names cells": ({"model": "logistic", "reference": 1, "protein_key": "protein"}, ValueError, "predict proteins"),
    "no such family": ({"model": "ridge", "reference": 1, "protein_key": "protein"}, ValueError, "family to train"),
    "no protein_key": ({"reference": 1}, ValueError, r"protein_key= must name .*'protein'"),
    "protein key missing": ({"reference": 1, "protein_key": "prot"}, KeyError, r"reference\.obsm; .*'protein'"),
    "batch column missing": ({"reference": 1, "protein_key": "protein", "batch_key": "donr"}, KeyError, "donor"),
    "layer missing": ({"reference": 1, "protein_key": "protein", "layer": "count"}, KeyError, "count"),
    "reference layer missing": ({"reference": 1, "protein_key": "protein", "reference_layer": "count"}, KeyError, "reference_layer="),
    "settings of a reference without one": ({"model": 1, "protein_key": "x"}, ValueError, "protein_key describe"),
    "slash in the key": ({"model": 1, "key_added": "a/b"}, ValueError, "'/'"),
    "unknown protein": ({"model": 1, "proteins": ["CD3", "CD1000"]}, KeyError, "'CD1000'"),
    "protein twice": ({"model": 1, "proteins": ["CD3", "CD3"]}, ValueError, "each once"),
    "no protein": ({"model": 1, "proteins": []}, ValueError, "at least one"),
    "no network to move": ({"model": 1, "device": "cpu"}, TypeError, "no network"),
    "no model": ({"model": "no-such-model"}, FileNotFoundError, "no-such-model"),
}  # fmt: skip


@pytest.mark.parametrize("case", ARGUMENTS)
def test_wrong_arguments(query: ad.AnnData, cite: ad.AnnData, model: Any, case: str) -> None:
    given, error, message = ARGUMENTS[case]
    options = dict(given)
    if "reference" in options:
        options["reference"] = cite
    if options.get("model") == 1:
        options["model"] = model
    before = fingerprint(query)
    with pytest.raises(error, match=f"(?s){message}"):
        sclm.tl.translate(query, **options)
    assert fingerprint(query) == before


def test_a_model_that_names_cells_is_refused(query: ad.AnnData, reference: ad.AnnData) -> None:
    other = sclm.train("majority", reference, label_key="cell_type")
    with pytest.raises(TypeError, match=r"'majority' does not predict proteins.*'ridge-protein'"):
        sclm.tl.translate(query, other)


def test_a_failure_half_way_changes_nothing(query: ad.AnnData, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = type(model).translate

    def broken(self: Any, cells: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        return real(self, cells, **options)

    monkeypatch.setattr(type(model), "translate", broken)
    before = fingerprint(query)
    with pytest.raises(RuntimeError, match="out of memory"):
        sclm.tl.translate(query, model, batch_size=20)
    assert fingerprint(query) == before


FORMS: dict[str, Callable[[ad.AnnData], Any]] = {
    "csr": lambda a: a.X.tocsr(),
    "csc": lambda a: a.X.tocsc(),
    "dense": lambda a: a.X.toarray(),
    "float64": lambda a: a.X.astype(np.float64),
    "int64": lambda a: a.X.toarray().astype(np.int64),
}


@pytest.mark.parametrize("form", FORMS)
def test_any_storage_gives_the_same(query: ad.AnnData, model: Any, form: str) -> None:
    plain = sclm.tl.translate(query, model, copy=True)
    other = query.copy()
    other.X = FORMS[form](query)
    sclm.tl.translate(other, model)
    np.testing.assert_allclose(other.obsm[KEY], plain.obsm[KEY], atol=1e-5)


def test_layers_views_files_and_dask(query: ad.AnnData, model: Any, tmp_path: Path) -> None:
    plain = sclm.tl.translate(query, model, copy=True).obsm[KEY]
    layered = query.copy()
    layered.layers["counts"] = layered.X.copy()
    lognormal(layered)
    sclm.tl.translate(layered, model, layer="counts")
    np.testing.assert_array_equal(layered.obsm[KEY], plain)

    view = query[10:40]
    sclm.tl.translate(view, model)
    np.testing.assert_allclose(view.obsm[KEY], plain[10:40], atol=1e-5)
    assert KEY not in query.obsm

    query.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    found = sclm.tl.translate(backed, model, batch_size=50, copy=True)
    np.testing.assert_allclose(found.obsm[KEY], plain, atol=1e-5)
    with pytest.raises(ValueError, match="copy=True"):
        sclm.tl.translate(backed[:50], model)

    array = pytest.importorskip("dask.array")
    lazy = query.copy()
    lazy.X = array.from_array(query.X.toarray(), chunks=(50, -1))
    sclm.tl.translate(lazy, model)
    np.testing.assert_allclose(lazy.obsm[KEY], plain, atol=1e-5)


def test_a_log_normalised_reference_is_inverted_when_asked(query: ad.AnnData, cite: ad.AnnData) -> None:
    log = cite.copy()
    lognormal(log)
    plain = sclm.tl.translate(query, reference=cite, protein_key="protein", copy=True)
    found = sclm.tl.translate(query, reference=log, protein_key="protein", invert_log1p=True, copy=True)
    np.testing.assert_allclose(found.obsm[KEY], plain.obsm[KEY], atol=1e-4)


def test_gene_keys(query: ad.AnnData, cite: ad.AnnData) -> None:
    plain = sclm.tl.translate(query, reference=cite, protein_key="protein", copy=True)
    for part in (query, cite_copy := cite.copy()):
        part.var["symbol"] = part.var_names.to_numpy(dtype=object)
        part.var_names = pd.Index([f"g{i}" for i in range(part.n_vars)], dtype=object)
    sclm.tl.translate(query, reference=cite_copy, protein_key="protein", gene_key="symbol", reference_gene_key="symbol")
    np.testing.assert_allclose(query.obsm[KEY], plain.obsm[KEY], atol=1e-5)


@pytest.mark.parametrize("shape", [(0, 120), (120, 0)])
def test_empty_anndata(model: Any, shape: tuple[int, int]) -> None:
    empty = ad.AnnData(np.zeros(shape, dtype=np.float32))
    with pytest.raises(ValueError, match=r"at least one cell and one gene, found \d+ x \d+"):
        sclm.tl.translate(empty, model)
