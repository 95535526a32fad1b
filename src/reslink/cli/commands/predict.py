"""``reslink predict``: predicts the class of images."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reslink.cli.cluster_options import On, ShardSize, cluster_address, shard_files
from reslink.cli.command import paused_collection
from reslink.cli.console import Console
from reslink.cli.options import (
    FOLDER,
    Backend,
    BatchSize,
    BundleFolder,
    Device,
    Images,
    Json,
    MRSequence,
    Unit,
    threads_from_environment,
)
from reslink.cli.prediction_text import (
    NO_ANSWER,
    abstention_cells,
    caution,
    error_line,
    label_cells,
    prediction_cells,
    print_usage_notes,
)
from reslink.cores import available_cores
from reslink.errors import UsageError
from reslink.files import sha256
from reslink.inference.series_mode import SeriesMode
from reslink.printable_names import json_text
from reslink.remote_paths import without_secrets
from reslink.reports.formatting import format_count

if TYPE_CHECKING:
    from reslink.api.predictions.shards import Output, PredictionJob
    from reslink.bundles.bundle import Bundle
    from reslink.cluster.connection import ClusterAddress
    from reslink.inference.classifier import Classifier
    from reslink.inference.prediction import Prediction
    from reslink.inference.prediction_counts import PredictionCounts

_MAX_WORKERS = 4

EXAMPLES = (
    "reslink predict runs/first/bundle scan.png",
    "reslink predict ct scan.png --pictures pictures",
    "reslink predict runs/first/bundle series/ --json",
    "reslink predict runs/first/bundle 'ward/*.dcm' --csv out.csv",
    "reslink predict ct archive/ --csv out.parquet --on ray",
)


def predict(
    console: Console,
    bundle: BundleFolder,
    paths: Images,
    json: Json = False,
    table_file: Annotated[
        Path | None,
        typer.Option(
            "--csv",
            metavar="FILE",
            help="CSV file for the predictions, or Parquet if the name ends in .parquet; default: print them.",
            show_default=False,
        ),
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(
            "--pictures", metavar="DIR", help="Folder for pictures with attention maps; default: none.", show_default=False
        ),
        FOLDER,
    ] = None,
    unit: Unit = None,
    sequence: MRSequence = None,
    batch_size: BatchSize = 32,
    device: Device = "auto",
    backend: Backend = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Overwrite earlier pictures in the folder.")] = False,
    series: Annotated[
        SeriesMode,
        typer.Option("--series", help="auto: each slice, then each series; each: only slices; only: series without slices."),
    ] = "auto",
    on: On = None,
    shard_size: ShardSize = None,
) -> None:
    """Predict the class of images: files, folders, DICOM series or globs. A volume or series also gets an answer of its own.

    An unreadable file gives a line with its error; the other files are still predicted, and the exit code is 1. An image that
    the model is not for gets no answer, but the reason.

    With --on, the files are predicted on a Ray cluster; run the same command again to resume after an interruption.
    """
    if json and table_file is not None:
        raise UsageError("--json and --csv were both given", "Only one output format is possible", "Remove one of them")
    files_per_task = shard_files(shard_size, on)
    address = None if on is None else cluster_address(on)
    if address is not None:
        _check_cluster_options(paths, json, table_file, pictures, overwrite, device)
        device = "cpu"
    threads = threads_from_environment()
    with paused_collection():
        from reslink.inference.classifier import Classifier

        classifier = Classifier.load(bundle, device=device, backend=backend, threads=threads, sequence=sequence)
    if address is not None:
        from reslink.api.predictions.shards import PredictionJob
        from reslink.cluster.nodes import bundle_digest

        digest, engine = bundle_digest(classifier.bundle), classifier.backend.name
        output = _output_format(table_file, console)
        job = PredictionJob(bundle, digest, engine, batch_size, unit, sequence, series, output)
        counts = _predict_on_cluster(console, classifier, job, paths, table_file, address, files_per_task)
    else:
        from reslink.api.predict import iter_predictions

        predictions = iter_predictions(
            classifier,
            paths,
            batch_size=batch_size,
            table_file=table_file,
            pictures=pictures,
            overwrite=overwrite,
            unit=unit,
            series=series,
            workers=_reading_workers(threads),
        )
        counts = _print_predictions(console, classifier, predictions, series, json=json, quiet=table_file is not None)
    if pictures is not None and counts.slices:
        console.note(f"{format_count(counts.slices, 'picture')} in {pictures}")
    if counts.failed and (table_file is not None or address is not None):  # else each error was printed
        console.warn(f"The first of {counts.failed} errors: {counts.first_error}" if counts.failed > 1 else counts.first_error)
    if not json:
        _print_counts(console, classifier.bundle, counts, table_file)
    if counts.failed:
        raise typer.Exit(1)


def _reading_workers(threads: int | None) -> int:
    """Returns the number of worker processes that read files: none for one thread, and no more than keep the network busy."""
    threads = threads or available_cores()
    return min(threads, _MAX_WORKERS) if threads > 1 else 0


def _check_cluster_options(
    paths: Sequence[str], json: bool, table_file: Path | None, pictures: Path | None, overwrite: bool, device: str
) -> None:
    if pictures is not None or overwrite:
        raise UsageError("--on and --pictures were both given", "A cluster writes no pictures", "Remove one of them")
    if not json and table_file is None:
        raise UsageError("--on was given without --csv or --json", "A cluster prints no table", "Add --csv FILE or --json")
    if any(without_secrets(path) != path for path in paths):
        raise UsageError(
            "--on and a URL with credentials or a query were both given",
            "The list of jobs of a cluster shows the command line",
            "Give the credentials in the environment, and the URL without them",
        )
    if device not in ("auto", "cpu"):
        raise UsageError(f"--on and --device {device} were both given", "Tasks of a cluster run on CPUs", "Remove --device")


def _output_format(table_file: Path | None, console: Console) -> Output:
    from reslink.datasets.tables.parquet_writer import is_parquet_name

    if table_file is not None:
        return "parquet" if is_parquet_name(table_file) else "csv"
    return "json" if console.writes_utf8 else "ascii"


def _predict_on_cluster(
    console: Console,
    classifier: Classifier,
    job: PredictionJob,
    paths: Sequence[str],
    table_file: Path | None,
    address: ClusterAddress,
    shard_size: int,
) -> PredictionCounts:
    from reslink.api.predictions.shards import predict_on_cluster
    from reslink.api.predictions.table import check_replacement, open_table

    name = f".reslink-{sha256(json_text([asdict(job), list(paths)]))[:12]}.parts"  # another job in this folder keeps its own
    folder = Path(name) if table_file is None else table_file.with_name(f".{table_file.name}.parts")
    with ExitStack() as stack:
        write = (
            console.text if table_file is None else stack.enter_context(open_table(table_file, classifier.labels)).write_rows
        )
        progress = console.progress()
        counts = predict_on_cluster(job, paths, write, address=address, folder=folder, shard_size=shard_size, progress=progress)
        check_replacement(table_file, answered=counts.failed < counts.total, error=counts.first_error)
    if counts.not_fetched:
        files = format_count(counts.not_fetched, "file")
        console.warn(
            f"{files} could not be fetched; the same command fetches them again, and keeps the other parts in {folder}"
        )
    else:
        shutil.rmtree(folder)
    return counts


def _print_predictions(
    console: Console,
    classifier: Classifier,
    predictions: Iterable[Prediction],
    series: SeriesMode,
    *,
    json: bool,
    quiet: bool,
) -> PredictionCounts:
    """Prints predictions as JSON or as text, unless quiet, and counts them."""
    from reslink.inference.prediction_counts import PredictionCounts

    counts = PredictionCounts()
    scope, warning = classifier.bundle.statement, caution(classifier.bundle)
    for prediction in predictions:
        counts.add(prediction, has_slice_answers=series == "auto" and classifier.bundle.case == "slice")
        if json:
            console.json({**prediction.as_dict(), "scope": scope})
        elif not quiet:
            _print_prediction(console, prediction, warning)
    return counts


def _print_counts(console: Console, bundle: Bundle, counts: PredictionCounts, table_file: Path | None) -> None:
    from reslink.imaging.orientation import NOT_STATED

    abstentions = f", {counts.abstained} not answered (abstention)" if bundle.decision.abstains and counts.predicted else ""
    abstentions += f", {counts.partial} without an answer for some label" if counts.partial else ""
    refusals = f", {counts.refused} refused" if counts.refused else ""
    written = f", written to {table_file}" if table_file else ""
    console.note(f"{format_count(counts.total, 'line')}, {counts.failed} failed{refusals}{abstentions}{written}")
    if counts.unoriented:
        console.note(f"{format_count(counts.unoriented, 'line')}: {NOT_STATED}")
    print_usage_notes(console, bundle, predicted=counts.predicted > 0)


def _print_prediction(console: Console, prediction: Prediction, warning: str) -> None:
    """Prints answer, probability, file and the reasons of an abstention, separated by tabs; an error goes to stderr.

    ``warning`` from :func:`caution` goes with each answer.
    """
    from reslink.inference.series_answers import SeriesAnswer

    name, interval = prediction.path if prediction.slice is None else f"{prediction.path} slice {prediction.slice}", ""
    if isinstance(prediction, SeriesAnswer) and (result := prediction.result) is not None:
        name = f"{prediction.path} series of {result.slices} slices"
        interval = "" if result.ci_low is None else f"{result.ci_low:.3f} to {result.ci_high:.3f}"
    if prediction.is_refused:
        console.row(NO_ANSWER, "refused", name, *(prediction.reasons or ()))
    elif prediction.error is not None or prediction.label is None or prediction.probabilities is None:
        console.warn(error_line(name, prediction.path, prediction.error))
    elif prediction.by_label is not None:
        cells = label_cells(prediction.label, prediction.by_label, _label_intervals(prediction))
        answer = NO_ANSWER if prediction.abstain else cells[0]
        reasons = [f"{label}: {reason}" for label, one in prediction.by_label.items() for reason in one.reasons or ()]
        console.row(answer, cells[1], name, *abstention_cells(bool(reasons), prediction.reasons or reasons))
    else:
        cells = prediction_cells(
            prediction.label, prediction.probabilities, prediction.threshold, prediction.certainty, interval, warning
        )
        console.row(*cells, name, *abstention_cells(prediction.abstain, prediction.reasons))


def _label_intervals(prediction: Prediction) -> dict[str, str]:
    """Returns the interval of the probability of each of several labels at once, of the answer for a series."""
    from reslink.inference.series_answers import SeriesAnswer

    if not isinstance(prediction, SeriesAnswer) or prediction.result is None or prediction.result.by_label is None:
        return {}
    results = prediction.result.by_label.items()
    return {name: f"{one.ci_low:.3f} to {one.ci_high:.3f}" for name, one in results if one.ci_low is not None}
