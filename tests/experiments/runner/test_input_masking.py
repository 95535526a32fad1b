"""What is shown of an image: no pixel of the head where the head is to be hidden, and none outside where it is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from reslink.datasets.manifest import Manifest
from reslink.experiments.runner.attention_statistics import _steps, shifted_areas
from reslink.experiments.runner.experiment import Setting
from reslink.experiments.runner.input_masking import masked, open_look
from reslink.experiments.runner.run_spec import Data, Trial
from reslink.imaging.preprocess import Preprocess
from reslink.networks.area_attention import AreaAttention, AreaGate


def planes(size: int = 112) -> tuple[np.ndarray, np.ndarray]:
    heads = np.zeros((2, 56, 56), np.uint8)
    heads[0, 10:40, 12:44] = 1
    return np.full((2, 1, size, size), 200, np.uint8), heads


def test_outside_shows_nothing_of_the_head_and_its_rim() -> None:
    pixels, heads = planes()
    shown = masked(pixels, heads, "outside")
    cells = ndimage.binary_dilation(heads[0], np.ones((3, 3)))
    assert (shown[0, 0][np.kron(cells, np.ones((2, 2))) > 0] == 0).all()
    assert (shown[0, 0][np.kron(cells, np.ones((2, 2))) == 0] == 200).all()


def test_an_image_without_a_head_shows_nothing_outside_it() -> None:
    """Else the brain would be shown just where it was not found."""
    pixels, heads = planes()
    assert masked(pixels, heads, "outside")[1].max() == 0
    assert masked(pixels, heads, "inside")[1].max() == 0


def test_outline_holds_no_grey_value_of_the_image() -> None:
    pixels, heads = planes()
    shown = masked(pixels, heads, "outline")
    assert np.array_equal(shown, masked(pixels // 3, heads, "outline"))
    assert set(np.unique(shown[0])) == {0, 255}


def test_a_masked_cache_gives_batches(patients: Manifest, tmp_path: Path) -> None:
    settings = Preprocess(size=64, channels=1)
    whole, outside = (open_look(patients, settings, look, tmp_path) for look in ("whole", "outside"))
    batch = outside.batch([3, 5])
    assert batch.shape == (2, 1, 64, 64)
    assert torch.equal(batch, torch.from_numpy(masked(whole.pixels[[3, 5]], whole.heads[[3, 5]], "outside")))
    assert (batch <= whole.batch([3, 5])).all()
    assert np.array_equal(outside.pixels[3], batch[0].numpy())


def test_moving_the_areas_is_moving_the_map_under_them() -> None:
    """Oracle: the map padded by hand; and nothing stays moved afterwards."""
    torch.random.fork_rng()
    gate = AreaGate(3, 4, 8).eval()
    attention = AreaAttention(3, 4, 8).eval()
    attention.gate = gate
    features = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    padded = torch.zeros(1, 3, 12, 12)
    padded[..., 2:10, 2:10] = features
    before = attention(features)
    with shifted_areas(attention), torch.no_grad():
        moved = attention(features)
    assert torch.allclose(moved, features * gate(padded)[..., 2:10, 2:10], atol=1e-6)
    assert not torch.allclose(moved, before)
    assert torch.equal(attention(features), before)


def test_areas_of_one_pixel_have_no_half() -> None:
    network = nn.Sequential(AreaAttention(3, 1, 8)).eval()
    features = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with shifted_areas(network):
        assert torch.equal(network(features), network[0](features))


def test_steps_of_the_gates_at_borders() -> None:
    """A map that is constant in each area has steps at borders alone."""
    alpha = torch.tensor([[0.1, 0.1, 0.5, 0.5], [0.1, 0.1, 0.5, 0.5], [0.9, 0.9, 0.3, 0.3], [0.9, 0.9, 0.3, 0.3]])
    found = _steps(alpha[None, None], 2)
    assert found["step within areas"].item() == 0
    assert found["step at borders"].item() == pytest.approx((0.4 * 2 + 0.6 * 2 + 0.8 * 2 + 0.2 * 2) / 8)


def test_the_key_of_a_run_is_what_decides_its_weights(patients: Manifest, setting: Callable[..., Setting]) -> None:
    made = setting(patients)
    data = Data(patients, "digest", ("a",), made.out)
    trial = Trial("full", 0, made.changed(0), ("train", "test"))
    same = Trial("other name", 0, setting(patients, "trainer.workers=3").changed(0), ("train", "test"), attention=True)
    others = [
        Trial("full", 0, made.changed(1), ("train", "test")),
        Trial("full", 0, made.changed(0, {"model.attention": "none"}), ("train", "test")),
        Trial("full", 0, made.changed(0), ("test", "train")),
        Trial("full", 0, made.changed(0), ("train", "test"), look="outside"),
    ]
    assert same.key(data) == trial.key(data)
    assert len({trial.key(data), *(other.key(data) for other in others)}) == 5
    assert trial.key(data) != trial.key(Data(patients, "another digest", ("a",), made.out))
