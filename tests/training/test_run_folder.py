"""The files of a run folder."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from reslink.datasets.case import Case
from reslink.datasets.manifest import Manifest
from reslink.errors import UsageError
from reslink.labels import Labels
from reslink.training.run_folder import RunFolder, versions


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    return RunFolder(tmp_path / "run")


def test_partial_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    for name in (".bundle.ab12.part", ".bundle.ab12.old"):
        (run.path / name).mkdir(parents=True)
        (run.path / name / "model.safetensors").write_bytes(b"half")
    with run.locked(resume=True, overwrite=False):
        assert not list(run.path.glob(".bundle.*"))


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_bundle_that_was_moved_aside_by_a_killed_process_is_moved_back(tmp_path: Path, overwrite: bool) -> None:
    run = RunFolder(tmp_path / "run")
    (run.path / ".bundle.ab12.old").mkdir(parents=True)
    (run.path / ".bundle.ab12.old" / "model.safetensors").write_bytes(b"whole")
    with run.locked(resume=not overwrite, overwrite=overwrite):
        assert (run.path / "bundle" / "model.safetensors").exists() is not overwrite
    assert not list(run.path.glob(".bundle.*"))


@pytest.mark.parametrize(("finished", "kind"), [(False, "an unfinished run"), (True, "a finished run")])
def test_a_folder_with_a_run_needs_resume_or_overwrite(run: RunFolder, finished: bool, kind: str) -> None:
    (run.path / "notes.txt").write_text("mine")
    if finished:
        run.finish({"best_epoch": 2})
    assert run.finished() == ({"best_epoch": 2} if finished else None)
    with pytest.raises(UsageError, match=f"holds {kind}.*--resume.*--overwrite"), run.locked(resume=False, overwrite=False):
        pass
    with run.locked(resume=True, overwrite=False):
        assert (run.path / "checkpoints").exists()
    with run.locked(resume=False, overwrite=True):
        assert not (run.path / "checkpoints").exists()
    assert (run.path / "notes.txt").read_text() == "mine"


def test_metrics_are_truncated_to_a_checkpoint(run: RunFolder) -> None:
    assert run.metrics_size() == 0
    run.append({"kind": "step", "loss": 0.5})
    size = run.metrics_size()
    run.append({"kind": "step", "loss": 0.25})
    assert run.truncate_metrics(size)
    assert [json.loads(line)["loss"] for line in (run.path / "metrics.jsonl").read_text().splitlines()] == [0.5]
    assert not run.truncate_metrics(size + 1), "the file is shorter than at the checkpoint"
    assert run.metrics_size() == size


def test_not_a_number_is_no_metric(run: RunFolder) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.append({"loss": float("nan")})


def test_tables_are_read_back(run: RunFolder) -> None:
    run.write_results([{"epoch": 1, "val_auroc": None}, {"epoch": 2, "val_auroc": 0.75}])
    cases = tuple(Case(Path(f"/{name}"), "a", patient_id=patient, name=name) for name, patient in (("x,1", "p1"), ("y", None)))
    run.write_splits(Manifest(cases, Labels(("a", "b")), Path("/")), ("train", "test"), ("g1", "g2"), {"x,1": "12", "y": "34"})
    tables = []
    for name in ("results.csv", "splits.csv"):
        with (run.path / name).open(newline="") as stream:
            tables.append(list(csv.DictReader(stream)))
    assert tables[0] == [{"epoch": "1", "val_auroc": ""}, {"epoch": "2", "val_auroc": "0.75"}]
    assert tables[1] == [
        {"sample_id": "x,1", "patient_id": "p1", "label": "a", "split": "train", "group": "g1", "sha256": "12"},
        {"sample_id": "y", "patient_id": "", "label": "a", "split": "test", "group": "g2", "sha256": "34"},
    ]


def test_the_versions_name_the_packages_that_matter() -> None:
    import numpy

    assert versions()["numpy"] == numpy.__version__
    assert set(versions()) >= {"python", "reslink", "torch", "accelerate"}
