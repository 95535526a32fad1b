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
