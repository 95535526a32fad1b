"""Check that a JPEG stream is complete: libjpeg fills missing data with gray, and Pillow reports no error.

Markers and scans follow ITU-T T.81 (ISO/IEC 10918-1), annex B. It is implemented here because libraries accept more of the
hostile test files: simplejpeg 1.9 (strict) accepts the 5 progressive JPEGs with missing scans, imagecodecs 2026.3 accepts 16
broken JPEGs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from reslink.imaging.limits import damaged_error, unsupported_error

MAX_SCANS = 100

# A marker that ends entropy-coded data: not a stuffed zero or restart marker. Fill bytes before it are not data.
# It starts with a literal byte, which the search finds ten times as fast as a repetition.
_END_OF_SCAN = re.compile(rb"\xff\xff*[^\x00\xd0-\xd7\xff]")
_MARKER = re.compile(rb"\xff\xff*[^\x00\xff]")
_RESTART_MARKERS = range(0xD0, 0xD8)
"""They have no segment."""

_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
# Bytes that decode to something other than zero blocks, and contain no marker.
_FILLER = bytes((17 * i * i + 91 * i + 60) % 251 for i in range(96))


@dataclass
class JpegStructure:
    """Structure of a JPEG stream, read from its markers.

    Attributes:
        width: Pixels per line.
        height: Number of lines.
        precision: Bits per sample.
        process: Second byte of the SOF marker: 0xC0 baseline, 0xC1 extended, 0xC2 progressive, 0xC3 lossless.
        sampling: Horizontal and vertical sampling factor by component identifier.
        restart_interval: Number of MCUs between restart markers, 0 for none.
        scan_ends: End offset of the entropy-coded data of each scan.
        scans: Component identifiers, first and last coefficient, and approximation of each scan.
        end: End offset of the EOI marker.
    """

    width: int = 0
    height: int = 0
    precision: int = 0
    process: int = 0
    sampling: dict[int, tuple[int, int]] = field(default_factory=dict)
    restart_interval: int = 0
    scan_ends: list[int] = field(default_factory=list)
    scans: list[tuple[tuple[int, ...], int, int, int]] = field(default_factory=list)
    end: int = 0

    @property
    def progressive(self) -> bool:
        """Whether the picture is stored in several passes of increasing quality."""
        return self.process == 0xC2

    @property
    def mcu(self) -> tuple[int, int]:
        """Width and height in pixels of the minimum coded unit (MCU)."""
        unit = 1 if self.process == 0xC3 else 8
        if len(self.sampling) == 1:
            return unit, unit
        return unit * max(h for h, _ in self.sampling.values()), unit * max(v for _, v in self.sampling.values())

    def last_mcu(self) -> tuple[int, int]:
        """Returns the top row and left column of the last MCU."""
        width, height = self.mcu
        return (self.height - 1) // height * height, (self.width - 1) // width * width


def claimed_pixels(data: bytes, name: str) -> int:
    """Returns the number of pixels given in the header, without reading the scans; errors as in :func:`scan_markers`."""
    structure, at = JpegStructure(), 2
    while not structure.process:
        marker, at = _next_marker(data, at, name)
        if marker in (0xD9, 0xDA):
            raise damaged_error(name, "the JPEG data contains no picture")
        at = _read_segment(data, marker, at, structure, name)
    return structure.width * structure.height


def scan_markers(data: bytes, name: str) -> JpegStructure:
    """Reads the markers from SOI to EOI, without decoding.

    Raises:
        InputError: If the stream ends before EOI, lacks a scan or uses an unsupported JPEG process.
    """
    structure = JpegStructure()
    at = 2
    while True:
        marker, at = _next_marker(data, at, name)
        if marker == 0xD9:
            structure.end = at
            break
        at = _read_segment(data, marker, at, structure, name)
    _check_scans(structure, name)
    return structure


def _next_marker(data: bytes, at: int, name: str) -> tuple[int, int]:
    """Returns the second byte of the next marker and the start of its segment. As in libjpeg, other bytes are skipped."""
    while match := _MARKER.search(data, at):
        marker, at = data[match.end() - 1], match.end()
        if marker not in _RESTART_MARKERS:
            return marker, at
    raise damaged_error(name, "the JPEG data ends before its end marker")


def _read_segment(data: bytes, marker: int, at: int, structure: JpegStructure, name: str) -> int:
    if marker == 0xD8:
        raise damaged_error(name, "the JPEG data contains two pictures")
    length = int.from_bytes(data[at : at + 2], "big")
    body, after = data[at + 2 : at + length], at + length
    if length < 2 or after > len(data):
        raise damaged_error(name, "the JPEG data is truncated in a header")
    try:
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            _read_start_of_frame(body, marker, structure, name)
        elif marker == 0xDD:
            structure.restart_interval = int.from_bytes(body[:2], "big")
        elif marker == 0xDA:
            return _read_scan(data, body, after, structure, name)
    except IndexError:
        raise damaged_error(name, "a JPEG header is too short") from None
    return after


def _read_start_of_frame(body: bytes, marker: int, structure: JpegStructure, name: str) -> None:
    if marker not in (0xC0, 0xC1, 0xC2, 0xC3):
        raise unsupported_error(
            name, f"uses an unusual JPEG process (SOF{marker - 0xC0})", "Baseline and progressive JPEG are supported"
        )
    if structure.process:
        raise damaged_error(name, "the JPEG data contains two pictures")
    structure.process = marker
    structure.precision = body[0]
    structure.height, structure.width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
    for i in range(body[5]):
        structure.sampling[body[6 + 3 * i]] = (body[7 + 3 * i] >> 4, body[7 + 3 * i] & 15)
    bad_factor = any(not (1 <= h <= 4 and 1 <= v <= 4) for h, v in structure.sampling.values())
    if (
        not structure.width
        or not structure.height
        or not structure.sampling
        or bad_factor
        or len(structure.sampling) != body[5]
    ):
        raise damaged_error(name, "the JPEG header is invalid")


def _read_scan(data: bytes, body: bytes, start: int, structure: JpegStructure, name: str) -> int:
    count = body[0]
    components = tuple(body[1 + 2 * i] for i in range(count))
    low, high, approximation = body[1 + 2 * count : 4 + 2 * count]
    match = _END_OF_SCAN.search(data, start)
    if match is None:
        raise damaged_error(name, "the JPEG data is truncated in the picture")
    structure.scans.append((components, low, high, approximation & 15))
    structure.scan_ends.append(match.start())
    if len(structure.scans) > MAX_SCANS:
        raise damaged_error(name, f"it has more than {MAX_SCANS} JPEG scans")
    if structure.restart_interval and structure.process:
        _check_restarts(data, start, match.start(), structure, components, name)
    return match.start()


def _check_restarts(
    data: bytes, start: int, end: int, structure: JpegStructure, components: tuple[int, ...], name: str
) -> None:
    width, height = structure.mcu
    if len(components) == 1 and len(structure.sampling) > 1:
        return  # The scan of one component counts its own blocks; the check with filler covers its end.
    units = -(-structure.width // width) * -(-structure.height // height)
    expected = (units - 1) // structure.restart_interval
    order = [m[1][0] - 0xD0 for m in _RESTART.finditer(data, start, end)]
    if order != [i % 8 for i in range(expected)]:
        raise damaged_error(name, "parts of the JPEG picture are missing (restart markers)")


def _check_scans(structure: JpegStructure, name: str) -> None:
    if not structure.process or not structure.scans:
        raise damaged_error(name, "the JPEG data contains no picture")
    seen: dict[tuple[int, int], int] = {}
    for components, low, high, approximation in structure.scans:
        for component in components:
            for coefficient in range(low, min(high, 63) + 1) if structure.progressive else range(1):
                seen[component, coefficient] = approximation if structure.progressive else 0
    last = 64 if structure.progressive else 1
    if any(seen.get((c, k), 1) for c in structure.sampling for k in range(last)):
        raise damaged_error(name, "scans of the JPEG picture are missing")


def with_filler(data: bytes, structure: JpegStructure) -> bytes:
    """Returns the stream with extra bytes at the end of each scan.

    A decoder ignores them if the scan is complete. If data is missing it decodes them, and the picture changes.
    """
    blocks, at = [], 0
    for end in structure.scan_ends:
        blocks += [data[at:end], _FILLER]
        at = end
    return b"".join([*blocks, data[at : structure.end]])


def check_claim(structure: JpegStructure, width: int, height: int, name: str) -> None:
    """Checks that the size of a stream is the size given by its container.

    Raises:
        InputError: If the sizes differ.
    """
    if (structure.width, structure.height) != (width, height):
        raise damaged_error(
            name, f"its header gives {width} x {height} pixels, but the JPEG data has {structure.width} x {structure.height}"
        )
