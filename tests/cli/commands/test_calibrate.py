"""``reslink calibrate``: its warnings."""

from __future__ import annotations

from typing import Any

import pytest

from reslink.bundles.decision.calibration import Conformal
from reslink.bundles.decision.decision import Decision
from reslink.cli.commands.calibrate import _lost_parts

SETS = Conformal(coverage=0.9, per_class=False, limits=(0.5, 0.5), n_images=40, n_groups=40)
BEFORE = Decision(threshold=0.2, threshold_source="Youden index", conformal=SETS)
PLAIN: dict[str, Any] = {"threshold": 0.5, "threshold_source": "default", "conformal": None, "ood": None}


@pytest.mark.parametrize(
    ("before", "changes", "expected"),
    [
        (BEFORE, {}, ["the previous one was 0.200 (Youden index)", "no prediction sets; the previous one had"]),
        (BEFORE, {"threshold": 0.3, "threshold_source": "accuracy", "conformal": {}}, []),
        (Decision(threshold=0.5, threshold_source="set by the recipe"), {}, []),
        (Decision(threshold=None), {"threshold": None}, []),
    ],
)
def test_lost_parts_of_a_decision_are_reported(before: Decision, changes: dict[str, Any], expected: list[str]) -> None:
    sentences = _lost_parts(before, PLAIN | changes)
    assert len(sentences) == len(expected)
    assert all(words in sentence for words, sentence in zip(expected, sentences, strict=True))
