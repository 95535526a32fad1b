"""Slow clients: what uvicorn alone does with them, and what the timeouts change, on both event loops."""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import uvicorn
import uvloop
from uvicorn.protocols.http.h11_impl import H11Protocol

from reslink.serving.http import timeouts
from reslink.serving.http.timeouts import TimedProtocol

MIB = 1 << 20
RESPONSE = bytes(24 * MIB)  # more than the kernel buffers for a connection
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
STALLS = {
    "header": b"GET / HTTP/1.1\r\nHost:",
    "body": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhalf",
    "unread response": REQUEST,
}


async def large_response(_scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
    while (await receive()).get("more_body", False):
        pass
    length = str(len(RESPONSE)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    await send({"type": "http.response.body", "body": RESPONSE})


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """Runs a coroutine on one of the event loops that the service may use."""

    def on_loop(coroutine: Any) -> Any:
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(coroutine)

    return on_loop


def state() -> uvicorn.server.ServerState:
    return uvicorn.server.ServerState()


@asynccontextmanager
async def connected(
    connections: uvicorn.server.ServerState,
    sent: bytes = REQUEST,
    protocol: Callable[..., asyncio.Protocol] = TimedProtocol,
    keep_alive: int = 3600,
    **seconds: float,
) -> AsyncIterator[socket.socket]:
    """A client that has sent some bytes and reads nothing by itself."""
    config = uvicorn.Config(large_response, log_config=None, timeout_keep_alive=keep_alive)
    config.load()
    make = functools.partial(protocol, config=config, server_state=connections, app_state={}, **seconds)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(make, "127.0.0.1", 0)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        client.setblocking(False)
        await loop.sock_connect(client, server.sockets[0].getsockname())
        await loop.sock_sendall(client, sent)
        try:
            async with asyncio.timeout(20):
                yield client
        finally:
            server.close()
            for one in list(connections.connections):
                one.transport.abort()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


async def stalled(stack: AsyncExitStack, **options: Any) -> list[uvicorn.server.ServerState]:
    """Opens one connection for each kind of stall."""
    states = [state() for _ in STALLS]
    for connections, sent in zip(states, STALLS.values(), strict=True):
        await stack.enter_async_context(connected(connections, sent, **options))
    await until(lambda: all(one.connections for one in states))
    return states


def test_uvicorn_alone_keeps_slow_clients(run) -> None:
    """Its only timeout, for idle connections, expires without an effect. If this fails, timeouts.py may be unnecessary."""

    async def wait() -> list[int]:
        async with AsyncExitStack() as stack:
            states = await stalled(stack, protocol=H11Protocol, keep_alive=1)
            await asyncio.sleep(2)
            return [len(one.connections) for one in states]

    assert run(wait()) == [1, 1, 1]


def test_every_slow_client_is_disconnected(run) -> None:
    async def wait() -> None:
        async with AsyncExitStack() as stack:
            states = await stalled(stack, header_seconds=0.3, body_seconds=0.3)
            await until(lambda: not any(one.connections for one in states))

    run(wait())


@pytest.mark.parametrize("header_seconds", [0.1, 3600.0], ids=["closing", "open"])
def test_a_client_that_reads_nothing_is_disconnected(run, header_seconds: float) -> None:
    async def stall() -> None:
        connections = state()
        async with connected(connections, header_seconds=header_seconds, body_seconds=0.3):
            await until(lambda: bool(connections.total_requests))
            assert connections.connections, "it was disconnected before the timeout"
            await until(lambda: not connections.connections)

    run(stall())


def test_a_client_that_reads_slowly_gets_the_whole_response(run) -> None:
    async def read() -> int:
        connections, received = state(), 0
        async with connected(connections, header_seconds=3600.0, body_seconds=0.5) as client:
            loop = asyncio.get_running_loop()
            while received < len(RESPONSE) and (data := await loop.sock_recv(client, 64 << 10)):
                received += len(data)
                await asyncio.sleep(0.004)
        return received

    assert run(read()) >= len(RESPONSE)


class Stuck(asyncio.Transport):
    """A connection whose client reads nothing."""

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


def test_the_408_response_to_a_slow_client_has_a_timeout(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeouts, "_CLOSE_SECONDS", 0.1)

    async def cut_off() -> bytes:
        config = uvicorn.Config(large_response, log_config=None)
        config.load()
        transport = Stuck()
        protocol = TimedProtocol(config=config, server_state=state(), app_state={}, header_seconds=0.1, body_seconds=3600.0)
        protocol.connection_made(transport)
        async with asyncio.timeout(20):
            await transport.aborted.wait()
        return transport.left

    assert run(cut_off()).startswith(b"HTTP/1.1 408 ")
