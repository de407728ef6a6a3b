"""For maintainers: write each module's SHA256SUMS anew from what Maven fetches, after a
version has moved.
"""

import tempfile
from pathlib import Path

from helpers import errors, settings
from helpers.java import artefacts


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        artefacts.copy_by_maven(folder)
        for module in artefacts.modules():
            lines = [
                f"{digest}  {name}"
                for name, digest in sorted(
                    artefacts.sums(Path(folder) / module).items()
                )
            ]
            (settings.JVM / module / "SHA256SUMS").write_text("\n".join(lines) + "\n")
    print(
        "Written. `git diff jvm` shows which jars have changed: look at each before you"
        " commit."
    )


if __name__ == "__main__":
    errors.run(main)
