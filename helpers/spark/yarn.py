"""YARN on loopback: Hadoop's resource manager and a node manager in one JVM, which
start real containers.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psutil
from py4j.java_gateway import JavaGateway

from helpers import settings
from helpers.java import artefacts, class_archives, jdk
from helpers.java.gateway import gateway
from helpers.processes import supervisor
from helpers.processes.folders import own_folder, remove
from helpers.spark import runtime
from helpers.spark.runtime import ClusterError, Manager, executors_below

DISK_CHECK = "yarn.nodemanager.disk-health-checker"
CONNECT_MILLISECONDS = 60_000
# Hadoop's own classes have to reach into these: https://hadoop.apache.org/docs/stable/
# (Java 17 support)
OPENED = ("java.base/java.lang", "java.base/java.util")
LOGGERS = (
    "slf4j-api-2*",
    "log4j-api-*",
    "log4j-core-*",
    "log4j-slf4j2-impl-*",
    "log4j-1.2-api-*",
)


@dataclass
class Yarn(Manager):
    """A running YARN: `folder` has its log and those of the containers, `pid` is its
    JVM.
    """

    pid: int = 0
    folder: Path = Path()

    def executors(self) -> list[psutil.Process]:
        """Spark's executors in YARN's containers, each a process."""
        return executors_below(self.pid)

    def kill(self, executor: psutil.Process) -> None:
        """End an executor as a crash would."""
        executor.kill()

    def container_logs(self) -> dict[str, str]:
        """What every container has written to stdout so far, by its name."""
        return {
            log.parent.name: log.read_text(errors="replace")
            for log in self.folder.rglob("container_*/stdout")
        }


@contextmanager
def yarn(memory_mb: int = 4096, cores: int = 4, heap: str = "384m") -> Iterator[Yarn]:
    """A resource manager and a node manager that offers `memory_mb` and `cores` to
    containers; ended with the block.

    Containers are processes of this machine and read its files; there is no HDFS.
    Raises ProcessError when the JVM does not start, ClusterError when the managers do
    not find each other, JavaError without its artefacts.
    """
    folder = own_folder(settings.build_dir() / "spark", "yarn")
    conf = folder / "conf"
    conf.mkdir()
    try:
        # The scripts that start containers do not quote their folders, which have no
        # space or apostrophe when they are reached by this link.
        with (
            tempfile.TemporaryDirectory() as plain,
            gateway(_java(folder, heap, plain), folder, "yarn") as (opened, child),
        ):
            ui = _start(opened, folder, _settings(memory_mb, cores))
            print(f"YARN, {memory_mb} MB and {cores} cores for containers, UI at {ui}")
            yield Yarn(
                "yarn", ui, _spark_settings(), _environment(conf), child.pid, folder
            )
    finally:
        remove(folder)


def _java(folder: Path, heap: str, plain: str) -> list[object]:
    link = Path(plain, "yarn")
    link.symlink_to(folder)
    log4j = folder / "log4j2.properties"
    log4j.write_text(runtime.logging("warn"))
    loggers = [
        jar for name in LOGGERS for jar in (runtime.home() / "jars").glob(f"{name}.jar")
    ]
    jars = [
        *loggers,
        *(
            jar
            for jar in artefacts.jars("yarn")
            if not jar.name.startswith("slf4j-api-1")
        ),
    ]
    return [
        *(
            jdk.java(),
            f"-Xmx{heap}",
            "-XX:+UseSerialGC",
            jdk.QUICK_COMPILER,
            "-Djava.net.preferIPv4Stack=true",
        ),
        *(
            *class_archives.options("yarn"),
            *(f"--add-opens={package}=ALL-UNNAMED" for package in OPENED),
        ),
        *(
            f"-Dlog4j2.configurationFile={log4j.as_uri()}",
            f"-Dtest.build.data={link / 'data'}",
        ),
        *(f"-Dhadoop.log.dir={link / 'logs'}", "-cp", os.pathsep.join(map(str, jars))),
    ]


def _settings(memory_mb: int, cores: int) -> dict[str, str]:
    """Hadoop's settings that differ from its defaults: loopback, one queue, small
    containers, no checks of the disk.
    """
    return {
        "yarn.minicluster.fixed.ports": "false",
        "yarn.resourcemanager.hostname": "127.0.0.1",
        "yarn.nodemanager.hostname": "127.0.0.1",
        "yarn.resourcemanager.bind-host": "127.0.0.1",
        "yarn.nodemanager.bind-host": "127.0.0.1",
        "yarn.nodemanager.resource.memory-mb": str(memory_mb),
        "yarn.minicluster.yarn.nodemanager.resource.memory-mb": str(memory_mb),
        "yarn.nodemanager.resource.cpu-vcores": str(cores),
        "yarn.scheduler.minimum-allocation-mb": "128",
        "yarn.scheduler.capacity.maximum-am-resource-percent": "0.9",
        "yarn.scheduler.capacity.root.queues": "default",
        "yarn.scheduler.capacity.root.default.capacity": "100",
        "yarn.nodemanager.vmem-check-enabled": "false",
        f"{DISK_CHECK}.max-disk-utilization-per-disk-percentage": "99.9",
        # logs stay until the folder goes
        "yarn.nodemanager.delete.debug-delay-sec": "600",
        # handed to that delay at once, for the managers' end waits for it
        "yarn.nodemanager.log.retain-seconds": "0",
        "yarn.nodemanager.env-whitelist": (
            "JAVA_HOME,PATH,LC_ALL,TZ,HADOOP_CONF_DIR,PYSPARK_PYTHON,SPARK_HOME,"
            # containers leave our process group: this is how a later start knows them
            + supervisor.MARK
        ),
        "yarn.application.classpath": os.pathsep.join(map(str, artefacts.jars("yarn"))),
    }


def _start(opened: JavaGateway, folder: Path, given: dict[str, str]) -> str:
    """Start both managers and write the files that HADOOP_CONF_DIR names; the web UI's
    address.
    """
    java = opened.jvm
    configuration = java.org.apache.hadoop.yarn.conf.YarnConfiguration()
    for key, value in given.items():
        configuration.set(key, value)
    managers = java.org.apache.hadoop.yarn.server.MiniYARNCluster("workshop", 1, 1, 1)
    managers.init(configuration)
    hook = java.org.apache.hadoop.service.CompositeService.CompositeServiceShutdownHook(
        managers
    )
    # ends the containers too
    java.java.lang.Runtime.getRuntime().addShutdownHook(java.java.lang.Thread(hook))
    managers.start()
    if not managers.waitForNodeManagersToConnect(CONNECT_MILLISECONDS):
        raise ClusterError(
            "YARN's node manager has not found its resource manager within a minute."
        )
    written = java.org.apache.hadoop.conf.Configuration(managers.getConfig())
    for name in ("core-site.xml", "yarn-site.xml"):
        stream = java.java.io.FileOutputStream(str(folder / "conf" / name))
        written.writeXml(stream)
        stream.close()
    return f"http://{written.get('yarn.resourcemanager.webapp.address')}"


def _spark_settings() -> dict[str, str]:
    """One place for Spark's jars, this Python and loopback in every container."""
    inside = {
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": settings.listen_host(),
    }
    return {
        # else every job uploads some 400 MB
        "spark.yarn.jars": f"local:{quote(str(runtime.home()))}/jars/*",
        "spark.yarn.am.memory": "384m",
        # YARN would put its proxy's filter before it, of another servlet API
        "spark.ui.enabled": "false",
        **{f"spark.yarn.appMasterEnv.{name}": value for name, value in inside.items()},
        **{f"spark.executorEnv.{name}": value for name, value in inside.items()},
    }


def _environment(conf: Path) -> dict[str, str]:
    return {"HADOOP_CONF_DIR": str(conf), "YARN_CONF_DIR": str(conf)}
