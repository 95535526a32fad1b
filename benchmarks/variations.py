"""Changes of the network and of its start that benchmarks/search.py tries and no recipe offers, by name.

A trial in benchmarks/trials.yaml asks for one by ``variation=NAME`` among its changes. Every ``ResLink`` that is built while a
variation holds has it, the one that is trained and the one that is judged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reslink.errors import UsageError, nearest
from reslink.networks.area_attention import AreaAttention, AreaGate, whole_areas
from reslink.networks.reslink import ResLink, ResLinkConfig, _initialise, build
from reslink.training import step as learner
from reslink.training.data import Materials
from reslink.training.optim.build import learning_rate, make_optimizer, set_learning_rate
from reslink.training.recipe.recipe import Recipe
from reslink.training.sampling import normalise, to_unit
from reslink.training.seeding import numbers, torch_seed

GROUPS = 8
"""Groups of GroupNorm (Wu & He 2018, arXiv 1803.08494)."""

GROWTH = (0.6, 0.8, 1.0)
"""Sides of the input in the three thirds of a training with growing images, as parts of the recipe's."""

LEAST_SIDE = 64


class ChannelGate(AreaGate):
    """One gate for each area and channel, instead of one for each pixel."""

    def __init__(self, channels: int, area_size: int, hidden_channels: int) -> None:
        super().__init__(channels, area_size, hidden_channels)
        self.expand = nn.Conv2d(hidden_channels, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Returns α, (B, C, H, W) in (0, 1)."""
        described = F.relu(self.norm(self.reduce(whole_areas(features, self.area_size))))
        return spread(torch.sigmoid(self.expand(described)), self.area_size, features)


class StatisticsGate(AreaGate):
    """One gate for each area, from mean, maximum and standard deviation of its channels."""

    def __init__(self, channels: int, area_size: int, hidden_channels: int) -> None:
        super().__init__(channels, area_size, hidden_channels)
        self.reduce = nn.Conv2d(3 * channels, hidden_channels, 1, bias=False)
        self.expand = nn.Conv2d(hidden_channels, 1, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Returns α, (B, 1, H, W) in (0, 1)."""
        side = self.area_size
        x = whole_areas(features, side).float()  # the variance is a small difference of large numbers
        mean = F.avg_pool2d(x, side)
        variance = (F.avg_pool2d(x.square(), side) - mean.square()).clamp_min(1e-6)
        described = F.relu(self.norm(self.reduce(torch.cat([mean, F.max_pool2d(x, side), variance.sqrt()], dim=1))))
        return spread(torch.sigmoid(self.expand(described)), side, features)


class SeveralAreas(AreaGate):
    """The mean of the gates of areas of three sides: the recipe's, a half and twice that.

    The others stand in an ``AreaAttention`` each, so that the optimizer and the first weights treat them as the network's own.
    """

    def __init__(self, channels: int, area_size: int, hidden_channels: int) -> None:
        super().__init__(channels, area_size, hidden_channels)
        sides = (max(1, area_size // 2), 2 * area_size)
        self.others = nn.ModuleList(AreaAttention(channels, side, hidden_channels) for side in sides)

    def forward(self, features: Tensor) -> Tensor:
        """Returns α, (B, 1, H, W) in (0, 1)."""
        gates = [super().forward(features)]
        for other in self.others:
            assert isinstance(other, AreaAttention)
            gates.append(other.gate(features))
        return torch.stack(gates).mean(dim=0)


def spread(gates: Tensor, side: int, features: Tensor) -> Tensor:
    """Lays one gate an area out over the pixels of a map."""
    height, width = features.shape[-2:]
    return F.interpolate(gates, scale_factor=side, mode="nearest")[..., :height, :width]


def _gate(kind: type[AreaGate]) -> Callable[[ResLink, int], None]:
    def change(network: ResLink, _steps: int) -> None:
        for module in [found for found in network.modules() if isinstance(found, AreaAttention)]:
            old = module.gate
            module.gate = kind(old.reduce.in_channels, old.area_size, old.reduce.out_channels)
            module.apply(_initialise)

    return change


def _everywhere(network: ResLink, _steps: int) -> None:
    """Area attention behind each stage that has a block, too."""
    for stage, channels in zip(network.stages, network.config.dims, strict=True):
        assert isinstance(stage, nn.Sequential)
        if len(stage):
            stage.append(AreaAttention(channels, network.config.area_size).apply(_initialise))


def _group_norm(network: ResLink, _steps: int) -> None:
    """GroupNorm everywhere but in the gates, which would then see the whole map."""
    for parent in [module for module in network.modules() if not isinstance(module, AreaGate)]:
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.GroupNorm(math.gcd(GROUPS, child.num_features), child.num_features))


def _growing(network: ResLink, steps: int) -> None:
    """Smaller input in the first two thirds of the training steps."""
    seen = 0

    def shrink(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        nonlocal seen
        if not module.training:
            return None
        part = GROWTH[min(len(GROWTH) - 1, len(GROWTH) * seen // steps)]
        seen += 1
        side = max(LEAST_SIDE, round(inputs[0].shape[-1] * part / 32) * 32)
        return (F.interpolate(inputs[0], size=side, mode="bilinear", antialias=True),)

    network.register_forward_pre_hook(shrink)


CHANGES: dict[str, Callable[[ResLink, int], None]] = {
    "channel_gates": _gate(ChannelGate),
    "statistics_gates": _gate(StatisticsGate),
    "several_areas": _gate(SeveralAreas),
    "attention_everywhere": _everywhere,
    "group_norm": _group_norm,
    "growing": _growing,
}
TURNED = "turned_first"
"""A start from the same images without their labels: first the network tells by how many quarters an image was turned
(Gidaris et al. 2018, arXiv 1803.07728), for as many epochs as it is then trained."""
NAMES = (*CHANGES, TURNED)


@contextmanager
def varied(name: str | None, recipe: Recipe, found: Materials) -> Iterator[None]:
    """Every network that is built inside the block has a variation.

    Args:
        name: One of ``NAMES``; None for no variation.
        recipe: The recipe that will be trained.
        found: What it will be trained on.

    Raises:
        UsageError: If there is no such variation.
    """
    if name is None:
        yield
        return
    if name not in NAMES:
        raise UsageError(f"There is no variation {name!r}", f"They are {', '.join(NAMES)}", nearest(name, NAMES))
    plain, build_plain = ResLink.__init__, build
    steps = recipe.trainer.epochs * math.ceil(len(found.indices("train")) / recipe.trainer.batch_size)

    def changed(self: ResLink, config: ResLinkConfig) -> None:
        plain(self, config)
        CHANGES[name](self, steps)

    def taught(config: ResLinkConfig, seed: int) -> ResLink:
        return turned(build_plain(config, seed), recipe, found)

    try:
        if name == TURNED:
            learner.build = taught  # type: ignore[attr-defined]
        else:
            ResLink.__init__ = changed  # type: ignore[method-assign]
        yield
    finally:
        ResLink.__init__, learner.build = plain, build_plain  # type: ignore[method-assign, attr-defined]


def turned(network: ResLink, recipe: Recipe, found: Materials) -> ResLink:
    """Teaches a network by how many quarters each training image was turned, and gives it a new dense layer afterwards.

    Images are not varied otherwise; sums are in bfloat16.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(torch_seed(recipe.seed, "turned"))
        return _turned(network, recipe, found)


def _turned(network: ResLink, recipe: Recipe, found: Materials) -> ResLink:
    classes, indices, size = network.config.num_classes, found.indices("train"), recipe.trainer.batch_size
    network.reset_classifier(4)
    network.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's annotation lacks it
    epochs, places = recipe.trainer.epochs, len(indices) // size
    optimizer, total = make_optimizer(network, recipe.optimizer), epochs * places
    orders = [numbers(recipe.seed, "order", epoch).permutation(indices) for epoch in range(epochs)]
    for step in range(total):
        epoch, place = divmod(step, places)
        batch = np.sort(orders[epoch][place * size : (place + 1) * size])
        quarters = numbers(recipe.seed, "turn", epoch, place).integers(4, size=len(batch))
        x = normalise(to_unit(found.cache.batch(batch), torch.device("cpu")), recipe.preprocess)
        x = torch.stack([torch.rot90(image, int(turn), (1, 2)) for image, turn in zip(x, quarters, strict=True)])
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(x.contiguous(memory_format=torch.channels_last))
        F.cross_entropy(logits.float(), torch.from_numpy(quarters)).backward()  # type: ignore[no-untyped-call]  # torch has not annotated it
        torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.optimizer.clip_norm or math.inf)
        set_learning_rate(optimizer, learning_rate(step, total, recipe.optimizer))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    network.reset_classifier(classes)
    return network
