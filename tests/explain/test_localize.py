"""Do maps lie on lesions: a planted network, planted masks."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from reslink.explain.localize import centre_gaussian, localization, measure, tolerance
from reslink.imaging.preprocess import Preprocess
from reslink.labels import Labels
from reslink.networks.reslink import build, variant_config

PLAIN = Preprocess(size=96, mean=0.0, std=1.0, isolate_head=False)
LABELS = Labels(("Healthy", "Tumor"))


def planted_cache(n: int = 24, *, lesion_at: tuple[int, int] = (40, 72)) -> SimpleNamespace:
    """Noise with a bright spot where ``PatchNet`` looks; the mask lies where it is told to."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 60, (n, 1, 96, 96)).astype(np.uint8)
    pixels[:, :, 40:56, 72:88] += 150
    masks = np.zeros((n, 96, 96), np.uint8)
    row, column = lesion_at
    masks[: n // 2, row : row + 16, column : column + 16] = 1
    has_mask = np.arange(n) < n // 2
    return SimpleNamespace(pixels=pixels, masks=masks, has_mask=has_mask)


def test_a_network_that_looks_at_the_lesion_beats_the_centre(patch_net):
    found = localization(patch_net, planted_cache(), range(24), LABELS, preprocess=PLAIN, batch_size=5)
    assert found["n"] == 12
    assert found["target"] == "Tumor"
    assert found["tolerance_px"] == 6
    cam, centre = found["methods"]["grad_cam"], found["methods"]["centre"]
    assert cam["pointing_game"]["estimate"] == 1.0
    assert cam["pointing_game"]["n"] == 12
    assert centre["pointing_game"]["estimate"] == 0.0
    assert cam["iou"]["estimate"] > 0.5 > centre["iou"]["estimate"]
    assert cam["energy_inside"]["estimate"] > centre["energy_inside"]["estimate"]
    json.dumps(found, allow_nan=False)


def test_a_network_that_looks_elsewhere_does_not(patch_net):
    cache = planted_cache(lesion_at=(8, 8))
    found = localization(patch_net, cache, range(24), LABELS, preprocess=PLAIN)
    assert found["methods"]["grad_cam"]["pointing_game"]["estimate"] == 0.0
    assert found["methods"]["grad_cam"]["iou"]["estimate"] < 0.1


def test_the_batch_size_changes_nothing(patch_net):
    one, many = (localization(patch_net, planted_cache(), range(24), LABELS, preprocess=PLAIN, batch_size=b) for b in (1, 32))
    for measure_name in ("pointing_game", "energy_inside", "iou"):
        assert one["methods"]["grad_cam"][measure_name]["estimate"] == pytest.approx(
            many["methods"]["grad_cam"][measure_name]["estimate"], abs=1e-6
        )


def test_cases_without_a_lesion_are_left_out_and_none_is_no_fault(patch_net):
    cache = planted_cache()
    cache.masks[0] = 0  # a mask file without a lesion
    assert localization(patch_net, cache, range(24), LABELS, preprocess=PLAIN)["n"] == 11
    none = localization(patch_net, cache, range(12, 24), LABELS, preprocess=PLAIN)
    assert none["n"] == 0
    assert none["methods"] == {}
    cache.masks = None
    cache.has_mask[:] = False
    assert localization(patch_net, cache, range(24), LABELS, preprocess=PLAIN)["n"] == 0


def test_groups_belong_to_the_indices_and_widen_the_interval(patch_net):
    cache = planted_cache(48)
    cache.pixels[:12, :, 40:56, 72:88] = 0  # the network has nothing to see in half of the lesions
    cache.pixels[:12, :, 8:24, 8:24] = 255
    order = list(range(47, -1, -1))
    alone = localization(patch_net, cache, order, LABELS, preprocess=PLAIN)
    pairs = localization(patch_net, cache, order, LABELS, preprocess=PLAIN, groups=[f"patient {i // 2}" for i in order])
    one, two = (found["methods"]["grad_cam"]["iou"] for found in (alone, pairs))
    assert one["estimate"] == pytest.approx(two["estimate"])
    assert "12 groups" in two["method"]
    assert two["ci_high"] - two["ci_low"] > one["ci_high"] - one["ci_low"]


def test_attention_of_a_reslink_is_measured(rng):
    network = build(variant_config("reslink_small", num_classes=4), seed=0)
    labels = Labels(("a", "b", "c", "d"))
    found = localization(network, planted_cache(4), range(4), labels, preprocess=PLAIN)
    assert list(found["methods"]) == ["first_attention", "final_attention", "grad_cam", "centre"]
    assert found["target"] == "predicted"
    assert network.training


def test_a_map_without_heat_has_no_energy_inside():
    mask = np.zeros((96, 96), bool)
    mask[:8] = True
    hit, energy, overlap = measure(np.zeros((96, 96), np.float32), mask)
    assert (hit, energy) == (0.0, 0.0)
    assert 0 < overlap < 0.1


def test_tolerance_scales_with_the_image():
    assert (tolerance(224), tolerance(448), tolerance(64)) == (15, 30, 4)


def test_the_centre_is_in_the_middle():
    bell = centre_gaussian(65)
    assert np.unravel_index(bell.argmax(), bell.shape) == (32, 32)
    np.testing.assert_allclose(bell, bell.T)
