"""The rules for stored chapters. Files are only read here; `make test` executes the chapters with nbval.

A rule takes a notebook and what surrounds it, and returns a list of complaints. Below, a small good notebook is
broken in each way once: a rule that would not notice fails its own test.
"""

import ast
import base64
import copy
import html
import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
_spec = importlib.util.spec_from_file_location("notebook_tool", ROOT / "tools" / "notebooks.py")
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)

BIBLIOGRAPHY = ROOT / "book" / "references.bib"
CHAPTERS = ROOT / "book" / "chapters.yml"
MAX_LINES, SHORT_CELL, FEWEST_ASSERTS, FEWEST_WORDS = 25, 3, 3, 5


# --- What a notebook consists of ------------------------------------------------------------------------------------


def markdown(nb) -> list[str]:
    return [cell.source for cell in nb.cells if cell.cell_type == "markdown"]


def prose(text: str) -> str:
    """Return Markdown without fenced code, inline code and maths: what is left are words, links and tags."""
    for pattern in (r"^(```+|~~~+).*?^\1", r"`[^`\n]+`", r"\$\$.*?\$\$", r"\$[^$\n]+\$"):
        text = re.sub(pattern, " ", text, flags=re.S | re.M)
    return text


def outputs(nb) -> list[tuple]:
    """Return (cell, output) for all outputs."""
    return [(cell, out) for cell in tool.code_cells(nb) for out in cell.outputs]


def shown(out) -> str:
    """Return all text in an output; pictures are left out, except SVG, which is text."""
    kinds = out.get("data", {})
    texts = [value for kind, value in kinds.items() if kind.startswith("text/") or kind.endswith(("svg+xml", "json"))]
    return "\n".join(map(str, [out.get("text", ""), *texts, *out.get("traceback", [])]))


def links(text: str) -> list[str]:
    """Return the targets of all Markdown and HTML links and images."""
    found = re.findall(r"\]\(\s*<?([^)\s>]+)", text) + re.findall(r"^\[[^\]]+\]:\s*(\S+)", text, flags=re.M)
    return [html.unescape(target) for target in found + re.findall(r"(?:href|src)\s*=\s*[\"']([^\"']+)", text)]


# --- The rules ------------------------------------------------------------------------------------------------------


def one_run_from_top_to_bottom(nb, about):
    cells = tool.code_cells(nb)
    counts = [cell.execution_count for cell in cells]
    return [] if counts == list(range(1, len(cells) + 1)) else [f"execution counts {counts}: run `make notebooks`"]


def outputs_match_the_source(nb, about):
    stored = nb.metadata.get("making_data", {}).get("code_hash")
    return [] if stored == tool.code_hash(nb) else ["the code changed after the outputs were stored: `make notebooks`"]


def stored_in_the_stable_form(nb, about):
    # Also keeps execution times, editor state and the Python version out of the history.
    tidied = copy.deepcopy(nb)
    tool.tidy(tidied)
    return [] if about.text == tool.dump(tidied) else ["not in the form that `make notebooks` writes"]


def figures_have_alternative_text(nb, about):
    texts = []
    for cell in tool.code_cells(nb):
        if tool.images(cell):
            texts.append((tool.place(nb, cell), cell.metadata.get("mystnb", {}).get("image", {}).get("alt") or ""))
    for text in markdown(nb):
        texts += [("a Markdown image", alt) for alt in re.findall(r"!\[([^\]]*)\]\(", prose(text))]
        for tag in re.findall(r"<img\b[^>]*>", prose(text)):
            texts.append(("an <img>", (re.findall(r"\balt\s*=\s*[\"']([^\"']*)", tag) or [""])[0]))
    complaints = []
    for where, alt in texts:
        if re.search(r"\.(png|jpe?g|svg|gif|webp|pdf)\b", alt.lower()):
            complaints.append(f"{where}: {alt!r} is a file name, not a description")
        elif len(alt.split()) < FEWEST_WORDS:
            complaints.append(f"{where}: the alternative text {alt!r} has fewer than {FEWEST_WORDS} words")
    return complaints


def one_figure_per_cell(nb, about):
    counts = [(cell, len(tool.images(cell))) for cell in tool.code_cells(nb)]
    return [f"{tool.place(nb, cell)} shows {count} figures" for cell, count in counts if count > 1]


def no_stderr(nb, about):
    found = [(cell, out) for cell, out in outputs(nb) if out.get("name") == "stderr"]
    return [f"{tool.place(nb, cell)} stored stderr: {out.text[:80]!r}" for cell, out in found]


def no_errors(nb, about):
    found = [(cell, out) for cell, out in outputs(nb) if out.output_type == "error"]
    return [f"{tool.place(nb, cell)} stored an error: {out.ename}" for cell, out in found]


def no_widgets(nb, about):
    complaints = ["the metadata holds widget state"] if "widgets" in nb.metadata else []
    for cell, out in outputs(nb):
        complaints += [f"{tool.place(nb, cell)} stored {kind}" for kind in out.get("data", {}) if "widget" in kind]
    return complaints


def no_remote_images(nb, about):
    remote = r"((?:https?:)?//[^\s)>\"']+)"
    tag = r"<(?:img|source|image|iframe|script)\b[^>]*?(?:src|href)\s*=\s*[\"']" + remote
    texts = [*map(prose, markdown(nb)), *(shown(out) for _, out in outputs(nb))]
    found = [target for text in texts for target in re.findall(r"!\[[^\]]*\]\(\s*<?" + remote + "|" + tag, text)]
    return [f"remote image {''.join(target)}" for target in found]


def no_machine_paths(nb, about):
    unix = r"(?:file://|(?<![\w./:-]))/(?:home|root|tmp|work|Users|private|var/folders)/[\w.~-]*"
    windows = r"\b[A-Z]:\\{1,2}(?:Users|Windows|Program|Temp|Documents)\b"
    texts = [cell.source for cell in nb.cells] + [shown(out) for _, out in outputs(nb)]
    return [f"a path of one machine: {found}" for text in texts for found in re.findall(f"{unix}|{windows}", text)]


def no_memory_addresses(nb, about):
    return [
        f"{tool.place(nb, cell)} shows a memory address, another one in each run: end the line with a semicolon"
        for cell, out in outputs(nb)
        if re.search(r"\bat 0x[0-9a-f]{6,}", shown(out))
    ]


def no_value_left_standing(nb, about):
    """What a reader sees is printed, drawn or formatted; a bare last value is an accident."""
    bare = {"text/plain"}
    found = [cell for cell, out in outputs(nb) if out.output_type == "execute_result" and set(out.data) == bare]
    return [f"{tool.place(nb, cell)} shows the value of its last line: print it or end with ;" for cell in found]


def no_myst_syntax(nb, about):
    patterns = {
        "directive": r"^\s*(?:`{3,}|~{3,}|:{3,})\s*\{[\w:.+-]+\}.*$",
        "role": r"\{[\w:.+-]+\}`[^`\n]+`",
        "label": r"^\([\w:.-]+\)=\s*$",
        "comment": r"^%.*$",
    }
    return [
        f"MyST {kind} {found.strip()!r}: Colab shows it as it stands"
        for text in markdown(nb)
        for kind, pattern in patterns.items()
        for found in re.findall(pattern, text, flags=re.M)
    ]


def no_line_breaks_in_display_maths(nb, about):
    blocks = [block for text in markdown(nb) for block in re.findall(r"\$\$(.*?)\$\$", text, flags=re.S)]
    return [f"\\\\ inside $$…$$: {block.strip()[:60]!r}; use a bare align*" for block in blocks if "\\\\" in block]


def internal_links_resolve(nb, about):
    """A link to a chapter that is not written yet breaks this rule too: it has to stand as plain text."""
    complaints = []
    for text in map(prose, markdown(nb)):
        for target in links(text):
            path = target.partition("#")[0].partition("?")[0]
            if re.match(r"[a-z][a-z0-9+.-]*:|//", target, flags=re.I) or not path:
                continue
            if path.startswith("attachment:") or not (about.folder / path).exists():
                complaints.append(f"the link {target} leads nowhere")
    return complaints


def sources_are_in_the_bibliography(nb, about):
    complaints = []
    for text in markdown(nb):
        for target in links(text):
            arxiv = re.search(r"arxiv\.org/(?:abs|pdf|html)/([\w./-]+?)(?:v\d+)?(?:\.pdf)?$", target, flags=re.I)
            doi = re.search(r"doi\.org/(10\.[^#?]+)", target, flags=re.I)
            if (arxiv or doi) and not in_bibliography((arxiv or doi)[1], about.bibliography):
                complaints.append(f"{target} is not in references.bib")
    return complaints


def in_bibliography(identifier: str, bibliography: str) -> bool:
    """Whether a whole arXiv or DOI identifier stands in the file, not only the beginning of a longer one."""
    whole = rf"(?<![\w.]){re.escape(identifier.lower())}(?:v\d+)?(?![\w/-]|\.\w)"
    return re.search(whole, bibliography.lower()) is not None


def small_enough(nb, about):
    size = len(about.text.encode())
    return [] if size <= tool.MAX_BYTES else [f"{size / 1e6:.2f} MB, at most {tool.MAX_BYTES / 1e6}"]


def compared_cells_have_an_output(nb, about):
    mark = re.compile(r"^\s*#\s*NBVAL_CHECK_OUTPUT\s*$", flags=re.M)
    marked = [cell for cell in tool.code_cells(nb) if mark.search(cell.source)]
    return [f"{tool.place(nb, cell)} is compared with nothing" for cell in marked if not any(map(shown, cell.outputs))]


def colab_link_in_the_first_cell(nb, about):
    first = nb.cells[0]
    link = tool.colab_link(about.name, *about.address)
    complaints = []
    if first.cell_type != "markdown" or not first.source.startswith("# "):
        complaints.append("the first cell must begin with '# Title'")
    if link not in first.source:
        complaints.append(f"the first cell lacks {link}: `python tools/notebooks.py stamp`")
    others = [found for text in markdown(nb) for found in re.findall(re.escape(tool.COLAB) + r"[^)\s]*", text)]
    return complaints + [f"another Colab link: {found}" for found in others if found not in link]


def one_install_cell(nb, about):
    cells = [cell for cell in tool.code_cells(nb) if tool.has_tag(cell, "install")]
    if len(cells) != 1:
        return [f"{len(cells)} install cells, exactly one is needed"]
    complaints = [] if cells[0] is tool.code_cells(nb)[0] else ["the install cell is not the first code cell"]
    if cells[0].source != tool.install_source(*about.address):
        complaints.append("the install cell is not the stamped one: `python tools/notebooks.py stamp`")
    if cells[0].outputs:
        complaints.append("the install cell printed something: it must do nothing outside Colab")
    return complaints


def budget_within_the_ledger(nb, about):
    limit = tool.budget(nb)
    allowed = isinstance(limit, int | float) and 0 < limit <= tool.LARGE_BUDGET
    return [] if allowed else [f"budget_cpu_s is {limit!r}, expected a number up to {tool.LARGE_BUDGET}"]


def assertions_speak(nb, about):
    count = sum(len(re.findall(r"^\s*assert\b", cell.source, flags=re.M)) for cell in tool.code_cells(nb))
    return [] if count >= FEWEST_ASSERTS else [f"{count} assertions, at least {FEWEST_ASSERTS} are needed"]


def solutions_are_folded(nb, about):
    complaints = []
    for cell in tool.code_cells(nb):
        named = re.match(r"#+\s*solution\b", cell.source, flags=re.I)
        tags = {"solution", "hide-cell"} & set(cell.metadata.get("tags", []))
        if (named or "solution" in tags) and len(tags) < 2:
            complaints.append(f"{tool.place(nb, cell)} is a solution and needs the tags solution and hide-cell")
    return complaints


def no_screenful_of_code(nb, about):
    complaints = []
    for index, cell in enumerate(nb.cells):
        if cell.cell_type != "code":
            continue
        lines = len([line for line in cell.source.splitlines() if line.strip()])
        if lines == 0:
            complaints.append(f"cell {index} is empty")
        if lines > MAX_LINES:
            complaints.append(f"{tool.place(nb, cell)} has {lines} lines, at most {MAX_LINES}")
        before = nb.cells[max(0, index - 2) : index]
        if lines > SHORT_CELL and not any(c.cell_type == "markdown" and c.source.strip() for c in before):
            complaints.append(f"{tool.place(nb, cell)}: no sentence in the two cells before it")
    return complaints


RULES = [
    one_run_from_top_to_bottom,
    outputs_match_the_source,
    stored_in_the_stable_form,
    figures_have_alternative_text,
    one_figure_per_cell,
    no_stderr,
    no_errors,
    no_widgets,
    no_remote_images,
    no_machine_paths,
    no_memory_addresses,
    no_value_left_standing,
    no_myst_syntax,
    no_line_breaks_in_display_maths,
    internal_links_resolve,
    sources_are_in_the_bibliography,
    small_enough,
    compared_cells_have_an_output,
    colab_link_in_the_first_cell,
    one_install_cell,
    budget_within_the_ledger,
    assertions_speak,
    solutions_are_folded,
    no_screenful_of_code,
]


# --- Rules that look at more than one notebook -----------------------------------------------------------------------


def ledger_holds(notebooks: dict) -> list[str]:
    """notebooks: name → notebook."""
    limits = {name: tool.budget(nb) for name, nb in notebooks.items()}
    large = [name for name, limit in limits.items() if limit > tool.BUDGET]
    complaints = []
    if sum(limits.values()) > tool.ALL_CHAPTERS:
        complaints.append(f"the budgets add up to {sum(limits.values())} CPU s, at most {tool.ALL_CHAPTERS}")
    if len(large) > tool.LARGE_CHAPTERS:
        complaints.append(f"{len(large)} chapters above {tool.BUDGET} s, at most {tool.LARGE_CHAPTERS}: {large}")
    return complaints


def chapter_names(text: str) -> list[str]:
    """Return the names in book/chapters.yml, in order."""
    return [chapter["name"] for part in yaml.safe_load(text)["parts"] for chapter in part["chapters"]]


def public(tree: ast.Module) -> list:
    """Return the public functions and classes of a module: those in __all__, or without an underscore."""
    listed = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
    ]
    named = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
    return [node for node in named if (node.name in listed[0] if listed else not node.name.startswith("_"))]


def taught_where_it_says(module: str, source: str, names: list[str], notebooks: dict) -> list[str]:
    """Hold `Taught in:` of a module's public docstrings against the syllabus and the chapters that exist."""
    complaints = []
    for node in public(ast.parse(source)):
        where = f"{module}.{node.name}"
        stated = re.search(r"\bTaught in:\s*(.+?)\.?\s*$", ast.get_docstring(node) or "", flags=re.M)
        if not stated:
            complaints.append(f"{where}: no line 'Taught in: NN_name' in its docstring")
            continue
        for chapter in re.split(r"\s*,\s*", stated[1]):
            if chapter not in names:
                complaints.append(f"{where}: {chapter!r} is no chapter of the syllabus")
            elif chapter in notebooks and not uses(notebooks[chapter], node.name):
                complaints.append(f"{where}: {chapter} does not use it")
    return complaints


def uses(nb, name: str) -> bool:
    """Whether a chapter's code contains the name, or its prose shows it as `code` (a returned type, say)."""
    shown_names = [text for source in markdown(nb) for text in re.findall(r"`([^`\n]+)`", source)]
    return any(re.search(rf"\b{name}\b", text) for text in shown_names + [cell.source for cell in tool.code_cells(nb)])


# --- The chapters that exist ----------------------------------------------------------------------------------------


def stored() -> dict:
    return {path.stem: tool.read(path) for path in tool.chapters()}


def surroundings(path: Path) -> SimpleNamespace:
    return SimpleNamespace(
        name=path.stem,
        folder=path.parent,
        text=path.read_text(encoding="utf8"),
        bibliography=BIBLIOGRAPHY.read_text(encoding="utf8"),
        address=tool.address(),
    )


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", tool.chapters(), ids=lambda path: path.stem)
def test_chapter(path, rule):
    assert rule(tool.read(path), surroundings(path)) == []


def test_chapters_are_in_the_syllabus_and_named_once():
    names = chapter_names(CHAPTERS.read_text(encoding="utf8"))
    assert [name[:2] for name in names] == [f"{i:02d}" for i in range(len(names))]
    assert set(stored()) <= set(names)


def test_the_ledger_holds():
    assert ledger_holds(stored()) == []


COMMANDS = {"doctor"}  # a program of its own, which no chapter imports


def modules() -> list[Path]:
    found = sorted((ROOT / "course_utils").glob("*.py"))
    return [path for path in found if not path.name.startswith("_") and path.stem not in COMMANDS]


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.stem)
def test_each_public_name_says_where_it_is_taught(path):
    names = chapter_names(CHAPTERS.read_text(encoding="utf8"))
    assert taught_where_it_says(path.stem, path.read_text(encoding="utf8"), names, stored()) == []


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "book").glob("*.md"))]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_pages_link_only_to_what_exists(path):
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(path.read_text(encoding="utf8"))])
    assert internal_links_resolve(page, SimpleNamespace(folder=path.parent)) == []


# --- Planted violations ---------------------------------------------------------------------------------------------

PIXEL = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
        "0000000a49444154789c6360000000020001486afc220000000049454e44ae426082"
    )
).decode()
URL, BRANCH = "https://github.com/someone/course", "main"
TEXT, CODE, FIGURE, COMPARED, SOLUTION = 2, 3, 5, 6, 8  # places in the good notebook


def picture():
    return nbformat.v4.new_output("display_data", {"image/png": PIXEL, "text/plain": "<Figure>"})


def printed(text, name="stdout"):
    return nbformat.v4.new_output("stream", name=name, text=text)


def good_notebook():
    say, run = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    nb = nbformat.v4.new_notebook(
        cells=[
            say("# A small chapter\n\n[Open in Colab]() · about a minute · no GPU needed"),
            say("First the imports. See [the page](page.md#top) and [a paper](https://arxiv.org/abs/1312.6114v2)."),
            run("import numpy as np\n\nx = np.arange(3)\nassert len(x) == 3"),
            say("Now a picture of $x$, with $$a = b \\tag{1}$$ as its law."),
            run("draw(x, alt='a line that climbs from zero to two')", outputs=[picture()]),
            run("# NBVAL_CHECK_OUTPUT\nprint(x.shape)\nassert x.sum() == 3", outputs=[printed("(3,)\n")]),
            say("<details><summary>Answer</summary>\n\nThree.\n\n</details>"),
            run("# Solution\nassert x.max() == 2", metadata={"tags": ["solution", "hide-cell"]}),
        ]
    )
    nb.cells[4].metadata["mystnb"] = {"image": {"alt": "a line that climbs from zero to two"}}
    tool.stamp(nb, "00_small", URL, BRANCH)
    for number, cell in enumerate(nb.cells):
        cell.id = f"cell-{number}"
    for number, cell in enumerate(tool.code_cells(nb), start=1):
        cell.execution_count = number
    nb.metadata["making_data"] = {"code_hash": tool.code_hash(nb)}
    tool.tidy(nb)
    return nb


@pytest.fixture
def about(tmp_path):
    (tmp_path / "page.md").write_text("# A page\n")
    (tmp_path / "picture.png").write_bytes(base64.b64decode(PIXEL))
    return SimpleNamespace(
        name="00_small",
        folder=tmp_path,
        text=tool.dump(good_notebook()),
        bibliography="@misc{a, eprint={1312.6114}}\n@misc{b, doi={10.1000/xyz-1}}",
        address=(URL, BRANCH),
    )


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_good_notebook_pleases(rule, about):
    assert rule(good_notebook(), about) == []


def append(text, cell=TEXT):
    """Return a change that appends text to the source of a cell."""

    def change(nb, about):
        nb.cells[cell].source += text

    return change


def output(*outs, cell=CODE):
    """Return a change that gives a cell other outputs."""

    def change(nb, about):
        nb.cells[cell].outputs = list(outs)

    return change


def alt(text, cell=FIGURE):
    def change(nb, about):
        nb.cells[cell].metadata["mystnb"] = {"image": {"alt": text}}

    return change


def swap_counts(nb, about):
    nb.cells[CODE].execution_count, nb.cells[FIGURE].execution_count = 3, 2


def skip_a_count(nb, about):
    nb.cells[SOLUTION].execution_count = 9


def never_run(nb, about):
    nb.cells[CODE].execution_count = None


def drop_the_hash(nb, about):
    del nb.metadata["making_data"]["code_hash"]


def keep_times(nb, about):
    nb.cells[CODE].metadata["execution"] = {"iopub.execute_input": "2026-01-01T00:00:00Z"}
    about.text = tool.dump(nb)


def keep_a_version(nb, about):
    nb.metadata.language_info["version"] = "3.11.7"
    about.text = tool.dump(nb)


def indent_by_two(nb, about):
    about.text = about.text.replace("\n ", "\n  ")


def drop_the_alt(nb, about):
    del nb.cells[FIGURE].metadata["mystnb"]


def widget_state(nb, about):
    nb.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {}}}


def drop_the_install_cell(nb, about):
    nb.cells = [cell for cell in nb.cells if not tool.has_tag(cell, "install")]


def second_install_cell(nb, about):
    nb.cells.append(copy.deepcopy(nb.cells[1]))


def install_cell_later(nb, about):
    nb.cells.insert(4, nb.cells.pop(1))


def another_address(nb, about):
    about.address = ("https://github.com/else/where", BRANCH)


def another_branch(nb, about):
    about.address = (URL, "next")


def drop_the_title(nb, about):
    nb.cells[0].source = nb.cells[0].source.removeprefix("# A small chapter\n\n")


def too_large(nb, about):
    about.text += " " * tool.MAX_BYTES


def drop_asserts(nb, about):
    for cell in nb.cells:
        cell.source = cell.source.replace("assert", "# no assert")


def tags(*words):
    def change(nb, about):
        nb.cells[SOLUTION].metadata["tags"] = list(words)

    return change


def large_budget(nb, about):
    nb.metadata["making_data"]["budget_cpu_s"] = tool.LARGE_BUDGET + 1


def code_after_code(nb, about):
    nb.cells[FIGURE + 1].source = "\n".join("abcd")
    nb.cells[4].source = ""


def bare_value(text):
    return nbformat.v4.new_output("execute_result", {"text/plain": text}, execution_count=1)


def html_output(text):
    return output(nbformat.v4.new_output("display_data", {"text/html": text}))


PLANTED = [
    (one_run_from_top_to_bottom, swap_counts),
    (one_run_from_top_to_bottom, skip_a_count),
    (one_run_from_top_to_bottom, never_run),
    (outputs_match_the_source, append("\nx = x + 1", CODE)),
    (outputs_match_the_source, drop_the_hash),
    (stored_in_the_stable_form, keep_times),
    (stored_in_the_stable_form, keep_a_version),
    (stored_in_the_stable_form, indent_by_two),
    (figures_have_alternative_text, drop_the_alt),
    (figures_have_alternative_text, alt("four words are few")),
    (figures_have_alternative_text, alt("a line of dots in digits.png")),
    (figures_have_alternative_text, append("\n![a short one](picture.png)")),
    (figures_have_alternative_text, append('\n<img src="picture.png">')),
    (one_figure_per_cell, output(picture(), picture(), cell=FIGURE)),
    (no_stderr, output(printed("UserWarning: …", "stderr"))),
    (no_errors, output(nbformat.v4.new_output("error", ename="ValueError", evalue="", traceback=[]))),
    (no_widgets, widget_state),
    (no_widgets, output(nbformat.v4.new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}}))),
    (no_remote_images, append("\n![a picture from somewhere far away](https://host.invalid/a.png)")),
    (no_remote_images, append('\n<img alt="x" src="//host.invalid/a.png">')),
    (no_remote_images, html_output('<img src="https://host.invalid/a.png">')),
    (no_machine_paths, output(printed("/home/me/course/x.py:3: UserWarning"))),
    (no_machine_paths, output(printed("saved in file:///root/x.pt"))),
    (no_machine_paths, output(printed(r"C:\Users\me\x.pt"))),
    (no_machine_paths, append("\nopen('/tmp/x')", CODE)),
    (no_machine_paths, append("\nSee /root/x for more.")),
    (no_memory_addresses, output(printed("<function f at 0x7f3a2b1c>"))),
    (no_value_left_standing, output(bare_value("(2.04, 4.59)"))),
    (no_myst_syntax, append("\n\n```{note}\nRead this.\n```")),
    (no_myst_syntax, append("\n\n:::{note}\nRead this.\n:::")),
    (no_myst_syntax, append(" as {cite:p}`kingma2014`")),
    (no_myst_syntax, append("\n\n(a-label)=\n## A part")),
    (no_line_breaks_in_display_maths, append("\n$$a \\\\ b$$")),
    (no_line_breaks_in_display_maths, append("\n$$\na = b \\\\\nc = d\n$$")),
    (internal_links_resolve, append(" [later](01_not_written.ipynb)")),
    (internal_links_resolve, append(' <a href="../nowhere.md#x">there</a>')),
    (internal_links_resolve, append("\n\n[there]: nowhere.md\n")),
    (sources_are_in_the_bibliography, append(" [x](https://arxiv.org/abs/1312.611)")),
    (sources_are_in_the_bibliography, append(" [x](https://arxiv.org/pdf/9999.99999v3.pdf)")),
    (sources_are_in_the_bibliography, append(" [x](https://doi.org/10.1000/xyz)")),
    (small_enough, too_large),
    (compared_cells_have_an_output, output(cell=COMPARED)),
    (colab_link_in_the_first_cell, another_address),
    (colab_link_in_the_first_cell, another_branch),
    (colab_link_in_the_first_cell, drop_the_title),
    (colab_link_in_the_first_cell, append(f" [Colab]({tool.COLAB}else/where/blob/main/notebooks/00_small.ipynb)")),
    (one_install_cell, drop_the_install_cell),
    (one_install_cell, second_install_cell),
    (one_install_cell, install_cell_later),
    (one_install_cell, another_address),
    (one_install_cell, output(printed("installed"), cell=1)),
    (budget_within_the_ledger, large_budget),
    (assertions_speak, drop_asserts),
    (solutions_are_folded, tags("solution")),
    (solutions_are_folded, tags("hide-cell")),
    (solutions_are_folded, tags()),
    (no_screenful_of_code, append("\nx = x" * MAX_LINES, CODE)),
    (no_screenful_of_code, code_after_code),
]


@pytest.mark.parametrize(("rule", "change"), PLANTED, ids=lambda value: getattr(value, "__name__", ""))
def test_a_planted_violation_is_caught(rule, change, about):
    nb = good_notebook()
    change(nb, about)
    assert rule(nb, about) != []


def test_every_rule_has_a_planted_violation():
    assert {rule for rule, _ in PLANTED} == set(RULES)


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        (no_machine_paths, append("\nMount the drive: https://host.invalid/home/x and ./tmp/x, 1/tmp/2")),
        (no_machine_paths, append("\n$f:\\mathbb{R} \\to D:\\Theta$")),
        (no_myst_syntax, append("\n\n```python\nx = {1: 2}\n```\n$\\{a\\}$")),
        (no_line_breaks_in_display_maths, append("\n\\begin{align*}a \\\\ b\\tag{1}\\end{align*}\n$$c$$")),
        (internal_links_resolve, append("\n```python\nx[0](y)\n```\n`a[1](b)` [up](#top) [mail](mailto:a@b.invalid)")),
        (sources_are_in_the_bibliography, append(" [x](https://doi.org/10.1000/XYZ-1)")),
        (sources_are_in_the_bibliography, append(" [x](http://arxiv.org/pdf/1312.6114.pdf)")),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_only_looks_like_a_violation_passes(rule, change, about):
    nb = good_notebook()
    change(nb, about)
    assert rule(nb, about) == []


def budgets(*limits):
    made = {}
    for number, limit in enumerate(limits):
        made[f"{number:02d}"] = nbformat.v4.new_notebook(metadata={"making_data": {"budget_cpu_s": limit}})
    return made


def test_the_ledger_counts():
    assert ledger_holds(budgets(*[80] * 7, *[40] * 23)) == []
    assert "add up to 1520" in ledger_holds(budgets(*[80] * 7, *[40] * 24))[0]
    assert "8 chapters above" in ledger_holds(budgets(*[41] * 8))[0]
    assert ledger_holds({"00": nbformat.v4.new_notebook()}) == []


DOCUMENTED = 'def f(x):\n    """Do it.\n\n    Taught in: 00_small, 01_later.\n    """\n'


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("def f(x):\n    '''Do it.'''\n", "no line"),
        ("class F:\n    pass\n", "no line"),
        (DOCUMENTED.replace("01_later", "01_latter"), "no chapter of the syllabus"),
        (DOCUMENTED.replace("def f", "def unused"), "00_small does not use it"),
        ("__all__ = ['_f']\ndef _f():\n    pass\n", "_f: no line"),
    ],
)
def test_a_wrong_taught_in_is_caught(source, complaint):
    nb = good_notebook()
    nb.cells[CODE].source += "\nf(x)"
    found = taught_where_it_says("toolbox", source, ["00_small", "01_later"], {"00_small": nb})
    assert len(found) == 1
    assert complaint in found[0]


def test_a_right_taught_in_passes():
    nb = good_notebook()
    nb.cells[CODE].source += "\nf(x)"
    private = "def _g():\n    pass\n__all__ = ['f']\ndef unlisted():\n    pass\n"
    for source in (DOCUMENTED, DOCUMENTED + private):
        assert taught_where_it_says("toolbox", source, ["00_small", "01_later"], {"00_small": nb}) == []
