"""Search for similar rows of features: among all rows of small data sets, by an index in large ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reslink.datasets.near_duplicates.features import Features
from reslink.datasets.near_duplicates.hamming_index import HammingIndex, binary_codes, correlation_of, load_faiss

INDEX_MIN_IMAGES: Final = 50_000
"""Number of images above which an index finds the similar ones. All pairs of 20,000 images take 4 ms of processor time an
image, the index takes 14 ms."""

BOUND_MIN_IMAGES: Final = 10_000
"""Number of images above which an image is compared with ``MAX_NEIGHBORS`` others at most. Otherwise the number of comparisons
grows with the square of the number of images if they look alike."""

FOUND_NEIGHBORS: Final = 32
"""Number of nearest images that the index finds for each image; groups leave out those of its own patient."""

MAX_NEIGHBORS: Final = 16
"""Number of similar images with which an image of a large data set is compared. Among 15,000 slices, the source of each planted
copy is one of the 8 images with the most similar spectra; but slices of its own scan may be nearer to a slice than those of
another scan of the patient."""

PRODUCTS: Final = 1 << 21
"""Number of pairs of rows that are multiplied at once."""

Numbers = NDArray[np.intp]
Values = NDArray[np.float32]
SimilarRows: TypeAlias = tuple[Numbers, Numbers, Values]


class RowSearch(Protocol):
    """A search for similar rows."""

    def __call__(self, others: Features, first: int | None = None) -> Iterator[SimilarRows]:
        """Yields the similar pairs (row, other row) and their correlations.

        Args:
            others: (m, k) rows of length 1 or 0.
            first: Number of the first of the others among the rows, if each pair of rows is needed only once: pairs whose row
                comes after the other one may then be left out.
        """


def check_index(count: int) -> None:
    """Checks, before many images are read, that near duplicates among them can be found.

    Raises:
        UsageError: If the search needs an index and faiss is not installed.
    """
    if count > INDEX_MIN_IMAGES:
        load_faiss()


def search_rows(chunks: Iterator[Features], count: int, min_correlation: float) -> RowSearch:
    """Returns a search for rows that are similar to others.

    Args:
        chunks: The rows, (n, k) in parts; each row has the length 1 or 0.
        count: Their number. Above 50,000, the search is approximate: an index finds the 32 nearest rows of each other row.
        min_correlation: Correlation of similar rows.

    Raises:
        UsageError: If an index is needed and faiss is not installed.
    """
    return (_search_index if count > INDEX_MIN_IMAGES else _search_all_pairs)(chunks, min_correlation)


def _search_all_pairs(chunks: Iterator[Features], min_correlation: float) -> RowSearch:
    rows = np.concatenate(list(chunks))

    def search(others: Features, first: int | None = None) -> Iterator[SimilarRows]:
        end, size = len(rows) if first is None else first + len(others), max(PRODUCTS // max(len(others), 1), 1)
        for start in range(0, end, size):
            skipped = 0 if first is None else max(start - first, 0)  # these come before all of these rows
            correlation = rows[start : min(start + size, end)] @ others[skipped:].T
            i, j = np.divmod(np.flatnonzero(correlation > min_correlation), correlation.shape[1])  # faster than nonzero
            yield i + start, j + skipped, correlation[i, j]

    return search


def _search_index(chunks: Iterator[Features], min_correlation: float) -> RowSearch:
    index = HammingIndex(np.concatenate([binary_codes(rows) for rows in chunks]))

    def search(others: Features, first: int | None = None) -> Iterator[SimilarRows]:
        j, i, bits = index.nearest(binary_codes(others), FOUND_NEIGHBORS)
        correlation = correlation_of(bits)
        similar = (correlation > min_correlation) & (True if first is None else i < first + j)
        yield i[similar], j[similar], correlation[similar]

    return search


def most_similar(images: NDArray[np.signedinteger], correlation: Values, count: int) -> Numbers:
    """Returns which pairs to compare: all, or in a large data set the 16 most similar ones of each image.

    Args:
        images: (n,) the image of each pair.
        correlation: (n,) correlation of each pair.
        count: Number of images of the data set.

    Returns:
        (m,) sorted numbers of pairs.
    """
    if count <= BOUND_MIN_IMAGES:
        return np.arange(len(images))
    order = np.lexsort((-correlation, images))
    ordered = images[order]
    rank = np.arange(len(ordered)) - np.searchsorted(ordered, ordered)
    return np.sort(order[rank < MAX_NEIGHBORS])
