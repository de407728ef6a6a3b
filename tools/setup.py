"""Set everything up: the virtual environment, the locked packages, the Java artefacts.
Does only what is missing.

Standard library only, and old syntax, so that a wrong Python can still say what is
wrong.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
LOCK = VENV + ".lock"  # beside it, for it may be made again
PROJECT = os.path.join(VENV, "project.txt")  # where the installed package lies
STAMP = os.path.join(VENV, "requirements.sha256")
LAB_SETTINGS = os.path.join(VENV, "share", "jupyter", "lab", "settings")
LOCKS = (
    "requirements-uv.txt",
    "requirements.txt",
    "requirements-build.txt",
    "requirements-connect.txt",
)
# An unpacked bundle (make bundle) has everything beside it: then nothing else is asked.
BUNDLE = os.path.join(ROOT, "bundle")


# What an installer says, and what to do about it; the first that fits is said, else the
# network is asked about.
TROUBLES = (
    (
        ("hash mismatch", "do not match the hashes"),
        (
            "A package is not the one that its checksum names, and was not installed:"
            " run this again; if it says so again, restore the list with `git checkout"
            " -- requirements*.txt`."
        ),
    ),
    (
        ("no space left", "disk quota"),
        "The disk is full: free some space ({gb} GB are needed) and run this again.",
    ),
    (
        ("permission denied", "read-only file system"),
        (
            "The folder {root} cannot be written: make it yours, or clone the workshop"
            " into another folder."
        ),
    ),
)
OFFLINE = (
    "Packages could not be installed: check the network (the first set-up needs it) and"
    " run this again."
)
DISK_GB = 6  # environment, jars and what the lessons write


def main():
    if sys.version_info[:2] != (3, 11):
        stop(
            "Python 3.11 is needed and this is "
            + platform.python_version()
            + ": install 3.11, or name it: PYTHON=..."
        )
    if sys.platform == "win32":
        stop("Windows is served by the container: see README.md.")
    import fcntl  # Windows has none

    if os.path.isdir(BUNDLE):
        # seen from ROOT, where the installers run: pip splits a path at its spaces
        wheels = os.path.join("bundle", "wheels")
        os.environ.update(
            PIP_NO_INDEX="1",
            PIP_FIND_LINKS=wheels,
            UV_OFFLINE="1",
            UV_FIND_LINKS=wheels,
        )
    try:
        # for writing, without which NFS gives no lock
        lock = os.fdopen(os.open(LOCK, os.O_RDWR | os.O_CREAT, 0o600), "w")
    except OSError as error:
        stop(remedy(str(error), "Nothing can be written in " + ROOT + "."))
    with lock:  # two set-ups in one folder: the second waits, and finds everything done
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = digest()
        if read(STAMP) != wanted:
            if os.path.isdir(BUNDLE):
                check_bundle()
            install(wanted)
        install_project()
        if subprocess.run([PYTHON, "-m", "tools.fetch"], cwd=ROOT).returncode:
            sys.exit(1)  # it has said why


def install(wanted):
    uv = os.path.join(VENV, "bin", "uv")
    if not works(uv):
        check_folder()
        print("Making the virtual environment .venv", flush=True)
        shutil.rmtree(VENV, ignore_errors=True)
        run(
            [sys.executable, "-m", "venv", VENV],
            "The virtual environment could not be made: install Python's venv module"
            " (Debian: python3.11-venv).",
        )
        run(
            [
                PYTHON,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--require-hashes",
                "--only-binary",
                ":all:",
                "-r",
                LOCKS[0],
            ],
            OFFLINE,
        )
    print(
        "Installing the locked packages (one to three minutes, about 1.5 GB)",
        flush=True,
    )
    if os.path.exists(PROJECT):
        os.remove(PROJECT)  # the sync takes the project out
    sync(uv, PYTHON, LOCKS[1], "pyspark")
    # venv's own installers are old, in no lock, and needed no longer.
    run(
        [uv, "pip", "uninstall", "--quiet", "--python", PYTHON, "pip", "setuptools"],
        OFFLINE,
    )
    install_client(VENV)
    # The Lab shows a cell's time only if the notebook keeps it.
    os.makedirs(LAB_SETTINGS, exist_ok=True)
    with open(os.path.join(LAB_SETTINGS, "overrides.json"), "w") as overrides:
        overrides.write(
            '{"@jupyterlab/notebook-extension:tracker": {"recordTiming": true}}'
        )
    with open(STAMP, "w") as stamp:
        stamp.write(wanted)


def install_client(prefix):
    """Makes the small environment of Spark Connect's client inside another one, whose
    uv it is made with (helpers/spark/connect.py starts it).
    """
    uv, folder = os.path.join(prefix, "bin", "uv"), os.path.join(prefix, "connect")
    make = [uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder]
    run(make, OFFLINE)
    sync(uv, os.path.join(folder, "bin", "python"), LOCKS[3], "pyspark-client")


def sync(uv, python, lock, source):
    """Installs exactly what a lock names: wheels only, and one source package, built
    with what LOCKS[2] names; uv holds that to its hashes, too. A bundle has a wheel of
    it.
    """
    files = (
        [os.path.join(BUNDLE, lock), "--no-index"]
        if os.path.isdir(BUNDLE)
        else ["--no-binary", source, "--build-constraint", LOCKS[2], lock]
    )
    strict = ["--only-binary", ":all:", "--require-hashes"]
    run([uv, "pip", "sync", "--quiet", "--python", python, *strict, *files], OFFLINE)


def install_project():
    """Install this folder's packages editable: what is imported is what lies here."""
    if read(PROJECT) == ROOT:
        return
    options = [
        "--quiet",
        "--offline",
        "--no-deps",
        "--no-build-isolation",
        "--python",
        PYTHON,
    ]
    run(
        [
            os.path.join(VENV, "bin", "uv"),
            "pip",
            "install",
            *options,
            "--editable",
            ROOT,
        ],
        OFFLINE,
    )
    with open(PROJECT, "w") as stamp:
        stamp.write(ROOT)


def check_bundle():
    """Stops where the bundle is another platform's, or one of its files is missing or
    damaged.
    """
    try:
        with open(os.path.join(BUNDLE, "SHA256SUMS")) as lines:
            made_for = next(lines).strip("# \n")
            pairs = [line.split(None, 1) for line in lines]
            files = [(wanted, name.strip()) for wanted, name in pairs]
    except (OSError, StopIteration, ValueError):
        stop(
            "bundle/SHA256SUMS is missing or damaged: unpack the archive again, into an"
            " empty folder."
        )
    here = platform.system() + " " + platform.machine()
    if made_for != here:
        stop(
            "This bundle is for "
            + made_for
            + " and this is "
            + here
            + ": get the one for this machine."
        )
    print("Checking the bundle", flush=True)
    for wanted, name in files:
        sha = hashlib.sha256()
        try:
            with open(os.path.join(BUNDLE, name), "rb") as file:
                for piece in iter(lambda: file.read(1 << 20), b""):
                    sha.update(piece)
        except OSError:
            pass  # then its digest is that of nothing
        if sha.hexdigest() != wanted:
            stop(
                "bundle/"
                + name
                + " is missing or damaged: unpack the archive again, into an empty"
                " folder."
            )


def read(file):
    try:
        with open(file) as stamp:
            return stamp.read()
    except OSError:
        return None


def works(program):
    try:
        return (
            subprocess.call(
                [program, "--version"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            == 0
        )
    except OSError:
        return False


def digest():
    sha = hashlib.sha256(sys.version.encode())
    for name in LOCKS:
        with open(os.path.join(ROOT, name), "rb") as lock:
            sha.update(lock.read())
    return sha.hexdigest()


def check_folder():
    """Stops where nothing can be written, or too little."""
    try:
        with tempfile.TemporaryFile(dir=ROOT):
            free = shutil.disk_usage(ROOT).free / 1e9
    except OSError as error:
        stop(
            remedy(
                str(error),
                "Nothing can be written in " + ROOT + " (" + str(error.strerror) + ").",
            )
        )
    if free < DISK_GB:
        needed = (
            "{:.1f} GB are free in {} and {} are needed: free some space and run this"
            " again."
        )
        stop(needed.format(free, ROOT, DISK_GB))


def run(command, otherwise):
    """Runs an installer; where it fails, its own words are shown, and then one sentence
    that says what to do.
    """
    done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE)
    said = done.stderr.decode(errors="replace")
    if done.returncode:
        stop(said[-1500:] + remedy(said, otherwise))


def remedy(said, otherwise):
    """What to do about an installer's words."""
    for words, sentence in TROUBLES:
        if any(word in said.lower() for word in words):
            return sentence.format(gb=DISK_GB, root=ROOT)
    return otherwise


def stop(message):
    sys.exit(message)


if __name__ == "__main__":
    main()
