"""Each kind of problem is reported with the name of the file; a sound cohort has no findings."""

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

from reslink.audit.checks.file_quality import KINDS, check_files
from reslink.audit.features.image import ImageFeatures, image_features
from reslink.datasets.phantom.cohort import render_slice
from reslink.datasets.phantom.writers import SliceInfo, to_gray, write_dicom
from reslink.imaging.image import Image
from reslink.imaging.reading import read_image

SIDE = 256


def gray(values: NDArray[Any]) -> Image:
    return Image(np.asarray(values, np.float32), unit="gray", white=255.0)


@functools.cache
def plane(patient: int, sequence: str = "CT") -> NDArray[np.float32]:
    return render_slice(3, patient, sequence=sequence, size=SIDE).pixels  # type: ignore[arg-type]


def head(patient: int, sequence: str = "CT") -> Image:
    return gray(to_gray(plane(patient, sequence), sequence == "CT"))


def hounsfield(values: NDArray[Any]) -> Image:
    return Image(np.asarray(values, np.float32), unit="HU", modality="CT")


@pytest.fixture(scope="module")
def cohort() -> list[ImageFeatures]:
    return [image_features(head(patient)) for patient in range(21)]


def kinds(cohort: list[ImageFeatures], odd: ImageFeatures | str) -> list[str]:
    """Returns the kinds of findings after one file is added to a cohort. The other files must have none."""
    names = [f"{i}.png" for i in range(len(cohort))]
    findings, _ = check_files([*names, "odd.png"], [*cohort, odd])
    assert {finding.path for finding in findings} <= {"odd.png"}
    assert {finding.kind for finding in findings} <= set(KINDS)
    return [finding.kind for finding in findings]


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
    images = [image_features(head(patient, sequence)) for patient in range(21)]
    findings, skipped = check_files([str(i) for i in range(21)], images)
    assert findings == []
    assert set(skipped) == (set() if sequence == "CT" else {"mixed_windows"})


def test_an_unreadable_file_is_corrupt_with_its_error_message(cohort: list[ImageFeatures]) -> None:
    [finding], _ = check_files(["a", "b"], [cohort[0], "b breaks off"])
    assert (finding.path, finding.kind, finding.message) == ("b", "corrupt", "b breaks off")


def test_a_blank_picture(cohort: list[ImageFeatures]) -> None:
    assert kinds(cohort, image_features(gray(np.full((SIDE, SIDE), 80) + np.eye(SIDE)))) == ["blank"]


def test_a_tiny_picture(cohort: list[ImageFeatures]) -> None:
    small = np.asarray(PIL.Image.fromarray(head(1).pixels).resize((40, 40)))
    assert "tiny" in kinds(cohort, image_features(gray(small)))


def test_noise_pages_films_and_photographs_are_not_heads(cohort: list[ImageFeatures], rng: np.random.Generator) -> None:
    photographs = [
        np.asarray(PIL.Image.fromarray(image).convert("L").resize((240, 160))) for image in load_sample_images().images
    ]
    for odd in (rng.integers(0, 256, (SIDE, SIDE)), page(), chest(), *photographs):
        assert "not_a_head" in kinds(cohort, image_features(gray(odd)))


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_rotated_head(cohort: list[ImageFeatures], turns: int) -> None:
    turned = gray(np.rot90(head(30).pixels, turns).copy())
    assert kinds(cohort, image_features(turned)) == ["wrong_orientation"]


def test_a_mirrored_head_has_no_finding(cohort: list[ImageFeatures]) -> None:
    assert kinds(cohort, image_features(gray(head(30).pixels[:, ::-1].copy()))) == []


def test_another_modality_by_its_gray_values(cohort: list[ImageFeatures]) -> None:
    assert "other_modality" in kinds(cohort, image_features(head(30, "T1")))


def test_another_modality_stated_by_the_file() -> None:
    ct = [image_features(hounsfield(plane(patient))) for patient in range(21)]
    mr = image_features(Image(plane(30, "T1"), unit="MR", modality="MR"))
    assert "other_modality" in kinds(ct, mr)


def test_a_mixed_data_set_is_not_reported() -> None:
    both = [image_features(head(patient, sequence)) for patient in range(12) for sequence in ("CT", "T1")]
    findings, skipped = check_files([str(i) for i in range(24)], both)
    assert not [finding for finding in findings if finding.kind == "other_modality"]
    assert skipped["mixed_windows"] == "12 pictures look like CT, and a comparison needs at least 20"


def test_another_window(cohort: list[ImageFeatures]) -> None:
    narrow = gray(np.clip(plane(30) / 300, 0, 1) * 255)
    assert "mixed_windows" in kinds(cohort, image_features(narrow))


def test_sound_hounsfield_units_with_padding_and_without_air() -> None:
    values = plane(1)
    padded = hounsfield(np.where(values < -900, -3024, values))
    for image in (hounsfield(values), padded, hounsfield(values[30:-30, 30:-30].copy())):
        assert check_files(["a"], [image_features(image)])[0] == []


@pytest.mark.parametrize("shift", [1024, -1024, 200])
def test_hounsfield_units_without_their_rescale(shift: int) -> None:
    findings, _ = check_files(["a"], [image_features(hounsfield(plane(1) + shift))])
    assert "implausible_hu" in [finding.kind for finding in findings]


def test_the_plane_of_a_dicom_file(tmp_path: Path) -> None:
    features: list[ImageFeatures | str] = []
    for patient in range(21):
        data = write_dicom(plane(patient), True, "CT", SliceInfo(f"P{patient}", 0, 0.0, 1.0, 1.0, 50.0, 0))
        if patient == 20:
            dataset = pydicom.dcmread(io.BytesIO(data))
            dataset.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
            stream = io.BytesIO()
            dataset.save_as(stream)
            data = stream.getvalue()
        path = tmp_path / f"{patient}.dcm"
        path.write_bytes(data)
        features.append(image_features(read_image(path), path))
    [finding], _ = check_files([str(i) for i in range(21)], features)
    assert (finding.path, finding.kind) == ("20", "wrong_orientation")
    assert finding.message == "it is sagittal; most files are axial"


def test_few_files_are_not_compared(cohort: list[ImageFeatures]) -> None:
    turned = image_features(gray(np.rot90(head(30).pixels).copy()))
    findings, skipped = check_files([str(i) for i in range(11)], [*cohort[:10], turned])
    assert findings == []
    assert set(skipped) == {"not_a_head", "wrong_orientation", "other_modality", "mixed_windows"}
    assert set(skipped.values()) == {"11 images look like heads, and a comparison needs at least 20"}


def test_heads_in_several_planes_have_no_usual_orientation(cohort: list[ImageFeatures], rng: np.random.Generator) -> None:
    several = [replace(item, thumbnail=np.rot90(item.thumbnail, i % 4)) for i, item in enumerate(cohort)]
    several = [replace(item, thumbnail=rng.permutation(item.thumbnail.reshape(-1)).reshape(24, 24)) for item in several]
    _, skipped = check_files([str(i) for i in range(21)], several)
    assert "too different to have a usual orientation" in skipped["wrong_orientation"]


def test_findings_come_in_the_order_of_the_files(cohort: list[ImageFeatures]) -> None:
    blank = image_features(gray(np.zeros((30, 30))))
    findings, _ = check_files(["b", "a", "c"], [blank, replace(cohort[0], roundness=0.1), "c is broken"])
    assert [(finding.path, finding.kind) for finding in findings] == [("b", "blank"), ("a", "not_a_head"), ("c", "corrupt")]


def test_outliers_are_measured_by_the_fifth_nearest_head_in_any_orientation(cohort: list[ImageFeatures]) -> None:
    odd = image_features(gray(chest()))
    half = replace(cohort[0], thumbnail=cohort[0].thumbnail // 8 + odd.thumbnail[:, ::-1].T // 2)
    cohort = [*cohort, *[half] * 4]
    findings, _ = check_files([str(i) for i in range(26)], [*cohort, odd])
    [message] = [finding.message for finding in findings if finding.path == "25" and "fifth" in finding.message]
    turned = [np.rot90(plane, turns) for plane in (odd.thumbnail, odd.thumbnail[:, ::-1]) for turns in range(4)]
    correlations = [max(np.corrcoef(plane.ravel(), item.thumbnail.ravel())[0, 1] for plane in turned) for item in cohort]
    *_, fifth, fourth, _, _, _ = sorted(correlations)
    assert fourth > fifth + 0.1
    assert f"(correlation with the fifth nearest {fifth:.2f}," in message
