"""The file of a clean copy: written anew from the pixels, so that nothing goes along unseen."""

from __future__ import annotations

import gzip
import hashlib
import hmac
import io
from collections.abc import Callable
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
from reslink.imaging.decode import HEAD_BYTES, kind_of
from reslink.imaging.dicom.frames import stored_frames
from reslink.imaging.dicom.read import PIXELS, parse, unmasked
from reslink.imaging.formats import nifti
from reslink.imaging.image import Image
from reslink.imaging.limits import quiet, read_regular

_PRODUCT: Final = uid.UID("2.25.147806903110345168410274932171804326453")
"""Implementation class UID of the files written here (PS3.5 B.2)."""

_STANDARD_UIDS: Final = "1.2.840.10008."
_PALETTE: Final = ("RedPalette", "GreenPalette", "BluePalette", "AlphaPalette", "PaletteColor", "SegmentedRed")


class NewUids:
    """Gives every UID another, the same for the same, that cannot be led back without the key.

    The new ones are 2.25 and the first 128 bits of the HMAC-SHA256 of the old (PS3.5 B.2).

    Args:
        key: A secret of this copy.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def __call__(self, old: str) -> str:
        """Returns the UID that replaces one."""
        if old.startswith(_STANDARD_UIDS):  # names of things in the standard, of no instance
            return old
        digest = hmac.new(self._key, old.encode(), hashlib.sha256).digest()
        return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def clean_file(path: Path, name: str, image: Image, clean: CleanPixels, new_uid: Callable[[str], str]) -> tuple[bytes, str]:
    """Writes an image anew.

    Pictures become PNG with 8 or 16 bits (floating point TIFF), arrays NPY, NIfTI a gzipped NIfTI-1 with a new header that
    keeps place and voxel size, DICOM an uncompressed DICOM file under the Basic Application Level Confidentiality Profile.
    Values that :func:`~reslink.audit.clean_copy.pixels.clean_pixels` did not change stay what they are; colour becomes grey, as
    reslink reads it.

    Args:
        path: The file, which is only read.
        name: Its name for messages.
        image: What was read from it, one slice.
        clean: Its new pixels.
        new_uid: Gives the UID that replaces one.

    Returns:
        The content and the suffix of its name.

    Raises:
        InputError: If the file cannot be written anew.
    """
    try:
        data = read_regular(path)
        kind = kind_of(data[:HEAD_BYTES])
        with quiet():
            if kind == "DICOM":
                return _dicom(data, name, image, clean, new_uid), ".dcm"
            if kind == "NIFTI":
                return _nifti(data, name, clean), ".nii.gz"
            return _array(image, clean) if kind == "NPY" else _picture(image, clean)
    except InputError:
        raise
    except Exception as error:  # the libraries below raise dozens of kinds of error
        raise InputError(
            f"{name} cannot be written anew ({type(error).__name__})",
            "Pictures, arrays, NIfTI and DICOM files of one slice are",
            "Convert it to PNG or uncompressed DICOM first",
        ) from error


def _picture(image: Image, clean: CleanPixels) -> tuple[bytes, str]:
    stream = io.BytesIO()
    if image.white is None:
        Pillow.fromarray(clean.pixels).save(stream, "TIFF")
        return stream.getvalue(), ".tif"
    Pillow.fromarray(_whole(image, clean)).save(stream, "PNG")
    return stream.getvalue(), ".png"


def _whole(image: Image, clean: CleanPixels) -> NDArray[Any]:
    white = image.white or 65535
    return np.clip(np.rint(clean.pixels), 0, white).astype(np.uint8 if white <= 255 else np.uint16)


def _array(image: Image, clean: CleanPixels) -> tuple[bytes, str]:
    stream = io.BytesIO()
    np.save(stream, clean.pixels if image.white is None else _whole(image, clean), allow_pickle=False)
    return stream.getvalue(), ".npy"


def _nifti(data: bytes, name: str, clean: CleanPixels) -> bytes:
    head = nifti.first_bytes(data, name)
    header = nifti.header_of(head, name)
    places = nifti.stored_indices(header, name)
    voxels = np.zeros(places.size, np.float32)
    voxels[places.ravel()] = clean.pixels.ravel()
    if bool((voxels == np.rint(voxels)).all()) and float(np.abs(voxels).max(initial=0)) < 2**15:
        voxels = voxels.astype(np.int16)
    axes = int(header["dim"][0])
    shape = (*(int(n) for n in header["dim"][1 : min(axes, 3) + 1]), 1)[:3]
    image: Any = nibabel.Nifti1Image(voxels.reshape(shape, order="F"), header.get_best_affine())  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), mtime=0)


def _dicom(data: bytes, name: str, image: Image, clean: CleanPixels, new_uid: Callable[[str], str]) -> bytes:
    dataset = parse(data, name)
    stored = _stored(dataset, name, image, clean)
    for word in (*PIXELS, "PixelPaddingValue", "PixelPaddingRangeLimit", "BurnedInAnnotation", "ExtendedOffsetTable"):
        if word in dataset:
            del dataset[word]
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


def _stored(dataset: Dataset, name: str, image: Image, clean: CleanPixels) -> NDArray[Any]:
    """The values to store: those of the file where nothing was changed."""
    frame = next(stored_frames(dataset, 1, name))
    if frame.ndim == 3 or dataset.PhotometricInterpretation == "PALETTE COLOR":
        dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "MONOCHROME2", 1
        grey = _whole(image, clean)
        dataset.BitsStored, dataset.PixelRepresentation = 8 * grey.itemsize, 0
        for word in [element.keyword for element in dataset if element.keyword.startswith(_PALETTE)]:
            del dataset[word]
        return grey
    values = unmasked(frame, dataset)
    stored = np.array(values)
    stored[clean.changed] = _as_stored(clean.pixels[clean.changed], values, image)
    return stored


def _as_stored(wanted: NDArray[np.float32], values: NDArray[Any], image: Image) -> NDArray[Any]:
    """The stored value in the picture whose meaning is nearest to the wanted one, whatever the rescale or table between."""
    meaning, first = np.unique(image.pixels, return_index=True)
    after = np.clip(np.searchsorted(meaning, wanted), 1, max(1, len(meaning) - 1))
    if len(meaning) == 1:
        return np.full(wanted.shape, values.ravel()[first[0]])
    nearer = np.where(wanted - meaning[after - 1] <= meaning[after] - wanted, after - 1, after)
    return np.asarray(values.ravel()[first[nearer]])


def _describe(dataset: Dataset, stored: NDArray[Any]) -> None:
    """Sets the pixel data and the attributes that describe it (PS3.3 C.7.6.3)."""
    if "PlanarConfiguration" in dataset:
        del dataset.PlanarConfiguration
    if stored.dtype.kind == "f":
        word = "FloatPixelData" if stored.dtype.itemsize == 4 else "DoubleFloatPixelData"
        setattr(dataset, word, stored.astype(stored.dtype.newbyteorder("<")).tobytes())
        return
    bits = 8 if dataset.BitsStored <= 8 else 16 if dataset.BitsStored <= 16 else 32
    dataset.BitsAllocated, dataset.HighBit = bits, dataset.BitsStored - 1
    kind = f"<{'i' if dataset.PixelRepresentation else 'u'}{bits // 8}"
    content = stored.astype(kind).tobytes()
    dataset.add_new("PixelData", "OB" if bits == 8 else "OW", content + b"\0" * (len(content) % 2))


def mask_file(mask: Image) -> bytes:
    """Writes a lesion mask anew: PNG, 0 and 255."""
    stream = io.BytesIO()
    Pillow.fromarray((mask.pixels != 0).astype(np.uint8) * np.uint8(255)).save(stream, "PNG")
    return stream.getvalue()
