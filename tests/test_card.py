"""card: what the version covers, what is counted, what a person must answer, a folder that is checked when opened."""

import hashlib
import json

import numpy as np
import pytest
import torch

from course_utils import card, data

ANSWERS = {
    "name": "Six toys",
    "licence": "CC BY 4.0",
    "origin": "drawn for a test",
    "collected": "by a program, today",
    "consent": "nobody is in it",
    "missing": "everything else",
}


def toy(labels=(0, 1, 2, 2, -1, 0), seed=0):
    n = len(labels)
    images = torch.randint(0, 256, (n, 1, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    source = np.array([("web" if i % 3 == 0 else "lab") + f"/{i}" for i in range(n)])
    return data.ImageSet(images, torch.tensor(labels), ("a", "b", "ç"), source)


def changed(part, **fields):
    values = {name: getattr(part, name) for name in ("images", "labels", "classes", "source")}
    return data.ImageSet(**{**values, **fields})


# The version


def test_hash_by_hand():
    part = data.ImageSet(
        torch.tensor([[[[7]]], [[[9]]]], dtype=torch.uint8), torch.tensor([1, -1]), "xy", ["p/0", "q/1"]
    )
    rows = [hashlib.sha256(b'["p/0", 1]\x07').digest(), hashlib.sha256(b'["q/1", -1]\x09').digest()]
    assert card.content_hash(part) == hashlib.sha256(b'[[1, 1, 1], ["x", "y"]]' + b"".join(sorted(rows))).hexdigest()


def test_order_is_no_part_of_the_version():
    part = toy()
    for seed in range(5):
        order = torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))
        assert card.content_hash(part.select(order)) == card.content_hash(part)


def _pixel(part):
    images = part.images.clone()
    images[3, 0, 2, 2] ^= 1
    return changed(part, images=images)


CHANGES = {
    "one pixel": _pixel,
    "one label": lambda p: changed(p, labels=torch.tensor([0, 1, 2, 1, -1, 0])),
    "two labels swapped": lambda p: changed(p, labels=torch.tensor([1, 0, 2, 2, -1, 0])),
    "a label hidden": lambda p: changed(p, labels=torch.tensor([0, 1, 2, -1, -1, 0])),
    "one source": lambda p: changed(p, source=np.array(["web/9", *p.source[1:]])),
    "a class renamed": lambda p: changed(p, classes=("a", "b", "c")),
    "classes in another order": lambda p: changed(p, classes=("b", "a", "ç")),
    "a row less": lambda p: p.select(slice(1, None)),
    "a row twice": lambda p: p.select([0, 0, 1, 2, 3, 4, 5]),
    "images turned": lambda p: changed(p, images=p.images.transpose(2, 3).contiguous()),
    "another shape, the same bytes": lambda p: changed(p, images=p.images.reshape(6, 1, 5, 4)),
    "images of other rows": lambda p: changed(p, images=p.images.roll(1, 0)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_is_another_version(name):
    part = toy()
    assert card.content_hash(CHANGES[name](part)) != card.content_hash(part)


def test_counts_alone_would_miss_swapped_labels():
    """Why there is a hash: all other counted fields stay equal when labels are shuffled."""
    part, swapped = toy(), CHANGES["two labels swapped"](toy())
    one, two = (card.make_card(p, **ANSWERS) for p in (part, swapped))
    assert one.pop("sha256") != two.pop("sha256")
    assert one == two


def test_layout_in_memory_does_not_matter():
    part = toy()
    strided = changed(part, images=part.images.transpose(2, 3).contiguous().transpose(2, 3))
    assert not strided.images.is_contiguous()
    assert card.content_hash(strided) == card.content_hash(part)


# Making and checking


def test_counts_by_hand():
    made = card.make_card(toy(), **ANSWERS, purpose="to test")
    assert made["rows"] == 6 and made["shape"] == [1, 4, 5] and made["classes"] == ["a", "b", "ç"]
    assert made["counts"] == {"a": 2, "b": 1, "ç": 2} and made["unlabelled"] == 1
    assert made["origins"] == {"lab": 4, "web": 2}
    assert made["purpose"] == "to test"
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert card.check_card(made, toy()) is None


def test_digits_and_empty_sets():
    digits = data.load("digits")
    made = card.make_card(digits, **ANSWERS)
    assert made["rows"] == sum(made["counts"].values()) == 1797
    assert list(made["counts"].values()) == np.bincount(digits.labels.numpy()).tolist()
    empty = toy().select([])
    made = card.make_card(empty, **ANSWERS)
    assert made["rows"] == 0 and made["origins"] == {}
    card.check_card(made, empty)


@pytest.mark.parametrize("key", ANSWERS)
@pytest.mark.parametrize("value", ["", "  ", "TODO", None, 3])
def test_an_open_question_is_named(key, value):
    with pytest.raises(ValueError, match=f"{key!r} open"):
        card.make_card(toy(), **{**ANSWERS, key: value})
    made = card.make_card(toy(), **ANSWERS)
    with pytest.raises(ValueError, match=f"{key!r} open"):
        card.check_card({**made, key: value}, toy())
    with pytest.raises(ValueError, match=f"{key!r} open"):
        card.check_card({k: v for k, v in made.items() if k != key}, toy())


@pytest.mark.parametrize("licence", ["unknown", "None", " no licence ", "?"])
def test_no_licence_no_set(licence):
    with pytest.raises(ValueError, match="no licence, no set"):
        card.make_card(toy(), **{**ANSWERS, "licence": licence})


def test_unknown_is_an_answer_elsewhere():
    card.make_card(toy(), **{**ANSWERS, "consent": "unknown", "missing": "unknown"})


def test_counted_fields_cannot_be_typed():
    with pytest.raises(ValueError, match="'rows' is counted"):
        card.make_card(toy(), **ANSWERS, rows="6")


@pytest.mark.parametrize("key", card.COUNTED)
def test_a_card_that_disagrees_is_named(key):
    made = card.make_card(toy(), **ANSWERS)
    other = {"rows": 7, "shape": [1, 5, 4], "classes": ["a", "b"], "counts": {"a": 3}, "unlabelled": True}
    with pytest.raises(ValueError, match=f"says {key}"):
        card.check_card({**made, key: other.get(key, "x")}, toy())
    with pytest.raises(ValueError, match=f"lacks {key!r}"):
        card.check_card({k: v for k, v in made.items() if k != key}, toy())


def test_wrong_types_are_named():
    with pytest.raises(ValueError, match="list"):
        card.make_card([1, 2], **ANSWERS)
    with pytest.raises(ValueError, match="ndarray"):
        card.content_hash(np.zeros(3))
    with pytest.raises(ValueError, match="a dict, got str"):
        card.check_card("a card", toy())


def test_markdown_says_all():
    made = card.make_card(toy(), **ANSWERS, purpose="to test")
    text = card.as_markdown(made)
    assert text.startswith("# Six toys\n")
    for piece in (*ANSWERS.values(), "to test", "6 rows", "1×4×5", "1 unlabelled", "ç: 2", "web: 2", made["sha256"]):
        assert piece in text
    for question in list(card.ASKED.values())[1:]:
        assert question in text
    with pytest.raises(ValueError, match="lacks 'rows'"):
        card.as_markdown(ANSWERS)


# A folder


@pytest.fixture
def folder(tmp_path):
    part = toy()
    card.save_set(tmp_path / "toys", part, card.make_card(part, **ANSWERS))
    return tmp_path / "toys"


def test_round_trip(folder):
    part, read = card.open_set(folder)
    assert torch.equal(part.images, toy().images) and torch.equal(part.labels, toy().labels)
    assert part.classes == toy().classes and part.source.tolist() == toy().source.tolist()
    assert read == card.make_card(toy(), **ANSWERS)
    assert (folder / card.READABLE).read_text(encoding="utf8") == card.as_markdown(read)
    assert sorted(p.name for p in folder.iterdir()) == sorted(card.FILES)


def test_a_set_is_not_overwritten(folder):
    with pytest.raises(ValueError, match="new folder"):
        card.save_set(folder, toy(seed=1), card.make_card(toy(seed=1), **ANSWERS))
    assert torch.equal(card.open_set(folder)[0].images, toy().images)


def test_a_wrong_card_writes_nothing(tmp_path):
    with pytest.raises(ValueError, match="sha256"):
        card.save_set(tmp_path / "x", toy(seed=1), card.make_card(toy(), **ANSWERS))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", [card.IMAGES, card.LABELS, card.SOURCE])
def test_every_changed_byte_is_refused(folder, name):
    """Header and content alike; a header that is read differently must not slip through as another exception."""
    path = folder / name
    content = path.read_bytes()
    missed = []
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 128]) + content[place + 1 :])
        try:
            card.open_set(folder)
            missed.append(place)
        except ValueError:
            pass
    assert missed == []


def _without_licence(folder):
    path = folder / card.CARD
    path.write_text(path.read_text(encoding="utf8").replace("CC BY 4.0", ""), encoding="utf8")


def _pickled(folder):
    np.save(folder / "labels.npy", toy().labels.numpy().astype(object), allow_pickle=True)


BROKEN = {
    "no licence": (_without_licence, "licence"),
    "no card": (lambda f: (f / card.CARD).unlink(), "has no card.json"),
    "half a card": (lambda f: (f / card.CARD).write_text("{"), "card.json .* damaged"),
    "a list for a card": (lambda f: (f / card.CARD).write_text("[1]"), "must hold a card"),
    "an array missing": (lambda f: (f / "labels.npy").unlink(), "labels.npy"),
    "half an array": (lambda f: (f / "images.npy").write_bytes((f / "images.npy").read_bytes()[:-9]), "images.npy"),
    "a pickle": (_pickled, "labels.npy"),
    "labels of another type": (lambda f: np.save(f / "labels.npy", np.zeros(6, np.float32)), "do not fit"),
    "another number of rows": (lambda f: np.save(f / "labels.npy", np.zeros(5, np.int64)), "do not fit"),
    "a source for all": (lambda f: (f / "source.json").write_text('"web"'), "do not fit"),
    "labels shuffled": (lambda f: np.save(f / "labels.npy", np.array([1, 0, 2, 2, -1, 0])), "sha256"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_is_refused(folder, name):
    damage, word = BROKEN[name]
    damage(folder)
    with pytest.raises(ValueError, match=word):
        card.open_set(folder)


def test_a_loader_without_the_hash_would_be_fooled(folder, monkeypatch):
    BROKEN["labels shuffled"][0](folder)
    version = json.loads((folder / card.CARD).read_text(encoding="utf8"))["sha256"]
    monkeypatch.setattr(card, "content_hash", lambda part: version)
    card.open_set(folder)
