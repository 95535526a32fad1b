"""What a reader returns: pixels in physical units and where they came from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Unit = Literal["HU", "MR", "grey"]
Modality = Literal["CT", "MR"]


@dataclass(frozen=True, eq=False)
class Image:
    """One image or volume as it was acquired, before any preprocessing.

    Attributes:
        pixels: (H, W) or (D, H, W) float32, read-only. HU for CT (rescale applied), raw intensity for MR, grey value otherwise
            (0 to ``white``); never windowed, never inverted.
        unit: ``HU``, ``MR`` (arbitrary intensity) or ``grey`` (a picture, already windowed by whoever made it).
        modality: ``CT`` or ``MR`` where the file says so.
        spacing: Millimetres between pixel centres along each axis of ``pixels``, where the file says so.
        white: For ``grey``, the largest value that the file's bit depth can hold (255 or 65535); None otherwise.
        padding: Boolean mask like ``pixels`` of pixels that hold no measurement (DICOM Pixel Padding Value), or None.
        inverted: Whether high values are shown dark (DICOM MONOCHROME1); undone after the window, never before.
        window: Centre and width that the file proposes (DICOM VOI LUT Module, PS3.3 C.11.2), or None.
        source: File name for messages; never a patient name.
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

    def __post_init__(self) -> None:
        self.pixels.setflags(write=False)

    def slices(self) -> list[Image]:
        """Returns the (H, W) images of a volume in order; an image alone for a single slice."""
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


class Likeness(NamedTuple):
    """What the slices of a series have in common.

    Attributes:
        shape: Of the pixels.
        values: Unit, whether high values are shown dark, and the largest value of a picture.
        spacing: Millimetres between pixel centres, or None.
    """

    shape: tuple[int, ...]
    values: tuple[Unit, bool, float | None]
    spacing: tuple[float, ...] | None

    def difference(self, other: Likeness) -> str | None:
        """Returns what two slices differ in, in the plural; None for two that may stand in one series."""
        if self.shape != other.shape:
            return "sizes"
        if self.values != other.values:
            return "kinds of values"
        if self.spacing and other.spacing and not np.allclose(self.spacing, other.spacing, rtol=1e-3):
            return "pixel spacings"
        return None


def likeness_of(image: Image) -> Likeness:
    """Returns what a slice must share with the others of its series."""
    return Likeness(image.pixels.shape, (image.unit, image.inverted, image.white), image.spacing)
