"""Set-up in a folder whose name has an apostrophe, a space and an umlaut, in a locale
without them. The lessons are executed there, too: tests/conftest.py.
"""

import subprocess

import pytest
from conftest import odd_environment, odd_project

from helpers.java import class_archives


@pytest.fixture(scope="module")
def project():
    return odd_project()


def said(*command, cwd):
    return subprocess.run(
        command,
        cwd=cwd,
        env=odd_environment(),
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_set_up_has_made_every_archive_of_classes(project):
    made = (project / "build" / "classes").glob("*.jsa")
    assert {file.name.partition("-")[0] for file in made} == set(class_archives.ENGINES)


def test_no_engine_has_written_into_a_folder_of_a_similar_name(project):
    """As Java does where it reads or writes the name in another encoding."""
    assert [folder.name for folder in project.parent.iterdir()] == [project.name]


def test_what_is_imported_lies_there(project):
    where = "from helpers import settings; print(settings.ROOT)"
    python = project / ".venv" / "bin" / "python"
    assert said(python, "-c", where, cwd=project.parent) == f"{project}\n"


def test_a_second_set_up_by_a_python_from_there_does_nothing(project):
    python = project / ".venv" / "bin" / "python"
    assert said("make", "setup", f"PYTHON={python}", cwd=project) == ""


def test_a_program_of_the_environment_starts_there(project):
    jupyter = project / ".venv" / "bin" / "jupyter"
    assert "IPython" in said(jupyter, "--version", cwd=project)
