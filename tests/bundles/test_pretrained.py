"""The description of a shipped bundle, and the search for private strings in its files."""

from __future__ import annotations

import pytest

from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.decision import Decision
from reslink.bundles.pretrained import (
    NO_OOD_DETECTOR,
    OutsideEvaluation,
    find_private_strings,
    missing_components,
    other_hospitals,
    other_hospitals_sentence,
    pretrained_info,
    summarize_audit,
    usage_notes,
)
from reslink.errors import BundleError

FIGURE = {"estimate": 0.9576, "ci_low": 0.9497, "ci_high": 0.9639, "n": 9, "method": "BCa"}
AUDIT = {
    "images": 3693,
    "classes": {"Healthy": 1834, "Tumor": 1859},
    "groups": 2157,
    "patients": 0,
    "near_duplicates": [["a.png", "b.png"], ["c.png", "d.png", "e.png"]],
    "near_duplicate_pairs": [{}, {}, {}],
    "label_conflicts": [["a.png", "b.png"]],
    "shortcuts": [
        {"probe": "outside_head", "balanced_accuracy": FIGURE, "chance": 0.5, "failed": True},
        {"probe": "file_metadata", "balanced_accuracy": FIGURE | {"ci_low": None}, "chance": 0.5, "failed": False},
    ],
    "burned_in_text": ["a.png"],
    "suspected_label_errors": [{}],
    "skipped_checks": [{"check": "identity", "reason": "no header"}],
    "checks": [{"check": "outside_head", "failed": True}, {"check": "group_leakage", "failed": False}],
    "verdict": "fail",
}


def test_an_audit_becomes_sentences_without_file_names() -> None:
    found = summarize_audit(AUDIT)
    classes = "Healthy 1,834, Tumor 1,859"
    assert found[0] == f"3,693 images ({classes}) in 2,157 groups of patients and near duplicates, patients not given."
    assert "5 images have at least one (2 groups, 3 pairs)" in found[1]
    assert found[2] == "Near duplicates with different labels: 1 groups with 2 images."
    assert found[3] == (
        "From the pixels outside the head alone a model reaches a balanced accuracy of 0.958"
        " (95 % interval 0.950 to 0.964), chance 0.500. This shortcut fails the audit."
    )
    assert found[4].endswith("of 0.958, chance 0.500.")
    assert found[-2] == "Skipped: identity, because no header."
    assert found[-1] == "Result of the audit: fail (outside_head)."
    assert ".png" not in " ".join(found)


@pytest.mark.parametrize("wrong", [{}, {**AUDIT, "checks": None}, {**AUDIT, "classes": 3}])
def test_other_json_than_an_audit_is_refused(wrong: dict) -> None:
    with pytest.raises(BundleError, match=r"not the result of an audit.*Run reslink audit again"):
        summarize_audit(wrong)


def test_a_users_bundle_has_no_description() -> None:
    assert pretrained_info({"license": "x"}) is None


def test_usage_notes(built_zoo) -> None:
    provenance = Bundle.load(built_zoo / "ct").provenance
    info = pretrained_info(provenance)
    assert info is not None
    assert usage_notes(provenance, has_ood_detector=True) == [info.usage_notes]
    assert usage_notes(provenance, has_ood_detector=False) == [info.usage_notes, NO_OOD_DETECTOR]
    assert usage_notes({}, has_ood_detector=True) == []


def test_a_missing_field_is_named() -> None:
    with pytest.raises(BundleError, match=r"provenance\.pretrained of the bundle cannot be used: title: Field required"):
        pretrained_info({"pretrained": {"usage_notes": "x"}})


def test_missing_components_of_a_decision(built_zoo) -> None:
    assert missing_components(Decision()) == [
        "calibration and operating point",
        "prediction sets",
        "out-of-distribution detector",
    ]
    assert missing_components(Bundle.load(built_zoo / "ct").decision) == []


@pytest.mark.parametrize(
    "text",
    [
        "see /srv/a1/run",
        "'/home/jane/x.png'",
        '{"a": "/mnt/b"}',
        "~/data",
        "C:\\Users\\jane",
        "jane@lab.example",
        "on Box-7 made",
    ],
)
def test_a_private_string_is_found(tmp_path, text) -> None:
    (tmp_path / "MODEL_CARD.md").write_text(f"A card\n{text}\n")
    [found, *_] = find_private_strings(tmp_path, ["box-7", ""])
    assert found.startswith("MODEL_CARD.md: ")


def test_a_private_path_in_a_binary_file_is_found(tmp_path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\xff\x00/home/jane/net.py\x00")
    assert find_private_strings(tmp_path) == ["model.onnx: /home/jane"]


def test_ordinary_text_is_not_private(tmp_path) -> None:
    text = "Healthy / Tumor and/or <https://www.kaggle.com/datasets/a/b> configs/small.yaml, ~5 %, 1/2, RUN/audited/audit.json"
    (tmp_path / "MODEL_CARD.md").write_text(text + "\nboxes, box-70\n")
    assert find_private_strings(tmp_path, ["box-7", "box"]) == []


def test_a_row_of_the_ledger_counts_refused_images_as_not_answered():
    evaluation = {
        "n": 90,
        "n_refused": 10,
        "n_groups": 40,
        "metrics": {"auroc": {"estimate": 0.7}, "accuracy": {"estimate": 0.6}, "ece": {"estimate": 0.21234567}},
        "selective": {"coverage": {"estimate": 8 / 9}, "silent_errors": {"estimate": 2 / 9}},
    }
    stated = {"data": "B", "date": "2026-11-30", "sha256": "ab" * 32, "seen": True}
    found = OutsideEvaluation.of(evaluation, **stated)
    assert found.n_refused == 10
    assert (found.n, found.n_groups, found.coverage, found.silent_errors, found.ece) == (100, 40, 0.8, 0.2, 0.2123)
    never_abstains = OutsideEvaluation.of(evaluation | {"selective": None, "n_refused": 0}, **stated)
    assert (never_abstains.coverage, never_abstains.silent_errors) == (1.0, 0.4)


def test_the_worst_result_on_other_hospitals_goes_with_every_answer():
    of = {"date": "2026-11-30", "sha256": "ab" * 32, "n_groups": 9, "auroc": None, "ece": None, "coverage": 0.62}
    worst = OutsideEvaluation(data="B", n=663, n_refused=9, accuracy=0.518, silent_errors=0.256, **of)
    better = OutsideEvaluation(data="C", n=50, n_refused=0, accuracy=0.9, silent_errors=0.01, **of)
    own = better.model_copy(update={"accuracy": 0.3, "seen": True})
    assert other_hospitals([better, own, worst]) == [worst, better]
    assert other_hospitals_sentence([better, own, worst]) == (
        "On images of other hospitals, the worst of 2 evaluations, its accuracy as shipped was 0.52 (n 654, without 9 "
        "refused); "
        "of all 663, 62 % got an answer, of which 41 % were wrong."
    )
    assert other_hospitals_sentence([better]) == (
        "On images of other hospitals, its accuracy as shipped was 0.90 (n 50); "
        "of all 50, 62 % got an answer, of which 2 % were wrong."
    )
    assert other_hospitals_sentence([own]) == "No evaluation on images of other hospitals is recorded."
