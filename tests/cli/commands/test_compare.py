"""``reslink compare``: two bundles on one data set."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture
from typer.testing import CliRunner

from reslink.bundles.bundle import Bundle
from reslink.cli.main import app
from reslink.errors import CheckFailedError
from reslink.imaging.preprocess import Preprocess
from reslink.labels import Labels
from reslink.networks.reslink import ResLinkConfig, build_network

NAMES = ("Healthy", "Tumor")


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
