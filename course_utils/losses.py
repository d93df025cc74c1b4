"""Losses as pure functions: tensors in, a tensor out, the equation and its source above each.

All of them compute in float32 or wider (half precision is upcast) and state their reduction. Shape and dtype are
always checked. Values are checked where that costs next to nothing, on the CPU; on a GPU every look at a value would
stop the queue.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from . import parallel

# ---------------------------------------------------------------------------------------------------------------------
# Likelihoods and the Kullback–Leibler term: nats, one number per example
# ---------------------------------------------------------------------------------------------------------------------


def kl_to_standard_normal(mean: Tensor, log_var: Tensor) -> Tensor:
    """Return KL(N(mean, exp(log_var)) ‖ N(0, I)) in nats, one number per example.

        KL = ½ Σ_d (μ_d² + σ_d² − log σ_d² − 1),   σ_d² = exp(log_var_d)

    `mean`, `log_var`: (B, Z) or (B, ...), the same shape, floating. Returns (B,): a SUM over all latents, no mean over
    the batch; the ELBO needs the sum, and a mean over latents would divide this term alone by Z.

    Raises ValueError for shapes that differ, for a tensor without a latent axis, for integers and, on the CPU, for a
    non-finite input or a log_var whose exponential overflows.

    Source: Kingma & Welling 2014 (arXiv:1312.6114), appendix B. Taught in: 13_vae_theory

    >>> mean = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    >>> kl_to_standard_normal(mean, torch.zeros(2, 2)).tolist()   # ½‖μ‖² when σ = 1
    [0.0, 12.5]
    """
    _check_same_shape(mean, log_var, "mean", "log_var", axes=2)
    mean, log_var = _wide(mean, log_var)
    ceiling = math.log(torch.finfo(log_var.dtype).max)
    _check_range(mean, "mean", "finite values")
    _check_range(log_var, "log_var", "finite values whose exponential is finite too", high=ceiling)
    # expm1 keeps the digits that exp(v) − 1 loses when the posterior is close to the prior
    per_latent = mean.square() + torch.expm1(log_var) - log_var
    return 0.5 * per_latent.flatten(1).sum(1)  # (B,)


def bernoulli_nll(logits: Tensor, x: Tensor) -> Tensor:
    """Return −log p(x) of independent Bernoulli pixels in nats, one number per example.

        −log p = Σ_d [ softplus(l_d) − x_d·l_d ],   p_d = sigmoid(l_d)

    `logits`: (B, ...), BEFORE the sigmoid; `x`: the same shape, in [0, 1]. Returns (B,): a SUM over pixels. With x
    strictly between 0 and 1 this is a cross-entropy, no density: its minimum over l is the entropy of x, not 0.

    Raises ValueError for shapes that differ, for integers (bytes are turned into [0, 1] first) and, on the CPU, for x
    outside [0, 1] or non-finite logits.

    Source: Kingma & Welling 2014 (arXiv:1312.6114), appendix C.1. Taught in: 09_distributions

    >>> bernoulli_nll(torch.zeros(1, 4), torch.tensor([[0.0, 1.0, 1.0, 0.0]])) / math.log(2)   # four fair coins
    tensor([4.])
    """
    _check_same_shape(logits, x, "logits", "x", axes=2)
    logits, x = _wide(logits, x)
    _check_range(x, "x", "probabilities in [0, 1] (see to_probability)", low=0.0, high=1.0)
    _check_range(logits, "logits", "finite values")
    # the same function, in one pass and without overflow
    return F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)  # (B,)


def gaussian_nll(mean: Tensor, x: Tensor, log_var: float | Tensor = 0.0) -> Tensor:
    """Return −log N(x; mean, exp(log_var)) in nats, constant included, one number per example.

        −log p = ½ Σ_d [ log 2π + log σ² + (x_d − μ_d)² / σ² ],   σ² = exp(log_var)

    `mean`, `x`: (B, ...), the same shape, floating. `log_var`: a number, a tensor with one element and no axis (a
    learned variance), or a tensor of the same shape. Returns (B,): a SUM over dimensions. It may be negative: it is
    a density. Squared error without the ½ is this with σ² = ½.

    Raises ValueError for shapes that differ (nothing is broadcast), for integers and, on the CPU, for non-finite
    values or a variance so small that the quotient overflows.

    Source: Kingma & Welling 2014 (arXiv:1312.6114), appendix C.2. Taught in: 09_distributions

    >>> round(gaussian_nll(torch.zeros(1, 1), torch.zeros(1, 1)).item(), 4)   # ½ log 2π
    0.9189
    """
    _check_same_shape(mean, x, "mean", "x", axes=2)
    if isinstance(log_var, int | float):
        # Without axes it may stay on the CPU: a copy to a GPU would wait for all that the GPU still has to do.
        log_var = torch.as_tensor(log_var, dtype=torch.float64).to(_wide(mean, x)[0].dtype)
    _check_floating(log_var, "log_var")
    if log_var.ndim and log_var.shape != x.shape:
        raise ValueError(
            f"log_var must be a number or have the shape of x, {tuple(x.shape)}, got {tuple(log_var.shape)}"
        )
    mean, x, log_var = _wide(mean, x, log_var)
    _check_range(mean, "mean", "finite values")
    _check_range(x, "x", "finite values")
    _check_range(log_var, "log_var", "finite values")
    per_dimension = math.log(2 * math.pi) + log_var + (x - mean).square() * torch.exp(-log_var)
    nll = 0.5 * per_dimension.flatten(1).sum(1)  # (B,)
    _check_range(nll, "the result", "finite values: log_var is too small for the distance between x and mean")
    return nll


# ---------------------------------------------------------------------------------------------------------------------
# The games: r = logits of real, f = logits of fake; batch means, the two terms ADDED, no ½
# ---------------------------------------------------------------------------------------------------------------------


def _softplus(x: Tensor) -> Tensor:
    """log(1 + eˣ), to the last digit: F.softplus returns x itself above 20, which float64 would notice."""
    return -F.logsigmoid(-x)


# Goodfellow et al. 2014 (arXiv:1406.2661): D from equation 1; G from the end of section 3 (non-saturating) or from
# equation 1 (saturating). Mao et al. 2017 (arXiv:1611.04076), the 0–1 coding, without their ½.
# Lim & Ye 2017 (arXiv:1705.02894) and Miyato et al. 2018 (arXiv:1802.05957) for the hinge.
# Arjovsky et al. 2017 (arXiv:1701.07875) for Wasserstein; the critic's Lipschitz bound is somebody else's work.
_DISCRIMINATOR = {
    "nonsaturating": lambda r, f: _softplus(-r).mean() + _softplus(f).mean(),
    "saturating": lambda r, f: _softplus(-r).mean() + _softplus(f).mean(),
    "least_squares": lambda r, f: (r - 1).square().mean() + f.square().mean(),
    "hinge": lambda r, f: F.relu(1 - r).mean() + F.relu(1 + f).mean(),
    "wasserstein": lambda r, f: f.mean() - r.mean(),
}
_GENERATOR = {
    "nonsaturating": lambda f: _softplus(-f).mean(),
    "saturating": lambda f: -_softplus(f).mean(),
    "least_squares": lambda f: (f - 1).square().mean(),
    "hinge": lambda f: -f.mean(),
    "wasserstein": lambda f: -f.mean(),
}


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor, *, kind: str = "nonsaturating") -> Tensor:
    """Return the loss that the discriminator (critic) minimises, a batch mean, 0-d.

        (non)saturating   softplus(−r) + softplus(f)      equals 2·log 2 ≈ 1.386 nats when D says ½ to everything
        least_squares     (r − 1)² + f²
        hinge             relu(1 − r) + relu(1 + f)
        wasserstein       f − r

    `real_logits`, `fake_logits`: BEFORE any sigmoid, floating, of one and the same shape: (B,), (B, 1) or (B, ...)
    for a patch discriminator. The mean is over all entries. (B,) beside (B, 1) is refused, nothing is broadcast.

    Raises ValueError for shapes that differ, an empty or 0-d tensor, integers, an unknown kind and, on the CPU,
    non-finite logits.

    Source: see the table above the function. Taught in: 16_gan_theory

    >>> discriminator_loss(torch.zeros(8), torch.zeros(8)) / (2 * math.log(2))
    tensor(1.)
    """
    loss = _of_kind(_DISCRIMINATOR, kind)
    _check_same_shape(real_logits, fake_logits, "real_logits", "fake_logits", axes=1)
    real_logits, fake_logits = _wide(real_logits, fake_logits)
    _check_range(real_logits, "real_logits", "finite values")
    _check_range(fake_logits, "fake_logits", "finite values")
    return loss(real_logits, fake_logits)


def generator_loss(fake_logits: Tensor, *, kind: str = "nonsaturating") -> Tensor:
    """Return the loss that the generator minimises, a batch mean, 0-d.

        nonsaturating        softplus(−f)       gradient −sigmoid(−f): strong while D sees through the fakes
        saturating           −softplus(f)       gradient −sigmoid(f): vanishes just then
        least_squares        (f − 1)²
        hinge, wasserstein   −f

    `fake_logits`: BEFORE any sigmoid, floating, (B,), (B, 1) or (B, ...). The mean is over all entries.

    Raises ValueError for an empty or 0-d tensor, integers, an unknown kind and, on the CPU, non-finite logits.

    Source: see the table above `discriminator_loss`. Taught in: 16_gan_theory

    >>> generator_loss(torch.zeros(8)) / math.log(2)
    tensor(1.)
    """
    loss = _of_kind(_GENERATOR, kind)
    _check_axes(fake_logits, "fake_logits", 1)
    (fake_logits,) = _wide(fake_logits)
    _check_range(fake_logits, "fake_logits", "finite values")
    return loss(fake_logits)


# ---------------------------------------------------------------------------------------------------------------------
# Gradient penalties: no λ here, the step multiplies
# ---------------------------------------------------------------------------------------------------------------------


def gradient_penalty(disc: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, rng: torch.Generator) -> Tensor:
    """Return the WGAN-GP penalty, a batch mean, 0-d, differentiable with respect to the critic's weights.

        mean_b ( ‖∇_x D(x_b)‖₂ − 1 )²,   x_b = real_b + ε_b (fake_b − real_b),   ε_b ~ U(0, 1), one per example

    `disc`: x (B, ...) → logits (B,) or (B, 1); a conditional critic is passed as ``lambda x: disc(x, y)``. `real`,
    `fake`: the same shape (B, ...), floating; both are detached, nothing flows into the generator or into `.grad`.
    `rng` draws ε on its own device, in several processes one draw for the whole batch (see `parallel.draw`). No λ: the
    authors multiply by 10. The gradient of one example must not depend on the others, so the critic has no BatchNorm.
    Works inside ``torch.no_grad()`` too.

    Raises ValueError for shapes that differ, integers, no torch.Generator, for logits that are not one per
    example, or that do not depend on x.

    Source: Gulrajani et al. 2017 (arXiv:1704.00028), equation 3. Taught in: 19_stable_gans
    """
    _check_same_shape(real, fake, "real", "fake", axes=2)
    if not isinstance(rng, torch.Generator):
        raise ValueError(f"rng must be a torch.Generator, got {type(rng).__name__}")
    real, fake = real.detach(), fake.detach()
    dtype = _wide(real, fake)[0].dtype
    shape = (len(real),) + (1,) * (real.ndim - 1)
    eps = parallel.draw(shape, rng, dtype, sample=torch.rand, device=real.device)
    mixed = torch.lerp(real.to(dtype), fake.to(dtype), eps).to(real.dtype)  # (B, ...)
    norm = torch.linalg.vector_norm(_input_gradient(disc, mixed), dim=1)  # (B,)
    return (norm - 1).square().mean()


def r1_penalty(disc: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """Return the R1 penalty, a batch mean, 0-d, differentiable with respect to the discriminator's weights.

        mean_b ‖∇_x D(x_b)‖₂²   at real examples only

    `disc`: x (B, ...) → logits (B,) or (B, 1). `real`: (B, ...), floating; detached, its `.grad` is left alone.
    No λ: the authors multiply by γ/2. Works inside ``torch.no_grad()`` too.

    Raises ValueError for integers, for logits that are not one per example, or that do not depend on x.

    Source: Mescheder et al. 2018 (arXiv:1801.04406), equation 9. Taught in: 19_stable_gans
    """
    _check_axes(real, "real", 2)
    return _input_gradient(disc, real.detach().clone()).square().sum(1).mean()


def _input_gradient(disc: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """∇_x D(x), one flat row per example in float32 or wider, itself differentiable."""
    with torch.enable_grad():
        x.requires_grad_()
        logits = disc(x)
        if not isinstance(logits, Tensor) or logits.shape not in ((len(x),), (len(x), 1)):
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"disc must return one logit per example, shape ({len(x)},) or ({len(x)}, 1), got {shape}")
        # Row b of the gradient of the sum is the gradient of logit b, as long as examples do not mix inside disc.
        gradient = None
        if logits.requires_grad:
            (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True, allow_unused=True)
    if gradient is None:
        raise ValueError("disc(x) does not depend on x: no gradient reaches the input (a detach or no_grad inside?)")
    return _wide(gradient)[0].flatten(1)  # (B, D)


# ---------------------------------------------------------------------------------------------------------------------
# Checks
# ---------------------------------------------------------------------------------------------------------------------


def _of_kind(table: dict, kind: str) -> Callable[..., Tensor]:
    if not isinstance(kind, str) or kind not in table:
        raise ValueError(f"kind must be one of {', '.join(map(repr, table))}, got {kind!r}")
    return table[kind]


def _check_floating(x: Tensor, name: str) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{name} must be a floating-point tensor, got {kind}")


def _check_axes(x: Tensor, name: str, axes: int) -> None:
    _check_floating(x, name)
    if x.ndim < axes or x.numel() == 0:
        wanted = "(B,), (B, 1) or (B, ...)" if axes == 1 else "(B, ...) with at least two axes"
        raise ValueError(f"{name} must have shape {wanted} and at least one entry, got {tuple(x.shape)}")


def _check_same_shape(a: Tensor, b: Tensor, name_a: str, name_b: str, *, axes: int) -> None:
    _check_axes(a, name_a, axes)
    _check_axes(b, name_b, axes)
    if a.shape != b.shape:
        raise ValueError(
            f"{name_a} and {name_b} must have one and the same shape, got {tuple(a.shape)} and {tuple(b.shape)}"
        )


def _wide(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in one dtype, the widest among them and at least float32."""
    dtype = torch.float32
    for x in tensors:
        dtype = torch.promote_types(dtype, x.dtype)
    return tuple(x.to(dtype) for x in tensors)


def _check_range(x: Tensor, name: str, wanted: str, low: float = -math.inf, high: float = math.inf) -> None:
    """Refuse values outside [low, high], infinities and NaN; on the CPU only, and not while tracing for a compiler."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return
    smallest, largest = (v.item() for v in x.detach().aminmax())  # one pass; NaN comes through and fails below
    if not (low <= smallest <= largest <= high and math.isfinite(smallest) and math.isfinite(largest)):
        raise ValueError(f"{name} must hold {wanted}, got values from {smallest:g} to {largest:g}")
