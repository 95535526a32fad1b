"""The page of a run, opened in a real browser without a network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def chromium() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None and os.environ.get("CI") != "true":
        pytest.skip("no chromium here: scripts/install-debian-packages installs it")
    assert found is not None, "CI needs chromium: scripts/install-debian-packages"
    return found


def browse(chromium: str, page: Path, profile: Path, *options: str) -> subprocess.CompletedProcess[str]:
    fixed = ("--headless=new", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND")
    words = [chromium, *fixed, f"--user-data-dir={profile}", "--enable-logging=stderr", *options, page.as_uri()]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)


def test_the_page_is_drawn_whole(run: Path, chromium: str, tmp_path: Path) -> None:
    shot = tmp_path / "page.png"
    browse(chromium, run / "report.html", tmp_path / "profile", f"--screenshot={shot}", "--window-size=1200,3000")
    with Image.open(shot) as picture:
        pixels = np.asarray(picture.convert("L"))
    assert pixels.shape == (3000, 1200)
    assert pixels[:600].std() > 5, "the top of the page is empty"


def test_the_browser_has_no_complaint_and_every_picture_is_there(run: Path, chromium: str, tmp_path: Path) -> None:
    done = browse(chromium, run / "report.html", tmp_path / "profile", "--dump-dom")
    assert re.findall(r"CONSOLE.*", done.stderr) == []
    assert re.search("research use only", done.stdout, re.IGNORECASE)
    assert "<svg" in done.stdout
    assert len(re.findall(r'<img[^>]+src="data:image/png;base64,', done.stdout)) == len(re.findall("<img", done.stdout)) > 0
