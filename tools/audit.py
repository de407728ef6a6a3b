"""`make audit`: known vulnerabilities of every package and jar of the SBOM, less those
that docs/audit.toml accepts with a reason.

python -m tools.audit            asks OSV's service, which has PyPI's and Maven's
python -m tools.audit FOLDER     reads advisories in OSV's format (JSON or YAML), such
                                 as a clone of a public advisory database
"""

import itertools
import json
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from packaging.utils import canonicalize_name
from univers.versions import InvalidVersion, MavenVersion, PypiVersion

from helpers import errors, settings
from tools import sbom
from tools.sbom import Part

ACCEPTED = settings.ROOT / "docs" / "audit.toml"
OSV = "https://api.osv.dev/v1"  # https://google.github.io/osv.dev/post-v1-querybatch/
AT_ONCE = 500  # queries in a request; OSV takes 1,000
SECONDS = 60
ORDERS = {"PyPI": PypiVersion, "Maven": MavenVersion}
# libyaml reads thousands of files in seconds, where it is there
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class AuditError(errors.WorkshopError):
    """Nothing can be said about some of the parts; the message says why."""

    exit_status = 2  # 1 is for vulnerabilities


@dataclass
class Answer:
    """What a source of advisories says: which of them are about a part, which ones it
    knows at all (None: all there are), the ecosystems that it speaks of, and its name.
    """

    source: str
    ecosystems: set[str]
    found: dict[Part, list[dict]] = field(default_factory=dict)
    known: set[str] | None = None


def accepted() -> list[dict]:
    """The entries of docs/audit.toml."""
    return tomllib.loads(ACCEPTED.read_text())["accepted"]


# ---- OSV's service


def asked(parts: list[Part], address: str = OSV) -> Answer:
    """What OSV's service knows of the parts. Raises AuditError when it does not answer
    for all of them.
    """
    answer = Answer("osv.dev, asked now", {"PyPI", "Maven"}, {})
    full: dict[str, dict] = {}
    for start in range(0, len(parts), AT_ONCE):
        some = parts[start : start + AT_ONCE]
        for part, ids in zip(some, _batch(some, address), strict=True):
            for one in ids:
                if one not in full:
                    full[one] = _read(f"{address}/vulns/{one}")
            answer.found[part] = [full[one] for one in ids]
    return answer


def _batch(parts: list[Part], address: str) -> list[list[str]]:
    """Ids of the advisories of each part, page after page."""
    ids: list[list[str]] = [[] for _ in parts]
    open_queries: dict[int, dict] = {
        number: {"package": {"purl": str(part.url())}}
        for number, part in enumerate(parts)
    }
    while open_queries:
        numbers = list(open_queries)
        said = _read(f"{address}/querybatch", {"queries": [*open_queries.values()]})
        results = said.get("results", [])
        if len(results) != len(numbers):
            raise AuditError(
                f"{address} answered {len(results)} of {len(numbers)} questions, so"
                " nothing is known of the rest: run this again."
            )
        open_queries_next = {}
        for number, result in zip(numbers, results, strict=True):
            ids[number] += [one["id"] for one in result.get("vulns", [])]
            if result.get("next_page_token"):
                token = {"page_token": result["next_page_token"]}
                open_queries_next[number] = open_queries[number] | token
        open_queries = open_queries_next
    return ids


def _read(url: str, question: dict | None = None) -> dict:
    body = None if question is None else json.dumps(question).encode()
    request = urllib.request.Request(
        url, data=body, headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as response:
            return json.load(response)
    except (OSError, ValueError) as error:
        raise AuditError(
            f"{url} did not answer ({error}), so nothing was looked up: check the"
            " network, or name a folder of advisories: make audit ADVISORIES=folder."
        ) from None


# ---- a folder of advisories


def read(folder: Path, parts: list[Part]) -> Answer:
    """What the advisories in a folder say of the parts. Raises AuditError when there
    are none, or one cannot be read.
    """
    by_name: dict[tuple[str, str], list[Part]] = {}
    for part in parts:
        by_name.setdefault((part.ecosystem, _plain(part.name)), []).append(part)
    answer, newest, count = Answer(str(folder), set(), {}, set()), "", 0
    for advisory in _advisories(folder):
        count += 1
        newest = max(newest, str(advisory.get("modified", "")))
        assert answer.known is not None
        answer.known |= _names(advisory)
        for affected in advisory.get("affected") or []:
            package = affected.get("package") or {}
            ecosystem = package.get("ecosystem", "")
            answer.ecosystems.add(ecosystem)
            for part in by_name.get((ecosystem, _plain(package.get("name", ""))), []):
                listed = answer.found.setdefault(part, [])
                if advisory not in listed and affects(affected, part):
                    listed.append(advisory)
    if not count:
        raise AuditError(f"{folder} has no advisory in OSV's format: name another.")
    answer.source = f"{count} advisories in {folder}, the newest of {newest[:10]}"
    return answer


def affects(affected: dict, part: Part) -> bool:
    """OSV's rule: the version is listed, or lies in a range that an event opens and
    another one closes. Raises AuditError for a version that has no order.
    """
    if part.version in (affected.get("versions") or []):
        return True
    order = ORDERS[part.ecosystem]
    try:
        version = order(part.version)
        return any(
            _inside(version, one["events"], order)
            for one in affected.get("ranges") or []
            if one["type"] != "GIT"
        )
    except InvalidVersion as error:
        raise AuditError(
            f"{part.name} {part.version} cannot be compared ({error}): look at its"
            " advisories yourself, and give it a line in docs/audit.toml."
        ) from None


def _inside(version: Any, events: list[dict], order: type) -> bool:
    pairs = [next(iter(event.items())) for event in events]
    bounds = [
        (kind, None if text == "0" else order(text))
        for kind, text in pairs
        if kind in ("introduced", "fixed", "last_affected")
    ]
    started = [
        b for k, b in bounds if k == "introduced" and (b is None or b <= version)
    ]
    if not started:
        return False
    # what opens last before the version, and whether something closes after that
    opened = [one for one in started if one is not None]
    latest = max(opened) if opened else None
    for kind, bound in bounds:
        after = latest is None or bound is None or bound >= latest
        if kind == "fixed" and after and bound is not None and bound <= version:
            return False
        if kind == "last_affected" and after and bound is not None and bound < version:
            return False
    return True


def _advisories(folder: Path) -> Iterator[dict]:
    if not folder.is_dir():
        raise AuditError(f"{folder} is no folder: name one with advisories.")
    files = (folder.rglob(f"*.{kind}") for kind in ("json", "yaml", "yml"))
    for file in sorted(itertools.chain(*files)):
        try:
            text = file.read_text(encoding="utf-8")
            one = (
                json.loads(text) if file.suffix == ".json" else yaml.load(text, LOADER)
            )
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise AuditError(
                f"{file} cannot be read ({error}): get it again."
            ) from None
        if isinstance(one, dict) and {"id", "affected"} <= one.keys():
            yield from [] if one.get("withdrawn") else [one]


def _plain(name: str) -> str:
    return name if ":" in name else canonicalize_name(name)


def _names(advisory: dict) -> set[str]:
    return {advisory["id"], *(advisory.get("aliases") or [])}


# ---- what it means


def judged(answer: Answer, known: list[dict]) -> list[str]:
    """What is wrong, a line each: vulnerabilities that are not accepted, and accepted
    ones that the source has and that are no longer true.
    """
    expected = {(entry["package"], entry["id"]) for entry in known}
    wrong, seen = set(), set()
    for part, advisories in answer.found.items():
        for advisory in advisories:
            names = {(_plain(part.name), name) for name in _names(advisory)}
            seen |= names & expected
            if not names & expected:
                ids = ", ".join(sorted(_names(advisory)))
                wrong.add(
                    f"{part.name} {part.version} ({part.of}): {ids}:"
                    f" {advisory.get('summary') or 'no summary'}"
                )
    return sorted(wrong) + [
        f"{name}: {known_as} is no longer reported: take it out"
        for name, known_as in sorted(expected - seen)
        if answer.known is None or known_as in answer.known
    ]


def main() -> int:
    parts = sbom.parts()
    folder = Path(sys.argv[1]).expanduser() if sys.argv[1:] else None
    answer = read(folder, parts) if folder else asked(parts)
    wrong = judged(answer, accepted())
    if wrong:
        print("Bump these, or accept them with a reason in docs/audit.toml:")
        print("\n".join(wrong))
    silent = [part for part in parts if part.ecosystem not in answer.ecosystems]
    looked_up = f"{len(parts) - len(silent)} of {len(parts)} packages and jars"
    print(f"{looked_up} looked up in {answer.source}.")
    if wrong:
        return 1
    if silent:
        raise AuditError(
            f"{len(silent)} parts were not looked up, which is no all-clear: this"
            f" source has no advisory for {silent[0].ecosystem}."
        )
    print(
        f"No known vulnerability but the {len(accepted())} that docs/audit.toml"
        " accepts, each with its reason."
    )
    return 0


if __name__ == "__main__":
    errors.run(main)
