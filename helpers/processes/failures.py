"""What a process that failed has said: why, in a line or two, the rest in a file."""

import os
import tempfile
import time
from pathlib import Path

from helpers import errors, settings

KEPT_SECONDS = 7 * 24 * 3600


def explain(said: str, name: str) -> str:
    """Why a process failed, of what it `said`, and where all of that lies: the cause
    first, each line one thought.

    It is kept in the build folder, for its owner alone, until a week after; the file's
    name begins with `name`.
    """
    lines = said.strip().splitlines() or ["It said nothing."]
    why = errors.cause(said, otherwise=lines[-1])
    return "\n".join([*why, f"All that it said: {_keep(said, name)}"])


def _keep(said: str, name: str) -> Path:
    folder = settings.build_dir() / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.log"):
        if old.stat().st_mtime < time.time() - KEPT_SECONDS:
            old.unlink(missing_ok=True)
    file, path = tempfile.mkstemp(dir=folder, prefix=f"{name}-", suffix=".log")
    with os.fdopen(file, "w", encoding="utf-8") as log:
        log.write(said)
    return Path(path)
