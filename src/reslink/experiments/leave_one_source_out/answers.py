"""What the model of a trial answers on the source that it has never seen, and on new patients of its own sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.decision import Decision, DecisionResults
from reslink.errors import UsageError
from reslink.evaluation.cases import run_network
from reslink.evaluation.cross_fit import cross_fit
from reslink.evaluation.fitting import CalibrationData
from reslink.evaluation.predictions_csv import CasePredictions, write_predictions
from reslink.experiments.runner.experiment import Experiment
from reslink.experiments.runner.fitted_decision import fit_recipe_decision, fitted_without
from reslink.experiments.runner.results import TrialPredictions, TrialResult
from reslink.experiments.runner.run_trial import BATCH
from reslink.experiments.runner.seed_statistics import Floats, TrialSample
from reslink.imaging.image import Stated
from reslink.inference.classifier import Classifier
from reslink.inference.outputs import Outputs
from reslink.metrics.weighted import ratio
from reslink.training.run_folder import BUNDLE

Rows: TypeAlias = NDArray[np.int64]

METRICS = ("auroc", "accuracy", "sensitivity", "specificity", "ece")
ABSTENTION = ("coverage", "silent_errors")
MEASURES = (*METRICS, *ABSTENTION)
NO_ABSTENTION = "no model of it can abstain"
PREDICTIONS_CSV = "unseen_source.csv"
"""Predictions for the source that was left out, with abstentions, in the folder of a run."""


@dataclass(frozen=True, eq=False)
class Answers:
    """Predictions with abstentions.

    Attributes:
        predictions: The predictions, also where the model abstains.
        answered: (n,) whether the model does not abstain; None if it cannot abstain, or if that could not be measured.
    """

    predictions: TrialPredictions
    answered: NDArray[np.bool_] | None

    def sample(self) -> TrialSample:
        """Returns the input of the bootstrap, with the metrics ``MEASURES``."""

        def statistic(weights: Floats) -> dict[str, Floats]:
            metrics = self.predictions.metrics(weights)
            return {name: metrics[name] for name in METRICS} | self._abstention(weights)

        own_groups = dict.fromkeys(MEASURES, len(set(self.predictions.groups)))
        return TrialSample(self.predictions.groups, statistic, own_groups | self.predictions.effective_groups())

    def _abstention(self, weights: Floats) -> dict[str, Floats]:
        """Returns coverage, and the share of all cases that are answered wrongly without an abstention, each (m,)."""
        if self.answered is None:
            return dict.fromkeys(ABSTENTION, np.full(len(weights), np.nan))
        total, wrong = weights.sum(axis=1), self.answered & ~self.predictions.correct
        return {"coverage": ratio(weights @ self.answered, total), "silent_errors": ratio(weights @ wrong, total)}

    def subset(self, selected: NDArray[np.bool_]) -> Answers:
        """Returns the selected cases, (n,) booleans."""
        return Answers(self.predictions.subset(selected), None if self.answered is None else self.answered[selected])


@dataclass(frozen=True, eq=False)
class TrialAnswers:
    """The answers of the model of a trial.

    Attributes:
        unseen: For the source that was left out.
        inside: For the validation images of the other sources.
        n_refused: Number of images of the source that the model refuses as out of its scope; they count as abstentions.
        notes: What could not be fitted or measured, in sentences.
    """

    unseen: Answers
    inside: Answers
    n_refused: int
    notes: Sequence[str]

    @property
    def can_abstain(self) -> bool:
        """Whether the model can abstain; coverage and silent errors are those of such models only."""
        return self.unseen.answered is not None


@dataclass(frozen=True)
class Evaluator:
    """Runs the models of the trials.

    Attributes:
        experiment: The experiment.
        groups: The group of each readable case; intervals are over groups.
    """

    experiment: Experiment
    groups: Sequence[str]

    def answer(self, result: TrialResult) -> TrialAnswers:
        """Runs the model of a trial on its validation images and on the source that was left out.

        The decision (temperature, threshold, prediction sets, out-of-distribution detector) is fitted to the validation images,
        as ``reslink calibrate`` would. On the validation images themselves it is cross-fitted: a decision that is fitted to
        four fifths of the groups answers the other fifth. Images that the model refuses are left out of all fits and count as
        abstentions. Writes ``PREDICTIONS_CSV`` into the folder of the run.

        Args:
            result: A trial with a result.

        Raises:
            InputError: If the network returns no finite value.
        """
        bundle = Bundle.load(result.folder / BUNDLE, result.trial.recipe.builder())
        classifier = Classifier.load(bundle)
        rows, outputs = self._run(classifier, result, "validation")
        stated = self._stated(rows)
        refusals = classifier.decide(outputs, stated=stated).refusals
        refused = np.array([reason is not None for reason in refusals])
        cases = self._calibration_data(rows, outputs).without_refused(bundle.scope, stated, refusals)
        decision, inside, notes = self._fit(cases, rows[~refused], bundle.decision)
        classifier = Classifier.load(replace(bundle, decision=decision))
        if refused.any():
            results = classifier.decide(outputs.subset(refused), stated=self._stated(rows[refused]))
            inside = _concatenate([inside, self._answers(rows[refused], results, decision)])
            notes = [*notes, fitted_without(int(refused.sum()))]
        rows, outputs = self._run(classifier, result, "test")
        results = classifier.decide(outputs, stated=self._stated(rows))
        self._write(result, classifier, rows, outputs, results)
        return TrialAnswers(self._answers(rows, results, decision), inside, sum(results.refused), notes)

    def _run(self, classifier: Classifier, result: TrialResult, split: str) -> tuple[Rows, Outputs]:
        rows = np.flatnonzero(np.array(result.trial.splits) == split)
        finite, outputs, _ = run_network(classifier, self.experiment.cache, rows, BATCH, statistics=True)
        return finite, outputs

    def _stated(self, rows: Rows) -> list[Stated]:
        return [self.experiment.cache.case_stated[row] for row in rows]

    def _calibration_data(self, rows: Rows, outputs: Outputs) -> CalibrationData:
        assert outputs.statistics is not None  # noqa: S101  (run_network was called with statistics=True)
        return CalibrationData(
            np.asarray(outputs.logits, dtype=np.float64),
            np.asarray(outputs.features, dtype=np.float64),
            outputs.statistics,
            self.experiment.cache.targets[rows],
            [self.groups[row] for row in rows],
        )

    def _fit(self, cases: CalibrationData, rows: Rows, trained: Decision) -> tuple[Decision, Answers, list[str]]:
        """Returns the decision, its cross-fitted answers on the same cases, and notes; ``trained`` if none can be fitted."""
        settings, labels = self.experiment.recipe.decision, self.experiment.manifest.labels
        try:
            decision, notes = fit_recipe_decision(settings, cases, labels)
        except UsageError as error:
            results = trained.decide(cases.logits)
            note = f"It is not calibrated and answers every image: {error.given}"
            return trained, self._answers(rows, results, trained), [note]
        try:
            folds = cross_fit(cases, lambda part: fit_recipe_decision(settings, part, labels))
        except UsageError as error:
            results = decision.decide(cases.logits, cases.features, cases.statistics)
            inside = replace(self._answers(rows, results, decision), answered=None)
            notes.append(f"Its coverage inside is not measured, and its ECE inside is too low: {error.given}")
            return decision, inside, notes
        held_out = zip(folds.held_out, folds.results, strict=True)
        inside = _concatenate([self._answers(rows[part], results, decision) for part, results in held_out])
        if not folds.measures_abstention(decision):
            inside = replace(inside, answered=None)
        return decision, inside, [*notes, *folds.consequences(decision)]

    def _answers(self, rows: Rows, results: DecisionResults, decision: Decision) -> Answers:
        """Returns the answers of a model with this decision; in cross-fitting, ``results`` are of the decision of a fold."""
        cases = self.experiment.cache.manifest.cases
        predictions = TrialPredictions(
            names=[cases[row].name for row in rows],
            groups=[self.groups[row] for row in rows],
            y_true=self.experiment.cache.targets[rows],
            y_prob=results.probabilities,
            y_pred=results.predicted,
        )
        answered = np.ones(len(rows), np.bool_) if results.abstain is None else ~results.abstain
        return Answers(predictions, answered if decision.abstains else None)

    def _write(
        self,
        result: TrialResult,
        classifier: Classifier,
        rows: Rows,
        outputs: Outputs,
        results: DecisionResults,
    ) -> None:
        cases = CasePredictions(
            rows=rows,
            manifest=self.experiment.cache.manifest.subset(rows.tolist()),
            groups=[self.groups[row] for row in rows],
            logits=np.asarray(outputs.logits, dtype=np.float64),
            probabilities=results.probabilities,
            failed={},
            hashes=[self.experiment.cache.hashes[row] for row in rows],
            decision_results=results,
        )
        write_predictions(result.folder / PREDICTIONS_CSV, cases, classifier.labels, classifier.bundle.decision)


def _concatenate(parts: Sequence[Answers]) -> Answers:
    own = [part.predictions for part in parts]
    predictions = TrialPredictions(
        [name for one in own for name in one.names],
        [group for one in own for group in one.groups],
        np.concatenate([one.y_true for one in own]),
        np.concatenate([one.y_prob for one in own]),
        np.concatenate([one.y_pred for one in own]),
    )
    answered = [part.answered for part in parts if part.answered is not None]
    return Answers(predictions, np.concatenate(answered) if len(answered) == len(parts) else None)
