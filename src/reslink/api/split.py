"""``reslink.split``: a data set divided into train, validation and test, or into folds."""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reslink.api.data_argument import (
    Columns,
    DataSets,
    Map,
    check_holdout,
    open_manifest_with_labels,
    read_patients,
)
from reslink.api.progress import ShowProgress, resolve_progress
from reslink.datasets.case import DEFAULT_FRACTIONS, SPLITS
from reslink.errors import UsageError
from reslink.files import check_output_file
from reslink.labels import CaseKind, case_noun

if TYPE_CHECKING:
    from reslink.datasets.cache.pixel_cache import PixelCache
    from reslink.datasets.grouping import GroupBy
    from reslink.datasets.manifest import Manifest

_log = logging.getLogger(__name__)


def split(
    data: DataSets,
    out: str | Path,
    *,
    map: Map = None,
    corrections: str | Path | None = None,
    columns: Columns = None,
    root: str | Path | None = None,
    unit: str | None = None,
    labels: str | Sequence[str] | None = None,
    case: CaseKind = "slice",
    fractions: tuple[float, float, float] | None = None,
    folds: int | None = None,
    holdout: float = 0.0,
    group_by: Literal["patient", "duplicate", "both", "scan", "none"] = "both",
    seed: int = 0,
    keep_given: bool = False,
    allow_conflicts: bool = False,
    overwrite: bool = False,
    progress: ShowProgress = False,
) -> dict[str, Any]:
    """Splits a data set so that no patient and no near duplicate appears in more than one split, and writes it as a CSV.

    The classes, or the several labels at once, have the same shares in every split. The CSV keeps all columns of the data set
    and adds ``group``, ``split`` and, with ``folds``, ``fold``; paths are relative to the CSV.

    Args:
        data: A folder with one folder per class, a folder with a ``manifest.csv``, a CSV or Parquet table, or an opened
            ``Manifest``; or a list of them, which are joined. The name of each becomes the ``source`` of its cases.
        out: The CSV to write.
        map: Label to class, such as ``{"bleed": "Tumor", "clinic:other": None}`` or ``["bleed=Tumor"]``; ``SET:LABEL`` is the
            label of one data set, and None leaves its cases out.
        corrections: A CSV of corrected labels, such as ``label_corrections.csv`` of ``reslink.audit(…, labels_from=…)``.
        columns: Role to column of a table, such as ``{"patient": "MRN"}``; None infers the columns from their names.
        root: Folder that the paths in a table start from; None for the folder of the table.
        unit: ``hu``, ``mr`` or ``gray`` for images for which neither file nor table states a unit; None decides by the values.
        labels: Columns of a table with several labels at once (1, 0 or empty), such as ``["epidural", "subdural"]``; None for
            one class per image, or for the labels of an opened ``Manifest``.
        case: ``slice``, or ``series`` if each row of a table is a volume or a folder with a DICOM series.
        fractions: Shares of train, validation and test, with sum 1; None for 0.75, 0.1, 0.15.
        folds: Number of cross-validation folds, instead of ``fractions``.
        holdout: Share of a hold-out that is in no fold, up to 0.5, with ``folds``; the column ``split`` calls it test.
        group_by: Which cases stay in one split: those of a patient, near duplicates, both, or none; ``scan`` is both, and
            also images without a patient that probably come from one scan.
        seed: Selects among equally good splits.
        keep_given: Keep the split of the data set; a missing split is drawn from the training cases.
        allow_conflicts: Accept identical images and near duplicates with different labels, which are compared whatever
            ``group_by`` is.
        overwrite: Replace an existing file.
        progress: Whether to show a progress bar, or an object with the methods of ``Progress``.

    Returns:
        The numbers of images or series (``split_sizes``, and ``images`` by split and class, or by split and label that is
        present), groups, patients and folds, the options, and under ``left_out`` the error of each case that could not be
        read.

    Raises:
        UsageError: If options exclude each other, ``out`` exists, or a class has too few groups, or series have several labels.
        CheckFailedError: If an image has several labels, or ``keep_given`` keeps a split in which a group appears twice.

    Example:
        >>> import reslink
        >>> summary = reslink.split("images/", "split.csv", seed=3)  # doctest: +SKIP
        >>> summary["groups"]  # doctest: +SKIP
        {'train': 28, 'validation': 6, 'test': 6}
    """
    table = Path(out)
    _check_options(table, fractions, folds, keep_given, overwrite)
    check_holdout(holdout)
    if holdout and folds is None:
        raise UsageError(
            "--holdout was given without --folds",
            "A hold-out is the part of the cases that is in no fold",
            "Add --folds 5, or set the share of the test split with --fractions",
        )
    manifest = open_manifest_with_labels(
        data, labels, map=map, corrections=corrections, columns=columns, root=root, unit=unit, case=case
    )
    if case == "series":
        manifest.labels.require_exclusive(
            "A split of series", "Omit --labels, and choose the column of the class with --columns label=COLUMN"
        )
    from reslink.datasets.leakage import check_group_leakage
    from reslink.datasets.split_table import drop_given_split, split_columns, write_split_table  # slow imports

    with _decoded(read_patients(manifest), case, table, progress) as cache:
        groups, drawn_groups = _groups(cache, group_by, keep_given=keep_given, allow_conflicts=allow_conflicts)
        manifest, left_out = cache.manifest, cache.failed
    if keep_given and not any(case.split for case in manifest.cases):
        raise UsageError(
            "--keep-given was set, but the data set has no split",
            "A split is a column 'split' with train, validation or test, or the folders Training and Testing",
            "Correct the column, or remove --keep-given",
        )
    cases = manifest if keep_given else drop_given_split(manifest)
    new_columns = split_columns(cases, groups, fractions or DEFAULT_FRACTIONS, folds, holdout, seed, drawn_groups)
    if keep_given and group_by not in ("duplicate", "none"):  # which may divide a patient
        check_group_leakage(manifest, groups, new_columns["split"])
    write_split_table(table, manifest, new_columns)
    options = {
        "case": case,
        "group_by": group_by,
        "seed": seed,
        "folds": folds,
        "holdout": holdout,
        "fractions": None if folds else fractions or DEFAULT_FRACTIONS,
    }
    return _summary(manifest, new_columns, table) | options | {"left_out": left_out}


def _check_options(
    out: Path, fractions: tuple[float, float, float] | None, folds: int | None, keep_given: bool, overwrite: bool
) -> None:
    if folds is not None and (fractions or keep_given):
        other = "--fractions" if fractions else "--keep-given"
        raise UsageError(f"--folds and {other} were both given", "Folds are new and have equal sizes", "Remove one of them")
    check_output_file(out, "--out", "a CSV file", "split.csv", overwrite)


@contextmanager
def _decoded(manifest: Manifest, case: CaseKind, out: Path, progress: ShowProgress) -> Iterator[PixelCache]:
    """Reads every image once, into a folder beside ``out`` that is removed in the end."""
    from reslink.datasets.cache.pixel_cache import PixelCache
    from reslink.datasets.near_duplicates.thumbnails import THUMBNAIL_SIZE
    from reslink.imaging.preprocess import Preprocess
    from reslink.training.monitoring.progress import phase, progress_callback

    listener = resolve_progress(progress)
    out.parent.mkdir(parents=True, exist_ok=True)
    preprocess = Preprocess(size=THUMBNAIL_SIZE, channels=1)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".cache-") as folder:
        with phase(listener, len(manifest), "Reading images", case_noun(case)):
            cache = PixelCache.open(manifest, preprocess, folder, on_progress=progress_callback(listener), case=case)
        yield cache


def _groups(cache: PixelCache, by: GroupBy, *, keep_given: bool, allow_conflicts: bool) -> tuple[list[str], list[str] | None]:
    """Returns the group of each case, as training groups them, and the groups of joined cases whose split is drawn."""
    from reslink.datasets.grouping import group_cases
    from reslink.datasets.label_conflicts import check_label_conflicts, conflicts_of_cache
    from reslink.datasets.near_duplicates.groups import find_duplicates
    from reslink.datasets.shared_images import shared_images

    rows = cache.row_manifest
    duplicates = find_duplicates(cache.thumbnails, [case.patient_id for case in rows.cases])
    for sentence in shared_images(rows.set_names, duplicates, together=by not in ("patient", "none")):
        _log.warning("%s.", sentence)
    if not allow_conflicts:
        check_label_conflicts(cache.manifest.cases, conflicts_of_cache(cache, duplicates))

    def groups(*, include_similar: bool) -> list[str]:
        return cache.case_groups(group_cases(rows, cache.thumbnails, by, duplicates, include_similar=include_similar))

    return groups(include_similar=not keep_given), groups(include_similar=True) if keep_given and rows.sets else None


def _summary(manifest: Manifest, columns: dict[str, list[str]], out: Path) -> dict[str, Any]:
    splits = {name: n for name in SPLITS if (n := columns["split"].count(name))}
    parts = {name: manifest.subset(i for i, split in enumerate(columns["split"]) if split == name) for name in splits}
    counts = {name: part.label_counts() for name, part in parts.items()}
    pairs = set(zip(columns["split"], columns["group"], strict=True))
    return {
        "out": str(out),
        "n": len(manifest),
        "n_groups": len(set(columns["group"])),
        "n_patients": len({case.patient_id for case in manifest.cases} - {None}),
        "split_sizes": splits,
        "images": {name: {label: counts[name][label] for label in manifest.labels.names} for name in splits},
        "groups": {name: sum(split_of_group == name for split_of_group, _ in pairs) for name in splits},
        "fold_sizes": [n for _, n in sorted(Counter(map(int, filter(None, columns["fold"]))).items())]
        if "fold" in columns
        else None,
        "columns": dict(manifest.column_roles),
        "data_notes": list(manifest.notes),
        "research_use_only": True,
    }
