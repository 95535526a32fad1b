"""``reslink split``, and how ``train`` and ``evaluate`` treat what it wrote."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture
from typer.testing import CliRunner, Result

from reslink.cli.main import app
from reslink.datasets.manifest import Manifest
from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort

TINY = (
    "preprocess.size=64",
    "preprocess.channels=1",
    "model.stem_dim=8",
    "model.dims=[8, 16]",
    "model.depths=[0, 1]",
    "model.area_size=4",
    "trainer.workers=0",
    "trainer.device=cpu",
    "trainer.epochs=1",
    "diagnostics.enabled=false",
)


def invoke(*words: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, [str(word) for word in words])


def train(*words: str | Path) -> Result:
    return invoke("train", *words, *(word for setting in TINY for word in ("--set", setting)))


def head(number: int) -> np.ndarray:
    """A head with folds of its own."""
    y, x = np.mgrid[:96, :96]
    inside = np.hypot((y - 48) / 41, (x - 48) / 35) < 1
    return np.asarray(inside * np.kron(np.random.default_rng(number).integers(40, 220, (12, 12)), np.ones((8, 8))), np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 heads in two classes; in each class number 1 is number 0 mirrored; one file is broken."""
    root = tmp_path_factory.mktemp("data")
    for start, label in ((0, "Healthy"), (100, "Tumor")):
        (root / label).mkdir()
        for i in range(18):
            picture = head(start)[:, ::-1] if i == 1 else head(start + i)
            Picture.fromarray(picture).save(root / label / f"{i:02}.png")
    (root / "Tumor" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    return root


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The split of the data by near duplicates, and the result of the command."""
    out = tmp_path_factory.mktemp("tables") / "split.csv"
    return out, invoke("split", data, "--out", out, "--json")


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def rows(path: Path) -> dict[str, dict[str, str]]:
    return {"/".join(row["path"].split("/")[-2:]): row for row in read(path)}


def test_near_duplicates_stay_together_and_a_broken_file_is_named(whole: tuple[Path, Result]) -> None:
    out, result = whole
    assert result.exit_code == 1
    assert "Tumor/broken.png is skipped" in result.stderr
    assert "in a DICOM header: only near duplicates are kept together; --group-by scan also keeps probable" in " ".join(
        result.stderr.split()
    )
    found = rows(out)
    assert len(found) == 36
    assert found["Tumor/00.png"]["group"] == found["Tumor/01.png"]["group"] != found["Tumor/02.png"]["group"]
    assert found["Tumor/00.png"]["split"] == found["Tumor/01.png"]["split"]
    said = json.loads(result.stdout)
    assert (said["n"], said["n_groups"], said["n_patients"]) == (36, 34, 0)
    assert list(said["left_out"]) == ["Tumor/broken.png"]
    assert said["research_use_only"] is True
    assert sum(sum(counts.values()) for counts in said["images"].values()) == 36
    assert sum(said["groups"].values()) == 34


def test_the_table_is_a_data_set(whole: tuple[Path, Result]) -> None:
    manifest = Manifest.open(whole[0])
    assert {case.split for case in manifest.cases} == {"train", "validation", "test"}


def test_folds_and_a_table_for_people(data: Path, tmp_path: Path) -> None:
    result = invoke("split", data, "--out", tmp_path / "folds.csv", "--folds", "3", "--group-by", "none")
    assert result.exit_code == 1
    assert "Tumor/broken.png is skipped" in result.stderr
    assert "Nothing is kept together" in result.stderr
    assert "Research use only" in result.stderr
    assert "written:" in result.stderr
    assert {row["fold"] for row in rows(tmp_path / "folds.csv").values()} == {"0", "1", "2"}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--folds", "3", "--fractions", "0.5", "0.2", "0.3"), 2, "--folds and --fractions were both given"),
        (("--folds", "3", "--keep-given"), 2, "--folds and --keep-given were both given"),
        (("--keep-given",), 2, "--keep-given was set, but the data set has no split"),
        (("--fractions", "0.5", "0.2", "0.2"), 2, "The fractions are"),
        (("--fractions", "nan", "nan", "nan"), 2, "The fractions are"),
        (("--folds", "1"), 2, "Input should be greater than or equal to 2"),
        (("--folds", "400"), 2, "needs at least 400 groups"),
        (("--group-by", "patients"), 2, "patients"),
    ],
)
def test_refused(data: Path, tmp_path: Path, words: tuple[str, ...], code: int, message: str) -> None:
    options = words if "--group-by" in words else (*words, "--group-by", "none")
    result = invoke("split", data, "--out", tmp_path / "split.csv", *options)
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())


def conflicting(data: Path, root: Path, change: str) -> Path:
    """Four heads a class; the first of Healthy is also in Tumor."""
    for label in ("Healthy", "Tumor"):
        (root / label).mkdir()
        for i in range(2, 6):
            (root / label / f"{i}.png").write_bytes((data / label / f"{i:02}.png").read_bytes())
    if change == "identical":
        (root / "Tumor" / "again.png").write_bytes((data / "Healthy" / "02.png").read_bytes())
        return root
    with Picture.open(data / "Healthy" / "02.png") as picture:
        changed = picture.transpose(Picture.Transpose.FLIP_LEFT_RIGHT) if change == "mirrored" else picture.resize((120, 120))
        changed.save(root / "Tumor" / "again.png")
    return root


@pytest.mark.parametrize("change", ["identical", "mirrored", "resized"])
def test_an_image_with_two_labels_stops_the_split(data: Path, tmp_path: Path, change: str) -> None:
    heads = conflicting(data, tmp_path, change)
    result = invoke("split", heads, "--out", tmp_path / "split.csv")
    assert result.exit_code == 3
    assert "2 of 9 images have a copy or near duplicate with another label: Healthy/2.png (Healthy) and Tumor/again.png" in (
        result.stderr
    )
    assert "--allow-conflicts" in result.stderr
    assert not (tmp_path / "split.csv").exists()
    assert invoke("split", heads, "--out", tmp_path / "split.csv", "--allow-conflicts").exit_code == 0


@pytest.mark.parametrize("change", ["identical", "mirrored", "resized"])
@pytest.mark.parametrize("group_by", ["none", "patient", "duplicate"])
def test_an_image_with_two_labels_stops_a_split_by_any_group(data: Path, tmp_path: Path, group_by: str, change: str) -> None:
    heads = conflicting(data, tmp_path, change)
    result = invoke("split", heads, "--out", tmp_path / "split.csv", "--group-by", group_by)
    assert result.exit_code == 3, result.output
    assert "2 of 9 images have a copy or near duplicate with another label: Healthy/2.png (Healthy) and Tumor/again.png" in (
        result.stderr
    )
    words = ("split", heads, "--out", tmp_path / "split.csv", "--group-by", group_by, "--allow-conflicts", "--json")
    groups = json.loads(invoke(*words).stdout)["n_groups"]
    assert groups == (8 if group_by == "duplicate" else 9)  # the comparison groups nothing


def test_train_and_experiment_stop_too(data: Path, tmp_path: Path) -> None:
    heads = conflicting(data, tmp_path, "mirrored")
    result = train(heads, "--out", tmp_path / "run")
    assert result.exit_code == 3
    assert "2 of 9 images" in result.stderr
    result = invoke("experiment", "leakage", heads, "--out", tmp_path / "x", *(w for t in TINY[:-2] for w in ("--set", t)))
    assert result.exit_code == 3
    assert "2 of 9 images" in result.stderr


def test_a_file_is_not_overwritten_without_overwrite(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "split.csv"
    out.write_text("mine")
    result = invoke("split", data, "--out", out, "--group-by", "none")
    assert (result.exit_code, out.read_text()) == (2, "mine")
    assert "add --overwrite" in result.stderr
    assert invoke("split", data, "--out", out, "--group-by", "none", "--overwrite").exit_code == 1  # of the broken file
    assert invoke("split", data, "--out", tmp_path, "--group-by", "none").exit_code == 2


@pytest.fixture(scope="module")
def leaky(data: Path, whole: tuple[Path, Result]) -> Path:
    """A split in which two near duplicates are in train and test."""
    out = data / "leaky.csv"
    lines = ["path,label,split"]
    for name, row in rows(whole[0]).items():
        side = {"Tumor/00.png": "train", "Tumor/01.png": "test"}.get(name, row["split"])
        lines.append(f"{name},{row['label']},{side}")
    out.write_text("\n".join(lines) + "\n")
    return out


def test_train_refuses_a_split_with_leakage_before_training(leaky: Path, tmp_path: Path) -> None:
    result = train(leaky, "--out", tmp_path / "run")
    assert result.exit_code == 3
    assert "near duplicates appears in two parts of the given split" in result.stderr
    assert "reslink split DATA" in result.stderr
    assert not (tmp_path / "run" / "bundle").exists()


@pytest.mark.parametrize("by", ["none", "patient"])
def test_train_refuses_to_separate_near_duplicates(data: Path, tmp_path: Path, by: str) -> None:
    for seed in range(4):  # some split separates one of the two pairs
        result = train(data, "--out", tmp_path / str(seed), "--set", f"data.group_by={by}", "--set", f"data.split_seed={seed}")
        if result.exit_code:
            break
    assert result.exit_code == 3
    assert "near duplicates appears in two parts of the split" in result.stderr


@pytest.mark.usefixtures("without_onnx_model")
def test_allowed_leakage_is_reported_everywhere(leaky: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = train(leaky, "--out", run, "--allow-leakage", "--json")
    assert result.exit_code == 0, result.stderr
    said = json.loads(result.stdout)
    assert (said["leakage"]["status"], said["leakage"]["n_leaked"]) == ("allowed", 1)
    assert said["metrics"]["accuracy"]["leakage"] is True
    assert "overlap with the training data and were evaluated because leakage was allowed" in result.stderr
    assert "overlap with the training data" in (run / "report.html").read_text()
    judged = json.loads((run / "evaluation.json").read_text())
    assert judged["leaked"] == [{"path": "Tumor/01.png", "reason": "near duplicate of a training image"}]
    refused = invoke("evaluate", run, leaky, "--split", "test", "--out", tmp_path / "evaluated", "--device", "cpu")
    assert refused.exit_code == 3
    assert "the first is Tumor/01.png (near duplicate of a training image)" in refused.stderr
    rest = invoke("evaluate", run, leaky, "--out", tmp_path / "evaluated", "--device", "cpu", "--json")
    assert rest.exit_code == 0, rest.stderr
    figures = json.loads(rest.stdout)
    trained = sum(case.split == "train" for case in Manifest.open(leaky).cases)
    assert (figures["n"], figures["n_excluded"]) == (36 - trained - 1, trained + 1)
    assert "Tumor/01.png" in {case["path"] for case in figures["excluded"]}
    assert "Leaked cases excluded:" in (tmp_path / "evaluated" / "report.html").read_text()


@pytest.mark.usefixtures("without_onnx_model")
def test_the_metrics_of_a_run_and_of_evaluate_are_the_same(whole: tuple[Path, Result], tmp_path: Path) -> None:
    run = tmp_path / "run"
    said = json.loads(train(whole[0], "--out", run, "--json").stdout)
    result = invoke("evaluate", run, whole[0], "--split", "test", "--out", tmp_path / "evaluated", "--device", "cpu", "--json")
    assert result.exit_code == 0, result.stderr
    figures = json.loads(result.stdout)
    assert figures["leakage"] == said["leakage"]
    assert figures["leakage"]["status"] == "none found"
    assert figures["metrics"] == said["metrics"]


@pytest.mark.usefixtures("without_onnx_model")
def test_the_fold_column_is_used_by_train(data: Path, tmp_path: Path) -> None:
    table = tmp_path / "folds.csv"
    invoke("split", data, "--out", table, "--folds", "3", "--seed", "7")
    settings = ("--set", "data.folds=3", "--set", "data.fold=2")
    assert train(table, "--out", tmp_path / "run", *settings, "-q").exit_code == 0
    sides = {row["sample_id"]: row["split"] for row in read(tmp_path / "run" / "splits.csv")}
    names = {"2": "test", "0": "validation", "1": "train"}
    assert sides == {name: names[row["fold"]] for name, row in rows(table).items()}
    other = train(table, "--out", tmp_path / "other", "--set", "data.folds=4", "-q")
    assert other.exit_code == 2
    assert "The recipe has 4 folds, but the column 'fold' holds 0, 1, 2" in other.stderr


@pytest.fixture(scope="module")
def leaky_dicom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 patients of two slices in class folders, one slice in Training and one in Testing."""
    root = tmp_path_factory.mktemp("dicom")
    settings = {"patients": 12, "slices": 2, "size": 128, "format": "dicom", "seed": 2}
    make_cohort(root / "all", PhantomSettings.parse(settings))
    for case in Manifest.open(root / "all").cases:
        side = "Training" if case.path.stem.endswith("_00") else "Testing"
        copy = root / "data" / side / case.label / case.path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(case.path.read_bytes())
    return root / "data"


class TestPatientsOfDicomHeaders:
    @pytest.mark.parametrize("by", ["both", "patient"])
    def test_split_keeps_them_in_one_split(self, leaky_dicom: Path, tmp_path: Path, by: str) -> None:
        result = invoke("split", leaky_dicom, "--out", tmp_path / "split.csv", "--group-by", by, "--json")
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout)["n_patients"] == 12
        sides: dict[str, set[str]] = {}
        for row in read(tmp_path / "split.csv"):
            sides.setdefault(Path(row["path"]).stem.split("_")[0], set()).add(row["split"])
        assert len(sides) == 12
        assert all(len(found) == 1 for found in sides.values())
        assert "patient_id" not in read(tmp_path / "split.csv")[0]

    def test_train_and_keep_given_refuse_the_stated_split(self, leaky_dicom: Path, tmp_path: Path) -> None:
        kept = invoke("split", leaky_dicom, "--out", tmp_path / "split.csv", "--keep-given")
        trained = train(leaky_dicom, "--out", tmp_path / "run")
        for result in (kept, trained):
            assert result.exit_code == 3
            assert "A patient appears in two parts of the given split" in result.stderr

    @pytest.mark.usefixtures("without_onnx_model")
    def test_evaluate_refuses_a_bundle_trained_on_the_patients(self, leaky_dicom: Path, tmp_path: Path) -> None:
        train(leaky_dicom, "--out", tmp_path / "run", "--allow-leakage")
        result = invoke(
            "evaluate", tmp_path / "run", leaky_dicom, "--split", "test", "--out", tmp_path / "o", "--device", "cpu"
        )
        assert result.exit_code == 3
        assert "of the split 'test' overlap with the training split" in result.stderr
