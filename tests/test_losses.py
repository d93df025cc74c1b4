"""Losses against closed forms, torch's own functions and numerical integration; wrong variants must be told apart."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.utils._python_dispatch import TorchDispatchMode

from course_utils import losses

KINDS = ["nonsaturating", "saturating", "least_squares", "hinge", "wasserstein"]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=rng(seed), dtype=dtype)


# --- Kullback–Leibler ---


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), batch=st.integers(1, 5), latent=st.integers(1, 7), scale=st.floats(0.01, 5))
def test_kl_equals_the_one_of_torch_distributions(seed, batch, latent, scale):
    mean, log_var = scale * normal(batch, latent, seed=seed), scale * normal(batch, latent, seed=seed + 1)
    oracle = kl_divergence(Normal(mean, (0.5 * log_var).exp()), Normal(0.0, 1.0)).sum(1)
    got = losses.kl_to_standard_normal(mean, log_var)
    assert got.shape == (batch,)
    torch.testing.assert_close(got, oracle, rtol=1e-10, atol=1e-12)
    assert (got >= 0).all()


def test_kl_is_zero_only_at_the_prior_and_keeps_its_digits_near_it():
    assert losses.kl_to_standard_normal(torch.zeros(3, 2), torch.zeros(3, 2)).tolist() == [0.0] * 3
    tiny = torch.full((1, 1), 1e-3)
    exact = 0.5 * (math.expm1(1e-3) - 1e-3)  # ≈ ε²/4 = 2.5e-7, of the order of float32's rounding of 1
    assert losses.kl_to_standard_normal(torch.zeros(1, 1), tiny).item() == pytest.approx(exact, rel=1e-3)
    careless = 0.5 * (tiny.exp() - tiny - 1)  # the textbook line in float32
    assert abs(careless.item() / exact - 1) > 0.02


def test_kl_sums_over_latents_so_that_a_mean_is_told_apart():
    mean, log_var = normal(4, 20), normal(4, 20, seed=1)
    kl = losses.kl_to_standard_normal(mean, log_var)
    term = 0.5 * (mean**2 + log_var.exp() - log_var - 1)
    torch.testing.assert_close(kl, term.sum(1))
    for wrong in (term.mean(1), term.sum().expand(4), term.mean().expand(4)):  # Z times, B times, B·Z times off
        assert not torch.allclose(kl, wrong, rtol=0.1)
    wrong_sign, std_for_log_var = 0.5 * (1 + log_var - mean**2 - log_var.exp()), term + 0.5 * log_var
    assert (wrong_sign.sum(1) < 0).all() and not torch.allclose(std_for_log_var.sum(1), kl, rtol=0.01)


def test_kl_takes_latent_maps():
    mean, log_var = normal(2, 3, 4, 4), normal(2, 3, 4, 4, seed=1)
    flat = losses.kl_to_standard_normal(mean.flatten(1), log_var.flatten(1))
    torch.testing.assert_close(losses.kl_to_standard_normal(mean, log_var), flat)


@pytest.mark.parametrize("value", [89.0, 1e4, math.inf, math.nan])
def test_kl_names_a_log_var_that_overflows(value):
    log_var = torch.zeros(2, 3)
    log_var[1, 2] = value
    with pytest.raises(ValueError, match="log_var"):
        losses.kl_to_standard_normal(torch.zeros(2, 3), log_var)
    if value == 89.0:  # no overflow in float64
        assert losses.kl_to_standard_normal(torch.zeros(2, 3), log_var.double()).isfinite().all()


# --- Likelihoods ---


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), shape=st.lists(st.integers(1, 5), min_size=2, max_size=4), scale=st.floats(0.1, 100))
def test_bernoulli_equals_bce_and_the_equation(seed, shape, scale):
    logits, x = scale * normal(*shape, seed=seed), torch.rand(*shape, generator=rng(seed), dtype=torch.float64)
    got = losses.bernoulli_nll(logits, x)
    assert got.shape == (shape[0],)
    oracle = F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)
    equation = torch.logaddexp(logits, torch.zeros(())).sub(x * logits).flatten(1).sum(1)
    torch.testing.assert_close(got, oracle)
    torch.testing.assert_close(got, equation, rtol=1e-10, atol=1e-9)


def test_bernoulli_of_bits_is_a_probability():
    logits = normal(1, 3)
    patterns = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 3)
    total = torch.exp(-losses.bernoulli_nll(logits.expand(8, 3), patterns)).sum()
    assert total.item() == pytest.approx(1, abs=1e-12)
    oracle = -Bernoulli(logits=logits).log_prob(patterns).sum(1)
    torch.testing.assert_close(losses.bernoulli_nll(logits.expand(8, 3), patterns), oracle)


def test_bernoulli_minimum_is_at_the_logit_of_x_and_a_double_sigmoid_misses_it():
    x = torch.tensor([[0.02, 0.3, 0.9]], dtype=torch.float64)
    best = torch.logit(x).requires_grad_()
    losses.bernoulli_nll(best, x).sum().backward()
    assert best.grad.abs().max() < 1e-12
    wrong = torch.logit(x).requires_grad_()  # the decoder ends in a sigmoid, the loss applies another
    losses.bernoulli_nll(torch.sigmoid(wrong), x).sum().backward()
    assert wrong.grad.abs().max() > 0.05
    # and it can never say "certainly black": sigmoid(sigmoid(·)) ≥ ½
    black = torch.zeros(1, 1)
    assert losses.bernoulli_nll(torch.sigmoid(torch.full((1, 1), -50.0)), black).item() >= math.log(2) - 1e-6
    assert losses.bernoulli_nll(torch.full((1, 1), -50.0), black).item() < 1e-20


def test_bernoulli_survives_extreme_logits():
    logits = torch.tensor([[1e4, -1e4]])
    assert losses.bernoulli_nll(logits, torch.tensor([[1.0, 0.0]])).item() == 0
    assert losses.bernoulli_nll(logits, torch.tensor([[0.0, 1.0]])).item() == pytest.approx(2e4)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), log_var=st.floats(-5, 5), d=st.integers(1, 6))
def test_gaussian_equals_torch_distributions(seed, log_var, d):
    mean, x, tensor = normal(3, d, seed=seed), normal(3, d, seed=seed + 1), normal(3, d, seed=seed + 2)
    for value in (log_var, torch.tensor(log_var, dtype=torch.float64), tensor):
        std = torch.as_tensor(value, dtype=torch.float64).mul(0.5).exp()
        oracle = -Normal(mean, std).log_prob(x).sum(1)
        torch.testing.assert_close(losses.gaussian_nll(mean, x, value), oracle, rtol=1e-9, atol=1e-9)


def test_gaussian_includes_its_constant_and_integrates_to_one():
    grid = torch.linspace(-40, 40, 80_001, dtype=torch.float64)[:, None]
    density = torch.exp(-losses.gaussian_nll(torch.full_like(grid, 0.7), grid, math.log(4.0)))
    assert torch.trapezoid(density, grid[:, 0]).item() == pytest.approx(1, abs=1e-9)
    squared = (grid - 0.7).square().sum(1)  # "the loss is the squared error": a density only with σ² = ½ and constant
    assert torch.trapezoid(torch.exp(-squared), grid[:, 0]).item() > 1.5
    shifted = losses.gaussian_nll(torch.full_like(grid, 0.7), grid, math.log(0.5)) - squared
    torch.testing.assert_close(shifted, torch.full_like(shifted, 0.5 * math.log(math.pi)))


def test_gaussian_lets_a_learned_variance_find_the_data():
    x = 3 * normal(4000, 1)
    log_var = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([log_var], max_iter=50)

    def closure():
        optimiser.zero_grad()
        loss = losses.gaussian_nll(torch.zeros_like(x), x, log_var).mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    assert log_var.exp().item() == pytest.approx(x.square().mean().item(), rel=1e-4)


def test_gaussian_refuses_a_log_var_that_would_broadcast_or_overflow():
    x = torch.zeros(4, 4)
    for bad in (torch.zeros(4), torch.zeros(4, 1), torch.zeros(1, 4), torch.zeros(1)):
        with pytest.raises(ValueError, match="log_var must be a number or have the shape"):
            losses.gaussian_nll(x, x, bad)
    with pytest.raises(ValueError, match="log_var is too small"):
        losses.gaussian_nll(x, x + 1, -100.0)
    with pytest.raises(ValueError, match="log_var"):
        losses.gaussian_nll(x, x, math.nan)
    with pytest.raises(ValueError, match="log_var must be a floating-point tensor, got str"):
        losses.gaussian_nll(x, x, "0")


# --- Bad input of the three ---

TWO = [losses.kl_to_standard_normal, losses.bernoulli_nll, losses.gaussian_nll]


@pytest.mark.parametrize("loss", TWO)
@pytest.mark.parametrize(
    "a, b",
    [((4, 1), (4,)), ((4, 3), (3,)), ((4, 3), (1, 3)), ((4, 3), (4, 1)), ((2, 3, 1), (2, 3)), ((4,), (4,)), ((), ())],
)
def test_shapes_that_broadcast_are_refused(loss, a, b):
    with pytest.raises(ValueError, match=r"shape"):
        loss(torch.zeros(a), torch.zeros(b))


@pytest.mark.parametrize("loss", TWO)
def test_integers_empty_sets_and_arrays_are_refused(loss):
    with pytest.raises(ValueError, match="uint8"):
        loss(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="int64"):
        loss(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"\(0, 3\)"):
        loss(torch.zeros(0, 3), torch.zeros(0, 3))
    with pytest.raises(ValueError, match="ndarray"):
        loss(torch.zeros(2, 3), torch.zeros(2, 3).numpy())


@pytest.mark.parametrize("loss", TWO)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_non_finite_values_are_refused(loss, bad, which):
    pair = [torch.zeros(2, 3), torch.zeros(2, 3)]
    pair[which][1, 1] = bad
    with pytest.raises(ValueError, match="must hold"):
        loss(*pair)


@pytest.mark.parametrize("bad", [-1.0, -1e-6, 1.000001, 255.0])
def test_bernoulli_refuses_x_outside_probabilities(bad):
    x = torch.full((2, 2), 0.5)
    x[0, 1] = bad
    with pytest.raises(ValueError, match=r"x must hold probabilities in \[0, 1\] \(see to_probability\)"):
        losses.bernoulli_nll(torch.zeros(2, 2), x)


# --- The games ---


def table_of_design(kind, r, f):
    """The equations once more, in float64 by logaddexp."""
    zero = torch.zeros((), dtype=torch.float64)
    log_d, log_not_d = -torch.logaddexp(zero, -r), -torch.logaddexp(zero, f)
    d = {
        "nonsaturating": -log_d.mean() - log_not_d.mean(),
        "saturating": -log_d.mean() - log_not_d.mean(),
        "least_squares": ((r - 1) ** 2).mean() + (f**2).mean(),
        "hinge": (1 - r).clamp(min=0).mean() + (1 + f).clamp(min=0).mean(),
        "wasserstein": f.mean() - r.mean(),
    }
    g = {
        "nonsaturating": torch.logaddexp(zero, -f).mean(),
        "saturating": log_not_d.mean(),
        "least_squares": ((f - 1) ** 2).mean(),
        "hinge": -f.mean(),
        "wasserstein": -f.mean(),
    }
    return d[kind], g[kind]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 60), shape=st.sampled_from([(1,), (7,), (7, 1), (3, 1, 4, 4)]))
def test_every_kind_is_its_equation(kind, seed, scale, shape):
    r, f = scale * normal(*shape, seed=seed), scale * normal(*shape, seed=seed + 1)
    d, g = table_of_design(kind, r, f)
    got_d, got_g = losses.discriminator_loss(r, f, kind=kind), losses.generator_loss(f, kind=kind)
    assert got_d.shape == got_g.shape == ()
    torch.testing.assert_close(got_d, d, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got_g, g, rtol=1e-12, atol=1e-12)


def test_nonsaturating_is_bce_with_logits_and_is_the_default():
    r, f = normal(64), normal(64, seed=1)
    bce = F.binary_cross_entropy_with_logits
    torch.testing.assert_close(
        losses.discriminator_loss(r, f), bce(r, torch.ones_like(r)) + bce(f, torch.zeros_like(f))
    )
    torch.testing.assert_close(losses.generator_loss(f), bce(f, torch.ones_like(f)))


@pytest.mark.parametrize("wrong", ["half", "sum", "sigmoid first", "swapped", "both real"])
def test_planted_variants_of_the_discriminator_loss_differ(wrong):
    r, f = normal(32) + 1, normal(32, seed=1) - 1
    right = losses.discriminator_loss(r, f)
    variant = {
        "half": lambda: 0.5 * right,
        "sum": lambda: F.softplus(-r).sum() + F.softplus(f).sum(),
        "sigmoid first": lambda: losses.discriminator_loss(r.sigmoid(), f.sigmoid()),
        "swapped": lambda: losses.discriminator_loss(f, r),
        "both real": lambda: F.softplus(-r).mean() + F.softplus(-f).mean(),
    }[wrong]()
    assert abs(variant - right) > 0.1


def test_gradients_at_a_confident_discriminator():
    f = torch.tensor([-10.0], dtype=torch.float64)
    slope = {}
    for kind in KINDS:
        leaf = f.clone().requires_grad_()
        losses.generator_loss(leaf, kind=kind).backward()
        slope[kind] = leaf.grad.item()
    assert slope["nonsaturating"] == pytest.approx(-torch.sigmoid(-f).item(), rel=1e-9)  # ≈ −1
    assert slope["saturating"] == pytest.approx(-torch.sigmoid(f).item(), rel=1e-9)  # ≈ −4.5e-5
    assert slope["hinge"] == slope["wasserstein"] == -1 and slope["least_squares"] == pytest.approx(-22)
    assert all(value < 0 for value in slope.values())  # every kind pushes the fake's logit up


def test_both_generator_losses_agree_on_the_fixed_point_but_not_elsewhere():
    zero = torch.zeros(4)
    assert losses.generator_loss(zero).item() == pytest.approx(math.log(2))
    assert losses.generator_loss(zero, kind="saturating").item() == pytest.approx(-math.log(2))
    assert losses.discriminator_loss(zero, zero).item() == pytest.approx(2 * math.log(2))


@pytest.mark.parametrize("a, b", [((8, 1), (8,)), ((8,), (8, 1)), ((8,), (4,)), ((8,), (1,)), ((), ()), ((0,), (0,))])
def test_silent_broadcasting_of_logits_is_impossible(a, b):
    for kind in KINDS:
        with pytest.raises(ValueError, match="shape"):
            losses.discriminator_loss(torch.zeros(a), torch.zeros(b), kind=kind)


def test_generator_loss_refuses_empty_and_scalar_logits():
    for shape in ((), (0,), (0, 1)):
        with pytest.raises(ValueError, match="fake_logits must have shape"):
            losses.generator_loss(torch.zeros(shape))


def test_unknown_kind_lists_the_kinds():
    x = torch.zeros(2)
    for bad in ("lsgan", "", None, 3):
        for call in (lambda k: losses.discriminator_loss(x, x, kind=k), lambda k: losses.generator_loss(x, kind=k)):
            with pytest.raises(ValueError) as caught:
                call(bad)
            assert all(repr(kind) in str(caught.value) for kind in [*KINDS, bad])


def test_logits_that_are_no_numbers_are_refused():
    bad = torch.tensor([0.0, math.nan])
    with pytest.raises(ValueError, match="real_logits"):
        losses.discriminator_loss(bad, torch.zeros(2))
    with pytest.raises(ValueError, match="fake_logits"):
        losses.discriminator_loss(torch.zeros(2), bad)
    with pytest.raises(ValueError, match="fake_logits"):
        losses.generator_loss(torch.tensor([math.inf]))
    with pytest.raises(ValueError, match="int64"):
        losses.generator_loss(torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="bool"):
        losses.discriminator_loss(torch.ones(2, dtype=torch.bool), torch.zeros(2))


# --- Precision ---


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_upcast(dtype):
    a, b = normal(4, 50, dtype=torch.float32).to(dtype), normal(4, 50, seed=1, dtype=torch.float32).to(dtype)
    p = torch.sigmoid(b)
    disc = nn.Linear(50, 1).to(dtype)
    for loss, args in [
        (losses.kl_to_standard_normal, (a, b)),
        (losses.bernoulli_nll, (a, p)),
        (losses.gaussian_nll, (a, b, b)),
        (losses.discriminator_loss, (a[:, 0], b[:, 0])),
        (losses.generator_loss, (a[:, 0],)),
    ]:
        got = loss(*args)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, loss(*[x.float() for x in args]), rtol=0, atol=0)
    assert losses.r1_penalty(disc, a).dtype == torch.float32
    assert losses.gradient_penalty(disc, a, b, rng()).dtype == torch.float32


def test_float64_stays_float64():
    a = normal(3, 4)
    assert losses.kl_to_standard_normal(a, a).dtype == torch.float64
    assert losses.bernoulli_nll(a, a.sigmoid()).dtype == torch.float64
    assert losses.gaussian_nll(a, a).dtype == torch.float64
    assert losses.discriminator_loss(a, a).dtype == torch.float64


def test_gradients_are_right():
    a, b = normal(3, 4).requires_grad_(), normal(3, 4, seed=1).requires_grad_()
    p = torch.rand(3, 4, generator=rng(), dtype=torch.float64)
    assert torch.autograd.gradcheck(losses.kl_to_standard_normal, (a, b))
    assert torch.autograd.gradcheck(lambda logits: losses.bernoulli_nll(logits, p), (a,))
    assert torch.autograd.gradcheck(lambda m, v: losses.gaussian_nll(m, p, v), (a, b))
    for kind in KINDS:
        assert torch.autograd.gradcheck(lambda r, f, kind=kind: losses.discriminator_loss(r, f, kind=kind), (a, b))
        assert torch.autograd.gradcheck(lambda f, kind=kind: losses.generator_loss(f, kind=kind), (a,))


# --- Penalties ---

SHAPES = [(5, 1), (5, 7), (5, 1, 8, 8), (3, 3, 4, 6), (1, 9)]


def linear_critic(shape, squeeze, seed=3):
    weight = normal(math.prod(shape[1:]), seed=seed).requires_grad_()

    def critic(x):
        logits = x.flatten(1) @ weight
        return logits if squeeze else logits[:, None]

    return critic, weight


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("squeeze", [True, False])
def test_a_linear_critic_has_a_closed_form(shape, squeeze):
    real, fake = normal(*shape).requires_grad_(), normal(*shape, seed=1).requires_grad_()
    critic, weight = linear_critic(shape, squeeze)
    norm = weight.detach().norm()
    penalty, r1 = losses.gradient_penalty(critic, real, fake, rng()), losses.r1_penalty(critic, real)
    assert penalty.shape == r1.shape == ()
    torch.testing.assert_close(penalty.detach(), (norm - 1) ** 2)
    torch.testing.assert_close(r1.detach(), norm**2)
    (gradient,) = torch.autograd.grad(penalty, weight)  # second order: d/dw (‖w‖ − 1)² = 2 (‖w‖ − 1) w/‖w‖
    torch.testing.assert_close(gradient, (2 * (norm - 1) * weight / norm).detach())
    r1.backward()
    torch.testing.assert_close(weight.grad, 2 * weight.detach())
    assert real.grad is None and fake.grad is None and real.requires_grad and fake.requires_grad


def test_second_order_gradients_flow_through_a_network():
    torch.manual_seed(0)
    disc = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    names = [name for name, _ in disc.named_parameters()]
    real, fake = normal(4, 3), normal(4, 3, seed=1)
    for penalty in (
        lambda d: losses.r1_penalty(d, real),
        lambda d: losses.gradient_penalty(d, real, fake, rng(5)),
    ):

        def of_weights(*weights, penalty=penalty):
            named = dict(zip(names, weights, strict=True))
            return penalty(lambda x: torch.func.functional_call(disc, named, (x,)))

        weights = tuple(p.detach().clone().requires_grad_() for p in disc.parameters())
        assert torch.autograd.gradcheck(of_weights, weights, atol=1e-6)
        disc.zero_grad()
        penalty(disc).backward()
        assert disc[0].weight.grad.abs().sum() > 0
        assert disc[2].bias.grad is None or disc[2].bias.grad.abs().sum() == 0  # an offset has no gradient in x

    without_graph = torch.autograd.grad(disc(real.requires_grad_()).sum(), real)[0].square().sum(1).mean()
    assert not without_graph.requires_grad  # the planted slip: create_graph forgotten, the penalty trains nothing


def test_a_flat_critic_gives_finite_gradients():
    weight = torch.zeros(4, requires_grad=True)
    penalty = losses.gradient_penalty(lambda x: x @ weight, torch.ones(2, 4), torch.zeros(2, 4), rng())
    penalty.backward()
    assert penalty.item() == 1 and weight.grad.isfinite().all()  # the norm has a kink at 0


def test_interpolates_lie_between_with_one_number_per_example():
    seen = []

    def critic(x):
        seen.append(x.detach().clone())
        return x.flatten(1).sum(1)

    real, fake = torch.zeros(200, 1, 4, 4), torch.ones(200, 1, 4, 4)
    losses.gradient_penalty(critic, real, fake, rng(1))
    eps = seen[0].flatten(1)
    assert (eps == eps[:, :1]).all()  # one ε for all pixels of an image
    assert len(eps[:, 0].unique()) == 200 and 0 <= eps.min() and eps.max() < 1
    assert eps[:, 0].mean().item() == pytest.approx(0.5, abs=4 / math.sqrt(12 * 200))
    losses.gradient_penalty(critic, real, fake, rng(1))
    losses.gradient_penalty(critic, real, fake, rng(2))
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])


def test_the_penalty_is_per_example_not_of_the_batch():
    """For D(x) = ‖x‖²/2 the gradient is x itself; a norm over the whole batch would be another number."""
    real = normal(6, 3)

    def critic(x):
        return 0.5 * x.square().sum(1)

    expected = (real.norm(dim=1) - 1).square().mean()
    torch.testing.assert_close(losses.gradient_penalty(critic, real, real, rng()), expected)
    torch.testing.assert_close(losses.r1_penalty(critic, real), real.square().sum(1).mean())
    assert abs((real.norm() - 1).square() - expected) > 1  # wrong: one norm for the batch
    assert abs(((real / 6).norm(dim=1) - 1).square().mean() - expected) > 0.1  # wrong: gradient of the mean logit


def test_penalties_leave_the_generator_the_weights_and_the_inputs_alone():
    torch.manual_seed(0)
    disc, gen = nn.Linear(3, 1), nn.Linear(2, 3)
    real = torch.randn(4, 3)
    before = real.clone()
    fake = gen(torch.randn(4, 2))
    total = losses.gradient_penalty(disc, real, fake, rng()) + losses.r1_penalty(disc, real)
    assert disc.weight.grad is None and not real.requires_grad and torch.equal(real, before)
    total.backward()
    assert gen.weight.grad is None and real.grad is None and disc.weight.grad is not None


def test_penalties_work_under_no_grad_and_for_conditional_critics():
    disc, y = nn.Bilinear(3, 2, 1), normal(4, 2, dtype=torch.float32)
    real = normal(4, 3, dtype=torch.float32)
    with torch.no_grad():
        inside = losses.r1_penalty(lambda x: disc(x, y), real)
    torch.testing.assert_close(inside, losses.r1_penalty(lambda x: disc(x, y), real))


def test_penalties_name_what_is_wrong_with_the_critic():
    real = torch.zeros(4, 3)
    for critic, what in [
        (lambda x: x, r"\(4, 3\)"),
        (lambda x: x.sum(), r"got \(\)"),
        (lambda x: x.sum(1).view(2, 2), r"\(2, 2\)"),
        (lambda x: x.sum(1).view(1, 4), r"\(1, 4\)"),
        (lambda x: None, "NoneType"),
        (lambda x: x.detach().sum(1), "does not depend on x"),
        (lambda x: torch.zeros(4, requires_grad=True), "does not depend on x"),
    ]:
        with pytest.raises(ValueError, match=what):
            losses.r1_penalty(critic, real)
        with pytest.raises(ValueError, match=what):
            losses.gradient_penalty(critic, real, real, rng())


def test_penalties_refuse_bad_inputs():
    def critic(x):
        return x.flatten(1).sum(1)

    good = torch.zeros(4, 3)
    for real, fake in [(good, good[:1]), (good, torch.zeros(4, 1)), (good, torch.zeros(3)), (good[:0], good[:0])]:
        with pytest.raises(ValueError, match="shape"):
            losses.gradient_penalty(critic, real, fake, rng())
    with pytest.raises(ValueError, match="uint8"):
        losses.r1_penalty(critic, good.to(torch.uint8))
    with pytest.raises(ValueError, match="uint8"):
        losses.gradient_penalty(critic, good, good.to(torch.uint8), rng())
    with pytest.raises(ValueError, match=r"rng must be a torch\.Generator, got int"):
        losses.gradient_penalty(critic, good, good, 0)


def test_values_are_not_read_while_a_compiler_traces():
    """Reading a value would break the graph in two."""
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(losses.bernoulli_nll, backend=backend, fullgraph=True)
    logits, x = torch.zeros(2, 3), torch.full((2, 3), 0.5)
    torch.testing.assert_close(compiled(logits, x), losses.bernoulli_nll(logits, x))
    assert len(graphs) == 1


class ToDevice(TorchDispatchMode):
    """Counts copies from one device to another."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function is torch.ops.aten._to_copy.default:
            self.count += result.device != args[0].device
        return result


def test_values_on_another_device_are_not_read():
    """The meta device has no values at all: a look at one would fail, as it would stall a GPU."""
    a = torch.zeros(4, 3, device="meta")
    assert losses.kl_to_standard_normal(a, a).shape == (4,)
    assert losses.bernoulli_nll(a, a).shape == (4,)
    with ToDevice() as copies:
        assert losses.gaussian_nll(a, a, 0.5).shape == (4,)
    assert copies.count == 0  # a copy from ordinary memory stalls a GPU as well
    assert losses.discriminator_loss(a, a).shape == losses.generator_loss(a).shape == ()
    with pytest.raises(ValueError, match="shape"):  # shapes are free to look at
        losses.bernoulli_nll(a, a[:, :1])
