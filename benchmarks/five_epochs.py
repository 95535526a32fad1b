"""AUROC on held-out cases after some epochs, for any network: same images, split, order, augmentation and schedule."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from reslink.datasets.augment import Augment
from reslink.datasets.manifest import Manifest
from reslink.training import optim
from reslink.training.batches import Indices, normalise, plan_epoch, to_unit
from reslink.training.materials import Materials, open_materials
from reslink.training.progress import Silent
from reslink.training.randomness import torch_numbers
from reslink.training.recipe import Recipe

CPU = torch.device("cpu")


def materials(data: Path, cache: Path, recipe: Recipe) -> Materials:
    """Decodes a data set and splits it as ``reslink train`` would."""
    return open_materials(Manifest.open(data), recipe, cache, Silent())


def auroc(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    found: Materials,
    recipe: Recipe,
    say: Callable[[str], None] = print,
) -> tuple[float, float]:
    """Trains in bf16 and returns the AUROC of the test part, and the seconds of training.

    Args:
        network: Gives two logits.
        optimizer: Over its parameters.
        found: Images and split.
        recipe: Its seed, epochs, batch size, schedule, label smoothing, clipping, augmentation and preprocessing are used.
        say: Hears a line an epoch.
    """
    augment, start, step = Augment(recipe.augment), time.perf_counter(), 0
    average = optim.moving_average(network, recipe.trainer.ema)
    total = recipe.trainer.epochs * len(plan_epoch(found.indices("train"), recipe.trainer.batch_size, recipe.seed, 1))
    for epoch in range(1, recipe.trainer.epochs + 1):
        network.train()
        for batch in plan_epoch(found.indices("train"), recipe.trainer.batch_size, recipe.seed, epoch):
            x, _ = augment(to_unit(found.cache.batch(batch), CPU), torch_numbers(recipe.seed, "augment", epoch, step, 0))
            optim.set_learning_rate(optimizer, optim.learning_rate(step, total, recipe.optimizer))
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(normalise(x, recipe.preprocess).contiguous(memory_format=torch.channels_last))
                loss = nn.functional.cross_entropy(
                    logits.float(), torch.from_numpy(found.targets[batch]), label_smoothing=recipe.loss.label_smoothing
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), recipe.optimizer.clip_norm)
            optimizer.step()
            average.update_parameters(network)
            step += 1
        say(f"  epoch {epoch}: loss {float(loss):.3f}, {time.perf_counter() - start:.0f} s")
    seconds = time.perf_counter() - start
    test = found.indices("test")
    scores = np.concatenate([score.numpy() for score in _scores(average.module.eval(), found, test, recipe)])
    return float(roc_auc_score(found.targets[test], scores)), seconds


def _scores(network: nn.Module, found: Materials, rows: Indices, recipe: Recipe) -> Iterator[torch.Tensor]:
    for part in np.array_split(rows, -(-len(rows) // 32)):
        x = normalise(to_unit(found.cache.batch(part), CPU), recipe.preprocess)
        with torch.inference_mode():
            yield network(x.contiguous(memory_format=torch.channels_last)).diff(dim=1)[:, 0]
