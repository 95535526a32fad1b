"""An ONNX model from somebody else runs first in a child process, where it can crash, hang or fill the memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from reslink.bundles import zoo
from reslink.bundles.bundle import Bundle
from reslink.bundles.onnx_graph import LOGITS, PIXELS
from reslink.errors import BundleError
from reslink.export.onnx import to_onnx
from reslink.files import sha256
from reslink.imaging.sandbox.guarded_process import GuardedProcess
from reslink.inference import trial_run
from reslink.inference.backends import GraphBackend
from reslink.inference.classifier import Classifier

BROKEN_RUNTIME = """
import os
class ExecutionMode: ORT_SEQUENTIAL = 0
class SessionOptions:
    def add_session_config_entry(self, key, value): pass
class InferenceSession:
    def __init__(self, *graph, **options): {fault}
"""
FAULTS = {
    "crash": ("os.abort()", "first run crashed"),
    "endless loop": ("exec('while True: pass')", "first run took longer than 0.3 seconds"),
    "memory": ("bytearray(64 << 30)", "MemoryError"),
    "error": ("raise ValueError('no such kernel')", "no such kernel"),
    "exit": ("os._exit(0)", "first run crashed"),
}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The backend of each child process that a test starts; no model is trusted at its begin."""
    backends: list[str] = []

    class Counted(GuardedProcess):
        def __init__(self, module: str, *words: str) -> None:
            backends.append(words[0])
            super().__init__(module, *words)

    monkeypatch.setattr(trial_run, "GuardedProcess", Counted)
    monkeypatch.setattr(trial_run, "_trusted", set())
    return backends


def foreign(bundle: Bundle) -> bytes:
    """The model of a bundle with other bytes."""
    model = onnx.load_from_string(bundle.onnx())
    model.producer_name = "somebody else"
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_foreign_model_is_tried_once(bundle_folder: Path, started: list[str], backend: str) -> None:
    pytest.importorskip(backend)
    bundle = Bundle.load(bundle_folder)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1, 64, 64), np.uint8)
    tried, again = (GraphBackend(backend, foreign(bundle), 1) for _ in range(2))
    assert started == [backend]
    np.testing.assert_array_equal(tried.logits(pixels), again.logits(pixels))


def test_models_of_reslink_are_not_tried(bundle_folder: Path, started: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Classifier.load("ct", backend="onnxruntime")
    bundle = Bundle.load(bundle_folder)
    monkeypatch.setattr("reslink.export.onnx.graph_bytes", lambda *_: foreign(bundle))
    GraphBackend("onnxruntime", to_onnx(bundle), 1)
    assert started == []


def test_the_shipped_models_are_known_by_their_content() -> None:
    assert {sha256(path) for path in zoo.SHIPPED.glob("*/model.onnx")} == zoo.onnx_digests() != frozenset()


def test_digests_of_another_folder_of_shipped_models_do_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(zoo, "SHIPPED", tmp_path)
        assert zoo.onnx_digests() == frozenset()
    assert len(zoo.onnx_digests()) == len(zoo.names())


@pytest.mark.parametrize(("fault", "reason"), FAULTS.values(), ids=FAULTS.keys())
@pytest.mark.usefixtures("started")
def test_a_fault_of_the_runtime_ends_the_child_only(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, reason: str
) -> None:
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text(BROKEN_RUNTIME.format(fault=fault))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(trial_run, "CPU_SECONDS", 0.3)
    with pytest.raises(BundleError, match=rf"onnxruntime cannot run model\.onnx: .*{reason}.*--backend torch") as caught:
        GraphBackend("onnxruntime", foreign(Bundle.load(bundle_folder)), 1)
    assert caught.value.exit_code == 2


@pytest.mark.usefixtures("started")
def test_the_tensors_that_the_check_accepts_fit_the_memory_of_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight tensors of 32 MiB at the same time, in a child with little memory beside that for tensors."""
    monkeypatch.setattr("reslink.imaging.sandbox.child.HEADROOM", 150 << 20)
    values = [onnx.helper.make_tensor("shape", onnx.TensorProto.INT64, [4], [1, 32, 512, 512])]
    values += [onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, [1], [ord(name)]) for name in "abcdef"]
    nodes = [
        onnx.helper.make_node("Cast", [PIXELS], ["x"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Expand", ["x", "shape"], ["large"]),
        *(onnx.helper.make_node("Mul", ["large", name], [f"large_{name}"]) for name in "abcdef"),
        onnx.helper.make_node("Max", [f"large_{name}" for name in "abcdef"], ["largest"]),
        onnx.helper.make_node("ReduceMean", ["largest"], [LOGITS], keepdims=0),
    ]
    pixels = onnx.helper.make_tensor_value_info(PIXELS, onnx.TensorProto.UINT8, [1, 1, 512, 512])
    logits = onnx.helper.make_tensor_value_info(LOGITS, onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph(nodes, "large", [pixels], [logits], values)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    trial_run.try_model(model.SerializeToString(), PIXELS, (1, 1, 512, 512), "onnxruntime")


@pytest.mark.usefixtures("started")
def test_a_child_that_cannot_start_is_an_error(bundle_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/no/such/python")
    with pytest.raises(BundleError, match="child process for its first run could not start"):
        GraphBackend("onnxruntime", foreign(Bundle.load(bundle_folder)), 1)


def test_a_batch_runs_in_parts_that_fit_the_memory(bundle_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = GraphBackend("onnxruntime", Bundle.load(bundle_folder).onnx(), 1)
    pixels = np.random.default_rng(0).integers(0, 256, (7, 1, 64, 64), np.uint8)
    whole = backend.outputs(pixels)
    sizes: list[int] = []
    run: Callable[..., list[np.ndarray]] = backend._runtime.run

    def count(name: str, part: np.ndarray, names: tuple[str, ...]) -> list[np.ndarray]:
        sizes.append(len(part))
        return run(name, part, names)

    monkeypatch.setattr(backend._runtime, "run", count)
    monkeypatch.setattr(backend._graph_check, "rows_at_once", lambda _: 3)
    for one, part in zip(whole, backend.outputs(pixels), strict=True):
        np.testing.assert_allclose(one, part, atol=1e-5)
    assert sizes == [3, 3, 1]
