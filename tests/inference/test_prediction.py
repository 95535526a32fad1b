"""Images that a bundle is not for: no label, but the reason; by the file, and by the look where the file states nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image as Picture
from pydicom import uid

from reslink.bundles.bundle import Bundle
from reslink.bundles.scope import Scope
from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort, render_slice
from reslink.export.onnx import to_onnx
from reslink.imaging.head_mask import SEVERAL_HEADS
from reslink.imaging.image import Image, Stated
from reslink.imaging.preprocess import Preprocess
from reslink.imaging.reading import read_image
from reslink.inference.classifier import Classifier
from reslink.inference.prediction import Prediction
from reslink.inference.series_answers import SeriesAnswer, predict_series

FLAIR = Scope(modality="MR", sequences=("FLAIR",), planes=("axial",))
CT = Scope(modality="CT", planes=("axial",))


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """DICOM files of a phantom: a CT slice, and objects that are none."""
    folder = tmp_path_factory.mktemp("studies")
    make_cohort(folder / "h", PhantomSettings(patients=1, size=128, format="dicom"))
    source = sorted((folder / "h").rglob("*.dcm"))[0]
    changes = {
        "ct": {},
        "seg": {"SOPClassUID": uid.SegmentationStorage, "Modality": "SEG"},
        "dose": {"SOPClassUID": uid.RTDoseStorage, "Modality": "RTDOSE"},
        "pet": {"SOPClassUID": uid.PositronEmissionTomographyImageStorage, "Modality": "PT"},
        "capture": {"SOPClassUID": uid.SecondaryCaptureImageStorage},
        "scout": {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        "foot": {"BodyPartExamined": "FOOT"},
        "mosaic": {"SOPClassUID": uid.MRImageStorage, "Modality": "MR", "ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]},
        "adc": {"SOPClassUID": uid.MRImageStorage, "Modality": "MR", "ImageType": ["DERIVED", "PRIMARY", "ADC"]},
        "sagittal": {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]},
        "t1": {"SOPClassUID": uid.MRImageStorage, "Modality": "MR", "EchoTime": 10, "RepetitionTime": 500},
    }
    files = {}
    for name, values in changes.items():
        dataset = pydicom.dcmread(source)
        for keyword, value in values.items():
            setattr(dataset, keyword, value)
        files[name] = folder / f"{name}.dcm"
        dataset.save_as(files[name])
    return files


def check_refused(prediction: Prediction, reason: str) -> None:
    assert prediction.is_refused
    assert (prediction.label, prediction.probability, prediction.probabilities, prediction.error) == (None, None, None, None)
    assert (prediction.abstain, prediction.certainty) == (True, "no answer")
    assert prediction.reasons is not None
    assert reason in prediction.reasons[0]
    assert "refused" in repr(prediction)
    json.dumps(prediction.as_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("seg", "Segmentation Storage"),
        ("dose", "RT Dose Storage"),
        ("pet", "Positron Emission Tomography"),
        ("capture", "Secondary Capture"),
        ("scout", "localizer, not a slice"),
        ("foot", "its header states another part of the body"),
        ("mosaic", "mosaic, not a slice"),
        ("adc", "a computed map or phase image (ADC)"),
    ],
)
def test_what_is_no_slice_of_a_head_is_refused_by_every_bundle(make_bundle, studies, name: str, reason: str) -> None:
    for number, scope in enumerate((Scope(), CT, FLAIR)):
        classifier = Classifier.load(make_bundle(name=f"b{number}", scope=scope), device="cpu")
        [prediction] = classifier.predict(studies[name])
        check_refused(prediction, reason)


@pytest.mark.parametrize(
    ("scope", "name", "reason"),
    [
        (FLAIR, "ct", "the file is CT, and the model is for axial FLAIR MR of the head"),
        (FLAIR, "t1", "the sequence is T1, and the model is for axial FLAIR MR of the head"),
        (CT, "t1", "the file is MR, and the model is for axial CT of the head"),
        (CT, "sagittal", "the slice is sagittal, and the model is for axial CT of the head"),
    ],
)
def test_a_file_that_states_something_else_is_refused(make_bundle, studies, scope: Scope, name: str, reason: str) -> None:
    [prediction] = Classifier.load(make_bundle(scope=scope), device="cpu").predict(studies[name])
    check_refused(prediction, reason)
    assert Classifier.load(make_bundle(name="any"), device="cpu").predict(studies[name])[0].label is not None


def test_the_sequence_of_the_user_replaces_that_of_the_file(make_bundle, studies, tmp_path: Path) -> None:
    bundle = make_bundle(scope=Scope(modality="MR", sequences=("T1C+",)))
    [with_contrast] = Classifier.load(bundle, device="cpu", sequence="T1C+").predict(studies["t1"])
    assert with_contrast.label is not None  # the header lacks the agent
    t2 = Classifier.load(bundle, device="cpu", sequence="T2")
    picture = Image(np.zeros((64, 64), np.float32), "gray", "MR", white=255.0)
    for source in (studies["t1"], picture):
        check_refused(t2.predict(source)[0], "the sequence is T2, and the model is for T1C+ MR of the head")


def test_arrays_and_nifti_state_their_modality_by_the_unit(make_bundle, tmp_path: Path) -> None:
    hu = render_slice(1, 1, level=10.0, size=128).pixels
    np.save(tmp_path / "hu.npy", hu)
    classifier = Classifier.load(make_bundle(scope=FLAIR), device="cpu")
    for source, unit in ((hu, "HU"), (Image(hu, "HU", "CT"), None), (tmp_path / "hu.npy", None), (tmp_path / "hu.npy", "hu")):
        [prediction] = classifier.predict(source, unit=unit)  # type: ignore[arg-type]
        check_refused(prediction, "the file is CT")
    assert classifier.predict(tmp_path / "hu.npy", unit="MR")[0].label is not None  # what the user states decides


def test_a_contact_sheet_is_refused_by_every_bundle_however_it_is_given(make_bundle, tmp_path: Path) -> None:
    values = np.tile(render_slice(7, 2, level=15.0, size=128).pixels, (2, 3))
    gray = (np.clip(values / 80, 0, 1) * 255).astype(np.uint8)
    Picture.fromarray(gray).save(tmp_path / "sheet.png")
    np.save(tmp_path / "volume.npy", np.stack([values] * 3))
    for number, scope in enumerate((Scope(), CT, FLAIR)):
        classifier = Classifier.load(make_bundle(name=f"b{number}", scope=scope), device="cpu")
        for source in (tmp_path / "sheet.png", tmp_path / "volume.npy", gray, Image(gray.astype(np.float32), "gray")):
            for prediction in classifier.predict(source):
                check_refused(prediction, SEVERAL_HEADS)


def test_pictures_are_refused_by_their_look_in_batches_and_others_keep_their_answer(make_bundle, tmp_path: Path) -> None:
    files = []
    for index, sequence in enumerate(("CT", "FLAIR", "CT", "T1")):
        values = render_slice(7, 2 + index // 2, level=15.0, sequence=sequence, size=256).pixels  # type: ignore[arg-type]
        low, high = (0, 80) if sequence == "CT" else np.percentile(values, (1, 99.7))
        gray = (np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)
        files.append(tmp_path / f"{index}.png")
        Picture.fromarray(gray).save(files[-1])
    files.append(tmp_path / "missing.png")
    preprocess = {"preprocess": Bundle.load("lgg").preprocess.model_copy(update={"size": 128})}
    predictions = list(Classifier.load(make_bundle(scope=FLAIR, **preprocess), device="cpu").predict(files))
    for position in (0, 2):
        check_refused(predictions[position], "it looks like CT, and the model is for axial FLAIR MR of the head")
    assert [predictions[position].abstain for position in (1, 3)] == [None, None]
    assert all(predictions[position].label for position in (1, 3))
    assert predictions[4].error is not None
    plain = list(Classifier.load(make_bundle(name="plain", **preprocess), device="cpu").predict(files))
    assert all(prediction.label for prediction in plain[:4])
    assert [p.probabilities for p in plain[1:4:2]] == [p.probabilities for p in predictions[1:4:2]]


def test_a_series_of_refused_slices_has_no_answer(make_bundle, tmp_path: Path) -> None:
    volume = np.stack([render_slice(3, 1, level=level, size=128).pixels for level in (0.0, 5.0, 10.0)])
    np.save(tmp_path / "head.npy", volume)
    classifier = Classifier.load(make_bundle(scope=FLAIR), device="cpu")
    results = [prediction for prediction, _ in predict_series(classifier, [tmp_path / "head.npy"])]
    assert [isinstance(one, SeriesAnswer) for one in results] == [False, False, False, True]
    for prediction in results:
        check_refused(prediction, "the file is CT")


def without_brain(values: np.ndarray) -> np.ndarray:
    """A synthetic CT slice in HU with bone and fat in place of the brain, but for a strip, as at the skull base."""
    face = np.where((values > 0) & (values < 100), -80.0, values)
    face[:, ::16] = np.where(values > -50, 900.0, face)[:, ::16]
    return face


@pytest.fixture(scope="module")
def ct_slices(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two slices as pictures, of which the second shows no brain, and a volume with three of each."""
    folder = tmp_path_factory.mktemp("slices")
    heads = [render_slice(7, index, level=15.0, size=256).pixels for index in (2, 3, 4)]
    for name, values in (("brain", heads[0]), ("face", without_brain(heads[0]))):
        Picture.fromarray((np.clip(values / 80, 0, 1) * 255).astype(np.uint8)).save(folder / f"{name}.png")
    np.save(folder / "volume.npy", np.stack([*map(without_brain, heads), *heads]))
    np.save(folder / "faces.npy", np.stack([without_brain(head) for head in heads]))
    return {file.stem: file for file in folder.iterdir()}


def ct_bundle(make_bundle, name: str) -> Path:
    preprocess = Preprocess(size=96)
    return make_bundle(name=name, preprocess=preprocess, scope=CT if name == "earlier" else CT.with_brain_rule(preprocess))


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_a_ct_slice_that_shows_no_brain_is_refused_by_every_backend(make_bundle, ct_slices, backend: str) -> None:
    saved = Bundle.load(ct_bundle(make_bundle, "ruled"))
    saved.with_onnx(to_onnx(saved))
    classifier = Classifier.load(saved.folder, device="cpu", backend=backend)
    brain, face = classifier.predict([ct_slices["brain"], ct_slices["face"]])
    assert brain.label is not None
    check_refused(face, "it shows little brain: ")
    assert face.reasons[0].endswith("% of the head, and the model needs 25 %")
    image = read_image(ct_slices["face"]).slices()[0]
    pixels = classifier.bundle.preprocess.pixels(image)
    assert classifier.refusal(pixels, Stated("CT")) == face.reasons[0], "the way of the HTTP service"
    assert classifier.classify(pixels[None], [Stated("CT")]).refusals == list(face.reasons)
    outputs = classifier.outputs(pixels[None], statistics=False)
    assert outputs.brain is None
    assert classifier.decide(outputs, pixels[None], [Stated("CT")]).refusals == list(face.reasons)


def test_a_bundle_made_before_the_rule_answers_slices_without_brain(make_bundle, ct_slices) -> None:
    earlier, ruled = (Classifier.load(ct_bundle(make_bundle, name), device="cpu") for name in ("earlier", "ruled"))
    assert [one.label is None for one in earlier.predict([ct_slices["brain"], ct_slices["face"]])] == [False, False]
    assert [one.label is None for one in ruled.predict([ct_slices["brain"], ct_slices["face"]])] == [False, True]
    assert earlier.bundle.scope.min_brain_share is None


def test_a_series_is_answered_without_its_slices_of_the_face(make_bundle, ct_slices) -> None:
    classifier = Classifier.load(ct_bundle(make_bundle, "ruled"), device="cpu")
    *slices, answer = (prediction for prediction, _ in predict_series(classifier, [ct_slices["volume"]], unit="HU"))
    assert [one.is_refused for one in slices] == [True] * 3 + [False] * 3
    assert isinstance(answer, SeriesAnswer)
    assert answer.label is not None
    assert answer.result is not None
    assert answer.result.slices == 3
    assert "left out: it shows little brain" in answer.result.rule
    assert not answer.abstain
    *slices, answer = (prediction for prediction, _ in predict_series(classifier, [ct_slices["faces"]], unit="HU"))
    assert (answer.is_refused, answer.abstain, answer.certainty) == (True, True, "no answer")
    assert answer.reasons == ("it shows little brain",)
