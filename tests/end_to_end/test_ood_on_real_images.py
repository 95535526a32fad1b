"""The gate on the development images, with the features of a network that learned nothing: the input statistics carry it."""

import numpy as np
import pytest
from PIL import Image as Picture
from PIL import ImageDraw
from sklearn.metrics import roc_auc_score

from reslink.bundles.decision.decision import Decision
from reslink.datasets.manifest import Manifest
from reslink.evaluation.fitting import Evidence, fit_gate
from reslink.imaging.image import Image
from reslink.imaging.input_statistics import input_statistics
from reslink.imaging.preprocess import Preprocess
from reslink.imaging.reading import read_image

PREPROCESS = Preprocess(size=112, channels=1)


def of_data(folder, count):
    """Statistics of some images of a data set, drawn at random."""
    data = Manifest.open(folder)
    rows = np.random.default_rng(0).permutation(len(data))[:count]
    return input_statistics(np.stack([PREPROCESS.pixels(read_image(data.cases[row].path)) for row in rows]))


def of_arrays(arrays):
    images = [Image(np.clip(array, 0, 255).astype(np.float32), "grey", white=255.0) for array in arrays]
    return input_statistics(np.stack([PREPROCESS.pixels(image) for image in images]))


def strangers(rng):
    from sklearn.datasets import load_sample_images

    made = []
    for photo in load_sample_images().images:
        for _ in range(8):
            top, left = rng.integers(0, 227), rng.integers(0, 440)
            made.append(photo[top : top + 200, left : left + 200].mean(axis=2))
    for i in range(8):
        made.append(rng.normal(rng.uniform(50, 200), rng.uniform(10, 80), (200, 200)))
        made.append(np.add.outer(np.arange(200), np.arange(200)) * rng.uniform(0.3, 0.6))
        made.append(np.full((200, 200), 255 * i / 7))
        page = Picture.new("L", (200, 200), 255 * (i % 2))
        for row in range(6, 190, 12):
            ImageDraw.Draw(page).text((6, row), "".join(rng.choice(list("abc def gh"), 32)), fill=255 * (1 - i % 2))
        made.append(np.asarray(page, np.float64))
    return made


@pytest.mark.data
def test_a_gate_for_ct_keeps_ct_and_refuses_mr_and_what_is_no_head(shared_data, rng):
    """Averages over six divisions of the CT images into those that the gate is fitted on and new ones.

    The features are zeros: the statistics alone reach the limits, and the features of a small network with random weights
    change neither figure by more than a hundredth.
    """
    ct, others = of_data(shared_data / "ct", 300), (of_data(shared_data / "mri4", 80), of_arrays(strangers(rng)))
    kept, areas = [], []
    for _ in range(6):
        rows = rng.permutation(300)
        fitted, new = ct[rows[:150]], ct[rows[150:]]
        cases = Evidence(np.zeros((150, 2)), np.zeros((150, 4)), fitted, np.arange(150) % 2, [str(i) for i in range(150)])
        gate, arrays = fit_gate(cases, [])
        near, *far = (score(Decision(ood=gate, arrays=arrays), part) for part in (new, *others))
        kept.append((near <= 1).mean())
        areas.append([roc_auc_score(np.repeat([0, 1], [len(near), len(part)]), np.concatenate([near, part])) for part in far])
        assert (far[0] > 1).mean() >= 0.9
        assert (far[1] > 1).all()
    assert np.mean(kept) >= 0.95, kept
    assert np.mean(areas, axis=0).min() >= 0.99, areas


def score(rule, statistics):
    return rule.judge(np.zeros((len(statistics), 2)), np.zeros((len(statistics), 4)), statistics).ood_score
