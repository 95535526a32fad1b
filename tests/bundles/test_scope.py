"""The scope of a bundle: what it classifies, by what a file states and by the look of an image."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reslink.bundles.bundle import Bundle
from reslink.bundles.scope import Scope, refused_texts, shows_little_brain
from reslink.errors import BundleError
from reslink.imaging.image import Stated
from reslink.imaging.input_statistics import MIN_BRAIN_SHARE
from reslink.imaging.preprocess import Preprocess
from reslink.networks.reslink import ResLink

FLAIR = Scope(modality="MR", sequences=("FLAIR",), planes=("axial",))


@pytest.mark.parametrize(
    ("stated", "reason"),
    [
        (Stated(), None),
        (Stated("MR"), None),
        (Stated("MR", "FLAIR", "axial"), None),
        (Stated("CT"), "the file is CT, and the model is for axial FLAIR MR of the head"),
        (Stated("MR", "T1"), "the sequence is T1, and the model is for axial FLAIR MR of the head"),
        (Stated("MR", None, "sagittal"), "the slice is sagittal, and the model is for axial FLAIR MR of the head"),
        (Stated("MR", "FLAIR", "axial", "localizer, not a slice"), "localizer, not a slice"),
        (Stated("CT", excluded="its header states another part of the body"), "its header states another part of the body"),
    ],
)
def test_a_file_that_states_something_else_is_refused(stated: Stated, reason: str | None) -> None:
    assert FLAIR.refusal(stated) == reason


def test_a_bundle_without_a_modality_refuses_only_what_is_no_slice_of_a_head() -> None:
    for stated in (Stated("CT"), Stated("MR", "T2", "coronal")):
        assert Scope().refusal(stated) is None
    assert Scope().refusal(Stated(excluded="scout, not a slice")) == "scout, not a slice"


@pytest.mark.parametrize("size", [96, 192, 224])
def test_the_look_decides_where_a_file_states_nothing(size: int, head_statistics: Callable[..., np.ndarray]) -> None:
    looks = head_statistics("CT", "T1", "FLAIR", size=size)
    ct = Scope(modality="CT").refusals([Stated()] * 9, looks)
    assert ct[:3] == [None] * 3
    assert set(ct[3:]) == {"it looks like MR, and the model is for CT of the head"}
    mr = Scope(modality="MR").refusals([Stated()] * 9, looks)
    assert set(mr[:3]) == {"it looks like CT, and the model is for MR of the head"}
    assert mr[3:] == [None] * 6


def test_what_a_file_states_wins_over_its_look(head_statistics: Callable[..., np.ndarray]) -> None:
    looks = head_statistics("CT", "T1")
    assert Scope(modality="MR").refusals([Stated("MR")] * 6, looks) == [None] * 6
    assert Scope(modality="CT").refusals([Stated("MR")] * 6, looks) == [Scope(modality="CT").refusal(Stated("MR"))] * 6
    assert Scope(modality="CT").refusals([Stated()] * 6, None) == [None] * 6
    assert Scope().refusals([Stated()] * 6, looks) == [None] * 6


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ([Stated("CT", None, "axial")] * 5, ("CT", (), ("axial",))),
        ([Stated("MR", "T1", "axial"), Stated("MR", "T2", "axial")], ("MR", ("T1", "T2"), ("axial",))),
        ([Stated("MR", "T1"), Stated("MR", None, "axial")], ("MR", (), ())),
        ([Stated("CT"), Stated("MR")], (None, (), ())),
        ([Stated("CT"), Stated()], (None, (), ())),
        ([Stated(None, "T1C+")] * 3, ("MR", ("T1C+",), ())),
        ([Stated("MR", "FLAIR", "axial")] * 999 + [Stated("MR")], ("MR", ("FLAIR",), ("axial",))),
        ([Stated("MR", "FLAIR", "axial")] * 999 + [Stated("MR", "T1", "coronal")], ("MR", ("FLAIR",), ("axial",))),
        ([Stated("MR", "FLAIR", "axial")] * 97 + [Stated("MR", "T1", "axial")] * 3, ("MR", ("FLAIR", "T1"), ("axial",))),
        ([Stated("MR", "FLAIR", "axial")] * 97 + [Stated()] * 3, (None, (), ())),
        ([Stated("CT", None, "axial")] * 97 + [Stated("CT")] * 3, ("CT", (), ())),
        ([], (None, (), ())),
    ],
)
def test_training_files_state_the_scope(stated: list[Stated], expected: tuple[object, ...]) -> None:
    scope = Scope.of_training(stated, None)
    assert (scope.modality, scope.sequences, scope.planes) == expected


def test_the_look_of_training_pictures_gives_the_modality_only_if_they_agree(
    head_statistics: Callable[..., np.ndarray],
) -> None:
    ct, mr = head_statistics("CT"), head_statistics("T1")
    assert Scope.of_training([Stated()] * 3, ct).modality == "CT"
    assert Scope.of_training([Stated()] * 3, mr).source == "recognized in the training images"
    assert Scope.of_training([Stated()] * 6, np.concatenate([ct, mr])).modality is None
    assert Scope.of_training([Stated()] * 3, None).modality is None
    assert Scope.of_training([Stated("CT"), *[Stated()] * 99], ct).modality == "CT", "one DICOM among pictures"
    assert Scope.of_training([Stated("MR"), *[Stated()] * 99], ct).modality == "CT"
    assert Scope.of_training([*[Stated("MR")] * 9, Stated()], ct).modality is None
    assert Scope.of_training([*[Stated("MR")] * 9, Stated()], mr).modality == "MR"


def test_a_bundle_keeps_its_scope(bundle: Bundle, network: ResLink, tmp_path: Path) -> None:
    saved = replace(bundle, scope=FLAIR).save(tmp_path / "bundle", network.state_dict())
    assert Bundle.load(saved.folder).scope == FLAIR  # type: ignore[arg-type]
    assert "Images: axial FLAIR MR of the head; others are refused" in (tmp_path / "bundle" / "MODEL_CARD.md").read_text()


@pytest.mark.parametrize(("name", "text"), [("ct", "axial CT"), ("mri4", "FLAIR or T1C+ MR"), ("lgg", "axial FLAIR MR")])
def test_the_shipped_bundles_state_what_they_are_for(name: str, text: str) -> None:
    assert str(Bundle.load(name).scope) == f"{text} of the head"


def test_a_slice_that_shows_little_brain_is_refused_whatever_its_file_states() -> None:
    scope = Scope(modality="CT").with_brain_rule(Preprocess())
    assert scope.min_brain_share == MIN_BRAIN_SHARE == 0.25
    shares, stated = np.array([0.0, 0.249, 0.25, 0.1]), [Stated(), Stated("CT"), Stated("CT"), Stated("MR")]
    assert scope.refusals(stated, None, shares) == [
        "it shows little brain: 0 % of the head, and the model needs 25 %",
        "it shows little brain: 24 % of the head, and the model needs 25 %",
        None,
        "the file is MR, and the model is for CT of the head",
    ]
    assert scope.refusals(stated, None) == Scope(modality="CT").refusals(stated, None, shares), "not measured, or no rule"


@pytest.mark.parametrize(
    ("scope", "preprocess"),
    [
        (Scope(), Preprocess()),
        (Scope(modality="MR"), Preprocess()),
        (Scope(modality="CT"), Preprocess(isolate_head=False)),
        (Scope(modality="CT"), Preprocess(window="bone")),
    ],
)
def test_brain_is_not_required_where_it_is_not_recognized(
    bundle: Bundle, network: ResLink, tmp_path: Path, scope: Scope, preprocess: Preprocess
) -> None:
    assert scope.with_brain_rule(preprocess) == scope
    with pytest.raises(
        BundleError, match=r"scope.min_brain_share is 0.25 in a bundle for .*Brain is recognized in isolated heads"
    ):
        replace(bundle, scope=scope.model_copy(update={"min_brain_share": 0.25}), preprocess=preprocess)


def test_the_rule_is_stored_in_the_bundle_and_on_its_card_and_a_bundle_without_it_stays_the_same(
    bundle: Bundle, network: ResLink, tmp_path: Path
) -> None:
    ruled = replace(bundle, scope=Scope(modality="CT").with_brain_rule(bundle.preprocess))
    ruled.save(tmp_path / "ruled", network.state_dict())
    replace(bundle, scope=Scope(modality="CT")).save(tmp_path / "plain", network.state_dict())
    texts = {name: (tmp_path / name / "bundle.json").read_text() for name in ("ruled", "plain")}
    assert (
        Bundle.load(tmp_path / "ruled").scope.min_brain_share == json.loads(texts["ruled"])["scope"]["min_brain_share"] == 0.25
    )
    assert "min_brain_share" not in texts["plain"]
    assert Bundle.load(tmp_path / "plain").scope.min_brain_share is None
    cards = [(tmp_path / name / "MODEL_CARD.md").read_text() for name in ("ruled", "plain")]
    assert ["little brain, less than 25 % of the head" in card for card in cards] == [True, False]


def test_a_model_for_ct_refuses_an_image_whose_user_states_a_sequence() -> None:
    ct = Scope(modality="CT")
    assert ct.refusal(Stated(None, "T1")) == "the sequence T1 is of MR, and the model is for CT of the head"
    assert ct.refusal(Stated("CT", "angiography")) is None


def test_slices_with_little_brain_are_counted_together() -> None:
    few = "it shows little brain: {} % of the head, and the model needs 25 %"
    refused = {"a.dcm": few.format(3), "b.dcm": few.format(12), "c.dcm": "the file is MR"}
    assert refused_texts({"n_refused": 3, "refused": refused}) == [
        "2 images refused and not counted: it shows little brain",
        "1 image refused and not counted: the file is MR",
    ]
    assert shows_little_brain([few.format(3)])
    assert not shows_little_brain(["the file is MR"])
    assert not shows_little_brain(None)


def test_refused_images_are_counted_by_reason_or_without_the_reasons() -> None:
    """A bundle does not store the names of the refused images, and so not the reasons."""
    refused = {"a.dcm": "the file is CT", "b.dcm": "the sequence is T1", "c.dcm": "the file is CT"}
    assert refused_texts({"n_refused": 3, "refused": refused}) == [
        "2 images refused and not counted: the file is CT",
        "1 image refused and not counted: the sequence is T1",
    ]
    assert refused_texts({"n_refused": 3}) == ["3 images refused and not counted"]
    assert refused_texts({"n_refused": 0, "refused": {}}) == refused_texts({}) == []


def test_the_sentence_with_every_answer_names_images_and_patients() -> None:
    scope = Scope(modality="MR", sequences=("FLAIR",), planes=("axial",), population="adults with a lower-grade glioma")
    assert scope.sentence == "The model is for axial FLAIR MR of the head; patients: adults with a lower-grade glioma."
    assert Scope().sentence == "The model is for CT or MR of the head; patients: not described."
