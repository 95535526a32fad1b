"""Shortcut probes on synthetic cases with known information."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from reslink.audit.checks.shortcuts import ProbeResult, run_probes, with_holm_correction
from reslink.audit.extract import FileFeatures
from reslink.audit.features.header import HeaderFeatures
from reslink.audit.features.image import image_features
from reslink.audit.features.outside_head import FEATURE_NAMES
from reslink.imaging.image import Image

BLANK = image_features(Image(np.zeros((64, 64), np.float32), "gray", white=255.0))


def case(rng: np.random.Generator, header: HeaderFeatures) -> FileFeatures:
    """Returns a case in which only the header carries information."""
    return FileFeatures(
        sha256="",
        header=header,
        image=BLANK,
        thumbnail=np.zeros((64, 64), np.uint8),
        asymmetry=np.zeros(1, np.float32),
        tiny_thumbnail=rng.integers(0, 255, (16, 16), np.uint8),
        histogram=rng.dirichlet(np.ones(32)).astype(np.float32),
        outside_head=rng.normal(size=len(FEATURE_NAMES)).astype(np.float32),
        text_boxes=[],
        identity=[],
    )


def probe(items: list[FileFeatures], targets: np.ndarray, groups: list[str]) -> dict[str, ProbeResult]:
    outcomes = run_probes(items, targets, groups, int(targets.max()) + 1)
    results = [outcome for outcome in outcomes if isinstance(outcome, ProbeResult)]
    return {result.probe: result for result in with_holm_correction(results)}


@pytest.fixture(scope="module", autouse=True)
def few_trees() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reslink.audit.checks.shortcuts.TREES", 15)
        yield


@pytest.fixture(scope="module")
def scanner(few_trees: None) -> dict[str, ProbeResult]:
    """Eighty patients and a scanner that was mostly used for one class; nothing else is informative."""
    rng = np.random.default_rng(0)
    targets = np.tile([0, 1], 40)
    scanners = np.where(rng.random(80) < 0.9, targets, 1 - targets)
    items = [
        case(rng, {"width": 256.0, "ManufacturerModelName": f"model {s}", "serial": str(i)}) for i, s in enumerate(scanners)
    ]
    return probe(items, targets, [str(i) for i in range(80)])


def test_a_scanner_shortcut_fails_its_check(scanner: dict[str, ProbeResult]) -> None:
    result = scanner["file_metadata"]
    assert result.balanced_accuracy.estimate == pytest.approx(0.9, abs=0.07)
    assert result.chance == 0.5
    assert result.failed
    assert result.top_features == ("ManufacturerModelName",)


def test_a_shortcut_to_a_rare_class_is_found_with_equal_shares(few_trees: None) -> None:
    rng = np.random.default_rng(0)
    targets = (np.arange(240) % 20 == 0).astype(np.int64)
    scanners = np.where(rng.random(240) < np.where(targets, 0.9, 0.1), 1, 0)
    items = [case(rng, {"ManufacturerModelName": f"model {s}"}) for s in scanners]
    groups = [str(i) for i in range(240)]
    metadata, outside = list(run_probes(items, targets, groups, 2, equal_shares=True))[:2]
    assert isinstance(metadata, ProbeResult)
    assert isinstance(outside, ProbeResult)
    assert metadata.balanced_accuracy.estimate == pytest.approx(0.9, abs=0.07)
    assert not outside.above_chance
    np.testing.assert_allclose(metadata.y_prob.sum(axis=1), 1)


def test_uninformative_inputs_fail_no_check(scanner: dict[str, ProbeResult]) -> None:
    result = scanner["outside_head"]
    assert result.is_check
    assert not result.failed
    assert not scanner["histogram"].is_check
    assert not scanner["thumbnail"].is_check


def test_the_values_of_header_features_are_not_reported(scanner: dict[str, ProbeResult]) -> None:
    assert "model" not in " ".join(map(str, scanner["file_metadata"].as_dict().values()))


def test_holm_makes_p_values_larger_and_keeps_their_order(scanner: dict[str, ProbeResult]) -> None:
    pairs = sorted((result.p_value, result.p_holm) for result in scanner.values())
    assert all(holm >= p for p, holm in pairs)
    assert [holm for _, holm in pairs] == sorted(holm for _, holm in pairs)
    assert pairs[0][1] == pytest.approx(4 * pairs[0][0])


def test_equal_features_predict_nothing(rng: np.random.Generator) -> None:
    targets = np.tile([0, 1], 15)
    result = probe([case(rng, {"width": 256.0}) for _ in targets], targets, [str(i) for i in range(30)])["file_metadata"]
    assert (result.balanced_accuracy.estimate, result.failed, result.above_chance) == (0.5, False, False)


def test_a_check_fails_only_above_the_margin(scanner: dict[str, ProbeResult]) -> None:
    """An interval from 0.54 is above chance but not above chance + 0.05."""
    result = scanner["file_metadata"]
    weak = replace(result, balanced_accuracy=replace(result.balanced_accuracy, ci_low=0.54))
    assert weak.above_chance
    assert not weak.failed
    assert not replace(result, p_holm=0.03).failed


def test_too_few_groups_are_reported(rng: np.random.Generator) -> None:
    targets = np.array([0] * 9 + [1])
    outcomes = list(run_probes([case(rng, {}) for _ in targets], targets, [str(i) for i in range(10)], 2))
    assert [reason for _, reason in outcomes] == [  # type: ignore[misc]
        "a class has 1 independent groups of usable images, and cross-validation needs at least 2"
    ] * 4


def test_below_ten_groups_there_is_no_result(rng: np.random.Generator) -> None:
    targets = np.array([0, 1] * 20)
    outcomes = list(run_probes([case(rng, {}) for _ in targets], targets, [str(i % 8) for i in range(40)], 2))
    assert {reason for _, reason in outcomes} == {  # type: ignore[misc]
        "there are 8 independent groups of images, and an interval needs at least 10"
    }


def test_cases_without_a_head_are_excluded_from_the_outside_probe(rng: np.random.Generator) -> None:
    targets = np.tile([0, 1], 15)
    items = [case(rng, {"width": 256.0}) for _ in targets]
    items[3] = replace(items[3], outside_head=None)
    result = probe(items, targets, [str(i) for i in range(30)])
    assert 3 not in result["outside_head"].rows
    assert len(result["histogram"].rows) == 30
