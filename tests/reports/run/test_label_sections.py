"""The section of several labels at once."""

from __future__ import annotations

import numpy as np

from reslink.bundles.decision.decision import Decision
from reslink.evaluation.evaluate import evaluate_cases
from reslink.evaluation.selective import ANSWER_NAMES
from reslink.evaluation.several_labels import LabeledStates, evaluate_labels
from reslink.labels import Labels
from reslink.reports.run.label_sections import LABEL_METRICS, auroc_by_label, label_table


def test_the_table_and_the_chart_show_every_label(rng):
    states = (rng.random((60, 2)) < 0.5).astype(np.int64)
    states[:5, 1] = -1
    probabilities = np.clip(0.4 * states + 0.6 * rng.random((60, 2)), 0, 1)
    labels, decision = Labels(("<b>bleed</b>", "swelling"), exclusive=False), Decision.default(2, exclusive=False)
    evaluation = evaluate_labels(
        LabeledStates(states, probabilities, [str(i) for i in range(60)], labels, decision), evaluate_cases
    )
    table = label_table(evaluation)
    assert [row["name"] for row in table["rows"]] == list(labels.names)
    assert table["rows"][1]["counts"]["n_unknown"] == 5
    assert [cell["estimate"] for cell in table["rows"][0]["cells"]] == [
        evaluation["per_class"][labels.names[0]][key]["estimate"] for key in LABEL_METRICS
    ]
    assert (table["answers"], table["rows"][0]["answers"]) == ([], [])
    entry = evaluation["by_label"][labels.names[0]]
    entry["selective"] = {"n_out_of_distribution": 0, "coverage": {"estimate": 0.5}, "silent_errors": {"estimate": 0.1}}
    table = label_table(evaluation)
    assert table["answers"] == [ANSWER_NAMES["coverage"], ANSWER_NAMES["silent_errors"]], "as many as the cells"
    assert [cell["estimate"] for cell in table["rows"][0]["answers"]] == [0.5, 0.1]
    chart = auroc_by_label(evaluation)
    assert "swelling (" in chart.alt
    assert "mean of the labels" in chart.alt


def test_one_class_per_image_has_no_such_section():
    assert label_table({"metrics": {}}) is None
    assert auroc_by_label(None) is None
