"""Values on disk are those that were given, and nothing remains of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from reslink.cluster.stored import Stored


def test_values_are_read_again_and_again_and_leave_no_file(tmp_path: Path) -> None:
    texts = ["a\nb", "", "\udcff name that is no text", "x" * 10_000]
    with Stored(iter(texts), lambda text: [text], lambda row: row[0] + "!", tmp_path) as stored:
        assert len(stored) == 4
        for _ in range(2):
            assert list(stored) == [f"{text}!" for text in texts]
        assert next(iter(stored)) == "a\nb!"
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="closed file"):
        list(stored)


def test_an_error_of_the_values_passes_through(tmp_path: Path) -> None:
    def values() -> object:
        yield 1
        raise KeyError("no more")

    with pytest.raises(KeyError, match="no more"):
        Stored(values(), int, int, tmp_path)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
