"""Near copies are found under every mirroring and rotation, and neighbors are left apart."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Picture
from scipy import ndimage

from reslink.datasets.case import Case
from reslink.datasets.manifest import Manifest
from reslink.datasets.near_duplicates.groups import duplicate_groups, find_duplicates, leakage_groups
from reslink.datasets.near_duplicates.thumbnails import make_thumbnail
from reslink.errors import UsageError
from reslink.imaging.image import Image
from reslink.labels import Labels

Pixels = NDArray[np.uint8]


def brain(seed: int, neighbour: float = 0.0) -> Pixels:
    """A head of its own; ``neighbour`` mixes in other structure, as the next slice of the same patient has."""
    own, other = (np.random.default_rng([seed, part]).normal(size=(180, 180)) for part in (0, 1))
    texture = ndimage.gaussian_filter(own * np.sqrt(1 - neighbour**2) + other * neighbour, 4)
    texture /= texture.std()
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:180, :180] - 90.0
    radius = np.hypot(y / rng.uniform(72, 80), x / rng.uniform(56, 64))
    values = np.select([radius > 1, radius > 0.92], [0, 255], 110 + 18 * texture)
    return np.clip(values, 0, 255).astype(np.uint8)


def jpeg(pixels: Pixels, quality: int) -> Pixels:
    stream = io.BytesIO()
    Picture.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return np.asarray(Picture.open(stream))


def copies(pixels: Pixels) -> list[Pixels]:
    """All eight orientations, re-encoded, resized, darker, with text."""
    turned = [np.rot90(side, k) for side in (pixels, pixels[:, ::-1]) for k in range(4)]
    resized = np.asarray(Picture.fromarray(pixels).resize((251, 251), Picture.Resampling.BICUBIC))
    darker = np.where(pixels > 0, pixels * 0.7 + 10, 0).astype(np.uint8)
    padded = np.pad(pixels, ((30, 5), (3, 60)))
    return [*(np.ascontiguousarray(t) for t in turned), jpeg(pixels, 40), jpeg(resized[::-1].copy(), 70), darker, padded]


def thumbs(pictures: list[Pixels]) -> Pixels:
    return np.stack([make_thumbnail(Image(p.astype(np.float32), "gray", white=255)) for p in pictures])


def test_all_planted_duplicates_are_found_and_nothing_else() -> None:
    families = [copies(brain(seed)) for seed in range(12)]
    truth = [i for i, family in enumerate(families) for _ in family]
    assert duplicate_groups(thumbs([picture for family in families for picture in family])) == truth


def test_neighboring_slices_are_not_near_duplicates() -> None:
    pictures = [brain(seed, step) for seed in range(6) for step in (0.0, 0.75)]
    assert duplicate_groups(thumbs(pictures)) == list(range(12))


def test_numbers_follow_the_first_appearance() -> None:
    a, b = brain(1), brain(2)
    assert duplicate_groups(thumbs([b, a, b[:, ::-1].copy(), a, brain(3)])) == [0, 1, 0, 1, 2]


def test_blank_images_have_no_near_duplicates() -> None:
    assert duplicate_groups(np.zeros((3, 64, 64), np.uint8)) == [0, 1, 2]


def test_no_images_no_groups() -> None:
    assert duplicate_groups(np.zeros((0, 64, 64), np.uint8)) == []


def test_a_wrong_shape_is_refused() -> None:
    with pytest.raises(UsageError, match=r"shape \(3, 32, 32\).*\(n, 64, 64\)"):
        duplicate_groups(np.zeros((3, 32, 32), np.uint8))


def test_thumbnails_are_eight_bit() -> None:
    with pytest.raises(UsageError, match=r"type float32.*uint8"):
        find_duplicates(np.zeros((3, 64, 64), np.float32))


def test_equal_thumbnails_are_exact_pairs_even_without_any_contrast() -> None:
    flat = np.full((64, 64), 90, np.uint8)
    found = find_duplicates(np.stack([flat, np.zeros((64, 64), np.uint8), flat]))
    assert [(p.first, p.second, p.correlation, p.orientation) for p in found] == [(0, 2, 1.0, 0)]


def test_a_pair_does_not_depend_on_the_other_images() -> None:
    a, b = brain(1), brain(1)[:, ::-1].copy()
    alone = find_duplicates(thumbs([a, b]))
    among = find_duplicates(thumbs([a, b, *(brain(seed) for seed in range(2, 12))]))
    assert alone == among
    assert [pair.orientation for pair in alone] == [4]


def test_two_known_patients_need_a_higher_correlation() -> None:
    a = brain(3)
    rough = jpeg(np.asarray(Picture.fromarray(a).resize((96, 96))), 60)
    both = thumbs([a, rough])
    value = find_duplicates(both)[0].correlation
    assert 0.9 < value < 0.999
    assert [pair.correlation for pair in find_duplicates(both, ["one", "two"])] == ([value] if value >= 0.94 else [])
    with pytest.raises(UsageError, match="2 thumbnails were given for 1 cases"):
        find_duplicates(both, ["one"])


@pytest.mark.parametrize("gray", [60, 90, 255])
def test_a_frame_is_removed(gray: int) -> None:
    framed = np.pad(brain(4), ((9, 14), (0, 22)), constant_values=gray)
    assert np.abs(thumbnail_of(framed).astype(int) - thumbnail_of(brain(4))).mean() < 1


def test_a_head_cut_by_the_edge_is_kept_whole() -> None:
    cut = brain(5)[25:165, 45:]
    assert (thumbnail_of(cut) > 0).mean() > 0.5


def thumbnail_of(pixels: Pixels) -> Pixels:
    return thumbs([pixels])[0]


def cases(*patients: str | None, sources: Sequence[str | None] | None = None) -> Manifest:
    stated = zip(patients, sources or [None] * len(patients), strict=True)
    made = (
        Case(Path(f"{i}.png"), "Healthy", patient, source=source, name=f"{i}.png") for i, (patient, source) in enumerate(stated)
    )
    return Manifest(tuple(made), Labels(("Healthy", "Tumor")), Path())


def test_patients_and_near_duplicates_are_joined() -> None:
    a, b, c, d = (brain(seed) for seed in range(4))
    pictures = thumbs([a, b, c, a[::-1].copy(), d, d])
    found = leakage_groups(cases("one", "two", "three", "two", None, None), pictures)
    assert found == ["0.png", "0.png", "2.png", "0.png", "4.png", "4.png"]


def test_similar_images_are_joined_only_on_request() -> None:
    """Neighboring slices are kept together where a split is drawn, and are no reason to refuse one that is stated."""
    pictures = thumbs([brain(3), brain(3, neighbour=0.5), brain(3)[::-1].copy(), brain(5)])
    assert leakage_groups(cases(None, None, None, None), pictures) == ["0.png", "0.png", "0.png", "3.png"]
    assert leakage_groups(cases(None, None, None, None), pictures, include_similar=False) == [
        "0.png",
        "1.png",
        "0.png",
        "3.png",
    ]


def test_similar_images_of_two_sources_stay_apart() -> None:
    """Neighboring slices of one scan come from one source; near duplicates are joined across sources."""
    pictures = thumbs([brain(3), brain(3, neighbour=0.5), brain(3)[::-1].copy()])
    for sources, expected in {
        ("A", "A", "B"): ["0.png", "0.png", "0.png"],
        ("A", "B", "A"): ["0.png", "1.png", "0.png"],
        ("A", None, "A"): ["0.png", "0.png", "0.png"],
    }.items():
        assert leakage_groups(cases(None, None, None, sources=sources), pictures) == expected


def test_the_index_finds_the_same_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = thumbs([picture for seed in range(6) for picture in (*copies(brain(seed))[::3], brain(seed, neighbour=0.3))])
    everyone = cases(*[None] * len(pictures))
    plain = leakage_groups(everyone, pictures, [])
    for limit in ("INDEX_MIN_IMAGES", "BOUND_MIN_IMAGES"):
        monkeypatch.setattr(f"reslink.datasets.near_duplicates.similar_rows.{limit}", 0)
    assert leakage_groups(everyone, pictures, []) == plain
    assert len(set(plain)) == 6


def test_each_case_needs_a_thumbnail() -> None:
    with pytest.raises(UsageError, match="1 thumbnails were given for 2 cases"):
        leakage_groups(cases(None, None), np.zeros((1, 64, 64), np.uint8))


@pytest.mark.data
def test_real_images_are_found_in_every_orientation(shared_data: Path) -> None:
    with (shared_data / "mri4" / "manifest.csv").open() as stream:
        paths = [shared_data / "mri4" / row["path"] for row in csv.DictReader(stream)][::90]
    pictures = [np.asarray(Picture.open(path).convert("L")) for path in paths]
    copied = [jpeg(np.ascontiguousarray(np.rot90(p[:, ::-1], i % 4)), 60) for i, p in enumerate(pictures)]
    found = duplicate_groups(thumbs(pictures + copied))
    recall = np.mean([found[i] == found[i + len(paths)] for i in range(len(paths))])
    assert recall >= 0.95
    assert len(set(found)) >= 0.85 * len(paths)
