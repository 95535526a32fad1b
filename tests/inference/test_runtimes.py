"""ONNX Runtime and OpenVINO give the same outputs under the names of the model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from reslink.bundles.bundle import Bundle
from reslink.bundles.onnx_graph import LOGITS, PIXELS
from reslink.errors import UsageError
from reslink.inference import runtimes

SIGNAL_AFTER_TWO_MODELS = """
import gc, signal, sys, threading
from pathlib import Path
from reslink.inference.runtimes import load_runtime

signal.signal(signal.SIGINT, lambda *_: print("handled"))
graph = Path(sys.argv[1]).read_bytes()
first, second = (load_runtime("openvino", graph, 1) for _ in range(2))
del first
gc.collect()
freed = threading.Thread(target=globals().pop, args=("second",))
freed.start()
freed.join()
gc.collect()
signal.raise_signal(signal.SIGINT)
"""


def test_runtimes_agree(bundle_folder: Path) -> None:
    pytest.importorskip("openvino")
    graph = Bundle.load(bundle_folder).onnx()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 1, 64, 64), np.uint8)
    loaded = [runtimes.load_runtime(name, graph, 1) for name in ("onnxruntime", "openvino")]
    assert set(loaded[0].names) == set(loaded[1].names) > {LOGITS}
    first, second = (runtime.run(PIXELS, pixels, [LOGITS])[0] for runtime in loaded)
    assert first.shape == (2, 2)
    np.testing.assert_allclose(first, second, atol=1e-4)


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match="'onnxruntime' is not installed"):
        runtimes.import_runtime("onnxruntime")


def test_the_child_process_imports_little() -> None:
    code = (
        "import sys, reslink.inference.trial_run; print([n for n in ('scipy', 'pydantic', 'cv2', 'torch') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_signal_is_handled_after_the_models_of_openvino_are_freed(bundle_folder: Path) -> None:
    """With a core for each model, the thread keeps a signal stack that is freed, and SIGINT ends the process with SIGSEGV."""
    pytest.importorskip("openvino")
    graph = bundle_folder / "model.onnx"
    done = subprocess.run(
        [sys.executable, "-c", SIGNAL_AFTER_TWO_MODELS, str(graph)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
