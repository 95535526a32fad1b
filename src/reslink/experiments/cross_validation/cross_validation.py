"""Cross-validation: trains a network per fold and seed, and makes an ensemble of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.decision import Decision
from reslink.datasets.case import HOLDOUT
from reslink.datasets.split_table import write_split_table
from reslink.evaluation.evaluate import EvaluationOptions, evaluate_and_predict
from reslink.evaluation.predictions_csv import CasePredictions, write_predictions
from reslink.experiments.cross_validation import tables
from reslink.experiments.cross_validation.distillation import distillation_trial, distilled_bundle
from reslink.experiments.cross_validation.ensemble import calibrated_decision, make_ensemble, member_weights, merged_data
from reslink.experiments.cross_validation.folds import FoldPlan, OutOfFold, plan_folds, pool
from reslink.experiments.report import ExperimentReport, Table
from reslink.experiments.runner.comparison import Comparison
from reslink.experiments.runner.experiment import Experiment
from reslink.experiments.runner.results import TrialPredictions, TrialResult, read_results
from reslink.experiments.runner.run_trial import make_training_data
from reslink.inference.classifier import Classifier
from reslink.training.data import TrainingData
from reslink.training.monitoring.progress import phase
from reslink.training.run_folder import BUNDLE

NAME = "cv"
OUT_OF_FOLD_CSV, SPLIT_CSV, ENSEMBLE_FOLDER, DISTILLED_FOLDER, HOLDOUT_FOLDER = (
    "out_of_fold.csv",
    "split.csv",
    "bundle",
    "distilled",
    "holdout",
)
_BATCH = 32


@dataclass(frozen=True)
class Models:
    """The models of a cross-validation.

    Attributes:
        ensemble: The ensemble of all networks.
        distilled: The distilled network; None without one.
        notes: Parts that could not be made, with the reason.
    """

    ensemble: Bundle
    distilled: Bundle | None
    notes: Sequence[str] = ()


def cross_validate(experiment: Experiment, *, distill: bool = False) -> dict[str, Any]:
    """Trains a network per fold and seed, pools their out-of-fold predictions, and makes an ensemble of the networks.

    Writes ``experiment.json``, ``experiment.csv``, ``report.html``, ``out_of_fold.csv``, ``split.csv``, ``bundle/`` (the
    ensemble), ``distilled/`` if requested and, with a hold-out, ``holdout/`` (the evaluation of the ensemble).

    Args:
        experiment: Data, recipe with ``data.folds``, seeds, and the folder, which also holds the runs.
        distill: Whether to train a single network on the out-of-fold answers too.

    Returns:
        The contents of ``experiment.json``.

    Raises:
        UsageError: If a class has too few groups for the folds, or the data cannot be used.
        CheckFailedError: If a patient or near duplicates are in more than one fold.
        Interrupted: On Ctrl-C; the same call resumes.
    """
    if any(case.split for case in experiment.manifest.cases):
        experiment.progress.message("The split that the data states is not used; the folds are drawn from all cases.")
    plan, trials = plan_folds(experiment)
    comparison = Comparison.run(experiment, trials, {trial.condition: trial.condition for trial in trials})
    pooled = pool(plan, comparison.results, experiment)
    if pooled is None:
        return _report(comparison, plan, [], None, ["No seed has a result for each fold, so there is no ensemble."])
    seeds = [seed for seed in experiment.seeds if len(_of_seed(comparison, seed)) == plan.folds]
    threshold = experiment.recipe.decision.threshold
    metrics = tables.out_of_fold_table(pooled, seeds, experiment.manifest.labels, threshold)
    _write_csv(experiment, plan, pooled)
    results = [result for seed in seeds for result in _of_seed(comparison, seed)]
    members = [Bundle.load(result.folder / BUNDLE, experiment.recipe.builder()) for result in results]
    data = make_training_data(results[0].trial, experiment.data, experiment.cache)
    models = _make_models(experiment, plan, pooled, members, merged_data(data, plan), distill=distill)
    first, folds = metrics.rows[0], tables.folds_table(comparison.results)
    answer = [*comparison.warnings, tables.headline(first, len(pooled.rows), len(set(pooled.groups)))]
    sources = [experiment.cache.manifest.cases[row].source or "" for row in pooled.rows]
    by_source = tables.sources_table(pooled, sources, experiment.manifest.labels, threshold)
    all_tables = [metrics, *([] if by_source is None else [by_source]), folds]
    if len(plan.holdout_rows):
        table, sentences = _hold_out(experiment, plan, members, models, data)
        all_tables.insert(1, table)
        answer += sentences
    return _report(comparison, plan, all_tables, models, answer, [tables.fold_chart(folds, first)])


def _of_seed(comparison: Comparison, seed: int) -> list[TrialResult]:
    return [result for result in comparison.successful if result.trial.seed == seed]


def _make_models(
    experiment: Experiment,
    plan: FoldPlan,
    pooled: OutOfFold,
    members: Sequence[Bundle],
    data: TrainingData,
    *,
    distill: bool,
) -> Models:
    """Saves the ensemble and the distilled network, whose training images are those of all folds in ``data``."""
    with phase(experiment.progress, 1, "Calibrating the ensemble"):
        decision, notes = calibrated_decision(experiment, pooled)
    ensemble = make_ensemble(members, data, decision, _record(experiment, plan, pooled))
    saved = ensemble.save(experiment.out / ENSEMBLE_FOLDER, member_weights(members))
    if not distill:
        return Models(saved, None, notes)
    trial = distillation_trial(experiment, plan, pooled)
    failures = experiment.run_trials([trial])
    [result] = read_results([trial], experiment.data, experiment.runs, failures)
    if result.failure is not None:
        return Models(saved, None, [*notes, f"The distilled network was not trained: {result.failure}"])
    student = Bundle.load(result.folder / BUNDLE, experiment.recipe.builder())
    weights = student.network().state_dict()
    distilled = distilled_bundle(student, data).save(experiment.out / DISTILLED_FOLDER, weights)
    return Models(saved, distilled, notes)


def _record(experiment: Experiment, plan: FoldPlan, pooled: OutOfFold) -> dict[str, Any]:
    return {
        "folds": plan.folds,
        "holdout": plan.holdout,
        "seeds": list(experiment.seeds),
        "images": len(pooled.rows),
        "groups": len(set(pooled.groups)),
    }


def _write_csv(experiment: Experiment, plan: FoldPlan, pooled: OutOfFold) -> None:
    """Writes the out-of-fold predictions, and the folds as a table that ``train`` and ``evaluate`` read."""
    cache, labels = experiment.cache, experiment.manifest.labels
    threshold = experiment.recipe.decision.threshold
    fixed = threshold if labels.binary and isinstance(threshold, float) else Decision.default(len(labels)).threshold
    cases = CasePredictions(
        rows=pooled.rows,
        manifest=cache.manifest.subset(pooled.rows.tolist()),
        groups=pooled.groups,
        logits=pooled.logits,
        probabilities=pooled.mean,
        failed={},
        hashes=[cache.hashes[row] for row in pooled.rows],
    )
    write_predictions(experiment.out / OUT_OF_FOLD_CSV, cases, labels, Decision(threshold=fixed))
    folds = plan.fold_of_case
    columns = {"group": list(experiment.data.groups), "fold": ["" if fold is None else str(fold) for fold in folds]}
    if len(plan.holdout_rows):
        columns["split"] = [HOLDOUT if split == HOLDOUT else "train" for split in plan.assigned[0]]
    write_split_table(experiment.out / SPLIT_CSV, cache.manifest, columns)


def _hold_out(
    experiment: Experiment, plan: FoldPlan, members: Sequence[Bundle], models: Models, data: TrainingData
) -> tuple[Table, list[str]]:
    """Evaluates the ensemble on the hold-out, and compares it with single networks and the distilled one."""
    with phase(experiment.progress, len(members), "Evaluating on the hold-out", "network"):
        answers: dict[str, list[TrialPredictions]] = {tables.SINGLE: []}
        for bundle in members:
            answers[tables.SINGLE].append(predict_rows(bundle, data, plan.holdout_rows))
            experiment.progress.step()
    names = {data.manifest.cases[row].name for row in plan.holdout_rows}
    cases = [replace(case, split="test") for case in experiment.manifest.cases if case.name in names]
    holdout = replace(experiment.manifest, cases=tuple(cases))
    options = EvaluationOptions(split="test", cache_folder=experiment.out / "cache", leaked_cases={})
    folders = {HOLDOUT_FOLDER: models.ensemble, f"{HOLDOUT_FOLDER}/{DISTILLED_FOLDER}": models.distilled}
    for name, (folder, model) in zip((tables.ENSEMBLE, tables.DISTILLED), folders.items(), strict=True):
        if model is not None:
            evaluation, predictions = evaluate_and_predict(model, holdout, experiment.out / folder, options)
            model.with_metrics(evaluation)
            answers[name] = [_trial_predictions(model, data, predictions)]
    flip = 2 if experiment.recipe.decision.flip_average else 1
    networks = {tables.SINGLE: flip, tables.ENSEMBLE: flip * len(members), tables.DISTILLED: flip}
    table, sentences = tables.hold_out_table(answers, networks)
    return table, [*sentences, *tables.never_predicted_sentences(answers, experiment.manifest.labels)]


def predict_rows(bundle: Bundle, data: TrainingData, rows: Any) -> TrialPredictions:
    """Returns the answers of a bundle for rows of the cache."""
    classifier = Classifier.load(bundle)
    batches = data.cache.batches(rows, _BATCH)
    logits = np.concatenate([classifier.logits(data.cache.batch(batch)) for batch in batches])
    probabilities = bundle.decision.probabilities(logits)
    return TrialPredictions(
        names=data.names(rows),
        groups=[data.groups[row] for row in rows],
        y_true=data.targets[rows],
        y_prob=probabilities,
        y_pred=bundle.decision.predict(probabilities),
    )


def _trial_predictions(bundle: Bundle, data: TrainingData, predictions: CasePredictions) -> TrialPredictions:
    """Returns predictions of an evaluation with the groups of the folds."""
    group_of = {case.name: group for case, group in zip(data.manifest.cases, data.groups, strict=True)}
    names = [case.name for case in predictions.manifest.cases]
    return TrialPredictions(
        names=names,
        groups=[group_of[name] for name in names],
        y_true=np.array(predictions.manifest.targets, np.int64),
        y_prob=predictions.probabilities,
        y_pred=bundle.decision.predict(predictions.probabilities),
    )


def _report(
    comparison: Comparison,
    plan: FoldPlan,
    all_tables: Sequence[Table],
    models: Models | None,
    answer: Sequence[str],
    charts: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    seeds = ", ".join(map(str, comparison.experiment.seeds))
    facts = comparison.facts() | {
        "Seeds": f"{seeds} (all with the same folds)",
        "Folds": plan.folds,
        "Hold-out": f"{len(plan.holdout_rows)} images" if len(plan.holdout_rows) else "none",
    }
    report = ExperimentReport(
        name=NAME,
        title="Cross-validation",
        question="How good is the network on patients that it was not trained on, and how much does it vary?",
        answer=answer,
        facts=facts,
        tables=all_tables,
        charts=charts,
        runs=comparison.run_rows(),
        failed=comparison.failures,
        not_done=() if models is None else models.notes,
    )
    out = comparison.experiment.out
    return report.write(out) | {
        "bundle": None if models is None else str(models.ensemble.folder),
        "distilled": None if models is None or models.distilled is None else str(models.distilled.folder),
        "predictions": None if models is None else str(out / OUT_OF_FOLD_CSV),
        "report": str(out / "report.html"),
    }
