"""The head mask on synthetic slices whose head is known, and on the development images."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Picture

from reslink.imaging.head_mask import (
    SEVERAL_HEADS,
    _repetition,
    head_mask,
    holds_several_heads,
    sorted_median,
    sorted_quantile,
    stated_content,
)
from reslink.imaging.image import Image
from reslink.imaging.reading import read_image

Kind = Literal["HU", "ct", "mr"]
LEVELS: dict[Kind, tuple[float, float, float, float]] = {  # air, scalp, skull, brain
    "HU": (-1000, 30, 1200, 35),
    "ct": (0, 90, 255, 100),
    "mr": (6, 220, 12, 110),
}


def ellipse(side: int, height: float, width: float) -> NDArray[np.bool_]:
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return (y / height) ** 2 + (x / width) ** 2 <= 1


def synthetic(kind: Kind, rng: np.random.Generator, side: int = 256) -> tuple[Image, NDArray[np.bool_]]:
    """A slice with noise and structure, and its true head."""
    air, scalp, skull, brain = LEVELS[kind]
    head = ellipse(side, 0.40 * side, 0.32 * side)
    pixels = np.full((side, side), air, np.float64)
    pixels[head] = scalp
    pixels[ellipse(side, 0.385 * side, 0.305 * side)] = skull
    inner = ellipse(side, 0.355 * side, 0.275 * side)
    pixels[inner] = brain
    pixels[ellipse(side, 0.1 * side, 0.05 * side)] = brain * 0.3
    pixels += rng.normal(0, 3, pixels.shape)
    low, high = (-1024, 3000) if kind == "HU" else (0, 255)
    pixels = np.clip(pixels, low, high).astype(np.float32)
    return Image(pixels, "HU" if kind == "HU" else "gray"), head


def overlap(found: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    return float((found & true).sum() / (found | true).sum())


@pytest.mark.parametrize("side", [64, 100, 256, 700])
@pytest.mark.parametrize("kind", ["HU", "ct", "mr"])
def test_finds_the_whole_head(kind: Kind, side: int, rng: np.random.Generator) -> None:
    image, head = synthetic(kind, rng, side)
    assert overlap(head_mask(image), head) > (0.95 if side >= 256 else 0.9)


def test_table_and_head_holder_are_not_head(rng: np.random.Generator) -> None:
    image, head = synthetic("HU", rng)
    pixels = image.pixels.copy()
    pixels[246:252] = 200  # table
    pixels[238:241, 60:196] = 100  # shell of the head holder, three pixels under the head
    mask = head_mask(Image(pixels, "HU"))
    assert overlap(mask, head) > 0.95
    assert not mask[246:].any()


@pytest.mark.parametrize("kind", ["ct", "mr"])
def test_a_white_frame_is_not_head(kind: Kind, rng: np.random.Generator) -> None:
    image, head = synthetic(kind, rng)
    cut = np.s_[28:228]  # the head touches the frame
    pixels = image.pixels[cut].copy()
    pixels[[0, 1, -2, -1]] = 255
    pixels[:, [0, 1, -2, -1]] = 255
    assert overlap(head_mask(Image(pixels, "gray")), head[cut]) > 0.9


def test_shuffled_blocks_beside_a_skull_are_not_head(rng: np.random.Generator) -> None:
    image, head = synthetic("ct", rng)
    pixels = image.pixels.copy()
    noise = rng.choice([0.0, 90.0, 255.0], size=pixels.shape, p=[0.3, 0.5, 0.2]).astype(np.float32)
    away = ~ellipse(256, 0.42 * 256, 0.34 * 256)
    pixels[away] = noise[away]
    mask = head_mask(Image(pixels, "gray"))
    assert overlap(mask, head) > 0.9
    assert (mask & away).sum() < 0.02 * head.sum()


@pytest.mark.parametrize("kind", ["ct", "mr"])
def test_a_head_cut_by_the_border(kind: Kind, rng: np.random.Generator) -> None:
    image, head = synthetic(kind, rng)
    cut = np.s_[40:200, 60:190]
    assert overlap(head_mask(Image(image.pixels[cut].copy(), "gray")), head[cut]) > 0.9


def test_negatives_and_monochrome1(rng: np.random.Generator) -> None:
    image, head = synthetic("mr", rng)
    negative = (255 - image.pixels).astype(np.float32)
    assert overlap(head_mask(Image(negative, "gray")), head) > 0.95
    np.testing.assert_array_equal(head_mask(Image(negative, "gray", inverted=True)), head_mask(image))


def test_padding_and_not_a_number_are_never_head(rng: np.random.Generator) -> None:
    image, head = synthetic("HU", rng)
    padding = np.zeros(head.shape, np.bool_)
    padding[:, :100] = True
    pixels = image.pixels.copy()
    pixels[padding] = 3000
    pixels[100:104, 150:154] = np.nan
    mask = head_mask(Image(pixels, "HU", padding=padding))
    assert not mask[padding].any()
    assert not mask[100:104, 150:154].any()
    assert overlap(mask, head & ~padding) > 0.9


def gaps(kind: str) -> NDArray[np.bool_]:
    """Pixels without a measurement: a grid, or all beyond a circle."""
    y, x = np.mgrid[:256, :256]
    every = {"grid": (y % 8 == 0) | (x % 8 == 0), "round": np.hypot(y - 127.5, x - 127.5) > 120}
    return np.asarray(every[kind])


@pytest.mark.parametrize("inverted", [True, False])
@pytest.mark.parametrize("kind", ["grid", "round"])
def test_padding_of_an_inverted_image_is_background(kind: str, inverted: bool, rng: np.random.Generator) -> None:
    image, head = synthetic("mr", rng)
    pixels = (255 - image.pixels).astype(np.float32) if inverted else image.pixels.copy()
    padding = gaps(kind)
    pixels[padding] = 0
    mask = head_mask(Image(pixels, "MR", padding=padding, inverted=inverted))
    assert not mask[padding].any()
    assert overlap(mask, head & ~padding) > 0.9


def test_one_absurd_value_of_a_ct_moves_no_border(rng: np.random.Generator) -> None:
    image, head = synthetic("HU", rng)
    pixels = image.pixels.copy()
    pixels[3, 3] = 2e30
    assert overlap(head_mask(Image(pixels, "HU")), head) > 0.95


@pytest.mark.parametrize("kind", [">f4", "f2", "i4", "f8"])
def test_the_mask_does_not_depend_on_the_type_of_the_pixels(kind: str, rng: np.random.Generator) -> None:
    image, _ = synthetic("mr", rng)
    whole = Image(np.rint(image.pixels), "gray")
    np.testing.assert_array_equal(head_mask(Image(whole.pixels.astype(kind), "gray")), head_mask(whole))


@pytest.mark.parametrize("unit", ["HU", "MR", "gray"])
@pytest.mark.parametrize("value", [0.0, -1000.0, 7.0, np.nan])
def test_no_head_in_a_blank_image(unit: Literal["HU", "MR", "gray"], value: float) -> None:
    mask = head_mask(Image(np.full((90, 120), value if unit != "HU" else min(value, -1000), np.float32), unit))
    assert mask.shape == (90, 120)
    assert not mask.any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (2, 5), (300, 3), (3, 70_000), (1, 200_000)])
def test_any_shape(shape: tuple[int, int], rng: np.random.Generator) -> None:
    assert head_mask(Image(rng.normal(size=shape).astype(np.float32), "gray")).shape == shape


def test_the_mask_does_not_depend_on_brightness_and_contrast(rng: np.random.Generator) -> None:
    image, _ = synthetic("mr", rng)
    other = Image((image.pixels * 4 + 32).astype(np.float32), "MR")
    np.testing.assert_array_equal(head_mask(other), head_mask(image))


@pytest.mark.parametrize(("factor", "shift"), [(1e36, 0), (1e36, -3e38), (1e-30, 0), (1, 1e6)])
def test_the_mask_does_not_depend_on_the_range_of_the_values(factor: float, shift: float, rng: np.random.Generator) -> None:
    image, _ = synthetic("mr", rng)
    other = Image((image.pixels.astype(np.float64) * factor + shift).astype(np.float32), "MR")
    np.testing.assert_array_equal(head_mask(other), head_mask(image))


@pytest.mark.parametrize("unit", ["MR", "HU"])
def test_the_largest_values_that_a_float_holds(unit: Literal["HU", "MR"]) -> None:
    head = ellipse(256, 100, 80)
    assert overlap(head_mask(Image(np.where(head, 3e38, -3e38).astype(np.float32), unit)), head) > 0.95


def _real(shared_data: Path, name: str, count: int) -> list[Image]:
    with (shared_data / name / "manifest.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    paths = [shared_data / name / row["path"] for row in rows[:: len(rows) // count]]
    return [Image(np.asarray(Picture.open(path).convert("L"), np.float32), "gray") for path in paths]


def sheet(
    tiles: Sequence[NDArray[np.float32]], columns: int, gap: int = 0, level: float = 0, *, text: bool = False
) -> NDArray[np.float32]:
    """Tiles of one size in rows, with a gap around each and two lines of text in each; missing tiles are black."""
    tiles = [tile.copy() for tile in tiles]
    for tile in tiles if text else ():
        for top in (3, tile.shape[0] - 4):
            cv2.putText(tile, "W80 L40 12/30", (2, top + 2), cv2.FONT_HERSHEY_PLAIN, 0.6, 255.0, 1)
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    framed = [np.pad(tile, ((0, gap), (0, gap)), constant_values=level) for tile in tiles]
    rows = [np.hstack(framed[first : first + columns]) for first in range(0, len(framed), columns)]
    return np.pad(np.vstack(rows), ((gap, 0), (gap, 0)), constant_values=level)


@pytest.mark.parametrize(("gap", "level"), [(0, 0), (6, 0), (6, 255), (2, 255), (6, 128), (20, 255)])
@pytest.mark.parametrize(("rows", "columns"), [(1, 2), (2, 1), (1, 3), (2, 2), (3, 4), (5, 6)])
@pytest.mark.parametrize("kind", ["ct", "mr"])
def test_contact_sheets_hold_several_heads(
    kind: Kind, rows: int, columns: int, gap: int, level: float, rng: np.random.Generator
) -> None:
    tiles = [synthetic(kind, rng, 128)[0].pixels for _ in range(rows * columns)]
    pixels = sheet(tiles, columns, gap, level, text=gap > 2)
    assert holds_several_heads(Image(pixels, "gray"))
    assert holds_several_heads(Image(255 - pixels, "gray"))


def test_other_pictures_of_several_heads(rng: np.random.Generator) -> None:
    ct, mr, hu = (synthetic(kind, rng, 128)[0].pixels for kind in ("ct", "mr", "HU"))
    half = cv2.resize(mr, (96, 96))[:, 8:-8]
    views = sheet([np.pad(half, ((16, 16), (24, 24))), mr, mr.T.copy()], 2, 2, 60)
    pictures = {
        "a volume stored as one mosaic": Image(np.tile(hu, (3, 3)), "HU", "CT"),
        "two modalities": Image(sheet([ct, mr], 2), "gray"),
        "the last row is half empty": Image(sheet([mr] * 4, 3), "gray"),
        "three views": Image(views, "gray"),
        "with the tools of a viewer": Image(np.pad(sheet([mr] * 4, 2), ((30, 0), (60, 0)), constant_values=70), "gray"),
        "16 bits": Image(sheet([mr] * 4, 2) * 257, "gray", white=65535.0),
        "MONOCHROME1": Image(255 - sheet([mr] * 4, 2), "MR", inverted=True),
    }
    assert {name: holds_several_heads(image) for name, image in pictures.items()} == dict.fromkeys(pictures, True)


def test_single_slices_hold_one_head(rng: np.random.Generator) -> None:
    images = {}
    for kind in ("HU", "ct", "mr"):
        image, _ = synthetic(kind, rng)
        air, scalp, _, brain = LEVELS[kind]
        images[kind] = image.pixels
        table = image.pixels.copy()
        table[244:250], table[236:239, 60:196] = 200, 100
        images[f"{kind} table and holder"] = table
        base = image.pixels.copy()
        for x in (-35, 35):  # eyes
            base[np.roll(ellipse(256, 18, 18), (-60, x), (0, 1))] = scalp
        base[np.roll(ellipse(256, 18, 40), -20, 0)] = air  # sinuses
        images[f"{kind} skull base"] = base
        brain_only = np.full((256, 256), air, np.float32)
        brain_only[ellipse(256, 90, 70)] = brain
        brain_only[:, 124:132] = air  # hemispheres of a stripped brain
        images[f"{kind} hemispheres"] = brain_only
        ears = image.pixels.copy()
        for x in (-105, 105):
            ears[np.roll(ellipse(256, 14, 8), x, 1)] = scalp
        images[f"{kind} ears and pads"] = ears
        images[f"{kind} close"] = image.pixels[30:226, 50:206]
        flat = np.full((96, 96), air, np.float32)
        flat[ellipse(96, 45, 45)] = brain
        images[f"{kind} flat and filling the picture"] = flat
        vertex = np.full((256, 256), air, np.float32)
        for x in (-14, 14):
            vertex[np.roll(ellipse(256, 16, 11), x, 1)] = brain
        images[f"{kind} vertex"] = vertex
    found = {
        name: holds_several_heads(Image(pixels.astype(np.float32), "HU" if name.startswith("HU") else "gray"))
        for name, pixels in images.items()
    }
    assert found == dict.fromkeys(images, False)


@pytest.mark.parametrize("shape", [(1, 1), (3, 300), (40, 40)])
@pytest.mark.parametrize("value", [0.0, 77.0, np.nan])
def test_a_blank_picture_holds_no_heads(shape: tuple[int, int], value: float) -> None:
    assert not holds_several_heads(Image(np.full(shape, value, np.float32), "gray"))


def test_the_content_of_a_volume_is_that_of_its_middle_slice(rng: np.random.Generator) -> None:
    one, many = synthetic("mr", rng)[0].pixels, np.tile(synthetic("mr", rng, 128)[0].pixels, (2, 2))
    usual, mosaics = Image(np.stack([many, one, many]), "MR", "MR"), Image(np.stack([one, many, one]), "MR", "MR")
    assert (stated_content(usual), stated_content(mosaics)) == (usual.stated, mosaics.stated._replace(excluded=SEVERAL_HEADS))
    localizer = Image(many, "MR", "MR", excluded="localizer, not a slice")
    assert stated_content(localizer) == localizer.stated


@pytest.mark.data
@pytest.mark.parametrize("name", ["ct", "mri4", "lgg", "ct_rsna", "ct_ich", "ct_phe"])
def test_real_slices_hold_one_head_and_their_sheets_several(shared_data: Path, name: str) -> None:
    images = _real(shared_data, name, 60)
    assert sum(map(holds_several_heads, images)) <= 1  # all: 4 of 14,231
    tiles = [cv2.resize(image.pixels, (128, 128), interpolation=cv2.INTER_AREA) for image in images]
    sheets = [
        sheet(tiles[first : first + rows * columns], columns, gap, level, text=gap > 0)
        for rows, columns in ((2, 2), (3, 4), (5, 6))
        for gap, level in ((0, 0), (6, 0), (6, 255))
        for first in range(0, 60 - rows * columns + 1, 10)
    ]
    assert all(holds_several_heads(Image(pixels, "gray")) for pixels in sheets)


@pytest.mark.data
@pytest.mark.parametrize("name", ["ct_head", "mr_head", "ct_rsna"])
def test_real_dicom_slices_hold_one_head(shared_data: Path, name: str) -> None:
    images = [read_image(path) for path in sorted((shared_data / "series" / name).glob("*.dcm"))]
    assert images
    assert not any(map(holds_several_heads, images))


@pytest.mark.data
@pytest.mark.parametrize("name", ["ct", "mri4", "lgg"])
def test_real_masks_have_the_size_and_form_of_a_head(shared_data: Path, name: str) -> None:
    masks = [head_mask(image) for image in _real(shared_data, name, 40)]
    areas = np.array([mask.mean() for mask in masks])
    filled = np.array([mask.sum() / (np.ptp(np.nonzero(mask), axis=1) + 1).prod() for mask in masks])
    assert (areas > 0.08).all()
    assert np.quantile(areas, 0.95) < 0.9
    assert np.quantile(filled, 0.05) > 0.6  # an ellipse fills pi / 4 of its box


def test_the_mask_of_an_image_is_found_once_and_cannot_be_changed() -> None:
    pixels = np.zeros((64, 64), np.float32)
    pixels[16:48, 16:48] = 100
    image = Image(pixels=pixels, unit="gray", white=255.0)
    mask = head_mask(image)
    assert head_mask(image) is mask
    with pytest.raises(ValueError, match="read-only"):
        mask[0, 0] = True


def test_the_median_is_that_of_numpy_to_the_bit(rng: np.random.Generator) -> None:
    for size in (1, 2, 3, 4, 99, 100, 4096):
        values = rng.random(size).astype(np.float32)
        assert sorted_median(np.sort(values)) == float(np.median(values))
        assert sorted_median(np.sort(np.rint(4 * values))) == float(np.median(np.rint(4 * values)))


@pytest.mark.parametrize("quantile", [0.0, 0.05, 0.9, 1.0])
def test_a_quantile_is_that_of_numpy_to_the_bit(rng: np.random.Generator, quantile: float) -> None:
    for size in (1, 2, 3, 99, 1000, 16384):
        values = np.sort(rng.normal(0, 300, size).astype(np.float32))
        assert sorted_quantile(values, quantile) == np.quantile(values, quantile)


def test_repetition_is_the_correlation_with_the_shifted_picture(rng: np.random.Generator) -> None:
    values = np.tile(rng.random((30, 20)), 2) + 0.3 * rng.random((30, 40))
    correlations = [np.corrcoef(values[:, shift:].ravel(), values[:, :-shift].ravel())[0, 1] for shift in range(1, 23)]
    assert np.argmax(correlations) == 19
    assert _repetition(values) == pytest.approx(correlations[19])
