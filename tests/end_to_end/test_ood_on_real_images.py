"""The OOD detector on the development images, with constant features: the input statistics alone separate them."""

import numpy as np
import pytest
from PIL import Image as Picture
from PIL import ImageDraw
from sklearn.metrics import roc_auc_score

from reslink.bundles.decision.decision import Decision
from reslink.bundles.modality_detector import modality_detector
from reslink.datasets.manifest import Manifest
from reslink.evaluation.fitting import CalibrationData, fit_ood_detector
from reslink.imaging.image import Image
from reslink.imaging.input_statistics import input_statistics
from reslink.imaging.preprocess import Preprocess
from reslink.imaging.reading import read_image

PREPROCESS = Preprocess(size=112, channels=1)


def statistics_of_data(folder, count):
    """Statistics of some images of a data set, drawn at random."""
    data = Manifest.open(folder)
    rows = np.random.default_rng(0).permutation(len(data))[:count]
    return input_statistics(np.stack([PREPROCESS.pixels(read_image(data.cases[row].path)) for row in rows]))


def statistics_of_arrays(arrays):
    images = [Image(np.clip(array, 0, 255).astype(np.float32), "gray", white=255.0) for array in arrays]
    return input_statistics(np.stack([PREPROCESS.pixels(image) for image in images]))


def other_images(rng):
    from sklearn.datasets import load_sample_images

    images = []
    for photo in load_sample_images().images:
        for _ in range(8):
            top, left = rng.integers(0, 227), rng.integers(0, 440)
            images.append(photo[top : top + 200, left : left + 200].mean(axis=2))
    for i in range(8):
        images.append(rng.normal(rng.uniform(50, 200), rng.uniform(10, 80), (200, 200)))
        images.append(np.add.outer(np.arange(200), np.arange(200)) * rng.uniform(0.3, 0.6))
        images.append(np.full((200, 200), 255 * i / 7))
        page = Picture.new("L", (200, 200), 255 * (i % 2))
        for row in range(6, 190, 12):
            ImageDraw.Draw(page).text((6, row), "".join(rng.choice(list("abc def gh"), 32)), fill=255 * (1 - i % 2))
        images.append(np.asarray(page, np.float64))
    return images


@pytest.mark.data
def test_a_detector_for_ct_accepts_ct_and_rejects_mr_and_other_images(shared_data, rng):
    """Averages over six random splits of the CT images into a fitting set and a test set.

    The features are zeros: the statistics alone reach the thresholds. Features of a small network with random weights change
    neither value by more than 0.01.
    """
    ct, others = (
        statistics_of_data(shared_data / "ct", 300),
        (statistics_of_data(shared_data / "mri4", 80), statistics_of_arrays(other_images(rng))),
    )
    kept, areas = [], []
    for _ in range(6):
        rows = rng.permutation(300)
        fitted, new = ct[rows[:150]], ct[rows[150:]]
        cases = CalibrationData(
            np.zeros((150, 2)), np.zeros((150, 4)), fitted, np.arange(150) % 2, [str(i) for i in range(150)]
        )
        detector, arrays = fit_ood_detector(cases, [])
        near, *far = (score(Decision(ood=detector, arrays=arrays), part) for part in (new, *others))
        kept.append((near <= 1).mean())
        areas.append([roc_auc_score(np.repeat([0, 1], [len(near), len(part)]), np.concatenate([near, part])) for part in far])
        assert (far[0] > 1).mean() >= 0.9
        assert (far[1] > 1).all()
    assert np.mean(kept) >= 0.95, kept
    assert np.mean(areas, axis=0).min() >= 0.99, areas


def score(rule, statistics):
    return rule.decide(np.zeros((len(statistics), 2)), np.zeros((len(statistics), 4)), statistics).ood_score


@pytest.mark.data
@pytest.mark.parametrize(("width", "center"), [(80, 40), (200, 75), (1800, 400), (3000, 500)])
def test_windowed_pictures_of_the_base_of_the_skull_do_not_look_like_mr(shared_data, width, center):
    planes = [read_image(path).pixels for path in sorted((shared_data / "series" / "ct_rsna").glob("*.dcm"))]
    pictures = [Image(np.rint(np.clip((hu - center) / width + 0.5, 0, 1) * 255), "gray", white=255.0) for hu in planes]
    pixels = np.stack([Preprocess(size=192).pixels(picture) for picture in pictures])
    assert modality_detector().classify(input_statistics(pixels)).count("MR") == 0
