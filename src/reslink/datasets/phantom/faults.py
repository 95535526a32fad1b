"""The cases of a cohort and the faults planted in it on request: twins, text or a scanner on one class, wrong labels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from pydantic import BaseModel, ConfigDict, Field


class PlantedFaults(BaseModel):
    """Shares of planted faults, each from 0 (none) to 1.

    Attributes:
        twins: Near copies that are added under new patients, as a share of the cases.
        mirrored_twins: The same, with left and right exchanged.
        text: Share of the tumour cases that bear burned-in letters; no healthy case does.
        wrong_labels: Share of the cases that stand under the other label.
        scanner: Share of the tumour patients whose files a second scanner wrote; no healthy patient's. Only the files tell:
            DICOM by manufacturer, model, kernel and scan options, NIfTI by its type of numbers, PNG by its colour mode.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    twins: float = Field(default=0.0, ge=0, le=1)
    mirrored_twins: float = Field(default=0.0, ge=0, le=1)
    text: float = Field(default=0.0, ge=0, le=1)
    wrong_labels: float = Field(default=0.0, ge=0, le=1)
    scanner: float = Field(default=0.0, ge=0, le=1)


@dataclass(frozen=True)
class Row:
    """One case of the cohort before it is rendered.

    Attributes:
        patient: Number of the patient in the manifest, from 1.
        number: Number of the slice within that patient, from 0.
        label: As the manifest gives it.
        tumour: Whether the slice truly shows a lesion.
        source: Patient and slice number of what is rendered; its own but for twins.
        twin: Whether it is a near copy of ``source``.
        mirrored: Whether left and right are exchanged.
        text: Whether letters are burned in.
        scanner: Whether the second scanner wrote the file.
    """

    patient: int
    number: int
    label: str
    tumour: bool
    source: tuple[int, int]
    twin: bool = False
    mirrored: bool = False
    text: bool = False
    scanner: bool = False

    @property
    def patient_id(self) -> str:
        """Such as ``P0001``."""
        return f"P{self.patient:04d}"

    @property
    def stem(self) -> str:
        """Name of the files without folder and suffix; tells nothing about the label."""
        return f"{self.patient_id}_{self.number:02d}"


@dataclass(frozen=True)
class Planted:
    """The rows with the faults, and what ``faults.json`` says about them."""

    rows: tuple[Row, ...]
    wrong: tuple[Row, ...]

    def report(self, suffix: str) -> dict[str, list[dict[str, str]]]:
        """Returns every planted item by kind of fault, paths as in the manifest."""
        source = {(row.patient, row.number): row for row in self.rows}

        def path(row: Row) -> str:
            return f"images/{row.stem}{suffix}"

        def copies(mirrored: bool) -> list[dict[str, str]]:
            found = [row for row in self.rows if row.twin and row.mirrored is mirrored]
            return [{"path": path(row), "twin_of": path(source[row.source])} for row in found]

        return {
            "twins": copies(mirrored=False),
            "mirrored_twins": copies(mirrored=True),
            "text": [{"path": path(row), "label": row.label} for row in self.rows if row.text],
            "wrong_labels": [
                {"path": path(row), "label": row.label, "true_label": old.label}
                for old in self.wrong
                for row in [source[old.source]]
            ],
            "scanner": [{"path": path(row), "label": row.label} for row in self.rows if row.scanner],
        }


def plant(rows: list[Row], faults: PlantedFaults, names: tuple[str, str], rng: np.random.Generator) -> Planted:
    """Plants the faults: shares are met to the nearest whole case.

    Twins are added after the last patient, each as a patient of its own, and copy the label and letters of their source only in
    what the picture shows; a wrong label is never put on a case with letters.

    Args:
        rows: The cohort without faults.
        faults: The shares.
        names: Name of the healthy and of the tumour class.
        rng: Generator of the faults alone, so that the sound cases stay what they are.
    """
    total = len(rows)
    tumours = [index for index, row in enumerate(rows) if row.tumour]
    with_text = set(_pick(tumours, faults.text, len(tumours), rng))
    result = [replace(row, text=index in with_text) for index, row in enumerate(rows)]
    free = [index for index in range(total) if index not in with_text]
    wrong = _pick(free, faults.wrong_labels, total, rng)
    patient = max((row.patient for row in rows), default=0)
    for share, mirrored in ((faults.twins, False), (faults.mirrored_twins, True)):
        for index in _pick(list(range(total)), share, total, rng):
            patient += 1
            result.append(replace(result[index], patient=patient, number=0, twin=True, mirrored=mirrored, text=False))
    originals = tuple(result[index] for index in wrong)
    for index in wrong:
        result[index] = replace(result[index], label=names[0] if result[index].tumour else names[1])
    ill = sorted({row.patient for row in rows if row.tumour})
    second = {ill[index] for index in _pick(list(range(len(ill))), faults.scanner, len(ill), rng)}
    return Planted(tuple(replace(row, scanner=row.source[0] in second) for row in result), originals)


def _pick(candidates: list[int], share: float, of: int, rng: np.random.Generator) -> list[int]:
    count = min(round(share * of), len(candidates))
    return sorted(int(index) for index in rng.choice(candidates, count, replace=False)) if count else []
