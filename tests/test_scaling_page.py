"""The code on the page about scaling out runs, and does what the page says of it."""

import io
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from course_utils import nets

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "book/scaling_out.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
SCRIPT = [block for block in BLOCKS if "parallel.start()" in block]


@pytest.fixture(scope="module")
def page():
    assert len(BLOCKS) == 5 and len(SCRIPT) == 1
    names = {}
    for block in BLOCKS:
        if block not in SCRIPT:
            exec(compile(block, str(PAGE), "exec"), names)
    return names


def draw(rng):
    return torch.randint(256, (20, 1, 8, 8), generator=rng).to(torch.uint8)


def test_every_shard_of_every_run_draws_its_own_numbers(page):
    shards = {(run, shard): draw(page["shard_rng"](run, shard)) for run in range(4) for shard in range(4)}
    assert not page["same_twice"](list(shards.values()))
    assert torch.equal(shards[2, 3], draw(page["shard_rng"](2, 3))), "a shard can be made again"
    added = [draw(torch.Generator().manual_seed(run + shard)) for run in range(4) for shard in range(4)]
    assert page["same_twice"](added), "the check sees what the page warns of"


def test_a_shard_holds_images_and_facts_side_by_side(page, tmp_path):
    images = draw(torch.Generator().manual_seed(0))
    facts = [{"label": i % 10, "slant": i / 20} for i in range(20)]
    page["write_shard"](tmp_path / "0.tar", images, facts)
    with tarfile.open(tmp_path / "0.tar") as tar:
        names = tar.getnames()
        assert names == [f"{i:06}.{kind}" for i in range(20) for kind in ("png", "json")]
        for i in range(20):
            png = Image.open(io.BytesIO(tar.extractfile(names[2 * i]).read()))
            assert np.array_equal(np.asarray(png), images[i, 0].numpy())
            assert json.loads(tar.extractfile(names[2 * i + 1]).read()) == facts[i]
    with pytest.raises(ValueError, match="zip"):
        page["write_shard"](tmp_path / "1.tar", images, facts[:-1])


def test_the_numbers_on_the_page():
    text = PAGE.read_text(encoding="utf-8")
    assert f"needs {round(2 * 1e6 / 3600)} hours for a million" in text
    assert f"A file of {28 * 28} bytes" in text


def test_the_interval_between_checkpoints_is_the_cheapest():
    """Young's formula against the loss it minimises: δ/τ of the time to write, τ/2 to repeat per failure."""
    delta, mean_time = 0.05, 30.0
    interval = np.linspace(0.1, 20, 20_000)
    loss = delta / interval + interval / 2 / mean_time
    assert interval[loss.argmin()] == pytest.approx((2 * delta * mean_time) ** 0.5, rel=1e-3)


def test_the_example_of_several_machines_is_of_the_record(page):
    """A new record moves these numbers: the message holds the lines that belong on the page then."""
    text = PAGE.read_text(encoding="utf-8")
    weights = sum(p.numel() for p in nets.VAE(20).parameters())
    assert f"{weights:,} weights" in text
    ladder = json.loads((ROOT / "book/results/22_gpu_practice.json").read_text(encoding="utf-8"))["ladder"]["metrics"]
    rows, told = [], []
    for batch in (128, 2048):
        for n in (1, 2, 8):
            step, gain, price = page["several"](n, batch, ladder[str(batch)]["toolbox"], weights)
            rows.append(f"| {batch:,} | {n} | {1000 * step:.1f} | {gain:.1f} | {price:.2f} |")
        told.append(
            f"{gain:.1f} times as fast with batches of {batch:,} and make each image {n / gain:.1f} times as dear"
        )
    for line in ("\n".join(rows), *told):
        assert line in " ".join(text.split()) or line in text, f"the page should say:\n{line}"


def test_several_machines_as_the_formula_says(page):
    LINK, DELAY, PRICE = 1.25e9, 2e-4, 0.05
    assert (page["LINK"], page["DELAY"], page["PRICE"]) == (LINK, DELAY, PRICE)
    assert page["several"](1, 100, 50, 10**6) == pytest.approx((2, 1, PRICE * 1e8 / 50 / 3600))
    step, gain, price = page["several"](4, 100, 50, 10**6)
    assert step == pytest.approx(2 / 4 + 2 * 3 / 4 * 4e6 / LINK + DELAY)
    assert gain == pytest.approx(2 / step) and price == pytest.approx(PRICE * 4 * step * 1e6 / 3600)
    floor = 2 * 4e6 / LINK
    assert page["several"](10**6, 100, 50, 10**6)[1] < 2 / floor, "the speed-up stays below C by the floor"


@pytest.mark.slow
def test_the_script_trains_two_processes_as_one(tmp_path):
    (script,) = SCRIPT
    assert len([line for line in script.splitlines() if line]) < 10
    ends = {}
    for count in (1, 2):
        folder = tmp_path / str(count)
        folder.mkdir()
        (folder / "train.py").write_text(script + f"assert parallel.place()[1] == {count}, parallel.place()\n")
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
        settings = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "COURSE_RESULTS": str(folder)}
        done = subprocess.run(
            [sys.executable, *launcher, "train.py"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
            env=os.environ | settings,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert sorted(path.name for path in folder.iterdir()) == ["train.pt", "train.py"]
        ends[count] = torch.load(folder / "train.pt")
    assert ends[1]["epochs"] == ends[2]["epochs"] == 3
    one, two = (end["state"]["net"]["value"] for end in ends.values())
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-5
    assert ends[2]["history"][-1]["accuracy"] > 0.7
