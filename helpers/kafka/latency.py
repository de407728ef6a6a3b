"""Load in a process of its own: departures at a steady rate, and how long until each
comes out of another topic.

python -m helpers.kafka.latency BROKER TOPIC_IN TOPIC_OUT RATE SECONDS WARM_UP
RESULT.npy
"""

import json
import sys
import threading
import time
from pathlib import Path

import numpy as np
from confluent_kafka import TopicPartition

from helpers import errors, files
from helpers.kafka import broker as kafka
from helpers.kafka import replay

QUIET_SECONDS = 30  # nothing has come for so long: nothing more will


def measure(
    broker: str, topic_in: str, topic_out: str, rate: int, seconds: int, warm_up: int
) -> np.ndarray:
    """End-to-end seconds of each event: from the call of `send` to its arrival at the
    consumer, one clock.

    Events of the first `warm_up` seconds are sent and awaited, but not in the result.
    """
    events = replay.events("tiny").query("topic == 'departures'")
    rows = [json.loads(value) for value in events["value"].head(rate * seconds)]
    rows = [
        rows[number % len(rows)] | {"id": number} for number in range(rate * seconds)
    ]
    consumer = kafka._consumer(broker)
    consumer.assign(
        [
            TopicPartition(topic_out, part, 0)
            for part in kafka.end_offsets(broker, topic_out)
        ]
    )
    sending = threading.Thread(
        target=_send, args=(broker, topic_in, rows, rate), daemon=True
    )
    sending.start()
    seconds_of: dict[int, float] = {}
    last = time.monotonic()
    while len(seconds_of) < len(rows) and time.monotonic() - last < QUIET_SECONDS:
        for message in consumer.consume(500, 0.02):
            value = message.value()
            if message.error() or value is None:
                continue
            event, last = json.loads(value), time.monotonic()
            seconds_of.setdefault(event["id"], time.time() - event["sent"])
    sending.join()
    consumer.close()
    if len(seconds_of) < len(rows):
        raise kafka.BrokerError(
            f"Only {len(seconds_of)} of {len(rows)} events came out of {topic_out}."
        )
    return np.array([seconds_of[number] for number in range(rate * warm_up, len(rows))])


def _send(broker: str, topic: str, rows: list[dict], rate: int) -> None:
    sender = kafka.Sender(broker, linger_ms=0)
    began = time.monotonic()
    for number, row in enumerate(rows):
        while (wait := began + number / rate - time.monotonic()) > 0:
            sender.poll(min(wait, 0.002))
        sender.send(topic, row | {"sent": time.time()}, str(number))
    sender.flush()


def main() -> None:
    broker, source, target, rate, seconds, warm_up, out = sys.argv[1:]
    result = measure(broker, source, target, int(rate), int(seconds), int(warm_up))
    with files.atomic(Path(out)) as unfinished:
        np.save(unfinished, result)


if __name__ == "__main__":
    errors.run(main)
