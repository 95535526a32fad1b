"""What every request passes, without a server: who may come in, and how one that breaks off is counted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import pytest

from reslink.serving.http import access_log
from reslink.serving.http.app import Settings, create_app
from reslink.serving.http.handlers import Desk
from reslink.serving.http.limits import Limits
from reslink.serving.http.metrics import Metrics
from reslink.serving.http.middleware import Door, Message, allowed_hosts

FORM = (b"content-type", b"multipart/form-data; boundary=b")
GONE = {"type": "http.disconnect"}


def exchanged(app: Any, method: str, path: str, headers: Iterable[tuple[bytes, bytes]], *received: Message) -> list[Message]:
    """Gives a request to an application; returns what it sent."""
    left, sent = list(received), []

    async def receive() -> Message:
        return left.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": list(headers)}
    asyncio.run(app(scope, receive, send))
    return sent


def test_a_client_that_breaks_off_is_no_fault_of_the_service(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_log, "start", lambda _: None)  # it is that of the whole process
    caplog.set_level("INFO", access_log.LOGGER.name)
    app: Any = create_app(Settings(()))
    app._app.state.desk = Desk([], None, Limits(), Metrics())  # type: ignore[arg-type]
    own = (b"host", b"localhost")
    begun = {"type": "http.request", "body": b"--b\r\nContent-", "more_body": True}
    exchanged(app, "POST", "/v1/predict", (own, FORM, (b"content-length", b"1000")), begun, GONE)
    [_, body, *_] = exchanged(app, "GET", "/metrics", (own,), {"type": "http.request"}, GONE)
    counted = [line for line in body["body"].decode().splitlines() if line.startswith("reslink_requests_total")]
    assert len(counted) == 1
    assert 'route="/v1/predict",status="499"' in counted[0]
    assert "POST /v1/predict 499" in caplog.text
    assert "ERROR" not in caplog.text


def test_a_fault_is_told_as_a_problem_and_logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "start", lambda _: None)
    app: Any = create_app(Settings(()))
    app._app.state.desk = None
    start, body = exchanged(app, "POST", "/v1/predict", [(b"host", b"localhost"), FORM], {"type": "http.request"})
    assert start["status"] == 500
    assert (b"content-type", b"application/problem+json") in start["headers"]
    assert json.loads(body["body"])["type"] == "urn:reslink:problem:fault"
    assert "POST /v1/predict" in caplog.text or "AttributeError" in caplog.text


def test_any_address_of_loopback_is_known_by_itself() -> None:
    assert "127.0.0.5" in (allowed_hosts("127.0.0.5", ()) or ())
    assert "[::1]" in (allowed_hosts("::1", ()) or ())


@pytest.mark.parametrize("host", ["reslink.example.org", "Reslink.Example.ORG:8443"])
def test_a_further_name_is_known_however_it_is_written(host: str) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    names = allowed_hosts("127.0.0.1", ("Reslink.Example.org",))
    door = Door(app, Limits(), Metrics(), None, names, frozenset())
    assert exchanged(door, "GET", "/", ((b"host", host.encode()),))[0]["status"] == 200
    assert exchanged(door, "GET", "/", ((b"host", b"evil.example"),))[0]["status"] == 403
