"""``reslink predict``: predicts the class of images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reslink.cli.console import Console, pluralize
from reslink.cli.options import FOLDER, Backend, BatchSize, BundleFolder, Device, Images, Json, threads_from_environment
from reslink.cli.prediction_text import abstention_text, error_line, print_usage_notes
from reslink.errors import UsageError

if TYPE_CHECKING:
    from reslink.inference.classifier import Prediction

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
    batch_size: BatchSize = 32,
    device: Device = "auto",
    backend: Backend = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Overwrite earlier pictures in the folder.")] = False,
) -> None:
    """Predict the class of images: files, folders, DICOM series or globs. A volume gives one line per slice.

    An unreadable file gives a line with its error; the other files are still predicted, and the exit code is 1.
    """
    if json and csv_file is not None:
        raise UsageError("--json and --csv were both given", "Only one output format is possible", "Remove one of them")
    from reslink.api.predict import iter_predictions
    from reslink.inference.classifier import Classifier

    classifier = Classifier.load(bundle, device=device, backend=backend, threads=threads_from_environment())
    failed = total = abstained = 0
    predictions = iter_predictions(
        classifier, paths, batch_size=batch_size, csv_file=csv_file, pictures=pictures, overwrite=overwrite
    )
    for prediction in predictions:
        total += 1
        failed += prediction.error is not None
        abstained += prediction.abstain is True
        if json:
            console.json(prediction.as_dict())
        elif csv_file is None:
            _print_prediction(console, prediction)
    predicted = total - failed
    if pictures is not None and predicted:
        console.note(f"{pluralize(predicted, 'picture')} in {pictures}")
    if not json:
        abstentions = f", {abstained} abstained from" if classifier.bundle.decision.abstains and predicted else ""
        written = f", written to {csv_file}" if csv_file else ""
        console.note(f"{pluralize(total, 'line')}, {failed} failed{abstentions}{written}")
        print_usage_notes(console, classifier.bundle, predicted=predicted > 0)
    if failed:
        raise typer.Exit(1)


def _print_prediction(console: Console, prediction: Prediction) -> None:
    """Prints label, probability, file and the reasons of an abstention, separated by tabs; an error goes to stderr."""
    name = prediction.path if prediction.slice is None else f"{prediction.path} slice {prediction.slice}"
    if prediction.error is not None or prediction.probability is None:
        console.warn(error_line(name, prediction.path, prediction.error))
    else:
        abstains = abstention_text(prediction.abstain, prediction.reasons)
        console.data(f"{prediction.label}\t{prediction.probability:.3f}\t{name}{abstains}")
