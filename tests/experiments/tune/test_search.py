"""The search itself: what it trains, stops, repeats and resumes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reslink.errors import TrainingError, UsageError
from reslink.experiments.tune.candidates import candidate
from reslink.experiments.tune.search import STARTUP_TRIALS
from reslink.files import is_locked, lock_folder

Journal = Callable[[], list[dict[str, Any]]]


def states(result: dict[str, Any]) -> list[str]:
    return [row["state"] for row in result["runs"]]


def test_the_first_trial_is_the_base_recipe_and_no_recipe_comes_twice(search: Any, training: Any) -> None:
    result = search(trials=8)
    first = result["runs"][0]
    assert (first["base"], first["optimizer.lr"], first["model.drop_rate"]) == (True, 0.002, 0.05)
    assert not any(row["base"] for row in result["runs"][1:])
    digests = [row["digest"] for row in result["runs"]]
    assert len(set(digests)) == len(digests) == 8
    assert len(set(training.keys)) == len(training.keys)


def test_equal_suggestions_are_sampled_again_until_the_space_is_exhausted(search: Any, training: Any) -> None:
    """Two rates, of which momentum has no effect: with the base recipe there are three trainings, not five or more."""
    result = search(space={"optimizer.lr": [1e-3, 5e-3], "optimizer.momentum": [0.5, 0.7]}, trials=50, folds=3)
    assert [row["optimizer.lr"] for row in result["runs"]] == [
        0.002,
        *sorted({1e-3, 5e-3}, key=[row["optimizer.lr"] for row in result["runs"]].index),
    ]
    assert result["exhausted"]
    assert result["duplicates"] > 50
    assert any("equal to an earlier trial" in sentence for sentence in result["not_done"])
    assert any("ended early" in sentence for sentence in result["not_done"])
    assert len({name for name in training.runs if name.startswith("trial")}) <= 3 * 3
    assert len(set(training.keys)) == len(training.keys)


def test_a_worse_trial_is_stopped_after_three_folds(search: Any, training: Any) -> None:
    result = search("optimizer.lr=0.003", trials=6, folds=5)
    stopped = [row for row in result["runs"] if row["state"] == "stopped"]
    assert stopped
    for row in stopped:
        assert row["fold_5"] is None
        assert row["fold_3"] is not None
        assert all(row[f"fold_{k}"] < result["runs"][0][f"fold_{k}"] for k in (1, 2, 3) if row["fold_4"] is None)
        runs = [name for name in training.runs if name.startswith(f"trial {row['trial']},")]
        assert len(runs) == sum(row[f"fold_{k}"] is not None for k in range(1, 6))


def test_a_trial_that_diverges_is_counted_and_the_search_goes_on(search: Any, training: Any) -> None:
    training.diverges = 0.01
    result = search(trials=8)
    diverged = [row for row in result["runs"] if row["state"] == "diverged"]
    assert 0 < len(diverged) < 7
    assert "fold 1: The loss is not finite at step 3" in diverged[0]["failure"]
    assert len(result["runs"]) == 8
    assert result["failed"] == []
    assert any(sentence.startswith(f"{len(diverged)} trial") and "diverged" in sentence for sentence in result["not_done"])


def test_a_run_that_fails_fails_its_trial_only(search: Any, training: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(trial: Any, *others: Any) -> None:
        if trial.condition == "trial 2, fold 2":
            raise TrainingError("The disk is on fire", "It is not", "Put it out")
        training.run(trial, *others)

    monkeypatch.setattr("reslink.experiments.runner.run_trial.run_trial", run)
    result = search()
    assert states(result)[2] == "failed"
    assert result["failed"] == [{"run": "trial 2", "reason": "fold 2: The disk is on fire. It is not. Put it out."}]
    assert result["counts"]["failed"] == 1
    assert len(result["runs"]) == 6


def test_values_that_do_not_fit_together_fail_their_trial(search: Any, training: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(base: Any, values: dict[str, Any], num_classes: int) -> Any:
        if values.get("model.drop_rate") == 0.2:
            raise UsageError("A drop rate of 0.2 with this rate", "They fit together", "Change one")
        return candidate(base, values, num_classes)

    monkeypatch.setattr("reslink.experiments.tune.search.candidate", refuse)
    result = search(trials=5, folds=3)
    failed = [row for row in result["runs"] if row["state"] == "failed"]
    assert failed
    assert all(row["failure"].startswith("A drop rate of 0.2 with this rate.") for row in failed)
    assert {row["model.drop_rate"] for row in failed} == {0.2}
    assert len(result["runs"]) == 5
    assert len(result["failed"]) == len(failed)


@pytest.mark.parametrize("stop_at", ["trial 0, fold 1", "trial 2, fold 3", "trial 5, fold 3"])
def test_an_interrupted_search_ends_like_one_that_was_not(stop_at: str, search: Any, training: Any, tmp_path: Path) -> None:
    whole = search(out="whole")
    training.runs.clear()
    training.stop_at = stop_at
    with pytest.raises(KeyboardInterrupt):
        search()
    training.stop_at = None
    assert not any(is_locked(folder) for folder in (tmp_path / "tuned" / "locks").iterdir())
    before = list(training.runs)
    result = search()
    assert len(set(training.runs)) == len(training.runs), "a fold was trained twice"
    assert training.runs[: len(before)] == before
    keys = ("trial", "state", "auroc", "digest", "optimizer.lr", "model.drop_rate")
    assert [[row[key] for key in keys] for row in result["runs"]] == [[row[key] for key in keys] for row in whole["runs"]]


def test_a_finished_search_trains_nothing_and_goes_on_with_more_trials(search: Any, training: Any) -> None:
    first = search(trials=3)
    runs = list(training.runs)
    assert search(trials=3)["runs"] == first["runs"]
    assert training.runs == runs
    more = search(trials=5)
    assert [row["digest"] for row in more["runs"][:3]] == [row["digest"] for row in first["runs"]]
    assert len(more["runs"]) == 5


def test_the_time_is_over_before_a_further_trial_begins(search: Any, training: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("reslink.experiments.tune.search.monotonic", lambda: clock[0])

    def run(*arguments: Any) -> None:
        clock[0] += 10
        training.run(*arguments)

    monkeypatch.setattr("reslink.experiments.runner.run_trial.run_trial", run)
    result = search(trials=None, minutes=2, folds=4)
    begun = [i for i, name in enumerate(training.runs) if name.endswith("fold 1")]
    assert 10 * begun[-1] <= 120 < 10 * (len([name for name in training.runs if name.startswith("trial")]) + 1)
    assert "unfinished" not in states(result)


def test_a_trial_of_a_living_process_is_left_alone(search: Any, training: Any, tmp_path: Path) -> None:
    """The lock of an interrupted trial is held elsewhere: the search trains the others, and waits for that one at the end."""
    training.stop_at = "trial 1, fold 2"
    with pytest.raises(KeyboardInterrupt):
        search()
    training.stop_at = None
    waited: list[Path] = []

    class Stop(Exception):
        pass

    def wait(folder: Path, **options: Any) -> Any:
        if options.get("wait") and folder.name.startswith("trial-"):
            waited.append(folder)
            raise Stop
        return lock_folder(folder, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reslink.experiments.tune.tune.lock_folder", wait)
        with lock_folder(tmp_path / "tuned" / "locks" / "trial-1"), pytest.raises(Stop):
            search()
    assert [folder.name for folder in waited] == ["trial-1"]
    assert "trial 1, fold 2" not in training.runs
    assert "trial 5, fold 1" in training.runs
    assert states(search()).count("unfinished") == 0
    assert "trial 1, fold 2" in training.runs


def test_the_sampler_learns(search: Any, training: Any) -> None:
    """After the first random trials, most suggestions are near the best rate."""
    rates = [row["optimizer.lr"] for row in search(trials=24, folds=3)["runs"]]
    near = [3e-4 < rate < 3e-2 for rate in rates[STARTUP_TRIALS + 3 :]]
    assert sum(near) > 0.6 * len(near)


def test_equal_weights_of_different_settings_are_said(search: Any, training: Any) -> None:
    training.equal_weights = True
    result = search(trials=3)
    assert [row["same_weights_as"] for row in result["runs"]] == [None, 0, 0]
    assert any("1 as 0, 2 as 0" in sentence for sentence in result["not_done"])
