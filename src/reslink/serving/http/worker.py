"""From the bytes of a file to what networks and people see, in a process of its own; imports no network runtime.

Each process works on one file at a time, so that what the readers warn of belongs to that file, and leaves the loop of the
service alone. What is risky goes on to the guarded child process of ``imaging/child.py``, as everywhere.
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
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reslink.errors import InputError
from reslink.explain.display import original
from reslink.imaging.head_mask import head_mask
from reslink.imaging.image import Image, Likeness, likeness_of
from reslink.imaging.limits import MIB, ImagingWarning, damaged
from reslink.imaging.preprocess import WINDOWS, Placement, Preprocess
from reslink.imaging.reading import read_with_place

NAME: Final = "the image"
"""What messages call a file, whose real name stays with the client."""

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3

_ways: list[Preprocess] = []


@dataclass(frozen=True)
class Wish:
    """What is wanted of a file.

    Attributes:
        ways: Which preprocessings to apply, by their place in the list that the process was started with.
        slice: The only slice wanted, from 0; None for all.
        areas: Whether the size of the head is wanted where the file may be part of a series.
        look: Whether the slice is also wanted as it is explained: windowed, with the place of the network's square.
        view: Pixels that may be sent to a viewer; 0 where none are wanted.
        most_slices: More are refused.
    """

    ways: tuple[int, ...] = ()
    slice: int | None = None
    areas: bool = False
    look: bool = False
    view: int = 0
    most_slices: int = 2048


@dataclass(frozen=True)
class Look:
    """A slice as it is explained by one preprocessing: (H, W) uint8, and where the network's square lies in it."""

    grey: NDArray[np.uint8]
    place: Placement


@dataclass(frozen=True)
class View:
    """A volume for a viewer.

    Attributes:
        shape: (D, H, W) of the values sent.
        step: Pixels of the file between neighbouring values, across and down; slices are never left out.
        packed: The values as little-endian int16, compressed by zlib.
        scale: Value of the file = ``scale`` · value sent + ``offset``.
        offset: See ``scale``.
        window: Centre and width to begin with.
        windows: Named centres and widths; empty but for CT.
        inverted: Whether high values are shown dark.
        spacing: Millimetres between values down and across; None where the file does not say.
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


@dataclass(frozen=True)
class Prepared:
    """A file, ready for the networks.

    Attributes:
        slices: How many it holds.
        unit: ``HU``, ``MR`` or ``grey``.
        modality: ``CT`` or ``MR`` where the file says so.
        pixels: For each way that was wanted, the wanted slices: (planes, S, S) uint8, or why there is none.
        areas: Pixels of the head in each wanted slice; empty where they were not wanted, or the file is no part of a series.
        looks: As ``pixels``, where they were wanted.
        view: Where it was wanted.
        facts: Where a DICOM slice lies: see ``reading.read_with_place``.
        likeness: What it must share with the other slices of its series; None for a volume.
        notes: What the readers warned of.
    """

    slices: int
    unit: str
    modality: str | None
    pixels: dict[int, list[NDArray[np.uint8] | str]] = field(default_factory=dict)
    areas: list[int] = field(default_factory=list)
    looks: dict[int, list[Look]] = field(default_factory=dict)
    view: View | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    likeness: Likeness | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of the pixels that it keeps."""
        pixels = sum(one.nbytes for slices in self.pixels.values() for one in slices if not isinstance(one, str))
        looks = sum(one.grey.nbytes for slices in self.looks.values() for one in slices)
        return pixels + looks + (0 if self.view is None else len(self.view.packed))


def start(ways: Sequence[str]) -> None:
    """Makes this process ready: its preprocessings, its signals, and its end when the service is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the service ends it, once the answers are out
    _keep_freed_memory()
    _ways[:] = [Preprocess.model_validate_json(text) for text in ways]
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _keep_freed_memory() -> None:
    """Lets glibc keep up to 64 MiB of freed memory, and ask for pieces of over 16 MiB apart, which go back at once.

    Otherwise it gives back the top of the heap after every image, and the next image faults it in again: a thousand page
    faults and 2.7 ms of system time for 512×512 pixels. See mallopt(3); the numbers are those of malloc.h.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None  # musl has none
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, 64 * MIB)
        mallopt(_M_MMAP_THRESHOLD, 16 * MIB)


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os.kill(os.getpid(), signal.SIGKILL)


def warm(_: int) -> int:
    """Starts the guarded child process and imports the readers; returns the process's number."""
    for blank in (b"\0" * 128 + b"DICM" + b"\0" * 64, b"\x1f\x8b"):
        try:
            read_with_place(blank)
        except InputError:
            continue
    return os.getpid()


def prepare(data: bytes, wish: Wish) -> Prepared:
    """Reads a file and does what is wanted with it.

    Raises:
        InputError: If it cannot be read, or holds too many slices or not the one that is wanted.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            return _prepare(data, wish, caught)
        except MemoryError as error:
            raise damaged(NAME, "it needs more memory than there is") from error


def _prepare(data: bytes, wish: Wish, caught: list[warnings.WarningMessage]) -> Prepared:
    image, facts = read_with_place(data)
    planes = image.slices()
    chosen = _chosen(planes, wish)
    view = _view(image, wish.view) if wish.view else None
    pixels = {way: [_pixels(_ways[way], plane) for plane in chosen] for way in wish.ways}
    looks = {way: [_look(_ways[way], plane) for plane in chosen] for way in wish.ways} if wish.look else {}
    stacked = len(planes) > 1 or facts.get("position") is not None
    areas = [int(head_mask(plane).sum()) for plane in chosen] if wish.areas and stacked else []
    notes = [str(w.message) for w in caught if issubclass(w.category, ImagingWarning)]
    likeness = likeness_of(image) if len(planes) == 1 else None
    return Prepared(len(planes), image.unit, image.modality, pixels, areas, looks, view, facts, likeness, notes)


def _chosen(planes: list[Image], wish: Wish) -> list[Image]:
    if len(planes) > wish.most_slices:
        raise InputError(
            f"{NAME} holds {len(planes)} slices",
            f"At most {wish.most_slices} slices are taken at a time",
            "Send a part of it",
        )
    if wish.slice is None:
        return planes
    if wish.slice >= len(planes):
        raise InputError(
            f"Slice {wish.slice} was asked for",
            f"{NAME} holds {len(planes)} slices, counted from 0",
            f"Ask for one of 0 to {len(planes) - 1}",
        )
    return planes[wish.slice : wish.slice + 1]


def _pixels(way: Preprocess, plane: Image) -> NDArray[np.uint8] | str:
    try:
        return way.pixels(plane)
    except InputError as error:
        return str(error)


def _look(way: Preprocess, plane: Image) -> Look:
    return Look(original(way, plane), way.place(plane))


def _view(image: Image, most: int) -> View:
    volume = image.pixels if image.pixels.ndim == 3 else image.pixels[None]
    step = 1
    while volume[:, ::step, ::step].size > most and step < min(volume.shape[1:]):
        step += 1
    values = volume[:, ::step, ::step]
    scale, offset = _span(values)
    whole = values if (scale, offset) == (1.0, 0.0) else (values - np.float32(offset)) / np.float32(scale)
    packed = zlib.compress(np.rint(np.clip(whole, -32768, 32767)).astype("<i2").tobytes(), 1)
    depth, height, width = values.shape
    spacing = None if image.spacing is None else tuple(step * length for length in image.spacing[-2:])
    return View(
        (depth, height, width),
        step,
        packed,
        scale,
        offset,
        _window(image, values),
        dict(WINDOWS) if image.unit == "HU" else {},
        image.inverted,
        None if spacing is None else (spacing[0], spacing[1]),
    )


def _span(values: NDArray[np.float32]) -> tuple[float, float]:
    """How values fit into 16 bits: as they are where they are whole and small, else stretched over the range."""
    low, high = float(values.min()), float(values.max())
    if low >= -32768 and high <= 32767 and high - low > 50 and np.array_equal(values, np.rint(values)):
        return 1.0, 0.0
    return max((high - low) / 65535, 1e-12), (low + high) / 2


def _window(image: Image, values: NDArray[np.float32]) -> tuple[float, float]:
    if image.unit == "HU":
        return WINDOWS["brain"]
    if image.unit == "grey" and image.white == 255:
        return 127.5, 255.0
    low, high = (float(v) for v in np.percentile(values[:: max(1, len(values) // 16)], (0.5, 99.5)))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    return (low + high) / 2, max(high - low, 1e-6)
