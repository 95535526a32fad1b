"""The check for two or more sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from reslink.datasets.case import Case
from reslink.datasets.manifest import Manifest
from reslink.datasets.several_sources import check_several_sources
from reslink.errors import UsageError
from reslink.labels import Labels


def of_sources(*sources: str | None) -> Manifest:
    return Manifest(tuple(Case(Path("x"), "A", source=source) for source in sources), Labels(("A", "B")), Path())


@pytest.mark.parametrize(("sources", "reason"), [([None, None], "no source"), (["A", "A"], "one source")])
def test_one_source_or_none_is_refused(sources: list[str | None], reason: str) -> None:
    with pytest.raises(UsageError, match=rf"--x is set, and the images state {reason}.*It needs two.*leave --x out"):
        check_several_sources(of_sources(*sources), "--x", "It needs two")


@pytest.mark.parametrize("sources", [["A", "B"], ["A", None]])
def test_images_without_a_source_are_one_more(sources: list[str | None]) -> None:
    check_several_sources(of_sources(*sources), "--x", "It needs two")
