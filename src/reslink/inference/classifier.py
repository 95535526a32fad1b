"""A classifier: a bundle loaded once, then many images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.decision import Verdicts
from reslink.errors import InputError, ReslinkError, UsageError
from reslink.imaging.formats.numpy_array import image_of, no_source
from reslink.imaging.image import Image, Unit
from reslink.imaging.input_statistics import input_statistics
from reslink.imaging.reading import each_image, read_image
from reslink.inference import backends
from reslink.inference.backends import Backend, Pixels, Precision, TorchBackend
from reslink.inference.devices import pick_device
from reslink.labels import Labels

if TYPE_CHECKING:
    import torch

    from reslink.networks.reslink import ResLink


Source: TypeAlias = str | Path | Image | NDArray[Any]
"""What is predicted: a path, an image, or an array of pixels."""
_ONE = (str, Path, Image, np.ndarray)


@dataclass(frozen=True)
class Prediction:
    """What the classifier says about one slice, or why it says nothing.

    Attributes:
        path: The file, as it was given or found; for an image or array in memory what it is called.
        slice: The position in a file of several slices, from 0; None for a file with one.
        label: The predicted class; None where there is an error.
        probability: The probability of ``label``, 0 to 1.
        probabilities: The probability of every class; their sum is 1.
        set: The classes of the conformal set, in the order of the labels, none to all; None where the bundle has no sets.
        abstain: Whether the bundle would rather not answer; None where it has neither sets nor a gate. ``label`` is there
            all the same.
        reasons: Why it abstains, empty where it does not; None where it has neither sets nor a gate.
        ood_score: How far the image lies from the calibration images, above 1 refused; None where there is no gate.
        error: Why there is no prediction; None where there is one.
    """

    path: str
    slice: int | None = None
    label: str | None = None
    probability: float | None = None
    probabilities: dict[str, float] | None = None
    set: tuple[str, ...] | None = None
    abstain: bool | None = None
    reasons: tuple[str, ...] | None = None
    ood_score: float | None = None
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Returns the JSON form; ``slice`` is there only for files with several slices."""
        where = {"path": self.path} if self.slice is None else {"path": self.path, "slice": self.slice}
        return where | {
            "label": self.label,
            "probability": self.probability,
            "probabilities": self.probabilities,
            "set": None if self.set is None else list(self.set),
            "abstain": self.abstain,
            "reasons": None if self.reasons is None else list(self.reasons),
            "ood_score": self.ood_score,
            "error": self.error,
        }


@dataclass(frozen=True)
class _Slice:
    """One slice on its way: its pixels, or why it has none."""

    path: str
    index: int | None
    pixels: Pixels | None
    error: str | None = None


@dataclass(frozen=True)
class Outputs:
    """What the network and the input say about some slices.

    Attributes:
        logits: (B, K) float32, or (B, 1).
        features: (B, D) float32, pooled, what the dense layer sees.
        statistics: (B, 33) float64 from ``input_statistics``; None where the bundle has no gate that asks for them.
    """

    logits: NDArray[np.float32]
    features: NDArray[np.float32]
    statistics: NDArray[np.float64] | None

    def row(self, index: int) -> Outputs:
        """Returns the outputs of one slice, B = 1."""
        one = slice(index, index + 1)
        return Outputs(self.logits[one], self.features[one], None if self.statistics is None else self.statistics[one])


class Classifier:
    """A network with all that its bundle says about how to use it.

    Args:
        bundle: Where it comes from.
        network: In eval mode, on ``device``; built from the bundle when it is first asked for if not given.
        device: Where the network runs, by name or as torch's device.
        backend: What computes logits; if not given, torch.

    Attributes:
        bundle: Where it comes from.
        backend: What computes logits.
    """

    def __init__(
        self,
        bundle: Bundle,
        network: ResLink | None = None,
        device: str | torch.device = "cpu",
        backend: Backend | None = None,
    ) -> None:
        self.bundle = bundle
        self._given, self._place = network, device
        self.backend: Backend = backend or TorchBackend(self.network, bundle.preprocess, self.device)

    @classmethod
    def load(
        cls,
        bundle: str | Path,
        device: str = "auto",
        backend: str = "auto",
        *,
        threads: int | None = None,
        precision: Precision = "fp32",
    ) -> Classifier:
        """Loads a bundle; imports torch only where the backend is torch.

        Args:
            bundle: The folder of a bundle, or of the run that holds it.
            device: See :func:`reslink.inference.devices.pick_device`.
            backend: See :func:`reslink.inference.backends.choose`.
            threads: Threads of a backend other than torch; if not given, as torch has or as there are processors.
            precision: ``bf16`` for OpenVINO only.

        Raises:
            BundleError: If it is not a bundle that this version can use, or the backend cannot run it.
            UsageError: If there is no such device, backend or precision, or its package is not installed.
        """
        backends.check_wishes(threads, precision)
        loaded = Bundle.load(bundle)
        name = backends.choose(backend, loaded, device)
        if name != "torch":
            return cls(loaded, device="cpu", backend=backends.load_backend(name, loaded, threads, precision))
        if precision != "fp32":
            raise backends.no_precision(name, precision)
        return cls(loaded, device=pick_device(device))

    @property
    def device(self) -> torch.device:
        """Where the network runs. Imports torch."""
        import torch

        return torch.device(self._place)

    @cached_property
    def network(self) -> ResLink:
        """The network in torch, in eval mode on ``device``, whatever the backend is. Imports torch."""
        if self._given is not None:
            return self._given
        return self.bundle.network().to(self.device).eval().requires_grad_(False)

    @property
    def labels(self) -> Labels:
        """The classes in the order of the columns of probabilities."""
        return self.bundle.labels

    def logits(self, pixels: Pixels | torch.Tensor) -> NDArray[np.float32]:
        """Returns the logits of preprocessed slices.

        Args:
            pixels: (B, planes, S, S) uint8, what ``Preprocess.pixels`` returns for each slice.

        Returns:
            (B, K) float32, or (B, 1) for a network with a single logit; a slice gives the same in any batch, to 1e-5.

        Raises:
            UsageError: If the pixels have another shape or type.
        """
        return self.backend.logits(self._checked(pixels))

    def outputs(self, pixels: Pixels | torch.Tensor, statistics: bool | None = None) -> Outputs:
        """Returns all that ``Decision.judge`` looks at.

        Args:
            pixels: As for :meth:`logits`.
            statistics: Whether to take the input statistics; if not given, only for a bundle with a gate.

        Raises:
            UsageError: If the pixels have another shape or type.
        """
        array = self._checked(pixels)
        logits, features = self.backend.outputs(array)
        wanted = self.bundle.decision.ood is not None if statistics is None else statistics
        return Outputs(logits, features, input_statistics(array) if wanted else None)

    def judge(self, pixels: Pixels | torch.Tensor) -> Verdicts:
        """Returns what the bundle's decision says about preprocessed slices.

        Raises:
            UsageError: If the pixels have another shape or type.
            InputError: If the network gives a value that is not finite.
        """
        if self.bundle.decision.ood is None:
            return self.bundle.decision.judge(self.logits(pixels))
        return self.decide(self.outputs(pixels))

    def decide(self, found: Outputs, pixels: Pixels | None = None) -> Verdicts:
        """Returns what the bundle's decision says about outputs.

        Args:
            found: What :meth:`outputs` returned.
            pixels: As for :meth:`logits`; only for a bundle with a gate, where ``found`` holds no statistics.

        Raises:
            UsageError: If the bundle has a gate and there are neither statistics nor pixels.
            InputError: If a value is not finite.
        """
        statistics = found.statistics
        if statistics is None and pixels is not None and self.bundle.decision.ood is not None:
            statistics = input_statistics(pixels)
        return self.bundle.decision.judge(found.logits, found.features, statistics)

    @overload  # a text is one source, though also an iterable of texts
    def predict(  # type: ignore[overload-overlap]
        self, source: Source, batch_size: int = 32, *, unit: Unit | None = None
    ) -> list[Prediction]: ...

    @overload
    def predict(self, source: Iterable[Source], batch_size: int = 32, *, unit: Unit | None = None) -> Iterator[Prediction]: ...

    def predict(
        self, source: Source | Iterable[Source], batch_size: int = 32, *, unit: Unit | None = None
    ) -> list[Prediction] | Iterator[Prediction]:
        """Predicts one source, or many in the order given; goes on after a bad one.

        Slices of several files share a batch. A file that cannot be read, and a path that is not there, gives one
        prediction with its error.

        Args:
            source: A file, folder (every image inside, a DICOM series by position) or glob; an ``Image``; an array (H, W) or
                (D, H, W); or any iterable of these.
            batch_size: Slices that the network sees at a time, at least 1.
            unit: Of arrays: ``HU``, ``MR`` or ``grey``; only uint8 needs none.

        Returns:
            One prediction a slice: a list for one source, and for an iterable an iterator that computes as it is asked.

        Raises:
            UsageError: If the batch size is no whole number from 1 on, a source is something else, or an array has no unit.
        """
        if not isinstance(batch_size, int | np.integer) or batch_size < 1:
            raise UsageError(f"The batch size is {batch_size}", "A batch has a whole number of images, at least 1", "Use 32")
        if isinstance(source, _ONE):
            return list(self._stream([source], batch_size, unit))
        if not isinstance(source, Iterable) or isinstance(source, bytes):
            raise no_source(source)
        return self._stream(source, batch_size, unit)

    def predict_pixels(self, pixels: Pixels | torch.Tensor) -> list[Prediction]:
        """Predicts preprocessed slices, one by one: a slice whose outputs are not finite gets its error, the others an answer.

        Args:
            pixels: As for :meth:`logits`.

        Returns:
            One prediction a slice, in order, with an empty path.

        Raises:
            UsageError: If the pixels have another shape or type.
        """
        return list(self._judge([_Slice("", None, row) for row in self._checked(pixels)]))

    def _stream(self, sources: Iterable[Source], batch_size: int, unit: Unit | None) -> Iterator[Prediction]:
        waiting: list[_Slice] = []
        good = 0
        for item in self._slices(sources, unit):
            waiting.append(item)
            good += item.pixels is not None
            if good == 0 or good == batch_size:  # nothing to compute, or a full batch
                yield from self._judge(waiting)
                waiting, good = [], 0
        yield from self._judge(waiting)

    def _slices(self, sources: Iterable[Source], unit: Unit | None) -> Iterator[_Slice]:
        """Reads and preprocesses one slice at a time; an error takes the place of what it hit."""
        for source in sources:
            if isinstance(source, Image):
                yield from self._slices_of(source.source or "image", partial(_itself, source))
                continue
            if isinstance(source, np.ndarray):
                yield from self._slices_of("array", partial(image_of, source, unit))
                continue
            if not isinstance(source, _ONE):
                raise no_source(source)
            try:
                for file in each_image(source):
                    yield from self._slices_of(str(file), partial(read_image, file))
            except ReslinkError as error:
                yield _Slice(str(source), None, None, str(error))

    def _slices_of(self, name: str, read: Callable[[], Image]) -> Iterator[_Slice]:
        try:
            planes = read().slices()
        except UsageError:
            raise
        except ReslinkError as error:
            yield _Slice(name, None, None, str(error))
            return
        for position, plane in enumerate(planes):
            index = position if len(planes) > 1 else None
            try:
                yield _Slice(name, index, self.bundle.preprocess.pixels(plane))
            except ReslinkError as error:
                yield _Slice(name, index, None, str(error))

    def _judge(self, items: Sequence[_Slice]) -> Iterator[Prediction]:
        """Predicts one batch; every item gives one prediction, in order."""
        pixels = [item.pixels for item in items if item.pixels is not None]
        verdicts = iter(self._verdicts(self.outputs(np.stack(pixels))) if pixels else ())
        for item in items:
            said = item.error if item.pixels is None else next(verdicts)
            if isinstance(said, str | None):
                yield Prediction(item.path, item.index, error=said)
            else:
                yield self.prediction(*said, item.path, item.index)

    def _verdicts(self, found: Outputs) -> list[tuple[Verdicts, int] | str]:
        """Returns for each slice where its verdict stands, or why it has none; where one fails, each is judged alone."""
        try:
            whole = self.decide(found)
            return [(whole, row) for row in range(len(found.logits))]
        except InputError as fault:
            if len(found.logits) == 1:
                return [str(fault)]
            return [one for row in range(len(found.logits)) for one in self._verdicts(found.row(row))]

    def prediction(self, verdicts: Verdicts, row: int, path: str, index: int | None = None) -> Prediction:
        """Returns one row of what the decision said as a prediction.

        Args:
            verdicts: From :meth:`judge` or :meth:`decide`.
            row: Of the slice in them.
            path: Where the slice comes from.
            index: Its position in a file of several slices.
        """
        names = self.labels.names
        label = names[int(verdicts.predicted[row])]
        by_class = dict(zip(names, (float(p) for p in verdicts.probabilities[row]), strict=True))
        abstain, sets = verdicts.abstain, verdicts.sets
        return Prediction(
            path,
            index,
            label,
            by_class[label],
            by_class,
            set=None if sets is None else tuple(names[k] for k in np.flatnonzero(sets[row])),
            abstain=None if abstain is None else bool(abstain[row]),
            reasons=None if abstain is None else tuple(verdicts.reasons[row]),
            ood_score=None if verdicts.ood_score is None else float(verdicts.ood_score[row]),
        )

    def _checked(self, pixels: Pixels | torch.Tensor) -> Pixels:
        """Returns the pixels as an array; says what the network takes where it is given something else."""
        array: NDArray[Any] = np.asarray(pixels.cpu() if hasattr(pixels, "cpu") else pixels)
        preprocess = self.bundle.preprocess
        row = (preprocess.planes, preprocess.size, preprocess.size)
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[1:] != row:
            raise UsageError(
                f"Pixels of shape {array.shape} and type {array.dtype} were given",
                f"The classifier takes uint8 of shape (B, {row[0]}, {row[1]}, {row[2]})",
                "Preprocess slices with classifier.bundle.preprocess.pixels and stack them",
            )
        return array


def _itself(image: Image) -> Image:
    return image
