"""Check that a PNG file is complete: Pillow accepts a file with missing rows.

Chunks follow the W3C PNG specification, third edition. It is implemented here because imagecodecs 2026.3 (libpng) accepts
hostile test files without an end chunk, with surplus rows and with 100,000 chunks.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

from reslink.imaging.limits import MAX_DECODED_BYTES, MIB, check_size, damaged_error

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_CHUNKS = 100_000
STORED_BYTES = 4 * MIB
"""Pixel data up to this size is inflated once and passed on without compression."""

_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
# First column, first row, column step and row step of the seven passes of Adam7.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


@dataclass
class PngStructure:
    """Structure of a PNG file, read from its chunks.

    Attributes:
        width: Pixels per row.
        height: Number of rows.
        depth: Bits per sample.
        color: Color type: 0 gray, 2 RGB, 3 palette, 4 gray and alpha, 6 RGB and alpha.
        interlaced: Whether the rows are stored in the seven passes of Adam7.
        animated: Whether there is more than one frame.
        clean: The file without text, color profiles and additional frames; small pixel data is not compressed.
    """

    width: int
    height: int
    depth: int
    color: int
    interlaced: bool
    animated: bool = False
    clean: bytes = b""
    _idat: list[bytes] = field(default_factory=list)

    def raw_size(self) -> int:
        """Returns the expected size of the inflated pixel data in bytes, including filter bytes."""
        bits = self.depth * _SAMPLES[self.color]
        if not self.interlaced:
            return self.height * (1 + (self.width * bits + 7) // 8)
        total = 0
        for x, y, dx, dy in _ADAM7:
            columns, rows = -(-(self.width - x) // dx), -(-(self.height - y) // dy)
            if columns > 0 and rows > 0:
                total += rows * (1 + (columns * bits + 7) // 8)
        return total


def check_chunks(data: bytes, name: str) -> PngStructure:
    """Reads the chunks and checks that all rows are present.

    Raises:
        InputError: If a chunk is broken, a checksum is wrong, or the pixel data is shorter or longer than the header
            requires.
    """
    structure: PngStructure | None = None
    kept = [SIGNATURE]
    at = 8
    for _ in range(MAX_CHUNKS):
        length = int.from_bytes(data[at : at + 4], "big")
        chunk_type, end = data[at + 4 : at + 8], at + 12 + length
        if end > len(data):
            raise damaged_error(name, "the PNG data is truncated")
        if zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise damaged_error(name, "a PNG checksum is wrong")
        if structure is None:
            structure = _read_header(chunk_type, data[at + 8 : end - 4], name)
        elif chunk_type == b"acTL":
            structure.animated = int.from_bytes(data[at + 8 : at + 12], "big") > 1
        if chunk_type in (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"eXIf"):
            kept.append(data[at:end])
        if chunk_type == b"IDAT":
            structure._idat.append(data[at + 8 : end - 4])
        at = end
        if chunk_type == b"IEND":
            break
    else:
        raise damaged_error(name, f"it has more than {MAX_CHUNKS} PNG chunks")
    rows = _inflate_rows(structure, name)
    structure.clean = b"".join(kept if rows is None else _with_rows(kept, rows))
    return structure


def _read_header(chunk_type: bytes, body: bytes, name: str) -> PngStructure:
    if chunk_type != b"IHDR" or len(body) != 13:
        raise damaged_error(name, "the PNG header is missing")
    width, height = int.from_bytes(body[:4], "big"), int.from_bytes(body[4:8], "big")
    depth, color, compression, filtering, interlace = body[8:]
    if depth not in _DEPTHS.get(color, ()) or compression or filtering or interlace > 1:
        raise damaged_error(name, "the PNG header is invalid")
    check_size(width, height, name)
    return PngStructure(width, height, depth, color, bool(interlace))


def _with_rows(chunks: list[bytes], rows: bytes) -> list[bytes]:
    """Returns the chunks with uncompressed pixel data, so that it is not inflated twice."""
    others = [chunk for chunk in chunks if chunk[4:8] != b"IDAT"]
    body = b"IDAT" + zlib.compress(rows, 0)
    idat = b"".join([(len(body) - 4).to_bytes(4, "big"), body, zlib.crc32(body).to_bytes(4, "big")])
    return [*others[:-1], idat, others[-1]]


def _inflate_rows(structure: PngStructure, name: str) -> bytes | None:
    """Inflates the pixel data, checks its size and returns it with filter bytes; None if it is large."""
    expected = structure.raw_size()
    if expected > MAX_DECODED_BYTES:
        raise damaged_error(name, f"its pixel data needs more than {MAX_DECODED_BYTES} bytes")
    inflate = zlib.decompressobj()
    total, rows = 0, []
    try:
        for block in structure._idat:
            while block and not inflate.eof and total <= expected:
                inflated = inflate.decompress(block, MIB)
                total += len(inflated)
                if expected <= STORED_BYTES:
                    rows.append(inflated)
                block = inflate.unconsumed_tail
    except zlib.error as error:
        raise damaged_error(name, "the PNG pixel data is broken") from error
    structure._idat.clear()
    if total != expected or not inflate.eof:
        raise damaged_error(name, f"the PNG pixel data has {total} bytes, but the header requires {expected}")
    return b"".join(rows) if expected <= STORED_BYTES else None
