# mypy: disable-error-code="arg-type, assignment"
"""The sort behind the rank-value encoding.

A cell's values are sorted as 32-bit words, the upper bits a key that falls with the value, the lower bits the entry's
place in the row.  One pass over the upper digit of the key puts the words into buckets.  Where buckets are small, a few
rounds of compare-and-exchange between neighbours finish the sort (these run as vector instructions); else the lower
digit is sorted first, as in any radix sort.  Keys are made from a float32 product, which may be wrong in the last bits:
neighbours whose keys are too close to trust are put in order by their exact float64 quotients.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from sclm.cells.kernels import per_cell

UNSORTED = 1
NOT_POSITIVE = 2

_DIGIT = 11  # bits of the upper digit, at most: 2,048 buckets
_LOW_DIGIT = 10
_BLOCK = 64  # neighbours compared at a time
_ROUNDING = np.float32(5)  # products this many units in the last place apart may stand the wrong way round
_FEW = 20  # words in a bucket that exchanges between neighbours still sort quickly
_SMALLEST = np.uint32(0x0D800000)  # float32 bits of 2 ** -100: below, products lose digits
_INFINITE = np.uint32(0x7F800000)


@numba.njit(nogil=True, error_model="numpy", inline="never")
def _order_exactly(
    words: np.ndarray,
    low: Any,
    data: np.ndarray,
    columns: np.ndarray,
    divisor: np.ndarray,
    quotient: np.ndarray,
    spare: np.ndarray,
) -> None:
    """Sort words by decreasing quotient data / divisor, ties by place; a merge sort that knows sorted input."""
    n = words.size
    sorted_ = True
    for k in range(n):
        place = words[k] & low
        if divisor.size:
            quotient[place] = np.float64(data[place]) / divisor[columns[place]]
        else:
            quotient[place] = np.float64(data[place])
        if k:
            before = words[k - 1] & low
            if quotient[before] < quotient[place] or (quotient[before] == quotient[place] and before > place):
                sorted_ = False
    if sorted_:
        return
    # insertion within stretches of 8, then merges of doubled length
    for first in range(0, n, 8):
        for k in range(first + 1, min(n, first + 8)):
            word = words[k]
            place = word & low
            j = k
            while j > first:
                other = words[j - 1] & low
                if quotient[other] > quotient[place] or (quotient[other] == quotient[place] and other < place):
                    break
                words[j] = words[j - 1]
                j -= 1
            words[j] = word
    width = 8
    while width < n:
        for first in range(0, n, 2 * width):
            middle, end = min(n, first + width), min(n, first + 2 * width)
            a, b = first, middle
            for k in range(first, end):
                take_a = b >= end
                if a < middle and b < end:
                    x, y = words[a] & low, words[b] & low
                    take_a = quotient[x] > quotient[y] or (quotient[x] == quotient[y] and x < y)
                if take_a:
                    spare[k] = words[a]
                    a += 1
                else:
                    spare[k] = words[b]
                    b += 1
        words[:] = spare[:n]
        width *= 2


@numba.njit(nogil=True, error_model="numpy", inline="never")
def _smallest_gap(words: np.ndarray, following: np.ndarray) -> Any:
    gap = np.uint32(0xFFFFFFFF)
    for k in range(words.size):
        gap = min(gap, np.uint32(following[k] - words[k]))
    return gap


@numba.njit(nogil=True, error_model="numpy", inline="never")
def _order_close(
    words: np.ndarray,
    low: Any,
    margin: Any,
    bits: np.ndarray,
    data: np.ndarray,
    columns: np.ndarray,
    divisor: np.ndarray,
    quotient: np.ndarray,
    spare: np.ndarray,
) -> None:
    """Order exactly every stretch of words in which neighbours differ by less than `margin`."""
    n = words.size
    k = 0
    while k < n - 1:
        end = min(n - 1, k + _BLOCK)
        if _smallest_gap(words[k:end], words[k + 1 : end + 1]) >= margin:
            k = end
            continue
        while k < end:
            stop = k + 1
            while stop < n and np.uint32(words[stop] - words[stop - 1]) < margin:
                stop += 1
            pair = stop - k == 2
            if pair:  # the usual case, and mostly the products tell it
                a, b = bits[words[k] & low], bits[words[k + 1] & low]
                pair = a > b and a - b > _ROUNDING
            if stop - k > 1 and not pair:
                _order_exactly(words[k:stop], low, data, columns, divisor, quotient, spare)
            k = stop


@numba.njit(nogil=True, error_model="numpy", inline="never")
def _exchange_neighbours(
    words: np.ndarray,
    rounds: Any,
) -> None:
    """Odd-even transposition sort, 2 * rounds half-rounds; each loop becomes minimum and maximum instructions."""
    following = words[1:]
    for _ in range(rounds):
        for k in range(words.size // 2):
            a, b = words[2 * k], words[2 * k + 1]
            words[2 * k] = min(a, b)
            words[2 * k + 1] = max(a, b)
        for k in range(following.size // 2):
            a, b = following[2 * k], following[2 * k + 1]
            following[2 * k] = min(a, b)
            following[2 * k + 1] = max(a, b)


@numba.njit(nogil=True, error_model="numpy", inline="never")
def _rank_row(
    x: np.ndarray,
    columns: np.ndarray,
    divisor: np.ndarray,
    reciprocal: np.ndarray,
    tokens: np.ndarray,
    target: np.ndarray,
    value: np.ndarray,
    words: np.ndarray,
    spare: np.ndarray,
    quotient: np.ndarray,
    upper: np.ndarray,
    lower: np.ndarray,
) -> int:
    """One cell: see :func:`rank_rows`; the last arguments are scratch memory.  Returns its status."""
    n = x.size
    one = np.uint32(1)
    bits = value.view(np.uint32)
    falling = 0
    for k in range(1, n):
        falling += columns[k] <= columns[k - 1]
    if falling:
        return UNSORTED

    # ---- values, and the range of their bits (positive floats sort as their bits do)
    if divisor.size:
        for k in range(n):
            value[k] = x[k] * reciprocal[columns[k]]
    else:
        for k in range(n):
            value[k] = x[k]
    least = np.uint32(0xFFFFFFFF)
    most = np.uint32(0)
    for k in range(n):
        least = min(least, bits[k])
        most = max(most, bits[k])
    exact = divisor.size == 0
    untrusted = least == 0 or most >= _INFINITE or (not exact and least < _SMALLEST)
    if untrusted:
        for k in range(n):
            if not (x[k] > 0 and x[k] < np.inf):
                return NOT_POSITIVE

    # ---- keys: the top bits of the range, as many as fit beside the place
    place_bits = np.uint32(0)
    while (1 << place_bits) < n:
        place_bits += one
    low = np.uint32((np.uint32(1) << place_bits) - one)
    high_bits = np.uint32(min(max(place_bits, 5), _DIGIT))
    low_bits = np.uint32(min(_LOW_DIGIT, 32 - place_bits - high_bits))
    whole = exact
    top = np.float32(0)
    if exact:  # raw counts up to 2,047: the count itself is the key
        fractions = 0
        for k in range(n):
            fractions += x[k] != np.rint(x[k])
            if bits[k] == most:
                top = x[k]
        whole = fractions == 0 and top < (1 << _DIGIT)
    close = np.uint32(0)  # keys this near may stand the wrong way round
    if whole:
        high_bits = np.uint32(_DIGIT)
        low_bits = np.uint32(0)
        largest = np.uint32(top)
        for k in range(n):
            words[k] = ((largest - np.uint32(x[k])) << place_bits) | np.uint32(k)
    else:
        # the range is stretched over all keys, so that buckets are small; rounding never turns an order round
        n_keys = np.float32(1 << (high_bits + low_bits))
        stretch = min(np.float32(1), n_keys * np.float32(1 - 1e-6) / max(np.float32(most - least), np.float32(1)))
        for k in range(n):
            words[k] = (np.uint32(np.float32(most - bits[k]) * stretch) << place_bits) | np.uint32(k)
        if not exact:
            close = np.uint32(_ROUNDING * stretch + np.float32(0.5)) + one

    # ---- buckets of the upper digit
    upper_shift = place_bits + low_bits
    n_buckets = 1 << high_bits
    if whole:
        n_buckets = int(top)
    upper[:n_buckets] = 0
    for k in range(n):
        upper[words[k] >> upper_shift] += one
    fullest = np.uint32(0)
    for bucket in range(n_buckets):
        fullest = max(fullest, upper[bucket])
    total = np.uint32(0)
    last = n_buckets
    asked = np.uint32(target.size)
    half = n_buckets // 2
    behind = np.uint32(0)
    for bucket in range(half):
        behind += upper[bucket]
    for bucket in range(half):  # two running sums, since one would wait for itself
        size = upper[bucket]
        upper[bucket] = total
        total += size
        size = upper[half + bucket]
        upper[half + bucket] = behind
        behind += size
    if n_buckets % 2:
        upper[n_buckets - 1] = behind
    if asked < n and not untrusted:
        last = 0
        while last < n_buckets and upper[last] < asked:
            last += 1
        kept = np.uint32(0)
        for k in range(n):
            word = words[k]
            words[kept] = word  # without a branch: it would be a coin toss
            kept += np.uint32((word >> upper_shift) <= last)
        n = np.int64(kept)

    # ---- sort by the lower digit where the upper one leaves much to do, then by the upper digit
    crowded = not whole and fullest > _FEW
    if crowded:
        lower[:] = 0
        mask = np.uint32((np.uint32(1) << low_bits) - one)
        for k in range(n):
            lower[(words[k] >> place_bits) & mask] += one
        total = np.uint32(0)
        for bucket in range(1 << low_bits):
            size = lower[bucket]
            lower[bucket] = total
            total += size
        for k in range(n):
            word = words[k]
            bucket = (word >> place_bits) & mask
            place = lower[bucket]
            lower[bucket] = place + one
            spare[place] = word
        words[:n] = spare[:n]
    for k in range(n):
        word = words[k]
        bucket = word >> upper_shift
        place = upper[bucket]
        upper[bucket] = place + one
        spare[place] = word
    if not whole and not crowded:
        _exchange_neighbours(spare[:n], int(fullest) // 2 + 1)

    # ---- stretches of keys too close to trust
    if untrusted:
        _order_exactly(spare[:n], low, x, columns, divisor, quotient, words)
    elif not whole:
        margin = np.uint32((close + one) << place_bits)
        _order_close(spare[:n], low, margin, bits, x, columns, divisor, quotient, words)

    if tokens.size:
        for k in range(target.size):
            target[k] = tokens[columns[spare[k] & low]]
    else:
        for k in range(target.size):
            target[k] = columns[spare[k] & low]
    return 0


@per_cell
def rank_rows(
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    divisor: np.ndarray,
    reciprocal: np.ndarray,
    tokens: np.ndarray,
    bounds: np.ndarray,
    longest: int,
    offsets: np.ndarray,
    out: np.ndarray,
) -> Any:
    """Write the tokens of each row by decreasing data / divisor, ties by column.

    Parameters
    ----------
    data, indices, indptr
        CSR: float32, uint32, int64.
    divisor, reciprocal
        (n_genes,) float64 and float32, reciprocal = 1 / divisor up to a power of two; empty: all one.
    tokens
        (n_genes,) written for each column; empty: the column.
    bounds
        Rows of each chunk; a chunk is worked on by one thread.
    longest
        Most entries in a row.
    offsets, out
        Where each row's tokens go, and how many.

    Returns
    -------
    One status a chunk: 0, or the sum of ``UNSORTED`` and ``NOT_POSITIVE``; `out` is then not complete.
    """
    n_chunks = bounds.size - 1
    status = np.zeros(n_chunks, np.int64)
    for chunk in numba.prange(n_chunks):
        value = np.empty(longest, np.float32)
        words = np.empty(longest, np.uint32)
        spare = np.empty(longest, np.uint32)
        quotient = np.empty(longest, np.float64)
        upper = np.empty(1 << _DIGIT, np.uint32)
        lower = np.empty(1 << _LOW_DIGIT, np.uint32)
        for row in range(bounds[chunk], bounds[chunk + 1]):
            x = data[indptr[row] : indptr[row + 1]]
            columns = indices[indptr[row] : indptr[row + 1]]
            target = out[offsets[row] : offsets[row + 1]]
            if x.size:
                status[chunk] |= _rank_row(
                    x,
                    columns,
                    divisor,
                    reciprocal,
                    tokens,
                    target,
                    value,
                    words,
                    spare,
                    quotient,
                    upper,
                    lower,
                )
    return status
