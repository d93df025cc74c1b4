"""A set and its card: counts and a version made from the data, questions that only a person can answer, and a lock.

The card is a dict of plain values. One half is counted and cannot be typed; the other half is asked, and an empty
answer is refused. Saved sets hold arrays and JSON, never pickles.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch

from .data import ImageSet

ASKED = {
    "name": "What is the set called?",
    "licence": "Under which licence may it be used?",
    "origin": "Where does it come from?",
    "collected": "Who collected it, how and when?",
    "consent": "Did the people in it agree, and to what?",
    "missing": "Who or what is missing from it?",
}
COUNTED = ("rows", "shape", "classes", "counts", "unlabelled", "origins", "sha256")
NO_LICENCE = ("unknown", "none", "no licence", "n/a", "?")
NO_ANSWER = ("", "todo", "tbd", "…", "...")
IMAGES, LABELS, SOURCE, READABLE, CARD = FILES = ("images.npy", "labels.npy", "source.json", "CARD.md", "card.json")


def content_hash(part: ImageSet) -> str:
    """Return the version of a set: one sha256 over what is in it, whatever the order of its rows.

    Each row is hashed with its source, its label and its pixels; the hashes are sorted and hashed once more behind
    the image shape and the class names. Shuffled rows keep the version; one other pixel, label, source, class name or
    row, a repeated one included, gives another. 64 hexadecimal digits, the same on every machine.

    Raises ValueError for anything but an ImageSet.

    >>> images, labels = torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1])
    >>> part = ImageSet(images, labels, ("no", "yes"), np.array(["demo/0", "demo/1"]))
    >>> content_hash(part) == content_hash(part.select([1, 0]))
    True
    >>> content_hash(part)[:12]
    '8fe40e4a442f'

    Taught in: 01_collecting
    """
    _check_set(part)
    pixels = part.images.cpu().numpy()
    rows = [
        hashlib.sha256(_text([str(source), int(label)]) + image.tobytes()).digest()
        for source, label, image in zip(part.source, part.labels, pixels, strict=True)
    ]
    head = _text([list(part.images.shape[1:]), list(part.classes)])
    return hashlib.sha256(head + b"".join(sorted(rows))).hexdigest()


def make_card(
    part: ImageSet, *, name: str, licence: str, origin: str, collected: str, consent: str, missing: str, **more: str
) -> dict:
    """Return the card of a set: what is counted from it, and what only a person can answer.

    name, licence, origin, collected, consent, missing: non-empty strings, one for each question in `ASKED`. "unknown"
        is an answer to all but the name and the licence. more: further answers, such as ``purpose="…"``.

    Counted are: rows, shape (C, H, W as a list), classes, counts (class name → rows), unlabelled, origins (prefix of
    `source` → rows) and sha256 (`content_hash`). All values are plain and go through JSON unchanged.

    Raises ValueError for an answer that is missing, empty or no string, a licence such as "unknown", a further answer
    with the name of a counted field, and anything but an ImageSet.
    Source: Gebru et al. 2021 (arXiv:1803.09010), the questions; Pushkarna et al. 2022 (arXiv:2204.01075), the form.

    Taught in: 01_collecting
    """
    _check_set(part)
    answers = {"name": name, "licence": licence, "origin": origin, "collected": collected}
    answers |= {"consent": consent, "missing": missing}
    taken = [key for key in more if key in COUNTED]
    if taken:
        raise ValueError(f"{taken[0]!r} is counted from the set and cannot be typed, got {more[taken[0]]!r}")
    _check_answers(answers | more)
    return {**answers, **more, **_counted(part)}


def check_card(card: dict, part: ImageSet) -> None:
    """Refuse a card that leaves a question open or disagrees with the set it is said to describe.

    card: a dict as `make_card` returns it, or as read from JSON. part: the set. Returns None.

    Raises ValueError naming the field: a question that is not answered, no licence, a counted field that is missing or
    differs from the set, and a card or set of another type.

    Taught in: 01_collecting
    """
    if not isinstance(card, dict):
        raise ValueError(f"a card is a dict, got {type(card).__name__}")
    _check_set(part)
    _check_answers({key: value for key, value in card.items() if key not in COUNTED})
    for key, found in _counted(part).items():
        if key not in card:
            raise ValueError(f"the card lacks {key!r}: make it with make_card, from the set")
        if card[key] != found or isinstance(card[key], bool):
            raise ValueError(f"the card says {key} = {_short(card[key])}, the set has {_short(found)}")


def as_markdown(card: dict) -> str:
    """Return a card as Markdown for people: the questions with their answers, then what was counted.

    Raises ValueError for a card that leaves a question open or lacks a counted field.

    Taught in: 01_collecting
    """
    answers = {key: value for key, value in card.items() if key not in COUNTED}
    _check_answers(answers)
    absent = [key for key in COUNTED if key not in card]
    if absent:
        raise ValueError(f"the card lacks {absent[0]!r}: make it with make_card, from the set")
    lines = [f"# {card['name']}", ""]
    lines += [f"- **{ASKED.get(key, key)}** {value}" for key, value in answers.items() if key != "name"]
    counts = ", ".join(f"{name}: {count}" for name, count in card["counts"].items())
    origins = ", ".join(f"{name}: {count}" for name, count in card["origins"].items())
    lines += ["", f"Counted: {card['rows']} rows of shape {'×'.join(map(str, card['shape']))}"]
    lines[-1] += f", {card['unlabelled']} unlabelled."
    lines += [f"Labels: {counts or 'none'}.", f"Origins: {origins or 'none'}.", f"Version: {card['sha256']}", ""]
    return "\n".join(lines)


def save_set(folder: str | Path, part: ImageSet, card: dict) -> None:
    """Write a set and its card into a folder: images.npy, labels.npy, source.json, card.json, and CARD.md for people.

    folder: made when it is not there; one that holds a card already is left alone. The card is written last, so that a
        folder without one is a set that was not finished.

    Raises ValueError for whatever `check_card` refuses, and for a folder that holds a card.

    Taught in: 01_collecting
    """
    check_card(card, part)
    folder = Path(folder)
    if (folder / CARD).exists():
        raise ValueError(f"{folder.name!r} holds a set already: a new version is a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / IMAGES, part.images.cpu().numpy(), allow_pickle=False)
    np.save(folder / LABELS, part.labels.cpu().numpy(), allow_pickle=False)
    (folder / READABLE).write_text(as_markdown(card), encoding="utf8")
    for name, value in ((SOURCE, part.source.tolist()), (CARD, card)):
        text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
        (folder / name).write_text(text + "\n", encoding="utf8")


def open_set(folder: str | Path) -> tuple[ImageSet, dict]:
    """Return (set, card) from a folder that `save_set` wrote, checked again in full.

    The arrays are counted and hashed anew, so that a changed byte, row or label is found; pickles are refused. The
    hash covers the set, not what people wrote on the card, and it does not tell an accident from a forger who makes a
    new card: for that, keep the version somewhere else.

    Raises ValueError naming the file or field: no card, a card that is no JSON, an open question, no licence, a file
    that is missing or damaged, counts or a version that do not fit.

    Taught in: 01_collecting
    """
    folder = Path(folder)
    if not (folder / CARD).is_file():
        raise ValueError(f"{folder.name!r} has no {CARD}: not a set, or one that was not finished")
    found = {}
    for name in (CARD, IMAGES, LABELS, SOURCE):
        try:
            if name.endswith(".npy"):
                found[name] = torch.from_numpy(np.load(folder / name, allow_pickle=False))
            else:
                found[name] = json.loads((folder / name).read_text(encoding="utf8"))
        except Exception as error:  # a damaged header fails in many ways, in the tokeniser for one
            raise ValueError(f"{name} of {folder.name!r} is missing or damaged: {error}") from None
    card = found[CARD]
    if not isinstance(card, dict) or not isinstance(card.get("classes"), list):
        raise ValueError(f"{CARD} of {folder.name!r} must hold a card with a list of classes, got {_short(card)}")
    try:
        part = ImageSet(found[IMAGES], found[LABELS], card["classes"], np.array(found[SOURCE]))
    except (TypeError, ValueError) as error:
        raise ValueError(f"the files of {folder.name!r} do not fit together: {error}") from None
    check_card(card, part)
    return part, card


def _counted(part: ImageSet) -> dict:
    labels = part.labels.cpu()
    counts = torch.bincount(labels[labels >= 0], minlength=len(part.classes)).tolist()
    prefixes, rows = np.unique([name.partition("/")[0] for name in part.source.tolist()], return_counts=True)
    return {
        "rows": len(part),
        "shape": list(part.images.shape[1:]),
        "classes": list(part.classes),
        "counts": dict(zip(part.classes, counts, strict=True)),
        "unlabelled": int((labels < 0).sum()),
        "origins": dict(zip(map(str, prefixes), rows.tolist(), strict=True)),
        "sha256": content_hash(part),
    }


def _check_answers(answers: dict) -> None:
    for key in [*ASKED, *(key for key in answers if key not in ASKED)]:
        question = ASKED.get(key, "an answer of your own")
        value = answers.get(key)
        if not isinstance(value, str) or value.strip().lower() in NO_ANSWER:
            raise ValueError(f"the card leaves {key!r} open ({question}), got {value!r}")
    if answers["licence"].strip().lower() in NO_LICENCE:
        raise ValueError(f"no licence, no set: licence is {answers['licence']!r}, expected one that permits its use")


def _check_set(part) -> None:
    if not isinstance(part, ImageSet):
        raise ValueError(f"a card describes an ImageSet, got {type(part).__name__}")


def _text(value) -> bytes:
    return json.dumps(value).encode()


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
