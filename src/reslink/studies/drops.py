"""Differences of figures measured on different cases, from their JSON form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from reslink.metrics import paired_proportions
from reslink.metrics.intervals import Estimate, undefined


def independent_difference(first: Mapping[str, Any] | None, second: Mapping[str, Any] | None) -> Estimate:
    """Returns a figure less another one that was measured on other cases, with a 95 % interval.

    See :func:`reslink.metrics.paired_proportions.independent_difference`; it needs no single cases.

    Args:
        first: ``estimate, ci_low, ci_high, method, n``; None where there is none.
        second: The same of the other.
    """
    if first is None or second is None:
        return undefined("one of the two figures is not known", 0)
    return paired_proportions.independent_difference(_estimate(first), _estimate(second))


def _estimate(figure: Mapping[str, Any]) -> Estimate:
    return Estimate(**{field.name: figure[field.name] for field in fields(Estimate)})
