"""Numbers, differences, intervals and p-values as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def format_number(value: float | None) -> str:
    """Returns a number with three decimals, or a dash if it is undefined."""
    return "–" if value is None else f"{value:.3f}".replace("-", "−")


def format_difference(value: float | None) -> str:
    """Returns a difference with sign and three decimals, or a dash if it is undefined."""
    return "–" if value is None else f"{value:+.3f}".replace("-", "−")


def format_interval(estimate: Mapping[str, Any]) -> str:
    """Returns the interval of an estimate, or ``no interval``."""
    low, high = estimate.get("ci_low"), estimate.get("ci_high")
    return "no interval" if low is None or high is None else f"{format_number(low)} to {format_number(high)}"


def format_p_value(value: float | None) -> str:
    """Returns a p-value with three decimals, or a dash if there is none."""
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def start_sentence(text: str) -> str:
    """Returns text with an upper-case first letter."""
    return text[:1].upper() + text[1:]


def format_count(number: int, noun: str) -> str:
    """Returns a number with its noun, such as ``1 image``, ``2 images`` or ``2 series``."""
    return f"{number} {noun if number == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """Returns the plural of a noun, such as ``images`` or ``series``."""
    return noun if noun in ("series", "MiB") else f"{noun}s"
