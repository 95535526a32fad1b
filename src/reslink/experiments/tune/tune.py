"""Searches recipe settings: trials on grouped folds, the choice of the best, and one evaluation on the hold-out."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reslink.errors import TrainingError, UsageError, counted
from reslink.experiments.runner.comparison import Comparison
from reslink.experiments.runner.experiment import Experiment
from reslink.experiments.runner.trial import Trial
from reslink.experiments.tune.options import TuneOptions, check_options
from reslink.experiments.tune.parts import make_parts
from reslink.experiments.tune.space import base_values, with_settings
from reslink.files import lock_folder, optional_import, write_json
from reslink.networks.entry_points import code_digest
from reslink.settings_text import read_json
from reslink.training.monitoring.progress import SilentProgress, phase
from reslink.training.recipe.differences import differences

if TYPE_CHECKING:
    from optuna import Study

    from reslink.experiments.tune.records import Selection
    from reslink.experiments.tune.search import Search, Setup

SEARCH = "search.json"
BEST, BASE_CONDITION = "best", "base"
_EVALUATED = "holdout_evaluations"


def tune(experiment: Experiment, options: TuneOptions) -> dict[str, Any]:
    """Searches the recipe of the highest AUROC in a space.

    Each trial is the base recipe with other values for some keys. It is trained on grouped folds, and its score is the mean
    AUROC on the folds that the runs were not trained on. A trial that is worse than the best one in the first folds is stopped
    (Wilcoxon signed-rank test over the folds). The first trial is the base recipe. The best trial is the cheapest one within
    a standard error of the highest mean. It and the base recipe are trained once more on everything but the hold-out, and
    evaluated on it.

    Args:
        experiment: Data, base recipe, folder, number of processes and progress.
        options: The space, the budget and the folds.

    Returns:
        The contents of ``tune.json``, which is written with ``best.yaml``, ``trials.csv`` and ``tune.html``.

    Raises:
        UsageError: If the options are not valid, Optuna is not installed, or the folder holds another search.
        CheckFailedError: If the data has several labels for an image, or its splits leak.
        InputError: If the journal is damaged.
        TrainingError: If no trial is complete.
        Interrupted: On Ctrl-C; the same call resumes.
    """
    check_options(options, experiment.recipe)
    optional_import("optuna", "tune")
    from reslink.experiments.tune import records, results
    from reslink.experiments.tune.journal import open_study
    from reslink.experiments.tune.search import Budget, Search, Setup

    experiment.out.mkdir(parents=True, exist_ok=True)
    identity = _identity(experiment, options)
    _check_identity(experiment.out, identity)
    data = experiment.data
    with lock_folder(experiment.out / "locks" / "claim", wait=True):
        _check_identity(experiment.out, identity | {"data": data.digest})
        write_json(experiment.out / SEARCH, identity | {"data": data.digest})
    setup = Setup(
        experiment,
        options.space,
        make_parts(experiment, options.folds, options.holdout),
        Budget(options.trials, options.minutes),
    )
    study = open_study(experiment.out)
    _announce(setup)
    search = Search(setup, study)
    _run(search)
    trials = records.read_trials(study)
    selection = records.select(trials)
    if selection is None:
        raise _nothing_complete(trials)
    comparison = _evaluate_on_holdout(setup, study, selection)
    return results.write(
        setup, results.Outcome(study, search.exhausted, trials, selection, comparison, study.user_attrs[_EVALUATED])
    )


def _identity(experiment: Experiment, options: TuneOptions) -> dict[str, Any]:
    """Returns what must be equal when a search is resumed, besides the data."""
    identity: dict[str, Any] = {
        "space": dict(options.space.tree),
        "recipe": experiment.recipe.published(),
        "folds": options.folds,
        "holdout": options.holdout,
    }
    entry_point = experiment.recipe.model.entry_point
    if entry_point is not None:
        identity["code_sha256"] = code_digest(entry_point)
    return dict(json.loads(json.dumps(identity)))


def _check_identity(out: Path, identity: Mapping[str, Any]) -> None:
    """Refuses a folder that holds another search."""
    path = out / SEARCH
    if not path.exists():
        return
    try:
        before = {key: value for key, value in read_json(path).items() if key in identity}
    except (ValueError, AttributeError) as error:
        raise UsageError(
            f"{path} cannot be read: {error}", "It holds the settings of the search", "Choose another --out"
        ) from error
    if "data" in identity and before.get("data") != identity["data"]:
        raise UsageError(
            f"{out} holds a search on other images or labels (SHA-256 {str(before.get('data'))[:12]}…)",
            "A search is resumed with the same data",
            "Choose another --out, or restore the data",
        )
    changes = list(differences(before, dict(identity)))
    if changes:
        raise UsageError(
            f"{out} holds a search with other settings: {'; '.join(changes[:5])}",
            "A search is resumed with the same space, recipe, folds and hold-out; --trials, --minutes and --jobs can change",
            "Choose another --out, or use the settings of the first call",
        )


def _announce(setup: Setup) -> None:
    """Says what the search varies, what it holds out, and what does not fit."""
    progress, parts, space = setup.experiment.progress, setup.parts, setup.space
    source = "the test split of the data" if parts.given else "drawn by groups"
    progress.message(
        f"{counted(len(space.dimensions), 'setting')} are varied: {', '.join(space.dimensions)}. Each trial is trained "
        f"{len(parts.folds)} times, on folds of {parts.count('train') + parts.count('validation')} images. "
        f"{counted(parts.count('test'), 'image')} are held out ({source})."
    )
    if space.left_out:
        progress.message(f"{', '.join(space.left_out)}: left out of the space, as they are only for a ResLink.")
    values = base_values(space, setup.experiment.recipe, setup.num_classes)
    outside = [f"{key} ({values[key]})" for key in space.outside(values)]
    if outside:
        progress.message(
            f"The base recipe is outside the space in {', '.join(outside)}. It is trained as trial 0, but the sampler does not "
            "learn from it."
        )


def _run(search: Search) -> None:
    """Runs the search until its budget is used, here and in other processes on the same folder."""
    experiment, budget = search.setup.experiment, search.setup.budget
    label, noun = (
        ("Searching", "fold") if budget.trials is not None else (f"Searching for {budget.minutes:g} minutes", "second")
    )
    steps = search.total_steps
    shown = (
        phase(experiment.progress, steps, label, noun) if steps else contextlib.nullcontext()
    )  # no bar for a finished search
    with shown, contextlib.closing(search):
        while True:
            experiment.run_queue(search, experiment.data, experiment.runs, SilentProgress())  # the search reports whole trials
            others = search.locked_by_others()
            if not others:
                break
            experiment.progress.message(f"Waiting for {counted(len(others), 'trial')} of another process.")
            for lock in others:
                with lock_folder(lock, wait=True):
                    pass
    if search.exhausted:
        experiment.progress.message("The search ends early: the space seems to hold no further recipe.")


def _nothing_complete(trials: Sequence[Any]) -> TrainingError:
    reasons = [f"trial {trial.number}: {trial.failure}" for trial in trials if trial.failure]
    return TrainingError(
        f"No trial is complete. {'; '.join(reasons[:3]) or 'The time was over before the first one was'}",
        "A search needs at least one trial that is trained on all folds",
        "Correct the recipe or the space, or give the search more time",
    )


def _evaluate_on_holdout(setup: Setup, study: Study, selection: Selection) -> Comparison:
    """Trains the base recipe and the best one on everything but the hold-out, and evaluates both on it."""
    experiment, best = setup.experiment, selection.best
    recipes = {BASE_CONDITION: experiment.recipe}
    titles = {BASE_CONDITION: "base recipe"}
    if not best.base:
        recipes[BEST] = with_settings(experiment.recipe, best.values, setup.num_classes)
        titles[BEST] = f"best recipe (trial {best.number})"
    earlier = study.user_attrs.get(_EVALUATED, [])
    study.set_user_attr(_EVALUATED, [*earlier, *([] if best.number in earlier else [best.number])])
    trials = [Trial(name, recipe.seed, recipe, setup.parts.final) for name, recipe in recipes.items()]
    return Comparison.run(experiment, trials, titles)
