"""Conversion of public data sets: slices from volumes, MATLAB files and three-channel images."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

from reslink.errors import InputError, ReslinkError
from reslink.files import optional_import, write_atomic
from reslink.imaging.image import Image
from reslink.imaging.limits import MAX_SIDE
from reslink.imaging.reading import read_image

Case: TypeAlias = dict[str, str]
OnProgress: TypeAlias = Callable[[int, int], None] | None

_FIGSHARE_LABELS = {1: "meningioma", 2: "glioma", 3: "pituitary"}
_FLAIR_CHANNEL: Final = 1
_BRATS_SEQUENCE: Final = "t1ce"
_MIN_BRAIN_SHARE: Final = 0.02
"""A slice of a skull-stripped volume is kept if at min_brain_share this share of its pixels is not 0."""


@dataclass(frozen=True)
class ConversionResult:
    """The result of a conversion.

    Attributes:
        cases: Manifest columns of each case: ``path``, ``given_label``, and ``patient_id`` and ``mask`` if known.
        failed: File name to the reason why the file was left out.
    """

    cases: list[Case]
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Converter:
    """Detection and conversion of one data set layout.

    Attributes:
        fits: Returns whether a folder has the layout.
        inputs: Returns the files to convert.
        cases: Writes the slices of one file and yields their manifest columns; the arguments are the file, the root of the
            data set and the output folder.
    """

    fits: Callable[[Path], bool]
    inputs: Callable[[Path], list[Path]]
    cases: Callable[[Path, Path, Path], Iterator[Case]]

    def convert(self, root: Path, out: Path, on_progress: OnProgress = None) -> ConversionResult:
        """Converts all files; unusable files are reported and skipped.

        Args:
            root: The folder where the layout begins.
            out: The output folder.
            on_progress: Called with the number of finished files and the total.

        Raises:
            StorageError: If a slice cannot be written.
            UsageError: If a required package is not installed.
        """
        files, cases, failed = self.inputs(root), [], {}
        for done, file in enumerate(files, 1):
            try:
                cases += list(self.cases(file, root, out))
            except InputError as error:
                failed[file.relative_to(root).as_posix()] = str(error).replace(str(file), file.name)
            if on_progress:
                on_progress(done, len(files))
        return ConversionResult(cases, failed)


def _file_error(file: Path, problem: str) -> InputError:
    return InputError(
        f"{file.name} cannot be used: {problem}", "The file must be unchanged from its publisher", "Unpack it again"
    )


def _encode_png(values: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    buffer = io.BytesIO()
    Picture.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


def _write_once(out: Path, name: str, content: Callable[[], bytes]) -> str:
    """Writes a file unless an interrupted import already wrote it; returns its name."""
    if not (out / name).is_file():
        write_atomic(out / name, content())
    return name


def _write_mask(out: Path, name: str, mask: NDArray[np.bool_]) -> str:
    return _write_once(out, name, lambda: _encode_png(mask.astype(np.uint8) * np.uint8(255))) if mask.any() else ""


def _convert_figshare(file: Path, root: Path, out: Path) -> Iterator[Case]:
    """Converts a slice of Cheng's data set from MATLAB 7.3, which is HDF5 with transposed axes."""
    h5py = optional_import("h5py", "data")
    try:
        with h5py.File(file, "r") as opened:
            record = opened["cjdata"]
            image, mask = np.asarray(record["image"]).T, np.asarray(record["tumorMask"]).T != 0
            label, codes = int(np.asarray(record["label"]).item()), np.asarray(record["PID"]).ravel()
            patient = "".join(chr(int(code)) for code in codes).strip("\0 ")
            given = _FIGSHARE_LABELS[label]
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise _file_error(file, f"{type(error).__name__}: {error}") from error
    if image.ndim != 2 or image.shape != mask.shape or max(image.shape) > MAX_SIDE:
        raise _file_error(file, f"image {image.shape} and mask {mask.shape} do not match")
    stem = file.relative_to(root).with_suffix("").as_posix().replace("/", "_")
    gray = np.clip(image, 0, 65535).astype(np.uint16)
    yield {
        "path": _write_once(out, f"images/{stem}.png", lambda: _encode_png(gray)),
        "mask": _write_mask(out, f"masks/{stem}.png", mask),
        "given_label": given,
        "patient_id": patient,
    }


def _convert_lgg(file: Path, _: Path, out: Path) -> Iterator[Case]:
    """Converts a slice of kaggle_3m: three sequences as three channels, and the mask in a second file."""
    flair = _read_tiff(file)
    flair = flair[..., _FLAIR_CHANNEL] if flair.ndim == 3 else flair
    mask = _read_tiff(file.with_name(f"{file.stem}_mask.tif"))
    lesion = (mask.max(axis=2) if mask.ndim == 3 else mask) > 0
    if lesion.shape != flair.shape:
        raise _file_error(file, f"its mask has {lesion.shape} pixels, but the image has {flair.shape}")
    patient = "_".join(file.parent.name.split("_")[:3])
    name = f"{file.parent.name}/{file.stem}.png"
    yield {
        "path": _write_once(out, f"images/{name}", lambda: _encode_png(flair)),
        "mask": _write_mask(out, f"masks/{name}", lesion),
        "given_label": "Tumor" if lesion.any() else "Healthy",
        "patient_id": patient,
    }


def _read_tiff(file: Path) -> NDArray[np.uint8]:
    try:
        with Picture.open(file, formats=["TIFF"]) as opened:
            if max(opened.size) > MAX_SIDE:
                raise _file_error(file, f"it has {opened.size} pixels")
            return np.asarray(opened, np.uint8)
    except ReslinkError:
        raise
    except Exception as error:  # Pillow raises many error types for a broken file
        raise _file_error(file, f"{type(error).__name__}: {error}") from error


def _convert_ct_ich(file: Path, root: Path, out: Path) -> Iterator[Case]:
    """Converts the slices of a CT volume and its mask."""
    stem = file.name.split(".")[0]
    masks = sorted((root / "masks").glob(f"{stem}.nii*"))
    if not masks:
        raise _file_error(file, "it has no mask")
    yield from _convert_volume(file, masks[0], stem, out, ("Healthy", "Hemorrhage"), min_brain_share=0.0)


def _convert_brats(file: Path, _: Path, out: Path) -> Iterator[Case]:
    """Converts the slices with brain of a BraTS volume of one sequence."""
    masks = sorted(file.parent.glob("*_seg.nii*"))
    if not masks:
        raise _file_error(file, "it has no mask")
    yield from _convert_volume(file, masks[0], file.parent.name, out, ("Healthy", "Tumor"), min_brain_share=_MIN_BRAIN_SHARE)


def _convert_volume(
    volume: Path, mask: Path, patient: str, out: Path, labels: tuple[str, str], *, min_brain_share: float
) -> Iterator[Case]:
    image, lesion = read_image(volume), read_image(mask)
    if image.pixels.shape != lesion.pixels.shape:
        raise _file_error(volume, f"its mask has {lesion.pixels.shape} voxels, but the volume has {image.pixels.shape}")
    thickness = image.spacing[0] if image.spacing and image.pixels.ndim == 3 else 1.0
    for i, (plane, inside) in enumerate(zip(image.slices(), lesion.slices(), strict=True)):
        lesion_mask = inside.pixels > 0
        if float((plane.pixels != 0).mean()) < min_brain_share:
            continue
        name = f"{patient}/{i:03d}"
        yield {
            "path": _write_once(out, f"images/{name}.nii.gz", lambda plane=plane: _encode_nifti(plane, thickness)),  # type: ignore[misc]
            "mask": _write_mask(out, f"masks/{name}.png", lesion_mask),
            "given_label": labels[bool(lesion_mask.any())],
            "patient_id": patient,
            "slice": str(i),
        }


def _encode_nifti(plane: Image, thickness: float) -> bytes:
    """Encodes a slice as NIfTI so that ``read_image`` returns the same values, spacing and orientation."""
    import nibabel

    rows, columns = plane.spacing or (1.0, 1.0)
    voxels = np.rint(plane.pixels[::-1, ::-1].T[..., None]).astype(np.int16)
    make: Any = nibabel.Nifti1Image
    image = make(voxels, np.diag([columns, rows, thickness, 1.0]))
    image.header.set_xyzt_units("mm")
    content: bytes = image.to_bytes()
    return gzip.compress(content, mtime=0)


CONVERTERS: Final = {
    "figshare": Converter(
        lambda root: next(root.rglob("*.mat"), None) is not None, lambda root: _mat_files(root), _convert_figshare
    ),
    "lgg": Converter(
        lambda root: next(root.glob("TCGA_*/*_mask.tif"), None) is not None, lambda root: _lgg_files(root), _convert_lgg
    ),
    "ct_ich": Converter(
        lambda root: (root / "ct_scans").is_dir() and (root / "masks").is_dir(),
        lambda root: sorted((root / "ct_scans").glob("*.nii*")),
        _convert_ct_ich,
    ),
    "brats": Converter(
        lambda root: next(root.glob("*/*_seg.nii*"), None) is not None,
        lambda root: sorted(root.glob(f"*/*_{_BRATS_SEQUENCE}.nii*")),
        _convert_brats,
    ),
}
"""The layouts that need conversion, by kind."""


def _mat_files(root: Path) -> list[Path]:
    return sorted(file for file in root.rglob("*.mat") if file.stem != "cvind")  # cvind.mat holds the folds of the authors


def _lgg_files(root: Path) -> list[Path]:
    return sorted(file for file in root.glob("TCGA_*/*.tif") if not file.stem.endswith("_mask"))
