"""What the page *Choosing a method* says, held to the records that its tables are made from."""

import importlib.util
import math
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("pages", ROOT / "tools/pages.py")
pages = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pages)


def record(chapter, name):
    found = pages.record_of(ROOT, chapter, name)
    if found is None:
        pytest.skip(f"no record {name} of chapter {chapter}")
    return found


@pytest.fixture(scope="module")
def added():
    """which → n → arm → (mean gain, verdict), as the page prints them."""
    table = record("26_does_it_help", "decision")["table"]
    out = {}
    for which, sizes in table.items():
        arms = [name for name in sizes["50"] if name not in ("real only", "choice")]
        for n, rows in sizes.items():
            for arm in (arm for arm in arms if arm in rows):
                gain = pages.gains(rows, arm)
                told = pages.verdict(gain, len(arms) * len(sizes))
                out.setdefault(which, {}).setdefault(n, {})[arm] = math.fsum(gain) / len(gain), told
    return out


def test_what_knows_nothing_new_never_helps(added):
    for which, sizes in added.items():
        for n, arms in sizes.items():
            for arm in ("copies", "Gaussian", "KDE", "VAE", "GAN"):
                assert arms[arm][1] != "helps", f"{arm} helps at {n} labels of {which}: rewrite the page"


def test_turning_helps_where_labels_are_few_and_never_costs_much(added):
    for sizes in added.values():
        assert all(sizes[n]["turned"][1] == "helps" for n in ("20", "50"))
        assert all(arms["turned"][0] > -0.5 and arms["turned"][1] != "hurts" for arms in sizes.values())


def test_a_rule_is_a_gift_and_becomes_a_burden(added):
    for sizes in added.values():
        assert sizes["20"]["rule"][1] == "helps"
        assert sizes["1000"]["rule"][1] == "hurts"
        made = [arm for arm in sizes["20"] if arm != "more labels"]
        assert max(made, key=lambda arm: sizes["20"][arm][0]) in ("rule", "turned + rule")
    if "mnist" in added:  # "on a set whose style it fits up to two hundred"
        for n in ("20", "50", "100", "200"):
            alone = {arm: added["mnist"][n][arm][0] for arm in ("copies", "Gaussian", "KDE", "VAE", "GAN", "turned")}
            assert added["mnist"][n]["rule"][0] > max(alone.values())


def test_the_order_of_the_roads_from_fifty_labels_depends_on_the_set():
    table = record("05_fewer_labels", "labels_curve")["table"]
    gain = {which: {name: row["gain"][0] for name, row in table[which]["50"].items()} for which in table}
    best = sorted(gain["digits"], key=gain["digits"].get)[-3:]
    assert set(best) == {"ask: typical", "label spreading", "consistency"}  # "unlabelled digits, or which to ask about"
    assert max(gain["mnist"], key=gain["mnist"].get) == "transfer"  # "where its order differs"


def test_the_replacements():
    made = record("21_controllable_gans", "mnist")
    rows = made["rows"]
    gan, crowd, simple = (rows[name] for name in ("GAN, 3000 steps", "the same, 60000 rows", "Gaussian per class"))
    assert simple["tstr"] < gan["tstr"] < rows["lessons (real)"]["tstr"]
    assert crowd["tstr"] - gan["tstr"] < 1  # six times as many images: "no substitute"
    assert simple["FD"] > 50 * gan["FD"] and simple["obeyed"] < gan["obeyed"]  # "looks terrible", "obeys least"
    told = record("15_vae_family", "told_mnist")["scores"]
    right = {name: math.fsum(run["right"] for run in runs) / len(runs) for name, runs in told.items()}
    assert right["told"] < right["Gaussian per class"] and right["told"] < right["told, β = 3"] - 5
    small = record("21_controllable_gans", "digits")["arms"]
    obeyed = {name: math.fsum(arm["obeyed"]) / len(arm["obeyed"]) for name, arm in small.items()}
    best = max(share for name, share in obeyed.items() if name != "Gaussian per class")
    assert abs(obeyed["Gaussian per class"] - best) < 2  # "stands beside the conditional GANs"


def test_the_price_of_a_promise():
    accuracy = record("28_privacy", "accuracy_by_epsilon")["accuracy"]
    for eps in ("0.5", "1", "2", "4", "8"):
        simple, network = (accuracy[f"{name} {eps}"] for name in ("Gaussian", "VAE"))
        assert simple["interval"][0] > network["interval"][1], f"at ε = {eps} the simple maker should teach more"


def test_new_pictures():
    rows = record("20_dcgan_on_gpu", "mnist")["rows"]
    cured = [rows[f"cured, seed {seed}"]["FD"] for seed in (1, 2)]
    plain = [rows[f"plain, seed {seed}"]["FD"] for seed in (1, 2)]
    assert max(cured) < min(plain) and 0.35 < sum(cured) / sum(plain) < 0.65  # "about half the distance"
    for what in ("coverage", "density"):  # "hardly differ"
        gap = [rows[f"{name}, seed {seed}"][what] for name in ("cured", "plain") for seed in (1, 2)]
        assert abs(sum(gap[:2]) - sum(gap[2:])) / 2 < 0.06, what
    few = rows["200 lessons, none"]["FD"]
    assert few > 3 * max(cured) and rows["200 lessons, both"]["FD"] > few  # "did not rescue it"
    copies = rows["lessons, copied"]
    assert copies["FD"] < min(cured) and copies["coverage"] > 0.9  # "the best scores of the table"


def test_rare_classes():
    found = record("07_mixing_and_balance", "rare_class")["differences"]
    for model in found.values():
        tuned = model["as it is, tuned: F1 tuned against F1 at ½"]
        for cure in ("SMOTE", "weights"):
            assert (
                tuned[0] > model[f"{cure} at ½: F1 at ½ against F1 at ½"][1]
            )  # the threshold alone does about as much
    models = record("07_mixing_and_balance", "rare_models")["average precision"]
    signs = {math.copysign(1, gain[0]) for model in models.values() for gain in model.values()}
    assert signs == {-1, 1}  # "what is left depends on the model"


def test_a_record_that_is_missing_is_said(tmp_path):
    (tmp_path / "book/results").mkdir(parents=True)
    for make in (
        pages.choose_add,
        pages.choose_labels,
        pages.choose_replace,
        pages.choose_images,
        pages.choose_promise,
    ):
        assert make(tmp_path) == "Not recorded yet.\n"


def test_the_signs_of_the_table():
    assert pages.verdict([1.0, 1.2, 0.9, 1.1], 1) == "helps"
    assert pages.verdict([-1.0, -1.2, -0.9, -1.1], 1) == "hurts"
    assert pages.verdict([-1.0, 1.2, -0.9, 1.1], 1) == "ties"
    # mean 0.5, standard error 0.1, 24 degrees of freedom: significant for one question, not for 10,000
    values = [0.5 + 0.5 * math.sqrt(24 / 25) * sign for sign in (-1, 1)] * 12 + [0.5]
    assert pages.verdict(values, 1) == "helps" and pages.verdict(values, 10_000) == "ties"
    assert pages.signed(-1.25) == "−1.2" and pages.signed(2.0) == "+2.0"
