"""The data-size experiment: a learning curve over the share of patients used for training."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

from reslink.errors import UsageError
from reslink.experiments.report import ExperimentReport, Table
from reslink.experiments.runner.comparison import COMPARED_METRICS, Comparison, difference_sentence
from reslink.experiments.runner.experiment import Experiment
from reslink.experiments.runner.trial import UNUSED, Trial
from reslink.metrics.classification import METRIC_NAMES

PERCENT = (5.0, 10.0, 25.0, 50.0, 100.0)
REDUCED_SPLITS = ("train", "validation")
HoldConstant = Literal["steps", "epochs"]


def data_size(
    experiment: Experiment, percent: Sequence[float] = PERCENT, hold_constant: HoldConstant = "steps"
) -> dict[str, Any]:
    """Trains with a growing share of the patients and evaluates on the same test split.

    The training and the validation split shrink equally. Whole patients or duplicate groups are left out, in equal shares
    of each class. A smaller subset is contained in each larger one.

    Args:
        experiment: Data, recipe, seeds and folder.
        percent: Shares of the patients in percent; 100 is the reference.
        hold_constant: ``steps``: the same number of optimizer steps for each share, with more epochs for a smaller one;
            ``epochs``: the same number of epochs.

    Returns:
        The contents of ``experiment.json``, which is written with a page to ``data-size`` in the folder of experiments.

    Raises:
        UsageError: If a share is not above 0 and at most 100, or the data cannot be used.
        Interrupted: On Ctrl-C; the same call resumes.
    """
    shares = sorted({*percent, 100.0}, reverse=True)
    if not 0 < min(shares) <= max(shares) <= 100:
        raise UsageError(
            f"The shares are {list(percent)}",
            "A share must be above 0 and at most 100 percent",
            "Use for example --percent 5 25 100",
        )
    trials, skipped = _make_trials(experiment, shares, hold_constant)
    titles = {trial.condition: f"{trial.condition.removeprefix('percent_')} % of the patients" for trial in trials}
    comparison = Comparison.run(experiment, trials, titles)
    report = ExperimentReport(
        name="data-size",
        title="Data size",
        question="How do the metrics grow with the number of patients, and would more patients help?",
        answer=[*comparison.warnings, *_answer(comparison)],
        facts=comparison.facts() | {"Same for each share": "optimizer steps" if hold_constant == "steps" else "epochs"},
        tables=[comparison.metrics_table("Metrics on the test split"), _sizes_table(comparison)],
        charts=[_learning_curve(comparison)],
        runs=comparison.run_rows(),
        failed=comparison.failures,
        not_done=skipped,
    )
    return report.write(experiment.out / report.name)


def _make_trials(experiment: Experiment, shares: Sequence[float], hold_constant: HoldConstant) -> tuple[list[Trial], list[str]]:
    """Returns the trials, and the reason for each combination of share and seed that is skipped."""
    trials: list[Trial] = []
    skipped: list[str] = []
    for share in shares:
        for seed in experiment.seeds:
            full = experiment.make_trial(f"percent_{share:g}", seed)
            splits = subsample_groups(experiment, full.splits, share / 100, seed)
            if splits is None:
                reason = "a class would have no patient or duplicate group in training or validation"
                skipped.append(f"{share:g} %, seed {seed}: {reason}.")
                continue
            same_epochs = hold_constant == "epochs" or share == 100
            overrides = {} if same_epochs else {"trainer.epochs": _epochs_for_equal_steps(full, splits)}
            trials.append(Trial(full.condition, seed, experiment.make_recipe(seed, overrides), splits))
    return trials, skipped


def _epochs_for_equal_steps(full: Trial, splits: Sequence[str]) -> int:
    """Returns the number of epochs after which a subset has been trained for as many steps as the full data."""
    trainer = full.recipe.trainer
    steps, fewer_steps = (
        max(1, round(list(case_splits).count("train") / trainer.batch_size)) for case_splits in (full.splits, splits)
    )
    return max(1, round(trainer.epochs * steps / fewer_steps))


def subsample_groups(experiment: Experiment, splits: Sequence[str], share: float, seed: int) -> tuple[str, ...] | None:
    """Leaves out groups of the training and validation splits.

    Args:
        experiment: Supplies groups and classes.
        splits: Split of each case.
        share: Share of the groups of each class to keep.
        seed: Seed of the order in which groups are kept.

    Returns:
        The splits, ``unused`` for the cases left out; None if a class would be missing from training or validation.
    """
    if share >= 1:
        return tuple(splits)
    targets, groups = experiment.cache.targets, experiment.data.groups
    classes = _main_classes(groups, targets)
    kept: set[tuple[str, str]] = set()
    for reduced in REDUCED_SPLITS:
        by_class: dict[int, list[str]] = {}
        for group in _shuffled({g for g, split in zip(groups, splits, strict=True) if split == reduced}, seed):
            by_class.setdefault(classes[group], []).append(group)
        for names in by_class.values():
            kept |= {(reduced, name) for name in names[: max(1, math.ceil(share * len(names) - 1e-9))]}
    subset = [
        split if split not in REDUCED_SPLITS or (split, group) in kept else UNUSED
        for split, group in zip(splits, groups, strict=True)
    ]
    for reduced in REDUCED_SPLITS:
        present = {int(k) for k, split in zip(targets, subset, strict=True) if split == reduced}
        if len(present) < len(experiment.manifest.labels):
            return None
    return tuple(subset)


def _shuffled(names: set[str], seed: int) -> list[str]:
    ordered = sorted(names)
    return [ordered[i] for i in np.random.default_rng([seed, 5]).permutation(len(ordered))]


def _main_classes(groups: Sequence[str], targets: Iterable[int]) -> dict[str, int]:
    """Returns the most frequent class of each group."""
    counts: dict[str, Counter[int]] = {}
    for group, target in zip(groups, targets, strict=True):
        counts.setdefault(group, Counter())[int(target)] += 1
    return {group: min(classes, key=lambda k: (-classes[k], k)) for group, classes in counts.items()}


def _answer(comparison: Comparison) -> list[str]:
    """Returns whether the last increase still helped, and the difference of each share to the full data."""
    conditions = list(comparison.titles)
    sentences = []
    if len(conditions) > 1:
        full, previous = conditions[:2]
        tests = {metric: comparison.bootstrap.difference(full, previous, metric) for metric in COMPARED_METRICS}
        sentences = [
            difference_sentence(comparison.titles[full], comparison.titles[previous], metric, test)
            for metric, test in tests.items()
        ]
        rising = any((test.estimate.ci_low or 0) > 0 for test in tests.values())
        sentences.append(
            "The curve still rises at its end: more patients would probably help."
            if rising
            else "No significant rise at the end of the curve; more patients may still help."
        )
    return sentences + [comparison.sentence(name, metric) for name in conditions[1:] for metric in COMPARED_METRICS]


def _sizes_table(comparison: Comparison) -> Table:
    columns: dict[str, tuple[str, Any]] = {
        "title": ("", "text"),
        "images": ("training images, first seed", "count"),
        "groups": ("patients or duplicate groups", "count"),
        "epochs": ("epochs", "count"),
    }
    rows = []
    for condition, title in comparison.titles.items():
        trial = next(result.trial for result in comparison.results if result.trial.condition == condition)
        groups = comparison.experiment.data.groups
        training = [group for group, split in zip(groups, trial.splits, strict=True) if split == "train"]
        row = {"condition": condition, "title": title, "images": len(training), "groups": len(set(training))}
        rows.append(row | {"epochs": trial.recipe.trainer.epochs})
    return Table("sizes", "Training data of each share", columns, rows)


def _learning_curve(comparison: Comparison) -> dict[str, Any]:
    series = []
    for metric in ("accuracy", "auroc"):
        means = {
            float(condition.removeprefix("percent_")): comparison.bootstrap.mean(condition, metric).estimate
            for condition in comparison.titles
        }
        ordered = sorted(means)
        series.append(
            {
                "label": METRIC_NAMES[metric],
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
        "axis_y": "metric with 95 % interval",
        "log_x": True,
        "series": series,
    }
