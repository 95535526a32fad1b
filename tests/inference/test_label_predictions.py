"""Predictions for several labels at once, of an image and of a series."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from reslink.bundles.decision.calibration import Conformal
from reslink.bundles.decision.decision import Decision
from reslink.bundles.record import BundleRecord
from reslink.errors import BundleError, InputError
from reslink.inference.label_predictions import prediction_of_labels, series_label_predictions
from reslink.inference.prediction import answer_text
from reslink.inference.series import aggregate_slices
from reslink.labels import Labels

LABELS = Labels(("bleed", "swelling"), exclusive=False)
SETS = Conformal(coverage=0.9, limits=(0.4, 0.4), n_images=50, n_groups=50)


@pytest.fixture
def decision():
    return Decision.of_labels([Decision(threshold=0.3, temperature=2.0), Decision(threshold=0.6, conformal=SETS)])


def test_each_label_has_its_own_probability_and_threshold(decision):
    logits = np.array([[-1.0, 3.0], [-3.0, 0.2]])
    results = decision.decide(logits)
    assert results.probabilities[:, 0] == pytest.approx(1 / (1 + np.exp(-logits[:, 0] / 2)))
    assert results.probabilities[:, 1] == pytest.approx(1 / (1 + np.exp(-logits[:, 1])))
    assert results.predicted.tolist() == [[1, 1], [0, 0]]
    both, none = (prediction_of_labels(LABELS, decision, results, row) for row in (0, 1))
    assert (both.label, none.label) == ("bleed + swelling", "no label")
    assert both.probability is None
    assert both.probabilities == {name: one.probability for name, one in both.by_label.items()}
    assert both.by_label["swelling"].prediction_set == ("present",)
    assert both.by_label["bleed"].prediction_set is None
    assert (both.abstain, none.abstain) == (False, False)
    assert none.by_label["swelling"].abstain is True  # its prediction set is empty or holds both
    assert none.by_label["bleed"].abstain is False
    assert answer_text(none.label, none.by_label) == "no label, no answer for swelling"
    declined = {name: replace(one, abstain=True) for name, one in none.by_label.items()}
    assert answer_text(none.label, declined) == "no answer for bleed, swelling"  # not "no label", which is an answer
    assert "bleed 0." in repr(both)
    assert both.as_dict()["by_label"]["swelling"]["prediction_set"] == ["present"]


def test_a_reason_of_the_image_holds_for_every_label(decision):
    results = decision.decide(np.zeros((1, 2)))
    results.reasons[0].append("unlike the calibration images")
    prediction = prediction_of_labels(LABELS, decision, results, 0)
    assert prediction.abstain
    assert prediction.certainty == "no answer"
    assert all("unlike the calibration images" in one.reasons for one in prediction.by_label.values())


def test_the_json_form_of_one_class_per_image_is_unchanged(decision):
    assert "by_label" not in Decision().model_dump()
    assert "by_label" not in Decision().model_dump(mode="json", include={"threshold", "by_label"})
    assert Decision.model_validate_json(decision.model_dump_json()) == decision
    assert BundleRecord.model_fields["exclusive"].default is True


@pytest.mark.parametrize(
    "wrong",
    [
        Decision.of_labels([Decision()]),
        Decision.of_labels([Decision(), Decision()]).model_copy(update={"temperature": 2.0}),
        Decision.of_labels([Decision(), Decision()]).model_copy(update={"threshold": 0.5}),
    ],
)
def test_a_decision_that_does_not_fit_the_labels_is_refused(wrong):
    with pytest.raises(BundleError, match="The decision for 2 labels"):
        wrong.check_classes(2)


def test_logits_of_another_number_are_refused(decision):
    with pytest.raises(InputError, match=r"shape \(1, 3\) were given for 2 labels"):
        decision.probabilities(np.zeros((1, 3)))


def test_each_label_of_a_series_is_averaged_over_its_own_slices(decision):
    logits = np.full((12, 2), -4.0)
    logits[[1, 2, 3], 0] = 4.0
    logits[[7, 8, 9], 1] = 4.0
    results = decision.decide(logits)
    slices = [prediction_of_labels(LABELS, decision, results, row) for row in range(12)]
    series = aggregate_slices(slices, decision)
    assert series.label == "bleed + swelling"
    assert series.by_label["bleed"].used == (1, 2, 3)
    assert series.by_label["swelling"].used == (7, 8, 9)
    assert set(series.used) == {1, 2, 3, 7, 8, 9}
    assert series.probabilities["swelling"] == pytest.approx(1 / (1 + np.exp(-4.0)))
    assert series.score_class == "swelling"  # the more probable one
    assert series.as_dict()["by_label"]["bleed"]["label"] == "present"
    predictions = series_label_predictions(series.by_label, decision)
    assert predictions["bleed"].present
    assert predictions["bleed"].threshold == 0.3
    one = replace(series.by_label["bleed"], abstain=True)
    assert replace(series, by_label=series.by_label | {"bleed": one}).answer == "swelling, no answer for bleed"
    assert series.answer == series.label
    assert series.abstaining("incomplete").answer == "no answer for bleed, swelling"
    declined = series.abstaining("the series is incomplete")
    assert declined.by_label["bleed"].abstain
