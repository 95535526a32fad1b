"""``reslink predict``: a bundle and images in, a line for each image out."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from reslink.cli.answer import abstention, failure, known_first
from reslink.cli.console import Console, counted
from reslink.cli.options import Backend, BatchSize, BundleFolder, Device, Images, Json
from reslink.cli.threads import wanted_threads
from reslink.cli.verb import refuse_file
from reslink.errors import StorageError, UsageError
from reslink.files import spreadsheet_text, write_atomic

if TYPE_CHECKING:
    from reslink.imaging.image import Image
    from reslink.inference.classifier import Classifier, Prediction

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
) -> None:
    """Classify images: files, folders, DICOM series or globs; a volume gives a line a slice.

    A file that cannot be read gets a line with its error, the others go on, and the exit code is 1.
    """
    if json and csv_file is not None:
        raise UsageError("--json and --csv were both given", "One form of output at a time", "Leave one of them out")
    from reslink.inference.classifier import Classifier

    classifier = Classifier.load(bundle, device=device, backend=backend, threads=wanted_threads())
    drawing = None if pictures is None else Pictures(classifier, pictures)
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
        UsageError: If it is a folder; said before the first image is read.
        StorageError: If it cannot be written.
    """
    if csv_file.is_dir():
        raise UsageError(f"{csv_file} is a folder", "--csv names a file", f"Write for example --csv {csv_file / 'answers.csv'}")
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
        part.unlink(missing_ok=True)


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


class Pictures:
    """One PNG an answer in a folder, in the order of the answers: ``0001_scan.png``, ``0002_volume_slice_7.png``.

    Args:
        classifier: What gives the answers.
        folder: Made where it is missing.

    Raises:
        UsageError: If the backend of the classifier gives no maps, or a file stands where the folder is to be.
    """

    def __init__(self, classifier: Classifier, folder: Path) -> None:
        from reslink.explain.graph_maps import check_backend

        check_backend(classifier.backend)
        refuse_file(folder, "--pictures")
        self._classifier, self._folder, self._count = classifier, folder, 0
        self._read: tuple[str, list[Image]] = ("", [])

    def write(self, prediction: Prediction) -> None:
        """Draws one answer; a file of several slices is read once more for all of them."""
        from reslink.explain.graph_maps import about, graph_maps
        from reslink.explain.picture import answer_picture
        from reslink.explain.picture_names import picture_stem
        from reslink.explain.shown import shown_map
        from reslink.imaging.reading import read_image

        if self._read[0] != prediction.path:
            self._read = (prediction.path, read_image(prediction.path).slices())
        self._count += 1
        where, path = prediction.slice, Path(prediction.path)
        image, bundle = self._read[1][where or 0], self._classifier.bundle
        target = about(bundle.labels, prediction)
        place, heats = bundle.preprocess.place(image), graph_maps(self._classifier, bundle.preprocess.pixels(image), target)
        maps = [shown_map(method, heat, place, target) for method, heat in heats.items()]
        name = f"{self._count:04d}_{picture_stem(path)}" + ("" if where is None else f"_slice_{where}")
        write_atomic(self._folder / f"{name}.png", answer_picture(bundle, image, prediction, maps))


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
