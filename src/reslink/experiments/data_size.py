"""The learning curve: the same network with a part of the patients."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

from reslink.errors import UsageError
from reslink.experiments.report import Study, Table
from reslink.experiments.runner.compare_arms import COMPARED, Comparison, told
from reslink.experiments.runner.experiment import Setting
from reslink.experiments.runner.run_spec import UNUSED, Trial
from reslink.metrics.classification import NAMES

PERCENT = (5.0, 10.0, 25.0, 50.0, 100.0)
LEARNED = ("train", "validation")
Keep = Literal["steps", "epochs"]


def data_size(setting: Setting, percent: Sequence[float] = PERCENT, keep: Keep = "steps") -> dict[str, Any]:
    """Trains with a growing part of the patients; the test part stays the same.

    Training and validation part shrink alike. Whole patients or twin groups are left out, the classes in equal shares;
    a smaller part lies within each larger one.

    Args:
        setting: Data, recipe, seeds and folder.
        percent: Parts of the patients in percent; 100 is what the others are compared with.
        keep: ``steps``: as many optimizer steps for each part, so that a small one is seen more often; ``epochs``: each
            image as often.

    Returns:
        What ``study.json`` holds; it is written with a page to ``data-size`` in the folder of studies.

    Raises:
        UsageError: If a part is not above 0 and at most 100, or the data cannot be used.
        Interrupted: On Ctrl-C; the same call goes on.
    """
    sizes = sorted({*percent, 100.0}, reverse=True)
    if not 0 < min(sizes) <= max(sizes) <= 100:
        raise UsageError(
            f"The parts are {list(percent)}", "A part lies above 0 and up to 100 percent", "Write --percent 5 25 100"
        )
    trials, left_out = _trials(setting, sizes, keep)
    titles = {trial.arm: f"{trial.arm.removeprefix('percent_')} % of the patients" for trial in trials}
    found = Comparison.of(setting, trials, titles)
    study = Study(
        name="data-size",
        title="Data size",
        question="How do the figures grow with the number of patients, and would more of them help?",
        answer=[*found.warnings, *_answer(found)],
        facts=found.facts() | {"Same for each part": "optimizer steps" if keep == "steps" else "epochs"},
        tables=[found.figures("Figures on the test part"), _sizes(found)],
        charts=[_chart(found)],
        runs=found.run_rows(),
        failed=found.failures,
        not_done=left_out,
    )
    return study.write(setting.out / study.name)


def _trials(setting: Setting, sizes: Sequence[float], keep: Keep) -> tuple[list[Trial], list[str]]:
    trials: list[Trial] = []
    left_out: list[str] = []
    for size in sizes:
        made: list[Trial] = []
        for seed in setting.seeds:
            whole = setting.trial(f"percent_{size:g}", seed)
            parts = shrunk(setting, whole.parts, size / 100, seed)
            if parts is None:
                left_out.append(
                    f"{size:g} %, seed {seed}: a class would have no patient or twin group in training or validation."
                )
                continue
            changes = {} if keep == "epochs" or size == 100 else {"trainer.epochs": _longer(whole, parts)}
            made.append(Trial(whole.arm, seed, setting.changed(seed, changes), parts))
        trials += made
    return trials, left_out


def _longer(whole: Trial, parts: Sequence[str]) -> int:
    """Epochs after which a part has seen as many steps as the whole."""
    trainer = whole.recipe.trainer
    steps, fewer = (max(1, round(list(p).count("train") / trainer.batch_size)) for p in (whole.parts, parts))
    return max(1, round(trainer.epochs * steps / fewer))


def shrunk(setting: Setting, parts: Sequence[str], share: float, seed: int) -> tuple[str, ...] | None:
    """Leaves out groups of the training and validation part.

    Args:
        setting: Holds groups and classes.
        parts: Part of each case.
        share: Share of the groups to keep of each class.
        seed: Decides the order in which groups come in.

    Returns:
        The parts, ``unused`` for cases left out; None where a class would be missing from training or validation.
    """
    if share >= 1:
        return tuple(parts)
    targets, groups = setting.cache.targets, setting.data.groups
    classes = _main_classes(groups, targets)
    kept: set[tuple[str, str]] = set()
    for part in LEARNED:
        of_class: dict[int, list[str]] = {}
        for group in _in_random_order({g for g, p in zip(groups, parts, strict=True) if p == part}, seed):
            of_class.setdefault(classes[group], []).append(group)
        for names in of_class.values():
            kept |= {(part, name) for name in names[: max(1, math.ceil(share * len(names) - 1e-9))]}
    chosen = [p if p not in LEARNED or (p, g) in kept else UNUSED for p, g in zip(parts, groups, strict=True)]
    for part in LEARNED:
        if len({int(k) for k, p in zip(targets, chosen, strict=True) if p == part}) < len(setting.manifest.labels):
            return None
    return tuple(chosen)


def _in_random_order(names: set[str], seed: int) -> list[str]:
    ordered = sorted(names)
    return [ordered[i] for i in np.random.default_rng([seed, 5]).permutation(len(ordered))]


def _main_classes(groups: Sequence[str], targets: Iterable[int]) -> dict[str, int]:
    """The class that most images of each group have."""
    counts: dict[str, Counter[int]] = {}
    for group, target in zip(groups, targets, strict=True):
        counts.setdefault(group, Counter())[int(target)] += 1
    return {group: min(found, key=lambda k: (-found[k], k)) for group, found in counts.items()}


def _answer(found: Comparison) -> list[str]:
    """Whether the last step still helped, and how far each part lies below the whole."""
    arms = list(found.titles)
    said = []
    if len(arms) > 1:
        whole, before = arms[:2]
        tests = {figure: found.runs.difference(whole, before, figure) for figure in COMPARED}
        said = [told(found.titles[whole], found.titles[before], figure, test) for figure, test in tests.items()]
        rising = any((test.estimate.ci_low or 0) > 0 for test in tests.values())
        said.append(
            "The curve still rises at its end: more patients would be likely to help."
            if rising
            else "That the curve still rises at its end was not shown; with more patients it may."
        )
    return said + [found.sentence(arm, figure) for arm in arms[1:] for figure in COMPARED]


def _sizes(found: Comparison) -> Table:
    columns: dict[str, tuple[str, Any]] = {
        "title": ("", "text"),
        "images": ("training images, first seed", "count"),
        "groups": ("patients or twin groups", "count"),
        "epochs": ("epochs", "count"),
    }
    rows = []
    for arm in found.titles:
        trial = next(record.trial for record in found.records if record.trial.arm == arm)
        inside = [g for g, part in zip(found.setting.data.groups, trial.parts, strict=True) if part == "train"]
        row = {"arm": arm, "title": found.titles[arm], "images": len(inside), "groups": len(set(inside))}
        rows.append(row | {"epochs": trial.recipe.trainer.epochs})
    return Table("sizes", "What each part holds", columns, rows)


def _chart(found: Comparison) -> dict[str, Any]:
    series = []
    for figure in ("accuracy", "auroc"):
        means = {float(arm.removeprefix("percent_")): found.runs.mean(arm, figure).estimate for arm in found.titles}
        ordered = sorted(means)
        series.append(
            {
                "label": NAMES[figure],
                "x": ordered,
                "y": [means[x].estimate for x in ordered],
                "low": [means[x].ci_low for x in ordered],
                "high": [means[x].ci_high for x in ordered],
            }
        )
    return {
        "kind": "lines",
        "name": "learning-curve",
        "title": "Learning curve",
        "axis_x": "percent of the patients",
        "axis_y": "figure, with its 95 % interval",
        "log_x": True,
        "series": series,
    }
