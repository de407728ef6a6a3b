"""Kafka: one broker as a local process (or the one that the settings name), topics, and
the way in and out.
"""

import json
import logging
import os
import subprocess
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic

from helpers import settings
from helpers.errors import WorkshopError
from helpers.kafka import recipe
from helpers.processes.child import Child, ProcessError
from helpers.processes.folders import own_folder, remove
from helpers.processes.ports import free_port, require_free
from helpers.waiting import until

READY_SECONDS = 60
PROPERTIES = "server.properties"
LEADERLESS = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE)

# librdkafka writes every refused connection to stderr unless it is given a logger
_quiet = logging.getLogger("workshop.kafka")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


class BrokerError(WorkshopError):
    """There is no broker, or it did not do what it was asked in time."""


class Broker:
    """A broker and its address: `bootstrap` is host:port. Made by `broker`; an external
    one can't be stopped.
    """

    def __init__(self, bootstrap: str, folder: Path | None = None, heap: int = 256):
        self.bootstrap = bootstrap
        self._folder = folder
        self._heap = heap
        self._child: Child | None = None

    @property
    def pid(self) -> int | None:
        """Its process id, None for an external broker."""
        return self._child.pid if self._child else None

    @property
    def running(self) -> bool:
        """True while its process runs; an external broker is asked."""
        return self._child.running if self._child else reachable(self.bootstrap)

    def start(self) -> None:
        """Start it, or start it again with the data it had, and wait until it answers.
        Raises ProcessError.
        """
        folder = self._own()
        if self._child and self._child.running:
            raise ProcessError("The broker is running already.")
        require_free(int(self.bootstrap.rpartition(":")[2]), "the Kafka broker")
        broker = recipe.broker(folder / PROPERTIES, self._heap)
        log = folder / "broker.log"
        self._child = Child(broker.command, log, broker.environment, folder)
        self._child.wait_until(
            lambda: reachable(self.bootstrap, 2), READY_SECONDS, "The Kafka broker"
        )

    def stop(self) -> None:
        """End it by SIGTERM. What it holds stays on disk until the block ends."""
        self._own()
        if self._child:
            self._child.stop()

    def kill(self) -> None:
        """`kill -9`: the crash of the broker."""
        self._own()
        if self._child:
            self._child.kill()

    def memory_mb(self) -> float:
        """Resident memory of its process in MB; 0 for an external broker."""
        return psutil.Process(self.pid).memory_info().rss / 1e6 if self.pid else 0.0

    def _own(self) -> Path:
        """The folder of a broker that was started here; ProcessError for another."""
        if self._folder is None:
            raise ProcessError(
                "This broker is not ours: it is started and ended where it runs."
            )
        return self._folder

    def _format(self) -> None:
        """Write its settings and give its empty folder for events an identity."""
        folder = self._own()
        host, _, port = self.bootstrap.rpartition(":")
        # below where it runs: Java reads its settings as Latin-1
        data = Path("log")
        properties = folder / PROPERTIES
        recipe.write_properties(properties, data, host, int(port), free_port())
        step = recipe.format_storage(properties, self._heap, recipe.cluster_id())
        done = subprocess.run(
            list(map(str, step.command)),
            capture_output=True,
            text=True,
            env={**os.environ, **step.environment},
            cwd=folder,
        )
        if done.returncode:
            raise ProcessError(
                "Kafka could not format its"
                f" folder:\n{(done.stdout + done.stderr)[-1500:]}"
            )


@contextmanager
def broker(
    heap: int = 256, port: int | None = None, local: bool = False
) -> Iterator[Broker]:
    """A Kafka broker (KRaft, one node, 127.0.0.1 only), ready when it answers, ended
    with the block.

    `heap` is its Java heap in MB. Where the settings name an external broker
    (WORKSHOP_KAFKA) that one is yielded, unless `local` insists. Raises BrokerError
    when the external one does not answer within seconds, ProcessError when the port is
    taken or the process ends while starting.
    """
    if (named := settings.kafka()) and not local:
        external = Broker(named)
        require(external.bootstrap)
        yield external
        return
    folder = own_folder(settings.build_dir() / "kafka", "broker")
    made = Broker(f"127.0.0.1:{free_port(port, 'the Kafka broker')}", folder, heap)
    made._format()
    try:
        made.start()
        print(f"Kafka broker at {made.bootstrap}")
        yield made
    finally:
        made.stop()
    remove(folder)  # after an error it stays, with the log


def reachable(bootstrap: str, timeout: float = 5) -> bool:
    """True when a broker there tells its topics within `timeout` seconds."""
    try:
        return len(admin(bootstrap).list_topics(timeout=timeout).brokers) > 0
    except KafkaException:
        return False


def require(bootstrap: str, timeout: float = 5) -> None:
    """Raises BrokerError, saying what to do, when no broker answers there within
    `timeout` seconds.
    """
    if not reachable(bootstrap, timeout):
        raise BrokerError(
            f"No Kafka broker answers at {bootstrap}: start one"
            " (helpers.kafka.broker.broker), or set WORKSHOP_KAFKA."
        )


def admin(bootstrap: str) -> AdminClient:
    """confluent-kafka's administration client, without its noise on stderr."""
    return AdminClient({"bootstrap.servers": bootstrap}, logger=_quiet)


def create_topics(bootstrap: str, *names: str, partitions: int = 2) -> None:
    """New, empty topics of one copy: those of that name are deleted first. Raises
    BrokerError without a broker.
    """
    require(bootstrap)
    client = admin(bootstrap)
    old = [name for name in names if name in client.list_topics(timeout=10).topics]
    if old:
        for done in client.delete_topics(old).values():
            done.result(10)
    for name in names:
        _create(client, NewTopic(name, partitions, 1))


def _create(client: AdminClient, topic: NewTopic) -> None:
    def created() -> bool:
        try:
            client.create_topics([topic])[topic.topic].result(10)
        except KafkaException as error:
            if error.args[0].name() != "TOPIC_ALREADY_EXISTS":
                raise
            return False
        return True

    # a deleted topic's name is free a moment later
    until(created, 10, f"Deleting the topic {topic.topic}", error=BrokerError)


def end_offsets(bootstrap: str, topic: str) -> dict[int, int]:
    """How many records each partition of a topic has: {partition: count}, counted from
    offset 0. Raises BrokerError when a partition has no leader for ten seconds.
    """
    require(bootstrap)
    consumer = _consumer(bootstrap)

    def ends() -> dict[int, int]:
        known = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        partitions = [TopicPartition(topic, number) for number in known]
        try:
            return {
                one.partition: consumer.get_watermark_offsets(one, timeout=10)[1]
                for one in partitions
            }
        except KafkaException as error:
            if error.args[0].code() not in LEADERLESS:
                raise
            return {}  # a topic has just been made, or a broker has just come back

    try:
        return until(ends, 10, f"A leader for {topic}", error=BrokerError)
    finally:
        consumer.close()


def count(bootstrap: str, topic: str) -> int:
    """How many records a topic has."""
    return sum(end_offsets(bootstrap, topic).values())


def read(
    bootstrap: str, topic: str, timeout: float = 60
) -> list[tuple[str | None, bytes]]:
    """Every record that a topic holds now, as (key, value), each partition in its
    order.

    Raises BrokerError when they have not all come within `timeout` seconds.
    """
    ends = end_offsets(bootstrap, topic)
    total = sum(ends.values())
    records: list[tuple[str | None, bytes]] = []
    consumer: Any = _consumer(bootstrap)  # typed, its messages may lack everything

    def complete() -> bool:
        for message in consumer.consume(min(10_000, total - len(records)), 0.5):
            if not message.error() and message.offset() < ends[message.partition()]:
                key = message.key()
                records.append((key.decode() if key else None, message.value()))
        return len(records) == total

    try:
        consumer.assign([TopicPartition(topic, partition, 0) for partition in ends])
        what = f"The {total} records of {topic}"
        until(complete, timeout, what, every=0, error=BrokerError)
    finally:
        consumer.close()
    return records


def _consumer(bootstrap: str) -> Consumer:
    options = {
        "bootstrap.servers": bootstrap,
        "group.id": uuid.uuid4().hex,
        "enable.auto.commit": False,
    }
    return Consumer(options, logger=_quiet)


class Sender:
    """A producer that acknowledges: `sent` counts, per topic, the records that the
    broker has confirmed.
    """

    def __init__(self, bootstrap: str, linger_ms: int = 20):
        require(bootstrap)
        self.sent: dict[str, int] = {}
        self._failed: list[str] = []
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "linger.ms": linger_ms,
            },
            logger=_quiet,
        )

    def send(
        self, topic: str, value: bytes | str | Mapping, key: str | None = None
    ) -> None:
        """Queue one record (a mapping goes as JSON); waits while the queue is full."""
        if isinstance(value, Mapping):
            value = json.dumps(value)
        while True:
            try:
                self._producer.produce(topic, value, key, on_delivery=self._delivered)
                break
            except BufferError:
                self._producer.poll(0.1)
        self._producer.poll(0)

    def poll(self, seconds: float) -> None:
        """Wait that long, while confirmations come in."""
        self._producer.poll(seconds)

    def flush(self, timeout: float = 60) -> dict[str, int]:
        """Wait until all are confirmed; the counts. Raises BrokerError when some could
        not be delivered.
        """
        left = self._producer.flush(timeout)
        if left or self._failed:
            raise BrokerError(
                f"{left + len(self._failed)} records were not delivered:"
                f" {self._failed[:1]}"
            )
        return self.sent

    def _delivered(self, error: object, message: Any) -> None:
        if error:
            self._failed.append(str(error))
        else:
            self.sent[message.topic()] = self.sent.get(message.topic(), 0) + 1


def send(
    bootstrap: str,
    topic: str,
    records: Iterable[tuple[str | None, bytes | str | Mapping]],
) -> int:
    """Send (key, value) records as fast as they go; how many the broker confirmed."""
    sender = Sender(bootstrap)
    for key, value in records:
        sender.send(topic, value, key)
    return sender.flush().get(topic, 0)
