"""The charts of a search, in the form that ``reports.experiment.charts`` draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reslink.experiments.report import Row
from reslink.experiments.tune.dimensions import Choice
from reslink.experiments.tune.records import SearchTrial, Selection
from reslink.experiments.tune.space import Space

MAX_AXES = 10
"""Settings in the parallel coordinates: the most important ones, or the first ones."""


def make_charts(
    trials: Sequence[SearchTrial],
    selection: Selection,
    space: Space,
    importance: Mapping[str, float] | None,
    rows: Sequence[Row],
) -> list[dict[str, Any]]:
    """Returns the charts: history, AUROC by cost, parallel coordinates, and the importance of the settings.

    AUROC by cost is left out if the cost of all trials is the same.

    Args:
        trials: All trials.
        selection: The choice among them.
        space: The space.
        importance: Share of the variance by key; None with too few trials.
        rows: The rows of ``trials.csv``, with the value of each key.
    """
    costs = [_cost(trials, selection)] if cost_varies(trials) else []
    charts = [_history(trials), *costs, _parallel(trials, selection, space, importance, rows)]
    return charts if importance is None else [*charts, _importance(importance)]


def cost_varies(trials: Sequence[SearchTrial]) -> bool:
    """Returns whether the complete trials differ in their time for a slice."""
    return len({trial.ms_per_slice for trial in trials if trial.state == "complete"}) > 1


def _history(trials: Sequence[SearchTrial]) -> dict[str, Any]:
    highest: list[list[float]] = []
    for trial in trials:
        if trial.state == "complete" and trial.mean is not None:
            highest.append([trial.number, max(trial.mean, highest[-1][1] if highest else 0.0)])
    return {
        "kind": "points",
        "name": "history",
        "title": "History",
        "axis_x": "trial",
        "axis_y": "AUROC, mean over folds",
        "whole_x": True,
        "steps": {"label": "highest so far", "points": highest},
        "series": [
            {"label": label, "points": points}
            for label, state in (("complete", "complete"), ("stopped early", "stopped"))
            if (points := [[t.number, t.mean] for t in trials if t.state == state and t.mean is not None])
        ],
    }


def _cost(trials: Sequence[SearchTrial], selection: Selection) -> dict[str, Any]:
    groups = {"other": [], "tied with the highest": [], "best": []}  # type: dict[str, list[list[float]]]
    for trial in trials:
        if trial.state == "complete" and trial.mean is not None and trial.ms_per_slice is not None:
            name = "best" if trial is selection.best else "tied with the highest" if trial in selection.tied else "other"
            groups[name].append([trial.ms_per_slice, trial.mean])
    return {
        "kind": "points",
        "name": "cost",
        "title": "AUROC by time for a slice",
        "axis_x": "milliseconds for a slice",
        "axis_y": "AUROC, mean over folds",
        "series": [{"label": label, "points": points} for label, points in groups.items() if points],
    }


def _parallel(
    trials: Sequence[SearchTrial],
    selection: Selection,
    space: Space,
    importance: Mapping[str, float] | None,
    rows: Sequence[Row],
) -> dict[str, Any]:
    keys = list(importance or space.dimensions)[:MAX_AXES]
    scored = [(row, trial) for row, trial in zip(rows, trials, strict=True) if trial.mean is not None]
    axes = [_axis(space, key, [row[key] for row, _ in scored]) for key in keys]
    scores = [trial.mean or 0.0 for _, trial in scored]
    axes.append({"label": "AUROC", "low": min(scores), "high": max(scores)})
    lines = [
        {
            "values": [*(row[key] for key in keys), trial.mean],
            "group": "best" if trial is selection.best else "tied" if trial in selection.tied else "other",
        }
        for row, trial in scored
    ]
    return {"kind": "parallel", "name": "parallel", "title": "Settings and AUROC of each trial", "axes": axes, "lines": lines}


def _axis(space: Space, key: str, values: Sequence[Any]) -> dict[str, Any]:
    """Returns an axis that holds all values of the trials; a value of the base recipe can be outside the space."""
    dimension = space.dimensions[key]
    if isinstance(dimension, Choice):
        choices = list(dimension.values)
        return {"label": key, "choices": [*choices, *(value for value in values if value not in choices)]}
    numbers = [value for value in values if isinstance(value, int | float)]
    return {"label": key, "low": min([dimension.low, *numbers]), "high": max([dimension.high, *numbers]), "log": dimension.log}


def _importance(importance: Mapping[str, float]) -> dict[str, Any]:
    return {
        "kind": "bars",
        "name": "importance",
        "title": "Importance of the settings",
        "axis": "share of the variance of the AUROC (fANOVA)",
        "rows": [{"label": key, "value": value} for key, value in importance.items()],
    }
