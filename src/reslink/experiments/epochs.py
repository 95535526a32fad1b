"""How long to train: whether five epochs are enough, and whether a network is over- or under-fitted after them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reslink.errors import UsageError
from reslink.experiments.report import Row, Study, Table
from reslink.experiments.runner.compare_arms import COMPARED, Comparison, is_shown
from reslink.experiments.runner.experiment import Setting
from reslink.experiments.runner.results import Record
from reslink.experiments.runner.seed_statistics import Floats, OverSeeds
from reslink.metrics.classification import NAMES
from reslink.metrics.intervals import MIN_GROUPS

EPOCHS = (5, 10, 20)
CHANGED = 0.02
"""Share by which a validation loss must change to count as lower or higher; a judgement of ours."""

GAP = 0.10
"""Training accuracy above validation accuracy from which a network counts as over-fitted, as in the diagnostics of a run."""


def epochs(setting: Setting, lengths: Sequence[int] = EPOCHS) -> dict[str, Any]:
    """Trains the same network for different numbers of epochs, each with its whole learning-rate schedule.

    Args:
        setting: Data, recipe, seeds and folder.
        lengths: Numbers of epochs; the others are compared with the first.

    Returns:
        What ``study.json`` holds; it is written with a page to ``epochs`` in the folder of studies.

    Raises:
        UsageError: If there are fewer than two different lengths, or the data cannot be used.
        Interrupted: On Ctrl-C; the same call goes on.
    """
    if len(set(lengths)) < 2 or len(set(lengths)) < len(lengths):
        raise UsageError(
            f"The epochs are {list(lengths)}", "The study compares two or more different lengths", "Write --epochs 5 10 20"
        )
    titles = {_arm(n): f"{n} epochs" if n > 1 else "1 epoch" for n in lengths}
    trials = [
        setting.trial(arm, seed, {"trainer.epochs": n})
        for arm, n in zip(titles, lengths, strict=True)
        for seed in setting.seeds
    ]
    found = Comparison.of(setting, trials, titles)
    study = Study(
        name="epochs",
        title="Epochs",
        question=f"Is it enough to train for {titles[_arm(lengths[0])]}? Is the network over- or under-fitted then?",
        answer=[*found.warnings, _enough(found), *_sentences(found), *_fits(found)],
        facts=found.facts() | {"Epochs": ", ".join(map(str, lengths))},
        tables=[found.figures("Figures on the test part"), _fit_table(found)],
        charts=[_length_chart(found, lengths), *_curves(found)],
        runs=found.run_rows(),
        failed=found.failures,
        not_done=["Spread over seeds: there is one seed."] if len(setting.seeds) < 2 else [],
    )
    return study.write(setting.out / study.name)


def _arm(length: int) -> str:
    return f"epochs_{length}"


def _sentences(found: Comparison) -> list[str]:
    return [found.sentence(arm, figure) for arm in list(found.titles)[1:] for figure in COMPARED]


def _enough(found: Comparison) -> str:
    """Says whether any other length was shown to be better than the first."""
    better = [
        f"{title} ({NAMES[figure]})"
        for arm, title in list(found.titles.items())[1:]
        for figure in COMPARED
        if _shown_better(found.differences[figure][arm])
    ]
    first = found.titles[found.reference]
    if better:
        return f"{first} of training: longer was shown to be better, {', '.join(better)}."
    return f"{first} of training: no other length was shown to be better on the test part."


def _shown_better(test: OverSeeds) -> bool:
    return is_shown(test) and (test.estimate.estimate or 0) > 0


def _fit_table(found: Comparison) -> Table:
    columns: dict[str, tuple[str, Any]] = {
        "title": ("", "text"),
        "train_accuracy": ("training accuracy", "number"),
        "val_accuracy": ("validation accuracy", "number"),
        "gap": ("gap", "number"),
        "val_loss": ("validation loss", "number"),
        "lowest_loss": ("lowest", "number"),
        "lowest_epoch": ("in epoch", "text"),
        "best_epoch": ("judged epoch", "text"),
        "verdict": ("verdict", "text"),
    }
    note = (
        "Of the last epoch, means over seeds; epochs one number a seed; judged epoch: the one whose weights were judged. "
        "Training accuracy is that of augmented images as they were learned from, lower than on plain ones. Over-fitted: the "
        "validation loss rose by more than 2 % above its lowest value, or training accuracy lies more than 0.10 above "
        "validation accuracy. Under-fitted: the validation loss of the longest training ends more than 2 % lower; for the "
        "longest itself, its last epoch still lowered the loss by more than 2 %. Each in most seeds, and only where the "
        f"validation part of each run holds {MIN_GROUPS} patients or twin groups."
    )
    return Table("fit", "Over- or under-fitted", columns, _fits_of(found), note)


def _fits_of(found: Comparison) -> list[Row]:
    trained = [arm for arm in found.titles if found.of_arm(arm)]
    longest = max(trained, key=lambda arm: found.of_arm(arm)[0].trial.recipe.trainer.epochs, default="")
    ends = {record.trial.seed: float(losses(record)[-1]) for record in found.of_arm(longest)}
    return [_fit(found, arm, {} if arm == longest else ends) for arm in trained]


def _fit(found: Comparison, arm: str, longest: Mapping[int, float]) -> Row:
    records = found.of_arm(arm)
    last = [record.epochs[-1] for record in records]
    curves = [losses(record) for record in records]
    row: Row = {
        "arm": arm,
        "title": found.titles[arm],
        "train_accuracy": float(np.mean([row["train_accuracy"] for row in last])),
        "val_accuracy": float(np.mean([row["val_accuracy"] for row in last])),
        "val_loss": _finite_mean([loss[-1] for loss in curves]),
        "lowest_loss": _finite_mean([loss.min() for loss in curves]),
        "lowest_epoch": ", ".join(str(1 + int(loss.argmin())) for loss in curves),
        "best_epoch": ", ".join(str(record.best_epoch) for record in records),
    }
    row["gap"] = row["train_accuracy"] - row["val_accuracy"]
    later = [longest.get(record.trial.seed) for record in records]
    fewest = min(_validation_groups(record, found.setting.data.groups) for record in records)
    unsure = f"not told by {fewest} groups"
    return row | {"verdict": verdict(row["gap"], curves, later) if fewest >= MIN_GROUPS else unsure, "groups": fewest}


def _validation_groups(record: Record, groups: Sequence[str]) -> int:
    """Returns how many patients or twin groups the validation part of a run holds."""
    return len({group for group, part in zip(groups, record.trial.parts, strict=True) if part == "validation"})


def _finite_mean(values: Sequence[float]) -> float | None:
    mean = float(np.mean(values))
    return mean if np.isfinite(mean) else None


def losses(record: Record) -> Floats:
    """Returns the validation loss after each epoch, infinity where it was not finite."""
    return np.array([np.inf if row["val_loss"] is None else row["val_loss"] for row in record.epochs], np.float64)


def verdict(gap: float, curves: Sequence[Floats], longest: Sequence[float | None]) -> str:
    """Returns ``over-fitted``, ``under-fitted`` or ``neither``: what most of the seeds show.

    Args:
        gap: Training accuracy less validation accuracy.
        curves: For each seed the validation loss after each epoch.
        longest: For each seed the last loss of the longest training; None for that training itself.
    """
    risen = [loss[-1] > (1 + CHANGED) * loss.min() for loss in curves]
    lower = [
        (len(loss) > 1 and loss[-1] < (1 - CHANGED) * loss[-2]) if end is None else end < (1 - CHANGED) * loss[-1]
        for loss, end in zip(curves, longest, strict=True)
    ]
    if gap > GAP or sum(risen) > len(risen) / 2:
        return "over-fitted"
    return "under-fitted" if sum(lower) > len(lower) / 2 else "neither"


def _fits(found: Comparison) -> list[str]:
    words = {"neither": "the network is neither over- nor under-fitted"}
    few = "whether the network is over- or under-fitted cannot be told from so few patients or twin groups"
    words |= {name: f"the network is {name}" for name in ("over-fitted", "under-fitted")}
    return [
        f"After {row['title']} {words.get(row['verdict'], few)} ({row['groups']} groups of validation): training accuracy "
        f"{row['train_accuracy']:.3f}, validation accuracy {row['val_accuracy']:.3f}, validation loss "
        f"{'not finite' if row['val_loss'] is None else format(row['val_loss'], '.3f')}."
        for row in _fits_of(found)
    ]


def _length_chart(found: Comparison, lengths: Sequence[int]) -> dict[str, Any]:
    series = []
    for figure in ("accuracy", "auroc"):
        means = [found.runs.mean(arm, figure).estimate for arm in found.titles]
        series.append(
            {
                "label": NAMES[figure],
                "x": list(lengths),
                "y": [one.estimate for one in means],
                "low": [one.ci_low for one in means],
                "high": [one.ci_high for one in means],
            }
        )
    return {
        "kind": "lines",
        "name": "length",
        "title": "Test part by length of training",
        "axis_x": "epochs",
        "axis_y": "figure, with its 95 % interval",
        "log_x": True,
        "series": series,
    }


def _curves(found: Comparison) -> list[dict[str, Any]]:
    named = {"val_loss": "Validation loss", "train_loss": "Training loss", "val_accuracy": "Validation accuracy"}
    return [
        {
            "kind": "lines",
            "name": column.replace("_", "-"),
            "title": f"{title} by epoch, mean over seeds",
            "axis_x": "epoch",
            "axis_y": title.lower(),
            "series": [_curve(found, arm, column) for arm in found.titles if found.of_arm(arm)],
        }
        for column, title in named.items()
    ]


def _curve(found: Comparison, arm: str, column: str) -> dict[str, Any]:
    rows = [[row[column] for row in record.epochs] for record in found.of_arm(arm)]
    by_epoch = [[value for value in epoch if value is not None] for epoch in zip(*rows, strict=False)]
    means = [float(np.mean(values)) if values else None for values in by_epoch]
    return {"label": found.titles[arm], "x": list(range(1, len(means) + 1)), "y": means}
