"""Locks on files, which end with the process that holds them, however it ends: so they
tell who lives, also from another PID namespace, container or host. Standard library
only.

A lock is not passed on: a process that a Python starts does not hold it, for a folder
belongs to the Python that knows of it. A fork of that Python does.
"""

import fcntl
import itertools
import os
import threading
from functools import cache
from pathlib import Path

from helpers.errors import WorkshopError

_held: dict[Path, int] = {}  # descriptors, open as long as this Python lives
_one_thread = threading.RLock()


class LockError(WorkshopError):
    """A folder cannot be used by this user, or not be locked; the message says what to
    do.
    """


def make(folder: Path) -> Path:
    """The folder, made with those above it if need be. Raises LockError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refused(folder, error) from None
    return folder


def opened(file: Path) -> int:
    """A descriptor of a lock's file, made if need be. Raises LockError.

    It is open for writing, without which NFS gives no lock; and only for this user, or
    another one could hold it. The caller closes it.
    """
    make(file.parent)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(file, flags, 0o600)
    except OSError as error:
        raise _refused(file, error) from None


def wait(descriptor: int, file: Path, flags: int = 0) -> None:
    """Lock what `opened` gave; with LOCK_NB raises BlockingIOError where another has
    it. Raises LockError where the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | flags)
    except BlockingIOError:
        raise
    except OSError as error:
        raise LockError(
            f"{file} cannot be locked ({error.strerror}): let WORKSHOP_BUILD name a"
            " folder on a disk of this machine."
        ) from None


def hold(file: Path) -> bool:
    """Lock a file until `release` or the end of this Python; False where another has
    it. Raises LockError.
    """
    with _one_thread:
        while file not in _held:
            descriptor = opened(file)
            try:
                wait(descriptor, file, fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return False
            if os.fstat(descriptor).st_nlink:
                _held[file] = descriptor
            else:  # released, and so deleted, since it was opened
                os.close(descriptor)
        return True


def held(file: Path) -> bool:
    """Whether this Python holds it."""
    return file in _held


def release(file: Path) -> None:
    """Delete the file of a lock and give the lock up, if this Python holds it."""
    with _one_thread:
        if file in _held:
            file.unlink(missing_ok=True)
            os.close(_held.pop(file))


def lock_of(folder: Path) -> Path:
    """The lock that says whose a folder is: beside it, for the folder may be deleted
    and made again.
    """
    return folder.with_name(f".{folder.name}.lock")


def claim(folder: Path) -> Path:
    """A folder that no other run has until this Python ends, made if need be: `folder`,
    or where somebody else has it `folder`-2, and so on. Asked again it is the same.

    What an earlier run has left there stays. Raises LockError.
    """
    with _one_thread:
        return make(_claimed(folder))


@cache
def _claimed(folder: Path) -> Path:
    others = (folder.with_name(f"{folder.name}-{n}") for n in itertools.count(2))
    free = (each for each in itertools.chain([folder], others) if hold(lock_of(each)))
    return next(free)


def _refused(path: Path, error: OSError) -> LockError:
    return LockError(
        f"{path} cannot be written ({error.strerror}): make its folder yours, or clone"
        " the workshop into a folder of your own."
    )
