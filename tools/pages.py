"""Write the generated parts of the book into book/_generated/: run before every build.

The strip, the first result, the doors, the pipeline, the map (from book/chapters.yml, notebooks/ and
book/_static/first_page.json), the records and the table of speeds (from book/results/*.json). Nothing here is typed by
hand.
"""

import base64
import html
import json
import math
import string
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
STAND_IN = "https://github.com/making-data/making-data"  # the address in _config.yml while there is none


def chapter_list(root=ROOT):
    """Return all chapters in order, each with its part, its number and the path of its notebook if it exists."""
    parts = yaml.safe_load((root / "book/chapters.yml").read_text(encoding="utf-8"))["parts"]
    chapters = []
    for part in parts:
        for chapter in part["chapters"]:
            notebook = f"notebooks/{chapter['name']}.ipynb"
            number = int(chapter["name"][:2])
            if number != len(chapters):
                raise ValueError(f"chapters.yml: {chapter['name']!r} stands where chapter {len(chapters):02d} should")
            path = notebook if (root / notebook).exists() else None
            chapters.append({**chapter, "number": number, "part": part["title"], "path": path})
    return chapters


def link(chapter, text=None):
    """A Markdown link (seen from book/) to a chapter that exists, plain text to one that does not."""
    text = text or f"{chapter['number']:02d} · {chapter['title']}"
    return f"[{text}](../{chapter['path']})" if chapter["path"] else text


# ---------- the first page ----------


def take_pictures(root=ROOT):
    """Copy the first page's pictures and words out of chapter 00's stored run, from its cells tagged `first-…`.

    They are committed, so that the README can show the result; the tests hold them equal to the chapter.
    """
    path = root / "notebooks/00_start_here.ipynb"
    if not path.exists():
        return
    static, said = root / "book/_static", {}
    for cell in json.loads(path.read_text(encoding="utf-8")).get("cells", []):
        for tag in cell["metadata"].get("tags", []):
            if not tag.startswith("first-"):
                continue
            name = tag.removeprefix("first-")
            for output in cell["outputs"]:
                picture = output.get("data", {}).get("image/png")
                if picture and name in ("strip", "result"):
                    write(static / f"first_{name}.png", base64.b64decode(picture))
                    said[f"{name}_alt"] = cell["metadata"]["mystnb"]["image"]["alt"]
                words = output.get("text") or output.get("data", {}).get("text/markdown")
                if words and name in ("answer", "sentence"):
                    key = {"answer": "strip_answer", "sentence": "result_caption"}[name]
                    said[key] = one_line("".join(words)).removeprefix("> ")
    if said:
        write(static / "first_page.json", (json.dumps(said, indent=1, ensure_ascii=False) + "\n").encode())


def write(path, content):
    """Write bytes; an unchanged file keeps its time stamp, so that the build reads only what changed."""
    if not path.exists() or path.read_bytes() != content:
        path.write_bytes(content)


def first_page(root=ROOT):
    """What chapter 00 says about its two pictures: book/_static/first_page.json, all keys optional."""
    path = root / "book/_static/first_page.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def figure(root, name, alt, caption):
    if not (root / "book/_static" / name).exists():
        return ""
    return f"```{{figure}} _static/{name}\n:alt: {one_line(alt)}\n:class: first\n\n{caption}\n```\n"


def one_line(text):
    return " ".join(str(text).split())


def strip(root=ROOT):
    said = first_page(root)
    alt = said.get("strip_alt", "Twenty small pictures of handwritten digits in a row, numbered 1 to 20")
    picture = figure(root, "first_strip.png", alt, "Twenty digits. Two of them were written by nobody: which?")
    answer = said.get("strip_answer")
    if not picture or not answer:
        return picture
    return f"{picture}\n<details class='answer'>\n<summary>Which two?</summary>\n\n{answer}\n\n</details>\n"


def result(root=ROOT):
    said = first_page(root)
    alt = said.get(
        "result_alt",
        "Dot plot: test accuracy of every way to invent data, one dot per seed with its interval, between the floor of "
        "guessing and the ceiling of all labels; the bar of the leaking comparison is struck through",
    )
    return figure(root, "first_result.png", alt, said.get("result_caption", "The result of the first chapter."))


def doors(root=ROOT):
    """Four ways in. A door whose target does not exist yet says what will be behind it, without a link."""
    chapters = chapter_list(root)
    first = chapters[0]
    using = (root / "book/using.md").exists()
    address = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))["repository"]
    url, branch = address["url"].rstrip("/"), address["branch"]

    read = (
        f"{link(first, 'The first chapter')} is the whole course on one page, already computed."
        if first["path"]
        else "The first chapter is being written."
    )

    if first["path"] and url != STAND_IN:
        target = url.replace("https://github.com/", "https://colab.research.google.com/github/")
        colab = f"[Open chapter 00 on Colab]({target}/blob/{branch}/{first['path']}) and choose *Run all*."
    else:
        colab = "A link at the top of each chapter opens it on Colab, once the course has a public address."
        colab += " Until then: [how to run it](using.md)." if using else ""

    express = [chapters[number] for number in course(root)["paths"]["express"]]
    way = " → ".join(link(chapter, f"{chapter['number']:02d}") for chapter in express)
    missing = [f"{chapter['number']:02d}" for chapter in express if not chapter["path"]]
    monday = f"The express way: {way}."
    monday += f" Still being written: {', '.join(missing)}." if missing else ""
    monday += (
        " Which method? [The measurements side by side](choosing.md)." if (root / "book/choosing.md").exists() else ""
    )

    teach = (
        "[The instructor's guide](teaching.md): paths, assignments, grading."
        if (root / "book/teaching.md").exists()
        else "A guide with paths, assignments and grading is being written. Text and code are free to use today"
        + (": [licence](licence.md)." if (root / "book/licence.md").exists() else ".")
    )
    cards = [("Read", "10 min", read), ("Run on Colab", "3 min", colab)]
    cards += [("I need data on Monday", "", monday), ("I teach", "", teach)]
    lines = ["::::{grid} 1 2 2 2", ":gutter: 3", ":class-container: doors", ""]
    for title, minutes, text in cards:
        note = f" [{minutes}]{{.minutes}}" if minutes else ""
        lines += [":::{grid-item-card}", ":shadow: none", "", f"**{title}**{note}", "", text, ":::", ""]
    return "\n".join([*lines, "::::", ""])


def course(root=ROOT):
    return yaml.safe_load((root / "book/chapters.yml").read_text(encoding="utf-8"))


def pipeline(root=ROOT):
    """The flow as a list that CSS draws: it stays text, so that it can be read aloud, searched and reflowed."""

    def row(one, kind):
        step, does, knows = (html.escape(one[key]) for key in ("step", "does", "knows"))
        return (
            f"<li class='{kind}'><span class='step'>{step}</span><span class='does'>{does}</span>"
            f"<span class='knows'><span class='label'>What does it know?</span> {knows}</span></li>"
        )

    lines = [
        "<div class='flow'>",
        "<p class='flow-head' aria-hidden='true'><span>Step</span><span>What happens</span>"
        "<span>What does it know that the labels do not?</span></p>",
        "<ol>",
    ]
    for one in course(root)["pipeline"]:
        if "ways" not in one:
            lines.append(row(one, "stage"))
            continue
        step, does = html.escape(one["step"]), html.escape(one["does"])
        lines.append(f"<li class='stage fork'><span class='step'>{step}</span><span class='does'>{does}</span><ul>")
        lines += [row(way, "way") for way in one["ways"]]
        lines.append("</ul></li>")
    return "\n".join([*lines, "</ol>", "</div>", ""])


def course_map(root=ROOT):
    chapters = chapter_list(root)
    ready = sum(chapter["path"] is not None for chapter in chapters)
    lines = [
        f"{len(chapters)} chapters, each an experiment that answers one question. "
        f"Written so far: {ready}, the linked {'one' if ready == 1 else 'ones'}.",
        "",
        "::::{div} map",
        "",
    ]
    part = None
    for chapter in chapters:
        if chapter["part"] != part:
            lines += [":::", ""] if part else []
            part = chapter["part"]
            lines += [":::{div} part", f"**{part}**", ""]
        state = "written" if chapter["path"] else "planned"
        lines.append(f"- {link(chapter)} [{chapter['question']}]{{.{state}}}")
    return "\n".join([*lines, ":::", "", "::::", ""])


# ---------- the records ----------


def seeds_text(seeds):
    """[0, 1, …, 63] → '64 seeds (0–63)'."""
    seeds = sorted(seeds)
    count = f"{len(seeds)} seed{'s' if len(seeds) != 1 else ''}"
    if not seeds:
        return "no seeds"
    if len(seeds) == 1:
        return f"{count} ({seeds[0]})"
    if seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{count} ({seeds[0]}–{seeds[-1]})"
    return f"{count} ({', '.join(map(str, seeds))})"


def duration_text(seconds):
    if seconds < 90:
        return f"{number_text(seconds)} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def decimals(values):
    """Decimals that show three significant digits of the largest of the values."""
    sizes = [abs(value) for value in values if math.isfinite(value) and value != 0]
    return 0 if not sizes else min(6, max(0, 2 - math.floor(math.log10(max(sizes)))))


def number_text(value, places=None):
    """A number for reading: whole numbers as they are, others rounded; never a small number as zero."""
    if isinstance(value, bool) or isinstance(value, int):
        return str(value) if isinstance(value, bool) or abs(value) < 10_000 else f"{value:,}"
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "−∞"}.get(value, "not a number")
    places = decimals([value]) if places is None else places
    text = f"{value:,.{places}f}"
    if value != 0 and float(text.replace(",", "")) == 0:
        text = f"{value:.2g}"
    return text.replace("-", "−")


def is_number(value):
    return isinstance(value, int | float)


def cell_text(value, places=None):
    if value is None:
        return "–"
    if is_number(value):
        return number_text(value, places)
    if isinstance(value, list):
        if value and all(is_number(one) for one in value):
            places = decimals(value) if places is None else places
            if len(value) <= 3:
                return f"[{', '.join(number_text(one, places) for one in value)}]"
            mean = math.fsum(value) / len(value)
            low, high = number_text(min(value), places), number_text(max(value), places)
            return f"{len(value)} values, mean {number_text(mean, places)}, from {low} to {high}"
        rows = [one for one in value if isinstance(one, list) and one and all(map(is_number, one))]
        if len(value) > 3 and len(rows) == len(value):  # a matrix: its shape and its range, not its rows
            flat = [one for row in rows for one in row]
            return f"{len(rows)} rows, " + cell_text(flat, decimals(flat) if places is None else places)
        return ", ".join(cell_text(one) for one in value) or "–"
    if isinstance(value, dict):
        return "; ".join(f"{one_line(key)}: {cell_text(inner)}" for key, inner in value.items()) or "–"
    return one_line(value).replace("|", "\\|")


def floats_in(value):
    """All floating-point numbers of a cell, for choosing one number of decimals for a column."""
    if isinstance(value, list):
        return [one for inner in value for one in floats_in(inner)]
    return [value] if isinstance(value, float) else []


def table(head, rows):
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join(['---'] + ['--:'] * (len(head) - 1))}|"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


def flatten(metrics, prefix=""):
    for key, value in metrics.items():
        name = f"{prefix}{one_line(key)}".replace("|", "\\|")
        if isinstance(value, dict):
            yield from flatten(value, f"{name} · ")
        else:
            yield name, value


def flat_dicts(metrics, path=()):
    """Yield the path and the plain values of every dict inside `metrics` that has some."""
    for name, value in metrics.items():
        if isinstance(value, dict):
            here = (*path, str(name))
            leaves = {key: inner for key, inner in value.items() if not isinstance(inner, dict)}
            if leaves:
                yield " · ".join(here), leaves
            yield from flat_dicts(value, here)


def metrics_table(metrics):
    """Flat dicts, however deep they lie, become the rows of one table; whatever else becomes name and value."""
    rows = dict(flat_dicts(metrics))
    plain = {name: value for name, value in metrics.items() if not isinstance(value, dict)}
    if len(rows) < 2:
        plain, rows = metrics, {}
    lines = []
    if plain:
        lines += table(["", "value"], [[name, cell_text(value)] for name, value in flatten(plain)])
    if rows:
        columns = list(dict.fromkeys(column for inner in rows.values() for column in inner))
        places = {}
        for column in columns:
            values = [one for inner in rows.values() for one in floats_in(inner.get(column))]
            places[column] = decimals(values) if values else None
        head = ["", *(one_line(column).replace("|", "\\|") for column in columns)]
        body = []
        for name, inner in rows.items():
            cells = [cell_text(inner.get(column), places[column]) for column in columns]
            body.append([one_line(name).replace("|", "\\|"), *cells])
        lines += table(head, body)
    return lines


def record_lines(name, record, results, title):
    for key in ("metrics", "commit", "device", "data", "seconds", "seeds"):
        if key not in record:
            raise ValueError(f"record {name!r} of {title!r} has no {key!r}")
    versions = ", ".join(f"{package} {version}" for package, version in (record.get("versions") or {}).items())
    facts = [
        ("data", ", ".join(record["data"]) if isinstance(record["data"], list) else record["data"]),
        ("seeds", seeds_text(record["seeds"] or [])),
        ("ran on", f"{record.get('hardware', 'unknown')} ({record['device']}), {duration_text(record['seconds'])}"),
        ("versions", versions),
        ("commit", f"`{record['commit']}`"),
        ("date", record.get("date", "")),
    ]
    lines = [f"### {one_line(name)}", "", "{.record-facts}"]
    lines += [f"- {label}: {one_line(value)}" for label, value in facts if value]
    lines += ["", *metrics_table(record["metrics"])]
    picture = record.get("figure")
    if picture:
        if not (results / picture).exists():
            raise ValueError(f"record {name!r} of {title!r} names the figure {picture!r}, which is not in {results}")
        alt = record.get("alt") or f"Figure of the record {name} of chapter {title}; its numbers are in the table above"
        lines += [f"```{{figure}} results/{picture}", f":alt: {one_line(alt)}", "```", ""]
    return lines


SPEEDS = "benchmarks.json"  # beside the records of the chapters, but of another form: made by `make bench RECORD=1`


def records(root=ROOT):
    results = root / "book/results"
    chapters = {chapter["name"]: chapter for chapter in chapter_list(root)}
    lines = []
    for path in sorted(set(results.glob("*.json")) - {results / SPEEDS}):
        if path.stem not in chapters:
            raise ValueError(f"book/results/{path.name} belongs to no chapter of book/chapters.yml")
        stored = json.loads(path.read_text(encoding="utf-8"))
        chapter = chapters[path.stem]
        title = f"{chapter['number']:02d} · {chapter['title']}"
        if stored:
            lines += [f"## {title}", ""]
            lines += [f"{link(chapter, 'The chapter')} says what these numbers mean.", ""] if chapter["path"] else []
        for name, record in stored.items():
            lines += record_lines(name, record, results, title)
    if not lines:
        lines = ["No record yet: no chapter has been run in the `full` profile so far.", ""]
    return "\n".join(lines)


BENCHES = {
    "bench_train": "Training",
    "bench_images": "Making and changing images",
    "bench_evaluate": "Metrics",
    "bench_import": "The start: importing the toolbox",
    "bench_quality": "Quality within a budget of time",
}


def speeds(root=ROOT):
    """The ratios of one run of the benchmarks, with their goals."""
    path = root / "book/results" / SPEEDS
    if not path.exists():
        return "Not recorded yet.\n"
    stored = json.loads(path.read_text(encoding="utf-8"))
    rows = stored["rows"]
    goals = [row for row in rows if row["goal"] is not None]
    missed = [row for row in goals if row["verdict"] == "missed"]
    lines = [
        f"{len(rows)} measurements, {len(goals)} of them with a goal; {len(goals) - len(missed)} goals were reached.",
        "",
    ]
    found = dict.fromkeys(row["bench"] for row in rows)
    for bench in [*(bench for bench in BENCHES if bench in found), *(bench for bench in found if bench not in BENCHES)]:
        body = []
        for row in rows:
            if row["bench"] == bench:
                sign = {"at least": "≥", "at most": "≤"}[row["direction"]]
                word = f"**{row['verdict']}**" if row["verdict"] == "missed" else row["verdict"]
                goal = "–" if row["goal"] is None else f"{sign}\u00a0{number_text(row['goal'])}: {word}"
                work = cell_text(row["work"]) + (f", {row['arithmetic']}" if row["arithmetic"] else "")
                measured = f"{number_text(row['ratio'])} {one_line(row['unit'])}"
                body.append([work, cell_text(row["beside"]), measured, goal])
        run = stored["runs"][bench]
        versions = ", ".join(f"{package} {version}" for package, version in run["versions"].items())
        where = f"Measured on: {run['hardware']}, {run['date']}; {versions}; commit `{run['commit']}`."
        lines += [
            f"### {BENCHES.get(bench, bench)}",
            "",
            *table(["work", "beside", "measured", "goal"], body),
            where,
            "",
        ]
    return "\n".join(lines)


# ---------- beside published figures, and what a million images cost ----------


def record_of(root, chapter, name):
    """The numbers of one record, or None where it has not been made."""
    path = root / f"book/results/{chapter}.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return stored[name]["metrics"] if name in stored else None


def recorded(root, chapter, name, *keys):
    """A number out of book/results, the mean of a list of numbers; None where that record has not been made."""
    value = record_of(root, chapter, name)
    if value is None:
        return None
    for key in keys:
        try:
            if isinstance(value, list):  # a place in a list, or the same key of each of its members
                value = value[key] if isinstance(key, int) else [one[key] for one in value]
            else:
                value = value[str(key)]
        except (LookupError, TypeError):
            raise ValueError(f"book/results/{chapter}.json has no {' · '.join(map(str, (name, *keys)))}") from None
    values = value if isinstance(value, list) else [value]
    if not values or not all(is_number(one) for one in values):
        raise ValueError(f"{chapter}.json: {' · '.join(map(str, (name, *keys)))} is no number and no list of numbers")
    return math.fsum(values) / len(values)


def published(root=ROOT):
    """Each comparison of book/published.yml: their figures with their sources, ours out of the records."""
    path = root / "book/published.yml"
    if not path.exists():
        return ""
    lines = []
    for item in yaml.safe_load(path.read_text(encoding="utf-8")):
        rows = [[one["name"], one["value"], one["source"]] for one in item["published"]]
        for one in item["ours"]:
            value = recorded(root, *one["path"])
            text = "not recorded yet" if value is None else number_text(value * one.get("factor", 1))
            rows.append(
                [f"**ours:** {one['name']}", text, f"record *{one['path'][1]}* of chapter {one['path'][0][:2]}"]
            )
        lines += [f"### {item['title']}", "", f"In {item['unit']}.", ""]
        lines += [*table(["", "value", "source"], rows), f"What differs: {one_line(item['differs'])}", ""]
    return "\n".join(lines)


class Sentence(string.Formatter):
    """`str.format` with a true minus sign and no space before a per cent sign that could be left alone on a line."""

    def format_field(self, value, spec):
        return super().format_field(value, spec).replace("-", "−").replace("%", "\u00a0%")


def compute(expression, numbers):
    """The value of an expression of book/measured.yml: our own file, so this is a convenience and no sandbox."""
    return eval(expression, {"__builtins__": {}, "abs": abs, "max": max, "min": min}, numbers)


def measured(root=ROOT):
    """The sentences of book/measured.yml by name: numbers out of the records, chapters linked.

    A sentence that its records contradict (`holds` is false) is refused, so that it cannot outlive them.
    """
    path, chapters = root / "book/measured.yml", {chapter["name"]: chapter for chapter in chapter_list(root)}
    lines = {}
    for name, one in yaml.safe_load(path.read_text(encoding="utf-8")).items() if path.exists() else ():
        sources = [source for source in one["numbers"].values() if isinstance(source, list)]
        numbers = {key: recorded(root, *source) for key, source in one["numbers"].items() if isinstance(source, list)}
        if None in numbers.values():
            lines[name] = ":::{div} measured\n**Measured:** not recorded yet.\n:::\n"
            continue
        for key, source in one["numbers"].items():
            if isinstance(source, str):
                numbers[key] = compute(source, numbers)
        if not compute(one["holds"], numbers):
            found = ", ".join(f"{key} = {number_text(value)}" for key, value in numbers.items())
            raise ValueError(f"book/measured.yml: the records no longer say what {name!r} says ({found})")
        where = [link(chapters[chapter]) for chapter in dict.fromkeys(source[0] for source in sources)]
        text = f"**Measured:** {Sentence().format(one_line(one['says']), **numbers)} ({', '.join(where)})"
        lines[name] = f":::{{div}} measured\n{text}\n:::\n"
    return lines


def cost(root=ROOT):
    """One core's time for a million 28×28 images, from the record of chapter 22."""
    path = root / "book/results/22_gpu_practice.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    record = stored.get("generators")
    if record is None:
        return "Not recorded yet.\n"
    rows = []
    for name, made in sorted(record["metrics"].items(), key=lambda item: -item[1]["images_per_second"]):
        speed = made["images_per_second"]
        rows.append([name, f"{speed:,.0f}", number_text(1e6 / speed / 3600), number_text(1e8 / speed / 3600)])
    lines = table(["generator", "images per second", "core hours for 10⁶ images", "for 10⁸"], rows)
    return "\n".join([*lines, f"Measured on: {record['hardware']}, {record['date']}.", ""])


# ---------- choosing a method ----------


def signed(value, places=1):
    return f"{value:+.{places}f}".replace("-", "−")


def verdict(values, questions):
    """Does the mean of paired differences differ from zero, at 95 % for all questions together (Bonferroni)?"""
    from scipy.stats import t  # only here: the other pages need no scipy

    n, mean = len(values), math.fsum(values) / len(values)
    error = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)
    reach = t.ppf(1 - 0.025 / questions, n - 1) * error
    return "helps" if mean > reach else "hurts" if mean < -reach else "ties"


ARMS = ("copies", "Gaussian", "KDE", "VAE", "GAN", "turned", "rule", "turned + VAE", "turned + rule", "more labels")
SIGNS = {"helps": "\u2060▲", "hurts": "\u2060▼", "ties": ""}  # a joiner: the sign stays on its line


def gains(rows, name):
    return [made - real for made, real in zip(rows[name]["accuracy"], rows["real only"]["accuracy"], strict=True)]


def choose_add(root=ROOT):
    """What made data add to n labels: the record of chapter 26."""
    record = record_of(root, "26_does_it_help", "decision")
    if record is None:
        return "Not recorded yet.\n"
    lines = []
    for which, title in (("digits", "digits"), ("mnist", "MNIST, 8×8")):
        sizes = sorted(record["table"].get(which, {}), key=int)
        arms = [name for name in ARMS if name in record["table"].get(which, {}).get("50", {})]
        alone = [record["table"][which][n]["real only"]["accuracy"] for n in sizes]
        rows = [["*labels alone, %*", *(f"*{math.fsum(one) / len(one):.1f}*" for one in alone)]] if arms else []
        for arm in arms:
            cells = []
            for n in sizes:
                here = record["table"][which][n]
                if arm not in here:
                    cells.append("–")
                    continue
                gain = gains(here, arm)
                mean = math.fsum(gain) / len(gain)
                cells.append(signed(mean) + SIGNS[verdict(gain, len(arms) * len(sizes))])
            rows.append([arm, *cells])
        lines += table([title, *sizes], rows) if rows else []
    return "\n".join(lines)


USES = {  # the ways of chapter 05 from fifty labels, in a few words
    "ask: typical": "unlabelled digits; labels for the most typical",
    "ask: core-set": "unlabelled digits; labels for the most different",
    "ask: margin": "unlabelled digits; labels where the network doubts",
    "label spreading": "unlabelled digits: near ones share a label",
    "consistency": "unlabelled digits and an invariance",
    "labels, shaken": "an invariance",
    "pseudo-labels": "unlabelled digits, named by the network itself",
    "contrastive": "unlabelled digits and an invariance, before the labels",
    "transfer": "digits drawn by a rule, before the labels",
    "rules for labels": "a person's rules, voting",
    "raw pixels": "nothing: a linear model",
    "PCA codes": "unlabelled digits: a linear model on their codes",
}


def choose_labels(root=ROOT):
    """What else helps fifty labels: the record of chapter 05."""
    record = record_of(root, "05_fewer_labels", "labels_curve")
    if record is None:
        return "Not recorded yet.\n"
    rows = []
    digits, mnist = (record["table"].get(which, {}).get("50", {}) for which in ("digits", "mnist"))
    for name, one in sorted(digits.items(), key=lambda item: -item[1]["gain"][0]):
        if "worth" in one:
            there = mnist.get(name)
            rows.append(
                [
                    f"**{name}**: {USES.get(name, '–')}",
                    f"{signed(one['gain'][0])}\u00a0±\u00a0{(one['gain'][2] - one['gain'][1]) / 2:.1f}",
                    f"{one['worth'][0]:.0f}",
                    signed(there["gain"][0]) if there else "–",
                ]
            )
    return "\n".join(table(["fifty labels and …", "digits: points", "worth in labels", "MNIST: points"], rows))


def choose_replace(root=ROOT):
    """Sets that stand for the real one: the MNIST record of chapter 21."""
    record = record_of(root, "21_controllable_gans", "mnist")
    if record is None:
        return "Not recorded yet.\n"
    rows = []
    names = {"lessons (real)": "real images", "the same, 60000 rows": "GAN, 3000 steps, 60,000 images of it"}
    for name, one in record["rows"].items():
        spent = record["cpu_seconds"].get(name)
        name = names.get(name, name)
        rows.append(
            [
                name,
                number_text(one["FD"]),
                f"{one['coverage']:.2f}",
                f"{one['obeyed']:.1f}",
                f"{one['tstr']:.1f}",
                f"{spent:.0f}" if spent else "–",
            ]
        )
    head = ["set", "Fréchet distance", "coverage", "labels obeyed, %", "TSTR, %", "CPU s to train"]
    return "\n".join(table(head, rows))


def choose_images(root=ROOT):
    """New pictures without labels: the MNIST record of chapter 20."""
    record = record_of(root, "20_dcgan_on_gpu", "mnist")
    if record is None:
        return "Not recorded yet.\n"
    names = {
        "200 lessons, both": "cured, from 200 images, both sides augmented",
        "200 lessons, none": "cured, from 200 images",
        "lessons, copied": "the real images, copied",
    }
    rows = [
        [
            names.get(name, name),
            number_text(one["FD"]),
            f"{one['coverage']:.2f}",
            f"{one['density']:.2f}",
            str(one.get("seconds", "–")),
        ]
        for name, one in record["rows"].items()
    ]
    return "\n".join(table(["set", "Fréchet distance", "coverage", "density", "CPU s to train"], rows))


def choose_promise(root=ROOT):
    """What a promise of privacy costs: the record of chapter 28."""
    record = record_of(root, "28_privacy", "accuracy_by_epsilon")
    if record is None:
        return "Not recorded yet.\n"
    makers = dict.fromkeys(name.rpartition(" ")[0] for name in record["accuracy"])
    levels = sorted(
        {name.rpartition(" ")[2] for name in record["accuracy"]}, key=lambda e: math.inf if e == "None" else float(e)
    )
    rows = [[maker, *(f"{record['accuracy'][f'{maker} {level}']['mean']:.1f}" for level in levels)] for maker in makers]
    return "\n".join(table(["maker", *("no promise" if e == "None" else f"ε = {e}" for e in levels)], rows))


# ---------- writing ----------

PARTS = {
    "strip": strip,
    "result": result,
    "doors": doors,
    "pipeline": pipeline,
    "map": course_map,
    "records": records,
    "speeds": speeds,
    "published": published,
    "cost": cost,
    "choose_add": choose_add,
    "choose_labels": choose_labels,
    "choose_replace": choose_replace,
    "choose_images": choose_images,
    "choose_promise": choose_promise,
}


def main(root=ROOT):
    folder = root / "book/_generated"
    folder.mkdir(parents=True, exist_ok=True)
    take_pictures(root)
    for name, make in PARTS.items():
        write(folder / f"{name}.md", make(root).encode())
    for name, sentence in measured(root).items():
        write(folder / f"measured_{name}.md", sentence.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
