"""Data sets as arguments: a path or an opened manifest, or several of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from reslink.errors import UsageError

if TYPE_CHECKING:
    from reslink.datasets.manifest import Manifest
    from reslink.training.recipe.recipe import Recipe

Data: TypeAlias = "str | Path | Manifest"
"""A folder with one folder per class, a folder with a manifest.csv, a CSV or Parquet table, or an opened manifest."""

DataSets: TypeAlias = "Data | Sequence[Data]"
"""A data set, or several, which are joined; their names are the sources of their cases."""

Map: TypeAlias = "Mapping[str, str | None] | Sequence[str] | None"
"""Label, or ``SET:LABEL``, to class, or texts such as ``"glioma=Tumor"``; None, or no class, leaves the cases out."""

Columns: TypeAlias = Mapping[str, str] | Sequence[str] | None
"""Role to column of a table, such as ``{"patient": "MRN"}``, or texts such as ``"patient=MRN"``."""

_log = logging.getLogger(__name__)


def open_manifest(data: DataSets, *, map: Map = None, corrections: str | Path | None = None, **options: Any) -> Manifest:
    """Returns the manifest of a data set, or of several that are joined.

    Args:
        data: A path, or a manifest, which is returned unchanged without ``map`` and ``corrections``; only ``unit`` is added
            where it states none. Several of them are joined (:mod:`reslink.datasets.joined_manifest`).
        map: The class of each label; None keeps the labels.
        corrections: A CSV of corrected labels (:mod:`reslink.datasets.corrections`).
        **options: Options of ``Manifest.open``.

    Raises:
        UsageError: If a data set cannot be used, or the map or a correction does not fit the data.
    """
    from reslink.datasets.joined_manifest import OpenOptions, open_data_sets
    from reslink.datasets.label_map import parse_label_map
    from reslink.datasets.manifest import Manifest

    sets: list[Any] = list(data) if isinstance(data, Sequence) and not isinstance(data, str) else [data]
    if any(isinstance(one, Manifest) for one in sets):
        _refuse_table_options(options)
    if len(sets) != 1 and options.get("labels") is not None:
        raise UsageError(
            f"{len(sets)} data sets were given", "A model is evaluated on one data set", "Evaluate each of them by itself"
        )
    label_map = parse_label_map(map or ())
    if len(sets) != 1 or label_map or corrections is not None:
        return open_data_sets(sets, OpenOptions(label_map=label_map, corrections=corrections, **options))
    if not isinstance(sets[0], Manifest):
        return Manifest.open(sets[0], **options)
    unit = options.get("unit")
    return sets[0] if unit is None else sets[0].with_unit(unit)


def _refuse_table_options(options: Mapping[str, Any]) -> None:
    for option in ("columns", "root"):
        if options.get(option):
            raise UsageError(
                f"--{option} was given for an opened manifest", "It describes a table", "Give it to Manifest.open instead"
            )


def check_holdout(holdout: float) -> None:
    """Checks the share of a hold-out.

    Raises:
        UsageError: If it is not between 0 and 0.5.
    """
    if not 0 <= holdout <= 0.5:
        raise UsageError(f"The hold-out is {holdout:g}", "Its share is between 0 and 0.5", "Use --holdout 0.15")


def label_names(labels: str | Sequence[str]) -> tuple[str, ...]:
    """Returns the names of label columns, given as a list or as a text with commas.

    Raises:
        UsageError: If there are fewer than two, or one is empty or given twice.
    """
    from reslink.datasets.label_columns import check_label_names

    return check_label_names(labels.split(",") if isinstance(labels, str) else labels)


def open_manifest_with_labels(data: DataSets, labels: str | Sequence[str] | None, **options: Any) -> Manifest:
    """Opens a data set with several labels at once, or with one class per image.

    Args:
        data: The data set, or several; a manifest keeps its own labels.
        labels: The label columns, as a list or as a text with commas; None for one class per image.
        options: As for :func:`open_manifest`.

    Raises:
        UsageError: If the data set cannot be opened, or a manifest has other labels.
    """
    names = None if labels is None else label_names(labels)
    manifest = open_manifest(data, label_columns=names, **options)
    if names is not None:
        check_labels_of_manifest(manifest, names)
    return manifest


def check_labels_of_manifest(manifest: Manifest, names: Sequence[str] | None) -> None:
    """Checks that a manifest, which may be opened by the caller, has the given labels.

    Args:
        manifest: The data set.
        names: Several labels at once; None for one class per image.

    Raises:
        UsageError: If it has others.
    """
    stated = None if manifest.labels.exclusive else list(manifest.labels.names)
    wanted = None if names is None else list(names)
    if stated != wanted:
        opened = "one class per image" if stated is None else f"the labels {stated}"
        use = "omit --labels" if stated is None else "name its labels with --labels"
        reopen = "without label_columns" if wanted is None else f"with label_columns={wanted}"
        raise UsageError(
            f"The manifest was opened with {opened}, but --labels (data.labels) is {'not set' if wanted is None else wanted}",
            "An opened manifest keeps its labels, and their order",
            f"Open it {reopen}, or {use}",
        )


def open_manifest_of_recipe(data: DataSets, recipe: Recipe, **options: Any) -> Manifest:
    """Returns a data set with the classes, or the several labels, and the kind of case of a recipe.

    Args:
        data: The data set, or several.
        recipe: The recipe.
        options: As for :func:`open_manifest`.

    Raises:
        UsageError: If the data set cannot be opened, or a manifest has other labels.
    """
    names = recipe.data.labels
    order, case = recipe.data.class_order, recipe.trainer.case
    manifest = open_manifest(data, class_order=order, label_columns=names, case=case, **options)
    check_labels_of_manifest(manifest, names)
    return manifest


def read_patients(manifest: Manifest) -> Manifest:
    """Returns the manifest with patients from DICOM headers where the table names none; logs a warning if a header has none."""
    from reslink.datasets.patient_ids import add_header_patients

    manifest, notes = add_header_patients(manifest)
    if any(notes):
        _log.warning("Patients: %s.", notes)
    return manifest


def check_outside(folder: Path, manifest: Manifest, option: str) -> None:
    """Checks that an output folder is not among the class folders of a data set.

    Raises:
        UsageError: If it is.
    """
    from reslink.datasets.manifest import DataSet

    sets = manifest.sets or (DataSet("", manifest.root, bool(manifest.columns)),)
    for root in (joined.root.resolve() for joined in sets if not joined.has_table):
        if folder.resolve().is_relative_to(root):
            raise UsageError(
                f"The folder {folder} of {option} is inside the data set {root}",
                "Every folder in there is a class of the data set",
                f"Choose a folder elsewhere with {option}",
            )
