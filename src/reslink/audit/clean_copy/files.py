"""Files of a clean copy: rewritten from the pixels, so that no hidden metadata is copied."""

from __future__ import annotations

import gzip
import hashlib
import hmac
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from pydicom import Dataset, uid
from pydicom.dataset import FileMetaDataset

from reslink.audit.clean_copy.pixels import CleanPixels
from reslink.audit.deidentification import deidentify
from reslink.errors import InputError
from reslink.imaging.decode import HEAD_BYTES, detect_image_format
from reslink.imaging.dicom.file_format import parse_dataset
from reslink.imaging.dicom.frames import stored_frames
from reslink.imaging.dicom.read import PIXEL_ATTRIBUTES, mask_unused_bits
from reslink.imaging.formats import nifti
from reslink.imaging.image import Image
from reslink.imaging.limits import read_regular_file, silence_warnings

_PRODUCT: Final = uid.UID("2.25.147806903110345168410274932171804326453")
"""Implementation class UID of the written files (PS3.5 B.2)."""

_STANDARD_UIDS: Final = "1.2.840.10008."
_PALETTE: Final = ("RedPalette", "GreenPalette", "BluePalette", "AlphaPalette", "PaletteColor", "SegmentedRed")


class UidMapper:
    """Replaces each UID consistently by a new one that cannot be traced back without the key.

    A new UID is 2.25 followed by the first 128 bits of the HMAC-SHA256 of the old one (PS3.5 B.2).

    Args:
        key: Secret key of this copy.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def __call__(self, old: str) -> str:
        """Returns the replacement of a UID."""
        if old.startswith(_STANDARD_UIDS):  # defined by the standard, does not identify an instance
            return old
        digest = hmac.new(self._key, old.encode(), hashlib.sha256).digest()
        return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def encode_clean_file(
    path: Path, name: str, image: Image, clean: CleanPixels, new_uid: Callable[[str], str]
) -> tuple[bytes, str]:
    """Encodes an image again, without metadata.

    Pictures become PNG with 8 or 16 bits (TIFF for floating point), arrays NPY, NIfTI a gzipped NIfTI-1 with a new header that
    keeps position and voxel size, DICOM an uncompressed DICOM file under the Basic Application Level Confidentiality Profile.
    Values that :func:`~reslink.audit.clean_copy.pixels.clean_pixels` did not change stay the same. Color becomes gray, as
    reslink reads it.

    Args:
        path: The source file; it is not changed.
        name: Name for messages.
        image: The slice read from the file.
        clean: The new pixels.
        new_uid: Returns the replacement of a UID.

    Returns:
        The content and the suffix of the file name.

    Raises:
        InputError: If the file cannot be encoded.
    """
    try:
        data = read_regular_file(path)
        kind = detect_image_format(data[:HEAD_BYTES])
        with silence_warnings():
            if kind == "DICOM":
                return _dicom(data, name, image, clean, new_uid), ".dcm"
            if kind == "NIFTI":
                return _nifti(data, name, clean), ".nii.gz"
            return _array(image, clean) if kind == "NPY" else _picture(image, clean)
    except InputError:
        raise
    except Exception as error:  # the libraries raise many kinds of errors
        raise InputError(
            f"{name} cannot be encoded again ({type(error).__name__})",
            "A clean copy supports pictures, arrays, NIfTI and DICOM files with one slice",
            "Convert it to PNG or uncompressed DICOM first",
        ) from error


def _picture(image: Image, clean: CleanPixels) -> tuple[bytes, str]:
    stream = io.BytesIO()
    if image.white is None:
        Pillow.fromarray(clean.pixels).save(stream, "TIFF")
        return stream.getvalue(), ".tif"
    Pillow.fromarray(_as_integers(image, clean)).save(stream, "PNG")
    return stream.getvalue(), ".png"


def _as_integers(image: Image, clean: CleanPixels) -> NDArray[Any]:
    white = image.white or 65535
    return np.clip(np.rint(clean.pixels), 0, white).astype(np.uint8 if white <= 255 else np.uint16)


def _array(image: Image, clean: CleanPixels) -> tuple[bytes, str]:
    stream = io.BytesIO()
    np.save(stream, clean.pixels if image.white is None else _as_integers(image, clean), allow_pickle=False)
    return stream.getvalue(), ".npy"


def _nifti(data: bytes, name: str, clean: CleanPixels) -> bytes:
    head = nifti.read_first_bytes(data, name)
    header = nifti.parse_header(head, name)
    indices = nifti.voxel_indices(header, name)
    voxels = np.zeros(indices.size, np.float32)
    voxels[indices.ravel()] = clean.pixels.ravel()
    if bool((voxels == np.rint(voxels)).all()) and float(np.abs(voxels).max(initial=0)) < 2**15:
        voxels = voxels.astype(np.int16)
    axes = int(header["dim"][0])
    shape = (*(int(n) for n in header["dim"][1 : min(axes, 3) + 1]), 1)[:3]
    image: Any = nibabel.Nifti1Image(voxels.reshape(shape, order="F"), header.get_best_affine())  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), mtime=0)


def _dicom(data: bytes, name: str, image: Image, clean: CleanPixels, new_uid: Callable[[str], str]) -> bytes:
    dataset = parse_dataset(data, name)
    stored = _stored_values(dataset, name, image, clean)
    for keyword in (
        *PIXEL_ATTRIBUTES,
        "PixelPaddingValue",
        "PixelPaddingRangeLimit",
        "BurnedInAnnotation",
        "ExtendedOffsetTable",
    ):
        if keyword in dataset:
            del dataset[keyword]
    del dataset[0x0002:0x0003]
    deidentify(dataset, new_uid)
    _describe(dataset, stored)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset.file_meta.ImplementationClassUID = _PRODUCT
    dataset.preamble = b"\0" * 128
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True, implicit_vr=False, little_endian=True)
    return stream.getvalue()


def _stored_values(dataset: Dataset, name: str, image: Image, clean: CleanPixels) -> NDArray[Any]:
    """Returns the values to store: unchanged pixels keep the stored value of the file."""
    image = replace(image, pixels=image.to_stored(image.pixels))
    clean = replace(clean, pixels=image.to_stored(clean.pixels), changed=image.to_stored(clean.changed))
    frame = next(stored_frames(dataset, 1, name))
    if frame.ndim == 3 or dataset.PhotometricInterpretation == "PALETTE COLOR":
        dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "MONOCHROME2", 1
        gray = _as_integers(image, clean)
        dataset.BitsStored, dataset.PixelRepresentation = 8 * gray.itemsize, 0
        for keyword in [element.keyword for element in dataset if element.keyword.startswith(_PALETTE)]:
            del dataset[keyword]
        return gray
    values = mask_unused_bits(frame, dataset)
    stored = np.array(values)
    stored[clean.changed] = _nearest_stored(clean.pixels[clean.changed], values, image)
    return stored


def _nearest_stored(targets: NDArray[np.float32], values: NDArray[Any], image: Image) -> NDArray[Any]:
    """Returns the stored value whose physical value is nearest to each target, for any rescale or lookup table."""
    physical, first = np.unique(image.pixels, return_index=True)
    after = np.clip(np.searchsorted(physical, targets), 1, max(1, len(physical) - 1))
    if len(physical) == 1:
        return np.full(targets.shape, values.ravel()[first[0]])
    nearer = np.where(targets - physical[after - 1] <= physical[after] - targets, after - 1, after)
    return np.asarray(values.ravel()[first[nearer]])


def _describe(dataset: Dataset, stored: NDArray[Any]) -> None:
    """Sets the pixel data and the attributes that describe it (PS3.3 C.7.6.3)."""
    if "PlanarConfiguration" in dataset:
        del dataset.PlanarConfiguration
    if stored.dtype.kind == "f":
        keyword = "FloatPixelData" if stored.dtype.itemsize == 4 else "DoubleFloatPixelData"
        setattr(dataset, keyword, stored.astype(stored.dtype.newbyteorder("<")).tobytes())
        return
    bits = 8 if dataset.BitsStored <= 8 else 16 if dataset.BitsStored <= 16 else 32
    dataset.BitsAllocated, dataset.HighBit = bits, dataset.BitsStored - 1
    dtype = f"<{'i' if dataset.PixelRepresentation else 'u'}{bits // 8}"
    content = stored.astype(dtype).tobytes()
    dataset.add_new("PixelData", "OB" if bits == 8 else "OW", content + b"\0" * (len(content) % 2))
