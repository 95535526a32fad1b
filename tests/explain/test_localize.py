"""Localization of lesions: a network with a known decision rule, and masks at known positions."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from reslink.explain.localize import center_gaussian, localization, measure, tolerance
from reslink.imaging.preprocess import Preprocess
from reslink.labels import Labels
from reslink.networks.reslink import build_network, variant_config

PLAIN = Preprocess(size=96, mean=0.0, std=1.0, isolate_head=False)
LABELS = Labels(("Healthy", "Tumor"))


def planted_cache(n: int = 24, *, lesion_at: tuple[int, int] = (40, 72)) -> SimpleNamespace:
    """Noise with a bright spot in the patch that ``PatchNet`` uses; the mask is at ``lesion_at``."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 60, (n, 1, 96, 96)).astype(np.uint8)
    pixels[:, :, 40:56, 72:88] += 150
    masks = np.zeros((n, 96, 96), np.uint8)
    row, column = lesion_at
    masks[: n // 2, row : row + 16, column : column + 16] = 1
    has_mask = np.arange(n) < n // 2
    return SimpleNamespace(pixels=pixels, masks=masks, has_mask=has_mask)


def test_a_network_that_uses_the_lesion_beats_the_image_center(patch_net):
    result = localization(patch_net, planted_cache(), range(24), LABELS, preprocess=PLAIN, batch_size=5)
    assert result["n"] == 12
    assert result["target"] == "Tumor"
    assert result["tolerance_px"] == 6
    cam, center = result["methods"]["grad_cam"], result["methods"]["center"]
    assert cam["pointing_game"]["estimate"] == 1.0
    assert cam["pointing_game"]["n"] == 12
    assert center["pointing_game"]["estimate"] == 0.0
    assert cam["iou"]["estimate"] > 0.5 > center["iou"]["estimate"]
    assert cam["energy_inside"]["estimate"] > center["energy_inside"]["estimate"]
    json.dumps(result, allow_nan=False)


def test_a_network_that_uses_another_region_does_not(patch_net):
    cache = planted_cache(lesion_at=(8, 8))
    result = localization(patch_net, cache, range(24), LABELS, preprocess=PLAIN)
    assert result["methods"]["grad_cam"]["pointing_game"]["estimate"] == 0.0
    assert result["methods"]["grad_cam"]["iou"]["estimate"] < 0.1


def test_the_batch_size_changes_nothing(patch_net):
    single, batched = (
        localization(patch_net, planted_cache(), range(24), LABELS, preprocess=PLAIN, batch_size=b) for b in (1, 32)
    )
    for measure_name in ("pointing_game", "energy_inside", "iou"):
        assert single["methods"]["grad_cam"][measure_name]["estimate"] == pytest.approx(
            batched["methods"]["grad_cam"][measure_name]["estimate"], abs=1e-6
        )


def test_cases_without_a_lesion_are_left_out(patch_net):
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
    cache.pixels[:12, :, 40:56, 72:88] = 0  # half of the lesions are missing from the images
    cache.pixels[:12, :, 8:24, 8:24] = 255
    order = list(range(47, -1, -1))
    by_case = localization(patch_net, cache, order, LABELS, preprocess=PLAIN)
    by_patient = localization(patch_net, cache, order, LABELS, preprocess=PLAIN, groups=[f"patient {i // 2}" for i in order])
    cases, patients = (result["methods"]["grad_cam"]["iou"] for result in (by_case, by_patient))
    assert cases["estimate"] == pytest.approx(patients["estimate"])
    assert "12 groups" in patients["method"]
    assert patients["ci_high"] - patients["ci_low"] > cases["ci_high"] - cases["ci_low"]


def test_attention_of_a_reslink_is_measured(rng):
    network = build_network(variant_config("reslink_small", num_classes=4), seed=0)
    labels = Labels(("a", "b", "c", "d"))
    result = localization(network, planted_cache(4), range(4), labels, preprocess=PLAIN)
    assert list(result["methods"]) == ["first_attention", "final_attention", "grad_cam", "center"]
    assert result["target"] == "predicted"
    assert network.training


def test_a_map_of_zeros_has_no_energy_inside():
    mask = np.zeros((96, 96), bool)
    mask[:8] = True
    hit, energy, overlap = measure(np.zeros((96, 96), np.float32), mask)
    assert (hit, energy) == (0.0, 0.0)
    assert 0 < overlap < 0.1


def test_tolerance_scales_with_the_image():
    assert (tolerance(224), tolerance(448), tolerance(64)) == (15, 30, 4)


def test_the_center_gaussian_is_centered():
    bell = center_gaussian(65)
    assert np.unravel_index(bell.argmax(), bell.shape) == (32, 32)
    np.testing.assert_allclose(bell, bell.T)
