"""Probes on cases that were made up, so that what each can know is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from reslink.audit.checks.shortcuts import Shortcut, corrected, probe_all
from reslink.audit.extract import Measured
from reslink.audit.features.header import Header
from reslink.audit.features.image import facts
from reslink.audit.features.outside_head import FEATURES
from reslink.imaging.image import Image

BLANK = facts(Image(np.zeros((64, 64), np.float32), "grey", white=255.0))


def case(rng: np.random.Generator, header: Header) -> Measured:
    """A case that says nothing but by its header."""
    return Measured(
        sha256="",
        header=header,
        facts=BLANK,
        thumbnail=np.zeros((64, 64), np.uint8),
        halves=np.zeros(1, np.float32),
        tiny=rng.integers(0, 255, (16, 16), np.uint8),
        histogram=rng.dirichlet(np.ones(32)).astype(np.float32),
        outside=rng.normal(size=len(FEATURES)).astype(np.float32),
        text=[],
        identity=[],
    )


def probe(items: list[Measured], targets: np.ndarray, groups: list[str]) -> dict[str, Shortcut]:
    found = list(probe_all(items, targets, groups, int(targets.max()) + 1))
    return {result.probe: result for result in corrected([result for result in found if isinstance(result, Shortcut)])}


@pytest.fixture(scope="module", autouse=True)
def few_trees() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reslink.audit.checks.shortcuts.TREES", 15)
        yield


@pytest.fixture(scope="module")
def scanner(few_trees: None) -> dict[str, Shortcut]:
    """Eighty patients; a scanner that was mostly used for one class, and nothing else that tells."""
    rng = np.random.default_rng(0)
    targets = np.tile([0, 1], 40)
    scanners = np.where(rng.random(80) < 0.9, targets, 1 - targets)
    items = [
        case(rng, {"width": 256.0, "ManufacturerModelName": f"model {s}", "serial": str(i)}) for i, s in enumerate(scanners)
    ]
    return probe(items, targets, [str(i) for i in range(80)])


def test_a_scanner_shortcut_fails_its_gate(scanner: dict[str, Shortcut]) -> None:
    found = scanner["file_facts"]
    assert found.balanced_accuracy.estimate == pytest.approx(0.9, abs=0.07)
    assert found.chance == 0.5
    assert found.failed
    assert found.told_by == ("ManufacturerModelName",)


def test_what_says_nothing_fails_no_gate(scanner: dict[str, Shortcut]) -> None:
    found = scanner["outside_head"]
    assert found.gate
    assert not found.failed
    assert not scanner["histogram"].gate
    assert not scanner["thumbnail"].gate


def test_the_values_of_header_facts_are_not_repeated(scanner: dict[str, Shortcut]) -> None:
    assert "model" not in " ".join(map(str, scanner["file_facts"].as_dict().values()))


def test_holm_makes_p_values_larger_and_keeps_their_order(scanner: dict[str, Shortcut]) -> None:
    pairs = sorted((found.p_value, found.p_holm) for found in scanner.values())
    assert all(holm >= p for p, holm in pairs)
    assert [holm for _, holm in pairs] == sorted(holm for _, holm in pairs)
    assert pairs[0][1] == pytest.approx(4 * pairs[0][0])


def test_equal_facts_tell_nothing(rng: np.random.Generator) -> None:
    targets = np.tile([0, 1], 15)
    found = probe([case(rng, {"width": 256.0}) for _ in targets], targets, [str(i) for i in range(30)])["file_facts"]
    assert (found.balanced_accuracy.estimate, found.failed, found.above_chance) == (0.5, False, False)


def test_a_gate_needs_more_than_chance(scanner: dict[str, Shortcut]) -> None:
    """An interval from 0.54 upwards lies above chance and not above chance + 0.05."""
    found = scanner["file_facts"]
    weak = replace(found, balanced_accuracy=replace(found.balanced_accuracy, ci_low=0.54))
    assert weak.above_chance
    assert not weak.failed
    assert not replace(found, p_holm=0.03).failed


def test_too_few_groups_are_said(rng: np.random.Generator) -> None:
    targets = np.array([0] * 9 + [1])
    found = list(probe_all([case(rng, {}) for _ in targets], targets, [str(i) for i in range(10)], 2))
    assert [reason for _, reason in found] == [  # type: ignore[misc]
        "a class has 1 independent groups of images that can be looked at, and cross-validation needs 2"
    ] * 4


def test_below_ten_groups_no_number_is_made(rng: np.random.Generator) -> None:
    targets = np.array([0, 1] * 20)
    found = list(probe_all([case(rng, {}) for _ in targets], targets, [str(i % 8) for i in range(40)], 2))
    assert {reason for _, reason in found} == {  # type: ignore[misc]
        "there are 8 independent groups of images, and fewer than 10 give no interval"
    }


def test_cases_without_a_head_are_left_out_of_the_outside(rng: np.random.Generator) -> None:
    targets = np.tile([0, 1], 15)
    items = [case(rng, {"width": 256.0}) for _ in targets]
    items[3] = replace(items[3], outside=None)
    found = probe(items, targets, [str(i) for i in range(30)])
    assert 3 not in found["outside_head"].rows
    assert len(found["histogram"].rows) == 30
