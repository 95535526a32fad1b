"""ONNX: the network of a bundle as one graph, from the whole numbers of ``Preprocess.pixels`` to logits, features and maps.

The graph is opset 18. It holds the normalisation, folded into the first convolution, and no name of a file, host or time;
equal bundles give equal bytes with equal versions of torch and onnxscript.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from reslink.bundles.twin import CAM, FEATURES, LOGITS, PIXELS
from reslink.datasets.phantom import render_slice
from reslink.errors import BundleError, GateError
from reslink.files import optional_import
from reslink.imaging.image import Image
from reslink.imaging.preprocess import Preprocess
from reslink.inference.backends import Floats, OnnxRuntimeBackend, Pixels, TorchBackend
from reslink.networks.area_attention import AreaAttention, record_gates
from reslink.networks.reslink import ResLink

if TYPE_CHECKING:
    from reslink.bundles.bundle import Bundle

OPSET: Final = 18
TOLERANCE: Final = 1e-4
"""Largest difference of a logit that the parity gate lets through."""

_EXTRA: Final = "export"


def to_onnx(bundle: Bundle) -> bytes:
    """Returns the network of a bundle as an ONNX graph with a dynamic batch.

    Input ``pixels``: (B, planes, S, S) uint8, what ``Preprocess.pixels`` returns. Outputs, float32: ``logits`` (B, K) or
    (B, 1); ``features`` (B, D); ``cam`` (B, K, h, w), class activation maps (Zhou et al. 2016, arXiv 1512.04150, equation 2),
    whose mean plus the bias of the dense layer is the logit; and the gates of each area attention under its name, such as
    ``first_attention`` (B, 1, H/4, W/4).

    Args:
        bundle: A saved bundle.

    Raises:
        BundleError: If the bundle is not saved, or its weights do not fit.
        UsageError: If the packages are not installed, with the extra that installs them.
    """
    onnx: Any = optional_import("onnx", _EXTRA)
    optional_import("onnxscript", _EXTRA)
    preprocess = bundle.preprocess
    shape = (2, preprocess.planes, preprocess.size, preprocess.size)
    with _quiet(), torch.no_grad(), torch.random.fork_rng(devices=[]):
        graph = _Graph(bundle.network(), preprocess).eval()
        program = torch.onnx.export(
            graph,
            (torch.zeros(shape, dtype=torch.uint8),),
            input_names=[PIXELS],
            output_names=graph.names,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise BundleError("torch gave no ONNX graph", "It needs torch 2.6 or newer", "Update torch, then export again")
    return _clean(onnx, program.model_proto)


class _Graph(nn.Module):
    """The network with its normalisation folded into the first convolution, and with its maps as outputs.

    ``(pixels / 255 − mean) / std``, repeated to the channels, then the convolution without bias, is the same as the
    convolution of ``pixels − 255·mean`` with its weights summed over repeated channels and divided by ``255·std``: what lies
    beyond the border is 0 in both.
    """

    def __init__(self, network: ResLink, preprocess: Preprocess) -> None:
        super().__init__()
        self.network = network
        self.black = 255 * preprocess.mean
        old = network.stem.conv
        weight = old.weight.sum(dim=1, keepdim=True) if preprocess.planes < old.in_channels else old.weight
        place: dict[str, Any] = {"stride": old.stride, "padding": old.padding, "bias": False}
        new = nn.Conv2d(preprocess.planes, old.out_channels, cast(Any, old.kernel_size), **place)
        new.weight = nn.Parameter(weight.detach() / (255 * preprocess.std), requires_grad=False)
        network.stem.conv = new
        network.config = network.config.model_copy(update={"in_channels": preprocess.planes})
        self.names = [LOGITS, FEATURES, CAM, *(name for name, m in network.named_modules() if isinstance(m, AreaAttention))]

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Returns the outputs in the order of ``names``."""
        with record_gates(self.network) as gates:
            maps = self.network.forward_features(pixels.float() - self.black)
        dense = cast(nn.Linear, self.network.head[-1])
        cam = F.conv2d(maps, dense.weight[:, :, None, None])
        return self.network.forward_head(maps), maps.mean(dim=(2, 3)), cam, *(gates[name] for name in self.names[3:])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences what torch says of its own old functions and of operators that no ResLink has."""
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
    """Returns the bytes of a model without stack traces, which name files of this machine; equal models give equal bytes."""
    model.doc_string = model.graph.doc_string = ""
    del model.metadata_props[:], model.graph.metadata_props[:], model.graph.value_info[:], model.functions[:]
    model.graph.name = "reslink"
    for part in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


@dataclass(frozen=True)
class Parity:
    """How far the graph is from torch, at most over some images.

    Attributes:
        images: How many were compared.
        logits: Largest difference of a logit.
        features: Largest difference of a pooled feature.
        probabilities: Largest difference of a probability of the bundle's decision.
        labels: Images that got another class.
    """

    images: int
    logits: float
    features: float
    probabilities: float
    labels: int


def check_parity(bundle: Bundle, graph: bytes | None = None, images: int = 4, tolerance: float = TOLERANCE) -> Parity:
    """Compares the graph in ONNX Runtime with the network in torch, on synthetic heads.

    Args:
        bundle: A saved bundle.
        graph: What :func:`to_onnx` returned; if not given, the bundle's own.
        images: Heads to compare on, CT and MR by turns, at least 1.
        tolerance: Largest difference of a logit that passes.

    Raises:
        GateError: If a logit differs by more, or is not finite.
        BundleError: If the bundle has no graph, or ONNX Runtime cannot run it.
        UsageError: If onnxruntime is not installed.
    """
    optional_import("onnxruntime", _EXTRA)
    pixels = _heads(bundle.preprocess, images)
    runtime = OnnxRuntimeBackend(bundle.onnx() if graph is None else graph, threads=1)
    torch_side = TorchBackend(bundle.network(), bundle.preprocess, torch.device("cpu"))
    (logits, features), (other, others) = torch_side.outputs(pixels), runtime.outputs(pixels)
    difference = _largest(logits, other)
    if not difference <= tolerance:
        raise GateError(
            f"The ONNX graph differs from torch by {difference:.2g} in a logit, over {images} synthetic heads",
            f"At most {tolerance:g} is allowed",
            "Leave the graph out and predict with --backend torch; report this with the versions of torch and onnxruntime",
        )
    ours, theirs = (bundle.decision.probabilities(values) for values in (logits, other))
    changed = int((bundle.decision.predict(ours) != bundle.decision.predict(theirs)).sum())
    return Parity(images, difference, _largest(features, others), float(np.abs(ours - theirs).max()), changed)


def _heads(preprocess: Preprocess, images: int) -> Pixels:
    found: list[NDArray[np.uint8]] = []
    for i in range(images):
        ct = i % 2 == 0
        plane = render_slice(0, i + 1, tumour=i % 4 > 1, sequence="CT" if ct else "T1", size=256)
        found.append(preprocess.pixels(Image(plane.pixels, unit="HU" if ct else "MR")))
    return np.stack(found)


def _largest(ours: Floats, theirs: Floats) -> float:
    """The largest difference; NaN where there is one in either."""
    return float(np.abs(ours.astype(np.float64) - theirs).max()) if ours.shape == theirs.shape else float("inf")
