"""What computes logits and features: torch, or the ONNX graph of the bundle in ONNX Runtime or OpenVINO."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from reslink.bundles.onnx_graph import FEATURES, LOGITS, PIXELS
from reslink.errors import BundleError, UsageError, nearest
from reslink.files import optional_import
from reslink.inference.devices import is_cpu

if TYPE_CHECKING:
    import torch

    from reslink.bundles.bundle import Bundle
    from reslink.imaging.preprocess import Preprocess
    from reslink.networks.reslink import ResLink

Pixels: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float32]
BackendName = Literal["auto", "torch", "onnxruntime", "openvino"]
Precision = Literal["fp32", "bf16"]

BACKENDS: Final[tuple[str, ...]] = get_args(BackendName)
PRECISIONS: Final[tuple[str, ...]] = get_args(Precision)
EXTRAS: Final = {"onnxruntime": "onnx", "openvino": "openvino"}
"""The extra of reslink that installs the package of a backend where it is missing; torch is always there."""


class Backend(Protocol):
    """A network, ready to run.

    Attributes:
        name: One of ``BACKENDS`` but ``auto``.
    """

    name: str

    def logits(self, pixels: Pixels) -> Floats:
        """Returns logits (B, K) or (B, 1) of (B, planes, S, S) uint8 pixels."""
        ...

    def outputs(self, pixels: Pixels) -> tuple[Floats, Floats]:
        """Returns logits (B, K) or (B, 1) and pooled features (B, D) of (B, planes, S, S) uint8 pixels."""
        ...


class TorchBackend:
    """Runs the network in torch, on any device.

    Args:
        network: In eval mode, on ``device``.
        preprocess: Of the bundle.
        device: Where it runs.
    """

    name = "torch"

    def __init__(self, network: ResLink, preprocess: Preprocess, device: torch.device) -> None:
        self.network, self.device = network, device
        self._preprocess = preprocess

    def logits(self, pixels: Pixels) -> Floats:
        """See :class:`Backend`."""
        import torch

        with torch.inference_mode(), _exact():
            return _numpy(self.network(self._input(pixels)))

    def outputs(self, pixels: Pixels) -> tuple[Floats, Floats]:
        """See :class:`Backend`."""
        import torch

        with torch.inference_mode(), _exact():
            maps = self.network.forward_features(self._input(pixels))
            logits, features = self.network.forward_head(maps), maps.mean(dim=(2, 3))
        return _numpy(logits), _numpy(features)

    def _input(self, pixels: Pixels) -> torch.Tensor:
        import torch

        x = torch.from_numpy(self._preprocess.normalise(pixels)).to(self.device)
        return x.contiguous(memory_format=torch.channels_last)


class OnnxRuntimeBackend:
    """Runs the graph in ONNX Runtime, on the CPU.

    Args:
        graph: What ``Bundle.onnx`` returns.
        threads: Threads of one operation, at least 1.

    Raises:
        UsageError: If onnxruntime is not installed.
        BundleError: If it cannot run the graph.
    """

    name = "onnxruntime"

    def __init__(self, graph: bytes, threads: int) -> None:
        runtime: Any = optional_import("onnxruntime", EXTRAS[self.name])
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3  # errors
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave the cores to decoding
        try:
            self._session = runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime raises a dozen kinds of error for a graph that it does not know
            raise _unusable(self.name, error) from error

    def logits(self, pixels: Pixels) -> Floats:
        """See :class:`Backend`."""
        return self.run(pixels, (LOGITS,))[0]

    def outputs(self, pixels: Pixels) -> tuple[Floats, Floats]:
        """See :class:`Backend`."""
        logits, features = self.run(pixels, (LOGITS, FEATURES))
        return logits, features

    def run(self, pixels: Pixels, names: Sequence[str]) -> list[Floats]:
        """Returns outputs of the graph by name, such as the maps of ``bundles/twin.py``."""
        found: list[Floats] = self._session.run(list(names), {PIXELS: pixels})
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the graph's outputs."""
        return tuple(output.name for output in self._session.get_outputs())


class OpenVinoBackend:
    """Runs the graph in OpenVINO, on the CPU.

    Args:
        graph: What ``Bundle.onnx`` returns.
        threads: Threads, at least 1.
        precision: ``bf16`` is quicker on processors that have it (AMX, AVX-512 BF16), and less exact.

    Raises:
        UsageError: If openvino is not installed.
        BundleError: If it cannot run the graph.
    """

    name = "openvino"

    def __init__(self, graph: bytes, threads: int, precision: Precision = "fp32") -> None:
        library: Any = optional_import("openvino", EXTRAS[self.name])
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" else "bf16",
        }
        try:
            core = library.Core()
            compiled = core.compile_model(core.read_model(graph), "CPU", settings)
            self._request = compiled.create_infer_request()
            self._names = tuple(output.get_any_name() for output in compiled.outputs)
        except Exception as error:  # as above
            raise _unusable(self.name, error) from error

    def logits(self, pixels: Pixels) -> Floats:
        """See :class:`Backend`."""
        return self.outputs(pixels)[0]

    def outputs(self, pixels: Pixels) -> tuple[Floats, Floats]:
        """See :class:`Backend`."""
        logits, features = self.run(pixels, (LOGITS, FEATURES))
        return logits, features

    def run(self, pixels: Pixels, names: Sequence[str]) -> list[Floats]:
        """Returns outputs of the graph by name, such as the maps of ``bundles/twin.py``."""
        found = self._request.infer({PIXELS: np.ascontiguousarray(pixels)}, share_inputs=True)
        return [np.array(found[name], dtype=np.float32) for name in names]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the graph's outputs."""
        return self._names


def choose(name: str, bundle: Bundle, device: str) -> str:
    """Returns the backend that a name stands for.

    Args:
        name: One of ``BACKENDS``. ``auto`` is ONNX Runtime where the bundle has a twin, onnxruntime is installed and the
            device is the CPU; else torch.
        bundle: A saved bundle.
        device: As for :func:`reslink.inference.devices.pick_device`.

    Raises:
        UsageError: If there is no such backend, or it does not run on the device.
    """
    if name not in BACKENDS:
        raise UsageError(f"There is no backend {name!r}", f"The backends are {', '.join(BACKENDS)}", nearest(name, BACKENDS))
    if name == "auto":
        ready = bundle.onnx_model is not None and find_spec("onnxruntime") is not None and is_cpu(device)
        return "onnxruntime" if ready else "torch"
    if name != "torch" and device != "auto" and not is_cpu(device):
        raise UsageError(
            f"The backend {name!r} was asked for on the device {device!r}",
            "Backends other than torch run on the CPU",
            "Use --device cpu, or --backend torch",
        )
    return name


def load_backend(name: str, bundle: Bundle, threads: int | None = None, precision: Precision = "fp32") -> Backend:
    """Loads a backend that runs the bundle's graph.

    Args:
        name: ``onnxruntime`` or ``openvino``.
        bundle: A saved bundle with a twin.
        threads: If not given, :func:`usable_threads`.
        precision: ``bf16`` for OpenVINO only.

    Raises:
        UsageError: If its package is not installed, it has no such precision, or there are less than one thread.
        BundleError: If the bundle has no twin, or the backend cannot run it.
    """
    check_wishes(threads, precision)
    if name == "openvino":
        return OpenVinoBackend(bundle.onnx(), threads or usable_threads(), precision)
    if precision != "fp32":
        raise no_precision(name, precision)
    return OnnxRuntimeBackend(bundle.onnx(), threads or usable_threads())


def check_wishes(threads: int | None, precision: str) -> None:
    """Refuses a precision that no backend has, and less than one thread.

    Raises:
        UsageError: If one of them is.
    """
    if precision not in PRECISIONS:
        raise UsageError(
            f"There is no precision {precision!r}",
            f"The precisions are {', '.join(PRECISIONS)}",
            nearest(precision, PRECISIONS),
        )
    if threads is not None and threads < 1:
        raise UsageError(f"{threads} threads were asked for", "A backend has at least one thread", "Use threads=1")


def no_precision(name: str, precision: str) -> UsageError:
    """Returns the error for a precision that a backend does not have."""
    return UsageError(f"{precision} was asked for with the backend {name!r}", "Only openvino has it", "Use fp32 or openvino")


def usable_threads() -> int:
    """Returns as many threads as torch uses where it is loaded, else as many as there are processors to run on."""
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_num_threads"):
        return int(torch.get_num_threads())
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _exact() -> AbstractContextManager[None]:
    import torch

    return torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False, allow_tf32=False)


def _numpy(values: torch.Tensor) -> Floats:
    return np.asarray(values.float().cpu().numpy(), dtype=np.float32)


def _unusable(name: str, error: Exception) -> BundleError:
    return BundleError(
        f"{name} cannot run the graph of the bundle ({str(error).splitlines()[0] if str(error) else type(error).__name__})",
        "It runs model.onnx as reslink wrote it",
        f"Update it with pip install --upgrade {name}, or use --backend torch",
    )
