"""Thumbnails for the audit report, with text made illegible."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

from reslink.audit.features.outside_head import outside_head_mask
from reslink.datasets.cache.decode import read_slice
from reslink.datasets.manifest import Manifest
from reslink.errors import ReslinkError
from reslink.imaging.image import Image, Unit

MAX_LENGTH: Final = 168
"""Length of the longer edge of a thumbnail in pixels."""

MIN_BLOCK: Final = 7
"""Text is replaced by blocks of at least this many pixels: the page shows that there is text, but not what it says."""

WINDOW: Final = (-20.0, 100.0)

Gray = NDArray[np.uint8]


@dataclass
class Pictures:
    """Draws thumbnails of cases; each file is read once.

    Attributes:
        paths: File of each case, by case name.
        boxes: Regions that look like text, by case name, in pixels of the file.
        units: The stated unit of each case, by case name.
    """

    paths: Mapping[str, Path]
    boxes: Mapping[str, list[dict[str, Any]]]
    units: Mapping[str, Unit | None] = field(default_factory=dict)
    _read: dict[str, tuple[Gray, Gray] | None] = field(default_factory=dict)

    @classmethod
    def of(cls, manifest: Manifest, audit: Mapping[str, Any]) -> Pictures:
        """Returns the thumbnails of an audited data set."""
        units = {case.name: case.unit for case in manifest.cases}
        return cls({case.name: case.path for case in manifest.cases}, audit["text_boxes"], units)

    def whole(self, name: str, orientation: int = 0) -> str:
        """Returns a thumbnail as a data URI; empty if the file can no longer be read.

        Args:
            name: Name of the case.
            orientation: The image is rotated by 90° ``orientation % 4`` times, and mirrored if 4 or more.
        """
        thumbnails = self._thumbnails(name)
        if thumbnails is None:
            return ""
        rotated = np.rot90(thumbnails[0], orientation % 4)
        return _data_uri(rotated[:, ::-1] if orientation >= 4 else rotated)

    def outside_head(self, name: str) -> str:
        """Returns a thumbnail with the head blanked, as the shortcut check sees it."""
        thumbnails = self._thumbnails(name)
        return "" if thumbnails is None else _data_uri(thumbnails[1])

    def _thumbnails(self, name: str) -> tuple[Gray, Gray] | None:
        if name not in self._read:
            try:
                self._read[name] = self._draw(name)
            except (ReslinkError, KeyError, MemoryError):
                self._read[name] = None
        return self._read[name]

    def _draw(self, name: str) -> tuple[Gray, Gray]:
        image = read_slice(self.paths[name], name, self.units.get(name))
        gray = _gray(image)
        for box in self.boxes.get(name, ()):
            _blur(gray, box)
        outside = np.where(outside_head_mask(image), gray, np.uint8(96))
        return _small(gray), _small(outside)


def _gray(image: Image) -> Gray:
    pixels = image.pixels[np.isfinite(image.pixels)]
    if image.unit == "HU":
        low, high = WINDOW
    elif image.unit == "gray":
        low, high = 0.0, image.white or 255.0
    else:
        low, high = (float(v) for v in np.percentile(pixels, (0.5, 99.5))) if pixels.size else (0.0, 1.0)
    unit = np.clip((np.nan_to_num(image.pixels) - low) / max(high - low, 1e-6), 0, 1)
    return np.asarray(np.rint(255 * (1 - unit if image.inverted else unit)), np.uint8)


def _blur(gray: Gray, box: Mapping[str, Any]) -> None:
    """Makes the text in a box illegible: blocks of one gray value, each at least a third of the height of the box."""
    region = gray[box["top"] : box["top"] + box["height"], box["left"] : box["left"] + box["width"]]
    height, width = region.shape
    if not region.size:
        return
    block = max(MIN_BLOCK, min(height, width) // 3)
    small = Picture.fromarray(region).resize((max(1, width // block), max(1, height // block)), Picture.Resampling.BOX)
    region[...] = np.asarray(small.resize((width, height), Picture.Resampling.NEAREST))


def _small(gray: Gray) -> Gray:
    height, width = gray.shape
    scale = MAX_LENGTH / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Picture.fromarray(gray).resize(size, Picture.Resampling.BILINEAR))


def _data_uri(gray: Gray) -> str:
    stream = io.BytesIO()
    Picture.fromarray(np.ascontiguousarray(gray)).save(stream, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
