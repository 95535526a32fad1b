"""``reslink.tune``: a search of recipe settings with grouped folds, a pruner, and one evaluation on a hold-out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reslink.api.data_argument import Columns, Data, open_manifest
from reslink.api.progress import ShowProgress, resolve_progress
from reslink.files import check_folder_path


def tune(
    data: Data,
    out: str | Path,
    *,
    trials: int | None = None,
    minutes: float | None = None,
    space: str | Path | Mapping[str, Any] | None = None,
    preset: str | None = None,
    folds: int = 5,
    holdout: float = 0.2,
    columns: Columns = None,
    root: str | Path | None = None,
    unit: str | None = None,
    recipe: str | Path | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    network: str | None = None,
    init: str | Path | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    allow_conflicts: bool = False,
    jobs: int = 0,
    on: str | None = None,
    progress: ShowProgress = False,
) -> dict[str, Any]:
    """Searches the recipe with the highest AUROC, and evaluates it once on images that the search has not seen.

    A trial is the base recipe with other values for the keys of the space. It is trained on grouped folds; a trial that is
    worse than the best one is stopped early. The first trial is the base recipe. The same call resumes an interrupted search,
    and several processes can work on one folder. Needs the extra ``tune``. Imports torch.

    Args:
        data: A folder with one folder per class, a folder with a ``manifest.csv``, a CSV or Parquet table, or an opened
            ``Manifest``.
        out: The folder of the search.
        trials: Number of trials, those of earlier calls included. Give either ``trials`` or ``minutes``.
        minutes: Minutes after which no further trial begins.
        space: A YAML file, or its content: recipe key to a list of values, or to ``{"low": …, "high": …}``, with
            ``log`` and ``step`` as options.
        preset: A space that ships with reslink: ``quick`` (the default), ``good`` or ``best``.
        folds: Number of folds of each trial, at least 3.
        holdout: Share of the images that no trial sees; not used if the data states a test split, which is then the hold-out.
        columns: Role to column of a table, such as ``{"patient": "MRN"}``; None infers the columns from their names.
        root: Folder that the paths in a table start from; None for the folder of the table.
        unit: ``hu``, ``mr`` or ``gray`` for images for which neither file nor table states a unit; None decides by the values.
        recipe: The base recipe, a file or the name of a published recipe; None for the default recipe.
        settings: Changes to the base recipe, as for :func:`reslink.train`.
        network: Name of a network variant, or an entry point such as ``"file.py:callable"``; None for that of the recipe.
        init: Fine-tune the weights of this shipped model, bundle or run in all trials; None for the value of the recipe.
        epochs: Number of epochs of the base recipe; None for that of the recipe.
        seed: Seed of hold-out, folds, weights and augmentation; None for that of the recipe.
        allow_conflicts: Accept identical images and near duplicates with different labels.
        jobs: Number of training processes with one thread each; 0 trains in this process.
        on: A Ray cluster that trains: ``ray`` (this machine), ``HOST:PORT`` or ``ray://HOST:PORT``, with ``jobs`` runs at
            once or one per core. None for this machine without Ray.
        progress: Whether to show a progress bar, or an object with the methods of ``Progress``.

    Returns:
        The contents of ``tune.json``: among others ``best`` (its trial, settings, AUROC, and the paths of recipe and bundle),
        ``answer`` (the result in sentences), ``runs`` (one row per trial), ``counts`` and ``importance``.

    Raises:
        UsageError: If space, recipe or an option are not valid, Optuna is not installed, or ``out`` holds another search.
        CheckFailedError: If a given split leaks, or an image has several labels.
        InputError: If the journal of the search is damaged.
        TrainingError: If no trial is complete.

    Example:
        >>> import reslink
        >>> found = reslink.tune("images/", "tuned", trials=20, preset="quick", jobs=2)  # doctest: +SKIP
        >>> reslink.train("images/", "runs/best", recipe=found["best"]["recipe"])  # doctest: +SKIP
    """
    from reslink.experiments.tune.options import TuneOptions, check_options
    from reslink.experiments.tune.space import load_space
    from reslink.training.recipe.inheritance import parent_setting
    from reslink.training.recipe.recipe import changes_of, load_recipe

    check_folder_path(Path(out))
    stated = {
        "init.parent": None if init is None else parent_setting(init),
        "trainer.epochs": epochs,
        "seed": seed,
        "data.allow_conflicts": allow_conflicts or None,
    }
    base = load_recipe(recipe, changes_of(settings, stated, network))
    base.require_one_class_per_slice("reslink tune")
    options = TuneOptions(load_space(space, preset, base), trials, minutes, folds, holdout)
    check_options(options, base)
    manifest = open_manifest(data, class_order=base.data.class_order, columns=columns, root=root, unit=unit)
    from reslink.cluster.trials import trials_on
    from reslink.experiments.runner.experiment import Experiment  # imports torch, after typing errors were found
    from reslink.experiments.tune.tune import tune as search

    listener = resolve_progress(progress)
    try:
        with trials_on(on, jobs) as cluster:
            return search(Experiment(manifest, base, Path(out), (base.seed,), jobs, listener, cluster), options)
    finally:
        listener.end()
