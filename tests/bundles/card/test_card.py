"""The model card shows the provenance and metrics of a bundle, and no other numbers."""

import dataclasses
import re

import yaml

from reslink.bundles.card.card import model_card
from reslink.bundles.decision.calibration import Conformal, FittedOn, IsotonicCurve
from reslink.bundles.decision.decision import Decision
from reslink.bundles.decision.ood import OODDetector

METRICS = {
    "n": 120,
    "n_groups": 40,
    "positive": "Tumor",
    "metrics": {
        "auroc": {"estimate": 0.91234, "ci_low": 0.8, "ci_high": 0.97, "method": "BCa bootstrap", "n": 120},
        "npv": {"estimate": None, "ci_low": None, "ci_high": None, "method": "undefined: no case", "n": 0},
    },
}


INFO = {
    "title": "Head CT, abnormal or normal",
    "task": "abnormal versus normal",
    "usage_notes": "Most of it is hemorrhage.",
    "modality": "CT of the head",
    "source": {
        "name": "a_set",
        "title": "A set",
        "page": "https://a.example",
        "license": "CC BY",
        "known_issues": ["It has duplicates."],
    },
    "data_processing": "It was made smaller.",
    "limitations": ["It sees one slice."],
    "reproduce": ["reslink train DATA --out RUN", "make it"],
    "audit_findings": ["Result of the audit: fail."],
}


def pretrained(bundle, **changes):
    return dataclasses.replace(bundle, provenance=bundle.provenance | {"pretrained": INFO | changes})


def front(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_front_matter_in_the_order_of_hugging_face(bundle):
    found = front(model_card(bundle))
    assert list(found) == ["license", "license_name", "library_name", "pipeline_tag", "tags"]
    assert found["license"] == "other"
    assert found["license_name"] == "CC BY-NC-SA 4.0"
    assert found["library_name"] == "reslink"
    assert found["pipeline_tag"] == "image-classification"


def test_an_unknown_license_is_stated(bundle):
    for provenance in ({}, {"license": "unknown"}, {"license": "not stated by the data"}):
        card = model_card(dataclasses.replace(bundle, provenance=provenance))
        assert front(card)["license"] == "unknown"
        assert "license_name" not in front(card)
        assert "not stated; it follows that of the training data" in card


def test_the_license_of_the_code_does_not_cover_the_weights(bundle):
    assert "Apache-2.0; that license does not cover these weights" in model_card(bundle)


def test_no_evaluation_means_no_metrics(bundle):
    card = model_card(bundle)
    assert "This model has not been evaluated yet" in card
    assert "metrics" not in front(card)
    assert set(re.findall(r"\b0\.\d{3}\b", card)) == {"0.500"}, "the threshold"


def test_only_defined_metrics_are_shown(bundle):
    card = model_card(dataclasses.replace(bundle, metrics=METRICS))
    assert "| auroc | 0.912 | 0.800 to 0.970 | 120 | BCa bootstrap |" in card
    assert "120 images in 40 groups (patients, with near duplicates joined)." in card
    assert front(card)["metrics"] == ["auroc"]
    assert "npv" not in card


def test_probable_scans_are_named(bundle):
    card = model_card(dataclasses.replace(bundle, metrics=METRICS | {"group_by": "scan"}))
    assert "120 images in 40 groups (patients, with near duplicates and probable scans joined)." in card


def test_research_use_only_is_at_the_top(bundle):
    card = model_card(bundle)
    assert "**Research use only." in card
    assert card.index("Research use only") < card.index("## Model details")


def test_a_pretrained_card_begins_with_the_usage_notes(bundle):
    lines = [line for line in model_card(pretrained(bundle)).split("---\n")[2].splitlines() if line]
    assert lines[0] == "# Head CT, abnormal or normal"
    assert lines[1] == "**Read this first.** Most of it is hemorrhage."
    assert lines[2].startswith("**Research use only.")


def test_a_pretrained_card_describes_data_limitations_and_commands(bundle):
    card = model_card(pretrained(bundle))
    assert "Source: A set (`a_set` in `reslink data list`), <https://a.example>." in card
    assert "License of the source: CC BY." in card
    assert "Processing: It was made smaller." in card
    assert "Known issues of the source:\n\n- It has duplicates.\n" in card
    assert "## Leakage and shortcuts\n\n- Result of the audit: fail.\n" in card
    assert "at another prevalence they differ.\n- It sees one slice.\n" in card
    assert "`DATA` is the folder of the images of `a_set`" in card
    assert "```\nreslink train DATA --out RUN\nmake it\n```" in card
    assert "or the model's name in `reslink models`" in card
    assert "Task: abnormal versus normal. Images: CT of the head." in card


def test_a_card_names_every_data_set_that_the_model_was_trained_on(bundle):
    other = {"name": "b_set", "title": "B set", "page": "https://b.example", "license": "CC0", "known_issues": ["It is small."]}
    card = model_card(pretrained(bundle, other_sources=[other]))
    assert "Source: A set (`a_set` in `reslink data list`), <https://a.example>." in card
    assert "Source: B set (`b_set`), <https://b.example>.\n\nLicense of the source: CC0." in card
    assert "(`DATA` is the folder that holds those of the images of `a_set`, `b_set`, `RUN` a new folder)" in card


def test_missing_audit_is_stated(bundle):
    assert "## Leakage and shortcuts\n\nThe data was not audited for this card." in model_card(
        pretrained(bundle, audit_findings=[])
    )


def test_a_users_card_has_no_pretrained_sections(bundle):
    card = model_card(bundle)
    assert "Read this first" not in card
    assert "## Leakage and shortcuts" not in card
    assert "reslink models" not in card


def test_split_and_leakage_of_the_evaluation_are_shown(bundle):
    found = METRICS | {"split": "test", "leakage": {"status": "none found", "message": "No case is a near duplicate"}}
    card = model_card(dataclasses.replace(bundle, metrics=found))
    assert "The test split, held out from training. No case is a near duplicate." in card


def test_the_fitted_parts_are_described(bundle):
    fitted = FittedOn(
        digest="ab" * 32, n_images=60, n_groups=50, split="validation", counts={}, method="isotonic", operating_point="youden"
    )
    detector = OODDetector(limits={"statistics": 1.0, "features": 1.0}, retained=0.975, n_images=60, n_groups=50)
    sets = Conformal(coverage=0.95, per_class=True, limits=(0.5, 0.5), n_images=60, n_groups=50)
    share = {"estimate": 0.9, "ci_low": 0.8, "ci_high": 0.96, "n": 120, "method": "BCa"}
    figures = METRICS | {
        "selective": {
            "coverage": share,
            "metrics": {"accuracy": share},
            "prediction_sets": {"coverage": share},
            "n_out_of_distribution": 3,
        }
    }
    rule = Decision(threshold=0.3, threshold_source="Youden", isotonic=(IsotonicCurve(before=(0.5,), after=(0.4,)),))
    whole = rule.model_copy(update={"conformal": sets, "ood": detector, "fitted_on": fitted})
    card = model_card(dataclasses.replace(bundle, decision=whole, metrics=figures))
    section = card.partition("## Decision\n")[2].partition("##")[0]
    assert "- Operating point: `Tumor` at a probability of 0.300 or more (threshold: Youden).\n" in section
    assert "- Calibration of the probabilities: isotonic curves.\n" in section
    assert "Prediction sets (split conformal): 0.95 coverage within each class.\n" in section
    assert "the limits retain 0.975 of the calibration images.\n" in section
    assert "- Fitted on 60 images in 50 groups (data `abababababab…`).\n" in section
    assert "contain the true class for 0.900 (95 % interval 0.800 to 0.960) of the evaluated images.\n" in section
    assert "- The detector flags 3 of 120 evaluated images.\n" in section
    assert "The model answers 0.900 (95 % interval 0.800 to 0.960) of the evaluated images" in section
    bare = model_card(dataclasses.replace(bundle, decision=rule.model_copy(update={"fitted_on": fitted})))
    assert "- Prediction sets: none.\n- Out-of-distribution detector: none.\n" in bare
    assert "## Decision" not in model_card(bundle)


def test_the_decision_is_described(bundle):
    changed = dataclasses.replace(bundle, decision=Decision(threshold=0.31, temperature=1.5, threshold_source="Youden"))
    assert "`Tumor` at a probability of 0.310 or more (threshold: Youden); logits divided by 1.5" in model_card(changed)
