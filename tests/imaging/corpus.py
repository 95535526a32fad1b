"""The hostile corpus: files that lie, break off, explode or only look odd, made by code and always the same.

Each entry is (name, content, verdict). The content of a file that takes long to make is a function. The verdict is ``good``
(must be read), ``bad`` (must be refused) or ``any`` (either, but an image must be whole and finite).
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import builders as b
import numpy as np
from PIL import Image as Pillow
from pydicom import uid
from pydicom.encaps import encapsulate

Entry = tuple[str, bytes | Callable[[], bytes], str]

PICTURE = b.picture()
HEIGHT, WIDTH = PICTURE.shape
GRAY = Pillow.fromarray(PICTURE)
ROWS = b.rows(PICTURE)
STORED = PICTURE.astype(np.uint16) * 16


def entries() -> Iterator[Entry]:
    for part in (pngs, jpegs, other_rasters, arrays, dicoms, compressed_dicoms, niftis, strangers):
        yield from part()


def pngs() -> Iterator[Entry]:
    good = b.png(WIDTH, HEIGHT, ROWS)
    signature = good[:8]
    ihdr, idat, iend = good[8:33], good[33:-12], good[-12:]
    yield "png good", good, "good"
    yield "png without end", good[:-12], "bad"
    yield "png wrong checksum", good[:40] + bytes([good[40] ^ 1]) + good[41:], "bad"
    yield "png signature only", signature, "bad"
    yield "png no data", signature + ihdr + iend, "bad"
    yield "png two headers", signature + ihdr + ihdr + idat + iend, "any"
    yield "png data first", signature + idat + ihdr + iend, "bad"
    yield "png half rows", b.png(WIDTH, HEIGHT, ROWS[: len(ROWS) // 2]), "bad"
    yield "png a row more", b.png(WIDTH, HEIGHT, ROWS + ROWS[: WIDTH + 1]), "bad"
    yield "png no pixels", b.png(WIDTH, HEIGHT, b""), "bad"
    yield "png filter 99", b.png(WIDTH, HEIGHT, b"\x63" + ROWS[1:]), "any"
    yield "png width 0", b.png(0, HEIGHT, ROWS), "bad"
    yield "png width 2^31", b.png(2**31 - 1, HEIGHT, ROWS), "bad"
    yield "png sides 2^32-1", b.png(2**32 - 1, 2**32 - 1, ROWS), "bad"
    yield "png color 7", b.png(WIDTH, HEIGHT, ROWS, color=7), "bad"
    yield "png depth 3", b.png(WIDTH, HEIGHT, ROWS, depth=3), "bad"
    yield "png palette without palette", b.png(WIDTH, HEIGHT, ROWS, color=3), "any"
    yield "png interlaced short", b.png(WIDTH, HEIGHT, ROWS, interlace=1), "bad"
    yield "png interlace 2", b.png(WIDTH, HEIGHT, ROWS, interlace=2), "bad"
    yield "png chunk of 2 GiB", signature + ihdr + struct.pack(">I", 2**31 - 1) + b"IDAT" + b"x" * 50, "bad"
    yield "png text bomb", lambda: b.png(WIDTH, HEIGHT, ROWS, extra=b.chunk(b"zTXt", b"a\0\0" + _zeros(30))), "good"
    yield "png profile bomb", lambda: b.png(WIDTH, HEIGHT, ROWS, extra=b.chunk(b"iCCP", b"a\0\0" + _zeros(30))), "good"
    yield "png bomb", lambda: b.png(10_000, 10_000, b"\0" * 100_010_000), "bad"
    yield "png data bomb", lambda: b.png(WIDTH, HEIGHT, b"\0" * 60_000_000), "bad"
    yield "png of 64 megapixels", lambda: b.png(8192, 8192, b"\0" * (1 + 8192) * 8192), "good"
    yield "png of 64 megapixels and 4 channels of 16 bits", b.png(8192, 8192, b"\0" * 99, depth=16, color=6), "bad"
    yield "png 1x1", b.png(1, 1, b"\0\0"), "bad"
    yield "png of many chunks", signature + ihdr + b.chunk(b"tEXt", b"") * 101_000 + idat + iend, "bad"
    yield "png broken exif", b.png(WIDTH, HEIGHT, ROWS, extra=b.chunk(b"eXIf", b"II*\0" + b"\xff" * 30)), "any"
    yield "png deflate garbage", signature + ihdr + b.chunk(b"IDAT", b"\x78\x9c" + b"\xaa" * 200) + iend, "bad"


def _zeros(megabytes: int, wbits: int = zlib.MAX_WBITS) -> bytes:
    return zlib.compress(bytes(megabytes << 20), 1, wbits)


def content(entry: bytes | Callable[[], bytes]) -> bytes:
    """Returns the content of an entry."""
    return entry if isinstance(entry, bytes) else entry()


def jpegs() -> Iterator[Entry]:
    good = b.saved(Pillow.fromarray(b.picture(64, 96)), "JPEG", quality=90)
    sof, sos = good.index(b"\xff\xc0"), good.index(b"\xff\xda")
    yield "jpeg good", good, "good"
    yield "jpeg trailing", good + b"\0" * 100, "good"
    yield "jpeg two pictures", good + good, "good"
    yield "jpeg no end", good[:-2], "bad"
    yield "jpeg start only", good[:3], "bad"
    yield "jpeg header only", good[:sos], "bad"
    yield "jpeg header and end", good[:sos] + b"\xff\xd9", "bad"
    yield "jpeg empty scan", good[: sos + 14] + b"\xff\xd9", "bad"
    yield "jpeg half and end", good[: sos + (len(good) - sos) // 2] + b"\xff\xd9", "bad"
    for name, at, value in (
        ("rows x4", 5, struct.pack(">H", 256)),
        ("rows 0", 5, b"\0\0"),
        ("columns 65535", 7, b"\xff\xff"),
        ("size 65500", 5, struct.pack(">HH", 65500, 65500)),
        ("columns x2", 7, struct.pack(">H", 192)),
        ("12 bits", 4, b"\x0c"),
        ("0 components", 9, b"\0"),
        ("200 components", 9, b"\xc8"),
        ("sampling 0", 11, b"\0"),
        ("sampling 15", 11, b"\xff"),
        ("lossless", 1, b"\xc3"),
        ("arithmetic", 1, b"\xc9"),
        ("called progressive", 1, b"\xc2"),
    ):
        yield f"jpeg {name}", good[: sof + at] + value + good[sof + at + len(value) :], "bad"
    yield "jpeg two frames", good[:sos] + good[sof : sof + 13] + good[sos:], "bad"
    tables = good.index(b"\xff\xc4")
    yield "jpeg without tables", good[:tables] + good[sos:], "any"
    moving = b.saved(Pillow.fromarray(b.picture(64, 96)), "JPEG", quality=90, progressive=True)
    scans = [i for i in range(len(moving) - 1) if moving[i : i + 2] == b"\xff\xda"]
    for i, at in enumerate(scans[1:]):
        yield f"jpeg progressive of {i + 1} scans", moving[:at] + b"\xff\xd9", "bad"
    last = moving[scans[-1] : -2]
    yield "jpeg of 300 scans", moving[:-2] + last * 300 + b"\xff\xd9", "bad"
    yield "jpeg cmyk cut", b.saved(GRAY.convert("CMYK"), "JPEG")[:-150] + b"\xff\xd9", "bad"
    yield "jpeg random scan", good[: sos + 14] + bytes(range(0, 250)) * 40 + b"\xff\xd9", "any"
    yield "jpeg exif bomb", b.saved(GRAY, "JPEG", exif=b"Exif\0\0MM\0*" + b"\xff" * 60_000), "any"


def other_rasters() -> Iterator[Entry]:
    bmp = b.saved(GRAY, "BMP")
    yield "bmp cut", bmp[:-1], "bad"
    yield "bmp width -1", bmp[:18] + b"\xff" * 4 + bmp[22:], "bad"
    yield "bmp 40000 rows", bmp[:22] + struct.pack("<i", 40_000) + bmp[26:], "bad"
    yield "bmp 0 bits", bmp[:28] + b"\0\0" + bmp[30:], "bad"
    yield "bmp far offset", bmp[:10] + b"\xff\xff\xff\x7f" + bmp[14:], "bad"
    yield "bmp rle without data", bmp[:30] + b"\1\0\0\0" + bmp[34:54] + bmp[54:1078] + b"\0\1", "bad"
    tiff = b.saved(GRAY, "TIFF")
    yield "tiff cut", tiff[:-200], "bad"
    yield "tiff header only", tiff[:8], "bad"
    yield "tiff loop", b"II*\0\x08\0\0\0\0\0\x08\0\0\0", "bad"
    yield "tiff jpeg", b.saved(GRAY, "TIFF", compression="jpeg"), "bad"
    lzw = b.saved(GRAY, "TIFF", compression="tiff_lzw")
    yield "tiff lzw cut", lzw[: len(lzw) // 2], "bad"
    deflate = bytearray(b.saved(GRAY, "TIFF", compression="tiff_adobe_deflate"))
    start = deflate.index(b"\x78\x9c" if b"\x78\x9c" in deflate else b"\x78")
    deflate[start + 20 : start + 60] = b"\xff" * 40
    yield "tiff deflate broken", bytes(deflate), "bad"
    yield "tiff huge", lambda: b.saved(Pillow.new("1", (12_000, 12_000)), "TIFF", compression="tiff_lzw"), "bad"
    yield "tiff nan", b.saved(Pillow.fromarray(np.full((32, 32), np.nan, np.float32)), "TIFF"), "bad"
    webp = b.saved(GRAY.convert("RGB"), "WEBP", lossless=True)
    yield "webp cut", webp[:-10], "bad"
    yield "webp cut and mended", webp[:4] + struct.pack("<I", len(webp) // 2 - 8) + webp[8 : len(webp) // 2], "bad"
    yield "webp header", webp[:12], "bad"


def arrays() -> Iterator[Entry]:
    good = b.npy(PICTURE)
    yield "npy good", good, "good"
    yield "npy cut", good[:-1], "bad"
    yield "npy pickle", b.npy(np.array([[print] * 20] * 20, object)), "bad"
    for name, header in (
        ("huge", "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999, 99999999), }"),
        ("negative", "{'descr': '<f4', 'fortran_order': False, 'shape': (-20, -20), }"),
        ("code", "{'descr': __import__('os').system('true'), 'fortran_order': False, 'shape': (20, 20), }"),
        ("deep", "{'descr': " + "(" * 3000 + "}"),
        ("text", "hello"),
    ):
        text = header.ljust(6000).encode() + b"\n"
        yield f"npy {name}", b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + bytes(400), "bad"
    yield "npy version 9", b"\x93NUMPY\x09\0" + good[8:], "bad"
    yield "npy magic only", b"\x93NUMPY", "bad"


def _dicom(**attributes: Any) -> bytes:
    return b.written(b.dataset(STORED, **attributes))


def dicoms() -> Iterator[Entry]:
    good = _dicom()
    yield "dicom good", good, "good"
    yield "dicom preamble of tiff", b"II*\0" + bytes(124) + good[128:], "good"
    yield "dicom magic only", good[:132], "bad"
    yield "dicom meta only", good[:340], "bad"
    yield "dicom bare", good[good.index(b"\x08\0\x16\0UI") :], "good"
    for name, attributes in (
        ("rows 0", {"Rows": 0}),
        ("rows 65535", {"Rows": 65535}),
        ("frames 10^9", {"NumberOfFrames": 10**9}),
        ("frames 2", {"NumberOfFrames": 2}),
        ("bits 64", {"BitsAllocated": 64}),
        ("bits 1", {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}),
        ("bits stored 0", {"BitsStored": 0}),
        ("high bit 99", {"HighBit": 99}),
        ("samples 3", {"SamplesPerPixel": 3}),
        ("slope nan", {"RescaleSlope": "nan"}),
        ("intercept 1e308", {"RescaleSlope": 1, "RescaleIntercept": "1e308"}),
        ("palette without palette", {"PhotometricInterpretation": "PALETTE COLOR"}),
        ("no pixels", {"PixelData": None}),
        ("half its pixels", {"PixelData": STORED.tobytes()[: STORED.nbytes // 2]}),
    ):
        yield f"dicom {name}", _dicom(**attributes), "bad"
    yield "dicom slope text", _dicom(RescaleSlope="777777").replace(b"777777", b"a lot!"), "bad"
    yield "dicom odd photometric", _dicom(PhotometricInterpretation="XYZ"), "any"
    yield "dicom window nan", _dicom(WindowCenter="nan", WindowWidth="0"), "good"
    yield "dicom spacing 0", _dicom(PixelSpacing=[0, 0]), "good"
    yield "dicom position text", _dicom(ImagePositionPatient=[777, 777, 777]).replace(b"777", b"abc"), "any"
    plain = b.dataset(STORED)
    plain.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    deflated = b.written(plain)
    yield "dicom deflated", deflated, "good"
    yield "dicom deflated cut", deflated[:-40], "bad"
    meta = 132 + 12 + int.from_bytes(deflated[140:144], "little")
    yield "dicom deflate bomb", lambda: deflated[:meta] + _zeros(300, -15), "bad"
    body = good[meta_length(good) :]
    head = good[: meta_length(good)]
    nest = b"\x40\0\x00\xa7SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff"
    yield "dicom nested 5000 deep", head + nest * 5_000, "bad"
    yield "dicom 100000 elements", head + b"\x09\0\x01\x10UN\0\0\0\0\0\0" * 100_000 + body, "any"
    items = b"\x40\0\x00\xa7SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\0\0\0\0" * 150_000
    yield "dicom 150000 items", head + items + b"\xfe\xff\xdd\xe0\0\0\0\0" + body, "any"
    big = items * 8
    yield "dicom a million items", head + big + b"\xfe\xff\xdd\xe0\0\0\0\0" + body, "any"
    yield "dicom length 4 GiB", good.replace(b"OW\0\0\x00\x0f\0\0", b"OW\0\0\xf0\xff\xff\xff"), "any"
    yield "dicom unknown VR", good.replace(b"\x28\0\x10\0US", b"\x28\0\x10\0ZZ"), "any"


def meta_length(data: bytes) -> int:
    return 144 + int.from_bytes(data[140:144], "little")


def _with_stream(stream: bytes, syntax: uid.UID, **attributes: Any) -> bytes:
    ds = b.dataset(STORED, **attributes)
    ds.PixelData = encapsulate([stream + b"\0" * (len(stream) % 2)])
    ds["PixelData"].VR = "OB"
    ds.file_meta.TransferSyntaxUID = syntax
    return b.written(ds)


def compressed_dicoms() -> Iterator[Entry]:
    for syntax in (uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.JPEGLosslessSV1):
        stream = b.encoded(STORED, syntax, b.dataset(STORED))
        kind = syntax.name[:24]
        yield f"{kind} good", _with_stream(stream, syntax), "good"
        yield f"{kind} half", _with_stream(stream[: len(stream) // 2], syntax), "bad"
        yield f"{kind} half with end", _with_stream(stream[: len(stream) // 2] + b"\xff\xd9", syntax), "bad"
        yield f"{kind} nothing", _with_stream(b"\0\0", syntax), "bad"
        yield f"{kind} garbage", _with_stream(b"\xab" * 500, syntax), "bad"
        yield f"{kind} zeroed middle", _with_stream(stream[:120] + bytes(200) + stream[320:], syntax), "any"
        yield f"{kind} claims 3 frames", _with_stream(stream, syntax, NumberOfFrames=3), "bad"
        yield f"{kind} claims 8 bits", _with_stream(stream, syntax, BitsAllocated=8, BitsStored=8, HighBit=7), "any"
        yield f"{kind} called uncompressed", _with_stream(stream, uid.ExplicitVRLittleEndian), "bad"
    yield "rle segment beyond", _with_stream(struct.pack("<16I", 2, 64, 10**9, *[0] * 13) + b"\0" * 99, uid.RLELossless), "bad"
    yield "rle 99 segments", _with_stream(struct.pack("<16I", 99, *[64] * 15), uid.RLELossless), "bad"
    jpeg = b.saved(GRAY, "JPEG")
    small = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    yield "baseline good", _with_stream(jpeg, uid.JPEGBaseline8Bit, **small), "good"
    yield "baseline half", _with_stream(jpeg[:-300] + b"\xff\xd9", uid.JPEGBaseline8Bit, **small), "bad"
    yield "baseline as lossless", _with_stream(jpeg, uid.JPEGLosslessSV1, **small), "any"
    huge = jpeg.index(b"\xff\xc0") + 5
    lying = jpeg[:huge] + struct.pack(">HH", 65500, 65500) + jpeg[huge + 4 :]
    yield "baseline of 65500", _with_stream(lying, uid.JPEGBaseline8Bit, **small), "bad"
    yield "video", _with_stream(b"\0" * 50, uid.MPEG2MPML), "bad"


def niftis() -> Iterator[Entry]:
    volume = np.stack([PICTURE.T] * 20, axis=-1).astype(np.int16)
    good = b.nifti(volume)
    yield "nifti good", good, "good"
    yield "nifti gz good", b.zipped(good), "good"
    yield "nifti cut", good[:-1], "bad"
    yield "nifti header only", good[:348], "bad"
    yield "nifti gz cut", b.zipped(good)[:-20], "bad"
    yield "nifti gz of header", b.zipped(good[:352]), "bad"
    yield "gz bomb of zeros", lambda: b.zipped(bytes(100 << 20)), "bad"
    yield "gz bomb after nifti", lambda: b.zipped(good + bytes(100 << 20)), "bad"
    yield "gz in gz", b.zipped(b.zipped(good)), "bad"
    yield "gz header only", b"\x1f\x8b\x08\0", "bad"
    yield "nifti 18 GB", b.nifti(volume, dim=[3, 32000, 32000, 9, 1, 1, 1, 1])[:377], "bad"
    yield "nifti dims 32767", b.nifti(volume, dim=[7] + [32767] * 7), "bad"
    yield "nifti slope inf", b.nifti(volume, scl_slope=np.inf), "bad"
    yield "nifti nan", b.nifti(np.full((20, 20, 20), np.nan, np.float32)), "bad"
    yield "nifti qform nan", b.nifti(volume, sform_code=0, qform_code=1, quatern_b=np.nan), "bad"
    yield "nifti zoom 0", b.nifti(volume, sform_code=0, qform_code=0, pixdim=[1, 0, 0, 0, 0, 0, 0, 0]), "any"


def strangers() -> Iterator[Entry]:
    yield "nothing", b"", "bad"
    yield "one byte", b"\0", "bad"
    yield "text", b"path,label\n1.png,Tumor\n", "bad"
    yield "html", b"<html><img src='x.png'></html>", "bad"
    yield "zip", b"PK\3\4" + bytes(100), "bad"
    yield "pdf", b"%PDF-1.7\n" + bytes(100), "bad"
    yield "gif", b.saved(GRAY, "GIF"), "bad"
    yield "postscript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", "bad"
    yield "noise", np.random.default_rng(0).bytes(5000), "bad"
    stream = io.BytesIO()
    np.savez(stream, a=PICTURE)
    yield "npz", stream.getvalue(), "bad"
    for name, magic in (("BMP", b"BM"), ("RIFF", b"RIFF\0\0\0\0WEBP"), ("TIFF", b"MM\0*"), ("BigTIFF", b"II+\0\x08\0\0\0")):
        yield f"magic of {name}", magic + b"\xff" * 30, "bad"
