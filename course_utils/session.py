"""What every chapter starts with: where it runs, how large, with which random numbers, and its records."""

import contextlib
import datetime
import json
import math
import os
import platform
import random
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

__all__ = ["start"]  # what a chapter names; the Session that it returns documents itself
PROFILES = ("live", "full")
REPOSITORY = Path(__file__).resolve().parents[1]


def start(chapter: str, *, profile: str | None = None, seed: int = 0) -> "Session":
    """Start a chapter: choose scale and device, seed everything, and say so in one line.

    chapter: its file name without the ending, such as ``"00_start_here"``.
    profile: ``"live"`` (a minute or two, the default everywhere) or ``"full"`` (the whole grid of seeds and full-size
        data). Order: this argument, the variable ``COURSE_PROFILE``, ``"live"``.
    seed: a non-negative integer for all generators of the session.

    Raises ValueError for an unknown profile, an empty or path-like chapter name, or a seed that is not a
    non-negative integer.

    Taught in: 00_start_here
    """
    profile = profile or os.environ.get("COURSE_PROFILE") or "live"
    if profile not in PROFILES:
        raise ValueError(f"profile {profile!r} is unknown; expected one of {PROFILES} (argument or COURSE_PROFILE)")
    if not isinstance(chapter, str) or not chapter or chapter != Path(chapter).name:
        raise ValueError(f"chapter must be a plain name such as '00_start_here', got {chapter!r}")
    _check_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    session = Session(chapter, profile, device)
    session.rng = session.reseed(seed)
    session.seeds.clear()  # the chapter's own start is not one of the seeds of an experiment
    session.device_rng = torch.Generator(device).manual_seed(seed)
    session.allocated = _allocations(device)
    print(session.describe())
    return session


def _check_seed(seed: int) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**63:
        raise ValueError(f"seed must be a non-negative integer, got {seed!r}")


@dataclass
class Session:
    """The state of one run of a chapter; made by `start`.

    ``rng`` is a CPU generator (splits and data are the same on every machine), ``device_rng`` lives on ``device``
    (latents, noise).

    Taught in: 00_start_here
    """

    chapter: str
    profile: str
    device: torch.device
    rng: torch.Generator = None
    device_rng: torch.Generator = None
    seeds: list[int] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)
    allocated: int = 0  # how often GPU memory had been asked for when the last record was made

    def describe(self) -> str:
        """Return the line that `start` prints: what runs where, on which data, how long."""
        where = _hardware(self.device)
        if self.profile == "full" and self.device.type == "cpu":
            where += " (no CUDA device: the full profile runs on the CPU and takes its time)"
        folder = os.environ.get("COURSE_DATA")
        data = f"bundled sets and {folder}" if folder else "bundled sets, no download"
        seconds = sum(entry.get("seconds", 0) for entry in self._records().values())
        if self.profile == "live":
            duration = "about a minute on one CPU core"
        elif seconds:
            duration = f"the stored record took {seconds:,.0f} s"
        else:
            duration = "minutes to hours: no record tells yet"
        return f"{self.chapter} · {self.profile} profile · {where} · data: {data} · {duration}"

    def pick(self, *, live, full):
        """Return the value for the profile in force.

        >>> Session("demo", "live", torch.device("cpu")).pick(live=24, full=64)
        24
        """
        return live if self.profile == "live" else full

    def reseed(self, seed: int) -> torch.Generator:
        """Seed the global generators (Python, NumPy, torch) and return a fresh CPU generator.

        It is the first line of every loop over seeds; the seeds used are noted for the record.

        Raises ValueError unless `seed` is a non-negative integer.
        """
        _check_seed(seed)
        seed = int(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)  # covers every CUDA device too
        if seed not in self.seeds:
            self.seeds.append(seed)
        return torch.Generator().manual_seed(seed)

    def autocast(self):
        """Return a context for mixed precision: bfloat16 where the hardware has it, otherwise one that does nothing."""
        if _has_bf16(self.device):
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def record(self, name: str, metrics: dict, figure=None) -> None:
        """Store a result of the ``full`` profile; in the ``live`` profile, and in all processes but the first under
        torchrun, nothing happens.

        name: of the result; an entry of this name is replaced, all others are kept.
        metrics: nested dict of numbers, strings, lists, arrays or tensors.
        figure: a Matplotlib Axes or Figure, saved as one PNG beside the file.

        Writes ``<results>/<chapter>.json`` atomically, with commit, hardware, data, seconds since the last record,
        seeds and versions. The hardware is where the work ran: the GPU if its memory was asked for since the last
        record (or the start), else the CPU, also where a GPU was offered and not used. ``<results>``: the variable
        ``COURSE_RESULTS``, else ``book/results`` in the repository, else ``./results``.

        Raises ValueError for an empty name and for a metric that is not finite.
        """
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"a record needs a name, got {name!r}")
        metrics = _plain(metrics, name)
        if self.profile != "full":
            return
        from . import data, parallel

        if parallel.place()[0] > 0:
            return
        now, allocated = time.perf_counter(), _allocations(self.device)
        ran = self.device if allocated > self.allocated else torch.device("cpu")
        entry = {
            "metrics": metrics,
            "commit": _commit(),
            "hardware": _hardware(ran),
            "device": ran.type,
            "offered": self.device.type,
            "data": data.loaded(),
            "seconds": round(now - self.began, 1),
            "seeds": sorted(self.seeds),
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            "figure": None,
            "date": datetime.date.today().isoformat(),
        }
        self.began, self.allocated = now, allocated
        folder = results_folder()
        folder.mkdir(parents=True, exist_ok=True)
        if figure is not None:
            entry["figure"] = f"{self.chapter}-{name}.png".replace(" ", "_").replace("/", "_")
            canvas = getattr(figure, "figure", figure)
            canvas.savefig(folder / entry["figure"], dpi=110)
        records = {**self._records(), name: entry}
        path = self._path()
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(records, indent=1, allow_nan=False) + "\n", encoding="utf8")
        os.replace(partial, path)

    def recorded(self, name: str) -> dict | None:
        """Return the stored entry of that name (metrics readable at its top level too), or None when there is none."""
        entry = self._records().get(name)
        return None if entry is None else {**entry, **entry["metrics"]}

    def _path(self) -> Path:
        return results_folder() / f"{self.chapter}.json"

    def _records(self) -> dict:
        path = self._path()
        if not path.is_file():
            return {}
        try:
            return json.loads(path.read_text(encoding="utf8"))
        except ValueError as error:
            raise ValueError(f"{path} is not a readable record ({error}); delete it and run `make records`") from None


def results_folder() -> Path:
    """Return the folder of the records: COURSE_RESULTS, else book/results in the repository, else ./results."""
    if os.environ.get("COURSE_RESULTS"):
        return Path(os.environ["COURSE_RESULTS"])
    if (REPOSITORY / "_config.yml").is_file() and (REPOSITORY / "book").is_dir():
        return REPOSITORY / "book" / "results"
    return Path("results")


def _plain(value, where: str):
    """Turn tensors, arrays and NumPy scalars into what JSON can hold; refuse what is not finite."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"metric {where} is {value}: only finite numbers are recorded")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"metric {where} has type {type(value).__name__}; expected numbers, strings, lists or dicts")


def _commit() -> str:
    """Return the commit of the repository, with ``+`` when the tree differs from it."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(REPOSITORY), *words], capture_output=True, text=True, check=True, timeout=20
        ).stdout

    try:
        code = ("course_utils", "notebooks", "requirements.lock")
        return git("rev-parse", "--short=10", "HEAD").strip() + ("+" if git("status", "--porcelain", *code) else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    threads = torch.get_num_threads()
    return f"CPU {name}, {threads} thread{'s' if threads > 1 else ''}"


def _allocations(device: torch.device) -> int:
    """Return how often this process has asked for memory of the GPU; 0 without one: whatever computes there, asks."""
    return torch.cuda.memory_stats(device).get("allocation.all.allocated", 0) if device.type == "cuda" else 0


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Private names, the only way the library tells; absent ones mean "no".
    return any(getattr(torch.cpu, ask, bool)() for ask in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
