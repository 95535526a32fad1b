"""``reslink calibrate``: what it warns of."""

from __future__ import annotations

from typing import Any

import pytest

from reslink.bundles.decision.calibration import Conformal
from reslink.bundles.decision.decision import Decision
from reslink.cli.commands.calibrate import _lost

SETS = Conformal(coverage=0.9, per_class=False, limits=(0.5, 0.5), n_images=40, n_groups=40)
BEFORE = Decision(threshold=0.2, threshold_source="Youden index", conformal=SETS)
PLAIN: dict[str, Any] = {"threshold": 0.5, "threshold_source": "default", "conformal": None, "ood": None}


@pytest.mark.parametrize(
    ("before", "changes", "said"),
    [
        (BEFORE, {}, ["the one before was 0.2 (Youden index)", "no prediction sets; the one before had"]),
        (BEFORE, {"threshold": 0.3, "threshold_source": "accuracy", "conformal": {}}, []),
        (Decision(threshold=0.5, threshold_source="the recipe: 0.5"), {}, []),
        (Decision(threshold=None), {"threshold": None}, []),
    ],
)
def test_what_the_new_decision_lacks_is_said(before: Decision, changes: dict[str, Any], said: list[str]) -> None:
    found = _lost(before, PLAIN | changes)
    assert len(found) == len(said)
    assert all(words in sentence for words, sentence in zip(said, found, strict=True))
