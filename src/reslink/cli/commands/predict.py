"""``reslink predict``: predicts the class of images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
from reslink.errors import UsageError
from reslink.inference.series_mode import SeriesMode
from reslink.reports.formatting import format_count

if TYPE_CHECKING:
    from reslink.inference.prediction import Prediction

EXAMPLES = (
    "reslink predict runs/first/bundle scan.png",
    "reslink predict ct scan.png --pictures pictures",
    "reslink predict runs/first/bundle series/ --json",
    "reslink predict runs/first/bundle 'ward/*.dcm' --csv out.csv",
)


def predict(
    console: Console,
    bundle: BundleFolder,
    paths: Images,
    json: Json = False,
    csv_file: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", help="CSV file for the predictions; default: print them.", show_default=False),
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
) -> None:
    """Predict the class of images: files, folders, DICOM series or globs. A volume or series also gets an answer of its own.

    An unreadable file gives a line with its error; the other files are still predicted, and the exit code is 1. An image that
    the model is not for gets no answer, but the reason.
    """
    if json and csv_file is not None:
        raise UsageError("--json and --csv were both given", "Only one output format is possible", "Remove one of them")
    from reslink.api.predict import iter_predictions
    from reslink.imaging.orientation import NOT_STATED
    from reslink.inference.classifier import Classifier
    from reslink.inference.series_answers import SeriesAnswer

    classifier = Classifier.load(bundle, device=device, backend=backend, threads=threads_from_environment(), sequence=sequence)
    has_slice_answers = series == "auto" and classifier.bundle.case == "slice"
    failed = total = abstained = partial = refused = unoriented = predicted = drawn = 0
    predictions = iter_predictions(
        classifier,
        paths,
        batch_size=batch_size,
        csv_file=csv_file,
        pictures=pictures,
        overwrite=overwrite,
        unit=unit,
        series=series,
    )
    scope, warning = classifier.bundle.statement, caution(classifier.bundle)
    for prediction in predictions:
        total += 1
        unoriented += NOT_STATED in prediction.notes
        # Slices that have answers, but form no series, are no failure.
        failed += prediction.error is not None and not (has_slice_answers and isinstance(prediction, SeriesAnswer))
        abstained += prediction.abstain is True and not prediction.is_refused
        partial += prediction.abstain is not True and any(one.abstain for one in (prediction.by_label or {}).values())
        refused += prediction.is_refused
        predicted += prediction.label is not None
        drawn += prediction.label is not None and not isinstance(prediction, SeriesAnswer)
        if json:
            console.json({**prediction.as_dict(), "scope": scope})
        elif csv_file is None:
            _print_prediction(console, prediction, warning)
    if pictures is not None and drawn:
        console.note(f"{format_count(drawn, 'picture')} in {pictures}")
    if not json:
        abstentions = f", {abstained} not answered (abstention)" if classifier.bundle.decision.abstains and predicted else ""
        abstentions += f", {partial} without an answer for some label" if partial else ""
        refusals = f", {refused} refused" if refused else ""
        written = f", written to {csv_file}" if csv_file else ""
        console.note(f"{format_count(total, 'line')}, {failed} failed{refusals}{abstentions}{written}")
        if unoriented:
            console.note(f"{format_count(unoriented, 'line')}: {NOT_STATED}")
        print_usage_notes(console, classifier.bundle, predicted=predicted > 0)
    if failed:
        raise typer.Exit(1)


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
