"""Adaptation of a trained network to the images of another hospital: statistics of BatchNorm, and the dense layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reslink.errors import UsageError
from reslink.networks.network import Network

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Folds: TypeAlias = Sequence[tuple[Ints, Ints]]

PSEUDO_COUNT: Final = 64
"""Number of images that the statistics of the parent count for, so that few new images change them little."""

STRENGTHS: Final = (None, 1.0, 0.1, 0.01, 0.001, 0.0001)
"""Strengths of the penalty on the change of the dense layer, from the strongest to the weakest; None leaves it unchanged."""


def adapt_batch_norm(
    network: nn.Module,
    forward: Callable[[NDArray[np.uint8]], object],
    batches: Iterable[NDArray[np.uint8]],
    n_images: int,
    pseudo_count: int = PSEUDO_COUNT,
) -> float:
    """Mixes the statistics of all BatchNorm layers with those of new images; no labels are used.

    Mean and variance become ``(1 - w) · old + w · new`` with ``w = n / (n + N)``, n new images and N the pseudo-count
    (Schneider et al. 2020, "Improving robustness against common corruptions by covariate shift adaptation", arXiv 2006.16971).
    Each batch is normalized with this mix too, so that deeper layers see what they will see later.

    Args:
        network: The network in eval mode; its running statistics are changed.
        forward: Runs the network on a batch.
        batches: The new images, of several patients in each batch.
        n_images: Number of images in all batches.
        pseudo_count: N, in images.

    Returns:
        The weight w of the new images.

    Raises:
        UsageError: If the network has no BatchNorm layer with running statistics.
    """
    layers = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None]
    if not layers:
        raise UsageError(
            "--batch-norm was given, and the network has no BatchNorm layer with running statistics",
            "It replaces the mean and the variance that such layers have learned",
            "Use --head, or leave both options out to fit the decision only",
        )
    weight = n_images / (n_images + pseudo_count)
    mixtures = [_Mixture(layer, weight) for layer in layers]
    try:
        for batch in batches:
            forward(batch)
    finally:
        for mixture in mixtures:
            mixture.handle.remove()
    for mixture in mixtures:
        mixture.store()
    return weight


class _Mixture:
    """Normalizes each batch of a BatchNorm layer with the mixed statistics of parent and batch, and sums up all batches."""

    def __init__(self, layer: _BatchNorm, weight: float) -> None:
        self.layer, self.weight = layer, weight
        self.mean, self.variance = _statistics(layer)
        self.count = 0
        self.total = torch.zeros_like(self.mean)
        self.squares = torch.zeros_like(self.mean)
        self.handle = layer.register_forward_pre_hook(self._observe)

    def _observe(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].detach().double().transpose(0, 1).flatten(1)  # (channels, values)
        total, squares = values.sum(dim=1), values.square().sum(dim=1)
        self.count, self.total, self.squares = self.count + values.shape[1], self.total + total, self.squares + squares
        self._write(total / values.shape[1], squares / values.shape[1])

    def store(self) -> None:
        """Writes the mix of the parent's statistics and those of all batches."""
        if self.count:
            self._write(self.total / self.count, self.squares / self.count)

    def _write(self, mean: Tensor, mean_square: Tensor) -> None:
        running_mean, running_var = self.layer.running_mean, self.layer.running_var
        assert running_mean is not None  # noqa: S101  (layers without running statistics have no mixture)
        assert running_var is not None  # noqa: S101
        running_mean.copy_(torch.lerp(self.mean, mean, self.weight))
        running_var.copy_(torch.lerp(self.variance, (mean_square - mean.square()).clamp_min(0), self.weight))


def _statistics(layer: _BatchNorm) -> tuple[Tensor, Tensor]:
    assert layer.running_mean is not None  # noqa: S101  (as above)
    assert layer.running_var is not None  # noqa: S101
    return layer.running_mean.double().clone(), layer.running_var.double().clone()


@dataclass(frozen=True)
class HeadFit:
    """A dense layer that was fitted to new images.

    Attributes:
        weight: (K, D).
        bias: (K,).
        strength: Strength of the penalty; None if the layer is unchanged, because no fit was better on held-out groups.
        cross_entropy: Cross-entropy on held-out groups of the unchanged layer, and of the chosen one.
    """

    weight: Floats
    bias: Floats
    strength: float | None
    cross_entropy: tuple[float, float]


def dense_layer(network: Network, n_classes: int) -> nn.Linear:
    """Returns the dense layer that can be fitted to new images.

    Raises:
        UsageError: If the network has none, or a single logit.
    """
    dense = network.dense
    if dense is None or dense.out_features != n_classes:
        problem = "no dense layer from its features to its logits" if dense is None else "a single logit for two classes"
        raise UsageError(
            f"--head was given, and the network has {problem}",
            "It fits the last dense layer of a network with one logit per class; an ensemble has several",
            "Use --batch-norm, or leave both options out to fit the decision only",
        )
    return dense


def adapt_head(dense: nn.Linear, features: Floats, y_true: Ints, folds: Folds) -> HeadFit:
    """Fits the dense layer of a network to new images by :func:`fit_head`, and stores the result in it.

    Args:
        dense: The layer, from D features to K logits; it is changed in place.
        features: (n, D) pooled features.
        y_true: (n,) class indices.
        folds: The rows to fit on and the held-out rows of each fold.
    """
    weight = dense.weight.detach().cpu().double().numpy()
    bias = np.zeros(len(weight)) if dense.bias is None else dense.bias.detach().cpu().double().numpy()
    fit = fit_head(features, y_true, weight, bias, folds, fit_bias=dense.bias is not None)
    with torch.no_grad():
        dense.weight.copy_(torch.from_numpy(fit.weight))
        if dense.bias is not None:
            dense.bias.copy_(torch.from_numpy(fit.bias))
    return fit


def fit_head(features: Floats, y_true: Ints, weight: Floats, bias: Floats, folds: Folds, *, fit_bias: bool = True) -> HeadFit:
    """Fits multinomial logistic regression that stays near given weights.

    The penalty is the squared distance to the given weights (L2-SP: Li et al. 2018, "Explicit inductive bias for transfer
    learning with convolutional networks", arXiv 1802.01483). Its strength is the one of ``STRENGTHS`` with the lowest
    cross-entropy on held-out groups; the stronger one if two are equal.

    Args:
        features: (n, D).
        y_true: (n,) class indices.
        weight: (K, D) given weights.
        bias: (K,) given bias.
        folds: The rows to fit on and the held-out rows of each fold; no group is in both.
        fit_bias: Whether the bias is fitted too.
    """
    scale = max(float(np.sqrt((features**2).sum(axis=1).mean())), 1e-12)  # strengths then mean the same for every network
    columns = [features / scale, np.ones((len(features), 1))] if fit_bias else [features / scale]
    inputs, logits = np.hstack(columns), features @ weight.T + bias
    losses = [_held_out_loss(inputs, logits, y_true, folds, strength) for strength in STRENGTHS]
    best = int(np.argmin(losses))  # the first of equal ones is the strongest
    change = _fit_change(inputs, logits, y_true, STRENGTHS[best])
    d = features.shape[1]
    return HeadFit(
        weight + change[:, :d] / scale,
        bias + change[:, d] if fit_bias else bias,
        STRENGTHS[best],
        (losses[0], losses[best]),
    )


def _held_out_loss(inputs: Floats, logits: Floats, y_true: Ints, folds: Folds, strength: float | None) -> float:
    losses = np.concatenate(
        [
            _cross_entropy(logits[held_out] + inputs[held_out] @ change.T, y_true[held_out])
            for fit_rows, held_out in folds
            for change in [_fit_change(inputs[fit_rows], logits[fit_rows], y_true[fit_rows], strength)]
        ]
    )
    return float(losses.mean())


def _cross_entropy(logits: Floats, y_true: Ints) -> Floats:
    return np.asarray(-log_softmax(logits, axis=1)[np.arange(len(y_true)), y_true], np.float64)


def _fit_change(inputs: Floats, logits: Floats, y_true: Ints, strength: float | None) -> Floats:
    """Returns (K, D) the change of the weights with the lowest penalized cross-entropy.

    scikit-learn's LogisticRegression penalizes the size of the weights, and cannot penalize their distance to given ones.
    """
    shape = (logits.shape[1], inputs.shape[1])
    if strength is None:
        return np.zeros(shape)
    one_hot = np.eye(shape[0])[y_true]

    def loss(flat: Floats) -> tuple[float, Floats]:
        change = flat.reshape(shape)
        changed = logits + inputs @ change.T
        gradient = (softmax(changed, axis=1) - one_hot).T @ inputs / len(inputs) + strength * change
        return float(_cross_entropy(changed, y_true).mean() + strength / 2 * (flat @ flat)), gradient.ravel()

    result = minimize(loss, np.zeros(shape[0] * shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 1000})
    return np.asarray(result.x, np.float64).reshape(shape)
