"""Maps from the ONNX model, compared with those of the network in torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reslink.bundles.bundle import Bundle
from reslink.errors import UsageError
from reslink.explain.onnx_maps import explained_class, onnx_maps
from reslink.export.parity import reference_outputs
from reslink.imaging.reading import read_image
from reslink.inference.classifier import Classifier
from reslink.inference.prediction import Prediction
from reslink.labels import Labels


def test_the_maps_are_those_of_the_network(built_zoo: Path, ring_heads: Path) -> None:
    classifier = Classifier.load(built_zoo / "ct", device="cpu", backend="onnxruntime")
    image = read_image(ring_heads / "61.png")
    expected = reference_outputs(Bundle.load(built_zoo / "ct"), [image])
    [prediction] = classifier.predict(image)
    assert explained_class(classifier.labels, prediction) == "Tumor"
    for target, index in (("Healthy", 0), ("Tumor", 1)):
        maps = onnx_maps(classifier, classifier.bundle.preprocess.pixels(image), target)
        np.testing.assert_allclose(maps["class_activation"], expected["cam"][0, index], atol=1e-4)
        for name in ("first_attention", "final_attention"):
            np.testing.assert_allclose(maps[name], expected[name][0, 0], atol=1e-5)


def test_a_backend_without_an_onnx_model_is_refused(built_zoo: Path) -> None:
    classifier = Classifier.load(built_zoo / "ct", "cpu", "torch")
    with pytest.raises(UsageError, match="backend torch computes no maps"):
        onnx_maps(classifier, np.zeros((1, 64, 64), np.uint8), "Tumor")


def test_the_explained_class() -> None:
    two, three = Labels(("Healthy", "Tumor")), Labels(("a", "b", "c"))
    assert explained_class(two, Prediction("x.png", None, "Healthy", 0.9)) == "Tumor", "the positive class of two"
    assert explained_class(three, Prediction("x.png", None, "b", 0.9)) == "b", "the predicted class of more"
    assert explained_class(three, Prediction("x.png", None, "b", 0.9), "c") == "c"
