"""The leakage experiment: metrics on a random split compared with a split that keeps patients and near duplicates together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
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

_SUBSETS = {"leaked": "an image of the group is in the training data", "clean": "no image of the group is in the training data"}
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
    tables, sentences, not_done = _leaked_images(comparison)
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


def _leaked_images(comparison: Comparison) -> tuple[list[Table], list[str], list[str]]:
    """Compares leaked and clean test images of the random split; returns tables, sentences and missing parts."""
    results = comparison.successful_of("random")
    masks = [seen_in_training(result, comparison.experiment.data.groups) for result in results]
    mixed = [(result, leaked) for result, leaked in zip(results, masks, strict=True) if 0 < leaked.sum() < len(leaked)]
    if not mixed:
        return [], [], ["Metrics of leaked and clean test images: no run has both kinds of images."]
    bootstrap = SeedBootstrap(
        {
            (subset, result.trial.seed): trial_sample(result.predictions.subset(leaked == (subset == "leaked")))
            for result, leaked in mixed
            for subset in _SUBSETS
        }
    )
    share = float(np.concatenate(masks).mean())
    test = bootstrap.difference("leaked", "clean", "accuracy")
    sentences = [
        f"{share:.0%} of the test images of the random split are leaked: they have a related image in the training data.",
        difference_sentence("In the random split, leaked test images", "clean ones", "accuracy", test),
    ]
    return [_leaked_table(bootstrap, mixed)], sentences, []


def _leaked_table(bootstrap: SeedBootstrap, mixed: Sequence[tuple[TrialResult, NDArray[np.bool_]]]) -> Table:
    columns: dict[str, tuple[str, Any]] = {"title": ("", "text"), "images": ("test images, all seeds", "count")}
    columns |= {metric: (METRIC_NAMES[metric], "estimate") for metric in METRICS}
    columns |= {f"{metric}_difference": (f"{METRIC_NAMES[metric]}, difference", "test") for metric in _COMPARED}
    rows: list[Row] = []
    for subset, title in _SUBSETS.items():
        images = sum(int((leaked == (subset == "leaked")).sum()) for _, leaked in mixed)
        row: Row = {"title": title, "images": images} | {f"{metric}_difference": None for metric in _COMPARED}
        rows.append(row | {metric: bootstrap.mean(subset, metric).estimate.as_dict() for metric in METRICS})
    rows[0] |= {f"{metric}_difference": bootstrap.difference("leaked", "clean", metric).as_dict() for metric in _COMPARED}
    note = "The two kinds of images may also differ in difficulty, so the difference is not leakage alone. p is not corrected."
    return Table("leaked", "Leaked images of the random split", columns, rows, note)


def _facts(comparison: Comparison) -> dict[str, Any]:
    sizes = Counter(Counter(comparison.experiment.data.groups).values())
    return {"Images that share a group": sum(n * size for size, n in sizes.items() if size > 1)}


def _inflation(comparison: Comparison) -> list[str]:
    return [
        difference_sentence("Inflation: a random split", "a clean one", metric, comparison.differences[metric]["random"])
        for metric in _COMPARED
    ]
