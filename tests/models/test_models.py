"""Load, train, list; each baseline against a peer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

import sclm
from sclm.cells import read_cells
from sclm.models import FAMILIES, Published, registry

if TYPE_CHECKING:
    from pathlib import Path

    import anndata as ad


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
    from sclm.models.baselines import data

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
    with pytest.raises(ValueError, match="learns from a reference"):
        sclm.load("knn")
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


def test_available_lists_families_without_torch() -> None:
    table = sclm.models.available()
    assert set(FAMILIES) <= set(table.index)
    assert (table.loc[list(FAMILIES), "verbs"] == "annotate").all()
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
