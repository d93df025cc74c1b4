"""The benchmarks: every one runs (on next to nothing), every work has its rows, and a missed goal is told."""

import importlib.util
import inspect
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from course_utils import augment, evaluate, rules

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "tests/benchmarks"
RECORD = ROOT / "book/results/benchmarks.json"
TINY = {
    "bench_train": ["--rounds", "1", "--images", "64"],
    "bench_images": ["--rounds", "1", "--images", "96", "--few", "10"],
    "bench_evaluate": ["--rounds", "1", "--rows", "100", "--features", "16"],
    "bench_import": ["--rounds", "1"],
    "bench_quality": None,  # its own test: it needs MNIST
}
GOALS = {  # those of the project that a processor without bfloat16 has too
    ("VAE", "plain loop", "float32"): 1.7,
    ("VAE", "limit", "float32"): 0.95,
    ("VAE", "bare loop", "float32"): 1.05,
    ("DCGAN", "plain loop", "float32"): 2.2,
    ("WGAN-GP", "plain loop", "float32"): 1.75,
    ("precision_recall", "prdc", "× speed"): 3.3,
    ("precision_recall", "prdc", "share of the memory"): 0.25,
    ("kernel_distance", "torchmetrics", "× speed"): 3.5,
    ("kernel_distance", "torchmetrics", "share of the memory"): 0.2,
    ("frechet_from_moments", "scipy sqrtm", "× speed"): 3.5,
    ("frechet_from_moments", "torchmetrics", "× speed"): 1.5,
    ("import", "import torch", "× time"): 1.15,
    ("rule-made", "clock", "images per second"): 10_000,
}
FIELDS = {"bench", "work", "beside", "arithmetic", "ratio", "goal", "direction", "unit"}


def load_tool(name):
    spec = importlib.util.spec_from_file_location(f"bench_{name}", ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tasks, pages = load_tool("tasks"), load_tool("pages")


def faults_of(row):
    """What is wrong with a row: fields, a ratio that is no ratio, words that nobody reads."""
    if set(row) != FIELDS:
        return [f"fields {sorted(set(row) ^ FIELDS)}"]
    faults = [] if math.isfinite(row["ratio"]) and row["ratio"] > 0 else [f"ratio {row['ratio']}"]
    faults += [f"direction {row['direction']!r}"] * (row["direction"] not in ("at least", "at most"))
    faults += [f"arithmetic {row['arithmetic']!r}"] * (row["arithmetic"] not in ("", "float32", "bfloat16"))
    return faults + [f"no {key}" for key in ("work", "beside", "unit") if not row[key].strip()]


def public(module):
    """The functions that a module offers."""
    found = inspect.getmembers(module, inspect.isfunction)
    return {name for name, one in found if one.__module__ == module.__name__ and not name.startswith("_")}


def without_benchmark(rows):
    """Which of the works that must be measured have no row beside a rival or, where there is one, beside the limit."""
    beside = {}
    for row in rows:
        beside.setdefault(row["work"], set()).add(row["beside"])
    missing = []
    for start in ("VAE", "DCGAN", "WGAN-GP", "classifier"):
        found = [rivals for work, rivals in beside.items() if work.startswith(start)]
        missing += [start] * (not any({"plain loop", "limit", "bare loop"} <= rivals for rivals in found))
    for name in ["rule-made digits 28×28", *(f"augmentation: {one}" for one in public(augment) - {"move"})]:
        missing += [name] * (len(beside.get(name, set()) & {"limit"}) == 0 or len(beside[name]) < 2)
    metrics = {re.split(r"\W", work)[0] for work in beside}
    return sorted(missing + list(public(evaluate) - metrics))


RUN_ALL = """
import json, runpy, sys
folder, tiny = sys.argv[1], json.loads(sys.argv[2])
sys.path.insert(0, folder)
for name, words in tiny.items():
    print("running", name, file=sys.stderr)
    sys.argv = [name, *words]
    runpy.run_path(f"{folder}/{name}.py", run_name="__main__")
"""


@pytest.mark.slow
def test_every_benchmark_runs_and_every_work_has_its_rows(tmp_path):
    """One test and one process for all files: three more imports of torch would take longer than all the rest."""
    assert {path.stem for path in BENCHMARKS.glob("bench_*.py")} <= set(TINY), "a new benchmark needs a tiny setting"
    tiny = {name: words for name, words in TINY.items() if words}
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL, str(BENCHMARKS), json.dumps(tiny)],
        cwd=ROOT,
        env={**tasks.environment(), "BENCH_ROWS": str(tmp_path / "rows.jsonl")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text(encoding="utf8").splitlines()]

    assert {row["bench"] for row in rows} == set(tiny)
    assert [fault for row in rows for fault in faults_of(row)] == []
    keys = [(row["work"], row["beside"], row["arithmetic"], row["unit"]) for row in rows]
    assert len(keys) == len(set(keys))
    assert without_benchmark(rows) == []
    goals = {
        (re.split(r"[ ,]", row["work"])[0], row["beside"], row["arithmetic"] or row["unit"]): row["goal"]
        for row in rows
        if row["goal"] is not None
    }
    assert {key: goals.get(key) for key in GOALS} == GOALS


@pytest.mark.slow
def test_the_benchmark_of_quality_runs_and_is_skipped_without_mnist(monkeypatch, tmp_path, capsys):
    """On rule-made digits in place of MNIST and a thousandth of every budget."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("bench_quality", BENCHMARKS / "bench_quality.py")
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    monkeypatch.setenv("BENCH_ROWS", str(tmp_path / "rows.jsonl"))
    monkeypatch.setattr(sys, "argv", ["bench_quality", "--share", "0.001"])

    def absent(name, split):
        raise ConnectionError("no network")

    monkeypatch.setattr(bench.data, "load", absent)
    bench.main()
    assert "COURSE_DATA" in capsys.readouterr().out and not (tmp_path / "rows.jsonl").exists()

    sets = {
        name: rules.draw_digits(torch.arange(count) % 10, torch.Generator().manual_seed(count))[0]
        for name, count in (("train", 1200), ("test", 300))
    }
    monkeypatch.setattr(bench.data, "load", lambda name, split: sets[split])
    bench.main()
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text(encoding="utf8").splitlines()]
    assert [fault for row in rows for fault in faults_of(row)] == []
    goals = {(row["work"].split(",")[0], row["unit"], row["goal"]) for row in rows if row["goal"] is not None}
    assert goals == {
        ("conditional GAN", "Fréchet distance", 4),
        ("conditional GAN", "Fréchet distance", 7),
        ("conditional GAN", "labels obeyed", 0.98),
        ("conditional GAN", "labels obeyed", 0.976),
        ("conditional GAN", "accuracy", 0.98),
        ("GAN without labels", "Fréchet distance", 16),
        ("VAE", "Fréchet distance", 8),
    }


def test_a_work_without_benchmark_is_caught():
    rows = json.loads(RECORD.read_text(encoding="utf8"))["rows"]
    assert without_benchmark([row for row in rows if not row["work"].startswith(("nearest", "WGAN"))]) == [
        "WGAN-GP",
        "nearest",
    ]
    less = without_benchmark([row for row in rows if row["beside"] != "limit"])
    assert {"DCGAN", "rule-made digits 28×28", "augmentation: flip"} <= set(less)


# ---------- verdicts ----------

ROW = {
    "bench": "bench_train",
    "work": "VAE",
    "beside": "plain loop",
    "arithmetic": "float32",
    "ratio": 1.6,
    "goal": 1.7,
    "direction": "at least",
    "unit": "× speed",
}


@pytest.mark.parametrize(
    "ratio, goal, direction, word",
    [
        (1.6, 1.7, "at least", "missed"),
        (1.7, 1.7, "at least", "reached"),
        (1.8, 1.7, "at least", "reached"),
        (1.16, 1.15, "at most", "missed"),
        (1.14, 1.15, "at most", "reached"),
        (9.0, None, "at least", "–"),
    ],
)
def test_verdicts(ratio, goal, direction, word):
    assert tasks.verdict({**ROW, "ratio": ratio, "goal": goal, "direction": direction}) == word


def test_faulty_rows_are_caught():
    assert faults_of(ROW) == []
    for wrong in ({"ratio": math.nan}, {"ratio": 0.0}, {"direction": "about"}, {"beside": " "}, {"speed": 3}):
        assert faults_of({**ROW, **wrong}), wrong


def run_bench(monkeypatch, tmp_path, files, words=()):
    """Run `tasks.py bench` on these files (name → Python) with its results in a folder of the test."""
    (tmp_path / "benchmarks").mkdir()
    for name, text in files.items():
        (tmp_path / f"benchmarks/bench_{name}.py").write_text(text, encoding="utf8")
    monkeypatch.setattr(tasks, "BENCHMARKS", tmp_path / "benchmarks")
    monkeypatch.setattr(tasks, "BENCH_TABLE", tmp_path / "bench.json")
    monkeypatch.setattr(tasks, "BENCH_RECORD", tmp_path / "record.json")
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    monkeypatch.delenv("CI", raising=False)
    return tasks.run("bench", list(words))


def giving(*rows):
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    return f"import os\nopen(os.environ['BENCH_ROWS'], 'a', encoding='utf8').write({lines!r})\n"


def test_a_missed_goal_is_named_and_fails_nothing(monkeypatch, tmp_path, capfd):
    good = {**ROW, "work": "GAN", "ratio": 2.0}
    files = {"one": giving(good), "two": giving(ROW), "quality": "raise SystemExit('not without MNIST')"}
    assert run_bench(monkeypatch, tmp_path, files) == 0
    out = capfd.readouterr().out.splitlines()
    assert out[-1].endswith("Missed: VAE beside plain loop float32.") and "quality" in out[-1]
    assert [line.split(" | ")[-1] for line in out[-5:-2]] == ["verdict", "reached", "missed"]
    stored = json.loads((tmp_path / "bench.json").read_text(encoding="utf8"))
    assert [row["verdict"] for row in stored["rows"]] == ["reached", "missed"]
    assert set(stored["runs"]) == {"bench_train"}
    assert {"commit", "date", "hardware", "versions"} == set(stored["runs"]["bench_train"])
    assert not (tmp_path / "record.json").exists()


def test_a_record_replaces_the_files_that_ran_and_keeps_the_others(monkeypatch, tmp_path, capfd):
    assert run_bench(monkeypatch, tmp_path, {"one": giving({**ROW, "ratio": 2.0})}, ["--record"]) == 0
    assert capfd.readouterr().out.splitlines()[-1].endswith("No goal was missed.")
    first = (tmp_path / "record.json").read_bytes()
    assert first == (tmp_path / "bench.json").read_bytes()
    other = {**ROW, "bench": "bench_import", "work": "import"}
    (tmp_path / "benchmarks/bench_two.py").write_text(giving(other, {**other, "work": "torch"}), encoding="utf8")
    assert tasks.run("bench", ["two", "--record"]) == 0
    both = json.loads((tmp_path / "record.json").read_text(encoding="utf8"))
    assert [row["work"] for row in both["rows"]] == ["import", "torch", "VAE"]
    assert both["runs"].keys() == {"bench_import", "bench_train"}
    (tmp_path / "benchmarks/bench_one.py").write_text(giving({**ROW, "ratio": 1.0}), encoding="utf8")
    assert tasks.run("bench", ["one", "--record"]) == 0
    now = json.loads((tmp_path / "record.json").read_text(encoding="utf8"))
    assert [row["ratio"] for row in now["rows"]] == [1.6, 1.6, 1.0], "the older VAE is gone, nothing else"


def test_a_benchmark_that_raises_fails_the_task(monkeypatch, tmp_path, capfd):
    files = {"one": giving(ROW), "two": "raise ValueError('diverged')"}
    assert run_bench(monkeypatch, tmp_path, files) == 1
    out, err = capfd.readouterr()
    assert "diverged" in err and "FAILED at “bench_two”" in out.splitlines()[-1]
    assert not (tmp_path / "bench.json").exists()


def test_some_benchmarks_can_be_chosen():
    assert [step.name for step in tasks.steps_of("bench", ["train", "images"], "")] == ["bench_train", "bench_images"]
    with pytest.raises(ValueError, match=r"'tea'.*evaluate"):
        tasks.steps_of("bench", ["tea"], "")


# ---------- the page ----------


def page(tmp_path, rows):
    run = {
        "commit": "abc1234",
        "date": "2026-11-22",
        "hardware": "CPU Some Processor, 1 thread",
        "versions": {"python": "3.11.7", "torch": "2.15.0"},
    }
    stored = {
        "runs": {row["bench"]: run for row in rows},
        "rows": [{**row, "verdict": tasks.verdict(row)} for row in rows],
    }
    (tmp_path / "book/results").mkdir(parents=True, exist_ok=True)
    (tmp_path / "book/results/benchmarks.json").write_text(json.dumps(stored), encoding="utf8")
    return pages.speeds(tmp_path)


def cells(text):
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:1] == "|"]


def test_the_page_loses_no_row_and_says_the_verdict(tmp_path):
    assert pages.speeds(tmp_path).startswith("Not recorded yet")
    digits = {**ROW, "bench": "bench_images", "work": "digits", "arithmetic": "", "ratio": 15284.3, "goal": 10_000}
    free = {**ROW, "work": "classifier", "ratio": 1.2345, "goal": None}
    slow = {**ROW, "bench": "bench_new", "work": "import", "ratio": 1.1, "goal": 1.15, "direction": "at most"}
    text = page(tmp_path, [ROW, free, digits, slow])
    found = {line[0]: line[1:] for line in cells(text)}
    assert found["VAE, float32"] == ["plain loop", "1.60 × speed", "≥\u00a01.70: **missed**"]
    assert found["classifier, float32"][1:] == ["1.23 × speed", "–"]
    assert found["digits"] == ["plain loop", "15,284 × speed", "≥\u00a010,000: reached"]
    assert found["import, float32"][2:] == ["≤\u00a01.15: reached"]
    assert text.index("### Training") < text.index("### Making") < text.index("### bench_new")
    assert "4 measurements, 3 of them with a goal; 2 goals were reached." in text
    for fact in ("Some Processor", "2026-11-22", "torch 2.15.0", "`abc1234`", "### bench_new"):
        assert fact in text, fact


def test_the_committed_run_is_on_the_page_and_no_chapter():
    stored = json.loads(RECORD.read_text(encoding="utf8"))
    assert without_benchmark(stored["rows"]) == [], "make bench RECORD=1 is due"
    shown = [line for line in cells(pages.speeds()) if re.search(r"reached$|missed\*\*$|^–$", line[-1])]
    assert len(shown) == len(stored["rows"])
    assert [row["verdict"] for row in stored["rows"]] == [tasks.verdict(row) for row in stored["rows"]]
    assert not re.search(r"(?<![\w.])/\w+/\w", json.dumps(stored)), "a path of some machine"
    assert "{include} _generated/speeds.md" in (ROOT / "book/records.md").read_text(encoding="utf8")
    assert "benchmarks" not in pages.records()
