"""Fingerprints of training images recognize copies, and reveal little of the image."""

from __future__ import annotations

from typing import Any

import numpy as np

from reslink.datasets.near_duplicates import fingerprints
from reslink.datasets.phantom.duplicates import DUPLICATE_KINDS


def test_fingerprints_recognize_duplicates_of_all_kinds(planted: Any) -> None:
    """A crop into the head loses part of what 1,024 bits tell; all other copies are as sure as with the image itself."""
    kept, new = planted.thumbnails[: planted.slices], planted.thumbnails[planted.copies]
    found = fingerprints.match_fingerprints(fingerprints.make_fingerprints(kept), new)
    right = [planted.source[planted.copies[query]] == row for query, row, _ in found]
    known = {query for (query, _, _), true in zip(found, right, strict=True) if true}
    cut = np.repeat(["head crop" in kind or "into the head" in kind for kind in DUPLICATE_KINDS], 16)
    hit = np.isin(np.arange(len(new)), sorted(known))
    assert hit[~cut].mean() >= 0.96
    assert hit[cut].mean() >= 0.8
    assert np.mean(right) >= 0.95


def test_a_fingerprint_reveals_little_of_the_image(planted: Any) -> None:
    """Turned back it gives 32×32 noisy contrasts, no more than 64 % of whose power is the image's."""
    from reslink.datasets.near_duplicates.features import downsample, structure_contrast, unit_rows
    from reslink.datasets.near_duplicates.hamming_index import binary_codes, rotation

    rows = unit_rows(downsample(structure_contrast(planted.thumbnails[: planted.slices])))
    signs = np.unpackbits(binary_codes(rows), axis=1) * 2.0 - 1
    back = signs @ rotation() / 32
    assert 0.75 < np.mean((rows * back).sum(axis=1)) < 0.82


def test_the_matched_images_are_those_of_all_pairs(planted: Any) -> None:
    kept, new = planted.thumbnails[: planted.slices], planted.thumbnails[planted.copies]
    stored = fingerprints.make_fingerprints(kept)
    pairs = fingerprints.match_fingerprints(stored, new)
    matched = fingerprints.matched_queries(stored, fingerprints.Queries.of(new))
    assert len(pairs) > len(matched)  # some images match several
    assert matched.keys() == {query for query, _, _ in pairs}
    correlations = {(query, round(correlation, 5)) for query, _, correlation in pairs}
    assert all((query, round(correlation, 5)) in correlations for query, correlation in matched.items())
    assert fingerprints.matched_queries(stored[:0], fingerprints.Queries.of(new)) == {}
    assert fingerprints.matched_queries(stored, fingerprints.Queries.of(new[:0])) == {}
