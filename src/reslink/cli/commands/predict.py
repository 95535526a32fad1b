"""``reslink predict``: a bundle and images in, a line for each image out."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from reslink.cli.console import Console, counted
from reslink.cli.options import Backend, BatchSize, BundleFolder, Device, Images, Json, wanted_threads
from reslink.cli.prediction_pictures import Pictures
from reslink.cli.prediction_text import abstention, failure, known_first
from reslink.errors import StorageError, UsageError
from reslink.files import spreadsheet_text

if TYPE_CHECKING:
    from reslink.inference.classifier import Prediction

EXAMPLES = (
    "reslink predict runs/first/bundle scan.png",
    "reslink predict ct scan.png --pictures seen",
    "reslink predict runs/first/bundle study/ --json",
    "reslink predict runs/first/bundle 'ward/*.dcm' --csv out.csv",
)
_VERDICT = ("set", "abstain", "ood_score", "reasons")


class Sink(Protocol):
    """Takes predictions one by one, as they come."""

    def write(self, prediction: Prediction) -> None:
        """Writes one prediction."""


def predict(
    console: Console,
    bundle: BundleFolder,
    paths: Images,
    json: Json = False,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write a CSV file.", show_default=False)
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(
            "--pictures", metavar="DIR", help="Draw each answer with the maps of where the network looked.", show_default=False
        ),
    ] = None,
    batch_size: BatchSize = 32,
    device: Device = "auto",
    backend: Backend = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the pictures that an earlier run drew.")] = False,
) -> None:
    """Classify images: files, folders, DICOM series or globs; a volume gives a line a slice.

    A file that cannot be read gets a line with its error, the others go on, and the exit code is 1.
    """
    if json and csv_file is not None:
        raise UsageError("--json and --csv were both given", "One form of output at a time", "Leave one of them out")
    if overwrite and pictures is None:
        raise UsageError(
            "--overwrite was given without --pictures",
            "It replaces the pictures of an earlier run; an earlier table of --csv is replaced without it",
            "Leave it out, or add --pictures",
        )
    from reslink.inference.classifier import Classifier

    classifier = Classifier.load(bundle, device=device, backend=backend, threads=wanted_threads())
    drawing = None if pictures is None else Pictures(classifier, pictures, overwrite)
    failed = total = abstained = 0
    with _sink(console, json, csv_file, classifier.labels.names) as sink:
        for prediction in classifier.predict(paths, batch_size=batch_size):
            total += 1
            failed += prediction.error is not None
            abstained += prediction.abstain is True
            sink.write(prediction)
            if drawing is not None and prediction.error is None:
                drawing.write(prediction)
    if pictures is not None and failed < total:
        console.note(f"{counted(total - failed, 'picture')} in {pictures}")
    if not json:
        asked = f", {abstained} abstained from" if classifier.bundle.decision.abstains and failed < total else ""
        console.note(f"{counted(total, 'line')}, {failed} failed{asked}" + (f", written to {csv_file}" if csv_file else ""))
        known_first(console, classifier.bundle, answered=failed < total)
    if failed:
        raise typer.Exit(1)


def _sink(console: Console, json: bool, csv_file: Path | None, names: tuple[str, ...]) -> AbstractContextManager[Sink]:
    if csv_file is not None:
        return table_of(csv_file, names)
    return nullcontext(JsonLines(console) if json else PlainLines(console))


@contextmanager
def table_of(csv_file: Path, names: tuple[str, ...]) -> Iterator[Sink]:
    """Gives a sink into a CSV file that stands there whole once the block ends, and not at all if it fails.

    Raises:
        UsageError: If it is a folder or a file of something else; said before the first image is read.
        StorageError: If it cannot be written.
    """
    if csv_file.is_dir():
        raise UsageError(f"{csv_file} is a folder", "--csv names a file", f"Write for example --csv {csv_file / 'answers.csv'}")
    if csv_file.exists() and not _is_table(csv_file, names):
        raise UsageError(
            f"{csv_file} is there already and is no table of answers",
            "Only an earlier table of answers is replaced",
            "Choose another file with --csv",
        )
    part = csv_file.with_name(f".{csv_file.name}.{os.getpid()}.part")
    try:
        csv_file.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", newline="", encoding="utf-8") as stream:
            yield CsvFile(csv.writer(stream), names)
        part.replace(csv_file)
    except OSError as error:
        raise StorageError(
            f"{csv_file} could not be written: {error.strerror or error}",
            "reslink needs a folder that it may write to, with free space",
            "Free some space or choose another file, then run the same command again",
        ) from error
    finally:
        with suppress(OSError):  # a file stands above it
            part.unlink(missing_ok=True)


def _is_table(path: Path, names: tuple[str, ...]) -> bool:
    """Says whether a file is empty, or a table of this verb for the same classes."""
    if not path.is_file():
        return False
    text = io.StringIO()
    CsvFile(csv.writer(text), names)
    begin = text.getvalue().encode()
    with path.open("rb") as stream:
        return stream.read(len(begin)) in (b"", begin)


class JsonLines:
    """One JSON object a line on stdout."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def write(self, prediction: Prediction) -> None:
        """Writes one prediction."""
        self._console.json(prediction.as_dict())


class PlainLines:
    """Label, probability, file, and why the bundle abstains if it does: separated by tabs on stdout; errors on stderr."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def write(self, prediction: Prediction) -> None:
        """Writes one prediction."""
        where = prediction.path if prediction.slice is None else f"{prediction.path} slice {prediction.slice}"
        if prediction.error is not None or prediction.probability is None:
            self._console.warn(failure(where, prediction.path, prediction.error))
        else:
            abstains = abstention(prediction.abstain, prediction.reasons)
            self._console.data(f"{prediction.label}\t{prediction.probability:.3f}\t{where}{abstains}")


class _Writer(Protocol):
    def writerow(self, row: list[object], /) -> object: ...


class CsvFile:
    """One row an image: path, slice, label, probability, error, a column ``p_<class>`` for each class, and the verdict.

    A path that a spreadsheet would run as a formula is written with a ``'`` before it.
    """

    def __init__(self, writer: _Writer, names: tuple[str, ...]) -> None:
        self._writer, self._names = writer, names
        writer.writerow(["path", "slice", "label", "probability", "error", *(f"p_{name}" for name in names), *_VERDICT])

    def write(self, prediction: Prediction) -> None:
        """Writes one prediction; what is not there stays empty."""
        by_class = prediction.probabilities or {}
        path, error = spreadsheet_text(prediction.path), prediction.error and spreadsheet_text(prediction.error)
        row = [path, prediction.slice, prediction.label, prediction.probability, error]
        held = None if prediction.set is None else "|".join(prediction.set)
        reasons = "; ".join(prediction.reasons or ())
        abstain = None if prediction.abstain is None else str(prediction.abstain).lower()
        verdict = [held, abstain, prediction.ood_score, reasons]
        self._writer.writerow([*row, *(by_class.get(name) for name in self._names), *verdict])
