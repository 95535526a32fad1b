"""The model-randomisation check: does a map show what the network learned, or only what the image looks like?"""

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

from reslink.errors import UsageError, nearest
from reslink.explain.attention import attention_maps
from reslink.explain.cam import grad_cam, integrated_gradients
from reslink.explain.display import LAYERS, flat
from reslink.explain.eval_mode import enlarge, own_copy, visiting

Maps = NDArray[np.float32]
MapFunction = Callable[[nn.Module, Tensor], Maps]

LIMIT = 0.5
"""Highest rank correlation with the fully randomised network at which a map still counts as changed."""


@dataclass(frozen=True)
class RandomisationCheck:
    """The result of one check.

    Attributes:
        method: Name of the map.
        rows: Layer randomised last, and the mean rank correlation with the trained network's maps, from the head down
            to the stem.
        n: Images whose map of the trained network is not flat.
        passed: Whether the maps of the fully randomised network differ clearly: correlation at most ``LIMIT``.
        verdict: The result as a sentence.
    """

    method: str
    rows: tuple[tuple[str, float], ...]
    n: int
    passed: bool
    verdict: str

    def as_dict(self) -> dict[str, Any]:
        """Returns the result in a form that JSON can hold."""
        rows = [{"randomised_down_to": name, "rank_correlation": value} for name, value in self.rows]
        return {"method": self.method, "n": self.n, "passed": self.passed, "verdict": self.verdict, "rows": rows}

    def table(self) -> str:
        """Returns the result as lines of text."""
        width = max([len(name) for name, _ in self.rows] + [20])
        lines = [f"{'randomised down to':<{width}}  rank correlation"]
        lines += [f"{name:<{width}}  {value:+.3f}" for name, value in self.rows]
        return "\n".join([*lines, f"{self.method}: {self.verdict}"])


def randomisation_check(
    network: nn.Module, x: Tensor, method: str | MapFunction = "grad_cam", *, seed: int = 0
) -> RandomisationCheck:
    """Randomises a copy of the network layer by layer and compares maps (Adebayo et al. 2018, section 3.1: cascading).

    Ranks are compared where the image is not at its lowest value, so that an empty background, which every map
    shares, does not count.

    Args:
        network: Any module; it is not changed.
        x: (B, C, H, W) float, normalised as in training; a dozen images are enough.
        method: ``grad_cam`` or ``integrated_gradients`` of the class that the trained network predicts, ``first`` or
            ``final`` for attention, or a function from network and batch to maps (B, h, w).
        seed: Seed of the random weights.

    Returns:
        The correlations by layer and a verdict.

    Raises:
        UsageError: If the method is unknown, or the network does not have that attention layer.
    """
    name, maps_of = _resolve(method, network, x)
    before = maps_of(network, x)
    kept = [i for i, heat in enumerate(before) if not flat(heat)]
    if not kept:
        return RandomisationCheck(name, (), 0, False, "failed: the maps of the trained network are flat, they point nowhere")
    inside = _content(x)
    rows = [
        (layer, float(np.mean([_rank_correlation(before[i], after[i], inside[i]) for i in kept])))
        for layer, after in _cascade(network, x, maps_of, seed)
    ]
    return _judged(name, tuple(rows), len(kept))


def _judged(name: str, rows: tuple[tuple[str, float], ...], n: int) -> RandomisationCheck:
    last = rows[-1][1] if rows else 1.0
    passed = abs(last) <= LIMIT
    verdict = (
        f"passed: rank correlation {last:.2f} with a random network; the maps depend on the weights"
        if passed
        else f"failed: rank correlation {last:.2f} with a random network; the maps show the image, not the weights"
    )
    return RandomisationCheck(name, rows, n, passed, verdict)


def _cascade(network: nn.Module, x: Tensor, maps_of: MapFunction, seed: int) -> Iterator[tuple[str, Maps]]:
    """Yields the layer randomised last and the maps, from the head to the stem."""
    changed = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(seed)
    for name, unit in reversed(list(_units(changed))):
        for parameter in unit.parameters():
            _redraw(parameter, generator)
        yield name, maps_of(changed, x)


def _units(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yields the blocks of a network that have weights, in order; a plain sequence is opened, a subclass is one block."""
    for name, child in module.named_children():
        if type(child) in (nn.Sequential, nn.ModuleList):
            yield from _units(child, f"{prefix}{name}.")
        elif next(child.parameters(), None) is not None:
            yield prefix + name, child


def _redraw(parameter: Tensor, generator: torch.Generator) -> None:
    """Draws new values of the same scale: weights around 0, biases and norm factors around their mean."""
    values = parameter.detach()
    noise = torch.randn(values.shape, generator=generator, dtype=torch.float32).to(values)
    if values.ndim > 1:
        parameter.data = noise * values.square().mean().sqrt()
    else:
        parameter.data = values.mean() + noise * values.std(correction=0)


def _content(x: Tensor) -> NDArray[np.bool_]:
    """Where an image is above its lowest value, (B, H, W)."""
    plane = x.detach().cpu().amax(dim=1)
    return np.asarray((plane > plane.amin(dim=(1, 2), keepdim=True)).numpy())


def _rank_correlation(before: Maps, after: Maps, inside: NDArray[np.bool_]) -> float:
    """Spearman's ρ over the content of the image at the resolution of the map; 0 where the new map is flat."""
    where = enlarge(inside[None].astype(np.float32), (before.shape[0], before.shape[1]))[0] > 0.5
    if where.sum() < 16:
        where = np.ones_like(where)
    old, new = before[where], after[where]
    if flat(old) or flat(new):
        return 0.0
    return float(stats.spearmanr(old, new).statistic)


def _resolve(method: str | MapFunction, network: nn.Module, x: Tensor) -> tuple[str, MapFunction]:
    if not isinstance(method, str):
        return getattr(method, "__name__", "map"), method
    if method in LAYERS:
        _needs_attention(network, method)
        return method, lambda net, batch: attention_maps(net, batch)[method]
    if method not in ("grad_cam", "integrated_gradients"):
        known = ("grad_cam", "integrated_gradients", *LAYERS)
        raise UsageError(f"There is no map {method!r}", f"The maps are {', '.join(known)}", nearest(method, known))
    target = predicted_classes(network, x)
    explain = grad_cam if method == "grad_cam" else integrated_gradients
    return method, lambda net, batch: explain(net, batch, target)


def _needs_attention(network: nn.Module, layer: str) -> None:
    found = getattr(network, layer, None)
    if not isinstance(found, nn.Module) or next(found.parameters(), None) is None:
        raise UsageError(
            f"The network has no layer {layer}",
            "An attention map needs a layer of area attention",
            "Choose grad_cam, or train with --set model.attention=both",
        )


def predicted_classes(network: nn.Module, x: Tensor) -> NDArray[np.int64]:
    """Returns the class with the highest logit of each image, (B,); 1 or 0 by the sign of a single logit."""
    with visiting(network), torch.no_grad():
        logits = network(own_copy(x, network))
    classes = logits[:, 0] > 0 if logits.shape[1] == 1 else logits.argmax(dim=1)
    return np.asarray(classes.cpu().numpy(), dtype=np.int64)
