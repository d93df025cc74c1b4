"""The clinic's patients, taken from chapter 18: each broken step fails the invariants it is known for and no other,
each repaired one passes all, and of the three ways to leave out `detach` one only costs time."""

import ast
import json
import re
from pathlib import Path

import pytest
import torch

from course_utils import clinic, data

NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "18_gan_clinic.ipynb"
INVARIANTS = ["who moves", "own gradients", "directions", "logits", "scale", "latents"]
CONSTANTS = {"LATENT", "WIDTH", "BATCH", "RATE", "Case", "PATIENTS", "REPAIRED", "RED"}
RED = {
    "Ada": {"directions"},
    "Bo": {"own gradients"},
    "Cleo": {"own gradients"},
    "Dov": {"own gradients"},
    "Eve": {"who moves", "directions"},
    "Finn": {"own gradients", "directions"},
    "Gus": {"directions"},
    "Hana": {"own gradients", "directions"},
    "Ivo": {"scale"},
    "Jun": {"scale"},
    "Kim": {"scale"},
    "Lea": {"logits"},
}


def cells(kind: str) -> list[str]:
    found = json.loads(NOTEBOOK.read_text(encoding="utf8"))["cells"]
    return ["".join(c["source"]) for c in found if c["cell_type"] == kind and "%pip" not in "".join(c["source"])]


@pytest.fixture(scope="module")
def chapter() -> dict:
    """What the chapter defines: imports, functions, classes and a few constants; nothing is trained or drawn."""
    scope: dict = {"course": type("Course", (), {"device": torch.device("cpu")})}
    for source in cells("code"):
        for node in ast.parse(source).body:
            names = {n.id for n in getattr(node, "targets", []) for n in ast.walk(n) if isinstance(n, ast.Name)}
            if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef) or names & CONSTANTS:
                exec(compile(ast.Module([node], []), NOTEBOOK.stem, "exec"), scope)
    return scope


def batch(seed: int, count: int = 64) -> torch.Tensor:
    images = data.load("digits").images
    rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:count]
    return data.to_signed(images[rows]).flatten(1)


def examined(chapter: dict, case, seed: int, steps: int = 0) -> dict:
    """The six findings on a case, fresh or after some steps of its own."""
    p = chapter["admit"](case, seed)
    for i in range(steps):
        case.step(p, case.prepare(batch(100 + i, 32)))

    def step(x, y):
        return dict(zip(("disc_loss", "gen_loss"), case.step(p, x), strict=True))

    return clinic.examine(step, case.prepare(batch(seed)), state=vars(p))


def failed(findings: dict) -> set[str]:
    assert list(findings) == INVARIANTS
    return {name for name, finding in findings.items() if not finding.ok}


def test_there_are_twelve_different_patients(chapter):
    assert list(chapter["PATIENTS"]) == list(chapter["REPAIRED"]) == list(chapter["RED"]) == list(RED)
    assert len(set(chapter["PATIENTS"].values())) == len(RED) == 12
    assert chapter["RED"] == RED
    assert not set(chapter["PATIENTS"].values()) & set(chapter["REPAIRED"].values())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", RED)
def test_a_broken_step_fails_its_invariants_and_no_other(chapter, name, seed):
    assert failed(examined(chapter, chapter["PATIENTS"][name], seed)) == RED[name]


@pytest.mark.parametrize("steps", [0, 30])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", RED)
def test_a_repaired_step_passes_all(chapter, name, seed, steps):
    findings = examined(chapter, chapter["REPAIRED"][name], seed, steps)
    assert not failed(findings), findings


@pytest.mark.parametrize("seed", range(3))
def test_a_missing_detach_that_is_zeroed_in_time_only_costs_time(chapter, seed):
    case = chapter["Case"](chapter["late"])
    findings = examined(chapter, case, seed)
    assert not failed(findings) and "costs time" in findings["own gradients"].evidence
    ends = []
    for step in (chapter["healthy"], chapter["late"]):
        p = chapter["admit"](chapter["Case"](step), seed)
        for i in range(3):
            step(p, batch(i))
        ends.append([*p.gen.parameters(), *p.disc.parameters()])
    assert all(map(torch.equal, *ends))


def test_the_thirteenth_patient_fails_latents(chapter):
    assert failed(examined(chapter, chapter["Case"](chapter["mia"]), 0)) == {"latents"}


@pytest.mark.parametrize("name", RED)
def test_a_stack_of_games_plays_each_as_if_it_were_alone(chapter, name):
    """After one step from equal latents, game 0 of a stack of two has the weights of the same game alone."""
    case, x = chapter["PATIENTS"][name], batch(0, 32)
    alone, stack = chapter["admit"](case, [5]), chapter["admit"](case, [5, 6])
    latents = torch.randn(4, 32, chapter["LATENT"], generator=torch.Generator().manual_seed(1))

    def drawn(count):
        rows = iter(latents)
        return lambda p, x: next(rows).expand(count, -1, -1)

    weights = []
    for p, count in ((alone, 1), (stack, 2)):
        scope = dict(case.step.__globals__, noise=drawn(count))
        for function in ("disc_loss", "gen_loss", "disc_turn", "gen_turn"):
            scope[function] = type(case.step)(chapter[function].__code__, scope)
        step = type(case.step)(case.step.__code__, scope)
        step(p, case.prepare(x).expand(count, -1, -1))
        weights.append([w[0] for net in (p.gen, p.disc) for w in net.parameters()])
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_lines_of_the_diagnoses_stand_in_the_code(chapter):
    """A minus line is the patient's and a plus line the healthy one; both are lines of the chapter's cells."""
    blocks = re.findall(r"```diff\n(.*?)```", "\n".join(cells("markdown")), flags=re.S)
    lines = {line.split("  #")[0].strip() for source in cells("code") for line in source.splitlines()}
    assert len(blocks) == 12
    minus = [line[1:].strip() for block in blocks for line in block.splitlines() if line.startswith("-")]
    assert len(minus) > 11 and [line for line in minus if line not in lines] == []
