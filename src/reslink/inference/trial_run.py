"""The first run of an ONNX model that reslink did not make: in a child process with limits on memory and time.

:class:`reslink.bundles.onnx_check.GraphCheck` has bounded the sizes and the work of the model, but a runtime may have faults
that no check of ours knows. A model that crashes, hangs or fills the memory ends the child, not this process. After one slice
in the child, the model runs in this process, as fast as any other.

The module is also the program of the child: ``python -m reslink.inference.trial_run BACKEND PRECISION HEADROOM``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from reslink.errors import BundleError
from reslink.files import sha256
from reslink.imaging.sandbox import child
from reslink.imaging.sandbox.guarded_process import TIME_SIGNALS, GuardedProcess
from reslink.inference.runtimes import import_runtime, load_runtime

if TYPE_CHECKING:
    from reslink.bundles.onnx_shapes import Shape

CPU_SECONDS: Final = 30.0
"""Processor time to load a model and to run one slice; the largest model that the check accepts needs about ten."""
WALL_SECONDS: Final = 120.0
COPIES: Final = 8
"""Times the size of the file that a runtime may need for its weights, in addition to ``child.HEADROOM`` and its tensors."""

_trusted: set[str] = set()
"""Digests of the models that were made by this process, or passed their trial run in it."""


def trust(graph: bytes) -> None:
    """Marks a model as made by reslink in this process: it needs no trial run."""
    _trusted.add(sha256(graph))


def try_model(graph: bytes, input_name: str, shape: Shape, backend: str, precision: str = "fp32") -> None:
    """Runs one slice of a model in a guarded child process, unless it is a shipped one or is trusted.

    Args:
        graph: The model, which the check has accepted.
        input_name: Name of its input.
        shape: Sizes of its input for one slice.
        backend: ``onnxruntime`` or ``openvino``.
        precision: ``fp32`` or ``bf16``.

    Raises:
        BundleError: If it crashes, takes too long or needs too much memory.
        UsageError: If the package of the backend is not installed.
    """
    from reslink.bundles import zoo
    from reslink.bundles.onnx_check import MAX_LIVE_VALUES

    digest = sha256(graph)
    if digest in _trusted or digest in zoo.onnx_digests():
        return
    import_runtime(backend)
    headroom = child.HEADROOM + COPIES * len(graph) + 2 * 4 * MAX_LIVE_VALUES  # a runtime allocates in growing blocks
    request = {"input": input_name, "shape": shape, "cpu_seconds": CPU_SECONDS, "wall_seconds": WALL_SECONDS}
    try:
        process = GuardedProcess("reslink.inference.trial_run", backend, precision, str(headroom))
    except OSError as error:
        raise _refusal(backend, f"the child process for its first run could not start ({error})") from error
    try:
        header = process.send(request, graph)
    except (OSError, EOFError, ValueError):
        raise _refusal(backend, _end(process.close())) from None
    except BaseException:
        process.process.kill()
        process.close()
        raise
    process.close()
    if "error" in header:
        raise _refusal(backend, header["error"])
    _trusted.add(digest)


def _end(code: int) -> str:
    if code in TIME_SIGNALS:
        return f"its first run took longer than {CPU_SECONDS:g} seconds"
    return f"its first run crashed (exit code {code})"


def _refusal(backend: str, reason: str) -> BundleError:
    return BundleError(
        f"{backend} cannot run model.onnx: {reason}",
        "The first run of a model that is not shipped with reslink is in a child process with limits on memory and time",
        "Use a bundle from a source that you trust, export the model again, or use --backend torch",
    )


def _handle(request: dict[str, Any], payload: bytes | None, backend: str, precision: str) -> tuple[dict[str, Any], list[Any]]:
    child.start_timers(request["cpu_seconds"], request["wall_seconds"])
    pixels = np.zeros(request["shape"], np.uint8)
    try:
        runtime = load_runtime(backend, payload or b"", 1, precision)
        runtime.run(request["input"], pixels, runtime.names)
    except Exception as error:  # noqa: BLE001 - the runtimes raise many exception types
        return {"error": f"{(str(error).splitlines() or [''])[0][:300] or type(error).__name__}"}, []
    return {}, []


def main(words: Sequence[str]) -> None:
    """Serves requests for a backend, a precision and a headroom in bytes."""
    backend, precision, headroom = words
    import_runtime(backend)
    child.run(lambda request, payload: _handle(request, payload, backend, precision), int(headroom))


if __name__ == "__main__":
    main(sys.argv[1:])
