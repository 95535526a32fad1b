"""``reslink.split``: a data set divided into train, validation and test, or into folds."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reslink.api.data_argument import Data, open_manifest, read_patients
from reslink.api.progress import ShowProgress, resolve_progress
from reslink.errors import UsageError

if TYPE_CHECKING:
    from reslink.datasets.manifest import Manifest
    from reslink.datasets.near_duplicates.thumbnails import Thumbnails

FRACTIONS = (0.7, 0.15, 0.15)
"""Default shares of train, validation and test."""


def split(
    data: Data,
    out: str | Path,
    *,
    fractions: tuple[float, float, float] | None = None,
    folds: int | None = None,
    group_by: Literal["patient", "duplicate", "both", "none"] = "both",
    seed: int = 0,
    keep_given: bool = False,
    overwrite: bool = False,
    progress: ShowProgress = False,
) -> dict[str, Any]:
    """Splits a data set so that no patient and no near duplicate appears in more than one split, and writes it as a CSV.

    The classes have the same shares in every split. The CSV keeps all columns of the data set and adds ``group``, ``split``
    and, with ``folds``, ``fold``; paths are relative to the CSV.

    Args:
        data: A folder with one folder per class, a folder with a ``manifest.csv``, a CSV, or an opened ``Manifest``.
        out: The CSV to write.
        fractions: Shares of train, validation and test, with sum 1; None for 0.7, 0.15, 0.15.
        folds: Number of cross-validation folds, instead of ``fractions``.
        group_by: Which cases stay in one split: those of a patient, near duplicates, both, or none.
        seed: Selects among equally good splits.
        keep_given: Keep the split of the data set; a missing split is drawn from the training cases.
        overwrite: Replace an existing file.
        progress: Whether to show a progress bar, or an object with the methods of ``Progress``.

    Returns:
        The numbers of images (by split and class), groups, patients and folds, the options, and under ``left_out`` the error
        of each image that could not be read.

    Raises:
        UsageError: If options exclude each other, ``out`` exists, or a class has too few groups.
        CheckFailedError: If ``keep_given`` keeps a split in which a group appears twice.

    Example:
        >>> import reslink
        >>> summary = reslink.split("images/", "split.csv", seed=3)  # doctest: +SKIP
        >>> summary["groups"]  # doctest: +SKIP
        {'train': 28, 'validation': 6, 'test': 6}
    """
    from reslink.datasets.grouping import group_cases
    from reslink.datasets.printable_names import drop_unprintable
    from reslink.datasets.split_table import drop_given_split, split_columns, write_split_table

    table = Path(out)
    _check_options(table, fractions, folds, keep_given, overwrite)
    manifest, left_out = drop_unprintable(open_manifest(data))
    manifest = read_patients(manifest)
    thumbnails = None
    if group_by in ("both", "duplicate"):
        manifest, thumbnails, unreadable = _read_thumbnails(manifest, table, progress)
        left_out |= unreadable
    if keep_given and not any(case.split for case in manifest.cases):
        raise UsageError(
            "--keep-given was set, but the data set has no split",
            "A split is a column 'split' with train, validation or test, or the folders Training and Testing",
            "Correct the column, or remove --keep-given",
        )
    groups = group_cases(manifest, thumbnails, group_by, include_similar=not keep_given)
    cases = manifest if keep_given else drop_given_split(manifest)
    columns = split_columns(cases, groups, fractions or FRACTIONS, folds, seed)
    write_split_table(table, manifest, columns)
    options = {"group_by": group_by, "seed": seed, "folds": folds, "fractions": None if folds else fractions or FRACTIONS}
    return _summary(manifest, columns, table) | options | {"left_out": left_out}


def _check_options(
    out: Path, fractions: tuple[float, float, float] | None, folds: int | None, keep_given: bool, overwrite: bool
) -> None:
    if folds is not None and (fractions or keep_given):
        other = "--fractions" if fractions else "--keep-given"
        raise UsageError(f"--folds and {other} were both given", "Folds are new and have equal sizes", "Remove one of them")
    if out.is_dir():
        raise UsageError(f"{out} is a folder", "--out must name a CSV file", f"Use --out {out / 'split.csv'}")
    if out.exists() and not overwrite:
        raise UsageError(
            f"{out} exists",
            "Existing files are not overwritten without --overwrite",
            "Choose another --out, or add --overwrite",
        )


def _read_thumbnails(manifest: Manifest, out: Path, progress: ShowProgress) -> tuple[Manifest, Thumbnails, dict[str, str]]:
    """Reads every image once; returns the readable cases, their thumbnails, and the errors of the other cases."""
    import numpy as np

    from reslink.datasets.cache.pixel_cache import PixelCache
    from reslink.datasets.near_duplicates.thumbnails import THUMBNAIL_SIZE
    from reslink.imaging.preprocess import Preprocess
    from reslink.training.monitoring.progress import progress_callback

    listener = resolve_progress(progress)
    out.parent.mkdir(parents=True, exist_ok=True)
    listener.start(len(manifest), "Reading images")
    preprocess = Preprocess(size=THUMBNAIL_SIZE, channels=1)
    try:
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".cache-") as folder:
            cache = PixelCache.open(manifest, preprocess, folder, on_progress=progress_callback(listener))
            return cache.manifest, np.array(cache.thumbnails), cache.failed
    finally:
        listener.end()


def _summary(manifest: Manifest, columns: dict[str, list[str]], out: Path) -> dict[str, Any]:
    images = Counter(zip(columns["split"], (case.label for case in manifest.cases), strict=True))
    splits = [name for name in ("train", "validation", "test") if name in columns["split"]]
    pairs = set(zip(columns["split"], columns["group"], strict=True))
    return {
        "out": str(out),
        "n": len(manifest),
        "n_groups": len(set(columns["group"])),
        "n_patients": len({case.patient_id for case in manifest.cases} - {None}),
        "images": {name: {label: images[name, label] for label in manifest.labels.names} for name in splits},
        "groups": {name: sum(split_of_group == name for split_of_group, _ in pairs) for name in splits},
        "fold_sizes": [n for _, n in sorted(Counter(map(int, columns["fold"])).items())] if "fold" in columns else None,
        "research_use_only": True,
    }
