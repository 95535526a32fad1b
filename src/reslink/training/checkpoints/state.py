"""The progress of a run as plain values, stored in each checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field

from reslink.training.run_folder import Row
from reslink.training.validation import ValidationResult


@dataclass
class TrainingState:
    """The progress of a run.

    Attributes:
        epoch: The current epoch, from 1.
        step: Steps done in this epoch.
        total_steps: Steps done in all epochs.
        loss_sum: Sum of the losses of the images of this epoch.
        correct: Correctly classified images of this epoch.
        images: Images of this epoch so far.
        seconds: Time of the steps of this epoch so far.
        wait_seconds: Part of that time spent on copying images out of the cache.
        best: The best epoch and its validation result.
        epochs_since_best: Epochs since the best one.
        rows: One row per finished epoch.
        done: Whether training is finished.
        extensions: One entry for each time that a finished run was extended: ``after_epoch``, ``from_epochs``, ``to_epochs``.
    """

    epoch: int = 1
    step: int = 0
    total_steps: int = 0
    loss_sum: float = 0.0
    correct: float = 0
    images: int = 0
    seconds: float = 0.0
    wait_seconds: float = 0.0
    best: tuple[int, ValidationResult] | None = None
    epochs_since_best: int = 0
    rows: list[Row] = field(default_factory=list)
    done: bool = False
    extensions: list[Row] = field(default_factory=list)

    @classmethod
    def from_dict(cls, values: Row) -> TrainingState:
        """Returns the state from the result of ``asdict``."""
        best = values["best"]
        return cls(**values | {"best": None if best is None else (best[0], ValidationResult(**best[1]))})

    def next_epoch(self) -> None:
        """Moves to the start of the next epoch."""
        self.epoch, self.step = self.epoch + 1, 0
        self.loss_sum, self.correct, self.images = 0.0, 0, 0
        self.seconds, self.wait_seconds = 0.0, 0.0
