"""One loop, `fit`, and three steps. A step is a function of one batch: it holds its nets and optimisers, moves them,
and returns what it measured. A new idea is a new step, never a flag: copy one of these, change the line that matters.
"""

import math
import os
import pickle
import warnings
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import losses, parallel
from .data import to_probability

Metrics = dict[str, float]
Step = Callable[[Tensor, Tensor], dict[str, Tensor]]

_FORMAT = 1  # of the checkpoint file; raise it when its keys or their meaning change
_ADVICE = (
    "training broke down. Try a learning rate ten times smaller, look for NaN in the images, and for a log, a root "
    "or a division of 0. The nets are spoiled now; a checkpoint still holds the last good epoch"
)
_KEYS = {"format", "epochs", "history", "state", "cpu_rng", "cuda_rng"}


def fit(
    step: Step,
    batches: Iterable[tuple[Tensor, Tensor]],
    epochs: int,
    *,
    on_epoch: Callable[[int, Metrics], None] | None = None,
    checkpoint: str | os.PathLike | None = None,
    state: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> list[Metrics]:
    """Call `step(x, y)` on every batch of every epoch and return the average of what it measured, epoch by epoch.

    The averages are per example: a batch counts by its length, so a small last batch does not count as much as a full
    one. They are summed on the device and read once at the end of an epoch: nothing waits for the device in between.
    A step's generator best lives on the device too (`course.device_rng`): its numbers then need not be copied there.

    Args:
        step: returns a dict of 0-d tensors, each a mean over its batch. Gradients are not followed through them.
            A name that only some batches report is averaged over those.
        batches: (x, y) pairs, iterable again and again: `data.batches`, a DataLoader, a list.
        epochs: the total, resumed ones included.
        on_epoch: called as `on_epoch(epoch, metrics)`, epochs counted from 0, before the checkpoint is written: step a
            scheduler here, draw samples, or add a number of your own to `metrics` (it then stands in the history).
        checkpoint: a file, written at the end of every epoch; if it is already there, training goes on after its last
            epoch. An interrupted epoch is replayed from its start. Needs a state.
        state: what else training changes, by name: modules, optimisers, schedulers, averaged nets, generators,
            tensors (restored in place). It adds to `step.state`, which the steps of this module carry.
            Saved without asking: `batches.rng` (or a DataLoader's `.generator`) and PyTorch's global CPU and CUDA
            generators. Not saved: NumPy's and Python's generators, and what only your own variables hold (derive that
            from `epoch`).
        progress: one bar over the epochs on stderr, shown after two seconds. TQDM_DISABLE=1 silences every bar.

    Returns: one dict of floats for each epoch, resumed ones included.

    A resumed run equals the uninterrupted one bit for bit: same machine, thread count and versions (on a GPU also:
    deterministic kernels). The learning rate comes back with the optimiser; another one needs another file.

    Under torchrun (see `parallel`) the processes share each batch, average gradients and metrics, and keep one
    checkpoint and one bar. The state is then needed without a checkpoint too; `on_epoch` runs in every process. In a
    resumed run every process takes up PyTorch's global generators as the first one left them.

    Errors: ValueError for `epochs` below 1, batches that are empty, can be read only once or do not divide evenly among
    the processes, a step that returns anything but 0-d tensors, `checkpoint` without a state, a checkpoint that is
    damaged or was made by other nets, optimisers or batches (neither the file nor the nets are touched).
    FloatingPointError with the name and the epoch when an average is NaN or infinite: the last good checkpoint stays.
    When the memory is full, the error of the device, with the batch size and what to set.
    Taught in: 14_vae_on_gpu

    >>> weight = torch.ones(())
    >>> def step(x, y):
    ...     weight.mul_(0.5)
    ...     return {"mean": x.mean(), "weight": weight}
    >>> fit(step, [(torch.zeros(3, 1), None), (torch.ones(1, 1), None)], epochs=2, progress=False)
    [{'mean': 0.25, 'weight': 0.4375}, {'mean': 0.25, 'weight': 0.109375}]
    """
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"epochs must be a whole number of at least 1, got {epochs!r}")
    if not isinstance(batches, Iterable):
        raise ValueError(f"batches must be an iterable of (x, y) pairs, got a {type(batches).__name__}")
    if isinstance(batches, Iterator):
        raise ValueError(
            f"batches is a {type(batches).__name__}, which can be read only once: every epoch reads them again. "
            "Pass a list, a DataLoader or the result of data.batches"
        )
    history: list[Metrics] = []
    rank, processes = parallel.place()
    for size in _known_sizes(batches) if processes > 1 else ():
        parallel.share(range(size))  # refuses what does not divide evenly before any step is taken
    everything = _collect(step, batches, state) if checkpoint is not None or processes > 1 else {}
    if checkpoint is not None:
        checkpoint = _checkpoint_path(checkpoint)
        if checkpoint.exists():
            history = _resume(checkpoint, everything, epochs)

    bar = _bar(len(history), epochs, progress and rank == 0)
    try:
        with parallel.together(everything):
            _epochs(step, batches, epochs, on_epoch, checkpoint, everything, history, bar)
    except KeyboardInterrupt as stop:
        if checkpoint is not None and checkpoint.exists():
            stop.add_note(f"Stopped. {checkpoint} holds the last finished epoch: the same call goes on from there.")
        raise
    finally:
        if bar is not None:
            bar.close()
    return history


def _epochs(step, batches, epochs, on_epoch, checkpoint, everything, history: list[Metrics], bar) -> None:
    for epoch in range(len(history), epochs):
        metrics = _one_epoch(step, batches, epoch)
        _check_finite(metrics, epoch, epochs)
        if on_epoch is not None:
            on_epoch(epoch, metrics)
            metrics = {name: float(value) for name, value in metrics.items()}
        history.append(metrics)
        if checkpoint is not None:
            if parallel.place()[0] == 0:
                _save(checkpoint, everything, history)
            parallel.wait()
        if bar is not None:
            bar.set_postfix({name: f"{value:.4g}" for name, value in metrics.items()}, refresh=False)
            bar.update()


def _known_sizes(batches: Iterable) -> list[int]:
    """The sizes of the batches that `data.batches` or a DataLoader is going to give; empty where nothing tells."""
    rows, size = getattr(batches, "images", getattr(batches, "sampler", None)), getattr(batches, "batch_size", None)
    if size is None or not isinstance(rows, Sized):
        return []
    whole, rest = divmod(len(rows), size)
    return [size] * (whole > 0) + [rest] * (rest > 0 and not batches.drop_last)


def _made(batches: Iterable, epoch: int) -> Iterator:
    """The batches; when the memory is full before one of them is there, the error says what to set."""
    try:
        yield from batches
    except RuntimeError as error:
        if not _out_of_memory(error):
            raise
        size = getattr(batches, "batch_size", None)
        what = f"while a batch{f' of {size}' if size else ''} was made"
        raise _with_advice(error, epoch, f"the memory is full {what}", size) from error


def _one_epoch(step: Step, batches: Iterable[tuple[Tensor, Tensor]], epoch: int) -> Metrics:
    sums: dict[str | tuple[str, ...], Tensor] = {}  # a 0-d sum for a name, or one tensor for several
    counts: dict[str | tuple[str, ...], int] = {}
    processes = parallel.place()[1]
    for batch in _made(batches, epoch):
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise ValueError(f"batches must yield pairs (x, y), got {_describe(batch)}")
        x, y = map(parallel.share, batch)
        size = len(x)
        if size == 0:
            raise ValueError(f"batches gave an empty batch in epoch {epoch}: there is nothing to average over")
        try:
            measured = step(x, y)
        except FloatingPointError as error:
            raise FloatingPointError(f"epoch {epoch} (counted from 0): {error}") from error
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            parts = f" ({size} in each of {processes} processes)" if processes > 1 else ""
            what = f"the memory of {x.device} is full with a batch of {size * processes}{parts} × {tuple(x.shape[1:])}"
            raise _with_advice(error, epoch, what, size * processes) from error
        # Inside `with session.autocast(): fit(...)` the half-precision copies of the weights would never be renewed.
        torch.clear_autocast_cache()
        if not isinstance(measured, dict) or not measured:
            raise ValueError(f"step must return a dict of 0-d tensors, one at least, got {_describe(measured)}")
        for name, value in measured.items():
            if not isinstance(value, Tensor) or value.ndim != 0:
                raise ValueError(
                    f"step must return 0-d tensors (a mean over the batch), got {_describe(value)} as {name!r}"
                )
        if len(measured) > 2 and len({(value.dtype, value.device) for value in measured.values()}) == 1:
            # Two operations, however many the names: on a GPU each of them has to be launched.
            measured = {tuple(measured): torch.stack(tuple(measured.values()))}
        for names, value in measured.items():
            if names not in sums:
                # Thousands of float32 terms lose digits; Apple's GPUs have no float64.
                wide = torch.float32 if value.device.type == "mps" else torch.float64
                sums[names], counts[names] = torch.zeros_like(value, dtype=wide), 0
            sums[names].add_(value.detach(), alpha=size)
            counts[names] += size
    if not sums:
        raise ValueError(f"batches gave no batch in epoch {epoch}: is the set empty, or smaller than one full batch?")
    device = next(iter(sums.values())).device
    # the one wait for the device; with several processes also the one for each other
    totals = iter(parallel.total(torch.cat([total.view(-1).to(device) for total in sums.values()])).tolist())
    weighted, examples = Counter(), Counter()
    for names, count in counts.items():
        for name in names if isinstance(names, tuple) else (names,):
            weighted[name] += next(totals)
            examples[name] += count * processes  # equal shares: each process counts the same number of examples
    return {name: weighted[name] / examples[name] for name in weighted}


def _with_advice(error: RuntimeError, epoch: int, what: str, size: int | None) -> RuntimeError:
    """The same error with what was too large and what to set; `size`: of the whole batch, None where unknown."""
    processes = parallel.place()[1]
    half = (size or 0) // 2 // processes * processes  # it has to divide evenly
    if half:
        less = f"try a batch size of {half} (in data.batches or the DataLoader)"
    else:
        less = "the net itself is too large for it: try" if size else "try smaller batches"
    return type(error)(
        f"epoch {epoch} (counted from 0): {what}: {less}, smaller layers, or half precision "
        f"(`with session.autocast():`). It said: {str(error).splitlines()[0]}"
    )


def _out_of_memory(error: RuntimeError) -> bool:
    """A GPU has an error of its own for it, the CPU and Apple's GPUs say it in words only."""
    words = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in words or "out of memory" in words


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, tuple | list | dict):
        return f"a {type(value).__name__} of length {len(value)}"
    return f"a {type(value).__name__}"


def _check_finite(metrics: Metrics, epoch: int, epochs: int) -> None:
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise FloatingPointError(f"epoch {epoch} (counted from 0, of {epochs}): {name!r} is {value}: {_ADVICE}")


def _bar(done: int, epochs: int, progress: bool):
    if not progress:
        return None
    from tqdm import tqdm  # `disable` is left alone so that TQDM_DISABLE works

    return tqdm(total=epochs, initial=done, desc="epochs", delay=2)


# Checkpoints. The file: {"format", "epochs", "history", "state": {name: {"kind", "value"}}, "cpu_rng", "cuda_rng"}


def _checkpoint_path(checkpoint: str | os.PathLike) -> Path:
    # Not created here: on Colab a folder made under an unmounted drive would be lost, and would block the mount.
    path = Path(checkpoint)
    if not path.parent.is_dir():
        raise ValueError(f"checkpoint: the folder {str(path.parent)!r} does not exist (is the drive mounted?)")
    if path.is_dir():
        raise ValueError(f"checkpoint must be a file, {str(path)!r} is a folder")
    return path


def _collect(step: Step, batches: Iterable, state: Mapping[str, Any] | None) -> dict[str, Any]:
    """Everything that training changes, by name; each entry of a kind that can be saved."""
    own = getattr(step, "state", None) or {}
    given = state or {}
    if not own and not given:
        raise ValueError(
            "checkpoint= (and every run in several processes) needs a state: this step carries none. Pass "
            "state={'net': net, 'optimiser': optimiser, ...} with everything that training changes"
        )
    for name in own.keys() & given.keys():
        if own[name] is not given[name]:
            raise ValueError(f"state: the name {name!r} already stands for something else in step.state")
    everything = {**own, **given}
    for name, value in everything.items():
        if not isinstance(name, str):
            raise ValueError(f"state: names must be strings, got {name!r}")
        if not isinstance(value, torch.Generator | Tensor) and not (
            hasattr(value, "state_dict") and hasattr(value, "load_state_dict")
        ):
            raise ValueError(
                f"state: {name!r} is {_describe(value)}; expected a module, an optimiser, a scheduler, a generator "
                "or a tensor"
            )
    order = getattr(batches, "rng", None) or getattr(batches, "generator", None)
    if isinstance(order, torch.Generator):
        if everything.get("batches.rng", order) is not order:
            raise ValueError("state: the name 'batches.rng' is kept for the generator of the batches")
        everything["batches.rng"] = order
    return everything


def _kind(value: Any) -> str:
    if isinstance(value, nn.Module):
        return "module"  # names and shapes say more than the name of its class
    if isinstance(value, torch.Generator):
        return f"{value.device.type} generator"
    return "tensor" if isinstance(value, Tensor) else type(value).__name__


def _value(value: Any) -> Any:
    if isinstance(value, torch.Generator):
        return value.get_state()
    return value.detach() if isinstance(value, Tensor) else value.state_dict()


def _check_plain(value: Any, where: str) -> None:
    """Refuse what `torch.load(weights_only=True)` would not read back: better now than on the day of the resume."""
    if isinstance(value, Tensor) or type(value) in (str, int, float, bool, type(None)):
        return
    if type(value) in (dict, OrderedDict, Counter):
        for key, item in value.items():
            _check_plain(key, where)
            _check_plain(item, f"{where}[{key!r}]")
    elif type(value) in (list, tuple):
        for position, item in enumerate(value):
            _check_plain(item, f"{where}[{position}]")
    else:
        raise ValueError(
            f"{where} is a {type(value).__module__}.{type(value).__qualname__}; a checkpoint holds tensors and plain "
            "numbers and strings only (float(...) turns a NumPy number into one)"
        )


def _save(path: Path, everything: dict[str, Any], history: list[Metrics]) -> None:
    """Write beside the file, flush to the disk, then rename: at every moment the old file or the new one is whole."""
    saved = {name: {"kind": _kind(value), "value": _value(value)} for name, value in everything.items()}
    for name, entry in saved.items():
        _check_plain(entry["value"], f"state[{name!r}]")
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    payload = {
        "format": _FORMAT,
        "epochs": len(history),
        "history": history,
        "state": saved,
        "cpu_rng": torch.get_rng_state(),
        "cuda_rng": cuda,
    }
    # One fixed name: what a killed process left behind is overwritten, never collected.
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(payload, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the new name itself also has to reach the disk
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _read(path: Path) -> dict[str, Any]:
    advice = "nothing was changed; delete the file to start again, or pass another name"
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not compare the checksums
            damaged = archive.testzip()
        payload = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # PyTorch's message would advise to load it without this protection
        raise ValueError(f"checkpoint {str(path)!r} holds more than tensors and plain values: {advice}") from None
    except (zipfile.BadZipFile, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"checkpoint {str(path)!r} is damaged or no checkpoint ({error}): {advice}") from error
    if damaged:
        raise ValueError(f"checkpoint {str(path)!r} is damaged (wrong checksum in {damaged}): {advice}")
    if not isinstance(payload, dict) or "format" not in payload:
        raise ValueError(f"{str(path)!r} is not a checkpoint written by fit: {advice}")
    if payload["format"] != _FORMAT:
        raise ValueError(f"checkpoint {str(path)!r} has format {payload['format']!r}, expected {_FORMAT}: {advice}")
    if payload.keys() != _KEYS or payload["epochs"] != len(payload["history"]):
        raise ValueError(f"checkpoint {str(path)!r} does not hold together: {advice}")
    return payload


def _resume(path: Path, everything: dict[str, Any], epochs: int) -> list[Metrics]:
    """Check the whole file against the whole state, then load all of it."""
    payload = _read(path)
    saved = payload["state"]
    try:
        _same_names(saved.keys(), everything.keys(), "entries of the state")
        if payload["epochs"] > epochs:
            raise ValueError(f"it holds {payload['epochs']} epochs, but epochs={epochs} in all were asked for")
        for name, value in everything.items():
            _check_fits(name, saved[name], value)
    except ValueError as error:
        raise ValueError(
            f"checkpoint {str(path)!r} was made by something else: {error}. Nothing was changed; delete the file to "
            "start again, or pass another name"
        ) from None

    for name, value in everything.items():
        content = saved[name]["value"]
        if isinstance(value, torch.Generator):
            if saved[name]["kind"] == _kind(value):
                value.set_state(content)
            else:
                warnings.warn(
                    f"{name!r} was a {saved[name]['kind']} in {path} and is a {_kind(value)} now: it starts afresh, so "
                    "the numbers will differ from an uninterrupted run",
                    stacklevel=3,
                )
        elif isinstance(value, Tensor):
            with torch.no_grad():
                value.copy_(content)
        else:
            value.load_state_dict(content)
    torch.set_rng_state(payload["cpu_rng"])
    cuda = payload["cuda_rng"]
    if cuda and torch.cuda.is_available() and parallel.place()[1] > 1:
        # The first process wrote the file and sits on GPU 0; it alone knows how much each of them has drawn.
        torch.cuda.set_rng_state(cuda[0])
    elif cuda and torch.cuda.device_count() == len(cuda):
        torch.cuda.set_rng_state_all(cuda)
    elif cuda:
        warnings.warn(
            f"{path} was written with {len(cuda)} GPUs, here are {torch.cuda.device_count()}: their global generators "
            "are not restored, so the numbers may differ from an uninterrupted run",
            stacklevel=3,
        )
    return payload["history"]


def _same_names(saved: Iterable[str], present: Iterable[str], what: str) -> None:
    missing, unexpected = sorted(set(present) - set(saved)), sorted(set(saved) - set(present))
    if missing or unexpected:
        raise ValueError(f"{what} differ: missing in the file {missing}, only in the file {unexpected}")


def _check_fits(name: str, entry: dict[str, Any], value: Any) -> None:
    content, kind = entry["value"], _kind(value)
    # A generator may have moved between CPU and GPU: _resume warns and goes on.
    if entry["kind"] != kind and not (isinstance(value, torch.Generator) and entry["kind"].endswith("generator")):
        raise ValueError(f"{name!r} was a {entry['kind']} in the file, it is a {kind} here")
    if isinstance(value, Tensor):
        _check_tensor(name, content, value)
    elif isinstance(value, nn.Module):
        present = value.state_dict()
        _same_names(content, present, f"the tensors of {name!r}")
        for key, tensor in present.items():
            if isinstance(tensor, Tensor):
                _check_tensor(f"{name}.{key}", content[key], tensor)
    elif isinstance(value, torch.optim.Optimizer):
        sizes = [[len(group["params"]) for group in groups] for groups in (content["param_groups"], value.param_groups)]
        if sizes[0] != sizes[1]:
            raise ValueError(f"{name!r} had groups of {sizes[0]} parameters in the file, it has {sizes[1]} here")
    elif not isinstance(value, torch.Generator):
        _same_names(content, value.state_dict(), f"the fields of {name!r}")


def _check_tensor(name: str, saved: Tensor, present: Tensor) -> None:
    if saved.shape != present.shape or saved.dtype != present.dtype:
        raise ValueError(
            f"{name!r} has shape {tuple(saved.shape)}, {saved.dtype} in the file and {tuple(present.shape)}, "
            f"{present.dtype} here"
        )


# Steps. Each gets the nets into training mode, because on_epoch may have left them in evaluation mode.


def classifier_step(net: nn.Module, optimiser: torch.optim.Optimizer) -> Step:
    """Return a step that lowers the cross-entropy of a classifier, for `fit`.

    The step takes x (B, C, H, W) in [-1, 1] and labels y (B,) int64 in 0 … K−1, `net(x)` gives logits (B, K), and
    it returns `loss` (nats, mean over the batch, before the move) and `accuracy` (share of the batch, with dropout
    as in training). Errors: ValueError for an unlabelled example (−1) or an optimiser that does not train `net`.
    Taught in: 06_image_augmentation
    """
    _check_trains("optimiser", optimiser, "net", net)

    def step(x: Tensor, y: Tensor) -> dict[str, Tensor]:
        net.train()
        logits = net(x)  # (B, K)
        try:
            loss = F.cross_entropy(logits, y)
        except IndexError as error:  # raised on the CPU; free of cost, unlike a look at y
            if y.min() >= 0 and y.max() < logits.shape[1]:
                raise
            raise ValueError(
                f"labels must lie in 0…{logits.shape[1] - 1}, got {y.min()}…{y.max()}; -1 stands for unlabelled: "
                "select the labelled examples first"
            ) from error
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return {"loss": loss.detach(), "accuracy": (logits.detach().argmax(1) == y).float().mean()}

    step.state = {"net": net, "optimiser": optimiser}
    return step


def vae_step(
    vae: nn.Module,
    optimiser: torch.optim.Optimizer,
    rng: torch.Generator,
    *,
    beta: float | Callable[[int], float] = 1.0,
) -> Step:
    """Return a step that lowers reconstruction + β·KL of a VAE with Bernoulli pixels, for `fit`.

    The step takes x (B, C, H, W) in [-1, 1]; `vae.encode(x)` gives mean and log variance (B, Z), `vae.decode(z)` the
    pixel logits (B, C, H, W). It returns `loss`, `reconstruction` and `kl` in nats per image: summed over pixels
    and latents, averaged over the batch. With β = 1 the loss is the negative ELBO, an upper bound on −log p(x).
    `beta` is a number ≥ 0, or a function of the steps taken so far (0 at the first): a warm-up such as
    `lambda step: min(1.0, step / 500)`. The count is part of `step.state`, so a warm-up resumes where it was.
    The noise is drawn on `rng.device`, one draw a pixel code, and moved to the images (without waiting for a GPU).
    Errors: ValueError for a β that is negative or not finite, or an optimiser that does not train `vae`.
    Source: Kingma & Welling 2014 (arXiv:1312.6114), equations 7 and 10; β: Higgins et al. 2017, equation 4.
    Taught in: 14_vae_on_gpu
    """
    _check_trains("optimiser", optimiser, "vae", vae)
    _check_generator(rng)
    if not callable(beta):
        _check_beta(beta)
    steps = torch.zeros((), dtype=torch.int64)  # a tensor, so that it is saved and restored with the rest

    def step(x: Tensor, y: Tensor) -> dict[str, Tensor]:
        vae.train()
        mean, log_var = vae.encode(x)  # (B, Z) each
        noise = _noise(mean.shape, rng, mean)
        logits = vae.decode(mean + torch.exp(0.5 * log_var) * noise)
        target = to_probability(x)
        try:
            reconstruction = losses.bernoulli_nll(logits, target).mean()
            kl = losses.kl_to_standard_normal(mean, log_var).mean()
        except ValueError as error:
            _check_diverged(error, logits=logits, means=mean, variances=log_var.exp())
            raise
        loss = reconstruction + (_check_beta(beta(int(steps))) if callable(beta) else beta) * kl
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        steps.add_(1)
        return {"loss": loss.detach(), "reconstruction": reconstruction.detach(), "kl": kl.detach()}

    step.state = {"vae": vae, "optimiser": optimiser, "rng": rng, "steps": steps}
    return step


def gan_step(
    gen: nn.Module,
    disc: nn.Module,
    gen_optimiser: torch.optim.Optimizer,
    disc_optimiser: torch.optim.Optimizer,
    rng: torch.Generator,
    *,
    latent: int,
    kind: str = "nonsaturating",
) -> Step:
    """Return a step that moves the discriminator once, then the generator once, for `fit`.

    The step takes x (B, C, H, W) in [-1, 1]; `gen(z)` turns z (B, latent) ~ N(0, 1) into images, `disc(x)` images
    into logits (B,) or (B, 1). `kind` is one of those of `losses.discriminator_loss`. It returns `disc_loss` and
    `gen_loss` (batch means, each before its own move), `real_logit` and `fake_logit` (means as the discriminator
    saw them before it moved). Each net gets the gradients of its own loss only: the generator makes the
    discriminator's fakes without a graph, and the discriminator is frozen while the generator learns (its flags are
    put back afterwards). Both moves use fresh latents.
    Errors: ValueError for an unknown kind, `latent` below 1, or optimisers that train the other net.
    Source: Goodfellow et al. 2014 (arXiv:1406.2661), algorithm 1, k = 1.
    Taught in: 17_first_gan
    """
    _check_trains("gen_optimiser", gen_optimiser, "gen", gen)
    _check_trains("disc_optimiser", disc_optimiser, "disc", disc)
    for one, optimiser, other, net in (
        ("gen_optimiser", gen_optimiser, "disc", disc),
        ("disc_optimiser", disc_optimiser, "gen", gen),
    ):
        if _shared(optimiser, net):
            raise ValueError(f"{one} holds parameters of {other}: each optimiser trains one of the two nets only")
    _check_generator(rng)
    if isinstance(latent, bool) or not isinstance(latent, int) or latent < 1:
        raise ValueError(f"latent must be a whole number of at least 1, got {latent!r}")
    losses.generator_loss(torch.zeros(1), kind=kind)  # an unknown kind is refused now, not in the first epoch

    def step(x: Tensor, y: Tensor) -> dict[str, Tensor]:
        gen.train()
        disc.train()

        with torch.no_grad():  # no gradient through gen: the discriminator alone moves
            fake = gen(_noise((len(x), latent), rng, x))
        real_logits, fake_logits = disc(x), disc(fake)
        disc_loss = _loss(losses.discriminator_loss, real_logits, fake_logits, kind=kind)
        disc_optimiser.zero_grad(set_to_none=True)
        disc_loss.backward()
        disc_optimiser.step()

        trained = [parameter for parameter in disc.parameters() if parameter.requires_grad]
        for parameter in trained:  # gradients flow through disc to gen, but none is stored in disc
            parameter.requires_grad_(False)
        try:
            gen_loss = _loss(losses.generator_loss, disc(gen(_noise((len(x), latent), rng, x))), kind=kind)
            gen_optimiser.zero_grad(set_to_none=True)
            gen_loss.backward()
            gen_optimiser.step()
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)
        return {
            "disc_loss": disc_loss.detach(),
            "gen_loss": gen_loss.detach(),
            "real_logit": real_logits.detach().mean(),
            "fake_logit": fake_logits.detach().mean(),
        }

    step.state = {
        "gen": gen,
        "disc": disc,
        "gen_optimiser": gen_optimiser,
        "disc_optimiser": disc_optimiser,
        "rng": rng,
    }
    return step


def _noise(shape: Iterable[int], rng: torch.Generator, like: Tensor) -> Tensor:
    """Standard normal numbers drawn on the generator's device, then moved; float32 also beside half precision."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return parallel.draw(tuple(shape), rng, dtype, device=like.device)


def _loss(loss: Callable[..., Tensor], *logits: Tensor, kind: str) -> Tensor:
    try:
        return loss(*logits, kind=kind)
    except ValueError as error:
        for value in logits:
            _check_diverged(error, logits=value)
        raise


def _check_diverged(error: ValueError, **outputs: Tensor) -> None:
    """The losses refuse infinite input (on the CPU): if that is the fault, say that it is training, not the caller.

    Asked after the fact only, so that a good step costs nothing; on a GPU `fit` sees the NaN at the end of the epoch.
    """
    for name, value in outputs.items():
        if not torch.isfinite(value).all():
            raise FloatingPointError(f"the net's {name} are no longer finite ({error}): {_ADVICE}") from error


def _check_generator(rng: torch.Generator) -> None:
    if not isinstance(rng, torch.Generator):
        raise ValueError(f"rng must be a torch.Generator, got a {type(rng).__name__}")


def _check_beta(beta: float) -> float:
    if not math.isfinite(beta) or beta < 0:
        raise ValueError(f"beta must be a finite number of at least 0, got {beta!r}")
    return beta


def _shared(optimiser: torch.optim.Optimizer, net: nn.Module) -> bool:
    own = {id(parameter) for parameter in net.parameters()}
    return any(id(parameter) in own for group in optimiser.param_groups for parameter in group["params"])


def _check_trains(name: str, optimiser: torch.optim.Optimizer, net_name: str, net: nn.Module) -> None:
    if not _shared(optimiser, net):
        raise ValueError(f"{name} holds no parameter of {net_name}: was {net_name} made anew after its optimiser?")
