"""The cluster in containers as tests/test_cluster.py handles it: build, start, look
inside, kill, stop, remove. Its containers and volumes are its own: another project
name, free ports.
"""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from helpers import settings
from helpers.processes.ports import free_port
from tools import compose

PROJECT = "workshop-test"
IMAGE = "workshop:local"
TOKEN = "cluster-test"
SERVICES = (
    "ignite-1",
    "ignite-2",
    "ignite-3",
    "kafka",
    "lab",
    "spark-master",
    "spark-worker-1",
    "spark-worker-2",
)
JOBS = Path(__file__).parent / "cluster"  # programs for the Lab's Python
NUMBERS = r"\S*\d\S*"
MB = {"B": 2**-20, "KiB": 2**-10, "MiB": 1.0, "GiB": 2.0**10}


class ComposeCluster:
    """The services of docker-compose.yml under a project name of their own.

    `command` is Compose's (["docker", "compose"]), `folder` gets the logs. `ports` are
    the published ones by the name of their variable.
    """

    def __init__(self, command: Sequence[str], folder: Path):
        self.command = [*command, "--project-name", PROJECT]
        self.folder = folder
        self.ports = {name: free_port() for name in compose.PORTS}
        self._environment = os.environ | {"JUPYTER_TOKEN": TOKEN}
        self._environment |= {name: str(port) for name, port in self.ports.items()}
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Build the image, start every service and wait until all are healthy, or one
        is not: `states`. Keeps what they logged until then, `start_logs`, and who
        listens since, `opened`.
        """
        before = listeners()
        self.timed("build of the image", "build", "lab", timeout=1500)
        size = int(docker("image", "inspect", IMAGE, "--format", "{{.Size}}"))
        print(f"image: {size / 1e9:.2f} GB", flush=True)
        compose.share_learner_folder()
        self.timed("start until the Lab may start", "up", "-d", timeout=600)
        start = time.monotonic()
        self.states = compose.wait(self.command, compose.HEALTHY_SECONDS)
        print(f"wait for the Lab: {time.monotonic() - start:.0f} s", flush=True)
        self.start_logs = {
            service: self.run("logs", "--no-color", service).stdout
            for service in SERVICES
        }
        self.opened = listeners() - before

    def run(
        self, *arguments: str, timeout: float = 180, **options: object
    ) -> subprocess.CompletedProcess[str]:
        """A command of Compose, with what it printed."""
        return subprocess.run(
            [*self.command, *arguments],
            cwd=settings.ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            **{"stdin": subprocess.DEVNULL} | options,
        )

    def timed(self, what: str, *arguments: str, timeout: float) -> None:
        """A command of Compose that must succeed; prints how long it took."""
        start = time.monotonic()
        done = self.run(*arguments, timeout=timeout)
        output = done.stdout + done.stderr
        (self.folder / f"{what.split()[0]}.log").write_text(output)
        print(f"{what}: {time.monotonic() - start:.0f} s", flush=True)
        assert done.returncode == 0, f"{what}:\n{output[-3000:]}"

    def container(self, service: str) -> str:
        """The id of a service's container, running or not."""
        return self.run("ps", "-a", "-q", service).stdout.strip()

    def inspect(self, service: str) -> dict:
        """What the engine says of a service's container."""
        return json.loads(docker("inspect", self.container(service)))[0]

    def exit_codes(self) -> dict[str, int]:
        """How each service ended."""
        return {name: self.inspect(name)["State"]["ExitCode"] for name in SERVICES}

    def execute(self, service: str, *command: str) -> str:
        """What a command in a service's container printed, or why it failed."""
        done = self.run("exec", "-T", service, *command)
        return done.stdout.strip() or done.stderr.strip()[-300:]

    def copy_from_lab(self, path: str, target: Path) -> None:
        """A file of the Lab's container, copied to this machine."""
        docker("cp", f"{self.container('lab')}:/workshop/{path}", str(target))

    def job(self, name: str, *arguments: str) -> dict:
        """Run a program of tests/cluster in the Lab: the last JSON line it printed."""
        with (JOBS / name).open() as source:
            done = self.run(
                "exec", "-T", "lab", "python", "-", *arguments, stdin=source
            )
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        assert lines, f"{name}:\n{done.stderr[-2000:]}"
        return json.loads(lines[-1])

    def job_with_kill(
        self, name: str, ready: Callable[[dict], bool], victim: str
    ) -> list[dict]:
        """Run a program of tests/cluster in the Lab and kill the service `victim` once
        `ready` is true of a JSON line that it printed; all its lines. The victim is
        started again.
        """
        lines: list[dict] = []
        errors = self.folder / f"{name}.err"
        killed = False
        with (
            (JOBS / name).open() as source,
            errors.open("w") as stderr,
            subprocess.Popen(
                [*self.command, "exec", "-T", "lab", "python", "-"],
                cwd=settings.ROOT,
                env=self._environment,
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            ) as process,
        ):
            for text in process.stdout:
                if not text.startswith("{"):
                    continue
                lines.append(json.loads(text))
                if not killed and ready(lines[-1]):
                    docker("kill", "--signal", "KILL", self.container(victim))
                    killed = True
        if killed:
            self.start_again(victim)
        message = f"{name}:\n{errors.read_text()[-2000:]}"
        assert process.returncode == 0, message
        assert killed, f"{name} never got as far as the kill: {lines[-1:]}"
        return lines

    def start_again(self, service: str) -> None:
        """Start a service that was killed or stopped; it must be healthy then."""
        self.timed(
            f"{service} again", "up", "-d", "--no-recreate", service, timeout=300
        )
        states = compose.wait(self.command, compose.HEALTHY_SECONDS)
        assert states.get(service) == "healthy", states

    def memory(self) -> dict[str, tuple[float, float]]:
        """MB that each container uses, and that it may use."""
        usage = {}
        for service in SERVICES:
            line = docker(
                *("stats", "--no-stream", "--format", "{{.MemUsage}}"),
                self.container(service),
            )
            used, limit = line.split(" / ")
            usage[service] = (megabytes(used), megabytes(limit))
        return usage

    def remove(self) -> None:
        """Keep the logs, and remove containers, networks and volumes; nothing happens
        where there are none.
        """
        logs = self.run("logs", "--no-color").stdout
        if logs:
            (self.folder / "services.log").write_text(logs)
        self.run("down", "--volumes")

    def left(self) -> dict[str, str]:
        """Ids of the project's containers, volumes and networks, of those that there
        are.
        """
        label = f"label=com.docker.compose.project={PROJECT}"
        kinds = {"containers": "ps -aq", "volumes": "volume ls -q"}
        kinds["networks"] = "network ls -q"
        found = {
            kind: docker(*command.split(), "--filter", label)
            for kind, command in kinds.items()
        }
        return {kind: ids for kind, ids in found.items() if ids}


def docker(*arguments: str) -> str:
    """What a command of the engine printed; it must succeed."""
    done = subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr[-500:]}"
    return done.stdout.strip()


def megabytes(text: str) -> float:
    """MB of what `docker stats` prints: "1.5GiB" is 1536."""
    number, unit = re.fullmatch(r"([\d.]+)(B|[KMG]iB)", text.strip()).groups()
    return float(number) * MB[unit]


def warnings(logs: dict[str, str]) -> set[str]:
    """Every line that a service logged as a warning or an error, with # for times and
    numbers; `logs` by service, and services that differ by a number count as one.
    """
    found = set()
    for service, log in logs.items():
        kind = re.sub(r"-\d$", "", service)
        for line in re.findall(
            r"^.*(?:\bWARN(?:ING)?\b|\bERROR\b|\[[WE] ).*$", log, flags=re.M
        ):
            text = line.split("|", 1)[-1]  # Compose puts the container's name before it
            found.add(f"{kind}: {re.sub(NUMBERS, '#', text).strip()}")
    return found


def listeners() -> set[tuple[str, int]]:
    """(address, port) of this machine's listening sockets, without those that are known
    to be no container engine's.
    """
    found = set()
    for one in psutil.net_connections("tcp"):
        if one.status == psutil.CONN_LISTEN and (
            one.pid is None or "docker" in _name(one.pid)
        ):
            found.add((one.laddr.ip.removeprefix("::ffff:"), one.laddr.port))
    return found


def _name(pid: int) -> str:
    try:
        return psutil.Process(pid).name()
    except psutil.NoSuchProcess:
        return "docker, perhaps"
