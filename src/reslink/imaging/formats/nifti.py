"""Read NIfTI-1 and NIfTI-2 files, plain and gzipped, as axial slices.

The header is checked against the file before memory is allocated (nifti1.h: sizeof_hdr, dim, datatype, vox_offset).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from reslink.imaging.image import Image, Unit
from reslink.imaging.limits import (
    GZIP,
    MAX_DECODED_BYTES,
    MAX_PIXELS,
    MAX_SIDE,
    MIB,
    check_rescale,
    check_size,
    damaged_error,
    too_large_error,
    unsupported_error,
    warn,
)
from reslink.imaging.orientation import AS_STORED, NOT_STATED, Edges
from reslink.imaging.units import image_of_values

_MAX_EXTENSIONS = 16 * MIB
_NIFTI: Any = nibabel.Nifti1Image
_canonical: Any = nibabel.as_closest_canonical


def is_nifti(data: bytes) -> bool:
    """Whether data begins with a NIfTI header of either version and byte order."""
    return data[344:348] in (b"n+1\0", b"ni1\0") or data[4:8] in (b"n+2\0", b"ni2\0")


def read_nifti(data: bytes, name: str, unit: Unit | None = None) -> Image:
    """Reads a NIfTI file.

    Args:
        data: The whole file, gzipped or not.
        name: File name for messages.
        unit: The unit stated by the user; None decides by the histogram (:mod:`reslink.imaging.units`).

    Returns:
        (D, H, W) axial slices from the feet to the head in radiological orientation (anterior up, the patient's right on
        the left), or (H, W) for a single slice. The unit is HU, or ``MR`` for arbitrary intensities.

    Raises:
        InputError: If the file is truncated, too large, or has more than one number per voxel.
    """
    gzipped = data[:2] == GZIP
    header = parse_header(read_first_bytes(data, name), name)
    needed, all_volumes = _required_bytes(header, name)
    content = _inflate_all(data, needed, all_volumes + _MAX_EXTENSIONS, name) if gzipped else data
    if len(content) < needed:
        raise damaged_error(name, f"the NIfTI data has {len(content)} bytes, but the header requires {needed}")
    return _to_image(header, content, name, unit)


def read_first_bytes(data: bytes, name: str) -> bytes:
    """Returns the first bytes of a NIfTI file, at least its header, inflated if it is gzipped."""
    return _inflate(data, 1024, name) if data[:2] == GZIP else data[:1024]


def _inflate(data: bytes, limit: int, name: str) -> bytes:
    """Returns the first bytes of a gzip file."""
    try:
        return zlib.decompressobj(wbits=31).decompress(data, limit)
    except zlib.error as error:
        raise damaged_error(name, "its gzip data is broken") from error


def _inflate_all(data: bytes, needed: int, limit: int, name: str) -> bytes:
    """Returns the needed first bytes of a gzip file, and checks the checksum of the whole file."""
    inflate = zlib.decompressobj(wbits=31)
    try:
        body = inflate.decompress(data, needed)
        total = len(body)
        while not inflate.eof and inflate.unconsumed_tail and total <= limit:
            total += len(inflate.decompress(inflate.unconsumed_tail, MIB))
    except zlib.error as error:
        raise damaged_error(name, "its gzip data is broken") from error
    if total > limit:
        raise too_large_error(name, "inflates to more than its header gives", f"{limit} bytes")
    if not inflate.eof:
        raise damaged_error(name, "its gzip data is truncated")
    return body


def parse_header(head: bytes, name: str) -> Any:
    """Returns nibabel's header of the first, inflated bytes of a NIfTI file.

    Raises:
        InputError: If it is not the header of a single-file NIfTI.
    """
    if not is_nifti(head) or len(head) < 348:
        raise damaged_error(name, "it is not a NIfTI file")
    is_nifti2 = head[4:8] in (b"n+2\0", b"ni2\0")
    if (head[4:8] if is_nifti2 else head[344:348]) in (b"ni1\0", b"ni2\0"):
        raise unsupported_error(name, "is the header of a NIfTI pair", "Single-file NIfTI (.nii, .nii.gz) is supported")
    header_class: Any = nibabel.Nifti2Header if is_nifti2 else nibabel.Nifti1Header
    if len(head) < header_class.sizeof_hdr:
        raise damaged_error(name, "the NIfTI header is truncated")
    return header_class(head[: header_class.sizeof_hdr], check=False)


def _required_bytes(header: Any, name: str) -> tuple[int, int]:
    """Returns the number of bytes up to the end of the first volume, and of all volumes."""
    axes = int(header["dim"][0])
    shape = [int(n) for n in header["dim"][1 : axes + 1]] if 2 <= axes <= 7 else []
    if not shape or min(shape) < 1:
        raise damaged_error(name, f"the NIfTI header gives {axes} axes of {shape}")
    if math.prod(shape[4:]) > 1:
        raise unsupported_error(name, f"has {axes} axes", "Volumes have 2 or 3 axes, or a fourth axis for time")
    try:
        dtype = header.get_data_dtype()
    except (nibabel.spatialimages.HeaderDataError, KeyError) as error:
        raise damaged_error(name, "the NIfTI header gives an unknown data type") from error
    if dtype.kind not in "uif" or dtype.itemsize > 8:
        raise unsupported_error(name, f"has {dtype} voxels", "Voxels are integers or floating point numbers of up to 64 bits")
    shape += [1] * (4 - len(shape))
    if max(shape[:3]) > MAX_SIDE or math.prod(shape[:3]) > MAX_PIXELS:
        raise too_large_error(name, f"has {shape[:3]} voxels", f"{MAX_SIDE} per axis and {MAX_PIXELS // MIB} million in total")
    size = int(math.prod(shape[:3]) * dtype.itemsize)
    if size > MAX_DECODED_BYTES:
        raise too_large_error(name, f"has {size} bytes of voxels", f"{MAX_DECODED_BYTES} bytes")
    offset = float(header["vox_offset"])
    if not header.sizeof_hdr <= offset <= _MAX_EXTENSIONS:
        raise damaged_error(name, f"the NIfTI header gives an invalid voxel offset, {offset:g}")
    if shape[3] > 1:
        warn(f"{name} has {shape[3]} volumes; the first one is used")
    return int(offset) + size, int(offset) + size * shape[3]


def _to_image(header: Any, data: bytes, name: str, unit: Unit | None) -> Image:
    axes = int(header["dim"][0])
    shape = tuple(int(n) for n in header["dim"][1 : min(axes, 3) + 1])
    shape += (1,) * (3 - len(shape))
    stored = np.frombuffer(data, header.get_data_dtype(), count=math.prod(shape), offset=int(header["vox_offset"]))
    volume: Any = _NIFTI(stored.reshape(shape, order="F"), _affine(header, name), dtype=stored.dtype)
    canonical = _canonical(volume)
    pixels, spacing = _radiological_view(np.asarray(canonical.dataobj), canonical.header.get_zooms())
    check_size(pixels.shape[-1], pixels.shape[-2], name, frames=1 if pixels.ndim == 2 else pixels.shape[0])
    image = image_of_values(_scaled(pixels, header, name), name, unit, spacing=spacing)
    if header["qform_code"] or header["sform_code"]:
        return replace(image, orientation=AS_STORED, edges=_edges(canonical.shape))  # already in the radiological view
    return replace(image, notes=(*image.notes, NOT_STATED))


def _radiological_view(voxels: NDArray[Any], zooms: Sequence[float]) -> tuple[NDArray[Any], tuple[float, ...]]:
    """Returns axial slices, or the plane of a file with a single plane, in radiological orientation, with their spacing.

    ``voxels`` are RAS: x to the right, y to the front, z to the head. In the result, columns go to the patient's left, rows to
    the back or, for sagittal and coronal planes, to the feet; a sagittal plane has the front on the left.
    """
    slices = voxels.transpose(2, 1, 0)[:, ::-1, ::-1]
    x, y, z = (float(zoom) for zoom in zooms[:3])
    if slices.shape[0] == 1:
        return slices[0], (y, x)
    if slices.shape[1] == 1:
        return slices[::-1, 0, :], (z, x)
    if slices.shape[2] == 1:
        return slices[::-1, :, 0], (z, y)
    return slices, (z, y, x)


def _edges(shape: Sequence[int]) -> Edges:
    """Returns the sides of the patient at the edges of the result of :func:`_radiological_view`."""
    if shape[2] > 1 and shape[1] == 1:
        return ("R", "L", "H", "F")
    if shape[2] > 1 and shape[0] == 1:
        return ("A", "P", "H", "F")
    return ("R", "L", "A", "P")


def _affine(header: Any, name: str) -> NDArray[np.float64]:
    affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise damaged_error(name, "the NIfTI header has no valid voxel positions")
    return affine


def _scaled(values: NDArray[Any], header: Any, name: str) -> NDArray[Any]:
    """Applies scl_slope and scl_inter; a slope of 0 or NaN means no scaling (nifti1.h). NaN and infinity stay."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or np.isnan(slope):
        return values
    check_rescale(slope, intercept, name)
    if (slope, intercept) == (1.0, 0.0):
        return values
    with np.errstate(all="ignore"):
        scaled: NDArray[np.float32] = np.multiply(values, np.float32(slope), dtype=np.float32, casting="unsafe")
        scaled += np.float32(intercept)
        return scaled


def voxel_indices(header: Any, name: str) -> NDArray[np.intp]:
    """Returns the index of the stored voxel for each pixel of :func:`read_nifti`.

    Args:
        header: Result of :func:`parse_header`.
        name: File name for messages.

    Returns:
        Shaped like the pixels, indices into the voxels of the first volume in the order of the file (first axis fastest).
    """
    axes = int(header["dim"][0])
    shape = tuple(int(n) for n in header["dim"][1 : min(axes, 3) + 1])
    shape += (1,) * (3 - len(shape))
    indices = np.arange(math.prod(shape), dtype=np.int64).reshape(shape, order="F")
    canonical: Any = _canonical(_NIFTI(indices, _affine(header, name), dtype=np.int64))
    return _radiological_view(np.asarray(canonical.dataobj), canonical.header.get_zooms())[0]
