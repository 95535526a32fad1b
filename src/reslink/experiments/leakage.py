"""The leakage experiment: metrics on a random split compared with a split that keeps patients and near duplicates together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reslink.errors import UsageError
from reslink.experiments.report import ExperimentReport, Row, Table
from reslink.experiments.runner.comparison import (
    METRICS,
    Comparison,
    difference_sentence,
    seen_in_training,
    trial_sample,
)
from reslink.experiments.runner.experiment import Experiment
from reslink.experiments.runner.results import TrialResult
from reslink.experiments.runner.seed_statistics import SeedBootstrap
from reslink.experiments.runner.trial import Trial
from reslink.metrics.classification import METRIC_NAMES

TITLES = {"clean": "clean split", "random": "random split"}

_KINDS = {
    "random": ("an image of the group is in the training data", "no image of the group is in the training data"),
    "clean": ("the group has other images", "the group has no other image"),
}
"""The two kinds of test images of each split that are compared: with and without related images."""

_COMPARED = ("accuracy", "auroc")
_NOTE = (
    "The two splits have different test images. The difference is computed by seed, and its interval resamples patients or "
    "duplicate groups in both splits at once."
)


def leakage(experiment: Experiment) -> dict[str, Any]:
    """Trains on a random split and on a clean one of the same size; the difference of the metrics is the inflation.

    The clean split keeps patients and near duplicates together; the random one divides single images. A split in the data
    and the recipe's ``data.group_by`` are ignored.

    Args:
        experiment: Data, recipe, seeds and folder.

    Returns:
        The contents of ``experiment.json``, which is written with a page to ``leakage`` in the folder of experiments.

    Raises:
        UsageError: If no group has two images, so leakage is impossible, or the data cannot be used.
        Interrupted: On Ctrl-C; the same call resumes.
    """
    _check_groups(experiment)
    comparison = Comparison.run(experiment, _make_trials(experiment), TITLES)
    tables, sentences, not_done = _related_images(comparison)
    report = ExperimentReport(
        name="leakage",
        title="Leakage",
        question="How much do the metrics rise when images of one patient and near duplicates are in more than one split?",
        answer=[*_inflation(comparison), *sentences],
        facts=comparison.facts() | _facts(comparison),
        tables=[comparison.metrics_table("Metrics on the test split", _NOTE), *tables],
        charts=[comparison.difference_chart(metric) for metric in _COMPARED],
        runs=comparison.run_rows(),
        failed=comparison.failures,
        not_done=not_done,
    )
    return report.write(experiment.out / report.name)


def _check_groups(experiment: Experiment) -> None:
    if max(Counter(experiment.data.groups).values()) < 2:
        raise UsageError(
            "No two images are of the same patient or near duplicates",
            "Leakage needs related images; for this data a random split is a clean split",
            "No action is needed: the metrics of reslink train are not inflated by leakage",
        )


def _make_trials(experiment: Experiment) -> list[Trial]:
    trials = []
    for seed in experiment.seeds:
        recipe = experiment.make_recipe(seed)
        single_images = [case.name for case in experiment.cache.manifest.cases]
        clean = experiment.split(recipe, experiment.data.groups, use_given=False)
        random = experiment.split(recipe, single_images, use_given=False)
        trials += [Trial("clean", seed, recipe, clean), Trial("random", seed, recipe, random)]
    return trials


def _related_images(comparison: Comparison) -> tuple[list[Table], list[str], list[str]]:
    """Compares test images with and without related images; returns tables, sentences and missing parts.

    In the random split, the related images are in the training data: these test images are leaked. In the clean split they are
    not, so the difference there shows whether such images are easier in themselves.
    """
    groups = comparison.experiment.data.groups
    leaked = [(result, seen_in_training(result, groups)) for result in comparison.successful_of("random")]
    related = [(result, _in_larger_group(result, groups)) for result in comparison.successful_of("clean")]
    bootstraps = {"random": _bootstrap(leaked), "clean": _bootstrap(related)}
    if not bootstraps["random"].samples:
        return [], [], ["Metrics of leaked and clean test images: no run has both kinds of images."]
    share = float(np.concatenate([mask for _, mask in leaked]).mean())
    sentences = [f"{share:.0%} of the test images of the random split are leaked: a related image is in the training data."]
    compared = {
        "random": ("In the random split, leaked test images", "clean ones"),
        "clean": ("In the clean split, where none is leaked, test images with related images", "those without"),
    }
    measured = {split: bootstrap for split, bootstrap in bootstraps.items() if bootstrap.samples}
    for split, bootstrap in measured.items():
        sentences.append(difference_sentence(*compared[split], "accuracy", bootstrap.difference("with", "without", "accuracy")))
    return [_related_table(measured)], sentences, []


def _in_larger_group(result: TrialResult, groups: Sequence[str]) -> NDArray[np.bool_]:
    """Returns whether the data set has another case of the same group, for each test case of a trial."""
    sizes = Counter(groups)
    return np.array(
        [sizes[group] > 1 for group, split in zip(groups, result.trial.splits, strict=True) if split == "test"], np.bool_
    )


def _bootstrap(masked: Sequence[tuple[TrialResult, NDArray[np.bool_]]]) -> SeedBootstrap:
    """Returns the bootstrap over test images with and without related images, of the trials that have both."""
    return SeedBootstrap(
        {
            (kind, result.trial.seed): trial_sample(result.predictions.subset(mask == (kind == "with")))
            for result, mask in masked
            if 0 < mask.sum() < len(mask)
            for kind in ("with", "without")
        }
    )


def _related_table(bootstraps: Mapping[str, SeedBootstrap]) -> Table:
    columns: dict[str, tuple[str, Any]] = {"title": ("", "text"), "images": ("test images, all seeds", "count")}
    columns |= {metric: (METRIC_NAMES[metric], "estimate") for metric in METRICS}
    columns |= {f"{metric}_difference": (f"{METRIC_NAMES[metric]}, difference", "test") for metric in _COMPARED}
    rows: list[Row] = []
    for split, bootstrap in bootstraps.items():
        for kind, title in zip(("with", "without"), _KINDS[split], strict=True):
            images = sum(len(sample.groups) for (name, _), sample in bootstrap.samples.items() if name == kind)
            row: Row = {"title": f"{TITLES[split]}: {title}", "images": images}
            row |= {metric: bootstrap.mean(kind, metric).estimate.as_dict() for metric in METRICS}
            tests = {metric: bootstrap.difference("with", "without", metric).as_dict() for metric in _COMPARED}
            rows.append(row | {f"{metric}_difference": tests[metric] if kind == "with" else None for metric in _COMPARED})
    note = (
        "Images with related images may be easier in themselves. The rows of the clean split show how much: there, no related "
        "image was in the training data. p is not corrected."
    )
    return Table("leaked", "Test images with and without related images", columns, rows, note)


def _facts(comparison: Comparison) -> dict[str, Any]:
    sizes = Counter(Counter(comparison.experiment.data.groups).values())
    return {"Images that share a group": sum(n * size for size, n in sizes.items() if size > 1)}


def _inflation(comparison: Comparison) -> list[str]:
    return [
        difference_sentence("Inflation: a random split", "a clean one", metric, comparison.differences[metric]["random"])
        for metric in _COMPARED
    ]
