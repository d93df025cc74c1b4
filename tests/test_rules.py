"""rules: the picture is a function of labels and factors, each factor does what its name says, bad input is named."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils import rules

LABELS = torch.arange(40) % 10
STILL = {  # a plain hand: what is tested moves alone
    "slant": (0.0, 0.0),
    "rotation": (0.0, 0.0),
    "aspect": (1.0, 1.0),
    "thickness": (0.1, 0.1),
    "scale": (0.95, 0.95),
    "dx": (0.0, 0.0),
    "dy": (0.0, 0.0),
    "wobble": (0.0, 0.0),
    "style": (0, 0),
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def plain(size=56, labels=LABELS, **changed):
    """Float images (N, size, size) of the plain hand with some factors changed."""
    images = rules.draw_digits(labels, seeded(), size=size, **{**STILL, **changed})[0].images
    return images[:, 0].float() / 255


def centre(images):
    """Centre of mass (x, y) of each image, in pixels."""
    place = torch.arange(images.shape[-1]) + 0.5
    mass = images.sum((1, 2))
    return (images.sum(1) * place).sum(1) / mass, (images.sum(2) * place).sum(1) / mass


def moment_xy(images):
    x, y = centre(images)
    place = torch.arange(images.shape[-1]) + 0.5
    dx, dy = place[None, None, :] - x[:, None, None], place[None, :, None] - y[:, None, None]
    return (images * dx * dy).sum((1, 2))


def extent(images, axis):
    """Height (axis 1) or width (axis 2) of the box that holds all ink, in pixels."""
    inked = (images > 0.5).any(3 - axis).float()
    place = torch.arange(images.shape[-1]).float()
    return (inked * place).amax(1) - torch.where(inked > 0, place, 1e9).amin(1) + 1


def test_what_comes_back():
    digits, factors = rules.draw_digits(LABELS, seeded(), size=20)
    assert digits.images.shape == (40, 1, 20, 20)
    assert torch.equal(digits.labels, LABELS)
    assert digits.classes == tuple("0123456789")
    assert digits.source[3] == "strokes/000003"
    assert set(factors) == set(rules.RANGES)
    assert all(value.shape == (40,) for value in factors.values())
    assert digits.images.flatten(1).amax(1).min() > 150, "every image has ink"
    assert digits.images[:, 0, 0, 0].max() == 0, "on black paper"


@pytest.mark.parametrize("size", [8, 15, 16, 28])
def test_factors_reproduce_the_pictures(size):
    digits, factors = rules.draw_digits(LABELS, seeded(), size=size)
    assert torch.equal(rules.render(LABELS, factors, size), digits.images)


def test_same_seed_same_digits_other_seed_others():
    one, two, other = (rules.draw_digits(LABELS, seeded(s))[0].images for s in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


@settings(max_examples=12, deadline=None)
@given(cuts=st.lists(st.integers(1, 220), max_size=3), size=st.sampled_from([8, 28]))
def test_chunks_give_the_same_digits(cuts, size):
    labels = torch.arange(230) % 10  # longer than the renderer's own chunks
    rng = seeded(5)
    pieces = [rules.draw_digits(part, rng, size=size)[0].images for part in labels.tensor_split(sorted(set(cuts)))]
    assert torch.equal(torch.cat(pieces), rules.draw_digits(labels, seeded(5), size=size)[0].images)


def own_factors(labels, factors) -> bool:
    """The check for 'one row of factors per image'."""
    return all(len(value.unique()) > 3 for value in factors.values())


def test_every_image_has_factors_of_its_own():
    digits, factors = rules.draw_digits(torch.full((30,), 4), seeded())
    assert own_factors(digits.labels, factors)
    assert len(digits.images.flatten(1).unique(dim=0)) == 30
    # the planted fault: one row for the whole batch
    assert not own_factors(digits.labels, {name: value[:1].expand(30) for name, value in factors.items()})


def test_rendering_draws_no_random_numbers():
    _, factors = rules.draw_digits(LABELS, seeded())
    before = torch.get_rng_state()
    rules.render(LABELS, factors)
    assert torch.equal(torch.get_rng_state(), before)


def test_factors_fill_their_ranges_evenly():
    _, factors = rules.draw_digits(torch.zeros(4000, dtype=torch.long), seeded(), size=8, slant=(0.1, 0.3))
    for name, (default, _) in rules.RANGES.items():
        low, high = (0.1, 0.3) if name == "slant" else default
        value = factors[name].double()
        assert value.min() >= low - 1e-6 and value.max() <= high + 1e-6
        assert abs(float(value.mean()) - (low + high) / 2) < 0.03 * (high - low)
    assert torch.equal(factors["style"].unique(), torch.arange(6))


def test_a_single_value_fixes_a_factor():
    _, factors = rules.draw_digits(LABELS, seeded(), size=8, thickness=(0.12, 0.12), style=(2, 2))
    assert factors["thickness"].unique().tolist() == pytest.approx([0.12])
    assert factors["style"].unique().tolist() == [2]


def test_a_thicker_pen_leaves_more_ink():
    ink = [plain(thickness=(t, t)).sum((1, 2)) for t in (0.06, 0.1, 0.14, 0.2)]
    assert all((thin < thick).all() for thin, thick in pairwise(ink))


def test_dx_and_dy_move_the_centre_by_their_share_of_the_side():
    x, y = centre(plain())
    moved_x, moved_y = centre(plain(dx=(0.1, 0.1), dy=(-0.05, -0.05)))
    assert torch.allclose(moved_x - x, torch.full_like(x, 5.6), atol=0.15)
    assert torch.allclose(moved_y - y, torch.full_like(y, -2.8), atol=0.15)


def test_slant_leans_to_the_right():
    left, straight, right = (moment_xy(plain(slant=(s, s))) for s in (-0.4, 0.0, 0.4))
    # a stroke that leans right has its top on the right: x and y (downwards) vary against each other
    assert (right < straight).all() and (straight < left).all()


def test_rotation_turns_as_torchvision_does():
    from torchvision.transforms.v2 import functional

    turned = plain(labels=torch.tensor([7]), rotation=(10.0, 10.0), scale=(0.6, 0.6), thickness=(0.08, 0.08))
    still = plain(labels=torch.tensor([7]), scale=(0.6, 0.6), thickness=(0.08, 0.08))
    options = {angle: functional.rotate(still[:, None], angle)[:, 0] for angle in (-10.0, 0.0, 10.0)}
    misfit = {angle: float((image - turned).abs().sum()) for angle, image in options.items()}
    assert min(misfit, key=misfit.get) == 10.0, f"positive is anticlockwise, as on paper: {misfit}"


def test_scale_and_aspect_change_the_box():
    small, large = (plain(scale=(s, s)) for s in (0.6, 1.0))
    ratio = extent(large, 1) / extent(small, 1)
    assert torch.allclose(ratio, torch.full_like(ratio, 1 / 0.6), rtol=0.12)
    narrow, wide = (plain(aspect=(a, a)) for a in (0.6, 1.0))
    assert (extent(narrow, 2)[LABELS != 1] < extent(wide, 2)[LABELS != 1]).all()


def test_wobble_changes_the_path_and_the_hand_chooses_how():
    calm, one, two = (plain(wobble=(w, w), hand=(h, h)) for w, h in ((0.0, 0.1), (0.05, 0.1), (0.05, 0.7)))
    assert ((one - calm).abs().sum((1, 2)) > 5).all()
    assert ((one - two).abs().sum((1, 2)) > 5).all()


@pytest.mark.parametrize("size", [8, 28])
def test_classes_can_be_told_apart(size):
    """A nearest class mean, fitted to one half, names the other half far above chance."""
    labels = torch.arange(2000) % 10
    x = rules.draw_digits(labels, seeded(), size=size)[0].images.flatten(1).float()
    means = torch.stack([x[:1000][labels[:1000] == k].mean(0) for k in range(10)])
    found = torch.cdist(x[1000:], means).argmin(1)
    assert (found == labels[1000:]).float().mean() > 0.7


def test_small_digits_have_the_grey_levels_of_the_scanned_ones():
    images = rules.draw_digits(torch.arange(500) % 10, seeded(), size=8)[0].images
    levels = {round(k * 255 / 16) for k in range(17)}
    assert set(images.unique().tolist()) <= levels
    assert len(images.unique()) == 17
    assert (images[:, 0].amax(2) > 0).float().mean() > 0.97, "they fill the height of the frame"


def test_large_digits_are_antialiased():
    images = rules.draw_digits(LABELS, seeded(), size=28)[0].images
    inked = images > 0
    assert 0.15 < float(((images > 0) & (images < 255)).sum() / inked.sum()) < 0.9


def test_memory_is_bounded_by_chunks(monkeypatch):
    sizes = []
    real = rules._render_chunk
    monkeypatch.setattr(rules, "_render_chunk", lambda labels, *rest: sizes.append(len(labels)) or real(labels, *rest))
    rules.draw_digits(torch.arange(1000) % 10, seeded(), size=8)
    assert sum(sizes) >= 1000
    assert max(sizes) <= rules.CHUNK


@pytest.mark.parametrize(
    "labels, word",
    [([], r"\(0,\)"), ([[1]], "shape"), ([1.0], "float32"), ([True], "bool"), ([3, 10], "got 10"), ([-1], "got -1")],
)
def test_bad_labels(labels, word):
    with pytest.raises(ValueError, match=word):
        rules.draw_digits(labels, seeded())


@pytest.mark.parametrize("size", [7, 0, 28.0, True, "28"])
def test_bad_sizes(size):
    with pytest.raises(ValueError, match=r"size.*at least 8"):
        rules.draw_digits([1], seeded(), size=size)


@pytest.mark.parametrize(
    "ranges, word",
    [
        ({"slnat": (0, 1)}, "slnat"),
        ({"slant": (0.3, 0.1)}, "slant"),
        ({"thickness": (0.0, 0.1)}, "thickness"),
        ({"thickness": (-0.1, 0.1)}, "-0.1"),
        ({"scale": (float("nan"), 1.0)}, "nan"),
        ({"dx": 0.1}, "pair"),
        ({"dx": (0.1,)}, "pair"),
        ({"style": (0, 6)}, "style"),
        ({"style": (0.5, 2)}, "whole"),
    ],
)
def test_bad_ranges(ranges, word):
    with pytest.raises(ValueError, match=word):
        rules.draw_digits([1], seeded(), **ranges)


def test_bad_generator_and_factors():
    with pytest.raises(ValueError, match="Generator"):
        rules.draw_digits([1], 0)
    _, good = rules.draw_digits([1, 2], seeded())
    for change, word in (
        ({"slant": good["slant"][:1]}, "slant must have shape"),
        ({"slant": torch.tensor([0.0, float("nan")])}, "slant"),
        ({"style": torch.tensor([0, 9])}, "style"),
        ({"extra": good["slant"]}, "extra"),
    ):
        with pytest.raises(ValueError, match=word):
            rules.render([1, 2], {**good, **change})
    with pytest.raises(ValueError, match="factors must be"):
        rules.render([1, 2], {"slant": good["slant"]})
