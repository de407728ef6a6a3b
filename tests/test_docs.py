"""The pages beside the lessons tell the truth: files exist, lessons are listed,
pictures are the lessons' own.
"""

import ast
import re

import pytest

from helpers import data, settings
from tools import lessons, pictures, timing

PAGES = [
    settings.ROOT / name
    for name in ("README.md", "CONTRIBUTING.md", "data/README.md", "docker/README.md")
]
PAGES += [
    settings.ROOT / name for name in ("INSTRUCTOR.md", "ARCHITECTURE.md", "SECURITY.md")
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_local_links_lead_somewhere(page):
    links = [
        link
        for link in re.findall(r"\]\(([^)#]+)", page.read_text())
        if "://" not in link
    ]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_lesson_is_in_the_readme():
    text = PAGES[0].read_text()
    assert [
        lesson.name
        for lesson in lessons.notebooks()
        if f"notebooks/{lesson.name}" not in text
    ] == []
    listed = re.findall(r"notebooks/(\w+\.ipynb)", text)
    assert sorted(listed) == [lesson.name for lesson in lessons.notebooks()]


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_pictures_are_those_of_the_stored_outputs(name):
    shown = (settings.ROOT / "docs" / "images" / f"{name}.png").read_bytes()
    assert shown == pictures.figure(*pictures.PICTURES[name])


@pytest.mark.parametrize("name", data.TABLES)
def test_the_data_card_has_the_right_counts(name):
    card, table = PAGES[2].read_text(), data.table(name)
    assert f"| {name}.parquet | {len(table):,} |" in card
    missing = {f"{count:,}" for count in table.isna().sum() if count}
    assert [
        count
        for count in missing
        if not re.search(rf"(?<![\d,]){count}(?![\d,])", card)
    ] == []


def test_the_settings_that_the_readme_names_exist():
    source = (settings.ROOT / "helpers" / "settings.py").read_text()
    named = set(re.findall(r"`(WORKSHOP_\w+|SPARK_HOME)`", PAGES[0].read_text()))
    assert named
    assert all(f'"{name}"' in source for name in named)


def agendas():
    text = (settings.ROOT / "INSTRUCTOR.md").read_text()
    tables = re.findall(r"\| part \| minutes \|\n\|[-|]+\|\n((?:\|.*\n)+)", text)
    return [
        re.findall(r"\| \**([^|*]+?)\** \| \**(\d+)\** \|", rows) for rows in tables
    ]


@pytest.mark.parametrize("agenda", agendas(), ids=len)
def test_agendas_add_up_and_give_lessons_their_minutes(agenda):
    parts = {}
    for name, minutes in agenda:
        parts[name] = parts.get(name, 0) + int(minutes)
    assert parts.pop("together") == sum(parts.values())
    planned = {
        lesson.stem: lesson for lesson in lessons.notebooks() if lesson.stem in parts
    }
    assert planned
    assert {
        name: timing.minutes(**timing.effort(file)) for name, file in planned.items()
    } == {name: parts[name] for name in planned}


def test_the_messages_that_the_instructor_looks_up_exist():
    text = (
        (settings.ROOT / "INSTRUCTOR.md")
        .read_text()
        .split("## When something fails")[1]
    )
    messages = re.findall(r"^\| `([^`]+)` \|", text, flags=re.M)
    sources = [
        file.read_text()
        for folder in ("helpers", "tools")
        for file in (settings.ROOT / folder).rglob("*.py")
    ]
    code = re.sub(r'"\s*f?"', "", "\n".join(sources))
    assert len(messages) > 10
    assert [message for message in messages if message not in code] == []


def defined(module):
    """Names at the top of a module, without importing it."""
    names = set()
    for node in ast.parse(module.read_text()).body:
        targets = [
            *getattr(node, "targets", []),
            *([node.target] if isinstance(node, ast.AnnAssign) else []),
        ]
        names |= {getattr(node, "name", None)} | {
            getattr(target, "id", None) for target in targets
        }
    return names


def exists(name):
    """Whether a dotted name is a package, a module, or what one has at its top."""
    path = settings.ROOT.joinpath(*name.split("."))
    module = path.parent.with_suffix(".py")
    return (
        path.is_dir()
        or path.with_suffix(".py").exists()
        or (module.exists() and path.name in defined(module))
    )


@pytest.mark.parametrize("name", ["ARCHITECTURE.md", "INSTRUCTOR.md"])
def test_the_files_and_functions_that_a_document_names_exist(name):
    text = (settings.ROOT / name).read_text()
    wrong = []
    for name in re.findall(r"\b(?:helpers|service|tools)(?:\.\w+)+", text):
        if not exists(name):
            wrong.append(name)
    folders = "data|docker|docs|helpers|jvm|k8s|tools|service|tests"
    files = re.findall(
        rf"`((?:(?:{folders}|\.devcontainer)/[\w./-]*|[\w-]+\.toml|Makefile))`", text
    )
    wrong += [file for file in files if not (settings.ROOT / file).exists()]
    assert wrong == []
    made = set(
        re.findall(r"^([a-z-]+):", (settings.ROOT / "Makefile").read_text(), flags=re.M)
    )
    called = set(re.findall(r"(?:`|^ +|&& )make ([a-z-]+)", text, flags=re.M))
    assert called
    assert called - made == set()


def test_a_missing_function_would_be_noticed():
    assert "design_matrix" in defined(settings.ROOT / "helpers" / "data.py")
    assert "no_such_function" not in defined(settings.ROOT / "helpers" / "data.py")
    names = ("helpers.data", "helpers.kafka.broker.broker", "helpers.spark")
    assert all(map(exists, names))
    assert not any(map(exists, ("helpers.kafka.read", "helpers.nothing", "tools.x.y")))


def test_every_promise_of_security_names_tests_that_exist():
    named = re.findall(r"`(test_\w+)`", PAGES[-1].read_text())
    assert len(named) > 20
    code = [file.read_text() for file in (settings.ROOT / "tests").glob("test_*.py")]
    there = set(re.findall(r"def (test_\w+)", "\n".join(code)))
    assert sorted(set(named) - there) == []
