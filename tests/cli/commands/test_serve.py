"""``reslink serve``: refusals before it listens, and the printed URL."""

from __future__ import annotations

import re
import signal
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from reslink.cli.main import app

LONG = "a-token-of-the-tests"


def said(*words: str, **environment: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["serve", *words], env=environment)
    return result.exit_code, " ".join(result.stderr.split())


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.org"])
def test_a_public_address_needs_a_token(host: str, finished_run: Path) -> None:
    code, text = said(str(finished_run / "bundle"), "--host", host, RESLINK_TOKEN="")
    assert code == 2
    assert f"would listen on {host} without a token" in text
    assert "Set RESLINK_TOKEN" in text


def test_a_further_host_name_needs_a_token(finished_run: Path) -> None:
    code, text = said(str(finished_run / "bundle"), "--allow-host", "reslink.example.org", RESLINK_TOKEN="")
    assert code == 2
    assert "would answer to the host name reslink.example.org without a token" in text
    assert "Set RESLINK_TOKEN" in text


@pytest.mark.parametrize("token", ["sh0rt", "with a space in its middle", "schlüssel-mit-umlaut"])
def test_an_invalid_token(token: str, finished_run: Path) -> None:
    code, text = said(str(finished_run / "bundle"), "--token", token)
    assert (code, "at least 16" in text) == (2, True)
    assert token not in text


def test_the_token_is_taken_from_the_environment(finished_run: Path) -> None:
    code, text = said(str(finished_run / "bundle"), "--host", "0.0.0.0", RESLINK_TOKEN=LONG)
    assert code == 2
    assert "has no model.onnx" in text, "it got past the token and refused the bundle"


def test_a_bundle_without_a_graph(finished_run: Path) -> None:
    code, text = said(str(finished_run / "bundle"))
    assert (code, "has no model.onnx" in text, '"onnx>=' in text) == (2, True, True)


def test_no_bundle(tmp_path: Path) -> None:
    code, text = said(str(tmp_path / "none"))
    assert (code, "does not exist" in text) == (2, True)


def test_a_port_in_use(finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from reslink.serving.http import models

    monkeypatch.setattr(models, "load_onnx_bundle", lambda _: None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, text = said(str(finished_run / "bundle"), "--port", str(taken.getsockname()[1]))
    assert (code, "cannot listen on 127.0.0.1" in text, "Choose another --port" in text) == (2, True, True)


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_it_prints_the_url(host: str, shown: str, finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import uvicorn

    from reslink.serving.http import models

    bound: list[int] = []
    try:
        socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError:
        pytest.skip(f"this machine has no {host}")
    monkeypatch.setattr(models, "load_onnx_bundle", lambda _: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(uvicorn.Server, "run", lambda _, sockets: bound.append(sockets[0].getsockname()[1]))
    code, text = said(str(finished_run / "bundle"), "--host", host, "--port", "0")
    assert code == 0
    assert re.findall(r"http://\S+", text) == [f"http://{shown}:{bound[0]}/"]
    assert "research use only" in text.lower()
