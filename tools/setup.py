"""Set up `.venv` from requirements.lock: run by every make target, done in well under a second when nothing changed.

    python3 tools/setup.py            # PYTHON=python3.12 chooses the interpreter

Standard library only, and it must start on an old Python (3.6) too, in order to say that it is too old.
"""

import csv
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

OLDEST, NEWEST = (3, 11), (3, 13)
GIGABYTE = 10**9
# Measured on Linux, where torch brings its CUDA libraries: 6.4 GB installed, 2.8 GB of downloads beside it for a while.
NEEDED = 10 * GIGABYTE if sys.platform.startswith("linux") else 3 * GIGABYTE
CANDIDATES = ("python3.13", "python3.12", "python3.11", "python3", "python")
ASK = (
    "import sys\n"
    "try:\n    import venv, ensurepip; ok = 1\nexcept ImportError:\n    ok = 0\n"
    "print('{}.{}.{} {}'.format(*sys.version_info[:3], ok))"
)


class SetupError(Exception):
    """What is missing and what to do, in plain words."""


# --- Which Python ---------------------------------------------------------------------------------------------------


def judge(version):
    """Return "" for a supported (major, minor, ...) version, else "too old" or "too new"."""
    if tuple(version[:2]) < OLDEST:
        return "too old"
    return "too new" if tuple(version[:2]) > NEWEST else ""


def probe(command):
    """Return (version, has_venv) of an interpreter, or None when it is missing or does not start."""
    try:
        done = subprocess.run(
            [command, "-c", ASK], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60, env=clean_environment()
        )
        version, has_venv = done.stdout.decode().split()
        return tuple(int(part) for part in version.split(".")), has_venv == "1"
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def choose(candidates, ask=probe):
    """Return (command, version) of the first suitable interpreter; SetupError says what was found instead."""
    seen = []
    for command in candidates:
        answer = ask(command)
        if answer is None:
            continue
        version, has_venv = answer
        text = "{} is Python {}".format(command, ".".join(str(part) for part in version))
        fault = judge(version)
        if not fault and has_venv:
            return command, version
        if not fault:
            seen.append(
                text
                + ", but its venv module is missing (Debian, Ubuntu: sudo apt install python{}.{}-venv)".format(
                    *version
                )
            )
        elif fault == "too old":
            seen.append(text + ", which is too old")
        else:
            seen.append(text + ", which is too new: the locked packages are not tested with it yet")
    lines = ["No suitable Python: this project needs Python {}.{} to {}.{}.".format(*OLDEST, *NEWEST)]
    lines += ["  " + line for line in seen] or ["  None of these starts: " + ", ".join(candidates)]
    lines.append(
        "What to do: install one beside the others (python.org, your system's packages, conda or pyenv), then run the\n"
        "same command again. If it has an unusual name or place: make book PYTHON=path/to/python3.12"
    )
    raise SetupError("\n".join(lines))


# --- Is everything there already? -----------------------------------------------------------------------------------


def venv_python(root):
    """Return the path of the environment's interpreter."""
    folder = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    return root / ".venv" / folder


def venv_version(root):
    """Return the (major, minor, micro) version of the environment, or None when it has no working interpreter."""
    try:
        text = (root / ".venv" / "pyvenv.cfg").read_text(encoding="utf8")
        # exists() follows the link: an interpreter that was removed since leaves a dangling one.
        if not venv_python(root).exists():
            return None
        return tuple(int(part) for part in re.search(r"(?m)^version\s*=\s*(\d+)\.(\d+)\.(\d+)", text).groups())
    except (OSError, AttributeError):
        return None


def fingerprint(root, version):
    """Return a hash over all that decides what is installed: the two files, the Python version, and the place.

    The place counts because an environment that was moved or copied holds absolute paths to the old one.
    """
    digest = hashlib.sha256()
    for part in (
        (root / "pyproject.toml").read_bytes(),
        (root / "requirements.lock").read_bytes(),
        repr(tuple(version)).encode(),
        str(root).encode(),
    ):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def moved(root):
    """Return True when the environment was made in another place: its programs name their interpreter in full."""
    pip = venv_python(root).with_name("pip")
    return pip.is_file() and str(venv_python(root).parent).encode() not in pip.read_bytes()[:500]


def stamp_path(root):
    """Return where the fingerprint of the last complete set-up is kept."""
    return root / ".venv" / "setup.stamp"


def is_current(root):
    """Return True when the environment is complete and was made from the present files."""
    version = venv_version(root)
    try:
        return version is not None and stamp_path(root).read_text() == fingerprint(root, version)
    except OSError:
        return False


def write_stamp(root):
    """Record a complete set-up; the very last step, and atomic, so that an interrupted one leaves no stamp."""
    partial = stamp_path(root).with_name("setup.stamp.part")
    partial.write_text(fingerprint(root, venv_version(root)))
    os.replace(str(partial), str(stamp_path(root)))


# --- Repair ---------------------------------------------------------------------------------------------------------


def site_packages(root):
    """Return the environment's folder of installed packages, or None."""
    found = sorted((root / ".venv").glob("lib*/python3*/site-packages")) + sorted(
        (root / ".venv").glob("Lib/site-packages")
    )
    return found[0] if found else None


def damaged(site):
    """Return the metadata folders whose package is incomplete: no installer's mark, or a file lost or of wrong size."""
    bad = []
    for info in sorted(site.glob("*.dist-info")):
        record = info / "RECORD"
        # pip writes INSTALLER after all files of the package are in place.
        if not (info / "INSTALLER").is_file() or not record.is_file():
            bad.append(info)
            continue
        with open(str(record), newline="", encoding="utf8") as lines:
            for row in csv.reader(lines):
                if len(row) != 3 or not row[2] or row[0].endswith(".pyc"):
                    continue
                try:
                    if os.stat(os.path.join(str(site), row[0])).st_size != int(row[2]):
                        bad.append(info)
                        break
                except OSError:
                    bad.append(info)
                    break
    return bad


def repair(root):
    """Forget packages that an interrupted set-up left half-written, so that pip installs them again; return names."""
    site = site_packages(root)
    if site is None:
        return []
    for leftover in site.glob("~*"):  # pip's own waste after an interrupted replacement
        shutil.rmtree(str(leftover), ignore_errors=True)
    folders = damaged(site)
    for folder in folders:
        shutil.rmtree(str(folder))
    return [folder.name.split("-")[0] for folder in folders]


# --- Disk, network --------------------------------------------------------------------------------------------------


def folder_size(folder):
    """Return the bytes that the files under a folder occupy."""
    total = 0
    for parent, _, names in os.walk(str(folder)):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except OSError:
                pass
    return total


def check_disk(free, present, needed=NEEDED):
    """Raise SetupError unless free bytes plus those already installed cover what a set-up needs."""
    if free + present < needed:
        raise SetupError(
            f"Not enough disk space: set-up needs about {needed / GIGABYTE:.0f} GB here, "
            f"{free / GIGABYTE:.1f} GB are free.\n"
            f"What to do: make {(needed - free - present) / GIGABYTE:.1f} GB of room on this disk, then run the same "
            "command again; nothing is lost."
        )


EXPLANATIONS = (
    (
        r"No space left on device|Errno 28",
        f"The disk became full.\nWhat to do: make room (set-up needs about {NEEDED / GIGABYTE:.0f} GB), then run the "
        "same command again; it continues.",
    ),
    (
        r"DO NOT MATCH THE HASHES",
        "A downloaded package is not the one that requirements.lock names: the download was damaged, or changed on the "
        "way.\nWhat to do: run the same command again; if it happens again, tell us which package (see the log).",
    ),
    (
        r"NewConnectionError|NameResolutionError|Name or service not known|Temporary failure in name resolution|"
        r"Network is unreachable|Connection refused|ConnectTimeout|Read timed out|ReadTimeout|ProxyError|"
        r"Connection (?:aborted|reset)|Cannot connect to proxy|IncompleteRead|from versions: none\)",
        "No network: the package index cannot be reached.\nWhat to do: check the connection (and HTTPS_PROXY, when you "
        "are behind a proxy), then run the same command again.",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLError",
        "The network answers, but its certificate is not trusted: often a company's proxy.\nWhat to do: ask for its "
        "certificate and name the file in the variable PIP_CERT, then run the same command again.",
    ),
    (
        r"No matching distribution found|Could not find a version",
        "A locked package has no build for this machine and Python.\nWhat to do: try another Python ({}.{} to {}.{}: "
        "make book PYTHON=python3.12), or use conda (README).".format(*OLDEST, *NEWEST),
    ),
    (
        r"Permission denied|Errno 13",
        "A file cannot be written.\nWhat to do: check that this folder is yours, then run the same command again.",
    ),
)


def explain(log):
    """Return what a failed installation means, from the text that pip wrote."""
    for pattern, meaning in EXPLANATIONS:
        if re.search(pattern, log):
            return meaning
    tail = "\n".join("  " + line[:200] for line in log.strip().splitlines()[-8:])
    return "The installation failed; its last words were:\n" + tail


# --- Installing -----------------------------------------------------------------------------------------------------


def clean_environment():
    """Return the environment without settings that would send pip or Python somewhere else than into `.venv`."""
    dropped = ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_REQUIRE_HASHES", "VIRTUAL_ENV")
    kept = {key: value for key, value in os.environ.items() if key not in dropped and not key.startswith("__PYVENV")}
    kept["PIP_USER"] = "0"
    kept["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    return kept


class Progress:
    """One line that moves on a terminal; elsewhere a line every 30 seconds."""

    def __init__(self, stream=None):
        self.stream = stream or sys.stdout
        self.live = self.stream.isatty()
        self.began = time.time()
        self.last = 0.0

    def show(self, text):
        seconds = time.time() - self.began
        if not self.live and time.time() - self.last < 30:
            return
        self.last = time.time()
        line = f"  {int(seconds) // 60}:{int(seconds) % 60:02d}  {text}"
        self.stream.write("\r\033[K" + line[:110] if self.live else line + "\n")
        self.stream.flush()

    def end(self):
        if self.live:
            self.stream.write("\r\033[K")
            self.stream.flush()


def describe(line, counts):
    """Update the counts from a line of pip's output; return what to show, or None for a line that says nothing new."""
    if line.startswith("Collecting "):
        counts["collected"] += 1
        return "fetching {} of about {}: {}".format(counts["collected"], counts["total"], line.split()[1])
    found = re.match(r"\s+Downloading (\S+?)(?:\.metadata)? \(([^)]*)\)", line)
    if found:
        name = found.group(1).rsplit("/", 1)[-1].split("-")[0]
        return "fetching {} of about {}: {} ({})".format(counts["collected"], counts["total"], name, found.group(2))
    if line.startswith("Installing collected packages"):
        counts["writing"] = True
        return "everything is here"
    if "Retrying" in line:
        return "the network is slow or missing; trying again"
    return None


def written(root, total):
    """Return how far pip is while it says nothing: it writes package after package."""
    site = site_packages(root)
    return "; written {} of about {}".format(len(list(site.glob("*.dist-info"))), total) if site else ""


def run(command, root, progress, counts):
    """Run one step, showing progress; SetupError explains a failure. The full output goes to .venv/setup.log."""
    temporary = root / ".venv" / "tmp"  # on the disk that was measured, not on a small /tmp
    temporary.mkdir(exist_ok=True)
    environment = dict(clean_environment(), TMPDIR=str(temporary), TMP=str(temporary), TEMP=str(temporary))
    log = root / ".venv" / "setup.log"
    lines = []
    state = {"text": "starting"}
    process = subprocess.Popen(
        command, cwd=str(root), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )

    def read():
        with open(str(log), "a", encoding="utf8") as out:
            for raw in process.stdout:
                line = raw.decode("utf8", "replace")
                out.write(line)
                lines.append(line)
                state["text"] = describe(line, counts) or state["text"]

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        while process.poll() is None:
            progress.show(state["text"] + (written(root, counts["total"]) if counts["writing"] else ""))
            time.sleep(0.2)
    except BaseException:  # Ctrl-C: leave no orphan that goes on writing
        process.terminate()
        process.wait()
        raise
    finally:
        progress.end()
        shutil.rmtree(str(temporary), ignore_errors=True)
    reader.join()
    if process.returncode < 0:
        raise SetupError(
            f"The installation was stopped by signal {-process.returncode} (9: often no memory left).\n"
            "What to do: close other programs, then run the same command again; it continues."
        )
    if process.returncode:
        raise SetupError("{}\n(The whole log: .venv/{})".format(explain("".join(lines)), log.name))


def make_environment(root, command):
    """Create `.venv` anew with the given interpreter."""
    done = subprocess.run(
        [command, "-m", "venv", "--clear", str(root / ".venv")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=clean_environment(),
    )
    if done.returncode:
        raise SetupError(
            "The virtual environment could not be made.\n" + explain(done.stdout.decode("utf8", "replace"))
        )


def set_up(root, wanted=None, say=print, needed=NEEDED):
    """Bring `.venv` up to date; return True when something had to be done."""
    version = venv_version(root)
    command = None
    if wanted:
        command, wanted_version = choose((wanted,))
        if version is not None and version[:2] != wanted_version[:2]:
            say(f"{wanted} is another Python than that of .venv: making .venv anew.")
            version = None
    if version is not None and is_current(root):
        return False
    if version is not None and moved(root):
        say("The repository was moved or copied: making .venv anew.")
        version = None
    present = folder_size(root / ".venv")
    check_disk(shutil.disk_usage(str(root)).free, present, needed)
    if version is None or judge(version) or site_packages(root) is None or not has_pip(root):
        if command is None:
            command, version = choose(CANDIDATES)
        say(f"Making the virtual environment .venv with {command}.")
        make_environment(root, command)
        version = venv_version(root)
    else:
        if stamp_path(root).exists():
            say("The list of packages changed: bringing .venv up to date.")
            stamp_path(root).unlink()
        else:
            say("The last set-up did not finish: continuing it.")
        mended = repair(root)
        if mended:
            say("Half-written packages are installed again: " + ", ".join(mended))
    total = len(re.findall(r"(?m)^[\w.-]+==", (root / "requirements.lock").read_text(encoding="utf8")))
    say(f"Installing the {total} locked packages: up to 3 GB, 3 to 4 minutes on a fast line, once.")
    counts = {"collected": 0, "total": total, "writing": False}
    progress = Progress()
    pip = [str(venv_python(root)), "-m", "pip", "install", "--progress-bar", "off", "--no-input"]
    run([*pip, "--require-hashes", "-r", "requirements.lock"], root, progress, counts)
    run([*pip, "--no-deps", "--no-build-isolation", "-e", "."], root, progress, counts)
    write_stamp(root)
    say(f"Set-up is complete ({time.time() - progress.began:.0f} s).")
    return True


def has_pip(root):
    """Return True when pip starts in the environment; an interruption may have come before it was there."""
    command = [str(venv_python(root)), "-m", "pip", "--version"]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=clean_environment())
    return done.returncode == 0


def main():
    """Set up the repository this file lies in (or the folder given as the one argument)."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parents[1]).resolve()
    try:
        set_up(root, os.environ.get("PYTHON") or None, say=lambda text: print(text, flush=True))
    except SetupError as error:
        print(f"\nSet-up stopped. {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nSet-up was interrupted; the same command continues it.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
