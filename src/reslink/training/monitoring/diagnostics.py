"""Training diagnostics: rules that detect a failing training run and advise what to do.

Every rule is a function from measurements to a finding or None, so each can be tested with a planted fault. The thresholds
are our choice, stated beside each rule, and are set so that healthy runs have no findings.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reslink.errors import InputError, counted
from reslink.imaging.image import Stated
from reslink.metrics.classification import never_predicted
from reslink.metrics.delong import CorrelatedAUROCs, delong, delong_macro
from reslink.metrics.intervals import MIN_GROUPS
from reslink.training.monitoring.layer_statistics import AttentionStatistics, BatchNormStatistics
from reslink.training.run_folder import LOSS_NOT_FINITE

ATTENTION_SATURATED, ATTENTION_DEAD, MIN_ATTENTION_STD = 0.95, 0.05, 0.05
OUTSIDE_RATIO, MIN_OUTSIDE_AREA = 1.5, 0.05
MAX_GAP = 0.10
MIN_BATCH = 8
MAX_DRIFTED_CHANNELS = 0.25
MIN_STEPS = 50
DIVERGENCE_RATIO, FIRST_LOSSES, RECENT_LOSSES = 2.0, 3, 10
FILES_LEFT_OUT, NOT_SLICES = "files-left-out", "not-slices-of-a-head"
SEEN_BY_ANCESTORS = "seen-by-ancestors"
NO_BETTER_THAN_CHANCE, CLASS_NEVER_PREDICTED = "no-better-than-chance", "class-never-predicted"
FINDINGS_AFTER_TRAINING = (NO_BETTER_THAN_CHANCE, CLASS_NEVER_PREDICTED)
"""Findings on the exported model. Who starts a training prints them: an experiment counts the runs that have them."""

LABEL_CONFLICTS = "label-conflicts"
FINDINGS_WITH_FILE_NAMES = (FILES_LEFT_OUT, LABEL_CONFLICTS, LOSS_NOT_FINITE)
_SHOWN_NAMES = 5
_Z_95 = 1.96


@dataclass(frozen=True)
class Finding:
    """A problem that the diagnostics found.

    Attributes:
        code: Fixed name of the problem, such as ``attention-saturated-first_attention``.
        message: The observation, with numbers.
        advice: What to do.
        epoch: When it was first seen.
    """

    code: str
    message: str
    advice: str
    epoch: int

    def as_row(self) -> dict[str, Any]:
        """Returns the finding as a line of ``metrics.jsonl``."""
        return {"kind": "finding", **asdict(self)}

    def as_text(self) -> str:
        """Returns the finding as a line for people."""
        return f"{self.code}: {self.message}. {self.advice}."


def attention_uniform(statistics: AttentionStatistics, epoch: int) -> Finding | None:
    """Reports attention weights that are near 1, or near 0, everywhere."""
    if statistics.std >= MIN_ATTENTION_STD:
        return None
    spread = f"mean {statistics.mean:.3f} and standard deviation {statistics.std:.3f}"
    observed = f"The attention weights of {statistics.layer} have {spread}"
    if statistics.mean > ATTENTION_SATURATED:
        return Finding(
            f"attention-saturated-{statistics.layer}",
            f"{observed}: they are near 1 everywhere, so the layer selects no region",
            "Compare with model.attention=none; if the metrics are the same, remove this attention layer, or supervise it "
            "with attention_supervision.weight=0.1",
            epoch,
        )
    if statistics.mean < ATTENTION_DEAD:
        return Finding(
            f"attention-dead-{statistics.layer}",
            f"{observed}: they are near 0 everywhere, so little of the image reaches the next layer",
            "Lower optimizer.lr or optimizer.weight_decay, or lengthen optimizer.warmup",
            epoch,
        )
    return None


def attention_outside(statistics: AttentionStatistics, epoch: int) -> Finding | None:
    """Reports attention that prefers the outside of the head: skull rim, table, background."""
    if statistics.outside is None or statistics.inside is None or statistics.area_outside < MIN_OUTSIDE_AREA:
        return None
    if statistics.outside <= OUTSIDE_RATIO * statistics.inside:
        return None
    return Finding(
        f"attention-outside-{statistics.layer}",
        f"The attention weights of {statistics.layer} have mean {statistics.outside:.2f} outside the head"
        f" and {statistics.inside:.2f} inside",
        "Keep preprocess.isolate_head=true, and set attention_supervision.weight=0.1 with target head",
        epoch,
    )


def train_validation_gap(rows: Sequence[dict[str, Any]], images: int, epoch: int) -> Finding | None:
    """Reports a gap between training and validation accuracy in two epochs in a row.

    The gap must exceed 0.10 and two standard errors of the validation accuracy.

    Args:
        rows: One per epoch, with ``train_accuracy`` and ``val_accuracy``.
        images: Number of validation images.
        epoch: The current epoch.
    """
    if len(rows) < 2:
        return None
    gaps = [_gap_beyond_chance(row["train_accuracy"], row["val_accuracy"], images) for row in rows[-2:]]
    if min(gaps) <= MAX_GAP:
        return None
    train, validation = rows[-1]["train_accuracy"], rows[-1]["val_accuracy"]
    return Finding(
        "train-validation-gap",
        f"Accuracy is {train:.3f} on training images and {validation:.3f} on validation images",
        "Use stronger augmentation, loss.mixup=0.2, a larger optimizer.weight_decay, fewer epochs or more patients",
        epoch,
    )


def _gap_beyond_chance(train: float, validation: float, images: int) -> float:
    share = (validation * images + 1) / (images + 2)
    return train - validation - 2 * math.sqrt(share * (1 - share) / images)


def batch_statistics(statistics: BatchNormStatistics, batch_size: int, steps: int, epoch: int) -> Finding | None:
    """Reports running BatchNorm statistics that do not match the images, or batches that are too small.

    A channel has drifted when its running variance is off by more than a factor of four from that of a large batch, or its
    running mean by more than a standard deviation. Batches of fewer than eight images are always reported.

    Args:
        statistics: The measurement.
        batch_size: Images per step in one process.
        steps: Steps done.
        epoch: The current epoch.
    """
    small = batch_size < MIN_BATCH
    if not small and (steps < MIN_STEPS or statistics.drifted <= MAX_DRIFTED_CHANNELS):
        return None
    return Finding(
        "unstable-batch-statistics",
        f"Each process uses {batch_size} images per step, and BatchNorm's running statistics are far from those of a "
        f"large batch in {statistics.drifted:.0%} of {statistics.channels} channels",
        f"Use batches of at least {MIN_BATCH} images in each process (trainer.batch_size), or trainer.ema=0.99, "
        "which steadies the statistics",
        epoch,
    )


def no_better_than_chance(
    targets: NDArray[np.int64], probabilities: NDArray[np.float64], groups: Sequence[str], epoch: int
) -> Finding | None:
    """Reports a model whose validation AUROC is not significantly above 0.5.

    The 95 % interval is AUROC ± 1.96 standard errors (DeLong). It is over groups if each class has at least two groups, else
    over images. Without two images of each class there is no interval and no finding. The interval of a class with fewer than
    ten images is too narrow, so it is not stated.

    Args:
        targets: (n,) class indices of the validation split.
        probabilities: (n, K).
        groups: (n,) the patient or duplicate group of each image.
        epoch: The epoch of the exported weights.
    """
    auroc = _auroc(targets, probabilities, groups)
    if auroc is None:
        return None
    value, half_width = float(auroc.values[0]), _Z_95 * math.sqrt(max(float(auroc.covariance[0, 0]), 0.0))
    low, high = max(value - half_width, 0.0), min(value + half_width, 1.0)
    if low > 0.5:
        return None
    fewest = int(np.unique(targets, return_counts=True)[1].min())
    interval = (
        f"95 % interval {low:.3f} to {high:.3f}" if fewest >= MIN_GROUPS else f"only {counted(fewest, 'image')} of a class"
    )
    return Finding(
        NO_BETTER_THAN_CHANCE,
        f"The model is not shown to be better than chance: its AUROC on {len(targets)} validation images is {value:.3f}"
        f" ({interval}; chance is 0.5)",
        "Train for more epochs (trainer.epochs) or on more patients, and check that labels and images match",
        epoch,
    )


def _auroc(targets: NDArray[np.int64], probabilities: NDArray[np.float64], groups: Sequence[str]) -> CorrelatedAUROCs | None:
    for units in (groups, [str(i) for i in range(len(targets))]):
        try:
            if probabilities.shape[1] == 2:
                return delong(targets, probabilities[:, 1], units)
            return delong_macro(targets, probabilities[None], units)
        except InputError:  # a class has fewer than two groups or images
            continue
    return None


def labels_no_better_than_chance(findings: Mapping[str, Finding | None]) -> Finding | None:
    """Returns one finding for those of several labels at once whose own AUROC is not significantly above 0.5.

    Args:
        findings: The result of :func:`no_better_than_chance` for each label.
    """
    found = {name: finding for name, finding in findings.items() if finding is not None}
    if not found:
        return None
    observed = (
        f"For {len(found)} of {counted(len(findings), 'label')} the model is not shown to be better than chance: the 95 % "
        f"interval of the AUROC on the validation images is not above 0.5 for {', '.join(found)}"
    )
    return replace(next(iter(found.values())), message=observed)


def class_never_predicted(
    targets: NDArray[np.int64], predicted: NDArray[np.int64], names: Sequence[str], epoch: int, *, has_threshold: bool
) -> Finding | None:
    """Reports classes of the validation split that the model never predicts.

    Args:
        targets: (n,) class indices of the validation split.
        predicted: (n,) predicted class indices.
        names: The class names.
        epoch: The epoch of the exported weights.
        has_threshold: Whether a threshold divides two classes; of more than two, the most probable one is predicted.
    """
    counts = never_predicted(targets, predicted, names)
    if not counts:
        return None
    missing = ", ".join(f"{name} ({counted(n, 'image')})" for name, n in counts.items())
    model = "At its threshold, the model" if has_threshold else "The model"
    train = "Set decision.threshold=youden if its AUROC is good; otherwise train" if has_threshold else "Train"
    return Finding(
        CLASS_NEVER_PREDICTED,
        f"{model} never predicts a class of the validation split: {missing}",
        f"{train} for more epochs (trainer.epochs), or set loss.imbalance=weights for rare classes",
        epoch,
    )


def loss_not_finite(what: str, epoch: int, step: int, names: Sequence[str]) -> Finding:
    """Reports the images for which the loss or the gradient is not a number."""
    return Finding(
        LOSS_NOT_FINITE,
        f"The {what} is not finite in epoch {epoch}, step {step}, with these images: {', '.join(names)}",
        "Check these images; if they are intact, lower optimizer.lr, or set optimizer.clip_norm=1 or trainer.precision=fp32",
        epoch,
    )


def files_left_out(names: Sequence[str], cases: int) -> Finding:
    """Reports the files that could not be read and are not part of the run."""
    shown = ", ".join(names[:_SHOWN_NAMES]) + (", …" if len(names) > _SHOWN_NAMES else "")
    return Finding(
        FILES_LEFT_OUT,
        f"{len(names)} of {cases} files could not be read and were left out: {shown}",
        "Repair or remove these files",
        0,
    )


def label_conflicts(message: str) -> Finding:
    """Reports images with several labels that the recipe accepts."""
    return Finding(LABEL_CONFLICTS, message, "Correct the labels; reslink audit lists all of these images", 0)


def seen_by_ancestors(n_images: int, *, allowed: bool) -> Finding | None:
    """Reports validation and test images that an ancestor of a fine-tuned network was trained on.

    Args:
        n_images: Their number, with other images of the same patients.
        allowed: Whether they are used all the same.
    """
    if not n_images:
        return None
    subject = f"An ancestor of the network was trained on {n_images} of the validation and test images, or on their patients"
    if allowed:
        return Finding(SEEN_BY_ANCESTORS, f"{subject}: every metric may be too high", "Remove data.allow_leakage", 0)
    advice = "Use the split of the parent (its data.split_seed, or a split column), or other images"
    return Finding(SEEN_BY_ANCESTORS, f"{subject}. They are left out", advice, 0)


def mixed_modalities(stated: Sequence[Stated], labels: Sequence[str]) -> Finding | None:
    """Reports a data set whose files state more than one modality.

    Args:
        stated: What the file of each image states.
        labels: The class of each image.
    """
    counts = Counter((label, item.modality or "not stated") for label, item in zip(labels, stated, strict=True))
    if len({item.modality for item in stated} - {None}) < 2:
        return None
    by_class = (
        f"{name} ({', '.join(f'{modality} {n}' for (label, modality), n in sorted(counts.items()) if label == name)})"
        for name in sorted(set(labels))
    )
    return Finding(
        "mixed-modalities",
        f"The files of the data set state more than one modality: {', '.join(by_class)}",
        "Train one model per modality; with both, a model can learn the modality instead of the classes. A bundle refuses a "
        "modality that few of its training images have",
        0,
    )


def not_slices(stated: Sequence[Stated]) -> Finding | None:
    """Reports training images that are not slices of a head by their file, such as localizers.

    Args:
        stated: What the file of each training image states.
    """
    reasons = Counter(item.excluded for item in stated if item.excluded)
    if not reasons:
        return None
    return Finding(
        NOT_SLICES,
        f"{reasons.total()} of {len(stated)} images are used for training although a bundle refuses such files: "
        + "; ".join(f"{n}: {reason}" for reason, n in reasons.most_common()),
        "Remove these files",
        0,
    )


class DivergenceDetector:
    """Detects a learning rate that is too high from the loss of each step.

    It reports a finding when the mean of the last ten losses is above twice the mean of the first three, which is about
    log K for an untrained network.

    Args:
        floor: Lowest reference. A fine-tuned network starts with a low loss, of which twice as much is not a divergence.
    """

    def __init__(self, floor: float = 0.0) -> None:
        self.floor = floor
        self.first: list[float] = []
        self.recent: deque[float] = deque(maxlen=RECENT_LOSSES)

    def add(self, loss: float, lr: float, epoch: int) -> Finding | None:
        """Adds the loss of a step; returns a finding if the loss diverges."""
        if len(self.first) < FIRST_LOSSES:
            self.first.append(loss)
            return None
        self.recent.append(loss)
        first, now = sum(self.first) / FIRST_LOSSES, sum(self.recent) / RECENT_LOSSES
        if len(self.recent) < RECENT_LOSSES or now <= DIVERGENCE_RATIO * max(first, self.floor):
            return None
        return Finding(
            "learning-rate-diverges",
            f"The loss rose from {first:.3g} at the start to {now:.3g} over the last {RECENT_LOSSES} steps"
            f" (learning rate {lr:.3g})",
            "Stop, and start again with optimizer.lr ten times lower, or a longer optimizer.warmup",
            epoch,
        )

    def state(self) -> dict[str, Any]:
        """Returns the state for a checkpoint."""
        return {"first": self.first, "recent": list(self.recent)}

    def restore(self, state: dict[str, Any]) -> None:
        """Restores the result of ``state``."""
        self.first, self.recent = list(state["first"]), deque(state["recent"], maxlen=RECENT_LOSSES)
