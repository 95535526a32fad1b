"""Whether a JPEG stream is whole: libjpeg fills what is missing with grey and says nothing through Pillow.

Markers and scans are those of ITU-T T.81 (ISO/IEC 10918-1), annex B.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from reslink.imaging.limits import damaged, unsupported

MAX_SCANS = 100

# A marker that ends entropy-coded data: not a stuffed zero, not a restart, not a fill byte.
_END_OF_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_MARKER = re.compile(rb"\xff+[^\x00\xff]")
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
# Bytes that decode to something other than zero blocks, and hold no marker.
_FILLER = bytes((17 * i * i + 91 * i + 60) % 251 for i in range(96))


@dataclass
class Survey:
    """What the markers of a JPEG stream say.

    Attributes:
        width: Pixels a line.
        height: Lines.
        precision: Bits a sample.
        kind: The SOF marker's second byte: 0xC0 baseline, 0xC1 extended, 0xC2 progressive, 0xC3 lossless.
        sampling: Horizontal and vertical sampling factor by component identifier.
        scan_ends: Where the entropy-coded data of each scan ends.
        end: Where the EOI marker ends.
    """

    width: int = 0
    height: int = 0
    precision: int = 0
    kind: int = 0
    sampling: dict[int, tuple[int, int]] = field(default_factory=dict)
    restart_interval: int = 0
    scan_ends: list[int] = field(default_factory=list)
    scans: list[tuple[tuple[int, ...], int, int, int]] = field(default_factory=list)
    end: int = 0

    @property
    def progressive(self) -> bool:
        """Whether the picture comes in several passes of rising quality."""
        return self.kind == 0xC2

    @property
    def mcu(self) -> tuple[int, int]:
        """Width and height in pixels of the smallest unit that is coded together."""
        unit = 1 if self.kind == 0xC3 else 8
        if len(self.sampling) == 1:
            return unit, unit
        return unit * max(h for h, _ in self.sampling.values()), unit * max(v for _, v in self.sampling.values())

    def tail(self) -> tuple[int, int]:
        """Top row and left column of the last unit."""
        width, height = self.mcu
        return (self.height - 1) // height * height, (self.width - 1) // width * width


def claimed_size(data: bytes, name: str) -> int:
    """Returns how many pixels the header claims, without a look at the scans; errors as in :func:`survey`."""
    found, at = Survey(), 2
    while not found.kind:
        marker, at = _next_marker(data, at, name)
        if marker in (0xD9, 0xDA):
            raise damaged(name, "the JPEG data holds no picture")
        at = _segment(data, marker, at, found, name)
    return found.width * found.height


def survey(data: bytes, name: str) -> Survey:
    """Reads the markers from SOI to EOI, without decoding.

    Raises:
        InputError: If the stream ends before EOI, lacks a scan or claims a kind of JPEG that is not read.
    """
    found = Survey()
    at = 2
    while True:
        marker, at = _next_marker(data, at, name)
        if marker == 0xD9:
            found.end = at
            break
        at = _segment(data, marker, at, found, name)
    _check_scans(found, name)
    return found


def _next_marker(data: bytes, at: int, name: str) -> tuple[int, int]:
    """Returns a marker's second byte and where its segment begins."""
    match = _MARKER.match(data, at)
    if match is None:
        raise damaged(name, "the JPEG data ends or breaks off before its end marker")
    return data[match.end() - 1], match.end()


def _segment(data: bytes, marker: int, at: int, found: Survey, name: str) -> int:
    length = int.from_bytes(data[at : at + 2], "big")
    body, after = data[at + 2 : at + length], at + length
    if length < 2 or after > len(data):
        raise damaged(name, "the JPEG data breaks off in a header")
    try:
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            _start_of_frame(body, marker, found, name)
        elif marker == 0xDD:
            found.restart_interval = int.from_bytes(body[:2], "big")
        elif marker == 0xDA:
            return _scan(data, body, after, found, name)
    except IndexError:
        raise damaged(name, "a JPEG header is too short") from None
    return after


def _start_of_frame(body: bytes, marker: int, found: Survey, name: str) -> None:
    if marker not in (0xC0, 0xC1, 0xC2, 0xC3):
        raise unsupported(name, f"is a JPEG of an unusual kind (SOF{marker - 0xC0})", "Baseline and progressive JPEG are read")
    if found.kind:
        raise damaged(name, "the JPEG data holds two pictures in one")
    found.kind = marker
    found.precision = body[0]
    found.height, found.width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
    for i in range(body[5]):
        found.sampling[body[6 + 3 * i]] = (body[7 + 3 * i] >> 4, body[7 + 3 * i] & 15)
    bad_factor = any(not (1 <= h <= 4 and 1 <= v <= 4) for h, v in found.sampling.values())
    if not found.width or not found.height or not found.sampling or bad_factor or len(found.sampling) != body[5]:
        raise damaged(name, "the JPEG header claims an impossible picture")


def _scan(data: bytes, body: bytes, start: int, found: Survey, name: str) -> int:
    count = body[0]
    components = tuple(body[1 + 2 * i] for i in range(count))
    low, high, approximation = body[1 + 2 * count : 4 + 2 * count]
    match = _END_OF_SCAN.search(data, start)
    if match is None:
        raise damaged(name, "the JPEG data breaks off in the middle of the picture")
    found.scans.append((components, low, high, approximation & 15))
    found.scan_ends.append(match.start())
    if len(found.scans) > MAX_SCANS:
        raise damaged(name, f"it has more than {MAX_SCANS} JPEG scans")
    if found.restart_interval and found.kind:
        _check_restarts(data, start, match.start(), found, components, name)
    return match.start()


def _check_restarts(data: bytes, start: int, end: int, found: Survey, components: tuple[int, ...], name: str) -> None:
    width, height = found.mcu
    if len(components) == 1 and len(found.sampling) > 1:
        return  # A scan of one component counts its own blocks; the filler proof covers its end.
    units = -(-found.width // width) * -(-found.height // height)
    expected = (units - 1) // found.restart_interval
    order = [m[1][0] - 0xD0 for m in _RESTART.finditer(data, start, end)]
    if order != [i % 8 for i in range(expected)]:
        raise damaged(name, "parts of the JPEG picture are missing (restart markers)")


def _check_scans(found: Survey, name: str) -> None:
    if not found.kind or not found.scans:
        raise damaged(name, "the JPEG data holds no picture")
    seen: dict[tuple[int, int], int] = {}
    for components, low, high, approximation in found.scans:
        for component in components:
            for coefficient in range(low, min(high, 63) + 1) if found.progressive else range(1):
                seen[component, coefficient] = approximation if found.progressive else 0
    last = 64 if found.progressive else 1
    if any(seen.get((c, k), 1) for c in found.sampling for k in range(last)):
        raise damaged(name, "scans of the JPEG picture are missing")


def with_filler(data: bytes, found: Survey) -> bytes:
    """Returns the stream with some bytes more at the end of each scan.

    A decoder that had all the data ignores them; one that ran short of data decodes them, and its picture changes.
    """
    parts, at = [], 0
    for end in found.scan_ends:
        parts += [data[at:end], _FILLER]
        at = end
    return b"".join([*parts, data[at : found.end]])


def check_claim(found: Survey, width: int, height: int, name: str) -> None:
    """Checks that a stream holds the picture that its container claims.

    Raises:
        InputError: If the sizes differ.
    """
    if (found.width, found.height) != (width, height):
        raise damaged(name, f"it claims {width} x {height} pixels and holds {found.width} x {found.height}")
