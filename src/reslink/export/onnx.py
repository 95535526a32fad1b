"""ONNX: the graph that is stored in a bundle, and the exported graphs.

All use opset 18 with a dynamic batch and hold no name of a file or host and no time. Equal bundles give equal bytes with equal
versions of torch and onnxscript.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from reslink.bundles.onnx_graph import LOGITS, PIXELS
from reslink.errors import BundleError, CheckFailedError
from reslink.export import parity
from reslink.export.graph import (
    LABEL,
    PROBABILITIES,
    SLICE,
    NetworkGraph,
    PixelGraph,
    WholeGraph,
    dynamic_shapes_of,
    example_inputs,
)
from reslink.export.parity import Parity
from reslink.files import optional_import, write_atomic
from reslink.inference.backends import GraphBackend, Pixels, flip_averaged
from reslink.inference.trial_run import trust

if TYPE_CHECKING:
    from reslink.bundles.bundle import Bundle

OPSET: Final = 18
TOLERANCE: Final = 1e-4
"""Largest difference of a logit, feature or map that passes the check of the stored graph."""

FILES: Final[dict[str, tuple[type[WholeGraph | PixelGraph], tuple[str, ...]]]] = {
    "model.onnx": (WholeGraph, SLICE),
    "network.onnx": (PixelGraph, (PIXELS,)),
}
"""The exported files with their module and inputs."""

_EXTRA: Final = "train"


def to_onnx(bundle: Bundle) -> bytes:
    """Returns the network of a bundle as an ONNX graph with a dynamic batch, to be stored in the bundle.

    Input ``pixels``: (B, planes, S, S) uint8, the result of ``Preprocess.pixels``. Outputs, float32: ``logits`` (B, K) or
    (B, 1); ``features`` (B, D); ``cam`` (B, K, h, w), class activation maps (Zhou et al. 2016, arXiv 1512.04150, equation 2),
    whose mean plus the bias of the dense layer is the logit; and the weights of each area attention under its name, such as
    ``first_attention`` (B, 1, H/4, W/4).

    Args:
        bundle: A saved bundle.

    Raises:
        BundleError: If the bundle is not saved, or its weights do not fit.
        UsageError: If the packages are not installed, with the extra that installs them.
    """
    with _quiet(), torch.random.fork_rng(devices=[]):
        graph = graph_bytes(NetworkGraph(bundle.network(), bundle.preprocess), (PIXELS,), bundle)
    trust(graph)
    return graph


def write(bundle: Bundle, folder: Path) -> None:
    """Writes ``model.onnx``, whose input is a slice and its head, and ``network.onnx``, whose input is pixels.

    Raises:
        BundleError: If the bundle is not saved, or its weights do not fit.
        UsageError: If the packages are not installed, with the extra that installs them.
    """
    for name, (graph, inputs) in FILES.items():
        write_atomic(folder / name, whole_bytes(graph, inputs, bundle))


def whole_bytes(kind: type[WholeGraph | PixelGraph], inputs: tuple[str, ...], bundle: Bundle) -> bytes:
    """Returns an ONNX graph that returns probabilities and labels."""
    optional_import("onnx", _EXTRA)
    with _quiet(), torch.random.fork_rng(devices=[]):
        return graph_bytes(kind(bundle), inputs, bundle)


def read_back(bundle: Bundle, folder: Path) -> Iterator[tuple[str, parity.Runner]]:
    """Yields each file as ONNX Runtime runs it."""
    runtime: Any = optional_import("onnxruntime", _EXTRA)
    for name, (_, inputs) in FILES.items():
        session = runtime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]

        def call(inputs: parity.Arrays, session: Any = session, names: list[str] = names) -> parity.Arrays:
            return dict(zip(names, session.run(names, inputs), strict=True))

        yield name, parity.Runner(bundle, inputs, call)


def graph_bytes(graph: NetworkGraph | WholeGraph | PixelGraph, inputs: tuple[str, ...], bundle: Bundle) -> bytes:
    """Returns a module as ONNX without any trace of this machine."""
    onnx: Any = optional_import("onnx", _EXTRA)
    optional_import("onnxscript", _EXTRA)
    with torch.no_grad():
        program = torch.onnx.export(
            graph.eval(),
            example_inputs(inputs, bundle.preprocess),
            input_names=list(inputs),
            output_names=graph.names,
            dynamic_shapes=dynamic_shapes_of(inputs),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise BundleError("torch returned no ONNX graph", "It needs torch 2.6 or newer", "Update torch, then export again")
    return _clean(onnx, program.model_proto)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences torch's messages on deprecated functions and on operators that ResLink does not use."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _clean(onnx: Any, model: Any) -> bytes:
    """Returns the bytes of a model without stack traces, which hold file names; equal models give equal bytes."""
    model.doc_string = model.graph.doc_string = ""
    del model.metadata_props[:], model.graph.metadata_props[:], model.graph.value_info[:], model.functions[:]
    model.graph.name = "reslink"
    for part in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def check_parity(bundle: Bundle, graph: bytes | None = None, images: int = 4, tolerance: float = TOLERANCE) -> Parity:
    """Compares the graph in ONNX Runtime with the network in torch, on synthetic heads.

    Args:
        bundle: A saved bundle.
        graph: The result of :func:`to_onnx`; if not given, the graph of the bundle.
        images: Number of heads, alternately CT and MR, at least 1.
        tolerance: Largest allowed difference of a logit, a feature (used by the out-of-distribution detector) or a map (shown
            by ``reslink serve``).

    Raises:
        CheckFailedError: If a difference is larger or not finite.
        BundleError: If the bundle has no graph, or ONNX Runtime cannot run it.
        UsageError: If onnxruntime is not installed.
    """
    optional_import("onnxruntime", _EXTRA)
    runtime = GraphBackend("onnxruntime", bundle.onnx() if graph is None else graph, threads=1)
    heads = parity.synthetic_heads(images)
    expected = parity.reference_outputs(bundle, heads)
    actual = parity.Runner(bundle, (PIXELS,), lambda inputs: _run_with_decision(runtime, bundle, inputs[PIXELS]))(heads)
    result = parity.compare(expected, actual)
    differences = {"a logit": result.logits, "a feature": result.features, "a map": result.maps}
    faults = [f"{value:.2g} in {what}" for what, value in differences.items() if not value <= tolerance]
    if faults:
        raise CheckFailedError(
            f"The ONNX graph differs from torch by {', '.join(faults)}, over {images} synthetic heads",
            f"At most {tolerance:g} is allowed",
            "Predict with --backend torch, and report this with the versions of torch and onnxruntime",
        )
    return result


def _run_with_decision(runtime: GraphBackend, bundle: Bundle, pixels: Pixels) -> parity.Arrays:
    """Returns the outputs of the stored graph, which ends at the logits, and the decision on them."""
    outputs: parity.Arrays = dict(zip(runtime.names, runtime.run(pixels, runtime.names), strict=True))
    outputs[LOGITS] = flip_averaged(bundle.decision, runtime, pixels, outputs[LOGITS])
    finite = np.nan_to_num(outputs[LOGITS])  # the comparison reports logits that are not finite
    probabilities = bundle.decision.probabilities(finite)
    return outputs | {PROBABILITIES: probabilities, LABEL: bundle.decision.predict(probabilities)}
