"""What the benchmarks share: turns in alternating order, ratios of neighbours in time, rows for the table."""

import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path


def take_turns(makers: dict[str, Callable], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of every rival in every round, after one round to warm up; the order turns round each time.

    makers: name → a function that prepares one piece of work and returns it. Only the piece itself is timed, and
    each starts afresh: nothing that one learned is carried into the next.
    """
    seconds = {name: [] for name in makers}
    for turn in range(-1, rounds):
        for name in list(makers) if turn % 2 == 0 else reversed(makers):
            work = makers[name]()
            started = time.process_time()
            work()
            if turn >= 0:
                seconds[name].append(time.process_time() - started)
    return seconds


def ratio(seconds: dict[str, list[float]], name: str, other: str) -> float:
    """How much faster `name` is than `other`: of neighbours in time, so that a slow minute hits both."""
    return statistics.median(b / a for a, b in zip(seconds[name], seconds[other], strict=True))


def row(
    work: str,
    beside: str,
    value: float,
    unit: str = "× speed",
    *,
    goal: float | None = None,
    direction: str = "at least",
    arithmetic: str = "",
) -> dict:
    """One line of the table that `make bench` prints; `make bench RECORD=1` keeps it."""
    return {
        "work": work,
        "beside": beside,
        "arithmetic": arithmetic,
        "ratio": value,
        "goal": goal,
        "direction": direction,
        "unit": unit,
    }


def hand_over(file: str, rows: list[dict]) -> None:
    """Append the rows of one bench file to the file that BENCH_ROWS names, one JSON object a line."""
    if os.environ.get("BENCH_ROWS"):
        with open(os.environ["BENCH_ROWS"], "a", encoding="utf8") as out:
            out.writelines(json.dumps({"bench": Path(file).stem, **one}, allow_nan=False) + "\n" for one in rows)


def per_item(part, batch: int, *, centred: bool, shuffle: bool = True):
    """A DataLoader over an ImageSet that opens and transforms one image at a time, as it is widely copied."""
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    class PerItem(Dataset):
        transform = transforms.Compose(
            [transforms.ToTensor()] + [transforms.Normalize([0.5], [0.5])] * centred,
        )

        def __len__(self):
            return len(part)

        def __getitem__(self, i):
            return self.transform(Image.fromarray(part.images[i, 0].numpy())), int(part.labels[i])

    return DataLoader(PerItem(), batch_size=batch, shuffle=shuffle)
