"""What a process of a study does with one trial: train, judge, measure; each step only where it has not been done."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.errors import DivergedError, ReslinkError
from reslink.evaluation import leakage
from reslink.evaluation.evaluate import evaluate_cases
from reslink.evaluation.tables import JudgedCases, write_predictions
from reslink.experiments.runner.attention_statistics import measure_attention
from reslink.experiments.runner.input_masking import open_look
from reslink.experiments.runner.run_spec import ATTENTION, PLAIN, STOPPED, Data, Trial
from reslink.files import lock_folder, write_json
from reslink.inference.classifier import Classifier
from reslink.training.data import Materials
from reslink.training.monitoring.progress import Progress
from reslink.training.run_folder import BUNDLE, FINISHED
from reslink.training.trainer import train

BATCH = 32


def perform(trial: Trial, data: Data, runs: Path, progress: Progress) -> None:
    """Does what is left to do of a trial.

    Args:
        trial: The run.
        data: What it learns from.
        runs: Folder of all runs.
        progress: Hears of the training.

    Raises:
        ReslinkError: If training or judging fails. A training whose loss is not finite is noted in the folder instead,
            since it would fail again.
    """
    folder = trial.folder(data, runs)
    with lock_folder(runs / "locks" / folder.name, wait=True):  # another study may work on the same run
        if trial.done(folder):
            return
        cache = open_look(data.manifest, trial.recipe.preprocess, trial.look, data.cache)
        materials = materials_of(trial, data, cache)
        try:
            if not (folder / FINISHED).exists():
                train(data.manifest, trial.recipe, folder, resume=True, progress=progress, materials=materials)
        except DivergedError as error:
            write_json(folder / STOPPED, {"reason": str(error)})
            return
        _judge(trial, materials, folder, PLAIN)
        for look in trial.tests:
            shown = open_look(data.manifest, trial.recipe.preprocess, look, data.cache)
            _judge(trial, materials_of(trial, data, shown), folder, look)
        if ATTENTION in trial.judgements():
            measure_attention(Classifier.load(folder / BUNDLE), materials, folder / ATTENTION)


def materials_of(trial: Trial, data: Data, cache: PixelCache) -> Materials:
    """Returns what a trial learns from, under one look."""
    return Materials(cache.manifest, cache, cache.targets, data.groups, trial.parts, data.digest, joined=data.groups)


def _judge(trial: Trial, materials: Materials, folder: Path, look: str) -> None:
    """Writes the predictions of the test part, and the figures with intervals."""
    table = folder / "predictions.csv" if look == PLAIN else folder / "looks" / f"{look}.csv"
    if table.exists():
        return
    classifier = Classifier.load(folder / BUNDLE)
    cases = _cases(classifier, materials)
    decision = classifier.bundle.decision
    truth = materials.targets[cases.rows]
    found = evaluate_cases(truth, cases.probabilities, cases.groups, classifier.labels, decision, seed=trial.seed)
    found |= {"split": "test", "look": trial.look if look == PLAIN else look, "failed": cases.failed, "n_failed": 0}
    found["bundle_sha256"] = classifier.bundle.weights_sha256
    linked = _linked(materials, cases)
    leakage.mark(found, linked)
    found |= linked.as_dict()
    write_json(folder / "evaluation.json" if look == PLAIN else table.with_suffix(".json"), found)
    write_predictions(table, cases, classifier.labels, decision)


def _linked(materials: Materials, cases: JudgedCases) -> leakage.Leakage:
    """Which test cases are linked to the training part; a study that has such cases means to."""
    reasons = materials.linked()
    names = [case.name for case in cases.manifest.cases]
    return leakage.Leakage(names, {i: reasons[name] for i, name in enumerate(names) if name in reasons}, allowed=True)


def _cases(classifier: Classifier, materials: Materials) -> JudgedCases:
    rows = materials.indices("test")
    chunks = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    logits = np.concatenate([classifier.logits(materials.cache.batch(chunk)) for chunk in chunks]).astype(np.float64)
    if not np.isfinite(logits).all():
        raise ReslinkError("The network gives values that are not finite", "Figures need finite logits", "Lower optimizer.lr")
    return JudgedCases(
        rows=rows,
        manifest=materials.manifest.subset(rows.tolist()),
        groups=[materials.groups[row] for row in rows],
        logits=logits,
        probabilities=classifier.bundle.decision.probabilities(logits),
        failed={},
    )
