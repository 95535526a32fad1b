"""Clean copy of a data set: no text, nothing outside the head, no identity, no exact duplicates, no conflicting labels."""

from __future__ import annotations

import itertools
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from reslink.audit.clean_copy.files import UidMapper, encode_clean_file
from reslink.audit.clean_copy.pixels import clean_pixels
from reslink.audit.identity import identifying_attributes
from reslink.datasets.case import Case
from reslink.datasets.columns import header_key
from reslink.datasets.manifest import Manifest
from reslink.datasets.patient_ids import add_header_patients
from reslink.errors import InputError, ReslinkError, UsageError
from reslink.files import csv_text, escape_formula, sha256, write_atomic
from reslink.imaging.image import Image
from reslink.imaging.lesion_mask import aligned_mask, encode_mask
from reslink.imaging.limits import MAX_FILE_BYTES
from reslink.imaging.reading import read_image
from reslink.labels import UNKNOWN
from reslink.remote_files import local_file
from reslink.training.monitoring.progress import Progress, SilentProgress, phase

PRIVATE_FOLDER: Final = "private"
"""Folder of the copy that names the source files. Do not share it."""

_OPTIONAL_COLUMNS: Final = ("patient_id", "mask", "split")


@dataclass(frozen=True)
class Change:
    """What happened to one case.

    Attributes:
        source: Name of the case in the data set.
        path: Its path in the copy, '' if it was excluded.
        action: ``copied``, ``cleaned`` or ``excluded``.
        reason: The changes or the reason for the exclusion, in words.
    """

    source: str
    path: str
    action: str
    reason: str


@dataclass(frozen=True)
class CleanCopy:
    """Result of writing a clean copy.

    Attributes:
        folder: Contains ``images/``, ``masks/``, ``manifest.csv`` and ``private/changes.csv``.
        changes: One per case, in the order of the data set.
        notes: Notes about the whole copy.
        failed: Readable cases that are missing, or lack their mask, because of an error.
    """

    folder: Path
    changes: tuple[Change, ...]
    notes: tuple[str, ...]
    failed: tuple[str, ...] = ()

    @property
    def kept(self) -> int:
        """Number of cases in the copy."""
        return sum(change.action != "excluded" for change in self.changes)


@dataclass
class _Written:
    """A case that has been written to the copy."""

    case: Case
    path: str
    mask: str
    patient: str
    pixels: str
    reasons: list[str] = field(default_factory=list)


def write_clean_copy(
    manifest: Manifest, audit: Mapping[str, Any], out: str | Path, *, progress: Progress | None = None
) -> CleanCopy:
    """Writes a clean copy of a data set into a new folder; the source is not changed.

    In every image the pixels outside the head are blanked and letters are filled. The file is encoded again without metadata;
    DICOM files follow the Basic Application Level Confidentiality Profile (PS3.15 Annex E), with a new UID for each old one.
    Unreadable cases, exact duplicates of another case, and all images with more than one label are excluded. Files and patients
    get new names, in random order. Columns other than path, label (or those of several labels), patient_id, mask and split are
    dropped, because their content is unknown; the split is also dropped if the audit found leakage.

    The folder appears only when the copy is complete. Its ``private/changes.csv`` names the source files and is for the owner
    of the data only.

    Args:
        manifest: The data set.
        audit: Result of the audit; ``label_conflicts`` and ``group_leakage`` are used.
        out: A new or empty folder, outside the data set.
        progress: Receives the progress.

    Returns:
        The copy and what happened to each case.

    Raises:
        UsageError: If the folder is not empty or overlaps the data set, or if no case is left for the copy.
        StorageError: If a file cannot be written. No copy is left behind.
    """
    folder = Path(out).absolute()
    check_output_folder(folder, manifest)
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
    try:
        copy = _CopyWriter(manifest, audit, partial, progress or SilentProgress()).write()
        if folder.exists():
            folder.rmdir()
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return replace(copy, folder=folder)


def check_output_folder(folder: Path, manifest: Manifest) -> None:
    """Checks the output folder of a clean copy.

    Raises:
        UsageError: If the folder is not empty, or overlaps the data set.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(f"{folder} is not empty", "A clean copy needs a new or empty folder", "Choose another folder")
    resolved = folder.resolve()
    roots = [joined.root for joined in manifest.sets] or [manifest.root]
    sources = {*(root.resolve() for root in roots), *(case.path.resolve().parent for case in manifest.cases)}
    if any(resolved.is_relative_to(source) or source.is_relative_to(resolved) for source in sources):
        raise UsageError(f"{folder} overlaps the data set", "A clean copy must be outside its source", "Choose another folder")


class _CopyWriter:
    """Writes a clean copy case by case."""

    def __init__(self, manifest: Manifest, audit: Mapping[str, Any], folder: Path, progress: Progress) -> None:
        self._manifest, _ = add_header_patients(manifest)
        self._folder, self._progress = folder, progress
        self._conflicts = {name for group in audit.get("label_conflicts") or () for name in group}
        self._has_leakage = bool(audit.get("group_leakage"))
        self._new_uid = UidMapper(secrets.token_bytes(32))
        self._patients: dict[str, str] = {}
        self._excluded: dict[str, str] = {}
        self._written: dict[str, _Written] = {}
        self._by_pixels: dict[str, list[str]] = {}
        self._first: dict[str, str] = {}
        self._failed: list[str] = []

    def write(self) -> CleanCopy:
        cases = self._manifest.cases
        order = list(range(len(cases)))
        secrets.SystemRandom().shuffle(order)  # so that the numbers reveal neither a label nor the source
        with phase(self._progress, len(cases), "Writing the clean copy", "file"):
            for number, index in enumerate(order, start=1):
                self._add(cases[index], f"{number:06d}")
                self._progress.step()
        self._exclude_conflicts()
        if not self._written:
            raise UsageError(
                "No case is left for a clean copy", "A clean copy needs at least one readable case", self._first_reason()
            )
        changes = tuple(map(self._change, cases))
        write_atomic(
            self._folder / PRIVATE_FOLDER / "changes.csv", csv_text(("source", "path", "action", "reason"), _rows(changes))
        )
        write_atomic(self._folder / "manifest.csv", self._table())
        return CleanCopy(self._folder, changes, self._notes(), tuple(sorted(self._failed)))

    def _first_reason(self) -> str:
        return next(iter(self._excluded.values()), "The data set is empty")

    def _add(self, case: Case, number: str) -> None:
        """Writes one case, or records why it is excluded."""
        try:
            with local_file(case.path, MAX_FILE_BYTES) as path:  # a remote file is fetched once
                self._add_local(replace(case, path=path), number)
        except InputError as error:
            self._excluded[case.name] = str(error).replace(str(case.path), case.name)

    def _add_local(self, case: Case, number: str) -> None:
        if case.name in self._conflicts:
            self._excluded[case.name] = "the same image has more than one label"
            return
        digest = ""
        try:
            image = _one_slice(read_image(case.path, case.unit), case.name)
            digest = _digest(image)
            self._by_pixels.setdefault(digest, []).append(case.name)
            if digest in self._first:
                self._excluded[case.name] = f"the same pixels as {self._first[digest]}"
                return
            clean = clean_pixels(image)
            content, suffix = encode_clean_file(case.path, case.name, image, clean, self._new_uid)
        except ReslinkError as error:
            self._excluded[case.name] = str(error).replace(str(case.path), case.name)
            self._failed += [case.name] if digest else []
            return
        self._first[digest] = case.name
        write_atomic(self._folder / "images" / f"{number}{suffix}", content)
        removed = identifying_attributes(case.path)
        reasons = [*clean.notes, *([f"removed: {', '.join(removed)}"] if removed else [])]
        mask = self._mask(case, image, number, reasons)
        self._written[case.name] = _Written(case, f"images/{number}{suffix}", mask, self._patient(case), digest, reasons)

    def _mask(self, case: Case, image: Image, number: str, reasons: list[str]) -> str:
        if case.mask is None:
            return ""
        try:
            mask = aligned_mask(_one_slice(read_image(case.mask), f"The mask of {case.name}"), image)
            content = encode_mask(image.to_stored(mask.pixels))
        except ReslinkError as error:
            reasons.append(str(error).replace(str(case.mask), f"the mask of {case.name}"))
            self._failed.append(case.name)
            return ""
        write_atomic(self._folder / "masks" / f"{number}.png", content)
        return f"masks/{number}.png"

    def _patient(self, case: Case) -> str:
        """Returns the new name of the patient."""
        if not case.patient_id:
            return ""
        return self._patients.setdefault(case.patient_id, f"P{len(self._patients) + 1:05d}")

    def _exclude_conflicts(self) -> None:
        """Excludes all exact duplicates that have more than one label."""
        cases = {case.name: case for case in self._manifest.cases}
        for names in self._by_pixels.values():
            if any(cases[one].contradicts(cases[other]) for one, other in itertools.combinations(names, 2)):
                for name in names:
                    self._exclude(name, "the same pixels have more than one label")

    def _exclude(self, name: str, reason: str) -> None:
        self._excluded[name] = reason
        written = self._written.pop(name, None)
        if written is not None:
            for path in (written.path, written.mask):
                if path:
                    (self._folder / path).unlink()

    def _change(self, case: Case) -> Change:
        if case.name in self._excluded:
            return Change(case.name, "", "excluded", self._excluded[case.name])
        written = self._written[case.name]
        return Change(case.name, written.path, "cleaned" if written.reasons else "copied", "; ".join(written.reasons))

    def _table(self) -> str:
        rows = [
            {
                "path": item.path,
                **self._label_cells(item.case),
                "patient_id": item.patient,
                "mask": item.mask,
                "split": "" if self._has_leakage else item.case.split or "",
            }
            for item in sorted(self._written.values(), key=lambda item: item.path)
        ]
        optional = [name for name in _OPTIONAL_COLUMNS if any(row[name] for row in rows)]
        return csv_text(["path", *self._label_columns, *optional], rows)

    @property
    def _label_columns(self) -> tuple[str, ...]:
        labels = self._manifest.labels
        return ("label",) if labels.exclusive else labels.names

    def _label_cells(self, case: Case) -> dict[str, str]:
        if not case.states:
            return {"label": case.label}
        cells = ("" if state == UNKNOWN else str(state) for state in case.states)
        return dict(zip(self._label_columns, cells, strict=True))

    def _notes(self) -> tuple[str, ...]:
        notes = []
        if self._has_leakage and any(item.case.split for item in self._written.values()):
            notes.append(
                "The split was dropped, because near duplicates or patients were in more than one split. "
                "Make a new one with reslink split"
            )
        kept = set(map(header_key, self._label_columns))
        dropped = sorted({name for case in self._manifest.cases for name in case.extra if header_key(name) not in kept})
        if dropped:
            notes.append(f"The columns {', '.join(dropped)} were dropped, because they may identify a person")
        notes.append("Faint, small or single letters over the head may remain. Review the images before you share them")
        return tuple(notes)


def _one_slice(image: Image, name: str) -> Image:
    slices = image.slices()
    if len(slices) != 1:
        raise InputError(f"{name} has {len(slices)} slices", "A case is one slice", "Save each slice as a separate file")
    return slices[0]


def _digest(image: Image) -> str:
    head = f"{image.pixels.shape} {image.unit} {image.white} {image.inverted}".encode()
    return sha256(head + image.pixels.tobytes())


def _rows(changes: tuple[Change, ...]) -> list[dict[str, str]]:
    """Returns the rows of the table, safe to open in a spreadsheet."""
    return [{name: escape_formula(text) for name, text in vars(change).items()} for change in changes]
