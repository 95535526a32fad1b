"""Predictions of a classifier for corrupted versions of images, case by case, with the next cases prepared in threads."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.case import Case
from reslink.datasets.corruptions import SEVERITIES, Original, corrupt
from reslink.errors import ReslinkError
from reslink.experiments.robustness.prediction_store import CasePrediction, PredictionStore
from reslink.imaging.image import Stated
from reslink.imaging.preprocess import Preprocess
from reslink.imaging.reading import read_image
from reslink.inference.classifier import Classifier
from reslink.training.monitoring.progress import Progress, phase

Floats: TypeAlias = NDArray[np.float64]
Pixels: TypeAlias = NDArray[np.uint8]

_WORKERS = 2
_PREFETCH = 4


@dataclass(frozen=True)
class Corruptions:
    """The corruptions of an experiment.

    Attributes:
        kinds: Names of corruptions.
        seed: Seed of their random numbers.
    """

    kinds: tuple[str, ...]
    seed: int

    @property
    def levels(self) -> list[tuple[str, int]]:
        """Kind and severity of each corrupted version."""
        return [(kind, severity) for kind in self.kinds for severity in SEVERITIES]


@dataclass(frozen=True)
class CorruptedPredictions:
    """The predictions for the original and the corrupted versions of each case.

    Attributes:
        rows: (n,) rows of the cases in the cache.
        logits: (n, versions, K): the original image, then each kind at severities 1 to 5.
        abstained: (n, versions) whether the model abstains; None if the bundle has no abstention.
        failed: The reason of each failure by case name.
    """

    rows: NDArray[np.int64]
    logits: Floats
    abstained: NDArray[np.bool_] | None
    failed: dict[str, str]


def corrupted_versions(case: Case, preprocess: Preprocess, corruptions: Corruptions) -> Pixels:
    """Returns the original image and its corrupted versions, preprocessed.

    Args:
        case: The case; one slice.
        preprocess: The preprocessing of each version.
        corruptions: The corruptions.

    Returns:
        (versions, planes, S, S) uint8.

    Raises:
        InputError: If the file cannot be read or its image cannot be corrupted.
    """
    original = Original(read_image(case.path, case.unit).slices()[0], case.name, corruptions.seed)
    corrupted = (preprocess.pixels(corrupt(original, kind, severity)) for kind, severity in corruptions.levels)
    return np.stack([preprocess.pixels(original.image), *corrupted])


def predict_corrupted(
    classifier: Classifier, cache: PixelCache, store: PredictionStore, corruptions: Corruptions, progress: Progress
) -> CorruptedPredictions:
    """Predicts all versions of all cases of a cache; failing cases are reported and the others continue.

    Args:
        classifier: The classifier.
        cache: The cases.
        store: Stored predictions are not computed again; new ones are added.
        corruptions: The corruptions.
        progress: Receives the progress.
    """
    rows: list[int] = []
    predictions: list[CasePrediction] = []
    failed = dict(cache.failed)
    with phase(progress, len(cache), "Evaluating corrupted images", "image"):
        for row, prediction in _predict_cases(classifier, cache, store, corruptions):
            if isinstance(prediction, str):
                failed[cache.manifest.cases[row].name] = prediction
            else:
                rows.append(row)
                predictions.append(prediction)
            progress.step()
    abstained = _abstained(predictions)
    logits = np.array([prediction.logits for prediction in predictions], np.float64)
    return CorruptedPredictions(np.array(rows, np.int64), logits, abstained, failed)


def _abstained(predictions: Sequence[CasePrediction]) -> NDArray[np.bool_] | None:
    """Returns (n, versions) whether the model abstains or refuses; None if it never can."""
    if all(prediction.abstained is None for prediction in predictions):
        return None
    rows = [np.zeros(len(one.logits), np.bool_) if one.abstained is None else one.abstained for one in predictions]
    return np.array(rows)


def _predict_cases(
    classifier: Classifier, cache: PixelCache, store: PredictionStore, corruptions: Corruptions
) -> Iterator[tuple[int, CasePrediction | str]]:
    """Yields the row of each case with its predictions, or with the reason of a failure."""
    preprocess = classifier.bundle.preprocess
    # a duplicate file has another name, and so another seed
    keys = {row: f"{cache.hashes[row]} {cache.manifest.cases[row].name}" for row in range(len(cache))}
    stored = {row: store.get(key) for row, key in keys.items()}
    missing = [row for row, prediction in stored.items() if prediction is None]
    jobs = ((cache.manifest.cases[row], preprocess, corruptions) for row in missing)
    with ThreadPoolExecutor(_WORKERS) as pool:
        queue: deque[Future[Pixels | str]] = deque(pool.submit(_prepare, *job) for job in itertools.islice(jobs, _PREFETCH))
        for row, prediction in stored.items():
            if prediction is not None:
                yield row, prediction
                continue
            pixels = queue.popleft().result()
            queue.extend(pool.submit(_prepare, *job) for job in itertools.islice(jobs, 1))
            yield row, _predict(classifier, pixels, cache.stated[row], store, keys[row])


def _prepare(case: Case, preprocess: Preprocess, corruptions: Corruptions) -> Pixels | str:
    try:
        return corrupted_versions(case, preprocess, corruptions)
    except ReslinkError as error:
        return str(error).replace(str(case.path), case.name)  # results contain no absolute paths


def _predict(
    classifier: Classifier, pixels: Pixels | str, stated: Stated, store: PredictionStore, key: str
) -> CasePrediction | str:
    if isinstance(pixels, str):
        return pixels
    outputs = classifier.outputs(pixels)
    logits = outputs.logits.astype(np.float64)
    if not np.isfinite(logits).all():
        return "The network returned a non-finite value. Use another bundle."
    results = classifier.decide(outputs, stated=[stated] * len(logits))
    if results.refusals[0] is not None:  # the original image
        return f"The image is refused: {results.refusals[0]}"
    prediction = CasePrediction(logits, results.abstain)
    store.put(key, prediction)
    return prediction
