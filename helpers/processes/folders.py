"""Folders of running processes, and what one process at a time may do."""

import contextlib
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from helpers import locks

# short, for the path of a socket in such a folder has at most 107 characters
HOST = re.sub(r"\W", "", platform.node().partition(".")[0])[:12] or "host"
OTHER_HOST_DAYS = 7


def own_folder(root: Path, name: str) -> Path:
    """A new folder in `root` for what this Python starts, only for this user; those of
    that name whose Python has ended are removed.

    A lock that is held tells that the Python lives. Some network file systems keep
    locks from other hosts, so a folder of another host stays for a week. `remove`
    removes it. Raises LockError.
    """
    locks.make(root)
    for lock in root.glob(f".{name}-*.lock"):
        if not locks.held(lock) and _may_go(lock) and locks.hold(lock):
            remove(lock.with_name(lock.name[1:].removesuffix(".lock")))
    folder = root / f"{name}-{HOST}-{secrets.token_hex(4)}"
    if not locks.hold(locks.lock_of(folder)):  # looked at by another start, and deleted
        return own_folder(root, name)
    folder.mkdir(mode=0o700)
    return folder


def remove(folder: Path) -> None:
    """Remove a folder that `own_folder` has given, as far as that can be done; no error
    where it has been removed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    locks.release(locks.lock_of(folder))


def _may_go(lock: Path) -> bool:
    try:
        status = lock.lstat()
    except FileNotFoundError:  # its owner has just removed it
        return False
    days = (time.time() - status.st_mtime) / 86_400
    here = lock.name.split("-")[-2] == HOST
    return status.st_uid == os.geteuid() and (here or days > OTHER_HOST_DAYS)


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """One process at a time is in this block, the others wait; the lock ends with its
    process, however that ends. Raises LockError.
    """
    with os.fdopen(locks.opened(file), "w") as lock:
        locks.wait(lock.fileno(), file)
        yield
