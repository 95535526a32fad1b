"""Clients that do not take their answer, on both event loops."""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
import uvloop

from reslink.serving.http import timeouts
from reslink.serving.http.timeouts import TimedProtocol

MIB = 1 << 20
ANSWER = bytes(24 * MIB)  # more than the kernel keeps for a connection
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def whole_answer(_scope: Any, _receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
    length = str(len(ANSWER)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    await send({"type": "http.response.body", "body": ANSWER})


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """Runs a coroutine on one of the loops that a service may have."""

    def on_loop(coroutine: Any) -> Any:
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(coroutine)

    return on_loop


def state() -> uvicorn.server.ServerState:
    return uvicorn.server.ServerState()


@asynccontextmanager
async def asked(connections: uvicorn.server.ServerState, **seconds: float) -> AsyncIterator[socket.socket]:
    """A connection that has sent its request, and takes little at a time."""
    config = uvicorn.Config(whole_answer, log_config=None, timeout_keep_alive=3600)
    config.load()
    make = functools.partial(TimedProtocol, config=config, server_state=connections, app_state={}, **seconds)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(make, "127.0.0.1", 0)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        client.setblocking(False)
        await loop.sock_connect(client, server.sockets[0].getsockname())
        await loop.sock_sendall(client, REQUEST)
        try:
            async with asyncio.timeout(20):
                yield client
        finally:
            server.close()
            for one in list(connections.connections):
                one.transport.abort()


async def gone(connections: uvicorn.server.ServerState) -> None:
    while connections.connections:
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("header_seconds", [0.1, 3600.0], ids=["closing", "open"])
def test_a_client_that_takes_nothing_is_dropped_with_its_answer(run, header_seconds: float) -> None:
    async def stall() -> None:
        connections = state()
        async with asked(connections, header_seconds=header_seconds, body_seconds=0.3):
            while not connections.total_requests:
                await asyncio.sleep(0.01)
            assert connections.connections, "it was dropped before its time was over"
            await gone(connections)

    run(stall())


def test_a_client_that_takes_its_answer_slowly_gets_all_of_it(run) -> None:
    async def read() -> int:
        connections, taken = state(), 0
        async with asked(connections, header_seconds=3600.0, body_seconds=0.5) as client:
            loop = asyncio.get_running_loop()
            while taken < len(ANSWER) and (data := await loop.sock_recv(client, 64 << 10)):
                taken += len(data)
                await asyncio.sleep(0.004)
        return taken

    assert run(read()) >= len(ANSWER)


class Stuck(asyncio.Transport):
    """A connection of which the other side takes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.closing, self.aborted = b"", False, asyncio.Event()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.left += bytes(data)

    def get_write_buffer_size(self) -> int:
        return len(self.left)

    def close(self) -> None:
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.aborted.set()


def test_the_408_of_a_slow_sender_is_not_waited_for_for_ever(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeouts, "_CLOSING_SECONDS", 0.1, raising=False)

    async def cut_off() -> bytes:
        config = uvicorn.Config(whole_answer, log_config=None)
        config.load()
        line = Stuck()
        one = TimedProtocol(config=config, server_state=state(), app_state={}, header_seconds=0.1, body_seconds=3600.0)
        one.connection_made(line)
        async with asyncio.timeout(20):
            await line.aborted.wait()
        return line.left

    assert run(cut_off()).startswith(b"HTTP/1.1 408 ")
