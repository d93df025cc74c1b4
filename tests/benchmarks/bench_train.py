"""What does the loop cost? Images per CPU second of `fit` beside what it could be, VAE 784-400-20, batch 128.

    python tests/benchmarks/bench_train.py [--rounds 7] [--images 8192]

One thread, CPU seconds (a busy neighbour hardly matters), the rivals take turns, medians. No gate: a table.

    plain       the loop as it is widely copied: DataLoader, one transform per image, sigmoid + binary cross-entropy,
                Adam as it comes, `.item()` in every step
    limit       the same step as fit's, on one batch that already lies in memory: no loop can be faster
    bare        `for x, y in batches: step(x, y)`: nothing measured, nothing shown
    fit         course_utils.train.fit with history and progress
    fit, bf16   the same in half precision, where the processor has it
    tiny …      the same two with a step that does next to nothing: microseconds that fit adds to a batch
"""

import argparse
import os
import statistics
import time

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from course_utils.data import ImageSet, batches
from course_utils.nets import VAE
from course_utils.train import fit, vae_step

BATCH = 128


def make_set(count: int) -> ImageSet:
    """Random bytes: speed does not ask what they show."""
    images = torch.randint(256, (count, 1, 28, 28), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    source = np.array([f"noise/{i:05}" for i in range(count)])
    return ImageSet(images, torch.zeros(count, dtype=torch.int64), ("noise",), source)


def our_step():
    torch.manual_seed(0)
    vae = VAE(20)
    return vae_step(vae, torch.optim.Adam(vae.parameters(), 1e-3, fused=True), torch.Generator().manual_seed(1))


class PlainVAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc21, self.fc22 = nn.Linear(784, 400), nn.Linear(400, 20), nn.Linear(400, 20)
        self.fc3, self.fc4 = nn.Linear(20, 400), nn.Linear(400, 784)

    def forward(self, x):
        h = F.relu(self.fc1(x.view(-1, 784)))
        mu, logvar = self.fc21(h), self.fc22(h)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)
        return torch.sigmoid(self.fc4(F.relu(self.fc3(z)))), mu, logvar


def plain(part: ImageSet):
    """Returns a function that trains one epoch in the plain way."""
    from PIL import Image
    from torchvision import transforms

    class PerItem(torch.utils.data.Dataset):
        transform = transforms.ToTensor()

        def __len__(self):
            return len(part)

        def __getitem__(self, i):
            return self.transform(Image.fromarray(part.images[i, 0].numpy())), int(part.labels[i])

    loader = torch.utils.data.DataLoader(PerItem(), batch_size=BATCH, shuffle=True)
    model = PlainVAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def epoch():
        total = 0.0
        for data, _ in loader:
            optimizer.zero_grad()
            recon, mu, logvar = model(data)
            bce = F.binary_cross_entropy(recon, data.view(-1, 784), reduction="sum")
            loss = bce - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
            loss.backward()
            total += loss.item()
            optimizer.step()

    return epoch


def rivals(part: ImageSet) -> dict:
    """name → a function that works through len(part) images once."""
    made = {"plain": plain(part)}

    parts, step = batches(part, BATCH, torch.Generator().manual_seed(2)), our_step()
    x, y = next(iter(parts))

    def limit():
        for _ in range(len(parts)):
            step(x, y)

    made["limit"] = limit

    def bare():
        for x, y in parts:
            step(x, y)

    made["bare"] = bare
    made["fit"] = lambda: fit(step, parts, 1)

    def half():
        with torch.autocast("cpu", torch.bfloat16):
            fit(half_step, parts, 1)

    half_step = our_step()
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        made["fit, bf16"] = half

    value = torch.tensor(1.0)
    resident = [(x, y)] * len(parts)

    def tiny(x, y):
        return {"loss": value, "reconstruction": value, "kl": value}

    def tiny_bare():
        for x, y in resident:
            tiny(x, y)

    made["tiny bare"] = tiny_bare
    made["tiny fit"] = lambda: fit(tiny, resident, 1)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=BATCH * 64)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    part = make_set(arguments.images)
    made = rivals(part)
    for work in made.values():
        work()
    seconds = {name: [] for name in made}
    for turn in range(arguments.rounds):
        order = list(made) if turn % 2 == 0 else list(reversed(made))
        for name in order:
            started = time.process_time()
            made[name]()
            seconds[name].append(time.process_time() - started)

    def ratio(name, other):  # of neighbours in time, so that a slow minute hits both
        return statistics.median(b / a for a, b in zip(seconds[name], seconds[other], strict=True))

    count = len(part)
    print(
        f"VAE 784-400-20, batch {BATCH}, {count} images, {arguments.rounds} rounds, torch {torch.__version__}, 1 thread"
    )
    print(f"{'':10} {'images/s':>10} {'× plain':>8} {'of limit':>9} {'over bare':>10}")
    for name in [name for name in made if not name.startswith("tiny")]:
        speed = count / statistics.median(seconds[name])
        over = 1 / ratio(name, "bare") - 1
        print(f"{name:10} {speed:10,.0f} {ratio(name, 'plain'):8.2f} {ratio(name, 'limit'):9.1%} {over:+10.1%}")
    steps = -(-count // BATCH)
    cost = statistics.median(a - b for a, b in zip(seconds["tiny fit"], seconds["tiny bare"], strict=True)) / steps
    print(f"fit adds {cost * 1e6:.1f} µs to a batch with three metrics (its own start and end included)")


if __name__ == "__main__":
    main()
