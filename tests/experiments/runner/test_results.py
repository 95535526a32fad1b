"""The predictions and the records of a trial, read from its folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, recall_score, roc_auc_score

from reslink.experiments.runner.results import TrialPredictions, TrialResult
from reslink.experiments.runner.trial import Trial
from reslink.labels import Labels
from reslink.training.recipe.recipe import load_recipe

LABELS = Labels(("Healthy", "Tumor"))


@pytest.fixture
def result(tmp_path: Path) -> TrialResult:
    return TrialResult(Trial("full", 0, load_recipe(None, []), ("test",)), tmp_path, LABELS)


def write_predictions(path: Path, rng: np.random.Generator, n: int = 40) -> None:
    positive = rng.random(n)
    lines = ["sample_id,label,prediction,group,p_Healthy,p_Tumor"]
    for i, p in enumerate(positive):
        label, prediction = (LABELS.names[int(score > 0.5)] for score in (p + rng.normal(0, 0.3), p))
        lines.append(f"{i}.png,{label},{prediction},g{i // 2},{1 - p},{p}")
    path.write_text("\n".join(lines))


def test_metrics_of_unweighted_cases(result: TrialResult, rng: np.random.Generator) -> None:
    write_predictions(result.folder / "predictions.csv", rng)
    cases = result.predictions
    metrics = cases.metrics(np.ones((1, 40)))
    assert metrics["accuracy"][0] == pytest.approx(accuracy_score(cases.y_true, cases.y_pred)) == cases.correct.mean()
    assert metrics["sensitivity"][0] == pytest.approx(recall_score(cases.y_true, cases.y_pred))
    assert metrics["auroc"][0] == pytest.approx(roc_auc_score(cases.y_true, cases.y_prob[:, 1]))


def test_a_weight_of_zero_is_a_missing_case(result: TrialResult, rng: np.random.Generator) -> None:
    write_predictions(result.folder / "predictions.csv", rng)
    cases, kept = result.predictions, np.arange(40) % 3 > 0
    subset = cases.subset(kept)
    assert (subset.names, subset.groups[0]) == ([name for name, keep in zip(cases.names, kept, strict=True) if keep], "g0")
    weighted, unweighted = cases.metrics(kept[None].astype(float)), subset.metrics(np.ones((1, len(subset.names))))
    assert {name: values[0] for name, values in weighted.items()} == pytest.approx(
        {name: values[0] for name, values in unweighted.items()}
    )


def test_the_rarest_class_counts_the_groups() -> None:
    y_true = np.array([0, 0, 0, 1, 2, 2])
    cases = TrialPredictions(list("abcdef"), ["p1", "p2", "p3", "p4", "p4", "p5"], y_true, np.eye(3)[y_true], y_true)
    assert cases.effective_groups() == {"sensitivity": 1, "specificity": 2, "auroc": 1}


def test_the_records_of_a_run(result: TrialResult) -> None:
    rows = [{"kind": "epoch", "epoch": 1}, {"kind": "step", "step": 3}, {"kind": "finding", "code": "gap"}]
    (result.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (result.folder / "checkpoints").mkdir()
    (result.folder / "checkpoints" / "finished.json").write_text('{"best_epoch": 1}')
    (result.folder / "attention.csv").write_text("inside,outside\n0.5,\n0.25,0.75\n")
    assert (result.epochs, result.steps, result.findings) == ([rows[0]], [rows[1]], ["gap"])
    assert result.best_epoch == 1
    np.testing.assert_array_equal(result.attention["inside"], [0.5, 0.25])
    np.testing.assert_array_equal(result.attention["outside"], [np.nan, 0.75])
