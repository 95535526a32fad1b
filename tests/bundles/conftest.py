"""A small bundle, new for each test, and changes to its files."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.decision import Decision
from reslink.datasets.phantom.cohort import render_slice
from reslink.datasets.phantom.tissue import Sequence
from reslink.files import sha256
from reslink.imaging.image import Image
from reslink.imaging.input_statistics import input_statistics
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


@pytest.fixture(scope="session")
def head_statistics() -> Callable[..., np.ndarray]:
    """Returns the input statistics of pictures of synthetic heads, windowed as pictures are."""

    def statistics(*sequences: Sequence, size: int = 192, patients: int = 3) -> np.ndarray:
        rows = []
        for sequence in sequences:
            for index in range(1, patients + 1):
                values = render_slice(7, index, level=15.0, sequence=sequence, size=256).pixels
                low, high = (0, 80) if sequence == "CT" else np.percentile(values, (1, 99.7))
                gray = np.clip((values - low) / (high - low), 0, 1) * 255
                picture = Image(gray.astype(np.float32), "gray", white=255.0)
                rows.append(Preprocess(size=size).pixels(picture))
        return input_statistics(np.stack(rows))

    return statistics
