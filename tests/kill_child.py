"""The child of test_kill.py: trains in forked processes that are killed, and prints what came out as JSON.

PyTorch is imported once; each attempt is a fork that builds its nets anew, resumes from the checkpoint and is killed
with SIGKILL: at a random moment, or at a chosen point of the writing. Nothing is trained before a fork.

    python kill_child.py FOLDER KILLS SEED
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
import torch._dynamo  # optimisers import it at their first step: seconds, once here and not once an attempt

from course_utils import train
from course_utils.data import ImageSet, batches
from course_utils.nets import VAE, Discriminator, Generator
from course_utils.train import fit, gan_step, vae_step

EPOCHS = 8
POINTS = ("half of the bytes", "before the flush", "before the rename", "after the rename")


def train_once(kind: str, checkpoint: Path, result: Path) -> None:
    """One whole call, as in a fresh process; what it ends with goes to `result`."""
    torch.manual_seed(0)
    images = torch.randint(256, (24, 1, 8, 8), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    source = np.array([f"noise/{i:02}" for i in range(24)])
    part = ImageSet(images, torch.zeros(24, dtype=torch.int64), ("noise",), source)
    parts = batches(part, 10, torch.Generator().manual_seed(2))
    rng = torch.Generator().manual_seed(3)
    if kind == "vae":
        net = VAE(2, size=8, hidden=8)
        optimiser = torch.optim.Adam(net.parameters(), 1e-2)
        step = vae_step(net, optimiser, rng, beta=lambda n: min(1.0, n / 20))
    else:
        net, disc = Generator(2, size=8, width=2), Discriminator(size=8, width=2)
        optimiser = torch.optim.Adam(net.parameters(), 1e-3, betas=(0.0, 0.95))
        step = gan_step(net, disc, optimiser, torch.optim.Adam(disc.parameters(), 1e-3), rng, latent=2)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.9)
    average = torch.optim.swa_utils.AveragedModel(net, use_buffers=True)

    def on_epoch(epoch, metrics):
        scheduler.step()
        average.update_parameters(net)
        metrics["drawn"] = torch.randn(()).item()  # on the global generator

    state = {"scheduler": scheduler, "average": average}
    history = fit(step, parts, EPOCHS, on_epoch=on_epoch, checkpoint=checkpoint, state=state, progress=False)
    values = {name: train._value(entry) for name, entry in {**step.state, **state}.items()}
    values |= {"order": parts.rng.get_state(), "global": torch.get_rng_state()}
    torch.save({"history": history, "values": values}, result)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(point: str, writes_before: int) -> None:
    """Make this process die at a point of its next checkpoint but `writes_before`."""
    left = [writes_before]
    save, flush, rename = torch.save, os.fsync, os.replace

    def due():
        left[0] -= 1
        return left[0] < 0

    def dying_save(payload, file):
        save(payload, file)
        if point == POINTS[0] and due():
            file.truncate(file.tell() // 2)
            file.flush()
            die()

    def dying_flush(handle):
        if point == POINTS[1] and due():
            die()
        flush(handle)

    def dying_rename(source, target):
        if point == POINTS[2] and due():
            die()
        rename(source, target)
        if point == POINTS[3] and due():
            die()

    torch.save, os.fsync, os.replace = dying_save, dying_flush, dying_rename


def attempt(kind: str, folder: Path, *, delay: float | None = None, prepare=lambda: None) -> bool:
    """Fork, train; kill after `delay` seconds. True: it was killed; False: it finished."""
    pid = os.fork()
    if pid == 0:
        try:
            prepare()
            train_once(kind, folder / "run.pt", folder / "result.pt")
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if delay is not None:
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return True
    if os.WEXITSTATUS(status) != 0:
        raise SystemExit(f"an attempt failed instead of going on from {folder}")
    return False


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def equal(folder: Path, other: Path) -> bool:
    return same(*(torch.load(path / "result.pt", weights_only=True) for path in (folder, other)))


def new(root: Path, name: str) -> Path:
    (root / name).mkdir()
    return root / name


def main(root: Path, kind: str, kills: int, seed: int) -> dict:
    luck = random.Random(seed)
    reference = new(root, "uninterrupted")
    started = time.perf_counter()
    attempt(kind, reference)
    span = time.perf_counter() - started
    report = {"random": 0, "inside a write": 0, "points": {}, "runs": 0, "equal": 0, "left over": []}

    def finish(folder):
        attempt(kind, folder)
        report["runs"] += 1
        report["equal"] += equal(folder, reference)
        report["left over"] += [path.name for path in folder.iterdir() if path.name not in ("run.pt", "result.pt")]

    while report["random"] < kills:
        folder = new(root, f"random {report['runs']}")
        # Each attempt gets up to a half of a whole run, so that most kills fall between the first and the last epoch.
        while attempt(kind, folder, delay=luck.uniform(0.02, 0.5) * span):
            report["random"] += 1
            report["inside a write"] += (folder / "run.pt.tmp").exists()
        finish(folder)

    for point in POINTS:
        folder = new(root, point)
        died = [attempt(kind, folder, prepare=lambda p=point, n=n: die_at(p, n)) for n in (0, 2)]
        report["points"][point] = sum(died)
        finish(folder)

    # Planted: a writer without the temporary file leaves half a checkpoint, which the next call must refuse.
    folder = new(root, "planted")

    def plant():
        die_at(POINTS[0], 1)
        path = Path.with_name
        Path.with_name = lambda self, name: self if name.endswith(".tmp") else path(self, name)

    attempt(kind, folder, prepare=plant)
    try:
        train._read(folder / "run.pt")
        report["planted"] = "not noticed"
    except ValueError as error:
        report["planted"] = str(error)
    return report


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, kills, seed = sys.argv[1:]
    print(json.dumps({kind: main(new(Path(folder), kind), kind, int(kills), int(seed)) for kind in ("vae", "gan")}))
