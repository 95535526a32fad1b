"""The results of an audit as objects, and the content of ``audit.json``."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np

from reslink import __version__
from reslink.audit.burned_in_text import TextBox
from reslink.audit.checks import file_quality
from reslink.audit.checks.duplicates import NearDuplicates, find_group_leakage
from reslink.audit.checks.label_corrections import LabelCorrections
from reslink.audit.checks.label_errors import SuspectedError
from reslink.audit.checks.shortcuts import MARGIN, ProbeResult
from reslink.audit.checks.sources import SourceCheck, conflicts_between_sources, describe_source_conflicts
from reslink.audit.extract import FileFeatures
from reslink.audit.sampling import describe_sample
from reslink.datasets.case import Case
from reslink.datasets.label_conflicts import label_conflicts
from reslink.datasets.manifest import images_digest
from reslink.datasets.near_duplicates.groups import DuplicatePair
from reslink.datasets.shared_images import shared_images
from reslink.errors import counted
from reslink.labels import PRESENT

RESEARCH_NOTICE: Final = "Research use only. Not a medical device; not for diagnosis."

VERDICT_CHECKS: Final = ("label_conflicts", "shortcuts", "shortcuts: file_metadata", "shortcuts: outside_head")
"""Names in ``skipped_checks`` that make the verdict incomplete."""

NO_SPLIT: Final = "the data set has no split"
"""Reason in the check ``group_leakage`` of a data set without a split, which has no leakage to find."""

PROBE_INPUTS: Final = {
    "file_metadata": "file and header metadata",
    "outside_head": "pixels outside the head",
    "histogram": "gray histogram",
    "thumbnail": "very small thumbnail",
}

EXAMPLES_PER_CLASS: Final = 6


@dataclass(frozen=True)
class Check:
    """A check that the verdict depends on.

    Attributes:
        check: Its name.
        failed: Whether it failed.
        reason: The result in one sentence, without the full stop.
    """

    check: str
    failed: bool
    reason: str


@dataclass
class Audit:
    """The results of an audit as objects; :meth:`as_dict` returns the content of ``audit.json``.

    Attributes:
        cases: The cases that could be read.
        items: The features of each case.
        unreadable: Name of each case that could not be read, with the reason.
        near_duplicates: Near duplicates.
        probes: Results of the shortcut probes.
        suspected_errors: Likely label errors, worst first.
        findings: Problems of single files.
        skipped: Name of each check that was skipped, with the reason.
        patient_notes: How many patients were joined because they share an examination, and which data sets have none.
        class_names: The classes that occur in ``cases``; of several labels at once, all of them.
        several_labels: Whether ``cases`` have several labels at once.
        label_error_source: Where the probabilities of the label error check come from.
        label_error_caution: Why these probabilities are poor; '' for a quick model, or if they are good.
        sources: The source of each case; '' if unknown.
        source_check: What the sources reveal; None if there are fewer than two.
        label_corrections: Labels corrected by a trusted source; None if none was named.
    """

    cases: Sequence[Case]
    items: Sequence[FileFeatures]
    unreadable: dict[str, str]
    near_duplicates: NearDuplicates
    probes: list[ProbeResult] = field(default_factory=list)
    suspected_errors: list[SuspectedError] = field(default_factory=list)
    findings: list[file_quality.Finding] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    patient_notes: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    several_labels: bool = False
    label_error_source: str = "quick model"
    label_error_caution: str = ""
    sources: Sequence[str] = ()
    source_check: SourceCheck | None = None
    label_corrections: LabelCorrections | None = None

    @cached_property
    def hashes(self) -> list[str]:
        """The SHA-256 of the file of each case."""
        return [item.sha256 for item in self.items]

    def as_dict(self) -> dict[str, Any]:
        """Returns the JSON form."""
        leakage = find_group_leakage(self.cases, self.near_duplicates)
        conflicts = label_conflicts(self.cases, self.near_duplicates.pairs, self.hashes)
        checks = [self._leakage_check(leakage), self._conflict_check(len(conflicts)), *self._shortcut_checks()]
        return {
            "reslink": __version__,
            "images": len(self.cases) + len(self.unreadable),
            "classes": self._class_counts(),
            "several_labels": self.several_labels,
            "groups": len(set(self.near_duplicates.groups)),
            "patients": len({case.patient_id for case in self.cases} - {None}),
            "patients_from_headers": len({case.patient_id for case in self.cases if case.patient_from_header}),
            "near_duplicates": [self._names(rows) for rows in self.near_duplicates.duplicate_groups()],
            "near_duplicate_pairs": [self._pair_dict(pair) for pair in self.near_duplicates.pairs],
            "group_leakage": leakage,
            "label_conflicts": [self._names(rows) for rows in conflicts],
            **self._source_results(),
            "shortcuts": [probe.as_dict() | {"examples": self._examples(probe)} for probe in self.probes],
            **self._text_and_identity(),
            "suspected_label_errors": [self._error_dict(error) for error in self.suspected_errors],
            "label_error_source": self.label_error_source,
            "label_error_caution": self.label_error_caution,
            "files": self._findings_by_kind(),
            "skipped_checks": [{"check": check, "reason": reason} for check, reason in self.skipped.items()],
            "checks": [asdict(check) for check in checks],
            "verdict": self._verdict(checks),
            "data_digest": images_digest((sha256, case.label) for case, sha256 in zip(self.cases, self.hashes, strict=True)),
            "notice": RESEARCH_NOTICE,
        }

    def _verdict(self, checks: Sequence[Check]) -> str:
        if any(check.failed for check in checks):
            return "fail"
        skipped = {": ".join(check.split(": ")[:2]) for check in self.skipped}  # without the label of a probe
        return "incomplete" if skipped & set(VERDICT_CHECKS) else "pass"

    def _class_counts(self) -> dict[str, int]:
        """Returns the number of cases of each class, or in which each of several labels is present."""
        if not self.several_labels:
            return dict(sorted(Counter(case.label for case in self.cases).items()))
        return {name: sum(case.states[k] == PRESENT for case in self.cases) for k, name in enumerate(self.class_names)}

    def _leakage_check(self, leakage: Sequence[dict[str, Any]]) -> Check:
        if not any(case.split for case in self.cases):
            return Check("group_leakage", False, NO_SPLIT)
        kinds = Counter(entry["kind"] for entry in leakage)
        groups, patients = counted(kinds["near_duplicates"], "group"), counted(kinds["patient"], "patient")
        return Check("group_leakage", bool(leakage), f"{groups} of near duplicates and {patients} in more than one split")

    def _conflict_check(self, count: int) -> Check:
        conflict = "a label that a copy or near duplicate does not have" if self.several_labels else "more than one label"
        return Check("label_conflicts", count > 0, f"{counted(count, 'image')} with {conflict}")

    def _shortcut_checks(self) -> list[Check]:
        return [Check(probe.name, probe.failed, describe_probe(probe)) for probe in self.probes if probe.is_check]

    def _text_and_identity(self) -> dict[str, Any]:
        words: dict[str, int] = {}
        boxes: dict[str, list[dict[str, Any]]] = {}
        identity: dict[str, list[str]] = {}
        for case, item in zip(self.cases, self.items, strict=True):
            if item.text_boxes:
                boxes[case.name] = [_box_dict(box) for box in item.text_boxes]
                if item.word_count is not None:
                    words[case.name] = item.word_count
            if item.identity:
                identity[case.name] = item.identity
        return {"burned_in_text": list(boxes), "text_words": words, "text_boxes": boxes, "identity": identity}

    def _source_results(self) -> dict[str, Any]:
        corrections = self.label_corrections
        result = {} if corrections is None else {"label_corrections": corrections.as_dict(self.cases, self.sources)}
        if self.source_check is None:
            return result
        pairs = conflicts_between_sources(self.cases, self.sources, self.near_duplicates.pairs)
        conflicts = [
            self._pair_dict(pair)
            | {
                "labels": [self.cases[i].label for i in (pair.first, pair.second)],
                "sources": [self.sources[i] for i in (pair.first, pair.second)],
            }
            for pair in pairs
        ]
        return result | {
            "sources": self.source_check.as_dict(),
            "source_conflicts": conflicts,
            "shared_images": shared_images(self.sources, self.near_duplicates.pairs),
            "source_conflict_notes": describe_source_conflicts(self.cases, self.sources, pairs),
        }

    def _names(self, rows: Sequence[int]) -> list[str]:
        return [self.cases[i].name for i in rows]

    def _pair_dict(self, pair: DuplicatePair) -> dict[str, Any]:
        return {
            "paths": self._names((pair.first, pair.second)),
            "correlation": round(float(pair.correlation), 3),
            "orientation": int(pair.orientation),
            "same_file": self.hashes[pair.first] == self.hashes[pair.second],
        }

    def _error_dict(self, error: SuspectedError) -> dict[str, Any]:
        return {
            "path": self.cases[error.row].name,
            "given": self.class_names[error.given],
            "suggested": self.class_names[error.suggested],
            "score": error.score,
            "confident": error.confident,
        }

    def _examples(self, probe: ProbeResult) -> dict[str, list[str]]:
        """Returns, for each class or state of a label, the correctly classified cases with the highest probability."""
        if not probe.above_chance:
            return {}
        cases = [self.cases[i] for i in probe.rows]
        if probe.label is None:
            names: tuple[str, ...] = self.class_names
            targets = np.array([names.index(case.label) for case in cases])
        else:
            names = (f"without {probe.label}", f"with {probe.label}")
            targets = np.array([case.states[self.class_names.index(probe.label)] for case in cases])
        examples = {}
        for k, name in enumerate(names):
            correct = np.flatnonzero((targets == k) & (probe.y_prob.argmax(axis=1) == k))
            best = correct[np.argsort(-probe.y_prob[correct, k], kind="stable")][:EXAMPLES_PER_CLASS]
            examples[name] = [self.cases[probe.rows[i]].name for i in best]
        return examples

    def _findings_by_kind(self) -> dict[str, list[dict[str, str]]]:
        by_kind: dict[str, list[dict[str, str]]] = defaultdict(list)
        for finding in self.findings:
            by_kind[finding.kind].append({"path": finding.path, "message": finding.message})
        return {kind: by_kind.get(kind, []) for kind in file_quality.KINDS}


def describe_probe(probe: ProbeResult) -> str:
    """Returns the result of a probe in one sentence, without the full stop."""
    value = probe.balanced_accuracy
    interval = "" if value.ci_low is None else f" (95 % interval {value.ci_low:.3f} to {value.ci_high:.3f})"
    metric = f"{value.estimate:.3f}{interval}"
    metric += "" if probe.sampled_from is None else f" {describe_sample(len(probe.rows), probe.sampled_from)}"
    metric += "" if probe.label is None else f" for {probe.label!r}"
    source = f"from the {PROBE_INPUTS[probe.probe]} alone"
    if not probe.above_chance:
        return f"{source}, a model is no better than chance: balanced accuracy {metric}, chance {probe.chance:.3f}"
    if not probe.is_check:
        return f"{source}, a model reaches a balanced accuracy of {metric}, chance {probe.chance:.3f}"
    limit = "" if probe.failed else f"; the check fails above {probe.chance + MARGIN:.3f}"
    return (
        f"without seeing the brain, {source}, a model reaches a balanced accuracy of {metric}, chance {probe.chance:.3f}{limit}"
    )


def _box_dict(box: TextBox) -> dict[str, Any]:
    return {"top": box.top, "left": box.left, "height": box.height, "width": box.width, "in_head": box.in_head}
