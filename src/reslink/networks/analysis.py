"""What a ResLink network costs and sees: parameters, FLOPs by layer, receptive fields, attention cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from reslink.networks.area_attention import AreaAttention
from reslink.networks.blocks import Context, Downsample, ResidualBlock, Stem
from reslink.networks.reslink import ResLink, ResLinkConfig


@dataclass(frozen=True)
class LayerCost:
    """Cost of one layer for one image.

    Attributes:
        name: Name of the module in the network.
        kind: Class of the module.
        parameters: Trainable numbers.
        flops: Floating-point operations of one forward pass, a multiplication and an addition counted as two.
    """

    name: str
    kind: str
    parameters: int
    flops: int


@dataclass(frozen=True)
class ReceptiveField:
    """What one unit of a stage's output sees, in input pixels.

    Attributes:
        stage: Name of the stage.
        stride: Input pixels between neighbouring units.
        size: Side of the receptive field through convolutions and pooling.
        size_with_attention: Side for the central unit of the map when the areas it depends on are counted too.
    """

    stage: str
    stride: int
    size: int
    size_with_attention: int


@dataclass(frozen=True)
class AttentionCost:
    """FLOPs of attention on a square map of one size.

    Attributes:
        side: Side of the map in pixels.
        area: FLOPs of area attention; grows with side².
        self_attention: FLOPs of single-head dot-product self-attention with its four projections; grows with side⁴.
    """

    side: int
    area: int
    self_attention: int


@dataclass(frozen=True)
class Window:
    """A layer that slides a window, or (``stride`` 0) an area attention of that size, or (below 0) one that repeats each place.

    Attributes:
        kernel: Side of the window.
        stride: Step of the window; 0 marks an area attention, −2 an enlargement by 2 with the nearest neighbour.
        padding: Pixels added at each side.
    """

    kernel: int
    stride: int
    padding: int = 0


def parameters(network: nn.Module) -> int:
    """Returns the number of trainable numbers."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def flops_by_layer(config: ResLinkConfig, size: int = 224) -> list[LayerCost]:
    """Counts convolutions and matrix products of one forward pass, layer by layer, without computing anything.

    Args:
        config: The network's shape.
        size: Side of the square input.

    Returns:
        One entry for each layer that has parameters or FLOPs, in order of the forward pass.
    """
    with torch.device("meta"), torch.inference_mode():
        network = ResLink(config).eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, config.in_channels, size, size))
    counts = counter.get_flop_counts()
    return [
        LayerCost(name, type(module).__name__, parameters(module), sum(counts.get(f"ResLink.{name}", {}).values()))
        for name, module in network.named_modules()
        if not list(module.children()) and parameters(module)
    ]


def receptive_field(layers: Sequence[Window]) -> tuple[int, int]:
    """Returns side and stride of the receptive field of windows one after another.

    Source: Araujo et al. 2019, "Computing Receptive Fields of Convolutional Neural Networks", Distill, equation 2.

    Args:
        layers: The windows from input to output; area attentions are left out of account.

    Returns:
        Side of the receptive field and distance of neighbouring ones, in input pixels.
    """
    size, jump = 1, 1
    for layer in layers:
        if layer.stride > 0:
            size += (layer.kernel - 1) * jump
            jump *= layer.stride
        elif layer.stride < 0:
            jump //= -layer.stride
    return size, jump


def receptive_span(layers: Sequence[Window], position: int) -> tuple[int, int]:
    """Returns the first and last input row that an output row depends on, areas included; may reach into the padding."""
    first = last = position
    for layer in reversed(layers):
        if layer.stride > 0:
            first = first * layer.stride - layer.padding
            last = last * layer.stride - layer.padding + layer.kernel - 1
        elif layer.stride < 0:
            first, last = first // -layer.stride, last // -layer.stride
        else:
            first = first // layer.kernel * layer.kernel
            last = last // layer.kernel * layer.kernel + layer.kernel - 1
    return first, last


def receptive_fields(network: ResLink, size: int = 224) -> list[ReceptiveField]:
    """Returns the receptive field after stem, each stage and the final attention.

    Args:
        network: The network.
        size: Side of the square input, which says where the central unit lies among the areas.
    """
    path: list[Window] = []
    rows = []
    for name, module in _stages(network):
        path += _windows(module)
        side, stride = receptive_field(path)
        first, last = receptive_span(path, size // stride // 2)
        rows.append(ReceptiveField(name, stride, side, last - first + 1))
    return rows


def attention_cost(sides: Sequence[int], channels: int, area_size: int = 7) -> list[AttentionCost]:
    """Compares area attention with dot-product self-attention (Vaswani et al. 2017, arXiv 1706.03762) as the map grows.

    Args:
        sides: Sides of the square maps.
        channels: Channels C of the map, for both.
        area_size: Side of an area.
    """
    hidden = AreaAttention(channels, area_size).gate.reduce.out_channels
    rows = []
    for side in sides:
        pixels = side * side
        padded = (-(-side // area_size) * area_size) ** 2
        area = 2 * padded * hidden * (channels + 1) + channels * pixels
        rows.append(AttentionCost(side, area, 8 * pixels * channels**2 + 4 * pixels**2 * channels))
    return rows


def _stages(network: ResLink) -> Iterator[tuple[str, nn.Module]]:
    yield "stem", network.stem
    yield "first_attention", network.first_attention
    for index, stage in enumerate(network.stages):
        yield f"stages.{index}", stage
    if isinstance(network.context, Context):
        yield "context", network.context
    yield "final_attention", network.final_attention


def _windows(module: nn.Module) -> list[Window]:
    if isinstance(module, Stem):
        return [Window(7, 2, 3), Window(3, 2, 1)]
    if isinstance(module, Downsample):
        return [Window(3, 2, 1)]
    if isinstance(module, ResidualBlock):
        return [Window(3, 1, 1)]
    if isinstance(module, Context):
        return [*_windows(module.stage), Window(1, -2)]
    if isinstance(module, AreaAttention):
        return [Window(module.gate.area_size, 0)]
    return [window for child in module.children() for window in _windows(child)]
