"""The table of several maps, and its baselines."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from sclm.metrics import mapping

TYPES = ["B", "T/NK", "mono"]


@pytest.fixture
def truth() -> np.ndarray:
    return np.random.default_rng(0).dirichlet([0.5, 1, 2], 60)


def test_rows_are_the_functions(truth: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    good, bad = 0.8 * truth + 0.2 * rng.dirichlet(np.ones(3), 60), rng.dirichlet(np.ones(3), 60)
    bad[:4] = np.nan
    table = mapping.compare(truth, {"good": good, "bad": bad}, TYPES)
    assert list(table["method"]) == ["good", "bad", "mean composition (oracle)", "uniform"]
    for row, estimate in enumerate([good, bad, np.tile(truth.mean(0), (60, 1)), np.full((60, 3), 1 / 3)]):
        for name in ("jsd", "rmse", "aupr"):
            assert table[name][row] == pytest.approx(getattr(mapping, name)(truth, estimate))
        by_type = mapping.pearson_by_type(truth, estimate)
        assert table["pearson_by_type"][row] == pytest.approx(by_type.mean())
        np.testing.assert_allclose(table.loc[row, [f"pearson_by_type: {t}" for t in TYPES]].astype(float), by_type)
        assert table["pearson_by_spot"][row] == pytest.approx(np.nanmean(mapping.pearson_by_spot(truth, estimate)))
    assert list(table["n_spots"]) == [60, 56, 60, 60]
    assert list(table["n_missing"]) == [0, 4, 0, 0]
    assert (table["n_types"] == 3).all()
    assert table["jsd"][0] < table["jsd"][2] < table["jsd"][3]
    assert (table["pearson_by_type"][2:] == 0).all()
    assert "pearson_by_type: B" not in mapping.compare(truth, {"good": good})


def test_types_without_variance_are_told(truth: np.ndarray) -> None:
    absent = np.column_stack([truth, np.zeros(60)])
    table = mapping.compare(absent, {"same": absent})
    assert table["n_types"][0] == 3
    assert table["pearson_by_type"][0] == pytest.approx(1)


def test_empty_spots_of_the_truth(truth: np.ndarray) -> None:
    truth = truth.copy()
    truth[[0, 5]] = np.nan
    table = mapping.compare(truth, {"same": np.nan_to_num(truth, nan=1 / 3)})
    assert (table["n_spots"] == 58).all()
    assert (table["n_missing"] == 2).all()
    assert table["jsd"][0] == 0
    nothing = mapping.compare(np.full((3, 2), np.nan), {"a": np.full((3, 2), 0.5)})
    assert (nothing["n_spots"] == 0).all()
    assert nothing["jsd"].isna().all()


def test_tables_are_brought_to_one_order(truth: np.ndarray) -> None:
    spots = [f"s{i}" for i in range(60)]
    known = pd.DataFrame(truth, index=spots, columns=TYPES)
    shuffled = known.iloc[::-1, [2, 0, 1]].assign(extra=0.0)
    table = mapping.compare(known, {"same": shuffled})
    assert table["jsd"][0] == 0
    assert "pearson_by_type: T/NK" in table
    # Arrays have the truth's order.
    assert mapping.compare(known, {"same": truth})["jsd"][0] == 0
    assert mapping.compare(truth, {"same": known[TYPES[::-1]]}, TYPES)["jsd"][0] == 0
    with pytest.raises(KeyError, match=r"estimates\['m'\] must hold all 3 cell types of the truth, found no 'B'"):
        mapping.compare(known, {"m": shuffled.drop(columns="B")})
    with pytest.raises(KeyError, match="must hold all 60 spots of the truth, found no 's0'"):
        mapping.compare(known, {"m": known.iloc[1:]})
    with pytest.raises(ValueError, match="must name each of its spots once"):
        mapping.compare(known, {"m": pd.concat([known, known])})


def test_what_is_refused(truth: np.ndarray) -> None:
    with pytest.raises(ValueError, match="at least one method, found none"):
        mapping.compare(truth, {})
    with pytest.raises(ValueError, match="must not be named as a baseline, found 'uniform'"):
        mapping.compare(truth, {"uniform": truth})
    with pytest.raises(ValueError, match=r"truth and estimates\['a'\] must be of one shape"):
        mapping.compare(truth, {"a": truth[:5]})
    with pytest.raises(ValueError, match="must name the 3 columns of truth, found 2 names"):
        mapping.compare(truth, {"a": truth}, TYPES[:2])
    with pytest.raises(ValueError, match=r"estimates\['a'\] must hold fractions that sum to 1"):
        mapping.compare(truth, {"a": truth * 2})
