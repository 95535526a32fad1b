"""The state of a run survives JSON, and a new epoch begins at zero."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from reslink.training.checkpoints.state import TrainingState
from reslink.training.validation import ValidationResult


@pytest.mark.parametrize("best", [None, (3, ValidationResult(0.5, 0.75, None))])
def test_the_state_survives_json(best: tuple[int, ValidationResult] | None) -> None:
    state = TrainingState(epoch=4, step=2, total_steps=50, loss_sum=1.5, best=best, rows=[{"epoch": 3, "val_loss": 0.5}])
    assert TrainingState.from_dict(json.loads(json.dumps(asdict(state)))) == state


def test_the_next_epoch_keeps_the_totals() -> None:
    state = TrainingState(epoch=2, step=9, total_steps=18, loss_sum=3, correct=7, images=8, seconds=1, wait_seconds=1)
    state.next_epoch()
    assert state == TrainingState(epoch=3, total_steps=18)
