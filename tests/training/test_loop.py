"""A run that was stopped ends with the same bits as one that was not: kill, Ctrl-C, full disk, damaged checkpoint."""

from __future__ import annotations

import csv
import json
import multiprocessing
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from reslink.bundles.bundle import Bundle
from reslink.datasets.manifest import Manifest
from reslink.errors import StorageError, TrainingError, UsageError
from reslink.files import lock_folder, sha256
from reslink.training import loop as run_module
from reslink.training.optim.build import learning_rate
from reslink.training.recipe.recipe import Recipe, load_recipe
from reslink.training.signals import Interrupted
from reslink.training.step import Learner
from reslink.training.trainer import train
from reslink.training.validation import ValidationResult

# Everything that a run carries from step to step: average, mixup, dropout, momentum, early stopping, checkpoints within epochs.
CARRIED = ("trainer.ema=0.9", "loss.mixup=0.2", "trainer.checkpoint_steps=2", "trainer.epochs=4", "trainer.early_stopping=3")


def fingerprint(run: Path) -> dict[str, Any]:
    """What must be the same: weights, bundle, records but for times."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timeless = [{key: value for key, value in row.items() if key not in _TIMES} for row in rows]
    results = [line.split(",") for line in (run / "results.csv").read_text().splitlines()]
    return {
        "weights": sha256(run / "bundle" / "model.safetensors"),
        "bundle": sha256(run / "bundle" / "bundle.json"),
        "metrics": timeless,
        "epochs": [line[0] for line in results],
        "splits": sha256(run / "splits.csv"),
    }


_TIMES = ("seconds", "images_per_second", "data_wait_share")


@pytest.fixture(scope="module")
def whole(
    toy: Manifest, recipe: Callable[..., Recipe], cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Recipe, Path]:
    """A run that nobody stopped: its recipe and its folder."""
    made, folder = recipe(*CARRIED), tmp_path_factory.mktemp("whole") / "run"
    train(toy, made, folder, cache=cache)
    return made, folder


@pytest.fixture(scope="module")
def server() -> Any:
    """Starts processes that have torch loaded already, on one thread as here, for the same bits."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["reslink.training.trainer", "accelerate"])
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("OMP_NUM_THREADS", "1")
        context.Process(target=int).start()  # the server takes its environment when it starts
    return context


def newest(run: Path) -> str:
    """The name of the newest checkpoint, empty before the first."""
    return max((path.name for path in (run / "checkpoints").glob("0*-step-*")), default="")


@pytest.mark.slow
def test_four_kills_at_random_moments(
    whole: tuple[Recipe, Path], server: Any, toy: Manifest, cache: Path, tmp_path: Path
) -> None:
    recipe, folder = whole
    moments = random.Random(2)
    kills = 0
    for _ in range(40):
        process = server.Process(target=train, args=(toy, recipe, tmp_path / "run"), kwargs={"resume": True, "cache": cache})
        before = newest(tmp_path / "run")
        process.start()
        while kills < 4 and process.is_alive() and newest(tmp_path / "run") == before:
            time.sleep(0.005)
        process.join(moments.uniform(0, 0.05) if kills < 4 else None)
        if process.is_alive():
            process.kill()
            process.join()
            kills += 1
        elif process.exitcode == 0:
            break
    assert kills >= 3
    assert fingerprint(tmp_path / "run") == fingerprint(folder)
    left = [path.name for path in (tmp_path / "run").rglob("*") if ".part" in path.name]
    assert left == []


def test_two_runs_are_equal_to_the_byte(whole: tuple[Recipe, Path], toy: Manifest, cache: Path, tmp_path: Path) -> None:
    recipe, folder = whole
    train(toy, recipe, tmp_path / "other place" / "run", cache=cache)
    assert fingerprint(tmp_path / "other place" / "run") == fingerprint(folder)


class StopAt:
    """Asks for a stop at a step, as Ctrl-C does."""

    def __init__(self, step: int, number: signal.Signals) -> None:
        self.left, self.number = step, number

    def start(self, total_steps: int, label: str, noun: str = "step") -> None: ...

    def step(self, n: int = 1, **values: float) -> None:  # noqa: ARG002
        self.left -= 1 if values else 0
        if values and self.left == 0:
            signal.raise_signal(self.number)

    def message(self, text: str) -> None: ...

    def end(self) -> None: ...


@pytest.mark.parametrize(("step", "number"), [(3, signal.SIGINT), (5, signal.SIGTERM), (9, signal.SIGINT)])
def test_a_signal_saves_and_says_how_to_resume(
    whole: tuple[Recipe, Path], toy: Manifest, cache: Path, tmp_path: Path, step: int, number: signal.Signals
) -> None:
    recipe, folder = whole
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=r"stopped in epoch \d after step \d+.*state is saved.*--resume"):
        train(toy, recipe, tmp_path / "run", cache=cache, progress=StopAt(step, number))
    assert signal.getsignal(number) is before
    train(toy, recipe, tmp_path / "run", cache=cache, resume=True)
    assert fingerprint(tmp_path / "run") == fingerprint(folder)


def test_a_second_ctrl_c_ends_immediately(
    whole: tuple[Recipe, Path], toy: Manifest, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed_twice(*_args: Any, **_kwargs: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Learner, "step", pressed_twice)
    with pytest.raises(Interrupted, match=r"stopped immediately.*--resume"):
        train(toy, whole[0], tmp_path / "run", cache=cache)


def test_a_run_resumes_after_a_full_disk(whole: tuple[Recipe, Path], toy: Manifest, cache: Path, tmp_path: Path) -> None:
    recipe, folder = whole
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    class Fill(StopAt):
        def step(self, n: int = 1, **values: float) -> None:  # noqa: ARG002
            self.left -= 1 if values else 0
            if values and self.left == 0:
                resource.setrlimit(resource.RLIMIT_FSIZE, (6000, limits[1]))

    try:
        with pytest.raises(StorageError, match=r"checkpoint .* could not be written: File too large.*intact.*--resume"):
            train(toy, recipe, tmp_path / "run", cache=cache, progress=Fill(4, signal.SIGINT))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    train(toy, recipe, tmp_path / "run", cache=cache, resume=True)
    assert fingerprint(tmp_path / "run") == fingerprint(folder)


def test_a_damaged_checkpoint_costs_only_the_steps_since_the_one_before(
    whole: tuple[Recipe, Path], toy: Manifest, cache: Path, tmp_path: Path, listener: Any
) -> None:
    recipe, folder = whole
    with pytest.raises(Interrupted):
        train(toy, recipe, tmp_path / "run", cache=cache, progress=StopAt(7, signal.SIGINT))
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    (newest / "network.safetensors").write_bytes(b"")
    train(toy, recipe, tmp_path / "run", cache=cache, resume=True, progress=listener)
    assert f"The checkpoint {newest.name} is damaged" in listener.messages[0]
    assert listener.messages[1].startswith("Resuming in epoch")
    assert fingerprint(tmp_path / "run") == fingerprint(folder)


def test_a_checkpoint_of_another_network_is_refused(
    whole: tuple[Recipe, Path], toy: Manifest, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Interrupted):
        train(toy, whole[0], tmp_path / "run", cache=cache, progress=StopAt(3, signal.SIGINT))
    restore = Learner.restore

    def renamed(self: Learner, found: Any) -> None:
        restore(self, found | {"network": {f"old.{name}": value for name, value in found["network"].items()}})

    monkeypatch.setattr(Learner, "restore", renamed)
    with pytest.raises(TrainingError, match=r"another network.*the reslink version that wrote.*--overwrite"):
        train(toy, whole[0], tmp_path / "run", cache=cache, resume=True)


def test_resume_without_a_run_starts_one_and_with_a_finished_one_does_nothing(
    toy: Manifest, recipe: Callable[..., Recipe], cache: Path, tmp_path: Path, listener: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = recipe("trainer.epochs=1")
    first = train(toy, made, tmp_path / "run", cache=cache, resume=True)
    monkeypatch.setattr(run_module.Run, "__init__", None)  # nothing may be trained
    second = train(toy, made, tmp_path / "run", cache=cache, resume=True, progress=listener)
    assert second == first
    assert listener.messages == [f"The run in {tmp_path / 'run'} is finished; there is nothing left to do."]
    with pytest.raises(UsageError, match=r"finished run.*had another recipe: seed was 0, is 1"):
        train(toy, recipe("trainer.epochs=1", "seed=1"), tmp_path / "run", cache=cache, resume=True)
    with pytest.raises(UsageError, match=r"another recipe: seed was 0, is 1\. --resume"):  # more epochs alone are allowed
        train(toy, recipe("trainer.epochs=2", "seed=1"), tmp_path / "run", cache=cache, resume=True)


def test_a_folder_with_a_run_needs_resume_or_overwrite(
    toy: Manifest, recipe: Callable[..., Recipe], cache: Path, tmp_path: Path
) -> None:
    made, run = recipe("trainer.epochs=1"), tmp_path / "run"
    train(toy, made, run, cache=cache)
    (run / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds a finished run.*--resume.*--overwrite"):
        train(toy, made, run, cache=cache)
    with pytest.raises(UsageError, match="both given"):
        train(toy, made, run, cache=cache, resume=True, overwrite=True)
    (run / "report.html").write_text("of the old run")
    train(toy, recipe("trainer.epochs=1", "seed=3"), run, cache=cache, overwrite=True)
    assert not (run / "report.html").exists()
    assert (run / "notes.txt").read_text() == "mine"
    with lock_folder(run), pytest.raises(UsageError, match="in use by another reslink process"):
        train(toy, made, run, cache=cache, overwrite=True)


def test_an_unfinished_run_is_refused_and_so_is_another_recipe_or_other_data(
    toy: Manifest, marked: Manifest, recipe: Callable[..., Recipe], cache: Path, tmp_path: Path
) -> None:
    made, run = recipe(), tmp_path / "run"
    with pytest.raises(Interrupted):
        train(toy, made, run, cache=cache, progress=StopAt(2, signal.SIGINT))
    with pytest.raises(UsageError, match="holds an unfinished run"):
        train(toy, made, run, cache=cache)
    with pytest.raises(UsageError, match=r"other inputs: optimizer.lr was 0.002, is 0.1; trainer.epochs was 2, is 3"):
        train(toy, recipe("optimizer.lr=0.1", "trainer.epochs=3"), run, cache=cache, resume=True)
    with pytest.raises(UsageError, match="other inputs: data has changed"):
        train(marked, made, run, cache=cache, resume=True)
    train(toy, recipe("trainer.workers=1"), run, cache=cache, resume=True)  # what does not change the result may change


def test_a_balanced_run_is_not_resumed_with_other_sources(
    toy: Manifest, recipe: Callable[..., Recipe], cache: Path, tmp_path: Path
) -> None:
    def stated(every: int) -> Manifest:
        cases = (replace(case, source="ab"[i // every % 2]) for i, case in enumerate(toy.cases))
        return replace(toy, cases=tuple(cases))

    made, run = recipe("data.balance_sources=true"), tmp_path / "run"
    assert stated(2).digest() == stated(1).digest()
    with pytest.raises(Interrupted):
        train(stated(1), made, run, cache=cache, progress=StopAt(2, signal.SIGINT))
    with pytest.raises(UsageError, match="other inputs: the sources of the images have changed"):
        train(stated(2), made, run, cache=cache, resume=True)
    train(stated(1), made, run, cache=cache, resume=True)


def test_the_bundle_names_at_most_twenty_sources() -> None:
    few = {f"clinic {i}": {"train": 1} for i in range(20)}
    assert run_module._published_sources({}) == {}
    assert run_module._published_sources(few) == {"sources": few}
    assert run_module._published_sources({**few, "one more": {"test": 1}}) == {"n_sources": 21}


def test_a_folder_that_cannot_be_created(toy: Manifest, recipe: Callable[..., Recipe], cache: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"could not be written: [Nn]ot a directory.*another folder"):
        train(toy, recipe(), tmp_path / "file" / "run", cache=cache)


def test_each_epoch_tells_its_validation_metrics() -> None:
    row = {"epoch": 3, "train_loss": 0.41234, "val_loss": 0.5, "val_accuracy": 0.81, "val_auroc": 0.9234, "lr": 0.1}
    text = "Epoch 3: training loss 0.412, validation loss 0.500, validation accuracy 0.810, validation AUROC 0.923"
    assert run_module._epoch_text(row, is_best=True) == f"{text} (best so far)"
    assert run_module._epoch_text(row | {"val_auroc": None}, is_best=False) == text.rpartition(",")[0]


def test_the_metrics_of_each_epoch_reach_the_listener(
    toy: Manifest, recipe: Callable[..., Recipe], cache: Path, tmp_path: Path, listener: Any
) -> None:
    train(toy, recipe("trainer.epochs=2"), tmp_path / "run", cache=cache, progress=listener)
    lines = [text for text in listener.messages if text.startswith("Epoch ")]
    with (tmp_path / "run" / "results.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [line.split(":")[0] for line in lines] == ["Epoch 1", "Epoch 2"]
    assert all(f"validation loss {float(row['val_loss']):.3f}" in line for row, line in zip(rows, lines, strict=True))
    assert sum("best so far" in line for line in lines) >= 1


@pytest.fixture(scope="module")
def finished(toy: Manifest, recipe: Callable[..., Recipe], cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(toy, recipe(*CARRIED, "trainer.epochs=2"), folder, cache=cache)
    return folder


def test_a_finished_run_is_extended_and_says_so(
    finished: Path, toy: Manifest, recipe: Callable[..., Recipe], cache: Path, tmp_path: Path, listener: Any
) -> None:
    run, made = tmp_path / "run", recipe(*CARRIED)  # four epochs
    shutil.copytree(finished, run)
    result = train(toy, made, run, cache=cache, resume=True, progress=listener)
    assert result.epochs == 4
    assert "The finished run is extended from 2 to 4 epochs." in listener.messages
    stated = [{"after_epoch": 2, "from_epochs": 2, "to_epochs": 4}]
    assert json.loads((run / "checkpoints" / "finished.json").read_text())["extensions"] == stated
    assert Bundle.load(run / "bundle").provenance["extensions"] == stated
    assert load_recipe(run / "config.yaml").trainer.epochs == 4
    assert Bundle.load(run / "bundle").provenance["recipe"] == made.published()
    old, new = ((folder / "results.csv").read_text().splitlines() for folder in (finished, run))
    assert new[:3] == old
    with (run / "results.csv").open() as stream:
        rates = [float(row["lr"]) for row in csv.DictReader(stream)]
    steps = json.loads(next(path for path in run.glob("checkpoints/*/state.json")).read_text())["step"] // 4
    assert rates[2:] == [learning_rate(steps * epoch - 1, steps * 4, made.optimizer) for epoch in (3, 4)]
    assert train(toy, made, run, cache=cache, resume=True) == result  # nothing is left to do


@pytest.mark.parametrize("step", [1, 4])
def test_an_extension_that_was_stopped_ends_with_the_same_bits(
    finished: Path, toy: Manifest, recipe: Callable[..., Recipe], cache: Path, tmp_path: Path, step: int
) -> None:
    for name in ("whole", "stopped"):
        shutil.copytree(finished, tmp_path / name)
    train(toy, recipe(*CARRIED), tmp_path / "whole", cache=cache, resume=True)
    with pytest.raises(Interrupted):
        train(toy, recipe(*CARRIED), tmp_path / "stopped", cache=cache, resume=True, progress=StopAt(step, signal.SIGINT))
    assert not (tmp_path / "stopped" / "checkpoints" / "finished.json").exists()
    with pytest.raises(UsageError, match=r"trainer\.epochs was 4, is 2"):
        train(toy, recipe(*CARRIED, "trainer.epochs=2"), tmp_path / "stopped", cache=cache, resume=True)
    train(toy, recipe(*CARRIED), tmp_path / "stopped", cache=cache, resume=True)
    assert fingerprint(tmp_path / "stopped") == fingerprint(tmp_path / "whole")


def test_an_extension_that_was_killed_before_its_first_checkpoint_extends_once(
    finished: Path, toy: Manifest, recipe: Callable[..., Recipe], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)

    def kill(_self: run_module.Run) -> None:
        raise InterruptedError

    with monkeypatch.context() as patched:
        patched.setattr(run_module.Run, "save", kill)
        with pytest.raises(InterruptedError):
            train(toy, recipe(*CARRIED), run, cache=cache, resume=True)
    assert not (run / "checkpoints" / "finished.json").exists()  # else the run would count as finished
    assert train(toy, recipe(*CARRIED), run, cache=cache, resume=True).epochs == 4
    assert len(Bundle.load(run / "bundle").provenance["extensions"]) == 1


def test_a_run_that_stopped_early_is_extended(
    toy: Manifest, recipe: Callable[..., Recipe], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reslink.training.loop.evaluate_validation", lambda *_: ValidationResult(0.5, 0.5, 0.5))
    short = train(toy, recipe("trainer.early_stopping=2", "trainer.epochs=6"), tmp_path / "run", cache=cache)
    longer = train(toy, recipe("trainer.early_stopping=2", "trainer.epochs=9"), tmp_path / "run", cache=cache, resume=True)
    assert (short.epochs, longer.epochs) == (3, 5)  # again two epochs without a better one


def test_only_more_epochs_extend(finished: Path, toy: Manifest, recipe: Callable[..., Recipe], cache: Path) -> None:
    before = fingerprint(finished)
    for sets, words in (
        (("trainer.epochs=1",), r"trainer.epochs was 2, is 1\. --resume continues with the same recipe, or with more epochs"),
        (("trainer.epochs=3", "optimizer.lr=0.1"), r"optimizer.lr was 0.002, is 0.1\. --resume continues"),
    ):
        with pytest.raises(UsageError, match=words):
            train(toy, recipe(*CARRIED, *sets), finished, cache=cache, resume=True)
    assert fingerprint(finished) == before


def test_a_fine_tuned_run_that_was_stopped_ends_with_the_same_bits(
    finished: Path, toy: Manifest, recipe: Callable[..., Recipe], cache: Path, tmp_path: Path
) -> None:
    sets = ("seed=3", "data.split_seed=0", "init.freeze=[stem]", "init.lr_factor=0.5", f"init.parent={finished}")
    train(toy, recipe(*CARRIED, *sets, "trainer.epochs=2"), tmp_path / "whole", cache=cache)
    stop = StopAt(2, signal.SIGINT)
    with pytest.raises(Interrupted):
        train(toy, recipe(*CARRIED, *sets, "trainer.epochs=2"), tmp_path / "stopped", cache=cache, progress=stop)
    with pytest.raises(UsageError, match=r"init\.lr_factor was 0\.5, is 0\.3"):
        train(
            toy,
            recipe(*CARRIED, *sets, "trainer.epochs=2", "init.lr_factor=0.3"),
            tmp_path / "stopped",
            cache=cache,
            resume=True,
        )
    train(toy, recipe(*CARRIED, *sets, "trainer.epochs=2"), tmp_path / "stopped", cache=cache, resume=True)
    assert fingerprint(tmp_path / "stopped") == fingerprint(tmp_path / "whole")
    stems = [Bundle.load(run / "bundle").network().stem.state_dict() for run in (finished, tmp_path / "whole")]
    assert all(torch.equal(stems[0][name], stems[1][name]) for name in stems[0])
