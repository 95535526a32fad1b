"""The image type: pixels in physical units with their provenance."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Unit = Literal["HU", "MR", "gray"]
Modality = Literal["CT", "MR"]


@dataclass(frozen=True, eq=False)
class Image:
    """An image or volume as acquired, before any preprocessing.

    Attributes:
        pixels: (H, W) or (D, H, W) float32, read-only. HU for CT (rescale applied), raw intensity for MR, gray values otherwise
            (0 to ``white``); never windowed, never inverted.
        unit: ``HU``, ``MR`` (arbitrary intensity) or ``gray`` (a picture that was windowed before it was saved).
        modality: ``CT`` or ``MR`` if the file states it, else None.
        spacing: Distance between pixel centers along each axis of ``pixels`` in millimeters, or None if not stated.
        white: For ``gray``, the maximum of the file's bit depth (255 or 65535); None otherwise.
        padding: Boolean mask, shaped like ``pixels``, of pixels without a measurement (DICOM Pixel Padding Value), or None.
        inverted: Whether high values are shown dark (DICOM MONOCHROME1). Preprocessing inverts after the window is applied.
        window: Center and width proposed by the file (DICOM VOI LUT Module, PS3.3 C.11.2), or None.
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
    """

    shape: tuple[int, ...]
    values: tuple[Unit, bool, float | None]
    spacing: tuple[float, ...] | None

    def difference(self, other: SliceFormat) -> str | None:
        """Returns the plural name of the first property that differs; None if both slices can be in one series."""
        if self.shape != other.shape:
            return "sizes"
        if self.values != other.values:
            return "kinds of values"
        if self.spacing and other.spacing and not np.allclose(self.spacing, other.spacing, rtol=1e-3):
            return "pixel spacings"
        return None


def slice_format(image: Image) -> SliceFormat:
    """Returns the properties that a slice must share with the others of its series."""
    return SliceFormat(image.pixels.shape, (image.unit, image.inverted, image.white), image.spacing)
