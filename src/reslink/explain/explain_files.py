"""Explains the predictions for image files: writes a panel and the maps of each image, and one ``explain.json``."""

from __future__ import annotations

import io
import itertools
import logging
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reslink.datasets.leakage import find_training_duplicates
from reslink.datasets.near_duplicates.thumbnails import make_thumbnail
from reslink.errors import InputError, ReslinkError, UsageError, check_choice
from reslink.explain.attention import attention_maps
from reslink.explain.attribution import has_feature_map
from reslink.explain.display import DEFAULT_METHODS, METHODS, TITLES, display_map, peak
from reslink.explain.heat_maps import heat_maps, localization_measures
from reslink.explain.onnx_maps import explained_class
from reslink.explain.panel import RESEARCH_USE_ONLY
from reslink.explain.picture_files import INDEX, picture_stem, previous_pictures
from reslink.explain.prediction_picture import draw_prediction
from reslink.explain.randomization_check import RandomizationCheck, randomization_check
from reslink.files import write_atomic, write_json
from reslink.imaging.head_mask import stated_content
from reslink.imaging.image import NOTHING_STATED, Image, Stated
from reslink.imaging.lesion_mask import aligned_mask
from reslink.imaging.reading import read_image
from reslink.imaging.search import find_images, iter_series
from reslink.imaging.series_slices import read_series_slices
from reslink.inference.classifier import Classifier
from reslink.inference.prediction import LabelPrediction, Prediction
from reslink.inference.series_answers import view_series
from reslink.remote_paths import parse_remote

__all__ = ["METHODS", "ExplainOptions", "Explanation", "explain_paths"]

_log = logging.getLogger(__name__)

_CHECK_IMAGES = 16


@dataclass(frozen=True)
class ExplainOptions:
    """Options of :func:`explain_paths`.

    Attributes:
        methods: Some of ``METHODS``; attention layers that the network does not have are left out.
        masks: Image path to lesion mask, of the same size as the image; nonzero pixels are lesion.
        target: The class to explain; default: the positive class of two, the predicted class of more, or the most probable of
            several labels at once.
        randomization_check: Whether to run the model-randomization check on the first 16 images.
        limit: Maximum number of images (each volume slice counts as one, and so does an unreadable file).
        overwrite: Whether to remove the pictures and maps of an earlier run, which the folder's ``explain.json`` lists.
        unit: Unit of the values of files that state none: ``HU``, ``MR`` or ``gray``; None decides by the values.
        units: Image path to unit, for images with a unit of their own.
        sequence: MR sequence of the files, such as ``T1C+``; None takes that of the classifier, or what each file states.
        sequences: Image path to MR sequence, for images of which a table states it.
        columns: Role to column of the tables among the paths, as for ``Manifest.open``.
        root: Folder that the paths in these tables start from; None for the folder of each table.
    """

    methods: Sequence[str] = DEFAULT_METHODS
    masks: Mapping[str, str | Path] = field(default_factory=dict)
    target: str | None = None
    randomization_check: bool = True
    limit: int | None = None
    overwrite: bool = False
    unit: str | None = None
    units: Mapping[str, str] = field(default_factory=dict)
    sequence: str | None = None
    sequences: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, str] | Sequence[str] | None = None
    root: str | Path | None = None


@dataclass(frozen=True)
class Explanation:
    """The explanation of one image or slice.

    Attributes:
        path: The image file.
        slice: Index of the slice in a file with several slices, else None.
        label: Predicted class; None if the image could not be read, or if the model is not for it (``reasons``).
        probability: Probability of the predicted class; None with several labels at once.
        probabilities: Class name to probability; the sum is 1. With several labels at once, that each is present.
        target: The class that Grad-CAM, integrated gradients and occlusion explain.
        panel: Name of the PNG in the output folder.
        maps: Name of the ``.npz`` in the output folder, with one float16 (H, W) map per method on the rows and columns of the
            file (of a NIfTI file: of ``read_image``).
        methods: Statistics of each map: ``low``, ``high``, ``flat``, ``peak`` (row and column in the map), and with a
            lesion mask the measures of ``localize``.
        abstain: Whether the model abstains; None for a bundle without prediction sets and OOD detector.
        reasons: Why it abstains; None as above.
        ood_score: Out-of-distribution score; the model abstains above 1. None without an OOD detector.
        error: Why the image could not be explained, else None.
        notes: What the file does not state and was assumed, see ``Image.notes``.
        weight: For a series model, the weight of the slice in the answer; label and probabilities are then
            those of the whole series. None for others.
        by_label: As ``Prediction.by_label``; not part of the JSON form with one class per image.
        training_image: Whether the bundle was trained on the image or a near duplicate, by its fingerprints, so that
            its maps say little about new images. None if its training images are not all known, or without a prediction.
    """

    path: str
    slice: int | None = None
    label: str | None = None
    probability: float | None = None
    probabilities: dict[str, float] | None = None
    target: str | None = None
    panel: str | None = None
    maps: str | None = None
    methods: dict[str, dict[str, Any]] | None = None
    abstain: bool | None = None
    reasons: list[str] | None = None
    ood_score: float | None = None
    error: str | None = None
    notes: Sequence[str] = ()
    weight: float | None = None
    by_label: Mapping[str, LabelPrediction] | None = None
    training_image: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        """Returns the JSON form; it has the key ``weight`` only for a series model."""
        form = asdict(replace(self, by_label=None))
        del form["by_label"]
        if self.weight is None:
            del form["weight"]
        return form | (
            {} if self.by_label is None else {"by_label": {name: one.as_dict() for name, one in self.by_label.items()}}
        )


def count_training_images(explanations: Sequence[Explanation]) -> int | None:
    """Returns how many explained images the bundle was trained on; None if its training images are not all known."""
    known = [explanation.training_image for explanation in explanations if explanation.panel is not None]
    return None if None in known else sum(map(bool, known))


def explain_paths(
    classifier: Classifier,
    paths: Iterable[str | Path],
    out: str | Path,
    options: ExplainOptions | None = None,
    *,
    on_explanation: Callable[[Explanation], None] | None = None,
    on_check: Callable[[RandomizationCheck], None] | None = None,
) -> list[Explanation]:
    """Explains images and writes ``<name>.png``, ``<name>.npz`` and one ``explain.json`` to a folder.

    Where a case of the bundle is a series, the slices with the largest weights of each series are explained.

    Args:
        classifier: The loaded bundle; its network is unchanged afterwards.
        paths: Files, folders, globs or DICOM series, as for ``predict``. An unreadable file or path is reported, and the others
            are still explained.
        out: Output folder, created if missing. Existing files are never overwritten, except for an earlier ``explain.json`` and
            what ``options.overwrite`` allows; a new name is chosen.
        options: Options; default: all methods but the first attention.
        on_explanation: Called after each image.
        on_check: Called with each model-randomization check.

    Returns:
        One explanation per image or slice, in order.

    Raises:
        UsageError: If a method or the target class is unknown, or reslink did not write the folder's ``explain.json``.
        StorageError: If the folder cannot be written to.
    """
    options = options or ExplainOptions()
    options = replace(options, sequence=options.sequence or classifier.sequence)
    _check_methods(options.methods)
    if options.target is not None:
        classifier.labels.index(options.target)  # raises for an unknown class
    files = list(paths)
    explainer = _Explainer(classifier, Path(out), options, files)
    explanations: list[Explanation] = []
    checks: list[RandomizationCheck] = []
    is_series = classifier.bundle.case == "series"
    sources = _read_series(classifier, files, options) if is_series else _read_slices(files, options)
    try:
        for source in itertools.islice(sources, options.limit):
            explanations.append(explainer.explain(source))
            if on_explanation is not None:
                on_explanation(explanations[-1])
        if options.randomization_check and explainer.check_images:
            checks += randomization_checks(classifier, explainer.check_images, options.methods)
    except KeyboardInterrupt:
        explainer.write_index(explainer.marked(explanations), checks)  # so that a later run can replace these pictures
        raise
    explanations = explainer.marked(explanations)
    if on_check is not None:
        for check in checks:
            on_check(check)
    explainer.write_index(explanations, checks)
    return explanations


@dataclass(frozen=True)
class _SourceSlice:
    """One slice of an image file, or the reason why the file could not be read.

    Where a case of the bundle is a series, it has the answer for the series and its weight in it.
    """

    path: Path
    slice: int | None
    image: Image | None
    error: str | None
    stated: Stated = NOTHING_STATED
    answer: Prediction | None = None
    weight: float | None = None


def _read_series(classifier: Classifier, paths: Iterable[str | Path], options: ExplainOptions) -> Iterator[_SourceSlice]:
    """Yields the slices with the largest weights of each series: a folder, a volume, or the DICOM files of one series."""
    for path in paths:
        try:
            for files in iter_series(path):
                shown = Path(path) if len(files) > 1 and Path(path).is_dir() else files[0]
                stated = options.units.get(str(path), options.unit), options.sequences.get(str(path), options.sequence)
                yield from _slices_of_series(classifier, files, shown, *stated)
        except InputError as error:
            yield _SourceSlice(parse_remote(path) or Path(path), None, None, str(error))


def _slices_of_series(
    classifier: Classifier, files: list[Path], shown: Path, unit: str | None, sequence: str | None
) -> Iterator[_SourceSlice]:
    try:
        view = view_series(classifier, read_series_slices(files, str(shown), unit), str(shown), sequence=sequence)
    except ReslinkError as error:
        yield _SourceSlice(shown, None, None, str(error))
        return
    answer, slices = view.answer, view.slices
    if answer.error is not None:
        yield _SourceSlice(shown, None, None, answer.error)
        return
    stated = view.stated
    if answer.result is None or answer.result.attention is None:
        yield _SourceSlice(shown, None, slices.planes[0], None, stated, answer)
        return
    for i in answer.result.used:
        yield _SourceSlice(shown, slices.positions[i], slices.planes[i], None, stated, answer, answer.result.attention[i])


def _read_slices(paths: Iterable[str | Path], options: ExplainOptions) -> Iterator[_SourceSlice]:
    for path in paths:
        try:
            files = find_images([path])
        except InputError as error:
            yield _SourceSlice(parse_remote(path) or Path(path), None, None, str(error))
            continue
        for file in files:
            yield from _slices_of(
                file, options.units.get(str(file), options.unit), options.sequences.get(str(file), options.sequence)
            )


def _slices_of(file: Path, unit: str | None, sequence: str | None) -> Iterator[_SourceSlice]:
    try:
        image = read_image(file, unit)
    except ReslinkError as error:
        yield _SourceSlice(file, None, None, str(error))
        return
    planes, stated = image.slices(), stated_content(image, sequence)
    for i, plane in enumerate(planes):
        yield _SourceSlice(file, i if len(planes) > 1 else None, plane, None, stated)


class _Explainer:
    """Explains slices one at a time and writes their files.

    Attributes:
        check_images: Network input of the first images, for the model-randomization check.
    """

    def __init__(self, classifier: Classifier, folder: Path, options: ExplainOptions, files: Sequence[str | Path]) -> None:
        self._classifier, self._folder, self._options = classifier, folder, options
        self._masks = {_key(path): parse_remote(mask) or Path(mask) for path, mask in options.masks.items()}
        previous = previous_pictures(folder)  # called without overwrite too: it refuses a foreign explain.json
        inputs = {*map(_key, files), *map(_key, self._masks.values())}
        self._names = _FileNames(folder, previous if options.overwrite else (), inputs)
        self.check_images: list[NDArray[np.uint8]] = []
        self._thumbnails: dict[tuple[str, int | None], NDArray[np.uint8]] = {}
        self._missing_reported = False

    def explain(self, source: _SourceSlice) -> Explanation:
        """Explains one slice. A problem of the image becomes part of the explanation; a write error is raised."""
        if source.image is None:
            return Explanation(str(source.path), source.slice, error=source.error)
        classifier, preprocess = self._classifier, self._classifier.bundle.preprocess
        refused = classifier.bundle.scope.refusal(source.stated)
        if refused is not None:
            return self._refused(classifier.refused_prediction(refused, str(source.path), source.slice), source.image)
        try:
            mask = _read_mask(self._masks.get(_key(source.path)), source, source.image)
            pixels = preprocess.pixels(source.image)
            prediction = self._prediction(source, pixels)
        except (InputError, UsageError) as error:
            return Explanation(str(source.path), source.slice, error=str(error))
        if prediction.is_refused:
            return self._refused(prediction, source.image)
        if len(self.check_images) < _CHECK_IMAGES:
            self.check_images.append(pixels)
        self._thumbnails[prediction.path, prediction.slice] = make_thumbnail(source.image)
        target = explained_class(classifier.labels, prediction, self._options.target)
        heats = heat_maps(classifier, pixels, classifier.labels.index(target), self._options.methods)
        placement = preprocess.placement(source.image)
        self._report_missing(heats)
        maps = [display_map(name, heat, placement, target) for name, heat in heats.items()]
        network_mask = None if mask is None else placement.to_network(mask)
        stem = self._names.take(source.path, source.slice)
        picture = draw_prediction(classifier.bundle, source.image, prediction, maps, mask, source.weight)
        write_atomic(self._folder / f"{stem}.png", picture)
        stored = {m.name: source.image.to_stored(m.on_image) for m in maps}
        write_atomic(self._folder / f"{stem}.npz", _npz(stored))
        return Explanation(
            path=prediction.path,
            slice=prediction.slice,
            label=prediction.label,
            probability=prediction.probability,
            probabilities=prediction.probabilities,
            target=target,
            panel=f"{stem}.png",
            maps=f"{stem}.npz",
            methods={
                m.name: m.statistics | {"peak": peak(stored[m.name])} | localization_measures(heats[m.name], network_mask)
                for m in maps
            },
            abstain=prediction.abstain,
            reasons=None if prediction.reasons is None else list(prediction.reasons),
            ood_score=prediction.ood_score,
            notes=source.image.notes,
            weight=source.weight,
            by_label=prediction.by_label,
        )

    def marked(self, explanations: Sequence[Explanation]) -> list[Explanation]:
        """Returns the explanations, with those of training images marked; they are found together, as each search is slow."""
        bundle, names = self._classifier.bundle, list(self._thumbnails)
        if not bundle.seen_images or not names:
            return list(explanations)
        rows = find_training_duplicates(bundle.seen_images, np.stack(list(self._thumbnails.values())))
        other = False if bundle.knows_seen_images else None
        known = {name: True if row in rows else other for row, name in enumerate(names)}
        return [replace(one, training_image=known.get((one.path, one.slice))) for one in explanations]

    def _prediction(self, source: _SourceSlice, pixels: NDArray[np.uint8]) -> Prediction:
        if source.answer is not None:
            return replace(source.answer, slice=source.slice)
        results = self._classifier.classify(pixels[None], [source.stated])
        return self._classifier.prediction(results, 0, str(source.path), source.slice)

    def _report_missing(self, heats: Container[str]) -> None:
        """Warns once of methods that the network has no map for."""
        missing = [TITLES[name] for name in self._options.methods if name not in heats]
        if missing and not self._missing_reported:
            _log.warning("The network has no layer for: %s. The other maps are drawn.", ", ".join(missing))
        self._missing_reported = True

    def _refused(self, prediction: Prediction, image: Image) -> Explanation:
        """Returns the explanation of an image that the model is not for: the reason, and no picture."""
        reasons = list(prediction.reasons or ())
        return Explanation(prediction.path, prediction.slice, abstain=True, reasons=reasons, notes=image.notes)

    def write_index(self, explanations: Sequence[Explanation], checks: Sequence[RandomizationCheck]) -> None:
        """Writes ``explain.json``."""
        self._names.remove_previous()
        write_json(
            self._folder / INDEX,
            {
                "notice": RESEARCH_USE_ONLY,
                "n_training_images": count_training_images(explanations),
                "images": [explanation.as_dict() for explanation in explanations],
                "randomization_checks": [check.as_dict() for check in checks],
            },
        )


def _npz(heats: Mapping[str, NDArray[np.float32]]) -> bytes:
    buffer = io.BytesIO()
    limit = float(np.finfo(np.float16).max)
    halves = {name: np.clip(heat, -limit, limit).astype(np.float16) for name, heat in heats.items()}
    np.savez_compressed(buffer, **halves)  # type: ignore[arg-type]  # numpy types its own option as a bool
    return buffer.getvalue()


def _read_mask(path: Path | None, source: _SourceSlice, image: Image) -> NDArray[np.bool_] | None:
    if path is None:
        return None
    slices = read_image(path).slices()
    mask = slices[source.slice if source.slice is not None and source.slice < len(slices) else 0]
    pixels = aligned_mask(mask, image).pixels
    if pixels.shape != image.pixels.shape:
        raise InputError(
            f"The mask {path} has the shape {pixels.shape}, its image {image.pixels.shape}",
            "A mask must have the same rows and columns as its image",
            "Use a mask in the size of the original image",
        )
    return np.asarray(pixels != 0)


def randomization_checks(
    classifier: Classifier, images: Sequence[NDArray[np.uint8]], methods: Sequence[str]
) -> list[RandomizationCheck]:
    """Runs the model-randomization check of each available method.

    Args:
        classifier: The network and its preprocessing.
        images: (planes, S, S) uint8 each, from ``Preprocess.pixels``.
        methods: Names of maps; only attention layers and Grad-CAM are checked.
    """
    x = torch.from_numpy(classifier.bundle.preprocess.normalize(np.stack(images)))
    available = [*attention_maps(classifier.network, x[:1]), *(["grad_cam"] if has_feature_map(classifier.network) else [])]
    return [randomization_check(classifier.network, x, name) for name in methods if name in available]


def _check_methods(methods: Sequence[str]) -> None:
    for name in methods:
        check_choice("method", name, METHODS)


def _key(path: str | Path) -> str:
    return str((parse_remote(path) or Path(path)).resolve())


class _FileNames:
    """Chooses a portable and unused file name for each image, also on file systems that ignore case.

    Args:
        folder: Output folder.
        previous: Pictures of an earlier run, which are removed with their maps when the first name is chosen.
        keep: Files that are never removed, such as the images themselves.
    """

    def __init__(self, folder: Path, previous: Sequence[Path], keep: Container[str]) -> None:
        self._folder, self._previous, self._keep = folder, previous, keep
        self._taken: set[str] | None = None

    def remove_previous(self) -> set[str]:
        """Removes the pictures of the earlier run, and returns the names that are in use."""
        if self._taken is None:
            for picture in self._previous:
                for file in (picture, picture.with_suffix(".npz")):
                    if _key(file) not in self._keep:
                        file.unlink(missing_ok=True)
            existing = self._folder.iterdir() if self._folder.is_dir() else ()
            self._taken = {"explain"} | {path.stem.casefold() for path in existing}
        return self._taken

    def take(self, path: Path, index: int | None) -> str:
        """Returns a new name for an image or slice."""
        taken = self.remove_previous()
        stem = picture_stem(path)
        base = stem if index is None else f"{stem}_slice{index:03d}"
        name, count = base, 1
        while name.casefold() in taken:
            count += 1
            name = f"{base}_{count}"
        taken.add(name.casefold())
        return name
