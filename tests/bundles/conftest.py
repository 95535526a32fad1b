"""A small bundle, new for each test, and changes to its files."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.decision import Decision
from reslink.files import sha256
from reslink.imaging.preprocess import Preprocess
from reslink.labels import Labels
from reslink.networks.reslink import ResLink, ResLinkConfig, build_network

TINY = ResLinkConfig(stem_dim=8, dims=(8, 8), depths=(1, 1), in_channels=1)


@pytest.fixture
def network() -> ResLink:
    return build_network(TINY, seed=0).eval()


@pytest.fixture
def bundle() -> Bundle:
    return Bundle(
        architecture={"name": "reslink_small", **TINY.model_dump(mode="json")},
        preprocess=Preprocess(size=64, channels=1),
        labels=Labels(("Healthy", "Tumor")),
        decision=Decision(),
        metrics={},
        provenance={"license": "CC BY-NC-SA 4.0", "data": {"name": "ct", "digest": "ab" * 32}, "seed": 0},
    )


@pytest.fixture
def saved(bundle, network, tmp_path) -> Bundle:
    return bundle.save(tmp_path / "bundle", network.state_dict())


@pytest.fixture
def rewrite() -> Callable[..., None]:
    """Changes bundle.json on disk."""

    def rewrite(folder: Path, change: Callable[[dict], object]) -> None:
        value = json.loads((folder / "bundle.json").read_text())
        change(value)
        (folder / "bundle.json").write_text(json.dumps(value))

    return rewrite


@pytest.fixture
def replace_weights(rewrite: Callable[..., None]) -> Callable[..., None]:
    """Replaces the weights, with a matching checksum."""

    def replace(folder: Path, content: bytes) -> None:
        (folder / "model.safetensors").write_bytes(content)
        rewrite(folder, lambda value: value["weights"].update(sha256=sha256(content), bytes=len(content)))

    return replace
