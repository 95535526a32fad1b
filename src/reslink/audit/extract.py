"""One visit to each file: everything the audit's checks need of it, in a few kilobytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from reslink.audit.burned_in_text import Box, count_words, find_text
from reslink.audit.features.asymmetry import asymmetry_features, head_picture
from reslink.audit.features.header import Header, header_facts
from reslink.audit.features.image import Facts, facts
from reslink.audit.features.outside_head import outside_features
from reslink.audit.identity import identifying
from reslink.datasets.cache.decode import read_slice
from reslink.datasets.manifest import file_hash
from reslink.datasets.near_duplicates.thumbnails import thumbnail
from reslink.datasets.patient_ids import HeaderPatient, header_patient
from reslink.errors import ReslinkError
from reslink.imaging.head_mask import measured
from reslink.imaging.image import Image

TINY: Final = 16
"""Side of the very small thumbnail of the whole picture."""

BINS: Final = 32
HU_EDGES: Final = (-200.0, 300.0)


@dataclass(frozen=True)
class Visit:
    """A file to look at.

    Attributes:
        name: The case's name, for messages.
        path: The file.
    """

    name: str
    path: Path


@dataclass(frozen=True)
class Measured:
    """What the audit keeps of a file.

    Attributes:
        sha256: Of the file's content.
        header: Facts of format, scanner and protocol; the values are never reported.
        facts: What the checks of files look at.
        thumbnail: (64, 64) uint8 of the isolated head, see ``datasets.thumbnails``.
        halves: (79,) float32 of ``asymmetry_features``, for the search for label errors.
        tiny: (16, 16) uint8 of the whole picture.
        histogram: (32,) float32, shares of grey values, sum 1.
        outside: (78,) float32 of what lies outside the head; None where there is no head.
        text: Regions that look like text.
        identity: Names of attributes that identify a person.
        words: How many words Tesseract reads in ``text``; None where it could not count.
        patient: Whose image it is, as the DICOM header says.
    """

    sha256: str
    header: Header
    facts: Facts
    thumbnail: NDArray[np.uint8]
    halves: NDArray[np.float32]
    tiny: NDArray[np.uint8]
    histogram: NDArray[np.float32]
    outside: NDArray[np.float32] | None
    text: list[Box]
    identity: list[str]
    words: int | None = None
    patient: HeaderPatient = field(default_factory=HeaderPatient)


def measure(visit: Visit) -> Measured | str:
    """Reads one file and measures it.

    Returns:
        What was measured, or the message that says why the file cannot be used; no absolute path is in it.
    """
    try:
        image = read_slice(visit.path, visit.name)
        text = find_text(image)
        return Measured(
            sha256=file_hash(visit.path, visit.name),
            header=header_facts(visit.path),
            facts=facts(image, visit.path),
            thumbnail=thumbnail(image),
            halves=asymmetry_features(head_picture(image)),
            tiny=np.asarray(Pillow.fromarray(_grey(image)).resize((TINY, TINY), Pillow.Resampling.BOX)),
            histogram=_histogram(image),
            outside=outside_features(image),
            text=text,
            identity=identifying(visit.path),
            words=count_words(image, text),
            patient=header_patient(visit.path),
        )
    except ReslinkError as error:
        return str(error).replace(str(visit.path), visit.name)
    except MemoryError:
        return f"{visit.name} needs more memory than there is"


def _span(image: Image) -> tuple[float, float]:
    """Black and white: fixed for HU and pictures, percentiles for MR."""
    if image.unit == "HU":
        return HU_EDGES
    if image.unit == "grey":
        return 0.0, image.white or 255.0
    low, high = np.percentile(image.pixels[measured(image)], (0.5, 99.5)) if measured(image).any() else (0.0, 1.0)
    return float(low), float(high)


def _grey(image: Image) -> NDArray[np.uint8]:
    low, high = _span(image)
    pixels = np.where(measured(image), image.pixels, np.float32(low))
    unit = np.clip((pixels - low) / max(high - low, 1e-6), 0, 1)
    return np.asarray(np.rint((1 - unit if image.inverted else unit) * 255), np.uint8)


def _histogram(image: Image) -> NDArray[np.float32]:
    counts, _ = np.histogram(_grey(image), BINS, (0, 256))
    return np.asarray(counts / max(int(counts.sum()), 1), np.float32)
