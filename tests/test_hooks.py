"""The checks at each commit: valid, with nothing to download, and able to fail."""

import os
import shutil
import subprocess
import sys

import pytest
import yaml

from helpers import settings

FILE = settings.ROOT / ".pre-commit-config.yaml"
HOOKS = {
    hook["id"]: hook
    for repository in yaml.safe_load(FILE.read_text())["repos"]
    for hook in repository["hooks"]
}


def pre_commit(*arguments, cwd=settings.ROOT, **environment):
    return subprocess.run(
        [sys.executable, "-m", "pre_commit", *arguments],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_configuration_is_valid_and_a_wrong_one_is_not(tmp_path):
    done = pre_commit("validate-config", str(FILE))
    assert done.returncode == 0, done.stdout
    wrong = tmp_path / FILE.name
    wrong.write_text(FILE.read_text().replace("entry:", "program:"))
    assert pre_commit("validate-config", str(wrong)).returncode == 1


def test_every_hook_is_a_program_of_this_environment():
    repositories = yaml.safe_load(FILE.read_text())["repos"]
    assert {repository["repo"] for repository in repositories} == {"local"}
    programs = {hook["entry"].split()[0] for hook in HOOKS.values()}
    assert [
        name
        for name in programs - {"sh"}
        if not (
            name.startswith(".venv/bin/") and os.access(settings.ROOT / name, os.X_OK)
        )
    ] == []


def test_make_lint_has_the_same_programs():
    makefile = (settings.ROOT / "Makefile").read_text()
    recipe = makefile.split("\nlint:")[1].split("\n\n")[0]
    for name in ("ruff-check", "ruff-format", "mypy"):
        command = HOOKS[name]["entry"].removeprefix(".venv/bin/").split(" --")[0]
        assert f"$(VENV)/{command}" in recipe


@pytest.mark.parametrize(("size", "status"), [(1_000_000, 0), (1_100_000, 1)])
def test_a_large_file_is_not_committed(tmp_path, size, status):
    repository = tmp_path / "a repository"
    (repository / "notebooks").mkdir(parents=True)
    shutil.copy(FILE, repository)
    (repository / "notebooks" / "my figure.bin").write_bytes(bytes(size))
    for command in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", *command], cwd=repository, check=True)
    home = {"PRE_COMMIT_HOME": str(tmp_path / "home")}
    done = pre_commit("run", "large-files", cwd=repository, **home)
    assert done.returncode == status, done.stdout
    assert ("my figure.bin" in done.stdout) == bool(status)
