"""Slides: a reveal.js deck of each lesson, cut by its headings and by what fits on a
screen.
"""

import math
import re
import shutil
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from string import Template

import nbformat
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

from helpers import errors, settings
from tools import mathml  # beside this file, as is pages
from tools.lessons import notebooks
from tools.pages import figure

LINES = 17  # of prose on a slide; everything else is measured in these
WIDTH = 88  # characters of prose in a line
CODE = 0.62  # a line of code is lower
LONG = 22  # lines of code that are set in smaller type
MOST = 34  # lines of code that fit, in that type
ROWS = 12  # a longer table is no slide
COLUMNS = 10
HEADING = re.compile(r"(#{1,3}) +(.+)")
CLASS = "highlight"
# no theme: ours needs no fonts
REVEAL = ("dist/reset.css", "dist/reveal.css", "dist/reveal.js", "LICENSE")


@dataclass
class Slide:
    """What is seen at once: a heading's level and text, and blocks of HTML with their
    height in lines.
    """

    level: int
    title: str
    blocks: list[str] = field(default_factory=list)
    height: float = 0

    def html(self) -> str:
        tag = "h1" if self.level == 1 else "h2"
        heading = f"<{tag}>{self.title}</{tag}>"
        return f"<section>\n{heading}\n{''.join(self.blocks)}</section>\n"


class Deck:
    """The slides of a lesson: a level-2 heading begins a column, a level-3 heading a
    slide below.
    """

    def __init__(self) -> None:
        self.slides: list[Slide] = []
        self.markdown = MarkdownIt("commonmark", {"highlight": _code}).enable("table")
        self.markdown.use(
            dollarmath_plugin,
            renderer=lambda tex, how: mathml.html(tex, how["display_mode"]),
        )

    def heading(self, level: int, text: str) -> None:
        self.slides.append(Slide(level, self.markdown.renderInline(text)))

    def add(self, block: str, height: float) -> None:
        """Put a block on the slide, or on a new one below with the same heading if it
        is full.
        """
        slide = self.slides[-1]
        if slide.blocks and slide.height + height > LINES:
            slide = Slide(3, slide.title)
            self.slides.append(slide)
        slide.blocks.append(block + "\n")
        slide.height += height

    def prose(self, text: str) -> None:
        for block in _blocks(text):
            heading = HEADING.fullmatch(block)
            if heading:
                self.heading(len(heading[1]), heading[2])
            else:
                self.add(self.markdown.render(block), _height(block))

    def code(self, cell: nbformat.NotebookNode) -> None:
        """A code cell, then what of its outputs fits on a slide: figures and short
        tables.

        The code that draws a figure stays out: the figure says more.
        """
        if not any("image/png" in output.get("data", {}) for output in cell.outputs):
            for part in _parts(cell.source.splitlines()):
                code = _code("\n".join(part), "ipython3")
                self.add(code, CODE * (len(part) + 1.5))
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/png" in data:
                self.add(figure(output), LINES)
            elif "text/html" in data:
                table = re.search(r"<table.*?</table>", data["text/html"], re.S)
                if not table:
                    continue
                rows, headings = table[0].count("<tr"), table[0].count("<th")
                if 0 < rows <= ROWS and headings <= COLUMNS + rows:
                    self.add(table[0], rows)

    def html(self) -> str:
        columns: list[list[Slide]] = []
        for slide in self.slides:
            if slide.level < 3 or not columns:
                columns.append([])
            columns[-1].append(slide)
        shown = (
            [slide.html() for slide in column if slide.blocks or slide.level < 3]
            for column in columns
        )
        return "".join(f"<section>\n{''.join(column)}</section>\n" for column in shown)


def deck(lesson: Path) -> Deck:
    """The slides of a lesson. Solutions, their checks and the parameters stay out."""
    result = Deck()
    for cell in nbformat.read(lesson, as_version=4).cells:
        if cell.cell_type == "markdown":
            result.prose(cell.source)
        elif (
            not {"solution", "parameters"} & set(cell.metadata.get("tags", []))
            and "exercises.check(" not in cell.source
        ):
            result.code(cell)
    return result


def _blocks(text: str) -> list[str]:
    """Paragraphs, tables, headings and fenced blocks of a Markdown text; a list is cut
    into its items' groups.
    """
    blocks: list[list[str]] = [[]]
    fenced = False
    for line in text.splitlines():
        fence = line.startswith("```")
        heading = not fenced and HEADING.fullmatch(line)
        if not fenced and (heading or not line.strip() or fence):
            blocks.append([])
        if line.strip() or fenced:
            blocks[-1].append(line)
        if heading or (fence and fenced):
            blocks.append([])
        fenced ^= fence
    return ["\n".join(block) for block in blocks if block]


def _height(block: str) -> float:
    """About how many lines of prose a Markdown block takes."""
    lines = block.splitlines()
    if block.startswith("```"):
        return CODE * len(lines)
    if block.startswith("|"):
        return sum(1.2 * math.ceil(len(line) / (1.6 * WIDTH)) for line in lines)
    items = re.split(r"\n(?=[-*] |\d+\. )", block)
    return sum(math.ceil(len(item) / WIDTH) for item in items) + 0.7


def _parts(lines: list[str]) -> list[list[str]]:
    """A cell's lines, cut at the empty line nearest to the middle if they are too
    many.
    """
    if len(lines) <= MOST:
        return [lines]
    middle = len(lines) // 2
    empty = [number for number, line in enumerate(lines) if not line.strip()]
    cut = min(empty, key=lambda number: abs(number - middle), default=middle)
    return [*_parts(lines[:cut]), *_parts(lines[cut:])] if cut else [lines]


def _code(source: str, language: str, _attributes: str = "") -> str:
    lexer = get_lexer_by_name(language or "text")
    size = " long" if len(source.splitlines()) > LONG else ""
    return highlight(source, lexer, HtmlFormatter(cssclass=CLASS + size))


def build(target: Path) -> list[Path]:
    """Write a deck for each lesson, a list of them, and reveal.js beside them."""
    shutil.rmtree(target, ignore_errors=True)
    reveal = resources.files("sphinx_revealjs") / "_static" / "revealjs"
    with resources.as_file(reveal) as folder:
        (target / "reveal").mkdir(parents=True)
        for name in REVEAL:
            shutil.copy(folder / name, target / "reveal")
    docs = settings.ROOT / "docs"
    colours = HtmlFormatter(cssclass=CLASS).get_style_defs(f".{CLASS}")
    (target / "slides.css").write_text((docs / "slides.css").read_text() + colours)
    page = Template((docs / "slides.html").read_text())
    written, links = [], []
    for lesson in notebooks():
        made = deck(lesson)
        title = re.sub(r"<.*?>", "", made.slides[0].title)
        written.append(target / f"{lesson.stem}.html")
        written[-1].write_text(
            page.substitute(title=title, slides=made.html()), encoding="utf-8"
        )
        links.append(
            f'<li><a href="{lesson.stem}.html">{lesson.stem[:2]} {title}</a></li>'
        )
    first = f"<section><h2>Slides</h2><ul>{''.join(links)}</ul></section>"
    (target / "index.html").write_text(
        page.substitute(title="Slides", slides=first), encoding="utf-8"
    )
    return written


def main() -> None:
    target = settings.build_dir() / "slides"
    print(f"{len(build(target))} decks. Open {target / 'index.html'}")


if __name__ == "__main__":
    errors.run(main)
