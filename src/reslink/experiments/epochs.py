"""The epochs experiment: how long to train, and whether the network is over- or under-fitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reslink.errors import UsageError, counted
from reslink.experiments.report import ExperimentReport, Row, Table
from reslink.experiments.runner.comparison import COMPARED_METRICS, Comparison, is_significant
from reslink.experiments.runner.experiment import Experiment
from reslink.experiments.runner.results import TrialResult
from reslink.experiments.runner.seed_statistics import Floats, SeedEstimate
from reslink.metrics.classification import METRIC_NAMES
from reslink.metrics.intervals import MIN_GROUPS

EPOCH_COUNTS = (5, 10, 20)
MIN_LOSS_CHANGE = 0.02
"""Relative change of a validation loss that counts as lower or higher; a choice of this project."""

MAX_ACCURACY_GAP = 0.10
"""Gap of training to validation accuracy above which a network counts as over-fitted, as in the training diagnostics."""


def epochs(experiment: Experiment, epoch_counts: Sequence[int] = EPOCH_COUNTS) -> dict[str, Any]:
    """Trains the same network for different numbers of epochs, each with a complete learning-rate schedule.

    Args:
        experiment: Data, recipe, seeds and folder.
        epoch_counts: Numbers of epochs; the first is the reference.

    Returns:
        The contents of ``experiment.json``, which is written with a page to ``epochs`` in the folder of experiments.

    Raises:
        UsageError: If there are fewer than two different numbers, or the data cannot be used.
        Interrupted: On Ctrl-C; the same call resumes.
    """
    if len(set(epoch_counts)) < 2 or len(set(epoch_counts)) < len(epoch_counts):
        raise UsageError(
            f"The numbers of epochs are {list(epoch_counts)}",
            "The experiment compares two or more different numbers",
            "Use for example --epochs 5 10 20",
        )
    titles = {_condition(n): f"{n} epochs" if n > 1 else "1 epoch" for n in epoch_counts}
    trials = [
        experiment.make_trial(condition, seed, {"trainer.epochs": n})
        for condition, n in zip(titles, epoch_counts, strict=True)
        for seed in experiment.seeds
    ]
    comparison = Comparison.run(experiment, trials, titles)
    fit_rows = _fit_rows(comparison)
    report = ExperimentReport(
        name="epochs",
        title="Epochs",
        question=f"Is it enough to train for {titles[_condition(epoch_counts[0])]}? Is the network over- or under-fitted?",
        answer=[
            *comparison.warnings,
            _longer_is_better(comparison),
            *_difference_sentences(comparison),
            *_fit_sentences(fit_rows),
        ],
        facts=comparison.facts() | {"Epochs": ", ".join(map(str, epoch_counts))},
        tables=[comparison.metrics_table("Metrics on the test split"), _fit_table(fit_rows)],
        charts=[_epochs_chart(comparison, epoch_counts), *_training_curves(comparison)],
        runs=comparison.run_rows(),
        failed=comparison.failures,
        not_done=["Spread over seeds: there is only one seed."] if len(experiment.seeds) < 2 else [],
    )
    return report.write(experiment.out / report.name)


def _condition(n_epochs: int) -> str:
    return f"epochs_{n_epochs}"


def _difference_sentences(comparison: Comparison) -> list[str]:
    return [comparison.sentence(name, metric) for name in list(comparison.titles)[1:] for metric in COMPARED_METRICS]


def _longer_is_better(comparison: Comparison) -> str:
    """Returns whether any other number of epochs is significantly better than the first."""
    better = [
        f"{title} ({METRIC_NAMES[metric]})"
        for condition, title in list(comparison.titles.items())[1:]
        for metric in COMPARED_METRICS
        if _is_better(comparison.differences[metric][condition])
    ]
    first = comparison.titles[comparison.reference]
    if better:
        return f"Significantly better on the test split than {first}: {', '.join(better)}."
    return f"No other number of epochs is significantly better on the test split than {first}."


def _is_better(test: SeedEstimate) -> bool:
    return is_significant(test) and (test.estimate.estimate or 0) > 0


def _fit_table(rows: Sequence[Row]) -> Table:
    columns: dict[str, tuple[str, Any]] = {
        "title": ("", "text"),
        "train_accuracy": ("training accuracy", "number"),
        "val_accuracy": ("validation accuracy", "number"),
        "gap": ("gap", "number"),
        "val_loss": ("validation loss", "number"),
        "lowest_loss": ("lowest", "number"),
        "lowest_epoch": ("in epoch", "text"),
        "best_epoch": ("evaluated epoch", "text"),
        "verdict": ("verdict", "text"),
    }
    note = (
        "Values of the last epoch, means over seeds; epochs are listed by seed. Evaluated epoch: the epoch of the evaluated "
        "weights. Training accuracy is measured on augmented images and is lower than on the original ones. Over-fitted: the "
        "validation loss rises by more than 2 % above its minimum, or training accuracy exceeds validation accuracy by more "
        "than 0.10. Under-fitted: the longest training ends with a validation loss that is more than 2 % lower; for the "
        "longest training itself, its last epoch still reduces the loss by more than 2 %. The verdict is that of most seeds. "
        f"It needs {MIN_GROUPS} patients or duplicate groups in the validation split of each run."
    )
    return Table("fit", "Over- or under-fitted", columns, rows, note)


def _fit_rows(comparison: Comparison) -> list[Row]:
    trained = [condition for condition in comparison.titles if comparison.successful_of(condition)]
    epoch_counts = {name: comparison.successful_of(name)[0].trial.recipe.trainer.epochs for name in trained}
    longest = max(trained, key=lambda name: epoch_counts[name], default="")
    final_losses = {result.trial.seed: float(validation_losses(result)[-1]) for result in comparison.successful_of(longest)}
    return [_fit_row(comparison, name, {} if name == longest else final_losses) for name in trained]


def _fit_row(comparison: Comparison, condition: str, longest_losses: Mapping[int, float]) -> Row:
    results = comparison.successful_of(condition)
    last_epochs = [result.epochs[-1] for result in results]
    curves = [validation_losses(result) for result in results]
    row: Row = {
        "condition": condition,
        "title": comparison.titles[condition],
        "train_accuracy": float(np.mean([epoch["train_accuracy"] for epoch in last_epochs])),
        "val_accuracy": float(np.mean([epoch["val_accuracy"] for epoch in last_epochs])),
        "val_loss": _finite_mean([losses[-1] for losses in curves]),
        "lowest_loss": _finite_mean([losses.min() for losses in curves]),
        "lowest_epoch": ", ".join(str(1 + int(losses.argmin())) for losses in curves),
        "best_epoch": ", ".join(str(result.best_epoch) for result in results),
    }
    row["gap"] = row["train_accuracy"] - row["val_accuracy"]
    longest = [longest_losses.get(result.trial.seed) for result in results]
    groups = min(_validation_groups(result, comparison.experiment.data.groups) for result in results)
    row["verdict"] = (
        verdict(row["gap"], curves, longest) if groups >= MIN_GROUPS else f"unknown: only {counted(groups, 'group')}"
    )
    return row | {"groups": groups}


def _validation_groups(result: TrialResult, groups: Sequence[str]) -> int:
    """Returns the number of patients or duplicate groups in the validation split of a trial."""
    return len({group for group, split in zip(groups, result.trial.splits, strict=True) if split == "validation"})


def _finite_mean(values: Sequence[float]) -> float | None:
    mean = float(np.mean(values))
    return mean if np.isfinite(mean) else None


def validation_losses(result: TrialResult) -> Floats:
    """Returns the validation loss after each epoch, infinity where it is not finite."""
    return np.array([np.inf if row["val_loss"] is None else row["val_loss"] for row in result.epochs], np.float64)


def verdict(gap: float, curves: Sequence[Floats], longest: Sequence[float | None]) -> str:
    """Returns ``over-fitted``, ``under-fitted`` or ``neither``: the verdict of most seeds.

    Args:
        gap: Training accuracy minus validation accuracy.
        curves: For each seed, the validation loss after each epoch.
        longest: For each seed, the final loss of the longest training; None for the longest training itself.
    """
    rising = [losses[-1] > (1 + MIN_LOSS_CHANGE) * losses.min() for losses in curves]
    falling = [_still_falling(losses, final_loss) for losses, final_loss in zip(curves, longest, strict=True)]
    if gap > MAX_ACCURACY_GAP or sum(rising) > len(rising) / 2:
        return "over-fitted"
    return "under-fitted" if sum(falling) > len(falling) / 2 else "neither"


def _still_falling(losses: Floats, longest: float | None) -> bool:
    if longest is not None:
        return bool(longest < (1 - MIN_LOSS_CHANGE) * losses[-1])
    return bool(len(losses) > 1 and losses[-1] < (1 - MIN_LOSS_CHANGE) * losses[-2])


def _fit_sentences(rows: Sequence[Row]) -> list[str]:
    verdicts = {
        "neither": "the network is neither over- nor under-fitted",
        "over-fitted": "the network is over-fitted",
        "under-fitted": "the network is under-fitted",
    }
    unknown = "there are too few patients or duplicate groups to decide whether the network is over- or under-fitted"
    return [
        f"After {row['title']}, {verdicts.get(row['verdict'], unknown)} ({row['groups']} groups in the validation split): "
        f"training accuracy {row['train_accuracy']:.3f}, validation accuracy {row['val_accuracy']:.3f}, validation loss "
        f"{'not finite' if row['val_loss'] is None else format(row['val_loss'], '.3f')}."
        for row in rows
    ]


def _epochs_chart(comparison: Comparison, epoch_counts: Sequence[int]) -> dict[str, Any]:
    series = []
    for metric in ("accuracy", "auroc"):
        means = [comparison.bootstrap.mean(condition, metric).estimate for condition in comparison.titles]
        series.append(
            {
                "label": METRIC_NAMES[metric],
                "x": list(epoch_counts),
                "y": [mean.estimate for mean in means],
                "low": [mean.ci_low for mean in means],
                "high": [mean.ci_high for mean in means],
            }
        )
    return {
        "kind": "lines",
        "name": "length",
        "title": "Test metrics by number of epochs",
        "axis_x": "epochs",
        "axis_y": "metric with 95 % interval",
        "log_x": True,
        "series": series,
    }


def _training_curves(comparison: Comparison) -> list[dict[str, Any]]:
    titles = {"val_loss": "Validation loss", "train_loss": "Training loss", "val_accuracy": "Validation accuracy"}
    conditions = [condition for condition in comparison.titles if comparison.successful_of(condition)]
    return [
        {
            "kind": "lines",
            "name": column.replace("_", "-"),
            "title": f"{title} by epoch, mean over seeds",
            "axis_x": "epoch",
            "axis_y": title.lower(),
            "series": [_training_curve(comparison, condition, column) for condition in conditions],
        }
        for column, title in titles.items()
    ]


def _training_curve(comparison: Comparison, condition: str, column: str) -> dict[str, Any]:
    by_seed = [[row[column] for row in result.epochs] for result in comparison.successful_of(condition)]
    by_epoch = [[value for value in values if value is not None] for values in zip(*by_seed, strict=False)]
    means = [float(np.mean(values)) if values else None for values in by_epoch]
    return {"label": comparison.titles[condition], "x": list(range(1, len(means) + 1)), "y": means}
