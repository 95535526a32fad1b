"""Counts of predictions."""

from __future__ import annotations

from dataclasses import replace

from reslink.imaging.orientation import NOT_STATED
from reslink.inference.prediction import LabelPrediction, Prediction
from reslink.inference.prediction_counts import PredictionCounts
from reslink.inference.series_answers import SeriesAnswer
from reslink.remote_errors import failure_of
from reslink.remote_paths import RemotePath

ANSWER = Prediction("a.png", label="Tumor", probability=0.9, probabilities={"Healthy": 0.1, "Tumor": 0.9}, abstain=False)
UNSURE = LabelPrediction(True, 0.6, 0.5, None, True, ("why",), "no answer")


def counts_of(*predictions: Prediction, has_slice_answers: bool = True) -> PredictionCounts:
    counts = PredictionCounts()
    for prediction in predictions:
        counts.add(prediction, has_slice_answers=has_slice_answers)
    return counts


def test_each_result_is_counted_once() -> None:
    assert counts_of(
        ANSWER,
        replace(ANSWER, abstain=True, notes=(NOT_STATED,)),
        replace(ANSWER, by_label={"x": UNSURE}),
        Prediction("b.png", error="broken"),
        Prediction("c.png", abstain=True, reasons=("it is a foot",)),
        SeriesAnswer("d", label="Tumor"),
    ) == PredictionCounts(
        6, failed=1, abstained=1, partial=1, refused=1, predicted=4, slices=3, unoriented=1, first_error="broken"
    )


def test_slices_without_a_series_are_a_failure_only_if_they_have_no_answers() -> None:
    refused = SeriesAnswer("d", error="no answer for the series")
    assert counts_of(refused).failed == 0
    assert counts_of(refused, has_slice_answers=False).failed == 1


def test_files_that_a_storage_did_not_give_are_counted() -> None:
    message = str(failure_of(RemotePath("s3://heads/a.png"), TimeoutError("no answer"), 8))
    counts = counts_of(Prediction("s3://heads/a.png", error=message), Prediction("s3://heads/b.png", error="broken"))
    assert (counts.failed, counts.not_fetched) == (2, 1)


def test_counts_add_up() -> None:
    counts = counts_of(ANSWER, Prediction("b.png", error="broken"))
    counts += counts_of(ANSWER, Prediction("c.png", error="later"))
    assert counts == PredictionCounts(total=4, failed=2, predicted=2, slices=2, first_error="broken")
    without = counts_of(ANSWER)
    without += counts
    assert without.first_error == "broken"
