"""The table of runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from reslink.errors import UsageError
from reslink.files import lock_folder
from reslink.reports.runs.table import COLUMNS, check_column, describe_run, fold_experiments, overlaps, read_runs, sort_rows
from reslink.training.run_folder import LOSS_NOT_FINITE

WriteRun = Callable[..., Path]


def test_a_row_holds_what_the_files_of_a_run_say(runs: Path) -> None:
    rows, failed = read_runs(runs)
    assert failed == {}
    assert [row["run"] for row in rows] == ["broken off", "first", "tuned/best"]
    first = rows[1]
    origin = {"experiment", "conditions", "fold", "parent", "frozen", "labels"}
    assert set(COLUMNS) | origin | {"planned_epochs", "leakage"} == set(first)
    expected = {
        "state": "finished",
        "data": "cd" * 32,
        "images": 5,
        "network": "reslink_small",
        "seed": 7,
        "epochs": 3,
        "planned_epochs": 3,
        "best_epoch": 2,
        "val_loss": 0.6,
        "val_accuracy": 0.8,
        "val_auroc": 0.85,
        "n_test": 40,
    }
    assert {key: first[key] for key in expected} == expected
    assert first["auroc"] == {
        "estimate": 0.9,
        "ci_low": 0.7,
        "ci_high": 0.95,
        "method": "BCa bootstrap over 40 groups, 1000 draws",
        "n": 40,
    }


def test_runs_of_one_network_are_told_apart(write_run_files: WriteRun, tmp_path: Path) -> None:
    write_run_files(tmp_path / "plain", data={"folds": None, "fold": 0, "labels": None})
    write_run_files(tmp_path / "fold", data={"folds": 5, "fold": 2})
    write_run_files(tmp_path / "labels", data={"labels": ["epidural", "subdural"]})
    for name, freeze in (("parent", []), ("frozen", ["stem", "stages.1"])):
        run = write_run_files(tmp_path / name)
        (run / "init.json").write_text(json.dumps({"parent": "ct", "freeze": freeze}))
    assert {row["run"]: describe_run(row) for row in read_runs(tmp_path)[0]} == {
        "plain": "",
        "fold": "fold 2",
        "labels": "2 labels",
        "parent": "from ct",
        "frozen": "from ct (frozen: stem, stages.1)",
    }


def test_the_runs_of_an_experiment_are_named_by_their_condition_and_folded_below_the_folder(runs: Path, search: Path) -> None:
    rows, folded = fold_experiments(read_runs(runs)[0])
    assert [row["run"] for row in rows] == ["broken off", "first", "tuned/best"]
    [experiment] = folded
    assert (experiment.name, experiment.states) == ("search", "2 finished, 1 interrupted")
    assert [describe_run(row) for row in experiment.rows] == ["base", "trial 2, fold 1", "trial 10, fold 2"]
    assert (experiment.common("network"), experiment.common("state")) == ("reslink_small", None)
    rows, folded = fold_experiments(read_runs(search)[0])
    assert (len(rows), folded) == (3, [])


def test_an_unfinished_run_is_read_from_its_checkpoint(runs: Path) -> None:
    row = read_runs(runs)[0][0]
    assert (row["state"], row["data"], row["epochs"], row["best_epoch"], row["val_auroc"]) == (
        "interrupted",
        "cd" * 32,
        2,
        2,
        0.85,
    )
    assert (row["n_test"], row["accuracy"], row["auroc"]) == (None, None, None)


def test_the_state_follows_lock_checkpoint_and_findings(write_run_files: WriteRun, tmp_path: Path) -> None:
    run = write_run_files(tmp_path / "run", finished=False)

    def state() -> str:
        return read_runs(tmp_path)[0][0]["state"]

    with lock_folder(run):
        assert state() == "running"
    assert state() == "interrupted"
    (run / "checkpoints" / "000002-step-8" / "state.json").unlink()
    assert state() == "not finished"
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps({"kind": "finding", "code": LOSS_NOT_FINITE}) + "\n")
    assert state() == "diverged"


def test_asking_for_the_state_takes_no_lock_and_writes_nothing(runs: Path) -> None:
    before = sorted(runs.rglob("*"))
    read_runs(runs)
    assert sorted(runs.rglob("*")) == before
    with lock_folder(runs / "first"):
        pass


def test_the_evaluation_of_earlier_weights_is_not_shown(runs: Path) -> None:
    """A run that was extended and not yet evaluated again."""
    path = runs / "first" / "evaluation.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bundle_sha256": "00" * 32}))
    row = read_runs(runs)[0][1]
    assert (row["state"], row["n_test"], row["auroc"]) == ("finished", None, None)


def test_a_line_that_is_being_written_is_left_out(runs: Path) -> None:
    with (runs / "first" / "metrics.jsonl").open("a") as stream:
        stream.write('{"kind": "epoch", "epo')
    rows, failed = read_runs(runs)
    assert (failed, rows[1]["epochs"]) == ({}, 3)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("config.yaml", "seed: [", "config.yaml cannot be used"),
        ("config.yaml", "seed: 1", "lacks a value"),
        ("config.yaml", "- a list", "lacks a value"),
        ("evaluation.json", '{"n": ', "evaluation.json cannot be used"),
        ("metrics.jsonl", "nonsense\n", "metrics.jsonl cannot be used"),
        ("bundle/bundle.json", '{"provenance": {}}', "lacks a value"),
    ],
)
def test_a_run_that_cannot_be_read_is_named_without_the_path_of_the_folder(
    runs: Path, file: str, content: str, words: str
) -> None:
    (runs / "first" / file).write_text(content)
    rows, failed = read_runs(runs)
    assert [row["run"] for row in rows] == ["broken off", "tuned/best"]
    assert list(failed) == ["first"]
    assert words in failed["first"]
    assert str(runs) not in failed["first"]


def test_an_unreadable_folder_is_named(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    iterdir = Path.iterdir

    def refuse(path: Path) -> object:
        if path.name == "tuned":
            raise PermissionError(13, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    rows, failed = read_runs(runs)
    assert len(rows) == 2
    assert failed == {"tuned": "The folder cannot be read: Permission denied."}


def test_links_are_followed_once_and_what_a_run_holds_is_no_run(write_run_files: WriteRun, runs: Path, tmp_path: Path) -> None:
    write_run_files(tmp_path / "elsewhere" / "far")
    (runs / "linked").symlink_to(tmp_path / "elsewhere")
    (runs / "again").symlink_to(runs / "first")
    (runs / "first" / "loop").symlink_to(runs)
    (runs / "dangling").symlink_to(tmp_path / "missing")
    write_run_files(runs / "first" / "cache" / "copy")
    assert [row["run"] for row in read_runs(runs)[0]] == ["broken off", "first", "linked/far", "tuned/best"]


def test_the_folder_may_be_a_run_and_folders_may_be_deep(write_run_files: WriteRun, tmp_path: Path) -> None:
    run = write_run_files(tmp_path / "run")
    assert [row["run"] for row in read_runs(run)[0]] == ["."]
    deep = tmp_path / "deep"
    for _ in range(1100):
        deep.mkdir()
        deep /= "d"
    deep.symlink_to(run)
    try:
        assert [row["state"] for row in read_runs(tmp_path / "deep")[0]] == ["finished"]
    finally:
        deep.unlink()
        for _ in range(1100):  # pytest cannot delete so deep a folder, and a later session would end with an error
            deep = deep.parent
            deep.rmdir()


@pytest.mark.parametrize("name", ["empty", "missing", "file"])
def test_a_folder_without_a_run_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=name) as error:
        read_runs(tmp_path / name)
    assert all(error.value.sentences())


def test_columns_are_sorted_with_the_best_metrics_first_and_unknown_values_last(runs: Path) -> None:
    rows = read_runs(runs)[0]

    def order(column: str) -> list[str]:
        return [row["run"] for row in sort_rows(rows, column)]

    assert order("auroc") == ["tuned/best", "first", "broken off"]
    assert order("accuracy") == ["tuned/best", "first", "broken off"]
    assert order("seed") == ["tuned/best", "broken off", "first"]
    assert order("val_loss") == ["broken off", "first", "tuned/best"]
    for column in COLUMNS:
        assert sorted(order(column)) == ["broken off", "first", "tuned/best"]


def test_an_unknown_column_names_the_columns() -> None:
    with pytest.raises(UsageError, match=r"'auc'.*val_auroc.*Did you mean 'auroc'\?"):
        check_column("auc")


def test_runs_with_leaked_test_images_are_named(runs: Path) -> None:
    path = runs / "first" / "evaluation.json"
    leakage = {"status": "allowed", "message": "3 cases overlap"}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"leakage": leakage}))
    assert overlaps(read_runs(runs)[0]) == [("first", "3 cases overlap")]


def test_torch_is_not_imported(runs: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import reslink; "
        f"reslink.runs({str(runs)!r}, page={str(runs / 'page.html')!r}); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
