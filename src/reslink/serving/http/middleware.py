"""ASGI middleware around every request: access checks, security headers, metrics and the access log."""

from __future__ import annotations

import asyncio
import hmac
import itertools
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from reslink.serving.addresses import is_loopback
from reslink.serving.http import access_log
from reslink.serving.http.limits import MIB, Limits
from reslink.serving.http.metrics import Metrics
from reslink.serving.http.problems import Problem, internal_error, too_large

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PUBLIC_ROUTES: Final = ("/", "/health/live", "/health/ready")
"""Routes that need no token, besides the files of the web page below ``/ui/``. They reveal nothing about images."""

SECURITY_HEADERS: Final = (
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
_KEEP_ALIVE_BYTES: Final = 4 * MIB
"""If no more of a body is left after its response, the connection is kept."""
_DRAIN_PAUSE_SECONDS: Final = 1.0
"""A client that sends nothing for so long has seen the response."""
_LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "[::1]")


@dataclass
class _Exchange:
    """One request and its response: counts what was received, and adds headers to what is sent.

    Attributes:
        receive: ASGI callable that receives the next part of the body.
        send: ASGI callable that sends a part of the response.
        length: Stated length of the body; None if not stated.
        complete: Whether the whole body was received.
        received: Bytes of the body received so far.
        status: Status of the response; 0 before it starts.
        held_back: End of a response that was sent before the whole body was received.
    """

    receive: Receive
    send: Send
    length: int | None
    complete: bool = False
    received: int = 0
    status: int = 0
    held_back: list[Message] = field(default_factory=list)

    async def receive_message(self) -> Message:
        """Receives a part of the body and records whether it was the last."""
        message = await self.receive()
        self.received += len(message.get("body", b""))
        self.complete = self.complete or message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message

    async def send_message(self, message: Message) -> None:
        """Adds the security headers; holds back the end of a response that precedes the end of the request body."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            close = [] if self._is_drainable() else [(b"connection", b"close")]
            message = {**message, "headers": [*message.get("headers", ()), *SECURITY_HEADERS, *close]}
        elif not message.get("more_body", False) and not self.complete:
            self.held_back.append({"type": "http.response.body", "body": b""})
            message = {**message, "more_body": True}
        await self.send(message)

    def _is_drainable(self) -> bool:
        """Whether the rest of the body is short enough to receive and discard, so that the connection can be kept."""
        return self.complete or (self.length is not None and self.length - self.received <= _KEEP_ALIVE_BYTES)

    async def finish(self, limits: Limits) -> None:
        """Discards what the client still sends, so that it sees the response before the connection closes.

        Many clients send the whole body before they read; if the connection closes meanwhile, they see a reset instead.

        Args:
            limits: Up to twice the largest body is discarded, for as long as a body may take.
        """
        if not self.held_back:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(limits.body_seconds):
                while not self.complete and self.received <= 2 * limits.body_bytes:
                    async with asyncio.timeout(_DRAIN_PAUSE_SECONDS):
                        await self.receive_message()
        await self.send(self.held_back.pop())


class ServiceMiddleware:
    """The outermost ASGI application of the service.

    Args:
        app: The wrapped application.
        limits: Limits of the service.
        metrics: Counts requests.
        token: Token that clients must send; None if none is required.
        hosts: Accepted values of the Host header; None for any. They stop pages of other sites from reaching a service on
            loopback under a name of their own (DNS rebinding).
        routes: Known paths, by which requests are counted.
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
        """Handles one request. An unexpected exception becomes a response with status 500."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, number = time.monotonic(), next(self._numbers)
        headers = dict(scope["headers"])
        exchange = _Exchange(receive, send, _content_length(headers), complete=_has_no_body(headers))
        try:
            await self._handle(scope, exchange, headers)
        except Exception as error:  # noqa: BLE001  (the outermost handler: anything that arrives here is a bug)
            access_log.log_unexpected_error(number, error)
            if not exchange.status:
                await _send_problem(internal_error(), scope, exchange)
        await exchange.finish(self._limits)
        route = self._route(scope["path"])
        seconds = time.monotonic() - start
        self._metrics.count_request(route, exchange.status, seconds)
        access_log.log_request(number, _method(scope["method"]), route, exchange.status, seconds)

    async def _handle(self, scope: Scope, exchange: _Exchange, headers: dict[bytes, bytes]) -> None:
        try:
            self._check_access(scope["path"], headers)
            if exchange.length is not None and exchange.length > self._limits.body_bytes:
                raise too_large("The request body is too long", f"{self._limits.body_bytes} bytes")
        except Problem as problem:
            await _send_problem(problem, scope, exchange)
            return
        await self._app(scope, exchange.receive_message, exchange.send_message)

    def _check_access(self, path: str, headers: dict[bytes, bytes]) -> None:
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if self._hosts is not None and _without_port(host) not in self._hosts:
            detail = f"The Host header names another host. The service accepts {' or '.join(self._hosts)}. Use such an address."
            raise _forbidden("wrong-host", detail)
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1").lower().partition("://")[2] != host:
            detail = "The request comes from a page of another site. Only the service's own page may call it. Use that page."
            raise _forbidden("wrong-origin", detail)
        if self._token is not None and not (path in PUBLIC_ROUTES or path.startswith("/ui/")):
            scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self._token):
                raise Problem(
                    HTTPStatus.UNAUTHORIZED,
                    "no-token",
                    "The token is missing or wrong",
                    "The token is missing or wrong. The service requires it. Send the header Authorization: Bearer TOKEN.",
                )

    def _route(self, path: str) -> str:
        return path if path in self._routes else "/ui/" if path.startswith("/ui/") else "other"


def allowed_hosts(host: str, names: tuple[str, ...]) -> tuple[str, ...] | None:
    """Returns the accepted host names of a service, None for any.

    Args:
        host: Address that the service listens on. On loopback, the names of loopback are accepted.
        names: Further accepted names.
    """
    further = tuple(_without_port(name.lower()) for name in names)
    if is_loopback(host):
        return tuple(dict.fromkeys((*_LOOPBACK_NAMES, f"[{host}]" if ":" in host else host, *further)))
    return further or None


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def _forbidden(name: str, detail: str) -> Problem:
    return Problem(HTTPStatus.FORBIDDEN, name, "The request comes from elsewhere", detail)


async def _send_problem(problem: Problem, scope: Scope, exchange: _Exchange) -> None:
    await problem.response()(scope, exchange.receive_message, exchange.send_message)


def _content_length(headers: dict[bytes, bytes]) -> int | None:
    value = headers.get(b"content-length", b"")
    return int(value) if value.isdigit() else None


def _has_no_body(headers: dict[bytes, bytes]) -> bool:
    return b"transfer-encoding" not in headers and headers.get(b"content-length", b"0") == b"0"


def _method(name: str) -> str:
    return name if name in ("GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "PATCH") else "other"
