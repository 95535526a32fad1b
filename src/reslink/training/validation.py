"""Validation after an epoch: logits, loss, accuracy, AUROC, and the decision that a recipe asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor

from reslink.bundles.decision.decision import Decision, average_logits
from reslink.metrics.operating_point import OperatingPoint, choose_threshold
from reslink.metrics.several_labels.states import known_rows, two_columns
from reslink.networks.network import Network
from reslink.training.batch_loader import BatchLoader
from reslink.training.losses import SeveralLabels, cross_entropy, two_logits
from reslink.training.recipe.schema import DecisionSettings, LossSettings
from reslink.training.sampling import Indices

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class ValidationResult:
    """Metrics of an epoch on the validation split.

    Attributes:
        loss: Cross-entropy without smoothing or weights; None if a logit is not finite.
        accuracy: Share of images whose most probable class is correct; of several labels at once, of correct known labels.
        auroc: Of the positive class, or the mean over classes of each against the rest; None if a class is missing. Of several
            labels at once, the mean over those that are present in some images and absent in others.
    """

    loss: float | None
    accuracy: float
    auroc: float | None

    def better_than(self, other: ValidationResult | None) -> bool:
        """Returns whether this result is better: by AUROC, for equal AUROC by loss."""
        if other is None:
            return True
        own, best = self.auroc or 0.0, other.auroc or 0.0
        return own > best or (own == best and _or_infinite(self.loss) < _or_infinite(other.loss))

    def as_row(self) -> dict[str, float | None]:
        """Returns the result as columns of ``results.csv``."""
        return {"val_loss": self.loss, "val_accuracy": self.accuracy, "val_auroc": self.auroc}


def _or_infinite(loss: float | None) -> float:
    return float("inf") if loss is None else loss


@torch.no_grad()
def compute_logits(
    network: Network,
    batch_loader: BatchLoader,
    indices: Indices,
    batch_size: int,
    accelerator: Accelerator,
    *,
    flip_average: bool = False,
) -> Tensor:
    """Returns the logits (n, K) of images, float32 on the CPU; the processes share the work and all get the whole result.

    Args:
        network: In eval mode.
        batch_loader: Loads the images.
        indices: Indices of the images.
        batch_size: Images per batch.
        accelerator: Joins the processes.
        flip_average: Average the probabilities of an image and its mirror image, as ``Decision.flip_average`` does.
    """
    own = np.arange(len(indices))[accelerator.process_index :: accelerator.num_processes]
    all_logits: Tensor | None = None
    for rows in np.array_split(own, -(-len(indices) // batch_size)):
        logits = batch_loader.eval_logits(network, indices[rows]).cpu()
        if flip_average:  # of images; the recipe refuses it for series
            flipped = network(batch_loader.eval_batch(indices[rows]).flip(-1)).cpu()
            logits = torch.from_numpy(average_logits([logits, flipped])).float()
        all_logits = torch.zeros(len(indices), logits.shape[1]) if all_logits is None else all_logits
        all_logits[rows] = logits
    if all_logits is None:
        raise ValueError("there is no image to validate on")
    return _sum_over_processes(all_logits, accelerator)


def _sum_over_processes(values: Tensor, accelerator: Accelerator) -> Tensor:
    """Returns all rows exactly: each process holds its own rows and zeros elsewhere."""
    if accelerator.num_processes == 1:
        return values
    total: Tensor = accelerator.reduce(values.to(accelerator.device), reduction="sum").cpu()
    return total


def evaluate_validation(logits: Tensor, targets: Indices, num_classes: int) -> ValidationResult:
    """Returns the metrics of logits (n, K), or (n, 1).

    Args:
        logits: If one is not finite, loss and AUROC are None.
        targets: (n,) class indices, or (n, K) states of several labels at once.
        num_classes: K.
    """
    if targets.ndim == 2:
        return _evaluate_labels(logits, targets)
    labels = torch.from_numpy(targets)
    predicted = two_logits(logits).argmax(dim=1)
    accuracy = float((predicted == labels).double().mean())
    if not torch.isfinite(logits).all():
        return ValidationResult(None, accuracy, None)
    one_hot = torch.nn.functional.one_hot(labels, num_classes).double()
    loss = float(cross_entropy(logits.double(), one_hot).mean())
    return ValidationResult(loss, accuracy, auroc(targets, Decision.default(num_classes).probabilities(logits.numpy())))


def _evaluate_labels(logits: Tensor, states: Indices) -> ValidationResult:
    """Returns the metrics of several labels at once, of which unknown ones count nowhere."""
    criterion = SeveralLabels(LossSettings(label_smoothing=0), states, states.shape[1])
    targets = criterion.targets(torch.from_numpy(states))
    accuracy = criterion.correct(logits, targets) / len(states)
    if not torch.isfinite(logits).all():
        return ValidationResult(None, accuracy, None)
    probabilities = Decision.default(states.shape[1], exclusive=False).probabilities(logits.numpy())
    aurocs = [auroc(states[rows, k], two_columns(probabilities[rows, k])) for k, rows in enumerate(known_rows(states))]
    defined = [value for value in aurocs if value is not None]
    return ValidationResult(float(criterion(logits, targets).mean()), accuracy, float(np.mean(defined)) if defined else None)


def auroc(y_true: Indices, y_prob: NDArray[np.float64]) -> float | None:
    """Returns the AUROC of the last of two classes, or the mean over more classes; None if a class is missing."""
    if len(np.unique(y_true)) < y_prob.shape[1]:
        return None
    if y_prob.shape[1] == 2:
        return float(roc_auc_score(y_true, y_prob[:, 1]))
    return float(roc_auc_score(y_true, y_prob, multi_class="ovr", average="macro", labels=np.arange(y_prob.shape[1])))


def make_decision(settings: DecisionSettings, logits: Tensor, targets: Indices, num_classes: int) -> Decision:
    """Returns the decision that a recipe asks for.

    Args:
        settings: The section ``decision`` of the recipe.
        logits: (n, K) of the validation split.
        targets: (n,) class indices of the validation split, or (n, K) states of several labels at once.
        num_classes: K.
    """
    if targets.ndim == 2:
        by_label = [
            make_decision(settings, logits[rows][:, k : k + 1], targets[rows, k], 2)
            for k, rows in enumerate(known_rows(targets))
        ]
        return Decision.of_labels(by_label)
    decision = Decision.default(num_classes).model_copy(update={"flip_average": settings.flip_average})
    if num_classes != 2:
        return decision
    if isinstance(settings.threshold, float):
        return decision.model_copy(update={"threshold": settings.threshold, "threshold_source": "set by the recipe"})
    probability = decision.probabilities(logits.numpy())[:, 1]
    if len(np.unique(targets)) < 2:
        return decision.model_copy(update={"threshold_source": "default: the validation split has only one class"})
    threshold = best_threshold(targets, probability, settings.threshold)
    name = "Youden index" if settings.threshold == "youden" else "accuracy"
    source = f"{name} on the validation split ({len(targets)} images)"
    return decision.model_copy(update={"threshold": threshold, "threshold_source": source})


def best_threshold(y_true: Sequence[int] | Indices, y_prob: NDArray[np.float64], criterion: str) -> float:
    """Returns the middle of the gap below the best threshold, in (0, 1).

    Args:
        y_true: (n,) 0 or 1, both present.
        y_prob: (n,) probability of 1.
        criterion: ``youden`` or ``accuracy``.
    """
    return choose_threshold(OperatingPoint.parse(criterion), y_true, y_prob)
