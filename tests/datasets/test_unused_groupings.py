"""A data set without patients that seems to have some: which column or name is pointed at, and what is left alone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from reslink.datasets.case import Case
from reslink.datasets.manifest import Manifest
from reslink.datasets.unused_groupings import augmented_copies, unused_grouping


def cases(n: int = 40, name: Callable[[int], str] = "{:03}.png".format, **columns: Callable[[int], object]) -> list[Case]:
    return [
        Case(Path(f"/{i}"), "ab"[i % 2], name=name(i), extra={key: str(value(i)) for key, value in columns.items()})
        for i in range(n)
    ]


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("study_uid", lambda i: f"1.2.{i % 10}"),
        ("SeriesInstanceUID", lambda i: f"1.2.{i % 10}"),
        ("Accession", lambda i: i // 4),
        ("scan", lambda i: i % 8),
        ("visitId", lambda i: i % 8),
        ("volume", lambda i: f"v{i // 5}"),
        ("who", lambda i: f"person {i // 4}"),
        ("age", lambda i: 40 + i // 4),
    ],
)
def test_a_column_that_groups_is_named(header: str, value: Callable[[int], object]) -> None:
    sentence = unused_grouping(cases(**{header: value}))
    assert f"No patient is stated, but the column {header!r} (" in sentence
    assert "--columns patient=COLUMN" in sentence


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("age", lambda i: 40 + i * 7 % 23),
        ("sex", lambda i: "MF"[i % 2]),
        ("image_id", lambda i: i),
        ("group", lambda i: i // 4),
        ("given_split", lambda i: i // 4),
        ("comment", lambda _: ""),
        ("scanner", lambda i: i * 7 % 5),
        ("study", lambda i: f"s{i // 4}" if i < 12 else ""),
    ],
)
def test_a_column_that_does_not_group(header: str, value: Callable[[int], object]) -> None:
    assert unused_grouping(cases(**{header: value})) == ""


@pytest.mark.parametrize(
    "name",
    [
        lambda i: f"P{i // 4:03}_slice{i % 4}.png",
        lambda i: f"Tumor/P{i // 4:03}-{i % 4}.png",
        lambda i: f"TCGA_CS_49{i // 4:02}_19960909_{i % 4}.tif",
        lambda i: f"sub-{i // 4:02}_ses-1_img_{i % 4:03}.png",
        lambda i: f"{i // 4 + 100} ({i % 4}).jpg",
        lambda i: f"a/Jane{'abcdefghij'[i // 4]}/{i % 4}.png",
    ],
)
def test_ids_in_file_names_are_named(name: Callable[[int], str]) -> None:
    sentence = unused_grouping(cases(name=name))
    assert f"file names such as {name(0)} (10 values for 40 images)" in sentence
    assert "add a column patient_id" in sentence


@pytest.mark.parametrize(
    "name",
    [
        lambda i: f"{i:05}.png",
        lambda i: f"glioma/mri4_{i:05}.jpg",
        lambda i: f"a/Te-gl_{i:04}.jpg",
        lambda i: f"{'ab'[i % 2]}/{i}.png",
        lambda i: f"Y{i}.jpg",
        lambda i: f"scan (1) of P{i}.png",
    ],
)
def test_running_numbers_are_no_ids(name: Callable[[int], str]) -> None:
    assert unused_grouping(cases(name=name)) == ""


def with_patients(rows: list[Case], n: int) -> list[Case]:
    """Returns the cases, of which the first n state a patient."""
    return [replace(case, patient_id=f"p{i}") if i < n else case for i, case in enumerate(rows)]


@pytest.mark.parametrize("n", [1, 8, 24])
def test_a_few_stated_patients_do_not_end_the_search(n: int) -> None:
    sentence = unused_grouping(with_patients(cases(study_uid=lambda i: i // 4), n))
    assert sentence.startswith(f"{40 - n} of 40 images state no patient, but the column 'study_uid' (")
    assert "complete the column patient_id" in sentence
    sentence = unused_grouping(with_patients(cases(name=lambda i: f"P{i // 4:03}_slice{i % 4}.png"), n))
    assert f"{40 - n} of 40 images state no patient, but file names such as P{n // 4:03}_slice{n % 4}.png (" in sentence


def test_images_without_a_patient_are_counted_although_nothing_groups_them() -> None:
    sentence = unused_grouping(with_patients(cases(), 38))
    assert sentence == "2 of 40 images state no patient; each of them counts as a patient of its own"


def test_stated_patients_end_the_search() -> None:
    assert unused_grouping(with_patients(cases(study_uid=lambda i: i // 4), 40)) == ""


def test_it_is_a_warning_of_every_command(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for i in range(24):
        path = tmp_path / ("no", "yes")[i % 2] / f"P{i // 4:02}_{i % 4}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    manifest = Manifest.open(tmp_path)
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.getMessage() == f"{manifest.notes[-1]}."
    assert "file names such as no/P00_0.png (6 values for 24 images) may group the images of a patient" in record.getMessage()


def test_patients_that_only_number_the_images() -> None:
    rows = with_patients(cases(name=lambda i: f"P{i // 4:03}_slice{i % 4}.png"), 40)
    assert (
        "Nearly every image states a patient of its own, but file names such as P000_slice0.png (10 values"
        in unused_grouping(rows)
    )
    assert unused_grouping(with_patients(cases(), 40)) == ""
    shared = [replace(case, patient_id=str(i // 2)) for i, case in enumerate(rows)]
    assert unused_grouping(shared) == ""


@pytest.mark.parametrize(
    ("image", "copy"),
    [
        ("train/7.png", "test/7_rot15.png"),
        ("a/P1_3.jpg", "a/P1_3_hflip.jpg"),
        ("a/Y1.JPG", "a/aug_Y1_0_1234.jpg"),
        ("a/Y1.JPG", "b/rot30_y1.png"),
        ("a/scan (3).png", "a/scan (3) - Copy (2).png"),
        ("a/7.nii.gz", "a/7-elastic-2.nii.gz"),
    ],
)
def test_augmented_copies_are_named(image: str, copy: str) -> None:
    rows = cases(2, name=lambda i: (image, copy)[i])
    note = f"1 file is named like an augmented copy of another image, such as {copy} of {image}. "
    assert augmented_copies(rows).startswith(note)
    assert augmented_copies([replace(case, patient_id="p1") for case in rows]) == ""
    assert augmented_copies([replace(case, patient_id=f"p{i}") for i, case in enumerate(rows)]).startswith(note)
    assert augmented_copies(rows[1:]) == ""


@pytest.mark.parametrize(
    "names", [("7.png", "7_2.png"), ("7.png", "8_rot15.png"), ("noise.png", "flip.png"), ("contrast_1.png", "contrast_2.png")]
)
def test_other_names_are_no_augmented_copies(names: tuple[str, str]) -> None:
    assert augmented_copies(cases(2, name=lambda i: names[i])) == ""
