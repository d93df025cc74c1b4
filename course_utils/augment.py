"""Random changes that keep the label: one row of parameters per image, all images of a batch in one call.

Every function takes x (B, C, H, W) float32 in [-1, 1] with background -1 and returns the same shape and range. The
parameters come from `rng`, on its own device, one row per image and in order: with a CPU generator the same rng gives
the same images whether they are augmented at once or in consecutive chunks.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def affine(
    x: Tensor,
    rng: torch.Generator,
    *,
    rotation: float = 0.0,
    shift: float = 0.0,
    scale: float = 0.0,
    shear: float = 0.0,
) -> Tensor:
    """Turn, shift, zoom and slant each image by amounts of its own.

    rotation: degrees, each angle uniform in ±rotation. shift: fraction of width and height, uniform in ±shift along
        both axes. scale: zoom factor uniform in 1 ± scale, scale < 1. shear: degrees, uniform in ±shear, below 90.

    What enters from outside is background. Raises ValueError for a negative strength, a scale of 1 or more, a shear of
    90 degrees or more, and an x of another type, shape or range.

    >>> rng = torch.Generator().manual_seed(0)
    >>> affine(torch.zeros(3, 1, 8, 8), rng, rotation=10, shift=0.1).shape
    torch.Size([3, 1, 8, 8])

    Taught in: 06_image_augmentation
    """
    _check(x, rng)
    for name, value in (("rotation", rotation), ("shift", shift), ("scale", scale), ("shear", shear)):
        _check_strength(name, value)
    if scale >= 1:
        raise ValueError(f"scale must be below 1 (zoom factors are drawn from 1 ± scale), got {scale}")
    if shear >= 90:
        raise ValueError(f"shear must be below 90 degrees, got {shear}")
    u = 2 * _rows(x, rng, 5) - 1  # (B, 5) in [-1, 1)
    return move(
        x,
        angle=u[:, 0] * rotation,
        dx=u[:, 1] * shift,
        dy=u[:, 2] * shift,
        zoom=1 + u[:, 3] * scale,
        slant=u[:, 4] * shear,
    )


def move(x: Tensor, *, angle: Tensor, dx: Tensor, dy: Tensor, zoom: Tensor, slant: Tensor) -> Tensor:
    """Apply one given affine map per image: the deterministic half of `affine`.

    Each parameter has shape (B,). angle: degrees, clockwise. dx, dy: fractions of width (to the right) and height
    (down). zoom: factor. slant: degrees. Order: slant, turn and zoom about the centre, then shift. Bilinear; what
    enters from outside is background. The signs are those of torchvision's ``v2.functional.affine``.

    Raises ValueError for an x of another type, shape or range, or a parameter of another shape.

    Taught in: 06_image_augmentation
    """
    _check(x)
    for name, value in {"angle": angle, "dx": dx, "dy": dy, "zoom": zoom, "slant": slant}.items():
        if value.shape != (len(x),):
            raise ValueError(f"{name} must have shape ({len(x)},), got {tuple(value.shape)}")
    height, width = x.shape[-2:]
    turn, lean = torch.deg2rad(angle), torch.tan(torch.deg2rad(slant))
    cos, sin = torch.cos(turn), torch.sin(turn)
    # grid_sample asks, for each place of the result, where to look in the source: the inverse map, in pixels from the
    # centre. The forward map is zoom · R(turn) · [[1, -lean], [0, 1]]; its inverse has determinant 1 / zoom².
    xx, xy = (cos - sin * lean) / zoom, (cos * lean + sin) / zoom
    yx, yy = -sin / zoom, cos / zoom
    right, down = dx * width, dy * height
    theta = torch.stack(
        [
            torch.stack([xx, xy * height / width, -(xx * right + xy * down) * 2 / width], -1),
            torch.stack([yx * width / height, yy, -(yx * right + yy * down) * 2 / height], -1),
        ],
        1,
    )  # (B, 2, 3) in the units of affine_grid, where the picture spans [-1, 1]
    return _sample(x, F.affine_grid(theta.to(x.dtype), list(x.shape), align_corners=False))


def elastic(x: Tensor, rng: torch.Generator, *, strength: float, smoothness: float = 2.0) -> Tensor:
    """Bend each image like rubber: every pixel moves by a smooth random amount.

    strength: typical displacement in pixels (standard deviation along each axis). smoothness: standard deviation, in
    pixels, of the Gaussian that smooths the displacements, > 0.

    Raises ValueError for a negative strength, a smoothness of 0 or less, and an x of another type, shape or range.
    Source: Simard, Steinkraus and Platt (2003), section 2.

    Taught in: 06_image_augmentation
    """
    _check(x, rng)
    _check_strength("strength", strength)
    if not (smoothness > 0 and math.isfinite(smoothness)):
        raise ValueError(f"smoothness must be positive, got {smoothness}")
    batch, _, height, width = x.shape
    field = (2 * _rows(x, rng, 2 * height * width) - 1).view(batch, 2, height, width)
    reach = min(math.ceil(3 * smoothness), height - 1, width - 1)
    offsets = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (offsets / smoothness) ** 2)
    kernel = kernel / kernel.square().sum().sqrt()  # white noise keeps its variance away from the border
    padded = F.pad(field.reshape(-1, 1, height, width), [reach] * 4, mode="reflect")
    smooth = F.conv2d(F.conv2d(padded, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1)).view_as(field)
    pixels = smooth * (strength * 3**0.5)  # a uniform variable on [-1, 1] has standard deviation 1/√3
    identity = torch.eye(2, 3, device=x.device, dtype=x.dtype).expand(batch, 2, 3)
    grid = F.affine_grid(identity, list(x.shape), align_corners=False)
    step = pixels.permute(0, 2, 3, 1) * torch.tensor([2 / width, 2 / height], device=x.device, dtype=x.dtype)
    return _sample(x, grid + step)


def flip(x: Tensor, rng: torch.Generator, *, horizontal: float = 0.0, vertical: float = 0.0) -> Tensor:
    """Mirror each image left-right and upside-down, each with a probability of its own.

    horizontal, vertical: probabilities in [0, 1].

    Raises ValueError for a probability outside [0, 1] and an x of another type, shape or range.

    Taught in: 06_image_augmentation
    """
    _check(x, rng)
    for name, value in (("horizontal", horizontal), ("vertical", vertical)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is a probability and must lie in [0, 1], got {value}")
    u = _rows(x, rng, 2)[:, :, None, None, None]
    x = torch.where(u[:, 0] < horizontal, x.flip(-1), x)
    return torch.where(u[:, 1] < vertical, x.flip(-2), x)


def noise(x: Tensor, rng: torch.Generator, *, std: float) -> Tensor:
    """Add independent Gaussian noise to every pixel; what leaves [-1, 1] is clamped to it.

    std: standard deviation in units of x, where black to white is 2.

    Raises ValueError for a negative std and an x of another type, shape or range.

    Taught in: 06_image_augmentation
    """
    _check(x, rng)
    _check_strength("std", std)
    # randn fills in blocks, so its numbers depend on the chunk; uniform numbers do not, and the inverse CDF makes them
    # normal.
    u = torch.rand(len(x), x[0].numel() if len(x) else 0, generator=rng, device=rng.device, dtype=torch.float64)
    normal = math.sqrt(2) * torch.erfinv(2 * u.clamp(min=2.0**-54) - 1)
    return (x + std * normal.to(x.device, x.dtype).view_as(x)).clamp(-1, 1)


def contrast(x: Tensor, rng: torch.Generator, *, gain: float = 0.0, bias: float = 0.0) -> Tensor:
    """Change contrast and brightness of each image: a·(x + 1) - 1 + b; what leaves [-1, 1] is clamped to it.

    gain: a is uniform in 1 ± gain, gain < 1; black stays black. bias: b is uniform in ±bias.

    Raises ValueError for a negative strength, a gain of 1 or more, and an x of another type, shape or range.

    Taught in: 06_image_augmentation
    """
    _check(x, rng)
    _check_strength("gain", gain)
    _check_strength("bias", bias)
    if gain >= 1:
        raise ValueError(f"gain must be below 1 (factors are drawn from 1 ± gain), got {gain}")
    u = (2 * _rows(x, rng, 2) - 1)[:, :, None, None, None]
    return ((1 + gain * u[:, 0]) * (x + 1) - 1 + bias * u[:, 1]).clamp(-1, 1)


def erase(x: Tensor, rng: torch.Generator, *, size: float) -> Tensor:
    """Cover a square of each image with background, at a place of its own.

    size: side of the square as a fraction of the height, in [0, 1], rounded to whole pixels; it lies inside the image.

    Raises ValueError for a size outside [0, 1] and an x of another type, shape or range.
    Source: DeVries and Taylor (2017), https://arxiv.org/abs/1708.04552

    Taught in: 06_image_augmentation
    """
    _check(x, rng)
    if not 0 <= size <= 1:
        raise ValueError(f"size is a fraction of the height and must lie in [0, 1], got {size}")
    height, width = x.shape[-2:]
    side = min(round(size * height), width)
    u = _rows(x, rng, 2)
    top = (u[:, 0] * (height - side + 1)).floor()[:, None, None]
    left = (u[:, 1] * (width - side + 1)).floor()[:, None, None]
    row = torch.arange(height, device=x.device)[None, :, None]
    column = torch.arange(width, device=x.device)[None, None, :]
    hole = (row >= top) & (row < top + side) & (column >= left) & (column < left + side)  # (B, H, W)
    return x.masked_fill(hole[:, None], -1.0)


def _rows(x: Tensor, rng: torch.Generator, count: int) -> Tensor:
    """One row of `count` uniform numbers in [0, 1) per image, drawn where the generator lives."""
    return torch.rand(len(x), count, generator=rng, device=rng.device).to(x.device)


def _sample(x: Tensor, grid: Tensor) -> Tensor:
    # Outside the picture grid_sample returns 0: shift the background there. Rounding may leave the range by 1e-7.
    return (F.grid_sample(x + 1, grid, align_corners=False) - 1).clamp(-1, 1)


def _check(x: Tensor, rng: torch.Generator | None = None) -> None:
    if not isinstance(x, Tensor) or x.dtype != torch.float32:
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x must be float32 in [-1, 1], got {kind}: bytes go through data.to_signed first")
    if x.ndim != 4:
        raise ValueError(f"x must have shape (B, C, H, W), got {tuple(x.shape)}")
    if x.device.type == "cpu" and x.numel():  # a look at the values would make a GPU wait
        low, high = (float(v) for v in x.detach().aminmax())
        if not (low >= -1.0001 and high <= 1.0001):  # also false for NaN
            raise ValueError(f"x must lie in [-1, 1], got {low:.4g} to {high:.4g}")
    if rng is not None and not isinstance(rng, torch.Generator):
        raise ValueError(f"rng must be a torch.Generator, got {type(rng).__name__}")


def _check_strength(name: str, value: float) -> None:
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be a finite number of at least 0, got {value}")
