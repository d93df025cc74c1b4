"""Digits written by a rule: pen strokes with known factors, drawn in batches.

A digit is a path of the pen. `GLYPHS` holds six ways to write each of the ten digits; factors (slant,
thickness, scale, ...) deform the path, and a pixel is bright where the path passes near its centre.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from .data import DIGITS, ImageSet

__all__ = ["draw_digits", "render"]

# Six handwriting styles per digit, as pen paths on a paper 100 high: "x,y" with x to the right and y down.
# The pen runs smoothly through the points; "^" marks a corner, "/" lifts the pen.
GLYPHS: tuple[tuple[str, ...], ...] = (
    (  # 0: oval, narrow, wide, open at the top, closed by a small overlap, started at the side
        "55,0 25,15 12,55 28,92 55,100 84,72 86,35 70,6 50,0",
        "56,0 34,18 26,55 34,90 50,100 68,80 74,42 66,10 50,2",
        "58,2 20,12 0,50 18,90 55,100 95,80 100,40 78,6 50,0",
        "60,8 34,4 12,35 14,78 45,100 78,80 86,38 70,8 48,12",
        "40,10 14,45 22,90 52,100 82,72 84,30 60,2 38,8 44,20",
        "18,40 14,75 38,100 70,88 86,50 76,12 50,0 26,14 16,50",
    ),
    (  # 1: plain, leaning, slightly bent, with a flag, with a short flag, with flag and base
        "50,0 50,50 50,100",
        "62,0 50,50 38,100",
        "56,0 48,50 46,100",
        "28,20 44,12 56,0^ 54,50 52,100",
        "42,12 54,0^ 52,50 48,100",
        "30,20 54,0^ 53,50 52,100 / 22,100 50,99 82,98",
    ),
    (  # 2: corner at the foot, looped foot, long flat foot, small hook, loop with a wave, wide
        "14,22 35,2 66,4 76,28 55,62 12,98^ 50,96 88,97",
        "14,20 40,0 72,10 72,38 45,75 18,92 10,80 26,74 55,92 92,94",
        "10,16 42,0 74,14 68,42 38,74 8,98^ 48,94 100,96",
        "20,30 30,6 58,0 78,18 68,48 38,78 14,96^ 48,92 84,98",
        "8,14 36,2 64,12 66,40 40,80 16,98 6,86 22,78 50,90 72,98 96,88",
        "6,24 34,0 78,6 84,34 50,68 10,92 4,86 20,82 60,96 100,94",
    ),
    (  # 3: round, flat top, looped waist, tall, shallow waist, big belly
        "14,12 44,0 74,14 68,38 38,48^ 72,58 82,80 54,100 12,90",
        "14,4 45,3 80,2^ 60,24 40,42^ 74,54 82,78 52,100 10,92",
        "16,14 46,0 74,16 62,40 40,50 34,44 46,44 76,60 74,88 42,100 12,90",
        "24,8 50,0 70,14 64,36 42,46^ 66,54 74,78 52,98 20,96",
        "12,16 40,0 74,10 74,34 54,47 76,60 78,86 46,100 8,88",
        "20,10 48,2 66,14 60,32 38,42^ 78,50 92,74 62,100 14,94",
    ),
    (  # 4: open, closed, open in one stroke, open with a short stem, long bar, round cup
        "20,0 14,30 10,54^ 45,55 84,52 / 72,4 68,50 62,100",
        "64,100 66,50 68,0^ 38,34 8,64^ 50,66 96,62",
        "18,4 12,42 34,56 62,46 76,6^ 70,50 62,100",
        "26,4 10,50^ 40,54 76,48 / 76,20 70,60 60,100",
        "30,0 20,28 4,54^ 50,52 100,46 / 70,14 62,55 54,100",
        "12,8 10,40 26,56 54,54 74,38 / 80,2 74,50 72,100",
    ),
    (  # 5: angular, bar drawn last, S-shaped, wide belly, short bar, slanted
        "86,2 58,4 32,4^ 24,42^ 56,36 84,56 76,88 42,100 8,92",
        "34,8 28,26 22,46^ 54,40 80,60 70,92 36,100 6,92 / 34,8 60,6 92,0",
        "88,4 50,6 32,22 40,42 68,58 72,84 42,100 8,92",
        "80,0 30,4^ 24,24 18,44^ 60,36 92,60 72,96 34,100 6,84",
        "70,2 36,4^ 30,24 26,44^ 52,42 74,58 76,82 50,100 14,94",
        "98,2 72,6 46,6^ 36,26 26,46^ 60,44 76,62 64,88 36,100 4,94",
    ),
    (  # 6: curved, big loop, straight stem, curled, small loop, open loop
        "64,0 34,26 16,64 26,94 54,100 78,82 70,60 44,58 20,74",
        "70,0 36,18 12,58 20,92 54,100 84,78 76,50 44,46 16,64",
        "44,0 28,32 18,68 28,96 56,98 74,80 66,62 44,62 22,80",
        "80,8 62,0 32,22 14,62 26,94 56,100 80,80 68,56 42,56 18,72",
        "60,0 36,30 20,66 24,94 48,100 66,86 60,70 42,70 24,86",
        "72,2 40,22 18,60 26,94 58,98 82,76 72,54 50,56 34,70",
    ),
    (  # 7: plain, crossed, with a serif, curved stem, crossed with a serif, round shoulder
        "8,6 45,4 84,2^ 62,50 44,100",
        "8,6 45,5 86,2^ 64,50 44,100 / 34,52 55,50 84,48",
        "10,22 12,6^ 48,6 82,4^ 62,44 54,100",
        "6,10 40,8 80,2^ 62,30 50,62 46,100",
        "8,20 14,6^ 50,8 88,0^ 62,50 40,100 / 28,54 54,50 80,50",
        "10,12 30,4 66,2 80,14 70,44 54,72 44,100",
    ),
    (  # 8: begun at the right, two ovals, open at the top, narrow, small head, wide
        "74,14 48,0 24,16 42,44 72,68 64,94 36,98 18,78 46,50 74,26 68,8",
        "48,48 24,26 48,0 74,22 48,48 20,76 48,100 78,76 48,48",
        "82,8 52,2 24,20 40,46 64,70 54,98 24,98 16,76 48,48 84,18",
        "62,10 46,0 32,16 44,44 64,70 56,96 40,100 28,80 44,52 62,28 58,6",
        "66,10 48,0 32,14 46,36 80,66 68,98 34,100 14,76 44,40 66,20 62,6",
        "84,12 50,0 16,16 40,44 80,68 70,96 34,100 10,78 50,46 86,22 74,6",
    ),
    (  # 9: bent stem, straight stem, hooked, slanted, small head, head closed last
        "76,16 50,0 20,16 20,42 46,50 74,20^ 70,56 56,100",
        "74,14 42,0 14,22 28,48 58,42 76,10^ 74,52 72,100",
        "74,18 50,0 20,16 22,42 52,46 76,18^ 78,56 66,90 34,100 14,90",
        "84,12 56,0 26,18 28,42 56,46 84,10^ 64,52 40,100",
        "68,12 48,0 28,14 30,34 50,38 70,12^ 70,50 62,100",
        "80,6 46,2 18,22 26,46 56,44 78,20 80,6^ 72,50 64,100",
    ),
)
STYLES = 6
SEGMENTS = 20  # straight pieces per digit: at 28×28 a piece is under three pixels long
FREQUENCIES = (0.35, 0.7, 1.2, 2.0)  # of the pen's tremble, in waves per height of path
STRENGTHS = (0.9, 0.8, 0.5, 0.25)
PRIMES = (1009, 2003, 3001, 4001, 5003, 6007, 7001)
SOFT = 1.5
CHUNK = 96

# name: default range, then the range that makes sense at all
RANGES: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "style": ((0, STYLES - 1), (0, STYLES - 1)),
    "slant": ((-0.15, 0.55), (-2.0, 2.0)),
    "rotation": ((-12.0, 12.0), (-180.0, 180.0)),
    "scale": ((0.92, 1.04), (0.1, 1.4)),
    "aspect": ((0.75, 1.25), (0.1, 10.0)),
    "thickness": ((0.08, 0.19), (0.01, 0.5)),
    "dx": ((-0.03, 0.03), (-0.5, 0.5)),
    "dy": ((-0.03, 0.03), (-0.5, 0.5)),
    "wobble": ((0.01, 0.05), (0.0, 0.5)),
    "hand": ((0.0, 1.0), (0.0, 1.0)),
}


def _piece(points: np.ndarray, n: int) -> np.ndarray:
    """Return n + 1 points, equally far apart along the centripetal Catmull–Rom curve through `points`."""
    first, last = 2 * points[0] - points[1], 2 * points[-1] - points[-2]
    p = np.vstack([first, points, last])
    curve = [points[:1]]
    t = np.linspace(0, 1, 33)[1:, None]
    for p0, p1, p2, p3 in zip(p, p[1:], p[2:], p[3:], strict=False):
        t1, t2, t3 = np.cumsum([np.sqrt(np.linalg.norm(b - a)) for a, b in ((p0, p1), (p1, p2), (p2, p3))])
        s = t1 + (t2 - t1) * t
        a1, a2, a3 = (
            p0 + (p1 - p0) * s / t1,
            p1 + (p2 - p1) * (s - t1) / (t2 - t1),
            p2 + (p3 - p2) * (s - t2) / (t3 - t2),
        )
        b1, b2 = a1 + (a2 - a1) * s / t2, a2 + (a3 - a2) * (s - t1) / (t3 - t1)
        curve.append(b1 + (b2 - b1) * (s - t1) / (t2 - t1))
    curve = np.concatenate(curve)
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    at = np.linspace(0, length[-1], n + 1)
    return np.stack([np.interp(at, length, curve[:, i]) for i in range(2)], axis=1)


@lru_cache(maxsize=1)
def _paths() -> tuple[Tensor, Tensor, Tensor]:
    """Return points (10, STYLES, SEGMENTS + 1, 2), pen time at each (10, STYLES, SEGMENTS + 1), and lifts.

    A stroke is cut into pieces at its corners, so that a corner is always one of the points. Pen time is the
    length of the way so far, lifts included, in heights of the digit. Lifts (10, STYLES, SEGMENTS) mark the
    pieces that leave no ink.
    """
    points, times, lifts = [], [], []
    for glyph in [g for styles in GLYPHS for g in styles]:
        pieces, starts = [], []
        for stroke in glyph.split("/"):
            piece = []
            for word in stroke.split():
                piece.append([float(v) for v in word.rstrip("^").split(",")])
                if word.endswith("^"):
                    pieces.append(np.array(piece))
                    piece = [piece[-1]]
            pieces.append(np.array(piece))
            starts.append(len(pieces))
        lengths = np.array([np.linalg.norm(np.diff(p, axis=0), axis=1).sum() for p in pieces])
        counts = np.ones(len(pieces), dtype=int)
        for _ in range(SEGMENTS - (len(starts) - 1) - len(pieces)):
            counts[np.argmax(lengths / counts)] += 1
        path, lift = [], np.zeros(SEGMENTS, dtype=bool)
        for i, (piece, n) in enumerate(zip(pieces, counts, strict=True)):
            p = _piece(piece, n)
            if i in starts:
                lift[sum(len(q) for q in path) - 1] = True
            path.append(p if i == 0 or i in starts else p[1:])
        path = np.concatenate(path) / 100 - 0.5
        points.append(path)
        times.append(np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))]))
        lifts.append(lift)
    shape = (len(GLYPHS), STYLES)
    return (
        torch.tensor(np.array(points), dtype=torch.float32).reshape(*shape, SEGMENTS + 1, 2),
        torch.tensor(np.array(times), dtype=torch.float32).reshape(*shape, SEGMENTS + 1),
        torch.tensor(np.array(lifts)).reshape(*shape, SEGMENTS),
    )


def _frame(size: int) -> tuple[float, float]:
    """Return width and height of the box a digit is fitted into, as fractions of the image side."""
    return (20 / 28, 20 / 28) if size >= 16 else (0.75, 1.0)


def _pen(labels: Tensor, factors: dict[str, Tensor], size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the pen's points x, y (SEGMENTS + 1, B) in image sides, lifts (SEGMENTS, B), pen radius (B,)."""
    points, times, lifts = (t.to(labels.device)[labels, factors["style"]] for t in _paths())
    x, y, time, lifts = points[..., 0].T, points[..., 1].T, times.T, lifts.T
    # The tremble: a smooth random function of pen time. Its phases are fractional parts of multiples of `hand`:
    # odd multipliers far apart make them look independent, and one number per image says it all.
    multipliers = torch.tensor([1, *PRIMES], dtype=torch.float64, device=labels.device)
    phases = (factors["hand"].double() * multipliers[:, None]).frac().float()
    for k, (frequency, strength) in enumerate(zip(FREQUENCIES, STRENGTHS, strict=True)):
        x = x + factors["wobble"] * strength * torch.cos(2 * math.pi * (frequency * time + phases[2 * k]))
        y = y + factors["wobble"] * strength * torch.cos(2 * math.pi * (frequency * time + phases[2 * k + 1]))
    x = x * factors["aspect"] - factors["slant"] * y
    angle = torch.deg2rad(factors["rotation"])
    x, y = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()

    width, height = _frame(size)
    stroke = factors["thickness"] * factors["scale"] * height
    left, right, top, bottom = x.amin(0), x.amax(0), y.amin(0), y.amax(0)
    fit_y = (height * factors["scale"] - stroke) / (bottom - top)
    fit_x = torch.minimum((width * factors["scale"] - stroke) / (right - left), fit_y)
    if size >= 16:
        stroke = stroke * (fit_x / fit_y)  # a wide digit is made smaller to fit, and its pen with it
        fit_y = fit_x
    if size >= 16:
        length = torch.hypot(x.diff(dim=0), y.diff(dim=0)).masked_fill(lifts, 0)
        centre_x = ((x[1:] + x[:-1]) / 2 * length).sum(0) / length.sum(0)
        centre_y = ((y[1:] + y[:-1]) / 2 * length).sum(0) / length.sum(0)
    else:
        centre_x, centre_y = (left + right) / 2, (top + bottom) / 2
    x, y = (x - centre_x) * fit_x + 0.5 + factors["dx"], (y - centre_y) * fit_y + 0.5 + factors["dy"]
    return x, y, lifts, stroke / 2


def _distance(x: Tensor, y: Tensor, lifts: Tensor, size: int) -> Tensor:
    """Return the distance of each pixel's centre from the path, (size, size, B), in the unit of x and y: pixels.

    Along and across a piece, a pixel's coordinates are a sum of a row term and a column term; the batch is the
    last dimension, so that every operation runs over contiguous memory.
    """
    x, y = x.contiguous(), y.contiguous()  # they come transposed, and would hand that on to all that follows
    dx, dy = x.diff(dim=0), y.diff(dim=0)
    length = torch.hypot(dx, dy).clamp(min=1e-6)
    # a lift is moved far away instead of being left out: every digit keeps the same number of pieces
    middle_x, middle_y = ((x[1:] + x[:-1]) / 2).masked_fill(lifts, -1e4), (y[1:] + y[:-1]) / 2
    cos, sin, half = dx / length, dy / length, length / 2
    pixel = torch.arange(size, device=x.device) + 0.5
    column = pixel[:, None] - middle_x[:, None]  # (SEGMENTS, size, B)
    row = pixel[:, None] - middle_y[:, None]
    along_column, along_row = (column * cos[:, None])[:, None], (row * sin[:, None])[:, :, None]
    across_column, across_row = (column * sin[:, None])[:, None], (row * cos[:, None])[:, :, None]

    nearest = x.new_full((size, size, x.shape[1]), 1e9)
    beyond, across = torch.empty_like(nearest), torch.empty_like(nearest)
    for i in range(len(half)):
        torch.add(along_column[i], along_row[i], out=beyond)
        beyond.abs_().sub_(half[i]).clamp_(min=0)
        torch.sub(across_row[i], across_column[i], out=across)
        torch.minimum(nearest, across.mul_(across).addcmul_(beyond, beyond), out=nearest)
    return nearest.sqrt_()


def _render_chunk(labels: Tensor, factors: dict[str, Tensor], size: int) -> Tensor:
    """Return images (B, size, size) uint8."""
    x, y, lifts, radius = _pen(labels, factors, size)
    if size >= 16:
        distance = _distance(x * size, y * size, lifts, size)
        ink = (radius * size - distance).div_(SOFT).add_(0.5).clamp_(0, 1).mul_(255)
    else:
        fine = 4 * size
        on = _distance(x * fine, y * fine, lifts, fine) <= radius * fine
        count = on.view(size, 4, size, 4, -1).sum((1, 3), dtype=torch.float32)
        ink = count.mul_(255 / 16)
    return ink.round_().to(torch.uint8).permute(2, 0, 1)


def draw_digits(
    labels, rng: torch.Generator, *, size: int = 28, **ranges: tuple[float, float]
) -> tuple[ImageSet, dict[str, Tensor]]:
    """Draw one handwritten-looking digit per label, and tell the factors that made it.

    labels: (N,) integers 0 to 9, N >= 1. size: height and width in pixels, >= 8.
    ranges: factor=(low, high), drawn uniformly per image; (v, v) fixes a factor. Factors and their defaults: ``style``
        (0, 5), one of six ways to write the digit; ``slant`` (-0.15, 0.55), shear to the right; ``rotation`` (-12, 12)
        degrees, anticlockwise; ``scale`` (0.92, 1.04) of the frame; ``aspect`` (0.75, 1.25), width; ``thickness``
        (0.08, 0.19) of the frame's height; ``dx``, ``dy`` (-0.03, 0.03) of the image side, right and down; ``wobble``
        (0.01, 0.05) of the digit's height, the tremble of the pen; ``hand`` (0, 1), which tremble.

    Returns an ImageSet of images (N, 1, size, size) uint8, bright on black, with sources ``"strokes/000000"``…, and the
    factors, name -> (N,) float32 (``style`` int64): `render` makes the same images from them. Each image takes one row
    of numbers from `rng`, in order, on the generator's device: with a CPU generator the images are the same drawn at
    once or in consecutive chunks.

    Framing: from 16 pixels on as in MNIST (a box of 20/28 of the side, centred by mass, anti-aliased); below as in
    scikit-learn's digits (full height, drawn four times as fine in black and white, then counted in 4×4 blocks, so that
    there are 17 grey levels).

    Raises ValueError for labels, a size, a generator or ranges that are not as described, naming the value.

    >>> digits, factors = draw_digits([3, 1, 4], torch.Generator().manual_seed(0), size=28, slant=(0.0, 0.0))
    >>> digits, float(factors["slant"].abs().max())
    (ImageSet(3 images 1×28×28, 10 classes), 0.0)

    Taught in: 08_data_by_rule
    """
    labels = _checked_labels(labels)
    _check_size(size)
    if not isinstance(rng, torch.Generator):
        raise ValueError(f"rng must be a torch.Generator, got {type(rng).__name__}")
    chosen = {name: _checked_range(name, ranges.get(name, default)) for name, (default, _) in RANGES.items()}
    unknown = set(ranges) - set(RANGES)
    if unknown:
        raise ValueError(f"unknown factor {sorted(unknown)}; expected some of {tuple(RANGES)}")
    u = torch.rand(len(labels), len(RANGES), generator=rng, device=rng.device).to(labels.device)
    factors = {}
    for column, (name, (low, high)) in enumerate(chosen.items()):
        if name == "style":
            factors[name] = (low + u[:, column] * (high - low + 1)).long().clamp(max=int(high))
        else:
            factors[name] = low + (high - low) * u[:, column]
    source = np.array([f"strokes/{row:06d}" for row in range(len(labels))])
    return ImageSet(render(labels, factors, size), labels, DIGITS, source), factors


def render(labels, factors: dict[str, Tensor], size: int = 28) -> Tensor:
    """Draw digits from their factors: the deterministic half of `draw_digits`.

    labels: (N,) integers 0 to 9. factors: all the names that `draw_digits` returns, (N,) each. size: pixels, >= 8.

    Returns images (N, 1, size, size) uint8 on the device of the labels. Memory beyond the result is bounded: images are
    drawn in chunks. Raises ValueError for labels, sizes or factors that are not as described, naming the value.

    Taught in: 08_data_by_rule
    """
    labels = _checked_labels(labels)
    _check_size(size)
    factors = _checked_factors(factors, labels)
    chunk = CHUNK if labels.device.type == "cpu" else 2048
    images = torch.empty(len(labels), 1, size, size, dtype=torch.uint8, device=labels.device)
    for start in range(0, len(labels), chunk):
        # Always a whole chunk, its last row repeated: a vector unit rounds its remainder differently, and the same
        # digit must not depend on how many are drawn with it.
        rows = torch.arange(start, start + chunk, device=labels.device).clamp(max=len(labels) - 1)
        part = _render_chunk(labels[rows], {name: value[rows] for name, value in factors.items()}, size)
        images[start : start + chunk, 0] = part[: len(labels) - start]
    return images


def _checked_labels(labels) -> Tensor:
    labels = torch.as_tensor(labels)
    if labels.ndim != 1 or len(labels) == 0:
        raise ValueError(f"labels must have shape (N,) with N >= 1, got {tuple(labels.shape)}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > 9:
        raise ValueError(f"labels must lie in 0..9, got {low if low < 0 else high}")
    return labels.long()


def _check_size(size: int) -> None:
    if isinstance(size, bool) or not isinstance(size, int) or size < 8:
        raise ValueError(f"size must be an integer of at least 8, got {size!r}")


def _checked_range(name: str, pair) -> tuple[float, float]:
    try:
        low, high = (float(value) for value in pair)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a pair (low, high), got {pair!r}") from None
    least, most = RANGES[name][1]
    if not (math.isfinite(low) and math.isfinite(high) and least <= low <= high <= most):
        raise ValueError(f"{name} must be (low, high) with {least} <= low <= high <= {most}, got {pair!r}")
    if name == "style" and not (low.is_integer() and high.is_integer()):
        raise ValueError(f"style must be a pair of whole numbers, got {pair!r}")
    return low, high


def _checked_factors(factors: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    if set(factors) != set(RANGES):
        raise ValueError(f"factors must be {tuple(RANGES)}, got {tuple(factors)}")
    checked = {}
    for name, value in factors.items():
        value = torch.as_tensor(value, device=labels.device)
        if value.shape != labels.shape:
            raise ValueError(f"factor {name} must have shape {tuple(labels.shape)}, got {tuple(value.shape)}")
        if not torch.isfinite(value).all():
            raise ValueError(f"factor {name} holds a value that is not finite")
        least, most = RANGES[name][1]
        if name in ("style", "scale", "aspect", "thickness") and not ((value >= least) & (value <= most)).all():
            raise ValueError(
                f"factor {name} must lie in [{least}, {most}], got {float(value.min())}..{float(value.max())}"
            )
        checked[name] = value.long() if name == "style" else value.float()
    return checked
