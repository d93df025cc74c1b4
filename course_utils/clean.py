"""What looks wrong in a set: duplicates, blank images, outliers. Masks only; what to do about them is a decision.

Rows are an ImageSet, a tensor or an array whose first axis is N (whatever follows is flattened); tables are arrays,
tensors or pandas frames (N, D) of numbers, where NaN means missing. Everything is computed in float64 on the CPU.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .data import ImageSet

# --- Duplicates and blanks -------------------------------------------------------------------------------------------


def duplicate_groups(rows: Any, *, distance: float = 0.0) -> Tensor:
    """Return for each row the index of the first row of its group of duplicates: (N,) int64.

    rows: ImageSet, tensor or array, N first. Two rows are linked when their Euclidean distance is at most `distance`,
    in the units of the rows (grey levels 0..255 for images); groups are the connected components of these links. So a
    group may be a chain whose ends lie further apart than `distance`: look at large groups before you believe them.
    A distance of 0 finds equal rows by hash, in time ∝ N; otherwise all pairs are compared, block by block.

    Raises ValueError for rows that are not numbers, NaN or infinity (naming the row), rows without a value, a negative
    distance.

    >>> duplicate_groups(torch.tensor([[0.0], [5.0], [0.0], [0.4]])).tolist()
    [0, 1, 0, 3]
    >>> duplicate_groups(torch.tensor([[0.0], [5.0], [0.0], [0.4]]), distance=0.5).tolist()
    [0, 1, 0, 0]

    Taught in: 02_cleaning
    """
    if isinstance(distance, bool) or not (distance >= 0 and math.isfinite(distance)):
        raise ValueError(f"distance must be a finite number of at least 0, got {distance}")
    table = _flat(rows)
    first: dict[bytes, int] = {}
    equal = np.array([first.setdefault(row.tobytes(), i) for i, row in enumerate(table)], dtype=np.int64)
    if distance == 0 or len(first) < 2:
        return torch.from_numpy(equal)
    different = np.fromiter(first.values(), np.int64)  # one of each, in the order of the rows
    near = _components(table[different], float(distance))
    place = np.zeros(len(table), dtype=np.int64)
    place[different] = np.arange(len(different))
    return torch.from_numpy(different[near[place[equal]]])


def duplicates(rows: Any, *, distance: float = 0.0) -> Tensor:
    """Return a mask (N,): True for all but the first row of each group of `duplicate_groups`.

    rows, distance and errors: as there. ``part.select(~duplicates(part))`` keeps one row of each group.

    >>> duplicates(torch.tensor([[7, 7], [1, 2], [7, 7]])).tolist()
    [False, False, True]

    Taught in: 02_cleaning
    """
    groups = duplicate_groups(rows, distance=distance)
    return groups != torch.arange(len(groups))


def blanks(images: ImageSet | Tensor, *, spread: float = 16.0) -> Tensor:
    """Return a mask (N,): True for images without a picture, whose grey values differ by at most `spread` levels.

    images: ImageSet or uint8 (N, C, H, W). spread: largest minus smallest value of a channel, in grey levels 0..255.
    A uniformly grey or red image is blank; one with a single bright pixel is not.

    Raises ValueError for floats (nobody can tell which range they lie in), another shape, a negative spread.

    >>> blanks(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 1, 8, 8)).tolist()
    [True, True]

    Taught in: 02_cleaning
    """
    pixels = images.images if isinstance(images, ImageSet) else images
    if not isinstance(pixels, Tensor) or pixels.dtype != torch.uint8 or pixels.ndim != 4:
        what = f"{pixels.dtype} {tuple(pixels.shape)}" if isinstance(pixels, Tensor) else type(pixels).__name__
        raise ValueError(f"images must be an ImageSet or uint8 of shape (N, C, H, W), got {what}")
    if isinstance(spread, bool) or not (spread >= 0 and math.isfinite(spread)):
        raise ValueError(f"spread must be a finite number of at least 0, got {spread}")
    if not pixels[:1].numel() and len(pixels):
        raise ValueError(f"images must hold pixels, got shape {tuple(pixels.shape)}")
    low, high = pixels.cpu().amin((2, 3)).double(), pixels.cpu().amax((2, 3)).double()  # (N, C)
    return (high - low).amax(1) <= spread if len(pixels) else torch.zeros(0, dtype=torch.bool)


def _components(table: np.ndarray, distance: float) -> np.ndarray:
    """For each row the smallest index in its connected component of the links ‖a − b‖ ≤ distance."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n, d = table.shape
    x = table - table.mean(0)  # less cancellation below
    square = (x * x).sum(1)
    margin = 8 * np.finfo(float).eps * (d + 4) * square.max()  # what rounding may do to |a|² + |b|² − 2ab
    groups = np.arange(n)
    block = max(1, 2**24 // n)
    for start in range(0, n, block):
        own = slice(start, start + block)
        gap = square[own, None] + square[start:] - 2 * x[own] @ x[start:].T
        i, j = (gap <= distance**2 + margin).nonzero()
        unsure = gap[i, j] > distance**2 - margin
        i, j = i + start, j + start
        keep = ~unsure
        for some in np.array_split(unsure.nonzero()[0], 1 + int(unsure.sum()) * d // 2**24):
            keep[some] = np.sqrt(((table[i[some]] - table[j[some]]) ** 2).sum(1)) <= distance
        i, j = np.r_[i[keep], np.arange(n)], np.r_[j[keep], groups]
        label = connected_components(coo_array((np.ones(len(i)), (i, j)), shape=(n, n)), directed=False)[1]
        groups = np.unique(label, return_index=True)[1][label]
    return groups


# --- Outliers --------------------------------------------------------------------------------------------------------


def outliers_sigma(table: Any, *, k: float = 3.0) -> Tensor:
    """Flag cells further than k standard deviations from the mean of their column: (N, D) bool.

        |x − x̄| > k s,   s with n − 1

    table: (N, D) numbers; a NaN is never an outlier and does not count. A constant column has none. The outliers
    themselves widen s: in n values no |x − x̄| exceeds s (n − 1)/√n, so k = 3 can never fire for n ≤ 10.

    Raises ValueError for another shape, cells that are not numbers, infinities (naming row and column), k ≤ 0.
    Source of the bound: Shiffler 1988.

    Taught in: 02_cleaning
    """

    def limits(x):
        centre, width = x.mean(), k * x.std(ddof=1)
        return centre - width, centre + width

    return _outside(table, k, limits)


def outliers_mad(table: Any, *, k: float = 3.5) -> Tensor:
    """Flag cells whose modified z-score exceeds k: (N, D) bool.

        0.6745 |x − m| > k MAD,   m = median(x), MAD = median |x − m|

    0.6745 makes MAD/0.6745 the standard deviation of a normal column. Up to half of the values may be wild before the
    limits move without bound. table, NaN, constant columns: as in `outliers_sigma`. Where more than half of a column
    is one value, MAD is 0 and every other value is flagged.

    Raises ValueError as `outliers_sigma` does. Source: Iglewicz and Hoaglin 1993.

    >>> outliers_mad(np.array([[1.0], [2.0], [3.0], [4.0], [90.0]])).flatten().tolist()
    [False, False, False, False, True]

    Taught in: 02_cleaning
    """

    def limits(x):
        centre = np.median(x)
        width = k * np.median(np.abs(x - centre)) / 0.6745
        return centre - width, centre + width

    return _outside(table, k, limits)


def outliers_iqr(table: Any, *, k: float = 1.5) -> Tensor:
    """Flag cells further than k interquartile ranges outside the quartiles of their column: (N, D) bool.

        x < Q₁ − k (Q₃ − Q₁)   or   x > Q₃ + k (Q₃ − Q₁)

    Quartiles by linear interpolation (NumPy's default). table, NaN, constant columns: as in `outliers_sigma`. Where
    both quartiles are one value, every other value is flagged.

    Raises ValueError as `outliers_sigma` does. Source: Tukey 1977, the box plot.

    Taught in: 02_cleaning
    """

    def limits(x):
        low, high = np.quantile(x, [0.25, 0.75])
        return low - k * (high - low), high + k * (high - low)

    return _outside(table, k, limits)


def _outside(table: Any, k: float, limits: Callable) -> Tensor:
    if isinstance(k, bool) or not (k > 0 and math.isfinite(k)):
        raise ValueError(f"k must be a positive finite number, got {k}")
    cells = _numbers(table, "table")
    if cells.ndim != 2:
        raise ValueError(f"table must have shape (N, D), got {cells.shape}: one column is table[:, None]")
    if np.isinf(cells).any():
        row, column = np.argwhere(np.isinf(cells))[0]
        raise ValueError(f"table must be finite or NaN, got {cells[row, column]} in row {row}, column {column}")
    found = np.zeros(cells.shape, dtype=bool)
    for j, column in enumerate(cells.T):
        x = column[~np.isnan(column)]
        if len(x) > 1 and x.min() < x.max():  # a constant column: rounding of its mean must not speak
            low, high = limits(x)
            found[:, j] = (column < low) | (column > high)  # False for NaN
    return torch.from_numpy(found)


# --- Checks ----------------------------------------------------------------------------------------------------------


def _numbers(x: Any, name: str) -> np.ndarray:
    x = x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
    if x.dtype == object:  # a pandas frame of mixed number types; strings stay strings
        bad = [
            (tuple(map(int, place)), v) for place, v in np.ndenumerate(x) if not isinstance(v, int | float | np.number)
        ]
        if bad:
            raise ValueError(f"{name} must hold numbers, got {bad[0][1]!r} at {bad[0][0]}")
    elif x.dtype.kind not in "fiub":
        raise ValueError(f"{name} must hold numbers, got dtype {x.dtype}")
    return x.astype(np.float64)


def _flat(rows: Any) -> np.ndarray:
    """Rows as finite float64 (N, D), contiguous, with one kind of zero."""
    x = _numbers(rows.images if isinstance(rows, ImageSet) else rows, "rows")
    if x.ndim < 1 or (len(x) and x[:1].size == 0):
        raise ValueError(f"rows must have shape (N, …) with at least one value per row, got {x.shape}")
    x = np.ascontiguousarray(x.reshape(len(x), -1 if len(x) else 1))
    finite = np.isfinite(x).all(1)
    if not finite.all():
        row = int((~finite).argmax())
        raise ValueError(f"rows must be finite, got {x[row][~np.isfinite(x[row])][0]} in row {row}")
    return x + 0.0  # -0.0 and 0.0 are equal numbers with different bytes
