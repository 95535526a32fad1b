"""External evaluation: mapped labels, drops computed by hand, data that cannot be evaluated."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture
from scipy import ndimage

from reslink.bundles.bundle import Bundle
from reslink.bundles.scope import Scope
from reslink.datasets.manifest import Manifest
from reslink.errors import UsageError
from reslink.experiments.external.evaluation import DatasetEvaluation
from reslink.experiments.external.external import ExternalOptions, evaluate_external
from reslink.experiments.external.tables import _excluded_sentence
from reslink.imaging.preprocess import Preprocess
from reslink.inference.classifier import Classifier
from reslink.labels import Labels
from reslink.networks.reslink import ResLinkConfig, build_network

LABELS = Labels(("Healthy", "Tumor"))
MAP = {"no_tumor": "Healthy", "glioma": "Tumor", "pituitary": "Tumor"}


def write(root, seed, classifier=None, names=("Healthy", "Tumor"), wrong=0, n=40, grey=110):
    """Images with the predictions of the network as labels, except the first few, which have the other label."""
    root.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:96, :96] - 48
    for i in range(n):
        texture = ndimage.gaussian_filter(rng.standard_normal((96, 96)), 3) * 250
        picture = (np.hypot(y, x * (1 + 0.01 * i)) < 40) * (grey + texture)
        Picture.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(root / f"{i:02d}.png")
    if classifier is None:
        return root
    calls = [call.label == "Tumor" for call in classifier.predict(sorted(root.glob("*.png")))]
    truth = [call ^ (i < wrong) for i, call in enumerate(calls)]
    with (root / "manifest.csv").open("w", newline="") as stream:
        rows = [[f"{i:02d}.png", names[1 + i % (len(names) - 1)] if true else names[0]] for i, true in enumerate(truth)]
        csv.writer(stream).writerows([["path", "label"], *rows])
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A bundle in a folder with internal data (``home``) and external data (``away``)."""
    place = tmp_path_factory.mktemp("transfer")
    config = ResLinkConfig(stem_dim=8, dims=(8, 16), depths=(1, 1), in_channels=1)
    state = build_network(config, seed=1).state_dict()
    state["head.1.weight"] *= 30
    bundle = Bundle({"name": "tiny", **config.model_dump(mode="json")}, Preprocess(size=64, channels=1), LABELS)
    classifier = Classifier.load(bundle.save(place / "bundle", state).folder, "cpu")
    write(place / "home", 0, classifier, wrong=2)
    write(place / "away", 1, classifier, ("no_tumor", "glioma", "pituitary"), wrong=16, grey=150)
    return place


@pytest.fixture(scope="module")
def result(made):
    """The report of the experiment."""
    return run(made / "bundle", [made / "away"], made / "out", label_map=MAP, internal=made / "home")


@pytest.fixture
def bundle(made, tmp_path):
    return Path(shutil.copytree(made / "bundle", tmp_path / "bundle"))


@pytest.fixture
def internal(made):
    return made / "home"


@pytest.fixture
def external(made):
    return made / "away"


def table(result, name):
    [rows] = [table["rows"] for table in result["tables"] if table["name"] == name]
    return rows


def run(bundle, external, out, **options):
    return evaluate_external(bundle, external, out, ExternalOptions(device="cpu", **options))


def test_the_drop_is_computed_and_flagged(result):
    rows = {row["metric"]: row for row in table(result, "drop")}
    row = rows["accuracy"]
    assert row["internal"]["estimate"] == pytest.approx(38 / 40)
    assert row["external"]["estimate"] == pytest.approx(24 / 40)
    assert row["drop"]["estimate"] == pytest.approx(14 / 40)
    assert row["drop"]["ci_low"] < 14 / 40 < row["drop"]["ci_high"]
    assert row["flagged"] is True
    assert any("accuracy drops by 35.0 points" in sentence and "Flagged" in sentence for sentence in result["answer"])


def test_silent_errors_are_the_wrong_answers_without_an_abstention(result, made):
    rows = {row["data"]: row for row in table(result, "answers")}
    assert set(rows) == {"internal", "away"}
    assert rows["away"]["coverage"]["estimate"] == 1
    assert rows["away"]["silent_errors"]["estimate"] == pytest.approx(16 / 40)
    assert rows["internal"]["silent_errors"]["estimate"] == pytest.approx(2 / 40)
    assert "away: the model answers 100.0 % of the images in scope, and 40.0 % of them get a wrong answer" in " ".join(
        result["answer"]
    )
    assert any("abstention: The bundle has neither prediction sets" in sentence for sentence in result["not_done"])


def test_only_the_source_flags_and_chosen_columns_are_subgroups(bundle, external, tmp_path):
    """The scanner is the source, and urgent a flag; the names of the readers are in no report unless they are chosen."""
    folder = Path(shutil.copytree(external, tmp_path / "away"))
    with (folder / "manifest.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    lines = [f"{row['path']},{row['label']},{'AB'[i % 4 == 0]},{i % 2},DOE^{i % 3}" for i, row in enumerate(rows)]
    (folder / "manifest.csv").write_text("\n".join(["path,label,scanner,urgent,reader", *lines]))
    found = table(run(bundle, [folder], tmp_path / "out", label_map=MAP), "subgroups")
    default = [("source", "A", 30), ("source", "B", 10), ("urgent", "0", 20), ("urgent", "1", 20)]
    assert [(row["column"], row["value"], row["n"]) for row in found] == default
    assert [row["coverage"] for row in found] == [None] * 4, "the bundle cannot abstain"
    assert not any("DOE" in page.read_text() for page in (tmp_path / "out").rglob("report.html"))
    chosen = table(run(bundle, [folder], tmp_path / "chosen", label_map=MAP, by=["reader"]), "subgroups")
    assert {row["value"] for row in chosen if row["column"] == "reader"} == {"DOE^0", "DOE^1", "DOE^2"}
    with pytest.raises(UsageError, match=r"away: The data has no column 'sequence'"):
        run(bundle, [folder], tmp_path / "none", label_map=MAP, by=["sequence"])


def test_a_few_local_patients_are_measured_on_the_others(result):
    rows = table(result, "local")
    assert [row["patients"] for row in rows] == [0, 5, 10, 20]
    assert rows[0]["accuracy"]["estimate"] == pytest.approx(24 / 40)
    assert rows[1]["accuracy"]["method"] == "median and range of 30 draws"
    assert any(sentence.startswith("away: recalibrating to 20 labeled") for sentence in result["answer"])
    assert "away, refitting to 40 local images: there are 40." in result["not_done"]


def test_the_accuracy_is_given_for_each_original_label(result, external):
    found = {row["label"]: row for row in table(result, "labels")}
    with (external / "manifest.csv").open(newline="") as stream:
        given = [row["label"] for row in csv.DictReader(stream)]
    assert {label: row["n"] for label, row in found.items()} == {label: given.count(label) for label in MAP}
    right = [label for i, label in enumerate(given) if i >= 16]
    assert found["glioma"]["accuracy"]["estimate"] == pytest.approx(right.count("glioma") / given.count("glioma"))


def test_acquisition_differences_are_in_a_table(result):
    rows = {row["feature"]: row for row in table(result, "differences-1")}
    wanted = {"modality", "plane", "side_px", "pixel_mm", "thickness_mm", "head_share", "head_tilt", "gray_mean", "sharpness"}
    assert wanted <= set(rows)
    assert rows["side_px"]["difference"] == 0
    assert rows["thickness_mm"]["internal"] == "not stated"


def test_without_internal_data_the_metrics_of_the_bundle_are_used_and_a_label_can_be_excluded(bundle, external, tmp_path):
    known = {"estimate": 0.65, "ci_low": 0.5, "ci_high": 0.7, "method": "m", "n": 50}
    Bundle.load(bundle).with_metrics({"n": 50, "metrics": {"accuracy": known}})
    result = run(bundle, [external], tmp_path / "out", label_map={**MAP, "pituitary": None})
    assert {row["label"] for row in table(result, "labels")} == {"no_tumor", "glioma"}
    assert "pituitary → excluded" in result["facts"]["Labels"]
    rows = {row["metric"]: row for row in table(result, "drop")}
    assert rows["accuracy"]["drop"]["estimate"] == pytest.approx(0.65 - rows["accuracy"]["external"]["estimate"])
    assert rows["accuracy"]["flagged"] is (rows["accuracy"]["drop"]["estimate"] > 0.1)
    assert rows["auroc"]["drop"]["estimate"] is None
    assert result["facts"]["Internal metrics"] == "50 test images, from the bundle"
    assert any("--internal DATA" in sentence for sentence in result["not_done"])


def test_unusable_data_is_reported_and_repeated_names_are_numbered(bundle, external, tmp_path):
    strange = write(tmp_path / "strange", 3, Classifier.load(bundle, "cpu"), ("normal", "tumour"))
    cache = write(tmp_path / "cache", 6, Classifier.load(bundle, "cpu"), ("no_tumor", "glioma"))
    other = write(tmp_path / "elsewhere" / "away", 5, Classifier.load(bundle, "cpu"), ("no_tumor", "glioma"))
    others = [strange, external, tmp_path / "nowhere", other / "manifest.csv", cache]
    result = run(bundle, others, tmp_path / "out", label_map=MAP)
    reasons = {failure["run"]: failure["reason"] for failure in result["failed"]}
    assert "--map LABEL=CLASS" in reasons["strange"]
    assert "does not exist" in reasons["nowhere"]
    assert all(row["drop"]["estimate"] is None for row in table(result, "drop"))
    assert any(sentence.startswith("Drop:") for sentence in result["not_done"])
    assert [sentence for sentence in result["answer"] if "drop" in sentence] == [
        "away: no drop is available.",
        "away-2: no drop is available.",
        "cache-2: no drop is available.",
    ]
    assert {row["data"] for row in table(result, "drop")} == {"away", "away-2", "cache-2"}
    for name in ("away", "away-2", "cache-2"):
        assert (tmp_path / "out" / name / "evaluation.json").is_file()
        assert (tmp_path / "out" / name / "report.html").is_file()


def test_an_unknown_class_and_a_label_in_no_data_raise(bundle, external, tmp_path):
    with pytest.raises(UsageError, match="Did you mean 'Tumor'"):
        run(bundle, [external], tmp_path / "out", label_map={"glioma": "Tumour"})
    with pytest.raises(UsageError, match=r"No data set has the label 'gliomas'.*Did you mean 'glioma'"):
        run(bundle, [external], tmp_path / "out", label_map={**MAP, "gliomas": "Tumor"})
    with pytest.raises(UsageError, match="No external data"):
        run(bundle, [], tmp_path / "out")


def test_it_writes_a_page_without_absolute_paths(made, result):
    folder = made / "out"
    assert json.loads((folder / "experiment.json").read_text()) == result
    page = (folder / "report.html").read_text()
    assert "more than 10 points" in page
    assert page.count("<svg") == 4
    assert str(made) not in page


def test_manifest_keeps_the_label_that_was_given(external):
    manifest = Manifest.open(external, labels=LABELS, rename=MAP)
    assert {case.label for case in manifest.cases} == {"Healthy", "Tumor"}
    assert {case.extra["given_label"] for case in manifest.cases} == set(MAP)
    with pytest.raises(UsageError, match="No case is left"):
        Manifest.open(external, labels=LABELS, rename=dict.fromkeys(MAP))


def test_refused_images_are_counted_beside_the_metrics(made, tmp_path):
    """Of the internal data 4 images are CT, of the external data 6; a data set of CT alone fails."""
    loaded = replace(Bundle.load(made / "bundle"), scope=Scope(modality="MR"))
    bundle = loaded.with_decision(loaded.decision, tmp_path / "mr").folder
    rng = np.random.default_rng(0)
    for name, n, n_ct in (("home", 12, 4), ("away", 14, 6), ("ct", 3, 3)):
        (tmp_path / name).mkdir()
        rows = ["path,label,unit"]
        for i in range(n):
            head, unit = np.hypot(*(np.mgrid[:64, :64] - 32)) < 28, "hu" if i < n_ct else "mr"
            texture = np.kron(rng.uniform(0.2, 1, (16, 16)), np.ones((4, 4)))
            pixels = np.where(head, texture * 80, -1000) if unit == "hu" else head * texture * 900
            np.save(tmp_path / name / f"{i:02d}.npy", pixels)
            rows.append(f"{i:02d}.npy,{LABELS.names[i % 2]},{unit}")
        (tmp_path / name / "manifest.csv").write_text("\n".join(rows))
    result = run(bundle, [tmp_path / "away", tmp_path / "ct"], tmp_path / "out", internal=tmp_path / "home")
    text = "refused and not counted: the file is CT, and the model is for MR of the head"
    assert result["facts"]["Internal metrics"] == f"8 images of the internal data; 4 images {text}"
    assert result["facts"]["Images of away"].startswith("8 in ")
    assert result["facts"]["Images of away"].endswith(f"; 6 images {text}")
    assert {(row["data"], row["n_refused"]) for row in table(result, "drop")} == {("away", 6)}
    assert f"away: 6 images {text}." in result["answer"]
    assert "away: the model answers 100.0 % of the images in scope" in " ".join(result["answer"])
    [failure] = result["failed"]
    assert (failure["run"], failure["reason"][:26]) == ("ct", "All 3 images are refused; ")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "efused images</th>" in page
    assert f"6 images {text}" in page
    with (tmp_path / "out" / "experiment.csv").open(newline="") as stream:
        assert {row["n_refused"] for row in csv.DictReader(stream)} == {"6"}


def test_data_that_the_model_mostly_knows_is_no_other_hospital():
    excluded = [{"path": f"{i}.png", "reason": "training"} for i in range(8)]
    evaluation = {"n": 4, "excluded": [{"path": "a.png", "reason": "near duplicate"}]}
    known = "B: 9 of 13 images are left out, because the model was trained on them or their near duplicates."
    warned = f"{known} Most of this data is known to the model: it is no data of another hospital."
    assert _excluded_sentence(DatasetEvaluation("B", evaluation, excluded=excluded)) == [warned]
    assert _excluded_sentence(DatasetEvaluation("B", evaluation | {"n": 40}, excluded=excluded)) == [known.replace("13", "49")]
    assert _excluded_sentence(DatasetEvaluation("B", {"n": 4})) == []
