"""What ``reslink train`` does with the ONNX graph at its end: never at the cost of the bundle."""

from __future__ import annotations

from pathlib import Path

import pytest

from reslink.bundles.bundle import Bundle
from reslink.cli import onnx_graph
from reslink.cli.console import Console
from reslink.cli.options import wanted_threads
from reslink.errors import GateError
from reslink.export import onnx
from reslink.imaging.preprocess import Preprocess
from reslink.labels import Labels
from reslink.networks.reslink import ResLinkConfig, build

LOUD = Console(verbose=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = ResLinkConfig(stem_dim=4, dims=(4,), depths=(0,))
    architecture = {"name": "tiny", **config.model_dump(mode="json")}
    bundle = Bundle(architecture, Preprocess(size=64), Labels(("Healthy", "Tumor")))
    bundle.save(tmp_path / "bundle", build(config, seed=0).state_dict())
    return tmp_path / "bundle"


def test_a_bundle_gets_its_twin_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert onnx_graph.add_twin(LOUD, folder)
    assert "model.onnx agrees with torch to" in capsys.readouterr().err
    before = (folder / "model.onnx").stat().st_mtime_ns
    assert onnx_graph.add_twin(LOUD, folder)
    assert (folder / "model.onnx").stat().st_mtime_ns == before
    assert onnx.check_parity(Bundle.load(folder), images=1).logits < 1e-5


def test_missing_packages_are_one_line_in_the_details(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(onnx_graph, "find_spec", lambda name: None if name == "onnxscript" else name)
    assert not onnx_graph.add_twin(Console(), folder)
    assert capsys.readouterr().err == ""
    assert not onnx_graph.add_twin(LOUD, folder)
    assert capsys.readouterr().err == "No model.onnx is written: onnxscript not installed (extra 'export').\n"


@pytest.mark.parametrize("fault", [GateError("It differs", "Little is allowed", "Use torch"), RuntimeError("no such operator")])
def test_a_failure_leaves_the_bundle_whole(
    folder: Path, fault: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(*_: object) -> None:
        raise fault

    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(onnx, "to_onnx", lambda _: b"a graph")
    monkeypatch.setattr(onnx, "check_parity", failing)
    assert not onnx_graph.add_twin(Console(quiet=True), folder)
    said = capsys.readouterr().err
    assert said.startswith("Warning: no model.onnx was written")
    assert fault.args[0] in said
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(("value", "threads"), [("3", 3), ("4,2", 4), ("", None), ("many", None), ("0", None), ("-1", None)])
def test_threads_of_the_environment(value: str, threads: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert wanted_threads() == threads
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert wanted_threads() is None
