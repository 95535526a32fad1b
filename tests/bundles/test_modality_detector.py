"""The modality detector: pictures of heads and of none, and the file with its numbers."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from sklearn.svm import SVC

from reslink.bundles.decision.ood import Gaussian
from reslink.bundles.modality_detector import FILE, ModalityDetector, modality_detector
from reslink.bundles.scope import Scope
from reslink.datasets.phantom.cohort import render_slice
from reslink.datasets.phantom.tissue import Sequence
from reslink.imaging.image import Image, Stated
from reslink.imaging.input_statistics import input_statistics
from reslink.imaging.preprocess import Preprocess


def test_pictures_that_show_no_head_look_like_neither(rng: np.random.Generator) -> None:
    y, x = np.mgrid[:128, :128]
    pictures = [
        rng.normal(128, 50, (128, 128)),
        x * 2.0,
        255.0 * ((x // 8 + y // 8) % 2),
        255.0 * (rng.random((128, 128)) > 0.98),
    ]
    pixels = [
        Preprocess(size=192).pixels(Image(gray.clip(0, 255).astype(np.float32), "gray", white=255.0)) for gray in pictures
    ]
    looks = input_statistics(np.stack(pixels))
    assert modality_detector().classify(looks) == [None] * 4
    assert Scope(modality="CT").refusals([Stated()], looks[:1]) == [
        "it looks like neither CT nor MR of a head, and the model is for CT of the head"
    ]


def test_the_detector_is_data_with_the_record_of_its_fit(head_statistics: Callable[..., np.ndarray]) -> None:
    value = json.loads(FILE.read_text())
    assert {name: entry["modality"] for name, entry in value["record"]["data"].items()} == {
        "ct": "CT", "ct_ich": "CT", "ct_rsna": "CT", "ct_phe": "CT", "mri4": "MR", "lgg": "MR",
        "ct_narrow": "CT", "ct_wide": "CT",
    }  # fmt: skip
    assert all(entry["license"] for entry in value["record"]["data"].values())
    assert FILE.stat().st_size < 100_000
    looks = head_statistics("CT", "T1")
    again = ModalityDetector.from_dict(json.loads(json.dumps(modality_detector().as_dict())))
    np.testing.assert_allclose(again.score(looks), modality_detector().score(looks), atol=0.02)  # four digits


def test_the_score_is_that_of_scikit_learn(rng: np.random.Generator) -> None:
    rows = np.concatenate([rng.normal(size=(60, 5)), rng.normal(size=(60, 5)) + 1])
    model = SVC(C=2.0, gamma=0.1).fit(rows / 2 - 1, np.arange(120) >= 60)
    detector = ModalityDetector(
        mean=np.full(5, 2.0), scale=np.full(5, 2.0), support=model.support_vectors_, weights=model.dual_coef_[0],
        intercept=float(model.intercept_[0]), gamma=0.1, heads={"all": Gaussian.fit(rows)}, limit=1e9,
    )  # fmt: skip
    np.testing.assert_allclose(detector.score(rows), model.decision_function(rows / 2 - 1), atol=1e-9)
    assert detector.classify(rows) == ["MR" if mr else "CT" for mr in model.predict(rows / 2 - 1)]


@pytest.mark.parametrize(("sequence", "modality"), [("CT", "CT"), ("T1", "MR"), ("T2", "MR"), ("FLAIR", "MR")])
def test_pictures_of_heads(sequence: Sequence, modality: str, head_statistics: Callable[..., np.ndarray]) -> None:
    assert modality_detector().classify(head_statistics(sequence)) == [modality] * 3


@pytest.mark.parametrize(("width", "center"), [(80, 40), (400, 40), (1800, 400), (2000, 0), (3000, 500)])
def test_pictures_of_ct_at_any_window(width: int, center: int) -> None:
    """Heads of other seeds than those of the fit."""
    looks = []
    for index in range(1, 5):
        hu = render_slice(7, index, level=5.0 * index, sequence="CT", size=256).pixels
        gray = np.rint(np.clip((hu - center) / width + 0.5, 0, 1) * 255)
        looks.append(Preprocess(size=192).pixels(Image(gray.astype(np.float32), "gray", white=255.0)))
    assert modality_detector().classify(input_statistics(np.stack(looks))) == ["CT"] * 4
