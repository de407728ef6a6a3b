"""For maintainers: write each module's SHA256SUMS anew from what Maven fetches, after a
version has moved.
"""

import sys
import tempfile
from pathlib import Path

from helpers import settings
from helpers.java import artefacts
from helpers.java.jdk import JavaError


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        try:
            artefacts.copy_by_maven(folder)
        except JavaError as error:
            print(error, file=sys.stderr)
            return 2
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
    return 0


if __name__ == "__main__":
    sys.exit(main())
