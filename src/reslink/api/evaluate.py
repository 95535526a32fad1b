"""``reslink.evaluate``: metrics of a bundle on a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reslink.api.data_argument import Columns, Data, check_outside, open_manifest, read_patients
from reslink.api.progress import ShowProgress, resolve_progress
from reslink.errors import UsageError
from reslink.files import check_overwrite, optional_import

if TYPE_CHECKING:
    from torch import nn

    from reslink.networks.entry_points import Builder


def evaluate(
    bundle: str | Path,
    data: Data,
    out: str | Path,
    *,
    columns: Columns = None,
    root: str | Path | None = None,
    unit: str | None = None,
    sequence: str | None = None,
    split: Literal["train", "validation", "test"] | None = None,
    by: Sequence[str] = (),
    batch_size: int = 32,
    network: str | Builder | nn.Module | None = None,
    device: str = "auto",
    seed: int = 0,
    allow_leakage: bool = False,
    cache: str | Path | None = None,
    on: str | None = None,
    parquet: bool = False,
    overwrite: bool = False,
    progress: ShowProgress = False,
) -> dict[str, Any]:
    """Evaluates a bundle on a data set, and writes ``evaluation.json``, ``predictions.csv`` and ``report.html``.

    Args:
        bundle: The name of a shipped model, or the folder of a bundle or run.
        data: A folder with one folder per class, a folder with a ``manifest.csv``, a CSV or Parquet table, or an opened
            ``Manifest``.
        out: Output folder.
        columns: Role to column of a table, such as ``{"patient": "MRN"}``; None infers the columns from their names.
        root: Folder that the paths in a table start from; None for the folder of the table.
        unit: ``hu``, ``mr`` or ``gray`` for images for which neither file nor table states a unit; None decides by the values.
        sequence: The MR sequence, such as ``T1C+``, of images for which the table states none; None takes what the files state.
        split: Evaluate only the cases of this split; None for all cases.
        by: Columns of the data set; metrics are also computed for each of their values, and for each of 2 to 20 sources.
        batch_size: Number of images per batch.
        network: Your own network that the bundle was trained with, as for :func:`reslink.train`; not needed for others, nor on
            the CPU with the ONNX model of the bundle.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        seed: Seed of the bootstrap.
        allow_leakage: Also evaluate cases that overlap with the training data; the metrics are then marked.
        cache: Folder for the decoded images, which several calls can share, also at the same time and from several machines;
            None for a temporary folder.
        on: A Ray cluster that decodes the images and runs the network: ``ray`` (this machine), ``HOST:PORT`` or
            ``ray://HOST:PORT``; None for this process. After an interruption, the same call resumes.
        parquet: Also write ``predictions.parquet``: the rows of ``predictions.csv`` with typed columns and nulls.
        overwrite: Replace an earlier evaluation in ``out``.
        progress: Whether to show a progress bar of the tasks of ``on``, or an object with the methods of ``Progress``.

    Returns:
        The content of ``evaluation.json``. ``metrics`` holds ``estimate``, ``ci_low``, ``ci_high``, ``n`` and ``method`` of
        each metric; ``failed`` holds the error of each case that could not be read.

    Raises:
        UsageError: If the bundle does not know a label, no case is in the split, ``out`` holds an evaluation, the cluster
            cannot be used, or pyarrow is not installed for ``parquet``.
        CheckFailedError: If a patient or near duplicate appears in more than one split.

    Example:
        >>> import reslink
        >>> result = reslink.evaluate("runs/first/bundle", "other-hospital/", "evaluated")  # doctest: +SKIP
        >>> result["metrics"]["auroc"]["estimate"]  # doctest: +SKIP
        0.93
    """
    from reslink.bundles.bundle import Bundle
    from reslink.datasets.manifest import data_set_name
    from reslink.evaluation.subgroup_columns import check_columns
    from reslink.inference.devices import check_device_name

    folder, columns_of_subgroups = Path(out), (by,) if isinstance(by, str) else by
    check_overwrite(folder, "evaluation.json", "an evaluation", overwrite)
    check_device_name(device)
    if parquet:
        optional_import("pyarrow.parquet", "parquet")  # before the work
    if on is not None:
        _check_cluster_options(device, has_network=network is not None)
    loaded = Bundle.load(bundle, network)
    options_of_data: dict[str, Any] = {"columns": columns, "root": root, "unit": unit, "case": loaded.case}
    manifest = read_patients(open_manifest(data, labels=loaded.labels, **options_of_data))
    manifest = manifest if sequence is None else manifest.with_sequence(sequence)
    if cache is not None:
        check_outside(Path(cache), manifest, "--cache")
    check_columns(manifest, columns_of_subgroups)
    from reslink.evaluation.cases import select_cases

    select_cases(manifest, loaded.labels, split)  # a typing error is found before the slow imports
    from reslink.evaluation.evaluate import EvaluationOptions, evaluate_bundle
    from reslink.reports.run.page import evaluation_report

    options = EvaluationOptions(
        device=device,
        split=split,
        subgroup_columns=columns_of_subgroups,
        batch_size=batch_size,
        seed=seed,
        allow_leakage=allow_leakage,
        cache_folder=None if cache is None else Path(cache),
        data_name=data_set_name(data) if isinstance(data, str | Path) else None,
        parquet=parquet,
    )
    if on is None:
        result = evaluate_bundle(loaded, manifest, folder, options)
    else:
        from reslink.cluster.evaluation import evaluate_on_cluster

        listener = resolve_progress(progress)
        try:
            result = evaluate_on_cluster(bundle, loaded, manifest, folder, options, cluster=on, progress=listener)
        finally:
            listener.end()
    evaluation_report(folder)
    return result


def _check_cluster_options(device: str, *, has_network: bool) -> None:
    """Checks that the tasks of a cluster can run the network."""
    if device not in ("auto", "cpu"):
        raise UsageError(f"--on and --device {device} were both given", "Tasks of a cluster run on CPUs", "Remove --device")
    if has_network:
        raise UsageError(
            "--on and --network were both given",
            "Tasks of a cluster run the ONNX model of a bundle with its own network",
            "Remove one of them",
        )
