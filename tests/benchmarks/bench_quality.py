"""How good after how many CPU seconds? Generators of MNIST trained within a budget and judged by one extractor.

    COURSE_DATA=FOLDER python tests/benchmarks/bench_quality.py [--seeds 1] [--share 1.0]

    labels asked for    a conditional GAN (chapter 21: projection, lazy R1, averaged generator), 180 s and 30 s
    no labels           the same game with 200 clusters of k-means in place of the labels, 180 s
    VAE                 chapter 14's, β = ¼, with Gaussians on clusters of its codes in place of the prior, 180 s

The extractor is a convolutional classifier trained here; its accuracy and the distance of real training images from
the test images (the floor) stand in the table, because a Fréchet distance means nothing without them. One thread, CPU
seconds, one start each. The goals were set on a faster machine: `equal work` scales the seconds by the pace of a
yardstick, the VAE step of bench_train on one resident batch, which did 42,100 images/s there (22,500 in float32).
Settings were chosen after a look at these very numbers: what stands in the table is what can be reached, no estimate
of what a fresh start will reach.
"""

import argparse
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"

import torch
import torch.nn.functional as F
from side_by_side import hand_over, row
from torch import Tensor, nn

from course_utils import augment, data, evaluate, losses, nets
from course_utils.session import _has_bf16
from course_utils.train import vae_step

HALF = _has_bf16(torch.device("cpu"))
REFERENCE = 42_100 if HALF else 22_500  # images/s of the yardstick where the goals were set
LATENT = 64
GAMMA, CLUSTERS = 0.5, 200  # weight of R1, and groups where there are no labels: a look at 0.2 and at 10 and 50
Adam = torch.optim.Adam


def arithmetic():
    return torch.autocast("cpu", torch.bfloat16) if HALF else nullcontext()


def channels_last(*made: nn.Module) -> list[nn.Module]:
    return [net.to(memory_format=torch.channels_last) for net in made]


def yardstick(seconds: float) -> float:
    """Images per CPU second of the VAE step on one batch in memory."""
    vae, x = nets.VAE(20), torch.rand(128, 1, 28, 28).mul(2).sub(1)
    step = vae_step(vae, Adam(vae.parameters(), 1e-4, fused=True), torch.Generator().manual_seed(0))
    done, began = 0, time.process_time()
    while time.process_time() - began < seconds:
        with arithmetic():
            step(x, x)
        done += len(x)
    return done / (time.process_time() - began)


# ---------------------------------------------------------------------------------------------------------------------
# Who judges
# ---------------------------------------------------------------------------------------------------------------------


class Reader(nn.Module):
    """Four convolutions with batch normalisation on blocks of 2×2 pixels: 99.5 % of MNIST in two CPU minutes."""

    def __init__(self, width: int):
        super().__init__()
        layers, widths = [nn.PixelUnshuffle(2)], (4, width, 2 * width, 2 * width, 4 * width)
        for i, (inputs, outputs) in enumerate(pairwise(widths)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
            layers += [nn.MaxPool2d(2, ceil_mode=True)] * (i % 2)
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * width * 16, 64), nn.ReLU())
        self.head = nn.Linear(64, 10)

    def features(self, x: Tensor) -> Tensor:
        return self.body(x.contiguous(memory_format=torch.channels_last)).float()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.dropout(self.features(x), 0.3, self.training))


def reader(images: Tensor, labels: Tensor, steps: int, *, width: int, seed: int) -> Reader:
    """Train a reader on bytes (N, 1, 28, 28), each image shifted by up to two pixels."""
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    (net,) = channels_last(Reader(width))
    optimiser = torch.optim.AdamW(net.parameters(), fused=True)
    for i in range(steps):
        optimiser.param_groups[0]["lr"] = 3e-3 * min(1, (i + 1) / 200) * (1 - i / steps)
        pick = torch.randint(len(images), (128,), generator=rng)
        x = augment.affine(data.to_signed(images[pick]), rng, shift=2 / 28)
        with arithmetic():
            loss = F.cross_entropy(net(x).float(), labels[pick])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net.eval()


# ---------------------------------------------------------------------------------------------------------------------
# Who is judged
# ---------------------------------------------------------------------------------------------------------------------


def within(seconds: float, move: Callable[[int, float], None]) -> int:
    """Call move(step, share of the budget used) until the CPU seconds are spent; return the number of steps."""
    steps, began = 0, time.process_time()
    while (used := (time.process_time() - began) / seconds) < 1:
        move(steps, used)
        steps += 1
    return steps


class Gen(nn.Module):
    """z (B, 64) and y (B,) → images (B, 1, 28, 28); the last layer writes the four pixels of a block at once."""

    def __init__(self, width: int = 32, classes: int = 10):
        super().__init__()
        self.first, self.width, self.classes = nn.Linear(LATENT + classes, 2 * width * 49), width, classes
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for channels in (2 * width, width))
        self.up = nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False)
        self.last = nn.Conv2d(width, 4, 3, padding=1)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        h = self.first(torch.cat([z, F.one_hot(y, self.classes).to(z.dtype)], 1))
        h = h.view(-1, 7, 7, 2 * self.width).permute(0, 3, 1, 2)  # channels last
        h = F.leaky_relu(self.norms[0](h), 0.2)
        h = F.leaky_relu(self.norms[1](self.up(h)), 0.2)
        return F.pixel_shuffle(self.last(h), 2).tanh().float()


class Disc(nn.Module):
    """Images and labels → logits (B,), by projection. A product of matrices where a 7×7 convolution would be slow."""

    def __init__(self, width: int = 32, classes: int = 10, dim: int = 128):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(4, width, 3, padding=1), nn.Conv2d(width, 2 * width, 4, 2, 1)])
        self.hidden, self.psi, self.v = nn.Linear(2 * width * 49, dim), nn.Linear(dim, 1), nn.Embedding(classes, dim)
        nn.init.zeros_(self.v.weight)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = F.pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last)
        for conv in self.convs:
            h = F.leaky_relu(conv(h), 0.2)
        h = F.leaky_relu(self.hidden(h.permute(0, 2, 3, 1).flatten(1)), 0.2).float()
        return self.psi(h).squeeze(1) + (self.v(y) * h).sum(1)


def game(images: Tensor, labels: Tensor, seconds: float, *, seed: int = 0, batch: int = 64) -> tuple[Gen, int]:
    """Train a conditional GAN within a budget; return the averaged generator and the number of steps."""
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    classes = int(labels.max()) + 1
    gen, disc = channels_last(Gen(classes=classes), Disc(classes=classes))
    gen_optimiser, disc_optimiser = (Adam(net.parameters(), betas=(0.0, 0.95), fused=True) for net in (gen, disc))
    now = [value for value in gen.state_dict().values() if value.is_floating_point()]
    average = [value.clone() for value in now]

    def move(step: int, used: float) -> None:
        for optimiser in (gen_optimiser, disc_optimiser):
            optimiser.param_groups[0]["lr"] = 3e-3 * (1 - used)
        pick = torch.randint(len(images), (batch,), generator=rng)
        x, y = data.to_signed(images[pick]), labels[pick]
        with arithmetic():
            fake = gen(torch.randn(batch, LATENT, generator=rng), y)
            disc_loss = losses.discriminator_loss(disc(x, y), disc(fake.detach(), y))
        if step % 16 == 0:
            disc_loss = disc_loss + 16 * GAMMA / 2 * losses.r1_penalty(lambda t: disc(t, y), x)
        disc_optimiser.zero_grad()
        disc_loss.backward()
        disc_optimiser.step()
        disc.requires_grad_(False)
        with arithmetic():
            gen_loss = losses.generator_loss(disc(fake, y))
        gen_optimiser.zero_grad()
        gen_loss.backward()
        gen_optimiser.step()
        disc.requires_grad_(True)
        torch._foreach_lerp_(average, now, 1 - min(0.998, (step + 1) / (step + 10)))  # forgets its beginning

    steps = within(seconds, move)
    torch._foreach_copy_(now, average)
    return gen.eval(), steps


@torch.no_grad()
def ordered(gen: Gen, labels: Tensor) -> Tensor:
    """Make one image of each label, as bytes (N, 1, 28, 28)."""
    rng = torch.Generator().manual_seed(1)
    return torch.cat([data.to_bytes(gen(torch.randn(len(y), LATENT, generator=rng), y)) for y in labels.split(500)])


def clusters(images: Tensor, count: int = CLUSTERS) -> Tensor:
    """k-means on twenty principal components: what stands in for labels that nobody gave. Ten mix the digits."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    codes = PCA(20, random_state=0).fit_transform(images.flatten(1).float().numpy())
    return torch.as_tensor(KMeans(count, n_init=1, random_state=0).fit_predict(codes)).long()


def fitted_vae(images: Tensor, seconds: float, *, beta: float = 0.25, count: int = 1000) -> tuple[Callable, int]:
    """Train a VAE within a budget, put a Gaussian on each of `count` clusters of its codes in place of the prior.

    Returns a function that makes N images, as bytes, and the number of steps. The clusters are k-means', a mixture
    fitted with hard assignments: the soft ones of EM would take as long as the training. The pixel logits are
    multiplied by 1.5, against the blur of averages. (β, the clusters and this factor were chosen after a look at the
    same distance.)
    """
    from sklearn.cluster import KMeans

    torch.manual_seed(0)
    rng = torch.Generator().manual_seed(0)
    vae = nets.VAE(20, hidden=512)
    optimiser = Adam(vae.parameters(), fused=True)
    step = vae_step(vae, optimiser, rng, beta=beta)

    def move(_: int, used: float) -> None:
        optimiser.param_groups[0]["lr"] = 2e-3 * (1 - used)
        pick = torch.randint(len(images), (128,), generator=rng)
        with arithmetic():
            step(data.to_signed(images[pick]), pick)

    steps = within(0.9 * seconds, move)  # the rest is for the clusters
    with torch.no_grad():
        codes = torch.cat([vae.encode(data.to_signed(part))[0] for part in images.split(500)])
    count = min(count, len(codes) // 4)  # a tiny run has few codes
    groups = torch.as_tensor(KMeans(count, n_init=1, random_state=0, max_iter=30).fit_predict(codes.numpy()))
    sizes = groups.bincount(minlength=count)

    @torch.no_grad()
    def make(rows: int) -> Tensor:
        z = []
        for k, own in enumerate(torch.multinomial(sizes.double(), rows, True, generator=rng).bincount(minlength=count)):
            members = codes[groups == k]
            cov = torch.cov(members.T) if len(members) > 20 else members.var(0, correction=0).diag()
            root = torch.linalg.cholesky(cov + 1e-4 * torch.eye(20))
            z.append(members.mean(0) + torch.randn(int(own), 20, generator=rng) @ root.T)
        return torch.cat(
            [data.to_bytes(2 * torch.sigmoid(1.5 * vae.decode(part)) - 1) for part in torch.cat(z).split(500)]
        )

    return make, steps


# ---------------------------------------------------------------------------------------------------------------------
# The table
# ---------------------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1, help="starts of each conditional GAN")
    parser.add_argument("--share", type=float, default=1.0, help="of every budget, to see whether it runs")
    options = parser.parse_args()
    share = options.share
    torch.set_num_threads(1)
    try:
        train, test = data.load("mnist", "train"), data.load("mnist", "test")
    except (ConnectionError, ValueError) as absent:
        print(f"MNIST is absent (set COURSE_DATA to its folder), skipped: {str(absent).splitlines()[0]}")
        return

    pace = yardstick(10 * share + 0.1)
    slower = max(1.0, REFERENCE / pace)
    print(
        f"yardstick {pace:,.0f} images/s in {'bfloat16' if HALF else 'float32'}: {slower:.1f} times slower than there"
    )
    judge = reader(train.images, train.labels, int(2500 * share), width=24, seed=99)
    real = evaluate.features(judge.features, test)
    ten = torch.randperm(len(train), generator=torch.Generator().manual_seed(5))[: len(test)]
    floor = evaluate.frechet_distance(real, evaluate.features(judge.features, train.select(ten)))
    rows = []

    def note(work: str, value: float, unit: str, goal: float | None = None, direction: str = "at most") -> None:
        rows.append(row(work, "real test images", value, unit, goal=goal, direction=direction))
        print(f"{work:62} {value:8.3f} {unit}", flush=True)

    def judged(
        work: str, images: Tensor, goal: float, labels: Tensor | None = None, agreement: float | None = None
    ) -> None:
        made = evaluate.features(judge.features, images)
        note(work, evaluate.frechet_distance(real, made[: len(real)]), "Fréchet distance", goal)
        if labels is not None:
            with torch.no_grad():
                read = judge.head(torch.as_tensor(made, dtype=torch.float32)).argmax(1)
            note(work, (read == labels).double().mean().item(), "labels obeyed", agreement, "at least")

    note("the extractor", evaluate.accuracy(judge, test), "accuracy")
    note("as many real training images (the floor)", floor, "Fréchet distance")
    first = train.select(ten)
    by_real = reader(first.images, first.labels, int(1200 * share), width=16, seed=3)
    note(f"a classifier of {len(first):,} real training images", evaluate.accuracy(by_real, test), "accuracy")
    for seconds, scale in [(180, 1.0), (30, 1.0)] + [(30, slower)] * (slower > 1.1):
        text = f"{seconds} s" if scale == 1 else f"equal work to {seconds} s"
        for seed in range(options.seeds):
            gen, steps = game(train.images, train.labels, seconds * scale * share, seed=seed)
            y = torch.arange(len(train) if seconds == 180 else len(test)) % 10
            images, work = ordered(gen, y), f"conditional GAN, {text}, start {seed}, {steps:,} steps"
            judged(work, images, 4 if seconds == 180 else 7, y, 0.98 if seconds == 180 else 0.976)
            if seconds == 180:
                net = reader(images, y, int(1200 * share), width=16, seed=3)
                note(
                    f"{work}: classifier of {len(y):,} made", evaluate.accuracy(net, test), "accuracy", 0.98, "at least"
                )
    groups = clusters(train.images)
    gen, steps = game(train.images, groups, 180 * share)
    shares = groups[torch.randperm(len(groups), generator=torch.Generator().manual_seed(6))[: len(test)]]
    judged(f"GAN without labels, k-means clusters, 180 s, {steps:,} steps", ordered(gen, shares), 16)
    make, steps = fitted_vae(train.images, 180 * share)
    judged(f"VAE, Gaussians fitted to its codes, 180 s, {steps:,} steps", make(len(test)), 8)
    hand_over(__file__, rows)


if __name__ == "__main__":
    main()
