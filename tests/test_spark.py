"""Sessions, the standalone cluster and spark-submit: same Python everywhere, loopback
only, nothing left behind.
"""

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pyspark
import pytest
from watch import below, nothing_left, open_to_the_world, until

from docker import start
from helpers import settings
from helpers.processes.child import ProcessError
from helpers.spark import secret, sessions
from helpers.spark.standalone import standalone_cluster
from helpers.spark.submit import submit

pytestmark = pytest.mark.spark


@pytest.fixture(scope="module")
def session():
    session = sessions.start("tests", memory="512m")
    yield session
    session.stop()


def test_workers_use_this_python_and_this_package(session):
    def who(_):
        import helpers

        return sys.executable, helpers.__file__

    import helpers

    assert session.sparkContext.parallelize([0], 1).map(who).first() == (
        sys.executable,
        helpers.__file__,
    )


@pytest.mark.security
def test_a_session_is_quiet_local_and_in_utc(session):
    assert session.conf.get("spark.sql.session.timeZone") == "UTC"
    assert session.conf.get("spark.ui.showConsoleProgress") == "false"
    assert session.sparkContext.uiWebUrl.startswith("http://127.0.0.1:")
    assert open_to_the_world() == []


def test_traffic_counts_shuffled_bytes(session):
    before = sessions.traffic(session)
    session.range(10_000, numPartitions=4).count()
    counted = sessions.traffic(session)
    assert counted["tasks"] > before["tasks"]
    session.range(10_000, numPartitions=4).repartition(3).foreach(lambda _: None)
    assert (
        sessions.traffic(session)["shuffle_bytes"] - counted["shuffle_bytes"] > 10_000
    )


def test_plan_is_printed_without_paths(session, capsys):
    sessions.show_plan(
        session.read.parquet(str(settings.DATA / "airlines.parquet"))
        .groupBy("carrier")
        .count()
    )
    printed = capsys.readouterr().out
    assert "Exchange" in printed
    assert str(settings.ROOT) not in printed


def test_settings_name_the_master(monkeypatch):
    monkeypatch.setenv("WORKSHOP_SPARK_MASTER", "local[1]")
    session = sessions.start("settings")
    assert session.sparkContext.master == "local[1]"
    with standalone_cluster() as external:
        assert external.url == "local[1]"
        assert external.master is None
    session.stop()


@pytest.mark.security
def test_standalone_cluster_runs_a_job_and_leaves_nothing(capsys):
    with nothing_left(), standalone_cluster(workers=2, memory="512m") as standalone:
        assert standalone.alive_workers() == 2
        session = sessions.start(
            "cluster", master=standalone.url, spark_executor_memory="512m"
        )
        assert (
            session.sparkContext.parallelize(range(100), 4).map(lambda x: x * 2).sum()
            == 9900
        )
        assert open_to_the_world() == []
        session.stop()
    assert standalone.ui in capsys.readouterr().out


def test_containers_start_the_daemons_as_this_machine_does(monkeypatch, tmp_path):
    """But for addresses, folders and sizes."""
    monkeypatch.setattr(start, "FILES", tmp_path)

    def java(environment):
        options = environment["SPARK_DAEMON_JAVA_OPTS"]
        return re.sub(r"(log4j2.configurationFile)=\S+", r"\1", options)

    def names(words):
        """Spark's class and the names of its options."""
        words = [word for word in map(str, words) if "=" not in word]
        main = next(n for n, word in enumerate(words) if ".deploy." in word)
        return [words[main], *(word for word in words[main:] if word[:2] == "--")]

    with standalone_cluster(workers=1, memory="512m") as standalone:
        monkeypatch.setenv("WORKSHOP_SPARK_MASTER", standalone.url)
        monkeypatch.setenv("WORKSHOP_SPARK_SECRET", str(tmp_path / "secret"))
        for child, there in (
            (standalone.master, start.spark_master()),
            (standalone.workers[0], start.spark_worker()),
        ):
            process = psutil.Process(child.pid)
            here = process.environ()
            assert java(there.environment) == java(here)
            for name in ("SPARK_DAEMON_MEMORY", "SPARK_HOME", "PYSPARK_PYTHON"):
                assert there.environment[name] == here[name]
            assert there.environment.keys() & here.keys() >= {secret.VARIABLE}
            assert names(there.command) == names(process.cmdline())


def test_a_failing_block_ends_the_cluster():
    with (
        nothing_left(),
        pytest.raises(ZeroDivisionError),
        standalone_cluster(workers=1, memory="512m"),
    ):
        raise ZeroDivisionError


@pytest.mark.badinput
def test_a_taken_port_is_named(taken_port):
    with (
        pytest.raises(
            ProcessError,
            match=f"Port {taken_port}, needed for the Spark master, is taken",
        ),
        standalone_cluster(port=taken_port),
    ):
        pass


@pytest.mark.badinput
def test_submit_returns_the_output_and_explains_failures(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(
        "import sys\nfrom pyspark.sql import SparkSession\n"
        "print(SparkSession.builder.getOrCreate().range(int(sys.argv[1])).count())\n"
    )
    assert submit(script, [42], master="local[1]", memory="512m").strip() == "42"
    with pytest.raises(ProcessError) as raised:
        submit(script, ["many"], master="local[1]", memory="512m")
    said = str(raised.value)
    assert said.startswith(
        "spark-submit job.py failed: ValueError: invalid literal for int() with base"
        " 10: 'many'\nAll that it said: "
    )
    explained(said)


def explained(said):
    """A cause of one line or two, then the place of the whole log, for its owner alone;
    the log.
    """
    *cause, place = said.splitlines()
    assert 1 <= len(cause) <= 2, said
    log = Path(place.removeprefix("All that it said: "))
    assert log.is_relative_to(settings.build_dir() / "logs")
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    text = log.read_text()
    log.unlink()
    return text


FAILING = """
import sys
from pyspark.sql import SparkSession
spark = SparkSession.builder.getOrCreate()
if sys.argv[1] == "python":
    spark.sparkContext.parallelize([0], 1).map(lambda x: 1 // x).collect()
elif sys.argv[1] == "java":
    spark.sparkContext.parallelize([0], 1).saveAsTextFile("nowhere://file")
else:
    spark.sql("select raise_error('an honest failure')").collect()
"""
CAUSES = {
    "python": "ZeroDivisionError: integer division or modulo by zero",
    "java": "org.apache.hadoop.fs.UnsupportedFileSystemException: No FileSystem for"
    ' scheme "nowhere"',
    "sql": "SparkRuntimeException: [USER_RAISED_EXCEPTION] an honest failure",
}


@pytest.mark.badinput
@pytest.mark.parametrize("kind", CAUSES)
def test_a_job_s_failure_begins_with_its_cause(tmp_path, kind):
    script = tmp_path / "job.py"
    script.write_text(FAILING)
    with pytest.raises(ProcessError) as raised:
        submit(script, [kind], master="local[1]", memory="512m")
    assert CAUSES[kind] in str(raised.value).splitlines()[0]
    assert "Traceback" in explained(str(raised.value))


@pytest.mark.badinput
def test_an_executor_s_failure_begins_with_its_cause(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(FAILING)
    conf = {"spark.executor.memory": "512m"}
    with (
        standalone_cluster(workers=1, memory="512m") as cluster,
        pytest.raises(ProcessError) as raised,
    ):
        submit(script, ["python"], manager=cluster, memory="512m", conf=conf)
    assert str(raised.value).startswith(
        f"spark-submit job.py failed: {CAUSES['python']}\nAll that it said: "
    )
    assert "failed 4 times" in explained(str(raised.value))


@pytest.mark.badinput
def test_a_driver_that_does_not_start_says_why():
    code = "from helpers.spark import sessions; sessions.start('never', memory='1k')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=settings.ROOT, capture_output=True, text=True
    )
    said = done.stderr[done.stderr.rindex("Spark's JVM did not start") :].strip()
    assert "Too small maximum heap" in said.splitlines()[0]
    explained(said)


WAITING = """
import sys, time
from pathlib import Path
from pyspark.sql import SparkSession
SparkSession.builder.getOrCreate()
Path(sys.argv[1]).touch()
time.sleep(600)
"""
PARENT = """
import sys
from pathlib import Path
from helpers.spark.submit import submit
submit(Path(sys.argv[1]), [sys.argv[2]], master="local[1]", memory="512m")
"""


@pytest.mark.faults
def test_a_submitted_job_ends_with_the_python_that_waits_for_it(tmp_path):
    script, begun = tmp_path / "job.py", tmp_path / "begun"
    script.write_text(WAITING)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, script, begun], cwd=settings.ROOT
    )
    assert until(begun.exists, 90)
    started = below(parent.pid)
    assert any("SparkSubmit" in " ".join(process.cmdline()) for process in started)
    parent.kill()
    parent.wait()
    assert psutil.wait_procs(started, timeout=30)[1] == []


def test_findspark_takes_an_installed_spark(tmp_path):
    """SPARK_HOME names a Spark unpacked elsewhere: here the same files in a
    distribution's layout.
    """
    (tmp_path / "spark" / "python").mkdir(parents=True)
    (tmp_path / "spark" / "python" / "pyspark").symlink_to(
        Path(pyspark.__file__).parent
    )
    (tmp_path / "spark" / "python" / "lib").symlink_to(
        Path(pyspark.__file__).parent / "python" / "lib"
    )
    code = "from helpers.spark import runtime; import pyspark; print(pyspark.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=settings.ROOT,
        env=os.environ | {"SPARK_HOME": str(tmp_path / "spark")},
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith(str(tmp_path / "spark")), done.stderr
