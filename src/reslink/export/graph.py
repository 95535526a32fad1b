"""The torch modules of exported graphs: window, resize, normalization, network, calibration and threshold.

Head isolation labels connected components, which no graph format supports. Its result, a mask and a box, is an input. All later
steps are here, and give the same integers as ``Preprocess`` and the same classes as ``Decision``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import torch
from torch import Tensor, nn

from reslink.bundles.decision.calibration import IsotonicCurve
from reslink.bundles.decision.decision import Decision
from reslink.bundles.onnx_graph import CAM, FEATURES, LOGITS, PIXELS
from reslink.imaging.preprocess import THREE_WINDOWS, WINDOWS, Preprocess
from reslink.networks.area_attention import record_attention_weights
from reslink.networks.ensemble import mean_probability_logits
from reslink.networks.network import Network
from reslink.networks.reslink import ResLink

if TYPE_CHECKING:
    from reslink.bundles.bundle import Bundle

IMAGE: Final = "image"
"""Input: (B, H, W) float32, measured values of the slice."""
KEEP: Final = "keep"
"""Input: (B, H, W) bool, the pixels to use: the head, or the measured pixels without head isolation."""
BOX: Final = "box"
"""Input: (B, 4) int64, first row, first column, rows and columns of the crop around the head."""
HOUNSFIELD: Final = "hounsfield"
"""Input: (B,) bool, whether the values are HU, which use a fixed window; others are scaled by percentiles."""
INVERTED: Final = "inverted"
"""Input: (B,) bool, whether high values are shown dark (DICOM MONOCHROME1)."""
SLICE: Final = (IMAGE, KEEP, BOX, HOUNSFIELD, INVERTED)
"""The inputs of the whole model, in order."""

PROBABILITIES: Final = "probabilities"
"""Output: (B, K) float32, calibrated, each row sums to 1."""
LABEL: Final = "label"
"""Output: (B,) int64, index of the class at the operating point."""
SLICE_WEIGHTS: Final = "slice_weights"
"""Output where a case is a series: (B,) float32, the weight of each slice in the answer; the sum is 1."""

_BITS: Final = 22
"""Pillow's ``PRECISION_BITS``: resampling weights of 8-bit pixels are integer multiples of 2⁻²² (its ``Resample.c``)."""


class NetworkGraph(nn.Module):
    """The network with normalization, and with maps as outputs. A ResLink has it folded into its first convolution.

    ``(pixels / 255 − mean) / std``, repeated to the channels, then the convolution without bias, equals the convolution of
    ``pixels − 255·mean`` with weights that are summed over repeated channels and divided by ``255·std``. Both pad with 0.
    """

    def __init__(self, network: Network, preprocess: Preprocess) -> None:
        super().__init__()
        folded = isinstance(network, ResLink)
        self.network, self.channels = network, int(preprocess.planes if folded else preprocess.channels)
        self.offset, self.factor = 255 * preprocess.mean, None if folded else 1 / (255 * preprocess.std)
        if isinstance(network, ResLink):
            self._fold_normalization(network, preprocess)
        with torch.no_grad(), record_attention_weights(network) as attention:
            maps = network.forward_with_features(torch.zeros(2, self.channels, preprocess.size, preprocess.size))[2]
        self.names = [LOGITS, FEATURES, *([] if maps is None else [CAM]), *attention]

    @staticmethod
    def _fold_normalization(network: ResLink, preprocess: Preprocess) -> None:
        original = network.stem.conv
        repeated = preprocess.planes < original.in_channels
        weight = original.weight.sum(dim=1, keepdim=True) if repeated else original.weight
        options: dict[str, Any] = {"stride": original.stride, "padding": original.padding, "bias": False}
        folded = nn.Conv2d(preprocess.planes, original.out_channels, cast(Any, original.kernel_size), **options)
        folded.weight = nn.Parameter(weight.detach() / (255 * preprocess.std), requires_grad=False)
        network.stem.conv = folded
        network.config = network.config.model_copy(update={"in_channels": preprocess.planes})

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Returns the outputs in the order of ``names``."""
        x = pixels.float() - self.offset
        if self.factor is not None:
            x = (x * self.factor).expand(-1, self.channels, -1, -1)
        with record_attention_weights(self.network) as attention:
            logits, features, maps = self.network.forward_with_features(x)
        cam = [] if maps is None else [self.network.class_maps(maps)]
        return logits, features, *cam, *attention.values()


class DecisionGraph(nn.Module):
    """``Decision.probabilities`` and ``Decision.predict`` in float64, without prediction sets and OOD detector.

    Fractions are buffers here and in :class:`SliceGraph`: the ONNX exporter rounds a Python float to float32.
    """

    temperature: Tensor
    threshold: Tensor | None

    def __init__(self, decision: Decision) -> None:
        super().__init__()
        self.register_buffer("temperature", _float64(decision.temperature))
        self.register_buffer("threshold", None if decision.threshold is None else _float64(decision.threshold))
        self.curves = nn.ModuleList(_Curve(curve) for curve in decision.isotonic)
        self.by_label = nn.ModuleList(DecisionGraph(one) for one in decision.by_label)

    def forward(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Returns probabilities (B, K) float32 and labels (B,) int64 of logits (B, K) or (B, 1).

        Of several labels at once, the probability that each is present, and labels (B, K), 1 present, 0 absent.
        """
        if len(self.by_label):
            parts = [one(logits[:, k : k + 1]) for k, one in enumerate(self.by_label)]
            return torch.stack([p[:, 1] for p, _ in parts], dim=1), torch.stack([label for _, label in parts], dim=1)
        values = logits.double()
        if values.shape[1] == 1:
            values = torch.cat([torch.zeros_like(values), values], dim=1)
        probabilities = self._calibrated(torch.softmax(values / self.temperature, dim=1))
        if self.threshold is None:
            return probabilities.float(), probabilities.argmax(dim=1)
        return probabilities.float(), (probabilities[:, 1] >= self.threshold).long()

    def _calibrated(self, probabilities: Tensor) -> Tensor:
        if not len(self.curves):
            return probabilities
        if len(self.curves) == 1:
            positive = self.curves[0](probabilities[:, 1])
            return torch.stack([1 - positive, positive], dim=1)
        calibrated = torch.stack([curve(probabilities[:, k]) for k, curve in enumerate(self.curves)], dim=1)
        total = calibrated.sum(dim=1, keepdim=True)
        return torch.where(total > 0, calibrated / torch.where(total > 0, total, 1.0), probabilities)


class _Curve(nn.Module):
    """``numpy.interp`` between the points of a curve, constant beyond its ends."""

    def __init__(self, curve: IsotonicCurve) -> None:
        super().__init__()
        before, after = np.array(curve.before), np.array(curve.after)
        width = np.diff(before)
        slope = np.divide(np.diff(after), width, out=np.zeros_like(width), where=width > 0)
        for name, values in {"before": before, "after": after, "slope": np.append(slope, 0.0)}.items():
            self.register_buffer(name, torch.from_numpy(values))

    def forward(self, values: Tensor) -> Tensor:
        """Returns calibrated probabilities (B,) float64."""
        before, after, slope = (cast(Tensor, getattr(self, name)) for name in ("before", "after", "slope"))
        clamped = values.clamp(before[0], before[-1])
        segment = ((clamped[:, None] >= before[None, :]).sum(dim=1) - 1).clamp(min=0)
        return after[segment] + slope[segment] * (clamped - before[segment])


class SliceGraph(nn.Module):
    """``Preprocess.pixels`` after head isolation: crop, window, 8 bits, square, Pillow's resize; the same integers.

    The crop differs between slices, so crop, padding and resize are one matrix per slice and axis, and a batch of slices of one
    size is processed at once.
    """

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        self.size, self.planes = preprocess.size, preprocess.planes
        names = THREE_WINDOWS if self.planes == 3 else ("brain" if preprocess.window == "three" else preprocess.window,)
        edges = [(center - width / 2, center + width / 2) for center, width in (WINDOWS[name] for name in names)]
        self.register_buffer("edges", _float64(edges))
        self.register_buffer("fractions", _float64([percent / 100 for percent in preprocess.percentiles]))

    def forward(self, image: Tensor, keep: Tensor, box: Tensor, hounsfield: Tensor, inverted: Tensor) -> Tensor:
        """Returns pixels (B, planes, S, S) uint8 for the inputs of ``SLICE``."""
        height, width = image.shape[1:]
        top, left, rows, columns = box.unbind(dim=1)
        inside = _within(height, top, rows)[:, :, None] & _within(width, left, columns)[:, None, :]
        keep = keep & inside
        low, high = self._range(image, keep, hounsfield)
        gray = _gray(image[:, None], keep[:, None], low, high, inverted[:, None, None, None])
        square = torch.maximum(rows, columns)
        horizontal = self._weights(width, left, columns, square, height + width)
        vertical = self._weights(height, top, rows, square, height + width)
        resized_rows = _eight_bits(gray @ horizontal.mT[:, None])
        return _eight_bits(vertical[:, None] @ resized_rows).to(torch.uint8)

    def _range(self, image: Tensor, keep: Tensor, hounsfield: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the values that become black and white, (B, planes) each, float64."""
        far = torch.finfo(torch.float32).max
        ordered = torch.sort(torch.where(keep, image, far).flatten(1), dim=1).values.double()
        count = keep.flatten(1).sum(dim=1, keepdim=True)
        low, high = (_percentile(ordered, count, fraction) for fraction in cast(Tensor, self.fractions))
        minimum, maximum = ordered[:, :1], ordered.gather(1, (count - 1).clamp(min=0))
        valid = high > low
        low, high = torch.where(valid, low, minimum), torch.where(valid, high, maximum)
        edges = cast(Tensor, self.edges)
        fixed = hounsfield[:, None]
        return torch.where(fixed, edges[None, :, 0], low), torch.where(fixed, edges[None, :, 1], high)

    def _weights(self, length: int, start: Tensor, extent: Tensor, square: Tensor, longest: int) -> Tensor:
        """Returns Pillow's weights from pixels of the image to pixels of the network's square, (B, S, length) float64."""
        positions = torch.arange(length)[None, :] - start[:, None] + ((square - extent) // 2)[:, None]
        all_positions = torch.arange(longest)[None, :]
        inside = (all_positions < square[:, None])[:, None, :]
        total = (self._triangle(all_positions, square) * inside).sum(dim=2, keepdim=True)
        return torch.floor(self._triangle(positions, square) / total * 2.0**_BITS + 0.5)

    def _triangle(self, positions: Tensor, square: Tensor) -> Tensor:
        """Returns the triangle filter from positions in the padded square to each result pixel, (B, S, positions) float64."""
        scale = (square.double() / self.size)[:, None, None]
        center = (torch.arange(self.size).double() + 0.5)[None, :, None] * scale
        distance = (positions.double()[:, None, :] - center + 0.5) / scale.clamp(min=1.0)
        return (1.0 - distance.abs()).clamp(min=0.0)


class WholeGraph(nn.Module):
    """From a slice and its head to all outputs; ``names`` lists them in order."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.slices = SliceGraph(bundle.preprocess)
        self.pixel_graph = PixelGraph(bundle)
        self.names = [*self.pixel_graph.names, PIXELS]

    def forward(self, image: Tensor, keep: Tensor, box: Tensor, hounsfield: Tensor, inverted: Tensor) -> tuple[Tensor, ...]:
        """Returns the outputs of :class:`PixelGraph` and its input pixels."""
        pixels = self.slices(image, keep, box, hounsfield, inverted)
        return *self.pixel_graph(pixels), pixels


class PixelGraph(nn.Module):
    """From ``Preprocess.pixels`` to all outputs; ``names`` lists them in order.

    Where a case is a series, the batch is one series: probabilities, label, logits and features have one row, and maps one per
    slice.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.network = NetworkGraph(bundle.network(), bundle.preprocess)
        self.decision = DecisionGraph(bundle.decision)
        self.flip_average = bundle.decision.flip_average
        self.pooling = self.network.network.pooling
        logits, features, *maps = self.network.names
        weights = [] if self.pooling is None else [SLICE_WEIGHTS]
        self.names = [PROBABILITIES, LABEL, logits, features, *weights, *maps]

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Returns probabilities, label, logits, features and maps."""
        logits, features, *maps = self.network(pixels)
        if self.flip_average:
            logits = mean_probability_logits([logits, self.network(pixels.flip(-1))[0]])
        if self.pooling is None:
            return *self.decision(logits), logits, features, *maps
        weights = self.pooling(features).softmax(dim=0)
        logits, features = weights[None] @ logits, weights[None] @ features
        return *self.decision(logits), logits, features, weights, *maps


def example_inputs(names: Sequence[str], preprocess: Preprocess) -> tuple[Tensor, ...]:
    """Returns a batch of two blank inputs of these names for tracing."""
    size = preprocess.size
    inputs = {
        PIXELS: torch.zeros((2, preprocess.planes, size, size), dtype=torch.uint8),
        IMAGE: torch.zeros((2, size + 8, size + 16)),
        KEEP: torch.ones((2, size + 8, size + 16), dtype=torch.bool),
        BOX: torch.tensor([[0, 0, size + 8, size + 16]] * 2),
        HOUNSFIELD: torch.zeros(2, dtype=torch.bool),
        INVERTED: torch.zeros(2, dtype=torch.bool),
    }
    return tuple(inputs[name] for name in names)


def dynamic_shapes_of(names: Sequence[str]) -> tuple[dict[int, Any], ...]:
    """Returns the variable dimensions of these inputs: the batch, and height and width of slices."""
    batch, height, width = (torch.export.Dim(name) for name in ("batch", "height", "width"))
    return tuple({0: batch, 1: height, 2: width} if name in (IMAGE, KEEP) else {0: batch} for name in names)


def _float64(numbers: object) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def _within(length: int, start: Tensor, extent: Tensor) -> Tensor:
    """Returns whether each of ``length`` positions is in the extent, (B, length)."""
    positions = torch.arange(length)[None, :]
    return (positions >= start[:, None]) & (positions < (start + extent)[:, None])


def _percentile(ordered: Tensor, count: Tensor, fraction: Tensor) -> Tensor:
    """Returns ``numpy.percentile`` of the first ``count`` sorted values, (B, 1), with the same linear interpolation."""
    position = (count - 1).double() * fraction
    index = torch.floor(position)
    below, above = (ordered.gather(1, torch.minimum(i.long(), count - 1).clamp(min=0)) for i in (index, index + 1))
    offset, difference = position - index, above - below
    return torch.where(offset < 0.5, below + difference * offset, above - difference * (1.0 - offset))


def _gray(image: Tensor, keep: Tensor, low: Tensor, high: Tensor, inverted: Tensor) -> Tensor:
    """Maps low..high to the integers 0..255, and pixels that are not kept to 0; (B, planes, H, W) float64."""
    valid = (high > low)[:, :, None, None]
    factor = torch.where(high > low, 255.0 / torch.where(high > low, high - low, 1.0), 0.0)
    factor = factor.clamp(max=torch.finfo(torch.float32).max).float()[:, :, None, None]
    black = low.float()[:, :, None, None]
    gray = torch.round(((torch.where(keep, image, black) - black) * factor).clamp(0.0, 255.0))
    return torch.where(keep & valid, torch.where(inverted, 255.0 - gray, gray), 0.0).double()


def _eight_bits(sums: Tensor) -> Tensor:
    return torch.floor(sums * 2.0**-_BITS + 0.5).clamp(0.0, 255.0)
