"""``reslink demo``: one folder with heads, a run and predictions for new heads."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from typer.testing import CliRunner

from reslink.cli.main import app

SETTINGS = (
    *("preprocess.size=64", "preprocess.channels=1", "model.stem_dim=8", "model.dims=[8, 16]", "model.depths=[0, 1]"),
    *("model.area_size=4", "trainer.epochs=1", "trainer.workers=0", "trainer.device=cpu", "diagnostics.enabled=false"),
)


def test_it_trains_and_predicts_new_heads(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    words = ["demo", "--out", str(out), "--patients", "12", *(word for setting in SETTINGS for word in ("--set", setting))]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["new_heads"] == str(out / "new" / "predictions.csv")
    assert (out / "report.html").is_file()
    with (out / "new" / "predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(list((out / "new" / "images").rglob("*.png")))
    assert not any(row["error"] for row in rows)
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 2
    assert "add --resume to continue it or --overwrite to replace it" in again.stderr
