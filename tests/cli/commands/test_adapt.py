"""``reslink adapt``: what it says about the network; the adaptation is tested with ``reslink.adapt``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from reslink.api import adapt as api
from reslink.cli.commands import adapt as command
from reslink.cli.main import app


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"batch_norm_weight": 0.5}, "BatchNorm: these images have the weight 0.50."),
        (
            {"head_strength": 0.01, "head_cross_entropy": {"before": 0.9, "after": 0.25}},
            "Head: fitted with penalty 0.01; cross-entropy on held-out groups 0.900 before, 0.250 after.",
        ),
        (
            {"head_strength": None, "head_cross_entropy": {"before": 0.3, "after": 0.3}},
            "Head: unchanged, no fit was better; cross-entropy on held-out groups 0.300 before, 0.300 after.",
        ),
    ],
)
def test_what_was_changed_is_said(entries: dict[str, Any], expected: str) -> None:
    text = command._adapted_text({"images": 40, "groups": 12, **entries})
    assert text == f"Adapted on 40 images in 12 groups. {expected}"


def test_options_reach_the_function(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: dict[str, Any] = {}

    def adapt(bundle: str, data: Path, out: Path, **options: Any) -> dict[str, Any]:
        given.update(options, bundle=bundle, data=data, out=out)
        return {"adapted": None}

    monkeypatch.setattr(api, "adapt", adapt)
    monkeypatch.setattr(command, "print_calibration", lambda *_, **__: None)
    words = ["--out", str(tmp_path / "new"), "--head", "--batch-norm", "--seed", "3", "--per-class", "--coverage", "0.9"]
    result = CliRunner().invoke(app, ["adapt", "ct", "local.csv", *words, "--split", "val", "--unit", "hu"])
    assert result.exit_code == 0, result.stderr
    assert (given["bundle"], given["data"], given["out"]) == ("ct", Path("local.csv"), tmp_path / "new")
    assert (given["head"], given["batch_norm"], given["seed"], given["split"]) == (True, True, 3, "validation")
    assert (given["per_class"], given["per_source"], given["coverage"], given["unit"]) == (True, False, 0.9, "HU")


def test_a_folder_for_the_new_bundle_is_needed() -> None:
    result = CliRunner().invoke(app, ["adapt", "ct", "local.csv"])
    assert result.exit_code == 2
    assert "--out" in result.stderr
