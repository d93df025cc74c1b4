"""The built book in a real headless Chromium: nothing from outside, nothing broken, readable by everyone.

The browser is the system's (`chromium`, or the program that CHROMIUM names); Playwright only drives it.
"""

import functools
import http.server
import os
import shutil
import threading

import pytest
from test_book import PAGES, book  # noqa: F401  (a fixture)

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ARGUMENTS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
SERIOUS = ["serious", "critical"]

# Serious findings of axe-core in the frame that the theme draws around our content: rule and the reason why it stays.
# None with sphinx-book-theme 1.3.0 and pydata-sphinx-theme 0.17.1.
THEME_FINDINGS = {}

# A word to look for and the page on which the search must find it.
SEARCHES = [("provenance", "book/glossary"), ("ceiling", "notebooks/00_start_here")]


# ---------- browser and server ----------


def find_chromium():
    named = os.environ.get("CHROMIUM")
    if named:
        return shutil.which(named)
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="session")
def browser():
    program = find_chromium()
    if program is None:
        reason = "no chromium: install Debian's package `chromium`, or name the program in CHROMIUM"
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(f"{reason} (in CI these tests may not be skipped)", pytrace=False)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield chromium
        chromium.close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class Server:
    """Serves a folder on a free loopback port until closed."""

    def __init__(self, folder):
        handler = functools.partial(Quiet, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="session")
def site(book):  # noqa: F811
    server = Server(book)
    yield server.address
    server.close()


@pytest.fixture
def planted(tmp_path):
    """Serve a page made of the given body; returns its address."""
    servers = []

    def serve(body, head=""):
        text = f"<!doctype html><html lang='en'><head><title>x</title>{head}</head><body>{body}</body></html>"
        (tmp_path / "index.html").write_text(text, encoding="utf-8")
        servers.append(Server(tmp_path))
        return servers[-1].address

    yield serve
    for server in servers:
        server.close()


class Visit:
    """An open page, with the addresses that it asked for and the errors that it complained of."""

    def __init__(self, browser, address, viewport=WIDE, scheme="light"):
        self.context = browser.new_context(viewport=viewport, color_scheme=scheme, reduced_motion="reduce")
        self.context.set_default_timeout(120_000)  # the machine may be busy with other tests
        self.asked, self.complaints = [], []
        self.page = self.context.new_page()
        self.context.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("response", self.note_failure)
        self.page.goto(address, wait_until="load")
        self.page.evaluate("() => window.MathJax?.startup?.promise?.then(() => null)")
        self.page.wait_for_load_state("networkidle")

    def note_failure(self, response):
        if response.status >= 400:
            self.complaints.append(f"{response.status} {response.url}")


@pytest.fixture
def visit(browser):
    """Open an address in a fresh profile."""
    visits = []

    def open_at(address, **how):
        visits.append(Visit(browser, address, **how))
        return visits[-1]

    yield open_at
    for one in visits:
        one.context.close()


@pytest.fixture(scope="session")
def findings(browser, site):
    """What there is to find on a page of the book. Each is opened once: wide and light, then dark, then narrow."""
    known = {}

    def look(name):
        if name in known:
            return known[name]
        one = Visit(browser, f"{site}{name}.html")
        page = one.page
        found = {"formulas": page.locator("article .math").count(), "errors": page.locator("mjx-merror").count()}
        found["heights"] = page.locator("article mjx-container").evaluate_all(
            "all => all.map(e => e.getBoundingClientRect().height)"
        )
        found["text"] = page.locator("main").first.inner_text()
        page.evaluate("for (const folded of document.querySelectorAll('details')) folded.open = true")
        for scheme in ("light", "dark"):
            for wait in (100, 2000):  # colours may still be on their way on a busy machine: only what stays counts
                page.evaluate("scheme => { document.documentElement.dataset.theme = scheme }", scheme)
                page.wait_for_timeout(wait)
                found[scheme], found[f"{scheme} frame"] = axe(page)
                if not found[scheme]:
                    break
        page.set_viewport_size(NARROW)
        page.wait_for_timeout(300)
        found["too wide"] = too_wide(page)
        found["cut off"] = cut_off(page) if page.locator("article").count() else []
        found["asked"], found["complaints"] = one.asked, one.complaints
        one.context.close()
        known[name] = found
        return found

    return look


# ---------- the checks: each returns what is wrong ----------


def outside(asked, address):
    return [url for url in asked if not url.startswith((address, "data:", "blob:", "about:"))]


def too_wide(page):
    """The widest elements that push the page sideways; none on a page that does not scroll sideways."""
    return page.evaluate(
        """() => {
          const room = document.documentElement.clientWidth;
          if (document.documentElement.scrollWidth <= room) return [];
          return [...document.body.querySelectorAll("*")].filter(e => e.getBoundingClientRect().right > room + 1)
            .slice(0, 5).map(e => `${e.tagName}.${e.className} ends at ${e.getBoundingClientRect().right} of ${room}`);
        }"""
    )


def cut_off(page):
    """Elements of the article that lie left of its edge or are wider than it and cannot be scrolled to."""
    return page.evaluate(
        """() => {
          const article = document.querySelector("article");
          const edge = article.getBoundingClientRect();
          const wrong = [];
          for (const e of article.querySelectorAll("*")) {
            const box = e.getBoundingClientRect();
            if (!box.width || !box.height || e.closest("mjx-assistive-mml, .sr-only, .visually-hidden")) continue;
            if (box.left >= edge.left - 24 && box.right <= edge.right + 24) continue;
            let frame = e.parentElement, scrolls = false;
            for (; frame && frame !== article; frame = frame.parentElement)
              scrolls ||= ["auto", "scroll"].includes(getComputedStyle(frame).overflowX) && box.left >= edge.left - 24;
            if (!scrolls) wrong.push(`${e.tagName}.${e.className} from ${box.left} to ${box.right}`);
          }
          return wrong.slice(0, 5);
        }"""
    )


# Looks of every element that can take the focus, before any has it.
REMEMBER = """() => {
  const look = e => { const s = getComputedStyle(e), p = getComputedStyle(e.parentElement);
    return [s.outlineStyle === "none" || parseFloat(s.outlineWidth) === 0 ? "none" : s.outline, s.boxShadow, s.border,
            s.backgroundColor, s.textDecoration, p.outline, p.boxShadow, p.border].join(" | "); };
  window.lookOf = look;
  window.looks = new Map([...document.querySelectorAll("*")].filter(e => e.parentElement).map(e => [e, look(e)]));
}"""
FOCUSED = """() => {
  const e = document.activeElement;
  if (!e || e === document.body) return null;
  const box = e.getBoundingClientRect();
  const before = window.looks.get(e);
  return {name: `${e.tagName}.${e.className} ${(e.textContent || "").trim().slice(0, 30)}`,
          visible: box.width > 0 && box.height > 0, changed: before === undefined || before !== window.lookOf(e)};
}"""


def focus_walk(page, steps):
    """Press Tab; returns the elements reached and those that looked the same with the focus as without."""
    page.evaluate(REMEMBER)
    reached, unseen = [], []
    for _ in range(steps):
        page.keyboard.press("Tab")
        page.wait_for_timeout(30)
        state = page.evaluate(FOCUSED)
        if state is None:
            break
        reached.append(state["name"])
        if state["visible"] and not state["changed"]:
            unseen.append(state["name"])
    return reached, unseen


AXE_RUN = """async levels => {
  // preload would fetch style sheets once more, from addresses that axe guesses
  const all = await axe.run(document, {resultTypes: ["violations"], preload: false, elementRef: true});
  return all.violations.filter(one => levels.includes(one.impact)).flatMap(one => one.nodes.map(
    node => [one.id, node.target.flat().join(" "), Boolean(node.element?.closest("article"))]));
}"""


# A chapter has thousands of coloured words of code. One of each kind is looked at, the others become plain text: the
# same findings in a quarter of the time.
ONE_OF_EACH = """() => {
  const seen = new Set();
  for (const e of [...document.querySelectorAll("pre span")]) {
    const kind = `${e.className} in ${e.closest("div[class*=highlight], div.output")?.className}`;
    if (seen.has(kind) && !e.id && !e.hasAttribute("style")) e.replaceWith(...e.childNodes);
    else seen.add(kind);
  }
  for (const e of document.querySelectorAll("pre")) e.normalize();
}"""


def axe(page):
    """Serious findings of axe-core as {rule: [elements]}: those in our article, those in the frame around it."""
    from axe_playwright_python.base import AXE_SCRIPT

    page.evaluate(ONE_OF_EACH)
    page.evaluate(AXE_SCRIPT)
    ours, frame = {}, {}
    for rule, element, inside in page.evaluate(AXE_RUN, SERIOUS):
        (ours if inside else frame).setdefault(rule, []).append(element)
    return ours, frame


def unexplained(frame, reasons):
    """Findings in the frame for which no sentence says why they stay."""
    return {rule: elements for rule, elements in frame.items() if len(reasons.get(rule, "").split()) < 5}


# ---------- the book ----------

EVERY = [*PAGES, "search"]


@pytest.mark.parametrize("name", EVERY)
def test_a_page_asks_nobody_and_complains_of_nothing(site, findings, name):
    found = findings(name)
    assert not outside(found["asked"], site)
    assert not found["complaints"]


@pytest.mark.parametrize("name", EVERY)
def test_formulas_are_set(site, findings, name):
    found = findings(name)
    assert found["errors"] == 0
    assert len(found["heights"]) >= found["formulas"]
    assert "$$" not in found["text"] and "\\begin{" not in found["text"]
    if found["formulas"]:
        assert min(found["heights"]) > 3
        assert [url for url in found["asked"] if url.endswith(".woff")], "the fonts of the formulas"


@pytest.mark.parametrize("name", EVERY)
def test_no_page_scrolls_sideways_on_a_phone(findings, name):
    found = findings(name)
    assert not found["too wide"]
    assert not found["cut off"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", EVERY)
def test_axe_finds_nothing_serious(findings, name, scheme):
    found = findings(name)
    assert not found[scheme]
    new = unexplained(found[f"{scheme} frame"], THEME_FINDINGS)
    assert not new, "new in the theme: mend it in book/_static, or list it with a reason"


def test_every_page_is_reached_from_the_sidebar(site, visit):
    links = visit(f"{site}{PAGES[0]}.html").page.locator(".bd-sidebar-primary nav a")
    targets = links.evaluate_all("all => all.map(a => a.href.split('#')[0])")
    assert not [name for name in PAGES if f"{site}{name}.html" not in targets]
    assert all(link.is_visible() for link in links.all())


@pytest.mark.parametrize(("word", "name"), SEARCHES)
def test_search_finds_a_word(site, visit, word, name):
    if name not in PAGES:
        pytest.skip(f"{name} is not written yet")
    one = visit(f"{site}search.html?q={word}")
    one.page.wait_for_selector("#search-results li a")
    one.page.wait_for_load_state("networkidle")
    found = one.page.locator("#search-results li a").evaluate_all("all => all.map(a => a.href.split(/[?#]/)[0])")
    assert f"{site}{name}.html" in found
    assert not outside(one.asked, site)


def test_search_admits_that_it_found_nothing(site, visit):
    page = visit(f"{site}search.html?q=zyzzyvaquux").page
    page.wait_for_selector("#search-results .search-summary")
    assert page.locator("#search-results li a").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_system_decides_between_light_and_dark(site, visit, scheme):
    page = visit(f"{site}{PAGES[0]}.html", scheme=scheme).page
    assert page.locator("html").get_attribute("data-theme") == scheme


def test_the_button_changes_light_and_dark(site, visit):
    page = visit(f"{site}{PAGES[0]}.html").page
    seen = {}
    for _ in range(3):
        theme = page.locator("html").get_attribute("data-theme")
        seen[theme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.locator("button.theme-switch-button:visible").first.click()
    assert set(seen) == {"light", "dark"}
    assert seen["light"] != seen["dark"]


@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("name", [PAGES[0], PAGES[2]])
def test_the_focus_is_seen(site, visit, name, viewport):
    reached, unseen = focus_walk(visit(f"{site}{name}.html", viewport=viewport).page, 40)
    assert len(reached) > 8
    assert not unseen


# ---------- planted violations ----------


def test_a_planted_outside_request_is_caught(visit, planted):
    clean = planted("<p>x</p>")
    assert not outside(visit(clean).asked, clean)
    address = planted("<img src='http://127.0.0.1:9/badge.svg' alt='x'>")
    assert outside(visit(address).asked, address) == ["http://127.0.0.1:9/badge.svg"]


@pytest.mark.parametrize(
    "script", ["throw new Error('x')", "console.error('x')", "const a = 1; </script><script>const a = 2;"]
)
def test_a_planted_complaint_is_caught(visit, planted, script):
    assert visit(planted(f"<script>{script}</script>")).complaints


def test_a_planted_missing_file_is_caught(visit, planted):
    assert any("404" in one for one in visit(planted("<img src='gone.png' alt='x'>")).complaints)


def test_a_planted_wide_element_is_caught(visit, planted):
    meta = "<meta name='viewport' content='width=device-width'>"
    wide = "<div style='width:800px;height:9px'></div>"
    page = visit(planted(f"<article>{wide}</article>", meta), viewport=NARROW).page
    assert too_wide(page) and cut_off(page)
    page = visit(planted(f"<article><div style='overflow-x:auto'>{wide}</div></article>", meta), viewport=NARROW).page
    assert not too_wide(page) and not cut_off(page)
    left = (
        f"<div style='overflow:auto;display:flex;flex-direction:row-reverse'><div style='flex:none'>{wide}</div></div>"
    )
    page = visit(planted(f"<article>{left}</article>", meta), viewport=NARROW).page
    assert not too_wide(page) and cut_off(page), "an overflow to the left cannot be scrolled to"


def test_a_planted_invisible_focus_is_caught(visit, planted):
    links = "<a href='#a'>one</a> <a href='#b'>two</a>"
    reached, unseen = focus_walk(visit(planted(links)).page, 2)
    assert len(reached) == 2 and not unseen
    page = visit(planted(links, "<style>a:focus { outline: none }</style>")).page
    assert len(focus_walk(page, 2)[1]) == 2


def test_a_planted_poor_contrast_and_missing_text_are_caught(visit, planted):
    pale = "<p style='color:#aaa;background:#fff'>pale words</p>"
    body = f"<main><h1>x</h1><article>{pale}<img src='data:,'></article></main><footer>{pale}</footer>"
    ours, frame = axe(visit(planted(body)).page)
    assert {"color-contrast", "image-alt"} <= set(ours)
    assert set(frame) == {"color-contrast"}


def test_planted_pale_words_of_code_are_caught_once(visit, planted):
    words = "<span class='pale'>one</span> <span class='pale'>two</span> <span class='dark'>three</span>"
    style = "<style>pre {background: #fff; color: #000} .pale {color: #aaa} .dark {color: #222}</style>"
    ours, _ = axe(visit(planted(f"<main><h1>x</h1><article>{style}<pre>{words}</pre></article></main>")).page)
    assert len(ours["color-contrast"]) == 1, "the first pale word stands for all of its kind"


def test_a_planted_finding_of_the_theme_needs_a_reason():
    frame = {"color-contrast": ["footer p"], "region": ["nav"]}
    assert set(unexplained(frame, {})) == {"color-contrast", "region"}
    reasons = {"color-contrast": "the theme's footer is pale on purpose, see its tracker", "region": "why not"}
    assert set(unexplained(frame, reasons)) == {"region"}, "two words are no reason"
