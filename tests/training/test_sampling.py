"""Batches: each image once, even sizes, fair shares among processes; and one normalisation."""

from __future__ import annotations

import numpy as np
import pytest

from reslink.training.sampling import balanced_weights, plan_epoch, sampler_weights, shard


@pytest.mark.parametrize(("n", "size"), [(33, 32), (64, 32), (5, 8), (97, 16), (2, 2)])
def test_each_image_once_and_no_short_batch(n: int, size: int) -> None:
    rows = np.arange(100, 100 + n)
    batches = plan_epoch(rows, size, 0, 1)
    assert sorted(np.concatenate(batches)) == list(rows)
    lengths = [len(batch) for batch in batches]
    assert max(lengths) <= size
    assert max(lengths) - min(lengths) <= 1


def test_the_order_depends_on_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return list(np.concatenate(plan_epoch(np.arange(50), 8, seed, epoch)))

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2) != order(1, 2)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_shards_share_a_batch_and_its_loss(processes: int) -> None:
    batch = np.arange(11)
    value = np.linspace(0, 5, 11)
    shards = [shard(batch, process, processes) for process in range(processes)]
    assert sorted(np.concatenate([part.indices for part in shards])) == list(batch)
    mean_of_processes = np.mean([value[part.indices].mean() * part.share for part in shards])
    assert mean_of_processes == pytest.approx(value.mean())


def test_the_sampler_draws_each_class_equally_often() -> None:
    targets = np.array([0] * 900 + [1] * 100)
    drawn = np.concatenate(plan_epoch(np.arange(1000), 32, 0, 1, sampler_weights(targets)))
    assert len(drawn) == 1000
    assert 0.45 < targets[drawn].mean() < 0.55


def test_balanced_sources_draw_each_class_of_each_source_equally_often() -> None:
    sources = ["A"] * 900 + ["B"] * 80 + [None] * 20
    targets = np.array([0] * 850 + [1] * 50 + [0] * 10 + [1] * 70 + [1] * 20)  # the source predicts the class
    drawn = np.concatenate(plan_epoch(np.arange(1000), 32, 0, 1, balanced_weights(sources, targets)))
    strata = [f"{sources[i]} {targets[i]}" for i in drawn]
    assert {name: round(strata.count(name) / 1000, 1) for name in set(strata)} == dict.fromkeys(
        ("A 0", "A 1", "B 0", "B 1", "None 1"), 0.2
    )
