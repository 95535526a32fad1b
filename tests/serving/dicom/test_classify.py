"""Models and their predictions for a series."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pacs
import pytest

from reslink.bundles.bundle import Bundle
from reslink.bundles.scope import Scope
from reslink.errors import BundleError, UsageError
from reslink.imaging.input_statistics import brain_share
from reslink.inference.classifier import Classifier
from reslink.serving.dicom.classify import classify_series, load_model
from reslink.serving.dicom.results import create_results


def test_slice_predictions_equal_those_of_the_classifier(series_result, bundle, tmp_path):
    """``reslink predict`` gives the same predictions for the same files."""
    folder = pacs.write(tmp_path, pacs.series(1, sequence="CT" if series_result.series.modality == "CT" else "T1"))
    expected = list(Classifier.load(bundle, backend="onnxruntime").predict([folder]))
    assert len(expected) == len(series_result.slice_predictions) == 10
    for ours, theirs in zip(series_result.slice_predictions, expected, strict=True):
        assert ours.probabilities == pytest.approx(theirs.probabilities)


def test_flip_averaging_holds_for_the_dicom_node_too(series_result, bundle, tmp_path):
    loaded = Bundle.load(bundle)
    flipped = tmp_path / "flipped"
    loaded.with_decision(loaded.decision.model_copy(update={"flip_average": True}), flipped)
    folder = pacs.write(tmp_path, pacs.series(1, sequence="CT" if series_result.series.modality == "CT" else "T1"))
    expected = list(Classifier.load(flipped, backend="onnxruntime").predict([folder]))
    answered = classify_series(load_model(str(flipped)), series_result.series)
    for ours, theirs, plain in zip(answered.slice_predictions, expected, series_result.slice_predictions, strict=True):
        assert ours.probabilities == pytest.approx(theirs.probabilities)
        assert ours.probabilities != plain.probabilities


def test_another_map_can_be_selected(bundle, series_result):
    assert load_model(str(bundle)).map_name == "final_attention"
    with pytest.raises(UsageError, match=r"no map 'cams'.*Did you mean 'cam'"):
        load_model(str(bundle), "cams")
    cam = classify_series(load_model(str(bundle), "cam"), series_result.series)
    assert {result.kind for result in create_results(cam)} == {"report", "picture", "map"}


def test_a_prefix_restricts_the_modality(bundle, series_result):
    for word, accepts in (("CT", series_result.series.modality == "CT"), ("MR", series_result.series.modality == "MR")):
        assert load_model(f"{word}={bundle}").accepts(series_result.series) is accepts
    assert load_model(str(bundle)).accepts(series_result.series)


def test_a_bundle_without_an_onnx_model_is_refused(bundle, tmp_path):
    import shutil

    bundle_copy = tmp_path / "plain"
    shutil.copytree(bundle, bundle_copy)
    loaded = Bundle.load(bundle_copy)
    loaded.with_decision(loaded.decision)
    from safetensors.numpy import load_file

    Bundle(loaded.architecture, loaded.preprocess, loaded.labels, loaded.decision).save(
        tmp_path / "bare", load_file(bundle_copy / "model.safetensors")
    )
    with pytest.raises(BundleError, match=r"has no model\.onnx"):
        load_model(str(tmp_path / "bare"))


def test_slices_that_show_little_brain_are_left_out_of_the_answer(series_result, bundle, tmp_path):
    """The rule of the bundle holds for the node too; a bundle without it answers all slices."""
    loaded = Bundle.load(bundle)
    share = brain_share(np.stack([loaded.preprocess.pixels(image) for image in series_result.series.slices]))
    scope = Scope(modality="CT", min_brain_share=float(np.median(share)) if share.any() else 0.25)
    ruled = replace(loaded, scope=scope).with_decision(loaded.decision, tmp_path / "ruled").folder
    if series_result.series.modality != "CT":
        assert not load_model(str(ruled)).accepts(series_result.series)
        return
    answered = classify_series(load_model(str(ruled)), series_result.series)
    refused = [one.label is None for one in answered.slice_predictions]
    selected = list(series_result.series.selected)
    assert refused == (share[selected] < scope.min_brain_share).tolist()
    assert 0 < sum(refused) < len(refused)
    assert answered.prediction.slices == len(refused) - sum(refused)
    assert f"{sum(refused)} slices left out: it shows little brain" in answered.prediction.rule
    assert len(series_result.slice_predictions) == series_result.prediction.slices
