"""The middleware without a server: access checks, disconnected clients, unexpected errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import pytest

from reslink.serving.http import access_log
from reslink.serving.http.app import Settings, create_app
from reslink.serving.http.handlers import RequestHandlers
from reslink.serving.http.limits import Limits
from reslink.serving.http.metrics import Metrics
from reslink.serving.http.middleware import Message, ServiceMiddleware, allowed_hosts

FORM = (b"content-type", b"multipart/form-data; boundary=b")
GONE = {"type": "http.disconnect"}


def exchange(app: Any, method: str, path: str, headers: Iterable[tuple[bytes, bytes]], *received: Message) -> list[Message]:
    """Sends a request to an application and returns its messages."""
    left, sent = list(received), []

    async def receive() -> Message:
        return left.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": list(headers)}
    asyncio.run(app(scope, receive, send))
    return sent


def test_a_client_that_disconnects_is_not_an_error(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "configure", lambda _: None)  # logging is global
    caplog.set_level("INFO", access_log.LOGGER.name)
    app: Any = create_app(Settings(()))
    app._app.state.handlers = RequestHandlers([], None, Limits(), Metrics())  # type: ignore[arg-type]
    own = (b"host", b"localhost")
    begun = {"type": "http.request", "body": b"--b\r\nContent-", "more_body": True}
    exchange(app, "POST", "/v1/predict", (own, FORM, (b"content-length", b"1000")), begun, GONE)
    [_, body, *_] = exchange(app, "GET", "/metrics", (own,), {"type": "http.request"}, GONE)
    pluralize = [line for line in body["body"].decode().splitlines() if line.startswith("reslink_requests_total")]
    assert len(pluralize) == 1
    assert 'route="/v1/predict",status="499"' in pluralize[0]
    assert "POST /v1/predict 499" in caplog.text
    assert "ERROR" not in caplog.text


def test_an_unexpected_error_is_a_problem_and_logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "configure", lambda _: None)
    app: Any = create_app(Settings(()))
    app._app.state.handlers = None
    start, body = exchange(app, "POST", "/v1/predict", [(b"host", b"localhost"), FORM], {"type": "http.request"})
    assert start["status"] == 500
    assert (b"content-type", b"application/problem+json") in start["headers"]
    assert json.loads(body["body"])["type"] == "urn:reslink:problem:fault"
    assert "POST /v1/predict" in caplog.text or "AttributeError" in caplog.text


def test_every_loopback_address_is_an_allowed_host() -> None:
    assert "127.0.0.5" in (allowed_hosts("127.0.0.5", ()) or ())
    assert "[::1]" in (allowed_hosts("::1", ()) or ())


@pytest.mark.parametrize("host", ["reslink.example.org", "Reslink.Example.ORG:8443"])
def test_further_host_names_ignore_case_and_port(host: str) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    names = allowed_hosts("127.0.0.1", ("Reslink.Example.org",))
    middleware = ServiceMiddleware(app, Limits(), Metrics(), None, names, frozenset())
    assert exchange(middleware, "GET", "/", ((b"host", host.encode()),))[0]["status"] == 200
    assert exchange(middleware, "GET", "/", ((b"host", b"evil.example"),))[0]["status"] == 403
