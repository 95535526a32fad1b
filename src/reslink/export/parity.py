"""The parity check of exports: compares the outputs of the package and of an export on the same images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from reslink.bundles.onnx_graph import CAM, FEATURES, LOGITS, PIXELS
from reslink.datasets.phantom.cohort import render_patient, render_slice
from reslink.errors import CheckFailedError, InputError, ReslinkError
from reslink.export.graph import BOX, HOUNSFIELD, IMAGE, INVERTED, KEEP, LABEL, PROBABILITIES, SLICE_WEIGHTS
from reslink.imaging.image import Image
from reslink.imaging.preprocess import square_pixels
from reslink.imaging.reading import read_image
from reslink.imaging.search import find_images, iter_series
from reslink.imaging.series_slices import read_series_slices
from reslink.inference.backends import TorchBackend, flip_averaged
from reslink.inference.outputs import Outputs
from reslink.networks.area_attention import record_attention_weights

if TYPE_CHECKING:
    from reslink.bundles.bundle import Bundle

Arrays: TypeAlias = dict[str, NDArray[Any]]

BATCH = 4
"""Slices of one size that are run together, to check batches as well."""

SCALE = 100
"""Factor by which logits, features and maps may differ more than probabilities."""

_COMPARED = (PROBABILITIES, LOGITS, FEATURES)

_SERIES_LENGTHS = (8, 1, 5, 2)
"""Numbers of slices of synthetic series."""
_MAX_SERIES_LENGTH = 8
"""Largest number of slices of a real series, so that the check covers several."""


@dataclass(frozen=True)
class Parity:
    """The largest differences between an export and the package.

    Attributes:
        images: Number of compared images.
        logits: Largest difference of a logit.
        features: Largest difference of a pooled feature, divided by the largest feature if that is above 1.
        probabilities: Largest difference of a probability of the bundle's decision.
        labels: Images, or series, with another class.
        maps: Largest difference of a class activation map or attention map, divided by its largest value if that is above 1; 0
            if the export has no maps.
        pixels: Pixels of the network's input that differ; None if the export does not return them.
        slice_weights: Largest difference of the weight of a slice; None where a case is a slice.
    """

    images: int
    logits: float
    features: float
    probabilities: float
    labels: int
    maps: float = 0.0
    pixels: int | None = None
    slice_weights: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Returns the JSON form; it has the key ``slice_weights`` only where a case is a series."""
        form = asdict(self)
        if self.slice_weights is None:
            del form["slice_weights"]
        return form


@dataclass(frozen=True)
class Inputs:
    """The images of a parity check.

    Attributes:
        images: Slices, at least one.
        source: Description of the images, without file names.
        failed: One message per unreadable file, with its name.
        series: Number of slices of each series, which follow each other in ``images``; empty where a case is a slice.
    """

    images: tuple[Image, ...]
    source: str
    failed: tuple[str, ...] = ()
    series: tuple[int, ...] = ()

    @classmethod
    def synthetic(cls, count: int) -> Inputs:
        """Returns built-in synthetic heads, CT and MR by turns."""
        return cls(tuple(synthetic_heads(count)), "synthetic heads that reslink draws itself, no images of patients")

    @classmethod
    def read(cls, folder: str | Path, count: int) -> Inputs:
        """Reads slices of real images, spread evenly over the files of a folder.

        Args:
            folder: A folder, file or glob, as for ``reslink predict``.
            count: Number of images, at least 1; unreadable ones are replaced by others. A volume gives its middle slice.

        Raises:
            InputError: If no image can be read.
        """
        paths = find_images([folder])
        spaced = np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int)
        images: list[Image] = []
        failed: list[str] = []
        for path in dict.fromkeys([*(paths[i] for i in spaced), *paths]):
            if len(images) == count:
                break
            try:
                slices = read_image(path).slices()
                images.append(slices[len(slices) // 2])
            except ReslinkError as error:
                failed.append(str(error))
        if not images:
            raise InputError(
                f"None of {len(paths)} images of the folder could be read",
                "The parity check needs images that reslink can read",
                "Give another folder with --data, or omit --data to use synthetic heads",
            )
        return cls(tuple(images), f"{len(images)} of {len(paths)} images of a folder of the user", tuple(failed))

    @classmethod
    def synthetic_series(cls, count: int) -> Inputs:
        """Returns built-in synthetic series of different lengths, CT and MR by turns, with ``count`` slices together."""
        images: list[Image] = []
        sizes: list[int] = []
        while len(images) < count:
            i = len(sizes)
            sizes.append(min(_SERIES_LENGTHS[i % len(_SERIES_LENGTHS)], count - len(images)))
            images += _synthetic_series(i, sizes[-1])
        source = f"{len(sizes)} synthetic series that reslink draws itself, no images of patients"
        return cls(tuple(images), source, series=tuple(sizes))

    @classmethod
    def read_series(cls, folder: str | Path, count: int) -> Inputs:
        """Reads real series, spread evenly over those of a folder.

        Args:
            folder: A folder, file or glob, as for ``reslink predict``.
            count: Number of slices, at least 1. A series gives at most 8 of them, evenly spaced.

        Raises:
            InputError: If no series can be read.
        """
        found = list(iter_series(folder))
        spaced = np.linspace(0, len(found) - 1, min(count, len(found))).astype(int)
        images: list[Image] = []
        sizes: list[int] = []
        failed: list[str] = []
        for i in dict.fromkeys([*spaced, *range(len(found))]):
            if len(images) == count:
                break
            files = found[i]
            try:
                planes = read_series_slices(files, str(files[0] if len(files) == 1 else files[0].parent)).planes
            except ReslinkError as error:
                failed.append(str(error))
                continue
            sizes.append(min(len(planes), _MAX_SERIES_LENGTH, count - len(images)))
            images += [planes[k] for k in np.linspace(0, len(planes) - 1, sizes[-1]).round().astype(int)]
        if not images:
            raise InputError(
                f"None of {len(found)} series of the folder could be read",
                f"The parity check needs series that reslink can read; the first error: {failed[0].removesuffix('.')}",
                "Give another folder with --data, or omit --data to use synthetic heads",
            )
        source = f"{len(sizes)} of {len(found)} series of a folder of the user"
        return cls(tuple(images), source, tuple(failed), tuple(sizes))


@dataclass(frozen=True)
class Runner:
    """An exported file as run by the loader of its format.

    Attributes:
        bundle: The bundle that was exported.
        inputs: The names of its inputs.
        call: Takes arrays by name and returns outputs by name.
        prepare: Prepares the inputs of a batch if the export has its own preprocessing; by default the package does.
    """

    bundle: Bundle
    inputs: tuple[str, ...]
    call: Callable[[Arrays], Arrays] = field(repr=False)
    prepare: Callable[[Sequence[Image]], Arrays] | None = field(default=None, repr=False)

    def __call__(self, images: Sequence[Image], series: Sequence[int] = ()) -> Arrays:
        """Returns the outputs of all images, or of all series and their slices, in order.

        Args:
            images: The slices.
            series: As ``Inputs.series``.
        """
        images = [square_pixels(image) for image in images]  # a graph takes square pixels
        prepare = self.prepare or (lambda batch: make_inputs(self.bundle, batch, self.inputs))
        if series:
            ends = np.cumsum(series)
            parts = [self.call(prepare(images[end - size : end])) for size, end in zip(series, ends, strict=True)]
            return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        rows: list[Arrays] = [{} for _ in images]
        for chosen in _batches(images, any_size=IMAGE not in self.inputs):
            outputs = self.call(prepare([images[i] for i in chosen]))
            for row, i in enumerate(chosen):
                rows[i] = {name: values[row] for name, values in outputs.items()}
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def synthetic_heads(count: int) -> list[Image]:
    """Returns synthetic heads, alternately CT in HU and MR, with and without a lesion."""
    heads = []
    for i in range(count):
        ct = i % 2 == 0
        plane = render_slice(0, i + 1, tumor=i % 4 > 1, sequence="CT" if ct else "T1", size=256)
        heads.append(Image(plane.pixels, unit="HU" if ct else "MR"))
    return heads


def _synthetic_series(index: int, slices: int) -> list[Image]:
    """Returns one synthetic series, CT or MR by turns, with and without a lesion."""
    ct = index % 2 == 0
    patient = render_patient(0, index + 1, tumor=index % 4 > 1, sequence="CT" if ct else "T1", slices=slices, case="series")
    return [Image(plane.pixels, unit="HU" if ct else "MR") for plane in patient.slices]


def make_inputs(bundle: Bundle, images: Sequence[Image], names: Iterable[str]) -> Arrays:
    """Returns the stacked inputs of a graph for slices of one size; only ``pixels`` accepts slices of different sizes."""
    requested = set(names)
    isolated: dict[str, list[Any]] = {name: [] for name in (KEEP, BOX)} if requested & {KEEP, BOX} else {}
    for image in images if isolated else ():
        keep, box = bundle.preprocess.isolate(image)
        isolated[KEEP].append(keep)
        isolated[BOX].append([box.top, box.left, box.height, box.width])
    inputs: dict[str, Callable[[], NDArray[Any]]] = {
        PIXELS: lambda: np.stack([bundle.preprocess.pixels(image) for image in images]),
        IMAGE: lambda: np.stack([image.pixels for image in images]),
        KEEP: lambda: np.stack(isolated[KEEP]),
        BOX: lambda: np.array(isolated[BOX], np.int64),
        HOUNSFIELD: lambda: np.array([image.unit == "HU" for image in images]),
        INVERTED: lambda: np.array([image.inverted for image in images]),
    }
    return {name: make() for name, make in inputs.items() if name in requested}


def _batches(images: Sequence[Image], *, any_size: bool) -> Iterator[list[int]]:
    """Yields the indices of up to ``BATCH`` images of one size, or of any size."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for i, image in enumerate(images):
        by_shape.setdefault(() if any_size else image.pixels.shape, []).append(i)
    for indices in by_shape.values():
        yield from (indices[start : start + BATCH] for start in range(0, len(indices), BATCH))


def reference_outputs(bundle: Bundle, images: Sequence[Image], series: Sequence[int] = ()) -> Arrays:
    """Returns the outputs of the package: ``Preprocess``, the network in torch, and the ``Decision``.

    Args:
        bundle: A saved bundle.
        images: The slices.
        series: As ``Inputs.series``; the outputs of each series are then pooled, in NumPy as prediction does it.
    """
    network = bundle.network()
    pooling = bundle.pooling() if series else None
    backend = TorchBackend(network, bundle.preprocess, torch.device("cpu"))

    def call(inputs: Arrays) -> Arrays:
        pixels = inputs[PIXELS]
        with torch.inference_mode(), record_attention_weights(network) as attention:
            maps = network.forward_with_features(torch.from_numpy(bundle.preprocess.normalize(pixels)))[2]
            class_maps = None if maps is None else network.class_maps(maps)
        logits, features = backend.outputs(pixels)
        logits = flip_averaged(bundle.decision, backend, pixels, logits)
        weights: Arrays = {}
        if pooling is not None:
            weights = {SLICE_WEIGHTS: pooling.attention(features)}
            whole = Outputs(logits, features, None).pooled(weights[SLICE_WEIGHTS])
            logits, features = whole.logits, whole.features
        probabilities = bundle.decision.probabilities(logits)
        labels = bundle.decision.predict(probabilities)
        outputs: Arrays = {PROBABILITIES: probabilities, LABEL: labels, LOGITS: logits, FEATURES: features, **weights}
        if class_maps is not None:
            outputs[CAM] = class_maps.numpy()
        return outputs | {name: values.numpy() for name, values in attention.items()} | {PIXELS: pixels}

    return Runner(bundle, (PIXELS,), call)(images, series)


def compare(expected: Mapping[str, NDArray[Any]], actual: Mapping[str, NDArray[Any]]) -> Parity:
    """Returns the largest differences of two sets of outputs: NaN for NaN values, infinity for other shapes or no output."""
    compared = [*_COMPARED, *(name for name in (SLICE_WEIGHTS,) if name in expected)]
    largest = {name: _largest(expected[name], actual[name]) if name in actual else float("inf") for name in compared}
    largest[FEATURES] /= max(1.0, float(np.abs(expected[FEATURES]).max()))
    map_names = [name for name in actual if name in expected and expected[name].ndim == 4 and name != PIXELS]
    maps = [_largest(expected[name], actual[name]) / max(1.0, float(np.abs(expected[name]).max())) for name in map_names]
    pixels = int((expected[PIXELS] != actual[PIXELS]).sum()) if PIXELS in actual else None
    changed = int((expected[LABEL] != actual[LABEL]).sum())
    return Parity(len(expected[PIXELS]), labels=changed, maps=float(np.max(maps, initial=0.0)), pixels=pixels, **largest)


def check(parity: Parity, tolerance: float, what: str, source: str) -> Parity:
    """Checks a comparison against a tolerance and returns it.

    Args:
        parity: The comparison.
        tolerance: Largest difference of a probability; logits, features and maps, which are not bounded by 1, may differ by
            ``SCALE`` times that.
        what: Name of the export for the message.
        source: Description of the images for the message.

    Raises:
        CheckFailedError: If a probability, slice weight, logit, feature or map differs by more or is not finite, or if a label
            or a pixel of the network's input differs.
    """
    wide_tolerance = SCALE * tolerance
    weights = 0.0 if parity.slice_weights is None else parity.slice_weights
    faults = [
        f"a probability by {parity.probabilities:.2g}" * (not parity.probabilities <= tolerance),
        f"a slice weight by {weights:.2g}" * (not weights <= tolerance),
        f"a logit by {parity.logits:.2g}" * (not parity.logits <= wide_tolerance),
        f"a feature by {parity.features:.2g}" * (not parity.features <= wide_tolerance),
        f"a map by {parity.maps:.2g}" * (not parity.maps <= wide_tolerance),
        f"{parity.labels} labels" * (parity.labels > 0),
        f"{parity.pixels} pixels of the network's input" * bool(parity.pixels),
    ]
    if any(faults):
        raise CheckFailedError(
            f"{what} differs from the package in {' and '.join(filter(None, faults))}, over {parity.images} images ({source})",
            f"Probabilities{'' if parity.slice_weights is None else ' and slice weights'} may differ by {tolerance:g}, logits, "
            f"features and maps by {wide_tolerance:g}; labels and pixels are equal",
            "Nothing was written; report this with the versions that reslink info prints, or choose another format",
        )
    return parity


def _largest(expected: NDArray[Any], actual: NDArray[Any]) -> float:
    """Returns the largest difference; NaN if either holds a NaN."""
    return float(np.abs(expected.astype(np.float64) - actual).max()) if expected.shape == actual.shape else float("inf")
