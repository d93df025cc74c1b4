"""Instruments for GANs: what every correct step obeys, whatever its losses, read off one real call of the step.

`examine` runs a step once with its eyes open (hooks on nets, parameters and optimisers), puts everything back as it
was, and says which invariants held. A picture of samples or a curve of losses cannot do that: some faults look healthy.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_NAMES = ("gen", "disc", "gen_optimiser", "disc_optimiser")


class _Finding(NamedTuple):
    """One line of a diagnosis: did the invariant hold, and what was seen."""

    ok: bool
    evidence: str


class _Call(NamedTuple):
    """Rows of one kind in one call of the discriminator, and the gradients that came back to their logits."""

    kind: str  # "real", "fake", or "changed": neither x nor what gen gave out
    turn: int
    gradients: list[Tensor]


class _Turn(NamedTuple):
    """One step of an optimiser: what changed, and whether the gradient it used was made since the step before."""

    owner: str
    moved: dict[str, float]
    cosine: float


def examine(
    step: Callable[[Tensor, Tensor], Mapping[str, Tensor]],
    x: Tensor,
    y: Tensor | None = None,
    *,
    state: Mapping[str, Any] | None = None,
) -> dict[str, _Finding]:
    """Run `step(x, y)` once and return, for each invariant of a GAN step, whether it held and what was seen: `.ok`
    and `.evidence`, by name.

        who moves       each optimiser changes its own net and leaves the other one as it is
        own gradients   the gradient that an optimiser uses was made in this turn by this net's loss: nothing stale,
                        nothing left over from the other net's turn
        directions      disc's turn raises the logits of real images against those of fake ones; gen's turn raises
                        those of fake images
        logits          disc's output is not squeezed into [0, 1]: no sigmoid before a loss that has its own
        scale           gen can reach the values that real images have, and not far more
        latents         other latents give other images

    `step`: takes x (B, C, H, W) or (B, D) and y (B,), calls `gen(z, …)` and `disc(images, …)` as modules, and moves
    each with an optimiser of its own. `x`: what a real batch of training looks like. `state`: a mapping with the
    entries gen, disc, gen_optimiser, disc_optimiser (and every generator of chance), where `step.state` lacks them.
    Weights, buffers, optimisers, gradients, generators and PyTorch's global generators are put back afterwards.

    A missing detach is a fault only where its gradient survives until gen's turn; else the evidence says that it
    costs time. Gradient penalties and clipped gradients are fine. What no single step can show (a set that is too
    small, a metric on the wrong scale, diversity lost over time) stays unseen.

    Raises ValueError for a state without the four entries, and what the step itself raises.

    Taught in: 17_first_gan
    """
    everything = {**(getattr(step, "state", None) or {}), **(state or {})}
    missing = [name for name in _NAMES if name not in everything]
    if missing:
        raise ValueError(f"examine needs {', '.join(missing)}: pass state= with the two nets and their optimisers")
    gen, disc = everything["gen"], everything["disc"]
    y = torch.zeros(len(x), dtype=torch.int64, device=x.device) if y is None else y
    with _as_it_was(everything):
        record = _Recorder(everything, x)
        with record:
            step(x, y)
    with _as_it_was(everything):
        gen.eval()
        disc.eval()
        with torch.no_grad():
            return {
                "who moves": _who_moves(record),
                "own gradients": _own_gradients(record),
                "directions": _directions(record),
                "logits": _logits(disc, record),
                "scale": _scale(gen, x, record),
                "latents": _latents(gen, x, record),
            }


def symptoms(gen: nn.Module, disc: nn.Module, real: Tensor, z: Tensor) -> list[str]:
    """Return in plain words what is dead: an empty list when both nets still answer to what they are given.

    `real` (B, …) a batch of real images, `z` (B, Z) latents, 16 or more of each. Reported are outputs that are not
    finite, a generator whose images hardly differ over z (mean standard deviation of a pixel below 1 % of the real
    one), and a discriminator that gives real and fake images one and the same logit (spread below 1e-4). Both nets
    are asked in eval mode and put back. For `fit`: call it in `on_epoch` and print what comes.

    Raises ValueError for fewer than 2 rows.

    Taught in: 17_first_gan
    """
    if min(len(real), len(z)) < 2:
        raise ValueError(f"symptoms compares rows: expected at least 2 of each, got {len(real)} real and {len(z)} z")
    training = gen.training, disc.training
    gen.eval()
    disc.eval()
    try:
        with torch.no_grad():
            fake = gen(z)
            logits = torch.cat([disc(real).flatten(), disc(fake).flatten()]).float()
    finally:
        gen.train(training[0])
        disc.train(training[1])
    found = []
    if not torch.isfinite(fake).all():
        found.append("the generator's images are not finite: its weights are spoiled, go back to the last checkpoint")
    elif fake.std(0).mean() < 0.01 * real.std(0).mean():
        share = float(fake.std(0).mean() / real.std(0).mean())
        found.append(
            f"the generator has gone constant: over {len(z)} latents its pixels spread {share:.1%} as much as real "
            "ones. Every latent gives nearly the same image"
        )
    if not torch.isfinite(logits).all():
        found.append("the discriminator's logits are not finite: its weights are spoiled, go back to a checkpoint")
    elif logits.std() < 1e-4:
        found.append(
            f"the discriminator has gone constant: real or fake, its logit is {logits.mean():.3f}. "
            "The generator learns nothing from it"
        )
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Watching one call of the step
# ---------------------------------------------------------------------------------------------------------------------


class _Recorder:
    """Hooks on both nets, their parameters and their optimisers, for the length of one call."""

    def __init__(self, everything: Mapping[str, Any], x: Tensor):
        self.nets: dict[str, nn.Module] = {name: everything[name] for name in ("gen", "disc")}
        self.optimisers = {name: everything[f"{name}_optimiser"] for name in self.nets}
        self.turns: list[_Turn] = []
        self.calls: list[_Call] = []
        self.x = set(_row_bytes(x))
        self.made: list[Tensor] = []  # what gen gave out
        self.shown: list[tuple[float, float]] = []  # lowest and highest value of what disc saw beside fakes
        self.labels: tuple = ()  # what else disc was given
        self.latents: tuple | None = None  # what gen was given, the last time
        self.wasted = False  # a gradient reached gen before disc's turn was over
        self.fresh: dict[Tensor, Tensor] = {}  # gradients that came in since the last turn
        self.handles: list = []

    def __enter__(self) -> "_Recorder":
        self.before = self._copies()
        for net in self.nets.values():
            for parameter in net.parameters():
                if parameter.requires_grad:
                    # A stale gradient far larger than any real one: a step that forgets zero_grad will use it.
                    parameter.grad = torch.full_like(parameter, 1e4)
                    self._keep(parameter.register_hook(lambda g, p=parameter: self._came_in(p, g)))
        self._keep(self.nets["gen"].register_forward_hook(self._gen_called))
        self._keep(self.nets["disc"].register_forward_hook(self._disc_called))
        for name, optimiser in self.optimisers.items():
            self._keep(optimiser.register_step_pre_hook(lambda *_, name=name: self._about_to_step(name)))
            self._keep(optimiser.register_step_post_hook(lambda *_, name=name: self._stepped(name)))
        return self

    def __exit__(self, *_) -> None:
        for handle in self.handles:
            handle.remove()
        self.left = self._changes()  # what moved after the last turn, by no optimiser's hand

    def _keep(self, handle) -> None:
        self.handles.append(handle)

    def _copies(self) -> dict[str, list[Tensor]]:
        return {name: [p.detach().clone() for p in net.parameters()] for name, net in self.nets.items()}

    def _changes(self) -> dict[str, float]:
        """The largest change of a weight of each net since the last look."""
        now = self._copies()
        changes = {
            name: max(
                (float((a - b).abs().max()) for a, b in zip(now[name], self.before[name], strict=True)), default=0
            )
            for name in now
        }
        self.before = now
        return changes

    def _came_in(self, parameter: Tensor, gradient: Tensor) -> None:
        seen = self.fresh.get(parameter)
        self.fresh[parameter] = gradient.detach().clone() if seen is None else seen + gradient.detach()

    def _gen_called(self, module: nn.Module, args: tuple, output: Tensor) -> None:
        self.made.append(output.detach().clone())
        self.latents = tuple(a.detach().clone() if isinstance(a, Tensor) else a for a in args)

    def _disc_called(self, module: nn.Module, args: tuple, output: Tensor) -> None:
        images, *labels = args
        if not output.requires_grad or (images.is_leaf and images.requires_grad):
            return  # a look without a lesson, or a gradient penalty
        self.labels = tuple(labels)
        fakes = set().union(*map(_row_bytes, self.made))
        kinds = ["real" if row in self.x else "fake" if row in fakes else "changed" for row in _row_bytes(images)]
        if images.grad_fn is not None:  # made by gen, and changed on the way: by an augmentation, for instance
            kinds = ["fake" if kind == "changed" else kind for kind in kinds]
        for kind in dict.fromkeys(kinds):
            rows = torch.tensor([other == kind for other in kinds], device=output.device)
            call = _Call(kind, len(self.turns), [])
            self.calls.append(call)
            output.register_hook(lambda g, c=call, r=rows: c.gradients.append(g.detach()[r]))
            if kind != "fake":
                self.shown.append((float(images[rows].min()), float(images[rows].max())))

    def _about_to_step(self, owner: str) -> None:
        if owner == "disc":
            self.wasted |= any(bool(self.fresh[p].any()) for p in self.nets["gen"].parameters() if p in self.fresh)
        used, own = [], []
        for parameter in self.nets[owner].parameters():
            if parameter.grad is not None:
                used.append(parameter.grad.flatten().double())
                fresh = self.fresh.get(parameter)
                own.append(torch.zeros_like(used[-1]) if fresh is None else fresh.flatten().double())
        if used:
            a, b = torch.cat(used), torch.cat(own)
            # A clipped or scaled gradient still points where the fresh one does; a mixture does not.
            self.cosine = float(a @ b / (a.norm() * b.norm()).clamp(min=1e-300)) if a.any() else 1.0
        else:
            self.cosine = 1.0
        self._changes()

    def _stepped(self, owner: str) -> None:
        self.turns.append(_Turn(owner, self._changes(), self.cosine))
        self.fresh.clear()


def _row_bytes(images: Tensor) -> list[bytes]:
    return [row.tobytes() for row in images.detach().float().cpu().numpy()]


@contextmanager
def _as_it_was(everything: Mapping[str, Any]):
    """Put back weights, buffers, optimisers, generators, tensors, gradients and modes, and the global generators."""
    saved = {name: _copy(value) for name, value in everything.items()}
    modules = {name: value for name, value in everything.items() if isinstance(value, nn.Module)}
    modes = [(m, m.training) for net in modules.values() for m in net.modules()]
    gradients = [(p, p.grad, p.requires_grad) for net in modules.values() for p in net.parameters()]
    for parameter, _, _ in gradients:
        parameter.grad = None
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        for name, value in everything.items():
            _put_back(value, saved[name])
        for module, mode in modes:
            module.training = mode
        for parameter, gradient, required in gradients:
            parameter.grad = gradient
            parameter.requires_grad_(required)


def _copy(value: Any) -> Any:
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, Tensor):
        return value.detach().clone()
    return copy.deepcopy(value.state_dict()) if hasattr(value, "state_dict") else None


def _put_back(value: Any, saved: Any) -> None:
    if isinstance(value, torch.Generator):
        value.set_state(saved)
    elif isinstance(value, Tensor):
        with torch.no_grad():
            value.copy_(saved)
    elif saved is not None:
        value.load_state_dict(saved)


# ---------------------------------------------------------------------------------------------------------------------
# The six invariants
# ---------------------------------------------------------------------------------------------------------------------


def _who_moves(record: _Recorder) -> _Finding:
    other = {"gen": "disc", "disc": "gen"}
    for name in ("disc", "gen"):
        turns = [turn for turn in record.turns if turn.owner == name]
        if not turns:
            return _Finding(False, f"the optimiser of {name} never steps")
        if not any(turn.moved[name] for turn in turns):
            return _Finding(False, f"{name} does not move: no gradient reaches it in its own turn")
        astray = max(turn.moved[other[name]] for turn in turns)
        if astray:
            return _Finding(False, f"the optimiser of {name} also moves {other[name]}, by up to {astray:.1e}")
    stray = [name for name, change in record.left.items() if change]
    if stray:
        return _Finding(False, f"{' and '.join(stray)} moved by no optimiser's hand, after the last turn")
    return _Finding(True, f"{len(record.turns)} turns ({', '.join(t.owner for t in record.turns)}), each moves its own")


def _own_gradients(record: _Recorder) -> _Finding:
    for turn in record.turns:
        if turn.cosine < 0.9999:
            return _Finding(
                False,
                f"{turn.owner} steps along a gradient that is not its own (cosine {turn.cosine:.2f} with the fresh "
                "one): zero_grad or detach is missing",
            )
    if record.wasted:
        return _Finding(True, "nothing stale; disc's loss also runs back through gen, which costs time (detach)")
    return _Finding(True, "nothing stale, nothing left over from the other turn")


def _directions(record: _Recorder) -> _Finding:
    seen = []
    for number, turn in enumerate(record.turns):
        calls = [call for call in record.calls if call.turn == number and call.gradients]
        push = {kind: _push(call for call in calls if call.kind == kind) for kind in ("real", "fake", "changed")}
        if turn.owner == "disc":
            if push["changed"] is not None:
                return _Finding(True, "not asked: disc is shown images that are neither x nor gen's (augmented?)")
            for kind in ("real", "fake"):
                if push[kind] is None:
                    return _Finding(False, f"disc moves without a lesson from {kind} images")
            # Least squares may raise a fake logit towards 0: what counts is that real gains on fake.
            gain = push["real"] - push["fake"]
            if gain < 0.2 * (abs(push["real"]) + abs(push["fake"])):
                ways = [f"{kind} {'up' if push[kind] > 0 else 'down'}" for kind in ("real", "fake")]
                return _Finding(False, f"disc's turn moves the logits of {' and '.join(ways)}: a wrong sign or target")
            seen.append("disc: real gains on fake")
        else:
            if push["fake"] is None:
                return _Finding(False, "gen's loss does not depend on disc(gen(z))")
            if push["fake"] < 0:
                return _Finding(False, "gen's turn lowers the logits of its own images: a wrong sign or target")
            seen.append("gen: fake up")
    return _Finding(bool(seen), "; ".join(dict.fromkeys(seen)) or "no optimiser steps")


def _push(calls: Iterable[_Call]) -> float | None:
    """Which way a descent step moves these logits: minus the sum of their gradients. None: they are in no loss."""
    gradients = [g.double().sum() for call in calls for g in call.gradients]
    return -float(torch.stack(gradients).sum()) if gradients else None


def _logits(disc: nn.Module, record: _Recorder) -> _Finding:
    images = record.made[-1] if record.made else None
    if images is None:
        return _Finding(False, "gen was never called")
    values = torch.cat([disc(images * factor, *record.labels).flatten() for factor in (-1e3, -10.0, 10.0, 1e3)])
    if 0 <= values.min() and values.max() <= 1:
        return _Finding(False, "disc's outputs never leave [0, 1]: it ends in a sigmoid, the losses add another")
    return _Finding(True, f"outputs from {values.min():.2g} to {values.max():.2g} when images are exaggerated")


def _scale(gen: nn.Module, x: Tensor, record: _Recorder) -> _Finding:
    if record.latents is None:
        return _Finding(False, "gen was never called")
    z, *rest = record.latents
    lows, highs = zip(*(record.shown or [(float(x.min()), float(x.max()))]), strict=True)
    low, high = min(lows), max(highs)  # what disc is shown, which may not be what the step was given
    # Exaggerated latents drive a bounded output (tanh, sigmoid) to its ends and an unbounded one ever further.
    (a, b), (c, d) = ((float(v.min()), float(v.max())) for v in (gen(z * f, *rest) for f in (1e2, 1e4)))
    real, reach = f"real images lie in [{low:.2g}, {high:.2g}]", f"gen reaches [{c:.2g}, {d:.2g}]"
    if d - c > 2 * (b - a) and d - c > 10 * (high - low):
        return _Finding(True, f"{real}, gen's output is unbounded")
    slack = 0.25 * (high - low)
    if c > low + slack or d < high - slack:
        return _Finding(False, f"{real}, {reach}: it cannot make what it is shown")
    if c < low - slack or d > high + slack:
        return _Finding(False, f"{real}, {reach}: two scales, disc can tell them apart by brightness alone")
    return _Finding(True, f"{real}, {reach}")


def _latents(gen: nn.Module, x: Tensor, record: _Recorder) -> _Finding:
    if record.latents is None:
        return _Finding(False, "gen was never called")
    z, *rest = record.latents
    spread, real = float(gen(z, *rest).std(0).mean()), float(x.std(0).mean())
    share = spread / real if real else float("inf")
    if share < 1e-3:
        return _Finding(False, f"over {len(z)} latents a pixel spreads {share:.2%} of the real spread: gen is constant")
    return _Finding(True, f"over {len(z)} latents a pixel spreads {share:.0%} of the real spread")
