"""``reslink doctor``: checks of the installation."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner, Result

from reslink.cli.commands import doctor
from reslink.cli.main import app


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
