"""What does the loop cost? Images per CPU second of `fit` beside the loop that people copy and beside the limit.

    python tests/benchmarks/bench_train.py [--rounds 7] [--images 8192] [--only "vae;dcgan"]

Works on rule-made digits: a VAE 784-400-20, a DCGAN of 32×32 with upsampling and 128 channels, a WGAN-GP of two
multilayer perceptrons with five critic moves to one, and a small convolutional classifier. Every timed piece of work
starts from fresh nets. One thread, CPU seconds (a busy neighbour hardly matters), the rivals take turns, medians of
ratios of neighbours in time. No gate: a table.

    plain        the loop as it is widely copied: DataLoader, one transform per image, probabilities before the loss,
                 Adam as it comes, gradients that nobody needs, `.item()` in every step
    limit        the same step as fit's, on one batch that already lies in memory: no loop can be faster
    bare         `for x, y in batches: step(x, y)`: nothing measured, nothing shown
    fit          course_utils.train.fit with history and progress
    … bf16       the same in half precision, where the processor has it
    tiny …       the last two with a step that does next to nothing: microseconds that fit adds to a batch
"""

import argparse
import os
import statistics
from contextlib import nullcontext
from itertools import pairwise

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"

import torch
import torch.nn.functional as F
from side_by_side import hand_over, per_item, ratio, row, take_turns
from torch import nn

from course_utils import losses, session
from course_utils.data import ImageSet, batches
from course_utils.nets import VAE, Classifier
from course_utils.rules import draw_digits
from course_utils.train import classifier_step, fit, gan_step, vae_step

PLAIN_GOALS = {"vae": (1.7, 3.0), "dcgan, fakes reused": (2.2, 3.1), "wgan-gp": (1.75, None)}  # float32, bfloat16
LOOP_GOALS = {"vae": (0.95, 1.05)}  # at least this share of the limit, at most this many times a bare loop
Adam = torch.optim.Adam


# ---------------------------------------------------------------------------------------------------------------------
# VAE
# ---------------------------------------------------------------------------------------------------------------------


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


def plain_vae(part, batch):
    loader, model = per_item(part, batch, centred=False), PlainVAE()
    optimizer = Adam(model.parameters(), lr=1e-3)

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


def our_vae(half):
    vae = VAE(20)
    return vae_step(vae, Adam(vae.parameters(), 1e-3, fused=True), torch.Generator().manual_seed(1))


# ---------------------------------------------------------------------------------------------------------------------
# DCGAN: one pair of nets, two ways to compute "make it twice as large, then convolve"
# ---------------------------------------------------------------------------------------------------------------------


class UpConv(nn.Sequential):
    """Repeat each pixel twice along both axes, then a 3×3 convolution."""

    def __init__(self, inputs, outputs):
        super().__init__(nn.Upsample(scale_factor=2), nn.Conv2d(inputs, outputs, 3, padding=1))


class FoldedUpConv(UpConv):
    """The same function of the same weights as one transposed convolution, kernel 4 and stride 2: a pixel that is
    repeated twice meets neighbouring weights of the kernel, so they can be added first. (Chapter 22.)"""

    def forward(self, x):
        conv = self[1]
        box = F.pad(conv.weight.flip(2, 3), (1, 1, 1, 1))  # (out, in, 5, 5)
        kernel = box[..., :-1, :-1] + box[..., 1:, :-1] + box[..., :-1, 1:] + box[..., 1:, 1:]  # (out, in, 4, 4)
        return F.conv_transpose2d(x, kernel.transpose(0, 1), conv.bias, stride=2, padding=1)


def dcgan_nets(up):
    gen = nn.Sequential(
        nn.Linear(100, 128 * 8 * 8), nn.Unflatten(1, (128, 8, 8)), nn.BatchNorm2d(128),
        up(128, 128), nn.BatchNorm2d(128), nn.LeakyReLU(0.2),
        up(128, 64), nn.BatchNorm2d(64), nn.LeakyReLU(0.2),
        nn.Conv2d(64, 1, 3, padding=1), nn.Tanh(),
    )  # fmt: skip
    layers, widths = [], (1, 16, 32, 64, 128)
    for inputs, outputs in pairwise(widths):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.LeakyReLU(0.2), nn.Dropout2d(0.25)]
        layers += [nn.BatchNorm2d(outputs)] * (inputs > 1)
    return gen, nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 2 * 2, 1))


def plain_dcgan(part, batch):
    gen, disc = dcgan_nets(UpConv)
    loader, loss = per_item(part, batch, centred=True), nn.BCELoss()
    optimizer_g, optimizer_d = Adam(gen.parameters(), 2e-4, (0.5, 0.999)), Adam(disc.parameters(), 2e-4, (0.5, 0.999))

    def epoch():
        shown = []
        for images, _ in loader:
            valid, false = torch.ones(len(images), 1), torch.zeros(len(images), 1)
            optimizer_g.zero_grad()
            made = gen(torch.randn(len(images), 100))
            g_loss = loss(torch.sigmoid(disc(made)), valid)
            g_loss.backward()
            optimizer_g.step()
            optimizer_d.zero_grad()
            real_loss = loss(torch.sigmoid(disc(images)), valid)
            fake_loss = loss(torch.sigmoid(disc(made.detach())), false)
            d_loss = (real_loss + fake_loss) / 2
            d_loss.backward()
            optimizer_d.step()
            shown.append((d_loss.item(), g_loss.item()))

    return epoch


def dcgan_parts(half):
    """The fold saves float32 half of its products; a processor with matrix units for bf16 loses more in turning the
    layout round than it saves, so there the two operations stay apart."""
    gen, disc = (net.to(memory_format=torch.channels_last) for net in dcgan_nets(UpConv if half else FoldedUpConv))
    return gen, disc, *(Adam(net.parameters(), 2e-4, (0.5, 0.999), fused=True) for net in (gen, disc))


def our_dcgan(half):
    return gan_step(*dcgan_parts(half), torch.Generator().manual_seed(1), latent=100)


def reusing_dcgan(half):
    """The same moves, but the generator learns from the images that the discriminator has just seen, as in the plain
    loop: one pass through the generator less than `gan_step`, which draws anew for each move."""
    gen, disc, gen_optimiser, disc_optimiser = dcgan_parts(half)
    rng = torch.Generator().manual_seed(1)

    def step(x, y):
        fake = gen(torch.randn(len(x), 100, generator=rng))
        disc_loss = losses.discriminator_loss(disc(x), disc(fake.detach()))
        disc_optimiser.zero_grad()
        disc_loss.backward()
        disc_optimiser.step()
        disc.requires_grad_(False)
        gen_loss = losses.generator_loss(disc(fake))
        gen_optimiser.zero_grad()
        gen_loss.backward()
        gen_optimiser.step()
        disc.requires_grad_(True)
        return {"disc_loss": disc_loss.detach(), "gen_loss": gen_loss.detach()}

    return step


# ---------------------------------------------------------------------------------------------------------------------
# WGAN-GP: five moves of the critic, then one of the generator
# ---------------------------------------------------------------------------------------------------------------------


def wgan_nets():
    gen = nn.Sequential(
        nn.Linear(100, 128), nn.LeakyReLU(0.2),
        nn.Linear(128, 256), nn.BatchNorm1d(256), nn.LeakyReLU(0.2),
        nn.Linear(256, 512), nn.BatchNorm1d(512), nn.LeakyReLU(0.2),
        nn.Linear(512, 1024), nn.BatchNorm1d(1024), nn.LeakyReLU(0.2),
        nn.Linear(1024, 784), nn.Tanh(), nn.Unflatten(1, (1, 28, 28)),
    )  # fmt: skip
    disc = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 512), nn.LeakyReLU(0.2), nn.Linear(512, 256), nn.LeakyReLU(0.2), nn.Linear(256, 1)
    )
    return gen, disc


def plain_wgan(part, batch):
    gen, disc = wgan_nets()
    loader = per_item(part, batch, centred=True)
    optimizer_g, optimizer_d = Adam(gen.parameters(), 2e-4, (0.5, 0.999)), Adam(disc.parameters(), 2e-4, (0.5, 0.999))

    def penalty(real, fake):
        alpha = torch.rand(len(real), 1, 1, 1)
        mixed = (alpha * real + (1 - alpha) * fake).requires_grad_(True)
        score = disc(mixed)
        (slope,) = torch.autograd.grad(
            score, mixed, torch.ones_like(score), create_graph=True, retain_graph=True, only_inputs=True
        )
        return ((slope.flatten(1).norm(2, dim=1) - 1) ** 2).mean()

    def epoch():
        shown = []
        for i, (images, _) in enumerate(loader):
            optimizer_d.zero_grad()
            z = torch.randn(len(images), 100)
            made = gen(z)  # its graph is kept, and run through backwards, for nothing
            d_loss = -disc(images).mean() + disc(made).mean() + 10 * penalty(images.data, made.data)
            d_loss.backward()
            optimizer_d.step()
            optimizer_g.zero_grad()
            if i % 5 == 0:
                g_loss = -disc(gen(z)).mean()
                g_loss.backward()
                optimizer_g.step()
            shown.append((d_loss.item(), g_loss.item()))

    return epoch


def our_wgan(half):
    gen, disc = wgan_nets()
    rng = torch.Generator().manual_seed(1)
    gen_optimiser, disc_optimiser = (Adam(net.parameters(), 2e-4, (0.5, 0.999), fused=True) for net in (gen, disc))
    taken = 0

    def step(x, y):
        nonlocal taken
        with torch.no_grad():
            fake = gen(torch.randn(len(x), 100, generator=rng))
        disc_loss = losses.discriminator_loss(disc(x), disc(fake), kind="wasserstein")
        disc_optimiser.zero_grad()
        (disc_loss + 10 * losses.gradient_penalty(disc, x, fake, rng)).backward()
        disc_optimiser.step()
        if taken % 5 == 0:
            disc.requires_grad_(False)
            gen_loss = losses.generator_loss(disc(gen(torch.randn(len(x), 100, generator=rng))), kind="wasserstein")
            gen_optimiser.zero_grad()
            gen_loss.backward()
            gen_optimiser.step()
            disc.requires_grad_(True)
        taken += 1
        return {"disc_loss": disc_loss.detach()}

    return step


# ---------------------------------------------------------------------------------------------------------------------
# Classifier
# ---------------------------------------------------------------------------------------------------------------------


def plain_classifier(part, batch):
    loader, model, criterion = per_item(part, batch, centred=True), Classifier(10), nn.CrossEntropyLoss()
    optimizer = Adam(model.parameters(), lr=1e-3)

    def epoch():
        total, right = 0.0, 0
        for data, target in loader:
            optimizer.zero_grad()
            output = model(data)
            loss = criterion(output, target)
            loss.backward()
            optimizer.step()
            total += loss.item()
            right += (output.argmax(1) == target).sum().item()

    return epoch


def our_classifier(half):
    net = Classifier(10)
    if half:  # in float32 this layout gains nothing for one input channel
        net = net.to(memory_format=torch.channels_last)
    return classifier_step(net, Adam(net.parameters(), 1e-3, fused=True))


# ---------------------------------------------------------------------------------------------------------------------
# Side by side
# ---------------------------------------------------------------------------------------------------------------------

WORKS = {
    "vae": ("VAE 784-400-20", 128, 28, plain_vae, our_vae),
    "dcgan": ("DCGAN 32×32, fakes drawn for each move", 64, 32, plain_dcgan, our_dcgan),
    "dcgan, fakes reused": ("DCGAN 32×32, fakes used twice", 64, 32, plain_dcgan, reusing_dcgan),
    "wgan-gp": ("WGAN-GP, multilayer perceptrons, 5 to 1", 64, 28, plain_wgan, our_wgan),
    "classifier": ("classifier, two convolutions", 128, 28, plain_classifier, our_classifier),
}


def rivals(part: ImageSet, batch: int, plain, ours) -> dict:
    """name → a function that makes fresh nets and returns a work: it goes through len(part) images once."""

    def fresh_plain():
        torch.manual_seed(0)
        return plain(part, batch)

    made = {"plain": fresh_plain}
    for half in [False] + [True] * session._has_bf16(torch.device("cpu")):
        for kind in ("limit", "bare", "fit"):

            def fresh(half=half, kind=kind):
                torch.manual_seed(0)
                parts, step = batches(part, batch, torch.Generator().manual_seed(2)), ours(half)
                resident = [next(iter(parts))] * len(parts)

                def arithmetic():
                    return torch.autocast("cpu", torch.bfloat16) if half else nullcontext()

                def work():
                    if kind == "fit":
                        with arithmetic():
                            fit(step, parts, 1)
                        return
                    for x, y in resident if kind == "limit" else parts:
                        with arithmetic():  # leaving it drops the half-precision weights, which the step made stale
                            step(x, y)

                return work

            made[kind + " bf16" * half] = fresh
    return made


def overhead(rounds: int, count: int) -> float:
    """Seconds that fit adds to one batch with three metrics, its own start and end included."""
    value, x, y = torch.tensor(1.0), torch.zeros(1), torch.zeros(1)

    def tiny(x, y):
        return {"loss": value, "reconstruction": value, "kl": value}

    resident = [(x, y)] * count

    def bare():
        for x, y in resident:
            tiny(x, y)

    seconds = take_turns({"bare": lambda: bare, "fit": lambda: lambda: fit(tiny, resident, 1)}, rounds)
    return statistics.median(a - b for a, b in zip(seconds["fit"], seconds["bare"], strict=True)) / count


def rows_of(key: str, title: str, seconds: dict) -> list[dict]:
    """What the seconds of one work say about fit: beside plain, limit and bare, for each arithmetic."""
    least, most = LOOP_GOALS.get(key, (None, None))
    rows = []
    for half in ["", " bf16"][: 1 + ("fit bf16" in seconds)]:
        name, arithmetic = f"fit{half}", "bfloat16" if half else "float32"
        goal = PLAIN_GOALS.get(key, (None, None))[bool(half)]
        share, times = ratio(seconds, name, f"limit{half}"), 1 / ratio(seconds, name, f"bare{half}")
        rows += [
            row(title, "plain loop", ratio(seconds, name, "plain"), goal=goal, arithmetic=arithmetic),
            row(title, "limit", share, "share of the limit", goal=least, arithmetic=arithmetic),
            row(title, "bare loop", times, "× time", goal=most, direction="at most", arithmetic=arithmetic),
        ]
    return rows


def main() -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=8192, help="for the VAE; the others take a part of them")
    parser.add_argument("--only", default=";".join(WORKS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{arguments.rounds} rounds, torch {torch.__version__}, 1 thread, images per CPU second")
    rows = []
    for key in arguments.only.split(";"):
        title, batch, size, plain, ours = WORKS[key]
        share = {"vae": 1, "classifier": 4, "wgan-gp": 4}.get(key, 16)
        batch = min(batch, max(2, arguments.images // share))
        count = max(1, arguments.images // share // batch) * batch
        part, _ = draw_digits(torch.arange(count) % 10, torch.Generator().manual_seed(0), size=size)
        seconds = take_turns(rivals(part, batch, plain, ours), arguments.rounds)
        rows += rows_of(key, title, seconds)
        print(f"\n{title}, batch {batch}, {len(part)} images")
        print(f"{'':12} {'images/s':>10} {'× plain':>8} {'goal':>6} {'of limit':>9} {'over bare':>10}")
        for name in seconds:
            half = " bf16" if name.endswith("bf16") else ""
            goal = PLAIN_GOALS.get(key, (None, None))[bool(half)] if name.startswith("fit") else None
            print(
                f"{name:12} {len(part) / statistics.median(seconds[name]):10,.0f} "
                f"{ratio(seconds, name, 'plain'):8.2f} {goal or '':>6} "
                f"{ratio(seconds, name, 'limit' + half):9.1%} {1 / ratio(seconds, name, 'bare' + half) - 1:+10.1%}"
            )
    micro = overhead(arguments.rounds, 64) * 1e6
    print(f"\nfit adds {micro:.1f} µs to a batch with three metrics")
    return [*rows, row("fit, for each batch with three metrics", "bare loop", micro, "µs more", direction="at most")]


if __name__ == "__main__":
    hand_over(__file__, main())
