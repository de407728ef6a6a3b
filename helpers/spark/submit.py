"""spark-submit: a script run in processes that end with this one."""

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from helpers import settings
from helpers.processes import script as program
from helpers.processes.child import ProcessError
from helpers.spark import runtime, secret
from helpers.spark.runtime import Manager
from helpers.waiting import until


def submit(
    script: Path,
    arguments: Sequence[object] = (),
    master: str | None = None,
    memory: str = "1g",
    py_files: Sequence[Path] = (),
    manager: Manager | None = None,
    conf: Mapping[str, object] | None = None,
    beside: Callable[[int], AbstractContextManager] = nullcontext,
) -> str:
    """Run a script by spark-submit in processes that end with this one, and return what
    it printed.

    It runs on `manager`, else on `master`, else where the settings say, else on
    local[2]. `py_files` are Python modules that the script and its workers import;
    `conf` has Spark's settings, and has the last word. `beside` is made with its
    process id and open while it runs, as a meter is. Raises ProcessError with the
    cause, and with the place of all its output, when it fails.
    """
    manager = manager or Manager(master or settings.spark_master() or "local[2]")
    given = {
        **runtime.configuration(memory),
        "spark.submit.pyFiles": ",".join(map(str, py_files)),
        **secret.conf(manager.url),
        **manager.conf,
        **(conf or {}),
    }
    options = [
        part for key, value in given.items() for part in ("--conf", f"{key}={value}")
    ]
    command = [
        runtime.home() / "bin" / "spark-submit",
        "--master",
        manager.url,
        *options,
        script,
        *arguments,
    ]
    environment = {
        **runtime.environment(),
        **secret.environment(manager.url),
        **manager.environment,
    }
    what = f"spark-submit {script.name}"
    logs = runtime.folder("logs")
    return program.run(command, what, logs, environment, beside=beside)


def submit_and_kill(
    script: Path,
    arguments: Sequence[object],
    manager: Manager,
    begun: Callable[[], bool],
    conf: Mapping[str, object] | None = None,
) -> str:
    """`submit`, and an executor of the application killed as soon as `begun()` is true;
    what it printed.

    Raises ProcessError when the application fails, or ends before there was anything to
    kill.
    """
    with ThreadPoolExecutor(1) as pool:
        submitted = pool.submit(submit, script, arguments, manager=manager, conf=conf)
        until(
            lambda: submitted.done() or (begun() and manager.executors()),
            math.inf,  # the application's end is the latest
            script.name,
        )
        victims = [] if submitted.done() else manager.executors()[:1]
        for victim in victims:
            manager.kill(victim)
        printed = submitted.result()
    if not victims:
        raise ProcessError(f"{script.name} ended before an executor could be killed.")
    return printed
