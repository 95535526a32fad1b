"""``reslink.cv``: cross-validation, and an ensemble of the networks of all folds."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reslink.api.data_argument import Columns, DataSets, Map, check_holdout, open_manifest
from reslink.api.onnx_model import add_onnx_model
from reslink.api.progress import ShowProgress, resolve_progress
from reslink.errors import UsageError
from reslink.files import check_folder_path, lock_folder
from reslink.networks.entry_points import as_builder

if TYPE_CHECKING:
    from torch import nn

    from reslink.networks.entry_points import Builder
    from reslink.training.recipe.recipe import Recipe

DEFAULT_FOLDS = 5


def cv(
    data: DataSets,
    out: str | Path,
    *,
    map: Map = None,
    corrections: str | Path | None = None,
    columns: Columns = None,
    root: str | Path | None = None,
    unit: str | None = None,
    folds: int | None = None,
    seeds: int | Sequence[int] = 1,
    seed: int | None = None,
    holdout: float | None = None,
    distill: bool = False,
    recipe: str | Path | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    network: str | Builder | nn.Module | None = None,
    init: str | Path | None = None,
    epochs: int | None = None,
    allow_conflicts: bool = False,
    jobs: int = 0,
    on: str | None = None,
    progress: ShowProgress = False,
) -> dict[str, Any]:
    """Cross-validates a recipe: trains one network per fold and seed, and makes an ensemble of all of them.

    Folds keep patients and near duplicates together. Each image is predicted by the network of its fold, which was not trained
    on it. The ensemble in ``out/bundle`` averages the probabilities of all networks; it is calibrated with the out-of-fold
    predictions. The same call resumes after an interruption.

    Args:
        data: A folder with one folder per class, a folder with a ``manifest.csv``, a CSV or Parquet table, or an opened
            ``Manifest``; or a list of them, which are joined. The name of each becomes the ``source`` of its cases. Folds in a
            column ``fold`` are kept.
        out: Output folder.
        map: Label to class, such as ``{"bleed": "Tumor", "clinic:other": None}`` or ``["bleed=Tumor"]``; ``SET:LABEL`` is the
            label of one data set, and None leaves its cases out.
        corrections: A CSV of corrected labels, such as ``label_corrections.csv`` of ``reslink.audit(…, labels_from=…)``.
        columns: Role to column of a table, such as ``{"patient": "MRN"}``; None infers the columns from their names.
        root: Folder that the paths in a table start from; None for the folder of the table.
        unit: ``hu``, ``mr`` or ``gray`` for images for which neither file nor table states a unit; None decides by the values.
        folds: Number of folds, at least 3; None for that of the recipe, or 5.
        seeds: Number of seeds, or the seeds; each fold is trained once with each seed.
        seed: The first seed, if ``seeds`` is a number; None for that of the recipe. The folds are drawn with the first seed.
        holdout: Share of a hold-out that is in no fold, up to 0.5, on which the ensemble is evaluated; None for that of the
            recipe, or no hold-out.
        distill: Also train a single network on labels and out-of-fold probabilities, into ``out/distilled``.
        recipe: A YAML file, or the name of a published recipe; None for the default recipe.
        settings: Recipe keys to set: a dictionary, or texts ``key=value``.
        network: A network variant, or your own network, as for :func:`reslink.train`.
        init: Fine-tune the weights of a model name, bundle or run.
        epochs: Number of epochs; None for that of the recipe.
        allow_conflicts: Accept identical images and near duplicates with different labels.
        jobs: Number of parallel training processes with one thread each; 0 trains in this process with all threads. A script
            needs ``if __name__ == "__main__":`` for 1 or more.
        on: A Ray cluster that trains: ``ray`` (this machine), ``HOST:PORT`` or ``ray://HOST:PORT``, with ``jobs`` runs at
            once or one per core. None for this machine without Ray.
        progress: Show a progress bar, or an object that receives the progress.

    Returns:
        The content of ``experiment.json``, and ``bundle``, ``distilled`` (folders, or None), ``predictions`` (the out-of-fold
        predictions as CSV) and ``report`` (the page).

    Raises:
        UsageError: If a class has too few patients or duplicate groups for the folds and the hold-out, or an option is invalid.
        CheckFailedError: If given folds share a patient or near duplicates, or an image has several labels.

    Example:
        >>> import reslink
        >>> result = reslink.cv("images/", "cv", folds=5, holdout=0.15, progress=True)  # doctest: +SKIP
        >>> reslink.predict(result["bundle"], "scan.png")  # doctest: +SKIP
        [Prediction(scan.png: Tumor, probability 0.974)]
    """
    folder = Path(out)
    check_folder_path(folder)
    if holdout is not None:
        check_holdout(holdout)
    options = {
        "data.folds": folds,
        "data.holdout": holdout,
        "trainer.epochs": epochs,
        "data.allow_conflicts": allow_conflicts or None,
        "seed": seed,
    }
    loaded = _load_recipe(recipe, settings, network, init, options)
    if seed is not None and not isinstance(seeds, int):
        raise UsageError(
            f"The seed {seed} and the seeds {list(seeds)} were both given", "seeds is a number, or a list", "Remove seed"
        )
    numbers = tuple(range(loaded.seed, loaded.seed + seeds)) if isinstance(seeds, int) else tuple(seeds)
    manifest = open_manifest(
        data,
        map=map,
        corrections=corrections,
        class_order=loaded.data.class_order,
        columns=columns,
        root=root,
        unit=unit,
    )
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when CUDA starts
    from reslink.bundles.bundle import Bundle
    from reslink.cluster.trials import trials_on
    from reslink.experiments.cross_validation.cross_validation import cross_validate
    from reslink.experiments.runner.experiment import Experiment

    listener = resolve_progress(progress)
    try:
        with lock_folder(folder), trials_on(on, jobs) as cluster:
            experiment = Experiment(manifest, loaded, folder, numbers, jobs, listener, cluster)
            result = cross_validate(experiment, distill=distill)
            for name in ("bundle", "distilled"):
                if result[name] is not None:
                    add_onnx_model(Bundle.load(result[name], loaded.builder()))
    finally:
        listener.end()
    return result


def _load_recipe(
    recipe: str | Path | None,
    settings: Mapping[str, Any] | Sequence[str],
    network: str | Builder | nn.Module | None,
    init: str | Path | None,
    options: Mapping[str, Any],
) -> Recipe:
    """Returns the recipe with the options of the command, and with folds."""
    from reslink.training.recipe.inheritance import parent_setting
    from reslink.training.recipe.recipe import changes_of, load_recipe

    stated = {**options, "init.parent": None if init is None else parent_setting(init)}
    default = [] if load_recipe(recipe).data.folds else [("data.folds", DEFAULT_FOLDS)]
    loaded = load_recipe(recipe, [*default, *changes_of(settings, stated, network)])
    loaded.require_one_class_per_slice("reslink cv")
    return loaded.with_builder(as_builder(network)) if network is not None and not isinstance(network, str) else loaded
