"""One table: several maps of one section beside two that know nothing of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sclm.metrics.mapping.fractions import aupr, finite_rows, fraction_pair, jsd, pearson_by_spot, pearson_by_type, rmse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import ArrayLike

ORACLE = "mean composition (oracle)"
UNIFORM = "uniform"


def compare(
    truth: ArrayLike, estimates: Mapping[str, ArrayLike], categories: Sequence[str] | None = None
) -> pd.DataFrame:
    """Score several estimates of the fractions of one section, beside two baselines.

    The baselines are *mean composition (oracle)*: every spot gets the mean of the true fractions, which no method knows,
    so that a map with a higher divergence tells less than the section's composition does; and *uniform*: every spot gets
    1 / K of each type.

    Parameters
    ----------
    truth
        (n, K) true fractions, rows sum to 1: an array or a DataFrame.
    estimates
        Name of a method → (n, K) estimated fractions of the same spots and cell types. DataFrames are brought to the
        order of `categories` by their column names, and to that of the spots of `truth` where that is a DataFrame too;
        arrays must have that order already.
    categories
        Names of the K types in the order of the columns of arrays, for one more column a type; by default, those of
        `truth` where it is a DataFrame.

    Returns
    -------
    pandas.DataFrame
        One row a method, the baselines last: `method`, `jsd`, `rmse`, `pearson_by_type` (mean over the types whose true
        fraction varies), `pearson_by_spot` (mean over the spots that do not truly hold all types equally), `aupr` (see
        the functions of these names); `n_spots` scored, `n_missing` left out because the truth or the estimate has a
        missing value there, `n_types` that enter `pearson_by_type`; with names of types, `pearson_by_type: <type>` for
        each. A method that leaves out spots is scored on fewer: look at `n_missing`. The baselines are scored on all
        spots with a truth.

    Raises
    ------
    KeyError
        If a DataFrame lacks a type or a spot.
    ValueError
        If there is no estimate, a name is one of the baselines', shapes differ, a value is negative, or rows do not sum
        to 1.

    Examples
    --------
    >>> truth = [[0.8, 0.2], [0.1, 0.9], [0.4, 0.6]]
    >>> table = compare(truth, {"nnls": [[0.7, 0.3], [0.0, 1.0], [0.5, 0.5]]}, ["T cell", "B cell"])
    >>> table[["method", "jsd", "pearson_by_type"]].round(3)
                          method    jsd  pearson_by_type
    0                       nnls  0.023            0.948
    1  mean composition (oracle)  0.072            0.000
    2                    uniform  0.076            0.000
    """
    import pandas as pd

    if not estimates:
        raise ValueError("estimates must hold at least one method, found none.")
    taken = sorted({ORACLE, UNIFORM} & set(estimates))
    if taken:
        raise ValueError(f"estimates must not be named as a baseline, found {', '.join(map(repr, taken))}. Rename it.")
    spots = truth.index if isinstance(truth, pd.DataFrame) else None
    if categories is None and isinstance(truth, pd.DataFrame):
        categories = list(truth.columns)
    names = None if categories is None else [str(c) for c in categories]
    known = _array(truth, "truth", categories, spots)
    if names is not None and known.ndim == 2 and known.shape[1] != len(names):
        raise ValueError(f"categories must name the {known.shape[1]} columns of truth, found {len(names)} names.")

    rows = []
    for method, estimate in estimates.items():
        label = f"estimates[{method!r}]"
        p, q = fraction_pair(known, _array(estimate, label, categories, spots), label)
        rows.append(_row(str(method), p, q, names))
    p = fraction_pair(known, known)[0]
    here = finite_rows(p)
    mean = p[here].mean(axis=0) if here.any() else np.full(p.shape[1], np.nan)
    for method, same in ((ORACLE, mean), (UNIFORM, np.full(p.shape[1], 1 / p.shape[1]))):
        rows.append(_row(method, p, np.tile(same, (len(p), 1)), names))
    return pd.DataFrame(rows)


def _array(values: Any, name: str, categories: Sequence[str] | None, spots: pd.Index | None) -> np.ndarray:
    """Values of a DataFrame in the order of the truth; arrays as they are."""
    import pandas as pd

    if not isinstance(values, pd.DataFrame):
        return np.asarray(values, dtype=np.float64)
    for wanted, there, what in ((categories, values.columns, "cell types"), (spots, values.index, "spots")):
        if wanted is None:
            continue
        lacking = [w for w in wanted if w not in there]
        if lacking:
            raise KeyError(f"{name} must hold all {len(wanted):,} {what} of the truth, found no {lacking[0]!r}.")
        if not there.is_unique:
            raise ValueError(f"{name} must name each of its {what} once, found repeated names.")
        values = values[list(wanted)] if what == "cell types" else values.loc[list(wanted)]
    return values.to_numpy(dtype=np.float64)


def _row(method: str, p: np.ndarray, q: np.ndarray, names: list[str] | None) -> dict[str, Any]:
    by_type, by_spot = pearson_by_type(p, q), pearson_by_spot(p, q)
    n = int((finite_rows(p) & finite_rows(q)).sum())
    row: dict[str, Any] = {
        "method": method,
        "jsd": jsd(p, q),
        "rmse": rmse(p, q),
        "pearson_by_type": _mean(by_type),
        "pearson_by_spot": _mean(by_spot),
        "aupr": aupr(p, q),
        "n_spots": n,
        "n_missing": len(p) - n,
        "n_types": int(np.isfinite(by_type).sum()),
    }
    for name, value in zip(names or (), by_type, strict=False):
        row[f"pearson_by_type: {name}"] = float(value)
    return row


def _mean(values: np.ndarray) -> float:
    """Mean of what is not NaN; NaN where all are."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")
