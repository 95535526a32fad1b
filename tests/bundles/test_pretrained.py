"""What a shipped bundle says of itself, and what gives away where it was made."""

from __future__ import annotations

import pytest

from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.decision import Decision
from reslink.bundles.pretrained import NO_GATE, audit_findings, missing_parts, read_first, shipping_of, traces
from reslink.errors import BundleError

FIGURE = {"estimate": 0.9576, "ci_low": 0.9497, "ci_high": 0.9639, "n": 9, "method": "BCa"}
AUDIT = {
    "images": 3693,
    "classes": {"Healthy": 1834, "Tumor": 1859},
    "groups": 2157,
    "patients": 0,
    "twins": [["a.png", "b.png"], ["c.png", "d.png", "e.png"]],
    "twin_pairs": [{}, {}, {}],
    "label_conflicts": [["a.png", "b.png"]],
    "shortcuts": [
        {"probe": "outside_head", "balanced_accuracy": FIGURE, "chance": 0.5, "failed": True},
        {"probe": "file_facts", "balanced_accuracy": FIGURE | {"ci_low": None}, "chance": 0.5, "failed": False},
    ],
    "burned_in_text": ["a.png"],
    "suspected_label_errors": [{}],
    "not_done": [{"check": "identity", "reason": "no header"}],
    "gates": [{"gate": "outside_head", "failed": True}, {"gate": "leaks", "failed": False}],
    "verdict": "fail",
}


def test_an_audit_becomes_sentences_without_file_names() -> None:
    found = audit_findings(AUDIT)
    assert (
        found[0] == "3,693 images (Healthy 1,834, Tumor 1,859) in 2,157 groups of patients and near copies, patients not given."
    )
    assert "5 images have at least one (2 sets, 3 pairs)" in found[1]
    assert found[2] == "Near copies under more than one label: 1 sets with 2 images."
    assert found[3] == (
        "From the pixels outside the head alone a forest reaches a balanced accuracy of 0.958 (95 % interval 0.950 to 0.964),"
        " chance 0.500. This shortcut fails the audit."
    )
    assert found[4].endswith("of 0.958, chance 0.500.")
    assert found[-2] == "Not done: identity, as no header."
    assert found[-1] == "Verdict of the audit: fail (outside_head)."
    assert ".png" not in " ".join(found)


@pytest.mark.parametrize("wrong", [{}, {**AUDIT, "gates": None}, {**AUDIT, "classes": 3}])
def test_what_is_no_audit_is_said(wrong: dict) -> None:
    with pytest.raises(BundleError, match=r"not the result of an audit.*Run reslink audit again"):
        audit_findings(wrong)


def test_a_bundle_of_a_user_says_nothing() -> None:
    assert shipping_of({"licence": "x"}) is None


def test_what_is_read_first(built_zoo) -> None:
    provenance = Bundle.load(built_zoo / "ct").provenance
    shipped = shipping_of(provenance)
    assert shipped is not None
    assert read_first(provenance, gated=True) == [shipped.about]
    assert read_first(provenance, gated=False) == [shipped.about, NO_GATE]
    assert read_first({}, gated=True) == []


def test_a_part_that_is_missing_is_named() -> None:
    with pytest.raises(BundleError, match=r"provenance\.shipped of the bundle cannot be used: title: Field required"):
        shipping_of({"shipped": {"about": "x"}})


def test_parts_that_a_decision_lacks(built_zoo) -> None:
    assert missing_parts(Decision()) == ["calibration and operating point", "prediction sets", "out-of-distribution gate"]
    assert missing_parts(Bundle.load(built_zoo / "ct").decision) == []


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
def test_a_trace_is_found(tmp_path, text) -> None:
    (tmp_path / "MODEL_CARD.md").write_text(f"A card\n{text}\n")
    [found, *_] = traces(tmp_path, ["box-7", ""])
    assert found.startswith("MODEL_CARD.md: ")


def test_a_trace_in_a_file_that_is_no_text_is_found(tmp_path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\xff\x00/home/jane/net.py\x00")
    assert traces(tmp_path) == ["model.onnx: /home/jane"]


def test_what_is_no_trace(tmp_path) -> None:
    text = "Healthy / Tumor and/or <https://www.kaggle.com/datasets/a/b> recipes/small.yaml, ~5 %, 1/2, RUN/audited/audit.json"
    (tmp_path / "MODEL_CARD.md").write_text(text + "\nboxes, box-70\n")
    assert traces(tmp_path, ["box-7", "box"]) == []
