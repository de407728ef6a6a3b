"""For maintainers: write jvm/checksums.sha256 (all that Maven loads) and each module's
SHA256SUMS (its jars) from what Maven fetches, after a version has moved.
"""

import tempfile
from pathlib import Path

from helpers import errors, files, settings
from helpers.java import artefacts


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        artefacts.copy_by_maven(folder, record=Path(folder))
        recorded = files.read_sums(Path(folder) / artefacts.CHECKSUMS.name)
        files.write_text(artefacts.CHECKSUMS, _list(recorded))
        for module in artefacts.modules():
            jars = artefacts.sums(Path(folder) / module)
            files.write_text(settings.JVM / module / "SHA256SUMS", _list(jars))
    print(
        "Written. `git diff jvm` shows which jars have changed: look at each before you"
        " commit."
    )


def _list(sums: dict[str, str]) -> str:
    """As `sha256sum` writes them, by name, so that git shows what has moved."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))


if __name__ == "__main__":
    errors.run(main)
