"""What is wrong with this machine, in plain words: ``python -m course_utils doctor``.

Nothing but the standard library is imported at the top, so that it speaks even where torch is missing or broken.
"""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = "course-utils"
HERE = Path(__file__).resolve().parent
GIGABYTE = 10**9
INSTALL = "run `make book` in the repository (or `pip install -e .` in your own environment)"
Version = tuple[int, ...]


class Finding(NamedTuple):
    """One line of the report: level is ``"ok"``, ``"note"`` (nothing to repair) or ``"fault"``."""

    level: str
    text: str

    def __str__(self) -> str:
        return f"{self.level:<6} {self.text}"


def doctor() -> int:
    """Print one line per finding, then a verdict; return 0 when all is well, 1 when there is a fault.

    Taught in: 00_start_here
    """
    faults = 0
    for check in CHECKS:
        for finding in examine(check):
            faults += finding.level == "fault"
            print(finding, flush=True)
    if faults:
        print(Finding("fault", f"{faults} to repair: start with the first one above"))
    else:
        print(Finding("ok", "all well"))
    return 1 if faults else 0


def examine(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """Return the findings of one check; a check that breaks is itself a fault, and the others still run."""
    findings = []
    try:
        for finding in check():
            findings.append(finding)
    except Exception as error:
        name = check.__name__.replace("_", " ")
        findings.append(Finding("fault", f"the check of {name} broke: {type(error).__name__}: {error}"))
    return findings


# --- Versions -------------------------------------------------------------------------------------------------------


def release(version: str) -> Version:
    """Return the leading numbers of a version; local and pre-release parts are ignored.

    >>> release("2.11.0+cu128"), release("1.6rc1")
    ((2, 11, 0), (1, 6))
    """
    found = re.match(r"\d+(\.\d+)*", version)
    if not found:
        raise ValueError(f"version {version!r} does not start with a number")
    return tuple(int(part) for part in found.group().split("."))


def admits(bounds: str, version: str) -> bool:
    """Return True when a version lies inside bounds such as ``">=3.11,<3.14"``.

    Raises ValueError for an operator other than ``>=`` and ``<``: the package metadata uses no other.

    >>> admits(">=2.6", "2.11.0"), admits(">=2.6", "2.5.1"), admits(">=1.0.4,<2", "2.0")
    (True, False, False)
    """
    for bound in filter(None, (part.strip() for part in bounds.split(","))):
        found = re.fullmatch(r"(>=|<)\s*([\w.]+)", bound)
        if not found:
            raise ValueError(f"bound {bound!r} is not understood; expected >= or < and a version")
        operator, limit = found.group(1), release(found.group(2))
        length = max(len(limit), len(release(version)))
        have = release(version) + (0,) * (length - len(release(version)))
        limit += (0,) * (length - len(limit))
        if (operator == ">=" and have < limit) or (operator == "<" and have >= limit):
            return False
    return True


def base_requirements() -> list[tuple[str, str]]:
    """Return (distribution, bounds) of every base dependency, from the metadata, else from pyproject.toml."""
    try:
        lines = importlib.metadata.requires(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        project = HERE.parent / "pyproject.toml"
        if not project.is_file():
            return []
        lines = tomllib.loads(project.read_text(encoding="utf8"))["project"]["dependencies"]
    base = (line for line in lines if "extra ==" not in line)
    return [re.match(r"\s*([\w.-]+)\s*\(?([^;)]*)", line).groups() for line in base]


# --- The checks -----------------------------------------------------------------------------------------------------


def python() -> Iterator[Finding]:
    """Check the interpreter against the supported versions."""
    have = ".".join(str(part) for part in sys.version_info[:3])
    try:
        bounds = importlib.metadata.metadata(PACKAGE)["Requires-Python"] or ">=3.11,<3.14"
    except importlib.metadata.PackageNotFoundError:
        bounds = ">=3.11,<3.14"
    if admits(bounds, have):
        yield Finding("ok", f"Python {have} ({sys.executable})")
    else:
        yield Finding(
            "fault", f"Python {have} is not supported ({bounds}): make the environment with Python 3.11, 3.12 or 3.13"
        )


def package() -> Iterator[Finding]:
    """Check that the toolbox in use is the one of the repository we stand in, not a copy from elsewhere."""
    try:
        version = importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        yield Finding("fault", f"course_utils is not installed in this environment: {INSTALL}")
        return
    repository = repository_above(Path.cwd())
    used = imported_from()
    if used is None:
        yield Finding("fault", f"course_utils is installed but cannot be imported outside its folder: {INSTALL}")
    elif repository and used.parent != repository:
        yield Finding(
            "fault",
            f"course_utils comes from {used}, not from this repository ({repository}): a copy from elsewhere is in the "
            "way; run `pip uninstall course-utils`, then `pip install -e .` here (and look at PYTHONPATH)",
        )
    else:
        declared = declared_version(used.parent)
        if declared and declared != version:
            yield Finding(
                "fault",
                f"the installed course_utils says {version}, its source says {declared}: it is stale; {INSTALL}",
            )
        else:
            yield Finding("ok", f"course_utils {version} from {used}")


def repository_above(folder: Path) -> Path | None:
    """Return the repository of the course that holds this folder, or None."""
    for place in (folder.resolve(), *folder.resolve().parents):
        if (place / "course_utils").is_dir() and declared_version(place):
            return place
    return None


def declared_version(folder: Path) -> str | None:
    """Return the version in a folder's pyproject.toml, or None when the file is missing or another project's."""
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf8"))["project"]
    except (OSError, KeyError, ValueError):
        return None
    return project.get("version") if project.get("name") == PACKAGE else None


def imported_from() -> Path | None:
    """Return the folder from which a program outside the repository would import course_utils, or None."""
    code = "import importlib.util as u; s = u.find_spec('course_utils'); print(s.origin if s else '')"
    # -P: the current folder does not count, or the answer would always be the copy we stand in.
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60)
    origin = done.stdout.strip()
    return Path(origin).resolve().parent if origin and origin != "None" else None


def dependencies() -> Iterator[Finding]:
    """Check that each base dependency is there, new enough, and not hidden by a file of the same name."""
    requirements = base_requirements()
    if not requirements:
        yield Finding("fault", f"the list of dependencies cannot be read: {INSTALL}")
    good = []
    for name, bounds in requirements:
        module = {"scikit-learn": "sklearn"}.get(name, name)
        twin = Path.cwd() / f"{module}.py"
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding("fault", f"{name} is missing: {INSTALL}, or `pip install '{name}{bounds}'`")
            continue
        if not admits(bounds, version):
            yield Finding("fault", f"{name} {version} is too old, {bounds} is needed: `pip install '{name}{bounds}'`")
        elif twin.is_file():
            yield Finding("fault", f"the file {twin} hides the package {name}: rename the file")
        elif importlib.util.find_spec(module) is None:
            yield Finding(
                "fault", f"{name} {version} is listed but its files are gone: `pip install --force-reinstall {name}`"
            )
        else:
            good.append(f"{name} {version}")
    if good:
        yield Finding("ok", ", ".join(good))


def torch_works() -> Iterator[Finding]:
    """Check that torch loads and computes, and say what it can use: GPU, bfloat16, threads."""
    try:
        import torch

        product = (torch.ones(3, 3) @ torch.ones(3, 3)).sum().item()
    except Exception as error:  # a broken library raises what it likes: OSError, ImportError, RuntimeError
        yield Finding(
            "fault",
            f"torch does not work ({type(error).__name__}: {error}): `pip install --force-reinstall torch torchvision`",
        )
        return
    if product != 27:
        yield Finding("fault", f"torch computes wrongly (a sum of 27 came out as {product}): reinstall torch")
        return
    yield Finding("ok", f"torch {torch.__version__} computes")
    yield from gpu(torch)
    from .session import _has_bf16

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    has = _has_bf16(device)
    yield Finding("note", f"bfloat16 on this {device.type}: {'yes' if has else 'no, float32 is used'}")
    wanted = os.environ.get("OMP_NUM_THREADS")
    setting = f"OMP_NUM_THREADS={wanted}" if wanted else "OMP_NUM_THREADS not set"
    yield Finding("note", f"{torch.get_num_threads()} threads for {os.cpu_count()} processor cores ({setting})")


def gpu(torch) -> Iterator[Finding]:
    """Say whether a GPU is used; one that is there but not usable is worth a sentence."""
    if torch.cuda.is_available():
        product = (torch.ones(3, 3, device="cuda") @ torch.ones(3, 3, device="cuda")).sum().item()
        level = "ok" if product == 27 else "fault"
        yield Finding(level, f"GPU {torch.cuda.get_device_name(0)}: a sum of 27 came out as {product:g}")
    elif shutil.which("nvidia-smi") is None:
        yield Finding("note", "no CUDA device: the CPU is used, every chapter's live profile is made for it")
    elif torch.version.cuda is None:
        yield Finding(
            "note", "an NVIDIA driver is here, but this torch is built without CUDA: the CPU is used; see pytorch.org"
        )
    else:
        yield Finding(
            "note",
            f"an NVIDIA driver is here, but torch (CUDA {torch.version.cuda}) sees no device: the CPU is used; look at "
            "`nvidia-smi` and CUDA_VISIBLE_DEVICES; the driver may be too old",
        )


def tools() -> Iterator[Finding]:
    """Say which optional programs are here: Jupyter, Jupyter Book, Chromium."""
    for name, purpose, advice in (
        ("jupyter", "to run chapters on this machine", "pip install -e '.[lab]'"),
        ("jupyter-book", "to build the book", "pip install -e '.[book]'"),
        ("chromium", "to test the pages; nobody else needs it", "your system's package chromium"),
    ):
        place = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
        if place is None:
            yield Finding("note", f"{name} is not here ({purpose}): {advice}")
        elif name == "jupyter-book" and not admits("<2", version_or("jupyter-book", "1")):
            yield Finding(
                "fault",
                f"jupyter-book {version_or('jupyter-book', '')} does not read _config.yml and _toc.yml: "
                "`pip install 'jupyter-book>=1.0.4,<2'`",
            )
        else:
            yield Finding("ok", f"{name} ({place})")


def version_or(name: str, default: str) -> str:
    """Return the installed version of a distribution, or the default."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return default


def data_folder() -> Iterator[Finding]:
    """Check COURSE_DATA: it exists, can be read, and can be written."""
    setting = os.environ.get("COURSE_DATA")
    if not setting:
        yield Finding("note", "COURSE_DATA is not set: downloads go to the folder data; digits and strokes need none")
        return
    folder = Path(setting)
    if not folder.exists():
        yield Finding("fault", f"COURSE_DATA names {folder}, which does not exist: `mkdir -p {folder}`, or unset it")
    elif not folder.is_dir():
        yield Finding("fault", f"COURSE_DATA names {folder}, which is not a folder: name the folder of the data sets")
    elif not os.access(folder, os.R_OK | os.X_OK):
        yield Finding("fault", f"COURSE_DATA names {folder}, which cannot be read: change its permissions")
    elif not writable(folder):
        yield Finding("note", f"COURSE_DATA {folder} can be read but not written: nothing can be fetched into it")
    else:
        yield Finding("ok", f"COURSE_DATA {folder}")


def results_folder() -> Iterator[Finding]:
    """Check that the folder of the records can be written (it is made when the first record is stored)."""
    setting = os.environ.get("COURSE_RESULTS")
    repository = HERE.parent if (HERE.parent / "_config.yml").is_file() else None
    folder = Path(setting) if setting else repository / "book" / "results" if repository else Path("results")
    existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not existing.is_dir():
        yield Finding("fault", f"records cannot be stored: {existing} is not a folder; set COURSE_RESULTS to one")
    elif not writable(existing):
        yield Finding("fault", f"records cannot be stored in {folder}: set COURSE_RESULTS to a folder of your own")
    else:
        yield Finding("ok", f"records go to {folder}")


def writable(folder: Path) -> bool:
    """Return True when a file can be made in the folder; asking the permissions is not enough (read-only disks)."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def disk() -> Iterator[Finding]:
    """Check the free space where we stand."""
    free = shutil.disk_usage(Path.cwd()).free / GIGABYTE
    if free < 0.5:
        yield Finding("fault", f"only {free:.1f} GB of disk are free: notebooks cannot be stored; make room")
    elif free < 3:
        yield Finding("note", f"{free:.1f} GB of disk are free: enough for the live profile, tight for large data sets")
    else:
        yield Finding("ok", f"{free:.0f} GB of disk are free")


def memory() -> Iterator[Finding]:
    """Check the memory: no chapter uses more than 2 GB."""
    free = available_memory()
    if free is None:
        yield Finding("note", "free memory cannot be told on this system; no chapter uses more than 2 GB")
    elif free < 2 * GIGABYTE:
        yield Finding(
            "fault", f"only {free / GIGABYTE:.1f} GB of memory are free, a chapter may use 2 GB: close other programs"
        )
    else:
        yield Finding("ok", f"{free / GIGABYTE:.1f} GB of memory are free")


def available_memory() -> int | None:
    """Return the bytes that a program may still use: the system's, or less in a container; None when unknown."""
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
        free = int(found.group(1)) * 1024
    except (OSError, AttributeError):
        return None
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        # Cached files count as used, but are given back when a program asks.
        cached = re.search(r"(?m)^inactive_file (\d+)", (group / "memory.stat").read_text())
        return min(free, limit - used + int(cached.group(1)))
    except (OSError, ValueError, AttributeError):  # no limit: the file is missing or says "max"
        return free


CHECKS = (python, package, dependencies, torch_works, tools, data_folder, results_folder, disk, memory)
