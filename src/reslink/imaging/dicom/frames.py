"""The stored values of a DICOM image, frame by frame, each transfer syntax by one decoder that is chosen here.

pydicom would try one plugin after another, among them one under the GPL; here the plugin is always named, and a
codestream that its decoder might complete with grey is proved whole first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, uid
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.decoders.base import get_decoder

from reslink.errors import InputError
from reslink.imaging.formats import jpeg_integrity, raster
from reslink.imaging.limits import damaged, unsupported

NATIVE = frozenset(
    {
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
    }
)
# Transfer syntax -> the plugin of pydicom that decodes it, the extra of reslink that installs it.
PLUGINS = {
    uid.RLELossless: ("pydicom", ""),
    uid.JPEGBaseline8Bit: ("pillow", ""),
    uid.JPEGExtended12Bit: ("pillow", ""),
    uid.JPEGLSLossless: ("pyjpegls", "dicom"),
    uid.JPEGLSNearLossless: ("pyjpegls", "dicom"),
    uid.JPEG2000Lossless: ("pylibjpeg", "dicom"),
    uid.JPEG2000: ("pylibjpeg", "dicom"),
    uid.HTJ2KLossless: ("pylibjpeg", "dicom"),
    uid.HTJ2KLosslessRPCL: ("pylibjpeg", "dicom"),
    uid.HTJ2K: ("pylibjpeg", "dicom"),
    uid.JPEGLossless: ("gdcm", "gdcm"),
    uid.JPEGLosslessSV1: ("gdcm", "gdcm"),
}
_JPEG = frozenset({uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1})
_JLS = frozenset({uid.JPEGLSLossless, uid.JPEGLSNearLossless})
_J2K = frozenset({uid.JPEG2000Lossless, uid.JPEG2000, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K})


def stored_frames(dataset: Dataset, count: int, name: str) -> Iterator[NDArray[np.generic]]:
    """Yields the frames of an image as they are stored, before any rescale.

    Args:
        dataset: A data set with pixel data whose header has been checked.
        count: How many frames it claims.
        name: File name for messages.

    Yields:
        (H, W) or, for colour, (H, W, 3) RGB.

    Raises:
        InputError: If data is missing, left over or broken, or if no allowed decoder is installed.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax in NATIVE:
        _check_native(dataset, count, name)
        plugin = ""
    else:
        plugin = _plugin(syntax, name)
        _check_encapsulated(dataset, count, plugin, name)
    produced = 0
    # pydicom takes the high bit for the last stored one; dicom.py masks the bits of native and RLE values itself.
    own: dict[str, Any] = {"correct_unused_bits": False} if syntax in NATIVE or syntax == uid.RLELossless else {}
    for frame, _ in get_decoder(syntax).iter_array(dataset, decoding_plugin=plugin, **own):
        produced += 1
        if frame.shape[:2] != (dataset.Rows, dataset.Columns):
            raise damaged(name, "a frame does not have the size that the header claims")
        yield frame
    if produced != count:
        raise damaged(name, f"it claims {count} frames and holds {produced}")


def _plugin(syntax: uid.UID, name: str) -> str:
    if syntax not in PLUGINS:
        raise unsupported(
            name,
            f"has the transfer syntax {syntax.name}",
            "Uncompressed, deflated, RLE, JPEG, JPEG-LS and JPEG 2000 images are read",
        )
    plugin, extra = PLUGINS[syntax]
    available = get_decoder(syntax).available_plugins
    if plugin == "pydicom" and "pylibjpeg" in available:
        return "pylibjpeg"  # RLE in compiled code: 20 times as fast
    if plugin not in available:
        raise InputError(
            f"{name} is compressed with {syntax.name}, for which no decoder is installed",
            f"This needs the extra {extra!r}",
            f'Run: pip install "reslink[{extra}]"',
        )
    return plugin


def _check_native(dataset: Dataset, count: int, name: str) -> None:
    bits = dataset.Rows * dataset.Columns * dataset.SamplesPerPixel * dataset.get("BitsAllocated", 8)
    if dataset.get("PhotometricInterpretation") == "YBR_FULL_422":
        bits = bits // 3 * 2
    held = len(next(dataset[tag].value for tag in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if tag in dataset))
    needed = (bits * count + 7) // 8
    if held < needed:
        raise damaged(name, f"its pixel data has {held} bytes, the header claims {needed}")
    if held >= needed + max(2, bits // 8):
        raise damaged(name, f"its pixel data has {held} bytes, far more than the {needed} that the header claims")


def _check_encapsulated(dataset: Dataset, count: int, plugin: str, name: str) -> None:
    syntax = dataset.file_meta.TransferSyntaxUID
    offsets = dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths")
    table = offsets if all(offsets) else None
    streams = list(generate_frames(dataset.PixelData, number_of_frames=count, extended_offsets=table))
    if len(streams) != count:
        raise damaged(name, f"it claims {count} frames and holds {len(streams)}")
    for stream in streams:
        if syntax in _JPEG:
            _check_jpeg(stream, dataset, plugin, name)
        elif syntax in _J2K:
            _check_j2k(stream, dataset, name)
        elif syntax in _JLS and not stream.rstrip(b"\0").endswith(b"\xff\xd9"):
            raise damaged(name, "the JPEG-LS data breaks off")  # on which CharLS may spin for a minute


def _check_jpeg(stream: bytes, dataset: Dataset, plugin: str, name: str) -> None:
    found = jpeg_integrity.survey(stream, name)
    jpeg_integrity.check_claim(found, dataset.Columns, dataset.Rows, name)
    if len(found.sampling) != dataset.SamplesPerPixel:
        raise damaged(name, f"it claims {dataset.SamplesPerPixel} samples a pixel and holds {len(found.sampling)}")
    if plugin == "pillow":
        if found.kind == 0xC3 or found.precision != 8:
            raise unsupported(name, "is a 12-bit JPEG", "JPEG of 8 bits and JPEG lossless are read")
        whole = stream[: found.end]
        raster.prove_whole(whole, found, np.asarray(raster.decode_jpeg(whole)), name)
    else:
        _prove_lossless(stream[: found.end], found, dataset, name)


def _prove_lossless(stream: bytes, found: jpeg_integrity.Survey, dataset: Dataset, name: str) -> None:
    """Proves a JPEG lossless stream whole: filler after the end must not change the picture."""
    decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
    pictures = []
    for candidate in (stream, jpeg_integrity.with_filler(stream, found)):
        single = Dataset()
        single.file_meta = dataset.file_meta
        for word in _PIXEL_WORDS:
            if word in dataset:
                single[word] = dataset[word]
        single.NumberOfFrames = 1
        single.PixelData = encapsulate([candidate + b"\0" * (len(candidate) % 2)])
        single["PixelData"].VR = "OB"
        pictures.append(decoder.as_array(single, raw=True, decoding_plugin="gdcm")[0])
    if not np.array_equal(pictures[0], pictures[1]):
        raise damaged(name, "a part of the JPEG picture is missing")


_PIXEL_WORDS = (
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PlanarConfiguration",
)


def _check_j2k(stream: bytes, dataset: Dataset, name: str) -> None:
    """Checks the size and the end of a JPEG 2000 codestream (ISO/IEC 15444-1, annex A)."""
    start = stream.find(b"\xff\x4f\xff\x51")
    if start < 0 or b"\xff\xd9" not in stream[-4:]:
        raise damaged(name, "the JPEG 2000 data breaks off")
    words = [int.from_bytes(stream[start + 8 + 4 * i : start + 12 + 4 * i], "big") for i in range(4)]
    if (words[0] - words[2], words[1] - words[3]) != (dataset.Columns, dataset.Rows):
        raise damaged(name, "the JPEG 2000 data has another size than the header claims")
