"""Each kind of file that does not belong is reported by name; sound cohorts are left in peace."""

from __future__ import annotations

import functools
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pydicom
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_sample_images

from reslink.audit.checks.file_quality import KINDS, Facts, check, facts
from reslink.datasets.phantom.cohort import render_slice
from reslink.datasets.phantom.writers import Place, to_grey, write_dicom
from reslink.imaging.image import Image
from reslink.imaging.reading import read_image

SIDE = 256


def grey(values: NDArray[Any]) -> Image:
    return Image(np.asarray(values, np.float32), unit="grey", white=255.0)


@functools.cache
def plane(patient: int, sequence: str = "CT") -> NDArray[np.float32]:
    return render_slice(3, patient, sequence=sequence, size=SIDE).pixels  # type: ignore[arg-type]


def head(patient: int, sequence: str = "CT") -> Image:
    return grey(to_grey(plane(patient, sequence), sequence == "CT"))


def hounsfield(values: NDArray[Any]) -> Image:
    return Image(np.asarray(values, np.float32), unit="HU", modality="CT")


@pytest.fixture(scope="module")
def cohort() -> list[Facts]:
    return [facts(head(patient)) for patient in range(21)]


def kinds(cohort: list[Facts], odd: Facts | str) -> list[str]:
    """What is found in a cohort to which one file was added; nothing may be found in the others."""
    names = [f"{i}.png" for i in range(len(cohort))]
    found, _ = check([*names, "odd.png"], [*cohort, odd])
    assert {finding.path for finding in found} <= {"odd.png"}
    assert {finding.kind for finding in found} <= set(KINDS)
    return [finding.kind for finding in found]


def page() -> NDArray[np.uint8]:
    sheet = PIL.Image.new("L", (240, 300), 255)
    draw = PIL.ImageDraw.Draw(sheet)
    for line in range(21):
        draw.text((8, 8 + 12 * line), "The patient was seen on Monday with a headache", fill=0)
    return np.asarray(sheet)


def chest() -> NDArray[np.float64]:
    """A drawing of a chest film: bright shoulders and spine, two dark lungs, bright rim."""
    y, x = np.mgrid[-1:1:200j, -1:1:200j]
    lungs = (((np.abs(x) - 0.45) / 0.3) ** 2 + (y / 0.7) ** 2) < 1
    return 200 - 150 * lungs + 20 * np.cos(12 * y) * (~lungs)


@pytest.mark.parametrize("sequence", ["CT", "T1", "FLAIR"])
def test_a_sound_cohort_has_no_findings(sequence: str) -> None:
    images = [facts(head(patient, sequence)) for patient in range(21)]
    found, skipped = check([str(i) for i in range(21)], images)
    assert found == []
    assert set(skipped) == (set() if sequence == "CT" else {"mixed_windows"})


def test_a_file_that_cannot_be_read_is_corrupt_in_its_own_words(cohort: list[Facts]) -> None:
    [finding], _ = check(["a", "b"], [cohort[0], "b breaks off"])
    assert (finding.path, finding.kind, finding.message) == ("b", "corrupt", "b breaks off")


def test_a_blank_picture(cohort: list[Facts]) -> None:
    assert kinds(cohort, facts(grey(np.full((SIDE, SIDE), 80) + np.eye(SIDE)))) == ["blank"]


def test_a_tiny_picture(cohort: list[Facts]) -> None:
    small = np.asarray(PIL.Image.fromarray(head(1).pixels).resize((40, 40)))
    assert "tiny" in kinds(cohort, facts(grey(small)))


def test_noise_pages_films_and_photographs_are_no_heads(cohort: list[Facts], rng: np.random.Generator) -> None:
    photographs = [
        np.asarray(PIL.Image.fromarray(image).convert("L").resize((240, 160))) for image in load_sample_images().images
    ]
    for odd in (rng.integers(0, 256, (SIDE, SIDE)), page(), chest(), *photographs):
        assert "not_a_head" in kinds(cohort, facts(grey(odd)))


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_head(cohort: list[Facts], turns: int) -> None:
    turned = grey(np.rot90(head(30).pixels, turns).copy())
    assert kinds(cohort, facts(turned)) == ["wrong_orientation"]


def test_a_mirrored_head_is_not_told_from_a_head(cohort: list[Facts]) -> None:
    assert kinds(cohort, facts(grey(head(30).pixels[:, ::-1].copy()))) == []


def test_the_other_modality_by_its_picture(cohort: list[Facts]) -> None:
    assert "other_modality" in kinds(cohort, facts(head(30, "T1")))


def test_the_other_modality_by_what_the_file_says() -> None:
    ct = [facts(hounsfield(plane(patient))) for patient in range(21)]
    mr = facts(Image(plane(30, "T1"), unit="MR", modality="MR"))
    assert "other_modality" in kinds(ct, mr)


def test_a_mixed_data_set_is_not_reported() -> None:
    both = [facts(head(patient, sequence)) for patient in range(12) for sequence in ("CT", "T1")]
    found, skipped = check([str(i) for i in range(24)], both)
    assert not [finding for finding in found if finding.kind == "other_modality"]
    assert skipped["mixed_windows"] == "12 of the pictures look like CT, and fewer than 20 are not held against each other"


def test_another_window(cohort: list[Facts]) -> None:
    narrow = grey(np.clip(plane(30) / 300, 0, 1) * 255)
    assert "mixed_windows" in kinds(cohort, facts(narrow))


def test_sound_hounsfield_units_with_padding_and_without_air() -> None:
    values = plane(1)
    padded = hounsfield(np.where(values < -900, -3024, values))
    for image in (hounsfield(values), padded, hounsfield(values[30:-30, 30:-30].copy())):
        assert check(["a"], [facts(image)])[0] == []


@pytest.mark.parametrize("shift", [1024, -1024, 200])
def test_hounsfield_units_without_their_rescale(shift: int) -> None:
    found, _ = check(["a"], [facts(hounsfield(plane(1) + shift))])
    assert "implausible_hu" in [finding.kind for finding in found]


def test_the_plane_of_a_dicom_file(tmp_path: Path) -> None:
    measured: list[Facts | str] = []
    for patient in range(21):
        data = write_dicom(plane(patient), True, "CT", Place(f"P{patient}", 0, 0.0, 1.0, 1.0, 50.0, 0))
        if patient == 20:
            dataset = pydicom.dcmread(io.BytesIO(data))
            dataset.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
            stream = io.BytesIO()
            dataset.save_as(stream)
            data = stream.getvalue()
        path = tmp_path / f"{patient}.dcm"
        path.write_bytes(data)
        measured.append(facts(read_image(path), path))
    [finding], _ = check([str(i) for i in range(21)], measured)
    assert (finding.path, finding.kind) == ("20", "wrong_orientation")
    assert finding.message == "it is sagittal, most files are axial"


def test_few_files_are_not_held_against_each_other(cohort: list[Facts]) -> None:
    turned = facts(grey(np.rot90(head(30).pixels).copy()))
    found, skipped = check([str(i) for i in range(11)], [*cohort[:10], turned])
    assert found == []
    assert set(skipped) == {"not_a_head", "wrong_orientation", "other_modality", "mixed_windows"}
    assert set(skipped.values()) == {"11 images look like heads, and fewer than 20 are not held against each other"}


def test_heads_in_several_planes_have_no_usual_orientation(cohort: list[Facts], rng: np.random.Generator) -> None:
    several = [replace(item, thumbnail=np.rot90(item.thumbnail, i % 4)) for i, item in enumerate(cohort)]
    several = [replace(item, thumbnail=rng.permutation(item.thumbnail.reshape(-1)).reshape(24, 24)) for item in several]
    _, skipped = check([str(i) for i in range(21)], several)
    assert "none is the usual orientation" in skipped["wrong_orientation"]


def test_findings_come_in_the_order_of_the_files(cohort: list[Facts]) -> None:
    blank = facts(grey(np.zeros((30, 30))))
    found, _ = check(["b", "a", "c"], [blank, replace(cohort[0], roundness=0.1), "c is broken"])
    assert [(finding.path, finding.kind) for finding in found] == [("b", "blank"), ("a", "not_a_head"), ("c", "corrupt")]
