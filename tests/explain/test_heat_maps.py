"""The maps of one image, each compared with a direct call of its method."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reslink.bundles.bundle import Bundle
from reslink.explain.attention import attention_maps
from reslink.explain.attribution import grad_cam, occlusion
from reslink.explain.heat_maps import METHODS, heat_maps, localization_measures
from reslink.imaging.preprocess import Preprocess
from reslink.inference.classifier import Classifier
from reslink.labels import Labels
from reslink.networks.reslink import ResLinkConfig, build_network


@pytest.fixture
def classifier() -> Classifier:
    config = ResLinkConfig(stem_dim=8, dims=(8, 16), depths=(1, 1), in_channels=1, attention="final")
    bundle = Bundle(
        {"name": "tiny", **config.model_dump(mode="json")},
        Preprocess(size=64, channels=1, mean=0.4, std=0.2),
        Labels(("Healthy", "Tumor")),
    )
    return Classifier(bundle, build_network(config, seed=0).eval(), torch.device("cpu"))


@pytest.fixture
def pixels(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 255, (1, 64, 64), np.uint8)


def test_each_map_is_that_of_its_method(classifier: Classifier, pixels: np.ndarray) -> None:
    maps = heat_maps(classifier, pixels, 1)
    assert list(maps) == [name for name in METHODS if name != "first_attention"], "the network has only the final layer"
    x = torch.from_numpy((pixels[None].astype(np.float32) / 255 - np.float32(0.4)) / np.float32(0.2))
    np.testing.assert_allclose(maps["final_attention"], attention_maps(classifier.network, x)["final_attention"][0], atol=1e-6)
    np.testing.assert_allclose(maps["grad_cam"], grad_cam(classifier.network, x, 1)[0], atol=1e-5)
    black = (0 - 0.4) / 0.2
    np.testing.assert_allclose(maps["occlusion"], occlusion(classifier.network, x, 1, baseline=black)[0], atol=1e-5)
    assert {name: heat.shape for name, heat in maps.items()}["integrated_gradients"] == (64, 64)


def test_only_the_named_methods_run(classifier: Classifier, pixels: np.ndarray) -> None:
    assert list(heat_maps(classifier, pixels, 0, ["grad_cam"])) == ["grad_cam"]
    assert heat_maps(classifier, pixels, 0, ["first_attention"]) == {}


def test_measures_need_a_lesion() -> None:
    heat, mask = np.zeros((8, 8), np.float32), np.zeros((16, 16), bool)
    heat[2, 3] = 1
    assert localization_measures(heat, None) == localization_measures(heat, mask) == {}
    mask[4:6, 6:8] = True
    assert localization_measures(heat, mask)["pointing_game"] == 1
    assert localization_measures(heat, np.roll(mask, 8, axis=0))["energy_inside"] == 0
