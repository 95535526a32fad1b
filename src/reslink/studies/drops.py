"""Differences of figures measured on different cases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from reslink.metrics.intervals import Estimate, undefined, without_interval

METHOD = "difference of independent figures from their own intervals (MOVER, Zou and Donner 2008)"


def independent_difference(first: Mapping[str, Any] | None, second: Mapping[str, Any] | None) -> Estimate:
    """Returns a figure less another one that was measured on other cases, with a 95 % interval.

    The interval comes from those of the two figures: lower end ``d − √((a − aₗ)² + (bᵤ − b)²)``, upper end
    ``d + √((aᵤ − a)² + (b − bₗ)²)`` (Zou and Donner 2008, Statistics in Medicine 27:1693, equation 6). So it needs no
    single cases and holds whatever way the two intervals were made.

    Args:
        first: ``estimate, ci_low, ci_high, method, n``; None where there is none.
        second: The same of the other.
    """
    if first is None or second is None:
        return undefined("one of the two figures is not known", 0)
    n = int(first["n"]) + int(second["n"])
    a, b = first["estimate"], second["estimate"]
    if a is None or b is None:
        missing = first if a is None else second
        return undefined(str(missing["method"]).removeprefix("undefined: "), n)
    if None in (first["ci_low"], first["ci_high"], second["ci_low"], second["ci_high"]):
        without = first if first["ci_low"] is None else second
        return without_interval(a - b, str(without["method"]).removeprefix("no interval: "), n)
    low = a - b - float(np.hypot(a - first["ci_low"], second["ci_high"] - b))
    high = a - b + float(np.hypot(first["ci_high"] - a, b - second["ci_low"]))
    return Estimate(a - b, low, high, METHOD, n)
