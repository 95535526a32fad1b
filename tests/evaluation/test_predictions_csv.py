"""``predictions.csv``, read back with the standard library."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from reslink.bundles.decision.decision import Decision, DecisionResults
from reslink.datasets.case import Case
from reslink.datasets.manifest import Manifest
from reslink.evaluation.predictions_csv import CasePredictions, write_predictions
from reslink.labels import Labels

TWO, THREE = Labels(("Healthy", "Tumor")), Labels(("a", "b", "c"))


def predictions(logits: np.ndarray, labels: Labels, tmp_path: Path, results: DecisionResults | None = None) -> CasePredictions:
    cases = [
        Case(tmp_path / f"{i}.png", labels.names[i % 2], patient_id=f"p{i}", split="test", name=f"{i}.png")
        for i in range(len(logits))
    ]
    exponent = np.exp(logits)
    return CasePredictions(
        np.arange(len(logits)),
        Manifest(tuple(cases), labels, tmp_path),
        [f"=g{i}" for i in range(len(logits))],
        logits,
        exponent / exponent.sum(axis=1, keepdims=True),
        {},
        [f"{i:064x}" for i in range(len(logits))],
        results,
    )


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_two_classes_show_the_log_odds_of_the_positive_class(tmp_path: Path) -> None:
    logits = np.array([[2.0, 0.5], [-1.0, 1.25]])
    rows = read(write_predictions(tmp_path / "p.csv", predictions(logits, TWO, tmp_path), TWO, Decision(threshold=0.1)))
    assert [float(row["logit"]) for row in rows] == [-1.5, 2.25]
    assert [float(row["prob"]) for row in rows] == pytest.approx([1 / (1 + np.exp(1.5)), 1 / (1 + np.exp(-2.25))])
    assert [row["prediction"] for row in rows] == ["Tumor", "Tumor"], "the threshold is 0.1"
    assert [(row["sample_id"], row["patient_id"], row["label"]) for row in rows] == [
        ("0.png", "p0", "Healthy"),
        ("1.png", "p1", "Tumor"),
    ]
    assert {row["group"][0] for row in rows} == {"'"}, "a spreadsheet must not run =g0"
    assert {row[name] for row in rows for name in ("prediction_set", "abstain", "ood_score", "reasons")} == {""}


def test_more_classes_show_the_predicted_class(tmp_path: Path) -> None:
    logits = np.array([[0.0, 3.0, 1.0], [5.0, 0.0, 0.0]])
    path = write_predictions(tmp_path / "p.csv", predictions(logits, THREE, tmp_path), THREE, Decision(threshold=None))
    rows = read(path)
    assert [(row["prediction"], float(row["logit"])) for row in rows] == [("b", 3.0), ("a", 5.0)]
    for row in rows:
        assert float(row["prob"]) == float(row[f"p_{row['prediction']}"])
        assert sum(float(row[f"p_{name}"]) for name in THREE.names) == pytest.approx(1)


def test_prediction_sets_scores_and_reasons(tmp_path: Path) -> None:
    results = DecisionResults(
        probabilities=np.array([[0.5, 0.5], [0.1, 0.9]]),
        predicted=np.array([1, 1]),
        prediction_sets=np.array([[True, True], [False, True]]),
        ood_score=np.array([0.25, 1.5]),
        reasons=[["two classes are possible", "the image differs"], []],
    )
    cases = predictions(np.array([[0.0, 0.0], [0.0, 2.0]]), TWO, tmp_path, results)
    first, second = read(write_predictions(tmp_path / "p.csv", cases, TWO, Decision()))
    assert (first["prediction_set"], first["abstain"], first["ood_score"]) == ("Healthy|Tumor", "true", "0.25")
    assert first["reasons"] == "two classes are possible; the image differs"
    assert (second["prediction_set"], second["abstain"], second["ood_score"], second["reasons"]) == (
        "Tumor",
        "false",
        "1.5",
        "",
    )


@pytest.mark.parametrize("has_decision", [True, False])
def test_the_parquet_file_has_the_rows_of_the_csv_with_types_and_nulls(tmp_path: Path, has_decision: bool) -> None:
    results = DecisionResults(
        probabilities=np.array([[0.5, 0.5], [0.1, 0.9], [0.2, 0.8]]),
        predicted=np.array([1, 1, 1]),
        prediction_sets=np.array([[True, True], [False, False], [False, True]]),
        ood_score=np.array([0.1, 1 / 3, 1.5]),
        reasons=[["two classes", "unlike"], [], []],
    )
    results = results.with_refusals([None, None, "the image is MR"])
    logits = np.array([[0.0, 0.1], [0.0, 2.0], [1.0, 2.0]])
    cases = predictions(logits, TWO, tmp_path, results if has_decision else None)
    expected = read(write_predictions(tmp_path / "p.csv", cases, TWO, Decision()))
    table = pq.read_table(write_predictions(tmp_path / "p.parquet", cases, TWO, Decision()))
    types = {field.name: str(field.type) for field in table.schema}
    assert [types[name] for name in ("logit", "prob", "p_Tumor", "ood_score", "abstain")] == ["double"] * 4 + ["bool"]
    rows = table.to_pylist()

    def text(value: object) -> str:
        return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

    assert [row["group"] for row in rows] == ["=g0", "=g1", "=g2"], "only spreadsheets run formulas"
    as_csv = [{name: text(value) for name, value in row.items()} | {"group": f"'{row['group']}"} for row in rows]
    assert as_csv == expected
    assert [row["prediction_set"] for row in rows] == (["Healthy|Tumor", "", None] if has_decision else [None] * 3)
    assert [row["reasons"] for row in rows] == (
        ["two classes; unlike", None, "the image is MR"] if has_decision else [None] * 3
    )
    assert [row["p_Tumor"] is None for row in rows] == [False, False, has_decision]
