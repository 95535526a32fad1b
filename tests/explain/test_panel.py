"""Panel layout: texts neither overlap nor leave the picture."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image as Picture

from reslink.explain.panel import ShownSlice, Tile, draw_panel


def test_the_picture_grows_with_its_caption(rng):
    why = "scan.png\nReason for abstaining: the image differs"
    gray = rng.integers(0, 255, (64, 64)).astype(np.uint8)
    tiles = [Tile("Image", "", None)] * 4
    sizes = [
        Picture.open(io.BytesIO(draw_panel(ShownSlice(gray), tiles, "a", text))).size
        for text in ("scan.png", why, "scan.png " * 40)
    ]
    assert sizes[0][0] == sizes[1][0] == sizes[2][0] > 4 * 400, "four tiles in a row"
    assert sizes[0][1] < sizes[1][1] <= sizes[2][1]


@pytest.mark.parametrize(
    "label", ["Tumor", "Glioblastoma_multiforme_grade_IV_with_oedema_and_shift", "MENINGIOMA WHO " * 4, "W" * 60]
)
@pytest.mark.parametrize("shape", [(60, 1200), (1200, 60), (200, 200), (256, 600)])
def test_texts_do_not_overlap_or_leave_the_picture(shape, label, drawn):
    heat = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
    mask = np.zeros(shape, bool)
    for n in (1, 2, 4, 6):
        tiles = [Tile("Image", "", None)] + [Tile("Integrated gradients", f"evidence for {label}, smoothed", heat)] * (n - 1)
        note = f"scan.png  ·  threshold for {label}: 22.4%\nReason for abstaining: " + "the image differs; " * 9
        draw_panel(ShownSlice(np.full(shape, 90, np.uint8), mask), tiles, f"The model abstains  ({label}  99.3%)", note)
    assert [len(words) for _, words in drawn] == [7, 10, 14, 18]
    for whole, words in drawn:
        for i, (one, here) in enumerate(words):
            assert (whole.x0 <= here.x0, whole.y0 <= here.y0, here.x1 <= whole.x1, here.y1 <= whole.y1) == (True,) * 4, one
            assert not [(one, other) for other, there in words[i + 1 :] if here.overlaps(there)]


def test_characters_missing_from_the_font_are_replaced_without_a_warning(drawn):
    draw_panel(ShownSlice(np.zeros((8, 8), np.uint8)), [Tile("Image", "頭部", None)], "腫瘍  99.3%", "頭部スキャン_患者.png")
    assert [text for text, _ in drawn[0][1] if "?" in text] == ["??", "??  99.3%", "??????_??.png"]


def bright_box(png: bytes) -> tuple[int, int]:
    """Height and width of the white pixels of the first tile, in the left half of the panel."""
    pixels = np.asarray(Picture.open(io.BytesIO(png)).convert("L"))
    rows, columns = np.nonzero(pixels[170:-120, : pixels.shape[1] // 2] > 250)
    return int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


@pytest.mark.parametrize(("aspect", "shape"), [(0.5, (120, 80)), (1.0, (60, 80)), (2.0, (60, 80)), (2.0, (900, 700))])
def test_pixels_that_are_not_square_are_drawn_with_their_own_aspect(aspect, shape):
    """Also of an image that is reduced to fit into the picture."""
    gray = np.zeros(shape, np.uint8)
    height, width = shape[0] // 2, shape[1] // 2
    gray[height // 2 : height // 2 + height, width // 2 : width // 2 + width] = 255
    drawn = bright_box(draw_panel(ShownSlice(gray, aspect=aspect), [Tile("Image", "", None)], " ", " "))
    assert drawn[0] / drawn[1] == pytest.approx(aspect * height / width, rel=0.03)


@pytest.mark.parametrize("edges", [("R", "L", "A", "P"), ("A", "P", "H", "F"), None])
def test_the_sides_of_the_patient_are_inside_each_tile(edges, drawn):
    tiles = [Tile("Image", "", None), Tile("Grad-CAM", "relative", np.ones((4, 4), np.float32))]
    draw_panel(ShownSlice(np.full((60, 80), 90, np.uint8), edges=edges), tiles, "heading", "caption")
    [(_, words)] = drawn
    letters = [(text, box) for text, box in words if len(text) == 1]
    assert [text for text, _ in letters] == [*(edges or ())] * 2
    for first in range(0, len(letters), 4):
        left, right, top, bottom = (box for _, box in letters[first : first + 4])
        assert left.x1 < top.x0 < right.x0
        assert bottom.y1 < left.y0 < top.y0  # upwards
        assert left.y0 == pytest.approx((bottom.y0 + top.y0) / 2, abs=2)
