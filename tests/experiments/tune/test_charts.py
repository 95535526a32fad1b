"""The charts of a search."""

from __future__ import annotations

from typing import Any

from reslink.experiments.tune.charts import make_charts
from reslink.experiments.tune.records import SearchTrial, select
from reslink.experiments.tune.space import load_space
from reslink.training.recipe.recipe import load_recipe

SPACE = load_space({"optimizer.lr": {"low": 1e-3, "high": 1e-2, "log": True}, "model.area_size": [4, 7]}, None, load_recipe())


def charts(importance: dict[str, float] | None = None, ms: float = 4.0) -> dict[str, dict[str, Any]]:
    trials = [
        SearchTrial(0, "complete", True, {}, (0.7, 0.72, 0.71), "a", 5, 2.0, None, None),
        SearchTrial(1, "stopped", False, {}, (0.5, 0.51), "b", 5, 2.0, None, None),
        SearchTrial(3, "complete", False, {}, (0.9, 0.92, 0.91), "c", 9, ms, None, None),
        SearchTrial(4, "diverged", False, {}, (), "d", 9, 4.0, "loss", None),
    ]
    rates, sizes = (0.02, 0.005, 0.002, 0.009), (7, 4, 4, 7)
    rows = [{"optimizer.lr": lr, "model.area_size": size} for lr, size in zip(rates, sizes, strict=True)]
    selection = select(trials)
    assert selection is not None
    return {chart["name"]: chart for chart in make_charts(trials, selection, SPACE, importance, rows)}


def test_the_history_has_all_scored_trials_and_the_highest_so_far() -> None:
    history = charts()["history"]
    assert history["steps"]["points"] == [[0, 0.71], [3, 0.91]]
    assert {series["label"]: [x for x, _ in series["points"]] for series in history["series"]} == {
        "complete": [0, 3],
        "stopped early": [1],
    }


def test_cost_marks_the_best() -> None:
    assert charts()["cost"]["series"] == [
        {"label": "other", "points": [[2.0, 0.71]]},
        {"label": "best", "points": [[4.0, 0.91]]},
    ]


def test_equal_costs_are_not_drawn() -> None:
    assert "cost" not in charts(ms=2.0)


def test_parallel_axes_hold_a_base_recipe_outside_the_space() -> None:
    parallel = charts()["parallel"]
    assert parallel["axes"][0] == {"label": "optimizer.lr", "low": 1e-3, "high": 0.02, "log": True}
    assert parallel["axes"][1] == {"label": "model.area_size", "choices": [4, 7]}
    assert [line["group"] for line in parallel["lines"]] == ["other", "other", "best"]
    assert parallel["lines"][2]["values"] == [0.002, 4, 0.91]


def test_importance_is_drawn_if_there_is_one_and_orders_the_axes() -> None:
    assert "importance" not in charts()
    drawn = charts({"model.area_size": 0.8, "optimizer.lr": 0.2})
    assert [row["label"] for row in drawn["importance"]["rows"]] == ["model.area_size", "optimizer.lr"]
    assert drawn["parallel"]["axes"][0]["label"] == "model.area_size"
