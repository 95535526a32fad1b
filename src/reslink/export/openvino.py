"""OpenVINO: an IR from the pixels of the network to probabilities, labels and maps.

Earlier steps stay outside. OpenVINO computes in 32-bit floats at most, and in bf16 by default on processors that support it.
Pillow's resize is exact in neither, and the outputs would differ by more than the tolerance.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from reslink.bundles.onnx_graph import PIXELS
from reslink.export import onnx
from reslink.export.graph import PixelGraph
from reslink.export.parity import Arrays, Runner
from reslink.files import optional_import
from reslink.inference.runtimes import openvino_core

if TYPE_CHECKING:
    from reslink.bundles.bundle import Bundle
    from reslink.inference.backends import Precision

FILES: Final = ("network.xml", "network.bin")

_HINTS: Final = {"fp32": "f32", "bf16": "bf16"}


def write(bundle: Bundle, folder: Path) -> None:
    """Writes ``network.xml`` and ``network.bin``, weights in float32.

    Raises:
        UsageError: If openvino, onnx or onnxscript is not installed.
    """
    library: Any = optional_import("openvino", "openvino")
    model = openvino_core().read_model(onnx.whole_bytes(PixelGraph, (PIXELS,), bundle))
    library.save_model(model, folder / FILES[0], compress_to_fp16=False)


def read_back(bundle: Bundle, folder: Path, precision: Precision = "fp32") -> Iterator[tuple[str, Runner]]:
    """Yields the IR as OpenVINO runs it on the CPU.

    Args:
        bundle: The bundle that was exported.
        folder: Folder of the export.
        precision: The precision hint for compilation.
    """
    core = openvino_core()
    compiled = core.compile_model(core.read_model(folder / FILES[0]), "CPU", {"INFERENCE_PRECISION_HINT": _HINTS[precision]})

    def call(inputs: Arrays) -> Arrays:
        outputs = compiled(inputs)
        return {name: np.array(outputs[output]) for output in compiled.outputs for name in output.get_names()}

    yield FILES[0], Runner(bundle, (PIXELS,), call)
