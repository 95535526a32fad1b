"""How a decision is fitted to labelled cases that the network did not learn from; NumPy and scikit-learn only."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from reslink.bundles.decision.arrays import DecisionArrays
from reslink.bundles.decision.calibration import Conformal, IsotonicCurve
from reslink.bundles.decision.decision import Decision, two_columns
from reslink.bundles.decision.ood import PARTS, Gaussian, OodGate
from reslink.errors import UsageError
from reslink.labels import Labels
from reslink.metrics import conformal
from reslink.metrics.operating_point import OperatingPoint, threshold

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Method: TypeAlias = Literal["temperature", "isotonic"]

METHODS: Final = ("temperature", "isotonic")
RETAINED: Final = 0.975
"""Share of calibration images that the gate is set to keep; with new images it keeps 95 % or more."""

FEWEST_GROUPS: Final = 10
FEWEST_GROUPS_OF_A_GATE: Final = 40
"""With fewer the limit that keeps 97.5 % would be the most unusual image itself."""

FEW_FOR_ISOTONIC: Final = 1000
"""Niculescu-Mizil and Caruana 2005 (ICML, section 5) find isotonic curves overfitting below some 1,000 cases; so does the
user guide of scikit-learn."""

NO_TEMPERATURE: Final = "No temperature"
NO_SETS: Final = "No prediction sets"
IN_EVERY_SET: Final = "is in every set"
NO_GATE: Final = "No out-of-distribution gate"
"""How the notes of :func:`fit` on what could not be fitted begin, or what they hold."""

_FOLDS: Final = 5
_LEAST_LIMIT: Final = 1e-6
"""A part that never varies, such as the features of a network that died, has distances of 0."""

_LOG_TEMPERATURES: Final = (np.log(0.05), np.log(50.0))


@dataclass(frozen=True)
class Wishes:
    """What a decision is to hold.

    Attributes:
        method: How probabilities are calibrated.
        point: The operating point.
        coverage: Of the conformal sets, above 0 and below 1; None for no sets.
        per_class: Whether the coverage is to hold within each class.
        ood: Whether to fit the out-of-distribution gate.
    """

    method: Method = "temperature"
    point: OperatingPoint = field(default_factory=lambda: OperatingPoint("default"))
    coverage: float | None = 0.95
    per_class: bool = False
    ood: bool = True

    def __post_init__(self) -> None:
        if self.coverage is not None and not 0.5 <= self.coverage < 1:
            raise UsageError(
                f"The coverage is {self.coverage:g}", "A coverage is a share from 0.5 to below 1", "Use --coverage 0.95"
            )


@dataclass(frozen=True)
class Evidence:
    """What is known of the cases to fit on.

    Attributes:
        logits: (n, K), or (n, 1), finite.
        features: (n, D) pooled features of the network.
        statistics: (n, 33) from ``input_statistics``.
        y_true: (n,) class indices.
        groups: (n,) patient or twin group.
    """

    logits: Floats
    features: Floats
    statistics: Floats
    y_true: Ints
    groups: Sequence[str]

    def __len__(self) -> int:
        return len(self.y_true)

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return len(set(self.groups))

    def take(self, rows: Ints) -> Evidence:
        """Returns some of the cases."""
        parts = (self.logits[rows], self.features[rows], self.statistics[rows], self.y_true[rows])
        return Evidence(*parts, [self.groups[row] for row in rows])


def fit(evidence: Evidence, wishes: Wishes, labels: Labels) -> tuple[Decision, list[str]]:
    """Fits a decision.

    Args:
        evidence: The cases; the network did not learn from them.
        wishes: What the decision is to hold.
        labels: The K classes.

    Returns:
        The decision, without ``fitted_on``, and what could not be fitted and why, a sentence each.

    Raises:
        UsageError: If there are too few groups, a class is missing, or an operating point other than ``default`` is asked
            for with more than two classes.
    """
    _check(evidence, wishes, labels)
    notes: list[str] = []
    plain = Decision.default(len(labels))
    fitted = plain.model_copy(update=_calibration(evidence, wishes, notes))
    if labels.binary:
        cut = threshold(wishes.point, evidence.y_true, fitted.probabilities(evidence.logits)[:, 1])
        source = f"{wishes.point} on {len(evidence)} calibration images" if wishes.point.criterion != "default" else "default"
        fitted = fitted.model_copy(update={"threshold": cut, "threshold_source": source})
    sets = None if wishes.coverage is None else fit_sets(evidence, wishes.coverage, wishes.per_class, labels, notes)
    gate, arrays = fit_gate(evidence, notes) if wishes.ood else (None, None)
    return fitted.model_copy(update={"conformal": sets, "ood": gate, "arrays": arrays}), notes


def _check(evidence: Evidence, wishes: Wishes, labels: Labels) -> None:
    missing = [name for k, name in enumerate(labels.names) if not (evidence.y_true == k).any()]
    if missing or evidence.n_groups < FEWEST_GROUPS:
        fault = f"has no case of {missing[0]!r}" if missing else f"has {evidence.n_groups} groups"
        raise UsageError(
            f"The calibration data {fault}",
            f"It takes cases of every class, in {FEWEST_GROUPS} groups (patients, near copies together) or more",
            "Give more data that the network did not learn from",
        )
    if wishes.point.criterion != "default" and not labels.binary:
        raise UsageError(
            f"The operating point {wishes.point} was asked for with {len(labels)} classes",
            "An operating point is a threshold between two classes; with more the most probable class is chosen",
            "Leave --operating-point out",
        )


def _calibration(evidence: Evidence, wishes: Wishes, notes: list[str]) -> dict[str, object]:
    if wishes.method == "temperature":
        if (two_columns(evidence.logits).argmax(axis=1) == evidence.y_true).all():
            why = f"the network is right on all {len(evidence)} images, so that the best one would be 0"
            notes.append(f"{NO_TEMPERATURE}: {why}")
            return {}
        temperature = fit_temperature(evidence.logits, evidence.y_true)
        lowest, highest = np.exp(_LOG_TEMPERATURES)
        if temperature > 0.99 * highest:
            notes.append(
                f"The temperature is at its limit of {highest:g}: the network's answers say next to nothing about the class"
            )
        elif temperature < 1.01 * lowest:
            notes.append(f"The temperature is at its limit of {lowest:g}: the network is right on nearly all of these images")
        return {"temperature": temperature}
    if len(evidence) < FEW_FOR_ISOTONIC:
        notes.append(
            f"The isotonic curve rests on {len(evidence)} images; below {FEW_FOR_ISOTONIC:,} a temperature is usually nearer"
        )
    return {"isotonic": fit_isotonic(evidence.logits, evidence.y_true)}


def fit_temperature(logits: Floats, y_true: Ints) -> float:
    """Returns the temperature of least cross-entropy, 0.05 to 50 (Guo et al. 2017, section 4.2).

    Args:
        logits: (n, K), or (n, 1).
        y_true: (n,) class indices.
    """
    values = two_columns(logits)

    def loss(log_temperature: float) -> float:
        chosen = log_softmax(values / np.exp(log_temperature), axis=1)[np.arange(len(y_true)), y_true]
        return -float(chosen.mean())

    found = minimize_scalar(loss, bounds=_LOG_TEMPERATURES, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def fit_isotonic(logits: Floats, y_true: Ints) -> tuple[IsotonicCurve, ...]:
    """Returns the isotonic curve of the positive class of two, or of each class against the rest.

    Args:
        logits: (n, K), or (n, 1).
        y_true: (n,) class indices.
    """
    from sklearn.isotonic import IsotonicRegression

    before = Decision(threshold=None).probabilities(logits)
    curves = []
    for k in [1] if before.shape[1] == 2 else range(before.shape[1]):
        found = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(before[:, k], y_true == k)
        points = np.clip([found.X_thresholds_, found.y_thresholds_], 0, 1)
        curves.append(IsotonicCurve(before=tuple(points[0].tolist()), after=tuple(points[1].tolist())))
    return tuple(curves)


def fit_sets(evidence: Evidence, coverage: float, per_class: bool, labels: Labels, notes: list[str]) -> Conformal | None:
    """Returns the limits of conformal sets; None, with a note, where there are too few images for the coverage.

    Args:
        evidence: The cases.
        coverage: Above 0 and below 1.
        per_class: Whether it is to hold within each class.
        labels: The K classes.
        notes: Takes what could not be done.
    """
    plain = Decision(threshold=None).probabilities(evidence.logits)
    limits = conformal.quantiles(plain, evidence.y_true, coverage, per_class=per_class)
    needed = conformal.fewest(coverage)
    if len(evidence) < needed:
        notes.append(f"{NO_SETS}: {len(evidence)} images; a coverage of {coverage:g} takes {needed} or more")
        return None
    for name, limit in zip(labels.names, limits, strict=True):
        if np.isinf(limit):
            notes.append(f"{name!r} {IN_EVERY_SET}: it has fewer than the {needed} images that the coverage takes")
    return Conformal(
        coverage=coverage,
        per_class=per_class,
        limits=tuple(None if np.isinf(limit) else float(limit) for limit in limits),
        n_images=len(evidence),
        n_groups=evidence.n_groups,
    )


def fit_gate(evidence: Evidence, notes: list[str]) -> tuple[OodGate | None, DecisionArrays | None]:
    """Returns the out-of-distribution gate and what it compares with; None, with a note, where there are too few groups.

    Its limits come from distances of each case to a fit without the groups of its fold, so that they hold for new cases.

    Args:
        evidence: The cases; labels are not used.
        notes: Takes what could not be done.
    """
    if evidence.n_groups < FEWEST_GROUPS_OF_A_GATE:
        notes.append(f"{NO_GATE}: {evidence.n_groups} groups; it takes {FEWEST_GROUPS_OF_A_GATE} or more")
        return None, None
    try:
        fifths = folds(evidence)
    except UsageError as error:
        notes.append(f"{NO_GATE}: {error.given}")
        return None, None
    rows = {"statistics": evidence.statistics, "features": evidence.features}
    outside = {part: np.zeros(len(evidence)) for part in PARTS}
    for inner, outer in fifths:
        for part in PARTS:
            outside[part][outer] = Gaussian.fit(rows[part][inner]).distance(rows[part][outer])
    alone = {part: max(np.quantile(outside[part], RETAINED, method="higher"), _LEAST_LIMIT) for part in PARTS}
    together = np.quantile(np.max([outside[part] / alone[part] for part in PARTS], axis=0), RETAINED, method="higher")
    gate = OodGate(
        limits={part: float(max(alone[part] * together, _LEAST_LIMIT)) for part in PARTS},
        retained=RETAINED,
        n_images=len(evidence),
        n_groups=evidence.n_groups,
    )
    arrays: dict[str, Floats] = {}
    for part in PARTS:
        arrays |= Gaussian.fit(rows[part]).arrays(part)
    return gate, DecisionArrays(arrays)


def folds(evidence: Evidence) -> list[tuple[Ints, Ints]]:
    """Returns the rows of four fifths of the groups and those of the rest, five times; classes are spread evenly.

    Raises:
        UsageError: If there are fewer than five groups, or no class has five images.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    numbers = np.unique(np.asarray(evidence.groups), return_inverse=True)[1]
    largest = int(np.bincount(evidence.y_true).max())
    if largest < _FOLDS or evidence.n_groups < _FOLDS:
        few = f"no class has more than {largest} images" if largest < _FOLDS else f"there are {evidence.n_groups} groups"
        raise UsageError(
            f"The cases cannot be divided into fifths: {few}",
            f"It takes {_FOLDS} images of a class, in {_FOLDS} groups (patients, near copies together), or more",
            "Give more data that the network did not learn from",
        )
    split = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=0)
    with warnings.catch_warnings():  # a class of fewer than five images is missing in a fold, and the fit there says so
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        found = list(split.split(np.zeros(len(evidence)), evidence.y_true, numbers))
    return [(inner, outer) for inner, outer in found if len(outer)]  # few large groups may leave a fifth empty
