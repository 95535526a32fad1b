"""Public data sets as they come, made into a manifest: labels, patients, masks, given splits."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reslink.datasets.manifest import image_files
from reslink.datasets.public.conversion import CONVERTERS, Converted
from reslink.datasets.public.registry import ClassFolder, Source, sources
from reslink.errors import InputError, UsageError
from reslink.files import write_atomic

COLUMNS = ("path", "label", "patient_id", "mask", "split", "given_label", "source")
_DEPTH = 4


@dataclass(frozen=True)
class Imported:
    """What became of an import.

    Attributes:
        source: Name of the data set.
        manifest: The table that was written.
        counts: Cases by label.
        patients: How many patients are known; None where none is.
        masks: Cases with a mask.
        failed: Why a file was left out, by its name.
    """

    source: str
    manifest: Path
    counts: dict[str, int]
    patients: int | None
    masks: int
    failed: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Returns the JSON form."""
        return {**vars(self), "manifest": str(self.manifest), "counts": dict(self.counts)}


def recognise(folder: Path) -> tuple[Source, Path] | None:
    """Returns the known data set whose layout a folder has, and the folder inside where it begins.

    Args:
        folder: The folder of the unpacked data set.
    """
    for entry in sources().values():
        root = None if entry.layout.common else root_of(entry, folder)
        if root is not None:
            return entry, root
    return None


def root_of(entry: Source, folder: Path) -> Path | None:
    """Returns the folder, at most four levels down, where the layout of a data set begins; None where there is none."""
    has = CONVERTERS[entry.layout.kind].fits if entry.layout.kind != "folders" else _has_folders(entry.layout.folders)
    return next((place for place in _below(folder) if has(place)), None)


def import_folder(
    folder: Path,
    source: Source | None = None,
    out: Path | None = None,
    *,
    binary: bool = False,
    overwrite: bool = False,
    heard: Callable[[int, int], None] | None = None,
) -> Imported:
    """Writes the manifest of a public data set, and its slices as images where they must be cut out or converted.

    Args:
        folder: The unpacked data set.
        source: Which one it is; recognised by its layout if not given.
        out: Where slices that are cut out go, with ``manifest.csv``; ``reslink`` inside the folder if not given. Images
            that can be used as they are stay where they are, with ``manifest.csv`` beside them.
        binary: Whether labels become Healthy and Tumor (for ct_ich Healthy and Haemorrhage).
        overwrite: Whether a ``manifest.csv`` that stands there may be replaced.
        heard: Hears files done and their total.

    Raises:
        UsageError: If the folder has no layout that is known, or not that of the source, or a manifest stands there.
        InputError: If not one image can be used.
        StorageError: If something cannot be written.
    """
    entry, root = _found(folder, source)
    converts = entry.layout.kind != "folders"
    place = (out or folder / "reslink") if converts else root
    table = place / "manifest.csv"
    if table.exists() and not overwrite:
        raise UsageError(f"{table} is there already", "Nothing is replaced unasked", "Add --overwrite, or use it as it is")
    if converts:
        converted = CONVERTERS[entry.layout.kind].convert(root, place, heard)
    else:
        converted = Converted(list(_in_folders(entry.layout.folders, root)))
    rows = [_row(case, entry, binary) for case in converted.cases]
    if not rows:
        first = next(iter(converted.failed.items()), ("", "the folders are empty"))
        raise InputError(
            f"Not one image of {folder} can be used; the first: {first[0]} {first[1]}",
            f"{entry.name} holds {entry.images}",
            "Unpack it again",
        )
    write_atomic(table, _csv(rows))
    patients = {row["patient_id"] for row in rows if row.get("patient_id")}
    counts = dict(sorted(Counter(row["label"] for row in rows).items()))
    masks = sum(bool(row.get("mask")) for row in rows)
    return Imported(entry.name, table, counts, len(patients) or None, masks, converted.failed)


def _found(folder: Path, source: Source | None) -> tuple[Source, Path]:
    if not folder.is_dir():
        raise UsageError(f"There is no folder {folder}", "FOLDER is an unpacked data set", "Check the path")
    if source is None:
        found = recognise(folder)
    else:
        root = root_of(source, folder)
        found = None if root is None else (source, root)
    if found is None:
        wanted = "a known data set" if source is None else source.name
        raise UsageError(
            f"{folder} does not have the layout of {wanted}",
            f"The known ones are {', '.join(sources())}; see reslink data list",
            "Unpack all of it, name the set with --source, or write a manifest.csv yourself (path,label,patient_id,mask)",
        )
    return found


def _below(folder: Path) -> Iterator[Path]:
    """Yields a folder and those inside, the nearest first."""
    level = [folder]
    for _ in range(_DEPTH):
        yield from level
        level = [inner for outer in level for inner in _folders(outer)]


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))[:1000]
    except OSError:
        return []


def _has_folders(folders: Iterable[ClassFolder]) -> Callable[[Path], bool]:
    return lambda place: all(_inside(place, folder.path) is not None for folder in folders)


def _inside(place: Path, path: str) -> Path | None:
    """Returns a folder below another one, whatever the case of its name."""
    for part in path.split("/"):
        names = {entry.name.casefold(): entry for entry in _folders(place)}
        if part.casefold() not in names:
            return None
        place = names[part.casefold()]
    return place


def _in_folders(folders: Iterable[ClassFolder], root: Path) -> Iterator[dict[str, str]]:
    for folder in folders:
        place = _inside(root, folder.path)
        masks = None if folder.masks is None else _inside(root, folder.masks)
        by_stem = {file.stem: file for file in sorted(masks.iterdir())} if masks else {}
        for file in image_files(place) if place else ():
            mask = by_stem.get(file.stem)
            yield {
                "path": file.relative_to(root).as_posix(),
                "given_label": folder.label,
                "split": folder.split or "",
                "mask": mask.relative_to(root).as_posix() if mask else "",
                **folder.columns,
            }


def _row(case: dict[str, str], entry: Source, binary: bool) -> dict[str, str]:
    common = entry.labels[case["given_label"]]
    only_two = set(entry.labels) <= {"yes", "no"}
    label = common if binary or only_two else case["given_label"]
    return {"patient_id": "", "mask": "", "split": "", **case, "label": label, "source": entry.name}


def _csv(rows: list[dict[str, str]]) -> str:
    stream = io.StringIO()
    names = [*COLUMNS, *dict.fromkeys(name for row in rows for name in row if name not in COLUMNS)]
    writer = csv.DictWriter(stream, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
