"""data: image sets, ranges, splits, batches, verified loading."""

import gzip
import hashlib
import http.server
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils import data


def toy(counts=(10, 20, 30), size=4):
    labels = torch.cat([torch.full((n,), k) for k, n in enumerate(counts)])
    images = torch.randint(0, 256, (len(labels), 1, size, size), dtype=torch.uint8, generator=seeded(0))
    return data.ImageSet(
        images, labels, tuple("abcdef"[: len(counts)]), np.array([f"toy/{i}" for i in range(len(labels))])
    )


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


# ImageSet


def test_digits_are_the_sklearn_set_stretched_to_bytes(digits):
    from sklearn.datasets import load_digits

    bunch = load_digits()
    assert digits.images.shape == (1797, 1, 8, 8)
    assert np.array_equal(digits.images[:, 0].numpy(), np.round(bunch.images * 255 / 16).astype(np.uint8))
    assert np.array_equal(digits.labels.numpy(), bunch.target)
    assert digits.source[42] == "digits/0042"
    assert digits.classes == tuple("0123456789")


def test_select_keeps_rows_together(digits):
    rows = torch.tensor([5, 3, 1700])
    for chosen in (digits.select(rows), digits.select(rows.numpy()), digits.select(rows.tolist())):
        assert chosen.source.tolist() == ["digits/0005", "digits/0003", "digits/1700"]
        assert torch.equal(chosen.images, digits.images[rows])
        assert torch.equal(chosen.labels, digits.labels[rows])
    mask = digits.labels == 7
    assert len(digits.select(mask)) == int(mask.sum())
    assert digits.select(slice(2, 10, 3)).source.tolist() == ["digits/0002", "digits/0005", "digits/0008"]
    assert len(digits.select([])) == 0


@pytest.mark.parametrize("rows", [[1797], [-1798], torch.tensor([0.5]), torch.ones(3, dtype=torch.bool), [[1]]])
def test_select_refuses_what_is_not_there(digits, rows):
    with pytest.raises(ValueError, match=r"row|mask|dtype|shape"):
        digits.select(rows)


def test_concat_keeps_sources(digits):
    both = data.concat(digits.select([1]), digits.select([0]))
    assert both.source.tolist() == ["digits/0001", "digits/0000"]
    with pytest.raises(ValueError, match="at least one"):
        data.concat()
    with pytest.raises(ValueError, match="classes"):
        data.concat(digits, toy())
    with pytest.raises(ValueError, match="shape"):
        data.concat(toy(), toy(size=5))


def test_an_image_set_cannot_be_changed_or_malformed():
    good = toy()
    with pytest.raises(AttributeError):
        good.labels = good.labels
    parts = {"images": good.images, "labels": good.labels, "classes": good.classes, "source": good.source}
    for name, bad in {
        "images": good.images.float(),
        "labels": good.labels.int(),
        "classes": ("a", "a", "b"),
        "source": good.source[:-1],
    }.items():
        with pytest.raises(ValueError, match=name):
            data.ImageSet(**{**parts, name: bad})
    with pytest.raises(ValueError, match=r"-1\.\.2, got 0\.\.5"):
        data.ImageSet(**{**parts, "labels": good.labels.clone().fill_(5).scatter(0, torch.tensor([0]), 0)})


# Ranges


def test_every_byte_survives_the_round_trip():
    every = torch.arange(256, dtype=torch.uint8)
    signed = data.to_signed(every)
    assert signed.dtype == torch.float32
    assert (float(signed[0]), float(signed[-1])) == (-1.0, 1.0)
    assert torch.equal(data.to_bytes(signed), every)
    assert torch.allclose(data.to_probability(signed), every / 255)


def test_scaling_twice_is_refused():
    with pytest.raises(ValueError, match="scaled before"):
        data.to_signed(data.to_signed(torch.zeros(3, dtype=torch.uint8)))


@pytest.mark.parametrize("function", [data.to_bytes, data.to_probability])
@pytest.mark.parametrize("bad", [torch.tensor([2.0]), torch.tensor([float("nan")]), torch.tensor([1]), [0.5]])
def test_values_outside_the_range_are_refused(function, bad):
    with pytest.raises(ValueError, match=function.__name__):
        function(bad)


# split


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(12, 60), min_size=2, max_size=5),
    shares=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    spare=st.integers(0, 5),
    seed=st.integers(0, 10),
)
def test_parts_are_disjoint_stratified_and_of_the_right_size(counts, shares, spare, seed):
    full = toy(counts)
    fractions = [s / (sum(shares) + spare) for s in shares]
    try:
        parts = data.split(full, fractions, seeded(seed))
    except ValueError as error:
        assert "too few rows" in str(error)
        return
    sources = np.concatenate([part.source for part in parts])
    assert len(set(sources)) == len(sources)
    if spare == 0:
        assert len(sources) == len(full)
    for position, (part, fraction) in enumerate(zip(parts, fractions, strict=True)):
        assert abs(len(part) - fraction * len(full)) < 1
        for k, n in enumerate(counts):
            # Each part is within one row of its share; the last of several takes what the others left.
            room = 1 if position == 0 or len(parts) == 2 else len(parts)
            assert abs(int((part.labels == k).sum()) - fraction * n) <= room


def test_split_draws_anew_with_another_seed_and_repeats_with_the_same(digits):
    first = data.split(digits, (0.1, 0.2), seeded(0))[0]
    assert first.source.tolist() == data.split(digits, (0.1, 0.2), seeded(0))[0].source.tolist()
    assert first.source.tolist() != data.split(digits, (0.1, 0.2), seeded(1))[0].source.tolist()
    assert (first.labels[1:] < first.labels[:-1]).any(), "a part must not come out sorted by class"


def test_every_row_has_the_same_chance():
    full, hits = toy((10, 30)), np.zeros(40)
    for seed in range(400):
        hits[[int(s.split("/")[1]) for s in data.split(full, (0.5,), seeded(seed))[0].source]] += 1
    assert np.abs(hits / 400 - 0.5).max() < 5 * 0.025  # five standard errors


@pytest.mark.parametrize("fractions", [(), (0.0, 0.5), (-0.1,), (0.6, 0.6), (1.2,)])
def test_bad_fractions(digits, fractions):
    with pytest.raises(ValueError, match="fractions"):
        data.split(digits, fractions, seeded(0))


def test_a_class_with_too_few_rows_is_named():
    with pytest.raises(ValueError, match="class 'a'"):
        data.split(toy((1, 40, 40)), (0.5, 0.5), seeded(0))
    with pytest.raises(ValueError, match="empty"):
        data.split(toy().select([]), (0.5,), seeded(0))


# batches


def test_batches_cover_the_set_and_draw_a_new_order_each_time():
    full = toy()
    batches = data.batches(full, 7, seeded(0))
    passes = [torch.cat([y for _, y in batches]) for _ in range(2)]
    assert len(batches) == 9
    assert [len(x) for x, _ in batches] == [7] * 8 + [4]
    assert torch.equal(passes[0].sort().values, full.labels.sort().values)
    assert not torch.equal(passes[0], passes[1])
    x, y = next(iter(batches))
    assert (x.dtype, x.shape[1:], y.dtype) == (torch.float32, (1, 4, 4), torch.int64)


def test_images_keep_their_labels_in_a_batch():
    full = toy()
    pictures = full.labels.view(-1, 1, 1, 1).expand(-1, 1, 4, 4).to(torch.uint8).contiguous()
    full = data.ImageSet(pictures, full.labels, full.classes, full.source)
    for x, y in data.batches(full, 16, seeded(1)):
        assert torch.equal(data.to_bytes(x)[:, 0, 0, 0].long(), y)


def test_order_without_shuffling_and_the_same_seed():
    full = toy()
    assert torch.equal(torch.cat([y for _, y in data.batches(full, 8, seeded(0), shuffle=False)]), full.labels)
    one, two = (torch.cat([y for _, y in data.batches(full, 8, seeded(4))]) for _ in range(2))
    assert torch.equal(one, two)
    assert len(data.batches(full, 8, seeded(0), drop_last=True)) == 7
    assert sum(len(y) for _, y in data.batches(full, 8, seeded(0), drop_last=True)) == 56


@pytest.mark.parametrize("size, last", [(0, False), (-3, False), (2.0, False), (True, False), (61, True)])
def test_bad_batch_sizes(size, last):
    with pytest.raises(ValueError, match=f"batch_size.*{size}"):
        data.batches(toy(), size, seeded(0), drop_last=last)


def test_other_bad_batches():
    with pytest.raises(ValueError, match="non-empty"):
        data.batches(toy().select([]), 4, seeded(0))
    with pytest.raises(ValueError, match="rng"):
        data.batches(toy(), 4, 0)
    with pytest.raises(ValueError, match="cuda:99"):
        data.batches(toy(), 4, seeded(0), device="cuda:99")
    for device in ("gpu", "", None, "meta"):  # the last has shapes but no numbers
        with pytest.raises(ValueError, match=f"device must be one that holds numbers.*got {device!r}"):
            data.batches(toy(), 4, seeded(0), device=device)


# load


def test_unknown_names_splits_and_sizes():
    with pytest.raises(ValueError, match="'mnits'"):
        data.load("mnits")
    with pytest.raises(ValueError, match="'train'"):
        data.load("digits", "train")
    with pytest.raises(ValueError, match="size"):
        data.load("digits", size=0)


def test_strokes_are_the_same_every_time():
    one, two = data.load("strokes", size=12), data.load("strokes", size=12)
    assert len(one) == data.STROKES
    assert one.images.shape[1:] == (1, 12, 12)
    assert torch.equal(one.images, two.images)
    assert torch.equal(one.labels.bincount(), torch.full((10,), data.STROKES // 10))


def test_resizing_is_smooth_and_keeps_the_mean(digits):
    larger = data.load("digits", size=16)
    assert larger.images.shape == (1797, 1, 16, 16)
    assert abs(larger.images.float().mean() - digits.images.float().mean()) < 1


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A loopback mirror of a tiny set in MNIST's format; its folder, the data root, and the log of requests."""
    folder, log = tmp_path / "mirror", []
    folder.mkdir()
    rng = np.random.default_rng(0)
    files = {}
    for stem, n in (("train", 6), ("t10k", 4)):
        images = bytes(16) + rng.integers(0, 256, (n, 28, 28), dtype=np.uint8).tobytes()
        labels = bytes(8) + bytes(range(n))
        for kind, raw in (("images-idx3", images), ("labels-idx1", labels)):
            content = gzip.compress(raw, mtime=0)
            name = f"{stem}-{kind}-ubyte.gz"
            (folder / name).write_bytes(content)
            files[name] = hashlib.sha256(content).hexdigest()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, form, *args):
            log.append(args[0])

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    remote = data._Remote("MNIST/raw", (address + "gone/", address), files, data.DIGITS)
    monkeypatch.setitem(data._REMOTE, "mnist", remote)
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "root"))
    yield folder, tmp_path / "root" / "MNIST" / "raw", log
    server.shutdown()
    server.server_close()


def test_a_set_is_fetched_once_from_the_second_mirror(mirror):
    _, raw, log = mirror
    train = data.load("mnist", "train")
    assert (len(train), train.source[0]) == (6, "mnist/train/00000")
    assert len(data.load("mnist")) == 10
    assert data.load("mnist").source[-1] == "mnist/test/00003"
    requests = len(log)
    data.load("mnist", "test", size=8)
    assert len(log) == requests, "files that are right are not fetched again"
    assert sorted(p.name for p in raw.iterdir()) == sorted(data._REMOTE["mnist"].files), "no half file is left"


def test_a_damaged_file_is_fetched_again(mirror):
    _, raw, _ = mirror
    before = data.load("mnist")
    target = raw / "train-images-idx3-ubyte.gz"
    target.write_bytes(target.read_bytes()[:100])
    assert torch.equal(data.load("mnist").images, before.images)


def test_a_wrong_mirror_leaves_nothing_and_says_what_to_do(mirror):
    folder, raw, _ = mirror
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"something else")
    with pytest.raises(ConnectionError, match=r'(?s)sha256.*COURSE_DATA.*load\("digits"\)'):
        data.load("mnist", "train")
    assert list(raw.iterdir()) == []


def test_without_network_the_bundled_sets_are_named(monkeypatch, tmp_path):
    remote = data._REMOTE["mnist"]
    closed = data._Remote(remote.folder, ("http://127.0.0.1:9/",), remote.files, remote.classes)
    monkeypatch.setitem(data._REMOTE, "mnist", closed)
    with pytest.raises(ConnectionError, match=r'load\("digits"\) and load\("strokes"\)'):
        data.load("mnist", root=tmp_path)


def test_a_broken_off_download_is_not_mistaken_for_the_file(mirror, monkeypatch):
    """The planted fault: writing straight to the final name would leave the half file that this test looks for."""
    _, raw, _ = mirror

    def break_off(stream, file):
        file.write(stream.read(50))
        raise OSError("connection lost")

    monkeypatch.setattr(data.shutil, "copyfileobj", break_off)
    with pytest.raises(ConnectionError, match="connection lost"):
        data.load("mnist", "train")
    assert list(raw.iterdir()) == []
