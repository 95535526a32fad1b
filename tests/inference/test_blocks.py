"""Where a batch ends whatever it holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reslink.errors import UsageError
from reslink.imaging.search import ListedFiles
from reslink.inference.blocks import BLOCK_BATCHES, in_blocks


def listed(folder: str, n_files: int = 1) -> ListedFiles:
    return ListedFiles(tuple(Path(f"{i}.dcm") for i in range(n_files)), folder, folder)


def sizes(*sources: object, batch_size: int = 1) -> list[int]:
    """The numbers of items between the ends of blocks."""
    counts = [0]
    for item in in_blocks(sources, batch_size):
        counts = [*counts, 0] if item is None else [*counts[:-1], counts[-1] + 1]
    return counts


def test_a_block_ends_after_its_batches_of_files_and_splits_no_series() -> None:
    assert BLOCK_BATCHES == 8
    assert sizes(*[listed("")] * 20) == [8, 8, 4]
    assert sizes(*[np.zeros((4, 4), np.uint8)] * 9) == [8, 1]
    assert sizes(*[listed("", 3)] * 7, batch_size=2) == [6, 1]
    assert sizes(listed("", 100), listed("")) == [1, 1]


def test_a_block_ends_with_its_folder_and_an_error_has_no_file() -> None:
    assert sizes(*[listed("")] * 3, *[listed("a")] * 5, *[listed("b")] * 9) == [3, 5, 8, 1]
    assert sizes(*[ListedFiles((), "", "x", "missing")] * 30) == [30]


def test_what_is_no_source_is_refused() -> None:
    with pytest.raises(UsageError, match="int"):
        list(in_blocks([3], 1))
