"""Predictions of files and folders with an answer for each series in them: a volume, or the DICOM slices of one series."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np

from reslink.bundles.decision.decision import Certainty
from reslink.errors import InputError, UsageError, check_choice, counted
from reslink.imaging.head_mask import stated_content
from reslink.imaging.image import Image, Stated, Unit
from reslink.imaging.search import ListedFiles
from reslink.imaging.series_slices import NO_HEAD, SeriesSlices
from reslink.imaging.slice_selection import select_slices
from reslink.inference.backends import Pixels
from reslink.inference.classifier import Classifier, Source
from reslink.inference.label_predictions import series_label_predictions
from reslink.inference.outputs import stack_outputs
from reslink.inference.prediction import Prediction, Slice, distinct_reasons
from reslink.inference.series import SeriesPrediction, aggregate_slices, pooled_series
from reslink.inference.series_mode import MODES, SeriesMode
from reslink.remote_paths import parse_remote

Member = tuple[Prediction, Slice]


@dataclass(frozen=True)
class SeriesAnswer(Prediction):
    """The prediction for a whole series, or in ``error`` why there is none.

    ``path`` is the file of a volume, or the folder that contains the slices; ``slice`` is None.

    Attributes:
        files: The files of the series, ordered by slice position.
        result: How the slices were combined; None if there is an error.
    """

    files: tuple[str, ...] = ()
    result: SeriesPrediction | None = None

    def as_dict(self) -> dict[str, Any]:
        """Returns the JSON form; it has the key ``series``."""
        details = {} if self.result is None else self.result.as_dict()
        shared = super().as_dict()
        return shared | {"series": {"files": list(self.files)} | {k: v for k, v in details.items() if k not in shared}}


IN_ORDER: Final = 0
"""Answers in the order of the files."""

AFTER_FILES: Final = 1
"""Answers for DICOM slices outside a series, which follow all files of their folder."""

FOR_SERIES: Final = 2
"""Answers for DICOM series, which come last."""


class Answer(NamedTuple):
    """A prediction with its image, and where it belongs in the output.

    Attributes:
        prediction: The prediction.
        image: The slice; None without ``keep_images``.
        section: ``IN_ORDER``, ``AFTER_FILES`` or ``FOR_SERIES``.
    """

    prediction: Prediction
    image: Image | None
    section: int = IN_ORDER


def predict_series(
    classifier: Classifier,
    sources: Iterable[Source],
    batch_size: int = 32,
    *,
    mode: SeriesMode | None = "auto",
    unit: Unit | None = None,
    keep_images: bool = False,
    workers: int = 0,
) -> Iterator[tuple[Prediction, Image | None]]:
    """Predicts several sources, and their series by the rule of the HTTP service and the DICOM node.

    The answer for a volume follows its slices. The answers for the DICOM series of a folder follow the slices of the folder,
    and those for DICOM files that are given one by one come last.

    Args:
        classifier: The classifier.
        sources: As for :meth:`Classifier.predict`.
        batch_size: Number of slices per batch, at least 1.
        mode: ``each`` gives one prediction per slice; ``auto`` adds one per series; ``only`` leaves out the slices of series.
            None is ``each``, or ``only`` for a bundle whose cases are series, which has no ``each``.
        unit: Unit of arrays.
        keep_images: Whether to yield the slices.
        workers: As for :meth:`Classifier.predict_slices`.

    Returns:
        A lazy iterator of predictions and slices, as ``Classifier.predict_with_images``; some of them a :class:`SeriesAnswer`.

    Raises:
        UsageError: If an option is invalid.
    """
    answers = predict_sections(classifier, sources, batch_size, mode=mode, unit=unit, keep_images=keep_images, workers=workers)
    return ((answer.prediction, answer.image) for answer in answers)


def predict_sections(
    classifier: Classifier,
    sources: Iterable[Source | ListedFiles],
    batch_size: int = 32,
    *,
    mode: SeriesMode | None = "auto",
    unit: Unit | None = None,
    keep_images: bool = False,
    workers: int = 0,
) -> Iterator[Answer]:
    """Predicts as :func:`predict_series`, also files that were listed before, and says to which section an answer belongs.

    If the files of a folder are predicted in several parts, and no series is in two of them, the sections of all parts one
    after the other are the answers for the whole folder.

    Args:
        classifier: The classifier.
        sources: As for :func:`predict_series`; also listed files.
        batch_size: Number of slices per batch, at least 1.
        mode: As for :func:`predict_series`.
        unit: Unit of arrays.
        keep_images: Whether to yield the slices.
        workers: As for :meth:`Classifier.predict_slices`.

    Raises:
        UsageError: If an option is invalid.
    """
    mode = mode or ("only" if classifier.bundle.case == "series" else "each")
    check_choice("mode for series", mode, MODES)
    if classifier.bundle.case == "series" and mode == "each":
        raise UsageError(
            f"One answer per slice was requested from {classifier.bundle.name or 'a model'}, whose cases are series",
            "Such a model answers once for all slices of a series",
            "Use --series only (in Python series='only'), or a model whose cases are slices",
        )
    measure = mode != "each"
    slices = classifier.predict_slices(
        sources, batch_size, unit=unit, keep_images=keep_images, measure=measure, workers=workers
    )
    if mode == "each":
        return (Answer(prediction, item.image) for prediction, item in slices)
    return _with_series(slices, classifier, only=mode == "only" or classifier.bundle.case == "series")


def _with_series(slices: Iterable[Member], classifier: Classifier, only: bool) -> Iterator[Answer]:
    waiting: dict[str, _Folder] = {}  # DICOM slices by the folder that was searched
    volume: list[Member] = []
    folder = ""
    for prediction, item in slices:
        if item.folder != folder:
            if folder in waiting and folder:
                yield from _answers(waiting.pop(folder).members, classifier, only)
            folder = item.folder
        positioned = item.count == 1 and item.geometry.get("position") is not None
        if not only or (item.count == 1 and not positioned):
            yield Answer(*_single(prediction, item, classifier))
        if positioned:
            waiting.setdefault(folder, _Folder()).add(prediction, item if only else replace(item, image=None))
        elif item.count > 1:
            volume.append((prediction, replace(item, image=None)))
            if len(volume) == item.count:
                yield Answer(_answer(volume, item.path, classifier, item.geometry.get("excluded")), None)
                volume = []
    for slices_of_folder in waiting.values():
        yield from _answers(slices_of_folder.members, classifier, only)


class _Folder:
    """The DICOM slices of a folder. Those of a series drop their images, so that a large folder does not fill the memory."""

    def __init__(self) -> None:
        self.members: list[Member] = []
        self._first: dict[tuple[str | None, str | None], list[int]] = {}  # the first slice of each direction, by series

    def add(self, prediction: Prediction, item: Slice) -> None:
        from reslink.imaging.dicom.series import group_slices

        firsts = self._first.setdefault((item.geometry["series"], item.geometry["excluded"]), [])
        first = next((i for i in firsts if group_slices([(self.members[i][1].geometry, None), (item.geometry, None)])), None)
        if first is None:
            firsts.append(len(self.members))
            self.members.append((prediction, item))
            return
        self.members[first] = _without_image(*self.members[first])
        self.members.append(_without_image(prediction, item))


def _without_image(prediction: Prediction, item: Slice) -> Member:
    return prediction, replace(item, image=None)


def _answers(members: list[Member], classifier: Classifier, only: bool) -> Iterator[Answer]:
    """Yields the answer for each DICOM series among some slices; with ``only``, the slices outside a series come first."""
    from reslink.imaging.dicom.geometry import warn_uneven_spacing
    from reslink.imaging.dicom.series import group_slices

    series = group_slices([(item.geometry, item.slice_format) for _, item in members])
    in_series = {i for group in series for i in group.indices}
    if only:
        singles = (_single(*member, classifier) for i, member in enumerate(members) if i not in in_series)
        yield from (Answer(*single, AFTER_FILES) for single in singles)
    for group in series:
        slices = [members[i] for i in group.indices]
        folder = os.path.commonpath([os.path.dirname(item.path) for _, item in slices]) or "."  # noqa: PTH120
        folder = str(parse_remote(folder) or folder)
        if group.refusal is None:
            warn_uneven_spacing(group.gaps, folder)
        yield Answer(_answer(slices, folder, classifier, group.refusal, group.notes), None, FOR_SERIES)


def _single(prediction: Prediction, item: Slice, classifier: Classifier) -> tuple[Prediction, Image | None]:
    """Returns the answer for a slice outside a series; for a series model it is a series of one slice."""
    if classifier.bundle.case == "slice" or prediction.error is not None:
        return prediction, item.image
    return _answer([(prediction, item)], item.path, classifier, None), None


def _answer(
    members: list[Member], path: str, classifier: Classifier, refusal: str | None, of_series: tuple[str, ...] = ()
) -> SeriesAnswer:
    """Returns the answer for the slices of a series, ordered by position."""
    decision = classifier.bundle.decision
    files = tuple(dict.fromkeys(item.path for _, item in members))
    selected = select_slices([item.head_area or 0 for _, item in members])
    predictions = [prediction for prediction, _ in members]
    notes = tuple(dict.fromkeys([*(note for prediction in predictions for note in prediction.notes), *of_series]))
    if classifier.bundle.case == "series":
        answer = pooled_answer(classifier, [item for _, item in members], path, refusal)
        return replace(answer, files=files, notes=notes)
    if members and all(prediction.is_refused for prediction in predictions):
        reasons_of_all = distinct_reasons(predictions)
        return SeriesAnswer(path, abstain=True, reasons=reasons_of_all, certainty="no answer", files=files, notes=notes)
    if refusal is None and not any(predictions[i].probabilities is not None for i in selected):
        reasons = [text for i in selected for text in (predictions[i].error, *(predictions[i].reasons or ())) if text]
        refusal = reasons[0] if reasons else NO_HEAD
    if refusal is not None:
        return SeriesAnswer(path, error=_no_answer(len(members), refusal), files=files, notes=notes)
    result = aggregate_slices(predictions, decision, selected=selected)
    by_label = None if result.by_label is None else series_label_predictions(result.by_label, decision)
    certainty: Certainty | None = "no answer" if result.abstain else None
    if by_label is None:
        certainty = decision.certainty(list(result.probabilities.values()), result.abstain)
    return SeriesAnswer(
        path,
        label=result.label,
        probability=result.probability,
        probabilities=result.probabilities,
        abstain=result.abstain,
        reasons=None if result.abstain is None else result.reasons,
        threshold=decision.threshold,
        certainty=certainty,
        by_label=by_label,
        notes=notes,
        files=files,
        result=result,
    )


def _no_answer(slices: int, reason: str) -> str:
    return f"no answer for the series of {counted(slices, 'slice')}: {reason}"


def pooled_answer(classifier: Classifier, slices: Sequence[Slice], path: str, refusal: str | None = None) -> SeriesAnswer:
    """Returns the answer of a series model, without ``files`` and ``notes``.

    Args:
        classifier: The classifier.
        slices: All slices of the series, ordered by position, with outputs and head areas.
        path: Path of the series.
        refusal: Why the series cannot be classified; None if it can be.
    """
    if slices and all(item.refused is not None for item in slices):
        return _as_answer(classifier.refused_prediction(str(slices[0].refused), path))
    selected = select_slices([item.head_area or 0 for item in slices])
    outputs = {i: own for i in selected if (own := slices[i].outputs) is not None}
    if refusal is None and not outputs:
        refusal = next((error for i in selected if (error := slices[i].error) is not None), None) or NO_HEAD
    if refusal is not None:
        return SeriesAnswer(path, error=_no_answer(len(slices), refusal))
    pooled, weights = classifier.pool(stack_outputs(list(outputs.values())))
    first = slices[next(iter(outputs))]
    try:
        results = classifier.decide(pooled, stated=None if first.stated is None else [first.stated])
    except InputError as error:
        return SeriesAnswer(path, error=_no_answer(len(slices), str(error)))
    prediction = classifier.prediction(results, 0, path)
    if prediction.is_refused:
        return _as_answer(prediction)
    attention = dict(zip(outputs, map(float, weights), strict=True))
    return _as_answer(prediction, pooled_series(prediction, attention))


def _as_answer(prediction: Prediction, result: SeriesPrediction | None = None) -> SeriesAnswer:
    return SeriesAnswer(**vars(prediction), result=result)


@dataclass(frozen=True, eq=False)
class SeriesView:
    """A series with the answer of a series model.

    Attributes:
        slices: The slices that the model sees.
        pixels: (planes, S, S) uint8 of each, from ``Preprocess.pixels``.
        answer: The answer; positions in ``answer.result`` count in ``slices.planes``.
        stated: What its first file states, or the caller.
    """

    slices: SeriesSlices
    pixels: list[Pixels]
    answer: SeriesAnswer
    stated: Stated


def view_series(
    classifier: Classifier, series: SeriesSlices, path: str, batch_size: int = 32, sequence: str | None = None
) -> SeriesView:
    """Returns the answer of a series model, with the slices that it is based on.

    Args:
        classifier: The classifier.
        series: The slices, from ``read_series_slices``.
        path: Path of the series.
        batch_size: Number of slices per batch.
        sequence: The MR sequence of the series; None takes that of the classifier, or what the files state.

    Raises:
        InputError: If a slice cannot be preprocessed.
    """
    pixels = [classifier.bundle.preprocess.pixels(plane) for plane in series.planes]
    stated = stated_content(series.planes[0], sequence or classifier.sequence)
    refused = classifier.bundle.scope.refusal(stated)
    batches = [np.stack(pixels[i : i + batch_size]) for i in range(0, len(pixels), batch_size)]
    outputs = stack_outputs([classifier.outputs(batch) for batch in batches])
    items = [
        Slice(str(file), position, None, head_area=1, stated=stated, refused=refused, outputs=outputs.row(i))
        for i, (file, position) in enumerate(zip(series.files, series.positions, strict=True))
    ]
    answer = replace(pooled_answer(classifier, items, path), files=tuple(dict.fromkeys(map(str, series.files))))
    return SeriesView(series, pixels, replace(answer, notes=series.notes), stated)
