"""Data set manifests: cases with class, patient, mask and split, read from class folders or a CSV table."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from reslink.datasets.csv_table import DATA_FORMATS, Row, read_table
from reslink.errors import InputError, UsageError, suggest
from reslink.files import sha256
from reslink.imaging.reading import MASK_FOLDERS
from reslink.labels import Labels
from reslink.notebook import html_table

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

_COLUMNS = ("path", "label", "patient_id", "mask", "split")
_SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
    "testing": "test",
}
_NOT_IMAGES = frozenset(
    {".csv", ".tsv", ".txt", ".json", ".jsonl", ".yaml", ".yml", ".md", ".rst", ".html", ".xml"}
    | {".pdf", ".xls", ".xlsx", ".doc", ".docx", ".py", ".ipynb"}
)
_NOT_IMAGE_NAMES = {"thumbs.db", "desktop.ini", "license", "licence", "readme", "dicomdir"}


@dataclass(frozen=True)
class Case:
    """One image with its label and metadata.

    Attributes:
        path: Absolute path of the image file.
        label: The class name, as in ``Manifest.labels``.
        patient_id: The patient, if known. Cases of one patient always belong in the same split.
        mask: Absolute path of the lesion mask: an image of the same size in which every nonzero value is lesion.
        split: The split stated by the data set, if any.
        name: The path relative to the root, with forward slashes; unique in the data set.
        extra: The other columns of the table, by header.
        patient_from_header: Whether ``patient_id`` was read from a DICOM header (``patient_ids.add_header_patients``).
    """

    path: Path
    label: str
    patient_id: str | None = None
    mask: Path | None = None
    split: Split | None = None
    name: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)
    patient_from_header: bool = False

    @property
    def stated_patient(self) -> str:
        """The patient stated by the data set, or '' if it states none."""
        return "" if self.patient_from_header else self.patient_id or ""


@dataclass(frozen=True)
class Manifest:
    """The cases of a data set and its class names in order.

    Attributes:
        cases: The cases, sorted by name for class folders, in row order for a table.
        labels: The class names, in the order of the network outputs.
        root: The folder that contains all files.
        columns: The headers of the table, in order; empty for class folders.
    """

    cases: tuple[Case, ...]
    labels: Labels
    root: Path
    columns: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Manifest({', '.join(f'{name}: {value}' for name, value in self._properties().items() if value is not None)})"

    def _repr_html_(self) -> str:
        return html_table("Manifest", self._properties())

    def _properties(self) -> dict[str, object]:
        """Returns name and value of what a person wants to know first."""
        classes, splits = Counter(case.label for case in self.cases), Counter(case.split for case in self.cases if case.split)
        patients = {case.patient_id for case in self.cases} - {None}
        return {
            "folder": self.root.name,
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
    ) -> Manifest:
        """Reads a data set: a folder of class folders, a folder with ``manifest.csv``, or a CSV file.

        A table has the columns ``path`` and ``label``. The columns ``patient_id``, ``mask`` and ``split`` (train, validation,
        test) are optional; other columns are kept in ``Case.extra``. Paths are relative to the folder of the table and must
        stay below it, unless all of them begin with ``../`` (as in a table that ``reslink split`` wrote to another folder).

        In a folder of class folders, each folder is a class, with images at any depth. Folders named ``masks`` are ignored.
        If all folders are named like splits (``Training``, ``Testing``), they must contain the class folders.

        Args:
            data: The folder or the CSV file.
            class_order: The class names in the desired order; sorted by name if None.
            labels: The classes of a trained model to evaluate on this data. The data may then lack classes, and a class may
                have a single case.
            rename: Label in the data to class name, such as ``{"glioma": "Tumor"}``. Cases of a label mapped to None are left
                out; unknown labels are ignored. Each case keeps its original label in ``extra["given_label"]``.
            for_training: Require at least two classes with two cases each. If False, a data set with one class ``X`` gets a
                second, empty class ``not X``.

        Raises:
            UsageError: If the folder does not exist or is empty, a column is missing, a row cannot be used (the message has
                its number), or the classes cannot be used for training: only one class, a class with one case, or two
                names that differ only in case.
        """
        source = Path(os.path.abspath(data))  # noqa: PTH100  (symbolic links stay as the user made them)
        table = source / "manifest.csv" if source.is_dir() else source
        if not source.exists():
            raise _data_error(f"{data} does not exist", "Check the path")
        try:
            cases, root, columns = _cases_of_table(table) if table.is_file() else (_cases_of_folder(source), source, ())
        except OSError as error:
            raise _data_error(f"{data} cannot be read: {error.strerror or error}", "Check the permissions") from error
        cases = cases if rename is None else _rename_labels(cases, rename)
        if labels is not None:
            _check_labels(cases, labels)
            return cls(tuple(cases), labels, root, columns)
        if not for_training and len({case.label for case in cases}) == 1:
            return cls(tuple(cases), Labels((cases[0].label, f"not {cases[0].label}")), root, columns)
        ordered = Labels.ordered((case.label for case in cases), class_order)
        if for_training:
            _check_counts(cases)
        return cls(tuple(cases), ordered, root, columns)

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def targets(self) -> list[int]:
        """The class index of each case."""
        index = {name: i for i, name in enumerate(self.labels.names)}
        return [index[case.label] for case in self.cases]

    def subset(self, indices: Iterable[int]) -> Manifest:
        """Returns a manifest with some of the cases, in the given order, and the same labels and root."""
        return replace(self, cases=tuple(self.cases[i] for i in indices))

    def digest(self, hashes: Mapping[str, str] | None = None) -> str:
        """Returns the SHA-256 of the data set: names, labels, patients, splits and the content of every file.

        It does not depend on the location of the data set or the order of its cases.

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
                    case.name,
                    case.label,
                    case.stated_patient,
                    case.split or "",
                    computed.get(case.name) or file_hash(case.path, case.name),
                    file_hash(case.mask, case.name) if case.mask else "",
                )
            )
            for case in self.cases
        ]
        return sha256("\n".join(["\0".join(self.labels.names), *sorted(lines)]))


def file_hash(path: Path, name: str) -> str:
    """Returns the SHA-256 of a file's content.

    Raises:
        InputError: If the file cannot be read; the message uses ``name``.
    """
    try:
        return sha256(path)
    except OSError as error:
        raise InputError(
            f"{name} cannot be read: {error.strerror or error}",
            "Each case needs a readable file",
            "Restore the file, or remove its row",
        ) from error


def _data_error(given: str, next_step: str) -> UsageError:
    return UsageError(given, DATA_FORMATS, next_step)


def _check_counts(cases: list[Case]) -> None:
    for label, n in sorted(Counter(case.label for case in cases).items()):
        if n < 2:
            raise UsageError(
                f"The class {label!r} has only one case",
                "Each class needs at least two cases, one for training and one for evaluation",
                f"Add images of {label!r}, or leave the class out",
            )


def _rename_labels(cases: list[Case], rename: Mapping[str, str | None]) -> list[Case]:
    """Renames labels and drops the cases whose label is mapped to None."""
    named = [(case, rename.get(case.label, case.label)) for case in cases]
    kept = [replace(case, label=name, extra={**case.extra, "given_label": case.label}) for case, name in named if name]
    if not kept:
        raise UsageError("No case is left", "At least one label of the data must map to a class", "Map a label to a class")
    return kept


def _check_labels(cases: list[Case], labels: Labels) -> None:
    for case in cases:
        if case.label not in labels.names:
            raise UsageError(
                f"{case.name} has the label {case.label!r}, which is not a class of the model",
                f"The model's classes are {', '.join(labels.names)}",
                suggest(case.label, labels.names),
            )


def _cases_of_folder(root: Path) -> list[Case]:
    folders = _class_folders(root)
    if not folders:
        if any(not entry.name.startswith(".") for entry in root.iterdir()):
            raise _data_error(
                f"{root} has no class folders and no manifest.csv", "Put the images of each class into a folder of their own"
            )
        raise _data_error(f"{root} is empty", "Check the path")
    splits = [_SPLIT_NAMES.get(folder.name.casefold()) for folder in folders]
    if not all(splits):
        return _cases_of_classes(root, folders, None)
    inner = [(_class_folders(folder), split) for folder, split in zip(folders, splits, strict=True)]
    for folder, (classes, _) in zip(folders, inner, strict=True):
        if not classes:
            raise _data_error(f"{folder} is named like a split but has no class folders", "Put the class folders into it")
    return [case for classes, split in inner for case in _cases_of_classes(root, classes, split)]


def _class_folders(root: Path) -> list[Path]:
    folders = (entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return sorted(folder for folder in folders if folder.name.casefold() not in MASK_FOLDERS)


def _cases_of_classes(root: Path, folders: list[Path], split: Split | None) -> list[Case]:
    cases: list[Case] = []
    if len({folder.name.strip() for folder in folders}) < len(folders):
        raise _data_error(f"Two class folders in {root} have the same name apart from spaces", "Rename or merge them")
    for folder in folders:
        files = list(image_files(folder))
        if not files:
            raise _data_error(
                f"The class folder {folder.name!r} in {folder.parent} has no images", "Add images, or remove the folder"
            )
        label = folder.name.strip()
        cases += [Case(file, label, split=split, name=file.relative_to(root).as_posix()) for file in files]
    return cases


def image_files(folder: Path) -> Iterable[Path]:
    """Yields every possible image file at any depth, sorted; the content is checked later."""
    for parent, folders, files in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if _may_hold_images(name))
        paths = (Path(parent) / name for name in sorted(files) if _may_be_image(name))
        yield from (
            path for path in paths if path.is_file() or not path.exists()
        )  # skips pipes and devices; broken links are reported later


def _may_hold_images(folder: str) -> bool:
    return not folder.startswith(".") and folder.casefold() not in MASK_FOLDERS


def _may_be_image(name: str) -> bool:
    path = PurePosixPath(name.casefold())
    hidden = name.startswith(".")
    return not hidden and path.suffix not in _NOT_IMAGES and not {path.name, path.stem} & _NOT_IMAGE_NAMES


def _cases_of_table(table: Path) -> tuple[list[Case], Path, tuple[str, ...]]:
    """Returns the cases of a table, the folder that contains their files, and the headers."""
    rows = read_table(table, _COLUMNS, required=("path", "label"))
    folder, root = _table_folders(rows, table.parent)
    cases: dict[str, tuple[int, Case]] = {}
    for row in rows:
        case = _case_of_row(row, folder, root)
        first, former = cases.setdefault(case.name, (row.number, case))
        if former != case:
            raise _conflict_error(row, first, former, case)
    if not cases:
        raise _data_error(f"{table} has no rows below its header", "Add a row for each image")
    return [case for _, case in cases.values()], root, tuple(rows[0].cells)


def _table_folders(rows: Sequence[Row], folder: Path) -> tuple[Path, Path]:
    """Returns the folder that paths are relative to, and the root that must contain them.

    Both are the folder of the table, unless all paths begin with ``../``. Then the root is the closest folder that contains
    all files, and ``..`` is resolved on the real path, not through symbolic links.
    """
    cells = [row.get(column).replace("\\", "/") for row in rows for column in ("path", "mask") if row.get(column)]
    if not cells or not all(cell.startswith("../") for cell in cells):
        return folder, folder
    real = Path(os.path.realpath(folder))
    root = Path(os.path.commonpath([os.path.dirname(os.path.normpath(real / cell)) for cell in cells]))  # noqa: PTH120
    return (folder, folder) if root == Path(root.anchor) else (real, root)


def _conflict_error(row: Row, first: int, former: Case, case: Case) -> UsageError:
    if former.label != case.label:
        difference = f"with the label {case.label!r}, but row {first} has {former.label!r}"
    else:
        difference = f"with other details than row {first}"
    return row.error(f"names {case.name!r} again {difference}", "Each image has one row", "Remove one of the two rows")


def _case_of_row(row: Row, folder: Path, root: Path) -> Case:
    path = _resolve_file(row, "path", folder, root)
    mask = _resolve_file(row, "mask", folder, root) if row.get("mask") else None
    return Case(
        path=path,
        label=row.require("label"),
        patient_id=row.get("patient_id") or None,
        mask=mask,
        split=_parse_split(row),
        name=path.relative_to(root).as_posix(),
        extra={key: value for key, value in row.cells.items() if key not in _COLUMNS},
    )


def _parse_split(row: Row) -> Split | None:
    text = row.get("split")
    if not text:
        return None
    split = _SPLIT_NAMES.get(text.casefold())
    if split is None:
        raise row.error(f"has the split {text!r}", f"A split is one of {', '.join(SPLITS)}", suggest(text, SPLITS))
    return split


def _resolve_file(row: Row, column: str, folder: Path, root: Path) -> Path:
    """Returns the absolute path of a cell that is relative to ``folder``; it must be a file below ``root``."""
    text = row.require(column)
    if not text.isprintable():
        raise row.error(f"has a control character in {column!r}", "A path is printable text", "Correct the path")
    path = _resolve_below(row, text, folder, root)
    if "\\" in text and not path.exists():
        path = _resolve_below(row, text.replace("\\", "/"), folder, root)
    if path.is_dir():
        raise row.error(
            f"names the folder {text!r}",
            "A row names one file with one slice; a volume or a series has no single label",
            "Write one row per slice, with the same patient_id",
        )
    if not path.is_file():
        raise row.error(f"names {text!r}, which does not exist", f"Paths are relative to {folder}", "Correct the path")
    return path


def _resolve_below(row: Row, text: str, folder: Path, root: Path) -> Path:
    path = Path(os.path.normpath(folder / text))
    if not path.is_relative_to(root) and not ("\\" in text and path.is_relative_to(folder)):
        raise row.error(
            f"names {text!r}, which is outside {root}",
            "Paths stay below the folder of the table, or all its paths begin with ../",
            "Move the table to a folder above all its images",
        )
    return path
