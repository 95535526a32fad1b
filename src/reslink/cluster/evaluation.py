"""Evaluations on a cluster: tasks decode the images and run the network, in the batches of a single process."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reslink import __version__
from reslink.bundles.bundle import Bundle
from reslink.cluster.cache import fill_cache
from reslink.cluster.connection import connect, parse_address
from reslink.cluster.nodes import bundle_digest, load_classifier
from reslink.cluster.shards import Shard, kept_parts, run_shards
from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.cache.sharded_rows import StoredRows
from reslink.datasets.manifest import Manifest
from reslink.errors import StorageError, UsageError
from reslink.evaluation.evaluate import EvaluationOptions, evaluate_bundle
from reslink.files import lock_folder, sha256
from reslink.imaging.preprocess import Preprocess
from reslink.inference.classifier import Classifier
from reslink.inference.outputs import Outputs, stack_outputs
from reslink.labels import CaseKind
from reslink.training.monitoring.progress import Progress

TASK_ROWS: Final = 2000
"""Number of rows of a task, rounded down to whole batches."""


def evaluate_on_cluster(
    name: str | Path,
    bundle: Bundle,
    manifest: Manifest,
    out: Path,
    options: EvaluationOptions,
    *,
    cluster: str,
    progress: Progress,
) -> dict[str, Any]:
    """Evaluates a bundle, and writes what a single process with one thread would write.

    Args:
        name: Name or folder of the bundle, for the nodes.
        bundle: The bundle.
        manifest: The cases.
        out: The output folder, on storage that all nodes share. Its folder ``.parts`` holds decoded images and outputs of the
            network until the end; after an interruption it stays, and the same call resumes.
        options: The options; device and cluster are set here, and the cache folder if it is None.
        cluster: As for :func:`parse_address`.
        progress: Receives the progress of the tasks.

    Returns:
        As :func:`evaluate_bundle`.

    Raises:
        UsageError: If the cluster cannot be used, or another process works in the folder.
        InputError: If a task died again and again.
        ReslinkError: As for :func:`evaluate_bundle`.
    """
    parts = out / ".parts"
    with connect(parse_address(cluster)), lock_folder(parts):
        work = ClusterEvaluation(str(name), bundle_digest(bundle), parts / "outputs", progress)
        options = replace(options, device="cpu", cache_folder=options.cache_folder or parts / "cache", cluster=work)
        result = evaluate_bundle(bundle, manifest, out, options)
        shutil.rmtree(parts)
    return result


@dataclass(frozen=True)
class _Network:
    """The network of a task.

    Attributes:
        bundle: Name or folder of the bundle.
        bundle_digest: From :func:`bundle_digest`.
        backend: The name of a backend.
    """

    bundle: str
    bundle_digest: str
    backend: str


@dataclass(frozen=True)
class _Batches:
    """The batches of a task: rows of the pixel cache, by place."""

    network: _Network
    rows: StoredRows
    batch_size: int
    statistics: bool | None


@dataclass(frozen=True)
class ClusterEvaluation:
    """Decodes images and runs the network on the connected cluster, see :class:`reslink.evaluation.cases.EvaluationCluster`.

    Attributes:
        bundle: Name or folder of the bundle, for the nodes.
        bundle_digest: From :func:`bundle_digest`.
        folder: The folder for the outputs of the tasks, on storage that all nodes share.
        progress: Receives the progress of the tasks.
    """

    bundle: str
    bundle_digest: str
    folder: Path
    progress: Progress

    def fill_cache(self, manifest: Manifest, preprocess: Preprocess, folder: Path, case: CaseKind) -> None:
        """Fills the cache of a data set; see :func:`reslink.cluster.cache.fill_cache`."""
        fill_cache(manifest, preprocess, folder, case, self.progress)

    def run_rows(
        self, classifier: Classifier, cache: PixelCache, rows: NDArray[np.int64], batch_size: int, statistics: bool | None
    ) -> Outputs:
        """Returns the outputs of some rows, in the batches of a single process.

        Raises:
            UsageError: If a node has another bundle or no pixels.
            InputError: If a task died again and again.
            StorageError: If outputs cannot be read.
        """
        network = _Network(self.bundle, self.bundle_digest, classifier.backend.name)
        size = batch_size * max(1, TASK_ROWS // batch_size)
        shards = [
            _shard(_Batches(network, StoredRows.of(cache.pixels, part), batch_size, statistics), cache, part)
            for part in cache.batches(rows, size)
        ]
        self.folder.mkdir(parents=True, exist_ok=True)
        with kept_parts(shards, self.folder, self.progress):
            run_shards(shards, run_batches, self.folder, self.progress, "Running the network", "image")
        return stack_outputs([_read_outputs(shard.path(self.folder)) for shard in shards])


def _shard(batches: _Batches, cache: PixelCache, rows: NDArray[np.int64]) -> Shard:
    stored, hashes = batches.rows, [cache.hashes[row] for row in rows]
    places = [list(map(str, stored.files)), stored.shard_of_row.tolist(), stored.row_in_shard.tolist()]
    digest = sha256(json.dumps([__version__, asdict(batches.network), batches.batch_size, batches.statistics, places, hashes]))
    return Shard(digest, len(rows), cache.manifest.cases[rows[0]].name, batches)


def run_batches(work: _Batches) -> tuple[bytes, int]:
    """Runs on a node: runs the network on some batches.

    Returns:
        The outputs as the bytes of an ``.npz`` file, and 0 failures.

    Raises:
        UsageError: If this machine has another bundle, or none of the pixels.
    """
    classifier = load_classifier(work.network.bundle, work.network.bundle_digest, work.network.backend)
    outputs = stack_outputs([classifier.outputs(pixels, work.statistics) for pixels in _pixels(work)])
    stream = io.BytesIO()
    np.savez(stream, **{name: array for name, array in vars(outputs).items() if array is not None})
    return stream.getvalue(), 0


def _pixels(work: _Batches) -> Iterator[NDArray[np.uint8]]:
    try:
        rows = work.rows.open()
    except OSError as error:
        raise UsageError(
            f"A node of the cluster cannot read the decoded images in {work.rows.files[0]}: {error.strerror or error}",
            "The output folder must be on storage that all nodes share under the same path",
            "Mount the storage on every node, and run the command there",
        ) from error
    return (rows[start : start + work.batch_size] for start in range(0, len(rows), work.batch_size))


def _read_outputs(path: Path) -> Outputs:
    try:
        with np.load(path) as arrays:
            return Outputs(**{"statistics": None, **arrays})
    except (OSError, ValueError) as error:
        raise StorageError(
            f"The part {path} could not be read: {error}",
            "Tasks write the outputs of the network to a folder on shared storage",
            "Check the storage, then run the same command again",
        ) from error
