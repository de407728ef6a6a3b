"""For maintainers: write each module's SHA256SUMS anew from what Maven fetches, after a version has moved."""

import sys
import tempfile
from pathlib import Path

from helpers import jvm, settings


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        try:
            jvm.copy_by_maven(folder)
        except jvm.JavaError as error:
            print(error, file=sys.stderr)
            return 2
        for module in jvm.modules():
            lines = [f"{digest}  {name}" for name, digest in sorted(jvm.sums(Path(folder) / module).items())]
            (settings.JVM / module / "SHA256SUMS").write_text("\n".join(lines) + "\n")
    print("Written. `git diff jvm` shows which jars have changed: look at each before you commit.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
