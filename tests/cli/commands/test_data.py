"""The verb data and the studies of a bundle, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture
from typer.testing import CliRunner, Result

from reslink.cli.commands.experiment_bundle import mapping
from reslink.cli.main import app
from reslink.datasets.public.registry import sources
from reslink.errors import UsageError


def invoke(*words: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, [str(word) for word in words])


def test_data_list_is_complete_in_json_and_says_what_is_wrong_for_people() -> None:
    found = json.loads(invoke("data", "list", "--json").stdout)
    assert [entry["name"] for entry in found] == list(sources())
    text = invoke("data", "list", "nickparvar").stdout
    assert "It is figshare, Sartaj and Br35H put together" in text
    assert "not stated by its publisher" in text


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    result = invoke("data", "fetch", "figshar", "--out", "x")
    assert result.exit_code == 2
    assert "Did you mean 'figshare'" in result.stderr


def test_a_licence_cannot_be_agreed_to_without_a_terminal(tmp_path: Path) -> None:
    result = invoke("data", "fetch", "figshare", "--out", tmp_path / "x")
    assert result.exit_code == 2
    assert "CC BY 4.0" in result.stderr
    assert "--accept-licence" in result.stderr
    assert not (tmp_path / "x").exists()


def test_offline_opens_no_connection(tmp_path: Path) -> None:
    result = invoke("data", "fetch", "figshare", "--out", tmp_path / "x", "--accept-licence", "--offline")
    assert result.exit_code == 2
    assert "--offline" in result.stderr


def test_a_set_that_must_be_asked_for_says_where(tmp_path: Path) -> None:
    result = invoke("data", "fetch", "ct_ich", "--out", tmp_path / "x")
    assert result.exit_code == 2
    assert "physionet.org" in result.stderr


def test_data_import_writes_a_manifest_and_warns_of_what_is_known(tmp_path: Path) -> None:
    for part in ("Training", "Testing"):
        for name in ("glioma", "meningioma", "notumor", "pituitary"):
            (tmp_path / part / name).mkdir(parents=True)
            Picture.fromarray(np.full((9, 9), 80, np.uint8)).save(tmp_path / part / name / "1.jpg")
    result = invoke("data", "import", tmp_path, "--binary")
    assert result.exit_code == 0
    assert result.stdout.strip() == str(tmp_path / "manifest.csv")
    assert "none of these is outside data for it" in result.stderr
    again = invoke("data", "import", tmp_path, "--json", "--overwrite")
    value = json.loads(again.stdout)
    assert (value["source"], value["counts"]["no_tumor"]) == ("nickparvar", 2)
    assert value["known_faults"]


def test_studies_of_a_bundle_explain_themselves() -> None:
    for name in ("robustness", "transfer"):
        result = invoke("study", name, "--help")
        assert result.exit_code == 0
        assert f"reslink study {name}" in result.stdout.partition("Examples:")[2]


def test_a_bundle_that_is_none_is_refused(tmp_path: Path) -> None:
    result = invoke("study", "robustness", tmp_path, tmp_path, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "is not a bundle" in result.stderr


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["a=B", "c = D"], {"a": "B", "c": "D"}),
        (["a="], {"a": None}),
        (["a=B", "a=B"], {"a": "B"}),
        (["a=b=c"], {"a": "b=c"}),
        ([], {}),
    ],
)
def test_a_map_is_label_and_class(texts: list[str], found: dict[str, str | None]) -> None:
    assert mapping(texts) == found


@pytest.mark.parametrize("texts", [["glioma"], ["=Tumor"], ["a=B", "a=C"]])
def test_a_map_that_says_nothing_or_two_things_is_refused(texts: list[str]) -> None:
    with pytest.raises(UsageError, match="--map"):
        mapping(texts)
