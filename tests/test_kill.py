"""Kill -9 at any moment; the same call again ends with exactly the numbers of the run that nobody disturbed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = Path(__file__).with_name("kill_child.py")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks, so that PyTorch is imported once and not once a kill")
def test_killed_and_resumed_equals_undisturbed(tmp_path):
    done = subprocess.run(
        [sys.executable, str(CHILD), str(tmp_path), "12", "0"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    reports = json.loads(done.stdout.splitlines()[-1])
    assert reports.keys() == {"vae", "gan"}
    assert sum(report["random"] for report in reports.values()) >= 20
    for report in reports.values():
        # Dead in the middle of the bytes, before the flush, before and after the rename; twice each.
        assert set(report["points"].values()) == {2} and len(report["points"]) == 4
        assert report["runs"] >= 5
        assert report["equal"] == report["runs"], report
        assert report["left over"] == [], "a half-written file was not cleaned up by the run that finished"
        # The same death with a writer that writes in place is noticed, not trained upon.
        assert "damaged" in report["planted"]
