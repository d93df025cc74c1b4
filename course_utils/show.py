"""Pictures with one look: every function draws one figure, takes its alternative text, and returns the Axes."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

__all__ = ["axes", "curves", "describe", "dots", "grid", "latent_map"]  # take_alt is for the tool that stores runs
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5B5B5B", "#A6761D")
QUIET = "#767676"
_alt: str | None = None


def axes(width: float = 6.2, height: float = 3.4):
    """Return fresh Axes with the look of the course: width and height in inches.

    Taught in: 06_image_augmentation
    """
    import matplotlib.pyplot as plt
    import seaborn as sns

    sns.set_theme(
        style="ticks",
        palette=sns.color_palette(COLOURS),
        rc={
            "figure.dpi": 110,
            "font.size": 10.5,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#E6E6E6",
            "axes.axisbelow": True,
            "figure.constrained_layout.use": True,
            "legend.frameon": False,
        },
    )
    return plt.subplots(figsize=(width, height))[1]


def describe(ax, alt: str):
    """Attach an alternative text to the figure of `ax` and return `ax`; every figure of the book carries one.

    alt: what the figure shows, for somebody who cannot see it: at least five words.

    Raises ValueError for a shorter text.

    Taught in: 06_image_augmentation
    """
    global _alt
    if not isinstance(alt, str) or len(alt.split()) < 5:
        raise ValueError(f"alt must say in at least five words what the figure shows, got {alt!r}")
    _alt = alt
    getattr(ax, "figure", ax).alt_text = alt
    return ax


def take_alt() -> str | None:
    """Return the alternative text of the figure drawn last, once; None when there is none."""
    global _alt
    text, _alt = _alt, None
    return text


def grid(images, *, alt: str, columns: int = 10, titles: Sequence[str] | None = None, rows=None, scale: float = 0.62):
    """Draw images side by side, bright strokes dark on white as ink on paper.

    images: an ImageSet, uint8 (N, C, H, W), or floats in [-1, 1] of that shape; N >= 1, C = 1 or 3.
    columns: pictures per row. titles: N short texts above them, or None. rows: one label per row of the grid, or None.
    scale: inches per picture.

    Raises ValueError for an empty set, another shape, floats outside [-1, 1], or a wrong number of titles or rows.

    Taught in: 00_start_here
    """
    from .data import to_bytes

    pixels = getattr(images, "images", images)
    if not isinstance(pixels, torch.Tensor) or pixels.ndim != 4 or len(pixels) == 0 or pixels.shape[1] not in (1, 3):
        shape = tuple(pixels.shape) if isinstance(pixels, torch.Tensor) else type(pixels).__name__
        raise ValueError(f"images must have shape (N, 1 or 3, H, W) with N >= 1, got {shape}")
    if pixels.dtype != torch.uint8:
        pixels = to_bytes(pixels)
    n, _, height, width = pixels.shape
    lines = math.ceil(n / columns)
    if titles is not None and len(titles) != n:
        raise ValueError(f"{n} images need {n} titles, got {len(titles)}")
    if rows is not None and len(rows) != lines:
        raise ValueError(f"a grid of {lines} rows needs {lines} row labels, got {len(rows)}")
    gap = max(1, round(0.12 * width))
    top = gap if titles is None else round(0.45 * height)
    sheet = np.full((lines * (height + top) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for i, picture in enumerate(pixels.cpu().numpy()):
        y, x = (i // columns) * (height + top) + top, (i % columns) * (width + gap) + gap
        ink = 255 - picture if picture.shape[0] == 1 else picture
        sheet[y : y + height, x : x + width] = np.broadcast_to(ink.transpose(1, 2, 0), (height, width, 3))
    aspect = sheet.shape[0] / sheet.shape[1]
    wide = scale * min(columns, max(n, 1)) * (1 + gap / width) + (1.2 if rows is not None else 0)
    ax = axes(wide, max(0.5, wide * aspect))
    ax.imshow(sheet, interpolation="nearest")
    ax.grid(False)
    ax.set_xticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    if rows is None:
        ax.set_yticks([])
    else:
        ax.set_yticks([i * (height + top) + top + height / 2 for i in range(lines)], rows)
        ax.tick_params(left=False)
    for i, text in enumerate(titles or []):
        x, y = (i % columns) * (width + gap) + gap + width / 2, (i // columns) * (height + top) + top * 0.85
        ax.text(x, y, text, ha="center", va="bottom", fontsize=8.5)
    return describe(ax, alt)


def curves(x, lines: Mapping, *, alt: str, xlabel: str, ylabel: str, bands: Mapping | None = None, title: str = ""):
    """Draw several curves over one axis, with uncertainty bands where they are given.

    x: (T,) numbers. lines: name -> (T,) numbers. bands: name -> (low (T,), high (T,)), drawn in the colour of its line.
    xlabel, ylabel: with units.

    Raises ValueError for no line or a line of another length.

    Taught in: 00_start_here
    """
    if not lines:
        raise ValueError("curves needs at least one line, got none")
    ax = axes()
    x = np.asarray(x)
    for i, (name, values) in enumerate(lines.items()):
        values = np.asarray(values)
        if values.shape != x.shape:
            raise ValueError(f"line {name!r} has shape {values.shape}, expected {x.shape} as x")
        colour = COLOURS[i % len(COLOURS)]
        ax.plot(x, values, label=name, color=colour, linewidth=1.8)
        if bands and name in bands:
            low, high = (np.asarray(b) for b in bands[name])
            ax.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    if len(lines) > 1:
        ax.legend()
    return describe(ax, alt)


def dots(
    arms: Mapping,
    *,
    alt: str,
    xlabel: str,
    intervals: Mapping | None = None,
    guesses: Mapping | None = None,
    marks: Mapping | None = None,
    notes: Mapping | None = None,
    notes_title: str = "",
    title: str = "",
):
    """Draw one row per arm: a small dot per seed, the mean, its interval, and the reader's guess as a diamond.

    arms: name -> (S,) values over seeds, drawn from top to bottom. intervals: name -> (low, high) of the mean.
    guesses: name -> number, or None where nothing was guessed. marks: name -> value of a dashed vertical line.
    notes: name -> short text at the right edge (such as what the arm knows), under `notes_title`.

    Raises ValueError for no arm, an arm without values, or a guess, interval or note for an arm that is not drawn.

    Taught in: 00_start_here
    """
    if not arms:
        raise ValueError("dots needs at least one arm, got none")
    for kind, extra in (("interval", intervals), ("guess", guesses), ("note", notes)):
        for name in extra or {}:
            if name not in arms:
                raise ValueError(f"{kind} for {name!r}, but the arms are {tuple(arms)}")
    ax = axes(7.0 if notes else 6.0, 0.4 * len(arms) + 1.3)
    jitter = np.random.default_rng(0)
    for row, (name, values) in enumerate(arms.items()):
        values = np.asarray(values, dtype=float)
        if values.size == 0:
            raise ValueError(f"arm {name!r} has no values")
        colour = COLOURS[row % len(COLOURS)]
        if values.size > 1:
            spread = row + jitter.uniform(-0.22, 0.22, values.size)
            ax.scatter(values, spread, s=9, color=colour, alpha=0.32, linewidths=0)
        if intervals and name in intervals:
            ax.plot(intervals[name], [row, row], color=colour, linewidth=3.2, solid_capstyle="butt", zorder=3)
        ax.scatter(values.mean(), row, s=46, color=colour, edgecolors="white", linewidths=1.2, zorder=4)
        guess = (guesses or {}).get(name)
        if guess is not None:
            ax.scatter(guess, row, s=52, marker="D", facecolors="none", edgecolors="black", linewidths=1.3, zorder=5)
        if notes and name in notes:
            ax.text(
                1.015, row, notes[name], transform=ax.get_yaxis_transform(), va="center", fontsize=9, color="#333333"
            )
    for name, value in (marks or {}).items():
        ax.axvline(value, color=QUIET, linestyle=(0, (4, 3)), linewidth=1.2, zorder=1)
        ax.text(value, -0.72, name, ha="center", va="bottom", fontsize=9, color="#4A4A4A")
    if notes_title:
        head = {"transform": ax.get_yaxis_transform(), "va": "bottom", "fontsize": 9, "fontweight": "bold"}
        ax.text(1.015, -0.72, notes_title, **head)
    if marks and notes:  # the name of a mark at the very edge would run into the notes
        low, high = ax.get_xlim()
        ax.set_xlim(low, max(high, max(marks.values()) + 0.1 * (high - low)))
    ax.set_yticks(range(len(arms)), list(arms))
    ax.set_ylim(len(arms) - 0.45, -0.65)
    ax.tick_params(axis="y", left=False)
    ax.grid(axis="y", visible=False)
    ax.set(xlabel=xlabel)
    if title:
        ax.set_title(title, loc="left", pad=20 if marks else 8)
    return describe(ax, alt)


def latent_map(codes, labels, *, alt: str, classes: Sequence[str] = tuple("0123456789"), title: str = ""):
    """Draw two-dimensional codes as points, one colour per class, each class named at its median.

    codes: (N, 2). labels: (N,) integers into `classes`.

    Raises ValueError for codes that are not two-dimensional or another number of labels.

    Taught in: 14_vae_on_gpu
    """
    codes, labels = np.asarray(codes, dtype=float), np.asarray(labels)
    if codes.ndim != 2 or codes.shape[1] != 2 or len(codes) == 0:
        raise ValueError(f"codes must have shape (N, 2) with N >= 1, got {codes.shape}")
    if labels.shape != (len(codes),):
        raise ValueError(f"{len(codes)} codes need {len(codes)} labels, got shape {labels.shape}")
    import seaborn as sns

    ax = axes(5.4, 5.0)
    colours = sns.color_palette("husl", len(classes))
    for label, name in enumerate(classes):
        own = codes[labels == label]
        if len(own) == 0:
            continue
        ax.scatter(own[:, 0], own[:, 1], s=8, color=colours[label], alpha=0.5, linewidths=0)
        place = np.median(own, axis=0)
        box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": colours[label], "alpha": 0.85}
        ax.text(*place, name, ha="center", va="center", fontsize=10, bbox=box)
    ax.set(xlabel="code dimension 1", ylabel="code dimension 2", title=title)
    ax.set_aspect("equal")
    return describe(ax, alt)
