"""Where a run stands: plain values that each checkpoint holds."""

from __future__ import annotations

from dataclasses import dataclass, field

from reslink.training.run_folder import Row
from reslink.training.validation import Judgement


@dataclass
class Position:
    """Where a run stands; all of it is in each checkpoint.

    Attributes:
        epoch: The epoch that runs, from 1.
        step: Steps done in it.
        total: Steps done in all.
        loss: Sum of the losses of its images.
        correct: Its images that were recognised.
        seen: Its images so far.
        seconds: Seconds that its steps took so far.
        waited: How many of these went into copying images out of the cache.
        best: The best epoch and what the validation part said about it.
        stale: Epochs since then.
        rows: One row for each epoch that is over.
        done: Whether no epoch is left.
    """

    epoch: int = 1
    step: int = 0
    total: int = 0
    loss: float = 0.0
    correct: int = 0
    seen: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    best: tuple[int, Judgement] | None = None
    stale: int = 0
    rows: list[Row] = field(default_factory=list)
    done: bool = False

    @classmethod
    def of(cls, state: Row) -> Position:
        """Returns the position that ``asdict`` made plain."""
        best = state.pop("best")
        return cls(**state, best=None if best is None else (best[0], Judgement(**best[1])))

    def next_epoch(self) -> None:
        """Goes to the start of the next epoch."""
        self.epoch, self.step = self.epoch + 1, 0
        self.loss, self.correct, self.seen = 0.0, 0, 0
        self.seconds, self.waited = 0.0, 0.0
