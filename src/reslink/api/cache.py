"""``reslink.cache``: decodes the images of a data set once, for the trainings and evaluations that follow."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from reslink.api.data_argument import (
    Columns,
    DataSets,
    Map,
    check_outside,
    label_names,
    open_manifest,
    open_manifest_of_recipe,
)
from reslink.api.progress import ShowProgress, resolve_progress
from reslink.errors import UsageError
from reslink.files import check_folder_path
from reslink.labels import CaseKind, case_noun

if TYPE_CHECKING:
    from reslink.datasets.cache.pixel_cache import Filled
    from reslink.datasets.manifest import Manifest
    from reslink.imaging.preprocess import Preprocess
    from reslink.training.monitoring.progress import Progress
    from reslink.training.recipe.recipe import Recipe


def cache(
    data: DataSets,
    out: str | Path,
    *,
    bundle: str | Path | None = None,
    map: Map = None,
    corrections: str | Path | None = None,
    columns: Columns = None,
    root: str | Path | None = None,
    unit: str | None = None,
    recipe: str | Path | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    labels: str | Sequence[str] | None = None,
    init: str | Path | None = None,
    case: CaseKind | None = None,
    verify: bool = False,
    on: str | None = None,
    progress: ShowProgress = False,
) -> dict[str, Any]:
    """Fills the cache of decoded images that ``train`` and ``evaluate`` use with ``cache=out``.

    The options are those of :func:`reslink.train`, or with ``bundle`` those of :func:`reslink.evaluate`; give them the same
    values. A row of the cache is found by the content of the image and of its mask, the stated unit, the preprocessing, and the
    version of the decoding code. So a cache that was filled for other settings is never used wrongly: its images are decoded
    again. Several processes and machines may fill and use the same folder at the same time.

    Args:
        data: As for :func:`reslink.train`; with ``bundle`` as for :func:`reslink.evaluate`.
        out: The folder of the cache; data sets and preprocessings can share it.
        bundle: Decode as this model or bundle does, to evaluate it; None decodes as a training does.
        map: As for :func:`reslink.train`.
        corrections: As for :func:`reslink.train`.
        columns: Role to column of a table, such as ``{"patient": "MRN"}``; None infers the columns from their names.
        root: Folder that the paths in a table start from; None for the folder of the table.
        unit: ``hu``, ``mr`` or ``gray`` for images for which neither file nor table states a unit; None decides by the values.
        recipe: A recipe in YAML, or the name of a published recipe; None for the default recipe.
        settings: Recipe keys and values, such as ``{"preprocess.size": 64}``, or texts such as ``"preprocess.size=64"``.
        labels: Columns of a table with several labels at once; None for the value of the recipe (one class per image).
        init: The network whose weights a training starts from, because its preprocessing is taken over; None for the value of
            the recipe.
        case: ``slice`` or ``series``; None for the value of the recipe (``slice``).
        verify: Hash all files again. Otherwise a file with the size and modification time of its last hashing is not read.
        on: A Ray cluster that decodes: ``ray`` (this machine), ``HOST:PORT`` or ``ray://HOST:PORT``; None for this machine.
        progress: Whether to show a progress bar, or an object with the methods of ``Progress``.

    Returns:
        ``cache`` (the folder), ``n`` (cases), ``decoded`` and ``from_cache`` (readable cases that were decoded now, and those
        that were in the folder), ``failed`` (the error of each other case by name), ``bytes`` (size of the folder),
        ``preprocess`` (the settings), ``case``, and ``settings_digest`` (the part of the key that all rows share).

    Raises:
        UsageError: If an option is invalid, the data set cannot be opened, or the cluster cannot be used.
        StorageError: If the folder cannot be written to.

    Example:
        >>> import reslink
        >>> reslink.cache("images/", "decoded")["decoded"]  # doctest: +SKIP
        3693
        >>> run = reslink.train("images/", "runs/first", cache="decoded")  # doctest: +SKIP
    """
    folder = Path(out)
    check_folder_path(folder)
    in_table = {"columns": columns, "root": root, "unit": unit}
    if bundle is not None:
        of_recipe = {"recipe": recipe, "set": settings, "labels": labels, "init": init, "case": case}
        plan = _plan_of_bundle(data, bundle, {"map": map, "corrections": corrections, **of_recipe}, in_table)
    else:
        loaded = _load_recipe(recipe, settings, labels, init, case)
        manifest = open_manifest_of_recipe(data, loaded, map=map, corrections=corrections, **in_table)
        plan = _Plan(manifest, loaded.preprocess, loaded.trainer.case, loaded.trainer.workers)
        verify = verify or loaded.trainer.verify_files
    check_outside(folder, plan.manifest, "--out")
    listener = resolve_progress(progress)
    try:
        filled, decoded = _fill(plan, folder, on, listener, verify=verify)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"Stopped by Ctrl-C.\n  The decoded images are kept in {folder}; run the same command again to resume."
        ) from None
    finally:
        listener.end()
    return _summary(plan, folder, filled, decoded)


class _Plan(NamedTuple):
    """What is decoded, and how."""

    manifest: Manifest
    preprocess: Preprocess
    case: CaseKind
    workers: int | None = None


def _load_recipe(
    recipe: str | Path | None,
    settings: Mapping[str, Any] | Sequence[str],
    labels: str | Sequence[str] | None,
    init: str | Path | None,
    case: CaseKind | None,
) -> Recipe:
    from reslink.training.recipe.inheritance import parent_setting
    from reslink.training.recipe.recipe import changes_of, load_recipe

    options = {
        "data.labels": None if labels is None else list(label_names(labels)),
        "init.parent": None if init is None else parent_setting(init),
        "trainer.case": case,
    }
    return load_recipe(recipe, changes_of(settings, options))


def _plan_of_bundle(data: DataSets, bundle: str | Path, of_training: Mapping[str, Any], in_table: Mapping[str, Any]) -> _Plan:
    from reslink.bundles.bundle import Bundle

    if given := [option for option, value in of_training.items() if value]:
        raise UsageError(
            f"--bundle was given with --{given[0]}",
            "A bundle brings its preprocessing, its labels and its kind of case",
            "Remove one of them",
        )
    loaded = Bundle.load(bundle)
    manifest = open_manifest(data, labels=loaded.labels, case=loaded.case, **in_table)
    return _Plan(manifest, loaded.preprocess, loaded.case)


def _fill(plan: _Plan, folder: Path, on: str | None, progress: Progress, *, verify: bool) -> tuple[Filled, int]:
    """Fills the folder as a training or evaluation does; returns the number of decoded cases too."""
    from reslink.datasets.cache.pixel_cache import fill_shards
    from reslink.training.monitoring.progress import phase, progress_callback

    manifest, preprocess, case, workers = plan
    decoded = 0
    if on is not None:
        from reslink.cluster.cache import fill_cache
        from reslink.cluster.connection import connect, parse_address

        with connect(parse_address(on)):
            decoded = fill_cache(manifest, preprocess, folder, case, progress, verify=verify)
        filled = fill_shards(manifest, preprocess, folder, workers, case=case)
    else:
        with phase(progress, len(manifest), "Reading images", case_noun(case)):
            filled = fill_shards(manifest, preprocess, folder, workers, progress_callback(progress), case, verify=verify)
    return filled, decoded + filled.decoded


def _summary(plan: _Plan, folder: Path, filled: Filled, decoded: int) -> dict[str, Any]:
    from reslink.datasets.cache.pixel_cache import settings_digest

    failed = filled.joined.index.failed
    return {
        "cache": str(folder),
        "n": len(plan.manifest),
        "decoded": decoded,
        "from_cache": len(plan.manifest) - len(failed) - decoded,
        "failed": {plan.manifest.cases[i].name: reason for i, reason in sorted(failed.items())},
        "bytes": _size_of(folder),
        "case": plan.case,
        "preprocess": plan.preprocess.model_dump(mode="json"),
        "settings_digest": settings_digest(plan.preprocess),
    }


def _size_of(folder: Path) -> int:
    """Returns the bytes of the files of a folder, in which other processes may add and remove files."""
    size = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                size += Path(root, name).stat().st_size
    return size
