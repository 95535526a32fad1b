"""Fits a decision (calibration, threshold, prediction sets, out-of-distribution detector) to labeled cases; without torch."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reslink.bundles.decision.arrays import DecisionArrays
from reslink.bundles.decision.calibration import Conformal, IsotonicCurve
from reslink.bundles.decision.decision import Decision, two_column_logits
from reslink.bundles.decision.ood import COMPONENTS, Gaussian, OODDetector
from reslink.bundles.scope import Scope, shows_little_brain
from reslink.errors import UsageError, listed
from reslink.imaging.image import Stated
from reslink.labels import Labels
from reslink.metrics import conformal
from reslink.metrics.operating_point import OperatingPoint, choose_threshold
from reslink.metrics.several_labels.states import known_rows, strata

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Method: TypeAlias = Literal["temperature", "isotonic"]

METHODS: Final = ("temperature", "isotonic")
RETAINED: Final = 0.975
"""Share of calibration images that neither the modality detector nor the out-of-distribution detector declines."""

MAX_RETAINED: Final = 0.99
"""Largest share within the limits of the out-of-distribution detector. If the modality detector declines many images already,
the limits would otherwise be the distance of the most unusual image."""

MIN_GROUPS: Final = 10
MIN_GROUPS_OOD: Final = 40
"""With fewer groups, the limit that retains 97.5 % would be the distance of the most unusual image itself."""

MIN_CASES_ISOTONIC: Final = 1000
"""Isotonic curves overfit below about 1,000 cases (Niculescu-Mizil and Caruana 2005, ICML, section 5; scikit-learn user
guide)."""

NOT_FITTED: Final = "It is not calibrated"
NO_TEMPERATURE: Final = "No temperature"
NO_PREDICTION_SETS: Final = "No prediction sets"
IN_EVERY_PREDICTION_SET: Final = "is in every prediction set"
NO_OOD_DETECTOR: Final = "No out-of-distribution detector"
"""Text in the notes of :func:`fit_decision` on components that could not be fitted."""

_FOLDS: Final = 5
_MIN_LIMIT: Final = 1e-6
"""A component that never varies, such as the features of a network with dead units, has distances of 0."""

_LOG_TEMPERATURES: Final = (np.log(0.05), np.log(50.0))


@dataclass(frozen=True)
class DecisionOptions:
    """The components of a decision to fit.

    Attributes:
        method: Calibration of the probabilities.
        operating_point: The operating point.
        coverage: Coverage of the prediction sets, from 0.5 to below 1; None for no prediction sets.
        per_class: Whether the coverage holds within each class.
        ood: Whether to fit the out-of-distribution detector.
        flip_average: Whether the decision averages the probabilities of an image and its mirror image.
        per_source: Whether the coverage holds within each source, and each source has the same weight in the temperature.
    """

    method: Method = "temperature"
    operating_point: OperatingPoint = field(default_factory=lambda: OperatingPoint("default"))
    coverage: float | None = 0.95
    per_class: bool = False
    ood: bool = True
    flip_average: bool = False
    per_source: bool = False

    def __post_init__(self) -> None:
        if self.coverage is not None and not 0.5 <= self.coverage < 1:
            raise UsageError(
                f"The coverage is {self.coverage:g}", "A coverage is a number from 0.5 to below 1", "Use --coverage 0.95"
            )


@dataclass(frozen=True)
class CalibrationData:
    """The outputs of a network for n labeled cases that it was not trained on.

    Attributes:
        logits: (n, K), or (n, 1), finite.
        features: (n, D) pooled features of the network.
        statistics: (n, 33) from ``input_statistics``.
        y_true: (n,) class indices; of several labels at once, (n, K) states.
        groups: (n,) patient or duplicate group of each case.
        n_refused: Number of further images that the modality detector refused. They count as declined.
        sources: The source of each case, None if not stated; empty if no case states one.
        previous_logits: (n, K) logits of the network before it was adapted; None if it was not adapted.
    """

    logits: Floats
    features: Floats
    statistics: Floats
    y_true: Ints
    groups: Sequence[str]
    n_refused: int = 0
    sources: Sequence[str | None] = ()
    previous_logits: Floats | None = None

    def __len__(self) -> int:
        return len(self.y_true)

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return len(set(self.groups))

    def take(self, rows: Ints) -> CalibrationData:
        """Returns the cases of some rows."""
        arrays = (self.logits[rows], self.features[rows], self.statistics[rows], self.y_true[rows])
        n_refused = round(self.n_refused * len(rows) / len(self))
        sources = [self.sources[row] for row in rows] if self.sources else ()
        previous = None if self.previous_logits is None else self.previous_logits[rows]
        return CalibrationData(*arrays, [self.groups[row] for row in rows], n_refused, sources, previous)

    def without_refused(self, scope: Scope, stated: Sequence[Stated], refusals: Sequence[str | None]) -> CalibrationData:
        """Returns the cases that the model does not refuse, with ``n_refused``.

        Slices that show little brain do not count as declined by the modality detector, nor does what a file states.

        Args:
            scope: The scope of the model.
            stated: What the file of each case states.
            refusals: Why the model refuses each case; None for a case that it does not refuse.
        """
        by_look = sum(
            reason is not None and scope.refusal(item) is None and not shows_little_brain([reason])
            for item, reason in zip(stated, refusals, strict=True)
        )
        return replace(self.take(np.flatnonzero([reason is None for reason in refusals])), n_refused=by_look)

    @property
    def source_names(self) -> list[str]:
        """The name of the source of each case; cases without one are one more source."""
        return [source or "not stated" for source in self.sources] or ["not stated"] * len(self)

    def source_weights(self) -> Floats:
        """Returns (n,) weights with which each source counts alike; their mean is 1."""
        _, numbers, counts = np.unique(self.source_names, return_inverse=True, return_counts=True)
        return np.asarray(len(self) / (len(counts) * counts[numbers]), dtype=np.float64)

    def of_label(self, k: int) -> CalibrationData:
        """Returns the cases in which one of several labels at once is known, as those of a two-class task."""
        known = self.take(known_rows(self.y_true)[k])
        return replace(known, logits=known.logits[:, k : k + 1], y_true=known.y_true[:, k])

    @property
    def retained(self) -> float:
        """Share of the cases within the limits of the out-of-distribution detector.

        It is chosen so that modality and out-of-distribution detector together decline 1 - ``RETAINED`` of all images, but the
        latter at least 1 - ``MAX_RETAINED`` of the cases.
        """
        flagged = (1 - RETAINED) * (len(self) + self.n_refused) - self.n_refused
        return min(1 - flagged / len(self), MAX_RETAINED)


def fit_decision(cases: CalibrationData, options: DecisionOptions, labels: Labels) -> tuple[Decision, list[str]]:
    """Fits a decision.

    Args:
        cases: The calibration cases.
        options: The components to fit.
        labels: The K classes.

    Returns:
        The decision, without ``fitted_on``, and a note on each component that could not be fitted.

    Raises:
        UsageError: If there are too few groups, a class is missing, or an operating point other than ``default`` is requested
            with more than two classes.
    """
    if not labels.exclusive:
        return _fit_labels(cases, options, labels)
    _check(cases, options, labels)
    notes: list[str] = []
    decision = Decision.default(len(labels)).model_copy(update=_fit_calibration(cases, options, notes))
    if labels.binary:
        point = options.operating_point
        threshold = choose_threshold(point, cases.y_true, decision.probabilities(cases.logits)[:, 1])
        source = f"{point} on {len(cases)} calibration images" if point.criterion != "default" else "default"
        decision = decision.model_copy(update={"threshold": threshold, "threshold_source": source})
    sets = None if options.coverage is None else fit_prediction_sets(cases, options, labels, notes)
    detector, arrays = fit_ood_detector(cases, notes) if options.ood else (None, None)
    parts = {"conformal": sets, "ood": detector, "arrays": arrays, "flip_average": options.flip_average}
    return decision.model_copy(update=parts), notes


def _fit_labels(cases: CalibrationData, options: DecisionOptions, labels: Labels) -> tuple[Decision, list[str]]:
    """Fits the decision of each of several labels at once, and the detector for the whole image."""
    decisions: list[Decision] = []
    notes: list[str] = []
    errors: list[UsageError] = []
    for k, name in enumerate(labels.names):
        try:
            own, own_notes = fit_decision(cases.of_label(k), replace(options, ood=False), labels.of_one(name))
        except UsageError as error:
            errors.append(error)
            own, own_notes = Decision(), [f"{NOT_FITTED}, threshold 0.5. {error.given}"]
        decisions.append(own)
        notes += [f"Label {name!r}: {note}" for note in own_notes]
    if len(errors) == len(labels):
        raise errors[0]
    detector, arrays = fit_ood_detector(cases, notes) if options.ood else (None, None)
    return Decision.of_labels(decisions).model_copy(update={"ood": detector, "arrays": arrays}), notes


def _check(cases: CalibrationData, options: DecisionOptions, labels: Labels) -> None:
    missing = [name for k, name in enumerate(labels.names) if not (cases.y_true == k).any()]
    if missing or cases.n_groups < MIN_GROUPS:
        problem = f"has no case of {missing[0]!r}" if missing else f"has {cases.n_groups} groups"
        raise UsageError(
            f"The calibration data {problem}",
            f"Calibration needs cases of every class in at least {MIN_GROUPS} groups (patients, with near duplicates joined)",
            "Add data that the network was not trained on",
        )
    if options.operating_point.criterion != "default" and not labels.binary:
        raise UsageError(
            f"The operating point {options.operating_point} was requested for {len(labels)} classes",
            "An operating point is a threshold between two classes; with more classes the most probable one is predicted",
            "Omit --operating-point",
        )


def _fit_calibration(cases: CalibrationData, options: DecisionOptions, notes: list[str]) -> dict[str, object]:
    if options.method == "temperature":
        if (two_column_logits(cases.logits).argmax(axis=1) == cases.y_true).all():
            reason = f"the network is correct on all {len(cases)} images, so the best temperature would be 0"
            notes.append(f"{NO_TEMPERATURE}: {reason}")
            return {}
        temperature = fit_temperature(cases.logits, cases.y_true, cases.source_weights() if options.per_source else None)
        lowest, highest = np.exp(_LOG_TEMPERATURES)
        if temperature > 0.99 * highest:
            notes.append(
                f"The temperature is at its limit of {highest:g}: the network is hardly better than chance on these images"
            )
        elif temperature < 1.01 * lowest:
            notes.append(f"The temperature is at its limit of {lowest:g}: the network is correct on nearly all of these images")
        return {"temperature": temperature}
    if len(cases) < MIN_CASES_ISOTONIC:
        notes.append(
            f"The isotonic curve uses {len(cases)} images; below {MIN_CASES_ISOTONIC:,} a temperature is usually better"
        )
    return {"isotonic": fit_isotonic(cases.logits, cases.y_true)}


def fit_temperature(logits: Floats, y_true: Ints, weights: Floats | None = None) -> float:
    """Returns the temperature with the lowest cross-entropy, 0.05 to 50 (Guo et al. 2017, section 4.2).

    Args:
        logits: (n, K), or (n, 1).
        y_true: (n,) class indices.
        weights: (n,) weight of each case; None for equal weights.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax  # slow to import

    values = two_column_logits(logits)

    def cross_entropy(log_temperature: float) -> float:
        log_probability = log_softmax(values / np.exp(log_temperature), axis=1)[np.arange(len(y_true)), y_true]
        return -float(np.average(log_probability, weights=weights))

    minimum = minimize_scalar(cross_entropy, bounds=_LOG_TEMPERATURES, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(minimum.x))


def fit_isotonic(logits: Floats, y_true: Ints) -> tuple[IsotonicCurve, ...]:
    """Returns the isotonic curve of the positive class of two, or of each class against the others.

    Args:
        logits: (n, K), or (n, 1).
        y_true: (n,) class indices.
    """
    from sklearn.isotonic import IsotonicRegression

    uncalibrated = Decision(threshold=None).probabilities(logits)
    curves = []
    for k in [1] if uncalibrated.shape[1] == 2 else range(uncalibrated.shape[1]):
        regression = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(uncalibrated[:, k], y_true == k)
        before, after = np.clip([regression.X_thresholds_, regression.y_thresholds_], 0, 1)
        curves.append(IsotonicCurve(before=tuple(before.tolist()), after=tuple(after.tolist())))
    return tuple(curves)


def fit_prediction_sets(cases: CalibrationData, options: DecisionOptions, labels: Labels, notes: list[str]) -> Conformal | None:
    """Returns the limits of conformal prediction sets; None, with a note, if there are too few images for the coverage.

    Args:
        cases: The calibration cases.
        options: With a coverage; whether it holds within each class and each source.
        labels: The K classes.
        notes: Receives the notes.
    """
    assert options.coverage is not None  # noqa: S101  (checked by the caller)
    needed = conformal.min_calibration_cases(options.coverage)
    if len(cases) < needed:
        notes.append(f"{NO_PREDICTION_SETS}: there are {len(cases)} images; a coverage of {options.coverage:g} needs {needed}")
        return None
    sources = _covered_sources(cases, needed, notes) if options.per_source else []
    limits = _set_limits(cases, options, sources, notes, labels)
    for name, limit in zip(labels.names, limits, strict=True):
        if np.isinf(limit):
            notes.append(
                f"{name!r} {IN_EVERY_PREDICTION_SET}: a coverage of {options.coverage:g} needs {needed} images of the class"
            )
    return Conformal(
        coverage=options.coverage,
        per_class=options.per_class,
        limits=tuple(None if np.isinf(limit) else float(limit) for limit in limits),
        n_images=len(cases),
        n_groups=cases.n_groups,
        sources=tuple(sources),
    )


def _covered_sources(cases: CalibrationData, needed: int, notes: list[str]) -> list[str]:
    """Returns the sources with enough images for a limit of their own; a note names the others."""
    counts = Counter(cases.source_names)
    few = [f"{name} ({n})" for name, n in sorted(counts.items()) if n < needed]
    if few:
        notes.append(f"The coverage of prediction sets is not held within sources of fewer than {needed} images: {listed(few)}")
    return sorted(name for name, n in counts.items() if n >= needed)


def _set_limits(
    cases: CalibrationData, options: DecisionOptions, sources: Sequence[str], notes: list[str], labels: Labels
) -> Floats:
    """Returns (K,) limits, the widest of those of the sources; of all cases together without any.

    Within classes, a source with too few images of a class sets no limit for it; a note names both.
    """
    assert options.coverage is not None  # noqa: S101  (checked by the caller)
    coverage, per_class = options.coverage, options.per_class
    probabilities, names = Decision(threshold=None).probabilities(cases.logits), np.array(cases.source_names)
    of_source = np.array(
        [
            conformal.conformal_quantiles(probabilities[rows], cases.y_true[rows], coverage, per_class=per_class)
            for rows in ([names == name for name in sources] or [np.ones(len(cases), bool)])
        ]
    )
    widest = np.max(np.where(np.isinf(of_source), -np.inf, of_source), axis=0)
    missing = np.isinf(of_source) & np.isfinite(widest)
    if missing.any():
        pairs = listed(f"{labels.names[k]!r} in {sources[row]}" for row, k in np.argwhere(missing).tolist())
        notes.append(f"The coverage of prediction sets is not held where a source has too few images of a class: {pairs}")
    return np.where(np.isinf(widest), np.inf, widest)


def fit_ood_detector(
    cases: CalibrationData, notes: list[str], components: Sequence[str] = COMPONENTS
) -> tuple[OODDetector | None, DecisionArrays | None]:
    """Returns the out-of-distribution detector and its arrays; None, with a note, if there are too few groups.

    Each distance is measured with a fit that leaves the groups of its fold out, so that the limits hold for new cases.

    Args:
        cases: The calibration cases; their labels are not used.
        notes: Receives the notes.
        components: The distances to fit. Input statistics alone do not depend on the network, so that training images fit, too.
    """
    if cases.n_groups < MIN_GROUPS_OOD:
        notes.append(f"{NO_OOD_DETECTOR}: there are {cases.n_groups} groups; it needs {MIN_GROUPS_OOD}")
        return None, None
    try:
        folds = group_folds(cases)
    except UsageError as error:
        notes.append(f"{NO_OOD_DETECTOR}: {error.given}")
        return None, None
    values = {"statistics": cases.statistics, "features": cases.features}
    distances = {name: np.zeros(len(cases)) for name in components}
    for fit_rows, held_out_rows in folds:
        for name in components:
            distances[name][held_out_rows] = Gaussian.fit(values[name][fit_rows]).distance(values[name][held_out_rows])
    share = cases.retained
    separate = {name: max(np.quantile(distances[name], share, method="higher"), _MIN_LIMIT) for name in components}
    # Two separate limits would together retain less than the share, so both are scaled by one factor.
    scale = np.quantile(np.max([distances[name] / separate[name] for name in components], axis=0), share, method="higher")
    detector = OODDetector(
        limits={name: float(max(separate[name] * scale, _MIN_LIMIT)) for name in components},
        retained=round(share, 4),
        n_images=len(cases),
        n_groups=cases.n_groups,
    )
    arrays: dict[str, Floats] = {}
    for name in components:
        arrays |= Gaussian.fit(values[name]).arrays(name)
    return detector, DecisionArrays(arrays)


def group_folds(cases: CalibrationData) -> list[tuple[Ints, Ints]]:
    """Returns the rows to fit on and the held-out rows of five folds over groups, stratified by class.

    Raises:
        UsageError: If there are fewer than five groups, or no class has five images.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    group_indices = np.unique(np.asarray(cases.groups), return_inverse=True)[1]
    classes = cases.y_true if cases.y_true.ndim == 1 else strata(cases.y_true > 0)
    largest_class = int(np.bincount(classes).max())
    if largest_class < _FOLDS or cases.n_groups < _FOLDS:
        few_images = largest_class < _FOLDS
        problem = f"no class has more than {largest_class} images" if few_images else f"there are {cases.n_groups} groups"
        raise UsageError(
            f"The cases cannot be split into {_FOLDS} folds: {problem}",
            f"Cross-fitting needs {_FOLDS} images of one class in {_FOLDS} groups (patients, with near duplicates joined)",
            "Add data that the network was not trained on",
        )
    splitter = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=0)
    with warnings.catch_warnings():  # a class with fewer than five images is missing in a fold; the fit there reports it
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        folds = list(splitter.split(np.zeros(len(cases)), classes, group_indices))
    return [(fit_rows, held_out) for fit_rows, held_out in folds if len(held_out)]  # with few large groups a fold can be empty
