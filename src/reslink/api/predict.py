"""``reslink.predict``: predictions for images, a table of them, and pictures with attention maps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reslink.api.predictions.table import check_replacement, open_table
from reslink.errors import UsageError
from reslink.files import check_folder_path, write_atomic

if TYPE_CHECKING:
    from reslink.imaging.image import Image, Unit
    from reslink.inference.classifier import Classifier, Source
    from reslink.inference.prediction import Prediction
    from reslink.inference.series_mode import SeriesMode


def predict(
    bundle: str | Path,
    images: Source | Iterable[Source],
    *,
    batch_size: int = 32,
    device: str = "auto",
    backend: str = "auto",
    csv: str | Path | None = None,
    pictures: str | Path | None = None,
    overwrite: bool = False,
    unit: Unit | None = None,
    series: SeriesMode | None = None,
    sequence: str | None = None,
) -> list[Prediction]:
    """Predicts the class of images. Torch is imported only if the backend is torch.

    Args:
        bundle: The name of a shipped model, or the folder of a bundle or run.
        images: A file, folder, glob or DICOM series, an ``Image``, an array (H, W) or (D, H, W), or several of these.
        batch_size: Number of slices per batch.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        backend: ``auto``, ``torch``, ``onnxruntime`` or ``openvino``; ``auto`` selects ONNX Runtime on the CPU if possible.
        csv: A file for the table of predictions, CSV, or Parquet if its name ends in ``.parquet``; None writes none.
        pictures: A folder for pictures with attention maps; None draws none.
        overwrite: Replace earlier pictures in ``pictures``.
        unit: ``HU``, ``MR`` or ``gray``, of arrays (optional for uint8) and of files that state none, such as NIfTI and NPY.
        series: ``each`` for one prediction per slice; ``auto`` to add one for each series (a volume, or DICOM slices), ``only``
            for series without their slices. The prediction for a series is a ``SeriesAnswer``. None is ``each``, or ``only``
            for a series model.
        sequence: The MR sequence of the images, such as ``T1``, ``T1C+`` (after a contrast agent), ``T2`` or ``FLAIR``; None
            takes what each file states. Images outside the scope of the bundle are refused.

    Returns:
        One prediction per slice, in order. An unreadable file gives a prediction with an error.

    Raises:
        BundleError: If the bundle cannot be used.
        UsageError: If an option is invalid.

    Example:
        >>> import reslink
        >>> [prediction] = reslink.predict("ct", "scan.png")  # doctest: +SKIP
        >>> prediction.label, prediction.probability  # doctest: +SKIP
        ('Tumor', 0.974)
    """
    from reslink.imaging.spellings import parse_unit
    from reslink.inference.classifier import Classifier, as_sources

    stated = parse_unit(unit)
    classifier = Classifier.load(bundle, device=device, backend=backend, sequence=sequence)
    return list(
        iter_predictions(
            classifier,
            as_sources(images),
            batch_size=batch_size,
            table_file=None if csv is None else Path(csv),
            pictures=None if pictures is None else Path(pictures),
            overwrite=overwrite,
            unit=stated,
            series=series,
        )
    )


def iter_predictions(
    classifier: Classifier,
    sources: Iterable[Source],
    *,
    batch_size: int = 32,
    table_file: Path | None = None,
    pictures: Path | None = None,
    overwrite: bool = False,
    unit: Unit | None = None,
    series: SeriesMode | None = None,
    workers: int = 0,
) -> Iterator[Prediction]:
    """Yields predictions, and writes each to the table and the picture folder, if given.

    Args:
        classifier: The classifier.
        sources: The images.
        batch_size: Number of slices per batch.
        table_file: The table (:func:`reslink.api.predictions.table.open_table`); it is complete once the iterator ends.
        pictures: The folder of the pictures.
        overwrite: Replace earlier pictures.
        unit: Unit of arrays, and of files that state none.
        series: As for :func:`predict`.
        workers: Number of worker processes that read many files while the network runs; not used with ``pictures``.

    Raises:
        UsageError: If the table or the folder cannot be used; raised before the first image is read.
        InputError: If no image could be predicted, and there is an earlier table.
    """
    from reslink.inference.series_answers import predict_series

    if overwrite and pictures is None:
        raise UsageError(
            "--overwrite was given without --pictures",
            "It replaces earlier pictures; an earlier table is always replaced",
            "Remove it, or add --pictures",
        )
    if pictures is not None:
        classifier.bundle.require_slices("--pictures")
    drawer = None if pictures is None else PictureFolder(classifier, pictures, overwrite)
    with ExitStack() as stack:
        table = None if table_file is None else stack.enter_context(open_table(table_file, classifier.labels))
        options: dict[str, Any] = {"mode": series, "unit": unit, "keep_images": drawer is not None, "workers": workers}
        results = predict_series(classifier, sources, batch_size, **options)
        answered, first_error = False, ""
        for prediction, image in results:
            if table is not None:
                table.write(prediction)
            answered = answered or prediction.error is None
            first_error = first_error or prediction.error or ""
            if drawer is not None and image is not None and prediction.probabilities is not None:
                drawer.write(prediction, image)
            yield prediction
        check_replacement(table_file, answered=answered, error=first_error)


class PictureFolder:
    """A folder with one PNG per prediction, in order: ``0001_scan.png``, ``0002_volume_slice_7.png``.

    Args:
        classifier: The classifier that makes the predictions.
        folder: The folder; created if missing, otherwise it must be empty.
        overwrite: Whether the folder may hold earlier pictures; they are removed before the first new picture.

    Raises:
        UsageError: If the backend provides no maps, the path is a file, or the folder holds other files.
    """

    def __init__(self, classifier: Classifier, folder: Path, overwrite: bool = False) -> None:
        from reslink.explain.onnx_maps import require_map_backend

        require_map_backend(classifier.backend)
        check_folder_path(folder, "--pictures")
        self._earlier = _earlier_pictures(folder, overwrite)
        self._classifier, self._folder, self._count = classifier, folder, 0

    def write(self, prediction: Prediction, image: Image) -> None:
        """Draws one prediction over its slice."""
        from reslink.explain.display import display_map
        from reslink.explain.onnx_maps import explained_class, onnx_maps
        from reslink.explain.picture_files import picture_stem
        from reslink.explain.prediction_picture import draw_prediction

        while self._earlier:
            self._earlier.pop().unlink(missing_ok=True)
        self._count += 1
        bundle = self._classifier.bundle
        target = explained_class(bundle.labels, prediction)
        placement = bundle.preprocess.placement(image)
        heat_maps = onnx_maps(self._classifier, bundle.preprocess.pixels(image), target)
        maps = [display_map(name, heat, placement, target) for name, heat in heat_maps.items() if name != "first_attention"]
        suffix = "" if prediction.slice is None else f"_slice_{prediction.slice}"
        name = f"{self._count:04d}_{picture_stem(Path(prediction.path))}{suffix}.png"
        write_atomic(self._folder / name, draw_prediction(bundle, image, prediction, maps))


def _earlier_pictures(folder: Path, overwrite: bool) -> list[Path]:
    """Returns the pictures of an earlier run. Hidden files such as ``.DS_Store`` are ignored.

    Raises:
        UsageError: If the folder holds other files, or pictures without ``overwrite``.
    """
    from reslink.explain.picture_files import is_reslink_picture

    existing = sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []
    others = [path for path in existing if not (re.fullmatch(r"\d{4,}_.*\.png", path.name) and is_reslink_picture(path))]
    if others:
        count = len(others) - 1
        raise UsageError(
            f"{folder} holds {others[0].name}" + (f" and {count} other file{'s' if count > 1 else ''}" if count else ""),
            "The folder must be new or empty; --overwrite replaces only pictures that reslink drew",
            "Choose another folder with --pictures",
        )
    if existing and not overwrite:
        raise UsageError(
            f"{folder} already holds pictures of an earlier run",
            "Existing pictures are not overwritten without --overwrite",
            "Add --overwrite, or choose another --pictures",
        )
    return existing
