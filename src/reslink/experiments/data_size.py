"""The data-size experiment: a learning curve over the share of patients used for training."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from reslink.datasets.case import UNUSED
from reslink.errors import UsageError
from reslink.experiments.report import ExperimentReport, Table
from reslink.experiments.robustness.tables import NO_FINGERPRINTS
from reslink.experiments.runner.comparison import COMPARED_METRICS, Comparison, difference_sentence
from reslink.experiments.runner.experiment import Experiment
from reslink.experiments.runner.seed_statistics import holm_corrected
from reslink.experiments.runner.trial import Trial
from reslink.metrics.classification import METRIC_NAMES
from reslink.training.recipe.recipe import Recipe
from reslink.training.recipe.schema import InitSettings

PERCENT = (5.0, 10.0, 25.0, 50.0, 100.0)
REDUCED_SPLITS = ("train", "validation")
HoldConstant = Literal["steps", "epochs"]
FROM_SCRATCH = {f"init.{name}": field.default for name, field in InitSettings.model_fields.items()}


@dataclass(frozen=True)
class Size:
    """An amount of training data.

    Attributes:
        value: Percent of the patients, or number of training images.
        unit: ``percent`` or ``images``.
    """

    value: float
    unit: Literal["percent", "images"] = "percent"

    @property
    def title(self) -> str:
        """The size in words."""
        return f"{self.value:g} % of the patients" if self.unit == "percent" else f"about {self.value:g} images"

    def condition(self, *, fine_tuned: bool) -> str:
        """Returns the name of the condition."""
        return f"{'fine_tuned_' if fine_tuned else ''}{self.unit}_{self.value:g}"

    def share(self, splits: Sequence[str]) -> float:
        """Returns the share of the training split, above 1 if it has too few images."""
        return self.value / (100 if self.unit == "percent" else max(1, list(splits).count("train")))


def data_size(
    experiment: Experiment,
    percent: Sequence[float] = PERCENT,
    hold_constant: HoldConstant = "steps",
    images: Sequence[int] = (),
) -> dict[str, Any]:
    """Trains with a growing share of the patients and evaluates on the same test split.

    The training and the validation split shrink equally. Whole patients or duplicate groups are left out, in equal shares
    of each class. A smaller subset is contained in each larger one. If the recipe has ``init.parent``, each size is trained
    from scratch and fine-tuned, with the same network, images and test cases.

    Args:
        experiment: Data, recipe, seeds and folder.
        percent: Shares of the patients in percent; 100 is the reference.
        hold_constant: ``steps``: as many optimizer steps for each size as for the largest one, with more epochs;
            ``epochs``: the same number of epochs.
        images: Numbers of training images instead of ``percent``. Because patients are kept whole, the numbers are approximate.

    Returns:
        The contents of ``experiment.json``, which is written with a page to ``data-size`` in the folder of experiments.

    Raises:
        UsageError: If a share is not above 0 and at most 100, no size can be trained, or the data cannot be used.
        Interrupted: On Ctrl-C; the same call resumes.
    """
    sizes = _sizes(percent, images)
    trials, skipped = _make_trials(experiment, sizes, hold_constant)
    if not trials:
        raise UsageError(
            f"No size can be trained: {skipped[0]}",
            "Training and validation need a patient or duplicate group of each class",
            "Use larger sizes, or more data",
        )
    titles = _titles(experiment, sizes, {trial.condition for trial in trials})
    comparison = Comparison.run(experiment, trials, titles)
    fine_tuning, gains = _fine_tuning(comparison, sizes)
    report = ExperimentReport(
        name="data-size",
        title="Data size",
        question="How do the metrics grow with the number of patients, and would more patients help?",
        answer=[*comparison.warnings, *gains, *_answer(comparison, sizes)],
        facts=comparison.facts() | _facts(experiment, trials, hold_constant),
        tables=[comparison.metrics_table("Metrics on the test split"), *fine_tuning, _sizes_table(comparison)],
        charts=[_learning_curve(comparison, sizes)],
        runs=comparison.run_rows(),
        failed=comparison.failures,
        not_done=[*skipped, *([NO_FINGERPRINTS] if experiment.parent and not experiment.parent.knows_seen_images else [])],
    )
    return report.write(experiment.out / report.name)


def _sizes(percent: Sequence[float], images: Sequence[int]) -> list[Size]:
    """Returns the sizes from the largest to the smallest."""
    if images:
        return [Size(n, "images") for n in sorted(set(images), reverse=True)]
    shares = sorted({*percent, 100.0}, reverse=True)
    if not 0 < min(shares) <= max(shares) <= 100:
        raise UsageError(
            f"The shares are {list(percent)}",
            "A share must be above 0 and at most 100 percent",
            "Use for example --percent 5 25 100",
        )
    return [Size(share) for share in shares]


def _titles(experiment: Experiment, sizes: Sequence[Size], trained: Collection[str]) -> dict[str, str]:
    """Returns the title of each condition that has a trial; the first condition is the reference."""
    titles = {size.condition(fine_tuned=False): size.title for size in sizes}
    if experiment.parent is not None:
        titles = {condition: f"{title}, from scratch" for condition, title in titles.items()}
        titles |= {size.condition(fine_tuned=True): f"{size.title}, fine-tuned" for size in sizes}
    return {condition: title for condition, title in titles.items() if condition in trained}


def _facts(experiment: Experiment, trials: Sequence[Trial], hold_constant: HoldConstant) -> dict[str, Any]:
    facts: dict[str, Any] = {"Same for each size": "optimizer steps" if hold_constant == "steps" else "epochs"}
    if experiment.parent is None:
        return facts
    name = experiment.parent.name if experiment.parent.lineage_of_child()[0].name else "a bundle"
    seen = max(experiment.count_seen(seed) for seed in {trial.seed for trial in trials})
    return facts | {
        "Fine-tuned from": f"{name} (weights {(experiment.parent.weights_sha256 or '')[:12]})",
        "Validation and test images left out, seen by an ancestor": seen,
    }


def _make_trials(experiment: Experiment, sizes: Sequence[Size], hold_constant: HoldConstant) -> tuple[list[Trial], list[str]]:
    """Returns the trials, and the reason for each combination of size and seed that is skipped."""
    trials: list[Trial] = []
    skipped: list[str] = []
    largest: dict[int, Sequence[str]] = {}
    arms = [(False, {})] if experiment.parent is None else [(False, FROM_SCRATCH), (True, {})]
    for size in sizes:
        for seed in experiment.seeds:
            full = experiment.make_trial("full", seed)
            share = size.share(full.splits)
            splits = subsample_groups(experiment, full.splits, share, seed)
            if share > 1:
                skipped.append(f"{size.title}, seed {seed}: the training split has {full.splits.count('train')} images.")
                continue
            if splits is None:
                reason = "a class would have no patient or duplicate group in training or validation"
                skipped.append(f"{size.title}, seed {seed}: {reason}.")
                continue
            steps_of = splits if hold_constant == "epochs" else largest.setdefault(seed, splits)
            epochs = {"trainer.epochs": _epochs_for_equal_steps(full.recipe, steps_of, splits)}
            for fine_tuned, overrides in arms:
                recipe = experiment.make_recipe(seed, {**epochs, **overrides})
                trials.append(Trial(size.condition(fine_tuned=fine_tuned), seed, recipe, splits))
    return trials, skipped


def _epochs_for_equal_steps(recipe: Recipe, larger: Sequence[str], splits: Sequence[str]) -> int:
    """Returns the number of epochs after which a subset has been trained for as many steps as the largest size."""
    steps, fewer_steps = (
        max(1, round(list(case_splits).count("train") / recipe.trainer.batch_size)) for case_splits in (larger, splits)
    )
    return max(1, round(recipe.trainer.epochs * steps / fewer_steps))


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


def _answer(comparison: Comparison, sizes: Sequence[Size]) -> list[str]:
    """Returns whether the last increase still helped, and the difference of each size to the largest."""
    conditions = [name for size in sizes if (name := size.condition(fine_tuned=False)) in comparison.titles]
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


def _fine_tuning(comparison: Comparison, sizes: Sequence[Size]) -> tuple[list[Table], list[str]]:
    """Returns the table of fine-tuned minus from scratch, corrected over the sizes, and a sentence for each AUROC."""
    if comparison.experiment.parent is None:
        return [], []
    trained = [size for size in sizes if size.condition(fine_tuned=True) in comparison.titles]
    pairs = [(size.condition(fine_tuned=True), size.condition(fine_tuned=False)) for size in trained]
    tests = {
        metric: holm_corrected([comparison.bootstrap.difference(tuned, scratch, metric) for tuned, scratch in pairs])
        for metric in COMPARED_METRICS
    }
    rows = [
        {"size": size.title, **{metric: tests[metric][i].as_dict() for metric in COMPARED_METRICS}}
        for i, size in enumerate(trained)
    ]
    columns: dict[str, tuple[str, Any]] = {"size": ("", "text")}
    columns |= {metric: (f"{METRIC_NAMES[metric]}, difference", "test") for metric in COMPARED_METRICS}
    note = "On the same seeds, training images and test cases; p is corrected by Holm's method over the sizes."
    sentences = [
        difference_sentence(f"{size.title}, fine-tuned", "from scratch", "auroc", tests["auroc"][i])
        for i, size in enumerate(trained)
    ]
    return [Table("fine-tuning", "Fine-tuned minus from scratch", columns, rows, note)], sentences


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


def _learning_curve(comparison: Comparison, sizes: Sequence[Size]) -> dict[str, Any]:
    series = []
    for metric in ("accuracy", "auroc"):
        for fine_tuned in (False, True):
            conditions = {size.value: size.condition(fine_tuned=fine_tuned) for size in reversed(sizes)}
            means = {
                value: comparison.bootstrap.mean(condition, metric).estimate
                for value, condition in conditions.items()
                if condition in comparison.titles
            }
            if means:
                series.append(
                    {
                        "label": METRIC_NAMES[metric] + (", fine-tuned" if fine_tuned else ""),
                        "x": list(means),
                        "y": [mean.estimate for mean in means.values()],
                        "low": [mean.ci_low for mean in means.values()],
                        "high": [mean.ci_high for mean in means.values()],
                    }
                )
    return {
        "kind": "lines",
        "name": "learning-curve",
        "title": "Learning curve",
        "axis_x": "percent of the patients" if sizes[0].unit == "percent" else "training images",
        "axis_y": "metric with 95 % interval",
        "log_x": True,
        "series": series,
    }
