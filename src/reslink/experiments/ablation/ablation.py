"""Ablation: what each part of the network is worth, how steadily it trains, and where its attention lies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reslink.errors import UsageError, nearest
from reslink.experiments.ablation.tables import answers, attention_table, border_table, stability_table
from reslink.experiments.report import Study
from reslink.experiments.runner.compare_arms import Comparison
from reslink.experiments.runner.experiment import Setting

Changes = dict[str, Any]

ARMS: dict[str, tuple[str, Changes]] = {
    "full": ("full network", {}),
    "no_attention": ("no attention", {"model.attention": "none"}),
    "first_only": ("first attention only", {"model.attention": "first"}),
    "final_only": ("final attention only", {"model.attention": "final"}),
    "no_residual": ("no residual links", {"model.residual": False}),
    "neither": ("neither attention nor residual links", {"model.attention": "none", "model.residual": False}),
    "no_dropout": ("no dropout", {"model.drop_rate": 0.0, "model.head_drop_rate": 0.0}),
}
"""Name of an arm: what a table calls it, and what of the recipe it changes."""

AREA_SIZES = (1, 14)
"""Each pixel an area of its own; and the whole final map of 14×14 one area, without a border."""


def ablation(setting: Setting, arms: Sequence[str] = (), area_sizes: Sequence[int] = AREA_SIZES) -> dict[str, Any]:
    """Trains the network without one of its parts at a time, and compares.

    Args:
        setting: Data, recipe, seeds and folder.
        arms: Names of ``ARMS`` to train besides the full network; all where empty.
        area_sizes: Sides of areas to compare with that of the recipe.

    Returns:
        What ``study.json`` holds; it is written with a page to ``ablation`` in the folder of studies.

    Raises:
        UsageError: If there is no such arm, or the data cannot be used.
        Interrupted: On Ctrl-C; the same call goes on.
    """
    chosen = _chosen(setting, arms, area_sizes)
    trials = [
        setting.trial(arm, seed, changes, attention=True) for arm, (_, changes) in chosen.items() for seed in setting.seeds
    ]
    found = Comparison.of(setting, trials, {arm: title for arm, (title, _) in chosen.items()})
    attention, borders = attention_table(found), border_table(found)
    study = Study(
        name="ablation",
        title="Ablation",
        question="What is each part of the network worth: attention, residual links, dropout, the size of an area?",
        answer=[*found.warnings, *answers(found)],
        facts=found.facts(),
        tables=[found.figures("Figures on the test part"), stability_table(found), attention, borders],
        charts=[found.chart("accuracy"), found.chart("auroc")],
        runs=found.run_rows(),
        failed=found.failures,
        not_done=_not_done(setting),
    )
    return study.write(setting.out / study.name)


def _chosen(setting: Setting, arms: Sequence[str], area_sizes: Sequence[int]) -> dict[str, tuple[str, Changes]]:
    for arm in arms:
        if arm not in ARMS:
            raise UsageError(f"There is no arm {arm!r}", f"The arms are {', '.join(ARMS)}", nearest(arm, ARMS))
    names = ["full", *(arm for arm in arms if arm != "full")] if arms else list(ARMS)
    usual = setting.recipe.network(len(setting.manifest.labels)).area_size
    sizes = {
        f"area_{side}": (f"areas of {side}×{side} (full: {usual}×{usual})", {"model.area_size": side})
        for side in area_sizes
        if side != usual
    }
    return {name: ARMS[name] for name in names} | sizes


def _not_done(setting: Setting) -> list[str]:
    reasons = []
    if setting.cache.masks is None:
        reasons.append("α inside and outside the lesion: the data has no lesion masks. The head stands in for it.")
    if len(setting.seeds) < 2:
        reasons.append("Spread over seeds: there is one seed.")
    return reasons
