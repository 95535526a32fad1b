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
    assert draw_prediction(bundle, image, prediction, maps).startswith(b"\x89PNG")
    texts = {text for text, _ in drawn[0][1]}
    assert {"Image", "Tumor  87.5%", "one.png  ·  threshold for Tumor: 50.0%"} <= texts
    assert {"Final attention α", "weights 0.20 to 0.80 of 1"} <= texts
