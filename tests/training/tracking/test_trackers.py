"""The trackers: what they write is read back by their own packages."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reslink.cli.offline import block_network
from reslink.errors import UsageError
from reslink.training.tracking import trackers
from reslink.training.tracking.tracking import Tracking

Row = Callable[[int], dict[str, Any]]
SETTINGS = {"seed": 3, "model": {"variant": "reslink_small", "dims": [8, 16], "attention": None}, "images": {"train": 20}}
FINDING = {"code": "train-validation-gap", "message": "Accuracy is 1.000 and 0.500", "advice": "Use mixup", "epoch": 2}


def record(name: str, run: Path, figures: Path, evaluation: dict[str, Any], row: Row) -> None:
    """Records a run of three epochs that is killed after the second, which it then repeats."""
    with contextlib.suppress(KeyboardInterrupt), Tracking([name], run) as tracking:
        tracking.start(SETTINGS, [], epoch=1)
        tracking.epoch(row(1))
        tracking.epoch(row(2) | {"val_auroc": 0.1})
        raise KeyboardInterrupt
    with Tracking([name], run) as tracking:
        tracking.start(SETTINGS, [row(1)], epoch=2)
        tracking.epoch(row(2))
        tracking.finding(FINDING)
        tracking.epoch(row(3))
        tracking.evaluation(evaluation, 2)
        tracking.gallery(figures)
    assert not tracking.failed


@pytest.fixture
def offline() -> Iterator[None]:
    """Every connection and name lookup of this process is refused."""
    block_network(True)
    yield
    block_network(False)


def check_privacy(run: Path, *names: str) -> None:
    """No file below a run, and no name of one, holds the path of the run or the name of the host."""
    for path in run.rglob("*"):
        assert f".{socket.gethostname()}." not in path.name
        content = path.read_bytes() if path.is_file() else b""
        for name in (str(run), *names):
            assert name.encode() not in content, path


def test_tensorboard(tmp_path: Path, figures: Path, evaluation: dict[str, Any], epoch_row: Row, offline: None) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    record("tensorboard", run, figures, evaluation, epoch_row)
    events = EventAccumulator(str(run / "tracking" / "tensorboard"))
    events.Reload()
    assert [(event.step, round(event.value, 5)) for event in events.Scalars("val_auroc")] == [(1, 0.6), (2, 0.7), (3, 0.8)]
    assert [event.step for event in events.Scalars("lr")] == [1, 2, 3]
    assert "val_loss" not in events.Tags()["scalars"]
    ends = [events.Scalars(f"test_auroc{end}")[0].value for end in ("", "_ci_low", "_ci_high")]
    assert ends == pytest.approx([0.9, 0.8, 0.95])
    assert [(event.step, event.value) for event in events.Scalars("test_n")] == [(2, 40)]
    assert "test_ppv" not in events.Tags()["scalars"]
    text = events.Tensors("findings/train-validation-gap/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text == "Accuracy is 1.000 and 0.500. Use mixup."
    table = events.Tensors("evaluation/test/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| auroc | 0.900 | 0.800 to 0.950 | 40 | bootstrap |" in table
    image = events.Images("gallery/gallery_01")[0]
    assert (image.height, image.width) == (4, 6)
    assert "| gallery_01 | Tumor | Healthy | 0.912 |" in (
        events.Tensors("gallery/cases/text_summary")[0].tensor_proto.string_val[0].decode()
    )
    [settings] = (run / "tracking" / "tensorboard").glob("*/hparams.yml")
    assert "model.dims: '[8, 16]'" in settings.read_text()
    check_privacy(run)


def test_mlflow(
    tmp_path: Path,
    figures: Path,
    evaluation: dict[str, Any],
    epoch_row: Row,
    offline: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mlflow = pytest.importorskip("mlflow")
    run = tmp_path / "run"
    record("mlflow", run, figures, evaluation, epoch_row)
    assert not mlflow.is_tracking_uri_set()  # as before
    assert mlflow.active_run() is None
    store = (tmp_path / "run" / "tracking" / "mlflow").rename(tmp_path / "moved")
    monkeypatch.chdir(store)
    client = mlflow.MlflowClient(str(store))
    [found] = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert (found.info.status, found.info.run_name) == ("FINISHED", "reslink_small, seed 3")
    history = [(point.step, point.value) for point in client.get_metric_history(found.info.run_id, "val_auroc")]
    assert history == [(1, 0.6), (2, 0.1), (2, 0.7), (3, 0.8)]
    metrics = found.data.metrics
    assert [metrics[f"test_auroc{end}"] for end in ("", "_ci_low", "_ci_high")] == [0.9, 0.8, 0.95]
    assert found.data.params == {
        "seed": "3",
        "model.variant": "reslink_small",
        "model.dims": "[8, 16]",
        "model.attention": "None",
        "images.train": "20",
    }
    artifacts = Path(client.download_artifacts(found.info.run_id, ""))
    assert (artifacts / "gallery" / "gallery_01.png").read_bytes() == (figures / "gallery_01.png").read_bytes()
    assert (artifacts / "findings" / "train-validation-gap.md").read_text() == "Accuracy is 1.000 and 0.500. Use mixup."
    assert "| auroc | 0.900 | 0.800 to 0.950 | 40 | bootstrap |" in (artifacts / "evaluation" / "test.md").read_text()
    assert {found.data.tags[f"mlflow.{name}"] for name in ("user", "source.name")} == {"reslink"}
    check_privacy(store, str(run), str(Path.home()))


def test_mlflow_marks_a_run_that_was_stopped_and_leaves_a_run_of_the_caller_alone(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    with contextlib.suppress(KeyboardInterrupt), Tracking(["mlflow"], tmp_path / "run") as tracking:
        tracking.start(SETTINGS, [], epoch=1)
        raise KeyboardInterrupt
    client = mlflow.MlflowClient(str(tmp_path / "run" / "tracking" / "mlflow"))
    [found] = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert found.info.status == "KILLED"
    mlflow.set_tracking_uri((tmp_path / "mine").as_uri())
    try:
        with mlflow.start_run() as mine:
            with Tracking(["mlflow"], tmp_path / "second") as tracking:
                tracking.start(SETTINGS, [], epoch=1)
            assert tracking.failed == {"mlflow": 1}
            assert mlflow.active_run().info.run_id == mine.info.run_id
            assert mlflow.get_tracking_uri() == (tmp_path / "mine").as_uri()
    finally:
        mlflow.set_tracking_uri(None)


def wandb_records(path: Path) -> Iterator[Any]:
    """Yields the records of a file of wandb: a log in the format of LevelDB, of messages of protobuf."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, buffer = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        chunk = data[position + 7 : position + 7 + length]
        position += 7 + length
        buffer = chunk if kind in (1, 2) else buffer + chunk
        if kind in (1, 4):
            yield Record.FromString(buffer)


def test_wandb(tmp_path: Path, figures: Path, evaluation: dict[str, Any], epoch_row: Row) -> None:
    pytest.importorskip("wandb")
    run = tmp_path / "run"
    record("wandb", run, figures, evaluation, epoch_row)
    files = sorted((run / "tracking" / "wandb" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2
    assert len({path.name for path in files}) == 1  # the same run
    first, second = (list(wandb_records(path)) for path in files)
    history = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in message.history.item}
        for message in second
        if message.WhichOneof("record_type") == "history"
    ]
    assert [(line["_step"], line["val_auroc"]) for line in history] == [(2, 0.7), (3, 0.8)]
    assert history[0]["findings/train-validation-gap"] == "Accuracy is 1.000 and 0.500. Use mixup."
    assert [history[1][f"test_auroc{end}"] for end in ("", "_ci_low", "_ci_high")] == [0.9, 0.8, 0.95]
    configs = {item.key or item.nested_key[0]: item.value_json for message in first for item in message.config.update}
    assert json.loads(configs["model.dims"]) == [8, 16]
    codes = [[m.exit.exit_code for m in part if m.WhichOneof("record_type") == "exit"] for part in (first, second)]
    assert codes == [[1], [0]]
    assert len(list(files[1].parent.rglob("*.png"))) == 1
    assert not (Path(os.environ["XDG_CACHE_HOME"]) / "wandb").exists()
    check_privacy(run)


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_records_start_with_the_epochs_before_tracking(tmp_path: Path, name: str, epoch_row: Row) -> None:
    """A run that was begun without a tracker, and a finished one."""
    pytest.importorskip(name)
    calls: list[tuple[str, int]] = []
    with Tracking([name], tmp_path) as tracking:
        metrics = type(tracking._trackers[name]).metrics
        tracking._trackers[name].metrics = lambda values, step: (  # type: ignore[method-assign]
            calls.append(("metrics", step)),
            metrics(tracking._trackers[name], values, step),
        )
        tracking.start(SETTINGS, [epoch_row(1), epoch_row(2)], epoch=None)
    assert calls == [("metrics", 1), ("metrics", 2)]
    assert not tracking.failed


def test_an_unknown_tracker_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"tensorbord.*tensorboard, mlflow, wandb.*Did you mean 'tensorboard'\?"):
        Tracking(["tensorbord"], tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_a_missing_package_names_the_command(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str) -> None:
        raise ImportError(module)

    monkeypatch.setattr("reslink.files.importlib.import_module", missing)
    with pytest.raises(UsageError, match=rf"The package '{name}' is not installed.*extra '{name}'.*pip install \"{name}"):
        trackers.make_tracker(name, tmp_path)


def test_telemetry_of_mlflow_is_off() -> None:
    pytest.importorskip("mlflow")
    from mlflow.telemetry import get_telemetry_client
    from mlflow.telemetry.utils import is_telemetry_disabled

    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert is_telemetry_disabled()
    assert get_telemetry_client() is None
