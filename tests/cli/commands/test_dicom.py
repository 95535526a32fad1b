"""``reslink dicom`` without an archive."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import reslink
from reslink.cli.main import app

sys.path.insert(0, str(Path(__file__).parents[2] / "serving"))

import pacs

import conftest as serving


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return serving.make_bundle(tmp_path_factory.mktemp("cli") / "tiny")


def run(*words):
    return CliRunner().invoke(app, ["dicom", *map(str, words)])


def test_answer_writes_the_results(bundle, tmp_path):
    series = pacs.write(tmp_path / "series", pacs.series(1))
    done = run("answer", bundle, series, "--out", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["slices"] == 10
    assert found["ci_low"] <= found["score"] <= found["ci_high"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["map.dcm", "picture.dcm", "report.dcm"]
    again = run("answer", bundle, series, "--out", tmp_path / "out")
    assert again.exit_code == 2
    assert "already holds results" in again.stderr
    replaced = run("answer", bundle, series, "--out", tmp_path / "out", "--overwrite")
    assert replaced.exit_code == 0
    assert "Research use only" in replaced.stderr


def test_positions_count_all_slices_of_the_series(bundle, tmp_path):
    slices = pacs.series(1)
    for one in slices[:2]:
        one.PixelData = np.full_like(one.pixel_array, -1024 - int(one.RescaleIntercept)).tobytes()  # air, no head
    series = pacs.write(tmp_path / "series", slices)
    done = run("answer", bundle, series, "--out", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    [expected] = reslink.predict(bundle, series, series="only")
    assert found["slices"] == 8
    assert found["used"] == list(expected.result.used)


def test_an_incomplete_series_is_marked_or_refused(bundle, tmp_path):
    slices = pacs.series(1, size=64)
    series = pacs.write(tmp_path / "series", slices[:4] + slices[6:])
    refused = run("answer", bundle, series, "--out", tmp_path / "out", "--incomplete", "refuse")
    assert refused.exit_code == 1
    assert "the series is incomplete: 1 gap between its slices" in refused.stderr
    assert not (tmp_path / "out").exists()
    done = run("answer", bundle, series, "--out", tmp_path / "out")
    assert done.exit_code == 0
    assert "The series is incomplete; the model abstains." in done.stderr
    found = json.loads(run("answer", bundle, series, "--out", tmp_path / "out", "--overwrite", "--json").stdout)
    assert found["abstain"] is True
    assert len(found["incomplete"]) == 1
    whole = json.loads(run("answer", bundle, pacs.write(tmp_path / "whole", slices), "--out", tmp_path / "o", "--json").stdout)
    assert whole["incomplete"] == []


def test_a_series_of_another_body_part_ends_with_1(bundle, tmp_path):
    series = pacs.write(tmp_path / "series", pacs.series(1, BodyPartExamined="CHEST"))
    done = run("answer", bundle, series, "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert "another part of the body" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--send-to", "nowhere"), "'nowhere' is not the address of an archive"),
        (("--send-to", "A@b:1", "--ae-title", "far too long a title"), "is not a valid AE title"),
        (("--send-to", "A@b:1", "--tls-cert", "cert.pem"), "Only one of --tls-cert and --tls-key was given"),
        (("--send-to", "A@b:1", "--tls-ca", "ca.pem"), "--tls-ca was given without --tls-cert"),
        (("--send-to", "A@b:1", "--map", "cams"), "cams"),
    ],
)
def test_wrong_usage_of_listen_ends_with_2(bundle, tmp_path, words, message):
    done = run("listen", bundle, "--queue", tmp_path / "queue", *words)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not (tmp_path / "queue").exists()


def test_a_url_that_is_not_a_dicomweb_root_ends_with_2(bundle, tmp_path):
    done = run("watch", bundle, "--queue", tmp_path / "queue", "--url", "pacs:8042")
    assert done.exit_code == 2
    assert "is not a DICOMweb root" in done.stderr
