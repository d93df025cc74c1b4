"""Does the test part know something of the training part that it should not? One function that looks, and names it."""

from math import lgamma, log

import numpy as np

from .clean import duplicate_groups
from .data import ImageSet

NEIGHBOURS = 30  # how many training rows around a test row are searched for a straight line
STRAIGHT = 1e-3  # 1 - |cos| of two directions that count as one: room for pixels rounded to bytes
FEWEST = 5  # columns: among 435 pairs of neighbours, about 435·(2·STRAIGHT)^((D-1)/2) are straight by chance
VALUES = 10  # a column with fewer different values is a code and tells nothing about lines
CROWD = 0.1  # the share of test rows on such lines above which chance is no explanation
NEAR = 0.1  # nearer than this share of the usual distance between neighbours: a near-copy
SEPARATES = 0.999  # area under the ROC curve of one column from which on it counts as the answer itself


def find_leaks(train_x, test_x, train_y, test_y, *, pipeline=None, groups=None, times=None) -> list[str]:
    """Look for ways in which the test part helped to train, and return one line for each, empty if none was found.

    `train_x` (N, ...), `test_x` (M, ...): the rows as they are *before* the pipeline, numbers, N ≥ 3; an ImageSet or
        images are flattened. `train_y` (N,), `test_y` (M,): classes, whole numbers or strings, at least two of them.
    `pipeline`: a fitted scikit-learn transformer, model, or pipeline of both. It is not changed.
    `groups`, `times`: a pair (of the training rows, of the test rows): who each row comes from, and when.

    Each line is "name: evidence". The names:
    "copies"    test rows that stand, byte for byte, in the training part
    "near copies"  more than 1 % (beyond chance) of the test rows lie nearer to a training row than a tenth of the
                median distance between neighbours inside the training part (columns in units of their spread)
    "between"   more than a tenth of the test rows lie on a straight line with two of their 30 nearest training rows:
                rows were interpolated before the split. Asked of tables with at least 5 columns of at least 10
                different values, and only if there are more such lines than chance draws, even in a plane
    "target"    a column that alone separates every two classes (area under the ROC curve ≥ 0.999). A pair with too
                few rows to exclude chance is left out. Ask when the column is known: it may be honest
    "groups"    groups that stand on both sides
    "times"     training rows that are not older than the oldest test row
    "pipeline"  its transformers, refitted on the training rows only, give other test rows, and labels reach them
    "note"      the same, but labels do not reach them, as with a scaler: worth nothing as a rule, and free to mend
    "model"     refitted on the training rows only, the transformers agree and the predictions do not
    What it cannot see: choosing on the test part, a column known afterwards but noisy, groups without ids, columns
    chosen before the table came here, averages of rows that are far apart or lie in a plane. An empty list is no
    proof.

    Raises ValueError for unequal lengths or columns, NaN or infinity, strings where numbers belong, labels that are
    missing (None, NaN; -1 of an ImageSet) or not classes, a single class, and a pipeline whose refits differ among
    themselves (set its `random_state`).

    Source: Kaufman et al. 2012 (doi:10.1145/2382577.2382579), Kapoor and Narayanan 2023
    (doi:10.1016/j.patter.2023.100804) for the kinds of leak. Taught in: 03_splits_and_leakage

    >>> x, y = np.random.default_rng(0).normal(size=(60, 4)), np.arange(60) % 2
    >>> find_leaks(x[:40], x[40:], y[:40], y[40:])
    []
    >>> find_leaks(x[:40], np.r_[x[40:], x[:5]], y[:40], np.r_[y[40:], y[:5]])
    ['copies: 5 of 25 test rows are in the training part (up to 20 % of the errors)']
    """
    train, test = _table(train_x, "train_x", 3), _table(test_x, "test_x", 1)
    if train.shape[1] != test.shape[1]:
        raise ValueError(f"train_x and test_x must have equally many columns, got {train.shape[1]} and {test.shape[1]}")
    a, b = _labels(train_y, "train_y", len(train)), _labels(test_y, "test_y", len(test))
    for rows, y, name in ((train_x, a, "train_y"), (test_x, b, "test_y")):
        if isinstance(rows, ImageSet) and y.dtype.kind == "i" and (y < 0).any():
            raise ValueError(f"{name} must hold a label for each row, got -1, unlabelled, in row {(y < 0).argmax()}")
    if a.dtype.kind != b.dtype.kind and "U" in (a.dtype.kind, b.dtype.kind):
        raise ValueError(f"train_y and test_y must be of one kind, got {a.dtype} and {b.dtype}")
    if len(np.unique(a)) < 2:
        raise ValueError(f"train_y must hold at least two classes, got only {a[0]!r}")
    found = [*_copies(train, test), *_target(np.r_[train, test], np.r_[a, b])]
    if groups is not None:
        found += _groups(*_pair(groups, "groups", len(train), len(test)))
    if times is not None:
        found += _times(*_pair(times, "times", len(train), len(test)))
    if pipeline is not None:
        raw = [x if hasattr(x, "iloc") else table for x, table in ((train_x, train), (test_x, test))]
        found += _pipeline(pipeline, *raw, a, b)
    return found


def _copies(train: np.ndarray, test: np.ndarray) -> list[str]:
    """Exact copies, near-copies, and rows on a straight line between two others."""
    from scipy.stats import binom
    from sklearn.neighbors import NearestNeighbors

    first = duplicate_groups(np.r_[train, test]).numpy()[len(train) :]  # the first row of the set that is equal
    exact = first < len(train)
    found, count = [], int(exact.sum())
    if count:
        worth = f"up to {100 * count / len(test):.0f} % of the errors"
        found.append(f"copies: {count} of {len(test)} test rows are in the training part ({worth})")
    spread = train.std(0)
    centre, spread = train.mean(0), np.where(spread > 0, spread, 1)
    train, test = (train - centre) / spread, (test - centre) / spread
    table, cut = np.r_[train, test], len(train)
    near = _narrow(table)
    search = NearestNeighbors(n_neighbors=min(NEIGHBOURS, cut - 1)).fit(near[:cut])
    usual = float(np.median(search.kneighbors(n_neighbors=1)[0]))  # a row does not find itself here
    distance, index = search.kneighbors(near[cut:])
    close = int((~exact & (distance[:, 0] < NEAR * usual)).sum())
    if close and binom.sf(close - 1, len(test), 0.01) < 1e-3:
        found.append(
            f"near copies: {close} of {len(test)} test rows lie nearer to a training row than a tenth of the usual"
            f" distance ({NEAR * usual:.3g})"
        )
    ordered = np.sort(table, axis=0)
    rich = table[:, (ordered[1:] > ordered[:-1]).sum(0) >= VALUES - 1]
    if rich.shape[1] >= FEWEST:
        rich = _narrow(rich)
        blocks = (slice(i, i + 64) for i in range(0, len(test), 64))
        counts = [_lines(rich[cut:][rows], rich[:cut][index[rows]]) for rows in blocks]
        strict, loose = np.concatenate(counts, axis=1)
        straight = int((strict > 0).sum())
        if straight > max(2, CROWD * len(test)) and strict.sum() > loose.sum() / 2:
            found.append(
                f"between: {straight} of {len(test)} test rows lie on a line with two training rows: interpolated"
                " before the split"
            )
    return found


def _narrow(table: np.ndarray) -> np.ndarray:
    """The same distances and angles in at most as many columns as there are rows: table = R^T Q^T."""
    return np.linalg.qr(table.T, mode="r").T if table.shape[1] > len(table) else table


def _lines(rows: np.ndarray, near: np.ndarray) -> np.ndarray:
    """How often a row (M, D) sees two of its own near rows (M, k, D) in one direction, or in opposite ones: (2, M).

    Counted within STRAIGHT, and within ten times as much. Where lines are made the second number is hardly larger;
    where they are chance it is, even in a plane, √10 times as large.
    """
    step = near - rows[:, None]
    length = np.linalg.norm(step, axis=2)  # (M, k)
    cosine = step @ step.transpose(0, 2, 1) / np.maximum(length[:, :, None] * length[:, None], 1e-300)
    # In one direction only at clearly different distances: a row and its copy, or close relatives, are no line.
    one, other = length[:, :, None], length[:, None]
    apart = (cosine < 0) | (np.abs(one - other) > 0.25 * np.maximum(one, other))
    bend = np.where(apart & (np.minimum(one, other) > 1e-9), 1 - np.abs(cosine), 1)
    return np.stack([(bend < limit).sum((1, 2)) // 2 for limit in (STRAIGHT, 10 * STRAIGHT)])


def _target(x: np.ndarray, y: np.ndarray) -> list[str]:
    """Columns that tell every two classes apart."""
    from itertools import combinations

    from scipy.stats import rankdata

    classes, least = np.unique(y), np.full(x.shape[1], np.inf)
    pairs = list(combinations(classes, 2))
    for one, other in pairs:
        n, m = int((y == one).sum()), int((y == other).sum())
        ways = lgamma(n + m + 1) - lgamma(n + 1) - lgamma(m + 1)  # log of the number of orders of the two
        if ways < log(2 * x.shape[1] * 1000):
            continue  # chance alone could separate so few rows in one of so many columns
        ranks = rankdata(np.r_[x[y == one], x[y == other]], axis=0)[:n].sum(0)
        area = (ranks - n * (n + 1) / 2) / (n * m)
        least = np.minimum(least, np.maximum(area, 1 - area))
    columns = np.flatnonzero((least >= SEPARATES) & np.isfinite(least))
    shown = ", ".join(str(i) for i in columns[:5]) + (" …" if len(columns) > 5 else "")
    some = "column {} alone tells" if len(columns) == 1 else "columns {} alone tell"
    return [f"target: {some.format(shown)} the classes apart: known when?"] if len(columns) else []


def _groups(train: np.ndarray, test: np.ndarray) -> list[str]:
    shared = np.intersect1d(train, test)
    rows = int(np.isin(test, shared).sum())
    return [f"groups: {len(shared)} on both sides, with {rows} of {len(test)} test rows"] if len(shared) else []


def _times(train: np.ndarray, test: np.ndarray) -> list[str]:
    late = int((train >= test.min()).sum())
    return [f"times: {late} of {len(train)} training rows are not older than the oldest test row"] if late else []


def _pipeline(pipeline, train_x, test_x, train_y, test_y) -> list[str]:
    """Refit on the training rows only and compare what comes out; if it differs, ask whether labels get through."""
    from sklearn.base import clone

    if not hasattr(pipeline, "fit") or not (hasattr(pipeline, "transform") or hasattr(pipeline, "predict")):
        raise ValueError(f"pipeline must be a fitted scikit-learn estimator, got {type(pipeline).__name__}")
    head = pipeline if hasattr(pipeline, "transform") else None
    if head is None and hasattr(pipeline, "steps") and len(pipeline.steps) > 1:
        head = pipeline[:-1]

    def refit(part, x=train_x, y=train_y):
        return clone(part).fit(x, y)

    def differ(part, other, method):
        one, two = (getattr(p, method)(test_x) for p in (part, other))
        one, two = (np.asarray(v.toarray() if hasattr(v, "toarray") else v) for v in (one, two))
        if one.shape != two.shape:
            return 1.0
        equal = np.isclose(one, two, rtol=1e-6, atol=1e-9) if one.dtype.kind == "f" else one == two
        return float(1 - equal.reshape(len(one), -1).all(1).mean())  # the share of test rows that change

    def changed(part, method):
        again = refit(part)
        share = differ(part, again, method)
        if share and differ(again, refit(part), method):
            raise ValueError("pipeline gives another result each time it is fitted: set its random_state")
        return share

    share = changed(head, "transform") if head is not None else 0.0
    if share:
        x = _join(train_x, test_x)
        classes, place = np.unique(np.r_[train_y, test_y], return_inverse=True)
        place[len(train_y) :] = (place[len(train_y) :] + 1) % len(classes)  # every test label a wrong one
        labels = differ(refit(head, x, np.r_[train_y, test_y]), refit(head, x, classes[place]), "transform")
        what = f"refitted, it changes {100 * share:.0f} % of the test rows"
        return [f"pipeline: {what}, and labels reach it" if labels else f"note: {what}, but labels do not reach it"]
    share = changed(pipeline, "predict") if hasattr(pipeline, "predict") else 0.0
    return [f"model: refitted, it answers {100 * share:.0f} % of the test rows differently"] if share else []


def _join(train, test):
    if hasattr(train, "iloc"):
        import pandas

        return pandas.concat([train, test])
    return np.concatenate([train, test])


def _array(values) -> np.ndarray:
    values = values.images if isinstance(values, ImageSet) else values
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)


def _table(values, name: str, least: int) -> np.ndarray:
    """The rows as a finite float64 table (N, D)."""
    x = _array(values)
    if x.dtype.kind not in "fiub":
        raise ValueError(f"{name} must hold numbers, got dtype {x.dtype}: encode strings as codes first")
    if x.ndim < 2 or len(x) < least or x[0].size == 0:
        raise ValueError(f"{name} must have shape (N, ...) with N ≥ {least} rows and a column, got {x.shape}")
    x = x.reshape(len(x), -1).astype(np.float64)
    if not np.isfinite(x).all():
        row, column = np.argwhere(~np.isfinite(x))[0]
        raise ValueError(f"{name} must be finite, got {x[row, column]} in row {row}, column {column}")
    return x


def _labels(values, name: str, rows: int) -> np.ndarray:
    y = _array(values)
    if y.dtype == object:
        import pandas

        absent = np.flatnonzero(pandas.isna(y))
        if len(absent):
            raise ValueError(f"{name} must hold a label for each row, got {y[absent[0]]} in row {absent[0]}: drop it")
        y = y.astype(str)
    if y.shape != (rows,):
        raise ValueError(f"{name} must hold one label for each of {rows} rows, got shape {y.shape}")
    if y.dtype.kind == "f" and not np.array_equal(y, np.round(y)):
        raise ValueError(f"{name} must hold classes, whole numbers or strings, got {y[y != np.round(y)][0]}")
    return y


def _pair(values, name: str, n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(values, tuple | list) or len(values) != 2:
        raise ValueError(f"{name} must be a pair (of the training rows, of the test rows)")
    train, test = (_array(part) for part in values)
    if train.shape != (n,) or test.shape != (m,):
        raise ValueError(f"{name} must hold {n} and {m} values, got shapes {train.shape} and {test.shape}")
    return train, test
