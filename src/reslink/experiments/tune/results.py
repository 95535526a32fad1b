"""What a search writes: ``best.yaml``, ``trials.csv``, ``tune.json`` and ``tune.html``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import optuna

from reslink.datasets.case import UNUSED
from reslink.datasets.grouping import GROUP_NAMES
from reslink.errors import counted, listed
from reslink.experiments.report import ExperimentReport, Row, Table
from reslink.experiments.runner.comparison import Comparison
from reslink.experiments.runner.experiment import refused_sentence
from reslink.experiments.runner.results import TrialResult
from reslink.experiments.tune import charts
from reslink.experiments.tune.records import STATES, SearchTrial, Selection, count_duplicates
from reslink.experiments.tune.search import Setup
from reslink.experiments.tune.space import base_values, describe, with_settings
from reslink.files import csv_text, write_atomic, write_json
from reslink.metrics.classification import never_predicted
from reslink.reports.experiment.page import write_page
from reslink.reports.formatting import format_interval, format_number, start_sentence

BEST_RECIPE, TABLE, RESULT, PAGE = "best.yaml", "trials.csv", "tune.json", "tune.html"
MIN_TRIALS: Final = 12
"""Complete trials with sampled values below which the importance of a setting is mostly chance."""
MAX_COLUMNS: Final = 8
"""Settings in one table of the page."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """The result of a search.

    Attributes:
        study: The study in the journal.
        exhausted: Whether no further recipe was found in the space.
        trials: All trials.
        selection: The choice among them.
        comparison: The base recipe and the best one on the hold-out.
        evaluated: The trials that were the best one in some call, and so were evaluated on the hold-out.
    """

    study: optuna.Study
    exhausted: bool
    trials: Sequence[SearchTrial]
    selection: Selection
    comparison: Comparison
    evaluated: Sequence[int]

    @property
    def best(self) -> SearchTrial:
        """The best trial."""
        return self.selection.best

    @property
    def base(self) -> SearchTrial | None:
        """The trial of the base recipe."""
        return next((trial for trial in self.trials if trial.base), None)

    @cached_property
    def counts(self) -> dict[str, int]:
        """The number of trials in each state."""
        states = Counter(trial.state for trial in self.trials)
        return {state: states[state] for state in STATES}

    @cached_property
    def importance(self) -> dict[str, float] | None:
        """The share of the variance of the score that each setting explains (fANOVA); None with too few trials."""
        complete = [t for t in self.study.get_trials(deepcopy=False) if t.state.name == "COMPLETE" and t.params]
        if len(complete) < MIN_TRIALS:
            return None
        study = optuna.create_study(direction="maximize")
        study.add_trials(complete)
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        return {key: float(value) for key, value in optuna.importance.get_param_importances(study, evaluator=evaluator).items()}


def write(setup: Setup, outcome: Outcome) -> dict[str, Any]:
    """Writes the files of a search to its folder.

    Args:
        setup: What the trials share.
        outcome: The result.

    Returns:
        The contents of ``tune.json``, with paths that start at the working folder instead of ``out``.

    Raises:
        StorageError: If a file cannot be written.
    """
    out, experiment = setup.experiment.out, setup.experiment
    base = base_values(setup.space, experiment.recipe, setup.num_classes)
    rows = [_row(trial, outcome.selection, {**base, **trial.values}, len(setup.parts.folds)) for trial in outcome.trials]
    recipe = with_settings(experiment.recipe, outcome.best.values, setup.num_classes)
    write_atomic(out / BEST_RECIPE, _header(outcome) + recipe.to_yaml())
    write_atomic(out / TABLE, csv_text(list(rows[0]), rows))
    content = _report(setup, outcome, rows).as_dict() | _summary(setup, outcome)
    write_json(out / RESULT, content)
    write_page(content, RESULT, out / PAGE, out / "figures")
    paths = {key: str(out / content["best"][key]) for key in ("recipe", "run", "bundle")}
    return content | {"best": content["best"] | paths, "page": str(out / PAGE)}


def _row(trial: SearchTrial, selection: Selection, values: dict[str, Any], folds: int) -> Row:
    row: Row = {"trial": trial.number, "state": trial.state, "base": trial.base, "best": trial is selection.best}
    row |= {"tied": trial in selection.tied, "auroc": trial.mean, "standard_error": trial.standard_error}
    row |= {f"fold_{fold + 1}": trial.scores[fold] if fold < len(trial.scores) else None for fold in range(folds)}
    row |= {"mflops": None if trial.flops is None else trial.flops / 1e6, "ms_per_slice": trial.ms_per_slice}
    row |= {"auroc_per_ms": trial.mean / trial.ms_per_slice if trial.mean and trial.ms_per_slice else None}
    row |= {"same_weights_as": trial.same_weights_as, "failure": trial.failure, "digest": trial.digest}
    return row | values


def _header(outcome: Outcome) -> str:
    """Returns the comment above the best recipe: where it comes from, and what its own test split is worth."""
    return (
        f"# The best recipe of reslink tune: trial {outcome.best.number} of {len(outcome.trials)}.\n"
        "# Its metrics on the hold-out are in tune.json. A new run on the same data draws a new test split, which the search\n"
        "# has seen: metrics on it are too good.\n"
    )


def _summary(setup: Setup, outcome: Outcome) -> dict[str, Any]:
    best, out = outcome.best, setup.experiment.out
    results = {result.trial.condition: result for result in outcome.comparison.results}
    final = results.get("best", results["base"])
    return {
        "best": {
            "trial": best.number,
            "base": best.base,
            "values": best.values,
            "auroc": best.mean,
            "standard_error": best.standard_error,
            "mflops": None if best.flops is None else best.flops / 1e6,
            "ms_per_slice": best.ms_per_slice,
            "recipe": BEST_RECIPE,
            "run": str(final.folder.relative_to(out)),
            "bundle": str(final.folder.relative_to(out) / "bundle"),
        },
        "highest_trial": outcome.selection.highest.number,
        "tied_trials": [trial.number for trial in outcome.selection.tied],
        "counts": outcome.counts,
        "duplicates": count_duplicates(outcome.study),
        "exhausted": outcome.exhausted,
        "space": dict(setup.space.tree),
        "left_out": list(setup.space.left_out),
        "folds": len(setup.parts.folds),
        "holdout": {
            "images": setup.parts.count("test"),
            "given": setup.parts.given,
            "evaluated_trials": list(outcome.evaluated),
        },
        "importance": outcome.importance,
        "page": PAGE,
    }


def _report(setup: Setup, outcome: Outcome, rows: Sequence[Row]) -> ExperimentReport:
    return ExperimentReport(
        name="tune",
        title="Search",
        question="Which settings give the highest AUROC, and is it higher on images that the search has not seen?",
        answer=_answer(setup, outcome),
        facts=_facts(setup, outcome),
        tables=_tables(setup, outcome, rows),
        charts=charts.make_charts(outcome.trials, outcome.selection, setup.space, outcome.importance, rows),
        runs=rows,
        failed=[{"run": f"trial {t.number}", "reason": t.failure} for t in outcome.trials if t.failure and t.state == "failed"]
        + outcome.comparison.failures,
        not_done=[*_left_out(setup), *_not_done(outcome)],
    )


def _answer(setup: Setup, outcome: Outcome) -> list[str]:
    best, highest, base = outcome.best, outcome.selection.highest, outcome.base
    settings = ", ".join(f"{key} {value}" for key, value in best.values.items())
    name = "the base recipe" if best.base else f"trial {best.number} ({settings})"
    sentences = [f"The best recipe is {name}: AUROC {_with_error(best)} over {counted(len(best.scores), 'fold')}."]
    sentences += _tie(outcome)
    if best is not highest:
        sentences.append(
            f"Trial {highest.number} has the highest AUROC, {_with_error(highest)}. The best recipe is the tied one with the "
            "fewest FLOPs for a slice."
        )
    if base is not None and not best.base:
        state = "" if base.state == "complete" else f", {base.state}"
        sentences.append(f"The base recipe (trial {base.number}{state}) has AUROC {_with_error(base)} on the same folds.")
    return [*sentences, *outcome.comparison.warnings, *_holdout_sentences(setup, outcome)]


def _tie(outcome: Outcome) -> list[str]:
    """Returns how many trials the folds do not tell apart."""
    tied = outcome.selection.tied
    if len(tied) == 1:
        return []
    base = ", the base recipe among them" if any(trial.base for trial in tied) and not outcome.best.base else ""
    return [
        f"{len(tied)} of {counted(outcome.counts['complete'], 'complete trial')} are tied{base}: they are within one standard "
        "error of the highest AUROC, so the folds do not show which is better."
    ]


def _holdout_sentences(setup: Setup, outcome: Outcome) -> list[str]:
    """Returns the metrics on the hold-out, and how often it was used."""
    comparison, images = outcome.comparison, counted(setup.parts.count("test"), "image")
    sentences = []
    for condition, title in comparison.titles.items():
        estimate = comparison.bootstrap.mean(condition, "auroc").estimate
        value = f"{format_number(estimate.estimate)} ({format_interval(estimate.as_dict())})"
        sentences.append(f"On the hold-out ({images}), the {title} has AUROC {value}.")
        sentences += filter(None, (_never_predicted(title, result) for result in comparison.successful_of(condition)))
    if len(comparison.titles) > 1:
        sentences.append(comparison.sentence("best", "auroc"))
    if len(outcome.evaluated) > 1:
        numbers = ", ".join(map(str, outcome.evaluated))
        sentences.append(
            f"The hold-out was used {len(outcome.evaluated)} times, for the trials {numbers}, because the search was "
            "continued. If you choose among them by it, its metrics are too good."
        )
    return sentences


def _never_predicted(title: str, result: TrialResult) -> str:
    """Returns a warning, with the metric that is 0 whatever the AUROC; empty if every class is predicted."""
    labels = result.labels
    missing = never_predicted(result.predictions.y_true, result.predictions.y_pred, labels.names)
    if not missing:
        return ""
    metric = "specificity" if labels.binary and labels.names[0] in missing else "sensitivity (recall)"
    names = ", ".join(f"{name} ({counted(n, 'image')})" for name, n in missing.items())
    youden = ", or set decision.threshold=youden" if labels.binary else ""
    return (
        f"The {title} never predicts {names} on the hold-out, so its {metric} is 0. Train for more epochs "
        f"(trainer.epochs){youden}."
    )


def _with_error(trial: SearchTrial) -> str:
    error = trial.standard_error
    return f"{format_number(trial.mean)}{'' if error is None else f' (standard error {error:.3f})'}"


def _facts(setup: Setup, outcome: Outcome) -> dict[str, Any]:
    experiment, counts = setup.experiment, outcome.counts
    manifest = experiment.cache.manifest
    return {
        "Data": experiment.manifest.name,
        "Classes": ", ".join(manifest.labels.names),
        "Images in folds": setup.parts.count("train") + setup.parts.count("validation"),
        "Images held out": setup.parts.count("test"),
        start_sentence(GROUP_NAMES[experiment.recipe.data.group_by]): len(set(experiment.data.groups)),
        "Folds": len(setup.parts.folds),
        "Trials": f"{len(outcome.trials)} ({', '.join(f'{n} {state}' for state, n in counts.items() if n)})",
        "Settings": len(setup.space.dimensions),
        "Network": experiment.recipe.model.variant,
        "Seed": experiment.recipe.seed,
        "Data SHA-256": experiment.data.digest[:16],
    }


def _left_out(setup: Setup) -> list[str]:
    """Returns the images that are in no part."""
    failed, refused = setup.experiment.cache.failed, setup.experiment.refused
    unused = zip(setup.experiment.cache.manifest.cases, setup.parts.final, strict=True)
    seen = sum(split == UNUSED and case.name not in refused for case, split in unused)
    sentences = [f"{counted(len(failed), 'image')} could not be read: {listed(failed)}."] if failed else []
    if refused:
        sentences.append(refused_sentence(refused))
    if seen:
        text = (
            f"{counted(seen, 'image')} left out of validation and hold-out: an ancestor was trained on them, or their patients."
        )
        sentences.append(text)
    return sentences


def _not_done(outcome: Outcome) -> list[str]:
    diverged = [str(trial.number) for trial in outcome.trials if trial.state == "diverged"]
    same = [f"{trial.number} as {trial.same_weights_as}" for trial in outcome.trials if trial.same_weights_as is not None]
    duplicates = count_duplicates(outcome.study)
    sentences = []
    if diverged:
        sentences.append(f"{counted(len(diverged), 'trial')} diverged (loss or gradient not finite): {listed(diverged, 10)}.")
    if outcome.counts["unfinished"]:
        sentences.append(f"{counted(outcome.counts['unfinished'], 'trial')} not finished; the same command continues them.")
    if duplicates:
        sentences.append(f"{counted(duplicates, 'suggestion')} equal to an earlier trial: not trained, and sampled again.")
    if same:
        sentences.append(f"Trials with the same weights although their settings differ: {listed(same, 10)}.")
    if not charts.cost_varies(outcome.trials):
        sentences.append("AUROC by time is not drawn, because all trials have the same time for a slice.")
    if outcome.importance is None:
        sentences.append(f"The importance of the settings needs {MIN_TRIALS} complete trials with sampled values.")
    if outcome.exhausted:
        sentences.append("The search ended early: the space seems to hold no further recipe.")
    return sentences


def _tables(setup: Setup, outcome: Outcome, rows: Sequence[Row]) -> list[Table]:
    columns: dict[str, tuple[str, Any]] = {"trial": ("trial", "count"), "role": ("", "text"), "auroc": ("AUROC", "number")}
    columns |= {"standard_error": ("standard error", "number"), "n_folds": ("folds", "count"), "mflops": ("MFLOPs", "rounded")}
    columns |= {"ms_per_slice": ("ms a slice", "rounded"), "auroc_per_ms": ("AUROC per ms", "rounded")}
    by_score = sorted(zip(rows, outcome.trials, strict=True), key=lambda pair: (-len(pair[1].scores), -(pair[1].mean or 0)))
    shown = [
        row | {"role": _role(row), "n_folds": len(trial.scores)} | {key: _text(row[key]) for key in setup.space.dimensions}
        for row, trial in by_score
    ]
    note = (
        "AUROC is the mean over the folds; for trials that were stopped, over the folds before. The best of many trials is "
        "too good by chance; the hold-out is not. FLOPs are counted and select among tied trials; milliseconds were measured "
        "on this machine, on the processor, with one slice at a time."
    )
    space = Table("space", "Space", {"key": ("key", "text"), "values": ("values", "text")}, describe(setup.space))
    return [
        outcome.comparison.metrics_table("Hold-out", "Both recipes were trained once, with the same seed and split."),
        Table("trials", "Trials", columns, shown, note),
        *_settings_tables(list(setup.space.dimensions), columns, shown),
        space,
    ]


def _settings_tables(keys: Sequence[str], columns: dict[str, tuple[str, Any]], rows: Sequence[Row]) -> list[Table]:
    """Returns the settings of the trials, in tables that are as wide as the page."""
    parts = [keys[start : start + MAX_COLUMNS] for start in range(0, len(keys), MAX_COLUMNS)]
    tables = []
    for number, part in enumerate(parts, start=1):
        title = "Settings of the trials" + (f", part {number} of {len(parts)}" if len(parts) > 1 else "")
        shared = {key: columns[key] for key in ("trial", "role", "auroc")}
        tables.append(Table(f"settings-{number}", title, shared | {key: (key, "text") for key in part}, rows))
    return tables


def _role(row: Row) -> str:
    words = [name for name in ("best", "base", "tied") if row[name]]
    return ", ".join([*words, *([] if row["state"] == "complete" else [row["state"]])])


def _text(value: Any) -> str:
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
