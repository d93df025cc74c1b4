import copy
import io
import math
import os
import subprocess
import sys
import warnings
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import tqdm
from torch import nn

from course_utils import losses, session, train
from course_utils.data import ImageSet, batches, to_probability, to_signed
from course_utils.evaluate import paired_interval
from course_utils.nets import VAE, Classifier, Discriminator, Generator
from course_utils.rules import draw_digits
from course_utils.train import classifier_step, fit, gan_step, vae_step


def _rng(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def _set(count=20, size=8, seed=0):
    """Random bytes and labels: what is tested here is the loop, not the picture."""
    images = torch.randint(256, (count, 1, size, size), generator=_rng(seed)).to(torch.uint8)
    labels = torch.arange(count) % 3
    source = [f"noise/{i:03}" for i in range(count)]
    return ImageSet(images, labels, ("a", "b", "c"), np.array(source))


def _quiet(*args, **kwargs):
    return fit(*args, progress=False, **kwargs)


# Averages


def _mean_step(x, y):
    return {"mean": x.mean()}


def test_small_last_batch_counts_by_its_length():
    values = torch.arange(7.0)
    parts = [(part[:, None], None) for part in values.split(3)]  # 3, 3, 1
    (metrics,) = _quiet(_mean_step, parts, 1)
    assert metrics == {"mean": 3.0}
    assert sum(x.mean().item() for x, _ in parts) / 3 != pytest.approx(3.0)  # the mean of the means is another number


def test_history_has_one_dict_of_floats_for_each_epoch():
    history = _quiet(_mean_step, [(torch.ones(2, 1), None)], 3)
    assert history == [{"mean": 1.0}] * 3
    assert all(type(value) is float for metrics in history for value in metrics.values())


def test_sums_are_wide():
    """Many equal float32 terms: a float32 sum drifts, the average must not."""
    value = torch.tensor(0.1)
    parts = [(torch.zeros(1), None)] * 20_000
    (metrics,) = _quiet(lambda x, y: {"value": value}, parts, 1)
    assert metrics["value"] == pytest.approx(value.item(), rel=1e-12)
    narrow = torch.zeros(())
    for _ in parts:
        narrow += value
    assert narrow.item() / len(parts) != pytest.approx(value.item(), rel=1e-6)


def test_a_metric_of_some_batches_is_averaged_over_those():
    def step(x, y):
        measured = {"mean": x.mean()}
        if len(x) == 2:
            measured["pairs_only"] = x.mean()
        return measured

    parts = [(torch.full((1, 1), 5.0), None), (torch.full((2, 1), 1.0), None)]
    assert _quiet(step, parts, 1) == [{"mean": 7 / 3, "pairs_only": 1.0}]


def test_integer_and_bool_metrics_and_undetached_ones():
    weight = nn.Parameter(torch.tensor(2.0))

    def step(x, y):
        return {"whole": torch.tensor(3), "flag": torch.tensor(True), "graph": weight * 2}

    assert _quiet(step, [(torch.zeros(4), None)], 1) == [{"whole": 3.0, "flag": 1.0, "graph": 4.0}]


def test_metrics_of_different_types_keep_their_digits_and_their_order():
    """In one float32 tensor with the others the count would become 16777216. The last batch is summed in one."""
    measured = [
        {"loss": torch.tensor(1.0), "count": torch.tensor(2**24 + 1), "wide": torch.tensor(0.1, dtype=torch.float64)},
        {"loss": torch.tensor(3.0), "late": torch.tensor(5.0), "count": torch.tensor(2**24 + 1)},
        {"late": torch.tensor(7.0), "loss": torch.tensor(2.0)},
        {"loss": torch.tensor(6.0), "later": torch.tensor(9.0), "late": torch.tensor(3.0)},
    ]
    parts = [(torch.full((1,), number), None) for number in range(4)]
    (metrics,) = _quiet(lambda x, y: measured[int(x)], parts, 1)
    assert metrics == {"loss": 3.0, "count": 2.0**24 + 1, "wide": 0.1, "late": 5.0, "later": 9.0}
    assert list(metrics) == ["loss", "count", "wide", "late", "later"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_metrics_on_two_devices():
    def step(x, y):
        return {"here": x.mean(), "there": x.mean().cuda() * 2}

    parts = [(torch.full((2,), 1.0), None), (torch.full((2,), 2.0), None)]
    assert _quiet(step, parts, 1) == [{"here": 1.5, "there": 3.0}]


def test_every_epoch_draws_a_new_order_from_the_batches():
    seen = []
    part = _set(9)
    _quiet(lambda x, y: seen.append(y.tolist()) or {"n": torch.tensor(1.0)}, batches(part, 9, _rng()), 3)
    assert len(seen) == 3 and seen[0] != seen[1] != seen[2]
    assert sorted(seen[0]) == sorted(seen[1])


class _Reads:
    """Counts how often a tensor is turned into a number, which makes a GPU wait."""

    NAMES = ("item", "tolist", "__float__", "__int__", "__bool__", "numpy", "cpu")

    def __init__(self, monkeypatch):
        self.count = 0
        for name in self.NAMES:
            original = getattr(torch.Tensor, name)

            def counted(tensor, *args, _original=original, **kwargs):
                self.count += 1
                return _original(tensor, *args, **kwargs)

            monkeypatch.setattr(torch.Tensor, name, counted)


def test_one_read_an_epoch(monkeypatch):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    step = classifier_step(net, torch.optim.SGD(net.parameters(), 0.1))
    source = batches(_set(20), 2, _rng())
    step(*next(iter(source)))
    parts = list(source)
    reads = _Reads(monkeypatch)
    _quiet(step, parts, 3)
    assert reads.count == 3

    reads.count = 0
    _quiet(lambda x, y: {"loss": torch.tensor(step(x, y)["loss"].item())}, parts, 3)  # planted: a read in each step
    assert reads.count == 3 + 3 * len(parts)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="asks the CUDA driver")
@pytest.mark.parametrize("kind", ["classifier", "vae", "gan"])
def test_one_wait_an_epoch_on_a_gpu(kind):
    """Without `on_epoch`: AveragedModel copies its counter to the GPU, a wait of its own for each dtype."""
    run = _Run(kind, device="cuda")
    _quiet(run.step, run.batches, 1)  # what is chosen or set up at the first use
    epochs = 3
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            _quiet(run.step, run.batches, epochs)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    read, order = 1, 1  # the sums; the order of the rows, which the batches drew on the CPU
    assert len([w for w in caught if "called a synchronizing" in str(w.message)]) == epochs * (read + order)


# Bad input


def _twice():
    return [(torch.ones(2, 1), None)]


class _OneShot:
    def __iter__(self):
        return self

    def __next__(self):
        raise StopIteration


@pytest.mark.parametrize("epochs", [0, -1, 1.0, True, None, "3"])
def test_bad_epochs(epochs):
    with pytest.raises(ValueError, match=f"epochs must be .*{epochs!r}"):
        _quiet(_mean_step, _twice(), epochs)


@pytest.mark.parametrize(
    "make", [lambda: iter(_twice()), lambda: (b for b in _twice()), lambda: zip([1], [2], strict=True), _OneShot]
)
def test_one_shot_iterators_are_refused(make):
    with pytest.raises(ValueError, match="read only once"):
        _quiet(_mean_step, make(), 2)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "no batch in epoch 0"),
        (None, "iterable of .x, y. pairs, got a NoneType"),
        ([torch.ones(3, 2)], r"pairs \(x, y\), got a tensor of shape \(3, 2\)"),
        ([(torch.ones(3), 1, 2)], "tuple of length 3"),
        ([(torch.ones(0, 2), None)], "empty batch in epoch 0"),
    ],
)
def test_bad_batches(bad, message):
    with pytest.raises(ValueError, match=message):
        _quiet(_mean_step, bad, 2)


@pytest.mark.parametrize(
    ("measured", "message"),
    [
        (None, "dict of 0-d tensors.*NoneType"),
        ({}, "dict of length 0"),
        (torch.zeros(()), "a tensor of shape"),
        ({"loss": 1.0}, "a float as 'loss'"),
        ({"loss": torch.zeros(1)}, r"shape \(1,\) as 'loss'"),
        ({"loss": torch.zeros(3, 2)}, r"shape \(3, 2\) as 'loss'"),
    ],
)
def test_bad_steps(measured, message):
    with pytest.raises(ValueError, match=message):
        _quiet(lambda x, y: measured, _twice(), 1)


# A run of each kind, built anew from the same seeds


class _Run:
    """Everything one run needs; two of them are equal at the start."""

    def __init__(self, kind, *, leave_out=(), device="cpu"):
        torch.manual_seed(1)
        rng = _rng(2, device)
        part = _set()
        if kind == "classifier":
            net = Classifier(3, width=2, dim=8, dropout=0.5).to(device)
            optimiser = torch.optim.Adam(net.parameters(), 1e-2)
            self.step = classifier_step(net, optimiser)
            self.nets = [net]
        elif kind == "vae":
            net = VAE(2, size=8, hidden=8).to(device)
            optimiser = torch.optim.Adam(net.parameters(), 1e-2)
            self.step = vae_step(net, optimiser, rng, beta=lambda n: min(1.0, n / 20))
            self.nets = [net]
        else:
            gen = Generator(3, size=8, width=2).to(device)
            disc = Discriminator(size=8, width=2).to(device)
            optimiser = torch.optim.Adam(gen.parameters(), 1e-3, betas=(0.0, 0.95))
            other = torch.optim.RMSprop(disc.parameters(), 1e-3)
            self.step = gan_step(gen, disc, optimiser, other, rng, latent=3)
            self.nets = [gen, disc]
        self.optimiser = optimiser
        self.batches = batches(part, 8, _rng(3), device=device)  # 8, 8, 4
        # A schedule and an averaged net, as a reader would add them: in on_epoch, handed over as state.
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda epoch: 0.7**epoch)
        self.average = torch.optim.swa_utils.AveragedModel(
            self.nets[0], multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5), use_buffers=True
        )
        self.state = {"scheduler": self.scheduler, "average": self.average}
        # Planted faults: leave something out of what is saved.
        for name in leave_out:
            if name == "batches.rng":
                self.batches = _Anonymous(self.batches)
            elif name in self.state:
                del self.state[name]
            else:
                self.step.state = {key: value for key, value in self.step.state.items() if key != name}

    def on_epoch(self, epoch, metrics):
        self.scheduler.step()
        self.average.update_parameters(self.nets[0])
        metrics["rate"] = self.optimiser.param_groups[0]["lr"]

    def fit(self, epochs, **kwargs):
        if "checkpoint" in kwargs:
            kwargs["state"] = self.state
        return _quiet(self.step, self.batches, epochs, on_epoch=self.on_epoch, **kwargs)

    def everything(self):
        entries = [*self.nets, self.average, self.optimiser, self.scheduler, *self.step.state.values()]
        values = [train._value(entry) for entry in entries]
        return [*values, torch.get_rng_state(), train._value(_inner(self.batches).rng)]


class _Anonymous:
    """Batches that hide their generator."""

    def __init__(self, inner):
        self.inner = inner

    def __iter__(self):
        return iter(self.inner)


def _inner(parts):
    return parts.inner if isinstance(parts, _Anonymous) else parts


def _same(a, b):
    """Equal to the last bit, through dicts and lists."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def _interrupted(kind, path, *, leave_out=(), device="cpu"):
    """Two epochs, a new process's worth of fresh objects and other global seeds, then the rest."""
    _Run(kind, leave_out=leave_out, device=device).fit(2, checkpoint=path)
    run = _Run(kind, leave_out=leave_out, device=device)
    torch.manual_seed(999)
    torch.randn(7)
    history = run.fit(5, checkpoint=path)
    return history, run.everything()


KINDS = ["classifier", "vae", "gan"]


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_equals_uninterrupted_bit_for_bit(kind, tmp_path):
    whole = _Run(kind)
    history = whole.fit(5)
    assert len({metrics["rate"] for metrics in history}) == 5  # the schedule did move
    again, everything = _interrupted(kind, tmp_path / "run.pt")
    assert again == history
    assert _same(everything, whole.everything())
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]


@pytest.mark.parametrize(
    ("kind", "forgotten"),
    [
        ("classifier", "net"),
        ("classifier", "optimiser"),
        ("classifier", "batches.rng"),
        ("classifier", "scheduler"),
        ("classifier", "average"),
        ("vae", "rng"),
        ("vae", "steps"),
        ("vae", "optimiser"),
        ("gan", "rng"),
        ("gan", "disc"),
        ("gan", "disc_optimiser"),
    ],
)
def test_whatever_is_forgotten_is_noticed(kind, forgotten, tmp_path):
    """The comparison above would see each omission: it is not blind to any part of the state."""
    whole = _Run(kind)
    history = whole.fit(5)
    again, everything = _interrupted(kind, tmp_path / "run.pt", leave_out=[forgotten])
    assert again != history or not _same(everything[:3], whole.everything()[:3])


def test_forgotten_global_generator_is_noticed(tmp_path, monkeypatch):
    whole = _Run("classifier")  # dropout draws on it
    history = whole.fit(5)
    monkeypatch.setattr(torch, "set_rng_state", lambda state: None)
    again, _ = _interrupted("classifier", tmp_path / "run.pt")
    assert again != history


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", KINDS)
def test_resume_on_a_gpu(kind, tmp_path):
    torch.backends.cudnn.deterministic = True
    whole = _Run(kind, device="cuda")
    history = whole.fit(5)
    again, everything = _interrupted(kind, tmp_path / "run.pt", device="cuda")
    assert again == history and _same(everything, whole.everything())


def test_a_checkpoint_from_a_gpu_goes_on_without_one(tmp_path):
    path = tmp_path / "run.pt"
    _Run("vae").fit(1, checkpoint=path)
    payload = torch.load(path, weights_only=True)
    payload["state"]["rng"] = {"kind": "cuda generator", "value": torch.zeros(16, dtype=torch.uint8)}
    payload["cuda_rng"] = [torch.zeros(16, dtype=torch.uint8)] * 64
    torch.save(payload, path)
    with pytest.warns(UserWarning) as caught:
        history = _Run("vae").fit(2, checkpoint=path)
    assert len(history) == 2
    messages = " ".join(str(w.message) for w in caught)
    assert "'rng' was a cuda generator" in messages and "64 GPUs" in messages


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_epoch_is_replayed_from_its_start(kind, tmp_path):
    whole = _Run(kind)
    history = whole.fit(4)
    path = tmp_path / "run.pt"
    first = _Run(kind)
    calls = 0
    step = first.step

    def stops(x, y):
        nonlocal calls
        calls += 1
        if calls == 3 * 2 + 2:  # the second batch of the third epoch
            raise KeyboardInterrupt
        return step(x, y)

    stops.state = step.state
    first.step = stops
    with pytest.raises(KeyboardInterrupt) as stopped:
        first.fit(4, checkpoint=path)
    assert "run.pt" in stopped.value.__notes__[0] and "goes on from there" in stopped.value.__notes__[0]
    assert torch.load(path, weights_only=True)["epochs"] == 2
    second = _Run(kind)
    assert second.fit(4, checkpoint=path) == history
    assert _same(second.everything(), whole.everything())


def test_a_finished_run_only_returns_its_history(tmp_path):
    path = tmp_path / "run.pt"
    first = _Run("vae")
    history = first.fit(3, checkpoint=path)
    before = path.read_bytes()
    second = _Run("vae")
    second.step = train_must_not_step(second.step)
    assert second.fit(3, checkpoint=path) == history
    assert _same(second.everything(), first.everything())
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match="holds 3 epochs, but epochs=2"):
        _Run("vae").fit(2, checkpoint=path)


def train_must_not_step(step):
    def never(x, y):
        raise AssertionError("no step was due")

    never.state = step.state
    return never


def test_a_data_loader_resumes_by_its_generator(tmp_path):
    x, y = torch.randn(12, 4, generator=_rng()), torch.arange(12) % 3

    def run(epochs, checkpoint=None):
        torch.manual_seed(0)
        net = nn.Linear(4, 3)
        step = classifier_step(net, torch.optim.SGD(net.parameters(), 0.1))
        loader = torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(x, y), batch_size=5, shuffle=True, generator=_rng(1)
        )
        return _quiet(step, loader, epochs, checkpoint=checkpoint)

    run(2, tmp_path / "run.pt")
    assert run(4, tmp_path / "run.pt") == run(4)


def test_on_epoch_runs_before_the_checkpoint_and_adds_to_the_history(tmp_path):
    path = tmp_path / "run.pt"
    seen = []

    def on_epoch(epoch, metrics):
        seen.append((epoch, dict(metrics), torch.load(path, weights_only=True)["epochs"] if path.exists() else 0))
        metrics["extra"] = torch.tensor(float(epoch))

    generator = _rng()
    history = _quiet(_mean_step, _twice(), 3, on_epoch=on_epoch, checkpoint=path, state={"rng": generator})
    assert seen == [(0, {"mean": 1.0}, 0), (1, {"mean": 1.0}, 1), (2, {"mean": 1.0}, 2)]
    assert history == [{"mean": 1.0, "extra": float(epoch)} for epoch in range(3)]
    assert torch.load(path, weights_only=True)["history"] == history


SCHEDULERS = {
    "StepLR": lambda o: torch.optim.lr_scheduler.StepLR(o, 2),
    "MultiStepLR": lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [1, 3]),
    "OneCycleLR": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=10),
    "CosineAnnealingLR": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10),
    "ReduceLROnPlateau": lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=0),
    "LinearLR": lambda o: torch.optim.lr_scheduler.LinearLR(o),
    "SequentialLR": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o, [torch.optim.lr_scheduler.LinearLR(o), torch.optim.lr_scheduler.ExponentialLR(o, 0.9)], [2]
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_of_pytorch_resume(name, tmp_path):
    def run(epochs, checkpoint=None):
        net = nn.Linear(1, 1)
        optimiser = torch.optim.AdamW(net.parameters(), 1e-2)
        scheduler = SCHEDULERS[name](optimiser)
        rates = []

        def step(x, y):
            optimiser.zero_grad()
            net(x).sum().backward()
            optimiser.step()
            return {"one": torch.tensor(1.0)}

        def on_epoch(epoch, metrics):
            scheduler.step(metrics["one"]) if name == "ReduceLROnPlateau" else scheduler.step()
            rates.append(optimiser.param_groups[0]["lr"])

        state = {"optimiser": optimiser, "scheduler": scheduler} if checkpoint else None
        _quiet(step, _twice(), epochs, on_epoch=on_epoch, checkpoint=checkpoint, state=state)
        return rates

    whole = run(5)
    first = run(2, tmp_path / "run.pt")
    assert first + run(5, tmp_path / "run.pt") == whole
    assert len(set(whole)) > 1


# The file


def test_the_file_holds_tensors_and_plain_values_only(tmp_path):
    path = tmp_path / "run.pt"
    _Run("gan").fit(1, checkpoint=path)
    payload = torch.load(path, weights_only=True)
    assert payload["format"] == 1 and payload["epochs"] == 1
    assert {"gen", "disc", "gen_optimiser", "disc_optimiser", "rng", "batches.rng", "average"} <= payload[
        "state"
    ].keys()


def test_what_could_not_be_read_back_is_refused_before_it_is_written(tmp_path):
    net = nn.Linear(1, 1)
    optimiser = torch.optim.SGD(net.parameters(), np.float64(0.1))
    optimiser.param_groups[0]["lr"] = np.float64(0.1)
    with pytest.raises(ValueError, match=r"optimiser.*param_groups.*'lr'.*numpy.float64.*float\("):
        _quiet(_mean_step, _twice(), 1, checkpoint=tmp_path / "run.pt", state={"optimiser": optimiser})
    assert list(tmp_path.iterdir()) == []


def test_checkpoint_needs_a_state(tmp_path):
    with pytest.raises(ValueError, match="needs a state"):
        _quiet(_mean_step, _twice(), 1, checkpoint=tmp_path / "run.pt")
    with pytest.raises(ValueError, match="needs a state"):
        _quiet(_mean_step, _twice(), 1, checkpoint=tmp_path / "run.pt", state={})


def test_bad_state_and_bad_paths(tmp_path):
    run = _Run("vae")
    path = tmp_path / "run.pt"
    with pytest.raises(ValueError, match="state: 'count' is a int"):
        _quiet(_mean_step, _twice(), 1, checkpoint=path, state={"count": 3})
    with pytest.raises(ValueError, match="'vae' already stands for something else"):
        _quiet(run.step, run.batches, 1, checkpoint=path, state={"vae": nn.Linear(1, 1)})
    with pytest.raises(ValueError, match="names must be strings, got 1"):
        _quiet(_mean_step, _twice(), 1, checkpoint=path, state={1: nn.Linear(1, 1)})
    with pytest.raises(ValueError, match=r"nowhere.*does not exist"):
        _quiet(run.step, run.batches, 1, checkpoint=tmp_path / "nowhere" / "run.pt")
    with pytest.raises(ValueError, match="is a folder"):
        _quiet(run.step, run.batches, 1, checkpoint=tmp_path)
    with pytest.raises(ValueError, match=r"'batches\.rng' is kept for"):
        _quiet(run.step, run.batches, 1, checkpoint=path, state={"batches.rng": _rng()})
    # The same object under its own name is no clash.
    _quiet(run.step, run.batches, 1, checkpoint=path, state={"vae": run.step.state["vae"]})


def test_a_tensor_in_the_state_is_restored_in_place(tmp_path):
    def run(epochs):
        count = torch.zeros(())

        def step(x, y):
            count.add_(1)
            return {"count": count.clone()}

        history = _quiet(step, _twice(), epochs, checkpoint=tmp_path / "run.pt", state={"count": count})
        return [metrics["count"] for metrics in history], count.item()

    assert run(2) == ([1.0, 2.0], 2.0)
    assert run(3) == ([1.0, 2.0, 3.0], 3.0)


def _mutations(path):
    """Damaged copies of a good file."""
    good = path.read_bytes()
    yield "empty", b""
    yield "short", good[: len(good) // 2]
    yield "no end", good[:-1]
    yield "noise", os.urandom(2000)
    yield "text", b"this is not a checkpoint"
    middle = bytearray(good)
    at = good.find(b"data/0") + 200  # inside the numbers of the first tensor
    middle[at] ^= 0xFF
    yield "one byte", bytes(middle)

    def saved(value):
        buffer = io.BytesIO()
        torch.save(value, buffer)
        return buffer.getvalue()

    payload = torch.load(path, weights_only=True)
    yield "other format", saved({**payload, "format": 99})
    yield "state dict", saved(nn.Linear(2, 2).state_dict())
    yield "list", saved([1, 2])
    yield "missing key", saved({key: value for key, value in payload.items() if key != "history"})
    yield "history too short", saved({**payload, "epochs": 7})
    yield "code inside", saved({**payload, "format": _Run})


def test_damaged_files_are_named_and_left_alone(tmp_path):
    path = tmp_path / "run.pt"
    _Run("vae").fit(2, checkpoint=path)
    names = []
    for name, content in _mutations(path):
        bad = tmp_path / f"{name}.pt"
        bad.write_bytes(content)
        run = _Run("vae")
        before = copy.deepcopy(run.everything())
        with pytest.raises(ValueError, match=rf"{name}\.pt.*nothing was changed"):
            run.fit(3, checkpoint=bad)
        assert bad.read_bytes() == content, name
        assert _same(run.everything(), before), name
        names.append(name)
    assert len(names) == 12
    assert _Run("vae").fit(3, checkpoint=path) == _Run("vae").fit(3)


def test_a_checkpoint_of_something_else_is_refused_before_anything_is_touched(tmp_path):
    path = tmp_path / "run.pt"
    run = _Run("vae")
    run.fit(2, checkpoint=path)
    content = path.read_bytes()

    def vae(hidden=8, make=torch.optim.Adam, extra=False, **kwargs):
        net = VAE(2, size=8, hidden=hidden)
        if extra:
            net.extra = nn.Linear(2, 2)
        optimiser = make(net.parameters(), 1e-2, **kwargs)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda epoch: 1.0)
        average = torch.optim.swa_utils.AveragedModel(net)
        return vae_step(net, optimiser, _rng()), {"scheduler": scheduler, "average": average}

    def split_groups(parameters, rate):
        first, *rest = parameters
        return torch.optim.Adam([{"params": [first]}, {"params": rest}], rate)

    def other_scheduler():
        step, state = vae()
        return step, {**state, "scheduler": torch.optim.lr_scheduler.StepLR(step.state["optimiser"], 1)}

    cases = {
        r"encoder.1.weight.*\(8, 64\).*in the file.*\(9, 64\)": lambda: vae(hidden=9),
        r"missing in the file \['extra.bias', 'extra.weight'\]": lambda: vae(extra=True),
        "'optimiser' was a Adam in the file, it is a SGD": lambda: vae(make=torch.optim.SGD),
        r"groups of \[8\] parameters in the file, it has \[1, 7\]": lambda: vae(make=split_groups),
        "'scheduler' was a LambdaLR in the file, it is a StepLR": other_scheduler,
        r"only in the file \['average', 'scheduler'\]": lambda: (vae()[0], {}),
        r"missing in the file \['more'\]": lambda: (vae()[0], {**vae()[1], "more": _rng()}),
    }
    for message, make in cases.items():
        step, state = make()
        entries = [*step.state.values(), *state.values()]
        before = copy.deepcopy([train._value(entry) for entry in entries])
        with pytest.raises(ValueError, match=message) as refused:
            _quiet(step, run.batches, 3, checkpoint=path, state=state)
        assert "Nothing was changed" in str(refused.value) and "run.pt" in str(refused.value)
        assert _same([train._value(entry) for entry in entries], before)
        assert path.read_bytes() == content
    with pytest.raises(ValueError, match=r"only in the file \['batches.rng'\]"):
        step, state = vae()
        _quiet(step, list(run.batches), 3, checkpoint=path, state=state)


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    _Run("vae").fit(2, checkpoint=path)
    content = path.read_bytes()

    def full(payload, file):
        file.write(b"half a file")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(OSError, match="No space left"):
            _Run("vae").fit(4, checkpoint=path)
    assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]
    assert _Run("vae").fit(4, checkpoint=path) == _Run("vae").fit(4)


def test_a_left_over_half_file_is_overwritten(tmp_path):
    path = tmp_path / "run.pt"
    (tmp_path / "run.pt.tmp").write_bytes(b"half")
    assert _Run("vae").fit(2, checkpoint=path) == _Run("vae").fit(2)
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]


# Training that breaks down


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_non_finite_average_stops_and_keeps_the_last_good_checkpoint(bad, tmp_path):
    path = tmp_path / "run.pt"
    seen = []
    weight = torch.zeros(())

    def step(x, y):
        weight.add_(1)
        return {"fine": torch.tensor(1.0), "loss": torch.tensor(bad) if weight > 4 else weight.clone()}

    with pytest.raises(FloatingPointError, match=rf"epoch 2 .*'loss' is {bad}.*learning rate"):
        _quiet(step, _twice() * 2, 5, on_epoch=lambda e, m: seen.append(e), checkpoint=path, state={"weight": weight})
    assert seen == [0, 1]
    payload = torch.load(path, weights_only=True)
    assert payload["epochs"] == 2 and payload["state"]["weight"]["value"] == 4


def test_full_memory_names_the_batch_and_what_to_set():
    def greedy(x, y):
        return {"loss": torch.empty(2**60).sum()}  # the real refusal of the CPU's allocator

    pairs = [(torch.zeros(6, 1, 8, 8), torch.zeros(6))]
    with pytest.raises(RuntimeError, match=r"batch of 6 × \(1, 8, 8\): try a batch size of 3 .*autocast") as caught:
        fit(greedy, pairs, 1, progress=False)
    assert "memory" in str(caught.value.__cause__)
    with pytest.raises(RuntimeError, match="the net itself is too large"):
        fit(greedy, [(torch.zeros(1, 2), None)], 1, progress=False)

    def refused(x, y):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    with pytest.raises(torch.OutOfMemoryError, match=r"batch size of 3 .* Tried to allocate 20.00 MiB"):
        fit(refused, pairs, 1, progress=False)

    def other(x, y):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match=r"^mat1 and mat2"):
        fit(other, pairs, 1, progress=False)


@pytest.mark.parametrize(
    ("size", "advice"),
    [(6, "a batch of 6 was made: try a batch size of 3 "), (None, "a batch was made: try smaller batches")],
)
def test_full_memory_while_a_batch_is_made(size, advice):
    class Greedy:
        batch_size = size

        def __iter__(self):
            yield torch.zeros(6, 1), None
            yield torch.empty(2**60), None

    with pytest.raises(RuntimeError, match=rf"^epoch 0 .*the memory is full while {advice}.*It said: ") as caught:
        fit(_mean_step, Greedy(), 1, progress=False)
    assert "memory" in str(caught.value.__cause__)

    class Broken:
        def __iter__(self):
            yield from ()
            raise RuntimeError("a file is gone")

    with pytest.raises(RuntimeError, match=r"^a file is gone"):
        fit(_mean_step, Broken(), 1, progress=False)


@pytest.mark.parametrize("kind", ["vae", "gan"])
def test_nets_that_run_away_are_not_called_bad_input(kind):
    """On the CPU the losses refuse infinite logits at once: the reader must read of the rate, not of an argument."""
    run = _Run(kind)
    run.optimiser.param_groups[0]["lr"] = 1e30
    with pytest.raises(FloatingPointError, match=r"epoch \d+ \(counted from 0.*learning rate"):
        _quiet(run.step, run.batches, 20)


def test_bad_images_are_still_bad_input():
    run = _Run("vae")
    with pytest.raises(ValueError, match=r"\[-1, 1\]"):
        _quiet(run.step, [(torch.full((2, 1, 8, 8), 3.0), torch.zeros(2))], 1)
    (net,) = run.nets
    net.decode = lambda z: torch.zeros(2, 1, 9, 9)
    with pytest.raises(ValueError, match="same shape"):
        _quiet(run.step, [(torch.zeros(2, 1, 8, 8), torch.zeros(2))], 1)


# Mixed precision


@pytest.mark.parametrize("kind", KINDS)
def test_fit_inside_autocast_equals_autocast_in_each_step(kind, monkeypatch):
    """One long autocast context keeps its half-precision copies of the weights; training must not run on old ones."""

    def inside():
        with torch.autocast("cpu", torch.bfloat16):
            return _Run(kind).fit(4)

    run = _Run(kind)
    step = run.step

    def by_step(x, y):
        with torch.autocast("cpu", torch.bfloat16):
            return step(x, y)

    run.step = by_step
    history = run.fit(4)
    assert inside() == history
    assert history != _Run(kind).fit(4)  # float32 is another number: half precision was at work
    monkeypatch.setattr(torch, "clear_autocast_cache", lambda: None)
    assert inside() != history


def _bound(seed, learn, unseen, weights=torch.float32, context=nullcontext):
    """Train a small VAE, then its bound on unseen images in nats, in float32 and with noise that all share."""
    torch.manual_seed(seed)
    vae = VAE(8, size=8, hidden=64).to(weights)
    step = vae_step(vae, torch.optim.Adam(vae.parameters(), 5e-4, fused=True), _rng(seed))
    with context():
        _quiet(step, batches(learn, 50, _rng(seed)), 6)
    x = to_signed(unseen.images)
    with torch.no_grad():
        mean, log_var = vae.float().encode(x)
        logits = vae.decode(mean + (0.5 * log_var).exp() * torch.randn(mean.shape, generator=_rng()))
        nats = losses.bernoulli_nll(logits, to_probability(x)) + losses.kl_to_standard_normal(mean, log_var)
    return nats.mean().item()


@pytest.mark.slow
@pytest.mark.skipif(not session._has_bf16(torch.device("cpu")), reason="this processor has no bfloat16")
def test_half_precision_reaches_the_same_bound():
    """Margin 0.05 nats of about 33: a hundred times what was seen over 8 seeds (-0.0006 to 0.0005), and an eighth of
    what weights in bfloat16 lose (0.42 to 0.55), for a small step of Adam is rounded away there."""
    part, _ = draw_digits(torch.arange(1200) % 10, _rng(), size=8)
    sets = part.select(slice(0, 900)), part.select(slice(900, 1200))

    def half():
        return torch.autocast("cpu", torch.bfloat16)

    full = [_bound(seed, *sets) for seed in range(5)]
    few_bits = [_bound(seed, *sets, context=half) for seed in range(5)]
    assert few_bits != full  # half precision was at work
    low, high = paired_interval(few_bits, full)
    assert max(abs(low), abs(high)) < 0.05, f"bfloat16 minus float32: {low:.3f} to {high:.3f} nats"
    broken = [_bound(seed, *sets, weights=torch.bfloat16, context=half) for seed in range(5)]
    low, high = paired_interval(broken, full)
    assert low > 0.05, f"weights in bfloat16 went unnoticed: {low:.3f} to {high:.3f} nats"


# Progress


def test_progress_goes_to_stderr_after_two_seconds_only(capsys, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    fit(_mean_step, _twice(), 3)
    quick = capsys.readouterr()
    assert quick.out == "" and quick.err == ""

    now = [0.0]
    monkeypatch.setattr(tqdm.tqdm, "_time", staticmethod(lambda: now[0]), raising=False)
    monkeypatch.setattr(tqdm.std, "time", lambda: now[0])

    def slow(epoch, metrics):
        now[0] += 1.5

    fit(_mean_step, _twice(), 4, on_epoch=slow)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "4/4" in shown.err and "mean=1" in shown.err

    fit(_mean_step, _twice(), 4, on_epoch=slow, progress=False)
    assert capsys.readouterr().err == ""


def test_tqdm_disable_silences_the_bar():
    code = (
        "import time, torch; from course_utils.train import fit; "
        "fit(lambda x, y: {'m': x.mean()}, [(torch.ones(1), 0)], 3, on_epoch=lambda e, m: time.sleep(0.8))"
    )
    environment = {**os.environ, "TQDM_DISABLE": "1"}  # read when tqdm is imported: hence a new process
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "" and "epochs" not in done.stderr


# Classifier step


def test_classifier_step_is_one_descent_step_on_the_cross_entropy():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    twin = copy.deepcopy(net)
    x, y = torch.rand(6, 1, 8, 8) * 2 - 1, torch.arange(6) % 3
    measured = classifier_step(net, torch.optim.SGD(net.parameters(), 0.5))(x, y)

    logits = twin(x).double()
    loss = -torch.log_softmax(logits, 1)[torch.arange(6), y].mean()
    gradients = torch.autograd.grad(loss, list(twin.parameters()))
    assert measured["loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    assert measured["accuracy"].item() == pytest.approx((logits.argmax(1) == y).double().mean().item())
    for new, old, gradient in zip(net.parameters(), twin.parameters(), gradients, strict=True):
        assert torch.allclose(new, old - 0.5 * gradient, atol=1e-6)
    assert all(value.ndim == 0 and not value.requires_grad for value in measured.values())


def test_classifier_step_learns_and_starts_in_training_mode():
    net = Classifier(3, width=4)
    step = classifier_step(net, torch.optim.Adam(net.parameters(), 1e-2))
    net.eval()
    history = _quiet(step, batches(_set(12), 4, _rng()), 25)
    assert net.training
    assert history[-1]["loss"] < 0.3 * history[0]["loss"]
    assert history[-1]["accuracy"] > 0.9


def test_classifier_step_refuses_unlabelled_examples():
    net = nn.Linear(4, 3)
    step = classifier_step(net, torch.optim.SGD(net.parameters(), 0.1))
    for y in (torch.tensor([0, -1]), torch.tensor([0, 3])):
        with pytest.raises(ValueError, match=r"labels must lie in 0…2, got"):
            step(torch.zeros(2, 4), y)


# VAE step


@pytest.mark.parametrize("beta", [1.0, 0.25, 0.0])
def test_vae_step_against_a_calculation_by_hand(beta):
    torch.manual_seed(0)
    vae = VAE(3, size=8, hidden=10).double()
    twin = copy.deepcopy(vae)
    x = torch.rand(5, 1, 8, 8, dtype=torch.float64) * 2 - 1
    measured = vae_step(vae, torch.optim.SGD(vae.parameters(), 1e-3), _rng(4), beta=beta)(x, None)

    mean, log_var = twin.encode(x)
    noise = torch.randn(5, 3, generator=_rng(4), dtype=torch.float64)
    p = torch.sigmoid(twin.decode(mean + log_var.exp().sqrt() * noise))
    target = (x + 1) / 2
    reconstruction = -(target * p.log() + (1 - target) * (1 - p).log()).sum() / 5
    kl = -0.5 * (1 + log_var - mean**2 - log_var.exp()).sum() / 5
    loss = reconstruction + beta * kl
    assert measured["reconstruction"].item() == pytest.approx(reconstruction.item(), rel=1e-9)
    assert measured["kl"].item() == pytest.approx(kl.item(), rel=1e-9)
    assert measured["loss"].item() == pytest.approx(loss.item(), rel=1e-9)
    # A mean over pixels, the widespread slip, is 64 times too small: this test would see it.
    assert measured["reconstruction"].item() / 64 != pytest.approx(reconstruction.item(), rel=0.5)

    gradients = torch.autograd.grad(loss, list(twin.parameters()))
    for new, old, gradient in zip(vae.parameters(), twin.parameters(), gradients, strict=True):
        assert torch.allclose(new, old - 1e-3 * gradient, atol=1e-12)


def test_vae_loss_starts_at_log_two_a_pixel_when_the_decoder_knows_nothing():
    vae = VAE(2, size=8, hidden=4)
    for parameter in vae.parameters():
        nn.init.zeros_(parameter)
    measured = vae_step(vae, torch.optim.SGD(vae.parameters(), 0.0), _rng())(torch.rand(3, 1, 8, 8) * 2 - 1, None)
    assert measured["reconstruction"].item() == pytest.approx(64 * math.log(2), rel=1e-6)
    assert measured["kl"].item() == 0.0


def test_beta_may_follow_the_number_of_steps():
    asked = []

    def beta(steps):
        asked.append(steps)
        return min(1.0, steps / 4)

    vae = VAE(2, size=8, hidden=4)
    step = vae_step(vae, torch.optim.SGD(vae.parameters(), 0.0), _rng(), beta=beta)
    x = torch.rand(3, 1, 8, 8) * 2 - 1
    for count in range(6):
        measured = step(x, None)
        expected = measured["reconstruction"] + min(1.0, count / 4) * measured["kl"]
        assert measured["loss"].item() == pytest.approx(expected.item(), rel=1e-6)
    assert asked == [0, 1, 2, 3, 4, 5]
    assert step.state["steps"].item() == 6


@pytest.mark.parametrize("beta", [-1.0, math.nan, math.inf, lambda steps: -0.5])
def test_bad_beta(beta):
    vae = VAE(2, size=8, hidden=4)
    with pytest.raises(ValueError, match="beta must be a finite number"):
        vae_step(vae, torch.optim.SGD(vae.parameters(), 0.1), _rng(), beta=beta)(torch.zeros(1, 1, 8, 8), None)


# GAN step


def _gan(kind="nonsaturating", rate=0.1):
    torch.manual_seed(0)
    gen, disc = Generator(3, size=8, width=4), Discriminator(size=8, width=4)
    optimisers = torch.optim.SGD(gen.parameters(), rate), torch.optim.SGD(disc.parameters(), rate)
    return gen, disc, *optimisers, gan_step(gen, disc, *optimisers, _rng(5), latent=3, kind=kind)


def _parameters(net):
    return [parameter.detach().clone() for parameter in net.parameters()]


REAL = torch.rand(6, 1, 8, 8, generator=_rng(8)) * 2 - 1


@pytest.mark.parametrize("kind", ["nonsaturating", "saturating", "least_squares", "hinge", "wasserstein"])
def test_gan_step_by_hand(kind):
    """Both moves recomputed with autograd.grad: no accumulated gradient can hide in that."""
    gen, disc, *_, step = _gan(kind)
    gen_twin, disc_twin = copy.deepcopy(gen), copy.deepcopy(disc)
    measured = step(REAL, None)

    rng = _rng(5)
    with torch.no_grad():
        fake = gen_twin(torch.randn(6, 3, generator=rng))
    real_logits, fake_logits = disc_twin(REAL), disc_twin(fake)
    disc_loss = losses.discriminator_loss(real_logits, fake_logits, kind=kind)
    gradients = torch.autograd.grad(disc_loss, list(disc_twin.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(disc_twin.parameters(), gradients, strict=True):
            parameter -= 0.1 * gradient
    gen_loss = losses.generator_loss(disc_twin(gen_twin(torch.randn(6, 3, generator=rng))), kind=kind)
    gradients = torch.autograd.grad(gen_loss, list(gen_twin.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(gen_twin.parameters(), gradients, strict=True):
            parameter -= 0.1 * gradient

    assert measured["disc_loss"].item() == pytest.approx(disc_loss.item(), rel=1e-5)
    assert measured["gen_loss"].item() == pytest.approx(gen_loss.item(), rel=1e-5)
    assert measured["real_logit"].item() == pytest.approx(real_logits.mean().item(), abs=1e-6)
    assert measured["fake_logit"].item() == pytest.approx(fake_logits.mean().item(), abs=1e-6)
    for net, twin in ((gen, gen_twin), (disc, disc_twin)):
        for (name, one), other in zip(net.state_dict().items(), twin.state_dict().values(), strict=True):
            assert torch.allclose(one.double(), other.double(), atol=1e-6), name


def test_gan_losses_by_hand():
    gen, disc, *_, step = _gan()
    with torch.no_grad():
        fake = copy.deepcopy(gen)(torch.randn(6, 3, generator=_rng(5)))
        real_p, fake_p = torch.sigmoid(disc(REAL)).double(), torch.sigmoid(disc(fake)).double()
    expected = -(real_p.log().mean() + (1 - fake_p).log().mean())
    assert step(REAL, None)["disc_loss"].item() == pytest.approx(expected.item(), rel=1e-5)


class _Spy:
    """Takes the place of an optimiser's step and notes who has which gradients, and who has moved by then."""

    def __init__(self, gen, disc, gen_optimiser, disc_optimiser):
        self.notes = {}
        start = _parameters(gen), _parameters(disc)
        for name, optimiser in (("disc", disc_optimiser), ("gen", gen_optimiser)):
            original = optimiser.step

            def spied(_name=name, _original=original):
                self.notes[_name] = {
                    "gen has gradients": any(p.grad is not None for p in gen.parameters()),
                    "disc has gradients": any(p.grad is not None for p in disc.parameters()),
                    "disc gradients": [p.grad.clone() for p in disc.parameters() if p.grad is not None],
                    "disc learns": all(p.requires_grad for p in disc.parameters()),
                    "gen moved": not all(map(torch.equal, _parameters(gen), start[0])),
                    "disc moved": not all(map(torch.equal, _parameters(disc), start[1])),
                }
                _original()

            optimiser.step = spied


def test_gan_step_who_moves_when():
    gen, disc, gen_optimiser, disc_optimiser, step = _gan()
    spy = _Spy(gen, disc, gen_optimiser, disc_optimiser)
    step(REAL, None)
    at_disc, at_gen = spy.notes["disc"], spy.notes["gen"]
    # The discriminator moves first, on its own gradients; nothing has reached the generator.
    assert not at_disc["gen has gradients"] and at_disc["disc has gradients"] and at_disc["disc learns"]
    assert not at_disc["gen moved"] and not at_disc["disc moved"]
    # Then the generator, through a frozen discriminator that has moved and whose gradients have not grown.
    assert at_gen["gen has gradients"] and not at_gen["disc learns"]
    assert not at_gen["gen moved"] and at_gen["disc moved"]
    assert all(map(torch.equal, at_gen["disc gradients"], at_disc["disc gradients"]))
    assert all(p.requires_grad for p in disc.parameters())


def test_the_invariants_catch_the_common_slips():
    """Planted: no detach in D's move, no freeze in G's, one backward for both."""

    def slip(gen, disc, gen_optimiser, disc_optimiser, *, detach, freeze):
        def step(x):
            z = torch.randn(len(x), 3, generator=_rng(5))
            fake = gen(z).detach() if detach else gen(z)
            losses.discriminator_loss(disc(x), disc(fake)).backward()
            disc_optimiser.step()
            disc.requires_grad_(not freeze)
            losses.generator_loss(disc(gen(z))).backward()
            gen_optimiser.step()
            disc.requires_grad_(True)

        return step

    caught = {}
    for name, kwargs in {
        "right": {"detach": True, "freeze": True},
        "no detach": {"detach": False, "freeze": True},
        "no freeze": {"detach": True, "freeze": False},
    }.items():
        gen, disc, gen_optimiser, disc_optimiser, _ = _gan()
        spy = _Spy(gen, disc, gen_optimiser, disc_optimiser)
        slip(gen, disc, gen_optimiser, disc_optimiser, **kwargs)(REAL)
        grown = not all(map(torch.equal, spy.notes["gen"]["disc gradients"], spy.notes["disc"]["disc gradients"]))
        caught[name] = (spy.notes["disc"]["gen has gradients"], grown)
    assert caught == {"right": (False, False), "no detach": (True, False), "no freeze": (False, True)}


def test_gan_step_restores_flags_also_after_an_error():
    gen, disc, *_, step = _gan()
    frozen = next(disc.parameters())
    frozen.requires_grad_(False)  # the reader's own choice stays
    before = frozen.clone()
    step(REAL, None)
    flags = [p.requires_grad for p in disc.parameters()]
    assert flags == [False] + [True] * (len(flags) - 1)
    assert torch.equal(frozen, before)

    def broken(z):
        if torch.is_grad_enabled():
            raise RuntimeError("planted")
        return torch.zeros(len(z), 1, 8, 8)

    gen.forward = broken
    with pytest.raises(RuntimeError, match="planted"):
        step(REAL, None)
    assert [p.requires_grad for p in disc.parameters()] == flags


def test_gan_step_gets_the_nets_into_training_mode_and_leaves_no_old_gradient():
    gen, disc, *_, step = _gan(rate=0.0)
    gen.eval(), disc.eval()
    step(REAL, None)
    assert gen.training and disc.training
    twin, twin_disc, *_, twin_step = _gan(rate=0.0)
    for parameter in [*twin.parameters(), *twin_disc.parameters()]:
        parameter.grad = torch.full_like(parameter, 1e6)
    twin_step(REAL, None)
    for one, other in zip(
        [*gen.parameters(), *disc.parameters()], [*twin.parameters(), *twin_disc.parameters()], strict=True
    ):
        assert torch.equal(one.grad, other.grad)


def test_gan_learns_a_brightness():
    """All real images are one grey: the fakes' mean must come to it."""
    torch.manual_seed(0)
    gen, disc = Generator(2, size=8, width=4), Discriminator(size=8, width=4)
    step = gan_step(
        gen,
        disc,
        torch.optim.Adam(gen.parameters(), 5e-3, betas=(0.0, 0.95)),
        torch.optim.Adam(disc.parameters(), 5e-3, betas=(0.0, 0.95)),
        _rng(),
        latent=2,
    )
    real = [(torch.full((16, 1, 8, 8), -0.6), torch.zeros(16))] * 40
    _quiet(step, real, 4)
    with torch.no_grad():
        assert gen(torch.randn(64, 2)).mean().item() == pytest.approx(-0.6, abs=0.2)


def test_bad_arguments_of_the_steps():
    gen, disc, gen_optimiser, disc_optimiser, _ = _gan()
    other = nn.Linear(1, 1)
    lost = torch.optim.SGD(other.parameters(), 0.1)
    both = torch.optim.SGD([*gen.parameters(), *disc.parameters()], 0.1)
    with pytest.raises(ValueError, match="optimiser holds no parameter of net"):
        classifier_step(disc, lost)
    with pytest.raises(ValueError, match="optimiser holds no parameter of vae"):
        vae_step(VAE(2, size=8), lost, _rng())
    with pytest.raises(ValueError, match=r"rng must be a torch\.Generator, got a int"):
        vae_step(other, lost, 3)
    with pytest.raises(ValueError, match="gen_optimiser holds no parameter of gen"):
        gan_step(gen, disc, disc_optimiser, gen_optimiser, _rng(), latent=3)
    with pytest.raises(ValueError, match="gen_optimiser holds parameters of disc"):
        gan_step(gen, disc, both, disc_optimiser, _rng(), latent=3)
    with pytest.raises(ValueError, match="disc_optimiser holds parameters of gen"):
        gan_step(gen, disc, gen_optimiser, both, _rng(), latent=3)
    with pytest.raises(ValueError, match="rng must be"):
        gan_step(gen, disc, gen_optimiser, disc_optimiser, None, latent=3)
    with pytest.raises(ValueError, match=r"kind must be one of .*'vanilla'"):
        gan_step(gen, disc, gen_optimiser, disc_optimiser, _rng(), latent=3, kind="vanilla")
    for latent in (0, 2.0, True):
        with pytest.raises(ValueError, match=f"latent must be .*{latent!r}"):
            gan_step(gen, disc, gen_optimiser, disc_optimiser, _rng(), latent=latent)


def test_same_seed_same_numbers_another_seed_others():
    def run(seed):
        torch.manual_seed(0)
        vae = VAE(2, size=8, hidden=4)
        step = vae_step(vae, torch.optim.Adam(vae.parameters(), 1e-3), _rng(seed))
        return _quiet(step, batches(_set(), 8, _rng(1)), 2)

    assert run(0) == run(0) != run(1)
