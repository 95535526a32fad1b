"""Training losses: cross-entropy on K logits or a single one, with smoothing, class weights, focal weight and mixup.

Targets are distributions over the classes, (B, K) rows that sum to 1, so smoothing and mixup need no extra formula. For several
labels at once they are the state of each label, 0 to 1, and NaN where it is unknown: mixup of an unknown label is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from reslink.labels import UNKNOWN
from reslink.training.recipe.schema import AttentionSupervisionSettings, LossSettings

_EPSILON = 1e-6


class Criterion:
    """The loss of each image of a batch.

    Args:
        settings: The section ``loss`` of the recipe.
        labels: Class index of every training image, for the class weights.
        num_classes: Number of classes K.
    """

    def __init__(self, settings: LossSettings, labels: Sequence[int] | NDArray[np.int64], num_classes: int) -> None:
        self.settings = settings
        self.num_classes = num_classes
        weights = class_weights(labels, num_classes) if settings.imbalance == "weights" else [1.0] * num_classes
        self.weights = torch.tensor(weights, dtype=torch.float32)

    def targets(self, labels: Tensor) -> Tensor:
        """Returns one-hot rows (B, K) for class indices (B,)."""
        return F.one_hot(labels, self.num_classes).float()

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Returns the loss of each image, (B,).

        Args:
            logits: (B, K), or (B, 1) for a single logit of the last of two classes.
            targets: (B, K) distributions, before smoothing.
        """
        logits = logits.float()
        smoothing = self.settings.label_smoothing
        soft = targets * (1 - smoothing) + smoothing / self.num_classes
        losses = cross_entropy(logits, soft)
        if self.settings.imbalance == "focal":
            losses = losses * focal_weight(logits, targets, self.settings.focal_gamma)
        return losses * (targets @ self.weights.to(targets.device))

    def correct(self, logits: Tensor, targets: Tensor) -> float:
        """Returns the number of images whose most probable class is correct (after mixup, the class with more weight)."""
        predicted = (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(dim=1)
        return float((predicted == targets.argmax(dim=1)).sum())


class SeveralLabels(Criterion):
    """The loss of several labels at once: the mean over the labels of their binary cross-entropy, without unknown ones.

    Args:
        settings: The section ``loss`` of the recipe.
        labels: (n, K) state of each label of every training image, -1 where unknown.
        num_classes: Number of labels K.
    """

    def __init__(self, settings: LossSettings, labels: NDArray[np.int64], num_classes: int) -> None:
        self.settings, self.num_classes = settings, num_classes
        weights = [[1.0, 1.0]] * num_classes
        if settings.imbalance == "weights":
            weights = [class_weights(column[column != UNKNOWN], 2) for column in np.asarray(labels).T]
        self.weights = torch.tensor(weights, dtype=torch.float32)

    def targets(self, labels: Tensor) -> Tensor:
        """Returns the states (B, K) of labels: 0, 1, or NaN where unknown."""
        return labels.float().masked_fill(labels == UNKNOWN, torch.nan)

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Returns the loss of each image, (B,); an unknown label adds nothing."""
        logits, known = logits.float(), ~targets.isnan()
        states, smoothing = targets.nan_to_num(), self.settings.label_smoothing
        losses = F.binary_cross_entropy_with_logits(logits, states * (1 - smoothing) + smoothing / 2, reduction="none")
        if self.settings.imbalance == "focal":
            probability = logits.sigmoid()
            miss = 1 - (states * probability + (1 - states) * (1 - probability))
            losses = losses * miss.clamp(min=1e-8) ** self.settings.focal_gamma
        absent, present = self.weights.to(targets.device).unbind(dim=1)
        return (losses * (states * present + (1 - states) * absent) * known).sum(dim=1) / self.num_classes

    def correct(self, logits: Tensor, targets: Tensor) -> float:
        """Returns the sum over the images of the share of their known labels whose state is correct."""
        known = ~targets.isnan()
        right = ((logits > 0) == (targets > 0.5)) & known
        return float((right.sum(dim=1) / known.sum(dim=1).clamp(min=1)).sum())


def make_criterion(settings: LossSettings, labels: NDArray[np.int64], num_classes: int) -> Criterion:
    """Returns the loss for class indices (n,), or for the states (n, K) of several labels at once."""
    return (Criterion if labels.ndim == 1 else SeveralLabels)(settings, labels, num_classes)


def two_logits(logits: Tensor) -> Tensor:
    """Returns (B, 2) logits with the same probabilities for a single logit (B, 1); more logits are returned unchanged."""
    return torch.cat([torch.zeros_like(logits), logits], dim=1) if logits.shape[1] == 1 else logits


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Returns the cross-entropy (B,) of distributions (B, K) and logits (B, K), or (B, 1) with K = 2."""
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits[:, 0], targets[:, 1], reduction="none")
    return F.cross_entropy(logits, targets, reduction="none")


def focal_weight(logits: Tensor, targets: Tensor, gamma: float) -> Tensor:
    """Returns (1 − p)^γ of each image, p the probability of its class (Lin et al. 2017, arXiv 1708.02002, eq. 4)."""
    probability = (two_logits(logits).softmax(dim=1) * targets).sum(dim=1)
    return (1 - probability).clamp(min=1e-8) ** gamma


def class_weights(labels: Sequence[int] | NDArray[np.int64], num_classes: int) -> list[float]:
    """Returns n / (K · n_class) with K the number of classes that have images; the mean over the images is 1.

    Args:
        labels: Class index of every training image.
        num_classes: K.
    """
    present = np.unique(np.asarray(labels))
    weights = np.ones(num_classes)
    weights[present] = compute_class_weight("balanced", classes=present, y=np.asarray(labels))
    return [float(weight) for weight in weights]


def mixup(alpha: float, rng: np.random.Generator, *batches: Tensor) -> tuple[Tensor, ...]:
    """Mixes each image, target and mask with those of another image of the batch (Zhang et al. 2018, arXiv 1710.09412).

    Args:
        alpha: Parameter of Beta(alpha, alpha); 0 returns the batch unchanged.
        rng: Draws the mixing share and the partners.
        *batches: Tensors with the same first dimension B.

    Returns:
        λ·b + (1 − λ)·b[partners] for each, one λ for the batch.
    """
    if alpha == 0:
        return batches
    share = float(rng.beta(alpha, alpha))
    partners = torch.from_numpy(rng.permutation(len(batches[0])))
    return tuple(share * batch + (1 - share) * batch[partners.to(batch.device)] for batch in batches)


def attention_share_inside(attention: Tensor, mask: Tensor) -> Tensor:
    """Returns the share (B,) of an attention map's mass that is inside a mask.

    Args:
        attention: (B, C, h, w) attention weights in (0, 1).
        mask: (B, 1, H, W) in 0 to 1, 1 inside; resized to (h, w) by mean pooling.
    """
    height, width = attention.shape[-2:]
    inside = F.adaptive_avg_pool2d(mask.float(), (height, width))
    return (attention * inside).sum(dim=(1, 2, 3)) / (attention.sum(dim=(1, 2, 3)) + _EPSILON)


def attention_loss(attention: Mapping[str, Tensor], mask: Tensor, settings: AttentionSupervisionSettings) -> Tensor:
    """Returns −log of the share of attention inside the mask, (B,), mean over the supervised layers.

    It is 0 if all attention is inside, and log(area / area of the mask) if the attention is uniform. An image with an empty
    mask adds nothing.

    Args:
        attention: Attention weights (B, C, h, w) by layer name, from ``record_attention_weights``.
        mask: (B, 1, H, W), target of the attention.
        settings: The section ``attention_supervision`` of the recipe.
    """
    chosen = [value for name, value in attention.items() if settings.layers == "both" or name.startswith(settings.layers)]
    if not chosen:
        return torch.zeros(len(mask), device=mask.device)
    has_mask = (mask.sum(dim=(1, 2, 3)) > 0).float()
    terms = [-(attention_share_inside(value.float(), mask) + _EPSILON).log() for value in chosen]
    return torch.stack(terms).mean(dim=0) * has_mask


def target_mask(heads: Tensor, lesions: Tensor | None, settings: AttentionSupervisionSettings) -> Tensor:
    """Returns the target of the attention: the lesion if one is marked and requested, otherwise the head.

    Args:
        heads: (B, 1, H, W) in 0 to 1.
        lesions: The same for lesions, or None.
        settings: The section ``attention_supervision`` of the recipe.
    """
    if settings.target == "head" or lesions is None:
        return heads
    marked = lesions.amax(dim=(1, 2, 3), keepdim=True) > 0.5
    return torch.where(marked, lesions, heads)
