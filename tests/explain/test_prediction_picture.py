"""The picture of a prediction, by its texts and its tiles."""

from __future__ import annotations

import numpy as np

from reslink.bundles.bundle import Bundle
from reslink.explain.display import DisplayMap, map_statistics
from reslink.explain.prediction_picture import draw_prediction
from reslink.imaging.image import Image
from reslink.imaging.preprocess import Preprocess
from reslink.inference.prediction import Prediction
from reslink.labels import Labels


def test_the_picture_has_the_label_the_maps_and_the_caption(drawn, rng) -> None:
    bundle = Bundle({"num_classes": 2, "in_channels": 3}, Preprocess(size=64), Labels(("Healthy", "Tumor")))
    image = Image(rng.integers(0, 200, (60, 80)).astype(np.float32), unit="gray", white=255.0)
    prediction = Prediction("scans/one.png", None, "Tumor", 0.875)
    heat = rng.random((60, 80)).astype(np.float32)
    numbers = map_statistics(heat, heat)
    maps = [DisplayMap("final_attention", "weights 0.20 to 0.80 of 1", numbers, heat, heat)]
    draw_prediction(bundle, image, prediction, maps)
    texts = {text for text, _ in drawn[0][1]}
    assert {"Image", "Tumor  87.5%", "one.png  ·  threshold for Tumor: 50.0%"} <= texts
    assert {"Final attention α", "weights 0.20 to 0.80 of 1"} <= texts


def test_the_picture_has_the_aspect_and_the_sides_of_the_file(monkeypatch) -> None:
    shown = []
    monkeypatch.setattr("reslink.explain.prediction_picture.draw_panel", lambda one, *_: shown.append(one) or b"")
    bundle = Bundle({"num_classes": 2, "in_channels": 3}, Preprocess(size=64), Labels(("Healthy", "Tumor")))
    pixels, prediction = np.full((60, 80), 30, np.float32), Prediction("scans/one.dcm", None, "Tumor", 0.875)
    for image in (
        Image(pixels, unit="HU", spacing=(0.4, 0.8), edges=("R", "L", "A", "P")),
        Image(pixels, unit="gray", white=255.0),
    ):
        draw_prediction(bundle, image, prediction, [])
    assert [(one.aspect, one.edges) for one in shown] == [(0.5, ("R", "L", "A", "P")), (1.0, None)]
