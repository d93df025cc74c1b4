"""Statistics against closed forms, naive float64 loops and the libraries that others use."""

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from torch import nn

from course_utils import evaluate
from course_utils.data import ImageSet
from course_utils.evaluate import (
    accuracy,
    bootstrap_interval,
    features,
    frechet_distance,
    frechet_from_moments,
    inception_score,
    interval,
    kernel_distance,
    moments,
    nearest,
    paired_interval,
    precision_recall,
)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


def rotation(d, seed=0):
    return torch.linalg.qr(normal(d, d, seed=seed))[0]


def image_set(labels, size=4):
    n = len(labels)
    images = torch.randint(0, 256, (n, 1, size, size), generator=rng(), dtype=torch.uint8)
    source = np.array([f"test/{i}" for i in range(n)])
    return ImageSet(images, torch.tensor(labels), ("a", "b", "c"), source)


# --- features and accuracy ---


class Encoder(nn.Module):
    """BatchNorm and Dropout tell training from evaluation."""

    def __init__(self):
        super().__init__()
        self.norm, self.drop, self.head = nn.BatchNorm2d(1), nn.Dropout(0.5), nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.drop(self.norm(x).flatten(1)))

    def embed(self, x):
        assert not self.training
        return self.forward(x)


def test_features_run_in_eval_mode_and_restore_every_flag():
    torch.manual_seed(0)
    net, part = Encoder(), image_set([0] * 10)
    net.train()
    net.norm.eval()  # partly frozen, as in fine-tuning: .train() afterwards would thaw it
    state = {name: value.clone() for name, value in net.state_dict().items()}
    first, again = features(net, part), features(net, part.images, batch_size=3)
    assert first.shape == (10, 3) and first.dtype == torch.float64 and first.device.type == "cpu"
    assert not first.requires_grad and torch.allclose(first, again, atol=1e-6)  # dropout off, batches do not matter
    assert net.training and not net.norm.training and net.drop.training and net.head.training
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in state.items())
    net.eval()
    torch.testing.assert_close(first, net(part.images / 127.5 - 1).detach().double(), atol=1e-6, rtol=0)


def test_features_of_a_bound_method_find_their_module():
    net = Encoder().train()
    assert features(net.embed, image_set([0] * 4)).shape == (4, 3)
    assert net.training and net.drop.training


def test_flags_are_restored_after_a_failure():
    class Broken(Encoder):
        def forward(self, x):
            raise RuntimeError("out of memory")

    net = Broken()
    with pytest.raises(RuntimeError, match="out of memory"):
        features(net, image_set([0] * 4))
    assert net.training and net.drop.training


def test_features_see_the_signed_range():
    images = torch.tensor([0, 255, 127], dtype=torch.uint8).view(3, 1, 1, 1)
    assert features(lambda x: x.flatten(1), images)[:, 0].tolist() == pytest.approx([-1, 1, 127 / 127.5 - 1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_features_refuse_what_may_have_been_scaled(dtype):
    with pytest.raises(ValueError, match="double scaling"):
        features(lambda x: x.flatten(1), torch.zeros(2, 1, 4, 4, dtype=dtype))


def test_why_floats_are_refused():
    """Scaled twice, any two image sets look the same: a perfect score for noise."""
    real, fake = (torch.randint(0, 256, (200, 1, 2, 2), generator=rng(s), dtype=torch.uint8) for s in (0, 1))
    fake = fake // 8
    once = [x.flatten(1) / 127.5 - 1 for x in (real, fake)]
    twice = [x / 127.5 - 1 for x in once]
    assert frechet_distance(*once) > 1 and frechet_distance(*twice) < 1e-3


def test_features_bad_input():
    images = torch.zeros(4, 1, 4, 4, dtype=torch.uint8)

    def flat(x):
        return x.flatten(1)

    for encoder, what in [
        (lambda x: x, r"\(4, 1, 4, 4\)"),
        (lambda x: x.sum((1, 2, 3)), r"\(4,\)"),
        (lambda x: x.flatten(1)[:2], r"\(2, 16\)"),
        (lambda x: None, "NoneType"),
    ]:
        with pytest.raises(ValueError, match=what):
            features(encoder, images)
    with pytest.raises(ValueError, match="got nan in row 3"):
        features(lambda x: flat(x).index_fill(0, torch.tensor(3), math.nan), images)
    for bad in (images[:0], images[0], images.flatten(1)):
        with pytest.raises(ValueError, match=r"\(N, C, H, W\)"):
            features(flat, bad)
    with pytest.raises(ValueError, match="ndarray"):
        features(flat, images.numpy())
    for size in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="batch_size"):
            features(flat, images, batch_size=size)


def test_accuracy_counts():
    part = image_set([0, 1, 2, 1, 0] * 100)  # two batches

    def always(c):
        return lambda x: nn.functional.one_hot(torch.full((len(x),), c), 3).float()

    assert accuracy(always(0), part) == pytest.approx(0.4) and accuracy(always(2), part) == pytest.approx(0.2)
    net = Encoder().train()
    value = accuracy(net, part)
    assert value == accuracy(net, part) and net.training and net.drop.training
    expected = (features(net, part).argmax(1) == part.labels).double().mean().item()
    assert value == expected


def test_accuracy_bad_input():
    logits = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with pytest.raises(ValueError, match="got 2 of 3 rows with label -1"):
        accuracy(logits, image_set([-1, 0, -1]))
    with pytest.raises(ValueError, match="2 logits, but there is a label 2"):
        accuracy(logits, image_set([0, 1, 2]))
    with pytest.raises(ValueError, match="ImageSet"):
        accuracy(logits, image_set([0, 1]).images)
    with pytest.raises(ValueError, match="N ≥ 1"):
        accuracy(logits, image_set([0]).select(slice(0, 0)))
    with pytest.raises(ValueError, match="nan"):
        accuracy(lambda x: torch.full((len(x), 3), math.nan), image_set([0, 1]))


# --- moments and the Fréchet distance ---


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 40), d=st.integers(1, 8), seed=st.integers(0, 10**6))
def test_moments_are_those_of_numpy(n, d, seed):
    x = 3 * normal(n, d, seed=seed) + 5
    mean, covariance = moments(x)
    assert mean.dtype == covariance.dtype == torch.float64
    np.testing.assert_allclose(mean, x.mean(0), rtol=1e-13)
    np.testing.assert_allclose(covariance, np.cov(x.T).reshape(d, d), atol=1e-13)
    from_numpy = moments(x.numpy()[::-1])  # a view with a negative stride
    torch.testing.assert_close(from_numpy, (mean, covariance))


def known_gaussians():
    d = 12
    q = rotation(d)
    spread, other = torch.linspace(0.1, 3, d, dtype=torch.float64), torch.linspace(4, 0.5, d, dtype=torch.float64)
    gap = normal(d, seed=5)
    zero = torch.zeros(d, dtype=torch.float64)
    some, few = spread.clone(), other.clone()
    some[:5], few[3:9] = 0, 0
    shear = normal(d, d, seed=6)
    s = shear @ shear.T / d + 0.1 * torch.eye(d, dtype=torch.float64)
    tiny = torch.ones(d, dtype=torch.float64)
    tiny[3], tiny[7] = 1e-9, 0
    yield "1-D", torch.tensor([1.0]), torch.tensor([[4.0]]), torch.tensor([-2.0]), torch.tensor([[9.0]]), 9 + 1
    diagonal = ((spread - other) ** 2).sum() + gap @ gap
    yield "diagonal", zero, spread.square().diag(), gap, other.square().diag(), diagonal
    turned = [q @ v.square().diag() @ q.T for v in (spread, other, some, few, tiny)]
    yield "commuting, rotated", zero, turned[0], gap, turned[1], diagonal
    yield "both singular", zero, turned[2], gap, turned[3], ((some - few) ** 2).sum() + gap @ gap
    yield "one singular", zero, turned[0], gap, turned[3], ((spread - few) ** 2).sum() + gap @ gap
    yield "rank one", zero, torch.ones(d, d), zero, 4 * torch.ones(d, d), d
    yield "nothing", zero, torch.zeros(d, d), gap, torch.zeros(d, d), gap @ gap
    yield "nothing against something", zero, torch.zeros(d, d), zero, turned[1], other.square().sum()
    yield "scaled", zero, s, zero, 9 * s, 4 * s.trace()  # not diagonal in any basis that is handed over
    ones = torch.ones(d, dtype=torch.float64)
    yield "tiny variances", zero, tiny.square().diag(), zero, ones.diag(), ((tiny - 1) ** 2).sum()
    # a linear map that is symmetric and positive is the optimal transport: d² = tr (I − T) Σ (I − T)
    identity, t = torch.eye(d, dtype=torch.float64), q @ (spread + 0.2).diag() @ q.T
    yield "transported, not commuting", zero, s, zero, t @ s @ t, ((identity - t) @ s @ (identity - t)).trace()


@pytest.mark.parametrize("case", list(known_gaussians()), ids=lambda case: case[0])
def test_frechet_of_known_gaussians(case):
    _, mean_r, cov_r, mean_f, cov_f, expected = case
    got = frechet_from_moments(mean_r, cov_r, mean_f, cov_f)
    size = max(1.0, float(cov_r.trace() + cov_f.trace()))
    assert isinstance(got, float) and abs(got - float(expected)) <= 1e-12 * size
    assert abs(frechet_from_moments(mean_f, cov_f, mean_r, cov_r) - got) <= 1e-12 * size  # symmetric
    assert 0 <= frechet_from_moments(mean_r, cov_r, mean_r, cov_r) <= 1e-12 * size


@pytest.mark.parametrize("smallest, short", [(0.5, True), (1e-4, False), (0.0, False)])
def test_the_short_way_for_many_features_is_taken_only_where_it_is_exact(smallest, short, monkeypatch):
    d = 300
    q, t = rotation(d), rotation(d, seed=1)
    spread = torch.linspace(0.5, 1, d, dtype=torch.float64)
    spread[: d // 2] = smallest
    cov = q @ spread.square().diag() @ q.T
    bend = t @ torch.linspace(0.5, 2, d, dtype=torch.float64).diag() @ t.T
    rest, mean, moved = torch.eye(d, dtype=torch.float64) - bend, torch.zeros(d), bend @ cov @ bend
    svdvals, calls = torch.linalg.svdvals, []
    monkeypatch.setattr(torch.linalg, "svdvals", lambda m: calls.append(m) or svdvals(m))
    got = frechet_from_moments(mean, cov, mean, (moved + moved.T) / 2)
    assert got == pytest.approx((rest @ cov @ rest).trace().item(), abs=1e-12 * cov.trace().item())
    assert (not calls) == short
    assert frechet_from_moments(mean, cov, mean, cov) <= 1e-9
    if smallest == 1e-4:  # the planted slip: the short way everywhere
        squares = torch.linalg.eigvalsh(calls[0].T @ calls[0])
        assert abs(squares.clamp(min=0).sqrt().sum() - svdvals(calls[0]).sum()) > 1e-11


def test_planted_frechet_variants_fail_the_known_answers():
    mean, s = torch.zeros(2, dtype=torch.float64), torch.tensor([[2.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    t = torch.tensor([[1.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    root = {name: torch.from_numpy(scipy.linalg.sqrtm(m.numpy()).real) for name, m in (("s", s), ("t", t))}
    right = (s + t).trace() - 2 * torch.from_numpy(scipy.linalg.sqrtm((s @ t).numpy()).real).trace()
    assert frechet_from_moments(mean, s, mean, t) == pytest.approx(right.item(), abs=1e-12)
    product_of_roots = (s + t).trace() - 2 * (root["s"] @ root["t"]).trace()  # holds for commuting matrices only
    without_two = (s + t).trace() - torch.from_numpy(scipy.linalg.sqrtm((s @ t).numpy()).real).trace()
    for wrong in (product_of_roots, without_two, right.sqrt()):
        assert abs(wrong - right) > 1e-2


@settings(max_examples=30, deadline=None)
@given(d=st.integers(1, 10), n=st.integers(2, 30), m=st.integers(2, 30), seed=st.integers(0, 10**6))
def test_frechet_distance_is_that_of_the_moments(d, n, m, seed):
    """Thin factors (N ≤ D), Cholesky and eigenvectors give one answer; constant features and few rows are answered."""
    real, fake = normal(n, d, seed=seed), 2 * normal(m, d, seed=seed + 1) + 1
    real[:, 0] = 0.1
    got = frechet_distance(real, fake)
    assert got >= 0
    assert got == pytest.approx(frechet_from_moments(*moments(real), *moments(fake)), abs=1e-6 * d)
    assert frechet_distance(real, real) <= 1e-9 and frechet_distance(fake, fake) <= 1e-9
    assert got == pytest.approx(frechet_distance(fake, real), abs=1e-9)


@pytest.mark.parametrize("n", [300, 20])
def test_frechet_agrees_with_scipy_sqrtm(n):
    real, fake = normal(n, 16) @ normal(16, 16, seed=2), 1.2 * normal(n, 16, seed=1) + 0.3
    (mean_r, cov_r), (mean_f, cov_f) = moments(real), moments(fake)
    root = scipy.linalg.sqrtm((cov_r @ cov_f).numpy()).real
    expected = (mean_r - mean_f).square().sum() + cov_r.trace() + cov_f.trace() - 2 * np.trace(root)
    assert frechet_distance(real, fake) == pytest.approx(expected.item(), rel=1e-6)


def test_frechet_agrees_with_torchmetrics():
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Flat(nn.Module):
        num_features = 12

        def forward(self, x):
            return x.flatten(1)

    real, fake = normal(400, 3, 2, 2), 1.3 * normal(500, 3, 2, 2, seed=1) + 0.2
    metric = FrechetInceptionDistance(feature=Flat()).set_dtype(torch.float64)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    assert frechet_distance(real.flatten(1), fake.flatten(1)) == pytest.approx(metric.compute().item(), rel=1e-6)


def test_frechet_is_biased_upwards_and_less_so_with_more_rows():
    floor = [
        np.mean([frechet_distance(normal(n, 8, seed=2 * s), normal(n, 8, seed=2 * s + 1)) for s in range(20)])
        for n in (20, 80, 320)
    ]
    assert floor[0] > 2 * floor[1] > 4 * floor[2] > 0


def test_frechet_orders_shifts_and_ignores_rotations_of_both():
    real, q = normal(200, 6), rotation(6)
    distances = [frechet_distance(real, real + shift) for shift in (0.0, 0.1, 0.5, 2.0)]
    assert distances == sorted(distances) and distances[-1] == pytest.approx(6 * 4)
    fake = 2 * normal(150, 6, seed=1)
    assert frechet_distance(real @ q, fake @ q) == pytest.approx(frechet_distance(real, fake), rel=1e-12)


def test_frechet_from_moments_bad_input():
    mean, eye = torch.zeros(3), torch.eye(3)
    skew, indefinite, hollow = eye.clone(), eye.clone(), torch.zeros(3, 3)
    skew[0, 1], indefinite[2, 2] = 0.5, -1.0
    hollow[0, 1] = hollow[1, 0] = 1.0
    bent = torch.tensor([[1.0, 0.9, 0.9], [0.9, 1.0, -0.9], [0.9, -0.9, 1.0]])
    for args, what in [
        ((mean, eye, torch.zeros(2), torch.eye(2)), "got 3 and 2"),
        ((mean, torch.eye(2), mean, eye), r"cov_r must have shape \(3, 3\)"),
        ((mean, eye, mean, eye[0]), r"cov_f must have shape \(3, 3\)"),
        ((eye, eye, mean, eye), r"mean_r must have shape \(n,\)"),
        ((mean, skew, mean, eye), "cov_r must be symmetric"),
        ((mean, eye, mean, indefinite), "cov_f must be positive semi-definite, got the variance -1"),
        ((mean, hollow, mean, eye), "cov_r must be positive semi-definite.*eigenvalue -1"),
        ((mean, bent, mean, eye), "cov_r must be positive semi-definite.*eigenvalue"),
        ((mean, eye * math.nan, mean, eye), "cov_r must be finite, got nan"),
        ((mean + math.inf, eye, mean, eye), "mean_r must be finite, got inf"),
    ]:
        with pytest.raises(ValueError, match=what):
            frechet_from_moments(*args)


def test_a_float32_covariance_is_welcome():
    x = normal(6, 10).float()
    covariance = torch.cov(x.T)  # singular, with eigenvalues a little below zero
    assert torch.linalg.eigvalsh(covariance)[0] < 0
    assert frechet_from_moments(x.mean(0), covariance, x.mean(0), covariance) < 1e-9


# --- kernel distance ---


def kernel(x, y):
    return (np.asarray(x) @ np.asarray(y).T / x.shape[1] + 1) ** 3


def naive_mmd(x, y):
    """The definition, pair by pair, in float64."""
    n, m, d = len(x), len(y), x.shape[1]

    def k(a, b):
        return (sum(float(p) * float(q) for p, q in zip(a, b, strict=True)) / d + 1) ** 3

    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    xy = sum(k(a, b) for a in x for b in y) / (n * m)
    return xx + yy - 2 * xy


def brute_jackknife(x, y):
    def without(rows, i):
        return torch.cat([rows[:i], rows[i + 1 :]])

    left_x = np.array([naive_mmd(without(x, i), y) for i in range(len(x))])
    left_y = np.array([naive_mmd(x, without(y, j)) for j in range(len(y))])
    return math.sqrt((len(x) - 1) * left_x.var() + (len(y) - 1) * left_y.var())


@pytest.mark.parametrize("way", ["moments", "blocks"])
@pytest.mark.parametrize("n, m, d", [(9, 6, 1), (7, 12, 3), (5, 5, 8)])
def test_kernel_distance_and_its_error_are_the_definition(monkeypatch, way, n, m, d):
    both = {"moments": evaluate._sums_by_moments, "blocks": evaluate._sums_by_blocks}
    for name in both:
        monkeypatch.setattr(evaluate, f"_sums_by_{name}", both[way])
    x, y = normal(n, d), normal(m, d, seed=1) + 0.5
    value, error = kernel_distance(x, y)
    assert value == pytest.approx(naive_mmd(x, y), rel=1e-9, abs=1e-12)
    assert error == pytest.approx(brute_jackknife(x, y), rel=1e-9)


@pytest.mark.parametrize("shift", [0.0, 30.0])
def test_both_ways_of_summing_are_exact_on_many_rows(shift):
    """More rows than one chunk or block holds, and features far from zero, where float32 has no digit left."""
    x, y = normal(1500, 5) + shift, normal(2900, 5, seed=1) + shift
    kxx, kyy, kxy = kernel(x, x), kernel(y, y), kernel(x, y)
    n, m = len(x), len(y)
    expected = (kxx.sum() - kxx.trace()) / n / (n - 1) + (kyy.sum() - kyy.trace()) / m / (m - 1) - 2 * kxy.mean()
    assert abs(kernel_distance(x, y)[0] - expected) <= 1e-9 * max(1.0, kxy.mean())
    wide = [torch.cat([rows / math.sqrt(5), torch.ones(len(rows), 1)], 1) for rows in (x, y)]
    for sums in (evaluate._sums_by_moments(*wide), evaluate._sums_by_blocks(*wide)):
        for got, oracle in zip(sums, (kxx.sum(1), kxy.sum(1), kxy.sum(0), kyy.sum(1)), strict=True):
            np.testing.assert_allclose(got, oracle, rtol=1e-11)


@pytest.mark.parametrize("n", [50, 60])
def test_the_two_ways_meet_where_they_change_over(n, monkeypatch):
    """Five features: blocks below 3 · 6² = 108 rows, moments from there on."""
    unused = "_sums_by_moments" if n == 50 else "_sums_by_blocks"
    monkeypatch.setattr(evaluate, unused, None)
    x, y = normal(n, 5), 1.1 * normal(n, 5, seed=1)
    assert kernel_distance(x, y) == pytest.approx(_from_matrices(x, y), rel=1e-9)


def _from_matrices(x, y):
    kxx, kyy, kxy = kernel(x, x), kernel(y, y), kernel(x, y)
    np.fill_diagonal(kxx, 0)
    np.fill_diagonal(kyy, 0)
    n, m = len(x), len(y)

    def value(rows_x, rows_y):
        xx, yy = kxx[np.ix_(rows_x, rows_x)].sum(), kyy[np.ix_(rows_y, rows_y)].sum()
        a, b = len(rows_x), len(rows_y)
        return xx / a / (a - 1) + yy / b / (b - 1) - 2 * kxy[np.ix_(rows_x, rows_y)].mean()

    all_x, all_y = np.arange(n), np.arange(m)
    left_x = np.array([value(np.delete(all_x, i), all_y) for i in range(n)])
    left_y = np.array([value(all_x, np.delete(all_y, j)) for j in range(m)])
    return value(all_x, all_y), math.sqrt((n - 1) * left_x.var() + (m - 1) * left_y.var())


def test_kernel_distance_is_unbiased_and_a_biased_variant_is_caught():
    generator = rng(0)
    unbiased, biased = [], []
    for _ in range(1000):
        x, y = torch.randn(2, 50, 4, generator=generator, dtype=torch.float64)
        unbiased.append(kernel_distance(x, y)[0])
        biased.append(kernel(x, x).mean() + kernel(y, y).mean() - 2 * kernel(x, y).mean())  # with the diagonal

    def standard_errors_from_zero(values):
        return np.mean(values) / (np.std(values, ddof=1) / math.sqrt(len(values)))

    assert abs(standard_errors_from_zero(unbiased)) < 4
    assert standard_errors_from_zero(biased) > 20
    assert 0.3 < np.mean(np.array(unbiased) < 0) < 0.8  # negative about half of the time: not clipped


def test_the_jackknife_error_is_the_spread_over_fresh_samples():
    """For different laws; between equal ones it may only be too large."""
    for shift, low, high in ((1.0, 0.85, 1.2), (0.0, 0.95, 3.0)):
        values, errors = zip(
            *[kernel_distance(normal(60, 3, seed=2 * s), normal(80, 3, seed=2 * s + 1) + shift) for s in range(300)],
            strict=True,
        )
        assert low < np.sqrt(np.mean(np.square(errors))) / np.std(values, ddof=1) < high


def test_kernel_distance_by_subsets():
    x, y = normal(200, 4), normal(180, 4, seed=1) + 0.7
    exact, _ = kernel_distance(x, y)
    value, error = kernel_distance(x, y, rng(0), subset=60, repeats=200)
    assert abs(value - exact) < 4 * error
    assert kernel_distance(x, y, rng(0), subset=60, repeats=200) == (value, error)
    assert kernel_distance(x, y, rng(1), subset=60, repeats=200) != (value, error)
    more = kernel_distance(x, y, rng(0), subset=60, repeats=800)[1]
    assert more == pytest.approx(error / 2, rel=0.2)  # of the subsampling, hence it goes to zero with more subsets
    whole, nothing = kernel_distance(x, y[:200], rng(0), subset=180, repeats=3)
    assert nothing < kernel_distance(x, y)[1] and whole == pytest.approx(exact, rel=0.2)
    same, zero = kernel_distance(x[:50], y[:50], rng(0), subset=50, repeats=4)  # every subset is the set
    assert same == pytest.approx(kernel_distance(x[:50], y[:50])[0]) and zero < 1e-12


def test_kernel_distance_agrees_with_torchmetrics():
    from torchmetrics.image.kid import KernelInceptionDistance

    class Flat(nn.Module):
        def forward(self, x):
            return x.flatten(1)

    x, y = normal(300, 3, 2, 2), 1.2 * normal(300, 3, 2, 2, seed=1) + 0.1
    torch.manual_seed(0)
    metric = KernelInceptionDistance(feature=Flat(), subsets=50, subset_size=100)
    metric.set_dtype(torch.float64)
    metric.update(x, real=True)
    metric.update(y, real=False)
    mean, std = (v.item() for v in metric.compute())
    value, error = kernel_distance(x.flatten(1), y.flatten(1), rng(0), subset=100, repeats=50)
    assert abs(value - mean) < 4 * math.hypot(error, std / math.sqrt(50))
    assert abs(kernel_distance(x.flatten(1), y.flatten(1))[0] - mean) < 4 * std / math.sqrt(50)
    assert error * math.sqrt(50) == pytest.approx(std, rel=0.5)


def test_kernel_distance_special_cases():
    constant = torch.ones(5, 3)
    assert kernel_distance(constant, constant) == (0.0, 0.0)
    x = normal(2, 3)
    value, error = kernel_distance(x, normal(4, 3, seed=1))
    assert math.isfinite(value) and math.isnan(error)  # a set of two has no leave-one-out
    few = kernel_distance(normal(4, 500), normal(5, 500, seed=1))  # fewer rows than features
    assert all(map(math.isfinite, few))


def test_kernel_distance_bad_input():
    x = normal(10, 3)
    for call, what in [
        (lambda: kernel_distance(x, x, rng(), subset=11), "subset must not exceed the 10 real or 10 fake rows, got 11"),
        (lambda: kernel_distance(x, x[:5], rng(), subset=6), "got 6"),
        (lambda: kernel_distance(x, x, rng(), subset=1), "subset must be a whole number of at least 2, got 1"),
        (lambda: kernel_distance(x, x, rng(), subset=2.5), "got 2.5"),
        (lambda: kernel_distance(x, x, rng(), subset=5, repeats=1), "repeats .* got 1"),
        (lambda: kernel_distance(x, x, subset=5), "needs rng"),
        (lambda: kernel_distance(x, x, 0, subset=5), "needs rng, a torch.Generator, got 0"),
        (lambda: kernel_distance(1e120 * x, x), "scale them down"),
    ]:
        with pytest.raises(ValueError, match=what):
            call()


# --- classifier score ---


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 60), k=st.integers(2, 10), splits=st.integers(1, 10), seed=st.integers(0, 10**6))
def test_inception_score_is_the_entropy_gap(n, k, splits, seed):
    """IS = exp(H(mean prediction) − mean H(prediction)), chunk by chunk, by scipy."""
    p = torch.softmax(3 * normal(n, k, seed=seed), 1).numpy()
    splits = min(n, splits)
    scores = []
    for chunk in np.array_split(p, splits):
        scores.append(np.exp(scipy.stats.entropy(chunk.mean(0)) - scipy.stats.entropy(chunk, axis=1).mean()))
        assert 1 - 1e-12 <= scores[-1] <= k + 1e-12
    assert inception_score(p, splits=splits) == pytest.approx((np.mean(scores), np.std(scores)), abs=1e-12)


def test_inception_score_is_one_only_when_all_predictions_are_equal():
    row = torch.softmax(normal(1, 7), 1)
    assert inception_score(row.repeat(50, 1), splits=5) == pytest.approx((1, 0), abs=1e-12)
    certain = torch.eye(7)[:1].repeat(50, 1)
    assert inception_score(certain, splits=5) == pytest.approx((1, 0), abs=1e-12)
    one_differs = row.repeat(50, 1)
    one_differs[13] = torch.softmax(normal(1, 7, seed=1), 1)
    assert inception_score(one_differs, splits=1)[0] > 1 + 1e-4


def test_inception_score_is_k_for_balanced_certainty_in_every_split():
    k = 10
    balanced = torch.eye(k).repeat(20, 1)
    assert inception_score(balanced, splits=10) == pytest.approx((k, 0), abs=1e-12)
    one_per_class = torch.eye(k)
    assert inception_score(one_per_class, splits=1)[0] == pytest.approx(k)  # ten images, each perfect
    sorted_by_class = balanced[balanced.argmax(1).argsort()]
    assert inception_score(sorted_by_class, splits=10) == pytest.approx((1, 0), abs=1e-12)  # the caller shuffles
    assert inception_score(0.99 * balanced + 0.01 / k, splits=10)[0] < k - 0.1
    assert inception_score(torch.cat([balanced, torch.eye(k)[:1].repeat(50, 1)]), splits=1)[0] < k - 0.1


def test_inception_score_bad_input():
    good = torch.full((20, 4), 0.25)
    off, minus = good.clone(), good.clone()
    off[7, 0] += 2e-4
    minus[3] = torch.tensor([-0.5, 0.5, 0.5, 0.5])
    for call, what in [
        (lambda: inception_score(off, splits=1), "row 7 sums to 1.0002"),
        (lambda: inception_score(minus, splits=1), "not be negative, got -0.5"),
        (lambda: inception_score(normal(20, 4).abs(), splits=1), "sum to 1"),
        (lambda: inception_score(good, splits=21), "splits must not exceed the 20 rows, got 21"),
        (lambda: inception_score(good, splits=0), "splits .* got 0"),
        (lambda: inception_score(good[:1], splits=1), r"\(1, 4\)"),
        (lambda: inception_score(good * math.nan, splits=1), "finite, got nan"),
    ]:
        with pytest.raises(ValueError, match=what):
            call()
    off[7, 0] -= 1.5e-4
    assert inception_score(off, splits=1)[0] > 1  # off by less than 1e-4: float32 softmax


# --- precision, recall, density, coverage ---


def naive_prdc(real, fake, k):
    """The definition with full float64 distance matrices of differences."""
    real, fake = np.asarray(real, dtype=np.float64), np.asarray(fake, dtype=np.float64)

    def radii(x):
        d = cdist(x, x, "sqeuclidean")
        np.fill_diagonal(d, np.inf)
        return np.sort(d, 1)[:, k - 1]

    d, real_radius, fake_radius = cdist(real, fake, "sqeuclidean"), radii(real), radii(fake)
    inside = d < real_radius[:, None]
    return {
        "precision": inside.any(0).mean(),
        "recall": (d < fake_radius).any(1).mean(),
        "density": inside.sum(0).mean() / k,
        "coverage": inside.any(1).mean(),
    }


def kinds_of_rows(kind, n, d, seed):
    x = normal(n, d, seed=seed)
    return {
        "normal": lambda: x,
        "far from zero": lambda: x + 1e6,  # ‖x‖² − 2xy + ‖y‖² has no digit left in float32 and few in float64
        "lattice": lambda: x.round(),  # ties everywhere
        "bits": lambda: (x > 0).double(),
        "two scales": lambda: torch.cat([1e-9 * x[: n // 2], x[n // 2 :] + 50]),
        "outlier": lambda: torch.cat([x[:-1], torch.full((1, d), 1e8, dtype=x.dtype)]),
        "huge": lambda: 1e200 * x,
        "tiny": lambda: 1e-200 * x,
        "constant": lambda: torch.ones_like(x),
    }[kind]()


ROWS = ["normal", "far from zero", "lattice", "bits", "two scales", "outlier", "constant"]


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(ROWS),
    other=st.sampled_from([None, *ROWS]),
    n=st.integers(3, 70),
    m=st.integers(3, 70),
    d=st.integers(1, 9),
    k=st.integers(1, 6),
    seed=st.integers(0, 10**6),
)
def test_precision_recall_equals_the_definition(kind, other, n, m, d, k, seed):
    k = min(k, n - 1, m - 1)
    real, fake = kinds_of_rows(kind, n, d, seed), kinds_of_rows(other or kind, m, d, seed + 1)
    assert precision_recall(real, fake, k=k) == pytest.approx(naive_prdc(real, fake, k), abs=1e-15)


@pytest.mark.parametrize("kind", [*ROWS, "huge", "tiny"])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_precision_recall_on_many_rows_by_blocks(kind, k, monkeypatch):
    """Groups of several columns, columns outside any group, and a float32 screen that must lose nobody."""
    scale = {"huge": 1e-200, "tiny": 1e200}.get(kind, 1.0)  # what scipy can square
    real, fake = kinds_of_rows(kind, 1501, 4, 0), kinds_of_rows(kind, 1403, 4, 1)
    fake[:300] = real[:300]  # copies: distances that are exactly 0 or exactly a radius
    assert precision_recall(real, fake, k=k) == pytest.approx(naive_prdc(real * scale, fake * scale, k), abs=1e-15)
    whole = evaluate._lower_bounds

    def in_steps(x, y):
        for start, lower in whole(x, y):
            for s in range(0, len(lower), 97):
                yield start + s, lower[s : s + 97]

    expected = precision_recall(real, fake, k=k)
    monkeypatch.setattr(evaluate, "_lower_bounds", in_steps)
    assert precision_recall(real, fake, k=k) == expected


@pytest.mark.parametrize("kind", [*ROWS, "huge", "tiny"])
@pytest.mark.parametrize("d", [1, 64, 2000])
def test_the_screen_is_a_lower_bound(kind, d):
    """It must never exceed a distance; and be tight, or it would save nothing."""
    x, y, _ = evaluate._same_scale(kinds_of_rows(kind, 60, d, 0), kinds_of_rows(kind, 50, d, 1))
    (start, lower), *more = evaluate._lower_bounds(x, y)
    exact = cdist(x, y, "sqeuclidean")
    assert start == 0 and not more and lower.shape == (60, 50) and (lower <= exact).all()
    if kind == "normal":
        assert (exact - lower).max() < 2e-3 * exact.max()


def test_a_screen_that_may_exceed_is_caught(monkeypatch):
    """The planted slip: a plain float32 Gram matrix in place of the bound."""

    def careless(x, y):
        a, b = x.astype(np.float32), y.astype(np.float32)
        yield 0, (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T

    real, fake = normal(200, 3) + 1e4, normal(200, 3, seed=1) + 1e4
    expected = naive_prdc(real, fake, 5)
    assert precision_recall(real, fake, k=5) == pytest.approx(expected)
    monkeypatch.setattr(evaluate, "_lower_bounds", careless)
    try:
        wrong = precision_recall(real, fake, k=5)
    except IndexError:  # a row without k candidates
        return
    assert wrong != pytest.approx(expected)


def test_precision_recall_agrees_with_prdc():
    from prdc import compute_prdc

    for seed, shift, k in ((0, 0.0, 5), (2, 0.5, 3), (4, 2.0, 10)):
        real, fake = normal(300, 8, seed=seed).numpy(), 1.1 * normal(400, 8, seed=seed + 1).numpy() + shift
        assert precision_recall(real, fake, k=k) == pytest.approx(compute_prdc(real, fake, nearest_k=k), abs=1e-12)


def test_coverage_of_a_tiny_set_tells_n_from_n_minus_one():
    n, m, k, runs = 6, 5, 2, 1500
    values = [
        precision_recall(normal(n, 2, seed=2 * s), normal(m, 2, seed=2 * s + 1), k=k)["coverage"] for s in range(runs)
    ]
    error = np.std(values, ddof=1) / math.sqrt(runs)
    assert abs(np.mean(values) - (1 - 5 / 10 * 4 / 9)) < 4 * error  # the centre is no neighbour of its own
    assert abs(np.mean(values) - (1 - 6 / 11 * 5 / 10)) > 6 * error


def test_under_one_law_density_and_coverage_are_known():
    n, m, k, runs = 60, 45, 4, 150
    scores = [precision_recall(normal(n, 3, seed=2 * s), normal(m, 3, seed=2 * s + 1), k=k) for s in range(runs)]
    expected = 1 - math.prod((n - i) / (n + m - i) for i in range(1, k + 1))

    def away(name, value):
        values = [score[name] for score in scores]
        return abs(np.mean(values) - value) / (np.std(values, ddof=1) / math.sqrt(runs))

    # a real ball holds k of the n − 1 other real rows, hence each fresh row with probability k/n: density 1
    assert away("density", 1) < 4 and away("coverage", expected) < 4
    assert np.mean([score["precision"] for score in scores]) < 1 and np.mean([score["recall"] for score in scores]) < 1
    self_included = 1 - math.prod((n - i) / (n + m - i) for i in range(k - 1))  # the usual off-by-one
    assert away("coverage", self_included) > 10


def test_known_orderings():
    real = normal(200, 2)
    copies = precision_recall(real, real.clone())
    assert copies["precision"] == copies["recall"] == copies["coverage"] == 1 and copies["density"] >= 1  # a memoriser
    far = precision_recall(real, real + 100)
    assert far == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}
    collapsed = precision_recall(real, 0.01 * normal(200, 2, seed=1))
    assert collapsed["precision"] == 1 and collapsed["coverage"] < 0.2 and collapsed["recall"] < 0.1
    outliers = torch.cat([real, torch.tensor([[50.0, 0.0], [-50.0, 0.0], [0.0, 50.0], [0.0, -50.0]])])
    noise = 30 * (2 * torch.rand(200, 2, generator=rng(3), dtype=torch.float64) - 1)
    clean, dirty = precision_recall(real, noise), precision_recall(outliers, noise)
    assert dirty["precision"] > clean["precision"] + 0.5 and dirty["coverage"] < clean["coverage"] + 0.1
    spoilt = precision_recall(real, torch.cat([0.01 * normal(200, 2, seed=1), outliers[-4:]]))
    assert spoilt["recall"] > collapsed["recall"] + 0.5 and spoilt["coverage"] < 0.2  # coverage is not fooled


def test_a_point_that_is_there_k_plus_one_times_has_an_empty_ball():
    real = torch.cat([torch.zeros(4, 2), 10 + normal(20, 2)])
    fake = torch.zeros(10, 2) + 1e-3 * normal(10, 2, seed=1)
    assert precision_recall(real, fake, k=3)["precision"] == 0
    assert precision_recall(real, fake, k=4)["precision"] == 1


def test_swapping_real_and_fake_swaps_precision_and_recall():
    real, fake = normal(120, 3), 0.5 * normal(90, 3, seed=1)
    one, other = precision_recall(real, fake), precision_recall(fake, real)
    assert (one["precision"], one["recall"]) == (other["recall"], other["precision"])
    assert one["precision"] > one["recall"]  # too narrow


def test_precision_recall_ignores_the_users_float32_precision():
    real, fake = (normal(400, 32, seed=s).float() for s in (0, 1))
    expected = precision_recall(real, fake)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert precision_recall(real, fake) == expected
            assert kernel_distance(real, fake) == kernel_distance(real.double(), fake.double())
            assert frechet_distance(real, fake) == frechet_distance(real.double(), fake.double())
    finally:
        torch.set_float32_matmul_precision(before)


def test_precision_recall_bad_input():
    x = normal(10, 3)
    for k in (10, 11):
        with pytest.raises(ValueError, match=f"k must be smaller than the 10 real and the 10 fake rows, got {k}"):
            precision_recall(x, x, k=k)
    with pytest.raises(ValueError, match="4 fake rows, got 4"):
        precision_recall(x, x[:4], k=4)
    for k in (0, -1, 1.5):
        with pytest.raises(ValueError, match="k must be a whole number"):
            precision_recall(x, x, k=k)
    assert precision_recall(x, x, k=9)["precision"] == 1


# --- what all pairs of feature sets refuse ---

PAIRS = [frechet_distance, kernel_distance, lambda r, f: precision_recall(r, f, k=1)]


@pytest.mark.parametrize("score", PAIRS)
@pytest.mark.parametrize("swap", [False, True])
def test_bad_features(score, swap):
    good = normal(6, 3)
    holed, infinite = good.clone(), good.clone()
    holed[4, 1], infinite[0, 0] = math.nan, -math.inf
    for bad, what in [
        (good[:1], r"\(1, 3\)"),
        (good[:0], r"\(0, 3\)"),
        (good[:, :0], r"\(6, 0\)"),
        (good[:, 0], r"\(6,\)"),
        (good[:, :2], "got 2 and 3" if swap else "got 3 and 2"),
        (good.view(6, 3, 1), r"\(6, 3, 1\)"),
        (holed, "must be finite, got nan"),
        (infinite, "must be finite, got -inf"),
        (good.to(torch.complex64), "complex64"),
        (np.array([["a", "b", "c"]] * 6), "real numbers"),
    ]:
        with pytest.raises(ValueError, match=what):
            score(*((bad, good) if swap else (good, bad)))


@pytest.mark.parametrize("score", PAIRS)
def test_types_of_features_do_not_matter(score):
    real, fake = normal(30, 4).float(), normal(20, 4, seed=1).float()
    expected = score(real, fake)
    assert score(real.numpy(), fake.numpy()) == expected == score(real.double(), fake.requires_grad_())
    assert score(real.numpy(), fake) == expected
    flipped = real.T.contiguous().T  # not contiguous
    assert score(flipped, fake) == expected
    before = real.clone()
    score(real, fake)
    assert torch.equal(real, before)


def test_frechet_refuses_what_overflows():
    with pytest.raises(ValueError, match="scale them down"):
        frechet_distance(1e200 * normal(9, 3), normal(9, 3))  # never a NaN, and never a 0 in its place
    with pytest.raises(ValueError, match="scale them down"):
        frechet_distance(1e200 * normal(3, 9), normal(3, 9))
    with pytest.raises(ValueError, match="scale them down"):
        moments(1e200 * normal(9, 3))


# --- nearest ---


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(ROWS),
    n=st.integers(1, 200),
    m=st.integers(1, 40),
    d=st.integers(1, 20),
    seed=st.integers(0, 10**6),
)
def test_nearest_is_the_smallest_distance(kind, n, m, d, seed):
    reference, queries = kinds_of_rows(kind, n, d, seed), kinds_of_rows(kind, m, d, seed + 1)
    got = nearest(queries, reference)
    assert got.shape == (m,) and got.dtype == torch.float64
    np.testing.assert_allclose(got, cdist(queries, reference).min(1), rtol=1e-13)


def test_nearest_finds_copies_exactly():
    """The usual ‖a‖² + ‖b‖² − 2ab would put copies at a distance of 1e-4 or at NaN."""
    reference = 100 * normal(3000, 50) + 1e5
    queries = torch.cat([reference[[7, 2999, 0]], reference[:1] + 1e-6])
    got = nearest(queries, reference)
    assert got[:3].tolist() == [0, 0, 0] and got[3].item() == pytest.approx(1e-6 * math.sqrt(50), rel=1e-4)
    assert nearest(1e-200 * queries[:2], 1e-200 * reference).tolist() == [0, 0]


def test_nearest_in_grey_levels():
    images = torch.randint(0, 256, (20, 1, 4, 4), generator=rng(), dtype=torch.uint8)
    queries = images[:3].clone()
    queries[1, 0, 0, 0] ^= 1  # one grey level: no wrap-around of unsigned differences
    queries[2] = 255 - queries[2]
    assert nearest(queries, images)[:2].tolist() == [0, 1]
    signed = nearest(queries / 127.5 - 1, images / 127.5 - 1)
    torch.testing.assert_close(signed * 127.5, nearest(queries, images), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(nearest(queries.numpy(), images.numpy()), nearest(queries, images))


def test_nearest_bad_input():
    x = normal(5, 3)
    byte = torch.zeros(5, 3, dtype=torch.uint8)
    for q, r, what in [
        (x, x[:, :2], "equal rows"),
        (x[0], x, "equal rows"),
        (x.view(5, 3, 1), x, "equal rows"),
        (x, byte, "one of each"),
        (byte.numpy(), x, "one of each"),
        (x, x[:0], "N ≥ 1"),
        (x[:0], x, "N ≥ 1"),
        (x, x * math.nan, "reference must be finite, got nan"),
        (x / 0, x, "queries must be finite"),
    ]:
        with pytest.raises(ValueError, match=what):
            nearest(q, r)


# --- intervals ---


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.floats(-100, 100), min_size=2, max_size=30), level=st.floats(0.5, 0.999))
def test_interval_is_students(values, level):
    low, high = interval(values, level=level)
    mean, error = np.mean(values), np.std(values, ddof=1) / math.sqrt(len(values))
    if error > 1e-9:
        expected = scipy.stats.t.interval(level, len(values) - 1, mean, error)
        assert (low, high) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert low <= mean + 1e-12 and mean - 1e-12 <= high


def test_interval_covers_as_often_as_it_says_and_a_normal_quantile_does_not():
    runs, n = 4000, 5
    samples = normal(runs, n) + 3
    hits = sum(low < 3 < high for low, high in map(interval, samples))
    assert abs(hits / runs - 0.95) < 4 * math.sqrt(0.95 * 0.05 / runs)
    many = normal(40_000, n, seed=1)

    def covered(half):
        return (many.mean(1).abs() < half).double().mean()

    # planted slips: 1.96 for five seeds; s with n instead of n − 1
    assert covered(1.96 * many.std(1) / math.sqrt(n)) < 0.90
    assert covered(scipy.stats.t.ppf(0.975, n - 1) * many.std(1, correction=0) / math.sqrt(n)) < 0.94
    half_level = [interval(x, level=0.5) for x in samples[:2000]]
    assert abs(np.mean([low < 3 < high for low, high in half_level]) - 0.5) < 4 * math.sqrt(0.25 / 2000)


def test_interval_takes_lists_arrays_and_tensors():
    values = [0.1, 0.4, 0.35, 0.8]
    assert interval(values) == interval(np.array(values)) == interval(torch.tensor(values, dtype=torch.float64))
    assert interval(tuple(values)) == interval(values)
    assert interval([2.0, 2.0, 2.0]) == (2.0, 2.0)


def test_paired_interval_is_the_paired_t_test():
    a, b = normal(8), 0.9 * normal(8) + 0.1 * normal(8, seed=1) - 0.2
    test = scipy.stats.ttest_rel(a, b)
    for level in (0.9, 0.95):
        low, high = paired_interval(a, b, level=level)
        expected = test.confidence_interval(level)
        assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-9)
        assert (low > 0 or high < 0) == (test.pvalue < 1 - level)
    low, high = paired_interval(a, b)
    assert paired_interval(b, a) == pytest.approx((-high, -low))


def test_pairing_cancels_what_a_seed_does_to_both_and_order_matters():
    seeds = 0.1 * normal(10)
    a, b = seeds + 0.81, seeds + 0.80 + 0.001 * normal(10, seed=1)
    low, high = paired_interval(a, b)
    assert 0 < low < 0.01 < high < 0.02
    shuffled = paired_interval(a, b.flip(0))  # the planted slip: seeds out of order
    assert shuffled[0] < 0 < shuffled[1] and shuffled[1] - shuffled[0] > 10 * (high - low)


def test_bootstrap_covers_and_agrees_with_scipy():
    values = torch.randn(60, generator=rng(), dtype=torch.float64).exp()
    low, high = bootstrap_interval(values, rng(1))
    scipys = scipy.stats.bootstrap(
        (values.numpy(),), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    width = high - low
    assert abs(low - scipys.low) < 0.05 * width and abs(high - scipys.high) < 0.05 * width
    assert bootstrap_interval(values, rng(1)) == (low, high) != bootstrap_interval(values, rng(2))
    narrow = bootstrap_interval(values, rng(1), level=0.5)
    assert low < narrow[0] < values.mean() < narrow[1] < high


def test_bootstrap_coverage():
    hits, runs, n = 0, 400, 50
    for s in range(runs):
        correct = torch.rand(n, generator=rng(s)) < 0.6
        low, high = bootstrap_interval(correct, rng(10_000 + s), resamples=400)
        hits += low <= 0.6 <= high
    assert 0.90 < hits / runs < 0.985


def test_bootstrap_in_several_chunks():
    values = normal(3000)  # 2²⁰ // 3000 = 349 resamples at a time
    low, high = bootstrap_interval(values, rng(), resamples=2000)
    half = 1.96 * values.std().item() / math.sqrt(3000)
    assert low == pytest.approx(values.mean().item() - half, abs=0.2 * half)
    assert high == pytest.approx(values.mean().item() + half, abs=0.2 * half)


def test_intervals_bad_input():
    thirty = normal(30)
    for call, what in [
        (lambda: interval([1.0]), r"n ≥ 2, got \(1,\)"),
        (lambda: interval([]), r"got \(0,\)"),
        (lambda: interval(0.5), r"got \(\)"),
        (lambda: interval(torch.zeros(2, 3)), r"got \(2, 3\)"),
        (lambda: interval([1.0, math.nan]), "values must be finite, got nan"),
        (lambda: interval(["0.8", "0.9"]), "real numbers"),
        (lambda: interval([0.1, 0.2], level=95), "level must lie strictly between 0 and 1, got 95"),
        (lambda: interval([0.1, 0.2], level=1.0), "level"),
        (lambda: interval([0.1, 0.2], level=math.nan), "level"),
        (lambda: paired_interval([1.0, 2.0], [1.0, 2.0, 3.0]), "got 2 and 3 values"),
        (lambda: paired_interval([1.0], [1.0]), r"a must .* n ≥ 2"),
        (lambda: paired_interval([1.0, 2.0], [1.0, math.inf]), "b must be finite"),
        (lambda: bootstrap_interval(thirty[:29], rng()), r"n ≥ 30, got \(29,\)"),
        (lambda: bootstrap_interval(thirty, 0), "rng must be a torch.Generator, got int"),
        (lambda: bootstrap_interval(thirty, rng(), resamples=10), "resamples .* got 10"),
        (lambda: bootstrap_interval(thirty, rng(), level=0), "level"),
        (lambda: bootstrap_interval(thirty * math.nan, rng()), "finite"),
    ]:
        with pytest.raises(ValueError, match=what):
            call()
    assert len(bootstrap_interval(thirty, rng())) == 2


def test_scipy_is_loaded_only_when_it_is_used():
    import subprocess
    import sys

    code = (
        "import sys, course_utils.evaluate, course_utils.losses\n"
        "print([name for name in ('scipy', 'sklearn', 'torchvision', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
