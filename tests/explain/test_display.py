"""How maps and answers are shown and put into words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.decision import Decision
from reslink.explain.display import caption, for_display, heading, least_span, note, original, range_and_peak
from reslink.imaging.image import Image
from reslink.imaging.preprocess import Preprocess
from reslink.inference.classifier import Prediction
from reslink.labels import Labels

PLAIN = Preprocess(size=96, mean=0.0, std=1.0, isolate_head=False)


def test_the_original_is_shown_whole_at_its_own_size(rng):
    plane = rng.integers(0, 60, (192, 192)).astype(np.uint8)
    plane[80:112, 144:176] = 230
    shown = original(Preprocess(size=64), Image(plane, "grey"))
    assert shown.shape == (192, 192)
    assert shown[96, 160] > 200


def test_hounsfield_units_are_windowed_for_display():
    ramp = np.tile(np.linspace(-1000, 1000, 101, dtype=np.float32), (80, 1))
    shown = original(Preprocess(size=64), Image(ramp, "HU"))
    assert shown.shape == (80, 101)
    assert shown[0, 0] == 0
    assert shown[0, -1] == 255
    assert shown[0, 52] == pytest.approx(255 / 2, abs=2)  # 40 HU, the middle of the brain window


def test_gates_are_drawn_from_their_lowest_and_grains_are_smoothed(rng):
    gates = rng.uniform(0.4, 0.6, (64, 64)).astype(np.float32)
    assert for_display("final_attention", gates).min() == 0
    np.testing.assert_allclose(for_display("final_attention", gates), gates - gates.min())
    assert least_span("final_attention") == 0.2
    grains = np.zeros((224, 224), np.float32)
    grains[100, 100], grains[10, 10] = 1, -1
    smooth = for_display("integrated_gradients", grains)
    assert smooth.min() == 0
    assert np.unravel_index(smooth.argmax(), smooth.shape) == (100, 100)
    assert 0 < smooth[100, 102] < smooth[100, 100]
    assert for_display("occlusion", grains) is grains


def test_the_words_of_an_answer_say_why_the_bundle_abstains():
    answer = Prediction("deep/in/scan.png", None, "Tumor", 0.9931)
    assert heading(replace(answer, abstain=True)) == "The bundle abstains  (Tumor  99.3%)"
    assert heading(answer) == heading(replace(answer, abstain=False)) == "Tumor  99.3%"
    labels = Labels(("Healthy", "Tumor"))
    free = Bundle({"num_classes": 2, "in_channels": 3}, PLAIN, labels, Decision(threshold=None))
    assert caption(answer, free) == caption(replace(answer, reasons=()), free) == "scan.png"
    assert caption(replace(answer, slice=7), free) == "scan.png, slice 7"
    why = caption(
        replace(answer, reasons=("it looks unlike", "the set is empty")),
        Bundle({"num_classes": 2, "in_channels": 3}, PLAIN, labels, Decision(threshold=0.2242)),
    )
    assert why == "scan.png  ·  Tumor from 22.4% on\nWhy it abstains: it looks unlike; the set is empty"


def test_a_note_says_when_a_map_points_nowhere():
    numbers = {"flat": False, "low": 0.2, "high": 0.75}
    assert note("final_attention", numbers, "Tumor") == "gates from 0.20 to 0.75"
    assert note("grad_cam", numbers, "Tumor") == note("occlusion", numbers, "Tumor") == "evidence for Tumor, up to 0.75"
    assert note("grad_cam", numbers | {"high": 0.003841}, "Tumor") == "evidence for Tumor, up to 0.0038"
    assert note("grad_cam", numbers | {"high": 1234.5}, "Tumor") == "evidence for Tumor, up to 1234"
    assert note("integrated_gradients", numbers, "Tumor") == "evidence for Tumor, smoothed"
    assert note("final_attention", numbers | {"flat": True}, "Tumor") == "the same everywhere: it points nowhere"
    assert note("grad_cam", numbers | {"flat": True}, "Tumor") == "the same everywhere: it points nowhere"
    assert note("grad_cam", numbers | {"flat": True, "low": -1.0}, "Tumor") == "no evidence for Tumor in the picture"


@pytest.mark.parametrize(("shown", "nothing"), [(-2.0, True), (0.0, True), (0.5, False)])
def test_a_map_that_marks_nothing_within_the_image_is_flat(shown, nothing):
    square, image = np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8), np.full((20, 10), -3, np.float32)
    image[3, 4] = shown
    assert range_and_peak(square, image) == {"low": -1, "high": 1, "flat": nothing, "peak": [3, 4]}
    assert range_and_peak(np.full((8, 8), 0.3, np.float32), image)["flat"]
