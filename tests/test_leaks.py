"""leaks: each planted leak is named, clean splits are not, both against answers known by hand; bad input is refused."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin, clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, TargetEncoder

from course_utils import data, leaks
from course_utils.leaks import find_leaks


def table(n=120, d=8, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.integers(2, size=n), rng


def halves(x, y, n=None):
    n = n or len(x) // 2
    return x[:n], x[n:], y[:n], y[n:]


def names(found):
    return [line.split(":")[0] for line in found]


def fitted(step, model, x, y, rows, train):
    step = step.fit(x[rows], y[rows])
    return make_pipeline(step, model.fit(step.transform(x[train]), y[train]))


EVERYTHING, TRAIN = slice(None), slice(60)


# --- Clean splits ----------------------------------------------------------------------------------------------------

TABLES = {
    "tumours": lambda: load_breast_cancer(return_X_y=True),
    "wine": lambda: load_wine(return_X_y=True),
    "diabetes": lambda: (load_diabetes().data, (load_diabetes().target > 140).astype(int)),
}


@pytest.mark.parametrize("name", TABLES)
def test_clean_splits_of_real_tables_pass(name):
    x, y = TABLES[name]()
    for seed in range(12):
        order = np.random.default_rng(seed).permutation(len(x))
        train, test = np.split(order, [2 * len(x) // 3])
        pipeline = make_pipeline(StandardScaler(), SelectKBest(k=4), LogisticRegression()).fit(x[train], y[train])
        days = np.arange(len(train)), len(train) + np.arange(len(test))
        assert (
            find_leaks(x[train], x[test], y[train], y[test], pipeline=pipeline, groups=(train, test), times=days) == []
        )


def test_the_twins_of_iris_are_found_exactly_when_they_are_parted():
    x, y = load_iris(return_X_y=True)
    for seed in range(20):
        train, test = np.split(np.random.default_rng(seed).permutation(150), [100])
        parted = len({101, 142} & set(test)) == 1
        found = find_leaks(x[train], x[test], y[train], y[test])
        assert names(found) == (["copies"] if parted else [])
        if parted:
            assert found[0].startswith("copies: 1 of 50 ")


# --- Rows ------------------------------------------------------------------------------------------------------------


def test_copies_are_counted():
    x, y, _ = table()
    found = find_leaks(x[:60], np.r_[x[60:], x[:15]], y[:60], np.r_[y[60:], y[:15]])
    assert found == ["copies: 15 of 75 test rows are in the training part (up to 20 % of the errors)"]


def test_minus_zero_is_zero():
    x, y, _ = table()
    x[0, 0], twin = 0.0, x[:1].copy()
    twin[0, 0] = -0.0
    assert names(find_leaks(x[:60], np.r_[x[60:], twin], y[:60], np.r_[y[60:], y[:1]])) == ["copies"]


@pytest.mark.parametrize("columns", [8, 300])  # 300: more columns than rows, where the table is rotated
def test_jittered_copies_are_near_copies_and_large_jitter_is_not(columns):
    x, y, rng = table(d=columns)
    for jitter, expected in ((0.01, ["near copies"]), (1.0, [])):
        near = x[:20] + jitter * rng.normal(size=(20, columns))
        assert names(find_leaks(x[:60], np.r_[x[60:], near], y[:60], np.r_[y[60:], y[:20]])) == expected


def test_units_do_not_matter():
    x, y, rng = table()
    near = np.r_[x[60:], x[:20] + 0.01 * rng.normal(size=(20, 8))]
    units = 10.0 ** np.arange(-4, 4)
    labels = y[:60], np.r_[y[60:], y[:20]]
    assert names(find_leaks(x[:60] * units, near * units, *labels)) == ["near copies"]


def blended(n=160, d=8, seed=0):
    """Rows averaged with a neighbour, dealt at random: real ones and averages on both sides."""
    x, y, rng = table(n, d, seed)
    gap = np.linalg.norm(x[:, None] - x[None], axis=2) + 1e9 * np.eye(n)
    other = gap.argsort(1)[np.arange(n), rng.integers(5, size=n)]
    share = rng.random((n, 1))
    made = share * x + (1 - share) * x[other]
    order = rng.permutation(2 * n)
    return halves(np.r_[x, made][order], np.r_[y, y][order])


@pytest.mark.parametrize("seed", range(4))
def test_interpolation_before_the_split_is_named_and_noise_instead_of_it_is_not(seed):
    assert "between" in names(find_leaks(*blended(seed=seed)))
    x, y, _ = table(320, 8, seed)
    assert find_leaks(*halves(x, y)) == []


def test_interpolation_of_pictures_rounded_to_bytes_is_named():
    digits = data.load("digits").select(slice(0, 160))
    x = digits.images.flatten(1).double().numpy()
    y, rng = digits.labels.numpy(), np.random.default_rng(0)
    gap = np.linalg.norm(x[:, None] - x[None], axis=2) + 1e9 * np.eye(160)
    other = gap.argsort(1)[np.arange(160), rng.integers(3, size=160)]
    share = rng.uniform(0.2, 0.8, size=(160, 1))
    made = (share * x + (1 - share) * x[other]).round()
    order = rng.permutation(320)
    assert "between" in names(find_leaks(*halves(np.r_[x, made][order], np.r_[y, y][order])))


def test_two_copies_of_a_training_row_are_no_line():
    x, y, _ = table()
    assert find_leaks(np.r_[x[:60], x[:60]], x[60:], np.r_[y[:60], y[:60]], y[60:]) == []


def test_lines_by_hand():
    row = np.zeros((1, 5))
    one, other = np.eye(5)[:2]
    for near, expected in (
        ([one, other], False),  # a right angle
        ([one, -2 * one], True),  # between two
        ([one, 2 * one], True),  # at the end
        ([one, one], False),  # one row, twice
        ([row[0], one], False),  # a copy of itself
        ([one, one * 2 + 0.2 * other], False),  # six degrees
    ):
        strict, _ = leaks._lines(row, np.array([near]))
        assert strict.tolist() == [int(expected)], near


@pytest.mark.parametrize("seed", range(5))
def test_rows_in_a_plane_and_tables_of_codes_are_no_lines(seed):
    """Both once raised false alarms: few directions are straight more often."""
    x, y, rng = table(300, 2, seed)
    assert find_leaks(*halves(x @ rng.normal(size=(2, 10)), y)) == []
    ward = np.eye(4)[rng.integers(4, size=300)]
    assert find_leaks(*halves(np.c_[x, ward, rng.integers(2, size=(300, 3))], y)) == []
    assert find_leaks(*halves(np.c_[x[:, :1], ward, rng.permutation(300) % 100], y)) == []


# --- Columns, groups, times ------------------------------------------------------------------------------------------


def test_the_label_in_disguise_is_named_with_its_column():
    x, _, rng = table(120)
    y = rng.integers(3, size=120)
    x[:, 5] = np.array([7.0, -1.0, 3.0])[y]  # codes in no order
    assert find_leaks(*halves(x, y)) == ["target: column 5 alone tells the classes apart: known when?"]
    x[:, 2] = -x[:, 5]
    assert "columns 2, 5 alone tell" in find_leaks(*halves(x, y))[0]


def test_strong_and_honest_columns_pass():
    x, y = load_breast_cancer(return_X_y=True)
    assert find_leaks(*halves(x, y, 300)) == []
    x, y, rng = table(400)
    x[:, 0] = y + 0.4 * rng.normal(size=400)  # area about 0.96: strong, and not the answer itself
    assert find_leaks(*halves(x, y)) == []


def test_few_rows_prove_nothing():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 2000)), np.arange(12) % 2
    area = np.abs(np.array([(x[y == 0, j][:, None] > x[y == 1, j]).mean() for j in range(2000)]) - 0.5) + 0.5
    assert area.max() == 1  # chance separates the classes in some column …
    assert "target" not in names(find_leaks(*halves(x, y)))  # … and is not believed


def test_groups_and_times():
    x, y, _ = table()
    parts = halves(x, y)
    who = np.repeat(np.arange(30), 4)
    assert find_leaks(*parts, groups=(who[:60], who[60:])) == []
    assert find_leaks(*parts, groups=(who[:60], who[60:] - 2)) == ["groups: 2 on both sides, with 8 of 60 test rows"]
    names_of = np.array([f"patient {i}" for i in who])
    assert names(find_leaks(*parts, groups=(names_of[::2], names_of[1::2]))) == ["groups"]
    day = np.datetime64("2024-01-01") + np.arange(120)
    assert find_leaks(*parts, times=(day[:60], day[60:])) == []
    assert names(find_leaks(*parts, times=(day[:60], day[59:119]))) == ["times"]
    assert find_leaks(*parts, times=(day[60:], day[:60]))[0].startswith("times: 60 of 60 ")


# --- Pipelines -------------------------------------------------------------------------------------------------------


def test_selection_before_the_split_is_named_and_after_it_is_not():
    x, y, _ = table(100, 1000)
    for rows, expected in ((EVERYTHING, ["pipeline"]), (TRAIN, [])):
        pipeline = fitted(SelectKBest(k=10), LogisticRegression(), x, y, rows, TRAIN)
        assert names(find_leaks(*halves(x, y, 60), pipeline=pipeline)) == expected
        assert names(find_leaks(*halves(x, y, 60), pipeline=pipeline[:-1])) == expected  # transformers alone
        assert names(find_leaks(*halves(x, y, 60), pipeline=pipeline[0])) == expected  # a bare step


def test_target_code_of_all_rows_is_named():
    _, y, rng = table(200)
    x = np.c_[rng.permutation(200) % 40, rng.normal(size=200)]
    encoder = TargetEncoder(smooth=1.0, target_type="binary").fit(x, y)
    assert names(find_leaks(*halves(x, y), pipeline=encoder)) == ["pipeline"]


@pytest.mark.parametrize("step", [StandardScaler(), PCA(3, svd_solver="full")])
def test_steps_without_labels_are_a_note(step):
    x, y, _ = table()
    early = fitted(step, KNeighborsClassifier(3), x, y, EVERYTHING, TRAIN)
    found = find_leaks(*halves(x, y), pipeline=early)
    assert names(found) == ["note"]
    assert "labels do not reach" in found[0]


def test_a_model_that_learnt_the_test_rows_is_named():
    x, y, _ = table()
    assert names(find_leaks(*halves(x, y), pipeline=KNeighborsClassifier(1).fit(x, y))) == ["model"]
    whole = make_pipeline(StandardScaler().fit(x[TRAIN]), KNeighborsClassifier(1))
    whole.steps[1][1].fit(whole[0].transform(x), y)
    assert names(find_leaks(*halves(x, y), pipeline=whole)) == ["model"]


def test_the_pipeline_is_not_changed():
    x, y, _ = table()
    scaler = StandardScaler().fit(x)
    before = scaler.mean_.copy()
    find_leaks(*halves(x, y), pipeline=scaler)
    assert np.array_equal(scaler.mean_, before)


class WithoutTheSecondQuestion(TransformerMixin, BaseEstimator):
    """A step that reads the labels of all rows and gives nothing away: only changed labels tell it from a leak."""

    def fit(self, x, y):
        self.centre_ = x.mean(0)
        self.classes_ = np.unique(y)
        return self

    def transform(self, x):
        return x - self.centre_


def test_a_step_that_only_takes_labels_is_no_leak():
    x, y, _ = table()
    assert names(find_leaks(*halves(x, y), pipeline=WithoutTheSecondQuestion().fit(x, y))) == ["note"]


def test_random_pipelines_are_refused_and_seeded_ones_are_not():
    x, y, _ = table(200)
    parts = halves(x, y)
    with pytest.raises(ValueError, match="random_state"):
        find_leaks(*parts, pipeline=RandomForestClassifier(3).fit(parts[0], parts[2]))
    assert find_leaks(*parts, pipeline=RandomForestClassifier(3, random_state=0).fit(parts[0], parts[2])) == []


class Dummy(ClassifierMixin, BaseEstimator):
    def fit(self, x, y):
        return self


# --- Forms of the input ----------------------------------------------------------------------------------------------


def test_images_tensors_frames_and_strings():
    digits = data.load("digits")
    one, other = digits.select(slice(0, 200)), digits.select(slice(200, 300))
    assert find_leaks(one, other, one.labels, other.labels) == []
    unlabelled = one.labels.clone()
    unlabelled[3] = -1
    with pytest.raises(ValueError, match=r"train_y .* unlabelled, in row 3"):
        find_leaks(one, other, unlabelled, other.labels)
    both = data.concat(other, one.select(slice(0, 10)))
    found = find_leaks(one, both, one.labels, both.labels)
    assert found[0].startswith("copies: 10 of 110 ")
    x, y, _ = table()
    words = np.array(["no", "yes"])[y]
    assert find_leaks(*halves(torch.from_numpy(x), words)) == []
    frame = pd.DataFrame(x, columns=list("abcdefgh"))
    scaler = StandardScaler().set_output(transform="pandas").fit(frame)
    assert names(find_leaks(frame[:60], frame[60:], words[:60], words[60:], pipeline=scaler)) == ["note"]


X, Y, _ = table(20, 3)


@pytest.mark.parametrize(
    "change, word",
    [
        ({"train_y": Y[:9]}, "train_y"),
        ({"test_y": Y[:9]}, "test_y"),
        ({"test_x": X[10:, :2]}, "columns"),
        ({"train_x": X[:2], "train_y": Y[:2]}, "N ≥ 3"),
        ({"test_x": X[:0], "test_y": Y[:0]}, "N ≥ 1"),
        ({"train_x": np.full((10, 3), "a")}, "numbers"),
        ({"train_x": np.where(np.arange(30).reshape(10, 3) == 4, np.nan, 1.0)}, "row 1, column 1"),
        ({"test_x": np.full((10, 3), np.inf)}, "finite"),
        ({"train_x": X[:10, 0]}, "shape"),
        ({"train_y": np.zeros(10, int)}, "two classes"),
        ({"train_y": Y[:10] + 0.5}, "classes"),
        ({"train_y": np.full(10, np.nan)}, "classes"),
        ({"train_y": np.array(["a", "b"] * 5)}, "one kind"),
        ({"train_y": np.array(["a", None] * 5, dtype=object)}, r"train_y .* None in row 1"),
        ({"test_y": np.array(["a", np.nan] * 5, dtype=object)}, r"test_y .* nan in row 1"),
        ({"groups": np.arange(20)}, "pair"),
        ({"groups": (np.arange(9), np.arange(10))}, "10 and 10"),
        ({"times": (np.arange(10), np.arange(11))}, "times"),
        ({"pipeline": "scaler"}, "pipeline"),
        ({"pipeline": Dummy()}, "pipeline"),
        ({"pipeline": StandardScaler()}, "fitted"),
    ],
)
def test_bad_input_is_named(change, word):
    good = {"train_x": X[:10], "test_x": X[10:], "train_y": np.arange(10) % 2, "test_y": np.arange(10) % 2}
    with pytest.raises(ValueError, match=word):
        find_leaks(**(good | change))


# --- Broken variants -------------------------------------------------------------------------------------------------


def test_refitting_alone_would_cry_wolf_over_a_scaler():
    """The first question of the chapter, without the second: it cannot tell a scaler from a selection."""
    x, y, _ = table()

    def saw_the_test(step):
        again = clone(step).fit(x[TRAIN], y[TRAIN])
        one, two = step.transform(x[60:]), again.transform(x[60:])
        return one.shape != two.shape or not np.allclose(one, two)

    steps = {"note": StandardScaler().fit(x), "pipeline": SelectKBest(k=3).fit(x[::2], y[::2])}
    for name, step in steps.items():
        assert saw_the_test(step)
        assert names(find_leaks(*halves(x, y), pipeline=step)) == [name]


def test_counting_lines_alone_would_cry_wolf_in_a_plane():
    x, y, rng = table(300, 2)
    x = x @ rng.normal(size=(2, 10))
    near = np.linalg.norm(x[150:, None] - x[None, :150], axis=2).argsort(1)[:, :30]
    strict, loose = leaks._lines(x[150:], x[near])
    assert (strict > 0).mean() > 0.9  # almost every row lies on some line …
    assert strict.sum() < loose.sum() / 2  # … because there are many of all kinds
    assert find_leaks(*halves(x, y)) == []


def test_a_loose_distance_would_see_copies_everywhere(monkeypatch):
    x, y, _ = table(320)
    monkeypatch.setattr(leaks, "NEAR", 1.0)
    assert "near copies" in names(find_leaks(*halves(x, y)))
