"""Run a command with every address but loopback refused.

    python tools/offline.py COMMAND [ARGUMENTS ...]

Two fences, each of which is enough for Python programs:

- a network namespace (Linux, where it is permitted) in which only `lo` exists: it holds every child, whatever it is
  written in;
- tests/offline/sitecustomize.py on PYTHONPATH: an audit hook in every Python process below, whose refusal says why.

One line on stderr says which of them stand.
"""

import ctypes
import os
import socket
import struct
import sys
from pathlib import Path

GUARD = Path(__file__).resolve().parents[1] / "tests" / "offline"
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1


def environment(base=None) -> dict[str, str]:
    """Return the environment (default: the present one) with the Python guard first on PYTHONPATH and no proxies."""
    base = os.environ if base is None else base
    # A proxy on loopback would be a way out.
    kept = {name: value for name, value in base.items() if not name.lower().endswith("_proxy")}
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [str(GUARD), base.get("PYTHONPATH")]))
    return kept


def command(words) -> list[str]:
    """Return the command line that runs `words` offline."""
    return [sys.executable, str(Path(__file__).resolve()), *map(str, words)]


def enter_namespace() -> str:
    """Move this process into a network of its own with only `lo`; return "" or the reason why it could not."""
    if not sys.platform.startswith("linux"):
        return f"network namespaces do not exist on {sys.platform}"
    reason = ""
    for flags in (CLONE_NEWNET, CLONE_NEWUSER | CLONE_NEWNET):
        # Tried in a child first: a network namespace whose `lo` cannot be brought up would be a trap.
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writer, _unshare(flags).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, encoding="utf8") as pipe:
            reason = pipe.read()
        os.waitpid(child, 0)
        if not reason:
            return _unshare(flags)
    return reason


def _unshare(flags: int) -> str:
    user, group = os.getuid(), os.getgid()
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(flags) != 0:
            raise OSError(ctypes.get_errno(), "unshare refused")
        if flags & CLONE_NEWUSER:  # keep one's own name, so that files keep their owner
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        _loopback_up()
    except (OSError, AttributeError) as error:
        return f"no network namespace ({error})"
    return ""


def _loopback_up() -> None:
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(handle, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(handle, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))


def main(words: list[str]) -> None:
    if not words:
        sys.exit(__doc__)
    reason = enter_namespace()
    fences = (
        "Python guard only, other programs are not held: " + reason if reason else "network namespace, Python guard"
    )
    print(f"offline: every address but loopback is refused ({fences})", file=sys.stderr, flush=True)
    try:
        os.execvpe(words[0], words, environment())
    except OSError as error:
        sys.exit(f"offline: cannot run {words[0]!r}: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
