"""Runs in the Lab: `write` sends 1,000 events to the broker; `read` takes them from the
beginning and counts.

Prints one JSON object: events, and the sum of their numbers.
"""

import json
import sys
import time

from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import NewTopic

from helpers import settings
from helpers.kafka import broker as kafka

EVENTS, TOPIC, SECONDS = 1000, "cluster-test", 60
address = {"bootstrap.servers": settings.kafka()}
kafka.require(settings.kafka())
if sys.argv[1] == "write":
    admin = kafka.admin(settings.kafka())
    for future in admin.create_topics([NewTopic(TOPIC, 2, 1)]).values():
        future.result()
    producer = Producer(address)
    for number in range(EVENTS):
        producer.produce(TOPIC, str(number).encode())
    producer.flush(SECONDS)
consumer = Consumer(
    address | {"group.id": sys.argv[1], "auto.offset.reset": "earliest"}
)
consumer.subscribe([TOPIC])
numbers, end = [], time.monotonic() + SECONDS
while len(numbers) < EVENTS and time.monotonic() < end:
    numbers += [
        int(message.value())
        for message in consumer.consume(EVENTS, 1.0)
        if not message.error()
    ]
consumer.close()
print(json.dumps({"events": len(numbers), "sum": sum(numbers)}))
