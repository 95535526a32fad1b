"""The clean copy contains no text, no identity and no exact duplicates; the source stays unchanged, byte for byte."""

from __future__ import annotations

import csv
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import pydicom
import pytest
from pydicom.datadict import dictionary_VR
from pydicom.sequence import Sequence
from scipy import ndimage

from reslink.audit.audit import audit
from reslink.audit.burned_in_text import find_text
from reslink.audit.clean_copy import clean_copy
from reslink.audit.clean_copy.clean_copy import write_clean_copy
from reslink.audit.clean_copy.files import UidMapper
from reslink.audit.identity import identifying_attributes
from reslink.datasets.manifest import Manifest
from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort
from reslink.errors import InputError, StorageError, UsageError
from reslink.files import write_atomic
from reslink.imaging.head_mask import head_mask
from reslink.imaging.reading import read_image

CANARY = b"CANARY"


def cohort(folder: Path, **settings: Any) -> Path:
    values = {"patients": 4, "slices": 1, "seed": 4, "size": 256, **settings}
    return make_cohort(folder / "source", PhantomSettings.parse(values))


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def rewritten(folder: Path, lines: list[dict[str, str]]) -> Manifest:
    with (folder / "manifest.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return Manifest.open(folder)


@pytest.mark.parametrize(
    ("form", "modality", "suffix"),
    [("png", "CT", ".png"), ("dicom", "CT", ".dcm"), ("nifti", "CT", ".nii.gz"), ("dicom", "T1", ".dcm")],
)
def test_a_round_trip(tmp_path: Path, form: str, modality: str, suffix: str) -> None:
    source = cohort(tmp_path, format=form, modality=modality, faults={"text": 1.0})
    before, manifest = digests(source), Manifest.open(source)
    copy = write_clean_copy(manifest, {}, tmp_path / "clean")
    assert digests(source) == before
    clean = Manifest.open(copy.folder)
    assert copy.kept == len(clean) == len(manifest)
    assert all(case.path.name.endswith(suffix) for case in clean.cases)
    by_path = {change.path: change for change in copy.changes}
    for case in clean.cases:
        old = next(item for item in manifest.cases if item.name == by_path[case.name].source)
        assert (case.label, case.mask is None) == (old.label, old.mask is None)
        image, original = read_image(case.path), read_image(old.path)
        assert (image.unit, image.white, image.spacing) == (original.unit, original.white, pytest.approx(original.spacing))
        head = head_mask(original)
        np.testing.assert_array_equal(image.pixels[head], original.pixels[head])
        far = ~ndimage.binary_dilation(head, iterations=6)
        assert np.ptp(image.pixels[far]) == 0
        assert find_text(image) == []
        assert identifying_attributes(case.path) == []
        if case.mask is not None and old.mask is not None:
            np.testing.assert_array_equal(read_image(case.mask).pixels != 0, read_image(old.mask).pixels != 0)


@pytest.mark.usefixtures("few_trees")
def test_the_text_shortcut_is_gone(tmp_path: Path) -> None:
    manifest = Manifest.open(cohort(tmp_path, patients=30, size=128, faults={"text": 1.0}))
    result = audit(manifest, workers=0)
    clean = audit(Manifest.open(write_clean_copy(manifest, result, tmp_path / "clean").folder), workers=0)
    assert result["burned_in_text"]
    assert {check["check"] for check in result["checks"] if check["failed"]} == {"outside_head"}
    assert clean["burned_in_text"] == []
    assert clean["identity"] == {}
    assert clean["verdict"] == "pass"


def with_canaries(path: Path) -> None:
    """Fills a DICOM file with words that may not survive: every text of the profile, sequences, private tags, overlays."""
    dataset = pydicom.dcmread(path)
    table = (Path(clean_copy.__file__).parents[1] / "basic_profile.csv").read_text().splitlines()[1:]
    for tag in (int(line[:8], 16) for line in table if "x" not in line[:8] and not line.startswith("0002")):
        kind = dictionary_VR(tag) if pydicom.datadict.dictionary_has_tag(tag) else ""
        if kind in ("LO", "LT", "PN", "SH", "ST", "UC", "UT"):
            dataset.add_new(tag, kind, CANARY.decode())
    inner = pydicom.Dataset()
    inner.PatientName, inner.CodeMeaning = CANARY.decode(), "kept"
    dataset.ProcedureCodeSequence = Sequence([inner])
    dataset.PatientBirthDate, dataset.StudyDate = "19510203", "20190304"
    dataset.private_block(0x0029, "CANARY MAKER", create=True).add_new(1, "LO", CANARY.decode())
    dataset.add_new(0x60003000, "OW", CANARY)
    dataset.add_new(0x60104000, "LT", CANARY.decode())
    dataset.file_meta.SourceApplicationEntityTitle = CANARY.decode()
    dataset.preamble = CANARY.ljust(128, b"\0")
    dataset.save_as(path)
    with path.open("ab") as stream:
        stream.write(b"\xfc\xff\xfc\xffOB\0\0\x06\0\0\0" + CANARY)


def test_no_word_of_a_dicom_header_survives(tmp_path: Path) -> None:
    source = cohort(tmp_path, format="dicom", slices=2, patients=4)
    for path in (source / "images").iterdir():
        with_canaries(path)
    lines = [
        line | {"ward": "CANARY", "patient_id": "CANARY" + str(i // 2)} for i, line in enumerate(rows(source / "manifest.csv"))
    ]
    manifest = rewritten(source, lines)
    copy = write_clean_copy(manifest, {}, tmp_path / "clean")
    for path in copy.folder.rglob("*"):
        if path.is_file() and clean_copy.PRIVATE_FOLDER not in path.parts:
            content = path.read_bytes()
            assert CANARY not in content, path
            assert b"19510203" not in content
            assert b"20190304" not in content
            assert b"CANARY" not in path.name.encode()
    assert copy.notes[0] == "The columns ward were dropped, because they may identify a person"
    assert copy.notes[-1].endswith("Review the images before you share them")
    assert len({line["patient_id"] for line in rows(copy.folder / "manifest.csv")}) == 4


def test_dicom_files_stay_valid_and_linked(tmp_path: Path) -> None:
    source = cohort(tmp_path, format="dicom", slices=2, patients=4)
    copy = write_clean_copy(Manifest.open(source), {}, tmp_path / "clean")
    pairs = [(pydicom.dcmread(source / c.source), pydicom.dcmread(copy.folder / c.path)) for c in copy.changes]
    for word in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
        old, new = ([str(getattr(pair[side], word)) for pair in pairs] for side in (0, 1))
        assert not set(old) & set(new)
        assert len(set(zip(old, new, strict=True))) == len(set(old)) == len(set(new))
        assert all(pydicom.uid.UID(value).is_valid for value in new)
    for old, new in pairs:
        assert new.SOPClassUID == old.SOPClassUID
        assert new.file_meta.MediaStorageSOPInstanceUID == new.SOPInstanceUID
        assert new.ImagePositionPatient == old.ImagePositionPatient
        assert (new.PatientIdentityRemoved, new.LongitudinalTemporalInformationModified) == ("YES", "REMOVED")
        assert "Basic Application Level Confidentiality Profile" in new.DeidentificationMethod
        assert new.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
        assert new.PatientBirthDate in ("", None)


@pytest.mark.parametrize("form", ["jpg", "tif", "webp", "npy", "png16", "float.tif"])
def test_other_pictures_lose_their_metadata_and_keep_their_pixels(tmp_path: Path, form: str) -> None:
    source = cohort(tmp_path, patients=4)
    lines = rows(source / "manifest.csv")
    for line in lines:
        gray = np.asarray(PIL.Image.open(source / line["path"]))
        path = (source / line["path"]).with_suffix(f".{form.removesuffix('16')}")
        (source / line["path"]).unlink()
        line["path"] = f"images/{path.name}"
        exif = PIL.Image.Exif()
        exif[0x013B] = "CANARY"
        if form == "npy":
            np.save(path, gray)
        elif form == "png16":
            PIL.Image.fromarray(gray.astype(np.uint16) * 257).save(path)
        elif form == "float.tif":
            PIL.Image.fromarray(gray.astype(np.float32)).save(path, tiffinfo={315: "CANARY"})
        elif form == "tif":
            PIL.Image.fromarray(gray).save(path, tiffinfo={315: "CANARY"})
        else:
            PIL.Image.fromarray(gray).convert("RGB").save(path, exif=exif)
    manifest = rewritten(source, lines)
    copy = write_clean_copy(manifest, {}, tmp_path / "clean")
    assert copy.kept == 4
    for change in copy.changes:
        image, original = read_image(copy.folder / change.path), read_image(source / change.source)
        assert (image.unit, image.white) == (original.unit, original.white)
        head = head_mask(original)
        np.testing.assert_array_equal(image.pixels[head], original.pixels[head])
        assert CANARY not in (copy.folder / change.path).read_bytes()
        assert identifying_attributes(copy.folder / change.path) == []


def test_a_nifti_file_keeps_its_position(tmp_path: Path) -> None:
    source = cohort(tmp_path, format="nifti", patients=4)
    for path in (source / "images").iterdir():
        image = nibabel.load(path)
        turned = nibabel.as_closest_canonical(image).slicer[::-1]
        turned.header["descrip"] = CANARY
        nibabel.save(nibabel.Nifti1Image(np.asarray(turned.dataobj), turned.affine, turned.header), path)
    copy = write_clean_copy(Manifest.open(source), {}, tmp_path / "clean")
    for change in copy.changes:
        old, new = nibabel.load(source / change.source), nibabel.load(copy.folder / change.path)
        np.testing.assert_allclose(new.affine, old.affine, atol=1e-5)
        assert CANARY not in new.to_bytes()
        kept = np.asarray(new.dataobj) > -1000
        np.testing.assert_array_equal(np.asarray(new.dataobj)[kept], np.asarray(old.dataobj)[kept])
        assert kept.mean() > 0.2


def test_a_dicom_file_keeps_its_stored_direction(tmp_path: Path) -> None:
    source = cohort(tmp_path, format="dicom", patients=4)
    for path in (source / "images").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.PixelData = np.ascontiguousarray(dataset.pixel_array.T[:, ::-1]).tobytes()
        dataset.ImageOrientationPatient = [0, -1, 0, 1, 0, 0]
        dataset.save_as(path)
    for path in (source / "masks").iterdir():
        PIL.Image.fromarray(np.ascontiguousarray(np.asarray(PIL.Image.open(path)).T[:, ::-1])).save(path)
    copy = write_clean_copy(Manifest.open(source), {}, tmp_path / "clean")
    masks = {row["path"]: row["mask"] for row in rows(source / "manifest.csv")}
    clean_masks = {row["path"]: row["mask"] for row in rows(copy.folder / "manifest.csv")}
    assert copy.changes
    for change in copy.changes:
        old, new = pydicom.dcmread(source / change.source), pydicom.dcmread(copy.folder / change.path)
        assert new.ImageOrientationPatient == old.ImageOrientationPatient
        kept = new.pixel_array == old.pixel_array
        assert 0.2 < kept.mean() < 1
        assert head_mask(read_image(source / change.source)).sum() <= kept.sum() * 1.05
        if masks[change.source]:
            before, after = (
                np.asarray(PIL.Image.open(folder / name))
                for folder, name in ((source, masks[change.source]), (copy.folder, clean_masks[change.path]))
            )
            np.testing.assert_array_equal(after > 0, before > 0)


class TestExcluded:
    @pytest.fixture
    def source(self, tmp_path: Path) -> Iterator[Path]:
        folder = cohort(tmp_path, patients=8)
        lines = rows(folder / "manifest.csv")
        healthy = [line for line in lines if line["label"] == "Healthy"]
        tumour = [line for line in lines if line["label"] == "Tumor"]
        shutil.copy(folder / healthy[0]["path"], folder / "images" / "copy.png")
        shutil.copy(folder / healthy[1]["path"], folder / "images" / "conflict.png")
        (folder / "images" / "broken.png").write_bytes((folder / tumour[0]["path"]).read_bytes()[:900])
        extra = {"patient_id": "X", "mask": ""}
        lines += [
            {"path": "images/copy.png", "label": "Healthy"} | extra,
            {"path": "images/conflict.png", "label": "Tumor"} | extra,
            {"path": "images/broken.png", "label": "Tumor"} | extra,
        ]
        rewritten(folder, [line | {"split": "train"} for line in lines])
        return folder

    def test_each_is_named_with_its_reason(self, source: Path, tmp_path: Path) -> None:
        manifest = Manifest.open(source)
        near = [case.name for case in manifest.cases if case.label == "Tumor"][:2]
        copy = write_clean_copy(manifest, {"label_conflicts": [near]}, tmp_path / "clean")
        excluded = {change.source: change.reason for change in copy.changes if change.action == "excluded"}
        same = [name for name, reason in excluded.items() if reason == "the same pixels have more than one label"]
        assert len(excluded) == 6
        assert "images/conflict.png" in same
        assert len(same) == 2
        assert [excluded[name] for name in near] == ["the same image has more than one label"] * 2
        assert "cannot be read" in excluded["images/broken.png"]
        assert str(tmp_path) not in excluded["images/broken.png"]
        [double] = [reason for reason in excluded.values() if reason.startswith("the same pixels as ")]
        assert double.removeprefix("the same pixels as ") in {change.source for change in copy.changes}
        assert {line["source"] for line in rows(copy.folder / "private" / "changes.csv")} == {c.name for c in manifest.cases}
        assert len(list((copy.folder / "images").iterdir())) == copy.kept == len(manifest) - 6

    def test_a_split_is_kept_unless_it_leaks(self, source: Path, tmp_path: Path) -> None:
        manifest = Manifest.open(source)
        kept = write_clean_copy(manifest, {"group_leakage": []}, tmp_path / "kept")
        assert {line["split"] for line in rows(kept.folder / "manifest.csv")} == {"train"}
        leaky = write_clean_copy(manifest, {"group_leakage": [{"paths": ["a", "b"]}]}, tmp_path / "leaky")
        assert "split" not in rows(leaky.folder / "manifest.csv")[0]
        assert "reslink split" in leaky.notes[0]


def test_letters_over_the_brain_are_filled(tmp_path: Path) -> None:
    source = cohort(tmp_path, patients=4, modality="FLAIR")
    path = source / rows(source / "manifest.csv")[0]["path"]
    sheet = PIL.Image.open(path)
    PIL.ImageDraw.Draw(sheet).text((80, 110), "DOE^JOHN", fill=255, font=PIL.ImageFont.load_default(size=18))
    sheet.save(path)
    original = read_image(path)
    assert any(box.in_head for box in find_text(original))
    copy = write_clean_copy(Manifest.open(source), {}, tmp_path / "clean")
    [change] = [change for change in copy.changes if change.source == f"images/{path.name}"]
    assert "regions that look like text were filled from their surroundings" in change.reason
    image = read_image(copy.folder / change.path)
    assert find_text(image) == []
    region = np.s_[112:128, 84:150]
    assert image.pixels[region].max() < 0.9 * original.pixels[region].max()


def test_a_folder_that_is_in_use_or_in_the_data_is_refused(tmp_path: Path) -> None:
    manifest = Manifest.open(cohort(tmp_path, patients=4))
    for folder in (manifest.root / "clean", manifest.root, tmp_path):
        with pytest.raises(UsageError, match=r"is not empty|overlaps the data set"):
            write_clean_copy(manifest, {}, folder)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        write_clean_copy(manifest, {}, tmp_path / "used")
    assert (tmp_path / "used" / "thesis.txt").read_text() == "mine"


def test_what_stops_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = Manifest.open(cohort(tmp_path, patients=4))

    def full(path: Path, content: bytes | str) -> Path:
        if not path.name.startswith("000002"):
            return write_atomic(path, content)
        raise StorageError(f"{path} could not be written", "reslink needs space", "Free some")

    monkeypatch.setattr(clean_copy, "write_atomic", full)
    with pytest.raises(StorageError, match="could not be written"):
        write_clean_copy(manifest, {}, tmp_path / "clean")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_new_uids_follow_from_the_key_and_spare_those_of_the_standard() -> None:
    one, other = UidMapper(b"a"), UidMapper(b"b")
    assert one("1.2.3") == one("1.2.3") != other("1.2.3")
    assert one("1.2.840.10008.1.2.1") == "1.2.840.10008.1.2.1"


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    manifest = Manifest.open(cohort(tmp_path, patients=4))
    for case in manifest.cases:
        case.path.write_bytes(b"broken")
    with pytest.raises(UsageError, match="No case is left"):
        write_clean_copy(manifest, {}, tmp_path / "clean")


class TestErrorsWhileItIsWritten:
    @staticmethod
    def failing(monkeypatch: pytest.MonkeyPatch, broken: set[Path]) -> None:
        """Makes encoding of the given files fail, as it does for unusual DICOM files."""
        plain = clean_copy.encode_clean_file

        def encode_clean_file(path: Path, name: str, *rest: Any) -> tuple[bytes, str]:
            if path in broken:
                raise InputError(f"{name} cannot be encoded again", "Others can", "Convert it")
            return plain(path, name, *rest)

        monkeypatch.setattr(clean_copy, "encode_clean_file", encode_clean_file)

    def test_an_exact_duplicate_replaces_a_file_that_cannot_be_encoded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = cohort(tmp_path)
        lines = rows(source / "manifest.csv")
        duplicate = source / "images" / "duplicate.png"
        shutil.copy(source / lines[0]["path"], duplicate)
        manifest = rewritten(source, [*lines, lines[0] | {"path": "images/duplicate.png"}])
        for broken in (duplicate, source / lines[0]["path"]):  # in either order of processing
            with monkeypatch.context() as patch:
                self.failing(patch, {broken})
                copy = write_clean_copy(manifest, {}, tmp_path / f"without {broken.stem}")
            assert copy.kept == len(lines)
            assert copy.failed in ((f"images/{broken.name}",), ())  # () where the good one came first

    def test_missing_readable_files_are_listed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        manifest = Manifest.open(cohort(tmp_path))
        manifest.cases[1].path.write_bytes(b"broken")
        self.failing(monkeypatch, {manifest.cases[0].path})
        copy = write_clean_copy(manifest, {}, tmp_path / "clean")
        assert copy.failed == (manifest.cases[0].name,)

    def test_conflicting_labels_are_excluded_even_if_one_file_cannot_be_encoded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = cohort(tmp_path)
        lines = rows(source / "manifest.csv")
        other = next(line for line in lines if line["label"] != lines[0]["label"])
        shutil.copy(source / lines[0]["path"], source / "images" / "duplicate.png")
        manifest = rewritten(source, [*lines, other | {"path": "images/duplicate.png", "mask": ""}])
        self.failing(monkeypatch, {manifest.cases[0].path})
        copy = write_clean_copy(manifest, {}, tmp_path / "clean")
        excluded = {change.source for change in copy.changes if change.action == "excluded"}
        assert excluded == {lines[0]["path"], "images/duplicate.png"}


def test_numbers_of_two_copies_do_not_lead_from_one_to_the_other(tmp_path: Path) -> None:
    manifest = Manifest.open(cohort(tmp_path, patients=12, size=128))
    orders = {tuple(change.path for change in write_clean_copy(manifest, {}, tmp_path / str(i)).changes) for i in range(2)}
    assert len(orders) == 2


def test_names_in_the_list_of_changes_are_not_formulas(tmp_path: Path) -> None:
    source = cohort(tmp_path)
    lines = rows(source / "manifest.csv")
    (source / lines[0]["path"]).rename(source / "=1+1.png")
    manifest = rewritten(source, [lines[0] | {"path": "=1+1.png", "label": lines[0]["label"]}, *lines[1:]])
    copy = write_clean_copy(manifest, {}, tmp_path / "clean")
    assert "'=1+1.png" in {line["source"] for line in rows(copy.folder / "private" / "changes.csv")}


def test_patients_of_dicom_headers_get_names_also_if_only_their_studies_tell_them_apart(tmp_path: Path) -> None:
    source = cohort(tmp_path, format="dicom", slices=2, size=128)
    lines = [{"path": line["path"], "label": line["label"]} for line in rows(source / "manifest.csv")]
    copy = write_clean_copy(rewritten(source, lines), {}, tmp_path / "clean")
    assert len({line["patient_id"] for line in rows(copy.folder / "manifest.csv")}) == 4
    for line in lines:
        item = pydicom.dcmread(source / line["path"])
        item.PatientID = "SITE"
        item.save_as(source / line["path"])
    copy = write_clean_copy(Manifest.open(source), {}, tmp_path / "again")
    assert len({line["patient_id"] for line in rows(copy.folder / "manifest.csv")}) == 4
    for line in lines:
        item = pydicom.dcmread(source / line["path"])
        item.StudyInstanceUID = item.SeriesInstanceUID = item.FrameOfReferenceUID = ""
        item.save_as(source / line["path"])
    copy = write_clean_copy(Manifest.open(source), {}, tmp_path / "third")
    assert "patient_id" not in rows(copy.folder / "manifest.csv")[0]
