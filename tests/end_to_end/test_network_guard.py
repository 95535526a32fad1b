"""No command opens a connection beyond this machine, looks a name up, or writes to the home folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from reslink.cli.main import app

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
from reslink.cli.commands import bench
from reslink.cli.main import app

bench.COLD_STARTS = 1
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


SMALL = (
    *("preprocess.size=64", "preprocess.channels=1", "model.stem_dim=8", "model.dims=[8, 16]", "model.depths=[0, 1]"),
    *("model.area_size=4", "trainer.epochs=1", "trainer.workers=0", "trainer.device=cpu", "diagnostics.enabled=false"),
)
SETS = [word for setting in SMALL for word in ("--set", setting)]
EPOCHS = ["--epochs", "1", "2", "--seeds", "1", "--jobs", "1"]
BENCH = ["--images", "1", "--seconds", "0.1", "--backend", "onnxruntime"]

COMMANDS: list[tuple[list[str], int]] = [
    (["phantom", "--out", "heads", "--patients", "12", "--set", "slices=1", "--set", "size=128"], 0),
    (["phantom", "--out", "series", "--patients", "1", "--set", "slices=4", "--set", "size=128", "--set", "format=dicom"], 0),
    (["audit", "heads", "--out", "audit"], 0),
    (["split", "heads", "--out", "split.csv"], 0),
    (["train", "heads", "--out", "run", *SETS], 0),
    *((["predict", "run/bundle", "heads", "--backend", name], 0) for name in ("torch", "onnxruntime", "openvino")),
    (["predict", "run/bundle", "heads", "--backend", "openvino", "--offline"], 0),
    (["predict", "ct", "heads"], 0),
    (["explain", "run/bundle", "heads", "--out", "explained", "--limit", "1"], 0),
    (["evaluate", "run/bundle", "heads", "--out", "evaluated", "--allow-leakage"], 0),
    (["calibrate", "run/bundle", "heads", "--out", "calibrated", "--allow-leakage"], 0),
    (["compare", "run/bundle", "calibrated", "--data", "heads", "--allow-leakage"], 0),
    (["report", "run"], 0),
    (["export", "run/bundle", "--format", "hf", "--out", "exported"], 0),
    (["bench", "run/bundle", *BENCH], 0),
    (["demo", "--patients", "12", "--out", "demo", *SETS], 0),
    (["experiment", "epochs", "heads", "--out", "experiments", *EPOCHS, *SETS], 0),
    (["experiment", "robustness", "run/bundle", "heads", "--out", "experiments", "--only", "noise", "--images", "4"], 0),
    (["experiment", "transfer", "run/bundle", "heads", "--out", "experiments", "--images", "4"], 0),
    (["data", "list"], 0),
    (["data", "import", "heads"], 2),
    (["dicom", "answer", "run/bundle", "series/images", "--out", "answered"], 0),
    (["describe", "reslink_small"], 0),
    (["doctor", "--json"], 0),
    (["info", "--json"], 0),
    (["models"], 0),
    (["recipes"], 0),
]
"""Each command with its exit code. Commands use the results of those before them."""

NOT_RUN = {
    "data download": "its purpose is a download",
    "serve": "see test_no_service_uses_the_network",
    "dicom listen": "see test_no_service_uses_the_network",
    "dicom watch": "waits for an archive at --url",
    "experiment ablation": "runs the same trainings as experiment epochs",
    "experiment leakage": "runs the same trainings as experiment epochs",
    "experiment shortcuts": "runs the same trainings as experiment epochs",
    "experiment data-size": "runs the same trainings as experiment epochs",
}
"""The other commands, with the reason."""


def command_names(command: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """The names of a command and the commands below it, such as ``data list``."""
    if not hasattr(command, "commands"):
        yield " ".join(path)
        return
    for name, below in command.commands.items():
        yield from command_names(below, (*path, name))


def test_the_list_has_every_command() -> None:
    names = set(command_names(typer.main.get_command(app)))
    run_names = {name for name in names for words, _ in COMMANDS if words[: len(name.split())] == name.split()}
    assert sorted(names - run_names) == sorted(NOT_RUN)


@pytest.mark.slow
def test_no_command_uses_the_network(guarded: dict[str, str], tmp_path: Path) -> None:
    """All commands in one process."""
    guarded["OMP_NUM_THREADS"] = "1"
    output = run(guarded, tmp_path, RUNNER, json.dumps([words for words, _ in COMMANDS]))
    results = [json.loads(line) for line in output.splitlines()]
    check(guarded)
    assert [(words, code) for words, code, _ in results] == COMMANDS, results
    assert not [words for words, _, message in results if "bug in reslink" in message]


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
