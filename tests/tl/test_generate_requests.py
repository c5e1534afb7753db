"""Bad requests and arguments: each is refused before any work, and nothing is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

import sclm

if TYPE_CHECKING:
    from pathlib import Path

    from sclm.models.family import Family


def ask(**fields: Any) -> pd.DataFrame:
    return sclm.request(4, **({"cell_type": "B cell"} | fields))


@pytest.mark.parametrize(
    ("request_", "error", "match"),
    [
        pytest.param({"cell_type": ["B cell"]}, TypeError, "found dict", id="no DataFrame"),
        pytest.param(None, TypeError, "found NoneType", id="nothing"),
        pytest.param(ask(tissue="blood"), KeyError, "tissue.*fields are 'cell_type'", id="unknown field"),
        pytest.param(ask(cell_type="B cel"), ValueError, "B cell", id="unknown value"),
        pytest.param(ask(cell_type="neuron"), ValueError, "too little in common", id="unrelated term"),
        pytest.param(ask(condition="frozen"), ValueError, "'rest'", id="unknown value without ontology"),
        pytest.param(pd.DataFrame({"cell_type": []}), ValueError, "no rows", id="empty"),
        pytest.param(pd.DataFrame({"cell_type": ["B cell", None]}), ValueError, "row 1", id="missing"),
        pytest.param(pd.DataFrame({"cell_type": ["B cell", "nan"]}), ValueError, "row 1", id="missing as text"),
        pytest.param(pd.DataFrame({"cell_type": [0.5, 1.0]}), TypeError, "decimal", id="decimal numbers"),
        pytest.param(pd.DataFrame({"n_counts": [10.0, 0.0]}), ValueError, "positive", id="no counts"),
        pytest.param(pd.DataFrame({"n_counts": [10.0, np.nan]}), ValueError, "positive", id="missing counts"),
        pytest.param(pd.DataFrame({"n_counts": [10.0, -2.0]}), ValueError, "positive", id="negative counts"),
        pytest.param(pd.DataFrame({"cell_type": ["B cell"], "n_obs": [5]}), ValueError, r"like=", id="n_obs"),
        pytest.param(
            pd.DataFrame({"cell_type": ["B cell"] * 2}, index=["a", "a"]), ValueError, "ignore_index", id="same names"
        ),
    ],
)
def test_requests(request_: Any, error: type[Exception], match: str, pgl: Family, tmp_path: Path) -> None:
    with pytest.raises(error, match=match):
        sclm.tl.generate(request_, pgl, path=tmp_path / "cells.h5ad")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        pytest.param({"n_obs": 0}, "n_obs", id="zero"),
        pytest.param({"n_obs": -3}, "n_obs", id="negative"),
        pytest.param({"composition": {"B cell": 0.7, "monocyte": 0.7}, "n_obs": 4}, "sum", id="composition above 1"),
        pytest.param({"composition": {"B cell": 3, "monocyte": 3}, "n_obs": 4}, "6", id="composition of other size"),
        pytest.param({"composition": {"B cell": 1.0}, "cell_type": "B cell", "n_obs": 4}, "both", id="types twice"),
    ],
)
def test_requests_that_contradict_themselves(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        sclm.request(**arguments)


def test_a_new_combination_is_written_with_a_warning(pgl: Family, caplog: pytest.LogCaptureFixture) -> None:
    cells = sclm.tl.generate(ask(condition="stimulated"), pgl)
    assert "no training cell has" in caplog.text
    assert (cells.obs["sclm_novelty"] > 0).all()


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"seed": -1}, ValueError, "seed"),
        ({"seed": 2**64}, ValueError, "seed"),
        ({"seed": 1.5}, TypeError, "seed"),
        ({"seed": True}, TypeError, "seed"),
        ({"seed": None}, TypeError, "seed"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"batch_size": 2.0}, TypeError, "batch_size"),
        ({"guidance": -0.1}, ValueError, "guidance"),
        ({"guidance": 3.1}, ValueError, "guidance"),
        ({"guidance": np.nan}, ValueError, "guidance"),
        ({"guidance": "high"}, TypeError, "guidance"),
        ({"max_novelty": 1.1}, ValueError, "max_novelty"),
        ({"key_added": "a/b"}, ValueError, "key_added"),
        ({"device": "abacus"}, ValueError, "device"),
        ({"path": 3}, TypeError, "path"),
        ({"path": "cells.csv"}, ValueError, r"\.h5ad or \.zarr"),
        ({"path": "no/such/folder/cells.h5ad"}, FileNotFoundError, "folder"),
    ],
)
def test_arguments(options: dict[str, Any], error: type[Exception], match: str, pgl: Family, tmp_path: Path) -> None:
    with pytest.raises(error, match=match):
        sclm.tl.generate(ask(), pgl, **{"path": tmp_path / "cells.h5ad", **options})
    assert not list(tmp_path.iterdir())


def test_models(pgl: Family, reference: Any, tmp_path: Path) -> None:
    annotator = sclm.train("majority", reference, label_key="cell_type")
    with pytest.raises(TypeError, match=r"'majority' does not write cells.*'pgl'"):
        sclm.tl.generate(ask(), annotator)
    with pytest.raises(TypeError, match="'majority' does not write cells"):
        sclm.tl.generate(ask(), annotator.save(tmp_path / "majority"))
    with pytest.raises(ValueError, match=r"sclm\.train\('pgl', reference, obs_keys="):
        sclm.tl.generate(ask(), "pgl")
    with pytest.raises(FileNotFoundError, match="No model"):
        sclm.tl.generate(ask(), "no-such-model")
    with pytest.raises(TypeError, match="found int"):
        sclm.tl.generate(ask(), 3)
    with pytest.raises(ValueError, match="'pgl' does not annotate"):
        sclm.tl.annotate(reference.copy(), pgl)
    with pytest.raises(ValueError, match="'pgl' does not annotate"):
        sclm.tl.annotate(reference.copy(), "pgl", reference=reference, label_key="cell_type")


def test_foreign_parts_are_left_alone(pgl: Family, tmp_path: Path) -> None:
    folder = tmp_path / "cells.h5ad.parts"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="something else"):
        sclm.tl.generate(ask(), pgl, path=tmp_path / "cells.h5ad")
    assert [p.name for p in folder.iterdir()] == ["thesis.txt"]
