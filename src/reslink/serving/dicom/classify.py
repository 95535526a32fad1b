"""Classifies a head series with a bundle: slice predictions, maps and one prediction for the series. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from reslink.bundles.bundle import Bundle
from reslink.bundles.onnx_graph import CAM, FEATURES, LOGITS
from reslink.errors import InputError, UsageError, check_choice
from reslink.explain.onnx_maps import require_map_backend
from reslink.files import sha256
from reslink.imaging.image import Modality
from reslink.imaging.preprocess import Placement
from reslink.inference.backends import flip_averaged, load_backend
from reslink.inference.classifier import Classifier
from reslink.inference.outputs import Outputs, stack_outputs
from reslink.inference.prediction import Prediction
from reslink.inference.series import TOP_SLICES, SeriesPrediction, aggregate_slices, pooled_series
from reslink.serving.dicom.series import Series

MapName = Literal["auto", "first_attention", "final_attention", "cam"]
MAPS: Final[tuple[str, ...]] = get_args(MapName)
"""Names of maps. ``auto`` is the first available of final attention, first attention and class activation."""

RESULT_VERSION: Final = 4
"""Part of the settings digest. Increase it when the same settings give other results."""

_BATCH: Final = 8
_MODALITIES: Final[tuple[Modality, ...]] = ("CT", "MR")


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded bundle.

    Attributes:
        name: Name of the model in results.
        classifier: The bundle, run by ONNX Runtime.
        modality: The only modality that it classifies; None for both.
        map_name: The output of its ONNX model that is stored as a map; None without a map.
        top: Number of slices that the series prediction averages.
    """

    name: str
    classifier: Classifier
    modality: Modality | None
    map_name: str | None
    top: int = TOP_SLICES

    @property
    def weights(self) -> str:
        """SHA-256 of the weights."""
        return self.classifier.bundle.weights_sha256 or ""

    @cached_property
    def settings(self) -> str:
        """SHA-256 of everything except the weights that a result depends on."""
        bundle = self.classifier.bundle
        arrays = bundle.decision.arrays
        parts = {
            "version": RESULT_VERSION,
            "preprocess": bundle.preprocess.digest(),
            "labels": bundle.labels.names,
            "scope": bundle.scope.model_dump(mode="json"),
            "decision": bundle.decision.model_dump(mode="json"),
            "arrays": None if arrays is None else sha256(arrays.to_bytes()),
            "architecture": bundle.architecture,
            "map": self.map_name,
            "top": self.top,
        }
        return sha256(json.dumps(parts, sort_keys=True))

    def accepts(self, series: Series) -> bool:
        """Returns whether the model is for the modality, sequence and plane of a series."""
        stated = series.slices[0].stated
        return self.modality in (None, series.modality) and self.classifier.bundle.scope.refusal(stated) is None


@dataclass(frozen=True, eq=False)
class SeriesResult:
    """The predictions and maps of a model for a series.

    Attributes:
        model: The model.
        series: The series.
        slice_predictions: One prediction per selected slice, in order; empty for a series model.
        prediction: The prediction for the series.
        maps: (n, H, W) float32, the map of each selected slice on the pixels of ``series.slices``, 0 outside the network
            input; None without a map.
        field_of_view: (n, H, W) bool, the area of the network input; None without a map.
    """

    model: Model
    series: Series
    slice_predictions: tuple[Prediction, ...]
    prediction: SeriesPrediction
    maps: NDArray[np.float32] | None
    field_of_view: NDArray[np.bool_] | None


def load_model(text: str, map_name: str = "auto", top: int = TOP_SLICES, threads: int | None = None) -> Model:
    """Loads a bundle with its ONNX model.

    Args:
        text: A bundle folder or the name of a shipped bundle; the prefix ``CT=`` or ``MR=`` restricts it to one modality.
            Without a prefix, a bundle classifies its own modality.
        map_name: One of ``MAPS``.
        top: Number of slices that the series prediction averages, at least 1.
        threads: Threads of ONNX Runtime.

    Raises:
        BundleError: If it is not a bundle, or has no ``model.onnx``.
        UsageError: If the map does not exist, ``top`` is below 1, or onnxruntime is not installed.
    """
    prefix, equals, rest = text.partition("=")
    path = rest if equals and prefix.upper() in _MODALITIES else text
    bundle = Bundle.load(path)
    backend = require_map_backend(load_backend("onnxruntime", bundle, threads))
    modality = _modality(prefix) if path == rest else bundle.scope.modality
    if top < 1:
        raise UsageError(f"The number of slices is {top}", "At least one slice must be averaged", "Use --top 3")
    return Model(
        _model_name(bundle, path), Classifier(bundle, backend=backend), modality, _select_map(map_name, backend.names), top
    )


def _modality(text: str) -> Modality | None:
    return next((name for name in _MODALITIES if text.upper().startswith(name)), None)


def _model_name(bundle: Bundle, text: str) -> str:
    """Returns a name that reveals no path: the folder name, or the start of the checksum of the weights."""
    folder = Path(text).name if text not in ("", ".", "..") else ""
    return folder if folder and folder != "bundle" else f"bundle-{(bundle.weights_sha256 or '')[:8]}"


def _select_map(name: str, outputs: Sequence[str]) -> str | None:
    check_choice("map", name, MAPS)
    if name == "auto":
        return next((option for option in ("final_attention", "first_attention", CAM) if option in outputs), None)
    if name not in outputs:
        available = [option for option in MAPS if option in outputs]
        raise UsageError(f"The bundle has no map {name!r}", f"Its maps: {', '.join(available) or 'none'}", "Use --map auto")
    return name


def classify_series(model: Model, series: Series) -> SeriesResult:
    """Classifies the selected slices of a series and combines them; of an incomplete series, it abstains.

    The predictions of slices are aggregated; a series model pools its slices by attention.

    Args:
        model: A model that accepts the series.
        series: From :func:`reslink.serving.dicom.series.read_head_series`.

    Raises:
        InputError: If no slice could be classified.
    """
    batches: list[Outputs] = []
    maps: list[NDArray[np.float32]] = []
    placements: list[Placement] = []
    for start in range(0, len(series.selected), _BATCH):
        outputs, batch_maps, batch_placements = _run_batch(model, series, series.selected[start : start + _BATCH])
        batches.append(outputs)
        maps += batch_maps
        placements += batch_placements
    predictions, prediction = _answer(model, series, stack_outputs(batches))
    if series.incomplete:
        reason = f"the series is incomplete: {'; '.join(series.incomplete)}"
        prediction = prediction.abstaining(reason)
    if model.map_name is None:
        return SeriesResult(model, series, tuple(predictions), prediction, None, None)
    class_index = model.classifier.labels.names.index(prediction.score_class)
    channels = [heat[min(class_index, len(heat) - 1)] for heat in maps]
    on_slices = np.stack([placement.to_image(heat) for placement, heat in zip(placements, channels, strict=True)])
    field_of_view = np.stack([_field_of_view(placement) for placement in placements])
    return SeriesResult(model, series, tuple(predictions), prediction, on_slices, field_of_view)


def _answer(model: Model, series: Series, outputs: Outputs) -> tuple[list[Prediction], SeriesPrediction]:
    """Returns the predictions of the selected slices, and that of the series."""
    classifier = model.classifier
    stated = [series.slices[i].stated for i in series.selected]
    if classifier.bundle.case == "series":
        pooled, weights = classifier.pool(outputs)
        whole = classifier.prediction(classifier.decide(pooled, stated=stated[:1]), 0, series.key)
        if whole.probabilities is None:
            raise InputError("; ".join(whole.reasons or ()), f"The model is for {classifier.bundle.scope}", "Use another model")
        return [], pooled_series(whole, dict(enumerate(weights.tolist())), top=model.top)
    results = classifier.decide(outputs, stated=stated)
    predictions = [classifier.prediction(results, row, series.key, index) for row, index in enumerate(series.selected)]
    return predictions, aggregate_slices(predictions, classifier.bundle.decision, top=model.top)


def _run_batch(
    model: Model, series: Series, indices: Sequence[int]
) -> tuple[Outputs, list[NDArray[np.float32]], list[Placement]]:
    """Returns outputs, map (channels, h, w) and placement of some slices."""
    classifier = model.classifier
    preprocess, images = classifier.bundle.preprocess, [series.slices[i] for i in indices]
    pixels = np.stack([preprocess.pixels(image) for image in images])
    outputs = [LOGITS, FEATURES, *([model.map_name] if model.map_name else [])]
    logits, features, *maps = require_map_backend(classifier.backend).run(pixels, outputs)
    logits = flip_averaged(classifier.bundle.decision, classifier.backend, pixels, logits)
    measured = classifier.measure(pixels) if classifier.needs_statistics else (None, None)
    placements = [preprocess.placement(image) for image in images]
    return Outputs(logits, features, *measured), list(maps[0]) if maps else [], placements


def _field_of_view(placement: Placement) -> NDArray[np.bool_]:
    return placement.to_image(np.ones((1, 1), np.float32)) > 0.5
