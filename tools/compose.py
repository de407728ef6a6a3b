"""Start and stop the cluster in containers, and say in one sentence what is in the way.
Standard library only.

python -m tools.compose up [--gpu] | down [--volumes]
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import time

from helpers import errors  # it needs the standard library only

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ENGINE = (20, 10)
LOOPBACK_KEPT = (28, 0)  # since then: moby issue 45610
COMPOSE = (1, 29)
MEMORY_GB = (
    6  # the limits of the services add up to more; together they have never used it
)
PORTS = {
    "LAB_PORT": (8888, "JupyterLab"),
    "SPARK_UI_PORT": (8080, "the Spark master's page"),
    "SPARK_APP_PORT": (4040, "the Spark UI"),
}
GPU_PORTS = {"MXNET_PORT": (8889, "MXNet's Lab"), "SINGA_PORT": (8890, "SINGA's Lab")}
HEALTHY_SECONDS = 300


class Problem(errors.WorkshopError):
    """Something is in the way; the message is one sentence with the remedy."""


def compose_command():
    """The command of Compose v2 or, where that is missing, of docker-compose. Raises
    Problem.
    """
    if shutil.which("docker") is None:
        raise Problem(
            "No container engine is installed: install Docker Desktop, or Docker Engine"
            " with its compose plugin."
        )
    for command in (["docker", "compose"], ["docker-compose"]):
        version = _said([*command, "version", "--short"])
        if version:
            if _numbers(version) < COMPOSE:
                raise Problem(
                    f"Compose {version} is too old: install {_dotted(COMPOSE)} or"
                    " newer."
                )
            return command
    raise Problem(
        "Docker is installed without Compose: install the package docker-compose-plugin"
        " or docker-compose."
    )


def check_engine(gpu=False):
    """What the engine says of itself; it answers, is new enough, has the memory and,
    when asked for, a GPU. Raises Problem.
    """
    info = json.loads(_said(["docker", "info", "--format", "{{json .}}"]) or "{}")
    if not info.get("ServerVersion"):
        raise Problem(
            "The container engine does not answer: start Docker Desktop (Linux: sudo"
            " systemctl start docker), or add yourself to the group docker."
        )
    if _numbers(info["ServerVersion"]) < ENGINE:
        raise Problem(
            f"Docker {info['ServerVersion']} is too old: install {_dotted(ENGINE)} or"
            " newer."
        )
    memory = info["MemTotal"] / 2**30
    if memory < MEMORY_GB:
        raise Problem(
            f"The container engine has {memory:.1f} GB of memory and the cluster needs"
            f" {MEMORY_GB}: give it more (Docker Desktop: Settings, Resources)."
        )
    if gpu and "nvidia" not in info.get("Runtimes", {}):
        raise Problem(
            "The container engine knows no GPU: install the NVIDIA Container Toolkit,"
            " or do without (profile cpu)."
        )
    return info


def open_to_neighbours(info):
    """A sentence where this engine forwards to others what is published on 127.0.0.1,
    else None. Docker Desktop and a rootless engine do not forward at all.
    """
    options = " ".join(info.get("SecurityOptions") or [])
    apart = "Docker Desktop" in info.get("OperatingSystem", "") or "rootless" in options
    if apart or _numbers(info["ServerVersion"]) >= LOOPBACK_KEPT:
        return None
    return (
        f"Warning: Docker {info['ServerVersion']} lets other machines of this network"
        " reach the ports that are published on 127.0.0.1; install"
        f" {_dotted(LOOPBACK_KEPT)} or newer, or use it only in a network that you"
        " trust."
    )


def check_ports(gpu=False):
    """Nobody listens on the ports that will be published. Raises Problem, naming the
    port and its variable.
    """
    for variable, (preset, what) in (PORTS | GPU_PORTS if gpu else PORTS).items():
        port = _port(variable, preset)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                raise Problem(
                    f"Port {port}, needed for {what}, is taken: end the program that"
                    " listens there, or choose another port, as in"
                    f" {variable}={port + 1000}."
                ) from None


def _port(variable, preset):
    """The port that the environment or the file .env names. Raises Problem for what is
    none.
    """
    given = str(os.environ.get(variable) or _dotenv().get(variable) or preset)
    if not (given.isdecimal() and int(given) <= 65535):
        raise Problem(
            f"{variable}: {given!r} is no port: give a whole number from 1 to 65535, as"
            f" in {variable}={preset}."
        )
    return int(given)


def up(gpu=False):
    """Build what is missing, start everything, wait until all services are healthy, and
    say where they are.
    """
    compose = compose_command()
    warning = open_to_neighbours(check_engine(gpu))
    if warning:
        print(warning, flush=True)
    if not _said([*compose, "ps", "-q"]):
        check_ports(gpu)
    share_learner_folder()
    start = time.monotonic()
    profile = ["--profile", "gpu"] if gpu else []
    print(
        "Building the image (the first time about ten minutes), then starting the"
        " services",
        flush=True,
    )
    # all other services are of the Lab's image
    images = ["lab", *(["mxnet-gpu", "singa-gpu"] if gpu else [])]
    if subprocess.run(
        [*compose, *profile, "build", "-q", *images], cwd=ROOT
    ).returncode:
        raise Problem(
            "The image could not be built: check the network (the first build needs it)"
            " and run this again."
        )
    built = time.monotonic()
    if subprocess.run([*compose, *profile, "up", "-d"], cwd=ROOT).returncode:
        raise Problem(
            f"The services did not start: `{' '.join(compose)} logs` says why."
        )
    states = wait(compose, HEALTHY_SECONDS)
    for service, state in states.items():
        print(f"{service:16} {state}")
    sick = [service for service, state in states.items() if state != "healthy"]
    if sick:
        raise Problem(
            f"Not healthy: {', '.join(sick)}; `{' '.join(compose)} logs {sick[0]}` says"
            " why."
        )
    print(
        f"Built in {built - start:.0f} s, all healthy after"
        f" {time.monotonic() - built:.0f} s more. Your Lab:"
    )
    servers = _said(
        [*compose, "exec", "-T", "lab", "jupyter", "server", "list", "--jsonlist"]
    )
    port = _port("LAB_PORT", PORTS["LAB_PORT"][0])
    token = json.loads(servers)[0]["token"]
    print(f"http://127.0.0.1:{port}/lab?token={token}")


def share_learner_folder():
    """Make learner/ for the Lab's user: the engine would make it for root alone.

    That user is WORKSHOP_UID, else whoever runs this, or 1000 where root does.
    """
    folder = os.path.join(ROOT, "learner")
    os.makedirs(folder, exist_ok=True)
    if not hasattr(os, "getuid"):
        return
    if os.getuid() != 0:
        os.environ.setdefault("WORKSHOP_UID", str(os.getuid()))
    elif os.stat(folder).st_uid == 0:
        user = int(os.environ.get("WORKSHOP_UID", "1000"))
        os.chown(folder, user, user)


def down(volumes=False):
    """Stop and remove the containers; the volumes stay, unless they are to go too."""
    compose = compose_command()
    check_engine()
    command = [
        *compose,
        "--profile",
        "gpu",
        "--profile",
        "cpu",
        "down",
        *(["--volumes"] if volumes else []),
    ]
    if subprocess.run(command, cwd=ROOT).returncode:
        raise Problem("The cluster could not be stopped: see the message above.")


def wait(compose, seconds):
    """Poll until every container is healthy, or one has ended, or the time is over:
    state by service.
    """
    end = time.monotonic() + seconds
    while True:
        states = health(compose)
        finished = [
            state for state in states.values() if state not in ("starting", "created")
        ]
        if len(finished) == len(states) or time.monotonic() > end:
            return states
        time.sleep(1)


def health(compose):
    """State of each container by service: healthy, unhealthy, starting, or how it
    ended.
    """
    containers = (_said([*compose, "ps", "-a", "-q"]) or "").split()
    described = (
        json.loads(_said(["docker", "inspect", *containers]) or "[]")
        if containers
        else []
    )
    states = {}
    for one in described:
        state = one["State"]
        running = (
            state.get("Health", {}).get("Status", "running")
            if state["Running"]
            else state["Status"]
        )
        states[one["Config"]["Labels"]["com.docker.compose.service"]] = running
    return dict(sorted(states.items()))


def _said(command):
    """What a command printed, or None when it is missing or fails."""
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _numbers(version):
    """(20, 10) of "20.10.24+dfsg1", "v20.10.24" and the like."""
    parts = version.lstrip("v").split(".")[:2]
    return tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in parts)


def _dotted(numbers):
    return ".".join(map(str, numbers))


def _dotenv():
    """Assignments of the file .env, which Compose reads too."""
    try:
        with open(os.path.join(ROOT, ".env"), encoding="utf-8") as lines:
            pairs = [
                line.strip().split("=", 1)
                for line in lines
                if "=" in line and not line.startswith("#")
            ]
    except OSError:
        return {}
    return {name: value.strip("\"'") for name, value in pairs}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["up", "down"])
    parser.add_argument("--gpu", action="store_true", help="with the GPU containers")
    parser.add_argument(
        "--volumes", action="store_true", help="delete the volumes, too"
    )
    options = parser.parse_args()
    up(options.gpu) if options.what == "up" else down(options.volumes)


if __name__ == "__main__":
    errors.run(main)
