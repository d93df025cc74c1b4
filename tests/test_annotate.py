"""annotate: known answers by hand, scikit-learn and cleanlab as oracles, planted annotators recovered, bad input."""

import math
from itertools import product

import numpy as np
import pytest
import torch

from course_utils import annotate


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def crowd(rows, confusions, seed=0, shares=None):
    """True labels (rows,) and votes (rows, A) of annotators who err independently, each by a planted table."""
    rng, classes = seeded(seed), confusions.shape[-1]
    truth = torch.multinomial(torch.ones(classes) if shares is None else shares, rows, True, generator=rng)
    votes = [annotate.flip_labels(truth, rng, classes=classes, confusion=table) for table in confusions]
    return truth, torch.stack(votes, 1)


def even(right, classes):
    """The table of an annotator who is right with probability `right` and otherwise errs evenly."""
    return torch.full((classes, classes), (1 - right) / (classes - 1)).fill_diagonal_(right)


def accuracy(answer, truth):
    return float((answer == truth).double().mean())


# --- Known errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("classes", [2, 10])
def test_flips_come_at_the_asked_rate_and_go_everywhere_else(rate, classes):
    labels = torch.arange(40_000) % classes
    flipped = annotate.flip_labels(labels, seeded(), classes=classes, rate=rate)
    moved = flipped != labels
    assert abs(float(moved.double().mean()) - rate) < 4 * math.sqrt(rate * (1 - rate) / 40_000) + 1e-12
    if rate:
        counts = torch.bincount(((flipped - labels) % classes)[moved], minlength=classes).double()
        assert counts[0] == 0
        expected = counts.sum() / (classes - 1)
        assert ((counts[1:] - expected).abs() < 5 * expected.sqrt() + 1).all()


def test_a_flip_drawn_among_all_classes_would_be_seen():
    labels = torch.zeros(20_000, dtype=torch.int64)
    wrong = torch.where(torch.rand(20_000, generator=seeded()) < 0.5, torch.randint(2, (20_000,)), labels)
    assert abs(accuracy(wrong, labels) - 0.5) > 0.2  # it keeps half of those that it flips
    assert abs(accuracy(annotate.flip_labels(labels, seeded(), classes=2, rate=0.5), labels) - 0.5) < 0.02


def test_a_table_is_followed_row_by_row():
    table = torch.tensor([[0.7, 0.3, 0.0], [0.0, 1.0, 0.0], [0.25, 0.25, 0.5]])
    labels = torch.arange(60_000) % 3
    answers = annotate.flip_labels(labels, seeded(), classes=3, confusion=table)
    for j, k in product(range(3), range(3)):
        assert abs(float((answers[labels == j] == k).double().mean()) - float(table[j, k])) < 0.015


def test_flips_repeat_and_leave_the_argument_alone():
    labels = torch.arange(100) % 4
    kept = labels.clone()
    one, two, other = (annotate.flip_labels(labels, seeded(s), classes=4, rate=0.5) for s in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, other) and torch.equal(labels, kept)
    assert one.dtype == torch.int64


# --- Majority -------------------------------------------------------------------------------------------------------


def test_majority_by_hand():
    votes = [[0, 0, 1], [1, 2, -1], [-1, -1, -1], [2, -1, -1], [0, 1, 2]]
    assert annotate.majority(votes, 3).tolist() == [0, -1, -1, 2, -1]


def test_ties_are_drawn_among_the_tied_only():
    votes = torch.tensor([[1, 2], [-1, -1]]).repeat(4000, 1)
    answer = annotate.majority(votes, 4, rng=seeded())
    assert set(answer[0::2].tolist()) == {1, 2}
    assert abs(float((answer[0::2] == 1).double().mean()) - 0.5) < 0.04
    assert (answer[1::2] == -1).all()


def test_majority_of_equal_annotators_follows_the_binomial():
    """Five annotators, two classes, each right with probability p: the chance that at least three are right."""
    p = 0.7
    predicted = sum(math.comb(5, k) * p**k * (1 - p) ** (5 - k) for k in (3, 4, 5))
    truth, votes = crowd(20_000, even(p, 2).expand(5, 2, 2))
    assert abs(accuracy(annotate.majority(votes, 2), truth) - predicted) < 4 * math.sqrt(0.25 / 20_000)


# --- Agreement ------------------------------------------------------------------------------------------------------


def test_cohen_by_hand():
    """20 yes–yes, 5 yes–no, 10 no–yes, 15 no–no: observed 0.7, chance 0.5 · 0.6 + 0.5 · 0.4 = 0.5, kappa 0.4."""
    a = [1] * 25 + [0] * 25
    b = [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15
    assert annotate.cohen_kappa(a, b) == pytest.approx(0.4)
    assert annotate.cohen_kappa([0, 1, 2], [0, 1, 2]) == 1
    assert annotate.cohen_kappa([0, 1], [1, 0]) == -1
    assert annotate.cohen_kappa([0, 0, 1], [1, 1, 1]) == 0  # one who always says the same agrees by chance


def test_cohen_agrees_with_scikit_learn():
    from sklearn.metrics import cohen_kappa_score

    for seed, classes in product(range(5), (2, 5, 10)):
        shares = torch.arange(1.0, classes + 1) ** 2  # unequal, or chance would be 1/K
        _, votes = crowd(80, even(0.8, classes).expand(2, classes, classes), seed, shares)
        a, b = votes.T
        assert annotate.cohen_kappa(a, b) == pytest.approx(cohen_kappa_score(a.numpy(), b.numpy()), abs=1e-12)
        even_chance = ((a == b).double().mean() - 1 / classes) / (1 - 1 / classes)  # the broken variant
        assert abs(float(even_chance) - annotate.cohen_kappa(a, b)) > 1e-6


WORKED = [  # 10 items, 14 raters, 5 answers: the worked example in wide use (also statsmodels' tests); answer 0.210
    [0, 0, 0, 0, 14],
    [0, 2, 6, 4, 2],
    [0, 0, 3, 5, 6],
    [0, 3, 9, 2, 0],
    [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0],
    [3, 2, 6, 3, 0],
    [2, 5, 3, 2, 2],
    [6, 5, 2, 1, 0],
    [0, 2, 2, 3, 7],
]


def test_fleiss_has_the_known_answer():
    votes = torch.tensor([[k for k, n in enumerate(row) for _ in range(n)] for row in WORKED])
    assert votes.shape == (10, 14)
    assert annotate.fleiss_kappa(votes, 5) == pytest.approx(0.2099, abs=5e-5)
    assert annotate.fleiss_kappa(votes[:, torch.randperm(14, generator=seeded())], 5) == pytest.approx(0.2099, abs=5e-5)


def test_fleiss_of_two_is_cohen_with_shared_shares():
    """Two annotators with equal shares: both kappas coincide. Missing votes: only their number per row counts."""
    a, b = torch.tensor([0, 1, 0, 1, 2, 2]), torch.tensor([0, 0, 1, 1, 2, 2])
    assert annotate.fleiss_kappa(torch.stack([a, b], 1), 3) == pytest.approx(annotate.cohen_kappa(a, b))
    spread = torch.full((6, 4), -1)
    spread[torch.arange(6), torch.arange(6) % 4] = a
    spread[torch.arange(6), (torch.arange(6) + 1) % 4] = b
    assert annotate.fleiss_kappa(spread, 3) == pytest.approx(annotate.cohen_kappa(a, b))


# --- Dawid and Skene ------------------------------------------------------------------------------------------------


def by_the_paper(votes, classes, steps):
    """The same EM in plain loops, equation by equation, as an independent implementation."""
    n, people = votes.shape
    posterior = np.zeros((n, classes))
    for i in range(n):
        seen = [v for v in votes[i] if v >= 0]
        for k in range(classes):
            posterior[i, k] = sum(v == k for v in seen) / len(seen) if seen else 1 / classes
    for _ in range(steps):
        prior = np.array([(posterior[:, j].sum() + 1 / classes) / (n + 1) for j in range(classes)])
        table = np.zeros((people, classes, classes))
        for a, j, k in product(range(people), range(classes), range(classes)):
            table[a, j, k] = 1 / classes + sum(posterior[i, j] for i in range(n) if votes[i, a] == k)
        table /= table.sum(2, keepdims=True)
        for i in range(n):
            likelihood = prior.copy()
            for a in range(people):
                if votes[i, a] >= 0:
                    likelihood *= table[a, :, votes[i, a]]
            posterior[i] = likelihood / likelihood.sum()
    return posterior, table, prior


@pytest.mark.parametrize("steps", [1, 4])
def test_each_round_is_the_papers(steps):
    _, votes = crowd(40, torch.stack([even(p, 3) for p in (0.9, 0.6, 0.4, 0.7)]))
    votes[torch.rand(votes.shape, generator=seeded()) < 0.3] = -1
    votes[7] = -1  # nobody looked
    ours = annotate.dawid_skene(votes, 3, steps=steps)
    for mine, theirs in zip(ours, by_the_paper(votes.numpy(), 3, steps), strict=True):
        assert np.allclose(mine.numpy(), theirs, atol=1e-10)
    assert torch.allclose(ours[0][7], ours[2])  # such a row gets the prior


def test_planted_annotators_are_recovered_and_beat_the_majority():
    tables = torch.stack([even(0.95, 4), even(0.8, 4), even(0.3, 4), torch.eye(4)[[1] * 4], even(0.7, 4)])
    truth, votes = crowd(4000, tables, shares=torch.tensor([0.4, 0.3, 0.2, 0.1]))
    posterior, confusion, prior = annotate.dawid_skene(votes, 4)
    assert (confusion - tables).abs().max() < 0.08
    assert torch.allclose(prior, torch.tensor([0.4, 0.3, 0.2, 0.1]).double(), atol=0.03)
    best = accuracy(posterior.argmax(1), truth)
    assert best > accuracy(annotate.majority(votes, 4, rng=seeded()), truth) + 0.02
    promised = float(posterior.amax(1).mean())
    assert abs(promised - best) < 0.02  # it knows how often it is right, where its assumption holds


def test_probabilities_are_proper_and_orders_do_not_matter():
    _, votes = crowd(60, torch.stack([even(p, 3) for p in (0.9, 0.5, 0.7)]))
    posterior, confusion, prior = annotate.dawid_skene(votes, 3)
    for table in (posterior, confusion, prior[None]):
        assert table.dtype == torch.float64 and (table > 0).all()
        assert torch.allclose(table.sum(-1), torch.ones(()).double())
    rows, people = torch.randperm(60, generator=seeded(1)), torch.tensor([2, 0, 1])
    other = annotate.dawid_skene(votes[rows][:, people], 3)
    assert torch.allclose(other[0], posterior[rows]) and torch.allclose(other[1], confusion[people])


# --- Confident learning ---------------------------------------------------------------------------------------------


def noisy_scores(seed, rows=300, classes=4, sharp=3.0):
    rng = seeded(seed)
    truth = torch.arange(rows) % classes
    scores = sharp * torch.nn.functional.one_hot(truth, classes) + torch.randn(rows, classes, generator=rng)
    given = annotate.flip_labels(truth, rng, classes=classes, rate=0.15)
    return truth, given, scores.double().softmax(1)


def test_thresholds_by_hand():
    """Class 0: threshold (0.9 + 0.6) / 2 = 0.75, class 1: (0.8 + 0.2) / 2 = 0.5. Row 1 reaches none: no suspect."""
    p = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.8, 0.2]])
    mask, ranking = annotate.label_errors([0, 0, 1, 1], p)
    assert mask.tolist() == [False, False, False, True]
    assert ranking.tolist() == [3, 1, 2, 0]


def test_the_suspects_are_cleanlabs():
    from cleanlab.count import compute_confident_joint
    from cleanlab.rank import get_label_quality_scores

    found = 0
    for seed in range(8):
        _, given, p = noisy_scores(seed)
        mask, ranking = annotate.label_errors(given, p)
        _, theirs = compute_confident_joint(
            given.numpy(), p.numpy(), calibrate=False, return_indices_of_off_diagonals=True
        )
        assert mask.nonzero().flatten().tolist() == sorted(theirs)
        score = get_label_quality_scores(given.numpy(), p.numpy(), method="normalized_margin")
        assert np.allclose(score[ranking.numpy()], np.sort(score))
        plain = p.argmax(1) != given  # the broken variant: no thresholds
        found += int((plain != mask).sum())
    assert found > 0


def test_planted_flips_are_found():
    truth, given, p = noisy_scores(0, rows=2000, sharp=5.0)
    mask, ranking = annotate.label_errors(given, p)
    planted = given != truth
    assert float(planted[mask].double().mean()) > 0.9 and float(mask[planted].double().mean()) > 0.8
    first = ranking[: int(planted.sum())]
    assert float(planted[first].double().mean()) > 0.9
    assert sorted(ranking.tolist()) == list(range(2000))


def test_a_class_that_no_row_carries_is_never_proposed():
    p = torch.tensor([[0.1, 0.1, 0.8], [0.8, 0.1, 0.1], [0.1, 0.8, 0.1]])
    mask, _ = annotate.label_errors([0, 0, 1], p)
    assert mask.tolist() == [False, False, False]


# --- Bad input ------------------------------------------------------------------------------------------------------

TWO = torch.tensor([[0, 1], [1, 0], [1, 1]])
THREE = torch.tensor([[0, 1, 1], [1, 0, 1]])
FAIR = torch.tensor([[0.5, 0.5], [0.5, 0.5]])


@pytest.mark.parametrize(
    "call, word",
    [
        (lambda: annotate.flip_labels([0, 1], seeded(), classes=2), "exactly one"),
        (lambda: annotate.flip_labels([0, 1], seeded(), classes=2, rate=0.1, confusion=FAIR), "exactly one"),
        (lambda: annotate.flip_labels([0, 1], seeded(), classes=2, rate=1.2), "1.2"),
        (lambda: annotate.flip_labels([0, 1], seeded(), classes=2, rate=float("nan")), "nan"),
        (lambda: annotate.flip_labels([0, 1], seeded(), classes=2, rate="0.1"), "'0.1'"),
        (lambda: annotate.flip_labels([0, 1], seeded(), classes=1, rate=0.1), "at least 2"),
        (lambda: annotate.flip_labels([0, -1], seeded(), classes=2, rate=0.1), "-1"),
        (lambda: annotate.flip_labels([0, 2], seeded(), classes=2, rate=0.1), "got 2"),
        (lambda: annotate.flip_labels([0, 1], 0, classes=2, rate=0.1), "Generator"),
        (lambda: annotate.flip_labels([0, 1], seeded(), classes=2, confusion=FAIR[:1]), r"\(2, 2\)"),
        (lambda: annotate.flip_labels([0, 1], seeded(), classes=2, confusion=2 * FAIR), "sum to 1"),
        (lambda: annotate.flip_labels([0, 1], seeded(), classes=3, confusion=FAIR), r"\(N, 3\)"),
        (lambda: annotate.majority(TWO[0], 2), r"\(N, A\)"),
        (lambda: annotate.majority(torch.zeros(3, 0, dtype=torch.int64), 2), "A ≥ 1"),
        (lambda: annotate.majority(TWO, 1), "classes"),
        (lambda: annotate.majority(TWO.float(), 2), "whole numbers"),
        (lambda: annotate.majority([["up", "down"]], 2), "whole numbers"),
        (lambda: annotate.majority([[0, 1], [0]], 2), "votes"),
        (lambda: annotate.majority(TWO - 2, 2), "-2"),
        (lambda: annotate.majority(TWO, 2, rng=3), "Generator"),
        (lambda: annotate.dawid_skene(TWO, 2), "at least 3"),
        (lambda: annotate.dawid_skene(TWO[:, :1], 2), "at least 3"),
        (lambda: annotate.dawid_skene(torch.cat([TWO, torch.full((3, 1), -1)], 1), 2), r"columns \[2\]"),
        (lambda: annotate.dawid_skene(THREE, 2, steps=0), "steps"),
        (lambda: annotate.dawid_skene(THREE, True), "classes"),
        (lambda: annotate.dawid_skene(THREE, 1), "classes"),
        (lambda: annotate.cohen_kappa([0, 1], [0, 1, 1]), "2 and 3"),
        (lambda: annotate.cohen_kappa([], []), "at least one"),
        (lambda: annotate.cohen_kappa([0, -1], [0, 1]), "-1"),
        (lambda: annotate.cohen_kappa([1, 1], [1, 1]), "not defined"),
        (lambda: annotate.cohen_kappa(["a", "b"], ["a", "b"]), "whole numbers"),
        (lambda: annotate.fleiss_kappa([[0, 1], [0, -1]], 2), "same number"),
        (lambda: annotate.fleiss_kappa([[0, -1], [1, -1]], 2), "at least 2"),
        (lambda: annotate.fleiss_kappa([[-1, -1], [-1, -1]], 2), "at least 2"),
        (lambda: annotate.fleiss_kappa([[1, 1], [1, 1]], 2), "not defined"),
        (lambda: annotate.label_errors([0, 1, 1], FAIR), "3 labels and 2 rows"),
        (lambda: annotate.label_errors([0, 1], 0.9 * FAIR), "sum to 1"),
        (lambda: annotate.label_errors([0, 1], FAIR * float("nan")), "nan"),
        (lambda: annotate.label_errors([0, 1], FAIR + torch.tensor([-1.0, 1.0])), "not negative"),
        (lambda: annotate.label_errors([0, 2], FAIR), "got 2"),
        (lambda: annotate.label_errors([0, 1], torch.ones(2, 1)), "K ≥ 2"),
        (lambda: annotate.label_errors([], torch.ones(0, 2)), "0 labels"),
        (lambda: annotate.label_errors([0, 1], [["a", "b"]] * 2), "numbers"),
    ],
)
def test_bad_input_is_named(call, word):
    with pytest.raises(ValueError, match=word):
        call()
