"""Labels by people: known errors, votes, agreement, annotators estimated without the truth, and suspects in a set.

Labels are int64, 0 to K - 1. Votes have shape (N, A), one column per annotator, and -1 stands for *did not look*.
Everything is computed in float64 on the CPU. Tensors, arrays and lists of whole numbers are accepted.
"""

from numbers import Integral, Real

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["cohen_kappa", "dawid_skene", "fleiss_kappa", "flip_labels", "label_errors", "majority"]


def flip_labels(
    labels: Tensor, rng: torch.Generator, *, classes: int, rate: float | None = None, confusion: Tensor | None = None
) -> Tensor:
    """Return a copy of the labels (N,) int64 with errors of a known kind: each label falls on its own, by chance.

    rate: the probability in [0, 1] that a label is replaced by one of the K - 1 others, all equally likely; a label
        that is flipped is never the old one. confusion: (K, K), row j holds the probabilities of the answers where
        the label is j (so the diagonal is the probability to keep it). Give exactly one of the two.

    Raises ValueError for both or none of them, a rate outside [0, 1], confusion of another shape, with a negative
    entry or a row that does not sum to 1 (to 1e-4), fewer than 2 classes, or a label outside 0 … K - 1.

    >>> rng = torch.Generator().manual_seed(0)
    >>> flip_labels([0, 0, 1, 1], rng, classes=2, rate=1.0)
    tensor([1, 1, 0, 0])

    Taught in: 04_annotation
    """
    labels = _whole("labels", labels, 1, classes, missing=False)
    if not isinstance(rng, torch.Generator):
        raise ValueError(f"rng must be a torch.Generator, got {type(rng).__name__}")
    if (rate is None) == (confusion is None):
        raise ValueError("give exactly one of rate and confusion")
    if confusion is None:
        if isinstance(rate, bool) or not isinstance(rate, Real) or not 0 <= rate <= 1:
            raise ValueError(f"rate is a probability and must lie in [0, 1], got {rate!r}")
        step = torch.randint(1, classes, labels.shape, generator=rng, device=rng.device).cpu()
        falls = torch.rand(len(labels), generator=rng, device=rng.device).cpu() < rate
        return torch.where(falls, (labels + step) % classes, labels)
    table = _probabilities("confusion", confusion, classes)
    if len(table) != classes:
        raise ValueError(f"confusion must have shape ({classes}, {classes}), got {tuple(table.shape)}")
    if not len(labels):
        return labels
    draws = torch.multinomial(table[labels].to(rng.device), 1, generator=rng)
    return draws.squeeze(1).cpu()


def majority(votes: Tensor, classes: int, *, rng: torch.Generator | None = None) -> Tensor:
    """Return the answer that most annotators gave to each row: (N,) int64, or -1 where there is none.

    votes: (N, A), -1 = did not look. A row with a tie gets -1, unless `rng` is given: then one of the tied answers,
    drawn at random. A row that nobody looked at gets -1 in any case.

    Raises ValueError for another shape, votes outside -1 … K - 1, fewer than 2 classes, or no annotator.

    >>> majority([[0, 0, 1], [0, 1, -1], [-1, -1, 2]], 3)
    tensor([ 0, -1,  2])

    Taught in: 04_annotation
    """
    counts = _one_hot(_whole("votes", votes, 2, classes), classes).sum(1)  # (N, K)
    best = counts == counts.amax(1, keepdim=True)
    if rng is None:
        answer = torch.where(best.sum(1) == 1, best.double().argmax(1), -1)
    elif isinstance(rng, torch.Generator):
        lots = torch.rand(counts.shape, generator=rng, device=rng.device).cpu()
        answer = torch.where(best, lots, -1.0).argmax(1)
    else:
        raise ValueError(f"rng must be a torch.Generator or None, got {type(rng).__name__}")
    return torch.where(counts.sum(1) > 0, answer, -1)


def dawid_skene(votes: Tensor, classes: int, *, steps: int = 200) -> tuple[Tensor, Tensor, Tensor]:
    """Estimate labels and annotators together from votes alone: (posterior (N, K), confusion (A, K, K), prior (K,)).

    votes: (N, A), -1 = did not look. posterior[i]: probabilities of the true label of row i. confusion[a, j, k]: the
    probability that annotator a answers k where the truth is j. prior: the shares of the classes. All float64.

    Model: each row has one true label, and given it the annotators answer independently of each other. EM from the
    shares of the votes; it ends after `steps` rounds, or when no posterior moves by more than 1e-6. Smoothing: each
    annotator is credited with one invented answer per class, spread evenly over the K answers, and the prior with one
    invented row, spread evenly over the classes: no probability is ever 0. A row that nobody looked at gets the prior.

    Raises ValueError for fewer than 3 annotators (two cannot tell which of them is wrong), an annotator or a class
    count without any vote, votes outside -1 … K - 1, another shape, fewer than 2 classes, or steps below 1.
    Source: Dawid and Skene (1979), equations 2.3 to 2.5, https://doi.org/10.2307/2346806; the smoothing is ours.

    >>> posterior, confusion, prior = dawid_skene([[0, 0, 1], [1, 1, 0], [0, 0, 0], [1, 1, 1]], 2)
    >>> posterior.argmax(1)
    tensor([0, 1, 0, 1])

    Taught in: 04_annotation
    """
    votes = _whole("votes", votes, 2, classes)
    if isinstance(steps, bool) or not isinstance(steps, Integral) or steps < 1:
        raise ValueError(f"steps must be a whole number of at least 1, got {steps!r}")
    if votes.shape[1] < 3:
        raise ValueError(f"votes need at least 3 annotators to tell who is wrong, got {votes.shape[1]}")
    silent = (votes < 0).all(0).nonzero().flatten().tolist()
    if silent:
        raise ValueError(f"each annotator needs a vote, got none from columns {silent}")
    answers = _one_hot(votes, classes)  # (N, A, K), a row of zeros where nobody looked
    count = answers.sum(1)
    posterior = torch.where(count.sum(1, keepdim=True) > 0, count, 1.0)
    posterior = posterior / posterior.sum(1, keepdim=True)
    flat = answers.flatten(1)  # (N, A·K)
    for _ in range(steps):
        table = (posterior.T @ flat).view(classes, -1, classes).transpose(0, 1) + 1 / classes
        confusion = table / table.sum(2, keepdim=True)  # (A, K, K)
        prior = (posterior.sum(0) + 1 / classes) / (len(votes) + 1)
        score = prior.log() + flat @ confusion.log().transpose(1, 2).flatten(0, 1)  # (N, K)
        before, posterior = posterior, score.softmax(1)
        if (posterior - before).abs().max() < 1e-6:
            break
    return posterior, confusion, prior


def cohen_kappa(a: Tensor, b: Tensor) -> float:
    """Return Cohen's kappa of two annotators: (observed - chance) / (1 - chance) agreement, at most 1.

    a, b: (N,) answers to the same rows. 0: they agree as often as two people who answer at random with the same
    shares of each class; negative: less often than that.

    Raises ValueError for unequal lengths, no row, negative answers (select the rows that both looked at first), and
    where both always give one and the same answer: chance agreement is then 1 and kappa is not defined.
    Source: Cohen (1960), equation 1, https://doi.org/10.1177/001316446002000104

    >>> cohen_kappa([0, 0, 1, 1], [0, 1, 1, 1])
    0.5

    Taught in: 04_annotation
    """
    a, b = (_whole(name, value, 1, None, missing=False) for name, value in (("a", a), ("b", b)))
    if len(a) != len(b) or not len(a):
        raise ValueError(f"a and b must answer the same rows, at least one, got {len(a)} and {len(b)} answers")
    classes = int(torch.cat([a, b]).max()) + 1
    shares = [torch.bincount(v, minlength=classes).double() / len(v) for v in (a, b)]
    return _beyond_chance(float((a == b).double().mean()), float(shares[0] @ shares[1]))


def fleiss_kappa(votes: Tensor, classes: int) -> float:
    """Return Fleiss' kappa of several annotators: the agreement of random pairs of votes, corrected for chance.

    votes: (N, A), -1 = did not look; every row needs the same number n ≥ 2 of votes, which may come from different
    annotators in each row. With two annotators it is close to Cohen's kappa, but takes one set of shares for both.

    Raises ValueError for rows with different numbers of votes or fewer than 2, votes outside -1 … K - 1, another
    shape, fewer than 2 classes, and where all votes are one and the same answer (chance agreement 1).
    Source: Fleiss (1971), equations 1 to 7, https://doi.org/10.1037/h0031619

    >>> fleiss_kappa([[0, 0], [1, 1], [0, 1], [1, 0]], 2)
    0.0

    Taught in: 04_annotation
    """
    counts = _one_hot(_whole("votes", votes, 2, classes), classes).sum(1)  # (N, K)
    each = counts.sum(1).long().unique().tolist()
    if len(each) != 1 or each[0] < 2:
        raise ValueError(f"every row needs the same number of votes, at least 2, got rows with {each}")
    pairs = (counts * (counts - 1)).sum(1) / (each[0] * (each[0] - 1))  # (N,) share of agreeing pairs
    shares = counts.sum(0) / counts.sum()
    return _beyond_chance(float(pairs.mean()), float(shares @ shares))


def label_errors(labels: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """Point at the labels that are probably wrong: (mask (N,) bool, ranking (N,) int64, most suspicious first).

    labels: (N,) as given. probabilities: (N, K) of a classifier that was NOT trained on the row (cross-validation);
    one that was has learnt the wrong label too, and finds little.

    Confident learning: class k gets as threshold the mean of its probability over the rows labelled k. Among the
    classes that reach their threshold the most probable one is taken for the truth; the mask holds the rows where
    that is not the label (no class reaches its threshold: not in the mask). A class that no row carries is never
    proposed. The ranking has all rows, by the margin: probability of the label minus that of the best other class,
    smallest first, equal margins in the order of the rows.

    Raises ValueError for unequal lengths, no row, labels outside 0 … K - 1, fewer than 2 classes, probabilities that
    are negative, not finite, or whose rows do not sum to 1 (to 1e-4).
    Source: Northcutt, Jiang and Chuang (2021), equations 1 and 2, https://arxiv.org/abs/1911.00068

    >>> p = [[0.9, 0.1], [0.8, 0.2], [0.9, 0.1], [0.1, 0.9], [0.2, 0.8]]
    >>> mask, ranking = label_errors([0, 0, 1, 1, 1], p)
    >>> mask.tolist(), int(ranking[0])
    ([False, False, True, False, False], 2)

    Taught in: 04_annotation
    """
    p = _probabilities("probabilities", probabilities, None)
    classes = p.shape[1]
    labels = _whole("labels", labels, 1, classes, missing=False)
    if len(labels) != len(p) or not len(p):
        raise ValueError(f"each row needs a label and probabilities, got {len(labels)} labels and {len(p)} rows")
    given = F.one_hot(labels, classes).double()
    count = given.sum(0)
    threshold = torch.where(count > 0, (given * p).sum(0) / count.clamp(min=1), torch.inf)
    confident = torch.where(p >= threshold - 1e-9, p, -1.0)
    mask = (confident.amax(1) >= 0) & (confident.argmax(1) != labels)
    margin = (given * p).sum(1) - (p - 2 * given).amax(1)
    return mask, margin.argsort(stable=True)


def _beyond_chance(observed: float, chance: float) -> float:
    if chance > 1 - 1e-12:
        raise ValueError("kappa is not defined where all answers are one and the same class: chance agreement is 1")
    return (observed - chance) / (1 - chance)


def _one_hot(votes: Tensor, classes: int) -> Tensor:
    return F.one_hot(votes + 1, classes + 1)[..., 1:].double()


def _whole(name: str, value, ndim: int, classes: int | None, *, missing: bool = True) -> Tensor:
    """value as an int64 tensor of `ndim` dimensions with entries in 0 … classes - 1 (-1 too where `missing`)."""
    if classes is not None and (isinstance(classes, bool) or not isinstance(classes, Integral) or classes < 2):
        raise ValueError(f"classes must be a whole number of at least 2, got {classes!r}")
    numbers = _array(name, value)
    if numbers.dtype.kind not in "iu" and numbers.size:
        raise ValueError(f"{name} must hold whole numbers, got {numbers.dtype}: encode names as 0, 1, 2, …")
    shape = "(N,)" if ndim == 1 else "(N, A) with A ≥ 1"
    if numbers.ndim != ndim or (ndim == 2 and numbers.shape[1] == 0):
        raise ValueError(f"{name} must have shape {shape}, got {numbers.shape}")
    lowest, most = (-1 if missing else 0), (np.inf if classes is None else classes - 1)
    outside = numbers[(numbers < lowest) | (numbers > most)]
    if outside.size:
        raise ValueError(f"{name} must lie in {lowest} … {'' if classes is None else most}, got {outside[0]}")
    return torch.from_numpy(numbers.astype(np.int64))


def _probabilities(name: str, value, classes: int | None) -> Tensor:
    """value as a float64 tensor (N, K) of probability rows."""
    p = _array(name, value)
    if p.dtype.kind not in "fiu":
        raise ValueError(f"{name} must hold numbers, got {p.dtype}")
    if p.ndim != 2 or p.shape[1] < 2 or (classes is not None and p.shape[1] != classes):
        raise ValueError(f"{name} must have shape (N, {classes or 'K ≥ 2'}), got {p.shape}")
    p = p.astype(np.float64)
    if not np.isfinite(p).all() or (p < 0).any():
        raise ValueError(f"{name} must be finite and not negative, got {p[~np.isfinite(p) | (p < 0)][0]}")
    off = np.abs(p.sum(1) - 1) > 1e-4
    if off.any():
        raise ValueError(f"each row of {name} must sum to 1, got {p.sum(1)[off][0]:.4f} in row {int(off.argmax())}")
    return torch.from_numpy(p)


def _array(name: str, value) -> np.ndarray:
    try:
        return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    except ValueError as error:  # rows of unequal lengths
        raise ValueError(f"{name} must be a table of numbers: {error}") from None
