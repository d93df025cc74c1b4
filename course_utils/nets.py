"""Small networks, forward only: images in, numbers out. Training lives in `train`, losses in `losses`.

Images are always (B, C, H, W) floats in [-1, 1]. Weights start as PyTorch starts them, from the global generator
(`Session.reseed` seeds it); only the stacked layers take generators, one for each member.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _positive(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    return value


def _quarter(size: int) -> int:
    """The side of the smallest feature map of the two GAN nets, which halve (or double) the image twice."""
    if _positive("size", size) < 8 or size % 4:
        raise ValueError(f"size must be a multiple of 4 and at least 8, got {size}")
    return size // 4


def _check_images(x: Tensor, channels: int, size: int | None = None) -> None:
    """Refuse what is not a (B, channels, size, size) float batch; `size=None` stands for any side of at least 8."""
    side = "H>=8, W>=8" if size is None else f"{size}, {size}"
    expected = f"expected float images of shape (B, {channels}, {side})"
    if not isinstance(x, Tensor):
        raise ValueError(f"{expected}, got a {type(x).__name__}")
    right_side = x.ndim == 4 and (min(x.shape[2:]) >= 8 if size is None else tuple(x.shape[2:]) == (size, size))
    if not right_side or x.shape[1] != channels:
        raise ValueError(f"{expected}, got shape {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"{expected} in [-1, 1], got {x.dtype}: course_utils.data.to_signed converts bytes")


def _check_latents(z: Tensor, latent: int) -> None:
    if not isinstance(z, Tensor) or z.ndim != 2 or z.shape[1] != latent or not z.is_floating_point():
        got = f"shape {tuple(z.shape)}, {z.dtype}" if isinstance(z, Tensor) else f"a {type(z).__name__}"
        raise ValueError(f"expected float latents of shape (B, {latent}), got {got}")


class Classifier(nn.Module):
    """A small convolutional classifier for images from 8×8 (digits) to 32×32 (CIFAR-10) and beyond.

    One net for all sides: after two convolutions the maps are averaged down to 4×4, whatever they were. The sides
    of the averaging windows are fixed by the image, so that a run on a GPU repeats (adaptive pooling does not).

    Args: `classes` K; `channels` C; `width` channels of the first convolution (the second has twice as many);
    `dim` D, the length of the features; `dropout` the share of features dropped in training.
    Shapes: x (B, C, H, W) in [-1, 1], H and W at least 8 → logits (B, K), before the softmax.
    Errors: ValueError for a wrong rank, channel count, side or dtype of x, or sizes below 1.
    Source: the two-convolution net of LeCun et al. 1998 (LeNet-5) with ReLU.
    Taught in: 10_quality_metrics

    >>> net = Classifier(10)
    >>> net(torch.zeros(2, 1, 8, 8)).shape, net.features(torch.zeros(2, 1, 28, 28)).shape
    (torch.Size([2, 10]), torch.Size([2, 64]))
    """

    def __init__(self, classes: int, *, channels: int = 1, width: int = 32, dim: int = 64, dropout: float = 0.0):
        super().__init__()
        _positive("classes", classes)
        _positive("width", width)
        _positive("dim", dim)
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout!r}")
        self.channels = _positive("channels", channels)
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.hidden = nn.Linear(2 * width * 4 * 4, dim)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(dim, classes)

    def features(self, x: Tensor) -> Tensor:
        """Return the penultimate activations: (B, C, H, W) → (B, D), after the ReLU, hence ≥ 0. `evaluate.features`
        takes this method as its encoder.

        Taught in: 10_quality_metrics
        """
        _check_images(x, self.channels)
        maps = F.max_pool2d(F.relu(self.conv1(x)), 2, ceil_mode=True)  # (B, width, H/2, W/2), odd sides rounded up
        maps = F.relu(self.conv2(maps))
        if min(maps.shape[2:]) >= 8:
            maps = F.max_pool2d(maps, 2, ceil_mode=True)
        # Windows of one side and one stride that cover the map: 4 outputs along each axis.
        stride = [side // 4 for side in maps.shape[2:]]
        window = [side - 3 * s for side, s in zip(maps.shape[2:], stride, strict=True)]
        maps = F.avg_pool2d(maps, window, stride)  # (B, 2 width, 4, 4)
        return F.relu(self.hidden(maps.flatten(1)))  # (B, D)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.features(x)))  # (B, K)


class VAE(nn.Module):
    """The smallest variational autoencoder: one hidden layer on each side, Gaussian codes, Bernoulli pixels.

    Shapes: x (B, C, size, size) in [-1, 1]; codes (B, latent); logits (B, C, size, size), whose sigmoid is the
    probability of white. `vae(x)` decodes the mean code, without noise.
    Errors: ValueError for a wrong rank, size, channel count or dtype, or sizes below 1.
    Source: Kingma & Welling 2014 (arXiv:1312.6114), appendix C (their tanh is a ReLU here).
    Taught in: 14_vae_on_gpu

    >>> vae = VAE(latent=2, size=8, hidden=16)
    >>> mean, log_var = vae.encode(torch.zeros(3, 1, 8, 8))
    >>> mean.shape, log_var.shape, vae.decode(mean).shape
    (torch.Size([3, 2]), torch.Size([3, 2]), torch.Size([3, 1, 8, 8]))
    """

    def __init__(self, latent: int = 20, *, size: int = 28, channels: int = 1, hidden: int = 400):
        super().__init__()
        self.latent = _positive("latent", latent)
        self.size = _positive("size", size)
        self.channels = _positive("channels", channels)
        _positive("hidden", hidden)
        pixels = channels * size * size
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latent))
        self.decoder = nn.Sequential(
            nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, pixels), nn.Unflatten(1, (channels, size, size))
        )

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of q(z|x): (B, C, H, W) → two (B, latent).

        Taught in: 13_vae_theory
        """
        _check_images(x, self.channels, self.size)
        mean, log_var = self.encoder(x).chunk(2, dim=1)
        return mean, log_var

    def decode(self, z: Tensor) -> Tensor:
        """Return the pixel logits of p(x|z): (B, latent) → (B, C, H, W), before the sigmoid.

        Taught in: 13_vae_theory
        """
        _check_latents(z, self.latent)
        return self.decoder(z)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x)[0])


class Generator(nn.Module):
    """Latents to images by two transposed convolutions with batch normalisation and a tanh at the end.

    A 4×4 kernel with stride 2 meets every output pixel equally often: no chequerboard by construction.

    Shapes: z (B, latent) → images (B, channels, size, size) in [-1, 1]; size is a multiple of 4, at least 8.
    Errors: ValueError for a wrong shape or dtype of z, or a size that does not fit.
    Source: Radford et al. 2016 (arXiv:1511.06434), section 3, with PyTorch's initialisation.
    Taught in: 20_dcgan_on_gpu

    >>> Generator(16, size=28)(torch.randn(2, 16)).shape
    torch.Size([2, 1, 28, 28])
    """

    def __init__(self, latent: int, *, size: int = 28, channels: int = 1, width: int = 64):
        super().__init__()
        self.latent = _positive("latent", latent)
        _positive("channels", channels)
        _positive("width", width)
        side = _quarter(size)
        self.layers = nn.Sequential(
            nn.Linear(latent, 2 * width * side * side),
            nn.Unflatten(1, (2 * width, side, side)),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        _check_latents(z, self.latent)
        return self.layers(z)


class Discriminator(nn.Module):
    """Images to one logit each by two strided convolutions; no batch normalisation, so each image is judged alone.

    That also makes it a critic: a gradient penalty asks for the gradient of one image's score.

    Shapes: x (B, channels, size, size) in [-1, 1] → logits (B,), before the sigmoid (not (B, 1)).
    Errors: ValueError for a wrong rank, size, channel count or dtype, or a size that does not fit.
    Source: Radford et al. 2016 (arXiv:1511.06434), section 3; without normalisation as in Gulrajani et al. 2017
    (arXiv:1704.00028), section 4.
    Taught in: 20_dcgan_on_gpu

    >>> Discriminator(size=8)(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5])
    """

    def __init__(self, *, size: int = 28, channels: int = 1, width: int = 64):
        super().__init__()
        side = _quarter(size)
        self.size = size
        self.channels = _positive("channels", channels)
        _positive("width", width)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(2 * width * side * side, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        _check_images(x, self.channels, self.size)
        return self.layers(x).squeeze(1)


class StackedLinear(nn.Module):
    """S independent linear layers of one shape as one batched product: many small nets train for the price of few.

    Member s is drawn exactly as `nn.Linear(inputs, outputs)` would be, on its own generator: it does not depend on
    how many others there are. With the SUM over members of each member's mean loss, no gradient crosses members,
    and an optimiser that works element by element (SGD, Adam) trains S nets as if each were alone. What looks at
    all weights at once (clipping the total norm, LBFGS) does not.

    Args: `rngs` a list of S generators, or one generator from which the members are drawn in turn.
    Shapes: x (S, B, inputs) → (S, B, outputs); weight (S, inputs, outputs), bias (S, 1, outputs).
    Errors: ValueError for a wrong shape of x, sizes below 1, a number of generators other than `count`.
    Taught in: 19_stable_gans

    >>> rngs = [torch.Generator().manual_seed(seed) for seed in range(3)]
    >>> StackedLinear(3, 64, 10, rngs)(torch.zeros(3, 5, 64)).shape
    torch.Size([3, 5, 10])
    """

    def __init__(self, count: int, inputs: int, outputs: int, rngs: Sequence[torch.Generator] | torch.Generator):
        super().__init__()
        _positive("count", count)
        _positive("inputs", inputs)
        _positive("outputs", outputs)
        rngs = [rngs] * count if isinstance(rngs, torch.Generator) else _generators(rngs)
        if len(rngs) != count:
            raise ValueError(f"expected one generator for each of the {count} members, got {len(rngs)}")
        members = [_linear_start(inputs, outputs, rng) for rng in rngs]
        self.weight = nn.Parameter(torch.stack([weight.T for weight, _ in members]).contiguous())
        self.bias = nn.Parameter(torch.stack([bias[None] for _, bias in members]))

    def forward(self, x: Tensor) -> Tensor:
        count, inputs, _ = self.weight.shape
        if x.ndim != 3 or x.shape[0] != count or x.shape[2] != inputs:
            raise ValueError(f"expected shape ({count}, B, {inputs}), got {tuple(x.shape)}")
        return torch.baddbmm(self.bias, x, self.weight)  # (S, B, outputs)

    def extra_repr(self) -> str:
        count, inputs, outputs = self.weight.shape
        return f"count={count}, inputs={inputs}, outputs={outputs}"


def _generators(rngs: Sequence[torch.Generator]) -> list[torch.Generator]:
    rngs = list(rngs)
    for position, rng in enumerate(rngs):
        if not isinstance(rng, torch.Generator):
            raise ValueError(f"rngs must hold torch.Generators, got a {type(rng).__name__} at position {position}")
    if len({id(rng) for rng in rngs}) < len(rngs):
        raise ValueError("rngs holds the same generator twice: members would depend on their order; make one for each")
    return rngs


def _linear_start(inputs: int, outputs: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Weight (outputs, inputs) and bias (outputs,) with the draws of `nn.Linear`, in its order."""
    weight = torch.empty(outputs, inputs, device=rng.device)
    bias = torch.empty(outputs, device=rng.device)
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=rng)
    bound = 1 / math.sqrt(inputs)
    nn.init.uniform_(bias, -bound, bound, generator=rng)
    return weight.cpu(), bias.cpu()


def stacked_mlp(
    sizes: Sequence[int],
    rngs: Sequence[torch.Generator],
    activation: Callable[[], nn.Module] = nn.ReLU,
) -> nn.Sequential:
    """Return S multilayer perceptrons as one: `StackedLinear` layers with an activation between them, none at the end.

    Args: `sizes` the widths from input to output, two or more; `rngs` a list of S generators, one for each member
    (S is its length); `activation` makes a new activation each time it is called.
    Shapes: x (S, B, sizes[0]) → (S, B, sizes[-1]). The same images for all members: `x.expand(S, *x.shape)`.
    Errors: ValueError for fewer than two sizes, sizes below 1, no generator or the same generator twice.
    Taught in: 00_start_here

    >>> rngs = [torch.Generator().manual_seed(seed) for seed in range(24)]
    >>> nets = stacked_mlp([64, 32, 10], rngs)
    >>> logits = nets(torch.zeros(5, 64).expand(24, 5, 64))
    >>> logits.shape
    torch.Size([24, 5, 10])
    """
    sizes = list(sizes)
    if len(sizes) < 2:
        raise ValueError(f"sizes must hold at least two widths, input and output, got {sizes}")
    if isinstance(rngs, torch.Generator):
        raise ValueError("rngs must be a list of generators, one for each member, got a single Generator")
    rngs = _generators(rngs)
    _positive("the number of generators in rngs", len(rngs))
    layers = []
    for inputs, outputs in pairwise(sizes):
        layers += [StackedLinear(len(rngs), inputs, outputs, rngs), activation()]
    return nn.Sequential(*layers[:-1])
