"""The validation part after an epoch: logits, loss, accuracy, AUROC, and the threshold that a recipe asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from reslink.bundles.decision.decision import Decision
from reslink.metrics.operating_point import OperatingPoint, threshold
from reslink.training.batch_loader import Feeder
from reslink.training.losses import cross_entropy, two_logits
from reslink.training.recipe.schema import DecisionSettings
from reslink.training.sampling import Indices

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Judgement:
    """What the validation part says about an epoch.

    Attributes:
        loss: Cross-entropy without smoothing or weights; None where a logit is not finite.
        accuracy: Share of right labels, the most probable class of each image.
        auroc: Of the positive class, or the mean over classes of each against the rest; None where a class is missing.
    """

    loss: float | None
    accuracy: float
    auroc: float | None

    def better_than(self, other: Judgement | None) -> bool:
        """Whether this epoch is the better one: by AUROC, by loss among equals."""
        if other is None:
            return True
        mine, theirs = self.auroc or 0.0, other.auroc or 0.0
        return mine > theirs or (mine == theirs and _or_infinite(self.loss) < _or_infinite(other.loss))


def _or_infinite(loss: float | None) -> float:
    return float("inf") if loss is None else loss


@torch.no_grad()
def logits_of(network: nn.Module, feeder: Feeder, indices: Indices, batch_size: int, accelerator: Accelerator) -> Tensor:
    """Returns the logits (n, K) of images, float32 on the CPU; processes share the work and all get the whole.

    Args:
        network: In eval mode.
        feeder: Gives the images.
        indices: Which images.
        batch_size: Images at a time.
        accelerator: Joins the processes.
    """
    own = np.arange(len(indices))[accelerator.process_index :: accelerator.num_processes]
    parts = np.array_split(own, -(-len(indices) // batch_size))
    found: Tensor | None = None
    for rows in parts:
        logits = network(feeder.plain(indices[rows])).cpu()
        found = torch.zeros(len(indices), logits.shape[1]) if found is None else found
        found[rows] = logits
    if found is None:
        raise ValueError("there is no image to validate on")
    return _summed(found, accelerator)


def _summed(values: Tensor, accelerator: Accelerator) -> Tensor:
    """Every process holds its own rows and zeros elsewhere, so the sum holds all rows, to the bit."""
    if accelerator.num_processes == 1:
        return values
    summed: Tensor = accelerator.reduce(values.to(accelerator.device), reduction="sum").cpu()
    return summed


def judge(logits: Tensor, targets: Indices, num_classes: int) -> Judgement:
    """Returns what logits (n, K), or (n, 1), say about an epoch.

    Args:
        logits: Finite or not; where one is not, there is no loss and no AUROC.
        targets: (n,) class indices.
        num_classes: K.
    """
    wanted = torch.from_numpy(targets)
    guesses = two_logits(logits).argmax(dim=1)
    accuracy = float((guesses == wanted).double().mean())
    if not torch.isfinite(logits).all():
        return Judgement(None, accuracy, None)
    one_hot = torch.nn.functional.one_hot(wanted, num_classes).double()
    loss = float(cross_entropy(logits.double(), one_hot).mean())
    return Judgement(loss, accuracy, auroc(targets, Decision.default(num_classes).probabilities(logits.numpy())))


def auroc(y_true: Indices, y_prob: NDArray[np.float64]) -> float | None:
    """Returns the AUROC of the last of two classes, or the mean over classes; None where a class is missing."""
    if len(np.unique(y_true)) < y_prob.shape[1]:
        return None
    if y_prob.shape[1] == 2:
        return float(roc_auc_score(y_true, y_prob[:, 1]))
    return float(roc_auc_score(y_true, y_prob, multi_class="ovr", average="macro", labels=np.arange(y_prob.shape[1])))


def decide(settings: DecisionSettings, logits: Tensor, targets: Indices, num_classes: int) -> Decision:
    """Returns the rule from probabilities to labels that a recipe asks for.

    Args:
        settings: The section ``decision`` of the recipe.
        logits: (n, K) of the validation part.
        targets: (n,) class indices of the validation part.
        num_classes: K.
    """
    if num_classes != 2:
        return Decision.default(num_classes)
    if isinstance(settings.threshold, float):
        return Decision(threshold=settings.threshold, threshold_source=f"the recipe: {settings.threshold:g}")
    probability = Decision().probabilities(logits.numpy())[:, 1]
    if len(np.unique(targets)) < 2:
        return Decision(threshold_source="default: the validation part has one class only")
    cut = best_threshold(targets, probability, settings.threshold)
    name = "Youden index" if settings.threshold == "youden" else "accuracy"
    return Decision(threshold=cut, threshold_source=f"{name} on the validation part ({len(targets)} images)")


def best_threshold(y_true: Sequence[int] | Indices, y_prob: NDArray[np.float64], criterion: str) -> float:
    """Returns the middle of the gap below the best cut of the probabilities, in (0, 1).

    Args:
        y_true: (n,) 0 or 1, both present.
        y_prob: (n,) probability of 1.
        criterion: ``youden`` or ``accuracy``.
    """
    return threshold(OperatingPoint.parse(criterion), y_true, y_prob)


def figures(judgement: Judgement) -> Mapping[str, float | None]:
    """Returns a judgement as plain values for tables."""
    return {"val_loss": judgement.loss, "val_accuracy": judgement.accuracy, "val_auroc": judgement.auroc}
