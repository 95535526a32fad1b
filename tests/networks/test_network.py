"""What all networks have in common."""

from __future__ import annotations

import torch
from torch import nn

from reslink.networks.network import weight_groups


def test_parameter_groups() -> None:
    """The weights of grouped convolutions are no matrix, and those of the outer layers are not hidden."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.grouped = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=4)
            self.hidden, self.norm = nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8)
            self.dense, self.out = nn.Linear(8, 8), nn.Linear(8, 2)
            self.position = nn.Parameter(torch.zeros(1, 3, 8))

    network = Net()
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = weight_groups(network, {id(network.first.weight), id(network.out.weight)}, 0.1)
    assert [[names[id(p)] for p in group["params"]] for group in groups[:2]] == [
        ["hidden.weight", "dense.weight"],
        ["first.weight", "grouped.weight", "out.weight"],
    ]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.1, 0.0]
    assert sorted(names[id(p)] for group in groups for p in group["params"]) == sorted(names.values())
