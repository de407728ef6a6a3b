"""Set everything up: the virtual environment, the locked packages, the Java artefacts. Does only what is missing.

Standard library only, and old syntax, so that a wrong Python can still say what is wrong.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
STAMP = os.path.join(VENV, "requirements.sha256")
LAB_SETTINGS = os.path.join(VENV, "share", "jupyter", "lab", "settings")
LOCKS = ("requirements-uv.txt", "requirements.txt")
# An unpacked bundle (make bundle) has everything beside it: then nothing else is asked.
BUNDLE = os.path.join(ROOT, "bundle")


def main():
    if sys.version_info[:2] != (3, 11):
        stop(
            "Python 3.11 is needed and this is " + platform.python_version() + ": install 3.11, or name it: PYTHON=..."
        )
    if sys.platform == "win32":
        stop("Windows is served by the container: see README.md.")
    if os.path.isdir(BUNDLE):
        wheels = os.path.join(BUNDLE, "wheels")
        os.environ.update(PIP_NO_INDEX="1", PIP_FIND_LINKS=wheels, UV_OFFLINE="1", UV_FIND_LINKS=wheels)
    wanted = digest()
    if installed() != wanted:
        if os.path.isdir(BUNDLE):
            check_bundle()
        install(wanted)
    for artefacts in ("helpers.jvm", "helpers.singa_bridge"):
        if subprocess.run([PYTHON, "-m", artefacts], cwd=ROOT).returncode:
            sys.exit(1)  # it has said why


def install(wanted):
    uv = os.path.join(VENV, "bin", "uv")
    offline = "Packages could not be installed: check the network (the first set-up needs it) and run this again."
    if not works(uv):
        print("Making the virtual environment .venv", flush=True)
        shutil.rmtree(VENV, ignore_errors=True)
        run(
            [sys.executable, "-m", "venv", VENV],
            "The virtual environment could not be made: install Python's venv module (Debian: python3.11-venv).",
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
                "-r",
                LOCKS[0],
            ],
            offline,
        )
    print("Installing the locked packages (one to three minutes, about 1.5 GB)", flush=True)
    lock = [os.path.join(BUNDLE, LOCKS[1]), "--no-index"] if os.path.isdir(BUNDLE) else [LOCKS[1]]
    run([uv, "pip", "sync", "--quiet", "--python", PYTHON, "--require-hashes", *lock], offline)
    # The Lab shows a cell's time only if the notebook keeps it.
    os.makedirs(LAB_SETTINGS, exist_ok=True)
    with open(os.path.join(LAB_SETTINGS, "overrides.json"), "w") as overrides:
        overrides.write('{"@jupyterlab/notebook-extension:tracker": {"recordTiming": true}}')
    with open(STAMP, "w") as stamp:
        stamp.write(wanted)


def check_bundle():
    """Stops where the bundle is another platform's, or one of its files is missing or damaged."""
    with open(os.path.join(BUNDLE, "SHA256SUMS")) as lines:
        made_for, files = next(lines).strip("# \n"), [line.split() for line in lines]
    here = platform.system() + " " + platform.machine()
    if made_for != here:
        stop("This bundle is for " + made_for + " and this is " + here + ": get the one for this machine.")
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
            stop("bundle/" + name + " is missing or damaged: unpack the archive again, into an empty folder.")


def installed():
    try:
        with open(STAMP) as stamp:
            return stamp.read()
    except OSError:
        return None


def works(program):
    try:
        return subprocess.call([program, "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def digest():
    sha = hashlib.sha256(sys.version.encode())
    for name in LOCKS:
        with open(os.path.join(ROOT, name), "rb") as lock:
            sha.update(lock.read())
    return sha.hexdigest()


def run(command, remedy):
    if subprocess.run(command, cwd=ROOT).returncode:
        stop(remedy)


def stop(message):
    sys.exit(message)


if __name__ == "__main__":
    main()
