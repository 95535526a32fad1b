"""The audit of a data set: one visit to each file, then every check, a verdict, and a list for machines."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from reslink import __version__
from reslink.audit.checks import file_quality as file_checks
from reslink.audit.checks.duplicates import Copies, leaks
from reslink.audit.checks.label_errors import Suspect, quick_probabilities, suspects
from reslink.audit.checks.shortcuts import MARGIN, Shortcut, corrected, probe_all
from reslink.audit.extract import Measured, Visit, measure
from reslink.datasets.cache.decode import each, refuse_in_worker
from reslink.datasets.cache.pixel_cache import workers_for
from reslink.datasets.manifest import Case, Manifest
from reslink.datasets.patient_ids import with_header_patients
from reslink.datasets.printable_names import listable
from reslink.errors import UsageError
from reslink.files import write_json
from reslink.training.monitoring.progress import Progress, Silent

RESEARCH: Final = "Research use only. Not a medical device; not for diagnosis."

GATING: Final = ("label_conflicts", "shortcuts", "shortcuts: file_facts", "shortcuts: outside_head")
"""Names under which ``not_done`` holds checks that the verdict depends on."""

SPOKEN: Final = {
    "file_facts": "facts of the file and its header",
    "outside_head": "pixels outside the head",
    "histogram": "grey histogram",
    "thumbnail": "very small thumbnail",
}


@dataclass
class Audit:
    """The findings of an audit, as objects; :meth:`as_dict` is what ``audit.json`` holds.

    Attributes:
        cases: The cases that could be read.
        items: What was measured of each.
        unreadable: Why a case could not be read, by its name.
        copies: Near copies.
        shortcuts: What the probes reached.
        suspects: Likely label errors, worst first.
        findings: What is wrong with single files.
        not_done: Check and the reason why it could not be made.
    """

    cases: Sequence[Case]
    items: Sequence[Measured]
    unreadable: dict[str, str]
    copies: Copies
    shortcuts: list[Shortcut] = field(default_factory=list)
    suspects: list[Suspect] = field(default_factory=list)
    findings: list[file_checks.Finding] = field(default_factory=list)
    not_done: dict[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Returns the JSON form."""
        found = {
            "images": len(self.cases) + len(self.unreadable),
            "classes": dict(sorted(Counter(case.label for case in self.cases).items())),
            "groups": len(set(self.copies.groups)),
            "patients": len({case.patient_id for case in self.cases} - {None}),
            "patients_from_headers": len({case.patient_id for case in self.cases if case.patient_from_header}),
            "twins": [self._paths(rows) for rows in self.copies.sets()],
            "twin_pairs": [self._pair(pair) for pair in self.copies.pairs],
            "leaks": leaks(self.cases, self.copies),
            "label_conflicts": [self._paths(rows) for rows in self.copies.conflicts(self.cases)],
            "shortcuts": [probe.as_dict() | {"pictures": self._pictures(probe)} for probe in self.shortcuts],
            "burned_in_text": [case.name for case, item in self._read() if item.text],
            "text_words": {case.name: item.words for case, item in self._read() if item.text and item.words is not None},
            "text_boxes": {case.name: [_box(box) for box in item.text] for case, item in self._read() if item.text},
            "identity": {case.name: item.identity for case, item in self._read() if item.identity},
            "suspected_label_errors": [self._suspect(suspect) for suspect in self.suspects],
            "files": self._files(),
            "not_done": [{"check": check, "reason": reason} for check, reason in self.not_done.items()],
        }
        gates = list(_gates(found, self.shortcuts, self.cases))
        undone = [check for check in self.not_done if check in GATING]
        verdict = "fail" if any(gate["failed"] for gate in gates) else "incomplete" if undone else "pass"
        return {"reslink": __version__, **found, "gates": gates, "verdict": verdict, "notice": RESEARCH}

    def _read(self) -> Iterator[tuple[Case, Measured]]:
        return zip(self.cases, self.items, strict=True)

    def _paths(self, rows: Sequence[int]) -> list[str]:
        return [self.cases[i].name for i in rows]

    def _pair(self, pair: Any) -> dict[str, Any]:
        first, second = self._paths((pair.first, pair.second))
        exact = self.items[pair.first].sha256 == self.items[pair.second].sha256
        return {
            "paths": [first, second],
            "correlation": round(float(pair.correlation), 3),
            "orientation": int(pair.orientation),
            "same_file": exact,
        }

    def _suspect(self, suspect: Suspect) -> dict[str, Any]:
        return {
            "path": self.cases[suspect.row].name,
            "given": self.names[suspect.given],
            "suggested": self.names[suspect.suggested],
            "score": suspect.score,
            "confident": suspect.confident,
        }

    def _pictures(self, probe: Shortcut, most: int = 6) -> dict[str, list[str]]:
        """For each class the cases that the probe was rightly surest of."""
        if not probe.above_chance:
            return {}
        targets = np.array([self.names.index(self.cases[i].label) for i in probe.rows])
        result = {}
        for k, name in enumerate(self.names):
            mine = np.flatnonzero((targets == k) & (probe.y_prob.argmax(axis=1) == k))
            best = mine[np.argsort(-probe.y_prob[mine, k], kind="stable")][:most]
            result[name] = [self.cases[probe.rows[i]].name for i in best]
        return result

    def _files(self) -> dict[str, list[dict[str, str]]]:
        result: dict[str, list[dict[str, str]]] = defaultdict(list)
        for finding in self.findings:
            result[finding.kind].append({"path": finding.path, "message": finding.message})
        return {kind: result.get(kind, []) for kind in file_checks.KINDS}


def audit(
    manifest: Manifest,
    out: str | Path | None = None,
    *,
    progress: Progress | None = None,
    seed: int = 0,
    workers: int | None = None,
) -> dict[str, Any]:
    """Audits a data set: twins, leaks, label conflicts, shortcuts, burned-in text, identity, label errors, files.

    Args:
        manifest: The cases; ``Manifest.open(data, learnable=False)`` also takes a data set of one class.
        out: Folder in which ``audit.json`` is written; None writes nothing.
        progress: Told of the steps.
        seed: Of folds, forests and bootstrap.
        workers: Processes that read files; 0 reads in this one, None chooses by the number of files.

    Returns:
        What ``audit.json`` holds, ready for JSON. ``verdict`` is ``fail`` where a gate of ``gates`` failed, ``incomplete``
        where none did but one could not be checked (see ``not_done``), else ``pass``.

    Raises:
        UsageError: If not one image can be read.
        StorageError: If ``out`` cannot be written.
    """
    result = run(manifest, progress=progress, seed=seed, workers=workers).as_dict()
    if out is not None:
        write_json(Path(out) / "audit.json", result)
    return result


def run(manifest: Manifest, *, progress: Progress | None = None, seed: int = 0, workers: int | None = None) -> Audit:
    """Audits a data set; as :func:`audit`, but returns objects."""
    refuse_in_worker()
    listener = progress or Silent()
    manifest, unlisted = listable(manifest)
    measured = list(_visits(manifest, listener, workers_for(len(manifest)) if workers is None else workers))
    items = [item for item in measured if isinstance(item, Measured)]
    wrong = {case.name: item for case, item in zip(manifest.cases, measured, strict=True) if isinstance(item, str)} | unlisted
    if not items:
        raise UsageError(
            f"Not one of the {len(wrong)} images can be read; the first: {next(iter(wrong.values()))}",
            "An audit needs images that reslink can read: PNG, JPEG, TIFF, WebP, BMP, NPY, DICOM, NIfTI",
            "Look at one of the files",
        )
    readable = manifest.subset(i for i, item in enumerate(measured) if isinstance(item, Measured))
    part, nobody = with_header_patients(readable, [item.patient for item in items])
    listener.start(1, "Comparing images")
    copies = Copies.find(part, np.stack([item.thumbnail for item in items]))
    listener.step()
    listener.end()
    found = Audit(part.cases, items, wrong, copies, names=manifest.labels.names)
    found.not_done |= {"patients from DICOM headers": nobody} if nobody else {}
    _learn(found, part, listener, seed)
    _check_files(found, [case.name for case in manifest.cases], measured, unlisted)
    return found


def _check_files(found: Audit, names: Sequence[str], measured: Sequence[Measured | str], unlisted: dict[str, str]) -> None:
    """The checks of single files, and the count of words in what looks like text."""
    seen = [item if isinstance(item, str) else item.facts for item in measured]
    found.findings, skipped = file_checks.check([*names, *unlisted], [*seen, *unlisted.values()])
    found.not_done |= {f"files: {kind}": reason for kind, reason in skipped.items()}
    uncounted = sum(bool(item.text) and item.words is None for item in found.items)
    if uncounted:
        found.not_done["text_words"] = (
            f"the words in {_count(uncounted, 'image')} with text could not be counted: that takes the package pytesseract "
            "and the program tesseract"
        )


def _visits(manifest: Manifest, listener: Progress, workers: int) -> Iterator[Measured | str]:
    listener.start(len(manifest), "Reading images")
    with closing(each(measure, [Visit(case.name, case.path) for case in manifest.cases], workers)) as results:
        for item in results:
            yield item
            listener.step()
    listener.end()


def _learn(found: Audit, part: Manifest, listener: Progress, seed: int) -> None:
    """The checks that need classes: shortcuts and label errors."""
    classes = {case.label for case in part.cases}
    if len(classes) < 2:
        for check in ("shortcuts", "label_conflicts", "suspected_label_errors"):
            found.not_done[check] = f"all images that could be read have the label {next(iter(classes))!r}"
        return
    present = [name for name in part.labels.names if name in classes]
    found.names = tuple(present)
    targets = np.array([present.index(case.label) for case in part.cases], np.int64)
    listener.start(6, "Probing")
    for result in probe_all(found.items, targets, found.copies.groups, len(present), seed):
        if isinstance(result, Shortcut):
            found.shortcuts.append(result)
        else:
            found.not_done[f"shortcuts: {result[0]}"] = result[1]
        listener.step()
    found.shortcuts = corrected(found.shortcuts)
    _suspect_labels(found, targets, len(present), seed)
    listener.step(2)
    listener.end()


def _suspect_labels(found: Audit, targets: Any, num_classes: int, seed: int) -> None:
    halves = np.stack([item.halves for item in found.items])
    thumbnails = np.stack([item.thumbnail for item in found.items])
    y_prob = quick_probabilities(halves, thumbnails, targets, found.copies.groups, num_classes, seed)
    try:
        if isinstance(y_prob, str):
            found.not_done["suspected_label_errors"] = y_prob
        else:
            found.suspects = suspects(y_prob, targets)
    except UsageError as error:  # the extra is not installed; the rest of the audit stands
        found.not_done["suspected_label_errors"] = str(error)


def _gates(found: dict[str, Any], shortcuts: Sequence[Shortcut], cases: Sequence[Case]) -> Iterator[dict[str, Any]]:
    """Each gate with what it saw, in words."""
    if any(case.split for case in cases):
        kinds = Counter(leak["kind"] for leak in found["leaks"])
        copies, patients = _count(kinds["twins"], "group"), _count(kinds["patient"], "patient")
        said = f"{copies} of near copies and {patients} on two sides of the given split"
        yield _gate("leaks", bool(found["leaks"]), said)
    else:
        yield _gate("leaks", False, "the data set states no split")
    conflicts = len(found["label_conflicts"])
    yield _gate("label_conflicts", conflicts > 0, f"{_count(conflicts, 'image')} under more than one label")
    for probe in shortcuts:
        if probe.gate:
            yield _gate(probe.probe, probe.failed, told(probe))


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _gate(name: str, failed: bool, reason: str) -> dict[str, Any]:
    return {"gate": name, "failed": failed, "reason": reason}


def told(probe: Shortcut) -> str:
    """Returns what a probe reached in one sentence, without the full stop."""
    value = probe.balanced_accuracy
    between = "" if value.ci_low is None else f" (95 % interval {value.ci_low:.3f} to {value.ci_high:.3f})"
    figure = f"{value.estimate:.3f}{between}, chance is {probe.chance:.3f}"
    seen = SPOKEN[probe.probe]
    if not probe.above_chance:
        return f"from the {seen} alone a model scores no better than chance: balanced accuracy {figure}"
    if not probe.gate:
        return f"from the {seen} alone a model scores a balanced accuracy of {figure}"
    limit = "" if probe.failed else f"; the gate is at {probe.chance + MARGIN:.3f}"
    return f"a model can score a balanced accuracy of {figure}, without looking at the brain, from the {seen} alone{limit}"


def _box(box: Any) -> dict[str, Any]:
    return {"top": box.top, "left": box.left, "height": box.height, "width": box.width, "in_head": box.in_head}
