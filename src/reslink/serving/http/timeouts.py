"""HTTP/1.1 protocol with timeouts for clients that send a request, or read its response, too slowly.

uvicorn 0.54 has a timeout for idle keep-alive connections only. It waits forever for the rest of a header or body, and for a
client that does not read its response (Kludex/uvicorn, issue 157). ``test_uvicorn_alone_keeps_slow_clients`` in
tests/serving/http/test_timeouts.py shows it for each of the three. If that test fails, this module may be unnecessary.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from reslink.serving.http.problems import MEDIA_TYPE, Problem

_CLOSE_SECONDS: Final = 5.0
_MIN_READ_BYTES: Final = 1 << 20
"""Bytes of a response that a client must read within ``body_seconds``, so that a slow line still gets a large response."""


class TimedProtocol(H11Protocol):
    """One connection with timeouts.

    Args:
        header_seconds: Time to receive a header, from the connection or the end of the previous response.
        body_seconds: Time to receive a body after its header, and for the client to read each megabyte of the response.
        **options: Arguments of uvicorn's protocol.
    """

    def __init__(self, *, header_seconds: float = 10.0, body_seconds: float = 60.0, **options: Any) -> None:
        super().__init__(**options)
        self.header_seconds, self.body_seconds = header_seconds, body_seconds
        self._receive_timer: asyncio.TimerHandle | None = None
        self._read_timer: asyncio.TimerHandle | None = None
        self._stage: tuple[str, int] | None = None

    def connection_made(self, transport: Any) -> None:
        """Starts the timer of the first header."""
        super().connection_made(transport)
        self._update_receive_timer()

    def data_received(self, data: bytes) -> None:
        """Processes received bytes; a timer that already runs is not restarted."""
        super().data_received(data)
        self._update_receive_timer()

    def on_response_complete(self) -> None:
        """Starts the timer of the next header."""
        super().on_response_complete()
        self._update_receive_timer()
        self._update_read_timer()

    def pause_writing(self) -> None:
        """Starts the timer in which the client must read the response, as the write buffer is full."""
        super().pause_writing()
        self._update_read_timer()

    def resume_writing(self) -> None:
        """Restarts the timer, as the client has read most of the write buffer."""
        super().resume_writing()
        self._update_read_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the timers."""
        self._stop_receive_timer()
        self._stop_read_timer()
        super().connection_lost(exc)

    def _update_receive_timer(self) -> None:
        """Starts a new timer when the client begins to send another header or body."""
        state = self.conn.their_state
        stage = {h11.IDLE: "header", h11.SEND_BODY: "body"}.get(state)
        key = None if stage is None else (stage, id(self.cycle))
        if key == self._stage:
            return
        self._stop_receive_timer()
        self._stage = key
        if stage is not None and not self.transport.is_closing():
            seconds = self.header_seconds if stage == "header" else self.body_seconds
            self._receive_timer = self.loop.call_later(seconds, self._cut_off, stage, seconds)

    def _stop_receive_timer(self) -> None:
        if self._receive_timer is not None:
            self._receive_timer.cancel()
            self._receive_timer = None

    def _update_read_timer(self) -> None:
        """Restarts the timer of the response if a part of it is unread; it continues while the connection closes."""
        self._stop_read_timer()
        unread = self.transport.get_write_buffer_size()
        if unread:
            self._read_timer = self.loop.call_later(self.body_seconds, self._check_read, unread)

    def _check_read(self, before: int) -> None:
        """Aborts the connection if the client has read too little."""
        unread = self.transport.get_write_buffer_size()
        if unread and before - unread < _MIN_READ_BYTES:
            self.transport.abort()
        else:
            self._update_read_timer()

    def _stop_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _cut_off(self, stage: str, seconds: float) -> None:
        """Closes the connection, with a 408 response unless another response has started."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write(_timeout_response(stage, seconds))
        self.transport.close()
        if self._read_timer is None:
            self._read_timer = self.loop.call_later(_CLOSE_SECONDS, self.transport.abort)


def _timeout_response(stage: str, seconds: float) -> bytes:
    detail = f"The {stage} of the request was not received in time. The limit is {seconds:g} seconds. Send it again."
    problem = Problem(408, "too-slow", "The client is too slow", detail)
    body = json.dumps(problem.as_dict()).encode()
    lines = ("HTTP/1.1 408 Request Timeout", f"content-type: {MEDIA_TYPE}", f"content-length: {len(body)}", "connection: close")
    head = "\r\n".join(lines) + "\r\n\r\n"
    return head.encode() + body
