"""The graphs that are exported give the numbers of the package."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from reslink.bundles.decision.calibration import IsotonicCurve
from reslink.bundles.decision.decision import Decision
from reslink.export.graph import DecisionGraph, SliceGraph
from reslink.export.reference import reference_source
from reslink.imaging.image import Image
from reslink.imaging.preprocess import Preprocess

CURVE = IsotonicCurve(before=(0.1, 0.3, 0.3, 0.8), after=(0.0, 0.2, 0.5, 1.0))


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(size=64),
        Preprocess(size=101, window="three", isolate_head=False),
        Preprocess(size=96, percentiles=(2.0, 97.3), channels=1),
    ],
)
def test_graph_and_reference_give_the_pixels_of_the_package(
    some_images: list[Image], preprocess: Preprocess, tmp_path: Path
) -> None:
    (tmp_path / "reference.py").write_text(reference_source(preprocess))
    names: dict[str, object] = {"__name__": "reference"}
    code = compile((tmp_path / "reference.py").read_text(), "reference.py", "exec")
    sys.modules["reference"] = type(sys)("reference")  # dataclasses look their module up
    try:
        exec(code, names)
    finally:
        del sys.modules["reference"]
    graph = SliceGraph(preprocess)
    for image in some_images:
        wanted = preprocess.pixels(image)
        keep, place = preprocess.isolate(image)
        box = np.array([[place.top, place.left, place.height, place.width]])
        fed = (image.pixels.copy()[None], keep.copy()[None], box, np.array([image.unit == "HU"]), np.array([image.inverted]))
        np.testing.assert_array_equal(graph(*map(torch.from_numpy, fed))[0].numpy(), wanted)
        other = names["Image"](  # type: ignore[operator]
            image.pixels, unit=image.unit, white=image.white, padding=image.padding, inverted=image.inverted
        )
        np.testing.assert_array_equal(names["PREPROCESS"].pixels(other), wanted)  # type: ignore[attr-defined]
        prepared = names["inputs"](other)  # type: ignore[operator]
        for mine, theirs in zip(fed, prepared.values(), strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    ("decision", "outputs"),
    [
        (Decision(threshold=0.37, temperature=1.9), 2),
        (Decision(threshold=0.6, isotonic=(CURVE,)), 1),
        (Decision(threshold=None, temperature=0.7, isotonic=(CURVE, CURVE, IsotonicCurve(before=(0.5,), after=(0.0,)))), 3),
    ],
)
def test_the_exported_decision_equals_the_decision(decision: Decision, outputs: int) -> None:
    logits = np.random.default_rng(0).normal(0, 4, (500, outputs)).astype(np.float32)
    chances, labels = DecisionGraph(decision)(torch.from_numpy(logits))
    wanted = decision.probabilities(logits)
    np.testing.assert_allclose(chances.numpy(), wanted, atol=1e-7)
    np.testing.assert_array_equal(labels.numpy(), decision.predict(wanted))
