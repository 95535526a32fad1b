"""The scikit-learn estimator: it trains as the package does, and keeps the conventions that images allow."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.utils import get_tags

from reslink.datasets.manifest import Manifest
from reslink.errors import InputError, UsageError
from reslink.imaging.formats.numpy_array import image_from_array
from reslink.imaging.image import Unit
from reslink.imaging.reading import read_image
from reslink.training.sklearn_estimator import ResLinkClassifier

SETTINGS = {
    "preprocess.size": 64,
    "preprocess.channels": 1,
    "model.stem_dim": 8,
    "model.dims": [8, 16],
    "model.depths": [0, 1],
    "model.area_size": 4,
    "trainer.batch_size": 8,
    "trainer.epochs": 1,
    "trainer.device": "cpu",
    "trainer.workers": 0,
    "diagnostics.enabled": False,
}


def drawn(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Noisy discs, two of a patient, with a bright spot in every other patient."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:72, :72]
    images, ill = [], np.arange(count) // 2 % 2
    for spot in ill:
        cy, cx = 36 + rng.uniform(-3, 3, 2)
        disc = ((y - cy) / rng.uniform(22, 32)) ** 2 + ((x - cx) / rng.uniform(22, 32)) ** 2 < 1
        grey = disc * (90 + np.kron(rng.normal(0, 25, (9, 9)), np.ones((8, 8))))
        py, px = np.array([cy, cx]) + rng.uniform(-10, 10, 2)
        grey = grey + spot * disc * 110 * (np.hypot(y - py, x - px) < 8)
        images.append(np.clip(grey, 0, 255))
    return np.stack(images).astype(np.uint8), ill, [f"p{i // 2}" for i in range(count)]


@pytest.fixture(scope="module")
def fitted() -> ResLinkClassifier:
    images, ill, patients = drawn(32)
    return ResLinkClassifier(settings=SETTINGS, seed=1).fit(images, ill * 10 + 2, groups=patients)


def test_it_predicts_the_given_classes(fitted: ResLinkClassifier) -> None:
    images, _, _ = drawn(6, seed=9)
    chances, called = fitted.predict_proba(images), fitted.predict(images)
    np.testing.assert_array_equal(fitted.classes_, [2, 12])
    assert chances.shape == (6, 2)
    np.testing.assert_allclose(chances.sum(axis=1), 1)
    np.testing.assert_array_equal(called, np.where(chances[:, 1] >= 0.5, 12, 2))
    wanted = [answer.probabilities["12"] for answer in fitted.classifier_.predict(list(images))]  # type: ignore[index]
    np.testing.assert_array_equal(chances[:, 1], wanted)
    assert fitted.score(images, called) == 1
    assert fitted.predict_proba(images[:0]).shape == (0, 2)


def test_files_and_arrays_train_the_same_model(fitted: ResLinkClassifier, tmp_path: Path) -> None:
    images, ill, patients = drawn(32)
    paths = []
    for i, image in enumerate(images):
        paths.append(tmp_path / f"{i:02d}.png")
        Image.fromarray(image).save(paths[-1])
    other = clone(fitted).set_params(out=tmp_path / "run").fit(paths, ill * 10 + 2, groups=patients)
    np.testing.assert_allclose(other.predict_proba(paths), fitted.predict_proba(images), atol=1e-6)
    with (tmp_path / "run" / "splits.csv").open(newline="") as stream:
        parts = [(row["group"], row["split"]) for row in csv.DictReader(stream)]
    assert {part for _, part in parts} == {"train", "validation"}
    assert len(dict(parts)) == len(set(parts)), "a patient stands on both sides"
    assert (tmp_path / "run" / "bundle" / "bundle.json").is_file()


def test_the_conventions_of_scikit_learn(fitted: ResLinkClassifier) -> None:
    fresh = clone(fitted)
    assert fresh.get_params() == fitted.get_params()
    assert not hasattr(fresh, "classes_")
    assert is_classifier(fresh)
    tags = get_tags(fresh)
    assert (tags.input_tags.two_d_array, tags.input_tags.three_d_array) == (False, True)
    with pytest.raises(NotFittedError, match="is not fitted"):
        fresh.predict(drawn(2)[0])
    assert "seed=1" in repr(fresh)


def test_cross_validation_keeps_groups_together() -> None:
    images, ill, patients = drawn(24)
    model = ResLinkClassifier(settings=SETTINGS)
    scores = cross_val_score(model, images, ill, groups=patients, cv=GroupKFold(3), error_score="raise")
    assert scores.shape == (3,)
    assert np.isfinite(scores).all()


def test_wrong_input_is_named(fitted: ResLinkClassifier) -> None:
    images, ill, _ = drawn(4)
    plain = ResLinkClassifier(settings=SETTINGS)
    with pytest.raises(UsageError, match=r"4 images, y of shape \(3,\) and no groups were given"):
        plain.fit(images, ill[:3])
    with pytest.raises(UsageError, match="and 2 groups were given"):
        plain.fit(images, ill, groups=["a", "b"])
    with pytest.raises(UsageError, match="at least two classes"):
        plain.fit(images, np.zeros(4))
    with pytest.raises(UsageError, match=r"X is an array of shape \(72, 72\)"):
        fitted.predict(images[0])
    with pytest.raises(UsageError, match="float64 was given without a unit"):
        plain.fit(images.astype(float), ill)
    with pytest.raises(UsageError, match=r"trainer\.epoch is not a setting.*'trainer\.epochs'"):
        ResLinkClassifier(settings={"trainer.epoch": 1}).fit(images, ill)
    with pytest.raises(InputError, match=r"no\.png does not exist"):
        fitted.predict(["no.png"])
    with pytest.raises(InputError, match="holds several slices"):
        fitted.predict([images])


def test_a_path_to_several_files_is_refused(fitted: ResLinkClassifier, tmp_path: Path) -> None:
    images, _, _ = drawn(4)
    for i, image in enumerate(images[:2]):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    for several in (tmp_path, str(tmp_path / "*.png")):
        for ask in (
            fitted.predict,
            fitted.predict_proba,
            lambda paths: ResLinkClassifier(settings=SETTINGS).fit(paths, [0, 1]),
        ):
            with pytest.raises(InputError, match=r"(is a folder|does not exist)\. Each of X is one image"):
                ask([tmp_path / "0.png", several])
    Image.fromarray(images[0]).save(tmp_path / "[0].png")
    assert fitted.predict([tmp_path / "[0].png", str(tmp_path / "1.png")]).shape == (2,)


@pytest.mark.parametrize("unit", ["HU", "MR", "gray"])
@pytest.mark.parametrize(("low", "dtype"), [(0, np.float64), (-1000, np.float32), (0, np.uint16), (0, np.uint8)])
def test_fit_reads_arrays_as_predict_does(unit: Unit, low: int, dtype: type, tmp_path: Path, monkeypatch) -> None:
    """The histograms of these arrays say something else than most of the units."""
    arrays = np.where(drawn(4)[0] > 0, drawn(4)[0] // 3, low).astype(dtype)
    opened: list[Manifest] = []

    def stop(manifest: Manifest, *_: object, **__: object) -> None:
        opened.append(manifest)
        for case, array in zip(manifest.cases, arrays, strict=True):
            read, expected = read_image(case.path, case.unit), image_from_array(array, unit)
            assert (read.unit, read.modality, read.white) == (unit, expected.modality, expected.white)
            np.testing.assert_array_equal(read.pixels, expected.pixels)
        raise KeyboardInterrupt

    monkeypatch.setattr("reslink.training.sklearn_estimator.train", stop)
    with pytest.raises(KeyboardInterrupt):
        ResLinkClassifier(settings=SETTINGS, unit=unit).fit(arrays, [0, 0, 1, 1], groups=list("abcd"))
    assert [case.patient_id for case in opened[0].cases] == list("abcd")
    path = tmp_path / "values.npy"
    np.save(path, arrays[0].astype(np.float32) if unit == "HU" else arrays[0])
    with pytest.raises(KeyboardInterrupt):
        ResLinkClassifier(settings=SETTINGS, unit=unit).fit([path, *arrays[1:]], [0, 0, 1, 1])
    assert opened[1].cases[0].unit == unit, "files get the unit, as in predict"
