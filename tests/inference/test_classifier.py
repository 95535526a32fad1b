"""Prediction: one line a slice, in order, whatever lies between."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from reslink.bundles.decision.decision import Decision
from reslink.errors import BundleError, UsageError
from reslink.imaging.reading import read_image
from reslink.inference.classifier import Classifier, Prediction

KEYS = ["path", "label", "probability", "probabilities", "set", "abstain", "reasons", "ood_score", "error"]


def test_a_prediction_has_exactly_the_keys_of_the_issue(classifier, pictures):
    found = [prediction.as_dict() for prediction in classifier.predict(pictures)]
    assert [list(one) for one in found] == [KEYS] * 7
    for one in found:
        assert list(one["probabilities"]) == ["Healthy", "Tumor"]
        assert sum(one["probabilities"].values()) == pytest.approx(1, abs=1e-12)
        assert one["probability"] == one["probabilities"][one["label"]]
        assert one["label"] == ("Tumor" if one["probabilities"]["Tumor"] >= 0.5 else "Healthy")
        assert one["error"] is None
        json.dumps(one, allow_nan=False)
    assert len({one["probability"] for one in found}) == 7, "the pictures must not look alike to the network"


def test_it_walks_the_one_way_from_file_to_probability(classifier, pictures):
    bundle = classifier.bundle
    x = torch.from_numpy(bundle.preprocess(read_image(pictures[2]))[None])
    with torch.no_grad():
        logits = bundle.network()(x).double()
    expected = torch.softmax(logits, dim=1)[0, 1].item()
    (found,) = classifier.predict([pictures[2]])
    assert found.probabilities["Tumor"] == pytest.approx(expected, abs=1e-6)


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


def test_a_bad_file_gives_its_error_in_its_place(classifier, pictures, tmp_path):
    bad = tmp_path / "broken.png"
    bad.write_bytes(pictures[0].read_bytes()[:200])
    paths = [bad, pictures[0], tmp_path / "absent.png", pictures[1], bad]
    found = list(classifier.predict(paths, batch_size=2))
    assert [p.path for p in found] == [str(path) for path in paths]
    assert [p.error is None for p in found] == [False, True, False, True, False]
    assert "broken.png" in found[0].error
    assert "absent.png" in found[2].error
    assert found[0].as_dict() == dict.fromkeys(KEYS, None) | {"path": str(bad), "error": found[0].error}


def test_it_streams(classifier, pictures, tmp_path):
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


def test_a_volume_gives_a_line_a_slice(classifier, pictures, tmp_path):
    volume = np.stack([read_image(path).pixels for path in pictures[:3]]).astype(np.uint8)
    np.save(tmp_path / "volume.npy", volume)
    found = list(classifier.predict([pictures[6], tmp_path / "volume.npy", pictures[5]], batch_size=2))
    assert [p.slice for p in found] == [None, 0, 1, 2, None]
    assert list(found[1].as_dict()) == ["path", "slice", *KEYS[1:]]
    assert list(found[0].as_dict()) == KEYS
    single = list(classifier.predict(pictures[:3]))
    assert [p.label for p in found[1:4]] == [p.label for p in single]


def test_folders_and_globs(classifier, pictures):
    folder = pictures[0].parent
    names = [str(path) for path in pictures]
    assert [p.path for p in classifier.predict([folder])] == names
    assert [p.path for p in classifier.predict([str(folder / "[0-2].png")])] == names[:3]


def test_a_single_logit_still_gives_every_class(make_bundle, pictures):
    classifier = Classifier.load(make_bundle(num_classes=1), device="cpu")
    assert classifier.logits(classifier.bundle.preprocess.pixels(read_image(pictures[0]))[None]).shape == (1, 1)
    for found in classifier.predict(pictures):
        assert list(found.probabilities) == ["Healthy", "Tumor"]
        assert sum(found.probabilities.values()) == pytest.approx(1)


def test_four_classes_choose_the_most_probable(make_bundle, pictures):
    classifier = Classifier.load(make_bundle(names=("a", "b", "c", "d")), device="cpu")
    for found in classifier.predict(pictures):
        assert found.probability == max(found.probabilities.values())


def test_the_threshold_of_the_bundle_decides(make_bundle, pictures):
    cautious = Classifier.load(make_bundle(decision=Decision(threshold=0.0)), device="cpu")
    found = list(cautious.predict(pictures))
    assert {p.label for p in found} == {"Tumor"}
    assert all(p.probability == p.probabilities["Tumor"] for p in found)


def test_logits_that_are_not_finite_are_an_error_of_their_image(classifier, pictures, monkeypatch):
    outputs = Classifier.outputs

    def broken(self, pixels):
        out = outputs(self, pixels)
        logits = out.logits.copy()
        logits[1] = math.nan
        return replace(out, logits=logits)

    monkeypatch.setattr(Classifier, "outputs", broken)
    found = list(classifier.predict(pictures[:3]))
    assert [p.error is None for p in found] == [True, False, True]
    assert "not finite" in found[1].error


def test_pixels_of_another_shape_are_refused(classifier):
    with pytest.raises(UsageError, match=r"uint8 of shape \(B, 1, 64, 64\)"):
        classifier.logits(np.zeros((2, 1, 32, 32), np.uint8))
    with pytest.raises(UsageError, match="float32"):
        classifier.logits(np.zeros((2, 1, 64, 64), np.float32))


def test_tensors_are_taken_as_arrays_are(classifier, rng):
    pixels = rng.integers(0, 255, (3, 1, 64, 64)).astype(np.uint8)
    np.testing.assert_array_equal(classifier.logits(torch.from_numpy(pixels)), classifier.logits(pixels))


def test_refused_before_the_first_image(classifier, tmp_path):
    with pytest.raises(UsageError, match="batch size is 0"):
        classifier.predict([], batch_size=0)
    with pytest.raises(BundleError, match="does not exist"):
        Classifier.load(tmp_path / "nothing")
    with pytest.raises(UsageError, match="There is no device"):
        Classifier.load(classifier.bundle.folder, device="gpu0")


def test_nothing_gives_nothing(classifier):
    assert list(classifier.predict([])) == []
    assert Prediction("x", error="e").as_dict()["label"] is None


@pytest.mark.data
def test_a_dicom_series_gives_a_line_a_slice_by_position(classifier, shared_data):
    found = list(classifier.predict([shared_data / "series" / "ct_head"]))
    assert len(found) == 30
    assert all(p.error is None for p in found)
    import pydicom

    heights = [pydicom.dcmread(p.path, stop_before_pixels=True).ImagePositionPatient[2] for p in found]
    assert heights == sorted(heights)
