"""Acquisition features of images with known properties."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from PIL import Image as Picture
from pydicom.data import get_testdata_file
from scipy import ndimage

from reslink.datasets.case import Case
from reslink.datasets.manifest import Manifest
from reslink.experiments.external.acquisition import (
    CATEGORICAL_FEATURES,
    NUMERIC_FEATURES,
    Acquisition,
    compare_acquisitions,
    gray_distance,
    measure_acquisition,
    measure_acquisitions,
)
from reslink.imaging.preprocess import Preprocess
from reslink.labels import Labels
from reslink.training.monitoring.progress import SilentProgress

PREPROCESS = Preprocess(size=96, channels=1)


def save(path, *, axes=(0.42, 0.28), angle=0.0, gray=120, shape=(160, 200), noise=3.0, seed=0):
    """A bright ellipse with texture on black; ``axes`` are shares of the shorter side."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]] - (np.array(shape)[:, None, None] - 1) / 2
    turn = np.radians(angle)
    along, across = y * np.cos(turn) + x * np.sin(turn), -y * np.sin(turn) + x * np.cos(turn)
    side = min(shape)
    inside = (along / (axes[0] * side)) ** 2 + (across / (axes[1] * side)) ** 2 < 1
    values = np.where(
        inside, gray + ndimage.gaussian_filter(random.standard_normal(shape), 2) * 60 + noise * random.standard_normal(shape), 0
    )
    Picture.fromarray(np.clip(values, 0, 255).astype(np.uint8)).save(path)
    return path, inside


def test_size_and_shape_of_the_head_are_those_drawn(tmp_path):
    path, inside = save(tmp_path / "a.png")
    result = measure_acquisition(path, PREPROCESS)
    assert (result.side_px, result.aspect) == (200.0, 1.25)
    assert result.head_share == pytest.approx(inside.mean(), rel=0.1)
    assert result.head_aspect == pytest.approx(1.5, rel=0.05)
    assert result.head_tilt == pytest.approx(0, abs=3)
    assert result.histogram.sum() == pytest.approx(1)
    assert (result.pixel_mm, result.head_mm, result.thickness_mm, result.plane) == (None, None, None, "not stated")


@pytest.mark.parametrize("angle", [-60, 30, 90])
def test_the_tilt_is_the_angle_drawn(tmp_path, angle):
    path, _ = save(tmp_path / "a.png", angle=angle)
    assert measure_acquisition(path, PREPROCESS).head_tilt == pytest.approx(abs(angle), abs=4)


def test_a_dicom_file_states_plane_spacing_and_thickness():
    result = measure_acquisition(get_testdata_file("CT_small.dcm"), PREPROCESS)
    assert (result.modality, result.plane, result.thickness_mm) == ("CT", "axial", 5.0)
    assert result.pixel_mm == pytest.approx(0.661468, rel=1e-3)


def test_an_image_without_a_head_has_no_head_features(tmp_path):
    Picture.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "blank.png")
    result = measure_acquisition(tmp_path / "blank.png", PREPROCESS)
    assert result.head_share == 0
    assert (result.gray_mean, result.head_tilt, result.sharpness) == (None, None, None)
    assert gray_distance([result], [result]) is None


def measured(tmp_path, name, n=12, **drawing):
    return [measure_acquisition(save(tmp_path / f"{name}{i}.png", seed=i, **drawing)[0], PREPROCESS) for i in range(n)]


def test_a_planted_difference_is_large_and_the_others_are_not(tmp_path):
    here, same = measured(tmp_path, "a"), measured(tmp_path, "b", n=14)
    wider = measured(tmp_path, "c", axes=(0.47, 0.42))
    rows = {row["feature"]: row for row in compare_acquisitions(here, wider)}
    assert rows["head_aspect"]["large"]
    assert rows["head_aspect"]["difference"] < -0.8
    assert rows["head_share"]["difference"] > 0.8
    assert not rows["side_px"]["large"]
    assert rows["side_px"]["ks"] == 0
    assert not any(row["large"] for row in compare_acquisitions(here, same))
    assert gray_distance(here, here) == 0


def test_a_blurred_image_is_less_sharp(tmp_path):
    path, _ = save(tmp_path / "a.png", noise=20)
    values = ndimage.gaussian_filter(np.asarray(Picture.open(path), float), 2)
    Picture.fromarray(values.astype(np.uint8)).save(tmp_path / "b.png")
    sharp, soft = measure_acquisition(path, PREPROCESS), measure_acquisition(tmp_path / "b.png", PREPROCESS)
    assert sharp.sharpness > 2 * soft.sharpness


def test_without_internal_images_nothing_is_compared(tmp_path):
    rows = compare_acquisitions([], measured(tmp_path, "a", n=2))
    assert all(row["difference"] is None and not row["large"] for row in rows)
    assert rows[0]["internal"] == "no images given"


def test_an_unreadable_file_is_skipped(tmp_path):
    good, _ = save(tmp_path / "a.png")
    bad = tmp_path / "b.png"
    bad.write_bytes(b"no image")
    cases = tuple(Case(path, "x", name=path.name) for path in (good, bad))
    assert len(measure_acquisitions(Manifest(cases, Labels(("x", "y")), tmp_path), PREPROCESS, SilentProgress())) == 1


def test_every_feature_has_a_row():
    assert {*NUMERIC_FEATURES, *CATEGORICAL_FEATURES, "histogram"} == {field.name for field in fields(Acquisition)}
