"""Fetch what no Python registry holds for this Python: the engines' jars and SINGA's
wheel. Only what is missing.
"""

import sys

from helpers import settings
from helpers.errors import EngineUnavailable
from helpers.java import artefacts
from helpers.java.jdk import JavaError
from helpers.singa import bridge


def main() -> int:
    """0 when everything is there; else one sentence says what to do."""
    try:
        missing = artefacts.missing()
        if missing:
            print(
                f"Fetching the Java artefacts of {', '.join(missing)} (about a minute)",
                flush=True,
            )
            artefacts.fetch()
        if bridge.needed():
            print("Fetching SINGA's wheel (20 MB)", flush=True)
            bridge.fetch()
    except (JavaError, EngineUnavailable, settings.SettingError) as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
