"""Several processes that train as one, with PyTorch's own engine: ``torchrun --nproc_per_node=2 my_training.py``.

The script is the one for a single process, with `parallel.start()` as its first call. Every process runs all of it from
the same seeds and holds the whole set. `train.fit` then gives each process its share of every batch, averages the
gradients before each step of an optimiser and the metrics at the end of an epoch; only the first process writes
checkpoints and shows a bar. So N processes equal one up to rounding, double backward (R1, gradient penalty) included.
A net wrapped in DistributedDataParallel does not: where a penalty has a backward of its own (as in lazy R1), each
process silently keeps other gradients.

What a step draws has to come from `draw`, as in the steps of `train` and in `losses.gradient_penalty`. Dropout and the
functions of `augment` draw for the rows they are given: in a step, every process would use the same numbers for its
own share, which no single process does. Augment before the batches are shared: in the iterable that `fit` gets.
"""

import atexit
import hashlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def start() -> tuple[int, int]:
    """Join the processes that torchrun started and return (number of this one, how many there are): (0, 1) without it.

    Where each process has a GPU of its own (which becomes the current one), tensors on it travel by nccl; tensors on
    the CPU always travel by gloo. To be called first, before `session.start` and before anything is put on a device;
    a second call changes nothing.

    Raises ValueError when there are GPUs, but fewer than processes on this machine.

    Taught in: 22_gpu_practice
    """
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        return 0, 1
    if not dist.is_initialized():
        here, local = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["LOCAL_RANK"])
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if 0 < gpus < here:
            raise ValueError(f"{here} processes share {gpus} GPUs: start as many as there are, or hide the GPUs")
        if gpus:
            torch.cuda.set_device(local)
        # nccl alone refuses every tensor on the CPU: a metric that was computed there, or a net that lives there
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "cpu:gloo")
        atexit.register(_leave)
    return dist.get_rank(), dist.get_world_size()


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def place() -> tuple[int, int]:
    """Return (number of this process, how many there are); (0, 1) when nothing was started.

    Taught in: 22_gpu_practice
    """
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def share(batch: Any) -> Any:
    """Return the rows of a batch (B, …) that belong to this process, B / processes of them; all of them if alone.

    What has no rows (None) is returned as it is.

    Raises ValueError when B does not divide evenly: with unequal shares the mean of means is not the mean.

    Taught in: 22_gpu_practice
    """
    rank, count = place()
    if count == 1 or batch is None:
        return batch
    rows, rest = divmod(len(batch), count)
    if rest or not rows:
        raise ValueError(
            f"a batch of {len(batch)} rows does not divide evenly among {count} processes: choose such a batch size, "
            "and drop_last=True for the remainder"
        )
    return batch[rank * rows : (rank + 1) * rows]


def draw(
    shape: tuple[int, ...],
    rng: torch.Generator,
    dtype: torch.dtype,
    *,
    sample: Callable[..., Tensor] = torch.randn,
    device: torch.device | None = None,
) -> Tensor:
    """Return random numbers, `shape` (B, …), drawn on `rng.device`: in all processes together one draw.

    Each process draws the numbers of all and keeps its rows, so that the generators stay in step and B rows here are
    the rows that a single process would have drawn for these examples.

    sample: `torch.randn` (standard normal) or `torch.rand` (uniform in [0, 1)).
    device: where the numbers are to go; without it they stay on `rng.device`.

    Taught in: 22_gpu_practice
    """
    rank, count = place()
    rows, *rest = shape
    # A copy from ordinary memory to a GPU waits until the GPU has done all that was asked of it before; a copy from
    # pinned memory takes its turn in the queue.
    pinned = rng.device.type == "cpu" and device is not None and device.type == "cuda"
    every = sample((count * rows, *rest), generator=rng, device=rng.device, dtype=dtype, pin_memory=pinned)
    mine = every[rank * rows : (rank + 1) * rows]
    return mine if device is None else mine.to(device, non_blocking=pinned)


@contextmanager
def together(everything: Mapping[str, Any]) -> Iterator[None]:
    """Within this context every optimiser of the state (name → object) steps along the average of all gradients.

    Before anything moves the processes compare what they start from: another set of weights or another state of a
    generator is a ValueError that names it. A net with BatchNorm gets a warning: its statistics are those of one
    process's share (`torch.nn.SyncBatchNorm`, for GPUs, asks all processes). Alone, nothing happens.

    Taught in: 22_gpu_practice
    """
    rank, count = place()
    if count == 1:
        yield
        return
    _same_start(everything)
    optimisers = [value for value in everything.values() if isinstance(value, torch.optim.Optimizer)]
    if not optimisers:
        raise ValueError(f"{count} processes, but the state holds no optimiser: there is nothing to average before")
    for name, value in everything.items():
        if isinstance(value, nn.Module) and any(
            isinstance(m, nn.modules.batchnorm._BatchNorm) and not isinstance(m, nn.SyncBatchNorm)
            for m in value.modules()
        ):
            if rank == 0:
                warnings.warn(
                    f"{name!r} has BatchNorm: each process normalises with its own share of the batch, so {count} "
                    "processes do not equal one",
                    stacklevel=4,
                )
    handles = [optimiser.register_step_pre_hook(_average_gradients) for optimiser in optimisers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def total(sums: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes; the tensor itself if alone.

    Taught in: 22_gpu_practice
    """
    if place()[1] > 1:
        dist.all_reduce(sums)
    return sums


def wait() -> None:
    """Wait until every process has come this far.

    Taught in: 22_gpu_practice
    """
    if place()[1] > 1:
        dist.barrier()


def _average_gradients(optimiser: torch.optim.Optimizer, *_) -> None:
    """One message for all gradients of an optimiser, in the order of its parameters."""
    gradients = [p.grad for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
    if not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, average in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(average.view_as(gradient))


def _same_start(everything: Mapping[str, Any]) -> None:
    mine = {name: _digest(value) for name, value in everything.items()}
    every: list = [None] * dist.get_world_size()
    dist.all_gather_object(every, mine)
    for number, other in enumerate(every):
        for name in mine:
            if other.get(name) != every[0].get(name):
                raise ValueError(
                    f"process {number} starts with another {name!r} than process 0: seed every process alike, and "
                    "let each run the same lines"
                )


def _digest(value: Any) -> str:
    """A short name of all numbers in a module, a generator, a tensor or whatever has a state, wherever they lie."""
    digest = hashlib.sha256()
    _feed(digest.update, value)
    return digest.hexdigest()


def _feed(update: Callable[[Any], None], value: Any) -> None:
    """Every number counts; the device does not, for each process has one of its own."""
    if isinstance(value, torch.Generator):
        value = value.get_state()
    elif hasattr(value, "state_dict"):
        value = value.state_dict()
    if isinstance(value, Tensor):
        update(f"tensor {value.dtype} {tuple(value.shape)} ".encode())
        update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    elif isinstance(value, Mapping):
        update(f"dict {len(value)} ".encode())
        for key in sorted(value, key=repr):
            _feed(update, key)
            _feed(update, value[key])
    elif isinstance(value, list | tuple):
        update(f"list {len(value)} ".encode())
        for item in value:
            _feed(update, item)
    elif isinstance(value, str | bytes | int | float | complex | None):
        update(f"{value!r} ".encode())
    else:
        update(f"{type(value).__qualname__} ".encode())  # its text may hold an address, another in each process
