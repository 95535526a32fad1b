"""What goes inside an exported model, as torch modules: window, resize, normalisation, network, calibration and threshold.

Head isolation is the one step that no graph format carries: it labels connected pieces. Its result, a mask and a box, is an
input. All that follows is here, and gives the same whole numbers as ``Preprocess`` and the same classes as ``Decision``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reslink.bundles.decision.calibration import IsotonicCurve
from reslink.bundles.decision.decision import Decision
from reslink.bundles.onnx_graph import CAM, FEATURES, LOGITS, PIXELS
from reslink.imaging.preprocess import THREE_WINDOWS, WINDOWS, Preprocess
from reslink.networks.area_attention import AreaAttention, record_gates
from reslink.networks.reslink import ResLink

if TYPE_CHECKING:
    from reslink.bundles.bundle import Bundle

IMAGE: Final = "image"
"""Input: (B, H, W) float32, values of the slice as they were measured."""
KEEP: Final = "keep"
"""Input: (B, H, W) bool, the pixels that count: the head, or where none is isolated what was measured."""
BOX: Final = "box"
"""Input: (B, 4) int64, first row, first column, rows and columns of the crop round the head."""
HOUNSFIELD: Final = "hounsfield"
"""Input: (B,) bool, whether the values are HU, which have a fixed window; others are scaled by their percentiles."""
INVERTED: Final = "inverted"
"""Input: (B,) bool, whether high values are shown dark (DICOM MONOCHROME1)."""
SLICE: Final = (IMAGE, KEEP, BOX, HOUNSFIELD, INVERTED)
"""The inputs of the whole model, in order."""

PROBABILITIES: Final = "probabilities"
"""Output: (B, K) float32, calibrated, each row sums to 1."""
LABEL: Final = "label"
"""Output: (B,) int64, index of the class at the operating point."""

_BITS: Final = 22
"""Pillow's ``PRECISION_BITS``: resampling weights of 8-bit pixels are whole multiples of 2⁻²² (its ``Resample.c``)."""


class NetworkGraph(nn.Module):
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


class DecisionGraph(nn.Module):
    """``Decision.probabilities`` and ``Decision.predict`` in float64; prediction sets and the gate stay outside.

    Fractions are buffers here and in :class:`SliceGraph`: the ONNX exporter rounds a Python float to float32.
    """

    temperature: Tensor
    threshold: Tensor | None

    def __init__(self, decision: Decision) -> None:
        super().__init__()
        self.register_buffer("temperature", _exact(decision.temperature))
        self.register_buffer("threshold", None if decision.threshold is None else _exact(decision.threshold))
        self.curves = nn.ModuleList(_Curve(curve) for curve in decision.isotonic)

    def forward(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Returns probabilities (B, K) float32 and labels (B,) int64 of logits (B, K) or (B, 1)."""
        values = logits.double()
        if values.shape[1] == 1:
            values = torch.cat([torch.zeros_like(values), values], dim=1)
        found = self._calibrated(torch.softmax(values / self.temperature, dim=1))
        label = found.argmax(dim=1) if self.threshold is None else (found[:, 1] >= self.threshold).long()
        return found.float(), label

    def _calibrated(self, found: Tensor) -> Tensor:
        if not len(self.curves):
            return found
        if len(self.curves) == 1:
            positive = self.curves[0](found[:, 1])
            return torch.stack([1 - positive, positive], dim=1)
        raised = torch.stack([curve(found[:, k]) for k, curve in enumerate(self.curves)], dim=1)
        total = raised.sum(dim=1, keepdim=True)
        return torch.where(total > 0, raised / torch.where(total > 0, total, 1.0), found)


class _Curve(nn.Module):
    """``numpy.interp`` between the points of a curve, level beyond its ends."""

    def __init__(self, curve: IsotonicCurve) -> None:
        super().__init__()
        before, after = np.array(curve.before), np.array(curve.after)
        step = np.diff(before)
        slope = np.divide(np.diff(after), step, out=np.zeros_like(step), where=step > 0)
        for name, values in {"before": before, "after": after, "slope": np.append(slope, 0.0)}.items():
            self.register_buffer(name, torch.from_numpy(values))

    def forward(self, values: Tensor) -> Tensor:
        """Returns calibrated probabilities (B,) float64."""
        before, after, slope = (cast(Tensor, getattr(self, name)) for name in ("before", "after", "slope"))
        known = values.clamp(before[0], before[-1])
        at = ((known[:, None] >= before[None, :]).sum(dim=1) - 1).clamp(min=0)
        return after[at] + slope[at] * (known - before[at])


class SliceGraph(nn.Module):
    """``Preprocess.pixels`` after head isolation: crop, window, 8 bits, square, Pillow's resize; the same whole numbers.

    The crop differs from slice to slice; so crop, padding and resize are one matrix a slice and axis, and a batch of slices
    of one size goes through at once.
    """

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        self.size, self.planes = preprocess.size, preprocess.planes
        names = THREE_WINDOWS if self.planes == 3 else ("brain" if preprocess.window == "three" else preprocess.window,)
        edges = [(centre - width / 2, centre + width / 2) for centre, width in (WINDOWS[name] for name in names)]
        self.register_buffer("edges", _exact(edges))
        self.register_buffer("parts", _exact([percent / 100 for percent in preprocess.percentiles]))

    def forward(self, image: Tensor, keep: Tensor, box: Tensor, hounsfield: Tensor, inverted: Tensor) -> Tensor:
        """Returns pixels (B, planes, S, S) uint8 of the inputs that ``SLICE`` names."""
        height, width = image.shape[1:]
        top, left, rows, columns = box.unbind(dim=1)
        inside = _within(height, top, rows)[:, :, None] & _within(width, left, columns)[:, None, :]
        keep = keep & inside
        low, high = self._range(image, keep, hounsfield)
        grey = _grey(image[:, None], keep[:, None], low, high, inverted[:, None, None, None])
        side = torch.maximum(rows, columns)
        across = self._weights(width, left, columns, side, height + width)
        down = self._weights(height, top, rows, side, height + width)
        narrow = _eight_bits(grey @ across.mT[:, None])
        return _eight_bits(down[:, None] @ narrow).to(torch.uint8)

    def _range(self, image: Tensor, keep: Tensor, hounsfield: Tensor) -> tuple[Tensor, Tensor]:
        """The values that become black and white, (B, planes) each, float64."""
        far = torch.finfo(torch.float32).max
        ordered = torch.sort(torch.where(keep, image, far).flatten(1), dim=1).values.double()
        count = keep.flatten(1).sum(dim=1, keepdim=True)
        low, high = (_at(ordered, count, part) for part in cast(Tensor, self.parts))
        least, most = ordered[:, :1], ordered.gather(1, (count - 1).clamp(min=0))
        spread = high > low
        low, high = torch.where(spread, low, least), torch.where(spread, high, most)
        edges = cast(Tensor, self.edges)
        fixed = hounsfield[:, None]
        return torch.where(fixed, edges[None, :, 0], low), torch.where(fixed, edges[None, :, 1], high)

    def _weights(self, length: int, start: Tensor, extent: Tensor, side: Tensor, longest: int) -> Tensor:
        """Pillow's weights from pixels of the image to those of the network's square, (B, S, length) float64."""
        places = torch.arange(length)[None, :] - start[:, None] + ((side - extent) // 2)[:, None]
        everywhere = torch.arange(longest)[None, :]
        total = (self._triangle(everywhere, side) * (everywhere < side[:, None])[:, None, :]).sum(dim=2, keepdim=True)
        return torch.floor(self._triangle(places, side) / total * 2.0**_BITS + 0.5)

    def _triangle(self, places: Tensor, side: Tensor) -> Tensor:
        """The triangle filter from places in the padded square to each pixel of the result, (B, S, places) float64."""
        scale = (side.double() / self.size)[:, None, None]
        centre = (torch.arange(self.size).double() + 0.5)[None, :, None] * scale
        away = (places.double()[:, None, :] - centre + 0.5) / scale.clamp(min=1.0)
        return (1.0 - away.abs()).clamp(min=0.0)


class WholeGraph(nn.Module):
    """From a slice and its head to everything; ``names`` says the outputs in order."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.slices = SliceGraph(bundle.preprocess)
        self.rest = PixelGraph(bundle)
        self.names = [*self.rest.names, PIXELS]

    def forward(self, image: Tensor, keep: Tensor, box: Tensor, hounsfield: Tensor, inverted: Tensor) -> tuple[Tensor, ...]:
        """Returns the outputs of :class:`PixelGraph` and the pixels that it saw."""
        pixels = self.slices(image, keep, box, hounsfield, inverted)
        return *self.rest(pixels), pixels


class PixelGraph(nn.Module):
    """From ``Preprocess.pixels`` to everything; ``names`` says the outputs in order."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.network = NetworkGraph(bundle.network(), bundle.preprocess)
        self.decision = DecisionGraph(bundle.decision)
        self.names = [PROBABILITIES, LABEL, *self.network.names]

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Returns probabilities, label, logits, features and maps."""
        found = self.network(pixels)
        return *self.decision(found[0]), *found


def examples(names: Sequence[str], preprocess: Preprocess) -> tuple[Tensor, ...]:
    """Returns a batch of two blank inputs with these names, for tracing."""
    size = preprocess.size
    known = {
        PIXELS: torch.zeros((2, preprocess.planes, size, size), dtype=torch.uint8),
        IMAGE: torch.zeros((2, size + 8, size + 16)),
        KEEP: torch.ones((2, size + 8, size + 16), dtype=torch.bool),
        BOX: torch.tensor([[0, 0, size + 8, size + 16]] * 2),
        HOUNSFIELD: torch.zeros(2, dtype=torch.bool),
        INVERTED: torch.zeros(2, dtype=torch.bool),
    }
    return tuple(known[name] for name in names)


def dynamic(names: Sequence[str]) -> tuple[dict[int, Any], ...]:
    """Returns the dimensions of these inputs that may vary: the batch, and height and width of slices."""
    batch, height, width = (torch.export.Dim(name) for name in ("batch", "height", "width"))
    return tuple({0: batch, 1: height, 2: width} if name in (IMAGE, KEEP) else {0: batch} for name in names)


def _exact(numbers: object) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def _within(length: int, start: Tensor, extent: Tensor) -> Tensor:
    """Whether each of ``length`` places lies in the extent, (B, length)."""
    places = torch.arange(length)[None, :]
    return (places >= start[:, None]) & (places < (start + extent)[:, None])


def _at(ordered: Tensor, count: Tensor, part: Tensor) -> Tensor:
    """``numpy.percentile`` of the first ``count`` of sorted values, (B, 1): the same straight line between neighbours."""
    place = (count - 1).double() * part
    first = torch.floor(place)
    below, above = (ordered.gather(1, torch.minimum(at.long(), count - 1).clamp(min=0)) for at in (first, first + 1))
    rest, step = place - first, above - below
    return torch.where(rest < 0.5, below + step * rest, above - step * (1.0 - rest))


def _grey(image: Tensor, keep: Tensor, low: Tensor, high: Tensor, inverted: Tensor) -> Tensor:
    """Maps low..high to 0..255 in whole numbers, 0 where not kept; (B, planes, H, W) float64."""
    spread = (high > low)[:, :, None, None]
    factor = torch.where(high > low, 255.0 / torch.where(high > low, high - low, 1.0), 0.0)
    factor = factor.clamp(max=torch.finfo(torch.float32).max).float()[:, :, None, None]
    black = low.float()[:, :, None, None]
    grey = torch.round(((torch.where(keep, image, black) - black) * factor).clamp(0.0, 255.0))
    return torch.where(keep & spread, torch.where(inverted, 255.0 - grey, grey), 0.0).double()


def _eight_bits(sums: Tensor) -> Tensor:
    return torch.floor(sums * 2.0**-_BITS + 0.5).clamp(0.0, 255.0)
