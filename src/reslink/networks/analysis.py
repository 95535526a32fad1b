"""Analysis of ResLink networks: parameters, FLOPs per layer, receptive fields and attention cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from reslink.networks.area_attention import AreaAttention
from reslink.networks.blocks import Context, Downsample, ResidualBlock, Stem
from reslink.networks.reslink import ResLink, ResLinkConfig


@dataclass(frozen=True)
class LayerCost:
    """Cost of one layer for one image.

    Attributes:
        name: Name of the module in the network.
        kind: Class name of the module.
        parameters: Number of trainable parameters.
        flops: Floating-point operations of one forward pass; a multiply-add counts as two.
    """

    name: str
    kind: str
    parameters: int
    flops: int


@dataclass(frozen=True)
class ReceptiveField:
    """Receptive field of one output unit of a stage, in input pixels.

    Attributes:
        stage: Name of the stage.
        stride: Distance of neighboring units.
        size: Side of the receptive field of convolutions and pooling.
        size_with_attention: Side for the central unit, including the attention areas that it depends on.
    """

    stage: str
    stride: int
    size: int
    size_with_attention: int


@dataclass(frozen=True)
class AttentionCost:
    """FLOPs of two kinds of attention on a square feature map.

    Attributes:
        side: Side of the feature map in pixels.
        area: FLOPs of area attention; grows with side².
        self_attention: FLOPs of single-head dot-product self-attention with its four projections; grows with side⁴.
    """

    side: int
    area: int
    self_attention: int


@dataclass(frozen=True)
class Window:
    """The window of a layer, for receptive fields: a convolution or pooling, an area attention, or an upsampling.

    Attributes:
        kernel: Side of the window.
        stride: Stride of the window; 0 for an area attention, −2 for nearest-neighbor upsampling by 2.
        padding: Padding at each side.
    """

    kernel: int
    stride: int
    padding: int = 0


def count_parameters(network: nn.Module) -> int:
    """Returns the number of trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def flops_by_layer(config: ResLinkConfig, size: int = 224) -> list[LayerCost]:
    """Counts the FLOPs of convolutions and matrix products per layer, on the meta device without computation.

    Args:
        config: The architecture.
        size: Side of the square input.

    Returns:
        One entry per layer with parameters, in the order of the forward pass.
    """
    with torch.device("meta"), torch.inference_mode():
        return layer_costs(ResLink(config).eval(), torch.empty(1, config.in_channels, size, size))


def layer_costs(network: nn.Module, x: Tensor) -> list[LayerCost]:
    """Counts the FLOPs of convolutions and matrix products per layer of any network in evaluation mode.

    Args:
        network: The network.
        x: One image, on the device of the network.
    """
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(x)
    counts, kind = counter.get_flop_counts(), type(network).__name__
    return [
        LayerCost(name, type(module).__name__, count_parameters(module), sum(counts.get(f"{kind}.{name}", {}).values()))
        for name, module in network.named_modules()
        if not list(module.children()) and count_parameters(module)
    ]


def receptive_field(layers: Sequence[Window]) -> tuple[int, int]:
    """Returns side and stride of the receptive field of a sequence of windows.

    Source: Araujo et al. 2019, "Computing Receptive Fields of Convolutional Neural Networks", Distill, equation 2.

    Args:
        layers: The windows from input to output; area attentions are ignored.

    Returns:
        Side of the receptive field and its stride, in input pixels.
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
    """Returns the first and last input row that an output row depends on, including areas; they may be in the padding."""
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
    """Returns the receptive field after the stem, the attentions, each stage and the context.

    Args:
        network: The network.
        size: Side of the square input, which determines the position of the central unit within its area.
    """
    path: list[Window] = []
    rows = []
    for name, module in _named_stages(network):
        path += _windows_of(module)
        side, stride = receptive_field(path)
        first, last = receptive_span(path, size // stride // 2)
        rows.append(ReceptiveField(name, stride, side, last - first + 1))
    return rows


def attention_cost(sides: Sequence[int], channels: int, area_size: int = 7) -> list[AttentionCost]:
    """Compares area attention with dot-product self-attention (Vaswani et al. 2017, arXiv 1706.03762) by map size.

    Args:
        sides: Sides of the square feature maps in pixels.
        channels: Channels C of the feature maps.
        area_size: Side of an attention area in pixels.
    """
    hidden = AreaAttention(channels, area_size).gate.reduce.out_channels
    rows = []
    for side in sides:
        pixels = side * side
        padded = (-(-side // area_size) * area_size) ** 2
        area = 2 * padded * hidden * (channels + 1) + channels * pixels
        rows.append(AttentionCost(side, area, 8 * pixels * channels**2 + 4 * pixels**2 * channels))
    return rows


def _named_stages(network: ResLink) -> Iterator[tuple[str, nn.Module]]:
    yield "stem", network.stem
    yield "first_attention", network.first_attention
    for index, stage in enumerate(network.stages):
        yield f"stages.{index}", stage
    if isinstance(network.context, Context):
        yield "context", network.context
    yield "final_attention", network.final_attention


def _windows_of(module: nn.Module) -> list[Window]:
    if isinstance(module, Stem):
        return [Window(7, 2, 3), Window(3, 2, 1)]
    if isinstance(module, Downsample):
        return [Window(3, 2, 1)]
    if isinstance(module, ResidualBlock):
        return [Window(3, 1, 1)]
    if isinstance(module, Context):
        return [*_windows_of(module.stage), Window(1, -2)]
    if isinstance(module, AreaAttention):
        return [Window(module.gate.area_size, 0)]
    return [window for child in module.children() for window in _windows_of(child)]
