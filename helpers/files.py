"""Files written whole or not at all, and their SHA-256."""

import hashlib
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from helpers.errors import WorkshopError
from helpers.settings import ROOT


class SumsError(WorkshopError):
    """A list of checksums is missing or damaged."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Another path of the same name, for the block to write a file or a folder there;
    at the block's end it becomes `path`, after an error nothing of it stays.

    An old file is replaced. Raises OSError for an old folder that is not empty.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="unfinished-") as folder:
        unfinished = Path(folder) / path.name
        yield unfinished
        unfinished.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8) whole or not at all."""
    with atomic(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def sha256(*paths: Path) -> str:
    """SHA-256 of the files' bytes, one after the other, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            hashlib.file_digest(stream, lambda: digest)
    return digest.hexdigest()


def read_sums(path: Path) -> dict[str, str]:
    """SHA-256 by file name, of a list as `sha256sum` writes it.

    Raises SumsError when it is missing, empty or damaged.
    """
    try:
        lines = path.read_text().splitlines()
        sums = {name: digest for digest, name in map(str.split, lines)}
    except (OSError, ValueError):
        sums = {}
    if not sums or not all(re.fullmatch("[0-9a-f]{64}", sums[name]) for name in sums):
        name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
        raise SumsError(
            f"{name} is missing or damaged: restore it with `git checkout -- {name}`."
        )
    return sums
