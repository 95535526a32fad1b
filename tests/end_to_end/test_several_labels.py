"""Several labels at once through every command: what works gives an answer for each label, what does not is refused by name."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from reslink.bundles.bundle import Bundle
from reslink.cli.main import app
from reslink.reports.checklist.answers import ANSWERS
from reslink.reports.checklist.evidence import read_evidence

pytestmark = pytest.mark.slow

SETTINGS = [
    *("--set", "preprocess.size=64", "--set", "preprocess.channels=1", "--set", "model.stem_dim=8"),
    *(
        "--set",
        "model.dims=[8,16]",
        "--set",
        "model.depths=[0,1]",
        "--set",
        "model.area_size=4",
        "--set",
        "model.context_dim=0",
    ),
    *("--set", "trainer.ema=0", "--set", "trainer.batch_size=8", "--set", "trainer.workers=0", "--epochs", "2"),
]


@pytest.fixture(scope="module")
def table(tmp_path_factory, write_toy_heads):
    """60 toy heads with two labels: a lesion, and a white corner; some cells are empty."""
    folder = tmp_path_factory.mktemp("several") / "heads"
    folder.mkdir()
    write_toy_heads(folder, 30)
    lines = ["path,patient_id,lesion,corner"]
    for i, row in enumerate(csv.DictReader((folder / "manifest.csv").read_text().splitlines())):
        corner = i // 2 % 3 == 0
        if corner:
            pixels = np.array(Image.open(folder / row["path"]))
            pixels[34:46, 34:46] = 255
            Image.fromarray(pixels).save(folder / row["path"])
        cells = (int(row["label"] == "Tumor"), "" if i in (7, 20) else int(corner))
        lines.append(f"{row['path']},{row['patient_id']},{cells[0]},{cells[1]}")
    (folder / "manifest.csv").unlink()
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder / "labels.csv"


@pytest.fixture(scope="module")
def run(table, tmp_path_factory, invoke_quietly):
    out = tmp_path_factory.mktemp("run") / "first"
    invoke_quietly("train", table, "--labels", "lesion,corner", "--out", out, *SETTINGS)
    return out


@pytest.fixture(scope="module")
def invoke_quietly() -> Callable[..., str]:
    """Runs a command that must succeed, and returns what it prints."""
    import typer.testing

    def invoke(*arguments: object) -> str:
        done = typer.testing.CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert done.exit_code == 0, done.output
        return done.output

    return invoke


@pytest.fixture
def refuse() -> Callable[..., str]:
    """Runs a command that must be refused with exit code 2, and returns its message."""
    import typer.testing

    def invoke(*arguments: object) -> str:
        done = typer.testing.CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert done.exit_code == 2, done.output
        return " ".join(done.output.split())

    return invoke


def test_a_run_states_every_label(run, table):
    bundle = Bundle.load(run)
    assert bundle.labels.names == ("lesion", "corner")
    assert not bundle.labels.exclusive
    assert json.loads((run / "bundle" / "bundle.json").read_text())["exclusive"] is False
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert list(evaluation["by_label"]) == ["lesion", "corner"]
    splits = list(csv.DictReader((run / "splits.csv").read_text().splitlines()))
    assert sum(row["true_corner"] == "" for row in splits) == 2
    page = (run / "report.html").read_text()
    assert "By label" in page
    assert "AUROC by label" in page
    card = (run / "bundle" / "MODEL_CARD.md").read_text()
    assert "Labels, several of which can hold at once" in card
    assert "auroc of corner" in card or evaluation["per_class"]["corner"]["auroc"]["estimate"] is None


def test_the_report_for_reviewers_shows_every_label(run, table, tmp_path, invoke_quietly):
    folder = tmp_path / "run"
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("cache"))
    invoke_quietly("report", folder, "--checklist", "claim")
    page = " ".join((folder / "review-claim.html").read_text().split())
    assert "AUROC by label" in page
    assert "Label: corner" in page
    assert "Labels, several of which can hold at once: lesion, corner" in page
    assert "means over the labels: accuracy" in page
    assert "against the others" not in page
    decision = json.loads((folder / "evaluation.json").read_text())["decision"]["by_label"][1]
    threshold = ANSWERS["threshold"](read_evidence(folder)).text
    assert f"corner {decision['threshold']:.3f} ({decision['threshold_source']})" in threshold


def test_predict_gives_an_answer_for_each_label(run, table, tmp_path, invoke_quietly):
    image = table.parent / "002.png"
    text = invoke_quietly("predict", run, image)
    assert "P(lesion)" in text
    assert "P(corner)" in text
    answer = json.loads(invoke_quietly("predict", run, image, "--json"))
    assert answer["probability"] is None
    assert answer["by_label"]["corner"]["probability"] == answer["probabilities"]["corner"]
    invoke_quietly("predict", run, image, "--csv", tmp_path / "out.csv", "--pictures", tmp_path / "pictures")
    [row] = csv.DictReader((tmp_path / "out.csv").read_text().splitlines())
    assert row["present_lesion"] in ("true", "false")
    assert float(row["p_corner"]) == pytest.approx(answer["probabilities"]["corner"], abs=1e-5)
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 1


def test_calibrate_evaluate_explain_and_export(run, table, tmp_path, invoke_quietly):
    arguments = ("calibrate", run, table, "--allow-leakage", "--out", tmp_path / "calibrated", "--coverage", "0.8")
    text = invoke_quietly(*arguments, "--operating-point", "youden")
    assert "corner" in text
    bundle = Bundle.load(tmp_path / "calibrated")
    assert all(one.conformal is not None for one in bundle.decision.by_label)
    text = invoke_quietly("evaluate", bundle.folder, table, "--allow-leakage", "--out", tmp_path / "evaluated")
    assert "lesion\t30 of 60" in text
    selective = json.loads((tmp_path / "evaluated" / "evaluation.json").read_text())["by_label"]["lesion"]["selective"]
    assert selective["prediction_sets"]["coverage"]["estimate"] > 0.5
    image = table.parent / "002.png"
    invoke_quietly(
        "explain",
        bundle.folder,
        image,
        "--label",
        "corner",
        "--method",
        "grad_cam",
        "--no-sanity",
        "--out",
        tmp_path / "explained",
    )
    [explained] = json.loads((tmp_path / "explained" / "explain.json").read_text())["images"]
    assert explained["target"] == "corner"
    assert explained["by_label"]["corner"]["probability"] == explained["probabilities"]["corner"]
    invoke_quietly("export", bundle.folder, "--format", "torch-export", "--images", "4", "--out", tmp_path / "exported")
    manifest = json.loads((tmp_path / "exported" / "manifest.json").read_text())
    assert manifest["exclusive"] is False
    assert len(manifest["decision"]["by_label"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("export", "RUN", "--format", "hf", "--out", "OUT"), "The format hf is not possible with several labels at once"),
        (("compare", "RUN", "RUN2", "--data", "TABLE"), "reslink compare is not possible with several labels at once"),
        (("experiment", "robustness", "RUN", "TABLE", "--out", "OUT"), "reslink experiment robustness is not possible"),
        (("external", "RUN", "TABLE", "--out", "OUT"), "reslink external is not possible"),
        (
            ("experiment", "epochs", "TABLE", "--out", "OUT", "--set", "data.labels=[lesion,corner]"),
            "reslink experiment epochs is not possible",
        ),
        (("evaluate", "RUN", "TABLE", "--by", "corner", "--out", "OUT"), "--by is not possible with several labels at once"),
    ],
)
def test_what_needs_one_class_per_image_is_refused(arguments, message, run, table, tmp_path, refuse):
    places = {"RUN": run, "RUN2": shutil.copytree(run / "bundle", tmp_path / "other"), "TABLE": table, "OUT": tmp_path / "out"}
    assert message in refuse(*(places.get(argument, argument) for argument in arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--labels", "lesion"), "names only 'lesion'"),
        (("--labels", "lesion,lesion"), "names 'lesion' twice"),
        (("--labels", "lesion,corners"), "--labels names 'corners', and labels.csv has no such column"),
        (("--labels", "lesion,corner", "--set", "data.class_order=[a,b]"), "labels and class_order are both set"),
        (("--labels", "lesion,corner", "--set", "model.num_classes=2"), "model.num_classes is 2 beside data.labels"),
        (("--labels", "lesion,corner", "--set", "loss.imbalance=sampler"), "loss.imbalance is sampler beside data.labels"),
        (("--labels", "lesion,patient_id"), "labels.csv has the patient_id of each image in this column"),
    ],
)
def test_bad_labels_are_refused_before_anything_is_written(arguments, message, table, tmp_path, refuse):
    assert message in refuse("train", table, "--out", tmp_path / "run", *arguments)
    assert not (tmp_path / "run").exists()


def test_weights_mixup_and_an_extended_run(table, tmp_path, invoke_quietly):
    changes = ("--set", "loss.imbalance=weights", "--set", "loss.mixup=0.2")
    arguments = ("train", table, "--labels", "lesion,corner", "--out", tmp_path / "run", *SETTINGS[:-2], *changes)
    invoke_quietly(*arguments, "--epochs", "1")
    invoke_quietly(*arguments, "--epochs", "2", "--resume")
    bundle = Bundle.load(tmp_path / "run")
    assert bundle.provenance["recipe"]["data"]["labels"] == ["lesion", "corner"]
    assert bundle.provenance["extensions"] == [{"after_epoch": 1, "from_epochs": 1, "to_epochs": 2}]
