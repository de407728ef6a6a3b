"""`make audit` and `make sbom`: every package and jar is listed and looked up, what is
accepted has a reason, and neither a find nor a silence goes unsaid.
"""

import http.server
import json
import re
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from helpers import files, settings
from helpers.java import artefacts
from tools import audit, sbom
from tools.sbom import Part

pytestmark = pytest.mark.security
OLD = Part("PyPI", "old_one", "1.0", ("0" * 64,), "requirements.txt")
JAR = Part("Maven", "log4j:log4j", "1.2.17", ("1" * 64,), "jvm/mahout")
FINE = Part("PyPI", "fine", "2.0", ("2" * 64,), "requirements.txt")


def advisory(one, ecosystem, name, *events, aliases=(), **more):
    """An advisory in OSV's format about the versions between events."""
    ranges = [{"type": "ECOSYSTEM", "events": list(events)}]
    package = {"ecosystem": ecosystem, "name": name}
    return {
        "id": one,
        "aliases": list(aliases),
        "modified": "2026-01-02T00:00:00Z",
        "summary": f"What {one} is",
        "affected": [{"package": package, "ranges": ranges} | more],
    }


ABOUT_OLD = advisory(
    "PYSEC-1",
    "PyPI",
    "old-one",
    {"introduced": "0"},
    {"fixed": "1.1"},
    aliases=["CVE-1"],
)
ABOUT_JAR = advisory(
    "GHSA-2", "Maven", "log4j:log4j", {"introduced": "1.2"}, {"last_affected": "1.2.17"}
)


@pytest.fixture
def folder(tmp_path):
    """A folder of advisories, two of them about our parts."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.json").write_text(json.dumps(ABOUT_OLD))
    (tmp_path / "two.yaml").write_text(json.dumps(ABOUT_JAR))  # JSON is YAML
    gone = ABOUT_OLD | {"id": "PYSEC-9", "withdrawn": "2026-01-03T00:00:00Z"}
    (tmp_path / "gone.json").write_text(json.dumps(gone))
    (tmp_path / "package.json").write_text('{"name": "no advisory"}')
    return tmp_path


# ---- what is accepted


@pytest.mark.parametrize("entry", audit.accepted(), ids=lambda entry: entry["id"])
def test_what_is_accepted_is_locked_and_has_a_reason(entry):
    assert set(entry) == {"package", "id", "what", "held_by", "reason"}
    assert re.fullmatch(r"(CVE|GHSA|PYSEC)-[\w-]+", entry["id"])
    lock = (settings.ROOT / "requirements.txt").read_text()
    if ":" in entry["package"]:
        ours = {part.name: part.of for part in sbom.maven_jars()}
        assert f"jvm/{entry['held_by']}" in ours[entry["package"]].split()
    else:
        for name in (entry["package"], entry["held_by"]):
            assert re.search(rf"^{re.escape(name)}==", lock, flags=re.M), name
    assert min(len(entry["what"]), len(entry["reason"])) > 40


def test_nothing_is_accepted_twice():
    ids = [(entry["package"], entry["id"]) for entry in audit.accepted()]
    assert len(ids) == len(set(ids))


# ---- what is listed


def test_every_lock_and_every_jar_is_listed():
    listed = sbom.parts()
    assert {file.name for file in settings.ROOT.glob("requirements*.txt")} == set(
        sbom.LOCKS
    )
    pins = re.findall(
        r"^([\w.-]+)==",
        "\n".join((settings.ROOT / n).read_text() for n in sbom.LOCKS),
        re.M,
    )
    assert {part.name for part in listed if part.ecosystem == "PyPI"} == set(pins)
    sums = {sha for part in listed for sha in part.sums}
    for module in artefacts.modules():
        wanted = files.read_sums(settings.JVM / module / "SHA256SUMS")
        assert {
            sha for name, sha in wanted.items() if not name.startswith("relocated-")
        } <= sums
    by_pyspark = [part for part in listed if "pyspark" in part.of.split()]
    assert len(by_pyspark) > 200
    assert ("org.apache.spark:spark-core_2.13", "4.2.0") in {
        (part.name, part.version) for part in by_pyspark
    }


def test_the_sbom_is_valid_and_has_a_purl_and_a_sum_for_each(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKSHOP_BUILD", str(tmp_path))
    sbom.main()
    text = (tmp_path / "sbom.cdx.json").read_text()
    check = JsonStrictValidator(SchemaVersion.V1_6)
    assert check.validate_str(text) is None
    assert check.validate_str(text.replace('"purl"', '"pearl"')) is not None
    listed = json.loads(text)
    assert (listed["bomFormat"], listed["specVersion"]) == ("CycloneDX", "1.6")
    assert len(listed["components"]) == len(sbom.parts())
    for one in listed["components"]:
        assert re.match(r"pkg:(pypi|maven)/.+@.+", one["purl"])
        assert one["hashes"]
        assert all(
            re.fullmatch("[0-9a-f]{64}", sha["content"]) for sha in one["hashes"]
        )


# ---- what is looked up


@pytest.mark.parametrize(
    ("ecosystem", "version", "events", "hit"),
    [
        ("PyPI", "1.10", [{"introduced": "0"}, {"fixed": "1.9"}], False),
        ("PyPI", "1.9rc1", [{"introduced": "0"}, {"fixed": "1.9"}], True),
        ("PyPI", "2.0", [{"introduced": "2.1"}, {"fixed": "3"}], False),
        ("PyPI", "2.5", [{"introduced": "2.1"}, {"last_affected": "2.5"}], True),
        ("PyPI", "2.6", [{"introduced": "2.1"}, {"last_affected": "2.5"}], False),
        ("PyPI", "9", [{"introduced": "2.1"}], True),
        ("Maven", "1.2.17", [{"introduced": "1.2"}, {"last_affected": "1.2.17"}], True),
        ("Maven", "2.0-beta9", [{"introduced": "2.0"}, {"fixed": "3"}], False),
        (
            "Maven",
            "33.4.0-jre",
            [{"introduced": "0"}, {"fixed": "32.0.0-android"}],
            False,
        ),
        (
            "Maven",
            "4.1.9.Final",
            [{"introduced": "4.1.0"}, {"fixed": "4.1.10.Final"}],
            True,
        ),
    ],
)
def test_versions_are_compared_as_their_registry_orders_them(
    ecosystem, version, events, hit
):
    part = Part(ecosystem, "g:a" if ecosystem == "Maven" else "a", version, (), "")
    one = {"ranges": [{"type": "ECOSYSTEM", "events": events}]}
    assert audit.affects(one, part) is hit


def test_a_range_that_opens_again_and_a_listed_version():
    events = [
        {"introduced": "0"},
        {"fixed": "1.5"},
        {"introduced": "2.0"},
        {"fixed": "2.3"},
    ]
    one = {"ranges": [{"type": "ECOSYSTEM", "events": events}], "versions": ["7.7"]}
    hits = [
        version
        for version in ("1.4", "1.5", "1.9", "2.0", "2.2.9", "2.3", "7.7")
        if audit.affects(one, Part("PyPI", "a", version, (), ""))
    ]
    assert hits == ["1.4", "2.0", "2.2.9", "7.7"]


def test_a_folder_of_advisories_is_read(folder):
    answer = audit.read(folder, [OLD, JAR, FINE])
    assert answer.found == {OLD: [ABOUT_OLD], JAR: [ABOUT_JAR]}
    assert answer.ecosystems == {"PyPI", "Maven"}
    assert answer.source.startswith("2 advisories in ")
    assert answer.source.endswith("the newest of 2026-01-02")
    wrong = audit.judged(answer, [])
    assert wrong == [
        "log4j:log4j 1.2.17 (jvm/mahout): GHSA-2: What GHSA-2 is",
        "old_one 1.0 (requirements.txt): CVE-1, PYSEC-1: What PYSEC-1 is",
    ]


def test_what_is_accepted_is_not_said_and_what_is_over_is(folder):
    known = [
        {"package": "old-one", "id": "CVE-1"},
        {"package": "log4j:log4j", "id": "GHSA-2"},
    ]
    answer = audit.read(folder, [OLD, JAR, FINE])
    assert audit.judged(answer, known) == []
    mended = audit.read(folder, [JAR, FINE])
    assert audit.judged(mended, known) == [
        "old-one: CVE-1 is no longer reported: take it out"
    ]
    # a source that does not have an advisory cannot say that it is over
    unknown = [*known, {"package": "fine", "id": "CVE-7"}]
    assert audit.judged(answer, unknown) == []
    answer.known = None
    assert audit.judged(answer, unknown) == [
        "fine: CVE-7 is no longer reported: take it out"
    ]


def run_audit(*arguments):
    command = [sys.executable, "-m", "tools.audit", *map(str, arguments)]
    return subprocess.run(
        command, cwd=settings.ROOT, capture_output=True, text=True, timeout=120
    )


@pytest.mark.badinput
def test_what_was_not_looked_up_is_no_all_clear(folder):
    """A source that speaks of Python alone: the jars are named as not looked up."""
    (folder / "two.yaml").unlink()
    done = run_audit(folder)
    assert done.returncode == 2
    assert re.search(
        r"^\d+ of \d+ packages and jars looked up in 1 adv", done.stdout, re.M
    )
    assert re.search(
        r"^\d+ parts were not looked up, which is no all-clear", done.stderr
    )


def test_a_find_among_our_own_jars_fails_the_audit(folder):
    done = run_audit(folder)
    assert done.returncode == 1
    assert "log4j:log4j 1.2.17 (jvm/mahout): GHSA-2: What GHSA-2 is" in done.stdout


@pytest.mark.badinput
@pytest.mark.parametrize(
    "content", [None, "{}", "{"], ids=["none", "no advisory", "bad"]
)
def test_a_folder_that_is_none(tmp_path, content):
    if content:
        (tmp_path / "a.json").write_text(content)
    given = tmp_path if content else tmp_path / "nowhere"
    with pytest.raises(audit.AuditError, match=r"no folder|no advisory|cannot be read"):
        audit.read(given, [OLD])


# ---- OSV's service: its documented protocol, spoken by a server on loopback


@contextmanager
def osv(answers):
    """A server that speaks OSV's protocol; `answers` are pages of results."""
    asked = []

    class Service(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked.append((self.path, json.loads(body)))
            self._say({"results": answers[len(asked) - 1]})

        def do_GET(self):
            about = {"PYSEC-1": ABOUT_OLD, "GHSA-2": ABOUT_JAR}
            self._say(about[self.path.rpartition("/")[2]])

        def _say(self, what):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(what).encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
        server.shutdown()


def test_osv_is_asked_by_package_url_page_after_page():
    pages = [
        [{"vulns": [{"id": "PYSEC-1"}]}, {"next_page_token": "more"}, {}],
        [{"vulns": [{"id": "GHSA-2"}]}],
    ]
    with osv(pages) as (address, asked):
        answer = audit.asked([OLD, JAR, FINE], address)
    assert answer.found == {OLD: [ABOUT_OLD], JAR: [ABOUT_JAR], FINE: []}
    jar = {"package": {"purl": "pkg:maven/log4j/log4j@1.2.17"}}
    assert asked == [
        (
            "/v1/querybatch",
            {
                "queries": [
                    {"package": {"purl": "pkg:pypi/old-one@1.0"}},
                    jar,
                    {"package": {"purl": "pkg:pypi/fine@2.0"}},
                ]
            },
        ),
        ("/v1/querybatch", {"queries": [jar | {"page_token": "more"}]}),
    ]
    assert len(audit.judged(answer, [])) == 2


@pytest.mark.badinput
def test_osv_that_answers_in_part_or_not_at_all():
    with (
        osv([[{}]]) as (address, _),
        pytest.raises(
            audit.AuditError, match="answered 1 of 2 questions, so nothing is known"
        ),
    ):
        audit.asked([OLD, JAR], address)
    with pytest.raises(audit.AuditError, match=r"did not answer .*ADVISORIES=folder"):
        audit.asked([OLD], "http://127.0.0.1:9")
