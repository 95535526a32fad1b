"""The audit of a data set: extract features of every file, run the checks, and decide whether the data set passes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reslink.audit.checks import file_quality
from reslink.audit.checks.duplicates import NearDuplicates
from reslink.audit.checks.given_predictions import GivenPredictions, caution
from reslink.audit.checks.label_corrections import LabelCorrections, write_corrections
from reslink.audit.checks.label_errors import quick_model_probabilities, sampled_model_probabilities, suspected_errors
from reslink.audit.checks.shortcuts import ProbeResult, probe_name, run_probes, with_holm_correction
from reslink.audit.checks.sources import check_source, check_sources, source_names
from reslink.audit.cross_validation import Floats, Ints
from reslink.audit.extract import CaseFile, Extracted, Extraction, FileFeatures, Volume
from reslink.audit.extraction import extract_all
from reslink.audit.result import Audit
from reslink.audit.sampling import describe_sample, sample_cases
from reslink.audit.stored_features import StoredFeatures, make_store
from reslink.datasets.cache.decode import check_not_in_worker
from reslink.datasets.cache.shards import choose_workers
from reslink.datasets.manifest import Manifest
from reslink.datasets.near_duplicates import similar_rows
from reslink.datasets.near_duplicates.thumbnails import Thumbnails
from reslink.datasets.patient_ids import add_header_patients
from reslink.errors import UsageError, counted
from reslink.files import write_json
from reslink.labels import UNKNOWN
from reslink.training.monitoring.progress import Progress, SilentProgress


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
        UsageError: If no image can be read, every file has several slices, or faiss is missing for more than 50,000 images.
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
    similar_rows.check_index(len(manifest))
    files = [CaseFile(case.name, case.path, case.unit) for case in manifest.cases]
    extract = extract or partial(_extract_here, workers=choose_workers(len(files)) if workers is None else workers)
    items, unreadable = _features(manifest, extract(files, progress), progress)
    readable = manifest.subset(i for i, case in enumerate(manifest.cases) if case.name not in unreadable)
    readable, patient_notes = add_header_patients(readable, [item.patient for item in items])
    notes = tuple(f"Patients: {note}" for note in (patient_notes.joined, patient_notes.missing) if note)
    for note in notes:
        progress.message(f"{note}.")
    progress.start(1, "Comparing images")
    near_duplicates = NearDuplicates.find(readable, _thumbnails(items))
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
    result.skipped |= _left_out_pairs(len(items))
    _check_labels(result, readable, progress, seed, predictions)
    result.source_check = check_sources(items, readable, near_duplicates.groups, seed)
    result.skipped |= {} if result.source_check is None else result.source_check.skipped
    if labels_from is not None:
        result.label_corrections = LabelCorrections.find(readable.cases, result.sources, near_duplicates.pairs, labels_from)
    _check_files(result, [case.name for case in manifest.cases])
    return result


def _left_out_pairs(count: int) -> dict[str, str]:
    """Returns which similar images of a large data set were not compared, as an entry of ``Audit.skipped``."""
    if count <= similar_rows.BOUND_MIN_IMAGES:
        return {}
    reason = f"each image was compared with the {similar_rows.MAX_NEIGHBORS} that are most similar to it"
    reason += "; of many copies of one image, some pairs are not listed"
    if count > similar_rows.INDEX_MIN_IMAGES:
        reason += f". Among more than {similar_rows.INDEX_MIN_IMAGES:,} images, an index finds them, and misses some"
    return {"near_duplicates: less similar pairs": reason}


def _features(
    manifest: Manifest, extracted: Iterable[Extracted], progress: Progress
) -> tuple[Sequence[FileFeatures], dict[str, str]]:
    """Keeps the features of the files that can be used, on disk if they are many; also returns why others cannot be used.

    Raises:
        UsageError: If no image can be read, or every file has several slices.
    """
    items, unreadable, volumes = make_store(len(manifest), progress.message), dict[str, str](), []
    for case, item in zip(manifest.cases, extracted, strict=True):
        if isinstance(item, FileFeatures):
            items.append(item)
        elif isinstance(item, Volume):
            volumes.append(item.problem)
            unreadable[case.name] = item.message
        else:
            unreadable[case.name] = item
    if len(volumes) == len(manifest):
        raise series_refused(volumes[0])
    if not len(items):
        raise UsageError(
            f"None of the {len(unreadable)} images can be read",
            "At least one of them must be readable",
            f"The first error: {next(iter(unreadable.values())).removesuffix('.')}",
        )
    if isinstance(items, StoredFeatures):
        items.finish()
    return items, unreadable


def _thumbnails(items: Sequence[FileFeatures]) -> Thumbnails:
    return items.thumbnails() if isinstance(items, StoredFeatures) else np.stack([item.thumbnail for item in items])


def series_refused(problem: str) -> UsageError:
    """Returns the error for a data set of volumes, or with a folder of slices; ``problem`` names one of them."""
    return UsageError(
        problem,
        "The audit checks single slices; a table of series has no audit",
        "If each series has one label, use reslink split --case series, which finds near duplicates and leakage; otherwise "
        "save each slice as its own file, with the same patient_id",
    )


def _extract_here(files: Sequence[CaseFile], progress: Progress, workers: int) -> Iterator[Extracted]:
    progress.start(len(files), "Reading images", "file")
    with closing(extract_all(files, workers)) as results:
        for item in results:
            yield item
            progress.step()
    progress.end()


def _check_files(result: Audit, names: Sequence[str]) -> None:
    """Runs the checks of single files, and reports text whose words could not be counted."""
    items = iter(result.items)
    features = (result.unreadable.get(name) or next(items).image for name in names)
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
    groups, num_classes = result.near_duplicates.groups, len(result.class_names) if label is None else 2
    sample = sample_cases(targets, [groups[i] for i in rows], seed)
    total = None if len(sample) == len(rows) else len(rows)
    rows, targets = rows[sample], targets[sample]
    items, groups = [result.items[i] for i in rows], [groups[i] for i in rows]
    for probe in run_probes(items, targets, groups, num_classes, seed, equal_shares=label is not None):  # most labels are rare
        if isinstance(probe, ProbeResult):
            result.probes.append(replace(probe, rows=rows[probe.rows], label=label, sampled_from=total))
        else:
            classes = "" if label is None else "with and without the label as the two classes, "
            result.skipped[f"shortcuts: {probe_name(probe[0], label)}"] = classes + probe[1]
        progress.step()


def _find_label_errors(result: Audit, targets: Any, seed: int, predictions: GivenPredictions | None) -> None:
    if predictions is None:
        rows, y_prob = np.arange(len(targets)), _quick_model_probabilities(result, targets, seed)
    else:
        rows, y_prob = predictions.rows(result.hashes, result.class_names)
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


def _quick_model_probabilities(result: Audit, targets: Ints, seed: int) -> Floats | str:
    """Returns the out-of-fold probabilities of all cases; of many cases, the models are fitted on a sample."""
    groups, num_classes, total = result.near_duplicates.groups, len(result.class_names), len(targets)

    def read(rows: Ints) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        items = [result.items[i] for i in rows]
        return np.stack([item.asymmetry for item in items]), np.stack([item.thumbnail for item in items])

    sample = sample_cases(targets, groups, seed)
    if len(sample) == total:
        return quick_model_probabilities(*read(sample), targets, groups, num_classes, seed)
    result.label_error_source += f" fitted {describe_sample(len(sample), total)}"
    return sampled_model_probabilities(read, sample, targets, groups, num_classes, seed)
