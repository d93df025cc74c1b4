"""A pytest plugin for tools/notebooks.py check: notes what each notebook's kernel used, just before nbval kills it.

One JSON file per notebook in the folder named by COURSE_USAGE. (nbval ends kernels by SIGKILL, so that an exit
handler inside the kernel would never run; the kernel is asked while it still lives.)
"""

import ast
import json
import os
import sys
import time
from pathlib import Path
from queue import Empty

import pytest

# Imported by jsonschema (nbformat) where it is installed, for 2.6 CPU seconds in each process; it does without.
sys.modules.setdefault("rfc3987_syntax", None)


def ask(client, expression: str, *, timeout: float = 30):
    """Return the value of an expression in the kernel of a blocking client, or None when it does not answer."""
    request = client.execute("", silent=True, store_history=False, user_expressions={"answer": expression})
    end = time.monotonic() + timeout
    while (left := end - time.monotonic()) > 0:
        try:
            message = client.get_shell_msg(timeout=left)
        except Empty:
            break
        if message["parent_header"].get("msg_id") == request:
            answer = message["content"].get("user_expressions", {}).get("answer", {})
            return ast.literal_eval(answer["data"]["text/plain"]) if answer.get("status") == "ok" else None
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item, nextitem):
    kernel = getattr(item.parent, "kernel", None)
    last = nextitem is None or nextitem.parent is not item.parent
    if not last or kernel is None or not kernel.is_alive():
        return
    used = ask(kernel.kc, os.environ["COURSE_USAGE_EXPRESSION"])
    if used is not None:
        path = Path(os.environ["COURSE_USAGE"]) / f"{item.path.stem}.json"
        path.write_text(json.dumps(used), encoding="utf8")
