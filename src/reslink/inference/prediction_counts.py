"""Counts of predictions: what ``reslink predict`` says at its end."""

from __future__ import annotations

from dataclasses import dataclass, fields

from reslink.imaging.orientation import NOT_STATED
from reslink.inference.prediction import Prediction
from reslink.inference.series_answers import SeriesAnswer
from reslink.remote_errors import is_fetch_failure


@dataclass
class PredictionCounts:
    """Counts of predictions by their result.

    Attributes:
        total: All predictions.
        failed: Those with an error; slices that have answers, but form no series, do not count as failed.
        abstained: Those from which the model abstains.
        partial: Those in which it abstains from some of several labels.
        refused: Those of images outside the scope of the model.
        predicted: Those with a label.
        slices: Those with a label that are not of a series.
        unoriented: Those of files that do not state their orientation.
        not_fetched: Those that failed because a storage gave no file; a later run may get it.
        first_error: The error of the first failed one; empty if none failed.
    """

    total: int = 0
    failed: int = 0
    abstained: int = 0
    partial: int = 0
    refused: int = 0
    predicted: int = 0
    slices: int = 0
    unoriented: int = 0
    not_fetched: int = 0
    first_error: str = ""

    def add(self, prediction: Prediction, *, has_slice_answers: bool) -> None:
        """Counts a prediction.

        Args:
            prediction: The prediction.
            has_slice_answers: Whether the slices of a series have answers of their own.
        """
        of_series = isinstance(prediction, SeriesAnswer)
        self.total += 1
        if prediction.error is not None and not (has_slice_answers and of_series):
            self.failed += 1
            self.not_fetched += is_fetch_failure(prediction.error)
            self.first_error = self.first_error or prediction.error
        self.abstained += prediction.abstain is True and not prediction.is_refused
        self.partial += prediction.abstain is not True and any(one.abstain for one in (prediction.by_label or {}).values())
        self.refused += prediction.is_refused
        self.predicted += prediction.label is not None
        self.slices += prediction.label is not None and not of_series
        self.unoriented += NOT_STATED in prediction.notes

    def __iadd__(self, other: PredictionCounts) -> PredictionCounts:
        """Adds the counts of other predictions."""
        first_error = self.first_error or other.first_error
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
        self.first_error = first_error
        return self
