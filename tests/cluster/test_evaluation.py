"""Batches of an evaluation on a cluster; test_cache.py runs them on one."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reslink.cluster.evaluation import _Batches, _Network, _read_outputs, run_batches
from reslink.cluster.nodes import bundle_digest
from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.cache.sharded_rows import StoredRows
from reslink.datasets.manifest import Manifest
from reslink.errors import StorageError, UsageError
from reslink.inference.classifier import Classifier
from reslink.inference.outputs import stack_outputs


@pytest.fixture
def classifier(built_zoo: Path) -> Classifier:
    return Classifier.load(built_zoo / "ct", device="cpu", threads=1)


@pytest.fixture
def cache(classifier: Classifier, ring_heads: Path, tmp_path: Path) -> PixelCache:
    manifest = Manifest.open(ring_heads).subset(range(10))
    return PixelCache.open(manifest, classifier.bundle.preprocess, tmp_path / "cache", workers=0)


@pytest.fixture
def batches(classifier: Classifier, cache: PixelCache) -> _Batches:
    network = _Network(str(classifier.bundle.folder), bundle_digest(classifier.bundle), classifier.backend.name)
    return _Batches(network, StoredRows.of(cache.pixels, np.array([7, 1, 2, 3, 9])), 2, None)


def test_outputs_are_those_of_this_process(
    batches: _Batches, classifier: Classifier, cache: PixelCache, tmp_path: Path
) -> None:
    part, failed = run_batches(batches)
    (tmp_path / "part").write_bytes(part)
    outputs, expected = (
        _read_outputs(tmp_path / "part"),
        [classifier.outputs(cache.batch(rows)) for rows in ([7, 1], [2, 3], [9])],
    )
    assert (failed, outputs.statistics is None) == (0, not classifier.needs_statistics)
    for name, array in vars(stack_outputs(expected)).items():
        np.testing.assert_array_equal(getattr(outputs, name), array, strict=True)
    assert list(np.load(io.BytesIO(part))) == [name for name, array in vars(outputs).items() if array is not None]


def test_a_node_with_another_bundle_or_without_the_pixels_is_refused(batches: _Batches) -> None:
    other = replace(batches, network=replace(batches.network, bundle_digest="ab" * 32))
    with pytest.raises(UsageError, match=r"The bundle .* has other content on a node of the cluster\. All nodes need the same"):
        run_batches(other)
    gone = replace(batches, rows=replace(batches.rows, files=[Path("/gone/pixels.npy")]))
    with pytest.raises(
        UsageError, match=r"cannot read the decoded images in /gone/pixels\.npy: No such file .*Mount the storage"
    ):
        run_batches(gone)


def test_an_unreadable_part_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"The part .*1\.part could not be read: .*No such file"):
        _read_outputs(tmp_path / "1.part")
    (tmp_path / "1.part").write_bytes(b"cut short")
    with pytest.raises(StorageError, match=r"The part .*1\.part could not be read"):
        _read_outputs(tmp_path / "1.part")
