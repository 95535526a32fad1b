"""Whose images they are where only the DICOM headers say it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest

from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.case import Case
from reslink.datasets.manifest import DataSet, Manifest
from reslink.datasets.patient_ids import HeaderPatient, PatientNotes, add_header_patients, read_header_patient
from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort
from reslink.datasets.split_table import write_split_table
from reslink.imaging.preprocess import Preprocess
from reslink.labels import Labels

SMALL = Preprocess(size=64, channels=1)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four patients of two slices each in class folders, DICOM."""
    make_cohort(tmp_path / "all", PhantomSettings.parse({"patients": 4, "slices": 2, "size": 128, "format": "dicom"}))
    for case in Manifest.open(tmp_path / "all").cases:
        copy = tmp_path / "data" / case.label / case.path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(case.path.read_bytes())
    return tmp_path / "data"


def changed(path: Path, change: Callable[[pydicom.Dataset], None]) -> None:
    item = pydicom.dcmread(path)
    change(item)
    item.save_as(path)


def cases(*patients: str | None) -> Manifest:
    made = tuple(Case(Path(f"{i}"), "ab"[i % 2], patient_id=patient, name=f"{i}") for i, patient in enumerate(patients))
    return Manifest(made, Labels(("a", "b")), Path())


def patients(manifest: Manifest) -> list[str | None]:
    return [case.patient_id for case in manifest.cases]


class TestOneHeader:
    def test_gives_a_hash_and_not_the_id(self, data: Path) -> None:
        found = [read_header_patient(case.path) for case in Manifest.open(data).cases]
        assert len({item.patient for item in found}) == 4
        assert len({item.study for item in found}) == 4
        assert "P0" not in str(found)

    @pytest.mark.parametrize(
        "name", ["", " ", "ANON", "anonymous", "Unknown", "N/A", "--", "XXXX", "De-Identified", "ANON^Patient"]
    )
    def test_placeholders_are_not_used(self, data: Path, name: str) -> None:
        path = Manifest.open(data).cases[0].path
        changed(path, lambda item: setattr(item, "PatientID", name))
        assert read_header_patient(path).patient == ""

    def test_two_issuers_may_give_one_number(self, data: Path) -> None:
        path, found = Manifest.open(data).cases[0].path, set()
        for issuer in ("North", "South"):
            changed(path, lambda item, issuer=issuer: setattr(item, "IssuerOfPatientID", issuer))  # type: ignore[misc]
            found.add(read_header_patient(path).patient)
        assert len(found) == 2

    def test_the_frames_of_reference_of_the_standard_do_not_stand_for_a_patient(self, data: Path) -> None:
        path = Manifest.open(data).cases[0].path
        assert read_header_patient(path).frame_of_reference
        changed(path, lambda item: setattr(item, "FrameOfReferenceUID", "1.2.840.10008.1.4.1.1"))  # Talairach atlas
        assert read_header_patient(path).frame_of_reference == ""

    def test_deflated_bare_and_spaced_headers(self, data: Path, tmp_path: Path) -> None:
        path = Manifest.open(data).cases[0].path
        plain = read_header_patient(path)
        item = pydicom.dcmread(path)
        item.PatientID = f" {item.PatientID} "
        item.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
        item.save_as(tmp_path / "deflated.dcm")
        assert read_header_patient(tmp_path / "deflated.dcm") == plain

    @pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n" + b"x" * 200, b"\0" * 128 + b"DICM" + b"\xff" * 40])
    def test_other_files_have_no_patient(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "file").write_bytes(content)
        assert read_header_patient(tmp_path / "file") == HeaderPatient()
        assert read_header_patient(tmp_path / "missing") == HeaderPatient()


class TestCases:
    def test_a_stated_patient_wins_and_takes_the_other_files_of_the_same_person(self) -> None:
        headers = [HeaderPatient("h1", "s"), HeaderPatient("h1", "s"), HeaderPatient("h2", "t"), HeaderPatient()]
        found, note = add_header_patients(cases("Ann", None, None, None), headers)
        assert patients(found) == ["Ann", "Ann", "dicom-h2", None]
        assert [case.stated_patient for case in found.cases] == ["Ann", "", "", ""]
        assert not any(note)

    @pytest.mark.parametrize("shared", ["study", "series", "frame_of_reference"])
    def test_files_of_one_examination_are_one_patient_whatever_their_patient_id(self, shared: str) -> None:
        headers = [HeaderPatient(patient, **{shared: uid}) for patient, uid in [("a", "u"), ("b", "u"), ("", "u"), ("c", "v")]]
        found, note = add_header_patients(cases(None, None, None, None), headers)
        assert patients(found) == ["dicom-a", "dicom-a", "dicom-a", "dicom-c"]
        assert note.joined.startswith("1 joined with another one, because of a shared DICOM study")

    def test_without_any_patient_id_the_examination_is_the_patient(self) -> None:
        headers = [HeaderPatient(study="s"), HeaderPatient(study="s", series="x"), HeaderPatient(series="x"), HeaderPatient()]
        found, note = add_header_patients(cases(None, None, None, None), headers)
        assert patients(found) == ["dicom-s", "dicom-s", "dicom-s", None]
        assert not any(note)

    def test_data_sets_without_a_patient_are_named(self) -> None:
        """One case of north has a patient; that of south is in a header; east and west have none."""
        names = ("north/1", "north/2", "south/1", "east/1", "west/1", "west/2")
        given = cases("Ann", *[None] * 5)
        renamed = [replace(case, name=name) for case, name in zip(given.cases, names, strict=True)]
        members = tuple(DataSet(name, Path(), has_table=False) for name in ("north", "south", "east", "west"))
        headers = [HeaderPatient()] * 2 + [HeaderPatient("h")] + [HeaderPatient()] * 3
        _, notes = add_header_patients(replace(given, cases=tuple(renamed), sets=members), headers)
        assert notes.missing == "no case of east (1 case), west (2 cases) states one, in a table or in a DICOM header"
        assert add_header_patients(replace(given, cases=tuple(renamed)), headers)[1].missing == ""

    def test_stated_patients_who_share_an_examination_are_joined_and_stay_as_stated_in_the_table(self) -> None:
        headers = [HeaderPatient("h", "s"), HeaderPatient("h", "s"), HeaderPatient("i", "t")]
        found, note = add_header_patients(cases("Bob", "Ann", "Cid"), headers)
        assert patients(found) == ["Ann", "Ann", "Cid"]
        assert [case.stated_patient for case in found.cases] == ["Bob", "Ann", "Cid"]
        assert note.joined.startswith("1 joined")
        assert add_header_patients(found, headers) == (found, PatientNotes())

    def test_the_patient_id_of_the_header_does_not_join_stated_patients(self) -> None:
        found, _ = add_header_patients(cases("Ann", "Bob", "Cid"), [HeaderPatient("site", study) for study in "stu"])
        assert patients(found) == ["Ann", "Bob", "Cid"]

    def test_the_order_of_the_cases_does_not_matter(self) -> None:
        headers = [
            HeaderPatient("b", "s"),
            HeaderPatient("a", "s"),
            HeaderPatient("", "", "", "f"),
            HeaderPatient("a", "", "", "f"),
        ]
        for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
            found, _ = add_header_patients(cases(None, None, None, None), [headers[i] for i in order])
            assert patients(found) == ["dicom-a"] * 4

    @pytest.mark.parametrize("shared", ["study", "series", "frame_of_reference"])
    def test_a_uid_that_all_files_of_several_patients_share_is_not_used(self, shared: str) -> None:
        found, note = add_header_patients(cases(None, None, None), [HeaderPatient(name, **{shared: "u"}) for name in "abb"])
        assert patients(found) == ["dicom-a", "dicom-b", "dicom-b"]
        assert shared.replace("_", " ") in note.unused

    @pytest.mark.parametrize("shared", ["study", "series", "frame_of_reference"])
    def test_a_uid_that_is_not_used_names_no_patient(self, shared: str) -> None:
        headers = [HeaderPatient(name, **{shared: "u"}) for name in ("a", "b", "", "")]
        found, note = add_header_patients(cases(None, None, None, None), headers)
        assert shared.replace("_", " ") in note.unused
        assert patients(found) == ["dicom-a", "dicom-b", None, None]

    def test_another_uid_names_the_patient_if_the_study_is_not_used(self) -> None:
        headers = [HeaderPatient(name, "u", series) for name, series in [("a", "x"), ("b", "y"), ("", "z"), ("", "z")]]
        found, _ = add_header_patients(cases(None, None, None, None), headers)
        assert patients(found) == ["dicom-a", "dicom-b", "dicom-z", "dicom-z"]

    @pytest.mark.parametrize(
        ("headers", "used"),
        [
            ([("h", "s"), ("h", "t"), ("h", "u")], False),
            ([("h", ""), ("h", ""), ("h", "")], False),
            ([("h", "s"), ("h", "s"), ("h", "s")], True),  # one examination of one person
            ([("h", "s"), ("h", "t"), ("", "u")], True),  # two files only
            ([("h", "s"), ("h", "t"), ("i", "u")], True),
        ],
    )
    def test_an_id_shared_by_all_files_of_several_studies_is_not_used(self, headers: list[tuple[str, str]], used: bool) -> None:
        found, note = add_header_patients(cases(None, None, None), [HeaderPatient(*header) for header in headers])
        assert ("dicom-h" in patients(found)) is used
        assert bool(note.unused) is not used

    def test_the_digest_and_a_table_do_not_contain_it(self, data: Path, tmp_path: Path) -> None:
        before = Manifest.open(data)
        found, _ = add_header_patients(before)
        assert len(set(patients(found))) == 4
        assert found.digest() == before.digest()
        out = write_split_table(tmp_path / "split.csv", found, {"split": ["train"] * len(found)})
        assert out.read_text().splitlines()[0] == "path,label,split"


class TestThePixelCache:
    def test_reads_them_each_time_and_stores_nothing(self, data: Path, tmp_path: Path) -> None:
        found = [PixelCache.open(Manifest.open(data), SMALL, tmp_path / "cache", workers=0) for _ in range(2)]
        for cache in found:
            assert len(set(patients(cache.manifest)) - {None}) == 4
            assert cache.notes == ()
        assert patients(found[0].manifest) == patients(found[1].manifest)
        texts = [path.read_text() for path in (tmp_path / "cache").rglob("*.json")]
        hashes = {name.removeprefix("dicom-") for name in patients(found[0].manifest) if name}
        assert len(texts) == 2
        assert not [name for name in hashes for text in texts if name in text]

    def test_notes_why_they_are_not_used(self, data: Path, tmp_path: Path) -> None:
        for case in Manifest.open(data).cases:
            changed(case.path, lambda item: setattr(item, "PatientID", "SITE"))
        cache = PixelCache.open(Manifest.open(data), SMALL, tmp_path / "cache", workers=0)
        assert len(set(patients(cache.manifest))) == 4  # the studies tell them apart
        assert "with a Patient ID have the same one" in cache.notes[0]
