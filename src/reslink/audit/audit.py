"""The audit of a data set: extract features of every file, run the checks, and decide whether the data set passes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from reslink import __version__
from reslink.audit.burned_in_text import TextBox
from reslink.audit.checks import file_quality
from reslink.audit.checks.duplicates import NearDuplicates, find_group_leakage
from reslink.audit.checks.given_predictions import GivenPredictions, caution
from reslink.audit.checks.label_corrections import LabelCorrections, write_corrections
from reslink.audit.checks.label_errors import SuspectedError, quick_model_probabilities, suspected_errors
from reslink.audit.checks.shortcuts import MARGIN, ProbeResult, probe_name, run_probes, with_holm_correction
from reslink.audit.checks.sources import (
    SourceCheck,
    check_source,
    check_sources,
    conflicts_between_sources,
    describe_source_conflicts,
    source_names,
)
from reslink.audit.cross_validation import Ints
from reslink.audit.extract import CaseFile, Extracted, Extraction, FileFeatures, Volume
from reslink.audit.extraction import extract_all
from reslink.datasets.cache.decode import check_not_in_worker
from reslink.datasets.cache.shards import choose_workers
from reslink.datasets.case import Case
from reslink.datasets.label_conflicts import label_conflicts
from reslink.datasets.manifest import Manifest, images_digest
from reslink.datasets.near_duplicates.groups import DuplicatePair
from reslink.datasets.patient_ids import add_header_patients
from reslink.datasets.shared_images import shared_images
from reslink.errors import UsageError, counted
from reslink.files import write_json
from reslink.labels import PRESENT, UNKNOWN
from reslink.training.monitoring.progress import Progress, SilentProgress

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

    def as_dict(self) -> dict[str, Any]:
        """Returns the JSON form."""
        leakage = find_group_leakage(self.cases, self.near_duplicates)
        conflicts = label_conflicts(self.cases, self.near_duplicates.pairs, [item.sha256 for item in self.items])
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
            "data_digest": images_digest((item.sha256, case.label) for case, item in zip(self.cases, self.items, strict=True)),
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
        cases = list(zip(self.cases, self.items, strict=True))
        with_text = [(case.name, item) for case, item in cases if item.text_boxes]
        return {
            "burned_in_text": [name for name, _ in with_text],
            "text_words": {name: item.word_count for name, item in with_text if item.word_count is not None},
            "text_boxes": {name: [_box_dict(box) for box in item.text_boxes] for name, item in with_text},
            "identity": {case.name: item.identity for case, item in cases if item.identity},
        }

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
            "same_file": self.items[pair.first].sha256 == self.items[pair.second].sha256,
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


def audit(
    manifest: Manifest,
    out: str | Path | None = None,
    *,
    progress: Progress | None = None,
    seed: int = 0,
    workers: int | None = None,
    predictions: GivenPredictions | None = None,
    labels_from: str | None = None,
    extract: Extraction | None = None,
) -> dict[str, Any]:
    """Audits a data set.

    It looks for near duplicates, train/test leakage, label conflicts, shortcuts, burned-in text, identifying attributes, label
    errors and broken files.

    Args:
        manifest: The cases. ``Manifest.open(data, for_training=False)`` also accepts a data set with a single class.
        out: Folder for ``audit.json``; None writes nothing.
        progress: Receives the progress.
        seed: Seed of folds, forests and bootstrap.
        workers: Number of processes that read files; 0 reads in this process, None chooses by the number of files.
        predictions: Out-of-fold predictions for the label error check, which is skipped for several labels at once; None fits a
            quick model.
        labels_from: A source whose labels are trusted: ``label_corrections.csv`` in ``out`` lists the images of other sources
            that are the same as one of its images and have another label.
        extract: Reads the files, on a cluster for example; None reads them in ``workers`` processes.

    Returns:
        The content of ``audit.json``. ``verdict`` is ``fail`` if one of ``checks`` failed, ``incomplete`` if none failed but
        one was skipped (see ``skipped_checks``), else ``pass``.

    Raises:
        UsageError: If no image can be read, or every file has several slices.
        StorageError: If ``out`` cannot be written.
    """
    audited = run_audit(
        manifest,
        progress=progress,
        seed=seed,
        workers=workers,
        predictions=predictions,
        labels_from=labels_from,
        extract=extract,
    )
    notes = [*manifest.notes, *audited.patient_notes]
    result = audited.as_dict() | {"columns": dict(manifest.column_roles), "data_notes": notes}
    if out is not None:
        write_json(Path(out) / "audit.json", result)
        if labels_from is not None:
            write_corrections(Path(out) / "label_corrections.csv", result["label_corrections"]["rows"])
    return result


def run_audit(
    manifest: Manifest,
    *,
    progress: Progress | None = None,
    seed: int = 0,
    workers: int | None = None,
    predictions: GivenPredictions | None = None,
    labels_from: str | None = None,
    extract: Extraction | None = None,
) -> Audit:
    """Audits a data set like :func:`audit`, but returns objects."""
    check_not_in_worker()
    if labels_from is not None:
        check_source(manifest, labels_from)
    progress = progress or SilentProgress()
    files = [CaseFile(case.name, case.path, case.unit) for case in manifest.cases]
    extract = extract or partial(_extract_here, workers=choose_workers(len(files)) if workers is None else workers)
    extracted = list(extract(files, progress))
    volumes = [item for item in extracted if isinstance(item, Volume)]
    if len(volumes) == len(extracted):
        raise series_refused(volumes[0].problem)
    results = [item.message if isinstance(item, Volume) else item for item in extracted]
    items = [item for item in results if isinstance(item, FileFeatures)]
    unreadable = {case.name: item for case, item in zip(manifest.cases, results, strict=True) if isinstance(item, str)}
    if not items:
        raise UsageError(
            f"None of the {len(unreadable)} images can be read",
            "At least one of them must be readable",
            f"The first error: {next(iter(unreadable.values())).removesuffix('.')}",
        )
    readable = manifest.subset(i for i, item in enumerate(results) if isinstance(item, FileFeatures))
    readable, patient_notes = add_header_patients(readable, [item.patient for item in items])
    notes = tuple(f"Patients: {note}" for note in (patient_notes.joined, patient_notes.missing) if note)
    for note in notes:
        progress.message(f"{note}.")
    progress.start(1, "Comparing images")
    near_duplicates = NearDuplicates.find(readable, np.stack([item.thumbnail for item in items]))
    progress.step()
    progress.end()
    result = Audit(
        readable.cases,
        items,
        unreadable,
        near_duplicates,
        patient_notes=notes,
        class_names=manifest.labels.names,
        several_labels=not manifest.labels.exclusive,
        sources=source_names(readable),
    )
    result.skipped |= {"patients from DICOM headers": patient_notes.unused} if patient_notes.unused else {}
    _check_labels(result, readable, progress, seed, predictions)
    result.source_check = check_sources(items, readable, near_duplicates.groups, seed)
    result.skipped |= {} if result.source_check is None else result.source_check.skipped
    if labels_from is not None:
        result.label_corrections = LabelCorrections.find(readable.cases, result.sources, near_duplicates.pairs, labels_from)
    _check_files(result, [case.name for case in manifest.cases], results)
    return result


def series_refused(problem: str) -> UsageError:
    """Returns the error for a data set of volumes, or with a folder of slices; ``problem`` names one of them."""
    return UsageError(
        problem,
        "The audit checks single slices; a table of series has no audit",
        "If each series has one label, use reslink split --case series, which finds near duplicates and leakage; otherwise "
        "save each slice as its own file, with the same patient_id",
    )


def _extract_here(files: Sequence[CaseFile], progress: Progress, workers: int) -> Iterator[Extracted]:
    progress.start(len(files), "Reading images")
    with closing(extract_all(files, workers)) as results:
        for item in results:
            yield item
            progress.step()
    progress.end()


def _check_files(result: Audit, names: Sequence[str], items: Sequence[FileFeatures | str]) -> None:
    """Runs the checks of single files, and reports text whose words could not be counted."""
    features = [item if isinstance(item, str) else item.image for item in items]
    result.findings, skipped = file_quality.check_files(names, features)
    result.skipped |= {f"files: {kind}": reason for kind, reason in skipped.items()}
    uncounted = sum(bool(item.text_boxes) and item.word_count is None for item in result.items)
    if uncounted:
        result.skipped["text_words"] = (
            f"the words in {counted(uncounted, 'image')} with text could not be counted; this needs the package pytesseract "
            "and the program tesseract"
        )


def _check_labels(
    result: Audit, manifest: Manifest, progress: Progress, seed: int, predictions: GivenPredictions | None
) -> None:
    """Runs the checks that need at least two classes: shortcuts and label errors."""
    if not manifest.labels.exclusive:
        _check_several_labels(result, manifest, progress, seed)
        return
    labels = {case.label for case in manifest.cases}
    if len(labels) < 2:
        for check in ("shortcuts", "label_conflicts", "suspected_label_errors"):
            result.skipped[check] = f"all images that could be read have the label {next(iter(labels))!r}"
        return
    result.class_names = tuple(name for name in manifest.labels.names if name in labels)
    targets = np.array([result.class_names.index(case.label) for case in manifest.cases], np.int64)
    progress.start(6, "Checking for shortcuts")
    _add_probes(result, np.arange(len(targets)), targets, progress, seed)
    result.probes = with_holm_correction(result.probes)
    _find_label_errors(result, targets, seed, predictions)
    progress.step(2)
    progress.end()


def _check_several_labels(result: Audit, manifest: Manifest, progress: Progress, seed: int) -> None:
    """Runs the shortcut probes for each of several labels, on the images in which it is known."""
    states = np.array(manifest.targets, np.int64)
    progress.start(4 * len(manifest.labels), "Checking for shortcuts")
    for k, label in enumerate(manifest.labels.names):
        known = np.flatnonzero(states[:, k] != UNKNOWN)
        _add_probes(result, known, states[known, k], progress, seed, label)
    result.probes = with_holm_correction(result.probes)
    result.skipped["suspected_label_errors"] = "it compares the classes of images, and these images have several labels at once"
    progress.end()


def _add_probes(result: Audit, rows: Ints, targets: Ints, progress: Progress, seed: int, label: str | None = None) -> None:
    """Runs the shortcut probes.

    Args:
        result: The audit, which receives the results.
        rows: (m,) indices of the cases.
        targets: (m,) their class indices, or the states of ``label``.
        progress: Receives a step per probe.
        seed: Seed of folds, forests and bootstrap.
        label: One of several labels at once; None for the class.
    """
    items, groups = [result.items[i] for i in rows], [result.near_duplicates.groups[i] for i in rows]
    num_classes = len(result.class_names) if label is None else 2
    for probe in run_probes(items, targets, groups, num_classes, seed, equal_shares=label is not None):  # most labels are rare
        if isinstance(probe, ProbeResult):
            result.probes.append(replace(probe, rows=rows[probe.rows], label=label))
        else:
            classes = "" if label is None else "with and without the label as the two classes, "
            result.skipped[f"shortcuts: {probe_name(probe[0], label)}"] = classes + probe[1]
        progress.step()


def _find_label_errors(result: Audit, targets: Any, seed: int, predictions: GivenPredictions | None) -> None:
    if predictions is None:
        rows, y_prob = np.arange(len(targets)), _quick_model_probabilities(result, targets, seed)
    else:
        rows, y_prob = predictions.rows([item.sha256 for item in result.items], result.class_names)
        result.label_error_source = f"given predictions for {len(rows)} of {counted(len(targets), 'image')}"
        result.label_error_caution = caution(y_prob, targets[rows], result.class_names)
    try:
        if isinstance(y_prob, str):
            result.skipped["suspected_label_errors"] = y_prob
        else:
            found = suspected_errors(y_prob, targets[rows])
            result.suspected_errors = [replace(error, row=int(rows[error.row])) for error in found]
    except UsageError as error:  # cleanlab is not installed; the other checks are still valid
        result.skipped["suspected_label_errors"] = str(error)


def _quick_model_probabilities(result: Audit, targets: Any, seed: int) -> Any:
    asymmetry = np.stack([item.asymmetry for item in result.items])
    thumbnails = np.stack([item.thumbnail for item in result.items])
    groups, num_classes = result.near_duplicates.groups, len(result.class_names)
    return quick_model_probabilities(asymmetry, thumbnails, targets, groups, num_classes, seed)


def describe_probe(probe: ProbeResult) -> str:
    """Returns the result of a probe in one sentence, without the full stop."""
    value = probe.balanced_accuracy
    interval = "" if value.ci_low is None else f" (95 % interval {value.ci_low:.3f} to {value.ci_high:.3f})"
    metric = f"{value.estimate:.3f}{interval}"
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
