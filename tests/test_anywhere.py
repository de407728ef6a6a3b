"""Codespaces, Binder, GitHub Actions and the Lab's extensions: the files are valid and
what they name exists.
"""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from contextlib import suppress

import pytest
import yaml
import zmq
from jupyter_client import BlockingKernelClient
from watch import listening, status, until

from helpers import settings
from helpers.java import jdk
from helpers.processes.ports import free_port
from tools import doctor

ROOT = settings.ROOT
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
DEVCONTAINER = ROOT / ".devcontainer" / "devcontainer.json"
BINDER = [ROOT / "postBuild", ROOT / "start"]
EXTENSIONS = ("jupyterlab-execute-time", "@jupyter-server/resource-usage")
# Properties of https://containers.dev/implementors/json_reference/ that we use, with
# their types.
CONTAINER_KEYS = {
    "name": str,
    "image": str,
    "hostRequirements": dict,
    "onCreateCommand": str,
    "postCreateCommand": str,
    "forwardPorts": list,
    "portsAttributes": dict,
    "customizations": dict,
}


def targets():
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))


def unknown(text):
    """Targets, modules and scripts that a text calls and that do not exist."""
    calls = set(re.findall(r"(?:^|run: |&& |\")make ([a-z-]+)", text, flags=re.M))
    missing = [f"make {name}" for name in sorted(calls - targets())]
    modules = re.findall(r"python -m ((?:helpers|tools)[.\w]+)", text)
    missing += [name for name in modules if importlib.util.find_spec(name) is None]
    return missing + [
        name
        for name in re.findall(r"run: (\.ci/\w+)", text)
        if not os.access(ROOT / name, os.X_OK)
    ]


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_workflows_are_valid(file):
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.github-workflows",
        file,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_an_invalid_workflow_is_noticed(tmp_path):
    broken = WORKFLOWS[0].read_text().replace("runs-on:", "runs_on:")
    (tmp_path / "broken.yml").write_text(broken)
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.github-workflows",
    ]
    assert (
        subprocess.run(
            [*command, tmp_path / "broken.yml"], capture_output=True
        ).returncode
        == 1
    )


@pytest.mark.parametrize(
    "file", [*WORKFLOWS, DEVCONTAINER, *BINDER], ids=lambda file: file.name
)
def test_what_is_called_exists(file):
    assert unknown(file.read_text()) == []


def test_a_call_of_nothing_is_noticed():
    assert unknown("make nothing && python -m helpers.nothing\n- run: .ci/nothing") == [
        "make nothing",
        "helpers.nothing",
        ".ci/nothing",
    ]


def test_every_change_is_tested_by_ci_run():
    test = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    assert {"run": ".ci/run"} in test["jobs"]["test"]["steps"]


def test_the_full_run_is_scheduled_and_kept():
    file = ROOT / ".github" / "workflows" / "full.yml"
    # YAML 1.1 reads `on` as true
    full = yaml.load(file.read_text(), Loader=yaml.BaseLoader)
    assert re.fullmatch(r"(\S+ ){4}\S+", full["on"]["schedule"][0]["cron"])
    steps = full["jobs"]["full"]["steps"]
    assert {"run": "make run SCALE=full"} in steps
    kept = next(step for step in steps if "upload-artifact" in step.get("uses", ""))
    assert kept["if"] == "always()"
    assert "build/runs/full" in kept["with"]["path"]


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_workflows_use_the_same_versions(file):
    for job in yaml.safe_load(file.read_text())["jobs"].values():
        given = {
            key: value
            for step in job["steps"]
            for key, value in step.get("with", {}).items()
        }
        assert (given["python-version"], given["java-version"]) == (
            ".".join(map(str, doctor.PYTHON)),
            str(jdk.JAVA),
        )


def test_the_dev_container():
    described = json.loads(DEVCONTAINER.read_text())
    assert {key: type(value) for key, value in described.items()} == CONTAINER_KEYS
    assert ":3.11-" in described["image"]
    assert f"openjdk-{jdk.JAVA}-" in described["onCreateCommand"]
    assert set(described["forwardPorts"]) == set(doctor.PORTS)
    assert {int(port) for port in described["portsAttributes"]} == set(doctor.PORTS)


@pytest.mark.parametrize("file", BINDER, ids=lambda file: file.name)
def test_binder_files_can_be_run(file):
    assert os.access(file, os.X_OK)
    assert subprocess.run(["sh", "-n", file]).returncode == 0


def test_binder_starts_small():
    said = subprocess.run(
        [ROOT / "start", "sh", "-c", "echo $WORKSHOP_SCALE"],
        capture_output=True,
        text=True,
    ).stdout
    assert said.strip() == "tiny"


@pytest.mark.parametrize("name", EXTENSIONS)
def test_extensions_are_enabled_in_the_lab(name):
    done = subprocess.run(
        [sys.executable, "-m", "jupyter", "labextension", "list"],
        capture_output=True,
        text=True,
    )
    listed = re.sub(r"\x1b\[\d+m", "", done.stdout + done.stderr)
    assert re.search(rf"{re.escape(name)} v\S+ enabled OK", listed), listed


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The Lab as `make lab` starts it, but for the browser: its process, its address
    and the folder of its connections.
    """
    said = subprocess.run(
        ["make", "--no-print-directory", "-n", "lab"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    command = shlex.split(said.replace("\\\n", ""))
    command = command[command.index(".venv/bin/jupyter") + 1 :]
    # a folder of its own for connections, so that a test finds the kernel's
    connections = tmp_path_factory.mktemp("runtime")
    log = tmp_path_factory.mktemp("lab") / "log"
    environment = os.environ | {
        "JUPYTER_TOKEN": "secret",
        "JUPYTER_RUNTIME_DIR": str(connections),
    }
    with log.open("w") as errors:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyter", *command),
                *("--no-browser", "--port", str(free_port()), "--allow-root"),
            ],
            cwd=ROOT,
            env=environment,
            stderr=errors,
        )
    try:
        # it takes another port than the one asked for when that has just been taken
        written = connections / f"jpserver-{process.pid}.json"
        assert until(written.exists, 180), log.read_text()
        address = json.loads(written.read_text())["url"].rstrip("/")
        up = f"{address}/api/status?token=secret"
        assert until(lambda: status(up) == 200, 60), log.read_text()
        yield process, address, connections
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.security
def test_the_lab_tells_memory_to_its_owner_only(lab):
    _, address, _ = lab
    with urllib.request.urlopen(
        f"{address}/api/metrics/v1?token=secret", timeout=20
    ) as answer:
        assert json.load(answer)["rss"] > 10_000_000
    assert status(f"{address}/api/metrics/v1") == 403


@pytest.mark.security
def test_the_lab_listens_on_loopback_only(lab):
    process, _, _ = lab
    assert {host for (host, _), _ in listening(process.pid)} == {"127.0.0.1"}


def _ready(client):
    """Whether the kernel answers; while it starts it counts as dead."""
    with suppress(RuntimeError):
        client.wait_for_ready(60)
        return True


@pytest.mark.security
def test_nobody_reads_along_what_a_kernel_prints(lab):
    """Who listens at the port of a kernel's output without its key gets nothing."""
    _, address, connections = lab
    request = urllib.request.Request(
        f"{address}/api/kernels?token=secret", data=b"{}", method="POST"
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        kernel = json.load(answer)["id"]
    client = BlockingKernelClient(
        connection_file=str(connections / f"kernel-{kernel}.json")
    )
    client.load_connection_file()
    client.start_channels()
    assert until(lambda: _ready(client), 60)
    listener = zmq.Context.instance().socket(zmq.SUB)
    listener.subscribe(b"")
    listener.connect(client._make_url("iopub"))
    said = []
    try:
        # several times, so that a listener that is let in has time to be there
        for _ in range(10):
            client.execute_interactive("print('mine')", output_hook=said.append)
            overheard = listener.poll(200)
            assert not overheard, listener.recv_multipart()
    finally:
        listener.close(0)
        client.stop_channels()
    printed = [one["content"].get("text") for one in said]
    assert printed.count("mine\n") == 10


def test_the_lab_keeps_the_time_of_each_cell(lab):
    _, address, _ = lab
    url = f"{address}/lab/api/settings/@jupyterlab/notebook-extension:tracker?token=secret"
    with urllib.request.urlopen(url, timeout=20) as answer:
        assert (
            json.load(answer)["schema"]["properties"]["recordTiming"]["default"] is True
        )


@pytest.mark.security
def test_the_containers_lab_wants_its_token_also_when_none_is_set(
    monkeypatch, tmp_path
):
    """Compose gives an empty JUPYTER_TOKEN where its reader gives none: the Lab then
    makes one up, and wants it.
    """
    # what start.py changes is changed back
    monkeypatch.setenv("WORKSHOP_DRIVER_HOST", "")
    from docker import start

    (tmp_path / "notes.txt").write_text("mine alone")

    given = [
        part
        for part in map(str, start.lab().command)
        if not part.startswith(("--ip", "--port", "--notebook-dir"))
    ]
    assert not [
        part for part in given if "token" in part.lower() or "password" in part.lower()
    ]
    port = free_port()
    here = [
        f"--port={port}",
        "--ip=127.0.0.1",
        f"--notebook-dir={tmp_path}",
        "--allow-root",
    ]
    environment = os.environ | {
        "JUPYTER_TOKEN": "",
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", *given, *here],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert until(lambda: status(f"http://127.0.0.1:{port}/api") == 200, 60)
        for page in ("api/contents", "api/kernels", "api/terminals"):
            assert status(f"http://127.0.0.1:{port}/{page}") == 403, page
            assert status(f"http://127.0.0.1:{port}/{page}?token=") == 403, page
        with urllib.request.urlopen(
            f"http://127.0.0.1:{port}/files/notes.txt", timeout=20
        ) as page:
            assert ("/login" in page.url, b"mine alone" in page.read()) == (True, False)
        (server,) = (tmp_path / "runtime").glob("jpserver-*.json")
        token = json.loads(server.read_text())["token"]
        assert len(token) >= 40
        assert status(f"http://127.0.0.1:{port}/api/contents?token={token}") == 200
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.security
def test_nothing_of_the_lab_is_open_without_its_token(lab):
    _, address, _ = lab
    for page in ("api/contents", "api/kernels", "api/terminals", "api/sessions"):
        assert (
            status(f"{address}/{page}"),
            status(f"{address}/{page}?token=secret"),
        ) == (403, 200), page
