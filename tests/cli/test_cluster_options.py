"""``--on``: what is refused before a model is loaded."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from reslink.cli.main import app


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--on", "ray"], "--on was given without --csv or --json"),
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
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["predict", "ct", "none.png", *words])
    assert (done.exit_code, done.stdout) == (2, "")
    first, *others = done.stderr.splitlines()
    assert message in first
    assert len(others) == 2
    assert list(tmp_path.iterdir()) == []
