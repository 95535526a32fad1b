"""Worker process: decodes an uploaded file and preprocesses its slices for the networks and the viewer.

It imports no network runtime. Each process handles one file at a time, so that warnings of the readers belong to that file and
the event loop stays free. Risky decoders still run in the sandboxed child process of ``imaging/sandbox``.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reslink.errors import InputError
from reslink.explain.display import display_image, visible_pixels
from reslink.imaging.dicom.geometry import Plane
from reslink.imaging.head_mask import head_mask, stated_content
from reslink.imaging.image import NOTHING_STATED, Image, SliceFormat, Stated, Unit, slice_format
from reslink.imaging.limits import MIB, ImagingWarning, damaged_error
from reslink.imaging.preprocess import WINDOWS, Placement, Preprocess
from reslink.imaging.reading import read_with_geometry

DISPLAY_NAME: Final = "the image"
"""What messages call an uploaded file. They never contain its real name."""

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3

_preprocesses: list[Preprocess] = []


@dataclass(frozen=True)
class PrepareRequest:
    """What to compute from a file.

    Attributes:
        preprocess_indices: Preprocessings to apply, as indices into the list that the worker was started with.
        slice: The only slice to prepare, from 0; None for all.
        head_areas: Whether to measure the head in each slice of a volume or series.
        display: Whether to also return the windowed slice with the position of the network input in it.
        view_pixels: Maximum number of pixels for the viewer; 0 for no viewer volume.
        max_slices: A file with more slices is refused.
        unit: Unit of the values of a file that states none; None decides by the histogram.
        sequence: MR sequence of the file; None takes what it states.
    """

    preprocess_indices: tuple[int, ...] = ()
    slice: int | None = None
    head_areas: bool = False
    display: bool = False
    view_pixels: int = 0
    max_slices: int = 2048
    unit: Unit | None = None
    sequence: str | None = None


@dataclass(frozen=True)
class DisplaySlice:
    """A slice as it is shown below an attention map.

    Attributes:
        gray: (H, W) uint8, windowed.
        placement: Position of the network input in the slice.
        visible: (H, W) bool, the pixels that the network sees.
    """

    gray: NDArray[np.uint8]
    placement: Placement
    visible: NDArray[np.bool_]


@dataclass(frozen=True)
class ViewerVolume:
    """A volume for the viewer of the web page.

    Attributes:
        shape: (D, H, W) of the values.
        step: Subsampling step of rows and columns; slices are never left out.
        packed: The values as little-endian int16, compressed with zlib.
        scale: Value in the file = ``scale`` · stored value + ``offset``.
        offset: See ``scale``.
        window: Initial window center and width.
        windows: Named window centers and widths; empty except for CT.
        inverted: Whether high values are shown dark.
        spacing: Millimeters between values, (rows, columns); None if the file does not state it.
        edges: Sides of the patient (R, L, A, P, H, F) at the left, right, top and bottom of the view; None if not stated.
        thickness: Stated thickness of a slice in millimeters, or the distance between the slices of a volume; None if unknown.
        location: Position of a single slice along its normal in millimeters; None if not stated.
        description: Description of the series; empty if there is none.
    """

    shape: tuple[int, int, int]
    step: int
    packed: bytes
    scale: float
    offset: float
    window: tuple[float, float]
    windows: dict[str, tuple[float, float]]
    inverted: bool
    spacing: tuple[float, float] | None
    edges: tuple[str, str, str, str] | None = None
    thickness: float | None = None
    location: float | None = None
    description: str = ""


@dataclass(frozen=True)
class PreparedFile:
    """A decoded file, ready for the networks.

    Attributes:
        slices: Number of slices in the file.
        unit: ``HU``, ``MR`` or ``gray``.
        modality: ``CT`` or ``MR`` if the file states it.
        pixels: By index of the preprocessing: the requested slices, (planes, S, S) uint8 each, or an error message.
        head_areas: Pixels of the head in each requested slice; empty if not requested, or for a file that cannot belong to a
            series.
        display: By index of the preprocessing: the requested slices for display.
        view: The volume for the viewer, if requested.
        geometry: Position of a DICOM slice, from ``reading.read_with_geometry``.
        slice_format: Properties that all slices of a series share; None for a volume.
        stated: What the file states about its content.
        notes: Warnings of the readers, and what they assumed.
    """

    slices: int
    unit: str
    modality: str | None
    pixels: dict[int, list[NDArray[np.uint8] | str]] = field(default_factory=dict)
    head_areas: list[int] = field(default_factory=list)
    display: dict[int, list[DisplaySlice]] = field(default_factory=dict)
    view: ViewerVolume | None = None
    geometry: dict[str, Any] = field(default_factory=dict)
    slice_format: SliceFormat | None = None
    notes: list[str] = field(default_factory=list)
    stated: Stated = NOTHING_STATED

    @property
    def size(self) -> int:
        """Bytes of memory that the pixels take."""
        pixels = sum(plane.nbytes for slices in self.pixels.values() for plane in slices if not isinstance(plane, str))
        display = sum(2 * plane.gray.nbytes for slices in self.display.values() for plane in slices)
        return pixels + display + (0 if self.view is None else len(self.view.packed))


def initialize(preprocesses: Sequence[str]) -> None:
    """Initializes the worker process: its preprocessings and its signal handlers.

    Args:
        preprocesses: The preprocessings as JSON.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the service ends its workers after the last response
    _keep_freed_memory()
    _preprocesses[:] = [Preprocess.model_validate_json(text) for text in preprocesses]
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_with_parent, args=(parent.sentinel,), daemon=True).start()


def _keep_freed_memory() -> None:
    """Lets glibc keep up to 64 MiB of freed memory, and map blocks above 16 MiB separately.

    By default glibc returns the top of the heap after each image, and the next image faults it in again: a thousand page
    faults and 2.7 ms of system time for 512×512 pixels. See mallopt(3); the constants are those of malloc.h.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None  # musl has no mallopt
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, 64 * MIB)
        mallopt(_M_MMAP_THRESHOLD, 16 * MIB)


def _exit_with_parent(sentinel: int) -> None:
    connection.wait([sentinel])
    os.kill(os.getpid(), signal.SIGKILL)


def warm_up(_: int) -> int:
    """Starts the sandboxed child process and imports the readers; returns the process ID."""
    for blank in (b"\0" * 128 + b"DICM" + b"\0" * 64, b"\x1f\x8b"):
        try:
            read_with_geometry(blank)
        except InputError:
            continue
    return os.getpid()


def prepare(data: bytes, request: PrepareRequest) -> PreparedFile:
    """Decodes a file and computes what was requested.

    Raises:
        InputError: If the file cannot be read, has too many slices, or lacks the requested slice.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            return _prepare(data, request, caught)
        except MemoryError as error:
            raise damaged_error(DISPLAY_NAME, "it needs more memory than there is") from error


def _prepare(data: bytes, request: PrepareRequest, caught: list[warnings.WarningMessage]) -> PreparedFile:
    image, geometry = read_with_geometry(data, request.unit)
    slices = image.slices()
    selected = _select_slices(slices, request)
    indices = request.preprocess_indices
    in_series = len(slices) > 1 or geometry.get("position") is not None
    return PreparedFile(
        slices=len(slices),
        unit=image.unit,
        modality=image.modality,
        stated=stated_content(image, request.sequence),
        pixels={i: [_network_pixels(_preprocesses[i], plane) for plane in selected] for i in indices},
        head_areas=[int(head_mask(plane).sum()) for plane in selected] if request.head_areas and in_series else [],
        display={i: [_display_slice(_preprocesses[i], plane) for plane in selected] for i in indices}
        if request.display
        else {},
        view=_viewer_volume(image, geometry, request.view_pixels) if request.view_pixels else None,
        geometry=geometry,
        slice_format=slice_format(image) if len(slices) == 1 else None,
        notes=_notes(image, caught),
    )


def _notes(image: Image, caught: list[warnings.WarningMessage]) -> list[str]:
    """Returns the warnings of the readers, and what they assumed without a warning."""
    warned = [str(warning.message) for warning in caught if issubclass(warning.category, ImagingWarning)]
    return warned + [note for note in image.notes if not any(note in text for text in warned)]


def _select_slices(slices: list[Image], request: PrepareRequest) -> list[Image]:
    if len(slices) > request.max_slices:
        raise InputError(
            f"{DISPLAY_NAME} has {len(slices)} slices",
            f"A request may contain at most {request.max_slices} slices",
            "Send fewer slices",
        )
    if request.slice is None:
        return slices
    if request.slice >= len(slices):
        raise InputError(
            f"Slice {request.slice} was requested",
            f"{DISPLAY_NAME} has {len(slices)} slices, counted from 0",
            f"Request a slice from 0 to {len(slices) - 1}",
        )
    return slices[request.slice : request.slice + 1]


def _network_pixels(preprocess: Preprocess, plane: Image) -> NDArray[np.uint8] | str:
    try:
        return preprocess.pixels(plane)
    except InputError as error:
        return str(error)


def _display_slice(preprocess: Preprocess, plane: Image) -> DisplaySlice:
    return DisplaySlice(display_image(preprocess, plane), preprocess.placement(plane), visible_pixels(preprocess, plane))


def _viewer_volume(image: Image, geometry: Mapping[str, Any], max_pixels: int) -> ViewerVolume:
    volume = image.pixels if image.pixels.ndim == 3 else image.pixels[None]
    step = 1
    while volume[:, ::step, ::step].size > max_pixels and step < min(volume.shape[1:]):
        step += 1
    values = volume[:, ::step, ::step]
    scale, offset = _scale_and_offset(values)
    stored = values if (scale, offset) == (1.0, 0.0) else (values - np.float32(offset)) / np.float32(scale)
    packed = zlib.compress(np.rint(np.clip(stored, -32768, 32767)).astype("<i2").tobytes(), 1)
    depth, height, width = values.shape
    spacing = None if image.spacing is None else tuple(step * length for length in image.spacing[-2:])
    return ViewerVolume(
        (depth, height, width),
        step,
        packed,
        scale,
        offset,
        _initial_window(image, values),
        dict(WINDOWS) if image.unit == "HU" else {},
        image.inverted,
        None if spacing is None else (spacing[0], spacing[1]),
        image.edges,
        geometry.get("thickness") or (image.spacing[0] if image.spacing is not None and image.pixels.ndim == 3 else None),
        _location(geometry) if depth == 1 else None,
        geometry.get("description", ""),
    )


def _location(geometry: Mapping[str, Any]) -> float | None:
    if geometry.get("position") is None:
        return None
    plane = Plane(*(np.array(geometry[key]) for key in ("position", "rows", "columns")))
    return float(plane.position @ plane.normal)


def _scale_and_offset(values: NDArray[np.float32]) -> tuple[float, float]:
    """Returns the scale and offset that fit values into 16 bits; small whole numbers are kept as they are."""
    low, high = float(values.min()), float(values.max())
    if low >= -32768 and high <= 32767 and high - low > 50 and np.array_equal(values, np.rint(values)):
        return 1.0, 0.0
    return max((high - low) / 65535, 1e-12), (low + high) / 2


def _initial_window(image: Image, values: NDArray[np.float32]) -> tuple[float, float]:
    if image.unit == "HU":
        return WINDOWS["brain"]
    if image.unit == "gray" and image.white == 255:
        return 127.5, 255.0
    low, high = (float(v) for v in np.percentile(values[:: max(1, len(values) // 16)], (0.5, 99.5)))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    return (low + high) / 2, max(high - low, 1e-6)
