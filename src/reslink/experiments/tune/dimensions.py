"""The dimensions of a search space: a list of values, or a range of numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from reslink.errors import UsageError, suggest

if TYPE_CHECKING:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

RANGE_KEYS = ("low", "high", "log", "step")
EXAMPLE = "Write for example {low: 1e-4, high: 1e-2, log: true}, or a list such as [4, 6, 8]"
DIGITS = 4
"""Significant digits of a sampled number, so that the best recipe can be read."""


@dataclass(frozen=True)
class Choice:
    """A list of values.

    Attributes:
        values: The values; lists and null are possible.
    """

    values: tuple[Any, ...]

    def distribution(self) -> CategoricalDistribution:
        """Returns Optuna's distribution, over the values as JSON: Optuna's own values cannot be lists."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution([json.dumps(value) for value in self.values])

    def value(self, parameter: Any) -> Any:
        """Returns the value of a setting for a parameter of Optuna."""
        return json.loads(parameter)

    def parameter(self, value: Any) -> Any:
        """Returns the parameter of Optuna for a value of the space."""
        return json.dumps(value)

    def contains(self, value: Any) -> bool:
        """Returns whether the value is one of the list."""
        return json.dumps(value) in map(json.dumps, self.values)

    def checked_values(self) -> Sequence[Any]:
        """Returns the values that the recipe must accept."""
        return self.values

    def as_setting(self) -> Any:
        """Returns the form of the YAML file."""
        return list(self.values)


@dataclass(frozen=True)
class Range:
    """A range of numbers, both ends included.

    Attributes:
        low: The lowest value.
        high: The highest value.
        log: Whether the logarithm is sampled uniformly.
        step: Distance of two values; None for 1 with whole numbers, and for any value otherwise.
        whole: Whether the setting takes only whole numbers.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False

    def distribution(self) -> FloatDistribution | IntDistribution:
        """Returns Optuna's distribution."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def value(self, parameter: Any) -> float:
        """Returns the value of a setting for a parameter of Optuna, with ``DIGITS`` significant digits."""
        return int(parameter) if self.whole else min(max(float(f"{parameter:.{DIGITS}g}"), self.low), self.high)

    def parameter(self, value: Any) -> Any:
        """Returns the parameter of Optuna for a value of the space."""
        return int(value) if self.whole else float(value)

    def contains(self, value: Any) -> bool:
        """Returns whether the value is in the range, and on its grid if there is a step."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        step = self.step or (1 if self.whole else 0)
        return not step or _is_whole((value - self.low) / step)

    def checked_values(self) -> Sequence[Any]:
        """Returns the values that the recipe must accept: both ends."""
        return [self.low, self.high]

    def as_setting(self) -> dict[str, Any]:
        """Returns the form of the YAML file."""
        optional = ({"log": True} if self.log else {}) | ({} if self.step is None else {"step": self.step})
        return {"low": self.low, "high": self.high} | optional


Dimension: TypeAlias = Choice | Range


def parse_dimension(key: str, setting: Any, *, whole: bool) -> Dimension:
    """Returns a dimension from its form in the YAML file.

    Args:
        key: The dotted recipe key, for messages.
        setting: A list, or a mapping with ``low``, ``high`` and optionally ``log`` and ``step``.
        whole: Whether the setting takes only whole numbers.

    Raises:
        UsageError: If it is neither, or its numbers do not fit together.
    """
    if isinstance(setting, Mapping):
        return _parse_range(key, setting, whole)
    if not isinstance(setting, list) or not setting:
        raise UsageError(
            f"The space of {key} is {'an empty list' if setting == [] else repr(setting)}",
            "It is a list of values, or a range with low and high",
            EXAMPLE,
        )
    for value in setting:
        _check_finite(key, value)
    if len({json.dumps(value) for value in setting}) < len(setting):
        raise UsageError(f"The space of {key} is {setting}", "Its values differ", "Remove the values that are given twice")
    return Choice(tuple(setting))


def _parse_range(key: str, setting: Mapping[str, Any], whole: bool) -> Range:
    for name in setting:
        if name not in RANGE_KEYS:
            raise UsageError(
                f"The space of {key} has the unknown key {name!r}",
                f"A range has the keys {', '.join(RANGE_KEYS)}",
                suggest(str(name), RANGE_KEYS),
            )
    low, high, log, step = (setting.get(name) for name in RANGE_KEYS)
    for name, number in (("low", low), ("high", high), *([("step", step)] if "step" in setting else [])):
        if isinstance(number, bool) or not isinstance(number, int | float):
            given = "missing" if name not in setting else repr(number)
            raise UsageError(f"The space of {key}: {name} is {given}", "low, high and step are numbers", EXAMPLE)
        _check_finite(key, number)
        if whole and int(number) != number:
            raise UsageError(
                f"The space of {key}: {name} is {number}", f"{key} takes whole numbers", f"Correct {name} of {key}"
            )
    if log not in (None, True, False):
        raise UsageError(f"The space of {key}: log is {log!r}", "log is true or false", EXAMPLE)
    dimension = Range(low, high, bool(log), step, whole)  # type: ignore[arg-type]
    _check_range(key, dimension)
    return dimension


def _check_range(key: str, dimension: Range) -> None:
    low, high, step = dimension.low, dimension.high, dimension.step
    if low >= high:
        raise UsageError(
            f"The space of {key}: low is {low} and high is {high}",
            "low is below high; a single value is no space",
            f"Exchange them, or fix {key} with --set {key}={low}",
        )
    if dimension.log and (low <= 0 or step is not None):
        problem = f"low is {low}" if low <= 0 else f"step is {step}"
        raise UsageError(
            f"The space of {key} has log: true, and {problem}",
            "A logarithmic range is above 0 and has no step",
            f"Remove log from {key}, or {'set low above 0' if low <= 0 else 'remove step'}",
        )
    if step is not None and (step <= 0 or not _is_whole((high - low) / step)):
        raise UsageError(
            f"The space of {key}: from {low} to {high} with step {step}",
            "step is above 0, and high is low plus a multiple of it",
            f"Change step or high of {key}",
        )


def _check_finite(key: str, value: Any) -> None:
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, float) and not math.isfinite(number):
            raise UsageError(f"The space of {key} contains {number}", "All numbers of a space are finite", f"Correct {key}")


def _is_whole(number: float) -> bool:
    return abs(number - round(number)) < 1e-9
