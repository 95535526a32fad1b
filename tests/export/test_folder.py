"""The folder of an export: written as a whole, and only if the parity check passes."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from reslink.bundles.bundle import Bundle
from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort
from reslink.errors import CheckFailedError, UsageError
from reslink.export import onnx, parity
from reslink.export.folder import FORMATS, export, parity_inputs
from reslink.export.parity import Inputs
from reslink.imaging.series_slices import read_series_slices
from reslink.inference.classifier import Classifier
from reslink.inference.series_answers import predict_series


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> str:
    """The format that is written quickest, with wrong probabilities."""
    real = FORMATS["hf"].exporter.read_back

    def faulty(bundle: Bundle, place: Path):
        for name, runner in real(bundle, place):

            def call(fed: parity.Arrays, runner: parity.Runner = runner) -> parity.Arrays:
                found = runner.call(fed)
                return found | {"probabilities": found["probabilities"] + 2e-5}

            yield name, replace(runner, call=call)

    monkeypatch.setattr(FORMATS["hf"].exporter, "read_back", faulty)
    return "hf"


def test_a_failed_parity_check_leaves_nothing(quick: str, saved: Bundle, heads: Inputs, tmp_path: Path) -> None:
    with pytest.raises(
        CheckFailedError, match=r"differs from the package in a probability by 2e-05.*may differ by 1e-05"
    ) as caught:
        export(saved, quick, tmp_path / "out", heads)
    assert caught.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []


def test_wrong_options_are_named(saved: Bundle, heads: Inputs, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no format 'onx'.*Did you mean 'onnx'"):
        export(saved, "onx", tmp_path / "out", heads)
    with pytest.raises(UsageError, match="--precision bf16 was given for hf"):
        export(saved, "hf", tmp_path / "out", heads, precision="bf16")
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists and is not an export"):
        export(saved, "hf", tmp_path, heads)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_an_export_of_series_gives_the_answer_of_predict(
    saved_series: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a number of slices that the parity check has not seen, with the files of the folder alone."""
    monkeypatch.delitem(onnx.FILES, "network.onnx")  # it holds a part of the other file, and takes as long
    report = export(saved_series, "onnx", tmp_path / "out", parity_inputs(saved_series, None, 9))
    assert (report["images"], report["series"], set(report["files"])) == (9, 2, {"model.onnx"})
    assert report["files"]["model.onnx"]["slice_weights"] < 1e-6
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["case"] == "series"
    assert manifest["outputs"]["slice_weights"].startswith("(B,)")
    assert list(manifest["steps"]["model.onnx"])[:2] == ["slice selection", "pooling of the slices"]
    monkeypatch.syspath_prepend(tmp_path / "out")
    reference = importlib.import_module("preprocess_reference")
    settings = PhantomSettings(patients=1, case="series", slices=6, size=128, format="nifti", seed=9)
    volume = make_cohort(tmp_path / "phantom", settings) / "images" / "P0001.nii.gz"
    [(answer, _)] = predict_series(Classifier(saved_series), [volume], mode="only")
    planes = read_series_slices(volume, "v").planes
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    for positions in ([*range(6)], [3, 0, 5, 1, 4, 2]):
        inputs = reference.inputs_of_series([reference.Image(planes[i].pixels, unit=planes[i].unit) for i in positions])
        given = {name: inputs[name] for name in ("image", "keep", "box", "hounsfield", "inverted")}
        probabilities, weights = session.run(["probabilities", "slice_weights"], given)
        assert probabilities[0].tolist() == pytest.approx(list(answer.probabilities.values()), abs=1e-5)
        assert weights.tolist() == pytest.approx([answer.result.attention[i] for i in positions], abs=1e-5)
        assert np.ptp(weights) > 0.01


@pytest.mark.parametrize("form", ["monai", "hf"])
def test_formats_that_hold_no_pooling_refuse_series(form: str, saved_series: Bundle, tmp_path: Path) -> None:
    inputs: Any = None  # nothing is read or drawn before the refusal
    with pytest.raises(UsageError, match=rf"The format {form} does not support .*its cases are series.*Choose onnx, .*combine"):
        export(saved_series, form, tmp_path / "out", inputs)
    assert not (tmp_path / "out").exists()
