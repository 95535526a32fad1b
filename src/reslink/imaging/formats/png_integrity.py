"""Whether a PNG file is whole: Pillow takes a file with half its rows for a whole one.

Chunks are those of the W3C PNG specification, third edition.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

from reslink.imaging.limits import MAX_DECODED_BYTES, MIB, check_size, damaged

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_CHUNKS = 100_000
STORED_BYTES = 4 * MIB
"""Pixel data up to this size is inflated once and handed on without compression."""

_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
# First column and row, and steps, of the seven passes of Adam7.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


@dataclass
class Survey:
    """What the chunks of a PNG file say.

    Attributes:
        width: Pixels a row.
        height: Rows.
        depth: Bits a sample.
        colour: Colour type: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha.
        animated: Whether more frames follow the first.
        clean: The file without texts, colour profiles and further frames; small pixel data is no longer compressed.
    """

    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool
    animated: bool = False
    clean: bytes = b""
    _idat: list[bytes] = field(default_factory=list)

    def raw_size(self) -> int:
        """Returns how many bytes the pixel data must inflate to, filter bytes included."""
        bits = self.depth * _SAMPLES[self.colour]
        if not self.interlaced:
            return self.height * (1 + (self.width * bits + 7) // 8)
        total = 0
        for x, y, dx, dy in _ADAM7:
            columns, rows = -(-(self.width - x) // dx), -(-(self.height - y) // dy)
            if columns > 0 and rows > 0:
                total += rows * (1 + (columns * bits + 7) // 8)
        return total


def survey(data: bytes, name: str) -> Survey:
    """Reads the chunks and proves that every row is there.

    Raises:
        InputError: If a chunk is broken, a checksum is wrong, or the pixel data holds fewer or more bytes than the
            header claims.
    """
    found: Survey | None = None
    kept = [SIGNATURE]
    at = 8
    for _ in range(MAX_CHUNKS):
        length = int.from_bytes(data[at : at + 4], "big")
        kind, end = data[at + 4 : at + 8], at + 12 + length
        if end > len(data):
            raise damaged(name, "the PNG data breaks off")
        if zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise damaged(name, "a PNG checksum is wrong")
        if found is None:
            found = _header(kind, data[at + 8 : end - 4], name)
        elif kind == b"acTL":
            found.animated = int.from_bytes(data[at + 8 : at + 12], "big") > 1
        if kind in (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"eXIf"):
            kept.append(data[at:end])
        if kind == b"IDAT":
            found._idat.append(data[at + 8 : end - 4])
        at = end
        if kind == b"IEND":
            break
    else:
        raise damaged(name, f"it has more than {MAX_CHUNKS} PNG chunks")
    rows = _proven_whole(found, name)
    found.clean = b"".join(kept if rows is None else _with_rows(kept, rows))
    return found


def _header(kind: bytes, body: bytes, name: str) -> Survey:
    if kind != b"IHDR" or len(body) != 13:
        raise damaged(name, "the PNG header is missing")
    width, height = int.from_bytes(body[:4], "big"), int.from_bytes(body[4:8], "big")
    depth, colour, compression, filtering, interlace = body[8:]
    if depth not in _DEPTHS.get(colour, ()) or compression or filtering or interlace > 1:
        raise damaged(name, "the PNG header claims an impossible picture")
    check_size(width, height, name)
    return Survey(width, height, depth, colour, bool(interlace))


def _with_rows(chunks: list[bytes], rows: bytes) -> list[bytes]:
    """Returns the chunks of a file with its pixel data as it is, so that nobody inflates it again."""
    others = [chunk for chunk in chunks if chunk[4:8] != b"IDAT"]
    body = b"IDAT" + zlib.compress(rows, 0)
    whole = b"".join([(len(body) - 4).to_bytes(4, "big"), body, zlib.crc32(body).to_bytes(4, "big")])
    return [*others[:-1], whole, others[-1]]


def _proven_whole(found: Survey, name: str) -> bytes | None:
    """Inflates the pixel data and returns it, filter bytes included; None where it is large."""
    expected = found.raw_size()
    if expected > MAX_DECODED_BYTES:
        raise damaged(name, f"its pixel data would take more than {MAX_DECODED_BYTES} bytes")
    inflate = zlib.decompressobj()
    total, rows = 0, []
    try:
        for block in found._idat:
            while block and not inflate.eof and total <= expected:
                part = inflate.decompress(block, MIB)
                total += len(part)
                if expected <= STORED_BYTES:
                    rows.append(part)
                block = inflate.unconsumed_tail
    except zlib.error as error:
        raise damaged(name, "the PNG pixel data is broken") from error
    found._idat.clear()
    if total != expected or not inflate.eof:
        raise damaged(name, f"the PNG pixel data holds {total} bytes, the header claims {expected}")
    return b"".join(rows) if expected <= STORED_BYTES else None
