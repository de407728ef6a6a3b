"""The containers' files keep their promises, and `make cluster-up` says in a sentence
what is in the way.

The running cluster is tested by tests/test_cluster.py (`make cluster-test`), where
there is a container engine; here its helper meets a pretended one.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import compose_cluster
import pytest
import yaml
from watch import until

from docker import health, start
from helpers import settings
from helpers.ignite import nodes as ignite
from helpers.java import jdk
from tools import compose, doctor

COMPOSE = yaml.safe_load((settings.ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
CLUSTER = {
    name: service for name, service in SERVICES.items() if "profiles" not in service
}
DOCKERFILE = (settings.ROOT / "docker" / "Dockerfile").read_text()
EVERY_SERVICE = pytest.mark.parametrize("name", SERVICES)


def preset(value):
    """What Compose makes of "${NAME:-preset}" when NAME is not set."""
    return re.sub(r"\$\{\w+:?-([^}]*)\}", r"\1", str(value))


def megabytes(limit):
    number, unit = re.fullmatch(r"(\d+)([mg])", preset(limit)).groups()
    return int(number) * {"m": 1, "g": 1024}[unit]


def heap(name):
    return int(SERVICES[name]["environment"]["SERVICE_HEAP"])


@EVERY_SERVICE
@pytest.mark.security
def test_services_are_confined(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert service["cpus"]
    assert service["pids_limit"]
    assert (
        not {"user", "privileged", "cap_add", "network_mode", "devices", "pid", "ipc"}
        & service.keys()
    )
    assert not [
        volume
        for volume in service["volumes"]
        if "docker.sock" in volume or volume.startswith("/")
    ]


@EVERY_SERVICE
def test_services_are_watched_and_end_cleanly(name):
    service = SERVICES[name]
    *program, role = service["command"]
    assert program == ["python", "/opt/workshop/start.py"]
    assert service["healthcheck"]["test"][:1] == ["CMD"]
    assert service["healthcheck"]["test"][-2:] == ["/opt/workshop/health.py", role]
    assert callable(getattr(health, role.replace("-", "_")))
    assert role in start.ROLES
    assert service["stop_grace_period"]


@EVERY_SERVICE
@pytest.mark.security
def test_ports_are_published_on_loopback_only(name):
    published = [preset(port) for port in SERVICES[name].get("ports", [])]
    assert [
        port for port in published if not re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)
    ] == []


def test_published_ports_are_those_that_are_checked_before():
    variables = dict(
        re.findall(
            r"127\.0\.0\.1:\$\{(\w+):-(\d+)\}",
            (settings.ROOT / "docker-compose.yml").read_text(),
        )
    )
    assert variables == {
        name: str(port)
        for name, (port, _) in (compose.PORTS | compose.GPU_PORTS).items()
    }


def test_services_start_when_what_they_need_is_healthy():
    needed = [
        part
        for service in CLUSTER.values()
        for part in service.get("depends_on", {}).items()
    ]
    assert needed
    assert all(how == {"condition": "service_healthy"} for _, how in needed)
    assert set(CLUSTER["lab"]["depends_on"]) == set(CLUSTER) - {"lab", "spark-master"}
    assert set(CLUSTER["spark-worker-1"]["depends_on"]) == {"spark-master"}


def test_the_limits_fit_a_laptop_of_8_gb():
    assert (
        sum(megabytes(service["mem_limit"]) for service in CLUSTER.values())
        <= 7.75 * 1024
    )


def test_what_java_takes_fits_its_container():
    executor = SERVICES["lab"]["environment"]["WORKSHOP_EXECUTOR_MEMORY"]
    for worker in ("spark-worker-1", "spark-worker-2"):
        assert f"{heap(worker)}m" == executor
        assert heap(worker) + 400 <= megabytes(SERVICES[worker]["mem_limit"])
    for node in ("ignite-1", "ignite-2", "ignite-3"):
        needed = (
            heap(node)
            + int(SERVICES[node]["environment"]["IGNITE_REGION"])
            + ignite.JVM_MB
        )
        assert needed <= megabytes(SERVICES[node]["mem_limit"])
    assert heap("kafka") + 200 <= megabytes(SERVICES["kafka"]["mem_limit"])


def test_the_addresses_are_those_of_the_services(monkeypatch):
    for name, value in SERVICES["lab"]["environment"].items():
        monkeypatch.setenv(name, preset(value))
    assert [host for host, _ in settings.ignite()] == [
        "ignite-1",
        "ignite-2",
        "ignite-3",
    ]
    assert [part.split(":")[0] for part in settings.ignite_discovery().split(",")] == [
        "ignite-1",
        "ignite-2",
        "ignite-3",
    ]
    assert settings.kafka() == "kafka:9092"
    assert settings.spark_master() == "spark://spark-master:7077"
    assert settings.spark_master_ui() == "http://spark-master:8080"
    assert settings.spark_driver_host() == SERVICES["lab"]["hostname"]
    assert settings.scale() == "full"
    nodes = [
        SERVICES[name]["environment"]["IGNITE_NODE"]
        for name in ("ignite-1", "ignite-2", "ignite-3")
    ]
    assert nodes == ["node0", "node1", "node2"]
    assert all(service["hostname"] == name for name, service in SERVICES.items())


def test_driver_and_workers_share_image_data_and_files():
    lab, workers = (
        SERVICES["lab"],
        [SERVICES["spark-worker-1"], SERVICES["spark-worker-2"]],
    )
    for worker in workers:
        assert worker["image"] == lab["image"]
        assert set(worker["volumes"]) <= set(lab["volumes"])
        assert {"./data:/workshop/data:ro", "build:/workshop/build"} <= set(
            worker["volumes"]
        )


def test_the_image_installs_what_the_lock_says_and_names_no_version():
    assert "tools/setup.py" in DOCKERFILE
    assert "setup.install(setup.digest())" in DOCKERFILE
    assert "==" not in DOCKERFILE.replace("!=", "")
    versions = [*doctor.locked_versions().values()]
    versions += re.findall(
        r"<[\w.]+\.version>([^<]+)<", (settings.JVM / "pom.xml").read_text()
    )
    text = DOCKERFILE + (settings.ROOT / "docker-compose.yml").read_text()
    assert [
        version
        for version in versions
        if re.search(rf"(?<![\d.]){re.escape(version)}(?![\d.])", text)
    ] == []
    assert set(re.findall(r"python(\d\.\d+)", DOCKERFILE)) == {
        ".".join(map(str, doctor.PYTHON))
    }
    assert set(re.findall(r"openjdk-(\d+)", DOCKERFILE)) == {str(jdk.JAVA)}


def test_the_image_has_archives_of_classes_beside_the_volume():
    """And no folder of settings on Spark's class path: Java would pass its archive
    over.
    """
    assert "python -m tools.archive_classes" in DOCKERFILE
    assert "ln -s /opt/java /opt/classes build/" in DOCKERFILE
    assert "SPARK_CONF_DIR" not in DOCKERFILE
    assert "SPARK_CONF_DIR" not in str(COMPOSE)


@EVERY_SERVICE
def test_edited_code_is_seen_without_another_image(name):
    """What a role imports: start.py needs helpers, the Lab's lessons need the rest."""
    service = SERVICES[name]
    needed = ["helpers", "service", "tools"] if "lab" in service["command"] else []
    for folder in {"helpers", *needed}:
        assert f"./{folder}:/workshop/{folder}:ro" in service["volumes"]


def test_an_executor_in_a_pod_is_who_its_environment_says(monkeypatch):
    pod = {
        "SPARK_JAVA_OPT_10": "-Dlast",
        "SPARK_JAVA_OPT_0": "-Dfirst",
        "SPARK_EXECUTOR_MEMORY": "700m",
        "SPARK_DRIVER_URL": "spark://driver:7078",
        "SPARK_EXECUTOR_ID": "3",
        "SPARK_EXECUTOR_CORES": "1",
        "SPARK_APPLICATION_ID": "app-1",
        "SPARK_EXECUTOR_POD_IP": "10.0.0.3",
        "SPARK_RESOURCE_PROFILE_ID": "0",
        "SPARK_EXECUTOR_POD_NAME": "exec-3",
    }
    for name, value in pod.items():
        monkeypatch.setenv(name, value)
    java, *command = map(str, start.executor().command)
    assert java == str(jdk.java())
    assert command[:4] == ["-Dfirst", "-Dlast", "-Xms700m", "-Xmx700m"]
    assert command[-14:-10] == [
        "--driver-url",
        "spark://driver:7078",
        "--executor-id",
        "3",
    ]
    assert command[-2:] == ["--podName", "exec-3"]


@pytest.mark.security
def test_the_image_can_be_built_by_old_builders_and_does_not_run_as_root():
    for newer in ("# syntax=", "<<", "--chmod", "--mount", "--link"):
        assert newer not in DOCKERFILE
    instructions = re.findall(r"^([A-Z]+) (.*)", DOCKERFILE, flags=re.M)
    assert [value for name, value in instructions if name == "USER"] == ["workshop"]
    assert [name for name, _ in instructions][-3:] == ["USER", "ENTRYPOINT", "CMD"]
    assert [name for name, _ in instructions][:2] == ["ARG", "FROM"]
    base = instructions[0][1].removeprefix("BASE_IMAGE=")
    assert re.fullmatch(r"debian:bookworm-slim@sha256:[0-9a-f]{64}", base)
    assert preset(SERVICES["lab"]["build"]["args"]["BASE_IMAGE"]) == base
    assert "name" not in COMPOSE
    assert "version" not in COMPOSE


def test_the_build_gets_only_what_it_copies():
    allowed = (settings.ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in allowed
    for sources in re.findall(r"^COPY (.*) \S+$", DOCKERFILE, flags=re.M):
        for source in sources.split():
            assert list(settings.ROOT.glob(source.rstrip("/"))), source
            assert [
                rule
                for rule in allowed
                if rule[:1] == "!" and Path(source).match(f"{rule[1:]}*/**")
            ] or [
                rule
                for rule in allowed
                if rule[:1] == "!" and re.match(rule[1:].replace("*", ".*"), source)
            ], source


@pytest.mark.parametrize("name", [name for name in SERVICES if name.endswith("-gpu")])
def test_gpu_services_reserve_a_device_and_take_base_and_build_by_argument(name):
    service = SERVICES[name]
    device = service["deploy"]["resources"]["reservations"]["devices"]
    assert device == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]
    assert service["profiles"] == ["gpu"]
    assert service["environment"]["WORKSHOP_DEVICE"] == "gpu"
    arguments = service["build"]["args"]
    engine = name.removesuffix("-gpu").upper()
    assert f"{engine}_BASE_IMAGE" in arguments["BASE_IMAGE"]
    assert f"{engine}_GPU_PACKAGES" in arguments["GPU_PACKAGES"]
    packages = preset(arguments["GPU_PACKAGES"])
    assert not packages or (settings.ROOT / "docker" / "gpu" / packages).is_file()
    fallback = SERVICES[name.replace("gpu", "cpu")]
    assert fallback["image"] == SERVICES["lab"]["image"]
    assert "deploy" not in fallback
    assert fallback["environment"]["WORKSHOP_DEVICE"] == "cpu"


def test_the_gpu_build_of_mxnet_is_of_the_same_version():
    for file in (settings.ROOT / "docker" / "gpu").glob("mxnet*.txt"):
        assert (
            f"=={re.search(r'mxnet==([^ ]+) ', (settings.ROOT / 'pyproject.toml').read_text())[1]} "
            in file.read_text()
        )
        assert "--hash=sha256:" in file.read_text()


@pytest.mark.skipif(
    not shutil.which("docker-compose"), reason="docker-compose is not installed"
)
def test_compose_accepts_the_file():
    command = [
        "docker-compose",
        "--profile",
        "gpu",
        "--profile",
        "cpu",
        "config",
        "--services",
    ]
    done = subprocess.run(command, cwd=settings.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == set(SERVICES)


@pytest.mark.parametrize(
    "script", sorted((settings.ROOT / "tools").glob("*.sh")), ids=lambda path: path.name
)
def test_scripts_are_executable_and_parse(script):
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script]).returncode == 0


def test_without_any_engine_the_tests_go_on(tmp_path):
    """tools/engine.sh where there is neither an engine nor a way to install one: a
    sentence, and success.
    """
    for tool in ("bash", "cat", "dirname", "grep", "id", "mkdir", "rm", "timeout"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    command = [settings.ROOT / "tools" / "engine.sh", "false"]
    environment = {"PATH": str(tmp_path)}
    done = subprocess.run(
        ["bash", *command], capture_output=True, text=True, env=environment, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        done.stdout
        == "Containers are not tested here: no engine answers, and this user cannot"
        " install one.\n"
    )


@pytest.mark.parametrize("role", ["spark-master", "ignite", "kafka", "lab"])
def test_health_without_the_service_is_one_line(role):
    command = [sys.executable, "-I", "-S", settings.ROOT / "docker" / "health.py", role]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(role)


# --- bad input: what `make cluster-up` says


ENGINE = {"ServerVersion": "20.10.24", "MemTotal": 8 * 2**30, "Runtimes": {"runc": {}}}


def cluster_up(*options, **environment):
    """Exit status and message of `make cluster-up`'s program."""
    command = [sys.executable, settings.ROOT / "tools" / "compose.py", "up", *options]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=120
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.strip()


def pretended(folder, compose="2.29.1", cases="", **engine):
    """A PATH whose `docker` describes an engine that cannot be had here; `cases` are
    what else it can do, in the shell's words.
    """
    folder.mkdir(exist_ok=True)
    (folder / "info").write_text(json.dumps(ENGINE | engine))
    program = folder / "docker"
    program.write_text(
        f'#!/bin/sh\ncase "$*" in\n"compose version"*) echo {compose} ;;\n"info'
        f' --format"*) /bin/cat {folder}/info ;;\n"compose ps"*) ;;\n{cases}\n'
        "*) exit 1 ;;\nesac\n"
    )
    program.chmod(0o755)
    return str(folder)


def says(*words, result):
    status, message = result
    assert status == 1
    assert len(message.splitlines()) == 1, message
    assert message.endswith(".")
    for word in words:
        assert word in message


@pytest.mark.badinput
def test_no_engine_installed(tmp_path):
    says("No container engine", "install", result=cluster_up(PATH=str(tmp_path)))


@pytest.mark.skipif(
    not (shutil.which("docker") and shutil.which("docker-compose")),
    reason="no docker command here",
)
@pytest.mark.badinput
def test_engine_does_not_answer(tmp_path):
    nowhere = f"unix://{tmp_path}/sock"
    says(
        "does not answer",
        "start",
        result=cluster_up(PATH=os.environ["PATH"], DOCKER_HOST=nowhere),
    )


@pytest.mark.security
@pytest.mark.parametrize(
    ("engine", "warned"),
    [
        ({"ServerVersion": "20.10.24+dfsg1"}, True),
        ({"ServerVersion": "27.5.1"}, True),
        ({"ServerVersion": "28.0.0"}, False),
        ({"ServerVersion": "29.1.3"}, False),
        ({"ServerVersion": "27.5.1", "OperatingSystem": "Docker Desktop"}, False),
        ({"ServerVersion": "27.5.1", "SecurityOptions": ["name=rootless"]}, False),
    ],
)
def test_an_engine_that_opens_loopback_ports_to_the_network_is_named(
    tmp_path, engine, warned
):
    """One sentence, and it goes on: here to a build that fails."""
    command = [sys.executable, settings.ROOT / "tools" / "compose.py", "up"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=dict.fromkeys(compose.PORTS, "0")
        | {"PATH": pretended(tmp_path, **engine), "PYTHONPATH": str(settings.ROOT)},
        timeout=120,
    )
    said = [line for line in done.stdout.splitlines() if line.startswith("Warning")]
    assert len(said) == warned
    for line in said:
        assert engine["ServerVersion"] in line
        assert "127.0.0.1" in line
        assert line.endswith(".")
    assert "could not be built" in done.stderr


@pytest.mark.badinput
def test_engine_too_old(tmp_path):
    says(
        "19.03.1",
        "20.10",
        result=cluster_up(PATH=pretended(tmp_path, ServerVersion="19.03.1")),
    )


@pytest.mark.badinput
def test_compose_too_old(tmp_path):
    says(
        "Compose 1.25.0",
        "1.29",
        result=cluster_up(PATH=pretended(tmp_path, compose="1.25.0")),
    )


@pytest.mark.badinput
def test_too_little_memory(tmp_path):
    says(
        "3.8 GB",
        "Resources",
        result=cluster_up(PATH=pretended(tmp_path, MemTotal=int(3.8 * 2**30))),
    )


@pytest.mark.badinput
def test_no_gpu(tmp_path):
    says("no GPU", "profile cpu", result=cluster_up("--gpu", PATH=pretended(tmp_path)))


@pytest.mark.parametrize("name", compose.PORTS)
@pytest.mark.badinput
def test_a_taken_port_is_named(tmp_path, name, taken_port):
    ports = dict.fromkeys(compose.PORTS, "0") | {name: str(taken_port)}
    says(
        f"Port {taken_port}", name, result=cluster_up(PATH=pretended(tmp_path), **ports)
    )


@pytest.mark.badinput
def test_a_build_that_fails_is_one_sentence_too(tmp_path):
    says(
        "could not be built",
        result=cluster_up(
            PATH=pretended(tmp_path), **dict.fromkeys(compose.PORTS, "0")
        ),
    )


@pytest.mark.badinput
@pytest.mark.parametrize("wrong", ["many", "70000", "-1"])
def test_a_port_that_is_none(tmp_path, wrong):
    says(
        "LAB_PORT",
        wrong,
        "65535",
        result=cluster_up(PATH=pretended(tmp_path), LAB_PORT=wrong),
    )


# --- what tests/test_cluster.py is made of, with an engine that is pretended


def test_warnings_of_services_are_counted_without_times_and_numbers():
    logs = {
        "kafka": "kafka_1 | [2026-11-25 10:00:01,5] WARN took 5000 ms.\nkafka_1 | INFO x",
        "spark-worker-1": "w1 | 26/11/25 10:00:01 WARN NativeCodeLoader: none",
        "spark-worker-2": "w2 | 26/11/25 10:00:09 WARN NativeCodeLoader: none",
        "lab": "lab | [W 2026-11-25 10:00:00.1 ServerApp] odd\nlab | 0 WARNINGS",
    }
    assert compose_cluster.warnings(logs) == {
        "kafka: # # WARN took # ms.",
        "spark-worker: # # WARN NativeCodeLoader: none",
        "lab: [W # # ServerApp] odd",
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0B", 0), ("512KiB", 0.5), ("96.5MiB", 96.5), ("1.5GiB", 1536)],
)
def test_memory_is_read_as_the_engine_prints_it(text, expected):
    assert compose_cluster.megabytes(text) == expected


def with_docker(folder, cases):
    """PATH with a pretended `docker` first."""
    return f"{pretended(folder / 'bin', cases=cases)}{os.pathsep}{os.environ['PATH']}"


ON_PROJECT = f"compose --project-name {compose_cluster.PROJECT}"


@pytest.fixture
def worker(monkeypatch, tmp_path):
    """A cluster whose worker-2 is a file: there it runs, without it it is killed."""
    alive = tmp_path / "alive"
    labels = {"com.docker.compose.service": "worker-2"}
    state = {"Running": True, "Health": {"Status": "healthy"}}
    (tmp_path / "inspect").write_text(
        json.dumps([{"State": state, "Config": {"Labels": labels}}])
    )
    cases = f"""
"{ON_PROJECT} exec -T lab python -") exec {sys.executable} - {alive} ;;
"{ON_PROJECT} ps -a -q"*) echo c2 ;;
"{ON_PROJECT} up -d --no-recreate worker-2") touch {alive} ;;
"kill --signal KILL c2") rm {alive} ;;
"inspect c2") cat {tmp_path}/inspect ;;
"""
    monkeypatch.setenv("PATH", with_docker(tmp_path, cases))
    monkeypatch.setattr(compose_cluster, "JOBS", tmp_path)
    alive.touch()
    yield compose_cluster.ComposeCluster(["docker", "compose"], tmp_path / "logs")
    assert alive.exists()


JOB = """
import json, os, sys, time
end = time.monotonic() + 60
print("a word of Spark", flush=True)
for number in range(1_000_000):
    print(json.dumps({"number": number, "alive": os.path.exists(sys.argv[1])}), flush=True)
    if not os.path.exists(sys.argv[1]) or time.monotonic() > end:
        break
    time.sleep(0.01)
"""


def test_a_service_is_killed_under_a_job_and_started_again(worker, tmp_path, capsys):
    (tmp_path / "job.py").write_text(JOB)
    lines = worker.job_with_kill("job.py", lambda line: line["number"] > 3, "worker-2")
    assert [line["alive"] for line in (lines[0], lines[4], lines[-1])] == [1, 1, 0]
    assert "worker-2 again: 0 s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ("print('{}')", "job.py never got as far as the kill"),
        ("print('{}'); raise SystemExit('no answer')", r"job.py:\nno answer"),
    ],
)
def test_a_job_that_fails_says_why(worker, tmp_path, job, message):
    (tmp_path / "job.py").write_text(job)
    with pytest.raises(AssertionError, match=message):
        worker.job_with_kill("job.py", lambda line: False, "worker-2")


def cluster_test(path):
    """`make cluster-test` by another Python, with this PATH."""
    options = ("-q", "-rs", "-x", "-m", "containers", "-p", "no:cacheprovider")
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, "tests/test_cluster.py"],
        cwd=settings.ROOT,
        env=os.environ | {"PATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_without_an_engine_the_running_cluster_is_skipped_with_a_sentence(tmp_path):
    process = cluster_test(str(tmp_path))
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "No container engine is installed: install Docker Desktop" in output
    assert re.search(r"^\d+ skipped", output, flags=re.M)


@pytest.mark.parametrize("stopped", [False, True])
def test_a_cluster_that_does_not_start_is_removed(tmp_path, stopped):
    """The build fails, or somebody ends the tests while it lasts."""
    building, removed = tmp_path / "building", tmp_path / "removed"
    end = "exec sleep 300" if stopped else "echo no disk; exit 1"
    cases = f"""
"{ON_PROJECT} build lab") touch {building}; {end} ;;
"{ON_PROJECT} down --volumes") touch {removed} ;;
"""
    process = cluster_test(with_docker(tmp_path, cases))
    if stopped:
        assert until(building.exists, 120)
        process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == (2 if stopped else 1), output
    assert ("KeyboardInterrupt" if stopped else "no disk") in output
    assert removed.exists()
