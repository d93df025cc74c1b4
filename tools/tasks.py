"""Run the steps of `make book`, `quick`, `test` and `bench`, stop at the first fault, end with a verdict.

    .venv/bin/python tools/tasks.py {book,quick,test} [chapters ...]
    .venv/bin/python tools/tasks.py bench [train images ...] [--record]

It uses the interpreter that runs it, so it works in any environment that holds the packages (conda, a weekly run with
the newest versions), not in `.venv` alone.
"""

import json
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
BENCHMARKS = ROOT / "tests" / "benchmarks"
BENCH_TABLE = ROOT / "_build" / "bench.json"
BENCH_RECORD = ROOT / "book" / "results" / "benchmarks.json"
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
    # worksteal: the slow tests lie side by side, and shared out in lumps they would all be one worker's
    command = pytest(
        "-n", workers, "--dist", "worksteal", "--doctest-modules", "course_utils", "tools", "tests", *later, *words
    )
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
        return bench_steps([word for word in chapters if word != "--record"])
    raise ValueError(f"task {task!r} is unknown; expected book, quick, test or bench")


def bench_steps(only: list[str]) -> list[Step]:
    """Return the benchmarks, or only those named; the one of quality needs MNIST and is left out without it."""
    found = {path.stem.removeprefix("bench_"): path for path in sorted(BENCHMARKS.glob("bench_*.py"))}
    for name in only:
        if name not in found:
            raise ValueError(f"there is no benchmark {name!r}; expected some of {', '.join(found)}")
    mnist = Path(os.environ.get("COURSE_DATA") or ROOT / "data") / "MNIST" / "raw"
    return [
        Step(
            found[name].stem,
            [sys.executable, str(found[name])],
            str(mnist) if name == "quality" and not only else Step._field_defaults["needs"],
        )
        for name in only or found
    ]


def verdict(row: dict) -> str:
    """Return what a row of a benchmark says of its goal.

    >>> [verdict({"ratio": 1.6, "goal": goal, "direction": "at least"}) for goal in (1.5, 1.7, None)]
    ['reached', 'missed', '–']
    >>> verdict({"ratio": 1.2, "goal": 1.15, "direction": "at most"})
    'missed'
    """
    if row["goal"] is None:
        return "–"
    reached = row["ratio"] >= row["goal"] if row["direction"] == "at least" else row["ratio"] <= row["goal"]
    return "reached" if reached else "missed"


def bench_measured(rows_file: Path) -> dict:
    """Return the rows of the benchmarks of a run, each with its verdict, and where and when each file was run."""
    import datetime
    import platform

    sys.path.insert(0, str(ROOT))
    import torch

    from course_utils import session

    torch.set_num_threads(1)  # as the steps ran
    rows = [json.loads(line) for line in rows_file.read_text(encoding="utf8").splitlines()]
    here = {
        "commit": session._commit(),
        "date": datetime.date.today().isoformat(),
        "hardware": session._hardware(torch.device("cpu")),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    return {
        "runs": {row["bench"]: here for row in rows},
        "rows": [{**row, "verdict": verdict(row)} for row in rows],
    }


def beside_older(measured: dict, path: Path) -> dict:
    """Return a run together with the benchmarks that only the older record at `path` holds."""
    if not path.exists():
        return measured
    older = json.loads(path.read_text(encoding="utf8"))
    kept = [row for row in older["rows"] if row["bench"] not in measured["runs"]]
    rows = sorted(kept + measured["rows"], key=lambda row: row["bench"])  # stable: the rows of a file keep their order
    return {"runs": older["runs"] | measured["runs"], "rows": rows}


def bench_table(rows: list[dict]) -> list[str]:
    """Return the lines of the table that ends `make bench`.

    >>> row = {"work": "VAE", "beside": "plain loop", "arithmetic": "float32", "ratio": 1.6, "unit": "× speed"}
    >>> print(*bench_table([{**row, "goal": 1.7, "direction": "at least", "verdict": "missed"}]), sep="\\n")
    work | beside     | arithmetic | measured    | goal  | verdict
    VAE  | plain loop | float32    | 1.6 × speed | ≥ 1.7 | missed
    """
    lines = [("work", "beside", "arithmetic", "measured", "goal", "verdict")]
    for row in rows:
        measured = f"{row['ratio']:,.0f}" if row["ratio"] >= 1000 else f"{row['ratio']:.3g}"
        sign = {"at least": "≥", "at most": "≤"}[row["direction"]]
        goal = "" if row["goal"] is None else f"{sign} {row['goal']:,}"
        unit = row["unit"]
        lines.append((row["work"], row["beside"], row["arithmetic"], f"{measured} {unit}", goal, row["verdict"]))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [" | ".join(map(str.ljust, line, widths)).rstrip() for line in lines]


def bench_end(rows_file: Path, record: bool) -> str:
    """Store and print what the benchmarks of a run have measured; return the sentence on missed goals."""
    if not rows_file.exists():
        return " No row was handed over."
    measured = bench_measured(rows_file)
    tables = {BENCH_TABLE: measured} | ({BENCH_RECORD: beside_older(measured, BENCH_RECORD)} if record else {})
    for path, table in tables.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf8")
        os.replace(partial, path)
    print("", *bench_table(measured["rows"]), sep="\n")
    missed = [row for row in measured["rows"] if row["verdict"] == "missed"]
    names = "; ".join(" ".join([row["work"], "beside", row["beside"], row["arithmetic"]]).rstrip() for row in missed)
    return f" Missed: {names}." if missed else " No goal was missed."


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
        report, rows_file = str(Path(folder) / "browser.xml"), Path(folder) / "rows.jsonl"
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
                variables = {**environment(), "BENCH_ROWS": str(rows_file)}
                fault = fault_of(step, subprocess.run(step.command, cwd=ROOT, env=variables).returncode)
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
        missed = bench_end(rows_file, "--record" in chapters) if task == "bench" and done else ""
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
    print(
        f"\nmake {task}: all {done} steps passed in {seconds_text(time.perf_counter() - began)}.{note}{missed}",
        flush=True,
    )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(run(sys.argv[1] if len(sys.argv) > 1 else "", " ".join(sys.argv[2:]).replace(",", " ").split()))
    except ValueError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("\nInterrupted.")
