"""Families trained on several files and on two devices, from end to end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import sclm
from sclm.calls import training as calls
from sclm.cells import read_cells

if TYPE_CHECKING:
    from pathlib import Path

    import anndata as ad

QUIET: dict[str, Any] = {"progress_bar": False, "accelerator": "cpu"}
TINY: dict[str, dict[str, Any]] = {
    "scgpt": {"preset": "tiny", "width": 16, "n_layers": 1, "n_heads": 2, "max_epochs": 2, "validation_share": 0.2},
    "geneformer": {"preset": "tiny", "width": 16, "layers": 2, "max_epochs": 2, "validation_share": 0.2},
    "pgl": {"preset": "tiny", "max_epochs": 3, "width": 16, "layers": 1, "n_programmes": 2, "n_levels": 8,
            "programme_iterations": 2, "obs_keys": ["cell_type"], "validation_share": 0.2},
}  # fmt: skip
LOSS = {"scgpt": "held out loss", "geneformer": "held_out_nats_a_hidden_gene", "pgl": "held out nats a cell"}
pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Writing zarr v2 data"),  # anndata 0.12
]


def equal(a: Any, b: Any) -> None:
    found = b.arrays()
    for name, array in a.arrays().items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.fixture
def files(reference: ad.AnnData, tmp_path: Path) -> list[Path]:
    """The same cells in one file, and in two of which the second has its genes in another order."""
    paths = [tmp_path / name for name in ("whole.h5ad", "a.h5ad", "b.zarr")]
    reference.write_h5ad(paths[0])
    reference[:150].copy().write_h5ad(paths[1])
    reference[150:, ::-1].copy().write_zarr(paths[2])
    return paths


@pytest.mark.parametrize("family", ["scgpt", "geneformer"])
def test_many_files_are_one_training_set(files: list[Path], family: str) -> None:
    options = TINY[family] | QUIET | {"max_epochs": 1}
    whole = sclm.train(family, files[0], **options)
    parts = sclm.train(family, [str(files[1]), files[2]], **options)
    equal(whole, parts)
    balanced = sclm.train(family, files[1:], balance_key="cell_type", **options)
    assert any(not np.array_equal(a, balanced.arrays()[name]) for name, a in parts.arrays().items())


def test_other_families_say_that_they_take_one(files: list[Path]) -> None:
    assert sclm.train("logistic", files[1], label_key="cell_type").config.labels
    with pytest.raises(TypeError, match="'logistic' learns from one AnnData, found a list of 2"):
        sclm.train("logistic", files[1:], label_key="cell_type")


@pytest.mark.parametrize("family", ["scgpt", "pgl"])
def test_two_devices(reference: ad.AnnData, family: str) -> None:
    """As one device with the doubled batch, up to the random numbers that each device draws for itself."""
    two = {"devices": 2, "strategy": "ddp_fork", "batch_size": 16}
    a = sclm.train(family, reference, **TINY[family] | QUIET | {"batch_size": 32})
    b = sclm.train(family, reference, **TINY[family] | QUIET | two)
    losses = [float(model.card[LOSS[family]]) for model in (a, b)]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    if family == "scgpt":
        vectors = [model.embed(read_cells(reference).read(np.arange(20))) for model in (a, b)]
        cosine = (vectors[0] * vectors[1]).sum(axis=1)
        assert cosine.min() > 0.95


def test_under_torchrun_one_process_saves(toy: Any, files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "model"
    options = (
        TINY["scgpt"] | QUIET | {"devices": 2, "strategy": "ddp", "batch_size": 16, "folder": str(tmp_path / "run")}
    )

    def work() -> Any:
        result = calls.train("scgpt", files[1:], out, {"seed": 0}, options=options)
        return (
            result["n_cells"],
            calls.writes(),
            sorted(path.name for path in tmp_path.iterdir() if "part" in path.name),
        )

    (n, first, left), (m, second, _) = toy.as_torchrun(work, tmp_path)
    assert (n, m, first, second, left) == (400, 400, True, False, [])
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["best.safetensors", "fit.json", "last.ckpt"]
    assert json.loads((tmp_path / "run" / "fit.json").read_text())["batch_size"] == 32
    model = sclm.load(out)
    assert "400 cells" in model.card["data"]
    again = sclm.train("scgpt", files[1:], **options | {"devices": 1, "strategy": "auto", "batch_size": 32})
    equal(model, again)  # one process takes the finished run as it is
