"""Labels corrected by a source whose labels are trusted: the same image, labelled by both."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reslink.datasets.case import Case
from reslink.datasets.corrections import COLUMNS
from reslink.datasets.label_conflicts import MIN_CONFLICT_CORRELATION
from reslink.datasets.near_duplicates.groups import DuplicatePair
from reslink.errors import counted
from reslink.files import csv_text, write_atomic


@dataclass(frozen=True)
class LabelCorrection:
    """A case with the label that a trusted source gives to the same image.

    Attributes:
        row: The case.
        evidence: The image of the trusted source.
        correlation: See :class:`DuplicatePair`.
        orientation: How the image of the trusted source is turned to match: ``orientation % 4`` rotations by 90°
            counterclockwise, then, from 4, a left-right flip.
    """

    row: int
    evidence: int
    correlation: float
    orientation: int

    def as_dict(self, cases: Sequence[Case], sources: Sequence[str]) -> dict[str, Any]:
        """Returns a row of ``label_corrections.csv``."""
        values = (
            cases[self.row].name,
            cases[self.row].label,
            cases[self.evidence].label,
            cases[self.evidence].name,
            round(self.correlation, 3),
            self.orientation,
            sources[self.row],
        )
        return dict(zip(COLUMNS, values, strict=True))


@dataclass(frozen=True)
class LabelCorrections:
    """The corrections by the labels of one source.

    Attributes:
        trusted: The source whose labels are trusted.
        corrections: One for each corrected case, in the order of the cases.
        ambiguous: Rows of cases that match images of the source with different labels, and are not corrected.
    """

    trusted: str
    corrections: tuple[LabelCorrection, ...]
    ambiguous: tuple[int, ...]

    @classmethod
    def find(
        cls, cases: Sequence[Case], sources: Sequence[str], pairs: Sequence[DuplicatePair], trusted: str
    ) -> LabelCorrections:
        """Finds the cases of other sources that are the same image as one of the trusted source, which has another label.

        A case is corrected if all of its matches have one label; the most similar one is the evidence.

        Args:
            cases: The cases.
            sources: Their sources; '' if unknown.
            pairs: Their near duplicates, by row.
            trusted: The source whose labels are trusted.
        """
        matches: dict[int, list[LabelCorrection]] = defaultdict(list)
        for pair in pairs:
            for row, other, orientation in (
                (pair.first, pair.second, pair.orientation),
                (pair.second, pair.first, _inverse(pair.orientation)),
            ):
                if sources[other] == trusted != sources[row] and pair.correlation >= MIN_CONFLICT_CORRELATION:
                    matches[row].append(LabelCorrection(row, other, float(pair.correlation), orientation))
        corrections, ambiguous = [], []
        for row, found in sorted(matches.items()):
            labels = {cases[match.evidence].label for match in found}
            if len(labels) > 1:
                ambiguous.append(row)
            elif cases[row].label not in labels:
                corrections.append(max(found, key=lambda match: match.correlation))
        return cls(trusted, tuple(corrections), tuple(ambiguous))

    def as_dict(self, cases: Sequence[Case], sources: Sequence[str]) -> dict[str, Any]:
        """Returns the JSON form."""
        kinds = Counter((cases[one.row].label, cases[one.evidence].label) for one in self.corrections)
        shown = ", ".join(f"{given} to {label}: {n}" for (given, label), n in sorted(kinds.items()))
        unclear = f"; not corrected, because their matches have several labels: {counted(len(self.ambiguous), 'image')}"
        return {
            "labels_from": self.trusted,
            "rows": [one.as_dict(cases, sources) for one in self.corrections],
            "ambiguous": [cases[row].name for row in self.ambiguous],
            "summary": f"{counted(len(self.corrections), 'label')} of other sources can be corrected by {self.trusted}"
            + (f" ({shown})" if shown else "")
            + (unclear if self.ambiguous else ""),
        }


def _inverse(orientation: int) -> int:
    """Returns the orientation that undoes another one; a rotation and a flip undo themselves."""
    return orientation if orientation >= 4 else -orientation % 4


def write_corrections(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Writes ``label_corrections.csv``.

    Raises:
        StorageError: If it cannot be written.
    """
    return write_atomic(path, csv_text(COLUMNS, rows))
