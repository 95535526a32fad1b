"""Phantom cohorts: synthetic heads with and without lesions, for demos, tests and planted faults.

No image comes from a person. Every patient has an anatomy, a scanner and, in the tumor class, one lesion with edema and
mass effect. Age, head, scanner and slice levels have the same distribution in both classes; only the lesion differs.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from reslink import files
from reslink.datasets.phantom import writers as output
from reslink.datasets.phantom.anatomy import Head, draw_head
from reslink.datasets.phantom.faults import PhantomCase, PlannedCohort, PlantedFaults, burn_text, plant_faults
from reslink.datasets.phantom.lesion import Lesion, draw_lesion
from reslink.datasets.phantom.render import RenderedSlice, Scanner, render
from reslink.datasets.phantom.series import series_levels, series_name, write_series
from reslink.datasets.phantom.tissue import MR_SCALE, Sequence, tissue_values
from reslink.errors import ReslinkError, UsageError, suggest
from reslink.labels import CaseKind

MIN_MASK_PIXELS = 30
"""Every slice of a tumor patient shows at least this many lesion pixels."""

_MANIFEST = "manifest.csv"
_SETTINGS_FILE = "phantom.json"
_SALT = 0x5048414E


def _generator(seed: int, *path: int) -> np.random.Generator:
    """Returns the random generator for one purpose.

    The salt separates it from ``default_rng(seed)``, with which a user may shuffle the patients. Numpy pads seeds with zeros,
    so that without the salt ``default_rng([seed, 0])`` would assign the labels in the order of that shuffle.
    """
    return np.random.default_rng([_SALT, seed, *(part + 1 for part in path)])


class PhantomSettings(BaseModel):
    """Settings of a cohort; equal settings give equal bytes.

    Attributes:
        patients: Number of patients.
        case: ``slice``: every slice has the label of its patient and, in tumor patients, passes through the lesion. ``series``:
            a patient is one case with one label, a NIfTI volume or a DICOM folder, and the lesion is in some slices only.
        seed: Random seed.
        modality: ``CT`` in HU, or an MR contrast.
        slices: Slices per patient; in tumor patients each passes through the lesion.
        size: Pixels along each side; the field of view is always 232 mm.
        format: ``png`` (8 bit; CT in the window 40/80), ``dicom`` or ``nifti`` (HU or MR intensity), one file per slice.
        tumor_share: Share of patients with a lesion, 0 to 1, rounded to whole patients.
        faults: Shares of planted faults.
        healthy: Name of the class without a lesion.
        tumor: Name of the class with a lesion.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    patients: int = Field(default=96, ge=1, le=9000)
    case: CaseKind = "slice"
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    modality: Sequence = "CT"
    slices: int = Field(default=3, ge=1, le=40)
    size: int = Field(default=256, ge=128, le=1024)
    format: output.FileFormat = "png"
    tumor_share: float = Field(default=0.5, ge=0, le=1)
    faults: PlantedFaults = PlantedFaults()
    healthy: str = Field(default="Healthy", min_length=1)
    tumor: str = Field(default="Tumor", min_length=1)

    @model_validator(mode="after")
    def _check_series(self) -> Self:
        if self.case == "series" and any(self.faults.model_dump().values()):
            raise ValueError("faults are planted into slices; with case 'series' there are none")
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        if self.healthy.strip().casefold() == self.tumor.strip().casefold():
            raise ValueError("'healthy' and 'tumor' need names that differ in more than case")
        return self

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Builds settings from user input.

        Args:
            values: Setting to value; ``faults`` is a mapping.

        Raises:
            UsageError: If a setting is unknown (the message has the nearest name), or a value is not allowed.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise _settings_error(cls, error) from None


def _settings_error(model: type[BaseModel], error: ValidationError) -> UsageError:
    first = error.errors()[0]
    name = ".".join(map(str, first["loc"])) or "settings"
    if first["type"] == "extra_forbidden":
        allowed = PlantedFaults.model_fields if len(first["loc"]) > 1 else model.model_fields
        return UsageError(
            f"The phantom has no setting {name!r}",
            f"Its settings are {', '.join(allowed)}",
            suggest(str(first["loc"][-1]), allowed),
        )
    given = f"setting {name!r} cannot be {first['input']!r}" if first["loc"] else "settings do not fit each other"
    return UsageError(
        f"The phantom's {given}",
        first["msg"].removeprefix("Value error, "),
        f"Correct {name!r} and run the command again",
    )


@dataclass(frozen=True)
class Patient:
    """One synthetic patient.

    Attributes:
        head: The anatomy.
        scanner: The scanner and its settings.
        values: Tissue name to HU or MR intensity.
        lesion: The lesion, or None in a healthy patient.
        levels: Height of each slice above the foramina of Monro in mm.
        slices: The rendered slices, one per level.
    """

    head: Head
    scanner: Scanner
    values: dict[str, float]
    lesion: Lesion | None
    levels: tuple[float, ...]
    slices: tuple[RenderedSlice, ...]


def draw_scanner(sequence: Sequence, rng: np.random.Generator) -> Scanner:
    """Draws a scanner with its settings."""
    ct = sequence == "CT"
    noise = rng.uniform(4.0, 5.2) if ct else rng.uniform(0.055, 0.075) * MR_SCALE
    return Scanner(
        sequence=sequence,
        noise_sd=float(noise),
        cutoff=float(rng.uniform(0.3, 0.5)),
        blur=float(rng.uniform(0.4, 0.6)),
        hardening=float(rng.uniform(0.012, 0.024)),
        bias=float(rng.uniform(0.04, 0.16)),
        gain=float(rng.normal(0, 0.8)) if ct else float(rng.uniform(0.85, 1.12)),
        headrest=bool(ct and rng.random() < 0.6),
    )


def _slice_levels(head: Head, lesion: Lesion, slices: int) -> tuple[float, ...]:
    """Returns the heights of slices that all pass through the middle half of the lesion."""
    middle = _lesion_level(head, lesion)
    offsets = np.linspace(-0.5, 0.5, slices) * lesion.radius if slices > 1 else np.zeros(1)
    return tuple(float(middle + offset) for offset in offsets)


def _lesion_level(head: Head, lesion: Lesion) -> float:
    x, y, z = lesion.center
    return float(z - head.tilt[0] * x - head.tilt[1] * y)


def render_patient(
    seed: int,
    index: int,
    *,
    tumor: bool,
    sequence: Sequence = "CT",
    slices: int = 3,
    size: int = 256,
    case: CaseKind = "slice",
) -> Patient:
    """Renders one patient of a cohort as arrays.

    Head, scanner and levels do not depend on ``tumor``: the healthy patient is the same person without the lesion.

    Args:
        seed: Seed of the cohort.
        index: Patient number in the cohort, from 1.
        tumor: Whether the patient has a lesion.
        sequence: ``CT`` or the MR contrast.
        slices: Number of slices.
        size: Pixels along each side.
        case: ``series`` for slices through the whole head, evenly spaced from the feet to the head.

    Returns:
        The patient; each slice of a tumor patient has a mask of at least 30 pixels, or of a series one slice.
    """
    enough = max if case == "series" else min
    base = _generator(seed, index, 0)
    head, scanner = draw_head(base), draw_scanner(sequence, base)
    values = tissue_values(sequence, base)
    for attempt in range(50):
        lesion = draw_lesion(_generator(seed, index, 1, attempt))
        levels = series_levels(_lesion_level(head, lesion), slices) if case == "series" else _slice_levels(head, lesion, slices)
        noise = [_generator(seed, index, 2, number) for number in range(slices)]
        shown = lesion if tumor else None
        planes = [render(head, scanner, values, at, rng, shown, size) for at, rng in zip(levels, noise, strict=True)]
        if not tumor or enough(int(plane.mask.sum()) for plane in planes) >= MIN_MASK_PIXELS:
            return Patient(head, scanner, values, shown, levels, tuple(planes))
    raise ReslinkError(
        f"No site for a lesion was found in patient {index} of the phantom",
        "50 sites were tried",
        "Choose another seed, and report this as a bug of reslink",
    )


def render_slice(
    seed: int, index: int, *, level: float | None = None, tumor: bool = False, sequence: Sequence = "CT", size: int = 256
) -> RenderedSlice:
    """Renders one slice as arrays, through the center of the lesion or at a given level.

    Args:
        seed: Seed of the cohort.
        index: Patient number in the cohort, from 1.
        level: Height above the foramina of Monro in mm, −30 to 60; None for the center of the lesion, or of the site where a
            healthy patient would have it.
        tumor: Whether the patient has a lesion.
        sequence: ``CT`` or the MR contrast.
        size: Pixels along each side.
    """
    patient = render_patient(seed, index, tumor=tumor, sequence=sequence, slices=1, size=size)
    if level is None:
        return patient.slices[0]
    rng = _generator(seed, index, 3)
    return render(patient.head, patient.scanner, patient.values, level, rng, patient.lesion, size)


def plan_cohort(settings: PhantomSettings) -> PlannedCohort:
    """Returns the cases of a cohort with their planted faults, without rendering them."""
    rng = _generator(settings.seed, 0)
    count = round(settings.patients * settings.tumor_share)
    tumors = {int(index) for index in rng.permutation(settings.patients)[:count]}
    rows = [
        PhantomCase(
            patient=index + 1,
            number=number,
            label=settings.tumor if index in tumors else settings.healthy,
            tumor=index in tumors,
            source=(index + 1, number),
        )
        for index in range(settings.patients)
        for number in range(settings.slices)
    ]
    names = (settings.healthy, settings.tumor)
    return plant_faults(rows, settings.faults, names, _generator(settings.seed, 0, 1))


def make_cohort(
    out: str | Path,
    settings: PhantomSettings,
    on_progress: Callable[[int, int], None] | None = None,
    workers: int = 2,
    *,
    overwrite: bool = False,
) -> Path:
    """Writes a cohort: ``images/``, ``masks/``, ``manifest.csv``, ``phantom.json`` and, with faults, ``faults.json``.

    The manifest (``path,label,patient_id,mask``; of series without masks) is written last. The mask column is empty for slices
    without a lesion and
    for cases with a wrong label. Masks are 8-bit PNG (0 and 255), or NIfTI with the affine of the image if the images are
    NIfTI. They mark the lesion without its edema. Equal settings write equal bytes, whatever the number of workers.

    Args:
        out: A new or empty folder, or the folder of an earlier cohort.
        settings: The settings of the cohort.
        on_progress: Called with the number of finished patients and the total.
        workers: Number of rendering threads.
        overwrite: Replace an earlier cohort; an unfinished one is always replaced.

    Returns:
        The folder.

    Raises:
        UsageError: If the folder contains an earlier cohort without ``overwrite``, or other files.
        StorageError: If a file cannot be written.
    """
    folder = Path(out)
    if settings.case == "series":
        series_name("", settings.format)  # refuses a format for slices
    _remove_earlier_cohort(folder, overwrite)
    files.write_json(folder / _SETTINGS_FILE, settings.model_dump())
    planted = plan_cohort(settings)
    by_source: dict[int, list[PhantomCase]] = {}
    for row in planted.rows:
        by_source.setdefault(row.source[0], []).append(row)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        jobs = pool.map(lambda item: _write_patient(folder, settings, *item), by_source.items())
        for done, _ in enumerate(jobs, start=1):
            if on_progress is not None:
                on_progress(done, settings.patients)
    if any(value > 0 for value in settings.faults.model_dump().values()):
        files.write_json(folder / "faults.json", planted.report(output.SUFFIXES[settings.format]))
    files.write_atomic(folder / _MANIFEST, _manifest_csv(planted.rows, settings))
    return folder


def _remove_earlier_cohort(folder: Path, overwrite: bool) -> None:
    """Removes an earlier cohort; refuses a complete one without ``overwrite``, and a folder with other files."""
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() and not (folder / _SETTINGS_FILE).is_file():
        raise UsageError(
            f"{folder} contains files that do not belong to a phantom cohort",
            "The output folder must be new or empty, or hold an earlier cohort",
            "Choose another folder",
        )
    if (folder / _MANIFEST).exists() and not overwrite:
        raise files.exists_error(folder, "a phantom cohort")
    for name in (_MANIFEST, "faults.json"):
        (folder / name).unlink(missing_ok=True)
    for name in ("images", "masks"):
        shutil.rmtree(folder / name, ignore_errors=True)


def _write_patient(folder: Path, settings: PhantomSettings, index: int, rows: list[PhantomCase]) -> None:
    patient = render_patient(
        settings.seed,
        index,
        tumor=rows[0].tumor,
        sequence=settings.modality,
        slices=settings.slices,
        size=settings.size,
        case=settings.case,
    )
    if settings.case == "series":
        infos = [_slice_info(patient, row, settings) for row in rows]
        target = folder / series_name(rows[0].patient_id, settings.format)
        write_series(target, list(patient.slices), infos, settings.format, settings.modality)
        return
    for row in rows:
        plane = patient.slices[row.source[1]]
        info = _slice_info(patient, row, settings)
        files.write_atomic(
            folder / _image_name(row, settings), _encode_image(_apply_faults(row, plane, settings), settings, info)
        )
        if row.tumor:
            mask = (plane.mask[:, ::-1] if row.mirrored else plane.mask).astype(np.uint8) * 255
            nifti = settings.format == "nifti"
            content = output.write_nifti(mask, info) if nifti else output.write_png(mask)
            files.write_atomic(folder / _mask_name(row, settings), content)


def _slice_info(patient: Patient, row: PhantomCase, settings: PhantomSettings) -> output.SliceInfo:
    plane = patient.slices[row.source[1]]
    return output.SliceInfo(
        row.patient_id,
        row.number,
        plane.level * patient.head.scale[2],
        plane.spacing,
        max(1.0, patient.head.scale[2] * float(np.ptp(patient.levels)) / max(1, settings.slices - 1))
        if settings.case == "series"
        else max(1.0, float(np.ptp(patient.levels)) / max(1, settings.slices - 1)),
        patient.head.age,
        settings.seed,
        row.scanner,
    )


def _apply_faults(row: PhantomCase, plane: RenderedSlice, settings: PhantomSettings) -> np.typing.NDArray[np.float32]:
    """Returns the pixels of the slice with its planted faults."""
    pixels = plane.pixels
    ct = settings.modality == "CT"
    if row.duplicate:
        rng = _generator(settings.seed, row.patient, 4)
        extra = rng.standard_normal(pixels.shape, dtype=np.float32) * np.float32(0.15 * plane.noise_sd)
        pixels = pixels[:, ::-1] if row.mirrored else pixels
        pixels = pixels + np.float32(0.1 * plane.noise_sd) + extra
    if row.text:
        pixels = burn_text(pixels, "L  120kV" if ct else f"L  {settings.modality}", 1000.0 if ct else 3 * MR_SCALE)
    return pixels


def _encode_image(pixels: np.typing.NDArray[np.float32], settings: PhantomSettings, info: output.SliceInfo) -> bytes:
    ct = settings.modality == "CT"
    if settings.format == "png":
        return output.write_png(output.to_gray(pixels, ct), as_rgb=info.second_scanner)
    if settings.format == "nifti":
        return output.write_nifti(pixels, info)
    return output.write_dicom(pixels, ct, settings.modality, info)


def _image_name(row: PhantomCase, settings: PhantomSettings) -> str:
    return f"images/{row.stem}{output.SUFFIXES[settings.format]}"


def _mask_name(row: PhantomCase, settings: PhantomSettings) -> str:
    return f"masks/{row.stem}{'.nii.gz' if settings.format == 'nifti' else '.png'}"


def _manifest_csv(rows: tuple[PhantomCase, ...], settings: PhantomSettings) -> str:
    stream = io.StringIO()
    writer = files.csv_writer(stream)
    if settings.case == "series":
        writer.writerow(["path", "label", "patient_id"])
        writer.writerows([series_name(r.patient_id, settings.format), r.label, r.patient_id] for r in rows if r.number == 0)
        return stream.getvalue()
    writer.writerow(["path", "label", "patient_id", "mask"])
    for row in rows:
        shown = row.tumor and row.label == settings.tumor
        writer.writerow([_image_name(row, settings), row.label, row.patient_id, _mask_name(row, settings) if shown else ""])
    return stream.getvalue()
