"""The ablation experiment: the contribution of each component of the network, its stability, and its attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reslink.errors import check_choice
from reslink.experiments.ablation.tables import attention_table, border_table, conclusions, stability_table
from reslink.experiments.report import ExperimentReport
from reslink.experiments.runner.comparison import Comparison
from reslink.experiments.runner.experiment import Experiment

Overrides = dict[str, Any]

CONDITIONS: dict[str, tuple[str, Overrides]] = {
    "full": ("full network", {}),
    "no_attention": ("no attention", {"model.attention": "none"}),
    "first_only": ("first attention only", {"model.attention": "first"}),
    "final_only": ("final attention only", {"model.attention": "final"}),
    "no_residual": ("no residual links", {"model.residual": False}),
    "neither": ("neither attention nor residual links", {"model.attention": "none", "model.residual": False}),
    "no_dropout": ("no dropout", {"model.drop_rate": 0.0, "model.head_drop_rate": 0.0}),
}
"""Condition to its title and its overrides of the recipe."""

AREA_SIZES = (1, 14)
"""Each pixel is an area of its own; and the whole final 14×14 map is one area, without a border."""


def ablation(experiment: Experiment, conditions: Sequence[str] = (), area_sizes: Sequence[int] = AREA_SIZES) -> dict[str, Any]:
    """Trains the network without one component at a time, and compares with the full network.

    Args:
        experiment: Data, recipe, seeds and folder.
        conditions: Names of ``CONDITIONS`` to train besides the full network; empty for all.
        area_sizes: Area sizes to compare with that of the recipe.

    Returns:
        The contents of ``experiment.json``, which is written with a page to ``ablation`` in the folder of experiments.

    Raises:
        UsageError: If a condition is unknown, or the data cannot be used.
        Interrupted: On Ctrl-C; the same call resumes.
    """
    selected = _select_conditions(experiment, conditions, area_sizes)
    trials = [
        experiment.make_trial(condition, seed, overrides, measure_attention=True)
        for condition, (_, overrides) in selected.items()
        for seed in experiment.seeds
    ]
    comparison = Comparison.run(experiment, trials, {condition: title for condition, (title, _) in selected.items()})
    attention, borders = attention_table(comparison), border_table(comparison)
    report = ExperimentReport(
        name="ablation",
        title="Ablation",
        question="What do attention, residual links, dropout and the area size contribute?",
        answer=[*comparison.warnings, *conclusions(comparison, attention)],
        facts=comparison.facts(),
        tables=[comparison.metrics_table("Metrics on the test split"), stability_table(comparison), attention, borders],
        charts=[comparison.difference_chart("accuracy"), comparison.difference_chart("auroc")],
        runs=comparison.run_rows(),
        failed=comparison.failures,
        not_done=_not_done(experiment),
    )
    return report.write(experiment.out / report.name)


def _select_conditions(
    experiment: Experiment, conditions: Sequence[str], area_sizes: Sequence[int]
) -> dict[str, tuple[str, Overrides]]:
    for name in conditions:
        check_choice("condition", name, CONDITIONS)
    names = ["full", *(name for name in conditions if name != "full")] if conditions else list(CONDITIONS)
    default = experiment.recipe.reslink(len(experiment.manifest.labels)).area_size
    by_area_size = {
        f"area_{size}": (f"areas of {size}×{size} (full: {default}×{default})", {"model.area_size": size})
        for size in area_sizes
        if size != default
    }
    return {name: CONDITIONS[name] for name in names} | by_area_size


def _not_done(experiment: Experiment) -> list[str]:
    reasons = []
    if experiment.cache.masks is None:
        reasons.append("α inside and outside the lesion: the data has no lesion masks. The head is used instead.")
    if len(experiment.seeds) < 2:
        reasons.append("Spread over seeds: there is only one seed.")
    return reasons
