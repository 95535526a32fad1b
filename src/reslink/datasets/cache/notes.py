"""Remarks for the user about the images of a data set as a whole: units, sequences, slices left out, remarks of the readers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from reslink.datasets.cache.storage import CacheIndex
from reslink.errors import counted
from reslink.imaging.image import Stated
from reslink.imaging.slice_selection import MAX_SLICES


def unit_notes(units: Sequence[str]) -> list[str]:
    """Returns a note if the images of a data set have different units."""
    if len(set(units)) < 2:
        return []
    names = {"HU": "CT in HU", "MR": "arbitrary intensities", "gray": "gray values"}
    counts = ", ".join(f"{count} images in {names[unit]}" for unit, count in Counter(units).most_common())
    return [
        f"Units: the data set mixes {counts}. CT in HU gets a fixed window, other values are scaled by percentiles, and a "
        "model can learn this difference. State the unit with --unit or the column 'unit' if an image was read wrongly"
    ]


def slice_notes(index: CacheIndex) -> list[str]:
    """Returns a note on the slices of series that are left out; empty where a case is a slice."""
    total = sum(index.slices.values())
    left_out = total - len(index.kept)  # negative where a case is a slice
    if left_out <= 0:
        return []
    return [
        f"Slices: {left_out} of {total} slices of {len(index.slices)} series are left out, because they show too little of the "
        f"head, or a series has more than {MAX_SLICES} others"
    ]


def excluded_notes(stated: Sequence[Sequence[str | None]]) -> list[str]:
    """Returns a note for each reason why a model refuses files by their header; they are used all the same."""
    counts = Counter(reason for *_, reason in stated if reason)
    return [f"A model refuses {counted(count, 'image')}: {why}" for why, count in counts.items()]


def sequence_notes(stated: Sequence[Stated], of_table: Sequence[str | None]) -> list[str]:
    """Returns a note if the files of some images state another sequence than the data set, whose word is taken."""
    pairs = zip([item.sequence for item in stated], of_table, strict=True)
    counts = Counter((file, table) for file, table in pairs if file and table and file != table)
    return [
        f"{counted(count, 'image')} stated as {table} by the table and as {file} by the file; the table is used"
        for (file, table), count in counts.most_common()
    ]


def reader_notes(notes: Sequence[Sequence[str]], noun: str) -> list[str]:
    """Returns each remark of the readers with the number of images that it holds for; numbers in remarks do not matter."""
    alike: dict[str, list[str]] = {}
    for note in (note for row in notes for note in row):
        alike.setdefault(re.sub(r"-?\d[\d.e+-]*", "#", note), []).append(note)
    plural = noun if noun == "series" else f"{noun}s"
    return [f"{len(group)} {noun if len(group) == 1 else f'{plural}, the first'}: {group[0]}" for group in alike.values()]
