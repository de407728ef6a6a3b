"""Folders of running processes, and what one process at a time may do."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil


def own_folder(root: Path, name: str) -> Path:
    """A new folder in `root` for what this Python starts; those of that name whose
    Python was killed are removed.
    """
    root.mkdir(parents=True, exist_ok=True)
    for old in root.glob(f"{name}-*-*"):
        owner = old.name.removeprefix(f"{name}-").partition("-")[0]
        if owner.isdecimal() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(dir=root, prefix=f"{name}-{os.getpid()}-"))


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """One process at a time is in this block, the others wait; the lock ends with its
    process, however that ends.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
