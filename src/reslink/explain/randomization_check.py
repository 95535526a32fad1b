"""Model-randomization check: do maps depend on the learned weights, or only on the image?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from reslink.errors import UsageError, check_choice
from reslink.explain.attention import attention_maps
from reslink.explain.attribution import grad_cam, integrated_gradients
from reslink.explain.display import ATTENTION_LAYERS, is_flat
from reslink.explain.evaluation_mode import evaluation_mode, gradient_input, resize_maps
from reslink.networks.adapter import AdaptedNetwork
from reslink.networks.area_attention import attention_layers

Maps = NDArray[np.float32]
MapFunction = Callable[[nn.Module, Tensor], Maps]

LIMIT = 0.5
"""Largest rank correlation with the fully randomized network at which a map counts as changed."""


@dataclass(frozen=True)
class RandomizationCheck:
    """The result of one check.

    Attributes:
        method: Name of the map.
        rows: Layer randomized last, and the mean rank correlation with the maps of the trained network, from the head down to
            the stem.
        n: Number of images whose map from the trained network is not constant.
        passed: Whether the correlation with the fully randomized network is at most ``LIMIT``.
        verdict: The result as a sentence.
    """

    method: str
    rows: tuple[tuple[str, float], ...]
    n: int
    passed: bool
    verdict: str

    def as_dict(self) -> dict[str, Any]:
        """Returns the JSON form."""
        rows = [{"randomized_down_to": name, "rank_correlation": value} for name, value in self.rows]
        return {"method": self.method, "n": self.n, "passed": self.passed, "verdict": self.verdict, "rows": rows}

    def table(self) -> str:
        """Returns the result as a text table."""
        width = max([len(name) for name, _ in self.rows] + [20])
        lines = [f"{'randomized down to':<{width}}  rank correlation"]
        lines += [f"{name:<{width}}  {value:+.3f}" for name, value in self.rows]
        return "\n".join([*lines, f"{self.method}: {self.verdict}"])


def randomization_check(
    network: nn.Module, x: Tensor, method: str | MapFunction = "grad_cam", *, seed: int = 0
) -> RandomizationCheck:
    """Randomizes a copy of the network layer by layer and compares maps (Adebayo et al. 2018, section 3.1: cascading).

    Ranks are compared where the image is above its lowest value, so that the empty background, which all maps share, does not
    count.

    Args:
        network: Any module; it is not changed.
        x: (B, C, H, W) float, normalized as in training; a dozen images are enough.
        method: ``grad_cam`` or ``integrated_gradients`` of the predicted class, ``first_attention`` or
            ``final_attention``, or a function from network and batch to maps (B, h, w).
        seed: Random seed of the weights.

    Returns:
        The correlation per layer and the result.

    Raises:
        UsageError: If the method is unknown, or the network does not have that attention layer.
    """
    name, maps_of = _resolve(method, network, x)
    before = maps_of(network, x)
    varying = [i for i, heat in enumerate(before) if not is_flat(heat)]
    if not varying:
        return RandomizationCheck(name, (), 0, False, "failed: the maps of the trained network are constant")
    foreground = _foreground(x)
    rows = [
        (layer, float(np.mean([_rank_correlation(before[i], after[i], foreground[i]) for i in varying])))
        for layer, after in _cascade(network, x, maps_of, seed)
    ]
    return _result(name, tuple(rows), len(varying))


def _result(name: str, rows: tuple[tuple[str, float], ...], n: int) -> RandomizationCheck:
    last = rows[-1][1] if rows else 1.0
    passed = abs(last) <= LIMIT
    meaning = "the maps depend on the weights" if passed else "the maps show the image, not the weights"
    correlation = f"rank correlation {last:.2f} with a random network (limit {LIMIT:g})"
    verdict = f"{'passed' if passed else 'failed'}: {correlation}; {meaning}"
    return RandomizationCheck(name, rows, n, passed, verdict)


def _cascade(network: nn.Module, x: Tensor, maps_of: MapFunction, seed: int) -> Iterator[tuple[str, Maps]]:
    """Yields the layer randomized last and the maps, from the head to the stem."""
    randomized = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(seed)
    for name, block in reversed(list(_blocks(randomized))):
        for parameter in block.parameters():
            _redraw(parameter, generator)
        yield name, maps_of(randomized, x)


def _blocks(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yields the blocks with weights of a network, in order; plain ``Sequential``, ``ModuleList`` and adapters are expanded."""
    for name, child in module.named_children():
        if type(child) in (nn.Sequential, nn.ModuleList) or isinstance(module, AdaptedNetwork):
            yield from _blocks(child, f"{prefix}{name}.")
        elif next(child.parameters(), None) is not None:
            yield prefix + name, child


def _redraw(parameter: Tensor, generator: torch.Generator) -> None:
    """Draws random values of the same scale: weights around 0, biases and normalization factors around their mean."""
    values = parameter.detach()
    noise = torch.randn(values.shape, generator=generator, dtype=torch.float32).to(values)
    if values.ndim > 1:
        parameter.data = noise * values.square().mean().sqrt()
    else:
        parameter.data = values.mean() + noise * values.std(correction=0)


def _foreground(x: Tensor) -> NDArray[np.bool_]:
    """Returns where an image is above its lowest value, (B, H, W)."""
    plane = x.detach().cpu().amax(dim=1)
    return np.asarray((plane > plane.amin(dim=(1, 2), keepdim=True)).numpy())


def _rank_correlation(before: Maps, after: Maps, foreground: NDArray[np.bool_]) -> float:
    """Returns Spearman's ρ over the foreground at the resolution of the map; 0 if a map is constant."""
    where = resize_maps(foreground[None].astype(np.float32), (before.shape[0], before.shape[1]))[0] > 0.5
    if where.sum() < 16:
        where = np.ones_like(where)
    old, new = before[where], after[where]
    if is_flat(old) or is_flat(new):
        return 0.0
    return float(stats.spearmanr(old, new).statistic)


def _resolve(method: str | MapFunction, network: nn.Module, x: Tensor) -> tuple[str, MapFunction]:
    if not isinstance(method, str):
        return getattr(method, "__name__", "map"), method
    if method in ATTENTION_LAYERS:
        _needs_attention(network, method)
        return method, lambda net, batch: attention_maps(net, batch)[method]
    check_choice("map", method, ("grad_cam", "integrated_gradients", *ATTENTION_LAYERS))
    target = predicted_classes(network, x)
    explain = grad_cam if method == "grad_cam" else integrated_gradients
    return method, lambda net, batch: explain(net, batch, target)


def _needs_attention(network: nn.Module, layer: str) -> None:
    if layer not in attention_layers(network):
        raise UsageError(
            f"The network has no layer {layer}",
            "An attention map needs an area-attention layer",
            "Use grad_cam, or train with --set model.attention=both",
        )


def predicted_classes(network: nn.Module, x: Tensor) -> NDArray[np.int64]:
    """Returns the predicted class of each image, (B,); for a single logit, 1 if it is positive."""
    with evaluation_mode(network), torch.no_grad():
        logits = network(gradient_input(x, network))
    classes = logits[:, 0] > 0 if logits.shape[1] == 1 else logits.argmax(dim=1)
    return np.asarray(classes.cpu().numpy(), dtype=np.int64)
