"""Connections that keep nobody out: a deadline for each request from its first moment,
room made at the cost of those that only wait.

uvicorn itself has no limit for the time before a request, and counts idle connections
among those that it refuses to go beyond.
"""

import json
import socket
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

MOST_PIECES = 512  # in which a body may come; h11 takes its time for each
ANSWER_SECONDS = 30.0  # for the work on a request and for its client to read the answer
LATE = "The request did not come in time: send it again."
IDLE_SECONDS = 5  # a connection without a request, after an answer


@dataclass
class Limits:
    """`patience`: seconds from a connection, or from the first byte after an answer,
    to the request's last byte. `most`: connections at once.

    `ended` counts what the limits ended: "late" and "room".
    """

    patience: float = 10.0
    most: int = 256
    ended: Counter[str] = field(default_factory=Counter)


class Pieces(h11.Connection):
    """Lets a body come in so many pieces: one in chunks of a byte each would keep the
    event loop busy for seconds.
    """

    _pieces = 0

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Data):
            self._pieces += 1
            if self._pieces > MOST_PIECES:
                raise h11.RemoteProtocolError("too many pieces")
        elif isinstance(event, h11.Request):
            self._pieces = 0
        return event


class Connection(H11Protocol):
    """One client's connection, held to its limits.

    The application finds the request's deadline, by the event loop's clock, in
    scope["state"]["deadline"], and refuses a body that is late itself.
    """

    def __init__(self, limits: Limits, **uvicorns: Any):
        super().__init__(**uvicorns)
        self.conn = Pieces(h11.SERVER)
        self._limits = limits
        self._servers_state = self.app_state
        self._served = self._gone = False
        self._since = self._deadline = self.loop.time()

    def connection_made(self, transport: Any) -> None:
        """Begin the first request's time; beyond the limit somebody else must go."""
        super().connection_made(transport)
        # asyncio does it for sockets of its own making only; else the body of an answer
        # waits 40 ms for the client to acknowledge the head
        connected = transport.get_extra_info("socket")
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._begin()
        self._timer = self.loop.call_at(self._deadline, self._look)
        if len(self.connections) > self._limits.most:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone = True
        self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.timeout_keep_alive_task is not None:  # idle until now
            self._begin()
        super().data_received(data)

    def on_response_complete(self) -> None:
        self._served = True
        self._begin()  # a next request may lie here already
        super().on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        if self.transport.get_write_buffer_size():  # it does not read its answer
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._refuse(
                400, f"This is not HTTP/1.1, or comes in over {MOST_PIECES} pieces."
            )
        else:  # the answer is on its way already
            self.transport.abort()

    @property
    def _waits(self) -> bool:
        """Whether it is the client's turn: to send a request, or to read an answer."""
        cycle = self.cycle
        return (
            cycle is None
            or cycle.response_complete
            or cycle.more_body
            or self.flow.write_paused
        )

    def _begin(self) -> None:
        self._since = self.loop.time()
        self._deadline = self._since + self._limits.patience
        self.app_state = self._servers_state | {"deadline": self._deadline}

    def _look(self) -> None:
        """At the deadline: refuse a head that is late; later, end what has not ended.

        The application refuses a late body, which is why that gets the time of an
        answer, too.
        """
        now, cycle = self.loop.time(), self.cycle
        under_way = cycle is not None and not cycle.response_complete
        end = self._deadline + (ANSWER_SECONDS if under_way else 0.0)
        if self.timeout_keep_alive_task is not None:
            end = now + self._limits.patience  # idle: uvicorn's own timer ends it
        if now < end:
            self._timer = self.loop.call_at(end, self._look)
            return
        self._limits.ended["late"] += 1
        if not under_way and self.conn.our_state is h11.IDLE:
            self._refuse(408, LATE)
        if (not self._gone and self.transport.get_write_buffer_size()) or under_way:
            self.transport.abort()
        else:
            self.transport.close()

    def _make_room(self) -> None:
        """End the connection that has waited longest, rather one that never had an
        answer; without any, this one.
        """
        waiting = [
            each
            for each in self.connections
            if isinstance(each, Connection)
            and each is not self
            and not each._gone
            and each._waits
        ]
        self._limits.ended["room"] += 1
        if waiting:
            oldest = min(waiting, key=lambda each: (each._served, each._since))
            oldest._gone = True
            oldest.transport.abort()
        else:
            self._refuse(503, "Too many connections are at work: try again.")

    def _refuse(self, status: int, sentence: str) -> None:
        """An answer from here, after which the connection ends."""
        body = json.dumps({"error": sentence}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        response = h11.Response(
            status_code=status, headers=headers, reason=STATUS_PHRASES[status]
        )
        for event in (response, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
