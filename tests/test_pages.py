"""The site and the slides: built without a warning, complete, every link alive, and
looked at in a browser.
"""

import functools
import http.server
import re
import shutil
import threading
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter
from watch import until

from helpers import settings
from tools import learner, lessons, pages, rendering, slides

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
STEMS = [lesson.stem for lesson in lessons.notebooks()]
# pixels of a slide below the screen's edge that one may have to scroll to; a tenth of
# it
HIDDEN = 40


@pytest.fixture(scope="module")
def built():
    """Folder with site/ and slides/, built once."""
    folder = settings.build_dir() / "tests" / "pages"
    shutil.rmtree(folder, ignore_errors=True)
    assert pages.build(folder / "site") == 0
    slides.build(folder / "slides")
    return folder


@pytest.fixture(scope="module")
def executed(built):
    """Folder with the pages that make run builds, of the lessons as they are stored."""
    for stem in STEMS:
        page = built / "pages" / f"{stem}.html"
        rendering.to_html(settings.NOTEBOOKS / f"{stem}.ipynb", page)
    return built / "pages"


@functools.cache
def soup(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def html_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.html"))


def test_every_lesson_and_document_is_a_page(built):
    documents = [
        page.relative_to(settings.ROOT).with_suffix(".html")
        for page in pages.documents()[1:]
    ]
    expected = {
        *map(str, documents),
        "index.html",
        "docs/glossary.html",
        *(f"notebooks/{stem}.html" for stem in STEMS),
    }
    found = {
        str(path.relative_to(built / "site")) for path in html_files(built / "site")
    }
    assert expected <= found
    side = soup(built / "site" / "index.html").find(class_="sidebar-tree")
    assert {link["href"] for link in side.find_all("a")} == expected - {"index.html"}


def test_links_of_documents_lead_to_pages_or_files(monkeypatch, tmp_path):
    """Folders are no pages, the README is the first one."""
    kept = "[d](../LICENSE) [e](../notebooks/{0}.ipynb)"
    text = "[a](../helpers) [b](../README.md#the-lessons) " + kept
    page = settings.DATA / "page.md"
    monkeypatch.setattr(Path, "read_text", lambda *_args, **_how: text.format(STEMS[0]))
    expected = "a [b](../index.md#the-lessons) " + kept
    assert pages.linked(page, tmp_path) == expected.format(STEMS[0])
    assert [path.name for path in tmp_path.iterdir()] == ["LICENSE"]


def test_no_link_is_dead_and_nothing_is_loaded_from_elsewhere(built):
    dead = []
    for path in html_files(built):
        here = path.as_uri()
        for tag, attribute in (
            ("a", "href"),
            ("link", "href"),
            ("img", "src"),
            ("script", "src"),
            ("form", "action"),
        ):
            for element in soup(path).find_all(tag, **{attribute: True}):
                address, anchor = urldefrag(
                    urljoin(here, element[attribute]).split("?")[0]
                )
                if address.startswith("file://"):
                    file = Path(unquote(address.removeprefix("file://")))
                    lost = (
                        anchor
                        and file.suffix == ".html"
                        and not soup(file).find(id=unquote(anchor))
                    )
                    if not file.is_file() or lost:
                        dead.append((path.name, element[attribute]))
                elif tag != "a" and not address.startswith("data:"):
                    dead.append((path.name, element[attribute]))
    assert dead == []


CODE = re.compile(r"```.*?```|`[^`\n]*`", re.S)  # in Markdown
ELSEWHERE = re.compile(r"\s*(?:https?:|ftp:|//)", re.I)


def loads(html):
    """What a page loads from other hosts when it opens; links to click are left out."""
    page = BeautifulSoup(html, "html.parser")
    found = [
        value
        for element in page.find_all(True)
        for name, value in element.attrs.items()
        if name in ("src", "srcset", "data", "poster", "action", "background")
        or (name in ("href", "xlink:href") and element.name not in ("a", "area"))
    ]
    found = [value for value in found if ELSEWHERE.match(value)]
    code = "\n".join(tag.get_text() for tag in page.find_all(["script", "style"]))
    code += "\n".join(tag["style"] for tag in page.find_all(style=True))
    asks = r"(?:url\(|import\(?|from|src\s*=|fetch\()\s*[\"']?((?:https?:|ftp:|//)\S+)"
    return found + re.findall(asks, code)


@pytest.mark.security
@pytest.mark.parametrize("stem", STEMS)
def test_a_page_of_make_run_loads_nothing(executed, stem):
    html = (executed / f"{stem}.html").read_text(encoding="utf-8")
    assert loads(html) == []
    prose = "\n".join(
        text.get_text() for text in soup(executed / f"{stem}.html").select("p, li, td")
    )
    source = (settings.NOTEBOOKS / f"{stem}.ipynb").read_text(encoding="utf-8")
    cells = nbformat.reads(source, as_version=4).cells
    formulas = sum(
        len(re.findall(r"\$\$?[^$]+\$\$?", CODE.sub("", cell.source)))
        for cell in cells
        if cell.cell_type == "markdown"
    )
    assert html.count("<math") == formulas
    assert not re.search(r"\$[^$]*\\", prose)


@pytest.mark.security
def test_what_a_page_loads_is_noticed():
    """As nbconvert by itself makes them: three scripts of another host."""
    html, _ = HTMLExporter().from_filename(
        str(settings.NOTEBOOKS / f"{STEMS[0]}.ipynb")
    )
    assert len(loads(html)) >= 3
    for bad in (
        '<img src="//x.example/a.png">',
        '<link rel="stylesheet" href="https://x.example/a.css">',
        "<style>@import 'https://x.example/a.css';</style>",
        '<p style="background: url(https://x.example/a.png)">',
        "<script>import('https://x.example/a.js')</script>",
    ):
        assert len(loads(bad)) == 1, bad
    assert loads('<a href="https://x.example">read</a><img src="data:,">') == []


@pytest.mark.security
def test_sites_and_slides_load_nothing(built):
    pages = [*html_files(built / "site"), *html_files(built / "slides")]
    assert len(pages) > 2 * len(STEMS)
    found = {page.name: loads(page.read_text(encoding="utf-8")) for page in pages}
    assert {name: what for name, what in found.items() if what} == {}


@pytest.mark.parametrize("stem", STEMS)
def test_a_page_shows_what_is_stored(built, stem):
    page = soup(built / "site" / "notebooks" / f"{stem}.html")
    stored = nbformat.read(settings.NOTEBOOKS / f"{stem}.ipynb", as_version=4)
    data = [
        output.metadata
        for cell in stored.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    figures = page.select(".cell_output img")
    assert [figure["alt"] for figure in figures] == [
        one["image/png"]["alt"] for one in data
    ]
    solutions = [
        cell for cell in stored.cells if "solution" in cell.metadata.get("tags", [])
    ]
    collapsed = page.select("details.hide")
    assert len(collapsed) == len(solutions)
    assert not [one for one in collapsed if one.has_attr("open")]
    offered = {
        Path(link["href"]).name for link in page.find_all("a", class_="download")
    }
    assert offered == {f"{stem}.ipynb"}
    assert "$" not in " ".join(
        text.get_text() for text in page.select("article p:not(:has(code))")
    )


def test_downloads_are_the_files_themselves(built):
    for stem in STEMS:
        page = built / "site" / "notebooks" / f"{stem}.html"
        links = [
            page.parent / link["href"]
            for link in soup(page).find_all("a", class_="download")
        ]
        lesson = settings.NOTEBOOKS / f"{stem}.ipynb"
        assert [link.read_text(encoding="utf-8") for link in links] == [
            lesson.read_text(encoding="utf-8"),
            learner.copy(lesson),
        ]


def test_the_glossary_speaks_of_the_lessons_words(built):
    terms = pages.TERM.findall((pages.DOCS / "glossary.md").read_text())
    assert len(terms) >= 40
    assert terms == sorted(terms, key=str.casefold)
    prose = {lesson: pages._prose(lesson) for lesson in lessons.notebooks()}
    assert [term for term in terms if not pages.uses(term, prose)] == []
    entries = soup(built / "site" / "docs" / "glossary.html").select("dl.glossary dd")
    assert len(entries) == len(terms)
    assert all(entry.find("a", href=re.compile("notebooks/")) for entry in entries)


@pytest.mark.parametrize("stem", STEMS)
def test_a_deck_has_the_lessons_headings_and_no_solution(built, stem):
    page = soup(built / "slides" / f"{stem}.html")
    stored = nbformat.read(settings.NOTEBOOKS / f"{stem}.ipynb", as_version=4)
    prose = "\n".join(
        cell.source for cell in stored.cells if cell.cell_type == "markdown"
    )
    headings = re.findall(
        r"^##? (.+)", re.sub(r"^```.*?^```", "", prose, flags=re.S | re.M), flags=re.M
    )
    columns = page.select(".slides > section")
    assert [column.find(["h1", "h2"]).get_text() for column in columns] == [
        text.replace("`", "") for text in headings
    ]
    code = page.find(class_="slides").get_text()
    for cell in stored.cells:
        if "solution" in cell.metadata.get("tags", []):
            assert cell.source not in code
    assert all(image["alt"] for image in page.find_all("img"))


@pytest.fixture(scope="module")
def server(built):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_args):
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(built))
    ) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser():
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("no chromium in PATH: the pages are not looked at in a browser")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=program,
            args=["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
        )
        yield running
        running.close()


@pytest.fixture
def tab(browser, server):
    """A page of the browser and everything that went wrong in it; no request may leave
    this machine.
    """
    page, wrong = browser.new_page(viewport={"width": 1280, "height": 720}), []
    page.on(
        "console",
        lambda message: (
            message.type in ("error", "warning") and wrong.append(message.text)
        ),
    )
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("requestfailed", lambda request: wrong.append(f"failed: {request.url}"))
    page.on(
        "response",
        lambda answer: (
            answer.status >= 400 and wrong.append(f"{answer.status}: {answer.url}")
        ),
    )

    def outside(url):
        return not url.startswith((server, "data:", "blob:"))

    page.on(
        "request",
        lambda request: outside(request.url) and wrong.append(f"leaves: {request.url}"),
    )
    yield page, wrong
    page.close()


BAD_IMAGES = (
    "[...document.images].filter(i => !i.complete || !i.naturalWidth ||"
    " !i.alt.trim()).map(i => i.src.slice(0, 99))"
)
WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.mark.browser
def test_every_page_opens_in_a_browser(built, server, tab):
    page, wrong = tab
    for path in html_files(built / "site"):
        page.goto(server + str(path.relative_to(built)), wait_until="load")
        assert page.title()
        assert page.evaluate(BAD_IMAGES) == [], path.name
        for width in (1280, 390):  # a laptop, a phone
            page.set_viewport_size({"width": width, "height": 720})
            assert page.evaluate(WIDE) <= 0, (
                f"{path.name} is wider than a window of {width} pixels"
            )
        assert wrong == [], path.name


FORMULAS = """[...document.querySelectorAll("math")].map(m => m.getBoundingClientRect())
    .filter(box => box.width < 3 || box.height < 5).length"""


@pytest.mark.browser
def test_a_page_of_make_run_shows_all_without_a_network(executed, server, tab):
    page, wrong = tab
    for path in html_files(executed):
        page.goto(server + str(path.relative_to(executed.parent)), wait_until="load")
        assert page.evaluate(BAD_IMAGES) == [], path.name
        assert page.evaluate(FORMULAS) == 0
        assert wrong == [], path.name
    # and whatever an output asks for, the page's own policy refuses it
    page.evaluate("const i = new Image(); i.src = 'http://pictures.example/a.png'")
    assert until(lambda: page.evaluate("1") and any("Policy" in w for w in wrong))


@pytest.mark.browser
def test_the_watch_sees_what_is_wrong(server, tab):
    """A missing file, a picture from elsewhere without a text, an error: each must be
    noticed by the tests here.
    """
    page, wrong = tab
    page.goto(f"{server}site/index.html")
    page.set_content(
        f"""<img src="http://pictures.example/a.png"><link rel="stylesheet" href="{server}site/missing.css">
        <script>setTimeout(() => {{ throw new Error("stopped") }}, 0)</script>"""
    )
    page.wait_for_timeout(500)
    assert {
        "leaves: http://pictures.example/a.png",
        "failed: http://pictures.example/a.png",
    } <= set(wrong)
    assert {f"404: {server}site/missing.css", "stopped"} <= set(wrong)
    assert page.evaluate(BAD_IMAGES) == ["http://pictures.example/a.png"]


@pytest.mark.browser
def test_search_finds_a_word(server, tab):
    page, wrong = tab
    page.goto(f"{server}site/index.html")
    page.locator(".sidebar-search").fill("watermark")
    page.locator(".sidebar-search").press("Enter")
    found = page.locator("#search-results li a")
    found.first.wait_for(timeout=10_000)
    page.wait_for_function(
        "document.querySelector('#search-results p')?.textContent.includes('found')"
    )
    assert {"Glossary", "Predict while it happens with Kafka, Spark and Ignite"} <= set(
        found.all_inner_texts()
    )
    assert wrong == []


@pytest.mark.browser
def test_a_solution_opens_when_it_is_asked_for(server, tab):
    page, wrong = tab
    page.goto(f"{server}site/notebooks/{STEMS[0]}.html")
    solution = page.locator("details.hide").first
    assert not solution.locator(".highlight").first.is_visible()
    solution.locator("summary").click()
    assert solution.locator(".highlight").first.is_visible()
    assert wrong == []


@pytest.mark.browser
@pytest.mark.parametrize("stem", STEMS)
def test_a_deck_opens_and_its_slides_fit(server, tab, stem):
    page, wrong = tab
    page.goto(f"{server}slides/{stem}.html")
    page.wait_for_function("window.Reveal && Reveal.isReady()")
    tall = page.evaluate(
        """() => Reveal.getSlides().map(slide => {
            Reveal.slide(...Object.values(Reveal.getIndices(slide)).slice(0, 2));
            return [slide.innerText.slice(0, 40), slide.scrollHeight - slide.clientHeight];
        }).filter(([_, hidden]) => hidden > HIDDEN)""".replace("HIDDEN", str(HIDDEN))
    )
    assert tall == []
    assert page.evaluate(BAD_IMAGES) == []
    assert wrong == []
