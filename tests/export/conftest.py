"""Small bundles of every kind that is exported, images of every kind, and the check of an export."""

from __future__ import annotations

import contextlib
import importlib
import json
import socket
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.calibration import IsotonicCurve
from reslink.bundles.decision.decision import Decision
from reslink.export import parity
from reslink.export.folder import export
from reslink.export.parity import Inputs
from reslink.files import sha256
from reslink.imaging.image import Image
from reslink.imaging.preprocess import Preprocess
from reslink.labels import Labels
from reslink.networks.build import build_network as build_any_network
from reslink.networks.reslink import build_network, variant_config

with warnings.catch_warnings(), contextlib.suppress(ImportError):  # MONAI takes ignite for missing where its import warns
    warnings.simplefilter("ignore")
    importlib.import_module("monai.engines")

COMMON = {"manifest.json", "parity.json", "labels.json", "LICENSE.txt", "MODEL_CARD.md", "preprocess_reference.py"}


@pytest.fixture(scope="session")
def make_saved(tmp_path_factory):
    """Returns a function that saves a bundle of a variant, its norms and gates far from where they start."""

    def make(variant="reslink_small", names=("Healthy", "Tumor"), preprocess=None, **changes):
        preprocess = preprocess or Preprocess(size=64)
        small = {"stem_dim": 8, "dims": (8, 16), "depths": (1, 1), "in_channels": preprocess.channels}
        config = variant_config(variant, **{"num_classes": len(names), **small, **changes})
        state = build_network(config, seed=1).state_dict()
        rng = np.random.default_rng(0)
        for name, value in state.items():
            if "norm" in name and value.is_floating_point():  # a norm that does nothing would hide a wrong fold
                low, high = (0.5, 2.0) if name.endswith(("weight", "var")) else (-0.5, 0.5)
                value.copy_(value.new_tensor(rng.uniform(low, high, value.shape)))
        state["stem.norm.weight"][0] *= -1  # a falling norm cannot be drawn in front of the pooling
        state["head.1.weight"] *= 30
        bundle = Bundle(
            {"name": variant, **config.model_dump(mode="json")},
            preprocess,
            Labels(names),
            Decision.default(len(names)),
            provenance={"seed": 1},
        )
        return bundle.save(tmp_path_factory.mktemp("bundle") / "bundle", state)

    return make


@pytest.fixture(scope="session")
def some_images() -> list[Image]:
    """Slices of every unit and many sizes, with all that a reader may find: padding, MONOCHROME1, 8 bits, nothing at all."""
    rng = np.random.default_rng(7)
    heads = parity.synthetic_heads(2)
    images = [*heads, replace(heads[1], inverted=True)]
    for height, width in ((64, 64), (37, 91), (130, 66), (257, 200)):
        y, x = np.mgrid[:height, :width]
        inside = ((y - height / 2) / (0.4 * height)) ** 2 + ((x - width / 2) / (0.3 * width)) ** 2 < 1
        picture = inside * rng.integers(60, 250, (height, width))
        images.append(Image(picture.astype(np.float32), unit="gray", white=255.0))
        images.append(Image((picture * 7.3 + rng.random((height, width))).astype(np.float32), unit="MR"))
        padding = np.zeros((height, width), bool)
        padding[:9] = True
        images.append(Image(np.where(inside, picture - 100.0, -1000).astype(np.float32), unit="HU", padding=padding))
    return [*images, Image(np.full((70, 70), 5, np.float32), unit="gray", white=255.0)]


@pytest.fixture(scope="session")
def saved(make_saved: object) -> Bundle:
    """A bundle whose percentiles, threshold and temperature are not exact in float32."""
    bundle = make_saved(preprocess=Preprocess(size=64, channels=1, percentiles=(0.5, 99.5)))  # type: ignore[operator]
    curve = IsotonicCurve(before=(0, 1), after=(0.05, 0.9))
    return bundle.with_decision(Decision(threshold=0.22415658558997892, temperature=0.7791226430913547, isotonic=(curve,)))


@pytest.fixture(scope="session")
def saved_series(tmp_path_factory) -> Bundle:
    """A bundle whose cases are series. Its pooling is far from where it starts, so that slices weigh differently."""
    config = variant_config("reslink_small", stem_dim=8, dims=(8, 16), depths=(1, 1), in_channels=1)
    state = build_any_network(config, 1, case="series").state_dict()
    state["head.1.weight"] *= 30
    for name in ("pooling.value.weight", "pooling.gate.weight", "pooling.score.weight"):
        state[name] *= 30
    architecture = {"name": "reslink_small", **config.model_dump(mode="json"), "case": "series"}
    decision = Decision(threshold=0.22415658558997892, temperature=0.7791226430913547)
    bundle = Bundle(architecture, Preprocess(size=64, channels=1), Labels(("Healthy", "Tumor")), decision)
    return bundle.save(tmp_path_factory.mktemp("bundle") / "bundle", state)


@pytest.fixture(scope="session")
def heads(some_images: list[Image]) -> Inputs:
    return Inputs(tuple(some_images[:6]), "six drawn heads")


@pytest.fixture
def check_export(saved: Bundle, heads: Inputs, tmp_path: Path) -> Callable[[str, set[str]], Path]:
    """Exports a bundle in a format, checks the folder with the files of the format, and returns it."""

    def check(form: str, own_files: set[str]) -> Path:
        report = export(saved, form, tmp_path / "out", heads)
        assert {path.name for path in (tmp_path / "out").iterdir()} == COMMON | own_files
        assert json.loads((tmp_path / "out" / "parity.json").read_text()) == report
        for result in report["files"].values():
            assert (result["images"], result["labels"]) == (6, 0)
            assert result["probabilities"] <= report["tolerance"] == 1e-5
            assert result["pixels"] in (0, None)
        manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
        assert all(sha256(tmp_path / "out" / name) == entry["sha256"] for name, entry in manifest["files"].items())
        assert manifest["labels"] == ["Healthy", "Tumor"]
        assert manifest["scope"] == saved.scope.model_dump(mode="json")
        assert "refusal of images outside the scope" in manifest["not_exported"]
        assert manifest["opset"] == (18 if form in ("onnx", "openvino") else None)
        assert set(manifest["steps"]) == {*report["files"]}
        assert "research use only" in manifest["research_use_only"].lower()
        assert "License of the weights: not stated" in (tmp_path / "out" / "LICENSE.txt").read_text()
        _check_no_machine(tmp_path / "out", str(saved.folder))
        return tmp_path / "out"

    return check


def _check_no_machine(out: Path, folder: str) -> None:
    secrets = [folder, str(Path(__file__).parents[2]), str(Path.home()), socket.gethostname()]
    for path in (path for path in out.rglob("*") if path.is_file()):
        contents = [path.read_bytes()]
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                contents += [archive.read(name) for name in archive.namelist()]
        for secret in (secret for secret in secrets if len(secret) > 5):
            assert not any(secret.encode() in content for content in contents), (path.name, secret)
