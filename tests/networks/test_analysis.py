"""Costs and receptive fields against worked examples and against the network itself."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from reslink.networks.analysis import (
    Window,
    _named_stages,
    _windows_of,
    attention_cost,
    count_parameters,
    flops_by_layer,
    receptive_field,
    receptive_fields,
    receptive_span,
)
from reslink.networks.area_attention import AreaAttention
from reslink.networks.reslink import VARIANTS, ResLink, build_network, variant_config


def test_receptive_field_of_the_worked_example() -> None:
    # 7×7 stride 2: 7. Then 3×3 stride 2: 7 + 2·2 = 11. Then 3×3 stride 2: 11 + 2·4 = 19, eight input pixels apart.
    assert receptive_field([Window(7, 2, 3)]) == (7, 2)
    assert receptive_field([Window(7, 2, 3), Window(3, 2, 1)]) == (11, 4)
    assert receptive_field([Window(7, 2, 3), Window(3, 2, 1), Window(3, 2, 1)]) == (19, 8)


def test_an_area_extends_the_receptive_field_to_whole_areas() -> None:
    assert receptive_span([Window(7, 0)], 10) == (7, 13)
    assert receptive_span([Window(7, 0), Window(3, 1, 1)], 13) == (7, 20)


@pytest.mark.parametrize(("variant", "faint"), [("reslink_small", 1e-10), ("reslink_context", 1e-14)])
@pytest.mark.parametrize("attention", ["none", "both"])
def test_receptive_field_equals_the_true_dependency(attention: str, variant: str, faint: float) -> None:
    size = 512
    network = build_network(variant_config(variant, attention=attention, depths=(0, 1, 1)), 0).eval().double()
    for parameter in network.parameters():  # positive weights and a faint line: no ReLU, maximum or full gate hides it
        parameter.data.abs_()
    field = receptive_fields(network, size)[-1]

    center = size // field.stride // 2
    side = field.size_with_attention if attention == "both" else field.size
    path = [w for _, module in _named_stages(network) for w in _windows_of(module) if w.stride or attention == "both"]
    first, last = receptive_span(path, center)
    assert last - first + 1 == side

    def depends_on(row: int) -> bool:
        image = torch.full((1, 3, size, 96), faint, dtype=torch.float64)
        before = network.forward_features(image)[0, :, center]
        image[:, :, row] *= 1e3
        return not torch.equal(network.forward_features(image)[0, :, center], before)

    assert depends_on(first)
    assert depends_on(last)
    assert not depends_on(first - 1)
    assert not depends_on(last + 1)


def test_flops_of_one_convolution_and_of_the_whole() -> None:
    config = VARIANTS["reslink_paper"]
    layers = {layer.name: layer for layer in flops_by_layer(config)}
    assert layers["stem.conv"].flops == 2 * 112 * 112 * 32 * 3 * 7 * 7
    assert layers["stem.conv"].parameters == 32 * 3 * 7 * 7
    assert layers["head.1"].flops == 2 * 192 * 2
    network = ResLink(config)
    assert sum(layer.parameters for layer in layers.values()) == count_parameters(network)
    with FlopCounterMode(display=False) as counter:
        network.eval()(torch.zeros(1, 3, 224, 224))
    assert sum(layer.flops for layer in layers.values()) == counter.get_total_flops()


@pytest.mark.parametrize("side", [14, 20, 56])
def test_attention_cost_equals_the_counted_operations(side: int) -> None:
    channels = 32
    (cost,) = attention_cost([side], channels)
    features = torch.zeros(1, channels, side, side)
    with FlopCounterMode(display=False) as counter:
        AreaAttention(channels).eval()(features)
    assert cost.area == counter.get_total_flops() + channels * side * side  # and the multiplication by the gates
    tokens = features.flatten(2).transpose(1, 2)
    projection = nn.Linear(channels, channels, bias=False)
    with FlopCounterMode(display=False) as counter:
        q, k, v = (projection(tokens) for _ in range(3))
        projection(F.softmax(q @ k.transpose(1, 2), -1) @ v)
    assert cost.self_attention == counter.get_total_flops()


def test_area_attention_grows_with_the_pixels_and_self_attention_with_their_square() -> None:
    small, large = attention_cost([56, 112], 64)
    assert large.area == 4 * small.area
    assert large.self_attention > 15 * small.self_attention
