"""`make audit`: known vulnerabilities of the locked packages, less those that
docs/audit.toml accepts with a reason.

python -m tools.audit PIP_AUDIT [LOCK...]
"""

import json
import subprocess
import sys
import tomllib

from helpers import errors, settings

ACCEPTED = settings.ROOT / "docs" / "audit.toml"
LOCKS = (
    "requirements.txt",
    "requirements-uv.txt",
    "requirements-singa.txt",
    "requirements-audit.txt",
)


class AuditError(errors.WorkshopError):
    """Nothing can be said about the packages; the message says why."""

    exit_status = 2  # 1 is for vulnerabilities


def accepted() -> list[dict]:
    """The entries of docs/audit.toml."""
    return tomllib.loads(ACCEPTED.read_text())["accepted"]


def asked(program: str, lock: str) -> dict:
    """pip-audit's report on one lock. Raises AuditError when there is none."""
    command = [
        program,
        "--format",
        "json",
        "--progress-spinner",
        "off",
        "--require-hashes",
        "--disable-pip",
    ]
    try:
        done = subprocess.run(
            [*command, "-r", settings.ROOT / lock],
            capture_output=True,
            text=True,
            timeout=600,
        )
        return json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        said = done.stderr.strip()[-300:] if isinstance(error, ValueError) else error
        raise AuditError(
            f"{lock} could not be audited: check the network and run this again. {said}"
        ) from None


def judged(reports: list[dict], known: list[dict]) -> list[str]:
    """What is wrong, a line each: vulnerabilities that are not accepted, and entries
    that are no longer true.

    Raises AuditError when a package was not looked up: no answer is not an all-clear.
    """
    packages = [package for report in reports for package in report["dependencies"]]
    skipped = sorted(
        f"{one['name']} ({one['skip_reason']})"
        for one in packages
        if "skip_reason" in one
    )
    if skipped:
        raise AuditError(
            f"{len(skipped)} of {len(packages)} packages could not be looked up, so"
            " nothing is known of them: run this where the Python registry gives its"
            f" advisories. The first: {skipped[0]}"
        )
    expected = {(entry["package"], entry["id"]) for entry in known}
    wrong, seen = [], set()
    for package in packages:
        for found in package["vulns"]:
            names = {
                (package["name"], name) for name in (found["id"], *found["aliases"])
            }
            seen |= names & expected
            if not names & expected:
                fixed = ", ".join(found["fix_versions"]) or "no version"
                wrong.append(
                    f"{package['name']} {package['version']}: {found['id']}, mended in"
                    f" {fixed}"
                )
    return wrong + [
        f"{name}: {known_as} is no longer reported: take it out"
        for name, known_as in expected - seen
    ]


def main() -> int:
    program, *locks = sys.argv[1:]
    wrong = judged([asked(program, lock) for lock in locks or LOCKS], accepted())
    if wrong:
        print(
            "\n".join(
                [
                    "Bump these, or accept them with a reason in docs/audit.toml:",
                    *sorted(wrong),
                ]
            )
        )
        return 1
    print(
        f"No known vulnerability but the {len(accepted())} that docs/audit.toml"
        " accepts, each with its reason."
    )
    return 0


if __name__ == "__main__":
    errors.run(main)
