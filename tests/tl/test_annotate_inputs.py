"""Bad and unusual input: a clear error before any work, or the right result; the AnnData is unchanged on error."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import sclm

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEY = "sclm_cell_type"


def fingerprint(adata: ad.AnnData) -> str:
    """Hash of every buffer and name of an AnnData."""
    digest = hashlib.sha256()
    matrices = [] if adata.isbacked else [adata.X, *adata.layers.values()]
    for m in matrices:
        parts = (m.data, m.indices, m.indptr) if sparse.issparse(m) else (np.asarray(m),)
        for part in parts:
            digest.update(np.ascontiguousarray(part).tobytes())
    for frame in (adata.obs, adata.var):
        digest.update(repr((list(frame.columns), list(frame.index), frame.to_numpy().tolist())).encode())
    digest.update(repr((sorted(adata.obsm), sorted(adata.uns), sorted(map(str, adata.layers)))).encode())
    return digest.hexdigest()


def lognormal(adata: ad.AnnData) -> None:
    x = adata.X.toarray()
    adata.X = np.log1p(x / x.sum(1, keepdims=True) * 1e4)


def scaled(adata: ad.AnnData) -> None:
    x = np.log1p(adata.X.toarray())
    adata.X = (x - x.mean(0)) / np.maximum(x.std(0), 1e-3)


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
    "scaled": (scaled, r"adata\.X.*raw.*counts.*(scaled|negative)"),
    "negative": (put(-2.0), r"adata\.X.*-2.*row 7"),
    "NaN": (put(np.nan), r"adata\.X.*(nan|NaN).*row 7"),
    "non-integer": (put(1.5), r"adata\.X.*1\.5.*row 7"),
    "no overlap": (rename(lambda names: [f"thing{i}" for i in range(len(names))]), r"model's genes.*found 0"),
    "mouse symbols": (rename(lambda names: [n.capitalize() for n in names]), r"mouse.*ortholog"),
    "mouse Ensembl": (rename(lambda names: [f"ENSMUSG{i:011d}" for i in range(len(names))]), r"mouse.*ortholog"),
    "numbers": (rename(lambda names: [str(i) for i in range(len(names))]), r"numbers.*gene_key="),
}


@pytest.mark.parametrize("case", ERRORS)
def test_error_before_any_work(query: ad.AnnData, reference: ad.AnnData, case: str) -> None:
    change, message = ERRORS[case]
    change(query)
    before = fingerprint(query)
    model = sclm.train("mean", reference, label_key="cell_type")
    with pytest.raises(ValueError, match=f"(?s){message}"):
        sclm.tl.annotate(query, model)
    assert fingerprint(query) == before


@pytest.mark.parametrize("case", ["log-normalised", "scaled", "negative", "NaN", "non-integer"])
def test_a_bad_reference_is_refused_too(query: ad.AnnData, reference: ad.AnnData, case: str) -> None:
    bad = reference.copy()
    ERRORS[case][0](bad)
    with pytest.raises(ValueError, match=r"reference\.X must hold raw integer counts") as error:
        sclm.tl.annotate(query, reference=bad, label_key="cell_type")
    assert "adata" not in str(error.value)
    assert " layer=" not in str(error.value)  # of the reference it is reference_layer=
    assert KEY not in query.obs


def test_a_log_normalised_reference_is_inverted_when_asked(query: ad.AnnData, reference: ad.AnnData) -> None:
    log = reference.copy()
    lognormal(log)
    plain = sclm.tl.annotate(query, reference=reference, label_key="cell_type", copy=True)
    result = sclm.tl.annotate(query, reference=log, label_key="cell_type", invert_log1p=True, copy=True)
    np.testing.assert_allclose(result.obsm[f"{KEY}_probabilities"], plain.obsm[f"{KEY}_probabilities"], atol=1e-4)


def test_results_cannot_go_into_a_view_of_a_file(query: ad.AnnData, reference: ad.AnnData, tmp_path: Path) -> None:
    view = backed(query, tmp_path)[:50]
    with pytest.raises(ValueError, match="copy=True"):
        sclm.tl.annotate(view, reference=reference, label_key="cell_type")
    assert sclm.tl.annotate(view, reference=reference, label_key="cell_type", copy=True).n_obs == 50


def test_too_small_a_panel_for_a_model_says_what_to_do(query: ad.AnnData, reference: ad.AnnData) -> None:
    model = sclm.train("mean", reference, label_key="cell_type")
    panel = query[:, :12].copy()
    with pytest.raises(ValueError, match=r"found 10\.0%.*reference= and label_key="):
        sclm.tl.annotate(panel, model)
    sclm.tl.annotate(panel, "mean", reference=reference, label_key="cell_type")
    assert KEY in panel.obs


@pytest.mark.parametrize("shape", [(0, 120), (120, 0), (0, 0)])
def test_empty_anndata(reference: ad.AnnData, shape: tuple[int, int]) -> None:
    empty = ad.AnnData(np.zeros(shape, dtype=np.float32))
    with pytest.raises(ValueError, match=r"at least one cell and one gene, found \d+ x \d+"):
        sclm.tl.annotate(empty, reference=reference, label_key="cell_type")


ARGUMENTS = {
    "no reference, untrained family": ({"model": "logistic"}, ValueError, "reference="),
    "misspelt family": ({"model": "logistc", "label_key": "cell_type"}, ValueError, "'logistic'"),
    "no label_key": ({}, ValueError, "label_key="),
    "label column missing": ({"label_key": "cell_typ"}, KeyError, "cell_type"),
    "layer missing": ({"label_key": "cell_type", "layer": "count"}, KeyError, "count"),
    "groupby missing": ({"label_key": "cell_type", "groupby": "leiden"}, KeyError, "leiden"),
    "two ways to vote": ({"label_key": "cell_type", "groupby": "donor", "majority_voting": True}, ValueError, "either"),
    "confidence as text": ({"label_key": "cell_type", "min_confidence": "0.8"}, ValueError, "'0.8'"),
    "settings of a reference without one": ({"reference_layer": "counts"}, ValueError, "reference_layer describe"),
    "confidence above 1": ({"label_key": "cell_type", "min_confidence": 80}, ValueError, "found 80"),
    "slash in the key": ({"label_key": "cell_type", "key_added": "T/NK"}, ValueError, "'/'"),
    "batch column missing": ({"label_key": "cell_type", "batch_key": "donr"}, KeyError, "donor"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_wrong_arguments(query: ad.AnnData, reference: ad.AnnData, case: str) -> None:
    options, error, message = ARGUMENTS[case]
    before = fingerprint(query)
    given = {} if case.startswith(("no reference", "settings")) else {"reference": reference}
    with pytest.raises(error, match=message):
        sclm.tl.annotate(query, **given, **options)
    assert fingerprint(query) == before


def test_labels_that_teach_nothing(query: ad.AnnData, reference: ad.AnnData) -> None:
    one = reference.copy()
    one.obs["label"] = "T cell"
    with pytest.raises(ValueError, match=r"at least two cell types, found 1 \('T cell'\)"):
        sclm.tl.annotate(query, reference=one, label_key="label")
    one.obs["label"] = np.nan
    with pytest.raises(ValueError, match="found 0"):
        sclm.tl.annotate(query, reference=one, label_key="label")


def test_a_label_seen_once_and_missing_labels(
    query: ad.AnnData, reference: ad.AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    odd = reference.copy()
    label = odd.obs["cell_type"].astype(str).to_numpy(dtype=object)
    label[0], label[1], label[2] = "platelet", np.nan, "unknown"
    odd.obs["label"] = label
    sclm.tl.annotate(query, reference=odd, label_key="label")
    assert "single reference cell" in caplog.text
    assert "platelet" in list(query.uns[KEY]["categories"])
    assert "unknown" not in list(query.uns[KEY]["categories"])
    assert query.uns[KEY]["reference_labels"]["n_cells"].sum() == 398
    right = query.obs[KEY].astype(str) == query.obs["cell_type"].astype(str)
    assert right.mean() > 0.95


def test_labels_with_slash_and_unicode(query: ad.AnnData, reference: ad.AnnData) -> None:
    odd = reference.copy()
    odd.obs["label"] = odd.obs["cell_type"].astype(str).replace({"T cell": "T/NK ζ-Zelle", "monocyte": "Mono/Mφ"})
    sclm.tl.annotate(query, reference=odd, label_key="label")
    answer = query.obs.loc[query.obs["cell_type"].astype(str) == "T cell", KEY].astype(str)
    assert (answer == "T/NK ζ-Zelle").mean() > 0.9


# Unusual but right: each must give what the plain call gives.


def backed(adata: ad.AnnData, tmp_path: Path) -> ad.AnnData:
    adata.write_h5ad(tmp_path / "file.h5ad")
    return ad.read_h5ad(tmp_path / "file.h5ad", backed="r")


def dask(adata: ad.AnnData, tmp_path: Path) -> ad.AnnData:
    array = pytest.importorskip("dask.array")
    out = adata.copy()
    out.X = array.from_array(adata.X.toarray(), chunks=(50, 120))
    return out


def unsorted(adata: ad.AnnData, tmp_path: Path) -> ad.AnnData:
    x = adata.X.copy()
    for i in range(x.shape[0]):
        row = slice(x.indptr[i], x.indptr[i + 1])
        x.indices[row], x.data[row] = x.indices[row][::-1].copy(), x.data[row][::-1].copy()
    x.has_sorted_indices = False
    out = adata.copy()
    out.X = x
    return out


def split_columns(adata: ad.AnnData, tmp_path: Path) -> ad.AnnData:
    """Each gene's counts over two columns of one name."""
    x = adata.X.toarray()
    half = np.floor(x / 2)
    out = ad.AnnData(np.hstack([half, x - half]), obs=adata.obs)
    out.var_names = pd.Index(np.tile(np.asarray(adata.var_names, dtype=object), 2))
    return out


def with_ids(style: str) -> Callable[[ad.AnnData, Path], ad.AnnData]:
    def change(adata: ad.AnnData, tmp_path: Path) -> ad.AnnData:
        from sclm.knowledge import GeneIdentifiers

        symbols = list(map(str, adata.var_names))
        ids = GeneIdentifiers.load("human").to_ensembl(symbols)
        names = {
            "ensembl": [i or s for i, s in zip(ids, symbols, strict=True)],
            "versions": [f"{i}.12" if i else s for i, s in zip(ids, symbols, strict=True)],
            "composite": [f"{s}_{i}" if i else s for i, s in zip(ids, symbols, strict=True)],
            "lower case": [s.lower() for s in symbols],
        }[style]
        out = adata.copy()
        out.var["names"] = names
        return out

    return change


def as_matrix(convert: Callable) -> Callable[[ad.AnnData, Path], ad.AnnData]:
    def change(adata: ad.AnnData, tmp_path: Path) -> ad.AnnData:
        out = adata.copy()
        out.X = convert(adata.X)
        return out

    return change


def in_layer(adata: ad.AnnData, tmp_path: Path) -> ad.AnnData:
    out = adata.copy()
    out.layers["counts"] = out.X.copy()
    lognormal(out)
    return out


SAME = {
    "CSC": (as_matrix(sparse.csc_matrix), {}),
    "dense": (as_matrix(lambda x: x.toarray()), {}),
    "csr_array": (as_matrix(sparse.csr_array), {}),
    "int64": (as_matrix(lambda x: x.astype(np.int64)), {}),
    "float64": (as_matrix(lambda x: x.astype(np.float64)), {}),
    "unsorted indices": (unsorted, {}),
    "Dask": (dask, {}),
    "backed read-only": (backed, {}),
    "layer": (in_layer, {"layer": "counts"}),
    "inverted log1p": (in_layer, {"invert_log1p": True}),
    "duplicate var_names": (split_columns, {}),
    "Ensembl ids": (with_ids("ensembl"), {"gene_key": "names"}),
    "Ensembl with versions": (with_ids("versions"), {"gene_key": "names"}),
    "composites": (with_ids("composite"), {"gene_key": "names"}),
    "lower case": (with_ids("lower case"), {"gene_key": "names"}),
}


@pytest.mark.filterwarnings("ignore:Variable names are not unique:UserWarning")
@pytest.mark.filterwarnings("ignore:Observation names are not unique:UserWarning")
@pytest.mark.parametrize("case", SAME)
def test_same_answer_however_it_is_stored(query: ad.AnnData, reference: ad.AnnData, tmp_path: Path, case: str) -> None:
    make, options = SAME[case]
    model = sclm.train("logistic", reference, label_key="cell_type")
    plain = sclm.tl.annotate(query, model, copy=True)
    other = make(query, tmp_path)
    before = fingerprint(other) if case != "Dask" else None
    result = sclm.tl.annotate(other, model, copy=True, **options)
    np.testing.assert_allclose(result.obsm[f"{KEY}_probabilities"], plain.obsm[f"{KEY}_probabilities"], atol=2e-5)
    assert result.obs[KEY].astype(str).tolist() == plain.obs[KEY].astype(str).tolist()
    if before is not None:
        assert fingerprint(other) == before
    if case == "backed read-only":
        sclm.tl.annotate(other, model)  # in place: columns live in memory, the file is not touched
        assert other.obs[KEY].astype(str).tolist() == plain.obs[KEY].astype(str).tolist()
        assert KEY not in ad.read_h5ad(other.filename).obs


@pytest.mark.parametrize("kind", ["view", "one cell"])
def test_views(query: ad.AnnData, reference: ad.AnnData, kind: str) -> None:
    rows = slice(10, 40) if kind == "view" else slice(5, 6)
    model = sclm.train("logistic", reference, label_key="cell_type")
    plain = sclm.tl.annotate(query, model, copy=True)
    view = query[rows]
    assert view.is_view
    sclm.tl.annotate(view, model)
    np.testing.assert_allclose(view.obsm[f"{KEY}_probabilities"], plain.obsm[f"{KEY}_probabilities"][rows], atol=1e-6)
    assert KEY not in query.obs  # the parent is not touched


@pytest.mark.filterwarnings("ignore:Observation names are not unique:UserWarning")
def test_duplicate_obs_names(query: ad.AnnData, reference: ad.AnnData) -> None:
    model = sclm.train("logistic", reference, label_key="cell_type")
    plain = sclm.tl.annotate(query, model, copy=True)
    query.obs_names = pd.Index(np.array(["a", "b"] * 60, dtype=object))
    sclm.tl.annotate(query, model)
    assert query.obs[KEY].astype(str).tolist() == plain.obs[KEY].astype(str).tolist()
    np.testing.assert_array_equal(query.obs[f"{KEY}_confidence"], plain.obs[f"{KEY}_confidence"])


def test_a_backed_reference(query: ad.AnnData, reference: ad.AnnData, tmp_path: Path) -> None:
    reference.write_h5ad(tmp_path / "reference.h5ad")
    plain = sclm.tl.annotate(query, reference=reference, label_key="cell_type", copy=True)
    on_disk = ad.read_h5ad(tmp_path / "reference.h5ad", backed="r")
    result = sclm.tl.annotate(query, reference=on_disk, label_key="cell_type", copy=True)
    np.testing.assert_allclose(result.obsm[f"{KEY}_probabilities"], plain.obsm[f"{KEY}_probabilities"], atol=1e-5)
