"""Backends that compute logits and features: torch, or the ONNX model of the bundle in ONNX Runtime or OpenVINO."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from reslink.bundles.decision.decision import Decision, average_logits
from reslink.bundles.onnx_check import GraphCheck
from reslink.bundles.onnx_graph import FEATURES, LOGITS, PIXELS
from reslink.errors import BundleError, UsageError, check_choice
from reslink.inference.devices import is_cpu
from reslink.inference.runtimes import import_runtime, load_runtime
from reslink.inference.trial_run import try_model

if TYPE_CHECKING:
    import torch

    from reslink.bundles.bundle import Bundle
    from reslink.imaging.preprocess import Preprocess
    from reslink.networks.network import Network

Pixels: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float32]
BackendName = Literal["auto", "torch", "onnxruntime", "openvino"]
Precision = Literal["fp32", "bf16"]

BACKENDS: Final[tuple[str, ...]] = get_args(BackendName)
PRECISIONS: Final[tuple[str, ...]] = get_args(Precision)


class Backend(Protocol):
    """A loaded network that computes logits and features.

    Attributes:
        name: The name of the backend, one of ``BACKENDS`` except ``auto``.
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
        network: The network in eval mode, on ``device``.
        preprocess: The preprocessing of the bundle.
        device: The device of the network.
    """

    name = "torch"

    def __init__(self, network: Network, preprocess: Preprocess, device: torch.device) -> None:
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
            logits, features, _ = self.network.forward_with_features(self._input(pixels))
        return _numpy(logits), _numpy(features)

    def _input(self, pixels: Pixels) -> torch.Tensor:
        import torch

        x = torch.from_numpy(self._preprocess.normalize(pixels)).to(self.device)
        return x.contiguous(memory_format=torch.channels_last)


class GraphBackend:
    """Runs the ONNX model of a bundle in ONNX Runtime or OpenVINO, on the CPU.

    :class:`reslink.bundles.onnx_check.GraphCheck` has to accept the model, and a model that is neither shipped nor made by this
    process first runs in a child process, see :mod:`reslink.inference.trial_run`.

    Args:
        name: ``onnxruntime`` or ``openvino``.
        graph: The result of ``Bundle.onnx``.
        threads: Number of threads, at least 1.
        precision: ``bf16``, for OpenVINO only, is faster on processors that support it (AMX, AVX-512 BF16), but less accurate.

    Attributes:
        name: See :class:`Backend`.
        names: The names of the model's outputs.

    Raises:
        UsageError: If the package is not installed.
        BundleError: If the model is refused, or the runtime cannot run it.
    """

    def __init__(self, name: str, graph: bytes, threads: int, precision: Precision = "fp32") -> None:
        import_runtime(name)
        self.name = name
        self._graph_check = GraphCheck(graph)
        try_model(graph, PIXELS, self._graph_check.slice_shape, name, precision)
        try:
            self._runtime = load_runtime(name, graph, threads, precision)
        except Exception as error:  # the runtimes raise many exception types for models that they cannot load
            raise _unusable(name, error) from error
        self.names = self._runtime.names

    def run(self, pixels: Pixels, names: Sequence[str]) -> list[Floats]:
        """Returns the named outputs of the model, such as the maps listed in :mod:`reslink.bundles.onnx_graph`.

        Raises:
            BundleError: If the model is too large for these pixels, or the runtime cannot run it.
        """
        rows = self._graph_check.rows_at_once(pixels.shape)
        try:
            parts = [self._runtime.run(PIXELS, pixels[i : i + rows], names) for i in range(0, max(1, len(pixels)), rows)]
        except Exception as error:  # the runtimes raise many exception types
            raise _unusable(self.name, error) from error
        return parts[0] if len(parts) == 1 else [np.concatenate(part) for part in zip(*parts, strict=True)]

    def logits(self, pixels: Pixels) -> Floats:
        """See :class:`Backend`."""
        return self.run(pixels, (LOGITS,))[0]

    def outputs(self, pixels: Pixels) -> tuple[Floats, Floats]:
        """See :class:`Backend`."""
        logits, features = self.run(pixels, (LOGITS, FEATURES))
        return logits, features


def flip_averaged(decision: Decision, backend: Backend, pixels: Pixels, logits: Floats) -> Floats:
    """Returns the logits of the mean probability of slices and their mirror images (left and right exchanged).

    Args:
        decision: Without ``flip_average``, the logits are returned unchanged.
        backend: Runs the network on the mirror images.
        pixels: (B, planes, S, S) uint8.
        logits: The logits of ``pixels``.
    """
    if not decision.flip_average:
        return logits
    mirrored = backend.logits(np.ascontiguousarray(pixels[..., ::-1]))
    return average_logits([logits, mirrored]).astype(np.float32)


def choose_backend(name: str, bundle: Bundle, device: str) -> str:
    """Returns the backend to use.

    Args:
        name: One of ``BACKENDS``. ``auto`` selects ONNX Runtime if the bundle has an ONNX model, onnxruntime is installed and
            the device is the CPU; otherwise torch.
        bundle: A saved bundle.
        device: As for :func:`reslink.inference.devices.pick_device`.

    Raises:
        UsageError: If the backend does not exist, or does not run on the device.
    """
    check_choice("backend", name, BACKENDS)
    if name == "auto":
        ready = bundle.onnx_model is not None and find_spec("onnxruntime") is not None and is_cpu(device)
        return "onnxruntime" if ready else "torch"
    if name != "torch" and device != "auto" and not is_cpu(device):
        raise UsageError(
            f"The backend {name!r} cannot run on the device {device!r}",
            "Backends other than torch run only on the CPU",
            "Use --device cpu, or --backend torch",
        )
    return name


def load_backend(name: str, bundle: Bundle, threads: int | None = None, precision: Precision = "fp32") -> Backend:
    """Loads a backend that runs the bundle's ONNX model.

    Args:
        name: ``onnxruntime`` or ``openvino``.
        bundle: A saved bundle with an ONNX model.
        threads: Number of threads; default: :func:`default_threads`.
        precision: ``fp32``, or ``bf16`` for OpenVINO only.

    Raises:
        UsageError: If a package is not installed, the precision is not supported, or ``threads`` is below 1.
        BundleError: If the bundle has no ONNX model, or the backend cannot run it.
    """
    check_backend_options(threads, precision)
    if name != "openvino" and precision != "fp32":
        raise precision_error(name, precision)
    return GraphBackend(name, bundle.onnx(), threads or default_threads(), precision)


def check_backend_options(threads: int | None, precision: str) -> None:
    """Checks the options of a backend.

    Raises:
        UsageError: If no backend has the precision, or ``threads`` is below 1.
    """
    check_choice("precision", precision, PRECISIONS)
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}", "A backend needs at least one thread", "Use threads=1")


def precision_error(name: str, precision: str) -> UsageError:
    """Returns the error for a precision that a backend does not support."""
    return UsageError(
        f"The backend {name!r} does not support {precision}", f"Only openvino supports {precision}", "Use fp32 or openvino"
    )


def default_threads() -> int:
    """Returns the number of threads that torch uses if it is loaded, otherwise the number of available cores."""
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
        f"{name} cannot run model.onnx ({str(error).splitlines()[0] if str(error) else type(error).__name__})",
        "The file must be unchanged since reslink wrote it",
        f"Update the package with python -m pip install --upgrade {name}, or use --backend torch",
    )
