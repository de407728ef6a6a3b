"""The secret by which the processes of a Spark cluster know each other.

Whoever reaches a port of Spark's runs code as its owner, unless the port asks for a
secret. Locally, on YARN and on Kubernetes Spark makes one for each application; a
standalone cluster has one for all of them, and that is made here. It travels by the
environment and by py4j, never by a command line, and stands in no setting of Spark's.

Source: https://spark.apache.org/docs/latest/security.html#authentication
"""

import secrets
from functools import cache
from pathlib import Path

from py4j.java_gateway import JavaGateway

from helpers import files, settings
from helpers.processes.folders import locked
from helpers.spark.runtime import ClusterError

VARIABLE = "_SPARK_AUTH_SECRET"  # SecurityManager.ENV_AUTH_SECRET in Spark's source
COOKIE = "sparkCookie"  # SecurityManager.SECRET_LOOKUP_KEY
# A standalone driver refuses to start without this setting, but looks for the secret in
# its user's credentials and in its environment first.
STANDALONE = {"spark.authenticate.secret": "is-in-the-environment"}


def conf(master: str) -> dict[str, str]:
    """The settings of Spark that a driver needs beside the secret itself."""
    return STANDALONE if _standalone(master) else {}


def environment(master: str = "spark://") -> dict[str, str]:
    """The variable with the secret, for a standalone cluster's daemons and for a driver
    of its own; empty where `master` is none. Raises ClusterError as `value` does.
    """
    return {VARIABLE: value()} if _standalone(master) else {}


def hand_over(gateway: JavaGateway, master: str) -> None:
    """Give the secret to a driver's JVM that runs already: in the credentials of its
    user, where an earlier session may have left one. Raises ClusterError as `value`
    does.
    """
    if _standalone(master):
        hadoop = gateway.jvm.org.apache.hadoop
        credentials = hadoop.security.Credentials()
        name = hadoop.io.Text(COOKIE)
        credentials.addSecretKey(name, bytearray(value(), "ascii"))
        hadoop.security.UserGroupInformation.getCurrentUser().addCredentials(
            credentials
        )


def value() -> str:
    """The secret of the cluster in use: an external one's lies in the file that the
    settings name, one of our own is of this Python alone.

    The first to ask for a file that is not there makes it. Raises ClusterError when an
    external cluster has none, or the file is not its owner's alone.
    """
    if file := settings.spark_secret():
        return _shared(file)
    master = settings.spark_master() or ""
    if _standalone(master):
        raise ClusterError(
            f"The secret of {master} is not known: set"
            " WORKSHOP_SPARK_SECRET to the file that holds it."
        )
    return _own()


@cache
def _own() -> str:
    return secrets.token_urlsafe(32)


def _shared(file: Path) -> str:
    try:
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            with locked(file.with_name(f"{file.name}.lock")):
                if not file.exists():
                    _write(file, secrets.token_urlsafe(32))
        if file.stat().st_mode & 0o077:
            raise ClusterError(
                f"Others may read {file}, which holds Spark's secret: write another one"
                " into it after `chmod 600`."
            )
        text = file.read_text().strip()
    except OSError as error:
        raise ClusterError(
            f"Spark's secret in {file} cannot be read ({error.strerror}): name a file"
            " of yours by WORKSHOP_SPARK_SECRET."
        ) from None
    if not text:
        raise ClusterError(f"{file} is empty: write Spark's secret into it.")
    return text


def _write(file: Path, text: str) -> None:
    with files.atomic(file) as unfinished:
        unfinished.touch(mode=0o600)
        unfinished.write_text(text)


def _standalone(master: str) -> bool:
    return master.startswith("spark://")
