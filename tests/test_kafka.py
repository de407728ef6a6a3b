"""Kafka's helper and lesson 06's gate: no broker, bad input, crashes of broker, query
and parent, all with counts.
"""

import base64
import importlib.util
import json
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest
from watch import listening, until

from docker import start as container
from helpers import data, settings
from helpers.java import artefacts
from helpers.kafka import broker as kafka
from helpers.kafka import recipe, replay
from helpers.processes.child import Child, ProcessError
from helpers.processes.ports import free_port
from helpers.spark import runtime, sessions, streams

pytestmark = pytest.mark.kafka


# ---- without a broker


@pytest.mark.badinput
def test_no_broker_is_a_clear_error_within_seconds(monkeypatch):
    nobody = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("WORKSHOP_KAFKA", nobody)
    start = time.monotonic()
    with (
        pytest.raises(kafka.BrokerError, match=f"No Kafka broker answers at {nobody}"),
        kafka.broker(),
    ):
        pass
    with pytest.raises(kafka.BrokerError, match=nobody):
        kafka.create_topics(nobody, "x")
    with pytest.raises(kafka.BrokerError, match=nobody):
        kafka.Sender(nobody)
    assert time.monotonic() - start < 30


@pytest.mark.badinput
def test_a_taken_port_is_named(taken_port):
    with (
        pytest.raises(ProcessError, match=f"Port {taken_port}"),
        kafka.broker(port=taken_port, local=True),
    ):
        pass


@pytest.mark.parametrize("scale", ["tiny", "full"])
def test_events_are_the_quarter_in_the_order_in_which_it_happened(scale):
    events = replay.events(scale)
    assert events["time"].is_monotonic_increasing
    flights = data.table("flights").rename_axis("id").reset_index()
    flights = flights[(flights["month"] >= 10) & flights["dep_delay"].notna()][
        :: 10 if scale == "tiny" else 1
    ]
    departures, arrivals = (
        events[events["topic"] == topic] for topic in ("departures", "arrivals")
    )
    assert len(departures) == len(flights)
    assert len(arrivals) == flights["arr_delay"].notna().sum()
    left = pd.DataFrame([json.loads(value) for value in departures["value"]]).set_index(
        "id"
    )
    landed = pd.DataFrame([json.loads(value) for value in arrivals["value"]]).set_index(
        "id"
    )
    assert set(left.index) == set(flights["id"])
    assert ((left["time"] - left["sched"]) / 60 == left["dep_delay"]).all()
    flights = flights.set_index("id").loc[landed.index]
    taxiing = (landed["time"] - left["time"].loc[landed.index]) / 60 - flights[
        "air_time"
    ]
    assert taxiing.between(0, 60, inclusive="left").all()
    assert landed["arr_delay"].equals(flights["arr_delay"])


# ---- with a broker


@pytest.fixture(scope="module")
def broker():
    with kafka.broker(local=True) as made:
        yield made


def test_a_container_starts_a_broker_as_this_machine_does(
    broker, monkeypatch, tmp_path
):
    """But for addresses and folders; the storage is formatted once."""
    monkeypatch.setattr(container, "FILES", tmp_path)
    monkeypatch.setattr(container, "EVENTS", tmp_path / "events")
    monkeypatch.setattr(container, "HOST", "kafka")
    identity = tmp_path / "events" / "meta.properties"
    for _ in range(2):
        *there, properties = map(str, container.kafka().command)
        formatted = identity.read_text()
    *here, local = psutil.Process(broker.pid).cmdline()
    assert there == here
    assert identity.read_text() == formatted

    texts = Path(properties).read_text(), Path(local).read_text()
    there, here = (
        re.sub(r"(PLAINTEXT://)[\w.]+|:\d+|(log.dirs)=.*", r"\1\2", text)
        for text in texts
    )
    assert there == here
    assert "advertised.listeners=PLAINTEXT://kafka:9092\n" in texts[0]


def test_an_identity_is_never_taken_for_an_option():
    identities = [recipe.cluster_id() for _ in range(2000)]
    assert len(set(identities)) == 2000
    assert {len(base64.urlsafe_b64decode(f"{one}==")) for one in identities} == {16}
    assert not [one for one in identities if one.startswith("-")]


def test_what_is_sent_is_counted_and_read_back(broker):
    kafka.create_topics(broker.bootstrap, "back", partitions=3)
    records = [(str(number), f"value {number}".encode()) for number in range(5000)]
    assert kafka.send(broker.bootstrap, "back", records) == 5000
    assert kafka.count(broker.bootstrap, "back") == 5000
    assert sorted(kafka.read(broker.bootstrap, "back")) == sorted(records)
    kafka.create_topics(broker.bootstrap, "back")  # again, and empty
    assert kafka.end_offsets(broker.bootstrap, "back") == {0: 0, 1: 0}
    assert kafka.read(broker.bootstrap, "back") == []


@pytest.mark.badinput
def test_started_twice_it_says_so_and_goes_on(broker):
    pid = broker.pid
    with pytest.raises(ProcessError, match="running already"):
        broker.start()
    assert broker.running
    assert broker.pid == pid


@pytest.mark.security
def test_it_listens_on_loopback_only(broker):
    assert {
        host.removeprefix("::ffff:") for (host, *_), _ in listening(broker.pid)
    } == {"127.0.0.1"}


def test_the_replay_keeps_its_pace_and_stops_on_an_error(broker):
    kafka.create_topics(broker.bootstrap, "departures", "arrivals")
    events = replay.events("tiny").head(400)
    span = float(np.ptp(events["time"]))
    start = time.monotonic()
    with replay.Replay(broker.bootstrap, events, speedup=span / 2) as sending:
        assert sending.running
    assert time.monotonic() - start >= 2
    assert sum(sending.sent.values()) == 400
    assert sending.sent == events["topic"].value_counts().to_dict()
    with (
        pytest.raises(ZeroDivisionError),
        replay.Replay(broker.bootstrap, events, speedup=span / 600) as sending,
    ):
        raise ZeroDivisionError
    assert not sending.running


@pytest.mark.faults
def test_a_broker_killed_while_it_is_sent_to_comes_back_with_every_record_once(chance):
    wanted, fatal = 20_000, chance.randrange(100, 18_000)
    with kafka.broker(local=True) as broker:
        kafka.create_topics(broker.bootstrap, "kept")
        sender = kafka.Sender(broker.bootstrap)
        for number in range(wanted):
            sender.send("kept", b"x", str(number))
            if number == fatal:
                until(lambda: sender.poll(0.01) or sender.sent)
                broker.kill()
                confirmed = sender.sent["kept"]
        print(f"killed after record {fatal:,}, {confirmed:,} were confirmed")
        assert not broker.running
        assert confirmed < wanted
        with pytest.raises(kafka.BrokerError, match="No Kafka broker"):
            kafka.count(broker.bootstrap, "kept")
        broker.start()
        assert sender.flush() == {"kept": wanted}
        keys = [int(key) for key, _ in kafka.read(broker.bootstrap, "kept")]
        assert sorted(keys) == list(range(wanted))
        pid = broker.pid
    assert until(lambda: not psutil.pid_exists(pid))


def test_settings_name_an_external_broker(broker, monkeypatch):
    monkeypatch.setenv("WORKSHOP_KAFKA", broker.bootstrap)
    with kafka.broker() as external:
        assert external.bootstrap == broker.bootstrap
        assert external.running
        with pytest.raises(ProcessError, match="not ours"):
            external.stop()
    assert broker.running


ORPHAN = """
    import sys, time
    sys.path.insert(0, {root!r})
    from helpers.kafka import broker as kafka
    with kafka.broker(local=True) as broker:
        print(broker.pid, flush=True)
        time.sleep(300)
"""


@pytest.mark.faults
def test_the_broker_dies_with_its_parent():
    script = textwrap.dedent(ORPHAN).format(root=str(settings.ROOT))
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as python:
        pid = next(
            int(line)
            for line in iter(python.stdout.readline, b"")
            if line.strip().isdigit()
        )
        assert psutil.pid_exists(pid)
        python.send_signal(signal.SIGKILL)
    assert until(lambda: not psutil.pid_exists(pid))


# ---- the lesson's own gate, on a stream


@pytest.fixture(scope="module")
def stream_py(tmp_path_factory):
    """The lesson's module, put together from its cells."""
    lesson = nbformat.read(settings.NOTEBOOKS / "06_streaming.ipynb", as_version=4)
    cells = [
        cell.source.partition("\n")
        for cell in lesson.cells
        if "{stream_py}" in cell.source.partition("\n")[0]
    ]
    assert len(cells) > 1
    file = tmp_path_factory.mktemp("lesson") / "flight_stream.py"
    file.write_text("\n".join(body for _, _, body in cells))
    return file


@pytest.fixture(scope="module")
def fs(stream_py):
    spec = importlib.util.spec_from_file_location("flight_stream", stream_py)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def spark():
    jars = ",".join(map(str, artefacts.jars("spark-kafka")))
    sessions.shutdown()  # jars are taken at the start of the JVM
    made = sessions.start(
        "test streaming", spark_jars=jars, spark_sql_shuffle_partitions=2
    )
    yield made
    streams.stop_all(made)
    sessions.shutdown()


GOOD = {
    "id": 1,
    "carrier": "UA",
    "tailnum": None,
    "origin": "EWR",
    "dest": "IAH",
    "distance": 1400,
    "hour": 5,
    "sched": 1380618000,
    "time": 1380617220,
    "dep_delay": -13.0,
}
LANDED = {"id": 1, "time": 1380627220, "arr_delay": 3.0}
BAD = {
    "not JSON": ['{"id": 1, "carr', "", "plain words", None],
    "wrong type": [
        GOOD | {"dep_delay": "soon"},
        GOOD | {"id": "B6"},
        GOOD | {"time": [1]},
    ],
    "missing field": [
        GOOD | {"origin": None},
        {"id": 1},
        {},
        {k: v for k, v in GOOD.items() if k != "time"},
    ],
    "from the future": [GOOD | {"time": 4_102_444_800}],
    "unknown airport": [GOOD | {"dest": "XXX"}, GOOD | {"origin": "ewr"}],
}


@pytest.mark.badinput
def test_everything_bad_gets_its_reason_and_none_stops_the_query(
    broker, spark, fs, tmp_path
):
    kafka.create_topics(broker.bootstrap, "departures", "arrivals")
    bad = [event for events in BAD.values() for event in events]
    # the second GOOD is a duplicate
    mixed = [GOOD, *bad, GOOD, GOOD | {"id": 2, "surprise": "a new field"}]
    kafka.send(broker.bootstrap, "departures", ((None, event) for event in mixed))
    kafka.send(
        broker.bootstrap,
        "arrivals",
        ((None, e) for e in (LANDED, {"id": 1}, LANDED | {"arr_delay": "x"})),
    )
    records = fs.read(
        spark, broker.bootstrap, "departures,arrivals", maxOffsetsPerTrigger=4
    )
    checked = fs.gate(records, fs.known_airports()).select("topic", "reason", "id")
    writer = checked.writeStream.format("parquet").option(
        "checkpointLocation", str(tmp_path / "checkpoint")
    )
    steps = streams.finish(
        writer.trigger(availableNow=True).start(str(tmp_path / "out")), timeout=120
    )
    assert steps["rows_in"].sum() == len(mixed) + 3
    seen = spark.read.parquet(str(tmp_path / "out")).toPandas()
    counts = (
        seen[seen["topic"] == "departures"]["reason"]
        .value_counts(dropna=False)
        .to_dict()
    )
    good = sum(count for reason, count in counts.items() if not isinstance(reason, str))
    assert {k: v for k, v in counts.items() if isinstance(k, str)} == {
        k: len(v) for k, v in BAD.items()
    }
    assert good == 3
    landed = seen[seen["topic"] == "arrivals"]["reason"].value_counts().to_dict()
    assert landed == {"missing field": 1, "wrong type": 1}


def test_a_duplicate_is_counted_once(broker, spark, fs):
    from pyspark.sql import functions as F

    kafka.create_topics(broker.bootstrap, "twice")
    events = [GOOD | {"id": number} for number in range(50)]
    kafka.send(
        broker.bootstrap, "twice", ((str(e["id"]), e) for e in [*events, *events[:20]])
    )
    records = fs.read(spark, broker.bootstrap, "twice")
    rows = fs.gate(records, fs.known_airports(), "'departures'").where("reason IS NULL")
    rows = (
        rows.withColumn("at", F.timestamp_seconds("time"))
        .withWatermark("at", "1 day")
        .select("id", "at")
    )
    unique = rows.dropDuplicatesWithinWatermark(["id"])
    query = (
        unique.writeStream.format("memory")
        .queryName("once")
        .trigger(availableNow=True)
        .start()
    )
    assert streams.finish(query, timeout=120)["duplicates"].sum() == 20
    assert spark.table("once").count() == 50


@pytest.mark.badinput
def test_an_event_that_comes_too_late_is_counted_and_dropped(
    broker, spark, fs, tmp_path
):
    """Two runs on one checkpoint: the first moves the watermark, the second brings an
    event of two days before.
    """
    from pyspark.sql import functions as F

    kafka.create_topics(broker.bootstrap, "late")
    rows = fs.gate(
        fs.read(spark, broker.bootstrap, "late"), fs.known_airports(), "'departures'"
    )
    rows = (
        rows.where("reason IS NULL")
        .withColumn("at", F.timestamp_seconds("time"))
        .withWatermark("at", "30 minutes")
    )
    counts = rows.groupBy(F.window("at", "1 hour")).count()

    def run(*events):
        kafka.send(broker.bootstrap, "late", ((None, event) for event in events))
        writer = counts.writeStream.format("parquet").option(
            "checkpointLocation", str(tmp_path / "checkpoint")
        )
        return streams.finish(
            writer.trigger(availableNow=True).start(str(tmp_path / "out")), timeout=120
        )

    assert run(GOOD)["too_late"].sum() == 0
    assert run(GOOD | {"id": 2, "time": GOOD["time"] - 172_800})["too_late"].sum() == 1


@pytest.mark.badinput
def test_a_failing_query_says_why(broker, spark, fs):
    kafka.create_topics(broker.bootstrap, "failing")
    kafka.send(broker.bootstrap, "failing", [(None, GOOD)])

    def fail(batch, number):
        raise ZeroDivisionError("on purpose")

    records = fs.read(spark, broker.bootstrap, "failing")
    query = records.writeStream.foreachBatch(fail).trigger(availableNow=True).start()
    with pytest.raises(streams.StreamError, match="on purpose"):
        streams.finish(query, timeout=60)
    assert not query.isActive


JOB = """
    import sys
    import flight_stream as fs
    from pyspark.sql import SparkSession
    broker, folder = sys.argv[1:]
    spark = SparkSession.builder.getOrCreate()
    rows = fs.gate(fs.read(spark, broker, "many", maxOffsetsPerTrigger=250), fs.known_airports(), "'departures'")
    rows = rows.select("id").writeStream.format("parquet").option("checkpointLocation", folder + "/checkpoint")
    rows.start(folder + "/out").awaitTermination()
"""


@pytest.mark.faults
def test_a_query_killed_in_a_batch_resumes_and_each_event_is_there_once(
    broker, spark, stream_py, tmp_path, chance
):
    done = chance.randrange(1, 6)  # of twelve batches
    kafka.create_topics(broker.bootstrap, "many")
    sent = kafka.send(
        broker.bootstrap, "many", ((str(n), GOOD | {"id": n}) for n in range(3000))
    )
    job = stream_py.with_name("job.py")
    job.write_text(textwrap.dedent(JOB))
    conf = runtime.configuration("512m") | {"spark.ui.enabled": "false"}
    conf["spark.jars"] = ",".join(map(str, artefacts.jars("spark-kafka")))
    options = [
        part for name, value in conf.items() for part in ("--conf", f"{name}={value}")
    ]
    command = [
        runtime.home() / "bin" / "spark-submit",
        "--master",
        "local[2]",
        *options,
        job,
    ]

    def highest(kind):
        return max(
            (int(f.name) for f in (tmp_path / "checkpoint" / kind).glob("[0-9]*")),
            default=-1,
        )

    def handled():
        """Records in the batches that are done, as the checkpoint has them."""
        batch = tmp_path / "checkpoint" / "offsets" / str(highest("commits"))
        return sum(json.loads(batch.read_text().splitlines()[-1])["many"].values())

    def start():
        environment = runtime.environment()
        environment["PYTHONPATH"] = settings.python_path(stream_py.parent)
        return Child(
            [*command, broker.bootstrap, tmp_path],
            log=tmp_path / "job.log",
            env=environment,
        )

    first = start()
    try:
        first.wait_until(
            lambda: (
                highest("commits") >= done and highest("offsets") > highest("commits")
            ),
            120,
            "first",
        )
        time.sleep(chance.uniform(0, 0.2))  # into the batch
        first.kill()
        assert handled() < sent  # it was killed on its way
    finally:
        first.stop()
    second = start()
    try:
        second.wait_until(lambda: handled() == sent, 120, "second")
    finally:
        second.stop()
    ids = spark.read.parquet(str(tmp_path / "out")).toPandas()["id"]
    assert len(ids) == sent == 3000
    assert set(ids) == set(range(3000))
