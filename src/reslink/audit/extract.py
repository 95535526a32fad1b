"""Read one file and extract the features that the audit's checks need: a few kilobytes per file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from reslink.audit.burned_in_text import TextBox, count_words, find_text
from reslink.audit.features.asymmetry import asymmetry_features, isolated_head
from reslink.audit.features.content import FileContent
from reslink.audit.features.header import HeaderFeatures, header_features
from reslink.audit.features.image import ImageFeatures, image_features
from reslink.audit.features.levels import gray_levels
from reslink.audit.features.outside_head import outside_head_features
from reslink.audit.features.quantiles import quantiles
from reslink.audit.identity import identifying_attributes
from reslink.datasets.cache.decode import SeveralSlicesError, read_slice
from reslink.datasets.manifest import file_hash
from reslink.datasets.near_duplicates.thumbnails import make_thumbnail
from reslink.datasets.patient_ids import HeaderPatient, read_header_patient
from reslink.errors import InputError, ReslinkError
from reslink.files import sha256
from reslink.imaging.head_mask import valid_pixels
from reslink.imaging.image import Image
from reslink.imaging.limits import MAX_FILE_BYTES
from reslink.remote_files import local_file
from reslink.training.monitoring.progress import Progress

TINY_SIDE: Final = 16
"""Side of the very small thumbnail of the whole image, in pixels."""

BINS: Final = 32
HU_RANGE: Final = (-200.0, 300.0)
"""HU shown as black and as white in the thumbnail and the histogram."""


@dataclass(frozen=True, slots=True)
class CaseFile:
    """A file to extract features from.

    Attributes:
        name: Name of the case, for messages.
        path: The file.
        unit: Unit of the values, if the data set states it.
    """

    name: str
    path: Path
    unit: str | None = None


@dataclass(frozen=True)
class FileFeatures:
    """Features of one file.

    Attributes:
        sha256: Hash of the file's content.
        header: Format, scanner and protocol. The values are never reported.
        image: Features for the file quality checks.
        thumbnail: (64, 64) uint8 of the isolated head, see ``datasets.near_duplicates.thumbnails``.
        asymmetry: (79,) float32 from ``asymmetry_features``, for the label error check.
        tiny_thumbnail: (16, 16) uint8 of the whole image.
        histogram: (32,) float32, shares of gray values, sum 1.
        outside_head: (78,) float32 from ``outside_head_features``; None if no head was found.
        text_boxes: Regions that look like text.
        identity: Names of attributes that identify a person.
        word_count: Number of words that Tesseract reads in ``text_boxes``; None if it could not count them.
        patient: The patient as given in the DICOM header.
    """

    sha256: str
    header: HeaderFeatures
    image: ImageFeatures
    thumbnail: NDArray[np.uint8]
    asymmetry: NDArray[np.float32]
    tiny_thumbnail: NDArray[np.uint8]
    histogram: NDArray[np.float32]
    outside_head: NDArray[np.float32] | None
    text_boxes: list[TextBox]
    identity: list[str]
    word_count: int | None = None
    patient: HeaderPatient = field(default_factory=HeaderPatient)


@dataclass(frozen=True)
class Volume:
    """A file with several slices.

    Attributes:
        problem: A clause with its name and the number of slices.
        message: Why the file cannot be used.
    """

    problem: str
    message: str


Extracted: TypeAlias = FileFeatures | Volume | str
"""Features of a file; a volume, which has none; or a message that explains why the file cannot be used."""

Extraction: TypeAlias = Callable[[Sequence[CaseFile], Progress], Iterable[Extracted]]
"""Extracts the features of files, in order, and reports the progress."""


def extract_features(file: CaseFile) -> Extracted:
    """Reads one file and extracts its features.

    Returns:
        The features; a volume, which has none; or a message that explains why the file cannot be used. The message contains no
        absolute path.
    """
    try:
        with local_file(file.path, MAX_FILE_BYTES) as path:  # a remote file is fetched once
            return _extract_local(replace(file, path=path))
    except InputError as error:
        return str(error).replace(str(file.path), file.name)


def _extract_local(file: CaseFile) -> FileFeatures | Volume | str:
    try:
        image = read_slice(file.path, file.name, file.unit)
        content = FileContent.read(file.path)
        text_boxes = find_text(image)
        gray = _to_uint8(image)
        tiny = Pillow.fromarray(gray).resize((TINY_SIDE, TINY_SIDE), Pillow.Resampling.BOX)
        return FileFeatures(
            sha256=sha256(content.data) if content.data else file_hash(file.path, file.name),
            header=header_features(content),
            image=image_features(image, content),
            thumbnail=make_thumbnail(image),
            asymmetry=asymmetry_features(isolated_head(image)),
            tiny_thumbnail=np.asarray(tiny),
            histogram=_histogram(gray),
            outside_head=outside_head_features(image),
            text_boxes=text_boxes,
            identity=identifying_attributes(content),
            word_count=count_words(image, text_boxes),
            patient=read_header_patient(file.path),
        )
    except SeveralSlicesError as error:
        return Volume(error.given, str(error))
    except ReslinkError as error:
        return str(error).replace(str(file.path), file.name)
    except OSError as error:  # the file vanished while it was read
        return f"{file.name} cannot be read: {error.strerror or error}"
    except MemoryError:
        return f"{file.name} needs more memory than is available"


def _display_range(image: Image) -> tuple[float, float]:
    """Returns the values shown as black and white: fixed for HU and pictures, percentiles for MR."""
    if image.unit == "HU":
        return HU_RANGE
    if image.unit == "gray":
        return 0.0, image.white or 255.0
    valid = valid_pixels(image)
    low, high = quantiles(image.pixels[valid], (0.005, 0.995)) if valid.any() else (0.0, 1.0)
    return float(low), float(high)


def _to_uint8(image: Image) -> NDArray[np.uint8]:
    if (levels := gray_levels(image)) is not None:  # shown as they are
        return np.uint8(255) - levels if image.inverted else levels
    low, high = _display_range(image)
    valid = valid_pixels(image)
    pixels = image.pixels if valid.all() else np.where(valid, image.pixels, np.float32(low))
    unit = np.clip((pixels - low) / max(high - low, 1e-6), 0, 1)
    return np.asarray(np.rint((1 - unit if image.inverted else unit) * 255), np.uint8)


def _histogram(gray: NDArray[np.uint8]) -> NDArray[np.float32]:
    counts = np.asarray(cv2.calcHist([gray], [0], None, [BINS], [0, 256]), np.float64).ravel()
    return np.asarray(counts / gray.size, np.float32)
