"""Every file gives a complete image or an InputError, within limits on processor time and memory."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import builders as b
import corpus
import numpy as np
import pytest
from PIL import Image as Pillow
from pydicom import uid

from reslink.errors import InputError
from reslink.imaging.image import Image
from reslink.imaging.limits import ImagingWarning
from reslink.imaging.reading import read_image
from reslink.imaging.sandbox import pool

ENTRIES = {name: (data, verdict) for name, data, verdict in corpus.entries()}


def outcome(data: bytes | Path) -> Image | InputError:
    """Returns the image or the InputError; any other exception fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImagingWarning)
        try:
            image = read_image(data)
        except InputError as error:
            return error
    assert image.pixels.ndim in (2, 3)
    assert np.isfinite(image.pixels).all()
    return image


def test_the_corpus_is_large() -> None:
    assert len(ENTRIES) >= 150
    assert {verdict for _, verdict in ENTRIES.values()} == {"good", "bad", "any"}


@pytest.mark.parametrize("name", ENTRIES)
def test_corpus(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only processor time counts: this process is measured, and the kernel limits the child to ``CPU_SECONDS`` per file."""
    monkeypatch.setattr(pool, "WALL_SECONDS", 600.0)
    entry, verdict = ENTRIES[name]
    data = corpus.content(entry)
    start = time.process_time()
    result = outcome(data)
    assert time.process_time() - start < 5
    if verdict == "good":
        assert isinstance(result, Image), result
    if verdict == "bad":
        assert isinstance(result, InputError)
        assert all((result.given, result.allowed, result.next_step))


GRAY = Pillow.fromarray(b.picture(32, 24))
STORED = b.picture(64, 48).astype(np.uint16) * 16
SMALL: dict[str, Callable[[], bytes]] = {
    "png": lambda: b.saved(GRAY, "PNG"),
    "jpeg": lambda: b.saved(GRAY, "JPEG"),
    "jpeg progressive": lambda: b.saved(GRAY.convert("RGB"), "JPEG", progressive=True),
    "bmp": lambda: b.saved(GRAY, "BMP"),
    "tiff": lambda: b.saved(GRAY, "TIFF", compression="tiff_lzw"),
    "webp": lambda: b.saved(GRAY.convert("RGB"), "WEBP", lossless=True),
    "npy": lambda: b.npy(STORED),
    "dicom": lambda: b.written(b.dataset(STORED)),
    "dicom rle": lambda: b.compressed(STORED, uid.RLELossless),
    "dicom jpeg-ls": lambda: b.compressed(STORED, uid.JPEGLSLossless),
    "dicom jpeg 2000": lambda: b.compressed(STORED, uid.JPEG2000Lossless),
    "dicom jpeg lossless": lambda: b.compressed(STORED, uid.JPEGLosslessSV1),
    "nifti.gz": lambda: b.zipped(b.nifti(np.stack([STORED.T] * 17, axis=-1))),
}


@pytest.mark.parametrize("kind", SMALL)
def test_truncation_gives_no_partial_image(kind: str) -> None:
    """A truncated file is refused, or gives every pixel (if only data after the pixels is missing)."""
    data = SMALL[kind]()
    complete = read_image(data).pixels
    lengths = np.unique(np.linspace(1, len(data) - 1, 160).astype(int)).tolist() + list(range(len(data) - 12, len(data)))
    for length in lengths:
        result = outcome(data[:length])
        if isinstance(result, Image):
            np.testing.assert_array_equal(result.pixels, complete, err_msg=f"truncated to {length} of {len(data)}")


@pytest.mark.parametrize("kind", SMALL)
def test_flipped_bits_raise_only_input_errors(kind: str) -> None:
    data = SMALL[kind]()
    rng = np.random.default_rng(7)
    for _ in range(60):
        broken = bytearray(data)
        for at in rng.integers(0, min(len(data), 700), rng.integers(1, 4)):
            broken[at] ^= 1 << rng.integers(8)
        outcome(bytes(broken))


@pytest.mark.parametrize("kind", ["png", "nifti.gz"])
def test_a_flipped_bit_in_checked_data_is_refused(kind: str) -> None:
    data = bytearray(SMALL[kind]())
    data[len(data) // 2] ^= 4
    with pytest.raises(InputError):
        read_image(bytes(data))


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo.png"
    os.mkfifo(fifo)
    device = tmp_path / "zero.png"
    device.symlink_to("/dev/zero")
    for path in (fifo, device, Path("/dev/random")):
        with pytest.raises(InputError, match="is not a regular file"):
            read_image(path)


def test_missing_paths(tmp_path: Path) -> None:
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing")
    for path in (tmp_path / "missing.png", tmp_path / "gone.png", "a\0b.png", "x" * 5000):
        with pytest.raises(InputError, match="cannot be opened"):
            read_image(path)
    with pytest.raises(InputError, match="has no DICOM files"):
        read_image(tmp_path)


def test_content_decides_and_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "picture.dcm"
    path.write_bytes(b.saved(GRAY, "PNG"))
    np.testing.assert_array_equal(read_image(path).pixels, np.asarray(GRAY))
    assert read_image(str(path)).source == str(path)


def test_a_sparse_file_of_a_gigabyte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.npy"
    with path.open("wb") as stream:
        stream.write(b"\x93NUMPY")
        stream.truncate(1 << 30)
    with pytest.raises(InputError, match=r"has 1024 MiB\. The limit is 512 MiB per file"):
        read_image(path)


def test_a_table_is_named_as_such(tmp_path: Path) -> None:
    table = tmp_path / "images.csv"
    table.write_text("path,label\na.png,Tumor\n")
    with pytest.raises(InputError, match=r"images\.csv is a table, not an image.*reslink evaluate, external and explain"):
        read_image(table)
