"""Loads batches from the pixel cache: copy to the device, augmentation, mixup and normalization."""

from __future__ import annotations

import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reslink.datasets.augment import Augment
from reslink.imaging.preprocess import Preprocess
from reslink.networks.network import Network
from reslink.networks.series_pooling import pool, slice_outputs
from reslink.training.data import TrainingData
from reslink.training.losses import Criterion, mixup, target_mask
from reslink.training.recipe.recipe import Recipe
from reslink.training.sampling import Indices, Shard, draw_slices
from reslink.training.seeding import numpy_generator, torch_generator
from reslink.training.step import Batch

_CHUNK = 32
"""Slices of a series that the network sees at a time in validation."""


class BatchLoader:
    """Loads batches for training and evaluation.

    Args:
        recipe: The recipe.
        training_data: The images.
        criterion: Converts labels to targets.
        device: Device of the batches.
        process: Index of this process; each process has its own random numbers.

    Attributes:
        wait_seconds: Time to copy the latest batch out of the cache.
    """

    def __init__(
        self, recipe: Recipe, training_data: TrainingData, criterion: Criterion, device: torch.device, process: int
    ) -> None:
        self.recipe, self.training_data, self.criterion = recipe, training_data, criterion
        self.device, self.process = device, process
        self.augment = Augment(recipe.augment)
        self.is_series = recipe.trainer.case == "series"
        self.wait_seconds = 0.0

    def training_batch(self, shard: Shard, epoch: int, step: int) -> Batch:
        """Returns the input of a training step.

        Args:
            shard: The images of this process.
            epoch: From 1.
            step: From 0, within the epoch.
        """
        position = (epoch, step, self.process)
        if self.is_series:
            return self._series_batch(shard, position)
        x = self._pixels(shard.indices)
        masks = self._masks(shard.indices)
        x, masks = self.augment(x, torch_generator(self.recipe.seed, "augment", *position), masks)
        targets = self._targets(shard.indices)
        inputs = [x, targets] if masks is None else [x, targets, self._attention_target(masks)]
        x, targets, *mask = mixup(self.recipe.loss.mixup, numpy_generator(self.recipe.seed, "mixup", *position), *inputs)
        return Batch(normalize(x, self.recipe.preprocess), targets, mask[0] if mask else None, shard.share)

    def _series_batch(self, shard: Shard, position: tuple[int, int, int]) -> Batch:
        cache, rng = self.training_data.cache, numpy_generator(self.recipe.seed, "slices", *position)
        rows = [cache.rows(case) for case in shard.indices.tolist()]
        drawn = [own[draw_slices(len(own), self.recipe.trainer.slices, rng)] for own in rows]
        x = self._pixels(np.concatenate(drawn))
        x, _ = self.augment(x, torch_generator(self.recipe.seed, "augment", *position), None)
        labels = torch.from_numpy(self.training_data.targets[shard.indices]).to(self.device)
        sizes = tuple(map(len, drawn))
        return Batch(normalize(x, self.recipe.preprocess), self.criterion.targets(labels), None, shard.share, sizes)

    def eval_logits(self, network: Network, indices: Indices) -> Tensor:
        """Returns the logits (B, K) of cases, as in prediction; all slices of a series count, some at a time.

        Args:
            network: In eval mode, without gradients.
            indices: Indices of the cases.
        """
        if not self.is_series:
            logits: Tensor = network(self.eval_batch(indices))
            return logits
        return torch.cat([self._series_logits(network, self.training_data.cache.rows(case)) for case in indices.tolist()])

    def _series_logits(self, network: Network, rows: Indices) -> Tensor:
        parts = [slice_outputs(network, self._eval_rows(part)) for part in np.array_split(rows, -(-len(rows) // _CHUNK))]
        logits, scores = (torch.cat(outputs) for outputs in zip(*parts, strict=True))
        return pool(logits, scores, [len(rows)])

    def eval_batch(self, indices: Indices) -> Tensor:
        """Returns images without augmentation, as in prediction, (B, C, S, S); of a series its middle slice."""
        return self._eval_rows(self.training_data.cache.middle_rows(indices))

    def _eval_rows(self, rows: Indices) -> Tensor:
        return normalize(self._pixels(rows), self.recipe.preprocess)

    def head_masks(self, indices: Indices) -> Tensor:
        """Returns head masks, (B, 1, 56, 56) in 0 to 1; of a series that of its middle slice."""
        return self._head_masks(self.training_data.cache.middle_rows(indices))

    def _head_masks(self, rows: Indices) -> Tensor:
        return self.training_data.cache.batch_heads(rows).to(self.device).float()

    def _targets(self, indices: Indices) -> Tensor:
        """Returns the distributions over the classes to learn, (B, K)."""
        soft = self.training_data.soft_targets
        if soft is not None:
            return torch.from_numpy(soft[indices]).to(self.device)
        return self.criterion.targets(torch.from_numpy(self.training_data.targets[indices]).to(self.device))

    def _pixels(self, indices: Indices) -> Tensor:
        start = time.perf_counter()
        x = to_unit(self.training_data.cache.batch(indices), self.device)
        self.wait_seconds = time.perf_counter() - start
        return x

    def _masks(self, indices: Indices) -> Tensor | None:
        """Returns head and, if present, lesion masks as channels (B, 1 or 2, S, S); None without supervision."""
        if not self.recipe.attention_supervision.weight:
            return None
        heads = F.interpolate(self._head_masks(indices), size=self.recipe.preprocess.size, mode="nearest")
        lesions = self.training_data.cache.batch_masks(indices)
        return heads if lesions is None else torch.cat([heads, lesions.to(self.device).float()], dim=1)

    def _attention_target(self, masks: Tensor) -> Tensor:
        lesions = masks[:, 1:] if masks.shape[1] == 2 else None
        return target_mask(masks[:, :1], lesions, self.recipe.attention_supervision)


def normalize(pixels: Tensor, preprocess: Preprocess) -> Tensor:
    """Normalizes on the device, as ``Preprocess.normalize`` does in NumPy.

    Args:
        pixels: (B, planes, S, S) in 0 to 1.
        preprocess: The settings.

    Returns:
        (B, channels, S, S).
    """
    values = (pixels - preprocess.mean) / preprocess.std
    return values if values.shape[1] == preprocess.channels else values.expand(-1, preprocess.channels, -1, -1)


def to_unit(pixels: Tensor, device: torch.device) -> Tensor:
    """Returns uint8 pixels as float32 in 0 to 1 on the device."""
    return pixels.to(device, non_blocking=True).float().div_(255)
