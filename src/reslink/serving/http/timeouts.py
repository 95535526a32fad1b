"""HTTP/1.1 with deadlines: a client that sends its header or its body, or takes its answer, too slowly is cut off.

uvicorn itself waits for ever (Kludex/uvicorn, issue 157); its h11 protocol is extended here by two timers a connection.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from reslink.serving.http.problems import MEDIA_TYPE, Problem

_CLOSING_SECONDS: Final = 5.0
_LEAST_TAKEN: Final = 1 << 20
"""Bytes of an answer that a client takes in the time of a body, or else the rest: a page on a slow line gets its volume."""


class TimedProtocol(H11Protocol):
    """One connection.

    Args:
        header_seconds: From the connection, or the end of the last answer, to the end of a header.
        body_seconds: From there to the end of the body; also for each megabyte of the answer that the client takes.
        **options: What uvicorn gives each connection.
    """

    def __init__(self, *, header_seconds: float = 10.0, body_seconds: float = 60.0, **options: Any) -> None:
        super().__init__(**options)
        self.header_seconds, self.body_seconds = header_seconds, body_seconds
        self._timer: asyncio.TimerHandle | None = None
        self._taking: asyncio.TimerHandle | None = None
        self._stage: tuple[str, int] | None = None

    def connection_made(self, transport: Any) -> None:
        """Begins a connection, and the time of its first header."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Takes some bytes; the time of what they belong to goes on."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Ends an answer, and begins the time of the next header."""
        super().on_response_complete()
        self._watch()
        self._watch_taking()

    def pause_writing(self) -> None:
        """Begins the time in which the client takes what was written, as more of it waits than is good."""
        super().pause_writing()
        self._watch_taking()

    def resume_writing(self) -> None:
        """Goes on, as the client has taken most of it."""
        super().resume_writing()
        self._watch_taking()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends a connection."""
        self._stop()
        self._stop_taking()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Sets the timer where the client has begun to send something else than before."""
        state = self.conn.their_state
        stage = {h11.IDLE: "header", h11.SEND_BODY: "body"}.get(state)
        key = None if stage is None else (stage, id(self.cycle))
        if key == self._stage:
            return
        self._stop()
        self._stage = key
        if stage is not None and not self.transport.is_closing():
            seconds = self.header_seconds if stage == "header" else self.body_seconds
            self._timer = self.loop.call_later(seconds, self._cut_off, stage, seconds)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch_taking(self) -> None:
        """Sets the timer of the answer anew where some of it waits; it runs on while the connection closes."""
        self._stop_taking()
        waiting = self.transport.get_write_buffer_size()
        if waiting:
            self._taking = self.loop.call_later(self.body_seconds, self._check_taking, waiting)

    def _check_taking(self, before: int) -> None:
        """Drops the connection, with what waits, where the client has taken too little of it."""
        waiting = self.transport.get_write_buffer_size()
        if waiting and before - waiting < _LEAST_TAKEN:
            self.transport.abort()
        else:
            self._watch_taking()

    def _stop_taking(self) -> None:
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None

    def _cut_off(self, stage: str, seconds: float) -> None:
        """Says why, where nothing was said yet, and closes the connection."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write(_too_slow(stage, seconds))
        self.transport.close()
        if self._taking is None:
            self._taking = self.loop.call_later(_CLOSING_SECONDS, self.transport.abort)


def _too_slow(stage: str, seconds: float) -> bytes:
    problem = Problem(408, "too-slow", "The client is too slow", f"The {stage} of a request comes within {seconds:g} seconds.")
    body = json.dumps(problem.as_dict()).encode()
    lines = ("HTTP/1.1 408 Request Timeout", f"content-type: {MEDIA_TYPE}", f"content-length: {len(body)}", "connection: close")
    head = "\r\n".join(lines) + "\r\n\r\n"
    return head.encode() + body
