"""The files of a search: table, page and importance."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from reslink.experiments.tune.results import MAX_COLUMNS, MIN_TRIALS, _settings_tables


def test_the_table_has_a_row_for_each_trial_and_a_column_for_each_setting(search: Any, training: Any, tmp_path: Path) -> None:
    result = search(trials=6)
    with (tmp_path / "tuned" / "trials.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["trial"]) for row in rows] == [row["trial"] for row in result["runs"]]
    assert {row["optimizer.lr"] for row in rows} == {str(row["optimizer.lr"]) for row in result["runs"]}
    [best] = [row for row in rows if row["best"] == "True"]
    assert int(best["trial"]) == result["best"]["trial"]
    folds = [float(best[f"fold_{k}"]) for k in range(1, 5)]
    assert abs(float(best["auroc"]) - sum(folds) / 4) < 1e-12
    assert float(best["auroc_per_ms"]) > 0


def test_few_trials_have_no_importance_and_many_have_one(search: Any, training: Any) -> None:
    few = search(trials=3, folds=3)
    assert few["importance"] is None
    assert any(f"needs {MIN_TRIALS} complete trials" in sentence for sentence in few["not_done"])
    many = search(trials=MIN_TRIALS + 8, folds=3)
    assert many["importance"]["optimizer.lr"] > 0.5
    assert abs(sum(many["importance"].values()) - 1) < 1e-9
    assert search(trials=MIN_TRIALS + 8, folds=3)["importance"] == many["importance"]


def test_the_page_is_self_contained_and_shows_all_charts(search: Any, training: Any, tmp_path: Path) -> None:
    result = search(trials=MIN_TRIALS + 8, folds=3)
    page = (tmp_path / "tuned" / "tune.html").read_text()
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    for title in ("History", "AUROC by time for a slice", "Settings and AUROC of each trial", "Importance of the settings"):
        assert title in page
    assert all(sentence.replace("'", "&#39;") in page for sentence in result["answer"])
    figures = {path.stem for path in (tmp_path / "tuned" / "figures").glob("*.svg")}
    assert figures == {"history", "cost", "parallel", "importance"}
    assert "from <code>tune.json</code>" in page


def test_the_comment_of_the_best_recipe_warns_of_its_own_test_split(search: Any, training: Any, tmp_path: Path) -> None:
    search(trials=2)
    text = (tmp_path / "tuned" / "best.yaml").read_text()
    assert text.startswith("# The best recipe of reslink tune: trial ")
    assert "metrics on it are too good" in text


def test_tied_trials_and_a_class_that_is_never_predicted_are_said(search: Any, training: Any) -> None:
    """The AUROC depends on the learning rate only, so trials that differ in something else are equal."""
    training.threshold = 1.0
    result = search(space={"optimizer.weight_decay": [0.01, 0.1]}, trials=3, folds=3)
    text = " ".join(result["answer"])
    assert "3 of 3 complete trials are tied" in text
    assert "The base recipe never predicts Tumor (10 images) on the hold-out, so its sensitivity (recall) is 0." in text
    assert any("AUROC by time is not drawn" in sentence for sentence in result["not_done"])


def test_the_settings_of_many_keys_are_in_several_tables() -> None:
    columns = {key: (key, "text") for key in ("trial", "role", "auroc")}
    keys = [f"section.key_{i}" for i in range(MAX_COLUMNS + 1)]
    tables = _settings_tables(keys, columns, [])
    assert [table.title for table in tables] == ["Settings of the trials, part 1 of 2", "Settings of the trials, part 2 of 2"]
    assert [key for table in tables for key in table.columns if "." in key] == keys
