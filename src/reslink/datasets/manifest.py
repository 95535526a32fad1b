"""What a data set holds: its cases, their classes and patients, read from class folders or from a table."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from reslink.datasets.csv_table import DATA, Row, read_table
from reslink.errors import InputError, UsageError, nearest
from reslink.files import sha256
from reslink.imaging.reading import MASK_FOLDERS
from reslink.labels import Labels

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
    """One image and what is known about it.

    Attributes:
        path: The image file, absolute.
        label: The class name, as in ``Manifest.labels``.
        patient_id: Whose image it is, where that is known; cases of one patient never stand on two sides of a split.
        mask: The lesion mask, absolute: an image of the same size in which every value but zero is lesion.
        split: The side that the data set itself prescribes, where it does.
        name: The path below the data set's root with forward slashes; unique in the data set.
        extra: The other columns of the table, by their header.
        patient_from_header: Whether ``patient_id`` was not stated but read from a DICOM header (``header_patients``).
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
        """The patient that the data set states, '' where it states none."""
        return "" if self.patient_from_header else self.patient_id or ""


@dataclass(frozen=True)
class Manifest:
    """The cases of a data set and its class names in order.

    Attributes:
        cases: The cases, sorted by name for class folders, in the order of the rows for a table.
        labels: The class names, whose order is that of the network's outputs.
        root: The folder below which all files lie.
        columns: The headers of the table in order; empty for class folders.
    """

    cases: tuple[Case, ...]
    labels: Labels
    root: Path
    columns: tuple[str, ...] = ()

    @classmethod
    def open(
        cls,
        data: str | Path,
        class_order: Sequence[str] | None = None,
        *,
        labels: Labels | None = None,
        rename: Mapping[str, str | None] | None = None,
        learnable: bool = True,
    ) -> Manifest:
        """Reads a data set: a folder of class folders, a folder with ``manifest.csv``, or a CSV file.

        A table has the columns ``path`` and ``label`` and may have ``patient_id``, ``mask`` and ``split`` (train,
        validation, test); its paths are relative to its own folder and stay below it, or all of them begin with ``../``
        (a table that ``reslink split`` wrote elsewhere). Further columns are kept in ``Case.extra``.

        In a folder of class folders each folder is a class, with images at any depth; folders called ``masks`` are no
        class. If all the folders are called like splits (``Training``, ``Testing``), the class folders are looked for
        inside them.

        Args:
            data: The folder or the CSV file.
            class_order: The class names in the order wanted; sorted by name if not given.
            labels: The classes of a trained model that is to be judged on this data. Then the data may lack classes,
                and a class may have a single case.
            rename: What a label of the data is called here, such as ``{"glioma": "Tumor"}``; None leaves its cases out; a
                label that is not in the data is passed over. Each case keeps its own label in ``extra["given_label"]``.
            learnable: Whether the data must have two classes of two cases, as learning needs; without, a data set of one
                class is given a second one that has no cases, ``not`` and its name.

        Raises:
            UsageError: If there is no such folder, if it is empty, if a column is missing, or if the classes cannot be
                learned from: only one class, a class with one case, two names that differ in case only; or if a row of
                the table cannot be used, with its number.
        """
        source = Path(os.path.abspath(data))  # noqa: PTH100  (symbolic links stay as the user made them)
        table = source / "manifest.csv" if source.is_dir() else source
        if not source.exists():
            raise _refused(f"{data} does not exist", "Check the path")
        try:
            cases, root, columns = _table(table) if table.is_file() else (_cases_of_folder(source), source, ())
        except OSError as error:
            raise _refused(f"{data} cannot be read: {error.strerror or error}", "Check the permissions") from error
        cases = cases if rename is None else _renamed(cases, rename)
        if labels is not None:
            _check_known(cases, labels)
            return cls(tuple(cases), labels, root, columns)
        if not learnable and len({case.label for case in cases}) == 1:
            return cls(tuple(cases), Labels((cases[0].label, f"not {cases[0].label}")), root, columns)
        found = Labels.ordered((case.label for case in cases), class_order)
        if learnable:
            _check_counts(cases)
        return cls(tuple(cases), found, root, columns)

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def targets(self) -> list[int]:
        """The class index of each case."""
        index = {name: i for i, name in enumerate(self.labels.names)}
        return [index[case.label] for case in self.cases]

    def subset(self, indices: Iterable[int]) -> Manifest:
        """Returns some of the cases, in the order given, under the same labels and root."""
        return replace(self, cases=tuple(self.cases[i] for i in indices))

    def digest(self, hashes: Mapping[str, str] | None = None) -> str:
        """Returns the SHA-256 of the data set: names, labels, patients, splits and the content of every file.

        It does not depend on where the data set lies or on the order of its cases.

        Args:
            hashes: SHA-256 of images by case name where they are known already (``PixelCache.file_hashes``), which
                saves reading them again.

        Raises:
            InputError: If a file has vanished.
        """
        known = hashes or {}
        lines = [
            "\0".join(
                (
                    case.name,
                    case.label,
                    case.stated_patient,
                    case.split or "",
                    known.get(case.name) or file_hash(case.path, case.name),
                    file_hash(case.mask, case.name) if case.mask else "",
                )
            )
            for case in self.cases
        ]
        return sha256("\n".join(["\0".join(self.labels.names), *sorted(lines)]))


def file_hash(path: Path, name: str) -> str:
    """Returns the SHA-256 of a file's content.

    Raises:
        InputError: If it cannot be read; the message calls it by ``name``.
    """
    try:
        return sha256(path)
    except OSError as error:
        raise InputError(
            f"{name} cannot be read: {error.strerror or error}",
            "Each case needs a file that may be read",
            "Put the file back, or remove its row",
        ) from error


def _refused(given: str, next_step: str) -> UsageError:
    return UsageError(given, DATA, next_step)


def _check_counts(cases: list[Case]) -> None:
    for label, n in sorted(Counter(case.label for case in cases).items()):
        if n < 2:
            raise UsageError(
                f"The class {label!r} has one case",
                "Each class needs at least two cases, one to learn from and one to judge by",
                f"Add images of {label!r}, or leave the class out",
            )


def _renamed(cases: list[Case], rename: Mapping[str, str | None]) -> list[Case]:
    """Gives cases the labels that theirs stand for; leaves out those whose label stands for none."""
    named = [(case, rename.get(case.label, case.label)) for case in cases]
    kept = [replace(case, label=name, extra={**case.extra, "given_label": case.label}) for case, name in named if name]
    if not kept:
        raise UsageError("No case is left", "At least one label of the data stands for a class", "Map a label to a class")
    return kept


def _check_known(cases: list[Case], labels: Labels) -> None:
    for case in cases:
        if case.label not in labels.names:
            raise UsageError(
                f"{case.name} has the label {case.label!r}, which the model does not know",
                f"The model's classes are {', '.join(labels.names)}",
                nearest(case.label, labels.names),
            )


def _cases_of_folder(root: Path) -> list[Case]:
    folders = _class_folders(root)
    if not folders:
        if any(not entry.name.startswith(".") for entry in root.iterdir()):
            raise _refused(f"{root} has no class folders and no manifest.csv", "Move each class into a folder of its own")
        raise _refused(f"{root} is empty", "Check the path")
    splits = [_SPLIT_NAMES.get(folder.name.casefold()) for folder in folders]
    if not all(splits):
        return _cases_of_classes(root, folders, None)
    inner = [(_class_folders(folder), split) for folder, split in zip(folders, splits, strict=True)]
    for folder, (classes, _) in zip(folders, inner, strict=True):
        if not classes:
            raise _refused(f"{folder} is called like a split but has no class folders", "Put the class folders into it")
    return [case for classes, split in inner for case in _cases_of_classes(root, classes, split)]


def _class_folders(root: Path) -> list[Path]:
    found = (entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return sorted(folder for folder in found if folder.name.casefold() not in MASK_FOLDERS)


def _cases_of_classes(root: Path, folders: list[Path], split: Split | None) -> list[Case]:
    cases: list[Case] = []
    if len({folder.name.strip() for folder in folders}) < len(folders):
        raise _refused(f"Two class folders in {root} have the same name but for spaces", "Rename or merge them")
    for folder in folders:
        files = list(image_files(folder))
        if not files:
            raise _refused(f"The class folder {folder.name!r} in {folder.parent} has no images", "Fill it or remove it")
        label = folder.name.strip()
        cases += [Case(file, label, split=split, name=file.relative_to(root).as_posix()) for file in files]
    return cases


def image_files(folder: Path) -> Iterable[Path]:
    """Yields every file that may be an image (its content decides, later), sorted, at any depth."""
    for where, folders, files in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if _may_hold_images(name))
        paths = (Path(where) / name for name in sorted(files) if _may_be_image(name))
        yield from (path for path in paths if path.is_file() or not path.exists())  # no pipe or device; a dead link is reported


def _may_hold_images(folder: str) -> bool:
    return not folder.startswith(".") and folder.casefold() not in MASK_FOLDERS


def _may_be_image(name: str) -> bool:
    path = PurePosixPath(name.casefold())
    hidden = name.startswith(".")
    return not hidden and path.suffix not in _NOT_IMAGES and not {path.name, path.stem} & _NOT_IMAGE_NAMES


def _table(table: Path) -> tuple[list[Case], Path, tuple[str, ...]]:
    """Returns the cases of a table, the folder below which their files lie, and the headers."""
    rows = read_table(table, _COLUMNS, required=("path", "label"))
    folder, root = _place(rows, table.parent)
    cases: dict[str, tuple[int, Case]] = {}
    for row in rows:
        case = _case(row, folder, root)
        first, former = cases.setdefault(case.name, (row.number, case))
        if former != case:
            raise _conflict(row, first, former, case)
    if not cases:
        raise _refused(f"{table} has no rows below its header", "Add a row for each image")
    return [case for _, case in cases.values()], root, tuple(rows[0].cells)


def _place(rows: Sequence[Row], folder: Path) -> tuple[Path, Path]:
    """Returns the folder that paths are relative to, and the one below which they must stay.

    Both are the folder of the table. Only where all paths begin with ``../`` may they leave it: then they stay below the
    one folder that holds them all, and ``..`` is that of the disk, not of a link.
    """
    cells = [row.get(column).replace("\\", "/") for row in rows for column in ("path", "mask") if row.get(column)]
    if not cells or not all(cell.startswith("../") for cell in cells):
        return folder, folder
    real = Path(os.path.realpath(folder))
    root = Path(os.path.commonpath([os.path.dirname(os.path.normpath(real / cell)) for cell in cells]))  # noqa: PTH120
    return (folder, folder) if root == Path(root.anchor) else (real, root)


def _conflict(row: Row, first: int, former: Case, case: Case) -> UsageError:
    if former.label != case.label:
        what = f"with the label {case.label!r}, but row {first} says {former.label!r}"
    else:
        what = f"with other details than row {first}"
    return row.error(f"names {case.name!r} again {what}", "An image has one row", "Remove one of the two rows")


def _case(row: Row, folder: Path, root: Path) -> Case:
    path = _file(row, "path", folder, root)
    mask = _file(row, "mask", folder, root) if row.get("mask") else None
    return Case(
        path=path,
        label=row.need("label"),
        patient_id=row.get("patient_id") or None,
        mask=mask,
        split=_split(row),
        name=path.relative_to(root).as_posix(),
        extra={key: value for key, value in row.cells.items() if key not in _COLUMNS},
    )


def _split(row: Row) -> Split | None:
    text = row.get("split")
    if not text:
        return None
    split = _SPLIT_NAMES.get(text.casefold())
    if split is None:
        raise row.error(f"has the split {text!r}", f"A split is one of {', '.join(SPLITS)}", nearest(text, SPLITS))
    return split


def _file(row: Row, column: str, folder: Path, root: Path) -> Path:
    """Returns the absolute path of a cell, which is relative to ``folder``; it lies below the root and is a file."""
    text = row.need(column)
    if not text.isprintable():
        raise row.error(f"has a control character in {column!r}", "A path is printable text", "Correct the path")
    path = _below(row, text, folder, root)
    if "\\" in text and not path.exists():
        path = _below(row, text.replace("\\", "/"), folder, root)
    if path.is_dir():
        raise row.error(
            f"names the folder {text!r}",
            "A row names one file with one slice; a volume or a series has no single label here",
            "Write one row for each slice, with the same patient_id",
        )
    if not path.is_file():
        raise row.error(f"names {text!r}, which does not exist", f"Paths are relative to {folder}", "Correct the path")
    return path


def _below(row: Row, text: str, folder: Path, root: Path) -> Path:
    path = Path(os.path.normpath(folder / text))
    if not path.is_relative_to(root) and not ("\\" in text and path.is_relative_to(folder)):
        raise row.error(
            f"names {text!r}, which lies outside {root}",
            "A table names files below its own folder, or all its paths begin with ../",
            "Move the table to a folder above all its images",
        )
    return path
