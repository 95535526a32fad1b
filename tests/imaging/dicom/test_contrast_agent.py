"""Whether the header of a T1 image states a contrast agent."""

from __future__ import annotations

import pytest
from pydicom import Dataset

from reslink.imaging.dicom.contrast_agent import has_contrast_agent


def header(description: str = "AX T1", **attributes: object) -> Dataset:
    dataset = Dataset()
    dataset.SeriesDescription = description
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.mark.parametrize(
    "description",
    [
        *("T1 POST", "T1 POSTCONTRAST", "T1 post-contrast", "T1 POSTGAD", "T1_postKM", "BRAVO post", "T1 MPRAGE POST-OP +C"),
        *("T1 + CONTRAST", "T1 W CONTRAST", "T1 W/ CONTRAST", "T1 with_contrast", "T1 Kontrast", "t1_mpr_iso_c+", "AX T1 FS+C"),
        *("AX T1 FS+GAD", "T1 W GAD", "AX T1 w/Gad", "T1_SE_Gd-DTPA", "t1_tra_nach_KM", "T1 tra +KM", "T1 MDC", "T1 INJ"),
        *("CE-T1w", "T1w_ce", "T1ce", "t1wce", "t1c_mprage", "T1 preop +C"),
    ],
)
def test_series_after_an_agent(description: str) -> None:
    assert has_contrast_agent(header(description)) is True


@pytest.mark.parametrize(
    "description",
    [
        *("T1", "T1 MPRAGE SAG", "T1 SPACE", "T1 slice", "T1 cervical", "T1+cor", "T1 post op", "T1 postop", "T1 post fossa"),
        *("T1 POSTERIOR FOSSA", "T1 POST SURGERY", "T1 post treatment", "T1 injury", "T1 PRE", "T1 PRE GAD", "T1 pre_gd"),
        *("T1 PREGAD", "PRE CONTRAST T1", "T1 W/O GAD", "T1 WO GAD", "T1 no gad", "T1 NON CONTRAST", "T1_NOCONTRAST"),
        *("T1 without IV contrast", "t1_tra_ohne_KM", "t1 vor KM", "t1 nativ", "T1 sans gado", "T1 sin contraste", "T1 C-"),
    ],
)
def test_series_without_an_agent_or_before_it(description: str) -> None:
    assert has_contrast_agent(header(description)) is False


@pytest.mark.parametrize("description", ["T1 PRE & POST GAD", "T1 W/WO", "T1 with and without contrast"])
def test_the_name_of_a_series_can_contradict_itself(description: str) -> None:
    assert has_contrast_agent(header(description)) is None


@pytest.mark.parametrize(
    ("agent", "expected"),
    [
        *((name, True) for name in ("GADAVIST", "10ML GADAVIST", "0.1 mmol/kg Dotarem", "Nephro-safe", "yes")),
        *((name, False) for name in ("NO", "n", "None", "Nein", "NO CONTRAST GIVEN", "non-contrast", "w/o", "ohne", "0", "-")),
        *((name, None) for name in ("", "ANONYMIZED", "Removed", "unknown", "not stated", "N/A", "XXX")),
    ],
)
def test_the_agent_decides_where_the_name_of_the_series_does_not(agent: str, expected: bool | None) -> None:
    assert has_contrast_agent(header(ContrastBolusAgent=agent)) is expected


def test_the_agent_of_an_enhanced_object_is_a_sequence() -> None:
    assert has_contrast_agent(header(ContrastBolusAgentSequence=[Dataset()])) is True
    assert has_contrast_agent(header(ContrastBolusAgentSequence=[])) is None


def test_a_series_before_the_agent_that_the_header_names_is_doubtful() -> None:
    assert has_contrast_agent(header("AX T1 PRE", ContrastBolusAgent="GADAVIST")) is None
    assert has_contrast_agent(header("AX T1 POST", ContrastBolusAgent="none")) is True


def test_the_name_of_a_protocol_can_be_that_of_the_study() -> None:
    assert has_contrast_agent(header("AX T1 PRE", ProtocolName="BRAIN WITH CONTRAST")) is False
    assert has_contrast_agent(header("AX T1", ProtocolName="BRAIN W WO CONTRAST")) is None
    assert has_contrast_agent(header("AX T1", ProtocolName="BRAIN WITHOUT CONTRAST")) is False
    assert has_contrast_agent(header("", ProtocolName="t1_tra_km")) is True
