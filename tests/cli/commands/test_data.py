"""The verb data and the studies of a bundle, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image as Picture
from typer.testing import CliRunner, Result

from reslink.cli.main import app
from reslink.datasets.public.registry import public_datasets


def invoke(*words: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, [str(word) for word in words])


def test_data_list_is_complete_in_json_and_lists_known_issues_for_people() -> None:
    found = json.loads(invoke("data", "list", "--json").stdout)
    assert [entry["name"] for entry in found] == list(public_datasets())
    text = invoke("data", "list", "nickparvar").stdout
    assert "It combines figshare, Sartaj and Br35H" in text
    assert "not published" in text


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    result = invoke("data", "download", "figshar", "--out", "x")
    assert result.exit_code == 2
    assert "Did you mean 'figshare'" in result.stderr


def test_a_licence_cannot_be_agreed_to_without_a_terminal(tmp_path: Path) -> None:
    result = invoke("data", "download", "figshare", "--out", tmp_path / "x")
    assert result.exit_code == 2
    assert "CC BY 4.0" in result.stderr
    assert "--accept-license" in result.stderr
    assert not (tmp_path / "x").exists()


def test_offline_opens_no_connection(tmp_path: Path) -> None:
    result = invoke("data", "download", "figshare", "--out", tmp_path / "x", "--accept-license", "--offline")
    assert result.exit_code == 2
    assert "--offline" in result.stderr


def test_a_data_set_that_needs_an_account_names_its_page(tmp_path: Path) -> None:
    result = invoke("data", "download", "ct_ich", "--out", tmp_path / "x")
    assert result.exit_code == 2
    assert "physionet.org" in result.stderr


def test_data_import_writes_a_manifest_and_warns_of_known_issues(tmp_path: Path) -> None:
    for part in ("Training", "Testing"):
        for name in ("glioma", "meningioma", "notumor", "pituitary"):
            (tmp_path / part / name).mkdir(parents=True)
            Picture.fromarray(np.full((9, 9), 80, np.uint8)).save(tmp_path / part / name / "1.jpg")
    result = invoke("data", "import", tmp_path, "--binary")
    assert result.exit_code == 0
    assert result.stdout.strip() == str(tmp_path / "manifest.csv")
    assert "do not use these for external validation" in result.stderr
    again = invoke("data", "import", tmp_path, "--json", "--overwrite")
    value = json.loads(again.stdout)
    assert (value["source"], value["counts"]["no_tumor"]) == ("nickparvar", 2)
    assert value["known_issues"]


def test_help_of_experiments_that_evaluate_a_bundle() -> None:
    for name in ("experiment robustness", "external"):
        result = invoke(*name.split(), "--help")
        assert result.exit_code == 0
        assert f"reslink {name}" in result.stdout.partition("Examples:")[2]


def test_a_bundle_that_is_none_is_refused(tmp_path: Path) -> None:
    result = invoke("experiment", "robustness", tmp_path, tmp_path, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "is not a bundle" in result.stderr
