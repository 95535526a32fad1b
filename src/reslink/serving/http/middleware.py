"""What every request passes, in and out: who may come in, what is counted, and the headers that keep a browser in bounds."""

from __future__ import annotations

import asyncio
import hmac
import itertools
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from reslink.serving.addresses import is_loopback
from reslink.serving.http import access_log
from reslink.serving.http.limits import MIB, Limits
from reslink.serving.http.metrics import Metrics
from reslink.serving.http.problems import Problem, fault, too_large

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN: Final = ("/", "/health/live", "/health/ready")
"""Routes that need no token, besides the files of the page under ``/ui/``: they tell nothing of images."""

HEADERS: Final = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        b"form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
_LINGER_BYTES: Final = 4 * MIB
_LINGER_SECONDS: Final = 0.5
_LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]")


@dataclass
class _Visit:
    """One request on its way: what was read of it, and what was answered."""

    receive: Receive
    send: Send
    length: int | None
    read: bool = False
    taken: int = 0
    status: int = 0
    late: list[Message] = field(default_factory=list)

    async def take(self) -> Message:
        """Receives, and notes whether the body has ended."""
        message = await self.receive()
        self.taken += len(message.get("body", b""))
        self.read = self.read or message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message

    async def answer(self, message: Message) -> None:
        """Sends with the headers of every answer; holds back the end of an answer that comes before the end of its body."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            extra = [(b"connection", b"close")] if self._long() else []
            message = {**message, "headers": [*message.get("headers", ()), *HEADERS, *extra]}
        elif not message.get("more_body", False) and not self.read:
            self.late.append({"type": "http.response.body", "body": b""})
            message = {**message, "more_body": True}
        await self.send(message)

    def _long(self) -> bool:
        """Whether more of the body is to come than is worth reading."""
        return not self.read and (self.length is None or self.length - self.taken > _LINGER_BYTES)

    async def end(self) -> None:
        """Throws away what the client still sends, so that it sees the answer before the connection ends, and ends."""
        if not self.late:
            return
        most = self.taken + _LINGER_BYTES
        try:
            async with asyncio.timeout(_LINGER_SECONDS):
                while not self.read and self.taken <= most:
                    await self.take()
        except TimeoutError:
            pass
        await self.send(self.late.pop())


class Door:
    """The outermost part of the service.

    Args:
        app: What lies behind it.
        limits: Of the service.
        metrics: Counts requests.
        token: What clients show; None where none is asked for.
        hosts: Names by which the service may be called; None for any. Keeps pages of other sites from reaching a service on
            loopback by a name of their own.
        routes: The known paths, by which requests are counted.
    """

    def __init__(
        self,
        app: App,
        limits: Limits,
        metrics: Metrics,
        token: str | None,
        hosts: tuple[str, ...] | None,
        routes: frozenset[str],
    ) -> None:
        self._app, self._limits, self._metrics = app, limits, metrics
        self._token = None if token is None else token.encode()
        self._hosts, self._routes = hosts, routes
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request; an error that nobody expected is an answer too."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, number = time.monotonic(), next(self._numbers)
        headers = dict(scope["headers"])
        visit = _Visit(receive, send, _length(headers), read=_is_empty(headers))
        try:
            await self._serve(scope, visit, headers)
        except Exception as error:  # noqa: BLE001  (the last door: what comes here is a bug, and is said to be one)
            access_log.fault(number, error)
            if not visit.status:
                await _problem(fault(), scope, visit)
        await visit.end()
        route = self._route(scope["path"])
        seconds = time.monotonic() - began
        self._metrics.request(route, visit.status, seconds)
        access_log.request(number, _method(scope["method"]), route, visit.status, seconds)

    async def _serve(self, scope: Scope, visit: _Visit, headers: dict[bytes, bytes]) -> None:
        try:
            self._check(scope["path"], headers)
            if visit.length is not None and visit.length > self._limits.body_bytes:
                raise too_large("The body is too long", f"{self._limits.body_bytes} bytes")
        except Problem as problem:
            await _problem(problem, scope, visit)
            return
        await self._app(scope, visit.take, visit.answer)

    def _check(self, path: str, headers: dict[bytes, bytes]) -> None:
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if self._hosts is not None and _name(host) not in self._hosts:
            raise _forbidden("wrong-host", f"This service is called {' or '.join(self._hosts)}.")
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1").lower().partition("://")[2] != host:
            raise _forbidden("wrong-origin", "Pages of other sites may not use this service.")
        if self._token is not None and not (path in OPEN or path.startswith("/ui/")):
            kind, _, shown = headers.get(b"authorization", b"").partition(b" ")
            if kind.lower() != b"bearer" or not hmac.compare_digest(shown.strip(), self._token):
                raise Problem(
                    HTTPStatus.UNAUTHORIZED,
                    "no-token",
                    "The token is missing or wrong",
                    "This service asks for a token. Send the header: Authorization: Bearer TOKEN.",
                )

    def _route(self, path: str) -> str:
        return path if path in self._routes else "/ui/" if path.startswith("/ui/") else "other"


def allowed_hosts(host: str, names: tuple[str, ...]) -> tuple[str, ...] | None:
    """Returns the names by which a service may be called: on loopback those of this machine, else those given, or any."""
    known = tuple(_name(name.lower()) for name in names)
    if is_loopback(host):
        return tuple(dict.fromkeys((*_LOOPBACK, f"[{host}]" if ":" in host else host, *known)))
    return known or None


def _name(host: str) -> str:
    """Returns a host without its port."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def _forbidden(name: str, detail: str) -> Problem:
    return Problem(HTTPStatus.FORBIDDEN, name, "The request comes from elsewhere", detail)


async def _problem(problem: Problem, scope: Scope, visit: _Visit) -> None:
    await problem.response()(scope, visit.take, visit.answer)


def _length(headers: dict[bytes, bytes]) -> int | None:
    found = headers.get(b"content-length", b"")
    return int(found) if found.isdigit() else None


def _is_empty(headers: dict[bytes, bytes]) -> bool:
    return b"transfer-encoding" not in headers and headers.get(b"content-length", b"0") == b"0"


def _method(name: str) -> str:
    return name if name in ("GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "PATCH") else "other"
