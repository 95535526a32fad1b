"""The network of the public notebook, compared with the description of its layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from reslink.networks.area_attention import AreaAttention, record_attention_weights
from reslink.networks.build import build_network
from reslink.networks.external_config import ExternalConfig
from reslink.networks.notebook import NotebookAttention, NotebookResLink

CONFIG = ExternalConfig(name="reslink_notebook", source="notebook", in_channels=3, num_classes=2, size=224)


def test_attention_is_computed_area_by_area() -> None:
    attention = NotebookAttention(6).eval()
    gate = attention.gate
    nn.init.normal_(gate.norm.running_mean)
    features = torch.randn(2, 6, 13, 13)  # areas of 3×3, the last row and column are padded
    with torch.no_grad():
        weights = gate(features)
        hidden = F.pad(gate.norm(F.relu(gate.reduce(features))), (0, 2, 0, 2))
        for row in range(5):
            for column in range(5):
                area = hidden[:, :, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
                expected = torch.sigmoid(F.conv2d(area, gate.expand.weight, gate.expand.bias, padding=1))
                actual = weights[:, :, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
                torch.testing.assert_close(actual, expected[:, :, : actual.shape[2], : actual.shape[3]])
        torch.testing.assert_close(attention(features), features * weights)


def test_a_map_of_less_than_four_rows_has_areas_of_one_pixel() -> None:
    with torch.no_grad():
        assert NotebookAttention(6).eval()(torch.randn(1, 6, 3, 3)).shape == (1, 6, 3, 3)


def test_places_and_widths_are_those_of_the_notebook() -> None:
    network = build_network(CONFIG, 0).eval()
    assert isinstance(network, NotebookResLink)
    with torch.no_grad(), record_attention_weights(network) as weights:
        logits, features, maps = network.forward_with_features(torch.randn(2, 3, 224, 224))
    assert maps is not None
    assert (logits.shape, features.shape, maps.shape) == ((2, 2), (2, 128), (2, 128, 14, 14))
    assert {name: tuple(value.shape[2:]) for name, value in weights.items()} == {
        "first_attention": (56, 56),
        "stages.0.attention": (56, 56),
        "stages.1.2.attention": (28, 28),
        "stages.2.2.attention": (14, 14),
        "final_attention": (14, 14),
    }
    dropouts = [module.p for module in network.modules() if isinstance(module, nn.Dropout) and module.p > 0]
    assert dropouts == [0.3, 0.3]
    gates = [module.gate for module in network.modules() if isinstance(module, AreaAttention)]
    assert {(gate.reduce.kernel_size, gate.reduce.out_channels) for gate in gates} == {((1, 1), 32)}
    assert {(gate.expand.kernel_size, gate.expand.out_channels) for gate in gates} == {((3, 3), 1)}
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.momentum, norm.eps) for norm in norms} == {(0.01, 1e-3)}
    groups = network.parameter_groups(0.1)
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))
