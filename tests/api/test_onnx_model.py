"""The ONNX model of a new bundle: a failure never damages the bundle."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from reslink.api import onnx_model
from reslink.bundles.bundle import Bundle
from reslink.errors import CheckFailedError
from reslink.export import onnx
from reslink.imaging.preprocess import Preprocess
from reslink.labels import Labels
from reslink.networks.reslink import ResLinkConfig, build_network


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = ResLinkConfig(stem_dim=4, dims=(4,), depths=(0,))
    architecture = {"name": "tiny", **config.model_dump(mode="json")}
    bundle = Bundle(architecture, Preprocess(size=64), Labels(("Healthy", "Tumor")))
    bundle.save(tmp_path / "bundle", build_network(config, seed=0).state_dict())
    return tmp_path / "bundle"


def test_a_bundle_gets_its_onnx_model_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "reslink"):
        extended = onnx_model.add_onnx_model(Bundle.load(folder))
    assert extended == Bundle.load(folder)
    assert extended.onnx_model is not None
    assert "synthetic heads agree with torch within" in caplog.text
    before = (folder / "model.onnx").stat().st_mtime_ns
    assert onnx_model.add_onnx_model(extended) is extended
    assert (folder / "model.onnx").stat().st_mtime_ns == before
    assert onnx.check_parity(Bundle.load(folder), images=1).logits < 1e-5


def test_missing_packages_are_logged_as_a_detail(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(onnx_model, "find_spec", lambda name: None if name == "onnxscript" else name)
    with caplog.at_level(logging.INFO, "reslink"):
        assert onnx_model.add_onnx_model(Bundle.load(folder)).onnx_model is None
    [record] = caplog.records
    assert record.levelno == logging.INFO
    assert record.getMessage() == "model.onnx is not written: onnxscript not installed (extra 'train')."


@pytest.mark.parametrize(
    "fault", [CheckFailedError("It differs", "Little is allowed", "Use torch"), RuntimeError("no such operator")]
)
def test_a_failure_leaves_the_bundle_unchanged(
    folder: Path, fault: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(*_: object) -> None:
        raise fault

    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(onnx, "to_onnx", lambda _: b"a graph")
    monkeypatch.setattr(onnx, "check_parity", failing)
    assert onnx_model.add_onnx_model(Bundle.load(folder)).onnx_model is None
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("model.onnx was not written")
    assert fault.args[0] in record.getMessage()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
