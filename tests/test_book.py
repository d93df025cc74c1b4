"""The book builds without warnings, and its pages hold what they promise without asking another host."""

import fcntl
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build/html"
TOOL = Path(sys.executable).parent / "jupyter-book"
OUTSIDE = re.compile(r"^(https?:)?//", re.IGNORECASE)
# What a browser fetches by itself; the href of <a> is a link for the reader and fetched by nobody.
FETCHED = {
    "script": ("src",),
    "img": ("src", "srcset"),
    "source": ("src", "srcset"),
    "iframe": ("src",),
    "embed": ("src",),
    "object": ("data",),
    "video": ("src", "poster"),
    "audio": ("src",),
    "track": ("src",),
    "input": ("src",),
    "image": ("href", "xlink:href"),
    "use": ("href", "xlink:href"),
}
NOT_FETCHED = {"canonical", "next", "prev", "index", "search", "author", "license", "alternate"}


# ---------- reading pages ----------


class Page(HTMLParser):
    """All elements of a page as (tag, attributes, stands in the article), and the text of its style elements."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.styles, self.article, self.style = [], [], 0, False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.article += tag == "article"
        self.style = tag == "style"
        self.elements.append((tag, dict(attributes), self.article > 0))

    def handle_endtag(self, tag):
        self.article -= tag == "article"
        self.style = self.style and tag != "style"

    def handle_data(self, data):
        if self.style:
            self.styles.append(data)


def toc_pages(root=ROOT):
    """The pages of the table of contents, without suffix, in reading order."""
    contents = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    return [contents["root"], *(entry["file"] for part in contents["parts"] for entry in part["chapters"])]


def fetched(text):
    """Every address that a browser fetches to show this page."""
    page = Page(text)
    found = []
    for tag, attributes, _ in page.elements:
        if tag == "link" and not NOT_FETCHED & set((attributes.get("rel") or "").lower().split()):
            found.append(attributes.get("href") or "")
        for name in FETCHED.get(tag, ()):
            value = attributes.get(name) or ""
            found += [part.split()[0] for part in value.split(",") if part.split()] if name == "srcset" else [value]
        found += css_addresses(attributes.get("style") or "")
    found += [address for style in page.styles for address in css_addresses(style)]
    return [address for address in found if address and not address.startswith(("data:", "#"))]


def css_addresses(text):
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    found = re.findall(r"""url\(\s*["']?([^"')]+)|@import\s+["']([^"']+)""", text)
    return [one or other for one, other in found]


# ---------- the rules: each returns what is wrong ----------


def outside_resources(text):
    return [address for address in fetched(text) if OUTSIDE.match(address)]


def poor_images(text):
    """Images in the article whose text is missing, shorter than five words or a file name; others without alt."""
    wrong = []
    for tag, attributes, in_article in Page(text).elements:
        if tag != "img":
            continue
        alt = attributes.get("alt")
        if alt is None:
            wrong.append(f"{attributes.get('src')}: no alt")
        elif in_article and (len(alt.split()) < 5 or re.search(r"\.(png|svg|jpe?g|gif)\b", alt)):
            wrong.append(f"{attributes.get('src')}: alt {alt!r}")
    return wrong


def raw_tables(text):
    """The rules of Markdown tables that stand in the text of a page, outside code."""
    return re.findall(r"\|\s*-{3,}\s*\|", re.sub(r"<pre.*?</pre>", "", text, flags=re.DOTALL))


def anchors(text):
    return {
        attributes[name] for _, attributes, _ in Page(text).elements for name in ("id", "name") if name in attributes
    }


def broken_links(path, text, root, known=None):
    """Links and local files of the page at `path` that lead to no file or no anchor under `root`."""
    known = {} if known is None else known
    targets = [attributes.get("href") or "" for tag, attributes, _ in Page(text).elements if tag == "a"]
    wrong = []
    for address in [*targets, *fetched(text)]:
        parts = urlsplit(address)
        if parts.scheme or parts.netloc:
            continue
        name, fragment = urldefrag(address)
        target = path if not name else (path.parent / unquote(urlsplit(name).path)).resolve()
        if not target.is_file() or root.resolve() not in target.resolve().parents:
            wrong.append(f"{address}: no such file")
        elif fragment and target.suffix == ".html":
            if target not in known:
                known[target] = anchors(text if target == path else target.read_text(encoding="utf-8"))
            if unquote(fragment) not in known[target]:
                wrong.append(f"{address}: no such anchor")
    return wrong


def identifiers(text):
    """arXiv numbers and DOIs that a text links to, in one spelling."""
    arxiv = re.findall(r"arxiv\.org/(?:abs|pdf|html)/([\w.-]+/\d{7}|\d{4}\.\d{4,5})", text, re.IGNORECASE)
    doi = re.findall(r"doi\.org/(10\.\d{4,9}/[^\s\"'<>)\]]+)", text, re.IGNORECASE)
    return {f"arXiv:{one.lower()}" for one in arxiv} | {f"doi:{unquote(one).lower().rstrip('.,;')}" for one in doi}


def bibliography(text):
    arxiv = re.findall(r"\beprint\s*=\s*\{([^}]+)\}", text)
    doi = re.findall(r"\bdoi\s*=\s*\{([^}]+)\}", text)
    return {f"arXiv:{one.lower()}" for one in arxiv} | {f"doi:{one.lower()}" for one in doi}


# ---------- the built book ----------


def build(root, *words):
    command = [str(TOOL), "build", ".", "-W", "--keep-going", "-q", *words]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=570)


@pytest.fixture(scope="session")
def book():
    """The folder of the built book. Only pages that changed are built, one worker at a time."""
    (ROOT / "_build").mkdir(exist_ok=True)
    with open(ROOT / "_build/book.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run([sys.executable, str(ROOT / "tools/pages.py")], check=True, cwd=ROOT)
        done = build(ROOT)
    if done.returncode:
        pytest.fail(f"the book does not build:\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}", pytrace=False)
    return HTML


def read(book, page):
    path = (book / f"{page}.html").resolve()
    return path, path.read_text(encoding="utf-8")


PAGES = toc_pages()
EXTRA = ["search", "genindex"]


@pytest.mark.slow
def test_every_page_of_the_contents_is_built(book):
    assert PAGES[0] == "book/index"
    missing = [page for page in PAGES if not (book / f"{page}.html").is_file()]
    assert not missing
    for page in PAGES:
        _, text = read(book, page)
        assert text.count("<h1") >= 1 and "<title>" in text, page
    assert 'url=book/index.html"' in (book / "index.html").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("page", [*PAGES, *EXTRA])
def test_a_page_asks_no_other_host(book, page):
    path, text = read(book, page)
    assert not outside_resources(text)
    assert "thebe" not in text.lower()
    for address in fetched(text):
        sheet = (path.parent / urlsplit(address).path).resolve()
        if sheet.suffix == ".css":
            outside = [one for one in css_addresses(sheet.read_text(encoding="utf-8")) if OUTSIDE.match(one)]
            assert not outside, sheet.name


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_every_image_is_told_in_words(book, page):
    assert not poor_images(read(book, page)[1])


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_no_table_is_left_as_text(book, page):
    assert not raw_tables(read(book, page)[1])


@pytest.mark.slow
def test_internal_links_and_anchors_lead_somewhere(book):
    known = {}
    wrong = {page: broken_links(*read(book, page), book, known) for page in [*PAGES, *EXTRA]}
    assert not {page: links for page, links in wrong.items() if links}


@pytest.mark.slow
def test_the_references_page_lists_every_entry(book):
    entries = re.findall(r"^@\w+\{([^,\s]+),", (ROOT / "book/references.bib").read_text(encoding="utf-8"), re.MULTILINE)
    _, text = read(book, "book/references")
    assert len(entries) == len(set(entries)) > 100
    assert len(re.findall(r"<li[^>]*>\s*<p>", text[text.index("<h1>") : text.index("</article>")])) == len(entries)


def test_cited_papers_stand_in_the_bibliography():
    known = bibliography((ROOT / "book/references.bib").read_text(encoding="utf-8"))
    for path in [*(ROOT / "book").glob("*.md"), ROOT / "README.md"]:
        missing = identifiers(path.read_text(encoding="utf-8")) - known
        assert not missing, f"{path.name} links to {missing}, which book/references.bib does not hold"


def test_the_contents_list_files_that_exist():
    for page in PAGES:
        assert any((ROOT / f"{page}{suffix}").exists() for suffix in (".md", ".ipynb")), page


def test_every_page_file_is_in_the_contents():
    written = {f"book/{path.stem}" for path in (ROOT / "book").glob("*.md")}
    assert written <= set(PAGES), f"not in _toc.yml: {sorted(written - set(PAGES))}"


# ---------- planted violations: each rule fires, and stays quiet on a clean page ----------

CLEAN = """<html><head><link rel="stylesheet" href="_static/a.css"><link rel="canonical" href="https://x.org/p"></head>
<body><img src="logo.svg" alt=""><article id="top"><a href="https://arxiv.org/abs/1406.2661">paper</a>
<a href="#top">up</a><img src="a.png" alt="Ten dots that rise from left to right"></article></body></html>"""


@pytest.mark.parametrize(
    "planted",
    [
        '<script src="https://cdn.example.org/m.js"></script>',
        '<script src="//cdn.example.org/m.js"></script>',
        '<link rel="stylesheet" href="https://fonts.example.org/css">',
        '<link rel="preload" as="font" href="HTTPS://fonts.example.org/a.woff2">',
        '<img alt="" src="http://example.org/badge.svg">',
        '<img alt="" srcset="a.png 1x, https://example.org/a2.png 2x">',
        '<iframe src="https://example.org/"></iframe>',
        "<style>@import 'https://example.org/a.css';</style>",
        '<div style="background: url(https://example.org/a.png)"></div>',
    ],
)
def test_a_planted_outside_resource_is_found(planted):
    assert not outside_resources(CLEAN)
    assert len(outside_resources(CLEAN.replace("</body>", f"{planted}</body>"))) == 1


def test_a_planted_raw_table_is_found():
    planted = "| a | b | |---|---| | 1 | 2 |"
    assert not raw_tables(CLEAN.replace("</article>", f"<pre>{planted}</pre></article>"))
    assert raw_tables(CLEAN.replace("</article>", f"<p>{planted}</p></article>"))


@pytest.mark.parametrize("alt", ["", ' alt=""', ' alt="a plot"', ' alt="the picture file named first_strip.png here"'])
def test_a_planted_poor_image_is_found(alt):
    assert not poor_images(CLEAN)
    assert len(poor_images(CLEAN.replace("</article>", f'<img src="b.png"{alt}></article>'))) == 1


@pytest.mark.parametrize(
    "planted",
    [
        '<a href="gone.html">x</a>',
        '<a href="#gone">x</a>',
        '<a href="other.html#gone">x</a>',
        '<img alt="" src="no.png">',
    ],
)
def test_a_planted_broken_link_is_found(tmp_path, planted):
    for name in ("_static/a.css", "logo.svg", "a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("", encoding="utf-8")
    (tmp_path / "other.html").write_text('<h1 id="here">x</h1>', encoding="utf-8")
    good = CLEAN.replace("</article>", '<a href="other.html#here">x</a></article>')
    page = tmp_path / "page.html"
    page.write_text(good, encoding="utf-8")
    assert not broken_links(page, good, tmp_path)
    bad = good.replace("</article>", f"{planted}</article>")
    assert len(broken_links(page, bad, tmp_path)) == 1


def test_a_planted_unlisted_paper_is_found():
    known = bibliography("@misc{a, eprint={1406.2661}, x={y}}\n@article{b, doi={10.1109/TPAMI.2013.50}}")
    fine = "[a](https://arxiv.org/pdf/1406.2661v1) and <https://doi.org/10.1109/tpami.2013.50>."
    assert identifiers(fine) == {"arXiv:1406.2661", "doi:10.1109/tpami.2013.50"} == known
    assert identifiers(f"{fine} [b](https://arxiv.org/abs/9999.00001)") - known == {"arXiv:9999.00001"}


@pytest.mark.slow
def test_a_warning_fails_the_second_build_too(tmp_path):
    for name in ("_config.yml", "book/_ext/making_data.py", "book/references.bib"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "book/_static", tmp_path / "book/_static")
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: book/index\n", encoding="utf-8")
    page = tmp_path / "book/index.md"
    page.write_text("# A page\n\n[nowhere](gone.md)\n", encoding="utf-8")
    for attempt in ("first", "second"):
        done = build(tmp_path)
        assert done.returncode, f"the {attempt} build did not fail"
        assert "gone.md" in done.stderr + done.stdout, f"the {attempt} build did not name the fault"
