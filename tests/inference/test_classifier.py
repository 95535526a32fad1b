"""Predictions: one per slice, in order, whatever happens in between."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from reslink.bundles.decision.decision import Decision
from reslink.errors import BundleError, UsageError
from reslink.imaging.image import Image
from reslink.imaging.reading import read_image
from reslink.inference.classifier import Classifier
from reslink.inference.prediction import Prediction

KEYS = ["path", "label", "probability", "probabilities", "prediction_set", "abstain", "reasons", "ood_score", "error"]
KEYS += ["threshold", "certainty", "notes"]


def test_the_keys_of_a_prediction(classifier, pictures):
    predictions = [prediction.as_dict() for prediction in classifier.predict(pictures)]
    assert [list(one) for one in predictions] == [KEYS] * 7
    for one in predictions:
        assert list(one["probabilities"]) == ["Healthy", "Tumor"]
        assert sum(one["probabilities"].values()) == pytest.approx(1, abs=1e-12)
        assert one["probability"] == one["probabilities"][one["label"]]
        assert one["label"] == ("Tumor" if one["probabilities"]["Tumor"] >= 0.5 else "Healthy")
        assert one["error"] is None
        json.dumps(one, allow_nan=False)
    assert len({one["probability"] for one in predictions}) == 7, "the network must distinguish the pictures"


def test_a_prediction_equals_its_stages(classifier, pictures):
    bundle = classifier.bundle
    x = torch.from_numpy(bundle.preprocess(read_image(pictures[2]))[None])
    with torch.no_grad():
        logits = bundle.network()(x).double()
    expected = torch.softmax(logits, dim=1)[0, 1].item()
    (prediction,) = classifier.predict([pictures[2]])
    assert prediction.probabilities["Tumor"] == pytest.approx(expected, abs=1e-6)


def test_batches_equal_single_predictions(classifier, pictures):
    alone = [p for path in pictures for p in classifier.predict([path], batch_size=1)]
    for size in (2, 3, 7, 100):
        together = list(classifier.predict(pictures, batch_size=size))
        assert [p.path for p in together] == [p.path for p in alone]
        for one, other in zip(together, alone, strict=True):
            assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


def test_two_runs_are_equal_to_the_bit(classifier, pictures):
    assert list(classifier.predict(pictures)) == list(classifier.predict(pictures))


def test_one_batch_spans_files(classifier, pictures, monkeypatch):
    sizes = []
    outputs = Classifier.outputs
    monkeypatch.setattr(Classifier, "outputs", lambda self, pixels: sizes.append(len(pixels)) or outputs(self, pixels))
    list(classifier.predict(pictures, batch_size=3))
    assert sizes == [3, 3, 1]


def test_an_unreadable_file_gives_an_error_in_its_position(classifier, pictures, tmp_path):
    bad = tmp_path / "broken.png"
    bad.write_bytes(pictures[0].read_bytes()[:200])
    paths = [bad, pictures[0], tmp_path / "absent.png", pictures[1], bad]
    predictions = list(classifier.predict(paths, batch_size=2))
    assert [p.path for p in predictions] == [str(path) for path in paths]
    assert [p.error is None for p in predictions] == [False, True, False, True, False]
    assert "broken.png" in predictions[0].error
    assert "absent.png" in predictions[2].error
    assert predictions[0].as_dict() == dict.fromkeys(KEYS, None) | {
        "path": str(bad),
        "error": predictions[0].error,
        "notes": [],
    }


def test_predictions_are_streamed(classifier, pictures, tmp_path):
    taken = []

    def endless():
        while True:
            for path in (tmp_path / "absent.png", *pictures):
                taken.append(path)
                yield path

    stream = classifier.predict(endless(), batch_size=2)
    assert next(stream).error is not None
    assert len(taken) == 1, "an error does not wait for a batch"
    assert next(stream).path == str(pictures[0])
    assert len(taken) == 3, "a batch is read, no more"


def test_errors_count_for_the_size_of_a_batch(classifier, pictures, tmp_path):
    """One readable slice must not hold any number of errors back."""
    taken = []

    def sources():
        for path in (pictures[0], *[tmp_path / "absent.png"] * 50):
            taken.append(path)
            yield path

    assert next(classifier.predict(sources(), batch_size=4)).error is None
    assert len(taken) == 4


def test_a_volume_gives_one_prediction_per_slice(classifier, pictures, tmp_path):
    volume = np.stack([read_image(path).pixels for path in pictures[:3]]).astype(np.uint8)
    np.save(tmp_path / "volume.npy", volume)
    predictions = list(classifier.predict([pictures[6], tmp_path / "volume.npy", pictures[5]], batch_size=2))
    assert [p.slice for p in predictions] == [None, 0, 1, 2, None]
    assert list(predictions[1].as_dict()) == ["path", "slice", *KEYS[1:]]
    assert list(predictions[0].as_dict()) == KEYS
    single = list(classifier.predict(pictures[:3]))
    assert [p.label for p in predictions[1:4]] == [p.label for p in single]


def test_folders_and_globs(classifier, pictures):
    folder = pictures[0].parent
    names = [str(path) for path in pictures]
    assert [p.path for p in classifier.predict([folder])] == names
    assert [p.path for p in classifier.predict([str(folder / "[0-2].png")])] == names[:3]


def test_a_single_logit_gives_both_classes(make_bundle, pictures):
    classifier = Classifier.load(make_bundle(num_classes=1), device="cpu")
    assert classifier.logits(classifier.bundle.preprocess.pixels(read_image(pictures[0]))[None]).shape == (1, 1)
    for prediction in classifier.predict(pictures):
        assert list(prediction.probabilities) == ["Healthy", "Tumor"]
        assert sum(prediction.probabilities.values()) == pytest.approx(1)


def test_four_classes_choose_the_most_probable(make_bundle, pictures):
    classifier = Classifier.load(make_bundle(names=("a", "b", "c", "d")), device="cpu")
    for prediction in classifier.predict(pictures):
        assert prediction.probability == max(prediction.probabilities.values())


def test_the_threshold_of_the_bundle_decides(make_bundle, pictures):
    cautious = Classifier.load(make_bundle(decision=Decision(threshold=0.0)), device="cpu")
    predictions = list(cautious.predict(pictures))
    assert {p.label for p in predictions} == {"Tumor"}
    assert all(p.probability == p.probabilities["Tumor"] for p in predictions)


def test_non_finite_logits_are_an_error_of_their_image(classifier, pictures, monkeypatch):
    outputs = Classifier.outputs

    def broken(self, pixels):
        out = outputs(self, pixels)
        logits = out.logits.copy()
        logits[1] = math.nan
        return replace(out, logits=logits)

    monkeypatch.setattr(Classifier, "outputs", broken)
    predictions = list(classifier.predict(pictures[:3]))
    assert [p.error is None for p in predictions] == [True, False, True]
    assert "not finite" in predictions[1].error


def test_pixels_of_a_wrong_shape_are_refused(classifier):
    with pytest.raises(UsageError, match=r"uint8 of shape \(B, 1, 64, 64\)"):
        classifier.logits(np.zeros((2, 1, 32, 32), np.uint8))
    with pytest.raises(UsageError, match="float32"):
        classifier.logits(np.zeros((2, 1, 64, 64), np.float32))


def test_tensors_are_accepted_like_arrays(classifier, rng):
    pixels = rng.integers(0, 255, (3, 1, 64, 64)).astype(np.uint8)
    np.testing.assert_array_equal(classifier.logits(torch.from_numpy(pixels)), classifier.logits(pixels))


def test_bad_arguments_are_refused_before_the_first_image(classifier, tmp_path):
    with pytest.raises(UsageError, match="batch size is 0"):
        classifier.predict([], batch_size=0)
    with pytest.raises(BundleError, match="does not exist"):
        Classifier.load(tmp_path / "nothing")
    with pytest.raises(UsageError, match="There is no device"):
        Classifier.load(classifier.bundle.folder, device="gpu0")


def test_no_source_gives_no_prediction(classifier):
    assert list(classifier.predict([])) == []
    assert Prediction("x", error="e").as_dict()["label"] is None


@pytest.mark.data
def test_a_dicom_series_gives_one_prediction_per_slice_by_position(classifier, shared_data):
    predictions = list(classifier.predict([shared_data / "series" / "ct_head"]))
    assert len(predictions) == 30
    assert all(p.error is None for p in predictions)
    import pydicom

    heights = [pydicom.dcmread(p.path, stop_before_pixels=True).ImagePositionPatient[2] for p in predictions]
    assert heights == sorted(heights)


# Inputs other than lists of files: one path, images and arrays


def labels_and_probabilities(predictions):
    return [(one.label, {name: pytest.approx(p, abs=1e-6) for name, p in one.probabilities.items()}) for one in predictions]


def test_a_path_an_image_and_an_array_give_the_same(classifier, pictures):
    grey = np.asarray(Picture.open(pictures[3]))
    before = grey.copy()
    wanted = labels_and_probabilities(classifier.predict(pictures[3:4]))
    for source in (pictures[3], str(pictures[3]), read_image(pictures[3]), grey, grey.copy()):
        predictions = classifier.predict(source)
        assert isinstance(predictions, list)
        assert labels_and_probabilities(predictions) == wanted
    np.testing.assert_array_equal(grey, before)
    assert labels_and_probabilities(classifier.predict(iter([grey, pictures[3]]))) == wanted * 2


def test_a_folder_is_one_source_with_many_predictions(classifier, pictures):
    assert labels_and_probabilities(classifier.predict(pictures[0].parent)) == labels_and_probabilities(
        classifier.predict(pictures)
    )


def test_the_unit_of_a_volume_is_respected(classifier, pictures):
    volume = np.stack([np.asarray(Picture.open(path)) for path in pictures[:3]])
    assert labels_and_probabilities(classifier.predict(volume)) == labels_and_probabilities(classifier.predict(pictures[:3]))
    predictions = classifier.predict(volume.astype(np.int16) - 60, unit="HU")
    assert [one.slice for one in predictions] == [0, 1, 2]
    hounsfield = [Image(np.float32(plane) - 60, unit="HU") for plane in volume]
    assert labels_and_probabilities(predictions) == labels_and_probabilities(classifier.predict(hounsfield))
    other = classifier.predict(volume.astype(np.int16) - 60, unit="MR")
    assert abs(predictions[0].probability - other[0].probability) > 1e-3


def test_an_array_is_not_modified(classifier):
    array = np.random.default_rng(0).uniform(0, 80, (80, 80)).astype(np.float32)
    copy = array.copy()
    classifier.predict(array, unit="HU")
    array[0, 0] = 5  # an image makes its own pixels read-only, not the caller's array
    copy[0, 0] = 5
    np.testing.assert_array_equal(array, copy)


def test_arrays_without_a_unit_are_refused(classifier):
    with pytest.raises(UsageError, match=r'array of float64 was given without a unit.*Use unit="HU"'):
        classifier.predict(np.zeros((80, 80)))
    with pytest.raises(UsageError, match=r"unit 'HUU' is not valid.*(Did you mean|Choose one of)"):
        classifier.predict(np.zeros((80, 80)), unit="HUU")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((80, 80, 3), np.uint8), "not color pictures"),
        (np.zeros(80, np.uint8), r"shape \(80,\)"),
        (np.zeros((80, 8), np.uint8), "at least 16 pixels"),
        (np.full((80, 80), np.nan), "not finite"),
        (np.zeros((80, 80), complex), "type complex128"),
    ],
)
def test_an_invalid_array_gives_its_error(classifier, array, message):
    [predictions] = classifier.predict(array, unit="HU" if array.dtype != np.uint8 else None)
    assert predictions.label is None
    assert re.search(message, predictions.error)


@pytest.mark.parametrize("source", [5, None, b"\xff\xd8 the content of a file", {"x": 1}.get, Picture.new("L", (8, 8))])
def test_an_unsupported_source_is_named_but_not_printed(classifier, source):
    named = re.escape(type(source).__name__)
    for given in (source, [source], iter([source])):
        with pytest.raises(UsageError, match=f"^predict received a {named}. A source is a path") as caught:
            list(classifier.predict(given))
        assert "content of a file" not in caught.value.given


def test_a_tensor_is_refused_with_advice(classifier):
    tensor = torch.zeros((3, 80, 80), dtype=torch.uint8)
    with pytest.raises(UsageError, match=r"^predict received a Tensor.*tensor\.numpy\(\)"):
        list(classifier.predict(tensor))
    assert len(classifier.predict(tensor.numpy())) == 3


@pytest.mark.parametrize("size", [2.5, "8"])
def test_an_invalid_batch_size_is_refused(classifier, pictures, size):
    with pytest.raises(UsageError, match=r"batch size is .*positive integer"):
        classifier.predict(pictures, batch_size=size)
