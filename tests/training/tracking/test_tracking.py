"""What is recorded, and that no tracker changes or fails a run."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reslink.datasets.manifest import Manifest
from reslink.training import trainer
from reslink.training.monitoring import diagnostics
from reslink.training.recipe.recipe import Recipe
from reslink.training.tracking import trackers
from reslink.training.tracking.tracking import Tracking, flatten
from reslink.training.trainer import train

Calls = list[tuple[Any, ...]]
METHODS = ("start", "metrics", "text", "image", "finish")
SETTINGS = {"seed": 3, "model": {"variant": "reslink_small"}}


class Planted(trackers.Tracker):
    """Keeps what it is given, and raises an error in one method."""

    records = "*"
    failing = ""
    calls: Calls = []  # noqa: RUF012  (a list of its own for each test)

    def _call(self, method: str, *args: object) -> None:
        self.calls.append((method, *args))
        if method == self.failing:
            raise OSError("No space left on device")

    def start(self, name: str, settings: Mapping[str, Any], epoch: int | None) -> None:
        self._call("start", name, dict(settings), epoch)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self._call("metrics", dict(values), step)

    def text(self, title: str, text: str, step: int) -> None:
        self._call("text", title, text, step)

    def image(self, title: str, path: Path, step: int) -> None:
        self._call("image", title, path.name, step)

    def finish(self, *, completed: bool) -> None:
        self._call("finish", completed)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> type[Planted]:
    """A tracker of its own for each test, called tensorboard."""
    tracker = type("Own", (Planted,), {"calls": []})
    monkeypatch.setattr(trackers, "_TRACKERS", {"tensorboard": tracker})
    monkeypatch.setattr(trackers, "optional_import", lambda *_: None)
    return tracker


def record(run: Path, evaluation: dict[str, Any], figures: Path, row: Callable[[int], dict[str, Any]]) -> Tracking:
    with Tracking(["tensorboard"], run) as tracking:
        tracking.start(SETTINGS, [], epoch=1)
        tracking.epoch(row(1))
        tracking.finding({"code": "gap", "message": "A gap", "advice": "Close it", "epoch": 0})
        tracking.epoch(row(2))
        tracking.evaluation(evaluation, 1)
        tracking.gallery(figures)
    return tracking


def test_every_part_of_a_run_is_recorded(
    planted: type[Planted], tmp_path: Path, evaluation: dict[str, Any], figures: Path, epoch_row: Callable[..., Any]
) -> None:
    tracking = record(tmp_path / "run", evaluation, figures, epoch_row)
    assert [(call[0], call[-1]) for call in planted.calls] == [
        ("start", 1),
        ("metrics", 1),
        ("text", 1),
        ("metrics", 2),
        ("metrics", 1),
        ("text", 2),
        ("image", 2),
        ("text", 2),
        ("finish", True),
    ]
    assert planted.calls[0][1:3] == ("reslink_small, seed 3", {"seed": 3, "model.variant": "reslink_small"})
    assert planted.calls[1][1] == {"val_auroc": 0.6, "lr": 1e-3}
    assert planted.calls[4][1] == {"test_n": 40, "test_auroc": 0.9, "test_auroc_ci_low": 0.8, "test_auroc_ci_high": 0.95}
    assert not tracking.failed


def test_each_of_several_labels_has_its_metrics(planted: type[Planted], tmp_path: Path, evaluation: dict[str, Any]) -> None:
    metric = {"estimate": 0.7, "ci_low": None, "ci_high": None, "method": "no interval", "n": 30}
    entry = {"n": 30, "n_present": 4, "n_unknown": 10}
    several = evaluation | {"by_label": {"a/b (c)": entry}, "per_class": {"a/b (c)": {"auroc": metric, "ppv": metric}}}
    with Tracking(["tensorboard"], tmp_path / "run") as tracking:
        tracking.start(SETTINGS, [], epoch=1)
        tracking.evaluation(several, 0)
    names = {"n": 30, "n_present": 4, "n_unknown": 10, "auroc": 0.7, "ppv": 0.7}
    assert planted.calls[2] == ("metrics", {f"labels/a_b _c_/test_{name}": value for name, value in names.items()}, 0)
    assert "The label a/b (c), present in 4 of 30 images:\n\n| metric |" in planted.calls[3][2]
    assert "| auroc | 0.700 | – | 30 | no interval |" in planted.calls[3][2]


def test_labels_with_similar_names_have_metrics_of_their_own(
    planted: type[Planted], tmp_path: Path, evaluation: dict[str, Any]
) -> None:
    labels, entry = ("a/b", "a_b", "A b", "a:b", "a_b-2"), {"n": 30, "n_present": 4, "n_unknown": 10}
    values = {
        label: {"auroc": {"estimate": i / 10, "ci_low": None, "ci_high": None, "method": "no interval", "n": 30}}
        for i, label in enumerate(labels)
    }
    with Tracking(["tensorboard"], tmp_path / "run") as tracking:
        tracking.start(SETTINGS, [], epoch=1)
        tracking.evaluation(evaluation | {"by_label": dict.fromkeys(labels, entry), "per_class": values}, 0)
    recorded = {key: value for call in planted.calls if call[0] == "metrics" for key, value in call[1].items()}
    assert {key: value for key, value in recorded.items() if key.endswith("_auroc") and key.startswith("labels/")} == {
        "labels/a_b/test_auroc": 0.0,
        "labels/a_b-2/test_auroc": 0.1,
        "labels/A b/test_auroc": 0.2,
        "labels/a_b-3/test_auroc": 0.3,
        "labels/a_b-2-2/test_auroc": 0.4,
    }


@pytest.mark.parametrize(("method", "lost"), [("start", 8), ("metrics", 3), ("text", 3), ("image", 1), ("finish", 1)])
def test_a_tracker_that_fails_is_named_once_and_its_lost_records_are_counted(
    planted: type[Planted],
    tmp_path: Path,
    evaluation: dict[str, Any],
    figures: Path,
    epoch_row: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    method: str,
    lost: int,
) -> None:
    planted.failing = method
    tracking = record(tmp_path / "run", evaluation, figures, epoch_row)
    assert tracking.failed == {"tensorboard": lost}
    assert caplog.messages == [
        f"The tracker tensorboard failed in {method} (OSError: No space left on device). The run continues.",
        f"The tracker tensorboard lost {lost} of its records. The run itself is not affected.",
    ]
    assert (planted.calls[-1][0] == "finish") == (method != "start")


def test_numbers_that_are_not_finite_are_left_out(planted: type[Planted], tmp_path: Path) -> None:
    with Tracking(["tensorboard"], tmp_path) as tracking:
        tracking.start(SETTINGS, [], epoch=1)
        tracking.epoch({"epoch": 1, "train_loss": math.inf, "val_loss": None, "val_auroc": math.nan, "lr": 0.1})
    assert planted.calls[1] == ("metrics", {"lr": 0.1}, 1)


@pytest.mark.parametrize(
    "finding",
    [
        diagnostics.files_left_out(["MUELLER_ANNA.png"], 5),
        diagnostics.loss_not_finite("loss", 1, 2, ["MUELLER_ANNA.png"]),
        diagnostics.label_conflicts("MUELLER_ANNA.png is Tumor and Healthy"),
    ],
)
def test_file_names_which_may_be_names_of_patients_are_not_recorded(
    planted: type[Planted], tmp_path: Path, finding: diagnostics.Finding
) -> None:
    with Tracking(["tensorboard"], tmp_path) as tracking:
        tracking.start(SETTINGS, [], epoch=1)
        tracking.finding(finding.as_row())
    assert planted.calls[1][1:3] == (f"findings/{finding.code}", f"{finding.advice}.")


def test_a_run_without_gallery_or_test_split_and_without_trackers(planted: type[Planted], tmp_path: Path) -> None:
    with Tracking(["tensorboard", "tensorboard"], tmp_path) as tracking:
        tracking.start(SETTINGS, [], epoch=1)
        tracking.evaluation({}, 1)
        tracking.gallery(tmp_path)
    assert [call[0] for call in planted.calls] == ["start", "finish"]
    with Tracking() as tracking:
        tracking.start(SETTINGS, [], epoch=1)
        tracking.epoch({"epoch": 1})
    assert tracking.names == ()


def test_nested_settings_have_dotted_names() -> None:
    assert dict(flatten({"a": 1, "b": {"c": [1], "d": {"e": None}}})) == {"a": 1, "b.c": [1], "b.d.e": None}


def run(
    toy: Manifest, recipe: Callable[..., Recipe], out: Path, cache: Path, *, resume: bool = False, names: tuple[str, ...] = ()
) -> bytes:
    """Trains, with trackers; returns the weights."""
    with Tracking(names, out) as tracking:
        result = train(toy, recipe("seed=4"), out, cache=cache, resume=resume, tracking=tracking)
    assert not tracking.failed
    return (result.bundle / "model.safetensors").read_bytes()


def test_tracking_changes_neither_weights_nor_record_and_can_be_added_later(
    toy: Manifest, recipe: Callable[..., Recipe], cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With each tracker that is installed."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def steps(out: Path) -> list[int]:
        events = EventAccumulator(str(out / "tracking" / "tensorboard"))
        events.Reload()
        return [event.step for event in events.Scalars("val_auroc")]

    plain, tracked = tmp_path / "plain", tmp_path / "tracked"
    weights = run(toy, recipe, plain, cache)
    with caplog.at_level(logging.WARNING):
        assert run(toy, recipe, tracked, cache, names=("tensorboard", "mlflow")) == weights
    assert caplog.messages == []
    for file in ("bundle/bundle.json", "config.yaml", "splits.csv"):
        assert (tracked / file).read_bytes() == (plain / file).read_bytes()
    assert steps(tracked) == [1, 2]
    assert run(toy, recipe, plain, cache, resume=True, names=("tensorboard",)) == weights
    assert steps(plain) == [1, 2]


def test_a_new_run_in_the_folder_has_new_records(
    planted: type[Planted], toy: Manifest, recipe: Callable[..., Recipe], cache: Path, tmp_path: Path
) -> None:
    run(toy, recipe, tmp_path, cache)
    (tmp_path / "tracking" / "tensorboard").mkdir(parents=True)
    (tmp_path / "tracking" / "tensorboard" / "old").touch()
    with Tracking(["tensorboard"], tmp_path) as tracking:
        train(toy, recipe("seed=4"), tmp_path, cache=cache, overwrite=True, tracking=tracking)
    assert not (tmp_path / "tracking").exists()
    assert planted.calls[0][-1] == 1
    assert [call[-1] for call in planted.calls if call[0] == "metrics"] == [1, 2]


@pytest.mark.parametrize("is_main", [True, False])
def test_only_the_first_process_records(
    planted: type[Planted],
    toy: Manifest,
    recipe: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_main: bool,
) -> None:
    accelerator = SimpleNamespace(is_main_process=is_main, num_processes=1, wait_for_everyone=lambda: None)
    monkeypatch.setattr(trainer, "make_accelerator", lambda _: accelerator)
    monkeypatch.setattr(trainer, "_run", lambda *args: args)
    arguments = trainer.train(toy, recipe(), tmp_path / "run", tracking=Tracking(["tensorboard"], tmp_path))
    [passed] = [argument for argument in arguments if isinstance(argument, Tracking)]  # type: ignore[attr-defined]
    assert passed.names == (("tensorboard",) if is_main else ())
