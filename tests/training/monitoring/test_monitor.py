"""The diagnostics of whole runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from reslink.datasets.manifest import Manifest
from reslink.labels import Labels
from reslink.training.monitoring.monitor import Monitor
from reslink.training.recipe.recipe import Recipe, load_recipe
from reslink.training.trainer import train


def test_a_run_with_a_wild_learning_rate_is_reported(
    toy: object, recipe: Callable[..., Recipe], tmp_path: object, cache: object, listener: object
) -> None:
    wild = recipe(
        "model.variant=reslink_small",  # has no normalization after its sums
        "optimizer.name=sgd",
        "optimizer.lr=20",
        "optimizer.schedule=constant",
        "trainer.epochs=4",
        "optimizer.warmup=0.5",
        "optimizer.clip_norm=0",
        "optimizer.weight_decay=0",
    )
    result = train(toy, wild, tmp_path / "run", cache=cache, progress=listener)
    assert "learning-rate-diverges" in {finding.code for finding in result.findings}
    assert any(text.startswith("learning-rate-diverges: The loss rose from") for text in listener.messages)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert '"kind": "finding", "code": "learning-rate-diverges"' in lines


def test_small_batches_are_reported(toy: object, recipe: Callable[..., Recipe], tmp_path: object, cache: object) -> None:
    result = train(toy, recipe("trainer.batch_size=2", "trainer.epochs=1"), tmp_path / "run", cache=cache)
    findings = {finding.code: finding for finding in result.findings}
    assert "2 images per step" in findings["unstable-batch-statistics"].message
    silent = recipe("trainer.batch_size=2", "trainer.epochs=1", "diagnostics.enabled=false")
    assert train(toy, silent, tmp_path / "silent", cache=cache).findings == ()


def test_a_run_that_learns_nothing_is_reported(
    toy: object, recipe: Callable[..., Recipe], tmp_path: object, cache: object, listener: object
) -> None:
    """With a learning rate of almost 0 the network stays at its initial weights."""
    stuck = recipe("optimizer.lr=1e-9", "trainer.epochs=1", "data.fractions=[0.4, 0.5, 0.1]")
    result = train(toy, stuck, tmp_path / "run", cache=cache, progress=listener)
    codes = {finding.code for finding in result.findings}
    assert codes & {"no-better-than-chance", "class-never-predicted"}
    assert not any("better than chance" in message for message in listener.messages)  # the caller prints or counts them
    lines = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert all(f'"kind": "finding", "code": "{code}"' in lines for code in codes)


@pytest.mark.parametrize("seed", range(5))
def test_healthy_runs_are_silent(
    seed: int, toy: object, recipe: Callable[..., Recipe], tmp_path: object, cache: object, listener: object
) -> None:
    averaged = ("trainer.ema=0.998", "optimizer.schedule=cosine") if seed % 2 else ()
    made = recipe(f"seed={seed}", "trainer.epochs=12", *averaged)
    result = train(toy, made, tmp_path / "run", cache=cache, progress=listener)
    assert result.findings == ()
    assert listener.messages[0].startswith("Images: train ")
    assert [message for message in listener.messages[1:] if not message.startswith("Epoch ")] == []


@pytest.mark.parametrize("conflicts", [None, "2 of 9 images have a copy or near duplicate with another label: a and b"])
def test_accepted_label_conflicts_are_reported(conflicts: str | None) -> None:
    data = SimpleNamespace(
        label_conflicts=conflicts,
        seen_by_ancestors={},
        cache=SimpleNamespace(manifest=Manifest((), Labels(("a", "b")), Path()), failed={}, case_stated=()),
        indices=lambda _split: [],
    )
    learner = SimpleNamespace(recipe=load_recipe(None, ["diagnostics.enabled=false"]))
    findings = Monitor(learner, SimpleNamespace(training_data=data), batch_size=8).before_training()
    assert [(finding.code, finding.message) for finding in findings] == ([("label-conflicts", conflicts)] if conflicts else [])


def test_several_labels_have_one_finding_of_each_kind() -> None:
    states = np.array([[1, 0, 1]] * 6 + [[0, 1, -1]] * 6 + [[0, 1, 0]] * 6)
    names, n = ("a", "b", "c"), len(states)
    data = SimpleNamespace(
        targets=states,
        joined_groups=[str(i) for i in range(n)],
        manifest=SimpleNamespace(labels=Labels(names, exclusive=False)),
        indices=lambda _split: np.arange(n),
    )
    learner = SimpleNamespace(recipe=load_recipe(None, ["init.parent=null"]), criterion=SimpleNamespace(num_classes=3))
    probabilities = np.column_stack([np.full(n, 0.1), states[:, 1] * 0.8 + 0.1, np.full(n, 0.9)])  # only b is learned
    decision = SimpleNamespace(probabilities=lambda _logits: probabilities, predict=lambda p: (p > 0.5).astype(np.int64))
    monitor = Monitor(learner, SimpleNamespace(training_data=data), batch_size=8)
    chance, never = monitor.after_training(torch.zeros(n, 3), decision, epoch=2)
    assert (chance.code, never.code) == ("no-better-than-chance", "class-never-predicted")
    assert chance.message.startswith("For 2 of 3 labels the model is not shown to be better than chance")
    assert chance.message.endswith("is not above 0.5 for a, c")
    assert never.message.endswith("a (6 images), not c (6 images)")
