"""Images in a storage that refuses a tenth of the requests: nothing is lost, and the output is that of one process."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import reslink

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::reslink.imaging.limits.ImagingWarning")]


@pytest.fixture
def stored(write_toy_heads: Any, s3: Any, tmp_path: Path) -> Path:
    """A table of images in S3, one of which is broken."""
    (tmp_path / "heads").mkdir()
    folder = Path(write_toy_heads(tmp_path / "heads", 30))
    min(folder.rglob("*.png")).write_bytes(b"\x89PNG no picture")
    cases = reslink.Manifest.open(folder).cases
    rows = [(s3.put(f"stored/{case.name}", case.path.read_bytes()), case.label) for case in cases]
    table = tmp_path / "table.csv"
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerows([("path", "label"), *rows])
    drawn = random.Random(0)
    s3.reset()
    s3.refuse = lambda *_: drawn.random() < 0.1
    return table


def run(*words: str | Path, code: int) -> None:
    """Runs the command in a process of its own, so that the tasks have its environment."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "reslink", *map(str, words)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr


@pytest.mark.skipif(find_spec("ray") is None and os.environ.get("CI") != "true", reason="ray is not installed")
def test_predictions_and_an_audit_of_images_in_a_busy_storage(stored: Path, s3: Any, tmp_path: Path) -> None:
    predict = ("predict", "ct", "s3://heads/stored/", "--series", "each", "--csv")
    run(*predict, tmp_path / "one.csv", code=1)
    run(*predict, tmp_path / "several.csv", "--on", "ray", "--shard-size", "20", code=1)
    assert (tmp_path / "several.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
    refused = len(s3.requests)
    run("audit", stored, "--out", tmp_path / "one", code=1)
    run("audit", stored, "--out", tmp_path / "several", "--on", "ray", "--shard-size", "20", code=1)
    one, several = (json.loads((tmp_path / name / "audit.json").read_text()) for name in ("one", "several"))
    assert several == one
    assert len(one["files"]["corrupt"]) == 1
    assert len(s3.requests) > refused > 30


@pytest.mark.skipif(find_spec("ray") is None and os.environ.get("CI") != "true", reason="ray is not installed")
def test_files_that_could_not_be_fetched_are_fetched_by_the_same_command(stored: Path, s3: Any, tmp_path: Path) -> None:
    s3.reset()
    predict = ("predict", "ct", "s3://heads/stored/", "--series", "each", "--batch-size", "1", "--csv")
    run(*predict, tmp_path / "one.csv", code=1)
    with (tmp_path / "one.csv").open(newline="") as stream:
        last = list(csv.DictReader(stream))[-1]["path"].rpartition("/")[2]
    s3.forbid = lambda method, path: method == "GET" and path.endswith(last)
    several = (*predict, tmp_path / "several.csv", "--on", "ray", "--shard-size", "8")
    run(*several, code=1)
    assert last in (tmp_path / "several.csv").read_text().splitlines()[-1]
    assert (tmp_path / "several.csv").read_bytes() != (tmp_path / "one.csv").read_bytes()
    s3.reset()
    run(*several, code=1)
    assert (tmp_path / "several.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
    assert len([path for _, path in s3.requests if path.endswith(".png")]) <= 8, "other parts are kept"
    assert not list(tmp_path.glob(".*.parts"))
