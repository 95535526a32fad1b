"""Data sets whose slices must be cut out of volumes or taken out of MATLAB and three-channel files."""

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
Heard: TypeAlias = Callable[[int, int], None] | None

_FIGSHARE = {1: "meningioma", 2: "glioma", 3: "pituitary"}
_FLAIR: Final = 1
_SEQUENCE: Final = "t1ce"
_LEAST_HEAD: Final = 0.02
"""A slice of a volume without skull is kept from this share of pixels that are not 0."""


@dataclass(frozen=True)
class Converted:
    """What became of a data set.

    Attributes:
        cases: Columns of the manifest by case: ``path``, ``given_label``, and ``patient_id`` and ``mask`` where known.
        failed: Why a file was left out, by its name.
    """

    cases: list[Case]
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Converter:
    """How one layout is told and converted.

    Attributes:
        fits: Whether a folder has the layout.
        inputs: The files to go through.
        cases: Writes the slices of one file below a folder and yields their columns; its arguments are the file, the
            root of the data set and the folder to write to.
    """

    fits: Callable[[Path], bool]
    inputs: Callable[[Path], list[Path]]
    cases: Callable[[Path, Path, Path], Iterator[Case]]

    def convert(self, root: Path, out: Path, heard: Heard = None) -> Converted:
        """Converts all files; one that cannot be used is reported and the others go on.

        Args:
            root: Where the layout begins.
            out: The folder to write to.
            heard: Hears files done and their total.

        Raises:
            StorageError: If a slice cannot be written.
            UsageError: If a package is missing.
        """
        files, found, failed = self.inputs(root), [], {}
        for done, file in enumerate(files, 1):
            try:
                found += list(self.cases(file, root, out))
            except InputError as error:
                failed[file.relative_to(root).as_posix()] = str(error).replace(str(file), file.name)
            if heard:
                heard(done, len(files))
        return Converted(found, failed)


def _broken(file: Path, fault: str) -> InputError:
    return InputError(f"{file.name} cannot be used: {fault}", "It is as its publisher made it", "Unpack it again")


def _png(values: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    buffer = io.BytesIO()
    Picture.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


def _write(out: Path, name: str, content: Callable[[], bytes]) -> str:
    """Writes a file unless it stands there from an interrupted import; returns its name."""
    if not (out / name).is_file():
        write_atomic(out / name, content())
    return name


def _mask(out: Path, name: str, mask: NDArray[np.bool_]) -> str:
    return _write(out, name, lambda: _png(mask.astype(np.uint8) * np.uint8(255))) if mask.any() else ""


def _figshare(file: Path, root: Path, out: Path) -> Iterator[Case]:
    """A slice of Cheng's set: MATLAB 7.3, which is HDF5 with the axes turned over."""
    h5py = optional_import("h5py", "data")
    try:
        with h5py.File(file, "r") as opened:
            record = opened["cjdata"]
            image, mask = np.asarray(record["image"]).T, np.asarray(record["tumorMask"]).T != 0
            label, codes = int(np.asarray(record["label"]).item()), np.asarray(record["PID"]).ravel()
            patient = "".join(chr(int(code)) for code in codes).strip("\0 ")
            given = _FIGSHARE[label]
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise _broken(file, f"{type(error).__name__}: {error}") from error
    if image.ndim != 2 or image.shape != mask.shape or max(image.shape) > MAX_SIDE:
        raise _broken(file, f"image {image.shape} and mask {mask.shape} do not fit")
    stem = file.relative_to(root).with_suffix("").as_posix().replace("/", "_")
    grey = np.clip(image, 0, 65535).astype(np.uint16)
    yield {
        "path": _write(out, f"images/{stem}.png", lambda: _png(grey)),
        "mask": _mask(out, f"masks/{stem}.png", mask),
        "given_label": given,
        "patient_id": patient,
    }


def _lgg(file: Path, _: Path, out: Path) -> Iterator[Case]:
    """A slice of kaggle_3m: three sequences as three channels, the mask in a file beside it."""
    flair = _tiff(file)
    flair = flair[..., _FLAIR] if flair.ndim == 3 else flair
    mask = _tiff(file.with_name(f"{file.stem}_mask.tif"))
    lesion = (mask.max(axis=2) if mask.ndim == 3 else mask) > 0
    if lesion.shape != flair.shape:
        raise _broken(file, f"its mask has {lesion.shape} pixels, the image {flair.shape}")
    patient = "_".join(file.parent.name.split("_")[:3])
    name = f"{file.parent.name}/{file.stem}.png"
    yield {
        "path": _write(out, f"images/{name}", lambda: _png(flair)),
        "mask": _mask(out, f"masks/{name}", lesion),
        "given_label": "Tumor" if lesion.any() else "Healthy",
        "patient_id": patient,
    }


def _tiff(file: Path) -> NDArray[np.uint8]:
    try:
        with Picture.open(file, formats=["TIFF"]) as opened:
            if max(opened.size) > MAX_SIDE:
                raise _broken(file, f"it has {opened.size} pixels")
            return np.asarray(opened, np.uint8)
    except ReslinkError:
        raise
    except Exception as error:  # Pillow raises dozens of kinds of error for a broken file
        raise _broken(file, f"{type(error).__name__}: {error}") from error


def _ct_ich(file: Path, root: Path, out: Path) -> Iterator[Case]:
    """The slices of a CT volume with those of its mask."""
    stem = file.name.split(".")[0]
    masks = sorted((root / "masks").glob(f"{stem}.nii*"))
    if not masks:
        raise _broken(file, "it has no mask")
    yield from _slices(file, masks[0], stem, out, ("Healthy", "Haemorrhage"), least=0.0)


def _brats(file: Path, _: Path, out: Path) -> Iterator[Case]:
    """The slices of a BraTS volume of one sequence that show some brain."""
    masks = sorted(file.parent.glob("*_seg.nii*"))
    if not masks:
        raise _broken(file, "it has no mask")
    yield from _slices(file, masks[0], file.parent.name, out, ("Healthy", "Tumor"), least=_LEAST_HEAD)


def _slices(volume: Path, mask: Path, patient: str, out: Path, labels: tuple[str, str], *, least: float) -> Iterator[Case]:
    image, lesion = read_image(volume), read_image(mask)
    if image.pixels.shape != lesion.pixels.shape:
        raise _broken(volume, f"its mask has {lesion.pixels.shape} voxels, the volume {image.pixels.shape}")
    thickness = image.spacing[0] if image.spacing and image.pixels.ndim == 3 else 1.0
    for i, (plane, inside) in enumerate(zip(image.slices(), lesion.slices(), strict=True)):
        marked = inside.pixels > 0
        if float((plane.pixels != 0).mean()) < least:
            continue
        name = f"{patient}/{i:03d}"
        yield {
            "path": _write(out, f"images/{name}.nii.gz", lambda plane=plane: _nifti(plane, thickness)),  # type: ignore[misc]
            "mask": _mask(out, f"masks/{name}.png", marked),
            "given_label": labels[bool(marked.any())],
            "patient_id": patient,
            "slice": str(i),
        }


def _nifti(plane: Image, thickness: float) -> bytes:
    """A slice as a NIfTI file that :func:`read_image` gives back as it is: values, spacing, and right and left."""
    import nibabel

    rows, columns = plane.spacing or (1.0, 1.0)
    voxels = np.rint(plane.pixels[::-1, ::-1].T[..., None]).astype(np.int16)
    make: Any = nibabel.Nifti1Image
    image = make(voxels, np.diag([columns, rows, thickness, 1.0]))
    image.header.set_xyzt_units("mm")
    content: bytes = image.to_bytes()
    return gzip.compress(content, mtime=0)


CONVERTERS: Final = {
    "figshare": Converter(lambda root: next(root.rglob("*.mat"), None) is not None, lambda root: _mat_files(root), _figshare),
    "lgg": Converter(lambda root: next(root.glob("TCGA_*/*_mask.tif"), None) is not None, lambda root: _lgg_files(root), _lgg),
    "ct_ich": Converter(
        lambda root: (root / "ct_scans").is_dir() and (root / "masks").is_dir(),
        lambda root: sorted((root / "ct_scans").glob("*.nii*")),
        _ct_ich,
    ),
    "brats": Converter(
        lambda root: next(root.glob("*/*_seg.nii*"), None) is not None,
        lambda root: sorted(root.glob(f"*/*_{_SEQUENCE}.nii*")),
        _brats,
    ),
}
"""The layouts that need conversion, by their kind."""


def _mat_files(root: Path) -> list[Path]:
    return sorted(file for file in root.rglob("*.mat") if file.stem != "cvind")  # the folds of the authors


def _lgg_files(root: Path) -> list[Path]:
    return sorted(file for file in root.glob("TCGA_*/*.tif") if not file.stem.endswith("_mask"))
