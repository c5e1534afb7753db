"""Load, train, list; each baseline against a peer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pytest

import sclm
from sclm.cells import GeneVocabulary, read_cells
from sclm.models import FAMILIES, Published, registry
from sclm.models.labels import hold_out

if TYPE_CHECKING:
    from pathlib import Path


def test_mean_profiles_agree_with_dense_correlation(reference: ad.AnnData, query: ad.AnnData) -> None:
    from sclm.cells import log_normalise

    model = sclm.train("mean", reference, label_key="cell_type")
    x = log_normalise(read_cells(reference).read().counts).toarray().astype(float)
    y = reference.obs["cell_type"].astype(str).to_numpy()
    profiles = np.stack([x[y == t].mean(0) for t in model.config.labels]) - x.mean(0)
    q = log_normalise(read_cells(query).read().counts).toarray() - x.mean(0)
    cosine = (q @ profiles.T) / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(profiles, axis=1)
    p = np.exp(50 * cosine / model.config.temperature)
    np.testing.assert_allclose(
        model.annotate(read_cells(query).read()).probabilities, p / p.sum(1, keepdims=True), atol=1e-4
    )


def test_neighbours_agree_with_scikit_learn(reference: ad.AnnData, query: ad.AnnData) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    from sclm.cells import log_normalise

    model = sclm.train("knn", reference, label_key="cell_type", n_neighbors=9)
    arrays = model.arrays()
    peer = KNeighborsClassifier(9, algorithm="brute").fit(arrays["knn_points"], arrays["knn_codes"])
    points = log_normalise(read_cells(query).read().counts)[:, arrays["knn_genes"]] @ arrays["knn_components"]
    votes = 9 * peer.predict_proba(points) + 0.1
    logits = np.log(votes) / model.config.temperature
    p = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(
        model.annotate(read_cells(query).read()).probabilities, p / p.sum(1, keepdims=True), atol=1e-5
    )


def test_majority_is_the_training_frequency(reference: ad.AnnData, query: ad.AnnData) -> None:
    uneven = reference[np.r_[0:200, 200:400:4]].copy()  # 200 of all types, then 50 more B cells
    model = sclm.train("majority", uneven, label_key="cell_type")
    answer = model.annotate(read_cells(query).read())
    assert set(answer.table["label"]) == {"B cell"}
    assert answer.table["confidence"].iloc[0] == pytest.approx(100 / 250, abs=0.03)


def test_logistic_streams_from_disk_to_the_same_optimum(reference: ad.AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    from sclm.models import reference_cells as data

    plain = sclm.train("logistic", reference, label_key="cell_type")
    monkeypatch.setattr(data, "_CACHED_ENTRIES", 0)
    monkeypatch.setattr(data, "_BLOCK", 64)
    streamed = sclm.train("logistic", reference, label_key="cell_type")
    np.testing.assert_allclose(streamed.arrays()["weights"], plain.arrays()["weights"], atol=2e-3)


@pytest.mark.parametrize(("options", "message"), [({"penalty": -1.0}, "penalty"), ({"max_iter": 0}, "max_iter")])
def test_settings_out_of_range(reference: ad.AnnData, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sclm.train("logistic", reference, label_key="cell_type", **options)


def test_unknown_options_and_families(reference: ad.AnnData) -> None:
    with pytest.raises(TypeError, match=r"no option 'penalti'; it has: max_iter, penalty"):
        sclm.train("logistic", reference, label_key="cell_type", penalti=1)
    with pytest.raises(TypeError, match="label_key="):
        sclm.train("knn", reference)
    with pytest.raises(ValueError, match=r"Did you mean 'logistic'"):
        sclm.train("logistics", reference, label_key="cell_type")


def test_load_says_what_is_wrong(tmp_path: Path, reference: ad.AnnData) -> None:
    with pytest.raises(FileNotFoundError, match="no published checkpoint"):
        sclm.load("not-there")
    with pytest.raises(ValueError, match=r"learns from a reference.*label_key=\.\.\.\), or pass reference="):
        sclm.load("knn")
    with pytest.raises(ValueError, match=r"train it first with model = sclm\.train\('pgl', reference, obs_keys="):
        sclm.load("pgl")
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        sclm.load(tmp_path)
    with pytest.raises(TypeError, match="int"):
        sclm.load(3)
    model = sclm.train("majority", reference, label_key="cell_type")
    assert sclm.load(model) is model
    folder = model.save(tmp_path / "m")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        model.save(folder)
    model.save(folder, overwrite=True)
    config = json.loads((folder / "config.json").read_text())
    for change, message in (
        ({"format": 99}, "format 99"),
        ({"family": "nobody"}, "nobody"),
        ({"format": "x"}, "not an sclm checkpoint"),
    ):
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(ValueError, match=message):
            sclm.load(folder)


def test_no_pickle_in_a_checkpoint(tmp_path: Path, reference: ad.AnnData) -> None:
    folder = sclm.train("knn", reference, label_key="cell_type").save(tmp_path / "m")
    for path in folder.iterdir():
        assert path.suffix in {".json", ".md", ".safetensors"}
    header = (folder / "model.safetensors").read_bytes()[8:10]
    assert header[:1] == b"{"


def test_available_lists_families_and_what_they_do() -> None:
    table = sclm.models.available()
    assert set(FAMILIES) <= set(table.index)
    assert table.loc["pgl", "verbs"] == "generate, log_likelihood"
    mappers = ["deconvolution", "nnls", "tangram"]
    assert (table.loc[mappers, "verbs"] == "map").all()
    assert (table.loc[["logistic", "knn", "mean", "majority"], "verbs"] == "annotate").all()
    assert (table["verbs"].str.len() > 0).all()
    assert table["description"].str.len().gt(10).all()


def test_hub_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, reference: ad.AnnData) -> None:
    """The hub's client is the seam: what it is asked for, and what happens with what it gives."""
    import hashlib

    import huggingface_hub

    folder = sclm.train("majority", reference, label_key="cell_type").save(tmp_path / "m")
    asked = []

    def fake(repository: str, *, revision: str | None, allow_patterns: list[str] | None) -> str:
        asked.append((repository, revision, allow_patterns))
        if repository == "org/missing":
            raise huggingface_hub.errors.LocalEntryNotFoundError("offline")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    assert sclm.load("hf:org/name").family == "majority"
    assert sclm.load("hf:org/name@abc").family == "majority"
    assert asked == [("org/name", None, None), ("org/name", "abc", None)]
    with pytest.raises(FileNotFoundError, match="hf download org/missing"):
        sclm.load("hf:org/missing")
    for bad in ("hf:name", "hf:a/b/c", "hf:/x"):
        with pytest.raises(ValueError, match="hf:organisation/name"):
            sclm.load(bad)

    good = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    for digest, fails in ((good, False), ("0" * 64, True)):
        entry = Published(
            "published", "org/name", "abc", {"config.json": digest}, "annotate", "BSD-3-Clause", "A test."
        )
        monkeypatch.setitem(registry.PUBLISHED, "published", entry)
        if fails:
            with pytest.raises(ValueError, match="sha256"):
                sclm.load("published")
        else:
            assert sclm.load("published").family == "majority"


def test_provenance_is_of_the_content(tmp_path: Path, reference: ad.AnnData) -> None:
    """The same for a model and its copy, and not fooled by another model in the folder."""
    logistic = sclm.train("logistic", reference, label_key="cell_type")
    mean = sclm.train("mean", reference, label_key="cell_type")
    before = logistic.provenance()["sha256"]
    folder = logistic.save(tmp_path / "m")
    mean.save(folder, overwrite=True)
    assert logistic.provenance()["sha256"] == before
    assert sclm.load(folder).provenance()["sha256"] == mean.provenance()["sha256"] != before
    assert logistic.provenance()["settings"]["penalty"] == 0.01
    other = sclm.train("logistic", reference, label_key="cell_type", penalty=0.02)
    assert other.provenance()["sha256"] != before


def test_an_interrupted_save_is_no_checkpoint(
    tmp_path: Path, reference: ad.AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.numpy

    model = sclm.train("mean", reference, label_key="cell_type")
    folder = model.save(tmp_path / "m")
    monkeypatch.setattr(safetensors.numpy, "save_file", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        model.save(folder, overwrite=True)
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        sclm.load(folder)


def test_a_broken_checkpoint_is_refused(tmp_path: Path, reference: ad.AnnData) -> None:
    folder = sclm.train("mean", reference, label_key="cell_type").save(tmp_path / "m")
    part = GeneVocabulary(tuple(reference.var_names[:50]))
    (folder / "vocabulary.json").write_text(part.to_json())
    with pytest.raises(ValueError, match="120 genes, the vocabulary of 50"):
        sclm.load(folder)


class TestHoldOut:
    def test_within_types(self) -> None:
        codes = np.repeat([0, 1, 2, 3], [500, 100, 10, 1])
        held, by_batch = hold_out(codes, None, np.random.default_rng(0))
        assert not by_batch
        assert np.bincount(codes[held], minlength=4).tolist() == [100, 20, 2, 0]

    def test_whole_batches_near_a_fifth(self) -> None:
        rng = np.random.default_rng(0)
        codes, batches = rng.integers(0, 3, 1000), rng.integers(0, 10, 1000).astype(str)
        for seed in range(20):
            held, by_batch = hold_out(codes, batches, np.random.default_rng(seed))
            assert by_batch
            assert 0.1 < held.mean() < 0.3
            assert all(held[batches == b].all() or not held[batches == b].any() for b in np.unique(batches))

    def test_of_two_unequal_batches_the_small_one(self) -> None:
        batches = np.repeat(["large", "small"], [480, 25])
        for seed in range(10):
            held, _ = hold_out(np.arange(505) % 3, batches, np.random.default_rng(seed))
            assert held.sum() == 25
            assert (batches[held] == "small").all()

    def test_one_batch_is_not_called_batches(self, reference: ad.AnnData) -> None:
        held, by_batch = hold_out(np.arange(100) % 2, np.repeat("only", 100), np.random.default_rng(0))
        assert not by_batch
        assert held.sum() == 20
        one = reference.copy()
        one.obs["donor"] = "only"
        model = sclm.train("mean", one, label_key="cell_type", batch_key="donor")
        assert "drawn within each type" in model.card["split"]

    def test_a_type_of_one_batch_is_learnt(self) -> None:
        codes = np.repeat([0, 1, 2], [40, 40, 20])
        batches = np.repeat(["a", "b", "c"], [40, 40, 20])  # each type lives in one batch
        held, _ = hold_out(codes, batches, np.random.default_rng(0))
        assert not held.any()


@pytest.mark.parametrize("family", ["logistic", "knn", "mean", "majority"])
def test_reference_cells_without_counts_are_left_out(
    reference: ad.AnnData, query: ad.AnnData, family: str, caplog: pytest.LogCaptureFixture
) -> None:
    counts = reference.X.toarray()
    counts[[0, 17, 203]] = 0
    with_empty = ad.AnnData(counts, obs=reference.obs, var=reference.var)
    without = with_empty[counts.sum(1) > 0].copy()
    a = sclm.train(family, with_empty, label_key="cell_type")
    assert "3 of 400 labelled cells have no counts" in caplog.text
    b = sclm.train(family, without, label_key="cell_type")
    cells = read_cells(query).read()
    np.testing.assert_allclose(a.annotate(cells).probabilities, b.annotate(cells).probabilities, atol=1e-6)


def test_a_small_panel_still_learns(pbmc: ad.AnnData) -> None:
    """Twelve genes: some cells have none of them, and the others must not be drowned by it."""
    panel = pbmc[
        :, ["CD3D", "CD8B", "NKG7", "GNLY", "CD79A", "MS4A1", "LYZ", "CST3", "S100A8", "FCER1A", "IL32", "CCL5"]
    ].copy()
    assert (panel.X.sum(axis=1) == 0).any()
    model = sclm.train("logistic", panel, label_key="cell_type")
    assert model.card["held_out_accuracy"] > model.card["held_out_accuracy_of_the_majority_type"] + 0.2


def test_kernels_agree_with_numpy() -> None:
    from scipy import sparse
    from scipy.special import log_softmax

    from sclm.models.baselines.softmax import add_gradient, loss_and_residual

    rng = np.random.default_rng(0)
    x = sparse.random(60, 30, density=0.3, format="csr", random_state=1, dtype=np.float32)
    w, b = rng.normal(size=(30, 4)).astype(np.float32), rng.normal(size=4).astype(np.float32)
    scale, importance = rng.random(60).astype(np.float32), rng.random(60).astype(np.float32)
    importance[:5] = 0
    codes = rng.integers(0, 4, 60)
    residual, gradient = np.empty((60, 4), dtype=np.float32), np.zeros((31, 4))
    loss = loss_and_residual(x.data, x.indices, x.indptr, scale, w, b, codes, importance, residual)
    columns = x.tocsc()
    add_gradient(columns.data, columns.indices, columns.indptr, scale, residual, gradient)
    dense = x.toarray() * scale[:, None]
    log_p = log_softmax(dense @ w + b, axis=1)
    expected = importance[:, None] * (np.exp(log_p) - np.eye(4)[codes])
    assert loss == pytest.approx(-(importance * log_p[np.arange(60), codes]).sum(), rel=1e-5)
    np.testing.assert_allclose(residual, expected, atol=1e-5)
    np.testing.assert_allclose(gradient[:30], dense.T @ expected, atol=1e-5)


def test_training_in_a_worker_thread_gives_the_same(reference: ad.AnnData) -> None:
    """Kernels run on one core there; numba's threads must not be entered from two Python threads."""
    from concurrent.futures import ThreadPoolExecutor

    here = sclm.train("logistic", reference, label_key="cell_type").arrays()["weights"]
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(sclm.train, "logistic", reference, label_key="cell_type") for _ in range(2)]
        for job in jobs:
            np.testing.assert_allclose(job.result().arrays()["weights"], here, atol=1e-3)
