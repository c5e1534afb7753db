"""The writer: all or nothing, and what it writes survives both formats."""

from __future__ import annotations

import datetime
import enum
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from sclm import results


class Colour(enum.Enum):
    RED = "red"


def make() -> ad.AnnData:
    return ad.AnnData(np.ones((4, 3), dtype=np.float32), obs=pd.DataFrame({"old": [1, 2, 3, 4]}, index=list("abcd")))


NESTED = {
    "none": None,
    "flag": True,
    "number": 3,
    "share": 0.25,
    "text": "T/NK cell",
    "pair": (1.0, 2.0),
    "names": ["T/NK", "B"],
    "empty": [],
    "path": Path("folder") / "file",
    "colour": Colour.RED,
    "day": datetime.date(2026, 1, 2),
    "series": pd.Series(["x", "y"]),
    "inner": {"deep": {"deeper": np.float32(1.5)}},
    "table": pd.DataFrame({"a": ["x", "y"], "n": [1, 2], "c": pd.Categorical(["u", "v"])}),
    "matrix": sparse.csr_matrix(np.eye(2)),
}


@pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")
@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_what_is_written_survives(tmp_path: Path, suffix: str) -> None:
    adata = make()
    entry = results.record("annotate", params={"a": None, "b": 1}, seed=3, facts=NESTED)
    results.write(
        adata,
        "key",
        entry,
        obs={
            "label": pd.Categorical(["T/NK", "B", "B", "größe"]),
            "text": np.array(["a", "b", "c", "d"]),
            "number": pd.Categorical([1, 2, 1, 3]),
            "x": [0.1, 0.2, 0.3, 0.4],
        },
        obsm={"m": np.ones((4, 2), dtype=np.float32), "s": sparse.csr_matrix(np.eye(4))},
    )
    path = tmp_path / f"file.{suffix}"
    getattr(adata, f"write_{suffix}")(path)
    back = getattr(ad, f"read_{suffix}")(path)
    assert back.obs["label"].tolist() == ["T/NK", "B", "B", "größe"]
    assert back.obs["number"].astype(int).tolist() == [1, 2, 1, 3]
    np.testing.assert_array_equal(back.obs["x"], [0.1, 0.2, 0.3, 0.4])
    np.testing.assert_array_equal(back.obsm["m"], adata.obsm["m"])
    facts = back.uns["key"]["facts"]
    assert "none" not in facts
    assert facts["text"] == "T/NK cell"
    assert list(facts["names"]) == ["T/NK", "B"]
    assert list(facts["pair"]) == [1.0, 2.0]
    assert len(facts["empty"]) == 0
    assert facts["path"] == str(Path("folder") / "file")
    assert facts["colour"] == "red"
    assert facts["day"] == "2026-01-02"
    assert facts["inner"]["deep"]["deeper"] == 1.5
    assert facts["table"]["a"].tolist() == ["x", "y"]
    assert facts["table"]["c"].tolist() == ["u", "v"]
    assert back.uns["key"]["params"] == {"b": 1}
    assert back.uns["key"]["seed"] == 3


BAD = {
    "wrong length": ({"obs": {"x": [1, 2, 3]}}, ValueError, r"4 rows, found 3"),
    "slash in a column": ({"obs": {"a/b": [1, 2, 3, 4]}}, ValueError, "'/'"),
    "slash in a nested key": ({"uns": {"u": {"T/NK": 1}}}, TypeError, "T/NK"),
    "number as a key": ({"uns": {"u": {1: 2}}}, TypeError, "text"),
    "mixed column": ({"obs": {"x": np.array([1, "a", None, 2.0], dtype=object)}}, TypeError, "mixes"),
    "set": ({"uns": {"u": {1, 2}}}, TypeError, "set"),
    "list of dicts": ({"uns": {"u": [{"a": 1}]}}, TypeError, "mixes"),
    "layer of another shape": ({"layers": {"l": np.ones((2, 2))}}, ValueError, r"\(4, 3\)"),
    "masked array": ({"obs": {"x": np.ma.masked_array([1, 2, 3, 4], [0, 1, 0, 0])}}, TypeError, "mask"),
    "another index": ({"obs": {"x": pd.Series([1, 2, 3, 4], index=list("dcba"))}}, ValueError, "another index"),
    "one value": ({"obs": {"x": 3}}, ValueError, "one value a row"),
    "ragged": ({"uns": {"u": [[1, 2], [3]]}}, TypeError, "rectangular"),
    "dot as a key": ({"obs": {".": [1, 2, 3, 4]}}, ValueError, "name a column"),
    "intervals": ({"obs": {"x": pd.Categorical(pd.cut([1, 2, 3, 4], 2))}}, TypeError, "mixes"),
    "objects in a matrix": ({"obsm": {"m": np.array([[{}], [1], [2], [3]], dtype=object)}}, TypeError, "mixes"),
    "slash in a column of a table": (
        {"obsm": {"m": pd.DataFrame({"T/NK": [1, 2, 3, 4]}, index=list("abcd"))}},
        ValueError,
        "'/'",
    ),
    "columns of one name": (
        {"uns": {"u": pd.DataFrame(np.ones((2, 2)), columns=["a", "a"])}},
        TypeError,
        "different names",
    ),
    "unknown slot": ({"nowhere": {"a": 1}}, ValueError, "nowhere"),
}


@pytest.mark.parametrize("case", BAD)
def test_nothing_is_written_when_one_value_is_bad(case: str) -> None:
    slots, error, message = BAD[case]
    adata = make()
    good = {"obs": {"good": [1.0, 2.0, 3.0, 4.0]}}
    merged = {**good, **slots, "obs": {**good["obs"], **slots.get("obs", {})}}
    with pytest.raises(error, match=message):
        results.write(adata, "key", results.record("annotate"), **merged)
    assert list(adata.obs.columns) == ["old"]
    assert not adata.uns
    assert not adata.obsm


def test_what_was_there_is_put_back_when_assigning_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    adata = make()
    adata.obs["label"] = ["1", "2", "3", "4"]
    original = results._set

    def broken(adata: ad.AnnData, slot: str, name: str, value: object) -> None:
        if slot == "obsm" and value is not results._ABSENT:
            raise MemoryError
        original(adata, slot, name, value)

    monkeypatch.setattr(results, "_set", broken)
    with pytest.raises(MemoryError):
        results.write(
            adata,
            "key",
            results.record("annotate"),
            obs={"label": ["a", "b", "c", "d"], "new": [1, 2, 3, 4]},
            obsm={"m": np.ones((4, 1))},
        )
    assert adata.obs["label"].tolist() == ["1", "2", "3", "4"]
    assert list(adata.obs.columns) == ["old", "label"]
    assert not adata.uns


def test_none_removes_what_an_earlier_run_left() -> None:
    adata = make()
    results.write(adata, "key", results.record("annotate"), obs={"a": [1, 2, 3, 4]}, obsm={"m": np.ones((4, 1))})
    results.write(adata, "key", results.record("annotate"), obs={"a": None, "never": None}, obsm={"m": None})
    assert list(adata.obs.columns) == ["old"]
    assert not adata.obsm


def test_read_names_the_call_that_makes_it() -> None:
    adata = make()
    with pytest.raises(KeyError, match=r"Run sclm\.tl\.annotate first"):
        results.read(adata, "sclm_cell_type", "annotate")
    results.write(adata, "mine", results.record("annotate"))
    with pytest.raises(KeyError, match=r"under 'mine': pass key="):
        results.read(adata, "sclm_cell_type", "annotate")
    with pytest.raises(KeyError, match="describe"):
        results.read(adata, "mine", "describe")
