"""tools/offline.py: nothing but loopback answers, neither to a process nor to what it starts.

192.0.2.1 belongs to the block reserved for documentation and names under .invalid never exist: no test can reach
anybody's host, guarded or not.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
_spec = importlib.util.spec_from_file_location("offline", ROOT / "tools" / "offline.py")
offline = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(offline)

REFUSAL = "this run is offline"
CONNECT = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=0.5)"
CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CONNECT!r}], check=True)"
GRANDCHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}], check=True)"
TRIES = {
    "connect": CONNECT,
    "connect to a name": "import socket; socket.socket().connect(('host.invalid', 80))",
    "connect_ex": "import socket; socket.socket().connect_ex(('192.0.2.1', 80))",
    "datagram": "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 9))",
    "IPv6": "import socket; socket.socket(socket.AF_INET6).connect(('2001:db8::1', 80))",
    "mapped IPv4": "import socket; socket.socket(socket.AF_INET6).connect(('::ffff:192.0.2.1', 80))",
    "name": "import socket; socket.getaddrinfo('host.invalid', 80)",
    "old name lookup": "import socket; socket.gethostbyname('host.invalid')",
    "reverse lookup": "import socket; socket.gethostbyaddr('192.0.2.1')",
    "urllib": "import urllib.request; urllib.request.urlopen('http://host.invalid/', timeout=0.5)",
    "asyncio": "import asyncio; asyncio.run(asyncio.open_connection('192.0.2.1', 80))",
    "below socket": "import _socket; _socket.socket().connect(('192.0.2.1', 80))",
    "child": CHILD,
    "grandchild": GRANDCHILD,
}
# A server and its client in one process, by address and by name, and a pair of Unix sockets.
LOOPBACK = """
import http.server, socket, threading, urllib.request
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
threading.Thread(target=server.serve_forever, daemon=True).start()
for host in ("127.0.0.1", "localhost"):
    assert urllib.request.urlopen(f"http://{host}:{server.server_port}/", timeout=5).status == 200
one, other = socket.socketpair()
one.sendall(b"x")
assert other.recv(1) == b"x"
print("loopback answers")
"""


def run(words, *, env=None):
    return subprocess.run(words, env=env, capture_output=True, text=True, timeout=120, check=False)


def guarded(code: str):
    """Run code with the Python guard alone, as on a machine without network namespaces."""
    return run([sys.executable, "-c", code], env=offline.environment())


def has_namespace() -> bool:
    return "(network namespace" in run(offline.command([sys.executable, "-c", ""])).stderr


namespace = pytest.mark.skipif("not has_namespace()", reason="this machine permits no network namespace")


@pytest.mark.parametrize("name", TRIES)
def test_the_guard_refuses_and_says_why(name):
    done = guarded(TRIES[name])
    assert done.returncode != 0
    assert REFUSAL in done.stderr


@pytest.mark.parametrize("name", ["connect", "name", "grandchild"])
def test_planted_without_the_guard_nothing_intercepts(name):
    assert REFUSAL not in run([sys.executable, "-c", TRIES[name]]).stderr


def test_loopback_works_under_the_guard_and_under_both_fences():
    for done in (guarded(LOOPBACK), run(offline.command([sys.executable, "-c", LOOPBACK]))):
        assert done.returncode == 0, done.stderr
        assert "loopback answers" in done.stdout


@namespace
@pytest.mark.parametrize(
    "words",
    [
        [sys.executable, "-I", "-c", CONNECT],  # -I does not read PYTHONPATH: no guard
        ["bash", "-c", "exec 3<>/dev/tcp/192.0.2.1/80"],
        ["bash", "-c", f"bash -c 'exec 3<>/dev/tcp/192.0.2.1/80' || {sys.executable} -I -c \"{CONNECT}\""],
    ],
    ids=["isolated Python", "another program", "grandchildren"],
)
def test_the_namespace_holds_what_the_guard_cannot(words):
    done = run(offline.command(words))
    assert done.returncode != 0
    assert "unreachable" in done.stderr
    assert REFUSAL not in done.stderr


def test_a_kernel_and_its_children_are_refused(tmp_path):
    # The output of a kernel's child does not reach the cell by itself.
    tell = "import subprocess, sys; print(subprocess.run([sys.executable, '-c', {!r}], capture_output=True).stderr)"
    cells = [CONNECT, tell.format(CONNECT), tell.format(CHILD), f'!{sys.executable} -c "{CONNECT}"']
    driver = tmp_path / "driver.py"
    driver.write_text(
        "import sys; sys.modules['rfc3987_syntax'] = None  # slow to import, not needed\n"
        "import json, nbformat, nbclient\n"
        f"cells = [nbformat.v4.new_code_cell(source) for source in {cells!r}]\n"
        "notebook = nbformat.v4.new_notebook(cells=cells)\n"
        "nbclient.NotebookClient(notebook, kernel_name='python3', allow_errors=True, timeout=60).execute()\n"
        "for cell in notebook.cells:\n"
        f"    print('refused' if {REFUSAL!r} in json.dumps(cell.outputs) else cell.outputs)\n"
    )
    done = run(offline.command([sys.executable, driver]))
    assert done.stdout.split() == ["refused"] * len(cells), done.stdout + done.stderr


def test_exit_status_arguments_and_standard_output_pass_through():
    done = run(offline.command([sys.executable, "-c", "import sys; print(sys.argv[1]); sys.exit(7)", "a b"]))
    assert (done.returncode, done.stdout) == (7, "a b\n")
    assert "offline: every address but loopback is refused" in done.stderr


def test_what_cannot_run_is_named():
    done = run(offline.command(["no-such-program"]))
    assert done.returncode != 0
    assert "'no-such-program'" in done.stderr
    assert run(offline.command([])).returncode != 0


def test_the_environment_has_no_proxy_and_keeps_the_path():
    base = {"PYTHONPATH": "mine", "https_proxy": "http://127.0.0.1:1", "HTTP_PROXY": "x", "HOME": "there"}
    assert offline.environment(base) == {"HOME": "there", "PYTHONPATH": f"{offline.GUARD}:mine"}
