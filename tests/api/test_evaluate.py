"""``reslink.evaluate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import reslink
from reslink.errors import UsageError


def test_it_writes_and_returns_the_evaluation(
    trained: dict[str, Any], heads: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    result = reslink.evaluate(trained["bundle"], heads, tmp_path / "out", device="cpu")
    assert capfd.readouterr() == ("", "")
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == json.loads(json.dumps(result))
    assert (tmp_path / "out" / "report.html").is_file()
    assert result["data"] == heads.name
    assert f"on {heads.name} · Evaluation report" in (tmp_path / "out" / "report.html").read_text()
    assert (result["n"] + result["n_excluded"], result["leakage"]["status"]) == (28, "excluded")
    assert result["n_excluded"] > 0, "training images are excluded"
    with pytest.raises(UsageError, match="already holds an evaluation"):
        reslink.evaluate(trained["bundle"], heads, tmp_path / "out", device="cpu")
    manifest = reslink.Manifest.open(heads)
    again = reslink.evaluate(trained["bundle"], manifest, tmp_path / "out", device="cpu", overwrite=True)
    assert again["metrics"] == result["metrics"]
