"""The leave-one-source-out experiment: what a model achieves in a hospital that it was not trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from reslink.audit.checks.sources import source_names
from reslink.experiments.leave_one_source_out import tables
from reslink.experiments.leave_one_source_out.answers import MEASURES, Evaluator
from reslink.experiments.leave_one_source_out.plan import group_by_note, plan_sources, without_given_split
from reslink.experiments.leave_one_source_out.subtypes import subtype_table
from reslink.experiments.leave_one_source_out.tables import Outcomes
from reslink.experiments.report import ExperimentReport, Row
from reslink.experiments.runner.comparison import Comparison, none_if_nan
from reslink.experiments.runner.experiment import Experiment
from reslink.training.monitoring.progress import phase

NAME = "leave-one-source-out"


def leave_one_source_out(experiment: Experiment, only: Sequence[str] = ()) -> dict[str, Any]:
    """Trains without each source in turn and evaluates there.

    A source is a data set if several were joined, and otherwise what the table states in the column ``source``.

    All images of the source are the test split. Images of other sources that share a patient or a near duplicate with it are
    not used. The others are divided into train and validation by groups, in the proportion of ``data.fractions``; a split in
    the data is ignored. The decision of each model is fitted to its validation images.

    Args:
        experiment: Data whose cases state their source, recipe, seeds and folder.
        only: The sources to leave out; empty for all.

    Returns:
        The contents of ``experiment.json``, which is written with a page to ``leave-one-source-out`` in the folder of
        experiments. Its table ``summary`` has a row for each measure: inside, the mean over the sources, and the worst source.

    Raises:
        UsageError: If a case has no source, there are fewer than two sources, the recipe has folds, or no source can be left
            out.
        CheckFailedError: If an image has several labels, unless ``data.allow_conflicts`` is set.
        Interrupted: On Ctrl-C; the same call resumes.
    """
    experiment = without_given_split(experiment)
    plan = plan_sources(experiment, only)
    for sentence in tables.related_sentences(plan.sources):
        experiment.progress.message(sentence)
    trials = [trial for source in plan.sources for trial in source.trials]
    comparison = Comparison.run(experiment, trials, {source.source: source.source for source in plan.sources})
    successful = comparison.successful
    with phase(experiment.progress, len(successful), "Evaluating the sources", "run"):
        answers = list(map(Evaluator(experiment, plan.groups).answer, successful))
    outcomes = Outcomes(plan.sources, successful, answers, experiment.cache.manifest.cases, experiment.manifest.labels)
    report = ExperimentReport(
        name=NAME,
        title="Leave one source out",
        question="What can a hospital expect whose images the model has never seen?",
        answer=[*(tables.verdict(outcomes) if answers else []), *comparison.warnings, *tables.related_sentences(plan.sources)],
        facts=comparison.facts() | _facts(experiment, plan.groups),
        tables=[
            tables.summary_table(outcomes),
            tables.sources_table(outcomes),
            subtype_table(outcomes),
            tables.drop_table(outcomes),
            tables.splits_table(outcomes),
        ]
        if answers
        else [],
        charts=[tables.chart(outcomes)] if answers else [],
        runs=_run_rows(comparison, outcomes),
        failed=comparison.failures,
        not_done=[
            *plan.impossible,
            *group_by_note(experiment),
            *tables.no_mean_note(outcomes),
            *tables.one_class_notes(outcomes),
            *_decision_notes(outcomes),
        ],
    )
    return report.write(experiment.out / NAME)


def _facts(experiment: Experiment, groups: Sequence[str]) -> dict[str, Any]:
    counts = Counter(source_names(experiment.cache.manifest))
    return {
        "Patients or duplicate groups": len(set(groups)),
        "Sources": ", ".join(f"{name} {n}" for name, n in sorted(counts.items())),
    }


def _run_rows(comparison: Comparison, outcomes: Outcomes) -> list[Row]:
    """Returns one row per trial: source, seed, folder, numbers of images, measures on the source and inside."""
    rows = []
    for result in comparison.results:
        trial = result.trial
        row: Row = {"condition": trial.condition, "seed": trial.seed, "run": result.folder.name, "failure": result.failure}
        row |= {f"{split}_cases": trial.splits.count(split) for split in ("train", "validation", "test", "unused")}
        rows.append(row | (_measures(outcomes, trial.condition, trial.seed) if result.failure is None else {}))
    return rows


def _measures(outcomes: Outcomes, source: str, seed: int) -> Row:
    unseen, inside = outcomes.points(source, seed)
    return {name: none_if_nan(unseen[name]) for name in MEASURES} | {
        f"inside_{name}": none_if_nan(inside[name]) for name in MEASURES
    }


def _decision_notes(outcomes: Outcomes) -> list[str]:
    """Returns what could not be fitted or measured, once for each kind, with the sources."""
    sources: dict[str, list[str]] = {}
    for result, own in zip(outcomes.results, outcomes.answers, strict=True):
        for note in own.notes:
            sources.setdefault(note, []).append(result.trial.condition)
    return [f"Without {', '.join(dict.fromkeys(names))}: {note}." for note, names in sources.items()]
