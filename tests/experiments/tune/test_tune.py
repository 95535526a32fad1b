"""A whole search: files, hold-out, and folders of other searches."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reslink.datasets.manifest import Manifest
from reslink.errors import TrainingError, UsageError
from reslink.files import sha256
from reslink.training.recipe.recipe import load_recipe


def test_the_best_and_the_base_recipe_are_evaluated_once_on_the_holdout(search: Any, training: Any, tmp_path: Path) -> None:
    result = search("optimizer.lr=0.05", trials=10)
    assert training.runs[-2:] == ["base", "best"]
    assert [name for name in training.runs if "trial" not in name] == ["base", "best"]
    assert result["holdout"] == {"images": 20, "given": False, "evaluated_trials": [result["best"]["trial"]]}
    [holdout] = [table for table in result["tables"] if table["name"] == "metrics"]
    assert [row["condition"] for row in holdout["rows"]] == ["base", "best"]
    assert holdout["rows"][1]["auroc_difference"]["estimate"] > 0
    assert any("compared with base recipe, AUROC" in sentence for sentence in result["answer"])
    recipe = load_recipe(tmp_path / "tuned" / "best.yaml")
    assert recipe.optimizer.lr == result["best"]["values"]["optimizer.lr"] != 0.05
    assert recipe.data.folds is None
    run = Path(result["best"]["bundle"]).parent
    assert json.loads((run / "conditions.json").read_text()) == {"conditions": ["best"]}
    recorded = [json.loads(file.read_text())["conditions"] for file in run.parent.glob("*/conditions.json")]
    assert sorted(recorded) == sorted([name] for name in training.runs)


def test_where_the_base_recipe_is_the_best_it_alone_is_evaluated(search: Any, training: Any) -> None:
    result = search("optimizer.lr=0.003", space={"optimizer.lr": [0.1, 1e-4]}, trials=3)
    assert result["best"]["base"]
    assert training.runs[-1] == "base"
    assert "best" not in training.runs
    assert result["answer"][0].startswith("The best recipe is the base recipe: AUROC ")


def test_a_second_use_of_the_holdout_is_said(search: Any, training: Any) -> None:
    first = search("optimizer.lr=0.1", trials=2)
    assert not any("was used" in sentence for sentence in first["answer"])
    second = search("optimizer.lr=0.1", trials=12)
    assert second["holdout"]["evaluated_trials"] == [first["best"]["trial"], second["best"]["trial"]]
    assert any("The hold-out was used 2 times" in sentence for sentence in second["answer"])


def test_the_base_recipe_outside_the_space_is_trained_and_said(search: Any, training: Any, tmp_path: Path) -> None:
    result = search("optimizer.lr=0.05", space={"optimizer.lr": {"low": 1e-3, "high": 1e-2}}, trials=4)
    assert result["runs"][0]["optimizer.lr"] == 0.05
    assert all(1e-3 <= row["optimizer.lr"] <= 1e-2 for row in result["runs"][1:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"space": {"optimizer.lr": [1e-3, 1e-2]}}, r"holds a search with other settings: space.optimizer.lr"),
        ({"folds": 5}, r"folds was 4, is 5. A search is resumed with the same space, recipe, folds and hold-out"),
        ({"holdout": 0.3}, r"holdout was 0.2, is 0.3"),
    ],
)
def test_a_folder_of_another_search_is_refused(change: dict[str, Any], message: str, search: Any, training: Any) -> None:
    search(trials=1)
    with pytest.raises(UsageError, match=message):
        search(**change)


def test_another_recipe_or_other_data_is_refused(search: Any, training: Any, toy_patients: Manifest, tmp_path: Path) -> None:
    search(trials=1)
    with pytest.raises(UsageError, match=r"trainer.epochs was 1, is 2"):
        search("trainer.epochs=2")
    fewer = replace(toy_patients, cases=toy_patients.cases[:80])
    with pytest.raises(UsageError, match=r"holds a search on other images or labels \(SHA-256 .*restore the data"):
        search(data=fewer)
    (tmp_path / "tuned" / "search.json").write_text("{")
    with pytest.raises(UsageError, match=r"search.json cannot be read"):
        search()


def test_unreadable_images_are_counted(search: Any, training: Any, toy_patients: Manifest, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_text("no image")
    broken = replace(toy_patients.cases[5], path=tmp_path / "broken.png", name="broken.png")
    cases = [case if i != 5 else broken for i, case in enumerate(toy_patients.cases)]
    result = search(trials=1, data=replace(toy_patients, cases=tuple(cases)))
    assert "1 image could not be read: broken.png." in result["not_done"]


def test_a_search_without_a_complete_trial_says_why(search: Any, training: Any) -> None:
    training.diverges = 0.0
    with pytest.raises(TrainingError, match=r"No trial is complete. trial 0: fold 1: The loss is not finite"):
        search(trials=2)


def test_the_files_hold_no_absolute_path(search: Any, training: Any, tmp_path: Path) -> None:
    search(trials=3)
    for name in ("tune.json", "trials.csv", "tune.html", "best.yaml", "search.json"):
        assert str(tmp_path) not in (tmp_path / "tuned" / name).read_text(), name


def test_the_keys_of_tune_json_are_described(search: Any, training: Any, tmp_path: Path) -> None:
    search(trials=2)
    page = (Path(__file__).resolve().parents[3] / "docs" / "reference" / "outputs.md").read_text()
    content = json.loads((tmp_path / "tuned" / "tune.json").read_text())
    keys = [*content, *content["best"], *content["holdout"], *content["counts"]]
    assert [key for key in keys if f"`{key}`" not in page] == []
    columns = (tmp_path / "tuned" / "trials.csv").read_text().splitlines()[0].split(",")
    plain = [name for name in columns if "." not in name and not name.startswith("fold_")]
    assert [name for name in plain if f"`{name}`" not in page] == []


TINY_RECIPE = (
    *("preprocess.size=64", "preprocess.channels=1", "model.stem_dim=8", "model.dims=[8, 16]", "model.depths=[0, 1]"),
    *("model.area_size=4", "optimizer.name=adamw", "trainer.batch_size=8", "trainer.epochs=1", "trainer.precision=fp32"),
    *("trainer.device=cpu", "trainer.workers=0"),
)
REAL_SPACE = {
    "optimizer.lr": {"low": 1e-3, "high": 1e-2, "log": True},
    "model.area_size": [2, 4],
    "optimizer.momentum": [0.5, 0.9],
}


@pytest.mark.slow
def test_no_two_trials_train_identically(search: Any, toy_patients: Manifest, tmp_path: Path) -> None:
    """Real trainings: digests and weights all differ. Momentum has no effect with AdamW, so equal suggestions come up."""
    result = search(space=REAL_SPACE, trials=3, folds=3)
    digests = [row["digest"] for row in result["runs"]]
    assert len(set(digests)) == 3
    weights = [sha256(path) for path in (tmp_path / "tuned" / "runs").glob("*/bundle/model.safetensors")]
    assert len(weights) in (10, 11)  # three folds a trial, and one or two recipes on the hold-out
    assert len(set(weights)) == len(weights)
    assert all(row["optimizer.momentum"] == 0.9 for row in result["runs"])
    assert [row["same_weights_as"] for row in result["runs"]] == [None, None, None]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_search_loses_no_finished_trial(write_toy_heads: Callable[..., Path], tmp_path: Path) -> None:
    """kill -9 of the process while the second trial is trained, and a journal that is cut in its last line."""
    heads = tmp_path / "heads"
    heads.mkdir()
    write_toy_heads(heads, 24)
    (tmp_path / "space.yaml").write_text("optimizer.lr: {low: 1e-3, high: 1e-2, log: true}\n")
    settings = [word for setting in TINY_RECIPE for word in ("--set", setting)]
    words = ["tune", "heads", "--out", "tuned", "--trials", "3", "--folds", "3", "--space", "space.yaml", *settings]
    command = [sys.executable, "-m", "reslink", *words]
    journal, runs = tmp_path / "tuned" / "journal.log", tmp_path / "tuned" / "runs"

    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 400
    while not (journal.exists() and len(list(runs.glob("*/predictions.csv"))) >= 4) and time.monotonic() < end:
        time.sleep(0.05)
    process.kill()
    process.wait()
    finished = {path: path.stat().st_mtime_ns for path in runs.glob("*/checkpoints/finished.json")}
    assert len(finished) >= 4
    journal.write_bytes(journal.read_bytes()[:-9])

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "Trial 2" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    result = json.loads((tmp_path / "tuned" / "tune.json").read_text())
    assert len(result["runs"]) == 3
    assert result["counts"]["unfinished"] == result["counts"]["failed"] == 0
    folds = sum(row[f"fold_{k}"] is not None for row in result["runs"] for k in (1, 2, 3))
    assert len(list(runs.glob("*/predictions.csv"))) == folds + len(result["tables"][0]["rows"])
