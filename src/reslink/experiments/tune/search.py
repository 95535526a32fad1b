"""The search: suggests recipes, runs their folds, stops trials that are worse, and records everything in the journal."""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState

from reslink.errors import ReslinkError, UsageError, counted
from reslink.experiments.runner.experiment import Experiment
from reslink.experiments.runner.results import TrialResult
from reslink.experiments.runner.trial import Trial
from reslink.experiments.tune import records
from reslink.experiments.tune.candidates import candidate, training_digest
from reslink.experiments.tune.cost import Cost, measure_cost
from reslink.experiments.tune.parts import Parts
from reslink.experiments.tune.records import SearchTrial, counted_trials
from reslink.experiments.tune.space import Space, base_values
from reslink.files import is_locked, lock_folder, sha256
from reslink.settings_text import read_json
from reslink.training.recipe.recipe import Recipe

P_THRESHOLD = 0.2
"""With the Wilcoxon test, a trial is stopped at the earliest after three folds, if it is worse in each of them (p 0.125)."""

STARTUP_TRIALS = 5
"""Trials before the sampler learns from the others."""

MODEL_DRAWS, RANDOM_DRAWS = 20, 60
"""Suggestions in a row that may equal an earlier trial, before values are drawn at random, and before the search ends."""


@dataclass(frozen=True)
class Budget:
    """How long a search lasts.

    Attributes:
        trials: Number of trials in the folder, those of earlier calls included; None if the time counts.
        minutes: Time after which no further trial begins; None if the trials count.
    """

    trials: int | None = None
    minutes: float | None = None


@dataclass(frozen=True)
class Setup:
    """What all trials of a search share.

    Attributes:
        experiment: Data, base recipe, folder and progress.
        space: The space.
        parts: The folds and the hold-out.
        budget: How long the search lasts.
    """

    experiment: Experiment
    space: Space
    parts: Parts
    budget: Budget

    @property
    def num_classes(self) -> int:
        """The number of classes of the data."""
        return len(self.experiment.manifest.labels)

    @property
    def locks(self) -> Path:
        """The folder of the locks that the processes of the search hold."""
        return self.experiment.out / "locks"

    def trial_lock(self, number: int) -> Path:
        """Returns the lock of a trial, which the process that runs it holds."""
        return self.locks / f"trial-{number}"


@dataclass
class _Active:
    """A trial that this process runs."""

    trial: optuna.Trial
    recipe: Recipe
    fold: int
    run: Trial | None = None


@dataclass
class Search:
    """A queue of the training runs of a search.

    Attributes:
        setup: What the trials share.
        study: The study in the journal.
        exhausted: Whether no further recipe was found in the space.
    """

    setup: Setup
    study: optuna.Study
    exhausted: bool = False
    _ready: list[_Active] = field(default_factory=list)
    _active: dict[str, _Active] = field(default_factory=dict)
    _locks: dict[int, contextlib.ExitStack] = field(default_factory=dict)
    _shown: int = 0
    _start: float = field(default_factory=lambda: monotonic())

    def __post_init__(self) -> None:
        self._shown = self._done(records.read_trials(self.study))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            self.study.pruner = optuna.pruners.WilcoxonPruner(p_threshold=P_THRESHOLD)

    @property
    def total_steps(self) -> int:
        """Steps of the progress that are left: folds, or seconds."""
        budget = self.setup.budget
        if budget.trials is None:
            return round(60 * (budget.minutes or 0))
        return max(0, budget.trials * len(self.setup.parts.folds) - self._shown)

    def next_run(self) -> Trial | None:
        """Returns the next fold to train; None if there is none now."""
        while self._ready or self._claim():
            if not self._ready:  # the claimed trial had no fold left to train
                continue
            active = self._ready.pop(0)
            run = self.setup.parts.trial(active.trial.number, active.fold, active.recipe)
            active.run, self._active[run.condition] = run, active
            experiment = self.setup.experiment
            folder = run.folder(experiment.data, experiment.runs)
            run.record_condition(folder)
            if not run.is_complete(folder):
                return run
            self.end_run(run, None)
        return None

    def end_run(self, trial: Trial, failure: str | None) -> None:
        """Records the score of a fold, and ends its trial or continues with the next fold."""
        active, experiment = self._active.pop(trial.condition), self.setup.experiment
        failures = {} if failure is None else {trial.key(experiment.data): failure}
        result = TrialResult.read(trial, experiment.data, experiment.runs, failures)
        if result.failure is not None:
            self._fail(active, f"fold {active.fold + 1}: {result.failure}", diverged=result.diverged)
            return
        predictions = result.predictions
        active.trial.report(float(predictions.metrics(np.ones((1, len(predictions.names))))["auroc"][0]), active.fold)
        if not active.fold:
            self._compare_weights(active.trial, read_json(result.folder / "evaluation.json")["bundle_sha256"])
        active.fold += 1
        self._advance(active)
        self._show_progress()

    def state(self) -> str:
        """Returns how many trials are finished."""
        finished = sum(trial.state != "unfinished" for trial in records.read_trials(self.study))
        return (
            counted(finished, "trial")
            if self.setup.budget.trials is None
            else f"{finished} of {self.setup.budget.trials} trials"
        )

    def locked_by_others(self) -> list[Path]:
        """Returns the locks of trials that other processes run now."""
        running = [trial for trial in self.study.get_trials(deepcopy=False) if trial.state == TrialState.RUNNING]
        return [lock for trial in running if is_locked(lock := self.setup.trial_lock(trial.number))]

    def close(self) -> None:
        """Releases the trials that this process has not finished, for example after Ctrl-C in a notebook."""
        while self._locks:
            self._locks.popitem()[1].close()

    def _claim(self) -> bool:
        """Takes over an interrupted trial or begins a new one; false if there is none to run."""
        with lock_folder(self.setup.locks / "claim", wait=True):
            if self._is_over(self._trials()):
                return False
            active = self._interrupted() or self._new()
        if active is None:
            return False
        self._advance(active)
        return True

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _is_over(self, trials: list[FrozenTrial]) -> bool:
        minutes = self.setup.budget.minutes
        return self.exhausted or bool(minutes is not None and trials and monotonic() - self._start > 60 * minutes)

    def _interrupted(self) -> _Active | None:
        """Takes over a trial whose process has ended before the trial."""
        for trial in self._trials():
            if trial.state == TrialState.RUNNING and not is_locked(self.setup.trial_lock(trial.number)):
                active = self._admit(optuna.Trial(self.study, trial._trial_id))
                if active is not None:
                    return active
        return None

    def _new(self) -> _Active | None:
        for attempt in range(MODEL_DRAWS + RANDOM_DRAWS):
            budget, begun = self.setup.budget.trials, len(counted_trials(self._trials()))
            if budget is not None and begun >= budget:
                return None
            active = self._admit(self._ask(at_random=attempt >= MODEL_DRAWS))
            if active is not None:
                return active
        self.exhausted = True
        return None

    def _ask(self, *, at_random: bool) -> optuna.Trial:
        """Returns a suggestion; the first one is the base recipe. It depends only on the seed and the trials before it."""
        trials, space = self._trials(), self.setup.space
        seed = int(np.random.SeedSequence([self.setup.experiment.recipe.seed % 2**32, len(trials)]).generate_state(1)[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            self.study.sampler = (
                optuna.samplers.RandomSampler(seed=seed)
                if at_random
                else optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS, constant_liar=True)
            )
        if all(trial.state == TrialState.WAITING for trial in trials):
            recipe = self.setup.experiment.recipe
            parameters = space.parameters(base_values(space, recipe, self.setup.num_classes))
            if not trials:
                self.study.enqueue_trial(parameters or {}, user_attrs={records.BASE: True})
            return self.study.ask(space.distributions() if parameters else {})
        return self.study.ask(space.distributions())

    def _admit(self, trial: optuna.Trial) -> _Active | None:
        """Locks a trial for this process; None if its recipe is refused or equals that of another trial."""
        attributes, setup = trial.user_attrs, self.setup
        values = {} if attributes.get(records.BASE) else setup.space.values(trial.params)
        try:
            recipe, effective = candidate(setup.experiment.recipe, values, setup.num_classes)
        except UsageError as error:
            trial.set_user_attr(records.VALUES, values)
            self._tell_failure(trial, str(error), diverged=False)
            return None
        digest = training_digest(recipe, setup.num_classes)
        if records.DIGEST not in attributes:
            twins = [other.number for other in self._trials() if other.user_attrs.get(records.DIGEST) == digest]
            if twins:
                trial.set_user_attr(records.DUPLICATE_OF, twins[0])
                self.study.tell(trial, state=TrialState.FAIL)
                return None
            trial.set_user_attr(records.VALUES, effective)
            trial.set_user_attr(records.DIGEST, digest)
        self._locks[trial.number] = contextlib.ExitStack()
        self._locks[trial.number].enter_context(lock_folder(setup.trial_lock(trial.number)))
        return _Active(trial, recipe, len(self._trials()[trial.number].intermediate_values))

    def _advance(self, active: _Active) -> None:
        """Ends a trial whose folds are complete or that is worse than the best one; otherwise its next fold is ready."""
        trial, folds = active.trial, len(self.setup.parts.folds)
        if records.NETWORK not in trial.user_attrs and not self._measure_cost(active):
            return
        scores = list(self._trials()[trial.number].intermediate_values.values())
        if active.fold == folds:
            self._finish(active, f"AUROC {np.mean(scores):.3f}", float(np.mean(scores)))
        elif active.fold and trial.should_prune():
            self._finish(active, f"AUROC {np.mean(scores):.3f}, stopped after {active.fold} of {folds} folds", None)
        else:
            self._ready.append(active)

    def _measure_cost(self, active: _Active) -> bool:
        """Records the cost of the network; returns whether the network can be built."""
        recipe, num_classes = active.recipe, self.setup.num_classes
        network = sha256(f"{recipe.architecture(num_classes)} {recipe.preprocess.size}")
        earlier = [trial.user_attrs for trial in self._trials() if trial.user_attrs.get(records.NETWORK) == network]
        try:
            cost = Cost(earlier[0][records.FLOPS], earlier[0][records.MS]) if earlier else measure_cost(recipe, num_classes)
        except (ReslinkError, RuntimeError, ValueError) as error:
            self._fail(active, f"the network cannot be used: {error}", diverged=False)
            return False
        for name, value in ((records.FLOPS, cost.flops), (records.MS, round(cost.ms, 4)), (records.NETWORK, network)):
            active.trial.set_user_attr(name, value)
        return True

    def _compare_weights(self, trial: optuna.Trial, weights: str) -> None:
        """Records a trial that has the weights of another one, although their settings differ."""
        if records.WEIGHTS in trial.user_attrs:
            return
        same = [other.number for other in self._trials() if other.user_attrs.get(records.WEIGHTS) == weights]
        trial.set_user_attr(records.WEIGHTS, weights)
        if same:
            trial.set_user_attr(records.SAME_WEIGHTS, same[0])
            text = f"Trial {trial.number} has the weights of trial {same[0]}: the settings in which they differ have no effect."
            self.setup.experiment.progress.message(text)

    def _finish(self, active: _Active, result: str, value: float | None) -> None:
        self.study.tell(active.trial, value, TrialState.PRUNED if value is None else TrialState.COMPLETE)
        self._end(active, result)

    def _fail(self, active: _Active, reason: str, *, diverged: bool) -> None:
        self._tell_failure(active.trial, reason, diverged=diverged)
        self._end(active, f"{'diverged' if diverged else 'failed'}, {reason}")

    def _tell_failure(self, trial: optuna.Trial, reason: str, *, diverged: bool) -> None:
        """Records a failure. For the sampler a diverged trial is a bad one, which it learns from; others say nothing."""
        trial.set_user_attr(records.FAILURE, reason)
        if diverged:
            trial.set_user_attr(records.DIVERGED, True)
        self.study.tell(trial, state=TrialState.PRUNED if diverged else TrialState.FAIL)

    def _end(self, active: _Active, result: str) -> None:
        self._locks.pop(active.trial.number).close()
        trials = records.read_trials(self.study)
        selection = records.select(trials)
        best = "" if selection is None else f" Best: {selection.highest.mean:.3f} (trial {selection.highest.number})."
        name = f"Trial {active.trial.number}{', the base recipe' if active.trial.user_attrs.get(records.BASE) else ''}"
        self.setup.experiment.progress.message(f"{name}: {result}. {self.state()} finished.{best}")
        self._show_progress()

    def _show_progress(self) -> None:
        trials = records.read_trials(self.study)
        selection = records.select(trials)
        done = self._done(trials)
        values: dict[str, Any] = {"trials": sum(trial.state != "unfinished" for trial in trials)}
        if selection is not None:
            values["best"] = selection.highest.mean
        self.setup.experiment.progress.step(done - self._shown, **values)
        self._shown = done

    def _done(self, trials: list[SearchTrial]) -> int:
        if self.setup.budget.trials is None:
            return round(min(60 * (self.setup.budget.minutes or 0), monotonic() - self._start))
        folds = len(self.setup.parts.folds)
        return sum(len(trial.scores) if trial.state == "unfinished" else folds for trial in trials)
