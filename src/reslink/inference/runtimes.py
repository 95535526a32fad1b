"""Loads ONNX models in ONNX Runtime and OpenVINO, on the CPU. Imports nothing heavy but the runtime."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from reslink.files import optional_import

EXTRAS: Final = {"torch": "train", "onnxruntime": "onnx", "openvino": "openvino"}
"""The extra of reslink that installs the package of a backend."""


class Runtime(Protocol):
    """A loaded ONNX model.

    Attributes:
        names: The names of its outputs.
    """

    names: tuple[str, ...]

    def run(self, name: str, pixels: NDArray[np.uint8], names: Sequence[str]) -> list[NDArray[np.float32]]:
        """Returns the named outputs for pixels, which are the input ``name``."""
        ...


class OnnxRuntime:
    """A model in ONNX Runtime; see :class:`Runtime`.

    Args:
        graph: The model.
        threads: Number of threads per operation, at least 1.
    """

    def __init__(self, graph: bytes, threads: int) -> None:
        runtime = import_runtime("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3  # errors only
        options.add_session_config_entry(
            "session.intra_op.allow_spinning", "0"
        )  # so that idle threads leave the cores to image decoding
        self._session = runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.names = tuple(output.name for output in self._session.get_outputs())

    def run(self, name: str, pixels: NDArray[np.uint8], names: Sequence[str]) -> list[NDArray[np.float32]]:
        """See :class:`Runtime`."""
        outputs: list[NDArray[np.float32]] = self._session.run(list(names), {name: pixels})
        return outputs


class OpenVino:
    """A model in OpenVINO; see :class:`Runtime`.

    Args:
        graph: The model.
        threads: Number of threads, at least 1.
        precision: ``fp32`` or ``bf16``.
    """

    def __init__(self, graph: bytes, threads: int, precision: str = "fp32") -> None:
        core = openvino_core()
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" else "bf16",
        }
        compiled = core.compile_model(core.read_model(graph), "CPU", settings)
        self._request = compiled.create_infer_request()
        self.names = tuple(output.get_any_name() for output in compiled.outputs)

    def run(self, name: str, pixels: NDArray[np.uint8], names: Sequence[str]) -> list[NDArray[np.float32]]:
        """See :class:`Runtime`."""
        outputs = self._request.infer({name: np.ascontiguousarray(pixels)}, share_inputs=True)
        return [np.array(outputs[name], dtype=np.float32) for name in names]


@functools.cache
def openvino_core() -> Any:
    """Returns the one ``openvino.Core`` of this process, which is never freed.

    The plugin for the CPU gives the thread that loads it an alternate signal stack (openvinotoolkit/openvino#11894). If it is
    freed in another thread, or after the plugin of a second core, the thread keeps a stack that is no longer mapped. The next
    signal, such as Ctrl-C, then ends the process with SIGSEGV.

    Raises:
        UsageError: If openvino is not installed.
    """
    return import_runtime("openvino").Core()


def import_runtime(name: str) -> Any:
    """Imports ``onnxruntime`` or ``openvino``.

    Raises:
        UsageError: If it is not installed.
    """
    return optional_import(name, EXTRAS[name])


def load_runtime(backend: str, graph: bytes, threads: int, precision: str = "fp32") -> Runtime:
    """Loads a model in ``onnxruntime`` or ``openvino``; the precision is one for openvino."""
    return OpenVino(graph, threads, precision) if backend == "openvino" else OnnxRuntime(graph, threads)
