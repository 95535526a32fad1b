"""The classifier: load a bundle once, then predict many images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.decision import DecisionResults
from reslink.bundles.series_pooling import SeriesPooling
from reslink.errors import InputError, UsageError
from reslink.imaging.formats.numpy_array import invalid_source_error
from reslink.imaging.image import Image, Stated, Unit
from reslink.imaging.input_statistics import input_statistics
from reslink.imaging.search import ListedFiles
from reslink.imaging.spellings import parse_sequence
from reslink.inference import backends
from reslink.inference.backends import Backend, Pixels, Precision, TorchBackend, flip_averaged
from reslink.inference.blocks import SliceReader, in_blocks, read_slices
from reslink.inference.devices import pick_device
from reslink.inference.label_predictions import prediction_of_labels
from reslink.inference.outputs import Outputs
from reslink.inference.prediction import Prediction, Slice, with_outputs
from reslink.labels import Labels
from reslink.notebook import html_table

if TYPE_CHECKING:
    import torch

    from reslink.networks.network import Network


Source: TypeAlias = str | Path | Image | NDArray[Any]
"""An input of :meth:`Classifier.predict`: a path, an image, or an array of pixels."""
_SINGLE_SOURCE = (str, Path, Image, np.ndarray)


def as_sources(source: Source | Iterable[Source]) -> Iterable[Source]:
    """Returns a single source as a list, and an iterable of sources unchanged.

    Raises:
        UsageError: If the argument is neither.
    """
    if isinstance(source, _SINGLE_SOURCE):
        return [source]
    if not isinstance(source, Iterable) or isinstance(source, bytes):
        raise invalid_source_error(source)
    return source


class Classifier:
    """A trained network with the preprocessing, labels and decision of its bundle.

    Args:
        bundle: The bundle.
        network: The network in eval mode on ``device``; if None, it is built from the bundle on first use.
        device: Device of the network, as a name or a torch device.
        backend: The backend that computes logits; torch if None.
        sequence: The MR sequence of the files to read, such as ``T1C+``; None takes what each file states.

    Attributes:
        bundle: The bundle.
        backend: The backend that computes logits.

    Example:
        >>> import reslink
        >>> classifier = reslink.Classifier.load("ct")
        >>> [prediction] = classifier.predict("scan.png")  # doctest: +SKIP
    """

    def __init__(
        self,
        bundle: Bundle,
        network: Network | None = None,
        device: str | torch.device = "cpu",
        backend: Backend | None = None,
        sequence: str | None = None,
    ) -> None:
        self.bundle, self.sequence = bundle, parse_sequence(sequence)
        self._network, self._device = network, device
        self.backend: Backend = backend or TorchBackend(self.network, bundle.preprocess, self.device)

    def __repr__(self) -> str:
        return f"Classifier(backend: {self.backend.name}, {self.bundle!r})"

    def _repr_html_(self) -> str:
        return html_table("Classifier", {"backend": self.backend.name, "bundle": self.bundle})

    @classmethod
    def load(
        cls,
        bundle: str | Path | Bundle,
        device: str = "auto",
        backend: str = "auto",
        *,
        threads: int | None = None,
        precision: Precision = "fp32",
        sequence: str | None = None,
    ) -> Classifier:
        """Loads a bundle. Imports torch only if the backend is torch.

        Args:
            bundle: The name of a shipped model, the folder of a bundle, the run folder that contains it, or a loaded bundle.
            device: See :func:`reslink.inference.devices.pick_device`.
            backend: See :func:`reslink.inference.backends.choose_backend`.
            threads: Number of threads of a backend other than torch; default: as many as torch uses, or the number of cores.
            precision: ``fp32``, or ``bf16`` for OpenVINO only.
            sequence: The MR sequence of the files to read, such as ``T1C+``; None takes what each file states.

        Raises:
            BundleError: If this version cannot use the bundle, or the backend cannot run it.
            UsageError: If the device, backend or precision does not exist, or a package is not installed.
        """
        backends.check_backend_options(threads, precision)
        loaded = bundle if isinstance(bundle, Bundle) else Bundle.load(bundle)
        name = backends.choose_backend(backend, loaded, device)
        if name != "torch":
            return cls(loaded, device="cpu", backend=backends.load_backend(name, loaded, threads, precision), sequence=sequence)
        if precision != "fp32":
            raise backends.precision_error(name, precision)
        return cls(loaded, device=pick_device(device), sequence=sequence)

    @property
    def device(self) -> torch.device:
        """The device of the network. Imports torch."""
        import torch

        return torch.device(self._device)

    @cached_property
    def network(self) -> Network:
        """The torch network in eval mode on ``device``, for any backend. Imports torch."""
        if self._network is not None:
            return self._network
        return self.bundle.network().to(self.device).eval().requires_grad_(False)

    @property
    def labels(self) -> Labels:
        """The classes, in the order of the network's outputs."""
        return self.bundle.labels

    def logits(self, pixels: Pixels | torch.Tensor) -> NDArray[np.float32]:
        """Returns the logits of preprocessed slices.

        Args:
            pixels: (B, planes, S, S) uint8: the stacked results of ``Preprocess.pixels``.

        Returns:
            (B, K) float32, or (B, 1) for a network with a single logit. The batch size changes the logits by less than 1e-5.
            With ``decision.flip_average`` they are those of the mean probability of the slice and its mirror image.

        Raises:
            UsageError: If the pixels have a different shape or type.
        """
        array = self._checked(pixels)
        return flip_averaged(self.bundle.decision, self.backend, array, self.backend.logits(array))

    @cached_property
    def _pooling(self) -> SeriesPooling | None:
        return self.bundle.pooling()

    def pool(self, outputs: Outputs) -> tuple[Outputs, NDArray[np.float64]]:
        """Returns the outputs (B = 1) of the series that the slices of ``outputs`` form, and the weight (n,) of each slice."""
        if self._pooling is None:
            raise ValueError("a case of the bundle is a slice")
        attention = self._pooling.attention(outputs.features)
        return outputs.pooled(attention), attention

    def outputs(self, pixels: Pixels | torch.Tensor, statistics: bool | None = None) -> Outputs:
        """Returns the inputs of ``Decision.decide``: logits, features and input statistics.

        Args:
            pixels: As for :meth:`logits`.
            statistics: Whether to compute the input statistics; default: only for a bundle with an OOD detector.

        Raises:
            UsageError: If the pixels have a different shape or type.
        """
        array = self._checked(pixels)
        logits, features = self.backend.outputs(array)
        logits = flip_averaged(self.bundle.decision, self.backend, array, logits)
        if statistics is None:
            statistics = self.needs_statistics
        return Outputs(logits, features, *(self.measure(array) if statistics else (None, None)))

    def measure(self, pixels: Pixels) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Returns the input statistics of slices, (B, planes, S, S), and their brain shares if the scope needs them."""
        return input_statistics(pixels), self.bundle.scope.brain_shares(pixels)

    def classify(self, pixels: Pixels | torch.Tensor, stated: Sequence[Stated] | None = None) -> DecisionResults:
        """Applies the network and the bundle's decision to preprocessed slices.

        Args:
            pixels: As for :meth:`logits`.
            stated: As for :meth:`decide`.

        Raises:
            UsageError: If the pixels have a different shape or type.
            InputError: If an output of the network is not finite.
        """
        self.bundle.require_slices("Classifier.classify")
        if self.needs_statistics:
            return self.decide(self.outputs(pixels), stated=stated)
        results = self.bundle.decision.decide(self.logits(pixels), names=self.labels.names)
        return results if stated is None else results.with_refusals(self.bundle.scope.refusals(stated, None))

    @property
    def needs_statistics(self) -> bool:
        """Whether the input statistics decide: with an OOD detector, or a scope that the modality detector checks."""
        return self.bundle.decision.ood is not None or self.bundle.checks_modality

    def decide(self, outputs: Outputs, pixels: Pixels | None = None, stated: Sequence[Stated] | None = None) -> DecisionResults:
        """Applies the bundle's decision to network outputs, and its scope to what the files state.

        Args:
            outputs: The result of :meth:`outputs`.
            pixels: As for :meth:`logits`. Needed only if ``outputs`` has no statistics, and the bundle has an OOD detector or a
                modality.
            stated: What the file of each slice states; images outside the scope of the bundle are then refused. None does not
                check the scope.

        Raises:
            UsageError: If the bundle has an OOD detector, and neither statistics nor pixels are given.
            InputError: If a value is not finite.
        """
        statistics, brain = outputs.statistics, outputs.brain
        if statistics is None and pixels is not None and self.needs_statistics:
            statistics, brain = self.measure(pixels)
        results = self.bundle.decision.decide(outputs.logits, outputs.features, statistics, self.labels.names)
        if stated is None:
            return results
        looks = statistics if self.bundle.checks_modality else None
        return results.with_refusals(self.bundle.scope.refusals(stated, looks, brain))

    @overload  # a string is one source, although it is also an iterable of strings
    def predict(  # type: ignore[overload-overlap]
        self, source: Source, batch_size: int = 32, *, unit: Unit | None = None
    ) -> list[Prediction]: ...

    @overload
    def predict(self, source: Iterable[Source], batch_size: int = 32, *, unit: Unit | None = None) -> Iterator[Prediction]: ...

    def predict(
        self, source: Source | Iterable[Source], batch_size: int = 32, *, unit: Unit | None = None
    ) -> list[Prediction] | Iterator[Prediction]:
        """Predicts one source, or several in the given order.

        Slices of several files share a batch. A missing or unreadable file gives one prediction with an error; the other
        files are still predicted.

        Args:
            source: A file, a folder (all images in it; a DICOM series ordered by slice position) or a glob; an ``Image``; an
                array (H, W) or (D, H, W); or an iterable of these.
            batch_size: Number of slices per batch, at least 1.
            unit: ``HU``, ``MR`` or ``gray``, of arrays (optional for uint8) and of files that state none, such as NIfTI.

        Returns:
            One prediction per slice: a list for one source, a lazy iterator for an iterable.

        Raises:
            UsageError: If the batch size is not a positive integer, a source has an unsupported type, or an array has no
                unit.
        """
        self.bundle.require_slices("Classifier.predict")
        predictions = (p for p, _ in self.predict_with_images(as_sources(source), batch_size, unit=unit))
        return list(predictions) if isinstance(source, _SINGLE_SOURCE) else predictions

    def predict_with_images(
        self, sources: Iterable[Source], batch_size: int = 32, *, unit: Unit | None = None, keep_images: bool = False
    ) -> Iterator[tuple[Prediction, Image | None]]:
        """Predicts several sources and yields each prediction with its slice, so that no file is read twice.

        Args:
            sources: As for :meth:`predict`.
            batch_size: Number of slices per batch, at least 1.
            unit: Unit of arrays, and of files that state none.
            keep_images: Whether to yield the slices; they are kept in memory for one batch.

        Returns:
            A lazy iterator of predictions and slices; the slice is None if it could not be read or ``keep_images`` is false.

        Raises:
            UsageError: As for :meth:`predict`.
        """
        self.bundle.require_slices("Classifier.predict_with_images")
        return (
            (prediction, item.image)
            for prediction, item in self.predict_slices(sources, batch_size, unit=unit, keep_images=keep_images)
        )

    def predict_slices(
        self,
        sources: Iterable[Source | ListedFiles],
        batch_size: int = 32,
        *,
        unit: Unit | None = None,
        keep_images: bool = False,
        measure: bool = False,
        workers: int = 0,
    ) -> Iterator[tuple[Prediction, Slice]]:
        """Predicts several sources and yields each prediction with its slice, without pixels.

        Where a case of the bundle is a series, a slice has its outputs instead of a prediction with a label.

        Args:
            sources: As for :meth:`predict`; also files that were listed before.
            batch_size: Number of slices per batch, at least 1.
            unit: Unit of arrays, and of files that state none.
            keep_images: Whether the slices keep their images.
            measure: Whether to read what decides about the series of a slice: geometry, format and head area.
            workers: Number of worker processes that read files while the network runs; not used with ``keep_images``.

        Raises:
            UsageError: As for :meth:`predict`.
        """
        if not isinstance(batch_size, int | np.integer) or batch_size < 1:
            raise UsageError(f"The batch size is {batch_size}", "The batch size must be a positive integer", "Use 32")
        bundle = self.bundle
        reader = SliceReader(bundle.preprocess, bundle.scope, bundle.case, self.sequence, unit, measure)
        items = in_blocks(sources, int(batch_size))
        return self._stream(read_slices(reader, items, 0 if keep_images else workers), int(batch_size), keep_images)

    def predict_pixels(self, pixels: Pixels | torch.Tensor) -> list[Prediction]:
        """Predicts preprocessed slices. A slice whose outputs are not finite gets an error; the others get a prediction.

        The scope of the bundle is not checked, see :meth:`refusal`.

        Args:
            pixels: As for :meth:`logits`.

        Returns:
            One prediction per slice, in order, with an empty path.

        Raises:
            UsageError: If the pixels have a different shape or type.
        """
        self.bundle.require_slices("Classifier.predict_pixels")
        return [p for p, _ in self._predict_batch([Slice("", None, row) for row in self._checked(pixels)])]

    def _stream(self, slices: Iterable[Slice | None], batch_size: int, keep_images: bool) -> Iterator[tuple[Prediction, Slice]]:
        batch, readable = list[Slice](), 0
        for item in slices:
            if item is not None:  # None begins a new batch
                batch.append(item if keep_images else replace(item, image=None))
                readable += item.pixels is not None
            if item is None or not readable or len(batch) == batch_size:  # an error or a refusal does not wait for pixels
                yield from self._predict_batch(batch)
                batch, readable = [], 0
        yield from self._predict_batch(batch)

    def _predict_batch(self, items: Sequence[Slice]) -> Iterator[tuple[Prediction, Slice]]:
        """Yields one prediction per item, in order, with the item without its pixels."""
        rows = [(item.pixels, item.stated) for item in items if item.pixels is not None]
        stated = [content for _, content in rows if content is not None]
        outputs = self.outputs(np.stack([row for row, _ in rows])) if rows else None
        if self.bundle.case == "series":
            yield from with_outputs(items, outputs)
            return
        results = iter(() if outputs is None else self._decide_rows(outputs, stated))
        for item in items:
            if item.refused is not None:
                prediction = self.refused_prediction(item.refused, item.path, item.index)
                yield replace(prediction, notes=item.notes), item
                continue
            result = item.error if item.pixels is None else next(results)
            if isinstance(result, str | None):
                yield Prediction(item.path, item.index, error=result, notes=item.notes), replace(item, pixels=None)
            else:
                prediction = replace(self.prediction(*result, item.path, item.index), notes=item.notes)
                yield prediction, replace(item, pixels=None)

    def _decide_rows(self, outputs: Outputs, stated: Sequence[Stated]) -> list[tuple[DecisionResults, int] | str]:
        """Returns for each slice the results and its row in them, or its error; if a batch fails, each slice is tried alone."""
        try:
            results = self.decide(outputs, stated=stated or None)
            return [(results, row) for row in range(len(outputs.logits))]
        except InputError as error:
            if len(outputs.logits) == 1:
                return [str(error)]
            return [
                result
                for row in range(len(outputs.logits))
                for result in self._decide_rows(outputs.row(row), stated[row : row + 1])
            ]

    def prediction(self, results: DecisionResults, row: int, path: str, index: int | None = None) -> Prediction:
        """Returns one row of decision results as a prediction.

        Args:
            results: The result of :meth:`classify` or :meth:`decide`.
            row: Row of the slice in ``results``.
            path: Path or name of the source.
            index: Position of the slice in a file with several slices; None for a file with one.
        """
        if results.refused and results.refused[row]:
            return self.refused_prediction(results.reasons[row][0], path, index)
        if results.by_label:
            of_labels = prediction_of_labels(self.labels, self.bundle.decision, results, row)
            return replace(of_labels, path=path, slice=index)
        names = self.labels.names
        label = names[int(results.predicted[row])]
        by_class = dict(zip(names, (float(p) for p in results.probabilities[row]), strict=True))
        abstain, sets = results.abstain if self.bundle.decision.abstains else None, results.prediction_sets
        return Prediction(
            path,
            index,
            label,
            by_class[label],
            by_class,
            prediction_set=None if sets is None else tuple(names[k] for k in np.flatnonzero(sets[row])),
            abstain=None if abstain is None else bool(abstain[row]),
            reasons=None if abstain is None else tuple(results.reasons[row]),
            ood_score=None if results.ood_score is None else float(results.ood_score[row]),
            threshold=self.bundle.decision.threshold,
            certainty=self.bundle.decision.certainty(list(by_class.values()), None if abstain is None else bool(abstain[row])),
        )

    def refusal(self, pixels: Pixels, stated: Stated) -> str | None:
        """Returns why a slice is outside the scope of the bundle, by its file or its look; None if it is not.

        Args:
            pixels: (planes, S, S) uint8 from ``Preprocess.pixels``.
            stated: What the file states.
        """
        by_look = self.bundle.checks_modality and stated.modality is None
        statistics = input_statistics(pixels[None]) if by_look else None
        return self.bundle.scope.refusals([stated], statistics, self.bundle.scope.brain_shares(pixels[None]))[0]

    def refused_prediction(self, reason: str, path: str, index: int | None = None) -> Prediction:
        """Returns the prediction for a slice that is outside the scope of the bundle: no label, but the reason."""
        threshold = self.bundle.decision.threshold
        return Prediction(path, index, abstain=True, reasons=(reason,), threshold=threshold, certainty="no answer")

    def _checked(self, pixels: Pixels | torch.Tensor) -> Pixels:
        """Returns the pixels as an array; raises ``UsageError`` if shape or type is wrong."""
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
