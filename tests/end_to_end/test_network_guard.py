"""No command opens a connection beyond this machine, looks a name up, or writes to the home folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

GUARD = """
import os, sys

LOCAL = ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "", None)

def guard(event, arguments):
    address = None
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        address = address[0] if isinstance(address, tuple) else None  # a path is a Unix socket
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        address = arguments[0]
    if isinstance(address, bytes):
        address = address.decode()
    if address not in LOCAL:
        with open(os.environ["GUARD_LOG"], "a") as stream:
            stream.write(f"{event} {address} in {sys.argv}\\n")
        raise PermissionError("the network guard")

sys.addaudithook(guard)
"""
"""Loaded by every Python process below, also those that commands start."""

RUNNER = """
import json, sys
from typer.testing import CliRunner
from reslink.cli.main import app

for words in json.loads(sys.argv[1]):
    done = CliRunner().invoke(app, words)
    print(json.dumps([words, done.exit_code, (done.stderr or repr(done.exception))[-800:]]), flush=True)
"""


@pytest.fixture
def guarded(tmp_path: Path) -> dict[str, str]:
    """The environment of a process under the guard, with an empty home folder."""
    for name in ("guard", "home", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)
    path = os.pathsep.join(filter(None, [str(tmp_path / "guard"), os.environ.get("PYTHONPATH")]))
    home = str(tmp_path / "home")
    return os.environ | {
        "PYTHONPATH": path,
        "HOME": home,
        "GUARD_LOG": str(tmp_path / "log"),
        "XDG_CACHE_HOME": f"{home}/.cache",
    }


def check(guarded: dict[str, str]) -> None:
    log, home = Path(guarded["GUARD_LOG"]), Path(guarded["HOME"])
    assert not log.exists(), log.read_text()
    assert [path for path in home.rglob("*") if "intel" in path.parts or "Microsoft" in path.parts] == []


def run(guarded: dict[str, str], tmp_path: Path, *code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", *code], env=guarded, cwd=tmp_path / "work", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_guard_works(guarded: dict[str, str], tmp_path: Path) -> None:
    lookup = "import socket; socket.getaddrinfo('example.org', 80)"
    run(guarded, tmp_path, f"import subprocess, sys; subprocess.run([sys.executable, '-c', {lookup!r}])")
    assert "socket.getaddrinfo example.org" in Path(guarded["GUARD_LOG"]).read_text()


def test_openvino_sends_nothing(guarded: dict[str, str], tmp_path: Path) -> None:
    """With its own telemetry, it asks for the address of an analytics host and writes to ~/intel."""
    pytest.importorskip("openvino")
    code = (
        "from reslink.files import optional_import\n"
        "import sys, time\n"
        "library = optional_import('openvino', 'openvino')\n"
        "library.Core()\n"
        "from openvino.tools.ovc.telemetry_utils import init_ovc_telemetry\n"
        "init_ovc_telemetry().send_event('ovc', 'version', '1')\n"
        "assert sys.modules['openvino_telemetry'] is None\n"
        "assert list(__import__('pathlib').Path.home().iterdir()) == []\n"
    )
    run(guarded, tmp_path, code)
    check(guarded)


@pytest.mark.slow
def test_no_command_uses_the_network(guarded: dict[str, str], tmp_path: Path) -> None:
    """Every command that needs no network by its purpose (data download), in one process."""
    heads = ["phantom", "--out", "heads", "--patients", "12", "--set", "slices=1"]
    training = ["train", "heads", "--out", "run", "--epochs", "1", "--set", "preprocess.size=64", "--set", "trainer.workers=0"]
    commands = [
        heads,
        ["audit", "heads", "--out", "audit"],
        ["split", "heads", "--out", "split.csv"],
        training,
        *(["predict", "run/bundle", "heads", "--backend", name] for name in ("torch", "onnxruntime", "openvino")),
        ["predict", "run/bundle", "heads", "--backend", "openvino", "--offline"],
        ["predict", "ct", "heads"],
        ["explain", "run/bundle", "heads", "--out", "explained", "--limit", "1"],
        ["evaluate", "run/bundle", "heads", "--out", "evaluated", "--allow-leakage"],
        ["calibrate", "run/bundle", "heads", "--out", "calibrated", "--allow-leakage"],
        ["report", "run"],
        *(
            ["export", "run/bundle", "--format", name, "--out", name]
            for name in ("onnx", "openvino", "torch-export", "monai", "hf")
        ),
        ["describe", "reslink_small"],
        ["doctor", "--json"],
        ["info", "--json"],
        ["models"],
        ["recipes"],
        ["data", "list"],
    ]
    results = [json.loads(line) for line in run(guarded, tmp_path, RUNNER, json.dumps(commands)).splitlines()]
    check(guarded)
    for words, code, message in results:
        assert code in (0, 1, 3), (words, code, message)
        assert "bug in reslink" not in message, (words, message)
    assert sum(code == 0 for _, code, _ in results) >= len(commands) - 4, results


SERVICES = {
    "http": ["serve", "ct", "--port", "0", "--backend", "openvino"],
    "dicom": ["dicom", "listen", "ct", "--port", "0", "--queue", "queue", "--send-to", "A@127.0.0.1:1"],
}


@pytest.mark.slow
@pytest.mark.parametrize("words", SERVICES.values(), ids=SERVICES.keys())
def test_no_service_uses_the_network(guarded: dict[str, str], tmp_path: Path, words: list[str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "reslink", *words], env=guarded, cwd=tmp_path / "work", stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    with process.stderr as stream:
        lines = []
        for line in stream:
            lines.append(line)
            if "ready:" in line or "listens on" in line:
                break
        process.send_signal(signal.SIGTERM)
        lines += list(stream)
    assert process.wait(60) == 0, lines
    check(guarded)
