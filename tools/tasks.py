"""Run the steps of `make book`, `quick`, `test` and `bench`, stop at the first fault, end with a verdict.

    .venv/bin/python tools/tasks.py {book,quick,test,bench} [chapters ...]

It uses the interpreter that runs it, so it works in any environment that holds the packages (conda, a weekly run with
the newest versions), not in `.venv` alone.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
PAGE = ROOT / "_build" / "html" / "index.html"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
NO_TESTS = 5  # pytest's exit status when it collected nothing


class Step(NamedTuple):
    """One command of a task: its name, what to run, the file without which it is left out, a hint for a fault."""

    name: str
    command: list[str]
    needs: str = "pyproject.toml"
    hint: str = ""


def pytest(*words: str) -> list[str]:
    """Return the command that runs pytest with these words."""
    return [sys.executable, "-m", "pytest", *words]


def book_steps() -> list[Step]:
    """Return the steps that build the book from stored outputs; nothing is executed."""
    return [
        Step("generated pages", [sys.executable, "tools/pages.py"], "tools/pages.py"),
        # --all: a page kept from an earlier build does not repeat its warning, and the second build would look clean.
        Step(
            "book",
            [str(BIN / "jupyter-book"), "build", ".", "--all", "-W", "--keep-going", "-q"],
            "_config.yml",
            "Warnings are errors here; each names its page and line above.",
        ),
    ]


def lint_steps() -> list[Step]:
    """Return the two runs of ruff."""
    ruff = str(BIN / "ruff")
    return [
        Step("lint", [ruff, "check", "."], hint="Many of these repair themselves: .venv/bin/ruff check --fix ."),
        Step("format", [ruff, "format", "--check", "."], hint="This repairs itself: .venv/bin/ruff format ."),
    ]


def unit_step(*words: str) -> Step:
    """Return the run of unit tests, file rules and doctests, on two workers with one thread each."""
    workers = os.environ.get("WORKERS", "2")
    later = [f"--ignore=tests/{name}" for name in ("test_browser.py", "test_colab.py", "benchmarks")]
    command = pytest("-n", workers, "--doctest-modules", "course_utils", "tools", "tests", *later, *words)
    return Step(
        "unit tests, file rules, doctests", command, hint="One test alone: .venv/bin/pytest tests/FILE.py::NAME"
    )


def steps_of(task: str, chapters: list[str], report: str) -> list[Step]:
    """Return the steps of a task, cheap ones first; `report` is where the browser tests leave their counts."""
    if task == "book":
        return book_steps()
    if task == "quick":
        return [*lint_steps(), unit_step("-m", "not slow and not browser")]
    if task == "test":
        return [
            *lint_steps(),
            *book_steps(),
            unit_step(),
            Step(
                "pages in a browser",
                pytest("tests/test_browser.py", "-rs", f"--junitxml={report}"),
                "tests/test_browser.py",
            ),
            Step(
                "chapters, every cell",
                [sys.executable, "tools/notebooks.py", "check", *chapters],
                "tools/notebooks.py",
                'One chapter alone: make test CHAPTERS="00"',
            ),
            Step("rehearsal of Colab", pytest("tests/test_colab.py"), "tests/test_colab.py"),
        ]
    if task == "bench":
        found = sorted((ROOT / "tests" / "benchmarks").glob("bench_*.py"))
        return [Step(path.stem, [sys.executable, str(path.relative_to(ROOT))]) for path in found]
    raise ValueError(f"task {task!r} is unknown; expected book, quick, test or bench")


def environment() -> dict[str, str]:
    """Return the environment of every step: one thread for each process, the programs of this interpreter first."""
    path = f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PATH": path, "PYTHONUNBUFFERED": "1"}


def in_ci() -> bool:
    """Return True on a continuous-integration machine, where nothing may be left out."""
    return os.environ.get("CI", "").lower() in ("1", "true", "yes")


def skipped(report: str) -> int:
    """Return how many tests a JUnit file counts as skipped."""
    if not Path(report).is_file():
        return 0
    return sum(int(suite.get("skipped", 0)) for suite in ElementTree.parse(report).iter("testsuite"))


def fault_of(step: Step, status: int) -> str:
    """Return what an exit status means, "" for success."""
    if status == 0:
        return ""
    if status == NO_TESTS and "pytest" in step.command:
        return "no test was collected: an empty run proves nothing"
    if status < 0:
        return f"it was stopped by signal {-status} (9: usually no memory left)"
    return f"it ended with status {status}"


def seconds_text(seconds: float) -> str:
    """Return a duration as people say it.

    >>> seconds_text(8.2), seconds_text(125)
    ('8 s', '2 min 5 s')
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def run(task: str, chapters: list[str]) -> int:
    """Run a task's steps in turn; return 0, or 1 at the first fault, which the last line names."""
    began = time.perf_counter()
    left_out = []
    done = 0
    with tempfile.TemporaryDirectory() as folder:
        report = str(Path(folder) / "browser.xml")
        for step in steps_of(task, chapters, report):
            if not (ROOT / step.needs).exists():
                left_out.append(f"{step.name} ({step.needs} is not there)")
                continue
            print(f"\n── {step.name}", flush=True)
            fault = ""
            if step.name == "pages in a browser" and in_ci() and not any(map(shutil.which, BROWSERS)):
                fault = "no chromium on this machine, and in CI these tests must run (.ci/run installs it)"
            if not fault:
                start = time.perf_counter()
                fault = fault_of(step, subprocess.run(step.command, cwd=ROOT, env=environment()).returncode)
                print(f"   {seconds_text(time.perf_counter() - start)}", flush=True)
            if not fault and step.name == "pages in a browser" and skipped(report):
                reason = f"{skipped(report)} of the {step.name}"
                if in_ci():
                    fault = f"{skipped(report)} tests were skipped, and in CI they must run"
                else:
                    left_out.append(reason)
            if fault:
                print(f"\n{step.hint}" if step.hint else "", flush=True)
                print(f"make {task}: FAILED at “{step.name}”: {fault}.", flush=True)
                return 1
            done += 1
    if left_out and in_ci():
        print(f"\nmake {task}: FAILED: left out: {'; '.join(left_out)}.", flush=True)
        return 1
    if not done:
        print(f"\nmake {task}: FAILED: there was nothing to run.", flush=True)
        return 1
    if task == "book":
        print(f"\nThe book is ready. Open it:  {PAGE.as_uri()}\nor serve it:  make serve", flush=True)
        return 0
    note = f" Left out: {'; '.join(left_out)}." if left_out else ""
    print(f"\nmake {task}: all {done} steps passed in {seconds_text(time.perf_counter() - began)}.{note}", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(run(sys.argv[1] if len(sys.argv) > 1 else "", " ".join(sys.argv[2:]).replace(",", " ").split()))
    except ValueError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("\nInterrupted.")
