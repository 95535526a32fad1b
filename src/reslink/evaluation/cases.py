"""Runs a network over the cases of a data set: options, selection, cache, predictions."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from reslink.bundles.decision.decision import DecisionResults
from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.manifest import Manifest
from reslink.errors import InputError, UsageError, suggest, write_failed
from reslink.imaging.preprocess import Preprocess
from reslink.inference.classifier import Classifier
from reslink.inference.outputs import Outputs, stack_outputs
from reslink.labels import CaseKind, Labels

NOT_FINITE = "The network returned NaN or infinity. Use another bundle."


class EvaluationCluster(Protocol):
    """Computers that decode images and run the network for this process."""

    def fill_cache(self, manifest: Manifest, preprocess: Preprocess, folder: Path, case: CaseKind) -> None:
        """Fills the cache of a data set, so that ``PixelCache.open`` decodes nothing."""

    def run_rows(
        self, classifier: Classifier, cache: PixelCache, rows: NDArray[np.int64], batch_size: int, statistics: bool | None
    ) -> Outputs:
        """Returns the outputs of some rows, in the batches of a single process; arguments as for :func:`run_network`."""


@dataclass(frozen=True)
class RunOptions:
    """How a bundle is run on a data set.

    Attributes:
        split: Use only the cases of this split (``train``, ``validation`` or ``test``); None uses all cases.
        device: See :func:`reslink.inference.devices.pick_device`.
        batch_size: Number of images per batch.
        cache_folder: Folder of decoded images; None uses a temporary folder.
        allow_leakage: Also use cases that overlap with the training data; the results are marked.
        leaked_cases: Why a case overlaps with the training data, by case name, if this is known from the split. None searches
            for overlap with the fingerprints of the bundle.
        previous_logits: (K,) logits of each case before the network was adapted, by case name; :func:`calibrate_bundle
            <reslink.evaluation.calibrate.calibrate_bundle>` compares with them. None if it was not adapted.
        cluster: Decodes the images and runs the network of an evaluation; None for this process.
    """

    split: str | None = None
    device: str = "auto"
    batch_size: int = 32
    cache_folder: Path | None = None
    allow_leakage: bool = False
    leaked_cases: Mapping[str, str] | None = None
    previous_logits: Mapping[str, NDArray[np.float32]] | None = None
    cluster: EvaluationCluster | None = None


def select_cases(manifest: Manifest, labels: Labels, split: str | None) -> Manifest:
    """Checks the labels of a data set and returns the cases of one split.

    Args:
        manifest: The data set.
        labels: The classes of the bundle.
        split: The split; None for all cases.

    Raises:
        UsageError: If the bundle does not know a label, or no case is in the split.
    """
    if labels.exclusive:
        for name in dict.fromkeys(case.label for case in manifest.cases):
            labels.index(name)  # raises with the nearest name
    elif manifest.labels != labels:
        raise UsageError(
            f"The data was opened with the classes {', '.join(manifest.labels.names)}",
            f"The model has several labels at once: {', '.join(labels.names)}",
            "Give the table with these columns; the labels of the model are read from it",
        )
    if split is None:
        return manifest
    splits = [case.split for case in manifest.cases]
    if split not in splits:
        available = sorted({name for name in splits if name})
        raise UsageError(
            f"No case is in the split {split!r}",
            f"The splits of the data set are {', '.join(available)}" if available else "The data set has no 'split' column",
            suggest(split, available) if available else "Omit --split, or add a 'split' column to the manifest",
        )
    return manifest.subset(i for i, name in enumerate(splits) if name == split)


@contextlib.contextmanager
def pixel_cache_folder(out: Path, cache_folder: Path | None) -> Iterator[Path]:
    """Yields ``cache_folder``, or without one a hidden folder inside ``out`` that is deleted at the end.

    Raises:
        StorageError: If ``out`` cannot be written to.
    """
    if cache_folder is not None:
        yield cache_folder
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(dir=out, prefix=".cache-")
    except OSError as error:
        raise write_failed(out, error) from error
    with temporary as name:
        yield Path(name)


def run_network(
    classifier: Classifier,
    cache: PixelCache,
    cases: NDArray[np.int64],
    batch_size: int,
    *,
    statistics: bool | None = None,
    cluster: EvaluationCluster | None = None,
) -> tuple[NDArray[np.int64], Outputs, dict[str, str]]:
    """Runs the network on some cases of a cache; the slices of a series are pooled.

    Args:
        classifier: The network.
        cache: The decoded cases.
        cases: Indices of the cases, at least one.
        batch_size: Number of images per batch.
        statistics: Whether to compute the input statistics; None computes them for a bundle with an out-of-distribution
            detector.
        cluster: Runs the network; None for this process, in which the slices of series always run.

    Returns:
        The cases with finite outputs, their outputs, and an error message for each other case by name.

    Raises:
        InputError: If no case has finite outputs.
    """

    def run(rows: NDArray[np.int64]) -> Outputs:
        batches = (np.asarray(cache.pixels[part]) for part in cache.batches(rows, batch_size))
        return stack_outputs([classifier.outputs(pixels, statistics) for pixels in batches])

    if cache.is_series:
        outputs = stack_outputs([classifier.pool(run(cache.rows(case)))[0] for case in cases.tolist()])
    else:
        outputs = run(cases) if cluster is None else cluster.run_rows(classifier, cache, cases, batch_size, statistics)
    finite = np.asarray(np.isfinite(np.hstack([outputs.logits, outputs.features])).all(axis=1))
    if not finite.any():
        raise InputError(
            f"The network returned NaN or infinity for all {len(cases)} cases",
            "The logits of a usable bundle are finite",
            "Use another bundle, or train again",
        )
    return cases[finite], outputs.subset(finite), {cache.manifest.cases[i].name: NOT_FINITE for i in cases[~finite]}


def refused_cases(classifier: Classifier, results: DecisionResults, manifest: Manifest) -> dict[str, str]:
    """Returns why cases are outside the scope of the bundle, by case name; such a case has no prediction.

    Args:
        classifier: The classifier.
        results: The result of ``classifier.decide`` for the cases.
        manifest: The cases.

    Raises:
        InputError: If every case is refused.
    """
    refused = {case.name: text for case, text in zip(manifest.cases, results.refusals, strict=True) if text is not None}
    if len(refused) == len(manifest):
        raise InputError(
            f"All {len(refused)} images are refused; the first: {next(iter(refused.values()))}",
            f"The model is for {classifier.bundle.scope}",
            "Use a model for these images, or state their unit if it was read wrongly",
        )
    return refused
