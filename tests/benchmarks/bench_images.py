"""Images per second of rule-made digits and of each augmentation: one thread, CPU seconds, medians.

    python tests/benchmarks/bench_images.py [rounds]

Rule-made digits have a goal of 20,000 images/s of 28×28 on two cores. Augmentations stand beside the way people write
them: a loop over single images with torchvision's transforms.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch

from course_utils import augment, rules

torch.set_num_threads(1)
GOAL = 10_000  # rule-made digits per second and core


def rate(work: Callable[[], object], count: int, rounds: int) -> float:
    """Return images per CPU second, the median of several rounds after one to warm up."""
    work()
    rates = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        rates.append(count / (time.process_time() - began))
    return statistics.median(rates)


def main(rounds: int = 5) -> None:
    """Measure and print two tables; no gate, a busy neighbour would trip it."""
    from torchvision.transforms import v2

    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(2000) % 10
    print(f"| rule-made digits | images/s on one core (median of {rounds}) | goal |\n|---|---:|---:|")
    for size in (28, 8):
        speed = rate(lambda size=size: rules.draw_digits(labels, rng, size=size), len(labels), rounds)
        print(f"| {size}×{size} | {speed:,.0f} | {f'≥ {GOAL:,}' if size == 28 else ''} |")

    x = 2 * torch.rand(2000, 1, 28, 28, generator=rng) - 1
    ours = {
        "affine": lambda: augment.affine(x, rng, rotation=10, shift=0.1, scale=0.1, shear=5),
        "elastic": lambda: augment.elastic(x, rng, strength=1.0),
        "flip": lambda: augment.flip(x, rng, horizontal=0.5),
        "erase": lambda: augment.erase(x, rng, size=0.3),
        "noise": lambda: augment.noise(x, rng, std=0.1),
        "contrast": lambda: augment.contrast(x, rng, gain=0.2, bias=0.1),
    }
    theirs = {
        "affine": v2.RandomAffine(10, (0.1, 0.1), (0.9, 1.1), 5, interpolation=v2.InterpolationMode.BILINEAR),
        "elastic": v2.ElasticTransform(34.0, 2.0),
        "flip": v2.RandomHorizontalFlip(0.5),
        "erase": v2.RandomErasing(1.0, (0.09, 0.09), (1.0, 1.0), value=-1),
        "noise": v2.GaussianNoise(0.0, 0.1),
        "contrast": v2.ColorJitter(0.1, 0.2),
    }
    print("\n| augmentation, 28×28 | batched, images/s | one by one | ratio |\n|---|---:|---:|---:|")
    few = x[:300]
    for name, work in ours.items():
        transform = theirs[name]
        batched = rate(work, len(x), rounds)
        single = rate(lambda t=transform: [t(image) for image in few], len(few), max(1, rounds // 2))
        print(f"| {name} | {batched:,.0f} | {single:,.0f} | {batched / single:.1f} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
