"""What images a bundle is for, and the one rule that decides whether an image is classified."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from reslink.bundles.modality_detector import modality_detector
from reslink.errors import counted
from reslink.imaging.image import Modality, Plane, Stated
from reslink.imaging.input_statistics import brain_share, min_brain_share
from reslink.imaging.preprocess import Preprocess
from reslink.settings_text import without_newer_defaults

MIN_SHARE: Final = 0.98
"""A bundle has a modality, or sequences or planes, if at least this share of its training images has them."""

LITTLE_BRAIN: Final = "it shows little brain"
"""Start of the reason why a CT slice of the face, the neck or the vertex is refused."""


class Scope(BaseModel):
    """The images that a bundle is for.

    Attributes:
        modality: ``CT`` or ``MR``; None if the training images do not tell, so that any image is classified.
        sequences: Contrasts of MR, such as ``FLAIR``; empty for any.
        planes: ``axial``, ``coronal``, ``sagittal``; empty for any.
        population: Who the patients of the training images are, in words, such as ``adults with a suspected hemorrhage``;
            empty if that is not known.
        body_part: Part of the body. DICOM files that state another part are refused by every bundle.
        min_brain_share: Smallest share of the head that the brain has in a slice of CT, from
            :func:`reslink.imaging.input_statistics.brain_share`; None classifies slices without a brain as well.
        source: Where this comes from, for the model card.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    modality: Modality | None = None
    sequences: tuple[str, ...] = ()
    planes: tuple[Plane, ...] = ()
    population: str = ""
    body_part: Literal["head"] = "head"
    min_brain_share: float | None = Field(default=None, gt=0, lt=1)
    source: str = "not known"

    @model_serializer(mode="wrap")
    def _serialize(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_newer_defaults(self, serialize(self), "min_brain_share")

    def __str__(self) -> str:
        words = (" or ".join(self.planes), " or ".join(self.sequences), self.modality or "CT or MR")
        return f"{' '.join(filter(None, words))} of the {self.body_part}"

    @property
    def sentence(self) -> str:
        """What the model is for, in a sentence."""
        return f"The model is for {self}; patients: {self.population or 'not described'}."

    @classmethod
    def of_training(cls, stated: Sequence[Stated], statistics: NDArray[np.float64] | None) -> Self:
        """Returns the scope of a bundle that was trained on some images.

        Args:
            stated: What the file of each training image states.
            statistics: (n, 33) input statistics of some training images whose file states no modality; the modality detector
                decides about these images. None or empty if there are none, or if the preprocessing does not isolate the head.
        """
        looks = modality_detector().classify(statistics) if statistics is not None and len(statistics) else []
        modality = _common([item.implied_modality for item in stated], looks)
        source = "recognized in the training images" if looks else "stated by the training files"
        return cls(
            modality=modality,
            sequences=_frequent(item.sequence for item in stated) if modality == "MR" else (),
            planes=_frequent(item.plane for item in stated),
            source=source if modality else "not known: the training images do not have one modality",
        )

    def with_brain_rule(self, preprocess: Preprocess) -> Self:
        """Returns the scope without slices that show little brain, if the preprocessing lets them be recognized."""
        return self.model_copy(update={"min_brain_share": min_brain_share(self.modality, preprocess)})

    def brain_shares(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64] | None:
        """Returns the (n,) brain shares of preprocessed slices (n, planes, S, S); None if this scope does not need them."""
        return None if self.min_brain_share is None else brain_share(pixels)

    def refusal(self, stated: Stated) -> str | None:
        """Returns why an image is not classified, by what its file states; None if it is, or if the file states nothing."""
        if stated.excluded is not None:
            return stated.excluded
        if self.modality and stated.modality and stated.modality != self.modality:
            return f"the file is {stated.modality}, and the model is for {self}"
        if self.modality == "CT" and stated.implied_modality == "MR":
            return f"the sequence {stated.sequence} is of MR, and the model is for {self}"
        if self.sequences and stated.sequence and stated.sequence not in self.sequences:
            return f"the sequence is {stated.sequence}, and the model is for {self}"
        if self.planes and stated.plane and stated.plane not in self.planes:
            return f"the slice is {stated.plane}, and the model is for {self}"
        return None

    def refusals(
        self, stated: Sequence[Stated], statistics: NDArray[np.float64] | None, brain: NDArray[np.float64] | None = None
    ) -> list[str | None]:
        """Returns for each image why it is not classified, by its file or by its look.

        The look decides about the modality where the file states none, and about the brain in every image.

        Args:
            stated: What the file of each image states.
            statistics: (n, 33) from ``input_statistics``, of isolated heads; None if only the files decide.
            brain: (n,) brain shares; None does not check them.
        """
        refusals = self._modality_refusals(stated, statistics)
        if self.min_brain_share is None or brain is None:
            return refusals
        shares = zip(refusals, brain.tolist(), strict=True)
        return [_little_brain(share, self.min_brain_share) if reason is None else reason for reason, share in shares]

    def _modality_refusals(self, stated: Sequence[Stated], statistics: NDArray[np.float64] | None) -> list[str | None]:
        refusals = [self.refusal(item) for item in stated]
        rows = [i for i, item in enumerate(stated) if item.modality is None and refusals[i] is None]
        if self.modality is None or statistics is None or not rows:
            return refusals
        for i, look in zip(rows, modality_detector().classify(statistics[rows]), strict=True):
            if look is None:
                refusals[i] = f"it looks like neither CT nor MR of a head, and the model is for {self}"
            elif look != self.modality:
                refusals[i] = f"it looks like {look}, and the model is for {self}"
        return refusals


def _little_brain(share: float, needed: float) -> str | None:
    if share >= needed:
        return None
    return f"{LITTLE_BRAIN}: {math.floor(100 * share)} % of the head, and the model needs {100 * needed:g} %"


def reason_kind(reason: str) -> str:
    """Returns a reason without the numbers of the image, so that equal reasons can be counted."""
    return LITTLE_BRAIN if reason.startswith(LITTLE_BRAIN) else reason


def shows_little_brain(reasons: Iterable[str] | None) -> bool:
    """Returns whether an image is refused because it shows little brain.

    Args:
        reasons: ``Prediction.reasons`` of a refused image.
    """
    return any(reason_kind(reason) == LITTLE_BRAIN for reason in reasons or ())


def refused_texts(evaluation: Mapping[str, Any]) -> list[str]:
    """Returns how many images of an evaluation were refused, a clause for each reason; empty without any.

    Args:
        evaluation: With ``n_refused``, and the reasons by case name under ``refused`` if they are known.
    """
    reasons = Counter(map(reason_kind, (evaluation.get("refused") or {}).values()))
    counts = {f": {reason}": n for reason, n in reasons.items()} or {"": evaluation.get("n_refused") or 0}
    return [f"{counted(n, 'image')} refused and not counted{reason}" for reason, n in counts.items() if n]


def _common(stated: Sequence[Modality | None], looks: Sequence[Modality | None]) -> Modality | None:
    """Returns the modality that nearly all images have, or None; ``looks`` is a sample of those that state none."""
    n_silent = stated.count(None)
    for name in ("CT", "MR"):
        n = stated.count(name) + (n_silent * looks.count(name) / len(looks) if looks else 0)
        if stated and n >= MIN_SHARE * len(stated):
            return name
    return None


def _frequent(values: Iterable[Any]) -> tuple[Any, ...]:
    """Returns the most frequent values that nearly all images have together; empty if too many images state none."""
    counts = Counter(values)
    needed, found = MIN_SHARE * counts.total(), []
    del counts[None]
    for value, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if needed <= 0:
            break
        found.append(value)
        needed -= n
    return tuple(sorted(found)) if needed <= 0 else ()
