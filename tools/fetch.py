"""Fetch what no Python registry holds for this Python: the engines' jars and SINGA's
wheel. Only what is missing.
"""

from helpers import errors
from helpers.java import artefacts
from helpers.singa import bridge


def main() -> None:
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


if __name__ == "__main__":
    errors.run(main)
