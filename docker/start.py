"""Become the service of this container: the command lines are those of the helpers,
with this container's addresses.

python start.py spark-master | spark-worker | ignite | kafka | lab python start.py
executor | driver ARGUMENTS... on Kubernetes: Spark starts its Pods with these words
"""

import base64
import os
import socket
import subprocess
import sys
import uuid
from pathlib import Path

HOST = socket.gethostname()
os.environ["WORKSHOP_DRIVER_HOST"] = (
    HOST  # whatever runs here is reached by the container's name
)
HEAP = os.environ.get("SERVICE_HEAP", "256") + "m"


def spark_master() -> list[object]:
    """Spark's standalone master: 7077, web UI on 8080."""
    return _spark("master.Master", "--host", HOST, "--port", 7077, "--webui-port", 8080)


def spark_worker() -> list[object]:
    """A worker of one core, web UI on 8081."""
    from helpers import settings

    folder = settings.build_dir() / "spark" / "workers" / HOST
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["SPARK_LOCAL_DIRS"] = str(folder)
    place = ("--host", HOST, "--webui-port", 8081, "--work-dir", folder)
    return _spark(
        "worker.Worker", *place, "--cores", 1, "--memory", HEAP, settings.spark_master()
    )


def ignite() -> list[object]:
    """A node that holds data in memory: clients on 10800, the other nodes on 47500."""
    from helpers import settings
    from helpers.ignite import nodes as ignite

    folder = Path("/tmp/ignite")
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    properties = {
        "workshop.node": os.environ["IGNITE_NODE"],
        "workshop.folder": folder,
        "workshop.host": HOST,
        "workshop.port": 10800,
        "workshop.discovery.port": 47500,
        "workshop.discovery.addresses": settings.ignite_discovery(),
        "workshop.region": os.environ["IGNITE_REGION"],
    }
    given = [f"-D{key}={value}" for key, value in properties.items()]
    return [
        *ignite.java(HEAP, *given),
        "org.apache.ignite.startup.cmdline.CommandLineStartup",
        ignite.CONFIG,
    ]


def kafka() -> list[object]:
    """A broker that is its own controller: 9092. Formats its volume once."""
    from helpers.java import artefacts, jdk
    from helpers.kafka import broker as kafka

    text = kafka.TEMPLATE.read_text().replace(
        "PLAINTEXT://127.0.0.1:@PORT@", f"PLAINTEXT://{HOST}:9092"
    )
    properties = Path("/tmp/server.properties")
    properties.write_text(
        text.replace("@CONTROLLER_PORT@", "9093").replace("@DATA@", "/data/kafka")
    )
    path = os.pathsep.join(map(str, artefacts.jars("kafka")))
    java = [
        jdk.java(),
        f"-Xmx{HEAP}",
        "-XX:+UseSerialGC",
        "-XX:+ExitOnOutOfMemoryError",
    ]
    java += [f"-Dlog4j2.configurationFile={kafka.LOG4J.as_uri()}", "-cp", path]
    if not Path("/data/kafka/meta.properties").exists():
        cluster = (
            base64.urlsafe_b64encode(uuid.uuid4().bytes)
            .decode()
            .rstrip("=")
            .replace("-", "A")
        )
        subprocess.run(
            [
                *java,
                "kafka.tools.StorageTool",
                "format",
                "--standalone",
                "-t",
                cluster,
                "-c",
                properties,
            ],
            check=True,
        )
    return [*java, "kafka.Kafka", properties]


def lab() -> list[object]:
    """JupyterLab, open on the learner copies, written before; without JUPYTER_TOKEN it
    makes up a token and prints it.
    """
    subprocess.run([sys.executable, "-m", "tools.learner"])
    place = ["--notebook-dir=/workshop", "--LabApp.default_url=/lab/tree/learner"]
    return ["jupyter", "lab", "--ip=0.0.0.0", "--port=8888", "--no-browser", *place]


def executor(*_given: str) -> list[object]:
    """An executor in a Pod: Spark on Kubernetes says by the environment who and where
    its driver is.
    """
    from helpers.java import jdk
    from helpers.spark import runtime

    given = {
        name.removeprefix("SPARK_"): value
        for name, value in os.environ.items()
        if name.startswith("SPARK_")
    }
    options = sorted(
        (name for name in given if name.startswith("JAVA_OPT_")),
        key=lambda name: int(name[9:]),
    )
    java = [jdk.java(), *(given[name] for name in options)]
    java += [
        f"-Xms{given['EXECUTOR_MEMORY']}",
        f"-Xmx{given['EXECUTOR_MEMORY']}",
        "-cp",
        f"{runtime.home()}/jars/*",
    ]
    who = {
        "driver-url": "DRIVER_URL",
        "executor-id": "EXECUTOR_ID",
        "cores": "EXECUTOR_CORES",
        "app-id": "APPLICATION_ID",
        "hostname": "EXECUTOR_POD_IP",
        "resourceProfileId": "RESOURCE_PROFILE_ID",
        "podName": "EXECUTOR_POD_NAME",
    }
    told = [
        part for option, name in who.items() for part in (f"--{option}", given[name])
    ]
    return [
        *java,
        "org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend",
        *told,
    ]


def driver(*given: str) -> list[object]:
    """The driver in a Pod, for spark-submit --deploy-mode cluster; `given` are
    spark-submit's arguments.
    """
    from helpers.spark import runtime

    address = os.environ["SPARK_DRIVER_BIND_ADDRESS"]
    os.environ.update(runtime.environment() | {"SPARK_LOCAL_IP": address})
    bind = ["--conf", f"spark.driver.bindAddress={address}", "--deploy-mode", "client"]
    return [runtime.home() / "bin" / "spark-submit", *bind, *given]


def _spark(name: str, *arguments: object) -> list[object]:
    from helpers.spark import runtime

    log4j = Path("/tmp/log4j2.properties")
    log4j.write_text(runtime.logging("info"))
    options = (
        f"-XX:+UseSerialGC -Dlog4j2.configurationFile={log4j}"
        " -Dspark.worker.cleanup.enabled=true"
    )
    os.environ.update(
        runtime.environment()
        | {"SPARK_DAEMON_MEMORY": "128m", "SPARK_DAEMON_JAVA_OPTS": options}
    )
    return [
        runtime.home() / "bin" / "spark-class",
        f"org.apache.spark.deploy.{name}",
        *arguments,
    ]


if __name__ == "__main__":
    command = [
        str(part) for part in globals()[sys.argv[1].replace("-", "_")](*sys.argv[2:])
    ]
    os.execvp(command[0], command)
