"""From positions in the cache to the input of a step: copied, augmented, mixed and normalised, on the device."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from torch import Tensor

from reslink.datasets.augment import Augment
from reslink.training.data import Materials
from reslink.training.losses import Criterion, mixup, target_mask
from reslink.training.recipe.recipe import Recipe
from reslink.training.sampling import Indices, Shard, normalise, to_unit
from reslink.training.seeding import numbers, torch_numbers
from reslink.training.step import Batch


class Feeder:
    """Makes batches.

    Args:
        recipe: The recipe.
        materials: The images.
        criterion: Makes targets of labels.
        device: Where batches go.
        process: Which of the processes this is; each has its own random numbers.

    Attributes:
        waited: Seconds that copying the latest batch out of the cache took.
    """

    def __init__(self, recipe: Recipe, materials: Materials, criterion: Criterion, device: torch.device, process: int) -> None:
        self.recipe, self.materials, self.criterion = recipe, materials, criterion
        self.device, self.process = device, process
        self.augment = Augment(recipe.augment)
        self.waited = 0.0

    def training(self, shard: Shard, epoch: int, step: int) -> Batch:
        """Returns the input of a training step.

        Args:
            shard: This process's images.
            epoch: From 1.
            step: From 0, within the epoch.
        """
        place = (epoch, step, self.process)
        x = self._pixels(shard.indices)
        masks = self._masks(shard.indices)
        x, masks = self.augment(x, torch_numbers(self.recipe.seed, "augment", *place), masks)
        labels = torch.from_numpy(self.materials.targets[shard.indices]).to(self.device)
        targets = self.criterion.targets(labels)
        mixed = [x, targets] if masks is None else [x, targets, self._supervised(masks)]
        x, targets, *rest = mixup(self.recipe.loss.mixup, numbers(self.recipe.seed, "mixup", *place), *mixed)
        return Batch(normalise(x, self.recipe.preprocess), targets, rest[0] if rest else None, shard.share)

    def plain(self, indices: Indices) -> Tensor:
        """Returns images as prediction sees them, (B, C, S, S)."""
        return normalise(self._pixels(indices), self.recipe.preprocess)

    def heads(self, indices: Indices) -> Tensor:
        """Returns head masks, (B, 1, 56, 56) in 0 to 1."""
        return self.materials.cache.batch_heads(indices).to(self.device).float()

    def _pixels(self, indices: Indices) -> Tensor:
        start = time.perf_counter()
        x = to_unit(self.materials.cache.batch(indices), self.device)
        self.waited = time.perf_counter() - start
        return x

    def _masks(self, indices: Indices) -> Tensor | None:
        """Head and, where there is one, lesion as channels (B, 1 or 2, S, S); None without supervision."""
        if not self.recipe.attention_supervision.weight:
            return None
        heads = F.interpolate(self.heads(indices), size=self.recipe.preprocess.size, mode="nearest")
        lesions = self.materials.cache.batch_masks(indices)
        return heads if lesions is None else torch.cat([heads, lesions.to(self.device).float()], dim=1)

    def _supervised(self, masks: Tensor) -> Tensor:
        lesions = masks[:, 1:] if masks.shape[1] == 2 else None
        return target_mask(masks[:, :1], lesions, self.recipe.attention_supervision)
