"""A small bundle, new for each test."""

import pytest

from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.decision import Decision
from reslink.imaging.preprocess import Preprocess
from reslink.labels import Labels
from reslink.networks.reslink import ResLink, ResLinkConfig, build

TINY = ResLinkConfig(stem_dim=8, dims=(8, 8), depths=(1, 1), in_channels=1)


@pytest.fixture
def network() -> ResLink:
    return build(TINY, seed=0).eval()


@pytest.fixture
def bundle() -> Bundle:
    return Bundle(
        architecture={"name": "reslink_small", **TINY.model_dump(mode="json")},
        preprocess=Preprocess(size=64, channels=1),
        labels=Labels(("Healthy", "Tumor")),
        decision=Decision(),
        metrics={},
        provenance={"licence": "CC BY-NC-SA 4.0", "data": {"name": "ct", "digest": "ab" * 32}, "seed": 0},
    )


@pytest.fixture
def saved(bundle, network, tmp_path) -> Bundle:
    return bundle.save(tmp_path / "bundle", network.state_dict())
