"""The answers of a classifier to corrupted copies of images, case by case, with the next cases prepared meanwhile."""

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
from reslink.datasets.corruptions import SEVERITIES, Original, corrupt
from reslink.datasets.manifest import Case
from reslink.errors import ReslinkError
from reslink.experiments.robustness.prediction_store import Answer, KeptAnswers
from reslink.imaging.preprocess import Preprocess
from reslink.imaging.reading import read_image
from reslink.inference.classifier import Classifier
from reslink.training.monitoring.progress import Progress

Floats: TypeAlias = NDArray[np.float64]
Pixels: TypeAlias = NDArray[np.uint8]

_WORKERS = 2
_AHEAD = 4


@dataclass(frozen=True)
class CorruptedAnswers:
    """What the network gave for the cases that could be judged.

    Attributes:
        rows: (n,) their rows in the cache.
        logits: (n, conditions, K): the image as it is, then each kind at severities 1 to 5.
        abstained: (n, conditions) whether it would rather not answer; None where the bundle has nothing to abstain by.
        failed: Why a case was left out, by its name.
    """

    rows: NDArray[np.int64]
    logits: Floats
    abstained: NDArray[np.bool_] | None
    failed: dict[str, str]


def conditions(kinds: Sequence[str]) -> list[tuple[str, int]]:
    """Returns kind and severity of each condition after the first, which is the image as it is."""
    return [(kind, severity) for kind in kinds for severity in SEVERITIES]


def copies(case: Case, preprocess: Preprocess, kinds: Sequence[str], seed: int) -> Pixels:
    """Returns the image as it is and its corrupted copies, preprocessed.

    Args:
        case: The case; one slice.
        preprocess: What is done to each copy, as to any image.
        kinds: Names of corruptions.
        seed: Seed of the corruptions.

    Returns:
        (conditions, planes, S, S) uint8.

    Raises:
        InputError: If the file cannot be read or holds nothing that can be corrupted.
    """
    original = Original(read_image(case.path).slices()[0], case.name, seed)
    corrupted = (preprocess.pixels(corrupt(original, kind, severity)) for kind, severity in conditions(kinds))
    return np.stack([preprocess.pixels(original.image), *corrupted])


def corrupted_answers(
    classifier: Classifier,
    cache: PixelCache,
    wanted: Sequence[int],
    kept: KeptAnswers,
    kinds: Sequence[str],
    seed: int,
    progress: Progress,
) -> CorruptedAnswers:
    """Judges cases of a cache with all their corrupted copies; goes on after a case that cannot be judged.

    Args:
        classifier: The classifier.
        cache: Where the cases are.
        wanted: Their rows.
        kept: Answers that stand there already are not computed again; new ones are kept.
        kinds: Names of corruptions.
        seed: Seed of the corruptions.
        progress: Hears how far it is.
    """
    rows: list[int] = []
    answers: list[Answer] = []
    failed = dict(cache.failed)
    progress.start(len(wanted), "Judging corrupted copies")
    try:
        for row, found in _each(classifier, cache, wanted, kept, kinds, seed):
            if isinstance(found, str):
                failed[cache.manifest.cases[row].name] = found
            else:
                rows.append(row)
                answers.append(found)
            progress.step()
    finally:
        progress.end()
    flags = [answer.abstained for answer in answers if answer.abstained is not None]
    logits = np.array([answer.logits for answer in answers], np.float64)
    return CorruptedAnswers(np.array(rows, np.int64), logits, np.array(flags) if flags else None, failed)


def _each(
    classifier: Classifier, cache: PixelCache, wanted: Sequence[int], kept: KeptAnswers, kinds: Sequence[str], seed: int
) -> Iterator[tuple[int, Answer | str]]:
    """Yields the row of each case and its answers, or why it has none."""
    preprocess = classifier.bundle.preprocess
    keys = {row: f"{cache.hashes[row]} {cache.manifest.cases[row].name}" for row in wanted}  # a copy has another name
    known = {row: kept.get(key) for row, key in keys.items()}
    todo = [row for row, found in known.items() if found is None]
    jobs = ((cache.manifest.cases[row], preprocess, kinds, seed) for row in todo)
    with ThreadPoolExecutor(_WORKERS) as pool:
        waiting: deque[Future[Pixels | str]] = deque(pool.submit(_prepared, *job) for job in itertools.islice(jobs, _AHEAD))
        for row, found in known.items():
            if found is not None:
                yield row, found
                continue
            pixels = waiting.popleft().result()
            waiting.extend(pool.submit(_prepared, *job) for job in itertools.islice(jobs, 1))
            yield row, _answered(classifier, pixels, kept, keys[row])


def _prepared(case: Case, preprocess: Preprocess, kinds: Sequence[str], seed: int) -> Pixels | str:
    try:
        return copies(case, preprocess, kinds, seed)
    except ReslinkError as error:
        return str(error).replace(str(case.path), case.name)  # no absolute path goes into results


def _answered(classifier: Classifier, pixels: Pixels | str, kept: KeptAnswers, key: str) -> Answer | str:
    if isinstance(pixels, str):
        return pixels
    outputs = classifier.outputs(pixels)
    logits = outputs.logits.astype(np.float64)
    if not np.isfinite(logits).all():
        return "The network gave a value that is not finite. Use another bundle."
    verdicts = classifier.bundle.decision.judge(logits, outputs.features, outputs.statistics)
    answer = Answer(logits, verdicts.abstain)
    kept.put(key, answer)
    return answer
