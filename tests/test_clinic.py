"""clinic: healthy steps of every kind pass, each known fault fails its invariant and no other test can see it, nothing
is left changed, dead nets are named."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_utils import clinic, data, losses, nets, train

B, Z = 32, 16
ONE, ZERO = torch.ones(B), torch.zeros(B)
bce = F.binary_cross_entropy_with_logits


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def real(seed=0):
    images = data.load("digits").images
    return data.to_signed(images[torch.randperm(len(images), generator=seeded(seed))[:B]])


class Gen(nn.Module):
    def __init__(self, end=nn.Tanh, classes=0):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(Z + classes, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), end(), nn.Unflatten(1, (1, 8, 8))
        )
        self.classes = classes

    def forward(self, z, y=None):
        return self.net(z if y is None else torch.cat([z, F.one_hot(y, self.classes).float()], 1))


class Disc(nn.Module):
    def __init__(self, end=nn.Identity, classes=0):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64 + classes, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1), end())
        self.classes = classes

    def forward(self, x, y=None):
        x = x.flatten(1)
        return self.net(x if y is None else torch.cat([x, F.one_hot(y, self.classes).float()], 1)).squeeze(1)


def patient(body, *, gen=None, disc=None, seed=0):
    """A step made of `body(x, y, gen, disc, gen_optimiser, disc_optimiser, draw)` and its state."""
    torch.manual_seed(seed)
    gen, disc = gen or Gen(), disc or Disc()
    state = {
        "gen": gen,
        "disc": disc,
        "gen_optimiser": torch.optim.Adam(gen.parameters(), 2e-4, betas=(0.5, 0.999)),
        "disc_optimiser": torch.optim.Adam(disc.parameters(), 2e-4, betas=(0.5, 0.999)),
        "rng": seeded(seed),
    }

    def step(x, y):
        body(x, y, *list(state.values())[:4], lambda: torch.randn(len(x), Z, generator=state["rng"]))
        return {}

    return step, state


def two_moves(x, y, gen, disc, gen_optimiser, disc_optimiser, draw, **fault):
    """A correct step; each keyword plants one fault."""
    if "zero_gen_first" in fault:
        gen_optimiser.zero_grad()
    if "stale" not in fault:
        disc_optimiser.zero_grad()
    fake = gen(draw())
    fake = fake if "attached" in fault else fake.detach()
    (bce(disc(x), ONE) + bce(disc(fake), ZERO)).backward()
    if "clip" in fault:
        nn.utils.clip_grad_norm_(disc.parameters(), 1e-3)
    disc_optimiser.step()
    if "zero_gen_first" not in fault:
        gen_optimiser.zero_grad()
    bce(disc(gen(draw())), fault.get("target", ONE)).backward()
    gen_optimiser.step()
    if "both" in fault:
        disc_optimiser.step()


def planted(**fault):
    return lambda *args: two_moves(*args, **fault)


def no_logarithm(x, y, gen, disc, gen_optimiser, disc_optimiser, draw):
    disc_optimiser.zero_grad()
    (disc(x).sigmoid().mean() + disc(gen(draw()).detach()).sigmoid().mean()).backward()
    disc_optimiser.step()
    gen_optimiser.zero_grad()
    disc(gen(draw())).sigmoid().mean().backward()
    gen_optimiser.step()


def gen_loss_over_real(x, y, gen, disc, gen_optimiser, disc_optimiser, draw):
    disc_optimiser.zero_grad()
    (bce(disc(x), ONE) + bce(disc(gen(draw()).detach()), ZERO)).backward()
    disc_optimiser.step()
    gen_optimiser.zero_grad()
    (-bce(disc(x), ZERO)).backward()
    gen_optimiser.step()


def one_loss(x, y, gen, disc, gen_optimiser, disc_optimiser, draw):
    gen_optimiser.zero_grad()
    disc_optimiser.zero_grad()
    (bce(disc(x), ONE) + bce(disc(gen(draw())), ZERO)).backward()
    disc_optimiser.step()
    gen_optimiser.step()


def never_real(x, y, gen, disc, gen_optimiser, disc_optimiser, draw):
    disc_optimiser.zero_grad()
    (bce(disc(gen(draw()).detach()), ONE) + bce(disc(gen(draw()).detach()), ZERO)).backward()
    disc_optimiser.step()
    gen_optimiser.zero_grad()
    bce(disc(gen(draw())), ONE).backward()
    gen_optimiser.step()


def one_optimiser(x, y, gen, disc, gen_optimiser, disc_optimiser, draw):
    two_moves(x, y, gen, disc, gen_optimiser, disc_optimiser, draw)
    with torch.no_grad():
        next(gen.parameters()).add_(1e-3)


def failed(findings):
    return {name for name, finding in findings.items() if not finding.ok}


def show(findings):
    return "\n".join(f"{name}: {finding}" for name, finding in findings.items())


# --- Healthy steps ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["nonsaturating", "saturating", "least_squares", "hinge", "wasserstein"])
@pytest.mark.parametrize("seed", range(3))
def test_the_toolbox_step_passes(kind, seed):
    _, state = patient(two_moves, seed=seed)
    step = train.gan_step(*list(state.values())[:4], state["rng"], latent=Z, kind=kind)
    findings = clinic.examine(step, real(seed))
    assert list(findings) == ["who moves", "own gradients", "directions", "logits", "scale", "latents"]
    assert not failed(findings), show(findings)


def test_the_step_still_passes_after_training():
    _, state = patient(two_moves)
    step = train.gan_step(*list(state.values())[:4], state["rng"], latent=Z)
    train.fit(step, [(real(s), None) for s in range(20)], 5, progress=False)
    findings = clinic.examine(step, real(1))
    assert not failed(findings), show(findings)


def test_convolutional_nets_pass():
    torch.manual_seed(0)
    gen, disc = nets.Generator(Z, size=8, width=8), nets.Discriminator(size=8, width=8)
    step, state = patient(two_moves, gen=gen, disc=disc)
    findings = clinic.examine(step, real(), state=state)
    assert not failed(findings), show(findings)


def critic_and_penalty(penalty):
    def body(x, y, gen, disc, gen_optimiser, disc_optimiser, draw):
        for _ in range(3):
            fake = gen(draw()).detach()
            loss = losses.discriminator_loss(disc(x), disc(fake), kind="wasserstein") + penalty(disc, x, fake)
            disc_optimiser.zero_grad()
            loss.backward()
            disc_optimiser.step()
        gen_optimiser.zero_grad()
        losses.generator_loss(disc(gen(draw())), kind="wasserstein").backward()
        gen_optimiser.step()

    return body


@pytest.mark.parametrize(
    "penalty",
    [
        lambda disc, x, fake: 10 * losses.gradient_penalty(disc, x, fake, seeded()),
        lambda disc, x, fake: 10 * losses.r1_penalty(disc, x),
    ],
    ids=["gradient penalty", "R1"],
)
def test_several_critic_moves_and_penalties_pass(penalty):
    findings = clinic.examine(*examined(critic_and_penalty(penalty)))
    assert not failed(findings), show(findings)
    assert "4 turns (disc, disc, disc, gen)" in findings["who moves"].evidence


def examined(body, x=None, **kinds):
    step, state = patient(body, **kinds)
    return _Bound(step, state), real() if x is None else x


class _Bound:
    """A step that carries its state, as the toolbox's own do."""

    def __init__(self, step, state):
        self.step, self.state = step, state

    def __call__(self, x, y):
        return self.step(x, y)


def test_labels_for_both_nets_pass():
    def body(x, y, gen, disc, gen_optimiser, disc_optimiser, draw):
        disc_optimiser.zero_grad()
        (bce(disc(x, y), ONE) + bce(disc(gen(draw(), y).detach(), y), ZERO)).backward()
        disc_optimiser.step()
        gen_optimiser.zero_grad()
        bce(disc(gen(draw(), y), y), ONE).backward()
        gen_optimiser.step()

    torch.manual_seed(0)
    step, state = patient(body, gen=Gen(classes=10), disc=Disc(classes=10))
    findings = clinic.examine(step, real(), torch.arange(B) % 10, state=state)
    assert not failed(findings), show(findings)


def test_images_changed_on_the_way_are_not_judged_but_gen_is():
    def body(x, y, gen, disc, gen_optimiser, disc_optimiser, draw, target=ONE):
        disc_optimiser.zero_grad()
        (bce(disc(x.flip(3) * 0.9), ONE) + bce(disc(gen(draw()).detach().flip(3) * 0.9), ZERO)).backward()
        disc_optimiser.step()
        gen_optimiser.zero_grad()
        bce(disc(gen(draw()).flip(3) * 0.9), target).backward()
        gen_optimiser.step()

    findings = clinic.examine(*examined(body))
    assert not failed(findings), show(findings)
    assert "not asked" in findings["directions"].evidence


def test_clipped_gradients_are_still_ones_own():
    assert not failed(clinic.examine(*examined(planted(clip=True))))


def test_a_harmless_missing_detach_is_named_but_passes():
    findings = clinic.examine(*examined(planted(attached=True)))
    assert not failed(findings)
    assert "costs time" in findings["own gradients"].evidence
    assert "costs time" not in clinic.examine(*examined(two_moves))["own gradients"].evidence


# --- Faults ----------------------------------------------------------------------------------------------------------

FAULTS = {
    "discriminator's gradients not zeroed": (planted(stale=True), {"own gradients"}),
    "no detach, generator zeroed too early": (planted(attached=True, zero_gen_first=True), {"own gradients"}),
    "generator aims at fake": (planted(target=ZERO), {"directions"}),
    "discriminator steps in the generator's turn": (planted(both=True), {"own gradients", "directions"}),
    "means without a logarithm, both lowered": (no_logarithm, {"directions"}),
    "generator's loss over real images": (gen_loss_over_real, {"who moves", "directions"}),
    "one loss for both nets": (one_loss, {"own gradients", "directions"}),
    "no real image is ever shown": (never_real, {"directions"}),
    "weights changed by hand": (one_optimiser, {"who moves"}),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("seed", range(3))
def test_each_fault_fails_its_invariants_and_no_others(name, seed):
    body, expected = FAULTS[name]
    findings = clinic.examine(*examined(body, real(seed), seed=seed))
    assert failed(findings) == expected, show(findings)


@pytest.mark.parametrize(
    ("kinds", "change", "expected"),
    [
        ({"gen": Gen(nn.Sigmoid)}, lambda x: x, {"scale"}),
        ({}, lambda x: (x + 1) / 2, {"scale"}),
        ({}, lambda x: (x + 1) / 2 / 255, {"scale"}),
        ({"disc": Disc(nn.Sigmoid)}, lambda x: x, {"logits"}),
        ({"gen": Gen(nn.Sigmoid)}, lambda x: (x + 1) / 2, set()),
        ({"gen": Gen(nn.Identity)}, lambda x: x, set()),
    ],
    ids=["sigmoid against [-1, 1]", "tanh against [0, 1]", "divided twice", "two sigmoids", "matched", "unbounded"],
)
def test_ranges(kinds, change, expected):
    step, state = patient(two_moves, **copy.deepcopy(kinds))
    findings = clinic.examine(step, change(real()), state=state)
    assert failed(findings) == expected, show(findings)


def test_a_scale_changed_inside_the_step_is_seen():
    findings = clinic.examine(*examined(lambda x, *rest: two_moves((x + 1) / 510, *rest)))
    assert "scale" in failed(findings)


def test_an_optimiser_with_the_other_nets_weights_is_seen():
    step, state = patient(two_moves)
    both = [*state["gen"].parameters(), *state["disc"].parameters()]
    state["gen_optimiser"] = torch.optim.Adam(both, 2e-4)
    assert "who moves" in failed(clinic.examine(step, real(), state=state))


def test_a_constant_generator_is_seen():
    gen = Gen()
    with torch.no_grad():
        gen.net[0].weight.zero_()
    step, state = patient(two_moves, gen=gen)
    assert "latents" in failed(clinic.examine(step, real(), state=state))


# --- Nothing is left changed, bad input ------------------------------------------------------------------------------


def test_everything_is_put_back():
    torch.manual_seed(3)
    gen, disc = nets.Generator(Z, size=8, width=8), nets.Discriminator(size=8, width=8)  # BatchNorm has buffers
    step, state = patient(two_moves, gen=gen, disc=disc)
    step(real(), None)  # gradients and optimiser states exist
    gen.eval()
    next(disc.parameters()).requires_grad_(False)

    def all_of_it():
        return copy.deepcopy(
            [
                gen.state_dict(),
                disc.state_dict(),
                state["gen_optimiser"].state_dict(),
                state["disc_optimiser"].state_dict(),
                state["rng"].get_state(),
                torch.get_rng_state(),
                [p.grad for p in [*gen.parameters(), *disc.parameters()]],
                [p.requires_grad for p in disc.parameters()],
                [m.training for net in (gen, disc) for m in net.modules()],
            ]
        )

    before = all_of_it()
    clinic.examine(step, real(1), state=state)
    torch.testing.assert_close(all_of_it(), before, rtol=0, atol=0)
    next(disc.parameters()).requires_grad_(True)
    step(real(2), None)  # no hook is left behind
    assert not gen._forward_hooks and not disc._forward_hooks


def test_a_step_that_raises_is_put_back_too():
    def body(x, y, gen, disc, *rest):
        two_moves(x, y, gen, disc, *rest)
        raise RuntimeError("stop")

    step, state = patient(body)
    before = copy.deepcopy(state["gen"].state_dict())
    with pytest.raises(RuntimeError, match="stop"):
        clinic.examine(step, real(), state=state)
    torch.testing.assert_close(state["gen"].state_dict(), before, rtol=0, atol=0)
    assert all(p.grad is None for p in state["gen"].parameters())


def test_a_state_without_the_nets_is_refused():
    step, state = patient(two_moves)
    with pytest.raises(ValueError, match="examine needs disc_optimiser"):
        clinic.examine(step, real(), state={name: state[name] for name in ("gen", "disc", "gen_optimiser")})


# --- Symptoms --------------------------------------------------------------------------------------------------------


def test_living_nets_have_no_symptoms():
    torch.manual_seed(0)
    gen, disc = nets.Generator(Z, size=8, width=8), Disc()
    gen.train()
    assert clinic.symptoms(gen, disc, real(), torch.randn(64, Z, generator=seeded())) == []
    assert gen.training


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda gen, disc: gen.net[0].weight.data.zero_(), "generator has gone constant"),
        (lambda gen, disc: disc.net[2].weight.data.zero_(), "discriminator has gone constant"),
        (lambda gen, disc: gen.net[0].weight.data.fill_(torch.nan), "images are not finite"),
        (lambda gen, disc: disc.net[0].weight.data.fill_(torch.inf), "logits are not finite"),
    ],
)
def test_symptoms_are_named(spoil, words):
    torch.manual_seed(0)
    gen, disc = Gen(), Disc()
    spoil(gen, disc)
    found = clinic.symptoms(gen, disc, real(), torch.randn(64, Z, generator=seeded()))
    assert any(words in line for line in found), found


def test_symptoms_compare_rows():
    with pytest.raises(ValueError, match="at least 2"):
        clinic.symptoms(Gen(), Disc(), real()[:1], torch.randn(8, Z))
