"""A small classifier with random weights, and pictures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.decision import Decision
from reslink.export.onnx import to_onnx
from reslink.imaging.preprocess import Preprocess
from reslink.inference.classifier import Classifier
from reslink.labels import Labels
from reslink.networks.reslink import ResLinkConfig, build_network

TINY = {"stem_dim": 8, "dims": (8, 16), "depths": (1, 1)}


@pytest.fixture
def make_bundle(tmp_path):
    """Returns a function that writes a bundle for some classes and returns its folder."""

    def make(names=("Healthy", "Tumor"), num_classes=None, name="bundle", **changes):
        config = ResLinkConfig(num_classes=num_classes or len(names), **TINY)
        network = build_network(config, seed=1)
        state = network.state_dict()
        state["head.1.weight"] *= 30  # so that images differ in their probabilities
        fields = {"preprocess": Preprocess(size=64), "decision": Decision.default(len(names)), **changes}
        bundle = Bundle({"name": "tiny", **config.model_dump(mode="json")}, labels=Labels(names), **fields)
        return bundle.save(tmp_path / name, state).folder

    return make


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory) -> Path:
    """A bundle with its graph."""
    config = ResLinkConfig(**TINY)
    state = build_network(config, seed=1).state_dict()
    state["head.1.weight"] *= 30
    architecture = {"name": "tiny", **config.model_dump(mode="json")}
    bundle = Bundle(architecture, Preprocess(size=64), Labels(("Healthy", "Tumor")), Decision())
    saved = bundle.save(tmp_path_factory.mktemp("with_onnx") / "bundle", state)
    return saved.with_onnx(to_onnx(saved)).folder


@pytest.fixture
def classifier(make_bundle):
    return Classifier.load(make_bundle(), device="cpu")


@pytest.fixture
def pictures(tmp_path, rng):
    """Seven grey pictures of discs."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    y, x = np.mgrid[:90, :80]
    for i in range(7):
        disc = np.hypot(y - 45, x - 40) < 30
        grey = disc * (90 + 20 * i) + rng.integers(0, 40, (90, 80)) * disc
        Picture.fromarray(grey.astype(np.uint8)).save(folder / f"{i}.png")
    return sorted(folder.iterdir())
