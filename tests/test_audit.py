"""`make audit`: what is accepted has a reason and a locked package, and neither a find
nor a silence goes unsaid.
"""

import re
import subprocess
import sys

import pytest

from helpers import settings
from tools import audit

pytestmark = pytest.mark.security
FOUND = {
    "id": "PYSEC-1",
    "aliases": ["CVE-1"],
    "fix_versions": ["2"],
    "description": "",
}
REPORT = [
    {
        "dependencies": [
            {"name": "old", "version": "1", "vulns": [FOUND]},
            {"name": "b", "version": "1", "vulns": []},
        ]
    }
]
KNOWN = [{"package": "old", "id": "CVE-1"}]


@pytest.mark.parametrize("entry", audit.accepted(), ids=lambda entry: entry["id"])
def test_what_is_accepted_is_locked_and_has_a_reason(entry):
    lock = (settings.ROOT / "requirements.txt").read_text()
    assert set(entry) == {"package", "id", "what", "held_by", "reason"}
    assert re.fullmatch(r"(CVE|GHSA|PYSEC)-[\w-]+", entry["id"])
    for name in (entry["package"], entry["held_by"]):
        assert re.search(rf"^{re.escape(name)}==", lock, flags=re.M), name
    assert min(len(entry["what"]), len(entry["reason"])) > 40


def test_nothing_is_accepted_twice():
    ids = [(entry["package"], entry["id"]) for entry in audit.accepted()]
    assert len(ids) == len(set(ids))


def test_every_lock_is_audited():
    assert {file.name for file in settings.ROOT.glob("requirements*.txt")} == set(
        audit.LOCKS
    )


def test_what_is_found_is_said_unless_it_is_accepted():
    assert audit.judged(REPORT, KNOWN) == []
    assert audit.judged(REPORT, []) == ["old 1: PYSEC-1, mended in 2"]
    assert audit.judged(REPORT, [*KNOWN, {"package": "b", "id": "CVE-2"}]) == [
        "b: CVE-2 is no longer reported: take it out"
    ]


@pytest.mark.badinput
def test_a_package_that_could_not_be_looked_up_is_no_all_clear():
    silent = {"dependencies": [{"name": "onnx", "skip_reason": "Dependency not found"}]}
    with pytest.raises(
        audit.AuditError, match=r"1 of 3 packages could not be looked up.*onnx"
    ):
        audit.judged([*REPORT, silent], KNOWN)


@pytest.mark.badinput
def test_without_the_tool_it_says_so():
    command = [
        sys.executable,
        "-m",
        "tools.audit",
        "/nowhere/pip-audit",
        "requirements-uv.txt",
    ]
    done = subprocess.run(
        command, cwd=settings.ROOT, env={}, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        "requirements-uv.txt could not be audited: check the network and run this"
        " again." in done.stderr
    )
