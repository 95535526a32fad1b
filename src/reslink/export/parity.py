"""The gate of every export: the same images through the package and through the export, and how far they are apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from reslink.bundles.onnx_graph import CAM, FEATURES, LOGITS, PIXELS
from reslink.datasets.phantom.cohort import render_slice
from reslink.errors import GateError, InputError, ReslinkError
from reslink.export.graph import BOX, HOUNSFIELD, IMAGE, INVERTED, KEEP, LABEL, PROBABILITIES
from reslink.imaging.image import Image
from reslink.imaging.reading import find_images, read_image
from reslink.inference.backends import TorchBackend
from reslink.networks.area_attention import record_gates

if TYPE_CHECKING:
    from reslink.bundles.bundle import Bundle

Arrays: TypeAlias = dict[str, NDArray[Any]]

BATCH = 4
"""Slices of one size that go through together, so that a batch is tried too."""

SCALE = 100
"""How much further logits, features and maps may be apart than probabilities."""

_FIGURES = (PROBABILITIES, LOGITS, FEATURES)


@dataclass(frozen=True)
class Parity:
    """How far an export is from the package, at most over some images.

    Attributes:
        images: How many were compared.
        logits: Largest difference of a logit.
        features: Largest difference of a pooled feature.
        probabilities: Largest difference of a probability of the bundle's decision.
        labels: Images that got another class.
        maps: Largest difference of a class activation map or a gate, as a share of its largest value where that is above 1; 0
            where the export has none.
        pixels: Pixels of the network's input that differ; None where the export does not say them.
    """

    images: int
    logits: float
    features: float
    probabilities: float
    labels: int
    maps: float = 0.0
    pixels: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Returns the JSON form."""
        return asdict(self)


@dataclass(frozen=True)
class Inputs:
    """The images that a gate compares on.

    Attributes:
        images: Slices, at least one.
        source: Where they come from, in words that name no file.
        failed: Why files could not be read, a message each, with their names.
    """

    images: tuple[Image, ...]
    source: str
    failed: tuple[str, ...] = ()

    @classmethod
    def synthetic(cls, count: int) -> Inputs:
        """Returns built-in synthetic heads, CT and MR by turns."""
        return cls(tuple(synthetic_heads(count)), "synthetic heads that reslink draws itself, no images of patients")

    @classmethod
    def read(cls, folder: str | Path, count: int) -> Inputs:
        """Reads slices of real images, spread evenly over the files of a folder.

        Args:
            folder: A folder, file or glob, as for ``reslink predict``.
            count: Images to take, at least 1, others for those that cannot be read; a volume gives its middle slice.

        Raises:
            InputError: If there is none that can be read.
        """
        found = find_images([folder])
        spread = np.linspace(0, len(found) - 1, min(count, len(found))).astype(int)
        images: list[Image] = []
        failed: list[str] = []
        for path in dict.fromkeys([*(found[i] for i in spread), *found]):
            if len(images) == count:
                break
            try:
                slices = read_image(path).slices()
                images.append(slices[len(slices) // 2])
            except ReslinkError as error:
                failed.append(str(error))
        if not images:
            raise InputError(
                f"None of {len(found)} images of the folder could be read",
                "The parity gate compares on images that reslink reads",
                "Give another folder with --data, or leave --data out for synthetic heads",
            )
        return cls(tuple(images), f"{len(images)} of {len(found)} images of a folder of the user", tuple(failed))


@dataclass(frozen=True)
class Runner:
    """An export as another party's loader runs it.

    Attributes:
        bundle: What it was made of.
        inputs: The names of its inputs.
        call: Takes arrays by name and returns outputs by name.
        feed: Makes the inputs of a batch where the export brings its own preprocessing; else the package makes them.
    """

    bundle: Bundle
    inputs: tuple[str, ...]
    call: Callable[[Arrays], Arrays] = field(repr=False)
    feed: Callable[[Sequence[Image]], Arrays] | None = field(default=None, repr=False)

    def __call__(self, images: Sequence[Image]) -> Arrays:
        """Returns the outputs of all images, in order."""
        feed = self.feed or (lambda batch: inputs_of(self.bundle, batch, self.inputs))
        rows: list[Arrays] = [{} for _ in images]
        for chosen in _batches(images, any_size=IMAGE not in self.inputs):
            found = self.call(feed([images[i] for i in chosen]))
            for row, i in enumerate(chosen):
                rows[i] = {name: values[row] for name, values in found.items()}
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def synthetic_heads(count: int) -> list[Image]:
    """Returns synthetic heads, CT in HU and MR by turns, with and without a lesion."""
    found = []
    for i in range(count):
        ct = i % 2 == 0
        plane = render_slice(0, i + 1, tumour=i % 4 > 1, sequence="CT" if ct else "T1", size=256)
        found.append(Image(plane.pixels, unit="HU" if ct else "MR"))
    return found


def inputs_of(bundle: Bundle, images: Sequence[Image], names: Iterable[str]) -> Arrays:
    """Returns the inputs of a graph for slices of one size, stacked; ``pixels`` alone takes slices of any sizes."""
    isolated: dict[str, list[Any]] = {name: [] for name in (KEEP, BOX)} if (wanted := set(names)) & {KEEP, BOX} else {}
    for image in images if isolated else ():
        keep, place = bundle.preprocess.isolate(image)
        isolated[KEEP].append(keep)
        isolated[BOX].append([place.top, place.left, place.height, place.width])
    known: dict[str, Callable[[], NDArray[Any]]] = {
        PIXELS: lambda: np.stack([bundle.preprocess.pixels(image) for image in images]),
        IMAGE: lambda: np.stack([image.pixels for image in images]),
        KEEP: lambda: np.stack(isolated[KEEP]),
        BOX: lambda: np.array(isolated[BOX], np.int64),
        HOUNSFIELD: lambda: np.array([image.unit == "HU" for image in images]),
        INVERTED: lambda: np.array([image.inverted for image in images]),
    }
    return {name: make() for name, make in known.items() if name in wanted}


def _batches(images: Sequence[Image], *, any_size: bool) -> Iterator[list[int]]:
    """Yields the places of up to ``BATCH`` images of one size; of any size where only pixels are asked for."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for i, image in enumerate(images):
        by_shape.setdefault(() if any_size else image.pixels.shape, []).append(i)
    for places in by_shape.values():
        yield from (places[start : start + BATCH] for start in range(0, len(places), BATCH))


def of_package(bundle: Bundle, images: Sequence[Image]) -> Arrays:
    """Returns what the package itself says: ``Preprocess``, the network in torch, and the ``Decision``."""
    network = bundle.network()
    backend = TorchBackend(network, bundle.preprocess, torch.device("cpu"))
    dense = cast(nn.Linear, network.head[-1]).weight.detach().numpy()

    def call(inputs: Arrays) -> Arrays:
        pixels = inputs[PIXELS]
        with torch.inference_mode(), record_gates(network) as gates:
            maps = network.forward_features(torch.from_numpy(bundle.preprocess.normalise(pixels)))
        logits, features = backend.outputs(pixels)
        chances = bundle.decision.probabilities(logits)
        cam = np.einsum("kd,bdhw->bkhw", dense, maps.numpy())
        found = {PROBABILITIES: chances, LABEL: bundle.decision.predict(chances), LOGITS: logits, FEATURES: features, CAM: cam}
        return found | {name: gate.numpy() for name, gate in gates.items()} | {PIXELS: pixels}

    return Runner(bundle, (PIXELS,), call)(images)


def compare(ours: Mapping[str, NDArray[Any]], theirs: Mapping[str, NDArray[Any]]) -> Parity:
    """Returns how far two sets of outputs are apart; NaN in either gives NaN, another shape or a missing output infinity."""
    figures = {name: _largest(ours[name], theirs[name]) if name in theirs else float("inf") for name in _FIGURES}
    drawn = [name for name in theirs if name in ours and ours[name].ndim == 4 and name != PIXELS]
    maps = [_largest(ours[name], theirs[name]) / max(1.0, float(np.abs(ours[name]).max())) for name in drawn]
    pixels = int((ours[PIXELS] != theirs[PIXELS]).sum()) if PIXELS in theirs else None
    changed = int((ours[LABEL] != theirs[LABEL]).sum())
    return Parity(len(ours[LABEL]), labels=changed, maps=float(np.max(maps, initial=0.0)), pixels=pixels, **figures)


def check(found: Parity, tolerance: float, what: str, source: str) -> Parity:
    """Lets a comparison through, or says no.

    Args:
        found: The comparison.
        tolerance: Largest difference of a probability; logits, features and maps, which are not bound to 0..1, may differ by
            ``SCALE`` times that.
        what: What was compared, for the message.
        source: On what images, for the message.

    Raises:
        GateError: If a probability, logit, feature or map differs by more or is not finite, a label differs, or pixels of the
            network's input do.
    """
    wide = SCALE * tolerance
    faults = [
        f"a probability by {found.probabilities:.2g}" * (not found.probabilities <= tolerance),
        f"a logit by {found.logits:.2g}" * (not found.logits <= wide),
        f"a feature by {found.features:.2g}" * (not found.features <= wide),
        f"a map by {found.maps:.2g}" * (not found.maps <= wide),
        f"{found.labels} labels" * (found.labels > 0),
        f"{found.pixels} pixels of the network's input" * bool(found.pixels),
    ]
    if any(faults):
        raise GateError(
            f"{what} differs from the package in {' and '.join(filter(None, faults))}, over {found.images} images ({source})",
            f"Probabilities may differ by {tolerance:g}, logits, features and maps by {wide:g}, labels and pixels not at all",
            "Nothing was written; report this with the versions that reslink info prints, or choose another format",
        )
    return found


def _largest(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    """The largest difference; NaN where there is one in either."""
    return float(np.abs(ours.astype(np.float64) - theirs).max()) if ours.shape == theirs.shape else float("inf")
