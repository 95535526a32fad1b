"""Changes of the network and of its start for benchmarks/search.py that no recipe offers, by name.

A trial in benchmarks/trials.yaml selects one with ``variation=NAME``. While a variation is active, every new
``ResLink`` has it, for training and for evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reslink.errors import UsageError, suggest
from reslink.networks.area_attention import AreaAttention, AreaGate, pad_to_areas
from reslink.networks.reslink import ResLink, ResLinkConfig, _init_weights, build_network
from reslink.training import step as training_step
from reslink.training.batch_loader import normalize, to_unit
from reslink.training.data import TrainingData
from reslink.training.optim.build import learning_rate, make_optimizer, set_learning_rate
from reslink.training.recipe.recipe import Recipe
from reslink.training.seeding import numpy_generator, torch_seed

GROUPS = 8
"""Groups of GroupNorm (Wu & He 2018, arXiv 1803.08494)."""

GROWTH = (0.6, 0.8, 1.0)
"""Side of the input in each third of the training with growing images, as a share of the side of the recipe."""

LEAST_SIDE = 64


class ChannelGate(AreaGate):
    """One attention weight per area and channel instead of one per pixel."""

    def __init__(self, channels: int, area_size: int, hidden_channels: int) -> None:
        super().__init__(channels, area_size, hidden_channels)
        self.expand = nn.Conv2d(hidden_channels, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Returns α, (B, C, H, W) in (0, 1)."""
        described = F.relu(self.norm(self.reduce(pad_to_areas(features, self.area_size))))
        return spread(torch.sigmoid(self.expand(described)), self.area_size, features)


class StatisticsGate(AreaGate):
    """One attention weight per area, from mean, maximum and standard deviation of its channels."""

    def __init__(self, channels: int, area_size: int, hidden_channels: int) -> None:
        super().__init__(channels, area_size, hidden_channels)
        self.reduce = nn.Conv2d(3 * channels, hidden_channels, 1, bias=False)
        self.expand = nn.Conv2d(hidden_channels, 1, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Returns α, (B, 1, H, W) in (0, 1)."""
        side = self.area_size
        x = pad_to_areas(features, side).float()  # the variance is a small difference of large numbers, so fp32
        mean = F.avg_pool2d(x, side)
        variance = (F.avg_pool2d(x.square(), side) - mean.square()).clamp_min(1e-6)
        described = F.relu(self.norm(self.reduce(torch.cat([mean, F.max_pool2d(x, side), variance.sqrt()], dim=1))))
        return spread(torch.sigmoid(self.expand(described)), side, features)


class SeveralAreas(AreaGate):
    """The mean of the attention weights for three area sizes: that of the recipe, half and twice that.

    Each additional gate is part of an ``AreaAttention``, so optimizer and initialization treat it like those of the network.
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
    """Expands one weight per area to the pixels of a map."""
    height, width = features.shape[-2:]
    return F.interpolate(gates, scale_factor=side, mode="nearest")[..., :height, :width]


def _gate(kind: type[AreaGate]) -> Callable[[ResLink, int], None]:
    def change(network: ResLink, _steps: int) -> None:
        for module in [m for m in network.modules() if isinstance(m, AreaAttention)]:
            old = module.gate
            module.gate = kind(old.reduce.in_channels, old.area_size, old.reduce.out_channels)
            module.apply(_init_weights)

    return change


def _everywhere(network: ResLink, _steps: int) -> None:
    """Adds area attention after each stage that has a block."""
    for stage, channels in zip(network.stages, network.config.dims, strict=True):
        assert isinstance(stage, nn.Sequential)
        if len(stage):
            stage.append(AreaAttention(channels, network.config.area_size).apply(_init_weights))


def _group_norm(network: ResLink, _steps: int) -> None:
    """Uses GroupNorm except in the gates, which would then depend on the whole map."""
    for parent in [module for module in network.modules() if not isinstance(module, AreaGate)]:
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.GroupNorm(math.gcd(GROUPS, child.num_features), child.num_features))


def _growing(network: ResLink, steps: int) -> None:
    """Uses a smaller input in the first two thirds of the training steps."""
    seen = 0

    def shrink(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        nonlocal seen
        if not module.training:
            return None
        share = GROWTH[min(len(GROWTH) - 1, len(GROWTH) * seen // steps)]
        seen += 1
        side = max(LEAST_SIDE, round(inputs[0].shape[-1] * share / 32) * 32)
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
"""Pretraining without labels: the network predicts the rotation of an image in quarter turns, for as many epochs as the
training (Gidaris et al. 2018, arXiv 1803.07728)."""
NAMES = (*CHANGES, TURNED)


@contextmanager
def apply_variation(name: str | None, recipe: Recipe, data: TrainingData) -> Iterator[None]:
    """Applies a variation to every network that is built inside the block.

    Args:
        name: One of ``NAMES``, or None.
        recipe: Recipe of the training.
        data: Data of the training.

    Raises:
        UsageError: If the name is unknown.
    """
    if name is None:
        yield
        return
    if name not in NAMES:
        raise UsageError(f"There is no variation {name!r}", f"They are {', '.join(NAMES)}", suggest(name, NAMES))
    plain, build_any = ResLink.__init__, training_step.build_network  # type: ignore[attr-defined]
    steps = recipe.trainer.epochs * math.ceil(len(data.indices("train")) / recipe.trainer.batch_size)

    def changed(self: ResLink, config: ResLinkConfig) -> None:
        plain(self, config)
        CHANGES[name](self, steps)

    def pretrained(config: ResLinkConfig, seed: int, _builder: None = None) -> ResLink:
        return pretrain_on_rotations(build_network(config, seed), recipe, data)

    try:
        if name == TURNED:
            training_step.build_network = pretrained  # type: ignore[attr-defined, assignment]
        else:
            ResLink.__init__ = changed  # type: ignore[method-assign]
        yield
    finally:
        ResLink.__init__, training_step.build_network = plain, build_any  # type: ignore[method-assign, attr-defined]


def pretrain_on_rotations(network: ResLink, recipe: Recipe, data: TrainingData) -> ResLink:
    """Pretrains a network on the rotation of the training images and resets its dense layer.

    There is no other augmentation; the precision is bf16.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(torch_seed(recipe.seed, "turned"))
        return _pretrain_on_rotations(network, recipe, data)


def _pretrain_on_rotations(network: ResLink, recipe: Recipe, data: TrainingData) -> ResLink:
    classes, indices, size = network.config.num_classes, data.indices("train"), recipe.trainer.batch_size
    network.reset_classifier(4)
    network.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's annotation lacks it
    epochs, steps_per_epoch = recipe.trainer.epochs, len(indices) // size
    optimizer, total = make_optimizer(network, recipe.optimizer), epochs * steps_per_epoch
    orders = [numpy_generator(recipe.seed, "order", epoch).permutation(indices) for epoch in range(epochs)]
    for step in range(total):
        epoch, position = divmod(step, steps_per_epoch)
        batch = np.sort(orders[epoch][position * size : (position + 1) * size])
        quarters = numpy_generator(recipe.seed, "turn", epoch, position).integers(4, size=len(batch))
        x = normalize(to_unit(data.cache.batch(batch), torch.device("cpu")), recipe.preprocess)
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
