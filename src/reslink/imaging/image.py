"""The image type: pixels in physical units with their provenance."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reslink.imaging.orientation import Edges, Kind, Orientation

Unit = Literal["HU", "MR", "gray"]
Modality = Literal["CT", "MR"]
Plane = Literal["axial", "coronal", "sagittal"]


class Stated(NamedTuple):
    """What a file states about its content; None for what it does not state.

    Attributes:
        modality: ``CT`` or ``MR``.
        sequence: Contrast of MR, such as T1, T2 or FLAIR.
        plane: ``axial``, ``coronal`` or ``sagittal``.
        excluded: Why it is not a slice of a head CT or MR, such as a localizer.
    """

    modality: Modality | None = None
    sequence: str | None = None
    plane: Plane | None = None
    excluded: str | None = None

    @property
    def implied_modality(self) -> Modality | None:
        """The modality; MR where only a sequence is stated."""
        return self.modality or ("MR" if self.sequence else None)

    def with_sequence(self, sequence: str | None) -> Stated:
        """Returns it with the sequence that a user or a table states, which replaces that of the file; None keeps it."""
        return self._replace(sequence=sequence or self.sequence)


NOTHING_STATED: Final = Stated()
"""Of files such as PNG and JPEG."""


@dataclass(frozen=True, eq=False)
class Image:
    """An image or volume as acquired, before any preprocessing.

    Attributes:
        pixels: (H, W) or (D, H, W) float32, read-only. HU for CT (rescale applied), raw intensity for MR, gray values otherwise
            (0 to ``white``); never windowed, never inverted.
        unit: ``HU``, ``MR`` (arbitrary intensity) or ``gray`` (a picture that was windowed before it was saved).
        modality: ``CT`` or ``MR`` if the file or the user states it, or HU are certain by the histogram; else None.
        spacing: Distance between pixel centers along each axis of ``pixels`` in millimeters, or None if not stated.
        white: For ``gray``, the maximum of the file's bit depth (255 or 65535); None otherwise.
        padding: Boolean mask, shaped like ``pixels``, of pixels without a measurement (DICOM Pixel Padding Value), or None.
        inverted: Whether high values are shown dark (DICOM MONOCHROME1). Preprocessing inverts after the window is applied.
        window: Center and width proposed by the file (DICOM VOI LUT Module, PS3.3 C.11.2), or None.
        source: File name for messages; never a patient name.
        orientation: How the stored rows and columns were turned to the radiological view; None if the file does not state its
            orientation, and the pixels are as stored.
        excluded: Why the header says that this is not a slice of a head CT or MR, such as a localizer; None if it may be one.
        sequence: Contrast of MR, such as T1, T2 or FLAIR, if the file states it.
        plane: ``axial``, ``coronal`` or ``sagittal`` if the file states it.
        edges: Sides of the patient at the left, right, top and bottom (R, L, A, P, H, F) if the file states them; also of each
            slice of a volume.
        notes: What the file does not state and was assumed, one sentence each, without a file name. Predictions carry it.
    """

    pixels: NDArray[np.float32]
    unit: Unit
    modality: Modality | None = None
    spacing: tuple[float, ...] | None = None
    white: float | None = None
    padding: NDArray[np.bool_] | None = None
    inverted: bool = False
    window: tuple[float, float] | None = None
    source: str = ""
    orientation: Orientation | None = None
    notes: tuple[str, ...] = ()
    excluded: str | None = None
    sequence: str | None = None
    plane: Plane | None = None
    edges: Edges | None = None

    def __post_init__(self) -> None:
        self.pixels.setflags(write=False)

    @property
    def stated(self) -> Stated:
        """What the file states about its content."""
        return Stated(self.modality, self.sequence, self.plane, self.excluded)

    def to_stored(self, plane: NDArray[Kind]) -> NDArray[Kind]:
        """Returns a plane with the rows and columns of the image in those of the file."""
        return plane if self.orientation is None else self.orientation.to_stored(plane)

    def slices(self) -> list[Image]:
        """Returns the (H, W) slices of a volume in order; a single slice returns itself."""
        if self.pixels.ndim == 2:
            return [self]
        spacing = self.spacing[1:] if self.spacing else None
        return [
            replace(
                self,
                pixels=plane,
                spacing=spacing,
                padding=None if self.padding is None else self.padding[i],
            )
            for i, plane in enumerate(self.pixels)
        ]


class SliceFormat(NamedTuple):
    """Properties that all slices of a series share.

    Attributes:
        shape: Shape of the pixels.
        values: Unit, whether high values are shown dark, and the maximum of a picture.
        spacing: Distance between pixel centers in millimeters, or None.
        orientation: As in :class:`Image`.
    """

    shape: tuple[int, ...]
    values: tuple[Unit, bool, float | None]
    spacing: tuple[float, ...] | None
    orientation: Orientation | None = None

    def difference(self, other: SliceFormat) -> str | None:
        """Returns the plural name of the first property that differs; None if both slices can be in one series."""
        if self.shape != other.shape:
            return "sizes"
        if self.values != other.values:
            return "kinds of values"
        if self.spacing and other.spacing and not np.allclose(self.spacing, other.spacing, rtol=1e-3):
            return "pixel spacings"
        if self.orientation != other.orientation:
            return "orientations"
        return None


def slice_format(image: Image) -> SliceFormat:
    """Returns the properties that a slice must share with the others of its series."""
    return SliceFormat(image.pixels.shape, (image.unit, image.inverted, image.white), image.spacing, image.orientation)
