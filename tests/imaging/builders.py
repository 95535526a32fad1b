"""Small images of every kind, written byte by byte or by an encoder that is not the one under test."""

from __future__ import annotations

import gzip
import io
import itertools
import struct
import warnings
import zlib
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from pydicom import Dataset, uid
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_encoder
from pydicom.sequence import Sequence

CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"
MR_CLASS = "1.2.840.10008.5.1.4.1.1.4"
SC_CLASS = "1.2.840.10008.5.1.4.1.1.7"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"


def picture(height: int = 48, width: int = 40) -> NDArray[np.uint8]:
    """A picture without any symmetry, and not gray in its last corner."""
    y, x = np.mgrid[:height, :width]
    waves = 100 + 60 * np.sin(x / 5.0) + 50 * np.cos(y / 7.0 + x / 11.0)
    waves[: height // 4, : width // 3] += 40
    waves[-10:, -10:] = 220 - x[-10:, -10:] * 2
    return np.clip(waves, 0, 255).astype(np.uint8)


def saved(image: Pillow.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, raw: bytes, depth: int = 8, color: int = 0, interlace: int = 0, extra: bytes = b"") -> bytes:
    """A PNG file around raw rows, each with its filter byte."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlace)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(raw, 1)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def rows(array: NDArray[Any]) -> bytes:
    """Raw PNG rows, filter 0."""
    return b"".join(b"\0" + row.tobytes() for row in array)


def dataset(array: NDArray[Any], frames: int | None = None, **attributes: Any) -> Dataset:
    """A DICOM data set around an array of (H, W), (D, H, W) or (H, W, 3), uncompressed little endian."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.SOPClassUID = attributes.pop("SOPClassUID", MR_CLASS)
    ds.SOPInstanceUID = attributes.pop("SOPInstanceUID", "2.25.1")
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    ds.Modality = "MR"
    color = array.ndim == 3 and array.shape[-1] == 3
    ds.Rows, ds.Columns = array.shape[:2] if color or array.ndim == 2 else array.shape[1:]
    if array.ndim == 3 and not color:
        ds.NumberOfFrames = len(array)
    ds.SamplesPerPixel = 3 if color else 1
    ds.PhotometricInterpretation = "RGB" if color else "MONOCHROME2"
    if color:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = ds.BitsStored = array.dtype.itemsize * 8
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(array.dtype.kind == "i")
    ds.PixelData = array.tobytes() + b"\0" * (array.nbytes % 2)
    ds["PixelData"].VR = "OW" if array.dtype.itemsize > 1 else "OB"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for word, value in attributes.items():
            if value is not None:
                setattr(ds, word, value)
            elif word in ds:
                delattr(ds, word)
    return ds


def item(**attributes: Any) -> Dataset:
    ds = Dataset()
    for word, value in attributes.items():
        setattr(ds, word, value)
    return ds


def sequence(**attributes: Any) -> Sequence:
    return Sequence([item(**attributes)])


def written(ds: Dataset) -> bytes:
    """The bytes of a DICOM file."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def compressed(array: NDArray[Any], syntax: uid.UID, **attributes: Any) -> bytes:
    """A DICOM file of (H, W) or (D, H, W), compressed without loss."""
    ds = dataset(array, **attributes)
    planes = array if array.ndim == 3 else array[None]
    ds.PixelData = encapsulate([encoded(plane, syntax, ds) for plane in planes])
    ds["PixelData"].VR = "OB"
    ds.file_meta.TransferSyntaxUID = syntax
    return written(ds)


def encoded(plane: NDArray[Any], syntax: uid.UID, ds: Dataset) -> bytes:
    if syntax in (uid.JPEGLossless, uid.JPEGLosslessSV1):
        return jpeg_lossless(plane)
    plugin = {uid.RLELossless: "pydicom", uid.JPEGLSLossless: "pyjpegls", uid.JPEG2000Lossless: "pylibjpeg"}[syntax]
    return get_encoder(syntax).encode(
        plane,
        encoding_plugin=plugin,
        rows=ds.Rows,
        columns=ds.Columns,
        samples_per_pixel=1,
        number_of_frames=1,
        bits_allocated=ds.BitsAllocated,
        bits_stored=ds.BitsStored,
        pixel_representation=ds.PixelRepresentation,
        photometric_interpretation="MONOCHROME2",
    )


def jpeg_lossless(plane: NDArray[np.uint16]) -> bytes:
    """An encoder of ITU-T T.81 annex H: one component, predictor 1, one flat Huffman table of 17 codes of 5 bits."""
    height, width = plane.shape
    precision = 16
    values = plane.astype(np.int64)
    predicted = np.empty_like(values)
    predicted[:, 1:] = values[:, :-1]
    predicted[1:, 0] = values[:-1, 0]
    predicted[0, 0] = 1 << (precision - 1)
    differences = ((values - predicted + 32768) % 65536 - 32768).ravel()
    bits = []
    for difference in differences.tolist():
        size = abs(difference).bit_length()
        bits.append(f"{size:05b}")
        if 0 < size < 16:
            bits.append(f"{difference if difference > 0 else difference + (1 << size) - 1:0{size}b}")
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    data = int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\0")
    sof = struct.pack(">BHHB", precision, height, width, 1) + b"\x01\x11\x00"
    dht = b"\x00" + bytes([0, 0, 0, 0, 17, *[0] * 11]) + bytes(range(17))
    sos = b"\x01\x01\x00\x01\x00\x00"

    def segment(marker: int, body: bytes) -> bytes:
        return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body

    stream = b"\xff\xd8" + segment(0xC3, sof) + segment(0xC4, dht) + segment(0xDA, sos) + data + b"\xff\xd9"
    return stream + b"\0" * (len(stream) % 2)


def nifti(array: NDArray[Any], affine: NDArray[np.float64] | None = None, **header: Any) -> bytes:
    """A NIfTI-1 file of an array in (x, y, z) order; header fields are written as they are."""
    image = nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine)
    data = bytearray(image.to_bytes())
    fields = nibabel.Nifti1Header(bytes(data[:348]), check=False)
    for word, value in header.items():
        fields[word] = value
    data[:348] = fields.binaryblock
    return bytes(data)


def zipped(data: bytes) -> bytes:
    return gzip.compress(data, 1, mtime=0)


def npy(array: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def tiff(
    values: np.ndarray,
    photometric: int | None,
    *,
    big: bool = False,
    tile: int | None = None,
    strips: int = 1,
    bits: int | None = None,
    width: int | None = None,
    **more: Any,
) -> bytes:
    """An uncompressed TIFF; ``more`` are tags as ``t266=2``."""
    order = ">" if big else "<"
    stored = values.astype(values.dtype.newbyteorder(order))
    height, columns = stored.shape
    if tile:
        corners = itertools.product(range(0, height, tile), range(0, columns, tile))
        padded = np.pad(stored, ((0, -height % tile), (0, -columns % tile)))
        parts = [padded[y : y + tile, x : x + tile].tobytes() for y, x in corners]
        layout, tags = (324, 325), {322: (tile,), 323: (tile,)}
    else:
        rows = -(-height // strips)
        parts = [stored[y : y + rows].tobytes() for y in range(0, height, rows)]
        layout, tags = (273, 279), {278: (rows,)}
    starts = [8 + sum(map(len, parts[:i])) for i in range(len(parts))]
    tags |= {256: (width or columns,), 257: (height,), 258: (bits or stored.itemsize * 8,), 259: (1,), 277: (1,)}
    tags |= {339: ({"u": 1, "i": 2, "f": 3}[values.dtype.kind],), layout[0]: tuple(starts), layout[1]: tuple(map(len, parts))}
    tags |= {} if photometric is None else {262: (photometric,)}
    tags |= {int(tag[1:]): (value,) for tag, value in more.items()}
    at = 8 + sum(map(len, parts))
    end, directory, tail = at + 2 + 12 * len(tags) + 4, struct.pack(f"{order}H", len(tags)), b""
    for tag, numbers in sorted(tags.items()):
        is_float = isinstance(numbers[0], float)
        body = struct.pack(f"{order}{len(numbers)}{'f' if is_float else 'I'}", *numbers)
        directory += struct.pack(f"{order}HHI", tag, 11 if is_float else 4, len(numbers))
        directory += body if len(body) == 4 else struct.pack(f"{order}I", end + len(tail))
        tail += body if len(body) > 4 else b""
    return (b"MM\0*" if big else b"II*\0") + struct.pack(f"{order}I", at) + b"".join(parts) + directory + bytes(4) + tail
