"""tables: known answers of the makers and the judge, the round trip of every kind of column, and what is refused."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr

from course_utils import tables

MAKERS = [tables.independent, tables.copula, tables.trees]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def mixed(n=300, seed=0):
    """One column of every kind, with gaps in three of them."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "id": rng.permutation(9 * n)[:n],
            "name": [f"P{k}" for k in rng.permutation(9 * n)[:n]],
            "site": "north",
            "age": rng.integers(0, 90, n),
            "visits": rng.poisson(3, n).astype(float),
            "bill": rng.lognormal(5, 1, n).round(2),
            "ward": rng.choice(["a", "b", "c"], n, p=[0.6, 0.3, 0.1]),
            "smokes": rng.random(n) < 0.3,
            "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 365, n), unit="D"),
            "note": [f"a remark about {k}" for k in range(n)],
        }
    )
    frame.loc[rng.random(n) < 0.2, "visits"] = np.nan
    frame.loc[rng.random(n) < 0.2, "ward"] = None
    frame.loc[rng.random(n) < 0.2, "day"] = pd.NaT
    return frame


KINDS = dict(
    zip(
        mixed().columns,
        ("key", "key", "constant", "integer", "integer", "number", "category", "category", "date", "text"),
        strict=True,
    )
)


# --- Reading and kinds -----------------------------------------------------------------------------------------------


def test_the_kinds_are_guessed_and_can_be_corrected():
    assert tables.schema(mixed()) == KINDS
    assert tables.schema(mixed(), {"age": "category"})["age"] == "category"


@pytest.mark.parametrize(
    "values, kind",
    [
        ([1, 2, 2, 1], "category"),
        ([1, 2, 3, 3], "integer"),
        ([1, 2, 3, 4], "key"),
        ([1.0, 2.0, np.nan, 3.0], "integer"),
        ([1.5, 2.5, 3.5, 4.5], "number"),
        ([None, "x", "x", "x"], "category"),  # whether something is there is a value
        ([None] * 4, "constant"),
        (["x"] * 4, "constant"),
        (["a", "b", "c", "d"], "key"),
        (["a b", "b c", "c d", "d e"], "text"),
        (["a", "b", "c", "c"], "text"),
    ],
)
def test_kind_of(values, kind):
    assert tables.schema(pd.DataFrame({"x": values})) == {"x": kind}


def test_a_file_is_read_back_with_its_dates(tmp_path):
    mixed().to_csv(tmp_path / "t.csv", index=False)
    back = tables.read(tmp_path / "t.csv")
    assert tables.schema(back) == KINDS
    assert back.day.equals(mixed().day.astype(back.day.dtype)) and back.bill.equals(mixed().bill)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"a;b\n1;2\n3;4\n", "pass sep=';'"),
        ("a,b\nMünchen,2\nx,3\n".encode("latin-1"), "pass encoding="),
        (b"a,b\n1,2\n3,4,5,6\n", "pass its sep="),
        (b"", "pass its sep="),
        (b"a,a\n1,2\n3,4\n", "'a' twice"),
        (b"a,b\n1,2\n", "at least two rows"),
    ],
)
def test_a_file_that_cannot_be_read_says_what_to_do(content, message, tmp_path):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        tables.read(tmp_path / "t.csv")


def test_commas_inside_quoted_names_are_no_second_column(tmp_path):
    (tmp_path / "t.csv").write_text('"a,x","b,x"\n1,2\n3,4\n')
    assert list(tables.read(tmp_path / "t.csv").columns) == ["a,x", "b,x"]


# --- Makers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("maker", MAKERS)
def test_columns_dtypes_gaps_and_keys_come_back_right(maker):
    frame = mixed(800)
    made = maker(frame, 2000, generator())
    assert list(made.columns) == list(frame.columns) and len(made) == 2000
    assert (made.dtypes == frame.dtypes).all()
    for column in ("visits", "ward", "day"):
        assert abs(made[column].isna().mean() - frame[column].isna().mean()) < 0.05
    for key in ("id", "name"):
        assert made[key].is_unique and not set(made[key]) & set(frame[key])
        assert not set(maker(frame[:400], 500, generator())[key]) & set(frame[key])  # nor a key of the other half
    assert set(made.ward.dropna()) <= {"a", "b", "c"} and (made.site == "north").all()
    assert made.note.isna().all()
    assert made.bill.between(frame.bill.min(), frame.bill.max()).all()
    assert (made.bill.round(2) == made.bill).all() and made.bill.isin(frame.bill).mean() < 0.5
    assert made.index.equals(pd.RangeIndex(2000))


@pytest.mark.parametrize("maker", MAKERS)
def test_a_seed_is_a_table(maker):
    a, b, c = (maker(mixed(), 50, generator(seed)) for seed in (1, 1, 2))
    assert a.equals(b) and not a.equals(c)


@pytest.mark.parametrize("rho", [-0.7, 0.4, 0.9])
def test_the_copula_keeps_spearman_whatever_the_shapes(rho):
    z = np.random.default_rng(0).multivariate_normal([0, 0], [[1, rho], [rho, 1]], 6000)
    frame = pd.DataFrame({"x": np.exp(3 * z[:, 0]), "y": z[:, 1] ** 3})
    made = tables.copula(frame, 6000, generator())
    assert abs(spearmanr(made.x, made.y)[0] - 6 / np.pi * np.arcsin(rho / 2)) < 0.04
    assert abs(spearmanr(*tables.independent(frame, 6000, generator()).to_numpy().T)[0]) < 0.04


@pytest.mark.parametrize("rho", [-0.9, 0.5])
def test_the_copula_pays_for_ties(rho):
    z = np.random.default_rng(0).multivariate_normal([0, 0], [[1, rho], [rho, 1]], 6000)
    made = tables.copula(pd.DataFrame(z > 0, columns=["x", "y"]), 6000, generator())
    assert abs(np.corrcoef(made.x, made.y)[0, 1] - 2 / np.pi * np.arcsin(rho)) < 0.05
    half = pd.DataFrame({"x": z[:, 0] > 0, "y": z[:, 1]})  # one side cut: biserial
    made = tables.copula(half, 6000, generator())
    assert abs(np.corrcoef(made.x, made.y)[0, 1] - rho * (2 / np.pi) ** 0.5) < 0.05


def test_gaps_that_mean_something_stay_where_they_mean_it():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"ward": rng.choice(["a", "b"], 3000), "kg": rng.normal(70, 10, 3000)})
    frame.loc[(frame.ward == "b") & (rng.random(3000) < 0.5), "kg"] = np.nan
    for maker, far in ((tables.copula, 0.35), (tables.trees, 0.45)):
        made = maker(frame, 3000, generator())
        gaps = made.kg.isna().groupby(made.ward).mean()
        assert gaps["b"] - gaps["a"] > far
    gaps = tables.independent(frame, 3000, generator()).kg.isna()
    assert abs(gaps.mean() - 0.25) < 0.04


def test_trees_see_an_exclusive_or_and_the_copula_does_not():
    a, b = np.random.default_rng(0).random((2, 400)) < 0.5
    frame = pd.DataFrame({"a": a, "b": b, "c": a ^ b})
    right = {maker.__name__: ((t := maker(frame, 2000, generator())).c == (t.a ^ t.b)).mean() for maker in MAKERS}
    assert right["trees"] == 1 and abs(right["copula"] - 0.5) < 0.08 and abs(right["independent"] - 0.5) < 0.08


def test_a_leaf_of_one_row_copies_it():
    frame = mixed(200)[["bill", "age", "ward"]]
    kinds = tables.schema(frame, {"bill": "integer"})  # handed out as they are: rows can be recognised
    rows, same = set(frame.astype(str).itertuples(index=False, name=None)), []
    for leaf in (1, 20):
        made = tables.trees(frame, 200, generator(), leaf=leaf, kinds=kinds)
        same.append(np.mean([row in rows for row in made.astype(str).itertuples(index=False, name=None)]))
    assert same[0] == 1 and same[1] < 0.3


def test_children_are_made_from_given_parents():
    rng = np.random.default_rng(0)
    age = rng.integers(20, 80, 1000)
    frame = pd.DataFrame({"age": age, "amount": (age + rng.normal(0, 3, 1000)).round(2)})
    given = pd.DataFrame({"age": [25] * 300 + [75] * 300})
    made = tables.trees(frame, 600, generator(), given=given)
    assert made.age.tolist() == given.age.tolist() and list(made.columns) == ["age", "amount"]
    assert abs(made.amount[:300].mean() - 25) < 3 and abs(made.amount[300:].mean() - 75) < 3


@pytest.mark.parametrize("maker", MAKERS)
def test_tables_at_the_edge(maker):
    levels = pd.DataFrame({"x": [f"l{k % 300}" for k in range(700)], "y": np.arange(700) % 7})
    assert maker(levels, 100, generator()).shape == (100, 2)
    assert maker(pd.DataFrame({"x": [1.5, np.nan]}), 30, generator()).x.isin([1.5]).any()
    keys = maker(pd.DataFrame({"k": ["a", "b", "c"], "s": "x"}), 5, generator())
    assert keys.k.is_unique and (keys.s == "x").all()


def test_normal_scores_have_mean_zero_and_lose_variance_to_ties():
    rng = np.random.default_rng(0)
    smooth, tied = tables.normal_scores(rng.random(2000)), tables.normal_scores(rng.integers(0, 3, 2000))
    assert abs(smooth.mean()) < 1e-9 and abs(smooth.var() - 1) < 0.01
    assert abs(tied.mean()) < 1e-9 and 0.7 < tied.var() < 0.9
    assert np.isnan(tables.normal_scores([1.0, np.nan, 2.0])).tolist() == [False, True, False]


# --- The judge -------------------------------------------------------------------------------------------------------


def world(n, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    frame = pd.DataFrame({"x": x, "y": x + 0.5 * rng.normal(size=n), "z": rng.normal(size=n)})
    return frame.assign(ill=np.where(x + 0.3 * rng.normal(size=n) > 0, "yes", "no"))


def test_the_judge_orders_copier_and_columns_alone():
    found = {}
    for seed in range(4):
        train, test, rng = world(300, seed), world(300, 100 + seed), generator(seed)
        rules = {"order": lambda t: (t.x - t.y).abs() < 2.5}
        for name, made in (
            ("copier", train.sample(frac=1, random_state=seed)),
            ("alone", tables.independent(train, 300, rng)),
            ("fresh", world(300, 200 + seed)),
        ):
            answer = tables.judge(train, test, made, rng, target="ill", rules=rules)
            found.setdefault(name, []).append(pd.Series(answer))
    mean = {name: pd.concat(rows, axis=1).T.mean() for name, rows in found.items()}
    copier, alone, fresh = (mean[name] for name in ("copier", "alone", "fresh"))
    for question in ("columns", "pairs", "broken"):
        assert copier[question] == pytest.approx(copier[f"floor: {question}"], abs=0.01)
    assert copier["nearer"] == 1 and abs(fresh["nearer"] - 0.5) < 0.06
    assert copier["useful"] > 0.8 > 0.65 > alone["useful"] and alone["dumb: useful"] < 0.6
    assert alone["told apart"] > 0.7 and abs(fresh["told apart"] - 0.5) < 0.06 > abs(copier["told apart"] - 0.5)
    assert alone["pairs"] > 1.5 * alone["floor: pairs"] and fresh["pairs"] < 1.2 * fresh["floor: pairs"]
    assert alone["columns"] < 1.5 * alone["floor: columns"] and alone["broken"] > 0.03


def test_the_distance_of_one_column_by_hand():
    train = pd.DataFrame({"w": ["a"] * 10 + ["b"] * 10})
    test = pd.DataFrame({"w": ["a"] * 15 + ["b"] * 5})
    made = pd.DataFrame({"w": ["a"] * 20})
    answer = tables.judge(train, test, made, generator())
    assert answer["columns"] == pytest.approx(0.25) and answer["floor: columns"] == pytest.approx(0.25)
    made = pd.DataFrame({"w": ["a"] * 5 + ["b"] * 15})
    assert tables.judge(train, test, made, generator())["columns"] == pytest.approx(0.5)


def test_a_number_as_target_and_gaps_are_judged():
    train, test = mixed(300, 0), mixed(300, 1)
    answer = tables.judge(train, test, tables.trees(train, 300, generator()), generator(), target="bill")
    assert answer["dumb: useful"] == 0 and answer["useful"] < 0.2  # nothing in this table tells the bill
    assert all(np.isfinite(value) for value in answer.values())


# --- What is refused -------------------------------------------------------------------------------------------------

ROWS = world(40, 0)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: tables.schema([1, 2]), "must be a pandas DataFrame"),
        (lambda: tables.schema(pd.DataFrame([[1, 2]], columns=["a", "a"])), "'a' twice"),
        (lambda: tables.schema(ROWS, {"w": "number"}), "names the column 'w'"),
        (lambda: tables.schema(ROWS, {"x": "float"}), "must be one of"),
        (lambda: tables.schema(ROWS, {"ill": "number"}), "convert it"),
        (lambda: tables.schema(ROWS, {"x": "date"}), "convert it"),
        (lambda: tables.schema(ROWS.assign(x=np.inf).assign(y=1.5), {"x": "number"}), "must be finite"),
        (lambda: tables.independent(ROWS[:1], 5, generator()), "at least 2 rows"),
        (lambda: tables.copula(ROWS, 0, generator()), "n must be a whole number"),
        (lambda: tables.copula(ROWS, 5, 0), "torch.Generator"),
        (lambda: tables.trees(ROWS, 5, generator(), leaf=0), "leaf must be"),
        (lambda: tables.trees(ROWS, 5, generator(), given=ROWS[["x"]]), "given must hold n = 5"),
        (lambda: tables.trees(ROWS, 5, generator(), kinds={"x": "number"}), "kinds must name"),
        (lambda: tables.normal_scores([[1.0]]), "one column"),
        (lambda: tables.normal_scores([np.nan]), "at least one value"),
        (lambda: tables.judge(ROWS, ROWS[["x"]], ROWS, generator()), "test must have the columns"),
        (lambda: tables.judge(ROWS, ROWS, ROWS[:20], generator()), "as many rows as train, 40"),
        (lambda: tables.judge(ROWS[:9], ROWS, ROWS[:9], generator()), "at least 20 rows, got 9"),
        (lambda: tables.judge(ROWS, ROWS, ROWS, generator(), target="w"), "target must be"),
        (lambda: tables.judge(ROWS, ROWS.assign(ill=None), ROWS, generator(), target="ill"), "must not have gaps"),
        (lambda: tables.judge(ROWS, ROWS, ROWS, generator(), rules={"r": lambda t: t.x}), "rule 'r' must give"),
        (lambda: tables.judge(*[pd.DataFrame({"c": ["s"] * 40})] * 3, generator()), "no column can be judged"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_keys_of_a_table_that_was_made_before_are_new_again():
    """A made table may be made from: "made-1" must not name two rows."""
    frame = pd.DataFrame({"id": ["a", "b", "c", "d"], "x": [1.5, 2.5, 0.5, 3.5]})
    once = tables.independent(frame, 4, generator())
    twice = tables.independent(once, 4, generator())
    assert not set(frame.id) & set(once.id) and not set(once.id) & set(twice.id)


def test_a_level_that_training_rows_never_had_is_one_away():
    old, new = np.array([[0.0], [1.0]]), np.array([[0.0], [7.0]])
    at, there = (tables._places(old, x, [False]) for x in (old, new))
    apart = np.linalg.norm(at[:, None] - there, axis=-1)
    assert np.allclose(apart, [[0, 1], [1, 1]])
