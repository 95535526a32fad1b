"""Refitting a model to a few local patients: a planted shift of the logits is repaired, and a sample of one class is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from reslink.bundles.decision.decision import Decision
from reslink.datasets.case import Case
from reslink.datasets.manifest import Manifest
from reslink.evaluation.predictions_csv import CasePredictions
from reslink.experiments.external.local_patients import (
    DRAWS,
    drawn_unit,
    fit_to_local_patients,
    local_chart,
    local_sentences,
    local_table,
    refit,
)
from reslink.labels import Labels

LABELS = Labels(("Healthy", "Tumor"))


def predictions(shift: float, patients: int = 60, images: int = 2) -> CasePredictions:
    """A network that separates the classes, whose logits are shifted at this site: the threshold is wrong, not the ranking."""
    rng = np.random.default_rng(0)
    y_true = np.repeat(np.arange(patients) % 2, images)
    logit = 4.0 * y_true - 2 + rng.normal(0, 1, len(y_true)) + shift
    logits = np.column_stack([np.zeros(len(y_true)), logit])
    cases = [Case(Path(f"{i}.png"), LABELS.names[k], name=f"{i}.png") for i, k in enumerate(y_true)]
    return CasePredictions(
        rows=np.arange(len(y_true)),
        manifest=Manifest(tuple(cases), LABELS, Path()),
        groups=[f"p{i // images}" for i in range(len(y_true))],
        logits=logits,
        probabilities=Decision().probabilities(logits),
        failed={},
    )


def test_local_patients_repair_a_planted_shift() -> None:
    frozen, five, *_, forty = fit_to_local_patients(predictions(4.0), Decision(), LABELS)
    assert frozen.patients == 0
    assert frozen.metrics["specificity"].estimate == pytest.approx(0, abs=0.1)
    assert (five.patients, forty.patients, forty.images) == (5, 40, 80)
    median = forty.metrics["accuracy"].estimate
    assert median is not None
    assert median > 0.9
    change = forty.changes["accuracy"]
    assert change.estimate is not None
    assert change.ci_low is not None
    assert change.estimate > change.ci_low > 0.3


def test_without_a_shift_few_patients_buy_little() -> None:
    *_, forty = fit_to_local_patients(predictions(0.0), Decision(), LABELS)
    assert forty.changes["accuracy"].estimate == pytest.approx(0, abs=0.05)


def test_numbers_that_leave_too_few_patients_are_left_out() -> None:
    assert [fit.patients for fit in fit_to_local_patients(predictions(0.0, patients=24), Decision(), LABELS)] == [0, 5, 10]


def test_the_images_of_a_patient_stay_together() -> None:
    """All images of the drawn patients are local: 5 patients of 3 images are 15 in every draw."""
    [_, five, *_] = fit_to_local_patients(predictions(0.0, images=3), Decision(), LABELS)
    assert five.images == 15


def test_a_sample_of_one_class_changes_nothing() -> None:
    """Another temperature with the same threshold would move the operating point."""
    decision = Decision(threshold=0.3)
    logits = np.array([[0.0, 2.0], [0.0, -1.0], [0.0, 3.0]])
    assert refit(decision, logits, np.array([1, 1, 1])) == decision
    changed = refit(decision, logits, np.array([1, 0, 1]))
    assert changed.threshold != 0.3
    assert changed.temperature == 1  # all are correct


@pytest.mark.parametrize(
    ("patients", "n_groups", "group_by", "unit"),
    [
        (["a", "a", "b"], 2, "both", "patients"),
        ([None] * 3, 3, "both", "images"),
        ([None] * 3, 2, "both", "duplicate groups"),
        (["a", "a", None], 2, "both", "patients or duplicate groups"),
        (["a", "b", None], 3, "both", "patients or images"),
        ([None] * 3, 2, "scan", "probable scans"),
        (["a", "a", None], 2, "scan", "patients or probable scans"),
    ],
)
def test_what_is_drawn_is_called_by_what_it_is(
    patients: list[str | None], n_groups: int, group_by: Literal["both", "scan"], unit: str
) -> None:
    cases = [Case(Path("x.png"), "Tumor", patient_id=patient) for patient in patients]
    assert drawn_unit(cases, n_groups, group_by) == unit


def test_probable_scans_are_not_called_duplicate_groups() -> None:
    fits = fit_to_local_patients(replace(predictions(4.0), group_by="scan"), Decision(), LABELS)
    assert {fit.unit for fit in fits} == {"probable scans"}


def test_images_are_not_called_patients() -> None:
    fits = {"site": fit_to_local_patients(predictions(4.0, images=1), Decision(), LABELS)}
    [sentence], [chart], found = local_sentences(fits), local_chart(fits), local_table(fits)
    assert sentence.startswith("site: recalibrating to 40 labeled local images changes accuracy by +0.")
    assert (chart["axis_x"], found.title) == ("labeled local images", "What a few labeled local images would buy")
    assert {row["unit"] for row in found.rows} == {"images"}


def test_sentences_and_chart_hold_the_largest_number() -> None:
    fits = {"site": fit_to_local_patients(predictions(4.0), Decision(), LABELS)}
    [sentence] = local_sentences(fits)
    assert sentence.startswith("site: recalibrating to 40 labeled local duplicate groups changes accuracy by +0.")
    [chart] = local_chart(fits)
    assert chart["series"][0]["x"] == [0, 5, 10, 20, 40]
    assert local_chart({"site": fits["site"][:1]}) == []
    one_class = sum(fit.one_class for fit in fits["site"])
    assert one_class > 0
    assert f"Draws of one class change nothing; there are {one_class} of them." in local_table(fits).note
    assert DRAWS == 30
