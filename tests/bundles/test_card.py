"""The model card says what is known, and no figure that was not measured."""

import dataclasses
import re

import yaml

from reslink.bundles.card import model_card
from reslink.bundles.decision import Decision

FIGURES = {
    "n": 120,
    "n_groups": 40,
    "positive": "Tumor",
    "metrics": {
        "auroc": {"estimate": 0.91234, "ci_low": 0.8, "ci_high": 0.97, "method": "BCa bootstrap", "n": 120},
        "npv": {"estimate": None, "ci_low": None, "ci_high": None, "method": "undefined: no case", "n": 0},
    },
}


def front(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_front_matter_in_the_order_of_hugging_face(bundle):
    found = front(model_card(bundle))
    assert list(found) == ["license", "license_name", "library_name", "pipeline_tag", "tags"]
    assert found["license"] == "other"
    assert found["license_name"] == "CC BY-NC-SA 4.0"
    assert found["library_name"] == "reslink"
    assert found["pipeline_tag"] == "image-classification"


def test_an_unknown_licence_is_said(bundle):
    for provenance in ({}, {"licence": "unknown"}, {"licence": "not stated by the data"}):
        card = model_card(dataclasses.replace(bundle, provenance=provenance))
        assert front(card)["license"] == "unknown"
        assert "license_name" not in front(card)
        assert "not stated; it follows that of the training data" in card


def test_the_licence_of_the_code_does_not_cover_the_weights(bundle):
    assert "Apache-2.0; that licence does not extend to these weights" in model_card(bundle)


def test_nothing_measured_means_no_figure(bundle):
    card = model_card(bundle)
    assert "Nothing has been measured yet" in card
    assert "metrics" not in front(card)
    assert not re.search(r"\b0\.\d{3}\b", card)


def test_figures_are_those_measured_and_no_others(bundle):
    card = model_card(dataclasses.replace(bundle, metrics=FIGURES))
    assert "| auroc | 0.912 | 0.800 to 0.970 | 120 | BCa bootstrap |" in card
    assert "120 images in 40 groups" in card
    assert front(card)["metrics"] == ["auroc"]
    assert "npv" not in card


def test_research_use_only_stands_at_the_top(bundle):
    card = model_card(bundle)
    assert "**Research use only." in card
    assert card.index("Research use only") < card.index("## Model details")


def test_the_decision_is_told(bundle):
    changed = dataclasses.replace(bundle, decision=Decision(threshold=0.31, temperature=1.5, threshold_source="Youden"))
    assert "`Tumor` from a probability of 0.31 on (from: Youden); logits divided by 1.5" in model_card(changed)
