"""Attribution maps: Grad-CAM, integrated gradients and occlusion, for any network with class scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from captum.attr import IntegratedGradients, LayerGradCam, Occlusion
from numpy.typing import NDArray
from torch import Tensor, nn

from reslink.errors import UsageError
from reslink.explain.evaluation_mode import evaluation_mode, gradient_input, resize_maps, to_numpy
from reslink.networks.network import Network

Target = int | Sequence[int] | NDArray[np.int64]
Scores = Callable[[Tensor, Tensor], Tensor]


def grad_cam(network: nn.Module, x: Tensor, target: Target, layer: nn.Module | None = None) -> NDArray[np.float32]:
    """Returns Grad-CAM maps (Selvaraju et al. 2017, equations 1 and 2), resized to the input.

    Args:
        network: Any module that returns (B, K) logits, or (B, 1) for a single sigmoid logit. It is unchanged afterwards.
        x: (B, C, H, W) float, normalized as in training.
        target: Class index for all images, or one per image. With a single logit, 1 explains the logit and 0 its negative.
        layer: Layer whose output is weighted; default: ``default_layers(network)``, all layers of an ensemble together.

    Returns:
        (B, H, W) float32, at least 0, never NaN; high = evidence for the target class.

    Raises:
        UsageError: If the network has no convolution, or the class does not exist.
    """
    layers = default_layers(network) if layer is None else (layer,)
    with evaluation_mode(network):
        inputs, targets = gradient_input(x, network), _targets(x, target, network)
        parts = [LayerGradCam(_scores(network), one).attribute(inputs, additional_forward_args=targets) for one in layers]
        maps = torch.stack(parts).sum(dim=0).relu()  # as if the feature maps of all layers were the channels of one
    return resize_maps(to_numpy(maps[:, 0]), (x.shape[-2], x.shape[-1]))


def integrated_gradients(
    network: nn.Module,
    x: Tensor,
    target: Target,
    *,
    baseline: float | None = None,
    steps: int = 24,
    internal_batch: int = 16,
) -> NDArray[np.float32]:
    """Returns integrated gradients (Sundararajan et al. 2017, equation 1), summed over the channels.

    Args:
        network: As for ``grad_cam``.
        x: (B, C, H, W) float, normalized as in training.
        target: As for ``grad_cam``.
        baseline: Value of the empty image; default: the lowest value of each image (its background).
        steps: Points of the Gauss–Legendre rule along the path.
        internal_batch: Maximum number of images in memory.

    Returns:
        (B, H, W) float32, signed, never NaN: the contribution of each pixel to the score. The sum over a map is close to the
        score of the image minus the score of the empty image (completeness).
    """
    with evaluation_mode(network):
        inputs = gradient_input(x, network)
        maps = IntegratedGradients(_scores(network)).attribute(
            inputs,
            baselines=_baseline_images(inputs, baseline),
            additional_forward_args=_targets(x, target, network),
            n_steps=steps,
            internal_batch_size=max(internal_batch, len(x)),
        )
    return to_numpy(maps.sum(dim=1))


def occlusion(
    network: nn.Module,
    x: Tensor,
    target: Target,
    *,
    window: int = 32,
    stride: int = 16,
    baseline: float | None = None,
    internal_batch: int = 32,
) -> NDArray[np.float32]:
    """Returns occlusion maps (Zeiler and Fergus 2014, section 4.2): the drop of the score when a square is emptied.

    Args:
        network: As for ``grad_cam``.
        x: (B, C, H, W) float, normalized as in training.
        target: As for ``grad_cam``.
        window: Side of the square in pixels; limited to the image.
        stride: Pixels between squares, at most ``window``, so that every pixel is covered.
        baseline: Value of the empty square; default: the lowest value of each image.
        internal_batch: Maximum number of images in memory.

    Returns:
        (B, H, W) float32, signed, never NaN: the mean drop of the score over the squares that cover a pixel; high = the
        score depends on it.

    Raises:
        UsageError: If the stride is larger than the window.
    """
    if not 1 <= stride <= window:
        raise UsageError(
            f"The occlusion stride {stride} does not fit the window {window}",
            "The stride is at least 1 and at most the window",
            "Choose a smaller stride or a larger window",
        )
    height, width = min(window, x.shape[-2]), min(window, x.shape[-1])
    with evaluation_mode(network), torch.no_grad():
        inputs = gradient_input(x, network).detach()
        maps = Occlusion(_scores(network)).attribute(
            inputs,
            sliding_window_shapes=(x.shape[1], height, width),
            strides=(x.shape[1], min(stride, height), min(stride, width)),
            baselines=_baseline_images(inputs, baseline),
            additional_forward_args=_targets(x, target, network),
            perturbations_per_eval=max(1, internal_batch // len(x)),
        )
    return to_numpy(maps.mean(dim=1))


def has_feature_map(network: nn.Module) -> bool:
    """Returns whether Grad-CAM can explain a network: not a transformer, whose tokens are not a feature map."""
    return not isinstance(network, Network) or bool(network.explanation_layers)


def default_layers(network: nn.Module) -> Sequence[nn.Module]:
    """Returns the default layers for Grad-CAM: the explanation layers of a reslink network, else the last convolution.

    Raises:
        UsageError: If the network has neither.
    """
    if isinstance(network, Network):
        layers: Sequence[nn.Module] = network.explanation_layers
    else:
        layers = [module for module in network.modules() if isinstance(module, nn.Conv2d)][-1:]
    if not layers:
        raise UsageError(
            f"{type(network).__name__} has no convolution for Grad-CAM",
            "Grad-CAM needs a layer whose output is a (B, C, h, w) feature map",
            "Name a layer: grad_cam(network, x, target, layer=network.some_layer)",
        )
    return layers


def _targets(x: Tensor, target: Target, network: nn.Module) -> Tensor:
    parameter = next(network.parameters(), None)
    device = x.device if parameter is None else parameter.device
    return torch.as_tensor(target, device=device).reshape(-1).expand(len(x))


def _scores(network: nn.Module) -> Scores:
    def scores(x: Tensor, targets: Tensor) -> Tensor:
        logits: Tensor = network(x)
        single = logits.shape[1] == 1
        _check_targets(targets, 2 if single else logits.shape[1])
        if single:
            return logits[:, 0] * (2 * targets - 1)
        return logits.gather(1, targets[:, None])[:, 0]

    return scores


def _check_targets(targets: Tensor, classes: int) -> None:
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= classes:
        raise UsageError(
            f"Class {high if high >= classes else low} does not exist",
            f"This network has the classes 0 to {classes - 1}",
            "Choose one of these classes as the target",
        )


def _baseline_images(x: Tensor, baseline: float | None) -> Tensor:
    lowest = x.detach().amin(dim=(1, 2, 3), keepdim=True)
    return (lowest if baseline is None else torch.full_like(lowest, baseline)).expand_as(x).clone()
