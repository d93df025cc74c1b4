"""augment: identity, known maps, torchvision as oracle, one parameter row per image, chunks, ranges, bad input."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as oracle

from course_utils import augment

EVERY = {
    "affine": lambda x, rng: augment.affine(x, rng, rotation=30, shift=0.2, scale=0.2, shear=15),
    "elastic": lambda x, rng: augment.elastic(x, rng, strength=1.5),
    "flip": lambda x, rng: augment.flip(x, rng, horizontal=0.5, vertical=0.5),
    "noise": lambda x, rng: augment.noise(x, rng, std=0.7),
    "contrast": lambda x, rng: augment.contrast(x, rng, gain=0.5, bias=0.4),
    "erase": lambda x, rng: augment.erase(x, rng, size=0.4),
}
NOTHING = {
    "affine": lambda x, rng: augment.affine(x, rng),
    "elastic": lambda x, rng: augment.elastic(x, rng, strength=0),
    "flip": lambda x, rng: augment.flip(x, rng),
    "noise": lambda x, rng: augment.noise(x, rng, std=0),
    "contrast": lambda x, rng: augment.contrast(x, rng),
    "erase": lambda x, rng: augment.erase(x, rng, size=0),
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(n=6, channels=2, height=9, width=12, seed=0):
    return 2 * torch.rand(n, channels, height, width, generator=seeded(seed)) - 1


def fixed(x, angle=0.0, dx=0.0, dy=0.0, zoom=1.0, slant=0.0):
    values = {"angle": angle, "dx": dx, "dy": dy, "zoom": zoom, "slant": slant}
    return augment.move(x, **{name: torch.full((len(x),), value) for name, value in values.items()})


@pytest.mark.parametrize("name", EVERY)
def test_strength_zero_changes_nothing(name):
    x = pictures()
    assert torch.allclose(NOTHING[name](x, seeded()), x, atol=1e-5)


@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=15, deadline=None)
@given(cut=st.lists(st.integers(1, 20), min_size=0, max_size=3), seed=st.integers(0, 5))
def test_chunks_give_the_same_images(name, cut, seed):
    x = pictures(23)
    places = sorted(set(cut))
    rng = seeded(seed)
    pieces = [EVERY[name](part, rng) for part in x.tensor_split(places)]
    # Rounding inside a convolution may differ with the size of the batch; a wrong parameter would differ by far more.
    assert torch.allclose(torch.cat(pieces), EVERY[name](x, seeded(seed)), atol=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_same_seed_same_images_range_and_shape(name):
    x = pictures(40)
    one, two, other = (EVERY[name](x, seeded(s)) for s in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert one.shape == x.shape
    assert one.dtype == torch.float32
    assert one.min() >= -1 and one.max() <= 1


def differ(function) -> bool:
    """The check for 'one parameter row per image': equal inputs must come out different."""
    same = pictures(1).expand(12, -1, -1, -1).contiguous()
    out = function(same, seeded())
    return len({tuple(image.flatten().tolist()) for image in out}) > 2


@pytest.mark.parametrize("name", EVERY)
def test_every_image_gets_parameters_of_its_own(name):
    assert differ(EVERY[name])


def test_one_angle_for_the_whole_batch_would_be_seen():
    from torchvision.transforms import v2

    assert not differ(lambda x, rng: v2.RandomRotation(30)(x))


@pytest.mark.parametrize("dx, dy", [(3, 0), (0, 2), (-4, -1)])
def test_whole_pixel_shifts_are_exact(dx, dy):
    x = pictures()
    height, width = x.shape[-2:]
    moved = fixed(x, dx=dx / width, dy=dy / height)
    expected = torch.full_like(x, -1)
    to_rows, from_rows = slice(max(dy, 0), height + min(dy, 0)), slice(max(-dy, 0), height + min(-dy, 0))
    to_cols, from_cols = slice(max(dx, 0), width + min(dx, 0)), slice(max(-dx, 0), width + min(-dx, 0))
    expected[..., to_rows, to_cols] = x[..., from_rows, from_cols]
    assert torch.allclose(moved, expected, atol=1e-5)


def test_quarter_turns_are_exact_and_clockwise():
    x = pictures(height=8, width=8)
    for quarter in (1, 2, 3):
        assert torch.allclose(fixed(x, angle=90.0 * quarter), torch.rot90(x, -quarter, (-2, -1)), atol=1e-5)


@pytest.mark.parametrize(
    "angle, dx, dy, zoom, slant",
    [
        (20, 0, 0, 1, 0),
        (0, 2, -1, 1, 0),
        (0, 0, 0, 1.3, 0),
        (0, 0, 0, 1, 12),
        (-33, 1, 2, 0.8, -15),
        (70, -2, 1, 1.2, 25),
    ],
)
def test_agrees_with_torchvision(angle, dx, dy, zoom, slant):
    x = pictures(height=11, width=14)
    ours = fixed(x, float(angle), dx / 14, dy / 11, float(zoom), float(slant))
    theirs = oracle.affine(x, angle, [dx, dy], zoom, [slant, 0], interpolation=InterpolationMode.BILINEAR, fill=[0.0])
    # torchvision fills with zeros here; compare where the source covers the result.
    inside = fixed(torch.ones_like(x), float(angle), dx / 14, dy / 11, float(zoom), float(slant)) > 1 - 1e-4
    assert inside.float().mean() > 0.3
    assert torch.allclose(ours[inside], theirs[inside], atol=1e-4)


def test_parameters_are_uniform_in_their_ranges():
    """Measure the shift of a dot: mean 0, standard deviation range/√3, never outside."""
    x = torch.full((4000, 1, 33, 33), -1.0)
    x[:, :, 16, 16] = 1
    moved = (augment.affine(x, seeded(), shift=0.25) + 1) / 2
    place = torch.arange(33.0) - 16
    for axis in (-1, -2):
        centre = (moved.sum(axis=(1, -2 if axis == -1 else -1)) * place).sum(-1) / moved.sum((1, 2, 3)) / 33
        assert abs(centre.mean()) < 4 * 0.25 / math.sqrt(3 * 4000)
        assert abs(centre.std() - 0.25 / math.sqrt(3)) < 0.005
        assert centre.abs().max() <= 0.25 + 1e-4


def test_noise_has_the_asked_deviation_and_stays_normal():
    x = torch.zeros(200, 1, 20, 20)
    out = augment.noise(x, seeded(), std=0.2)
    assert abs(float(out.std()) - 0.2) < 0.002
    assert abs(float((out.abs() < 0.2).float().mean()) - 0.6827) < 0.01


def test_elastic_moves_by_the_asked_pixels():
    """On a ramp, the change of a pixel's value is its displacement times the slope."""
    width = 64
    ramp = torch.linspace(-0.9, 0.9, width).expand(200, 1, width, width).contiguous()
    slope = 1.8 / (width - 1)
    inner = (augment.elastic(ramp, seeded(), strength=1.0, smoothness=3.0) - ramp)[..., 12:-12, 12:-12] / slope
    assert abs(float(inner.std()) - 1) < 0.05


def test_flip_probabilities_and_certain_flips():
    x = pictures()
    assert torch.equal(augment.flip(x, seeded(), horizontal=1), x.flip(-1))
    assert torch.equal(augment.flip(x, seeded(), vertical=1), x.flip(-2))
    many = pictures(1).expand(2000, -1, -1, -1)
    share = (augment.flip(many, seeded(), horizontal=0.3) != many).flatten(1).any(1).float().mean()
    assert abs(float(share) - 0.3) < 4 * (0.3 * 0.7 / 2000) ** 0.5


def test_contrast_keeps_black_and_scales_the_rest():
    x = pictures(2000, 1, 3, 3) * 0.4 - 0.5
    out = augment.contrast(x, seeded(), gain=0.3)
    factor = ((out + 1) / (x + 1)).flatten(1)
    assert torch.allclose(factor.min(1).values, factor.max(1).values, atol=1e-4)
    assert 0.7 <= factor.min() and factor.max() <= 1.3
    assert torch.equal(
        augment.contrast(torch.full((5, 1, 3, 3), -1.0), seeded(), gain=0.9), torch.full((5, 1, 3, 3), -1.0)
    )


def test_erase_covers_one_square_inside_and_reaches_every_place():
    x = torch.ones(3000, 2, 10, 10)
    out = augment.erase(x, seeded(), size=0.3)
    assert torch.equal((out == -1).flatten(1).sum(1), torch.full((3000,), 2 * 9))
    hits = (out[:, 0] == -1).float().mean(0)
    assert hits.min() > 0
    assert abs(float(hits[0, 0]) - 1 / 64) < 4 * (1 / 64 / 3000) ** 0.5


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    "x, word",
    [
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "to_signed"),
        (torch.zeros(2, 8, 8), "B, C, H, W"),
        (torch.full((2, 1, 8, 8), float("nan")), "nan"),
        (torch.full((2, 1, 8, 8), 3.0), "3"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.float64), "float64"),
    ],
)
def test_bad_images(name, x, word):
    with pytest.raises(ValueError, match=word):
        EVERY[name](x, seeded())


@pytest.mark.parametrize(
    "call",
    [
        lambda x, rng: augment.affine(x, rng, rotation=-1),
        lambda x, rng: augment.affine(x, rng, shift=float("nan")),
        lambda x, rng: augment.affine(x, rng, scale=1),
        lambda x, rng: augment.affine(x, rng, shear=90),
        lambda x, rng: augment.affine(x, 0, rotation=1),
        lambda x, rng: augment.elastic(x, rng, strength=-1),
        lambda x, rng: augment.elastic(x, rng, strength=1, smoothness=0),
        lambda x, rng: augment.flip(x, rng, horizontal=1.1),
        lambda x, rng: augment.flip(x, rng, vertical=-0.1),
        lambda x, rng: augment.noise(x, rng, std=-0.1),
        lambda x, rng: augment.contrast(x, rng, gain=1.0),
        lambda x, rng: augment.erase(x, rng, size=1.5),
        lambda x, rng: augment.move(x, angle=torch.zeros(1), dx=x, dy=x, zoom=x, slant=x),
    ],
)
def test_bad_strengths_are_named(call):
    with pytest.raises(ValueError, match=r"got|must"):
        call(pictures(), seeded())
