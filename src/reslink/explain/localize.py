"""Localization experiment: how well attention and Grad-CAM maps agree with lesion masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from reslink.explain.attention import attention_maps
from reslink.explain.attribution import grad_cam, has_feature_map
from reslink.explain.evaluation_mode import resize_maps
from reslink.explain.randomization_check import predicted_classes
from reslink.imaging.preprocess import Preprocess
from reslink.labels import Labels
from reslink.metrics.intervals import Estimate, mean_interval
from reslink.metrics.localization import energy_inside, iou, pointing_game

TOLERANCE = 15
"""Pixels by which the peak of a map may miss the lesion, for an image of 224×224 (Zhang et al. 2018, section 4.1)."""
MEASURES = ("pointing_game", "energy_inside", "iou")


class Cache(Protocol):
    """The part of ``datasets.cache.pixel_cache.PixelCache`` that is used here."""

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """(n, planes, S, S) uint8."""

    @property
    def masks(self) -> NDArray[Any] | None:
        """(n, S, S), or None if no case has a mask."""

    @property
    def has_mask(self) -> NDArray[np.bool_]:
        """(n,) bool."""


def localization(
    network: nn.Module,
    cache: Cache,
    indices: Sequence[int] | NDArray[np.integer[Any]],
    labels: Labels,
    *,
    preprocess: Preprocess,
    groups: Sequence[str] | None = None,
    batch_size: int = 32,
    seed: int = 0,
) -> dict[str, Any]:
    """Measures the overlap of attention and Grad-CAM maps with the lesion masks of a data set.

    Args:
        network: The network; it is unchanged afterwards.
        cache: Pixels and masks of the data set, in network coordinates.
        indices: Cases to measure, as positions in the cache; cases without a lesion are left out.
        labels: The classes. Grad-CAM explains the positive class of two, or the predicted class of more.
        preprocess: Normalization of the pixels.
        groups: Patient or duplicate group of each case; default: every case is its own group.
        batch_size: Maximum number of images in memory.
        seed: Seed of the bootstrap.

    Returns:
        ``n`` (cases with a lesion), ``tolerance_px`` and ``methods``: for ``first_attention``, ``final_attention``,
        ``grad_cam`` and ``center`` (a Gaussian in the image center, the baseline of an uninformed map) the means of
        ``pointing_game``, ``energy_inside`` and ``iou`` as estimates with an interval over groups. ``methods`` is empty if no
        case has a lesion.
    """
    cases = np.asarray(indices, dtype=np.int64)
    group_names = np.asarray(groups if groups is not None else [str(i) for i in cases])
    lesions = np.array([_has_lesion(cache, int(i)) for i in cases], dtype=bool)
    values: dict[str, list[tuple[float, ...]]] = {}
    for batch in _batches(cases[lesions], batch_size):
        for name, heats in _maps(network, cache, batch, labels, preprocess).items():
            values.setdefault(name, []).extend(map(measure, heats, _masks(cache, batch)))
    return {
        "n": int(lesions.sum()),
        "tolerance_px": tolerance(int(cache.pixels.shape[-1])),
        "target": labels.positive or "predicted",
        "methods": {name: _estimates(measured, group_names[lesions], seed) for name, measured in values.items()},
    }


def measure(heat: NDArray[np.float32], mask: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Returns the agreement of a map with a mask, in the order of ``MEASURES``.

    Args:
        heat: (S, S) finite values in network coordinates.
        mask: (S, S) bool, not empty.

    Returns:
        Pointing game (0 or 1); energy inside, 0 for a map without positive values; IoU at the area of the mask.
    """
    hit = pointing_game(heat, mask, tolerance=tolerance(heat.shape[0]))
    return float(hit), energy_inside(heat, mask) or 0.0, iou(heat, mask)


def tolerance(size: int) -> int:
    """Returns the tolerance of the pointing game in pixels, for an image side of ``size`` pixels."""
    return max(1, round(TOLERANCE * size / 224))


def center_gaussian(size: int) -> NDArray[np.float32]:
    """Returns a Gaussian in the image center, (size, size), with a standard deviation of a quarter of the side."""
    line = np.linspace(-2, 2, size, dtype=np.float32)
    bell = np.exp(-0.5 * line**2)
    return np.asarray(np.outer(bell, bell), dtype=np.float32)


def _has_lesion(cache: Cache, index: int) -> bool:
    return bool(cache.has_mask[index]) and bool(np.any(_masks(cache, np.array([index]))))


def _masks(cache: Cache, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Returns the lesion masks of some cases, (B, S, S); all false if the data set has no masks."""
    if cache.masks is None:
        return np.zeros((len(indices), *cache.pixels.shape[-2:]), dtype=bool)
    return np.stack([np.asarray(cache.masks[i]) > 0 for i in indices])


def _batches(indices: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(indices), size):
        yield indices[start : start + size]


def _maps(
    network: nn.Module, cache: Cache, batch: NDArray[np.int64], labels: Labels, preprocess: Preprocess
) -> dict[str, NDArray[np.float32]]:
    x = torch.from_numpy(preprocess.normalize(np.stack([np.asarray(cache.pixels[i]) for i in batch])))
    size = (int(x.shape[-2]), int(x.shape[-1]))
    maps = {name: resize_maps(weights, size) for name, weights in attention_maps(network, x).items()}
    target = 1 if labels.binary else predicted_classes(network, x)
    if has_feature_map(network):
        maps["grad_cam"] = grad_cam(network, x, target)
    maps["center"] = np.repeat(center_gaussian(size[0])[None], len(x), axis=0)
    return maps


def _estimates(values: list[tuple[float, ...]], groups: NDArray[np.str_], seed: int) -> dict[str, dict[str, Any]]:
    columns = np.asarray(values, dtype=np.float64).T
    results: dict[str, Estimate] = {
        name: mean_interval(column, groups, seed=seed) for name, column in zip(MEASURES, columns, strict=True)
    }
    return {name: estimate.as_dict() for name, estimate in results.items()}
