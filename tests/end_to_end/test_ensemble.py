"""The ensemble of a cross-validation, from training to serving, as any other bundle; with and without flip averaging."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner, Result

import reslink
from reslink.bundles.bundle import Bundle
from reslink.cli.main import app
from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort
from reslink.errors import UsageError
from reslink.serving.http.app import Settings, create_app

pytestmark = pytest.mark.slow

SETTINGS: dict[str, Any] = {
    "model.variant": "reslink_small",
    "preprocess.size": 64,
    "preprocess.channels": 1,
    "trainer.workers": 0,
    "trainer.device": "cpu",
    "trainer.batch_size": 8,
    "trainer.epochs": 1,
    "diagnostics.images": 8,
}


def invoke(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cohort(tmp_path_factory.mktemp("heads") / "heads", PhantomSettings(patients=30, slices=2, size=128, seed=3))


@pytest.fixture(scope="module")
def image(heads: Path) -> Path:
    return sorted((heads / "images").rglob("*.png"))[0]


@pytest.fixture(scope="module")
def ensemble(heads: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a cross-validation through the command."""
    out = tmp_path_factory.mktemp("cv") / "cv"
    sets = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    done = invoke("cv", heads, "--out", out, "--folds", "3", "--holdout", "0.2", "--jobs", "1", *sets, "--json")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["bundle"] == str(out / "bundle")
    assert result["distilled"] is None
    return out / "bundle"


@pytest.fixture(scope="module")
def flipped(ensemble: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same bundle with flip averaging, fitted to other heads."""
    other = make_cohort(tmp_path_factory.mktemp("other") / "heads", PhantomSettings(patients=24, slices=1, size=128, seed=9))
    out = tmp_path_factory.mktemp("flipped") / "bundle"
    done = invoke("calibrate", ensemble, other, "--flip-average", "--no-sets", "--out", out, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["decision"]["flip_average"] is True
    return out


@pytest.fixture(params=["ensemble", "flipped"])
def bundle(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(request.param)
    return folder


def test_predict_without_torch_and_serve(
    bundle: Path, image: Path, predict_without_torch: Callable[..., dict[str, float]]
) -> None:
    [expected] = reslink.predict(bundle, image, backend="torch")
    assert predict_without_torch(bundle, image) == pytest.approx(expected.probabilities, abs=1e-4)
    files = [("files", (image.name, image.read_bytes(), "image/png"))]
    with TestClient(create_app(Settings((str(bundle),))), base_url="http://localhost") as client:
        [answer] = client.post("/v1/predict", files=files).json()["files"]
        [explained] = client.post("/v1/explain", files=files).json()["files"]
    assert answer["answers"][0]["slices"][0]["probabilities"] == pytest.approx(expected.probabilities, abs=1e-4)
    for name in ("class_activation", "final_attention"):
        assert name in json.dumps(explained)


def test_explain_draws_every_map(ensemble: Path, image: Path, tmp_path: Path) -> None:
    methods = ("first_attention", "final_attention", "grad_cam", "integrated_gradients")
    [explanation] = reslink.explain(ensemble, image, tmp_path / "explained", methods=methods)
    assert set(explanation.methods or {}) == set(methods)


@pytest.mark.parametrize(("name", "form"), [("flipped", "onnx"), ("ensemble", "torch-export")])
def test_export_agrees(request: pytest.FixtureRequest, name: str, form: str, tmp_path: Path) -> None:
    bundle: Path = request.getfixturevalue(name)
    exported = invoke("export", bundle, "--format", form, "--images", "2", "--out", tmp_path / form)
    assert exported.exit_code == 0, exported.stderr
    files = json.loads((tmp_path / form / "parity.json").read_text())
    assert "labels" in json.dumps(files)


def test_formats_of_the_network_alone_are_refused(flipped: Path, ensemble: Path, tmp_path: Path) -> None:
    for folder, message in ((flipped, "averages over mirror images"), (ensemble, "The network of the bundle is ensemble")):
        refused = invoke("export", folder, "--format", "monai", "--out", tmp_path / "monai")
        assert refused.exit_code == 2
        assert message in " ".join(refused.stderr.split())


def test_evaluate_leaves_out_the_folds(ensemble: Path, tmp_path: Path) -> None:
    table = ensemble.parent / "split.csv"
    done = invoke("evaluate", ensemble, table, "--split", "holdout", "--out", tmp_path / "evaluated", "--json")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["n"], result["n_excluded"]) == (12, 0)
    everything = reslink.evaluate(ensemble, table, tmp_path / "all")
    assert (everything["n"], everything["n_excluded"]) == (12, 48)


def test_flip_averaging_is_the_mean_of_both_images(ensemble: Path, flipped: Path, image: Path) -> None:
    plain = reslink.Classifier.load(ensemble, device="cpu", backend="torch")
    pixels = plain.bundle.preprocess.pixels(reslink.read_image(image))[None]
    mirrored = np.ascontiguousarray(pixels[..., ::-1])
    decision = plain.bundle.decision.model_copy(update={"temperature": 1.0})
    each = [decision.probabilities(plain.logits(x)) for x in (pixels, mirrored)]
    assert not np.allclose(each[0], each[1], atol=1e-6)
    for backend in ("torch", "onnxruntime"):
        averaged = reslink.Classifier.load(flipped, device="cpu", backend=backend)
        for x in (pixels, mirrored):
            np.testing.assert_allclose(decision.probabilities(averaged.logits(x)), np.mean(each, axis=0), atol=1e-5)


def test_calibrate_keeps_flip_averaging_unless_told(flipped: Path, heads: Path, tmp_path: Path) -> None:
    for option, expected in (((), True), (("--no-flip-average",), False)):
        out = tmp_path / f"new{expected}"
        done = invoke("calibrate", flipped, heads, "--allow-leakage", "--no-sets", "--no-ood", *option, "--out", out)
        assert done.exit_code == 0, done.stderr
        assert Bundle.load(out).decision.flip_average is expected


def test_a_recipe_can_ask_for_flip_averaging(
    heads: Path, image: Path, tmp_path: Path, predict_without_torch: Callable[..., dict[str, float]]
) -> None:
    settings = SETTINGS | {"decision.flip_average": True, "decision.threshold": "youden"}
    run = reslink.train(heads, tmp_path / "run", settings=settings)
    assert Bundle.load(run["bundle"]).decision.flip_average
    assert "mean probability of the image and its mirror image" in (tmp_path / "run" / "bundle" / "MODEL_CARD.md").read_text()
    [expected] = reslink.predict(run["bundle"], image, backend="torch")
    assert predict_without_torch(run["bundle"], image) == pytest.approx(expected.probabilities, abs=1e-4)


def test_the_dicom_node_accepts_an_ensemble(bundle: Path) -> None:
    from reslink.serving.dicom.classify import load_model

    assert load_model(str(bundle)).map_name == "final_attention"


def test_an_ensemble_is_no_parent(ensemble: Path, heads: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is an ensemble of 3 networks.*A parent is a single network"):
        reslink.train(heads, tmp_path / "child", init=ensemble)


def test_bad_options_of_cv_are_usage_errors(heads: Path, tmp_path: Path) -> None:
    for words, message in (
        (("--folds", "40"), "For 40 folds each class needs at least 40 groups"),
        (("--folds", "2"), "Invalid value for '--folds'"),
        (("--holdout", "0.8"), "The hold-out is 0.8. Its share is between 0 and 0.5. Use --holdout 0.15"),
        (("--folds", "12", "--holdout", "0.4"), "Outside a hold-out of 0.4, the class 'Healthy' has"),
    ):
        done = invoke("cv", heads, "--out", tmp_path / "out", "--set", "preprocess.size=64", *words)
        assert done.exit_code == 2, done.stderr
        assert message in " ".join(done.stderr.replace("│", " ").split()), done.stderr
