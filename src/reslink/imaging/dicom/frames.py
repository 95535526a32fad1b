"""Decode the stored values of a DICOM image, frame by frame, with one chosen decoder per transfer syntax.

pydicom tries its plugins in turn, among them one under the GPL. Here the plugin is always specified, and data that its decoder
might fill with gray is checked for completeness first.
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
from reslink.files import install_command
from reslink.imaging.formats import jpeg_integrity, raster
from reslink.imaging.limits import damaged_error, unsupported_error

NATIVE = frozenset(
    {
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
    }
)
# Transfer syntax -> (pydicom plugin that decodes it, extra of reslink that installs the plugin)
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
    """Yields the stored frames of an image, before any rescale.

    Args:
        dataset: A data set with pixel data and a checked header.
        count: Number of frames according to the header.
        name: File name for messages.

    Yields:
        (H, W), or (H, W, 3) RGB for color.

    Raises:
        InputError: If data is missing, in excess or broken, or if the decoder is not installed.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax in NATIVE:
        _check_native(dataset, count, name)
        plugin = ""
    else:
        plugin = _choose_plugin(syntax, name)
        _check_encapsulated(dataset, count, plugin, name)
    decoded = 0
    # pydicom assumes that the high bit is the last stored bit; read.py masks the bits of native and RLE values itself.
    options: dict[str, Any] = {"correct_unused_bits": False} if syntax in NATIVE or syntax == uid.RLELossless else {}
    for frame, _ in get_decoder(syntax).iter_array(dataset, decoding_plugin=plugin, **options):
        decoded += 1
        if frame.shape[:2] != (dataset.Rows, dataset.Columns):
            raise damaged_error(name, "a frame does not have the size given in the header")
        yield frame
    if decoded != count:
        raise damaged_error(name, f"its header gives {count} frames, but it has {decoded}")


def _choose_plugin(syntax: uid.UID, name: str) -> str:
    if syntax not in PLUGINS:
        raise unsupported_error(
            name,
            f"has the transfer syntax {syntax.name}",
            "Uncompressed, deflated, RLE, JPEG, JPEG-LS and JPEG 2000 images are supported",
        )
    plugin, extra = PLUGINS[syntax]
    available = get_decoder(syntax).available_plugins
    if plugin == "pydicom" and "pylibjpeg" in available:
        return "pylibjpeg"  # compiled RLE decoder, 20 times as fast
    if plugin not in available:
        raise InputError(
            f"{name} is compressed with {syntax.name}, but no decoder for it is installed",
            f"The decoder belongs to the extra {extra!r} of reslink",
            f"Run: {install_command(extra)}",
        )
    return plugin


def _check_native(dataset: Dataset, count: int, name: str) -> None:
    bits = dataset.Rows * dataset.Columns * dataset.SamplesPerPixel * dataset.get("BitsAllocated", 8)
    if dataset.get("PhotometricInterpretation") == "YBR_FULL_422":
        bits = bits // 3 * 2
    size = len(next(dataset[tag].value for tag in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if tag in dataset))
    needed = (bits * count + 7) // 8
    if size < needed:
        raise damaged_error(name, f"its pixel data has {size} bytes, but the header requires {needed}")
    if size >= needed + max(2, bits // 8):
        raise damaged_error(name, f"its pixel data has {size} bytes, far more than the {needed} that the header requires")


def _check_encapsulated(dataset: Dataset, count: int, plugin: str, name: str) -> None:
    syntax = dataset.file_meta.TransferSyntaxUID
    offsets = dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths")
    table = offsets if all(offsets) else None
    streams = list(generate_frames(dataset.PixelData, number_of_frames=count, extended_offsets=table))
    if len(streams) != count:
        raise damaged_error(name, f"its header gives {count} frames, but it has {len(streams)}")
    for stream in streams:
        if syntax in _JPEG:
            _check_jpeg(stream, dataset, plugin, name)
        elif syntax in _J2K:
            _check_j2k(stream, dataset, name)
        elif syntax in _JLS and not stream.rstrip(b"\0").endswith(b"\xff\xd9"):
            raise damaged_error(name, "the JPEG-LS data is truncated")  # CharLS may run for a minute on such data


def _check_jpeg(stream: bytes, dataset: Dataset, plugin: str, name: str) -> None:
    structure = jpeg_integrity.scan_markers(stream, name)
    jpeg_integrity.check_claim(structure, dataset.Columns, dataset.Rows, name)
    if len(structure.sampling) != dataset.SamplesPerPixel:
        raise damaged_error(
            name,
            f"its header gives {dataset.SamplesPerPixel} samples per pixel, but the JPEG data has {len(structure.sampling)}",
        )
    if plugin == "pillow":
        if structure.process == 0xC3 or structure.precision != 8:
            raise unsupported_error(name, "is a 12-bit JPEG", "8-bit JPEG and lossless JPEG are supported")
        jpeg = stream[: structure.end]
        raster.check_complete(jpeg, structure, np.asarray(raster.decode_jpeg(jpeg)), name)
    else:
        _check_lossless_complete(stream[: structure.end], structure, dataset, name)


def _check_lossless_complete(stream: bytes, structure: jpeg_integrity.JpegStructure, dataset: Dataset, name: str) -> None:
    """Checks that a lossless JPEG stream is complete: filler after its end must not change the picture."""
    decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
    pictures = []
    for candidate in (stream, jpeg_integrity.with_filler(stream, structure)):
        single = Dataset()
        single.file_meta = dataset.file_meta
        for keyword in _PIXEL_MODULE:
            if keyword in dataset:
                single[keyword] = dataset[keyword]
        single.NumberOfFrames = 1
        single.PixelData = encapsulate([candidate + b"\0" * (len(candidate) % 2)])
        single["PixelData"].VR = "OB"
        pictures.append(decoder.as_array(single, raw=True, decoding_plugin="gdcm")[0])
    if not np.array_equal(pictures[0], pictures[1]):
        raise damaged_error(name, "a part of the JPEG picture is missing")


_PIXEL_MODULE = (
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
        raise damaged_error(name, "the JPEG 2000 data is truncated")
    values = [int.from_bytes(stream[start + 8 + 4 * i : start + 12 + 4 * i], "big") for i in range(4)]
    if (values[0] - values[2], values[1] - values[3]) != (dataset.Columns, dataset.Rows):
        raise damaged_error(name, "the JPEG 2000 data does not have the size given in the header")
