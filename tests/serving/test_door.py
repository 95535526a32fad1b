"""What every request passes, without a server: how one that breaks off is counted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from reslink.serving import log
from reslink.serving.desk import Desk
from reslink.serving.door import Message
from reslink.serving.http import Settings, create_app
from reslink.serving.limits import Limits
from reslink.serving.metrics import Metrics

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
    monkeypatch.setattr(log, "start", lambda _: None)  # it is that of the whole process
    caplog.set_level("INFO", log.LOGGER.name)
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
