"""Planted faults of a phantom cohort: near duplicates, text or a scanner confounded with one class, wrong labels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field


class PlantedFaults(BaseModel):
    """Shares of planted faults, each from 0 (none) to 1.

    Attributes:
        duplicates: Near duplicates added under new patients, as a share of the cases.
        mirrored_duplicates: The same, flipped left to right.
        text: Share of tumor cases with burned-in text; healthy cases have none.
        wrong_labels: Share of cases with the label of the other class.
        scanner: Share of tumor patients from a second scanner, which scans no healthy patient. Only the files differ: DICOM in
            manufacturer, model, kernel and scan options, NIfTI in its number type, PNG in its color mode.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    duplicates: float = Field(default=0.0, ge=0, le=1)
    mirrored_duplicates: float = Field(default=0.0, ge=0, le=1)
    text: float = Field(default=0.0, ge=0, le=1)
    wrong_labels: float = Field(default=0.0, ge=0, le=1)
    scanner: float = Field(default=0.0, ge=0, le=1)


@dataclass(frozen=True)
class PhantomCase:
    """One case of the cohort before it is rendered.

    Attributes:
        patient: Patient number in the manifest, from 1.
        number: Slice number of the patient, from 0.
        label: Label in the manifest.
        tumor: Whether the slice shows a lesion.
        source: Patient and slice number to render; its own except for near duplicates.
        duplicate: Whether it is a near duplicate of ``source``.
        mirrored: Whether it is flipped left to right.
        text: Whether it has burned-in text.
        scanner: Whether it is from the second scanner.
    """

    patient: int
    number: int
    label: str
    tumor: bool
    source: tuple[int, int]
    duplicate: bool = False
    mirrored: bool = False
    text: bool = False
    scanner: bool = False

    @property
    def patient_id(self) -> str:
        """Patient id, such as ``P0001``."""
        return f"P{self.patient:04d}"

    @property
    def stem(self) -> str:
        """File name without folder and suffix; does not reveal the label."""
        return f"{self.patient_id}_{self.number:02d}"


@dataclass(frozen=True)
class PlannedCohort:
    """The cases with planted faults, and the original cases of wrong labels."""

    rows: tuple[PhantomCase, ...]
    wrong: tuple[PhantomCase, ...]

    def report(self, suffix: str) -> dict[str, list[dict[str, str]]]:
        """Returns the content of ``faults.json``: the planted cases by kind of fault, with paths as in the manifest."""
        source = {(row.patient, row.number): row for row in self.rows}

        def path(row: PhantomCase) -> str:
            return f"images/{row.stem}{suffix}"

        def duplicates(mirrored: bool) -> list[dict[str, str]]:
            rows = [row for row in self.rows if row.duplicate and row.mirrored is mirrored]
            return [{"path": path(row), "duplicate_of": path(source[row.source])} for row in rows]

        return {
            "duplicates": duplicates(mirrored=False),
            "mirrored_duplicates": duplicates(mirrored=True),
            "text": [{"path": path(row), "label": row.label} for row in self.rows if row.text],
            "wrong_labels": [
                {"path": path(row), "label": row.label, "true_label": old.label}
                for old in self.wrong
                for row in [source[old.source]]
            ],
            "scanner": [{"path": path(row), "label": row.label} for row in self.rows if row.scanner],
        }


def plant_faults(
    rows: list[PhantomCase], faults: PlantedFaults, names: tuple[str, str], rng: np.random.Generator
) -> PlannedCohort:
    """Plants faults; shares are rounded to whole cases.

    Near duplicates are added after the last patient, each as a new patient, with the true label of their source and
    without burned-in text. Cases with text never get a wrong label.

    Args:
        rows: The cohort without faults.
        faults: The shares.
        names: Names of the healthy and the tumor class.
        rng: Random generator used only for faults, so that the other cases do not change.
    """
    total = len(rows)
    tumors = [index for index, row in enumerate(rows) if row.tumor]
    with_text = set(_choose(tumors, faults.text, len(tumors), rng))
    result = [replace(row, text=index in with_text) for index, row in enumerate(rows)]
    without_text = [index for index in range(total) if index not in with_text]
    wrong = _choose(without_text, faults.wrong_labels, total, rng)
    patient = max((row.patient for row in rows), default=0)
    for share, mirrored in ((faults.duplicates, False), (faults.mirrored_duplicates, True)):
        for index in _choose(list(range(total)), share, total, rng):
            patient += 1
            result.append(replace(result[index], patient=patient, number=0, duplicate=True, mirrored=mirrored, text=False))
    originals = tuple(result[index] for index in wrong)
    for index in wrong:
        result[index] = replace(result[index], label=names[0] if result[index].tumor else names[1])
    tumor_patients = sorted({row.patient for row in rows if row.tumor})
    second_scanner = {
        tumor_patients[index] for index in _choose(list(range(len(tumor_patients))), faults.scanner, len(tumor_patients), rng)
    }
    return PlannedCohort(tuple(replace(row, scanner=row.source[0] in second_scanner) for row in result), originals)


def _choose(candidates: list[int], share: float, total: int, rng: np.random.Generator) -> list[int]:
    count = min(round(share * total), len(candidates))
    return sorted(int(index) for index in rng.choice(candidates, count, replace=False)) if count else []


def burn_text(pixels: NDArray[np.float32], text: str, value: float) -> NDArray[np.float32]:
    """Returns a copy with text burned into the upper left corner, as some scanners do.

    Args:
        pixels: (N, N) HU or intensity.
        text: The text.
        value: Value of the text pixels.
    """
    picture = PIL.Image.new("L", (pixels.shape[1], pixels.shape[0]))
    font = PIL.ImageFont.load_default(size=max(10, pixels.shape[0] // 18))
    margin = max(2, pixels.shape[0] // 40)
    PIL.ImageDraw.Draw(picture).text((margin, margin), text, fill=255, font=font)
    letters = np.asarray(picture, np.float32) / 255
    return (pixels + letters * (np.float32(value) - pixels)).astype(np.float32)
