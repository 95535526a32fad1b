"""Display of maps and predictions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.decision import Decision
from reslink.explain.display import (
    clip_map,
    display_image,
    display_map,
    display_values,
    map_note,
    map_statistics,
    min_display_span,
    prediction_caption,
    prediction_heading,
    visible_pixels,
)
from reslink.imaging.image import Image
from reslink.imaging.preprocess import Preprocess
from reslink.inference.prediction import Prediction
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
    weighed = prediction_caption(replace(prediction, slice=7), free, 0.256)
    assert weighed == "scan.png, slice 7, weight 0.26 in the answer for the series"
    why = prediction_caption(
        replace(prediction, reasons=("the image differs", "the prediction set is empty")),
        Bundle({"num_classes": 2, "in_channels": 3}, PLAIN, labels, Decision(threshold=0.2242)),
    )
    assert (
        why == "scan.png  ·  threshold for Tumor: 22.4%\nReason for abstaining: the image differs; the prediction set is empty"
    )


def test_a_note_says_when_a_map_is_constant():
    numbers = {"flat": False, "low": 0.2, "high": 0.75}
    assert map_note("final_attention", numbers, "Tumor") == "weights 0.20 to 0.75 of 1"
    for name in ("grad_cam", "class_activation"):
        assert (
            map_note(name, numbers, "Tumor") == map_note(name, numbers | {"high": 15}, "Tumor") == "relative evidence for Tumor"
        )
    for value, text in ((0.75, "0.75"), (0.003841, "0.0038"), (1234.5, "1234")):
        note = map_note("occlusion", numbers | {"high": value}, "Tumor")
        assert note == f"hiding it lowers the Tumor logit by up to {text}"
    assert map_note("integrated_gradients", numbers, "Tumor") == "relative evidence for Tumor, smoothed"
    assert map_note("final_attention", numbers | {"flat": True}, "Tumor") == "constant: no location stands out"
    assert map_note("grad_cam", numbers | {"flat": True}, "Tumor") == "constant: no location stands out"
    assert map_note("grad_cam", numbers | {"flat": True, "low": -1.0}, "Tumor") == "no evidence for Tumor in the image"


@pytest.mark.parametrize(("value", "flat"), [(-2.0, True), (0.0, True), (0.5, False)])
def test_a_map_without_positive_values_in_the_image_is_flat(value, flat):
    square, image = np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8), np.full((20, 10), -3, np.float32)
    image[3, 4] = value
    assert map_statistics(square, image) == {"low": -1, "high": 1, "flat": flat, "peak": [3, 4]}
    assert map_statistics(np.full((8, 8), 0.3, np.float32), image)["flat"]


@pytest.fixture
def head() -> Image:
    """A bright disc on a dark ground, off the center."""
    y, x = np.mgrid[:96, :96]
    disc = np.hypot(y - 50, x - 40) < 30
    return Image((disc * 120).astype(np.float32), "gray", white=255)


@pytest.mark.parametrize("name", ["final_attention", "grad_cam", "occlusion"])
def test_maps_are_drawn_only_on_the_head(name, head):
    preprocess = Preprocess(size=64)
    visible = visible_pixels(preprocess, head)
    assert visible[50, 40]
    assert not visible[2, 2]
    heat = np.full((4, 4), 0.2, np.float32)
    heat[1, 1] = 0.9
    shown = display_map(name, heat, preprocess.placement(head), "Tumor")
    clipped = clip_map(shown, visible)
    assert shown.drawn[~visible].any() or name == "final_attention"
    assert not clipped.drawn[~visible].any()
    assert clipped.drawn[visible].max() > 0
    assert clipped.statistics == shown.statistics
    np.testing.assert_array_equal(clipped.on_image, shown.on_image)
    assert clipped.note == shown.note


def test_attention_is_drawn_from_its_minimum_in_the_head(head):
    preprocess = Preprocess(size=64)
    heat = np.full((64, 64), 0.5, np.float32)
    heat[:4, :4] = 0.1  # a corner outside the head
    heat[30:34, 30:34] = 0.9
    clipped = clip_map(display_map("final_attention", heat, preprocess.placement(head), ""), visible_pixels(preprocess, head))
    assert np.median(clipped.drawn[visible_pixels(preprocess, head)]) == pytest.approx(0, abs=1e-6)


def test_a_peak_outside_the_head_is_said(head):
    preprocess = Preprocess(size=64)
    heat = np.full((8, 8), 0.1, np.float32)
    heat[0, 0] = 1
    shown = display_map("grad_cam", heat, preprocess.placement(head), "Tumor")
    assert clip_map(shown, visible_pixels(preprocess, head)).note == "peak outside the head; relative evidence for Tumor"


def test_everything_is_visible_without_a_head_mask(head):
    assert visible_pixels(PLAIN, head).all()
    blank = Image(np.zeros((32, 40), np.float32), "gray", white=255)
    assert visible_pixels(Preprocess(size=64), blank).all()
