"""Sources of a data set: labels that contradict each other between sources, and whether a source gives the label away."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from sklearn.tree import DecisionTreeClassifier

from reslink.audit.checks.shortcuts import ProbeName, ProbeResult, run_probes
from reslink.audit.cross_validation import Floats, Ints, balanced_accuracy, min_groups_per_class, out_of_fold_probabilities
from reslink.audit.extract import FileFeatures
from reslink.audit.sampling import sample_cases
from reslink.datasets.case import MAX_SOURCES, Case
from reslink.datasets.label_conflicts import MIN_CONFLICT_CORRELATION
from reslink.datasets.manifest import Manifest
from reslink.datasets.near_duplicates.groups import DuplicatePair
from reslink.errors import UsageError, counted, suggest
from reslink.labels import UNKNOWN
from reslink.metrics.intervals import MIN_GROUPS, Estimate

_PROBES: Final[tuple[ProbeName, ...]] = ("outside_head",)

MIN_SHARED_LABEL: Final = 0.1
"""Cramér's V from which the source predicts the label; a small effect by Cohen (1988) for two sources or two classes."""


def source_names(manifest: Manifest) -> list[str]:
    """Returns the source of each case: its data set if several were joined, else what the table states; '' if unknown."""
    return [manifest.set_of(case) or case.source or "" for case in manifest.cases]


def check_source(manifest: Manifest, name: str) -> None:
    """Checks that ``--labels-from`` names a source of the data, which has one class per image.

    Raises:
        UsageError: If it does not, or no other source is left.
    """
    manifest.labels.require_exclusive("--labels-from", "Omit --labels-from; the conflicts between the sources are listed")
    names = sorted(set(source_names(manifest)) - {""})
    if name not in names:
        allowed = f"The sources are {', '.join(names)}" if names else "The data states no sources: it has no column 'source'"
        step = suggest(name, names) if names else "Give several data sets, or a table with a column source"
        raise UsageError(f"--labels-from names {name!r}, which is not a source of the data", allowed, step)
    if len(names) < 2:
        raise UsageError(
            f"--labels-from names {name!r}, the only source of the data",
            "Labels of one source are compared with those of others",
            "Give the other data sets too",
        )


def conflicts_between_sources(
    cases: Sequence[Case], sources: Sequence[str], pairs: Iterable[DuplicatePair]
) -> list[DuplicatePair]:
    """Returns the near duplicates of different sources with labels that contradict each other, most similar first.

    Args:
        cases: The cases.
        sources: Their sources; '' if unknown.
        pairs: Their near duplicates, by row.
    """
    found = [
        pair
        for pair in pairs
        if pair.correlation >= MIN_CONFLICT_CORRELATION
        and sources[pair.first] != sources[pair.second]
        and sources[pair.first]
        and sources[pair.second]
        and cases[pair.first].contradicts(cases[pair.second])
    ]
    return sorted(found, key=lambda pair: (-pair.correlation, pair.first, pair.second))


@dataclass(frozen=True)
class LabelOfSource:
    """How well the source of an image predicts its label.

    Attributes:
        label: One of several labels at once; None for the class.
        balanced_accuracy: Out-of-fold balanced accuracy of the best guess for each source, with an interval over groups.
        chance: 1 / number of classes.
        cramers_v: Cramér's V of sources and classes, 0 (independent) to 1.
    """

    label: str | None
    balanced_accuracy: Estimate
    chance: float
    cramers_v: float

    @property
    def predicts(self) -> bool:
        """Whether the source predicts the label."""
        low = self.balanced_accuracy.ci_low
        return self.cramers_v >= MIN_SHARED_LABEL and low is not None and low > self.chance

    @property
    def undecided(self) -> bool:
        """Whether source and label are associated, but the groups are too few to tell whether that is chance."""
        return self.cramers_v >= MIN_SHARED_LABEL and not self.predicts

    def without_prediction(self) -> str:
        """Returns a sentence on a label that the source does not predict, as far as the data tell."""
        what = "the class" if self.label is None else repr(self.label)
        value = self.balanced_accuracy
        interval = "no interval" if value.ci_low is None else f"95 % interval {value.ci_low:.3f} to {value.ci_high:.3f}"
        numbers = f"balanced accuracy {value.estimate:.3f} ({interval}), chance {self.chance:.3f}"
        if self.undecided:
            return f"Too few groups to tell whether the source predicts {what}: Cramér's V {self.cramers_v:.3f}, {numbers}."
        return f"No sign that the source predicts {what}: {numbers}."


@dataclass(frozen=True)
class SourceCheck:
    """What the sources of a data set reveal; informational.

    Attributes:
        counts: Number of images of each label by source.
        outside_head: The probe that predicts the source from the pixels outside the head; None if it was skipped.
        labels: How well the source predicts each label that could be checked.
        skipped: Name of each part that could not be measured, with the reason.
    """

    counts: dict[str, dict[str, int]]
    outside_head: ProbeResult | None
    labels: tuple[LabelOfSource, ...]
    skipped: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Returns the JSON form."""
        probe = self.outside_head
        return {
            "counts": self.counts,
            "outside_head": None
            if probe is None
            else {
                "balanced_accuracy": probe.balanced_accuracy.as_dict(),
                "chance": probe.chance,
                "above_chance": probe.above_chance,
                "top_features": list(probe.top_features),
                **({} if probe.sampled_from is None else {"sample": {"images": len(probe.rows), "of": probe.sampled_from}}),
            },
            "labels": [
                {
                    "label": one.label,
                    "balanced_accuracy": one.balanced_accuracy.as_dict(),
                    "chance": one.chance,
                    "cramers_v": round(one.cramers_v, 4),
                    "predicts": one.predicts,
                    "undecided": one.undecided,
                }
                for one in self.labels
            ],
            "conclusion": self.conclusion(),
        }

    def conclusion(self) -> str:
        """Returns what follows from the results, in sentences."""
        recognized = self.outside_head is not None and self.outside_head.above_chance
        predicting = [one for one in self.labels if one.predicts]
        if not predicting:
            return " ".join(one.without_prediction() for one in self.labels)
        what = "the class" if predicting[0].label is None else " and ".join(repr(one.label) for one in predicting)
        advice = "Train with balanced sources (data.balance_sources=true), and evaluate on a source that was not trained on."
        if recognized:
            return (
                f"Source and label are confounded: a model can tell the source without seeing the brain, and it predicts "
                f"{what}. A model may learn the source instead of the disease. {advice}"
            )
        return f"The source predicts {what}, and a model may recognize it from the brain too. {advice}"


def check_sources(
    items: Sequence[FileFeatures], manifest: Manifest, groups: Sequence[str], seed: int = 0
) -> SourceCheck | None:
    """Measures whether the source can be told without the brain, and whether it predicts the label.

    Args:
        items: The features of each case.
        manifest: The n cases.
        groups: The group of each case; folds and intervals are over groups.
        seed: Seed of folds, forests and bootstrap.

    Returns:
        The results; None if fewer than two sources are stated.
    """
    sources = source_names(manifest)
    names = sorted(set(sources) - {""})
    if len(names) < 2:
        return None
    rows = np.array([i for i, source in enumerate(sources) if source], np.int64)
    numbers = np.array([names.index(sources[i]) for i in rows], np.int64)
    counts = _counts(manifest, sources, names)
    if len(names) > MAX_SOURCES:
        reason = f"there are {len(names)} sources, and at most {MAX_SOURCES} are compared"
        return SourceCheck(counts, None, (), {"sources": reason})
    group_of = np.array([groups[i] for i in rows])
    probe = _outside_head_probe(items, rows, numbers, group_of.tolist(), len(names), seed)
    measured = [
        (name, _label_of_source(numbers, *targets, group_of, name, seed)) for name, targets in _targets(manifest, rows).items()
    ]
    skipped = {"sources: outside_head": probe[1]} if isinstance(probe, tuple) else {}
    skipped |= {f"sources: {name or 'class'}": one for name, one in measured if isinstance(one, str)}
    labels = tuple(one for _, one in measured if isinstance(one, LabelOfSource))
    return SourceCheck(counts, None if isinstance(probe, tuple) else probe, labels, skipped)


def _outside_head_probe(
    items: Sequence[FileFeatures], rows: Ints, sources: Ints, groups: Sequence[str], num_sources: int, seed: int
) -> ProbeResult | tuple[ProbeName, str]:
    """Predicts the source, of some rows, from the pixels outside the head; of many rows, a sample is used."""
    sample = sample_cases(sources, groups, seed)
    group_of = [groups[i] for i in sample]
    [probe] = run_probes([items[i] for i in rows[sample]], sources[sample], group_of, num_sources, seed, probes=_PROBES)
    if isinstance(probe, tuple) or len(sample) == len(rows):
        return probe
    return replace(probe, sampled_from=len(rows))


def _counts(manifest: Manifest, sources: Sequence[str], names: Sequence[str]) -> dict[str, dict[str, int]]:
    parts = {name: manifest.subset(i for i, source in enumerate(sources) if source == name) for name in names}
    return {name: {label: part.label_counts()[label] for label in manifest.labels.names} for name, part in parts.items()}


def _targets(manifest: Manifest, rows: Ints) -> dict[str | None, tuple[Ints, int]]:
    """Returns class indices (−1 if unknown) and the number of classes, for the class or for each of several labels."""
    targets = np.array(manifest.targets, np.int64)[rows]
    if manifest.labels.exclusive:
        present, indices = np.unique(targets, return_inverse=True)  # the data may lack classes
        return {None: (np.asarray(indices, np.int64), len(present))}
    return {name: (targets[:, k], 2) for k, name in enumerate(manifest.labels.names)}


def _label_of_source(
    sources: Ints, targets: Ints, num_classes: int, groups: Any, label: str | None, seed: int
) -> LabelOfSource | str:
    """Measures one label, or returns the reason why it cannot be."""
    known = targets != UNKNOWN
    sources, targets, groups = sources[known], targets[known], groups[known]
    if num_classes < 2 or min_groups_per_class(targets, groups, num_classes) < 2:
        return "fewer than two classes have at least two independent groups of images"
    if (count := len(np.unique(groups))) < MIN_GROUPS:
        return f"there are {count} independent groups of images, and an interval needs at least {MIN_GROUPS}"
    one_hot = np.eye(int(sources.max()) + 1)[sources]

    def best_guess() -> DecisionTreeClassifier:
        return DecisionTreeClassifier(class_weight="balanced", random_state=seed)

    y_prob = out_of_fold_probabilities(one_hot, targets, groups, num_classes, best_guess, seed)
    chance = 1 / num_classes
    estimate, _ = balanced_accuracy(targets, y_prob.argmax(axis=1), groups, num_classes, chance, seed)
    return LabelOfSource(label, estimate, chance, cramers_v(sources, targets))


def cramers_v(first: Ints, second: Ints) -> float:
    """Returns Cramér's V of two categorical variables, 0 (independent) to 1 (Cramér 1946).

    Args:
        first: (n,) category indices.
        second: (n,) category indices.
    """
    counts: Floats = np.zeros((int(first.max()) + 1, int(second.max()) + 1))
    np.add.at(counts, (first, second), 1)
    counts = counts[counts.any(axis=1)][:, counts.any(axis=0)]
    smaller = min(counts.shape) - 1
    if smaller < 1:
        return 0.0
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
    return float(np.sqrt(((counts - expected) ** 2 / expected).sum() / counts.sum() / smaller))


def describe_source_conflicts(cases: Sequence[Case], sources: Sequence[str], conflicts: Sequence[DuplicatePair]) -> list[str]:
    """Returns a sentence, without the final period, for every two sources with contradicting labels."""
    kinds: dict[tuple[tuple[str, str], ...], list[float]] = defaultdict(list)
    for conflict in conflicts:
        kind = sorted((sources[row], cases[row].label) for row in (conflict.first, conflict.second))
        kinds[tuple(kind)].append(conflict.correlation)
    by_pair: dict[tuple[str, str], list[str]] = {}
    for ((first, label), (second, other)), values in sorted(kinds.items()):
        numbers = f"{counted(len(values), 'pair')}, correlation {min(values):.3f} to {max(values):.3f}"
        by_pair.setdefault((first, second), []).append(f"{label} in {first} and {other} in {second}: {numbers}")
    return [
        f"{first} and {second} label the same images differently ({'; '.join(texts)})"
        for (first, second), texts in by_pair.items()
    ]
