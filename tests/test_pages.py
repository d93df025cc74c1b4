"""The generated parts of the book: links only to what exists, records typed by nobody."""

import base64
import importlib.util
import json
import math
import re
import shutil
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("pages", ROOT / "tools/pages.py")
pages = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pages)

RECORD = {
    "metrics": {
        "real only": {"accuracy": 0.80123, "interval": [0.79, 0.8123], "runs": 64},
        "augmented": {"accuracy": 0.83217, "interval": [0.82, 0.8401], "runs": 64},
    },
    "commit": "abc1234",
    "hardware": "two cores",
    "device": "cpu",
    "data": ["digits"],
    "seconds": 412.3,
    "seeds": list(range(64)),
    "versions": {"torch": "2.15.0"},
    "figure": None,
    "date": "2026-11-22",
}


@pytest.fixture
def tree(tmp_path):
    """An empty course: the list of chapters and the settings, and nothing else."""
    for name in ("book/chapters.yml", "_config.yml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    for folder in ("notebooks", "book/results", "book/_static"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    return tmp_path


def write_chapter(tree, name):
    (tree / f"notebooks/{name}.ipynb").write_text("{}", encoding="utf-8")


def write_record(tree, records, chapter="00_start_here"):
    (tree / f"book/results/{chapter}.json").write_text(json.dumps(records), encoding="utf-8")


def links(text):
    return re.findall(r"\]\(([^)]+)\)", text)


# ---------- the list of chapters ----------


def test_the_list_holds_the_33_chapters_in_order():
    chapters = pages.chapter_list()
    assert [chapter["number"] for chapter in chapters] == list(range(33))
    assert len({chapter["name"] for chapter in chapters}) == 33
    for chapter in chapters:
        assert re.fullmatch(r"\d\d_[a-z_]+", chapter["name"]), chapter["name"]
        assert chapter["question"].endswith("?"), chapter["name"]


def test_a_chapter_out_of_order_is_refused(tree):
    path = tree / "book/chapters.yml"
    path.write_text(path.read_text(encoding="utf-8").replace("name: 05_fewer", "name: 06_fewer"), encoding="utf-8")
    with pytest.raises(ValueError, match="06_fewer_labels"):
        pages.chapter_list(tree)


def test_every_notebook_is_in_the_list_and_in_the_contents():
    named = {chapter["name"] for chapter in pages.chapter_list()}
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    listed = {entry["file"] for part in contents["parts"] for entry in part["chapters"]}
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        assert notebook.stem in named, f"{notebook.name} is not in book/chapters.yml"
        assert f"notebooks/{notebook.stem}" in listed, f"{notebook.name} is not in _toc.yml"


# ---------- the first page ----------


def test_the_map_links_what_exists_and_nothing_else(tree):
    assert links(pages.course_map(tree)) == []
    write_chapter(tree, "00_start_here")
    write_chapter(tree, "03_splits_and_leakage")
    text = pages.course_map(tree)
    assert links(text) == ["../notebooks/00_start_here.ipynb", "../notebooks/03_splits_and_leakage.ipynb"]
    assert "04 · Annotation" in text and "Written so far: 2" in text


def test_doors_of_an_empty_course_have_no_links(tree):
    text = pages.doors(tree)
    assert links(text) == []
    for door in ("Read", "Run on Colab", "I need data on Monday", "I teach"):
        assert f"**{door}**" in text


def test_doors_open_as_their_targets_appear(tree):
    write_chapter(tree, "00_start_here")
    text = pages.doors(tree)
    assert set(links(text)) == {"../notebooks/00_start_here.ipynb"}
    assert "colab.research" not in text, "the stand-in address leads nowhere"

    config = tree / "_config.yml"
    real = config.read_text(encoding="utf-8").replace(pages.STAND_IN, "https://github.com/someone/course")
    config.write_text(real, encoding="utf-8")
    colab = "https://colab.research.google.com/github/someone/course/blob/main/notebooks/00_start_here.ipynb"
    assert colab in links(pages.doors(tree))

    (tree / "book/teaching.md").write_text("# Teaching\n", encoding="utf-8")
    assert "teaching.md" in links(pages.doors(tree))


def test_express_door_says_what_is_missing(tree):
    write_chapter(tree, "00_start_here")
    assert "Still being written: 03, 30, 10, 26, 28, 29." in pages.doors(tree)
    for chapter in pages.chapter_list(tree):
        write_chapter(tree, chapter["name"])
    assert "Still being written" not in pages.doors(tree)


def test_pictures_appear_with_their_files(tree):
    assert pages.strip(tree) == "" and pages.result(tree) == ""
    (tree / "book/_static/first_strip.png").write_bytes(b"png")
    assert "<details" not in pages.strip(tree), "no answer is known yet"
    said = {"strip_answer": "The 4th\nand the 17th.", "strip_alt": "Twenty\ndigits"}
    (tree / "book/_static/first_page.json").write_text(json.dumps(said), encoding="utf-8")
    text = pages.strip(tree)
    assert ":alt: Twenty digits\n" in text and "<summary>Which two?</summary>" in text and "17th" in text


def test_the_pipeline_tells_what_every_step_knows(tree):
    text = pages.pipeline(tree)
    steps = re.findall(r"class='step'>([^<]+)<", text)
    assert steps == [
        *("collect", "clean", "annotate", "augment", "synthesise", "by rule", "by VAE", "by GAN"),
        *("train", "evaluate", "show"),
    ]
    assert text.count("class='knows'") == len(steps) - 1, "all but the heading of the three ways"


# ---------- the records ----------


def test_no_record_is_said_to_be_none(tree):
    assert pages.records(tree).startswith("No record yet")
    write_record(tree, {})
    assert pages.records(tree).startswith("No record yet")


def test_a_record_becomes_a_table(tree):
    write_record(tree, {"arms": RECORD})
    text = pages.records(tree)
    assert "## 00 · Start here" in text and "### arms" in text
    assert "|  | accuracy | interval | runs |" in text
    assert "| real only | 0.801 | [0.790, 0.812] | 64 |" in text
    for fact in ("seeds: 64 seeds (0–63)", "data: digits", "two cores (cpu), 7 min", "torch 2.15.0", "`abc1234`"):
        assert fact in text, fact
    assert links(text) == [], "the chapter does not exist in this tree"


def test_nested_and_single_metrics_are_flattened(tree):
    metrics = {"bound": {"train": {"mean": -80.512}}, "gap": 1.5, "note": "a|b", "all": [0.1, 0.2, 0.3, 0.4]}
    write_record(tree, {"x": {**RECORD, "metrics": metrics}})
    text = pages.records(tree)
    assert "| bound · train · mean | −80.5 |" in text
    assert "| note | a\\|b |" in text
    assert "| all | 4 values, mean 0.250, from 0.100 to 0.400 |" in text


def test_a_figure_must_exist_and_gets_a_text(tree):
    write_record(tree, {"arms": {**RECORD, "figure": "arms.png"}})
    with pytest.raises(ValueError, match=r"arms\.png"):
        pages.records(tree)
    (tree / "book/results/arms.png").write_bytes(b"png")
    assert re.search(r"```\{figure\} results/arms\.png\n:alt: \w+ \w+ \w+ \w+ \w+", pages.records(tree))


def test_incomplete_and_homeless_records_are_refused(tree):
    write_record(tree, {"arms": {key: value for key, value in RECORD.items() if key != "seeds"}})
    with pytest.raises(ValueError, match="'seeds'"):
        pages.records(tree)
    (tree / "book/results/00_start_here.json").unlink()
    write_record(tree, {"arms": RECORD}, chapter="99_nowhere")
    with pytest.raises(ValueError, match="99_nowhere"):
        pages.records(tree)


def write_published(tree, path, **more):
    item = {
        "title": "Bound",
        "unit": "nats",
        "published": [{"name": "theirs", "value": "86.76", "source": "[A](https://arxiv.org/abs/1)"}],
        "ours": [{"name": "this one", "path": path, **more}],
        "differs": "everything",
    }
    (tree / "book/published.yml").write_text(yaml.safe_dump([item]), encoding="utf-8")


def test_published_figures_stand_beside_ours(tree):
    assert pages.published(tree) == ""
    write_published(tree, ["00_start_here", "bound", "plain", "nats"], factor=-1)
    assert "| **ours:** this one | not recorded yet | record *bound* of chapter 00 |" in pages.published(tree)
    write_record(tree, {"bound": {**RECORD, "metrics": {"plain": {"nats": [-90.0, -91.0], "name": "x"}}}})
    text = pages.published(tree)
    assert "| theirs | 86.76 | [A](https://arxiv.org/abs/1) |" in text and "| **ours:** this one | 90.5 |" in text
    assert "What differs: everything" in text


@pytest.mark.parametrize("keys", [["plain", "bits"], ["plain", "name"], ["plain", "nats", "more"]])
def test_a_published_comparison_with_nothing_is_refused(tree, keys):
    write_record(tree, {"bound": {**RECORD, "metrics": {"plain": {"nats": [-90.0], "name": "x"}}}})
    write_published(tree, ["00_start_here", "bound", *keys])
    with pytest.raises(ValueError, match=r"bound · plain"):
        pages.published(tree)


def write_measured(tree, **more):
    one = {
        "says": "about {gap:+.1f} points, {share:.0%} of {n:,.0f}",
        "numbers": {
            "a": ["00_start_here", "bound", "plain", "all"],
            "n": ["00_start_here", "bound", "plain", "pair", 1],
            "share": ["00_start_here", "bound", "plain", "deals", "right"],
            "gap": "a - 5",
        },
        "holds": "gap < 0 and share == 0.5",
        **more,
    }
    (tree / "book/measured.yml").write_text(yaml.safe_dump({"gap": one}), encoding="utf-8")


def test_a_sentence_gets_its_numbers_from_the_records(tree):
    assert pages.measured(tree) == {}
    write_measured(tree)
    assert "not recorded yet" in pages.measured(tree)["gap"]
    deals = [{"right": 0.25}, {"right": 0.75}]
    metrics = {"plain": {"all": [2.0, 4.0], "pair": [0.0, 1234.0], "deals": deals}}
    write_record(tree, {"bound": {**RECORD, "metrics": metrics}})
    assert pages.measured(tree)["gap"] == (
        ":::{div} measured\n**Measured:** about −2.0 points, 50\u00a0% of 1,234 (00 · Start here)\n:::\n"
    )


@pytest.mark.parametrize(("change", "message"), [
    ({"holds": "gap > 0"}, r"no longer say what .gap. says .*gap = −2"),
    ({"numbers": {"gap": ["00_start_here", "bound", "plain", "pair", 2]}}, "no bound · plain · pair · 2"),
    ({"numbers": {"gap": ["00_start_here", "bound", "plain", "all", "right"]}}, "no bound · plain · all · right"),
])  # fmt: skip
def test_a_sentence_that_the_records_contradict_is_refused(tree, change, message):
    write_record(tree, {"bound": {**RECORD, "metrics": {"plain": {"all": [3.0], "pair": [0.0, 1.0],
                                                                  "deals": [{"right": 0.5}]}}}})  # fmt: skip
    write_measured(tree, **change)
    with pytest.raises(ValueError, match=message):
        pages.measured(tree)


def test_every_measured_sentence_stands_on_a_page_and_is_recorded():
    """A sentence without a page is dead; a page whose sentence is missing does not build."""
    sentences = pages.measured()
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "book").glob("*.md"))
    used = re.findall(r"_generated/measured_(\w+)\.md", text)
    assert set(used) == set(sentences)
    for name, sentence in sentences.items():
        assert "not recorded" not in sentence, name
        assert "](../notebooks/" in sentence and "nan" not in sentence, name


def test_the_cost_of_a_million(tree):
    assert pages.cost(tree) == "Not recorded yet.\n"
    made = {"slow": {"images_per_second": 1000.0}, "fast": {"images_per_second": 50_000.0}}
    write_record(tree, {"generators": {**RECORD, "metrics": made}}, chapter="22_gpu_practice")
    text = pages.cost(tree)
    assert text.index("| fast | 50,000 |") < text.index("| slow | 1,000 | 0.278 | 27.8 |")
    assert "two cores, 2026-11-22" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.80123, "0.801"),
        (12.3456, "12.3"),
        (1234.5, "1,234"),
        (-0.0312, "−0.0312"),
        (0.0, "0"),
        (1e-9, "1e−09"),
        (64, "64"),
        (60000, "60,000"),
        (True, "True"),
        (math.inf, "∞"),
        (math.nan, "not a number"),
    ],
)
def test_numbers_are_rounded_for_reading(value, text):
    assert pages.number_text(value) == text


def test_rounding_never_turns_a_number_into_zero():
    assert pages.number_text(0.00004, places=3) == "4e−05"
    assert pages.number_text(0.0, places=3) == "0.000"


@pytest.mark.parametrize(
    ("seeds", "text"),
    [
        ([], "no seeds"),
        ([7], "1 seed (7)"),
        (range(64), "64 seeds (0–63)"),
        ([9, 1, 5], "3 seeds (1, 5, 9)"),
    ],
)
def test_seeds_are_told_shortly(seeds, text):
    assert pages.seeds_text(seeds) == text


def test_unchanged_files_keep_their_time(tree):
    pages.main(tree)
    files = sorted((tree / "book/_generated").iterdir())
    assert [path.stem for path in files] == sorted(pages.PARTS)
    before = [path.stat().st_mtime_ns for path in files]
    pages.main(tree)
    assert [path.stat().st_mtime_ns for path in files] == before
    write_chapter(tree, "00_start_here")
    pages.main(tree)
    assert (tree / "book/_generated/map.md").stat().st_mtime_ns != before[sorted(pages.PARTS).index("map")]


# ---------- the first page's pictures come from chapter 00 ----------


def chapter_with_pictures(tree, picture=b"one"):
    cells = []
    for tag, output in {
        "first-strip": {"output_type": "display_data", "data": {"image/png": base64.b64encode(picture).decode()}},
        "first-result": {"output_type": "display_data", "data": {"image/png": base64.b64encode(b"two").decode()}},
        "first-answer": {"output_type": "stream", "text": ["Numbers 3\n", "and 4."]},
        "first-sentence": {"output_type": "execute_result", "data": {"text/markdown": ["> Some\n", "help."]}},
    }.items():
        metadata = {"tags": [tag], "mystnb": {"image": {"alt": f"the {tag}"}}}
        cells.append({"cell_type": "code", "metadata": metadata, "outputs": [output], "source": ""})
    path = tree / "notebooks/00_start_here.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")


def test_pictures_and_words_are_taken_from_the_stored_run(tree):
    chapter_with_pictures(tree)
    pages.main(tree)
    static = tree / "book/_static"
    assert (static / "first_strip.png").read_bytes() == b"one"
    assert (static / "first_result.png").read_bytes() == b"two"
    assert "Numbers 3 and 4." in pages.strip(tree)
    assert "Some help." in pages.result(tree)
    assert ":alt: the first-result" in pages.result(tree)
    chapter_with_pictures(tree, b"another run")
    pages.main(tree)
    assert (static / "first_strip.png").read_bytes() == b"another run"


def test_the_committed_pictures_are_those_of_the_committed_chapter(tmp_path):
    """Renew them with `make book`."""
    shutil.copytree(pages.ROOT / "notebooks", tmp_path / "notebooks")
    (tmp_path / "book/_static").mkdir(parents=True)
    pages.take_pictures(tmp_path)
    made = sorted(path.name for path in (tmp_path / "book/_static").iterdir())
    assert made == ["first_page.json", "first_result.png", "first_strip.png"]
    for name in made:
        assert (tmp_path / "book/_static" / name).read_bytes() == (pages.ROOT / "book/_static" / name).read_bytes()


def test_deep_records_become_one_table_and_lose_nothing():
    gain = {
        "10": {"VAE": {"mean": 1.5, "n": 3}, "GAN": {"mean": -2.0, "n": 3}, "floor": 9.25},
        "30": {"VAE": {"mean": 0.5}},
    }
    lines = pages.metrics_table({"deals": 64, "gain": gain})
    text = "\n".join(lines)
    for row in ("gain · 10 · VAE", "gain · 10 · GAN", "gain · 30 · VAE", "| deals | 64 |", "9.25"):
        assert row in text, text
    assert sum(line.startswith("| gain · 10 · VAE") for line in lines) == 1


def test_a_matrix_is_told_by_its_shape_and_range():
    text = pages.cell_text([[1.0, 2.0, 3.0, 4.0]] * 5)
    assert text == "5 rows, 20 values, mean 2.50, from 1.00 to 4.00"
    assert pages.cell_text([[1.0, 2.0], [3.0, 4.0]]) == "[1.00, 2.00], [3.00, 4.00]"
