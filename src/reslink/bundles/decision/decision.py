"""From logits to an answer: calibration, operating point, conformal set and gate, kept with the weights they belong to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.special import softmax

from reslink.bundles.decision.arrays import DecisionArrays
from reslink.bundles.decision.calibration import Conformal, FittedOn, IsotonicCurve
from reslink.bundles.decision.ood import REASONS, OodGate
from reslink.errors import BundleError, InputError, UsageError
from reslink.metrics.conformal import prediction_sets


@dataclass(frozen=True)
class Verdicts:
    """What a decision says about some cases.

    Attributes:
        probabilities: (n, K), rows sum to 1.
        predicted: (n,) class indices, also of the cases that are abstained from.
        sets: (n, K) whether each class belongs to the conformal set; None where none was fitted.
        ood_score: (n,) 0 and up, above 1 refused; None where no gate was fitted.
        reasons: Why a case is abstained from, a list a case; empty lists where there is no reason.
        abstain: (n,) whether a case is abstained from; None where neither sets nor a gate were fitted.
    """

    probabilities: NDArray[np.float64]
    predicted: NDArray[np.int64]
    sets: NDArray[np.bool_] | None
    ood_score: NDArray[np.float64] | None
    reasons: list[list[str]]

    @property
    def abstain(self) -> NDArray[np.bool_] | None:
        """(n,) whether there is a reason to abstain; None where nothing was fitted that could give one."""
        if self.sets is None and self.ood_score is None:
            return None
        return np.array([bool(reasons) for reasons in self.reasons], dtype=np.bool_)


class Decision(BaseModel):
    """How the logits of a network become probabilities, a class, a set of classes, and whether to abstain.

    Attributes:
        threshold: With two classes, the probability of the positive (last) class from which on a case is called
            positive, 0 to 1. None picks the most probable class (the first of equals), the only rule with more classes.
        temperature: What logits are divided by before the softmax, above 0; 1 leaves them as they are
            (Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2).
        threshold_source: Where the threshold comes from, for reports, such as ``"default"`` or
            ``"Youden index on the validation split"``.
        isotonic: A curve for each class, or one for the positive of two, applied to the probabilities after the softmax
            and then scaled to the sum 1; empty for none.
        conformal: Prediction sets; None where none were fitted.
        ood: The out-of-distribution gate; None where none was fitted.
        fitted_on: The data that ``reslink calibrate`` was given; None before that.
        arrays: What the gate compares with, and the fingerprints of the calibration images; not part of the JSON form.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True)

    threshold: float | None = Field(default=0.5, ge=0.0, le=1.0, allow_inf_nan=False)
    temperature: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)
    threshold_source: str = "default"
    isotonic: tuple[IsotonicCurve, ...] = ()
    conformal: Conformal | None = None
    ood: OodGate | None = None
    fitted_on: FittedOn | None = None
    arrays: DecisionArrays | None = Field(default=None, exclude=True, repr=False)

    @classmethod
    def default(cls, num_classes: int) -> Decision:
        """Returns the decision before anything was tuned: 0.5 with two classes, the most probable one with more."""
        return cls() if num_classes == 2 else cls(threshold=None)

    @property
    def abstains(self) -> bool:
        """Whether there is something by which it could abstain: prediction sets or a gate."""
        return self.conformal is not None or self.ood is not None

    def probabilities(self, logits: ArrayLike) -> NDArray[np.float64]:
        """Returns the probability of every class.

        Args:
            logits: (n, K) with K classes, or (n, 1) for a network with a single sigmoid logit of the positive class.

        Returns:
            (n, K) float64, or (n, 2) for a single logit; each row sums to 1.

        Raises:
            InputError: If the shape is another one or a logit is not finite.
        """
        found = np.asarray(softmax(two_columns(logits) / self.temperature, axis=1), dtype=np.float64)
        return self._isotonic(found) if self.isotonic else found

    def _isotonic(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        """Applies the curves; where all classes become 0, the probabilities stay as they were."""
        if len(self.isotonic) == 1:
            positive = self.isotonic[0](probabilities[:, 1])
            return np.stack([1 - positive, positive], axis=1)
        raised = np.stack([curve(column) for curve, column in zip(self.isotonic, probabilities.T, strict=True)], axis=1)
        total = raised.sum(axis=1, keepdims=True)
        return np.where(total > 0, raised / np.where(total > 0, total, 1), probabilities)

    def judge(self, logits: ArrayLike, features: ArrayLike | None = None, statistics: ArrayLike | None = None) -> Verdicts:
        """Returns all that the decision says about some cases.

        Args:
            logits: (n, K), or (n, 1).
            features: (n, D) pooled features of the network; only a decision with a gate needs them.
            statistics: (n, 33) from ``input_statistics``; only a decision with a gate needs them.

        Raises:
            InputError: If logits, features or statistics have another shape or are not finite.
            UsageError: If there is a gate but no features or statistics.
            BundleError: If the arrays of the gate are missing.
        """
        probabilities = self.probabilities(logits)
        predicted = self.predict(probabilities)
        reasons: list[list[str]] = [[] for _ in predicted]
        score = None if self.ood is None else self._ood_score(features, statistics, reasons)
        sets = None if self.conformal is None else self._sets(logits, predicted, reasons)
        return Verdicts(probabilities, predicted, sets, score, reasons)

    def _ood_score(
        self, features: ArrayLike | None, statistics: ArrayLike | None, reasons: list[list[str]]
    ) -> NDArray[np.float64]:
        """Returns the score of each case and adds the parts of the gate that refuse it to its reasons."""
        if self.ood is None or self.arrays is None:
            raise BundleError("The gate has no arrays", "They lie in decision.safetensors", "Copy the whole bundle again")
        if features is None or statistics is None:
            raise UsageError(
                "Logits alone were given to a decision with an out-of-distribution gate",
                "The gate compares the features of the network and the statistics of the input too",
                "Pass features and statistics",
            )
        ratios = self.ood.ratios(self.arrays.by_name, features, statistics)
        for part, values in ratios.items():
            for i in np.flatnonzero(values > 1):
                reasons[i].append(REASONS[part])
        return np.asarray(np.max(list(ratios.values()), axis=0), dtype=np.float64)

    def _sets(self, logits: ArrayLike, predicted: NDArray[np.int64], reasons: list[list[str]]) -> NDArray[np.bool_]:
        """Returns the set of each case and adds to its reasons if it is not the predicted class alone."""
        assert self.conformal is not None  # noqa: S101  (the caller looked)
        sets = prediction_sets(softmax(two_columns(logits), axis=1), self.conformal.quantiles)
        for i, size in enumerate(sets.sum(axis=1)):
            if size != 1 or not sets[i, predicted[i]]:
                reasons[i].append(_why_unsure(int(size), f"the set at {self.conformal.coverage:.4g} coverage"))
        return sets

    def predict(self, probabilities: ArrayLike) -> NDArray[np.int64]:
        """Returns the index of the predicted class of each case.

        Args:
            probabilities: (n, K), as :meth:`probabilities` returns them.

        Returns:
            (n,) indices into the class names.

        Raises:
            UsageError: If there is a threshold but there are not two classes.
        """
        values = np.asarray(probabilities, dtype=np.float64)
        if self.threshold is None:
            return np.asarray(values.argmax(axis=1), dtype=np.int64)
        self.check_classes(values.shape[1])
        return (values[:, 1] >= self.threshold).astype(np.int64)

    def check_classes(self, num_classes: int) -> None:
        """Checks that the rule fits the number of classes.

        Raises:
            UsageError: If there is a threshold but there are not two classes.
            BundleError: If curves or limits were fitted for another number of classes.
        """
        curves, limits = len(self.isotonic), None if self.conformal is None else len(self.conformal.limits)
        if curves not in (0, num_classes, 1 if num_classes == 2 else 0) or limits not in (None, num_classes):
            raise BundleError(
                f"The decision has {curves} isotonic curves and {limits} conformal limits for {num_classes} classes",
                "There is one for each class; one curve will do for two classes",
                "Run reslink calibrate again",
            )
        if self.threshold is not None and num_classes != 2:
            raise UsageError(
                f"A threshold of {self.threshold} was given for {num_classes} classes",
                "A threshold applies to two classes; with more the most probable class is chosen",
                "Set the threshold to null (None)",
            )


def _why_unsure(size: int, name: str) -> str:
    """Returns why a set that is not the predicted class alone is a reason to abstain."""
    if size == 0:
        return f"no class is sure enough for {name}"
    return f"{name} holds {size} classes" if size > 1 else f"{name} does not hold the label"


def two_columns(logits: ArrayLike) -> NDArray[np.float64]:
    """Returns checked logits, at least two columns: a single one stands beside a column of zeros."""
    values = np.asarray(logits, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] < 1:
        raise InputError(
            f"Logits of shape {values.shape} were given",
            "Logits have the shape (cases, classes)",
            "Pass one row a case",
        )
    if not np.isfinite(values).all():
        raise InputError(
            f"{int((~np.isfinite(values).all(axis=1)).sum())} of {len(values)} rows of logits are not finite",
            "Logits are finite numbers",
            "Check the weights and the images that gave them",
        )
    if values.shape[1] == 1:  # the sigmoid of z is the softmax over (0, z)
        values = np.hstack([np.zeros_like(values), values])
    return values
