"""Networks are built from their settings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reslink.errors import UsageError
from reslink.networks.build import build_network
from reslink.networks.config import variant_config
from reslink.networks.external_config import ExternalConfig
from reslink.networks.reslink import ResLink


def config(**fields: Any) -> ExternalConfig:
    plain = {"name": "nets.build", "source": "entry_point", "entry_point": "nets.py:build", "in_channels": 1}
    return ExternalConfig(**{**plain, "num_classes": 3, "size": 64, **fields})


class Pooled(nn.Module):
    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, 4), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 3, 2))
        self.out = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.body(x).mean((2, 3)))
        return logits


def test_a_reslink_and_the_network_of_the_notebook_need_no_builder() -> None:
    assert isinstance(build_network(variant_config("reslink_small"), 0), ResLink)
    notebook = config(name="reslink_notebook", source="notebook", entry_point=None)
    assert build_network(notebook, 0)(torch.zeros(2, 1, 64, 64)).shape == (2, 3)


def test_initial_weights_depend_on_the_seed_only() -> None:
    def build(in_channels: int, num_classes: int, **options: Any) -> nn.Module:
        assert in_channels == 1
        return Pooled(num_classes)

    first, again, other = (build_network(config(), seed, build).state_dict() for seed in (1, 1, 2))
    assert torch.equal(first["network.out.weight"], again["network.out.weight"])
    assert not torch.equal(first["network.out.weight"], other["network.out.weight"])


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        (None, r"is built by nets\.py:build, which is not part of reslink.*Pass nets\.py:build with --network"),
        (lambda _: Pooled(), r"cannot be built with \(1, 3, width=5\) .TypeError"),
        (lambda *_, **__: "text", "is a str"),
    ],
)
def test_a_builder_that_does_not_fit(builder: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_network(config(options={"width": 5}), 0, builder)


def test_options_of_a_transformer_that_do_not_fit() -> None:
    pytest.importorskip("monai")
    options = {"hidden_size": 25, "num_heads": 2, "num_layers": 1}
    with pytest.raises(UsageError, match="The options of vit do not fit"):
        build_network(config(name="vit", source="monai", entry_point=None, options=options), 0)
