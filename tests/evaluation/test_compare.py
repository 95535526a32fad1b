"""Comparison of evaluations, and of bundles from files to comparison.json."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture
from typer.testing import CliRunner

from reslink.bundles.bundle import Bundle
from reslink.cli.main import app
from reslink.errors import CheckFailedError, InputError, UsageError
from reslink.evaluation.compare import ModelEvaluation, compare, short_names
from reslink.imaging.preprocess import Preprocess
from reslink.labels import Labels
from reslink.networks.reslink import ResLinkConfig, build_network
from reslink.reports.compare import comparison_report

NAMES = ("Healthy", "Tumor")


def model(rng, name, noise, *, names=NAMES, n=120, seed=5, label=None, leakage="none found"):
    y_true = np.random.default_rng(seed).integers(0, len(names), n)
    logits = rng.normal(size=(n, len(names))) * noise
    logits[np.arange(n), y_true] += 1.5
    y_prob = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    rows = {}
    for i in range(n):
        rows[f"{i}.png"] = {
            "label": label or names[y_true[i]],
            "prediction": names[int(y_prob[i].argmax())],
            "group": str(i // 2),
            **{f"p_{k}": repr(float(p)) for k, p in zip(names, y_prob[i], strict=True)},
        }
    evaluation = {"labels": list(names), "leakage": {"status": leakage, "message": "so"}, "bundle_sha256": name}
    return ModelEvaluation(name, evaluation, rows)


def test_a_clear_difference_is_found_and_corrected_for_all_tests(rng):
    found = compare([model(rng, "good", 0.8), model(rng, "bad", 3.0), model(rng, "worse", 4.0)])
    assert [(pair["a"], pair["b"]) for pair in found["comparisons"]] == [("good", "bad"), ("good", "worse"), ("bad", "worse")]
    tests = [test for pair in found["comparisons"] for test in pair["tests"]]
    assert [test["metric"] for test in tests[:4]] == ["auroc", "accuracy", "sensitivity", "specificity"]
    smallest = min(tests, key=lambda test: test["p_value"])
    assert smallest["p_holm"] == pytest.approx(smallest["p_value"] * len(tests))
    first = found["comparisons"][0]
    metrics = [found["models"][name]["metrics"]["auroc"]["estimate"] for name in ("good", "bad")]
    assert first["differences"]["auroc"]["estimate"] == pytest.approx(metrics[0] - metrics[1])
    assert first["tests"][0]["difference"] == pytest.approx(metrics[0] - metrics[1])
    assert first["differences"]["auroc"]["ci_low"] > 0
    json.dumps(found, allow_nan=False)


def test_the_same_model_twice_differs_in_nothing(rng):
    one = model(rng, "a", 2.0)
    found = compare([one, ModelEvaluation("b", one.evaluation, one.rows)])
    assert {test["p_value"] for test in found["comparisons"][0]["tests"]} == {1.0}
    assert found["comparisons"][0]["differences"]["accuracy"]["estimate"] == 0


def test_only_common_cases_count_and_the_others_are_named(rng):
    a, b = model(rng, "a", 1.0), model(rng, "b", 1.0)
    del a.rows["3.png"], b.rows["7.png"]
    found = compare([a, b])
    assert found["n"] == 118
    assert found["excluded"] == {"7.png": {"b": "not evaluated"}, "3.png": {"a": "not evaluated"}}


def test_classes_in_another_order_are_put_right(rng):
    names = ("x", "y", "z")
    a = model(rng, "a", 1.0, names=names)
    b = ModelEvaluation("b", {**a.evaluation, "labels": ["z", "x", "y"]}, a.rows)
    found = compare([a, b])
    assert found["comparisons"][0]["differences"]["auroc"]["estimate"] == 0
    assert [test["metric"] for test in found["comparisons"][0]["tests"]] == ["auroc", "accuracy"]


def test_what_cannot_be_compared_is_refused(rng):
    a = model(rng, "a", 1.0)
    with pytest.raises(UsageError, match=r"a has Healthy, Tumor, b has x, y.*Compare bundles of one task"):
        compare([a, model(rng, "b", 1.0, names=("x", "y"))])
    with pytest.raises(InputError, match="No case was evaluated by all models"):
        compare([a, ModelEvaluation("b", a.evaluation, {})])
    with pytest.raises(InputError, match="disagree about the true class of"):
        compare([a, model(rng, "b", 1.0, label="Tumor")])


def test_allowed_leakage_marks_every_metric(rng):
    found = compare([model(rng, "a", 1.0), model(rng, "b", 1.0, leakage="allowed")])
    assert all(gap["leakage"] for gap in found["comparisons"][0]["differences"].values())
    assert found["models"]["a"]["metrics"]["auroc"]["leakage"]


def test_names_are_short_and_different(tmp_path):
    assert short_names([tmp_path / "a" / "bundle", tmp_path / "b"]) == ["a", "b"]
    assert short_names([tmp_path / "x" / "seed0", tmp_path / "y" / "seed0" / "bundle"]) == ["x-seed0", "y-seed0"]
    with pytest.raises(UsageError, match="2 bundles were given, 1 of them different"):
        short_names([tmp_path / "a", tmp_path / "a" / "bundle"])
    with pytest.raises(UsageError, match="needs at least two different bundles"):
        short_names([tmp_path / "a"])


def test_a_broken_folder_is_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot be compared.*Evaluate again"):
        ModelEvaluation.read("a", tmp_path)
    with pytest.raises(InputError, match=r"comparison.json cannot be used.*Compare again"):
        comparison_report(tmp_path)


def write_bundle(folder, seed):
    config = ResLinkConfig(stem_dim=8, dims=(8, 16), depths=(1, 1), in_channels=1)
    state = build_network(config, seed=seed).state_dict()
    state["head.1.weight"] *= 30
    made = Bundle({"name": "tiny", **config.model_dump(mode="json")}, Preprocess(size=64, channels=1), Labels(NAMES))
    return made.save(folder / "bundle", state).folder


@pytest.fixture
def comparison(tmp_path, rng):
    """Two small bundles and a folder of 24 pictures, one of which cannot be read."""
    root = tmp_path / "data"
    for i in range(24):
        folder = root / NAMES[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        grey = np.kron(rng.integers(0, 200, (12, 12)), np.ones((8, 8)))
        Picture.fromarray(grey.astype(np.uint8)).save(folder / f"{i:02d}.png")
    (root / "Healthy" / "00.png").write_bytes(b"not an image")
    return [str(write_bundle(tmp_path / name, seed)) for seed, name in enumerate(("first", "second"))], root


def test_bundles_are_compared_from_the_command_line(comparison, tmp_path):
    bundles, data = comparison
    out = tmp_path / "compared"
    done = CliRunner().invoke(app, ["compare", *bundles, "--data", str(data), "--out", str(out), "--json", "--device", "cpu"])
    assert done.exit_code == 1, "one file cannot be read"
    assert "00.png is skipped: first: " in done.stderr
    found = json.loads(done.stdout)
    assert found == json.loads((out / "comparison.json").read_text())
    assert list(found["models"]) == ["first", "second"]
    assert found["n"] == 23
    assert list(found["models"]["first"]["failed"]) == list(found["excluded"]) == ["Healthy/00.png"]
    assert sorted(entry.name for entry in out.iterdir()) == ["comparison.json", "figures", "first", "report.html", "second"]
    with (out / "first" / "predictions.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == 23
    page = (out / "report.html").read_text()
    assert "Research use only" in page
    assert "<script" not in page
    again = CliRunner().invoke(app, ["compare", *bundles, "--data", str(data), "--out", str(out)])
    assert again.exit_code == 2
    assert "already holds a comparison" in again.stderr


def test_other_classes_are_refused_before_any_evaluation(comparison, tmp_path):
    bundles, data = comparison
    other = json.loads((Path(bundles[1]) / "bundle.json").read_text())
    (Path(bundles[1]) / "bundle.json").write_text(json.dumps(other | {"labels": ["no", "yes"]}))
    done = CliRunner().invoke(app, ["compare", *bundles, "--data", str(data), "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "first has Healthy, Tumor, second has no, yes" in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()


def test_the_bundle_that_fails_the_leakage_check_is_named(comparison, tmp_path, monkeypatch):
    def refuse(bundle, *_words, **_more):
        raise CheckFailedError("All 24 images overlap", "Others are allowed", "Give other data")

    bundles, data = comparison
    monkeypatch.setattr("reslink.evaluation.compare.evaluate_bundle", refuse)
    done = CliRunner().invoke(app, ["compare", *bundles, "--data", str(data)])
    assert done.exit_code == 3
    assert "first: All 24 images overlap" in " ".join(done.stderr.split())


def test_one_class_alone_gives_reasons_and_not_dashes(comparison, tmp_path):
    bundles, data = comparison
    for file in (data / "Tumor").iterdir():
        file.unlink()
    rows = [f"Healthy/{file.name},Healthy" for file in sorted((data / "Healthy").iterdir())[1:]]
    (data / "manifest.csv").write_text("\n".join(["path,label", *rows]))
    done = CliRunner().invoke(app, ["compare", *bundles, "--data", str(data), "--device", "cpu"])
    line = next(line for line in done.stdout.splitlines() if line.startswith("AUROC"))
    assert "all cases are of 'Healthy'" in line or "there is no case of 'Tumor'" in line, done.stdout + done.stderr


def test_without_a_folder_only_the_table_is_written(comparison, tmp_path):
    bundles, data = comparison
    done = CliRunner().invoke(app, ["compare", *bundles, "--data", str(data), "--device", "cpu"])
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert lines[0].split("\t")[:4] == ["metric", "first", "second", "difference"]
    assert any(line.startswith("accuracy\t") and "\tMcNemar\t" in line for line in lines)
    assert "Research use only" in done.stderr
