"""Calibration: from files to a bundle whose decision predict, evaluate and explain apply."""

import csv
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image as Picture
from typer.testing import CliRunner

from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.decision import Decision
from reslink.bundles.fingerprints import TrainingImages
from reslink.bundles.scope import Scope
from reslink.datasets.manifest import Manifest
from reslink.datasets.near_duplicates.fingerprints import make_fingerprints
from reslink.datasets.near_duplicates.thumbnails import make_thumbnail
from reslink.errors import BundleError, InputError, UsageError
from reslink.evaluation.calibrate import calibrate_bundle
from reslink.evaluation.cases import RunOptions
from reslink.evaluation.evaluate import EvaluationOptions, evaluate_bundle
from reslink.evaluation.fitting import DecisionOptions
from reslink.files import sha256
from reslink.imaging.preprocess import Preprocess
from reslink.imaging.reading import read_image
from reslink.inference.classifier import Classifier
from reslink.labels import Labels
from reslink.metrics.operating_point import OperatingPoint
from reslink.networks.reslink import ResLinkConfig, build_network

N = 90


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ninety pictures of heads with a bright ring, one per patient, with a bright spot if the class is Tumor."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(5)
    y, x = np.mgrid[:96, :96]
    rows = []
    for i in range(N):
        r = np.hypot(y - 48 + rng.normal(), (x - 48) * rng.uniform(1.0, 1.2))
        grey = (r < 40) * (90 + np.kron(rng.integers(0, 60, (12, 12)), np.ones((8, 8)))) + (abs(r - 42) < 3) * 250
        spot = np.hypot(y - rng.integers(35, 60), x - rng.integers(35, 60)) < rng.uniform(3, 9)
        grey += spot * 70 * (i % 2)
        Picture.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).save(root / f"{i:02d}.png")
        rows.append([f"{i:02d}.png", ("Healthy", "Tumor")[i % 2], f"p{i}", "validation" if i < 60 else "test"])
    with (root / "manifest.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["path", "label", "patient_id", "split"], *rows])
    return root


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A bundle with random weights and an empty list of training images."""
    config = ResLinkConfig(stem_dim=8, dims=(8, 16), depths=(1, 1), in_channels=1)
    state = build_network(config, seed=1).state_dict()
    state["head.1.weight"] *= 30
    empty = TrainingImages(np.zeros((0, 128), np.uint8), np.zeros((0, 32), np.uint8))
    made = Bundle(
        {"name": "tiny", **config.model_dump(mode="json")},
        Preprocess(size=64, channels=1),
        Labels(("Healthy", "Tumor")),
        metrics={"n": 3},
        training_images=empty,
    )
    return made.save(tmp_path_factory.mktemp("made") / "bundle", state).folder


@pytest.fixture(scope="module")
def calibrated(bundle, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("calibrated") / "bundle"
    options = DecisionOptions(operating_point=OperatingPoint.parse("sensitivity=0.9"), coverage=0.9)
    return out, calibrate_bundle(
        bundle, Manifest.open(data), out, decision_options=options, options=RunOptions(split="validation", device="cpu")
    )


def test_the_result(calibrated):
    out, found = calibrated
    json.dumps(found, allow_nan=False)
    assert (found["bundle"], found["n"], found["n_groups"], found["notes"]) == (str(out), 60, 60, [])
    checked = found["cross_fit"]
    assert checked["n"] == 60
    assert 0.8 <= checked["retained"]["estimate"] <= 1
    assert 0.75 <= checked["prediction_sets"]["coverage"]["estimate"] <= 1
    assert checked["notes"] == []
    assert found["research_use_only"] is True


def test_the_new_bundle_has_the_decision_and_the_same_weights(calibrated, bundle):
    out, found = calibrated
    before, after = Bundle.load(bundle), Bundle.load(out)
    assert sorted(path.name for path in out.iterdir()) == [
        *("MODEL_CARD.md", "bundle.json", "decision.safetensors", "fingerprints.safetensors", "model.safetensors")
    ]
    assert after.weights_sha256 == before.weights_sha256
    assert after.decision.model_dump(mode="json") == found["decision"]
    assert after.metrics == {}, "metrics of the previous decision are removed"
    assert before.decision.ood is None, "the given bundle is unchanged"
    fitted = after.decision.fitted_on
    assert (fitted.n_images, fitted.split, fitted.counts) == (60, "validation", {"Healthy": 30, "Tumor": 30})
    assert (len(after.training_images), len(after.calibration_images)) == (0, 60)
    card = (out / "MODEL_CARD.md").read_text()
    assert "Prediction sets (split conformal): 0.9 coverage over all cases" in card
    assert "Out-of-distribution detector: the model abstains" in card
    assert "training may have chosen the epoch on this validation split" in card


def test_predict_evaluate_and_explain_apply_the_decision(calibrated, data, tmp_path):
    out, _ = calibrated
    classifier = Classifier.load(out, "cpu")
    paths = [data / f"{i:02d}.png" for i in range(60, N)]
    noise = tmp_path / "noise.png"
    Picture.fromarray(np.random.default_rng(0).integers(0, 255, (96, 96)).astype(np.uint8)).save(noise)
    *predictions, outlier = classifier.predict([*paths, noise], batch_size=7)
    assert (outlier.abstain, outlier.error) == (True, None)
    assert outlier.ood_score > 1
    assert "the image differs from the calibration images" in outlier.reasons
    assert outlier.label is not None, "the label that it would have had"
    assert sum(one.ood_score <= 1 for one in predictions) >= 26
    for one in predictions:
        assert one.abstain == bool(one.reasons)
        assert one.abstain == (one.ood_score > 1 or one.prediction_set != (one.label,))
    result = evaluate_bundle(
        out, Manifest.open(data), tmp_path / "evaluated", EvaluationOptions(split="test", device="cpu", localization=False)
    )
    with (tmp_path / "evaluated" / "predictions.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for row, one in zip(rows, predictions, strict=True):
        assert row["prediction_set"].split("|") == (list(one.prediction_set) or [""])
        assert row["abstain"] == str(one.abstain).lower()
        assert float(row["ood_score"]) == pytest.approx(one.ood_score, rel=1e-4)
        assert row["reasons"] == "; ".join(one.reasons)
    covered = [one for one in predictions if not one.abstain]
    selective = result["selective"]
    assert (result["n"], selective["n_covered"], selective["n_abstained"]) == (30, len(covered), 30 - len(covered))
    right = [row["label"] == row["prediction"] for row in rows]
    assert result["metrics"]["accuracy"]["estimate"] == pytest.approx(np.mean(right)), "over all cases"
    kept = [hit for hit, one in zip(right, predictions, strict=True) if not one.abstain]
    assert 0 < len(kept) < 30
    assert selective["metrics"]["accuracy"]["estimate"] == pytest.approx(np.mean(kept))
    assert selective["coverage"]["estimate"] == pytest.approx(len(kept) / 30)
    assert selective["prediction_sets"]["n_empty"] == sum(one.prediction_set == () for one in predictions)
    sizes = selective["prediction_sets"]["mean_size"]
    assert sizes["estimate"] == pytest.approx(np.mean([len(one.prediction_set) for one in predictions]))
    assert sizes["ci_low"] < sizes["estimate"] < sizes["ci_high"]
    for estimate in selective["prediction_sets"]["coverage_by_class"].values():
        assert (estimate["n"], estimate["ci_low"] <= estimate["estimate"] <= estimate["ci_high"]) == (15, True)
    assert selective["n_out_of_distribution"] == sum(one.ood_score > 1 for one in predictions)
    assert selective["risk_coverage"]["curve"][-1]["risk"] == pytest.approx(1 - np.mean(right))

    from reslink.explain.explain_files import ExplainOptions, explain_paths

    (explained,) = explain_paths(classifier, [noise], tmp_path / "why", ExplainOptions(["grad_cam"], randomization_check=False))
    assert (explained.abstain, tuple(explained.reasons)) == (True, outlier.reasons)


def test_calibration_cases_are_excluded_from_evaluations(calibrated, data, tmp_path):
    out, _ = calibrated
    result = evaluate_bundle(out, Manifest.open(data), tmp_path / "all", EvaluationOptions(device="cpu", localization=False))
    assert result["n"] == 30
    assert sorted(one["path"] for one in result["excluded"]) == [f"{i:02d}.png" for i in range(60)]
    assert {one["reason"] for one in result["excluded"]} == {"calibration image"}
    assert result["leakage"]["message"] == "60 of 90 cases overlap with the calibration data and were excluded"


def with_training_images(folder, images, out):
    """The same bundle and decision with other training images."""
    loaded = Bundle.load(folder)
    return replace(loaded, training_images=images).with_decision(loaded.decision, out).folder


def test_they_are_excluded_without_training_fingerprints(calibrated, data, tmp_path):
    out = with_training_images(calibrated[0], None, tmp_path / "unknowing")
    result = evaluate_bundle(out, Manifest.open(data), tmp_path / "all", EvaluationOptions(device="cpu", localization=False))
    assert (result["n"], result["n_excluded"]) == (30, 60)
    assert {one["reason"] for one in result["excluded"]} == {"calibration image"}
    assert (result["leakage"]["status"], result["leakage"]["n_leaked"]) == ("unknown", None)
    assert result["leakage"]["message"].startswith(
        "60 of 90 cases overlap with the calibration data and were excluded. The bundle"
    )
    assert "no fingerprints of its training images" in result["leakage"]["message"]
    allowed = evaluate_bundle(
        out, Manifest.open(data), tmp_path / "allowed", EvaluationOptions(device="cpu", localization=False, allow_leakage=True)
    )
    assert (allowed["n"], allowed["leakage"]["status"]) == (90, "allowed")
    assert allowed["metrics"]["accuracy"]["leakage"] is True


def test_they_are_excluded_although_training_exempted_them(calibrated, data, tmp_path):
    thumbnails = np.stack([make_thumbnail(read_image(data / f"{i:02d}.png")) for i in (0, 70)])
    cleared = np.stack([np.frombuffer(bytes.fromhex(sha256(one.tobytes())), np.uint8) for one in thumbnails])
    out = with_training_images(calibrated[0], TrainingImages(make_fingerprints(thumbnails), cleared), tmp_path / "cleared")
    result = evaluate_bundle(out, Manifest.open(data), tmp_path / "all", EvaluationOptions(device="cpu", localization=False))
    assert result["n"] == 30, "image 70 is exempted and evaluated; image 0 is exempted too but is a calibration image"
    assert {"path": "00.png", "reason": "calibration image"} in result["excluded"]


def test_training_images_are_not_used_for_calibration(bundle, data, tmp_path):
    learned = np.stack([make_thumbnail(read_image(data / f"{i:02d}.png")) for i in range(20)])
    images = TrainingImages(make_fingerprints(learned), np.zeros((0, 32), np.uint8))
    loaded = Bundle.load(bundle)
    knowing = replace(loaded, training_images=images).save(tmp_path / "knowing", loaded.network().state_dict())
    found = calibrate_bundle(
        knowing.folder, Manifest.open(data), tmp_path / "out", options=RunOptions(device="cpu", split="validation")
    )
    assert found["n"] == 40
    assert sorted(one["path"] for one in found["excluded"]) == [f"{i:02d}.png" for i in range(20)]
    again = calibrate_bundle(
        knowing.folder,
        Manifest.open(data),
        tmp_path / "out2",
        options=RunOptions(device="cpu", split="validation", allow_leakage=True),
    )
    assert (again["n"], again["decision"]["fitted_on"]["leakage"]) == (60, True)


def test_a_bundle_can_be_calibrated_again_in_place(calibrated, data, tmp_path):
    out, _ = calibrated
    mine = tmp_path / "mine"
    shutil.copytree(out, mine)
    found = calibrate_bundle(
        mine,
        Manifest.open(data),
        decision_options=DecisionOptions(method="isotonic", coverage=None, ood=False),
        options=RunOptions(split="validation", device="cpu"),
    )
    loaded = Bundle.load(mine)
    assert (found["n"], found["bundle"]) == (60, str(mine))
    assert (loaded.decision.conformal, loaded.decision.ood, loaded.decision.temperature) == (None, None, 1.0)
    assert len(loaded.decision.isotonic) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"], "nothing is left behind"


def test_modified_arrays_are_refused(calibrated, tmp_path):
    out, _ = calibrated
    for name, change in (("cut", lambda raw: raw[:-4]), ("turned", lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]))):
        copy = tmp_path / name
        shutil.copytree(out, copy)
        (copy / "decision.safetensors").write_bytes(change((copy / "decision.safetensors").read_bytes()))
        with pytest.raises(BundleError, match=r"decision\.safetensors cannot be used.*train or calibrate again"):
            Bundle.load(copy)
    (copy / "decision.safetensors").unlink()
    with pytest.raises(BundleError, match="No such file"):
        Bundle.load(copy)


def test_too_little_data_leaves_the_bundle_as_it_was(bundle, data):
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    manifest = Manifest.open(data)
    with pytest.raises(UsageError, match="has 6 groups"):
        calibrate_bundle(bundle, manifest.subset(range(6)), options=RunOptions(device="cpu"))
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before


def test_a_failure_at_any_point_leaves_the_bundle_as_it_was(bundle, data, monkeypatch):
    def broken(*_):
        raise RuntimeError("the check broke")

    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    monkeypatch.setattr("reslink.evaluation.calibrate.cross_fit_metrics", broken)
    with pytest.raises(RuntimeError, match="the check broke"):
        calibrate_bundle(bundle, Manifest.open(data), options=RunOptions(split="validation", device="cpu"))
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before


def test_four_images_per_class_are_calibrated_without_cross_fitting(data, tmp_path):
    names = ("a", "b", "c", "d")
    rows = [[f"{i:02d}.png", names[i % 4], f"p{i}"] for i in range(16)]
    for name, *_ in rows:
        shutil.copy(data / name, tmp_path)
    with (tmp_path / "four.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["path", "label", "patient_id"], *rows])
    config = ResLinkConfig(stem_dim=8, dims=(8, 16), depths=(1, 1), in_channels=1, num_classes=4)
    architecture = {"name": "tiny", **config.model_dump(mode="json")}
    made = Bundle(architecture, Preprocess(size=64, channels=1), Labels(names), Decision.default(4))
    folder = made.save(tmp_path / "bundle", build_network(config, seed=1).state_dict()).folder
    found = calibrate_bundle(folder, Manifest.open(tmp_path / "four.csv"), options=RunOptions(device="cpu"))
    assert found["cross_fit"] == {
        "n": 16,
        "reason": "A decision cannot be fitted to four fifths of the groups: "
        "The cases cannot be split into 5 folds: no class has more than 4 images",
    }
    assert Bundle.load(folder).decision.fitted_on.n_images == 16


def test_the_command(bundle, data, tmp_path):
    from reslink.cli.main import app

    out = tmp_path / "new"
    arguments = ["calibrate", str(bundle), str(data), "--split", "validation", "--out", str(out), "--device", "cpu"]
    result = CliRunner().invoke(app, [*arguments, "--json", "--quiet"])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["decision"]["ood"]["n_images"] == 60
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2
    assert "already holds a bundle" in again.stderr
    table = CliRunner().invoke(app, [*arguments, "--overwrite", "--coverage", "0.99"])
    assert table.exit_code == 0, table.stderr
    assert "No prediction sets: there are 60 images; a coverage of 0.99 needs 99" in table.stderr
    assert "Research use only" in table.stderr
    lines = {name: rest for name, *rest in (line.split("\t") for line in table.stdout.splitlines())}
    assert lines["images"] == ["60 in 60 groups"]
    assert lines["prediction sets"] == ["none"]
    for name in (
        "ECE before",
        "ECE after",
        "Brier score after",
        "sensitivity (recall)",
        "specificity",
        "accepted by the OOD detector",
    ):
        assert re.fullmatch(r"[01]\.\d{3} to [01]\.\d{3}", lines[name][1]), (name, lines[name])
    assert "Training may have chosen the epoch on this validation split" in table.stderr
    wrong = CliRunner().invoke(app, [*arguments, "--overwrite", "--operating-point", "sensitivty=0.9"])
    assert wrong.exit_code == 2
    assert "Did you mean 'sensitivity=0.95'" in wrong.stderr
    tried = CliRunner().invoke(app, ["predict", str(out), str(data / "70.png"), str(data / "71.png"), "--json"])
    assert tried.exit_code == 0
    assert json.loads(tried.stdout.splitlines()[0])["ood_score"] is not None


def test_images_outside_the_scope_do_not_fit_the_decision(bundle, data, tmp_path):
    limited = replace(Bundle.load(bundle), scope=Scope(modality="CT")).save(
        tmp_path / "limited", Bundle.load(bundle).network().state_dict()
    )
    root = tmp_path / "data"
    shutil.copytree(data, root)
    rows = list(csv.DictReader((root / "manifest.csv").read_text().splitlines()))[:60]
    for i, row in enumerate(rows):
        gray = np.asarray(Picture.open(root / row["path"]), np.float32)
        row["path"], row["unit"] = f"{i:02d}.npy", "mr" if i < 12 else "hu"
        np.save(root / row["path"], gray if i < 12 else hounsfield_units(gray))

    def calibrated_on(rows, name):
        with (root / "manifest.csv").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        return calibrate_bundle(limited.folder, Manifest.open(root), tmp_path / name, options=RunOptions(device="cpu"))

    found, without = calibrated_on(rows, "with"), calibrated_on(rows[12:], "without")
    reason = "the file is MR, and the model is for CT of the head"
    assert (found["n"], found["n_refused"]) == (48, 12)
    assert found["refused"] == {f"{i:02d}.npy": reason for i in range(12)}
    assert (without["n"], without["refused"]) == (48, {})
    assert found["decision"]["temperature"] == without["decision"]["temperature"]
    assert found["decision"]["fitted_on"]["counts"] == without["decision"]["fitted_on"]["counts"]
    with pytest.raises(InputError, match=f"All 12 images are refused; the first: {reason}"):
        calibrated_on(rows[:12], "none")
    assert not (tmp_path / "none").exists()


def hounsfield_units(gray):
    """The pictures of ``data`` in HU: the ring is bone."""
    return np.where(gray > 240, 900, np.where(gray > 0, gray / 4, -1000)).astype(np.float32)


def test_a_bundle_for_ct_refuses_slices_without_brain_from_then_on(bundle, data, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    rows = list(csv.DictReader((data / "manifest.csv").read_text().splitlines()))[:60]
    for i, row in enumerate(rows):
        gray = np.asarray(Picture.open(data / row["path"]), np.float32)
        row["path"], row["unit"] = f"{i:02d}.npy", "hu"
        np.save(root / row["path"], hounsfield_units(np.where(gray > 240, 0, gray) if i < 8 else gray))  # muscle without bone
    with (root / "manifest.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    earlier = replace(Bundle.load(bundle), scope=Scope(modality="CT"))
    saved = earlier.save(tmp_path / "earlier", Bundle.load(bundle).network().state_dict())
    result = calibrate_bundle(saved.folder, Manifest.open(root), tmp_path / "out", options=RunOptions(device="cpu"))
    assert (result["n"], result["n_refused"]) == (52, 8)
    assert set(result["refused"]) == {f"{i:02d}.npy" for i in range(8)}
    assert all(reason.startswith("it shows little brain: 0 %") for reason in result["refused"].values())
    assert result["decision"]["ood"]["retained"] == 0.975, "such a slice is no image that the detector spares"
    assert [Bundle.load(tmp_path / name).scope.min_brain_share for name in ("out", "earlier")] == [0.25, None]


def with_sources(manifest, names):
    cases = tuple(replace(case, source=names[i % len(names)]) for i, case in enumerate(manifest.cases))
    return replace(manifest, cases=cases)


def test_coverage_is_held_and_reported_within_each_source(bundle, data, tmp_path):
    manifest = with_sources(Manifest.open(data), ["A", "A", "B"])
    options = DecisionOptions(coverage=0.8, per_source=True)
    result = calibrate_bundle(bundle, manifest, tmp_path / "bundle", options, RunOptions(device="cpu"))
    assert result["decision"]["conformal"]["sources"] == ["A", "B"]
    by_source = result["cross_fit"]["prediction_sets"]["coverage_by_source"]
    assert {name: value["n"] for name, value in by_source.items()} == {"A": 60, "B": 30}
    assert Bundle.load(tmp_path / "bundle").decision.conformal.sources == ("A", "B")


@pytest.mark.parametrize(("names", "reason"), [([None], "no source"), (["A"], "one source")])
def test_one_source_cannot_be_covered_by_source(bundle, data, tmp_path, monkeypatch, names, reason):
    """The check comes before the images are decoded."""
    monkeypatch.setattr("reslink.evaluation.calibrate.open_cache", lambda *_: pytest.fail("the images are decoded"))
    with pytest.raises(UsageError, match=f"the images state {reason}.*two or more sources.*--columns source="):
        calibrate_bundle(
            bundle,
            with_sources(Manifest.open(data), names),
            tmp_path / "bundle",
            DecisionOptions(per_source=True),
            RunOptions(device="cpu"),
        )
    assert not (tmp_path / "bundle").exists()
