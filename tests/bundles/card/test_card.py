"""The model card says what is known, and no figure that was not measured."""

import dataclasses
import re

import yaml

from reslink.bundles.card.card import model_card
from reslink.bundles.decision.calibration import Conformal, FittedOn, IsotonicCurve
from reslink.bundles.decision.decision import Decision
from reslink.bundles.decision.ood import OodGate

FIGURES = {
    "n": 120,
    "n_groups": 40,
    "positive": "Tumor",
    "metrics": {
        "auroc": {"estimate": 0.91234, "ci_low": 0.8, "ci_high": 0.97, "method": "BCa bootstrap", "n": 120},
        "npv": {"estimate": None, "ci_low": None, "ci_high": None, "method": "undefined: no case", "n": 0},
    },
}


STORY = {
    "title": "Head CT, abnormal or normal",
    "tells_apart": "abnormal from normal",
    "about": "Most of it is haemorrhage.",
    "modality": "CT of the head",
    "origin": {
        "name": "a_set",
        "title": "A set",
        "page": "https://a.example",
        "licence": "CC BY",
        "faults": ["It has copies."],
    },
    "copy_of_data": "It was made smaller.",
    "limits": ["It sees one slice."],
    "reproduce": ["reslink train DATA --out RUN", "make it"],
    "findings": ["Verdict of the audit: fail."],
}


def shipped(bundle, **changes):
    return dataclasses.replace(bundle, provenance=bundle.provenance | {"shipped": STORY | changes})


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


def test_a_bundle_that_ships_says_first_what_must_be_known(bundle):
    lines = [line for line in model_card(shipped(bundle)).split("---\n")[2].splitlines() if line]
    assert lines[0] == "# Head CT, abnormal or normal"
    assert lines[1] == "**Read this first.** Most of it is haemorrhage."
    assert lines[2].startswith("**Research use only.")


def test_a_bundle_that_ships_tells_source_faults_findings_limits_and_commands(bundle):
    card = model_card(shipped(bundle))
    assert "Source: A set (`a_set` in `reslink data list`), <https://a.example>." in card
    assert "Licence of the source: CC BY." in card
    assert "It was made smaller." in card
    assert "with the source:\n\n- It has copies.\n" in card
    assert "## Leakage and shortcuts\n\n- Verdict of the audit: fail.\n" in card
    assert "at another prevalence they differ.\n- It sees one slice.\n" in card
    assert "`DATA` stands for the folder of the images of `a_set`" in card
    assert "```\nreslink train DATA --out RUN\nmake it\n```" in card
    assert "or its name where it ships with reslink" in card
    assert "It tells apart: abnormal from normal. Images: CT of the head." in card


def test_data_that_was_not_audited_is_said(bundle):
    assert "## Leakage and shortcuts\n\nThe data was not audited for this card." in model_card(shipped(bundle, findings=[]))


def test_a_bundle_of_a_user_has_none_of_this(bundle):
    card = model_card(bundle)
    assert "Read this first" not in card
    assert "## Leakage and shortcuts" not in card
    assert "reslink models" not in card


def test_what_the_evaluation_says_of_its_split_is_told(bundle):
    found = FIGURES | {"split": "test", "leakage": {"status": "none found", "message": "No case is a near copy"}}
    card = model_card(dataclasses.replace(bundle, metrics=found))
    assert "The part of the data that was held out from training. No case is a near copy." in card


def test_the_parts_that_were_fitted_are_told(bundle):
    fitted = FittedOn(
        digest="ab" * 32, n_images=60, n_groups=50, split="validation", counts={}, method="isotonic", operating_point="youden"
    )
    gate = OodGate(limits={"statistics": 1.0, "features": 1.0}, retained=0.975, n_images=60, n_groups=50)
    sets = Conformal(coverage=0.95, per_class=True, limits=(0.5, 0.5), n_images=60, n_groups=50)
    share = {"estimate": 0.9, "ci_low": 0.8, "ci_high": 0.96, "n": 120, "method": "BCa"}
    figures = FIGURES | {
        "selective": {"coverage": share, "metrics": {"accuracy": share}, "sets": {"coverage": share}, "n_refused": 3}
    }
    rule = Decision(threshold=0.3, threshold_source="Youden", isotonic=(IsotonicCurve(before=(0.5,), after=(0.4,)),))
    whole = rule.model_copy(update={"conformal": sets, "ood": gate, "fitted_on": fitted})
    card = model_card(dataclasses.replace(bundle, decision=whole, metrics=figures))
    section = card.partition("## Decision\n")[2].partition("##")[0]
    assert "- Operating point: `Tumor` from a probability of 0.3 on (from: Youden).\n" in section
    assert "- Calibration of the probabilities: isotonic curves.\n" in section
    assert "sets at 0.95 coverage within each class.\n" in section
    assert "limits were set to keep 0.975 of them.\n" in section
    assert "- Fitted on 60 images in 50 groups (data `abababababab…`).\n" in section
    assert "the sets hold the true class in 0.900 (95 % interval 0.800 to 0.960).\n" in section
    assert "- The gate refuses 3 of 120 judged images.\n" in section
    assert "It answers 0.900 (95 % interval 0.800 to 0.960) of the judged images" in section
    bare = model_card(dataclasses.replace(bundle, decision=rule.model_copy(update={"fitted_on": fitted})))
    assert "- Prediction sets: none.\n- Gate: none.\n" in bare
    assert "## Decision" not in model_card(bundle)


def test_the_decision_is_told(bundle):
    changed = dataclasses.replace(bundle, decision=Decision(threshold=0.31, temperature=1.5, threshold_source="Youden"))
    assert "`Tumor` from a probability of 0.31 on (from: Youden); logits divided by 1.5" in model_card(changed)
