"""Builds the optimizer; computes the learning rate of a step and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from reslink.networks.network import Network
from reslink.training.optim.muon import Muon
from reslink.training.recipe.schema import OptimizerSettings

_ONECYCLE_START = 25.0
_ONECYCLE_END = 1e4


def make_optimizer(
    network: Network, settings: OptimizerSettings, lr_factors: Mapping[str, float] | None = None
) -> torch.optim.Optimizer:
    """Returns the optimizer of a recipe; norms and biases have no weight decay, and frozen weights no update.

    Args:
        network: The network, already on its device.
        settings: The section ``optimizer`` of the recipe.
        lr_factors: Factor of the learning rate by name of the weight; 1 for the others.
    """
    groups = _split_groups(network, network.parameter_groups(settings.weight_decay), lr_factors or {})
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.momentum > 0)
    fused = next(network.parameters()).device.type in ("cpu", "cuda")
    if settings.name == "muon":
        return Muon(groups, settings.lr, fused=fused)
    kind = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=settings.lr, fused=fused)


def learning_rate(step: int, total: int, settings: OptimizerSettings) -> float:
    """Returns the learning rate of a step, which depends on nothing but the step.

    Args:
        step: From 0.
        total: Number of steps of the whole run.
        settings: The section ``optimizer`` of the recipe.
    """
    peak, warmup = settings.lr, settings.warmup * total
    if settings.schedule == "onecycle":
        if step < warmup:
            return _cosine(peak / _ONECYCLE_START, peak, step / warmup)
        return _cosine(peak, peak / _ONECYCLE_START / _ONECYCLE_END, _fraction(step - warmup, total - 1 - warmup))
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    return peak if settings.schedule == "constant" else _cosine(peak, 0.0, _fraction(step - warmup, total - warmup))


def _fraction(part: float, total: float) -> float:
    return min(1.0, max(0.0, part / total)) if total > 0 else 1.0


def _cosine(start: float, end: float, fraction: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * fraction)) / 2


def _split_groups(network: nn.Module, groups: list[dict[str, Any]], lr_factors: Mapping[str, float]) -> list[dict[str, Any]]:
    """Splits parameter groups by the factor of the learning rate, and leaves out frozen weights."""
    factor_of = {id(parameter): lr_factors.get(name, 1.0) for name, parameter in network.named_parameters()}
    split = []
    for group in groups:
        for factor in dict.fromkeys(factor_of.values()):
            chosen = [p for p in group["params"] if p.requires_grad and factor_of[id(p)] == factor]
            split += [{**group, "params": chosen, "lr_factor": factor}] if chosen else []
    return split


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of every group, by the factor of the group."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0)  # an optimizer of another program has no factors


def moving_average(network: nn.Module, decay: float) -> AveragedModel:
    """Returns the exponential moving average of a network's weights and BatchNorm statistics.

    The decay of update n is min(decay, (1 + n) / (10 + n)), so the initial weights are forgotten in the first updates.

    Args:
        network: The network, which is copied.
        decay: Share of the average that each update keeps, in (0, 1).
    """

    def update(averaged: Any, current: Any, count: Tensor | int) -> None:
        n = int(count)
        current_decay = min(decay, (1 + n) / (10 + n))
        for mean, value in zip(averaged, current, strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - current_decay)
            else:
                mean.copy_(value)

    return AveragedModel(network, multi_avg_fn=update, use_buffers=True)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Returns the optimizer's state as tensors by ``parameter number.name``."""
    return {
        f"{number}.{name}": value
        for number, parameter in enumerate(_parameters(optimizer))
        for name, value in optimizer.state[parameter].items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restores the result of ``optimizer_tensors`` in the memory layout of an uninterrupted run.

    The same sum over another layout can differ in the last bit.
    """
    parameters = _parameters(optimizer)
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        parameter = parameters[int(number)]
        device = parameter.device if optimizer.defaults.get("fused") else value.device
        same_shape = value.shape == parameter.shape and value.ndim > 0
        target = torch.empty_like(parameter) if same_shape else torch.empty_like(value, device=device)
        optimizer.state[parameter][name] = target.copy_(value)


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
