"""One noun, `ImageSet`, and what is done with it: load, split, batch, and the only places where ranges change."""

import gzip
import hashlib
import io
import os
import pickle
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .session import REPOSITORY

DIGITS = tuple("0123456789")
OFFLINE = 'load("digits") and load("strokes") need no network'
_loaded: dict[str, None] = {}  # an ordered set: what this process has loaded, for the records


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A set of N labelled images that remembers where each row came from.

    images: (N, C, H, W) uint8, 0 to 255.
    labels: (N,) int64, an index into `classes`, or -1 for an unlabelled row.
    classes: the K class names.
    source: (N,) NumPy strings, one per row, the origin as prefix: ``"digits/0042"``, ``"vae/…"``. It survives
        `select` and `concat`, so a row can be traced through a whole pipeline.

    Raises ValueError when types, shapes or label values do not fit together.

    Taught in: 01_collecting
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    source: np.ndarray

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(f"images must be a uint8 tensor of shape (N, C, H, W), got {_describe(images)}")
        n = len(images)
        if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != (n,):
            raise ValueError(f"labels must be an int64 tensor of shape ({n},), got {_describe(labels)}")
        object.__setattr__(self, "classes", tuple(self.classes))
        if not all(isinstance(name, str) for name in self.classes) or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes must be different strings, got {self.classes!r}")
        if n and not (-1 <= int(labels.min()) and int(labels.max()) < len(self.classes)):
            raise ValueError(
                f"labels must lie in -1..{len(self.classes) - 1}, got {int(labels.min())}..{int(labels.max())}"
            )
        source = np.asarray(self.source)
        if source.shape != (n,) or (n and source.dtype.kind != "U"):
            raise ValueError(f"source must hold {n} strings, got shape {source.shape}, dtype {source.dtype}")
        object.__setattr__(self, "source", source.astype(str))

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        n, c, h, w = self.images.shape
        unlabelled = int((self.labels < 0).sum())
        note = f", {unlabelled} unlabelled" if unlabelled else ""
        return f"ImageSet({n:,} images {c}×{h}×{w}, {len(self.classes)} classes{note})"

    def select(self, rows) -> "ImageSet":
        """Return the rows named by a boolean mask (N,), integer indices, or a slice, in that order.

        Raises ValueError for a mask of another length or an index out of range.
        """
        if isinstance(rows, slice):
            index = torch.arange(len(self))[rows]
        else:
            index = torch.as_tensor(rows).cpu()
            if index.numel() == 0 and index.dtype != torch.bool:
                index = index.long()
            if index.ndim != 1:
                raise ValueError(f"rows must be one-dimensional, got shape {tuple(index.shape)}")
            if index.dtype == torch.bool:
                if len(index) != len(self):
                    raise ValueError(f"a mask must have {len(self)} entries, got {len(index)}")
                index = index.nonzero()[:, 0]
            elif index.is_floating_point():
                raise ValueError(f"rows must be a mask, integers or a slice, got dtype {index.dtype}")
            elif len(index) and not (-len(self) <= int(index.min()) and int(index.max()) < len(self)):
                raise ValueError(f"row {int(index.max())} or {int(index.min())} is outside a set of {len(self)} rows")
        where = index.to(self.images.device)
        return ImageSet(self.images[where], self.labels[where], self.classes, self.source[index.numpy()])


def concat(*sets: ImageSet) -> ImageSet:
    """Return the rows of all sets, one set after the other.

    Raises ValueError for no set, different classes, or different image shapes.

    Taught in: 03_splits_and_leakage
    """
    if not sets:
        raise ValueError("concat needs at least one ImageSet, got none")
    first = sets[0]
    for other in sets[1:]:
        if other.classes != first.classes:
            raise ValueError(f"sets have different classes: {first.classes} and {other.classes}")
        if other.images.shape[1:] != first.images.shape[1:]:
            raise ValueError(f"images differ in shape: {first.images.shape[1:]} and {other.images.shape[1:]}")
    return ImageSet(
        torch.cat([part.images for part in sets]),
        torch.cat([part.labels for part in sets]),
        first.classes,
        np.concatenate([part.source for part in sets]),
    )


def _describe(value) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return type(value).__name__


# Ranges: uint8 0..255 in a set, float32 [-1, 1] in a network, [0, 1] for a Bernoulli likelihood.
# Only here do they change.


def to_signed(images: Tensor) -> Tensor:
    """Turn bytes 0..255 into float32 in [-1, 1], any shape: x = v / 127.5 - 1.

    Raises ValueError unless the dtype is uint8: floats may have been scaled already, and scaling twice is silent.

    >>> to_signed(torch.tensor([0, 255], dtype=torch.uint8)).tolist()
    [-1.0, 1.0]

    Taught in: 00_start_here
    """
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        raise ValueError(f"to_signed expects uint8, got {_describe(images)}: was it scaled before?")
    return images.to(torch.float32).div_(127.5).sub_(1.0)


def to_bytes(x: Tensor) -> Tensor:
    """Turn floats in [-1, 1] into bytes 0..255, any shape: the exact inverse of `to_signed`.

    Raises ValueError for a non-float tensor and for values outside [-1, 1] (by more than 1e-4) or NaN: clamp them
    yourself where that is meant.

    >>> to_bytes(torch.tensor([-1.0, 0.0, 1.0])).tolist()
    [0, 128, 255]

    Taught in: 12_autoencoders
    """
    _check_signed(x, "to_bytes")
    return x.detach().float().add(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def to_probability(x: Tensor) -> Tensor:
    """Turn floats in [-1, 1] into [0, 1], any shape: (x + 1) / 2.

    Raises ValueError for a non-float tensor and, on the CPU, for values outside [-1, 1] (by more than 1e-4) or NaN.

    Taught in: 00_start_here
    """
    _check_signed(x, "to_probability", values=x.device.type == "cpu" if isinstance(x, Tensor) else True)
    return ((x + 1.0) / 2.0).clamp(0.0, 1.0)


def _check_signed(x: Tensor, name: str, values: bool = True) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise ValueError(f"{name} expects a float tensor in [-1, 1], got {_describe(x)}")
    if values and x.numel():
        low, high = (float(v) for v in x.detach().aminmax())
        if not (low >= -1.0001 and high <= 1.0001):  # also false for NaN
            raise ValueError(f"{name} expects values in [-1, 1], got {low:.4g} to {high:.4g}")


# Splitting and batching.


def split(full: ImageSet, fractions: Sequence[float], rng: torch.Generator) -> tuple[ImageSet, ...]:
    """Cut a set into disjoint random parts with the class mix of the whole: the first act of every experiment.

    fractions: one per part, each > 0, sum at most 1; what is left over is dropped. Each part's size, and within it
        each class's share, is rounded by largest remainder.
    rng: a CPU generator, so that the parts are the same on every machine.

    Raises ValueError for an empty set, bad fractions, or a class with too few rows to appear in every part
    (unlabelled rows count as a class of their own).

    Taught in: 00_start_here
    """
    fractions = [float(f) for f in fractions]
    if len(full) == 0:
        raise ValueError("cannot split an empty set")
    if not fractions or not all(0 < f <= 1 for f in fractions) or sum(fractions) > 1 + 1e-9:
        raise ValueError(f"fractions must be positive with a sum of at most 1, got {fractions}")
    counts = torch.bincount(full.labels.cpu() + 1, minlength=len(full.classes) + 1).tolist()  # index 0: unlabelled
    rest = max(0.0, 1.0 - sum(fractions))
    sizes = _largest_remainder([f * len(full) for f in [*fractions, rest]], len(full))[: len(fractions)]
    left = list(counts)
    shares: list[list[int]] = []
    for part, (fraction, size) in enumerate(zip(fractions, sizes, strict=True)):
        takes_all = part == len(fractions) - 1 and sum(left) == size
        share = list(left) if takes_all else _largest_remainder([fraction * n for n in counts], size, left)
        for label, (n, got) in enumerate(zip(counts, share, strict=True)):
            if n and not got:
                name = "unlabelled" if label == 0 else f"class {full.classes[label - 1]!r}"
                raise ValueError(f"{name} has too few rows ({n}) to appear in part {part} (fraction {fraction:.4g})")
        left = [n - got for n, got in zip(left, share, strict=True)]
        shares.append(share)
    order = torch.randperm(len(full), generator=rng, device=rng.device).cpu()
    rows: list[list[Tensor]] = [[] for _ in fractions]
    for label in range(len(counts)):
        own = order[full.labels.cpu()[order] == label - 1]
        for part, piece in enumerate(own.split([s[label] for s in shares] + [left[label]])[: len(fractions)]):
            rows[part].append(piece)
    parts = []
    for pieces in rows:
        chosen = torch.cat(pieces)
        parts.append(full.select(chosen[torch.randperm(len(chosen), generator=rng, device=rng.device).cpu()]))
    return tuple(parts)


def _largest_remainder(ideal: list[float], total: int, limits: list[int] | None = None) -> list[int]:
    """Round `ideal` to whole numbers that sum to `total`, each at most its limit; ties go to the earlier entry."""
    limits = limits or [total] * len(ideal)
    counts = [min(int(x + 1e-9), limit) for x, limit in zip(ideal, limits, strict=True)]
    while sum(counts) < total:
        open_ = [i for i in range(len(ideal)) if counts[i] < limits[i]]
        counts[max(open_, key=lambda i: (round(ideal[i] - counts[i], 9), -i))] += 1
    return counts


def batches(
    part: ImageSet,
    batch_size: int,
    rng: torch.Generator,
    *,
    device: torch.device | str = "cpu",
    shuffle: bool = True,
    drop_last: bool = False,
) -> "Batches":
    """Put a set on the device once, as bytes, and hand it out in batches.

    Each batch is x (B, C, H, W) float32 in [-1, 1] and y (B,) int64.

    The result can be iterated again and again; each pass draws a new order from `rng`. No worker, no copy per item:
    for sets that fit into memory nothing is faster.

    Raises ValueError for an empty set, a batch size below 1, one larger than the set together with `drop_last`, and
    a device that is not there.

    Taught in: 22_gpu_practice
    """
    return Batches(part, batch_size, rng, device=device, shuffle=shuffle, drop_last=drop_last)


class Batches:
    """What `batches` returns: can be iterated again and again; ``rng`` goes into checkpoints.

    Taught in: 22_gpu_practice
    """

    def __init__(self, part, batch_size, rng, *, device="cpu", shuffle=True, drop_last=False):
        if not isinstance(part, ImageSet) or len(part) == 0:
            raise ValueError(f"batches needs a non-empty ImageSet, got {part!r}")
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be a positive integer, got {batch_size!r}")
        if drop_last and batch_size > len(part):
            raise ValueError(f"batch_size {batch_size} with drop_last leaves nothing of a set of {len(part)} rows")
        if not isinstance(rng, torch.Generator):
            raise ValueError(f"rng must be a torch.Generator, got {type(rng).__name__}")
        self.rng, self.batch_size, self.shuffle, self.drop_last = rng, batch_size, shuffle, drop_last
        try:
            self.device = torch.device(device)
        except (RuntimeError, TypeError):
            self.device = None
        if self.device is None or self.device.type == "meta":  # a meta tensor has a shape and no numbers
            raise ValueError(f"device must be one that holds numbers, such as 'cpu', 'cuda' or 'mps', got {device!r}")
        try:
            self.images, self.labels = part.images.to(self.device), part.labels.to(self.device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"the set cannot be put on device {str(device)!r}: {reason}") from None

    def __len__(self) -> int:
        whole, rest = divmod(len(self.images), self.batch_size)
        return whole + (1 if rest and not self.drop_last else 0)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        n = len(self.images)
        if self.shuffle:
            order = torch.randperm(n, generator=self.rng, device=self.rng.device).to(self.device)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            rows = order[start : start + self.batch_size] if self.shuffle else slice(start, start + self.batch_size)
            yield to_signed(self.images[rows]), self.labels[rows]


# Loading. Each file is known by its sha256; whatever has another one is fetched again or refused.


@dataclass(frozen=True)
class _Remote:
    folder: str
    mirrors: tuple[str, ...]
    files: dict[str, str]  # name -> sha256
    classes: tuple[str, ...]


_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_IDX = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
_REMOTE = {
    "mnist": _Remote(
        "MNIST/raw",
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
        dict(
            zip(
                _IDX,
                (
                    "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                    "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                    "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                    "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                ),
                strict=True,
            )
        ),
        DIGITS,
    ),
    "fashion-mnist": _Remote(
        "FashionMNIST/raw",
        (
            "https://fashion-mnist.s3.eu-central-1.amazonaws.com/",
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        ),
        dict(
            zip(
                _IDX,
                (
                    "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                    "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                    "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                    "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                ),
                strict=True,
            )
        ),
        _FASHION,
    ),
    "kmnist": _Remote(
        "KMNIST/raw",
        ("https://codh.rois.ac.jp/kmnist/dataset/kmnist/", "http://codh.rois.ac.jp/kmnist/dataset/kmnist/"),
        dict(
            zip(
                _IDX,
                (
                    "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
                    "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
                    "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
                    "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
                ),
                strict=True,
            )
        ),
        ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    ),
    "cifar10": _Remote(
        "",
        ("https://www.cs.toronto.edu/~kriz/",),
        {"cifar-10-python.tar.gz": "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"},
        _CIFAR10,
    ),
}
NAMES = ("digits", "strokes", *_REMOTE)
STROKES = 10_000  # rows of load("strokes"), 1,000 per class


def load(name: str, split: str = "all", *, root: str | Path | None = None, size: int | None = None) -> ImageSet:
    """Load a data set by name.

    name: ``"digits"`` (scikit-learn's 1,797 scans, 8×8, grey levels 0–16 stretched to 0–255; 13 writers in file order,
        no writer ids) and ``"strokes"`` (10,000 digits drawn by rule, 28×28) need no network and have only the split
        ``"all"``. ``"mnist"``, ``"fashion-mnist"``, ``"kmnist"`` (28×28) and ``"cifar10"`` (3×32×32) are read from
        `root`, fetched there when missing or damaged, and have ``"train"``, ``"test"`` and ``"all"``.
    root: the data folder; else the variable ``COURSE_DATA``, else ``data`` in the repository or the current folder.
    size: height and width wanted; images are resized smoothly (bilinear, antialiased), ``"strokes"`` is drawn anew.

    Returns an `ImageSet`. Raises ValueError for an unknown name or split or a size below 1; ConnectionError when a
    file is missing and cannot be fetched: the message names the file, the folder and the sets that need no network.

    Taught in: 00_start_here
    """
    if name not in NAMES:
        raise ValueError(f"unknown data set {name!r}; expected one of {NAMES}")
    splits = ("all",) if name in ("digits", "strokes") else ("all", "train", "test")
    if split not in splits:
        raise ValueError(f"{name!r} has no split {split!r}; expected one of {splits}")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ValueError(f"size must be a positive integer, got {size!r}")
    _loaded[name if size is None else f"{name} at {size}×{size}"] = None
    if name == "strokes":
        from . import rules  # the one arrow back: a rule-made set is loaded like any other

        labels = torch.arange(STROKES) % len(DIGITS)
        return rules.draw_digits(labels, torch.Generator().manual_seed(0), size=size or 28)[0]
    if name == "digits":
        from sklearn.datasets import load_digits

        bunch = load_digits()
        images = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8))[:, None]
        labels, classes = torch.from_numpy(bunch.target.astype(np.int64)), DIGITS
        source = np.array([f"digits/{i:04d}" for i in range(len(labels))])
    else:
        folder = Path(root or os.environ.get("COURSE_DATA") or _default_root())
        images, labels, source = _load_remote(name, split, folder)
        classes = _REMOTE[name].classes
    return ImageSet(images if size is None else _resize(images, size), labels, classes, source)


def loaded() -> list[str]:
    """Return the names of the sets that this process has loaded, for the records.

    Taught in: 01_collecting
    """
    return list(_loaded)


def _default_root() -> Path:
    return REPOSITORY / "data" if (REPOSITORY / "_config.yml").is_file() else Path("data")


def _resize(images: Tensor, size: int) -> Tensor:
    if images.shape[-2:] == (size, size):
        return images
    chunks = [
        torch.nn.functional.interpolate(chunk.float(), (size, size), mode="bilinear", antialias=True)
        for chunk in images.split(10_000)
    ]
    return torch.cat(chunks).round_().clamp_(0, 255).to(torch.uint8)


def _load_remote(name: str, part: str, root: Path) -> tuple[Tensor, Tensor, np.ndarray]:
    remote = _REMOTE[name]
    parts = ("train", "test") if part == "all" else (part,)
    images, labels, source = [], [], []
    if name == "cifar10":
        (file, digest), *_ = remote.files.items()
        content = _verified(root / file, digest, remote.mirrors, name)
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for piece in parts:
                members = [f"data_batch_{i}" for i in range(1, 6)] if piece == "train" else ["test_batch"]
                for member in members:
                    # Unpickling is safe here only because the sha256 of the whole archive has been checked.
                    rows = pickle.load(archive.extractfile(f"cifar-10-batches-py/{member}"), encoding="bytes")
                    images.append(torch.from_numpy(rows[b"data"].reshape(-1, 3, 32, 32).copy()))
                    labels.append(torch.tensor(rows[b"labels"], dtype=torch.int64))
                source += [f"{name}/{piece}/{i:05d}" for i in range(50_000 if piece == "train" else 10_000)]
    else:
        for piece in parts:
            stem = "train" if piece == "train" else "t10k"
            for kind, skip, into in (("images-idx3", 16, images), ("labels-idx1", 8, labels)):
                file = f"{stem}-{kind}-ubyte.gz"
                content = _verified(root / remote.folder / file, remote.files[file], remote.mirrors, name)
                raw = torch.frombuffer(bytearray(gzip.decompress(content)), dtype=torch.uint8, offset=skip)
                into.append(raw.view(-1, 1, 28, 28) if into is images else raw.long())
            source += [f"{name}/{piece}/{i:05d}" for i in range(len(labels[-1]))]
    return torch.cat(images), torch.cat(labels), np.array(source)


def _verified(path: Path, digest: str, mirrors: Sequence[str], name: str) -> bytes:
    """Return the content of a file whose sha256 is right; fetch it when it is missing or damaged."""
    damaged = False
    if path.is_file():
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() == digest:
            return content
        damaged = True
    reasons = [f"{path} is damaged (wrong sha256)"] if damaged else []
    for mirror in mirrors:
        try:
            _fetch(mirror + path.name, path, digest)
            return path.read_bytes()
        except (OSError, ValueError) as error:  # URLError, timeouts, a full disk and a wrong checksum: try the next
            reasons.append(f"{mirror}: {error}")
    raise ConnectionError(
        f"{path.name} of {name!r} could not be had.\n  " + "\n  ".join(reasons) + f"\n"
        f"What to do: check the network and try again; or put the file into {path.parent}; or set COURSE_DATA to a "
        f"folder that has it; or carry on with a bundled set: {OFFLINE}."
    )


def _fetch(url: str, path: Path, digest: str) -> None:
    """Download to a temporary name, check the sha256, and only then give the file its name: no half file is left."""
    from tqdm import tqdm

    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "course-utils"})
        with os.fdopen(handle, "wb") as file, urllib.request.urlopen(request, timeout=30) as answer:
            total = int(answer.headers.get("Content-Length") or 0) or None
            with tqdm.wrapattr(answer, "read", total=total, desc=path.name, delay=2) as stream:
                shutil.copyfileobj(stream, file)
        found = hashlib.sha256(Path(partial).read_bytes()).hexdigest()
        if found != digest:
            raise ValueError(f"sha256 is {found[:12]}…, expected {digest[:12]}…")
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    finally:
        Path(partial).unlink(missing_ok=True)
