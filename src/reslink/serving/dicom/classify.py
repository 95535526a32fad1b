"""What a bundle says about a series: a prediction and a map a slice, and one answer; no torch."""

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
from reslink.bundles.pretrained import shipping_of
from reslink.errors import UsageError, nearest
from reslink.explain.graph_maps import check_backend
from reslink.files import sha256
from reslink.imaging.image import Modality
from reslink.imaging.preprocess import Placement
from reslink.inference.backends import load_backend
from reslink.inference.classifier import Classifier, Outputs, Prediction
from reslink.inference.series import TOP, StudyAnswer, study_answer
from reslink.serving.dicom.series import Series

MapName = Literal["auto", "first_attention", "final_attention", "cam"]
MAPS: Final[tuple[str, ...]] = get_args(MapName)
"""Maps that can be asked for; ``auto`` is the first of final attention, first attention and class activation that is there."""

VERSION: Final = 1
"""Part of the digest of the settings: counts up when the same settings begin to give other results."""

_BATCH: Final = 8
_MODALITIES: Final[tuple[Modality, ...]] = ("CT", "MR")


@dataclass(frozen=True, eq=False)
class Model:
    """A bundle, ready to answer.

    Attributes:
        name: What results call it.
        classifier: The bundle, run by ONNX Runtime.
        modality: The only modality that it is asked about; None where it is asked about both.
        map_name: The output of its graph that is shown as a map; None where the graph has none.
        top: Slices that make an answer.
    """

    name: str
    classifier: Classifier
    modality: Modality | None
    map_name: str | None
    top: int = TOP

    @property
    def weights(self) -> str:
        """The SHA-256 of the weights."""
        return self.classifier.bundle.weights_sha256 or ""

    @cached_property
    def settings(self) -> str:
        """The SHA-256 of all but the weights that an answer depends on."""
        bundle = self.classifier.bundle
        arrays = bundle.decision.arrays
        parts = {
            "version": VERSION,
            "preprocess": bundle.preprocess.digest(),
            "labels": bundle.labels.names,
            "decision": bundle.decision.model_dump(mode="json"),
            "arrays": None if arrays is None else sha256(arrays.to_bytes()),
            "architecture": bundle.architecture,
            "map": self.map_name,
            "top": self.top,
        }
        return sha256(json.dumps(parts, sort_keys=True))

    def takes(self, series: Series) -> bool:
        """Whether it is asked about such a series."""
        return self.modality in (None, series.modality)


@dataclass(frozen=True, eq=False)
class Answer:
    """What a model says about a series.

    Attributes:
        model: Who says so.
        series: About what.
        predictions: One for each chosen slice, in order.
        study: The answer for the series.
        maps: (n, H, W) float32, the map of each chosen slice on its own pixels, 0 where the network saw nothing; None where
            the model has no map.
        seen: (n, H, W) booleans, where the network saw something; None as above.
    """

    model: Model
    series: Series
    predictions: tuple[Prediction, ...]
    study: StudyAnswer
    maps: NDArray[np.float32] | None
    seen: NDArray[np.bool_] | None


def load_model(text: str, map_name: str = "auto", top: int = TOP, threads: int | None = None) -> Model:
    """Loads a bundle with its ONNX graph.

    Args:
        text: A bundle folder or the name of a shipped one; ``CT=`` or ``MR=`` before it says for which series it is. Without
            that a shipped bundle takes the modality that it was made for, another one takes both.
        map_name: One of ``MAPS``.
        top: Slices that make an answer, at least 1.
        threads: Of ONNX Runtime.

    Raises:
        BundleError: If it is no bundle, or has no ``model.onnx``.
        UsageError: If there is no such map or modality, or onnxruntime is not installed.
    """
    stated, equals, rest = text.partition("=")
    path = rest if equals and stated.upper() in _MODALITIES else text
    bundle = Bundle.load(path)
    backend = check_backend(load_backend("onnxruntime", bundle, threads))
    story = shipping_of(bundle.provenance)
    modality = _modality(stated if path == rest else (story.modality if story else ""))
    if top < 1:
        raise UsageError(f"The answer of {top} slices was asked for", "At least one slice makes an answer", "Use 3")
    return Model(_name(bundle, path), Classifier(bundle, backend=backend), modality, _map(map_name, backend.names), top)


def _modality(text: str) -> Modality | None:
    return next((name for name in _MODALITIES if text.upper().startswith(name)), None)


def _name(bundle: Bundle, text: str) -> str:
    """Returns a name that tells of no place: the shipped one, the folder's own, or the start of the weights' checksum."""
    folder = Path(text).name if text not in ("", ".", "..") else ""
    return folder if folder and folder != "bundle" else f"bundle-{(bundle.weights_sha256 or '')[:8]}"


def _map(wanted: str, names: Sequence[str]) -> str | None:
    if wanted not in MAPS:
        raise UsageError(f"There is no map {wanted!r}", f"The maps are {', '.join(MAPS)}", nearest(wanted, MAPS))
    if wanted == "auto":
        return next((name for name in ("final_attention", "first_attention", CAM) if name in names), None)
    if wanted not in names:
        there = [name for name in MAPS if name in names]
        raise UsageError(f"The bundle has no map {wanted!r}", f"Its maps are {', '.join(there) or 'none'}", "Use --map auto")
    return wanted


def answer(model: Model, series: Series) -> Answer:
    """Classifies the chosen slices of a series and puts them together.

    Args:
        model: A bundle that takes such series.
        series: From :func:`reslink.serving.dicom.series.read_head`.

    Raises:
        InputError: If no slice could be judged.
    """
    predictions: list[Prediction] = []
    maps: list[NDArray[np.float32]] = []
    places: list[Placement] = []
    for start in range(0, len(series.chosen), _BATCH):
        some, heats, where = _batch(model, series, series.chosen[start : start + _BATCH])
        predictions += some
        maps += heats
        places += where
    study = study_answer(predictions, model.classifier.bundle.decision, top=model.top)
    if model.map_name is None:
        return Answer(model, series, tuple(predictions), study, None, None)
    about = model.classifier.labels.names.index(study.about)
    chosen = [heat[min(about, len(heat) - 1)] for heat in maps]
    shown = np.stack([place.to_image(heat) for place, heat in zip(places, chosen, strict=True)])
    return Answer(model, series, tuple(predictions), study, shown, np.stack([_seen(place) for place in places]))


def _batch(
    model: Model, series: Series, indices: Sequence[int]
) -> tuple[list[Prediction], list[NDArray[np.float32]], list[Placement]]:
    """Returns prediction, map (channels, h, w) and place of some slices."""
    classifier = model.classifier
    preprocess, images = classifier.bundle.preprocess, [series.slices[i] for i in indices]
    pixels = np.stack([preprocess.pixels(image) for image in images])
    wanted = [LOGITS, FEATURES, *([model.map_name] if model.map_name else [])]
    logits, features, *maps = check_backend(classifier.backend).run(pixels, wanted)
    verdicts = classifier.decide(Outputs(logits, features, None), pixels)
    predictions = [classifier.prediction(verdicts, row, series.key, index) for row, index in enumerate(indices)]
    return predictions, list(maps[0]) if maps else [], [preprocess.place(image) for image in images]


def _seen(place: Placement) -> NDArray[np.bool_]:
    seen = np.zeros(place.shape, np.bool_)
    place.cut(seen)[...] = True
    return seen
