"""One image of a data set with its label, patient, mask and split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from reslink.labels import ABSENT, PRESENT
from reslink.printable_names import escape_name

if TYPE_CHECKING:
    from reslink.imaging.image import Unit

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

HOLDOUT = "holdout"
"""The split of a case that is in no fold of a cross-validation, and on which no run of it trains."""

UNUSED = "unused"
"""The split of a case that a run neither trains nor evaluates on."""

DEFAULT_FRACTIONS = (0.75, 0.1, 0.15)
"""Shares of train, validation and test where nothing else is stated."""

MAX_SOURCES = 20
"""More sources than this are not listed in texts for people."""

SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "holdout": "test",
}
"""How data sets spell the splits, in lower case."""


@dataclass(frozen=True, slots=True)
class Case:
    """One image with its label and metadata.

    Attributes:
        path: Absolute path of the image file.
        label: The class name, as in ``Manifest.labels``; for several labels at once, their states in words.
        states: The state of each of several labels at once (``labels.PRESENT``, ``ABSENT`` or ``UNKNOWN``), in the order of
            ``Manifest.labels``; empty for one class per case.
        patient_id: The patient, if known. Cases of one patient always belong in the same split.
        mask: Absolute path of the lesion mask: an image of the same size in which every nonzero value is lesion.
        split: The split stated by the data set, if any.
        source: The hospital, scanner or data set that the image comes from, if stated.
        unit: The unit of the stored pixel values, if stated: HU, MR or gray.
        sequence: The sequence of an MR image, if the data set states it, as ``imaging.spellings.parse_sequence`` names it.
        name: The path relative to the root, see :func:`case_name`; unique in the data set.
        extra: The other columns of the table, by header.
        patient_from_header: Whether ``patient_id`` was read from a DICOM header (``patient_ids.add_header_patients``).
        patient_in_table: The patient that the data set states, where DICOM headers join it to another; None elsewhere.
    """

    path: Path
    label: str
    patient_id: str | None = None
    mask: Path | None = None
    split: Split | None = None
    source: str | None = None
    unit: Unit | None = None
    sequence: str | None = None
    name: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)
    patient_from_header: bool = False
    patient_in_table: str | None = None
    states: tuple[int, ...] = ()

    def contradicts(self, other: Case) -> bool:
        """Returns whether the two cases have different labels; an unknown label differs from none."""
        if self.states and other.states:
            return any({a, b} == {PRESENT, ABSENT} for a, b in zip(self.states, other.states, strict=True))
        return self.label != other.label

    @property
    def stated_patient(self) -> str:
        """The patient stated by the data set, or '' if it states none."""
        return (self.patient_in_table if self.patient_from_header else self.patient_id) or ""


def case_name(path: Path, root: Path) -> str:
    """Returns the name of a case: its path relative to the root, with forward slashes, as printable text (``escape_name``)."""
    return escape_name(path.relative_to(root).as_posix())
