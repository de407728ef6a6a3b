"""Where things are, how large a run is: the only module that reads the environment."""

import os
import re
from pathlib import Path

from helpers import locks
from helpers.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"
NOTEBOOKS = ROOT / "notebooks"
LEARNER = ROOT / "learner"
JVM = ROOT / "jvm"
SCALES = ("tiny", "full")
DEVICES = ("cpu", "gpu")


class SettingError(InputError):
    """A setting that cannot be used; the message says what to write instead."""


def build_dir() -> Path:
    """Folder of everything generated (jars, the design matrix, executed lessons); safe
    to delete.

    Raises SettingError when WORKSHOP_BUILD names a file, or a folder that the lessons'
    %%writefile cannot write to.
    """
    folder = Path(os.environ.get("WORKSHOP_BUILD") or ROOT / "build").resolve()
    if folder.exists() and not folder.is_dir():
        raise SettingError(
            f"WORKSHOP_BUILD: {folder} is no folder: name one, or leave the setting"
            " out."
        )
    # below this project the lessons name their files from where they run
    if re.search(r"[\s'\"]", str(folder)) and not folder.is_relative_to(ROOT):
        raise SettingError(
            f"WORKSHOP_BUILD: the lessons cannot write to {folder}, whose name has a"
            " space or a quote: use another name, or leave the setting out."
        )
    return folder


def lesson_dir(lesson: str) -> Path:
    """A lesson's own folder for what it writes, made if need be; relative to where the
    lesson runs, if it can be.

    Another run of it at the same time has another one: 01_spark_mllib-2. Raises
    LockError.
    """
    folder = locks.claim(build_dir() / "lessons" / lesson)
    return Path(os.path.relpath(folder)) if folder.is_relative_to(ROOT) else folder


def scale(value: str | None = None) -> str:
    """The scale of a run, "tiny" or "full": `value`, else WORKSHOP_SCALE, else "full".

    Raises SettingError for any other word.
    """
    chosen = value or os.environ.get("WORKSHOP_SCALE") or "full"
    if chosen not in SCALES:
        raise SettingError(f"Unknown scale {chosen!r}: use one of {', '.join(SCALES)}.")
    return chosen


def cell_limit(default: int) -> int:
    """Seconds that a cell of a lesson may take under `make run` (WORKSHOP_CELL_LIMIT),
    `default` if it is not set. Raises SettingError.
    """
    return _whole("WORKSHOP_CELL_LIMIT", default, 1, 604_800)


def device() -> str:
    """Where the deep-learning engines compute, "cpu" or "gpu" (WORKSHOP_DEVICE);
    without a GPU it is the CPU.

    Raises SettingError for any other word.
    """
    chosen = os.environ.get("WORKSHOP_DEVICE") or "cpu"
    if chosen not in DEVICES:
        raise SettingError(
            f"Unknown device {chosen!r}: use one of {', '.join(DEVICES)}."
        )
    return chosen


def spark_master() -> str | None:
    """Master URL of an external Spark cluster (WORKSHOP_SPARK_MASTER), or None for
    local processes.

    Raises SettingError for what is no master URL.
    """
    url = os.environ.get("WORKSHOP_SPARK_MASTER") or None
    if url and not re.fullmatch(r"yarn|local(\[.+\])?|(spark|k8s)://.+", url):
        raise SettingError(
            f"WORKSHOP_SPARK_MASTER: {url!r} is no master URL, as"
            " spark://spark-master:7077 is one."
        )
    return url


def spark_master_ui() -> str:
    """Address of the external Spark master's web UI (WORKSHOP_SPARK_MASTER_UI)."""
    return os.environ.get("WORKSHOP_SPARK_MASTER_UI") or "http://127.0.0.1:8080"


def spark_secret() -> Path | None:
    """File with the secret of an external standalone cluster (WORKSHOP_SPARK_SECRET),
    or None.
    """
    file = os.environ.get("WORKSHOP_SPARK_SECRET")
    return Path(file) if file else None


def spark_driver_host() -> str | None:
    """Name or address by which an external cluster reaches this driver
    (WORKSHOP_DRIVER_HOST), or None: loopback.
    """
    return os.environ.get("WORKSHOP_DRIVER_HOST") or None


def executor_memory() -> str | None:
    """Heap of an executor on an external Spark cluster (WORKSHOP_EXECUTOR_MEMORY), or
    None for Spark's own 1g.

    Raises SettingError for what is no size.
    """
    size = os.environ.get("WORKSHOP_EXECUTOR_MEMORY") or None
    if size and not re.fullmatch(r"[1-9]\d*[mg]", size):
        raise SettingError(
            f"WORKSHOP_EXECUTOR_MEMORY: {size!r} is not a size, as 640m or 1g is one."
        )
    return size


def listen_host() -> str:
    """The address on which servers started here listen: loopback, or the name by which
    an external cluster reaches us.
    """
    return spark_driver_host() or "127.0.0.1"


def ignite() -> list[tuple[str, int]]:
    """Client addresses of an external Ignite cluster
    (WORKSHOP_IGNITE=host:port,host:port); empty for local nodes.

    Raises SettingError for what is not a list of host:port.
    """
    return _addresses("WORKSHOP_IGNITE", "ignite-1:10800,ignite-2:10800")


def ignite_discovery() -> str:
    """Where a client node asks for the external Ignite cluster
    (WORKSHOP_IGNITE_DISCOVERY=host:47500,...).

    Raises SettingError when it is not set.
    """
    addresses = os.environ.get("WORKSHOP_IGNITE_DISCOVERY")
    if not addresses:
        raise SettingError(
            "WORKSHOP_IGNITE_DISCOVERY is not set: name the cluster's discovery"
            " addresses, host:47500."
        )
    return addresses


def ignite_tls() -> Path | None:
    """Folder of the external Ignite cluster's certificates (WORKSHOP_IGNITE_TLS), or
    None: that cluster lets everybody in.
    """
    folder = os.environ.get("WORKSHOP_IGNITE_TLS")
    return Path(folder) if folder else None


def model_file() -> Path:
    """The scoring service's model, a JSON file (WORKSHOP_MODEL). Raises SettingError
    when it is not set.
    """
    file = os.environ.get("WORKSHOP_MODEL")
    if not file:
        raise SettingError(
            "WORKSHOP_MODEL is not set: name the model's JSON file, which lesson 07"
            " writes."
        )
    return Path(file)


def service_host() -> str:
    """Address that the scoring service listens on (WORKSHOP_SERVICE_HOST), 127.0.0.1 if
    it is not set.
    """
    return os.environ.get("WORKSHOP_SERVICE_HOST") or "127.0.0.1"


def service_port() -> int:
    """Port of the scoring service (WORKSHOP_SERVICE_PORT), 8000 if it is not set.
    Raises SettingError.
    """
    return _whole("WORKSHOP_SERVICE_PORT", 8000, 1, 65_535)


def service_health_port() -> int:
    """Port of the scoring service's probes and metrics (WORKSHOP_SERVICE_HEALTH_PORT),
    8001 if it is not set. Raises SettingError.
    """
    return _whole("WORKSHOP_SERVICE_HEALTH_PORT", 8001, 1, 65_535)


def service_patience() -> int:
    """Seconds that a request may take to come, from its connection to its last byte
    (WORKSHOP_SERVICE_PATIENCE). Raises SettingError.
    """
    return _whole("WORKSHOP_SERVICE_PATIENCE", 10, 1, 600)


def service_store_budget() -> int:
    """Milliseconds that a request may wait for the store
    (WORKSHOP_SERVICE_STORE_BUDGET); Ignite is silent for 1,500 when a node dies. Raises
    SettingError.
    """
    return _whole("WORKSHOP_SERVICE_STORE_BUDGET", 2_000, 10, 60_000)


def service_threads() -> int:
    """How many requests the scoring service works on at once
    (WORKSHOP_SERVICE_THREADS). Raises SettingError.
    """
    return _whole("WORKSHOP_SERVICE_THREADS", 8, 1, 64)


def service_max_age() -> int:
    """How many seconds old the delay at an airport may be (WORKSHOP_SERVICE_MAX_AGE).
    Raises SettingError.
    """
    return _whole("WORKSHOP_SERVICE_MAX_AGE", 1800, 1, 86_400)


def service_drain() -> int:
    """Seconds for which the scoring service goes on when told to end
    (WORKSHOP_SERVICE_DRAIN). Raises SettingError.
    """
    return _whole("WORKSHOP_SERVICE_DRAIN", 0, 0, 60)


def _whole(name: str, default: int, least: int, most: int) -> int:
    text = os.environ.get(name) or str(default)
    if not (text.isdecimal() and least <= int(text) <= most):
        raise SettingError(
            f"{name}: {text!r} is not a whole number from {least} to {most}."
        )
    return int(text)


def kafka() -> str | None:
    """Address of an external Kafka broker (WORKSHOP_KAFKA=host:port,host:port), or None
    for one of our own.

    Raises SettingError for what is not a list of host:port.
    """
    given = _addresses("WORKSHOP_KAFKA", "kafka:9092")
    return ",".join(f"{host}:{port}" for host, port in given) or None


def _addresses(name: str, example: str) -> list[tuple[str, int]]:
    addresses = []
    for address in filter(None, os.environ.get(name, "").split(",")):
        host, colon, port = address.strip().rpartition(":")
        if not (host and colon and port.isdecimal() and 1 <= int(port) <= 65_535):
            raise SettingError(
                f"{name}: {address!r} is not host:port, as in {example}."
            )
        addresses.append((host, int(port)))
    return addresses


def image() -> str:
    """The workshop's container image as a Kubernetes cluster knows it (WORKSHOP_IMAGE);
    else what docker/ builds.
    """
    return os.environ.get("WORKSHOP_IMAGE") or "workshop:local"


def notebook_name() -> str | None:
    """Path of the notebook that this kernel was started for (JPY_SESSION_NAME, which
    Jupyter sets), or None.
    """
    return os.environ.get("JPY_SESSION_NAME") or None


def python_path(folder: Path) -> str:
    """PYTHONPATH for a Python that is to import from `folder`; what the environment
    names comes after it.
    """
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


def spark_home() -> str | None:
    """Folder of an installed Spark (SPARK_HOME), or None for the one in the Python
    environment.
    """
    return os.environ.get("SPARK_HOME") or None


def java_home() -> str | None:
    """The reader's JAVA_HOME, the first place where Java is looked for."""
    return os.environ.get("JAVA_HOME") or None


def maven_url() -> str | None:
    """Another place to get Maven's archive from (WORKSHOP_MAVEN_URL), for networks with
    a mirror of their own.
    """
    return os.environ.get("WORKSHOP_MAVEN_URL") or None


def shuffle_labels() -> bool:
    """True when the labels are to be shuffled (WORKSHOP_SHUFFLE_LABELS=1).

    The tests use it to show that every bound on a model's quality fails on a broken
    model.
    """
    return os.environ.get("WORKSHOP_SHUFFLE_LABELS") == "1"
