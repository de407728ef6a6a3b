"""The site: lessons with their stored outputs, glossary and documents as pages, built
without running anything.
"""

import html
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

from helpers import errors, files, settings
from tools import learner  # beside this file
from tools.lessons import notebooks

DOCS = settings.ROOT / "docs"
TERM = re.compile(r"^(?! )(?!`{3}|:)(\S.*)\n(?=  \S)", re.M)
LOCAL_LINK = re.compile(r"\[([^]]*)\]\(([^)#:]+)(#[^)]*)?\)")


def documents() -> list[Path]:
    """The Markdown files that become pages, README.md first."""
    readme = settings.ROOT / "README.md"
    others = {*settings.ROOT.glob("*.md"), *settings.ROOT.glob("[!.]*/README.md")} - {
        readme
    }
    return [
        readme,
        *sorted(page for page in others if settings.build_dir() not in page.parents),
    ]


def build(target: Path) -> int:
    """Build the site into a folder; warnings are errors. The exit status of Sphinx."""
    source = settings.build_dir() / "site-source"
    stage(source)
    shutil.rmtree(target, ignore_errors=True)  # so that no page of yesterday's stays
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-b",
        "html",
        "-c",
        str(DOCS),
    ]
    done = subprocess.run(
        [*command, "-d", str(source.parent / "site-cache"), str(source), str(target)]
    )
    return done.returncode


def stage(source: Path) -> None:
    """Lay out what Sphinx reads: the repository's own layout, so that links between
    files keep working.
    """
    shutil.rmtree(source, ignore_errors=True)
    for lesson in notebooks():
        files.write_text(
            source / "notebooks" / lesson.name, nbformat.writes(page_of(lesson))
        )
        _copy(lesson, source / "downloads" / "notebooks" / lesson.name)
        files.write_text(
            source / "downloads" / "learner" / lesson.name, learner.copy(lesson)
        )
    pages = documents()
    for page in pages[1:]:
        files.write_text(source / page.relative_to(settings.ROOT), linked(page, source))
    files.write_text(source / "index.md", front(linked(pages[0], source), pages[1:]))
    files.write_text(source / "docs" / "glossary.md", glossary())


def linked(page: Path, source: Path) -> str:
    """A document whose local links work in the site: files that are no pages are laid
    beside it, to be downloaded.
    """
    text, pages = page.read_text(encoding="utf-8"), {*documents(), *notebooks()}
    readme = settings.ROOT / "README.md"
    for words, link, anchor in LOCAL_LINK.findall(text):
        target = (page.parent / link).resolve()
        if target.is_dir():  # a site has pages and files only
            text = text.replace(f"[{words}]({link}{anchor})", words)
        elif target == readme:
            instead = os.path.relpath(settings.ROOT / "index.md", page.parent)
            text = text.replace(f"]({link}{anchor})", f"]({instead}{anchor})")
        elif target.is_file() and target not in pages:
            _copy(target, source / target.relative_to(settings.ROOT))
    return text


def front(readme: str, others: list[Path]) -> str:
    """The README as the first page, with the sidebar's table of contents."""
    lessons = [
        f"{lesson.stem[:2]} {_title(lesson)} <notebooks/{lesson.stem}>"
        for lesson in notebooks()
    ]
    beside = [
        "docs/glossary",
        *(str(page.relative_to(settings.ROOT).with_suffix("")) for page in others),
    ]
    trees = [
        "\n".join(
            ["```{toctree}", ":hidden:", f":caption: {title}", "", *entries, "```"]
        )
        for title, entries in (("Lessons", lessons), ("Beside the lessons", beside))
    ]
    return "\n".join([readme, *trees])


def page_of(lesson: Path) -> nbformat.NotebookNode:
    """A lesson as MyST-NB is to read it: outputs of known types only, solutions
    collapsed, files to download.
    """
    notebook = nbformat.read(lesson, as_version=4)
    for cell in notebook.cells:
        if "solution" in cell.metadata.get("tags", []):
            cell.metadata["tags"].append("hide-input")
        for output in cell.get("outputs", []):
            for mime in [
                mime
                for mime in output.get("data", {})
                if mime.startswith("application/vnd.workshop")
            ]:
                del output.data[mime]  # its plain text stays
            if "image/png" in output.get("data", {}):
                # MyST-NB would leave the alternative text out
                output.data = {"text/html": figure(output)}
    files = f"{{download}}`full lesson <../downloads/notebooks/{lesson.name}>`"
    copy = (
        "{download}`your copy, without solutions"
        f" <../downloads/learner/{lesson.name}>`"
    )
    note = (
        f"Download: {files} · {copy}. They run in a checkout of the workshop, in"
        " `notebooks/` and `learner/`."
    )
    notebook.cells.insert(1, nbformat.v4.new_markdown_cell(note, id="downloads"))
    notebook.metadata["language_info"] = {
        "name": "python",
        "pygments_lexer": "ipython3",
    }
    return notebook


def glossary() -> str:
    """The glossary, with links to the lessons that use a term."""
    prose = {lesson: _prose(lesson) for lesson in notebooks()}

    def with_lessons(entry: re.Match) -> str:
        links = [
            f"[{lesson.stem[:2]}](../notebooks/{lesson.name})"
            for lesson in uses(entry[1], prose)
        ]
        return (
            f"{entry[0].rstrip()} {'Lesson' if len(links) == 1 else 'Lessons'}"
            f" {', '.join(links)}.\n"
        )

    return re.sub(
        TERM.pattern + r"(?:  .+\n?)+",
        with_lessons,
        (DOCS / "glossary.md").read_text(),
        flags=re.M,
    )


def uses(term: str, prose: dict[Path, str]) -> list[Path]:
    """The lessons whose prose has a term of the glossary; what stands in brackets is
    left aside.
    """
    word = re.sub(r" \(.*\)", "", term).casefold()
    return [
        lesson
        for lesson, text in prose.items()
        if re.search(rf"\b{re.escape(word)}", text)
    ]


def figure(output: nbformat.NotebookNode) -> str:
    """A stored figure as HTML, with the alternative text that plots.show gave it."""
    alt = html.escape(output.metadata["image/png"]["alt"])
    return (
        f'<img alt="{alt}"'
        f' src="data:image/png;base64,{"".join(output.data["image/png"].split())}">'
    )


def _title(lesson: Path) -> str:
    first = nbformat.read(lesson, as_version=4).cells[0].source
    return first.splitlines()[0].removeprefix("# ")


def _prose(lesson: Path) -> str:
    cells = nbformat.read(lesson, as_version=4).cells
    return " ".join(
        " ".join(cell.source.split()) for cell in cells if cell.cell_type == "markdown"
    ).casefold()


def _copy(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)


def main() -> int:
    target = settings.build_dir() / "site"
    status = build(target)
    if status == 0:
        print(
            f"{len(list(target.rglob('*.html')))} pages. Open {target / 'index.html'}"
        )
    return status


if __name__ == "__main__":
    errors.run(main)
