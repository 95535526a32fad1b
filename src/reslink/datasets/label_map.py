"""Label maps: the class of each label of one or several data sets, as ``LABEL=CLASS`` or ``SET:LABEL=CLASS``."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TypeAlias

from reslink.errors import UsageError, suggest
from reslink.labels import clean_text

LabelMap: TypeAlias = Mapping[str, str | None]
"""Label, or ``SET:LABEL``, to class; None leaves its cases out."""


def parse_label_map(texts: Sequence[str] | LabelMap) -> dict[str, str | None]:
    """Returns the class of each label from texts ``LABEL=CLASS``; None for a label whose cases are left out.

    Raises:
        UsageError: If a text has no '=', or a label has two classes.
    """
    if isinstance(texts, Mapping):
        return dict(texts)
    label_map: dict[str, str | None] = {}
    for text in [texts] if isinstance(texts, str) else texts:
        label, equals, name = (part.strip() for part in text.partition("="))
        if not equals or not label:
            raise UsageError(
                f"--map {text!r} has no label or no '='",
                "The form is LABEL=CLASS, or SET:LABEL=CLASS for one of several data sets",
                "Use --map glioma=Tumor",
            )
        if label_map.setdefault(label, name or None) != (name or None):
            raise UsageError(f"--map gives {label!r} two classes", "A label maps to one class", "Remove one of them")
    return label_map


def split_key(key: str, sets: Collection[str]) -> tuple[str | None, str]:
    """Returns the data set and the label of a key of a map; None for a label of every data set."""
    name = next((name for name in sorted(sets, key=len, reverse=True) if key.startswith(f"{name}:")), None)
    return name, clean_text(key if name is None else key[len(name) + 1 :])


def map_of_set(label_map: LabelMap, name: str, sets: Collection[str]) -> dict[str, str | None]:
    """Returns the map of one data set by label; ``SET:LABEL`` takes precedence over ``LABEL``.

    Args:
        label_map: The map.
        name: The data set.
        sets: The names of all data sets.
    """
    keys = [(*split_key(key, sets), target and clean_text(target)) for key, target in label_map.items()]
    general = {label: target for of, label, target in keys if of is None}
    return general | {label: target for of, label, target in keys if of == name}


def check_label_map(label_map: LabelMap, labels: Mapping[str, Collection[str]]) -> None:
    """Checks that every key of a map is a label of the data.

    Args:
        label_map: The map.
        labels: The labels of each data set; those of an empty collection are not known and not checked.

    Raises:
        UsageError: If a data set, or every one, lacks a label, or there is no such data set.
    """
    everywhere = sorted({label for present in labels.values() for label in present})
    for key in label_map:
        name, label = split_key(key, labels)
        present = everywhere if name is None else sorted(labels[name])
        if not present or label in present:
            continue
        stated, colon, rest = key.partition(":")
        if name is None and colon and clean_text(rest) in everywhere:
            raise UsageError(
                f"--map names the data set {stated!r}, which was not given",
                f"The data sets are {', '.join(labels)}",
                suggest(stated, labels),
            )
        owner, verb = ("No data set", "has") if name is None else (f"The data set {name}", "does not have")
        raise UsageError(f"{owner} {verb} the label {label!r}", f"The labels are {', '.join(present)}", suggest(label, present))
