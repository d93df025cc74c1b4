"""The code on the page about scaling out runs, and does what the page says of it."""

import io
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

PAGE = Path(__file__).resolve().parents[1] / "book/scaling_out.md"


@pytest.fixture(scope="module")
def page():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    names = {}
    for block in blocks:
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
