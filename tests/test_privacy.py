"""The accountant of chapter 28 against closed forms and against Opacus."""

import ast
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import gammaln, logsumexp
from scipy.stats import norm

CHAPTER = Path(__file__).resolve().parents[1] / "notebooks/28_privacy.ipynb"
pytestmark = pytest.mark.skipif(not CHAPTER.exists(), reason="chapter 28 is not written yet")


def from_the_chapter(*names):
    """What chapter 28 defines under these names."""
    cells = json.loads(CHAPTER.read_text(encoding="utf8"))["cells"]
    trees = [ast.parse("".join(c["source"])) for c in cells if c["cell_type"] == "code" and "%pip" not in str(c)]
    scope = {
        "np": np,
        "math": math,
        "norm": norm,
        "brentq": brentq,
        "gammaln": gammaln,
        "logsumexp": logsumexp,
        "DELTA": 1e-5,
    }
    for node in (node for tree in trees for node in tree.body):
        if getattr(node, "name", None) in names:
            exec(ast.unparse(node), scope)
    return [scope[name] for name in names]


SETTINGS = [(1.0, 0.01, 1000), (0.7, 0.0128, 300), (2.5, 0.05, 2000), (1.2, 1.0, 10), (5.0, 0.001, 1)]


@pytest.mark.parametrize(("noise", "rate", "steps"), SETTINGS)
def test_the_accountant_gives_what_opacus_gives_at_the_same_orders(noise, rate, steps):
    rdp = pytest.importorskip("opacus.accountants.analysis.rdp")
    (epsilon,) = from_the_chapter("epsilon")
    orders = list(range(2, 257))
    spent = rdp.compute_rdp(q=rate, noise_multiplier=noise, steps=steps, orders=orders)
    theirs, _ = rdp.get_privacy_spent(orders=orders, rdp=spent, delta=1e-5)
    assert epsilon(noise, rate, steps, 1e-5) == pytest.approx(theirs, rel=1e-8)


@pytest.mark.parametrize(("noise", "rate", "steps"), SETTINGS[:3])
def test_the_accountant_promises_no_more_than_the_numerical_one(noise, rate, steps):
    """Opacus' PRV accountant is nearly exact: a Rényi bound may be larger, never clearly smaller."""
    accountants = pytest.importorskip("opacus.accountants")
    (epsilon,) = from_the_chapter("epsilon")
    exact = accountants.PRVAccountant()
    exact.history = [(noise, rate, steps)]
    nearly = exact.get_epsilon(delta=1e-5, eps_error=0.01)
    ours = epsilon(noise, rate, steps, 1e-5)
    assert nearly - 0.02 < ours < 1.5 * nearly + 0.3


def test_the_accountant_in_cases_with_a_known_answer():
    epsilon, delta_of, noise_for = from_the_chapter("epsilon", "delta_of", "noise_for")
    for eps in (0.5, 1, 4):
        noise = noise_for(eps)
        assert delta_of(eps, noise) == pytest.approx(1e-5, rel=1e-6)
        assert eps < epsilon(noise, 1.0, 1, 1e-5) < 1.4 * eps + 0.1  # a bound, and not a bad one
        # k releases with √k times the noise are one release: Gaussians add
        assert epsilon(noise * 3, 1.0, 9, 1e-5) == pytest.approx(epsilon(noise, 1.0, 1, 1e-5), rel=1e-9)
    # more noise, fewer steps, a smaller rate, a larger δ: each makes ε smaller
    base = epsilon(1.0, 0.02, 500, 1e-5)
    for better in ((1.1, 0.02, 500, 1e-5), (1.0, 0.019, 500, 1e-5), (1.0, 0.02, 450, 1e-5), (1.0, 0.02, 500, 1e-4)):
        assert epsilon(*better) < base
