"""How Ignite's processes are started: Java's flags, the class path, our properties."""

import os
from pathlib import Path
from typing import Any

from helpers import settings
from helpers.java import artefacts, class_archives, jdk
from helpers.processes.recipe import Recipe

CONFIG = settings.JVM / "ignite" / "server.xml"
# Java 17 has to open these packages to Ignite:
# https://ignite.apache.org/docs/latest/quick-start/java
OPENED = """
java.base/jdk.internal.access java.base/jdk.internal.misc java.base/sun.nio.ch
java.base/sun.util.calendar java.base/sun.reflect.generics.reflectiveObjects
java.base/java.io java.base/java.nio java.base/java.net java.base/java.util
java.base/java.util.concurrent java.base/java.util.concurrent.locks
java.base/java.util.concurrent.atomic java.base/java.lang java.base/java.lang.invoke
java.base/java.lang.reflect java.base/java.math java.base/java.time java.base/java.text
java.management/com.sun.jmx.mbeanserver java.management/sun.management
jdk.internal.jvmstat/sun.jvmstat.monitor jdk.management/com.sun.management.internal
java.sql/java.sql java.desktop/java.awt.font
"""


def java(heap: int, *options: str) -> list[str]:
    """The beginning of a command that runs a class of Ignite with `heap` MB: Java 17,
    its flags and the class path.
    """
    opens = [f"--add-opens={package}=ALL-UNNAMED" for package in OPENED.split()]
    quiet = [
        "-DIGNITE_UPDATE_NOTIFIER=false",
        "-DIGNITE_NO_ASCII=true",
        "-Djava.net.preferIPv4Stack=true",
    ]
    memory = [
        f"-Xmx{heap}m",
        "-XX:+UseSerialGC",
        "-XX:+ExitOnOutOfMemoryError",
        *class_archives.options("ignite"),
    ]
    path = os.pathsep.join(map(str, artefacts.jars("ignite")))
    return [str(jdk.java()), *memory, *opens, *quiet, *options, "-cp", path]


def properties(
    name: str,
    folder: Path,
    host: str,
    port: int,
    discovery_port: int,
    discovery: str,
    **more: object,
) -> list[str]:
    """What CONFIG asks of a member of the cluster, as options of Java.

    It writes into `folder`, listens on `host` at both ports and finds the others at
    `discovery` (host:port,host:port). `more` are CONFIG's others: region (MB),
    persistent, authentication, client, and tls, the folder of the certificates (None:
    everybody gets in).
    """
    values = {
        "node": name,
        "folder": folder,
        "host": host,
        "port": port,
        "discovery.port": discovery_port,
        "discovery.addresses": discovery,
        **more,
    }
    return [
        f"-Dworkshop.{key}={value}"
        for key, value in values.items()
        if value is not None
    ]


def node(heap: int, **values: Any) -> Recipe:
    """A server node of `heap` MB; `values` are those of `properties`."""
    main = ("org.apache.ignite.startup.cmdline.CommandLineStartup", CONFIG)
    return Recipe([*java(heap, *properties(**values)), *main], jdk.LOCALE)
