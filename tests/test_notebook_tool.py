"""tools/notebooks.py: what is stored, what stops it, what is measured, what is skipped."""

import importlib.util
import json
import re
import threading
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
_spec = importlib.util.spec_from_file_location("notebook_tool", ROOT / "tools" / "notebooks.py")
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)

URL = "https://github.com/someone/course"
# Stands for course_utils.show, so that a kernel of these tests need not import torch.
SHOW = """
import sys, types
from base64 import b64decode
from IPython.display import Image
show = types.ModuleType("course_utils.show")
show.alt = None
def take_alt():
    alt, show.alt = show.alt, None
    return alt
show.take_alt = take_alt
sys.modules["course_utils.show"] = show
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
pixel = Image(data=b64decode(PIXEL))
"""


def notebook(*sources, name="00_small", **making_data):
    cells = [nbformat.v4.new_markdown_cell(f"# A chapter\n\n[Open in Colab](old) · {name} · no GPU needed")]
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    return nbformat.v4.new_notebook(cells=cells, metadata={"making_data": making_data} if making_data else {})


@pytest.fixture
def store(tmp_path):
    """Return a function that writes a notebook and returns its path, beside a _config.yml."""
    (tmp_path / "_config.yml").write_text(f"repository:\n  url: {URL}\n  branch: main\n")
    (tmp_path / "notebooks").mkdir()

    def put(nb, name="00_small"):
        path = tmp_path / "notebooks" / f"{name}.ipynb"
        tool.write(path, tool.dump(nb))
        return path

    return put


def run(path):
    return tool.run([path], config=path.parents[1] / "_config.yml")


# --- Choosing, hashing, stamping ------------------------------------------------------------------------------------


def test_chapters_are_chosen_by_number_or_name(store):
    for name in ("00_small", "01_more", "10_ten", "notes"):
        store(notebook(), name)
    folder = store(notebook()).parent

    def chosen(*words):
        return [path.stem for path in tool.chapters(words, folder)]

    assert chosen() == chosen("") == ["00_small", "01_more", "10_ten"]
    for words in (["10 00"], ["00", "10_ten"], ["notebooks/10_ten.ipynb,00", "10"]):
        assert chosen(*words) == ["00_small", "10_ten"]
    for unknown in ("0", "11", "small", "notes"):
        with pytest.raises(tool.Problem, match=f"'{unknown}'; there are: 00_small, 01_more, 10_ten"):
            chosen("00", unknown)


def test_the_hash_is_of_the_code_and_of_nothing_else():
    nb = notebook("x = 1", "y = 2")
    first = tool.code_hash(nb)
    nb.cells[0].source += " more"
    nb.cells[1].execution_count = 5
    tool.stamp(nb, "00_small", URL, "main")
    assert tool.code_hash(nb) == first
    assert tool.code_hash(notebook("x = 1\ny = 2")) != first
    assert tool.code_hash(notebook("y = 2", "x = 1")) != first


def test_stamping_twice_changes_nothing_and_a_new_address_reaches_both_places():
    nb = notebook("x = 1")
    tool.stamp(nb, "00_small", URL, "main")
    once = tool.dump(nb)
    tool.stamp(nb, "00_small", URL, "main")
    assert tool.dump(nb) == once
    assert nb.cells[0].source.endswith(
        "[Open in Colab](https://colab.research.google.com/github/someone/course/blob/main/notebooks/00_small.ipynb)"
        " · 00_small · no GPU needed"
    )
    assert nb.cells[1].metadata.tags == ["install", "remove-cell"]
    tool.stamp(nb, "00_small", "https://github.com/else/where", "next")
    assert tool.dump(nb) == once.replace("someone/course", "else/where").replace("@main", "@next").replace(
        "blob/main", "blob/next"
    )


def test_a_missing_link_is_written_below_the_title():
    nb = notebook()
    nb.cells[0].source = "# Title\n\nText."
    tool.stamp(nb, "00_small", URL, "main")
    assert nb.cells[0].source == f"# Title\n\n{tool.colab_link('00_small', URL, 'main')}\n\nText."
    nb.cells[0].source = "No title."
    with pytest.raises(tool.Problem, match="# Title"):
        tool.stamp(nb, "00_small", URL, "main")


def test_the_install_cell_does_nothing_outside_colab_and_is_valid_ipython():
    from IPython.core.inputtransformer2 import TransformerManager

    code = TransformerManager().transform_cell(tool.install_source(URL, "main"))
    calls = []
    exec(code, {"get_ipython": lambda: calls.append("pip")})
    assert calls == []
    assert f'install -q --no-deps "git+{URL}@main"' in code


@pytest.mark.parametrize(
    "url", ["", "github.com/a/b", "https://github.com/a", "https://github.com/a/b/c", "https://x/a b/c"]
)
def test_an_unusable_address_is_named(tmp_path, url):
    config = tmp_path / "_config.yml"
    config.write_text(f"repository:\n  url: {url!r}\n")
    with pytest.raises(tool.Problem, match="repository: url"):
        tool.address(config)


def test_the_address_is_read_without_its_decorations(tmp_path):
    config = tmp_path / "_config.yml"
    config.write_text(f"repository:\n  url: {URL}.git/\n")
    assert tool.address(config) == (URL, "main")


# --- Storing --------------------------------------------------------------------------------------------------------


def test_a_run_is_stored_with_counts_texts_and_hash_and_repeats_to_the_byte(store, capsys):
    path = store(
        notebook(
            SHOW,
            "show.alt = 'a single grey pixel on white'\npixel",
            "show.alt = 'this text belongs to no figure'",
            "6 * 7",
            "print(len(In) - 1)",  # the questions between the cells leave no trace
            "import os\nprint(os.environ['COURSE_PROFILE'], os.environ['OMP_NUM_THREADS'], os.listdir())",
        )
    )
    nb = tool.read(path)
    nb.cells[2].metadata = {"collapsed": True, "mystnb": {"image": {"alt": "an old one", "width": "1px"}, "note": 1}}
    nb.cells[3].metadata = {"mystnb": {"image": {"alt": "of a figure that went away"}}}
    tool.write(path, tool.dump(nb))
    assert run(path) == 0
    first = path.read_bytes()
    nb = tool.read(path)
    cells = tool.code_cells(nb)
    assert [cell.execution_count for cell in cells] == list(range(1, 8))
    assert [out.execution_count for cell in cells for out in cell.outputs if "execution_count" in out] == [3, 5]
    assert cells[2].metadata == {"mystnb": {"image": {"alt": "a single grey pixel on white"}, "note": 1}}
    assert cells[3].metadata == {}
    assert cells[5].outputs[0].text == "6\n"
    assert cells[6].outputs[0].text == "live 1 []\n"
    assert nb.metadata.making_data == {"code_hash": tool.code_hash(nb)}
    assert nb.metadata.language_info == {"name": "python"}
    assert "00_small: stored" in capsys.readouterr().out
    assert run(path) == 0
    assert path.read_bytes() == first
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("sources", "complaint"),
    [
        (("x = 1", "y = x / 0"), "code cell 3 ('y = x / 0') failed"),
        (("import sys", "print(1, file=sys.stderr)"), "code cell 3 ('print(1, file=sys.stderr)') wrote to stderr:\n1"),
        ((SHOW, "pixel"), "code cell 3 ('pixel') shows a figure without alternative text"),
    ],
)
def test_what_cannot_be_stored_is_named_and_the_file_stays(store, capsys, sources, complaint):
    path = store(notebook(*sources))
    before = path.read_bytes()
    assert run(path) == 1
    assert complaint in capsys.readouterr().err
    assert path.read_bytes() == before


def image():
    return nbformat.v4.new_output("display_data", {"image/png": "aGk=", "text/plain": "x"})


@pytest.mark.parametrize(
    ("outputs", "alt", "complaint"),
    [
        ([image()], None, "without alternative text"),
        ([image(), image()], "a text of five short words", "shows 2 figures"),
        ([nbformat.v4.new_output("display_data", {"image/svg+xml": "<svg/>"})], "", "without alternative text"),
        ([nbformat.v4.new_output("stream", name="stderr", text="careful")], None, "stderr:\ncareful"),
        ([nbformat.v4.new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}})], None, "widget"),
    ],
)
def test_outputs_not_fit_to_be_stored(outputs, alt, complaint):
    nb = notebook("draw()")
    nb.cells[1].outputs = outputs
    with pytest.raises(tool.Problem, match=complaint) as caught:
        tool.store_alt(nb, nb.cells[1], alt)
    assert "code cell 1 ('draw()')" in str(caught.value)


def test_a_heavy_notebook_is_refused(store, capsys, monkeypatch):
    monkeypatch.setattr(tool, "MAX_BYTES", 100)
    path = store(notebook("x = 1"))
    assert run(path) == 1
    assert "smaller figures" in capsys.readouterr().err


@pytest.mark.slow
def test_the_toolbox_hands_over_its_alternative_text(store):
    draw = "ax = show.axes()\nax.plot([1, 2])\nshow.describe(ax, 'a line from one to two');"
    path = store(notebook("from course_utils import show", draw))
    assert run(path) == 0
    cell = tool.code_cells(tool.read(path))[2]
    assert cell.metadata.mystnb == {"image": {"alt": "a line from one to two"}}
    assert tool.images(cell) == ["image/png"]


# --- Checking -------------------------------------------------------------------------------------------------------

BURN = "import time\nend = time.process_time() + {}\nwhile time.process_time() < end:\n    pass"
CHILD = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BURN.format(1.5)!r}], check=True)"


REACH = """
import socket
try:
    socket.create_connection(("192.0.2.1", 80), timeout=1)
except OSError as error:
    assert "this run is offline" in str(error)
else:
    raise AssertionError("reached")
"""


@pytest.mark.slow
def test_check_measures_compares_and_stays_offline(store, tmp_path, capfd):
    compared = nbformat.v4.new_output("stream", name="stdout", text="(2, 3)\n")
    cells = ["# NBVAL_CHECK_OUTPUT\nprint((2, 3))", BURN.format(1.5), CHILD, "sum = max = open = None"]
    good = notebook(*cells, budget_cpu_s=5)
    heavy = notebook("x = b'1' * 400_000_000\ndel x", REACH)
    good.cells[1].outputs, good.cells[1].execution_count = [compared], 1
    paths = [store(good), store(heavy, "01_more")]
    before = [path.read_bytes() for path in paths]
    assert tool.check(paths, build=tmp_path / "build") == 0, capfd.readouterr().out
    first, second = json.loads((tmp_path / "build" / "timings.json").read_text())
    assert first["chapter"] == "00_small" and first["budget_cpu_s"] == 5
    assert 3.0 <= first["cpu_s"] <= 3.0 + 3  # 1.5 in the kernel, 1.5 in its child, the kernel's own start
    assert first["peak_mb"] < 300 and 400 <= second["peak_mb"] < 700
    assert "| 01_more |" in (tmp_path / "build" / "timings.md").read_text()
    assert [path.read_bytes() for path in paths] == before

    # Planted: an output that is no longer the stored one, and work far above the budget.
    good.cells[1].outputs[0].text = "(2, 4)\n"
    good.metadata.making_data.budget_cpu_s = 0.5
    assert tool.check([store(good)], ["-rf"], build=tmp_path / "build") == 1
    out = capfd.readouterr().out
    assert "Cell outputs differ" in out
    assert "00_small.ipynb::Cell 0 - " in out  # -rf reached pytest
    assert "its budget is 0.5" in out


def row(cpu, *, limit=40, peak=500.0, name="00_small"):
    return {"chapter": name, "cpu_s": cpu, "budget_cpu_s": limit, "peak_mb": peak}


def test_the_ledger_is_held_with_a_margin():
    most = 40 * tool.MARGIN
    assert 1.5 <= tool.MARGIN <= 3, "a bound that a busy machine breaks, or one that nothing breaks"
    assert tool.over_budget([row(most - 1), row(2 * most - 1, limit=80)], whole=True) == []
    assert f"{most + 1:.1f} CPU s, its budget is 40" in tool.over_budget([row(most + 1)], whole=False)[0]
    assert "2100 MB" in tool.over_budget([row(1.0, peak=2100.0)], whole=False)[0]
    assert "not measured" in tool.over_budget([row(None, peak=None)], whole=False)[0]
    many = [row(0.03 * tool.ALL_CHAPTERS, limit=80, name=str(i)) for i in range(100)]  # each within its budget
    assert tool.over_budget(many, whole=False) == []
    assert "75.0 CPU minutes" in tool.over_budget(many, whole=True)[0]


def test_the_timing_table_shows_what_is_above_and_what_is_missing():
    text = tool.table([row(50.0), row(None, peak=None, name="01_gone")])
    assert "| 00_small | 50.0 (above) | 40 | 500 |" in text
    assert "| 01_gone | – | 40 | – |" in text
    assert "| all | 50.0 | 80 | |" in text


def test_no_chapters_is_no_failure(capsys):
    assert tool.check([]) == 0
    assert "no chapters" in capsys.readouterr().out


# --- Records --------------------------------------------------------------------------------------------------------

# Stands for the toolbox: entries are merged, an entry stored anew replaces the old one and drops its stamp.
RECORD = """
import json, os, pathlib, types
def record(name, metrics):
    path = pathlib.Path(os.environ["COURSE_RESULTS"], "00_small.json")
    stored = json.loads(path.read_text()) if path.exists() else {}
    used = {key: os.environ[key] for key in ("COURSE_PROFILE", "OMP_NUM_THREADS")}
    stored[name] = {"metrics": metrics, "seconds": 2.0, "device": "cpu", **used}
    path.write_text(json.dumps(stored))
course = types.SimpleNamespace(record=record)
"""


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A folder for the records of a machine without a GPU, a data folder and a wish for threads."""
    monkeypatch.setenv("COURSE_RESULTS", str(tmp_path))
    for name in ("COURSE_DATA", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tool, "data_folder", lambda: tmp_path / "data")
    monkeypatch.setattr(tool, "gpu_here", lambda: False)
    return tmp_path / "00_small.json"


def test_records_are_made_once_per_code(store, results, capsys):
    path = store(notebook(RECORD, "course.record('Result', {'a': 1})", full=True))
    before = path.read_bytes()
    plain = store(notebook("raise SystemExit", name="01_more"), "01_more")
    assert tool.records([path, plain]) == 0
    out = capsys.readouterr().out
    assert "01_more: has no full profile" in out
    assert "00_small: cell 1/2 done" in out and "left: unknown" in out and "00_small: recorded" in out
    record = json.loads(results.read_text())
    assert record["Result"]["COURSE_PROFILE"] == "full"
    assert record["Result"]["OMP_NUM_THREADS"] == "1"
    assert record["Result"]["code_hash"] == tool.code_hash(tool.read(path))
    assert path.read_bytes() == before

    assert tool.records([path]) == 0
    assert "of the present code" in capsys.readouterr().out
    assert tool.records([path], force=True) == 0
    assert "00_small: recorded" in capsys.readouterr().out

    # Other code is run again; what it no longer makes is named.
    path = store(notebook(RECORD, "course.record('Other', {'a': 1})", full=True))
    assert tool.records([path]) == 1
    captured = capsys.readouterr()
    assert "no longer made, delete them from 00_small.json: ['Result']" in captured.err
    assert "left: 0 s" in captured.out or "left: 1 s" in captured.out or "left: 2 s" in captured.out
    assert json.loads(results.read_text())["Other"]["code_hash"] == tool.code_hash(tool.read(path))


def test_a_result_without_its_data_is_incomplete_and_made_when_they_are_there(store, results, capsys):
    late = "import pathlib\nif pathlib.Path(os.environ['COURSE_RESULTS'], 'data').exists():\n    "
    path = store(notebook(RECORD, "course.record('a', {})", late + "course.record('mnist', {})", full=True))
    said = "00_small: incomplete: mnist is missing or older (is COURSE_DATA set?)"
    assert tool.records([path]) == 0
    out = capsys.readouterr().out
    assert said in out and "recorded" in out
    assert tool.records([path]) == 0
    out = capsys.readouterr().out
    assert said in out and "cell" not in out, "without the data there is nothing to gain from another run"
    (results.parent / "data").mkdir()
    assert tool.records([path]) == 0
    assert set(json.loads(results.read_text())) == {"a", "mnist"}
    assert tool.records([path]) == 0
    assert "of the present code" in capsys.readouterr().out

    # An older result that the code still names stays, and nobody is told to delete it.
    (results.parent / "data").rmdir()
    path = store(notebook(RECORD, "course.record('a', {1: 2})", late + "course.record('mnist', {})", full=True))
    assert tool.records([path]) == 0
    captured = capsys.readouterr()
    assert said in captured.out and "delete" not in captured.err
    record = json.loads(results.read_text())
    assert record["mnist"]["code_hash"] != record["a"]["code_hash"] == tool.code_hash(tool.read(path))


def test_a_run_stamps_only_what_it_made_itself(store, results, capsys):
    """An earlier run ended in an error behind its first result; the next one makes the other result only."""
    path = store(notebook(RECORD, "if False:\n    course.record('a', {})", "course.record('b', {})", full=True))
    results.write_text(json.dumps({"a": {"metrics": {}, "seconds": 1.0, "device": "cpu"}}))
    assert tool.state(tool.read(path), tool.read_record("00_small"), "cpu")[0] == "old"
    assert tool.records([path]) == 0
    assert "incomplete: a is missing or older" in capsys.readouterr().out
    record = json.loads(results.read_text())
    code = tool.code_hash(tool.read(path))
    assert record["b"]["code_hash"] == code != record["a"]["code_hash"]


def entry(code, device="cpu", **more):
    return {"code_hash": code, "device": device, "seconds": 10.0} | more


def test_what_is_current_depends_on_the_device():
    nb = notebook("device = 1", "course.record('a', {})\ncourse.record('b', {})")
    new = tool.code_hash(nb)

    def worth(here, **record):
        return tool.state(nb, record, here)

    assert tool.kind(nb, gpu=True) == "cuda" and tool.kind(nb, gpu=False) == "cpu"
    cpu, gpu, old = entry(new), entry(new, "cuda"), entry("before")
    assert worth("cpu", a=cpu, b=cpu) == ("current", [])
    assert worth("cuda", a=cpu, b=cpu) == ("old", ["a", "b"])  # a GPU can make it better
    assert worth("cpu", a=gpu, b=gpu) == worth("cuda", a=gpu, b=gpu) == ("current", [])
    assert worth("cuda", a=gpu, b=cpu) == ("incomplete", ["b"])
    assert worth("cpu", a=cpu, b=old) == worth("cpu", a=cpu) == ("incomplete", ["b"])
    assert worth("cpu", a=old, b=old)[0] == worth("cpu")[0] == worth("cuda", a=entry("before", "cuda"))[0] == "old"
    unstamped = {"device": "cpu", "seconds": 1.0}  # stored anew by a run that did not end
    assert worth("cpu", a=cpu, b=unstamped)[0] == "old"
    # Made where a GPU was there and not used: a second run there would change nothing.
    there = entry(new, "cpu", offered="cuda")
    assert worth("cuda", a=there, b=gpu) == worth("cpu", a=there, b=gpu) == ("current", [])


def test_a_chapter_that_never_names_the_device_needs_no_second_record_on_a_gpu():
    nb = notebook("course.record('a', {})")
    assert tool.kind(nb, gpu=True) == "cpu"
    assert tool.state(nb, {"a": entry(tool.code_hash(nb))}, tool.kind(nb, gpu=True)) == ("current", [])


def test_results_of_two_devices_stand_side_by_side(store, results, capsys):
    made = "course.record('ladder' if device == 'cpu' else 'gpu', {})"
    nb = notebook(RECORD, "device = 'cpu'", made, "if device != 'cpu':\n    course.record('gpu memory', {})", full=True)
    assert tool.promised(nb) == [("ladder", "gpu"), ("gpu memory",)]
    new = tool.code_hash(nb)
    ours = {"ladder": entry(new)}
    theirs = {"gpu": entry(new, "cuda"), "gpu memory": entry(new, "cuda")}
    assert tool.state(nb, ours, "cpu") == ("current", [])
    assert tool.state(nb, ours | theirs, "cuda") == tool.state(nb, ours | theirs, "cpu") == ("current", [])
    assert tool.state(nb, ours, "cuda") == ("old", ["ladder or gpu", "gpu memory"])
    assert tool.state(nb, {"ladder": entry("before")} | theirs, "cpu")[0] == "old"
    assert tool.state(nb, {"ladder": entry("before")} | theirs, "cuda") == ("current", [])

    # After a change of the code each device makes its own; the other's are not called "no longer made".
    results.write_text(json.dumps({"ladder": entry("x"), "gpu": entry("x", "cuda"), "gpu memory": entry("x", "cuda")}))
    assert tool.records([store(nb)]) == 0
    captured = capsys.readouterr()
    assert "00_small: recorded" in captured.out and captured.err == ""
    record = json.loads(results.read_text())
    assert record["ladder"]["code_hash"] == new and record["gpu"] == entry("x", "cuda")


def test_a_result_of_a_gpu_is_not_replaced_by_one_of_a_cpu_unasked(store, results, monkeypatch, capsys):
    path = store(notebook(RECORD, "course.record('a', {})", full=True))
    results.write_text(json.dumps({"a": entry("before", "cuda")}))
    before = results.read_bytes()
    assert tool.records([path]) == 0
    assert "00_small: not current, but made on a GPU: a (--force makes it on this CPU)" in capsys.readouterr().out
    assert results.read_bytes() == before
    with monkeypatch.context() as there:
        there.setattr(tool, "gpu_here", lambda: True)
        assert tool.records([path]) == 0
    assert "recorded" in capsys.readouterr().out
    results.write_bytes(before)
    assert tool.records([path], force=True) == 0
    assert json.loads(results.read_text())["a"]["device"] == "cpu"


def test_names_that_cannot_be_read_off_the_code_are_refused(store, results, capsys):
    assert tool.promised(notebook("course.record(CARD + 'a', {})")) == [("a", "gpu a")]
    branches = (
        "if x:\n    course.record('gpu', {})\nelse:\n    course.record('a', {})\n    y = 1\ncourse.record('b', {})"
    )
    assert tool.promised(notebook(branches)) == [("b",), ("gpu", "a")]
    nb = notebook("x = 1", "name = 'a'\ncourse.record(name, {})", full=True)
    with pytest.raises(tool.Problem, match=r"code cell 2 .* not course\.record\(name, …\)"):
        tool.promised(nb)
    for other in (
        "course.record(f'{x} a', {})",
        "course.record('a' if x else name, {})",
        "course.record(name + 'a', {})",
    ):
        with pytest.raises(tool.Problem, match="read off its code"):
            tool.promised(notebook(other))
    assert tool.records([store(nb)]) == 1
    assert "read off its code" in capsys.readouterr().err
    with pytest.raises(tool.Problem, match="plain Python"):
        tool.promised(notebook("%time course.record('a', {})"))
    assert tool.promised(notebook("course.record('a', {})\nevent.record(stream)\ncourse.recorded('b')")) == [("a",)]


def test_the_chapters_say_what_they_record():
    for path in tool.chapters():
        nb = tool.read(path)
        assert bool(tool.promised(nb)) == bool(nb.metadata.get("making_data", {}).get("full")), path.stem


def test_a_full_run_that_records_nothing_is_a_problem(store, results, capsys):
    path = store(notebook(RECORD, "if False:\n    course.record('a', {})", full=True))
    assert tool.records([path]) == 1
    assert "recorded nothing" in capsys.readouterr().err
    results.write_text(json.dumps({"a": entry("before")}))
    assert tool.records([path]) == 1
    assert "recorded nothing" in capsys.readouterr().err


def test_a_long_cell_shows_life(store, results, monkeypatch, capsys):
    monkeypatch.setattr(tool, "PULSE", 0.2)
    path = store(notebook(RECORD, "import time\ntime.sleep(1.5)", "course.record('a', {})", full=True))
    results.write_text(json.dumps({"a": entry("before", seconds=85.0)}))
    before = path.read_bytes()
    assert tool.records([path]) == 0
    captured = capsys.readouterr()
    lines = [line for line in captured.out.splitlines() if "cell 2/3 runs" in line]
    assert len(lines) >= 2 and all(line.startswith("00_small: ") and ", left: " in line for line in lines)
    left = [int(re.search(r"left: (\d+) s", line)[1]) for line in lines]  # of the 85 s of the last record
    assert 20 < left[-1] <= left[0] < 85, "a busy machine starts a kernel late, but not by a minute"
    assert captured.err == "" and path.read_bytes() == before
    assert not [one for one in threading.enumerate() if one.daemon and "beat" in one.name]


def test_a_full_run_takes_one_thread_unless_more_are_asked_for(monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert [tool.environment("full")[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")] == ["1", "1"]
    assert "CUDA_VISIBLE_DEVICES" not in tool.environment("full")
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert [tool.environment("full")[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")] == ["4", "4"]
    assert [tool.environment("live")[name] for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")] == ["1", ""]


def test_seconds_are_expected_from_runs_on_the_same_device():
    record = {"ladder": entry("x"), "b": entry("x"), "gpu": entry("x", "cuda")}
    assert tool.seconds_of(record, "cpu") == 20 and tool.seconds_of(record, "cuda") == 10
    assert tool.seconds_of({"a": entry("x")}, "cuda") is None and tool.seconds_of({}, "cpu") is None


def test_the_forecast_says_what_it_knows():
    assert tool.forecast(10, [None, None]) == "unknown"
    assert tool.forecast(10, [60]) == "50 s"
    assert tool.forecast(100, [60, 600]) == "10 min"
    assert tool.forecast(10, [None, 600]) == "at least 10 min"


# --- The command line -----------------------------------------------------------------------------------------------


def test_the_command_line(capsys, monkeypatch):
    seen = []
    monkeypatch.setattr(tool, "chapters", lambda words: words)
    monkeypatch.setattr(tool, "check", lambda paths, extra: seen.append((paths, extra)) or 3)
    monkeypatch.setattr(tool, "records", lambda paths, force: seen.append((paths, force)) or 0)
    assert tool.main(["check", "00", "03", "--", "-x", "-k", "Cell"]) == 3
    assert tool.main(["records", "--force"]) == 0
    assert seen == [(["00", "03"], ["-x", "-k", "Cell"]), ([], True)]
    monkeypatch.undo()
    assert tool.main(["run", "99"]) == 2
    assert "no chapter '99'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        tool.main(["dance"])
