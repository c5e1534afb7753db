"""Shares that come when the output is there already: on a file of fewer shards than shares, or started twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from sclm.calls import run
from sclm.models.baselines.mean import MeanProfile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import anndata

pytestmark = pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")


@pytest.fixture(scope="module")
def folder(
    simulate: Callable[..., anndata.AnnData], reference: anndata.AnnData, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Cells of one shard and a reference."""
    folder = tmp_path_factory.mktemp("late")
    query = simulate(120, seed=2)
    query.write_h5ad(folder / "query.h5ad")
    query.write_zarr(folder / "query.zarr")
    reference.write_h5ad(folder / "reference.h5ad")
    return folder


def arguments(folder: Path) -> dict[str, Any]:
    return {"reference": str(folder / "reference.h5ad"), "label_key": "cell_type", "model": "mean"}


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_a_share_that_comes_late_does_nothing(
    suffix: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    query, out = folder / f"query{suffix}", tmp_path / f"out{suffix}"
    given = arguments(folder)
    assert run("annotate", query, out, given, shard="1/2")["shards"]["of"] == 1
    (stamp,) = [entry.stat().st_mtime_ns for entry in tmp_path.iterdir()]
    with monkeypatch.context() as patch:
        patch.setattr(MeanProfile, "fit", lambda *a, **k: pytest.fail("trained again"))
        for overwrite in (False, True):
            late = run("annotate", query, out, given, shard="2/2", overwrite=overwrite)
            assert (late["output"], late["shards"], late["n_cells"]) == (str(out), {"of": 1, "done": 1}, 120)
        with pytest.raises(FileExistsError, match="is there already"):
            run("annotate", query, out, {**given, "min_confidence": 0.2}, shard="2/2")
        with pytest.raises(FileExistsError, match="is there already"):
            run("annotate", query, out, given)
    assert [entry.stat().st_mtime_ns for entry in tmp_path.iterdir()] == [stamp]
    # What another tool makes of the output is no output of that call.
    run("pathways", out, tmp_path / f"more{suffix}", {"min_genes": 1})
    with pytest.raises(FileExistsError, match="is there already"):
        run("annotate", query, tmp_path / f"more{suffix}", given, shard="2/2")


def test_a_share_that_is_overtaken_while_it_trains_leaves_no_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, out = arguments(folder), tmp_path / "out.h5ad"
    real, first = MeanProfile.fit, []

    def overtaken(self: Any, *args: Any, **options: Any) -> Any:
        if not first:
            first.append(True)
            run("annotate", folder / "query.h5ad", out, given, shard="1/2")
        return real(self, *args, **options)

    monkeypatch.setattr(MeanProfile, "fit", overtaken)
    late = run("annotate", folder / "query.h5ad", out, given, shard="2/2")
    assert (late["output"], late["shards"]) == (str(out), {"of": 1, "done": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["out.h5ad"]
