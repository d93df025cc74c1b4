"""clean: hand-made answers, DBSCAN, SciPy and Matplotlib as oracles, broken variants that are caught, bad input."""

import ast
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from course_utils import clean, data

CHAPTER = Path(__file__).resolve().parents[1] / "notebooks" / "02_cleaning.ipynb"


def by_hand(rows, distance):
    """Groups by comparing all pairs one after the other and following the links: slow and plain."""
    rows = np.asarray(rows, dtype=float).reshape(len(rows), -1)
    group = list(range(len(rows)))
    for i in range(len(rows)):
        for j in range(i):
            if np.sqrt(((rows[i] - rows[j]) ** 2).sum()) <= distance and group[i] != group[j]:
                keep, drop = sorted((group[i], group[j]))
                group = [keep if g == drop else g for g in group]
    return group


# --- Duplicates and blanks -------------------------------------------------------------------------------------------


def test_known_groups():
    rows = torch.tensor([[0.0, 0], [3, 4], [0, 0], [10, 10], [3, 4], [0, 0]])
    assert clean.duplicate_groups(rows).tolist() == [0, 1, 0, 3, 1, 0]
    assert clean.duplicates(rows).tolist() == [False, False, True, False, True, True]
    assert clean.duplicate_groups(rows, distance=5).tolist() == [0, 0, 0, 3, 0, 0]  # 3, 4, 5: exactly at the limit
    assert clean.duplicate_groups(rows, distance=4.999).tolist() == [0, 1, 0, 3, 1, 0]


def test_a_chain_is_one_group_although_its_ends_are_far_apart():
    line = torch.arange(6.0)[:, None]
    assert clean.duplicate_groups(line, distance=1).tolist() == [0] * 6
    assert clean.duplicate_groups(line.flip(0), distance=0.9).tolist() == list(range(6))


@pytest.mark.parametrize("distance", [0.0, 0.3, 0.55, 0.8, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_pairs_by_hand_and_with_dbscan(distance, seed):
    from sklearn.cluster import DBSCAN

    rng = np.random.default_rng(seed)
    rows = rng.random((90, 3))
    rows[rng.integers(90, size=20)] = rows[rng.integers(90, size=20)]
    found = clean.duplicate_groups(rows, distance=distance)
    assert found.dtype == torch.int64
    assert found.tolist() == by_hand(rows, distance)
    labels = DBSCAN(eps=max(distance, 1e-12), min_samples=1).fit_predict(rows)
    assert found.tolist() == [int((labels == label).argmax()) for label in labels]


def test_blocks_do_not_change_the_groups():
    rows = np.random.default_rng(0).random((200, 2))
    whole = clean.duplicate_groups(rows, distance=0.07)
    assert 1 < len(set(whole.tolist())) < 200
    source = Path(clean.__file__).read_text(encoding="utf8")
    assert source.count("2**24 // n") == 1
    scope = {"__name__": "course_utils.small_blocks", "__package__": "course_utils"}
    exec(source.replace("2**24 // n", "7"), scope)
    assert torch.equal(scope["duplicate_groups"](rows, distance=0.07), whole)


def test_far_from_zero_small_distances_are_still_seen():
    rows = 1e8 + np.array([[0.0], [1.0], [2.5], [1e5]])  # |a|² + |b|² − 2ab alone would drown in rounding
    assert clean.duplicate_groups(rows, distance=1.0).tolist() == [0, 0, 2, 3]
    wild = np.array([[0.0], [1.0], [2.5], [1e12]])
    assert clean.duplicate_groups(wild, distance=1.0).tolist() == [0, 0, 2, 3]


def test_rows_of_every_kind():
    images = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    images[1, 0, 0, 0], images[3, 0, 0, 0] = 9, 9
    part = data.ImageSet(images, torch.tensor([0, 1, 0, -1]), ("a", "b"), np.array(["x/0", "x/1", "x/2", "x/3"]))
    for rows in (part, images, images.numpy(), pd.DataFrame(images.flatten(1).numpy()), images.float()):
        assert clean.duplicate_groups(rows).tolist() == [0, 1, 0, 1]
        assert clean.duplicate_groups(rows, distance=9).tolist() == [0, 0, 0, 0]
    assert len(part.select(~clean.duplicates(part))) == 2
    assert clean.duplicate_groups(np.array([1, 2, 1])).tolist() == [0, 1, 0]  # (N,): one value per row
    assert clean.duplicate_groups(np.array([[0.0], [-0.0]])).tolist() == [0, 0]
    assert clean.duplicate_groups(torch.zeros(0, 5)).tolist() == []
    assert clean.duplicates(np.zeros((1, 3)), distance=2).tolist() == [False]


@pytest.mark.parametrize(
    "rows, distance, words",
    [
        (torch.zeros(2, 2), -1, "at least 0, got -1"),
        (torch.zeros(2, 2), float("nan"), "distance"),
        (torch.zeros(2, 2), True, "distance"),
        (torch.tensor([[0.0], [torch.nan]]), 0, "nan in row 1"),
        (torch.tensor([[torch.inf], [0.0]]), 1, "inf in row 0"),
        (np.array([["a"], ["b"]]), 0, "numbers, got dtype"),
        (pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]}), 0, r"'x' at \(0, 1\)"),
        (torch.zeros(3, 0), 0, r"\(3, 0\)"),
        (np.float64(3.0), 0, r"\(N, …\)"),
    ],
)
def test_bad_rows_are_named(rows, distance, words):
    with pytest.raises(ValueError, match=words):
        clean.duplicate_groups(rows, distance=distance)


def test_blanks():
    images = torch.zeros(5, 3, 4, 4, dtype=torch.uint8)
    images[1] = 255
    images[2, 0] = 200  # uniformly red
    images[3, 0, 0, 0] = 17
    images[4, 2, 1, 1] = 16
    assert clean.blanks(images).tolist() == [True, True, True, False, True]
    assert clean.blanks(images, spread=0).tolist() == [True, True, True, False, False]
    assert not clean.blanks(data.load("digits")).any()
    assert clean.blanks(images[:0]).tolist() == []


@pytest.mark.parametrize(
    "images, spread, words",
    [
        (torch.zeros(2, 1, 8, 8), 8, "float32"),
        (torch.zeros(2, 64, dtype=torch.uint8), 8, r"\(2, 64\)"),
        (np.zeros((2, 1, 8, 8), np.uint8), 8, "ndarray"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), -1, "-1"),
        (torch.zeros(2, 1, 0, 8, dtype=torch.uint8), 1, "pixels"),
    ],
)
def test_bad_images_are_named(images, spread, words):
    with pytest.raises(ValueError, match=words):
        clean.blanks(images, spread=spread)


# --- Outliers --------------------------------------------------------------------------------------------------------

RULES = {"sigma": clean.outliers_sigma, "mad": clean.outliers_mad, "iqr": clean.outliers_iqr}


def table(seed=0, n=200):
    rng = np.random.default_rng(seed)
    return np.c_[rng.normal(5, 2, n), np.exp(rng.normal(size=n)), rng.standard_t(2, n)]


@pytest.mark.parametrize("seed", range(5))
def test_the_rules_agree_with_public_ones(seed):
    from matplotlib.cbook import boxplot_stats
    from scipy.stats import median_abs_deviation, zscore

    x = table(seed)
    z = (x - np.median(x, 0)) / median_abs_deviation(x)
    assert np.array_equal(clean.outliers_sigma(x).numpy(), np.abs(zscore(x, ddof=1)) > 3)
    assert np.array_equal(clean.outliers_mad(x).numpy(), np.abs(0.6745 * z) > 3.5)
    for column, found in zip(x.T, clean.outliers_iqr(x).numpy().T, strict=True):
        assert sorted(column[found]) == sorted(boxplot_stats(column)[0]["fliers"])
    assert clean.outliers_iqr(x)[:, 1:].any(0).all()


@pytest.mark.parametrize("n", [3, 5, 10])
def test_three_sigma_cannot_fire_in_ten_values(n):
    x = np.zeros((n, 1))
    x[0] = 1e9  # as far out as a number can be
    z = (x - x.mean()) / x.std(ddof=1)
    assert np.isclose(z.max(), (n - 1) / n**0.5)
    assert not clean.outliers_sigma(x).any()
    spread = np.arange(n)[:, None] + x
    assert clean.outliers_mad(spread).flatten().tolist() == [True] + [False] * (n - 1)
    assert clean.outliers_sigma(np.r_[x, np.zeros((1, 1))]).any() == (n + 1 > 10)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_missing_cells_neither_count_nor_speak(rule):
    x = table()
    holes = np.insert(x, [0, 50, 200], np.nan, axis=0)
    found = rule(holes)
    assert found.shape == holes.shape and found.dtype == torch.bool
    assert not found[[0, 51, 202]].any()
    assert torch.equal(found[~torch.from_numpy(np.isnan(holes).any(1))], rule(x))
    nothing = np.full((4, 2), np.nan)
    nothing[0, 1] = 7.0
    assert not rule(nothing).any()


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_constant_columns_and_scale(rule):
    x = table()
    assert not rule(np.full((7, 1), 0.1)).any()  # the mean of seven 0.1 is not 0.1
    assert torch.equal(rule(-1000 * x + 3), rule(x))
    assert torch.equal(rule(torch.from_numpy(x)), rule(pd.DataFrame(x)))
    assert (rule(x, k=20).sum(), rule(x, k=0.01).sum()) < (rule(x).sum(), len(x))
    assert not rule(np.zeros((0, 3))).any()


def test_where_half_a_column_is_one_value_the_others_are_flagged():
    x = np.array([5.0, 5, 5, 5, 5, 6, 900])[:, None]
    assert clean.outliers_mad(x).flatten().tolist() == [False] * 5 + [True] * 2
    assert clean.outliers_iqr(x).flatten().tolist() == [False] * 6 + [True]


def recall_on_planted(rule, share):
    """A fifth of normal values moved by +20: the mask that a rule gives, as the share of them that it finds."""
    x = np.random.default_rng(1).normal(size=(500, 1))
    x[: int(500 * share)] += 20
    return rule(x)[: int(500 * share)].double().mean().item()


def test_many_outliers_mask_each_other_for_sigma_but_not_for_mad():
    assert recall_on_planted(clean.outliers_sigma, 0.05) == 1
    assert recall_on_planted(clean.outliers_sigma, 0.15) == 0
    assert recall_on_planted(clean.outliers_mad, 0.3) == 1

    def mad_about_the_mean(x):  # the broken variant: robust width, fragile centre
        return torch.from_numpy(np.abs(x - x.mean()) > 3.5 * np.median(np.abs(x - x.mean())) / 0.6745)

    assert recall_on_planted(mad_about_the_mean, 0.3) < 1


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize(
    "x, k, words",
    [
        (np.zeros(5), 3, r"table\[:, None\]"),
        (np.zeros((5, 1)), 0, "positive"),
        (np.zeros((5, 1)), float("inf"), "positive"),
        (np.array([[0.0, np.inf]]), 3, "inf in row 0, column 1"),
        (np.array([["1", "2"]]), 3, "numbers"),
        (pd.DataFrame({"a": [1, None], "b": ["1", "2"]}), 3, "'1'"),
    ],
)
def test_bad_tables_are_named(rule, x, k, words):
    with pytest.raises(ValueError, match=words):
        rule(x, k=k)


# --- The schema check that chapter 02 writes out ---------------------------------------------------------------------


def from_the_chapter(*names):
    """What chapter 02 defines under these names."""
    cells = json.loads(CHAPTER.read_text(encoding="utf8"))["cells"]
    trees = [ast.parse("".join(c["source"])) for c in cells if c["cell_type"] == "code" and "%pip" not in str(c)]
    scope = {"pd": pd}
    for node in (node for tree in trees for node in tree.body):
        target = getattr(node, "name", None) or getattr(getattr(node, "targets", [None])[0], "id", None)
        if target in names:
            exec(ast.unparse(node), scope)
    return [scope[name] for name in names]


def patients():
    from sklearn.datasets import load_diabetes

    table = load_diabetes(scaled=False, as_frame=True).frame
    table.columns = ["age", "sex", "bmi", "bp", "tc", "ldl", "hdl", "ratio", "ltg", "glu", "progress"]
    table.insert(0, "id", [f"{i:04d}" for i in range(len(table))])
    return table


@pytest.mark.skipif(not CHAPTER.exists(), reason="chapter 02 is not written yet")
def test_the_schema_check_of_the_chapter_names_the_rows_that_pandera_names():
    pandera = pytest.importorskip("pandera.pandas")
    schema, faults, check = from_the_chapter("SCHEMA", "faults", "check")
    columns = {
        name: pandera.Column(
            checks=pandera.Check.isin(allowed) if isinstance(allowed, set) else pandera.Check.in_range(*allowed)
        )
        for name, allowed in schema.items()
    }
    columns["id"] = pandera.Column(str, unique=True, report_duplicates="exclude_first")
    oracle = pandera.DataFrameSchema(columns, strict=True)
    table = patients()
    check(table, schema)
    oracle.validate(table, lazy=True)
    rng = np.random.default_rng(0)
    for name in ("age", "sex", "bmi", "glu", "progress"):
        table.loc[rng.permutation(442)[:5], name] = rng.choice([-1.0, 999.0, np.nan], 5)
    table = pd.concat([table, table.iloc[7:12]], ignore_index=True)
    with pytest.raises(pandera.errors.SchemaErrors) as told:
        oracle.validate(table, lazy=True)
    cases = told.value.failure_cases
    found = faults(table, schema)
    assert {(row, what.split()[0]) for row, what in found} == set(
        zip(cases["index"].astype(int), cases["column"], strict=True)
    )
    with pytest.raises(ValueError, match=r"\d+ faults: row 442: id = 0007 again"):
        check(table, schema)
    assert "columns" in faults(table.drop(columns="bp"), schema)[0][1]
    with pytest.raises(ValueError, match="ten, expected"):
        check(patients().astype({"bmi": object}).replace({"bmi": {table.bmi[20]: "ten"}}), schema)
