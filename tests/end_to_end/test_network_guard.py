"""No command opens a connection beyond this machine, looks a name up, or writes to the home folder.

Two guards watch every process: an audit hook of Python and, where this machine allows it, a network namespace without a
network, whose counters also see the connections of native libraries.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer

from reslink.cli.main import app

GUARD = """
import atexit, fcntl, os, socket, struct, sys

def write_unreachable():
    # Connections for which the kernel found no route, also those of native libraries.
    with open(os.environ["ROUTES_LOG"], "a") as log:
        for name in ("snmp", "snmp6"):
            lines = [line.split() for line in open(f"/proc/self/net/{name}")]
            pairs = zip(*[line for line in lines if line[0] == "Ip:"]) if name == "snmp" else lines
            log.writelines(f"{key} {value}\\n" for key, value in pairs if key.endswith("OutNoRoutes"))

if "ROUTES_LOG" in os.environ:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, 0x8914, struct.pack("16sh", b"lo", 1 | 64))  # SIOCSIFFLAGS: loopback up and running
    atexit.register(write_unreachable)

LOCAL = ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "", None)

def guard(event, arguments):
    offline = sys.modules.get("reslink.cli.offline")
    if getattr(offline, "_state", {"offline": False})["offline"]:
        return  # the hook of --offline comes next, and has to refuse
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
from reslink.api import train
from reslink.audit.checks import label_errors, shortcuts
from reslink.cli.commands import bench
from reslink.cli.main import app
from reslink.experiments.runner import experiment, scheduler

bench.COLD_STARTS, shortcuts.TREES, label_errors.TREES = 1, 10, 10
# jobs=0: in this process
experiment.run_queue = lambda *options, jobs: scheduler.run_queue(*options, 0)
for words in json.loads(sys.argv[1]):
    done = CliRunner().invoke(app, words)
    print(json.dumps([words, done.exit_code, (done.stderr or repr(done.exception))[-800:]]), flush=True)
    if words[0] == "train":
        train.add_onnx_model = lambda bundle: bundle  # the slow export was run once
"""


def namespace_refusal() -> str:
    """Why this machine allows no network namespace; empty if it allows one."""
    if shutil.which("unshare") is None:
        return "there is no command unshare"
    try:
        done = subprocess.run(["unshare", "-rn", "true"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else f"unshare -rn: {done.stderr.strip()}"


NO_NAMESPACE = namespace_refusal()
PREFIX = [] if NO_NAMESPACE else ["unshare", "-rn"]


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
        **({} if NO_NAMESPACE else {"ROUTES_LOG": str(tmp_path / "routes")}),
    }


def check(guarded: dict[str, str]) -> None:
    log, home = Path(guarded["GUARD_LOG"]), Path(guarded["HOME"])
    assert not log.exists(), log.read_text()
    assert [path for path in home.rglob("*") if "intel" in path.parts or "Microsoft" in path.parts] == []
    if not NO_NAMESPACE:
        assert set(Path(guarded["ROUTES_LOG"]).read_text().splitlines()) == {"OutNoRoutes 0", "Ip6OutNoRoutes 0"}


def run(guarded: dict[str, str], tmp_path: Path, *code: str) -> str:
    words = [*PREFIX, sys.executable, "-c", *code]
    done = subprocess.run(words, env=guarded, cwd=tmp_path / "work", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_guard_works(guarded: dict[str, str], tmp_path: Path) -> None:
    lookup = "import socket; socket.getaddrinfo('example.org', 80)"
    run(guarded, tmp_path, f"import subprocess, sys; subprocess.run([sys.executable, '-c', {lookup!r}])")
    assert "socket.getaddrinfo example.org" in Path(guarded["GUARD_LOG"]).read_text()


@pytest.mark.skipif(bool(NO_NAMESPACE), reason=f"this machine allows no network namespace ({NO_NAMESPACE})")
def test_the_namespace_counts_native_connections(guarded: dict[str, str], tmp_path: Path) -> None:
    """A connection that a native library opens passes the audit hook of Python."""
    code = (
        "import ctypes, socket\n"
        "library, address = ctypes.CDLL(None), bytes([2, 0, 0, 80, 192, 0, 2, 1]) + bytes(8)\n"
        "assert library.connect(library.socket(2, 1, 0), address, 16) == -1\n"
        "with socket.create_server(('127.0.0.1', 0)) as server: socket.create_connection(server.getsockname()).close()\n"
    )
    run(guarded, tmp_path, code)
    assert not Path(guarded["GUARD_LOG"]).exists()
    assert "OutNoRoutes 1" in Path(guarded["ROUTES_LOG"]).read_text().splitlines()


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
ONE_RUN = ["--seeds", "1", "--jobs", "1"]
ONE_EPOCH = [*ONE_RUN, "--epochs", "1", *SETS]
TRACK = [word for name in ("tensorboard", "mlflow", "wandb") if find_spec(name) for word in ("--track", name)]
BENCH = ["--images", "1", "--seconds", "0.1", "--backend", "onnxruntime"]

COMMANDS: list[tuple[list[str], int]] = [
    (["phantom", "--out", "heads", "--patients", "12", "--set", "slices=1", "--set", "size=128"], 0),
    (["phantom", "--out", "series", "--patients", "1", "--set", "slices=4", "--set", "size=128", "--set", "format=dicom"], 0),
    (["audit", "heads", "--out", "audit"], 0),
    (["split", "heads", "--out", "split.csv"], 0),
    (["cache", "heads", "--out", "decoded", "--set", "preprocess.size=64"], 0),
    (["train", "heads", "--out", "run", *TRACK, *SETS], 0),
    (["runs", "run", "--page", "runs.html"], 0),
    *((["predict", "run/bundle", "heads", "--backend", name], 0) for name in ("torch", "onnxruntime", "openvino")),
    (["predict", "run/bundle", "heads", "--backend", "openvino", "--offline"], 0),
    (["predict", "ct", "heads"], 0),
    (["explain", "run/bundle", "heads", "--out", "explained", "--limit", "1"], 0),
    (["evaluate", "run/bundle", "heads", "--out", "evaluated", "--allow-leakage"], 0),
    (["calibrate", "run/bundle", "heads", "--out", "calibrated", "--allow-leakage"], 0),
    (["phantom", "--out", "local", "--patients", "16", "--set", "slices=1", "--set", "size=128"], 0),
    (["adapt", "ct", "local", "--out", "adapted"], 0),
    (["compare", "run/bundle", "calibrated", "--data", "heads", "--allow-leakage"], 0),
    (["report", "run"], 0),
    *((["export", "run/bundle", "--format", name, "--out", f"as_{name}", "--images", "1"], 0) for name in ("hf", "openvino")),
    (["bench", "run/bundle", *BENCH], 0),
    (["demo", "--patients", "12", "--out", "demo", *SETS], 0),
    (["cv", "heads", "--out", "cv", "--folds", "3", *ONE_EPOCH], 0),
    (["tune", "heads", "--out", "tuned", "--trials", "1", "--folds", "3", *SETS], 0),
    (["experiment", "epochs", "heads", "--out", "experiments", *ONE_RUN, "--epochs", "1", "2", *SETS], 0),
    (["experiment", "ablation", "heads", "--out", "experiments", "--conditions", "no_attention", *ONE_EPOCH], 0),
    (["phantom", "--out", "pairs", "--patients", "12", "--set", "slices=2", "--set", "size=128"], 0),
    (["experiment", "leakage", "pairs", "--out", "experiments_pairs", *ONE_EPOCH], 0),
    (["experiment", "shortcuts", "heads", "--out", "experiments", *ONE_EPOCH], 0),
    (["experiment", "leave-one-source-out", "heads", "local", "--out", "experiments_sources", *ONE_EPOCH], 0),
    (["experiment", "data-size", "heads", "--out", "experiments", "--percent", "50", "100", *ONE_EPOCH], 0),
    (["experiment", "robustness", "run/bundle", "heads", "--out", "experiments", "--only", "noise", "--images", "4"], 0),
    (["external", "run/bundle", "heads", "--out", "experiments", "--images", "4"], 0),
    (["data", "list"], 0),
    (["data", "import", "heads"], 2),
    (["data", "download", "figshare", "--out", "downloaded", "--accept-license", "--offline"], 2),
    (["dicom", "watch", "run/bundle", "--url", "http://127.0.0.1:9", "--queue", "queue", "--once", "--period", "0.1"], 1),
    (["dicom", "answer", "run/bundle", "series/images", "--out", "answered"], 0),
    (["describe", "reslink_small"], 0),
    (["doctor", "--json"], 0),
    (["info", "--json"], 0),
    (["models"], 0),
    (["recipes"], 0),
]
"""Each command with its exit code. Commands use the results of those before them."""

SERVICES = {
    "http": ["serve", "ct", "--port", "0", "--backend", "openvino"],
    "dicom": ["dicom", "listen", "ct", "--port", "0", "--queue", "queue", "--send-to", "A@127.0.0.1:1"],
}
"""The commands that run until they are stopped."""

ALL_WORDS = [*(words for words, _ in COMMANDS), *SERVICES.values()]


def command_names(command: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """The names of a command and the commands below it, such as ``data list``."""
    if not hasattr(command, "commands"):
        yield " ".join(path)
        return
    for name, below in command.commands.items():
        yield from command_names(below, (*path, name))


def test_the_list_has_every_command() -> None:
    names = set(command_names(typer.main.get_command(app)))
    assert names - {name for name in names for words in ALL_WORDS if words[: len(name.split())] == name.split()} == set()


@pytest.mark.slow
def test_no_command_uses_the_network(guarded: dict[str, str], tmp_path: Path) -> None:
    """All commands in one process."""
    guarded["OMP_NUM_THREADS"] = "1"
    output = run(guarded, tmp_path, RUNNER, json.dumps([words for words, _ in COMMANDS]))
    results = [json.loads(line) for line in output.splitlines()]
    check(guarded)
    assert [(words, code) for words, code, _ in results] == COMMANDS, results
    assert not [words for words, _, message in results if "bug in reslink" in message]


@pytest.mark.slow
@pytest.mark.parametrize("words", SERVICES.values(), ids=SERVICES.keys())
def test_no_service_uses_the_network(guarded: dict[str, str], tmp_path: Path, words: list[str]) -> None:
    process = subprocess.Popen(
        [*PREFIX, sys.executable, "-m", "reslink", *words],
        env=guarded,
        cwd=tmp_path / "work",
        stderr=subprocess.PIPE,
        text=True,
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
