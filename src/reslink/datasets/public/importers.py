"""Import of public data sets: writes a manifest with labels, patients, masks and given splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reslink.datasets.class_folders import image_files
from reslink.datasets.public.conversion import CONVERTERS, ConversionResult
from reslink.datasets.public.registry import ClassFolder, PublicDataset, public_datasets
from reslink.errors import InputError, UsageError
from reslink.files import csv_text, write_atomic

COLUMNS = ("path", "label", "patient_id", "mask", "split", "given_label", "source")
_MAX_DEPTH = 4


@dataclass(frozen=True)
class ImportResult:
    """The result of an import.

    Attributes:
        source: Name of the data set.
        manifest: Path of the written manifest.
        counts: Number of cases by label.
        patients: Number of known patients, or None.
        masks: Number of cases with a mask.
        failed: File name to the reason why the file was left out.
    """

    source: str
    manifest: Path
    counts: dict[str, int]
    patients: int | None
    masks: int
    failed: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Returns the result as JSON-compatible values."""
        return {**vars(self), "manifest": str(self.manifest), "counts": dict(self.counts)}


def detect_data_set(folder: Path) -> tuple[PublicDataset, Path] | None:
    """Detects a registered data set by its folder layout; returns it with the folder where the layout begins, or None.

    Args:
        folder: The folder of the unpacked data set.
    """
    for entry in public_datasets().values():
        root = None if entry.layout.common else find_layout_root(entry, folder)
        if root is not None:
            return entry, root
    return None


def find_layout_root(entry: PublicDataset, folder: Path) -> Path | None:
    """Returns the folder, at most four levels down, where the layout of a data set begins, or None."""
    has_layout = CONVERTERS[entry.layout.kind].fits if entry.layout.kind != "folders" else _has_folders(entry.layout.folders)
    return next((candidate for candidate in _walk_folders(folder) if has_layout(candidate)), None)


def import_folder(
    folder: Path,
    source: PublicDataset | None = None,
    out: Path | None = None,
    *,
    binary: bool = False,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> ImportResult:
    """Writes the manifest of a public data set, and converts its slices to image files if needed.

    Args:
        folder: The unpacked data set.
        source: The data set; detected by its layout if None.
        out: Output folder of converted slices and ``manifest.csv``; ``reslink`` inside the folder if None. Images that
            need no conversion stay in place, with ``manifest.csv`` beside them.
        binary: Map labels to Healthy and Tumor (for ct_ich, Healthy and Hemorrhage).
        overwrite: Replace an existing ``manifest.csv``.
        on_progress: Called with the number of finished files and the total.

    Raises:
        UsageError: If the layout is unknown or is not that of ``source``, or a manifest exists.
        InputError: If no image can be used.
        StorageError: If a file cannot be written.
    """
    entry, root = _locate(folder, source)
    converts = entry.layout.kind != "folders"
    out_folder = (out or folder / "reslink") if converts else root
    table = out_folder / "manifest.csv"
    if table.exists() and not overwrite:
        raise UsageError(
            f"{table} exists",
            "Existing files are not overwritten without --overwrite",
            "Add --overwrite, or use the existing file",
        )
    if converts:
        converted = CONVERTERS[entry.layout.kind].convert(root, out_folder, on_progress)
    else:
        converted = ConversionResult(list(_cases_of_folders(entry.layout.folders, root)))
    rows = [_manifest_row(case, entry, binary) for case in converted.cases]
    if not rows:
        first = next(iter(converted.failed.items()), ("", "the folders are empty"))
        raise InputError(
            f"No image of {folder} can be used. The first: {first[0]} {first[1]}",
            f"{entry.name} contains {entry.images}",
            "Unpack it again",
        )
    write_atomic(table, _manifest_csv(rows))
    patients = {row["patient_id"] for row in rows if row.get("patient_id")}
    counts = dict(sorted(Counter(row["label"] for row in rows).items()))
    masks = sum(bool(row.get("mask")) for row in rows)
    return ImportResult(entry.name, table, counts, len(patients) or None, masks, converted.failed)


def _locate(folder: Path, source: PublicDataset | None) -> tuple[PublicDataset, Path]:
    if not folder.is_dir():
        raise UsageError(f"The folder {folder} does not exist", "FOLDER is an unpacked data set", "Check the path")
    if source is None:
        match = detect_data_set(folder)
    else:
        root = find_layout_root(source, folder)
        match = None if root is None else (source, root)
    if match is None:
        expected = "a registered data set" if source is None else source.name
        raise UsageError(
            f"{folder} does not have the layout of {expected}",
            f"The registered data sets are {', '.join(public_datasets())}; see reslink data list",
            "Unpack all files, name the data set with --source, or write your own manifest.csv (path,label,patient_id,mask)",
        )
    return match


def _walk_folders(folder: Path) -> Iterator[Path]:
    """Yields a folder and its subfolders, level by level."""
    level = [folder]
    for _ in range(_MAX_DEPTH):
        yield from level
        level = [inner for outer in level for inner in _subfolders(outer)]


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))[:1000]
    except OSError:
        return []


def _has_folders(folders: Iterable[ClassFolder]) -> Callable[[Path], bool]:
    return lambda root: all(_find_subfolder(root, folder.path) is not None for folder in folders)


def _find_subfolder(folder: Path, path: str) -> Path | None:
    """Returns a subfolder by its case-insensitive path, or None."""
    for part in path.split("/"):
        names = {entry.name.casefold(): entry for entry in _subfolders(folder)}
        if part.casefold() not in names:
            return None
        folder = names[part.casefold()]
    return folder


def _cases_of_folders(folders: Iterable[ClassFolder], root: Path) -> Iterator[dict[str, str]]:
    for folder in folders:
        images = _find_subfolder(root, folder.path)
        masks = None if folder.masks is None else _find_subfolder(root, folder.masks)
        by_stem = {file.stem: file for file in sorted(masks.iterdir())} if masks else {}
        for file in image_files(images) if images else ():
            mask = by_stem.get(file.stem)
            yield {
                "path": file.relative_to(root).as_posix(),
                "given_label": folder.label,
                "split": folder.split or "",
                "mask": mask.relative_to(root).as_posix() if mask else "",
                **folder.columns,
            }


def _manifest_row(case: dict[str, str], entry: PublicDataset, binary: bool) -> dict[str, str]:
    common = entry.labels[case["given_label"]]
    only_two = set(entry.labels) <= {"yes", "no"}
    label = common if binary or only_two else case["given_label"]
    return {"patient_id": "", "mask": "", "split": "", **case, "label": label, "source": entry.name}


def _manifest_csv(rows: list[dict[str, str]]) -> str:
    names = [*COLUMNS, *dict.fromkeys(name for row in rows for name in row if name not in COLUMNS)]
    return csv_text(names, rows)
