"""Display of maps and predictions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.decision import Decision
from reslink.explain.display import (
    display_image,
    display_values,
    map_note,
    map_statistics,
    min_display_span,
    prediction_caption,
    prediction_heading,
)
from reslink.imaging.image import Image
from reslink.imaging.preprocess import Preprocess
from reslink.inference.classifier import Prediction
from reslink.labels import Labels

PLAIN = Preprocess(size=96, mean=0.0, std=1.0, isolate_head=False)


def test_the_display_image_shows_the_whole_slice_at_its_own_size(rng):
    plane = rng.integers(0, 60, (192, 192)).astype(np.uint8)
    plane[80:112, 144:176] = 230
    pixels = display_image(Preprocess(size=64), Image(plane, "gray"))
    assert pixels.shape == (192, 192)
    assert pixels[96, 160] > 200


def test_hounsfield_units_are_windowed_for_display():
    ramp = np.tile(np.linspace(-1000, 1000, 101, dtype=np.float32), (80, 1))
    pixels = display_image(Preprocess(size=64), Image(ramp, "HU"))
    assert pixels.shape == (80, 101)
    assert pixels[0, 0] == 0
    assert pixels[0, -1] == 255
    assert pixels[0, 52] == pytest.approx(255 / 2, abs=2)  # 40 HU, the middle of the brain window


def test_attention_is_drawn_from_its_minimum_and_integrated_gradients_are_smoothed(rng):
    weights = rng.uniform(0.4, 0.6, (64, 64)).astype(np.float32)
    assert display_values("final_attention", weights).min() == 0
    np.testing.assert_allclose(display_values("final_attention", weights), weights - weights.min())
    assert min_display_span("final_attention") == 0.2
    noise = np.zeros((224, 224), np.float32)
    noise[100, 100], noise[10, 10] = 1, -1
    smooth = display_values("integrated_gradients", noise)
    assert smooth.min() == 0
    assert np.unravel_index(smooth.argmax(), smooth.shape) == (100, 100)
    assert 0 < smooth[100, 102] < smooth[100, 100]
    assert display_values("occlusion", noise) is noise


def test_heading_and_caption_state_the_abstention():
    prediction = Prediction("deep/in/scan.png", None, "Tumor", 0.9931)
    assert prediction_heading(replace(prediction, abstain=True)) == "The model abstains  (Tumor  99.3%)"
    assert prediction_heading(prediction) == prediction_heading(replace(prediction, abstain=False)) == "Tumor  99.3%"
    labels = Labels(("Healthy", "Tumor"))
    free = Bundle({"num_classes": 2, "in_channels": 3}, PLAIN, labels, Decision(threshold=None))
    assert prediction_caption(prediction, free) == prediction_caption(replace(prediction, reasons=()), free) == "scan.png"
    assert prediction_caption(replace(prediction, slice=7), free) == "scan.png, slice 7"
    why = prediction_caption(
        replace(prediction, reasons=("the image differs", "the prediction set is empty")),
        Bundle({"num_classes": 2, "in_channels": 3}, PLAIN, labels, Decision(threshold=0.2242)),
    )
    assert (
        why == "scan.png  ·  threshold for Tumor: 22.4%\nReason for abstaining: the image differs; the prediction set is empty"
    )


def test_a_note_says_when_a_map_is_constant():
    numbers = {"flat": False, "low": 0.2, "high": 0.75}
    assert map_note("final_attention", numbers, "Tumor") == "attention from 0.20 to 0.75"
    assert map_note("grad_cam", numbers, "Tumor") == map_note("occlusion", numbers, "Tumor") == "evidence for Tumor, up to 0.75"
    assert map_note("grad_cam", numbers | {"high": 0.003841}, "Tumor") == "evidence for Tumor, up to 0.0038"
    assert map_note("grad_cam", numbers | {"high": 1234.5}, "Tumor") == "evidence for Tumor, up to 1234"
    assert map_note("integrated_gradients", numbers, "Tumor") == "evidence for Tumor, smoothed"
    assert map_note("final_attention", numbers | {"flat": True}, "Tumor") == "constant: no location stands out"
    assert map_note("grad_cam", numbers | {"flat": True}, "Tumor") == "constant: no location stands out"
    assert map_note("grad_cam", numbers | {"flat": True, "low": -1.0}, "Tumor") == "no evidence for Tumor in the image"


@pytest.mark.parametrize(("value", "flat"), [(-2.0, True), (0.0, True), (0.5, False)])
def test_a_map_without_positive_values_in_the_image_is_flat(value, flat):
    square, image = np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8), np.full((20, 10), -3, np.float32)
    image[3, 4] = value
    assert map_statistics(square, image) == {"low": -1, "high": 1, "flat": flat, "peak": [3, 4]}
    assert map_statistics(np.full((8, 8), 0.3, np.float32), image)["flat"]
