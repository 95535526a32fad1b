"""The watch over a run: signs of a training that goes wrong, with what to do about each.

Every rule is a plain function from figures to a finding or None, so that each can be tested with a planted fault.
Thresholds are set so that healthy runs are silent; they are judgements of ours, stated beside each rule.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from reslink.training.monitoring.layer_statistics import BatchNormSign, GateSign

GATE_BRIGHT, GATE_DEAD, GATE_SPREAD = 0.95, 0.05, 0.05
OUTSIDE_RATIO, OUTSIDE_AREA = 1.5, 0.05
GAP = 0.10
SMALL_BATCH = 8
STRAYED_CHANNELS = 0.25
STEPS_TO_SETTLE = 50
DIVERGED, FIRST, WINDOW = 2.0, 3, 10
FILES_LEFT_OUT = "files-left-out"
_SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """A sign that something is wrong.

    Attributes:
        code: Fixed name of the sign, such as ``gates-bright``.
        message: What was seen, with figures.
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


def gates_uniform(sign: GateSign, epoch: int) -> Finding | None:
    """Says that the gates of an attention are open, or shut, everywhere."""
    if sign.spread >= GATE_SPREAD:
        return None
    seen = f"The gates of {sign.layer} have mean {sign.mean:.3f} and standard deviation {sign.spread:.3f}"
    if sign.mean > GATE_BRIGHT:
        return Finding(
            f"gates-bright-{sign.layer}",
            f"{seen}: open everywhere, so that it attends to nothing in particular",
            "Compare with model.attention=none; if the figures are the same, leave this attention out, or guide it "
            "with attention_supervision.weight=0.1",
            epoch,
        )
    if sign.mean < GATE_DEAD:
        return Finding(
            f"gates-dead-{sign.layer}",
            f"{seen}: shut everywhere, so that little of the image passes",
            "Lower optimizer.lr or optimizer.weight_decay, or lengthen optimizer.warmup",
            epoch,
        )
    return None


def attention_outside(sign: GateSign, epoch: int) -> Finding | None:
    """Says that attention prefers what is not head: skull rim, table, background."""
    if sign.outside is None or sign.inside is None or sign.area_outside < OUTSIDE_AREA:
        return None
    if sign.outside <= OUTSIDE_RATIO * sign.inside:
        return None
    return Finding(
        f"attention-outside-{sign.layer}",
        f"The gates of {sign.layer} have mean {sign.outside:.2f} outside the head and {sign.inside:.2f} inside",
        "Keep preprocess.isolate_head=true, and set attention_supervision.weight=0.1 with target head",
        epoch,
    )


def train_validation_gap(rows: Sequence[dict[str, Any]], images: int, epoch: int) -> Finding | None:
    """Says that training images are recognised and validation images are not, for two epochs in a row.

    The gap in accuracy must exceed 0.10 and two standard errors of the validation accuracy.

    Args:
        rows: One an epoch, with ``train_accuracy`` and ``val_accuracy``.
        images: Number of validation images.
        epoch: Now.
    """
    if len(rows) < 2:
        return None
    gaps = [_gap_beyond_chance(row["train_accuracy"], row["val_accuracy"], images) for row in rows[-2:]]
    if min(gaps) <= GAP:
        return None
    train, validation = rows[-1]["train_accuracy"], rows[-1]["val_accuracy"]
    return Finding(
        "train-validation-gap",
        f"Accuracy is {train:.3f} on training images and {validation:.3f} on validation images",
        "Stronger augment settings, loss.mixup=0.2, a larger optimizer.weight_decay or fewer epochs; or more patients",
        epoch,
    )


def _gap_beyond_chance(train: float, validation: float, images: int) -> float:
    share = (validation * images + 1) / (images + 2)
    return train - validation - 2 * math.sqrt(share * (1 - share) / images)


def batch_statistics(sign: BatchNormSign, batch_size: int, steps: int, epoch: int) -> Finding | None:
    """Says that what BatchNorm remembers is not what images show.

    A channel has strayed when its running variance is off by more than a factor of four from that of a large batch, or
    its running mean by more than a standard deviation. Batches below eight images are named in any case.

    Args:
        sign: What was measured.
        batch_size: Images a step in one process.
        steps: Steps done.
        epoch: Now.
    """
    small = batch_size < SMALL_BATCH
    if not small and (steps < STEPS_TO_SETTLE or sign.strayed <= STRAYED_CHANNELS):
        return None
    return Finding(
        "unstable-batch-statistics",
        f"Each process sees {batch_size} images a step, and BatchNorm's running statistics are far from those of a "
        f"large batch in {sign.strayed:.0%} of {sign.channels} channels",
        f"Use batches of at least {SMALL_BATCH} images in each process (trainer.batch_size), or trainer.ema=0.99, "
        "which steadies the statistics",
        epoch,
    )


def loss_not_finite(what: str, epoch: int, step: int, names: Sequence[str]) -> Finding:
    """Says which images made the loss or the gradient not a number."""
    return Finding(
        "loss-not-finite",
        f"The {what} is not finite in epoch {epoch}, step {step}, with these images: {', '.join(names)}",
        "Look at these images; if they are sound, lower optimizer.lr, or set optimizer.clip_norm=1 or trainer.precision=fp32",
        epoch,
    )


def files_left_out(names: Sequence[str], cases: int) -> Finding:
    """Says which files could not be read, and so play no part in the run."""
    shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
    return Finding(
        FILES_LEFT_OUT,
        f"{len(names)} of {cases} files could not be read and were left out: {shown}",
        "Mend the files or take them out of the data set",
        0,
    )


class Divergence:
    """Watches the loss of each step for a learning rate that is too high.

    It fires when the mean of the last ten losses is above twice the mean of the first three, which is that of a network
    that knows nothing yet, about log K.
    """

    def __init__(self) -> None:
        self.start: list[float] = []
        self.recent: deque[float] = deque(maxlen=WINDOW)

    def add(self, loss: float, lr: float, epoch: int) -> Finding | None:
        """Takes the loss of a step; returns a finding when it has run away."""
        if len(self.start) < FIRST:
            self.start.append(loss)
            return None
        self.recent.append(loss)
        first, now = sum(self.start) / FIRST, sum(self.recent) / WINDOW
        if len(self.recent) < WINDOW or now <= DIVERGED * first:
            return None
        return Finding(
            "learning-rate-diverges",
            f"The loss rose from {first:.3g} at the start to {now:.3g} over the last {WINDOW} steps (learning rate {lr:.3g})",
            "Stop, and start again with optimizer.lr ten times lower, or a longer optimizer.warmup",
            epoch,
        )

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps."""
        return {"start": self.start, "recent": list(self.recent)}

    def restore(self, state: dict[str, Any]) -> None:
        """Puts back what ``state`` returned."""
        self.start, self.recent = list(state["start"]), deque(state["recent"], maxlen=WINDOW)
