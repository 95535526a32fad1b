"""Evaluation from files to evaluation.json."""

import csv
import json
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.calibration import Conformal
from reslink.bundles.decision.decision import Decision
from reslink.bundles.scope import Scope
from reslink.datasets.manifest import Manifest
from reslink.errors import InputError, StorageError, UsageError
from reslink.evaluation import evaluate
from reslink.evaluation.compare import ModelEvaluation, compare
from reslink.evaluation.evaluate import EvaluationOptions, evaluate_and_predict, evaluate_bundle, evaluate_cases
from reslink.imaging.preprocess import Preprocess
from reslink.inference.classifier import Classifier
from reslink.labels import Labels
from reslink.metrics.classification import METRIC_NAMES
from reslink.networks.reslink import ResLinkConfig, build_network
from reslink.reports.run.flow_diagram import case_flow
from reslink.reports.run.page import evaluation_report
from reslink.reports.run.run_folder import read_run

LABELS = Labels(("Healthy", "Tumor"))

COLUMNS = ("sample_id", "patient_id", "path", "split", "label", "logit", "prob", "prediction", "group")


@pytest.fixture
def bundle(tmp_path):
    """The folder of a small bundle whose logits differ between pictures."""
    config = ResLinkConfig(stem_dim=8, dims=(8, 16), depths=(1, 1), in_channels=1)
    state = build_network(config, seed=1).state_dict()
    state["head.1.weight"] *= 30
    made = Bundle({"name": "tiny", **config.model_dump(mode="json")}, Preprocess(size=64, channels=1), LABELS)
    return made.save(tmp_path / "bundle", state).folder


@pytest.fixture
def data(tmp_path, rng):
    """A folder with 24 pictures of 12 patients, masks for tumors, and a manifest."""
    root = tmp_path / "data"
    (root / "masks").mkdir(parents=True)
    y, x = np.mgrid[:96, :96]
    rows = []
    for i in range(24):
        tumor = i % 2 == 1
        head = np.hypot(y - 48, (x - 48) * (1 + 0.02 * i)) < 40
        smooth = np.kron(rng.integers(0, 90, (12, 12)), np.ones((8, 8)))
        lesion = (np.hypot(y - 40, x - 50) < 9) & tumor
        grey = head * (70 + smooth) + lesion * 60
        Picture.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).save(root / f"{i:02d}.png")
        mask = ""
        if tumor:
            mask = f"masks/{i:02d}.png"
            Picture.fromarray((lesion * 255).astype(np.uint8)).save(root / mask)
        rows.append([f"{i:02d}.png", LABELS.names[tumor], f"p{i // 2}", mask, "test" if i < 20 else "train"])
    write_manifest(root, rows)
    return root


def write_manifest(root, rows):
    with (root / "manifest.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["path", "label", "patient_id", "mask", "split"], *rows])


def read_csv(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_content_of_an_evaluation(rng):
    y_true = rng.integers(0, 2, 60)
    positive = np.clip(y_true * 0.4 + rng.random(60) * 0.6, 0, 1)
    groups = [str(i // 2) for i in range(60)]
    found = evaluate_cases(y_true, np.stack([1 - positive, positive], 1), groups, LABELS, Decision())
    assert found["n"] == 60
    assert found["n_groups"] == 30
    assert found["positive"] == "Tumor"
    assert found["research_use_only"] is True
    assert found["localization"] == {}
    assert list(found["metrics"]) == list(METRIC_NAMES)
    assert list(found["per_class"]) == ["Healthy", "Tumor"]
    for estimates in (found["metrics"], *found["per_class"].values()):
        for value in estimates.values():
            assert list(value) == ["estimate", "ci_low", "ci_high", "method", "n"]
    assert found["per_class"]["Tumor"]["sensitivity"] == found["metrics"]["sensitivity"]
    assert found["confusion_matrix"]["labels"] == ["Healthy", "Tumor"]
    assert np.sum(found["confusion_matrix"]["counts"]) == 60
    json.dumps(found, allow_nan=False)


def test_the_threshold_of_the_decision_is_used():
    probabilities = np.array([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7]])
    found = evaluate_cases([0, 1, 1], probabilities, ["a", "b", "c"], LABELS, Decision(threshold=0.4))
    assert found["confusion_matrix"]["counts"] == [[1, 0], [0, 2]]
    found = evaluate_cases([0, 1, 1], probabilities, ["a", "b", "c"], LABELS, Decision(threshold=0.75))
    assert found["confusion_matrix"]["counts"] == [[1, 0], [2, 0]]


def test_an_empty_evaluation_is_refused():
    with pytest.raises(InputError, match="The arrays are empty"):
        evaluate_cases([], np.zeros((0, 2)), [], LABELS, Decision())


def test_a_data_set_is_evaluated(bundle, data, tmp_path):
    out = tmp_path / "out"
    found = evaluate_bundle(bundle, Manifest.open(data), out, EvaluationOptions(device="cpu", localization=False))
    assert found == json.loads((out / "evaluation.json").read_text())
    assert found["n"] == 24
    assert found["n_groups"] <= 12, "two images of a patient are one group"
    assert found["n_failed"] == 0
    assert found["data"] == data.name
    assert date.fromisoformat(found["date"]) <= datetime.now(UTC).date()
    rows = read_csv(out / "predictions.csv")
    assert list(rows[0])[:9] == list(COLUMNS)
    alone = list(Classifier.load(bundle, "cpu").predict([data / row["path"] for row in rows]))
    for row, one in zip(rows, alone, strict=True):
        assert float(row["prob"]) == pytest.approx(one.probabilities["Tumor"], abs=1e-5)
        assert float(row["prob"]) == pytest.approx(1 / (1 + np.exp(-float(row["logit"]))))
        assert float(row["p_Healthy"]) + float(row["p_Tumor"]) == pytest.approx(1)
        assert row["prediction"] == one.label
    right = np.mean([row["label"] == row["prediction"] for row in rows])
    assert found["metrics"]["accuracy"]["estimate"] == pytest.approx(right)
    assert sorted(path.name for path in out.iterdir()) == ["evaluation.json", "predictions.csv"]


@pytest.mark.parametrize(("by", "patient", "groups"), [("scan", "", 6), ("both", "", 24), ("scan", "p", 12)])
def test_intervals_resample_scans_if_the_split_of_the_model_keeps_them_together(
    data, tmp_path, monkeypatch, by, patient, groups
):
    """The planted scans are four images each; where patients are stated, these are the groups."""
    rows = [[f"{i:02d}.png", LABELS.names[i % 2], patient and f"p{i // 2}", "", ""] for i in range(24)]
    write_manifest(data, rows)
    config = ResLinkConfig(stem_dim=8, dims=(8, 16), depths=(1, 1), in_channels=1)
    made = Bundle(
        {"name": "tiny", **config.model_dump(mode="json")},
        Preprocess(size=64, channels=1),
        LABELS,
        provenance={"recipe": {"data": {"group_by": by}}},
    )
    bundle = made.save(tmp_path / "bundle", build_network(config, seed=1).state_dict()).folder
    monkeypatch.setattr(evaluate, "leakage_groups", lambda rows, _: [case.patient_id or case.name for case in rows.cases])
    monkeypatch.setattr(
        evaluate, "group_cases", lambda rows, _, by: [f"{by} {int(Path(case.name).stem) // 4}" for case in rows.cases]
    )
    options = EvaluationOptions(device="cpu", localization=False)
    found, cases = evaluate_and_predict(bundle, Manifest.open(data), tmp_path / "out", options)
    assert found["n_groups"] == groups
    assert found["group_by"] == cases.group_by == cases.in_scope().group_by == ("scan" if groups == 6 else "both")
    assert any("Intervals resample probable scans" in note for note in found["data_notes"]) == (groups == 6)
    assert len({row["group"] for row in read_csv(tmp_path / "out" / "predictions.csv")}) == groups


def test_equal_runs_write_equal_files(bundle, data, tmp_path):
    for name in ("a", "b"):
        evaluate_bundle(bundle, Manifest.open(data), tmp_path / name, EvaluationOptions(device="cpu", localization=False))
    for file in ("evaluation.json", "predictions.csv"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_bad_file_is_listed_and_the_others_are_evaluated(bundle, data, tmp_path):
    (data / "03.png").write_bytes(b"not an image")
    found = evaluate_bundle(bundle, Manifest.open(data), tmp_path / "out", EvaluationOptions(device="cpu", localization=False))
    assert (found["n"], found["n_failed"]) == (23, 1)
    assert list(found["failed"]) == ["03.png"]
    assert "03.png" not in {row["sample_id"] for row in read_csv(tmp_path / "out" / "predictions.csv")}


def test_masks_give_localization(bundle, data, tmp_path):
    found = evaluate_bundle(bundle, Manifest.open(data), tmp_path / "out", EvaluationOptions(device="cpu", localization=True))
    assert found["localization"]["n"] == 12
    json.dumps(found, allow_nan=False)


def test_one_split_is_evaluated(bundle, data, tmp_path):
    manifest = Manifest.open(data)
    found = evaluate_bundle(
        bundle, manifest, tmp_path / "out", EvaluationOptions(device="cpu", split="test", localization=False)
    )
    assert (found["n"], found["split"]) == (20, "test")
    with pytest.raises(UsageError, match=r"'validation'.*splits of the data set are test, train"):
        evaluate_bundle(bundle, manifest, tmp_path / "out", EvaluationOptions(split="validation"))


def test_an_unknown_label_names_the_nearest(bundle, data, tmp_path):
    text = (data / "manifest.csv").read_text().replace("Tumor", "Tumour")
    (data / "manifest.csv").write_text(text)
    with pytest.raises(UsageError, match=r"There is no class 'Tumour'.*Did you mean 'Tumor'"):
        evaluate_bundle(bundle, Manifest.open(data), tmp_path / "out", EvaluationOptions(device="cpu"))
    assert not (tmp_path / "out").exists(), "labels are looked at before the first image is"


def test_one_class_alone_is_evaluated_as_far_as_possible(bundle, data, tmp_path):
    manifest = Manifest.open(data)
    tumors = manifest.subset(i for i, case in enumerate(manifest.cases) if case.label == "Tumor")
    found = evaluate_bundle(bundle, tumors, tmp_path / "out", EvaluationOptions(device="cpu", localization=False))
    assert found["metrics"]["sensitivity"]["estimate"] is not None
    assert found["metrics"]["auroc"]["estimate"] is None
    assert found["metrics"]["auroc"]["method"] == "undefined: all cases are of 'Tumor'"


def test_a_hostile_name_is_not_a_formula(bundle, data, tmp_path):
    (data / "00.png").rename(data / "=cmd.png")
    text = (data / "manifest.csv").read_text().replace("00.png,Healthy,p0", "=cmd.png,Healthy,+p0")
    (data / "manifest.csv").write_text(text)
    evaluate_bundle(bundle, Manifest.open(data), tmp_path / "out", EvaluationOptions(device="cpu", localization=False))
    row = read_csv(tmp_path / "out" / "predictions.csv")[0]
    assert row["sample_id"] == "'=cmd.png"
    assert row["patient_id"] == "'+p0"


def test_the_cache_can_be_kept_and_is_used(bundle, data, tmp_path):
    manifest, cache = Manifest.open(data), tmp_path / "cache"
    first = evaluate_bundle(
        bundle, manifest, tmp_path / "out", EvaluationOptions(device="cpu", localization=False, cache_folder=cache)
    )
    assert any(cache.iterdir())
    again = evaluate_bundle(
        bundle, manifest, tmp_path / "out", EvaluationOptions(device="cpu", localization=False, cache_folder=cache)
    )
    assert again == first


def test_a_folder_that_cannot_be_written_is_reported(bundle, data, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match=r"could not be written.*choose another folder"):
        evaluate_bundle(bundle, Manifest.open(data), tmp_path / "file" / "out", EvaluationOptions(device="cpu"))


def test_images_outside_the_scope_are_refused_and_not_counted(bundle, data, tmp_path):
    limited = replace(Bundle.load(bundle), scope=Scope(modality="MR"))
    limited = limited.with_decision(limited.decision, tmp_path / "limited")
    rows = [[f"{i:02d}.npy", LABELS.names[i % 2], f"p{i}", "", "test"] for i in range(20)]
    for name, *_ in rows:
        gray = np.asarray(Picture.open((data / name).with_suffix(".png")), np.float32)
        np.save(data / name, np.where(gray > 0, gray / 4, -1000) if name < "08" else gray * 3.3)  # CT, then MR
    units = ["" if name < "08" else "mr" for name, *_ in rows]
    with (data / "manifest.csv").open("w", newline="") as stream:
        table = [["path", "label", "unit"], *([name, label, unit] for (name, label, *_), unit in zip(rows, units, strict=True))]
        csv.writer(stream).writerows(table)
    result = evaluate_bundle(limited, Manifest.open(data, labels=LABELS), tmp_path / "out", EvaluationOptions())
    reason = "the file is CT, and the model is for MR of the head"
    assert (result["n"], result["n_refused"], result["n_failed"]) == (12, 8, 0)
    assert result["refused"] == {f"{i:02d}.npy": reason for i in range(8)}
    assert np.sum(result["confusion_matrix"]["counts"]) == result["metrics"]["accuracy"]["n"] == 12
    assert result["selective"]["n_abstained"] == 0
    table = {row["sample_id"]: row for row in read_csv(tmp_path / "out" / "predictions.csv")}
    assert len(table) == 20
    classifier = Classifier(limited)
    for (name, *_), unit in zip(rows, units, strict=True):
        [one], row = classifier.predict(data / name, unit=unit or None), table[name]
        assert row["prediction"] == (one.label or "")
        if one.is_refused:
            empty = ("logit", "prob", "prediction", "p_Healthy", "p_Tumor", "prediction_set", "ood_score")
            assert [row[key] for key in empty] == [""] * 7
            assert (row["abstain"], row["reasons"]) == ("true", reason)
    answered = [row for row in table.values() if row["prediction"]]
    right = np.mean([row["label"] == row["prediction"] for row in answered])
    assert result["metrics"]["accuracy"]["estimate"] == pytest.approx(right)
    page = evaluation_report(tmp_path / "out").read_text()
    assert "Measured on 12 cases. 8 more are in no metric" in page
    assert f'The {reason.removeprefix("the ")}</span></th><td class="n">8</td>' in page
    steps = [(step.n_images, step.detail) for step in case_flow(read_run(tmp_path / "out")) if "Refused" in step.title]
    assert steps == [(8, reason)]
    plain = evaluate_bundle(bundle, Manifest.open(data, labels=LABELS), tmp_path / "plain", EvaluationOptions())
    assert (plain["n"], plain["refused"]) == (20, {})
    models = [ModelEvaluation.read(name, tmp_path / name) for name in ("out", "plain")]
    assert compare(models)["n"] == 12
    assert models[0].exclusion_reasons()["00.npy"] == reason
    write_manifest(data, rows[:8])
    with pytest.raises(InputError, match=f"All 8 images are refused; the first: {reason}. The model is for MR of the head"):
        evaluate_bundle(limited, Manifest.open(data, labels=LABELS), tmp_path / "none", EvaluationOptions())
    assert not (tmp_path / "none" / "evaluation.json").exists()


def test_subgroups_have_coverage_and_silent_errors_if_the_bundle_can_abstain(bundle, data, tmp_path):
    """Prediction sets at a low limit are often empty: the model abstains."""
    sets = Conformal(coverage=0.9, per_class=False, limits=(0.4, 0.4), n_images=9, n_groups=9)
    loaded = Bundle.load(bundle)
    abstaining = loaded.with_decision(loaded.decision.model_copy(update={"conformal": sets}), tmp_path / "abstaining")
    options = EvaluationOptions(subgroup_columns=("split",))
    result = evaluate_bundle(abstaining, Manifest.open(data), tmp_path / "out", options)
    assert 0 < result["selective"]["n_abstained"] < 24
    rows = read_csv(tmp_path / "out" / "predictions.csv")
    for split, subgroup in result["subgroups"]["split"].items():
        own = [row for row in rows if row["split"] == split]
        answered = [row for row in own if row["abstain"] == "false"]
        wrong = [row for row in answered if row["prediction"] != row["label"]]
        found = {name: value["estimate"] for name, value in subgroup["selective"].items()}
        shares = {"coverage": len(answered) / len(own), "silent_errors": len(wrong) / len(own)}
        shares["answered_accuracy"] = 1 - len(wrong) / len(answered) if answered else None
        assert found == pytest.approx(shares)
    plain = evaluate_bundle(bundle, Manifest.open(data), tmp_path / "plain", options)
    assert [subgroup["selective"] for subgroup in plain["subgroups"]["split"].values()] == [{}, {}]
