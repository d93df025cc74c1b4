"""Rule-made digits and augmentation beside the way people write them, and beside the arithmetic alone.

    python tests/benchmarks/bench_images.py [--rounds 5] [--images 2000] [--few 300]

    plain        one image at a time: for digits a line drawn with Pillow, for augmentation torchvision's transforms;
                 on fewer images, and the time is counted per image
    limit        what cannot be left out: for digits the rasterising of curves computed beforehand, for augmentation
                 the resampling or the arithmetic with numbers drawn beforehand

Rule-made digits have a goal, 10,000 images/s of 28×28 on one core. One thread, CPU seconds, the rivals take turns,
medians of ratios of neighbours in time. No gate: a table.
"""

import argparse
import math
import os
import statistics

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from side_by_side import hand_over, ratio, row, take_turns

from course_utils import augment, rules

GOAL = 10_000  # rule-made digits per second and core


def pillow_digit(label: int, factors: dict[str, float], size: int = 28) -> np.ndarray:
    """The same digit as people would draw it: points, trigonometry in NumPy, a fat line four times as fine, reduced."""
    points, times, lifts = (part[label, int(factors["style"])].numpy() for part in rules._paths())
    x, y = points[:, 0].copy(), points[:, 1].copy()
    phases = [(factors["hand"] * multiplier) % 1 for multiplier in (1, *rules.PRIMES)]
    for k, (frequency, strength) in enumerate(zip(rules.FREQUENCIES, rules.STRENGTHS, strict=True)):
        x += factors["wobble"] * strength * np.cos(2 * math.pi * (frequency * times + phases[2 * k]))
        y += factors["wobble"] * strength * np.cos(2 * math.pi * (frequency * times + phases[2 * k + 1]))
    x = x * factors["aspect"] - factors["slant"] * y
    angle = math.radians(factors["rotation"])
    x, y = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    box = 20 / 28 * factors["scale"]
    stroke = factors["thickness"] * box
    fit_y = (box - stroke) / (y.max() - y.min())
    fit = min((box - stroke) / (x.max() - x.min()), fit_y)
    length = np.where(lifts, 0, np.hypot(np.diff(x), np.diff(y)))
    centre_x, centre_y = (((one[1:] + one[:-1]) / 2 * length).sum() / length.sum() for one in (x, y))
    fine = 4 * size
    x = ((x - centre_x) * fit + 0.5 + factors["dx"]) * fine
    y = ((y - centre_y) * fit + 0.5 + factors["dy"]) * fine
    image = Image.new("L", (fine, fine))
    draw, width = ImageDraw.Draw(image), stroke * fit / fit_y * fine
    strokes = np.split(np.stack([x, y], 1), np.flatnonzero(lifts) + 1)
    for line in strokes:
        draw.line([tuple(point) for point in line], fill=255, width=round(width), joint="curve")
        for px, py in (line[0], line[-1]):
            draw.ellipse((px - width / 2, py - width / 2, px + width / 2, py + width / 2), fill=255)
    return np.asarray(image.resize((size, size), Image.Resampling.BOX))


def digit_rivals(count: int, few: int, size: int) -> dict:
    """Three ways to `count` digits; the plain one draws `few`, and those look like ours."""
    labels = torch.arange(count) % 10
    part, factors = rules.draw_digits(labels, torch.Generator().manual_seed(0), size=size)
    chunks = [
        rules._pen(labels[i : i + rules.CHUNK], {name: f[i : i + rules.CHUNK] for name, f in factors.items()}, size)
        for i in range(0, count, rules.CHUNK)
    ]

    def rasterised():
        for x, y, lifts, radius in chunks:
            distance = rules._distance(x * size, y * size, lifts, size)
            (radius * size - distance).div_(rules.SOFT).add_(0.5).clamp_(0, 1).mul_(255).round_().to(torch.uint8)

    def one_by_one():
        rng = np.random.default_rng(0)
        for label in labels[:few].tolist():
            pillow_digit(label, {name: rng.uniform(*default) for name, (default, _) in rules.RANGES.items()}, size)

    ours = part.images[:few, 0].double().numpy()
    theirs = [
        pillow_digit(int(labels[i]), {name: float(f[i]) for name, f in factors.items()}, size) for i in range(len(ours))
    ]
    alike = np.corrcoef(ours.ravel(), np.stack(theirs).ravel())[0, 1]
    assert alike > 0.95, f"the plain digits correlate with ours by {alike:.3f} only: is it the same drawing?"
    return {
        "draw_digits": lambda: rules.draw_digits(labels, torch.Generator().manual_seed(0), size=size),
        "limit": rasterised,
        "plain": one_by_one,
    }


def augmentations(x: torch.Tensor, few: int) -> dict[str, dict]:
    """name → the batched function, its arithmetic alone, and torchvision's transform on a few images, one by one."""
    from torchvision.transforms import v2

    def one_by_one(transform):
        return lambda: [transform(image) for image in x[:few]]

    rng = torch.Generator().manual_seed(0)
    batch, side = len(x), x.shape[-1]
    grid = 2 * torch.rand(batch, side, side, 2, generator=rng) - 1
    yes = torch.rand(batch, 1, 1, 1, generator=rng) < 0.5
    hole = torch.rand(x.shape, generator=rng) < 0.09
    gain, bias = 1 + 0.1 * torch.randn(2, batch, 1, 1, 1, generator=rng)
    numbers = 0.1 * torch.randn(x.shape, generator=rng)
    bilinear = v2.InterpolationMode.BILINEAR

    def resampled():
        return F.grid_sample(x, grid, align_corners=False)

    made = {
        "affine": (
            lambda: augment.affine(x, rng, rotation=10, shift=0.1, scale=0.1, shear=5),
            resampled,
            v2.RandomAffine(10, (0.1, 0.1), (0.9, 1.1), 5, interpolation=bilinear, fill=-1),
        ),
        "elastic": (
            lambda: augment.elastic(x, rng, strength=1.0),
            resampled,
            v2.ElasticTransform(34.0, 2.0, fill=-1),
        ),
        "flip": (
            lambda: augment.flip(x, rng, horizontal=0.5),
            lambda: torch.where(yes, x.flip(-1), x),
            v2.RandomHorizontalFlip(0.5),
        ),
        "erase": (
            lambda: augment.erase(x, rng, size=0.3),
            lambda: x.masked_fill(hole, -1.0),
            v2.RandomErasing(1.0, (0.09, 0.09), (1.0, 1.0), value=-1),
        ),
        "noise": (
            lambda: augment.noise(x, rng, std=0.1),
            lambda: (x + numbers).clamp(-1, 1),
            v2.Compose([v2.GaussianNoise(0.0, 0.1, clip=False), lambda image: image.clamp(-1, 1)]),
        ),
        "contrast": (
            lambda: augment.contrast(x, rng, gain=0.2, bias=0.1),
            lambda: (gain * (x + 1) - 1 + bias).clamp(-1, 1),
            v2.ColorJitter(0.1, 0.2),
        ),
    }
    names = sorted(name for name in vars(augment) if callable(getattr(augment, name)) and not name.startswith("_"))
    missing = {name for name in names if getattr(augment, name).__module__ == augment.__name__} - set(made) - {"move"}
    assert not missing, f"no benchmark for {sorted(missing)}"  # move is the deterministic half of affine
    return {
        name: {"batched": ours, "limit": least, "plain": one_by_one(theirs)}
        for name, (ours, least, theirs) in made.items()
    }


def compare(work: str, rivals: dict, count: int, few: int, rounds: int) -> list[dict]:
    """Measure three rivals, ours first, print one line and return two rows."""
    ours, limit, plain = rivals
    seconds = take_turns({name: lambda made=made: made for name, made in rivals.items()}, rounds)
    speed = count / statistics.median(seconds[ours])
    gain, share = ratio(seconds, ours, plain) * count / few, ratio(seconds, ours, limit)
    print(f"| {work} | {speed:,.0f} | {gain:.1f} | {share:.0%} |")
    return [
        row(work, f"one by one, {few} images", gain),
        row(work, "limit", share, "share of the limit"),
    ]


def main() -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--few", type=int, default=300, help="images for what works one by one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    few = min(options.few, options.images)
    print(f"{options.rounds} rounds, medians; goal of rule-made digits: {GOAL:,} images/s")
    print("| work, 28×28 | images per CPU second | × one by one | share of the limit |\n|---|---:|---:|---:|")
    digits = digit_rivals(options.images, few, 28)
    rows = compare("rule-made digits 28×28", digits, options.images, few, options.rounds)
    seconds = take_turns({"ours": lambda: digits["draw_digits"]}, options.rounds)["ours"]
    speed = options.images / statistics.median(seconds)
    rows.append(row("rule-made digits 28×28", "clock", speed, "images per second", goal=GOAL))
    part, _ = rules.draw_digits(torch.arange(options.images) % 10, torch.Generator().manual_seed(0))
    x = part.images / 127.5 - 1
    for name, rivals in augmentations(x, few).items():
        rows += compare(f"augmentation: {name}", rivals, options.images, few, options.rounds)
    return rows


if __name__ == "__main__":
    hand_over(__file__, main())
