"""A clean copy of a data set: no text, nothing outside the head, no identity, no doubles, no conflicting labels."""

from __future__ import annotations

import csv
import io
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from reslink.audit.clean_copy.files import NewUids, clean_file, mask_file
from reslink.audit.clean_copy.pixels import clean_pixels
from reslink.audit.identity import identifying
from reslink.datasets.manifest import Case, Manifest
from reslink.datasets.patient_ids import with_header_patients
from reslink.datasets.printable_names import listable
from reslink.errors import InputError, ReslinkError, UsageError
from reslink.files import sha256, spreadsheet_text, write_atomic
from reslink.imaging.image import Image
from reslink.imaging.reading import read_image
from reslink.training.monitoring.progress import Progress, Silent

PRIVATE: Final = "private"
"""Folder of the copy that names the sources and is not to be passed on."""

_COLUMNS: Final = ("path", "label", "patient_id", "mask", "split")


@dataclass(frozen=True)
class Change:
    """What became of one case.

    Attributes:
        source: The case's name in the data set.
        path: Its path in the copy, '' where it was left out.
        done: ``copied``, ``cleaned`` or ``left out``.
        reason: What was done to it and why, in words.
    """

    source: str
    path: str
    done: str
    reason: str


@dataclass(frozen=True)
class CleanCopy:
    """A clean copy that was written.

    Attributes:
        folder: Holds ``images/``, ``masks/``, ``manifest.csv`` and ``private/changes.csv``.
        changes: One a case, in the order of the data set.
        notes: What holds for the copy as a whole.
        failed: Cases that could be read and are missing, or lack their mask, because of an error.
    """

    folder: Path
    changes: tuple[Change, ...]
    notes: tuple[str, ...]
    failed: tuple[str, ...] = ()

    @property
    def kept(self) -> int:
        """Number of cases in the copy."""
        return sum(change.done != "left out" for change in self.changes)


@dataclass
class _Written:
    """A case that stands in the copy for now."""

    case: Case
    path: str
    mask: str
    patient: str
    pixels: str
    reasons: list[str] = field(default_factory=list)


def write_clean_copy(
    manifest: Manifest, audit: Mapping[str, Any], out: str | Path, *, progress: Progress | None = None
) -> CleanCopy:
    """Writes a clean copy of a data set into a new folder; the source is only read.

    In every image what lies outside the head is blanked and letters are filled; the file is written anew without metadata, a
    DICOM file under the Basic Application Level Confidentiality Profile (PS3.15 Annex E), with one new UID for each old one.
    Left out are cases that cannot be read, exact copies of another case, and one image under two labels, all of it. Files get
    numbers for names and patients new names, in an order without meaning. Columns other than path, label, patient_id, mask and
    split are left out, since nobody knows what they hold; the split too where the audit found leaks.

    The folder appears when it is whole. Its ``private/changes.csv`` names the sources: it is for the owner of the data.

    Args:
        manifest: The data set.
        audit: The result of the audit; ``label_conflicts`` and ``leaks`` are used.
        out: A new or empty folder, outside the data set.
        progress: Told about every case.

    Returns:
        The copy and what became of each case.

    Raises:
        UsageError: If the folder is not empty or not apart from the data set, or nothing is left for the copy.
        StorageError: If a file cannot be written; then there is no copy.
    """
    folder = Path(out).absolute()
    check_apart(folder, manifest)
    part = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
    try:
        copy = _Copy(manifest, audit, part, progress or Silent()).write()
        if folder.exists():
            folder.rmdir()
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return replace(copy, folder=folder)


def check_apart(folder: Path, manifest: Manifest) -> None:
    """Refuses a folder for a clean copy that is not empty, or not apart from the data set.

    Raises:
        UsageError: If it is one of these.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(
            f"{folder} is not empty", "A clean copy is written into a new or empty folder", "Choose another folder"
        )
    resolved = folder.resolve()
    sources = {manifest.root.resolve(), *(case.path.resolve().parent for case in manifest.cases)}
    if any(resolved.is_relative_to(source) or source.is_relative_to(resolved) for source in sources):
        raise UsageError(
            f"{folder} lies inside the data set", "A clean copy stands apart from its source", "Choose a folder elsewhere"
        )


class _Copy:
    """The copy while it is written."""

    def __init__(self, manifest: Manifest, audit: Mapping[str, Any], folder: Path, progress: Progress) -> None:
        listed, self._unlisted = listable(manifest)
        self._manifest, _ = with_header_patients(listed)
        self._folder, self._progress = folder, progress
        self._conflicts = {name for group in audit.get("label_conflicts") or () for name in group}
        self._leaks = bool(audit.get("leaks"))
        self._new_uid = NewUids(secrets.token_bytes(32))
        self._patients: dict[str, str] = {}
        self._left_out: dict[str, str] = {}
        self._written: dict[str, _Written] = {}
        self._by_pixels: dict[str, list[str]] = {}
        self._first: dict[str, str] = {}
        self._failed: list[str] = []

    def write(self) -> CleanCopy:
        cases = self._manifest.cases
        order = list(range(len(cases)))
        secrets.SystemRandom().shuffle(order)  # so that no number tells a label or leads back to the source
        self._progress.start(len(cases), "Writing the clean copy")
        try:
            for number, index in enumerate(order, start=1):
                self._add(cases[index], f"{number:06d}")
                self._progress.step()
        finally:
            self._progress.end()
        self._take_out_conflicts()
        if not self._written:
            raise UsageError("No case is left for a clean copy", "At least one case can be read", self._first_reason())
        unlisted = (Change(name, "", "left out", reason) for name, reason in self._unlisted.items())
        changes = (*map(self._change, cases), *unlisted)
        write_atomic(self._folder / PRIVATE / "changes.csv", _csv(("source", "path", "done", "reason"), _rows(changes)))
        write_atomic(self._folder / "manifest.csv", self._table())
        return CleanCopy(self._folder, changes, self._notes(), tuple(sorted(self._failed)))

    def _first_reason(self) -> str:
        return next(iter(self._left_out.values()), "The data set is empty")

    def _add(self, case: Case, number: str) -> None:
        """Writes one case, or notes why not."""
        if case.name in self._conflicts:
            self._left_out[case.name] = "the same image stands under two labels"
            return
        before = ""
        try:
            image = _one_slice(read_image(case.path), case.name)
            before = _digest(image)
            self._by_pixels.setdefault(before, []).append(case.name)
            if before in self._first:
                self._left_out[case.name] = f"the same pixels as {self._first[before]}"
                return
            clean = clean_pixels(image)
            content, suffix = clean_file(case.path, case.name, image, clean, self._new_uid)
        except ReslinkError as error:
            self._left_out[case.name] = str(error).replace(str(case.path), case.name)
            self._failed += [case.name] if before else []
            return
        self._first[before] = case.name
        write_atomic(self._folder / "images" / f"{number}{suffix}", content)
        told = identifying(case.path)
        reasons = [*clean.notes, *([f"removed: {', '.join(told)}"] if told else [])]
        mask = self._mask(case, number, reasons)
        self._written[case.name] = _Written(case, f"images/{number}{suffix}", mask, self._patient(case), before, reasons)

    def _mask(self, case: Case, number: str, reasons: list[str]) -> str:
        if case.mask is None:
            return ""
        try:
            content = mask_file(_one_slice(read_image(case.mask), f"The mask of {case.name}"))
        except ReslinkError as error:
            reasons.append(str(error).replace(str(case.mask), f"the mask of {case.name}"))
            self._failed.append(case.name)
            return ""
        write_atomic(self._folder / "masks" / f"{number}.png", content)
        return f"masks/{number}.png"

    def _patient(self, case: Case) -> str:
        """A new name, the same for the same patient."""
        known = case.patient_id
        return self._patients.setdefault(known, f"P{len(self._patients) + 1:05d}") if known else ""

    def _take_out_conflicts(self) -> None:
        """Of exact copies under two labels none stays."""
        labels = {case.name: case.label for case in self._manifest.cases}
        for names in self._by_pixels.values():
            if len({labels[name] for name in names}) > 1:
                for name in names:
                    self._take_out(name, "the same pixels stand under two labels")

    def _take_out(self, name: str, why: str) -> None:
        self._left_out[name] = why
        written = self._written.pop(name, None)
        if written is not None:
            for path in (written.path, written.mask):
                if path:
                    (self._folder / path).unlink()

    def _change(self, case: Case) -> Change:
        if case.name in self._left_out:
            return Change(case.name, "", "left out", self._left_out[case.name])
        written = self._written[case.name]
        return Change(case.name, written.path, "cleaned" if written.reasons else "copied", "; ".join(written.reasons))

    def _table(self) -> str:
        rows = [
            {
                "path": item.path,
                "label": item.case.label,
                "patient_id": item.patient,
                "mask": item.mask,
                "split": "" if self._leaks else item.case.split or "",
            }
            for item in sorted(self._written.values(), key=lambda item: item.path)
        ]
        columns = [name for name in _COLUMNS if name in ("path", "label") or any(row[name] for row in rows)]
        return _csv(columns, rows)

    def _notes(self) -> tuple[str, ...]:
        notes = []
        if self._leaks and any(item.case.split for item in self._written.values()):
            notes.append(
                "The split is left out, because near copies or patients stood on both sides; make one with reslink split"
            )
        dropped = sorted({name for case in self._manifest.cases for name in case.extra})
        if dropped:
            notes.append(f"The columns {', '.join(dropped)} are left out, because they may identify a person")
        notes.append("Faint, small or single letters over the head may be left: look at the pictures before you pass them on")
        return tuple(notes)


def _one_slice(image: Image, name: str) -> Image:
    slices = image.slices()
    if len(slices) != 1:
        raise InputError(f"{name} holds {len(slices)} slices", "A case is one slice", "Save the slices as files of their own")
    return slices[0]


def _digest(image: Image) -> str:
    head = f"{image.pixels.shape} {image.unit} {image.white} {image.inverted}".encode()
    return sha256(head + image.pixels.tobytes())


def _rows(changes: tuple[Change, ...]) -> list[dict[str, str]]:
    """For people, who open it in a spreadsheet."""
    return [{name: spreadsheet_text(text) for name, text in vars(change).items()} for change in changes]


def _csv(columns: list[str] | tuple[str, ...], rows: list[dict[str, str]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
