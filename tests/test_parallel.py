"""parallel: two processes equal one, ranks stay equal, one checkpoint, clear refusals; the wrapper's trap is real."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from course_utils import parallel, train

CHILD = Path(__file__).with_name("parallel_child.py")
pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch without torch.distributed")


def run(folder, processes):
    """Let the child train everything; return what each process wrote. Alone it runs without torchrun."""
    out = folder / f"of_{processes}"
    (folder / str(processes)).mkdir()
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    done = subprocess.run(
        [sys.executable, *launcher, str(CHILD), str(out), str(folder / str(processes))],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [torch.load(f"{out}.{rank}") for rank in range(processes)]


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """The results of a single process, and of the first and the second of two."""
    folder = tmp_path_factory.mktemp("parallel")
    return *run(folder, 1), *run(folder, 2)


def furthest(a, b):
    return max(float((a["numbers"][name] - b["numbers"][name]).abs().max()) for name in a["numbers"])


@pytest.mark.parametrize("kind", ["classifier", "vae", "gan"])
def test_two_processes_equal_one_over_twenty_steps(ends, kind):
    one, first, second = (results[kind] for results in ends)
    assert furthest(one, first) < 1e-5
    assert furthest(first, second) == 0
    assert first["history"] == second["history"]
    for alone, both in zip(one["history"], first["history"], strict=True):
        assert both == pytest.approx(alone, rel=1e-5)
    assert torch.equal(one["rng"], first["rng"]) and torch.equal(first["rng"], second["rng"])


def test_a_run_in_two_processes_goes_on_where_it_stopped(ends):
    for results in ends:
        assert furthest(results["whole"], results["resumed"]) == 0
        assert results["whole"]["history"] == results["resumed"]["history"]


def test_the_wrapper_leaves_other_gradients_where_a_penalty_has_its_own_backward(ends):
    assert furthest(ends[1]["wrapped"], ends[2]["wrapped"]) > 1e-4


def test_batch_norm_gets_one_warning(ends):
    assert [len(results["warnings"]) for results in ends[1:]] == [1, 0]
    assert "'net' has BatchNorm" in ends[1]["warnings"][0]


def test_refusals_reach_every_process(ends):
    for results in ends[1:]:
        other_seed, uneven = results["refusals"]
        assert "process 1 starts with another 'net' than process 0" in other_seed
        assert "a batch of 27 rows does not divide evenly among 2 processes" in uneven


def test_alone_nothing_happens():
    assert parallel.place() == parallel.start() == (0, 1)
    x = torch.arange(6)
    assert parallel.share(x) is x and parallel.share(None) is None and parallel.total(x) is x
    rngs = [torch.Generator().manual_seed(3) for _ in range(2)]
    assert torch.equal(parallel.draw((4, 2), rngs[0], torch.float32), torch.randn(4, 2, generator=rngs[1]))
    net = nn.Linear(1, 1)
    with parallel.together({"net": net}):  # no optimiser needed
        pass


def test_several_processes_need_an_optimiser_and_a_state(monkeypatch):
    monkeypatch.setattr(parallel, "place", lambda: (0, 2))
    with pytest.raises(ValueError, match="several processes"):
        train.fit(lambda x, y: {"a": x.mean()}, [(torch.zeros(2, 1), None)], 1, progress=False)
    monkeypatch.setattr(parallel, "_same_start", lambda everything: None)
    with pytest.raises(ValueError, match="no optimiser"), parallel.together({"net": nn.Linear(1, 1)}):
        pass


@pytest.mark.parametrize("place", [(0, 2), (1, 2), (2, 3)])
def test_shares_are_disjoint_and_draws_are_one_draw(monkeypatch, place):
    monkeypatch.setattr(parallel, "place", lambda: place)
    rank, count = place
    rows = 12 // count
    assert parallel.share(torch.arange(12)).tolist() == list(range(rank * rows, (rank + 1) * rows))
    whole = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    mine = parallel.draw((rows, 3), torch.Generator().manual_seed(1), torch.float32)
    assert torch.equal(mine, whole[rank * rows : (rank + 1) * rows])
