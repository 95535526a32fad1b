"""Whether an evaluation has too few cases or patients for its metrics to say much."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from reslink.errors import counted, listed

MIN_CASES: Final = 20
MIN_GROUPS: Final = 10
"""With fewer cases of a class, or fewer groups, a warning is given. Vergouwe et al. 2005 (J. Clin. Epidemiol. 58:475) ask for
100 cases of each of two classes."""


def few_cases(evaluation: Mapping[str, Any], groups: str = "groups") -> str | None:
    """Returns a warning if a class has few cases, or there are few groups; None otherwise, and for several labels at once.

    Args:
        evaluation: The content of ``evaluation.json``.
        groups: What the groups are, such as ``patients or duplicate groups``.
    """
    matrix = evaluation.get("confusion_matrix") or {"labels": [], "counts": []}
    totals = {name: sum(row) for name, row in zip(matrix["labels"], matrix["counts"], strict=True)}
    few = [f"{counted(n, 'case')} of {name}" for name, n in totals.items() if n < MIN_CASES]
    n_groups = evaluation.get("n_groups")
    if totals and n_groups is not None and n_groups < MIN_GROUPS:
        few.append(f"{n_groups} {groups}")
    return f"Only {listed(few)}: metrics of so few say little, however narrow their intervals" if few else None
