"""The robustness experiment, compared with files that are corrupted, saved and predicted one by one."""

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
from reslink.bundles.decision.decision import Decision
from reslink.bundles.scope import Scope
from reslink.datasets.corruptions import Original, corrupt
from reslink.datasets.manifest import Manifest
from reslink.errors import InputError, UsageError
from reslink.experiments.robustness import predict_corrupted
from reslink.experiments.robustness.robustness import RobustnessOptions, robustness
from reslink.imaging.preprocess import Preprocess
from reslink.imaging.reading import read_image
from reslink.inference.classifier import Classifier
from reslink.labels import Labels
from reslink.networks.reslink import ResLinkConfig, build_network
from reslink.training.monitoring.progress import SilentProgress

LABELS = Labels(("Healthy", "Tumor"))
KINDS = ("noise", "jpeg", "crop")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A bundle, and 24 images of 12 patients with its predictions as labels, so its accuracy is 1."""
    place, rng = tmp_path_factory.mktemp("robustness"), np.random.default_rng(0)
    root = place / "data"
    root.mkdir()
    y, x = np.mgrid[:96, :96] - 48
    for i in range(24):
        texture = ndimage.gaussian_filter(rng.standard_normal((96, 96)), 3) * 250
        picture = (np.hypot(y, x * (1 + 0.015 * i)) < 40) * (110 + texture)
        Picture.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(root / f"{i:02d}.png")
    config = ResLinkConfig(stem_dim=8, dims=(8, 16), depths=(1, 1), in_channels=1)
    state = build_network(config, seed=1).state_dict()
    state["head.1.weight"] *= 30
    bundle = Bundle({"name": "tiny", **config.model_dump(mode="json")}, Preprocess(size=64, channels=1), LABELS)
    plain = bundle.save(place / "bundle", state)
    calls = [call.probabilities["Tumor"] for call in Classifier.load(plain.folder, "cpu").predict(sorted(root.iterdir()))]
    middle = float(np.median(calls))
    replace(plain, decision=Decision(threshold=middle)).save(place / "bundle", state)
    rows = [[f"{i:02d}.png", LABELS.names[call >= middle], f"p{i // 2}"] for i, call in enumerate(calls)]
    with (root / "manifest.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["path", "label", "patient_id"], *rows])
    return place


@pytest.fixture(scope="module")
def whole(made):
    """The report of the experiment in ``made / "whole"``."""
    return run(made / "bundle", made / "data", made / "whole", corruptions=KINDS)


@pytest.fixture
def bundle(made):
    return made / "bundle"


@pytest.fixture
def data(made, tmp_path):
    return Path(shutil.copytree(made / "data", tmp_path / "data"))


def run(bundle, data, out, progress=None, **options):
    options = RobustnessOptions(**{"corruptions": ("jpeg",), "device": "cpu", **options})
    return robustness(bundle, Manifest.open(data, labels=LABELS), out, options, progress)


def rows_of(result, name="metrics"):
    [table] = [table for table in result["tables"] if table["name"] == name]
    return {(row["kind"], row.get("severity")): row for row in table["rows"]}


def test_each_metric_equals_that_of_files_corrupted_and_predicted_one_by_one(bundle, data, whole, tmp_path):
    rows = rows_of(whole)
    assert set(rows) == {(None, 0), *((kind, severity) for kind in KINDS for severity in (1, 2, 3, 4, 5))}
    assert rows[None, 0]["accuracy"]["estimate"] == 1
    manifest, classifier, changed = Manifest.open(data, labels=LABELS), Classifier.load(bundle, "cpu"), 0
    for kind, severity in (("noise", 2), ("jpeg", 5), ("crop", 4)):
        right = []
        for case in manifest.cases:
            spoiled = corrupt(Original(read_image(case.path), case.name, 0), kind, severity)
            path = tmp_path / "spoiled.png"
            Picture.fromarray(spoiled.pixels.astype(np.uint8)).save(path)
            right.append(next(classifier.predict([path])).label == case.label)
        row = rows[kind, severity]
        assert row["accuracy"]["estimate"] == pytest.approx(np.mean(right))
        assert row["drop_accuracy"]["estimate"] == pytest.approx(1 - np.mean(right))
        changed += right.count(False)
    assert changed
    assert rows["noise", 5]["accuracy"]["ci_low"] <= rows["noise", 5]["accuracy"]["estimate"]


def test_it_writes_csv_json_and_page(made, whole):
    folder = made / "whole" / "robustness"
    assert json.loads((folder / "experiment.json").read_text()) == whole
    with (folder / "experiment.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == 15
    assert {line["kind"] for line in lines} == set(KINDS)
    page = (folder / "report.html").read_text()
    assert "Research use only" in page
    assert page.count("<svg") == 3
    assert whole["research_use_only"] is True
    assert "NaN" not in (folder / "experiment.json").read_text()


def test_an_interrupted_experiment_resumes_with_the_same_result(bundle, data, tmp_path, monkeypatch):
    undisturbed = run(bundle, data, tmp_path / "undisturbed")

    class Stop(SilentProgress):
        done = 0

        def step(self, n=1, **_):
            self.done += n
            if self.done > 24 + 9:  # reading takes 24 steps
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(bundle, data, tmp_path / "out", progress=Stop())
    calls = []
    original = predict_corrupted.corrupted_versions
    monkeypatch.setattr(
        predict_corrupted, "corrupted_versions", lambda case, *args: calls.append(case.name) or original(case, *args)
    )
    assert run(bundle, data, tmp_path / "out") == undisturbed
    assert 0 < len(calls) <= 24 - 9


@pytest.mark.usefixtures("whole")
def test_another_seed_in_the_same_folder_raises(made, bundle, data):
    with pytest.raises(UsageError, match="another bundle or other settings"):
        run(bundle, data, made / "whole", corruptions=KINDS, seed=1)


def test_a_damaged_file_is_reported_and_the_others_continue(bundle, data, tmp_path):
    (data / "03.png").write_bytes(b"no image")
    result = run(bundle, data, tmp_path / "out", max_images=None)
    assert [failure["run"] for failure in result["failed"]] == ["03.png"]
    assert str(tmp_path) not in result["failed"][0]["reason"]
    assert result["facts"]["Images"] == "23, 1 failed"


def test_a_few_images_give_metrics_without_intervals(bundle, data, tmp_path):
    result = run(bundle, data, tmp_path / "out", max_images=6)
    assert rows_of(result)["jpeg", 1]["auroc"]["ci_low"] is None
    assert any("fewer than 10 groups" in sentence for sentence in result["not_done"])


def test_no_evaluated_case_raises(bundle, data, tmp_path, monkeypatch):
    def fail(*_):
        raise InputError("The file is damaged", "Files must be complete", "Repair the file")

    monkeypatch.setattr(predict_corrupted, "corrupted_versions", fail)
    with pytest.raises(InputError, match="None of the 24 images can be evaluated"):
        run(bundle, data, tmp_path / "out")


def test_an_unknown_corruption_raises_before_any_work(bundle, data, tmp_path):
    with pytest.raises(UsageError, match="Did you mean 'noise'"):
        robustness(bundle, Manifest.open(data, labels=LABELS), tmp_path / "out", RobustnessOptions(corruptions=("nois",)))
    assert not (tmp_path / "out").exists()


def test_images_outside_the_scope_are_left_out(bundle, data, tmp_path):
    limited = replace(Bundle.load(bundle), scope=Scope(modality="MR"))
    rows = list(csv.DictReader((data / "manifest.csv").read_text().splitlines()))
    for i, row in enumerate(rows):
        gray = np.asarray(Picture.open(data / row["path"]), np.float32)
        row["path"], row["unit"] = f"{i:02d}.npy", "hu" if i < 4 else "mr"
        np.save(data / row["path"], np.where(gray > 0, gray / 4, -1000) if i < 4 else gray)
    with (data / "manifest.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    result = run(limited, data, tmp_path / "out")
    reason = "The image is refused: the file is CT, and the model is for MR of the head"
    assert result["failed"] == [{"run": f"{i:02d}.npy", "reason": reason} for i in range(4)]
    assert {row["accuracy"]["n"] for row in rows_of(result).values()} == {20}
