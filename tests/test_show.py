"""show: every figure shows what it was given, carries its alternative text, and refuses what it cannot draw."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from course_utils import data, show

matplotlib.use("Agg")
ALT = "a picture of five words"


@pytest.fixture(autouse=True)
def tidy():
    show.take_alt()
    yield
    plt.close("all")


def test_grid_draws_each_image_once_as_ink_on_paper():
    images = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    images[1] = 255
    ax = show.grid(images, columns=2, alt=ALT)
    sheet = ax.images[0].get_array()
    assert int((sheet == 0).all(-1).sum()) == 64, "one black square: a white image is black ink"
    assert sheet.shape[0] == 2 * (8 + 1) + 1


def test_grid_shows_signed_floats_as_it_shows_bytes():
    images = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8)
    one, two = (show.grid(x, alt=ALT).images[0].get_array() for x in (images, data.to_signed(images)))
    assert np.array_equal(one, two)


def test_titles_and_row_labels_are_written():
    ax = show.grid(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), columns=2, alt=ALT, titles=list("abcd"), rows=["x", "y"])
    assert [t.get_text() for t in ax.texts] == list("abcd")
    assert [t.get_text() for t in ax.get_yticklabels()] == ["x", "y"]


@pytest.mark.parametrize(
    "images, extra",
    [
        (torch.zeros(0, 1, 8, 8, dtype=torch.uint8), {}),
        (torch.zeros(2, 8, 8, dtype=torch.uint8), {}),
        (torch.zeros(2, 2, 8, 8, dtype=torch.uint8), {}),
        (torch.full((2, 1, 8, 8), 3.0), {}),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), {"titles": ["one"]}),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), {"rows": ["one", "two"]}),
    ],
)
def test_grid_refuses(images, extra):
    with pytest.raises(ValueError):
        show.grid(images, alt=ALT, **extra)


def test_dots_draws_seeds_means_intervals_and_guesses():
    ax = show.dots(
        {"one": [1.0, 2.0, 3.0], "two": [5.0]},
        intervals={"one": (1.5, 2.5)},
        guesses={"one": 4.0, "two": None},
        marks={"zero": 0.0},
        notes={"two": "nothing"},
        notes_title="knows",
        xlabel="points",
        alt=ALT,
    )
    xs = [collection.get_offsets()[:, 0].tolist() for collection in ax.collections]
    assert xs == [[1.0, 2.0, 3.0], [2.0], [4.0], [5.0]]
    assert [list(line.get_xdata()) for line in ax.lines][:1] == [[1.5, 2.5]]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["one", "two"]
    assert {t.get_text() for t in ax.texts} == {"nothing", "zero", "knows"}
    assert ax.get_xlabel() == "points"


@pytest.mark.parametrize(
    "extra", [{"guesses": {"three": 1}}, {"intervals": {"three": (0, 1)}}, {"notes": {"three": ""}}]
)
def test_dots_refuses_a_name_that_is_not_an_arm(extra):
    with pytest.raises(ValueError, match="three"):
        show.dots({"one": [1.0]}, xlabel="x", alt=ALT, **extra)


def test_dots_and_curves_refuse_nothing():
    with pytest.raises(ValueError, match="arm"):
        show.dots({}, xlabel="x", alt=ALT)
    with pytest.raises(ValueError, match="'one'"):
        show.dots({"one": []}, xlabel="x", alt=ALT)
    with pytest.raises(ValueError, match="line"):
        show.curves([1], {}, xlabel="x", ylabel="y", alt=ALT)
    with pytest.raises(ValueError, match="'a'"):
        show.curves([1, 2], {"a": [1.0]}, xlabel="x", ylabel="y", alt=ALT)


def test_curves_draws_lines_and_bands():
    bands = {"a": ([0, 1], [2, 3])}
    ax = show.curves([1, 2], {"a": [1.0, 2.0], "b": [0.0, 0.0]}, xlabel="x", ylabel="y", alt=ALT, bands=bands)
    assert [list(line.get_ydata()) for line in ax.lines] == [[1.0, 2.0], [0.0, 0.0]]
    assert len(ax.collections) == 1
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["a", "b"]


def test_latent_map_names_each_class_at_its_median():
    ax = show.latent_map([[0.0, 0.0], [2.0, 2.0], [5.0, 5.0]], [0, 0, 1], alt=ALT)
    assert {t.get_text(): t.get_position() for t in ax.texts} == {"0": (1.0, 1.0), "1": (5.0, 5.0)}
    for codes, labels in (([[1.0]], [0]), ([[1.0, 2.0]], [0, 1])):
        with pytest.raises(ValueError, match="codes"):
            show.latent_map(codes, labels, alt=ALT)


def test_the_alternative_text_is_taken_once():
    ax = show.grid(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), alt=ALT)
    assert ax.figure.alt_text == ALT
    assert show.take_alt() == ALT
    assert show.take_alt() is None


@pytest.mark.parametrize("alt", ["", "too short", None])
def test_a_figure_without_a_text_is_refused(alt):
    with pytest.raises(ValueError, match="alt"):
        show.describe(show.axes(), alt)
