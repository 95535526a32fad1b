"""Two clinics at once: split, audit, corrections, training, and their sources in every result."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import reslink
from reslink.cli.commands.audit import _informational
from reslink.cli.main import app
from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort
from reslink.errors import CheckFailedError, UsageError
from reslink.files import sha256

pytestmark = pytest.mark.usefixtures("few_trees", "without_onnx_model")

SETTINGS = (
    "preprocess.size=64",
    "preprocess.channels=1",
    "model.stem_dim=8",
    "model.dims=[8, 16]",
    "model.depths=[0, 1]",
    "trainer.epochs=1",
    "trainer.batch_size=8",
    "trainer.workers=0",
    "trainer.device=cpu",
    "diagnostics.enabled=false",
)
FLIPPED = 3
"""Number of copies with the other label in the second clinic."""


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def clinics(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Heads of two clinics; south has mirrored copies of the first heads of north, some under the other label."""
    root = tmp_path_factory.mktemp("clinics")
    for name, seed in (("north", 3), ("south", 4)):
        make_cohort(root / name, PhantomSettings(patients=16, slices=1, size=128, seed=seed))
    north, south = rows_of(root / "north" / "manifest.csv"), rows_of(root / "south" / "manifest.csv")
    kept = [f"{row['path']},{row['label']},{row['patient_id']}" for row in north]
    (root / "north" / "manifest.csv").write_text("\n".join(["path,label,patient_id", *kept]) + "\n")
    words = {"Healthy": "clear", "Tumor": "bleed"}
    lines = ["path,Class,MRN", *(f"{row['path']},{words[row['label']]},{row['patient_id']}" for row in south)]
    for i, row in enumerate(north[:6]):
        pixels = np.array(Image.open(root / "north" / row["path"]))[:, ::-1]
        Image.fromarray(pixels).save(root / "south" / f"copy_{i}.png")
        other = {"Healthy": "bleed", "Tumor": "clear"}[row["label"]] if i < FLIPPED else words[row["label"]]
        lines.append(f"copy_{i}.png,{other},copy{i}")
    (root / "south" / "manifest.csv").write_text("\n".join(lines) + "\n")
    return [root / "north", root / "south"]


MAP = ["clear=Healthy", "south:bleed=Tumor"]


@pytest.fixture(scope="module")
def audited(clinics: list[Path], tmp_path_factory: pytest.TempPathFactory, few_trees: None) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("audit") / "audited"
    return out, reslink.audit(clinics, map=MAP, out=out, labels_from="north", workers=0)


def test_the_audit_compares_the_labels_and_lists_corrections(audited: tuple[Path, dict[str, Any]]) -> None:
    out, result = audited
    assert result["images"] == 38
    assert result["sources"]["counts"]["north"] == {"Healthy": 8, "Tumor": 8}
    assert result["sources"]["labels"][0]["cramers_v"] < 0.2
    assert len(result["source_conflicts"]) == FLIPPED
    assert {tuple(sorted(pair["sources"])) for pair in result["source_conflicts"]} == {("north", "south")}
    assert all(pair["labels"][0] != pair["labels"][1] for pair in result["source_conflicts"])
    rows = rows_of(out / "label_corrections.csv")
    assert sorted(row["name"] for row in rows) == [f"south/copy_{i}.png" for i in range(FLIPPED)]
    assert all(row["evidence"].startswith("north/") and row["set"] == "south" and row["orientation"] == "4" for row in rows)
    page = (out / "report.html").read_text()
    assert "north and south label the same images differently" in page
    assert "3 labels of other sources can be corrected by north" in page


def test_the_command_prints_the_sources(clinics: list[Path], audited: tuple[Path, dict[str, Any]]) -> None:
    words = [word for text in MAP for word in ("--map", text)]
    done = CliRunner().invoke(app, ["audit", *map(str, clinics), *words, "--labels-from", "nort", "--json"])
    assert done.exit_code == 2
    assert "--labels-from names 'nort'" in done.stderr
    assert "Did you mean 'north'?" in done.stderr
    rows = dict(_informational(audited[1]))
    assert rows["label_conflicts: sources"].startswith("north and south label the same images differently (")
    assert rows["sources: outside_head"].startswith("the source from the pixels outside the head alone: balanced accuracy 0.")
    assert rows["sources: class"].startswith("the class from the source alone: balanced accuracy 0.")
    assert rows["sources"].startswith("No sign that the source predicts the class: balanced accuracy 0.")
    assert rows["label_corrections"].startswith("3 labels of other sources can be corrected by north")


def test_conflicts_stop_a_split_until_they_are_corrected(
    clinics: list[Path], audited: tuple[Path, dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(CheckFailedError, match="copy or near duplicate with another label"):
        reslink.split(clinics, tmp_path / "no.csv", map=MAP)
    assert "north and south share images: 6 images of north and 6 of south are near duplicates" in caplog.text
    caplog.clear()
    with pytest.raises(CheckFailedError, match="copy or near duplicate with another label"):
        reslink.split(clinics, tmp_path / "no.csv", map=MAP, group_by="scan")
    assert "they stay in one split" in caplog.text
    summary = reslink.split(clinics, tmp_path / "split.csv", map=MAP, corrections=audited[0] / "label_corrections.csv")
    assert summary["n"] == 38
    assert "3 labels of 38 cases corrected by label_corrections.csv" in summary["data_notes"]
    rows = {row["path"].rsplit("/", 1)[-1]: row for row in rows_of(tmp_path / "split.csv") if row["source"] == "south"}
    class_of = {"clear": "Healthy", "bleed": "Tumor"}  # the label of the data, before --map
    assert all(class_of[rows[f"copy_{i}.png"]["given_label"]] != rows[f"copy_{i}.png"]["label"] for i in range(FLIPPED))
    splits = {row["group"]: row["split"] for row in rows_of(tmp_path / "split.csv")}
    assert all(splits[row["group"]] == row["split"] for row in rows.values())
    with pytest.raises(UsageError, match="corrects the label"):
        reslink.split(
            clinics, tmp_path / "no.csv", map=["clear=Tumor", "bleed=Healthy"], corrections=audited[0] / "label_corrections.csv"
        )


def test_a_run_shows_its_sources(clinics: list[Path], audited: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = [word for text in (*MAP,) for word in ("--map", text)]
    words += [word for setting in SETTINGS for word in ("--set", setting)]
    corrections = audited[0] / "label_corrections.csv"
    done = CliRunner().invoke(
        app, ["train", *map(str, clinics), "--out", str(out), *words, "--corrections", str(corrections), "--seed", "1"]
    )
    assert done.exit_code == 0, done.stderr
    assert "north and south share images: 6 images of north and 6 of south are near duplicates of each other" in done.stderr
    assert "Sources: north 16 (train " in done.stderr
    splits = rows_of(out / "splits.csv")
    assert {row["source"] for row in splits} == {"north", "south"}
    assert {row["patient_id"].split(":")[0] for row in splits} == {"north", "south"}
    evaluation = json.loads((out / "evaluation.json").read_text())
    assert set(evaluation["subgroups"]["source"]) == {"north", "south"}
    sources = json.loads((out / "bundle" / "bundle.json").read_text())["provenance"]["data"]["sources"]
    assert {name: sum(n.values()) for name, n in sources.items()} == {"north": 16, "south": 22}
    mapped, corrected = json.loads((out / "environment.json").read_text())["label_changes"]
    assert (mapped["set"], mapped["classes"], mapped["labels"]) == ("south", {"clear": "Healthy", "bleed": "Tumor"}, 22)
    digest = sha256(corrections)
    assert corrected == {"by": "corrections", "file": "label_corrections.csv", "sha256": digest, "labels": FLIPPED}
    assert digest in (out / "bundle" / "MODEL_CARD.md").read_text()
    assert f"3 corrected by label_corrections.csv (SHA-256 {digest[:16]})" in (out / "report.html").read_text()
    assert '- sources: {"north"' in (out / "bundle" / "MODEL_CARD.md").read_text()
    page = (out / "report.html").read_text()
    assert "Data sets: north (16 cases), south (22 cases)" in page
    assert "north (train" in page
    review = CliRunner().invoke(app, ["report", str(out)])
    assert review.exit_code == 0, review.stderr
    [written] = out.glob("review*.html")
    assert "north (train" in written.read_text()
