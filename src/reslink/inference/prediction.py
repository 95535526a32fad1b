"""The prediction for one slice, and the slice on its way to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from reslink.bundles.decision.decision import Certainty
from reslink.bundles.scope import reason_kind
from reslink.imaging.image import Image, SliceFormat, Stated
from reslink.inference.backends import Pixels
from reslink.inference.outputs import Outputs
from reslink.labels import NO_LABEL
from reslink.notebook import html_table
from reslink.printable_names import printable


@dataclass(frozen=True)
class LabelPrediction:
    """The prediction for one of several labels at once.

    Attributes:
        present: Whether its probability reaches the threshold; filled in even if the model abstains.
        probability: The probability that it is present, 0 to 1.
        threshold: The lowest probability that counts as present.
        prediction_set: The states in the conformal prediction set, ``absent`` and ``present``; None if the bundle has none.
        abstain: Whether the model abstains from this label; None if the bundle has neither prediction sets nor an OOD detector.
        reasons: Why; empty if it does not abstain, None if ``abstain`` is None. A reason of the image holds for every label.
        certainty: As ``Prediction.certainty``.
    """

    present: bool
    probability: float
    threshold: float
    prediction_set: tuple[str, ...] | None
    abstain: bool | None
    reasons: tuple[str, ...] | None
    certainty: Certainty

    def as_dict(self) -> dict[str, Any]:
        """Returns the JSON form."""
        lists = {"prediction_set": self.prediction_set, "reasons": self.reasons}
        return vars(self) | {name: None if value is None else list(value) for name, value in lists.items()}


def answer_text(label: str, by_label: Mapping[str, LabelPrediction]) -> str:
    """Returns the answer for several labels at once: those present, and those that the model abstains from.

    Args:
        label: ``Prediction.label``.
        by_label: ``Prediction.by_label``.
    """
    declined = [name for name, one in by_label.items() if one.abstain]
    if not declined:
        return label
    present = " + ".join(name for name, one in by_label.items() if one.present and not one.abstain)
    return partial_answer(present, declined, len(by_label))


def partial_answer(present: str, declined: Sequence[str], n_labels: int) -> str:
    """Returns the answer for several labels at once if the model abstains from some, or from all of them.

    Args:
        present: The labels that are present, joined; empty without one.
        declined: The labels that the model abstains from.
        n_labels: The number of labels.
    """
    refusal = f"no answer for {', '.join(declined)}"
    return refusal if len(declined) == n_labels else f"{present or NO_LABEL}, {refusal}"


@dataclass(frozen=True)
class Prediction:
    """The prediction for one slice, or the error that prevented it.

    Attributes:
        path: The path of the file, or the name of an image or array in memory.
        slice: Position in a file with several slices, or of a DICOM file in the series of its folder, from 0; None for others.
        label: The predicted class; None if there is an error, or if the image is refused: its file states something else than
            the model is for, or it looks so. ``reasons`` then says why. With several labels at once, those present, such as
            ``epidural + subdural``, or ``no label``.
        probability: The probability of ``label``, 0 to 1; None with several labels at once.
        probabilities: The probability of each class; their sum is 1. With several labels at once, that each is present.
        prediction_set: The classes in the conformal prediction set, in the order of the labels; None if the bundle has no
            prediction sets. The set may be empty.
        abstain: Whether the model abstains; None if the bundle has neither prediction sets nor an OOD detector. ``label`` is
            filled in even if the model abstains.
        reasons: Why the model abstains; empty if it does not, None if ``abstain`` is None.
        ood_score: Out-of-distribution score: the distance from the calibration images relative to the limit, so that
            the model abstains above 1. None if the bundle has no OOD detector.
        error: Why there is no prediction; None if there is one.
        threshold: With two classes, the lowest probability of the positive (last) class that gives the positive label; None
            with more classes, or if the most probable class is chosen.
        certainty: ``decided``, ``uncertain``, ``uncalibrated`` or ``no answer``, see
            :meth:`reslink.bundles.decision.decision.Decision.certainty`; None if there is an error.
        notes: What the file does not state and was assumed, see ``Image.notes``.
        by_label: The prediction for each of several labels at once; None with one class per image. ``prediction_set``,
            ``threshold`` and ``certainty`` are then there, and ``abstain`` concerns the whole image.
    """

    path: str
    slice: int | None = None
    label: str | None = None
    probability: float | None = None
    probabilities: dict[str, float] | None = None
    prediction_set: tuple[str, ...] | None = None
    abstain: bool | None = None
    reasons: tuple[str, ...] | None = None
    ood_score: float | None = None
    error: str | None = None
    threshold: float | None = None
    certainty: Certainty | None = None
    notes: tuple[str, ...] = ()
    by_label: dict[str, LabelPrediction] | None = None

    @property
    def is_refused(self) -> bool:
        """Whether the image is outside the scope of the model, so that there is no label."""
        return self.error is None and self.label is None

    def __repr__(self) -> str:
        name = printable(self.path or "array")
        source = name if self.slice is None else f"{name} slice {self.slice}"
        if self.error is not None:
            return f"Prediction({source}: error {self.error!r})"
        if self.is_refused:
            return f"Prediction({source}: refused, {'; '.join(self.reasons or ())})"
        abstains = f", abstains: {'; '.join(self.reasons or ())}" if self.abstain else ""
        if self.by_label is not None:
            shown = ", ".join(f"{name} {one.probability:.3f}" for name, one in self.by_label.items())
            return f"Prediction({source}: {self.label}; probabilities: {shown}{abstains})"
        return f"Prediction({source}: {self.label}, probability {self.probability:.3f}{abstains})"

    def _repr_html_(self) -> str:
        probabilities = {f"probability of {name}": f"{p:.3f}" for name, p in (self.probabilities or {}).items()}
        rows = {
            "file": printable(self.path),
            "slice": self.slice,
            "label": self.label,
            **probabilities,
            "prediction set": None if self.prediction_set is None else ", ".join(self.prediction_set) or "empty",
            "threshold": self.threshold,
            "certainty": self.certainty,
            "refused" if self.is_refused else "abstains": "; ".join(self.reasons or ()) if self.abstain else None,
            "OOD score": None if self.ood_score is None else f"{self.ood_score:.3g}",
            "notes": "; ".join(self.notes) or None,
            "error": self.error,
        }
        return html_table("Prediction", rows)

    def as_dict(self) -> dict[str, Any]:
        """Returns the JSON form; it has the key ``slice`` only for files with several slices."""
        source = {"path": self.path} if self.slice is None else {"path": self.path, "slice": self.slice}
        return source | {
            "label": self.label,
            "probability": self.probability,
            "probabilities": self.probabilities,
            "prediction_set": None if self.prediction_set is None else list(self.prediction_set),
            "abstain": self.abstain,
            "reasons": None if self.reasons is None else list(self.reasons),
            "ood_score": self.ood_score,
            "error": self.error,
            "threshold": self.threshold,
            "certainty": self.certainty,
            "notes": list(self.notes),
            **({} if self.by_label is None else {"by_label": {name: one.as_dict() for name, one in self.by_label.items()}}),
        }


def distinct_reasons(predictions: Sequence[Prediction]) -> tuple[str, ...]:
    """Returns the reasons of some predictions, each once, and without the numbers of a single image."""
    return tuple(dict.fromkeys(reason_kind(reason) for prediction in predictions for reason in prediction.reasons or ()))


@dataclass(frozen=True)
class Slice:
    """One slice in the queue: its preprocessed pixels, or its error.

    Attributes:
        path: The path of the file, or the name of an image or array.
        index: As ``Prediction.slice``.
        pixels: (planes, S, S) uint8; None if there is an error.
        error: Why there are no pixels.
        image: The slice.
        notes: As ``Image.notes``.
        count: Number of slices in the file.
        folder: The folder or glob that the file was found in; empty for other files.
        geometry: As ``read_with_geometry`` returns it; empty if it was not read.
        slice_format: What the slice shares with the others of its series; None if it was not read.
        head_area: Number of pixels of the head, for slices that may belong to a series; None if it was not measured.
        stated: What the file states about its content; None does not check the scope of the bundle.
        refused: Why the slice is not classified, by what its file states; None if it is. It has no pixels then.
        outputs: What the network returned for it, B = 1, where a case of the bundle is a series; None for others.
    """

    path: str
    index: int | None
    pixels: Pixels | None
    error: str | None = None
    image: Image | None = None
    notes: tuple[str, ...] = ()
    count: int = 1
    folder: str = ""
    geometry: Mapping[str, Any] = field(default_factory=dict)
    slice_format: SliceFormat | None = None
    head_area: int | None = None
    stated: Stated | None = None
    refused: str | None = None
    outputs: Outputs | None = None


def with_outputs(items: Sequence[Slice], outputs: Outputs | None) -> Iterator[tuple[Prediction, Slice]]:
    """Yields slices of series with their outputs; their predictions hold an error, the refusal or nothing."""
    row = 0
    for item in items:
        own = None
        if item.pixels is not None and outputs is not None:
            own, row = outputs.row(row), row + 1
        yield Prediction(item.path, item.index, error=item.error, notes=item.notes), replace(item, pixels=None, outputs=own)
