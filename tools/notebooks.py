"""Run, check and stamp the chapters.

    python tools/notebooks.py run     [CHAPTERS]          execute in the live profile, store outputs, stamp
    python tools/notebooks.py check   [CHAPTERS] [-- …]   one nbval pass without network; writes _build/timings.md
    python tools/notebooks.py records [CHAPTERS]          execute in the full profile; skips what is recorded (--force)
    python tools/notebooks.py stamp   [CHAPTERS]          write the repository's address into links and install cells

CHAPTERS are numbers or names ("00", "00 03", "00_start_here"); none means all. What follows `--` goes to pytest.
"""

import argparse
import ast
import hashlib
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
BUILD = ROOT / "_build"

CELL_SECONDS = 600  # wall clock: far above any cell of a chapter, even beside a busy neighbour
MAX_BYTES = 1_500_000
# The ledger: CPU seconds on one thread. A chapter's own budget stands in its metadata, making_data.budget_cpu_s.
BUDGET, LARGE_BUDGET, LARGE_CHAPTERS, ALL_CHAPTERS = 40, 80, 7, 25 * 60
MARGIN = 2.0  # CPU seconds of the same work were seen to grow by three quarters beside other work
MAX_MEGABYTES = 2000
PULSE = 30  # seconds between two signs of life from a long cell

COLAB = "https://colab.research.google.com/github/"
LINK = re.compile(r"\[Open in Colab\]\([^)]*\)")

TAKE_ALT = "getattr(__import__('sys').modules.get('course_utils.show'), 'take_alt', lambda: None)()"


class Problem(Exception):
    """Something the author has to change; told without a traceback."""


# --- Reading and writing --------------------------------------------------------------------------------------------


def chapters(wanted=(), folder: Path = NOTEBOOKS) -> list[Path]:
    """Return the chapter notebooks in order, or those named by number or name."""
    found = {path.stem: path for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))}
    chosen = []
    for word in re.split(r"[\s,]+", " ".join(wanted).strip()) if wanted else ():
        name = Path(word).name.removesuffix(".ipynb")
        matches = [stem for stem in found if name in (stem, stem.partition("_")[0])]
        if word and not matches:
            raise Problem(f"no chapter {word!r}; there are: {', '.join(found) or 'none yet'}")
        chosen += matches
    return [found[stem] for stem in sorted(set(chosen))] if chosen else list(found.values())


def skip_slow_import() -> None:
    """Spare the start 2.6 CPU seconds: a grammar that jsonschema imports when it is there, and does without."""
    sys.modules.setdefault("rfc3987_syntax", None)


def read(path: Path):
    import nbformat

    return nbformat.read(path, as_version=4)


def dump(notebook) -> str:
    """Return the one text form in which notebooks are stored."""
    import nbformat

    return nbformat.writes(notebook, version=4).rstrip("\n") + "\n"


def write(path: Path, text: str) -> None:
    partial = path.with_suffix(".part")
    partial.write_text(text, encoding="utf8")
    os.replace(partial, path)


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def has_tag(cell, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def code_hash(notebook) -> str:
    """Return the sha256 over the code cells; the install cell is left out, a new address makes no chapter stale."""
    sources = [cell.source for cell in code_cells(notebook) if not has_tag(cell, "install")]
    return hashlib.sha256(json.dumps(sources, ensure_ascii=False).encode()).hexdigest()


def budget(notebook) -> float:
    return notebook.metadata.get("making_data", {}).get("budget_cpu_s", BUDGET)


def images(cell) -> list[str]:
    """Return the kinds of all images among a cell's outputs, one entry per image."""
    kinds = [next((kind for kind in out.get("data", {}) if kind.startswith("image/")), None) for out in cell.outputs]
    return [kind for kind in kinds if kind]


def results() -> Path:
    return Path(os.environ.get("COURSE_RESULTS") or ROOT / "book" / "results").absolute()


def place(notebook, cell) -> str:
    """Return how a cell is named in messages: its number among the code cells and its first line."""
    number = 1 + next(i for i, other in enumerate(code_cells(notebook)) if other is cell)
    return f"code cell {number} ({cell.source.strip().partition(chr(10))[0][:60]!r})"


# --- The repository's address ---------------------------------------------------------------------------------------


def address(config: Path = ROOT / "_config.yml") -> tuple[str, str]:
    """Return url and branch of the repository: _config.yml is the one place where they stand."""
    import yaml

    entry = (yaml.safe_load(config.read_text(encoding="utf8")) or {}).get("repository") or {}
    url, branch = str(entry.get("url", "")).rstrip("/").removesuffix(".git"), str(entry.get("branch", "main"))
    if not re.fullmatch(r"https://[\w.-]+/[\w.-]+/[\w.-]+", url):
        raise Problem(f"{config.name}: repository: url: must be https://HOST/OWNER/NAME, got {url!r}")
    return url, branch


def colab_link(name: str, url: str, branch: str) -> str:
    repository = "/".join(url.split("/")[-2:])
    return f"[Open in Colab]({COLAB}{repository}/blob/{branch}/notebooks/{name}.ipynb)"


def install_source(url: str, branch: str) -> str:
    return (
        "# On Colab this installs the course's toolbox and nothing else; anywhere else it does nothing.\n"
        "import sys\n\n"
        'if "google.colab" in sys.modules:\n'
        f'    %pip install -q --no-deps "git+{url}@{branch}"'
    )


def stamp(notebook, name: str, url: str, branch: str) -> None:
    """Write the Colab link into the first cell and the install cell below it; make what is missing."""
    import nbformat

    first = notebook.cells[0] if notebook.cells else None
    if first is None or first.cell_type != "markdown" or not first.source.startswith("# "):
        raise Problem(f"{name}: the first cell must be Markdown that begins with '# Title'")
    link = colab_link(name, url, branch)
    if LINK.search(first.source):
        first.source = LINK.sub(lambda _: link, first.source)
    else:
        title, _, rest = first.source.partition("\n")
        first.source = f"{title}\n\n{link}\n{rest}".rstrip("\n")
    if not any(has_tag(cell, "install") for cell in code_cells(notebook)):
        cell = nbformat.v4.new_code_cell(id="install", metadata={"tags": ["install", "remove-cell"]})
        notebook.cells.insert(1, cell)
        if (notebook.nbformat, notebook.nbformat_minor) < (4, 5):
            del cell["id"]
    for cell in code_cells(notebook):
        if has_tag(cell, "install"):
            cell.source = install_source(url, branch)


# --- Running --------------------------------------------------------------------------------------------------------


def usage() -> dict:
    """Return CPU seconds, finished children included, and peak memory of the largest process. Runs in the kernel."""
    import resource
    import sys
    from pathlib import Path

    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    scale = 1e6 if sys.platform == "darwin" else 1e3
    peak = own.ru_maxrss / scale
    if (status := Path("/proc/self/status")).exists():
        # ru_maxrss would count what the parent process weighed when the kernel was started from it.
        peak = next(float(line.split()[1]) / 1e3 for line in status.open() if line.startswith("VmHWM"))
    seconds = sum(part.ru_utime + part.ru_stime for part in (own, children))
    return {"cpu_s": seconds, "peak_mb": max(peak, children.ru_maxrss / scale)}


# As an expression in a scope of its own: nothing is left behind, and a chapter may call something `sum`.
USAGE = f"(lambda scope: (exec({inspect.getsource(usage)!r}, scope), scope['usage']())[1])({{}})"


def environment(profile: str) -> dict[str, str]:
    """Return the environment of a kernel: one CPU thread and no progress bars.

    A live run sees no GPU. A full run may use the GPU, and as many threads as a set OMP_NUM_THREADS says.
    """
    settings = {"COURSE_PROFILE": profile, "COURSE_RESULTS": str(results()), "TQDM_DISABLE": "1"}
    if profile == "live":
        return settings | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    threads = os.environ.get("OMP_NUM_THREADS") or "1"
    return settings | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": os.environ.get("MKL_NUM_THREADS") or threads}


def ask(client, expression: str):
    """Return the value of an expression in the kernel of an nbclient client; counts and history stay untouched."""
    request = client.kc.execute("", silent=True, store_history=False, user_expressions={"answer": expression})
    answer = client.wait_for_reply(request)["content"]["user_expressions"]["answer"]
    if answer["status"] != "ok":
        raise Problem(f"the kernel could not say {expression}: {answer.get('ename')}: {answer.get('evalue')}")
    return ast.literal_eval(answer["data"]["text/plain"])


def execute(notebook, profile: str, *, seconds: int | None = CELL_SECONDS, after=None) -> dict[str, float]:
    """Run all cells in a fresh kernel and an empty folder; return CPU seconds and peak memory.

    `after(cell, alt)` is called behind each code cell with the alternative text of the figure drawn last, or None.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    # What the kernel process itself says (not its cells) is of interest only when it dies.
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as log:
        client = NotebookClient(
            notebook,
            timeout=seconds,
            kernel_name="python3",  # of this interpreter, whatever the notebook says
            record_timing=False,
            store_widget_state=False,
            coalesce_streams=True,
            resources={"metadata": {"path": folder}},
        )
        with client.setup_kernel(env={**os.environ, **environment(profile)}, stderr=log):
            for index, cell in enumerate(notebook.cells):
                if cell.cell_type != "code":
                    continue
                cell.outputs, cell.execution_count = [], None
                try:
                    client.execute_cell(cell, index)
                except (CellExecutionError, CellTimeoutError) as error:
                    raise Problem(f"{place(notebook, cell)} failed:\n{error}") from None
                except DeadKernelError:
                    log.seek(0)
                    raise Problem(
                        f"{place(notebook, cell)} killed its kernel (memory?)\n{log.read()[-2000:]}"
                    ) from None
                if after:
                    after(cell, ask(client, TAKE_ALT))
            return ask(client, USAGE)


def tidy(notebook) -> None:
    """Drop what changes from run to run or from editor to editor."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "making_data": notebook.metadata.get("making_data", {}),
    }
    for cell in notebook.cells:
        cell.metadata = {key: cell.metadata[key] for key in ("tags", "mystnb") if cell.metadata.get(key)}
        for output in cell.get("outputs", []):
            if "metadata" in output:
                output.metadata = {}


def store_alt(notebook, cell, alt: str | None) -> None:
    """Put the alternative text where Jupyter Book reads it; stop when a cell's outputs are not fit to be stored."""
    where = place(notebook, cell)
    noise = [out.text for out in cell.outputs if out.output_type == "stream" and out.name == "stderr"]
    if noise:
        raise Problem(f"{where} wrote to stderr:\n{''.join(noise).strip()}")
    if any("widget" in kind for out in cell.outputs for kind in out.get("data", {})):
        raise Problem(f"{where} shows a widget: a stored page has no kernel behind it")
    count = len(images(cell))
    if count > 1:
        raise Problem(f"{where} shows {count} figures: one per cell, each has its own alternative text")
    if count and not alt:
        raise Problem(f"{where} shows a figure without alternative text: draw it with course_utils.show, alt=…")
    mystnb = {key: value for key, value in cell.metadata.get("mystnb", {}).items() if key != "image"}
    if count:
        mystnb["image"] = {"alt": alt}
    cell.metadata["mystnb"] = mystnb


def run(paths: list[Path], *, config: Path = ROOT / "_config.yml") -> int:
    """Execute chapters in the live profile and store what they print; a chapter that fails is left as it was."""
    failed = 0
    for path in paths:
        notebook = read(path)
        try:
            stamp(notebook, path.stem, *address(config))
            used = execute(notebook, "live", after=lambda cell, alt, notebook=notebook: store_alt(notebook, cell, alt))
            notebook.metadata.setdefault("making_data", {})["code_hash"] = code_hash(notebook)
            tidy(notebook)
            text = dump(notebook)
            size = len(text.encode())
            if size > MAX_BYTES:
                raise Problem(
                    f"stored it would weigh {size / 1e6:.2f} MB, more than {MAX_BYTES / 1e6} MB: smaller figures?"
                )
        except Problem as problem:
            failed += 1
            print(f"{path.stem}: {problem}\n", file=sys.stderr, flush=True)
            continue
        write(path, text)
        print(
            f"{path.stem}: stored, {used['cpu_s']:.1f} CPU s of {budget(notebook)}, "
            f"{used['peak_mb']:.0f} MB, file {size / 1e6:.2f} MB",
            flush=True,
        )
    return 1 if failed else 0


# --- Checking -------------------------------------------------------------------------------------------------------


def check(paths: list[Path], arguments=(), *, build: Path = BUILD) -> int:
    """Execute chapters once under nbval, without network, and hold them to the ledger."""
    import shutil

    sys.path.insert(0, str(ROOT / "tools"))
    import offline

    if not paths:
        print("no chapters in notebooks/ yet")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        copies, used = Path(folder) / "chapters", Path(folder) / "used"
        used.mkdir()
        for path in paths:  # each alone in an empty folder, as on Colab, and nothing can write into the originals
            (copies / path.stem).mkdir(parents=True)
            shutil.copy(path, copies / path.stem)
        words = [sys.executable, "-m", "pytest", "-q", "-p", "nbval_usage"]
        words += ["-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
        words += ["--nbval-lax", "--nbval-current-env", f"--nbval-cell-timeout={CELL_SECONDS}"]
        words += ["-n", str(min(2, len(paths))), "--dist", "loadscope", f"--rootdir={copies}", str(copies), *arguments]
        settings = environment("live") | {"COURSE_USAGE": str(used), "COURSE_USAGE_EXPRESSION": USAGE}
        status = subprocess.run(offline.command(words), env={**os.environ, **settings}, check=False).returncode
        rows = [row(path, used / f"{path.stem}.json") for path in paths]
    complaints = over_budget(rows, whole=len(rows) == len(chapters(folder=paths[0].parent)))
    build.mkdir(parents=True, exist_ok=True)
    write(build / "timings.json", json.dumps(rows, indent=1) + "\n")
    write(build / "timings.md", table(rows))
    print(table(rows), *complaints, sep="\n")
    return status or (1 if complaints else 0)


def row(path: Path, used: Path) -> dict:
    """Return a chapter's line of the timing table; None stands for what could not be measured."""
    measured = json.loads(used.read_text(encoding="utf8")) if used.is_file() else {"cpu_s": None, "peak_mb": None}
    return {"chapter": path.stem, "budget_cpu_s": budget(read(path)), **measured}


def over_budget(rows: list[dict], *, whole: bool) -> list[str]:
    """Return what is wrong with measured chapters: far above their own budget, memory, or (when whole) the sum."""
    complaints = []
    for line in rows:
        name, cpu, limit = line["chapter"], line["cpu_s"], line["budget_cpu_s"]
        if cpu is None:
            complaints.append(f"{name}: not measured, its kernel was gone before the end")
            continue
        if cpu > MARGIN * limit:
            complaints.append(f"{name}: {cpu:.1f} CPU s, its budget is {limit} (failure above {MARGIN} times that)")
        if line["peak_mb"] > MAX_MEGABYTES:
            complaints.append(f"{name}: {line['peak_mb']:.0f} MB at its peak, at most {MAX_MEGABYTES} are allowed")
    total = sum(line["cpu_s"] or 0 for line in rows)
    if whole and total > MARGIN * ALL_CHAPTERS:
        complaints.append(f"all chapters: {total / 60:.1f} CPU minutes, at most {ALL_CHAPTERS / 60:.0f} are planned")
    return complaints


def table(rows: list[dict]) -> str:
    lines = ["| chapter | CPU s | budget | peak MB |", "|---|---:|---:|---:|"]
    for line in rows:
        cpu = (
            "–"
            if line["cpu_s"] is None
            else f"{line['cpu_s']:.1f}" + (" (above)" if line["cpu_s"] > line["budget_cpu_s"] else "")
        )
        peak = "–" if line["peak_mb"] is None else f"{line['peak_mb']:.0f}"
        lines.append(f"| {line['chapter']} | {cpu} | {line['budget_cpu_s']:g} | {peak} |")
    total = sum(line["cpu_s"] or 0 for line in rows)
    lines.append(f"| all | {total:.1f} | {sum(line['budget_cpu_s'] for line in rows):g} | |")
    return "\n".join(lines) + "\n"


# --- Records --------------------------------------------------------------------------------------------------------


def record_path(name: str) -> Path:
    return results() / f"{name}.json"


def read_record(name: str) -> dict:
    """Return the chapter's record: name of a result → entry, as Session.record stores it."""
    path = record_path(name)
    return json.loads(path.read_text(encoding="utf8")) if path.is_file() else {}


def write_record(name: str, record: dict) -> None:
    write(record_path(name), json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n")


def promised(notebook) -> list[tuple[str, ...]]:
    """Return the names that the code records, as the first argument of `course.record` says them.

    Each is a tuple: one name, or two of which a run makes one, as in `"name" if … else "other"`, in the two branches of
    an `if`, and in `CARD + "name"` (CARD is "gpu " on a GPU, else empty).
    """
    groups, pairs = [], []
    for cell in (cell for cell in code_cells(notebook) if "course.record(" in cell.source):
        try:
            tree = ast.parse(cell.source)
        except SyntaxError as error:
            raise Problem(f"{place(notebook, cell)} records, so it has to be plain Python: {error}") from None
        for node in ast.walk(tree):
            if isinstance(node, ast.If):
                pairs.append(
                    [
                        [line.value for line in part if is_record(getattr(line, "value", None))]
                        for part in (node.body, node.orelse)
                    ]
                )
            if is_record(node):
                if (names := names_in(node.args[0])) is None:
                    raise Problem(
                        f"{place(notebook, cell)}: which results a chapter makes is read off its code: write "
                        f'course.record("name", …), not course.record({ast.unparse(node.args[0])}, …)'
                    )
                groups.append(names)
    for one, other in pairs:
        if len(one) == len(other) == 1:
            pair = [names_in(call.args[0]) for call in (one[0], other[0])]
            groups = [name for name in groups if name not in pair] + [pair[0] + pair[1]]
    return list(dict.fromkeys(groups))


def is_record(node) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "course.record" and bool(node.args)


def names_in(first: ast.expr) -> tuple[str, ...] | None:
    match first:
        case ast.Constant(value=str(name)):
            return (name,)
        case ast.IfExp(body=ast.Constant(value=str(name)), orelse=ast.Constant(value=str(other))):
            return name, other
        case ast.BinOp(left=ast.Name(id="CARD"), op=ast.Add(), right=ast.Constant(value=str(name))):
            return name, f"gpu {name}"
    return None


def gpu_here() -> bool:
    """Whether a full run would use a GPU."""
    import torch

    return torch.cuda.is_available()


def kind(notebook, gpu: bool) -> str:
    """Return the device that counts for a chapter here; one that never names the device computes on the CPU."""
    return "cuda" if gpu and any("device" in cell.source for cell in code_cells(notebook)) else "cpu"


def offered(entry: dict) -> str:
    """Return the device that was there when the entry was made, whether its work used it or not."""
    return entry.get("offered") or entry.get("device") or "cpu"


def state(notebook, record: dict, here: str) -> tuple[str, list[str]]:
    """Return what a record is worth on the device `here` ("cpu" or "cuda"), and the names of what is not current.

    "current": every promised result was stamped by a complete run of the present code; on a GPU, by a run with a GPU
    (and everywhere, when it was). "incomplete": some were, others are missing or older: their data were not there.
    "old": all others, also the record of a run that did not end (storing an entry anew drops its stamp).
    """
    code = code_hash(notebook)
    other = "gpu" if here == "cpu" else "cpu"  # a result whose name begins so can be made there only
    groups = [group for group in promised(notebook) if not all(name.startswith(other) for name in group)]
    good, bad, interrupted = [], [], False
    for group in groups:
        entries = [record[name] for name in group if name in record]
        entries = [entry for entry in entries if offered(entry) == here] or entries
        stamps = [entry.get("code_hash") for entry in entries if here == "cpu" or offered(entry) == "cuda"]
        interrupted = interrupted or None in stamps
        (good if code in stamps else bad).append(" or ".join(group))
    if interrupted or not good:
        return "old", bad
    return ("incomplete" if bad else "current"), bad


def gpu_made(notebook, record: dict) -> list[str]:
    """Return the results of a GPU that a run on the CPU would replace."""
    names = [group[0] for group in promised(notebook) if len(group) == 1 and not group[0].startswith("gpu")]
    return [name for name in names if record.get(name, {}).get("device") == "cuda"]


def data_folder() -> Path:
    return Path(os.environ.get("COURSE_DATA") or ROOT / "data")


def set_apart(name: str) -> None:
    """Mark what a run left behind that did not end: the next run must not stamp it as its own."""
    if record := read_record(name):
        write_record(name, {key: {"code_hash": "of a run that did not end", **entry} for key, entry in record.items()})


def stamp_record(name: str, notebook, here: str) -> None:
    """Stamp what a complete run just made, and say what it left out; stop when the code makes an entry no longer."""
    record, code = read_record(name), code_hash(notebook)
    made = [key for key, entry in record.items() if "code_hash" not in entry]
    if not made:
        raise Problem("the full run recorded nothing: call course.record")
    new = {key: {**entry, "code_hash": code} if key in made else entry for key, entry in record.items()}
    write_record(name, new)
    if (left := state(notebook, new, here))[0] != "current":
        print(incomplete(name, left[1]), flush=True)
    named = {one for group in promised(notebook) for one in group}
    if gone := [key for key in record if key not in named]:
        raise Problem(f"these results are no longer made, delete them from {record_path(name).name}: {gone}")


def incomplete(name: str, left: list[str]) -> str:
    return f"{name}: incomplete: {', '.join(left)} is missing or older (is COURSE_DATA set?)"


def seconds_of(record: dict, here: str) -> float | None:
    """Return how long the last run on such a device took up to its last result, or None when there was none."""
    known = [entry["seconds"] for entry in record.values() if offered(entry) == here]
    return sum(known) if known else None


def forecast(elapsed: float, expected: list[float | None]) -> str:
    """Return the time left in words, from the seconds expected of the present chapter and of those after it."""
    known = [seconds for seconds in expected if seconds is not None]
    if not known:
        return "unknown"
    present = expected[0] or 0
    left = max(present - elapsed, 0) + sum(known) - present
    return ("at least " if len(known) < len(expected) else "") + minutes(left)


def minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


@contextmanager
def pulse(tell):
    """Call tell() every PULSE seconds from beside: a cell of many minutes says nothing itself."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(PULSE):
            tell()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def records(paths: list[Path], *, force: bool = False) -> int:
    """Execute chapters in the full profile, which stores its results under book/results.

    What is current on this device is skipped, and so is what would replace a GPU's results by those of a CPU; `force`
    makes both. An incomplete record is made again where there is a data folder.
    """
    todo, gpu, failed = [], gpu_here(), 0
    for path in paths:
        notebook, record = read(path), read_record(path.stem)
        here = kind(notebook, gpu)
        if not notebook.metadata.get("making_data", {}).get("full"):
            print(f"{path.stem}: has no full profile")
            continue
        try:
            worth, left = state(notebook, record, here)
            kept = [] if gpu else gpu_made(notebook, record)
        except Problem as problem:
            failed += 1
            print(f"{path.stem}: {problem}\n", file=sys.stderr, flush=True)
            continue
        if not force and worth == "current":
            print(f"{path.stem}: its record is of the present code (--force makes it again)")
        elif not force and worth == "incomplete" and not data_folder().is_dir():
            print(incomplete(path.stem, left))
        elif not force and kept:
            print(f"{path.stem}: not current, but made on a GPU: {', '.join(kept)} (--force makes it on this CPU)")
        else:
            todo.append((path.stem, notebook, here))
    expected = [seconds_of(read_record(name), here) for name, _, here in todo]
    for position, (name, notebook, here) in enumerate(todo):
        began, cells, at = time.monotonic(), code_cells(notebook), [1]  # at: the number of the running cell

        def tell(what, name=name, cells=cells, began=began, at=at, expected=expected[position:]):
            elapsed = time.monotonic() - began
            left = forecast(elapsed, expected)
            print(f"{name}: cell {at[0]}/{len(cells)} {what}, {minutes(elapsed)} so far, left: {left}", flush=True)

        def after(cell, alt, tell=tell, at=at):
            tell("done")
            at[0] += 1

        try:
            set_apart(name)
            with pulse(lambda tell=tell: tell("runs")):
                used = execute(notebook, "full", seconds=None, after=after)
            stamp_record(name, notebook, here)
        except Problem as problem:
            failed += 1
            print(f"{name}: {problem}\n", file=sys.stderr, flush=True)
            continue
        print(f"{name}: recorded, {used['cpu_s']:.0f} CPU s, {used['peak_mb']:.0f} MB", flush=True)
    return 1 if failed else 0


# --- Commands -------------------------------------------------------------------------------------------------------


def stamp_all(paths: list[Path], *, config: Path = ROOT / "_config.yml") -> int:
    for path in paths:
        notebook = read(path)
        stamp(notebook, path.stem, *address(config))
        if (text := dump(notebook)) != path.read_text(encoding="utf8"):
            write(path, text)
            print(f"{path.stem}: stamped")
    return 0


def main(words: list[str]) -> int:
    own, extra = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "check", "records", "stamp"))
    parser.add_argument("chapters", nargs="*", metavar="CHAPTER")
    parser.add_argument("--force", action="store_true", help="records: run again what is recorded already")
    options = parser.parse_args(own)
    skip_slow_import()
    try:
        paths = chapters(options.chapters)
        if options.command == "check":
            return check(paths, extra)
        if options.command == "records":
            return records(paths, force=options.force)
        return run(paths) if options.command == "run" else stamp_all(paths)
    except Problem as problem:
        print(f"notebooks: {problem}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
