"""Become the service of this container: the recipes are the helpers', the addresses
this container's.

python start.py spark-master | spark-worker | ignite | kafka | lab
python start.py executor | driver ARGUMENTS...
    on Kubernetes: Spark starts its Pods with these words
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

from helpers import settings
from helpers.processes.recipe import Recipe

HOST = socket.gethostname()
HEAP = int(os.environ.get("SERVICE_HEAP", "256"))  # MB
FILES = Path("/tmp")
EVENTS = Path("/data/kafka")


def spark_master() -> Recipe:
    """Spark's standalone master: 7077, web UI on 8080."""
    from helpers.spark import recipe

    return recipe.master(HOST, 7077, 8080, _spark_logging())


def spark_worker() -> Recipe:
    """A worker of one core, web UI on 8081."""
    from helpers.spark import recipe, runtime

    folder = runtime.folder(f"workers/{HOST}")
    worker = recipe.worker(
        settings.spark_master(), HOST, 1, f"{HEAP}m", folder, _spark_logging(), 8081
    )
    local = {"SPARK_LOCAL_DIRS": str(folder)}
    return Recipe(worker.command, worker.environment | local)


def ignite() -> Recipe:
    """A node that holds data in memory: clients on 10800, the other nodes on 47500.

    Where WORKSHOP_IGNITE_TLS names a folder only who can read the certificates in it
    gets in; the first node makes them.
    """
    from helpers.ignite import certificates, recipe

    tls = settings.ignite_tls()
    if tls:
        certificates.share(tls, *(host for host, _ in settings.ignite()))
    folder = FILES / "ignite"
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    return recipe.node(
        HEAP,
        name=os.environ["IGNITE_NODE"],
        folder=folder,
        host=HOST,
        port=10800,
        discovery_port=47500,
        discovery=settings.ignite_discovery(),
        region=os.environ["IGNITE_REGION"],
        tls=tls,
    )


def kafka() -> Recipe:
    """A broker that is its own controller: 9092. Formats its volume once."""
    from helpers.kafka import recipe

    properties = FILES / "server.properties"
    recipe.write_properties(properties, EVENTS, HOST, 9092, 9093)
    if not (EVENTS / "meta.properties").exists():
        step = recipe.format_storage(properties, HEAP, recipe.cluster_id())
        subprocess.run(step.command, check=True)
    return recipe.broker(properties, HEAP)


def lab() -> Recipe:
    """JupyterLab, open on the learner copies, which are written first; without
    JUPYTER_TOKEN it makes up a token and prints it.
    """
    subprocess.run([sys.executable, "-m", "tools.learner"])
    command = ["jupyter", "lab", "--ip=0.0.0.0", "--port=8888", "--no-browser"]
    command += ["--notebook-dir=/workshop", "--LabApp.default_url=/lab/tree/learner"]
    # what a kernel prints goes over ports that everybody on the machine reaches
    command += ["--MappingKernelManager.transport_encryption=auto"]
    return Recipe(command)


def executor(*_arguments: str) -> Recipe:
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
    java += [f"-Xms{given['EXECUTOR_MEMORY']}", f"-Xmx{given['EXECUTOR_MEMORY']}"]
    java += ["-cp", f"{runtime.home()}/jars/*"]
    who = {
        "driver-url": "DRIVER_URL",
        "executor-id": "EXECUTOR_ID",
        "cores": "EXECUTOR_CORES",
        "app-id": "APPLICATION_ID",
        "hostname": "EXECUTOR_POD_IP",
        "resourceProfileId": "RESOURCE_PROFILE_ID",
        "podName": "EXECUTOR_POD_NAME",
    }
    backend = ["org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend"]
    for option, name in who.items():
        backend += [f"--{option}", given[name]]
    return Recipe([*java, *backend])


def driver(*arguments: str) -> Recipe:
    """The driver in a Pod, for spark-submit --deploy-mode cluster; `arguments` are
    spark-submit's.
    """
    from helpers.spark import runtime

    address = os.environ["SPARK_DRIVER_BIND_ADDRESS"]
    bind = ["--conf", f"spark.driver.bindAddress={address}", "--deploy-mode", "client"]
    command = [runtime.home() / "bin" / "spark-submit", *bind, *arguments]
    return Recipe(command, runtime.environment() | {"SPARK_LOCAL_IP": address})


def _spark_logging() -> Path:
    from helpers.spark import recipe

    file = FILES / "log4j2.properties"
    recipe.write_logging(file)
    return file


ROLES = {
    "spark-master": spark_master,
    "spark-worker": spark_worker,
    "ignite": ignite,
    "kafka": kafka,
    "lab": lab,
    "executor": executor,
    "driver": driver,
}

if __name__ == "__main__":
    # whatever runs here is reached by the container's name
    os.environ["WORKSHOP_DRIVER_HOST"] = HOST
    role, *arguments = sys.argv[1:]
    recipe = ROLES[role](*arguments)
    os.environ.update(recipe.environment)
    command = [str(part) for part in recipe.command]
    os.execvp(command[0], command)
