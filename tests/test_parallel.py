"""parallel: two processes equal one, ranks stay equal, one checkpoint, clear refusals; the wrapper's trap is real."""

import copy
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from course_utils import data, losses, parallel, train

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
        env={name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}
        | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [torch.load(f"{out}.{rank}") for rank in range(processes)]


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """The results of a single process, and of the first and the second of two."""
    folder = tmp_path_factory.mktemp("parallel")
    results = *run(folder, 1), *run(folder, 2)
    results[1]["files"] = sorted(path.name for path in (folder / "2").iterdir())
    return results


def furthest(a, b):
    return max(float((a["numbers"][name] - b["numbers"][name]).abs().max()) for name in a["numbers"])


@pytest.mark.parametrize("kind", ["classifier", "vae", "gan", "gan_r1", "wgan_gp"])
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


def test_only_the_first_process_writes_the_checkpoint_and_shows_the_bar(ends):
    assert ends[1]["files"] == ["0.pt", "stopped.pt"]  # each process named its file after itself: no 1.pt
    one, first, second = (results["stderr"] for results in ends)
    assert "2/2" in one and "2/2" in first and "loss=" in first
    assert second == ""


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


def test_an_uneven_end_is_refused_before_the_first_step(ends):
    for results in ends[1:]:
        from_batches, from_loader = results["uneven_end"]["said"]
        assert "a batch of 15 rows does not divide evenly among 2 processes" in from_batches
        assert from_loader == from_batches
        assert results["uneven_end"]["steps"] == 0


@pytest.mark.parametrize(
    ("rows", "size", "drop_last", "sizes"),
    [(12, 4, False, [4]), (13, 4, False, [4, 1]), (13, 4, True, [4]), (3, 4, False, [3]), (4, 4, True, [4])],
)
def test_the_sizes_of_coming_batches_are_known(rows, size, drop_last, sizes):
    part = data.load("digits").select(slice(rows))
    for source in (
        data.batches(part, size, torch.Generator(), drop_last=drop_last),
        torch.utils.data.DataLoader(torch.zeros(rows, 1), size, drop_last=drop_last),
    ):
        assert train._known_sizes(source) == sizes
        assert sorted({len(x[0]) if isinstance(x, tuple) else len(x) for x in source}) == sorted(sizes)


def test_of_other_batches_the_sizes_are_not_known():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from torch.zeros(3, 1)

    order = torch.utils.data.BatchSampler(range(5), 2, False)
    for source in (
        [(torch.zeros(3, 1), None)],
        torch.utils.data.DataLoader(Stream(), 2),
        torch.utils.data.DataLoader(torch.zeros(5, 1), batch_sampler=order),
    ):
        assert train._known_sizes(source) == []


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


@pytest.mark.parametrize("place", [(0, 2), (1, 2), (2, 3)])
def test_the_penalty_takes_its_rows_of_one_draw(monkeypatch, place):
    """ε of a share is what a single process would have drawn for these rows, and the generator ends where its would."""
    rank, count = place
    rows, seen = 12 // count, []

    def critic(x):
        seen.append(x.detach().flatten())
        return x.sum(1)

    alone, mine = (torch.Generator().manual_seed(1) for _ in range(2))
    losses.gradient_penalty(critic, torch.zeros(12, 1), torch.ones(12, 1), alone)
    monkeypatch.setattr(parallel, "place", lambda: place)
    losses.gradient_penalty(critic, torch.zeros(rows, 1), torch.ones(rows, 1), mine)
    assert torch.equal(seen[1], seen[0][rank * rows : (rank + 1) * rows])
    assert torch.equal(mine.get_state(), alone.get_state())


@pytest.mark.parametrize(
    ("origin", "goal", "queued"), [("cpu", "cuda", True), ("cuda", "cuda", False), ("cpu", "cpu", False)]
)
def test_a_draw_for_a_gpu_does_not_wait_for_it(origin, goal, queued):
    asked = []

    class Drawn:
        def __getitem__(self, rows):
            return self

        def to(self, device, *, non_blocking):
            asked.append((device.type, non_blocking))

    def sample(shape, *, generator, device, dtype, pin_memory):
        asked.append(pin_memory)
        return Drawn()

    rng = SimpleNamespace(device=torch.device(origin))
    parallel.draw((2, 3), rng, torch.float32, sample=sample, device=torch.device(goal))
    assert asked == [queued, (goal, queued)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("sample", [torch.randn, torch.rand])
def test_a_draw_on_the_cpu_reaches_the_gpu_unharmed(sample):
    """The pinned memory is handed back while its copy may still be under way: nothing may overwrite it before."""
    rngs = [torch.Generator().manual_seed(0) for _ in range(2)]
    there = [
        parallel.draw((1000, 10), rngs[0], torch.float32, sample=sample, device=torch.device("cuda")) for _ in range(50)
    ]
    for numbers in there:
        assert torch.equal(numbers.cpu(), sample((1000, 10), generator=rngs[1]))


# What the processes compare before the first step


def moved(change=None):
    """An Adam after one step; `change` adds to a single number of its state."""
    weights = torch.linspace(-1, 1, 5000).requires_grad_()  # printed, most of them would be an ellipsis
    optimiser = torch.optim.Adam([weights], 1e-3)
    weights.square().sum().backward()
    optimiser.step()
    if change:
        optimiser.state[weights]["exp_avg_sq"][2500] += change
    return optimiser


def test_every_number_of_an_optimiser_counts():
    assert parallel._digest(moved()) == parallel._digest(moved())
    assert parallel._digest(moved()) != parallel._digest(moved(1e-12))
    rate = moved()
    rate.param_groups[0]["lr"] = 1.0000001e-3
    assert parallel._digest(moved()) != parallel._digest(rate)


def test_state_that_looks_alike_is_told_apart():
    zeros = torch.zeros(2, 2)
    different = [
        zeros, zeros.flatten(), zeros.double(), zeros.int(), torch.tensor([[0.0, 0.0], [0.0, -0.0]]), [zeros],
        {"a": zeros}, {"a": [1, 2]}, {"a": [12]}, {"a": "1"}, {"a": 1}, {"a": True}, {"a": None}, {1: 1}, {"1": 1},
        [[1], 2], [[1, 2]], [1, 2], {"a": {"b": 1}}, {"a": {}, "b": 1},
        torch.Generator().manual_seed(1), torch.Generator().manual_seed(2),
    ]  # fmt: skip
    assert len({parallel._digest(value) for value in different}) == len(different)
    assert parallel._digest({"a": 1, "b": zeros}) == parallel._digest({"b": zeros.clone(), "a": 1})
    assert parallel._digest([lambda: 1]) == parallel._digest([lambda: 1])  # another address in each process


class OnCard(torch.Tensor):
    """What a tensor on a second GPU shows without one: that device, its text, and its numbers after `.cpu()`."""

    @staticmethod
    def __new__(cls, numbers):
        shown = torch.Tensor._make_wrapper_subclass(cls, numbers.shape, dtype=numbers.dtype, device="cuda:1")
        shown.numbers = numbers
        return shown

    def __repr__(self):
        return repr(self.numbers)[:-1] + f", device='{self.device}')"

    def detach(self):
        return self

    def cpu(self):
        return self.numbers

    @classmethod
    def __torch_dispatch__(cls, function, *_):
        raise NotImplementedError(f"{function} on a GPU that is not there")


def test_the_device_does_not_count():
    here = moved().state_dict()
    there = copy.deepcopy(here)
    there["state"][0] = {name: OnCard(value) for name, value in there["state"][0].items()}
    assert str(there) != str(here) and "cuda:1" in str(there)
    assert parallel._digest(there) == parallel._digest(here)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_device_does_not_count_on_a_gpu():
    net = nn.Linear(30, 30)
    assert parallel._digest(net) == parallel._digest(copy.deepcopy(net).cuda())


# Starting


def pretend(monkeypatch, *, gpus, local, here):
    """torchrun and GPUs that are not there; returns what `start` calls, in order."""
    calls = []
    monkeypatch.setattr(parallel.dist, "is_torchelastic_launched", lambda: True)
    monkeypatch.setattr(parallel.dist, "is_initialized", lambda: False)
    monkeypatch.setattr(parallel.dist, "init_process_group", lambda backend: calls.append(("join", backend)))
    monkeypatch.setattr(parallel.dist, "get_rank", lambda: local)
    monkeypatch.setattr(parallel.dist, "get_world_size", lambda: here)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: calls.append(("set", device)))
    monkeypatch.setattr(parallel.atexit, "register", lambda function: None)
    monkeypatch.setenv("LOCAL_RANK", str(local))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(here))
    return calls


def test_a_process_takes_its_gpu_before_it_joins(monkeypatch):
    calls = pretend(monkeypatch, gpus=2, local=1, here=2)
    assert parallel.start() == (1, 2)
    assert calls == [("set", 1), ("join", "cpu:gloo,cuda:nccl")]  # the other order puts both on the first GPU


def test_without_a_gpu_the_processes_join_on_the_cpu(monkeypatch):
    calls = pretend(monkeypatch, gpus=0, local=1, here=2)
    assert parallel.start() == (1, 2)
    assert calls == [("join", "cpu:gloo")]


def test_fewer_gpus_than_processes(monkeypatch):
    calls = pretend(monkeypatch, gpus=2, local=0, here=3)
    with pytest.raises(ValueError, match="3 processes share 2 GPUs"):
        parallel.start()
    assert calls == []


# Warnings, advice and the generators of the GPUs, with two processes that are only said to be there


@pytest.fixture
def two(monkeypatch):
    monkeypatch.setattr(parallel, "place", lambda: (1, 2))
    monkeypatch.setattr(parallel, "_same_start", lambda everything: None)
    return monkeypatch


@pytest.mark.parametrize(("layer", "count"), [(nn.SyncBatchNorm, 0), (nn.BatchNorm2d, 1)])
def test_statistics_of_all_processes_need_no_warning(two, layer, count):
    two.setattr(parallel, "place", lambda: (0, 2))
    net = nn.Sequential(nn.Conv2d(1, 2, 1), layer(2))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with parallel.together({"net": net, "optimiser": torch.optim.SGD(net.parameters(), 0.1)}):
            pass
    assert len(caught) == count


@pytest.mark.parametrize(
    ("rows", "advice"), [(12, "try a batch size of 6"), (6, "try a batch size of 2"), (2, "the net itself")]
)
def test_full_memory_names_the_whole_batch_and_the_share(two, rows, advice):
    def greedy(x, y):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    net = nn.Linear(2, 1)
    state = {"net": net, "optimiser": torch.optim.SGD(net.parameters(), 0.1)}
    said = rf"a batch of {rows} \({rows // 2} in each of 2 processes\) × \(2,\): {advice}"
    with pytest.raises(torch.OutOfMemoryError, match=said):
        train.fit(greedy, [(torch.zeros(rows, 2), None)], 1, state=state, progress=False)


def test_a_resumed_process_takes_up_the_gpu_generator_of_the_first(two, tmp_path):
    """The file holds what process 0 knows: its own generator, on GPU 0, and that of GPU 1, which it never used."""
    net = nn.Linear(2, 1)
    path, restored = tmp_path / "run.pt", []
    train._save(path, {"net": net}, [{"a": 1.0}])
    payload = torch.load(path)
    payload["cuda_rng"] = [torch.full((16,), number, dtype=torch.uint8) for number in (7, 0)]
    torch.save(payload, path)
    two.setattr(torch.cuda, "is_available", lambda: True)
    two.setattr(torch.cuda, "device_count", lambda: 2)
    two.setattr(torch.cuda, "set_rng_state", lambda state: restored.append(state[0].item()))
    two.setattr(torch.cuda, "set_rng_state_all", lambda states: restored.append("all"))
    train._resume(path, {"net": net}, 2)
    two.setattr(parallel, "place", lambda: (0, 1))
    train._resume(path, {"net": net}, 2)
    assert restored == [7, "all"]
