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
from reslink.errors import GateError, InputError, UsageError
from reslink.evaluation.compare import Judgement, compare, names_of
from reslink.imaging.preprocess import Preprocess
from reslink.labels import Labels
from reslink.networks.reslink import ResLinkConfig, build
from reslink.reports.compare import comparison_report

NAMES = ("Healthy", "Tumor")


def judgement(rng, name, noise, *, names=NAMES, n=120, seed=5, label=None, leakage="none found"):
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
    return Judgement(name, evaluation, rows)


def test_a_clear_difference_is_found_and_corrected_for_all_tests(rng):
    found = compare([judgement(rng, "good", 0.8), judgement(rng, "bad", 3.0), judgement(rng, "worse", 4.0)])
    assert [(pair["a"], pair["b"]) for pair in found["comparisons"]] == [("good", "bad"), ("good", "worse"), ("bad", "worse")]
    tests = [test for pair in found["comparisons"] for test in pair["tests"]]
    assert [test["figure"] for test in tests[:4]] == ["auroc", "accuracy", "sensitivity", "specificity"]
    smallest = min(tests, key=lambda test: test["p_value"])
    assert smallest["p_holm"] == pytest.approx(smallest["p_value"] * len(tests))
    first = found["comparisons"][0]
    metrics = [found["models"][name]["metrics"]["auroc"]["estimate"] for name in ("good", "bad")]
    assert first["differences"]["auroc"]["estimate"] == pytest.approx(metrics[0] - metrics[1])
    assert first["tests"][0]["difference"] == pytest.approx(metrics[0] - metrics[1])
    assert first["differences"]["auroc"]["ci_low"] > 0
    json.dumps(found, allow_nan=False)


def test_the_same_model_twice_differs_in_nothing(rng):
    one = judgement(rng, "a", 2.0)
    found = compare([one, Judgement("b", one.evaluation, one.rows)])
    assert {test["p_value"] for test in found["comparisons"][0]["tests"]} == {1.0}
    assert found["comparisons"][0]["differences"]["accuracy"]["estimate"] == 0


def test_only_common_cases_count_and_the_others_are_named(rng):
    a, b = judgement(rng, "a", 1.0), judgement(rng, "b", 1.0)
    del a.rows["3.png"], b.rows["7.png"]
    found = compare([a, b])
    assert found["n"] == 118
    assert found["left_out"] == {"7.png": {"b": "not judged"}, "3.png": {"a": "not judged"}}


def test_classes_in_another_order_are_put_right(rng):
    names = ("x", "y", "z")
    a = judgement(rng, "a", 1.0, names=names)
    b = Judgement("b", {**a.evaluation, "labels": ["z", "x", "y"]}, a.rows)
    found = compare([a, b])
    assert found["comparisons"][0]["differences"]["auroc"]["estimate"] == 0
    assert [test["figure"] for test in found["comparisons"][0]["tests"]] == ["auroc", "accuracy"]


def test_what_cannot_be_compared_is_refused(rng):
    a = judgement(rng, "a", 1.0)
    with pytest.raises(UsageError, match=r"a knows the classes Healthy, Tumor, b x, y.*Compare bundles of one task"):
        compare([a, judgement(rng, "b", 1.0, names=("x", "y"))])
    with pytest.raises(InputError, match="No case was judged by all"):
        compare([a, Judgement("b", a.evaluation, {})])
    with pytest.raises(InputError, match="has another true class"):
        compare([a, judgement(rng, "b", 1.0, label="Tumor")])


def test_leaked_cases_are_said_on_every_figure(rng):
    found = compare([judgement(rng, "a", 1.0), judgement(rng, "b", 1.0, leakage="allowed")])
    assert all(gap["leakage"] for gap in found["comparisons"][0]["differences"].values())
    assert found["models"]["a"]["metrics"]["auroc"]["leakage"]


def test_names_are_short_and_different(tmp_path):
    assert names_of([tmp_path / "a" / "bundle", tmp_path / "b"]) == ["a", "b"]
    assert names_of([tmp_path / "x" / "seed0", tmp_path / "y" / "seed0" / "bundle"]) == ["x-seed0", "y-seed0"]
    with pytest.raises(UsageError, match="2 bundles were given, 1 of them different"):
        names_of([tmp_path / "a", tmp_path / "a" / "bundle"])
    with pytest.raises(UsageError, match="takes two different bundles or more"):
        names_of([tmp_path / "a"])


def test_a_broken_folder_is_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot be compared.*Evaluate again"):
        Judgement.read("a", tmp_path)
    with pytest.raises(InputError, match=r"comparison.json cannot be used.*Compare again"):
        comparison_report(tmp_path)


def write_bundle(folder, seed):
    config = ResLinkConfig(stem_dim=8, dims=(8, 16), depths=(1, 1), in_channels=1)
    state = build(config, seed=seed).state_dict()
    state["head.1.weight"] *= 30
    made = Bundle({"name": "tiny", **config.model_dump(mode="json")}, Preprocess(size=64, channels=1), Labels(NAMES))
    return made.save(folder / "bundle", state).folder


@pytest.fixture
def study(tmp_path, rng):
    """Two small bundles and a folder of 24 pictures, one of which cannot be read."""
    root = tmp_path / "data"
    for i in range(24):
        folder = root / NAMES[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        grey = np.kron(rng.integers(0, 200, (12, 12)), np.ones((8, 8)))
        Picture.fromarray(grey.astype(np.uint8)).save(folder / f"{i:02d}.png")
    (root / "Healthy" / "00.png").write_bytes(b"not an image")
    return [str(write_bundle(tmp_path / name, seed)) for seed, name in enumerate(("first", "second"))], root


def test_bundles_are_compared_from_the_command_line(study, tmp_path):
    bundles, data = study
    out = tmp_path / "compared"
    done = CliRunner().invoke(app, ["compare", *bundles, "--data", str(data), "--out", str(out), "--json", "--device", "cpu"])
    assert done.exit_code == 1, "one file cannot be read"
    assert "00.png is left out: first: " in done.stderr
    found = json.loads(done.stdout)
    assert found == json.loads((out / "comparison.json").read_text())
    assert list(found["models"]) == ["first", "second"]
    assert found["n"] == 23
    assert list(found["models"]["first"]["failed"]) == list(found["left_out"]) == ["Healthy/00.png"]
    assert sorted(entry.name for entry in out.iterdir()) == ["comparison.json", "figures", "first", "report.html", "second"]
    with (out / "first" / "predictions.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == 23
    page = (out / "report.html").read_text()
    assert "Research use only" in page
    assert "<script" not in page
    again = CliRunner().invoke(app, ["compare", *bundles, "--data", str(data), "--out", str(out)])
    assert again.exit_code == 2
    assert "holds a comparison already" in again.stderr


def test_other_classes_are_refused_before_anything_is_judged(study, tmp_path):
    bundles, data = study
    other = json.loads((Path(bundles[1]) / "bundle.json").read_text())
    (Path(bundles[1]) / "bundle.json").write_text(json.dumps(other | {"labels": ["no", "yes"]}))
    done = CliRunner().invoke(app, ["compare", *bundles, "--data", str(data), "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "first knows the classes Healthy, Tumor, second no, yes" in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()


def test_the_bundle_that_a_gate_refuses_is_named(study, tmp_path, monkeypatch):
    def refuse(bundle, *_words, **_more):
        raise GateError("All 24 images are linked", "Others are allowed", "Give other data")

    bundles, data = study
    monkeypatch.setattr("reslink.evaluation.compare.evaluate_bundle", refuse)
    done = CliRunner().invoke(app, ["compare", *bundles, "--data", str(data)])
    assert done.exit_code == 3
    assert "first: All 24 images are linked" in " ".join(done.stderr.split())


def test_one_class_alone_gives_reasons_and_not_dashes(study, tmp_path):
    bundles, data = study
    for file in (data / "Tumor").iterdir():
        file.unlink()
    rows = [f"Healthy/{file.name},Healthy" for file in sorted((data / "Healthy").iterdir())[1:]]
    (data / "manifest.csv").write_text("\n".join(["path,label", *rows]))
    done = CliRunner().invoke(app, ["compare", *bundles, "--data", str(data), "--device", "cpu"])
    line = next(line for line in done.stdout.splitlines() if line.startswith("AUROC"))
    assert "all cases are of 'Healthy'" in line or "there is no case of 'Tumor'" in line, done.stdout + done.stderr


def test_without_a_folder_only_the_table_is_written(study, tmp_path):
    bundles, data = study
    done = CliRunner().invoke(app, ["compare", *bundles, "--data", str(data), "--device", "cpu"])
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert lines[0].split("\t")[:4] == ["figure", "first", "second", "difference"]
    assert any(line.startswith("accuracy\t") and "\tMcNemar\t" in line for line in lines)
    assert "Research use only" in done.stderr
