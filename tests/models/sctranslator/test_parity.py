"""Against stored outputs of the original implementation, with random weights."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import sclm
from sclm.metrics.translation import flat_scores
from sclm.models.sctranslator.attention import key_features, query_features
from sclm.models.sctranslator.checkpoint import IGNORED, original_name, read_tensors
from sclm.models.sctranslator.tokens import batch_of, frame, min_max

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.parity
CASES = ("pad", "exact", "trunc")


@pytest.fixture(scope="module")
def folder(golden: Path) -> Path:
    if not (golden / "sctranslator" / "reference.npz").is_file():
        pytest.skip("no stored outputs of scTranslator")
    return golden / "sctranslator"


@pytest.fixture(scope="module")
def stored(folder: Path) -> Any:
    return np.load(folder / "reference.npz")


@pytest.fixture(scope="module", params=["state_dict.pt", "whole_module_pickle.pt"])
def model(request: pytest.FixtureRequest, folder: Path) -> Any:
    return sclm.load(folder / request.param)


def close(found: Any, expected: np.ndarray) -> None:
    expected = np.asarray(expected)
    found = found.numpy() if isinstance(found, torch.Tensor) else np.asarray(found)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 2e-5 * max(1.0, np.abs(expected).max())


def test_every_tensor_has_its_shape(folder: Path, model: Any) -> None:
    """Of the file, and of the network: its own tensors under their published names, the copies, and those without a use."""
    shapes = {name: tuple(shape) for name, shape in json.loads((folder / "state_dict_shapes.json").read_text()).items()}
    for file in ("state_dict.pt", "whole_module_pickle.pt"):
        assert {name: tuple(tensor.shape) for name, tensor in read_tensors(folder / file).items()} == shapes
    ours = {original_name(name): tuple(tensor.shape) for name, tensor in model.network.state_dict().items()}
    twice = {name.replace(".performer.net.", ".performer.proj_updater.instance."): s for name, s in ours.items()}
    unused = {name: shapes[name] for name in IGNORED}
    assert {**twice, **ours, **unused} == shapes


@pytest.mark.parametrize("case", CASES)
def test_values_ids_and_masks(stored: Any, case: str) -> None:
    for table, values, ids, length, mask in (
        ("rna", "x", "rna_ids", 300, "rna_mask"),
        ("protein", "y", "protein_ids", 40, "protein_mask"),
    ):
        found = frame(stored[f"{case}_{table}_raw"], stored[f"{case}_{table}_my_id"], length)
        close(found.values, stored[f"{case}_{values}"])
        np.testing.assert_array_equal(np.broadcast_to(found.ids, (6, length)), stored[f"{case}_{ids}"])
        np.testing.assert_array_equal(np.broadcast_to(found.real, (6, length)), stored[f"{case}_{mask}"])


@pytest.mark.parametrize("case", CASES)
def test_the_three_stages(model: Any, stored: Any, case: str) -> None:
    genes = frame(stored[f"{case}_rna_raw"], stored[f"{case}_rna_my_id"], 300)
    proteins = frame(stored[f"{case}_protein_raw"], stored[f"{case}_protein_my_id"], 40)
    batch = batch_of(genes, proteins.ids, proteins.real)
    with model.inference() as network:
        encodings = network.encode(batch)
        translated = network.translate(encodings, batch)
        output = network.decode(translated, batch)
    close(encodings, stored[f"{case}_encodings"])
    close(translated, stored[f"{case}_translated"])
    close(output, stored[f"{case}_output"])


@pytest.mark.parametrize("case", CASES)
def test_predictions_and_scores(model: Any, stored: Any, case: str) -> None:
    n = min(40, stored[f"{case}_protein_raw"].shape[1])
    ids = stored[f"{case}_protein_my_id"][:n]
    found = model.predict(stored[f"{case}_rna_raw"], stored[f"{case}_rna_my_id"], ids)
    close(found, stored[f"{case}_output"][:, :n])
    truth = min_max(stored[f"{case}_protein_raw"])[:, :n]
    mse, cosine = flat_scores(truth, found, batch_size=2)
    assert mse == pytest.approx(float(stored[f"{case}_test_mse"]), abs=2e-5, rel=2e-5)
    assert cosine == pytest.approx(float(stored[f"{case}_test_cosine"]), abs=2e-5)


def test_a_batch_of_one_keeps_its_axis(model: Any, stored: Any) -> None:
    matching = [c for c in CASES if np.abs(stored[f"{c}_output"][0] - stored["single_cell_output"]).max() < 1e-4]
    assert len(matching) == 1
    case = matching[0]
    found = model.predict(
        stored[f"{case}_rna_raw"][:1], stored[f"{case}_rna_my_id"], stored[f"{case}_protein_my_id"][:40]
    )
    close(found, stored["single_cell_output"][None, : found.shape[1]])


def test_attention_and_its_features(model: Any, stored: Any) -> None:
    inputs, projection = torch.tensor(stored["kernel_in"]), torch.tensor(stored["kernel_proj"])
    close(query_features(inputs, projection), stored["kernel_q"])
    close(key_features(inputs, projection), stored["kernel_k"])
    with model.inference() as network:
        found = network.encoder[0].attention(torch.tensor(stored["attn_in"]), torch.tensor(stored["attn_mask"]))
    close(found, stored["attn_out"])


def test_the_pickled_module_holds_the_same_tensors(folder: Path) -> None:
    plain, pickled = (read_tensors(folder / name) for name in ("state_dict.pt", "whole_module_pickle.pt"))
    assert len(plain) == 152
    assert plain.keys() == pickled.keys()
    assert all(torch.equal(plain[name], pickled[name]) for name in plain)


def test_a_folder_with_both_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"2 scTranslator checkpoints: state_dict\.pt, whole_module_pickle\.pt"):
        sclm.load(folder)
