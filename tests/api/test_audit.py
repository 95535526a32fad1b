"""``reslink.audit``."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import reslink
from reslink.api.audit_memory import failed_checks
from reslink.cli.main import app
from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort
from reslink.errors import UsageError

pytestmark = pytest.mark.usefixtures("few_trees")


def test_it_returns_what_the_command_prints(heads: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    result = reslink.audit(heads, out=tmp_path / "audit", workers=0)
    assert capfd.readouterr() == ("", "")
    assert result["images"] == 28
    assert (tmp_path / "audit" / "report.html").is_file()
    assert json.loads((tmp_path / "audit" / "audit.json").read_text()) == json.loads(json.dumps(result))
    printed = CliRunner().invoke(app, ["audit", str(heads), "--json", "--workers", "0"])
    assert json.loads(printed.stdout) == json.loads(json.dumps(result))
    with pytest.raises(UsageError, match="already holds an audit"):
        reslink.audit(heads, out=tmp_path / "audit")


def test_fix_writes_a_clean_copy(heads: Path, tmp_path: Path) -> None:
    reslink.audit(heads, fix=tmp_path / "clean", workers=0)
    assert len(reslink.Manifest.open(tmp_path / "clean")) > 0


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 phantoms with two labels; images with the label mark have a white corner, and one patient is in two splits."""
    root = make_cohort(tmp_path_factory.mktemp("several") / "heads", PhantomSettings(patients=32, slices=1, size=128, seed=5))
    with (root / "manifest.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    (root / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    lines = ["path,patient_id,Lesion,mark,split", "broken.png,P9999,1,0,train"]
    for i, row in enumerate(rows):
        mark = i % 2
        if mark:
            pixels = np.array(Image.open(root / row["path"]))
            pixels[:10, :10] = 255
            Image.fromarray(pixels).save(root / row["path"])
        known = "" if i in (3, 30) else mark
        patient, split = ("P0001", "test") if i == 1 else (row["patient_id"], "train")
        lines.append(f"{row['path']},{patient},{int(row['label'] == 'Tumor')},{known},{split}")
    (root / "labels.csv").write_text("\n".join(lines))
    return root / "labels.csv"


def test_several_labels_have_shortcuts_of_their_own(several: Path, tmp_path: Path) -> None:
    result = reslink.audit(several, labels="lesion,mark", out=tmp_path / "audit", fix=tmp_path / "clean", workers=0)
    failed = {check["check"]: check["failed"] for check in result["checks"]}
    assert (failed.pop("outside_head: mark"), failed.pop("group_leakage")) == (True, True)
    assert list(failed) == ["label_conflicts", "file_metadata: lesion", "outside_head: lesion", "file_metadata: mark"]
    assert not any(failed.values())
    assert (result["verdict"], result["several_labels"], result["classes"]["mark"]) == ("fail", True, 15)
    known = {(probe["probe"], probe["label"]): probe["balanced_accuracy"]["n"] for probe in result["shortcuts"]}
    assert (known["histogram", "lesion"], known["histogram", "mark"]) == (32, 30)
    [probe] = [probe for probe in result["shortcuts"] if (probe["probe"], probe["label"]) == ("outside_head", "mark")]
    marked = {row["path"] for row in csv.DictReader(several.read_text().splitlines()) if row["mark"] == "1"}
    clear = {row["path"] for row in csv.DictReader(several.read_text().splitlines()) if row["mark"] == "0"}
    assert set(probe["examples"]["with mark"]) < marked
    assert set(probe["examples"]["without mark"]) < clear
    assert [len(names) for names in probe["examples"].values()] == [6, 6]
    assert [entry["path"] for entry in result["files"]["corrupt"]] == ["broken.png"]
    assert {entry["check"] for entry in result["skipped_checks"]} >= {"suspected_label_errors"}
    assert failed_checks(result["data_digest"]) == ["group_leakage", "outside_head"]  # no name of a label
    page = (tmp_path / "audit" / "report.html").read_text()
    assert "Shortcut: pixels outside the head, label mark" in page
    assert "Correctly classified as <b>with mark</b>" in page
    clean = reslink.Manifest.open(tmp_path / "clean", label_columns=["lesion", "mark"])
    assert (clean.columns[:3], len(clean)) == (("path", "lesion", "mark"), 32)
    given = reslink.Manifest.open(several, label_columns=["lesion", "mark"])
    assert sorted(case.states for case in clean.cases) == sorted(
        case.states for case in given.cases if case.name != "broken.png"
    )


def test_a_label_with_one_state_has_no_shortcut_check_and_predictions_need_one_class(several: Path) -> None:
    (several.parent / "one.csv").write_text(several.read_text().replace(",mark,", ",left,mark,").replace(",t", ",0,t"))
    result = reslink.audit(several.parent / "one.csv", labels=["lesion", "mark"], workers=0)
    reasons = {entry["check"]: entry["reason"] for entry in result["skipped_checks"]}
    assert "with and without the label as the two classes" in reasons["shortcuts: outside_head: mark"]
    with pytest.raises(UsageError, match=r"predictions=… is not possible with several labels at once \(lesion, mark\)"):
        reslink.audit(several, labels=["lesion", "mark"], predictions="out_of_fold.csv")
    with pytest.raises(
        UsageError,
        match=r"labels\.csv has no column 'label'.*If Lesion, mark are several labels at once, name .* labels=…\. Or add",
    ):
        reslink.audit(several)


def test_series_are_refused_and_a_volume_among_slices_is_named(tmp_path: Path) -> None:
    """A row that names a folder, volumes alone, and a volume beside slices."""
    root = make_cohort(tmp_path / "heads", PhantomSettings(patients=2, slices=1, size=128, seed=5))
    names = [case.name for case in reslink.Manifest.open(root, for_training=False).cases]
    np.save(root / "volume.npy", np.zeros((3, 64, 64), np.uint8))
    (root / "series").mkdir()
    table = root / "t.csv"
    refused = (
        r"The audit checks single slices; a table of series has no audit\. If each series has one label, use "
        r"reslink split --case series, .*otherwise save each slice as its own file, with the same patient_id\."
    )
    table.write_text(f"path,label\n{names[0]},a\n{names[1]},b\nseries,b\n")
    with pytest.raises(UsageError, match=r"Row 4 of t\.csv names the folder 'series'\. " + refused):
        reslink.audit(table, out=tmp_path / "audit", workers=0)
    table.write_text("path,label\nvolume.npy,a\n")
    for data in (table, reslink.Manifest.open(table, case="series", for_training=False)):
        with pytest.raises(UsageError, match=r"volume\.npy holds 3 slices\. " + refused):
            reslink.audit(data, out=tmp_path / "audit", workers=0)
    assert not (tmp_path / "audit").exists()
    table.write_text(f"path,label\n{names[0]},a\n{names[1]},b\nvolume.npy,b\n")
    [found] = reslink.audit(table, workers=0)["files"]["corrupt"]
    assert found["path"] == "volume.npy"
    assert "holds 3 slices" in found["message"]
