"""Batches of training and of evaluation, compared with the pixels in the cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.manifest import Manifest
from reslink.imaging.preprocess import Preprocess
from reslink.training.batch_loader import BatchLoader, normalize, to_unit
from reslink.training.data import TrainingData
from reslink.training.losses import Criterion
from reslink.training.recipe.recipe import Recipe
from reslink.training.sampling import Shard

ROWS = np.array([3, 30, 7, 41])


@pytest.fixture
def make_loader(marked: Manifest, recipe: Callable[..., Recipe], cache: Path) -> Callable[..., BatchLoader]:
    def make(*sets: str, process: int = 0) -> BatchLoader:
        made = recipe("loss.label_smoothing=0", *sets)
        pixels = PixelCache.open(marked, made.preprocess, cache, workers=0)
        names = [case.name for case in pixels.manifest.cases]
        data = TrainingData(pixels.manifest, pixels, pixels.targets, names, ["train"] * len(names), "0", names)
        return BatchLoader(made, data, Criterion(made.loss, pixels.targets, 2), torch.device("cpu"), process)

    return make


def test_evaluation_batches_are_those_of_prediction(make_loader: Callable[..., BatchLoader]) -> None:
    loader = make_loader()
    cache = loader.training_data.cache
    expected = loader.recipe.preprocess.normalize(np.asarray(cache.pixels[ROWS]))
    np.testing.assert_allclose(loader.eval_batch(ROWS).numpy(), expected, rtol=1e-5, atol=1e-6)
    assert loader.head_masks(ROWS).shape == (4, 1, 56, 56)


def test_without_augmentation_a_training_batch_is_an_evaluation_batch(make_loader: Callable[..., BatchLoader]) -> None:
    loader = make_loader("augment.enabled=false")
    batch = loader.training_batch(Shard(ROWS, 0.5), 1, 0)
    assert torch.equal(batch.x, loader.eval_batch(ROWS))
    assert batch.targets.argmax(dim=1).tolist() == loader.training_data.targets[ROWS].tolist()
    assert (batch.mask, batch.share) == (None, 0.5)


def test_augmentation_depends_on_epoch_step_and_process(make_loader: Callable[..., BatchLoader]) -> None:
    loader, shard = make_loader(), Shard(ROWS, 1.0)
    first = loader.training_batch(shard, 1, 0).x
    assert torch.equal(loader.training_batch(shard, 1, 0).x, first)
    others = [loader.training_batch(shard, 2, 0).x, loader.training_batch(shard, 1, 1).x]
    others.append(make_loader(process=1).training_batch(shard, 1, 0).x)
    assert not any(torch.equal(other, first) for other in others)


@pytest.mark.parametrize("target", ["head", "lesion"])
def test_the_target_of_the_attention(make_loader: Callable[..., BatchLoader], target: str) -> None:
    loader = make_loader("augment.enabled=false", "attention_supervision.weight=1", f"attention_supervision.target={target}")
    mask = loader.training_batch(Shard(ROWS, 1.0), 1, 0).mask
    assert mask.shape == (4, 1, 64, 64)
    lesions = loader.training_data.cache.batch_masks(ROWS).float()
    has_lesion = lesions.amax(dim=(1, 2, 3)) > 0
    assert has_lesion.tolist() == [False, True, False, True]
    assert torch.equal(mask[has_lesion], lesions[has_lesion]) == (target == "lesion")
    assert (mask[~has_lesion].mean(dim=(1, 2, 3)) > 0.2).all(), "the head, if no lesion is marked"


@pytest.mark.parametrize("settings", [Preprocess(), Preprocess(channels=1), Preprocess(window="three", mean=0.1)])
def test_the_device_normalizes_as_numpy_does(settings: Preprocess, rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (3, settings.planes, 8, 8), dtype=np.uint8)
    found = normalize(to_unit(torch.from_numpy(pixels), torch.device("cpu")), settings)
    np.testing.assert_allclose(found.numpy(), settings.normalize(pixels), rtol=1e-5, atol=1e-6)
