"""What `import course_utils` costs beside `import torch`: CPU seconds of fresh processes, alternated, medians.

    python tests/benchmarks/bench_import.py [--rounds 5]

The goal is a ratio of at most 1.15. The last row is what it is about: a chapter imports several modules at once.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from side_by_side import hand_over, row

ROOT = Path(__file__).resolve().parents[2]
GOAL = 1.15
SKIP = {"__init__", "__main__", "doctor"}  # the doctor is a program of its own


def modules() -> list[str]:
    """Return the names of the toolbox's modules."""
    return sorted(path.stem for path in (ROOT / "course_utils").glob("*.py") if path.stem not in SKIP)


def cpu_seconds(code: str) -> float:
    """Return the CPU seconds (all threads, user and system) of a fresh process that runs the code."""
    before = os.times()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> list[dict]:
    """Measure and print a table; no gate, a busy neighbour would trip it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    everything = ", ".join(f"course_utils.{name}" for name in modules())
    arms = {
        "import torch": "import torch",
        "import course_utils, torch": "import course_utils, torch",
        f"all {len(modules())} modules of course_utils": f"import {everything}",
    }
    for code in arms.values() if rounds > 1 else ():
        cpu_seconds(code)  # files into the cache of the system, bytecode onto the disk
    times = {name: [] for name in arms}
    began = time.perf_counter()
    for _ in range(rounds):
        for name, code in arms.items():
            times[name].append(cpu_seconds(code))
    base, *others = times
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = {name: statistics.median(b / a for a, b in zip(times[base], times[name], strict=True)) for name in others}
    print(f"| {'fresh process':<36} | CPU s (median of {rounds}) | ratio | goal |")
    print("|---|---:|---:|---:|")
    for name, median in medians.items():
        shown, goal = (f"{ratios[name]:.2f}", f"≤ {GOAL}") if name in ratios else ("", "")
        print(f"| {name:<36} | {median:>20.2f} | {shown:>5} | {goal:>4} |")
    print(f"spread of {base}: {min(times[base]):.2f} to {max(times[base]):.2f} s;", end=" ")
    print(f"{time.perf_counter() - began:.0f} s in all")
    return [row(name, base, ratios[name], "× time", goal=GOAL, direction="at most") for name in others]


if __name__ == "__main__":
    hand_over(__file__, main())
