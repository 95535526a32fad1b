"""The pooling of a bundle in NumPy, beside torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from reslink.bundles.bundle import Bundle
from reslink.bundles.series_pooling import SeriesPooling
from reslink.errors import BundleError, UsageError
from reslink.imaging.preprocess import Preprocess
from reslink.labels import Labels
from reslink.networks.build import build_network
from reslink.networks.reslink import ResLinkConfig

CONFIG = ResLinkConfig(stem_dim=8, dims=(8, 16), depths=(1, 1), in_channels=1)


def saved(folder, case="series"):
    architecture = {"name": "tiny", **CONFIG.model_dump(mode="json")} | ({"case": case} if case != "slice" else {})
    bundle = Bundle(architecture, Preprocess(size=64, channels=1), Labels(("a", "b")))
    return bundle.save(folder, build_network(CONFIG, 1, case=case).state_dict())


def test_the_weights_of_slices_equal_those_of_torch(tmp_path, rng):
    bundle = Bundle.load(saved(tmp_path / "b").folder)
    assert bundle.case == "series"
    features = rng.normal(0, 5, (7, 16)).astype(np.float32)
    with torch.no_grad():
        expected = bundle.network().pooling(torch.from_numpy(features)).softmax(0).numpy()
    attention = bundle.pooling().attention(features)
    assert attention.sum() == pytest.approx(1)
    assert np.ptp(attention) > 0.001
    np.testing.assert_allclose(attention, expected, atol=1e-6)


def test_large_features_give_finite_weights(tmp_path):
    attention = saved(tmp_path / "b").pooling().attention(np.full((3, 16), 1e30))
    np.testing.assert_allclose(attention, 1 / 3)


def test_a_bundle_of_slices_has_no_pooling(tmp_path):
    bundle = saved(tmp_path / "b", "slice")
    assert (bundle.case, bundle.pooling()) == ("slice", None)
    bundle.require_slices("anything")


def test_what_needs_slices_refuses_series(tmp_path):
    with pytest.raises(UsageError, match=r"reslink x does not support b: its cases are series.*needs a bundle whose cases"):
        saved(tmp_path / "b").require_slices("reslink x")


def test_another_kind_of_case_is_refused():
    architecture = {"name": "tiny", **CONFIG.model_dump(mode="json"), "case": "volume"}
    with pytest.raises(BundleError, match=r"case is 'volume'.*a slice or a series"):
        Bundle(architecture, Preprocess(size=64, channels=1), Labels(("a", "b")))


def test_weights_without_pooling_do_not_fit_a_bundle_of_series(tmp_path):
    architecture = {"name": "tiny", **CONFIG.model_dump(mode="json"), "case": "series"}
    bundle = Bundle(architecture, Preprocess(size=64, channels=1), Labels(("a", "b")))
    with pytest.raises(BundleError, match=r"missing: pooling\.gate\.bias"):
        bundle.save(tmp_path / "b", build_network(CONFIG, 1).state_dict())


def test_weights_that_do_not_fit_each_other_are_refused(tmp_path):
    arrays = {f"pooling.{name}": np.zeros((2, 3), np.float32) for name in ("value.weight", "gate.weight", "score.weight")}
    arrays |= {f"pooling.{name}": np.zeros(2, np.float32) for name in ("value.bias", "gate.bias")}
    save_file(arrays, tmp_path / "w.safetensors")
    with pytest.raises(BundleError, match="do not fit each other"):
        SeriesPooling.read(tmp_path / "w.safetensors")
    save_file({"head": np.zeros(1, np.float32)}, tmp_path / "n.safetensors")
    with pytest.raises(BundleError, match="no pooling over slices"):
        SeriesPooling.read(tmp_path / "n.safetensors")
