"""What test_parallel.py runs, alone and under torchrun: train small things and write down how each ended.

Arguments: the file for the results (the number of the process is appended) and a folder for a checkpoint. All in one
start, because importing PyTorch takes longer than any of it.
"""

import contextlib
import io
import sys
import warnings
from pathlib import Path

import torch
import tqdm
from torch import nn

from course_utils import data, losses, nets, parallel, train

Z = 4


def main(out, folder):
    rank, processes = parallel.start()
    results = {kind.__name__: trained(kind) for kind in (classifier, vae, gan, gan_r1, wgan_gp)}
    results["whole"] = trained(vae, epochs=3)
    trained(vae, epochs=1, checkpoint=folder / "stopped.pt")
    results["resumed"] = trained(vae, epochs=3, checkpoint=folder / "stopped.pt")
    results["stderr"] = shown(folder / f"{rank}.pt")
    if processes > 1:
        results["wrapped"] = trained(wrapped)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trained(normalised)
        results["warnings"] = [str(w.message) for w in caught if "BatchNorm" in str(w.message)]
        results["refusals"] = [refused(classifier, seed=rank), refused(classifier, batch=27)]
        results["uneven_end"] = uneven_end()
    torch.save(results, f"{out}.{rank}")


def trained(kind, *, epochs=2, batch=32, seed=0, checkpoint=None):
    """The history, all numbers of the nets and the generator's state after 10 steps an epoch."""
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(0)
    batches = data.batches(data.load("digits").select(torch.arange(320)), batch, rng)
    step, modules = kind(rng)
    history = train.fit(step, batches, epochs, checkpoint=checkpoint)
    numbers = {f"{name}.{key}": t for name, net in modules.items() for key, t in net.state_dict().items()}
    return {"history": history, "numbers": numbers, "rng": rng.get_state()}


def refused(kind, **options):
    try:
        trained(kind, **options)
    except ValueError as error:
        return str(error)


def shown(checkpoint):
    """What this process wrote to stderr in a run with a checkpoint of its own name and a bar that does not wait."""
    patient, text = tqdm.tqdm, io.StringIO()
    tqdm.tqdm = lambda *a, delay, **options: patient(*a, **options)
    try:
        with contextlib.redirect_stderr(text):
            trained(classifier, checkpoint=checkpoint)
    finally:
        tqdm.tqdm = patient
    return text.getvalue()


def uneven_end():
    """Nine batches of 34 divide by 2, the 15 rows at the end do not: how many steps are taken before it is said?"""
    steps = []
    loader = torch.utils.data.DataLoader(list(zip(torch.zeros(321, 1), torch.zeros(321), strict=True)), batch_size=34)
    parts = data.batches(data.load("digits").select(slice(321)), 34, torch.Generator())
    net = nn.Linear(1, 1)
    state = {"net": net, "optimiser": torch.optim.SGD(net.parameters(), 0.1)}
    said = []
    for source in (parts, loader):
        try:
            train.fit(lambda x, y: steps.append(x), source, 1, state=state)
        except ValueError as error:
            said.append(str(error))
    return {"steps": len(steps), "said": said}


def classifier(rng):
    net = nets.Classifier(10, width=4, dim=16)
    return train.classifier_step(net, torch.optim.Adam(net.parameters(), 1e-3)), {"net": net}


def normalised(rng):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
    return train.classifier_step(net, torch.optim.Adam(net.parameters(), 1e-3)), {"net": net}


def vae(rng):
    net = nets.VAE(Z, size=8, hidden=32)
    return train.vae_step(net, torch.optim.Adam(net.parameters(), 1e-3), rng, beta=lambda s: min(1.0, s / 5)), {
        "vae": net
    }


def players():
    gen = nn.Sequential(nn.Linear(Z, 32), nn.ReLU(), nn.Linear(32, 64), nn.Tanh(), nn.Unflatten(1, (1, 8, 8)))
    disc = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
    return gen, disc, *(torch.optim.Adam(net.parameters(), 1e-3, betas=(0.0, 0.95)) for net in (gen, disc))


def gan(rng):
    gen, disc, *optimisers = players()
    return train.gan_step(gen, disc, *optimisers, rng, latent=Z), {"gen": gen, "disc": disc}


def gan_r1(rng):
    """A GAN with R1 in a backward of its own: the gradient of a gradient."""
    gen, disc, gen_optimiser, disc_optimiser = players()

    def step(x, y):
        z = parallel.draw((len(x), Z), rng, torch.float32)
        loss = losses.discriminator_loss(disc(x), disc(gen(z).detach()))
        disc_optimiser.zero_grad()
        loss.backward()
        penalty = losses.r1_penalty(disc, x)
        (5 * penalty).backward()
        disc_optimiser.step()
        gen_optimiser.zero_grad()
        gen_loss = losses.generator_loss(disc(gen(z)))
        gen_loss.backward()
        gen_optimiser.step()
        return {"disc_loss": loss.detach(), "penalty": penalty.detach(), "gen_loss": gen_loss.detach()}

    step.state = {"gen": gen, "disc": disc, "g": gen_optimiser, "d": disc_optimiser, "rng": rng}
    return step, {"gen": gen, "disc": disc}


def wgan_gp(rng):
    """Gradient penalty: ε for the whole batch comes from the same generator as the latents."""
    gen, disc, gen_optimiser, disc_optimiser = players()

    def step(x, y):
        fake = gen(parallel.draw((len(x), Z), rng, torch.float32))
        loss = losses.discriminator_loss(disc(x), disc(fake.detach()), kind="wasserstein")
        penalty = losses.gradient_penalty(disc, x, fake, rng)
        disc_optimiser.zero_grad()
        (loss + 10 * penalty).backward()
        disc_optimiser.step()
        gen_optimiser.zero_grad()
        gen_loss = losses.generator_loss(disc(fake), kind="wasserstein")
        gen_loss.backward()
        gen_optimiser.step()
        return {"disc_loss": loss.detach(), "penalty": penalty.detach(), "gen_loss": gen_loss.detach()}

    step.state = {"gen": gen, "disc": disc, "g": gen_optimiser, "d": disc_optimiser, "rng": rng}
    return step, {"gen": gen, "disc": disc}


def wrapped(rng):
    """The trap: a critic in DistributedDataParallel whose penalty has a backward of its own, as in lazy R1."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
    disc = nn.parallel.DistributedDataParallel(net)
    weights = list(net.parameters())

    def step(x, y):
        net.zero_grad()
        loss, penalty = disc(x).mean(), losses.r1_penalty(disc, x)
        loss.backward()
        (5 * penalty).backward()
        with torch.no_grad():  # gradient descent by hand: no optimiser, so nothing of ours averages
            for weight in weights:
                if weight.grad is not None:
                    weight -= 1e-2 * weight.grad
        return {"real": loss.detach()}

    step.state = {"net": net, "unused": torch.optim.SGD(net.parameters(), 1e-2)}
    return step, {"net": net}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
