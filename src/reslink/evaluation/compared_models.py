"""Names and classes of the models of a comparison, which are checked before slow imports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reslink.bundles import zoo
from reslink.errors import UsageError
from reslink.labels import Labels


def short_names(paths: Sequence[str | Path]) -> list[str]:
    """Returns a short, unique name for each bundle: its run or folder, with parent folders where two are the same.

    Raises:
        UsageError: If there are fewer than two, or one is given twice.
        BundleError: If a text is neither the name of a shipped model nor an existing path.
    """
    parts = [[part for part in zoo.resolve(path).resolve().parts if part != "/"] for path in paths]
    parts = [names[:-1] if names[-1:] == ["bundle"] and len(names) > 1 else names for names in parts]
    if len(parts) < 2 or len({tuple(names) for names in parts}) < len(parts):
        raise UsageError(
            f"{len(parts)} bundles were given, {len({tuple(names) for names in parts})} of them different",
            "A comparison needs at least two different bundles",
            "Give each bundle once",
        )
    for depth in range(1, max(map(len, parts)) + 1):
        candidates = ["-".join(names[-depth:]) for names in parts]
        if len(set(candidates)) == len(candidates):
            return candidates
    return [f"{i + 1}-{names[-1]}" for i, names in enumerate(parts)]


def common_labels(classes: Sequence[tuple[str, Sequence[str]]]) -> Labels:
    """Returns the classes that models have in common.

    Args:
        classes: Name and classes of each model.

    Raises:
        UsageError: If they differ.
    """
    first_name, first = classes[0]
    for name, names in classes[1:]:
        if sorted(names) != sorted(first) or (len(first) == 2 and list(names) != list(first)):
            raise UsageError(
                f"The classes differ: {first_name} has {', '.join(first)}, {name} has {', '.join(names)}",
                "Compared models need the same classes and, with two classes, the same positive class",
                "Compare bundles of one task",
            )
    return Labels(tuple(first))
