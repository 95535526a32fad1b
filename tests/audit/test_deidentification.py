"""The Basic Application Confidentiality Profile, applied to a data set."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from reslink.audit.deidentification import action_of, deidentify, is_empty_or_dummy, name_of


def patient() -> Dataset:
    dataset = Dataset()
    dataset.PatientName, dataset.PatientID, dataset.StudyDate = "Doe^Jane", "4711", "20200101"
    dataset.SOPInstanceUID, dataset.Modality, dataset.PatientComments = "1.2.3", "CT", "seen by Dr. Roe"
    reference = Dataset()
    reference.ReferencedSOPInstanceUID = "1.2.3"
    dataset.SourceImageSequence = [reference]
    dataset.private_block(0x0009, "ACME", create=True).add_new(0x01, "LO", "Doe")
    return dataset


def test_identifying_attributes_are_emptied_replaced_or_removed() -> None:
    dataset = patient()
    changed = deidentify(dataset, lambda uid: f"2.25.{len(uid)}")
    assert {"PatientName", "PatientID", "PatientComments", "StudyDate", "SOPInstanceUID", "private attributes"} <= set(changed)
    assert changed == sorted(set(changed))
    assert not dataset.PatientName
    assert dataset.PatientID == "ANONYMIZED"
    assert "PatientComments" not in dataset
    assert not any(element.tag.is_private for element in dataset)
    assert dataset.Modality == "CT"
    assert dataset.SOPInstanceUID == dataset.SourceImageSequence[0].ReferencedSOPInstanceUID == "2.25.5"
    assert (dataset.PatientIdentityRemoved, dataset.LongitudinalTemporalInformationModified) == ("YES", "REMOVED")
    assert "Doe" not in str(dataset)


def test_a_second_pass_changes_only_uids() -> None:
    dataset = patient()
    deidentify(dataset, lambda _: "2.25.1")
    assert set(deidentify(dataset, lambda _: "2.25.2")) <= {"SOPInstanceUID", "ReferencedSOPInstanceUID", "SourceImageSequence"}


@pytest.mark.parametrize(
    ("tag", "action"), [((0x0008, 0x0060), None), ((0x0009, 0x1001), "X"), ((0x0008, 0x0018), "U"), ((0x6002, 0x3000), "X")]
)
def test_the_action_of_an_attribute(tag: tuple[int, int], action: str | None) -> None:
    assert action_of(Tag(*tag)) == action


def test_names_and_dummies() -> None:
    assert name_of(Tag(0x0010, 0x0010)) == "PatientName"
    assert name_of(Tag(0x0009, 0x1001)) == "(0009,1001)"
    dataset = patient()
    assert not is_empty_or_dummy(dataset["PatientName"])
    dataset.PatientName = ""
    assert is_empty_or_dummy(dataset["PatientName"])
