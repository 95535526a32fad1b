"""Data set manifests: cases with class, patient, mask and split, read from class folders or a table."""

from __future__ import annotations

import functools
import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from reslink.datasets.case import Case
from reslink.datasets.class_checks import check_class_names, check_counts, check_spellings
from reslink.datasets.class_folders import cases_of_folder
from reslink.datasets.columns import parse_columns
from reslink.datasets.corrections import apply_corrections
from reslink.datasets.label_columns import check_label_names, check_states
from reslink.datasets.manifest_table import TableCases, cases_of_table
from reslink.datasets.tables.files import find_table, is_manifest
from reslink.datasets.tables.rows import data_error
from reslink.datasets.unused_groupings import augmented_copies, unused_grouping
from reslink.errors import InputError, UsageError, as_sentence, suggest
from reslink.files import sha256
from reslink.imaging.limits import MAX_FILE_BYTES
from reslink.imaging.spellings import parse_sequence, parse_unit
from reslink.labels import (
    PRESENT,
    CaseKind,
    Labels,
    clean_text,
    is_missing,
)
from reslink.notebook import html_table
from reslink.printable_names import escape_name
from reslink.remote_files import content_hash, version_hash
from reslink.remote_paths import RemotePath, parse_remote

_log = logging.getLogger(__name__)


class DataSet(NamedTuple):
    """One of several data sets that were joined.

    Attributes:
        name: Its name, different from that of the others.
        root: The folder of its images.
        has_table: Whether it is a table; else a folder of class folders.
    """

    name: str
    root: Path
    has_table: bool


@dataclass(frozen=True)
class Manifest:
    """The cases of a data set and its class names in order.

    Attributes:
        cases: The cases, sorted by name for class folders, in row order for a table.
        labels: The class names, in the order of the network outputs.
        root: The folder that the names of the cases are relative to; it contains all files, except of a table whose files have
            no common folder.
        columns: The headers of the table, in order; empty for class folders. The columns of path, label, patient, mask and
            split have the names of these roles.
        notes: Sentences, without the final period, about what was not used or was inferred.
        column_roles: Role to header in the file, for every column of the table that is used.
        sets: The data sets that were joined (``joined_manifest.open_data_sets``), in order; empty for a single one. The name of
            a case begins with that of its set.
        label_changes: What changed the labels of the data, in order: a map with ``by`` (``map``), ``classes`` and ``labels``
            (number of changed or excluded labels), or a table of corrections with ``by`` (``corrections``), ``file``,
            ``sha256`` and ``labels``; with ``set`` if it concerns one of several data sets.
    """

    cases: tuple[Case, ...]
    labels: Labels
    root: Path
    columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    column_roles: Mapping[str, str] = field(default_factory=dict)
    sets: tuple[DataSet, ...] = ()
    label_changes: tuple[Mapping[str, Any], ...] = ()

    def __repr__(self) -> str:
        return f"Manifest({', '.join(f'{name}: {value}' for name, value in self._properties().items() if value is not None)})"

    def _repr_html_(self) -> str:
        return html_table("Manifest", self._properties())

    def _properties(self) -> dict[str, object]:
        """Returns name and value of what a person wants to know first."""
        classes, splits = self.label_counts(), Counter(case.split for case in self.cases if case.split)
        patients = {case.patient_id for case in self.cases} - {None}
        return {
            **({"data sets": self.name} if self.sets else {"folder": self.name}),
            "cases": len(self.cases),
            "classes": ", ".join(f"{name} {classes[name]}" for name in self.labels.names),
            "patients": len(patients) or None,
            "splits": ", ".join(f"{name} {n}" for name, n in splits.items()) or None,
            "lesion masks": sum(case.mask is not None for case in self.cases) or None,
        }

    @classmethod
    def open(
        cls,
        data: str | Path,
        class_order: Sequence[str] | None = None,
        *,
        labels: Labels | None = None,
        rename: Mapping[str, str | None] | None = None,
        for_training: bool = True,
        columns: Mapping[str, str] | Sequence[str] | None = None,
        root: str | Path | None = None,
        unit: str | None = None,
        case: CaseKind = "slice",
        label_columns: Sequence[str] | None = None,
        corrections: str | Path | None = None,
    ) -> Manifest:
        """Reads a data set: a folder of class folders, a folder with ``manifest.csv``, or a table (CSV or Parquet).

        A table has the columns ``path`` and ``label``. The columns ``patient_id``, ``source``, ``mask``, ``split`` (train,
        validation, test), ``unit`` (hu, mr, gray) and ``sequence`` (T1, T1C+, T2, FLAIR, …) are optional; other columns are
        kept in ``Case.extra``. Other common spellings, such as ``filename``, ``Class`` or ``PatientID``, are understood;
        ``column_roles``, ``notes`` and the log say which column was used. Paths are absolute, or relative to ``root``.

        Labels and patient ids are compared in one form (:func:`reslink.labels.clean_text`). Names that differ only in case,
        spacing or number format are refused.

        In a folder of class folders, each folder is a class, with images at any depth. Folders named like splits (``Training``,
        ``test_set``) may contain the class folders, or be in them. Links are followed. Hidden files, folders named ``masks``,
        and files that are not images are skipped; ``notes`` and the log count them.

        Args:
            data: The folder or the table: a CSV or Parquet file, or a folder of Parquet files.
            class_order: The class names in the desired order; sorted by name if None.
            labels: The classes of a trained model to evaluate on this data. The data may then lack classes, and a class may
                have a single case.
            rename: Label in the data to class name, such as ``{"glioma": "Tumor"}``. Cases of a label mapped to None are left
                out; unknown labels are ignored. Each case keeps its original label in ``extra["given_label"]``.
            for_training: Require at least two classes with two cases each. If False, a data set with one class ``X`` gets a
                second, empty class ``not X``.
            columns: Role to header of a table, or texts such as ``patient=MRN``; an empty header means no such column.
            root: The folder that the paths of a table start from; default: the folder of the table.
            unit: ``hu``, ``mr`` or ``gray`` for the cases whose table states no unit; default: the values decide.
            case: Whether a row of a table is a slice, or a series with one label: a folder with the DICOM files of one series,
                or a file with one or several slices. Class folders have no series.
            label_columns: Columns of a table with several labels at once (1, 0 or empty), instead of a class per image.
                ``labels`` that are not exclusive name these columns too.
            corrections: A CSV of corrected labels, such as ``label_corrections.csv`` of ``reslink audit --labels-from``. Each
                corrected case keeps the label of the data in ``extra["given_label"]``.

        Raises:
            UsageError: If the folder does not exist or is empty, a column is missing, a row cannot be used (the message has
                its number), two columns could be meant, names differ only in their spelling, or the classes cannot be used for
                training: only one class, a class with one case, or a rare one that looks misspelled.
        """
        several = _several_labels(labels, label_columns)
        if several is not None and rename is not None:
            several.require_exclusive("Renaming of classes", "Rename the columns of the table")
        known = {clean_text(name) for names in (class_order, labels and labels.names, rename) for name in names or ()}
        read = read_cases(data, columns, root, known, several.names if several else (), case)
        read = read if rename is None else rename_cases(read, rename)
        if corrections is not None:
            read = apply_corrections(read, corrections, [data_set_name(data)], labels=several or labels)
        read = replace(read, cases=read.cases if unit is None else with_stated_unit(read.cases, unit))
        read = with_grouping_notes(read)
        return cls.of_cases(read, class_order, labels=several or labels, for_training=for_training and labels is None)

    @classmethod
    def of_cases(
        cls,
        read: TableCases,
        class_order: Sequence[str] | None = None,
        *,
        labels: Labels | None = None,
        for_training: bool = True,
        sets: Sequence[DataSet] = (),
    ) -> Manifest:
        """Chooses and checks the classes of some cases, as :meth:`open` does.

        Args:
            read: The cases and the remarks on them.
            class_order: The class names in the desired order; sorted by name if None.
            labels: Several labels at once, or the classes of a trained model.
            for_training: Whether the classes, or labels, must be enough to train.
            sets: The data sets that were joined.

        Raises:
            UsageError: As :meth:`open`.
        """
        cases = read.cases
        check_spellings(cases)
        several = labels is not None and not labels.exclusive
        of_labels = check_states(cases, labels, for_training=for_training) if labels is not None and several else []
        for sentence in of_labels:
            _log.warning("%s.", sentence)
        manifest = functools.partial(
            cls,
            root=read.root,
            columns=read.columns,
            notes=(*read.notes, *of_labels),
            column_roles=read.roles,
            sets=tuple(sets),
            label_changes=read.label_changes,
        )
        if labels is not None:
            return manifest(tuple(cases if several else _with_known_labels(cases, labels)), labels)
        counts = Counter(case.label for case in cases)
        if not for_training and len(counts) == 1:
            return manifest(tuple(cases), Labels((cases[0].label, f"not {cases[0].label}")))
        ordered = Labels.ordered(counts, class_order)
        if class_order is None:
            check_class_names(counts, stop=for_training)
        if for_training:
            check_counts(counts)
        return manifest(tuple(cases), ordered)

    @property
    def name(self) -> str:
        """The name of its folder, or the names of the data sets that were joined."""
        return ", ".join(joined.name for joined in self.sets) or self.root.name

    def set_of(self, case: Case) -> str:
        """Returns the name of the data set that a case comes from; '' if none were joined."""
        return case.name.partition("/")[0] if self.sets else ""

    @property
    def set_names(self) -> list[str]:
        """The name of the data set of each case, as :meth:`set_of`."""
        return [self.set_of(case) for case in self.cases]

    def __len__(self) -> int:
        return len(self.cases)

    def with_unit(self, unit: str) -> Manifest:
        """Returns the data set with a unit of the images for which neither file nor table states one: hu, mr or gray.

        Raises:
            UsageError: If there is no such unit.
        """
        return replace(self, cases=tuple(with_stated_unit(self.cases, unit)))

    def with_sequence(self, sequence: str) -> Manifest:
        """Returns the data set with an MR sequence, such as ``T1C+``, of the images for which the table states none.

        Raises:
            UsageError: If the text is empty.
        """
        stated = parse_sequence(sequence)
        return replace(self, cases=tuple(replace(case, sequence=case.sequence or stated) for case in self.cases))

    @property
    def targets(self) -> list[int] | list[tuple[int, ...]]:
        """The class index of each case; of several labels at once, their states."""
        if not self.labels.exclusive:
            return [case.states for case in self.cases]
        index = {name: i for i, name in enumerate(self.labels.names)}
        return [index[case.label] for case in self.cases]

    def label_counts(self) -> Counter[str]:
        """Returns the number of cases of each class; of several labels at once, of the cases in which each is present."""
        if self.labels.exclusive:
            return Counter(case.label for case in self.cases)
        present = ((case.states[k] == PRESENT for case in self.cases) for k in range(len(self.labels)))
        return Counter(dict(zip(self.labels.names, map(sum, present), strict=True)))

    def subset(self, indices: Iterable[int]) -> Manifest:
        """Returns a manifest with some of the cases, in the given order, and the same labels and root."""
        return replace(self, cases=tuple(self.cases[i] for i in indices))

    def digest(self, hashes: Mapping[str, str] | None = None) -> str:
        """Returns the SHA-256 of the data set: names, labels, patients, splits, units, sequences and the content of files.

        It does not depend on the location of the data set or the order of its cases, nor on their sources
        (:meth:`sources_digest`).

        Args:
            hashes: SHA-256 of image files by case name, if already computed (``PixelCache.file_hashes``); other files are
                read.

        Raises:
            InputError: If a file cannot be read.
        """
        computed = hashes or {}
        lines = [
            "\0".join(
                (
                    unicodedata.normalize("NFC", case.name),
                    case.label,
                    case.stated_patient,
                    case.split or "",
                    computed.get(case.name) or file_hash(case.path, case.name),
                    file_hash(case.mask, case.name) if case.mask else "",
                    *([case.unit] if case.unit else []),
                    *([case.sequence] if case.sequence else []),
                )
            )
            for case in self.cases
        ]
        return sha256("\n".join(["\0".join(self.labels.names), *sorted(lines)]))

    def sources_digest(self) -> str:
        """Returns a SHA-256 of the source of each case, which a training with ``data.balance_sources`` depends on."""
        pairs = (f"{unicodedata.normalize('NFC', case.name)}\0{case.source or ''}" for case in self.cases)
        return sha256("\n".join(sorted(pairs)))


def images_digest(images: Iterable[tuple[str, str]]) -> str:
    """Returns a SHA-256 of images and labels that does not depend on names, splits or order.

    Args:
        images: SHA-256 of the file and label of each image.
    """
    return sha256("\n".join(sorted("\0".join(image) for image in images)))


def file_hash(path: Path, name: str) -> str:
    """Returns the SHA-256 of a file's content; of a folder with a DICOM series, that of the hashes of its files.

    A remote file is not fetched if its storage states an entity tag: the hash is then that of its URL, entity tag and size.

    Raises:
        InputError: If the file cannot be read; the message uses ``name``.
    """
    if (remote := parse_remote(path)) is not None:
        return version_hash(remote) or content_hash(remote, MAX_FILE_BYTES)
    try:
        if path.is_dir():
            from reslink.imaging.dicom.series import dicom_files  # imports pydicom, which is slow

            return sha256("\n".join(sorted(map(sha256, dicom_files(path)))))
        return sha256(path)
    except OSError as error:
        raise InputError(
            f"{name} cannot be read: {error.strerror or error}",
            "Each case needs a readable file",
            "Restore the file, or remove its row",
        ) from error


def data_set_name(data: str | Path | Manifest) -> str:
    """Returns the name of a data set: that of its folder, or of its table without the extension."""
    if isinstance(data, Manifest):
        return escape_name(data.name)
    path = parse_remote(data) or Path(os.path.abspath(data))  # noqa: PTH100  (symbolic links stay as the user made them)
    folder = path.parent if is_manifest(path) else path
    return escape_name(folder.name if folder.is_dir() or folder is not path else folder.stem) or "data"


def read_cases(
    data: str | Path,
    columns: Mapping[str, str] | Sequence[str] | None,
    root: str | Path | None,
    known: Collection[str],
    label_columns: Sequence[str] = (),
    case_kind: CaseKind = "slice",
    *,
    set_name: str = "",
) -> TableCases:
    """Reads a table or class folders, and logs remarks on columns and files.

    Args:
        data: As for :meth:`Manifest.open`, as the other arguments.
        columns: Role to header of a table.
        root: The folder that the paths of a table start from.
        known: Class names that are labels even if they look like a missing value.
        label_columns: Columns of several labels at once.
        case_kind: Whether a row of a table is a slice or a series.
        set_name: The name of the data set where several are joined: messages begin with it, and it may lack columns of
            ``label_columns``, whose labels are then unknown.

    Raises:
        UsageError: As :meth:`Manifest.open`.
    """
    if not isinstance(data, str | os.PathLike):
        raise data_error(
            f"The data set is a {type(data).__name__}", "Save a DataFrame with to_csv, and give the path of the file"
        )
    remote = parse_remote(data)
    source = remote or Path(os.path.abspath(data))  # noqa: PTH100  (symbolic links stay as the user made them)
    if remote is None and not source.exists():
        raise data_error(f"{data} does not exist", "Check the path")
    try:
        table = find_table(source)
        if table is not None:
            read = cases_of_table(
                table, parse_columns(columns), _root_folder(root), known, label_columns, case_kind, may_lack=bool(set_name)
            )
            for sentence in filter(None, (read.inferred, *read.notes)):
                _log.warning("%s%s.", f"{set_name}: " if set_name else "", sentence)
            return read
        if columns or root is not None or label_columns:
            option = "--columns" if columns else "--root" if root is not None else "several labels at once"
            raise data_error(f"{option} was given for the folder {data}", "Give a table as DATA")
        if case_kind == "series":
            raise UsageError(
                f"{data} is a folder of class folders, and a case is a series",
                "Series are listed in a table with the columns path and label; a path names a volume or the folder of a series",
                "Write the table, such as manifest.csv in the folder, with a column patient_id",
            )
        cases, notes = cases_of_folder(source)
    except OSError as error:
        raise data_error(f"{data} cannot be read: {error.strerror or error}", "Check the permissions") from error
    cases = [replace(case, label=clean_text(case.label)) for case in cases]
    unnamed = next((case for case in cases if is_missing(case.label) and case.label not in known), None)
    if unnamed is not None:
        raise data_error(
            f"The class folder of {unnamed.name} is named {unnamed.label!r}, which means that the label is missing",
            "Rename the folder, or remove it",
        )
    return TableCases(cases, source, notes=notes)


def with_grouping_notes(read: TableCases, set_name: str = "") -> TableCases:
    """Returns the cases with remarks on groupings in their names that are not used, and logs these remarks."""
    sentences = [sentence for sentence in (unused_grouping(read.cases), augmented_copies(read.cases)) if sentence]
    for sentence in sentences:
        _log.warning("%s%s.", f"{set_name}: " if set_name else "", sentence)
    return replace(read, notes=(*read.notes, *sentences))


def _several_labels(labels: Labels | None, columns: Sequence[str] | None) -> Labels | None:
    """Returns several labels at once, of a model or as columns of a table; None for one class per image."""
    if labels is not None:
        return None if labels.exclusive else labels
    return None if columns is None else Labels(check_label_names(columns), exclusive=False)


def _root_folder(root: str | Path | None) -> Path | None:
    if root is None:
        return None
    folder = parse_remote(root) or Path(os.path.abspath(Path(root).expanduser()))  # noqa: PTH100  (as above)
    if not (isinstance(folder, RemotePath) or folder.is_dir()):
        raise UsageError(
            f"--root {root} is not a folder", "--root is the folder that the paths of a table start from", "Check the path"
        )
    return folder


def with_stated_unit(cases: Iterable[Case], unit: str) -> list[Case]:
    """Returns the cases with a unit where they have none.

    Raises:
        UsageError: If there is no such unit.
    """
    stated = parse_unit(unit)
    return [case if case.unit else replace(case, unit=stated) for case in cases]


def rename_cases(read: TableCases, rename: Mapping[str, str | None]) -> TableCases:
    """Returns the cases with renamed labels as :func:`rename_labels`, and a record of the change."""
    clean = {clean_text(label): name for label, name in rename.items()}
    counts = Counter(case.label for case in read.cases if clean.get(case.label, case.label) != case.label)
    change = {"by": "map", "classes": {label: clean[label] for label in counts}, "labels": counts.total()}
    changes = (*read.label_changes, change) if counts else read.label_changes
    return replace(read, cases=rename_labels(read.cases, rename), label_changes=changes)


def rename_labels(cases: Sequence[Case], rename: Mapping[str, str | None]) -> list[Case]:
    """Renames labels, which stay in ``extra["given_label"]``, and drops the cases whose label is mapped to None.

    Raises:
        UsageError: If no case is left.
    """
    rename = {clean_text(label): name for label, name in rename.items()}
    named = [(case, rename.get(case.label, case.label)) for case in cases]
    kept = [replace(case, label=name, extra={**case.extra, "given_label": case.label}) for case, name in named if name]
    if not kept:
        raise UsageError("No case is left", "At least one label of the data must map to a class", "Map a label to a class")
    return kept


def _with_known_labels(cases: Sequence[Case], labels: Labels) -> list[Case]:
    """Returns the cases with the class names of a model as it spells them."""
    names = {clean_text(name): name for name in labels.names}
    for case in cases:
        if case.label not in names and case.label not in labels.names:
            raise UsageError(
                f"{case.name} has the label {case.label!r}, which is not a class of the model",
                f"The model's classes are {', '.join(labels.names)}",
                f"{as_sentence(suggest(case.label, labels.names))} Or map or leave out the label with --map LABEL=CLASS of "
                "reslink external",
            )
    return [replace(case, label=names.get(case.label, case.label)) for case in cases]
