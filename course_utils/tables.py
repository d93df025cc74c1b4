"""Tables: what is in one, three makers of invented rows, and a judge. Frames in, frames out; no model object is kept.

A *kind* says how a column is treated: "number", "integer" and "date" are ordered and may lie between two others,
"category" is not ordered, a "key" names its row and is written anew, a "constant" has one value, "text" cannot be made
here and comes out missing. Missing values are values: each maker makes them too. Sizes: N rows, D columns.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from .evaluate import nearest

KINDS = ("number", "integer", "date", "category", "key", "constant", "text")
ORDERED, MODELLED = KINDS[:3], KINDS[:4]
LEVELS = 0.5  # strings with more different values than this share of the rows are text: they hardly ever return
BINS, COARSE = 10, 5  # intervals of equal share into which the judge cuts an ordered column: alone, and in a pair
FOREST = {"n_estimators": 10, "min_samples_leaf": 3, "max_features": None}  # of randomised trees, all columns asked


# --- What is in a table ---------------------------------------------------------------------------------------------


def read(path, *, sep: str = ",", encoding: str = "utf-8"):
    """Return the table in a CSV file: a DataFrame whose ISO dates (2024-03-31, with or without a time) are dates.

    `path`: a file whose first line names the columns. `sep`, `encoding`: as pandas.read_csv. Other ways to write a
    date stay strings, since 03/04/24 has three readings: convert them before.

    Raises ValueError, saying what to pass, for another encoding, another separator (a single column whose name holds
    one), rows of different lengths, names that stand twice, fewer than two rows.

    Taught in: 30_tables
    """
    import pandas as pd

    name, how = Path(path).name, {"sep": sep, "encoding": encoding}
    try:
        frame = pd.read_csv(path, **how)
        names = pd.read_csv(path, header=None, nrows=1, dtype=str, **how).iloc[0]  # pandas renames what stands twice
    except UnicodeDecodeError:
        raise ValueError(f"{name} is not written in {encoding}: pass encoding='latin-1' or 'utf-16', say") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{name} is no table with sep={sep!r} ({error}): look into it, and pass its sep=") from None
    other = [s for s in ";\t|," if s in str(frame.columns[0])]
    if frame.shape[1] == 1 and other:
        raise ValueError(f"{name} has a single column {frame.columns[0]!r}: pass sep={other[0]!r}")
    if names.duplicated().any():
        raise ValueError(f"{name}: column names must be different, got {names[names.duplicated()].iloc[0]!r} twice")
    if len(frame) < 2:
        raise ValueError(f"{name} must hold at least two rows under its names, got {len(frame)}")
    for column in frame.columns:
        seen = frame[column].dropna()
        if len(seen) and not pd.api.types.is_numeric_dtype(seen):
            if seen.astype(str).str.fullmatch(r"\d{4}-\d\d-\d\d([ T][\d:.]+)?").all():
                frame[column] = pd.to_datetime(frame[column], format="ISO8601")
    return frame


def schema(frame, correct: Mapping[str, str] | None = None) -> dict[str, str]:
    """Guess the kind of each column of a DataFrame, and let the reader correct the guess: column → kind.

    `correct`: column → kind, for what cannot be guessed: a postcode looks like an integer and is a category.
    Guessed as "constant": at most one value and nothing missing, or nothing but missing. "date": dates. "key": a
    different whole number, or a different word without blanks, in every row. "category": truth values, two whole
    numbers, strings that return (at most half as many values as rows). "text": other strings. "integer": whole
    numbers, even where gaps have turned them into floats. "number": the rest.

    Raises ValueError for something that is not a DataFrame, names that stand twice, an unknown column or kind, and a
    correction that the values do not bear (strings as a number, numbers as a date, infinity).

    Taught in: 30_tables

    >>> import pandas as pd
    >>> schema(pd.DataFrame({"id": [7, 8, 9, 6], "age": [30, 41, 30, 55], "kg": [71.5, None, 80.0, 66.2]}))
    {'id': 'key', 'age': 'integer', 'kg': 'number'}
    """
    from pandas.api import types

    _check_frame(frame, "frame")
    for column, kind in (correct or {}).items():
        if column not in frame.columns:
            raise ValueError(f"correct names the column {column!r}, but the table has {list(frame.columns)}")
        if kind not in KINDS:
            raise ValueError(f"the kind of {column!r} must be one of {KINDS}, got {kind!r}")
    kinds = {column: (correct or {}).get(column) or _guess(frame[column]) for column in frame.columns}
    for column, kind in kinds.items():
        is_date, is_number = types.is_datetime64_any_dtype(frame[column]), types.is_numeric_dtype(frame[column])
        if (kind == "date" and not is_date) or (kind in ORDERED[:2] and not is_number):
            raise ValueError(f"column {column!r} is to be a {kind}, but its dtype is {frame[column].dtype}: convert it")
        if kind in ORDERED[:2] and np.isinf(_numbers(frame[column], frame[column], kind)).any():
            raise ValueError(f"column {column!r} must be finite, got infinity: missing values are NaN")
    return kinds


def _guess(column) -> str:
    from pandas.api import types

    seen = column.dropna()
    different = seen.nunique()
    if different == 0 or (different == 1 and len(seen) == len(column)):
        return "constant"
    if types.is_datetime64_any_dtype(column):
        return "date"
    if types.is_bool_dtype(column):
        return "category"
    unique = different == len(column)
    if types.is_numeric_dtype(column):
        x = seen.to_numpy(dtype=float)
        if (x != np.round(x)).any():
            return "number"
        return "key" if unique and different > 2 else "category" if different == 2 else "integer"
    words = seen.astype(str)
    if unique:
        return "text" if words.str.contains(r"\s").any() else "key"
    return "category" if different <= max(LEVELS * len(column), 2) else "text"


# --- Makers ---------------------------------------------------------------------------------------------------------


def independent(frame, n: int, rng: torch.Generator, *, kinds: Mapping[str, str] | None = None):
    """Return n rows whose columns are drawn one by one: each column is right, no two columns know of each other.

    `frame` (N, D), N ≥ 2; `kinds`: column → kind, by default `schema(frame)`. The result has the columns and the
    dtypes of `frame`. Missing values are drawn like any other. A "number" is drawn between two neighbouring values
    and rounded to the decimals of its column; all other values have stood in it. Keys are new (numbers with a
    digit more, or made-1, made-2, …), text is missing.

    Raises ValueError for a frame that is none or too short, n < 1, an rng that is no torch.Generator, unknown kinds.

    Taught in: 30_tables
    """
    kinds = _checked(frame, n, rng, kinds)
    return _assemble(frame, n, rng, kinds, {c: _pick(len(frame), n, rng) for c in kinds if kinds[c] in MODELLED})


def copula(frame, n: int, rng: torch.Generator, *, kinds: Mapping[str, str] | None = None):
    """Return n rows by a Gaussian copula: each column keeps its values, all pairs keep one correlation each.

    Arguments, result and errors: as `independent`. Each value becomes a normal score, the mean of the standard normal
    over the interval of ranks that its ties fill; gaps of an ordered column become a column of their own. The
    covariance of two columns of scores is divided by the variances that ties have left them (1 without ties), which
    gives the latent correlation to first order; between two columns of few levels the arcsine law of halves is inverted
    as well, which is exact for halves. Correlated normals then go back through the sorted columns.
    Levels of a category are put into alphabetical order, which is arbitrary. A correlation holds no exclusive-or, no
    U shape, and no common extremes.

    Source: Nelsen 2006, ch. 2; Patki et al. 2016 (doi:10.1109/DSAA.2016.49) for tables. Taught in: 30_tables
    """
    from scipy.special import ndtr

    kinds = _checked(frame, n, rng, kinds)
    columns = []  # (name, values), and after a column with gaps (the same name, which are missing)
    for c in kinds:
        if kinds[c] in MODELLED:
            x = _numbers(frame[c], frame[c], kinds[c])
            columns.append((c, x))
            if np.isnan(x).any():
                columns.append((c, np.isnan(x).astype(float)))
    if not columns:
        return _assemble(frame, n, rng, kinds, {})
    root = np.linalg.cholesky(_latent_correlation(np.stack([normal_scores(x) for _, x in columns], 1)))
    u = ndtr(torch.randn(n, len(columns), generator=rng, dtype=torch.float64).numpy() @ root.T)
    places = {}
    for i, (c, x) in enumerate(columns):
        order = np.argsort(x, kind="stable")[: (~np.isnan(x)).sum()]  # rows by value, gaps left out
        drawn = order[(u[:, i] * len(order)).astype(int).clip(max=len(order) - 1)]
        if c in places:
            places[c] = np.where(x[drawn] == 1, np.flatnonzero(x == 1)[0], places[c])
        else:
            places[c] = drawn
    return _assemble(frame, n, rng, kinds, places)


def normal_scores(x) -> np.ndarray:
    """Return the normal score of each value of a column: (N,) float64, NaN where the value is missing.

    `x` (N,): numbers. k values that are equal fill k of the N ranks, an interval of probabilities; their score is the
    mean of the standard normal over its quantiles there. Without ties the scores are nearly standard normal; with ties
    their mean is 0 and their variance below 1.

    Raises ValueError for other shapes and for columns without a value.

    Taught in: 30_tables

    >>> normal_scores([1.0, 0.0, 1.0, 0.0]).round(3).tolist()   # ± √(2/π), the mean of half a normal
    [0.798, -0.798, 0.798, -0.798]
    """
    from scipy.special import ndtri

    x = np.asarray(x, dtype=float)
    if x.ndim != 1 or np.isnan(x).all():
        raise ValueError(f"x must be one column with at least one value, got shape {x.shape}")
    seen = ~np.isnan(x)
    _, inverse, counts = np.unique(x[seen], return_inverse=True, return_counts=True)
    edges = np.concatenate([[0], np.cumsum(counts)]) / seen.sum()
    density = np.exp(-(ndtri(edges).clip(-40, 40) ** 2) / 2) / np.sqrt(2 * np.pi)
    scores = np.full(len(x), np.nan)
    scores[seen] = (-np.diff(density) / np.diff(edges))[inverse]
    return scores


def _latent_correlation(scores: np.ndarray) -> np.ndarray:
    import pandas as pd

    left = np.nanmean(scores**2, 0)  # 1 without ties
    left[left == 0] = 1  # a single value, and gaps
    matrix = pd.DataFrame(scores).cov(ddof=0).fillna(0).to_numpy() / np.outer(left, left)
    tied = np.outer(left < 0.9, left < 0.9)  # two columns of few levels: exact for halves, by arcsine
    matrix = np.where(tied, np.sin(matrix.clip(-np.pi / 2, np.pi / 2)), matrix).clip(-0.999, 0.999)
    np.fill_diagonal(matrix, 1)
    values, vectors = np.linalg.eigh(matrix)
    matrix = (vectors * values.clip(min=1e-5)) @ vectors.T  # the nearest one that is a correlation, nearly
    spread = np.sqrt(np.diag(matrix))
    return matrix / np.outer(spread, spread)


def trees(frame, n: int, rng: torch.Generator, *, leaf: int = 10, given=None, kinds: Mapping[str, str] | None = None):
    """Return n rows made column by column: each value from a leaf of a tree that was grown on the columns before it.

    `frame`, result and errors: as `independent`. `leaf` ≥ 1: fewest training rows in a leaf, the knob between likeness
    (small) and distance from single rows (large). `given`: a DataFrame of n rows with some of the columns, from which
    the others are made (the parents of a second table); by default none. The first column is drawn by itself. A tree
    splits an ordered column by rank, with gaps below all values, and draws a random member of the leaf that the made
    row falls into.

    Source: Reiter 2005; Nowok et al. 2016 (doi:10.18637/jss.v074.i11). Taught in: 30_tables
    """
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    kinds = _checked(frame, n, rng, kinds)
    if isinstance(leaf, bool) or not isinstance(leaf, int | np.integer) or leaf < 1:
        raise ValueError(f"leaf must be a whole number of at least 1, got {leaf!r}")
    if given is not None and (len(given) != n or not set(given.columns) <= set(frame.columns)):
        raise ValueError(f"given must hold n = {n} rows of columns of the table, got {len(given)} of {list(given)}")
    own = [] if given is None else list(given.columns)
    model = [c for c in kinds if kinds[c] in MODELLED]
    known = [c for c in model if c in own]  # what the next tree may ask about, then one column more each time
    x = {c: _numbers(frame[c], frame[c], kinds[c]) for c in model}
    old = {c: _filled(x[c], x[c]) for c in model}  # (N,) each: training rows
    new = {c: _filled(x[c], _numbers(frame[c], given[c], kinds[c])) for c in known}  # (n,) each: made rows
    places = {}
    for c in [c for c in model if c not in own]:
        places[c] = _pick(len(frame), n, rng)
        if known:
            tree = DecisionTreeRegressor if kinds[c] in ORDERED else DecisionTreeClassifier
            rows, asked = (np.stack([part[k] for k in known], 1) for part in (old, new))
            rank = np.unique(old[c], return_inverse=True)[1]
            grown = tree(min_samples_leaf=int(leaf), random_state=_seed(rng)).fit(rows, rank)
            members, asked = grown.apply(rows), grown.apply(asked)
            order = np.argsort(members, kind="stable")
            first, end = (np.searchsorted(members[order], asked, side) for side in ("left", "right"))
            places[c] = order[first + (_uniform(n, rng) * (end - first)).astype(int)]
        new[c] = old[c][places[c]]
        known.append(c)
    made = _assemble(frame, n, rng, kinds, places)
    for c in own:
        made[c] = given[c].reset_index(drop=True)
    return made


def _assemble(frame, n: int, rng: torch.Generator, kinds: Mapping[str, str], places: Mapping[str, np.ndarray]):
    """The made table: for each modelled column the training rows whose values are taken."""
    import pandas as pd

    made = {}
    for c, kind in kinds.items():
        column = frame[c]
        if kind in MODELLED and c not in places:  # given
            made[c] = None
        elif kind in MODELLED:
            made[c] = column.iloc[places[c]].reset_index(drop=True)
            if kind == "number":
                made[c] = pd.Series(_between(column, places[c], rng)).astype(column.dtype)
        elif kind == "key" and pd.api.types.is_numeric_dtype(column):
            start = 10 ** len(str(int(column.max())))  # a digit more than any key, those of other rows included
            made[c] = pd.Series(start + np.arange(n), dtype=column.dtype)
        elif kind == "key":
            prefix = "made-"
            while column.astype(str).str.startswith(prefix).any():  # a table that was made before
                prefix = "re" + prefix
            made[c] = pd.Series([f"{prefix}{i + 1:0{len(str(n))}d}" for i in range(n)], dtype=column.dtype)
        elif kind == "constant":
            made[c] = column.iloc[np.zeros(n, int)].reset_index(drop=True)
        else:
            made[c] = pd.Series([None] * n, dtype=column.dtype)
    return pd.DataFrame(made, columns=list(frame.columns))


def _between(column, places: np.ndarray, rng: torch.Generator) -> np.ndarray:
    """Values between the chosen ones and the next larger ones, with as many decimals as the column has."""
    x = column.to_numpy(dtype=float, na_value=np.nan)
    order = np.argsort(x, kind="stable")  # gaps last
    rank = np.argsort(order)[places].clip(max=max((~np.isnan(x)).sum() - 2, 0))
    low = x[order[rank]]
    high = np.fmax(low, x[order[np.minimum(rank + 1, len(x) - 1)]])  # a gap is no neighbour
    values = np.where(np.isnan(x[places]), np.nan, low + _uniform(len(places), rng) * (high - low))
    seen = x[~np.isnan(x)]
    room = 1e-9 * np.abs(seen).max()
    decimals = next((k for k in range(9) if np.abs(np.round(seen, k) - seen).max() <= room), None)
    return values if decimals is None else np.round(values, decimals)


# --- The judge ------------------------------------------------------------------------------------------------------


def judge(
    train,
    test,
    made,
    rng: torch.Generator,
    *,
    target: str | None = None,
    rules: Mapping[str, Callable] | None = None,
    kinds: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """Ask five questions of a made table, each beside its floor: what the training rows themselves would be told.

    `train`: the rows from which `made` was made. `test`: real rows that no maker has seen. All three have the same
    columns, `made` as many rows as `train`. `kinds`: column → kind, by default `schema(train)`; only ordered columns
    and categories are judged. `rules`: name → function of a frame, True for the rows that keep the rule.
    Keys of the answer, each with "floor: …" beside it (train in the place of made, or as said):
    "columns"   mean total variation distance between made and test, column by column: 0 equal, 1 disjoint.
                Ordered columns are cut into ten intervals of equal share; gaps and rare levels are cells too
    "pairs"     the same for all pairs of columns, ordered ones cut into five
    "told apart"  area under the ROC curve of a forest that learns made against test, on the other half: 0.5 is a coin
    "useful"    with a target: a forest trained on made, tested on test: accuracy for a category, R² for an ordered
                target; "dumb: useful": the most common class, or the mean (0)
    "nearer"    share of made rows nearer to a training row than to a test row, of equal number; ties count ½.
                The floor is 0.5 by symmetry; a copier has 1
    "broken"    with rules: share of rows that break at least one; the floor is that of the test rows
    What it cannot see: a rule that nobody wrote down, what happens between three columns unless the forest finds it,
    the order of the rows, links to other tables, and whether anything is private: "nearer" is one attack.

    Raises ValueError for different columns, another number of made than of training rows, fewer than 20 rows, nothing
    to judge, a target that is a key or the like or has gaps, a rule without one truth value for each row.

    Source: Esteban et al. 2017 (arXiv:1706.02633) for "useful"; Lopez-Paz and Oquab 2017 (arXiv:1610.06545) for "told
    apart". Taught in: 30_tables
    """
    kinds = _checked(train, 1, rng, kinds)
    for name, part in (("test", test), ("made", made)):
        _check_frame(part, name)
        if list(part.columns) != list(train.columns):
            raise ValueError(f"{name} must have the columns {list(train.columns)}, got {list(part.columns)}")
    if len(made) != len(train):
        raise ValueError(f"made must have as many rows as train, {len(train)}, for the floor to hold, got {len(made)}")
    if min(len(train), len(test)) < 20:
        raise ValueError(f"train and test must hold at least 20 rows, got {len(train)} and {len(test)}")
    model = [c for c in kinds if kinds[c] in MODELLED]
    if not model:
        raise ValueError(f"no column can be judged: their kinds are {kinds}")
    if target is not None and target not in model:
        raise ValueError(f"target must be an ordered column or a category, one of {model}, got {target!r}")
    if target is not None and (train[target].isna().any() or test[target].isna().any()):
        raise ValueError(f"target {target!r} must not have gaps: drop those rows first")
    parts = {"made": made, "floor": train, "test": test}
    x = {name: _matrix(train, part, kinds, model) for name, part in parts.items()}
    ordered = [kinds[c] in ORDERED for c in model]
    fine, coarse = ({name: _cells(x["floor"], v, ordered, k) for name, v in x.items()} for k in (BINS, COARSE))
    filled = {name: _filled(x["floor"], v) for name, v in x.items()}
    answer = {"floor: told apart": 0.5, "floor: nearer": 0.5}
    pairs = [(i, j) for i in range(len(model)) for j in range(i)]
    for name, head in (("made", ""), ("floor", "floor: ")):
        a, b = fine[name], fine["test"]
        answer[head + "columns"] = np.mean([_distance(a[:, i], b[:, i]) for i in range(len(model))])
        a, b = 100 * coarse[name], coarse[name]
        c, d = 100 * coarse["test"], coarse["test"]
        both = [_distance(a[:, i] + b[:, j], c[:, i] + d[:, j]) for i, j in pairs]
        answer[head + "pairs"] = np.mean(both or [np.nan])
        if target is not None:
            column = model.index(target)
            answer[head + "useful"] = _useful(filled[name], filled["test"], column, ordered[column], rng)
        if rules:
            answer[head + "broken"] = 1 - _kept(made if name == "made" else test, rules).mean()
    if target is not None:
        y = filled["test"][:, column]
        answer["dumb: useful"] = 0.0 if ordered[column] else np.unique(y, return_counts=True)[1].max() / len(y)
    answer["told apart"] = _told_apart(filled["made"], filled["test"], rng)
    place = {name: _places(x["floor"], v, ordered) for name, v in x.items()}
    few = min(len(train), len(test))
    near, far = (nearest(place["made"], place[name][_order(place[name], rng)[:few]]) for name in ("floor", "test"))
    answer["nearer"] = ((near < far).double() + (near == far) / 2).mean()
    return {name: float(value) for name, value in answer.items()}


def _told_apart(made: np.ndarray, real: np.ndarray, rng: torch.Generator) -> float:
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.metrics import roc_auc_score

    halves = [np.array_split(x[_order(x, rng)], 2) for x in (made, real)]
    x = [np.concatenate(half) for half in zip(*halves, strict=True)]  # made rows, then real ones
    y = [np.repeat([1, 0], [len(m), len(r)]) for m, r in zip(*halves, strict=True)]
    scores = []
    for learn, ask in ((0, 1), (1, 0)):
        forest = ExtraTreesClassifier(**FOREST, random_state=_seed(rng)).fit(x[learn], y[learn])
        scores.append(roc_auc_score(y[ask], forest.predict_proba(x[ask])[:, 1]))
    return np.mean(scores)


def _useful(made: np.ndarray, test: np.ndarray, column: int, ordered: bool, rng: torch.Generator) -> float:
    from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

    forest = (ExtraTreesRegressor if ordered else ExtraTreesClassifier)(**FOREST, random_state=_seed(rng))
    forest.fit(np.delete(made, column, 1), made[:, column])
    return forest.score(np.delete(test, column, 1), test[:, column])


def _cells(reference: np.ndarray, x: np.ndarray, ordered: list[bool], bins: int) -> np.ndarray:
    """The cell of each value, column by column: (N, C) whole numbers; 0 for gaps and for rare or unknown levels."""
    cells = []
    for old, new, line in zip(reference.T, x.T, ordered, strict=True):
        if line:
            edges = np.nanquantile(old, np.arange(1, bins) / bins)
            cells.append(np.where(np.isnan(new), 0, 1 + np.searchsorted(edges, new, "right")))
        else:
            levels, counts = np.unique(old, return_counts=True)
            common = np.sort(levels[np.argsort(-counts, kind="stable")[: 2 * bins]])
            cells.append(np.where(np.isin(new, common), 1 + np.searchsorted(common, new), 0))
    return np.stack(cells, 1).astype(np.int64)


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    size = max(a.max(), b.max()) + 1
    return np.abs(np.bincount(a, minlength=size) / len(a) - np.bincount(b, minlength=size) / len(b)).sum() / 2


def _places(reference: np.ndarray, x: np.ndarray, ordered: list[bool]) -> np.ndarray:
    """The rows as points (N, …): ordered columns as ranks from 0 to 1; another level is 1 away, a gap at least 1."""
    parts = []
    for old, new, line in zip(reference.T, x.T, ordered, strict=True):
        if line:
            old = np.sort(old[~np.isnan(old)])
            rank = (np.searchsorted(old, new, "left") + np.searchsorted(old, new, "right")) / (2 * len(old))
            parts += [np.where(np.isnan(new), 0.5, rank), np.isnan(new) * 1.0]
        else:
            levels = np.unique(old)
            parts += [(new == level) / np.sqrt(2) for level in levels]
            parts.append(~np.isin(new, levels) / np.sqrt(2))
    return np.stack(parts, 1)


def _kept(frame, rules: Mapping[str, Callable]) -> np.ndarray:
    kept = np.ones(len(frame), bool)
    for name, rule in rules.items():
        mask = np.asarray(rule(frame))
        if mask.shape != (len(frame),) or mask.dtype != bool:
            got = f"{mask.dtype} of shape {mask.shape}"
            raise ValueError(f"rule {name!r} must give True or False for each of {len(frame)} rows, got {got}")
        kept &= mask
    return kept


# --- Columns as numbers ---------------------------------------------------------------------------------------------


def _numbers(reference, column, kind: str) -> np.ndarray:
    """A column as floats. Ordered: gaps are NaN; levels are numbered as in `reference`, gaps −1, unknown ones −2."""
    import pandas as pd

    if kind == "date":
        return ((column - reference.min()) / np.timedelta64(1, "D")).to_numpy(dtype=float, na_value=np.nan)
    if kind in ORDERED:
        return column.to_numpy(dtype=float, na_value=np.nan)
    levels = pd.Index(sorted(set(reference.dropna().astype(str))), dtype=object)
    codes = levels.get_indexer(column.astype(str).astype(object)).astype(float)
    return np.where(column.isna(), -1.0, np.where(codes < 0, -2.0, codes))


def _matrix(reference, frame, kinds: Mapping[str, str], columns: list[str]) -> np.ndarray:
    return np.stack([_numbers(reference[c], frame[c], kinds[c]) for c in columns], 1)


def _filled(reference: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The same without NaN: a gap lies below all values of the reference."""
    return np.where(np.isnan(x), np.nanmin(reference, 0) - 1, x)


def _pick(rows: int, n: int, rng: torch.Generator) -> np.ndarray:
    return torch.randint(rows, (n,), generator=rng).numpy()


def _uniform(n: int, rng: torch.Generator) -> np.ndarray:
    return torch.rand(n, generator=rng, dtype=torch.float64).numpy()


def _order(rows, rng: torch.Generator) -> np.ndarray:
    return torch.randperm(len(rows), generator=rng).numpy()


def _seed(rng: torch.Generator) -> int:
    return int(torch.randint(2**31 - 1, (1,), generator=rng))


def _check_frame(frame, name: str) -> None:
    import pandas as pd

    if not isinstance(frame, pd.DataFrame) or frame.shape[1] == 0:
        raise ValueError(f"{name} must be a pandas DataFrame with columns, got {type(frame).__name__}")
    if not frame.columns.is_unique:
        raise ValueError(f"column names must be different, got {frame.columns[frame.columns.duplicated()][0]!r} twice")


def _checked(frame, n: int, rng, kinds: Mapping[str, str] | None) -> dict[str, str]:
    """The kinds in the order of the columns, after all arguments that makers share have been looked at."""
    _check_frame(frame, "frame")
    if len(frame) < 2:
        raise ValueError(f"frame must hold at least 2 rows, got {len(frame)}")
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"n must be a whole number of at least 1, got {n!r}")
    if not isinstance(rng, torch.Generator):
        raise ValueError(f"rng must be a torch.Generator, got {type(rng).__name__}")
    if kinds is None:
        return schema(frame)
    if set(kinds) != set(frame.columns):
        raise ValueError(f"kinds must name the columns {list(frame.columns)}, got {list(kinds)}")
    return schema(frame, kinds)
