"""``reslink.audit``: a data set checked before training."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reslink.api.audit_memory import remember_audit
from reslink.api.data_argument import Columns, DataSets, Map, check_outside, open_manifest_with_labels
from reslink.api.progress import ShowProgress, resolve_progress
from reslink.errors import UsageError
from reslink.files import check_folder_path, check_overwrite

if TYPE_CHECKING:
    from reslink.audit.clean_copy.clean_copy import CleanCopy
    from reslink.audit.extract import Extraction
    from reslink.datasets.manifest import Manifest


def audit(
    data: DataSets,
    *,
    map: Map = None,
    corrections: str | Path | None = None,
    columns: Columns = None,
    root: str | Path | None = None,
    unit: str | None = None,
    labels: str | Sequence[str] | None = None,
    out: str | Path | None = None,
    fix: str | Path | None = None,
    predictions: str | Path | None = None,
    labels_from: str | None = None,
    seed: int = 0,
    workers: int | None = None,
    on: str | None = None,
    shard_size: int = 2000,
    overwrite: bool = False,
    progress: ShowProgress = False,
) -> dict[str, Any]:
    """Checks a data set for leakage, near duplicates, shortcuts, burned-in text, identity, label errors and broken files.

    Args:
        data: A folder with one folder per class, a folder with a ``manifest.csv``, a CSV or Parquet table, or an opened
            ``Manifest``; or a list of them, which are joined. The name of each becomes the ``source`` of its cases.
        map: Label to class, such as ``{"bleed": "Tumor", "clinic:other": None}`` or ``["bleed=Tumor"]``; ``SET:LABEL`` is the
            label of one data set, and None leaves its cases out.
        corrections: A CSV of corrected labels, such as ``label_corrections.csv`` of an earlier audit.
        columns: Role to column of a table, such as ``{"patient": "MRN"}``; None infers the columns from their names.
        root: Folder that the paths in a table start from; None for the folder of the table.
        unit: ``hu``, ``mr`` or ``gray`` for images for which neither file nor table states a unit; None decides by the values.
        labels: Columns of a table with several labels at once (1, 0 or empty), such as ``["epidural", "subdural"]``; None for
            one class per image, or for the labels of an opened ``Manifest``. Shortcuts are looked for in each label, label
            errors in none.
        out: Folder for ``audit.json`` and ``report.html``; None writes nothing.
        fix: Folder for a clean copy of the data set; None makes no copy.
        predictions: CSV of out-of-fold predictions for the label error check, such as ``out_of_fold.csv`` of ``reslink.cv``;
            None fits a quick model.
        labels_from: The name of a data set, or a source of the table, whose labels are trusted. ``label_corrections.csv`` in
            ``out`` lists the images of the others that are the same as one of its images and have another label; it can be
            given as ``corrections``.
        seed: Seed of folds, forests and bootstrap.
        workers: Number of processes that read files; 0 reads in this process, None selects the number.
        on: A Ray cluster that reads the files: ``ray`` (this machine), ``HOST:PORT`` or ``ray://HOST:PORT``; None for this
            machine without Ray. Needs ``out``.
        shard_size: Number of files per task of ``on``.
        overwrite: Replace an earlier audit in ``out``.
        progress: Whether to show a progress bar, or an object with the methods of ``Progress``.

    Returns:
        The content of ``audit.json``. ``verdict`` is ``pass``, ``fail`` or ``incomplete``; ``checks`` lists each check with
        ``failed`` and ``reason``. A failed check raises no error here.

    Raises:
        UsageError: If the data set cannot be opened, has only volumes or a folder of slices, or a folder cannot be used.

    Example:
        >>> import reslink
        >>> result = reslink.audit("images/", out="audited")  # doctest: +SKIP
        >>> result["verdict"]  # doctest: +SKIP
        'pass'
    """
    return run_audit(
        data,
        None if out is None else Path(out),
        None if fix is None else Path(fix),
        map=map,
        corrections=corrections,
        columns=columns,
        root=root,
        unit=unit,
        labels=labels,
        predictions=predictions,
        labels_from=labels_from,
        seed=seed,
        workers=workers,
        on=on,
        shard_size=shard_size,
        overwrite=overwrite,
        progress=progress,
    ).result


@dataclass(frozen=True)
class AuditOutput:
    """An audit and the files that it wrote.

    Attributes:
        result: The content of ``audit.json``.
        page: The report; None if no folder was given.
        clean_copy: The clean copy; None if none was made.
    """

    result: dict[str, Any]
    page: Path | None
    clean_copy: CleanCopy | None


def run_audit(
    data: DataSets,
    out: Path | None,
    fix: Path | None,
    *,
    map: Map,
    corrections: str | Path | None,
    columns: Columns,
    root: str | Path | None,
    unit: str | None,
    labels: str | Sequence[str] | None,
    predictions: str | Path | None,
    labels_from: str | None,
    seed: int,
    workers: int | None,
    on: str | None = None,
    shard_size: int = 2000,
    overwrite: bool,
    progress: ShowProgress,
) -> AuditOutput:
    """Audits a data set; see :func:`audit`."""
    from reslink.datasets.tables.paths import FolderRowError

    if on is not None and out is None:
        parts = "Nodes of a cluster write their parts to --out"
        raise UsageError("--on was given without --out", parts, "Add --out, a shared folder")
    try:
        manifest = open_manifest_with_labels(
            data,
            labels,
            map=map,
            corrections=corrections,
            for_training=False,
            columns=columns,
            root=root,
            unit=unit,
        )
    except FolderRowError as error:
        from reslink.audit.audit import series_refused

        raise series_refused(error.given) from error
    if predictions is not None:
        manifest.labels.require_exclusive("--predictions", "Remove --predictions; label errors are not looked for")
    from reslink.audit.audit import audit as audit_manifest
    from reslink.audit.checks.given_predictions import GivenPredictions
    from reslink.audit.clean_copy.clean_copy import write_clean_copy
    from reslink.reports.audit.page import audit_report

    if out is not None:
        _check_out(out, manifest, overwrite)
    if fix is not None:
        _check_fix(fix, manifest, out)
    given = None if predictions is None else GivenPredictions.read(Path(predictions))
    listener = resolve_progress(progress)
    try:
        with _extraction(on, out, shard_size) as extract:
            result = audit_manifest(
                manifest,
                out,
                progress=listener,
                seed=seed,
                workers=workers,
                predictions=given,
                labels_from=labels_from,
                extract=extract,
            )
        page = None if out is None else audit_report(result, manifest, out)
        clean_copy = None if fix is None else write_clean_copy(manifest, result, fix, progress=listener)
    finally:
        listener.end()
    failed = [check["check"].partition(": ")[0] for check in result["checks"] if check["failed"]]  # without names of labels
    remember_audit(result["data_digest"], list(dict.fromkeys(failed)))
    return AuditOutput(result, page, clean_copy)


@contextmanager
def _extraction(on: str | None, out: Path | None, shard_size: int) -> Iterator[Extraction | None]:
    """Yields what reads the files: on a cluster while the block runs, or None for this machine."""
    if on is None or out is None:
        yield None
        return
    from reslink.cluster.audit_shards import ClusterExtraction
    from reslink.cluster.connection import connect, parse_address

    with connect(parse_address(on)):
        extraction = ClusterExtraction(out / ".parts", shard_size)
        yield extraction
    extraction.remove_parts()  # the result is written


def _check_out(out: Path, manifest: Manifest, overwrite: bool) -> None:
    """Checks the output folder before the first file is read.

    Raises:
        UsageError: If the folder holds an audit, is inside the class folders of the data, or is not writable.
    """
    check_overwrite(out, "audit.json", "an audit", overwrite)
    check_outside(out, manifest, "--out")
    _check_writable(out, "--out")


def _check_fix(fix: Path, manifest: Manifest, out: Path | None) -> None:
    """Checks the folder of the clean copy before the first file is read.

    Raises:
        UsageError: If the folder is not new or empty, overlaps with the data or the audit, or is not writable.
    """
    from reslink.audit.clean_copy.clean_copy import check_output_folder

    check_folder_path(fix, "--fix")
    check_output_folder(fix.absolute(), manifest)
    if out is not None and out.resolve().is_relative_to(fix.resolve()):
        raise UsageError(
            f"The audit would be written to {out}, inside the clean copy {fix}",
            "A clean copy must not contain the audit, which names the original files",
            "Choose another --out or --fix",
        )
    _check_writable(fix.absolute().parent, "--fix")


def _check_writable(folder: Path, option: str) -> None:
    """Creates a temporary file in the folder, or in its nearest existing parent."""
    existing = next((parent for parent in (folder, *folder.absolute().parents) if parent.exists()), folder)
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UsageError(
            f"{existing} is not writable: {error.strerror or error}",
            f"{option} needs a folder with write permission",
            f"Choose another folder with {option}",
        ) from error
