"""``--on``: what is refused before a model is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from reslink.cli.main import app


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--on", "ray"], "--on was given without --csv or --json"),
        (["--shard-size", "9"], "--shard-size was given without --on"),
        (["--on", "ray", "--json", "--pictures", "p"], "--on and --pictures were both given"),
        (["--on", "ray", "--json", "--device", "cuda"], "--on and --device cuda were both given"),
        (["--on", "nowhere", "--json"], "'nowhere' is not the address of a cluster"),
        (["--on", "10.0.0.7:6379", "--json", "--offline"], "--on 10.0.0.7:6379 and --offline were both given"),
        (["--on", "127.0.0.1:6379", "--json", "--offline"], "--on 127.0.0.1:6379 and --offline were both given"),
        (["https://u:p@example.org/a.png", "--on", "ray", "--json"], "--on and a URL with credentials or a query were both"),
        (["--on", "ray://10.0.0.7:1", "--json"], "10.0.0.7:1 is not only on this machine, and RAY_AUTH_MODE is not 'token'"),
    ],
)
def test_what_a_cluster_cannot_do_is_refused(words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    check_refused(["predict", "ct", "none.png", *words], message, monkeypatch)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--on", "ray", "--device", "cuda"], "--on and --device cuda were both given"),
        (["--on", "ray", "--network", "mine:network"], "--on and --network were both given"),
        (["--on", "nowhere"], "'nowhere' is not the address of a cluster"),
        (["--on", "10.0.0.7:6379", "--offline"], "--on 10.0.0.7:6379 and --offline were both given"),
    ],
)
def test_what_an_evaluation_on_a_cluster_cannot_do_is_refused(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    check_refused(["evaluate", "ct", "none", "--out", str(tmp_path / "out"), *words], message, monkeypatch)
    assert list(tmp_path.iterdir()) == []


def check_refused(words: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, done.stdout) == (2, "")
    first, *others = done.stderr.splitlines()
    assert message in first
    assert len(others) == 2
