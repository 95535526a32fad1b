"""Drawn letters are detected, outside the head almost always; heads without letters raise no alarm."""

from __future__ import annotations

import io
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import pytest
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from reslink.audit import burned_in_text
from reslink.audit.burned_in_text import TextBox, count_words, find_text
from reslink.datasets.manifest import Manifest
from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort, render_slice
from reslink.datasets.phantom.writers import to_gray, write_png
from reslink.imaging.image import Image
from reslink.imaging.reading import read_image

WORDS = ("DOE^JOHN", "L  120kV", "2019-03-04 12:31", "W:80 L:40", "Im: 12/32", "A1234567", "F 54Y")


def picture(gray: NDArray[np.uint8]) -> Image:
    return Image(gray.astype(np.float32), unit="gray", white=255.0)


def head(patient: int, *, sequence: str = "CT", size: int = 256) -> NDArray[np.uint8]:
    plane = render_slice(9, patient, tumor=bool(patient % 2), sequence=sequence, size=size)  # type: ignore[arg-type]
    return to_gray(plane.pixels, sequence == "CT")


def lettered(gray: NDArray[np.uint8], word: str, size: int, at: tuple[int, int], value: int = 255) -> NDArray[np.uint8]:
    """A copy with a word in the Pillow typeface, saved once as JPEG of quality 80."""
    sheet = PIL.Image.fromarray(gray)
    PIL.ImageDraw.Draw(sheet).text(at, word, fill=value, font=PIL.ImageFont.load_default(size=size))
    stream = io.BytesIO()
    sheet.save(stream, "JPEG", quality=80)
    with PIL.Image.open(stream) as saved:
        return np.asarray(saved)


def covers(boxes: list[TextBox], word: str, size: int, at: tuple[int, int]) -> bool:
    """Whether the boxes cover half of the columns of a word."""
    left, top, right, bottom = PIL.ImageDraw.Draw(PIL.Image.new("L", (8, 8))).textbbox(
        at, word, font=PIL.ImageFont.load_default(size=size)
    )
    columns = set()
    for box in boxes:
        if box.top < bottom and box.top + box.height > top:
            columns |= set(range(max(box.left, int(left)), min(box.left + box.width, int(right))))
    return len(columns) >= 0.5 * (right - left)


def test_letters_in_a_corner_are_found() -> None:
    missed = []
    for number in range(21):
        word, size = WORDS[number % len(WORDS)], 10 + number % 7
        at = (5, 5) if number % 2 else (5, 256 - 2 * size)
        gray = lettered(head(number % 8, sequence=("CT", "T1")[number % 2]), word, size, at, (255, 190)[number % 3 == 0])
        if not covers(find_text(picture(gray)), word, size, at):
            missed.append((word, size))
    assert len(missed) <= 1, missed


def test_letters_over_the_brain_are_found_in_the_head() -> None:
    found = 0
    for number in range(8):
        gray = lettered(head(number % 4, sequence="FLAIR"), "DOE^JOHN", 16, (88, 110))
        boxes = [box for box in find_text(picture(gray)) if box.in_head]
        found += covers(boxes, "DOE^JOHN", 16, (88, 110))
    assert found >= 7


def test_a_box_covers_the_whole_line() -> None:
    gray = lettered(np.zeros((256, 256), np.uint8), "V  12345678  V", 14, (40, 120))
    boxes = find_text(picture(gray))
    left, right = min(box.left for box in boxes), max(box.left + box.width for box in boxes)
    assert np.all(np.delete(gray, np.s_[left - 1 : right + 1], axis=1) < 60)


@pytest.mark.parametrize("turn", [np.rot90, np.fliplr, np.flipud], ids=["rotated", "mirrored", "upside down"])
def test_rotated_and_mirrored_letters_are_found(turn: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]) -> None:
    gray = lettered(head(3), "2019-03-04 12:31", 13, (5, 5))
    assert find_text(picture(np.ascontiguousarray(turn(gray))))


def test_dark_letters_of_a_negative_are_found() -> None:
    gray = 255 - lettered(head(3), "TTTHHH", 13, (5, 5))  # without closed shapes, whose insides are bright strokes again
    assert covers(find_text(picture(gray)), "TTTHHH", 13, (5, 5))


@pytest.mark.parametrize(("form", "modality"), [("png", "CT"), ("dicom", "CT"), ("png", "T1"), ("dicom", "T2")])
def test_every_planted_text_of_a_cohort_is_found_and_nothing_else(tmp_path: Path, form: str, modality: str) -> None:
    settings = {"patients": 6, "slices": 1, "seed": 4, "format": form, "modality": modality, "faults": {"text": 1.0}}
    manifest = Manifest.open(make_cohort(tmp_path, PhantomSettings.parse(settings)))
    for case in manifest.cases:
        boxes = find_text(read_image(case.path))
        assert bool(boxes) == (case.label == "Tumor"), case.name
        assert not any(box.in_head for box in boxes)


def test_clean_heads_raise_hardly_any_alarm() -> None:
    heads = [picture(head(number, sequence=sequence)) for number in range(8) for sequence in ("CT", "T1", "T2", "FLAIR")]
    assert sum(bool(find_text(image)) for image in heads) <= 1


@pytest.mark.data
@pytest.mark.parametrize("name", ["lgg", "mri4"])
def test_real_heads_raise_hardly_any_alarm_and_planted_letters_are_found(shared_data: Path, name: str) -> None:
    cases = Manifest.open(shared_data / name).cases
    step = len(cases) // 30
    alarms = found = 0
    for number, case in enumerate(cases[::step]):
        image = read_image(case.path)
        alarms += bool(find_text(image))
        word, at = WORDS[number % len(WORDS)], (4, 4)
        found += covers(find_text(picture(lettered(image.pixels.astype(np.uint8), word, 14, at))), word, 14, at)
    count = len(cases[::step])
    assert alarms <= 0.05 * count
    assert found >= 0.85 * count


def test_the_quantiles_of_each_component_are_those_of_numpy(rng: np.random.Generator) -> None:
    counts = np.array([1, 2, 3, 10, 37])
    rows = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    values = rng.random(len(rows), np.float32)
    expected = [np.quantile(values[rows == row], (0.5, 0.9)) for row in range(len(counts))]
    np.testing.assert_allclose(burned_in_text._quantiles_by_row(values, rows, (0.5, 0.9)), np.transpose(expected), rtol=1e-6)


def test_a_flat_or_tiny_image_has_no_text() -> None:
    assert find_text(picture(np.full((64, 64), 7, np.uint8))) == []
    assert find_text(picture(np.arange(64, dtype=np.uint8).reshape(8, 8))) == []


def test_the_image_is_not_changed_and_boxes_are_inside() -> None:
    gray = lettered(head(1), "A1234567", 14, (5, 5))
    image = picture(gray)
    boxes = find_text(image)
    np.testing.assert_array_equal(image.pixels, gray)
    assert boxes
    assert all(box.crop(image.pixels).shape == (box.height, box.width) for box in boxes)
    assert write_png(gray)


class TestCountingWords:
    def test_without_tesseract_nothing_is_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(burned_in_text.shutil, "which", lambda _: None)
        image = picture(lettered(head(1), "A1234567", 14, (5, 5)))
        assert count_words(image, find_text(image)) is None
        assert count_words(image, []) == 0

    def test_words_are_counted_in_each_box(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(burned_in_text.shutil, "which", lambda _: "/usr/bin/tesseract")
        monkeypatch.setattr(burned_in_text.importlib.util, "find_spec", lambda _: object())
        monkeypatch.setitem(sys.modules, "pytesseract", SimpleNamespace(image_to_string=lambda *_, **__: "DOE JOHN\n"))
        image = picture(lettered(head(1), "A1234567", 14, (5, 5)))
        boxes = find_text(image)
        assert count_words(image, boxes) == 2 * len(boxes)

    def test_a_failing_program_does_not_end_the_audit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(*_: object, **__: object) -> str:
            raise RuntimeError("Tesseract process timeout")

        monkeypatch.setattr(burned_in_text.shutil, "which", lambda _: "/usr/bin/tesseract")
        monkeypatch.setattr(burned_in_text.importlib.util, "find_spec", lambda _: object())
        monkeypatch.setitem(sys.modules, "pytesseract", SimpleNamespace(image_to_string=fails))
        image = picture(lettered(head(1), "A1234567", 14, (5, 5)))
        assert count_words(image, find_text(image)) is None


def test_a_dense_page_takes_little_memory_and_time() -> None:
    """9,000 letters: all pairs of them would be 80 million, and gigabytes."""
    rng = np.random.default_rng(0)
    sheet = PIL.Image.new("L", (1000, 1400), 0)
    for top in range(4, 1380, 13):
        words = " ".join("".join(chr(97 + c) for c in rng.integers(0, 26, 5)) for _ in range(19))
        PIL.ImageDraw.Draw(sheet).text((4, top), words, fill=255, font=PIL.ImageFont.load_default(size=11))
    image = picture(np.asarray(sheet))
    plane = burned_in_text._normalized(image)
    assert plane is not None
    letters = burned_in_text._find_letters(plane)
    assert len(letters) > 8000
    tracemalloc.start()
    start = time.process_time()
    left, right = burned_in_text._neighbor_pairs(letters)
    seconds, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(left) == len(right) > 8000
    assert peak < 300e6
    assert seconds < 2  # processor time of this process
    assert find_text(image)


def test_neighbors_are_those_of_all_pairs(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compares with a test of all pairs, also in blocks of a few pairs."""
    top, left = rng.integers(0, 200, 300).astype(float), rng.integers(0, 200, 300).astype(float)
    height, width = rng.integers(5, 20, 300), rng.integers(1, 30, 300)
    others = (rng.random(300) * 0.3, *(np.ones(300),) * 3)
    letters = burned_in_text._Letters(top, top + height, left, left + width, *others)
    first, second = (grid.ravel() for grid in np.meshgrid(np.arange(300), np.arange(300), indexing="ij"))
    near = burned_in_text._are_neighbors(letters, first, second)
    expected = set(zip(first[near].tolist(), second[near].tolist(), strict=True))
    for max_pairs in (100, 1 << 20):
        monkeypatch.setattr(burned_in_text, "MAX_PAIRS", max_pairs)
        pairs = burned_in_text._neighbor_pairs(letters)
        assert set(zip(pairs[0].tolist(), pairs[1].tolist(), strict=True)) == expected
        assert len(pairs[0]) == len(expected) > 100


def test_letters_are_grouped_as_by_scipy(rng: np.random.Generator) -> None:
    for pairs in (0, 5, 40, 400):
        left, right = rng.integers(0, 60, (2, pairs))
        links = coo_array((np.ones(pairs), (left, right)), shape=(60, 60))
        expected = connected_components(links, directed=False)[1]
        groups = burned_in_text._connected(60, left, right)
        assert len(np.unique(np.stack([expected, groups]), axis=1).T) == len(np.unique(groups)) == len(np.unique(expected))


def test_values_are_sorted_within_their_row(rng: np.random.Generator) -> None:
    rows, values = rng.integers(0, 9, 500), rng.random(500).astype(np.float32)
    values[:20] = 0
    np.testing.assert_array_equal(burned_in_text._sorted_by_row(values, rows), values[np.lexsort((values, rows))])
