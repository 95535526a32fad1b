"""The decision of a bundle: from logits to probabilities, a label, a prediction set and abstention.

For several labels at once it holds one two-class decision per label, and the out-of-distribution detector of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from reslink.bundles.decision.arrays import DecisionArrays
from reslink.bundles.decision.calibration import Conformal, FittedOn, IsotonicCurve
from reslink.bundles.decision.ood import REASONS, OODDetector
from reslink.errors import BundleError, InputError, UsageError
from reslink.metrics.conformal import prediction_sets
from reslink.metrics.several_labels.states import two_columns
from reslink.settings_text import without_newer_defaults

Certainty: TypeAlias = Literal["decided", "uncertain", "uncalibrated", "no answer"]

STATES: Final = ("absent", "present")
"""The two classes of each of several labels at once, as prediction sets name them."""

DECIDED_ODDS: Final = 4.0
"""An answer is decided if the odds of its class are at least this many times those at which another class would be chosen."""


@dataclass(frozen=True)
class DecisionResults:
    """The results of a decision for some cases.

    Attributes:
        probabilities: (n, K), rows sum to 1; of several labels at once, (n, K) the probability that each is present.
        predicted: (n,) class indices, also where the model abstains; of several labels at once, (n, K) 1 present, 0 absent.
        prediction_sets: (n, K) whether each class belongs to the conformal set; None where none was fitted.
        ood_score: (n,) 0 and up, out of distribution above 1; None where no detector was fitted.
        reasons: The reasons to abstain, one list per case; empty where there is none.
        refused: Whether each case is outside the scope of the bundle, so that its label means nothing; empty if not decided.
        abstain: (n,) whether the model abstains; None where neither prediction sets nor a detector were fitted, and no case is
            refused.
        by_label: The results of each of several labels at once, whose two classes are absent and present; else empty. Their
            reasons concern one label; ``reasons`` concern the whole image.
    """

    probabilities: NDArray[np.float64]
    predicted: NDArray[np.int64]
    prediction_sets: NDArray[np.bool_] | None
    ood_score: NDArray[np.float64] | None
    reasons: list[list[str]]
    refused: tuple[bool, ...] = ()
    by_label: tuple[DecisionResults, ...] = ()

    @property
    def abstain(self) -> NDArray[np.bool_] | None:
        """(n,) whether there is a reason to abstain; None where nothing was fitted that could give a reason."""
        of_labels = any(results.abstain is not None for results in self.by_label)
        if self.prediction_sets is None and self.ood_score is None and not any(self.refused) and not of_labels:
            return None
        return np.array([bool(reasons) for reasons in self.reasons], dtype=np.bool_)

    @property
    def refusals(self) -> list[str | None]:
        """Why each case is refused; None for a case that is not."""
        flags = self.refused or (False,) * len(self.reasons)
        return [reasons[0] if flag else None for reasons, flag in zip(self.reasons, flags, strict=True)]

    def subset(self, rows: NDArray[np.int64]) -> DecisionResults:
        """Returns the results of some cases."""
        return DecisionResults(
            self.probabilities[rows],
            self.predicted[rows],
            None if self.prediction_sets is None else self.prediction_sets[rows],
            None if self.ood_score is None else self.ood_score[rows],
            [self.reasons[row] for row in rows],
            tuple(self.refused[row] for row in rows) if self.refused else (),
            tuple(results.subset(rows) for results in self.by_label),
        )

    def of_label(self, k: int) -> DecisionResults:
        """Returns the results of one of several labels, with the reasons and OOD scores of the whole images."""
        one = self.by_label[k]
        reasons = [[*of_image, *own] for of_image, own in zip(self.reasons, one.reasons, strict=True)]
        return replace(one, reasons=reasons, ood_score=self.ood_score)

    def with_refusals(self, refusals: Sequence[str | None]) -> DecisionResults:
        """Returns the results with a reason for each refused case; None for a case that is not refused."""
        reasons = [[*([text] if text else []), *known] for text, known in zip(refusals, self.reasons, strict=True)]
        return replace(self, reasons=reasons, refused=tuple(text is not None for text in refusals))


class Decision(BaseModel):
    """How logits become probabilities, a label and a prediction set, and when the model abstains.

    Attributes:
        threshold: With two classes, the lowest probability of the positive (last) class, 0 to 1, that gives the positive
            label. None picks the most probable class (the first of equals), the only rule with more classes.
        temperature: Divisor of the logits before the softmax, above 0; 1 leaves them unchanged
            (Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2).
        threshold_source: Where the threshold comes from, for reports, such as ``"default"`` or
            ``"Youden index on the validation split"``.
        isotonic: One curve per class, or one for the positive class of two. They are applied to the softmax probabilities,
            which are then scaled to the sum 1. Empty without isotonic calibration.
        conformal: Prediction sets; None where none were fitted.
        ood: The out-of-distribution detector; None where none was fitted.
        flip_average: Whether the network also runs on the mirror image (left and right exchanged), and the logits are those of
            the mean of the two probabilities (:func:`average_logits`). Twice the cost.
        fitted_on: The data that ``reslink calibrate`` was run on; None before that.
        by_label: For several labels at once, the decision of each: its classes are absent and present, and its logit is that of
            present. ``threshold``, ``temperature``, ``isotonic`` and ``conformal`` are then those of the labels. Empty, and not
            part of the JSON form, for one class per image.
        arrays: The distributions of the detector and the fingerprints of the calibration images; not part of the JSON form.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True)

    threshold: float | None = Field(default=0.5, ge=0.0, le=1.0, allow_inf_nan=False)
    temperature: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)
    threshold_source: str = "default"
    isotonic: tuple[IsotonicCurve, ...] = ()
    conformal: Conformal | None = None
    ood: OODDetector | None = None
    flip_average: bool = False
    fitted_on: FittedOn | None = None
    by_label: tuple[Decision, ...] = ()
    arrays: DecisionArrays | None = Field(default=None, exclude=True, repr=False)

    @model_serializer(mode="wrap")
    def _serialize(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_newer_defaults(self, serialize(self), "by_label", "flip_average")

    @classmethod
    def default(cls, num_classes: int, *, exclusive: bool = True) -> Decision:
        """Returns the decision without calibration.

        Args:
            num_classes: Number of classes, or of labels.
            exclusive: Whether a case has exactly one of them. Two classes, and each of several labels at once, have the
                threshold 0.5; of more classes the most probable one is chosen.
        """
        if not exclusive:
            return cls.of_labels([cls()] * num_classes)
        return cls() if num_classes == 2 else cls(threshold=None)

    @classmethod
    def of_labels(cls, decisions: Sequence[Decision]) -> Decision:
        """Returns the decision for several labels at once, from the two-class decision of each."""
        return cls(threshold=None, threshold_source="one threshold per label", by_label=tuple(decisions))

    @property
    def abstains(self) -> bool:
        """Whether it can abstain: it has prediction sets or a detector."""
        return self.conformal is not None or self.ood is not None or any(one.abstains for one in self.by_label)

    @property
    def is_calibrated(self) -> bool:
        """Whether the probabilities were calibrated."""
        own = self.fitted_on is not None or self.temperature != 1 or bool(self.isotonic)
        return own or any(one.is_calibrated for one in self.by_label)

    def certainty(self, probabilities: Sequence[float], abstain: bool | None) -> Certainty:
        """Returns in one word how close an answer is to another one, on images like the calibration images.

        Args:
            probabilities: (K,) the probability of each class.
            abstain: Whether the model abstains.

        Returns:
            ``no answer`` if the model abstains. ``uncalibrated`` if the bundle has neither prediction sets nor calibrated
            probabilities, so that nothing is known. With prediction sets ``decided``: the set holds this class alone. Otherwise
            ``decided`` if the odds are ``DECIDED_ODDS`` times those at the threshold (with more than two classes: the class is
            that many times as probable as the second), and ``uncertain`` if they are not. No word says that an answer is right:
            images unlike the calibration images can be decided and wrong.
        """
        if abstain:
            return "no answer"
        if self.conformal is not None:
            return "decided"
        if not self.is_calibrated:
            return "uncalibrated"
        if self.threshold is None:
            second, first = sorted(probabilities)[-2:]
        else:
            positive, threshold = probabilities[1], self.threshold
            second, first = sorted((positive * (1 - threshold), (1 - positive) * threshold))
        return "decided" if first >= DECIDED_ODDS * second else "uncertain"

    def probabilities(self, logits: ArrayLike) -> NDArray[np.float64]:
        """Returns the probability of every class.

        Args:
            logits: (n, K) with K classes, or (n, 1) for a single sigmoid logit of the positive class.

        Returns:
            (n, K) float64, or (n, 2) for a single logit; each row sums to 1. For several labels at once, (n, K) the probability
            that each is present.

        Raises:
            InputError: If the shape is wrong or a logit is not finite.
        """
        if self.by_label:
            columns = zip(self.by_label, self._label_logits(logits), strict=True)
            return np.column_stack([one.probabilities(column)[:, 1] for one, column in columns])
        scaled = _softmax(two_column_logits(logits) / self.temperature)
        return self._apply_isotonic(scaled) if self.isotonic else scaled

    def _apply_isotonic(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        """Applies the curves; where they map all classes to 0, the probabilities stay unchanged."""
        if len(self.isotonic) == 1:
            positive = self.isotonic[0](probabilities[:, 1])
            return np.stack([1 - positive, positive], axis=1)
        calibrated = np.stack([curve(column) for curve, column in zip(self.isotonic, probabilities.T, strict=True)], axis=1)
        total = calibrated.sum(axis=1, keepdims=True)
        return np.where(total > 0, calibrated / np.where(total > 0, total, 1), probabilities)

    def decide(
        self,
        logits: ArrayLike,
        features: ArrayLike | None = None,
        statistics: ArrayLike | None = None,
        names: Sequence[str] | None = None,
    ) -> DecisionResults:
        """Returns probabilities, labels, prediction sets, OOD scores and reasons to abstain.

        Args:
            logits: (n, K), or (n, 1).
            features: (n, D) pooled features of the network; only needed with a detector.
            statistics: (n, 33) from ``input_statistics``; only needed with a detector.
            names: The K class names, for the reasons; None numbers the classes from 0. For several labels at once, the
                prediction sets hold ``STATES``.

        Raises:
            InputError: If logits, features or statistics have a wrong shape or are not finite.
            UsageError: If there is a detector but no features or statistics.
            BundleError: If the arrays of the detector are missing.
        """
        probabilities = self.probabilities(logits)
        predicted = self.predict(probabilities)
        reasons: list[list[str]] = [[] for _ in predicted]
        columns = self._label_logits(logits) if self.by_label else []
        by_label = tuple(one.decide(column, names=STATES) for one, column in zip(self.by_label, columns, strict=True))
        score = None if self.ood is None else self._ood_score(features, statistics, reasons)
        sets = None if self.conformal is None else self._prediction_sets(logits, predicted, reasons, names)
        return DecisionResults(probabilities, predicted, sets, score, reasons, by_label=by_label)

    def _label_logits(self, logits: ArrayLike) -> list[NDArray[np.float64]]:
        """Returns the logits (n, 1) of each of several labels at once."""
        values = two_column_logits(logits)
        if values.shape[1] != len(self.by_label):
            raise InputError(
                f"Logits of shape {values.shape} were given for {len(self.by_label)} labels",
                "There is one logit per label",
                "Use the network of the bundle",
            )
        return np.hsplit(values, values.shape[1])

    def _ood_score(
        self, features: ArrayLike | None, statistics: ArrayLike | None, reasons: list[list[str]]
    ) -> NDArray[np.float64]:
        """Returns the OOD score of each case; adds to its reasons what exceeds a limit."""
        if self.ood is None or self.arrays is None:
            raise BundleError(
                "The out-of-distribution detector has no arrays",
                "They are stored in decision.safetensors",
                "Copy the whole bundle again",
            )
        if features is None or statistics is None:
            raise UsageError(
                "Only logits were given to a decision with an out-of-distribution detector",
                "The detector also needs the features of the network and the statistics of the input",
                "Pass features and statistics",
            )
        distances = self.ood.relative_distances(self.arrays.by_name, features, statistics)
        for component, values in distances.items():
            for i in np.flatnonzero(values > 1):
                reasons[i].append(REASONS[component])
        return np.asarray(np.max(list(distances.values()), axis=0), dtype=np.float64)

    def _prediction_sets(
        self, logits: ArrayLike, predicted: NDArray[np.int64], reasons: list[list[str]], names: Sequence[str] | None
    ) -> NDArray[np.bool_]:
        """Returns the prediction set of each case; adds to its reasons unless it holds only the predicted class."""
        assert self.conformal is not None  # noqa: S101  (checked by the caller)
        sets = prediction_sets(_softmax(two_column_logits(logits)), self.conformal.quantiles)
        for i, row in enumerate(sets):
            if row.sum() != 1 or not row[predicted[i]]:
                classes = [f"class {k}" if names is None else names[k] for k in np.flatnonzero(row).tolist()]
                reasons[i].append(_set_reason(classes, f"prediction set at {self.conformal.coverage:.4g} coverage"))
        return sets

    def predict(self, probabilities: ArrayLike) -> NDArray[np.int64]:
        """Returns the index of the predicted class of each case.

        Args:
            probabilities: (n, K), as :meth:`probabilities` returns them.

        Returns:
            (n,) indices into the class names; for several labels at once, (n, K) 1 where a label is present, else 0.

        Raises:
            UsageError: If there is a threshold, but the number of classes is not two.
        """
        values = np.asarray(probabilities, dtype=np.float64)
        if self.by_label:
            return np.column_stack(
                [one.predict(two_columns(column)) for one, column in zip(self.by_label, values.T, strict=True)]
            )
        if self.threshold is None:
            return np.asarray(values.argmax(axis=1), dtype=np.int64)
        self.check_classes(values.shape[1])
        return (values[:, 1] >= self.threshold).astype(np.int64)

    def check_classes(self, num_classes: int) -> None:
        """Checks that the decision fits the number of classes, or of labels.

        Raises:
            UsageError: If there is a threshold, but the number of classes is not two.
            BundleError: If curves or limits were fitted for another number of classes.
        """
        if self.by_label:
            self._check_labels(num_classes)
            return
        curves, limits = len(self.isotonic), None if self.conformal is None else len(self.conformal.limits)
        if curves not in (0, num_classes, 1 if num_classes == 2 else 0) or limits not in (None, num_classes):
            raise BundleError(
                f"The decision has {curves} isotonic curves and {limits} conformal limits for {num_classes} classes",
                "There is one of each per class, or a single curve for two classes",
                "Run reslink calibrate again",
            )
        if self.threshold is not None and num_classes != 2:
            raise UsageError(
                f"A threshold of {self.threshold} was given for {num_classes} classes",
                "A threshold needs exactly two classes; with more, the most probable class is chosen",
                "Set the threshold to null (None)",
            )

    def _check_labels(self, num_labels: int) -> None:
        own = (self.threshold, self.conformal, *self.isotonic)
        if len(self.by_label) != num_labels or any(value is not None for value in own) or self.temperature != 1:
            raise BundleError(
                f"The decision for {num_labels} labels holds {len(self.by_label)} decisions",
                "It holds the threshold, calibration and prediction sets of each label, and none for all of them",
                "Run reslink calibrate again",
            )
        for one in self.by_label:
            one.check_classes(2)


def _set_reason(classes: Sequence[str], name: str) -> str:
    """Returns why a prediction set other than the predicted class alone is a reason to abstain."""
    if not classes:
        return f"the {name} is empty"
    return f"cannot rule out {', '.join(classes)} ({name})" if len(classes) > 1 else f"the {name} holds {classes[0]} only"


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the softmax of each row, equal to ``scipy.special.softmax``, whose import takes a tenth of a second."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float64)


def _log_sum_exp(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    largest = values.max(axis=axis, keepdims=True)
    return np.asarray((largest + np.log(np.exp(values - largest).sum(axis=axis, keepdims=True))).squeeze(axis))


def average_logits(logits: Sequence[ArrayLike]) -> NDArray[np.float64]:
    """Returns logits whose softmax is the mean of that of several logits, each (n, K), or (n, 1) for a single one.

    As the network of an ensemble, see :func:`reslink.networks.ensemble.mean_probability_logits`.
    """
    arrays = [np.asarray(values, dtype=np.float64) for values in logits]
    single = arrays[0].shape[1] == 1
    rows = np.stack([np.hstack([np.zeros_like(z), z]) if single else z for z in arrays])
    rows -= _log_sum_exp(rows, 2)[..., None]
    total = _log_sum_exp(rows, 0)
    return total[:, 1:] - total[:, :1] if single else total - total.mean(axis=1, keepdims=True)


def two_column_logits(logits: ArrayLike) -> NDArray[np.float64]:
    """Returns checked logits with at least two columns: a single logit gets a column of zeros before it."""
    values = np.asarray(logits, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] < 1:
        raise InputError(
            f"Logits of shape {values.shape} were given",
            "Logits have the shape (cases, classes)",
            "Pass one row per case",
        )
    if not np.isfinite(values).all():
        raise InputError(
            f"{int((~np.isfinite(values).all(axis=1)).sum())} of {len(values)} rows of logits are not finite",
            "Logits are finite numbers",
            "Check the weights and the input images",
        )
    if values.shape[1] == 1:  # the sigmoid of z is the softmax over (0, z)
        values = np.hstack([np.zeros_like(values), values])
    return values
