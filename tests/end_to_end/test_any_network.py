"""Networks that are not a ResLink, from training to serving: MONAI's, the notebook's, and your own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fastapi.testclient import TestClient
from torch import Tensor, nn
from typer.testing import CliRunner, Result

import reslink
from reslink.bundles.bundle import Bundle
from reslink.cli.main import app
from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort
from reslink.errors import BundleError, UsageError
from reslink.serving.http.app import Settings, create_app

SETTINGS: dict[str, Any] = {
    "preprocess.size": 64,
    "preprocess.channels": 1,
    "trainer.workers": 0,
    "trainer.device": "cpu",
    "trainer.batch_size": 8,
    "trainer.epochs": 1,
    "diagnostics.images": 8,
}
OWN = """
from pathlib import Path

from torch import nn

with Path(__file__).with_name("was_run").open("a") as stream:
    stream.write("x")


class Small(nn.Module):
    def __init__(self, in_channels, num_classes, width=8):
        super().__init__()
        self.first = nn.Conv2d(in_channels, width, 3, stride=4, padding=1)
        self.second = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.activation = nn.ReLU()
        self.out = nn.Linear(2 * width, num_classes)

    def forward(self, x):
        x = self.activation(self.second(self.activation(self.first(x))))
        return self.out(x.mean((2, 3)))


class Pair(Small):
    def forward(self, x):
        return super().forward(x), x
"""


def invoke(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cohort(tmp_path_factory.mktemp("heads") / "heads", PhantomSettings(patients=12, slices=2, size=128, seed=3))


@pytest.fixture(scope="module")
def image(heads: Path) -> Path:
    return sorted((heads / "images").rglob("*.png"))[0]


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    (tmp_path / "code").mkdir()
    path = tmp_path / "code" / "nets.py"
    path.write_text(OWN)
    return path


@pytest.fixture(scope="module")
def own_run(heads: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a network from a file, through the command."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "nets.py").write_text(OWN)
    settings = {**SETTINGS, "model.options.width": 4}
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    done = invoke("train", heads, "--out", folder / "run", "--network", f"{folder}/nets.py:Small", *words)
    assert done.exit_code == 0, done.stderr
    (folder / "nets.py").unlink()  # what comes next does not need it
    assert (folder / "was_run").read_text() == "x", "training runs the code once"
    (folder / "was_run").unlink()
    return folder / "run"


def test_densenet121_of_monai_from_training_to_serving(
    heads: Path, image: Path, tmp_path: Path, predict_without_torch: Callable[..., dict[str, float]]
) -> None:
    run = reslink.train(heads, tmp_path / "run", network="densenet121", settings=SETTINGS)
    assert {"accuracy", "auroc"} <= set(run["metrics"])
    bundle = Bundle.load(run["bundle"])
    assert bundle.architecture["name"] == "densenet121"
    assert bundle.architecture["package"].startswith("monai==")

    assert reslink.evaluate(run["bundle"], heads, tmp_path / "evaluated", allow_leakage=True)["n"] > 0

    [explanation] = reslink.explain(run["bundle"], image, tmp_path / "explained", methods=("final_attention", "grad_cam"))
    assert list(explanation.methods or {}) == ["grad_cam"], "DenseNet has no area attention"

    exported = invoke("export", run["bundle"], "--format", "torch-export", "--images", "2", "--out", tmp_path / "exported")
    assert exported.exit_code == 0, exported.stderr

    [expected] = reslink.predict(run["bundle"], image, backend="torch")
    assert predict_without_torch(run["bundle"], image) == pytest.approx(expected.probabilities, abs=1e-4)

    files = [("files", (image.name, image.read_bytes(), "image/png"))]
    with TestClient(create_app(Settings((run["bundle"],))), base_url="http://localhost") as client:
        [answer] = client.post("/v1/predict", files=files).json()["files"]
        [explained] = client.post("/v1/explain", files=files).json()["files"]
    assert answer["answers"][0]["slices"][0]["probabilities"] == pytest.approx(expected.probabilities, abs=1e-4)
    assert "class_activation" in json.dumps(explained)


def test_a_network_of_your_own_from_a_file(
    own_run: Path,
    heads: Path,
    image: Path,
    own_file: Path,
    tmp_path: Path,
    predict_without_torch: Callable[..., dict[str, float]],
) -> None:
    bundle = Bundle.load(own_run)
    assert bundle.architecture["entry_point"] == "nets.py:Small"
    assert bundle.architecture["options"] == {"width": 4}
    config = yaml.safe_load((own_run / "config.yaml").read_text())
    assert config["model"]["entry_point"] == "nets.py:Small", "no path of this machine"

    evaluated = reslink.evaluate(own_run, heads, tmp_path / "evaluated", allow_leakage=True)
    assert (evaluated["n"], evaluated["localization"]) == (24, {})
    with_code = reslink.evaluate(own_run, heads, tmp_path / "with_code", allow_leakage=True, network=f"{own_file}:Small")
    assert with_code["metrics"] == evaluated["metrics"]
    assert "grad_cam" in with_code["localization"]["methods"]
    probabilities = predict_without_torch(own_run, image)

    without = invoke("explain", own_run, image, "--out", tmp_path / "explained")
    assert without.exit_code == 2
    assert "Pass nets.py:Small with --network" in " ".join(without.stderr.split())
    code = f"{own_file}:Small"
    explained = invoke("explain", own_run, image, "--out", tmp_path / "explained", "--network", code, "--json")
    assert explained.exit_code == 0, explained.stderr
    explanation = json.loads(explained.stdout.splitlines()[0])
    assert set(explanation["methods"]) == {"occlusion", "integrated_gradients", "grad_cam"}
    assert explanation["probabilities"] == pytest.approx(probabilities, abs=1e-4)

    with pytest.raises(UsageError, match="which is not part of reslink"):
        bundle.network()
    x = torch.rand(2, 1, 64, 64)
    own = Bundle.load(own_run, code).network()
    assert torch.equal(own(x), bundle.network(builder_of(own_file))(x))


def builder_of(own_file: Path) -> Any:
    from reslink.networks.entry_points import load_entry_point

    return load_entry_point(f"{own_file}:Small")


def test_a_bundle_never_runs_code(own_run: Path, image: Path, own_file: Path, tmp_path: Path) -> None:
    record = json.loads((own_run / "bundle" / "bundle.json").read_text())
    record["architecture"] |= {"entry_point": f"{own_file}:Small", "name": "nets.Small"}
    record["onnx"] = None
    for name in ("model.safetensors", "fingerprints.safetensors"):
        (tmp_path / "planted").mkdir(exist_ok=True)
        (tmp_path / "planted" / name).write_bytes((own_run / "bundle" / name).read_bytes())
    (tmp_path / "planted" / "bundle.json").write_text(json.dumps(record))
    planted = Bundle.load(tmp_path / "planted")
    for use in (
        planted.network,
        lambda: list(reslink.predict(tmp_path / "planted", image)),
        lambda: reslink.explain(tmp_path / "planted", image, tmp_path / "explained"),
        lambda: reslink.train(tmp_path, tmp_path / "child", init=tmp_path / "planted"),
    ):
        with pytest.raises(UsageError, match="which is not part of reslink"):
            use()
    assert not own_file.with_name("was_run").exists()
    Bundle.load(tmp_path / "planted", f"{own_file}:Small").network()
    assert own_file.with_name("was_run").exists(), "the marker shows that the code ran"


def test_an_option_in_a_bundle_cannot_load_weights(own_run: Path, tmp_path: Path) -> None:
    bundle = Bundle.load(own_run)
    architecture = {**bundle.architecture, "source": "monai", "name": "resnet18", "entry_point": None}
    for options, message in (({"pretrained": True}, "has no option 'pretrained'"), ({"widen_factor": 1e6}, "between")):
        planted = Bundle(architecture | {"options": options}, bundle.preprocess, bundle.labels)
        with pytest.raises(BundleError, match=message):
            planted.save(tmp_path / "planted", {})


def test_a_network_that_returns_a_tuple_is_refused_before_anything_is_written(
    heads: Path, own_file: Path, tmp_path: Path
) -> None:
    done = invoke("train", heads, "--out", tmp_path / "run", "--network", f"{own_file}:Pair")
    assert done.exit_code == 2
    assert "The network nets.Pair returns a tuple." in " ".join(done.stderr.split())
    assert not (tmp_path / "run").exists()


class Plain(nn.Module):
    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Conv2d(in_channels, 8, 3, stride=4)
        self.out = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.body(x).relu().mean((2, 3)))
        return logits


def test_a_module_is_trained_from_its_own_weights_and_fine_tuned(heads: Path, tmp_path: Path) -> None:
    module = Plain(1, 2)
    still = {**SETTINGS, "optimizer.lr": 1e-12, "trainer.ema": 0.0}
    run = reslink.train(heads, tmp_path / "run", network=module, settings=still)
    trained = Bundle.load(run["bundle"], module).network().state_dict()
    for name, value in module.state_dict().items():
        torch.testing.assert_close(trained[f"network.{name}"], value, atol=1e-6, rtol=0)

    child = reslink.train(
        heads, tmp_path / "child", network=Plain, init=tmp_path / "run", settings=still | {"data.allow_leakage": True}
    )
    record = json.loads((tmp_path / "child" / "init.json").read_text())
    assert record["taken_over"] == sorted(trained)
    tuned = Bundle.load(child["bundle"], Plain).network().state_dict()
    torch.testing.assert_close(tuned["network.body.weight"], trained["network.body.weight"], atol=1e-6, rtol=0)


def test_a_vision_transformer_has_gradients_instead_of_grad_cam(
    heads: Path,
    image: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    predict_without_torch: Callable[..., dict[str, float]],
) -> None:
    options = {"hidden_size": 24, "mlp_dim": 32, "num_layers": 1, "num_heads": 2}
    run = reslink.train(heads, tmp_path / "run", network="vit", settings=SETTINGS | {"model.options": options})
    gallery = json.loads((tmp_path / "run" / "figures" / "gallery.json").read_text())
    assert "Integrated gradients" in json.dumps(gallery)
    [explanation] = reslink.explain(run["bundle"], image, tmp_path / "explained")
    assert set(explanation.methods or {}) == {"occlusion", "integrated_gradients"}
    assert "The network has no layer for: Grad-CAM, Final attention α. The other maps are drawn." in caplog.text
    [expected] = reslink.predict(run["bundle"], image, backend="torch")
    assert predict_without_torch(run["bundle"], image) == pytest.approx(expected.probabilities, abs=1e-4)


def test_the_network_of_the_notebook_has_attention_maps_with_and_without_torch(
    heads: Path, image: Path, tmp_path: Path
) -> None:
    run = reslink.train(heads, tmp_path / "run", network="reslink_notebook", settings=SETTINGS)
    [explanation] = reslink.explain(
        run["bundle"], image, tmp_path / "explained", methods=("first_attention", "final_attention")
    )
    assert set(explanation.methods or {}) == {"first_attention", "final_attention"}
    names = reslink.Classifier.load(run["bundle"], backend="onnxruntime").backend.names  # type: ignore[attr-defined]
    assert {"cam", "first_attention", "final_attention"} <= set(names)
