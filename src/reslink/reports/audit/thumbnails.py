"""The pictures of the audit's page: small, with letters made illegible."""

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

from reslink.audit.features.outside_head import outside
from reslink.datasets.cache.decode import read_slice
from reslink.datasets.manifest import Manifest
from reslink.errors import ReslinkError
from reslink.imaging.image import Image

SIDE: Final = 168
"""Longer side of a picture in pixels."""

COARSE: Final = 7
"""Letters are shown in blocks of this many pixels: that there is text can be seen, what it says cannot."""

WINDOW: Final = (-20.0, 100.0)

Grey = NDArray[np.uint8]


@dataclass
class Pictures:
    """Draws pictures of cases, each file read once.

    Attributes:
        paths: File of each case by name.
        boxes: Regions that look like text, by name, in pixels of the file.
    """

    paths: Mapping[str, Path]
    boxes: Mapping[str, list[dict[str, Any]]]
    _read: dict[str, tuple[Grey, Grey] | None] = field(default_factory=dict)

    @classmethod
    def of(cls, manifest: Manifest, audit: Mapping[str, Any]) -> Pictures:
        """Returns the pictures of an audited data set."""
        return cls({case.name: case.path for case in manifest.cases}, audit["text_boxes"])

    def whole(self, name: str, orientation: int = 0) -> str:
        """Returns a picture as an address that holds it; empty where the file cannot be read any more.

        Args:
            name: The case.
            orientation: Turned by 90° ``orientation % 4`` times, and mirrored from 4 on.
        """
        found = self._planes(name)
        if found is None:
            return ""
        turned = np.rot90(found[0], orientation % 4)
        return _address(turned[:, ::-1] if orientation >= 4 else turned)

    def outside_head(self, name: str) -> str:
        """Returns a picture with the head blanked: what the probe saw."""
        found = self._planes(name)
        return "" if found is None else _address(found[1])

    def _planes(self, name: str) -> tuple[Grey, Grey] | None:
        if name not in self._read:
            try:
                self._read[name] = self._drawn(name)
            except (ReslinkError, KeyError, MemoryError):
                self._read[name] = None
        return self._read[name]

    def _drawn(self, name: str) -> tuple[Grey, Grey]:
        image = read_slice(self.paths[name], name)
        grey = _grey(image)
        for box in self.boxes.get(name, ()):
            _blur(grey, box)
        alone = np.where(outside(image), grey, np.uint8(96))
        return _small(grey), _small(alone)


def _grey(image: Image) -> Grey:
    pixels = image.pixels[np.isfinite(image.pixels)]
    if image.unit == "HU":
        low, high = WINDOW
    elif image.unit == "grey":
        low, high = 0.0, image.white or 255.0
    else:
        low, high = (float(v) for v in np.percentile(pixels, (0.5, 99.5))) if pixels.size else (0.0, 1.0)
    unit = np.clip((np.nan_to_num(image.pixels) - low) / max(high - low, 1e-6), 0, 1)
    return np.asarray(np.rint(255 * (1 - unit if image.inverted else unit)), np.uint8)


def _blur(grey: Grey, box: Mapping[str, Any]) -> None:
    """Makes the letters of a box illegible: blocks of one grey value, at least a quarter of its height each."""
    part = grey[box["top"] : box["top"] + box["height"], box["left"] : box["left"] + box["width"]]
    height, width = part.shape
    if not part.size:
        return
    block = max(COARSE, min(height, width) // 3)
    small = Picture.fromarray(part).resize((max(1, width // block), max(1, height // block)), Picture.Resampling.BOX)
    part[...] = np.asarray(small.resize((width, height), Picture.Resampling.NEAREST))


def _small(grey: Grey) -> Grey:
    height, width = grey.shape
    scale = SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Picture.fromarray(grey).resize(size, Picture.Resampling.BILINEAR))


def _address(grey: Grey) -> str:
    stream = io.BytesIO()
    Picture.fromarray(np.ascontiguousarray(grey)).save(stream, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
