"""The workflow of a user: train, evaluate, predict, explain."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

Invoke = Callable[..., Result]
METRICS = {
    *("accuracy", "balanced_accuracy", "sensitivity", "specificity", "ppv", "npv"),
    *("f1", "mcc", "auroc", "auprc", "brier", "ece"),
}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_train_writes_a_complete_run(run: Path) -> None:
    expected = (
        "config.yaml environment.json splits.csv metrics.jsonl results.csv predictions.csv evaluation.json figures"
        " report.html bundle/model.safetensors bundle/bundle.json bundle/MODEL_CARD.md"
    )
    assert [name for name in expected.split() if not (run / name).exists()] == []
    assert not list(run.rglob("*.part"))


def test_train_json_is_one_object(trained: tuple[Path, str, str]) -> None:
    out, stdout, stderr = trained
    summary = json.loads(stdout)
    assert summary["run"] == str(out)
    assert Path(summary["report"]).is_file()
    assert summary["metrics"]["auroc"].keys() == {"estimate", "ci_low", "ci_high", "method", "n"}
    assert "Epoch" in stderr


def test_no_patient_is_in_two_splits(run: Path) -> None:
    sides: dict[str, set[str]] = {}
    for row in table(run / "splits.csv"):
        sides.setdefault(row["patient_id"], set()).add(row["split"])
    assert len(sides) == 14
    assert all(len(found) == 1 for found in sides.values())


def test_the_keys_of_the_evaluation(run: Path) -> None:
    found = json.loads((run / "evaluation.json").read_text())
    assert found["metrics"].keys() >= METRICS
    for estimate in found["metrics"].values():
        assert {"estimate", "ci_low", "ci_high", "method", "n"} <= estimate.keys()
    tested = [row for row in table(run / "splits.csv") if row["split"] == "test"]
    assert found["n"] == len(tested) == sum(map(sum, found["confusion_matrix"]["counts"]))
    assert found["localization"]


def test_predictions_are_those_of_the_test_cases(run: Path) -> None:
    tested = {row["sample_id"] for row in table(run / "splits.csv") if row["split"] == "test"}
    rows = table(run / "predictions.csv")
    assert len(rows) == len(tested)


def test_the_report_is_self_contained(run: Path) -> None:
    page = (run / "report.html").read_text()
    assert re.search(r"research use only", page, re.IGNORECASE)
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)
    assert "data:image/png;base64" in page


def test_the_bundle_holds_the_metrics(run: Path) -> None:
    bundle = json.loads((run / "bundle" / "bundle.json").read_text())
    assert bundle["metrics"]["n"] == json.loads((run / "evaluation.json").read_text())["n"]
    assert str(run) not in (run / "bundle" / "bundle.json").read_text()


def test_the_same_seed_gives_the_same_bytes(run: Path, cohort: Path, tmp_path: Path, train: Invoke) -> None:
    again = train(cohort, "--out", tmp_path / "again", "--epochs", "2", "--seed", "5")
    assert again.exit_code == 0, again.stderr
    names = ("model.safetensors", "bundle.json")
    first, second = ([(folder / "bundle" / name).read_bytes() for name in names] for folder in (run, tmp_path / "again"))
    assert first == second
    assert "Research use only" in again.stderr
    assert "auroc" in again.stdout.lower()


def test_predict_json(bundle: Path, images: list[Path], invoke: Invoke) -> None:
    result = invoke("predict", bundle, *images[:3], "--json", "--offline")
    assert (result.exit_code, result.stderr) == (0, "")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["path"] for row in rows] == [str(path) for path in images[:3]]
    for row in rows:
        assert list(row) == [
            "path",
            "label",
            "probability",
            "probabilities",
            "prediction_set",
            "abstain",
            "reasons",
            "ood_score",
            "error",
            "threshold",
            "certainty",
            "notes",
            "scope",
        ]
        assert row["scope"] == (
            "The model is for CT or MR of the head; patients: not described. "
            "No evaluation on images of other hospitals is recorded."
        )
        assert list(row["probabilities"]) == ["Healthy", "Tumor"]
        assert sum(row["probabilities"].values()) == pytest.approx(1)
        assert row["probability"] == row["probabilities"][row["label"]]
        assert row["error"] is None


def test_predict_agrees_with_the_run(bundle: Path, run: Path, cohort: Path, invoke: Invoke) -> None:
    rows = table(run / "predictions.csv")
    result = invoke("predict", bundle, *(cohort / row["path"] for row in rows), "--json")
    found = [json.loads(line)["probabilities"]["Tumor"] for line in result.stdout.splitlines()]
    assert found == pytest.approx([float(row["p_Tumor"]) for row in rows], abs=1e-5)


def test_predict_for_people(bundle: Path, images: list[Path], invoke: Invoke) -> None:
    result = invoke("predict", bundle, *images[:2])
    assert result.exit_code == 0
    assert [line.split("\t")[2] for line in result.stdout.splitlines()] == [str(path) for path in images[:2]]
    assert "Research use only" in result.stderr


def test_predict_csv(bundle: Path, cohort: Path, images: list[Path], tmp_path: Path, invoke: Invoke) -> None:
    out = tmp_path / "new" / "out.csv"
    result = invoke("predict", bundle, cohort / "images", "--csv", out)
    assert (result.exit_code, result.stdout) == (0, "")
    rows = table(out)
    assert len(rows) == len(images)
    assert all(float(row["p_Healthy"]) + float(row["p_Tumor"]) == pytest.approx(1) for row in rows)
    assert [path.name for path in out.parent.iterdir()] == ["out.csv"]


def test_predict_refuses_two_output_formats(bundle: Path, images: list[Path], tmp_path: Path, invoke: Invoke) -> None:
    result = invoke("predict", bundle, images[0], "--json", "--csv", tmp_path / "x.csv")
    assert result.exit_code == 2
    assert "Only one output format is possible" in result.stderr


def test_predict_into_a_closed_pipe_is_quiet(bundle: Path, cohort: Path, environment: dict[str, str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "reslink", "predict", bundle, cohort / "images", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 1
    assert said == ""


def test_evaluate_json(bundle: Path, run: Path, cohort: Path, images: list[Path], tmp_path: Path, invoke: Invoke) -> None:
    result = invoke("evaluate", bundle, cohort, "--out", tmp_path / "evaluated", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["n"] + found["n_excluded"] == len(images)  # what it learned from, and copies of that, are left out
    assert {row["sample_id"] for row in table(run / "splits.csv") if row["split"] == "test"}.isdisjoint(
        one["path"] for one in found["excluded"]
    )
    assert found["metrics"].keys() >= METRICS
    written = json.loads((tmp_path / "evaluated" / "evaluation.json").read_text())
    assert written["metrics"] == found["metrics"]
    assert (tmp_path / "evaluated" / "report.html").is_file()
    assert (tmp_path / "evaluated" / "predictions.csv").is_file()


def test_evaluate_for_people(bundle: Path, classes: Path, tmp_path: Path, invoke: Invoke) -> None:
    result = invoke("evaluate", bundle, classes, "--out", tmp_path / "evaluated")
    assert result.exit_code == 0, result.stderr
    assert "AUROC" in result.stdout
    assert "Research use only" in result.stderr


def test_evaluate_does_not_overwrite(bundle: Path, cohort: Path, tmp_path: Path, invoke: Invoke) -> None:
    (tmp_path / "evaluation.json").write_text("{}")
    result = invoke("evaluate", bundle, cohort, "--out", tmp_path)
    assert result.exit_code == 2
    assert "--overwrite" in result.stderr


def test_explain(bundle: Path, cohort: Path, tmp_path: Path, invoke: Invoke) -> None:
    result = invoke(
        "explain", bundle, cohort / "manifest.csv", "--limit", "2", "--out", tmp_path / "maps", "--method", "final_attention",
        "--method", "grad_cam",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert len(list((tmp_path / "maps").glob("*.png"))) == 2
    assert (tmp_path / "maps" / "explain.json").is_file()
    assert "Research use only" in result.stderr


def test_a_finished_run_is_not_overwritten(run: Path, cohort: Path, train: Invoke) -> None:
    before = (run / "bundle" / "model.safetensors").stat().st_mtime_ns
    result = train(cohort, "--out", run, "--epochs", "2", "--seed", "5")
    assert result.exit_code == 2
    assert "finished run" in result.stderr
    assert "--overwrite" in result.stderr
    assert (run / "bundle" / "model.safetensors").stat().st_mtime_ns == before
