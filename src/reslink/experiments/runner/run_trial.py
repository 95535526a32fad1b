"""Runs one trial: train, evaluate, measure attention; steps with existing results are skipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from reslink.bundles.bundle import Bundle
from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.errors import DivergedError, ReslinkError
from reslink.evaluation import leakage
from reslink.evaluation.evaluate import evaluate_cases
from reslink.evaluation.predictions_csv import CasePredictions, write_predictions
from reslink.experiments.runner.attention_on_test_cases import measure_attention
from reslink.experiments.runner.input_masking import open_view
from reslink.experiments.runner.trial import ATTENTION, DIVERGED, RECIPE_VIEW, SharedData, Trial, predictions_file
from reslink.files import lock_folder, write_json
from reslink.inference.classifier import Classifier
from reslink.training.data import TrainingData
from reslink.training.monitoring.progress import Progress
from reslink.training.run_folder import BUNDLE, FINISHED, TRIAL_LOCKS
from reslink.training.trainer import train

BATCH = 32


def run_trial(trial: Trial, data: SharedData, runs: Path, progress: Progress) -> None:
    """Runs the steps of a trial that are not complete.

    Args:
        trial: The trial.
        data: The data.
        runs: Folder of all trials.
        progress: Receives the progress of the training.

    Raises:
        ReslinkError: If training or evaluation fails. If the loss becomes non-finite, the folder records it instead,
            because a new attempt would fail in the same way.
    """
    folder = trial.folder(data, runs)
    with lock_folder(runs / TRIAL_LOCKS / folder.name, wait=True):  # another experiment may run the same trial
        if trial.is_complete(folder):
            return
        cache = open_view(data.manifest, trial.recipe.preprocess, trial.view, data.cache)
        training_data = make_training_data(trial, data, cache)
        try:
            if not (folder / FINISHED).exists():
                train(data.manifest, trial.recipe, folder, resume=True, progress=progress, training_data=training_data)
        except DivergedError as error:
            write_json(folder / DIVERGED, {"reason": str(error)})
            return
        if "test" not in trial.splits:
            return
        _evaluate(trial, training_data, folder, RECIPE_VIEW)
        for view in trial.test_views:
            view_cache = open_view(data.manifest, trial.recipe.preprocess, view, data.cache)
            _evaluate(trial, make_training_data(trial, data, view_cache), folder, view)
        if trial.measures_attention:
            measure_attention(_load(trial, folder), training_data, folder / ATTENTION)


def make_training_data(trial: Trial, data: SharedData, cache: PixelCache) -> TrainingData:
    """Returns the training data of a trial, with the images of a cache."""
    soft = None if trial.soft_targets is None else np.array(trial.soft_targets, np.float32)
    groups, joined = data.groups, data.joined_groups
    return TrainingData(
        cache.manifest, cache, cache.targets, groups, trial.splits, data.digest, joined_groups=joined, soft_targets=soft
    )


def _load(trial: Trial, folder: Path) -> Classifier:
    """Returns the trained network of a trial."""
    return Classifier.load(Bundle.load(folder / BUNDLE, trial.recipe.builder()))


def _evaluate(trial: Trial, training_data: TrainingData, folder: Path, view: str) -> None:
    """Writes the predictions for the test split, and the metrics with intervals."""
    table = folder / predictions_file(view)
    if table.exists():
        return
    classifier = _load(trial, folder)
    cases = _predict(classifier, training_data)
    decision = classifier.bundle.decision
    y_true = training_data.targets[cases.rows]
    result = evaluate_cases(y_true, cases.probabilities, cases.groups, classifier.labels, decision, seed=trial.seed)
    result |= {"split": "test", "view": trial.view if view == RECIPE_VIEW else view, "failed": cases.failed, "n_failed": 0}
    result["bundle_sha256"] = classifier.bundle.weights_sha256
    leaked = _leaked(training_data, cases, classifier.bundle)
    leakage.mark_leakage(result, leaked)
    result |= leaked.as_dict()
    write_json(folder / "evaluation.json" if view == RECIPE_VIEW else table.with_suffix(".json"), result)
    write_predictions(table, cases, classifier.labels, decision)


def _leaked(training_data: TrainingData, cases: CasePredictions, bundle: Bundle) -> leakage.Leakage:
    """Returns the leaked test cases. They are allowed: an experiment with such cases includes them on purpose."""
    reasons = training_data.leaked_cases()
    names = [case.name for case in cases.manifest.cases]
    rows = {i: reasons[name] for i, name in enumerate(names) if name in reasons}
    return leakage.Leakage(names, rows, allowed=True, fingerprints_available=bundle.knows_seen_images)


def _predict(classifier: Classifier, training_data: TrainingData) -> CasePredictions:
    rows = training_data.indices("test")
    batches = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    logits = np.concatenate([classifier.logits(training_data.cache.batch(batch)) for batch in batches]).astype(np.float64)
    if not np.isfinite(logits).all():
        raise ReslinkError("The network returned non-finite values", "Metrics need finite logits", "Lower optimizer.lr")
    return CasePredictions(
        rows=rows,
        manifest=training_data.manifest.subset(rows.tolist()),
        groups=[training_data.groups[row] for row in rows],
        logits=logits,
        probabilities=classifier.bundle.decision.probabilities(logits),
        failed={},
        hashes=[training_data.cache.hashes[row] for row in rows],
    )
