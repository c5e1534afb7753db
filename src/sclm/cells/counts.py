"""Are these raw counts?  And if they are not, what are they?

The check names the kind of values found, one of them, and where it stands, so that a user can repair the input at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numba
import numpy as np
import scipy.sparse as sp

from sclm.cells.kernels import per_cell

if TYPE_CHECKING:
    from collections.abc import Sequence

_CHUNK = 1 << 18  # values a thread scans at a time
_LOOK = 256  # rows looked at for the kind of values that are not counts
_MAX_DIVISOR = 20  # largest smallest-count of a cell that the inversion tries


class CountReport(NamedTuple):
    """What a matrix holds.

    Attributes
    ----------
    kind
        ``"counts"``, ``"log1p"``, ``"scaled"``, ``"negative"``, ``"nan"`` (missing or infinite) or ``"non-integer"``.
    value, row, column
        The first value that is no raw count, and its place; ``None`` for counts.
    detail
        What the kind was told by, in words; empty for counts.
    """

    kind: str
    value: float | None = None
    row: int | None = None
    column: int | None = None
    detail: str = ""


@per_cell
def _first_offenders(values: np.ndarray, chunk: int) -> np.ndarray:
    # first position of a non-finite, a negative and a fractional value in each chunk; values.size where there is none
    size = values.size
    n_chunks = (size + chunk - 1) // chunk
    first = np.full((n_chunks, 3), size, np.int64)
    for k in numba.prange(n_chunks):
        part = values[k * chunk : (k + 1) * chunk]
        others = 0
        for i in range(part.size):  # in vector instructions; usually there is nothing else
            others += not (part[i] >= 0 and part[i] == np.int32(part[i]))
        if others == 0:
            continue
        for i in range(k * chunk, k * chunk + part.size):
            x = values[i]
            if not np.isfinite(x):
                first[k, 0] = min(first[k, 0], i)
            elif x < 0:
                first[k, 1] = min(first[k, 1], i)
            elif abs(x - np.rint(x)) > min(0.01, 1e-6 * max(1.0, x)):
                first[k, 2] = min(first[k, 2], i)
    return first


def _scan(values: np.ndarray) -> tuple[int, int, int]:
    """First positions of a non-finite, a negative and a fractional value; -1 where there is none."""
    if values.size == 0 or values.dtype.kind in "bu":
        return -1, -1, -1
    if values.dtype.kind == "i":
        low = int(values.argmin())
        return -1, low if values[low] < 0 else -1, -1
    if values.dtype.kind != "f":
        msg = f"counts must be numbers, found dtype {values.dtype}."
        raise TypeError(msg)
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float64)
    first = _first_offenders(values.view(values.dtype.newbyteorder("=")), _CHUNK).min(axis=0)
    return tuple(int(i) if i < values.size else -1 for i in first)  # type: ignore[return-value]


def _flat_values(matrix: Any) -> np.ndarray:
    if sp.issparse(matrix):
        return matrix.data
    values = np.asarray(matrix)
    return values.ravel() if values.flags.c_contiguous or not values.flags.f_contiguous else values.T.ravel()


def _place(matrix: Any, position: int) -> tuple[int, int]:
    """Row and column of the value at `position` of :func:`_flat_values`."""
    if sp.issparse(matrix):
        major = int(np.searchsorted(matrix.indptr, position, side="right")) - 1
        minor = int(matrix.indices[position])
        return (major, minor) if matrix.format == "csr" else (minor, major)
    n_rows, n_columns = matrix.shape
    if matrix.flags.c_contiguous or not matrix.flags.f_contiguous:
        return divmod(position, n_columns)
    column, row = divmod(position, n_rows)
    return row, column


def inspect_counts(matrix: Any) -> CountReport:
    """Tell raw counts from log-normalised, scaled and other values.

    Parameters
    ----------
    matrix
        (n_cells, n_genes): CSR, CSC or a dense array, any real dtype.  Every stored value is looked at.

    Returns
    -------
    The kind and the first offending value.  Counts are finite, not negative and whole; a deviation of 1e-6 of the value
    (at most 0.01) passes as rounding noise.
    """
    if sp.issparse(matrix) and matrix.format not in ("csr", "csc"):
        matrix = matrix.tocsr()
    elif not sp.issparse(matrix):
        matrix = np.asarray(matrix)
    values = _flat_values(matrix)
    missing, negative, fractional = _scan(values)
    for position, kind in ((missing, "nan"), (negative, "negative"), (fractional, "non-integer")):
        if position < 0:
            continue
        detail = {"nan": "missing or infinite values", "negative": "", "non-integer": ""}[kind]
        row, column = _place(matrix, position)
        if kind != "nan":
            rows = _rows_around(matrix, row)
            kind, detail = _kind_of_negative(rows) if kind == "negative" else _kind_of_fractional(rows)
        return CountReport(kind, float(values[position]), row, column, detail)
    return CountReport("counts")


def _rows_around(matrix: Any, row: int) -> sp.csr_matrix:
    """Some rows, the offending one first, as CSR float64 without zeros."""
    n_rows = matrix.shape[0]
    picked = np.unique(np.linspace(0, n_rows - 1, min(n_rows, _LOOK)).astype(np.int64))
    picked = np.concatenate([[row], picked[picked != row]])
    rows = sp.csr_matrix(matrix[picked], dtype=np.float64)
    rows.eliminate_zeros()
    return rows


def _kind_of_negative(rows: sp.csr_matrix) -> tuple[str, str]:
    dense = rows.toarray()  # (<= 257, n_genes)
    spread = dense.std(axis=0)
    varying = spread > 0
    if dense.shape[0] >= 3 and varying.any():
        centred = np.abs(dense.mean(axis=0))[varying] < 0.35 * spread[varying]
        if centred.mean() > 0.5:
            return "scaled", "scaled: negative values, and genes have means near 0"
    return "negative", "residuals, corrected or otherwise transformed: there are negative values"


def _common_total(totals: np.ndarray) -> float | None:
    totals = totals[totals > 0]
    if totals.size < 2:
        return None
    middle = float(np.median(totals))
    return middle if np.mean(np.abs(totals - middle) <= 2e-3 * middle) >= 0.9 else None


def _kind_of_fractional(rows: sp.csr_matrix) -> tuple[str, str]:
    values = rows.data
    if np.abs(values - np.rint(values)).max() <= 0.01:
        return "non-integer", "counts with rounding noise: all are within 0.01 of a whole number, np.rint repairs them"
    fractions = np.bincount(
        np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr)),
        np.abs(values - np.rint(values)) > 1e-6,
        rows.shape[0],
    )
    whole = np.mean(fractions[np.diff(rows.indptr) > 0] == 0)
    if whole >= 0.05:
        return "non-integer", f"mixed: {whole:.0%} of the rows looked at hold whole counts, the others do not"
    # a transformation moves all values: a few fractions among counts are something else
    if (
        np.abs(values - np.rint(values)) > 1e-6
    ).mean() > 0.5 and values.max() <= 20:  # log1p(4.8e8): above, no logarithm of counts
        original = rows.copy()
        original.data = np.expm1(values)
        total = _common_total(np.asarray(original.sum(axis=1)).ravel())
        if total is not None:
            return "log1p", f"log1p-normalised (each row's expm1 sums to {total:,.6g})"
        few = rows[: min(8, rows.shape[0])]
        units, _ = _invert(few)
        if units[np.diff(few.indptr) >= 3].size and (units[np.diff(few.indptr) >= 3] > 0).all():
            return "log1p", "log1p-normalised (each row's expm1 is a multiple of one unit)"
        if values.min() < 1 and values.max() <= 15:
            return "log1p", "log-transformed (small values, some below 1)"
    total = _common_total(np.asarray(rows.sum(axis=1)).ravel())
    if total is not None:
        return "non-integer", f"normalised without a logarithm (each row sums to {total:,.6g}), as TPM or CPM"
    return "non-integer", "corrected, normalised or otherwise transformed (ambient RNA removal, TPM, denoising)"


def describe(
    report: CountReport,
    slot: str,
    genes: Sequence[str] | np.ndarray | None = None,
    hint: str = "",
    rows: Sequence[int] | np.ndarray | None = None,
) -> str:
    """Sentences for a report that is not ``"counts"``: the slot, the value, its place, the kind and what to do."""
    place = _named_place(report.row or 0, report.column or 0, genes, rows)
    found = f"{report.value:.4g}"
    if report.kind == "non-integer" and "." not in found:
        found = f"{report.value:.9g}"  # 2126.4 is not to be shown as 2126
    text = f"{slot} must hold raw integer counts, found {found} in {place}: "
    text += f"there are {report.detail}." if report.kind == "nan" else f"the values look {report.detail}."
    advice = hint if hint else "Pass layer= naming a raw-count layer"
    if report.kind == "log1p":
        return f"{text} {advice}, or try invert_log1p=True, which inverts it where that is exact."
    return f"{text} {advice}."


def require_csr(counts: Any) -> None:
    """Raise unless `counts` is CSR with finite values that are not negative: what the encodings walk row by row."""
    if not sp.issparse(counts) or counts.format != "csr":
        found = f"a {counts.format.upper()} matrix" if sp.issparse(counts) else type(counts).__name__
        msg = f"counts must be a CSR matrix (n_cells, n_genes), found {found}. Convert it with scipy.sparse.csr_matrix."
        raise TypeError(msg)
    wrong = np.flatnonzero(~(np.isfinite(counts.data) & (counts.data >= 0)))
    if wrong.size:
        row = int(np.searchsorted(counts.indptr, wrong[0], side="right")) - 1
        msg = f"counts must be finite and not negative, found {float(counts.data[wrong[0]]):.4g} in row {row}."
        raise ValueError(msg)


def require_counts(
    matrix: Any,
    slot: str = "adata.X",
    *,
    genes: Sequence[str] | np.ndarray | None = None,
    rows: Sequence[int] | np.ndarray | None = None,
    hint: str = "",
) -> None:
    """Raise a ValueError that explains what is wrong unless `matrix` holds raw counts.

    Parameters
    ----------
    matrix
        (n_cells, n_genes): CSR, CSC or dense.
    slot
        Where the matrix was found, for the message.
    genes
        Names of the columns, for the message.
    rows
        Row numbers within the slot of the matrix's rows, by default 0, 1, …
    hint
        Advice that replaces "Pass layer= naming a raw-count layer".
    """
    report = inspect_counts(matrix)
    if report.kind != "counts":
        raise ValueError(describe(report, slot, genes, hint, rows))


def _named_place(
    row: int, column: int, genes: Sequence[str] | np.ndarray | None, rows: Sequence[int] | np.ndarray | None
) -> str:
    number = row if rows is None else int(rows[row])
    return f"row {number}" + (f" (gene {genes[column]})" if genes is not None else "")


@per_cell
def _invert_rows(data: np.ndarray, indptr: np.ndarray, max_divisor: int, counts: np.ndarray) -> tuple:
    n = indptr.size - 1
    units = np.zeros(n, np.float64)  # size of one count; 0: an empty row; -1: not counts
    worst = np.zeros(n, np.int64)  # position of the first value that is no multiple
    for i in numba.prange(n):
        start, stop = indptr[i], indptr[i + 1]
        smallest = np.inf
        for j in range(start, stop):
            if data[j] > 0:
                smallest = min(smallest, np.expm1(np.float64(data[j])))
        if smallest == np.inf:
            for j in range(start, stop):
                counts[j] = 0
            continue
        units[i] = -1.0
        for divisor in range(1, max_divisor + 1):
            unit = smallest / divisor
            # small counts give the unit precisely, large ones are then tested against it
            above, below = 0.0, 0.0
            fits = True
            for j in range(start, stop):
                x = np.expm1(np.float64(data[j]))
                c = np.rint(x / unit)
                if c <= 32:
                    above += x * c
                    below += c * c
            unit = above / below
            for j in range(start, stop):
                x = np.expm1(np.float64(data[j])) / unit
                c = np.rint(x)
                if abs(x - c) > min(1e-3 * max(c, 1.0), 0.1):
                    fits = False
                    if divisor == 1:
                        worst[i] = j
                    break
                counts[j] = c
            if fits:
                units[i] = unit
                break
    return units, worst


def _invert(matrix: sp.csr_matrix) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    counts = np.zeros(matrix.data.size, np.float32)
    units, worst = _invert_rows(matrix.data, matrix.indptr, _MAX_DIVISOR, counts)
    return units, (counts, worst)


def invert_log1p(
    matrix: sp.csr_matrix,
    slot: str = "adata.X",
    *,
    genes: Sequence[str] | np.ndarray | None = None,
    rows: Sequence[int] | np.ndarray | None = None,
) -> sp.csr_matrix:
    r"""Counts from log-normalised values, only where the inversion is exact.

    In log-normalised data :math:`e^{x_{ig}} - 1 = u_i\,c_{ig}` with one unit :math:`u_i` a cell and whole counts
    :math:`c_{ig}`.  The unit is the smallest such value, or that value divided by 2 … 20; each value has to be a multiple
    within 1e-3 relative (and 0.1 of a count).  The logarithm is the natural one.

    Parameters
    ----------
    matrix
        CSR (n_cells, n_genes), float32 or float64, not negative.
    slot, genes, rows
        For the message, as in :func:`require_counts`.

    Returns
    -------
    Raw counts, CSR float32, a new matrix.  A cell whose counts all share a divisor comes back divided by it: its
    values hold no more than that.

    Raises
    ------
    ValueError
        For the first row that is no multiple of a unit.
    """
    if matrix.data.dtype not in (np.float32, np.float64):
        matrix = matrix.astype(np.float64)
    missing, negative, _ = _scan(matrix.data)
    bad = missing if missing >= 0 else negative
    if bad >= 0:
        place = _named_place(*_place(matrix, bad), genes, rows)
        msg = f"{slot} cannot be inverted to raw counts, found {float(matrix.data[bad]):.4g} in {place}: log1p-normalised values are finite and not negative. Pass layer= naming a raw-count layer."
        raise ValueError(msg)
    units, (counts, worst) = _invert(matrix)
    failed = np.flatnonzero(units < 0)
    if failed.size:
        position = worst[failed[0]]
        place = _named_place(int(failed[0]), int(matrix.indices[position]), genes, rows)
        msg = (
            f"{slot} cannot be inverted to raw counts exactly: expm1 of {float(matrix.data[position]):.4g} in {place} is "
            "no whole multiple of one count within 0.1 %, as in data that were corrected, averaged or transformed with "
            "another logarithm. Pass layer= naming a raw-count layer."
        )
        raise ValueError(msg)
    return sp.csr_matrix((counts, matrix.indices.copy(), matrix.indptr.copy()), shape=matrix.shape)
