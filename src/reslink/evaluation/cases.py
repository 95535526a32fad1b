"""The cases of a data set on their way through a network."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.manifest import Manifest
from reslink.errors import InputError, StorageError, UsageError, nearest
from reslink.inference.classifier import Classifier, Outputs
from reslink.labels import Labels

NOT_FINITE = "The network gave a value that is not finite. Use another bundle."


def chosen_cases(manifest: Manifest, labels: Labels, split: str | None) -> Manifest:
    """Returns the cases of a split, after a look at their labels.

    Raises:
        UsageError: If a label is unknown to the bundle, or no case is in the split.
    """
    for name in dict.fromkeys(case.label for case in manifest.cases):
        labels.index(name)  # raises with the nearest name
    if split is None:
        return manifest
    sides = [case.split for case in manifest.cases]
    if split not in sides:
        known = sorted({side for side in sides if side})
        raise UsageError(
            f"No case is in the split {split!r}",
            f"The data set states the splits {', '.join(known)}" if known else "The data set states no split",
            nearest(split, known) if known else "Leave --split out, or add a column 'split' to the manifest",
        )
    return manifest.subset(i for i, side in enumerate(sides) if side == split)


@contextlib.contextmanager
def decoded_in(out: Path, given: Path | None) -> Iterator[Path]:
    """Gives the folder of decoded images: the one given, or a hidden one inside ``out`` that is gone afterwards.

    Raises:
        StorageError: If ``out`` cannot be written to.
    """
    if given is not None:
        yield given
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        holder = tempfile.TemporaryDirectory(dir=out, prefix=".cache-")
    except OSError as error:
        raise StorageError(
            f"{out} cannot be written to: {error.strerror or error}",
            "--out names a folder that reslink may write to",
            "Choose another folder",
        ) from error
    with holder as name:
        yield Path(name)


def run_network(
    classifier: Classifier, cache: PixelCache, rows: NDArray[np.int64], batch_size: int, *, statistics: bool | None = None
) -> tuple[NDArray[np.int64], Outputs, dict[str, str]]:
    """Runs the network over some rows of a cache.

    Args:
        classifier: The network.
        cache: The decoded cases.
        rows: Which of them, at least one.
        batch_size: Images that the network sees at a time.
        statistics: Whether to take the input statistics; if not given, only for a bundle with a gate.

    Returns:
        The rows for which all values are finite, their outputs, and a message for each other case by its name.

    Raises:
        InputError: If the network gives no finite value for any case.
    """
    parts = [classifier.outputs(cache.batch(batch), statistics) for batch in cache.batches(rows, batch_size)]
    logits = np.concatenate([part.logits for part in parts])
    features = np.concatenate([part.features for part in parts])
    seen = [part.statistics for part in parts if part.statistics is not None]
    finite = np.isfinite(logits).all(axis=1) & np.isfinite(features).all(axis=1)
    if not finite.any():
        raise InputError(
            f"The network gave no finite value for any of {len(rows)} images",
            "A bundle gives finite logits",
            "Use another bundle, or train again",
        )
    found = Outputs(logits[finite], features[finite], np.concatenate(seen)[finite] if seen else None)
    return rows[finite], found, {cache.manifest.cases[row].name: NOT_FINITE for row in rows[~finite]}
