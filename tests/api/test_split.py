"""``reslink.split``."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import reslink
from reslink.datasets.manifest import Manifest
from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort
from reslink.errors import CheckFailedError, UsageError
from reslink.training.data import TrainingData, open_training_data
from reslink.training.monitoring.progress import SilentProgress
from reslink.training.recipe.recipe import load_recipe


def test_no_patient_is_in_two_splits(heads: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    summary = reslink.split(heads, tmp_path / "split.csv", seed=1)
    assert capfd.readouterr() == ("", "")
    assert summary["n"] == 28
    assert summary["n_patients"] == 14
    splits_of: dict[str | None, set[str | None]] = {}
    for case in reslink.Manifest.open(tmp_path / "split.csv").cases:
        splits_of.setdefault(case.patient_id, set()).add(case.split)
    assert all(len(splits) == 1 for splits in splits_of.values())
    with pytest.raises(UsageError, match="exists"):
        reslink.split(heads, tmp_path / "split.csv")


def test_a_kept_split_that_would_leak_is_refused(heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reslink.split(heads, tmp_path / "split.csv", seed=1)
    reslink.split(tmp_path / "split.csv", tmp_path / "kept.csv", keep_given=True)
    assert [row["split"] for row in read(tmp_path / "kept.csv")] == [row["split"] for row in read(tmp_path / "split.csv")]

    def alternate(manifest: Manifest, groups: list[str], *_: object) -> dict[str, list[str]]:
        return {"group": groups, "split": ["train" if i % 2 else "test" for i in range(len(manifest))]}

    monkeypatch.setattr("reslink.datasets.split_table.split_columns", alternate)
    with pytest.raises(CheckFailedError, match="A patient appears in two parts of the split"):
        reslink.split(tmp_path / "split.csv", tmp_path / "leaking.csv", keep_given=True)
    assert not (tmp_path / "leaking.csv").exists()


def test_folds(heads: Path, tmp_path: Path) -> None:
    summary = reslink.split(reslink.Manifest.open(heads), tmp_path / "folds.csv", folds=3, group_by="patient")
    assert sum(summary["fold_sizes"]) == 28
    with pytest.raises(UsageError, match="folds=… and fractions=…"):
        reslink.split(heads, tmp_path / "x.csv", folds=3, fractions=(0.6, 0.2, 0.2))


def test_a_holdout_is_the_test_split_of_its_table(heads: Path, tmp_path: Path) -> None:
    summary = reslink.split(heads, tmp_path / "folds.csv", folds=3, holdout=0.25)
    assert summary["fold_sizes"] is not None
    assert sum(summary["fold_sizes"]) + sum(summary["images"]["test"].values()) == 28
    manifest = reslink.Manifest.open(tmp_path / "folds.csv")
    assert all((case.split == "test") == (case.extra["fold"] == "") for case in manifest.cases)
    with pytest.raises(UsageError, match=r"The hold-out is 0\.6"):
        reslink.split(heads, tmp_path / "x.csv", folds=3, holdout=0.6)
    with pytest.raises(UsageError, match="holdout=… was given without folds=…"):
        reslink.split(heads, tmp_path / "x.csv", holdout=0.2)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def training_data(manifest: reslink.Manifest, folder: Path, *settings: str) -> TrainingData:
    changes = ["preprocess.size=64", "preprocess.channels=1", "trainer.workers=0", "seed=3", *settings]
    return open_training_data(manifest, load_recipe(None, changes), folder, SilentProgress())


@pytest.fixture(scope="module")
def several(write_toy_heads: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 toy heads of 24 patients with two labels; one of another patient is a mirrored copy of another head."""
    folder = tmp_path_factory.mktemp("several") / "heads"
    folder.mkdir()
    write_toy_heads(folder, 24)
    rows = read(folder / "manifest.csv")
    (folder / "manifest.csv").unlink()
    Image.fromarray(np.asarray(Image.open(folder / rows[0]["path"]))[:, ::-1]).save(folder / rows[5]["path"])
    with (folder / "labels.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "patient_id", "label", "Lesion", "left", "age"])
        for i, row in enumerate(rows):
            lesion, left = ("yes", "") if i in (0, 5) else ("01"[row["label"] == "Tumor"], "10"[i % 3 > 0])
            writer.writerow([row["path"], row["patient_id"], row["label"], lesion, left, 40 + i])
    return folder / "labels.csv"


def test_several_labels_are_split_as_training_splits_them(several: Path, tmp_path: Path) -> None:
    summary = reslink.split(several, tmp_path / "split.csv", labels="lesion,left", seed=3, fractions=(0.5, 0.25, 0.25))
    rows, before = read(tmp_path / "split.csv"), read(several)
    assert [list(rows[0]), len(rows)] == [[*before[0], "group", "split"], 48]
    kept = [{name: row[name] for name in before[0] if name != "path"} for row in rows]
    assert kept == [{name: value for name, value in row.items() if name != "path"} for row in before]
    assert rows[0]["group"] == rows[1]["group"] == rows[4]["group"] == rows[5]["group"] != rows[2]["group"]
    present = Counter((row["split"], name) for row in rows for name in ("Lesion", "left") if row[name] in ("1", "yes"))
    assert summary["images"] == {
        split: {"lesion": present[split, "Lesion"], "left": present[split, "left"]} for split in ("train", "validation", "test")
    }
    assert summary["split_sizes"] == Counter(row["split"] for row in rows)
    manifest = reslink.Manifest.open(several, label_columns=("lesion", "left"))
    data = training_data(manifest, tmp_path / "cache", "data.labels=[lesion,left]", "data.fractions=[0.5,0.25,0.25]")
    assert [row["split"] for row in rows] == list(data.splits)
    again = reslink.Manifest.open(tmp_path / "split.csv", label_columns=("lesion", "left"))
    assert [case.states for case in again.cases] == [case.states for case in manifest.cases]


def test_an_opened_manifest_has_the_labels_that_are_given(several: Path, tmp_path: Path) -> None:
    manifest = reslink.Manifest.open(several, label_columns=("lesion", "left"))
    assert list(reslink.split(manifest, tmp_path / "a.csv", group_by="none")["images"]["train"]) == ["lesion", "left"]
    with pytest.raises(UsageError, match=r"labels \['lesion', 'left'\], but labels=… \(data.labels\) is \['left', 'lesion'\]"):
        reslink.split(manifest, tmp_path / "b.csv", labels=["left", "lesion"])
    with pytest.raises(
        UsageError,
        match=r"opened with one class per image, but labels=… \(data.labels\) is \['lesion', 'left'\]\. An opened manifest "
        r"keeps its labels, and their order\. Open it with label_columns=\['lesion', 'left'\], or omit labels=…\.",
    ):
        reslink.split(reslink.Manifest.open(several), tmp_path / "b.csv", labels=["lesion", "left"])
    with pytest.raises(UsageError, match=r"Open it without label_columns, or name its labels with labels=…\."):
        reslink.train(manifest, tmp_path / "run")
    with pytest.raises(UsageError, match="names only 'lesion'"):
        reslink.split(several, tmp_path / "b.csv", labels="lesion")


def test_several_labels_are_refused_for_series_as_training_refuses_them(several: Path, tmp_path: Path) -> None:
    manifest = reslink.Manifest.open(several, label_columns=("lesion", "left"), case="series")
    refused = r"A split of series is not possible .*\(lesion, left\).*Omit labels=…, .* with columns='label=COLUMN'"
    for data, labels in ((several, "lesion,left"), (manifest, None)):
        with pytest.raises(UsageError, match=refused):
            reslink.split(data, tmp_path / "split.csv", labels=labels, case="series")
    assert not (tmp_path / "split.csv").exists()


def test_contradicting_copies_stop_a_split_of_several_labels(several: Path, tmp_path: Path) -> None:
    lines = [
        line.replace("Healthy,", "").replace("Tumor,", "").replace("label,", "") for line in several.read_text().splitlines()
    ]
    lines[6] = lines[6].replace("yes", "no")
    (several.parent / "other.csv").write_text("\n".join(lines))
    with pytest.raises(CheckFailedError, match=r"2 of 48 images have a copy .* with another label"):
        reslink.split(several.parent / "other.csv", tmp_path / "split.csv", labels=["lesion", "left"])
    reslink.split(several.parent / "other.csv", tmp_path / "split.csv", labels=["lesion", "left"], allow_conflicts=True)
    assert list(read(tmp_path / "split.csv")[0]) == ["path", "patient_id", "Lesion", "left", "age", "group", "split"]


def test_series_are_split_as_training_splits_them(tmp_path: Path) -> None:
    import nibabel

    settings = PhantomSettings(patients=12, case="series", slices=4, size=128, format="nifti", seed=4)
    series = make_cohort(tmp_path / "series", settings)
    first, second = (nibabel.load(series / "images" / f"P000{i}.nii.gz") for i in (1, 2))
    mixed = np.asarray(second.dataobj).copy()
    mixed[:, :, 1] = np.asarray(first.dataobj)[:, :, 2]  # two series of different patients and labels share a slice
    nibabel.save(nibabel.Nifti1Image(mixed, second.affine), series / "images" / "P0002.nii.gz")
    with pytest.raises(UsageError, match=r"holds 4 slices.*reslink split --case series"):
        reslink.split(series, tmp_path / "split.csv")
    options = {"case": "series", "seed": 3, "fractions": (0.5, 0.25, 0.25)}
    summary = reslink.split(series, tmp_path / "split.csv", **options)  # type: ignore[arg-type]
    rows = read(tmp_path / "split.csv")
    assert (len(rows), summary["n"], summary["n_groups"], summary["case"]) == (12, 12, 11, "series")
    assert rows[0]["group"] == rows[1]["group"]
    assert sum(summary["split_sizes"].values()) == 12
    manifest = reslink.Manifest.open(series, case="series")
    data = training_data(manifest, tmp_path / "cache", "trainer.case=series", "data.fractions=[0.5,0.25,0.25]")
    assert ([row["split"] for row in rows], [row["group"] for row in rows]) == (list(data.splits), list(data.groups))
    assert not list(tmp_path.glob(".cache-*"))
