"""Text around printed predictions."""

from __future__ import annotations

from pathlib import Path

import pytest

from reslink.bundles.bundle import Bundle
from reslink.bundles.pretrained import NO_OOD_DETECTOR
from reslink.cli.console import RESEARCH_USE, Console
from reslink.cli.prediction_text import abstention_cells, error_line, prediction_cells, print_usage_notes


def test_abstention() -> None:
    assert abstention_cells(True, ("far from the data", "two classes")) == ["abstains: far from the data; two classes"]
    assert abstention_cells(False, ()) == abstention_cells(None, None) == []


def test_the_probability_of_the_positive_class_stands_beside_its_threshold() -> None:
    two = {"Healthy": 0.71, "Tumor": 0.29}
    assert prediction_cells("Tumor", two, 0.2242, "decided") == ("Tumor", "P(Tumor) 0.290 (threshold 0.224, decided)")
    assert prediction_cells("Healthy", two, 0.5, "uncertain") == ("Healthy", "P(Tumor) 0.290 (threshold 0.500, uncertain)")
    assert prediction_cells("Healthy", two, None, None) == ("Healthy", "P(Tumor) 0.290")
    abstained = prediction_cells("Tumor", two, 0.2, "no answer", "0.1 to 0.4")
    assert abstained == ("no answer", "P(Tumor) 0.290, 95 % interval 0.1 to 0.4 (threshold 0.200)")
    known = {"caution": "other hospitals: accuracy 0.52"}
    cautioned = prediction_cells("Tumor", two, None, "decided", **known)
    assert cautioned == ("Tumor", "P(Tumor) 0.290 (decided, other hospitals: accuracy 0.52)")
    assert prediction_cells("Tumor", two, None, "no answer", **known)[1] == "P(Tumor) 0.290", "only an answer needs it"
    three = {"a": 0.1, "b": 0.7, "c": 0.2}
    assert prediction_cells("b", three, None, "uncalibrated") == ("b", "P(b) 0.700 (uncalibrated)")


def test_an_error_does_not_repeat_the_path() -> None:
    assert error_line("a.png slice 2", "a.png", "a.png cannot be read") == "a.png slice 2: cannot be read"


def test_usage_notes_need_a_prediction(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = Bundle.load(finished_run)
    print_usage_notes(Console(), bundle)
    assert NO_OOD_DETECTOR in capsys.readouterr().err
    print_usage_notes(Console(), bundle, predicted=False)
    assert capsys.readouterr().err == f"{RESEARCH_USE}\n"
