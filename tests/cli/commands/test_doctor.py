"""``reslink doctor``: checks of the installation."""

from __future__ import annotations

import json
import re
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner, Result

import reslink
from reslink.cli.commands import doctor
from reslink.cli.main import app
from reslink.cluster.connection import parse_address
from reslink.cluster.inspection import NodeState
from reslink.errors import UsageError


def invoke(*words: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, [str(word) for word in words])


def test_doctor_passes_here(tmp_path: Path) -> None:
    found = json.loads(invoke("doctor", "--json", "--out", tmp_path).stdout)
    assert found["ok"] is True
    assert {check["name"] for check in found["checks"]} >= {"python", "packages", "torch", "threads", "memory", "writing"}
    assert not list(tmp_path.iterdir())
    listed = {(one["package"], one["version"], one["file"]) for one in found["native_libraries"]}
    assert listed == {(library.package, library.version, library.file) for library in doctor.native_libraries()}


def test_doctor_advises_where_something_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor.metadata,
        "requires",
        lambda _: ["torch>=2.6", "no-such-package<3", 'x; extra == "all"', 'pylibjpeg>=2; extra == "dicom"'],
    )
    monkeypatch.setattr(doctor, "_DECODERS", {"no_such_decoder": "dicom"})
    result = invoke("doctor", "--out", tmp_path / "missing")
    assert result.exit_code == 1
    rows = {line.split("\t")[0]: line.split("\t")[1:] for line in result.stdout.splitlines()}
    assert rows["packages"][0] == "failed"
    assert "no-such-package" in rows["packages"][1]
    assert "torch" not in rows["packages"][1]
    assert rows["writing"][0] == "failed"
    advice = 'Needed only for compressed DICOM files. Run: python -m pip install "pylibjpeg>=2"'
    assert rows["DICOM decoders"] == ["warning", "missing: no_such_decoder", advice]


def test_doctor_warns_of_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 10_000)
    assert doctor._threads().status == "warning"
    assert "OMP_NUM_THREADS" in doctor._threads().advice


def test_bundled_native_libraries_are_listed() -> None:
    libraries = {(library.package.lower(), library.file.split(".")[0].split("-")[0]) for library in doctor.native_libraries()}
    assert {("opencv-python-headless", "libavcodec"), ("opencv-python-headless", "libssl")} <= libraries
    assert any(package == "pillow" and file.startswith("libjpeg") for package, file in libraries)
    assert all(re.search(r"\.(so|dylib|dll)", library.file) for library in doctor.native_libraries())


def test_libraries_of_every_kind_of_wheel_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux wheels have them in PACKAGE.libs, those of macOS in .dylibs, and some in the package itself."""
    files = (
        *("some.libs/zstd-1a2b.so.1", "some/.dylibs/avcodec.61.dylib", "some/lib/libcuda.so.12", "some.libs/avformat.dll"),
        *("some/_extension.cpython-311-x86_64-linux-gnu.so", "some/library.py", "some.libs/README"),
    )
    record = "\n".join(f"{file},sha256=x,1" for file in files)
    package = SimpleNamespace(metadata={"Name": "some"}, version="2", read_text={"RECORD": record}.get)
    monkeypatch.setattr(doctor.metadata, "distributions", lambda: [package])
    assert [library.file for library in doctor.native_libraries()] == [
        *("avcodec.61.dylib", "avformat.dll", "libcuda.so.12", "zstd-1a2b.so.1")
    ]


def test_telemetry_that_is_loaded_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._telemetry().status == "ok"
    monkeypatch.setitem(sys.modules, "openvino_telemetry", sys)
    assert (doctor._telemetry().status, "openvino_telemetry" in doctor._telemetry().details) == ("failed", True)


def rows_of(nodes: list[NodeState], monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> dict[str, list[str]]:
    """The lines about a cluster that has some nodes."""
    monkeypatch.setattr("reslink.cluster.connection.connect", lambda _: nullcontext())
    monkeypatch.setattr("reslink.cluster.inspection.inspect_nodes", lambda _: nodes)
    monkeypatch.setattr(doctor, "find_spec", lambda _: True)
    monkeypatch.setattr(doctor.metadata, "version", lambda _: "2.60.0")
    lines = [line.split("\t") for line in invoke("doctor", "--on", "127.0.0.1:6379", *words).stdout.splitlines()]
    return {name: rest for name, *rest in lines}


def test_a_cluster_that_fits_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    nodes = [NodeState(f"10.0.0.{i}", 8, 32 * 2**30, reslink.__version__, True) for i in range(2)]
    rows = rows_of(nodes, monkeypatch, "--out", tmp_path)
    assert rows["Ray"][:2] == ["ok", "2.60.0"]
    assert rows["cluster"][:2] == ["ok", "127.0.0.1:6379: 2 nodes, 16 cores, 64 GiB of memory"]
    assert {rows[name][0] for name in ("nodes", "shared folder", "token")} == {"ok"}


def test_nodes_that_differ_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    nodes = [
        NodeState("10.0.0.1", 8, 0, "9.9", True),
        NodeState("10.0.0.2", 8, 0, reslink.__version__, False),
        NodeState("10.0.0.3", 8, 0, error="No module named 'reslink'"),
    ]
    rows = rows_of(nodes, monkeypatch, "--out", tmp_path)
    assert rows["nodes"][:2] == ["failed", "10.0.0.3 (No module named 'reslink'), 10.0.0.1 has 9.9"]
    assert rows["shared folder"][:2] == ["failed", f"not on 10.0.0.2: {tmp_path}"]
    assert rows["token"][:2] == ["warning", "not required"]
    assert all(rows[name][2] for name in ("nodes", "shared folder", "token"))


def test_without_ray_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "ray" else SimpleNamespace())
    [check] = doctor._cluster(parse_address("ray"), Path())
    assert (check.status, check.details) == ("failed", "not installed")
    assert "ray[client]" in check.advice


def test_a_cluster_that_cannot_be_used_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(_: object) -> None:
        raise UsageError("No answer", "A cluster answers", "Start it")

    monkeypatch.setattr("reslink.cluster.connection.connect", connect)
    monkeypatch.setattr(doctor, "find_spec", lambda _: True)
    monkeypatch.setattr(doctor.metadata, "version", lambda _: "2.60.0")
    checks = doctor._cluster(parse_address("ray"), tmp_path)
    assert checks[1:] == [doctor.Check("cluster", "failed", "No answer", "A cluster answers. Start it")]
