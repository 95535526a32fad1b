"""``reslink.tune``: options that are refused, before images are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import reslink
from reslink.datasets.manifest import Manifest
from reslink.errors import UsageError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"Neither trials=… nor minutes=… was given.*Use trials='20', or minutes='60'"),
        ({"trials": 3, "minutes": 2.0}, r"trials=… and minutes=… were both given"),
        ({"trials": 3, "space": {"optimizer.lrr": [1, 2]}}, r"unknown key 'optimizer.lrr'.*Did you mean 'optimizer.lr'"),
        ({"trials": 3, "preset": "goood"}, r"There is no preset 'goood'.*Did you mean 'good'"),
        ({"trials": 3, "settings": {"data.folds": 4}}, r"The recipe has data.folds 4"),
        ({"trials": 3, "network": "resnet19"}, r"There is no network variant 'resnet19'"),
    ],
)
def test_options_are_refused_before_the_data_is_read(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        reslink.tune(tmp_path / "missing", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_an_output_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UsageError, match=r"is a file"):
        reslink.tune(tmp_path / "missing", tmp_path / "out", trials=1)


def test_the_parts_reach_the_search(toy_patients: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("reslink.experiments.tune.tune.tune", lambda *arguments: seen.extend(arguments) or {"done": True})
    settings = {"seed": 2, "optimizer.name": "adamw"}
    result = reslink.tune(
        toy_patients, tmp_path / "out", minutes=5, preset="good", settings=settings, seed=3, jobs=2, holdout=0.3
    )
    experiment, options = seen
    assert result == {"done": True}
    assert (experiment.seeds, experiment.jobs, experiment.recipe.optimizer.name) == ((3,), 2, "adamw")
    assert (options.minutes, options.trials, options.holdout) == (5, None, 0.3)
    assert "loss.mixup" in options.space.dimensions


def test_without_optuna_the_extra_is_named(toy_patients: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(UsageError, match=r"The package 'optuna' is not installed. It belongs to the extra 'tune'"):
        reslink.tune(toy_patients, tmp_path / "out", trials=1)
